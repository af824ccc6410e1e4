//! What HTTP counts: requests, look-ups by id, connections, event streams.

use std::sync::Arc;

use super::route;
use crate::metrics::{IntCounterVec, IntGauge, Metrics, Named, RequestNames, Requests};

/// What requests are counted under. gRPC counts its look-ups of orders here too.
const REQUESTS: RequestNames = RequestNames {
    endpoints: route::ENDPOINTS,
    methods: route::METHODS,
    requests: Named("http_requests_total", "Requests by method, route pattern and status."),
    errors: Named("http_request_errors_total", "Requests answered with 4xx or 5xx."),
    durations: Named("http_request_duration_seconds", "Time to make an answer."),
    hits: Named("cache_hits_total", "Orders asked for by id that were in the view."),
    misses: Named("cache_misses_total", "Orders asked for by id that were not in the view."),
};

/// What HTTP counts. Clones share the counters.
#[derive(Clone)]
pub struct HttpMetrics {
    /// Requests by route pattern, method and status; look-ups of orders by id.
    pub requests: Arc<Requests>,
    /// Connections open now.
    pub connections: IntGauge,
    /// Connections closed for being too slow or idle, by reason.
    pub connections_closed: IntCounterVec,
    /// Event streams open now.
    pub event_streams: IntGauge,
}

impl HttpMetrics {
    /// Registers them: once in a process that answers HTTP, and in no other.
    #[must_use]
    pub fn register(metrics: &Metrics) -> Self {
        let closed = "Connections closed by the server, by reason.";
        Self {
            requests: metrics.requests(REQUESTS),
            connections: metrics.gauge("http_connections", "Open connections."),
            connections_closed: metrics.counters("http_connections_closed_total", closed, &["reason"]),
            event_streams: metrics.gauge("http_event_streams", "Open event streams."),
        }
    }
}
