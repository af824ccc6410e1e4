//! The newest orders as one ready buffer: kept by creation rank, made into a list off the read
//! path, swapped whole.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use arc_swap::ArcSwap;
use bytes::Bytes;
use tokio::sync::Notify;

use super::encodings::Encodings;
use crate::id::OrderId;
use crate::snapshot::{Snapshot, State};
use crate::sync::lock;

/// The newest orders, ready to be sent.
#[derive(Debug)]
pub struct List {
    /// A JSON array of flat orders, newest first.
    pub body: Bytes,
    /// What the body was made of.
    pub orders: Vec<Snapshot>,
    /// Older live orders exist; they are created before the last of `orders`.
    pub has_more: bool,
    /// Rises with every list made by this process.
    pub generation: u64,
    /// When it was made.
    pub(super) since: Instant,
    /// The body compressed.
    pub(super) encodings: Encodings,
}

impl List {
    pub(super) fn new(body: Bytes, orders: Vec<Snapshot>, has_more: bool, generation: u64) -> Self {
        Self { body, orders, has_more, generation, since: Instant::now(), encodings: Encodings::default() }
    }
}

/// The newest live orders by creation rank, a few more than the list shows.
pub(super) struct Recent {
    list_max: usize,
    /// Bytes of the list. Twice as many are kept, where these are fewer orders.
    bytes_max: usize,
    kept: Mutex<Kept>,
    generation: AtomicU64,
    dirty: Notify,
    ready: ArcSwap<List>,
}

struct Kept {
    orders: BTreeMap<u64, Snapshot>,
    /// The bytes of all of them in a list.
    bytes: usize,
    /// Every live order created at or after this rank is in `orders`. `None` until the store was
    /// asked.
    from: Option<u64>,
    /// The highest rank that was let go to keep the list short; 0 for none.
    evicted: u64,
}

impl Kept {
    /// Takes a visible copy, and lets the oldest go above `orders_max` and `bytes_max`, but for the
    /// newest one.
    fn take(&mut self, snapshot: Snapshot, orders_max: usize, bytes_max: usize) {
        let seq = snapshot.seq();
        if self.from.is_some_and(|from| seq < from) {
            return;
        }
        if snapshot.state() != State::Live {
            self.remove(seq);
            return;
        }
        self.insert(snapshot);
        while self.orders.len() > orders_max || (self.bytes > bytes_max && self.orders.len() > 1) {
            let Some(&evicted) = self.orders.keys().next() else { break };
            self.remove(evicted);
            self.evicted = self.evicted.max(evicted);
            self.from = self.from.map(|_| evicted + 1);
        }
    }

    fn insert(&mut self, snapshot: Snapshot) {
        self.bytes += listed_bytes(&snapshot);
        if let Some(before) = self.orders.insert(snapshot.seq(), snapshot) {
            self.bytes -= listed_bytes(&before);
        }
    }

    fn remove(&mut self, seq: u64) {
        if let Some(removed) = self.orders.remove(&seq) {
            self.bytes -= listed_bytes(&removed);
        }
    }
}

/// What an order takes in a list.
fn listed_bytes(snapshot: &Snapshot) -> usize {
    snapshot.flat().len() + 1
}

/// The store is asked for so many orders at once: they may be large.
const ASKED_MAX: usize = 256;

/// What the store must be asked for to keep the list whole.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shortfall {
    /// Orders created before this rank; any when `None`.
    pub before: Option<u64>,
    /// How many.
    pub limit: usize,
}

impl Recent {
    pub(super) fn new(list_max: usize, bytes_max: usize) -> Self {
        let empty = List::new(Bytes::from_static(b"[]"), Vec::new(), false, 0);
        Self {
            list_max,
            bytes_max,
            kept: Mutex::new(Kept { orders: BTreeMap::new(), bytes: 0, from: None, evicted: 0 }),
            generation: AtomicU64::new(1),
            dirty: Notify::new(),
            ready: ArcSwap::from_pointee(empty),
        }
    }

