//! The read flow: an id becomes bytes. A hit is synchronous; only a miss of an incomplete view asks
//! the store.

pub mod encodings;
pub mod flight;
pub mod lists;
pub mod settings;

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::task::JoinError;
use tokio::time::Instant;

use crate::cache::View;
use crate::id::{OrderId, Version};
use crate::redis::Redis;
use crate::snapshot::{OwnerTag, Snapshot};
use crate::store::{Page, Store, StoreError};
use flight::Flight;

/// Orders read at once by who looks for some of them.
const WALK_ROWS: usize = 256;

/// How reads that miss the view are bounded.
#[derive(Debug, Clone)]
pub struct Config {
    /// Loads from the store at once; further misses wait for their turn.
    pub loads_max: usize,
    /// How long a reader waits for its turn and for the load.
    pub load_wait: Duration,
    /// How long a stream waits for its turn at the next page: as long as a client may well wait for
    /// a stream to go on.
    pub page_wait: Duration,
    /// How long a read for a minimum version waits for it to become visible before it asks the
    /// store.
    pub version_wait: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            loads_max: 64,
            load_wait: Duration::from_secs(2),
            page_wait: Duration::from_secs(30),
            version_wait: Duration::from_millis(200),
        }
    }
}

/// What the view knows of an id.
#[derive(Debug, Clone)]
pub enum Found {
    /// This copy, which may be a deleted one.
    Hit(Snapshot),
    /// There is no order of this id.
    Absent,
    /// The store must be asked: [`Reader::load`].
    Miss,
}

/// Why a read could not be answered.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ReadError {
    /// Too many loads are under way, and there was no permit in time.
    #[error("too many reads wait for the store")]
    Busy,
    /// The store did not answer in time.
    #[error("the store did not answer in time: it is silent or slow, or what was asked waits for a lock")]
    Slow,
    /// The store failed.
    #[error("the store cannot be read")]
    Store(#[source] Arc<StoreError>),
}

/// A question to the store, under way.
type Asking<'s, R> = Pin<Box<dyn Future<Output = Result<R, StoreError>> + Send + 's>>;

/// What a reader asks of a [`Store`], whichever it is: only a miss gets here, and pays for one box.
trait Backing: Send + Sync {
    fn is_shareable(&self) -> bool;
    fn fetch(&self, id: OrderId) -> Asking<'_, Option<Snapshot>>;
    fn fetch_external(&self, user_id: String, external: String) -> Asking<'_, Option<(OrderId, Snapshot)>>;
    fn page(&self, before: Option<u64>, limit: usize) -> Asking<'_, Page>;
}

impl<T: Store> Backing for T {
    fn is_shareable(&self) -> bool {
        Store::is_shareable(self)
    }

    fn fetch(&self, id: OrderId) -> Asking<'_, Option<Snapshot>> {
        Box::pin(Store::fetch(self, id))
    }

    fn fetch_external(&self, user_id: String, external: String) -> Asking<'_, Option<(OrderId, Snapshot)>> {
        Box::pin(Store::fetch_external(self, user_id, external))
    }

    fn page(&self, before: Option<u64>, limit: usize) -> Asking<'_, Page> {
        Box::pin(Store::page(self, before, limit))
    }
}

/// Looks orders up. Clones share everything. A hit is answered from the view, without a call
/// through a table; a miss asks the store through one boxed future.
#[derive(Clone)]
pub struct Reader {
    view: Arc<View>,
    store: Arc<dyn Backing>,
    redis: Option<Redis>,
    flight: Flight,
    config: Config,
}

impl Reader {
    /// A reader of `view` that falls back to `store`.
    #[must_use]
    pub fn new<T: Store>(view: Arc<View>, store: T, config: Config) -> Self {
        let flight = Flight::new(config.loads_max);
        let store: Arc<dyn Backing> = Arc::new(store);
        Self { view, store, redis: None, flight, config }
    }

    /// Loads in this runtime. To bring an order into the view may mean to wait until the map has
    /// grown or others have made room, and threads that answer from memory wait for nothing.
    #[must_use]
    pub fn with_loads_in(mut self, runtime: Handle) -> Self {
        self.flight = self.flight.with_runtime(runtime);
        self
    }

    /// Asks there before the store.
    #[must_use]
    pub fn with_redis(mut self, redis: Option<Redis>) -> Self {
        self.redis = redis;
        self
    }

    /// The view itself, for lists and totals.
    #[must_use]
    pub fn view(&self) -> &Arc<View> {
        &self.view
    }

    /// Whether other processes may write to the same store.
    #[must_use]
    pub fn is_shareable(&self) -> bool {
        self.store.is_shareable()
    }

