//! A real store that can be told to lie: refuse, fail after it has written, or hold. It says what it was asked and what it
//! has answered, so that a test waits for exactly that.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use order_service::id::OrderId;
use order_service::record::Checkpoint;
use order_service::snapshot::Snapshot;
use order_service::store::embedded::Embedded;
use order_service::store::{Batch, CommitPermit, Outcome, Page, Store, StoreError};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

/// The longest that anything may take here. Long, for a machine that does much else at the same time.
pub const LONG: Duration = Duration::from_mins(2);

/// Lets every task of the test that can go on do so. They all run on its one thread, and each has its turn before this one
/// has its next.
pub async fn settled() {
    for _ in 0..1000 {
        tokio::task::yield_now().await;
    }
}

/// What the next commit does instead of the truth.
#[derive(Debug, Clone, Copy)]
pub enum Lie {
    /// Nothing is written, and it says so.
    Reject,
    /// Everything is written, and it says that nothing was.
    FailAfterWrite,
    /// Waits until [`Lying::release`] before it does anything.
    Hold,
    /// Everything is written, and it says so after [`Lying::release`].
    HoldAnswer,
    /// Says that it is damaged.
    Damaged,
}

/// How often something has happened. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Tally(watch::Sender<usize>);

impl Tally {
    fn add(&self) {
        self.0.send_modify(|count| *count += 1);
    }

    pub fn get(&self) -> usize {
        *self.0.borrow()
    }

    /// Waits until it has happened so often.
    pub async fn reaches(&self, count: usize) {
        let mut seen = self.0.subscribe();
        let reached = tokio::time::timeout(LONG, seen.wait_for(|seen| *seen >= count)).await;
        assert!(reached.is_ok(), "only {} of {count} after {LONG:?}", self.get());
    }
}

/// The calls of one method.
#[derive(Debug, Clone, Default)]
pub struct Calls {
    /// It was asked.
    pub entered: Tally,
    /// What there is to say is settled; it may still be held back.
    pub answered: Tally,
}

/// A store and the lies it is still to tell.
#[derive(Clone)]
pub struct Lying {
    pub truth: Embedded,
    lies: Arc<Mutex<VecDeque<Lie>>>,
    held: Arc<Semaphore>,
    /// Commits whose turn has come.
    pub commits: Calls,
    /// Commits that are written, and whose answer is held back.
    pub written: Tally,
    /// Fetches of one order.
    pub fetches: Calls,
    /// Batches that were asked for before their turn.
    pub early: Tally,
    /// How many of the next of those are refused at once.
    pub refuses_early: Arc<AtomicUsize>,
    /// Answers to fetches that may go out; all of them unless they are held.
    answers: Arc<Semaphore>,
}

impl Lying {
    pub fn new(truth: Embedded, lies: impl IntoIterator<Item = Lie>) -> Self {
        Self {
            truth,
            lies: Arc::new(Mutex::new(lies.into_iter().collect())),
            held: Arc::new(Semaphore::new(0)),
            commits: Calls::default(),
            written: Tally::default(),
            fetches: Calls::default(),
            early: Tally::default(),
            refuses_early: Arc::default(),
            answers: Arc::new(Semaphore::new(1000)),
        }
    }

    /// Holds the answers to fetches, which are true when they are held and may not be when they arrive, until what is
    /// given back is dropped.
    pub fn hold_answers(&self) -> OwnedSemaphorePermit {
        Arc::clone(&self.answers).try_acquire_many_owned(1000).unwrap()
    }

    /// Lets one held commit go on.
    pub fn release(&self) {
        self.held.add_permits(1);
    }

    /// What the next commit does, after those that are lied to already.
    pub fn lie(&self, lie: Lie) {
        self.lies.lock().unwrap().push_back(lie);
    }

    /// Lies not yet told.
    pub fn left(&self) -> usize {
        self.lies.lock().unwrap().len()
    }
}

impl Lying {
    async fn tell(&self, batch: Arc<Batch>) -> Result<Vec<Outcome>, StoreError> {
        let lie = self.lies.lock().unwrap().pop_front();
        match lie {
            None => {}
            Some(Lie::Reject) => return Err(StoreError::Unavailable("refused on purpose".into())),
            Some(Lie::Damaged) => return Err(StoreError::Damaged("damaged on purpose".into())),
            Some(Lie::FailAfterWrite) => {
                self.truth.commit(batch).await?;
                return Err(StoreError::Unavailable("the answer is lost on purpose".into()));
            }
            Some(Lie::Hold) => self.held.acquire().await.unwrap().forget(),
            Some(Lie::HoldAnswer) => {
                let told = self.truth.commit(batch).await;
                self.written.add();
                self.held.acquire().await.unwrap().forget();
                return told;
            }
        }
        self.truth.commit(batch).await
    }
}

impl Store for Lying {
    async fn commit(&self, batch: Arc<Batch>) -> Result<Vec<Outcome>, StoreError> {
        self.commits.entered.add();
        let told = self.tell(batch).await;
        self.commits.answered.add();
        told
    }

    async fn commit_after(&self, batch: Arc<Batch>, turn: &mut CommitPermit) -> Result<Vec<Outcome>, StoreError> {
        if !turn.has_come() {
            self.early.add();
            let refuses =
                self.refuses_early.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| left.checked_sub(1));
            if refuses.is_ok() {
                return Err(StoreError::Unavailable("refused before its turn".into()));
            }
        }
        turn.wait().await;
        self.commit(batch).await
    }

    async fn fetch(&self, id: OrderId) -> Result<Option<Snapshot>, StoreError> {
        self.fetches.entered.add();
        let truth = self.truth.fetch(id).await;
        self.fetches.answered.add();
        let _turn = self.answers.acquire().await.unwrap();
        truth
    }

    async fn fetch_external(
        &self,
        user_id: String,
        external: String,
    ) -> Result<Option<(OrderId, Snapshot)>, StoreError> {
        self.truth.fetch_external(user_id, external).await
    }

    async fn page(&self, before: Option<u64>, limit: usize) -> Result<Page, StoreError> {
        self.truth.page(before, limit).await
    }

    async fn scan<F>(&self, emit: F) -> Result<u64, StoreError>
    where
        F: Fn(Vec<(OrderId, Snapshot)>) + Send + Sync + 'static,
    {
        self.truth.scan(emit).await
    }

    async fn estimate(&self) -> Result<u64, StoreError> {
        self.truth.estimate().await
    }

    async fn count_live<B>(&self, begun: B) -> Result<u64, StoreError>
    where
        B: FnOnce() + Send + 'static,
    {
        self.truth.count_live(begun).await
    }

    async fn positions(&self, source: Arc<str>) -> Result<Checkpoint, StoreError> {
        self.truth.positions(source).await
    }

    async fn rename_positions(
        &self,
        former: Arc<str>,
        present: Arc<str>,
        partitions: Vec<u32>,
    ) -> Result<bool, StoreError> {
        self.truth.rename_positions(former, present, partitions).await
    }
}
