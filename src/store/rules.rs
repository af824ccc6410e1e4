//! What a write does to what is stored: the rules every store follows, without a database.

use bytes::Bytes;

use crate::id::OrderId;
use crate::id::Version;
use crate::order::envelope::{self, Incomplete, Stamp, Status, Stored};
use crate::order::{self, Command, Envelope, Order, Past};
use crate::record::{Condition, Expected};
use crate::snapshot::{ChangeKind, Kind, OwnerTag, Snapshot, State};
use crate::store::{Answer, Entry, Outcome, Refusal};

/// What is stored under an id.
#[derive(Debug, Clone)]
pub struct Row {
    /// Creation order within the store; larger is newer.
    pub seq: u64,
    /// Which face it has.
    pub kind: Kind,
    /// Whether it is shown.
    pub state: State,
    /// How often it has changed.
    pub version: Version,
    /// What is stored and answered.
    pub body: Bytes,
}

impl Row {
    /// Whose the order is.
    pub(super) fn owner(&self) -> Option<OwnerTag> {
        order::owner_of(self.kind == Kind::Envelope, &self.body).map(|owner| OwnerTag::of(&owner))
    }

    /// The row as readers get it.
    pub(super) fn snapshot(&self, scratch: &mut Vec<u8>) -> Snapshot {
        Snapshot::new(self.version, self.seq, self.kind, self.state, &self.body, scratch)
    }
}

/// What is to be written: version 1 of a new order, or the next version of a known one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Write {
    pub(super) kind: Kind,
    pub(super) state: State,
    pub(super) change: ChangeKind,
    pub(super) body: Bytes,
    /// Canonical text; `None` keeps what is stored.
    pub(super) user_id: Option<String>,
    /// `None` keeps what is stored.
    pub(super) external_id: Option<Option<Box<str>>>,
}

/// What becomes of an entry.
#[derive(Debug)]
pub(super) enum Decision {
    Write(Write),
    Unchanged,
    WasDeleted,
    /// The request was carried out before and its answer was lost.
    CreatedBefore,
    Refused(Refusal),
}

/// The stored body of an envelope order cannot be read as one.
#[derive(Debug, thiserror::Error)]
#[error("the stored body of {0} is no envelope body")]
pub(super) struct ForeignBody(OrderId);

/// Decides what `entry` does to `row`, which is what is stored under its id.
///
/// # Errors
/// [`ForeignBody`] when the stored row cannot be read.
pub(super) fn decide(entry: &Entry, row: Option<&Row>, is_again: bool, now: &Stamp) -> Result<Decision, ForeignBody> {
    let Entry { order, must_exist, condition, owner, expected_version, .. } = entry;
    // An order of another owner is answered as an unknown one. This is checked first: any other
    // answer would tell that the order exists.
    if let (Some(owner), Some(row)) = (owner, row)
        && !is_owned(row.kind, &row.body, owner)
    {
        return Ok(Decision::Refused(Refusal::Unknown));
    }
    // So is an unknown order for a request that expects it to exist.
    if owner.is_some() && row.is_none() && matches!(condition, Some(Condition::Exists | Condition::OneOf(_))) {
        return Ok(Decision::Refused(Refusal::Unknown));
    }
    if let (Some(expected_version), Some(row)) = (expected_version, row)
        && row.version > *expected_version
    {
        let is_unchanged = row.state == State::Live || matches!(order.command, Command::Delete);
        return Ok(if is_unchanged { Decision::Unchanged } else { Decision::WasDeleted });
    }
    let decision = match &order.command {
        Command::Wb(body) => wb(body, row),
        Command::Envelope(envelope) => self::envelope(order, envelope, row, *must_exist, now)?,
        Command::Delete => delete(row, order.past),
    };
    if let (Some(owner), Decision::Write(write)) = (owner, &decision)
        && write.state != State::Tombstone
        && !is_owned(write.kind, &write.body, owner)
    {
        return Ok(Decision::Refused(Refusal::NotOwn));
    }
    let is_met = condition.as_ref().is_none_or(|condition| is_met(condition, &order.id, row));
    // Of what an earlier try has left nothing else would come.
    let is_done = is_again && matches!(decision, Decision::Unchanged | Decision::WasDeleted);
    if is_met || is_done || matches!(decision, Decision::CreatedBefore) {
        return Ok(decision);
    }
    Ok(Decision::Refused(Refusal::Condition { now: row.map(|row| row.version) }))
}

