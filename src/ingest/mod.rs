//! The one write path: records -> orders -> durable -> visible -> acknowledged, from any source into any store.

pub mod batcher;
pub mod policy;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Instant;

use crate::cache::View;
use crate::cache::feed::Event;
use crate::id::OrderId;
use crate::lifecycle::Shutdown;
use crate::log::causes;
use crate::metrics;
use crate::order::{Change as Asked, Decoder, Order, Profile};
use crate::record::{Checkpoint, Record, Rejection, RejectionKind};
use crate::snapshot::Change;
use crate::source::{Received, Source, SourceError};
use crate::store::{Batch, Entry, Move, Outcome, Store, StoreError};
use batcher::{Batcher, Filled};
use policy::Verdict;

/// Orders decoded before other tasks get a turn: readers on the same cores see no pause longer than these take.
const DECODE_BURST: usize = 16;

/// How orders are taken in.
#[derive(Debug, Clone)]
pub struct Config {
    /// How strictly WB orders are checked.
    pub profile: Profile,
    /// Larger orders are rejected unread.
    pub order_bytes_max: usize,
    /// When batches close.
    pub batch: batcher::Config,
}

impl Default for Config {
    fn default() -> Self {
        Self { profile: Profile::default(), order_bytes_max: 1 << 20, batch: batcher::Config::default() }
    }
}

/// What became of everything a source handed over: `read` is the sum of the others.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Ledger {
    /// Records received.
    pub read: u64,
    /// Orders created, updated or deleted.
    pub stored: u64,
    /// Orders that said nothing new, or repeated a request.
    pub unchanged: u64,
    /// Valid orders that could not be stored: deleted before, unknown, of the other kind.
    pub refused: u64,
    /// Records that are no orders, kept by their source.
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
    metrics: metrics::Ingest,
    decoder: Decoder,
    batcher: Batcher,
    /// Received and not yet decoded.
    received: Vec<Record>,
    arrived: Instant,
    committed: Checkpoint,
    ledger: Ledger,
}

