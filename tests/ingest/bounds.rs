//! A view with a budget: what leaves comes back as it was committed last, and nothing older.

use std::collections::HashMap;
use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::task::Poll;
use std::time::Duration;

use bytes::Bytes;
use order_service::cache::{self, View};
use order_service::id::OrderId;
use order_service::ingest::{self, Ingest, IngestMetrics};
use order_service::metrics::Metrics;
use order_service::order::Profile;
use order_service::process::lifecycle::{self, Readiness, Trigger};
use order_service::read::{self, Found, Reader};
use order_service::replication::follow;
use order_service::snapshot::{Kind, Snapshot, State};
use order_service::source::inbox::{self, Inbox, Reply};
use order_service::store::Store;
use order_service::store::embedded::{Config, Embedded};
use order_service::warmup;

use super::lying::{LONG, Lie, Lying, settled};
use crate::server::{Server, until};

/// Room for nothing: whatever may leave does.
const NO_ROOM: cache::Config = bounds(Some(1), None);

const fn bounds(bytes_max: Option<u64>, ttl: Option<Duration>) -> cache::Config {
    cache::Config {
        list_max: 10,
        list_bytes_max: 1 << 20,
        list_refresh: Duration::from_millis(20),
        list_compress: false,
        feed_events_max: 10,
        feed_bytes_max: 1 << 20,
        key_of: None,
        owner_of: None,
        bytes_max,
        ttl,
        warm_max: None,
        absent_max: 10,
        absent_time: Duration::from_mins(1),
    }
}

/// A running ingest loop and a reader over a bounded view.
struct Bench {
    store: Lying,
    view: Arc<View>,
    reader: Reader,
    inbox: Inbox,
    _trigger: Trigger,
    _dir: tempfile::TempDir,
}

impl Bench {
    async fn start(config: cache::Config) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Lying::new(Embedded::open(Config::new(dir.path())).unwrap(), []);
        let view = Arc::new(View::new(config, 0));
        let (inbox, source) = inbox::inbox(&inbox::Config::default());
        let (trigger, shutdown) = lifecycle::shutdown();
        let seen = Some(Arc::clone(&view));
        let settings = ingest::Config { profile: Profile::Lenient, ..ingest::Config::default() };
        let metrics = IngestMetrics::register(&Metrics::default());
        let ingest = Ingest::new(source, store.clone(), seen, &settings, metrics).await.unwrap();
        tokio::spawn(ingest.run(shutdown));
        // What is held here is held for as long as it takes.
        let patient = read::Config { load_wait: LONG, ..read::Config::default() };
        let reader = Reader::new(Arc::clone(&view), store.clone(), patient);
        Self { store, view, reader, inbox, _trigger: trigger, _dir: dir }
    }

    async fn post(&self, name: &str, n: u64) {
        let reply = self.inbox.submit(document(name, n)).unwrap().await.unwrap();
        assert!(matches!(reply, Reply::Stored { .. }), "{reply:?}");
    }

    /// Another view, filled from the store as at a start.
    async fn restarted(&self, config: cache::Config) -> Arc<View> {
        let view = Arc::new(View::new(config, 0));
        let (_trigger, shutdown) = lifecycle::shutdown();
        follow::count(&view, &self.store, shutdown.clone()).await.unwrap();
        let gate = Readiness::default().gate("warm-up", "");
        warmup::run(Arc::clone(&view), self.store.clone(), gate, shutdown).await.unwrap();
        view
    }
}

