//! A store that says what a test has it say, for what depends on a store's answers and not on what is in it. `Lying`
//! lies about a real one.

use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use order_service::id::{OrderId, Version};
use order_service::record::Checkpoint;
use order_service::snapshot::Snapshot;
use order_service::store::{Batch, Changes, Outcome, Page, Peers, Store, StoreError, Unpublished};

/// What is said.
#[derive(Default)]
pub struct Script {
    /// The next pages, where `None` is a failure; empty ones after that.
    pub pages: Mutex<VecDeque<Option<Page>>>,
    /// What is stored under an id.
    pub orders: Mutex<HashMap<OrderId, Snapshot>>,
    /// How many live orders there are.
    pub live: AtomicU64,
    /// Reads do not get their answer yet.
    pub is_held: AtomicBool,
    /// Looks for changes by others fail.
    pub is_cut_off: AtomicBool,
    /// They do not get their answer yet.
    pub is_silent: AtomicBool,
    /// Counts do not begin.
    pub is_count_held: AtomicBool,
    /// Batches that were left behind.
    pub unpublished: Mutex<VecDeque<Unpublished>>,
    /// How often was looked for some.
    pub looks: AtomicUsize,
    /// How often some were taken.
    pub claims: AtomicUsize,
    /// Batches that are published.
    pub published: Mutex<Vec<i64>>,
}

/// The store. Other instances may write to it, and none does.
#[derive(Clone, Default)]
pub struct Scripted(pub Arc<Script>);

impl Scripted {
    /// Waits as long as reads are held.
    async fn release(&self) {
        while self.0.is_held.load(Ordering::SeqCst) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

fn failure<T>() -> Result<T, StoreError> {
    Err(StoreError::Unavailable("as the script has it".into()))
}

impl Store for Scripted {
    async fn commit(&self, _: Arc<Batch>) -> Result<Vec<Outcome>, StoreError> {
        failure()
    }

    async fn fetch(&self, id: OrderId) -> Result<Option<Snapshot>, StoreError> {
        let found = self.0.orders.lock().unwrap().get(&id).cloned();
        // True when it was looked up, and perhaps no more when it arrives.
        tokio::task::yield_now().await;
        self.release().await;
        Ok(found)
    }

    async fn fetch_external(&self, _: String, _: String) -> Result<Option<(OrderId, Snapshot)>, StoreError> {
        failure()
    }

    async fn page(&self, _: Option<u64>, _: usize) -> Result<Page, StoreError> {
        self.release().await;
        match self.0.pages.lock().unwrap().pop_front() {
            Some(None) => failure(),
            Some(Some(page)) => Ok(page),
            None => Ok(Page::new()),
        }
    }

    async fn scan<F>(&self, _: F) -> Result<u64, StoreError>
    where
        F: Fn(Vec<(OrderId, Snapshot)>) + Send + Sync + 'static,
    {
        failure()
    }

    async fn estimate(&self) -> Result<u64, StoreError> {
        Ok(self.0.live.load(Ordering::SeqCst))
    }

    async fn count_live<B>(&self, begun: B) -> Result<u64, StoreError>
    where
        B: FnOnce() + Send + 'static,
    {
        if self.0.is_count_held.load(Ordering::SeqCst) {
            std::future::pending::<()>().await;
        }
        begun();
        Ok(self.0.live.load(Ordering::SeqCst))
    }

    async fn positions(&self, _: Arc<str>) -> Result<Checkpoint, StoreError> {
        failure()
    }

    async fn rename_positions(&self, _: Arc<str>, _: Arc<str>, _: Vec<u32>) -> Result<bool, StoreError> {
        failure()
    }

    async fn unpublished(&self, _: Duration, limit: usize) -> Result<Vec<Unpublished>, StoreError> {
        let mut left = self.0.unpublished.lock().unwrap();
        let count = limit.min(left.len());
        self.0.looks.fetch_add(1, Ordering::SeqCst);
        self.0.claims.fetch_add(usize::from(count > 0), Ordering::SeqCst);
        Ok(left.drain(..count).collect())
    }

    async fn newer(&self, known: Vec<(OrderId, Version)>) -> Result<Page, StoreError> {
        let orders = self.0.orders.lock().unwrap();
        let newer = known.into_iter().filter_map(|(id, version)| {
            let stored = orders.get(&id).filter(|stored| stored.version() > version)?.clone();
            Some((id, stored))
        });
        Ok(newer.collect())
    }

    async fn published(&self, tickets: Vec<i64>) -> Result<(), StoreError> {
        self.0.published.lock().unwrap().extend(tickets);
        Ok(())
    }

    fn is_shareable(&self) -> bool {
        true
    }

    async fn changes<N, F>(&self, _: N, _: F) -> Result<Changes, StoreError>
    where
        N: Fn(&OrderId, Version) -> bool + Send + Sync + 'static,
        F: Fn(Page) + Send + Sync + 'static,
    {
        while self.0.is_silent.load(Ordering::SeqCst) {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        if self.0.is_cut_off.load(Ordering::SeqCst) {
            return failure();
        }
        Ok(Changes { is_shared: false, count: 0, is_restarted: false, peers: Peers::default() })
    }
}
