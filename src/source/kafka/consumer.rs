//! The thread that owns the consumer. Polls all the time, whatever happens to what it received: a member that stops
//! polling is thrown out of the group. So it waits for no broker: what it asks of them is under way
//! while it polls.
//!
//! Everything it has to say goes through one queue in order, so that the other side meets a revocation after the last
//! record before it. When the other side is slow the queue is full, fetching pauses, and polling goes on.

use std::collections::{BTreeMap, VecDeque};
use std::sync::mpsc::Receiver;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Message};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use tokio::sync::mpsc::Sender;
use tokio::sync::mpsc::error::TrySendError;

use super::context::{Context, Rebalance, close, subscribe};
use super::metrics::KafkaMetrics;
use super::partitions::{Active, Reading, Refused, Releasing, Stage, Starting, Stopped};
use crate::kafka::offset_look::OffsetLook;
use crate::kafka::topic_look::{TopicId, TopicLook};
use crate::kafka::{Config, headers};
use crate::process::lifecycle::Gate;
use crate::record::{Checkpoint, Position, Record};
use crate::source::broker::handover::{CHUNK_BYTES, CHUNK_ROWS};

/// What the thread says.
pub(super) enum Event {
    Records(Vec<Record>),
    /// Partitions of the topic with this id.
    Assigned(Vec<u32>, Option<TopicId>),
    Revoked(Vec<u32>),
    Failed(String),
}

/// What the thread is told.
pub(super) enum Command {
    /// Hand over these assigned partitions from here on.
    Start(Vec<u32>, Checkpoint),
    /// The partitions started next are of a topic that was deleted and made again.
    Replaced,
    /// What came of the revoked partitions is durable.
    Release,
    /// The position of this partition was moved by another process.
    Fenced(u32),
    /// Everything below is durable and visible.
    Committed(Checkpoint),
    /// Hand over nothing more.
    Stop,
    /// Leave the group and end.
    Leave,
}

/// How long one poll waits for the first message.
const POLL: Duration = Duration::from_millis(20);
/// How long the other side may have no room before fetching pauses.
const FULL_WAIT: Duration = Duration::from_millis(500);
/// How long a revocation waits for what was received to become durable. Longer than a commit, shorter than the group's
/// patience; what comes later is fenced.
pub(super) const RELEASE_WAIT: Duration = Duration::from_secs(10);
/// How often offsets are committed to the broker, for lag tools.
const COMMIT_EVERY: Duration = Duration::from_secs(1);
pub(super) const ASK_WAIT: Duration = Duration::from_secs(2);
/// The same trouble is told this often.
const WARN_EVERY: Duration = Duration::from_secs(10);

pub(super) struct Consumer {
    pub(super) config: Config,
    pub(super) metrics: KafkaMetrics,
    pub(super) gate: Gate,
    pub(super) events: Sender<Event>,
    pub(super) commands: Receiver<Command>,
    pub(super) rebalances: Arc<Mutex<VecDeque<Rebalance>>>,
    /// Said and not yet taken. While there is something, nothing is fetched.
    pub(super) queue: VecDeque<Event>,
    pub(super) is_paused: bool,
    pub(super) active: BTreeMap<u32, Active>,
    /// Which topic the partitions are of.
    pub(super) topic_id: Option<TopicId>,
    /// A question about the topic, under way. Before the client, which has to outlive it.
    pub(super) look: Option<TopicLook>,
    /// How far the partitions reach: a question under way, which the client has to outlive too.
    pub(super) lag_look: Option<OffsetLook>,
    /// Starts that wait for an answer, and do not outlive the client either. Several, when
    /// partitions were fenced one by one.
    pub(super) starting: Vec<Starting>,
    pub(super) client: BaseConsumer<Context>,
    pub(super) reading: Reading,
    /// Partitions that are not read, because the topic ends before their stored positions.
    pub(super) stopped: Vec<Stopped>,
    /// What the brokers refuse this member, as far as they have said so.
    pub(super) refused: Refused,
    /// The gate is closed for something that the brokers refuse.
    pub(super) was_refused: bool,
    /// The topic does not exist: there is nothing to be behind of.
    pub(super) is_missing: bool,
    /// Starts at which the brokers did not say where the partitions end. Several, when partitions were fenced one by one.
    pub(super) postponed: Vec<(Instant, Vec<u32>, Checkpoint)>,
    /// The last answer said that there is something to receive, and it is not this side that holds
    /// it up.
    pub(super) is_waiting: bool,
    /// Since when the other side has had no room.
    pub(super) full_since: Option<Instant>,
    pub(super) releasing: Option<Releasing>,
    pub(super) stage: Stage,
    pub(super) received_at: Instant,
    pub(super) committed_at: Instant,
    pub(super) measured_at: Instant,
    pub(super) warned_at: Option<Instant>,
}

