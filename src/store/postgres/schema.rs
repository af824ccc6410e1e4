//! The schema of a PostgreSQL database: its migrations, forward and back, one instance at a time.
//! All is said in plain text and inside of transactions, so that a pooler which hands each to
//! another connection of the server does no harm.

use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, GenericClient, SimpleQueryMessage};

use super::errors::is_unfit;
use super::schema_name::{SchemaName, salt_of};
use super::views::Views;
use crate::store::rules::{LOSES_ORDERS, LOSES_OUTBOX};

/// One step of the schema.
#[derive(Debug, Clone, Copy)]
pub struct Migration {
    /// 1 for the first.
    pub number: u32,
    /// What it is about.
    pub name: &'static str,
    /// Applied only when it is asked for: it has a price.
    pub is_optional: bool,
    /// Which views it makes, if that is all it does. Applied only when they are asked for.
    pub views: Option<Views>,
    /// What is lost when it is taken back; empty where nothing is but what it made of the orders.
    pub loses: &'static str,
    /// The relations that it makes and that others may have made before.
    names: &'static [&'static str],
    up: &'static str,
    down: &'static str,
}

/// A step that is not about views.
const PLAIN: Migration =
    Migration { number: 0, name: "", is_optional: false, views: None, loses: "", names: &[], up: "", down: "" };

const MIGRATIONS: &[Migration] = &[
    Migration {
        number: 1,
        name: "orders",
        loses: LOSES_ORDERS,
        names: &[
            "orders",
            "orders_rank",
            "orders_p0",
            "orders_p1",
            "orders_p2",
            "orders_p3",
            "orders_pkey",
            "positions",
            "idempotency",
            "order_documents",
            "delivery",
            "payment",
            "payments",
            "items",
        ],
        up: include_str!("../../../migrations/postgres/0001_orders.up.sql"),
        down: include_str!("../../../migrations/postgres/0001_orders.down.sql"),
        ..PLAIN
    },
    Migration {
        number: 2,
        name: "outbox",
        loses: LOSES_OUTBOX,
        names: &["outbox", "store_identity"],
        up: include_str!("../../../migrations/postgres/0002_outbox.up.sql"),
        down: include_str!("../../../migrations/postgres/0002_outbox.down.sql"),
        ..PLAIN
    },
    Migration {
        number: 3,
        name: "outbox_orders",
        up: include_str!("../../../migrations/postgres/0003_outbox_orders.up.sql"),
        down: include_str!("../../../migrations/postgres/0003_outbox_orders.down.sql"),
        ..PLAIN
    },
    Migration {
        number: 4,
        name: "whole_numbers",
        up: include_str!("../../../migrations/postgres/0004_whole_numbers.up.sql"),
        down: include_str!("../../../migrations/postgres/0004_whole_numbers.down.sql"),
        ..PLAIN
    },
    Migration {
        number: 1001,
        name: "search_indexes",
        is_optional: true,
        up: include_str!("../../../migrations/postgres/1001_search_indexes.up.sql"),
        down: include_str!("../../../migrations/postgres/1001_search_indexes.down.sql"),
        ..PLAIN
    },
    Migration {
        number: 2001,
        name: "four_tables",
        is_optional: true,
        views: Some(Views::FourTables),
        up: include_str!("../../../migrations/postgres/2001_four_tables.up.sql"),
        down: include_str!("../../../migrations/postgres/2001_four_tables.down.sql"),
        ..PLAIN
    },
    Migration {
        number: 2002,
        name: "one_table",
        is_optional: true,
        views: Some(Views::OneTable),
        up: include_str!("../../../migrations/postgres/2002_one_table.up.sql"),
        down: include_str!("../../../migrations/postgres/2002_one_table.down.sql"),
        ..PLAIN
    },
    Migration {
        number: 2003,
        name: "event_driven",
        is_optional: true,
        views: Some(Views::EventDriven),
        up: include_str!("../../../migrations/postgres/2003_event_driven.up.sql"),
        down: include_str!("../../../migrations/postgres/2003_event_driven.down.sql"),
        ..PLAIN
    },
];

