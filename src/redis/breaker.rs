//! The circuit breaker: after some failures in a row no one asks any more until a probe succeeded. Time is an argument.

use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use crate::sync::lock;

/// Open at first: the first connection is a probe like any other.
pub(super) struct Breaker {
    is_closed: AtomicBool,
    failures: AtomicU32,
    failures_max: u32,
    pause_min: Duration,
    pause_max: Duration,
    last: Mutex<Last>,
}

struct Last {
    /// Before the next probe.
    pause: Duration,
    closed: Option<Instant>,
}

impl Breaker {
    /// Opens after `failures_max` failures in a row, for `pause_min` at first and twice as long each time, up to
    /// `pause_max`.
    pub(super) fn new(failures_max: u32, pause_min: Duration, pause_max: Duration) -> Self {
        Self {
            is_closed: AtomicBool::new(false),
            failures: AtomicU32::new(0),
            failures_max,
            pause_min,
            pause_max,
            last: Mutex::new(Last { pause: pause_min, closed: None }),
        }
    }

    /// Whether requests are made. One atomic load.
    pub(super) fn is_closed(&self) -> bool {
        self.is_closed.load(Ordering::Acquire)
    }

    /// A request was answered.
    pub(super) fn succeeded(&self) {
        if self.failures.load(Ordering::Relaxed) != 0 {
            self.failures.store(0, Ordering::Relaxed);
        }
    }

    /// A request was not answered. Says whether that opened it.
    pub(super) fn failed(&self, now: Instant) -> bool {
        let failures = self.failures.fetch_add(1, Ordering::Relaxed) + 1;
        failures >= self.failures_max && self.open(now)
    }

    /// Opens at once, as for a connection that is gone. Says whether it was closed before.
    pub(super) fn open(&self, now: Instant) -> bool {
        let mut last = lock(&self.last);
        let was_closed = self.is_closed.swap(false, Ordering::AcqRel);
        // What held for long begins again; what opens again and again waits longer and longer.
        let held = last.closed.take().is_some_and(|closed| now.duration_since(closed) >= self.pause_max);
        if held {
            last.pause = self.pause_min;
        }
        was_closed
    }

    /// How long to wait before the next probe, counted from now on.
    pub(super) fn pause(&self) -> Duration {
        let mut last = lock(&self.last);
        let pause = last.pause;
        last.pause = (2 * pause).min(self.pause_max);
        pause
    }

    /// A probe succeeded.
    pub(super) fn close(&self, now: Instant) {
        let mut last = lock(&self.last);
        last.closed = Some(now);
        self.failures.store(0, Ordering::Relaxed);
        self.is_closed.store(true, Ordering::Release);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn failures_in_a_row_open_it_and_a_probe_closes_it() {
        let (breaker, now) = (Breaker::new(3, SECOND, 8 * SECOND), Instant::now());
        assert!(!breaker.is_closed(), "no one is connected yet");
        breaker.close(now);
        for _ in 0..5 {
            assert!(!breaker.failed(now) && !breaker.failed(now));
            breaker.succeeded();
        }
        assert!(breaker.is_closed(), "never three in a row");
        assert!(!breaker.failed(now) && !breaker.failed(now) && breaker.failed(now));
        assert!(!breaker.is_closed());
        assert!(!breaker.failed(now), "it opens once");
        breaker.close(now);
        assert!(!breaker.failed(now), "counted again");
        assert!(breaker.is_closed());
    }

    #[test]
    fn pauses_grow_until_it_held_for_long() {
        let (breaker, now) = (Breaker::new(1, SECOND, 8 * SECOND), Instant::now());
        let pauses: Vec<u64> = (0..6).map(|_| breaker.pause().as_secs()).collect();
        assert_eq!(pauses, [1, 2, 4, 8, 8, 8]);
        breaker.close(now);
        assert!(breaker.open(now + 7 * SECOND));
        assert_eq!(breaker.pause(), 8 * SECOND, "it did not hold");
        breaker.close(now);
        assert!(breaker.open(now + 8 * SECOND));
        assert_eq!(breaker.pause(), SECOND);
    }
}
