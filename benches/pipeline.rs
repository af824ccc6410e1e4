//! The figures of the way from Kafka through PostgreSQL to the view, on real servers that this brings up and takes
//! down: orders per second beside what `psql` needs for a binary COPY of the same rows, the time from produce to
//! visible, warm-up beside a plain COPY OUT, and the price of the optional indexes.
//!
//! `cargo bench --bench pipeline` measures, all or what is named after `--` (`quiet`: latency on a
//! topic of little traffic by the number of its partitions; `latency`; `throughput`, and with it
//! `published`, `indexes` and `warm-up`); as a test it runs a few orders to stay true, or says that
//! it cannot.

mod intake;
mod servers;

use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use order_service::cache::{self, View};
use order_service::ingest::{self, Ingest, IngestMetrics};
use order_service::kafka;
use order_service::metrics::Metrics;
use order_service::order::sample;
use order_service::process::lifecycle::{self, Readiness};
use order_service::record::Contents;
use order_service::replication::OutboxMetrics;
use order_service::replication::outbox::{self, Outbox};
use order_service::replication::relay::Relay;
use order_service::source::kafka::{KafkaMetrics, KafkaSource};
use order_service::store::Store;
use order_service::store::postgres::{Config, Postgres};
use order_service::warmup;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};

use intake::{Running, database, is_wanted, load, per_second, runtime, unload};
use servers::Servers;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const OPTIONAL_INDEXES: &str = include_str!("../migrations/postgres/1001_search_indexes.up.sql");

/// What a child of this bench is told to do.
const START: &str = "--start";
const MEMORY: &str = "--memory";

fn main() {
    order_service::app::small_pages(); // as in the service
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        [START, url] => return start(url),
        [MEMORY] => return memory(),
        _ => {}
    }
    let is_test = !std::env::args().any(|argument| argument == "--bench");
    let Some(servers) = Servers::start("bench") else { return };
    let servers = Bench(servers);
    if !is_test {
        servers.season();
    }
    // First, while the disk has nothing of the loads below to write.
    if is_wanted("quiet") {
        for round in 0..if is_test { 1 } else { 3 } {
            for partitions in if is_test { vec![12] } else { vec![4, 12, 24, 48] } {
                print!("round {round}, {partitions} partitions: ");
                let topic = servers.topic(&format!("quiet{round}_{partitions}"), partitions);
                latency(&servers, &topic, if is_test { 500 } else { 20 }, if is_test { 1 } else { 10 });
            }
        }
    }
    if is_wanted("latency") {
        for rate in if is_test { vec![500] } else { vec![1_000, 5_000, 20_000] } {
            let topic = servers.topic(&format!("latency{rate}"), 4);
            latency(&servers, &topic, rate, if is_test { 1 } else { 10 });
        }
    }
    if is_wanted("throughput") {
        throughput(&servers, is_test);
    }
}

fn throughput(servers: &Bench, is_test: bool) {
    let orders: u64 = if is_test { 3_000 } else { 500_000 };
    let rounds = if is_test { 1 } else { 3 };
    let topic = servers.topic("throughput", 4);
    servers.produce(&topic, 0, orders);
    let mut ratios = Vec::new();
    for round in 0..rounds {
        let stored = database(servers, &format!("round{round}"));
        let ours = from_kafka(servers, &stored, &topic, orders, false);
        let file = unload(servers, &stored);
        let bare = load(servers, &format!("bare{round}"), &file, orders, &[]);
        println!(
            "from Kafka to visible: {ours:.0} orders/s, psql COPY of the same rows {bare:.0}, ratio {:.2}",
            ours / bare
        );
        ratios.push(ours / bare);
        if is_wanted("published") {
            let published = database(servers, &format!("published{round}"));
            let published = from_kafka(servers, &published, &topic, orders, true);
            println!(
                "the same with every change published: {published:.0} orders/s, {:.2} of that without",
                published / ours
            );
        }
        if round + 1 == rounds && is_wanted("indexes") {
            let all: Vec<&str> = OPTIONAL_INDEXES.lines().filter(|line| line.starts_with("CREATE INDEX")).collect();
            let each = all.iter().map(std::slice::from_ref).chain([&all[..]]);
            for (n, indexes) in each.enumerate() {
                let indexed = load(servers, &format!("indexed{n}"), &file, orders, indexes);
                let names: Vec<_> = indexes.iter().filter_map(|index| index.split(' ').nth(5)).collect();
                println!(
                    "with {}: psql COPY {indexed:.0} orders/s, {:.2} of that without",
                    names.join(", "),
                    indexed / bare
                );
            }
        }
        if round + 1 == rounds && is_wanted("warm-up") {
            warm_up(servers, &stored, orders, if is_test { 1 } else { 7 });
        }
    }
    ratios.sort_by(f64::total_cmp);
    println!("from Kafka to visible: median ratio {:.2}", ratios[ratios.len() / 2]);
}

