//! The store without the service: reading it beside one, and keeping its schema.

use rusqlite::Connection;

use super::schema::{self, MigrateError, Migration};
use super::{Config, OpenError, lock_dir, open_reader};

/// All live orders, as they stand when this is opened. Another process may have the store open.
pub struct Live(Connection);

impl Live {
    /// Opens for reading only.
    ///
    /// # Errors
    /// When there is no store or it cannot be read.
    pub fn open(config: &Config) -> Result<Self, OpenError> {
        let path = config.file();
        if !path.exists() {
            let source = std::io::ErrorKind::NotFound.into();
            return Err(OpenError::Io { path, source });
        }
        let unusable = |source: rusqlite::Error| OpenError::Unusable { path: path.clone(), source: source.into() };
        let connection = open_reader(&path).map_err(unusable)?;
        // One transaction: every later read sees the same state.
        connection.execute_batch("BEGIN").map_err(unusable)?;
        Ok(Self(connection))
    }

    /// How many there are.
    ///
    /// # Errors
    /// Whatever SQLite says.
    pub fn count(&self) -> rusqlite::Result<u64> {
        self.0
            .query_row("SELECT count(*) FROM orders WHERE state = 0", [], |row| row.get::<_, i64>(0))
            .map(i64::unsigned_abs)
    }

    /// Hands over each body, newest order first.
    ///
    /// # Errors
    /// Whatever SQLite says, or the first error of `emit`.
    pub fn for_each<E: From<rusqlite::Error>>(&self, mut emit: impl FnMut(&[u8]) -> Result<(), E>) -> Result<(), E> {
        let mut statement = self.0.prepare("SELECT body FROM orders WHERE state = 0 ORDER BY seq DESC")?;
        let mut rows = statement.query([])?;
        while let Some(row) = rows.next()? {
            emit(row.get_ref(0)?.as_blob().map_err(rusqlite::Error::from)?)?;
        }
        Ok(())
    }
}

/// The schema of a store that no service has open.
pub struct Maintenance {
    connection: Connection,
    _lock: std::fs::File,
}

impl Maintenance {
    /// Opens the store without migrating it.
    ///
    /// # Errors
    /// [`OpenError`]; most often that a service has it open.
    pub fn open(config: &Config) -> Result<Self, OpenError> {
        let lock = lock_dir(&config.dir)?;
        let path = config.file();
        let unusable = |source: rusqlite::Error| OpenError::Unusable { path: path.clone(), source: source.into() };
        let connection = Connection::open(&path).map_err(unusable)?;
        schema::configure(&connection).map_err(unusable)?;
        Ok(Self { connection, _lock: lock })
    }

    /// Applies what is missing, all or nothing. Returns the numbers applied.
    ///
    /// # Errors
    /// [`MigrateError`].
    pub fn up(&mut self) -> Result<Vec<u32>, MigrateError> {
        schema::migrate_up(&mut self.connection)
    }

    /// Takes the newest applied step back, with the data in it. Returns its number, or `None` when there is none.
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
