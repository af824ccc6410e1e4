//! What the second-level cache counts.

use crate::metrics::{IntCounter, IntCounterVec, IntGauge, Metrics};

/// What the tier in Redis counts.
#[derive(Clone)]
pub struct RedisMetrics {
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

impl RedisMetrics {
    /// Registers them: once in a process with a second-level cache, and in no other.
    #[must_use]
    pub fn register(metrics: &Metrics) -> Self {
        let redis = Self {
            requests: metrics.counters("redis_requests_total", "Requests to Redis.", &["operation", "result"]),
            hits: metrics.counter("redis_hits_total", "Orders read from Redis."),
            misses: metrics.counter("redis_misses_total", "Orders that were not in Redis."),
            distrusted: metrics.counter("redis_distrusted_total", "Orders in Redis that may have been out of date."),
            lost: metrics.counters(
                "redis_lost_writes_total",
                "Writes to Redis that were given up, by reason.",
                &["reason"],
            ),
            waiting: metrics.gauge("redis_waiting_writes", "Writes to Redis that wait or are under way."),
            breaker_open: metrics.gauge("redis_breaker_open", "1 while Redis is done without."),
        };
        for reason in ["away", "no_room", "failed", "late", "wrong_type"] {
            redis.lost.with_label_values(&[reason]); // counts from 0, so that the first one shows as a rise
        }
        redis
    }
}