/// What this bench does with its servers.
struct Bench(Servers);

impl std::ops::Deref for Bench {
    type Target = Servers;

    fn deref(&self) -> &Servers {
        &self.0
    }
}

impl Bench {
    fn topic(&self, name: &str, partitions: i32) -> String {
        let admin: AdminClient<DefaultClientContext> = self.client(name).admin().create().expect("an admin client");
        let topic = NewTopic::new(name, partitions, TopicReplication::Fixed(1));
        runtime().block_on(admin.create_topics([&topic], &AdminOptions::new())).expect("made");
        name.to_owned()
    }

    fn client(&self, topic: &str) -> kafka::Config {
        kafka::Config { topic: topic.into(), group: topic.into(), ..kafka::Config::new(&self.kafka) }
    }

    fn produce(&self, topic: &str, from: u64, to: u64) {
        let producer: BaseProducer = self.client(topic).producer().create().expect("a producer");
        let mut document = Vec::new();
        for n in from..to {
            document.clear();
            sample::wb(1, n, &mut document);
            while producer.send(BaseRecord::<[u8], [u8]>::to(topic).payload(&document)).is_err() {
                producer.poll(Duration::from_millis(10));
            }
        }
        producer.flush(Duration::from_mins(1)).expect("delivered");
    }
}

fn run(servers: &Bench, database: Config, topic: &str, is_published: bool) -> Running {
    let client = servers.client(topic);
    Running::start(database, async move |store, view, shutdown| {
        let (metrics, readiness) = (Metrics::default(), Readiness::default());
        let [gate, letters] = ["kafka", "dead-letters"].map(|name| readiness.gate(name, ""));
        let source = KafkaSource::start(&client, KafkaMetrics::register(&metrics), gate, letters).expect("consuming");
        let config = ingest::Config::default();
        let outbox = is_published.then(|| relay(&client, store.clone(), OutboxMetrics::register(&metrics)));
        let ingest =
            Ingest::new(source, store, Some(view), &config, IngestMetrics::register(&metrics)).await.expect("started");
        ingest.with_outbox(outbox).run(shutdown).await.expect("ingested")
    })
}

/// Publishes what is handed over on a thread of its own, as the service does.
fn relay(client: &kafka::Config, store: Postgres, metrics: OutboxMetrics) -> Outbox {
    let contents = Contents { snapshots: true, ..Contents::default() };
    let (outbox, batches) = outbox::outbox(contents);
    let client = kafka::Config { snapshots_topic: Some(format!("{}.snapshots", client.topic)), ..client.clone() };
    let gate = Readiness::default().gate("outbox", "");
    let relay = Relay::new(&client, store, &"bench".into(), &Arc::default(), metrics, gate).expect("a relay");
    std::thread::spawn(move || runtime().block_on(relay.run(batches)));
    outbox
}

