//! What the consumer of a Kafka topic counts.

use crate::metrics::{IntCounter, IntGauge, IntGaugeVec, Metrics};

/// What the consumer of a Kafka topic counts.
#[derive(Clone)]
pub struct KafkaMetrics {
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

impl KafkaMetrics {
    /// Registers them: once in a process that reads a topic, and in no other.
    #[must_use]
    pub fn register(metrics: &Metrics) -> Self {
        Self {
            lag: metrics.gauges("kafka_lag", "Messages behind, by partition.", "partition"),
            stalls: metrics.counter("kafka_stalls_total", "Consumers that delivered nothing and were replaced."),
            rebalances: metrics.counter("kafka_rebalances_total", "Times that partitions were given or taken."),
            stopped: metrics
                .gauge("kafka_stopped", "1 while a partition is not read: it ends before its stored position."),
            lost: metrics
                .counter("kafka_lost_messages_total", "Messages deleted from the topic before they were read."),
            remade: metrics
                .counter("kafka_topics_remade_total", "Times that the topic was found deleted and made again."),
        }
    }
}
