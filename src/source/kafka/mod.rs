//! Orders from a Kafka topic. A thread of its own runs the consumer (`consumer`); this side is what the ingest loop
//! sees of it, and where invalid messages go (`dead_letters`).
//!
//! Positions are not kept in Kafka: the ingest loop stores them with the orders and says where each assigned partition
//! starts. Offsets are committed to the broker afterwards, for lag tools only.

mod consumer;
mod context;
mod dead_letters;
mod membership;
mod metrics;
mod partitions;
mod progress;
mod starts;

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::mpsc as commands;
use std::time::Duration;

use tokio::sync::mpsc;

use super::broker::consumer_handle::CHUNKS_MAX;
use super::{Parked, Received, Source, SourceError};
use crate::kafka::Config;
use crate::process::lifecycle::Gate;
use crate::record::{Checkpoint, Position, Record, Rejection};
use crate::store::Outcome;
use consumer::{Command, Event};
use dead_letters::DeadLetters;
pub use metrics::KafkaMetrics;

/// Words for the consumer that it has not heard yet. It listens many times a second, whatever else happens.
const COMMANDS_MAX: usize = 1024;

/// How long a stop waits for the group to be left. The library has no limit of its own.
const LEAVE_WAIT: Duration = Duration::from_secs(5);

/// The topic, as a source.
pub struct KafkaSource {
    /// What positions are stored under: the group, the topic, and which topic of this name it is.
    name: Arc<str>,
    /// The same without the last: what they were stored under before topics had ids.
    plain_name: Arc<str>,
    events: mpsc::Receiver<Event>,
    commands: commands::SyncSender<Command>,
    dead_letters: DeadLetters,
    /// Partitions whose records are void until they are assigned again.
    muted: HashSet<u32>,
    /// The topic that was told last to be another one than before, named with its id.
    told_of: Option<Arc<str>>,
    is_stopping: bool,
    /// Closed once the group is left. Waited for at the end, so that this is before the process goes.
    has_left: commands::Receiver<()>,
}

impl KafkaSource {
    /// Starts to consume. Neither the brokers nor the topic need be there yet. `gate` opens when the service is not
    /// far behind, `letters` is open unless dead letters cannot be kept.
    ///
    /// # Errors
    /// When the settings are not what the library takes.
    pub fn start(config: &Config, metrics: KafkaMetrics, gate: Gate, letters: Gate) -> anyhow::Result<Self> {
        let plain_name: Arc<str> = format!("kafka:{}:{}", config.group, config.topic).into();
        let name = Arc::clone(&plain_name);
        let dead_letters = DeadLetters::new(config, letters)?;
        let (sender, events) = mpsc::channel(CHUNKS_MAX);
        let (commands, orders) = commands::sync_channel(COMMANDS_MAX);
        let consumer = consumer::Consumer::new(config.clone(), metrics, gate, sender, orders)?;
        let (leaving, has_left) = commands::sync_channel(1);
        std::thread::Builder::new().name("kafka".into()).spawn(move || {
            consumer.run();
            drop(leaving);
        })?;
        Ok(Self {
            name,
            plain_name,
            events,
            commands,
            dead_letters,
            muted: HashSet::new(),
            told_of: None,
            is_stopping: false,
            has_left,
        })
    }

    fn tell(&self, command: Command) {
        // A thread that has ended has said so by its last event.
        let _ = self.commands.send(command);
    }
}

impl Source for KafkaSource {
    fn name(&self) -> Arc<str> {
        Arc::clone(&self.name)
    }

    fn former_name(&self) -> Option<Arc<str>> {
        (self.name != self.plain_name).then(|| Arc::clone(&self.plain_name))
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
                if self.muted.is_empty() {
                    *into = records;
                } else {
                    into.extend(records.into_iter().filter(|record| !self.muted.contains(&record.position.partition)));
                }
                Ok(Received::Records)
            }
            Some(Event::Assigned(partitions, topic)) => {
                // Nothing of the former topic is under way when there is another one: its partitions were revoked.
                self.name = match topic {
                    Some(topic) => format!("{}#{topic}", self.plain_name).into(),
                    None => Arc::clone(&self.plain_name),
                };
                self.muted.retain(|partition| !partitions.contains(partition));
                Ok(Received::Assigned(partitions))
            }
            Some(Event::Revoked(partitions)) => Ok(Received::Revoked(partitions)),
            Some(Event::Failed(cause)) => Err(SourceError { name: Arc::clone(&self.name), cause: cause.into() }),
            None if self.is_stopping => Ok(Received::End),
            None => {
                let cause = "the consumer's thread ended".into();
                Err(SourceError { name: Arc::clone(&self.name), cause })
            }
        }
    }

    fn commit(&mut self, upto: &Checkpoint, _outcomes: Vec<(Position, Outcome)>) {
        self.tell(Command::Committed(upto.clone()));
    }

    fn reject(&mut self, record: &Record, rejection: &Rejection) -> Parked {
        Parked::Pending(self.dead_letters.keep(record, rejection))
    }

    fn start(&mut self, partitions: &[u32], from: &Checkpoint) {
        self.tell(Command::Start(partitions.to_vec(), from.clone()));
    }

    fn replaced(&mut self) {
        // A topic that nothing was stored of yet is found so with each assignment.
        if self.told_of.as_ref() != Some(&self.name) {
            self.told_of = Some(Arc::clone(&self.name));
            self.tell(Command::Replaced);
        }
    }

    fn release(&mut self) {
        self.tell(Command::Release);
    }

    fn fenced(&mut self, partition: u32) {
        self.muted.insert(partition);
        self.tell(Command::Fenced(partition));
    }

    fn stop(&mut self) {
        self.is_stopping = true;
        self.tell(Command::Stop);
    }
}

impl Drop for KafkaSource {
    fn drop(&mut self) {
        self.tell(Command::Leave);
        self.events.close();
        // Everything is durable by now, and the brokers find out by themselves who is gone.
        if let Err(commands::RecvTimeoutError::Timeout) = self.has_left.recv_timeout(LEAVE_WAIT) {
            tracing::warn!(after = ?LEAVE_WAIT, "the group was not left in time");
        }
    }
}
