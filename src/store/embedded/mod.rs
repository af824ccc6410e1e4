//! The store that needs nothing installed: SQLite in one directory. One writer thread, a few
//! reading connections.

mod commit;
mod files;
mod metrics;
mod offline;
mod outbox;
mod schema;

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use rusqlite::{Connection, ErrorCode, InterruptHandle, OpenFlags, OptionalExtension, Row, params};
use tokio::sync::{Semaphore, mpsc, oneshot};

use super::{Batch, Outcome, Page, Store, StoreError, Unpublished};
use crate::id::{OrderId, Version};
use crate::process::background;
use crate::record::{Checkpoint, Parcel};
use crate::snapshot::Snapshot;
use crate::store::rules::column;
use crate::sync::lock;

use files::OpenFiles;
pub use files::{Harm, LostFile};
pub use offline::{BackupError, Live, Maintenance};
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
    /// The default settings for a directory. Reads that miss the view are rare, so four at once are
    /// plenty.
    #[must_use]
    pub fn new(dir: impl Into<PathBuf>) -> Self {
        Self { dir: dir.into(), readers_max: 4 }
    }
}

/// Why the store could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum OpenError {
    /// The directory or a file in it cannot be made or opened.
    #[error("cannot open {path}")]
    Io {
        /// The path that was to be opened.
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
        source: MigrateError,
    },
}

impl OpenError {
    /// What SQLite said, or what it did not say.
    fn of_sqlite(path: &Path, error: rusqlite::Error) -> Self {
        let path = path.to_owned();
        match error.sqlite_error_code() {
            Some(ErrorCode::DiskFull | ErrorCode::SystemIoFailure) if files::is_disk_full(&path) => {
                Self::Io { path, source: io::ErrorKind::StorageFull.into() }
            }
            _ => Self::Unusable { path, source: error.into() },
        }
    }

    /// What is wrong with the schema, or what SQLite said on the way.
    fn of_migration(path: &Path, error: MigrateError) -> Self {
        match error {
            MigrateError::Sqlite(error) => Self::of_sqlite(path, error),
            source => Self::Unusable { path: path.to_owned(), source },
        }
    }

    /// Whether only another setting or another right helps: the data directory is not what the
    /// setting says it is.
    #[must_use]
    pub fn is_configuration(&self) -> bool {
        use io::ErrorKind::{IsADirectory, NotADirectory, PermissionDenied, ReadOnlyFilesystem};
        match self {
            Self::Io { source, .. } => {
                matches!(source.kind(), IsADirectory | NotADirectory | PermissionDenied | ReadOnlyFilesystem)
            }
            Self::Locked { .. } => false,
            Self::Unusable { source, .. } => !source.may_pass(),
        }
    }
}

/// The embedded store. Clones share one writer.
#[derive(Clone)]
pub struct Embedded(Arc<Inner>);

struct Inner {
    config: Config,
    writer: mpsc::Sender<Job>,
    readers: Mutex<Vec<Connection>>,
    /// Each cuts short what one of the readers does.
    interrupts: Mutex<Vec<InterruptHandle>>,
    /// Closed with the store.
    reading: Arc<Semaphore>,
    files: Arc<OpenFiles>,
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
    Narrow {
        parcel: Parcel,
        to: Vec<OrderId>,
        pause: Duration,
        reply: oneshot::Sender<Result<(), StoreError>>,
    },
    Rename {
        former: Arc<str>,
        present: Arc<str>,
        partitions: Vec<u32>,
        reply: oneshot::Sender<Result<bool, StoreError>>,
    },
    /// A file was taken away: saves what can be saved.
    Fold,
    Close {
        reply: oneshot::Sender<Result<(), StoreError>>,
    },
}

