//! The view: every order as the bytes it is answered with, in a lock-free map that only ever moves forward.
//! Knows snapshots, never orders.

pub mod encodings;
mod evict;
pub mod external;
pub mod feed;
mod formers;
mod negative;
mod owned;
pub mod recent;

use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use foldhash::quality::RandomState;
use papaya::{Compute, HashMap, Operation, ResizeMode};
use tokio::sync::futures::Notified;
use tokio::sync::{OwnedRwLockReadGuard, OwnedRwLockWriteGuard, RwLock, watch};

use crate::id::{OrderId, Version};
use crate::snapshot::{Kind, OwnerTag, Snapshot, State};
use crate::sync::lock;
use encodings::{CompressorStep, Demand, Encoding};
use evict::{Evict, Verdict};
use external::{External, KeyOf, NotKept};
use feed::{Event, Feed, Former};
use formers::Formers;
use negative::NegativeCache;
use owned::Owned;
use recent::{List, Recent, Shortfall};

/// How the view is kept.
#[derive(Debug, Clone)]
pub struct Config {
    /// Orders in the ready list. 1,000 orders of 1 KB are a megabyte, the most a browser likes.
    pub list_max: usize,
    /// Bytes of the ready list, which ends sooner where its orders are large. One order is always in it.
    pub list_bytes_max: usize,
    /// The list is made at most this often. 20 ms bounds its cost to one or two percent of a core however fast orders
    /// arrive, and keeps it well under the 50 ms it may trail.
    pub list_refresh: Duration,
    /// Whether the list is also kept compressed for clients that take it so.
    pub list_compress: bool,
    /// Changes kept for readers of `/events` that were unavailable.
    pub feed_events_max: usize,
    /// Bytes of orders those changes may hold on to.
    pub feed_bytes_max: usize,
    /// How orders are found by the ids of their users; not from memory when `None`, or when orders may leave.
    pub key_of: Option<KeyOf>,
    /// How whose an order is can be read off it. `None` where owners do not ask for their own orders:
    /// nothing is kept for it then.
    pub owner_of: Option<OwnerOf>,
    /// Bytes that orders and what it takes to find them may take. All orders are kept when `None`.
    pub bytes_max: Option<u64>,
    /// How long an order stays after it came, in whole seconds. For ever when `None`.
    pub ttl: Option<Duration>,
    /// Orders loaded at the start, the newest; as many as there is room for when `None`.
    pub warm_max: Option<u64>,
    /// Unknown ids that are remembered while not all orders are here.
    pub absent_max: usize,
    /// How long. An order that another process stores meanwhile is seen this much later at most.
    pub absent_time: Duration,
}

impl Config {
    /// Whether orders may leave the view.
    #[must_use]
    pub const fn is_bounded(&self) -> bool {
        self.bytes_max.is_some() || self.ttl.is_some()
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            list_max: 1000,
            list_bytes_max: 64 << 20,
            list_refresh: Duration::from_millis(20),
            list_compress: true,
            feed_events_max: 16_384,
            feed_bytes_max: 32 << 20,
            key_of: None,
            owner_of: None,
            bytes_max: None,
            ttl: None,
            warm_max: None,
            absent_max: 10_000,
            absent_time: Duration::from_millis(500),
        }
    }
}

/// Reads off a body whose the order is.
pub type OwnerOf = fn(Kind, &[u8]) -> Option<OwnerTag>;

/// More orders than are loaded between two looks at what others changed.
const BROUGHT_MAX: usize = 10_000;

/// The in-memory view of all orders.
pub struct View {
    config: Config,
    orders: HashMap<OrderId, Snapshot, RandomState>,
    recent: Recent,
    demand: Demand,
    feed: Feed,
    external: External,
    owned: Owned,
    formers: Formers,
    negative: NegativeCache,
    evict: Option<Evict>,
    tally: Tally,
    is_complete: AtomicBool,
    has_let_go: AtomicBool,
    is_shared: AtomicBool,
    is_making_room: AtomicBool,
    /// Milliseconds from `made` to when the store last told of changes by others, and 1; 0 before the first time.
    heard: AtomicU64,
    made: Instant,
    /// How often there was reason to doubt it.
    doubts: watch::Sender<u64>,
    is_doubted: AtomicBool,
    /// Versions that came from the store for a reader, and were announced by nothing: since the last look at what others
    /// changed, and between that and the one before.
    brought: Mutex<[std::collections::HashMap<OrderId, Version>; 2]>,
    has_brought: AtomicBool,
    /// Held by each batch that may be durable and is not visible, and by a count that begins: what it finds is visible.
    committing: Arc<RwLock<()>>,
}

/// A batch may be durable that is not visible. No count begins meanwhile.
pub type Committing = OwnedRwLockReadGuard<()>;
/// What is durable is visible, and no batch becomes durable.
pub type Paused = OwnedRwLockWriteGuard<()>;

/// The map, pinned.
type Orders<'v> = papaya::HashMapRef<'v, OrderId, Snapshot, RandomState, papaya::LocalGuard<'v>>;

