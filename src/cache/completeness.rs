//! Whether the view has all that is stored: whether a miss is the truth, which changes by others
//! were told already, and when there is reason to hold the view against the store.

use std::sync::atomic::Ordering;
use std::time::Duration;

use super::feed::Event;
use super::view::View;
use crate::id::{OrderId, Version};
use crate::snapshot::Snapshot;
use crate::sync::lock;

/// More orders than are loaded between two looks at what others changed.
const BROUGHT_MAX: usize = 10_000;

impl View {
    /// Whether every stored order is in the view, so that an unknown id exists nowhere.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.is_complete.load(Ordering::Acquire)
            && !self.is_shared.load(Ordering::Acquire)
            && !self.has_let_go.load(Ordering::SeqCst)
            && !self.is_doubted.load(Ordering::Acquire)
    }

    /// Declares that every stored order is in the view, and that every commit from here on will be.
    pub fn set_complete(&self) {
        self.is_complete.store(true, Ordering::Release);
    }

    /// Says whether other processes may store orders that this view does not show yet.
    pub fn set_shared(&self, is_shared: bool) {
        self.is_shared.store(is_shared, Ordering::Release);
    }

    /// Makes a copy visible that was read from the store, as [`View::fill`] does, where another
    /// process may have written it: it was not announced yet.
    pub fn fill_shared(&self, id: OrderId, snapshot: Snapshot) {
        let version = snapshot.version();
        if self.fill(id.clone(), snapshot) {
            let mut brought = lock(&self.brought);
            if brought[0].len() < BROUGHT_MAX {
                brought[0].insert(id, version);
                self.has_brought.store(true, Ordering::SeqCst);
            }
        }
    }

    /// Whether readers of events were not told of this version of an order, or it is not shown.
    #[must_use]
    pub fn is_untold(&self, id: &OrderId, version: Version) -> bool {
        self.version(id).is_none_or(|shown| shown < version) || self.was_brought(id, version)
    }

    fn was_brought(&self, id: &OrderId, version: Version) -> bool {
        self.has_brought.load(Ordering::SeqCst) && {
            let brought = lock(&self.brought);
            brought.iter().any(|brought| brought.get(id) == Some(&version))
        }
    }

    pub(super) fn forget_brought(&self, events: &[Event]) {
        if self.has_brought.load(Ordering::SeqCst) {
            let mut brought = lock(&self.brought);
            for event in events {
                for brought in &mut *brought {
                    if brought.get(&event.id).is_some_and(|version| *version <= event.snapshot.version()) {
                        brought.remove(&event.id);
                    }
                }
            }
        }
    }

    /// There is reason to doubt that the store still has what is shown. Until it is settled the
    /// view counts as a part of what is stored.
    pub fn doubt(&self) {
        self.doubts.send_modify(|doubts| {
            *doubts += 1;
            self.is_doubted.store(true, Ordering::Release);
        });
    }

    /// Completes when there is a doubt, and says which. For one waiter. Cancel-safe.
    pub async fn doubted(&self) -> u64 {
        let mut doubts = self.doubts.subscribe();
        loop {
            let doubt = *doubts.borrow_and_update();
            if self.is_doubted.load(Ordering::Acquire) {
                return doubt;
            }
            let _ = doubts.changed().await; // cannot fail: `self` holds the sender
        }
    }

    /// The view was held against the store since this doubt. Later ones stay.
    pub fn settle_doubt(&self, doubt: u64) {
        self.doubts.send_if_modified(|doubts| {
            if *doubts == doubt {
                self.is_doubted.store(false, Ordering::Release);
            }
            false
        });
    }

    /// The store has just told all that others changed.
    pub fn heard(&self) {
        if self.has_brought.load(Ordering::SeqCst) {
            // What came before this look began was told of by it, or is older than the last one. A
            // look sees what came before it, so what came during this one is kept for the next.
            let mut brought = lock(&self.brought);
            brought[1] = std::mem::take(&mut brought[0]);
            self.has_brought.store(!brought[1].is_empty(), Ordering::SeqCst);
        }
        let millis = u64::try_from(self.made.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.heard.store(millis.saturating_add(1), Ordering::Relaxed);
    }

    /// For how long the store told nothing of what others may have changed; since the start where
    /// it never did.
    #[must_use]
    pub fn silence(&self) -> Duration {
        let heard = Duration::from_millis(self.heard.load(Ordering::Relaxed).saturating_sub(1));
        self.made.elapsed().saturating_sub(heard)
    }
}
