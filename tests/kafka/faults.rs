//! The store, the brokers or the dead letter topic fail under a steady stream of orders.

use std::time::Duration;

use super::in_turn;
use super::ledger::{Pace, Sent, Steady, has_overlapped, id, logged, stop};
use super::topic::{Message, Topic};
use crate::database::Database;
use crate::server::{Server, until};
use crate::servers::Private;

#[test]
fn a_store_that_is_killed_and_comes_back_gets_everything_once() {
    let _turn = in_turn();
    let (Some(postgres), Some(topic)) = (Private::postgres(), Topic::create(3)) else { return };
    let database = Database::create_on(postgres.url());
    let url = database.url();
    let mut server = Server::start(&topic.flags_with(&["--postgres", &url, "--batch-rows-max", "16"]));
    let steady = Steady::start(&topic, Pace::default());
    for _ in 0..3 {
        steady.wait_more(300);
        postgres.kill();
        steady.wait_more(300);
        postgres.restart();
    }
    let sent = steady.stop();
    sent.check(&[&server], &database, &topic);
    sent.check_letters(&topic, true);
    assert!(has_overlapped(&server));
    stop(&mut server);
}

#[test]
fn connections_that_are_cut_all_the_time_lose_and_repeat_nothing() {
    let _turn = in_turn();
    let (Some(database), Some(topic)) = (Database::create(), Topic::create(3)) else { return };
    let url = database.url();
    let mut server = Server::start(&topic.flags_with(&["--postgres", &url, "--batch-rows-max", "16"]));
    let steady = Steady::start(&topic, Pace { rate: 1000, ..Pace::default() });
    let mut cut = 0;
    for _ in 0..40 {
        steady.wait_more(fastrand::u64(20..150));
        cut += database
            .query(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
                 WHERE datname = current_database() AND pid <> pg_backend_pid()",
            )
            .len();
    }
    let sent = steady.stop();
    assert!(cut > 20, "only {cut} connections were there to be cut");
    sent.check(&[&server], &database, &topic);
    sent.check_letters(&topic, true);
    assert!(has_overlapped(&server));
    stop(&mut server);
}

#[test]
fn a_broker_that_is_killed_and_comes_back_changes_nothing() {
    let _turn = in_turn();
    let (Some(kafka), Some(database)) = (Private::kafka(1), Database::create()) else { return };
    let topic = Topic::create_on(kafka.url(), 3);
    let url = database.url();
    let mut server = Server::start(&topic.flags_with(&["--postgres", &url, "--batch-rows-max", "16"]));
    let steady = Steady::start(&topic, Pace { rate: 300, ..Pace::default() });
    for _ in 0..2 {
        steady.wait_more(200);
        kafka.kill();
        assert_eq!(server.get("/livez").status, 200);
        kafka.restart();
    }
    steady.wait_more(200);
    let sent = steady.stop();
    sent.check(&[&server], &database, &topic);
    stop(&mut server);
}

#[test]
fn brokers_that_are_held_are_waited_for() {
    let _turn = in_turn();
    let (Some(kafka), Some(database)) = (Private::kafka(1), Database::create()) else { return };
    let topic = Topic::create_on(kafka.url(), 2);
    let url = database.url();
    let mut server = Server::start(&topic.flags_with(&["--postgres", &url, "--batch-rows-max", "16"]));
    let steady = Steady::start(&topic, Pace { rate: 300, rubbish: 4, ..Pace::default() });
    steady.wait_more(200);
    kafka.pause();
    std::thread::sleep(Duration::from_secs(4)); // held for longer than a produce or a fetch takes
    assert_eq!(server.get("/livez").status, 200);
    kafka.resume();
    steady.wait_more(200);
    let sent = steady.stop();
    sent.check(&[&server], &database, &topic);
    stop(&mut server);
}

#[test]
fn rubbish_in_every_second_message_is_kept_once_and_holds_up_nothing() {
    let _turn = in_turn();
    let (Some(database), Some(topic)) = (Database::create(), Topic::create(3)) else { return };
    let url = database.url();
    let mut server = Server::start(&topic.flags_with(&["--postgres", &url, "--batch-rows-max", "16"]));
    let steady = Steady::start(&topic, Pace { ids: 300, rate: 2000, rubbish: 5, burst: 10 });
    steady.wait_more(5000);
    let sent = steady.stop();
    sent.check(&[&server], &database, &topic);
    sent.check_letters(&topic, true);
    let ledger = stop(&mut server);
    assert_eq!(ledger["read"], sent.count, "{ledger:?}");
    assert!(ledger["rejected"] >= 2500, "{ledger:?}");
}

