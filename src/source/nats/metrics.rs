//! What the consumer of a NATS stream counts.

use crate::metrics::{IntCounter, IntGauge, Metrics};

/// What the consumer of a NATS stream counts.
#[derive(Clone)]
pub struct NatsMetrics {
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

impl NatsMetrics {
    /// Registers them: once in a process that reads a stream, and in no other.
    #[must_use]
    pub fn register(metrics: &Metrics) -> Self {
        Self {
            lag: metrics.gauge("nats_lag", "Messages of the NATS stream that are not durable yet."),
            redelivered: metrics.counter("nats_redelivered_total", "Messages of NATS that were delivered before."),
            filled: metrics
                .counter("nats_filled_total", "Messages read from the stream because their delivery was missing."),
            reconnects: metrics.counter("nats_reconnects_total", "Connections to NATS made after the first."),
            stalls: metrics.counter("nats_stalls_total", "NATS consumers that delivered nothing and were replaced."),
            standby: metrics
                .gauge("nats_standby", "1 while another process reads the NATS stream into the same store."),
            stopped: metrics
                .gauge("nats_stopped", "1 while the NATS stream is not read: it ends before its stored position."),
            lost: metrics
                .counter("nats_lost_messages_total", "Messages deleted from the NATS stream before they were read."),
            remade: metrics
                .counter("nats_streams_remade_total", "Times that the NATS stream was found deleted and made again."),
        }
    }
}
