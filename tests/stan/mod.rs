//! What has a meaning with NATS Streaming only: names that are taken, durables that an older
//! service left behind, messages that are gone, `publish --stan`. Each test has channels, a
//! client's name and a durable of its own. What holds for every broker is in `broker`.

pub mod channel;

use std::process::{Output, Stdio};
use std::time::Duration;

use bytes::Bytes;
use order_service::stan::protocol::Start;
use order_service::stan::session::{Session, SessionError, Wanted};
use rustix::process::Signal;
use serde_json::json;

use crate::broker::ledger::{Sent, id, logged, metric};
use crate::broker::{Channel, Message, RECOVERY, in_turn};
use crate::database::Database;
use crate::server::{Server, binary, until};
use crate::servers::Private;
use channel::StanChannel;

/// A session under another name, kept as long as it is.
struct Other {
    runtime: tokio::runtime::Runtime,
    session: Session,
}

impl Other {
    fn open(channel: &StanChannel, name: &str) -> Result<Self, SessionError> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let session = runtime.block_on(async {
            let client = async_nats::connect(&channel.url).await.unwrap();
            Session::open(client, "test-cluster", name).await
        });
        session.map(|session| Self { runtime, session })
    }

    /// Reads the channel under the durable's name as an older service does, and acknowledges the
    /// first `count` messages.
    fn read_as_older_service(&self, channel: &StanChannel, count: usize) -> Vec<u64> {
        let wanted = Wanted {
            subject: channel.name.clone(),
            durable: channel.durable.clone(),
            start: Start::First,
            sequence: 0,
            in_flight_max: 1024,
            ack_wait: Duration::from_secs(30),
        };
        self.runtime.block_on(async {
            let mut subscription = self.session.subscribe(&wanted).await.unwrap();
            let mut read = Vec::new();
            while read.len() < count {
                let message = tokio::time::timeout(RECOVERY, subscription.next()).await.unwrap().unwrap();
                self.session.acknowledge(&subscription, message.sequence).await.unwrap();
                read.push(message.sequence);
            }
            read
        })
    }

    fn close(&self) {
        self.runtime.block_on(self.session.close()).unwrap();
    }
}

/// The five orders that the publisher of the first service sends, as it sends them.
#[test]
fn the_orders_of_the_older_publisher_are_in_the_view() {
    let Some(channel) = StanChannel::create(1) else { return };
    let mut server = Server::start(&channel.flags());
    let document = |name: &str| {
        let mut order = Vec::new();
        order_service::order::sample::wb(0, 0, &mut order);
        String::from_utf8(order).unwrap().replace("b563feb7b2b84b6test", name)
    };
    let names = ["", "1", "2", "3", "4"].map(|more| format!("b563feb7b2b84b6test{more}"));
    let publisher = Other::open(&channel, "order-publisher").or_else(|_| Other::open(&channel, &channel.name)).unwrap();
    for name in &names {
        let sent = publisher.session.publish(&channel.name, Bytes::from(document(name)));
        publisher.runtime.block_on(sent).unwrap();
    }
    publisher.close();
    for name in &names {
        let reply =
            until(name, RECOVERY, || Some(server.get(&format!("/api/orders/{name}"))).filter(|it| it.status == 200));
        assert_eq!(reply.text(), document(name));
    }
    channel.wait_acknowledged();
    assert_eq!(channel.stop(&mut server)["read"], 5);
}

#[test]
fn the_durable_outlives_a_stop_and_the_name_is_free_after_it() {
    let Some(channel) = StanChannel::create(1) else { return };
    let mut server = Server::start(&channel.flags());
    let mut sent = Sent::default();
    sent.send(&channel.sender(), 0..10);
    sent.wait_seen(&server, &channel);
    channel.stop(&mut server);
    let durable = channel.subscription().expect("closed, not unsubscribed");
    assert_eq!((&durable["is_offline"], &durable["pending_count"]), (&json!(true), &json!(0)));
    // An older service that takes over goes on where this one was.
    let older = Other::open(&channel, &channel.client).expect("the name is free");
    sent.send(&channel.sender(), 5..15);
    let read = older.read_as_older_service(&channel, 10);
    assert_eq!(read, (11..=20).collect::<Vec<_>>(), "nothing comes again");
}

/// A process that was killed leaves its name registered. The server asks at the former client's
/// inbox, where nothing answers, and lets the new one in.
#[test]
fn a_name_that_a_crash_left_behind_keeps_no_restart_out() {
    let Some(channel) = StanChannel::create(1) else { return };
    let mut server = Server::start(&channel.flags());
    let mut sent = Sent::default();
    sent.send(&channel.sender(), 0..10);
    sent.wait_seen(&server, &channel);
    for round in 0..3 {
        server.kill();
        assert_eq!(channel.subscription().unwrap()["client_id"], channel.client.as_str(), "still registered");
        sent.send(&channel.sender(), round..round + 12);
        server.start_again_cold();
        sent.wait_seen(&server, &channel);
    }
    sent.check_view(&server, None);
    channel.stop(&mut server);
}