/// Running totals. Each publisher adds the difference its own change made, so they are right at rest.
#[derive(Default)]
struct Tally {
    live: AtomicI64,
    entries: AtomicUsize,
    bytes: AtomicI64,
    evicted: AtomicU64,
    put_back: AtomicU64,
}

/// How much the view holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Size {
    /// Orders shown in lists and counts, in the view or not.
    pub live: u64,
    /// All entries, tombstones included.
    pub entries: usize,
    /// Bytes of snapshots, without the map's own.
    pub bytes: u64,
    /// Orders that left for want of room or for their age.
    pub evicted: u64,
}

impl View {
    /// What so many orders take of a budget, with snapshots of so many bytes together.
    #[must_use]
    pub const fn cost(orders: u64, bytes: u64) -> u64 {
        evict::cost(orders, bytes)
    }

    /// An empty view with room for `capacity` orders.
    #[must_use]
    pub fn new(config: Config, capacity: usize) -> Self {
        Self {
            orders: HashMap::builder()
                .capacity(capacity)
                .resize_mode(resize_mode(&config))
                .hasher(RandomState::default())
                .build(),
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

    /// The newest visible copy of an order, tombstones included. Takes no lock and allocates nothing.
    #[must_use]
    pub fn get(&self, id: &OrderId) -> Option<Snapshot> {
        let snapshot = self.peek(id)?;
        if self.evict.is_some() {
            snapshot.mark_read();
        }
        Some(snapshot)
    }

    /// As [`View::get`] for anyone who is no reader: what is looked at this way stays no longer for it.
    #[must_use]
    pub fn peek(&self, id: &OrderId) -> Option<Snapshot> {
        self.orders.pin().get(id).cloned()
    }

    /// Makes a copy visible unless a copy at least as new is. Says whether it did.
    ///
    /// For copies read from the store while their id was pinned. They appear in no list and in no event.
    pub fn fill(&self, id: OrderId, snapshot: Snapshot) -> bool {
        self.insert_all([(id, snapshot)], false) > 0
    }

    /// Whether any copy of an order is visible, tombstones included.
    #[must_use]
    pub fn contains(&self, id: &OrderId) -> bool {
        self.orders.pin().contains_key(id)
    }

    /// As [`View::fill`] for many, which touches the totals once: threads that warm up do not wait for each other.
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
            let Some((change, before)) = fill(&map, id, snapshot) else { continue };
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

    /// The copy with whose it is, where that is kept. What is deleted for good says it no more: it
    /// is whose it was before.
    fn tagged(&self, map: &Orders<'_>, id: &OrderId, snapshot: Snapshot, scratch: &mut Vec<u8>) -> Snapshot {
        if self.config.owner_of.is_none() || snapshot.owner().is_some() {
            return snapshot;
        }
        let owner = match snapshot.state() {
            State::Tombstone => map.get(id).and_then(Snapshot::owner),
            State::Live | State::SoftDeleted => self.owner_of(&snapshot),
        };
        owner.map_or_else(|| snapshot.clone(), |owner| snapshot.with_owner(owner, scratch))
    }

    /// Whether whose each order is is noted, which is so where callers have to be known.
    #[must_use]
    pub fn notes_owners(&self) -> bool {
        self.config.owner_of.is_some()
    }

    /// Keeps whose an order was until its change is told of, where that is another than `owner`.
    fn note_former(&self, id: OrderId, former: Option<OwnerTag>, version: Version, owner: Option<OwnerTag>) {
        if let Some(former) = former.filter(|former| Some(*former) != owner)
            && !self.formers.note(id, version, former)
        {
            self.feed.reset();
        }
    }

    /// Whose a copy is: noted in it, or read off it.
    #[must_use]
    pub fn owner_of(&self, snapshot: &Snapshot) -> Option<OwnerTag> {
        let read = || (self.config.owner_of?)(snapshot.kind(), &snapshot.flat().whole());
        snapshot.owner().or_else(read)
    }

    /// At most `limit` live orders of an owner created before `before`, newest first. `None` where
    /// they are not kept, or not all of them are here; orders that others have stored a moment ago
    /// may be missing.
    #[must_use]
    pub fn owned_page(&self, owner: OwnerTag, before: Option<u64>, limit: usize) -> Option<Vec<Snapshot>> {
        self.holds_owned().then(|| self.owned.page(owner, before, limit))
    }

    /// How many live orders an owner has; `None` as with [`View::owned_page`].
    #[must_use]
    pub fn owned_count(&self, owner: OwnerTag) -> Option<usize> {
        self.holds_owned().then(|| self.owned.count(owner))
    }

    fn holds_owned(&self) -> bool {
        self.owned.is_kept() && self.is_complete.load(Ordering::Acquire) && !self.is_doubted.load(Ordering::Acquire)
    }

    /// Lets orders go that there is no room for, and some of those whose time is up. Says whether there may be more of
    /// these: to be called every now and then until there are none.
    pub fn shrink(&self) -> bool {
        let Some(evict) = &self.evict else { return false };
        let map = self.orders.pin();
        let is_over = || self.config.bytes_max.is_some_and(|bytes_max| self.used() > bytes_max);
        evict.shrink(is_over, |id, must| {
            // Before anything is gone: anyone who misses it knows that it may be in the store.
            self.has_let_go.store(true, Ordering::SeqCst);
            let removed = map.compute(id.clone(), |visible| match visible {
                Some((_, visible)) if !must && visible.take_read() => Operation::Abort(()),
                Some(_) => Operation::Remove,
                None => Operation::Abort(()),
            });
            match removed {
                Compute::Removed(_, gone) => {
                    self.tally.remove(gone);
                    Verdict::Taken
                }
                _ if must => Verdict::Taken,
                _ => Verdict::WasRead,
            }
        })
    }

    /// What the view takes of its budget.
    fn used(&self) -> u64 {
        let bytes = u64::try_from(self.tally.bytes.load(Ordering::Relaxed)).unwrap_or_default();
        Self::cost(self.tally.entries.load(Ordering::Relaxed) as u64, bytes)
    }

    /// Whether there is room for more orders.
    #[must_use]
    pub fn has_room(&self) -> bool {
        self.config.bytes_max.is_none_or(|bytes_max| self.used() < bytes_max)
    }

    /// Keeps these orders from leaving, those that are here and those that come. Needed from before their newest copies
    /// are read from the store, or changed in it, until they are visible. `None` when no order ever leaves.
    #[must_use]
    pub fn pin(self: &Arc<Self>, ids: Vec<OrderId>) -> Option<Pinned> {
        let evict = self.evict.as_ref()?;
        evict.pin(&ids);
        Some(Pinned { view: Arc::clone(self), ids: Some(ids) })
    }

    /// As [`View::pin`] for all orders. For a short while: the view grows beyond its budget meanwhile.
    #[must_use]
    pub fn hold(self: &Arc<Self>) -> Option<Pinned> {
        self.evict.as_ref()?.hold();
        Some(Pinned { view: Arc::clone(self), ids: None })
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

    /// The newest live order that a user (canonical UUID text) calls `external`, of those in the view.
    ///
    /// # Errors
    /// When this view does not know what users call their orders.
    pub fn by_external(&self, user: &str, external: &str) -> Result<Option<(OrderId, Snapshot)>, NotKept> {
        let map = self.orders.pin();
        self.external.find(user, external, |id| map.get(id).cloned())
    }

    /// Makes room for this many orders in all, at once instead of growing step by step.
    /// Who inserts meanwhile waits until there is.
    pub fn reserve(&self, orders: usize) {
        let map = self.orders.pin();
        self.is_making_room.store(true, Ordering::Release);
        map.reserve(orders.saturating_sub(map.len()));
        self.is_making_room.store(false, Ordering::Release);
    }

    /// Completes a change of the map's table that began and has not ended, some 100 ns for each order: until then reads
    /// look in two tables. No one waits for it, except anyone who calls it.
    pub fn settle(&self) {
        let map = self.orders.pin();
        let _ = map.iter().next(); // to walk through it takes one table
    }

    /// Whether a [`View::reserve`] is under way.
    #[must_use]
    pub fn is_making_room(&self) -> bool {
        self.is_making_room.load(Ordering::Acquire)
    }

    /// Makes a batch of committed changes visible: in the map, then in the list, then as events. Their ids are pinned.
    pub fn publish(&self, events: Vec<Event>) {
        if events.is_empty() {
            return;
        }
        let events = self.with_owners(events);
        // Warm-up or read-through may have brought a copy already; it is news all the same.
        self.fill_all(events.iter().map(|event| (event.id.clone(), event.snapshot.clone())));
        self.negative.forget(events.iter().map(|event| &event.id));
        let live = self.tell_feed(events);
        if self.evict.is_some() {
            // An order that has left may be told of once more, which makes it no second one.
            self.tally.live.fetch_add(live, Ordering::Relaxed);
        }
    }

    /// The same with whose each order is, where that is kept: readers of events are told of their
    /// own.
    fn with_owners(&self, mut events: Vec<Event>) -> Vec<Event> {
        if self.config.owner_of.is_some() {
            let map = self.orders.pin();
            let mut scratch = Vec::new();
            for event in &mut events {
                event.snapshot = self.tagged(&map, &event.id, event.snapshot.clone(), &mut scratch);
                if event.former == Former::Unknown && map.contains_key(&event.id) {
                    event.former = Former::Known(Vec::new()); // what it replaces says more
                }
            }
        }
        events
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

    /// Says in an event whose the order was before.
    fn add_formers(&self, event: &mut Event) {
        let left = self.formers.take(&event.id, event.snapshot.version());
        let mut former = match std::mem::replace(&mut event.former, Former::Unknown) {
            Former::Known(known) => known,
            Former::Unknown if left.is_empty() => return,
            Former::Unknown => Vec::new(),
        };
        former.extend(left);
        let owner = event.snapshot.owner();
        former.retain(|former| Some(*former) != owner);
        event.former = Former::Known(former);
    }

    /// Makes a copy visible that was read from the store, as [`View::fill`] does, where another process may have written it:
    /// it was not announced yet.
    pub fn fill_shared(&self, id: OrderId, snapshot: Snapshot) {
        let version = snapshot.version();
        if self.fill(id.clone(), snapshot) {
            let mut brought = lock(&self.brought);
            if brought[0].len() < BROUGHT_MAX {
                brought[0].insert(id, version);
                self.has_brought.store(true, Ordering::SeqCst);
            }
        }
    }

    /// Whether readers of events were not told of this version of an order, or it is not shown.
    #[must_use]
    pub fn is_untold(&self, id: &OrderId, version: Version) -> bool {
        self.version(id).is_none_or(|shown| shown < version) || self.was_brought(id, version)
    }

    fn was_brought(&self, id: &OrderId, version: Version) -> bool {
        self.has_brought.load(Ordering::SeqCst) && {
            let brought = lock(&self.brought);
            brought.iter().any(|brought| brought.get(id) == Some(&version))
        }
    }

    fn forget_brought(&self, events: &[Event]) {
        if self.has_brought.load(Ordering::SeqCst) {
            let mut brought = lock(&self.brought);
            for event in events {
                for brought in &mut *brought {
                    if brought.get(&event.id).is_some_and(|version| *version <= event.snapshot.version()) {
                        brought.remove(&event.id);
                    }
                }
            }
        }
    }

    /// Takes what another process told of a change, which may be late by now: where orders may leave it replaces only
    /// what is here, or is about to come. Returns whether it was news.
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
            let Some((change, before)) = update(&map, &event.id, &event.snapshot) else {
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

    /// To be kept from before a batch is committed until it is visible. `None` where the view holds all orders, which are
    /// counted as they come and go. Waits while a count begins. Cancel-safe, but loses its place in the queue.
    pub async fn committing(&self) -> Option<Committing> {
        if self.is_bounded() { Some(Arc::clone(&self.committing).read_owned().await) } else { None }
    }

    /// Waits until everything is visible that this process has committed; what comes next waits for the end of this. For
    /// the beginning of a count. Cancel-safe.
    pub async fn pause_commits(&self) -> Paused {
        Arc::clone(&self.committing).write_owned().await
    }

    /// To be called before live orders are counted, while [`Paused`], for [`View::counted`].
    #[must_use]
    pub fn counting(&self) -> i64 {
        self.tally.live.load(Ordering::Relaxed)
    }

    /// Corrects the number of live orders by what is stored. `before` is what it was when the count began; what was
    /// published since is added.
    pub fn counted(&self, before: i64, live: u64) {
        let correction = i64::try_from(live).unwrap_or(i64::MAX).saturating_sub(before);
        self.tally.live.fetch_add(correction, Ordering::Relaxed);
    }

    /// The newest orders, ready to be sent.
    #[must_use]
    pub fn list(&self) -> Arc<List> {
        self.recent.list()
    }

    /// Completes when [`View::list`] is out of date. For one waiter. Cancel-safe.
    pub async fn list_changed(&self) {
        self.recent.changed().await;
    }

    /// Makes the list again; takes a millisecond at most, so it belongs on no read thread.
    pub fn refresh_list(&self) {
        self.recent.refresh();
        self.demand.listed(Instant::now());
    }

    /// Whether this list is, or will be, compressed for those who ask.
    #[must_use]
    pub fn compresses(&self, list: &List) -> bool {
        self.config.list_compress && list.may_be_encoded()
    }

    /// A client would take the list in this encoding, had it such a form or not.
    pub fn ask_encoding(&self, encoding: Encoding) {
        self.demand.ask(encoding, Instant::now());
    }

    /// Completes when [`View::next_encoding`] may say something else. For one waiter. Cancel-safe.
    pub async fn encoding_asked(&self) {
        self.demand.news().await;
    }

    /// What to do about forms of the list, after one in the encoding `last`. What is to be made is asked for no more.
    #[must_use]
    pub fn next_encoding(&self, last: Encoding) -> CompressorStep {
        self.demand.next(self.list(), last, Instant::now())
    }

    /// A form was made, in this time.
    pub fn encoding_made(&self, took: Duration) {
        self.demand.made(took);
    }

    /// Completes when the next form is made.
    pub fn next_form_made(&self) -> Notified<'_> {
        self.demand.next_made()
    }

    /// How many forms were made, and how long that took.
    #[must_use]
    pub fn forms_made(&self) -> (u64, Duration) {
        self.demand.total()
    }

    /// What the store must be asked for to keep the list whole.
    #[must_use]
    pub fn list_shortfall(&self) -> Option<Shortfall> {
        self.recent.shortfall()
    }

    /// Takes the store's answer to a [`Shortfall`].
    pub fn admit_to_list(&self, asked: Shortfall, page: Vec<(OrderId, Snapshot)>) {
        let (ids, page): (Vec<_>, Vec<_>) =
            page.into_iter().map(|(id, snapshot)| ((snapshot.seq(), id), (snapshot.seq(), snapshot))).unzip();
        let ids: std::collections::HashMap<u64, OrderId> = ids.into_iter().collect();
        self.recent.admit(asked, page, |seq| ids.get(&seq).and_then(|id| self.peek(id)));
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

    /// Whether every stored order is in the view, so that an unknown id exists nowhere.
    #[must_use]
    pub fn is_complete(&self) -> bool {
        self.is_complete.load(Ordering::Acquire)
            && !self.is_shared.load(Ordering::Acquire)
            && !self.has_let_go.load(Ordering::SeqCst)
            && !self.is_doubted.load(Ordering::Acquire)
    }

    /// Says whether other processes may store orders that this view does not show yet.
    pub fn set_shared(&self, is_shared: bool) {
        self.is_shared.store(is_shared, Ordering::Release);
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

    /// Replaces a copy by what the store has, older as it may be: the one exception to newest wins. `seen` was visible
    /// before the store was asked. What was visible had been durable, so a store that has less went back: a failover that
    /// lost commits, or a backup. Only `seen` itself is replaced; another copy came since. Returns whether it was.
    pub fn put_back(&self, id: &OrderId, seen: &Snapshot, stored: Option<&Snapshot>) -> bool {
        if self.evict.is_some() && stored.is_none() {
            self.has_let_go.store(true, Ordering::SeqCst);
        }
        let map = self.orders.pin();
        let tagged = stored.map(|stored| self.tagged(&map, id, stored.clone(), &mut Vec::new()));
        let stored = tagged.as_ref();
        let replaced = map.compute(id.clone(), |visible| match (visible, stored) {
            (Some((_, visible)), Some(stored)) if visible.is(seen) => Operation::Insert(stored.clone()),
            (Some((_, visible)), None) if visible.is(seen) => Operation::Remove,
            _ => Operation::Abort(()),
        });
        let mut change = match replaced {
            Compute::Updated { old: (_, old), new: (_, new) } => TallyDelta::between(Some(old), new),
            Compute::Removed(_, old) => TallyDelta::of_removal(old),
            Compute::Inserted(..) | Compute::Aborted(()) => return false,
        };
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

    /// There is reason to doubt that the store still has what is shown. Until it is settled the view counts as a part of
    /// what is stored.
    pub fn doubt(&self) {
        self.doubts.send_modify(|doubts| {
            *doubts += 1;
            self.is_doubted.store(true, Ordering::Release);
        });
    }

    /// Completes when there is a doubt, and says which. For one waiter. Cancel-safe.
    pub async fn doubted(&self) -> u64 {
        let mut doubts = self.doubts.subscribe();
        loop {
            let doubt = *doubts.borrow_and_update();
            if self.is_doubted.load(Ordering::Acquire) {
                return doubt;
            }
            let _ = doubts.changed().await; // cannot fail: `self` holds the sender
        }
    }

    /// The view was held against the store since this doubt. Later ones stay.
    pub fn settle_doubt(&self, doubt: u64) {
        self.doubts.send_if_modified(|doubts| {
            if *doubts == doubt {
                self.is_doubted.store(false, Ordering::Release);
            }
            false
        });
    }

    /// The store has just told all that others changed.
    pub fn heard(&self) {
        if self.has_brought.load(Ordering::SeqCst) {
            // What came before this look began was told of by it, or is older than the last one. A look sees what came
            // before it, so what came during this one is kept for the next.
            let mut brought = lock(&self.brought);
            brought[1] = std::mem::take(&mut brought[0]);
            self.has_brought.store(!brought[1].is_empty(), Ordering::SeqCst);
        }
        let millis = u64::try_from(self.made.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.heard.store(millis.saturating_add(1), Ordering::Relaxed);
    }

    /// For how long the store told nothing of what others may have changed; since the start where it never did.
    #[must_use]
    pub fn silence(&self) -> Duration {
        let heard = Duration::from_millis(self.heard.load(Ordering::Relaxed).saturating_sub(1));
        self.made.elapsed().saturating_sub(heard)
    }

    /// Whether a copy is newer than the visible one.
    #[must_use]
    pub fn is_news(&self, id: &OrderId, snapshot: &Snapshot) -> bool {
        self.orders.pin().get(id).is_none_or(|visible| snapshot.supersedes(visible))
    }

    /// Declares that every stored order is in the view, and that every commit from here on will be.
    pub fn set_complete(&self) {
        self.is_complete.store(true, Ordering::Release);
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

    /// Whether orders may leave.
    #[must_use]
    pub fn is_bounded(&self) -> bool {
        self.evict.is_some()
    }
}

/// Orders that do not leave for as long as this is kept: some, or all when there are no ids.
#[must_use]
pub struct Pinned {
    view: Arc<View>,
    ids: Option<Vec<OrderId>>,
}

impl Drop for Pinned {
    fn drop(&mut self) {
        let evict = self.view.evict.as_ref().expect("nothing is pinned otherwise");
        let heard = match &self.ids {
            Some(ids) => evict.unpin(ids),
            None => evict.release(),
        };
        for (id, snapshot) in heard {
            let change = snapshot.apparent_change();
            self.view.apply_remote(Event::new(id, snapshot, change));
        }
        self.view.shrink();
    }
}

/// How the map gets a larger table, or one without the marks that removed orders leave.
const fn resize_mode(config: &Config) -> ResizeMode {
    if config.is_bounded() {
        // Time and again where orders come and leave, and what waits for the store waits for it too: in small steps,
        // each of which takes some microseconds of an insertion or removal. `View::settle` takes the rest of them.
        ResizeMode::Incremental(64)
    } else {
        // Steps would make every look-up and insertion ten times slower for as long as it takes, reads included. At
        // once it stops writers only, for some 20 ms at half a million orders; readers go on.
        ResizeMode::Blocking
    }
}

/// What one published copy changes about the totals.
#[derive(Default)]
struct TallyDelta {
    live: i64,
    entries: isize,
    bytes: i64,
}

impl TallyDelta {
    fn of_removal(old: &Snapshot) -> Self {
        Self {
            live: -i64::from(old.state() == State::Live),
            entries: -1,
            bytes: -i64::try_from(old.resident_bytes()).unwrap_or(i64::MAX),
        }
    }

    fn between(old: Option<&Snapshot>, new: &Snapshot) -> Self {
        let live = |snapshot: &Snapshot| i64::from(snapshot.state() == State::Live);
        let bytes = |snapshot: &Snapshot| i64::try_from(snapshot.resident_bytes()).unwrap_or(i64::MAX);
        Self {
            live: live(new) - old.map_or(0, live),
            entries: isize::from(old.is_none()),
            bytes: bytes(new) - old.map_or(0, bytes),
        }
    }
}

impl Tally {
    fn add(&self, change: &TallyDelta) {
        self.live.fetch_add(change.live, Ordering::Relaxed);
        // Adds what is negative, too: it wraps around.
        self.entries.fetch_add(change.entries.cast_unsigned(), Ordering::Relaxed);
        self.bytes.fetch_add(change.bytes, Ordering::Relaxed);
    }

    fn remove(&self, gone: &Snapshot) {
        self.entries.fetch_sub(1, Ordering::Relaxed);
        self.bytes.fetch_sub(i64::try_from(gone.resident_bytes()).unwrap_or(i64::MAX), Ordering::Relaxed);
        self.evicted.fetch_add(1, Ordering::Relaxed);
    }
}

/// The one place where a copy enters the map: newest wins, no matter who brings it.
/// Returns what that changed, and the copy that it took the place of.
fn fill<'m>(map: &'m Orders<'_>, id: OrderId, snapshot: Snapshot) -> Option<(TallyDelta, Option<&'m Snapshot>)> {
    // The closure may run several times, so it decides and changes nothing.
    let result = map.compute(id, |visible| match visible {
        Some((_, visible)) if !snapshot.supersedes(visible) => Operation::Abort(()),
        _ => Operation::Insert(snapshot.clone()),
    });
    match result {
        Compute::Inserted(_, new) => Some((TallyDelta::between(None, new), None)),
        Compute::Updated { old: (_, old), new: (_, new) } => Some((TallyDelta::between(Some(old), new), Some(old))),
        Compute::Removed(..) => unreachable!("nothing is removed here"),
        Compute::Aborted(()) => None,
    }
}

/// As [`fill`] for a copy that replaces an older one and nothing else.
fn update<'m>(map: &'m Orders<'_>, id: &OrderId, snapshot: &Snapshot) -> Option<(TallyDelta, &'m Snapshot)> {
    let result = map.compute(id.clone(), |visible| match visible {
        Some((_, visible)) if snapshot.supersedes(visible) => Operation::Insert(snapshot.clone()),
        _ => Operation::Abort(()),
    });
    match result {
        Compute::Updated { old: (_, old), new: (_, new) } => Some((TallyDelta::between(Some(old), new), old)),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::{ChangeKind, Kind};

    fn id(text: &str) -> OrderId {
        OrderId::parse(text.as_bytes()).unwrap()
    }

    fn copy(version: u64, seq: u64, state: State) -> Snapshot {
        let body = format!("{{\"s\":{seq},\"v\":{version}}}");
        Snapshot::new(version, seq, Kind::Wb, state, body.as_bytes(), &mut Vec::new())
    }

    fn event(name: &str, version: u64, seq: u64, state: State) -> Event {
        Event::new(id(name), copy(version, seq, state), ChangeKind::Created)
    }

    fn view(list_max: usize) -> View {
        View::new(Config { list_max, ..Config::default() }, 0)
    }

    /// What comes into view before its event (warm-up, a read that misses) takes the place of the
    /// copy that said whose the order was.
    #[test]
    fn an_event_says_whose_the_order_was_before_whatever_came_into_view_first() {
        fn owner_of(_: Kind, body: &[u8]) -> Option<OwnerTag> {
            std::str::from_utf8(body).ok().map(OwnerTag::of)
        }
        let of =
            |version, owner: &str| Snapshot::new(version, 1, Kind::Wb, State::Live, owner.as_bytes(), &mut Vec::new());
        let updated = |version, owner| Event::new(id("x"), of(version, owner), ChangeKind::Updated);
        let formers = |view: &View, from| {
            let feed::Read::Events(events) = view.feed().read(from, 9) else { panic!("kept") };
            events.into_iter().map(|event| event.former).collect::<Vec<_>>()
        };
        let known = |owners: &[&str]| Former::Known(owners.iter().map(|owner| OwnerTag::of(owner)).collect());
        let config = Config { owner_of: Some(owner_of), ..Config::default() };
        let view = View::new(config.clone(), 0);
        view.fill(id("x"), of(1, "a"));
        view.publish(vec![updated(2, "b"), updated(3, "c")]);
        view.fill(id("x"), of(5, "d"));
        view.publish(vec![updated(5, "d"), updated(6, "d")]);
        assert_eq!(formers(&view, 0), [known(&["a"]), known(&["b"]), known(&["c"]), known(&[])]);
        assert_eq!(view.owned_count(OwnerTag::of("a")).unwrap_or_default(), 0);
        // Where orders leave, what is not here may have been anyone's.
        let view = View::new(Config { bytes_max: Some(1 << 20), ..config }, 0);
        view.publish(vec![updated(2, "b")]);
        view.apply_remote(updated(3, "c"));
        assert_eq!(formers(&view, 0), [Former::Unknown, known(&["b"])]);
    }

    fn listed(view: &View) -> String {
        view.refresh_list();
        String::from_utf8(view.list().body.to_vec()).unwrap()
    }

    #[test]
    fn nothing_newer_is_replaced() {
        let view = view(10);
        assert!(view.fill(id("a"), copy(2, 1, State::Live)));
        for version in [1, 2] {
            assert!(!view.fill(id("a"), copy(version, 1, State::Live)));
        }
        assert!(view.fill(id("a"), copy(3, 1, State::Tombstone)));
        assert!(!view.fill(id("a"), copy(2, 1, State::Live)), "a tombstone is a version like any other");
        assert_eq!(view.size().live, 0);
        assert_eq!(view.size().entries, 1);
    }

    #[test]
    fn a_count_corrects_the_total_and_keeps_what_was_published_while_it_ran() {
        let view = View::new(Config { bytes_max: Some(1 << 20), ..Config::default() }, 0);
        view.publish(vec![event("a", 1, 1, State::Live)]);
        let before = view.counting();
        view.publish(vec![event("b", 1, 2, State::Live), event("c", 1, 3, State::Live)]);
        view.counted(before, 5);
        assert_eq!(view.size().live, 7, "five were stored when the count began, and two came after");
    }

    #[test]
    fn an_order_that_came_while_the_store_was_asked_is_not_unknown() {
        let view = View::new(Config { bytes_max: Some(1 << 20), ..Config::default() }, 0);
        let asked = Instant::now();
        view.publish(vec![event("a", 1, 1, State::Live)]);
        view.note_absent(id("a"), asked);
        assert!(!view.is_absent(&id("a")));
        view.note_absent(id("b"), asked);
        assert!(view.is_absent(&id("b")));
        view.publish(vec![event("b", 1, 2, State::Live)]);
        assert!(!view.is_absent(&id("b")));
    }

    /// It was taken for an id that exists nowhere: the view was complete, and nothing had left it yet.
    #[test]
    fn a_view_with_a_budget_is_not_complete_once_it_heard_of_an_order_that_it_does_not_have() {
        let view = View::new(Config { bytes_max: Some(1 << 20), ..Config::default() }, 0);
        view.fill(id("a"), copy(1, 1, State::Live));
        view.set_complete();
        assert!(view.apply_remote(event("a", 2, 1, State::Live)));
        assert!(view.is_complete(), "it has that one");
        assert!(!view.apply_remote(event("b", 1, 2, State::Live)));
        assert!(!view.contains(&id("b")));
        assert!(!view.is_complete(), "an order that is only in the store would be answered 404");
    }

    #[test]
    fn a_table_changed_in_steps_loses_nothing() {
        let view = View::new(Config { bytes_max: Some(1 << 30), ..Config::default() }, 0);
        for n in 0..5_000_u64 {
            assert!(view.fill(id(&format!("o{n}")), copy(1, n, State::Live)));
            if n % 97 == 0 {
                view.settle();
            }
            let earlier = n / 2;
            assert!(view.contains(&id(&format!("o{earlier}"))), "{earlier} after {n}");
        }
        view.settle();
        assert!((0..5_000).all(|n| view.get(&id(&format!("o{n}"))).is_some_and(|found| found.seq() == n)));
        assert_eq!(view.size().entries, 5_000);
    }

    #[test]
    fn the_list_is_newest_first_and_follows_updates_and_deletions() {
        let view = view(2);
        view.admit_to_list(view.list_shortfall().unwrap(), Vec::new());
        assert_eq!(view.list_shortfall(), None, "an empty store has nothing more");
        view.publish(vec![event("a", 1, 1, State::Live), event("b", 1, 2, State::Live), event("c", 1, 3, State::Live)]);
        assert_eq!(listed(&view), r#"[{"s":3,"v":1},{"s":2,"v":1}]"#);
        assert!(view.list().has_more);
        view.publish(vec![event("b", 2, 2, State::Live), event("c", 2, 3, State::SoftDeleted)]);
        assert_eq!(listed(&view), r#"[{"s":2,"v":2},{"s":1,"v":1}]"#);
        assert!(!view.list().has_more);
    }

    #[test]
    fn a_burst_before_the_store_was_asked_leaves_no_gap() {
        let view = view(2);
        let asked = view.list_shortfall().unwrap();
        // The store was asked when it was empty; its answer comes after a burst that the list could not keep whole.
        view.publish((1..=9).map(|seq| event(&format!("o{seq}"), 1, seq, State::Live)).collect());
        view.admit_to_list(asked, Vec::new());
        view.publish((6..=9).map(|seq| event(&format!("o{seq}"), 2, seq, State::Tombstone)).collect());
        let asked = view.list_shortfall().expect("orders 1 to 5 are not kept");
        assert_eq!(asked, Shortfall { before: Some(6), limit: 4 });
        view.admit_to_list(asked, vec![(id("o5"), copy(1, 5, State::Live))]);
        assert_eq!(listed(&view), r#"[{"s":5,"v":1}]"#);
        assert_eq!(view.list_shortfall(), None, "the store has nothing more");
    }

    #[test]
    fn deletions_below_the_list_are_made_good_from_the_store() {
        let view = view(2);
        view.admit_to_list(view.list_shortfall().unwrap(), Vec::new());
        view.publish((1..=9).map(|seq| event(&format!("o{seq}"), 1, seq, State::Live)).collect());
        view.publish((6..=9).map(|seq| event(&format!("o{seq}"), 2, seq, State::Tombstone)).collect());
        let asked = view.list_shortfall().expect("only the newest four were kept, and all are deleted");
        assert_eq!(asked, Shortfall { before: Some(6), limit: 4 });
        let page = |seq: u64| (id(&format!("o{seq}")), copy(1, seq, State::Live));
        // While the store was asked, o5 was deleted and o4 changed.
        view.publish(vec![event("o5", 2, 5, State::Tombstone), event("o4", 2, 4, State::Live)]);
        view.admit_to_list(asked, [5, 4, 3, 2].map(page).into());
        assert_eq!(listed(&view), r#"[{"s":4,"v":2},{"s":3,"v":1}]"#);
        assert!(view.list().has_more);
    }

    #[test]
    fn a_list_of_large_orders_ends_at_its_bytes_and_asks_the_store_for_no_more_than_that() {
        let config = Config { list_max: 100, list_bytes_max: 40, ..Config::default() };
        let view = View::new(config, 0);
        let asked = view.list_shortfall().unwrap();
        let page = |seq: u64| (id(&format!("o{seq}")), copy(1, seq, State::Live)); // of 13 bytes, and a comma
        view.admit_to_list(asked, (1..=4).rev().map(page).collect());
        assert_eq!(listed(&view), r#"[{"s":4,"v":1},{"s":3,"v":1}]"#);
        assert!(view.list().has_more);
        assert_eq!(view.list_shortfall(), None, "there is nothing older, and the list is full");
        // Twice as many are kept as are listed.
        view.publish((5..=9).map(|seq| event(&format!("o{seq}"), 1, seq, State::Live)).collect());
        assert_eq!(listed(&view), r#"[{"s":9,"v":1},{"s":8,"v":1}]"#);
        view.publish((6..=9).map(|seq| event(&format!("o{seq}"), 2, seq, State::Tombstone)).collect());
        let asked = view.list_shortfall().expect("one order is left, and there is room for two");
        view.admit_to_list(asked, (1..=4).rev().map(page).collect());
        assert_eq!(listed(&view), r#"[{"s":5,"v":1},{"s":4,"v":1}]"#);
        // One is listed whatever it takes.
        let body = format!("{{\"large\":\"{}\"}}", "x".repeat(200));
        let snapshot = Snapshot::new(1, 10, Kind::Wb, State::Live, body.as_bytes(), &mut Vec::new());
        view.publish(vec![Event::new(id("o10"), snapshot, ChangeKind::Created)]);
        assert_eq!(listed(&view), format!("[{body}]"));
        assert!(view.list().has_more);
    }
}
