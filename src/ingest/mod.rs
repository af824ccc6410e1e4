//! The one write path: records -> orders -> durable -> visible -> acknowledged, from any source into any store.

pub mod batcher;
pub mod policy;

use std::collections::{BTreeMap, VecDeque};
use std::future::{Future, poll_fn};
use std::iter::Flatten;
use std::option;
use std::pin::Pin;
use std::sync::Arc;
use std::task::Poll;
use std::time::{Instant, SystemTime};

use crate::cache::feed::{Event, Former};
use crate::cache::{Committing, Pinned, View};
use crate::id::{OrderId, Version};
use crate::metrics;
use crate::order::elements::{Cut, Elements};
use crate::order::{Command, Decoder, Order, Profile};
use crate::process::lifecycle::{Shutdown, step};
use crate::process::log::causes;
use crate::record::{Checkpoint, Record, Rejection, RejectionKind};
use crate::redis::Redis;
use crate::replication::outbox::{Changed, Outbox, ToPublish};
use crate::snapshot::ChangeKind;
use crate::source::{Parked, Received, Source, SourceError};
use crate::store::{
    Batch, CommitPermit, Entry, Move, Outcome, PermitRelease, Refusal, SequenceBlock, Store, StoreError,
};
use batcher::{Batcher, ReadyBatch, Reject};
use policy::Verdict;

/// Orders decoded before other tasks get a turn: readers on the same cores see no pause longer than these take.
const DECODE_BURST: usize = 16;

/// Failed tries at a batch that are logged each; of more, one in as many.
const LOGGED_TRIES: u32 = 12;

/// 2000-01-01. An earlier time stamp is of a producer that has no clock, and says nothing of how long its message took.
const CLOCKS_SINCE_MS: u128 = 946_684_800_000;

/// A day. What took longer is counted as that long: a clock that is years behind, or a message of last year that is read
/// again, would be all that is left of the sum.
const END_TO_END_MAX_MS: u128 = 86_400_000;

/// How orders are taken in.
#[derive(Debug, Clone)]
pub struct Config {
    /// How strictly WB orders are checked.
    pub profile: Profile,
    /// Larger orders are rejected unread.
    pub order_bytes_max: usize,
    /// When batches close.
    pub batch: batcher::Config,
    /// Whether each stored order has a line in the log.
    pub log_orders: bool,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            profile: Profile::default(),
            order_bytes_max: 1 << 20,
            batch: batcher::Config::default(),
            log_orders: false,
        }
    }
}

/// What became of everything a source handed over, in orders: `read` is the sum of the others.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Ledger {
    /// Orders received; a message may hold several.
    pub read: u64,
    /// Orders created, updated or deleted.
    pub stored: u64,
    /// Orders that said nothing new, or repeated a request.
    pub unchanged: u64,
    /// Orders that a newer version of the same batch took the place of.
    pub coalesced: u64,
    /// Valid orders that could not be stored and whose senders were told: deleted before, unknown, of the other kind.
    pub refused: u64,
    /// What is no order, or cannot be stored and has no sender waiting; kept by its source.
    pub rejected: u64,
}

/// Why an ingest loop ended before its source did.
#[derive(Debug, thiserror::Error)]
pub enum IngestError {
    /// The store will not take the batch, now or later.
    #[error("cannot store orders: {advice}")]
    Store {
        /// What the operator can do.
        advice: &'static str,
        /// What the store said.
        source: StoreError,
    },
    /// The source gave out.
    #[error(transparent)]
    Source(#[from] SourceError),
}

/// One source into one store, and into the view if there is one.
pub struct Ingest<S, T> {
    source: S,
    store: T,
    view: Option<Arc<View>>,
    redis: Option<Redis>,
    outbox: Option<Outbox>,
    metrics: metrics::Ingest,
    decoder: Decoder,
    elements: Elements,
    batcher: Batcher,
    /// Received and not yet decoded.
    received: Vec<Record>,
    /// Received and partly decoded, before all of those.
    parts: Option<Parts>,
    /// When these were taken from the source.
    received_at: Instant,
    committed: Checkpoint,
    ledger: Ledger,
    /// Batches on their way into the store, oldest first: one, and a full one that comes after it.
    writing: VecDeque<Write>,
    log_orders: bool,
}

/// A record being decoded: an array of orders takes several turns.
struct Parts {
    record: Record,
    /// What is left of an array. Nothing is left of a record that is none.
    elements: Flatten<option::IntoIter<Cut>>,
    /// How many elements were decoded, where it is an array.
    index: Option<usize>,
    orders: Vec<Order>,
    /// What is wrong with the others, and how many those are.
    rejected: Option<(Rejection, u64)>,
}

impl Parts {
    fn new(record: Record, elements: Option<Cut>) -> Self {
        let index = elements.is_some().then_some(0);
        Self { record, elements: elements.into_iter().flatten(), index, orders: Vec::new(), rejected: None }
    }

