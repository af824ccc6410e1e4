//! The publish rule, model-checked: ingest, read-through and warm-up race for one order over a small stand-in map, in
//! every interleaving the scheduler finds. The rule itself is the one the view uses: `Snapshot::supersedes`.

use order_service::snapshot::{Kind, Snapshot, State};
use shuttle::sync::{Arc, Mutex};
use shuttle::thread;

/// Changes committed by ingest; the last one deletes.
const CHANGES: u64 = 3;
/// Interleavings tried.
const SCHEDULES: usize = 20_000;

type Rule = fn(&Snapshot, &Snapshot) -> bool;

/// A map of one key, as papaya is one: a decision is made on what was read, and holds only if nothing changed since;
/// else it is made again.
struct Slot {
    value: Mutex<(u64, Option<Snapshot>)>,
    rule: Rule,
}

impl Slot {
    fn get(&self) -> Option<Snapshot> {
        self.value.lock().unwrap().1.clone()
    }

    fn fill(&self, new: &Snapshot) -> bool {
        loop {
            let (stamp, visible) = {
                let value = self.value.lock().unwrap();
                (value.0, value.1.clone())
            };
            if visible.as_ref().is_some_and(|visible| !(self.rule)(new, visible)) {
                return false;
            }
            let mut value = self.value.lock().unwrap();
            if value.0 == stamp {
                *value = (stamp + 1, Some(new.clone()));
                return true;
            }
        }
    }
}

/// Everything the tasks share.
struct World {
    store: Mutex<Option<Snapshot>>,
    slot: Slot,
    is_complete: Mutex<bool>,
}

fn copy(version: u64) -> Snapshot {
    let state = if version == CHANGES { State::Tombstone } else { State::Live };
    Snapshot::new(version, 1, Kind::Wb, state, b"{}", &mut Vec::new())
}

fn version(copy: Option<&Snapshot>) -> u64 {
    copy.map_or(0, Snapshot::version)
}

/// Commits, publishes, acknowledges; an acknowledged change is visible.
fn ingest(world: &World) {
    for number in 1..=CHANGES {
        *world.store.lock().unwrap() = Some(copy(number));
        world.slot.fill(&copy(number));
        let seen = world.slot.get();
        assert!(version(seen.as_ref()) >= number, "an acknowledged change is not visible");
    }
}

/// Misses, asks the store, brings what it found.
fn read_through(world: &World) {
    if world.slot.get().is_none() {
        let fetched = world.store.lock().unwrap().clone();
        thread::yield_now(); // the store is far away
        if let Some(fetched) = fetched {
            world.slot.fill(&fetched);
        }
    }
}

/// Scans a picture of the store, then says that the view is complete.
fn warm_up(world: &World) {
    let picture = world.store.lock().unwrap().clone();
    thread::yield_now();
    if let Some(picture) = picture {
        world.slot.fill(&picture);
    }
    *world.is_complete.lock().unwrap() = true;
}

/// Looks again and again: nothing older than what it saw, and no 404 for what was stored before it looked.
fn watch(world: &World) {
    let mut last = 0;
    for _ in 0..3 {
        let seen = version(world.slot.get().as_ref());
        assert!(seen >= last, "a reader saw version {last}, then {seen}");
        last = seen;
    }
}

fn explore(rule: Rule) {
    let body = move || {
        let slot = Slot { value: Mutex::new((0, None)), rule };
        let world = Arc::new(World { store: Mutex::new(None), slot, is_complete: Mutex::new(false) });
        let tasks: [fn(&World); 5] = [ingest, read_through, read_through, warm_up, watch];
        let running: Vec<_> = tasks
            .into_iter()
            .map(|task| {
                let world = Arc::clone(&world);
                thread::spawn(move || task(&world))
            })
            .collect();
        for task in running {
            task.join().unwrap();
        }
        assert!(*world.is_complete.lock().unwrap());
        let (stored, seen) = (world.store.lock().unwrap().clone(), world.slot.get());
        assert_eq!(version(stored.as_ref()), version(seen.as_ref()), "the view is not the store");
        assert_eq!(seen.map(|seen| seen.state()), Some(State::Tombstone), "a deleted order came back");
    };
    shuttle::check_pct(body, SCHEDULES / 4, 3);
    shuttle::check_random(body, SCHEDULES);
}

