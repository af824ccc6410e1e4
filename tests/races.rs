//! The view itself under real threads, in many short rounds: changes, changes told by another instance, reads through
//! the store, warm-up and eviction meet on two orders. `tests/model.rs` tries every interleaving of small stand-ins; what
//! is tried here is whatever the machine does, with the code that runs.
//!
//! What must hold in every round: nothing older is seen after something newer, what is acknowledged is visible, what is
//! stored is not unknown, and at rest the view says what the store says and its totals are right.

use std::array;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Barrier, Mutex};
use std::time::Duration;

use fastrand::Rng;
use order_service::cache::feed::Event;
use order_service::cache::{self, View};
use order_service::id::OrderId;
use order_service::read::{self, Found, Reader};
use order_service::snapshot::{ChangeKind, Kind, Snapshot, State};
use tokio::runtime::Runtime;

use crate::scripted::Scripted;

/// Orders. The first is stored when a round begins, the others are created in it.
const IDS: usize = 2;
/// The version that deletes an order.
const LAST: u64 = 5;
const ROUNDS: u64 = 12_000;

/// Everything the threads of a round share.
struct World {
    runtime: Arc<Runtime>,
    store: Scripted,
    view: Arc<View>,
    reader: Reader,
    ids: [OrderId; IDS],
    /// The versions whose writers were told that they are stored.
    acknowledged: [AtomicU64; IDS],
}

type Task = fn(&World, &mut Rng);

/// Lets others go first, or not.
fn pause(random: &mut Rng) {
    match random.u8(..4) {
        0 => std::thread::yield_now(),
        1 => (0..random.u32(..300)).for_each(|_| std::hint::spin_loop()),
        _ => {}
    }
}

fn copy(n: usize, version: u64) -> Snapshot {
    let state = if version == LAST { State::Tombstone } else { State::Live };
    // Each version takes another number of bytes.
    let body = "x".repeat(10 * usize::try_from(version).unwrap());
    Snapshot::new(version, n as u64 + 1, Kind::Wb, state, body.as_bytes(), &mut Vec::new())
}

impl World {
    fn new(runtime: &Arc<Runtime>, bytes_max: Option<u64>) -> Self {
        let config = cache::Config {
            list_max: 4,
            list_compress: false,
            feed_events_max: 4,
            bytes_max,
            absent_time: Duration::from_mins(10),
            ..cache::Config::default()
        };
        let (store, view) = (Scripted::default(), Arc::new(View::new(config, 0)));
        let ids = array::from_fn(|n| OrderId::parse(format!("o{n}").as_bytes()).unwrap());
        store.0.orders.lock().unwrap().insert(ids[0].clone(), copy(0, 1));
        if view.is_bounded() {
            view.counted(view.counting(), 1);
        }
        let patient = read::Config { load_wait: Duration::from_mins(2), ..read::Config::default() };
        let reader = Reader::new(Arc::clone(&view), store.clone(), patient).with_loads_in(runtime.handle().clone());
        Self { runtime: Arc::clone(runtime), store, view, reader, ids, acknowledged: array::from_fn(|_| 0.into()) }
    }

    /// Stores the next version of an order unless it is deleted; `by_other` only changes what is there and stays.
    fn commit(&self, n: usize, by_other: bool) -> Option<Event> {
        let id = &self.ids[n];
        let mut orders = self.store.0.orders.lock().unwrap();
        let stored = orders.get(id).map_or(0, Snapshot::version);
        if stored == LAST || (by_other && (stored == 0 || stored + 1 == LAST)) {
            return None;
        }
        let snapshot = copy(n, stored + 1);
        orders.insert(id.clone(), snapshot.clone());
        let change = match snapshot.version() {
            1 => ChangeKind::Created,
            LAST => ChangeKind::Deleted,
            _ => ChangeKind::Updated,
        };
        Some(Event::new(id.clone(), snapshot, change))
    }

    /// As ingest does it: pinned, stored, shown, acknowledged.
    fn change(&self, random: &mut Rng) {
        for _ in 0..3 {
            let n = random.usize(..IDS);
            let pinned = self.view.pin(vec![self.ids[n].clone()]);
            if let Some(event) = self.commit(n, false) {
                pause(random);
                let version = event.snapshot.version();
                self.view.publish(vec![event]);
                self.acknowledged[n].fetch_max(version, Ordering::SeqCst);
                let seen = self.view.peek(&self.ids[n]).map_or(0, |seen| seen.version());
                assert!(seen >= version, "{n}: version {version} is acknowledged, and {seen} is visible");
            }
            drop(pinned);
            pause(random);
        }
    }

    /// Another instance stores, and tells of it later.
    fn tell(&self, random: &mut Rng) {
        for _ in 0..3 {
            let n = random.usize(..IDS);
            if let Some(event) = self.commit(n, true) {
                pause(random);
                let version = event.snapshot.version();
                self.view.apply_remote(event);
                if !self.view.is_bounded() {
                    self.acknowledged[n].fetch_max(version, Ordering::SeqCst);
                }
            }
            pause(random);
        }
    }

