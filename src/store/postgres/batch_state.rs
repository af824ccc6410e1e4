//! What a batch does to the orders it names: decided in memory, one entry after the other, by the
//! rules of the store. Knows rows, but no connection.

use std::collections::{HashMap, HashSet};

use bytes::Bytes;
use time::OffsetDateTime;

use super::errors::unreadable;
use super::order_id;
use crate::id::{OrderId, Version};
use crate::order::Command;
use crate::order::envelope::{self, Stamp, Status};
use crate::snapshot::{ChangeKind, Snapshot};
use crate::store::rules::{self, Decision, Row, Write, column};
use crate::store::{Answer, Batch, Entry, Outcome, Refusal, StoreError};

/// How many numbers one call of the sequence hands out.
pub(super) const RANKS_PER_BLOCK: i64 = 4096;

/// What a request with a key was told.
pub(super) struct Remembered {
    pub(super) id: OrderId,
    pub(super) digest: Vec<u8>,
    pub(super) answer: Answer,
    pub(super) version: Version,
}

/// An order as it is in this transaction.
pub(super) struct RowState {
    pub(super) row: Row,
    pub(super) external_id: Option<Box<str>>,
    pub(super) is_new: bool,
    pub(super) is_dirty: bool,
    /// The entry of the batch that it was last written by.
    pub(super) entry: Option<usize>,
}

/// The orders of a batch, decided one entry after the other in memory.
pub(super) struct BatchState<'b> {
    pub(super) entries: &'b [Entry],
    pub(super) is_again: bool,
    pub(super) asks_former: bool,
    /// No id occurs twice.
    pub(super) is_distinct: bool,
    pub(super) stamp: Stamp,
    pub(super) keys: Vec<&'b str>,
    pub(super) maybe_known: Vec<OrderId>,
    pub(super) held: HashMap<OrderId, RowState, foldhash::fast::RandomState>,
    /// New and changed ids, in the order they were first written.
    pub(super) order: Vec<OrderId>,
    pub(super) remembered: HashMap<String, Remembered>,
    pub(super) blocks: Vec<i64>,
    pub(super) ranks_used: i64,
    pub(super) scratch: Vec<u8>,
}

impl<'b> BatchState<'b> {
    pub(super) fn new(batch: &'b Batch, now: OffsetDateTime, trusts_hints: bool) -> Self {
        let entries = &batch.entries[..];
        let keys = entries.iter().filter_map(|entry| entry.idempotency.as_ref()).map(|idempotency| &*idempotency.key);
        // What is refused by its condition, or for its owner, would show no conflict where the hint
        // is wrong.
        let is_free = |entry: &Entry| entry.condition.is_none() && entry.owner.is_none();
        let is_sure = |entry: &Entry| entry.is_new && is_free(entry) && is_insert(entry);
        let maybe_known = entries.iter().filter(|entry| !(trusts_hints && is_sure(entry)));
        let mut ids: HashSet<&OrderId, foldhash::fast::RandomState> = HashSet::default();
        ids.reserve(entries.len());
        Self {
            entries,
            is_again: batch.is_again,
            asks_former: batch.asks_former,
            is_distinct: entries.iter().all(|entry| entry.idempotency.is_none() && ids.insert(&entry.order.id)),
            stamp: envelope::stamp(now),
            keys: keys.collect(),
            maybe_known: maybe_known.map(|entry| entry.order.id.clone()).collect(),
            held: HashMap::with_capacity_and_hasher(entries.len(), foldhash::fast::RandomState::default()),
            order: Vec::with_capacity(entries.len()),
            remembered: HashMap::new(),
            blocks: Vec::new(),
            ranks_used: 0,
            scratch: Vec::new(),
        }
    }

