//! The view itself: how copies become visible, how they are looked up, and what each of them is
//! told to.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Instant;

use tokio::sync::{RwLock, watch};

use super::config::Config;
use super::demand::Demand;
use super::evict::Evict;
use super::external::{External, NotKept};
use super::feed::{Event, Feed};
use super::formers::Formers;
use super::map::{self, Map};
use super::negative::NegativeCache;
use super::owned::Owned;
use super::recent::Recent;
use super::tally::{Size, Tally, TallyDelta};
use crate::id::{OrderId, Version};
use crate::snapshot::Snapshot;

/// The in-memory view of all orders.
pub struct View {
    pub(super) config: Config,
    pub(super) orders: Map,
    pub(super) recent: Recent,
    pub(super) demand: Demand,
    pub(super) feed: Feed,
    pub(super) external: External,
    pub(super) owned: Owned,
    pub(super) formers: Formers,
    pub(super) negative: NegativeCache,
    pub(super) evict: Option<Evict>,
    pub(super) tally: Tally,
    pub(super) is_complete: AtomicBool,
    pub(super) has_let_go: AtomicBool,
    pub(super) is_shared: AtomicBool,
    pub(super) is_making_room: AtomicBool,
    /// Milliseconds from `made` to when the store last told of changes by others, and 1; 0 before
    /// the first time.
    pub(super) heard: AtomicU64,
    pub(super) made: Instant,
    /// How often there was reason to doubt it.
    pub(super) doubts: watch::Sender<u64>,
    pub(super) is_doubted: AtomicBool,
    /// Versions that came from the store for a reader, and were announced by nothing: since the
    /// last look at what others changed, and between that and the one before.
    pub(super) brought: Mutex<[HashMap<OrderId, Version>; 2]>,
    pub(super) has_brought: AtomicBool,
    /// Held by each batch that may be durable and is not visible, and by a count that begins: what
    /// it finds is visible.
    pub(super) committing: Arc<RwLock<()>>,
}

impl View {
    /// An empty view with room for `capacity` orders.
    #[must_use]
    pub fn new(config: Config, capacity: usize) -> Self {
        Self {
            orders: map::empty(config.is_bounded(), capacity),
            recent: Recent::new(config.list_max, config.list_bytes_max),
            demand: Demand::new(),
            feed: Feed::new(config.feed_events_max, config.feed_bytes_max),
            external: External::new(config.key_of.filter(|_| !config.is_bounded())),
            owned: Owned::new(config.owner_of.is_some() && !config.is_bounded()),
            formers: Formers::default(),
            negative: NegativeCache::new(config.absent_max, config.absent_time),
            evict: config.is_bounded().then(|| Evict::new(config.ttl)),
            tally: Tally::default(),
            is_complete: AtomicBool::new(false),
            has_let_go: AtomicBool::new(false),
            is_shared: AtomicBool::new(false),
            is_making_room: AtomicBool::new(false),
            heard: AtomicU64::new(0),
            made: Instant::now(),
            doubts: watch::Sender::new(0),
            is_doubted: AtomicBool::new(false),
            brought: Mutex::default(),
            has_brought: AtomicBool::new(false),
            committing: Arc::default(),
            config,
        }
    }

    /// The newest visible copy of an order, tombstones included. Takes no lock and allocates
    /// nothing.
    #[must_use]
    pub fn get(&self, id: &OrderId) -> Option<Snapshot> {
        let snapshot = self.peek(id)?;
        if self.evict.is_some() {
            snapshot.mark_read();
        }
        Some(snapshot)
    }

    /// As [`View::get`], but does not count as a read when orders are evicted.
    #[must_use]
    pub fn peek(&self, id: &OrderId) -> Option<Snapshot> {
        self.orders.pin().get(id).cloned()
    }

    /// Makes a copy visible unless a copy at least as new is. Says whether it did.
    ///
    /// For copies read from the store while their id was pinned. They appear in no list and in no
    /// event.
    pub fn fill(&self, id: OrderId, snapshot: Snapshot) -> bool {
        self.insert_all([(id, snapshot)], false) > 0
    }

    /// Whether any copy of an order is visible, tombstones included.
    #[must_use]
    pub fn contains(&self, id: &OrderId) -> bool {
        self.orders.pin().contains_key(id)
    }

    /// As [`View::fill`] for many, which touches the totals once: threads that warm up do not wait
    /// for each other.
    pub fn fill_all(&self, orders: impl IntoIterator<Item = (OrderId, Snapshot)>) {
        self.insert_all(orders, false);
    }

