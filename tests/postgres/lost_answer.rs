//! The connection dies while COMMIT is under way, before or after the server got it. Through a proxy that cuts.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};

use order_service::store::postgres::{Config, Postgres};
use order_service::store::{Outcome, Store, StoreError};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};

use super::{id, moved, wb};
use crate::database::Database;

/// What the proxy does with the next COMMIT.
const PASS: u8 = 0;
const CUT_BEFORE: u8 = 1;
const CUT_AFTER: u8 = 2;

/// Forwards to the server until it meets a COMMIT it is to cut at.
async fn proxy(server: SocketAddr, mode: Arc<AtomicU8>) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((client, _)) = listener.accept().await {
            let upstream = TcpStream::connect(server).await.unwrap();
            tokio::spawn(forward(client, upstream, Arc::clone(&mode)));
        }
    });
    address
}

async fn forward(client: TcpStream, server: TcpStream, mode: Arc<AtomicU8>) {
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let answers = tokio::spawn(async move { tokio::io::copy(&mut from_server, &mut to_client).await });
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
        if is_commit && mode.compare_exchange(CUT_AFTER, PASS, Ordering::SeqCst, Ordering::SeqCst).is_ok() {
            answers.abort(); // the answer goes nowhere
            let _ = answers.await;
            to_server.write_all(&buffer[..read]).await.unwrap();
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
            return;
        }
        if to_server.write_all(&buffer[..read]).await.is_err() {
            return;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_outcome_of_a_lost_commit_is_asked_for_not_guessed() {
    let Some(database) = Database::create() else { return };
    let mode = Arc::new(AtomicU8::new(PASS));
    let url = database.url();
    let (_, place) = url.split_once('@').unwrap();
    let (server, name) = place.split_once('/').unwrap();
    let through = proxy(server.parse().unwrap(), Arc::clone(&mode)).await;
    let store = Postgres::new(Config::parse(&format!("postgres://postgres@{through}/{name}")).unwrap());
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
