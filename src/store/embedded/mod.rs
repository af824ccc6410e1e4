//! The store that needs nothing installed: SQLite in one directory. One writer thread, a few reading connections.

mod commit;
mod offline;
mod outbox;
mod schema;

use std::fs::File;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rusqlite::{Connection, OpenFlags, OptionalExtension, Row, params};
use tokio::sync::{Semaphore, mpsc, oneshot};

use super::{Batch, Outcome, Page, Store, StoreError, Unpublished};
use crate::background;
use crate::id::OrderId;
use crate::record::Checkpoint;
use crate::snapshot::Snapshot;
use crate::store::rules::column;

pub use offline::{Live, Maintenance};
pub use schema::{MigrateError, Migration};

/// Where and how the embedded store keeps its files.
#[derive(Debug, Clone)]
pub struct Config {
    /// The directory; created when missing.
    pub dir: PathBuf,
    /// How many reads may run at once; each holds a connection.
    pub readers_max: usize,
}

impl Config {
    /// The default settings for a directory. Reads that miss the view are rare, so four at once are plenty.
    #[must_use]
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into(), readers_max: 4 }
    }

    fn file(&self) -> PathBuf {
        self.dir.join("orders.db")
    }
}

/// Why the store could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The directory or a file in it cannot be made or opened.
    #[error("cannot open {path}")]
    Io {
        /// What was to be opened.
        path: PathBuf,
        /// Why it was not.
        source: std::io::Error,
    },
    /// Another process has the directory.
    #[error("data directory {dir} is in use by another order-service process")]
    Locked {
        /// The directory.
        dir: PathBuf,
    },
    /// The file is no store of ours, is damaged, or was made by a newer version.
    #[error("cannot use {path}")]
    Unusable {
        /// The database file.
        path: PathBuf,
        /// Why not.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// The embedded store. Clones share one writer.
#[derive(Clone)]
pub struct Embedded(Arc<Inner>);

struct Inner {
    config: Config,
    writer: mpsc::Sender<Job>,
    readers: Mutex<Vec<Connection>>,
    reading: Arc<Semaphore>,
    /// Held as long as any clone lives: one process per directory.
    _lock: File,
}

enum Job {
    Commit {
        batch: Arc<Batch>,
        reply: oneshot::Sender<Result<Vec<Outcome>, StoreError>>,
    },
    Forget {
        tickets: Vec<i64>,
        reply: oneshot::Sender<Result<(), StoreError>>,
    },
    Rename {
        former: Arc<str>,
        present: Arc<str>,
        partitions: Vec<u32>,
        reply: oneshot::Sender<Result<bool, StoreError>>,
    },
}

impl Embedded {
    /// Opens the store for reading and writing, migrating it forward. Blocks for as long as the disk takes.
    ///
    /// # Errors
    /// [`OpenError`] names the path and the reason.
    pub fn open(config: Config) -> Result<Self, OpenError> {
        let lock = lock_dir(&config.dir)?;
        let path = config.file();
        let unusable = |source: rusqlite::Error| OpenError::Unusable { path: path.clone(), source: source.into() };
        let mut connection = Connection::open(&path).map_err(unusable)?;
        schema::configure(&connection).map_err(unusable)?;
        schema::migrate_up(&mut connection)
            .map_err(|source| OpenError::Unusable { path: path.clone(), source: source.into() })?;
        // Two batches: one being written, one waiting.
        let (writer, jobs) = mpsc::channel(2);
        std::thread::Builder::new()
            .name("store-writer".into())
            .spawn(move || write_jobs(connection, jobs))
            .map_err(|source| OpenError::Io { path: config.dir.clone(), source })?;
        let reading = Arc::new(Semaphore::new(config.readers_max));
        // The first reads shall not wait until there is a connection that knows the tables.
        let ready = || {
            let reader = open_reader(&path)?;
            reader.prepare_cached(FETCH)?;
            Ok(reader)
        };
        let readers = (0..config.readers_max).map(|_| ready()).collect::<rusqlite::Result<_>>().map_err(unusable)?;
        Ok(Self(Arc::new(Inner { config, writer, readers: Mutex::new(readers), reading, _lock: lock })))
    }

    /// Where it is, for people.
    #[must_use]
    pub fn place(&self) -> String {
        self.0.config.dir.display().to_string()
    }

    /// Runs `read` on a reading connection, off the caller's thread.
    async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&mut Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        match tokio::task::spawn_blocking(self.reading(read).await).await {
            Ok(result) => result.map_err(classify),
            Err(panicked) => Err(StoreError::Unavailable(panicked.into())),
        }
    }

    /// As [`Embedded::read`] for what takes as long as it takes.
    async fn read_all<T: Send + 'static>(
        &self,
        read: impl FnOnce(&mut Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        let result = background::spawn("scan", self.reading(read).await).await;
        result.map_err(|error| StoreError::Unavailable(error.into()))?.map_err(classify)
    }

    /// Waits until one more may read. What is returned reads on the thread that calls it.
    async fn reading<T, R>(&self, read: R) -> impl FnOnce() -> rusqlite::Result<T> + use<T, R>
    where
        R: FnOnce(&mut Connection) -> rusqlite::Result<T>,
    {
        let permit = Arc::clone(&self.0.reading).acquire_owned().await.expect("never closed");
        let store = self.clone();
        move || {
            let _permit = permit;
            let pooled = store.0.readers.lock().unwrap_or_else(PoisonError::into_inner).pop();
            let mut connection = match pooled {
                Some(connection) => connection,
                None => open_reader(&store.0.config.file())?,
            };
            let result = read(&mut connection)?;
            store.0.readers.lock().unwrap_or_else(PoisonError::into_inner).push(connection);
            Ok(result)
        }
    }
}

