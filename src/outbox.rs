//! The way out of a committed batch: what is to be published is recorded with it, and handed to the relay afterwards
//! from memory. What the relay has no room for stays recorded, and is published from the store later.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::mpsc;

use crate::id::{OrderId, Version};
use crate::record::{Contents, Parcel};
use crate::snapshot::{Change, Snapshot};

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
    pub change: Change,
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
    pub change: Change,
}

/// Where a flow hands over its committed batches. Clones share it.
#[derive(Clone)]
pub struct Outbox {
    contents: Contents,
    pending: Arc<Mutex<Vec<Ack>>>,
    batches: mpsc::Sender<Committed>,
    event_bytes_max: Arc<AtomicUsize>,
}

/// The relay's end.
pub struct Batches {
    contents: Contents,
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
    let ends = Batches { contents, receiver, event_bytes_max: Arc::clone(&event_bytes_max) };
    (Outbox { contents, pending: Arc::default(), batches, event_bytes_max }, ends)
}

impl Outbox {
    /// The same way out for other contents.
    #[must_use]
    pub fn with(&self, contents: Contents) -> Self {
        Self { contents, ..self.clone() }
    }

    /// What is to be recorded with the next batch; `None` when there is nothing to publish.
    #[must_use]
    pub fn parcel(&self) -> Option<Parcel> {
        (!self.contents.is_empty()).then(|| Parcel { ticket: fastrand::i64(1..), contents: self.contents })
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
        self.pending.lock().unwrap_or_else(PoisonError::into_inner).push(ack);
    }

    /// A batch is committed, and this is what it changed.
    pub fn hand_over(&self, parcel: Parcel, changes: Vec<Changed>) {
        let acks = std::mem::take(&mut *self.pending.lock().unwrap_or_else(PoisonError::into_inner));
        // No room: it is recorded, and published from the store once it is old enough.
        let _ = self.batches.try_send(Committed { parcel, changes, acks });
    }
}
