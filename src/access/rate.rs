//! How often: token buckets of callers and addresses in a table of fixed size. Knows neither who
//! they are nor what they ask for.
//!
//! A bucket is one number, the time at which it will be full again (GCRA), so one that is full
//! needs no place: a place is taken from the bucket that is nearest to that. However many addresses come,
//! the table stays as large as it is; where more than it holds are busy within two seconds, some
//! are forgotten, which is in their favour.

use std::hash::{BuildHasher, Hash};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use foldhash::quality::RandomState;

const SECOND_NANOS: u64 = 1_000_000_000;
/// Places in the table: 4 MiB.
const SLOTS: usize = 1 << 18;
/// Places among which a bucket may be.
const WAYS: usize = 8;

/// Requests a second, and how many may come at once: twice as many.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rate {
    per_second: u32,
    /// How much a full bucket is, as the time in which it fills.
    window_nanos: u64,
}

impl Rate {
    /// A million requests a second is more than one core answers.
    pub const MAX: u32 = 1_000_000;

    /// So many a second, from 1 to [`Rate::MAX`].
    #[must_use]
    pub const fn per_second(rate: u32) -> Option<Self> {
        if rate == 0 || rate > Self::MAX {
            return None;
        }
        Some(Self { per_second: rate, window_nanos: 2 * SECOND_NANOS })
    }

    /// Failed attempts that one address has: five a second, and no more at once.
    pub const FAILURES: Self = Self { per_second: 5, window_nanos: SECOND_NANOS };

    /// `100/s` or `100`.
    ///
    /// # Errors
    /// What it should look like.
    pub fn parse(text: &str) -> Result<Self, String> {
        let number = text.trim().strip_suffix("/s").unwrap_or(text.trim()).trim_end();
        let rate = number.parse().ok().and_then(Self::per_second);
        rate.ok_or_else(|| format!("{text:?} is no rate such as 100/s, from 1/s to {}/s", Self::MAX))
    }

    /// Requests a second.
    #[must_use]
    pub const fn get(self) -> u32 {
        self.per_second
    }

    /// Requests that may come at once.
    #[must_use]
    pub const fn burst(self) -> u64 {
        self.per_second as u64 * self.window_seconds()
    }

    /// Seconds in which a bucket fills.
    #[must_use]
    pub const fn window_seconds(self) -> u64 {
        self.window_nanos / SECOND_NANOS
    }

    fn interval(self) -> u64 {
        SECOND_NANOS / u64::from(self.per_second)
    }
}

/// The bucket is empty.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limited {
    /// What it is filled with.
    pub rate: Rate,
    /// Until there is enough for one request.
    pub wait: Duration,
}

impl Limited {
    /// Whole seconds to wait, at least one.
    #[must_use]
    pub fn wait_seconds(&self) -> u64 {
        (self.wait.as_secs() + u64::from(self.wait.subsec_nanos() > 0)).max(1)
    }
}

/// Whose bucket.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Bucket(u64);

struct Slot {
    key: AtomicU64,
    /// When the bucket is full again, in nanoseconds since the table was made.
    full_at: AtomicU64,
}

/// All buckets.
pub struct Table {
    hasher: RandomState,
    start: Instant,
    slots: Box<[Slot]>,
}

impl Default for Table {
    fn default() -> Self {
        Self::with_slots(SLOTS)
    }
}

impl Table {
    fn with_slots(slots: usize) -> Self {
        let slots = (0..slots).map(|_| Slot { key: AtomicU64::new(0), full_at: AtomicU64::new(0) }).collect();
        Self { hasher: RandomState::default(), start: Instant::now(), slots }
    }

    /// The bucket of what is told apart by this.
    #[must_use]
    pub fn key(&self, of: impl Hash) -> Bucket {
        Bucket(self.hasher.hash_one(of) | 1) // 0 is no bucket
    }

    /// Takes what one request costs.
    ///
    /// # Errors
    /// [`Limited`] when there is too little; nothing is taken then.
    pub fn take(&self, key: Bucket, rate: Rate, now: Instant) -> Result<(), Limited> {
        let (slot, now) = (self.slot(key), self.nanos(now));
        let mut full_at = slot.full_at.load(Ordering::Relaxed);
        loop {
            let next = after(full_at, rate, now)?;
            match slot.full_at.compare_exchange_weak(full_at, next, Ordering::Relaxed, Ordering::Relaxed) {
                Ok(_) => return Ok(()),
                Err(other) => full_at = other,
            }
        }
    }

