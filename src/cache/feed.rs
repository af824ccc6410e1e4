//! Committed changes in the order they became visible, the newest few kept so that a reader who was
//! unavailable can resume. Of each order versions only rise: several may tell of one change, and
//! one that tells of an older one may come last.

use std::collections::{HashMap, VecDeque};
use std::sync::Mutex;

use foldhash::fast::RandomState;
use tokio::sync::watch;

use crate::id::{OrderId, Version};
use crate::snapshot::{ChangeKind, OwnerTag, Snapshot};
use crate::sync::lock;

/// One committed change.
#[derive(Debug, Clone)]
pub struct Event {
    /// The order.
    pub id: OrderId,
    /// Its copy after the change.
    pub snapshot: Snapshot,
    /// What kind of change it was.
    pub change: ChangeKind,
    /// Whose it was before, where that matters.
    pub former: Former,
}

/// The owners of an order before a change, who have to be told that it is theirs no longer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Former {
    /// These former owners; most often none.
    Known(Vec<OwnerTag>),
    /// The copy from before the change is not in memory.
    Unknown,
}

impl Event {
    /// A change of which only the result is known.
    #[must_use]
    pub fn new(id: OrderId, snapshot: Snapshot, change: ChangeKind) -> Self {
        let former = if change == ChangeKind::Created { Former::Known(Vec::new()) } else { Former::Unknown };
        Self { id, snapshot, change, former }
    }
}

/// A bounded log of changes. Offsets rise by one from 0 and are valid within this process only.
#[derive(Debug)]
pub struct Feed {
    events_max: usize,
    bytes_max: usize,
    kept: Mutex<Kept>,
    head: watch::Sender<u64>,
}

#[derive(Debug, Default)]
struct Kept {
    events: VecDeque<Event>,
    bytes: usize,
    /// The newest version of each order among them.
    newest: HashMap<OrderId, Version, RandomState>,
    /// The offset of the first kept event.
    first: u64,
}

/// What a reader gets.
#[derive(Debug)]
pub enum Read {
    /// Events from the offset asked for; none when it is the head.
    Events(Vec<Event>),
    /// The offset is no longer kept, or never existed: continue from this one after reading the
    /// full state.
    Lost(u64),
}

impl Feed {
    /// Keeps at most `events_max` events of at most `bytes_max` bytes of orders.
    #[must_use]
    pub fn new(events_max: usize, bytes_max: usize) -> Self {
        Self { events_max, bytes_max, kept: Mutex::default(), head: watch::Sender::new(0) }
    }

    /// Appends a batch of changes, but for those that were told of already, or that a newer one
    /// was; readers wake once. Returns by how much the number of live orders changes with what was
    /// not told of already: an order that was created counts also where a newer change of it was
    /// told of first.
    pub fn append(&self, events: impl IntoIterator<Item = Event>) -> i64 {
        let mut live = 0;
        let mut kept = lock(&self.kept);
        for event in events {
            let version = event.snapshot.version();
            let newest = kept.newest.get(&event.id).copied();
            if newest == Some(version) {
                continue;
            }
            live += match event.change {
                ChangeKind::Created => 1,
                ChangeKind::Updated => 0,
                ChangeKind::Deleted => -1,
            };
            if newest.is_some_and(|newest| newest > version) {
                continue;
            }
            kept.newest.insert(event.id.clone(), version);
            kept.bytes += event.snapshot.resident_bytes();
            kept.events.push_back(event);
        }
        while kept.events.len() > self.events_max || (kept.bytes > self.bytes_max && kept.events.len() > 1) {
            let Some(oldest) = kept.events.pop_front() else { break };
            kept.bytes -= oldest.snapshot.resident_bytes();
            if kept.newest.get(&oldest.id) == Some(&oldest.snapshot.version()) {
                kept.newest.remove(&oldest.id);
            }
            kept.first += 1;
        }
        let head = kept.first + kept.events.len() as u64;
        drop(kept);
        self.head.send_replace(head);
        live
    }

    /// Has every reader start over: events that were delivered are no longer true.
    pub fn reset(&self) {
        let mut kept = lock(&self.kept);
        let head = kept.first + kept.events.len() as u64 + 1;
        *kept = Kept { first: head, ..Kept::default() };
        drop(kept);
        self.head.send_replace(head);
    }