    fn add(&mut self, decoded: Result<Order, Rejection>) {
        let index = self.index;
        self.index = index.map(|index| index + 1);
        let mut rejection = match decoded {
            Ok(order) => return self.orders.push(order),
            Err(rejection) => rejection,
        };
        if let Some(index) = index {
            rejection.within(index);
        }
        match &mut self.rejected {
            Some((all, count)) => {
                all.join(rejection);
                *count += 1;
            }
            None => self.rejected = Some((rejection, 1)),
        }
    }
}

/// Batches written at once.
const WRITES_MAX: usize = 2;

/// A batch on its way into the store.
struct Write {
    /// What it is made of, but for the entries.
    ready: ReadyBatch,
    batch: Arc<Batch>,
    /// None of its orders leaves the view before it shows what became of them.
    pinned: Option<Pinned>,
    /// The version of each order that was shown before; 0 for none.
    shown: Vec<Version>,
    /// Lets it take effect, if it does not yet.
    release: Option<PermitRelease>,
    block: SequenceBlock,
    ended: Option<Result<Stored, Stuck>>,
    /// Tries until it succeeds or the policy says otherwise.
    under_way: Pin<Box<dyn Future<Output = Result<Stored, Stuck>> + Send>>,
}

/// A batch that is durable.
struct Stored {
    /// What is to be published of it.
    to_publish: Option<ToPublish>,
    /// What became of each entry.
    outcomes: Vec<Outcome>,
    /// Since when no other process could change them.
    asked: Instant,
    /// Until they are visible.
    committing: Option<Committing>,
}

/// What is stored of partitions that were assigned.
struct Start {
    /// Their positions.
    from: Checkpoint,
    /// There are none, but some of what was there before.
    is_replaced: bool,
}

/// Looks up where partitions start.
type Starting = Pin<Box<dyn Future<Output = Result<(Vec<u32>, Start), IngestError>> + Send>>;

/// Why a batch is not stored as it is.
enum Stuck {
    /// Another process has this partition.
    GiveUp(u32),
    /// These entries can never be stored.
    Reject(Vec<(usize, Refusal)>),
    /// None of it can be stored, and its senders are to know.
    Refuse(IngestError),
    Fatal(IngestError),
}

impl<S: Source, T: Store> Ingest<S, T> {
    /// A loop that goes on from the positions stored under the source's name.
    ///
    /// # Errors
    /// When the positions cannot be read.
    pub async fn new(
        source: S,
        store: T,
        view: Option<Arc<View>>,
        config: &Config,
        metrics: metrics::Ingest,
    ) -> Result<Self, StoreError> {
        // The partitions of a broker come and go, and each brings its position.
        let is_whole = source.is_log() && !source.is_broker();
        let committed = if is_whole { store.positions(source.name()).await? } else { Checkpoint::default() };
        let decoder = Decoder::new(config.profile, config.order_bytes_max).with_columns(store.wants_columns());
        Ok(Self {
            store,
            view,
            redis: None,
            outbox: None,
            metrics,
            decoder,
            elements: Elements::default(),
            batcher: Batcher::new(config.batch.clone(), source.is_broker(), committed.clone()),
            source,
            received: Vec::new(),
            parts: None,
            received_at: Instant::now(),
            committed,
            ledger: Ledger::default(),
            writing: VecDeque::new(),
            log_orders: config.log_orders,
        })
    }

    /// Has what it commits published.
    #[must_use]
    pub fn with_outbox(mut self, outbox: Option<Outbox>) -> Self {
        self.outbox = outbox;
        self
    }

    /// Has what it commits written there too.
    #[must_use]
    pub fn with_redis(mut self, redis: Option<Redis>) -> Self {
        self.redis = redis;
        self
    }

