//! The server dies, stream and durable are deleted, another source runs beside: nothing is lost, nothing stands still.

use super::ledger::{Sent, Steady, figure, position, stop};
use super::subject::Subject;
use super::{RECOVERY, in_turn};
use crate::database::Database;
use crate::server::{Server, until};
use crate::servers::Private;

#[test]
fn a_server_that_is_killed_in_the_middle_of_a_load_loses_and_doubles_nothing() {
    let _turn = in_turn();
    let (Some(database), Some(nats)) = (Database::create(), Private::nats()) else { return };
    let subject = Subject::named_on(nats.url());
    subject.make();
    let url = database.url();
    let mut server =
        Server::start(&subject.flags_with(&["--postgres", &url, "--batch-rows-max", "16", "--nats-ack-wait", "3s"]));
    let steady = Steady::start(&subject, 2000);
    for round in 1..=4 {
        steady.wait_more(300);
        nats.kill();
        server.get("/livez").expect(200);
        nats.restart();
        until("the test is connected again", RECOVERY, || subject.is_connected().then_some(()));
        until("it is connected again", RECOVERY, || (figure(&server, "nats_reconnects_total") >= round).then_some(()));
        steady.wait_more(100);
    }
    let sent = steady.stop();
    sent.check(&[&server], &database, &subject);
    subject.wait_acknowledged();
    assert_eq!(server.get("/readyz").status, 200);
    assert!(figure(&server, "order_batches_overlapped_total") > 0);
    stop(&mut server);
}

#[test]
fn a_stream_that_is_deleted_and_made_anew_is_read_from_its_start() {
    let (Some(database), Some(subject)) = (Database::create(), Subject::create()) else { return };
    let url = database.url();
    let mut server = Server::start(&subject.flags_with(&["--postgres", &url, "--batch-rows-max", "16"]));
    let (mut sent, sender) = (Sent::default(), subject.sender());
    sent.send(&sender, 0..100);
    sent.wait_seen(&server);
    let (former, _) = subject.end();
    subject.delete_stream(&subject.stream);
    // The service makes it anew, or whoever has deleted it does; its numbers begin again.
    until("there is a stream again", RECOVERY, || {
        let (stream, _) = subject.end();
        (stream != former).then_some(())
    });
    sent.send(&sender, 50..120);
    sent.check(&[&server], &database, &subject);
    assert_eq!(position(&database, &subject, former), Some(101), "the former position is kept apart");
    subject.wait_acknowledged();
    assert_eq!(stop(&mut server)["read"], 170);
}

#[test]
fn a_stream_that_is_made_anew_while_the_service_is_away_is_read_from_its_start() {
    let (Some(database), Some(subject)) = (Database::create(), Subject::create()) else { return };
    let url = database.url();
    let mut server = Server::start(&subject.flags_with(&["--postgres", &url, "--batch-rows-max", "16"]));
    let (mut sent, sender) = (Sent::default(), subject.sender());
    sent.send(&sender, 0..100);
    sent.wait_seen(&server);
    stop(&mut server);
    subject.delete_stream(&subject.stream);
    subject.make();
    sent.send(&sender, 90..130);
    server.start_again();
    sent.check(&[&server], &database, &subject);
    assert_eq!(stop(&mut server)["read"], 40);
}

#[test]
fn a_durable_that_is_deleted_is_made_again() {
    let (Some(database), Some(subject)) = (Database::create(), Subject::create()) else { return };
    let url = database.url();
    let mut server = Server::start(&subject.flags_with(&["--postgres", &url, "--batch-rows-max", "16"]));
    let (mut sent, sender) = (Sent::default(), subject.sender());
    for round in 0..4 {
        sent.send(&sender, round * 20..round * 20 + 30);
        sent.wait_seen(&server);
        subject.delete_durable();
    }
    sent.send(&sender, 0..10);
    sent.check(&[&server], &database, &subject);
    subject.wait_acknowledged();
    assert_eq!(stop(&mut server)["read"], 130, "what is stored is not read again");
}

#[test]
fn a_dead_letter_stream_that_is_deleted_is_made_again() {
    let Some(subject) = Subject::create() else { return };
    let mut server = Server::start(&subject.flags());
    for round in 0..3 {
        let (mut sent, sender) = (Sent::default(), subject.sender());
        sent.count = round * 100;
        sent.send_rubbish(&sender, 10);
        sent.check_letters(&subject);
        subject.wait_acknowledged();
        subject.delete_stream(&format!("{}_DLQ", subject.stream));
    }
    stop(&mut server);
}

#[test]
fn a_stream_that_lost_messages_it_had_acknowledged_stops_the_service_and_says_so() {
    let (Some(database), Some(subject)) = (Database::create(), Subject::create()) else { return };
    let url = database.url();
    let mut server = Server::start(&subject.flags_with(&["--postgres", &url, "--batch-rows-max", "16"]));
    let (mut sent, sender) = (Sent::default(), subject.sender());
    sent.send(&sender, 0..10);
    sent.wait_seen(&server);
    stop(&mut server);
    // As after a loss of power: the store knows of more than the stream has.
    database.query("UPDATE positions SET next_offset = next_offset + 5");
    server.start_again_cold();
    let status = server.wait();
    assert_eq!(status.code(), Some(1));
    assert!(server.log().iter().any(|line| line.contains("name another durable")), "{:?}", server.log());
}

#[test]
fn kafka_and_nats_feed_one_process_and_the_version_decides() {
    let (Some(database), Some(subject)) = (Database::create(), Subject::create()) else { return };
    #[cfg(feature = "kafka")]
    {
        use order_service::order::sample;

        use crate::kafka::topic::{Message, Topic};
        let Some(topic) = Topic::create(2) else { return };
        let url = database.url();
        let flags = [&topic.flags()[..], &subject.flags_with(&["--postgres", &url, "--batch-rows-max", "16"])].concat();
        let mut server = Server::start(&flags);
        let (mut sent, sender) = (Sent::default(), subject.sender());
        let of_kafka = |n: u64| {
            let mut body = Vec::new();
            sample::wb(23, n, &mut body);
            Message::new(body)
        };
        for round in 0..10 {
            sent.send(&sender, round * 10..round * 10 + 20);
            topic.send(&(0..20).map(|n| of_kafka(1000 + round * 20 + n)).collect::<Vec<_>>());
        }
        until("both are there", RECOVERY, || {
            (server.get("/api/stats").json()["total_orders"] == sent.orders() + 200).then_some(())
        });
        // One order over both, one after the other: the one that came last is the one that counts.
        let shared = of_kafka(5000).value.unwrap();
        let id = sample::wb_id(23, 5000);
        for n in 1..=6_u64 {
            let mut body = shared.clone();
            body.pop();
            body.extend(format!(r#","counter":{n}}}"#).bytes());
            if n % 2 == 0 {
                topic.send_one(Message::new(body.clone()));
            } else {
                subject.send(&[body.clone()]);
            }
            until("it is stored", RECOVERY, || {
                let reply = server.get(&format!("/order/{id}"));
                (reply.header("ETag") == Some(&format!("\"{n}\"")) && reply.body == body).then_some(())
            });
        }
        stop(&mut server);
    }
    drop((database, subject));
}
