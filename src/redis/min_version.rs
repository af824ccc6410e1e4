//! The least version that each order is known to have, in a bounded table without their ids.

use std::hash::BuildHasher;
use std::sync::atomic::{AtomicU32, Ordering};

use foldhash::quality::RandomState;

use crate::id::{OrderId, Version};

/// 16 MiB. With a million orders that were changed, one in six of the others is taken for changed too and read from the
/// store; with a hundred thousand, one in five hundred.
const SLOTS: usize = 1 << 22;

/// Never says less than was noted; may say more, for an order that shares both its slots with others.
pub(super) struct MinVersionSketch {
    slots: Box<[AtomicU32]>,
    hasher: RandomState,
}

impl Default for MinVersionSketch {
    fn default() -> Self {
        Self::new(SLOTS)
    }
}

impl MinVersionSketch {
    fn new(slots: usize) -> Self {
        assert!(slots.is_power_of_two(), "slots are found by a mask");
        Self { slots: (0..slots).map(|_| AtomicU32::new(0)).collect(), hasher: RandomState::default() }
    }

    fn slots_of(&self, id: &OrderId) -> [&AtomicU32; 2] {
        let hash = self.hasher.hash_one(id);
        let mask = self.slots.len() - 1;
        #[expect(clippy::cast_possible_truncation, reason = "cut by the mask")]
        [&self.slots[hash as usize & mask], &self.slots[(hash >> 32) as usize & mask]]
    }

    /// There is a copy of this version. The first one needs no note: nothing is older.
    pub(super) fn note(&self, id: &OrderId, version: Version) {
        if version > 1 {
            let version = u32::try_from(version).unwrap_or(u32::MAX);
            for slot in self.slots_of(id) {
                slot.fetch_max(version, Ordering::AcqRel);
            }
        }
    }

    /// Whether no newer version than this one was noted.
    pub(super) fn allows(&self, id: &OrderId, version: Version) -> bool {
        let floor = self.slots_of(id).map(|slot| slot.load(Ordering::Acquire)).into_iter().min();
        // Beyond what a slot can say everything may be older than something.
        floor.is_some_and(|floor| floor < u32::MAX && version >= Version::from(floor))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(n: u32) -> OrderId {
        OrderId::parse(format!("order-{n}").as_bytes()).unwrap()
    }

    #[test]
    fn nothing_older_than_what_was_noted_is_allowed_however_many_share_a_slot() {
        let floor = MinVersionSketch::new(64);
        for n in 0..1000 {
            floor.note(&id(n), Version::from(n % 7 + 1));
        }
        for n in 0..1000 {
            assert!(!floor.allows(&id(n), Version::from(n % 7)) || n % 7 == 0);
            assert!(floor.allows(&id(n), 7));
        }
    }

    #[test]
    fn others_are_rarely_taken_for_newer_than_they_are() {
        let floor = MinVersionSketch::new(1 << 12);
        for n in 0..100 {
            floor.note(&id(n), 2);
        }
        let distrusted = (1000..11_000).filter(|&n| !floor.allows(&id(n), 1)).count();
        assert!(distrusted < 200, "{distrusted} of 10000, expected about 24");
        assert!(floor.allows(&id(5000), 2));
    }

    #[test]
    fn versions_beyond_a_slot_are_never_allowed() {
        let floor = MinVersionSketch::new(64);
        floor.note(&id(1), Version::from(u32::MAX) + 1);
        assert!(!floor.allows(&id(1), Version::MAX));
        assert!(floor.allows(&id(2), 1) || floor.slots_of(&id(2)).iter().any(|slot| slot.load(Ordering::Relaxed) > 0));
    }
}
