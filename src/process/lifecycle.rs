//! Birth and death: the signal to stop, and what the process still waits for before it is ready.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use tokio::sync::watch;

use crate::metrics::Metrics;
use crate::sync::lock;

/// Tells every holder of a [`Shutdown`] to stop. Dropping it tells them too.
#[derive(Debug)]
pub struct Trigger(watch::Sender<bool>);

/// A signal that comes once.
#[derive(Debug, Clone)]
pub struct Shutdown(watch::Receiver<bool>);

/// A new signal and what sets it off.
#[must_use]
pub fn shutdown() -> (Trigger, Shutdown) {
    let (sender, receiver) = watch::channel(false);
    (Trigger(sender), Shutdown(receiver))
}

impl Trigger {
    /// Sets the signal off; once is enough.
    pub fn fire(&self) {
        self.0.send_replace(true);
    }
}

impl Shutdown {
    /// Completes when the signal has come. Cancel-safe.
    pub async fn wait(&mut self) {
        // An error means that the trigger is gone, which is a signal too.
        let _ = self.0.wait_for(|fired| *fired).await;
    }

    /// Whether the signal has come.
    #[must_use]
    pub fn is_fired(&self) -> bool {
        *self.0.borrow() || self.0.has_changed().is_err()
    }
}

/// Asks all who follow files to look at them now. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Reload(watch::Sender<u64>);

impl Reload {
    /// Asks. Returns whether there is anything to read again.
    pub fn ask(&self) -> bool {
        self.0.send_modify(|asked| *asked = asked.wrapping_add(1));
        self.0.receiver_count() > 0
    }

    /// For one who follows files, from now on.
    #[must_use]
    pub fn follow(&self) -> Reloads {
        Reloads(self.0.subscribe())
    }
}

/// What one who follows files is asked.
#[derive(Debug)]
pub struct Reloads(watch::Receiver<u64>);

impl Reloads {
    /// Completes when a look is asked for. Cancel-safe.
    pub async fn asked(&mut self) {
        if self.0.changed().await.is_err() {
            std::future::pending::<()>().await; // all who could ask are gone
        }
    }
}

/// Something that runs only while it is wanted, and says whether it does. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Switch(Arc<[AtomicBool; 2]>);

impl Switch {
    /// Wants it, or does not.
    pub fn want(&self, is_wanted: bool) {
        self.0[0].store(is_wanted, Ordering::Release);
    }

    /// Whether someone wants it.
    #[must_use]
    pub fn is_wanted(&self) -> bool {
        self.0[0].load(Ordering::Acquire)
    }

    /// It runs, or does not.
    pub fn say(&self, is_live: bool) {
        self.0[1].store(is_live, Ordering::Release);
    }

    /// Whether it runs as wanted.
    #[must_use]
    pub fn is_live(&self) -> bool {
        self.0[1].load(Ordering::Acquire)
    }
}

/// What the process waits for: ready when every gate is open.
#[derive(Debug, Clone, Default)]
pub struct Readiness(Arc<Mutex<Vec<Closed>>>);

#[derive(Debug, Clone)]
struct Closed {
    gate: &'static str,
    /// In words that anyone may read.
    reason: Option<String>,
    /// The same with hosts, users and whatever else is the operator's to know.
    detail: Option<String>,
}

/// One condition of being ready.
#[derive(Debug, Clone)]
pub struct Gate {
    readiness: Readiness,
    name: &'static str,
}

impl Readiness {
    /// Adds a closed gate.
    #[must_use]
    pub fn gate(&self, name: &'static str, reason: &str) -> Gate {
        let gate = Gate { readiness: self.clone(), name };
        gate.close(reason);
        gate
    }

    /// Registers whether the process is ready: once.
    pub fn register(&self, metrics: &Metrics) {
        let gates = self.clone();
        metrics.pulled_gauge("service_ready", "1 when /readyz answers 200.", move || {
            f64::from(u8::from(gates.reasons().is_empty()))
        });
    }

