//! Room for orders: which leave when there is too little, which stay because they are pinned, and
//! how those that left are counted all the same.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use tokio::sync::{OwnedRwLockReadGuard, OwnedRwLockWriteGuard};

use super::evict::{self, Verdict};
use super::feed::Event;
use super::map;
use super::view::View;
use crate::id::OrderId;

/// A batch may be durable that is not visible. No count begins meanwhile.
pub type Committing = OwnedRwLockReadGuard<()>;
/// What is durable is visible, and no batch becomes durable.
pub type Paused = OwnedRwLockWriteGuard<()>;

impl View {
    /// What so many orders take of a budget, with snapshots of so many bytes together.
    #[must_use]
    pub const fn cost(orders: u64, bytes: u64) -> u64 {
        evict::cost(orders, bytes)
    }

    /// Lets orders go that there is no room for, and some of those whose time is up. Says whether
    /// there may be more of these: to be called every now and then until there are none.
    pub fn shrink(&self) -> bool {
        let Some(evict) = &self.evict else { return false };
        let map = self.orders.pin();
        let is_over = || self.config.bytes_max.is_some_and(|bytes_max| self.used() > bytes_max);
        evict.shrink(is_over, |id, must| {
            // Before anything is gone: anyone who misses it knows that it may be in the store.
            self.has_let_go.store(true, Ordering::SeqCst);
            match map::remove(&map, id, must) {
                Some(gone) => {
                    self.tally.remove(gone);
                    Verdict::Taken
                }
                None if must => Verdict::Taken,
                None => Verdict::WasRead,
            }
        })
    }

    /// What the view takes of its budget.
    pub(super) fn used(&self) -> u64 {
        let bytes = u64::try_from(self.tally.bytes.load(Ordering::Relaxed)).unwrap_or_default();
        Self::cost(self.tally.entries.load(Ordering::Relaxed) as u64, bytes)
    }

    /// Whether there is room for more orders.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.config.bytes_max.is_none_or(|bytes_max| self.used() < bytes_max)
    }

    /// Whether orders may leave.
    #[must_use]
    pub fn is_bounded(&self) -> bool {
        self.evict.is_some()
    }

    /// Keeps these orders from leaving, those that are here and those that come. Needed from before
    /// their newest copies are read from the store, or changed in it, until they are visible.
    /// `None` when no order ever leaves.
    #[must_use]
    pub fn pin(self: &Arc<Self>, ids: Vec<OrderId>) -> Option<Pinned> {
        let evict = self.evict.as_ref()?;
        evict.pin(&ids);
        Some(Pinned { view: Arc::clone(self), ids: Some(ids) })
    }

    /// As [`View::pin`] for all orders. For a short while: the view grows beyond its budget
    /// meanwhile.
    #[must_use]
    pub fn hold(self: &Arc<Self>) -> Option<Pinned> {
        self.evict.as_ref()?.hold();
        Some(Pinned { view: Arc::clone(self), ids: None })
    }

    /// To be kept from before a batch is committed until it is visible. `None` where the view holds
    /// all orders, which are counted as they come and go. Waits while a count begins. Cancel-safe,
    /// but loses its place in the queue.
    pub async fn committing(&self) -> Option<Committing> {
        if self.is_bounded() { Some(Arc::clone(&self.committing).read_owned().await) } else { None }
    }

    /// Waits until everything is visible that this process has committed; what comes next waits for
    /// the end of this. For the beginning of a count. Cancel-safe.
    pub async fn pause_commits(&self) -> Paused {
        Arc::clone(&self.committing).write_owned().await
    }

    /// To be called before live orders are counted, while [`Paused`], for [`View::counted`].
    #[must_use]
    pub fn counting(&self) -> i64 {
        self.tally.live.load(Ordering::Relaxed)
    }

    /// Corrects the number of live orders by what is stored. `before` is what it was when the count
    /// began; what was published since is added.
    pub fn counted(&self, before: i64, live: u64) {
        let correction = i64::try_from(live).unwrap_or(i64::MAX).saturating_sub(before);
        self.tally.live.fetch_add(correction, Ordering::Relaxed);
    }
}

/// Orders that do not leave for as long as this is kept: some, or all when there are no ids.
#[must_use]
pub struct Pinned {
    view: Arc<View>,
    ids: Option<Vec<OrderId>>,
}

impl Drop for Pinned {
    fn drop(&mut self) {
        let evict = self.view.evict.as_ref().expect("nothing is pinned otherwise");
        let heard = match &self.ids {
            Some(ids) => evict.unpin(ids),
            None => evict.release(),
        };
        for (id, snapshot) in heard {
            let change = snapshot.apparent_change();
            self.view.apply_remote(Event::new(id, snapshot, change));
        }
        self.view.shrink();
    }
}
