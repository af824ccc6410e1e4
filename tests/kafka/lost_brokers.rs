//! Brokers that name no broker at all when they are asked, as one does that has fenced itself after it was held: clients
//! that believe it must find the brokers again, without a restart.

use std::sync::atomic::Ordering;
use std::time::Duration;

use super::proxy::Proxy;
use super::topic::Topic;
use crate::broker::ledger::{Sent, metric, stop};
use crate::broker::{Channel, RECOVERY};
use crate::server::{Server, until};

/// How often all brokers are hidden at most.
const ROUNDS_MAX: u32 = 10;

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
    let more = ["--kafka-snapshots", "on", "--kafka-snapshots-topic", &snapshots, "--kafka-property", often];
    let mut flags = topic.flags_with(&more);
    flags[1] = &brokers;
    let mut server = Server::start(&flags);
    let mut sent = Sent::default();
    sent.send(&topic.sender(), 0..20);
    sent.send_rubbish(&topic.sender(), 2);
    sent.wait_seen(&server, &topic);
    until("they are published", RECOVERY, || (topic.read(&snapshots).len() == 20).then_some(()));

    // A client that is quicker than its last broker's thread gets over it by itself, as all do where they have little of
    // the machine, so each is told more than once. How long each time is does not matter: one that is lost stays so until
    // it is recovered.
    let is_recovered = |client: &&str| recoveries(&server, client) > 0;
    let faults = proxy.faults();
    for _ in 0..ROUNDS_MAX {
        let before = faults.hidden.load(Ordering::SeqCst);
        faults.hides_brokers.store(true, Ordering::SeqCst);
        until("a client is told so", RECOVERY, || (faults.hidden.load(Ordering::SeqCst) > before).then_some(()));
        std::thread::sleep(Duration::from_secs(2)); // for the others
        faults.hides_brokers.store(false, Ordering::SeqCst);
        std::thread::sleep(Duration::from_secs(2));
        if ["consumer", "publisher"].iter().all(is_recovered) {
            break;
        }
    }

    sent.send(&topic.sender(), 10..40);
    sent.send_rubbish(&topic.sender(), 2);
    topic.wait_acknowledged();
    until("all are published", RECOVERY, || (topic.read(&snapshots).len() == 50).then_some(()));
    assert_eq!(server.get("/api/stats").json()["total_orders"], 40);
    sent.check_letters(&topic, true);
    until("each recovery is counted", RECOVERY, || {
        let told: usize =
            ["consumer", "publisher", "letters", "tail"].iter().map(|client| recoveries(&server, client)).sum();
        (metric(&server, "kafka_clients_recovered_total")[""] >= told as u64).then_some(())
    });
    assert_eq!(server.get("/readyz").status, 200);
    stop(&mut server, Topic::SOURCE);
}

/// How often clients of this kind have been given the brokers again.
fn recoveries(server: &Server, client: &str) -> usize {
    let events = server.log().into_iter().filter_map(|line| serde_json::from_str::<serde_json::Value>(&line).ok());
    let is_it = |event: &serde_json::Value| {
        event["message"] == "a client of Kafka has lost every broker, connecting again" && event["client"] == client
    };
    events.filter(is_it).count()
}