/// Why a migration did not happen; the schema is then as it was.
#[derive(Debug, thiserror::Error)]
pub enum MigrateError {
    /// PostgreSQL refused, or is unavailable.
    #[error("PostgreSQL refused")]
    Postgres(#[source] tokio_postgres::Error),
    /// Names of the schema are taken by what order-service did not make.
    #[error(
        "{found} was not made by order-service, which leaves it alone. Either name another schema with --postgres-schema \
         NAME, which is created and holds all that the service makes, or take the orders over into one with: order-service \
         import --from-postgres URL --postgres-schema NAME"
    )]
    Foreign {
        /// The relations.
        found: String,
        /// What PostgreSQL said, where it found them.
        #[source]
        source: Option<tokio_postgres::Error>,
    },
    /// The role may not make the schema.
    #[error(
        "cannot create the schema {name}: the role may not; either let its owner create it, or GRANT CREATE ON DATABASE to \
         the role"
    )]
    Denied {
        /// The schema.
        name: String,
        /// What PostgreSQL said.
        #[source]
        source: tokio_postgres::Error,
    },
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
            &SqlState::DUPLICATE_SCHEMA,
            &SqlState::DUPLICATE_TABLE,
            &SqlState::DUPLICATE_FUNCTION,
            &SqlState::DUPLICATE_OBJECT,
            &SqlState::UNIQUE_VIOLATION, // a type of that name, made at the same time
        ];
        let is_foreign = is_unfit(&error) || error.code().is_some_and(|code| taken.contains(&code));
        if is_foreign { Self::Foreign { found: named(&error), source: Some(error) } } else { Self::Postgres(error) }
    }
}

/// What an error says is in the way.
fn named(error: &tokio_postgres::Error) -> String {
    let message = error.as_db_error().map(tokio_postgres::error::DbError::message).unwrap_or_default();
    // More may follow, as after a function's name.
    message.split_once(" already exists").map_or("what is in the schema", |(name, _)| name).to_owned()
}

impl MigrateError {
    /// Whether trying again may help.
    #[must_use]
    pub fn may_pass(&self) -> bool {
        matches!(self, Self::Postgres(_))
    }
}

/// Anyone who migrates holds this lock ("ords" and "migr"); everybody else waits.
const LOCK: (i32, i32) = (0x6f72_6473, 0x6d69_6772);

/// Applies the steps that are missing, all or nothing, the optional ones left out. Returns the
/// numbers applied.
///
/// # Errors
/// [`MigrateError`].
pub(super) async fn up(client: &mut Client, schema: &SchemaName) -> Result<Vec<u32>, MigrateError> {
    up_with(client, schema, false, &[]).await
}

/// As [`up`], with the optional steps or some views.
///
/// # Errors
/// [`MigrateError`].
pub(super) async fn up_with(
    client: &mut Client,
    schema: &SchemaName,
    is_with_optional: bool,
    views: &[Views],
) -> Result<Vec<u32>, MigrateError> {
    let is_wanted = |step: &Migration| match step.views {
        Some(kind) => views.contains(&kind),
        None => is_with_optional || !step.is_optional,
    };
    let transaction = client.transaction().await?;
    begin(&transaction, schema).await?;
    check_encoding(&transaction).await?;
    create(&transaction, schema).await?;
    let applied = applied(&transaction, schema).await?;
    let pending: Vec<_> = MIGRATIONS.iter().filter(|step| is_wanted(step) && !applied.contains(&step.number)).collect();
    if !pending.is_empty() {
        refuse_foreign(&transaction, schema, &pending).await?;
        rename(&transaction, schema).await?;
    }
    for migration in &pending {
        let text = with_schemas(&transaction, &text(migration, migration.up, schema)).await?;
        transaction.batch_execute(&text).await?;
    }
    refuse_foreign_orders(&transaction, schema).await?;
    transaction.commit().await?;
    Ok(pending.iter().map(|migration| migration.number).collect())
}

/// Takes the newest applied step back, with the data in it. Returns its number, or `None` when
/// there is none.
///
/// # Errors
/// [`MigrateError`].
pub(super) async fn down(client: &mut Client, schema: &SchemaName) -> Result<Option<u32>, MigrateError> {
    let transaction = client.transaction().await?;
    begin(&transaction, schema).await?;
    let applied = applied(&transaction, schema).await?;
    let Some(migration) = MIGRATIONS.iter().rev().find(|step| applied.contains(&step.number)) else { return Ok(None) };
    rename(&transaction, schema).await?;
    let text = without_schemas(&transaction, &text(migration, migration.down, schema)).await?;
    transaction.batch_execute(&text).await?;
    transaction.commit().await?;
    Ok(Some(migration.number))
}

/// Every step with whether it is applied.
///
/// # Errors
/// [`MigrateError`].
pub(super) async fn status(client: &mut Client, schema: &SchemaName) -> Result<Vec<(Migration, bool)>, MigrateError> {
    let transaction = client.transaction().await?;
    refuse_foreign_orders(&transaction, schema).await?;
    let applied = applied(&transaction, schema).await?;
    Ok(MIGRATIONS.iter().map(|step| (*step, applied.contains(&step.number))).collect())
}

/// Whether the database can be used at all.
///
/// # Errors
/// [`MigrateError`].
pub(super) async fn check(client: &Client, schema: &SchemaName) -> Result<(), MigrateError> {
    check_encoding(client).await?;
    refuse_foreign_orders(client, schema).await
}

