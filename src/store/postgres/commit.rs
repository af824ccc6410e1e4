//! One batch, one transaction: positions, what is stored of the ids, the rules, and what they come
//! to by COPY.

use std::collections::HashMap;
use std::pin::Pin;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use bytes::Bytes;
use futures_util::SinkExt;
use time::OffsetDateTime;
use tokio_postgres::error::{DbError, Severity, SqlState};
use tokio_postgres::{CopyInSink, SimpleQueryMessage, Statement};

use super::batch_state::{BatchState, Remembered};
use super::copy::{Common, Encoder};
use super::errors::{classify, has_waited, is_conflict, refusal, unreadable};
use super::session::Session;
use super::{Postgres, abandoned, outbox};
use crate::id::OrderId;
use crate::order::Past;
use crate::process::lifecycle::step;
use crate::store::rules::{self, KEY_SECONDS, PURGE_SECONDS, column, signed};
use crate::store::{Batch, CommitPermit, Entry, Outcome, Refusal, StoreError, unstorable};

/// Another instance may take an id between our look and our insert; more often in a row than this
/// it is left to the next try of the whole batch.
const CONFLICTS_MAX: usize = 5;
/// How long a transaction stays open for the batch before it. Longer than that one takes when
/// nothing is wrong.
const TURN_WAIT: Duration = Duration::from_secs(1);
/// Between two questions about the outcome of a COMMIT.
const RESOLVE_PAUSE: Duration = Duration::from_millis(100);

/// Why one try at a batch did not end well.
enum Failure {
    /// An id or a key that was taken for new is there.
    Conflict,
    /// The batch before it is not durable yet, and this one may be in its way.
    Early,
    /// The connection died while COMMIT was under way.
    Unknown {
        transaction: i64,
        outcomes: Vec<Outcome>,
    },
    /// The database does not take one of the orders, or something else that the batch writes.
    Refused(Refusal),
    Store(StoreError),
}

impl From<tokio_postgres::Error> for Failure {
    fn from(error: tokio_postgres::Error) -> Self {
        if is_conflict(&error) {
            return Self::Conflict;
        }
        refusal(&error).map_or_else(|| Self::Store(classify(error)), Self::Refused)
    }
}

impl From<StoreError> for Failure {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl Postgres {
    /// What the database refuses is found and left out, or named where no sender waits.
    pub(super) async fn commit_batch(
        &self,
        batch: &Batch,
        permit: &mut CommitPermit,
    ) -> Result<Vec<Outcome>, StoreError> {
        let cause = match self.commit_whole(batch, permit).await? {
            Ok(outcomes) => return Ok(outcomes),
            Err(refusal) => refusal,
        };
        permit.wait().await;
        let refused = super::refused::find(self, batch).await?;
        if refused.is_empty() {
            // It was about something else, or all together.
            return Err(StoreError::Unavailable(cause.to_string().into()));
        }
        tracing::warn!(orders = refused.len(), first = %refused[0].1, "orders are refused by the database");
        if batch.is_atomic {
            return Err(StoreError::Unstorable(refused));
        }
        let mut refused: HashMap<usize, Refusal> = refused.into_iter().collect();
        let mut rest = batch.clone();
        let mut index = 0..;
        rest.entries.retain(|_| !index.next().is_some_and(|index| refused.contains_key(&index)));
        let stored = self.commit_whole(&rest, permit).await?;
        let mut stored = stored.map_err(|refusal| StoreError::Unavailable(refusal.to_string().into()))?.into_iter();
        let outcome = |(index, entry): (usize, &Entry)| match refused.remove(&index) {
            Some(refusal) => Outcome::Refused { id: entry.order.id.clone(), refusal },
            None => stored.next().expect("an outcome for each entry that was not refused"),
        };
        Ok(batch.entries.iter().enumerate().map(outcome).collect())
    }

