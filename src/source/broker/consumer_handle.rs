//! The ingest loop's side of a consumer that has a thread of its own: what it says is received
//! here, what it is told goes into its mailbox, and its end is waited for.

use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, sync_channel};
use std::time::Duration;

use tokio::runtime::Runtime;
use tokio::sync::mpsc;

use super::handover::Event;
use super::mailbox::Mailbox;
use crate::record::{Checkpoint, Record};
use crate::source::{Received, SourceError};

/// Chunks of records that may wait for the ingest loop. With those of 256 it is what two batches
/// take.
pub(in crate::source) const CHUNKS_MAX: usize = 8;

/// How long a stop waits for the last acknowledgements to be sent, and for a session to end.
const LEAVE_WAIT: Duration = Duration::from_secs(5);

/// A consumer that runs. When this is dropped, the consumer leaves and its thread ends.
pub(in crate::source) struct ConsumerHandle {
    /// What positions are stored under.
    name: Arc<str>,
    /// What it consumes from, as logs have it.
    server: &'static str,
    events: mpsc::Receiver<Event>,
    mailbox: Arc<Mailbox>,
    /// Whether records are void until the partition is assigned again.
    is_muted: bool,
    is_stopping: bool,
    /// Closed once everything is acknowledged that can be. Waited for at the end, so that this is
    /// before the process goes.
    has_left: Receiver<()>,
}

impl ConsumerHandle {
    /// Makes a consumer, and runs it in a thread and a runtime of its own.
    ///
    /// # Errors
    /// When the machine has no thread left.
    pub(in crate::source) fn start<C, F>(
        name: String,
        (thread, server): (&str, &'static str),
        runtime: Runtime,
        make: impl FnOnce(mpsc::Sender<Event>, Arc<Mailbox>) -> C,
        run: impl FnOnce(C) -> F + Send + 'static,
    ) -> std::io::Result<Self>
    where
        C: Send + 'static,
        F: Future<Output = ()>,
    {
        let (sender, events) = mpsc::channel(CHUNKS_MAX);
        let mailbox = Arc::<Mailbox>::default();
        let consumer = make(sender, Arc::clone(&mailbox));
        let (leaving, has_left) = sync_channel(1);
        std::thread::Builder::new().name(thread.into()).spawn(move || {
            runtime.block_on(run(consumer));
            drop(leaving);
        })?;
        Ok(Self { name: name.into(), server, events, mailbox, is_muted: false, is_stopping: false, has_left })
    }

    pub(in crate::source) fn name(&self) -> Arc<str> {
        Arc::clone(&self.name)
    }

    /// As [`crate::source::Source::recv`].
    pub(in crate::source) async fn recv(&mut self, into: &mut Vec<Record>) -> Result<Received, SourceError> {
        match self.events.recv().await {
            Some(Event::Records(records)) => {
                if !self.is_muted {
                    *into = records;
                }
                Ok(Received::Records)
            }
            Some(Event::Assigned(partition)) => {
                self.is_muted = false;
                Ok(Received::Assigned(vec![partition]))
            }
            Some(Event::Revoked(partition)) => Ok(Received::Revoked(vec![partition])),
            None if self.is_stopping => Ok(Received::End),
            None => Err(SourceError { name: self.name(), cause: "the consumer's thread ended".into() }),
        }
    }

    /// Everything below is durable and visible.
    pub(in crate::source) fn commit(&self, upto: &Checkpoint) {
        self.mailbox.post(|mail| mail.committed = Some(upto.clone()));
    }

    /// A message is in the dead letters, or will be before its position is passed.
    pub(in crate::source) fn park(&self, partition: u32, offset: u64) {
        self.mailbox.post(|mail| mail.parked.push((partition, offset)));
    }

    /// Hand over the assigned partition from its stored position on, if it has one.
    pub(in crate::source) fn start_at(&self, partitions: &[u32], from: &Checkpoint) {
        if let Some(&partition) = partitions.last() {
            self.mailbox.post(|mail| mail.start = Some((partition, from.0.get(&partition).copied())));
        }
    }

    /// What came of the revoked partition is durable.
    pub(in crate::source) fn release(&self) {
        self.mailbox.post(|mail| mail.is_released = true);
    }

    /// The position of this partition was moved by another process: what was received of it is
    /// void.
    pub(in crate::source) fn fenced(&mut self, partition: u32) {
        self.is_muted = true;
        self.mailbox.post(|mail| mail.fenced = Some(partition));
    }

    /// Hand over nothing more.
    pub(in crate::source) fn stop(&mut self) {
        self.is_stopping = true;
        self.mailbox.post(|mail| mail.is_stopping = true);
    }
}

impl Drop for ConsumerHandle {
    fn drop(&mut self) {
        self.mailbox.post(|mail| mail.is_leaving = true);
        self.events.close();
        // Everything is durable by now; what is not acknowledged is delivered again, and
        // acknowledged then.
        if let Err(RecvTimeoutError::Timeout) = self.has_left.recv_timeout(LEAVE_WAIT) {
            tracing::warn!(after = ?LEAVE_WAIT, "{} was not left in time", self.server);
        }
    }
}