/// The statements of a step. Those of views name the schema of the views.
fn text(migration: &Migration, sql: &str, schema: &SchemaName) -> String {
    let Some(views) = migration.views else { return sql.to_owned() };
    let layout = views.layout();
    sql.replace(&SchemaName::default().of_views(layout), &schema.of_views(layout))
}

const MAKES_SCHEMA: &str = "CREATE SCHEMA ";
const DROPS_SCHEMA: &str = "DROP SCHEMA IF EXISTS ";

/// The name in a line that makes or drops a schema.
fn schema_in<'l>(line: &'l str, words: &str) -> Option<&'l str> {
    line.strip_prefix(words)?.strip_suffix(';').map(|name| name.trim_matches('"'))
}

/// Makes the schemas of a step, and returns its other statements. Where the role may make none, one
/// that is there and empty was made for it.
async fn with_schemas(client: &impl GenericClient, text: &str) -> Result<String, MigrateError> {
    for name in text.lines().filter_map(|line| schema_in(line, MAKES_SCHEMA)) {
        let is_made = format!(
            "NOT has_database_privilege(current_database(), 'CREATE')
             AND EXISTS (SELECT FROM pg_namespace n WHERE nspname = '{name}'
                         AND NOT EXISTS (SELECT FROM pg_class c WHERE c.relnamespace = n.oid))"
        );
        if !is(client, &is_made).await? {
            make_schema(client, name).await?;
        }
    }
    let others = text.lines().filter(|line| schema_in(line, MAKES_SCHEMA).is_none());
    Ok(others.collect::<Vec<_>>().join("\n"))
}

/// The statements of a step that is taken back, without those that drop schemas of another role's.
async fn without_schemas(client: &impl GenericClient, text: &str) -> Result<String, MigrateError> {
    let mut kept = Vec::new();
    for line in text.lines() {
        if let Some(name) = schema_in(line, DROPS_SCHEMA) {
            let owned = "EXISTS (SELECT FROM pg_namespace WHERE nspname = '@' AND pg_has_role(nspowner, 'USAGE'))";
            if !is(client, &owned.replace('@', name)).await? {
                continue;
            }
        }
        kept.push(line);
    }
    Ok(kept.join("\n"))
}

/// The first row of an answer.
async fn row(client: &impl GenericClient, sql: &str) -> Result<Vec<Option<String>>, MigrateError> {
    let messages = client.simple_query(sql).await?;
    let row = messages.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some((0..row.len()).map(|n| row.get(n).map(str::to_owned)).collect()),
        _ => None,
    });
    Ok(row.unwrap_or_default())
}

/// Whether an expression is true.
async fn is(client: &impl GenericClient, expression: &str) -> Result<bool, MigrateError> {
    let row = row(client, &format!("SELECT {expression}")).await?;
    Ok(row.first().is_some_and(|value| value.as_deref() == Some("t")))
}

/// Sets up a transaction, and waits for those of others. What is set ends with it.
async fn begin(client: &impl GenericClient, schema: &SchemaName) -> Result<(), MigrateError> {
    let class = LOCK.0 ^ schema.name().map_or(0, salt_of);
    let (second, path) = (LOCK.1, schema.name().map(|name| format!("SET LOCAL search_path = \"{name}\";")));
    let sql = format!(
        "SET LOCAL statement_timeout = 0; SET LOCAL idle_in_transaction_session_timeout = 0; SET LOCAL lock_timeout = 0;
         SET LOCAL client_min_messages = warning; {}
         SELECT set_config(name, '0', true) FROM pg_settings WHERE name = 'transaction_timeout';
         SELECT pg_advisory_xact_lock({class}, {second})",
        path.unwrap_or_default()
    );
    Ok(client.batch_execute(&sql).await?)
}

async fn check_encoding(client: &impl GenericClient) -> Result<(), MigrateError> {
    let row = row(client, "SELECT current_setting('server_encoding')").await?;
    match row.into_iter().next().flatten() {
        Some(found) if found != "UTF8" => Err(MigrateError::Encoding { found }),
        _ => Ok(()),
    }
}

/// Makes the schema, if one is named and not there. Asked first: a role that may not make schemas
/// may use one.
async fn create(client: &impl GenericClient, schema: &SchemaName) -> Result<(), MigrateError> {
    if let Some(name) = schema.name()
        && !is(client, &format!("EXISTS (SELECT FROM pg_namespace WHERE nspname = '{name}')")).await?
    {
        make_schema(client, name).await?;
    }
    Ok(())
}

async fn make_schema(client: &impl GenericClient, name: &str) -> Result<(), MigrateError> {
    client.batch_execute(&format!("CREATE SCHEMA \"{name}\"")).await.map_err(|error| {
        if error.code() == Some(&SqlState::INSUFFICIENT_PRIVILEGE) {
            MigrateError::Denied { name: name.to_owned(), source: error }
        } else {
            error.into()
        }
    })
}

