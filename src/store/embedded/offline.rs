//! The store without the service: reading and copying it beside one, and keeping its schema.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rusqlite::backup::{Backup, StepResult};
use rusqlite::{Connection, OpenFlags};

use super::schema::{self, MigrateError, Migration};
use super::{Config, FileError, OpenError, files, map, open_reading, open_writer};
use crate::order::{date, envelope};
use crate::snapshot::Kind;
use crate::store::Full;
use crate::store::rules::column;

/// All orders, as they stand when this is opened. Another process may have the store open.
pub struct Live {
    config: Config,
    connection: Connection,
    /// A store that this version has not opened for writing yet has none.
    has_times: bool,
}

/// Why there is no backup; what was there under its name is as it was.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// The copy would take the place of the store.
    #[error("{path} belongs to the store itself; name another file")]
    Itself {
        /// The name that was given.
        path: PathBuf,
    },
    /// The copy cannot be written, or not be given its name.
    #[error("cannot write {path}")]
    Io {
        /// The file.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// SQLite failed on one of the two.
    #[error("cannot copy {from} to {to}")]
    Copy {
        /// The store.
        from: PathBuf,
        /// The copy.
        to: PathBuf,
        /// Why not.
        source: rusqlite::Error,
    },
    /// The copy was read again, and is no sound database, so the store is none.
    #[error("{from} is damaged: {finding}")]
    Damaged {
        /// The store.
        from: PathBuf,
        /// The first thing that is wrong.
        finding: String,
    },
}

impl Live {
    /// Opens for reading only.
    ///
    /// # Errors
    /// When there is no store or it cannot be read.
    pub fn open(config: &Config) -> Result<Self, OpenError> {
        files::check_readable(config)?;
        let path = config.file();
        let unusable = |error| OpenError::of_sqlite(&path, error);
        // Nothing is written. But who closes the database last folds and removes its log, which
        // takes the right to.
        let connection = open_reading(&path, OpenFlags::SQLITE_OPEN_READ_WRITE).map_err(unusable)?;
        connection.pragma_update(None, "query_only", true).map_err(unusable)?;
        map(&connection).map_err(unusable)?;
        // One transaction, which begins with its first read: every later read sees the same state.
        connection.execute_batch("BEGIN; SELECT count(*) FROM sqlite_schema").map_err(unusable)?;
        let steps = schema::migrations(&connection).map_err(|error| OpenError::of_migration(&path, error))?;
        let has_times = steps.iter().any(|(step, is_applied)| step.number == schema::TIMES && *is_applied);
        Ok(Self { config: config.clone(), connection, has_times })
    }

    /// How many are live, and how many are deleted.
    ///
    /// # Errors
    /// Whatever SQLite says.
    pub fn count(&self) -> Result<(u64, u64), FileError> {
        let count = |sql| self.connection.query_row(sql, [], |row| row.get::<_, i64>(0)).map(i64::unsigned_abs);
        let live = count("SELECT count(*) FROM orders WHERE state = 0");
        let both = live.and_then(|live| Ok((live, count("SELECT count(*) FROM orders WHERE state <> 0")?)));
        both.map_err(|source| self.failed(source))
    }

    fn failed(&self, source: rusqlite::Error) -> FileError {
        FileError { path: self.config.file(), source }
    }

    /// Hands over the body of each live order, newest first.
    ///
    /// # Errors
    /// Whatever SQLite says, or the first error of `emit`.
    pub fn for_each<E: From<FileError>>(&self, mut emit: impl FnMut(&[u8]) -> Result<(), E>) -> Result<(), E> {
        let failed = |source| self.failed(source);
        let newest = "SELECT body FROM orders WHERE state = 0 ORDER BY seq DESC";
        let mut statement = self.connection.prepare(newest).map_err(failed)?;
        let mut rows = statement.query([]).map_err(failed)?;
        while let Some(row) = rows.next().map_err(failed)? {
            let body = row.get_ref(0).map_err(failed)?;
            emit(body.as_blob().map_err(|error| failed(error.into()))?)?;
        }
        Ok(())
    }

