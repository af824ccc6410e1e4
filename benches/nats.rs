//! The figures of the way from NATS JetStream through PostgreSQL to the view, on real servers that this brings up and
//! takes down: orders per second beside what a bare consumer takes that only acknowledges the same messages, and beside what
//! `psql` needs for a binary COPY of the same rows; and the time from produce to visible.
//!
//! `cargo bench --bench nats` measures, `-- latency` or `-- throughput` one of both; as a test it runs a few orders to
//! stay true, or says that it cannot.

mod intake;
mod servers;

use std::time::Instant;

use async_nats::jetstream::consumer::pull;
use async_nats::jetstream::{self, Context, stream};
use futures_util::StreamExt as _;
use order_service::ingest::{self, Ingest, IngestMetrics};
use order_service::metrics::Metrics;
use order_service::nats;
use order_service::order::sample;
use order_service::process::lifecycle::Readiness;
use order_service::source::nats::{NatsMetrics, NatsSource};
use order_service::store::postgres::Config;

use intake::{Running, database, is_wanted, load, per_second, runtime, unload};
use servers::Servers;

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() {
    order_service::app::small_pages(); // as in the service
    let is_test = !std::env::args().any(|argument| argument == "--bench");
    let Some(servers) = Servers::start_with("benchnats", "nats") else { return };
    if !is_test {
        servers.season();
    }
    if is_wanted("latency") {
        for rate in if is_test { vec![500] } else { vec![1_000, 5_000] } {
            latency(&servers, rate, if is_test { 1 } else { 10 });
        }
    }
    if is_wanted("throughput") {
        throughput(&servers, is_test);
    }
}

fn throughput(servers: &Servers, is_test: bool) {
    let orders: u64 = if is_test { 3_000 } else { 300_000 };
    publish(servers, "throughput", orders);
    let mut ratios = Vec::new();
    for round in 0..if is_test { 1 } else { 3 } {
        let bare = acknowledged(servers, "throughput", &format!("bare{round}"), orders);
        let stored = database(servers, &format!("round{round}"));
        let ours = run(servers, stored.clone(), "throughput", &format!("round{round}")).until_visible(orders);
        println!(
            "from NATS to visible: {ours:.0} orders/s, a bare consumer of the same {bare:.0}, ratio {:.2}",
            ours / bare
        );
        ratios.push(ours / bare);
        // What the store alone leaves to be had.
        let copied = load(servers, &format!("copied{round}"), &unload(servers, &stored), orders, &[]);
        println!("psql COPY of the same rows: {copied:.0} orders/s, {:.2} of the bare consumer", copied / bare);
    }
    ratios.sort_by(f64::total_cmp);
    println!("from NATS to visible: median ratio {:.2}", ratios[ratios.len() / 2]);
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

fn run(servers: &Servers, database: Config, stream: &str, durable: &str) -> Running {
    let mut client = nats::Config::new(&servers.nats).expect("a URL");
    (client.subject, client.stream, client.durable) = (stream.into(), stream.into(), durable.into());
    client.dlq_subject = format!("dlq.{stream}");
    Running::start(database, async move |store, view, shutdown| {
        let (metrics, readiness) = (Metrics::default(), Readiness::default());
        let [gate, letters] = ["nats", "nats-dead-letters"].map(|name| readiness.gate(name, ""));
        let source = NatsSource::start(&client, NatsMetrics::register(&metrics), gate, letters).expect("consuming");
        let config = ingest::Config::default();
        let ingest =
            Ingest::new(source, store, Some(view), &config, IngestMetrics::register(&metrics)).await.expect("started");
        ingest.run(shutdown).await.expect("ingested")
    })
}

fn latency(servers: &Servers, rate: u32, seconds: u32) {
    let name = format!("latency{rate}");
    publish(servers, &name, 0);
    let running = run(servers, database(servers, &name), &name, &name);
    let sending =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
    let client = sending.block_on(async_nats::connect(&servers.nats)).expect("connected");
    let send = |document: Vec<u8>| {
        sending.block_on(client.publish(name.clone(), document.into())).expect("queued");
    };
    running.latency(rate, seconds, send, || {});
}
