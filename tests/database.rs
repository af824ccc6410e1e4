//! A database of its own for each test, on the PostgreSQL server that all tests share.

use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use order_service::store::postgres::{Config, Postgres};
use tokio_postgres::{Client, NoTls};

use crate::servers;

/// An empty database; dropped with this.
pub struct Database {
    server: String,
    name: String,
}

impl Database {
    /// `None` where there is no server to be had.
    pub fn create() -> Option<Self> {
        servers::postgres().map(|server| Self::create_on(&server))
    }

    /// On a server of the test's own.
    pub fn create_on(server: &str) -> Self {
        static MADE: AtomicU32 = AtomicU32::new(0);
        let name = format!("t_{}_{}", std::process::id(), MADE.fetch_add(1, Ordering::Relaxed));
        let database = Self { server: server.to_owned(), name };
        database.on_server(&format!("CREATE DATABASE {}", database.name));
        database
    }

    /// Its URL.
    pub fn url(&self) -> String {
        let (server, _) = self.server.rsplit_once('/').unwrap();
        format!("{server}/{}", self.name)
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The settings of a store on it.
    pub fn config(&self) -> Config {
        config(&self.url())
    }

    /// A store on it.
    pub fn store(&self) -> Postgres {
        Postgres::new(self.config())
    }

    /// A connection beside the store's own.
    pub async fn client(&self) -> Client {
        let (client, connection) = tokio_postgres::connect(&self.url(), NoTls).await.unwrap();
        tokio::spawn(connection);
        client
    }

    /// The first column of the rows of a query, as text, from a test that is not async.
    pub fn query(&self, sql: &str) -> Vec<String> {
        run(&self.url(), sql)
    }

    fn on_server(&self, sql: &str) {
        run(&self.server, sql);
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        let (server, sql) = (self.server.clone(), format!("DROP DATABASE IF EXISTS {} WITH (FORCE)", self.name));
        // Tests may be async, and the server may be gone by now.
        let _ = std::thread::spawn(move || std::panic::catch_unwind(|| run(&server, &sql))).join();
    }
}

fn run(url: &str, sql: &str) -> Vec<String> {
    let (url, sql) = (url.to_owned(), sql.to_owned());
    std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let (client, connection) = tokio_postgres::connect(&url, NoTls).await.unwrap();
            tokio::spawn(connection);
            let messages = client.simple_query(&sql).await.unwrap();
            let value = |message| match message {
                tokio_postgres::SimpleQueryMessage::Row(row) => Some(row.get(0).unwrap_or("NULL").to_owned()),
                _ => None,
            };
            messages.into_iter().filter_map(value).collect()
        })
    })
    .join()
    .unwrap()
}

/// The settings of a store that is asked by a test itself, which does not try again: a slow machine may take its time
/// for a connection.
pub fn config(url: &str) -> Config {
    let mut config = Config::parse(url).unwrap();
    config.wait = Duration::from_mins(1);
    config
}
