//! What NATS alone has: headers that the server acts upon, a limit of headers, readers of one durable that take messages
//! from each other, several subjects in a stream, and durables made by hand.

use super::subject::Subject;
use crate::broker::ledger::{Sent, id, metric};
use crate::broker::{Channel, Message, RECOVERY, Sender as _};
use crate::database::Database;
use crate::server::{Server, until};

#[test]
fn headers_of_a_dead_letter_say_where_it_is_from() {
    let Some(subject) = Subject::create(1) else { return };
    let mut server = Server::start(&subject.flags());
    let message = Message::new("").header("trace", "abc").header("Nats-Expected-Stream", subject.stream.clone());
    let place = subject.send_one(message);
    subject.wait_acknowledged();
    let letter = &subject.letters()[0];
    assert_eq!(letter.origin(), place);
    assert!(letter.bytes().is_empty(), "an empty message is no order");
    assert_eq!(letter.header("trace"), "abc");
    assert_eq!(letter.header("__connect.errors.stage"), "VALUE_CONVERTER");
    assert_eq!(letter.header("__connect.errors.exception.class.name"), "order_service.malformed");
    assert!(letter.header("orders.timestamp.ms").parse::<u64>().unwrap() > 1_700_000_000_000);
    assert!(!letter.has("Nats-Expected-Stream"), "a sender does not decide where a dead letter goes");
    subject.stop(&mut server);
}

#[test]
fn headers_that_leave_no_room_for_a_dead_letter_are_left_out_of_it() {
    let Some(subject) = Subject::create(1) else { return };
    let mut server = Server::start(&subject.flags());
    // All that the server takes.
    let large = "x".repeat((64 << 10) - 200);
    let place = subject.send_one(Message::new("no order").header("trace", large.clone()));
    subject.wait_acknowledged();
    let letter = &subject.letters()[0];
    assert_eq!((letter.origin(), letter.bytes()), (place, b"no order".as_slice()));
    let (bytes, sent) =
        (letter.header("orders.headers.cut.from.bytes").parse::<u64>().unwrap(), large.len() as u64 + 5);
    assert!(bytes >= sent && Subject::ADDED_HEADER_BYTES.contains(&(bytes - sent)), "{bytes} of {sent}");
    assert!(!letter.has("trace"));
    subject.stop(&mut server);
}

#[test]
fn what_another_reader_took_and_never_acknowledged_is_neither_lost_nor_waited_for() {
    let (Some(database), Some(subject)) = (Database::create(), Subject::create(1)) else { return };
    let url = database.url();
    // Long enough for a start on a busy machine.
    let mut server = Server::start(&subject.flags_with(&["--postgres", &url, "--nats-ack-wait", "20s"]));
    let (mut sent, sender) = (Sent::default(), subject.sender());
    sent.send(&sender, 0..10);
    sent.wait_stored(&[&server], &database, &subject);
    assert_eq!(subject.stop(&mut server)["read"], 10);
    sent.send(&sender, 10..60);
    assert_eq!(subject.take_and_die(30).len(), 30);
    server.start_again();
    // Long before the server would deliver them again.
    sent.check(&[&server], &database, &subject);
    assert!(metric(&server, "nats_filled_total")[""] >= 30);
    subject.wait_acknowledged(); // they come again, and are acknowledged without being stored again
    let ledger = subject.stop(&mut server);
    assert_eq!((ledger["read"], ledger["stored"]), (50, 50));
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
        beside.send(&vec![Message::new("none of ours"); (n % 4) as usize]);
    }
    // A message that is deleted before it is read does not come any more.
    let mut gone = Sent::default();
    let deleted = gone.send(&sender, [900]);
    subject.delete_message(deleted[0].1);
    kept.extend(sent.send(&sender, 60..100));
    let url = database.url();
    let mut server = Server::start(&subject.flags_with(&["--postgres", &url]));
    sent.send(&sender, 100..120);
    sent.check(&[&server], &database, &subject);
    subject.wait_acknowledged();
    server.get(&format!("/order/{}", id(900))).expect(404);
    assert_eq!(subject.stop(&mut server)["read"], 120);
}

#[test]
fn a_durable_that_was_made_by_hand_is_used_as_it_is_or_named() {
    use async_nats::jetstream::consumer::{AckPolicy, pull};
    let Some(subject) = Subject::create(1) else { return };
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
    sent.wait_seen(&server, &subject);
    sent.check_view(&server, None);
    assert_eq!(subject.info().unwrap().config.max_ack_pending, 7);
    subject.stop(&mut server);

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
    sent.wait_seen(&server, &subject);
    sent.check_view(&server, None);
    subject.stop(&mut server);
}
