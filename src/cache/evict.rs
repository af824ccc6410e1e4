//! A budget for the view: which orders leave when there is no room for all, and what must not leave
//! just now.
//!
//! The order of leaving is SIEVE (Zhang et al., "SIEVE is Simpler than LRU", NSDI 2024): a queue in
//! order of arrival, a bit that a reader sets, and a hand that walks from the oldest end to the
//! newest and takes what was not read since it last came by. A hit writes that one bit and nothing
//! else.
//!
//! What left can be brought back by someone who read the store before it was changed, and then it
//! would be older than what readers were shown. Three rules keep that from happening:
//!
//! 1. Anyone who is about to read an id from the store, or to commit a change of it, pins it first
//!    and unpins it once the copy is visible. What is pinned does not leave, so the newest copy is
//!    there to win.
//! 2. Anyone who reads many ids that are not known beforehand holds everything in place for so
//!    long.
//! 3. What others tell of their changes may be late. It only replaces a copy that is there; while
//!    the id is pinned it is kept, and applied once the pin is gone.

use std::collections::HashMap;
use std::ops::{Index, IndexMut};
use std::sync::{Mutex, MutexGuard};
use std::time::Duration;

use foldhash::fast::RandomState;
use tokio::time::Instant;

use crate::id::OrderId;
use crate::snapshot::Snapshot;
use crate::sync::lock;

/// No node.
const NONE: u32 = u32::MAX;
/// Expired orders that leave in one step. It takes a tenth of a millisecond, during which no other
/// order can enter, leave or be pinned.
const EXPIRED_MAX: usize = 256;
/// Orders that were read and that the hand skips before it takes one all the same. This bounds the
/// cost of one insertion.
const SKIPS_MAX: usize = 64;

/// What an entry takes beside its snapshot: its key and its slots in the map and in the queue.
const ENTRY_BYTES: u64 = 150;

/// What so many entries take with snapshots of so many bytes, and a little for the allocator's
/// pages that are not full. Held against resident bytes under churn by
/// `cargo bench --bench eviction`.
pub(super) const fn cost(entries: u64, bytes: u64) -> u64 {
    bytes + bytes / 16 + entries * ENTRY_BYTES
}

/// The queue of what may leave, behind its lock, and what never changes.
pub(super) struct Evict {
    ttl: Option<Duration>,
    began: Instant,
    inner: Mutex<Inner>,
}

#[derive(Default)]
struct Inner {
    queue: Queue,
    pins: HashMap<OrderId, usize, RandomState>,
    holds: usize,
    /// Changes that other instances reported of pinned orders that are not in the view.
    heard: HashMap<OrderId, Snapshot, RandomState>,
}

/// The answer to the hand about an order that it may take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Verdict {
    /// It was read since the hand last came by.
    WasRead,
    /// It is gone now.
    Taken,
}

impl Evict {
    pub(super) fn new(ttl: Option<Duration>) -> Self {
        Self { ttl, began: Instant::now(), inner: Mutex::default() }
    }

    /// Puts ids that just entered the map into the queue: at the end that leaves last, or at the
    /// end that leaves first.
    pub(super) fn entered(&self, ids: impl IntoIterator<Item = OrderId>, leaves_first: bool) {
        let at = self.seconds();
        let mut inner = self.lock();
        for id in ids {
            inner.queue.push(id, at, leaves_first);
        }
    }

    /// Lets orders go whose time is up, some of them, then others for as long as `is_over`. `take`
    /// is told whether time is up, in which case having been read does not help. Says whether there
    /// may be more whose time is up.
    pub(super) fn shrink(&self, is_over: impl Fn() -> bool, take: impl Fn(&OrderId, bool) -> Verdict) -> bool {
        let expired = self.ttl.and_then(|ttl| self.seconds().checked_sub(seconds(ttl)));
        let mut inner = self.lock();
        if inner.holds > 0 {
            return false;
        }
        let Inner { queue, pins, .. } = &mut *inner;
        let mut gone = 0;
        if let Some(expired) = expired {
            let mut at = queue.tail;
            while at != NONE && queue.nodes[at].entered <= expired && gone < EXPIRED_MAX {
                let next = queue.nodes[at].newer;
                if !pins.contains_key(&queue.nodes[at].id) {
                    take(&queue.nodes[at].id, true);
                    queue.remove(at);
                    gone += 1;
                }
                at = next;
            }
        }
        let mut pinned = 0;
        let mut skips = 0;
        while is_over() && pinned <= pins.len() {
            let Some(at) = queue.hand() else { break };
            let id = &queue.nodes[at].id;
            if pins.contains_key(id) {
                pinned += 1;
            } else if take(id, skips >= SKIPS_MAX) == Verdict::Taken {
                skips = 0;
                queue.remove(at);
                continue;
            } else {
                skips += 1;
            }
            queue.hand = queue.nodes[at].newer;
        }
        gone == EXPIRED_MAX
    }

