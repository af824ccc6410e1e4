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
mod sequence;
mod starts;
mod states;
mod stream;

use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::Duration;

use tokio::sync::{mpsc, watch};

use super::broker::mailbox::Mailbox;
use super::{Parked, Received, Source, SourceError};
use crate::metrics;
use crate::nats::Config;
use crate::process::lifecycle::Gate;
use crate::record::{Checkpoint, Position, Record, Rejection};
use crate::store::Outcome;
use consumer::{Consumer, Event};
use dead_letters::DeadLetters;

/// Chunks of records that may wait for the ingest loop. With those of 256 it is what two batches take.
const CHUNKS_MAX: usize = 8;

/// How long a stop waits for the last acknowledgements to be sent.
const LEAVE_WAIT: Duration = Duration::from_secs(5);

/// The subject, as a source.
pub struct NatsSource {
    name: Arc<str>,
    events: mpsc::Receiver<Event>,
    mailbox: Arc<Mailbox>,
    dead_letters: DeadLetters,
    /// The partition whose records are void until it is assigned again.
    muted: Option<u32>,
    is_stopping: bool,
    /// Closed once everything is acknowledged that can be. Waited for at the end, so that this is before the process
    /// goes.
    has_left: Receiver<()>,
}

impl NatsSource {
    /// Starts to consume. Neither the server nor the stream need be there yet. `gate` opens when the service is not
    /// far behind, `letters` is open unless dead letters cannot be kept.
    ///
    /// # Errors
    /// When the machine has no thread left.
    pub fn start(config: &Config, metrics: metrics::Nats, gate: Gate, letters: Gate) -> anyhow::Result<Self> {
        let name: Arc<str> = format!("nats:{}:{}", config.stream, config.durable).into();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (connected, connection) = watch::channel(None);
        let dead_letters = DeadLetters::new(config, letters, connection, runtime.handle().clone());
        let (sender, events) = mpsc::channel(CHUNKS_MAX);
        let mailbox = Arc::<Mailbox>::default();
        let consumer = Consumer::new(config.clone(), metrics, gate, sender, Arc::clone(&mailbox), connected);
        let (leaving, has_left) = sync_channel(1);
        std::thread::Builder::new().name("nats".into()).spawn(move || {
            runtime.block_on(consumer.run());
            drop(leaving);
        })?;
        Ok(Self { name, events, mailbox, dead_letters, muted: None, is_stopping: false, has_left })
    }

    fn failed(&self, cause: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> SourceError {
        SourceError { name: Arc::clone(&self.name), cause: cause.into() }
    }
}

impl Source for NatsSource {
    fn name(&self) -> Arc<str> {
        Arc::clone(&self.name)
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
        match self.events.recv().await {
            Some(Event::Records(records)) => {
                if self.muted.is_none() {
                    *into = records;
                }
                Ok(Received::Records)
            }
            Some(Event::Assigned(partition)) => {
                self.muted = None;
                Ok(Received::Assigned(vec![partition]))
            }
            Some(Event::Revoked(partition)) => Ok(Received::Revoked(vec![partition])),
            None if self.is_stopping => Ok(Received::End),
            None => Err(self.failed("the consumer's thread ended")),
        }
    }

    fn commit(&mut self, upto: &Checkpoint, _outcomes: Vec<(Position, Outcome)>) {
        self.mailbox.post(|mail| mail.committed = Some(upto.clone()));
    }

    fn reject(&mut self, record: &Record, rejection: &Rejection) -> Parked {
        let Position { partition, offset } = record.position;
        self.mailbox.post(|mail| mail.parked.push((partition, offset)));
        Parked::Pending(self.dead_letters.keep(record, rejection))
    }

    fn start(&mut self, partitions: &[u32], from: &Checkpoint) {
        if let Some(&partition) = partitions.last() {
            self.mailbox.post(|mail| mail.start = Some((partition, from.0.get(&partition).copied())));
        }
    }

    fn release(&mut self) {
        self.mailbox.post(|mail| mail.is_released = true);
    }

    fn fenced(&mut self, partition: u32) {
        self.muted = Some(partition);
        self.mailbox.post(|mail| mail.fenced = Some(partition));
    }

    fn stop(&mut self) {
        self.is_stopping = true;
        self.mailbox.post(|mail| mail.is_stopping = true);
    }
}

impl Drop for NatsSource {
    fn drop(&mut self) {
        self.mailbox.post(|mail| mail.is_leaving = true);
        self.events.close();
        // Everything is durable by now; what is not acknowledged is delivered again, and acknowledged then.
        if let Err(RecvTimeoutError::Timeout) = self.has_left.recv_timeout(LEAVE_WAIT) {
            tracing::warn!(after = ?LEAVE_WAIT, "NATS was not left in time");
        }
    }
}
