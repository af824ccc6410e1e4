//! Makes counters and registers them, each under a name of its own.

use prometheus::core::Collector;
use prometheus::{Histogram, HistogramOpts, IntCounter, IntCounterVec, IntGauge, IntGaugeVec, Opts, Registry};

/// Where counters are registered.
pub(super) struct Register<'r>(pub(super) &'r Registry);

impl Register<'_> {
    pub(super) fn collector(&self, collector: impl Collector + 'static) {
        self.0.register(Box::new(collector)).expect("each metric has a name of its own");
    }

    pub(super) fn counter(&self, name: &str, help: &str) -> IntCounter {
        let counter = IntCounter::new(name, help).expect("a legal name");
        self.collector(counter.clone());
        counter
    }

    pub(super) fn gauge(&self, name: &str, help: &str) -> IntGauge {
        let gauge = IntGauge::new(name, help).expect("a legal name");
        self.collector(gauge.clone());
        gauge
    }

    /// Counters of one name, told apart by the values of labels.
    pub(super) fn family(&self, name: &str, help: &str, labels: &[&str]) -> IntCounterVec {
        let family = IntCounterVec::new(Opts::new(name, help), labels).expect("a legal name");
        self.collector(family.clone());
        family
    }

    /// Gauges of one name, told apart by the value of a label.
    pub(super) fn gauges(&self, name: &str, help: &str, label: &str) -> IntGaugeVec {
        let gauges = IntGaugeVec::new(Opts::new(name, help), &[label]).expect("a legal name");
        self.collector(gauges.clone());
        gauges
    }

    pub(super) fn histogram(&self, name: &str, help: &str, buckets: &[f64]) -> Histogram {
        let options = HistogramOpts::new(name, help).buckets(buckets.to_vec());
        let histogram = Histogram::with_opts(options).expect("a legal name and rising buckets");
        self.collector(histogram.clone());
        histogram
    }
}
