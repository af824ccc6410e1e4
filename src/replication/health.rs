//! Whether what is committed gets to Kafka: for how long batches wait, why, and what is said of it.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use crate::process::lifecycle::Gate;

/// A batch that is on its way for this long, or has failed and was not published since, is overdue.
pub(super) const PATIENCE: Duration = Duration::from_secs(10);
/// That one is, is said this often.
const WARN_EVERY: Duration = Duration::from_secs(10);

/// Whether what is committed gets to Kafka.
pub(super) struct Health {
    gate: Gate,
    /// Batches that did not arrive, as long as they are not known to have been published after all.
    pub(super) failed: HashMap<i64, Failed>,
    /// Why the last of them did not.
    pub(super) reason: String,
    /// How long the oldest batch has been waiting.
    waiting: Duration,
    warned_at: Option<Instant>,
}

/// Why batches wait as long as none has failed.
const UNANSWERED: &str = "no broker has taken them yet";

pub(super) struct Failed {
    pub(super) first: Instant,
    pub(super) last: Instant,
}

impl Health {
    pub(super) fn new(gate: Gate) -> Self {
        gate.open();
        Self { gate, failed: HashMap::new(), reason: UNANSWERED.into(), waiting: Duration::ZERO, warned_at: None }
    }

    pub(super) fn arrive(&mut self, ticket: i64) {
        self.failed.remove(&ticket);
        if self.failed.is_empty() && self.reason != UNANSWERED {
            self.reason = UNANSWERED.into();
        }
    }

    pub(super) fn fail(&mut self, ticket: i64, reason: String) {
        let now = Instant::now();
        self.failed.entry(ticket).or_insert(Failed { first: now, last: now }).last = now;
        self.reason = reason;
    }

    /// Takes note of how long the oldest batch has been waiting, and why.
    pub(super) fn look(&mut self, oldest: Option<Duration>, reason: &str) {
        self.waiting = oldest.unwrap_or_default();
        if self.waiting < PATIENCE {
            return self.gate.open();
        }
        self.gate.close(reason);
        if self.warned_at.is_none_or(|warned_at| warned_at.elapsed() >= WARN_EVERY) {
            self.warned_at = Some(Instant::now());
            tracing::warn!(reason, "not published in time; what is committed is recorded");
        }
    }

    /// 0 while nothing is overdue.
    pub(super) fn overdue_seconds(&self) -> i64 {
        if self.waiting < PATIENCE { 0 } else { i64::try_from(self.waiting.as_secs()).unwrap_or(i64::MAX) }
    }
}
