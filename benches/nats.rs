//! The figures of the way from NATS JetStream through PostgreSQL to the view, on real servers that this brings up and
//! takes down: orders per second beside what a bare consumer takes that only acknowledges the same messages, and the time
//! from produce to visible.
//!
//! `cargo bench --bench nats` measures; as a test it runs a few orders to stay true, or says that it cannot.

mod servers;

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use async_nats::jetstream::consumer::pull;
use async_nats::jetstream::{self, Context, stream};
use futures_util::StreamExt as _;
use order_service::cache::feed::Read;
use order_service::cache::{self, View};
use order_service::id::OrderId;
use order_service::ingest::{self, Ingest};
use order_service::lifecycle::{self, Readiness};
use order_service::metrics::Metrics;
use order_service::nats;
use order_service::order::sample;
use order_service::source::nats::NatsSource;
use order_service::store::postgres::{Config, Postgres};
use order_service::warmup;

use servers::Servers;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() {
    let is_test = !std::env::args().any(|argument| argument == "--bench");
    let Some(servers) = Servers::start_with("benchnats", "nats") else { return };
    for rate in if is_test { vec![500] } else { vec![1_000, 5_000] } {
        latency(&servers, rate, if is_test { 1 } else { 10 });
    }
    let orders: u64 = if is_test { 3_000 } else { 300_000 };
    publish(&servers, "throughput", orders);
    let mut ratios = Vec::new();
    for round in 0..if is_test { 1 } else { 3 } {
        let bare = acknowledged(&servers, "throughput", &format!("bare{round}"), orders);
        let ours = visible(&servers, "throughput", &format!("round{round}"), orders);
        println!(
            "from NATS to visible: {ours:.0} orders/s, a bare consumer of the same {bare:.0}, ratio {:.2}",
            ours / bare
        );
        ratios.push(ours / bare);
    }
    ratios.sort_by(f64::total_cmp);
    println!("from NATS to visible: median ratio {:.2}", ratios[ratios.len() / 2]);
}

fn database(servers: &Servers, name: &str) -> Config {
    servers.psql("postgres", &[&format!("CREATE DATABASE {name}")]);
    Config::parse(&servers.url(name)).expect("a URL")
}

async fn context(servers: &Servers) -> Context {
    jetstream::new(async_nats::connect(&servers.nats).await.expect("connected"))
}

/// Makes a stream of this name, which is its subject too, with so many orders.
fn publish(servers: &Servers, name: &str, orders: u64) {
    runtime().block_on(async {
        let context = context(servers).await;
        let config = stream::Config { name: name.into(), subjects: vec![name.into()], ..stream::Config::default() };
        context.create_stream(config).await.expect("made");
        let mut outstanding = std::collections::VecDeque::new();
        for n in 0..orders {
            let mut document = Vec::with_capacity(1536);
            sample::wb(1, n, &mut document);
            outstanding.push_back(context.publish(name.to_owned(), document.into()).await.expect("sent"));
            if outstanding.len() >= 1000 {
                outstanding.pop_front().expect("some").await.expect("acknowledged");
            }
        }
        for sent in outstanding {
            sent.await.expect("acknowledged");
        }
    });
}

/// Orders per second that a consumer takes which only acknowledges them.
fn acknowledged(servers: &Servers, stream: &str, durable: &str, orders: u64) -> f64 {
    runtime().block_on(async {
        let stream = context(servers).await.get_stream(stream).await.expect("made");
        let config = pull::Config {
            durable_name: Some(durable.into()),
            max_ack_pending: 10_000,
            max_waiting: 512,
            ..pull::Config::default()
        };
        let consumer = stream.create_consumer(config).await.expect("made");
        let mut messages = consumer.stream().max_messages_per_batch(1000).messages().await.expect("pulling");
        messages.next().await.expect("one").expect("delivered").ack().await.expect("acknowledged");
        let started = Instant::now();
        for _ in 1..orders {
            messages.next().await.expect("one more").expect("delivered").ack().await.expect("acknowledged");
        }
        per_second(orders - 1, started)
    })
}

/// Ingest as the service runs it: a thread and a runtime of its own.
struct Running {
    view: Arc<View>,
    trigger: lifecycle::Trigger,
    thread: std::thread::JoinHandle<ingest::Ledger>,
}

