//! What `load` found: percentiles, statuses and errors, as text and as JSON.

use std::collections::BTreeMap;
use std::fmt::Write;
use std::time::Duration;

use anyhow::bail;
use hdrhistogram::Histogram;
use serde_json::json;

use super::Config;
use super::machine::Stops;
use super::timeline::{self, Timeline};
use crate::tools::client::NoAnswer;

/// The highest latency told apart, in microseconds.
const MICROS_MAX: u64 = 600_000_000;
/// Requests that are held against what the machine did.
const SLOW_MAX: usize = 100_000;
/// How many of the slowest moments are told.
const TOLD: usize = 5;
const PERCENTILES: [f64; 7] = [50.0, 75.0, 90.0, 99.0, 99.9, 99.99, 100.0];

/// What all connections find, in one place: new memory for each of them would cost more than many answers take.
pub struct Tally {
    latency: Histogram<u64>,
    service: Histogram<u64>,
    statuses: BTreeMap<u16, u64>,
    errors: BTreeMap<String, u64>,
    unexpected: u64,
    bytes: u64,
    late: u64,
    missed: u64,
    slowest: Timeline,
    /// Requests that took a millisecond or longer, the first so many: from when to when.
    slow: Vec<(Duration, Duration)>,
}

/// What became of a request when, since the schedule began.
pub struct Times {
    /// It was due.
    pub due: Duration,
    /// It was sent.
    pub sent: Duration,
    /// It was answered, or given up.
    pub answered: Duration,
}

impl Tally {
    /// Nothing yet.
    #[must_use]
    pub fn new() -> Self {
        let histogram = || Histogram::new_with_max(MICROS_MAX, 3).expect("three digits up to ten minutes");
        Self {
            latency: histogram(),
            service: histogram(),
            statuses: BTreeMap::new(),
            errors: BTreeMap::new(),
            unexpected: 0,
            bytes: 0,
            late: 0,
            missed: 0,
            slowest: Timeline::default(),
            slow: Vec::new(),
        }
    }

    /// A request and its answer. Latency counts from when it was due, service from when it was sent.
    pub fn note(&mut self, result: Result<(u16, u64), NoAnswer>, times: &Times, expect: u16) {
        match result {
            Ok((status, bytes)) => {
                *self.statuses.entry(status).or_default() += 1;
                self.unexpected += u64::from(status != expect);
                self.bytes += bytes;
                record(&mut self.service, times.answered.saturating_sub(times.sent));
            }
            Err(error) => {
                *self.errors.entry(error.to_string()).or_default() += 1;
                if error != NoAnswer::TimedOut {
                    return; // a fast refusal is no fast answer; it is counted, and no latency
                }
            }
        }
        self.waited(times.due, times.answered);
        self.late += u64::from(times.sent.saturating_sub(times.due) > Duration::from_millis(1));
    }

    /// A request that was due and never sent until `now`.
    pub fn miss(&mut self, due: Duration, now: Duration) {
        self.missed += 1;
        self.waited(due, now);
    }

    fn waited(&mut self, due: Duration, until: Duration) {
        let latency = until.saturating_sub(due);
        record(&mut self.latency, latency);
        self.slowest.note(until, latency);
        if latency >= timeline::LEAST && self.slow.len() < SLOW_MAX {
            self.slow.push((due, until));
        }
    }
}

impl Default for Tally {
    fn default() -> Self {
        Self::new()
    }
}

/// The findings of one run.
pub struct Report {
    tally: Tally,
    rate: Option<f64>,
    seconds: f64,
    connections: usize,
    expect: u16,
    is_strict: bool,
    machine: Option<Machine>,
}

/// What the machine had to do with it.
struct Machine {
    /// When it stopped.
    stops: Timeline,
    /// The slowest again, less what it stopped meanwhile.
    rest: Timeline,
}

impl Report {
    /// Findings over `measured` time, and how the machine itself stopped meanwhile, if that was watched.
    #[must_use]
    pub fn new(config: &Config, tally: Tally, measured: Duration, stops: Option<&Stops>) -> Self {
        let machine = stops.map(|stops| {
            let mut rest = Timeline::default();
            for &(due, until) in &tally.slow {
                rest.note(until, until.saturating_sub(due).saturating_sub(stops.within(due, until)));
            }
            Machine { stops: stops.timeline(), rest }
        });
        Self {
            tally,
            rate: config.rate,
            seconds: measured.as_secs_f64(),
            connections: config.connections,
            expect: config.expect,
            is_strict: config.is_strict,
            machine,
        }
    }

    /// Requests that were answered, rightly or not.
    #[must_use]
    pub fn answers(&self) -> u64 {
        self.tally.statuses.values().sum()
    }

    /// Answers whose status was not the expected one, requests without an answer, and requests never sent.
    #[must_use]
    pub fn failures(&self) -> u64 {
        self.tally.unexpected + self.tally.errors.values().sum::<u64>() + self.tally.missed
    }

    /// Answers with the expected status.
    #[must_use]
    pub fn right(&self) -> u64 {
        self.answers() - self.tally.unexpected
    }

    /// Whether there is anything to measure at all.
    ///
    /// # Errors
    /// When no answer was right, or one was wrong where each has to be right: how many were wrong,
    /// and why.
    pub fn check(&self) -> anyhow::Result<()> {
        match (self.right(), self.failures()) {
            (0, 0) => bail!("nothing was asked for in the time that is measured"),
            (0, _) => bail!("no answer was right: {}", self.wrong()),
            (_, 1..) if self.is_strict => bail!("not every answer was right: {}", self.wrong()),
            _ => Ok(()),
        }
    }

