//! HTTP/1.1 and HTTP/2 on bare hyper: listeners, connections, and the way from a request to its
//! answer.

pub mod accept;
mod assets;
pub mod body;
pub mod conditions;
pub mod conn;
mod door;
pub mod etag;
pub mod events;
pub mod gate;
pub mod get;
pub mod get_many;
pub mod hit;
pub mod host;
mod http2;
pub mod list;
mod metrics;
pub mod page;
pub mod paging;
pub mod query;
pub mod refusal;
pub mod request;
pub mod respond;
pub mod route;
mod server;
mod service;
pub mod settings;
mod socket;
pub mod stats;
pub mod transport;
pub mod write;

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use hyper::header::HeaderValue;
use tokio::sync::Semaphore;

use crate::access::Access;
use crate::listen::Endpoint;
use crate::metrics::Metrics;
use crate::process::lifecycle::{Readiness, Shutdown};
use crate::read::Reader;
use crate::source::inbox::Inbox;
use conn::Limits;

pub use metrics::HttpMetrics;
pub use server::Server;

/// Pages of every origin may read.
const ANY_ORIGIN: HeaderValue = HeaderValue::from_static("*");

/// How the service answers HTTP, with limits a public server can live with.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where to answer.
    pub listen: Vec<Endpoint>,
    /// Connections at once; the next ones wait while the longest idle are closed.
    pub connections_max: usize,
    /// Bytes of a request's head. A thousand UUIDs in `?ids=` are 37,000.
    pub header_bytes_max: usize,
    /// Header fields of a request.
    pub headers_max: usize,
    /// Time limits of connections.
    pub limits: Limits,
    /// Bytes of one order.
    pub order_bytes_max: usize,
    /// Bytes of one answer that has several orders.
    pub answer_bytes_max: usize,
    /// Time for a request's body, or for the next piece of a streamed one.
    pub body_time: Duration,
    /// How long a write waits to become durable before its client is told to try again.
    pub write_wait: Duration,
    /// How long a write waits for a worker to process it. It is durable before that.
    pub worker_wait: Duration,
    /// Event streams at once.
    pub streams_max: usize,
    /// How often an event stream says that it is alive.
    pub heartbeat: Duration,
    /// Origins whose pages may read; `*` is all of them, and none are none.
    pub cors_origins: Vec<HeaderValue>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: vec![Endpoint::Tcp(SocketAddr::from(([127, 0, 0, 1], 8080)))],
            connections_max: 20_000,
            header_bytes_max: 64 << 10,
            headers_max: server::HEADERS_MAX,
            limits: Limits::default(),
            order_bytes_max: 1 << 20,
            answer_bytes_max: 64 << 20,
            body_time: Duration::from_secs(20),
            write_wait: Duration::from_secs(10),
            worker_wait: Duration::from_secs(5),
            streams_max: 2000,
            heartbeat: Duration::from_secs(15),
            cors_origins: vec![ANY_ORIGIN],
        }
    }
}

/// What answers need.
pub struct Api {
    /// How the service answers.
    pub config: Config,
    /// Looks orders up.
    pub reader: Reader,
    /// Takes orders in.
    pub inbox: Inbox,
    /// Counts.
    pub metrics: HttpMetrics,
    /// What `/metrics` shows.
    pub families: Metrics,
    /// Who is let in to what.
    pub access: Arc<Access>,
    /// Whether the process is ready.
    pub readiness: Readiness,
    /// Ends event streams.
    pub shutdown: Shutdown,
    /// Turns for event streams.
    pub streams: Arc<Semaphore>,
    /// Room for results of many writes that their clients do not read yet, in bytes.
    pub results: Arc<Semaphore>,
    /// Tells this process's event positions and list tags from those of others.
    pub epoch: String,
    /// When the process started.
    pub started: Instant,
    /// An answer depends on the page that asks for it.
    varies_by_origin: bool,
}

impl Api {
    /// Everything together. Registers what HTTP counts among `families`, which takes one of these.
    #[must_use]
    pub fn new(
        config: Config,
        reader: Reader,
        inbox: Inbox,
        families: Metrics,
        readiness: Readiness,
        shutdown: Shutdown,
    ) -> Self {
        let streams = Arc::new(Semaphore::new(config.streams_max));
        let results = Arc::new(Semaphore::new(write::RESULTS_BYTES_MAX));
        let epoch = format!("{:08x}", fastrand::u32(..));
        let varies_by_origin = !config.cors_origins.is_empty() && !config.cors_origins.contains(&ANY_ORIGIN);
        let started = Instant::now();
        let access = Access::open();
        Self {
            config,
            reader,
            inbox,
            metrics: HttpMetrics::register(&families),
            families,
            access,
            readiness,
            shutdown,
            streams,
            results,
            epoch,
            started,
            varies_by_origin,
        }
    }

    /// Lets in who this says.
    #[must_use]
    pub fn with_access(self, access: Arc<Access>) -> Self {
        Self { access, ..self }
    }
}
