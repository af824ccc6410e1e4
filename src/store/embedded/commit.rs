//! One batch, one transaction: decides each entry's outcome and assigns versions, inside SQLite.

use std::path::Path;
use std::time::SystemTime;

use rusqlite::{Connection, OptionalExtension, TransactionBehavior, params};
use time::OffsetDateTime;

use crate::id::OrderId;
use crate::order::envelope::{self, Stamp};
use crate::order::{Command, Past};
use crate::process::lifecycle::step;
use crate::record::{Idempotency, Parcel};
use crate::snapshot::{ChangeKind, Kind, Snapshot, State};
use crate::store::rules::{self, Decision, KEY_SECONDS, PURGE_SECONDS, Row, Write, column, signed};
use crate::store::{Batch, Entry, Move, Outcome, Refusal, StoreError, unstorable};

/// Remembers when expired idempotency keys were last dropped.
#[derive(Default)]
pub(super) struct Purge {
    last: i64,
}

/// Commits a batch; see [`crate::store::Store::commit`].
pub(super) fn commit(
    connection: &mut Connection,
    path: &Path,
    batch: &Batch,
    purge: &mut Purge,
) -> Result<Vec<Outcome>, StoreError> {
    let classify = |error| super::classify(path, error);
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate).map_err(classify)?;
    for step in &batch.moves {
        if !move_position(&transaction, &batch.source, step).map_err(classify)? {
            return Err(StoreError::Fenced { partition: step.partition });
        }
    }
    let mut writer = Writer::new(&transaction, batch);
    let mut outcomes = Vec::with_capacity(batch.entries.len());
    for entry in &batch.entries {
        outcomes.push(writer.entry(entry).map_err(classify)?);
    }
    unstorable(batch, &outcomes)?; // dropping the transaction takes it back
    if let Some(parcel) = batch.parcel {
        writer.record(parcel, &outcomes).map_err(classify)?;
    }
    writer.purge_keys(purge).map_err(classify)?;
    step("store-written");
    transaction.commit().map_err(classify)?;
    Ok(outcomes)
}

/// Moves a position, unless it is not where the step begins.
fn move_position(connection: &Connection, source: &str, step: &Move) -> rusqlite::Result<bool> {
    let Move { partition, from, to } = *step;
    let (from, to) = (signed(from), signed(to));
    let moved = connection
        .prepare_cached(
            "INSERT INTO positions (source, partition, next_offset)
             SELECT ?1, ?2, ?4 WHERE ?3 = 0 OR EXISTS (SELECT 1 FROM positions WHERE source = ?1 AND partition = ?2)
             ON CONFLICT (source, partition) DO UPDATE SET next_offset = ?4 WHERE next_offset = ?3",
        )
        .and_then(|mut statement| statement.execute(params![source, partition, from, to]))?;
    Ok(moved > 0)
}

struct Writer<'c> {
    connection: &'c Connection,
    is_again: bool,
    asks_former: bool,
    scratch: Vec<u8>,
    now: OffsetDateTime,
    now_micros: i64,
    stamp: Stamp,
}

impl<'c> Writer<'c> {
    fn new(connection: &'c Connection, batch: &Batch) -> Self {
        let now = OffsetDateTime::from(SystemTime::now());
        let &Batch { is_again, asks_former, .. } = batch;
        let now_micros = i64::try_from(now.unix_timestamp_nanos() / 1000).unwrap_or(i64::MAX);
        let stamp = envelope::stamp(now);
        Self { connection, is_again, asks_former, scratch: Vec::new(), now, now_micros, stamp }
    }

    /// When an order was made and changed that is written now.
    fn times(&self, past: Option<Past>, is_new: bool) -> (i64, i64) {
        let past = past.filter(|past| past.decides || is_new);
        past.map_or((self.now_micros, self.now_micros), |past| (past.created_micros, past.updated_micros))
    }

