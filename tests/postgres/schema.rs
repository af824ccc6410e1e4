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
    assert_eq!(database.query("SELECT number FROM schema_migrations ORDER BY 1"), ["1", "2"]);
}

#[tokio::test]
async fn forward_and_back_and_forward_again() {
    let Some(database) = Database::create() else { return };
    let mut maintenance = Maintenance::open(&database.config()).await.unwrap();
    assert_eq!(maintenance.up(true).await.unwrap(), [1, 2, 1001]);
    assert!(maintenance.up(true).await.unwrap().is_empty(), "twice changes nothing");
    let relations = "SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace ORDER BY relname";
    let all = database.query(relations);
    assert!(all.contains(&"orders_p3".into()) && all.contains(&"orders_customer_id".into()), "{all:?}");
    assert_eq!(maintenance.down().await.unwrap(), Some(1001));
    assert_eq!(maintenance.down().await.unwrap(), Some(2));
    assert_eq!(maintenance.down().await.unwrap(), Some(1));
    assert_eq!(maintenance.down().await.unwrap(), None);
    assert_eq!(database.query(relations), ["schema_migrations", "schema_migrations_pkey"], "nothing is left");
    assert_eq!(database.query("SELECT proname FROM pg_proc WHERE pronamespace = 'public'::regnamespace"), [""; 0]);
    assert_eq!(maintenance.up(false).await.unwrap(), [1, 2]);
    let status = maintenance.status().await.unwrap();
    assert_eq!(
        status.iter().map(|(step, applied)| (step.number, *applied)).collect::<Vec<_>>(),
        [(1, true), (2, true), (1001, false)]
    );
}

#[test]
fn plain_psql_can_run_every_file_twice() {
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
        assert!(output.status.success(), "{}: {}", file.display(), String::from_utf8_lossy(&output.stderr));
    };
    let (up, mut down) = (files(".up.sql"), files(".down.sql"));
    assert_eq!((up.len(), down.len()), (3, 3));
    for file in up.iter().flat_map(|file| [file, file]) {
        psql(file);
    }
    assert_eq!(database.query("SELECT number FROM schema_migrations ORDER BY 1"), ["1", "2", "1001"]);
    down.reverse();
    for file in down.iter().flat_map(|file| [file, file]) {
        psql(file);
    }
    assert_eq!(database.query("SELECT count(*) FROM schema_migrations"), ["0"]);
}

#[tokio::test]
async fn a_schema_from_the_future_is_left_alone() {
    let Some(database) = Database::create() else { return };
    let mut maintenance = Maintenance::open(&database.config()).await.unwrap();
    maintenance.up(false).await.unwrap();
    database.query("INSERT INTO schema_migrations (number, name) VALUES (900, 'later')");
    let error = maintenance.up(false).await.unwrap_err();
    assert!(matches!(error, MigrateError::Newer { found: 900, known: 2 }), "{error:?}");
    let error = database.store().commit(batch([wb("a", 1)])).await.unwrap_err();
    assert!(matches!(error, StoreError::Damaged(_)), "waiting cannot help: {error:?}");
}
