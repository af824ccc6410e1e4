//! Ids that the store did not know a moment ago: repeated requests for them do not reach it.

use std::collections::HashMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use crate::id::OrderId;
use crate::sync::lock;

/// A bounded memory of unknown ids.
pub(super) struct NegativeCache {
    kept: Mutex<HashMap<OrderId, Instant>>,
    /// No id is kept, which is so most of the time: publishing then does not take the lock.
    is_empty: AtomicBool,
    ids_max: usize,
    time: Duration,
}

impl NegativeCache {
    pub(super) fn new(ids_max: usize, time: Duration) -> Self {
        Self { kept: Mutex::default(), is_empty: AtomicBool::new(true), ids_max, time }
    }

    /// Whether the store said so within the time.
    pub(super) fn contains(&self, id: &OrderId) -> bool {
        if self.is_empty.load(Ordering::SeqCst) {
            return false;
        }
        let kept = lock(&self.kept);
        kept.get(id).is_some_and(|until| Instant::now() < *until)
    }

    /// The store does not know the id. `asked` is when the question was put.
    pub(super) fn note(&self, id: OrderId, asked: Instant) {
        let mut kept = lock(&self.kept);
        if kept.len() >= self.ids_max {
            let now = Instant::now();
            kept.retain(|_, until| now < *until);
            if kept.len() >= self.ids_max {
                kept.clear(); // someone is guessing ids; the store bounds its own work
            }
        }
        kept.insert(id, asked + self.time);
        self.is_empty.store(false, Ordering::SeqCst);
    }

    /// These ids are known now.
    pub(super) fn forget<'i>(&self, ids: impl IntoIterator<Item = &'i OrderId>) {
        if self.is_empty.load(Ordering::SeqCst) {
            return;
        }
        let mut kept = lock(&self.kept);
        for id in ids {
            kept.remove(id);
        }
        if kept.is_empty() {
            self.is_empty.store(true, Ordering::SeqCst);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(n: usize) -> OrderId {
        OrderId::parse(format!("o{n}").as_bytes()).unwrap()
    }

    #[test]
    fn an_unknown_id_is_remembered_for_a_while_and_only_so_many_are() {
        let absent = NegativeCache::new(3, Duration::from_mins(1));
        let now = Instant::now();
        absent.note(id(1), now);
        absent.note(id(2), now.checked_sub(Duration::from_mins(2)).unwrap());
        assert!(absent.contains(&id(1)));
        assert!(!absent.contains(&id(2)), "too long ago");
        absent.note(id(3), now);
        absent.note(id(4), now);
        assert!(absent.contains(&id(1)), "what is over makes room first");
        absent.forget([&id(1), &id(7)]);
        assert!(!absent.contains(&id(1)), "it arrived");
        for n in 5..100 {
            absent.note(id(n), now);
            assert!(absent.kept.lock().unwrap().len() <= 3);
        }
    }
}
