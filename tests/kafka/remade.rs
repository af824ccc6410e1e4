//! Topics that are deleted and made again: their offsets begin again under the same numbers, and are told apart by the
//! topic's id. Streams of NATS are told apart by the time at which they were made (`nats::faults`).

use std::ops::Range;

use super::topic::Topic;
use crate::broker::ledger::{Sent, logged, metric, positions};
use crate::broker::{Channel, RECOVERY};
use crate::database::Database;
use crate::server::{Server, until};

fn remade(server: &Server) -> u64 {
    metric(server, "kafka_topics_remade_total")[""]
}

/// A service that has stored twenty orders of a topic.
struct Site {
    database: Database,
    topic: Topic,
    server: Server,
    sent: Sent,
}

impl Site {
    fn new(partitions: u32) -> Option<Self> {
        let (database, topic) = (Database::create()?, Topic::create(partitions)?);
        let url = database.url();
        let server = Server::start(&topic.flags_with(&["--postgres", &url, "--batch-rows-max", "16"]));
        let mut sent = Sent::default();
        sent.send(&topic.sender(), 0..20);
        let site = Self { database, topic, server, sent };
        site.check();
        Some(site)
    }

    fn check(&self) {
        self.sent.check(&[&self.server], &self.database, &self.topic);
    }

    /// Makes the topic again, with these orders.
    fn make_again(&mut self, orders: Range<u64>) {
        self.topic.delete();
        self.topic.make(1);
        self.sent.send(&self.topic.sender(), orders);
    }

    /// Ends the service. Returns how many orders it has read.
    fn stop(&mut self) -> u64 {
        self.topic.stop(&mut self.server)["read"]
    }
}

/// The service is stopped meanwhile.
fn made_again_while_stopped(count: u64) {
    let Some(mut site) = Site::new(1) else { return };
    assert_eq!(remade(&site.server), 0);
    site.stop();
    site.make_again(100..100 + count);
    site.server.start_again_cold();
    site.check();
    logged(&site.server, |event| {
        event["level"] == "WARN"
            && event["message"] == "the topic was deleted and made again, reading it from its start"
    });
    assert_eq!(remade(&site.server), 1);
    assert_eq!(site.stop(), count);
    site.server.start_again_cold();
    site.check();
    assert_eq!(remade(&site.server), 0, "it is no news any more");
    assert_eq!(site.stop(), 0);
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

/// Twice: the new topic ends before, and then beyond, where the former one was read.
#[test]
fn a_topic_that_is_made_again_under_a_running_service_is_read_from_its_start() {
    let Some(mut site) = Site::new(1) else { return };
    for (round, count) in [(1, 10), (2, 80)] {
        site.make_again(round * 100..round * 100 + count);
        site.check();
        until("it is counted", RECOVERY, || (remade(&site.server) == round).then_some(()));
    }
    site.stop();
}

/// As long as nothing was stored of the new topic every assignment finds it so.
#[test]
fn a_topic_that_was_made_again_is_counted_once_however_often_it_is_assigned() {
    let Some(mut site) = Site::new(2) else { return };
    site.topic.delete();
    site.topic.make(2);
    until("it is counted", RECOVERY, || (remade(&site.server) == 1).then_some(()));
    let url = site.database.url();
    let assignments = || site.server.log().iter().filter(|line| line.contains("partitions assigned")).count();
    let before = assignments();
    let other = Server::start(&site.topic.flags_with(&["--postgres", &url]));
    until("both have a partition", RECOVERY, || (assignments() > before).then_some(()));
    site.sent.send(&site.topic.sender(), 100..140);
    site.sent.check(&[&site.server, &other], &site.database, &site.topic);
    assert_eq!(remade(&site.server), 1);
}

#[test]
fn positions_from_before_topics_had_ids_are_gone_on_from() {
    let Some(mut site) = Site::new(2) else { return };
    site.stop();
    let stored = positions(&site.database, &site.topic);
    assert_eq!(stored.values().sum::<u64>(), 20);
    let source = site.topic.source();
    let (plain, _) = source.split_once('#').unwrap();
    site.database.query(&format!("UPDATE positions SET source = '{plain}'"));
    site.server.start_again_cold();
    site.sent.send(&site.topic.sender(), 15..25);
    site.check();
    assert_eq!(site.stop(), 10);
    assert_eq!(site.database.query("SELECT DISTINCT source FROM positions"), [source]);
}
