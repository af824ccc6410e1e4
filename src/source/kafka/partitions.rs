//! The states of this member of the group and of its partitions.

use std::time::Instant;

use crate::kafka::offset_look::OffsetLook;
use crate::record::Checkpoint;

/// What this member has of the topic.
///
/// It begins as `Unassigned`. An assignment by the group makes it `Spare` where other members have all partitions, and
/// `Assigned` otherwise, with all partitions pending. These are offered to the other side once it is known which topic
/// they are of, and again when that turns out to be another one. The other side answers with their stored positions;
/// once the brokers have said how far the partitions reach, they are handed over and pending no longer. A revocation
/// by the group leads back to `Unassigned` from anywhere. Meanwhile what was received becomes durable: [`Releasing`].
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Reading {
    Unassigned,
    Spare,
    Assigned {
        /// Not started yet.
        pending: Vec<u32>,
        /// Not offered yet.
        is_offer_due: bool,
    },
}

impl Reading {
    /// Partitions that are not started yet.
    pub(super) fn pending(&self) -> &[u32] {
        match self {
            Self::Assigned { pending, .. } => pending,
            Self::Unassigned | Self::Spare => &[],
        }
    }
}

/// Partitions are being given back, and none is started. Begins when the group revokes them, when the topic is another
/// one or does not reach where it was read, and when the consumer is stalled. Ends when the other side says that what
/// was received of them is durable, or at `until`.
#[derive(Debug)]
pub(super) struct Releasing {
    pub(super) until: Instant,
    /// Partitions that begin again at their stored positions afterwards.
    pub(super) again: Vec<u32>,
}

/// How far the thread is: it hands nothing over once it is told to stop, and ends once it is told to leave the group.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    Running,
    Stopping,
    Leaving,
}

/// A partition that is handed over.
#[derive(Debug, Clone, Copy)]
pub(super) struct Active {
    /// The next offset to hand over.
    pub(super) next: u64,
    /// The next offset that is not yet durable.
    pub(super) durable: u64,
    /// Where the partition ends, as far as known.
    pub(super) end: u64,
    /// Its position was moved by another process: nothing is handed over until it is known again.
    pub(super) is_held: bool,
    /// Up to here there is no further message to hand over, as far as known.
    pub(super) reached: u64,
}

impl Active {
    /// Up to where everything is dealt with.
    pub(super) fn done(&self) -> u64 {
        if self.durable >= self.next { self.durable.max(self.reached) } else { self.durable }
    }
}

/// Partitions that begin at these positions once it is known where they start and end.
pub(super) struct Starting {
    pub(super) partitions: Vec<u32>,
    pub(super) from: Checkpoint,
    /// Asked after the positions were read: where they are beyond the end, the topic has lost
    /// messages.
    pub(super) look: OffsetLook,
}

/// Partitions whose stored positions the topic does not reach.
#[derive(Debug)]
pub(super) struct Stopped {
    pub(super) partitions: Vec<u32>,
    pub(super) reason: String,
    /// When it is looked at again: the positions or the topic may have been put right.
    pub(super) due: Instant,
}

/// What the brokers refuse, by what takes it back.
#[derive(Debug, Default)]
pub(super) struct Refused {
    /// Until any of them answers.
    pub(super) connection: Option<String>,
    /// Until the topic may be read.
    pub(super) topic: Option<String>,
    /// Until partitions are assigned.
    pub(super) group: Option<String>,
}

impl Refused {
    pub(super) fn reason(&self) -> Option<&str> {
        self.connection.as_deref().or(self.topic.as_deref()).or(self.group.as_deref())
    }
}
