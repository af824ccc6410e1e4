//! The live orders of each owner, by creation order. Kept only where owners ask for their own
//! orders, and where all orders are in memory. A part of the map's own snapshots: 24 bytes an order
//! beside the room that trees leave empty.

use std::collections::BTreeMap;
use std::sync::Mutex;

use crate::id::OrderId;
use crate::snapshot::{OwnerTag, Snapshot, State};
use crate::sync::lock;

/// Writers of different owners do not wait for each other.
const SHARDS: usize = 64;

type Shard = BTreeMap<(OwnerTag, u64), Snapshot>;

/// Orders by owner.
pub(super) struct Owned {
    /// Empty where owners are not kept.
    shards: Box<[Mutex<Shard>]>,
}

impl Owned {
    pub(super) fn new(is_kept: bool) -> Self {
        let shards = if is_kept { SHARDS } else { 0 };
        Self { shards: (0..shards).map(|_| Mutex::default()).collect() }
    }

    pub(super) fn is_kept(&self) -> bool {
        !self.shards.is_empty()
    }

    /// Notes what became of an order, given the copy that was made visible and the one that it took
    /// the place of. To be called once that is done. `get` is asked under the lock: of two that
    /// note the same order the later one has the last word.
    pub(super) fn note(
        &self,
        id: &OrderId,
        copies: [Option<&Snapshot>; 2],
        get: impl Fn(&OrderId) -> Option<Snapshot>,
    ) {
        if !self.is_kept() {
            return;
        }
        let mut noted = None;
        for copy in copies.into_iter().flatten() {
            let Some(owner) = copy.owner().filter(|owner| noted != Some(*owner)) else { continue };
            noted = Some(owner);
            let mut shard = lock(self.shard(owner));
            match get(id).filter(|shown| shown.state() == State::Live && shown.owner() == Some(owner)) {
                Some(shown) => {
                    if shown.seq() != copy.seq() {
                        shard.remove(&(owner, copy.seq()));
                    }
                    shard.insert((owner, shown.seq()), shown);
                }
                None => {
                    shard.remove(&(owner, copy.seq()));
                }
            }
        }
    }

    pub(super) fn page(&self, owner: OwnerTag, before: Option<u64>, limit: usize) -> Vec<Snapshot> {
        let shard = lock(self.shard(owner));
        let older = shard.range((owner, 0)..(owner, before.unwrap_or(u64::MAX)));
        older.rev().take(limit).map(|(_, order)| order.clone()).collect()
    }

    pub(super) fn count(&self, owner: OwnerTag) -> usize {
        let shard = lock(self.shard(owner));
        shard.range((owner, 0)..=(owner, u64::MAX)).count()
    }

    fn shard(&self, owner: OwnerTag) -> &Mutex<Shard> {
        &self.shards[owner.share(SHARDS)]
    }
}
