//! The way out of a committed batch: what is to be published is recorded with it, and handed to the relay afterwards
//! from memory. What the relay has no room for stays recorded, and is published from the store later.

use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::mpsc;

use crate::id::{OrderId, Version};
use crate::record::{Contents, Parcel};
use crate::snapshot::{Change, Snapshot};

/// Committed batches that may wait for the relay. Their orders are those of the view, so they cost little.
const WAITING_MAX: usize = 64;

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
}

/// The relay's end.
pub type Batches = mpsc::Receiver<Committed>;

/// A way out for `contents`.
#[must_use]
pub fn outbox(contents: Contents) -> (Outbox, Batches) {
    let (batches, receiver) = mpsc::channel(WAITING_MAX);
    (Outbox { contents, pending: Arc::default(), batches }, receiver)
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
