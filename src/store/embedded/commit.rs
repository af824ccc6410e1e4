//! One batch, one transaction: decides each entry's outcome and assigns versions, inside SQLite.

use std::time::SystemTime;

use rusqlite::{Connection, OptionalExtension, TransactionBehavior, params};
use time::OffsetDateTime;

use super::{classify, state_of};
use crate::id::{OrderId, Version};
use crate::order::Change as Asked;
use crate::order::envelope::{self, Envelope, Incomplete, Stamp, Status, Stored};
use crate::record::Idempotency;
use crate::snapshot::{Change, Snapshot, State};
use crate::store::{Answer, Batch, Entry, Move, Outcome, Refusal, StoreError};

/// How long an idempotency key is remembered.
const KEY_SECONDS: i64 = 24 * 60 * 60;
/// Expired keys are dropped at most this often, and a bounded number at a time.
const PURGE_SECONDS: i64 = 60;

const KIND_WB: i64 = 0;
const KIND_ENVELOPE: i64 = 1;

/// Remembers when expired idempotency keys were last dropped.
#[derive(Default)]
pub(super) struct Purge {
    last: i64,
}

/// Commits a batch; see [`crate::store::Store::commit`].
pub(super) fn commit(
    connection: &mut Connection,
    batch: &Batch,
    purge: &mut Purge,
) -> Result<Vec<Outcome>, StoreError> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(classify)?;
    for step in &batch.moves {
        move_position(&transaction, &batch.source, step)?;
    }
    let mut writer = Writer::new(&transaction);
    let mut outcomes = Vec::with_capacity(batch.entries.len());
    for entry in &batch.entries {
        outcomes.push(writer.entry(entry).map_err(classify)?);
    }
    writer.purge_keys(purge).map_err(classify)?;
    transaction.commit().map_err(classify)?;
    Ok(outcomes)
}

fn move_position(connection: &Connection, source: &str, step: &Move) -> Result<(), StoreError> {
    let Move { partition, from, to } = *step;
    let (from, to) = (signed(from), signed(to));
    let moved = connection
        .prepare_cached(
            "INSERT INTO positions (source, partition, next_offset)
             SELECT ?1, ?2, ?4 WHERE ?3 = 0 OR EXISTS (SELECT 1 FROM positions WHERE source = ?1 AND partition = ?2)
             ON CONFLICT (source, partition) DO UPDATE SET next_offset = ?4 WHERE next_offset = ?3",
        )
        .and_then(|mut statement| statement.execute(params![source, partition, from, to]))
        .map_err(classify)?;
    if moved == 0 { Err(StoreError::Fenced { partition }) } else { Ok(()) }
}

struct Writer<'c> {
    connection: &'c Connection,
    scratch: Vec<u8>,
    now: OffsetDateTime,
    stamp: Stamp,
}

/// What is stored under an id.
struct Row {
    seq: i64,
    kind: i64,
    state: State,
    version: Version,
    body: Vec<u8>,
}

impl<'c> Writer<'c> {
    fn new(connection: &'c Connection) -> Self {
        let now = OffsetDateTime::from(SystemTime::now());
        Self { connection, scratch: Vec::new(), now, stamp: envelope::stamp(now) }
    }

    fn entry(&mut self, entry: &Entry) -> rusqlite::Result<Outcome> {
        let Entry { order, must_exist, idempotency } = entry;
        if let Some(idempotency) = idempotency
            && let Some(outcome) = self.repeated(idempotency, &order.id)?
        {
            return Ok(outcome);
        }
        let id = order.id.clone();
        let outcome = match &order.change {
            Asked::Wb(body) => self.wb(id, body)?,
            Asked::Envelope(envelope) => self.envelope(id, envelope, *must_exist)?,
            Asked::Delete => self.delete(id)?,
        };
        if let Some(idempotency) = idempotency {
            self.remember(idempotency, &outcome)?;
        }
        Ok(outcome)
    }

    fn wb(&mut self, id: OrderId, body: &[u8]) -> rusqlite::Result<Outcome> {
        // Most orders are new, so the insert is tried first; it tells by itself whether it was right.
        if let Some(seq) = self.insert(&id, KIND_WB, State::Live, None, None, body)? {
            return Ok(self.stored(id, 1, seq, State::Live, body, Change::Created));
        }
        let row = self.row(&id)?.expect("the insert met this row in the same transaction");
        if row.state != State::Live {
            return Ok(self.was_deleted(id, &row));
        }
        if row.kind != KIND_WB {
            return Ok(Outcome::Refused { id, refusal: Refusal::OtherKind });
        }
        if row.body == body {
            return Ok(self.unchanged(id, &row));
        }
        self.update(&row, State::Live, None, None, body)?;
        Ok(self.stored(id, row.version + 1, row.seq, State::Live, body, Change::Updated))
    }

