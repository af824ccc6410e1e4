//! NATS Streaming, the predecessor of JetStream: protobuf messages over plain NATS. How a cluster
//! is reached, its protocol (`protocol`), and a client's session with it (`session`). Knows no
//! message's content.

pub mod protocol;
pub mod session;
pub mod settings;

use std::time::Duration;

use crate::nats;

/// Where a cluster is, and what is read from and written to it.
#[derive(Debug, Clone)]
pub struct Config {
    /// The NATS servers through which the cluster is reached.
    pub servers: nats::Config,
    /// The name of the cluster.
    pub cluster: String,
    /// The name of this client, of which the cluster lets one in at a time.
    pub client: String,
    /// The channel that orders come from.
    pub subject: String,
    /// The subscription, which outlives this process.
    pub durable: String,
    /// The channel that invalid messages go to.
    pub dlq_subject: String,
    /// How long the server waits for an acknowledgement before it delivers again. It counts whole
    /// seconds.
    pub ack_wait: Duration,
    /// Messages received and not yet durable. The server delivers no more.
    pub in_flight_max: usize,
    /// Messages behind at which the service still counts as ready.
    pub lag_max: u64,
}

impl Config {
    /// The default settings for a cluster behind these servers: see [`nats::Config::new`].
    ///
    /// # Errors
    /// Says which part is no URL of a server. Never repeats a password.
    pub fn new(urls: &str) -> Result<Self, String> {
        Ok(Self {
            servers: nats::Config::new(urls)?,
            cluster: "test-cluster".into(),
            client: "order-service".into(),
            subject: "orders".into(),
            durable: "order-service-durable".into(),
            dlq_subject: "orders.dlq".into(),
            ack_wait: Duration::from_secs(30),
            in_flight_max: 4096,
            lag_max: 10_000,
        })
    }
}
