//! What each part of the service counts: its counters, with their names and what is said of them.

use prometheus::{Histogram, IntCounter, IntCounterVec, IntGauge, IntGaugeVec};

use super::register::Register;

/// Upper bounds of latency buckets. Reads take microseconds, commits milliseconds.
pub(super) const BOUNDS_SECONDS: [f64; 18] = [
    0.000_01, 0.000_025, 0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25,
    0.5, 1.0, 2.5, 10.0,
];

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

impl Ingest {
    pub(super) fn new(register: &Register<'_>) -> Self {
        let rows = [1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0, 2000.0, 5000.0];
        let ingest = Self {
            created: register.counter("orders_created_total", "Orders stored for the first time."),
            processed: register.family("orders_processed_total", "Orders by what became of them.", &["status"]),
            batch_rows: register.histogram("order_batch_rows", "Orders per committed batch.", &rows),
            overlapped: register
                .counter("order_batches_overlapped_total", "Batches written while the one before them became durable."),
            commit: register.histogram("order_commit_duration_seconds", "Time of one store commit.", &BOUNDS_SECONDS),
            arrival: register.histogram(
                "order_arrival_duration_seconds",
                "Time from a message's time stamp to its arrival in the service; 0 for one of the future.",
                &BOUNDS_SECONDS[5..],
            ),
            visible: register.histogram(
                "order_visible_duration_seconds",
                "Time from arrival to visible.",
                &BOUNDS_SECONDS,
            ),
            retries: register.counter("order_commit_retries_total", "Store commits that had to be tried again."),
            coalesced: register
                .counter("order_coalesced_total", "Orders replaced by a newer version before they were stored."),
            dead_lettered: register.family(
                "orders_dead_lettered_total",
                "Messages that are no valid order, by reason.",
                &["reason"],
            ),
            end_to_end: register.histogram(
                "order_end_to_end_seconds",
                "Time from a message's time stamp to visible.",
                &BOUNDS_SECONDS[5..],
            ),
        };
        for reason in ["malformed", "too_large", "invalid", "other_kind", "no_user", "no_payload"] {
            ingest.dead_lettered.with_label_values(&[reason]); // counts from 0, so that the first one shows as a rise
        }
        ingest
    }
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

impl Kafka {
    pub(super) fn new(register: &Register<'_>) -> Self {
        Self {
            lag: register.gauges("kafka_lag", "Messages behind, by partition.", "partition"),
            stalls: register.counter("kafka_stalls_total", "Consumers that delivered nothing and were replaced."),
            rebalances: register.counter("kafka_rebalances_total", "Times that partitions were given or taken."),
            stopped: register
                .gauge("kafka_stopped", "1 while a partition is not read: it ends before its stored position."),
            lost: register
                .counter("kafka_lost_messages_total", "Messages deleted from the topic before they were read."),
            remade: register
                .counter("kafka_topics_remade_total", "Times that the topic was found deleted and made again."),
        }
    }
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

impl Redis {
    pub(super) fn new(register: &Register<'_>) -> Self {
        let redis = Self {
            requests: register.family("redis_requests_total", "Requests to Redis.", &["operation", "result"]),
            hits: register.counter("redis_hits_total", "Orders read from Redis."),
            misses: register.counter("redis_misses_total", "Orders that were not in Redis."),
            distrusted: register.counter("redis_distrusted_total", "Orders in Redis that may have been out of date."),
            lost: register.family(
                "redis_lost_writes_total",
                "Writes to Redis that were given up, by reason.",
                &["reason"],
            ),
            waiting: register.gauge("redis_waiting_writes", "Writes to Redis that wait or are under way."),
            breaker_open: register.gauge("redis_breaker_open", "1 while Redis is done without."),
        };
        for reason in ["away", "no_room", "failed", "late", "wrong_type"] {
            redis.lost.with_label_values(&[reason]); // counts from 0, so that the first one shows as a rise
        }
        redis
    }
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

impl Nats {
    pub(super) fn new(register: &Register<'_>) -> Self {
        Self {
            lag: register.gauge("nats_lag", "Messages of the NATS stream that are not durable yet."),
            redelivered: register.counter("nats_redelivered_total", "Messages of NATS that were delivered before."),
            filled: register
                .counter("nats_filled_total", "Messages read from the stream because their delivery was missing."),
            reconnects: register.counter("nats_reconnects_total", "Connections to NATS made after the first."),
            stalls: register.counter("nats_stalls_total", "NATS consumers that delivered nothing and were replaced."),
            standby: register
                .gauge("nats_standby", "1 while another process reads the NATS stream into the same store."),
            stopped: register
                .gauge("nats_stopped", "1 while the NATS stream is not read: it ends before its stored position."),
            lost: register
                .counter("nats_lost_messages_total", "Messages deleted from the NATS stream before they were read."),
            remade: register
                .counter("nats_streams_remade_total", "Times that the NATS stream was found deleted and made again."),
        }
    }
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

impl Stan {
    pub(super) fn new(register: &Register<'_>) -> Self {
        let filled = "Messages read from the channel because their delivery was missing.";
        Self {
            lag: register.gauge("stan_lag", "Messages of the NATS Streaming channel that are not durable yet."),
            redelivered: register
                .counter("stan_redelivered_total", "Messages of NATS Streaming that were delivered before."),
            filled: register.counter("stan_filled_total", filled),
            reconnects: register
                .counter("stan_reconnects_total", "Connections to NATS Streaming made after the first."),
            standby: register.gauge("stan_standby", "1 while another process is connected under the client's name."),
            stopped: register
                .gauge("stan_stopped", "1 while the channel is not read: it ends before its stored position."),
            lost: register
                .counter("stan_lost_messages_total", "Messages deleted from the channel before they were read."),
        }
    }
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

impl Outbox {
    pub(super) fn new(register: &Register<'_>) -> Self {
        Self {
            outgoing: register.gauge("outbox_outgoing_batches", "Committed batches on their way to Kafka."),
            published: register.counter("outbox_published_batches_total", "Committed batches that are published."),
            failures: register
                .counter("outbox_failed_batches_total", "Batches that did not arrive, to be published again."),
            taken_over: register
                .counter("outbox_taken_over_batches_total", "Batches published for an instance that did not."),
            too_large: register
                .counter("outbox_too_large_orders_total", "Tries at publishing orders too large for their topic."),
            overdue: register.gauge(
                "outbox_overdue_seconds",
                "Age of the oldest batch not published in time; 0 when there is none.",
            ),
        }
    }
}
