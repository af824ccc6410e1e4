//! Look-up by a user's own ids: which orders may have one. What an order is really called is read off the order when it
//! is asked for, so nothing here has to be kept true. Not on the path of a look-up by id.

use std::collections::HashMap;
use std::hash::BuildHasher;
use std::sync::{Mutex, PoisonError};

use foldhash::quality::RandomState;

use crate::id::OrderId;
use crate::snapshot::{Kind, Snapshot, State};

/// Reads the user and the external id off a body. `None` for an order that has none.
pub type KeyOf = fn(&[u8]) -> Option<(String, Box<str>)>;

/// Writers of different users do not wait for each other.
const SHARDS: usize = 64;

/// Orders that had a name when they were noted, newest last.
type Named = Vec<(u64, OrderId)>;

/// Orders by the hash of the user and the external id they had when they were noted.
pub(super) struct External {
    key_of: Option<KeyOf>,
    hasher: RandomState,
    shards: Box<[Mutex<HashMap<u64, Named, RandomState>>]>,
}

impl External {
    pub(super) fn new(key_of: Option<KeyOf>) -> Self {
        let hasher = RandomState::default();
        let shards = (0..SHARDS).map(|_| Mutex::new(HashMap::with_hasher(hasher.clone()))).collect();
        Self { key_of, hasher, shards }
    }

    /// Whether an order may have an external id.
    pub(super) fn wants(&self, snapshot: &Snapshot) -> bool {
        snapshot.kind() == Kind::Envelope && snapshot.state() == State::Live && self.key_of.is_some()
    }

    /// Notes what a copy that is now visible is called.
    pub(super) fn note(&self, id: OrderId, snapshot: &Snapshot) {
        let body = snapshot.flat().whole();
        let Some((user, external)) = self.key_of.and_then(|key_of| key_of(&body)) else { return };
        let hash = self.hash(&user, &external);
        let mut shard = self.shard(hash).lock().unwrap_or_else(PoisonError::into_inner);
        let named = shard.entry(hash).or_default();
        let at = named.partition_point(|(seq, _)| *seq < snapshot.seq());
        if named.get(at).is_none_or(|(_, known)| *known != id) {
            named.insert(at, (snapshot.seq(), id));
        }
    }

    /// The newest live order of this name; `Err` when names are not noted.
    pub(super) fn find(
        &self,
        user: &str,
        external: &str,
        get: impl Fn(&OrderId) -> Option<Snapshot>,
    ) -> Result<Option<Snapshot>, NotKept> {
        let key_of = self.key_of.ok_or(NotKept)?;
        let hash = self.hash(user, external);
        let mut shard = self.shard(hash).lock().unwrap_or_else(PoisonError::into_inner);
        let Some(named) = shard.get_mut(&hash) else { return Ok(None) };
        // Deleted orders never come back. One that is called otherwise now may be called this again.
        named.retain(|(_, id)| get(id).is_none_or(|order| order.state() == State::Live));
        let is_meant = |order: &Snapshot| {
            order.state() == State::Live
                && key_of(&order.flat().whole()).is_some_and(|(of, name)| (&*of, &*name) == (user, external))
        };
        Ok(named.iter().rev().find_map(|(_, id)| get(id).filter(is_meant)))
    }

    fn hash(&self, user: &str, external: &str) -> u64 {
        self.hasher.hash_one((user, external))
    }

    fn shard(&self, hash: u64) -> &Mutex<HashMap<u64, Named, RandomState>> {
        &self.shards[usize::try_from(hash % SHARDS as u64).expect("less than the number of shards")]
    }
}

/// Names are not noted in this view.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NotKept;