    /// The inner error is that the database refuses something of it.
    async fn commit_whole(
        &self,
        batch: &Batch,
        permit: &mut CommitPermit,
    ) -> Result<Result<Vec<Outcome>, Refusal>, StoreError> {
        permit.may_begin().await;
        let mut trusts_hints = true;
        for _ in 0..CONFLICTS_MAX {
            match self.attempt(batch, trusts_hints, permit, false).await {
                Ok(outcomes) => return Ok(Ok(outcomes)),
                Err(Failure::Refused(refusal)) => return Ok(Err(refusal)),
                Err(Failure::Store(error)) => {
                    if has_waited(&error) {
                        abandoned::end(self).await;
                    }
                    return Err(error);
                }
                Err(Failure::Conflict) => trusts_hints = false,
                Err(Failure::Early) => permit.wait().await,
                Err(Failure::Unknown { transaction, outcomes }) => {
                    tracing::warn!(transaction, "the answer to a commit was lost, asking what became of it");
                    if self.was_committed(transaction, batch, &outcomes).await? {
                        return Ok(Ok(outcomes));
                    }
                    return Err(StoreError::Unavailable("the connection was lost before the commit".into()));
                }
            }
        }
        Err(StoreError::Unavailable("other instances keep storing the same orders".into()))
    }

    /// What the database refuses of a batch without positions, if anything: it is written and taken
    /// back.
    pub(super) async fn try_out(&self, batch: &Batch) -> Result<Option<Refusal>, StoreError> {
        for _ in 0..CONFLICTS_MAX {
            match self.attempt(batch, false, &mut CommitPermit::default(), true).await {
                Ok(_) => return Ok(None),
                Err(Failure::Refused(refusal)) => return Ok(Some(refusal)),
                Err(Failure::Store(error)) => return Err(error),
                Err(Failure::Conflict | Failure::Early | Failure::Unknown { .. }) => {}
            }
        }
        Err(StoreError::Unavailable("other instances keep storing the same orders".into()))
    }

    async fn attempt(
        &self,
        batch: &Batch,
        trusts_hints: bool,
        permit: &mut CommitPermit,
        is_trial: bool,
    ) -> Result<Vec<Outcome>, Failure> {
        let mut session = self.0.writers.get().await?;
        session.is_open = true; // until it is known to be over
        let result = match self.transact(&session, batch, trusts_hints, permit).await {
            Ok((_, outcomes)) if is_trial => {
                // Constraints that wait for the end have their say too.
                let taken_back = session.batch_execute("SET CONSTRAINTS ALL IMMEDIATE; ROLLBACK").await;
                taken_back.map(|()| outcomes).map_err(Failure::from)
            }
            Ok((transaction, outcomes)) => commit(&session, transaction, outcomes).await,
            Err(failure) => Err(failure),
        };
        let is_over = match &result {
            Ok(_) => true,
            // A COPY may have been broken off with it.
            Err(Failure::Unknown { .. } | Failure::Store(StoreError::Unstorable(_))) => false,
            Err(_) => session.batch_execute("ROLLBACK").await.is_ok(),
        };
        session.is_open = !is_over;
        result
    }