    /// Runs until the source ends or `shutdown` comes; then what was received is still committed.
    ///
    /// # Errors
    /// [`IngestError`]; nothing that was acknowledged is lost, nothing unacknowledged is acknowledged.
    pub async fn run(mut self, mut shutdown: Shutdown) -> Result<Ledger, IngestError> {
        let mut starting: Option<Starting> = None;
        let mut assigned: Vec<u32> = Vec::new();
        let mut revoked: Vec<u32> = Vec::new();
        let mut is_draining = false;
        let mut is_ended = false;
        loop {
            self.decode_some()?;
            if self.is_due(is_ended || !revoked.is_empty()) {
                let ready = self.batcher.take();
                self.write(ready);
            }
            if starting.is_none() && !assigned.is_empty() {
                starting = Some(self.find_start(std::mem::take(&mut assigned)));
            }
            let is_decoding = self.has_undecoded() && !self.batcher.is_full();
            let is_settled = self.writing.is_empty() && !self.has_undecoded() && self.batcher.is_empty();
            if is_settled && !revoked.is_empty() {
                for partition in revoked.drain(..) {
                    self.forget(partition);
                }
                self.source.release();
            }
            if is_ended && is_settled {
                return Ok(self.ledger);
            }
            let is_receiving = !is_ended && !self.has_undecoded() && revoked.is_empty();
            let deadline = if self.writing.is_empty() { self.batcher.deadline() } else { None };
            tokio::select! {
                biased;
                // 1. A stop must not wait for anything else.
                () = shutdown.wait(), if !is_draining => {
                    is_draining = true;
                    self.source.stop();
                }
                // 2. A finished write frees the store and answers anyone who waits.
                (write, result) = oldest(&mut self.writing), if !self.writing.is_empty() => {
                    self.written(write, result)?;
                }
                // 3. Partitions whose position is known begin to deliver.
                found = async { starting.as_mut().expect("guarded").await }, if starting.is_some() => {
                    starting = None;
                    let (partitions, from) = found?;
                    self.adopt(&partitions, &from);
                }
                // 4. Received records become orders, a burst at a time, once the others had their turn.
                () = tokio::task::yield_now(), if is_decoding => {}
                // 5. The oldest order of the batch has waited long enough.
                () = sleep_until(deadline), if deadline.is_some() => {}
                // 6. More only when all before is at least decoded: this is the whole back-pressure.
                received = self.source.recv(&mut self.received), if is_receiving => {
                    self.received_at = Instant::now();
                    match received? {
                        Received::Records => self.received.reverse(), // taken from the end
                        Received::Assigned(partitions) => assigned.extend(partitions),
                        Received::Revoked(partitions) => {
                            // Where they stand is someone else's business now.
                            assigned.clear();
                            starting = None;
                            revoked = partitions;
                            if revoked.is_empty() {
                                self.source.release();
                            }
                        }
                        Received::End => is_ended = true,
                    }
                    step("received");
                }
            }
        }
    }

    /// Whether something is received and not yet decoded.
    fn has_undecoded(&self) -> bool {
        !self.received.is_empty() || self.parts.is_some()
    }

    /// Decodes up to a burst of received records, or of the elements of one that is an array, into the batch.
    fn decode_some(&mut self) -> Result<(), SourceError> {
        for _ in 0..DECODE_BURST {
            if self.batcher.is_full() {
                return Ok(());
            }
            let mut parts = match self.parts.take() {
                Some(parts) => parts,
                None => match self.received.pop() {
                    Some(record) => self.take_apart(record),
                    None => return Ok(()),
                },
            };
            match parts.elements.next() {
                Some(element) => {
                    let decoded = self.decoder.decode(&element);
                    parts.add(decoded);
                    self.parts = Some(parts);
                }
                None => self.decoded(parts)?,
            }
        }
        Ok(())
    }