#[test]
fn newest_wins_anyone_who_brings_it() {
    explore(Snapshot::supersedes);
}

#[test]
#[should_panic(expected = "a reader saw version")]
fn the_model_notices_a_rule_that_lets_the_last_one_win() {
    // Without this the model would prove nothing.
    explore_quietly(|_, _| true);
}

fn explore_quietly(rule: Rule) {
    let result = std::panic::catch_unwind(|| explore(rule));
    let message = match result {
        Ok(()) => panic!("no interleaving showed the fault"),
        // A text without arguments is another type.
        Err(panic) => match panic.downcast::<String>() {
            Ok(message) => *message,
            Err(panic) => panic.downcast_ref::<&str>().copied().unwrap_or_default().to_owned(),
        },
    };
    // Any of these is the fault seen from another side.
    for sign in [
        "a reader saw version",
        "an acknowledged change is not visible",
        "the view is not the store",
        "a deleted order came back",
    ] {
        assert!(!message.contains(sign), "a reader saw version: {message}");
    }
    panic!("another failure: {message}");
}

/// What is known of one order where it may leave the view.
struct Bounded {
    store: Mutex<u64>,
    /// The version in the view, and how many keep it from leaving.
    slot: Mutex<(Option<u64>, usize)>,
    acknowledged: Mutex<u64>,
    has_pins: bool,
}

impl Bounded {
    fn pin(&self) {
        self.slot.lock().unwrap().1 += usize::from(self.has_pins);
    }

    fn unpin(&self) {
        self.slot.lock().unwrap().1 -= usize::from(self.has_pins);
    }

    fn fill(&self, version: u64) {
        let mut slot = self.slot.lock().unwrap();
        slot.0 = slot.0.max(Some(version));
    }

    /// One of two sources that change the order: they take turns in the store, and not in the view.
    fn change(&self) {
        self.pin();
        let version = {
            let mut store = self.store.lock().unwrap();
            *store += 1;
            *store
        };
        thread::yield_now();
        self.fill(version);
        {
            let mut acknowledged = self.acknowledged.lock().unwrap();
            *acknowledged = version.max(*acknowledged);
        }
        self.unpin();
    }

    fn read_through(&self) {
        self.pin();
        let version = *self.store.lock().unwrap();
        thread::yield_now();
        self.fill(version);
        self.unpin();
    }

    fn evict(&self) {
        for _ in 0..2 {
            let mut slot = self.slot.lock().unwrap();
            if slot.1 == 0 {
                slot.0 = None;
            }
        }
    }

    fn watch(&self) {
        for _ in 0..3 {
            let acknowledged = *self.acknowledged.lock().unwrap();
            let seen = self.slot.lock().unwrap().0;
            assert!(
                seen.is_none_or(|seen| seen >= acknowledged),
                "a reader saw version {seen:?} after {acknowledged} was acknowledged"
            );
        }
    }
}

fn explore_bounded(has_pins: bool) {
    let body = move || {
        let world =
            Bounded { store: Mutex::new(1), slot: Mutex::new((None, 0)), acknowledged: Mutex::new(1), has_pins };
        let world = Arc::new(world);
        let tasks: [fn(&Bounded); 6] = [
            Bounded::change,
            Bounded::change,
            Bounded::read_through,
            Bounded::read_through,
            Bounded::evict,
            Bounded::watch,
        ];
        let running: Vec<_> = tasks
            .into_iter()
            .map(|task| {
                let world = Arc::clone(&world);
                thread::spawn(move || task(&world))
            })
            .collect();
        for task in running {
            task.join().unwrap();
        }
        world.watch();
    };
    shuttle::check_pct(body, SCHEDULES / 4, 3);
    shuttle::check_random(body, SCHEDULES);
}

#[test]
fn what_left_comes_back_no_older() {
    explore_bounded(true);
}

#[test]
#[should_panic(expected = "a reader saw version")]
fn the_model_notices_that_nothing_is_pinned() {
    explore_bounded(false);
}