/// Says which names of steps to come are taken, before anything is made.
async fn refuse_foreign(
    client: &impl GenericClient,
    schema: &SchemaName,
    pending: &[&Migration],
) -> Result<(), MigrateError> {
    let names: Vec<_> = pending.iter().flat_map(|step| step.names).map(|name| format!("'{name}'")).collect();
    if names.is_empty() {
        return Ok(());
    }
    let sql = format!(
        "SELECT string_agg(CASE relkind WHEN 'v' THEN 'view' WHEN 'm' THEN 'view' WHEN 'S' THEN 'sequence'
                                        WHEN 'i' THEN 'index' WHEN 'I' THEN 'index' ELSE 'table' END || ' ' || relname
                           || ' in schema ' || nspname, ', ' ORDER BY relname)
         FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
         WHERE n.nspname = {} AND relname IN ({})",
        schema.target(),
        names.join(", ")
    );
    match row(client, &sql).await?.into_iter().next().flatten() {
        Some(found) => Err(MigrateError::Foreign { found, source: None }),
        None => Ok(()),
    }
}

/// Says that the table `orders` is not the one this program writes into, where there is one of that
/// name.
async fn refuse_foreign_orders(client: &impl GenericClient, schema: &SchemaName) -> Result<(), MigrateError> {
    let sql = "SELECT 'table orders in schema ' || relnamespace::regnamespace FROM pg_class
               WHERE oid = to_regclass('@orders') AND NOT (
                   SELECT count(*) = 4 FROM pg_attribute WHERE attrelid = to_regclass('@orders') AND NOT attisdropped
                   AND attname IN ('seq', 'version', 'changed_in', 'body'))";
    match row(client, &schema.sql(sql)).await?.into_iter().next().flatten() {
        Some(found) => Err(MigrateError::Foreign { found, source: None }),
        None => Ok(()),
    }
}

/// The table of applied steps. Many programs have one of the former name.
const TABLE: &str = "order_service_migrations";
const FORMER_TABLE: &str = "schema_migrations";

/// Whether a table has the columns of that of applied steps. The rights to read it may be missing.
fn has_columns(table: &str) -> String {
    format!(
        "(SELECT count(*) = 3 FROM pg_attribute WHERE attrelid = to_regclass('@{table}')
          AND attname IN ('number', 'name', 'applied_at'))"
    )
}

/// Where the applied steps are noted; `None` before the first.
async fn table(client: &impl GenericClient, schema: &SchemaName) -> Result<Option<&'static str>, MigrateError> {
    if is(client, &schema.sql(&format!("to_regclass('@{TABLE}') IS NOT NULL"))).await? {
        if is(client, &schema.sql(&has_columns(TABLE))).await? {
            return Ok(Some(TABLE));
        }
        return Err(MigrateError::Foreign { found: format!("table {TABLE}"), source: None });
    }
    if !is(client, &schema.sql(&has_columns(FORMER_TABLE))).await? {
        return Ok(None);
    }
    let first = format!("EXISTS (SELECT FROM @{FORMER_TABLE} WHERE number = 1 AND name = 'orders')");
    Ok(is(client, &schema.sql(&first)).await?.then_some(FORMER_TABLE))
}

/// Gives the table its name, where a former order-service made it.
async fn rename(client: &impl GenericClient, schema: &SchemaName) -> Result<(), MigrateError> {
    if table(client, schema).await? == Some(FORMER_TABLE) {
        client.batch_execute(&schema.sql(&format!("ALTER TABLE @{FORMER_TABLE} RENAME TO {TABLE}"))).await?;
    }
    Ok(())
}

async fn applied(client: &impl GenericClient, schema: &SchemaName) -> Result<Vec<u32>, MigrateError> {
    let Some(table) = table(client, schema).await? else { return Ok(Vec::new()) };
    let sql = format!("SELECT string_agg(t.number::text, ' ' ORDER BY t.number) FROM @{table} t");
    let numbers = row(client, &schema.sql(&sql)).await?.into_iter().next().flatten().unwrap_or_default();
    let numbers: Vec<u32> = numbers.split_ascii_whitespace().filter_map(|number| number.parse().ok()).collect();
    let known = |number: &u32| MIGRATIONS.iter().any(|step| step.number == *number);
    match numbers.iter().rfind(|number| !known(number)) {
        Some(&found) => {
            let known = MIGRATIONS.iter().filter(|step| !step.is_optional).map(|step| step.number).max();
            Err(MigrateError::Newer { found, known: known.unwrap_or_default() })
        }
        None => Ok(numbers),
    }
}
