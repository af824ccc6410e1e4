//! The progress of a subcommand on standard error: a bar on a terminal, a line every few seconds elsewhere.

use std::io::IsTerminal;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use indicatif::{HumanBytes, HumanCount, ProgressBar, ProgressDrawTarget, ProgressState, ProgressStyle};

use super::output;
use crate::sync::lock;

/// How often a line is written where there is no terminal.
const LINE_EVERY: Duration = Duration::from_secs(5);

/// What is being done, and how far it has come.
pub struct Progress {
    what: &'static str,
    unit: Unit,
    total: Option<u64>,
    done: AtomicU64,
    note: Mutex<String>,
    started: Instant,
    last_line: Mutex<Instant>,
    bar: Option<ProgressBar>,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Unit {
    Count,
    Bytes,
}

impl Progress {
    /// Counts things, of which there are `total` if that is known.
    #[must_use]
    pub fn new(what: &'static str, total: Option<u64>) -> Self {
        Self::start(what, total, Unit::Count)
    }

    /// Counts bytes.
    #[must_use]
    pub fn bytes(what: &'static str, total: Option<u64>) -> Self {
        Self::start(what, total, Unit::Bytes)
    }

    fn start(what: &'static str, total: Option<u64>, unit: Unit) -> Self {
        let bar = std::io::stderr().is_terminal().then(|| bar(what, total, unit));
        let now = Instant::now();
        Self {
            what,
            unit,
            total,
            done: AtomicU64::new(0),
            note: Mutex::default(),
            started: now,
            last_line: Mutex::new(now),
            bar,
        }
    }

    /// So many more are done. Cheap enough for every batch.
    pub fn add(&self, more: u64) {
        let done = self.done.fetch_add(more, Ordering::Relaxed) + more;
        if let Some(bar) = &self.bar {
            bar.set_position(done);
            return;
        }
        let mut last = lock(&self.last_line);
        if last.elapsed() >= LINE_EVERY {
            *last = Instant::now();
            output::note(format_args!("{}: {}", self.what, self.line(done)));
        }
    }

    /// A word beside the figures.
    pub fn note(&self, note: String) {
        match &self.bar {
            Some(bar) => bar.set_message(note),
            None => *lock(&self.note) = note,
        }
    }

    /// Ends with a summary line that stays.
    pub fn finish(&self, summary: impl AsRef<str>) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        let seconds = self.started.elapsed().as_secs_f64();
        output::note(format_args!("{}: {} in {seconds:.1} s", self.what, summary.as_ref()));
    }

    fn line(&self, done: u64) -> String {
        let figure = |number: u64| match self.unit {
            Unit::Count => HumanCount(number).to_string(),
            Unit::Bytes => HumanBytes(number).to_string(),
        };
        #[expect(clippy::cast_precision_loss, reason = "a figure for people")]
        let share = self
            .total
            .map(|total| format!(" of {} ({:.0} %)", figure(total), done as f64 * 100.0 / total.max(1) as f64));
        let note = lock(&self.note);
        let separator = if note.is_empty() { "" } else { ", " };
        format!("{}{}{separator}{note}", figure(done), share.unwrap_or_default())
    }
}

fn bar(what: &'static str, total: Option<u64>, unit: Unit) -> ProgressBar {
    let figures = match (unit, total.is_some()) {
        (Unit::Count, true) => "{human_pos}/{human_len} {rate} eta {eta}",
        (Unit::Count, false) => "{human_pos} {rate}",
        (Unit::Bytes, true) => "{binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec} eta {eta}",
        (Unit::Bytes, false) => "{binary_bytes} {binary_bytes_per_sec}",
    };
    let template = match total {
        Some(_) => format!("{{prefix}} [{{bar:30}}] {{percent:>3}} % {figures} {{msg}}"),
        None => format!("{{prefix}} {{spinner}} {figures} {{msg}}"),
    };
    let bar = ProgressBar::with_draw_target(total, ProgressDrawTarget::stderr_with_hz(10));
    let style = ProgressStyle::with_template(&template).expect("a legal template");
    bar.set_style(style.with_key("rate", write_rate).progress_chars("=> "));
    bar.set_prefix(what);
    bar
}

#[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a figure for people")]
fn write_rate(state: &ProgressState, out: &mut dyn std::fmt::Write) {
    // The bar takes no error.
    let _ = write!(out, "{}/s", HumanCount(state.per_sec() as u64));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates_are_legal() {
        for unit in [Unit::Count, Unit::Bytes] {
            for total in [None, Some(10)] {
                bar("test", total, unit).finish_and_clear();
            }
        }
    }

    #[test]
    fn lines_say_how_far() {
        let progress = Progress::new("test", Some(2000));
        progress.note("x".into());
        assert_eq!(progress.line(1500), "1,500 of 2,000 (75 %), x");
    }
}