fn document(name: &str, n: u64) -> Bytes {
    format!(r#"{{"order_uid":"{name}","n":{n},"fill":"{}"}}"#, "x".repeat(800)).into()
}

fn id(name: &str) -> OrderId {
    OrderId::parse(name.as_bytes()).unwrap()
}

#[tokio::test]
async fn a_stampede_on_an_order_that_left_is_one_load() {
    let bench = Bench::start(NO_ROOM).await;
    bench.post("a", 1).await;
    assert!(matches!(bench.reader.get(&id("a")), Found::Miss));
    let held = bench.store.hold_answers();
    let a = id("a");
    let mut readers: Vec<_> = (0..500).map(|_| Box::pin(bench.reader.load(&a))).collect();
    for reader in &mut readers {
        let polled = poll_fn(|context| Poll::Ready(reader.as_mut().poll(context))).await;
        assert!(polled.is_pending(), "all of them wait before there is an answer");
    }
    bench.store.fetches.answered.reaches(1).await;
    drop(held);
    for reader in readers {
        assert_eq!(reader.await.unwrap().unwrap().flat(), document("a", 1));
    }
    assert_eq!(bench.store.fetches.entered.get(), 1);
}

#[tokio::test]
async fn an_answer_of_the_store_that_is_late_replaces_nothing_that_left_meanwhile() {
    let bench = Bench::start(NO_ROOM).await;
    bench.post("a", 1).await;
    let held = bench.store.hold_answers();
    let reader = bench.reader.clone();
    let late = tokio::spawn(async move { reader.load(&id("a")).await });
    bench.store.fetches.answered.reaches(1).await; // with version 1
    bench.post("a", 2).await;
    assert_eq!(bench.view.peek(&id("a")).unwrap().version(), 2, "it may not leave while it is being loaded");
    drop(held);
    assert_eq!(late.await.unwrap().unwrap().unwrap().version(), 2);
    assert!(bench.view.peek(&id("a")).is_none(), "now it may");
}

#[tokio::test]
async fn an_unknown_id_is_remembered_until_its_order_arrives_even_if_that_leaves_at_once() {
    let bench = Bench::start(NO_ROOM).await;
    assert!(bench.reader.load(&id("a")).await.unwrap().is_none());
    assert!(matches!(bench.reader.get(&id("a")), Found::Absent));
    bench.post("a", 1).await;
    assert!(matches!(bench.reader.get(&id("a")), Found::Miss));
    assert_eq!(bench.reader.load(&id("a")).await.unwrap().unwrap().version(), 1);
}

#[tokio::test]
async fn what_others_tell_late_brings_nothing_back() {
    let bench = Bench::start(NO_ROOM).await;
    bench.post("a", 1).await;
    bench.post("a", 2).await;
    let old = bench.store.truth.fetch(id("a")).await.unwrap().unwrap();
    let told = |version| {
        let snapshot = Snapshot::new(version, old.seq(), Kind::Wb, State::Live, b"{}", &mut Vec::new());
        let change = snapshot.apparent_change();
        bench.view.apply_remote(cache::feed::Event::new(id("a"), snapshot, change))
    };
    assert!(!told(3));
    assert!(bench.view.peek(&id("a")).is_none(), "who knows how old that is");
    // While someone reads it from the store, what is heard is not lost.
    let pinned = bench.view.pin(vec![id("a")]);
    assert!(!told(3));
    bench.view.fill(id("a"), old.clone());
    drop(pinned);
    let pinned = bench.view.pin(vec![id("a")]);
    assert!(!told(4));
    bench.view.fill(id("a"), old.clone());
    assert!(told(5));
    assert_eq!(bench.view.peek(&id("a")).unwrap().version(), 5);
    drop(pinned);
}

#[tokio::test]
async fn what_is_durable_and_not_yet_visible_is_counted_once() {
    let bench = Bench::start(NO_ROOM).await;
    bench.post("a", 1).await;
    bench.store.lie(Lie::HoldAnswer);
    let reply = bench.inbox.submit(document("b", 1)).unwrap();
    bench.store.written.reaches(1).await;
    let (_trigger, shutdown) = lifecycle::shutdown();
    let (view, store) = (Arc::clone(&bench.view), bench.store.clone());
    let count = tokio::spawn(async move { follow::count(&view, &store, shutdown).await });
    settled().await;
    let late = bench.inbox.submit(document("c", 1)).unwrap();
    settled().await;
    assert!(!count.is_finished(), "it would find an order that is counted again when it becomes visible");
    bench.store.release();
    for reply in [reply, late] {
        assert!(matches!(reply.await.unwrap(), Reply::Stored { .. }));
    }
    count.await.unwrap().unwrap();
    assert_eq!(bench.view.size().live, 3);
}

#[tokio::test]
async fn warm_up_takes_the_newest_orders_that_fit_and_knows_whether_that_is_all() {
    let bench = Bench::start(bounds(None, Some(Duration::from_hours(1)))).await;
    let name = |n: u64| format!("o{n:05}");
    let posts = (0..3000).map(|n| bench.inbox.submit(document(&name(n), n)).unwrap());
    for reply in posts.collect::<Vec<_>>() {
        assert!(matches!(reply.await.unwrap(), Reply::Stored { .. }));
    }
    bench
        .inbox
        .submit(Bytes::from(format!(r#"{{"order_uid":"{}","status":"deleted"}}"#, name(7))))
        .unwrap()
        .await
        .unwrap();

    let all = bench.restarted(bounds(Some(100 << 20), None)).await;
    assert!(all.is_complete());
    assert_eq!((all.size().entries, all.size().live), (3000, 2999));

    let part = bench.restarted(bounds(Some(1 << 20), None)).await;
    let size = part.size();
    assert!(!part.is_complete());
    assert_eq!(size.live, 2999);
    assert!((700..1100).contains(&size.entries), "{size:?}");
    for n in 2400..3000 {
        assert!(part.contains(&id(&name(n))), "{n} is among the newest");
    }

    let newest = bench.restarted(cache::Config { warm_max: Some(1234), ..bounds(Some(100 << 20), None) }).await;
    assert_eq!((newest.size().entries, newest.size().live, newest.is_complete()), (1234, 2999, false));
    assert!(newest.contains(&id(&name(3000 - 1234))));
    let none = bench.restarted(cache::Config { warm_max: Some(0), ..bounds(Some(100 << 20), None) }).await;
    assert_eq!((none.size().entries, none.size().live, none.is_complete()), (0, 2999, false));
}

#[tokio::test(start_paused = true)]
async fn an_order_leaves_when_its_time_is_up_and_is_read_again() {
    let view = Arc::new(View::new(bounds(None, Some(Duration::from_mins(1))), 0));
    let (_trigger, shutdown) = lifecycle::shutdown();
    tokio::spawn(warmup::run_evictor(Arc::clone(&view), shutdown));
    let copy = |n| Snapshot::new(1, n, Kind::Wb, State::Live, b"{}", &mut Vec::new());
    view.set_complete();
    view.fill(id("a"), copy(1));
    tokio::time::sleep(Duration::from_secs(40)).await;
    view.fill(id("b"), copy(2));
    assert!(view.get(&id("a")).is_some() && view.is_complete());
    tokio::time::sleep(Duration::from_secs(21)).await;
    assert!(view.peek(&id("a")).is_none(), "reading it does not keep it");
    assert!(view.peek(&id("b")).is_some());
    assert!(!view.is_complete());
    tokio::time::sleep(Duration::from_secs(40)).await;
    assert_eq!((view.size().entries, view.size().bytes, view.size().evicted), (0, 0, 2));
}

/// Orders of the load test below.
const ORDERS: usize = 5000;
/// How many of them the budget holds, about.
const FIT: usize = 500;

#[test]
fn under_load_every_answer_is_what_was_written_last_with_a_tenth_of_the_orders_in_memory() {
    let server = Server::start(&["--profile", "lenient", "--cache-bytes-max", "1MiB"]);
    let body = |n: usize, version: u64| {
        format!(r#"{{"order_uid":"load-{n}","v":{version},"fill":"{}"}}"#, "y".repeat(1700 + n % 300))
    };
    let lines: Vec<String> = (0..ORDERS).map(|n| body(n, 1) + "\n").collect();
    for chunk in lines.chunks(1000) {
        let kind = [("Content-Type", "application/x-ndjson")];
        let reply = server.request("POST", "/orders", &kind, chunk.concat()).expect(200);
        assert_eq!(reply.text().matches("created").count(), 1000);
    }
    let acknowledged: Vec<AtomicU64> = (0..ORDERS).map(|_| AtomicU64::new(1)).collect();
    let reads = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for thread in 0..4 {
            let (server, acknowledged, reads, body) = (&server, &acknowledged, &reads, &body);
            scope.spawn(move || {
                let mut random = fastrand::Rng::with_seed(thread as u64);
                let mut connection = server.connect();
                for _ in 0..2500 {
                    // Some are asked for far more often.
                    let n = (0..3).fold(random.usize(..ORDERS), |n, _| random.usize(..=n));
                    if n % 4 == thread && random.u8(..4) == 0 {
                        let next = acknowledged[n].load(Ordering::SeqCst) + 1;
                        let reply = connection.request("POST", "/orders", &[], body(n, next)).expect(200);
                        assert_eq!(reply.header("etag"), Some(&*format!("\"{next}\"")));
                        acknowledged[n].store(next, Ordering::SeqCst);
                    }
                    let least = acknowledged[n].load(Ordering::SeqCst);
                    let reply = connection.get_in_time(&format!("/order/load-{n}"), &[]).expect(200);
                    let version: u64 = reply.header("etag").unwrap().trim_matches('"').parse().unwrap();
                    assert!(version >= least, "load-{n} was at {least} and is answered at {version}");
                    assert_eq!(reply.text(), body(n, version));
                    reads.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
    });
    assert_eq!(reads.into_inner(), 10_000);
    // A list that is being read holds everything in place for so long.
    let stats = until("what has no room has left", LONG, || {
        let stats = server.get("/api/stats").expect(200).json();
        (stats["view_bytes"].as_u64().unwrap() < 1 << 20).then_some(stats)
    });
    assert_eq!(stats["total_orders"], ORDERS);
    assert_eq!(stats["view_complete"], false);
    let entries = stats["view_orders"].as_u64().unwrap() as usize;
    assert!((FIT * 8 / 10..FIT * 12 / 10).contains(&entries), "{stats}");
    let metrics = server.get("/metrics").text().to_owned();
    let evicted = metrics.lines().find_map(|line| line.strip_prefix("view_evicted_orders_total ")).unwrap();
    assert!(evicted.parse::<usize>().unwrap() > ORDERS, "{evicted}");

    // Lists, look-ups and counts speak of all orders.
    let all = server.request("GET", "/api/orders", &[("Accept", "application/x-ndjson")], "").expect(200);
    let mut shown: HashMap<String, String> = HashMap::new();
    for line in all.text().lines() {
        let order: serde_json::Value = serde_json::from_str(line).unwrap();
        shown.insert(order["order_uid"].as_str().unwrap().to_owned(), line.to_owned());
    }
    assert_eq!(shown.len(), ORDERS);
    for n in 0..ORDERS {
        assert_eq!(shown[&format!("load-{n}")], body(n, acknowledged[n].load(Ordering::SeqCst)));
    }
    let some = server.connect().get_in_time("/api/orders?ids=load-0,load-4999,unknown,load-17", &[]).expect(200);
    assert_eq!(some.header("x-missing"), Some("1"));
    assert_eq!(some.json().as_array().unwrap().len(), 3);
    server.connect().get_in_time("/order/unknown", &[]).expect(404);
    server.post("/orders", r#"{"order_uid":"load-4711","status":"deleted"}"#).expect(200);
    server.get("/order/load-4711").expect(410);
    until("the count follows", LONG, || (server.get("/api/stats").json()["total_orders"] == ORDERS - 1).then_some(()));
    server.post("/orders", body(4711, 9)).expect(409);
}