    /// The offset of the next event.
    #[must_use]
    pub fn head(&self) -> u64 {
        *self.head.borrow()
    }

    /// Tells when the head moves.
    #[must_use]
    pub fn watch(&self) -> watch::Receiver<u64> {
        self.head.subscribe()
    }

    /// At most `limit` events from offset `from` on.
    #[must_use]
    pub fn read(&self, from: u64, limit: usize) -> Read {
        let kept = lock(&self.kept);
        let head = kept.first + kept.events.len() as u64;
        let Some(skip) = from.checked_sub(kept.first).filter(|_| from <= head) else { return Read::Lost(head) };
        let skip = usize::try_from(skip).expect("at most the number of kept events");
        Read::Events(kept.events.iter().skip(skip).take(limit).cloned().collect())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::{Kind, State};

    fn event(seq: u64) -> Event {
        let snapshot = Snapshot::new(1, seq, Kind::Wb, State::Live, b"{}", &mut Vec::new());
        let id = OrderId::parse(format!("o{seq}").as_bytes()).unwrap();
        Event::new(id, snapshot, ChangeKind::Created)
    }

    #[test]
    fn a_reader_resumes_or_is_told_that_it_lost_events() {
        let feed = Feed::new(3, 1 << 20);
        feed.append((0..5).map(event));
        assert!(matches!(feed.read(1, 9), Read::Lost(5)));
        assert!(matches!(feed.read(6, 9), Read::Lost(5)));
        let Read::Events(events) = feed.read(3, 9) else { panic!("kept") };
        assert_eq!(events.iter().map(|event| event.snapshot.seq()).collect::<Vec<_>>(), [3, 4]);
        assert!(matches!(feed.read(5, 9), Read::Events(events) if events.is_empty()));
    }

    /// Of two that tell of changes of one order, the one with the older change may come last.
    #[test]
    fn versions_of_an_order_only_rise_and_none_is_told_twice() {
        let feed = Feed::new(3, 1 << 20);
        let change = |version, change| {
            let snapshot = Snapshot::new(version, 1, Kind::Wb, State::Live, b"{}", &mut Vec::new());
            Event::new(OrderId::parse(b"a").unwrap(), snapshot, change)
        };
        assert_eq!(feed.append([change(1, ChangeKind::Created), change(1, ChangeKind::Created)]), 1);
        assert_eq!(
            feed.append([
                change(3, ChangeKind::Updated),
                change(2, ChangeKind::Updated),
                change(3, ChangeKind::Updated)
            ]),
            0
        );
        let Read::Events(events) = feed.read(0, 9) else { panic!("kept") };
        assert_eq!(events.iter().map(|event| event.snapshot.version()).collect::<Vec<_>>(), [1, 3]);
        let other = |version, kind| Event { id: OrderId::parse(b"b").unwrap(), ..change(version, kind) };
        assert_eq!(
            feed.append([other(2, ChangeKind::Updated), other(1, ChangeKind::Created)]),
            1,
            "it was created all the same"
        );
        feed.append((5..8).map(event));
        assert!(matches!(feed.read(0, 9), Read::Lost(6)));
        assert_eq!(feed.kept.lock().unwrap().newest.len(), 3, "what is not kept takes no room");
    }

    #[test]
    fn after_a_reset_every_reader_is_told_that_it_lost_events() {
        let feed = Feed::new(9, 1 << 20);
        feed.append((0..3).map(event));
        feed.reset();
        assert!(matches!(feed.read(3, 9), Read::Lost(4)), "also one that had read all");
        feed.append([event(7)]);
        assert!(matches!(feed.read(4, 9), Read::Events(events) if events.len() == 1));
    }

    #[test]
    fn bytes_are_bounded_but_the_newest_event_always_stays() {
        let feed = Feed::new(100, 10);
        feed.append((0..5).map(event));
        assert!(matches!(feed.read(4, 9), Read::Events(events) if events.len() == 1));
        assert!(matches!(feed.read(3, 9), Read::Lost(5)));
    }
}