impl Consumer {
    pub(super) fn new(
        config: Config,
        metrics: KafkaMetrics,
        gate: Gate,
        events: Sender<Event>,
        commands: Receiver<Command>,
    ) -> Result<Self, KafkaError> {
        let rebalances = Arc::default();
        let client = subscribe(&config, &rebalances)?;
        gate.close("not connected to Kafka");
        let now = Instant::now();
        Ok(Self {
            config,
            metrics,
            gate,
            events,
            commands,
            rebalances,
            queue: VecDeque::new(),
            is_paused: false,
            active: BTreeMap::new(),
            topic_id: None,
            look: None,
            lag_look: None,
            starting: Vec::new(),
            client,
            reading: Reading::Unassigned,
            stopped: Vec::new(),
            refused: Refused::default(),
            was_refused: false,
            is_missing: false,
            postponed: Vec::new(),
            is_waiting: false,
            full_since: None,
            releasing: None,
            stage: Stage::Running,
            received_at: now,
            committed_at: now,
            measured_at: now,
            warned_at: None,
        })
    }

    pub(super) fn run(mut self) {
        while self.stage != Stage::Leaving {
            self.take_commands();
            self.start_postponed();
            self.flush();
            if self.full_since.is_some_and(|since| since.elapsed() < FULL_WAIT) {
                // There will be room in a moment, and a pause would throw away what is fetched already.
                std::thread::sleep(Duration::from_micros(500));
                continue;
            }
            self.poll();
            self.client.context().brokers.recover(self.client.client(), self.config.bootstrap());
            self.take_rebalances();
            self.release_when_due();
            self.take_look();
            self.take_starts();
            self.take_lag();
            self.measure();
        }
        // What is durable is told to the broker, and the others need not wait for this member's time-out.
        self.commit(CommitMode::Sync);
        close(&self.client);
    }

    fn take_commands(&mut self) {
        let mut committed = None;
        loop {
            let command = match self.commands.try_recv() {
                Ok(command) => command,
                Err(std::sync::mpsc::TryRecvError::Empty) => break,
                Err(std::sync::mpsc::TryRecvError::Disconnected) => Command::Leave,
            };
            match command {
                Command::Start(partitions, from) => self.start(partitions, from),
                Command::Replaced => self.tell_of_another(),
                Command::Release => self.release(),
                Command::Fenced(partition) => self.fenced(partition),
                Command::Committed(upto) => committed = Some(upto),
                Command::Stop => self.stage = Stage::Stopping,
                Command::Leave => {
                    self.stage = Stage::Leaving;
                    break;
                }
            }
        }
        if let Some(Checkpoint(upto)) = committed {
            for (partition, next) in upto {
                if let Some(active) = self.active.get_mut(&partition) {
                    active.durable = active.durable.max(next);
                }
            }
            self.tell_lag();
        }
        if self.committed_at.elapsed() >= COMMIT_EVERY {
            self.committed_at = Instant::now();
            self.commit(CommitMode::Async);
        }
        if self.is_stopping() && self.queue.is_empty() && !self.events.is_closed() {
            // The other side sees the end once it has taken everything.
            let (closed, _) = tokio::sync::mpsc::channel(1);
            self.events = closed;
        }
    }

    /// Nothing more is handed over.
    fn is_stopping(&self) -> bool {
        self.stage != Stage::Running
    }

    /// Hands over what the other side has room for.
    fn flush(&mut self) {
        while let Some(event) = self.queue.pop_front() {
            match self.events.try_send(event) {
                Err(TrySendError::Full(event)) => {
                    self.queue.push_front(event);
                    self.full_since.get_or_insert_with(Instant::now);
                    break;
                }
                // Stopping, if no one takes it: it is read again next time.
                Ok(()) | Err(TrySendError::Closed(_)) => {}
            }
        }
        if self.queue.is_empty() {
            self.full_since = None;
        }
        let is_full = self.full_since.is_some_and(|since| since.elapsed() >= FULL_WAIT);
        let is_behind = is_full || self.is_stopping() || self.releasing.is_some();
        if is_behind != self.is_paused && !self.active.is_empty() {
            let all = self.list(|_| Offset::Invalid);
            let done = if is_behind { self.client.pause(&all) } else { self.client.resume(&all) };
            match done {
                Ok(()) => self.is_paused = is_behind,
                Err(error) => self.warn("cannot pause or resume", &error),
            }
        }
    }

