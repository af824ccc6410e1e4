//! The figures of docs/performance.md that are not a micro-benchmark: import against a bare SQLite
//! loader, warm-up, and resident bytes per order. `cargo bench --bench figures` measures a million
//! orders; as a test it runs a few to stay true.

use std::fs::File;
use std::io::{BufRead, BufReader, BufWriter, Write};
use std::path::Path;
use std::sync::Arc;
use std::time::Instant;

use order_service::cache::{self, View};
use order_service::ingest::{self, Ingest, IngestMetrics};
use order_service::metrics::Metrics;
use order_service::order::sample;
use order_service::process::lifecycle;
use order_service::source::file::{self, FileSource};
use order_service::store::Store;
use order_service::store::embedded::{Config, Embedded};
use order_service::warmup;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() {
    order_service::app::small_pages(); // as in the service
    let is_test = !std::env::args().any(|argument| argument == "--bench");
    let orders: u64 = if is_test { 3_000 } else { 1_000_000 };
    let rounds = if is_test { 1 } else { 3 };
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a place for a million orders");
    let input = dir.path().join("orders.ndjson");
    let payload = write_orders(&input, orders);
    println!("orders: {orders}, {} bytes each on average", payload / orders);
    let mut ratios = Vec::new();
    for round in 0..rounds {
        let bare = bare_loader(&input, &dir.path().join(format!("bare{round}.db")), orders);
        let ours = import(&input, &dir.path().join(format!("ours{round}")), orders);
        println!("import: {ours:.0} orders/s, bare loader {bare:.0} orders/s, ratio {:.2}", ours / bare);
        ratios.push(ours / bare);
        let _ = std::fs::remove_file(dir.path().join(format!("bare{round}.db")));
        if round + 1 < rounds {
            let _ = std::fs::remove_dir_all(dir.path().join(format!("ours{round}")));
        }
    }
    ratios.sort_by(f64::total_cmp);
    println!("import: median ratio {:.2}", ratios[ratios.len() / 2]);
    warm_up(&dir.path().join(format!("ours{}", rounds - 1)), orders, payload);
}

fn write_orders(path: &Path, orders: u64) -> u64 {
    let mut file = BufWriter::with_capacity(1 << 20, File::create(path).expect("writable"));
    let mut line = Vec::new();
    let mut bytes = 0;
    for n in 0..orders {
        line.clear();
        sample::wb(1, n, &mut line);
        bytes += line.len() as u64;
        line.push(b'\n');
        file.write_all(&line).expect("written");
    }
    file.flush().expect("written");
    bytes
}

/// What SQLite itself takes for the same bytes: one table, ids unique, batches of 1,000, the same durability.
fn bare_loader(input: &Path, path: &Path, orders: u64) -> f64 {
    let mut connection = rusqlite::Connection::open(path).expect("a new database");
    connection
        .execute_batch(
            "PRAGMA page_size = 8192; PRAGMA journal_mode = WAL; PRAGMA synchronous = FULL; PRAGMA cache_size = -65536;
             CREATE TABLE orders (uid TEXT NOT NULL UNIQUE, body BLOB NOT NULL)",
        )
        .expect("a new table");
    let started = Instant::now();
    let mut lines = BufReader::with_capacity(1 << 20, File::open(input).expect("written above"));
    let mut line = Vec::new();
    let mut stored = 0;
    while stored < orders {
        let transaction = connection.transaction().expect("no one else is here");
        for _ in 0..1000.min(orders - stored) {
            line.clear();
            lines.read_until(b'\n', &mut line).expect("readable");
            line.pop();
            // {"order_uid":"…"
            let uid_len = line[14..].iter().position(|&byte| byte == b'"').expect("a sample order");
            let uid = std::str::from_utf8(&line[14..14 + uid_len]).expect("ASCII");
            transaction
                .prepare_cached("INSERT INTO orders (uid, body) VALUES (?, ?)")
                .and_then(|mut insert| insert.execute((uid, &line)))
                .expect("stored");
            stored += 1;
        }
        transaction.commit().expect("durable");
    }
    per_second(orders, started)
}

fn import(input: &Path, dir: &Path, orders: u64) -> f64 {
    let runtime = runtime();
    let started = Instant::now();
    let ledger = runtime.block_on(async {
        let store = Embedded::open(Config::new(dir)).expect("a new store");
        let config = file::Config { path: input.into(), rejects: dir.join("rejects"), line_bytes_max: 1 << 20 };
        let name = file::name_of(input).expect("readable");
        let source = FileSource::open(config, name, 0, |_| {}).expect("readable");
        let mut config = ingest::Config::default();
        config.batch.linger = std::time::Duration::from_millis(50);
        let metrics = IngestMetrics::register(&Metrics::default());
        let ingest = Ingest::new(source, store, None, &config, metrics).await.expect("a new store");
        let (_trigger, shutdown) = lifecycle::shutdown();
        ingest.run(shutdown).await.expect("imported")
    });
    let rate = per_second(orders, started);
    assert_eq!((ledger.read, ledger.stored), (orders, orders));
    rate
}

fn warm_up(dir: &Path, orders: u64, payload: u64) {
    let runtime = runtime();
    runtime.block_on(async {
        let store = Embedded::open(Config::new(dir)).expect("imported above");
        // Once for the page cache, as after a restart of the process.
        store.scan(|_| {}).await.expect("readable");
        let before = resident_bytes();
        let view = Arc::new(View::new(cache::Config::default(), 0));
        let started = Instant::now();
        let (_trigger, shutdown) = lifecycle::shutdown();
        let gate = lifecycle::Readiness::default().gate("warm-up", "");
        // The store stays open: what it gives back would make up for some of what the view takes.
        warmup::run(Arc::clone(&view), store.clone(), gate, shutdown).await.expect("a sound store");
        let rate = per_second(orders, started);
        assert!(view.is_complete());
        assert_eq!(view.size().live, orders);
        let resident = resident_bytes() - before;
        drop(store);
        println!("warm-up: {rate:.0} orders/s");
        #[expect(clippy::cast_precision_loss, reason = "a figure for people")]
        let ratio = resident as f64 / payload as f64;
        println!("resident: {} bytes an order, {ratio:.3} of its payload", resident / orders);
    });
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime")
}

#[expect(clippy::cast_precision_loss, reason = "a figure for people")]
fn per_second(orders: u64, started: Instant) -> f64 {
    orders as f64 / started.elapsed().as_secs_f64()
}

/// Anonymous memory of this process: what it allocated, without mapped files.
fn resident_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap_or("0 kB");
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap_or_default() * 1024
}
