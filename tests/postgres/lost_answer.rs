//! The connection dies while COMMIT is under way, before or after the server got it. Through a proxy that cuts.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};
use std::time::Duration;

use order_service::store::postgres::Postgres;
use order_service::store::{Outcome, Store, StoreError};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;

use super::{LONG, batch, id, moved, wb};
use crate::database::{Database, config};

/// What the proxy does with the next COMMIT.
const PASS: u8 = 0;
const CUT_BEFORE: u8 = 1;
const CUT_AFTER: u8 = 2;
const CUT_AND_STAY_AWAY: u8 = 3;
const AWAY: u8 = 4;

/// Forwards to the server until it meets a COMMIT it is to cut at.
async fn proxy(server: SocketAddr, mode: Arc<AtomicU8>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            if mode.load(Ordering::SeqCst) == AWAY {
                continue;
            }
            let upstream = TcpStream::connect(server).await.unwrap();
            tokio::spawn(forward(client, upstream, Arc::clone(&mode)));
        }
    });
    address
}

async fn forward(client: TcpStream, server: TcpStream, mode: Arc<AtomicU8>) {
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    // Once this is set, answers go nowhere.
    let is_lost = Arc::new(AtomicBool::new(false));
    let (lost, mut losses) = mpsc::channel(1);
    let answers = tokio::spawn({
        let is_lost = Arc::clone(&is_lost);
        async move {
            let mut buffer = vec![0; 1 << 16];
            while let Ok(read @ 1..) = from_server.read(&mut buffer).await {
                if is_lost.load(Ordering::SeqCst) {
                    let _ = lost.send(()).await; // one is enough
                    return;
                }
                if to_client.write_all(&buffer[..read]).await.is_err() {
                    return;
                }
            }
        }
    });
    let mut buffer = vec![0; 1 << 16];
    loop {
        let read = from_client.read(&mut buffer).await.unwrap_or(0);
        if read == 0 {
            return;
        }
        let is_commit = buffer[..read].windows(7).any(|window| window == b"COMMIT\0");
        if is_commit && mode.compare_exchange(CUT_BEFORE, PASS, Ordering::SeqCst, Ordering::SeqCst).is_ok() {
            answers.abort();
            return; // dropping both ends closes both
        }
        if is_commit && mode.compare_exchange(CUT_AND_STAY_AWAY, AWAY, Ordering::SeqCst, Ordering::SeqCst).is_ok() {
            answers.abort();
            return;
        }
        if is_commit && mode.compare_exchange(CUT_AFTER, PASS, Ordering::SeqCst, Ordering::SeqCst).is_ok() {
            is_lost.store(true, Ordering::SeqCst);
            to_server.write_all(&buffer[..read]).await.unwrap();
            losses.recv().await.expect("the server answers");
            return;
        }
        if to_server.write_all(&buffer[..read]).await.is_err() {
            return;
        }
    }
}