    async fn transact(
        &self,
        session: &Session,
        batch: &Batch,
        trusts_hints: bool,
        permit: &mut CommitPermit,
    ) -> Result<(i64, Vec<Outcome>), Failure> {
        // Positions move one batch after the other. Where it is this one's turn already, a lost
        // race shows at once.
        let is_early = !permit.has_come();
        let now = OffsetDateTime::from(SystemTime::now());
        let mut work = BatchState::new(batch, now, trusts_hints);
        // One at least: a batch that only moves positions has a transaction to ask about, too.
        let blocks = i32::try_from(batch.entries.len().div_ceil(4096).max(1)).unwrap_or(i32::MAX);
        // One round trip: tokio-postgres sends what is asked together without waiting in between.
        let ((), begun, moved, remembered, known, ()) = tokio::try_join!(
            biased;
            async { Ok(session.batch_execute("BEGIN").await?) },
            async { Ok::<_, Failure>(session.query(&session.statements.begin_batch, &[&blocks]).await?) },
            async { if is_early { Ok(Ok(())) } else { move_positions(session, batch).await } },
            load_keys(session, &work.keys, now),
            load_rows(session, &work.maybe_known),
            outbox::record(session, batch),
        )?;
        moved?;
        work.known(known)?;
        let mut transaction = 0;
        let mut drawn = Vec::with_capacity(begun.len());
        for row in &begun {
            transaction = row.try_get(0).map_err(unreadable)?;
            drawn.push(row.try_get(1).map_err(unreadable)?);
        }
        work.blocks = permit.block().keep(drawn);
        // Rare enough to wait for: the orders that repeated requests were about.
        let asked: Vec<OrderId> = remembered.values().map(|remembered| remembered.id.clone()).collect();
        work.known(load_rows(session, &work.unknown_of(asked)).await?)?;
        work.remembered = remembered;
        let statements = &session.statements;
        let now_micros = unix_micros(now);
        let common = Common { transaction, created_micros: now_micros, now_micros, source: &batch.source };
        let mut new = CopyWriter::new(session, &statements.copy_new, common);
        let mut outcomes = Vec::with_capacity(batch.entries.len());
        for index in 0..batch.entries.len() {
            outcomes.push(work.entry(index)?);
            if work.is_distinct
                && let Some(id) = work.take_new(index)
            {
                // Nothing later in the batch changes it, so the server works while the rest is
                // decided.
                new.row(&work, id).await?;
            }
        }
        unstorable(batch, &outcomes)?;
        step("store-decided");
        for id in work.dirty(|held| held.is_new) {
            new.row(&work, id).await?;
        }
        new.finish().await?;
        step("store-copied");
        let mut changed = CopyWriter::new(session, &statements.copy_changed, common);
        for id in work.dirty(|held| !held.is_new) {
            changed.row(&work, id).await?;
        }
        let changed = changed.finish().await?;
        if changed > 0 && affected(&session.simple_query(&statements.apply_changed).await?) != changed {
            return Err(dropped()); // the rows are locked, so no other transaction changed them
        }
        self.remember(session, &batch.entries, &outcomes, now).await?;
        if is_early {
            if !permit.has_come() {
                step("store-waiting");
            }
            tokio::time::timeout(TURN_WAIT, permit.wait()).await.map_err(|_| Failure::Early)?;
            move_positions(session, batch).await??;
        }
        step("store-written");
        Ok((transaction, outcomes))
    }

