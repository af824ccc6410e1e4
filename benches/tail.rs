//! What reads see of everything else the process does: their slowest answers at half load alone, while 50,000 orders a
//! second become visible, while the view makes room, and while a start loads a million orders from its store.
//! `cargo bench --bench tail`, or a part of it by name: `-- loaded`. `--huge-pages` does what
//! the setting does.
//!
//! The orders written are made, published, listed and told to readers of events, but not stored: on two cores a store
//! takes what is left of both. `loadtest/compare.sh` has the whole service.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use order_service::cache::feed::Event;
use order_service::cache::{Config, View};
use order_service::http::{self, Api};
use order_service::id::OrderId;
use order_service::ingest::{self, Ingest, IngestMetrics};
use order_service::listen::{self, Endpoint};
use order_service::metrics::Metrics;
use order_service::order::sample;
use order_service::process::lifecycle::{self, Readiness};
use order_service::read::{self, Reader, lists};
use order_service::snapshot::{ChangeKind, Kind, Snapshot, State};
use order_service::source::inbox;
use order_service::source::lines::Lines;
use order_service::store::Store;
use order_service::store::embedded::{self, Embedded};
use order_service::tls::server::Protocols;
use order_service::tools::client;
use order_service::tools::load::{self, report::Report};
use order_service::warmup;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const ORDERS: u64 = 10_000;
const WRITES_PER_SECOND: u32 = 50_000;
/// How long reads run before they are measured.
const NOT_MEASURED: Duration = Duration::from_millis(500);

fn main() {
    if !std::env::args().any(|argument| argument == "--huge-pages") {
        order_service::app::small_pages(); // as in the service
    }
    let is_test = !std::env::args().any(|argument| argument == "--bench");
    let (rounds, seconds): (usize, u64) = if is_test { (1, 1) } else { (10, 4) };
    let wanted: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with('-')).collect();
    let (nothing, million) = (dir(), dir());
    let rate = {
        let service = Service::start(nothing.path(), None);
        let most = service.load(None, if is_test { 1 } else { 3 });
        most["rate_answered_per_second"].as_f64().expect("a number") / 2.0
    };
    println!("half load: {rate:.0} reads/s over 64 connections, one thread; medians of rounds of {seconds} s");
    for (name, bytes_max, what) in [
        ("50,000 orders/s written", None, Beside::Writes),
        ("the same in a view with room for half of them", Some(6 << 20), Beside::Writes),
        ("a million orders loaded", None, Beside::WarmUp),
    ] {
        if !wanted.is_empty() && !wanted.iter().any(|wanted| name.contains(wanted)) {
            continue;
        }
        let stored = match what {
            Beside::Writes => &nothing,
            Beside::WarmUp => {
                // Only now: what is above is measured in a process that has done nothing else.
                store_all(million.path(), if is_test { 20_000 } else { 1_000_000 });
                &million
            }
        };
        // A gigabyte given back keeps a virtual machine's host busy for seconds: each start has new memory, and keeps it.
        let mut kept = Vec::new();
        let rounds = if what == Beside::WarmUp { rounds.div_ceil(2) } else { rounds };
        let (mut alone, mut beside) = (Vec::new(), Vec::new());
        for n in 0..2 * rounds {
            let is_beside = if what == Beside::WarmUp { n >= rounds } else { n % 2 == 1 };
            let service = Service::start(stored.path(), bytes_max);
            if what == Beside::WarmUp {
                kept.push(Arc::clone(&service.view));
            }
            if is_beside {
                beside.push(service.beside(what, is_test, || service.load(Some(rate), seconds)));
            } else {
                alone.push(service.load(Some(rate), seconds));
            }
        }
        for (when, reports) in [("alone", &alone), (name, &beside)] {
            let [p50, p99, p999, worst] = ["p50", "p99", "p99.9", "p100"].map(|percentile| median(reports, percentile));
            println!("p50 {p50:>5} us, p99 {p99:>5} us, p99.9 {p999:>5} us, worst {worst:>5} us: {when}");
        }
        #[expect(clippy::cast_precision_loss, reason = "figures for people")]
        let ratio = median(&beside, "p99.9") as f64 / median(&alone, "p99.9").max(1) as f64;
        println!("{name}: p99.9 {ratio:.2} of what it is alone, {rounds} rounds each\n");
    }
}

fn dir() -> tempfile::TempDir {
    tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a place for a store")
}

/// A store of so many orders, to start from.
fn store_all(dir: &Path, orders: u64) {
    let store = Embedded::open(embedded::Config::new(dir)).expect("a new store");
    let documents = (0..orders).map(|n| Bytes::from(document(n).1));
    let ledger = runtime().block_on(async {
        let (_trigger, shutdown) = lifecycle::shutdown();
        let metrics = IngestMetrics::register(&Metrics::default());
        let source = Lines::new("orders", documents);
        let ingest = Ingest::new(source, store, None, &ingest::Config::default(), metrics).await.expect("a new store");
        ingest.run(shutdown).await.expect("stored")
    });
    assert_eq!(ledger.stored, orders);
}

