//! Orders from a channel of NATS Streaming. A thread of its own runs the consumer (`consumer`);
//! this side is what the ingest loop sees of it, and where invalid messages go (`dead_letters`).
//!
//! The position is kept in the store with the orders, as with the other brokers, and is the
//! channel's sequence. The durable at the server is acknowledged afterwards, in order; it says
//! where an older service would go on. The channel is one partition, and has nothing that tells it
//! from one that was made again under its name.

mod channel;
mod consumer;
mod dead_letters;
mod metrics;
mod order;

use std::sync::Arc;

use super::broker::consumer_handle::ConsumerHandle;
use super::{Parked, Received, Source, SourceError};
use crate::process::lifecycle::Gate;
use crate::record::{Checkpoint, Position, Record, Rejection};
use crate::stan::Config;
use crate::store::Outcome;
use consumer::Consumer;
use dead_letters::DeadLetters;
pub use metrics::StanMetrics;

/// The one partition of a channel.
const PARTITION: u32 = 0;

/// The channel, as a source.
pub struct StanSource {
    consumer: ConsumerHandle,
    dead_letters: DeadLetters,
}

impl StanSource {
    /// Starts to consume. Neither the servers nor the cluster need be there yet. `gate` opens when
    /// the service is not far behind, `letters` is open unless dead letters cannot be kept.
    ///
    /// # Errors
    /// When the machine has no thread left.
    pub fn start(config: &Config, metrics: StanMetrics, gate: Gate, letters: Gate) -> anyhow::Result<Self> {
        let name = format!("stan:{}:{}:{}", config.cluster, config.subject, config.durable);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let dead_letters = DeadLetters::new(config, letters, runtime.handle().clone());
        let make = |events, mailbox| Consumer::new(config.clone(), metrics, gate, events, mailbox);
        let consumer = ConsumerHandle::start(name, ("stan", "NATS Streaming"), runtime, make, Consumer::run)?;
        Ok(Self { consumer, dead_letters })
    }
}

impl Source for StanSource {
    fn name(&self) -> Arc<str> {
        self.consumer.name()
    }

    fn is_log(&self) -> bool {
        true
    }

    fn is_broker(&self) -> bool {
        true
    }

    fn must_exist(&self) -> bool {
        false
    }

    async fn recv(&mut self, into: &mut Vec<Record>) -> Result<Received, SourceError> {
        self.consumer.recv(into).await
    }

    fn commit(&mut self, upto: &Checkpoint, _outcomes: Vec<(Position, Outcome)>) {
        self.consumer.commit(upto);
    }

    fn reject(&mut self, record: &Record, rejection: &Rejection) -> Parked {
        Parked::Pending(self.dead_letters.keep(record, rejection))
    }

    fn start(&mut self, partitions: &[u32], from: &Checkpoint) {
        self.consumer.start_at(partitions, from);
    }

    fn release(&mut self) {
        self.consumer.release();
    }

    fn fenced(&mut self, partition: u32) {
        self.consumer.fenced(partition);
    }

    fn stop(&mut self) {
        self.consumer.stop();
    }
}
