//! The durable side: a batch of orders goes in with its positions in one transaction, snapshots
//! come out. The only code that assigns versions.

pub mod any;
pub mod embedded;
mod outcome;
mod permit;
pub mod postgres;
mod rules;
pub mod settings;

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use crate::id::{OrderId, Version};
use crate::order::Order;
use crate::record::{Checkpoint, Condition, Idempotency, Parcel};
use crate::snapshot::{Kind, Snapshot, State};

use outcome::unstorable;
pub use outcome::{Answer, Outcome, Refusal, StoreError};
pub use permit::{CommitPermit, PermitRelease, SequenceBlock, Wait};
pub use rules::Row;

/// Orders to be made durable together.
#[derive(Debug, Clone)]
pub struct Batch {
    /// The source whose positions move with this batch.
    pub source: Arc<str>,
    /// The orders, oldest first. Two of one id are applied one after the other.
    pub entries: Vec<Entry>,
    /// How far the source comes with this batch.
    pub moves: Vec<Move>,
    /// No one waits for the outcomes, so an order that would be lost by its refusal stops the
    /// batch: [`StoreError::Unstorable`].
    pub is_atomic: bool,
    /// Recorded in the same transaction, to be published afterwards.
    pub parcel: Option<Parcel>,
    /// It may have been committed by an earlier try, whose answer was lost: what a conditional
    /// write has left is no reason to refuse it.
    pub is_again: bool,
    /// Say whose each order was before: what is in memory does not tell.
    pub asks_former: bool,
}

impl Batch {
    /// Orders whose sender waits for what becomes of each: no position moves with them, and nothing
    /// is published.
    #[must_use]
    pub fn of(source: impl Into<Arc<str>>, entries: Vec<Entry>) -> Self {
        let source = source.into();
        Self { source, entries, moves: Vec::new(), is_atomic: false, parcel: None, is_again: false, asks_former: false }
    }
}

/// One order of a batch.
#[derive(Debug, Clone)]
pub struct Entry {
    /// What to store.
    pub order: Order,
    /// Refuse an envelope that names an id no one knows, instead of creating it.
    pub must_exist: bool,
    /// Answer a repeated request as the first one was answered.
    pub idempotency: Option<Idempotency>,
    /// What must be so for it to take effect.
    pub condition: Option<Condition>,
    /// Touch orders of this owner only.
    pub owner: Option<Box<str>>,
    /// Change nothing that is newer than this: what the entry says was made from this version of
    /// the order.
    pub expected_version: Option<Version>,
    /// No one is known to have stored the id. Only a hint: a wrong one costs time, never an order.
    pub is_new: bool,
}

impl From<Order> for Entry {
    /// Without any condition.
    fn from(order: Order) -> Self {
        Self {
            order,
            must_exist: false,
            idempotency: None,
            condition: None,
            owner: None,
            expected_version: None,
            is_new: false,
        }
    }
}

/// A source's position moves: applied only where the stored one is still `from`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Move {
    /// Partition of the source.
    pub partition: u32,
    /// The next offset as this process knows it.
    pub from: u64,
    /// The next offset once the batch is durable.
    pub to: u64,
}

/// What a process lets the others on the same store know of itself.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Presence {
    /// It follows what others publish of their changes.
    pub follows: bool,
    /// It publishes each of its changes that becomes visible from now on.
    pub publishes: bool,
}

/// What the other processes on the same store say of themselves. What a process of a former version
/// does not say is taken for what has more asked of the store: that it follows, and does not
/// publish.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Peers {
    /// At least one follows what is published, or did a moment ago.
    pub follow: bool,
    /// There are some, and all of them publish.
    pub publish: bool,
}

/// What other processes did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Changes {
    /// Another process has the store open, or had it a moment ago.
    pub is_shared: bool,
    /// Orders handed over.
    pub count: u64,
    /// The store is served by another process than before, which may be without what the former one
    /// had told: a view of what it told has to be held against the whole store.
    pub is_restarted: bool,
    /// What they say of themselves.
    pub peers: Peers,
}

