//! Orders from a NATS JetStream subject. A thread of its own runs the consumer (`consumer`); this side is what the
//! ingest loop sees of it, and where invalid messages go (`dead_letters`).
//!
//! The position is kept in the store with the orders, as with Kafka, and is the stream's sequence. The durable at the
//! server is acknowledged afterwards, message by message and in order; it says where a reader without a store would go
//! on. The one partition is numbered by the time at which the stream was made, so that a stream that was deleted and
//! made again, whose sequences begin again, is not taken for the old one.

mod consumer;
mod dead_letters;
mod delivery;
mod metrics;
mod sequence;
mod starts;
mod states;
mod stream;

use std::sync::Arc;

use tokio::sync::watch;

use super::broker::consumer_handle::ConsumerHandle;
use super::{Parked, Received, Source, SourceError};
use crate::nats::Config;
use crate::process::lifecycle::Gate;
use crate::record::{Checkpoint, Position, Record, Rejection};
use crate::store::Outcome;
use consumer::Consumer;
use dead_letters::DeadLetters;
pub use metrics::NatsMetrics;

/// The subject, as a source.
pub struct NatsSource {
    consumer: ConsumerHandle,
    dead_letters: DeadLetters,
}

impl NatsSource {
    /// Starts to consume. Neither the server nor the stream need be there yet. `gate` opens when the service is not
    /// far behind, `letters` is open unless dead letters cannot be kept.
    ///
    /// # Errors
    /// When the machine has no thread left.
    pub fn start(config: &Config, metrics: NatsMetrics, gate: Gate, letters: Gate) -> anyhow::Result<Self> {
        let name = format!("nats:{}:{}", config.stream, config.durable);
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (connected, connection) = watch::channel(None);
        let dead_letters = DeadLetters::new(config, letters, connection, runtime.handle().clone());
        let make = |events, mailbox| Consumer::new(config.clone(), metrics, gate, events, mailbox, connected);
        let consumer = ConsumerHandle::start(name, ("nats", "NATS"), runtime, make, Consumer::run)?;
        Ok(Self { consumer, dead_letters })
    }
}

impl Source for NatsSource {
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
        let Position { partition, offset } = record.position;
        self.consumer.park(partition, offset);
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
