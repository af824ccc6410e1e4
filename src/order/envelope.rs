//! Envelope orders: a user's free-form payload with an amount and a status. Owns the layout of their stored body,
//! both writing and reading it.

use time::OffsetDateTime;
use uuid::Uuid;

use crate::id::OrderId;

/// Where an envelope order stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// Just created.
    New,
    /// A worker has it.
    Processing,
    /// Worked on.
    Done,
    /// Called off.
    Cancelled,
    /// Deleted, for good.
    Deleted,
}

impl Status {
    /// The word in messages and bodies.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::New => "new",
            Self::Processing => "processing",
            Self::Done => "done",
            Self::Cancelled => "cancelled",
            Self::Deleted => "deleted",
        }
    }

    /// Reads the word.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        [Self::New, Self::Processing, Self::Done, Self::Cancelled, Self::Deleted]
            .into_iter()
            .find(|status| status.as_str() == text)
    }
}

/// A valid request to create, change or delete an envelope order. What it leaves out is taken from the stored order.
#[derive(Debug, Clone)]
pub struct Envelope {
    /// The client named no id, so the order is to be created under one made here.
    pub is_new: bool,
    /// The order's owner.
    pub user_id: Option<Uuid>,
    /// Left out means `new` when creating and unchanged otherwise.
    pub status: Option<Status>,
    /// The producer's JSON object without insignificant white space.
    pub payload: Option<Box<[u8]>>,
    /// A JSON number: `payload.amount`, else the sum of `price * qty` over `payload.items`, else 0.
    pub amount: Box<str>,
    /// `payload.id`, for look-ups by it.
    pub external_id: Option<Box<str>>,
}

/// Why an envelope cannot be turned into a body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Incomplete {
    /// A new order needs an owner.
    UserId,
    /// A new order needs a payload.
    Payload,
}

/// Where an order's body says it is from: 27 characters of RFC 3339 in UTC with microseconds.
pub type Stamp = [u8; 27];

/// Now, or any instant, as a body spells it.
#[must_use]
pub fn stamp(at: OffsetDateTime) -> Stamp {
    let at = at.to_offset(time::UtcOffset::UTC);
    let mut stamp = *b"0000-00-00T00:00:00.000000Z";
    let year = u32::try_from(at.year()).unwrap_or_default();
    for (range, value) in [
        (0..4, year),
        (5..7, u32::from(u8::from(at.month()))),
        (8..10, u32::from(at.day())),
        (11..13, u32::from(at.hour())),
        (14..16, u32::from(at.minute())),
        (17..19, u32::from(at.second())),
        (20..26, at.microsecond()),
    ] {
        let mut value = value;
        for at in range.rev() {
            stamp[at] = b'0' + (value % 10) as u8;
            value /= 10;
        }
    }
    stamp
}

/// As [`stamp`], for microseconds since 1970.
#[must_use]
pub fn stamp_of(unix_micros: i64) -> Stamp {
    let at = OffsetDateTime::from_unix_timestamp_nanos(i128::from(unix_micros) * 1000);
    stamp(at.unwrap_or(OffsetDateTime::UNIX_EPOCH))
}

/// The parts of a stored envelope body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stored<'a> {
    /// Owner, as written in the body.
    pub user_id: &'a str,
    /// JSON number.
    pub amount: &'a str,
    /// Status word.
    pub status: &'a str,
    /// JSON object.
    pub payload: &'a [u8],
    /// When the order was first stored.
    pub created_at: &'a [u8],
    /// When it last changed.
    pub updated_at: &'a [u8],
}

const TAIL: &[u8] =
    b",\"created_at\":\"0000-00-00T00:00:00.000000Z\",\"updated_at\":\"0000-00-00T00:00:00.000000Z\",\"bucket\":0}";

impl<'a> Stored<'a> {
    /// Takes apart a body that [`Envelope::body`] made. `None` for any other bytes.
    #[must_use]
    pub fn parse(body: &'a [u8]) -> Option<Self> {
        let head_len = body.len().checked_sub(TAIL.len())?;
        let (head, tail) = body.split_at(head_len);
        let rest = head.strip_prefix(b"{\"order_uid\":\"")?;
        let (_, rest) = split_once(rest, b"\",\"order_id\":\"")?;
        let (_, rest) = split_once(rest, b"\",\"user_id\":\"")?;
        let (user_id, rest) = split_once(rest, b"\",\"amount\":")?;
        let (amount, rest) = split_once(rest, b",\"status\":\"")?;
        let (status, payload) = split_once(rest, b"\",\"payload\":")?;
        Some(Self {
            user_id: std::str::from_utf8(user_id).ok()?,
            amount: std::str::from_utf8(amount).ok()?,
            status: std::str::from_utf8(status).ok()?,
            payload,
            created_at: tail.get(15..42)?,
            updated_at: tail.get(58..85)?,
        })
    }
}

impl Envelope {
    /// A request to delete an order, of whichever face it is.
    #[must_use]
    pub fn deletion() -> Self {
        Self {
            is_new: false,
            user_id: None,
            status: Some(Status::Deleted),
            payload: None,
            amount: "0".into(),
            external_id: None,
        }
    }

    /// The order's body, made from this request and, when it changes an order, from what is stored.
    ///
    /// `Ok(None)` means that nothing changes: the stored body says the same already.
    ///
    /// # Errors
    /// [`Incomplete`] when a new order lacks what only its request can give.
    pub fn body(&self, id: &OrderId, stored: Option<Stored<'_>>, now: &Stamp) -> Result<Option<Vec<u8>>, Incomplete> {
        self.body_of(id, stored, now, now)
    }

