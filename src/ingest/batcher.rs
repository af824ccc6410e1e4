//! Decides when a batch is full, and which versions of an order collapse into one. Pure: the time
//! is an argument.

use std::collections::{HashMap, HashSet};
use std::time::{Duration, Instant};

use bytes::Bytes;

use crate::id::OrderId;
use crate::order::Command;
use crate::record::{Checkpoint, Position, Record};
use crate::source::Parked;
use crate::store::Entry;

/// When a batch closes.
#[derive(Debug, Clone)]
pub struct Config {
    /// Orders in a batch. Under load a batch takes what came during the commit before it, so this
    /// only bounds how much is caught up with at once; the price of a commit is spread thinly
    /// enough at 4,000.
    pub batch_rows_max: usize,
    /// Bytes of orders in a batch.
    pub batch_bytes_max: usize,
    /// How long the first order of a batch may wait for others. 0: until the commit before it ends.
    pub linger: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self { batch_rows_max: 4000, batch_bytes_max: 16 << 20, linger: Duration::ZERO }
    }
}

/// Orders collected for one commit, and how far the source has come with them.
#[derive(Default)]
pub struct ReadyBatch {
    /// The orders, oldest first.
    pub entries: Vec<Entry>,
    /// The record each of them came in; a record may hold several.
    pub owners: Vec<usize>,
    /// The records of the orders.
    pub records: Vec<Record>,
    /// Rejected records on their way to where they are kept.
    pub rejects: Vec<Reject>,
    /// Everything up to here is in this batch or needs no storing.
    pub upto: Checkpoint,
}

/// A rejected record.
pub struct Reject {
    /// The partition it came from.
    pub partition: u32,
    /// What is held in memory until it is safe.
    pub bytes: usize,
    /// Whether it is safe.
    pub parked: Parked,
}

impl Reject {
    /// Rejects a record, which then is safe or will be.
    #[must_use]
    pub fn new(record: &Record, parked: Parked) -> Self {
        let bytes = match parked {
            Parked::Done(_) => 0,
            Parked::Pending(_) => record.payload.as_ref().map_or(0, Bytes::len),
        };
        Self { partition: record.position.partition, bytes, parked }
    }
}

impl ReadyBatch {
    /// The bytes of the orders, and of the rejected records that are not yet safe.
    fn bytes(&self) -> usize {
        let orders: usize = self.entries.iter().map(|entry| entry.order.resident_bytes()).sum();
        orders + self.rejects.iter().map(|reject| reject.bytes).sum::<usize>()
    }

    /// Takes back everything of a partition.
    pub fn drop_partition(&mut self, partition: u32) {
        let is_kept: Vec<bool> =
            self.owners.iter().map(|&owner| self.records[owner].position.partition != partition).collect();
        self.retain(|index| is_kept[index]);
        self.rejects.retain(|reject| reject.partition != partition);
        self.upto.0.remove(&partition);
    }

    /// Keeps the orders whose index `is_kept`.
    pub fn retain(&mut self, is_kept: impl Fn(usize) -> bool) {
        fn keep<T>(from: &mut Vec<T>, is_kept: impl Fn(usize) -> bool) {
            let mut index = 0;
            from.retain(|_| {
                index += 1;
                is_kept(index - 1)
            });
        }
        keep(&mut self.entries, &is_kept);
        keep(&mut self.owners, &is_kept);
    }
}

/// Collects orders until a batch is worth committing.
pub struct Batcher {
    config: Config,
    /// Two WB versions of one id become the newest of them.
    is_coalescing: bool,
    ready: ReadyBatch,
    /// Where the latest entry of an id is, if a later version may take its place.
    latest: HashMap<OrderId, usize, foldhash::fast::RandomState>,
    bytes: usize,
    /// When the oldest of the orders was received. `linger` counts from here and not from its
    /// arrival: an order that has waited in a queue would close the batch before the rest of the
    /// queue has joined it.
    since: Option<Instant>,
    has_passed: bool,
    /// Whether it has nothing to do with the batch before it, once someone has asked.
    is_apart: Option<bool>,
}

impl Batcher {
    /// An empty batch; the source has come as far as `from`.
    #[must_use]
    pub fn new(config: Config, is_coalescing: bool, from: Checkpoint) -> Self {
        let ready = ReadyBatch { upto: from, ..ReadyBatch::default() };
        Self {
            config,
            is_coalescing,
            ready,
            latest: HashMap::default(),
            bytes: 0,
            since: None,
            has_passed: false,
            is_apart: None,
        }
    }

    /// Adds a record with the orders it holds, which was received at `now`. Returns how many orders
    /// took the place of an older version.
    pub fn push(&mut self, record: Record, entries: impl IntoIterator<Item = Entry>, now: Instant) -> u64 {
        let owner = self.ready.records.len();
        let mut coalesced = 0;
        for entry in entries {
            self.bytes += entry.order.resident_bytes();
            if self.is_coalescing && self.replace(&entry, owner) {
                coalesced += 1;
                continue;
            }
            self.ready.entries.push(entry);
            self.ready.owners.push(owner);
            self.since.get_or_insert(now);
        }
        self.pass(record.position);
        self.ready.records.push(record);
        coalesced
    }