    /// Takes what is visible now of orders that were just published. `visible` is asked under the
    /// lock, so that of two publishers the later one, who sees the newer copy, has the last word.
    pub(super) fn apply<'e>(
        &self,
        ids: impl Iterator<Item = &'e OrderId>,
        visible: impl Fn(&OrderId) -> Option<Snapshot>,
    ) {
        let mut kept = lock(&self.kept);
        for snapshot in ids.filter_map(visible) {
            kept.take(snapshot, 2 * self.list_max, self.bytes_max.saturating_mul(2));
        }
        drop(kept);
        self.dirty.notify_one();
    }

    /// Removes the order of this rank, which is no longer in the view.
    pub(super) fn forget(&self, seq: u64) {
        lock(&self.kept).remove(seq);
        self.dirty.notify_one();
    }

    /// What is missing below the kept orders, if the list could be longer.
    pub(super) fn shortfall(&self) -> Option<Shortfall> {
        let kept = lock(&self.kept);
        match kept.from {
            Some(0) => None,
            Some(_) if kept.orders.len() >= self.list_max || kept.bytes >= self.bytes_max => None,
            before => Some(Shortfall { before, limit: (2 * self.list_max).min(ASKED_MAX) }),
        }
    }

    /// Takes the answer to a [`Shortfall`]. `visible` is the copy of an order that is shown now, if
    /// there is one: it may have been changed while the store was asked.
    pub(super) fn admit(
        &self,
        asked: Shortfall,
        page: Vec<(u64, Snapshot)>,
        visible: impl Fn(u64) -> Option<Snapshot>,
    ) {
        let mut kept = lock(&self.kept);
        if kept.from != asked.before {
            return; // orders were evicted meanwhile, so the list is long enough
        }
        let is_last = page.len() < asked.limit;
        let lowest = page.last().map_or(0, |(seq, _)| *seq);
        // What was let go before the store was ever asked is not kept, whatever the store said.
        // Later, letting go moves `from`, and the answer is dropped above.
        let kept_from = if asked.before.is_none() && kept.evicted > 0 { kept.evicted + 1 } else { 0 };
        kept.from = Some(if is_last { kept_from } else { lowest.max(kept_from) });
        for (seq, snapshot) in page {
            let newest = visible(seq).filter(|visible| visible.supersedes(&snapshot)).unwrap_or(snapshot);
            let is_newer = kept.orders.get(&seq).is_none_or(|kept| newest.supersedes(kept));
            if is_newer && newest.state() == State::Live {
                kept.insert(newest);
            }
        }
        drop(kept);
        self.dirty.notify_one();
    }

    /// Completes when the list no longer shows what is kept. Cancel-safe.
    pub(super) async fn changed(&self) {
        self.dirty.notified().await;
    }

    /// Makes the list again from what is kept.
    pub(super) fn refresh(&self) {
        let (orders, has_more) = {
            let kept = lock(&self.kept);
            let mut bytes = 0;
            let fits = |order: &&Snapshot| {
                let is_first = bytes == 0;
                bytes += listed_bytes(order);
                is_first || bytes <= self.bytes_max
            };
            let orders: Vec<Snapshot> =
                kept.orders.values().rev().take(self.list_max).take_while(fits).cloned().collect();
            let has_more = kept.orders.len() > orders.len() || kept.from.is_some_and(|from| from > 0);
            (orders, has_more)
        };
        let body = array(&orders);
        let generation = self.generation.fetch_add(1, Ordering::Relaxed);
        self.ready.store(Arc::new(List::new(body, orders, has_more, generation)));
    }

    pub(super) fn list(&self) -> Arc<List> {
        self.ready.load_full()
    }
}

/// `[a,b,…]` of flat orders, in one exact allocation.
#[must_use]
pub fn array(orders: &[Snapshot]) -> Bytes {
    let bytes: usize = orders.iter().map(|order| order.flat().len() + 1).sum();
    let mut body = Vec::with_capacity(bytes + 2);
    body.push(b'[');
    for (index, order) in orders.iter().enumerate() {
        if index > 0 {
            body.push(b',');
        }
        order.flat().append_to(&mut body);
    }
    body.push(b']');
    body.into()
}
