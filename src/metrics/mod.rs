//! The registry of counters, gauges and histograms, and their text for `/metrics`. Owns what is
//! read off the process, and the sharded counters of requests, which no two threads write to.
//!
//! Knows no module of ours and no family of theirs: each module registers what it counts, once a
//! process, where it is made. So a part that is not configured has no family. What a module
//! registers is in its own `metrics.rs`, or beside what is counted where that is a line or two.

mod bounds;
mod families;
mod process;
mod requests;

use std::collections::HashMap;
use std::sync::Arc;

use prometheus::core::{Collector, Describer};
use prometheus::proto::MetricType;
use prometheus::{HistogramOpts, Opts, Registry};

use families::{Families, Pulled};
use process::Process;

pub use bounds::BOUNDS_SECONDS;
pub use families::ReadGauge;
pub use prometheus::{Histogram, IntCounter, IntCounterVec, IntGauge, IntGaugeVec};
pub use requests::{Named, RequestNames, Requests};

/// Where families are registered, each under a name of its own. Clones share them.
///
/// The functions beginning with `pulled` are for what is read when someone asks for it; the others
/// make what is counted with.
#[derive(Clone)]
pub struct Metrics(Registry);

impl Default for Metrics {
    /// With the families of the process alone.
    fn default() -> Self {
        let metrics = Self(Registry::new());
        let process = Process::starting();
        metrics.register(Families::new(move || process.families()));
        metrics
    }
}

impl Metrics {
    /// A counter.
    #[must_use]
    pub fn counter(&self, name: &str, help: &str) -> IntCounter {
        let counter = IntCounter::new(name, help).expect("a legal name");
        self.register(counter.clone());
        counter
    }

    /// Counters of one name, told apart by the values of labels. One that was never asked for is
    /// not shown.
    #[must_use]
    pub fn counters(&self, name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
        let counters = IntCounterVec::new(Opts::new(name, help), labels).expect("a legal name");
        self.register(counters.clone());
        counters
    }

    /// A gauge.
    #[must_use]
    pub fn gauge(&self, name: &str, help: &str) -> IntGauge {
        let gauge = IntGauge::new(name, help).expect("a legal name");
        self.register(gauge.clone());
        gauge
    }

    /// Gauges of one name, told apart by the value of a label.
    #[must_use]
    pub fn gauges(&self, name: &str, help: &str, label: &str) -> IntGaugeVec {
        let gauges = IntGaugeVec::new(Opts::new(name, help), &[label]).expect("a legal name");
        self.register(gauges.clone());
        gauges
    }

    /// A histogram with these upper bounds of its buckets.
    #[must_use]
    pub fn histogram(&self, name: &str, help: &str, buckets: &[f64]) -> Histogram {
        let options = HistogramOpts::new(name, help).buckets(buckets.to_vec());
        let histogram = Histogram::with_opts(options).expect("a legal name and rising buckets");
        self.register(histogram.clone());
        histogram
    }

    /// Sharded counters of requests, with the families that are named.
    #[must_use]
    pub fn requests(&self, names: RequestNames) -> Arc<Requests> {
        let requests = Arc::new(Requests::new(names));
        let counted = Arc::clone(&requests);
        self.register(Families::new(move || counted.families()));
        requests
    }

    /// A gauge that is read when it is asked for.
    pub fn pulled_gauge(&self, name: &str, help: &str, read: impl Fn() -> f64 + Send + Sync + 'static) {
        self.pulled(Opts::new(name, help), MetricType::GAUGE, Box::new(read));
    }

    /// Gauges of one name, told apart by the value of a label, that are read when they are asked for.
    pub fn pulled_gauges(&self, name: &str, help: &str, label: &str, read: Vec<(&str, ReadGauge)>) {
        for (value, read) in read {
            let labels = HashMap::from([(label.to_owned(), value.to_owned())]);
            self.pulled(Opts::new(name, help).const_labels(labels), MetricType::GAUGE, read);
        }
    }

    /// A counter that is read when it is asked for.
    pub fn pulled_counter(&self, name: &str, help: &str, read: impl Fn() -> f64 + Send + Sync + 'static) {
        self.pulled(Opts::new(name, help), MetricType::COUNTER, Box::new(read));
    }

    /// Everything in the Prometheus text format, version 0.0.4.
    #[must_use]
    pub fn text(&self) -> String {
        prometheus::TextEncoder::new().encode_to_string(&self.0.gather()).unwrap_or_default()
    }

