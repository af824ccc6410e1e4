//! What becomes of a message: stored, parked, repeated, held for long, out of order, among others.

use std::time::Duration;

use super::RECOVERY;
use super::ledger::{Sent, figure, id, stop};
use super::subject::Subject;
use crate::database::Database;
use crate::server::{Server, until};

#[test]
fn orders_are_stored_and_rubbish_is_parked_and_all_is_acknowledged() {
    let Some(subject) = Subject::named() else { return };
    let mut server = Server::start(&subject.flags()); // it makes the stream and the durable
    let (mut sent, sender) = (Sent::default(), subject.sender());
    for round in 0..20 {
        sent.send(&sender, round * 10..round * 10 + 10);
        sent.send_rubbish(&sender, 10);
    }
    sent.check_view(&server);
    sent.check_letters(&subject);
    subject.wait_acknowledged();
    assert_eq!(figure(&server, "nats_redelivered_total"), 0);
    until("the lag is told", RECOVERY, || (figure(&server, "nats_lag") == 0).then_some(()));
    assert!(server.get("/metrics").text().contains("order_end_to_end_seconds_count 200"), "the time since it was sent");
    let ledger = stop(&mut server);
    assert_eq!((ledger["read"], ledger["rejected"], ledger["stored"]), (400, 200, 200));
}

#[test]
fn a_stop_leaves_the_durable_and_the_next_start_goes_on_from_there() {
    let (Some(database), Some(subject)) = (Database::create(), Subject::create()) else { return };
    let url = database.url();
    let mut server = Server::start(&subject.flags_with(&["--postgres", &url]));
    let (mut sent, sender) = (Sent::default(), subject.sender());
    sent.send(&sender, 0..100);
    sent.wait_seen(&server);
    assert_eq!(stop(&mut server)["read"], 100);
    let info = subject.info().expect("the durable is still there");
    assert_eq!((info.num_ack_pending, info.ack_floor.stream_sequence), (0, 100), "all is acknowledged before the end");
    sent.send(&sender, 50..150);
    server.start_again();
    sent.check(&[&server], &database, &subject);
    let ledger = stop(&mut server);
    assert_eq!(ledger["read"], 100, "nothing is read twice: {ledger:?}");
}

#[test]
fn headers_of_a_dead_letter_say_where_it_is_from() {
    let Some(subject) = Subject::create() else { return };
    let mut server = Server::start(&subject.flags());
    let (stream, _) = subject.end();
    let sequence = subject.send_with(b"", &[("trace", "abc"), ("Nats-Expected-Stream", &subject.stream)]);
    let letters = until("it is parked", RECOVERY, || Some(subject.letters()).filter(|letters| !letters.is_empty()));
    let letter = &letters[0];
    assert_eq!(letter.origin(), (stream, sequence));
    assert!(letter.value.is_empty(), "an empty message is no order");
    assert_eq!(letter.header("trace"), "abc");
    assert_eq!(letter.header("__connect.errors.stage"), "VALUE_CONVERTER");
    assert_eq!(letter.header("__connect.errors.exception.class.name"), "order_service.malformed");
    assert!(letter.header("orders.timestamp.ms").parse::<u64>().unwrap() > 1_700_000_000_000);
    assert!(!letter.headers.contains_key("Nats-Expected-Stream"), "nobody else decides where a letter goes");
    subject.wait_acknowledged();
    stop(&mut server);
}

#[test]
fn headers_that_leave_no_room_for_a_dead_letter_are_left_out_of_it() {
    let Some(subject) = Subject::create() else { return };
    let mut server = Server::start(&subject.flags());
    let (stream, _) = subject.end();
    // All that the server takes.
    let large = "x".repeat((64 << 10) - 100);
    let sequence = subject.send_with(b"no order", &[("trace", &large)]);
    let letters = until("it is parked", RECOVERY, || Some(subject.letters()).filter(|letters| !letters.is_empty()));
    let letter = &letters[0];
    assert_eq!((letter.origin(), letter.value.as_slice()), ((stream, sequence), b"no order".as_slice()));
    assert_eq!(letter.header("orders.headers.cut.from.bytes"), (large.len() + "trace".len()).to_string());
    assert!(!letter.headers.contains_key("trace"));
    subject.wait_acknowledged();
    stop(&mut server);
}

#[test]
fn a_message_too_large_for_the_stream_of_dead_letters_is_cut() {
    let Some(subject) = Subject::create() else { return };
    subject.make_small_dlq(2000);
    let mut server = Server::start(&subject.flags());
    subject.send_with(&vec![b'x'; 100_000], &[]);
    let letters = until("it is parked", RECOVERY, || Some(subject.letters()).filter(|letters| !letters.is_empty()));
    let letter = &letters[0];
    assert!((100..2000).contains(&letter.value.len()), "{} bytes are left", letter.value.len());
    assert_eq!(letter.header("orders.value.cut.from.bytes"), "100000");
    subject.wait_acknowledged();
    stop(&mut server);
}