    /// As [`View::fill_all`] for orders that are less worth keeping than those that are here.
    pub fn fill_behind(&self, orders: impl IntoIterator<Item = (OrderId, Snapshot)>) {
        self.insert_all(orders, true);
    }

    /// Returns how many became visible.
    fn insert_all(&self, orders: impl IntoIterator<Item = (OrderId, Snapshot)>, leaves_first: bool) -> usize {
        let map = self.orders.pin();
        let mut total = TallyDelta::default();
        let mut entered = Vec::new();
        let mut count = 0;
        let mut scratch = Vec::new();
        for (id, snapshot) in orders {
            let snapshot = self.tagged(&map, &id, snapshot, &mut scratch);
            let noted = self.owned.is_kept().then(|| (id.clone(), snapshot.clone()));
            let named = self.external.concerns(&snapshot).then(|| (id.clone(), snapshot.clone()));
            let queued = self.evict.is_some().then(|| id.clone());
            let now = self.notes_owners().then(|| (id.clone(), snapshot.version(), snapshot.owner()));
            let Some((change, before)) = map::fill(&map, id, snapshot) else { continue };
            if let (Some((id, version, owner)), Some(before)) = (now, before) {
                self.note_former(id, before.owner(), version, owner);
            }
            count += 1;
            total.live += change.live;
            total.entries += change.entries;
            total.bytes += change.bytes;
            if let Some((id, snapshot)) = noted {
                self.owned.note(&id, [Some(&snapshot), before], |id| map.get(id).cloned());
            }
            if let Some((id, snapshot)) = named {
                let get = |id: &OrderId| map.get(id).cloned();
                self.external.note(&id, &snapshot, get);
                if let Some(before) = before {
                    self.external.note(&id, before, get);
                }
            }
            entered.extend(queued.filter(|_| change.entries > 0));
        }
        if let Some(evict) = &self.evict {
            total.live = 0; // counted by events
            self.tally.add(&total);
            evict.entered(entered, leaves_first);
            self.shrink();
        } else {
            self.tally.add(&total);
        }
        count
    }

    /// Whether the store did not know this id a moment ago.
    #[must_use]
    pub fn is_absent(&self, id: &OrderId) -> bool {
        self.negative.contains(id)
    }

    /// The store does not know this id. `asked` is when the question was put.
    pub fn note_absent(&self, id: OrderId, asked: Instant) {
        self.negative.note(id.clone(), asked);
        if self.contains(&id) {
            self.negative.forget([&id]); // it arrived meanwhile
        }
    }

    /// The newest live order that a user (canonical UUID text) calls `external`, of those in the
    /// view.
    ///
    /// # Errors
    /// When this view does not know what users call their orders.
    pub fn by_external(&self, user: &str, external: &str) -> Result<Option<(OrderId, Snapshot)>, NotKept> {
        let map = self.orders.pin();
        self.external.find(user, external, |id| map.get(id).cloned())
    }

    /// Makes room for this many orders in all, at once instead of growing step by step. Insertions
    /// meanwhile wait until this is done.
    pub fn reserve(&self, orders: usize) {
        let map = self.orders.pin();
        self.is_making_room.store(true, Ordering::Release);
        map.reserve(orders.saturating_sub(map.len()));
        self.is_making_room.store(false, Ordering::Release);
    }

    /// Completes a resize of the map's table that is under way, which takes some 100 ns for each
    /// order: until then reads look in two tables. Only the caller waits.
    pub fn settle(&self) {
        let map = self.orders.pin();
        let _ = map.iter().next(); // to walk through it takes one table
    }

    /// Whether a [`View::reserve`] is under way.
    #[must_use]
    pub fn is_making_room(&self) -> bool {
        self.is_making_room.load(Ordering::Acquire)
    }

    /// Makes a batch of committed changes visible: in the map, then in the list, then as events.
    /// Their ids are pinned.
    pub fn publish(&self, events: Vec<Event>) {
        if events.is_empty() {
            return;
        }
        let events = self.with_owners(events);
        // Warm-up or read-through may have put this copy into the map already; its change is
        // published all the same.
        self.fill_all(events.iter().map(|event| (event.id.clone(), event.snapshot.clone())));
        self.negative.forget(events.iter().map(|event| &event.id));
        let live = self.tell_feed(events);
        if self.evict.is_some() {
            // An order that has left may be told of once more, which makes it no second one.
            self.tally.live.fetch_add(live, Ordering::Relaxed);
        }
    }