    /// Keeps the answers to requests that may be repeated, and now and then drops old ones.
    async fn remember(
        &self,
        session: &Session,
        entries: &[Entry],
        outcomes: &[Outcome],
        now: OffsetDateTime,
    ) -> Result<(), Failure> {
        let (mut keys, mut digests, mut uids, mut answers, mut versions) =
            (Vec::new(), Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for (entry, outcome) in entries.iter().zip(outcomes) {
            let (Some(idempotency), Some((id, answer, version))) = (&entry.idempotency, rules::answer(outcome)) else {
                continue;
            };
            keys.push(&*idempotency.key);
            digests.push(&idempotency.digest[..]);
            uids.push(id.text().to_string());
            answers.push(column::of_answer(answer));
            versions.push(signed(version));
        }
        let now = now.unix_timestamp();
        if !keys.is_empty() {
            let statement = &session.statements.remember;
            let stored =
                session.execute(statement, &[&keys, &digests, &uids, &answers, &versions, &now, &KEY_SECONDS]).await?;
            if stored != keys.len() as u64 {
                return Err(Failure::Conflict); // another instance was asked the same at the same time
            }
        }
        let purged_at = &self.0.purged_at;
        let last = purged_at.load(Ordering::Relaxed);
        if now - last >= PURGE_SECONDS
            && purged_at.compare_exchange(last, now, Ordering::Relaxed, Ordering::Relaxed).is_ok()
        {
            session.execute(&session.statements.purge, &[&(now - KEY_SECONDS)]).await?;
        }
        Ok(())
    }

    /// Whether a transaction whose connection died during COMMIT is durable. Asks until it is
    /// known.
    async fn was_committed(&self, transaction: i64, batch: &Batch, outcomes: &[Outcome]) -> Result<bool, StoreError> {
        loop {
            let asked = async {
                let session = self.0.writers.get().await?;
                match status(&session, transaction).await?.as_deref() {
                    Some("in progress") => Ok(None),
                    status => has_landed(&session, status, transaction, batch, outcomes).await.map(Some),
                }
            };
            match asked.await {
                Ok(Some(was_committed)) => return Ok(was_committed),
                Ok(None) => {}
                Err(StoreError::Unavailable(error)) => {
                    tracing::warn!(error = %crate::process::log::causes(&*error), transaction, "cannot ask what became of a commit");
                }
                Err(error) => return Err(error),
            }
            tokio::time::sleep(RESOLVE_PAUSE).await;
        }
    }
}

async fn commit(session: &Session, transaction: i64, outcomes: Vec<Outcome>) -> Result<Vec<Outcome>, Failure> {
    match session.batch_execute("COMMIT").await {
        Ok(()) => Ok(outcomes),
        Err(error) if is_last_word(&error) => Err(Failure::Unknown { transaction, outcomes }),
        Err(error) => Err(error.into()),
    }
}

/// A trigger has a row that was written disappear without a word.
fn dropped() -> Failure {
    let (sqlstate, message) = (SqlState::NO_DATA.code().into(), "a trigger dropped the row".into());
    Failure::Refused(Refusal::Database { sqlstate, message })
}

/// Whether a connection ended with this error. A server that goes down may say so after a commit
/// has become durable and before it is answered.
fn is_last_word(error: &tokio_postgres::Error) -> bool {
    let ends = |error: &DbError| !matches!(error.parsed_severity(), Some(Severity::Error));
    error.as_db_error().is_none_or(ends)
}

/// What the server says of a transaction; `None` when it does not know it.
async fn status(session: &Session, transaction: i64) -> Result<Option<String>, StoreError> {
    let row = session.query_one("SELECT pg_xact_status($1::text::xid8)", &[&transaction.to_string()]).await;
    match row.and_then(|row| row.try_get(0)) {
        // It has not come to this number: nothing of the transaction outlived a crash.
        Err(error) if error.code() == Some(&SqlState::INVALID_PARAMETER_VALUE) => Ok(None),
        status => status.map_err(classify),
    }
}

/// Whether what a transaction wrote is there, now that it has ended. That its number was committed
/// is no proof: after a crash the server hands the numbers of lost transactions out again. Nor is
/// it that the positions are passed: another process may have taken the partitions over meanwhile
/// and read the same messages.
async fn has_landed(
    session: &Session,
    status: Option<&str>,
    transaction: i64,
    batch: &Batch,
    outcomes: &[Outcome],
) -> Result<bool, StoreError> {
    if status != Some("committed") {
        return Ok(false);
    }
    if !batch.moves.is_empty() {
        let rows = session.query(&session.statements.positions, &[&&*batch.source]).await.map_err(classify)?;
        let mut stored = HashMap::new();
        for row in &rows {
            let (partition, next): (i32, i64) =
                (row.try_get(0).map_err(unreadable)?, row.try_get(1).map_err(unreadable)?);
            stored.insert(partition.unsigned_abs(), next.unsigned_abs());
        }
        // They move together.
        return Ok(batch.moves.iter().all(|step| stored.get(&step.partition).is_some_and(|next| *next >= step.to)));
    }
    let changed = outcomes.iter().find_map(|outcome| match outcome {
        Outcome::Stored { id, snapshot, .. } => Some((id.text(), signed(snapshot.version()))),
        _ => None,
    });
    let Some((id, version)) = changed else {
        return Ok(true); // nothing was changed either way
    };
    let uid = id.to_string();
    let row = session.query_opt(&session.statements.landed, &[&uid]).await.map_err(classify)?;
    let Some(row) = row else { return Ok(false) };
    let (stored, changed_in): (i64, i64) = (row.try_get(0).map_err(unreadable)?, row.try_get(1).map_err(unreadable)?);
    Ok(stored > version || (stored == version && changed_in == transaction))
}

/// How many rows a statement changed.
fn affected(messages: &[SimpleQueryMessage]) -> u64 {
    let count = |message: &SimpleQueryMessage| match message {
        SimpleQueryMessage::CommandComplete(count) => *count,
        _ => 0,
    };
    messages.iter().map(count).sum()
}

/// Compare-and-set of every position that moves. The inner error is a lost race.
async fn move_positions(session: &Session, batch: &Batch) -> Result<Result<(), Failure>, Failure> {
    if batch.moves.is_empty() {
        return Ok(Ok(()));
    }
    let source = &*batch.source;
    let partitions: Vec<i32> =
        batch.moves.iter().map(|step| i32::try_from(step.partition).unwrap_or(i32::MAX)).collect();
    let since: Vec<i64> = batch.moves.iter().map(|step| signed(step.from)).collect();
    let upto: Vec<i64> = batch.moves.iter().map(|step| signed(step.to)).collect();
    let parameters: [&(dyn tokio_postgres::types::ToSql + Sync); 4] = [&source, &partitions, &since, &upto];
    let statements = &session.statements;
    let (known, first) = tokio::try_join!(
        biased; // of two errors the first says why
        session.query(&statements.move_known, &parameters),
        session.query(&statements.move_first, &parameters),
    )?;
    let mut moved = Vec::new();
    for row in known.iter().chain(&first) {
        moved.push(row.try_get::<_, i32>(0).map_err(unreadable)?);
    }
    let lost = batch.moves.iter().zip(&partitions).find(|(_, partition)| !moved.contains(partition));
    Ok(lost.map_or(Ok(()), |(step, _)| Err(StoreError::Fenced { partition: step.partition }.into())))
}

async fn load_rows(session: &Session, ids: &[OrderId]) -> Result<Vec<tokio_postgres::Row>, Failure> {
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    let mut ids: Vec<String> = ids.iter().map(|id| id.text().to_string()).collect();
    ids.sort_unstable(); // the order in which they are locked
    ids.dedup();
    Ok(session.query(&session.statements.lock, &[&ids]).await?)
}

async fn load_keys(
    session: &Session,
    keys: &[&str],
    now: OffsetDateTime,
) -> Result<HashMap<String, Remembered>, Failure> {
    if keys.is_empty() {
        return Ok(HashMap::new());
    }
    let since = now.unix_timestamp() - KEY_SECONDS;
    let rows = session.query(&session.statements.keys, &[&keys, &since]).await?;
    let remembered = |row: &tokio_postgres::Row| {
        let id: &str = row.try_get(2).map_err(unreadable)?;
        let id = OrderId::parse_stored(id.as_bytes()).map_err(|error| StoreError::Damaged(error.into()))?;
        let digest = row.try_get(1).map_err(unreadable)?;
        let answer = column::to_answer(row.try_get(3).map_err(unreadable)?);
        let version = row.try_get::<_, i64>(4).map_err(unreadable)?.unsigned_abs();
        Ok((row.try_get(0).map_err(unreadable)?, Remembered { id, digest, answer, version }))
    };
    rows.iter().map(remembered).collect()
}

/// Rows on their way into a table. Nothing is asked of the server before there is a chunk of them.
struct CopyWriter<'s> {
    session: &'s Session,
    statement: &'s Statement,
    common: Common<'s>,
    encoder: Encoder,
    sink: Option<Pin<Box<CopyInSink<Bytes>>>>,
    count: u64,
}

impl<'s> CopyWriter<'s> {
    fn new(session: &'s Session, statement: &'s Statement, common: Common<'s>) -> Self {
        Self { session, statement, common, encoder: Encoder::new(), sink: None, count: 0 }
    }

