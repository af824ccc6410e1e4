//! Counters and histograms, and their text for `/metrics`. What a request touches is sharded by thread; the rest is the
//! library's. Knows no module of ours.

mod process;

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use process::Process;
use prometheus::core::{Collector, Desc, Describer};
use prometheus::proto::{
    Bucket, Counter as CounterProto, Gauge as GaugeProto, LabelPair, Metric, MetricFamily, MetricType,
};
use prometheus::{
    Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, PullingGauge, Registry,
};

/// Everything that is counted. Clones share the counters.
#[derive(Clone)]
pub struct Metrics {
    registry: Registry,
    /// Requests, by route pattern.
    pub http: Arc<Http>,
    /// What the ingest loop does.
    pub ingest: Ingest,
    /// What the Kafka consumer does.
    pub kafka: Kafka,
    /// What the NATS consumer does.
    pub nats: Nats,
    /// What is published of committed orders.
    pub outbox: Outbox,
    /// `grpc_requests_total{method,code}`.
    pub grpc: IntCounterVec,
    /// Connections open now.
    pub connections: IntGauge,
    /// Connections closed for being too slow or idle, by reason.
    pub connections_closed: IntCounterVec,
    /// Event streams open now.
    pub event_streams: IntGauge,
}

/// What the ingest loop counts.
#[derive(Clone)]
pub struct Ingest {
    /// `orders_created_total`.
    pub created: IntCounter,
    /// `orders_processed_total{status}`: success (stored), unchanged, refused, repeated, rejected.
    pub processed: IntCounterVec,
    /// Orders per batch.
    pub batch_rows: Histogram,
    /// Batches written beside the one before them.
    pub overlapped: IntCounter,
    /// Seconds a store commit takes.
    pub commit: Histogram,
    /// Seconds from a message's time stamp to its arrival.
    pub arrival: Histogram,
    /// Seconds from arrival to visible.
    pub visible: Histogram,
    /// Commits tried again.
    pub retries: IntCounter,
    /// Orders that a newer version in their batch took the place of.
    pub coalesced: IntCounter,
    /// Messages put on the dead letter topic, by reason.
    pub dead_lettered: IntCounterVec,
    /// Seconds from a message's time stamp to visible.
    pub end_to_end: Histogram,
}

/// What the consumer of a Kafka topic counts.
#[derive(Clone)]
pub struct Kafka {
    /// `kafka_lag{partition}`: messages that are not durable yet.
    pub lag: IntGaugeVec,
    /// Consumers that had to be made again.
    pub stalls: IntCounter,
    /// Times that partitions were given or taken.
    pub rebalances: IntCounter,
    /// 1 while a partition is not read because its topic ends before the stored position.
    pub stopped: IntGauge,
    /// Messages that were deleted from the topic before they were read.
    pub lost: IntCounter,
    /// Times that the topic was found to be another one than before.
    pub remade: IntCounter,
}

/// What the tier in Redis counts.
#[derive(Clone)]
pub struct Redis {
    /// `redis_requests_total{operation,result}`: read, write, result; ok, error, timeout.
    pub requests: IntCounterVec,
    /// Orders that were there and trusted.
    pub hits: IntCounter,
    /// Orders that were not there.
    pub misses: IntCounter,
    /// Orders that were there and may have been older than what is stored.
    pub distrusted: IntCounter,
    /// Writes that were given up, by reason.
    pub lost: IntCounterVec,
    /// Writes that wait or are under way.
    pub waiting: IntGauge,
    /// 1 while no one asks.
    pub breaker_open: IntGauge,
}

/// What the consumer of a NATS stream counts.
#[derive(Clone)]
pub struct Nats {
    /// `nats_lag`: messages that are not durable yet.
    pub lag: IntGauge,
    /// Messages that were delivered before.
    pub redelivered: IntCounter,
    /// Messages read from the stream because their delivery was missing.
    pub filled: IntCounter,
    /// Connections made after the first.
    pub reconnects: IntCounter,
    /// Consumers that delivered nothing and were made again.
    pub stalls: IntCounter,
    /// 1 while another process reads for this one's store.
    pub standby: IntGauge,
    /// 1 while the stream is not read because it ends before the stored position.
    pub stopped: IntGauge,
    /// Messages that were deleted from the stream before they were read.
    pub lost: IntCounter,
    /// Times that the stream was found to be another one than before.
    pub remade: IntCounter,
}

