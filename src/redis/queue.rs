//! What waits to be written: bounded in entries and bytes. What has no room is not written.

use std::collections::VecDeque;
use std::time::Instant;

use crate::id::OrderId;
use crate::snapshot::Snapshot;

/// Entries that may wait.
const WAITING_MAX: usize = 10_000;
/// Bytes that they may hold on to.
const WAITING_BYTES_MAX: usize = 16 << 20;
/// Entries of one request to the server, which does nothing else meanwhile.
const BATCH_MAX: usize = 100;
/// Bytes of one request, unless a single entry is larger.
const BATCH_BYTES_MAX: usize = 256 << 10;

/// One thing to write.
pub(super) enum Write {
    /// A copy of an order, and when it was known to be its newest.
    Order { id: OrderId, snapshot: Snapshot, known: Instant },
    /// What a worker said of an order.
    Result { id: OrderId, json: String },
}

impl Write {
    fn bytes(&self) -> usize {
        match self {
            Self::Order { snapshot, .. } => snapshot.resident_bytes(),
            Self::Result { json, .. } => json.len(),
        }
    }
}

/// First in, first out.
#[derive(Default)]
pub(super) struct Queue {
    waiting: VecDeque<Write>,
    bytes: usize,
}

impl Queue {
    /// Says whether there was room.
    pub(super) fn push(&mut self, write: Write) -> bool {
        let bytes = self.bytes + write.bytes();
        if self.waiting.len() >= WAITING_MAX || (bytes > WAITING_BYTES_MAX && !self.waiting.is_empty()) {
            return false;
        }
        self.bytes = bytes;
        self.waiting.push_back(write);
        true
    }

    /// The oldest ones, as many as one request may have.
    pub(super) fn take(&mut self) -> Vec<Write> {
        let mut bytes = 0;
        let fits = |write: &&Write| {
            bytes += write.bytes();
            bytes <= BATCH_BYTES_MAX
        };
        let count = self.waiting.iter().take(BATCH_MAX).take_while(fits).count();
        let batch: Vec<_> = self.waiting.drain(..count.max(1).min(self.waiting.len())).collect();
        self.bytes -= batch.iter().map(Write::bytes).sum::<usize>();
        batch
    }

    /// Forgets everything, and says how much that was.
    pub(super) fn clear(&mut self) -> usize {
        let count = self.waiting.len();
        *self = Self::default();
        count
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn result(bytes: usize) -> Write {
        Write::Result { id: OrderId::parse(b"a").unwrap(), json: "x".repeat(bytes) }
    }

    #[test]
    fn it_is_bounded_and_so_is_each_batch() {
        let mut queue = Queue::default();
        assert!(queue.take().is_empty());
        let room = (0..20_000).filter(|_| queue.push(result(10))).count();
        assert_eq!(room, WAITING_MAX);
        assert_eq!(queue.take().len(), BATCH_MAX);
        assert_eq!(queue.clear(), WAITING_MAX - BATCH_MAX);
        let room = (0..100).filter(|_| queue.push(result(1 << 20))).count();
        assert_eq!(room, WAITING_BYTES_MAX >> 20);
        assert_eq!(queue.take().len(), 1, "one that is larger than a batch goes alone");
        assert!(queue.push(result(1 << 20)));
        queue.clear();
        assert!(queue.push(result(WAITING_BYTES_MAX + 1)), "nothing is too large for an empty queue");
        assert!(!queue.push(result(1)));
        assert_eq!(queue.take().len(), 1);
        assert!(queue.take().is_empty() && queue.bytes == 0);
        queue.push(result(100 << 10));
        queue.push(result(100 << 10));
        queue.push(result(100 << 10));
        assert_eq!(queue.take().len(), 2);
    }
}
