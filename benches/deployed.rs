//! Orders from Kafka through the service as it is deployed: a process of its own with default settings, PostgreSQL with
//! fsync, producers and readers beside it on the same machine.
//!
//! `cargo bench --bench deployed` measures, all or what is named after `--`; as a test it runs a few orders to stay true,
//! or says that it cannot.
//!
//! - `visible`: from the moment an order is due to be produced until a client that polls reads it, beside what a bare
//!   consumer of the same topic sees, at several rates and numbers of partitions, in interleaved rounds.
//! - `drain`: orders per second out of a backlog, beside a binary COPY of the same rows by `psql`, and the CPU time per
//!   order of service, broker and database.

mod child;
#[allow(dead_code, reason = "ingest runs in the service here")]
mod intake;
mod servers;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, mpsc};
use std::time::{Duration, Instant};

use order_service::order::sample;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::message::Message as _;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::{Offset, TopicPartitionList};

use child::{Client, Service};
use intake::{database, is_wanted, load, per_second, runtime, unload};
use servers::Servers;

const SERVERS: &str = "deployed";

/// Orders that are looked for, per second: enough for percentiles, few enough to cost the service nothing.
const SAMPLED_PER_SECOND: u32 = 200;

fn main() {
    let is_test = !std::env::args().any(|argument| argument == "--bench");
    let Some(servers) = Servers::start(SERVERS) else { return };
    if !is_test {
        servers.season();
    }
    if is_wanted("visible") {
        visible(&servers, is_test);
    }
    if is_wanted("drain") {
        for round in 0..if is_test { 1 } else { 7 } {
            drain(&servers, round, if is_test { 3_000 } else { 300_000 });
        }
    }
}

fn visible(servers: &Servers, is_test: bool) {
    let (rates, partitions, rounds, seconds) =
        if is_test { (vec![500], vec![4], 1, 1) } else { (vec![1_000, 5_000, 20_000], vec![4, 48], 7, 10) };
    let cases: Vec<_> =
        partitions.iter().flat_map(|&partitions| rates.iter().map(move |&rate| (partitions, rate))).collect();
    let mut results: HashMap<_, Vec<[f64; 4]>> = HashMap::new();
    for round in 0..rounds {
        for &(partitions, rate) in &cases {
            let found = visible_once(servers, round, partitions, rate, seconds);
            results.entry((partitions, rate)).or_default().push(found);
        }
    }
    for case in &cases {
        let (partitions, rate) = case;
        let median = |at: usize| {
            let mut values: Vec<f64> = results[case].iter().map(|found| found[at]).collect();
            values.sort_by(f64::total_cmp);
            values[values.len() / 2]
        };
        println!(
            "medians of {rounds}: {rate}/s into {partitions} partitions: p50 {:.1} ms ({:+.1} to a bare consumer), p99 {:.1} ms ({:+.1})",
            median(0),
            median(0) - median(2),
            median(1),
            median(1) - median(3)
        );
    }
}

/// p50 and p99 in milliseconds: of a client that polls, of a bare consumer.
fn visible_once(servers: &Servers, round: u32, partitions: i32, rate: u32, seconds: u32) -> [f64; 4] {
    let name = format!("visible{round}_{partitions}_{rate}");
    make_topic(servers, &name, partitions);
    let database = database(servers, &name);
    let service = start(&name, servers);
    service.wait_ready();
    let consumer = BareConsumer::start(servers, &name, partitions);
    let polling = Polling::start(&service.address);
    let producer = producer(servers);
    let warm = rate * 2;
    let sampled = (rate / SAMPLED_PER_SECOND).max(1);
    // Joining a group is not what is measured.
    send(&producer, &name, u64::MAX >> 1);
    producer.flush(Duration::from_secs(30)).expect("delivered");
    Polling::until(&service.address, u64::MAX >> 1);
    let before = cpu_seconds(&service);
    let started = Instant::now();
    for n in 0..warm + rate * seconds {
        let due = started + Duration::from_secs(1) * n / rate;
        while let wait = due.saturating_duration_since(Instant::now())
            && !wait.is_zero()
        {
            producer.poll(Duration::ZERO);
            std::thread::sleep(wait.min(Duration::from_micros(200)));
        }
        if n >= warm && n % sampled == 0 {
            consumer.look_for(u64::from(n), due);
            polling.look_for(u64::from(n), due);
        }
        send(&producer, &name, u64::from(n));
    }
    producer.flush(Duration::from_secs(30)).expect("delivered");
    let (seen, consumed) = (polling.finish(), consumer.finish());
    let after = cpu_seconds(&service);
    let orders = f64::from(warm + rate * seconds);
    let [p50, p99] = percentiles(seen);
    let [bare50, bare99] = percentiles(consumed);
    println!(
        "round {round}: {rate}/s into {partitions} partitions: p50 {p50:.1} ms, p99 {p99:.1} ms; bare consumer {bare50:.1}, {bare99:.1} ms; CPU {}",
        cpu_text(before, after, orders)
    );
    drop(service);
    drop_database(servers, database.server.get_dbname().expect("named"));
    [p50, p99, bare50, bare99]
}

