//! Which of the server's time stamps count as written while this process followed the store. Time is an argument.

use std::time::{Duration, Instant};

/// What an instance writes, it learned at most this long before: see `write.lua`.
pub(super) const KNOWN_MAX: Duration = Duration::from_secs(1);
/// Entries written this soon after the start may be from before it.
const MARGIN: Duration = Duration::from_secs(2);

/// The server's clock as far as it was seen, and since when its stamps are trusted.
#[derive(Default)]
pub(super) struct TrustWindow {
    /// Something to trust from now on is wanted.
    is_wanted: bool,
    /// Stamps above this one are trusted.
    since: Option<u64>,
    /// The latest stamp, and when it arrived.
    seen: Option<(u64, Instant)>,
}

impl TrustWindow {
    /// Entries that are written from now on will be trusted, once the server was asked for the time.
    pub(super) fn open(&mut self) {
        self.is_wanted = true;
    }

    /// Nothing that is written so far is trusted any more.
    pub(super) fn renew(&mut self) {
        self.since = None;
    }

    /// Whether the server is to be asked for the time.
    pub(super) fn wants_time(&self) -> bool {
        self.is_wanted && self.since.is_none()
    }

    /// The server said what time it is. `is_asked_for` when it was asked after [`TrustWindow::open`].
    pub(super) fn seen(&mut self, stamp: u64, now: Instant, is_asked_for: bool) {
        if self.seen.is_some_and(|(before, _)| stamp < before) {
            self.since = None; // another clock, or the same one set back
        }
        self.seen = Some((stamp, now));
        if is_asked_for && self.wants_time() {
            self.since = Some(stamp + micros(MARGIN));
        }
    }

    /// Whether an entry of this stamp is trusted.
    pub(super) fn allows(&self, stamp: u64) -> bool {
        self.since.is_some_and(|since| stamp > since)
    }

    /// The server's time up to which what was known at `known` may be written.
    pub(super) fn deadline(&self, known: Instant) -> u64 {
        let Some((stamp, at)) = self.seen else { return 0 };
        let known = match known.checked_duration_since(at) {
            Some(since) => stamp.saturating_add(micros(since)),
            None => stamp.saturating_sub(micros(at - known)),
        };
        known.saturating_add(micros(KNOWN_MAX))
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_was_written_well_after_the_start_is_trusted() {
        let (mut trust, now) = (TrustWindow::default(), Instant::now());
        trust.seen(5_000_000, now, true);
        assert!(!trust.allows(u64::MAX), "not begun");
        assert!(!trust.wants_time());
        trust.open();
        assert!(trust.wants_time());
        trust.seen(6_000_000, now, false);
        assert!(!trust.allows(u64::MAX), "an answer to an earlier question says nothing");
        trust.seen(7_000_000, now, true);
        assert!(!trust.wants_time());
        assert!(!trust.allows(9_000_000) && trust.allows(9_000_001));
        trust.seen(20_000_000, now, true);
        assert!(trust.allows(9_000_001), "a later look changes nothing");
    }

    #[test]
    fn a_clock_that_goes_backwards_begins_again() {
        let (mut trust, now) = (TrustWindow::default(), Instant::now());
        trust.open();
        trust.seen(50_000_000, now, true);
        assert!(trust.allows(60_000_000));
        trust.seen(10_000_000, now, false);
        assert!(!trust.allows(60_000_000) && trust.wants_time());
        trust.seen(10_000_001, now, true);
        assert!(!trust.allows(12_000_001) && trust.allows(12_000_002));
    }

    #[test]
    fn trust_that_is_renewed_begins_again_but_not_before_its_time() {
        let (mut trust, now) = (TrustWindow::default(), Instant::now());
        trust.renew();
        assert!(!trust.wants_time(), "it has not begun");
        trust.open();
        trust.seen(5_000_000, now, true);
        assert!(trust.allows(7_000_001));
        trust.renew();
        assert!(!trust.allows(u64::MAX) && trust.wants_time());
        trust.seen(30_000_000, now, true);
        assert!(!trust.allows(32_000_000) && trust.allows(32_000_001));
    }

    #[test]
    fn what_was_known_long_ago_is_late() {
        let (mut trust, now) = (TrustWindow::default(), Instant::now() + Duration::from_hours(1));
        assert_eq!(trust.deadline(now), 0, "the time is not known");
        trust.seen(50_000_000, now, false);
        assert_eq!(trust.deadline(now), 51_000_000);
        assert_eq!(trust.deadline(now + Duration::from_secs(3)), 54_000_000);
        assert_eq!(trust.deadline(now.checked_sub(Duration::from_secs(3)).unwrap()), 48_000_000);
    }
}