    /// How many requests went wrong, and why: `12 of 400: 8 status 404 instead of 200, 4 timed
    /// out`.
    fn wrong(&self) -> String {
        let Self { tally, expect, .. } = self;
        let statuses = tally.statuses.iter().filter(|(status, _)| *status != expect);
        let mut reasons: Vec<String> =
            statuses.map(|(status, count)| format!("{count} status {status} instead of {expect}")).collect();
        reasons.extend(tally.errors.iter().map(|(error, count)| format!("{count} {error}")));
        if tally.missed > 0 {
            reasons.push(format!("{} never sent", tally.missed));
        }
        let all = self.right() + self.failures();
        let reasons = if reasons.is_empty() { String::new() } else { format!(": {}", reasons.join(", ")) };
        format!("{} of {all}{reasons}", self.failures())
    }

    #[expect(clippy::cast_precision_loss, reason = "figures for people")]
    fn per_second(&self) -> f64 {
        self.answers() as f64 / self.seconds
    }

    /// For people.
    #[must_use]
    pub fn text(&self) -> String {
        let Self { tally, connections, seconds, .. } = self;
        let mut text = String::new();
        let asked = match self.rate {
            Some(rate) => format!("{rate:.0}/s asked for, open loop"),
            None => "as fast as answered: closed loop, latency does not count what a stall held back".to_owned(),
        };
        let mut line = |label: &str, value: String| {
            let _ = writeln!(text, "{label:<12} {value}");
        };
        line("rate", format!("{:.0}/s answered, {asked}", self.per_second()));
        line("requests", format!("{} answered in {seconds:.1} s over {connections} connections", self.answers()));
        #[expect(clippy::cast_precision_loss, reason = "figures for people")]
        let megabytes = tally.bytes as f64 / 1e6;
        line("bodies", format!("{megabytes:.1} MB, {:.1} MB/s", megabytes / seconds));
        line("wrong", self.wrong());
        line("late", format!("{} sent more than 1 ms after they were due, {} never sent", tally.late, tally.missed));
        let _ = writeln!(text, "\n{:<12} {:>12} {:>12}", "", "latency", "service");
        for percentile in PERCENTILES {
            let label = if percentile >= 100.0 { "max".to_owned() } else { format!("p{percentile}") };
            let at = |histogram: &Histogram<u64>| show(histogram.value_at_percentile(percentile));
            let _ = writeln!(text, "{label:<12} {:>12} {:>12}", at(&tally.latency), at(&tally.service));
        }
        let _ = writeln!(text, "\n{:<12} {}", "slowest", tally.slowest.text(TOLD, "none took 1 ms"));
        if let Some(Machine { stops, rest }) = &self.machine {
            let _ = writeln!(text, "{:<12} {}", "machine", stops.text(TOLD, "never stopped for 1 ms"));
            let _ = writeln!(text, "{:<12} {}", "without that", rest.text(TOLD, "none took 1 ms"));
        }
        text.push('\n');
        for (status, count) in &tally.statuses {
            let _ = writeln!(text, "status {status:<5} {count}");
        }
        for (error, count) in &tally.errors {
            let _ = writeln!(text, "error        {count} {error}");
        }
        text
    }

    /// For programs; units are in the names.
    #[must_use]
    pub fn json(&self) -> serde_json::Value {
        let tally = &self.tally;
        let percentiles = |histogram: &Histogram<u64>| {
            let mut members = serde_json::Map::new();
            for percentile in PERCENTILES {
                members.insert(format!("p{percentile}"), histogram.value_at_percentile(percentile).into());
            }
            serde_json::Value::Object(members)
        };
        let curve: Vec<_> = tally
            .latency
            .iter_quantiles(5)
            .map(|step| json!([step.quantile_iterated_to(), step.value_iterated_to()]))
            .collect();
        json!({
            "rate_asked_per_second": self.rate,
            "rate_answered_per_second": self.per_second(),
            "is_open_loop": self.rate.is_some(),
            "duration_seconds": self.seconds,
            "connections": self.connections,
            "answers": self.answers(),
            "right_answers": self.right(),
            "unexpected_statuses": tally.unexpected,
            "statuses": tally.statuses.iter().map(|(status, count)| (status.to_string(), *count)).collect::<BTreeMap<_, _>>(),
            "errors": tally.errors,
            "late": tally.late,
            "never_sent": tally.missed,
            "body_bytes": tally.bytes,
            "latency_us": percentiles(&tally.latency),
            "service_us": percentiles(&tally.service),
            "latency_curve_us": curve,
            "slowest_at_seconds_us": tally.slowest.json(TOLD),
            "machine_stopped_at_seconds_us": self.machine.as_ref().map(|machine| machine.stops.json(TOLD)),
            "slowest_without_that_at_seconds_us": self.machine.as_ref().map(|machine| machine.rest.json(TOLD)),
        })
    }
}

fn record(histogram: &mut Histogram<u64>, time: Duration) {
    histogram.saturating_record(u64::try_from(time.as_micros()).unwrap_or(u64::MAX));
}

fn show(micros: u64) -> String {
    #[expect(clippy::cast_precision_loss, reason = "figures for people")]
    let number = micros as f64;
    match micros {
        0..10_000 => format!("{micros} us"),
        10_000..1_000_000 => format!("{:.1} ms", number / 1e3),
        _ => format!("{:.2} s", number / 1e6),
    }
}
