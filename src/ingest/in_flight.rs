//! Batches on their way to the store: each is tried until it is durable, or until [`policy`] says
//! that it never will be.

use super::*;

/// A batch on its way into the store.
pub(super) struct Write {
    /// The batch as it was collected, without its entries.
    pub(super) ready: ReadyBatch,
    pub(super) batch: Arc<Batch>,
    /// Keeps its orders in the view until the view shows the outcome.
    pub(super) pinned: Option<Pinned>,
    /// The version of each order that was shown before; 0 for none.
    pub(super) shown: Vec<Version>,
    /// Lets the batch take effect, while it waits for the one before it.
    pub(super) release: Option<PermitRelease>,
    pub(super) block: SequenceBlock,
    pub(super) ended: Option<Result<Stored, Stuck>>,
    /// Tries until it succeeds or the policy says otherwise.
    pub(super) under_way: Pin<Box<dyn Future<Output = Result<Stored, Stuck>> + Send>>,
}

/// A batch that is durable.
pub(super) struct Stored {
    /// The changes to publish.
    pub(super) to_publish: Option<ToPublish>,
    /// What became of each entry.
    pub(super) outcomes: Vec<Outcome>,
    /// Since when no other process could change them.
    pub(super) asked: Instant,
    /// Until they are visible.
    pub(super) committing: Option<Committing>,
}

/// Why a batch is not stored as it is.
pub(super) enum Stuck {
    /// Another process has this partition.
    GiveUp(u32),
    /// These entries can never be stored.
    Reject(Vec<(usize, Refusal)>),
    /// None of it can be stored, and its senders are told.
    Refuse(IngestError),
    Fatal(IngestError),
}

impl Write {
    /// Cancels the write, however far it has come, and returns the batch.
    pub(super) fn stop(self) -> ReadyBatch {
        let Self { mut ready, batch, under_way, .. } = self;
        drop(under_way);
        ready.entries = Arc::unwrap_or_clone(batch).entries;
        ready
    }
}

/// What it takes to make a batch durable.
struct Commit<T> {
    store: T,
    view: Option<Arc<View>>,
    metrics: IngestMetrics,
    is_broker: bool,
    batch: Arc<Batch>,
    permit: CommitPermit,
    to_publish: Option<ToPublish>,
}

impl<T: Store> Commit<T> {
    /// Tries until it is durable, or until the policy says that it never will be. What was rejected
    /// before it is safe first.
    async fn run(mut self, rejects: Vec<Reject>) -> Result<Stored, Stuck> {
        for reject in rejects {
            if let Parked::Pending(pending) = reject.parked
                && let Err(error) = pending.await
            {
                return Err(Stuck::Fatal(error.into()));
            }
        }
        if self.batch.entries.is_empty() && self.batch.moves.is_empty() {
            self.permit.wait().await;
            let asked = Instant::now();
            return Ok(Stored { to_publish: None, outcomes: Vec::new(), asked, committing: None });
        }
        step("before-commit");
        let mut attempt = 0;
        loop {
            // For each try: a count does not wait for the pauses between them.
            let committing = match &self.view {
                Some(view) => view.committing().await,
                None => None,
            };
            let started = Instant::now();
            let source = match self.store.commit_after(Arc::clone(&self.batch), &mut self.permit).await {
                Ok(outcomes) => {
                    let begun = self.permit.came().map_or(started, |came| came.max(started));
                    self.metrics.commit.observe(begun.elapsed().as_secs_f64());
                    step("committed");
                    return Ok(Stored { to_publish: self.to_publish, outcomes, asked: begun, committing });
                }
                Err(source) => source,
            };
            drop(committing);
            match policy::judge(&source, self.is_broker, attempt, fastrand::f64()) {
                Verdict::Retry(pause) => {
                    // At the longest pause that is once a minute.
                    if attempt < LOGGED_TRIES || attempt.is_multiple_of(LOGGED_TRIES) {
                        tracing::warn!(error = %causes(&source), attempt, ?pause, "commit failed");
                    }
                    self.metrics.retries.inc();
                    attempt += 1;
                    if !self.batch.is_again && self.batch.entries.iter().any(|entry| entry.condition.is_some()) {
                        Arc::make_mut(&mut self.batch).is_again = true;
                    }
                    tokio::time::sleep(pause).await;
                }
                Verdict::GiveUp { partition } => return Err(Stuck::GiveUp(partition)),
                Verdict::Reject(refused) => return Err(Stuck::Reject(refused)),
                Verdict::Refuse { advice } => return Err(Stuck::Refuse(IngestError::Store { advice, source })),
                Verdict::Stop { advice } => return Err(Stuck::Fatal(IngestError::Store { advice, source })),
            }
        }
    }
}

