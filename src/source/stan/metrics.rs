//! What the consumer of a NATS Streaming channel counts.

use crate::metrics::{IntCounter, IntGauge, Metrics};

/// What the consumer of a NATS Streaming channel counts.
#[derive(Clone)]
pub struct StanMetrics {
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

impl StanMetrics {
    /// Registers them: once in a process that reads a channel, and in no other.
    #[must_use]
    pub fn register(metrics: &Metrics) -> Self {
        let filled = "Messages read from the channel because their delivery was missing.";
        Self {
            lag: metrics.gauge("stan_lag", "Messages of the NATS Streaming channel that are not durable yet."),
            redelivered: metrics
                .counter("stan_redelivered_total", "Messages of NATS Streaming that were delivered before."),
            filled: metrics.counter("stan_filled_total", filled),
            reconnects: metrics.counter("stan_reconnects_total", "Connections to NATS Streaming made after the first."),
            standby: metrics.gauge("stan_standby", "1 while another process is connected under the client's name."),
            stopped: metrics
                .gauge("stan_stopped", "1 while the channel is not read: it ends before its stored position."),
            lost: metrics
                .counter("stan_lost_messages_total", "Messages deleted from the channel before they were read."),
        }
    }
}