/// What the consumer of a NATS Streaming channel counts.
#[derive(Clone)]
pub struct Stan {
    /// `stan_lag`: messages that are not durable yet.
    pub lag: IntGauge,
    /// Messages that were delivered before.
    pub redelivered: IntCounter,
    /// Messages read from the channel because their delivery was missing.
    pub filled: IntCounter,
    /// Connections made after the first.
    pub reconnects: IntCounter,
    /// 1 while another process has the client's name.
    pub standby: IntGauge,
    /// 1 while the channel is not read because it ends before the stored position.
    pub stopped: IntGauge,
    /// Messages that were deleted from the channel before they were read.
    pub lost: IntCounter,
}

/// What the relay of committed changes counts.
#[derive(Clone)]
pub struct Outbox {
    /// Batches on their way to Kafka.
    pub outgoing: IntGauge,
    /// Batches that are published.
    pub published: IntCounter,
    /// Batches whose messages did not all arrive, and that are published again.
    pub failures: IntCounter,
    /// Batches published for an instance that did not, or by a later try.
    pub taken_over: IntCounter,
    /// Tries at orders that are too large for a topic.
    pub too_large: IntCounter,
    /// How long the oldest batch that is overdue has been waiting.
    pub overdue: IntGauge,
}

impl Metrics {
    /// Fresh counters. `endpoints` and `methods` name the indices that [`Http::observe`] is called with.
    #[must_use]
    pub fn new(endpoints: &'static [&'static str], methods: &'static [&'static str]) -> Self {
        let registry = Registry::new();
        let http = Arc::new(Http::new(endpoints, methods));
        let register = |collector: Box<dyn Collector>| {
            registry.register(collector).expect("each metric has a name of its own");
        };
        let requests = Arc::clone(&http);
        register(Box::new(Families::new(move || requests.families())));
        let process = Process::starting();
        register(Box::new(Families::new(move || process.families())));
        let counter = |name: &str, help: &str| {
            let counter = IntCounter::new(name, help).expect("a legal name");
            register(Box::new(counter.clone()));
            counter
        };
        let family = |name: &str, help: &str, label: &str| {
            let family = IntCounterVec::new(Opts::new(name, help), &[label]).expect("a legal name");
            register(Box::new(family.clone()));
            family
        };
        let histogram = |name: &str, help: &str, buckets: &[f64]| {
            let options = HistogramOpts::new(name, help).buckets(buckets.to_vec());
            let histogram = Histogram::with_opts(options).expect("a legal name and rising buckets");
            register(Box::new(histogram.clone()));
            histogram
        };
        let rows = [1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0, 2000.0, 5000.0];
        let ingest = Ingest {
            created: counter("orders_created_total", "Orders stored for the first time."),
            processed: family("orders_processed_total", "Orders by what became of them.", "status"),
            batch_rows: histogram("order_batch_rows", "Orders per committed batch.", &rows),
            overlapped: counter(
                "order_batches_overlapped_total",
                "Batches written while the one before them became durable.",
            ),
            commit: histogram("order_commit_duration_seconds", "Time of one store commit.", &BOUNDS_SECONDS),
            arrival: histogram(
                "order_arrival_duration_seconds",
                "Time from a message's time stamp to its arrival in the service; 0 for one of the future.",
                &BOUNDS_SECONDS[5..],
            ),
            visible: histogram("order_visible_duration_seconds", "Time from arrival to visible.", &BOUNDS_SECONDS),
            retries: counter("order_commit_retries_total", "Store commits that had to be tried again."),
            coalesced: counter("order_coalesced_total", "Orders replaced by a newer version before they were stored."),
            dead_lettered: family(
                "orders_dead_lettered_total",
                "Messages that are no valid order, by reason.",
                "reason",
            ),
            end_to_end: histogram(
                "order_end_to_end_seconds",
                "Time from a message's time stamp to visible.",
                &BOUNDS_SECONDS[5..],
            ),
        };
        let lag = Opts::new("kafka_lag", "Messages behind, by partition.");
        let lag = IntGaugeVec::new(lag, &["partition"]).expect("a legal name");
        register(Box::new(lag.clone()));
        let gauge = |name: &str, help: &str| {
            let gauge = IntGauge::new(name, help).expect("a legal name");
            register(Box::new(gauge.clone()));
            gauge
        };
        let kafka = Kafka {
            lag,
            stalls: counter("kafka_stalls_total", "Consumers that delivered nothing and were replaced."),
            rebalances: counter("kafka_rebalances_total", "Times that partitions were given or taken."),
            stopped: gauge("kafka_stopped", "1 while a partition is not read: it ends before its stored position."),
            lost: counter("kafka_lost_messages_total", "Messages deleted from the topic before they were read."),
            remade: counter("kafka_topics_remade_total", "Times that the topic was found deleted and made again."),
        };
        let nats = Nats {
            lag: gauge("nats_lag", "Messages of the NATS stream that are not durable yet."),
            redelivered: counter("nats_redelivered_total", "Messages of NATS that were delivered before."),
            filled: counter("nats_filled_total", "Messages read from the stream because their delivery was missing."),
            reconnects: counter("nats_reconnects_total", "Connections to NATS made after the first."),
            stalls: counter("nats_stalls_total", "NATS consumers that delivered nothing and were replaced."),
            standby: gauge("nats_standby", "1 while another process reads the NATS stream into the same store."),
            stopped: gauge("nats_stopped", "1 while the NATS stream is not read: it ends before its stored position."),
            lost: counter("nats_lost_messages_total", "Messages deleted from the NATS stream before they were read."),
            remade: counter(
                "nats_streams_remade_total",
                "Times that the NATS stream was found deleted and made again.",
            ),
        };
        let outbox = Outbox {
            outgoing: gauge("outbox_outgoing_batches", "Committed batches on their way to Kafka."),
            published: counter("outbox_published_batches_total", "Committed batches that are published."),
            failures: counter("outbox_failed_batches_total", "Batches that did not arrive, to be published again."),
            taken_over: counter("outbox_taken_over_batches_total", "Batches published for an instance that did not."),
            too_large: counter(
                "outbox_too_large_orders_total",
                "Tries at publishing orders too large for their topic.",
            ),
            overdue: gauge(
                "outbox_overdue_seconds",
                "Age of the oldest batch not published in time; 0 when there is none.",
            ),
        };
        for reason in ["malformed", "too_large", "invalid", "other_kind", "no_user", "no_payload"] {
            ingest.dead_lettered.with_label_values(&[reason]); // counts from 0, so that the first one shows as a rise
        }
        let grpc = Opts::new("grpc_requests_total", "Calls by method and status code.");
        let grpc = IntCounterVec::new(grpc, &["method", "code"]).expect("a legal name");
        register(Box::new(grpc.clone()));
        let connections = gauge("http_connections", "Open connections.");
        let closed_help = "Connections closed by the server, by reason.";
        let connections_closed = family("http_connections_closed_total", closed_help, "reason");
        let event_streams = gauge("http_event_streams", "Open event streams.");
        Self { registry, http, ingest, kafka, nats, outbox, grpc, connections, connections_closed, event_streams }
    }

    /// The counters of the tier in Redis, which a service without one does not show. To be called once.
    #[must_use]
    pub fn redis(&self) -> Redis {
        let counter = |name: &str, help: &str| IntCounter::new(name, help).expect("a legal name");
        let gauge = |name: &str, help: &str| IntGauge::new(name, help).expect("a legal name");
        let family = |name: &str, help: &str, labels: &[&str]| {
            IntCounterVec::new(Opts::new(name, help), labels).expect("a legal name")
        };
        let redis = Redis {
            requests: family("redis_requests_total", "Requests to Redis.", &["operation", "result"]),
            hits: counter("redis_hits_total", "Orders read from Redis."),
            misses: counter("redis_misses_total", "Orders that were not in Redis."),
            distrusted: counter("redis_distrusted_total", "Orders in Redis that may have been out of date."),
            lost: family("redis_lost_writes_total", "Writes to Redis that were given up, by reason.", &["reason"]),
            waiting: gauge("redis_waiting_writes", "Writes to Redis that wait or are under way."),
            breaker_open: gauge("redis_breaker_open", "1 while Redis is done without."),
        };
        let collectors: [Box<dyn Collector>; 7] = [
            Box::new(redis.requests.clone()),
            Box::new(redis.hits.clone()),
            Box::new(redis.misses.clone()),
            Box::new(redis.distrusted.clone()),
            Box::new(redis.lost.clone()),
            Box::new(redis.waiting.clone()),
            Box::new(redis.breaker_open.clone()),
        ];
        for collector in collectors {
            self.registry.register(collector).expect("each metric has a name of its own");
        }
        for reason in ["away", "no_room", "failed", "late", "wrong_type"] {
            redis.lost.with_label_values(&[reason]); // counts from 0, so that the first one shows as a rise
        }
        redis
    }

    /// The counters of a NATS Streaming channel, which a service without one does not show. To be
    /// called once.
    #[must_use]
    pub fn stan(&self) -> Stan {
        let counter = |name: &str, help: &str| IntCounter::new(name, help).expect("a legal name");
        let gauge = |name: &str, help: &str| IntGauge::new(name, help).expect("a legal name");
        let filled = "Messages read from the channel because their delivery was missing.";
        let stan = Stan {
            lag: gauge("stan_lag", "Messages of the NATS Streaming channel that are not durable yet."),
            redelivered: counter("stan_redelivered_total", "Messages of NATS Streaming that were delivered before."),
            filled: counter("stan_filled_total", filled),
            reconnects: counter("stan_reconnects_total", "Connections to NATS Streaming made after the first."),
            standby: gauge("stan_standby", "1 while another process is connected under the client's name."),
            stopped: gauge("stan_stopped", "1 while the channel is not read: it ends before its stored position."),
            lost: counter("stan_lost_messages_total", "Messages deleted from the channel before they were read."),
        };
        let collectors: [Box<dyn Collector>; 7] = [
            Box::new(stan.lag.clone()),
            Box::new(stan.redelivered.clone()),
            Box::new(stan.filled.clone()),
            Box::new(stan.reconnects.clone()),
            Box::new(stan.standby.clone()),
            Box::new(stan.stopped.clone()),
            Box::new(stan.lost.clone()),
        ];
        for collector in collectors {
            self.registry.register(collector).expect("each metric has a name of its own");
        }
        stan
    }

    /// Adds counters of one name, told apart by the value of a label.
    #[must_use]
    pub fn family(&self, name: &str, help: &str, label: &str) -> IntCounterVec {
        let family = IntCounterVec::new(Opts::new(name, help), &[label]).expect("a legal name");
        self.registry.register(Box::new(family.clone())).expect("each metric has a name of its own");
        family
    }

    /// Adds a gauge that is read when it is asked for.
    pub fn gauge(&self, name: &str, help: &str, read: impl Fn() -> f64 + Send + Sync + 'static) {
        let gauge = PullingGauge::new(name, help, Box::new(read)).expect("a legal name");
        self.registry.register(Box::new(gauge)).expect("each metric has a name of its own");
    }

    /// Adds gauges of one name, told apart by the value of a label and read when they are asked for.
    pub fn gauges(&self, name: &str, help: &str, label: &str, read: Vec<(&str, ReadGauge)>) {
        for (value, read) in read {
            let labels = std::collections::HashMap::from([(label.to_owned(), value.to_owned())]);
            let options = Opts::new(name, help).const_labels(labels);
            let desc = options.describe().expect("a legal name and label");
            let gauge = Pulled { desc, kind: MetricType::GAUGE, read };
            self.registry.register(Box::new(gauge)).expect("each value has a gauge of its own");
        }
    }

    /// Adds a counter that is read when it is asked for.
    pub fn total(&self, name: &str, help: &str, read: impl Fn() -> f64 + Send + Sync + 'static) {
        let desc = Opts::new(name, help).describe().expect("a legal name");
        let counter = Pulled { desc, kind: MetricType::COUNTER, read: Box::new(read) };
        self.registry.register(Box::new(counter)).expect("each metric has a name of its own");
    }

    /// Everything in the Prometheus text format, version 0.0.4.
    #[must_use]
    pub fn text(&self) -> String {
        prometheus::TextEncoder::new().encode_to_string(&self.registry.gather()).unwrap_or_default()
    }
}

