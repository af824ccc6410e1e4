//! Migrations: forward, back, by many at once, by hand, and from the future.

use std::process::Command;

use order_service::store::postgres::{Maintenance, MigrateError};
use order_service::store::{Store, StoreError};

use super::{batch, wb};
use crate::database::Database;

#[tokio::test]
async fn many_instances_migrate_at_once() {
    let Some(database) = Database::create() else { return };
    let mut starting = Vec::new();
    for n in 0..8 {
        let store = database.store();
        starting.push(tokio::spawn(async move { store.commit(batch([wb(&format!("o{n}"), n)])).await }));
    }
    for started in starting {
        started.await.unwrap().unwrap();
    }
    assert_eq!(database.query("SELECT count(*) FROM orders"), ["8"]);
    assert_eq!(database.query("SELECT number FROM order_service_migrations ORDER BY 1"), ["1", "2", "3", "4"]);
}

#[tokio::test]
async fn forward_and_back_and_forward_again() {
    let Some(database) = Database::create() else { return };
    let mut maintenance = Maintenance::open(&database.config()).await.unwrap();
    assert_eq!(maintenance.up(true).await.unwrap(), [1, 2, 3, 4, 1001]);
    assert!(maintenance.up(true).await.unwrap().is_empty(), "twice changes nothing");
    let relations = "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace ORDER BY relname";
    let all = database.query(relations);
    assert!(all.contains(&"orders_p3".into()) && all.contains(&"orders_customer_id".into()), "{all:?}");
    assert_eq!(maintenance.down().await.unwrap(), Some(1001));
    assert_eq!(maintenance.down().await.unwrap(), Some(4));
    assert_eq!(maintenance.down().await.unwrap(), Some(3));
    assert_eq!(maintenance.down().await.unwrap(), Some(2));
    assert_eq!(maintenance.down().await.unwrap(), Some(1));
    assert_eq!(maintenance.down().await.unwrap(), None);
    assert_eq!(
        database.query(relations),
        ["order_service_migrations", "order_service_migrations_pkey"],
        "nothing is left"
    );
    assert_eq!(database.query("SELECT proname FROM pg_proc WHERE pronamespace = 'public'::regnamespace"), [""; 0]);
    assert_eq!(maintenance.up(false).await.unwrap(), [1, 2, 3, 4]);
    let status = maintenance.status().await.unwrap();
    assert_eq!(
        status.iter().map(|(step, applied)| (step.number, *applied)).collect::<Vec<_>>(),
        [(1, true), (2, true), (3, true), (4, true), (1001, false), (2001, false), (2002, false), (2003, false)]
    );
}

#[test]
fn plain_psql_can_run_every_file_and_a_second_time_changes_nothing() {
    let Some(database) = Database::create() else { return };
    let directory = concat!(env!("CARGO_MANIFEST_DIR"), "/migrations/postgres");
    let files = |suffix: &str| {
        let entries = std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
        let mut files: Vec<_> = entries.filter(|path| path.to_str().unwrap().ends_with(suffix)).collect();
        files.sort();
        files
    };
    let psql = |file: &std::path::Path| {
        let mut command = Command::new("psql");
        command.args(["-q", "-1", "-v", "ON_ERROR_STOP=1", "-d", &database.url(), "-f"]).arg(file);
        let output = command.output().expect("psql is there with the server");
        (output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned())
    };
    let (up, mut down) = (files(".up.sql"), files(".down.sql"));
    assert_eq!((up.len(), down.len()), (8, 8));
    for file in &up {
        assert_eq!(psql(file), (true, String::new()), "{}", file.display());
        let (is_done, error) = psql(file);
        assert!(!is_done && error.contains("already exists"), "{}: {error}", file.display());
    }
    assert_eq!(
        database.query("SELECT number FROM order_service_migrations ORDER BY 1"),
        ["1", "2", "3", "4", "1001", "2001", "2002", "2003"]
    );
    down.reverse();
    for file in down.iter().flat_map(|file| [file, file]) {
        let (is_done, error) = psql(file);
        assert!(is_done, "{}: {error}", file.display());
    }
    assert_eq!(database.query("SELECT count(*) FROM order_service_migrations"), ["0"]);
}

#[tokio::test]
async fn a_schema_from_the_future_is_left_alone() {
    let Some(database) = Database::create() else { return };
    let mut maintenance = Maintenance::open(&database.config()).await.unwrap();
    maintenance.up(false).await.unwrap();
    database.query("INSERT INTO order_service_migrations (number, name) VALUES (900, 'later')");
    let error = maintenance.up(false).await.unwrap_err();
    assert!(matches!(error, MigrateError::Newer { found: 900, known: 4 }), "{error:?}");
    let error = database.store().commit(batch([wb("a", 1)])).await.unwrap_err();
    assert!(matches!(error, StoreError::Unfit(_)), "waiting cannot help: {error:?}");
}

#[tokio::test]
async fn a_schema_whose_migrations_have_the_former_name_goes_on_working() {
    let Some(database) = Database::create() else { return };
    let mut maintenance = Maintenance::open(&database.config()).await.unwrap();
    maintenance.up(false).await.unwrap();
    database.query("ALTER TABLE order_service_migrations RENAME TO schema_migrations");
    assert!(maintenance.up(false).await.unwrap().is_empty(), "all of it is there");
    database.store().commit(batch([wb("a", 1)])).await.unwrap();
    assert_eq!(maintenance.up(true).await.unwrap(), [1001]);
    assert_eq!(database.query("SELECT number FROM order_service_migrations ORDER BY 1"), ["1", "2", "3", "4", "1001"]);
    assert_eq!(database.query("SELECT count(*) FROM orders"), ["1"]);
}

#[tokio::test]
async fn a_table_of_migrations_of_another_program_is_left_alone() {
    let Some(database) = Database::create() else { return };
    database.query("CREATE TABLE schema_migrations (version bigint PRIMARY KEY, dirty boolean NOT NULL)");
    database.query("INSERT INTO schema_migrations VALUES (7, false)");
    database.store().commit(batch([wb("a", 1)])).await.unwrap();
    assert_eq!(database.query("SELECT version FROM schema_migrations"), ["7"]);
}

/// They were taken for the partitions of the new table, which then had none.
#[tokio::test]
async fn partitions_left_behind_by_a_rename_are_not_taken_over() {
    let Some(database) = Database::create() else { return };
    let mut maintenance = Maintenance::open(&database.config()).await.unwrap();
    maintenance.up(false).await.unwrap();
    database.query(
        "ALTER TABLE orders RENAME TO orders_before; DROP TABLE order_service_migrations, positions, idempotency, outbox,
         store_identity; DROP SEQUENCE orders_rank; DROP VIEW items, payments, payment, delivery, order_documents;
         DROP FUNCTION order_whole; ALTER INDEX orders_pkey RENAME TO orders_before_pkey",
    );
    let error = maintenance.up(false).await.unwrap_err();
    assert!(matches!(error, MigrateError::Foreign { .. }), "{error:?}");
    assert!(error.to_string().starts_with("table orders_p0 in schema public, "), "{error}");
    assert_eq!(database.query("SELECT to_regclass('order_service_migrations')"), ["NULL"], "nothing is recorded");
}
