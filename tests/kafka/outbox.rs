//! What was left in the outbox is published by another process: all of it, and each order last as it is now.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use order_service::id::OrderId;
use order_service::kafka::Config;
use order_service::metrics::Metrics;
use order_service::outbox;
use order_service::record::{Contents, Parcel};
use order_service::relay::Relay;
use order_service::snapshot::{Kind, Snapshot, State};
use order_service::store::Unpublished;

use super::topic::Topic;
use crate::broker::{Channel, Letter, RECOVERY};
use crate::scripted::Scripted;
use crate::servers;

const CONTENTS: Contents = Contents { snapshots: true, events: false, acks: false };

fn id(name: &str) -> OrderId {
    OrderId::parse(name.as_bytes()).unwrap()
}

fn copy(name: &str, version: u64) -> Snapshot {
    let body = format!(r#"{{"order_uid":"{name}","v":{version}}}"#);
    Snapshot::new(version, 1, Kind::Wb, State::Live, body.as_bytes(), &mut Vec::new())
}

fn left_behind(ticket: i64, name: &str) -> Unpublished {
    Unpublished { parcel: Parcel { ticket, contents: CONTENTS }, orders: vec![(id(name), copy(name, 1))] }
}

/// Publishes what the store says was left behind until it is forgotten; gives what is in the topic then.
fn publish(store: &Scripted, batches: usize) -> Option<Vec<Letter>> {
    let (brokers, topic) = (servers::kafka()?, Topic::create(1)?);
    let name = |suffix: &str| format!("{}.{suffix}", topic.name);
    let mut config = Config::new(brokers);
    config.snapshots_topic = Some(name("snapshots"));
    (config.events_topic, config.ack_topic) = (name("events"), name("ack"));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let (outbox, handed_over) = outbox::outbox(CONTENTS);
        let metrics = Metrics::new(&[], &[]).outbox;
        let relay = Relay::new(&config, store.clone(), &"test".into(), &Arc::default(), metrics).unwrap();
        let running = tokio::spawn(relay.run(handed_over));
        let end = Instant::now() + RECOVERY;
        while store.0.published.lock().unwrap().len() < batches {
            assert!(Instant::now() < end, "published in {RECOVERY:?}: {:?}", store.0.published.lock().unwrap());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        drop(outbox);
        running.await.unwrap();
    });
    Some(topic.read(&name("snapshots")))
}

#[test]
fn an_order_that_changed_while_it_was_published_for_another_is_published_again_as_it_is() {
    let store = Scripted::default();
    store.0.unpublished.lock().unwrap().extend([left_behind(7, "a"), left_behind(8, "b")]);
    // Its writer published version 2 before the one that was left behind got to the topic.
    store.0.orders.lock().unwrap().extend([(id("a"), copy("a", 2)), (id("b"), copy("b", 1))]);
    let Some(letters) = publish(&store, 2) else { return };
    let versions = |name: &str| -> Vec<String> {
        letters.iter().filter(|one| one.key() == name).map(|one| one.header("version").to_owned()).collect()
    };
    assert_eq!(versions("a"), ["1", "2"], "the last snapshot in the topic is the newest");
    assert_eq!(versions("b"), ["1"]);
}

#[test]
fn batches_that_were_left_behind_are_taken_over_many_at_once() {
    let store = Scripted::default();
    store.0.unpublished.lock().unwrap().extend((1..=10).map(|n| left_behind(n, &format!("o{n}"))));
    let Some(letters) = publish(&store, 10) else { return };
    assert_eq!(letters.len(), 10);
    // One a look would be one a second: a backlog of an hour of writes would be older every day.
    assert_eq!(store.0.claims.load(Ordering::SeqCst), 1, "looks at the store that took some of them");
}