    fn entry(&mut self, entry: &Entry) -> rusqlite::Result<Outcome> {
        let Entry { order, idempotency, condition, owner, .. } = entry;
        if let Some(idempotency) = idempotency
            && let Some(outcome) = self.repeated(idempotency, &order.id)?
        {
            return Ok(outcome);
        }
        let id = order.id.clone();
        let inserted = match &order.command {
            // Most orders are new, so the insert is tried first; it tells by itself whether it was
            // right.
            Command::Wb(body) if condition.is_none() && owner.is_none() => {
                self.insert(&id, Kind::Wb, State::Live, (None, None), body, self.times(order.past, true))?
            }
            Command::Wb(_) | Command::Envelope(_) | Command::Delete => None,
        };
        let outcome = if let (Some(seq), Command::Wb(body)) = (inserted, &order.command) {
            let snapshot = Snapshot::new(1, seq, Kind::Wb, State::Live, body, &mut self.scratch);
            Outcome::Stored { id, snapshot, change: ChangeKind::Created, former: None }
        } else {
            let row = self.row(&id)?;
            let decision = rules::decide(entry, row.as_ref(), self.is_again, &self.stamp).map_err(foreign_body)?;
            self.apply(id, row, decision, order.past)?
        };
        if let Some(idempotency) = idempotency {
            self.remember(idempotency, &outcome)?;
        }
        Ok(outcome)
    }

    fn apply(
        &mut self,
        id: OrderId,
        row: Option<Row>,
        decision: Decision,
        past: Option<Past>,
    ) -> rusqlite::Result<Outcome> {
        let write = match (decision, &row) {
            (Decision::Write(write), _) => write,
            (Decision::Refused(refusal), _) => return Ok(Outcome::Refused { id, refusal }),
            (Decision::Unchanged, Some(row)) => {
                return Ok(Outcome::Unchanged { id, snapshot: row.snapshot(&mut self.scratch) });
            }
            (Decision::WasDeleted, Some(row)) => {
                return Ok(Outcome::WasDeleted { id, snapshot: row.snapshot(&mut self.scratch) });
            }
            (Decision::CreatedBefore, Some(row)) => {
                let snapshot = row.snapshot(&mut self.scratch);
                return Ok(Outcome::Stored { id, snapshot, change: ChangeKind::Created, former: None });
            }
            (_, None) => unreachable!("an unknown order is written or refused"),
        };
        let (version, seq) = if let Some(row) = &row {
            self.update(row.seq, &write, self.times(past, false).1)?;
            (row.version + 1, row.seq)
        } else {
            let Write { kind, state, user_id, external_id, body, .. } = &write;
            let external_id = external_id.as_ref().and_then(Option::as_deref);
            let names = (user_id.as_deref(), external_id);
            let seq = self.insert(&id, *kind, *state, names, body, self.times(past, true))?;
            (1, seq.expect("the id was not stored a moment ago, in the same transaction"))
        };
        let snapshot = Snapshot::new(version, seq, write.kind, write.state, &write.body, &mut self.scratch);
        let former = row.filter(|_| self.asks_former).and_then(|row| row.owner());
        Ok(Outcome::Stored { id, snapshot, change: write.change, former })
    }

    fn row(&self, id: &OrderId) -> rusqlite::Result<Option<Row>> {
        self.connection
            .prepare_cached("SELECT seq, kind, state, version, body FROM orders WHERE uid = ?")?
            .query_row([&*id.text()], |row| {
                Ok(Row {
                    seq: row.get::<_, i64>(0)?.unsigned_abs(),
                    kind: column::to_kind(row.get(1)?),
                    state: column::to_state(row.get(2)?),
                    version: row.get::<_, i64>(3)?.unsigned_abs(),
                    body: row.get::<_, Vec<u8>>(4)?.into(),
                })
            })
            .optional()
    }