    /// The same for an order that is older than its request.
    ///
    /// # Errors
    /// [`Incomplete`] when a new order lacks what only its request can give.
    pub fn body_of(
        &self,
        id: &OrderId,
        stored: Option<Stored<'_>>,
        created: &Stamp,
        now: &Stamp,
    ) -> Result<Option<Vec<u8>>, Incomplete> {
        let mut user_text = [0; 36];
        let user_id = match (&self.user_id, &stored) {
            (Some(user_id), _) => user_id.hyphenated().encode_lower(&mut user_text),
            (None, Some(stored)) => stored.user_id,
            (None, None) => return Err(Incomplete::UserId),
        };
        let (payload, amount) = match (&self.payload, &stored) {
            (Some(payload), _) => (&**payload, &*self.amount),
            (None, Some(stored)) => (stored.payload, stored.amount),
            (None, None) => return Err(Incomplete::Payload),
        };
        let status = match (self.status, &stored) {
            (Some(status), _) => status.as_str(),
            (None, Some(stored)) => stored.status,
            (None, None) => Status::New.as_str(),
        };
        let created_at = stored.map_or(&created[..], |stored| stored.created_at);
        if stored.is_some_and(|stored| {
            (stored.user_id, stored.amount, stored.status, stored.payload) == (user_id, amount, status, payload)
        }) {
            return Ok(None);
        }
        let id_text = id.text();
        let mut body = Vec::with_capacity(payload.len() + 320);
        for part in [
            b"{\"order_uid\":\"",
            id_text.as_bytes(),
            b"\",\"order_id\":\"",
            id_text.as_bytes(),
            b"\",\"user_id\":\"",
            user_id.as_bytes(),
            b"\",\"amount\":",
            amount.as_bytes(),
            b",\"status\":\"",
            status.as_bytes(),
            b"\",\"payload\":",
            payload,
            b",\"created_at\":\"",
            created_at,
            b"\",\"updated_at\":\"",
            now,
            b"\",\"bucket\":",
            &[b'0' + bucket(id)],
            b"}",
        ] {
            body.extend_from_slice(part);
        }
        Ok(Some(body))
    }
}

/// The first byte of the order's UUID modulo 4; of its text where it is no UUID.
fn bucket(id: &OrderId) -> u8 {
    id.as_uuid().map_or_else(|| id.text().as_bytes()[0], |uuid| uuid.as_bytes()[0]) % 4
}

fn split_once<'a>(bytes: &'a [u8], separator: &[u8]) -> Option<(&'a [u8], &'a [u8])> {
    let at = memchr::memmem::find(bytes, separator)?;
    Some((&bytes[..at], &bytes[at + separator.len()..]))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn envelope(payload: &str) -> Envelope {
        Envelope {
            is_new: true,
            user_id: Some(Uuid::from_u128(7)),
            status: None,
            payload: Some(payload.as_bytes().into()),
            amount: "12.50".into(),
            external_id: None,
        }
    }

    #[test]
    fn a_body_is_read_back_as_it_was_written() {
        let id = OrderId::from_uuid(Uuid::from_u128(0x0300_0000_0000_0000_0000_0000_0000_0001));
        let now = stamp(OffsetDateTime::from_unix_timestamp_nanos(1_763_697_306_123_456_789).unwrap());
        let tricky = r#"{"id":"x","status":"\",\"payload\":","bucket":9}"#;
        let body = envelope(tricky).body(&id, None, &now).unwrap().unwrap();
        assert_eq!(
            std::str::from_utf8(&body).unwrap(),
            format!(
                r#"{{"order_uid":"{id}","order_id":"{id}","user_id":"00000000-0000-0000-0000-000000000007","amount":12.50,"status":"new","payload":{tricky},"created_at":"2025-11-21T03:55:06.123456Z","updated_at":"2025-11-21T03:55:06.123456Z","bucket":3}}"#
            )
        );
        let stored = Stored::parse(&body).unwrap();
        assert_eq!((stored.amount, stored.status, stored.payload), ("12.50", "new", tricky.as_bytes()));
        assert_eq!((stored.created_at, stored.updated_at), (&now[..], &now[..]));
        assert_eq!(envelope(tricky).body(&id, Some(stored), &now), Ok(None), "the same again is no change");
    }

    #[test]
    fn an_update_keeps_what_it_leaves_out() {
        let id = OrderId::from_uuid(Uuid::from_u128(1));
        let then = stamp(OffsetDateTime::UNIX_EPOCH);
        let now = stamp(OffsetDateTime::UNIX_EPOCH + time::Duration::days(1));
        let first = envelope("{}").body(&id, None, &then).unwrap().unwrap();
        let delete = Envelope { user_id: None, payload: None, status: Some(Status::Deleted), ..envelope("{}") };
        let deleted = delete.body(&id, Stored::parse(&first), &now).unwrap().unwrap();
        let stored = Stored::parse(&deleted).unwrap();
        assert_eq!((stored.status, stored.payload, stored.amount), ("deleted", &b"{}"[..], "12.50"));
        assert_eq!((stored.created_at, stored.updated_at), (&then[..], &now[..]));
        assert_eq!(delete.body(&id, None, &now), Err(Incomplete::UserId));
    }
}