    pub(super) fn pin(&self, ids: &[OrderId]) {
        let mut inner = self.lock();
        for id in ids {
            *inner.pins.entry(id.clone()).or_default() += 1;
        }
    }

    /// Ends a pin, and returns the changes of these ids that other instances reported meanwhile.
    pub(super) fn unpin(&self, ids: &[OrderId]) -> Vec<(OrderId, Snapshot)> {
        let mut inner = self.lock();
        for id in ids {
            if let Some(count) = inner.pins.get_mut(id) {
                *count -= 1;
                if *count == 0 {
                    inner.pins.remove(id);
                }
            }
        }
        inner.heard_of_free()
    }

    pub(super) fn hold(&self) {
        self.lock().holds += 1;
    }

    pub(super) fn release(&self) -> Vec<(OrderId, Snapshot)> {
        let mut inner = self.lock();
        inner.holds -= 1;
        inner.heard_of_free()
    }

    /// Keeps a change that another instance reported of an order that is not in the view, if the
    /// order is about to be loaded. `apply` is tried first, under the lock that a pin takes.
    pub(super) fn apply_remote(&self, id: &OrderId, snapshot: &Snapshot, apply: impl FnOnce() -> bool) {
        let mut inner = self.lock();
        if apply() || (inner.holds == 0 && !inner.pins.contains_key(id)) {
            return;
        }
        let heard = inner.heard.entry(id.clone()).or_insert_with(|| snapshot.clone());
        if snapshot.supersedes(heard) {
            *heard = snapshot.clone();
        }
    }

    fn seconds(&self) -> u32 {
        seconds(self.began.elapsed())
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        lock(&self.inner)
    }
}

fn seconds(time: Duration) -> u32 {
    u32::try_from(time.as_secs()).unwrap_or(u32::MAX)
}

impl Inner {
    fn heard_of_free(&mut self) -> Vec<(OrderId, Snapshot)> {
        if self.heard.is_empty() || self.holds > 0 {
            return Vec::new();
        }
        let pins = &self.pins;
        self.heard.extract_if(|id, _| !pins.contains_key(id)).collect()
    }
}

/// A doubly linked list whose nodes have numbers.
struct Queue {
    nodes: Nodes,
    /// Free nodes, linked by `newer`.
    free: u32,
    /// The newest.
    head: u32,
    /// The oldest.
    tail: u32,
    /// Where the hand stands; at the oldest when it is nowhere.
    hand: u32,
}

struct Node {
    id: OrderId,
    newer: u32,
    older: u32,
    /// Seconds since the queue was made.
    entered: u32,
}

/// Nodes in pieces: to move all of them to a larger place would take as long as everyone else
/// waits.
#[derive(Default)]
struct Nodes(Vec<Vec<Node>>);

/// Nodes in each piece, some 160 KB.
const PIECE: usize = 4096;

impl Nodes {
    /// Returns the number of the new node.
    fn push(&mut self, node: Node) -> u32 {
        if self.0.last().is_none_or(|piece| piece.len() == PIECE) {
            self.0.push(Vec::with_capacity(PIECE));
        }
        let before = (self.0.len() - 1) * PIECE;
        let piece = self.0.last_mut().expect("just made");
        piece.push(node);
        u32::try_from(before + piece.len() - 1).expect("fewer orders than 2^32")
    }
}

impl Index<u32> for Nodes {
    type Output = Node;

    fn index(&self, at: u32) -> &Node {
        &self.0[at as usize / PIECE][at as usize % PIECE]
    }
}

impl IndexMut<u32> for Nodes {
    fn index_mut(&mut self, at: u32) -> &mut Node {
        &mut self.0[at as usize / PIECE][at as usize % PIECE]
    }
}

impl Default for Queue {
    fn default() -> Self {
        Self { nodes: Nodes::default(), free: NONE, head: NONE, tail: NONE, hand: NONE }
    }
}

