//! What the relay of committed changes counts.

use crate::metrics::{IntCounter, IntGauge, Metrics};

/// What the relay of committed changes counts.
#[derive(Clone)]
pub struct OutboxMetrics {
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

impl OutboxMetrics {
    /// Registers them: once in a process that publishes, and in no other.
    #[must_use]
    pub fn register(metrics: &Metrics) -> Self {
        Self {
            outgoing: metrics.gauge("outbox_outgoing_batches", "Committed batches on their way to Kafka."),
            published: metrics.counter("outbox_published_batches_total", "Committed batches that are published."),
            failures: metrics
                .counter("outbox_failed_batches_total", "Batches that did not arrive, to be published again."),
            taken_over: metrics
                .counter("outbox_taken_over_batches_total", "Batches published for an instance that did not."),
            too_large: metrics
                .counter("outbox_too_large_orders_total", "Tries at publishing orders too large for their topic."),
            overdue: metrics.gauge(
                "outbox_overdue_seconds",
                "Age of the oldest batch not published in time; 0 when there is none.",
            ),
        }
    }
}
