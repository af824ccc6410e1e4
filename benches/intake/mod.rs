//! Ingest from a broker into PostgreSQL and the view, as the service runs it, and how fast orders come through.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use order_service::cache::feed::Read;
use order_service::cache::{self, View};
use order_service::id::OrderId;
use order_service::ingest;
use order_service::order::sample;
use order_service::process::lifecycle::{self, Readiness, Shutdown};
use order_service::store::postgres::{Config, Maintenance, Postgres};
use order_service::warmup;

use crate::servers::Servers;

/// Whether a part is asked for: all are, or those named, as in `cargo bench --bench nats -- throughput`.
pub fn is_wanted(part: &str) -> bool {
    let named: Vec<String> = std::env::args().skip(1).filter(|argument| !argument.starts_with("--")).collect();
    named.is_empty() || named.iter().any(|name| name == part)
}

/// A thread and a runtime of its own.
pub struct Running {
    view: Arc<View>,
    trigger: lifecycle::Trigger,
    thread: JoinHandle<ingest::Ledger>,
}

impl Running {
    /// Warms a view up from the database, then takes in what `ingest` makes of it.
    pub fn start<F: Future<Output = ingest::Ledger>>(
        database: Config,
        ingest: impl FnOnce(Postgres, Arc<View>, Shutdown) -> F + Send + 'static,
    ) -> Self {
        let view = Arc::new(View::new(cache::Config::default(), 0));
        let (trigger, shutdown) = lifecycle::shutdown();
        let seen = Arc::clone(&view);
        let thread = std::thread::spawn(move || {
            runtime().block_on(async move {
                let gate = Readiness::default().gate("warm-up", "");
                let store = Postgres::new(database);
                warmup::run(Arc::clone(&seen), store.clone(), gate, shutdown.clone()).await.expect("a sound store");
                ingest(store, seen, shutdown).await
            })
        });
        Self { view, trigger, thread }
    }

    fn stop(self) -> ingest::Ledger {
        self.trigger.fire();
        self.thread.join().expect("no panic")
    }

    /// Orders per second from the first that is visible until all of them are.
    pub fn until_visible(self, orders: u64) -> f64 {
        while self.view.size().live == 0 {
            std::thread::sleep(Duration::from_millis(1));
        }
        let (started, before) = (Instant::now(), self.view.size().live);
        while self.view.size().live < orders {
            std::thread::sleep(Duration::from_millis(1));
        }
        let rate = per_second(orders - before, started);
        let ledger = self.stop();
        assert_eq!((ledger.read, ledger.stored), (orders, orders));
        rate
    }

    /// From the call that produces an order to its event in the view, at so many a second. `poll` is called all the time.
    pub fn latency(self, rate: u32, seconds: u32, mut send: impl FnMut(Vec<u8>), mut poll: impl FnMut()) {
        // Partitions of a topic that was just made are not all delivered from at once.
        let warm = rate * 2;
        let count = rate * seconds + warm;
        let mut sent: HashMap<OrderId, Instant> = HashMap::with_capacity(count as usize);
        let mut took = Vec::with_capacity(count as usize);
        // The clock starts when the first one has come through: joining a group is not what is measured.
        let mut first = Vec::new();
        sample::wb(u64::from(rate), u64::from(count), &mut first);
        let before = self.view.feed().head();
        send(first);
        while self.view.feed().head() == before {
            poll();
            std::thread::sleep(Duration::from_millis(1));
        }
        let mut seen = self.view.feed().head();
        let mut observe = |sent: &HashMap<OrderId, Instant>, took: &mut Vec<Duration>| {
            let Read::Events(events) = self.view.feed().read(seen, usize::MAX) else {
                panic!("looked at all the time")
            };
            let now = Instant::now();
            took.extend(events.iter().map(|event| now.duration_since(sent[&event.id])));
            seen += events.len() as u64;
        };
        let limit = Duration::from_secs(u64::from(seconds) * 5 + 30);
        let started = Instant::now();
        let mut n = 0;
        while took.len() < count as usize {
            let due = if n < count {
                started + Duration::from_secs(1) * n / rate
            } else {
                Instant::now() + Duration::from_millis(1)
            };
            while Instant::now() < due {
                observe(&sent, &mut took);
                poll();
                std::thread::sleep(due.saturating_duration_since(Instant::now()).min(Duration::from_micros(100)));
            }
            if n < count {
                let mut document = Vec::with_capacity(1536);
                sample::wb(u64::from(rate), u64::from(n), &mut document);
                let id = OrderId::parse(sample::wb_id(u64::from(rate), u64::from(n)).as_bytes()).expect("a sample id");
                sent.insert(id, due); // as an open-loop producer would count it
                send(document);
                n += 1;
            }
            assert!(started.elapsed() < limit, "{} of {count} visible", took.len());
        }
        self.stop();
        let mut took = took.split_off(warm as usize);
        took.sort_unstable();
        let percentile = |share: usize| took[took.len() * share / 1000].as_secs_f64() * 1e3;
        println!(
            "produce to visible at {rate}/s: p50 {:.1} ms, p99 {:.1} ms, p99.9 {:.1} ms",
            percentile(500),
            percentile(990),
            percentile(999)
        );
    }
}

pub fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
}

#[expect(clippy::cast_precision_loss, reason = "a figure for people")]
pub fn per_second(orders: u64, started: Instant) -> f64 {
    orders as f64 / started.elapsed().as_secs_f64()
}

/// A new database.
pub fn database(servers: &Servers, name: &str) -> Config {
    servers.psql("postgres", &[&format!("CREATE DATABASE {name}")]);
    Config::parse(&servers.url(name)).expect("a URL")
}

/// All rows of a database as the server writes them for a binary COPY, in a file that the next one overwrites.
pub fn unload(servers: &Servers, database: &Config) -> PathBuf {
    let file = Path::new(env!("CARGO_TARGET_TMPDIR")).join("orders.rows");
    let name = database.server.get_dbname().expect("named above");
    servers.psql(name, &[&format!("\\copy (SELECT * FROM orders) TO '{}' (FORMAT binary)", file.display())]);
    file
}

/// Orders per second of a COPY by `psql` into an empty table of the same schema with these optional indexes.
pub fn load(servers: &Servers, name: &str, file: &Path, orders: u64, indexes: &[&str]) -> f64 {
    let database = database(servers, name);
    runtime().block_on(async {
        Maintenance::open(&database).await.expect("connected").up(false).await.expect("migrated");
    });
    for index in indexes {
        servers.psql(name, &[index]);
    }
    servers.psql(name, &["CHECKPOINT"]);
    let started = Instant::now();
    servers.psql(name, &[&format!("\\copy orders FROM '{}' (FORMAT binary)", file.display())]);
    per_second(orders, started)
}