fn drain(servers: &Servers, round: u32, orders: u64) {
    let name = format!("drain{round}");
    make_topic(servers, &name, 4);
    let producer = producer(servers);
    for n in 0..orders {
        send(&producer, &name, n);
    }
    producer.flush(Duration::from_mins(1)).expect("delivered");
    let stored = database(servers, &name);
    servers.psql("postgres", &["CHECKPOINT"]);
    let service = start(&name, servers);
    let mut client = Client::connect(&service.address);
    while visible_orders(&mut client) == 0 {
        std::thread::sleep(Duration::from_millis(1));
    }
    let before = cpu_seconds(&service);
    let (started, first) = (Instant::now(), visible_orders(&mut client));
    while visible_orders(&mut client) < orders {
        std::thread::sleep(Duration::from_millis(5));
    }
    let ours = per_second(orders - first, started);
    let after = cpu_seconds(&service);
    drop(service);
    let copied = load(servers, &format!("copied{round}"), &unload(servers, &stored), orders, &[]);
    #[expect(clippy::cast_precision_loss, reason = "a figure for people")]
    let drained = (orders - first) as f64;
    println!(
        "round {round}: a backlog drained: {ours:.0} orders/s, psql COPY of the same rows {copied:.0}, ratio {:.2}; CPU {}",
        ours / copied,
        cpu_text(before, after, drained)
    );
}

/// A service with default settings on a database, a topic and a group of this name.
fn start(name: &str, servers: &Servers) -> Service {
    Service::start(&[
        "--postgres",
        &servers.url(name),
        "--kafka",
        &servers.kafka,
        "--kafka-topic",
        name,
        "--kafka-group",
        name,
        "--kafka-events-topic",
        &format!("{name}.events"),
        "--kafka-ack-topic",
        &format!("{name}.ack"),
        "--kafka-snapshots-topic",
        &format!("{name}.snapshots"),
        "--kafka-worker-group",
        &format!("{name}.workers"),
    ])
}

fn drop_database(servers: &Servers, name: &str) {
    servers.psql("postgres", &[&format!("DROP DATABASE {name} WITH (FORCE)")]);
}

fn make_topic(servers: &Servers, name: &str, partitions: i32) {
    let admin: AdminClient<DefaultClientContext> = client(servers).create().expect("an admin client");
    let topic = NewTopic::new(name, partitions, TopicReplication::Fixed(1));
    runtime().block_on(admin.create_topics([&topic], &AdminOptions::new())).expect("made");
}

fn client(servers: &Servers) -> ClientConfig {
    let mut client = ClientConfig::new();
    client.set("bootstrap.servers", &servers.kafka);
    client
}

fn producer(servers: &Servers) -> BaseProducer {
    // As the library has it: with a request for each order, or for those of a millisecond, the broker is what is measured.
    client(servers).create().expect("a producer")
}

fn send(producer: &BaseProducer, topic: &str, n: u64) {
    let mut document = Vec::with_capacity(1536);
    sample::wb(1, n, &mut document);
    let key = sample::wb_id(1, n);
    while producer.send(BaseRecord::to(topic).key(&key).payload(&document)).is_err() {
        producer.poll(Duration::from_millis(10));
    }
}

fn visible_orders(client: &mut Client) -> u64 {
    assert_eq!(client.ask("GET /api/stats", b""), 200);
    let body = client.answer.iter().position(|&byte| byte == b'{').expect("a body");
    let stats: serde_json::Value = serde_json::from_slice(&client.answer[body..]).expect("JSON");
    stats["total_orders"].as_u64().expect("a number")
}

/// A client that asks for orders until it gets them, all that it looks for in turn.
struct Polling {
    wanted: mpsc::SyncSender<(u64, Instant)>,
    thread: std::thread::JoinHandle<Vec<Duration>>,
}

impl Polling {
    fn start(address: &str) -> Self {
        let mut client = Client::connect(address);
        let (wanted, looked_for) = mpsc::sync_channel::<(u64, Instant)>(1 << 16);
        let thread = std::thread::spawn(move || {
            let (mut took, mut open) = (Vec::new(), Vec::new());
            loop {
                let mut is_ended = false;
                loop {
                    match looked_for.try_recv() {
                        Ok((n, due)) => open.push((format!("GET /order/{}", sample::wb_id(1, n)), due)),
                        Err(mpsc::TryRecvError::Empty) => break,
                        Err(mpsc::TryRecvError::Disconnected) => {
                            is_ended = true;
                            break;
                        }
                    }
                }
                open.retain(|(line, due)| {
                    let is_found = client.ask(line, b"") == 200;
                    if is_found {
                        took.push(due.elapsed());
                    }
                    !is_found
                });
                if is_ended && open.is_empty() {
                    return took;
                }
                std::thread::sleep(Duration::from_micros(200));
            }
        });
        Self { wanted, thread }
    }

