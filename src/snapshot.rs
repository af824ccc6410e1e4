//! A snapshot: one version of one order as the bytes it is answered with. Knows nothing of what the bytes mean.

use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Buf;
use triomphe::ThinArc;

use crate::id::Version;

const PREFIX: &[u8] = b"{\"order\":";
const SUFFIX: &[u8] = b"}";
/// The bit that a reader sets.
const WAS_READ: u64 = 8;

/// Whether an order is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum State {
    /// Shown everywhere.
    Live = 0,
    /// A deleted envelope order: readable by its id, in no list and no count.
    Hidden = 1,
    /// Any other deleted order: its id answers 410.
    Gone = 2,
}

/// Which face an order has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Kind {
    /// A producer's own document.
    Wb = 0,
    /// A user's payload with an amount and a status.
    Envelope = 1,
}

impl Kind {
    /// The word in messages.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Wb => "wb",
            Self::Envelope => "envelope",
        }
    }
}

/// The kinds of committed change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Change {
    /// The id was unknown.
    Created,
    /// The body is another.
    Updated,
    /// It is deleted now.
    Deleted,
}

impl Change {
    /// The word in answers and events.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Updated => "updated",
            Self::Deleted => "deleted",
        }
    }
}

struct Meta {
    version: Version,
    /// Creation order within the store, above a bit that says whether it was read, one of [`Kind`] and two of [`State`]:
    /// every byte counts a million times.
    seq_and_shape: AtomicU64,
}

/// One version of an order: a shared, immutable buffer `{"order":BODY}` with its version, in a single allocation.
///
/// A clone is one atomic increment. The flat answer is a slice of the wrapped one, so neither is ever made again.
#[derive(Clone)]
pub struct Snapshot(ThinArc<Meta, u8>);

impl Snapshot {
    /// Wraps `body` (the flat order) once. `scratch` is working space, reused by callers that make many.
    #[must_use]
    pub fn new(version: Version, seq: u64, kind: Kind, state: State, body: &[u8], scratch: &mut Vec<u8>) -> Self {
        scratch.clear();
        if state != State::Gone {
            scratch.reserve(PREFIX.len() + body.len() + SUFFIX.len());
            scratch.extend_from_slice(PREFIX);
            scratch.extend_from_slice(body);
            scratch.extend_from_slice(SUFFIX);
        }
        let seq_and_shape = AtomicU64::new(seq << 4 | (kind as u64) << 2 | state as u64);
        Self(ThinArc::from_header_and_slice(Meta { version, seq_and_shape }, scratch))
    }

    /// The store's count of this order's changes.
    #[must_use]
    pub fn version(&self) -> Version {
        self.0.header.header.version
    }

    /// Creation order within the store; larger is newer.
    #[must_use]
    pub fn seq(&self) -> u64 {
        self.shape() >> 4
    }

    /// Whether and where this order is shown.
    #[must_use]
    pub fn state(&self) -> State {
        match self.shape() & 3 {
            0 => State::Live,
            1 => State::Hidden,
            _ => State::Gone,
        }
    }

    /// Which face this order has.
    #[must_use]
    pub fn kind(&self) -> Kind {
        if self.shape() & 4 == 0 { Kind::Wb } else { Kind::Envelope }
    }

    /// Notes that somebody read this copy. Writes nothing when it is noted already.
    pub fn mark_read(&self) {
        if self.shape() & WAS_READ == 0 {
            self.0.header.header.seq_and_shape.fetch_or(WAS_READ, Ordering::Relaxed);
        }
    }

    /// Whether somebody read this copy since this was last asked.
    #[must_use]
    pub fn take_read(&self) -> bool {
        self.shape() & WAS_READ != 0
            && self.0.header.header.seq_and_shape.fetch_and(!WAS_READ, Ordering::Relaxed) & WAS_READ != 0
    }

    fn shape(&self) -> u64 {
        self.0.header.header.seq_and_shape.load(Ordering::Relaxed)
    }

    /// `{"order":{…}}`; empty when [`State::Gone`].
    #[must_use]
    pub fn wrapped(&self) -> &[u8] {
        &self.0.slice
    }

