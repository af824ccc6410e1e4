//! What a store says about a batch: the outcome of each entry, why one is refused, and what kept
//! the store from answering.

use std::sync::Arc;

use super::Batch;
use crate::id::{OrderId, Version};
use crate::snapshot::{ChangeKind, OwnerTag, Snapshot};

/// What became of one entry.
#[derive(Debug, Clone)]
pub enum Outcome {
    /// Changed: durable, and to be shown.
    Stored {
        /// The order.
        id: OrderId,
        /// Its new copy.
        snapshot: Snapshot,
        /// What kind of change it was.
        change: ChangeKind,
        /// Whose it was before, where the batch asks for that.
        former: Option<OwnerTag>,
    },
    /// The stored body says the same already.
    Unchanged {
        /// The order.
        id: OrderId,
        /// The copy that stays. A commit whose answer was lost and that is tried again comes out
        /// here, so this copy may not be visible yet.
        snapshot: Snapshot,
    },
    /// The order was deleted earlier, which is final.
    WasDeleted {
        /// The order.
        id: OrderId,
        /// The deleted copy.
        snapshot: Snapshot,
    },
    /// A repeated request: answer as before, change nothing.
    Repeated {
        /// The order the first request made or changed.
        id: OrderId,
        /// What the first request was told.
        answer: Answer,
        /// The version the first request was told.
        version: Version,
        /// The order as it is now.
        snapshot: Snapshot,
    },
    /// Nothing was stored, and nothing is known of the order that readers would not see.
    Refused {
        /// The order it was about.
        id: OrderId,
        /// Why.
        refusal: Refusal,
    },
}

impl Outcome {
    /// The order, its newest copy, and what this commit changed about it. `None` when it was
    /// refused.
    #[must_use]
    pub fn visible(&self) -> Option<(&OrderId, &Snapshot, Option<ChangeKind>)> {
        match self {
            Self::Stored { id, snapshot, change, .. } => Some((id, snapshot, Some(*change))),
            Self::Unchanged { id, snapshot }
            | Self::WasDeleted { id, snapshot }
            | Self::Repeated { id, snapshot, .. } => Some((id, snapshot, None)),
            Self::Refused { .. } => None,
        }
    }
}

/// What a request was told, as kept with its idempotency key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answer {
    /// It changed something.
    Changed(ChangeKind),
    /// It changed nothing.
    Unchanged,
    /// It came after the deletion.
    WasDeleted,
}

/// Why a valid order was not stored.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// The id is unknown, and the request only changes or deletes.
    #[error("no order has this id")]
    Unknown,
    /// The id belongs to an order of the other shape.
    #[error("the id belongs to an order of the other kind")]
    OtherKind,
    /// A new envelope lacks its owner.
    #[error("user_id is missing")]
    NoUser,
    /// A new envelope lacks its payload.
    #[error("payload is missing")]
    NoPayload,
    /// The idempotency key came with another body before.
    #[error("the idempotency key was used with another request body")]
    KeyReused,
    /// The sender may write its own orders only, and this would be another's.
    #[error("user_id or customer_id names another owner than the caller's own")]
    NotOwn,
    /// The order is not what the request expects: it is at this version, or unknown.
    #[error("the order is not in the state that the request expects")]
    Condition {
        /// Its version, if it is known.
        now: Option<Version>,
    },
    /// A rule of the database itself: a constraint, a trigger or a type of its owner's.
    #[error("the database refuses the order: {message} ({sqlstate})")]
    Database {
        /// The server's code.
        sqlstate: Arc<str>,
        /// What the server says. For the operator: it names tables, and what it says is up to the
        /// owner.
        message: Arc<str>,
    },
}

impl Refusal {
    /// Whether the order it refuses would be lost if no one kept it. An unknown order that is to be
    /// deleted would not.
    #[must_use]
    pub fn is_loss(&self) -> bool {
        *self != Self::Unknown
    }

    /// The stable word for metrics and dead letters.
    #[must_use]
    pub fn code(&self) -> &'static str {
        match self {
            Self::Unknown => "unknown",
            Self::OtherKind => "other_kind",
            Self::NoUser => "no_user",
            Self::NoPayload => "no_payload",
            Self::KeyReused => "key_reused",
            Self::NotOwn => "not_own",
            Self::Condition { .. } => "condition",
            Self::Database { .. } => "database",
        }
    }

    /// What the sender may know of it: nothing of the inside of the database.
    #[must_use]
    pub fn public(&self) -> String {
        match self {
            Self::Database { sqlstate, .. } => format!("the database refuses the order (SQLSTATE {sqlstate})"),
            other => other.to_string(),
        }
    }
}

/// Why the store did not do what it was asked. What was asked has then not happened, unless said
/// otherwise.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Busy, full or away: the same call may succeed later.
    #[error("store is unavailable")]
    Unavailable(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// Its file was taken away, so that the next start would not find what is written: removed, or
    /// replaced by another. The same call may succeed once the file is back.
    #[error("store is lost")]
    Lost(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// Another process moved the position of this source.
    #[error("position of partition {partition} was moved by another process")]
    Fenced {
        /// The partition that is no longer ours.
        partition: u32,
    },
    /// Entries, by their index, that can never be stored, of a batch that is to be stored whole or
    /// not at all.
    #[error("{} orders of the batch cannot be stored", .0.len())]
    Unstorable(Vec<(usize, Refusal)>),
    /// Not a store that this program can use, with nothing in it damaged: trying again cannot help.
    #[error("store cannot be used as it is")]
    Unfit(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// Damaged: trying again cannot help.
    #[error("store is damaged")]
    Damaged(#[source] Box<dyn std::error::Error + Send + Sync>),
}

impl StoreError {
    /// What it comes to where anyone may read it: a server, what it says and who logs in to it are
    /// not named. `None` where nothing of that is in it.
    #[must_use]
    pub fn outline(&self) -> Option<std::borrow::Cow<'static, str>> {
        super::postgres::outline(self)
    }
}

/// What stops a batch that is to be stored whole or not at all.
pub(super) fn unstorable(batch: &Batch, outcomes: &[Outcome]) -> Result<(), StoreError> {
    let lost = |(index, outcome): (usize, &Outcome)| match outcome {
        Outcome::Refused { refusal, .. } if refusal.is_loss() => Some((index, refusal.clone())),
        _ => None,
    };
    let lost: Vec<_> = outcomes.iter().enumerate().filter_map(lost).collect();
    if batch.is_atomic && !lost.is_empty() { Err(StoreError::Unstorable(lost)) } else { Ok(()) }
}