    /// Hands over all orders, deleted ones among them, oldest first.
    ///
    /// # Errors
    /// Whatever SQLite says, or the first error of `emit`.
    pub fn for_each_full<E: From<FileError>>(&self, mut emit: impl FnMut(Full<'_>) -> Result<(), E>) -> Result<(), E> {
        let failed = |source| self.failed(source);
        let times = if self.has_times { "created_at, updated_at" } else { "NULL, NULL" };
        let oldest = format!("SELECT uid, kind, state, version, body, {times} FROM orders ORDER BY seq");
        let mut statement = self.connection.prepare(&oldest).map_err(failed)?;
        let mut rows = statement.query([]).map_err(failed)?;
        while let Some(row) = rows.next().map_err(failed)? {
            let read = || {
                let kind = column::to_kind(row.get(1)?);
                let body = row.get_ref(4)?.as_blob()?;
                let noted = row.get::<_, Option<i64>>(5)?.zip(row.get(6)?);
                Ok::<_, rusqlite::Error>(Full {
                    id: row.get_ref(0)?.as_str()?,
                    kind,
                    state: column::to_state(row.get(2)?),
                    version: row.get::<_, i64>(3)?.unsigned_abs(),
                    times: if kind == Kind::Envelope && !body.is_empty() { times_in(body) } else { noted },
                    body,
                })
            };
            emit(read().map_err(failed)?)?;
        }
        Ok(())
    }
}

/// What the body of an envelope order says.
fn times_in(body: &[u8]) -> Option<(i64, i64)> {
    let stored = envelope::Stored::parse(body)?;
    let micros = |stamp: &[u8]| std::str::from_utf8(stamp).ok().and_then(date::unix_micros);
    Some((micros(stored.created_at)?, micros(stored.updated_at)?))
}

/// Pages copied between two reports, of 8 KB each.
const BACKUP_PAGES: i32 = 1024;

impl Live {
    /// Writes the store as it stood when this was opened into one file, which takes its name only
    /// once it is whole, sound and on the disk. `on_progress` is told of bytes: those copied, and
    /// all of them. Returns how many the file has.
    ///
    /// # Errors
    /// [`BackupError`].
    pub fn back_up(&self, to: &Path, on_progress: impl FnMut(u64, u64)) -> Result<u64, BackupError> {
        if self.is_own(to) {
            return Err(BackupError::Itself { path: to.to_owned() });
        }
        let io = |source| BackupError::Io { path: to.to_owned(), source };
        if to.is_dir() {
            return Err(io(io::ErrorKind::IsADirectory.into()));
        }
        let mut partial = to.as_os_str().to_owned();
        partial.push(".partial");
        let partial = PathBuf::from(partial);
        File::create(&partial).map_err(|source| BackupError::Io { path: partial.clone(), source })?;
        let written = self.copy(&partial, to, on_progress).and_then(|()| {
            let file = File::open(&partial).map_err(io)?;
            file.sync_all().map_err(io)?;
            std::fs::rename(&partial, to).map_err(io)?;
            let dir = to.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
            File::open(dir).and_then(|dir| dir.sync_all()).map_err(io)?;
            Ok(file.metadata().map_err(io)?.len())
        });
        if written.is_err() {
            let _ = std::fs::remove_file(&partial); // or it was given its name
        }
        written
    }

    /// Whether a name is one of the store's own.
    fn is_own(&self, to: &Path) -> bool {
        let dir = to.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
        let place = |dir: &Path| dir.canonicalize().ok();
        let is_there = place(dir).is_some() && place(dir) == place(&self.config.dir);
        let target = to.canonicalize().ok();
        self.config.names().iter().any(|own| {
            (is_there && own.file_name() == to.file_name()) || (target.is_some() && own.canonicalize().ok() == target)
        })
    }

