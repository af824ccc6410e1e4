//! Owners who lost an order between two events of it. A copy may become visible before the event of
//! its change (by warm-up, or by a read that misses) and replace the copy that named the former
//! owner. The former owner is kept here until that event is published, and is one of its readers.

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::id::{OrderId, Version};
use crate::snapshot::OwnerTag;
use crate::sync::lock;

/// More orders than change their owner between two events of theirs.
const FORMERS_MAX: usize = 10_000;

/// By order: its former owners, each with the version since which the order is no longer theirs.
#[derive(Default)]
pub(super) struct Formers {
    left: Mutex<HashMap<OrderId, Vec<(Version, OwnerTag)>>>,
    /// Whether there may be any: almost always there is none.
    has_any: AtomicBool,
}

impl Formers {
    /// Notes that this version took an order from its owner. Says whether there was room for it.
    pub(super) fn note(&self, id: OrderId, version: Version, owner: OwnerTag) -> bool {
        let mut left = lock(&self.left);
        if left.len() >= FORMERS_MAX && !left.contains_key(&id) {
            left.clear(); // the caller tells every reader that something is lost
            return false;
        }
        left.entry(id).or_default().push((version, owner));
        self.has_any.store(true, Ordering::Release);
        true
    }

    /// Who lost the order by this version or an earlier one. Each is told once.
    pub(super) fn take(&self, id: &OrderId, upto: Version) -> Vec<OwnerTag> {
        if !self.has_any.load(Ordering::Acquire) {
            return Vec::new();
        }
        let mut left = lock(&self.left);
        let Some(of) = left.get_mut(id) else { return Vec::new() };
        let taken = of.extract_if(.., |(version, _)| *version <= upto).map(|(_, owner)| owner).collect();
        if of.is_empty() {
            left.remove(id);
        }
        self.has_any.store(!left.is_empty(), Ordering::Release);
        taken
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_former_owner_is_told_once_by_the_version_that_took_the_order_or_a_later_one() {
        let formers = Formers::default();
        let (id, other) = (OrderId::parse(b"a").unwrap(), OrderId::parse(b"b").unwrap());
        let [a, b] = ["a", "b"].map(OwnerTag::of);
        assert!(formers.note(id.clone(), 2, a) && formers.note(id.clone(), 4, b));
        assert_eq!(formers.take(&other, 9), []);
        assert_eq!(formers.take(&id, 1), []);
        assert_eq!(formers.take(&id, 3), [a]);
        assert_eq!(formers.take(&id, 4), [b]);
        assert_eq!(formers.take(&id, 9), []);
        assert!(formers.left.lock().unwrap().is_empty() && !formers.has_any.load(Ordering::Relaxed));
    }

    #[test]
    fn what_there_is_no_room_for_is_said() {
        let formers = Formers::default();
        let id = |n: usize| OrderId::parse(format!("o{n}").as_bytes()).unwrap();
        let owner = OwnerTag::of("a");
        assert!((0..FORMERS_MAX).all(|n| formers.note(id(n), 2, owner)));
        assert!(formers.note(id(7), 3, owner));
        assert!(!formers.note(id(FORMERS_MAX), 2, owner));
    }
}