/// Reads a gauge's value.
pub type ReadGauge = Box<dyn Fn() -> f64 + Send + Sync>;

/// A figure that is read when it is asked for.
struct Pulled {
    desc: Desc,
    kind: MetricType,
    read: ReadGauge,
}

impl Collector for Pulled {
    fn desc(&self) -> Vec<&Desc> {
        vec![&self.desc]
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let mut metric = Metric::from_label(self.desc.const_label_pairs.clone());
        if self.kind == MetricType::COUNTER {
            let mut counter = CounterProto::default();
            counter.set_value((self.read)());
            metric.set_counter(counter);
        } else {
            let mut gauge = prometheus::proto::Gauge::default();
            gauge.set_value((self.read)());
            metric.set_gauge(gauge);
        }
        let family = family(&self.desc.fq_name, &self.desc.help, self.kind, vec![metric]);
        vec![family]
    }
}

/// Upper bounds of latency buckets. Reads take microseconds, commits milliseconds.
const BOUNDS_SECONDS: [f64; 18] = [
    0.000_01, 0.000_025, 0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25,
    0.5, 1.0, 2.5, 10.0,
];
const BOUNDS_NANOS: [u64; 18] = [
    10_000,
    25_000,
    50_000,
    100_000,
    250_000,
    500_000,
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    25_000_000,
    50_000_000,
    100_000_000,
    250_000_000,
    500_000_000,
    1_000_000_000,
    2_500_000_000,
    10_000_000_000,
];