    /// What the view knows. Never waits, allocates nothing on a hit.
    #[must_use]
    pub fn get(&self, id: &OrderId) -> Found {
        match self.view.get(id) {
            Some(snapshot) => Found::Hit(snapshot),
            None if self.view.is_complete() || self.view.is_absent(id) => Found::Absent,
            None => Found::Miss,
        }
    }

    /// Loads an order from Redis or the store into the view. Concurrent loads of one id are one.
    /// Cancel-safe: the load goes on for the others.
    ///
    /// # Errors
    /// [`ReadError`].
    pub async fn load(&self, id: &OrderId) -> Result<Option<Snapshot>, ReadError> {
        let load = || {
            let (view, store, id) = (Arc::clone(&self.view), Arc::clone(&self.store), id.clone());
            let (redis, is_shareable) = (self.redis.clone(), self.is_shareable());
            async move {
                // What is published while they are asked must still be there when the answer comes.
                let pinned = view.pin(vec![id.clone()]);
                if let Some(redis) = &redis
                    && let Some(found) = redis.get(&id).await
                {
                    fill(&view, &id, &found, is_shareable);
                    return Ok((Some(found), pinned));
                }
                let asked = Instant::now().into_std();
                let loaded = store.fetch(id.clone()).await.map_err(|error| ReadError::Store(Arc::new(error)))?;
                match &loaded {
                    Some(snapshot) => {
                        if let Some(redis) = &redis {
                            redis.fill(&id, snapshot, asked);
                        }
                        fill(&view, &id, snapshot, is_shareable);
                    }
                    None => view.note_absent(id.clone(), asked),
                }
                Ok::<_, ReadError>((loaded, pinned))
            }
        };
        let answer = {
            let (view, id) = (Arc::clone(&self.view), id.clone());
            move |loaded: Result<_, ReadError>| {
                let (loaded, pinned) = loaded?;
                // What was published meanwhile is newer.
                let newest = view.get(&id).or(loaded);
                drop(pinned);
                Ok(newest)
            }
        };
        self.flight.join(id, self.end(), load, answer).await
    }

    /// A copy at least as new as `version`: from memory, else after a short wait, else from the
    /// store. `None` when no one has one.
    ///
    /// # Errors
    /// [`ReadError`].
    pub async fn get_at_least(&self, id: &OrderId, version: Version) -> Result<Option<Snapshot>, ReadError> {
        let is_new_enough = move |snapshot: &Snapshot| snapshot.version() >= version;
        if !self.view.is_complete() && !self.view.contains(id) {
            // No one may bring it here unasked.
            let loaded = self.load(id).await?.filter(is_new_enough);
            if loaded.is_some() {
                return Ok(loaded);
            }
        }
        let deadline = Instant::now() + self.config.version_wait;
        let mut head = self.view.feed().watch();
        loop {
            head.mark_unchanged();
            if let Some(snapshot) = self.view.get(id).filter(is_new_enough) {
                return Ok(Some(snapshot));
            }
            if !matches!(tokio::time::timeout_at(deadline, head.changed()).await, Ok(Ok(()))) {
                break;
            }
        }
        if let Some(loaded) = self.load(id).await?.filter(is_new_enough) {
            return Ok(Some(loaded));
        }
        let Some(redis) = self.redis.clone() else { return Ok(None) };
        let (view, store, id) = (Arc::clone(&self.view), Arc::clone(&self.store), id.clone());
        let stored = self.flight.spawn(async move {
            // Others may have stored it so lately that Redis has the one before.
            let _pinned = view.pin(vec![id.clone()]);
            let stored = store.fetch(id.clone()).await?.filter(is_new_enough);
            if let Some(stored) = &stored {
                redis.note(&id, stored);
                fill(&view, &id, stored, store.is_shareable());
            }
            Ok(stored)
        });
        let panicked = |error: JoinError| Err(StoreError::Unavailable(error.into()));
        self.bounded(async { stored.await.unwrap_or_else(panicked) }).await
    }

    /// The newest live envelope order of a user by `payload.id`.
    ///
    /// # Errors
    /// [`ReadError`].
    pub async fn by_external(
        &self,
        user_id: String,
        external: String,
    ) -> Result<Option<(OrderId, Snapshot)>, ReadError> {
        if self.view.is_complete()
            && let Ok(found) = self.view.by_external(&user_id, &external)
        {
            return Ok(found);
        }
        self.bounded(self.store.fetch_external(user_id, external)).await
    }

    /// At most `limit` live orders created before `before`, newest first.
    ///
    /// # Errors
    /// [`ReadError`].
    pub async fn page(&self, before: Option<u64>, limit: usize) -> Result<Page, ReadError> {
        self.bounded(self.store.page(before, limit)).await
    }

