//! Whose orders are: noted in each copy, kept for lists of an owner, and told to readers of events.
//! Only where the service knows its callers.

use std::sync::atomic::Ordering;

use super::feed::{Event, Former};
use super::map::Orders;
use super::view::View;
use crate::id::{OrderId, Version};
use crate::snapshot::{OwnerTag, Snapshot, State};

impl View {
    /// The copy with its owner noted in it, where owners are kept. A tombstone does not name an
    /// owner and keeps that of the copy before it.
    pub(super) fn tagged(&self, map: &Orders<'_>, id: &OrderId, snapshot: Snapshot, scratch: &mut Vec<u8>) -> Snapshot {
        if self.config.owner_of.is_none() || snapshot.owner().is_some() {
            return snapshot;
        }
        let owner = match snapshot.state() {
            State::Tombstone => map.get(id).and_then(Snapshot::owner),
            State::Live | State::SoftDeleted => self.owner_of(&snapshot),
        };
        owner.map_or_else(|| snapshot.clone(), |owner| snapshot.with_owner(owner, scratch))
    }

    /// Whether the owner of each order is noted, which is so where callers are authenticated.
    #[must_use]
    pub fn notes_owners(&self) -> bool {
        self.config.owner_of.is_some()
    }

    /// Keeps the former owner of an order until the event of its change, if it is not `owner`.
    pub(super) fn note_former(&self, id: OrderId, former: Option<OwnerTag>, version: Version, owner: Option<OwnerTag>) {
        if let Some(former) = former.filter(|former| Some(*former) != owner)
            && !self.formers.note(id, version, former)
        {
            self.feed.reset();
        }
    }

    /// The owner of a copy: noted in it, or read from its body.
    #[must_use]
    pub fn owner_of(&self, snapshot: &Snapshot) -> Option<OwnerTag> {
        let read = || (self.config.owner_of?)(snapshot.kind(), &snapshot.flat().whole());
        snapshot.owner().or_else(read)
    }

    /// At most `limit` live orders of an owner created before `before`, newest first. `None` where
    /// they are not kept, or not all of them are here; orders that others have stored a moment ago
    /// may be missing.
    #[must_use]
    pub fn owned_page(&self, owner: OwnerTag, before: Option<u64>, limit: usize) -> Option<Vec<Snapshot>> {
        self.holds_owned().then(|| self.owned.page(owner, before, limit))
    }

    /// How many live orders an owner has; `None` as with [`View::owned_page`].
    #[must_use]
    pub fn owned_count(&self, owner: OwnerTag) -> Option<usize> {
        self.holds_owned().then(|| self.owned.count(owner))
    }

    fn holds_owned(&self) -> bool {
        self.owned.is_kept() && self.is_complete.load(Ordering::Acquire) && !self.is_doubted.load(Ordering::Acquire)
    }

    /// The events with the owner of each order, where owners are kept: readers get the events of
    /// their own orders.
    pub(super) fn with_owners(&self, mut events: Vec<Event>) -> Vec<Event> {
        if self.config.owner_of.is_some() {
            let map = self.orders.pin();
            let mut scratch = Vec::new();
            for event in &mut events {
                event.snapshot = self.tagged(&map, &event.id, event.snapshot.clone(), &mut scratch);
                if event.former == Former::Unknown && map.contains_key(&event.id) {
                    event.former = Former::Known(Vec::new()); // what it replaces says more
                }
            }
        }
        events
    }

    /// Adds the former owners of the order to its event.
    pub(super) fn add_formers(&self, event: &mut Event) {
        let left = self.formers.take(&event.id, event.snapshot.version());
        let mut former = match std::mem::replace(&mut event.former, Former::Unknown) {
            Former::Known(known) => known,
            Former::Unknown if left.is_empty() => return,
            Former::Unknown => Vec::new(),
        };
        former.extend(left);
        let owner = event.snapshot.owner();
        former.retain(|former| Some(*former) != owner);
        event.former = Former::Known(former);
    }
}
