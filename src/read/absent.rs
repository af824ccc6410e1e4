//! Ids that the store did not know a moment ago: whoever asks for them again and again costs it nothing.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use crate::id::OrderId;

/// A bounded memory of unknown ids. An order that arrives needs no word to it: readers look at the view first.
pub(super) struct Absent {
    kept: Mutex<HashMap<OrderId, Instant>>,
    ids_max: usize,
    time: Duration,
}

impl Absent {
    pub(super) fn new(ids_max: usize, time: Duration) -> Self {
        Self { kept: Mutex::default(), ids_max, time }
    }

    /// Whether the store said so within the time.
    pub(super) fn contains(&self, id: &OrderId) -> bool {
        let kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        kept.get(id).is_some_and(|until| Instant::now() < *until)
    }

    /// The store does not know the id. `asked` is when the question was put.
    pub(super) fn note(&self, id: OrderId, asked: Instant) {
        let mut kept = self.kept.lock().unwrap_or_else(PoisonError::into_inner);
        if kept.len() >= self.ids_max {
            let now = Instant::now();
            kept.retain(|_, until| now < *until);
            if kept.len() >= self.ids_max {
                kept.clear(); // somebody is guessing ids; the store bounds its own work
            }
        }
        kept.insert(id, asked + self.time);
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
        let absent = Absent::new(3, Duration::from_mins(1));
        let now = Instant::now();
        absent.note(id(1), now);
        absent.note(id(2), now.checked_sub(Duration::from_mins(2)).unwrap());
        assert!(absent.contains(&id(1)));
        assert!(!absent.contains(&id(2)), "too long ago");
        absent.note(id(3), now);
        absent.note(id(4), now);
        assert!(absent.contains(&id(1)), "what is over makes room first");
        for n in 5..100 {
            absent.note(id(n), now);
            assert!(absent.kept.lock().unwrap().len() <= 3);
        }
    }
}