    /// Inserts version 1 unless the id exists. Returns the creation rank it was given.
    fn insert(
        &self,
        id: &OrderId,
        kind: Kind,
        state: State,
        (user_id, external_id): (Option<&str>, Option<&str>),
        body: &[u8],
        (created_at, updated_at): (i64, i64),
    ) -> rusqlite::Result<Option<u64>> {
        let inserted = self
            .connection
            .prepare_cached(
                "INSERT INTO orders (uid, kind, state, version, user_id, external_id, body, created_at, updated_at)
                 VALUES (?, ?, ?, 1, ?, ?, ?, ?, ?) ON CONFLICT (uid) DO NOTHING",
            )?
            .execute(params![
                &*id.text(),
                column::of_kind(kind),
                column::of_state(state),
                user_id,
                external_id,
                body,
                created_at,
                updated_at
            ])?;
        Ok((inserted == 1).then(|| self.connection.last_insert_rowid().unsigned_abs()))
    }

    /// Writes the next version.
    fn update(&self, seq: u64, write: &Write, updated_at: i64) -> rusqlite::Result<()> {
        self.connection
            .prepare_cached(
                "UPDATE orders SET version = version + 1, state = ?2, user_id = coalesce(?3, user_id),
                 external_id = iif(?4, ?5, external_id), body = ?6, updated_at = ?7 WHERE seq = ?1",
            )?
            .execute(params![
                signed(seq),
                column::of_state(write.state),
                write.user_id,
                write.external_id.is_some(),
                write.external_id.as_ref().and_then(Option::as_deref),
                &*write.body,
                updated_at
            ])?;
        Ok(())
    }

    fn repeated(&mut self, idempotency: &Idempotency, asked: &OrderId) -> rusqlite::Result<Option<Outcome>> {
        let found = self
            .connection
            .prepare_cached("SELECT digest, uid, answer, version FROM idempotency WHERE key = ? AND created_at > ?")?
            .query_row(params![idempotency.key, self.now.unix_timestamp() - KEY_SECONDS], |row| {
                let same = row.get_ref(0)?.as_blob()? == idempotency.digest;
                let uid = OrderId::parse_stored(row.get_ref(1)?.as_bytes()?).ok();
                Ok((same, uid, row.get::<_, i16>(2)?, row.get::<_, i64>(3)?.unsigned_abs()))
            })
            .optional()?;
        Ok(match found {
            None => None,
            Some((true, Some(id), answer, version)) => {
                let row = self.row(&id)?.expect("a remembered order is never removed");
                let snapshot = row.snapshot(&mut self.scratch);
                Some(Outcome::Repeated { id, answer: column::to_answer(answer), version, snapshot })
            }
            Some(_) => Some(Outcome::Refused { id: asked.clone(), refusal: Refusal::KeyReused }),
        })
    }

    fn remember(&self, idempotency: &Idempotency, outcome: &Outcome) -> rusqlite::Result<()> {
        let Some((id, answer, version)) = rules::answer(outcome) else { return Ok(()) };
        self.connection
            .prepare_cached(
                "INSERT OR REPLACE INTO idempotency (key, digest, uid, answer, version, created_at)
                 VALUES (?, ?, ?, ?, ?, ?)",
            )?
            .execute(params![
                idempotency.key,
                idempotency.digest,
                &*id.text(),
                column::of_answer(answer),
                signed(version),
                self.now.unix_timestamp(),
            ])?;
        Ok(())
    }

    /// Notes what is to be published, if anything was changed.
    fn record(&self, parcel: Parcel, outcomes: &[Outcome]) -> rusqlite::Result<()> {
        let mut uids = String::new();
        for outcome in outcomes {
            if let Outcome::Stored { id, .. } = outcome {
                uids.push_str(&id.text());
                uids.push('\n');
            }
        }
        if !uids.is_empty() {
            let millis = i64::try_from(self.now.unix_timestamp_nanos() / 1_000_000).unwrap_or(i64::MAX);
            self.connection
                .prepare_cached("INSERT INTO outbox (ticket, contents, uids, created_at) VALUES (?, ?, ?, ?)")?
                .execute(params![parcel.ticket, column::of_contents(parcel.contents), uids, millis])?;
        }
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

fn foreign_body(error: rules::ForeignBody) -> rusqlite::Error {
    rusqlite::Error::FromSqlConversionFailure(4, rusqlite::types::Type::Blob, error.into())
}
