//! What the ingest loop counts, whatever the source.

use crate::metrics::{BOUNDS_SECONDS, Histogram, IntCounter, IntCounterVec, Metrics};

/// What the ingest loop counts.
#[derive(Clone)]
pub struct IngestMetrics {
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

impl IngestMetrics {
    /// Registers them: once in a process that takes orders in, from however many sources.
    #[must_use]
    pub fn register(metrics: &Metrics) -> Self {
        let rows = [1.0, 2.0, 5.0, 10.0, 20.0, 50.0, 100.0, 200.0, 500.0, 1000.0, 2000.0, 5000.0];
        let ingest = Self {
            created: metrics.counter("orders_created_total", "Orders stored for the first time."),
            processed: metrics.counters("orders_processed_total", "Orders by what became of them.", &["status"]),
            batch_rows: metrics.histogram("order_batch_rows", "Orders per committed batch.", &rows),
            overlapped: metrics
                .counter("order_batches_overlapped_total", "Batches written while the one before them became durable."),
            commit: metrics.histogram("order_commit_duration_seconds", "Time of one store commit.", &BOUNDS_SECONDS),
            arrival: metrics.histogram(
                "order_arrival_duration_seconds",
                "Time from a message's time stamp to its arrival in the service; 0 for one of the future.",
                &BOUNDS_SECONDS[5..],
            ),
            visible: metrics.histogram(
                "order_visible_duration_seconds",
                "Time from arrival to visible.",
                &BOUNDS_SECONDS,
            ),
            retries: metrics.counter("order_commit_retries_total", "Store commits that had to be tried again."),
            coalesced: metrics
                .counter("order_coalesced_total", "Orders replaced by a newer version before they were stored."),
            dead_lettered: metrics.counters(
                "orders_dead_lettered_total",
                "Messages that are no valid order, by reason.",
                &["reason"],
            ),
            end_to_end: metrics.histogram(
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