    /// A record whose every element has been decoded.
    fn decoded(&mut self, Parts { record, mut orders, mut rejected, .. }: Parts) -> Result<(), SourceError> {
        if let Some(too_large) = self.too_large_to_work_on(&orders) {
            rejected = Some((too_large, std::mem::take(&mut orders).len() as u64));
        }
        let must_exist = self.source.must_exist();
        if let Some((rejection, count)) = rejected {
            self.ledger.read += count;
            self.reject(&record, &rejection, rejection.kind.code(), count)?;
        }
        if orders.is_empty() {
            return Ok(());
        }
        self.ledger.read += orders.len() as u64;
        let mut expected_version = None;
        for order in &mut orders {
            match self.source.prepare(&record, order) {
                Ok(known) => expected_version = known,
                Err(rejection) => {
                    let count = orders.len() as u64;
                    return self.reject(&record, &rejection, rejection.kind.code(), count);
                }
            }
        }
        let (mut idempotency, mut condition) = (record.idempotency.clone(), record.condition.clone());
        let owner = record.owner.clone();
        let entries = orders.into_iter().map(|order| Entry {
            order,
            must_exist,
            idempotency: idempotency.take(),
            condition: condition.take(),
            owner: owner.clone(),
            expected_version,
            is_new: false,
        });
        let coalesced = self.batcher.push(record, entries, self.received_at);
        self.ledger.coalesced += coalesced;
        self.metrics.coalesced.inc_by(coalesced);
        Ok(())
    }

    /// The elements of a record that is an array of orders; of any other the order that it is, or why it is none.
    fn take_apart(&mut self, record: Record) -> Parts {
        let whole = match &record.payload {
            None => {
                let id = OrderId::parse(record.key.as_deref().unwrap_or_default());
                let order = id.map(|id| Order::new(id, Command::Delete));
                order.map_err(|error| {
                    let message = format!("null value whose key is no id: {error}");
                    Rejection::whole(RejectionKind::Invalid, message)
                })
            }
            Some(payload) => {
                let elements = if self.source.is_broker() { self.elements.split(payload) } else { Ok(None) };
                match elements {
                    Ok(Some(elements)) => return Parts::new(record, Some(elements)),
                    Ok(None) => match self.source.profile(&record) {
                        None => self.decoder.decode(payload),
                        Some(profile) => self.decoder.decode_as(profile, payload),
                    },
                    Err(rejection) => Err(rejection),
                }
            }
        };
        let mut parts = Parts::new(record, None);
        parts.add(whole);
        parts
    }

    /// Why none of these orders is stored, where a worker is to see them and could not.
    fn too_large_to_work_on(&self, orders: &[Order]) -> Option<Rejection> {
        let bytes_max = self.outbox.as_ref()?.payload_bytes_max();
        let payload = |order: &Order| match &order.command {
            Command::Envelope(envelope) => envelope.payload.as_ref().map_or(0, |payload| payload.len()),
            _ => 0,
        };
        let is_too_large = orders.iter().any(|order| payload(order) > bytes_max);
        let message = || format!("larger than the {bytes_max} bytes that get to a worker");
        is_too_large.then(|| Rejection::whole(RejectionKind::TooLarge, message()))
    }

    /// Gives a record, or `count` orders of it, back to the source. Its position passes with the batch.
    fn reject(&mut self, record: &Record, rejection: &Rejection, reason: &str, count: u64) -> Result<(), SourceError> {
        let parked = match self.source.reject(record, rejection) {
            Parked::Done(result) => Parked::Done(Ok(result?)),
            soon @ Parked::Pending(_) => soon,
        };
        self.count_rejected(reason, count);
        self.batcher.reject(record, parked);
        step("rejected");
        Ok(())
    }

    fn count_rejected(&mut self, reason: &str, count: u64) {
        self.ledger.rejected += count;
        self.metrics.processed.with_label_values(&["rejected"]).inc_by(count);
        if self.source.is_broker() {
            self.metrics.dead_lettered.with_label_values(&[reason]).inc();
        }
    }

    fn is_due(&mut self, is_pressing: bool) -> bool {
        if let Some(last) = self.writing.back() {
            // A full batch goes on its way while the one before it becomes durable.
            return self.writing.len() < WRITES_MAX
                && self.batcher.is_full()
                && self.batcher.is_apart(&last.batch.entries);
        }
        let is_starved = !self.has_undecoded();
        let is_old = self.batcher.deadline().is_none_or(|deadline| deadline <= Instant::now());
        !self.batcher.is_empty() && (self.batcher.is_full() || (is_starved && (is_old || is_pressing)))
    }