/// Whether a body names this owner. What is deleted for good names none.
fn is_owned(kind: Kind, body: &[u8], owner: &str) -> bool {
    let is_envelope = kind == Kind::Envelope;
    order::owner_of(is_envelope, body).is_some_and(|named| order::is_same_owner(&named, owner))
}

/// Whether an order is what a write is for. One that is deleted for good cannot be read, so no
/// client expects a version of it that is another.
fn is_met(condition: &Condition, id: &OrderId, row: Option<&Row>) -> bool {
    let is_expected = |row: &Row, expected: &Expected| {
        expected.version == row.version && expected.id.as_deref().is_none_or(|of| *of == *id.text())
    };
    match (condition, row) {
        (Condition::New, None) | (Condition::Exists, Some(_)) => true,
        (Condition::New, Some(row)) => row.state == State::Tombstone, // which is refused for what it is
        (Condition::OneOf(versions), Some(row)) => versions.iter().any(|expected| is_expected(row, expected)),
        (Condition::Exists | Condition::OneOf(_), None) => false,
    }
}

fn wb(body: &Bytes, row: Option<&Row>) -> Decision {
    let change = match row {
        None => ChangeKind::Created,
        Some(row) if row.state != State::Live => return Decision::WasDeleted,
        Some(row) if row.kind != Kind::Wb => return Decision::Refused(Refusal::OtherKind),
        Some(row) if row.body == body => return Decision::Unchanged,
        Some(_) => ChangeKind::Updated,
    };
    Decision::Write(Write {
        kind: Kind::Wb,
        state: State::Live,
        change,
        body: body.clone(),
        user_id: None,
        external_id: None,
    })
}

fn envelope(
    order: &Order,
    envelope: &Envelope,
    row: Option<&Row>,
    must_exist: bool,
    now: &Stamp,
) -> Result<Decision, ForeignBody> {
    let id = &order.id;
    let past = order.past.filter(|past| past.decides || row.is_none());
    let past = past.map(|past| (envelope::stamp_of(past.created_micros), envelope::stamp_of(past.updated_micros)));
    let (created, now) = past.as_ref().map_or((now, now), |(created, updated)| (created, updated));
    let is_delete = envelope.status == Some(Status::Deleted);
    let stored = match row {
        // An id made here is new unless this very request was committed before and its answer was
        // lost.
        Some(_) if envelope.is_new => return Ok(Decision::CreatedBefore),
        Some(row) if row.state != State::Live && is_delete && past.is_some() => return Ok(Decision::Unchanged),
        Some(row) if row.state != State::Live => return Ok(Decision::WasDeleted),
        Some(row) if row.kind == Kind::Wb && is_delete => return Ok(delete(Some(row), None)),
        Some(row) if row.kind == Kind::Wb => return Ok(Decision::Refused(Refusal::OtherKind)),
        Some(row) => Some(Stored::parse(&row.body).ok_or_else(|| ForeignBody(id.clone()))?),
        // What another store had deleted is stored as that.
        None if (must_exist || is_delete) && !envelope.is_new && past.is_none() => {
            return Ok(Decision::Refused(Refusal::Unknown));
        }
        None => None,
    };
    let is_known = stored.is_some();
    if past.is_some() && stored.is_some_and(|stored| stored.updated_at >= &now[..]) {
        return Ok(Decision::Unchanged); // what is stored is as new at least
    }
    // A deletion only marks what is stored: clients of the older services send a payload with it,
    // often an empty one.
    let mark = (is_delete && is_known).then(Envelope::deletion);
    let envelope = mark.as_ref().unwrap_or(envelope);
    let body = match envelope.body_of(id, stored, created, now) {
        Ok(Some(body)) => body,
        Ok(None) => return Ok(Decision::Unchanged),
        Err(Incomplete::UserId) => return Ok(Decision::Refused(Refusal::NoUser)),
        Err(Incomplete::Payload) => return Ok(Decision::Refused(Refusal::NoPayload)),
    };
    let change = match (is_delete, is_known) {
        (true, _) => ChangeKind::Deleted,
        (false, true) => ChangeKind::Updated,
        (false, false) => ChangeKind::Created,
    };
    Ok(Decision::Write(Write {
        kind: Kind::Envelope,
        state: if is_delete { State::SoftDeleted } else { State::Live },
        change,
        body: body.into(),
        user_id: envelope.user_id.map(|user_id| user_id.hyphenated().to_string()),
        external_id: envelope.payload.is_some().then(|| envelope.external_id.clone()),
    }))
}

