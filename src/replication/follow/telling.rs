//! Whether this instance publishes what it changes: nothing is published for followers that are not
//! there.
//!
//! The problem: an instance that comes must miss nothing, and one that is told of changes asks the
//! store less often and takes an unknown id for one that exists nowhere. The invariant: while an
//! instance is seen to publish, there is no batch of it on its way that is not published. So it is
//! seen to only after the last batch that was begun without has ended, and it stops only after that
//! it is not seen to any more. What was committed before is found in the store, which is asked all
//! the time.
//!
//! The one that asks the store calls [`Telling::note`] after each time and lets the others know
//! what that returns. An example: B comes. At its next look A sees that it is followed and
//! publishes the batches that it begins from then on; B is not told by A yet, so it asks the store
//! for unknown ids. At a later look no batch without is left, and A says that it publishes; B sees
//! that at two of its looks, and relies on it. B goes: A takes back that it publishes, and at the
//! look after that it stops.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use crate::replication::outbox::Outbox;
use crate::store::Peers;

/// Why snapshots are published.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Reason {
    /// It is set so.
    Set = 1,
    /// Another instance that follows is there.
    Followed = 2,
    /// The store does not say whether one is.
    Unknown = 3,
}

impl Reason {
    /// All of them, with the word in metrics.
    pub const ALL: [(Self, &'static str); 3] =
        [(Self::Set, "set"), (Self::Followed, "another_instance"), (Self::Unknown, "store_silent")];

    fn text(self) -> &'static str {
        match self {
            Self::Set => "it is set so",
            Self::Followed => "another instance is there",
            Self::Unknown => "the store does not say whether another instance is there",
        }
    }
}

/// See the module.
pub struct Telling {
    outbox: Outbox,
    is_always: bool,
    /// The others may still take this instance for one that publishes.
    is_seen: bool,
    reason: Arc<AtomicU8>,
}

impl Telling {
    /// Has the snapshots of this outbox and its clones published always, or else when
    /// [`Telling::note`] says so.
    #[must_use]
    pub fn new(outbox: Outbox, is_always: bool) -> Self {
        outbox.publish_snapshots(is_always);
        let reason = Arc::new(AtomicU8::new(if is_always { Reason::Set as u8 } else { 0 }));
        Self { outbox, is_always, is_seen: false, reason }
    }

    /// Reads whether they are published now for this reason.
    pub fn is_for(&self, reason: Reason) -> impl Fn() -> bool + Send + Sync + use<> {
        let now = Arc::clone(&self.reason);
        move || now.load(Ordering::Relaxed) == reason as u8
    }

    /// Takes note of what the store says of the others, or that it says nothing. Returns whether
    /// the others are to be told that this instance publishes.
    pub fn note(&mut self, peers: Option<Peers>) -> bool {
        let reason = match peers {
            _ if self.is_always => Some(Reason::Set),
            None => Some(Reason::Unknown),
            Some(peers) => peers.follow.then_some(Reason::Followed),
        };
        if reason.is_none() && std::mem::take(&mut self.is_seen) {
            return false; // and stops once they know
        }
        self.outbox.publish_snapshots(reason.is_some());
        let now = reason.map_or(0, |reason| reason as u8);
        if self.reason.swap(now, Ordering::Relaxed) != now {
            if let Some(reason) = reason {
                tracing::info!(why = reason.text(), "snapshots are published");
            } else {
                tracing::info!("no other instance follows: no snapshots are published");
            }
        }
        self.is_seen = self.outbox.tells_all();
        self.is_seen
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Contents;

    fn telling(is_always: bool) -> (Outbox, Telling) {
        let (outbox, _batches) =
            crate::replication::outbox::outbox(Contents { snapshots: true, ..Contents::default() });
        (outbox.clone(), Telling::new(outbox, is_always))
    }

    const ALONE: Option<Peers> = Some(Peers { follow: false, publish: false });
    const FOLLOWED: Option<Peers> = Some(Peers { follow: true, publish: false });

    #[test]
    fn alone_nothing_is_published_and_followed_all_is_before_it_is_said() {
        let (outbox, mut telling) = telling(false);
        assert!(!telling.note(ALONE));
        let begun = outbox.parcel(false);
        assert!(begun.parcel.is_none());
        assert!(!telling.note(FOLLOWED), "a batch without is on its way");
        assert!(telling.is_for(Reason::Followed)());
        assert!(outbox.parcel(false).parcel.is_some());
        assert!(!telling.note(FOLLOWED));
        drop(begun);
        assert!(telling.note(FOLLOWED));
        assert!(!telling.note(ALONE), "that it ends is said first");
        assert!(outbox.parcel(false).parcel.is_some());
        assert!(!telling.note(ALONE));
        assert!(outbox.parcel(false).parcel.is_none());
        assert!(!telling.is_for(Reason::Followed)());
    }

    #[test]
    fn one_that_comes_while_it_ends_is_told() {
        let (outbox, mut telling) = telling(false);
        assert!(telling.note(FOLLOWED));
        assert!(!telling.note(ALONE));
        assert!(telling.note(FOLLOWED), "it never stopped");
        assert!(outbox.parcel(false).parcel.is_some());
    }

    #[test]
    fn what_is_not_known_counts_as_followed_and_what_is_set_holds() {
        let (outbox, mut telling) = telling(false);
        assert!(telling.note(None));
        assert!(outbox.parcel(false).parcel.is_some() && telling.is_for(Reason::Unknown)());
        let (outbox, mut telling) = self::telling(true);
        assert!(outbox.parcel(false).parcel.is_some());
        assert!(telling.note(ALONE) && telling.note(ALONE) && telling.is_for(Reason::Set)());
    }
}
