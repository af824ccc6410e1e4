//! Whichever store the settings choose, behind one type: the only place that knows them all.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use super::embedded::{self, Embedded};
use super::postgres::{self, Postgres};
use super::{Batch, Changes, CommitPermit, Full, Outcome, Page, Peers, Presence, Store, StoreError, Unpublished};
use crate::id::{OrderId, Version};
use crate::metrics::Metrics;
use crate::record::{Checkpoint, Parcel};
use crate::snapshot::Snapshot;

pub use super::postgres::Views;

/// Which store, and where.
#[derive(Debug, Clone)]
pub struct Config {
    /// The embedded store, used where no server is named.
    pub embedded: embedded::Config,
    /// PostgreSQL.
    pub postgres: Option<postgres::Config>,
}

impl Default for Config {
    fn default() -> Self {
        Self { embedded: embedded::Config::new("data"), postgres: None }
    }
}

/// Why a store could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The embedded store.
    #[error(transparent)]
    Embedded(#[from] embedded::OpenError),
    /// PostgreSQL.
    #[error(transparent)]
    Postgres(#[from] StoreError),
}

impl OpenError {
    /// Whether only another setting helps, and trying again never does.
    #[must_use]
    pub fn is_configuration(&self) -> bool {
        match self {
            Self::Embedded(error) => error.is_configuration(),
            Self::Postgres(error) => matches!(error, StoreError::Unfit(_)),
        }
    }
}

/// One step of a schema.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Step {
    /// 1 for the first.
    pub number: u32,
    /// What it is about.
    pub name: &'static str,
    /// Whether the store has it.
    pub is_applied: bool,
    /// Whether it is applied only when asked for.
    pub is_optional: bool,
    /// What is lost when it is taken back; empty where nothing is but what it made of the orders.
    pub loses: &'static str,
}

/// How long such a command waits for a connection.
const PATIENCE: std::time::Duration = std::time::Duration::from_secs(30);

impl Config {
    /// Whether several processes may use the store at once.
    #[must_use]
    pub fn is_shareable(&self) -> bool {
        self.postgres.is_some()
    }

    /// Where the orders are or would be, for people.
    #[must_use]
    pub fn place(&self) -> String {
        self.postgres.as_ref().map_or_else(|| self.embedded.dir.display().to_string(), postgres::Config::place)
    }

    /// The same for a command that has one thing to do and no reader who waits: a server may take
    /// its time.
    #[must_use]
    pub fn patient(mut self) -> Self {
        if let Some(postgres) = &mut self.postgres {
            postgres.wait = postgres.wait.max(PATIENCE);
        }
        self
    }
}

/// An error of one of the stores, or of what reads it.
pub type AnyError = Box<dyn std::error::Error + Send + Sync>;

/// Writes to and reads from the chosen store.
#[derive(Clone)]
pub enum AnyStore {
    /// SQLite in a directory.
    Embedded(Embedded),
    /// A server, which may be unavailable.
    Postgres(Postgres),
}

/// Evaluates one expression for whichever store it is.
macro_rules! on {
    ($any:expr, $store:ident => $then:expr) => {
        match $any {
            AnyStore::Embedded($store) => $then,
            AnyStore::Postgres($store) => $then,
        }
    };
}

impl AnyStore {
    /// Opens the embedded store, or gets ready to connect to a server. Blocks for as long as the
    /// disk takes.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open(config: &Config) -> Result<Self, OpenError> {
        if let Some(postgres) = &config.postgres {
            return Ok(Self::Postgres(Postgres::new(postgres.clone())));
        }
        Ok(Self::Embedded(Embedded::open(config.embedded.clone())?))
    }

    /// Where the orders are, for people.
    #[must_use]
    pub fn place(&self) -> String {
        on!(self, store => store.place())
    }

    /// Ends reads and writes, and leaves a store on this machine as one file. What comes later is
    /// refused.
    ///
    /// # Errors
    /// [`StoreError`]; nothing acknowledged is lost, unless its file was.
    pub async fn close(&self) -> Result<(), StoreError> {
        match self {
            Self::Embedded(store) => store.close().await,
            Self::Postgres(_) => Ok(()), // its server closes it
        }
    }

    /// The embedded store, whose files may be taken away.
    #[must_use]
    pub fn embedded(&self) -> Option<&Embedded> {
        match self {
            Self::Embedded(store) => Some(store),
            Self::Postgres(_) => None,
        }
    }

    /// The rights that the role lacks on a server, in words.
    ///
    /// # Errors
    /// When the server cannot be asked.
    pub async fn missing_rights(&self) -> Result<Option<String>, StoreError> {
        match self {
            Self::Postgres(store) => store.missing_rights().await,
            Self::Embedded(_) => Ok(None),
        }
    }

    /// Registers what the store shows of itself: once a process.
    pub fn register(&self, metrics: &Metrics) {
        on!(self, store => store.register(metrics));
    }
}

