//! Topics that are deleted and made again: their offsets begin again under the same numbers, and are told apart by the
//! topic's id. Streams of NATS are told apart by the time at which they were made (`nats::faults`).

use super::topic::Topic;
use crate::broker::ledger::{Sent, logged, metric, positions};
use crate::broker::{Channel, RECOVERY};
use crate::database::Database;
use crate::server::{Server, until};

fn remade(server: &Server) -> u64 {
    metric(server, "kafka_topics_remade_total")[""]
}

/// Twenty orders are stored, the service stops, and the topic is another one with so many messages.
fn made_again_while_stopped(count: u64) {
    let (Some(database), Some(topic)) = (Database::create(), Topic::create(1)) else { return };
    let url = database.url();
    let mut server = Server::start(&topic.flags_with(&["--postgres", &url, "--batch-rows-max", "16"]));
    let mut sent = Sent::default();
    sent.send(&topic.sender(), 0..20);
    sent.check(&[&server], &database, &topic);
    assert_eq!(remade(&server), 0);
    topic.stop(&mut server);
    topic.delete();
    topic.make(1);
    sent.send(&topic.sender(), 100..100 + count);
    server.start_again_cold();
    sent.check(&[&server], &database, &topic);
    logged(&server, |event| {
        event["level"] == "WARN"
            && event["message"] == "the topic was deleted and made again, reading it from its start"
    });
    assert_eq!(remade(&server), 1);
    assert_eq!(topic.stop(&mut server)["read"], count);
    server.start_again_cold();
    sent.check(&[&server], &database, &topic);
    assert_eq!(remade(&server), 0, "it is no news any more");
    assert_eq!(topic.stop(&mut server)["read"], 0);
}

#[test]
fn a_topic_that_was_made_again_with_fewer_messages_is_read_from_its_start() {
    made_again_while_stopped(10);
}

/// Its first messages are where those of the former topic were.
#[test]
fn a_topic_that_was_made_again_with_more_messages_is_read_from_its_start() {
    made_again_while_stopped(80);
}

/// As often as the offsets end before and beyond where the former topic was read.
#[test]
fn a_topic_that_is_made_again_under_a_running_service_is_read_from_its_start() {
    let (Some(database), Some(topic)) = (Database::create(), Topic::create(1)) else { return };
    let url = database.url();
    let mut server = Server::start(&topic.flags_with(&["--postgres", &url, "--batch-rows-max", "16"]));
    let mut sent = Sent::default();
    sent.send(&topic.sender(), 0..20);
    sent.check(&[&server], &database, &topic);
    for (round, count) in [(1, 10), (2, 80)] {
        topic.delete();
        topic.make(1);
        sent.send(&topic.sender(), round * 100..round * 100 + count);
        sent.check(&[&server], &database, &topic);
        until("it is counted", RECOVERY, || (remade(&server) == round).then_some(()));
    }
    topic.stop(&mut server);
}

#[test]
fn positions_from_before_topics_had_ids_are_gone_on_from() {
    let (Some(database), Some(topic)) = (Database::create(), Topic::create(2)) else { return };
    let url = database.url();
    let mut server = Server::start(&topic.flags_with(&["--postgres", &url, "--batch-rows-max", "16"]));
    let mut sent = Sent::default();
    sent.send(&topic.sender(), 0..20);
    sent.check(&[&server], &database, &topic);
    topic.stop(&mut server);
    let stored = positions(&database, &topic);
    assert_eq!(stored.values().sum::<u64>(), 20);
    let source = topic.source();
    let (plain, _) = source.split_once('#').unwrap();
    database.query(&format!("UPDATE positions SET source = '{plain}'"));
    server.start_again_cold();
    sent.send(&topic.sender(), 15..25);
    sent.check(&[&server], &database, &topic);
    assert_eq!(topic.stop(&mut server)["read"], 10);
    assert_eq!(database.query("SELECT DISTINCT source FROM positions"), [source]);
}
