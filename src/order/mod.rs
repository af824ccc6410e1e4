//! The order: parsed, validated and made into its body once. Everything that reads or writes an order's JSON is here,
//! and nothing of where orders come from or where they are kept.

pub mod column_reader;
pub mod columns;
pub mod compact;
pub mod date;
pub mod decimal;
pub mod decode;
pub mod elements;
pub mod envelope;
pub mod message;
pub mod sample;
mod tape;
pub mod validate;

mod faults;
mod request;
mod scan;

use bytes::Bytes;

use crate::id::{OrderId, parse_uuid};

pub use decode::Decoder;
pub use envelope::{Envelope, Status};
pub use request::{EXTERNAL_ID_BYTES_MAX, external_id};
pub use validate::Profile;

/// A valid order: having one proves that it passed its profile.
#[derive(Debug, Clone)]
pub struct Order {
    /// The key every answer is found by.
    pub id: OrderId,
    /// What is to happen to the order of that id.
    pub command: Command,
    /// The scalars of a WB order, where the decoder was asked for them.
    pub columns: Option<columns::Packed>,
    /// Where it was stored before, if it comes from another store.
    pub past: Option<Past>,
}

/// What another store had of an order beside its document; times in microseconds since 1970.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Past {
    /// When it was stored there first.
    pub created_micros: i64,
    /// When it last changed there.
    pub updated_micros: i64,
    /// Whether the times say which of two copies is newer. If not, they count only for an order that is not stored yet.
    pub decides: bool,
    /// Whether it was an envelope order, which a deletion by itself does not say.
    pub is_envelope: bool,
}

/// The user and the external id that a stored order is looked up by. `None` for an order that has none.
#[must_use]
pub fn external_key(body: &[u8]) -> Option<(String, Box<str>)> {
    let stored = envelope::Stored::parse(body)?;
    Some((stored.user_id.to_owned(), external_id(stored.payload)?))
}

/// Whose a stored order is: `user_id` of an envelope order, `customer_id` of a WB order. `None` for
/// one that names no owner.
#[must_use]
pub fn owner_of(is_envelope: bool, body: &[u8]) -> Option<String> {
    let owner =
        if is_envelope { envelope::Stored::parse(body)?.user_id.to_owned() } else { column_reader::customer_id(body)? };
    Some(owner).filter(|owner| !owner.is_empty())
}

/// Whether two texts name one owner: a UUID in any spelling is the same.
#[must_use]
pub fn is_same_owner(one: &str, other: &str) -> bool {
    one == other || parse_uuid(one.as_bytes()).is_some_and(|uuid| parse_uuid(other.as_bytes()) == Some(uuid))
}

/// What a record asks for.
#[derive(Debug, Clone)]
pub enum Command {
    /// Store this WB order: its producer's own JSON without insignificant white space.
    Wb(Bytes),
    /// Create or change an envelope order.
    Envelope(Envelope),
    /// Delete whatever the id names, for good.
    Delete,
}

impl Order {
    /// An order without columns.
    #[must_use]
    pub fn new(id: OrderId, command: Command) -> Self {
        Self { id, command, columns: None, past: None }
    }

    /// The bytes this order holds in memory while it waits, for the limits on batches.
    #[must_use]
    pub fn resident_bytes(&self) -> usize {
        size_of::<Self>()
            + match &self.command {
                Command::Wb(body) => body.len(),
                Command::Envelope(envelope) => envelope.payload.as_ref().map_or(0, |payload| payload.len()),
                Command::Delete => 0,
            }
    }
}
