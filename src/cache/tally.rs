//! What the view holds in all: running totals, to which each change adds its difference.

use std::sync::atomic::{AtomicI64, AtomicU64, AtomicUsize, Ordering};

use crate::snapshot::{Snapshot, State};

/// Running totals. Each publisher adds the difference its own change made, so they are right at
/// rest.
#[derive(Default)]
pub(super) struct Tally {
    pub(super) live: AtomicI64,
    pub(super) entries: AtomicUsize,
    pub(super) bytes: AtomicI64,
    pub(super) evicted: AtomicU64,
    pub(super) put_back: AtomicU64,
}

/// How much the view holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    /// Orders shown in lists and counts, in the view or not.
    pub live: u64,
    /// All entries, tombstones included.
    pub entries: usize,
    /// Bytes of snapshots, without the map's own.
    pub bytes: u64,
    /// Orders that left for want of room or for their age.
    pub evicted: u64,
}

/// What one published copy changes about the totals.
#[derive(Default)]
pub(super) struct TallyDelta {
    pub(super) live: i64,
    pub(super) entries: isize,
    pub(super) bytes: i64,
}

impl TallyDelta {
    pub(super) fn of_removal(old: &Snapshot) -> Self {
        Self {
            live: -i64::from(old.state() == State::Live),
            entries: -1,
            bytes: -i64::try_from(old.resident_bytes()).unwrap_or(i64::MAX),
        }
    }

    pub(super) fn between(old: Option<&Snapshot>, new: &Snapshot) -> Self {
        let live = |snapshot: &Snapshot| i64::from(snapshot.state() == State::Live);
        let bytes = |snapshot: &Snapshot| i64::try_from(snapshot.resident_bytes()).unwrap_or(i64::MAX);
        Self {
            live: live(new) - old.map_or(0, live),
            entries: isize::from(old.is_none()),
            bytes: bytes(new) - old.map_or(0, bytes),
        }
    }
}

impl Tally {
    pub(super) fn add(&self, change: &TallyDelta) {
        self.live.fetch_add(change.live, Ordering::Relaxed);
        // Adds what is negative, too: it wraps around.
        self.entries.fetch_add(change.entries.cast_unsigned(), Ordering::Relaxed);
        self.bytes.fetch_add(change.bytes, Ordering::Relaxed);
    }

    pub(super) fn remove(&self, gone: &Snapshot) {
        self.entries.fetch_sub(1, Ordering::Relaxed);
        self.bytes.fetch_sub(i64::try_from(gone.resident_bytes()).unwrap_or(i64::MAX), Ordering::Relaxed);
        self.evicted.fetch_add(1, Ordering::Relaxed);
    }
}
