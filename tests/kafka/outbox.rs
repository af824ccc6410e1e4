//! What was left in the outbox is published by another process: all of it, and each order last as it is now.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use order_service::id::OrderId;
use order_service::kafka::Config;
use order_service::lifecycle::Readiness;
use order_service::metrics::Metrics;
use order_service::outbox::{self, Changed};
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
    Unpublished { parcel: Parcel { ticket, contents: CONTENTS }, ids: vec![id(name)] }
}

fn changed(name: &str, version: u64) -> Changed {
    let snapshot = copy(name, version);
    Changed { id: id(name), change: snapshot.apparent_change(), snapshot }
}

/// Publishes what is handed over, and what the store says was left behind, until so many batches are forgotten; gives
/// what is in the topic then.
fn publish(store: &Scripted, handed_over: Vec<(i64, Vec<Changed>)>, batches: usize) -> Option<Vec<Letter>> {
    let (brokers, topic) = (servers::kafka()?, Topic::create(1)?);
    let name = |suffix: &str| format!("{}.{suffix}", topic.name);
    let mut config = Config::new(brokers);
    config.snapshots_topic = Some(name("snapshots"));
    (config.events_topic, config.ack_topic) = (name("events"), name("ack"));
    topic.make_topic(&name("snapshots"), 1, &[]); // what is handed over while it is made would be left to the store
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let (outbox, receiver) = outbox::outbox(CONTENTS);
        let metrics = Metrics::new(&[], &[]).outbox;
        let (identity, gate) = (Arc::default(), Readiness::default().gate("outbox", "not started"));
        let relay = Relay::new(&config, CONTENTS, store.clone(), &"test".into(), &identity, metrics, gate).unwrap();
        let running = tokio::spawn(relay.run(receiver));
        let end = Instant::now() + RECOVERY;
        let mut handed_over = Some(handed_over);
        while store.0.published.lock().unwrap().len() < batches {
            if store.0.looks.load(Ordering::SeqCst) > 0 {
                for (ticket, changes) in handed_over.take().into_iter().flatten() {
                    outbox.hand_over(Parcel { ticket, contents: CONTENTS }, changes);
                }
            }
            assert!(Instant::now() < end, "published in {RECOVERY:?}: {:?}", store.0.published.lock().unwrap());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        drop(outbox);
        running.await.unwrap();
    });
    Some(topic.read(&name("snapshots")))
}

/// The versions of an order in the topic, in its order.
fn versions<'l>(letters: &'l [Letter], name: &str) -> Vec<&'l str> {
    letters.iter().filter(|one| one.key() == name).map(|one| one.header("version")).collect()
}

#[test]
fn an_order_that_another_instance_changed_while_it_was_on_its_way_is_published_again_as_it_is() {
    let store = Scripted::default();
    // Version 2 may have reached the topic before version 1 did, whose instance may end at any moment.
    store.0.orders.lock().unwrap().extend([(id("a"), copy("a", 2)), (id("b"), copy("b", 1))]);
    let batches = vec![(7, vec![changed("a", 1), changed("b", 1)]), (8, vec![changed("b", 1)])];
    let Some(letters) = publish(&store, batches, 2) else { return };
    assert_eq!(versions(&letters, "a"), ["1", "2"], "the last snapshot in the topic is the newest");
    assert_eq!(versions(&letters, "b"), ["1", "1"], "what is the newest goes once for each batch");
    // Before its newest copy has arrived it is not forgotten.
    assert_eq!(*store.0.published.lock().unwrap(), [8, 7]);
}

#[test]
fn what_was_left_behind_is_published_as_it_is_now() {
    let store = Scripted::default();
    store.0.unpublished.lock().unwrap().extend([left_behind(7, "a"), left_behind(8, "b")]);
    // Another writer changed the first one since.
    store.0.orders.lock().unwrap().extend([(id("a"), copy("a", 2)), (id("b"), copy("b", 1))]);
    let Some(letters) = publish(&store, Vec::new(), 2) else { return };
    assert_eq!(versions(&letters, "a"), ["2"]);
    assert_eq!(versions(&letters, "b"), ["1"]);
}

#[test]
fn batches_that_were_left_behind_are_taken_over_until_there_are_no_more() {
    let store = Scripted::default();
    let names: Vec<String> = (1..=200).map(|n| format!("o{n}")).collect();
    let batches = (1..).zip(&names).map(|(ticket, name)| left_behind(ticket, name));
    store.0.unpublished.lock().unwrap().extend(batches);
    store.0.orders.lock().unwrap().extend(names.iter().map(|name| (id(name), copy(name, 1))));
    let Some(letters) = publish(&store, Vec::new(), names.len()) else { return };
    assert_eq!(letters.len(), names.len());
    // One after the other without a pause: at one look a second a backlog of an hour of writes would never end.
    let taken = store.0.claims.load(Ordering::SeqCst);
    assert_eq!(taken, 4, "looks at the store that took some of them");
}
