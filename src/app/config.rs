//! Everything that can be set, with its defaults.

use std::time::Duration;

use crate::listen::Endpoint;
use crate::process::log;
use crate::source::inbox;
use crate::store::any;
use crate::{access, cache, grpc, http, ingest, order, read, tls};

/// Everything that can be set.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where and how HTTP is answered.
    pub http: http::Config,
    /// Whether and how gRPC is answered.
    pub grpc: grpc::Config,
    /// Who is let in to what.
    pub access: access::Config,
    /// Where else metrics and health are answered.
    pub admin: Option<Endpoint>,
    /// The certificate of listeners with TLS.
    pub tls: Option<tls::server::Config>,
    /// The view.
    pub cache: cache::Config,
    /// Reads that miss the view.
    pub read: read::Config,
    /// Validation and batches.
    pub ingest: ingest::Config,
    /// The queue behind HTTP.
    pub inbox: inbox::Config,
    /// Where orders come from other than HTTP.
    #[cfg(feature = "kafka")]
    pub kafka: Option<crate::kafka::Config>,
    /// The second-level cache, for reads that miss the view.
    pub redis: Option<crate::redis::Config>,
    /// The NATS stream that orders also come from.
    pub nats: Option<crate::nats::Config>,
    /// The NATS Streaming channel that orders come from.
    pub stan: Option<crate::stan::Config>,
    /// Where orders are durable.
    pub store: any::Config,
    /// Generated orders to start with when the store is empty.
    pub sample: u64,
    /// Threads that serve requests; as many as there are cores when `None`.
    pub threads: Option<usize>,
    /// How they share the connections.
    pub runtime: Runtime,
    /// Whether memory may be in huge pages.
    pub huge_pages: bool,
    /// Whether an instance is ready only while its store answers.
    pub ready_needs_store: bool,
    /// Graceful shutdown timeout.
    pub grace: Duration,
    /// How log lines look.
    pub log: log::Format,
    /// Which log lines are written.
    pub log_filter: String,
}

/// How threads that serve HTTP share its connections.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Runtime {
    /// Whichever thread is free takes what comes next.
    #[default]
    Shared,
    /// Each has a core, and connections that stay with it.
    PerCore,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            http: http::Config::default(),
            grpc: grpc::Config::default(),
            access: access::Config::default(),
            admin: None,
            tls: None,
            cache: cache::Config { key_of: Some(order::external_key), ..cache::Config::default() },
            read: read::Config::default(),
            ingest: ingest::Config::default(),
            inbox: inbox::Config::default(),
            #[cfg(feature = "kafka")]
            kafka: None,
            redis: None,
            nats: None,
            stan: None,
            store: any::Config::default(),
            sample: 0,
            threads: None,
            runtime: Runtime::default(),
            huge_pages: false,
            ready_needs_store: false,
            grace: Duration::from_secs(30),
            log: log::Format::default(),
            log_filter: "info".into(),
        }
    }
}
