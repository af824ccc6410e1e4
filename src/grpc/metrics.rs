//! What gRPC counts: its calls, and look-ups of orders together with those of HTTP.

use std::sync::Arc;

use crate::metrics::{IntCounterVec, Metrics, Requests};

/// What gRPC counts. Clones share the counters.
#[derive(Clone)]
pub struct GrpcMetrics {
    /// `grpc_requests_total{method,code}`.
    pub calls: IntCounterVec,
    /// Look-ups of orders by id, which are counted as those of HTTP are.
    pub lookups: Arc<Requests>,
}

impl GrpcMetrics {
    /// Registers the calls: once in a process that answers gRPC, and in no other. `lookups` are
    /// registered by HTTP.
    #[must_use]
    pub fn register(metrics: &Metrics, lookups: Arc<Requests>) -> Self {
        let help = "Calls by method and status code.";
        Self { calls: metrics.counters("grpc_requests_total", help, &["method", "code"]), lookups }
    }
}