/// Statuses with a slot of their own; the last slot is for any other.
const STATUSES: [u16; 22] =
    [200, 304, 404, 201, 202, 204, 400, 405, 406, 408, 409, 410, 412, 413, 414, 415, 422, 429, 431, 500, 503, 0];
/// More than the threads that serve requests on most machines; beyond it threads share.
const SHARDS: usize = 64;

/// Request counters, one shard per thread: a request adds to memory no other thread writes.
pub struct Http {
    endpoints: &'static [&'static str],
    methods: &'static [&'static str],
    shards: Box<[Shard]>,
}

#[repr(align(128))]
struct Shard {
    hits: AtomicU64,
    misses: AtomicU64,
    /// By endpoint, method and status slot.
    requests: Box<[AtomicU64]>,
    /// By endpoint and bucket, the last one unbounded; then the sum in nanoseconds.
    durations: Box<[AtomicU64]>,
}

/// Buckets, the unbounded one, and the sum.
const DURATION_SLOTS: usize = BOUNDS_NANOS.len() + 2;

impl Http {
    fn new(endpoints: &'static [&'static str], methods: &'static [&'static str]) -> Self {
        let zeros = |len: usize| (0..len).map(|_| AtomicU64::new(0)).collect();
        let shard = || Shard {
            hits: AtomicU64::new(0),
            misses: AtomicU64::new(0),
            requests: zeros(endpoints.len() * methods.len() * STATUSES.len()),
            durations: zeros(endpoints.len() * methods.len() * DURATION_SLOTS),
        };
        Self { endpoints, methods, shards: (0..SHARDS).map(|_| shard()).collect() }
    }

    /// Counts answered requests, each of which took this long. No lock, no look-up, no allocation.
    pub fn observe(&self, endpoint: usize, method: usize, status: u16, each: Duration, count: u32) {
        let shard = self.shard();
        let route = endpoint * self.methods.len() + method;
        let slot = STATUSES.iter().position(|&known| known == status).unwrap_or(STATUSES.len() - 1);
        let count = u64::from(count);
        shard.requests[route * STATUSES.len() + slot].fetch_add(count, Ordering::Relaxed);
        let nanos = u64::try_from(each.as_nanos()).unwrap_or(u64::MAX);
        let bucket = BOUNDS_NANOS.iter().position(|&bound| nanos <= bound).unwrap_or(BOUNDS_NANOS.len());
        let durations = &shard.durations[route * DURATION_SLOTS..(route + 1) * DURATION_SLOTS];
        durations[bucket].fetch_add(count, Ordering::Relaxed);
        durations[DURATION_SLOTS - 1].fetch_add(nanos.saturating_mul(count), Ordering::Relaxed);
    }

    /// So many orders were asked for by id and were in the view.
    pub fn hit(&self, count: u32) {
        self.shard().hits.fetch_add(count.into(), Ordering::Relaxed);
    }

    /// An order was asked for by id and was not in the view.
    pub fn miss(&self) {
        self.shard().misses.fetch_add(1, Ordering::Relaxed);
    }

    fn shard(&self) -> &Shard {
        static THREADS: AtomicUsize = AtomicUsize::new(0);
        thread_local! {
            static THREAD: usize = THREADS.fetch_add(1, Ordering::Relaxed) % SHARDS;
        }
        &self.shards[THREAD.with(|thread| *thread)]
    }

    fn total(&self, read: impl Fn(&Shard) -> &AtomicU64) -> u64 {
        self.shards.iter().map(|shard| read(shard).load(Ordering::Relaxed)).sum()
    }

    fn labels(&self, endpoint: usize, method: usize, status: Option<u16>) -> Vec<LabelPair> {
        let pair = |name: &str, value: &str| {
            let mut pair = LabelPair::default();
            pair.set_name(name.into());
            pair.set_value(value.into());
            pair
        };
        // The text format wants labels sorted by name.
        let mut labels = vec![pair("endpoint", self.endpoints[endpoint]), pair("method", self.methods[method])];
        if let Some(status) = status {
            labels.push(pair("status", &if status == 0 { "other".into() } else { status.to_string() }));
        }
        labels
    }

    fn families(&self) -> Vec<MetricFamily> {
        let mut requests = Vec::new();
        let mut errors = Vec::new();
        let mut durations = Vec::new();
        for endpoint in 0..self.endpoints.len() {
            for method in 0..self.methods.len() {
                let route = endpoint * self.methods.len() + method;
                let mut failed = 0;
                for (slot, &status) in STATUSES.iter().enumerate() {
                    let count = self.total(|shard| &shard.requests[route * STATUSES.len() + slot]);
                    if count > 0 {
                        requests.push(counter_of(count, self.labels(endpoint, method, Some(status))));
                    }
                    failed += if status == 0 || status >= 400 { count } else { 0 };
                }
                let duration = self.duration_of(route);
                if duration.get_sample_count() > 0 {
                    errors.push(counter_of(failed, self.labels(endpoint, method, None)));
                    let mut metric = Metric::from_label(self.labels(endpoint, method, None));
                    metric.set_histogram(duration);
                    durations.push(metric);
                }
            }
        }
        let hits = vec![counter_of(self.total(|shard| &shard.hits), Vec::new())];
        let misses = vec![counter_of(self.total(|shard| &shard.misses), Vec::new())];
        let counter = MetricType::COUNTER;
        vec![
            family("http_requests_total", "Requests by method, route pattern and status.", counter, requests),
            family("http_request_errors_total", "Requests answered with 4xx or 5xx.", counter, errors),
            family("http_request_duration_seconds", "Time to make an answer.", MetricType::HISTOGRAM, durations),
            family("cache_hits_total", "Orders asked for by id that were in the view.", counter, hits),
            family("cache_misses_total", "Orders asked for by id that were not in the view.", counter, misses),
        ]
    }

    fn duration_of(&self, route: usize) -> prometheus::proto::Histogram {
        let slot = |index: usize| self.total(|shard| &shard.durations[route * DURATION_SLOTS + index]);
        let mut histogram = prometheus::proto::Histogram::default();
        let mut count = 0;
        let mut buckets = Vec::with_capacity(BOUNDS_SECONDS.len());
        for (index, &bound) in BOUNDS_SECONDS.iter().enumerate() {
            count += slot(index);
            let mut bucket = Bucket::default();
            bucket.set_upper_bound(bound);
            bucket.set_cumulative_count(count);
            buckets.push(bucket);
        }
        histogram.set_bucket(buckets);
        histogram.set_sample_count(count + slot(BOUNDS_SECONDS.len()));
        histogram.set_sample_sum(Duration::from_nanos(slot(DURATION_SLOTS - 1)).as_secs_f64());
        histogram
    }
}