    async fn row(&mut self, work: &BatchState<'_>, id: &OrderId) -> Result<(), Failure> {
        let held = &work.held[id];
        let columns = held.entry.and_then(|entry| work.entries[entry].order.columns.as_ref());
        let past = held.entry.and_then(|entry| work.entries[entry].order.past);
        let past = past.filter(|past| past.decides || held.row.version == 1);
        let common = past.map_or(self.common, |Past { created_micros, updated_micros, .. }| Common {
            created_micros,
            now_micros: updated_micros,
            ..self.common
        });
        self.encoder.row(id, &held.row, held.external_id.as_deref(), columns, common);
        self.count += 1;
        if self.encoder.is_full() { self.send().await } else { Ok(()) }
    }

    async fn send(&mut self) -> Result<(), Failure> {
        let sink = match &mut self.sink {
            Some(sink) => sink,
            none => none.insert(Box::pin(self.session.copy_in(self.statement).await?)),
        };
        Ok(sink.send(self.encoder.take()).await?)
    }

    /// Returns how many rows there were.
    async fn finish(mut self) -> Result<u64, Failure> {
        if self.count > 0 {
            self.encoder.finish();
            self.send().await?;
            step("store-copying");
            if let Some(mut sink) = self.sink
                && sink.as_mut().finish().await? != self.count
            {
                return Err(dropped());
            }
        }
        Ok(self.count)
    }
}

fn unix_micros(at: OffsetDateTime) -> i64 {
    i64::try_from(at.unix_timestamp_nanos() / 1000).expect("this century")
}