fn delete(row: Option<&Row>, past: Option<Past>) -> Decision {
    let kind = match (row, past) {
        // What another store had deleted is stored as that.
        (None, Some(past)) if past.is_envelope => Kind::Envelope,
        (None, Some(_)) => Kind::Wb,
        (None, None) => return Decision::Refused(Refusal::Unknown),
        (Some(row), _) if row.state != State::Live => return Decision::WasDeleted,
        (Some(row), _) => row.kind,
    };
    Decision::Write(Write {
        kind,
        state: State::Tombstone,
        change: ChangeKind::Deleted,
        body: Bytes::new(),
        user_id: None,
        external_id: None,
    })
}

/// The remembered answer to a request: the order, the answer and its version. `None` for a request
/// that stored nothing, which may be sent again and then be answered differently.
pub(super) fn answer(outcome: &Outcome) -> Option<(&OrderId, Answer, Version)> {
    match outcome {
        Outcome::Stored { id, snapshot, change, .. } => Some((id, Answer::Changed(*change), snapshot.version())),
        Outcome::Unchanged { id, snapshot } => Some((id, Answer::Unchanged, snapshot.version())),
        Outcome::WasDeleted { id, snapshot } => Some((id, Answer::WasDeleted, snapshot.version())),
        Outcome::Repeated { .. } | Outcome::Refused { .. } => None,
    }
}

/// How answers, states and kinds are numbered in tables.
pub(super) mod column {
    use crate::record::Contents;
    use crate::snapshot::{ChangeKind, Kind, State};
    use crate::store::Answer;

    pub(in crate::store) fn of_state(state: State) -> i16 {
        match state {
            State::Live => 0,
            State::SoftDeleted => 1,
            State::Tombstone => 2,
        }
    }

    pub(in crate::store) fn to_state(column: i16) -> State {
        match column {
            0 => State::Live,
            1 => State::SoftDeleted,
            _ => State::Tombstone,
        }
    }

    pub(in crate::store) fn of_kind(kind: Kind) -> i16 {
        match kind {
            Kind::Wb => 0,
            Kind::Envelope => 1,
        }
    }

    pub(in crate::store) fn to_kind(column: i16) -> Kind {
        if column == 0 { Kind::Wb } else { Kind::Envelope }
    }

    /// Both in one, as `state + 4 * kind`.
    pub(in crate::store) fn to_shape(column: i16) -> (Kind, State) {
        (to_kind(column >> 2), to_state(column & 3))
    }

    pub(in crate::store) fn of_contents(contents: Contents) -> i16 {
        i16::from(contents.snapshots) | i16::from(contents.events) << 1 | i16::from(contents.acks) << 2
    }

    pub(in crate::store) fn to_contents(column: i16) -> Contents {
        Contents { snapshots: column & 1 != 0, events: column & 2 != 0, acks: column & 4 != 0 }
    }

    pub(in crate::store) fn of_answer(answer: Answer) -> i16 {
        match answer {
            Answer::Changed(ChangeKind::Created) => 0,
            Answer::Changed(ChangeKind::Updated) => 1,
            Answer::Changed(ChangeKind::Deleted) => 2,
            Answer::Unchanged => 3,
            Answer::WasDeleted => 4,
        }
    }

    pub(in crate::store) fn to_answer(column: i16) -> Answer {
        match column {
            0 => Answer::Changed(ChangeKind::Created),
            1 => Answer::Changed(ChangeKind::Updated),
            2 => Answer::Changed(ChangeKind::Deleted),
            3 => Answer::Unchanged,
            _ => Answer::WasDeleted,
        }
    }
}

/// What is lost with the step of the orders, and with that of the outbox.
pub(super) const LOSES_ORDERS: &str =
    "every order, how far each source has come, and the answers to requests with an Idempotency-Key";
pub(super) const LOSES_OUTBOX: &str = "what is committed and not published yet, which never will be";

/// How long an idempotency key is remembered, in seconds.
pub(super) const KEY_SECONDS: i64 = 24 * 60 * 60;
/// Expired keys are dropped at most this often, in seconds.
pub(super) const PURGE_SECONDS: i64 = 60;

/// The positions, versions and ranks of a database are signed.
pub(super) fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}