    /// Starts committing a batch, once what was rejected before it is safe. It takes effect after those that are under
    /// way.
    fn write(&mut self, mut ready: ReadyBatch) {
        let before = self.writing.back();
        let (release, permit) = before.map(|last| CommitPermit::after(last.block.clone())).unzip();
        let mut permit: CommitPermit = permit.unwrap_or_default();
        let block = permit.block();
        self.metrics.overlapped.inc_by(u64::from(before.is_some()));
        let before = before.map(|last| &last.ready.upto);
        let moves = if self.source.is_log() { moves(&self.committed, before, &ready.upto) } else { Vec::new() };
        let mut entries = std::mem::take(&mut ready.entries);
        self.mark_new(&mut entries);
        let ids = || entries.iter().map(|entry| entry.order.id.clone()).collect();
        let pinned = self.view.as_ref().filter(|view| view.is_bounded()).and_then(|view| view.pin(ids()));
        let shown = match &self.view {
            Some(view) => entries.iter().map(|entry| view.version(&entry.order.id).unwrap_or_default()).collect(),
            None => Vec::new(),
        };
        self.metrics.batch_rows.observe(rows(entries.len()));
        let is_broker = self.source.is_broker();
        let may_have_events = entries.iter().any(|entry| !matches!(entry.order.command, Command::Wb(_)));
        let outbox = self.outbox.as_ref().filter(|_| !entries.is_empty());
        let to_publish = outbox.map(|outbox| outbox.parcel(may_have_events));
        let batch = Arc::new(Batch {
            source: self.source.name(),
            entries,
            moves,
            is_atomic: is_broker,
            parcel: to_publish.as_ref().and_then(|to_publish| to_publish.parcel),
            is_again: false,
            asks_former: self.view.as_ref().is_some_and(|view| view.notes_owners() && view.is_bounded()),
        });
        let rejects = std::mem::take(&mut ready.rejects);
        let store = self.store.clone();
        let (view, metrics) = (self.view.clone(), self.metrics.clone());
        let asked = Arc::clone(&batch);
        let under_way = Box::pin(async move {
            let mut batch = asked;
            for reject in rejects {
                if let Parked::Pending(pending) = reject.parked
                    && let Err(error) = pending.await
                {
                    return Err(Stuck::Fatal(error.into()));
                }
            }
            if batch.entries.is_empty() && batch.moves.is_empty() {
                permit.wait().await;
                let asked = Instant::now();
                return Ok(Stored { to_publish: None, outcomes: Vec::new(), asked, committing: None });
            }
            step("before-commit");
            let mut attempt = 0;
            loop {
                // For each try: a count does not wait for the pauses between them.
                let committing = match &view {
                    Some(view) => view.committing().await,
                    None => None,
                };
                let started = Instant::now();
                let source = match store.commit_after(Arc::clone(&batch), &mut permit).await {
                    Ok(outcomes) => {
                        let begun = permit.came().map_or(started, |came| came.max(started));
                        metrics.commit.observe(begun.elapsed().as_secs_f64());
                        step("committed");
                        return Ok(Stored { to_publish, outcomes, asked: begun, committing });
                    }
                    Err(source) => source,
                };
                drop(committing);
                match policy::judge(&source, is_broker, attempt, fastrand::f64()) {
                    Verdict::Retry(pause) => {
                        // At the longest pause that is once a minute.
                        if attempt < LOGGED_TRIES || attempt.is_multiple_of(LOGGED_TRIES) {
                            tracing::warn!(error = %causes(&source), attempt, ?pause, "commit failed");
                        }
                        metrics.retries.inc();
                        attempt += 1;
                        if !batch.is_again && batch.entries.iter().any(|entry| entry.condition.is_some()) {
                            Arc::make_mut(&mut batch).is_again = true;
                        }
                        tokio::time::sleep(pause).await;
                    }
                    Verdict::GiveUp { partition } => return Err(Stuck::GiveUp(partition)),
                    Verdict::Reject(refused) => return Err(Stuck::Reject(refused)),
                    Verdict::Refuse { advice } => return Err(Stuck::Refuse(IngestError::Store { advice, source })),
                    Verdict::Stop { advice } => return Err(Stuck::Fatal(IngestError::Store { advice, source })),
                }
            }
        });
        self.writing.push_back(Write { ready, batch, pinned, shown, release, block, ended: None, under_way });
    }