    fn copy(&self, partial: &Path, to: &Path, mut on_progress: impl FnMut(u64, u64)) -> Result<(), BackupError> {
        let from = self.config.file();
        let failed = |source| BackupError::Copy { from: from.clone(), to: to.to_owned(), source };
        let page_bytes: u32 =
            self.connection.pragma_query_value(None, "page_size", |row| row.get(0)).map_err(failed)?;
        let mut copy = Connection::open(partial).map_err(failed)?;
        // Until it is whole nothing needs to be taken back, and then all of it is synced at once.
        copy.execute_batch("PRAGMA journal_mode = OFF; PRAGMA synchronous = OFF").map_err(failed)?;
        {
            let backup = Backup::new(&self.connection, &mut copy).map_err(failed)?;
            // Nothing that is committed meanwhile has it begin again: it reads in the transaction
            // of this connection.
            loop {
                let step = backup.step(BACKUP_PAGES).map_err(failed)?;
                let (all, left) = (backup.progress().pagecount, backup.progress().remaining);
                let bytes = |pages: i32| u64::from(pages.unsigned_abs()) * u64::from(page_bytes);
                on_progress(bytes(all - left), bytes(all));
                match step {
                    StepResult::Done => break,
                    StepResult::More => {}
                    _ => std::thread::sleep(Duration::from_millis(10)), // another process has it locked for a moment
                }
            }
        }
        // Without a log beside it: one file, also where it can only be read.
        copy.query_row("PRAGMA journal_mode = DELETE", [], |_| Ok(())).map_err(failed)?;
        let finding: String = copy.query_row("PRAGMA quick_check(1)", [], |row| row.get(0)).map_err(failed)?;
        if finding != "ok" {
            return Err(BackupError::Damaged { from, finding });
        }
        copy.close().map_err(|(_, error)| failed(error))
    }
}

/// The schema of a store that no service has open, or one that is only looked at.
pub struct Maintenance {
    connection: Connection,
    _lock: Option<File>,
}

impl Maintenance {
    /// Opens the store without migrating it.
    ///
    /// # Errors
    /// [`OpenError`]; most often that a service has it open.
    pub fn open(config: &Config) -> Result<Self, OpenError> {
        let lock = files::lock_dir(config)?;
        files::check_writable(config)?;
        let connection = open_writer(&config.file())?;
        Ok(Self { connection, _lock: Some(lock) })
    }

    /// Opens the store to see how far its schema is, also beside a service. Nothing is changed:
    /// where there is no store, this is an empty one that is nowhere.
    ///
    /// # Errors
    /// [`OpenError`].
    pub fn open_to_read(config: &Config) -> Result<Self, OpenError> {
        let path = config.file();
        let unusable = |error| OpenError::of_sqlite(&path, error);
        let is_missing = std::fs::metadata(&path).is_err_and(|error| error.kind() == io::ErrorKind::NotFound);
        let connection = if is_missing {
            Connection::open_in_memory().map_err(unusable)?
        } else {
            files::check_readable(config)?;
            open_reading(&path, OpenFlags::SQLITE_OPEN_READ_WRITE).map_err(unusable)?
        };
        connection.pragma_update(None, "query_only", true).map_err(unusable)?;
        schema::migrations(&connection).map_err(|error| OpenError::of_migration(&path, error))?;
        Ok(Self { connection, _lock: None })
    }

    /// Applies what is missing, all or nothing. Returns the numbers applied.
    ///
    /// # Errors
    /// [`MigrateError`].
    pub fn up(&mut self) -> Result<Vec<u32>, MigrateError> {
        schema::migrate_up(&mut self.connection)
    }

    /// Takes the newest applied step back, with the data in it. Returns its number, or `None` when
    /// there is none.
    ///
    /// # Errors
    /// [`MigrateError`].
    pub fn down(&mut self) -> Result<Option<u32>, MigrateError> {
        schema::migrate_down(&mut self.connection)
    }

    /// Every step with whether it is applied.
    ///
    /// # Errors
    /// [`MigrateError`].
    pub fn status(&self) -> Result<Vec<(Migration, bool)>, MigrateError> {
        schema::migrations(&self.connection)
    }
}
