//! What a source hands over, and how far a source has come. Knows nothing of what a payload means.

use std::collections::BTreeMap;
use std::time::Instant;

use bytes::Bytes;

use crate::id::OrderId;

/// Where a record stands in its source. For a source without a log of its own it is a ticket: unique and rising.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Position {
    /// Partition of the source, 0 where it has none.
    pub partition: u32,
    /// Offset within the partition. Offsets rise but need not be contiguous.
    pub offset: u64,
}

/// One message, as it came.
#[derive(Debug, Clone)]
pub struct Record {
    /// Where it stands.
    pub position: Position,
    /// The message. `None` is a null value: delete the order that `key` names.
    pub payload: Option<Bytes>,
    /// The message's key, where the source has keys.
    pub key: Option<Bytes>,
    /// Set when the client asked for the same answer to the same request.
    pub idempotency: Option<Idempotency>,
    /// Set when the order is to be written only as long as it is what the client knows.
    pub condition: Option<Condition>,
    /// Set when the sender may write orders of this owner only (`user_id` or `customer_id`).
    pub owner: Option<Box<str>>,
    /// When the producer sent it, in milliseconds since 1970, where the source knows.
    pub timestamp_ms: Option<i64>,
    /// When the source got it, before it waited for its turn.
    pub arrived: Instant,
    /// What came with it, kept for its dead letter. `None` in the usual case of nothing.
    pub headers: Option<Box<Headers>>,
}

/// Names and values in the order they came.
pub type Headers = Vec<(String, Option<Bytes>)>;

impl Record {
    /// A message that is nothing but its payload, and has arrived now.
    #[must_use]
    pub fn new(position: Position, payload: Bytes) -> Self {
        Self {
            position,
            payload: Some(payload),
            key: None,
            idempotency: None,
            condition: None,
            owner: None,
            timestamp_ms: None,
            arrived: Instant::now(),
            headers: None,
        }
    }
}

/// A client's promise that two requests are one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Idempotency {
    /// The client's key, 1 to 255 visible ASCII characters.
    pub key: Box<str>,
    /// SHA-256 of the request body.
    pub digest: [u8; 32],
}

/// What must be so for a write to take effect. Judged where the write is made durable, so that of several with the same
/// condition one takes effect.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Condition {
    /// The order cannot be read yet.
    New,
    /// It exists.
    Exists,
    /// It exists in one of these versions.
    OneOf(Vec<Expected>),
}

/// A version that a client expects.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expected {
    /// The order that it is of, where the client has named that too.
    pub id: Option<Box<str>>,
    /// The version.
    pub version: u64,
}

/// What of a batch is to be published, recorded with the batch.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Parcel {
    /// What it is recorded under: drawn at random, positive.
    pub ticket: i64,
    /// What is to be published.
    pub contents: Contents,
}

/// The kinds of message a committed change becomes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Contents {
    /// Each changed order as it is now, for anyone who follows.
    pub snapshots: bool,
    /// Each changed envelope order, for a worker.
    pub events: bool,
    /// That each changed order was worked on.
    pub acks: bool,
}

impl Contents {
    /// Whether there is nothing to publish.
    #[must_use]
    pub fn is_empty(self) -> bool {
        self == Self::default()
    }
}

/// How far a source has come: partition to the next offset to read.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Checkpoint(pub BTreeMap<u32, u64>);

impl Checkpoint {
    /// Notes that everything up to and including `position` is dealt with.
    pub fn pass(&mut self, position: Position) {
        let next = self.0.entry(position.partition).or_default();
        *next = (*next).max(position.offset + 1);
    }

    /// The next offset to read of `partition`, 0 when nothing was read.
    #[must_use]
    pub fn next(&self, partition: u32) -> u64 {
        self.0.get(&partition).copied().unwrap_or_default()
    }
}

/// Why a record is no order. Names everything that is wrong with it, not only the first thing.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", self.line())]
pub struct Rejection {
    /// What kind of wrong it is.
    pub kind: RejectionKind,
    /// Each offence; never empty.
    pub faults: Vec<Fault>,
    /// The order that it would have been, where it names one all the same.
    pub order: Option<OrderId>,
}

/// The kinds of invalid record, coarse enough to count.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum RejectionKind {
    /// Not JSON, not UTF-8, or nested too deep.
    Malformed,
    /// Larger than `order_bytes_max`.
    TooLarge,
    /// JSON, but no valid order.
    Invalid,
}

/// One offence.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    /// RFC 6901 pointer to the offending value; empty for the whole document.
    pub pointer: String,
    /// What is wrong with it, without the value itself.
    pub message: String,
}