    /// Reads again and again, through the store where the view does not know.
    fn read(&self, random: &mut Rng) {
        let mut last = [0; IDS];
        for _ in 0..4 {
            let n = random.usize(..IDS);
            let acknowledged = self.acknowledged[n].load(Ordering::SeqCst);
            let found = match self.reader.get(&self.ids[n]) {
                Found::Hit(snapshot) => Some(snapshot),
                Found::Absent => None,
                Found::Miss => self.runtime.block_on(self.reader.load(&self.ids[n])).expect("in time"),
            };
            let seen = found.map_or(0, |seen| seen.version());
            assert!(seen >= last[n], "{n}: a reader saw version {}, then {seen}", last[n]);
            assert!(seen >= acknowledged, "{n}: a reader saw {seen} after version {acknowledged} was acknowledged");
            last[n] = seen;
            pause(random);
        }
    }

    /// Reads all that is stored, as at a start.
    fn warm_up(&self, random: &mut Rng) {
        pause(random);
        let held = self.view.hold();
        let orders: Vec<_> = self.store.0.orders.lock().unwrap().clone().into_iter().collect();
        pause(random);
        self.view.fill_all(orders);
        drop(held);
        if !self.view.is_bounded() {
            self.view.set_complete();
        }
    }

    fn evict(&self, random: &mut Rng) {
        for _ in 0..6 {
            self.view.shrink();
            pause(random);
            if random.u8(..4) == 0 {
                self.view.settle();
            }
        }
    }

    /// What is true once all is quiet.
    fn check(&self) {
        let stored = self.store.0.orders.lock().unwrap().clone();
        let (mut entries, mut bytes) = (0, 0);
        for (n, id) in self.ids.iter().enumerate() {
            let (stored, visible) = (stored.get(id), self.view.peek(id));
            // Also where it is in the view: once it has left, this is what is asked.
            assert!(stored.is_none() || !self.view.is_absent(id), "{n}: it is stored, and unknown to the view");
            if self.view.is_bounded() && visible.is_none() {
                continue;
            }
            let shape = |one: &Snapshot| (one.version(), one.state());
            assert_eq!(visible.as_ref().map(shape), stored.map(shape), "{n}: the view is not the store");
            entries += usize::from(visible.is_some());
            bytes += visible.map_or(0, |visible| visible.resident_bytes() as u64);
        }
        let size = self.view.size();
        let live = stored.values().filter(|one| one.state() == State::Live).count() as u64;
        assert_eq!((size.live, size.entries, size.bytes), (live, entries, bytes), "the totals are wrong");
    }
}

/// Runs `tasks` at the same time, again and again, each round in a world of its own.
fn explore(tasks: &[Task], bytes_max: impl Fn(u64) -> Option<u64>) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let runtime = Arc::new(runtime);
    let seed = fastrand::u64(..);
    let (begin, end) = (Barrier::new(tasks.len() + 1), Barrier::new(tasks.len() + 1));
    let (world, failures) = (Mutex::new(None::<Arc<World>>), Mutex::new(Vec::new()));
    // A thread that fails must come to the barriers all the same.
    let guarded = |act: &mut dyn FnMut()| {
        if let Err(panic) = std::panic::catch_unwind(AssertUnwindSafe(act)) {
            let text = panic.downcast::<String>().map_or_else(|_| "another failure".into(), |text| *text);
            failures.lock().unwrap().push(text);
        }
    };
    std::thread::scope(|scope| {
        for (number, task) in tasks.iter().enumerate() {
            let (world, guarded, begin, end) = (&world, &guarded, &begin, &end);
            scope.spawn(move || {
                let mut random = Rng::with_seed(seed ^ number as u64);
                loop {
                    begin.wait();
                    let Some(world) = world.lock().unwrap().clone() else { return };
                    guarded(&mut || task(&world, &mut random));
                    drop(world);
                    end.wait();
                }
            });
        }
        for round in 0..ROUNDS {
            let current = Arc::new(World::new(&runtime, bytes_max(round)));
            *world.lock().unwrap() = Some(Arc::clone(&current));
            begin.wait();
            end.wait();
            guarded(&mut || current.check());
            if !failures.lock().unwrap().is_empty() {
                eprintln!("round {round} of {ROUNDS}, seed {seed}");
                break;
            }
        }
        *world.lock().unwrap() = None;
        begin.wait();
    });
    let failures = failures.into_inner().unwrap();
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[test]
fn a_view_of_everything_shows_the_newest_anyone_who_brings_it() {
    let tasks: [Task; 6] = [World::change, World::change, World::tell, World::read, World::read, World::warm_up];
    explore(&tasks, |_| None);
}

#[test]
fn a_view_with_a_budget_shows_the_newest_of_what_leaves_and_comes_back() {
    let tasks: [Task; 8] = [
        World::change,
        World::change,
        World::tell,
        World::tell,
        World::read,
        World::read,
        World::warm_up,
        World::evict,
    ];
    // Room for nothing, for one order, for all.
    explore(&tasks, |round| Some([1, 400, 1 << 20][round as usize % 3]));
}
