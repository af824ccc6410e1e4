//! The schema of a PostgreSQL database: its migrations, forward and back, one instance at a time.

use tokio_postgres::{Client, GenericClient};

/// One step of the schema.
#[derive(Debug, Clone, Copy)]
pub struct Migration {
    /// 1 for the first.
    pub number: u32,
    /// What it is about.
    pub name: &'static str,
    /// Applied only when it is asked for: it has a price.
    pub is_optional: bool,
    up: &'static str,
    down: &'static str,
}

const MIGRATIONS: &[Migration] = &[
    Migration {
        number: 1,
        name: "orders",
        is_optional: false,
        up: include_str!("../../../migrations/postgres/0001_orders.up.sql"),
        down: include_str!("../../../migrations/postgres/0001_orders.down.sql"),
    },
    Migration {
        number: 2,
        name: "outbox",
        is_optional: false,
        up: include_str!("../../../migrations/postgres/0002_outbox.up.sql"),
        down: include_str!("../../../migrations/postgres/0002_outbox.down.sql"),
    },
    Migration {
        number: 1001,
        name: "search_indexes",
        is_optional: true,
        up: include_str!("../../../migrations/postgres/1001_search_indexes.up.sql"),
        down: include_str!("../../../migrations/postgres/1001_search_indexes.down.sql"),
    },
];

/// Why a migration did not happen; the schema is then as it was.
#[derive(Debug, thiserror::Error)]
pub enum MigrateError {
    /// PostgreSQL refused, or is away.
    #[error("PostgreSQL refused")]
    Postgres(#[from] tokio_postgres::Error),
    /// A newer order-service made this schema.
    #[error("schema step {found} is newer than the {known} this order-service knows")]
    Newer {
        /// The newest step applied.
        found: u32,
        /// The newest step known here.
        known: u32,
    },
}

/// Whoever migrates holds this lock ("ords" and "migr"); everybody else waits.
const LOCK: (i32, i32) = (0x6f72_6473, 0x6d69_6772);

/// Applies the steps that are missing, all or nothing, the optional ones left out. Returns the numbers applied.
///
/// # Errors
/// [`MigrateError`].
pub(super) async fn up(client: &mut Client) -> Result<Vec<u32>, MigrateError> {
    apply(client, |migration| !migration.is_optional).await
}

/// As [`up`], with the optional steps.
pub(super) async fn up_all(client: &mut Client) -> Result<Vec<u32>, MigrateError> {
    apply(client, |_| true).await
}

async fn apply(client: &mut Client, is_wanted: impl Fn(&Migration) -> bool) -> Result<Vec<u32>, MigrateError> {
    let transaction = client.transaction().await?;
    lock(&transaction).await?;
    let applied = applied(&transaction).await?;
    let pending: Vec<_> = MIGRATIONS.iter().filter(|step| is_wanted(step) && !applied.contains(&step.number)).collect();
    for migration in &pending {
        transaction.batch_execute(migration.up).await?;
    }
    transaction.commit().await?;
    Ok(pending.iter().map(|migration| migration.number).collect())
}

/// Takes the newest applied step back, with the data in it. Returns its number, or `None` when there is none.
///
/// # Errors
/// [`MigrateError`].
pub(super) async fn down(client: &mut Client) -> Result<Option<u32>, MigrateError> {
    let transaction = client.transaction().await?;
    lock(&transaction).await?;
    let applied = applied(&transaction).await?;
    let Some(migration) = MIGRATIONS.iter().rev().find(|step| applied.contains(&step.number)) else { return Ok(None) };
    transaction.batch_execute(migration.down).await?;
    transaction.commit().await?;
    Ok(Some(migration.number))
}

/// Every step with whether it is applied.
///
/// # Errors
/// [`MigrateError`].
pub(super) async fn status(client: &Client) -> Result<Vec<(Migration, bool)>, MigrateError> {
    let applied = applied(client).await?;
    Ok(MIGRATIONS.iter().map(|step| (*step, applied.contains(&step.number))).collect())
}

/// Held until the end of the transaction.
async fn lock(client: &impl GenericClient) -> Result<(), MigrateError> {
    client.batch_execute("SET LOCAL lock_timeout = 0; SET LOCAL client_min_messages = warning").await?;
    client.execute("SELECT pg_advisory_xact_lock($1, $2)", &[&LOCK.0, &LOCK.1]).await?;
    Ok(())
}

async fn applied(client: &impl GenericClient) -> Result<Vec<u32>, MigrateError> {
    let exists = client.query_one("SELECT to_regclass('schema_migrations') IS NOT NULL", &[]).await?;
    if !exists.try_get::<_, bool>(0)? {
        return Ok(Vec::new());
    }
    let rows = client.query("SELECT number FROM schema_migrations ORDER BY number", &[]).await?;
    let numbers = rows.iter().map(|row| Ok(row.try_get::<_, i32>(0)?.unsigned_abs()));
    let numbers = numbers.collect::<Result<Vec<_>, tokio_postgres::Error>>()?;
    let known = |number: &u32| MIGRATIONS.iter().any(|step| step.number == *number);
    match numbers.iter().rfind(|number| !known(number)) {
        Some(&found) => {
            let known = MIGRATIONS.iter().filter(|step| !step.is_optional).map(|step| step.number).max();
            Err(MigrateError::Newer { found, known: known.unwrap_or_default() })
        }
        None => Ok(numbers),
    }
}
