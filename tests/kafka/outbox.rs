//! What was left in the outbox is published by another process: all of it, and each order last as it is now.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use order_service::id::OrderId;
use order_service::kafka::Config;
use order_service::metrics::Metrics;
use order_service::process::lifecycle::Readiness;
use order_service::record::{Contents, Parcel};
use order_service::replication::OutboxMetrics;
use order_service::replication::outbox::{self, Changed};
use order_service::replication::relay::Relay;
use order_service::snapshot::{Kind, Snapshot, State};
use order_service::store::Unpublished;

use super::topic::Topic;
use crate::broker::{Channel, Letter, RECOVERY};
use crate::scripted::Scripted;
use crate::server::{Server, until};
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
        let metrics = OutboxMetrics::register(&Metrics::default());
        let (identity, gate) = (Arc::default(), Readiness::default().gate("outbox", "not started"));
        let relay = Relay::new(&config, store.clone(), &"test".into(), &identity, metrics, gate).unwrap();
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

/// Waits until a write waits for workers, of which there are none: what is written before that is answered at once.
fn wait_joined(server: &Server) {
    until("writes wait for workers", RECOVERY, || {
        server.log().iter().any(|line| line.contains("writes wait for the workers")).then_some(())
    });
}

/// Text that no compression makes much shorter.
fn noise(bytes: usize) -> String {
    let mut random = fastrand::Rng::with_seed(7);
    std::iter::repeat_with(|| random.alphanumeric()).take(bytes).collect()
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

#[test]
fn what_is_too_large_for_its_topic_stays_recorded_and_is_published_once_there_is_room() {
    let Some(topic) = Topic::create(1) else { return };
    let snapshots = format!("{}.snapshots", topic.name);
    topic.make_topic(&snapshots, 1, &[("max.message.bytes", "3000"), ("cleanup.policy", "delete")]);
    let (events, acks) = (format!("{}.events", topic.name), format!("{}.ack", topic.name));
    let environment = [("ORDERS_EVENTS_TOPIC", events.as_str()), ("ORDERS_ACK_TOPIC", &acks)];
    let own = ["--kafka-snapshots", "on", "--kafka-snapshots-topic", &snapshots, "--http-worker-wait", "1ms"];
    let flags = topic.flags_with(&own);
    let mut server = Server::start_in(&flags, &environment);
    let order = |name: &str, bytes: usize| {
        let mut body = Vec::new();
        order_service::order::sample::wb(3, bytes as u64, &mut body);
        let mut order: serde_json::Value = serde_json::from_slice(&body).unwrap();
        (order["order_uid"], order["more"]) = (name.into(), noise(bytes).into());
        order.to_string()
    };
    let lines = format!("{}\n{}\n", order("large", 4000), order("small", 10));
    server.request("POST", "/orders", &[("Content-Type", "application/x-ndjson")], lines).expect(200);
    let published = |name: &str| topic.read(&snapshots).iter().any(|letter| letter.key() == name);
    until("what fits is published", RECOVERY, || published("small").then_some(()));
    until("what does not is counted and named", RECOVERY, || {
        let is_named = |line: &String| line.contains("too large for its topic") && line.contains("large");
        (server.metric("outbox_too_large_orders_total") >= 1.0 && server.log().iter().any(is_named)).then_some(())
    });
    assert!(!published("large"));
    until("that old snapshots go is said", RECOVERY, || {
        let is_said = |line: &String| line.contains("the topic is not compacted") && line.contains(&snapshots);
        server.log().iter().any(is_said).then_some(())
    });
    // What did arrive of its batch is not sent again with each try.
    let payload = serde_json::json!({ "x": noise(4000) });
    let envelope = serde_json::json!({ "user_id": "0190163d-8694-739b-aea5-966c26f8ad91", "payload": payload });
    wait_joined(&server);
    server.post("/orders", envelope.to_string()).expect(202);
    let tries = || server.metric("outbox_too_large_orders_total");
    until("its event is published", RECOVERY, || (topic.read(&events).len() == 1).then_some(()));
    let before = tries();
    until("both are tried again", RECOVERY, || (tries() >= before + 2.0).then_some(()));
    assert_eq!(topic.read(&events).len(), 1, "one event, and another one with no try");
    // Another process finds it recorded, and the topic with more room.
    topic.stop(&mut server);
    topic.alter(&snapshots, &[("max.message.bytes", "20000")]);
    server.start_again();
    until("it is published once there is room", RECOVERY, || published("large").then_some(()));
    topic.stop(&mut server);
}

#[test]
fn topics_that_are_made_have_room_for_the_largest_order_and_others_are_named() {
    let Some(topic) = Topic::create(1) else { return };
    let name = |suffix: &str| format!("{}.{suffix}", topic.name);
    topic.make_topic(&name("events"), 1, &[]);
    let (snapshots, events, acks) = (name("snapshots"), name("events"), name("ack"));
    let own = ["--kafka-snapshots", "on", "--kafka-snapshots-topic", &snapshots, "--order-bytes-max", "4MiB"];
    let environment = [("ORDERS_EVENTS_TOPIC", events.as_str()), ("ORDERS_ACK_TOPIC", &acks)];
    let mut server = Server::start_in(&topic.flags_with(&own), &environment);
    until("the topic with too little room is named", RECOVERY, || {
        let is_named = |line: &String| line.contains("no room for the largest orders") && line.contains(&events);
        server.log().iter().any(is_named).then_some(())
    });
    let is_blamed = |line: &String| line.contains("the topic") && line.contains(&snapshots);
    assert!(!server.log().iter().any(is_blamed), "{:?}", server.log());
    let mut body = Vec::new();
    order_service::order::sample::wb(3, 1, &mut body);
    let mut order: serde_json::Value = serde_json::from_slice(&body).unwrap();
    order["more"] = "x".repeat(4_000_000).into();
    server.post("/orders", order.to_string()).expect(201);
    until("the largest order is published", RECOVERY, || (topic.read(&snapshots).len() == 1).then_some(()));
    // No worker would ever see it.
    let envelope = |bytes: usize| {
        let payload = serde_json::json!({ "x": "x".repeat(bytes) });
        serde_json::json!({ "user_id": "0190163d-8694-739b-aea5-966c26f8ad91", "payload": payload }).to_string()
    };
    let refused = server.post("/orders", envelope(2_000_000)).expect(413);
    assert!(refused.text().contains("that get to a worker"), "{}", refused.text());
    wait_joined(&server);
    server.post("/orders", envelope(1_000_000)).expect(202); // there is none
    until("its event is published", RECOVERY, || (topic.read(&events).len() == 1).then_some(()));
    assert_eq!(server.get("/api/stats").json()["total_orders"], 2);
    topic.stop(&mut server);
}