impl Embedded {
    /// Opens the store for reading and writing, migrating it forward. Blocks for as long as the
    /// disk takes.
    ///
    /// # Errors
    /// [`OpenError`] names the path and the reason.
    pub fn open(config: Config) -> Result<Self, OpenError> {
        let lock = files::lock_dir(&config)?;
        files::check_writable(&config)?;
        let path = config.file();
        let unusable = |error| OpenError::of_sqlite(&path, error);
        let mut connection = open_writer(&path)?;
        schema::migrate_up(&mut connection).map_err(|error| OpenError::of_migration(&path, error))?;
        files::note_made(&config, &lock)?;
        let io = |source| OpenError::Io { path: path.clone(), source };
        let files = Arc::new(OpenFiles::new(&path).map_err(io)?);
        let reading = Arc::new(Semaphore::new(config.readers_max));
        // The first reads shall not wait until there is a connection that knows the tables.
        let ready = || {
            let reader = open_reader(&path)?;
            reader.prepare_cached(FETCH)?;
            Ok(reader)
        };
        let readers: Vec<Connection> =
            (0..config.readers_max).map(|_| ready()).collect::<rusqlite::Result<_>>().map_err(unusable)?;
        let interrupts = Mutex::new(readers.iter().map(Connection::get_interrupt_handle).collect());
        let readers = Mutex::new(readers);
        // Two batches: one being written, one waiting.
        let (sender, jobs) = mpsc::channel(2);
        let writer = WriterThread { path: path.clone(), connection, files: Arc::clone(&files), is_folded: false };
        std::thread::Builder::new().name("store-writer".into()).spawn(move || writer.run(jobs)).map_err(io)?;
        Ok(Self(Arc::new(Inner { config, writer: sender, readers, interrupts, reading, files, _lock: lock })))
    }

    /// Whether the next start would find what is written now.
    ///
    /// # Errors
    /// The file that is not there any more. What was committed is then folded into the database,
    /// wherever that is now.
    pub fn check(&self) -> Result<(), LostFile> {
        self.0.files.check().inspect_err(|_| {
            // Where the queue is full, the writer checks by itself.
            let _ = self.0.writer.try_send(Job::Fold);
        })
    }

    /// Ends reads and writes, folds the log into the database and closes it, which then is one file
    /// that can be copied. What still runs is cut short, and what comes later is refused.
    ///
    /// # Errors
    /// [`StoreError::Lost`] where the file is not there any more, else what SQLite says; everything
    /// that was committed is then found by the next start all the same.
    pub async fn close(&self) -> Result<(), StoreError> {
        let all = u32::try_from(self.0.config.readers_max).unwrap_or(u32::MAX);
        // The log is folded and removed by the connection that closes last, and readers have no
        // right to do it.
        let mut ended = std::pin::pin!(self.0.reading.acquire_many(all));
        let _permits = loop {
            tokio::select! {
                permits = &mut ended => break permits,
                () = tokio::time::sleep(INTERRUPT_EVERY) => {
                    let interrupts = lock(&self.0.interrupts);
                    interrupts.iter().for_each(InterruptHandle::interrupt);
                }
            }
        };
        self.0.reading.close();
        lock(&self.0.readers).clear();
        let (reply, closed) = oneshot::channel();
        match self.0.writer.send(Job::Close { reply }).await {
            Ok(()) => closed.await.unwrap_or_else(|_| Err(gone())),
            Err(_) => Ok(()), // closed before
        }
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
        match tokio::task::spawn_blocking(self.reading(read).await?).await {
            Ok(result) => result,
            Err(panicked) => Err(StoreError::Unavailable(panicked.into())),
        }
    }

    /// As [`Embedded::read`] for what reads the whole file and takes as long as it takes.
    async fn read_all<T: Send + 'static>(
        &self,
        read: impl FnOnce(&mut Connection) -> rusqlite::Result<T> + Send + 'static,
    ) -> Result<T, StoreError> {
        let mapped = |connection: &mut Connection| {
            map(connection)?;
            let result = read(connection);
            unmap(connection)?;
            result
        };
        let result = background::spawn("scan", self.reading(mapped).await?).await;
        result.map_err(|error| StoreError::Unavailable(error.into()))?
    }

    /// Waits until one more may read. What is returned reads on the thread that calls it.
    async fn reading<T, R>(&self, read: R) -> Result<impl FnOnce() -> Result<T, StoreError> + use<T, R>, StoreError>
    where
        R: FnOnce(&mut Connection) -> rusqlite::Result<T>,
    {
        let permit = Arc::clone(&self.0.reading).acquire_owned().await;
        let permit = permit.map_err(|_| StoreError::Unavailable("the store is closed".into()))?;
        let store = self.clone();
        Ok(move || {
            let _permit = permit;
            let path = store.0.config.file();
            let pooled = lock(&store.0.readers).pop();
            let mut connection = match pooled {
                Some(connection) => connection,
                None => store.another_reader()?,
            };
            let result = read(&mut connection).map_err(|error| classify(&path, error));
            lock(&store.0.readers).push(connection);
            result
        })
    }

    /// A reader in the place of one that a panic took along.
    fn another_reader(&self) -> Result<Connection, StoreError> {
        self.check().map_err(|lost| StoreError::Lost(lost.into()))?; // or it would read another file
        let path = self.0.config.file();
        let connection = open_reader(&path).map_err(|error| classify(&path, error))?;
        lock(&self.0.interrupts).push(connection.get_interrupt_handle());
        Ok(connection)
    }
}