impl Queue {
    fn push(&mut self, id: OrderId, entered: u32, leaves_first: bool) {
        let (newer, older) = if leaves_first { (self.tail, NONE) } else { (NONE, self.head) };
        let node = Node { id, newer, older, entered };
        let at = if self.free == NONE {
            self.nodes.push(node)
        } else {
            let at = self.free;
            self.free = std::mem::replace(&mut self.nodes[at], node).newer;
            at
        };
        self.link(newer, older, at);
    }

    /// What the hand points at.
    fn hand(&self) -> Option<u32> {
        let at = if self.hand == NONE { self.tail } else { self.hand };
        (at != NONE).then_some(at)
    }

    /// Takes a node out. The hand moves on if it stood there.
    fn remove(&mut self, at: u32) {
        let Node { newer, older, .. } = self.nodes[at];
        if self.hand() == Some(at) {
            self.hand = newer;
        }
        match newer {
            NONE => self.head = older,
            newer => self.nodes[newer].older = older,
        }
        match older {
            NONE => self.tail = newer,
            older => self.nodes[older].newer = newer,
        }
        self.nodes[at].newer = self.free;
        self.free = at;
    }

    fn link(&mut self, newer: u32, older: u32, at: u32) {
        match newer {
            NONE => self.head = at,
            newer => self.nodes[newer].older = at,
        }
        match older {
            NONE => self.tail = at,
            older => self.nodes[older].newer = at,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::RefCell;
    use std::collections::{BTreeSet, HashSet};

    fn id(n: usize) -> OrderId {
        OrderId::parse(format!("o{n}").as_bytes()).unwrap()
    }

    /// Orders in a queue, and those that were read.
    struct Orders {
        evict: Evict,
        read: RefCell<HashSet<OrderId>>,
        left: RefCell<Vec<OrderId>>,
    }

    impl Orders {
        fn new(count: usize) -> Self {
            let evict = Evict::new(None);
            evict.entered((0..count).map(id), false);
            Self { evict, read: RefCell::default(), left: RefCell::default() }
        }

        /// Lets `count` go, or as many as can.
        fn shrink(&self, count: usize) -> Vec<OrderId> {
            self.left.borrow_mut().clear();
            self.evict.shrink(
                || self.left.borrow().len() < count,
                |id, must| {
                    if self.read.borrow_mut().remove(id) && !must {
                        return Verdict::WasRead;
                    }
                    self.left.borrow_mut().push(id.clone());
                    Verdict::Taken
                },
            );
            self.left.take()
        }
    }

    #[test]
    fn what_was_read_stays_for_a_lap_and_the_oldest_leaves_first() {
        let orders = Orders::new(5);
        orders.read.borrow_mut().extend([id(0), id(2)]);
        assert_eq!(orders.shrink(2), [id(1), id(3)]);
        // The hand goes on where it stood, then begins again at the oldest.
        orders.evict.entered([id(5)], false);
        assert_eq!(orders.shrink(2), [id(4), id(5)]);
        assert_eq!(orders.shrink(2), [id(0), id(2)]);
        assert_eq!(orders.shrink(1), []);
        orders.evict.entered([id(6), id(7)], false);
        orders.evict.entered([id(8)], true);
        assert_eq!(orders.shrink(3), [id(8), id(6), id(7)]);
    }

    #[test]
    fn pins_and_holds_keep_orders_in_place() {
        let orders = Orders::new(3);
        orders.evict.pin(&[id(0), id(9)]);
        orders.evict.pin(&[id(0)]);
        assert_eq!(orders.shrink(3), [id(1), id(2)]);
        orders.evict.unpin(&[id(0)]);
        assert_eq!(orders.shrink(1), [], "pinned twice");
        orders.evict.hold();
        orders.evict.unpin(&[id(0)]);
        assert_eq!(orders.shrink(1), []);
        orders.evict.release();
        assert_eq!(orders.shrink(1), [id(0)]);
    }

    #[test]
    fn when_everything_is_read_all_the_time_something_leaves_all_the_same() {
        let orders = Orders::new(1000);
        let looked = RefCell::new(0);
        let left = RefCell::new(0);
        orders.evict.shrink(
            || *left.borrow() < 3,
            |_, must| {
                *looked.borrow_mut() += 1;
                *left.borrow_mut() += usize::from(must);
                if must { Verdict::Taken } else { Verdict::WasRead }
            },
        );
        assert_eq!(*looked.borrow(), 3 * (SKIPS_MAX + 1));
    }

    #[test]
    fn what_is_heard_of_an_order_waits_for_anyone_who_is_about_to_bring_it_in() {
        let copy = |version| {
            Snapshot::new(version, 1, crate::snapshot::Kind::Wb, crate::snapshot::State::Live, b"{}", &mut Vec::new())
        };
        let evict = Evict::new(None);
        evict.apply_remote(&id(1), &copy(3), || false);
        evict.pin(&[id(1)]);
        for version in [2, 4, 3] {
            evict.apply_remote(&id(1), &copy(version), || false);
        }
        evict.apply_remote(&id(2), &copy(1), || false);
        evict.pin(&[id(1)]);
        assert!(evict.unpin(&[id(1)]).is_empty());
        let heard = evict.unpin(&[id(1)]);
        assert_eq!(heard.iter().map(|(id, copy)| (id.clone(), copy.version())).collect::<Vec<_>>(), [(id(1), 4)]);
    }

    #[test]
    fn what_is_heard_is_tried_while_no_pin_can_begin_or_end() {
        // A reader that pinned the order, found an older copy in the store and unpinned it between
        // the try and the note would bring that copy in, and nothing would replace it.
        let evict = Evict::new(None);
        let copy = Snapshot::new(1, 1, crate::snapshot::Kind::Wb, crate::snapshot::State::Live, b"{}", &mut Vec::new());
        let mut was_tried = false;
        evict.apply_remote(&id(1), &copy, || {
            was_tried = true;
            assert!(evict.inner.try_lock().is_err(), "a pin could begin now");
            false
        });
        assert!(was_tried);
    }

    #[tokio::test(start_paused = true)]
    async fn what_has_been_there_too_long_leaves_whether_it_was_read_or_not() {
        let evict = Evict::new(Some(Duration::from_mins(1)));
        let left = RefCell::new(BTreeSet::new());
        let shrink = || {
            left.borrow_mut().clear();
            evict.shrink(
                || false,
                |id, must| {
                    assert!(must);
                    left.borrow_mut().insert(id.clone());
                    Verdict::Taken
                },
            );
            left.take().into_iter().collect::<Vec<_>>()
        };
        evict.entered([id(0), id(1)], false);
        tokio::time::advance(Duration::from_secs(30)).await;
        evict.entered([id(2)], false);
        assert_eq!(shrink(), []);
        evict.pin(&[id(1)]);
        tokio::time::advance(Duration::from_secs(30)).await;
        assert_eq!(shrink(), [id(0)]);
        evict.unpin(&[id(1)]);
        assert_eq!(shrink(), [id(1)]);
        tokio::time::advance(Duration::from_secs(30)).await;
        assert_eq!(shrink(), [id(2)]);
    }

    #[tokio::test(start_paused = true)]
    async fn many_whose_time_is_up_leave_in_steps_the_oldest_first() {
        let count = 2 * EXPIRED_MAX + PIECE;
        let evict = Evict::new(Some(Duration::from_mins(1)));
        evict.entered((0..count).map(id), false);
        tokio::time::advance(Duration::from_mins(1)).await;
        let left = RefCell::new(Vec::new());
        let take = |id: &OrderId, _: bool| {
            left.borrow_mut().push(id.clone());
            Verdict::Taken
        };
        evict.pin(&[id(0)]);
        assert!(evict.shrink(|| false, take));
        assert_eq!(left.borrow().len(), EXPIRED_MAX);
        evict.unpin(&[id(0)]);
        while evict.shrink(|| false, take) {}
        let expected: Vec<OrderId> = (1..=EXPIRED_MAX).chain([0]).chain(EXPIRED_MAX + 1..count).map(id).collect();
        assert_eq!(left.take(), expected);
        assert!(!evict.shrink(|| false, take), "all have left");
    }

    /// The queue against a plain list under random use.
    #[test]
    fn the_queue_is_a_list() {
        let mut random = fastrand::Rng::with_seed(7);
        let orders = Orders::new(0);
        let mut plain: Vec<OrderId> = Vec::new();
        let mut next = 0;
        for _ in 0..20_000 {
            if random.bool() && plain.len() < 50 {
                let leaves_first = random.u8(..10) == 0;
                orders.evict.entered([id(next)], leaves_first);
                if leaves_first {
                    plain.insert(0, id(next));
                } else {
                    plain.push(id(next));
                }
                next += 1;
            } else {
                let left = orders.shrink(1);
                assert_eq!(left.len(), usize::from(!plain.is_empty()));
                plain.retain(|id| !left.contains(id));
            }
        }
        assert_eq!(orders.shrink(usize::MAX).len(), plain.len());
    }
}