/// A store behind a proxy.
async fn behind_proxy(database: &Database) -> (Postgres, Arc<AtomicU8>) {
    let mode = Arc::new(AtomicU8::new(PASS));
    let url = database.url();
    let (_, place) = url.split_once('@').unwrap();
    let (server, name) = place.split_once('/').unwrap();
    let through = proxy(server.parse().unwrap(), Arc::clone(&mode)).await;
    (Postgres::new(config(&format!("postgres://postgres@{through}/{name}"))), mode)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_that_was_lost_is_not_taken_for_stored_because_someone_else_went_on() {
    let Some(database) = Database::create() else { return };
    let (store, mode) = behind_proxy(&database).await;
    store.commit(moved(0, 1, [wb("a", 1)])).await.unwrap();
    mode.store(CUT_AND_STAY_AWAY, Ordering::SeqCst);
    let batch = moved(1, 2, [wb("a", 2)]);
    let (cut, asked) = (store.clone(), Arc::clone(&batch));
    let lost = tokio::spawn(async move { cut.commit(asked).await });
    tokio::time::timeout(LONG, async {
        while mode.load(Ordering::SeqCst) != AWAY {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
    .unwrap();
    // Another process takes the partition over, reads the same message and the next one, and stores the newer.
    database.store().commit(moved(1, 3, [wb("a", 3)])).await.unwrap();
    mode.store(PASS, Ordering::SeqCst);
    let error = lost.await.unwrap().unwrap_err();
    assert!(matches!(error, StoreError::Unavailable(_)), "{error:?}");
    assert!(matches!(store.commit(batch).await, Err(StoreError::Fenced { partition: 3 })));
    let stored = store.fetch(id("a")).await.unwrap().unwrap();
    assert!(String::from_utf8_lossy(&stored.flat().whole()).contains("\"n\":3"));
}

#[tokio::test(flavor = "multi_thread")]
async fn the_outcome_of_a_lost_commit_is_asked_for_not_guessed() {
    let Some(database) = Database::create() else { return };
    let (store, mode) = behind_proxy(&database).await;
    store.commit(moved(0, 1, [wb("a", 1)])).await.unwrap();

    // The server got it: the batch is stored, once, and the outcomes are those of the try whose answer was lost.
    mode.store(CUT_AFTER, Ordering::SeqCst);
    let outcomes = store.commit(moved(1, 2, [wb("a", 2), wb("b", 1)])).await.unwrap();
    assert!(outcomes.iter().all(|outcome| matches!(outcome, Outcome::Stored { .. })), "{outcomes:?}");
    assert_eq!(store.fetch(id("a")).await.unwrap().unwrap().version(), 2);
    assert_eq!(store.positions("test".into()).await.unwrap().next(3), 2);

    // The server did not: nothing is stored, and the same batch goes through when it is tried again.
    mode.store(CUT_BEFORE, Ordering::SeqCst);
    let batch = moved(2, 3, [wb("a", 3), wb("c", 1)]);
    let error = store.commit(Arc::clone(&batch)).await.unwrap_err();
    assert!(matches!(error, StoreError::Unavailable(_)), "{error:?}");
    assert_eq!(store.fetch(id("a")).await.unwrap().unwrap().version(), 2);
    let outcomes = store.commit(batch).await.unwrap();
    assert_eq!(
        outcomes.iter().filter_map(Outcome::visible).map(|(_, copy, _)| copy.version()).collect::<Vec<_>>(),
        [3, 1]
    );
    assert_eq!(mode.load(Ordering::SeqCst), PASS, "both cuts happened");
}

#[tokio::test(flavor = "multi_thread")]
async fn that_the_number_of_a_lost_transaction_was_committed_is_no_proof() {
    let Some(database) = Database::create() else { return };
    // After a crash the server hands the numbers of lost transactions out again, and says of them what became of their
    // second owners. Here it says so of every one.
    for sql in [
        "CREATE FUNCTION pg_xact_status(xid8) RETURNS text LANGUAGE sql AS $$ SELECT 'committed' $$".to_owned(),
        format!("ALTER DATABASE {} SET search_path = public, pg_catalog", database.name()),
    ] {
        database.query(&sql);
    }
    assert_eq!(database.query("SELECT pg_xact_status('999999999'::xid8)"), ["committed"]);
    let (store, mode) = behind_proxy(&database).await;
    store.commit(moved(0, 1, [wb("a", 1)])).await.unwrap();
    for batch in [moved(1, 2, [wb("a", 2)]), batch([wb("a", 2)])] {
        mode.store(CUT_BEFORE, Ordering::SeqCst);
        let error = store.commit(batch).await.unwrap_err();
        assert!(matches!(error, StoreError::Unavailable(_)), "{error:?}");
        assert_eq!(mode.load(Ordering::SeqCst), PASS, "the cut happened");
        assert_eq!(store.fetch(id("a")).await.unwrap().unwrap().version(), 1);
        assert_eq!(store.positions("test".into()).await.unwrap().next(3), 1);
    }
    // Nothing stands in the way of another try.
    store.commit(moved(1, 2, [wb("a", 2)])).await.unwrap();
    assert_eq!(store.fetch(id("a")).await.unwrap().unwrap().version(), 2);
}