    /// Returns by how much the number of live orders changes.
    fn tell_feed(&self, mut events: Vec<Event>) -> i64 {
        self.forget_brought(&events);
        if self.notes_owners() {
            for event in &mut events {
                self.add_formers(event);
            }
        }
        let map = self.orders.pin();
        self.recent.apply(events.iter().map(|event| &event.id), |id| map.get(id).cloned());
        self.feed.append(events)
    }

    /// Applies a change that another process reported, which may be late. Where orders may leave
    /// the view, it replaces only a copy that is in the view or about to be loaded. Returns whether
    /// it was newer.
    pub fn apply_remote(&self, event: Event) -> bool {
        let Some(evict) = &self.evict else {
            let is_news = self.is_news(&event.id, &event.snapshot);
            if is_news {
                self.publish(vec![event]);
            }
            return is_news;
        };
        self.negative.forget([&event.id]);
        let event = self.with_owners(vec![event]).remove(0);
        let mut is_news = false;
        evict.apply_remote(&event.id, &event.snapshot, || {
            let map = self.orders.pin();
            let Some((change, before)) = map::update(&map, &event.id, &event.snapshot) else {
                let is_here = map.contains_key(&event.id);
                if !is_here {
                    // It exists, so a read that misses it here has to ask the store.
                    self.has_let_go.store(true, Ordering::SeqCst);
                }
                return is_here;
            };
            self.tally.add(&TallyDelta { live: 0, ..change });
            if self.notes_owners() {
                let (version, owner) = (event.snapshot.version(), event.snapshot.owner());
                self.note_former(event.id.clone(), before.owner(), version, owner);
            }
            is_news = true;
            true
        });
        if is_news {
            let _ = self.tell_feed(vec![event]); // counted by the store
        }
        is_news
    }

    /// Committed changes as they become visible.
    #[must_use]
    pub fn feed(&self) -> &Feed {
        &self.feed
    }

    /// How the view is kept.
    #[must_use]
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The version of an order that is shown.
    #[must_use]
    pub fn version(&self, id: &OrderId) -> Option<Version> {
        self.orders.pin().get(id).map(Snapshot::version)
    }

    /// The ids of all orders that are here, in no particular order.
    #[must_use]
    pub fn ids(&self) -> Vec<OrderId> {
        self.orders.pin().keys().cloned().collect()
    }

    /// Replaces a copy by what the store has, older as it may be: the one exception to newest wins.
    /// `seen` was visible before the store was asked. What was visible had been durable, so a store
    /// that has less went back: a failover that lost commits, or a backup. Only `seen` itself is
    /// replaced; another copy came since. Returns whether it was.
    pub fn put_back(&self, id: &OrderId, seen: &Snapshot, stored: Option<&Snapshot>) -> bool {
        if self.evict.is_some() && stored.is_none() {
            self.has_let_go.store(true, Ordering::SeqCst);
        }
        let map = self.orders.pin();
        let tagged = stored.map(|stored| self.tagged(&map, id, stored.clone(), &mut Vec::new()));
        let stored = tagged.as_ref();
        let Some(mut change) = map::put_back(&map, id, seen, stored) else { return false };
        if self.evict.is_some() {
            change.live = 0; // counted by events, and by the store
        }
        self.tally.add(&change);
        self.tally.put_back.fetch_add(1, Ordering::Relaxed);
        self.recent.forget(seen.seq());
        let get = |id: &OrderId| map.get(id).cloned();
        for copy in stored.into_iter().chain([seen]) {
            self.external.note(id, copy, get);
        }
        self.owned.note(id, [stored, Some(seen)], get);
        self.recent.apply([id].into_iter(), |id| map.get(id).cloned());
        true
    }

    /// Copies that were replaced by what the store has instead.
    #[must_use]
    pub fn orders_put_back(&self) -> u64 {
        self.tally.put_back.load(Ordering::Relaxed)
    }

    /// Whether a copy is newer than the visible one.
    #[must_use]
    pub fn is_news(&self, id: &OrderId, snapshot: &Snapshot) -> bool {
        self.orders.pin().get(id).is_none_or(|visible| snapshot.supersedes(visible))
    }

    /// How much the view holds.
    #[must_use]
    pub fn size(&self) -> Size {
        Size {
            live: u64::try_from(self.tally.live.load(Ordering::Relaxed)).unwrap_or_default(),
            entries: self.tally.entries.load(Ordering::Relaxed),
            bytes: u64::try_from(self.tally.bytes.load(Ordering::Relaxed)).unwrap_or_default(),
            evicted: self.tally.evicted.load(Ordering::Relaxed),
        }
    }
}