impl Store for AnyStore {
    async fn commit(&self, batch: Arc<Batch>) -> Result<Vec<Outcome>, StoreError> {
        on!(self, store => store.commit(batch).await)
    }

    async fn commit_after(&self, batch: Arc<Batch>, permit: &mut CommitPermit) -> Result<Vec<Outcome>, StoreError> {
        on!(self, store => store.commit_after(batch, permit).await)
    }

    async fn fetch(&self, id: OrderId) -> Result<Option<Snapshot>, StoreError> {
        on!(self, store => store.fetch(id).await)
    }

    async fn fetch_external(
        &self,
        user_id: String,
        external: String,
    ) -> Result<Option<(OrderId, Snapshot)>, StoreError> {
        on!(self, store => store.fetch_external(user_id, external).await)
    }

    async fn page(&self, before: Option<u64>, limit: usize) -> Result<Page, StoreError> {
        on!(self, store => store.page(before, limit).await)
    }

    async fn scan<F>(&self, emit: F) -> Result<u64, StoreError>
    where
        F: Fn(Vec<(OrderId, Snapshot)>) + Send + Sync + 'static,
    {
        on!(self, store => store.scan(emit).await)
    }

    async fn estimate(&self) -> Result<u64, StoreError> {
        on!(self, store => store.estimate().await)
    }

    async fn count_live<B>(&self, begun: B) -> Result<u64, StoreError>
    where
        B: FnOnce() + Send + 'static,
    {
        on!(self, store => store.count_live(begun).await)
    }

    async fn positions(&self, source: Arc<str>) -> Result<Checkpoint, StoreError> {
        on!(self, store => store.positions(source).await)
    }

    async fn rename_positions(
        &self,
        former: Arc<str>,
        present: Arc<str>,
        partitions: Vec<u32>,
    ) -> Result<bool, StoreError> {
        on!(self, store => store.rename_positions(former, present, partitions).await)
    }

    async fn unpublished(&self, age: Duration, limit: usize) -> Result<Vec<Unpublished>, StoreError> {
        on!(self, store => store.unpublished(age, limit).await)
    }

    async fn newer(&self, known: Vec<(OrderId, Version)>) -> Result<Page, StoreError> {
        on!(self, store => store.newer(known).await)
    }

    async fn narrow(&self, parcel: Parcel, to: Vec<OrderId>, pause: Duration) -> Result<(), StoreError> {
        on!(self, store => store.narrow(parcel, to, pause).await)
    }

    async fn published(&self, tickets: Vec<i64>) -> Result<(), StoreError> {
        on!(self, store => store.published(tickets).await)
    }

    async fn identity(&self) -> Result<String, StoreError> {
        on!(self, store => store.identity().await)
    }

    fn wants_columns(&self) -> bool {
        on!(self, store => store.wants_columns())
    }

    fn is_shareable(&self) -> bool {
        on!(self, store => store.is_shareable())
    }

    fn appear_as(&self, presence: Presence) {
        on!(self, store => store.appear_as(presence));
    }

    async fn heartbeat(&self) -> Result<Peers, StoreError> {
        on!(self, store => store.heartbeat().await)
    }

    async fn changes<N, F>(&self, is_news: N, emit: F) -> Result<Changes, StoreError>
    where
        N: Fn(&OrderId, Version) -> bool + Send + Sync + 'static,
        F: Fn(Page) + Send + Sync + 'static,
    {
        on!(self, store => store.changes(is_news, emit).await)
    }
}

/// All orders, as they stand when this is opened; a service may be running on the same store.
pub enum Live {
    #[doc(hidden)]
    Embedded(embedded::Live),
    #[doc(hidden)]
    Postgres(postgres::Live),
}

impl Live {
    /// Opens for reading only.
    ///
    /// # Errors
    /// When there is no store or it cannot be read.
    pub async fn open(config: &Config) -> Result<Self, OpenError> {
        if let Some(postgres) = &config.postgres {
            return Ok(Self::Postgres(postgres::Live::open(postgres).await?));
        }
        Ok(Self::Embedded(embedded::Live::open(&config.embedded)?))
    }

