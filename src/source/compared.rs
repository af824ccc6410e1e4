//! What became of orders that come from another store and are here already: whether what is here differs from what came.

use std::collections::BTreeMap;

use crate::order::envelope::{Envelope, Status, Stored};
use crate::order::{Command, Order};
use crate::record::{Checkpoint, Position};
use crate::snapshot::{Snapshot, State};
use crate::store::Outcome;

/// Orders that were here already and differed, by what became of them.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Differences {
    /// Changed here, since they changed later there.
    pub updated: u64,
    /// Left as they are here, since they changed here no earlier than there.
    pub newer_here: u64,
    /// Left as they are here, since nothing says which of the two is newer.
    pub undecided: u64,
    /// Deleted here, which is final.
    pub deleted_here: u64,
}

impl Differences {
    /// A line for each kind there is.
    #[must_use]
    pub fn lines(&self) -> Vec<String> {
        let all = [
            (self.updated, "were here already and are updated: they changed later there"),
            (self.newer_here, "differ from what is here and are left as they are here: they changed here no earlier"),
            (
                self.undecided,
                "differ from what is here and are left as they are here: nothing says which of the two is newer",
            ),
            (self.deleted_here, "were deleted here, which is final"),
        ];
        let line = |(count, what): &(u64, &str)| format!("{count} orders {what}");
        all.iter().filter(|(count, _)| *count > 0).map(line).collect()
    }
}

/// What came, until it is known what became of it.
#[derive(Default)]
pub(super) struct Compared {
    pending: BTreeMap<u64, Order>,
    found: Differences,
}

impl Compared {
    /// An order on its way to the store.
    pub(super) fn expect(&mut self, position: Position, order: &Order) {
        self.pending.insert(position.offset, order.clone());
    }

    /// What became of an order, if it was expected.
    pub(super) fn judge(&mut self, position: Position, outcome: &Outcome) {
        let order = self.pending.remove(&position.offset);
        if let Outcome::WasDeleted { .. } = outcome {
            self.found.deleted_here += 1;
        }
        let Some(order) = order else { return };
        match outcome {
            Outcome::Stored { snapshot, .. } => self.found.updated += u64::from(snapshot.version() > 1),
            Outcome::Unchanged { snapshot, .. } | Outcome::Repeated { snapshot, .. } => {
                if differs(&order.command, snapshot) {
                    let is_decided = order.past.is_some() && matches!(order.command, Command::Envelope(_));
                    let count = if is_decided { &mut self.found.newer_here } else { &mut self.found.undecided };
                    *count += 1;
                }
            }
            Outcome::WasDeleted { .. } | Outcome::Refused { .. } => {}
        }
    }

    /// Forgets what was rejected after all.
    pub(super) fn passed(&mut self, upto: &Checkpoint) {
        self.pending = self.pending.split_off(&upto.next(0));
    }

    pub(super) fn found(&self) -> Differences {
        self.found
    }
}

/// Whether what is here says anything else than what came.
fn differs(came: &Command, here: &Snapshot) -> bool {
    match came {
        Command::Wb(body) => here.flat() != body,
        Command::Delete => here.state() != State::Tombstone,
        Command::Envelope(Envelope { user_id, status, payload, amount, .. }) => {
            let body = here.flat().whole();
            let Some(stored) = Stored::parse(&body) else { return true };
            let user_id = user_id.map(|user_id| user_id.hyphenated().to_string());
            let status = status.unwrap_or(Status::New).as_str();
            stored.status != status
                || user_id.is_some_and(|user_id| stored.user_id != user_id)
                || payload.as_ref().is_some_and(|payload| (stored.payload, stored.amount) != (&**payload, &**amount))
        }
    }
}
