//! A database that was restored from a dump of another server, whose counter of transactions was far ahead.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use order_service::store::Store;
use order_service::store::postgres::Postgres;

use super::{batch, id, wb};
use crate::database::Database;
use crate::server::Server;

/// How many orders a look is told of.
async fn told(store: &Postgres) -> usize {
    let told = Arc::new(AtomicUsize::new(0));
    let count = Arc::clone(&told);
    let is_news = move |_: &_, _| {
        count.fetch_add(1, Ordering::SeqCst);
        false
    };
    assert!(store.changes(is_news, |_| {}).await.unwrap().is_shared);
    told.load(Ordering::SeqCst)
}

/// Each instance was sent every order five times a second.
#[tokio::test]
async fn orders_of_a_dump_are_not_changes_that_are_still_to_come() {
    let Some(database) = Database::create() else { return };
    let (one, other) = (database.store(), database.store());
    other.heartbeat().await.unwrap();
    assert_eq!(told(&one).await, 0);
    other.commit(batch((0..50).map(|n| wb(&format!("dumped-{n}"), n)))).await.unwrap();
    assert_eq!(told(&one).await, 50);
    let beyond = "SELECT count(*) FROM orders WHERE changed_in >= 4000000000000";
    database.query("UPDATE orders SET changed_in = changed_in + 4000000000000");
    assert_eq!(told(&one).await, 0, "by no transaction of this server");
    other.commit(batch([wb("dumped-7", 99)])).await.unwrap();
    assert_eq!(told(&one).await, 1);
    assert_eq!(database.query(beyond), ["49"]);
    // The next instance that starts marks them.
    let next = database.store();
    assert_eq!(next.fetch(id("dumped-8")).await.unwrap().unwrap().version(), 1);
    assert_eq!(database.query(beyond), ["0"]);
    assert_eq!(database.query("SELECT version FROM orders WHERE order_uid = 'dumped-7'"), ["2"]);
    assert_eq!(told(&one).await, 0);
    other.commit(batch([wb("dumped-8", 98)])).await.unwrap();
    assert_eq!(told(&one).await, 1);
}

#[test]
fn a_start_on_a_restored_database_says_so_once() {
    let Some(database) = Database::create() else { return };
    let url = database.url();
    let mut server = Server::start(&["--postgres", &url, "--profile", "lenient"]);
    server.post("/orders", r#"{"order_uid":"dumped"}"#).expect(201);
    server.kill();
    database.query("UPDATE orders SET changed_in = changed_in + 4000000000000");
    for expected in [1, 0] {
        server.start_again();
        server.get("/order/dumped").expect(200);
        let log = server.log();
        let said = log.iter().filter(|line| line.contains("came in a dump of another server")).count();
        assert_eq!(said, expected, "{log:?}");
        server.kill();
    }
}
