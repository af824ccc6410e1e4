//! Decides when a batch is full. Pure: the time is an argument.

use std::time::{Duration, Instant};

use crate::record::{Checkpoint, Position};
use crate::store::Entry;

/// When a batch closes.
#[derive(Debug, Clone)]
pub struct Config {
    /// Orders in a batch. The store is within a few percent of its best at 1,000.
    pub batch_rows_max: usize,
    /// Bytes of orders in a batch.
    pub batch_bytes_max: usize,
    /// How long the first order of a batch may wait for company. 0: until the commit before it ends.
    pub linger: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self { batch_rows_max: 1000, batch_bytes_max: 16 << 20, linger: Duration::ZERO }
    }
}

/// Orders collected for one commit, and how far the source has come with them.
#[derive(Debug, Default)]
pub struct Filled {
    /// The orders, oldest first.
    pub entries: Vec<Entry>,
    /// Where each of them stood.
    pub positions: Vec<Position>,
    /// When the first and the others arrived.
    pub arrived: Vec<Instant>,
    /// Everything up to here is in this batch or needs no storing.
    pub upto: Checkpoint,
}

/// Collects orders until a batch is worth committing.
#[derive(Debug)]
pub struct Batcher {
    config: Config,
    filled: Filled,
    bytes: usize,
    has_passed: bool,
}

impl Batcher {
    /// An empty batch; the source has come as far as `from`.
    #[must_use]
    pub fn new(config: Config, from: Checkpoint) -> Self {
        Self { config, filled: Filled { upto: from, ..Filled::default() }, bytes: 0, has_passed: false }
    }

    /// Adds an order that arrived at `now`.
    pub fn push(&mut self, entry: Entry, position: Position, now: Instant) {
        self.bytes += entry.order.resident_bytes();
        self.filled.entries.push(entry);
        self.filled.positions.push(position);
        self.filled.arrived.push(now);
        self.pass(position);
    }

    /// Notes a position that needs no storing.
    pub fn pass(&mut self, position: Position) {
        self.filled.upto.pass(position);
        self.has_passed = true;
    }

    /// Takes no more.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.filled.entries.len() >= self.config.batch_rows_max || self.bytes >= self.config.batch_bytes_max
    }

    /// Neither orders nor positions to store.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        !self.has_passed
    }

    /// When the batch is to be committed even if nothing more comes. `None` for an empty one.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        self.filled.arrived.first().map(|first| *first + self.config.linger)
    }

    /// Takes the batch and starts the next.
    pub fn take(&mut self) -> Filled {
        self.bytes = 0;
        self.has_passed = false;
        let next = Filled { upto: self.filled.upto.clone(), ..Filled::default() };
        std::mem::replace(&mut self.filled, next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::OrderId;
    use crate::order::{Change, Order};

    fn entry(bytes: usize) -> Entry {
        let order = Order { id: OrderId::parse(b"a").unwrap(), change: Change::Wb(vec![b' '; bytes].into()) };
        Entry { order, must_exist: false, idempotency: None, is_new: false }
    }

    fn at(offset: u64) -> Position {
        Position { partition: 3, offset }
    }

    #[test]
    fn a_batch_closes_on_rows_bytes_or_age() {
        let config = Config { batch_rows_max: 2, batch_bytes_max: 1000, linger: Duration::from_millis(5) };
        let mut batcher = Batcher::new(config, Checkpoint::default());
        let now = Instant::now();
        assert_eq!((batcher.is_empty(), batcher.deadline()), (true, None));
        batcher.push(entry(10), at(7), now);
        batcher.push(entry(10), at(9), now + Duration::from_secs(1));
        assert!(batcher.is_full());
        assert_eq!(batcher.deadline(), Some(now + Duration::from_millis(5)), "the oldest order decides");
        let filled = batcher.take();
        assert_eq!((filled.entries.len(), filled.upto.next(3)), (2, 10));
        assert!(batcher.is_empty());
        batcher.push(entry(2000), at(10), now);
        assert!(batcher.is_full(), "by bytes");
    }

    #[test]
    fn a_rejected_record_still_moves_the_position() {
        let mut batcher = Batcher::new(Config::default(), Checkpoint::default());
        batcher.pass(at(4));
        assert!(!batcher.is_empty());
        let filled = batcher.take();
        assert_eq!((filled.entries.len(), filled.upto.next(3)), (0, 5));
    }
}