    /// The order of an entry, if it was just written for the first time. It then counts as sent.
    pub(super) fn take_new(&mut self, index: usize) -> Option<&'b OrderId> {
        let id = &self.entries[index].order.id;
        let held = self.held.get_mut(id).filter(|held| held.is_new && held.is_dirty)?;
        held.is_dirty = false;
        Some(id)
    }

    /// Orders written and not yet sent.
    pub(super) fn dirty(&self, is_meant: impl Fn(&RowState) -> bool) -> impl Iterator<Item = &OrderId> {
        self.order.iter().filter(move |id| self.held[*id].is_dirty && is_meant(&self.held[*id]))
    }

    pub(super) fn unknown_of(&self, ids: Vec<OrderId>) -> Vec<OrderId> {
        ids.into_iter().filter(|id| !self.held.contains_key(id)).collect()
    }

    pub(super) fn known(&mut self, rows: Vec<tokio_postgres::Row>) -> Result<(), StoreError> {
        for row in &rows {
            let read = || {
                let (seq, version): (i64, i64) = (row.try_get(0)?, row.try_get(2)?);
                Ok((
                    Row {
                        seq: seq.unsigned_abs(),
                        kind: column::to_kind(row.try_get(5)?),
                        state: column::to_state(row.try_get(1)?),
                        version: version.unsigned_abs(),
                        body: Bytes::copy_from_slice(row.try_get(3)?),
                    },
                    row.try_get::<_, Option<String>>(6)?.map(Into::into),
                ))
            };
            let (stored, external_id) = read().map_err(unreadable)?;
            self.held.insert(
                order_id(row)?,
                RowState { row: stored, external_id, is_new: false, is_dirty: false, entry: None },
            );
        }
        Ok(())
    }

    pub(super) fn entry(&mut self, index: usize) -> Result<Outcome, StoreError> {
        let Entry { order, idempotency, .. } = &self.entries[index];
        if let Some(idempotency) = idempotency
            && let Some(remembered) = self.remembered.get(&*idempotency.key)
        {
            return self.repeated(remembered.digest == idempotency.digest, &idempotency.key, &order.id);
        }
        let row = self.held.get(&order.id).map(|held| &held.row);
        let decision = rules::decide(&self.entries[index], row, self.is_again, &self.stamp)
            .map_err(|error| StoreError::Damaged(error.into()))?;
        let id = order.id.clone();
        let outcome = match decision {
            Decision::Write(write) => self.write(id, write, Some(index)),
            Decision::Refused(refusal) => Outcome::Refused { id, refusal },
            Decision::Unchanged => Outcome::Unchanged { snapshot: self.snapshot(&id), id },
            Decision::WasDeleted => Outcome::WasDeleted { snapshot: self.snapshot(&id), id },
            Decision::CreatedBefore => {
                Outcome::Stored { snapshot: self.snapshot(&id), id, change: ChangeKind::Created, former: None }
            }
        };
        if let (Some(idempotency), Some((id, answer, version))) = (idempotency, rules::answer(&outcome)) {
            let remembered = Remembered { id: id.clone(), digest: idempotency.digest.to_vec(), answer, version };
            self.remembered.insert(idempotency.key.to_string(), remembered);
        }
        Ok(outcome)
    }

    pub(super) fn repeated(&mut self, is_same: bool, key: &str, asked: &OrderId) -> Result<Outcome, StoreError> {
        if !is_same {
            return Ok(Outcome::Refused { id: asked.clone(), refusal: Refusal::KeyReused });
        }
        let Remembered { id, answer, version, .. } = &self.remembered[key];
        let (id, answer, version) = (id.clone(), *answer, *version);
        let Some(held) = self.held.get(&id) else {
            return Err(StoreError::Damaged(format!("the order {id} of a remembered request is gone").into()));
        };
        let snapshot = held.row.snapshot(&mut self.scratch);
        Ok(Outcome::Repeated { id, answer, version, snapshot })
    }

    pub(super) fn write(&mut self, id: OrderId, write: Write, entry: Option<usize>) -> Outcome {
        let Write { kind, state, change, body, external_id, .. } = write;
        let before = self.held.get(&id).filter(|_| self.asks_former);
        let former = before.and_then(|held| held.row.owner());
        if let Some(held) = self.held.get_mut(&id) {
            held.entry = entry;
            held.row = Row { seq: held.row.seq, kind, state, version: held.row.version + 1, body };
            if let Some(external_id) = external_id {
                held.external_id = external_id;
            }
            if !std::mem::replace(&mut held.is_dirty, true) {
                self.order.push(id.clone());
            }
        } else {
            let row = Row { seq: self.next_rank(), kind, state, version: 1, body };
            let external_id = external_id.flatten();
            self.held.insert(id.clone(), RowState { row, external_id, is_new: true, is_dirty: true, entry });
            self.order.push(id.clone());
        }
        Outcome::Stored { snapshot: self.snapshot(&id), id, change, former }
    }

    pub(super) fn next_rank(&mut self) -> u64 {
        let (block, rank) = (self.ranks_used / RANKS_PER_BLOCK, self.ranks_used % RANKS_PER_BLOCK);
        self.ranks_used += 1;
        let block = usize::try_from(block).expect("rises from zero");
        (self.blocks[block] * RANKS_PER_BLOCK + rank).unsigned_abs()
    }

    pub(super) fn snapshot(&mut self, id: &OrderId) -> Snapshot {
        self.held[id].row.snapshot(&mut self.scratch)
    }
}

/// Whether an entry with an unknown id is written, so that an id which is known after all shows as
/// a conflict.
fn is_insert(entry: &Entry) -> bool {
    match &entry.order.command {
        Command::Wb(_) => true,
        Command::Envelope(envelope) if envelope.is_new => true,
        Command::Envelope(envelope) => {
            let is_whole = envelope.user_id.is_some() && envelope.payload.is_some();
            is_whole && !entry.must_exist && envelope.status != Some(Status::Deleted)
        }
        Command::Delete => false,
    }
}
