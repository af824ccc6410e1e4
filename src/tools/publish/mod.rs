//! `publish`: sample orders, or those of a file, to a running service or to the topic it reads.

mod documents;
mod http;
#[cfg(feature = "kafka")]
mod kafka;
pub mod nats;
pub mod stan;

use std::path::PathBuf;
use std::time::Duration;

use super::client::Server;
#[cfg(feature = "kafka")]
use super::cluster::Cluster;

/// Which sample orders.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// WB orders.
    Wb,
    /// Requests to create envelope orders.
    Envelope,
}

/// Where orders go to.
#[derive(Debug, Clone)]
pub enum Target {
    /// `POST /orders`, one request an order.
    Http {
        /// The service.
        server: Server,
        /// Connections at once.
        connections: usize,
    },
    /// The topic that the service takes orders from, keyed by their ids.
    #[cfg(feature = "kafka")]
    Kafka(Box<Cluster>),
    /// The NATS subject that the service takes orders from.
    Nats(Box<nats::Servers>),
    /// The channel of NATS Streaming that the service takes orders from.
    Stan(Box<stan::Cluster>),
}

/// What to publish, where to and how fast.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where to.
    pub target: Target,
    /// How many sample orders; all of the file when there is one.
    pub count: u64,
    /// Orders per second; as fast as they are taken when `None`.
    pub rate: Option<f64>,
    /// The share of orders, from 0 to 1, that are made invalid on purpose.
    pub invalid: f64,
    /// Orders of a file instead of samples; `-` is standard input.
    pub file: Option<PathBuf>,
    /// Which samples, and which of them are invalid.
    pub seed: u64,
    /// Which kind of samples.
    pub kind: Kind,
    /// How long an order is tried to be sent while the service refuses, hangs up or is full.
    pub patience: Duration,
}

/// What became of the orders.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Summary {
    /// Stored for the first time.
    pub created: u64,
    /// Stored before, changed or not.
    pub updated: u64,
    /// Made invalid on purpose, and said to be so.
    pub rejected: u64,
    /// In Kafka, on every replica in sync, in a stream of NATS, or in a channel of NATS Streaming.
    /// What becomes of them there is up to who reads them.
    pub sent: u64,
    /// Not answered, rejected though meant to be valid, stored though made invalid, or not stored for another reason.
    pub failed: u64,
}

/// Publishes.
///
/// # Errors
/// When the input cannot be read, when no one is there any more to send to, or when an order that should have been
/// stored was not.
pub async fn run(config: Config) -> anyhow::Result<Summary> {
    match config.target.clone() {
        Target::Http { server, connections } => http::run(config, server, connections).await,
        #[cfg(feature = "kafka")]
        Target::Kafka(cluster) => tokio::task::spawn_blocking(move || kafka::run(config, &cluster)).await?,
        Target::Nats(servers) => nats::run(config, *servers).await,
        Target::Stan(cluster) => stan::run(config, *cluster).await,
    }
}

impl Summary {
    /// One line.
    #[must_use]
    pub fn text(&self) -> String {
        let Self { created, updated, rejected, sent: _, failed } = self;
        format!("{created} created, {updated} updated, {rejected} rejected, {failed} failed")
    }
}
