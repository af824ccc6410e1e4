//! What messages of Kafka alone may be: null values, messages of another time, transactions. Into the embedded store.
//! NATS has none of these.

use std::time::{Duration, Instant, SystemTime};

use super::topic::Topic;
use crate::broker::ledger::{Sent, figures, logged, metric};
use crate::broker::messages::{wb, wb_id};
use crate::broker::{Channel, Message, RECOVERY};
use crate::server::{Server, until};

/// A key with a null value.
fn tombstone(key: &str) -> Message {
    Message { key: Some(key.into()), ..Message::default() }
}

#[test]
fn a_null_value_deletes_the_order_that_its_key_names() {
    let Some(topic) = Topic::create(1) else { return };
    let mut server = Server::start(&topic.flags());
    topic.send(&[
        Message::new(wb(0)).key(wb_id(0)),
        Message::new(wb(1)),
        tombstone(&wb_id(1)),
        tombstone("unknown-id"),
    ]);
    topic.wait_acknowledged();
    let gone = server.get(&format!("/order/{}", wb_id(1))).expect(410);
    assert_eq!(gone.json()["reason"], "deleted");
    server.get(&format!("/order/{}", wb_id(0))).expect(200);
    assert_eq!(server.get("/api/stats").json()["total_orders"], 1);
    assert!(topic.letters().is_empty(), "{:?}", topic.letters());
    let ledger = topic.stop(&mut server);
    assert_eq!((ledger["read"], ledger["rejected"]), (4, 0), "{ledger:?}");
}

fn delay_sum(server: &Server) -> f64 {
    figure(server, "order_end_to_end_seconds_sum")
}

fn figure(server: &Server, name: &str) -> f64 {
    figures(server, name)[""].parse().unwrap()
}

/// Of each partition, and by the time that the sender gave a message.
#[test]
fn lag_and_delay_are_measured() {
    let Some(topic) = Topic::create(3) else { return };
    let mut sent = Sent::default();
    let server = Server::start(&topic.flags());
    sent.send(&topic.sender(), 0..60);
    sent.send_rubbish(&topic.sender(), 4);
    sent.wait_seen(&server, &topic);
    let partitions = [0, 1, 2].map(|partition| (format!("{{partition=\"{partition}\"}}"), 0));
    until("each partition has its lag", RECOVERY, || {
        (metric(&server, "kafka_lag").into_iter().collect::<Vec<_>>() == partitions).then_some(())
    });
    assert_eq!(metric(&server, "order_end_to_end_seconds_count")[""], 60);
    let sum = delay_sum(&server);
    assert!(sum > 0.0 && sum < 60.0 * RECOVERY.as_secs_f64(), "{sum} seconds for 60 orders");
    // An hour late, by its own time.
    let hour_ago = SystemTime::UNIX_EPOCH.elapsed().unwrap().as_millis() as i64 - 3_600_000;
    topic.send_one(Message { timestamp: Some(hour_ago), ..sent.order(60) });
    sent.wait_seen(&server, &topic);
    let late = delay_sum(&server) - sum;
    assert!(late > 3500.0, "{late} seconds");
    // Until it arrived and since then, to a millisecond each.
    assert_eq!(metric(&server, "order_arrival_duration_seconds_count")[""], 61);
    let parts = ["order_arrival_duration_seconds_sum", "order_visible_duration_seconds_sum"];
    let parts: f64 = parts.map(|part| figure(&server, part)).iter().sum();
    assert!((parts - delay_sum(&server)).abs() < 61.0 * 0.002, "{parts} of {} seconds", delay_sum(&server));
    // An hour early.
    let arrival = figures(&server, "order_arrival_duration_seconds_sum");
    topic.send_one(Message { timestamp: Some(hour_ago + 7_200_000), ..sent.order(62) });
    sent.wait_seen(&server, &topic);
    assert_eq!(metric(&server, "order_arrival_duration_seconds_count")[""], 62);
    assert_eq!(figures(&server, "order_arrival_duration_seconds_sum"), arrival);
    // A producer without a clock.
    topic.send_one(Message { timestamp: Some(1), ..sent.order(61) });
    sent.wait_seen(&server, &topic);
    assert!(delay_sum(&server) - sum - late < 1.0, "{} seconds", delay_sum(&server));
    assert_eq!(metric(&server, "kafka_rebalances_total")[""], 1);
    sent.check_letters(&topic, true);
    assert_eq!(server.get("/readyz").status, 200);
    let assigned = logged(&server, |event| event["message"] == "partitions assigned");
    assert_eq!(assigned["topic"], topic.name.as_str());
}

#[test]
fn only_committed_transactions_count_and_what_is_no_message_is_no_lag() {
    /// Longer than a broker takes for an answer, also on a busy machine.
    const STALL: Duration = Duration::from_secs(15);
    let Some(topic) = Topic::create(1) else { return };
    // How far the fetching has come where messages do not tell is known at each measure.
    let flags =
        ["--kafka-stall-timeout", "15s", "--kafka-lag-max", "5", "--kafka-property", "statistics.interval.ms=100"];
    let mut server = Server::start(&topic.flags_with(&flags));
    let mut sent = Sent::default();
    let committed: Vec<_> = (0..20).map(|n| sent.order(n)).collect();
    topic.send_transaction(&committed, true);
    topic.send_transaction(&[Message::new(wb(0)), Message::new("rubbish")], false);
    topic.send_transaction(&vec![Message::new(wb(1)); 20], false);
    // Last there are only ends of transactions and messages that count for nothing.
    sent.wait_seen(&server, &topic);
    until("there is no lag", RECOVERY, || (Topic::lag(&server) == 0).then_some(()));
    // Behind again and again, and never for long: until the consumer has delivered nothing for longer than one that is
    // behind all the time may be silent.
    let since = Instant::now();
    while since.elapsed() <= STALL + Duration::from_secs(1) {
        topic.send_transaction(&[Message::new(wb(2))], false);
        topic.wait_acknowledged();
    }
    assert_eq!(metric(&server, "kafka_stalls_total")[""], 0);
    until("there is no lag", RECOVERY, || (Topic::lag(&server) == 0).then_some(()));
    assert_eq!(server.get("/readyz").status, 200);
    // And what comes later is read.
    sent.send(&topic.sender(), 20..30);
    sent.wait_seen(&server, &topic);
    sent.check_view(&server, None);
    sent.check_letters(&topic, true);
    assert_eq!(topic.stop(&mut server)["read"], 30);
}
