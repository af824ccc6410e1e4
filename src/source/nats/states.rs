//! The states of the consumer: whether it reads, what it holds until that is durable, and what it misses.

use std::time::Instant;

use async_nats::Subject;
use async_nats::jetstream::Message;
use time::OffsetDateTime as DateTime;

/// What is done with the partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reading {
    /// There is none yet.
    Nothing,
    /// Its stored position is asked for.
    Offered,
    /// It is handed over.
    Active,
    /// Another process moves its position, which was `seen` and is asked for again when it is `due`.
    Standby { seen: Option<u64>, due: Option<Instant> },
    /// It is given back as soon as what came of it is durable.
    Releasing { until: Instant },
}

/// A message that is handed over and not yet durable.
pub(super) struct Held {
    pub(super) sequence: u64,
    /// Where to acknowledge it; nowhere as long as it was only read from the stream.
    pub(super) reply: Option<Subject>,
    /// When the server last heard or said something of it.
    pub(super) touched: Instant,
    pub(super) is_parked: bool,
}

/// Messages that are missing, and are read from the stream.
pub(super) struct Gap {
    /// Everything below is wanted.
    pub(super) until: u64,
    /// The message that has shown the gap.
    pub(super) arrived: Option<Message>,
    /// Deliveries are taken again then, filled or not.
    pub(super) deadline: Option<Instant>,
}

/// The number of a stream that was made then: of the microseconds since 1970 what PostgreSQL's `integer` has room for. A
/// stream made again has the number of the former one once in two thousand million times.
pub(super) fn partition(created: DateTime) -> u32 {
    let micros = created.unix_timestamp_nanos() / 1000;
    u32::try_from(micros & 0x7fff_ffff).unwrap_or_default()
}