    /// Puts a newer WB version where the older one was. A deletion or an envelope, which is a part
    /// of an order, ends what may be replaced.
    fn replace(&mut self, entry: &Entry, owner: usize) -> bool {
        if !matches!(entry.order.command, Command::Wb(_)) {
            self.latest.remove(&entry.order.id);
            return false;
        }
        if let Some(&at) = self.latest.get(&entry.order.id) {
            self.ready.entries[at] = entry.clone();
            self.ready.owners[at] = owner;
            return true;
        }
        self.latest.insert(entry.order.id.clone(), self.ready.entries.len());
        false
    }

    /// Notes a record that is kept elsewhere.
    pub fn reject(&mut self, record: &Record, parked: Parked) {
        let reject = Reject::new(record, parked);
        self.bytes += reject.bytes;
        self.ready.rejects.push(reject);
        self.pass(record.position);
    }

    fn pass(&mut self, position: Position) {
        self.ready.upto.pass(position);
        self.has_passed = true;
    }

    /// The source begins, or begins again, at these positions.
    pub fn adopt(&mut self, from: &Checkpoint) {
        self.ready.upto.0.extend(&from.0);
    }

    /// Takes back everything of a partition, which another process has. Returns how many orders
    /// that was.
    pub fn drop_partition(&mut self, partition: u32) -> u64 {
        let before = self.ready.entries.len();
        self.ready.drop_partition(partition);
        let dropped = before - self.ready.entries.len();
        self.latest.clear();
        self.is_apart = None;
        self.bytes = self.ready.bytes();
        self.since = self.since.filter(|_| !self.ready.entries.is_empty());
        self.has_passed = !self.ready.entries.is_empty() || !self.ready.rejects.is_empty();
        dropped as u64
    }