    /// Takes the end of the oldest write. What is left of a batch that could not be stored as it was is written again.
    fn written(&mut self, write: Write, result: Result<Stored, Stuck>) -> Result<(), IngestError> {
        let stuck = match result {
            Ok(stored) => {
                if let Some(release) = self.writing.front_mut().and_then(|next| next.release.take()) {
                    release.release();
                }
                self.put_back(&write.shown, &stored.outcomes);
                self.settle(write.ready, write.pinned, stored);
                return Ok(());
            }
            Err(Stuck::Fatal(error)) => return Err(error),
            Err(stuck) => stuck,
        };
        // What comes after it has not taken effect, and goes on its way again after what is left of this one.
        let mut stopped = vec![write.stop()];
        stopped.extend(self.writing.drain(..).map(Write::stop));
        match stuck {
            Stuck::Fatal(_) => unreachable!("returned above"),
            Stuck::Refuse(error) => {
                let ready = stopped.remove(0);
                if !ready.records.iter().all(|record| self.source.refuse(record)) {
                    return Err(error);
                }
                let count = ready.entries.len() as u64;
                self.ledger.refused += count;
                self.metrics.processed.with_label_values(&["refused"]).inc_by(count);
            }
            Stuck::GiveUp(partition) => {
                tracing::warn!(partition, "another process has this partition now");
                for ready in &mut stopped {
                    // What was received of it and not stored is read again by anyone who has it.
                    let is_its = |owner: &&usize| ready.records[**owner].position.partition == partition;
                    self.ledger.read -= ready.owners.iter().filter(is_its).count() as u64;
                    ready.drop_partition(partition);
                }
                self.ledger.read -= self.batcher.drop_partition(partition);
                self.received.retain(|record| record.position.partition != partition);
                self.parts.take_if(|parts| parts.record.position.partition == partition);
                self.forget(partition);
                self.source.fenced(partition);
            }
            Stuck::Reject(refused) => {
                let ready = &mut stopped[0];
                // A message that holds several of them is kept once.
                let mut by_owner: BTreeMap<usize, Vec<Refusal>> = BTreeMap::new();
                for (index, refusal) in &refused {
                    by_owner.entry(ready.owners[*index]).or_default().push(refusal.clone());
                }
                for (owner, refusals) in by_owner {
                    let mut rejection = Rejection::whole(RejectionKind::Invalid, refusals[0].to_string());
                    for refusal in &refusals[1..] {
                        rejection.join(Rejection::whole(RejectionKind::Invalid, refusal.to_string()));
                    }
                    let record = &ready.records[owner];
                    let parked = self.source.reject(record, &rejection);
                    self.count_rejected(refusals[0].code(), refusals.len() as u64);
                    let reject = Reject::new(record, parked);
                    ready.rejects.push(reject);
                }
                ready.retain(|index| refused.iter().all(|(refused, _)| *refused != index));
            }
        }
        for ready in stopped {
            self.write(ready);
        }
        Ok(())
    }

    /// Looks up where partitions stand, for as long as it takes.
    fn find_start(&self, partitions: Vec<u32>) -> Starting {
        let (store, name, former) = (self.store.clone(), self.source.name(), self.source.former_name());
        Box::pin(async move {
            let mut attempt = 0;
            loop {
                let looked = async {
                    let has_others = match &former {
                        Some(former) => {
                            store.rename_positions(Arc::clone(former), Arc::clone(&name), partitions.clone()).await?
                        }
                        None => false,
                    };
                    Ok((store.positions(Arc::clone(&name)).await?, has_others))
                };
                let source = match looked.await {
                    Ok((stored, has_others)) => {
                        let ours = |partition: &u32| Some((*partition, *stored.0.get(partition)?));
                        let from: BTreeMap<_, _> = partitions.iter().filter_map(ours).collect();
                        let is_replaced = has_others && from.is_empty();
                        return Ok((partitions, Start { from: Checkpoint(from), is_replaced }));
                    }
                    Err(source) => source,
                };
                match policy::judge(&source, false, attempt, fastrand::f64()) {
                    Verdict::Retry(pause) => {
                        tracing::warn!(error = %causes(&source), ?pause, "cannot read positions");
                        attempt += 1;
                        tokio::time::sleep(pause).await;
                    }
                    Verdict::Stop { advice } => return Err(IngestError::Store { advice, source }),
                    _ => return Err(IngestError::Store { advice: "positions cannot be read", source }),
                }
            }
        })
    }

    fn adopt(&mut self, partitions: &[u32], Start { from, is_replaced }: &Start) {
        if *is_replaced {
            self.source.replaced();
        }
        let all = Checkpoint(partitions.iter().map(|&partition| (partition, from.next(partition))).collect());
        self.committed.0.extend(&all.0);
        self.batcher.adopt(&all);
        self.source.start(partitions, from);
    }

