//! What the instances on one store tell each other, and what they tell workers. The way out of a
//! committed batch is [`outbox`], then `relay`, then a topic; the way in is [`follow`], which asks
//! the store, and `bus`, which reads the topics. [`wire`] is the one place that knows what a message
//! looks like. [`worker`] is the other end of an event.

#[cfg(feature = "kafka")]
pub mod bus;
pub mod follow;
#[cfg(feature = "kafka")]
mod health;
#[cfg(feature = "kafka")]
mod metrics;
#[cfg(feature = "kafka")]
mod older_workers;
pub mod outbox;
#[cfg(feature = "kafka")]
pub mod relay;
#[cfg(feature = "kafka")]
mod topic_watch;
pub mod wire;
pub mod worker;

use tokio::sync::oneshot;

#[cfg(feature = "kafka")]
use crate::kafka::tail::Tail;
use crate::source::inbox::InboxSource;
use crate::source::waiters::Acks;
use follow::News;
#[cfg(feature = "kafka")]
pub use metrics::OutboxMetrics;
use outbox::Outbox;

/// What an instance publishes and follows. Empty without Kafka.
#[derive(Default)]
pub struct Bus {
    /// For what comes from other sources than HTTP.
    pub outbox: Option<Outbox>,
    /// For what comes over HTTP, of which workers are told.
    pub http_outbox: Option<Outbox>,
    /// Writes that wait for a worker.
    pub acks: Option<Acks>,
    /// What workers of the older services have acknowledged, to be marked as done.
    pub marks: Option<InboxSource>,
    /// What other instances publish.
    pub news: News,
    /// Told once everything that was committed is published, or cannot be now.
    pub relayed: Option<oneshot::Receiver<()>>,
    /// The topics that are read, until this is dropped.
    #[cfg(feature = "kafka")]
    pub tails: Vec<Tail>,
}
