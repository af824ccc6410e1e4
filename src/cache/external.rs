//! Look-up by a user's own ids: which orders have one. What an order is really called is read off
//! the order when it is asked for; what is kept here costs memory for as long as an order is called
//! so, and no longer. Not on the path of a look-up by id.

use std::collections::HashMap;
use std::hash::BuildHasher;
use std::sync::Mutex;

use foldhash::quality::RandomState;

use crate::id::OrderId;
use crate::snapshot::{Kind, Snapshot, State};
use crate::sync::lock;

/// Reads the user and the external id off a body. `None` for an order that has none.
pub type KeyOf = fn(&[u8]) -> Option<(String, Box<str>)>;

/// Writers of different users do not wait for each other.
const SHARDS: usize = 64;

/// Orders that have a name, newest last.
type Named = Vec<(u64, OrderId)>;

/// Orders by the hash of the user and the external id they have.
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

    /// Whether a copy that is made visible may change what an order is called.
    pub(super) fn concerns(&self, snapshot: &Snapshot) -> bool {
        self.key_of.is_some() && (snapshot.kind() == Kind::Envelope || snapshot.state() != State::Live)
    }

    fn key(&self, snapshot: &Snapshot) -> Option<(String, Box<str>)> {
        let may_have = snapshot.kind() == Kind::Envelope && snapshot.state() == State::Live;
        self.key_of.filter(|_| may_have)?(&snapshot.flat().whole())
    }

    /// Notes what the copy of an order that `get` gives is called, where `snapshot`, which was made
    /// visible, has a name. To be called for a copy once it is visible, and for the one that it
    /// took the place of: the last one to come finds the name that the order has.
    pub(super) fn note(&self, id: &OrderId, snapshot: &Snapshot, get: impl Fn(&OrderId) -> Option<Snapshot>) {
        let Some((user, external)) = self.key(snapshot) else { return };
        let hash = self.hash(&user, &external);
        let mut shard = lock(self.shard(hash));
        let is_called_so = get(id).is_some_and(|visible| {
            visible.version() == snapshot.version() || self.key(&visible).is_some_and(|key| key == (user, external))
        });
        if is_called_so {
            let named = shard.entry(hash).or_default();
            let at = named.partition_point(|(seq, _)| *seq < snapshot.seq());
            if named.get(at).is_none_or(|(_, known)| known != id) {
                named.insert(at, (snapshot.seq(), id.clone()));
            }
        } else if let Some(named) = shard.get_mut(&hash) {
            named.retain(|(_, known)| known != id);
            if named.is_empty() {
                shard.remove(&hash);
            }
        }
    }

    /// The newest live order of this name, and its id; `Err` when names are not noted.
    pub(super) fn find(
        &self,
        user: &str,
        external: &str,
        get: impl Fn(&OrderId) -> Option<Snapshot>,
    ) -> Result<Option<(OrderId, Snapshot)>, NotKept> {
        self.key_of.ok_or(NotKept)?;
        let hash = self.hash(user, external);
        let shard = lock(self.shard(hash));
        let Some(named) = shard.get(&hash) else { return Ok(None) };
        let is_meant = |order: &Snapshot| self.key(order).is_some_and(|(of, name)| (&*of, &*name) == (user, external));
        Ok(named.iter().rev().find_map(|(_, id)| Some((id.clone(), get(id).filter(is_meant)?))))
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