/// Families that are counted elsewhere, and made up when someone asks.
struct Families<F> {
    collect: F,
    descriptions: Vec<Desc>,
}

impl<F: Fn() -> Vec<MetricFamily>> Families<F> {
    fn new(collect: F) -> Self {
        let describe = |family: &MetricFamily| {
            Desc::new(family.name().into(), family.help().into(), Vec::new(), std::collections::HashMap::new())
                .expect("a legal name")
        };
        let descriptions = collect().iter().map(describe).collect();
        Self { collect, descriptions }
    }
}

impl<F: Fn() -> Vec<MetricFamily> + Send + Sync> Collector for Families<F> {
    fn desc(&self) -> Vec<&Desc> {
        self.descriptions.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        // A family without metrics is an error in the text format.
        (self.collect)().into_iter().filter(|family| !family.get_metric().is_empty()).collect()
    }
}

#[expect(clippy::cast_precision_loss, reason = "counts stay below 2^53")]
fn counter_of(count: u64, labels: Vec<LabelPair>) -> Metric {
    let mut metric = value(MetricType::COUNTER, count as f64);
    metric.set_label(labels);
    metric
}

/// A counter or a gauge without labels.
fn value(kind: MetricType, number: f64) -> Metric {
    let mut metric = Metric::default();
    if kind == MetricType::COUNTER {
        let mut counter = CounterProto::default();
        counter.set_value(number);
        metric.set_counter(counter);
    } else {
        let mut gauge = GaugeProto::default();
        gauge.set_value(number);
        metric.set_gauge(gauge);
    }
    metric
}