    /// Why the process is not ready: each closed gate and its reason, in words that anyone may read.
    /// Empty when it is ready.
    #[must_use]
    pub fn reasons(&self) -> Vec<(&'static str, String)> {
        let gates = lock(&self.0);
        gates.iter().filter_map(|closed| Some((closed.gate, closed.reason.clone()?))).collect()
    }

    /// The same for the operator: hosts and users may be named.
    #[must_use]
    pub fn details(&self) -> Vec<(&'static str, String)> {
        let gates = lock(&self.0);
        let told = |closed: &Closed| closed.detail.clone().or_else(|| closed.reason.clone());
        gates.iter().filter_map(|closed| Some((closed.gate, told(closed)?))).collect()
    }
}

impl Gate {
    /// This condition holds.
    pub fn open(&self) {
        self.set(None, None);
    }

    /// This condition does not hold, for this reason, which anyone may read.
    pub fn close(&self, reason: &str) {
        self.set(Some(reason.to_owned()), None);
    }

    /// The same with what only the operator is told: hosts, users, names of databases.
    pub fn close_with(&self, reason: &str, detail: &str) {
        self.set(Some(reason.to_owned()), Some(detail.to_owned()));
    }

    fn set(&self, reason: Option<String>, detail: Option<String>) {
        let mut gates = lock(&self.readiness.0);
        match gates.iter_mut().find(|closed| closed.gate == self.name) {
            Some(closed) => (closed.reason, closed.detail) = (reason, detail),
            None => gates.push(Closed { gate: self.name, reason, detail }),
        }
    }
}

/// A named step of a batch. Tests have a process die at one, as `kill -9` would, or held there; a release build has
/// nothing here.
#[inline]
pub fn step(name: &'static str) {
    #[cfg(debug_assertions)]
    fail_point::reached(name);
    let _ = name;
}

/// Has the process die, or held until it is told to go on, when it reaches a step for the `nth` time.
#[cfg(debug_assertions)]
pub fn stop_at(step: &str, nth: u64, is_held: bool) {
    fail_point::arm(step, nth, is_held);
}

#[cfg(debug_assertions)]
mod fail_point {
    use std::sync::OnceLock;
    use std::sync::atomic::{AtomicU64, Ordering};
    use std::time::Duration;

    use rustix::process::{Signal, getpid, kill_process};

    static ARMED: OnceLock<(String, AtomicU64, Signal)> = OnceLock::new();

    pub(super) fn arm(step: &str, nth: u64, is_held: bool) {
        let signal = if is_held { Signal::STOP } else { Signal::KILL };
        let _ = ARMED.set((step.to_owned(), AtomicU64::new(nth), signal));
    }

    pub(super) fn reached(name: &str) {
        let Some((step, left, signal)) = ARMED.get() else { return };
        if step == name && left.fetch_sub(1, Ordering::Relaxed) == 1 {
            let _ = kill_process(getpid(), *signal);
            // It is on its way, perhaps by another thread, and what comes next is not to come before it.
            std::thread::sleep(Duration::from_millis(if *signal == Signal::KILL { 60_000 } else { 200 }));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ready_when_every_gate_is_open() {
        let readiness = Readiness::default();
        let (warm, lag) = (readiness.gate("warm-up", "0 of 9 orders"), readiness.gate("lag", "unknown"));
        warm.open();
        assert_eq!(readiness.reasons(), [("lag", "unknown".to_owned())]);
        lag.open();
        assert!(readiness.reasons().is_empty() && readiness.details().is_empty());
        lag.close_with("the server is unavailable", "db.internal: connection refused");
        assert_eq!(readiness.reasons(), [("lag", "the server is unavailable".to_owned())]);
        assert_eq!(readiness.details(), [("lag", "db.internal: connection refused".to_owned())]);
        lag.close("unknown");
        assert_eq!(readiness.details(), [("lag", "unknown".to_owned())]);
        lag.open();
        warm.close("again");
        assert_eq!(readiness.reasons().len(), 1);
    }

    #[tokio::test]
    async fn a_dropped_trigger_is_a_signal() {
        let (trigger, mut shutdown) = shutdown();
        assert!(!shutdown.is_fired());
        drop(trigger);
        shutdown.wait().await;
        assert!(shutdown.is_fired());
    }
}
