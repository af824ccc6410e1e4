//! A snapshot: one version of one order as the bytes it is answered with. Knows nothing of what the bytes mean.

use std::borrow::Cow;
use std::hash::{BuildHasher, RandomState};
use std::io::IoSlice;
use std::sync::LazyLock;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Buf;
use triomphe::ThinArc;

use crate::id::{Version, parse_uuid};

const PREFIX: &[u8] = b"{\"order\":";
const SUFFIX: &[u8] = b"}";
/// The bit of a snapshot that has the tag of its owner behind its text, and the bytes of that tag:
/// one number, so that the end of the text is found without a branch.
const HAS_OWNER: u64 = 8;
/// The bit that a reader sets.
const WAS_READ: u64 = 16;
/// Bits below the creation order.
const SHAPE_BITS: u32 = 5;

/// Whether an order is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum State {
    /// Shown everywhere.
    Live = 0,
    /// A deleted envelope order: readable by its id, in no list and no count.
    SoftDeleted = 1,
    /// Any other deleted order: its id answers 410.
    Tombstone = 2,
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

impl State {
    /// The word in messages.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Live => "live",
            Self::SoftDeleted => "hidden",
            Self::Tombstone => "gone",
        }
    }

    /// The state of this word; `None` for one of a newer instance.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        [Self::Live, Self::SoftDeleted, Self::Tombstone].into_iter().find(|state| state.as_str() == word)
    }
}

impl Kind {
    /// The kind of this word; `None` for one of a newer instance.
    #[must_use]
    pub fn parse(word: &str) -> Option<Self> {
        [Self::Wb, Self::Envelope].into_iter().find(|kind| kind.as_str() == word)
    }

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
pub enum ChangeKind {
    /// The id was unknown.
    Created,
    /// The body is another.
    Updated,
    /// It is deleted now.
    Deleted,
}

impl ChangeKind {
    /// The kind of change of this word; `None` for one of a newer instance.
    #[must_use]
    pub fn parse(word: &[u8]) -> Option<Self> {
        [Self::Created, Self::Updated, Self::Deleted].into_iter().find(|change| change.as_str().as_bytes() == word)
    }

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
    /// Creation order within the store, above a bit that says whether it was read, one that says
    /// whether it has the tag of its owner, one of [`Kind`] and two of [`State`]: every byte counts
    /// a million times.
    seq_and_shape: AtomicU64,
    /// The end of the text, where one allocation would leave much of its size class empty.
    rest: Box<[u8]>,
}

/// What the first allocation of a snapshot holds beside text: the count, [`Meta`] and the length.
const HEAD_BYTES: usize = size_of::<usize>() + size_of::<Meta>() + size_of::<usize>();

/// What a second allocation must save to be worth a second place to read from.
const SAVED_BYTES_MIN: usize = 16;

/// The size of the allocation for so many bytes: mimalloc has multiples of 16 up to 128, and four sizes to each doubling
/// after that, so that up to a fifth of an allocation is empty.
const fn size_class(bytes: usize) -> usize {
    if bytes <= 128 { bytes.next_multiple_of(16) } else { bytes.next_multiple_of(1 << (bytes - 1).ilog2() >> 2) }
}

/// How much of a text of so many bytes goes into the first allocation: all of it, or what fills it.
const fn first_bytes(text: usize) -> usize {
    let whole = HEAD_BYTES + text;
    if whole <= 128 {
        return text;
    }
    let filled = whole - whole % (1 << whole.ilog2() >> 2);
    let saved = size_class(whole) - filled - size_class(whole - filled);
    if saved >= SAVED_BYTES_MIN { filled - HEAD_BYTES } else { text }
}

/// Whose an order is, as a number: a keyed hash (SipHash with a key of this process) of `user_id`
/// or `customer_id`. Two owners have the same one with a chance of 2^-64, which no client can
/// raise. Every spelling of a UUID is the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OwnerTag(u64);

impl OwnerTag {
    /// The tag of this owner.
    #[must_use]
    pub fn of(owner: &str) -> Self {
        static KEY: LazyLock<RandomState> = LazyLock::new(RandomState::new);
        Self(match parse_uuid(owner.as_bytes()) {
            Some(uuid) => KEY.hash_one(uuid.as_bytes()),
            None => KEY.hash_one(owner),
        })
    }