#[test]
fn of_two_instances_one_reads_and_the_other_takes_over() {
    let _turn = in_turn();
    let (Some(database), Some(channel)) = (Database::create(), StanChannel::create(1)) else { return };
    let url = database.url();
    let flags = channel.flags_with(&["--postgres", &url]);
    let mut first = Server::start(&flags);
    let mut sent = Sent::default();
    sent.send(&channel.sender(), 0..50);
    sent.check(&[&first], &database, &channel);
    let mut second = Server::start_in(&flags, &[]);
    until("it stands by", RECOVERY, || (metric(&second, "stan_standby").get("") == Some(&1)).then_some(()));
    until("it is ready all the same", RECOVERY, || (second.get("/readyz").status == 200).then_some(()));
    sent.send(&channel.sender(), 25..75);
    sent.check(&[&first, &second], &database, &channel);
    first.kill();
    sent.send(&channel.sender(), 50..100);
    sent.check(&[&second], &database, &channel);
    assert_eq!(metric(&second, "stan_standby")[""], 0);
    channel.stop(&mut second);
    drop(first);
}

/// One that slept while another took its name is not let in again, and what it had in hand is the
/// other's.
#[test]
fn one_that_was_held_and_replaced_stands_by_and_writes_nothing() {
    let _turn = in_turn();
    let (Some(database), Some(channel)) = (Database::create(), StanChannel::create(1)) else { return };
    let url = database.url();
    let flags = channel.flags_with(&["--postgres", &url, "--batch-rows-max", "16"]);
    let mut first = Server::start(&flags);
    let mut second = Server::start_in(&flags, &[]);
    let mut sent = Sent::default();
    sent.send(&channel.sender(), 0..50);
    sent.check(&[&first, &second], &database, &channel);
    first.signal(Signal::STOP);
    sent.send(&channel.sender(), 25..75);
    sent.check(&[&second], &database, &channel);
    first.signal(Signal::CONT);
    until("it stands by", RECOVERY, || (metric(&first, "stan_standby")[""] == 1).then_some(()));
    assert_eq!(metric(&second, "stan_standby")[""], 0, "the other one keeps the name");
    sent.send(&channel.sender(), 50..100);
    sent.check(&[&first, &second], &database, &channel);
    channel.stop(&mut second);
    sent.send(&channel.sender(), 0..10);
    sent.check(&[&first], &database, &channel);
    channel.stop(&mut first);
}

/// Under names of its own this service reads beside an older one, and neither takes anything from the
/// other.
#[test]
fn an_older_service_and_this_one_read_side_by_side() {
    let Some(channel) = StanChannel::create(1) else { return };
    let mut server = Server::start(&channel.flags());
    let names = ["older", "older-durable"].map(|name| format!("{}-{name}", channel.client));
    let older = Other::open(&channel, &names[0]).unwrap();
    let mut sent = Sent::default();
    for round in 0..3 {
        sent.send(&channel.sender(), round * 10..round * 10 + 20);
        sent.wait_seen(&server, &channel);
    }
    let read = older.read_as_older_service(&channel.with_durable(&names[1]), 60);
    assert_eq!(read, (1..=60).collect::<Vec<_>>());
    older.close();
    sent.check_view(&server, None);
    assert_eq!(channel.stop(&mut server)["read"], 60);
}

#[test]
fn what_is_delivered_again_while_the_store_is_held_is_stored_once() {
    let _turn = in_turn();
    let (Some(postgres), Some(channel)) = (Private::postgres(), StanChannel::create(1)) else { return };
    let database = Database::create_on(postgres.url());
    let url = database.url();
    let mut server = Server::start(&channel.flags_with(&["--postgres", &url, "--stan-ack-wait", "1s"]));
    let mut sent = Sent::default();
    sent.send(&channel.sender(), 0..50);
    sent.check(&[&server], &database, &channel);
    postgres.pause();
    sent.send(&channel.sender(), 25..75);
    let redelivered = || metric(&server, "stan_redelivered_total")[""];
    until("they are delivered again, and again", RECOVERY, || (redelivered() >= 100).then_some(()));
    postgres.resume();
    sent.check(&[&server], &database, &channel);
    channel.wait_acknowledged();
    assert_eq!(channel.stop(&mut server)["read"], 100);
}

/// The position in the store is what counts: what an older service has acknowledged under the same
/// durable is read from the channel, so that nothing is missing in a new store.
#[test]
fn what_an_older_service_has_acknowledged_is_read_too() {
    let Some(channel) = StanChannel::create(1) else { return };
    let mut sent = Sent::default();
    sent.send(&channel.sender(), 0..30);
    let older = Other::open(&channel, &channel.client).unwrap();
    assert_eq!(older.read_as_older_service(&channel, 30).len(), 30);
    older.close();
    let mut server = Server::start(&channel.flags());
    sent.wait_seen(&server, &channel);
    sent.send(&channel.sender(), 20..40);
    sent.wait_seen(&server, &channel);
    sent.check_view(&server, None);
    assert!(metric(&server, "stan_filled_total")[""] >= 30);
    assert_eq!(metric(&server, "stan_lost_messages_total")[""], 0);
    assert_eq!(channel.stop(&mut server)["read"], 50, "each once");
}

