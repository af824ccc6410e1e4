//! The database file: how SQLite is set up, and its migrations, forward and back.

use rusqlite::{Connection, TransactionBehavior};

use crate::store::rules::{LOSES_ORDERS, LOSES_OUTBOX};

/// One step of the schema.
#[derive(Debug, Clone, Copy)]
pub struct Migration {
    /// 1 for the first.
    pub number: u32,
    /// What it is about.
    pub name: &'static str,
    /// What is lost when it is taken back.
    pub loses: &'static str,
    up: &'static str,
    down: &'static str,
}

/// The step that orders have their times of.
pub(super) const TIMES: u32 = 3;

const MIGRATIONS: &[Migration] = &[
    Migration {
        number: 1,
        name: "orders",
        loses: LOSES_ORDERS,
        up: include_str!("../../../migrations/embedded/0001_orders.up.sql"),
        down: include_str!("../../../migrations/embedded/0001_orders.down.sql"),
    },
    Migration {
        number: 2,
        name: "outbox",
        loses: LOSES_OUTBOX,
        up: include_str!("../../../migrations/embedded/0002_outbox.up.sql"),
        down: include_str!("../../../migrations/embedded/0002_outbox.down.sql"),
    },
    Migration {
        number: TIMES,
        name: "times",
        loses: "when orders were made and last changed, but for envelope orders, whose bodies say it",
        up: include_str!("../../../migrations/embedded/0003_times.up.sql"),
        down: include_str!("../../../migrations/embedded/0003_times.down.sql"),
    },
];

/// Why a migration did not happen; the schema is then as it was.
#[derive(Debug, thiserror::Error)]
pub enum MigrateError {
    /// SQLite refused.
    #[error(transparent)]
    Sqlite(#[from] rusqlite::Error),
    /// A newer order-service made this file.
    #[error("schema version {found} is newer than the {known} this order-service knows")]
    Newer {
        /// The file's version.
        found: u32,
        /// The newest version known here.
        known: u32,
    },
    /// The file is a database of something else.
    #[error("the file is a database of another application")]
    Foreign,
}

impl MigrateError {
    /// Whether trying again may help.
    #[must_use]
    pub fn may_pass(&self) -> bool {
        matches!(self, Self::Sqlite(_))
    }
}

/// Marks the file as ours ("ORDS").
const APPLICATION_ID: i32 = 0x4f52_4453;

/// Every step with whether it is applied.
///
/// # Errors
/// [`MigrateError`].
pub(super) fn migrations(connection: &Connection) -> Result<Vec<(Migration, bool)>, MigrateError> {
    let applied = version(connection)?;
    Ok(MIGRATIONS.iter().map(|migration| (*migration, migration.number <= applied)).collect())
}

/// Applies what is missing, all or nothing. Returns the numbers applied.
///
/// # Errors
/// [`MigrateError`].
pub(super) fn migrate_up(connection: &mut Connection) -> Result<Vec<u32>, MigrateError> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let from = version(&transaction)?;
    let pending: Vec<&Migration> = MIGRATIONS.iter().filter(|migration| migration.number > from).collect();
    for migration in &pending {
        transaction.execute_batch(migration.up)?;
        transaction.pragma_update(None, "user_version", migration.number)?;
    }
    transaction.pragma_update(None, "application_id", APPLICATION_ID)?;
    transaction.commit()?;
    Ok(pending.iter().map(|migration| migration.number).collect())
}

/// Takes the newest applied step back, with the data in it. Returns its number, or `None` when
/// there is none.
///
/// # Errors
/// [`MigrateError`].
pub(super) fn migrate_down(connection: &mut Connection) -> Result<Option<u32>, MigrateError> {
    let transaction = connection.transaction_with_behavior(TransactionBehavior::Immediate)?;
    let from = version(&transaction)?;
    let Some(migration) = MIGRATIONS.iter().find(|migration| migration.number == from) else { return Ok(None) };
    transaction.execute_batch(migration.down)?;
    transaction.pragma_update(None, "user_version", from - 1)?;
    transaction.commit()?;
    Ok(Some(from))
}

fn version(connection: &Connection) -> Result<u32, MigrateError> {
    let found: u32 = connection.pragma_query_value(None, "user_version", |row| row.get(0))?;
    let application: i32 = connection.pragma_query_value(None, "application_id", |row| row.get(0))?;
    let tables: u32 = connection.query_row("SELECT count(*) FROM sqlite_schema", [], |row| row.get(0))?;
    let known = MIGRATIONS.last().map_or(0, |migration| migration.number);
    match (found, application) {
        _ if application != APPLICATION_ID && (application != 0 || tables > 0) => Err(MigrateError::Foreign),
        _ if found > known => Err(MigrateError::Newer { found, known }),
        _ => Ok(found),
    }
}

/// Sets a connection up for writing. Each setting has its reason beside it.
///
/// # Errors
/// Whatever SQLite says.
pub(super) fn configure(connection: &Connection) -> rusqlite::Result<()> {
    // 8 KB pages hold several orders of 1 KB; must come before the file has content.
    connection.pragma_update(None, "page_size", 8192)?;
    let mode: String = connection.pragma_update_and_check(None, "journal_mode", "WAL", |row| row.get(0))?;
    debug_assert_eq!(mode, "wal");
    // FULL: the log is synced at every commit, so an answered write survives power loss, not only a
    // crash.
    connection.pragma_update(None, "synchronous", "FULL")?;
    // Small, frequent checkpoints keep the slowest commit short.
    connection.pragma_update(None, "wal_autocheckpoint", 1000)?;
    connection.pragma_update(None, "cache_size", -65_536)?;
    connection.pragma_update(None, "temp_store", "MEMORY")?;
    connection.set_prepared_statement_cache_capacity(32);
    connection.busy_timeout(std::time::Duration::from_secs(5))
}

/// Folds the log into the file and leaves it empty.
///
/// # Errors
/// Whatever SQLite says; the data is safe either way.
pub(super) fn fold(connection: &Connection) -> rusqlite::Result<()> {
    let is_busy: bool = connection.query_row("PRAGMA wal_checkpoint(TRUNCATE)", [], |row| row.get(0))?;
    if is_busy {
        tracing::info!("another process reads the store, and folds the log when it ends");
    }
    Ok(())
}

/// The same, and closes it.
///
/// # Errors
/// As [`fold`].
pub(super) fn close(connection: Connection) -> rusqlite::Result<()> {
    fold(&connection)?;
    connection.close().map_err(|(_, error)| error)
}