    /// Whether [`Table::take`] would take something.
    ///
    /// # Errors
    /// [`Limited`] when it would not.
    pub fn check(&self, key: Bucket, rate: Rate, now: Instant) -> Result<(), Limited> {
        let set = self.set(key);
        let Some(slot) = set.iter().find(|slot| slot.key.load(Ordering::Relaxed) == key.0) else { return Ok(()) };
        after(slot.full_at.load(Ordering::Relaxed), rate, self.nanos(now)).map(|_| ())
    }

    fn nanos(&self, now: Instant) -> u64 {
        u64::try_from(now.saturating_duration_since(self.start).as_nanos()).unwrap_or(u64::MAX / 2)
    }

    fn set(&self, key: Bucket) -> &[Slot] {
        let sets = self.slots.len() / WAYS;
        let set = usize::try_from(key.0 >> 8).unwrap_or_default() % sets;
        &self.slots[set * WAYS..(set + 1) * WAYS]
    }

    /// The place of a bucket; one that is taken from another where it has none.
    fn slot(&self, key: Bucket) -> &Slot {
        let set = self.set(key);
        if let Some(slot) = set.iter().find(|slot| slot.key.load(Ordering::Relaxed) == key.0) {
            return slot;
        }
        let fullest = set.iter().min_by_key(|slot| slot.full_at.load(Ordering::Relaxed)).expect("a set has places");
        // Of two that take it at once, one counts on the other's bucket for a moment.
        fullest.key.store(key.0, Ordering::Relaxed);
        fullest.full_at.store(0, Ordering::Relaxed);
        fullest
    }
}

/// When a bucket is full again once one request is taken from it.
fn after(full_at: u64, rate: Rate, now: u64) -> Result<u64, Limited> {
    let next = full_at.max(now) + rate.interval();
    match (next - now).checked_sub(rate.window_nanos) {
        None | Some(0) => Ok(next),
        Some(wait) => Err(Limited { rate, wait: Duration::from_nanos(wait) }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn twice_the_rate_comes_at_once_and_then_the_rate() {
        let table = Table::with_slots(64);
        let (rate, key, start) = (Rate::parse("10/s").unwrap(), table.key("a"), table.start);
        let taken = |now: Instant| (0..100).take_while(|_| table.take(key, rate, now).is_ok()).count();
        assert_eq!(taken(start), 20);
        let limited = table.check(key, rate, start).unwrap_err();
        assert_eq!((limited.wait, limited.wait_seconds()), (Duration::from_millis(100), 1));
        assert_eq!(taken(start + Duration::from_millis(99)), 0);
        assert_eq!(taken(start + Duration::from_secs(1)), 10);
        assert_eq!(taken(start + Duration::from_mins(1)), 20, "no more than a full bucket");
        assert!(table.take(table.key("b"), rate, start).is_ok(), "another has a bucket of its own");
    }

    #[test]
    fn a_million_addresses_take_no_more_memory_and_the_busy_one_is_kept() {
        let table = Table::with_slots(1 << 12);
        let (rate, busy, start) = (Rate::parse("5").unwrap(), table.key("busy"), table.start);
        while table.take(busy, rate, start).is_ok() {}
        let mut forgotten = 0;
        for address in 0..1_000_000_u32 {
            let now = start + Duration::from_micros(u64::from(address) / 20);
            assert!(table.take(table.key(address), rate, now).is_ok(), "one request of each is no flood");
            forgotten += u32::from(table.check(busy, rate, now).is_ok());
        }
        assert_eq!(forgotten, 0, "those that asked once are nearer to a full bucket");
    }

    #[test]
    fn rates_are_read() {
        for (text, rate) in [("1/s", Some(1)), (" 1000000 ", Some(1_000_000)), ("7 /s", Some(7))] {
            assert_eq!(Rate::parse(text).ok().map(Rate::get), rate, "{text}");
        }
        for text in ["", "0", "0/s", "-1", "1000001", "1.5/s", "10/m", "10/s/s"] {
            assert!(Rate::parse(text).is_err(), "{text}");
        }
    }
}