impl<S: Source, T: Store> Ingest<S, T> {
    /// Starts committing a batch, once what was rejected before it is safe. It takes effect after
    /// those that are under way.
    pub(super) fn write(&mut self, mut ready: ReadyBatch) {
        let before = self.writing.back();
        let (release, permit) = before.map(|last| CommitPermit::after(last.block.clone())).unzip();
        let permit: CommitPermit = permit.unwrap_or_default();
        let block = permit.block();
        self.metrics.overlapped.inc_by(u64::from(before.is_some()));
        let before = before.map(|last| &last.ready.upto);
        let moves = if self.source.is_log() { moves(&self.committed, before, &ready.upto) } else { Vec::new() };
        let mut entries = std::mem::take(&mut ready.entries);
        let ids = || entries.iter().map(|entry| entry.order.id.clone()).collect();
        let pinned = self.view.as_ref().filter(|view| view.is_bounded()).and_then(|view| view.pin(ids()));
        let shown = self.note_shown(&mut entries);
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
        let commit = Commit {
            store: self.store.clone(),
            view: self.view.clone(),
            metrics: self.metrics.clone(),
            is_broker,
            batch: Arc::clone(&batch),
            permit,
            to_publish,
        };
        let under_way = Box::pin(commit.run(rejects));
        self.writing.push_back(Write { ready, batch, pinned, shown, release, block, ended: None, under_way });
    }

    /// The version of each order that is shown; 0 for none. Where the view has all orders, the
    /// store is told which ids are unknown: none of them is being written now, so the view shows
    /// what was stored of them.
    fn note_shown(&self, entries: &mut [Entry]) -> Vec<Version> {
        let Some(view) = &self.view else { return Vec::new() };
        let is_complete = view.is_complete();
        let mut shown = |entry: &mut Entry| {
            let version = view.version(&entry.order.id);
            entry.is_new = is_complete && version.is_none();
            version.unwrap_or_default()
        };
        entries.iter_mut().map(&mut shown).collect()
    }

    /// Handles the end of the oldest write. What is left of a batch that could not be stored as it
    /// was is written again.
    pub(super) fn written(&mut self, write: Write, result: Result<Stored, Stuck>) -> Result<(), IngestError> {
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
        // The batches after it have not taken effect. They are written again after what is left of
        // this one.
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
                    // Records of it that were received and not stored are read again by the process
                    // that has it.
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
                // A message that holds several of them becomes one dead letter.
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
}

/// Waits for the end of the oldest write and takes it. The others get on meanwhile. Cancel-safe.
pub(super) async fn oldest(writing: &mut VecDeque<Write>) -> (Write, Result<Stored, Stuck>) {
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

/// The moves of positions that are new. By the time of the commit the positions have come as far as
/// `before`.
pub(super) fn moves(committed: &Checkpoint, before: Option<&Checkpoint>, upto: &Checkpoint) -> Vec<Move> {
    let from = |partition| {
        let before = before.and_then(|before| before.0.get(&partition).copied());
        before.unwrap_or_else(|| committed.next(partition))
    };
    let moved = |(&partition, &to): (&u32, &u64)| Move { partition, from: from(partition), to };
    upto.0.iter().map(moved).filter(|step| step.from != step.to).collect()
}
