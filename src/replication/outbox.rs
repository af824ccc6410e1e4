//! The way out of a committed batch: what is to be published is recorded with it, and handed to the relay afterwards
//! from memory. What the relay has no room for stays recorded, and is published from the store later.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use tokio::sync::mpsc;

use crate::id::{OrderId, Version};
use crate::record::{Contents, Parcel};
use crate::snapshot::{ChangeKind, Snapshot};
use crate::sync::lock;

/// Committed batches that may wait for the relay. Their orders are those of the view, so they cost little.
const WAITING_MAX: usize = 64;

/// What an event has more than the payload of its order: ids, a time, headers, and what Kafka adds.
const EVENT_ROOM_BYTES: usize = 2 << 10;

/// A batch that is committed and to be published.
pub struct Committed {
    /// What is to be published, and what it is recorded under.
    pub parcel: Parcel,
    /// What was changed, oldest first.
    pub changes: Vec<Changed>,
    /// What was worked on.
    pub acks: Vec<Ack>,
}

/// One committed change.
pub struct Changed {
    /// The order.
    pub id: OrderId,
    /// Its new copy.
    pub snapshot: Snapshot,
    /// What kind of change it was.
    pub change: ChangeKind,
}

/// One order that was worked on.
#[derive(Debug, Clone)]
pub struct Ack {
    /// The order.
    pub id: OrderId,
    /// The version that was worked on, where its event said so.
    pub version: Option<Version>,
    /// The version that is stored now.
    pub now: Option<Version>,
    /// What the order's writer did.
    pub change: ChangeKind,
    /// The order as it is now, where it is at hand.
    pub snapshot: Option<Snapshot>,
}

/// What is to be recorded with a batch. To be kept until what the batch changes is visible, or
/// never will be.
pub struct ToPublish {
    /// What is recorded; `None` when there is nothing to publish.
    pub parcel: Option<Parcel>,
    _untold: Option<Arc<()>>,
}

/// Whether snapshots are published now.
struct Snapshots {
    are_on: bool,
    /// A clone is held for each batch on its way that was begun while they were not.
    untold: Arc<()>,
}

/// Where a flow hands over its committed batches. Clones share it.
#[derive(Clone)]
pub struct Outbox {
    contents: Contents,
    snapshots: Arc<Mutex<Snapshots>>,
    pending: Arc<Mutex<Vec<Ack>>>,
    batches: mpsc::Sender<Committed>,
    event_bytes_max: Arc<AtomicUsize>,
}

/// The relay's end.
pub struct Batches {
    contents: Contents,
    snapshots: Arc<Mutex<Snapshots>>,
    receiver: mpsc::Receiver<Committed>,
    event_bytes_max: Arc<AtomicUsize>,
}

impl Batches {
    /// The next batch; `None` when there will be none any more. Cancel-safe.
    pub async fn recv(&mut self) -> Option<Committed> {
        self.receiver.recv().await
    }

    /// All that may be handed over.
    #[must_use]
    pub fn contents(&self) -> Contents {
        self.contents
    }

    /// Whether the snapshots of batches that begin now are published.
    #[must_use]
    pub fn snapshots_are_on(&self) -> bool {
        lock(&self.snapshots).are_on
    }

    /// Where to say how many bytes an event may have.
    #[must_use]
    pub fn event_bytes_max(&self) -> Arc<AtomicUsize> {
        Arc::clone(&self.event_bytes_max)
    }
}

/// A way out for `contents`, or for a part of it: see [`Outbox::with`].
#[must_use]
pub fn outbox(contents: Contents) -> (Outbox, Batches) {
    let (batches, receiver) = mpsc::channel(WAITING_MAX);
    let event_bytes_max = Arc::new(AtomicUsize::new(usize::MAX));
    let snapshots = Arc::new(Mutex::new(Snapshots { are_on: contents.snapshots, untold: Arc::default() }));
    let (told, bytes_max) = (Arc::clone(&snapshots), Arc::clone(&event_bytes_max));
    let ends = Batches { contents, snapshots: told, receiver, event_bytes_max: bytes_max };
    (Outbox { contents, snapshots, pending: Arc::default(), batches, event_bytes_max }, ends)
}

impl Outbox {
    /// The same way out for other contents.
    #[must_use]
    pub fn with(&self, contents: Contents) -> Self {
        Self { contents, ..self.clone() }
    }

    /// What is to be recorded with the next batch. `may_have_events` says whether it may change an
    /// envelope order, which alone becomes an event.
    #[must_use]
    pub fn parcel(&self, may_have_events: bool) -> ToPublish {
        let mut contents = self.contents;
        let mut untold = None;
        contents.events &= may_have_events;
        if contents.snapshots {
            let snapshots = lock(&self.snapshots);
            contents.snapshots = snapshots.are_on;
            untold = (!snapshots.are_on).then(|| Arc::clone(&snapshots.untold));
        }
        let parcel = (!contents.is_empty()).then(|| Parcel { ticket: fastrand::i64(1..), contents });
        ToPublish { parcel, _untold: untold }
    }

    /// Has the snapshots of batches that begin from now on published, or not, where they are among
    /// the contents. What is recorded already is published in any case.
    pub fn publish_snapshots(&self, are_on: bool) {
        lock(&self.snapshots).are_on = are_on;
    }

    /// Whether snapshots are published of every batch that can still become visible.
    #[must_use]
    pub fn tells_all(&self) -> bool {
        let snapshots = lock(&self.snapshots);
        snapshots.are_on && Arc::strong_count(&snapshots.untold) == 1
    }

    /// How many bytes the payload of an envelope may have whose event is to get to a worker. What is larger must not be
    /// stored: no worker would ever see it.
    #[must_use]
    pub fn payload_bytes_max(&self) -> usize {
        if !self.contents.events {
            return usize::MAX;
        }
        self.event_bytes_max.load(Ordering::Relaxed).saturating_sub(EVENT_ROOM_BYTES)
    }

    /// Notes that an order was worked on. It is acknowledged with the batch that is handed over next.
    pub fn acknowledge(&self, ack: Ack) {
        lock(&self.pending).push(ack);
    }

    /// A batch is committed, and this is what it changed.
    pub fn hand_over(&self, parcel: Parcel, changes: Vec<Changed>) {
        let acks = std::mem::take(&mut *lock(&self.pending));
        // No room: it is recorded, and published from the store once it is old enough.
        let _ = self.batches.try_send(Committed { parcel, changes, acks });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALL: Contents = Contents { snapshots: true, events: true, acks: false };

    #[test]
    fn what_nothing_follows_is_not_recorded_and_what_began_before_is_waited_for() {
        let (http, _batches) = outbox(ALL);
        let other = http.with(Contents { events: false, ..ALL });
        assert!(other.tells_all());
        assert_eq!(other.parcel(true).parcel.unwrap().contents, Contents { events: false, ..ALL });
        http.publish_snapshots(false);
        assert!(other.parcel(true).parcel.is_none(), "nothing is left to publish");
        assert!(http.parcel(false).parcel.is_none(), "no envelope, no event");
        let begun = http.parcel(true);
        assert_eq!(begun.parcel.unwrap().contents, Contents { snapshots: false, ..ALL });
        http.publish_snapshots(true);
        assert!(!other.tells_all(), "a batch without snapshots is on its way");
        drop(begun);
        assert!(other.tells_all());
        assert!(other.parcel(false).parcel.is_some());
    }
}