#[test]
fn messages_that_the_channel_has_no_room_for_are_named_as_lost() {
    let (Some(database), Some(channel)) = (Database::create(), StanChannel::create(1)) else { return };
    let channel = channel.prefixed("limited");
    let url = database.url();
    let mut server = Server::start(&channel.flags_with(&["--postgres", &url]));
    let mut sent = Sent::default();
    sent.send(&channel.sender(), 0..20);
    sent.check(&[&server], &database, &channel);
    channel.stop(&mut server);
    // It keeps the last 50 of these.
    for n in 0..30 {
        channel.peer().publish(&channel.name, &Bytes::from(format!("gone {n}")));
    }
    sent.send(&channel.sender(), 10..40);
    sent.send(&channel.sender(), 0..20);
    server.start_again();
    let told = logged(&server, |event| event["level"] == "ERROR");
    assert_eq!((&told["partition"], &told["lost"]), (&json!(0), &json!(30)), "{told}");
    sent.wait_stored(&[&server], &database, &channel);
    assert_eq!(channel.stop(&mut server)["read"], 50);
}

#[test]
fn a_dead_letter_that_is_larger_than_the_server_takes_is_cut_and_says_so() {
    let Some(channel) = StanChannel::create(1) else { return };
    let mut server = Server::start(&channel.flags());
    // Each quote is two characters in a JSON string.
    let value = "\"".repeat(900_000);
    let place = channel.send_one(Message::new(value.clone()));
    channel.wait_acknowledged();
    let letters = channel.letters();
    let [letter] = &letters[..] else { panic!("{} letters", letters.len()) };
    assert_eq!((letter.origin(), letter.header("orders.value.cut.from.bytes")), (place, "900000"));
    assert!(!letter.bytes().is_empty() && value.as_bytes().starts_with(letter.bytes()));
    channel.stop(&mut server);
}

#[test]
fn a_cluster_that_is_not_there_is_named() {
    let Some(channel) = StanChannel::create(1) else { return };
    let mut server = Server::start_cold(&channel.flags_with(&["--stan-cluster", "another"]));
    until("readiness says so", RECOVERY, || {
        let reply = server.get("/readyz");
        (reply.status == 503 && reply.text().contains("there is no cluster of this name")).then_some(())
    });
    assert!(server.stop().success());
}

fn publish(arguments: &[&str]) -> Output {
    let home = tempfile::tempdir().unwrap();
    binary(home.path()).arg("publish").args(arguments).stdout(Stdio::piped()).output().unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

#[test]
fn published_orders_are_stored_and_invalid_ones_parked() {
    let Some(channel) = StanChannel::create(1) else { return };
    let mut server = Server::start(&channel.flags());
    let arguments = ["--stan", &channel.url, "--channel", &channel.name, "--count", "2000", "--invalid", "0.1"];
    let output = publish(&arguments);
    assert!(output.status.success(), "{}", said(&output));
    assert!(said(&output).contains("2000 sent, 0 failed"), "{}", said(&output));
    channel.wait_acknowledged();
    let letters = channel.letters().len() as u64;
    assert!((100..300).contains(&letters), "{letters} of 2000 are invalid");
    let total = || server.get("/api/stats").json()["total_orders"].as_u64();
    until("the rest is there", RECOVERY, || (total() == Some(2000 - letters)).then_some(()));
    channel.stop(&mut server);
}

#[test]
fn what_is_not_there_to_publish_to_is_named() {
    let Some(channel) = StanChannel::named() else { return };
    let output = publish(&["--stan", &channel.url, "--stan-cluster", "another"]);
    assert_eq!(output.status.code(), Some(1));
    assert!(said(&output).contains("into the cluster another"), "{}", said(&output));
    let output = publish(&["--stan", "nats://192.0.2.1:4222"]);
    assert!(said(&output).contains("--allow-remote"), "{}", said(&output));
    let output = publish(&["--stan", "nats://127.0.0.1", "--nats", "nats://127.0.0.1"]);
    assert_eq!(output.status.code(), Some(2));
}

/// The way from NATS Streaming to JetStream: both are read at once, and whatever comes last counts.
#[test]
fn streaming_and_jetstream_are_read_at_once() {
    use crate::nats::subject::Subject;
    let (Some(channel), Some(subject)) = (StanChannel::create(1), Subject::create(1)) else { return };
    let mut server = Server::start(&channel.flags_with(&subject.flags()));
    let mut sent = Sent::default();
    sent.send(&channel.sender(), 0..20);
    sent.wait_seen(&server, &channel);
    sent.send(&subject.sender(), 10..30);
    sent.wait_seen(&server, &subject);
    sent.check_view(&server, None);
    server.get(&format!("/order/{}", id(29))).expect(200);
    assert!(server.stop().success());
}