    /// Which of so many parts it belongs to.
    #[must_use]
    pub fn share(self, parts: usize) -> usize {
        usize::try_from(self.0 % parts as u64).expect("less than a number of parts")
    }
}

/// One version of an order: the shared, immutable text `{"order":BODY}` with its version. It takes one allocation, or two
/// that together are nearly full: `cargo bench --bench memory` says what that comes to.
///
/// A clone is one atomic increment. The flat answer is a part of the wrapped one, so neither is ever made again.
#[derive(Clone)]
pub struct Snapshot(ThinArc<Meta, u8>);

/// A text in at most two pieces.
#[derive(Clone, Copy)]
pub struct Text<'a>(&'a [u8], &'a [u8]);

impl<'a> Text<'a> {
    /// Its bytes.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.len() + self.1.len()
    }

    /// Whether there are none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Appends it.
    pub fn append_to(&self, to: &mut Vec<u8>) {
        to.extend_from_slice(self.0);
        to.extend_from_slice(self.1);
    }

    /// In one piece; a copy where it is in two.
    #[must_use]
    pub fn whole(&self) -> Cow<'a, [u8]> {
        if self.1.is_empty() { Cow::Borrowed(self.0) } else { Cow::Owned([self.0, self.1].concat()) }
    }

    /// The same without memory of its own for the copy: that is made in `scratch`.
    #[must_use]
    pub fn whole_in<'s>(&self, scratch: &'s mut Vec<u8>) -> &'s [u8]
    where
        'a: 's,
    {
        if self.1.is_empty() {
            return self.0;
        }
        scratch.clear();
        self.append_to(scratch);
        scratch
    }

    fn part(&self, from: usize, to: usize) -> Self {
        let first = self.0.len();
        Self(&self.0[from.min(first)..to.min(first)], &self.1[from.saturating_sub(first)..to.saturating_sub(first)])
    }
}

impl<B: AsRef<[u8]> + ?Sized> PartialEq<B> for Text<'_> {
    fn eq(&self, other: &B) -> bool {
        let other = other.as_ref();
        other.len() == self.len() && other.starts_with(self.0) && other.ends_with(self.1)
    }
}

impl std::fmt::Debug for Text<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?}", String::from_utf8_lossy(&self.whole()))
    }
}

impl Snapshot {
    /// Wraps `body` (the flat order) once. `scratch` is working space, reused by callers that make many.
    #[must_use]
    pub fn new(version: Version, seq: u64, kind: Kind, state: State, body: &[u8], scratch: &mut Vec<u8>) -> Self {
        scratch.clear();
        if state != State::Tombstone {
            scratch.reserve(PREFIX.len() + body.len() + SUFFIX.len());
            scratch.extend_from_slice(PREFIX);
            scratch.extend_from_slice(body);
            scratch.extend_from_slice(SUFFIX);
        }
        Self::of_text(version, seq << SHAPE_BITS | (kind as u64) << 2 | state as u64, scratch)
    }

    fn of_text(version: Version, seq_and_shape: u64, text: &[u8]) -> Self {
        let (first, rest) = text.split_at(first_bytes(text.len()));
        let meta = Meta { version, seq_and_shape: AtomicU64::new(seq_and_shape), rest: rest.into() };
        Self(ThinArc::from_header_and_slice(meta, first))
    }

    /// The same copy with the tag of its owner, which takes 8 bytes. `scratch` is working space.
    #[must_use]
    pub fn with_owner(&self, owner: OwnerTag, scratch: &mut Vec<u8>) -> Self {
        scratch.clear();
        self.wrapped().append_to(scratch);
        scratch.extend_from_slice(&owner.0.to_ne_bytes());
        Self::of_text(self.version(), self.shape() | HAS_OWNER, scratch)
    }