/// How many faults of one message are named before the rest is only mentioned.
pub const FAULTS_MAX: usize = 100;
/// How many bytes of pointers and messages are written before the rest is only mentioned: a small document of long keys
/// nested deep could otherwise ask for an answer a hundred times its size.
pub const FAULT_BYTES_MAX: usize = 32 << 10;
const MORE_FAULTS: &str = "there are more faults";

impl Fault {
    /// Says that not all are named.
    #[must_use]
    pub fn more() -> Self {
        Self { pointer: String::new(), message: MORE_FAULTS.into() }
    }

    fn is_more(&self) -> bool {
        self.pointer.is_empty() && self.message == MORE_FAULTS
    }

    /// What it counts for [`FAULT_BYTES_MAX`].
    #[must_use]
    pub fn bytes(&self) -> usize {
        self.pointer.len() + self.message.len()
    }
}

impl Rejection {
    /// A rejection of the whole document.
    #[must_use]
    pub fn whole(kind: RejectionKind, message: impl Into<String>) -> Self {
        Self { kind, faults: vec![Fault { pointer: String::new(), message: message.into() }], order: None }
    }

    /// A rejection of what is JSON and no valid order.
    #[must_use]
    pub fn invalid(faults: Vec<Fault>) -> Self {
        Self { kind: RejectionKind::Invalid, faults, order: None }
    }

    /// Says which order it would have been.
    #[must_use]
    pub fn of(self, order: Option<OrderId>) -> Self {
        Self { order, ..self }
    }

    /// Says that this is about the element at `index` of a document that is an array.
    pub fn within(&mut self, index: usize) {
        for fault in &mut self.faults {
            fault.pointer.insert_str(0, &format!("/{index}"));
        }
    }

    /// Adds what is wrong with another part of the same message, unless enough is named.
    pub fn join(&mut self, mut other: Self) {
        if self.faults.last().is_some_and(Fault::is_more) {
            return;
        }
        self.faults.append(&mut other.faults);
        let mut bytes = 0;
        let fits = |fault: &&Fault| {
            bytes += fault.bytes();
            bytes <= FAULT_BYTES_MAX
        };
        let fitting = self.faults.iter().take(FAULTS_MAX).take_while(fits).count();
        if fitting < self.faults.len() {
            self.faults.truncate(fitting);
            self.faults.push(Fault::more());
        }
    }

    /// One line naming every offence.
    #[must_use]
    pub fn line(&self) -> String {
        let mut line = String::new();
        for fault in &self.faults {
            if !line.is_empty() {
                line.push_str("; ");
            }
            if !fault.pointer.is_empty() {
                line.push_str(&fault.pointer);
                line.push_str(": ");
            }
            line.push_str(&fault.message);
        }
        line
    }
}

impl RejectionKind {
    /// The stable word for logs, metrics and error answers.
    #[must_use]
    pub fn code(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::TooLarge => "too_large",
            Self::Invalid => "invalid",
        }
    }
}

/// Headers of a dead letter, as Kafka Connect names them. What follows them is what came with the message.
pub mod dead {
    /// The topic the message came from.
    pub const TOPIC: &str = "__connect.errors.topic";
    /// Its partition there.
    pub const PARTITION: &str = "__connect.errors.partition";
    /// Its offset there.
    pub const OFFSET: &str = "__connect.errors.offset";
    /// The step that refused it.
    pub const STAGE: &str = "__connect.errors.stage";
    /// The kind of fault, as a name that stays.
    pub const CLASS: &str = "__connect.errors.exception.class.name";
    /// Everything that is wrong with it.
    pub const MESSAGE: &str = "__connect.errors.exception.message";
    /// How long the value was, for one that had to be cut to fit the topic.
    pub const CUT_FROM: &str = "orders.value.cut.from.bytes";
    /// How long the sender's headers were together, for one that left no room for them.
    pub const HEADERS_CUT_FROM: &str = "orders.headers.cut.from.bytes";
    /// How long the key was, for one that left no room for it.
    pub const KEY_CUT_FROM: &str = "orders.key.cut.from.bytes";
    /// When it was sent, in milliseconds since 1970, for one whose time the topic refused.
    pub const TIMESTAMP_MS: &str = "orders.timestamp.ms";
    /// That the message had no key, and was given one because the topic takes none without.
    pub const KEY_ADDED: &str = "orders.key.added";
    /// What those start with that every dead letter has.
    pub const PREFIX: &str = "__connect.errors.";
}
