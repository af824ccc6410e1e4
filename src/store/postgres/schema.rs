//! The schema of a PostgreSQL database: its migrations, forward and back, one instance at a time.

use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, GenericClient};

use super::errors::is_unfit;

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
        number: 3,
        name: "outbox_orders",
        is_optional: false,
        up: include_str!("../../../migrations/postgres/0003_outbox_orders.up.sql"),
        down: include_str!("../../../migrations/postgres/0003_outbox_orders.down.sql"),
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
    Postgres(#[source] tokio_postgres::Error),
    /// A name of the schema is taken by something that order-service did not make.
    #[error("a name of the schema is taken by what order-service did not make, use another database")]
    Foreign(#[source] tokio_postgres::Error),
    /// The database cannot hold every character.
    #[error("the encoding of the database is {found}, and must be UTF8")]
    Encoding {
        /// What it is.
        found: String,
    },
    /// A newer order-service made this schema.
    #[error("schema step {found} is newer than the {known} this order-service knows")]
    Newer {
        /// The newest step applied.
        found: u32,
        /// The newest step known here.
        known: u32,
    },
}

impl From<tokio_postgres::Error> for MigrateError {
    fn from(error: tokio_postgres::Error) -> Self {
        let taken = [
            &SqlState::DUPLICATE_TABLE,
            &SqlState::DUPLICATE_FUNCTION,
            &SqlState::DUPLICATE_OBJECT,
            &SqlState::UNIQUE_VIOLATION, // a type of that name, made at the same time
        ];
        let is_foreign = is_unfit(&error) || error.code().is_some_and(|code| taken.contains(&code));
        if is_foreign { Self::Foreign(error) } else { Self::Postgres(error) }
    }
}

impl MigrateError {
    /// Whether trying again may help.
    #[must_use]
    pub fn may_pass(&self) -> bool {
        matches!(self, Self::Postgres(_))
    }
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
    check(client).await?;
    let transaction = client.transaction().await?;
    lock(&transaction).await?;
    let applied = applied(&transaction).await?;
    let pending: Vec<_> = MIGRATIONS.iter().filter(|step| is_wanted(step) && !applied.contains(&step.number)).collect();
    if !pending.is_empty() {
        rename(&transaction).await?;
    }
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
    rename(&transaction).await?;
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

/// Whether the database can be used at all.
///
/// # Errors
/// [`MigrateError`].
pub(super) async fn check(client: &Client) -> Result<(), MigrateError> {
    let row = client.query_one("SELECT current_setting('server_encoding')", &[]).await?;
    let found: String = row.try_get(0)?;
    if found == "UTF8" { Ok(()) } else { Err(MigrateError::Encoding { found }) }
}

/// The table of applied steps. Many programs have one of the former name.
const TABLE: &str = "order_service_migrations";
const FORMER_TABLE: &str = "schema_migrations";

/// Where the applied steps are noted; `None` before the first.
async fn table(client: &impl GenericClient) -> Result<Option<&'static str>, MigrateError> {
    let sql = "SELECT to_regclass($1::text) IS NOT NULL, to_regclass($2::text) IS NOT NULL AND (
                   SELECT count(*) = 3 FROM pg_attribute WHERE attrelid = to_regclass($2::text)
                   AND attname IN ('number', 'name', 'applied_at'))";
    let row = client.query_one(sql, &[&TABLE, &FORMER_TABLE]).await?;
    if row.try_get(0)? {
        return Ok(Some(TABLE));
    }
    if !row.try_get::<_, bool>(1)? {
        return Ok(None);
    }
    let first = format!("SELECT 1 FROM {FORMER_TABLE} WHERE number = 1 AND name = 'orders'");
    Ok(client.query_opt(&first, &[]).await?.map(|_| FORMER_TABLE))
}

/// Gives the table its name, where a former order-service made it.
async fn rename(client: &impl GenericClient) -> Result<(), MigrateError> {
    if table(client).await? == Some(FORMER_TABLE) {
        client.batch_execute(&format!("ALTER TABLE {FORMER_TABLE} RENAME TO {TABLE}")).await?;
    }
    Ok(())
}

async fn applied(client: &impl GenericClient) -> Result<Vec<u32>, MigrateError> {
    let Some(table) = table(client).await? else { return Ok(Vec::new()) };
    let rows = client.query(&format!("SELECT {table}.number FROM {table} ORDER BY 1"), &[]).await?;
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