fn family(name: &str, help: &str, kind: MetricType, metrics: Vec<Metric>) -> MetricFamily {
    let mut family = MetricFamily::default();
    family.set_name(name.into());
    family.set_help(help.into());
    family.set_field_type(kind);
    family.set_metric(metrics);
    family
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_text_has_the_names_of_the_older_services() {
        let metrics = Metrics::new(&["/order/{id}", "other"], &["GET", "POST"]);
        metrics.http.observe(0, 0, 200, Duration::from_micros(3), 1);
        metrics.http.observe(0, 0, 404, Duration::from_micros(30), 1);
        metrics.http.observe(1, 1, 299, Duration::from_mins(1), 1);
        metrics.http.hit(1);
        metrics.gauge("view_orders", "Orders.", || 7.0);
        metrics.ingest.processed.with_label_values(&["success"]).inc();
        let text = metrics.text();
        for line in [
            "# TYPE http_requests_total counter",
            "http_requests_total{endpoint=\"/order/{id}\",method=\"GET\",status=\"200\"} 1",
            "http_requests_total{endpoint=\"other\",method=\"POST\",status=\"other\"} 1",
            "http_request_errors_total{endpoint=\"/order/{id}\",method=\"GET\"} 1",
            "http_request_duration_seconds_bucket{endpoint=\"/order/{id}\",method=\"GET\",le=\"0.00001\"} 1",
            "http_request_duration_seconds_bucket{endpoint=\"other\",method=\"POST\",le=\"+Inf\"} 1",
            "http_request_duration_seconds_count{endpoint=\"/order/{id}\",method=\"GET\"} 2",
            "cache_hits_total 1",
            "cache_misses_total 0",
            "orders_created_total 0",
            "orders_processed_total{status=\"success\"} 1",
            "view_orders 7",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
    }
}
