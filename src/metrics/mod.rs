//! Counters and histograms, and their text for `/metrics`. What a request touches is sharded by thread; the rest is the
//! library's. Knows no module of ours.

mod families;
mod http;
mod parts;
mod process;
mod register;

use std::sync::Arc;

use prometheus::core::Describer;
use prometheus::proto::MetricType;
use prometheus::{IntCounterVec, IntGauge, Opts, PullingGauge, Registry};

use families::{Families, Pulled};
use process::Process;
use register::Register;

pub use families::ReadGauge;
pub use http::Http;
pub use parts::{Ingest, Kafka, Nats, Outbox, Redis, Stan};

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

impl Metrics {
    /// Fresh counters. `endpoints` and `methods` name the indices that [`Http::observe`] is called with.
    #[must_use]
    pub fn new(endpoints: &'static [&'static str], methods: &'static [&'static str]) -> Self {
        let registry = Registry::new();
        let register = Register(&registry);
        let http = Arc::new(Http::new(endpoints, methods));
        let requests = Arc::clone(&http);
        register.collector(Families::new(move || requests.families()));
        let process = Process::starting();
        register.collector(Families::new(move || process.families()));
        let closed_help = "Connections closed by the server, by reason.";
        Self {
            http,
            ingest: Ingest::new(&register),
            kafka: Kafka::new(&register),
            nats: Nats::new(&register),
            outbox: Outbox::new(&register),
            grpc: register.family("grpc_requests_total", "Calls by method and status code.", &["method", "code"]),
            connections: register.gauge("http_connections", "Open connections."),
            connections_closed: register.family("http_connections_closed_total", closed_help, &["reason"]),
            event_streams: register.gauge("http_event_streams", "Open event streams."),
            registry,
        }
    }

    /// The counters of the tier in Redis, which a service without one does not show. To be called once.
    #[must_use]
    pub fn redis(&self) -> Redis {
        Redis::new(&Register(&self.registry))
    }

    /// The counters of a NATS Streaming channel, which a service without one does not show. To be
    /// called once.
    #[must_use]
    pub fn stan(&self) -> Stan {
        Stan::new(&Register(&self.registry))
    }

    /// Adds counters of one name, told apart by the value of a label.
    #[must_use]
    pub fn family(&self, name: &str, help: &str, label: &str) -> IntCounterVec {
        Register(&self.registry).family(name, help, &[label])
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

#[cfg(test)]
mod tests {
    use std::time::Duration;

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