fn run(servers: &Servers, database: Config, stream: &str, durable: &str) -> Running {
    let view = Arc::new(View::new(cache::Config::default(), 0));
    let (trigger, shutdown) = lifecycle::shutdown();
    let mut client = nats::Config::new(&servers.nats).expect("a URL");
    (client.subject, client.stream, client.durable) = (stream.into(), stream.into(), durable.into());
    client.dlq_subject = format!("dlq.{stream}");
    let seen = Arc::clone(&view);
    let thread = std::thread::spawn(move || {
        runtime().block_on(async move {
            let gate = Readiness::default().gate("warm-up", "");
            let store = Postgres::new(database);
            warmup::run(Arc::clone(&seen), store.clone(), gate, shutdown.clone()).await;
            let metrics = Metrics::new(&[], &[]);
            let readiness = Readiness::default();
            let [gate, letters] = ["nats", "nats-dead-letters"].map(|name| readiness.gate(name, ""));
            let source = NatsSource::start(&client, metrics.nats.clone(), gate, letters).expect("consuming");
            let config = ingest::Config::default();
            let ingest = Ingest::new(source, store, Some(seen), &config, metrics.ingest).await.expect("started");
            ingest.run(shutdown).await.expect("ingested")
        })
    });
    Running { view, trigger, thread }
}

impl Running {
    fn stop(self) -> ingest::Ledger {
        self.trigger.fire();
        self.thread.join().expect("no panic")
    }
}

fn visible(servers: &Servers, stream: &str, name: &str, orders: u64) -> f64 {
    let running = run(servers, database(servers, name), stream, name);
    while running.view.size().live == 0 {
        std::thread::sleep(Duration::from_millis(1));
    }
    let (started, before) = (Instant::now(), running.view.size().live);
    while running.view.size().live < orders {
        std::thread::sleep(Duration::from_millis(1));
    }
    let rate = per_second(orders - before, started);
    let ledger = running.stop();
    assert_eq!((ledger.read, ledger.stored), (orders, orders));
    rate
}

/// From the call that produces an order to its event in the view.
fn latency(servers: &Servers, rate: u32, seconds: u32) {
    let name = format!("latency{rate}");
    publish(servers, &name, 0);
    let running = run(servers, database(servers, &name), &name, &name);
    let sending =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
    let client = sending.block_on(async_nats::connect(&servers.nats)).expect("connected");
    let warm = rate / 2;
    let count = rate * seconds + warm;
    let mut sent: HashMap<OrderId, Instant> = HashMap::with_capacity(count as usize);
    let mut took = Vec::with_capacity(count as usize);
    let mut seen = running.view.feed().head();
    let mut observe = |sent: &HashMap<OrderId, Instant>, took: &mut Vec<Duration>| {
        let Read::Events(events) = running.view.feed().read(seen, usize::MAX) else { panic!("looked at all the time") };
        let now = Instant::now();
        took.extend(events.iter().map(|event| now.duration_since(sent[&event.id])));
        seen += events.len() as u64;
    };
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
            std::thread::sleep(due.saturating_duration_since(Instant::now()).min(Duration::from_micros(100)));
        }
        if n < count {
            let mut document = Vec::with_capacity(1536);
            sample::wb(u64::from(rate), u64::from(n), &mut document);
            let id = OrderId::parse(sample::wb_id(u64::from(rate), u64::from(n)).as_bytes()).expect("a sample id");
            sent.insert(id, due); // as an open-loop producer would count it
            sending.block_on(client.publish(name.clone(), document.into())).expect("queued");
            n += 1;
        }
        let limit = Duration::from_secs(u64::from(seconds) * 5 + 30);
        assert!(started.elapsed() < limit, "{} of {count} visible", took.len());
    }
    running.stop();
    let mut took = took.split_off(warm as usize);
    took.sort_unstable();
    let percentile = |share: usize| took[took.len() * share / 1000].as_secs_f64() * 1e3;
    println!("produce to visible at {rate}/s: p50 {:.1} ms, p99 {:.1} ms", percentile(500), percentile(990));
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime")
}

#[expect(clippy::cast_precision_loss, reason = "a figure for people")]
fn per_second(orders: u64, started: Instant) -> f64 {
    orders as f64 / started.elapsed().as_secs_f64()
}