    /// The same for the next page of a stream, which is patient: it waits for its turn for longer,
    /// and keeps no other reader from its own.
    ///
    /// # Errors
    /// [`ReadError`].
    pub async fn next_page(&self, before: Option<u64>, limit: usize) -> Result<Page, ReadError> {
        let _turn = self.flight.acquire_page_permit(Instant::now() + self.config.page_wait).await?;
        until(self.end(), self.store.page(before, limit)).await
    }

    /// Whether a reader of one owner's orders, or of all, gets to see this one.
    #[must_use]
    pub fn is_seen(&self, owner: Option<OwnerTag>, snapshot: &Snapshot) -> bool {
        owner.is_none() || self.view.owner_of(snapshot) == owner
    }

    /// Whether a result "not found", or "of another owner", is final. A reader of one owner's
    /// orders gets it without a query of the store only where no id needs one, so that orders of
    /// other owners and unknown ids take the same time.
    #[must_use]
    pub fn is_known_absent(&self, owner: Option<OwnerTag>) -> bool {
        owner.is_none() || self.view.is_complete()
    }

    /// As [`Reader::load`] or [`Reader::get_at_least`] for a reader of one owner's orders: what is
    /// another's is as absent as an unknown order, after the same work.
    ///
    /// # Errors
    /// [`ReadError`].
    pub async fn load_owned(
        &self,
        id: &OrderId,
        least: Option<Version>,
        owner: OwnerTag,
    ) -> Result<Option<Snapshot>, ReadError> {
        let end = Instant::now() + self.config.version_wait;
        let found = match least {
            Some(least) => self.get_at_least(id, least).await?,
            None => self.load(id).await?,
        };
        let own = found.as_ref().filter(|snapshot| self.is_seen(Some(owner), snapshot)).cloned();
        if own.is_none() && found.is_some() && least.is_some() {
            tokio::time::sleep_until(end).await; // as long as a version that there is not is waited for
            self.load(id).await?;
        }
        Ok(own)
    }

    /// At most `limit` live orders of an owner created before `before`, newest first: from memory
    /// where all are there, else picked from those of the store, page by page.
    ///
    /// # Errors
    /// [`ReadError`].
    pub async fn own_page(
        &self,
        owner: OwnerTag,
        before: Option<u64>,
        limit: usize,
    ) -> Result<Vec<Snapshot>, ReadError> {
        if let Some(page) = self.view.owned_page(owner, before, limit) {
            return Ok(page);
        }
        let mut own = Vec::new();
        self.walk(before, |order| {
            if self.is_seen(Some(owner), &order) {
                own.push(order);
            }
            own.len() < limit
        })
        .await?;
        Ok(own)
    }

    /// How many live orders an owner has.
    ///
    /// # Errors
    /// [`ReadError`].
    pub async fn own_count(&self, owner: OwnerTag) -> Result<usize, ReadError> {
        if let Some(count) = self.view.owned_count(owner) {
            return Ok(count);
        }
        let mut count = 0;
        self.walk(None, |order| {
            count += usize::from(self.is_seen(Some(owner), &order));
            true
        })
        .await?;
        Ok(count)
    }

    /// Shows all live orders of the store created before `before`, newest first, until `goes_on`
    /// says no.
    async fn walk(&self, mut before: Option<u64>, mut goes_on: impl FnMut(Snapshot) -> bool) -> Result<(), ReadError> {
        loop {
            let page = self.next_page(before, WALK_ROWS).await?;
            let is_last = page.len() < WALK_ROWS;
            before = page.last().map(|(_, order)| order.seq());
            for (_, order) in page {
                if !goes_on(order) {
                    return Ok(());
                }
            }
            if is_last {
                return Ok(());
            }
        }
    }

    async fn bounded<R>(&self, read: impl Future<Output = Result<R, StoreError>>) -> Result<R, ReadError> {
        let end = self.end();
        let _turn = self.flight.acquire_permit(end).await?;
        until(end, read).await
    }

    /// When a read that begins now times out.
    fn end(&self) -> Instant {
        Instant::now() + self.config.load_wait
    }
}

async fn until<R>(end: Instant, read: impl Future<Output = Result<R, StoreError>>) -> Result<R, ReadError> {
    match tokio::time::timeout_at(end, read).await {
        Ok(result) => result.map_err(|error| ReadError::Store(Arc::new(error))),
        Err(_) => Err(ReadError::Slow),
    }
}

/// Puts into the view what was loaded, unless that would mean to wait until there is room for all
/// orders of a start, one of which it is.
fn fill(view: &View, id: &OrderId, loaded: &Snapshot, is_shareable: bool) {
    if view.is_making_room() {
        return;
    }
    if is_shareable {
        view.fill_shared(id.clone(), loaded.clone());
    } else {
        view.fill(id.clone(), loaded.clone());
    }
}
