//! A real store that can be told to lie: refuse, fail after it has written, hold, or be slow.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use order_service::id::OrderId;
use order_service::record::Checkpoint;
use order_service::snapshot::Snapshot;
use order_service::store::embedded::Embedded;
use order_service::store::{Batch, Outcome, Page, Store, StoreError, Turn};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// What the next commit does instead of the truth.
#[derive(Debug, Clone, Copy)]
pub enum Lie {
    /// Nothing is written, and it says so.
    Reject,
    /// Everything is written, and it says that nothing was.
    FailAfterWrite,
    /// Waits until [`Lying::release`] before it does anything.
    Hold,
    /// Takes its time.
    Slow(Duration),
    /// Says that it is damaged.
    Damaged,
}

/// A store and the lies it is still to tell.
#[derive(Clone)]
pub struct Lying {
    pub truth: Embedded,
    lies: Arc<Mutex<VecDeque<Lie>>>,
    held: Arc<Semaphore>,
    /// Orders that were fetched.
    pub fetches: Arc<AtomicUsize>,
    /// Batches that were asked for before their turn.
    pub early: Arc<AtomicUsize>,
    /// How many of the next of those are refused at once.
    pub refuses_early: Arc<AtomicUsize>,
    /// Answers to fetches that may go out; as a rule all.
    answers: Arc<Semaphore>,
}

impl Lying {
    pub fn new(truth: Embedded, lies: impl IntoIterator<Item = Lie>) -> Self {
        Self {
            truth,
            lies: Arc::new(Mutex::new(lies.into_iter().collect())),
            held: Arc::new(Semaphore::new(0)),
            fetches: Arc::default(),
            early: Arc::default(),
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

    /// Lies not yet told.
    pub fn left(&self) -> usize {
        self.lies.lock().unwrap().len()
    }
}

impl Store for Lying {
    async fn commit(&self, batch: Arc<Batch>) -> Result<Vec<Outcome>, StoreError> {
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
            Some(Lie::Slow(time)) => tokio::time::sleep(time).await,
        }
        self.truth.commit(batch).await
    }

    async fn commit_after(&self, batch: Arc<Batch>, turn: &mut Turn) -> Result<Vec<Outcome>, StoreError> {
        if !turn.has_come() {
            self.early.fetch_add(1, Ordering::SeqCst);
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
        self.fetches.fetch_add(1, Ordering::SeqCst);
        let truth = self.truth.fetch(id).await;
        let _turn = self.answers.acquire().await.unwrap();
        truth
    }

    async fn fetch_external(&self, user_id: String, external: String) -> Result<Option<Snapshot>, StoreError> {
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

    async fn count_live(&self) -> Result<u64, StoreError> {
        self.truth.count_live().await
    }

    async fn positions(&self, source: Arc<str>) -> Result<Checkpoint, StoreError> {
        self.truth.positions(source).await
    }
}