/// How often what still reads is cut short while the store closes: a statement may begin just after
/// it was tried.
const INTERRUPT_EVERY: Duration = Duration::from_millis(10);

fn gone() -> StoreError {
    StoreError::Damaged("the writer thread has ended".into())
}

/// Opens a database for writing, making it where it is missing. One that is not ours is left as it
/// is.
fn open_writer(path: &Path) -> Result<Connection, OpenError> {
    let unusable = |error| OpenError::of_sqlite(path, error);
    let connection = Connection::open(path).map_err(unusable)?;
    schema::migrations(&connection).map_err(|error| OpenError::of_migration(path, error))?;
    schema::configure(&connection).map_err(unusable)?;
    Ok(connection)
}

/// Opens a database for reading only, beside a running service if there is one.
///
/// # Errors
/// Whatever SQLite says.
fn open_reader(path: &Path) -> rusqlite::Result<Connection> {
    open_reading(path, OpenFlags::SQLITE_OPEN_READ_ONLY)
}

fn open_reading(path: &Path, access: OpenFlags) -> rusqlite::Result<Connection> {
    let connection = Connection::open_with_flags(path, access | OpenFlags::SQLITE_OPEN_NO_MUTEX)?;
    connection.busy_timeout(Duration::from_secs(5))?;
    Ok(connection)
}

/// From now on the connection reads the file where the page cache has it, and a scan copies each
/// body once. What it has read so counts as memory of the process (`RssFile`) until [`unmap`]:
/// reads of one order go without.
fn map(connection: &Connection) -> rusqlite::Result<()> {
    connection.pragma_update(None, "mmap_size", 1_i64 << 40)
}

/// Gives back what [`map`] took.
fn unmap(connection: &Connection) -> rusqlite::Result<()> {
    connection.pragma_update(None, "mmap_size", 0)
}

/// The thread that writes.
struct WriterThread {
    path: PathBuf,
    connection: Connection,
    files: Arc<OpenFiles>,
    /// What was committed before a file was taken away is folded.
    is_folded: bool,
}

impl WriterThread {
    fn run(mut self, mut jobs: mpsc::Receiver<Job>) {
        let mut purge = commit::Purge::default();
        while let Some(job) = jobs.blocking_recv() {
            // The caller may be gone; what is committed stays committed.
            match job {
                Job::Commit { batch, reply } => {
                    let _ =
                        reply.send(self.write(|connection, path| commit::commit(connection, path, &batch, &mut purge)));
                }
                Job::Forget { tickets, reply } => {
                    let _ = reply.send(self.write(|connection, path| {
                        outbox::forget(connection, &tickets).map_err(|error| classify(path, error))
                    }));
                }
                Job::Narrow { parcel, to, pause, reply } => {
                    let _ = reply.send(self.write(|connection, path| {
                        outbox::narrow(connection, parcel, &to, pause).map_err(|error| classify(path, error))
                    }));
                }
                Job::Rename { former, present, partitions, reply } => {
                    let _ = reply.send(self.write(|connection, path| {
                        rename(connection, &former, &present, &partitions).map_err(|error| classify(path, error))
                    }));
                }
                Job::Fold => drop(self.check()),
                Job::Close { reply } => {
                    let _ = reply.send(self.close());
                    return;
                }
            }
        }
        if let Err(error) = self.close() {
            tracing::warn!(error = %crate::process::log::causes(&error), "store did not close cleanly; the next start recovers it");
        }
    }

    /// Writes, and makes sure that it was written where the next start looks.
    fn write<T>(
        &mut self,
        write: impl FnOnce(&mut Connection, &Path) -> Result<T, StoreError>,
    ) -> Result<T, StoreError> {
        self.check()?;
        let written = write(&mut self.connection, &self.path)?;
        self.check()?;
        Ok(written)
    }

