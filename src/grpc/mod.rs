//! gRPC: the same reader and the same inbox as HTTP's, behind tonic. Owns the `.proto` files, what a call may take, and
//! the mapping of outcomes to status codes. Knows no order: an answer's fields are read off the stored body.

mod begun;
pub mod conn;
mod deadline;
mod metrics;
mod model;
mod orders;
pub mod settings;
mod status;

use std::sync::Arc;
use std::time::Duration;

use tonic::codec::CompressionEncoding;
use tonic_health::ServingStatus;
use tonic_health::server::{HealthReporter, health_reporter};

use crate::access::Access;
use crate::listen::{Endpoint, Listener};
use crate::process::lifecycle::{Readiness, Shutdown};
use conn::{Door, Routes};
pub use metrics::GrpcMetrics;
pub use orders::Orders;
use proto::service::v1::orders_service_server::{OrdersServiceServer, SERVICE_NAME};

/// What the `.proto` files become; `tests/grpc.rs` holds one against the other.
pub mod proto {
    #![allow(missing_docs, unused_qualifications, clippy::all, clippy::pedantic, reason = "generated")]

    /// `orders.models`
    pub mod models {
        /// `orders.models.v1`
        pub mod v1 {
            include!("generated/orders.models.v1.rs");
        }
    }
    /// `orders.service`
    pub mod service {
        /// `orders.service.v1`
        pub mod v1 {
            include!("generated/orders.service.v1.rs");
        }
    }
    /// Both files as reflection tells them.
    pub(super) const DESCRIPTORS: &[u8] = include_bytes!("generated/orders.bin");
}

/// What a message has beyond the order in it: ids, names of fields, lengths.
const MESSAGE_SLACK_BYTES: usize = 4096;
/// How late the health service may notice that readiness has changed.
const HEALTH_TIME: Duration = Duration::from_millis(100);

/// Whether and how the service answers gRPC.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where to answer; nowhere when `None`.
    pub listen: Option<Endpoint>,
    /// Connections at once; the next ones wait. A client of gRPC needs one, whatever it asks.
    pub connections_max: u32,
    /// Calls of one connection at once; the client holds back the next ones.
    pub streams_max: u32,
    /// A connection without a call for this long is closed. Clients open the next one by themselves.
    pub idle_time: Duration,
}

impl Default for Config {
    fn default() -> Self {
        Self { listen: None, connections_max: 1000, streams_max: 100, idle_time: Duration::from_mins(5) }
    }
}

/// What one call may take: the limits of HTTP, which hold here too.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Bytes of one order.
    pub order_bytes_max: usize,
    /// Time for a request to arrive.
    pub body_time: Duration,
    /// How long a write waits to become durable.
    pub write_wait: Duration,
    /// How long a write waits for a worker to process it. It is durable before that.
    pub worker_wait: Duration,
}

impl Limits {
    /// No call takes longer, whatever its client allows.
    fn call_time(&self) -> Duration {
        self.body_time + self.write_wait + self.worker_wait
    }
}

/// Answers on `listener` until `shutdown`, then finishes what is being answered and returns. Anyone who calls this bounds
/// how long that may take.
pub async fn serve(
    config: Config,
    orders: Orders,
    access: Arc<Access>,
    metrics: GrpcMetrics,
    readiness: Readiness,
    listener: Listener,
    shutdown: Shutdown,
) {
    let (health, health_server) = health_reporter();
    // It starts out as serving, which is not known yet.
    tell(&health, false).await;
    let watching = tokio::spawn(watch(health, readiness));
    let (limits, inbox) = (orders.limits().clone(), orders.inbox().clone());
    let message_bytes_max = limits.order_bytes_max.saturating_add(MESSAGE_SLACK_BYTES);
    let orders = OrdersServiceServer::new(orders)
        .max_decoding_message_size(message_bytes_max)
        .accept_compressed(CompressionEncoding::Gzip);
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(proto::DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
    };
    let routes = Routes::default()
        .and(orders)
        .and(health_server)
        .and(reflection().build_v1().expect("descriptors the build has made"))
        .and(reflection().build_v1alpha().expect("descriptors the build has made"));
    let door = Door::new(routes, access, inbox, metrics.calls, limits.call_time());
    conn::accept(Arc::new(config), door, listener, shutdown).await;
    watching.abort();
}

/// Has the health service say what `/readyz` does. Never returns.
async fn watch(health: HealthReporter, readiness: Readiness) {
    let mut was_ready = false;
    let mut tick = tokio::time::interval(HEALTH_TIME);
    loop {
        tick.tick().await;
        let is_ready = readiness.reasons().is_empty();
        if is_ready != was_ready {
            tell(&health, is_ready).await;
            was_ready = is_ready;
        }
    }
}

async fn tell(health: &HealthReporter, is_ready: bool) {
    let status = if is_ready { ServingStatus::Serving } else { ServingStatus::NotServing };
    // The empty name is the process as a whole.
    for service in ["", SERVICE_NAME] {
        health.set_service_status(service, status).await;
    }
}