#[test]
fn what_another_reader_took_and_never_acknowledged_is_neither_lost_nor_waited_for() {
    let (Some(database), Some(subject)) = (Database::create(), Subject::create()) else { return };
    let url = database.url();
    let mut server = Server::start(&subject.flags_with(&["--postgres", &url, "--nats-ack-wait", "5s"]));
    let (mut sent, sender) = (Sent::default(), subject.sender());
    sent.send(&sender, 0..10);
    sent.wait_seen(&server);
    assert_eq!(stop(&mut server)["read"], 10);
    sent.send(&sender, 10..60);
    assert_eq!(subject.take_and_die(30).len(), 30);
    server.start_again();
    // Long before the server would deliver them again.
    sent.check(&[&server], &database, &subject);
    assert!(figure(&server, "nats_filled_total") >= 30);
    subject.wait_acknowledged(); // they come again, and are acknowledged without being stored again
    let ledger = stop(&mut server);
    assert_eq!((ledger["read"], ledger["stored"]), (50, 50));
}

#[test]
fn a_message_that_waits_for_long_is_not_delivered_again() {
    let _turn = super::in_turn();
    let Some(postgres) = crate::servers::Private::postgres() else { return };
    let Some(subject) = Subject::create() else { return };
    let database = Database::create_on(postgres.url());
    let url = database.url();
    let mut server = Server::start(&subject.flags_with(&["--postgres", &url, "--nats-ack-wait", "1s"]));
    let (mut sent, sender) = (Sent::default(), subject.sender());
    sent.send(&sender, 0..10);
    sent.wait_seen(&server);
    postgres.pause();
    sent.send(&sender, 0..200);
    // Several times what the server waits for an acknowledgement; there is nothing to wait for but the time.
    std::thread::sleep(Duration::from_secs(5));
    assert_eq!(figure(&server, "nats_redelivered_total"), 0, "the server was asked for patience");
    postgres.resume();
    sent.check(&[&server], &database, &subject);
    subject.wait_acknowledged();
    stop(&mut server);
}

#[test]
fn other_subjects_and_deleted_messages_leave_no_gap_to_wait_for() {
    let (Some(database), Some(subject)) = (Database::create(), Subject::named()) else { return };
    let other = format!("{}.other", subject.name);
    subject.make_stream(&subject.stream, &[&subject.name, &other]);
    let (mut sent, sender, beside) = (Sent::default(), subject.sender(), subject.sender_to(&other));
    let mut kept = Vec::new();
    for n in 0..60 {
        kept.extend(sent.send(&sender, [n]));
        beside.send(&vec![b"none of ours".to_vec(); (n % 4) as usize]);
    }
    // A message that is deleted before it is read is nobody's any more.
    let mut gone = Sent::default();
    let deleted = gone.send(&sender, [900]);
    subject.delete_message(deleted[0]);
    kept.extend(sent.send(&sender, 60..100));
    let url = database.url();
    let mut server = Server::start(&subject.flags_with(&["--postgres", &url]));
    sent.send(&sender, 100..120);
    sent.check(&[&server], &database, &subject);
    subject.wait_acknowledged();
    server.get(&format!("/order/{}", id(900))).expect(404);
    assert_eq!(stop(&mut server)["read"], 120);
}

#[test]
fn a_durable_that_somebody_made_is_used_as_it_is_or_named() {
    use async_nats::jetstream::consumer::{AckPolicy, pull};
    let Some(subject) = Subject::create() else { return };
    let small = pull::Config {
        filter_subject: subject.name.clone(),
        ack_policy: AckPolicy::Explicit,
        max_ack_pending: 7,
        ..pull::Config::default()
    };
    subject.make_durable(small);
    let (mut sent, sender) = (Sent::default(), subject.sender());
    sent.send(&sender, 0..100);
    let mut server = Server::start(&subject.flags());
    sent.check_view(&server);
    subject.wait_acknowledged();
    assert_eq!(subject.info().unwrap().config.max_ack_pending, 7);
    stop(&mut server);

    subject.delete_durable();
    subject.make_durable(pull::Config { ack_policy: AckPolicy::None, ..pull::Config::default() });
    server.start_again_cold();
    let reason = until("it says why it is not ready", RECOVERY, || {
        Some(server.get("/readyz"))
            .filter(|reply| reply.text().contains("not fit"))
            .map(|reply| reply.text().to_owned())
    });
    assert!(reason.contains("ack policy is none"), "{reason}");
    subject.delete_durable();
    sent.send(&sender, 100..110);
    server.wait_ready();
    sent.check_view(&server);
    stop(&mut server);
}
