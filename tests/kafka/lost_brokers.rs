//! Brokers that name no broker at all when they are asked, as one does that has fenced itself after it was held: clients
//! that believe it must find the brokers again, without a restart.

use std::sync::atomic::Ordering;
use std::time::Duration;

use super::proxy::Proxy;
use super::topic::Topic;
use crate::broker::ledger::{Sent, metric, stop};
use crate::broker::{Channel, RECOVERY};
use crate::server::{Server, until};

/// librdkafka forgot its last broker then and never looked for one again: intake, dead letters and snapshots stopped
/// until the service was restarted, one broker in twenty that was held for some seconds.
#[test]
fn clients_that_were_told_of_no_broker_find_the_brokers_again() {
    let Some(topic) = Topic::create(2) else { return };
    let proxy = Proxy::start(&topic.brokers);
    let brokers = proxy.url();
    let snapshots = format!("{}.snapshots", topic.name);
    // Producers would not ask for minutes by themselves.
    let often = "topic.metadata.refresh.interval.ms=500";
    let more = ["--kafka-snapshots-topic", &snapshots, "--kafka-property", often];
    let mut flags = topic.flags_with(&more);
    flags[1] = &brokers;
    let mut server = Server::start(&flags);
    let mut sent = Sent::default();
    sent.send(&topic.sender(), 0..20);
    sent.send_rubbish(&topic.sender(), 2);
    sent.wait_seen(&server, &topic);
    until("they are published", RECOVERY, || (topic.read(&snapshots).len() == 20).then_some(()));

    // A client that is quicker than its last broker's thread gets over it by itself, so each is told more than once. How
    // long each time is does not matter: one that is lost stays so until it is recovered.
    until("the consumer and a publisher are recovered", RECOVERY, || {
        for is_hidden in [true, false] {
            proxy.faults().hides_brokers.store(is_hidden, Ordering::SeqCst);
            std::thread::sleep(Duration::from_secs(2));
        }
        ["consumer", "publisher"].iter().all(|client| has_recovered(&server, client)).then_some(())
    });

    sent.send(&topic.sender(), 10..40);
    sent.send_rubbish(&topic.sender(), 2);
    topic.wait_acknowledged();
    until("all are published", RECOVERY, || (topic.read(&snapshots).len() == 50).then_some(()));
    assert_eq!(server.get("/api/stats").json()["total_orders"], 40);
    sent.check_letters(&topic, true);
    assert!(metric(&server, "kafka_clients_recovered_total")[""] >= 2);
    assert_eq!(server.get("/readyz").status, 200);
    stop(&mut server, Topic::SOURCE);
}

/// Whether a client of the service has been given the brokers again.
fn has_recovered(server: &Server, client: &str) -> bool {
    let events = server.log().into_iter().filter_map(|line| serde_json::from_str::<serde_json::Value>(&line).ok());
    let is_it = |event: &serde_json::Value| {
        event["message"] == "a client of Kafka has lost every broker, connecting again" && event["client"] == client
    };
    events.into_iter().any(|event| is_it(&event))
}