    /// How many are live, and how many are deleted.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn count(&self) -> Result<(u64, u64), AnyError> {
        match self {
            Self::Embedded(live) => Ok(live.count()?),
            Self::Postgres(live) => Ok(live.count().await?),
        }
    }

    /// Writes a store on this machine into one file. `on_progress` is told of bytes: those copied,
    /// and all of them. Returns how many the file has.
    ///
    /// # Errors
    /// When the store cannot be read or the file not written; what was there under its name is then
    /// as it was.
    pub fn back_up(&self, to: &Path, on_progress: impl FnMut(u64, u64)) -> Result<u64, AnyError> {
        match self {
            Self::Embedded(live) => Ok(live.back_up(to, on_progress)?),
            Self::Postgres(_) => Err("a database on a server is backed up with pg_dump".into()),
        }
    }

    /// Hands over the body of each live order, newest first.
    ///
    /// # Errors
    /// When the store cannot be read, or the first error of `emit`.
    pub async fn for_each(&self, emit: impl FnMut(&[u8]) -> Result<(), AnyError>) -> Result<(), AnyError> {
        match self {
            Self::Embedded(live) => live.for_each(emit),
            Self::Postgres(live) => live.for_each(emit).await,
        }
    }

    /// Hands over all orders, deleted ones among them, oldest first.
    ///
    /// # Errors
    /// When the store cannot be read, or the first error of `emit`.
    pub async fn for_each_full(&self, emit: impl FnMut(Full<'_>) -> Result<(), AnyError>) -> Result<(), AnyError> {
        match self {
            Self::Embedded(live) => live.for_each_full(emit),
            Self::Postgres(live) => live.for_each_full(emit).await,
        }
    }
}

/// A store that is not for this program is known by [`StoreError::Unfit`] from every command.
fn of_migration(may_pass: bool, error: impl std::error::Error + Send + Sync + 'static) -> AnyError {
    if may_pass { error.into() } else { StoreError::Unfit(error.into()).into() }
}

/// The schema of the chosen store.
pub enum Maintenance {
    #[doc(hidden)]
    Embedded(embedded::Maintenance),
    #[doc(hidden)]
    Postgres(postgres::Maintenance),
}

impl Maintenance {
    /// Opens the store without migrating it.
    ///
    /// # Errors
    /// When it cannot be opened; for the embedded store most often because a service has it open.
    pub async fn open(config: &Config) -> Result<Self, OpenError> {
        if let Some(postgres) = &config.postgres {
            return Ok(Self::Postgres(postgres::Maintenance::open(postgres).await?));
        }
        Ok(Self::Embedded(embedded::Maintenance::open(&config.embedded)?))
    }

    /// Opens the store to see how far its schema is. Nothing is changed, and no store is made where
    /// there is none.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub async fn open_to_read(config: &Config) -> Result<Self, OpenError> {
        if let Some(postgres) = &config.postgres {
            return Ok(Self::Postgres(postgres::Maintenance::open(postgres).await?));
        }
        Ok(Self::Embedded(embedded::Maintenance::open_to_read(&config.embedded)?))
    }

    /// Applies what is missing, all or nothing; the optional steps and views only when asked for.
    /// Returns the numbers applied.
    ///
    /// # Errors
    /// When a step fails; the schema is then as it was.
    pub async fn up(&mut self, is_with_optional: bool, views: &[Views]) -> Result<Vec<u32>, AnyError> {
        match self {
            Self::Embedded(_) if !views.is_empty() => {
                Err("views are for SQL clients of a PostgreSQL server; name it with --postgres".into())
            }
            Self::Embedded(store) => store.up().map_err(|error| of_migration(error.may_pass(), error)), // no optional steps
            Self::Postgres(store) => {
                store.up_with(is_with_optional, views).await.map_err(|error| of_migration(error.may_pass(), error))
            }
        }
    }

    /// Takes the newest applied step back, with the data in it. Returns its number, or `None` when
    /// there is none.
    ///
    /// # Errors
    /// When the step fails; the schema is then as it was.
    pub async fn down(&mut self) -> Result<Option<u32>, AnyError> {
        match self {
            Self::Embedded(store) => Ok(store.down()?),
            Self::Postgres(store) => store.down().await.map_err(|error| of_migration(error.may_pass(), error)),
        }
    }

    /// Every step with whether it is applied.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub async fn status(&mut self) -> Result<Vec<Step>, AnyError> {
        Ok(match self {
            Self::Embedded(store) => store
                .status()?
                .into_iter()
                .map(|(step, is_applied)| Step {
                    number: step.number,
                    name: step.name,
                    is_applied,
                    is_optional: false,
                    loses: step.loses,
                })
                .collect(),
            Self::Postgres(store) => store
                .status()
                .await
                .map_err(|error| of_migration(error.may_pass(), error))?
                .into_iter()
                .map(|(step, is_applied)| Step {
                    number: step.number,
                    name: step.name,
                    is_applied,
                    is_optional: step.is_optional,
                    loses: step.loses,
                })
                .collect(),
        })
    }
}
