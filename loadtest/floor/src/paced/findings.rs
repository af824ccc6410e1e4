//! What was found: latencies from when requests were due, and whether they were sent in time.

use std::fmt::Write;
use std::time::{Duration, Instant};

use hdrhistogram::Histogram;

const MICROS_MAX: u64 = 600_000_000;
/// A request sent later than this after it was due is counted as late.
const LATE: Duration = Duration::from_millis(1);
const PERCENTILES: [f64; 7] = [50.0, 75.0, 90.0, 99.0, 99.9, 99.99, 100.0];

pub struct Findings {
    measured_from: Instant,
    latency: Histogram<u64>,
    service: Histogram<u64>,
    answers: u64,
    unexpected: u64,
    late: u64,
    missed: u64,
}

impl Findings {
    /// Nothing yet. What is due before `measured_from` does not count.
    pub fn new(measured_from: Instant) -> Self {
        let histogram = || Histogram::new_with_max(MICROS_MAX, 3).expect("three digits up to ten minutes");
        Self {
            measured_from,
            latency: histogram(),
            service: histogram(),
            answers: 0,
            unexpected: 0,
            late: 0,
            missed: 0,
        }
    }

    /// A request was sent.
    pub fn sent(&mut self, due: Instant, at: Instant) {
        self.late += u64::from(due >= self.measured_from && at - due > LATE);
    }

    /// It was answered.
    pub fn answered(&mut self, due: Instant, sent: Instant, at: Instant, status: u16) {
        if due >= self.measured_from {
            self.answers += 1;
            self.unexpected += u64::from(status != 200);
            self.latency.saturating_record(micros(at - due));
            self.service.saturating_record(micros(at - sent));
        }
    }

    /// It never was, and has waited until now.
    pub fn missed(&mut self, due: Instant, now: Instant) {
        if due >= self.measured_from {
            self.missed += 1;
            self.latency.saturating_record(micros(now - due));
        }
    }

    /// For programs; units are in the names.
    pub fn json(&self, rate: f64, seconds: u64, connections: u32) -> String {
        #[expect(clippy::cast_precision_loss, reason = "figures for people")]
        let answered = self.answers as f64 / seconds as f64;
        let mut text = format!(
            "{{\"rate_asked_per_second\":{rate},\"rate_answered_per_second\":{answered},\"is_open_loop\":true,\
             \"duration_seconds\":{seconds},\"connections\":{connections},\"answers\":{},\"unexpected_statuses\":{},\
             \"errors\":{{}},\"late\":{},\"never_sent\":{}",
            self.answers, self.unexpected, self.late, self.missed
        );
        for (name, histogram) in [("latency_us", &self.latency), ("service_us", &self.service)] {
            let members = PERCENTILES.map(|percentile| {
                let name = if percentile >= 100.0 { "100".to_owned() } else { percentile.to_string() };
                format!("\"p{name}\":{}", histogram.value_at_percentile(percentile))
            });
            let _ = write!(text, ",\"{name}\":{{{}}}", members.join(","));
        }
        let curve = self.latency.iter_quantiles(5);
        let curve: Vec<_> =
            curve.map(|step| format!("[{},{}]", step.quantile_iterated_to(), step.value_iterated_to())).collect();
        let _ = write!(text, ",\"latency_curve_us\":[{}]}}", curve.join(","));
        text
    }
}

fn micros(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}
