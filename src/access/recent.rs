//! What each thread remembers of credentials that were let in, so that a read with one that is
//! known costs a hash and a comparison. No lock, a fixed number of places, and nothing that
//! outlives a change of the keys.
//!
//! A place is found by a hash with a key of this process, and bytes are compared only where all 64
//! bits of it are the same: how long that takes says nothing to who guesses.

use std::cell::RefCell;
use std::hash::BuildHasher;
use std::sync::{Arc, LazyLock};

use foldhash::quality::RandomState;

use super::caller::Caller;

/// Places of a thread.
const PLACES: usize = 1024;

struct Known {
    hash: u64,
    /// Of which generation of the keys this is known.
    generation: u64,
    credential: Box<[u8]>,
    caller: Arc<Caller>,
}

thread_local! {
    static KNOWN: RefCell<Vec<Option<Known>>> = const { RefCell::new(Vec::new()) };
}

static HASHER: LazyLock<RandomState> = LazyLock::new(RandomState::default);

/// What `take` makes of the caller that was let in by this credential, if this thread knows one.
pub fn with<R>(credential: &[u8], generation: u64, take: impl FnOnce(&Arc<Caller>) -> R) -> Option<R> {
    let hash = HASHER.hash_one(credential);
    KNOWN.with_borrow(|known| {
        let known = known.get(place(hash))?.as_ref()?;
        let is_it = known.hash == hash && known.generation == generation && *known.credential == *credential;
        is_it.then(|| take(&known.caller))
    })
}

/// Remembers that this credential let this caller in.
pub fn remember(credential: &[u8], generation: u64, caller: &Arc<Caller>) {
    let hash = HASHER.hash_one(credential);
    let entry = Known { hash, generation, credential: credential.into(), caller: Arc::clone(caller) };
    KNOWN.with_borrow_mut(|known| {
        if known.is_empty() {
            known.resize_with(PLACES, || None);
        }
        known[place(hash)] = Some(entry);
    });
}

fn place(hash: u64) -> usize {
    usize::try_from(hash % PLACES as u64).expect("less than the number of places")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::access::caller::By;
    use crate::access::scope::Scopes;

    #[test]
    fn a_credential_is_known_until_the_keys_change_and_no_other_is() {
        let caller = |name: &str| {
            let (name, scopes) = (name.into(), Scopes::default());
            Arc::new(Caller {
                name,
                kind: By::Key,
                scopes,
                owner: None,
                rate: None,
                expires: None,
                hash: [0; 32],
                signer: None,
            })
        };
        assert_eq!(with(b"a", 1, |_| ()), None);
        remember(b"a", 1, &caller("first"));
        assert_eq!(with(b"a", 1, |caller| caller.name.clone()).as_deref(), Some("first"));
        assert_eq!(with(b"a", 2, |_| ()), None);
        assert_eq!(with(b"b", 1, |_| ()), None);
        // Others take places, and only places.
        for n in 0..100_000_u32 {
            remember(&n.to_ne_bytes(), 1, &caller("other"));
        }
        assert_eq!(KNOWN.with_borrow(Vec::len), PLACES);
    }
}
