//! The one write path: records -> orders -> durable -> visible -> acknowledged, from any source
//! into any store.

pub mod batcher;
mod decode;
mod in_flight;
mod metrics;
pub mod policy;
pub mod settings;
mod settle;

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
use decode::Parts;
use in_flight::{Stored, Write, oldest};
pub use metrics::IngestMetrics;
use policy::Verdict;
use settle::rows;

/// Orders decoded before other tasks get a turn: readers on the same cores see no pause longer than
/// these take.
const DECODE_BURST: usize = 16;

/// Failed tries at a batch that are logged each; of more, one in as many.
const LOGGED_TRIES: u32 = 12;

/// 2000-01-01. An earlier time stamp is of a producer that has no clock, and says nothing of how
/// long its message took.
const CLOCKS_SINCE_MS: u128 = 946_684_800_000;

/// A day. What took longer is counted as that long: a clock that is years behind, or a message of
/// last year that is read again, would be all that is left of the sum.
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
    /// Valid orders that could not be stored and whose senders were told: deleted before, unknown,
    /// of the other kind.
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
    metrics: IngestMetrics,
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

/// Batches written at once.
const WRITES_MAX: usize = 2;

/// What is stored of partitions that were assigned.
struct Start {
    /// Their positions.
    from: Checkpoint,
    /// There are none, but some of what was there before.
    is_replaced: bool,
}

/// Looks up where partitions start.
type Starting = Pin<Box<dyn Future<Output = Result<(Vec<u32>, Start), IngestError>> + Send>>;

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
        metrics: IngestMetrics,
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
    /// [`IngestError`]; nothing that was acknowledged is lost, nothing unacknowledged is
    /// acknowledged.
    pub async fn run(mut self, mut shutdown: Shutdown) -> Result<Ledger, IngestError> {
        let mut starting: Option<Starting> = None;
        let mut assigned: Vec<u32> = Vec::new();
        let mut revoked: Vec<u32> = Vec::new();
        let mut is_draining = false;
        let mut is_ended = false;
        loop {
            self.decode_some()?;
            let before = self.writing.back().map(|last| &last.batch.entries[..]);
            let is_starved = self.received.is_empty() && self.parts.is_none();
            let is_pressing = is_ended || !revoked.is_empty();
            if self.writing.len() < WRITES_MAX
                && let Some(ready) = self.batcher.take_if_due(before, is_starved, is_pressing, Instant::now())
            {
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
                // 4. Received records become orders, a burst at a time, once the others had their
                //    turn.
                () = tokio::task::yield_now(), if is_decoding => {}
                // 5. The oldest order of the batch has waited long enough.
                () = sleep_until(deadline), if deadline.is_some() => {}
                // 6. More only when all before is at least decoded: this is the whole
                //    back-pressure.
                received = self.source.recv(&mut self.received), if is_receiving => {
                    self.received_at = Instant::now();
                    match received? {
                        Received::Records => self.received.reverse(), // taken from the end
                        Received::Assigned(partitions) => assigned.extend(partitions),
                        Received::Revoked(partitions) => {
                            // Their positions are another member's to look up now.
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
}

async fn sleep_until(deadline: Option<Instant>) {
    if let Some(deadline) = deadline {
        tokio::time::sleep_until(deadline.into()).await;
    }
}
