//! What the consumer says to the ingest loop: in order, as fast as that takes it.

use std::collections::VecDeque;

use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;

use crate::record::Record;

/// What the thread says.
pub(super) enum Event {
    Records(Vec<Record>),
    Assigned,
    Revoked,
}

/// Bytes that may wait for the other side.
const QUEUE_BYTES_MAX: usize = 32 << 20;

/// Said and not yet taken.
pub(super) struct Handover {
    events: Option<mpsc::Sender<Event>>,
    queue: VecDeque<Event>,
    queued_bytes: usize,
}

impl Handover {
    /// Nothing is said yet.
    pub(super) fn new(events: mpsc::Sender<Event>) -> Self {
        Self { events: Some(events), queue: VecDeque::new(), queued_bytes: 0 }
    }

    /// Says something, once the other side has room.
    pub(super) fn push(&mut self, event: Event) {
        self.queued_bytes += bytes(&event);
        self.queue.push_back(event);
    }

    /// Whether more bytes may wait.
    pub(super) fn has_room(&self) -> bool {
        self.queued_bytes < QUEUE_BYTES_MAX
    }

    /// Whether everything is taken.
    pub(super) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Hands over what the other side has room for. `is_last` says that nothing follows: the other
    /// side sees the end once it has taken everything.
    pub(super) fn flush(&mut self, is_last: bool) {
        let Some(events) = &self.events else { return };
        while let Some(event) = self.queue.pop_front() {
            let bytes = bytes(&event);
            match events.try_send(event) {
                Ok(()) | Err(TrySendError::Closed(_)) => self.queued_bytes = self.queued_bytes.saturating_sub(bytes),
                Err(TrySendError::Full(event)) => {
                    self.queue.push_front(event);
                    return;
                }
            }
        }
        if is_last {
            self.events = None;
        }
    }

    /// Takes back the records that were not taken.
    pub(super) fn drop_records(&mut self) {
        self.queue.retain(|event| !matches!(event, Event::Records(_)));
        self.queued_bytes = 0;
    }

    /// Waits until something can be handed over. Cancel-safe.
    pub(super) fn room(&self) -> impl Future<Output = ()> + use<> {
        let events = self.events.clone();
        async move {
            match events {
                Some(events) => drop(events.reserve().await),
                None => std::future::pending().await,
            }
        }
    }
}

fn bytes(event: &Event) -> usize {
    match event {
        Event::Records(records) => records
            .iter()
            .map(|record| record.payload.as_ref().map_or(0, bytes::Bytes::len) + size_of::<Record>())
            .sum(),
        Event::Assigned | Event::Revoked => 0,
    }
}