    /// Whether it takes no more orders.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.ready.entries.len() + self.ready.rejects.len() >= self.config.batch_rows_max
            || self.bytes >= self.config.batch_bytes_max
    }

    /// Takes the batch if it is to be committed now. Beside one that is on its way, whose entries
    /// are `before`, only a full one is, and only where the two have nothing to do with each other.
    /// Otherwise one that is full, or that has waited long enough (`is_pressing`: has nothing to
    /// wait for) where nothing more is there to be decoded (`is_starved`).
    pub fn take_if_due(
        &mut self,
        before: Option<&[Entry]>,
        is_starved: bool,
        is_pressing: bool,
        now: Instant,
    ) -> Option<ReadyBatch> {
        let is_due = if let Some(before) = before {
            self.is_full() && self.is_apart(before)
        } else {
            let has_waited = || is_pressing || self.deadline().is_none_or(|deadline| deadline <= now);
            !self.is_empty() && (self.is_full() || (is_starved && has_waited()))
        };
        is_due.then(|| self.take())
    }

    /// Whether it has nothing to do with `others`: no order of theirs, and nothing that may be
    /// wanted back once it is on its way.
    fn is_apart(&mut self, others: &[Entry]) -> bool {
        let ready = &self.ready;
        *self.is_apart.get_or_insert_with(|| {
            let others: HashSet<&OrderId, foldhash::fast::RandomState> =
                others.iter().map(|other| &other.order.id).collect();
            let is_other = |entry: &Entry| entry.idempotency.is_none() && !others.contains(&entry.order.id);
            ready.rejects.is_empty() && ready.entries.iter().all(is_other)
        })
    }

    /// Neither orders nor positions to store.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        !self.has_passed
    }

    /// When the batch is to be committed even if nothing more comes. `None` for an empty one.
    #[must_use]
    pub fn deadline(&self) -> Option<Instant> {
        self.since.map(|since| since + self.config.linger)
    }

    /// Takes the batch and starts the next.
    fn take(&mut self) -> ReadyBatch {
        self.bytes = 0;
        self.since = None;
        self.has_passed = false;
        self.is_apart = None;
        self.latest.clear();
        let next = ReadyBatch { upto: self.ready.upto.clone(), ..ReadyBatch::default() };
        std::mem::replace(&mut self.ready, next)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::order::{Envelope, Order};

    fn entry(id: &str, bytes: usize) -> Entry {
        let order = Order::new(OrderId::parse(id.as_bytes()).unwrap(), Command::Wb(vec![b' '; bytes].into()));
        order.into()
    }

    fn other(id: &str, change: Command) -> Entry {
        let mut entry = entry(id, 0);
        entry.order.command = change;
        entry
    }

    fn at(offset: u64) -> Record {
        Record::new(Position { partition: 3, offset }, Bytes::new())
    }

    fn batcher(is_coalescing: bool) -> Batcher {
        let config = Config { batch_rows_max: 100, ..Config::default() };
        Batcher::new(config, is_coalescing, Checkpoint::default())
    }

    #[test]
    fn a_batch_closes_on_rows_bytes_or_age() {
        let config = Config { batch_rows_max: 2, batch_bytes_max: 1000, linger: Duration::from_millis(5) };
        let mut batcher = Batcher::new(config, false, Checkpoint::default());
        let now = Instant::now();
        assert_eq!((batcher.is_empty(), batcher.deadline()), (true, None));
        batcher.push(at(7), [entry("a", 10)], now);
        batcher.push(at(9), [entry("a", 10)], now + Duration::from_secs(1));
        assert!(batcher.is_full());
        assert_eq!(batcher.deadline(), Some(now + Duration::from_millis(5)), "the oldest order decides");
        let ready = batcher.take();
        assert_eq!((ready.entries.len(), ready.upto.next(3)), (2, 10));
        assert!(batcher.is_empty());
        batcher.push(at(10), [entry("a", 2000)], now);
        assert!(batcher.is_full(), "by bytes");
    }

    #[test]
    fn a_rejected_record_still_moves_the_position_and_takes_room() {
        let mut batcher = batcher(true);
        for offset in 0..100 {
            assert!(!batcher.is_full());
            batcher.reject(&at(offset), Parked::Done(Ok(())));
        }
        assert!(batcher.is_full() && !batcher.is_empty());
        let ready = batcher.take();
        assert_eq!((ready.entries.len(), ready.rejects.len(), ready.upto.next(3)), (0, 100, 100));
    }

    #[test]
    fn versions_of_one_order_collapse_to_the_newest() {
        let now = Instant::now();
        let mut batcher = batcher(true);
        assert_eq!(batcher.push(at(1), [entry("a", 1), entry("b", 1), entry("a", 2)], now), 1);
        assert_eq!(batcher.push(at(2), [entry("a", 3)], now), 1);
        // What came before a deletion or a part of an order stays before it.
        assert_eq!(batcher.push(at(3), [other("a", Command::Delete), entry("a", 4), entry("a", 5)], now), 1);
        let part = Command::Envelope(Envelope::deletion());
        assert_eq!(batcher.push(at(4), [other("b", part), entry("b", 6)], now), 0);
        let ready = batcher.take();
        let bytes: Vec<_> = ready
            .entries
            .iter()
            .map(|entry| match &entry.order.command {
                Command::Wb(body) => (entry.order.id.to_string(), body.len()),
                _ => (entry.order.id.to_string(), 0),
            })
            .collect();
        let expected = [("a", 3), ("b", 1), ("a", 0), ("a", 5), ("b", 0), ("b", 6)];
        assert_eq!(bytes, expected.map(|(id, len)| (id.to_owned(), len)));
        assert_eq!(ready.owners, [1, 0, 2, 2, 3, 3], "each belongs to the record it came in");
        // The next batch starts afresh.
        assert_eq!(batcher.push(at(5), [entry("a", 7)], now), 0);
    }

    #[test]
    fn a_source_with_waiting_senders_keeps_every_version() {
        let mut batcher = batcher(false);
        assert_eq!(batcher.push(at(1), [entry("a", 1), entry("a", 2)], Instant::now()), 0);
        assert_eq!(batcher.take().entries.len(), 2);
    }

    #[test]
    fn a_partition_that_went_takes_its_orders_with_it() {
        let mut batcher = batcher(true);
        let now = Instant::now();
        let elsewhere = Record::new(Position { partition: 1, offset: 4 }, Bytes::new());
        batcher.push(at(1), [entry("a", 1)], now);
        batcher.push(elsewhere, [entry("b", 1)], now);
        batcher.reject(&at(2), Parked::Done(Ok(())));
        batcher.drop_partition(3);
        let ready = batcher.take();
        assert_eq!((ready.entries.len(), ready.rejects.len()), (1, 0));
        assert_eq!((ready.upto.next(1), ready.upto.next(3)), (5, 0));
        assert_eq!(ready.owners, [1]);
    }

    #[test]
    fn rejected_records_take_room_until_they_are_safe_and_give_it_back() {
        let config = Config { batch_bytes_max: 1000, ..Config::default() };
        let mut batcher = Batcher::new(config, true, Checkpoint::default());
        let rubbish = |offset| Record::new(Position { partition: 3, offset }, Bytes::from(vec![b'x'; 600]));
        let soon = || Parked::Pending(Box::pin(std::future::ready(Ok(()))));
        batcher.reject(&rubbish(0), Parked::Done(Ok(())));
        batcher.reject(&rubbish(1), soon());
        assert!(!batcher.is_full());
        batcher.reject(&rubbish(2), soon());
        assert!(batcher.is_full());
        batcher.drop_partition(3);
        assert!(!batcher.is_full() && batcher.is_empty());
        batcher.push(at(7), [entry("a", 2000)], Instant::now());
        batcher.drop_partition(3);
        assert!(!batcher.is_full(), "room for the orders of other partitions");
    }
}