    fn forget(&mut self, partition: u32) {
        self.committed.0.remove(&partition);
        self.batcher.drop_partition(partition);
    }

    /// Tells the store which ids no one has seen. None of them is being written now, so the view shows what was stored of
    /// them.
    fn mark_new(&self, entries: &mut [Entry]) {
        if let Some(view) = self.view.as_ref().filter(|view| view.is_complete()) {
            for entry in entries {
                entry.is_new = !view.contains(&entry.order.id);
            }
        }
    }

    /// A change of an order is newer than what was shown before it, and what it leaves as it is no older. Where it is not,
    /// the store has lost what was shown.
    fn put_back(&self, shown: &[Version], outcomes: &[Outcome]) {
        let Some(view) = &self.view else { return };
        let mut count = 0;
        for (outcome, shown) in outcomes.iter().zip(shown) {
            let Some((id, snapshot, change)) = outcome.visible() else { continue };
            let least = shown + Version::from(change.is_some());
            if snapshot.version() < least {
                count += 1;
                if let Some(seen) = view.peek(id).filter(|seen| seen.version() == *shown) {
                    view.put_back(id, &seen, Some(snapshot));
                }
            }
        }
        if count > 0 {
            tracing::warn!(
                orders = count,
                "the store went back: what was shown of orders was newer than what it has now"
            );
            view.doubt();
        }
    }

    /// A batch is durable. The order of what follows is the correctness argument: readers never see what is not
    /// durable, and no one is told of what readers do not see.
    fn settle(&mut self, ready: ReadyBatch, pinned: Option<Pinned>, stored: Stored) {
        let Stored { to_publish, outcomes, asked, committing } = stored;
        if let Some(redis) = &self.redis {
            // Before readers see it: what they have seen must not come back older from there.
            let is_news = |id: &OrderId, snapshot: &_| self.view.as_ref().is_none_or(|view| view.is_news(id, snapshot));
            let changed = outcomes.iter().filter_map(Outcome::visible);
            let news = changed.filter(|(id, snapshot, change)| change.is_some() || is_news(id, snapshot));
            redis.hand_over(news.map(|(id, snapshot, _)| (id, snapshot)), asked);
        }
        if let Some(view) = &self.view {
            let seen = outcomes.iter().filter_map(|outcome| Some((outcome, outcome.visible()?)));
            let events = seen.filter_map(|(outcome, (id, snapshot, change))| {
                // What an earlier try changed, whose answer was lost, is news only if readers do not see it yet.
                // Where orders leave, that they are not seen says nothing.
                let event = |change| Event::new(id.clone(), snapshot.clone(), change);
                if change.is_none() && view.is_bounded() {
                    // A repeated request is about the order that the first one made, which nothing keeps in its place.
                    view.apply_remote(event(snapshot.apparent_change()));
                    return None;
                }
                let is_news = change.is_some() || view.fill(id.clone(), snapshot.clone());
                is_news.then(|| {
                    let event = event(change.unwrap_or_else(|| snapshot.apparent_change()));
                    match outcome {
                        // Where orders leave, the store was asked.
                        Outcome::Stored { former, .. } if view.is_bounded() => {
                            Event { former: Former::Known(former.iter().copied().collect()), ..event }
                        }
                        _ => event,
                    }
                })
            });
            view.publish(events.collect());
        }
        let parcel = to_publish.and_then(|to_publish| to_publish.parcel);
        drop((pinned, committing));
        step("visible");
        let now = Instant::now();
        let now_ms = SystemTime::UNIX_EPOCH.elapsed().map_or(0, |since| since.as_millis());
        for (outcome, owner) in outcomes.iter().zip(&ready.owners) {
            self.count(outcome);
            let record = &ready.records[*owner];
            let since_arrival = now.saturating_duration_since(record.arrived);
            self.metrics.visible.observe(since_arrival.as_secs_f64());
            let sent_ms = record.timestamp_ms.and_then(|sent_ms| u128::try_from(sent_ms).ok());
            if let Some(sent_ms) = sent_ms.filter(|sent_ms| *sent_ms >= CLOCKS_SINCE_MS) {
                // Clocks of producers may be ahead of ours.
                let took_ms = |until_ms: u128| seconds(until_ms.saturating_sub(sent_ms).min(END_TO_END_MAX_MS));
                self.metrics.arrival.observe(took_ms(now_ms.saturating_sub(since_arrival.as_millis())));
                self.metrics.end_to_end.observe(took_ms(now_ms));
            }
        }
        for (partition, next) in ready.upto.0 {
            if let Some(committed) = self.committed.0.get_mut(&partition) {
                *committed = next;
            } else if !self.source.is_broker() {
                self.committed.0.insert(partition, next);
            }
        }
        let positions = ready.owners.iter().map(|&owner| ready.records[owner].position);
        let changes = parcel.map(|_| outcomes.iter().filter_map(changed).collect());
        self.source.commit(&self.committed, positions.zip(outcomes).collect());
        // Last, so that anyone who waits for what comes of it does so already. It is recorded, so nothing depends on it.
        if let (Some(outbox), Some(parcel), Some(changes)) = (&self.outbox, parcel, changes) {
            outbox.hand_over(parcel, changes);
        }
        step("acknowledged");
    }

