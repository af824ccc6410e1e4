//! The concurrent map of the view. Look-ups take no lock; a copy enters in one step, which decides
//! under the map's own rules whether it is newer. What publishes, evicts and lists is elsewhere:
//! this knows ids and snapshots only.

use foldhash::quality::RandomState;
use papaya::{Compute, HashMap, Operation, ResizeMode};

use super::tally::TallyDelta;
use crate::id::OrderId;
use crate::snapshot::Snapshot;

/// From id to the newest visible copy.
pub(super) type Map = HashMap<OrderId, Snapshot, RandomState>;

/// The map, pinned: what is read through this stays in memory for as long as this lives.
pub(super) type Orders<'v> = papaya::HashMapRef<'v, OrderId, Snapshot, RandomState, papaya::LocalGuard<'v>>;

/// An empty map with room for `capacity` orders. `is_bounded` when orders may leave it.
pub(super) fn empty(is_bounded: bool, capacity: usize) -> Map {
    HashMap::builder().capacity(capacity).resize_mode(resize_mode(is_bounded)).hasher(RandomState::default()).build()
}

/// How the map gets a larger table, or one without the marks that removed orders leave.
const fn resize_mode(is_bounded: bool) -> ResizeMode {
    if is_bounded {
        // Time and again where orders come and leave, and what waits for the store waits for it
        // too: in small steps, each of which takes some microseconds of an insertion or removal.
        // `View::settle` takes the rest of them.
        ResizeMode::Incremental(64)
    } else {
        // Steps would make every look-up and insertion ten times slower for as long as it takes,
        // reads included. At once it stops writers only, for some 20 ms at half a million orders;
        // readers go on.
        ResizeMode::Blocking
    }
}

/// The one place where a copy enters the map: newest wins, no matter who brings it.
/// Returns what that changed, and the copy that it took the place of.
pub(super) fn fill<'m>(
    map: &'m Orders<'_>,
    id: OrderId,
    snapshot: Snapshot,
) -> Option<(TallyDelta, Option<&'m Snapshot>)> {
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
pub(super) fn update<'m>(map: &'m Orders<'_>, id: &OrderId, snapshot: &Snapshot) -> Option<(TallyDelta, &'m Snapshot)> {
    let result = map.compute(id.clone(), |visible| match visible {
        Some((_, visible)) if snapshot.supersedes(visible) => Operation::Insert(snapshot.clone()),
        _ => Operation::Abort(()),
    });
    match result {
        Compute::Updated { old: (_, old), new: (_, new) } => Some((TallyDelta::between(Some(old), new), old)),
        _ => None,
    }
}

/// Replaces a copy by `stored`, older as it may be, or removes it when there is none; only where
/// `seen` is what is visible. Returns what that changed; `None` where another copy is visible.
pub(super) fn put_back(
    map: &Orders<'_>,
    id: &OrderId,
    seen: &Snapshot,
    stored: Option<&Snapshot>,
) -> Option<TallyDelta> {
    let replaced = map.compute(id.clone(), |visible| match (visible, stored) {
        (Some((_, visible)), Some(stored)) if visible.is(seen) => Operation::Insert(stored.clone()),
        (Some((_, visible)), None) if visible.is(seen) => Operation::Remove,
        _ => Operation::Abort(()),
    });
    match replaced {
        Compute::Updated { old: (_, old), new: (_, new) } => Some(TallyDelta::between(Some(old), new)),
        Compute::Removed(_, old) => Some(TallyDelta::of_removal(old)),
        Compute::Inserted(..) | Compute::Aborted(()) => None,
    }
}

/// Removes a copy, unless it was read since it was looked at last; one that `must` go is removed
/// all the same. Returns what was removed.
pub(super) fn remove<'m>(map: &'m Orders<'_>, id: &OrderId, must: bool) -> Option<&'m Snapshot> {
    let removed = map.compute(id.clone(), |visible| match visible {
        Some((_, visible)) if !must && visible.take_read() => Operation::Abort(()),
        Some(_) => Operation::Remove,
        None => Operation::Abort(()),
    });
    match removed {
        Compute::Removed(_, gone) => Some(gone),
        _ => None,
    }
}
