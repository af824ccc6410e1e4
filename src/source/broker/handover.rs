//! What the thread of a consumer says to the ingest loop: in order, as fast as that takes it.

use std::collections::VecDeque;

use bytes::Bytes;
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;

use crate::record::Record;

/// Records handed over at once.
pub(in crate::source) const CHUNK_ROWS: usize = 256;
pub(in crate::source) const CHUNK_BYTES: usize = 1 << 20;
/// Bytes that may wait for the other side.
const QUEUE_BYTES_MAX: usize = 32 << 20;

/// What the thread says.
pub(in crate::source) enum Event {
    Records(Vec<Record>),
    Assigned(u32),
    Revoked(u32),
}

/// Said and not yet taken.
pub(in crate::source) struct Handover {
    events: Option<mpsc::Sender<Event>>,
    queue: VecDeque<Event>,
    queued_bytes: usize,
}

impl Handover {
    /// Nothing is said yet.
    pub(in crate::source) fn new(events: mpsc::Sender<Event>) -> Self {
        Self { events: Some(events), queue: VecDeque::new(), queued_bytes: 0 }
    }

    /// Says something, once the other side has room.
    pub(in crate::source) fn push(&mut self, event: Event) {
        self.queued_bytes += bytes(&event);
        self.queue.push_back(event);
    }

    /// Whether more bytes may wait.
    pub(in crate::source) fn has_room(&self) -> bool {
        self.queued_bytes < QUEUE_BYTES_MAX
    }

    /// Whether everything is taken.
    pub(in crate::source) fn is_empty(&self) -> bool {
        self.queue.is_empty()
    }

    /// Hands over what the other side has room for. `is_last` says that nothing follows: the other
    /// side sees the end once it has taken everything.
    pub(in crate::source) fn flush(&mut self, is_last: bool) {
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
    pub(in crate::source) fn drop_records(&mut self) {
        self.queue.retain(|event| !matches!(event, Event::Records(_)));
        self.queued_bytes = 0;
    }

    /// Takes back that a partition is assigned, where that was not taken.
    pub(in crate::source) fn drop_assigned(&mut self) {
        self.queue.retain(|event| !matches!(event, Event::Assigned(_)));
    }

    /// Waits until something can be handed over. Cancel-safe.
    pub(in crate::source) fn room(&self) -> impl Future<Output = ()> + use<> {
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
        Event::Records(records) => {
            records.iter().map(|record| record.payload.as_ref().map_or(0, Bytes::len) + size_of::<Record>()).sum()
        }
        Event::Assigned(_) | Event::Revoked(_) => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Position;

    fn records(bytes: usize) -> Event {
        let payload = Bytes::from(vec![b'x'; bytes]);
        Event::Records(vec![Record::new(Position { partition: 1, offset: 1 }, payload)])
    }

    #[tokio::test]
    async fn events_are_taken_in_order_and_the_end_is_seen_after_the_last() {
        let (sender, mut events) = mpsc::channel(1);
        let mut handover = Handover::new(sender);
        handover.push(Event::Assigned(1));
        handover.push(records(QUEUE_BYTES_MAX));
        handover.push(Event::Revoked(1));
        handover.flush(true);
        assert!(!handover.is_empty() && !handover.has_room(), "there was room for one event");
        assert!(matches!(events.recv().await, Some(Event::Assigned(1))));
        handover.room().await;
        handover.flush(true);
        assert!(handover.has_room(), "the records are the other side's");
        assert!(matches!(events.recv().await, Some(Event::Records(_))));
        handover.flush(true);
        assert!(handover.is_empty());
        assert!(matches!(events.recv().await, Some(Event::Revoked(1))));
        assert!(events.recv().await.is_none());
    }

    #[test]
    fn what_was_not_taken_can_be_taken_back() {
        let (sender, mut events) = mpsc::channel(4);
        let mut handover = Handover::new(sender);
        for event in [Event::Assigned(1), records(QUEUE_BYTES_MAX), Event::Revoked(1)] {
            handover.push(event);
        }
        handover.drop_records();
        assert!(handover.has_room());
        handover.drop_assigned();
        handover.flush(false);
        assert!(matches!(events.try_recv(), Ok(Event::Revoked(1))));
        assert!(matches!(events.try_recv(), Err(mpsc::error::TryRecvError::Empty)));
    }
}