#[test]
fn a_dead_letter_too_large_for_its_topic_is_cut_and_says_so() {
    let Some(topic) = Topic::create(1) else { return };
    topic.make_dlq(&[("max.message.bytes", "1500")]);
    let mut server = Server::start(&topic.flags());
    let mut sent = Sent::default();
    // Not to be made smaller by compression.
    let value: Vec<u8> = std::iter::repeat_with(|| fastrand::u8(b'a'..=b'z')).take(200_000).collect();
    let large =
        Message { headers: vec![("trace".into(), Some(b"7".to_vec()))], ..Message::new(value.clone()).key("k") };
    let place = topic.send_one(large);
    // Small ones, which may be sent together with it and with each other.
    let small = topic.send(&vec![Message::new("small".repeat(80)); 20]);
    sent.send(&topic.sender(), 0..10);
    topic.wait_committed();
    let letters = topic.letters();
    assert_eq!(letters.len(), 21, "{letters:?}");
    let cut = letters.iter().find(|letter| letter.origin() == place).unwrap();
    let left = cut.value.as_deref().unwrap();
    assert!((100..1500).contains(&left.len()) && value.starts_with(left), "{} bytes are left", left.len());
    assert_eq!((cut.key.as_deref(), cut.header("trace")), (Some(b"k".as_slice()), "7"));
    assert_eq!(cut.header("orders.value.cut.from.bytes"), "200000");
    for place in small {
        let whole = letters.iter().find(|letter| letter.origin() == place).unwrap();
        assert_eq!(whole.value.as_deref(), Some("small".repeat(80).as_bytes()), "{:?}", whole.headers);
    }
    server.get(&format!("/order/{}", id(9))).expect(200);
    stop(&mut server);
}

#[test]
fn a_dead_letter_whose_headers_or_key_leave_no_room_loses_them_and_says_so() {
    let Some(topic) = Topic::create(1) else { return };
    topic.make_dlq(&[("max.message.bytes", "3000")]);
    let mut server = Server::start(&topic.flags());
    // Not to be made smaller by compression.
    let large = || -> String { std::iter::repeat_with(|| fastrand::char('!'..='~')).take(8000).collect() };
    let headers = vec![("trace".into(), Some(large().into_bytes()))];
    let with_headers = topic.send_one(Message { headers, ..Message::new("no order").key("k") });
    let key = large();
    let with_key = topic.send_one(Message::new("no order either").key(key.clone()));
    let mut sent = Sent::default();
    sent.send(&topic.sender(), 0..10);
    topic.wait_committed();
    let letters = topic.letters();
    let letter = |place| letters.iter().find(|letter| letter.origin() == place).unwrap();
    let cut = letter(with_headers);
    assert_eq!((cut.key(), cut.value.as_deref()), ("k", Some(b"no order".as_slice())));
    assert_eq!(cut.header("orders.headers.cut.from.bytes"), "8005");
    assert!(cut.headers.iter().all(|(name, _)| name != "trace"));
    let cut = letter(with_key);
    assert_eq!(cut.value.as_deref(), Some(b"no order either".as_slice()));
    assert_eq!(cut.header("orders.key.cut.from.bytes"), "8000");
    assert!(cut.key().len() >= 500 && key.starts_with(cut.key()), "{} bytes are left", cut.key().len());
    server.get(&format!("/order/{}", id(9))).expect(200);
    stop(&mut server);
}

#[test]
fn while_a_dead_letter_cannot_be_kept_its_position_is_not_passed() {
    let Some(topic) = Topic::create(1) else { return };
    // Nothing fits in there, not even an empty value.
    topic.make_dlq(&[("max.message.bytes", "100")]);
    let server = Server::start(&topic.flags());
    let mut sent = Sent::default();
    sent.send(&topic.sender(), 0..10);
    topic.wait_committed();
    sent.send_rubbish(&topic.sender(), 1);
    logged(&server, |event| event["message"] == "dead letter not delivered, trying again");
    sent.send(&topic.sender(), 10..20);
    assert!(topic.committed()[&0] <= 10, "{:?}", topic.committed());
    // Another process with a topic that takes it goes on from there.
    drop(server);
    let topic = topic.with_other_dlq();
    let mut server = Server::start(&topic.flags());
    sent.wait_seen(&server, &topic);
    sent.check_view(&server, None);
    sent.check_letters(&topic, true);
    until("it is ready", Duration::from_secs(20), || (server.get("/readyz").status == 200).then_some(()));
    stop(&mut server);
}