    fn pulled(&self, options: Opts, kind: MetricType, read: ReadGauge) {
        let desc = options.describe().expect("a legal name and label");
        self.register(Pulled { desc, kind, read });
    }

    fn register(&self, collector: impl Collector + 'static) {
        self.0.register(Box::new(collector)).expect("each metric has a name of its own");
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    const NAMES: RequestNames = RequestNames {
        endpoints: &["/order/{id}", "other"],
        methods: &["GET", "POST"],
        requests: Named("test_requests_total", "Requests."),
        errors: Named("test_errors_total", "Errors."),
        durations: Named("test_duration_seconds", "Time."),
        hits: Named("test_hits_total", "Hits."),
        misses: Named("test_misses_total", "Misses."),
    };

    #[test]
    fn what_is_registered_is_in_the_text() {
        let metrics = Metrics::default();
        metrics.counter("test_things_total", "Things.").inc_by(2);
        metrics.counters("test_kinds_total", "Kinds.", &["kind", "is"]).with_label_values(&["a", "b"]).inc();
        metrics.gauge("test_open", "Open.").set(3);
        metrics.gauges("test_lag", "Lag.", "partition").with_label_values(&["7"]).set(4);
        metrics.histogram("test_rows", "Rows.", &[1.0, 2.0]).observe(1.5);
        metrics.pulled_gauge("test_size", "Size.", || 7.0);
        metrics.pulled_gauges("test_pool", "Pool.", "state", vec![("busy", Box::new(|| 8.0))]);
        metrics.pulled_gauges("test_pool", "Pool.", "state", vec![("idle", Box::new(|| 9.0))]);
        metrics.pulled_counter("test_seconds_total", "Seconds.", || 0.5);
        let text = metrics.text();
        for line in [
            "# HELP test_things_total Things.",
            "# TYPE test_things_total counter",
            "test_things_total 2",
            "test_kinds_total{is=\"b\",kind=\"a\"} 1",
            "# TYPE test_open gauge",
            "test_open 3",
            "test_lag{partition=\"7\"} 4",
            "test_rows_bucket{le=\"1\"} 0",
            "test_rows_bucket{le=\"2\"} 1",
            "# TYPE test_size gauge",
            "test_size 7",
            "test_pool{state=\"busy\"} 8",
            "test_pool{state=\"idle\"} 9",
            "# TYPE test_seconds_total counter",
            "test_seconds_total 0.5",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
    }

    #[test]
    fn requests_are_told_apart_under_the_names_of_their_owner() {
        let metrics = Metrics::default();
        let requests = metrics.requests(NAMES);
        requests.observe(0, 0, 200, Duration::from_micros(3), 1);
        requests.observe(0, 0, 404, Duration::from_micros(30), 1);
        requests.observe(1, 1, 299, Duration::from_mins(1), 1);
        requests.hit(1);
        let text = metrics.text();
        for line in [
            "# TYPE test_requests_total counter",
            "test_requests_total{endpoint=\"/order/{id}\",method=\"GET\",status=\"200\"} 1",
            "test_requests_total{endpoint=\"other\",method=\"POST\",status=\"other\"} 1",
            "test_errors_total{endpoint=\"/order/{id}\",method=\"GET\"} 1",
            "test_duration_seconds_bucket{endpoint=\"/order/{id}\",method=\"GET\",le=\"0.00001\"} 1",
            "test_duration_seconds_bucket{endpoint=\"other\",method=\"POST\",le=\"+Inf\"} 1",
            "test_duration_seconds_count{endpoint=\"/order/{id}\",method=\"GET\"} 2",
            "test_hits_total 1",
            "test_misses_total 0",
        ] {
            assert!(text.lines().any(|found| found == line), "{line}\n{text}");
        }
    }

    #[test]
    fn without_owners_there_is_the_process_alone() {
        let text = Metrics::default().text();
        let families = text.lines().filter_map(|line| line.strip_prefix("# TYPE "));
        let others: Vec<&str> = families.filter(|family| !family.starts_with("process_")).collect();
        assert!(others.is_empty() && text.contains("process_cpu_seconds_total"), "{others:?}");
    }

    /// Two owners of one name would show one of them.
    #[test]
    #[should_panic(expected = "each metric has a name of its own")]
    fn a_name_is_registered_once() {
        let metrics = Metrics::default();
        let [_, _] = [1, 2].map(|_| metrics.counter("test_things_total", "Things."));
    }
}
