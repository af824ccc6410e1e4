//! A hot standby: it answers reads, and takes writes once it is promoted.

use order_service::store::postgres::{Config, Postgres};
use order_service::store::{Store, StoreError};

use super::{LONG, batch, id, wb};
use crate::database::Database;
use crate::servers::Private;

/// Reads answered 503 there, because each of their connections made a temporary table.
#[tokio::test]
async fn a_hot_standby_answers_reads_and_takes_writes_once_it_is_promoted() {
    let Some(servers) = Private::postgres_with_standby() else { return };
    let (primary, standby) = servers.url().split_once(' ').unwrap();
    let database = Database::create_on(primary);
    database.store().commit(batch([wb("a", 1), wb("b", 2)])).await.unwrap();
    let (server, _) = standby.rsplit_once('/').unwrap();
    let url = format!("{server}/{}", database.name());
    let store = Postgres::new(Config::parse(&url).unwrap());
    // It follows the primary a little later.
    let read = tokio::time::timeout(LONG, async {
        loop {
            match store.fetch(id("b")).await {
                Ok(Some(read)) => return read,
                Ok(None) | Err(StoreError::Unavailable(_)) => tokio::task::yield_now().await,
                Err(error) => panic!("{error:?}"),
            }
        }
    });
    assert_eq!(read.await.expect("the standby answers reads").version(), 1);
    assert_eq!(store.page(None, 10).await.unwrap().len(), 2);
    assert_eq!(store.scan(|_| {}).await.unwrap(), 2);
    assert_eq!(store.missing_rights().await.unwrap(), None);
    let error = store.commit(batch([wb("c", 3)])).await.unwrap_err();
    assert!(matches!(error, StoreError::Unavailable(_)), "it may be promoted: {error:?}");
    let (client, connection) = tokio_postgres::connect(&url, tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    client.execute("SELECT pg_promote()", &[]).await.unwrap();
    let written = tokio::time::timeout(LONG, async {
        while let Err(error) = store.commit(batch([wb("c", 3)])).await {
            assert!(matches!(error, StoreError::Unavailable(_)), "{error:?}");
        }
    });
    written.await.expect("the promoted standby takes writes");
    assert_eq!(store.fetch(id("c")).await.unwrap().unwrap().version(), 1);
}