    /// Whose this order is, where that was noted.
    #[must_use]
    pub fn owner(&self) -> Option<OwnerTag> {
        let tag = self.owner_bytes();
        if tag == 0 {
            return None;
        }
        let kept = Text(&self.0.slice, &self.0.header.header.rest);
        let tag = kept.part(kept.len() - tag, kept.len()).whole();
        Some(OwnerTag(u64::from_ne_bytes((*tag).try_into().expect("the tag has eight bytes"))))
    }

    /// Bytes behind the text.
    fn owner_bytes(&self) -> usize {
        (self.shape() & HAS_OWNER) as usize
    }

    /// The store's count of this order's changes.
    #[must_use]
    pub fn version(&self) -> Version {
        self.0.header.header.version
    }

    /// Creation order within the store; larger is newer.
    #[must_use]
    pub fn seq(&self) -> u64 {
        self.shape() >> SHAPE_BITS
    }

    /// Whether and where this order is shown.
    #[must_use]
    pub fn state(&self) -> State {
        match self.shape() & 3 {
            0 => State::Live,
            1 => State::SoftDeleted,
            _ => State::Tombstone,
        }
    }

    /// Which face this order has.
    #[must_use]
    pub fn kind(&self) -> Kind {
        if self.shape() & 4 == 0 { Kind::Wb } else { Kind::Envelope }
    }

    /// Notes that someone read this copy. Writes nothing when it is noted already.
    pub fn mark_read(&self) {
        if self.shape() & WAS_READ == 0 {
            self.0.header.header.seq_and_shape.fetch_or(WAS_READ, Ordering::Relaxed);
        }
    }

    /// Whether someone read this copy since this was last asked.
    #[must_use]
    pub fn take_read(&self) -> bool {
        self.shape() & WAS_READ != 0
            && self.0.header.header.seq_and_shape.fetch_and(!WAS_READ, Ordering::Relaxed) & WAS_READ != 0
    }

    fn shape(&self) -> u64 {
        self.0.header.header.seq_and_shape.load(Ordering::Relaxed)
    }