    fn look_for(&self, n: u64, due: Instant) {
        self.wanted.send((n, due)).expect("it runs until this is dropped");
    }

    fn finish(self) -> Vec<Duration> {
        drop(self.wanted);
        self.thread.join().expect("no panic")
    }

    fn until(address: &str, n: u64) {
        let mut client = Client::connect(address);
        let line = format!("GET /order/{}", sample::wb_id(1, n));
        while client.ask(&line, b"") != 200 {
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}

/// A consumer that only notes when an order reaches it.
struct BareConsumer {
    wanted: Arc<Mutex<HashMap<Vec<u8>, Instant>>>,
    is_ended: Arc<AtomicBool>,
    thread: std::thread::JoinHandle<Vec<Duration>>,
}

impl BareConsumer {
    fn start(servers: &Servers, topic: &str, partitions: i32) -> Self {
        let mut client = client(servers);
        client.set("group.id", format!("{topic}.bare")).set("enable.auto.commit", "false");
        let consumer: BaseConsumer = client.create().expect("a consumer");
        let mut assigned = TopicPartitionList::new();
        for partition in 0..partitions {
            assigned.add_partition_offset(topic, partition, Offset::Beginning).expect("an offset");
        }
        consumer.assign(&assigned).expect("assigned");
        let wanted: Arc<Mutex<HashMap<Vec<u8>, Instant>>> = Arc::default();
        let is_ended: Arc<AtomicBool> = Arc::default();
        let (looked_for, ended) = (Arc::clone(&wanted), Arc::clone(&is_ended));
        let thread = std::thread::spawn(move || {
            let mut took = Vec::new();
            loop {
                let Some(message) = consumer.poll(Duration::from_millis(100)) else {
                    if ended.load(Ordering::Relaxed) && looked_for.lock().expect("no panic").is_empty() {
                        return took;
                    }
                    continue;
                };
                let message = message.expect("a message");
                let due = looked_for.lock().expect("no panic").remove(message.key().expect("a key"));
                took.extend(due.map(|due| due.elapsed()));
            }
        });
        Self { wanted, is_ended, thread }
    }

    fn look_for(&self, n: u64, due: Instant) {
        self.wanted.lock().expect("no panic").insert(sample::wb_id(1, n).into_bytes(), due);
    }

    fn finish(self) -> Vec<Duration> {
        self.is_ended.store(true, Ordering::Relaxed);
        self.thread.join().expect("no panic")
    }
}

fn percentiles(mut took: Vec<Duration>) -> [f64; 2] {
    took.sort_unstable();
    [500, 990].map(|share| took[took.len() * share / 1000].as_secs_f64() * 1e3)
}

/// CPU time in seconds so far: service, broker, database.
fn cpu_seconds(service: &Service) -> [f64; 3] {
    let server = |kind| {
        let path = format!("{}/target/servers/{kind}-{SERVERS}/1/pid", env!("CARGO_MANIFEST_DIR"));
        let pid = std::fs::read_to_string(path).expect("the script notes it").trim().parse().expect("a number");
        tree_seconds(pid)
    };
    [tree_seconds(service.pid()), server("kafka"), server("postgres")]
}

/// CPU time of a process, of the children that it waited for and of those that live.
fn tree_seconds(root: u32) -> f64 {
    let mut parents: Vec<(u32, u32, f64)> = Vec::new();
    for entry in std::fs::read_dir("/proc").expect("a Linux system").flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
        let Ok(stat) = std::fs::read_to_string(entry.path().join("stat")) else { continue };
        let fields: Vec<&str> = stat.rsplit_once(") ").map_or("", |(_, rest)| rest).split(' ').collect();
        let ticks: f64 = fields[11..15].iter().map(|field| field.parse::<f64>().unwrap_or(0.0)).sum();
        parents.push((pid, fields[1].parse().unwrap_or(0), ticks / 100.0));
    }
    let mut tree = vec![root];
    let mut next = 0;
    while let Some(&parent) = tree.get(next) {
        tree.extend(parents.iter().filter(|&&(_, of, _)| of == parent).map(|&(pid, ..)| pid));
        next += 1;
    }
    parents.iter().filter(|(pid, ..)| tree.contains(pid)).map(|&(_, _, seconds)| seconds).sum()
}

fn cpu_text(before: [f64; 3], after: [f64; 3], orders: f64) -> String {
    let [service, broker, database] = std::array::from_fn(|at| (after[at] - before[at]) * 1e6 / orders);
    format!("per order: service {service:.1} us, broker {broker:.1}, database {database:.1}")
}