type Writing = Pin<Box<dyn Future<Output = (Filled, Result<Vec<Outcome>, IngestError>)> + Send>>;

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
        let committed = if source.is_log() { store.positions(source.name()).await? } else { Checkpoint::default() };
        Ok(Self {
            source,
            store,
            view,
            metrics,
            decoder: Decoder::new(config.profile, config.order_bytes_max),
            batcher: Batcher::new(config.batch.clone(), committed.clone()),
            received: Vec::new(),
            arrived: Instant::now(),
            committed,
            ledger: Ledger::default(),
        })
    }

    /// Runs until the source ends or `shutdown` comes; then what was received is still committed.
    ///
    /// # Errors
    /// [`IngestError`]; nothing that was acknowledged is lost, nothing unacknowledged is acknowledged.
    pub async fn run(mut self, mut shutdown: Shutdown) -> Result<Ledger, IngestError> {
        let mut writing: Option<Writing> = None;
        let mut is_draining = false;
        let mut is_ended = false;
        loop {
            self.decode_some().await?;
            if writing.is_none() && self.is_due(is_ended) {
                writing = Some(self.write());
            }
            let is_decoding = !self.received.is_empty() && !self.batcher.is_full();
            if is_ended && !is_decoding && writing.is_none() && self.received.is_empty() && self.batcher.is_empty() {
                return Ok(self.ledger);
            }
            let deadline = if writing.is_none() { self.batcher.deadline() } else { None };
            tokio::select! {
                biased;
                // 1. A stop must not wait for anything else.
                () = shutdown.wait(), if !is_draining => {
                    is_draining = true;
                    self.source.stop();
                }
                // 2. A finished write frees the store and answers whoever waits.
                (filled, result) = async { writing.as_mut().expect("guarded").await }, if writing.is_some() => {
                    writing = None;
                    self.settle(filled, result?);
                }
                // 3. Received records become orders, a burst at a time, once the others had their turn.
                () = tokio::task::yield_now(), if is_decoding => {}
                // 4. The oldest order of the batch has waited long enough.
                () = sleep_until(deadline), if deadline.is_some() => {}
                // 5. More only when all before is at least decoded: this is the whole back-pressure.
                received = self.source.recv(&mut self.received), if !is_ended && self.received.is_empty() => {
                    self.arrived = Instant::now();
                    match received? {
                        Received::Records => self.received.reverse(), // taken from the end
                        Received::End => is_ended = true,
                    }
                }
            }
        }
    }

    /// Decodes up to a burst of received records into the batch.
    async fn decode_some(&mut self) -> Result<(), SourceError> {
        for _ in 0..DECODE_BURST {
            if self.batcher.is_full() {
                return Ok(());
            }
            let Some(record) = self.received.pop() else { return Ok(()) };
            self.ledger.read += 1;
            match decode(&mut self.decoder, &record) {
                Ok(order) => {
                    let Record { position, idempotency, .. } = record;
                    let entry = Entry { order, must_exist: self.source.must_exist(), idempotency, is_new: false };
                    self.batcher.push(entry, position, self.arrived);
                }
                Err(rejection) => {
                    self.source.reject(&record, &rejection).await?;
                    self.ledger.rejected += 1;
                    self.metrics.processed.with_label_values(&["rejected"]).inc();
                    self.batcher.pass(record.position);
                }
            }
        }
        Ok(())
    }

    fn is_due(&self, is_ended: bool) -> bool {
        let is_starved = self.received.is_empty();
        let is_old = self.batcher.deadline().is_none_or(|deadline| deadline <= Instant::now());
        !self.batcher.is_empty() && (self.batcher.is_full() || (is_starved && (is_old || is_ended)))
    }

    /// Starts committing the batch. The future owns all it needs and tries until it succeeds or the policy says stop.
    fn write(&mut self) -> Writing {
        let mut filled = self.batcher.take();
        let moves = if self.source.is_log() { moves(&self.committed, &filled.upto) } else { Vec::new() };
        let mut entries = std::mem::take(&mut filled.entries);
        self.mark_new(&mut entries);
        self.metrics.batch_rows.observe(rows(entries.len()));
        let batch = Arc::new(Batch { source: self.source.name(), entries, moves });
        let store = self.store.clone();
        let metrics = self.metrics.clone();
        Box::pin(async move {
            if batch.entries.is_empty() && batch.moves.is_empty() {
                return (filled, Ok(Vec::new()));
            }
            let mut attempt = 0;
            loop {
                let started = Instant::now();
                match store.commit(Arc::clone(&batch)).await {
                    Ok(outcomes) => {
                        metrics.commit.observe(started.elapsed().as_secs_f64());
                        return (filled, Ok(outcomes));
                    }
                    Err(source) => match policy::judge(&source, attempt, fastrand::f64()) {
                        Verdict::Stop { advice } => return (filled, Err(IngestError::Store { advice, source })),
                        Verdict::Retry(pause) => {
                            tracing::warn!(error = %causes(&source), attempt, ?pause, "commit failed");
                            metrics.retries.inc();
                            attempt += 1;
                            tokio::time::sleep(pause).await;
                        }
                    },
                }
            }
        })
    }

    /// Tells the store which ids nobody has seen. Nothing is being written now, so the view shows all that was stored.
    fn mark_new(&self, entries: &mut [Entry]) {
        if let Some(view) = self.view.as_ref().filter(|view| view.is_complete()) {
            for entry in entries {
                entry.is_new = view.get(&entry.order.id).is_none();
            }
        }
    }

    /// A batch is durable. The order of what follows is the correctness argument: readers never see what is not
    /// durable, and nobody is told of what readers do not see.
    fn settle(&mut self, filled: Filled, outcomes: Vec<Outcome>) {
        if let Some(view) = &self.view {
            let events = outcomes.iter().filter_map(Outcome::visible).filter_map(|(id, snapshot, change)| {
                // What an earlier try changed, whose answer was lost, is news only if readers do not see it yet.
                let change =
                    change.or_else(|| view.fill(id.clone(), snapshot.clone()).then(|| snapshot.apparent_change()))?;
                Some(Event { id: id.clone(), snapshot: snapshot.clone(), change })
            });
            view.publish(events.collect());
        }
        let now = Instant::now();
        for (outcome, arrived) in outcomes.iter().zip(&filled.arrived) {
            self.count(outcome);
            self.metrics.visible.observe(now.duration_since(*arrived).as_secs_f64());
        }
        self.committed = filled.upto;
        self.source.commit(&self.committed, filled.positions.into_iter().zip(outcomes).collect());
    }

    fn count(&mut self, outcome: &Outcome) {
        let (column, status) = match outcome {
            Outcome::Stored { change, .. } => {
                if *change == Change::Created {
                    self.metrics.created.inc();
                }
                (&mut self.ledger.stored, "stored")
            }
            Outcome::Unchanged { .. } => (&mut self.ledger.unchanged, "unchanged"),
            Outcome::Repeated { .. } => (&mut self.ledger.unchanged, "repeated"),
            Outcome::WasDeleted { .. } | Outcome::Refused { .. } => (&mut self.ledger.refused, "refused"),
        };
        *column += 1;
        self.metrics.processed.with_label_values(&[status]).inc();
    }
}

fn decode(decoder: &mut Decoder, record: &Record) -> Result<Order, Rejection> {
    if let Some(payload) = &record.payload {
        return decoder.decode(payload);
    }
    let id = OrderId::parse(record.key.as_deref().unwrap_or_default())
        .map_err(|error| Rejection::whole(RejectionKind::Invalid, format!("null value whose key is no id: {error}")))?;
    Ok(Order { id, change: Asked::Delete })
}

/// What of the positions is new.
fn moves(from: &Checkpoint, upto: &Checkpoint) -> Vec<Move> {
    let moved = |(&partition, &to): (&u32, &u64)| Move { partition, from: from.next(partition), to };
    upto.0.iter().map(moved).filter(|step| step.from != step.to).collect()
}

async fn sleep_until(deadline: Option<Instant>) {
    if let Some(deadline) = deadline {
        tokio::time::sleep_until(deadline.into()).await;
    }
}

#[expect(clippy::cast_precision_loss, reason = "batches are small")]
fn rows(count: usize) -> f64 {
    count as f64
}