    /// `{"order":{…}}`; empty when [`State::Tombstone`].
    #[must_use]
    pub fn wrapped(&self) -> Text<'_> {
        let kept = Text(&self.0.slice, &self.0.header.header.rest);
        match self.owner_bytes() {
            0 => kept,
            tag => kept.part(0, kept.len() - tag),
        }
    }

    /// `{…}`, the order as its producer wrote it; empty when [`State::Tombstone`].
    #[must_use]
    pub fn flat(&self) -> Text<'_> {
        let (from, to) = self.flat_range();
        Text(&self.0.slice, &self.0.header.header.rest).part(from, to)
    }

    /// The bytes this snapshot keeps resident.
    #[must_use]
    pub fn resident_bytes(&self) -> usize {
        let (first, rest) = (&self.0.slice, &self.0.header.header.rest);
        size_class(HEAD_BYTES + first.len()) + size_class(rest.len())
    }

    /// The one rule of publishing: a copy replaces another only if it is newer, no matter who brings it.
    #[must_use]
    pub fn supersedes(&self, visible: &Self) -> bool {
        self.version() > visible.version()
    }

    /// Whether this is that very copy, and not one that says the same.
    #[must_use]
    pub fn is(&self, other: &Self) -> bool {
        std::ptr::eq(self.0.ptr(), other.0.ptr())
    }

    /// Whether this says the same as the other copy.
    #[must_use]
    pub fn says_same(&self, other: &Self) -> bool {
        self.version() == other.version()
            && self.state() == other.state()
            && self.wrapped().whole() == other.wrapped().whole()
    }

    /// What a reader who did not see this copy before takes it for.
    #[must_use]
    pub fn apparent_change(&self) -> ChangeKind {
        match self.state() {
            State::Live if self.version() == 1 => ChangeKind::Created,
            State::Live => ChangeKind::Updated,
            State::SoftDeleted | State::Tombstone => ChangeKind::Deleted,
        }
    }

    /// The wrapped answer as a response buffer.
    #[must_use]
    pub fn into_wrapped(self) -> SnapshotBytes {
        let to = self.wrapped().len();
        SnapshotBytes { snapshot: self, from: 0, to }
    }

    /// The flat answer as a response buffer.
    #[must_use]
    pub fn into_flat(self) -> SnapshotBytes {
        let (from, to) = self.flat_range();
        SnapshotBytes { snapshot: self, from, to }
    }

    fn flat_range(&self) -> (usize, usize) {
        let kept = self.0.slice.len() + self.0.header.header.rest.len();
        match kept - self.owner_bytes() {
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
            .field("bytes", &self.wrapped().len())
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

impl SnapshotBytes {
    fn left(&self) -> Text<'_> {
        self.snapshot.wrapped().part(self.from, self.to)
    }
}

impl Buf for SnapshotBytes {
    fn remaining(&self) -> usize {
        self.to - self.from
    }

    fn chunk(&self) -> &[u8] {
        let Text(first, rest) = self.left();
        if first.is_empty() { rest } else { first }
    }

    fn chunks_vectored<'a>(&'a self, into: &mut [IoSlice<'a>]) -> usize {
        let Text(first, rest) = self.left();
        let pieces = [first, rest].into_iter().filter(|piece| !piece.is_empty());
        into.iter_mut().zip(pieces).map(|(slot, piece)| *slot = IoSlice::new(piece)).count()
    }

    fn advance(&mut self, count: usize) {
        assert!(count <= self.remaining(), "advanced past the end of a snapshot");
        self.from += count;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(body: &[u8]) -> Snapshot {
        Snapshot::new(7, 1, Kind::Wb, State::Live, body, &mut Vec::new())
    }

    #[test]
    fn one_buffer_serves_both_answers() {
        let snapshot = of(b"{\"a\":1}");
        assert_eq!(snapshot.wrapped(), b"{\"order\":{\"a\":1}}");
        assert_eq!(snapshot.flat(), b"{\"a\":1}");
        assert_eq!(snapshot.flat().0.as_ptr(), snapshot.wrapped().0[9..].as_ptr());
        let mut buffer = snapshot.into_flat();
        buffer.advance(3);
        assert_eq!(buffer.chunk(), b"\":1}");
    }

    #[test]
    fn a_text_in_two_pieces_reads_as_one() {
        let mut in_two = 0;
        for length in (0_usize..400).chain(800..1600).chain([5000, 10_000, 100_000]) {
            let body: Vec<u8> = (0..=250).cycle().take(length).collect();
            let snapshot = of(&body);
            let wrapped = [PREFIX, &body, SUFFIX].concat();
            assert_eq!(snapshot.wrapped(), wrapped, "{length}");
            assert_eq!(snapshot.flat(), body, "{length}");
            assert_eq!(*snapshot.flat().whole(), *body);
            in_two += usize::from(!snapshot.wrapped().1.is_empty());
            assert!(snapshot.wrapped() != wrapped[1..] && snapshot.wrapped() != vec![0; wrapped.len()]);
            for advanced in [0, 1, length / 2, length.saturating_sub(1), length] {
                let mut buffer = snapshot.clone().into_flat();
                let mut slices = [IoSlice::new(&[]); 4];
                buffer.advance(advanced.min(length));
                let count = buffer.chunks_vectored(&mut slices);
                let left: Vec<u8> = slices[..count].iter().flat_map(|slice| slice.to_vec()).collect();
                assert_eq!(left, body[advanced.min(length)..], "{length} from {advanced}");
                assert_eq!(buffer.remaining(), left.len());
                let mut read = vec![0; buffer.remaining()];
                buffer.copy_to_slice(&mut read);
                assert_eq!(read, left);
            }
            // Never more than one allocation would take, and mostly not a twentieth more than the bytes.
            assert!(snapshot.resident_bytes() <= size_class(HEAD_BYTES + wrapped.len()), "{length}");
            assert!(length < 800 || snapshot.resident_bytes() * 100 <= (HEAD_BYTES + wrapped.len()) * 105, "{length}");
        }
        assert!(in_two > 500);
    }

    #[test]
    fn size_classes_are_four_to_a_doubling() {
        for (bytes, class) in
            [(0, 0), (1, 16), (128, 128), (129, 160), (160, 160), (161, 192), (1025, 1280), (1793, 2048)]
        {
            assert_eq!(size_class(bytes), class, "{bytes}");
        }
    }

    #[test]
    fn a_tombstone_has_no_body() {
        let gone = Snapshot::new(2, 1, Kind::Envelope, State::Tombstone, b"{\"a\":1}", &mut Vec::new());
        assert!(gone.wrapped().is_empty() && gone.flat().is_empty());
        assert_eq!((gone.version(), gone.seq(), gone.kind(), gone.state()), (2, 1, Kind::Envelope, State::Tombstone));
    }

    #[test]
    fn that_a_copy_was_read_is_told_once_and_changes_nothing_else() {
        let snapshot = Snapshot::new(7, 123, Kind::Envelope, State::SoftDeleted, b"{}", &mut Vec::new());
        assert!(!snapshot.take_read());
        snapshot.mark_read();
        snapshot.mark_read();
        assert_eq!((snapshot.seq(), snapshot.kind(), snapshot.state()), (123, Kind::Envelope, State::SoftDeleted));
        assert!(snapshot.take_read());
        assert!(!snapshot.take_read());
    }

    /// The tag stands behind the text, in whichever piece that is, and in no answer.
    #[test]
    fn a_copy_with_its_owner_says_the_same() {
        let owner = OwnerTag::of("test");
        for length in (0_usize..300).chain(800..1600) {
            let body: Vec<u8> = (0..=250).cycle().take(length).collect();
            let (plain, owned) = (of(&body), of(&body).with_owner(owner, &mut Vec::new()));
            assert_eq!((plain.owner(), owned.owner()), (None, Some(owner)), "{length}");
            assert_eq!(*owned.wrapped().whole(), *plain.wrapped().whole(), "{length}");
            assert_eq!(owned.flat(), body, "{length}");
            assert!(owned.says_same(&plain) && owned.seq() == plain.seq());
            let mut buffer = owned.clone().into_wrapped();
            assert_eq!(*buffer.copy_to_bytes(buffer.remaining()), *plain.wrapped().whole());
        }
        let gone =
            Snapshot::new(2, 9, Kind::Wb, State::Tombstone, b"", &mut Vec::new()).with_owner(owner, &mut Vec::new());
        assert!(gone.wrapped().is_empty() && gone.flat().is_empty() && gone.owner() == Some(owner));
        owned_shape();
    }

    fn owned_shape() {
        let snapshot = Snapshot::new(7, 123, Kind::Envelope, State::SoftDeleted, b"{}", &mut Vec::new());
        let owned = snapshot.with_owner(OwnerTag::of("a"), &mut Vec::new());
        owned.mark_read();
        assert_eq!((owned.seq(), owned.kind(), owned.state()), (123, Kind::Envelope, State::SoftDeleted));
        assert!(owned.take_read() && !owned.take_read());
        assert_ne!(OwnerTag::of("a"), OwnerTag::of("b"));
        let uuid = "11111111-2222-4333-8444-55555555555A";
        assert_eq!(OwnerTag::of(uuid), OwnerTag::of(&uuid.to_lowercase().replace('-', "")));
    }

    #[test]
    fn a_snapshot_is_one_pointer() {
        assert_eq!(size_of::<Snapshot>(), size_of::<usize>());
    }
}
