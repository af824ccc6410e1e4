//! Families of metrics that are made up when someone asks for them.

use prometheus::core::{Collector, Desc};
use prometheus::proto::{Counter as CounterProto, Gauge as GaugeProto, LabelPair, Metric, MetricFamily, MetricType};

/// Reads a gauge's value.
pub type ReadGauge = Box<dyn Fn() -> f64 + Send + Sync>;

/// A figure that is read when it is asked for.
pub(super) struct Pulled {
    pub(super) desc: Desc,
    pub(super) kind: MetricType,
    pub(super) read: ReadGauge,
}

impl Collector for Pulled {
    fn desc(&self) -> Vec<&Desc> {
        vec![&self.desc]
    }

    fn collect(&self) -> Vec<MetricFamily> {
        let mut metric = Metric::from_label(self.desc.const_label_pairs.clone());
        if self.kind == MetricType::COUNTER {
            let mut counter = CounterProto::default();
            counter.set_value((self.read)());
            metric.set_counter(counter);
        } else {
            let mut gauge = prometheus::proto::Gauge::default();
            gauge.set_value((self.read)());
            metric.set_gauge(gauge);
        }
        let family = family(&self.desc.fq_name, &self.desc.help, self.kind, vec![metric]);
        vec![family]
    }
}

/// Families that are counted elsewhere, and made up when someone asks.
pub(super) struct Families<F> {
    collect: F,
    descriptions: Vec<Desc>,
}

impl<F: Fn() -> Vec<MetricFamily>> Families<F> {
    pub(super) fn new(collect: F) -> Self {
        let describe = |family: &MetricFamily| {
            Desc::new(family.name().into(), family.help().into(), Vec::new(), std::collections::HashMap::new())
                .expect("a legal name")
        };
        let descriptions = collect().iter().map(describe).collect();
        Self { collect, descriptions }
    }
}

impl<F: Fn() -> Vec<MetricFamily> + Send + Sync> Collector for Families<F> {
    fn desc(&self) -> Vec<&Desc> {
        self.descriptions.iter().collect()
    }

    fn collect(&self) -> Vec<MetricFamily> {
        // A family without metrics is an error in the text format.
        (self.collect)().into_iter().filter(|family| !family.get_metric().is_empty()).collect()
    }
}

#[expect(clippy::cast_precision_loss, reason = "counts stay below 2^53")]
pub(super) fn counter_of(count: u64, labels: Vec<LabelPair>) -> Metric {
    let mut metric = value(MetricType::COUNTER, count as f64);
    metric.set_label(labels);
    metric
}

/// A counter or a gauge without labels.
pub(super) fn value(kind: MetricType, number: f64) -> Metric {
    let mut metric = Metric::default();
    if kind == MetricType::COUNTER {
        let mut counter = CounterProto::default();
        counter.set_value(number);
        metric.set_counter(counter);
    } else {
        let mut gauge = GaugeProto::default();
        gauge.set_value(number);
        metric.set_gauge(gauge);
    }
    metric
}

pub(super) fn family(name: &str, help: &str, kind: MetricType, metrics: Vec<Metric>) -> MetricFamily {
    let mut family = MetricFamily::default();
    family.set_name(name.into());
    family.set_help(help.into());
    family.set_field_type(kind);
    family.set_metric(metrics);
    family
}
