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
mod handover;
mod order;

use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::Duration;

use tokio::sync::mpsc;

use super::broker::mailbox::Mailbox;
use super::{Parked, Received, Source, SourceError};
use crate::metrics;
use crate::process::lifecycle::Gate;
use crate::record::{Checkpoint, Position, Record, Rejection};
use crate::stan::Config;
use crate::store::Outcome;
use consumer::Consumer;
use dead_letters::DeadLetters;
use handover::Event;

/// Chunks of records that may wait for the ingest loop.
const CHUNKS_MAX: usize = 8;

/// How long a stop waits for the last acknowledgements to be sent and the session to end.
const LEAVE_WAIT: Duration = Duration::from_secs(5);

/// The one partition of a channel.
const PARTITION: u32 = 0;

/// The channel, as a source.
pub struct StanSource {
    name: Arc<str>,
    events: mpsc::Receiver<Event>,
    mailbox: Arc<Mailbox>,
    dead_letters: DeadLetters,
    /// Whether records are void until the partition is assigned again.
    is_muted: bool,
    is_stopping: bool,
    /// Closed once everything is acknowledged that can be. Waited for at the end, so that this is
    /// before the process goes.
    has_left: Receiver<()>,
}

impl StanSource {
    /// Starts to consume. Neither the servers nor the cluster need be there yet. `gate` opens when
    /// the service is not far behind, `letters` is open unless dead letters cannot be kept.
    ///
    /// # Errors
    /// When the machine has no thread left.
    pub fn start(config: &Config, metrics: metrics::Stan, gate: Gate, letters: Gate) -> anyhow::Result<Self> {
        let name: Arc<str> = format!("stan:{}:{}:{}", config.cluster, config.subject, config.durable).into();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let dead_letters = DeadLetters::new(config, letters, runtime.handle().clone());
        let (sender, events) = mpsc::channel(CHUNKS_MAX);
        let mailbox = Arc::<Mailbox>::default();
        let consumer = Consumer::new(config.clone(), metrics, gate, sender, Arc::clone(&mailbox));
        let (leaving, has_left) = sync_channel(1);
        std::thread::Builder::new().name("stan".into()).spawn(move || {
            runtime.block_on(consumer.run());
            drop(leaving);
        })?;
        Ok(Self { name, events, mailbox, dead_letters, is_muted: false, is_stopping: false, has_left })
    }

    fn failed(&self, cause: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> SourceError {
        SourceError { name: Arc::clone(&self.name), cause: cause.into() }
    }
}

impl Source for StanSource {
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
                if !self.is_muted {
                    *into = records;
                }
                Ok(Received::Records)
            }
            Some(Event::Assigned) => {
                self.is_muted = false;
                Ok(Received::Assigned(vec![PARTITION]))
            }
            Some(Event::Revoked) => Ok(Received::Revoked(vec![PARTITION])),
            None if self.is_stopping => Ok(Received::End),
            None => Err(self.failed("the consumer's thread ended")),
        }
    }

    fn commit(&mut self, upto: &Checkpoint, _outcomes: Vec<(Position, Outcome)>) {
        self.mailbox.post(|mail| mail.committed = Some(upto.clone()));
    }

    fn reject(&mut self, record: &Record, rejection: &Rejection) -> Parked {
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
        self.is_muted = true;
        self.mailbox.post(|mail| mail.fenced = Some(partition));
    }

    fn stop(&mut self) {
        self.is_stopping = true;
        self.mailbox.post(|mail| mail.is_stopping = true);
    }
}

impl Drop for StanSource {
    fn drop(&mut self) {
        self.mailbox.post(|mail| mail.is_leaving = true);
        self.events.close();
        // Everything is durable by now; what is not acknowledged is delivered again, and
        // acknowledged then.
        if let Err(RecvTimeoutError::Timeout) = self.has_left.recv_timeout(LEAVE_WAIT) {
            tracing::warn!(after = ?LEAVE_WAIT, "NATS Streaming was not left in time");
        }
    }
}