    fn envelope(&mut self, id: OrderId, envelope: &Envelope, must_exist: bool) -> rusqlite::Result<Outcome> {
        let is_delete = envelope.status == Some(Status::Deleted);
        let row = self.row(&id)?;
        let stored = match &row {
            // An id made here is new unless this very request was committed before and its answer was lost.
            Some(row) if envelope.is_new => {
                let snapshot = self.copy(row);
                return Ok(Outcome::Stored { id, snapshot, change: Change::Created });
            }
            Some(row) if row.state != State::Live => return Ok(self.was_deleted(id, row)),
            Some(row) if row.kind == KIND_WB && is_delete => return self.delete(id),
            Some(row) if row.kind == KIND_WB => {
                return Ok(Outcome::Refused { id, refusal: Refusal::OtherKind });
            }
            Some(row) => Some(Stored::parse(&row.body).ok_or_else(|| foreign_body(&id))?),
            None if (must_exist || is_delete) && !envelope.is_new => {
                return Ok(Outcome::Refused { id, refusal: Refusal::Unknown });
            }
            None => None,
        };
        let body = match (envelope.body(&id, stored, &self.stamp), &row) {
            (Ok(Some(body)), _) => body,
            (Ok(None), Some(row)) => return Ok(self.unchanged(id, row)),
            (Ok(None), None) => unreachable!("a new order is a change"),
            (Err(Incomplete::UserId), _) => return Ok(Outcome::Refused { id, refusal: Refusal::NoUser }),
            (Err(Incomplete::Payload), _) => return Ok(Outcome::Refused { id, refusal: Refusal::NoPayload }),
        };
        let state = if is_delete { State::Hidden } else { State::Live };
        let user_id = envelope.user_id.map(|user_id| user_id.hyphenated().to_string());
        let (user_id, external_id) = (user_id.as_deref(), envelope.external_id.as_deref());
        if let Some(row) = row {
            let change = if is_delete { Change::Deleted } else { Change::Updated };
            self.update(&row, state, user_id, envelope.payload.is_some().then_some(external_id), &body)?;
            Ok(self.stored(id, row.version + 1, row.seq, state, &body, change))
        } else {
            let change = if is_delete { Change::Deleted } else { Change::Created };
            let seq = self
                .insert(&id, KIND_ENVELOPE, state, user_id, external_id, &body)?
                .expect("the id was not stored a moment ago, in the same transaction");
            Ok(self.stored(id, 1, seq, state, &body, change))
        }
    }

    fn delete(&mut self, id: OrderId) -> rusqlite::Result<Outcome> {
        let Some(row) = self.row(&id)? else { return Ok(Outcome::Refused { id, refusal: Refusal::Unknown }) };
        if row.state != State::Live {
            return Ok(self.was_deleted(id, &row));
        }
        self.update(&row, State::Gone, None, None, b"")?;
        Ok(self.stored(id, row.version + 1, row.seq, State::Gone, b"", Change::Deleted))
    }

    fn stored(
        &mut self,
        id: OrderId,
        version: Version,
        seq: i64,
        state: State,
        body: &[u8],
        change: Change,
    ) -> Outcome {
        let snapshot = Snapshot::new(version, seq.unsigned_abs(), state, body, &mut self.scratch);
        Outcome::Stored { id, snapshot, change }
    }

    fn unchanged(&mut self, id: OrderId, row: &Row) -> Outcome {
        Outcome::Unchanged { id, snapshot: self.copy(row) }
    }

    fn was_deleted(&mut self, id: OrderId, row: &Row) -> Outcome {
        Outcome::WasDeleted { id, snapshot: self.copy(row) }
    }

    fn copy(&mut self, row: &Row) -> Snapshot {
        Snapshot::new(row.version, row.seq.unsigned_abs(), row.state, &row.body, &mut self.scratch)
    }

    fn row(&self, id: &OrderId) -> rusqlite::Result<Option<Row>> {
        self.connection
            .prepare_cached("SELECT seq, kind, state, version, body FROM orders WHERE uid = ?")?
            .query_row([&*id.text()], |row| {
                Ok(Row {
                    seq: row.get(0)?,
                    kind: row.get(1)?,
                    state: state_of(row.get(2)?),
                    version: row.get::<_, i64>(3)?.unsigned_abs(),
                    body: row.get(4)?,
                })
            })
            .optional()
    }

    /// Inserts version 1 unless the id exists. Returns the creation rank it was given.
    fn insert(
        &self,
        id: &OrderId,
        kind: i64,
        state: State,
        user_id: Option<&str>,
        external_id: Option<&str>,
        body: &[u8],
    ) -> rusqlite::Result<Option<i64>> {
        let inserted = self
            .connection
            .prepare_cached(
                "INSERT INTO orders (uid, kind, state, version, user_id, external_id, body)
                 VALUES (?, ?, ?, 1, ?, ?, ?) ON CONFLICT (uid) DO NOTHING",
            )?
            .execute(params![&*id.text(), kind, state_column(state), user_id, external_id, body])?;
        Ok((inserted == 1).then(|| self.connection.last_insert_rowid()))
    }