    fn count(&mut self, outcome: &Outcome) {
        let (column, status) = match outcome {
            Outcome::Stored { id, snapshot, change, .. } => {
                if *change == ChangeKind::Created {
                    self.metrics.created.inc();
                }
                if self.log_orders {
                    tracing::info!(order = %id, version = snapshot.version(), change = change.as_str(), "order stored");
                }
                (&mut self.ledger.stored, "success")
            }
            Outcome::Unchanged { .. } => (&mut self.ledger.unchanged, "unchanged"),
            Outcome::Repeated { .. } => (&mut self.ledger.unchanged, "repeated"),
            // No one waits to be told that nothing is left to change.
            Outcome::WasDeleted { .. } | Outcome::Refused { .. } if self.source.is_broker() => {
                (&mut self.ledger.unchanged, "unchanged")
            }
            Outcome::WasDeleted { .. } | Outcome::Refused { .. } => (&mut self.ledger.refused, "refused"),
        };
        *column += 1;
        self.metrics.processed.with_label_values(&[status]).inc();
    }
}

/// What is to be published of an outcome.
fn changed(outcome: &Outcome) -> Option<Changed> {
    match outcome {
        Outcome::Stored { id, snapshot, change, .. } => {
            Some(Changed { id: id.clone(), snapshot: snapshot.clone(), change: *change })
        }
        _ => None,
    }
}

impl Write {
    /// Ends it, whatever it has come to, and takes back what it is made of.
    fn stop(self) -> ReadyBatch {
        let Self { mut ready, batch, under_way, .. } = self;
        drop(under_way);
        ready.entries = Arc::unwrap_or_clone(batch).entries;
        ready
    }
}

/// Waits for the end of the oldest write and takes it. The others get on meanwhile. Cancel-safe.
async fn oldest(writing: &mut VecDeque<Write>) -> (Write, Result<Stored, Stuck>) {
    poll_fn(|context| {
        for write in writing.iter_mut() {
            if write.ended.is_none()
                && let Poll::Ready(result) = write.under_way.as_mut().poll(context)
            {
                write.ended = Some(result);
            }
        }
        let ended = writing.front_mut().and_then(|write| write.ended.take());
        ended.map_or(Poll::Pending, |result| Poll::Ready((writing.pop_front().expect("it has ended"), result)))
    })
    .await
}

/// What of the positions is new. They have come, or will have come by then, as far as `before`.
fn moves(committed: &Checkpoint, before: Option<&Checkpoint>, upto: &Checkpoint) -> Vec<Move> {
    let from = |partition| {
        let before = before.and_then(|before| before.0.get(&partition).copied());
        before.unwrap_or_else(|| committed.next(partition))
    };
    let moved = |(&partition, &to): (&u32, &u64)| Move { partition, from: from(partition), to };
    upto.0.iter().map(moved).filter(|step| step.from != step.to).collect()
}

async fn sleep_until(deadline: Option<Instant>) {
    if let Some(deadline) = deadline {
        tokio::time::sleep_until(deadline.into()).await;
    }
}

#[expect(clippy::cast_precision_loss, reason = "a figure for a histogram")]
fn seconds(millis: u128) -> f64 {
    millis as f64 / 1000.0
}

#[expect(clippy::cast_precision_loss, reason = "batches are small")]
fn rows(count: usize) -> f64 {
    count as f64
}
