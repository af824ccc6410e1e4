//! A server that says nothing, with its connections open: what an instance answers meanwhile, and that it goes on.

use std::time::Duration;

use order_service::store::postgres::Postgres;
use order_service::store::{Store, StoreError};

use super::proxy::Proxy;
use super::{LONG, batch, id, wb};
use crate::database::Database;
use crate::server::{Server, until};
use crate::servers::Private;

fn stats(server: &Server) -> serde_json::Value {
    server.get("/api/stats").expect(200).json()
}

fn is_complete(server: &Server) -> Option<()> {
    (stats(server)["view_complete"] == true).then_some(())
}

/// It answered 404 for orders of another instance for as long as the silence lasted.
#[test]
fn an_instance_whose_way_to_the_store_is_silent_does_not_say_that_an_order_is_unknown() {
    let Some(database) = Database::create() else { return };
    let proxy = Proxy::start(&database);
    let (through, direct) = (proxy.url(), database.url());
    let server = Server::start(&["--postgres", &through, "--profile", "lenient"]);
    server.post("/orders", r#"{"order_uid":"known"}"#).expect(201);
    until("it is alone", LONG, || is_complete(&server));
    server.get("/order/other").expect(404);
    proxy.silence();
    let other = Server::start(&["--postgres", &direct, "--profile", "lenient"]);
    other.post("/orders", r#"{"order_uid":"other"}"#).expect(201);
    until("it knows that it does not know", LONG, || (stats(&server)["view_complete"] == false).then_some(()));
    // Whatever is remembered of the time before is forgotten by now.
    server.get("/order/other").expect(503);
    server.get("/order/known").expect(200);
    assert!(stats(&server)["store_silent_seconds"].as_u64().unwrap() >= 2);
    assert!(server.metric("store_silent_seconds") >= 2.0);
    server.get("/readyz").expect(200);
    // Longer than a look waits on a connection, and than reads wait for connections.
    until("the silence is long", LONG, || {
        server.get("/order/other").expect(503);
        (stats(&server)["store_silent_seconds"].as_u64().unwrap() >= 8).then_some(())
    });
    proxy.resume();
    until("it reads what the other one stored", LONG, || (server.get("/order/other").status == 200).then_some(()));
    until("it hears the store", LONG, || (stats(&server)["store_silent_seconds"] == 0).then_some(()));
    drop(other);
    until("it is alone again", LONG, || is_complete(&server));
}

#[test]
fn a_server_that_is_held_still_makes_readers_unready_only_where_that_is_asked_for() {
    let Some(postgres) = Private::postgres() else { return };
    let database = Database::create_on(postgres.url());
    let url = database.url();
    let flags = ["--postgres", url.as_str(), "--profile", "lenient"];
    let reader = Server::start(&flags);
    let strict = Server::start(&[&flags[..], &["--ready-needs-store", "yes"]].concat());
    reader.post("/orders", r#"{"order_uid":"known"}"#).expect(201);
    until("both show it", LONG, || (strict.get("/order/known").status == 200).then_some(()));
    postgres.pause();
    let reason = until("it is not ready", LONG, || {
        let reply = strict.get("/readyz");
        (reply.status == 503).then(|| reply.text().to_owned())
    });
    assert!(reason.contains("postgres: the store does not answer"), "{reason}");
    strict.get("/order/known").expect(200);
    until("the other one noticed too", LONG, || {
        (reader.metric("store_silent_seconds") > Duration::from_secs(3).as_secs_f64()).then_some(())
    });
    reader.get("/readyz").expect(200);
    reader.get("/order/unknown").expect(503);
    postgres.resume();
    strict.wait_ready();
    until("an unknown id is unknown again", LONG, || (reader.get("/order/unknown").status == 404).then_some(()));
}

/// Reads that had given up kept their connections for as long as the lock was held, and the next ones were told of a
/// library's time-out.
#[test]
fn reads_that_wait_for_a_lock_end_in_time_and_say_what_they_wait_for() {
    let Some(database) = Database::create() else { return };
    let url = database.url();
    let flags = ["--postgres", url.as_str(), "--profile", "lenient", "--postgres-readers-max", "2"];
    let server = Server::start(&flags);
    server.post("/orders", r#"{"order_uid":"a"}"#).expect(201);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let client = runtime.block_on(database.client());
    // Another instance is there, so an unknown id is looked for in the store.
    let _other = runtime.block_on(async {
        let other = database.store();
        other.heartbeat().await.unwrap();
        other
    });
    runtime.block_on(client.batch_execute("BEGIN; LOCK TABLE orders IN ACCESS EXCLUSIVE MODE")).unwrap();
    until("the view does not hold all", LONG, || (stats(&server)["view_complete"] == false).then_some(()));
    std::thread::scope(|scope| {
        for n in 0..12 {
            let server = &server;
            scope.spawn(move || {
                let reply = server.get(&format!("/order/unknown-{n}")).expect(503);
                assert!(reply.text().contains("store") && !reply.text().contains("bb8"), "{}", reply.text());
            });
        }
    });
    let waiting =
        "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'
                   AND query LIKE '%WHERE order_uid = $1'";
    until("the server goes on with none of them", LONG, || (database.query(waiting) == ["0"]).then_some(()));
    assert!(!server.log().join("\n").contains("bb8"), "{:?}", server.log());
    server.get("/order/a").expect(200);
    runtime.block_on(client.batch_execute("ROLLBACK")).unwrap();
    until("it reads again", LONG, || (server.get("/order/unknown-0").status == 404).then_some(()));
}

#[tokio::test]
async fn a_read_says_that_the_server_is_slow_or_a_table_locked() {
    let Some(database) = Database::create() else { return };
    let mut config = database.config();
    config.readers_max = 1;
    let (patient, mut hasty) = (database.store(), config.clone());
    patient.commit(batch([wb("a", 1)])).await.unwrap();
    let client = database.client().await;
    hasty.wait = Duration::from_secs(3);
    let store = Postgres::new(hasty);
    assert!(until_read(&store).await);
    client.batch_execute("BEGIN; LOCK TABLE orders IN ACCESS EXCLUSIVE MODE").await.unwrap();
    // One has the connection, and the other waits for it.
    let (one, other) = tokio::join!(store.fetch(id("a")), store.fetch(id("a")));
    for error in [one.unwrap_err(), other.unwrap_err()] {
        let StoreError::Unavailable(cause) = error else { panic!("{error:?}") };
        assert!(cause.to_string().contains("waits for a lock"), "{cause}");
    }
    client.batch_execute("ROLLBACK").await.unwrap();
    assert!(until_read(&store).await);
}

/// Whether it reads in the end: a slow machine may take its time for a connection.
async fn until_read(store: &Postgres) -> bool {
    let read = async {
        while store.fetch(id("a")).await.is_err() {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(LONG, read).await.is_ok()
}