    /// `{…}`, the order as its producer wrote it; empty when [`State::Gone`].
    #[must_use]
    pub fn flat(&self) -> &[u8] {
        let (from, to) = self.flat_range();
        &self.0.slice[from..to]
    }

    /// The bytes this snapshot keeps resident, without the allocator's rounding.
    #[must_use]
    pub fn resident_bytes(&self) -> usize {
        self.0.slice.len() + size_of::<Meta>() + 2 * size_of::<usize>()
    }

    /// The one rule of publishing: a copy replaces another only if it is newer, whoever brings it.
    #[must_use]
    pub fn supersedes(&self, visible: &Self) -> bool {
        self.version() > visible.version()
    }

    /// What a reader who did not see this copy before takes it for.
    #[must_use]
    pub fn apparent_change(&self) -> Change {
        match self.state() {
            State::Live if self.version() == 1 => Change::Created,
            State::Live => Change::Updated,
            State::Hidden | State::Gone => Change::Deleted,
        }
    }

    /// The wrapped answer as a response buffer.
    #[must_use]
    pub fn into_wrapped(self) -> SnapshotBytes {
        let to = self.0.slice.len();
        SnapshotBytes { snapshot: self, from: 0, to }
    }

    /// The flat answer as a response buffer.
    #[must_use]
    pub fn into_flat(self) -> SnapshotBytes {
        let (from, to) = self.flat_range();
        SnapshotBytes { snapshot: self, from, to }
    }

    fn flat_range(&self) -> (usize, usize) {
        match self.0.slice.len() {
            0 => (0, 0),
            len => (PREFIX.len(), len - SUFFIX.len()),
        }
    }
}

impl std::fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Snapshot")
            .field("version", &self.version())
            .field("seq", &self.seq())
            .field("state", &self.state())
            .field("bytes", &self.0.slice.len())
            .finish()
    }
}

/// What is left to send of a snapshot. Holds the snapshot alive, copies nothing.
#[derive(Debug)]
pub struct SnapshotBytes {
    snapshot: Snapshot,
    from: usize,
    to: usize,
}

impl Buf for SnapshotBytes {
    fn remaining(&self) -> usize {
        self.to - self.from
    }

    fn chunk(&self) -> &[u8] {
        &self.snapshot.0.slice[self.from..self.to]
    }

    fn advance(&mut self, count: usize) {
        assert!(count <= self.remaining(), "advanced past the end of a snapshot");
        self.from += count;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_buffer_serves_both_answers() {
        let snapshot = Snapshot::new(7, 1, Kind::Wb, State::Live, b"{\"a\":1}", &mut Vec::new());
        assert_eq!(snapshot.wrapped(), b"{\"order\":{\"a\":1}}");
        assert_eq!(snapshot.flat(), b"{\"a\":1}");
        assert_eq!(snapshot.flat().as_ptr(), snapshot.wrapped()[9..].as_ptr());
        let mut buffer = snapshot.into_flat();
        buffer.advance(3);
        assert_eq!(buffer.chunk(), b"\":1}");
    }

    #[test]
    fn a_tombstone_has_no_body() {
        let gone = Snapshot::new(2, 1, Kind::Envelope, State::Gone, b"{\"a\":1}", &mut Vec::new());
        assert_eq!((gone.wrapped(), gone.flat()), (&b""[..], &b""[..]));
        assert_eq!((gone.version(), gone.seq(), gone.kind(), gone.state()), (2, 1, Kind::Envelope, State::Gone));
    }

    #[test]
    fn that_a_copy_was_read_is_told_once_and_changes_nothing_else() {
        let snapshot = Snapshot::new(7, 123, Kind::Envelope, State::Hidden, b"{}", &mut Vec::new());
        assert!(!snapshot.take_read());
        snapshot.mark_read();
        snapshot.mark_read();
        assert_eq!((snapshot.seq(), snapshot.kind(), snapshot.state()), (123, Kind::Envelope, State::Hidden));
        assert!(snapshot.take_read());
        assert!(!snapshot.take_read());
    }

    #[test]
    fn a_snapshot_is_one_pointer() {
        assert_eq!(size_of::<Snapshot>(), size_of::<usize>());
    }
}