fn from_kafka(servers: &Bench, database: &Config, topic: &str, orders: u64, is_published: bool) -> f64 {
    // Positions are stored with the orders, so a new database reads the topic from its start.
    run(servers, database.clone(), topic, is_published).until_visible(orders)
}

fn latency(servers: &Bench, topic: &str, rate: u32, seconds: u32) {
    let database = database(servers, topic);
    let running = run(servers, database, topic, false);
    let producer: BaseProducer = servers.client(topic).producer().set("linger.ms", "0").create().expect("a producer");
    let send = |document: Vec<u8>| {
        let record = BaseRecord::<[u8], [u8]>::to(topic).payload(&document);
        producer.send(record).map_err(|(error, _)| error).expect("queued");
    };
    running.latency(rate, seconds, send, || {
        producer.poll(Duration::ZERO);
    });
}

fn warm_up(servers: &Bench, database: &Config, orders: u64, rounds: u32) {
    let name = database.server.get_dbname().expect("named");
    let halves = [["orders_p0", "orders_p1"], ["orders_p2", "orders_p3"]];
    let raw = || {
        let started = Instant::now();
        let copies = halves.map(|tables| {
            let mut psql = Command::new("psql");
            psql.args(["-q", "-d", &servers.url(name)]);
            for table in tables {
                psql.args(["-c", &format!("\\copy (SELECT seq, state, version, order_uid, body FROM {table}) TO '/dev/null' (FORMAT binary)")]);
            }
            psql.spawn().expect("psql")
        });
        for mut copy in copies {
            assert!(copy.wait().expect("a child").success());
        }
        per_second(orders, started)
    };
    // A start has a process of its own.
    let child = |told: &[&str]| {
        let mut child = Command::new(std::env::current_exe().expect("a name"));
        let done = child.args(told).output().expect("a child");
        assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));
        String::from_utf8(done.stdout).expect("text")
    };
    let ours = || {
        let told = child(&[START, &servers.url(name)]);
        let [loaded, per_second] = told.split_whitespace().collect::<Vec<_>>()[..] else { panic!("{told:?}") };
        assert_eq!(loaded.parse(), Ok(orders));
        per_second.parse::<f64>().expect("a figure")
    };
    raw(); // once for the page cache
    let mut ratios = Vec::new();
    for _ in 0..rounds {
        let touched = child(&[MEMORY]);
        let (ours, raw) = (ours(), raw());
        println!(
            "warm-up: {ours:.0} orders/s, COPY OUT by two psql {raw:.0}, ratio {:.2}, after memory came at {} GB/s",
            ours / raw,
            touched.trim()
        );
        ratios.push(ours / raw);
    }
    ratios.sort_by(f64::total_cmp);
    println!("warm-up: median ratio {:.2}", ratios[ratios.len() / 2]);
}

/// Uses new memory, as much as a start does, and says how many GB came a second. Where that is slow, as in a virtual
/// machine that has to ask its host, it is what a start waits for.
fn memory() {
    const BYTES: u32 = 600 << 20;
    let started = Instant::now();
    let memory = std::hint::black_box(vec![1_u8; BYTES as usize]);
    println!("{:.2}", f64::from(BYTES) / started.elapsed().as_secs_f64() / 1e9);
    drop(memory);
}

/// Fills a view from the database of this URL as the service does when it starts; says how many orders, and how many a
/// second.
fn start(url: &str) {
    let view = Arc::new(View::new(cache::Config::default(), 0));
    runtime().block_on(async {
        let store = Postgres::new(Config::parse(url).expect("a URL"));
        store.estimate().await.expect("connected");
        let started = Instant::now();
        let (_trigger, shutdown) = lifecycle::shutdown();
        let gate = Readiness::default().gate("warm-up", "");
        warmup::run(Arc::clone(&view), store, gate, shutdown).await.expect("a sound store");
        let live = view.size().live;
        println!("{live} {}", per_second(live, started));
    });
}