/// A batch that was committed and not yet published.
#[derive(Debug, Clone)]
pub struct Unpublished {
    /// What was to be published of it.
    pub parcel: Parcel,
    /// The orders that it is about. What it did not change after all may be among them.
    pub ids: Vec<OrderId>,
}

/// All that a store knows of an order.
#[derive(Debug, Clone, Copy)]
pub struct Full<'a> {
    /// The id, as it is answered.
    pub id: &'a str,
    /// Which face it has.
    pub kind: Kind,
    /// Whether it is shown.
    pub state: State,
    /// How often it has changed.
    pub version: Version,
    /// When it was stored first and when it last changed, in microseconds since 1970. An embedded
    /// store that is older than its step 3 knows it of envelope orders only, whose bodies say it.
    pub times: Option<(i64, i64)>,
    /// What is answered; empty for an order of which only that it was deleted is left.
    pub body: &'a [u8],
}

/// A page of live orders, newest first.
pub type Page = Vec<(OrderId, Snapshot)>;

/// Where orders are durable.
///
/// All futures are cancel-safe for the caller: a dropped `commit` may still take effect, and
/// committing the same batch again is answered [`StoreError::Fenced`] or applied again with the
/// same result.
pub trait Store: Clone + Send + Sync + 'static {
    /// Makes a batch durable in one transaction, positions included. Once `Ok`, a crash loses none
    /// of it. There is one outcome per entry, in order.
    ///
    /// # Errors
    /// [`StoreError`]; then nothing of the batch is stored.
    fn commit(&self, batch: Arc<Batch>) -> impl Future<Output = Result<Vec<Outcome>, StoreError>> + Send;

    /// The same for a batch that comes after another and names none of its orders: what can be done
    /// before the other one is durable may be, but nothing of it takes effect before its turn.
    /// Dropped before its turn, it never does.
    ///
    /// # Errors
    /// As [`Self::commit`], before its turn or after.
    fn commit_after(
        &self,
        batch: Arc<Batch>,
        permit: &mut CommitPermit,
    ) -> impl Future<Output = Result<Vec<Outcome>, StoreError>> + Send {
        async {
            permit.wait().await;
            self.commit(batch).await
        }
    }

    /// The newest copy of one order.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] or [`StoreError::Damaged`].
    fn fetch(&self, id: OrderId) -> impl Future<Output = Result<Option<Snapshot>, StoreError>> + Send;

    /// The newest live envelope order of a user (canonical UUID text) whose `payload.id` is
    /// `external`, and its id.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] or [`StoreError::Damaged`].
    fn fetch_external(
        &self,
        user_id: String,
        external: String,
    ) -> impl Future<Output = Result<Option<(OrderId, Snapshot)>, StoreError>> + Send;

    /// At most `limit` live orders created before `before`, newest first.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] or [`StoreError::Damaged`].
    fn page(&self, before: Option<u64>, limit: usize) -> impl Future<Output = Result<Page, StoreError>> + Send;

    /// Hands every stored order to `emit`, some hundred at a time, in no particular order and from
    /// several threads at once. Returns how many there were.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] or [`StoreError::Damaged`].
    fn scan<F>(&self, emit: F) -> impl Future<Output = Result<u64, StoreError>> + Send
    where
        F: Fn(Vec<(OrderId, Snapshot)>) + Send + Sync + 'static;

    /// An upper estimate of the number of stored orders, to size the view before a scan.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] or [`StoreError::Damaged`].
    fn estimate(&self) -> impl Future<Output = Result<u64, StoreError>> + Send;

    /// The number of live orders. Reads them all, so it is not for every day. `begun` is called
    /// once nothing is counted that becomes durable from then on, which is long before the end.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] or [`StoreError::Damaged`]; `begun` may then be dropped instead.
    fn count_live<B>(&self, begun: B) -> impl Future<Output = Result<u64, StoreError>> + Send
    where
        B: FnOnce() + Send + 'static;

    /// How far a source has come.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] or [`StoreError::Damaged`].
    fn positions(&self, source: Arc<str>) -> impl Future<Output = Result<Checkpoint, StoreError>> + Send;

    /// Stores the positions of these partitions under the present name of a source, which is
    /// `former#…`, instead of the former one. What is stored under the present name stays. Returns
    /// whether there are positions under a third name, also `former#…`: of what was there before
    /// that which the source reads now.
    ///
    /// # Errors
    /// [`StoreError`]; nothing is renamed then.
    fn rename_positions(
        &self,
        former: Arc<str>,
        present: Arc<str>,
        partitions: Vec<u32>,
    ) -> impl Future<Output = Result<bool, StoreError>> + Send;

    /// Batches that were recorded to be published and that no one has set out to publish for at
    /// least `age`, oldest first and at most `limit`. The caller is now the one who has.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] or [`StoreError::Damaged`].
    fn unpublished(
        &self,
        _age: Duration,
        _limit: usize,
    ) -> impl Future<Output = Result<Vec<Unpublished>, StoreError>> + Send {
        std::future::ready(Ok(Vec::new()))
    }

    /// Those of these orders that are stored in a newer version than is said here, as they are, in
    /// no particular order.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] or [`StoreError::Damaged`].
    fn newer(&self, _known: Vec<(OrderId, Version)>) -> impl Future<Output = Result<Page, StoreError>> + Send {
        std::future::ready(Ok(Page::new()))
    }

    /// Keeps a batch for these of its orders and these contents alone, and has it taken over again
    /// after `pause`.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] or [`StoreError::Damaged`]; all of it may then be published
    /// again.
    fn narrow(
        &self,
        _parcel: Parcel,
        _to: Vec<OrderId>,
        _pause: Duration,
    ) -> impl Future<Output = Result<(), StoreError>> + Send {
        std::future::ready(Ok(()))
    }

    /// Forgets batches that are published.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] or [`StoreError::Damaged`]; they may then be published again.
    fn published(&self, _tickets: Vec<i64>) -> impl Future<Output = Result<(), StoreError>> + Send {
        std::future::ready(Ok(()))
    }

    /// What this store is told from others by.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] or [`StoreError::Damaged`].
    fn identity(&self) -> impl Future<Output = Result<String, StoreError>> + Send {
        std::future::ready(Ok(String::new()))
    }

    /// Whether orders should come with their columns.
    fn wants_columns(&self) -> bool {
        false
    }

    /// Whether other processes may write to the same store.
    fn is_shareable(&self) -> bool {
        false
    }

    /// What the others are to know of this process. They can see it once [`Self::heartbeat`] or
    /// [`Self::changes`] has been called after that.
    fn appear_as(&self, _presence: Presence) {}

    /// Lets the other processes on the same store know that this one writes to it, and says what is
    /// known of them. To be called every now and then.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] or [`StoreError::Damaged`]; the others may then not know.
    fn heartbeat(&self) -> impl Future<Output = Result<Peers, StoreError>> + Send {
        std::future::ready(Ok(Peers::default()))
    }

    /// Hands over what other processes changed since the last call, own changes among it, as far as
    /// `is_news` says so of an order and its version. The first call hands over nothing; a scan
    /// that begins after it misses nothing that later calls do not hand over. Not cancel-safe: a
    /// dropped call may have taken changes with it.
    ///
    /// # Errors
    /// [`StoreError::Unavailable`] or [`StoreError::Damaged`]; the next call hands over what this
    /// one did not.
    fn changes<N, F>(&self, _is_news: N, _emit: F) -> impl Future<Output = Result<Changes, StoreError>> + Send
    where
        N: Fn(&OrderId, Version) -> bool + Send + Sync + 'static,
        F: Fn(Page) + Send + Sync + 'static,
    {
        let peers = Peers::default();
        std::future::ready(Ok(Changes { is_shared: false, count: 0, is_restarted: false, peers }))
    }
}