/// Of what this percentile was in each round: a machine that stops now and then by itself decides single rounds.
fn median(reports: &[serde_json::Value], percentile: &str) -> u64 {
    let at = |report: &serde_json::Value| report["latency_us"][percentile].as_u64().expect("a number");
    let mut all: Vec<u64> = reports.iter().map(at).collect();
    all.sort_unstable();
    all[all.len() / 2]
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Beside {
    Writes,
    WarmUp,
}

/// The service without its ingest: one thread serves, another one writes into the view.
struct Service {
    address: SocketAddr,
    view: Arc<View>,
    store: Embedded,
    client: tokio::runtime::Runtime,
    serving: tokio::runtime::Runtime,
    shutdown: lifecycle::Shutdown,
    _trigger: lifecycle::Trigger,
}

impl Service {
    fn start(dir: &Path, bytes_max: Option<u64>) -> Self {
        let store = Embedded::open(embedded::Config::new(dir)).expect("the store of no one else");
        // A start makes room before the first read brings an order, which would have to move.
        let serving = runtime();
        let room = serving.block_on(store.estimate()).expect("a store that can be read");
        let room = usize::try_from(room).expect("in memory") + usize::try_from(ORDERS).expect("few");
        let view = Arc::new(View::new(Config { bytes_max, ..Config::default() }, room));
        view.publish((0..ORDERS).map(|n| event(n, 1)).collect());
        let (trigger, shutdown) = lifecycle::shutdown();
        let listeners =
            listen::bind(&Endpoint::Tcp(SocketAddr::from((Ipv4Addr::LOCALHOST, 0))), 1, None, Protocols::Http)
                .expect("a free port");
        let address = listeners[0].endpoint().address().expect("bound");
        let (inbox, _) = inbox::inbox(&inbox::Config::default());
        let reader = Reader::new(Arc::clone(&view), store.clone(), read::Config::default());
        let metrics = Metrics::default();
        let api = Api::new(http::Config::default(), reader, inbox, metrics, Readiness::default(), shutdown.clone());
        serving.spawn(http::Server::new(api).serve(listeners, shutdown.clone()));
        let client = runtime();
        client.spawn(lists::run_list_refresher(Arc::clone(&view), store.clone(), shutdown.clone()));
        Self { address, view, store, client, serving, shutdown, _trigger: trigger }
    }

    /// Asks for the newest order, which is always in the view.
    fn load(&self, rate: Option<f64>, seconds: u64) -> serde_json::Value {
        let config = load::Config {
            server: client::Server::parse(&format!("http://{}", self.address), false).expect("a legal address"),
            paths: vec![format!("/order/{}", sample::wb_id(1, ORDERS - 1))].into(),
            rate,
            duration: Duration::from_secs(seconds),
            warm_up: NOT_MEASURED,
            connections: 64,
            timeout: Duration::from_secs(5),
            headers: Vec::new(),
            expect: 200,
            is_strict: false,
            seed: 1,
            count: None,
        };
        let report: Report = self.client.block_on(load::run(config)).expect("answers");
        let json = report.json();
        // What was due and not sent when the time was up counts with as long as it had waited.
        assert_eq!(Some(report.failures()), json["never_sent"].as_u64(), "{}", report.text());
        json
    }

    /// `read` while something else goes on.
    fn beside<R>(&self, what: Beside, is_test: bool, read: impl FnOnce() -> R) -> R {
        match what {
            Beside::WarmUp => {
                let gate = Readiness::default().gate("warm-up", "");
                let (view, store) = (Arc::clone(&self.view), self.store.clone());
                let warm_up = warmup::run(view, store, gate, self.shutdown.clone());
                let loading = self.serving.spawn(async {
                    // All of it is to be seen by reads that are measured.
                    tokio::time::sleep(NOT_MEASURED).await;
                    warm_up.await.expect("a sound store");
                });
                let result = read();
                self.client.block_on(loading).expect("no panic");
                assert!(self.view.is_complete());
                result
            }
            Beside::Writes => {
                let (stop, done) = (AtomicBool::new(false), AtomicU64::new(0));
                std::thread::scope(|scope| {
                    let writer = scope.spawn(|| self.write(&stop, &done));
                    let started = Instant::now();
                    let result = read();
                    stop.store(true, Ordering::Relaxed);
                    writer.join().expect("no panic");
                    #[expect(clippy::cast_precision_loss, reason = "figures for people")]
                    let per_second = done.load(Ordering::Relaxed) as f64 / started.elapsed().as_secs_f64();
                    // The last batch may not have been due for long.
                    let is_steady = per_second > f64::from(WRITES_PER_SECOND) * 0.98;
                    assert!(is_test || is_steady, "only {per_second:.0} orders/s were written meanwhile");
                    result
                })
            }
        }
    }

    /// Changes orders at a steady rate, as a batch every millisecond.
    fn write(&self, stop: &AtomicBool, done: &AtomicU64) {
        let started = Instant::now();
        let mut written = 0;
        while !stop.load(Ordering::Relaxed) {
            let due =
                u64::try_from(started.elapsed().as_micros()).expect("short") * u64::from(WRITES_PER_SECOND) / 1_000_000;
            while written < due {
                let batch = 50.min(due - written);
                // The one that is read stays at its version, and in the view.
                self.view.publish((written..written + batch).map(|n| event(n % (ORDERS - 1), 2 + n)).collect());
                written += batch;
                std::thread::yield_now();
            }
            std::thread::sleep(Duration::from_millis(1));
        }
        done.store(written, Ordering::Relaxed);
    }
}

fn document(n: u64) -> (OrderId, Vec<u8>) {
    let mut document = Vec::new();
    sample::wb(1, n, &mut document);
    (OrderId::parse(sample::wb_id(1, n).as_bytes()).expect("legal"), document)
}

fn event(n: u64, version: u64) -> Event {
    let (id, document) = document(n);
    let snapshot = Snapshot::new(version, n + 1, Kind::Wb, State::Live, &document, &mut Vec::new());
    Event::new(id, snapshot, if version == 1 { ChangeKind::Created } else { ChangeKind::Updated })
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime")
}