    /// Writes the next version. `external_id` is kept where it is `None` altogether, and so is a missing `user_id`.
    fn update(
        &self,
        row: &Row,
        state: State,
        user_id: Option<&str>,
        external_id: Option<Option<&str>>,
        body: &[u8],
    ) -> rusqlite::Result<()> {
        self.connection
            .prepare_cached(
                "UPDATE orders SET version = version + 1, state = ?2, user_id = coalesce(?3, user_id),
                 external_id = iif(?4, ?5, external_id), body = ?6 WHERE seq = ?1",
            )?
            .execute(params![
                row.seq,
                state_column(state),
                user_id,
                external_id.is_some(),
                external_id.flatten(),
                body
            ])?;
        Ok(())
    }

    fn repeated(&mut self, idempotency: &Idempotency, asked: &OrderId) -> rusqlite::Result<Option<Outcome>> {
        let found = self
            .connection
            .prepare_cached("SELECT digest, uid, answer, version FROM idempotency WHERE key = ? AND created_at > ?")?
            .query_row(params![idempotency.key, self.now.unix_timestamp() - KEY_SECONDS], |row| {
                let same = row.get_ref(0)?.as_blob()? == idempotency.digest;
                let uid = OrderId::parse(row.get_ref(1)?.as_bytes()?).ok();
                Ok((same, uid, row.get::<_, i64>(2)?, row.get::<_, i64>(3)?.unsigned_abs()))
            })
            .optional()?;
        Ok(match found {
            None => None,
            Some((true, Some(id), answer, version)) => {
                let row = self.row(&id)?.expect("a remembered order is never removed");
                Some(Outcome::Repeated { id, answer: answer_of(answer), version, snapshot: self.copy(&row) })
            }
            Some(_) => Some(Outcome::Refused { id: asked.clone(), refusal: Refusal::KeyReused }),
        })
    }

    fn remember(&self, idempotency: &Idempotency, outcome: &Outcome) -> rusqlite::Result<()> {
        let (id, answer, version) = match outcome {
            Outcome::Stored { id, snapshot, change } => (id, Answer::Changed(*change), snapshot.version()),
            Outcome::Unchanged { id, snapshot } => (id, Answer::Unchanged, snapshot.version()),
            Outcome::WasDeleted { id, snapshot } => (id, Answer::WasDeleted, snapshot.version()),
            // What was not stored may be asked again, and may then be answered otherwise.
            Outcome::Repeated { .. } | Outcome::Refused { .. } => return Ok(()),
        };
        self.connection
            .prepare_cached(
                "INSERT OR REPLACE INTO idempotency (key, digest, uid, answer, version, created_at)
                 VALUES (?, ?, ?, ?, ?, ?)",
            )?
            .execute(params![
                idempotency.key,
                idempotency.digest,
                &*id.text(),
                answer_column(answer),
                signed(version),
                self.now.unix_timestamp(),
            ])?;
        Ok(())
    }

    fn purge_keys(&self, purge: &mut Purge) -> rusqlite::Result<()> {
        let now = self.now.unix_timestamp();
        if now - purge.last < PURGE_SECONDS {
            return Ok(());
        }
        purge.last = now;
        self.connection
            .prepare_cached(
                "DELETE FROM idempotency WHERE key IN
                 (SELECT key FROM idempotency WHERE created_at <= ? ORDER BY created_at LIMIT 10000)",
            )?
            .execute([now - KEY_SECONDS])?;
        Ok(())
    }
}

fn signed(number: u64) -> i64 {
    i64::try_from(number).unwrap_or(i64::MAX)
}

fn state_column(state: State) -> i64 {
    match state {
        State::Live => 0,
        State::Hidden => 1,
        State::Gone => 2,
    }
}

fn answer_column(answer: Answer) -> i64 {
    match answer {
        Answer::Changed(Change::Created) => 0,
        Answer::Changed(Change::Updated) => 1,
        Answer::Changed(Change::Deleted) => 2,
        Answer::Unchanged => 3,
        Answer::WasDeleted => 4,
    }
}

fn answer_of(column: i64) -> Answer {
    match column {
        0 => Answer::Changed(Change::Created),
        1 => Answer::Changed(Change::Updated),
        2 => Answer::Changed(Change::Deleted),
        3 => Answer::Unchanged,
        _ => Answer::WasDeleted,
    }
}

fn foreign_body(id: &OrderId) -> rusqlite::Error {
    let message = format!("the stored body of {id} is no envelope body");
    rusqlite::Error::FromSqlConversionFailure(4, rusqlite::types::Type::Blob, message.into())
}