    fn poll(&mut self) {
        let mut records = Vec::new();
        let mut bytes = 0;
        let mut failure = None;
        let mut wait = POLL;
        let mut seen = Vec::new();
        while records.len() < CHUNK_ROWS && bytes < CHUNK_BYTES {
            match self.client.poll(wait) {
                None => break,
                Some(Ok(message)) => {
                    let record = record(&message);
                    seen.push(record.position);
                    bytes += record.payload.as_ref().map_or(0, Bytes::len);
                    records.push(record);
                }
                Some(Err(error)) => {
                    failure = Some(error);
                    break;
                }
            }
            wait = Duration::ZERO;
        }
        if let Some(error) = failure {
            self.on_error(&error);
        }
        // Below the start are those that were fetched before a seek; of no active partition, those before a revocation;
        // of a held one, those before its position is known, between which and these some may be missing.
        let mut index = 0;
        let active = &mut self.active;
        records.retain(|_| {
            let Position { partition, offset } = seen[index];
            index += 1;
            active.get_mut(&partition).filter(|active| !active.is_held).is_some_and(|active| {
                let is_new = offset >= active.next;
                active.next = active.next.max(offset + 1);
                is_new
            })
        });
        if !records.is_empty() && !self.is_stopping() {
            self.received_at = Instant::now();
            self.queue.push_back(Event::Records(records));
            self.flush();
        }
    }

    fn on_error(&mut self, error: &KafkaError) {
        use RDKafkaErrorCode as Code;
        let Config { topic, group, .. } = &self.config;
        match error.rdkafka_error_code() {
            Some(Code::UnknownTopicOrPartition | Code::UnknownTopic) => {
                self.is_missing |= self.active.is_empty();
                self.warn("the topic does not exist yet", error);
            }
            Some(Code::TopicAuthorizationFailed) => self.refused.topic = Some(unreadable(topic)),
            Some(Code::Authentication | Code::SaslAuthenticationFailed) => {
                self.refused.connection = Some("Kafka refuses the credentials".into());
            }
            // Later on it is one broker of several, or one that is away for a while.
            Some(Code::SSL) if self.active.is_empty() => {
                self.refused.connection = Some("Kafka cannot be reached over TLS; the log says why".into());
            }
            Some(Code::GroupAuthorizationFailed) => {
                self.refused.group = Some(format!("Kafka does not let this user join the group {group}"));
            }
            Some(Code::InconsistentGroupProtocol) => {
                self.refused.group =
                    Some(format!("a member of the group {group} uses another way to assign partitions"));
            }
            Some(Code::GroupMaxSizeReached) => {
                self.refused.group = Some(format!("the group {group} has as many members as Kafka lets it have"));
            }
            Some(Code::InvalidSessionTimeout) => {
                self.refused.group = Some("Kafka does not allow the session time-out that is set".into());
            }
            Some(Code::Fatal | Code::FencedInstanceId) => {
                self.queue.push_back(Event::Failed(format!("{error}; is another member using the same instance id?")));
            }
            Some(Code::AutoOffsetReset) => {
                self.warn("the topic does not reach where it was read", error);
                self.begin_again();
            }
            _ => self.warn("trouble with Kafka", error),
        }
    }

    pub(super) fn warn(&mut self, what: &str, error: &KafkaError) {
        if self.may_warn() {
            tracing::warn!(%error, brokers = self.config.brokers, topic = self.config.topic, "{what}");
        }
    }

    pub(super) fn may_warn(&mut self) -> bool {
        let may = self.warned_at.is_none_or(|last| last.elapsed() >= WARN_EVERY);
        if may {
            self.warned_at = Some(Instant::now());
        }
        may
    }

    /// Offsets for lag tools; nothing is read from them.
    pub(super) fn commit(&mut self, mode: CommitMode) {
        if self.active.is_empty() {
            return;
        }
        let list = self.list(|active| offset(active.done()));
        if let Err(error) = self.client.commit(&list, mode) {
            tracing::debug!(%error, "offsets not committed to the broker");
        }
    }

    fn list(&self, at: impl Fn(&Active) -> Offset) -> TopicPartitionList {
        let mut list = TopicPartitionList::new();
        for (&partition, active) in &self.active {
            // Fails only for offsets that are none.
            let _ = list.add_partition_offset(&self.config.topic, signed(partition), at(active));
        }
        list
    }
}

pub(super) fn unreadable(topic: &str) -> String {
    format!("Kafka does not let this user read the topic {topic}")
}

fn record(message: &BorrowedMessage<'_>) -> Record {
    Record {
        position: Position { partition: message.partition().unsigned_abs(), offset: message.offset().unsigned_abs() },
        payload: message.payload().map(Bytes::copy_from_slice),
        key: message.key().map(Bytes::copy_from_slice),
        idempotency: None,
        condition: None,
        owner: None,
        timestamp_ms: message.timestamp().to_millis(),
        arrived: Instant::now(),
        headers: headers(message).map(Box::new),
    }
}

pub(super) fn signed(partition: u32) -> i32 {
    i32::try_from(partition).unwrap_or(i32::MAX)
}

pub(super) fn offset(next: u64) -> Offset {
    Offset::Offset(i64::try_from(next).unwrap_or(i64::MAX))
}