/// Opens a database for reading only, beside a running service if there is one.
///
/// # Errors
/// Whatever SQLite says.
pub fn open_reader(path: &Path) -> rusqlite::Result<Connection> {
    let connection =
        Connection::open_with_flags(path, OpenFlags::SQLITE_OPEN_READ_ONLY | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    connection.busy_timeout(Duration::from_secs(5))?;
    // Mapped pages are shared with the page cache; a scan then copies each body once.
    connection.pragma_update(None, "mmap_size", 1_i64 << 40)?;
    Ok(connection)
}

fn lock_dir(dir: &Path) -> Result<File, OpenError> {
    let io = |path: &Path| {
        let path = path.to_owned();
        move |source| OpenError::Io { path, source }
    };
    std::fs::create_dir_all(dir).map_err(io(dir))?;
    let path = dir.join("lock");
    let file = File::options().create(true).truncate(false).write(true).open(&path).map_err(io(&path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(std::fs::TryLockError::WouldBlock) => Err(OpenError::Locked { dir: dir.to_owned() }),
        Err(std::fs::TryLockError::Error(source)) => Err(io(&path)(source)),
    }
}

fn write_jobs(mut connection: Connection, mut jobs: mpsc::Receiver<Job>) {
    let mut purge = commit::Purge::default();
    while let Some(job) = jobs.blocking_recv() {
        // The caller may be gone; what is committed stays committed.
        match job {
            Job::Commit { batch, reply } => {
                let _ = reply.send(commit::commit(&mut connection, &batch, &mut purge));
            }
            Job::Forget { tickets, reply } => {
                let _ = reply.send(outbox::forget(&mut connection, &tickets).map_err(classify));
            }
            Job::Rename { former, present, partitions, reply } => {
                let _ = reply.send(rename(&mut connection, &former, &present, &partitions).map_err(classify));
            }
        }
    }
    if let Err(error) = schema::close(connection) {
        tracing::warn!(%error, "store did not close cleanly; the next start recovers it");
    }
}

/// See [`Store::rename_positions`].
fn rename(connection: &mut Connection, former: &str, present: &str, partitions: &[u32]) -> rusqlite::Result<bool> {
    let transaction = connection.transaction()?;
    for partition in partitions {
        // What is there under the present name stays.
        let rename = "UPDATE OR IGNORE positions SET source = ?2 WHERE source = ?1 AND partition = ?3";
        transaction.prepare_cached(rename)?.execute(rusqlite::params![former, present, partition])?;
    }
    let others =
        "SELECT EXISTS (SELECT 1 FROM positions WHERE substr(source, 1, length(?1) + 1) = ?1 || '#' AND source <> ?2)";
    let has_others = transaction.query_row(others, [former, present], |row| row.get(0))?;
    transaction.commit()?;
    Ok(has_others)
}

/// Tells passing trouble from damage.
fn classify(error: rusqlite::Error) -> StoreError {
    use rusqlite::ErrorCode;
    match error.sqlite_error_code() {
        Some(ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase | ErrorCode::TypeMismatch) => {
            StoreError::Damaged(error.into())
        }
        _ => StoreError::Unavailable(error.into()),
    }
}

impl Store for Embedded {
    async fn commit(&self, batch: Arc<Batch>) -> Result<Vec<Outcome>, StoreError> {
        let (reply, result) = oneshot::channel();
        let gone = || StoreError::Damaged("the writer thread has ended".into());
        self.0.writer.send(Job::Commit { batch, reply }).await.map_err(|_| gone())?;
        result.await.map_err(|_| gone())?
    }

    async fn fetch(&self, id: OrderId) -> Result<Option<Snapshot>, StoreError> {
        self.read(move |connection| {
            connection.prepare_cached(FETCH)?.query_row([&*id.text()], |row| snapshot(row, &mut Vec::new())).optional()
        })
        .await
    }

    async fn fetch_external(&self, user_id: String, external: String) -> Result<Option<Snapshot>, StoreError> {
        self.read(move |connection| {
            connection
                .prepare_cached(
                    "SELECT seq, state + 4 * kind, version, body FROM orders
                     WHERE user_id = ? AND external_id = ? AND external_id IS NOT NULL AND state = 0
                     ORDER BY seq DESC LIMIT 1",
                )?
                .query_row([user_id, external], |row| snapshot(row, &mut Vec::new()))
                .optional()
        })
        .await
    }

    async fn page(&self, before: Option<u64>, limit: usize) -> Result<Page, StoreError> {
        let before = before.map_or(i64::MAX, |seq| i64::try_from(seq).unwrap_or(i64::MAX));
        let limit = i64::try_from(limit).unwrap_or(i64::MAX);
        self.read(move |connection| {
            let mut scratch = Vec::new();
            connection
                .prepare_cached(
                    "SELECT seq, state + 4 * kind, version, body, uid FROM orders
                     WHERE seq < ? AND state = 0 ORDER BY seq DESC LIMIT ?",
                )?
                .query_map(params![before, limit], |row| Ok((order_id(row)?, snapshot(row, &mut scratch)?)))?
                .collect()
        })
        .await
    }

    async fn scan<F>(&self, emit: F) -> Result<u64, StoreError>
    where
        F: Fn(Vec<(OrderId, Snapshot)>) + Send + Sync + 'static,
    {
        let last = self.read(|connection| last_seq(connection)).await?;
        let middle = last / 2;
        let emit = Arc::new(emit);
        let half = |from: i64, to: i64| {
            let emit = Arc::clone(&emit);
            self.read_all(move |connection| scan_range(connection, from, to, &*emit))
        };
        let (older, newer) = tokio::try_join!(half(0, middle), half(middle, i64::MAX))?;
        Ok(older + newer)
    }

    async fn estimate(&self) -> Result<u64, StoreError> {
        let last = self.read(|connection| last_seq(connection)).await?;
        Ok(last.unsigned_abs())
    }

    async fn count_live(&self) -> Result<u64, StoreError> {
        self.read_all(|connection| {
            connection.query_row("SELECT count(*) FROM orders WHERE state = 0", [], |row| row.get(0))
        })
        .await
        .map(i64::unsigned_abs)
    }

    async fn positions(&self, source: Arc<str>) -> Result<Checkpoint, StoreError> {
        self.read(move |connection| {
            connection
                .prepare_cached("SELECT partition, next_offset FROM positions WHERE source = ?")?
                .query_map([&*source], |row| Ok((row.get(0)?, row.get::<_, i64>(1)?.unsigned_abs())))?
                .collect::<rusqlite::Result<_>>()
                .map(Checkpoint)
        })
        .await
    }

    async fn unpublished(&self, age: Duration, limit: usize) -> Result<Vec<Unpublished>, StoreError> {
        self.read(move |connection| outbox::unpublished(connection, age, limit)).await
    }

    async fn published(&self, tickets: Vec<i64>) -> Result<(), StoreError> {
        let (reply, result) = oneshot::channel();
        let gone = || StoreError::Damaged("the writer thread has ended".into());
        self.0.writer.send(Job::Forget { tickets, reply }).await.map_err(|_| gone())?;
        result.await.map_err(|_| gone())?
    }

    async fn rename_positions(
        &self,
        former: Arc<str>,
        present: Arc<str>,
        partitions: Vec<u32>,
    ) -> Result<bool, StoreError> {
        let (reply, result) = oneshot::channel();
        let gone = || StoreError::Damaged("the writer thread has ended".into());
        let job = Job::Rename { former, present, partitions, reply };
        self.0.writer.send(job).await.map_err(|_| gone())?;
        result.await.map_err(|_| gone())?
    }

    async fn identity(&self) -> Result<String, StoreError> {
        self.read(|connection| connection.query_row("SELECT id FROM store_identity", [], |row| row.get(0))).await
    }
}

const FETCH: &str = "SELECT seq, state + 4 * kind, version, body FROM orders WHERE uid = ?";

fn last_seq(connection: &Connection) -> rusqlite::Result<i64> {
    connection.query_row("SELECT coalesce(max(seq), 0) FROM orders", [], |row| row.get(0))
}

/// Orders handed over at once by a scan.
const SCAN_ROWS: usize = 256;

/// Emits the orders with `from < seq <= to`.
fn scan_range(
    connection: &Connection,
    from: i64,
    to: i64,
    emit: &(impl Fn(Vec<(OrderId, Snapshot)>) + ?Sized),
) -> rusqlite::Result<u64> {
    let mut statement = connection
        .prepare_cached("SELECT seq, state + 4 * kind, version, body, uid FROM orders WHERE seq > ? AND seq <= ?")?;
    let mut rows = statement.query(params![from, to])?;
    let mut scratch = Vec::new();
    let mut batch = Vec::with_capacity(SCAN_ROWS);
    let mut count = 0;
    while let Some(row) = rows.next()? {
        batch.push((order_id(row)?, snapshot(row, &mut scratch)?));
        count += 1;
        if batch.len() == SCAN_ROWS {
            emit(std::mem::replace(&mut batch, Vec::with_capacity(SCAN_ROWS)));
        }
    }
    emit(batch);
    Ok(count)
}

/// Reads columns `seq, shape, version, body`.
fn snapshot(row: &Row<'_>, scratch: &mut Vec<u8>) -> rusqlite::Result<Snapshot> {
    let seq: i64 = row.get(0)?;
    let version: i64 = row.get(2)?;
    let (kind, state) = column::to_shape(row.get(1)?);
    let body = row.get_ref(3)?.as_blob()?;
    Ok(Snapshot::new(version.unsigned_abs(), seq.unsigned_abs(), kind, state, body, scratch))
}

/// Reads column 4, `uid`.
fn order_id(row: &Row<'_>) -> rusqlite::Result<OrderId> {
    OrderId::parse(row.get_ref(4)?.as_bytes()?)
        .map_err(|error| rusqlite::Error::FromSqlConversionFailure(4, rusqlite::types::Type::Text, error.into()))
}