    fn check(&mut self) -> Result<(), StoreError> {
        let Err(lost) = self.files.check() else {
            self.is_folded = false;
            return Ok(());
        };
        if !std::mem::replace(&mut self.is_folded, true) {
            tracing::error!(error = %lost, "orders cannot be stored");
            // A log that lost its name would go with this process, and one that kept it would spoil
            // another database that was put in the place of this one.
            if let Err(error) = schema::fold(&self.connection) {
                tracing::warn!(%error, "the log cannot be folded");
            }
        }
        Err(StoreError::Lost(lost.into()))
    }

    fn close(mut self) -> Result<(), StoreError> {
        let lost = self.check();
        schema::close(self.connection).map_err(|error| classify(&self.path, error))?;
        lost
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
fn classify(path: &Path, error: rusqlite::Error) -> StoreError {
    use rusqlite::Error::{FromSqlConversionFailure, IntegralValueOutOfRange, InvalidColumnType, Utf8Error};
    let is_damage = match error.sqlite_error_code() {
        Some(code) => {
            matches!(code, ErrorCode::DatabaseCorrupt | ErrorCode::NotADatabase | ErrorCode::TypeMismatch)
        }
        None => matches!(
            error,
            FromSqlConversionFailure(..) | IntegralValueOutOfRange(..) | InvalidColumnType(..) | Utf8Error(..)
        ),
    };
    let source = FileError { path: path.to_owned(), source: error }.into();
    if is_damage { StoreError::Damaged(source) } else { StoreError::Unavailable(source) }
}

/// An error of SQLite, which does not name the file.
#[derive(Debug, thiserror::Error)]
#[error("{}", path.display())]
pub struct FileError {
    /// The database.
    pub path: PathBuf,
    /// What SQLite says.
    pub source: rusqlite::Error,
}

impl Store for Embedded {
    async fn commit(&self, batch: Arc<Batch>) -> Result<Vec<Outcome>, StoreError> {
        let (reply, result) = oneshot::channel();
        self.0.writer.send(Job::Commit { batch, reply }).await.map_err(|_| gone())?;
        result.await.map_err(|_| gone())?
    }

    async fn fetch(&self, id: OrderId) -> Result<Option<Snapshot>, StoreError> {
        self.read(move |connection| {
            connection.prepare_cached(FETCH)?.query_row([&*id.text()], |row| snapshot(row, &mut Vec::new())).optional()
        })
        .await
    }

    async fn fetch_external(
        &self,
        user_id: String,
        external: String,
    ) -> Result<Option<(OrderId, Snapshot)>, StoreError> {
        self.read(move |connection| {
            connection
                .prepare_cached(
                    "SELECT seq, state + 4 * kind, version, body, uid FROM orders
                     WHERE user_id = ? AND external_id = ? AND external_id IS NOT NULL AND state = 0
                     ORDER BY seq DESC LIMIT 1",
                )?
                .query_row([user_id, external], |row| Ok((order_id(row)?, snapshot(row, &mut Vec::new())?)))
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

    async fn count_live<B>(&self, begun: B) -> Result<u64, StoreError>
    where
        B: FnOnce() + Send + 'static,
    {
        self.read_all(|connection| {
            let transaction = connection.transaction()?;
            last_seq(&transaction)?; // from here on it reads what there was
            begun();
            transaction.query_row("SELECT count(*) FROM orders WHERE state = 0", [], |row| row.get(0))
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

    async fn newer(&self, known: Vec<(OrderId, Version)>) -> Result<Page, StoreError> {
        self.read(move |connection| outbox::newer(connection, &known)).await
    }

    async fn narrow(&self, parcel: Parcel, to: Vec<OrderId>, pause: Duration) -> Result<(), StoreError> {
        let (reply, result) = oneshot::channel();
        self.0.writer.send(Job::Narrow { parcel, to, pause, reply }).await.map_err(|_| gone())?;
        result.await.map_err(|_| gone())?
    }

    async fn published(&self, tickets: Vec<i64>) -> Result<(), StoreError> {
        let (reply, result) = oneshot::channel();
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
    OrderId::parse_stored(row.get_ref(4)?.as_bytes()?)
        .map_err(|error| rusqlite::Error::FromSqlConversionFailure(4, rusqlite::types::Type::Text, error.into()))
}
