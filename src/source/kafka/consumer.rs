//! The thread that owns the consumer. Polls all the time, whatever happens to what it received: a member that stops
//! polling is thrown out of the group. So it waits for no broker: what it asks of them is under way
//! while it polls.
//!
//! Everything it has to say goes through one queue in order, so that the other side meets a revocation after the last
//! record before it. When the other side is slow the queue is full, fetching pauses, and polling goes on.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Receiver;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use rdkafka::client::ClientContext;
use rdkafka::consumer::{BaseConsumer, CommitMode, Consumer as _, ConsumerContext};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Message};
use rdkafka::statistics::Statistics;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use rdkafka::types::RDKafkaRespErr;
use tokio::sync::mpsc::Sender;
use tokio::sync::mpsc::error::TrySendError;

use crate::kafka::broker_watch::{self, BrokerWatch};
use crate::kafka::offset_look::{OffsetLook, OffsetRange, OffsetRanges};
use crate::kafka::topic_look::{TopicId, TopicLook};
use crate::kafka::{Config, headers};
use crate::metrics::Kafka as Metrics;
use crate::process::lifecycle::Gate;
use crate::record::{Checkpoint, Position, Record};
use crate::sync::lock;

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

/// Records handed over at once.
const CHUNK_ROWS: usize = 256;
const CHUNK_BYTES: usize = 1 << 20;
/// How long one poll waits for the first message.
const POLL: Duration = Duration::from_millis(20);
/// How long the other side may have no room before fetching pauses.
const FULL_WAIT: Duration = Duration::from_millis(500);
/// How long a revocation waits for what was received to become durable. Longer than a commit, shorter than the group's
/// patience; what comes later is fenced.
const RELEASE_WAIT: Duration = Duration::from_secs(10);
/// How often offsets are committed to the broker, for lag tools.
const COMMIT_EVERY: Duration = Duration::from_secs(1);
/// How often the ends of the partitions are asked for.
const LAG_EVERY: Duration = Duration::from_secs(1);
const ASK_WAIT: Duration = Duration::from_secs(2);
/// How long the library's own thread may take to begin at another position. No broker is asked.
const SEEK_WAIT: Duration = Duration::from_millis(500);
/// Between two tries at a start.
const POSTPONE: Duration = Duration::from_millis(300);
/// Between two looks at a position that the topic does not reach.
const STOPPED_PAUSE: Duration = Duration::from_secs(5);
/// The same trouble is told this often.
const WARN_EVERY: Duration = Duration::from_secs(10);

/// What rebalances say, on the way to the queue.
struct Context {
    shared: Arc<Mutex<VecDeque<Rebalance>>>,
    topic: String,
    fetched: Mutex<BTreeMap<u32, Fetched>>,
    brokers: BrokerWatch,
    /// The thread is done with this consumer and answers no rebalance any more.
    is_closing: AtomicBool,
}

/// What the statistics say of a partition.
#[derive(Debug, Clone, Copy, Default)]
struct Fetched {
    /// Up to where it was fetched and taken. Beyond the last message by what is none: ends of
    /// transactions, messages of aborted ones.
    reached: Option<u64>,
    /// Where it ended when something was fetched of it for the last time. Behind the truth where
    /// nothing is.
    end: Option<u64>,
}

enum Rebalance {
    Assigned(Vec<u32>),
    Revoked(Vec<u32>),
}

impl ClientContext for Context {
    fn log(&self, level: rdkafka::config::RDKafkaLogLevel, facility: &str, message: &str) {
        broker_watch::log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(%error, reason, "librdkafka");
    }

    fn stats(&self, statistics: Statistics) {
        self.brokers.note(&statistics);
        let Some(topic) = statistics.topics.get(&self.topic) else { return };
        let mut fetched = lock(&self.fetched);
        for partition in topic.partitions.values() {
            let Ok(id) = u32::try_from(partition.partition) else { continue };
            let fetched = fetched.entry(id).or_default();
            if let (Ok(next), 0) = (u64::try_from(partition.next_offset), partition.fetchq_cnt) {
                fetched.reached = Some(next);
            }
            // The last stable offset is the high watermark where transactions are not waited for.
            fetched.end = u64::try_from(partition.ls_offset).ok();
        }
    }
}

impl ConsumerContext for Context {
    /// Neither assigns nor unassigns: the thread does, once it is known where to start and what is durable.
    fn rebalance(&self, consumer: &BaseConsumer<Self>, error: RDKafkaRespErr, list: &mut TopicPartitionList) {
        if self.is_closing.load(Ordering::Acquire) {
            let _ = consumer.unassign();
            return;
        }
        let partitions = list.elements().iter().map(|element| element.partition().unsigned_abs()).collect();
        let said = match error {
            RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS => Rebalance::Assigned(partitions),
            _ => Rebalance::Revoked(partitions),
        };
        lock(&self.shared).push_back(said);
    }

    fn commit_callback(&self, result: KafkaResult<()>, _: &TopicPartitionList) {
        if let Err(error) = result {
            tracing::debug!(%error, "offsets not committed to the broker");
        }
    }
}

/// A partition that is handed over.
#[derive(Debug, Clone, Copy)]
struct Active {
    /// The next offset to hand over.
    next: u64,
    /// The next offset that is not yet durable.
    durable: u64,
    /// Where the partition ends, as far as known.
    end: u64,
    /// Its position was moved by another process: nothing is handed over until it is known again.
    is_held: bool,
    /// Up to here there is no further message to hand over, as far as known.
    reached: u64,
}

impl Active {
    /// Up to where everything is dealt with.
    fn done(&self) -> u64 {
        if self.durable >= self.next { self.durable.max(self.reached) } else { self.durable }
    }
}

/// Partitions that begin at these positions once it is known where they start and end.
struct Starting {
    partitions: Vec<u32>,
    from: Checkpoint,
    /// Asked after the positions were read: where they are beyond the end, the topic has lost
    /// messages.
    look: OffsetLook,
}

/// Partitions whose stored positions the topic does not reach.
#[derive(Debug)]
struct Stopped {
    partitions: Vec<u32>,
    reason: String,
    /// When it is looked at again: the positions or the topic may have been put right.
    due: Instant,
}

/// What the brokers refuse, by what takes it back.
#[derive(Debug, Default)]
struct Refused {
    /// Until any of them answers.
    connection: Option<String>,
    /// Until the topic may be read.
    topic: Option<String>,
    /// Until partitions are assigned.
    group: Option<String>,
}

impl Refused {
    fn reason(&self) -> Option<&str> {
        self.connection.as_deref().or(self.topic.as_deref()).or(self.group.as_deref())
    }
}

pub(super) struct Consumer {
    config: Config,
    metrics: Metrics,
    gate: Gate,
    events: Sender<Event>,
    commands: Receiver<Command>,
    rebalances: Arc<Mutex<VecDeque<Rebalance>>>,
    /// Said and not yet taken. While there is something, nothing is fetched.
    queue: VecDeque<Event>,
    is_paused: bool,
    active: BTreeMap<u32, Active>,
    /// Which topic the partitions are of.
    topic_id: Option<TopicId>,
    /// A question about the topic, under way. Before the client, which has to outlive it.
    look: Option<TopicLook>,
    /// How far the partitions reach: a question under way, which the client has to outlive too.
    lag_look: Option<OffsetLook>,
    /// Starts that wait for an answer, and do not outlive the client either. Several, when
    /// partitions were fenced one by one.
    starting: Vec<Starting>,
    client: BaseConsumer<Context>,
    /// Assigned partitions whose start is not known yet.
    pending_start: Vec<u32>,
    /// They are offered to the other side once it is known which topic they are of.
    is_offer_due: bool,
    /// Partitions that are not read, because the topic ends before their stored positions.
    stopped: Vec<Stopped>,
    /// What the brokers refuse this member, as far as they have said so.
    refused: Refused,
    /// The gate is closed for something that the brokers refuse.
    was_refused: bool,
    /// The topic does not exist: there is nothing to be behind of.
    is_missing: bool,
    /// Other members of the group have all partitions.
    is_spare: bool,
    /// Starts at which the brokers did not say where the partitions end. Several, when partitions were fenced one by one.
    postponed: Vec<(Instant, Vec<u32>, Checkpoint)>,
    /// The last answer said that there is something to receive, and it is not this side that holds
    /// it up.
    is_waiting: bool,
    /// Since when the other side has had no room.
    full_since: Option<Instant>,
    /// A revocation that waits for [`Command::Release`], until then at the latest.
    releasing: Option<Instant>,
    /// Partitions that begin again at their stored positions once they are released.
    again: Vec<u32>,
    has_joined: bool,
    is_stopping: bool,
    is_leaving: bool,
    received_at: Instant,
    committed_at: Instant,
    measured_at: Instant,
    warned_at: Option<Instant>,
}

impl Consumer {
    pub(super) fn new(
        config: Config,
        metrics: Metrics,
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
            pending_start: Vec::new(),
            is_offer_due: false,
            stopped: Vec::new(),
            refused: Refused::default(),
            was_refused: false,
            is_missing: false,
            is_spare: false,
            postponed: Vec::new(),
            is_waiting: false,
            full_since: None,
            releasing: None,
            again: Vec::new(),
            has_joined: false,
            is_stopping: false,
            is_leaving: false,
            received_at: now,
            committed_at: now,
            measured_at: now,
            warned_at: None,
        })
    }

    pub(super) fn run(mut self) {
        while !self.is_leaving {
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
                Command::Stop => self.is_stopping = true,
                Command::Leave => {
                    self.is_leaving = true;
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
        if self.is_stopping && self.queue.is_empty() && !self.events.is_closed() {
            // The other side sees the end once it has taken everything.
            let (closed, _) = tokio::sync::mpsc::channel(1);
            self.events = closed;
        }
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
        let is_behind = is_full || self.is_stopping || self.releasing.is_some();
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
        if !records.is_empty() && !self.is_stopping {
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

    /// Has what was received made durable, and looks again where the stored positions are in the topic.
    fn begin_again(&mut self) {
        if self.releasing.is_none() && !self.active.is_empty() {
            self.again = self.active.keys().copied().collect();
            self.queue.push_back(Event::Revoked(self.again.clone()));
            self.releasing = Some(Instant::now() + RELEASE_WAIT);
        }
    }

    fn warn(&mut self, what: &str, error: &KafkaError) {
        if self.may_warn() {
            tracing::warn!(%error, brokers = self.config.brokers, topic = self.config.topic, "{what}");
        }
    }

    fn may_warn(&mut self) -> bool {
        let may = self.warned_at.is_none_or(|last| last.elapsed() >= WARN_EVERY);
        if may {
            self.warned_at = Some(Instant::now());
        }
        may
    }

    fn take_rebalances(&mut self) {
        loop {
            let said = lock(&self.rebalances).pop_front();
            match said {
                None => return,
                Some(Rebalance::Assigned(partitions)) => {
                    self.metrics.rebalances.inc();
                    tracing::info!(?partitions, topic = self.config.topic, "partitions assigned");
                    self.has_joined = true;
                    self.refused.group = None;
                    self.is_spare = partitions.is_empty();
                    if self.is_spare {
                        let _ = self.client.assign(&TopicPartitionList::new());
                    } else {
                        self.offer(partitions);
                    }
                }
                Some(Rebalance::Revoked(partitions)) => {
                    self.metrics.rebalances.inc();
                    tracing::info!(?partitions, topic = self.config.topic, "partitions revoked");
                    // An assignment that was not yet taken up is void.
                    self.queue.retain(|event| !matches!(event, Event::Assigned(..)));
                    self.is_spare = false;
                    self.is_offer_due = false;
                    self.stopped.clear();
                    self.pending_start.clear();
                    self.again.clear();
                    self.postponed.clear();
                    self.starting.clear();
                    self.queue.push_back(Event::Revoked(self.active.keys().copied().collect()));
                    self.releasing = Some(Instant::now() + RELEASE_WAIT);
                }
            }
        }
    }

    fn release_when_due(&mut self) {
        if self.releasing.is_some_and(|until| Instant::now() >= until) {
            tracing::warn!("partitions go before what was received of them is durable; it will be read again");
            self.release();
        }
    }

    fn release(&mut self) {
        if self.releasing.take().is_none() {
            return;
        }
        // The library sends it before it gives the partitions back, and waits for the answer by
        // itself.
        self.commit(CommitMode::Async);
        for partition in std::mem::take(&mut self.active).into_keys() {
            let _ = self.metrics.lag.remove_label_values(&[&partition.to_string()]);
        }
        self.lag_look = None; // the same numbers may be another topic's partitions next time
        self.is_paused = false;
        if let Err(error) = self.client.unassign() {
            self.warn("cannot give partitions back", &error);
        }
        if !self.again.is_empty() {
            let again = std::mem::take(&mut self.again);
            self.offer(again);
        }
    }

    /// Has partitions started once it is known which topic they are of.
    fn offer(&mut self, partitions: Vec<u32>) {
        self.pending_start = partitions;
        self.is_offer_due = true;
        // An answer that is under way may be from before they were assigned.
        self.look = None;
        self.look_at_topic();
    }

    /// Begins to hand over partitions, once it is known where they start and end. Those that are
    /// active already are ones whose position was moved.
    fn start(&mut self, partitions: Vec<u32>, from: Checkpoint) {
        if !self.may_start(&partitions) {
            return;
        }
        // The later positions count.
        let is_other = |partition: &u32| !partitions.contains(partition);
        for before in self.starting.iter_mut().map(|starting| &mut starting.partitions) {
            before.retain(is_other);
        }
        for (_, before, _) in &mut self.postponed {
            before.retain(is_other);
        }
        let look = self.look_at_offsets(&partitions);
        self.starting.push(Starting { partitions, from, look });
    }

    /// Not where they went to another process meanwhile.
    fn may_start(&self, partitions: &[u32]) -> bool {
        let is_again = partitions.iter().all(|partition| self.active.contains_key(partition));
        let is_pending = partitions.iter().all(|partition| self.pending_start.contains(partition));
        self.releasing.is_none() && !partitions.is_empty() && (is_again || is_pending)
    }

    fn look_at_offsets(&self, partitions: &[u32]) -> OffsetLook {
        let Config { topic, .. } = &self.config;
        let is_committed = self.config.reads_committed();
        OffsetLook::ask(self.client.client(), topic, partitions.iter().copied(), is_committed, ASK_WAIT)
    }

    fn take_starts(&mut self) {
        let mut index = 0;
        while index < self.starting.len() {
            match self.starting[index].look.take() {
                Some(ranges) => {
                    let Starting { partitions, from, .. } = self.starting.remove(index);
                    self.started(partitions, from, &ranges);
                }
                None => index += 1,
            }
        }
    }

    fn started(&mut self, partitions: Vec<u32>, from: Checkpoint, ranges: &OffsetRanges) {
        if !self.may_start(&partitions) {
            return;
        }
        let mut started = BTreeMap::new();
        for &partition in &partitions {
            let Some(range) = ranges.known.get(&partition) else {
                let error = KafkaError::MetadataFetch(ranges.error.unwrap_or(RDKafkaErrorCode::OffsetNotAvailable));
                self.warn("cannot ask where a partition starts and ends", &error);
                self.postponed.push((Instant::now() + POSTPONE, partitions, from));
                return;
            };
            match self.find_start(partition, from.0.get(&partition).copied(), *range) {
                Ok(active) => drop(started.insert(partition, active)),
                Err(reason) => {
                    tracing::error!(partition, topic = self.config.topic, "{reason}");
                    let due = Instant::now() + STOPPED_PAUSE;
                    self.stopped.push(Stopped { partitions, reason, due });
                    self.tell_lag();
                    return;
                }
            }
        }
        let is_again = partitions.iter().all(|partition| self.active.contains_key(partition));
        let result = if is_again { self.seek(&started) } else { self.assign(&started) };
        match result {
            Ok(()) => {
                self.pending_start.clear();
                let fetched = &self.client.context().fetched;
                let mut fetched = lock(fetched);
                fetched.retain(|partition, _| !started.contains_key(partition)); // before the start
                drop(fetched);
                self.active.extend(started);
                self.received_at = Instant::now();
                self.tell_lag();
            }
            Err(error) => {
                self.warn("cannot start at the stored positions, trying again", &error);
                self.postponed.push((Instant::now() + POSTPONE, partitions, from));
            }
        }
    }

    fn start_postponed(&mut self) {
        let now = Instant::now();
        while let Some(due) = self.postponed.iter().position(|(at, ..)| now >= *at) {
            let (_, partitions, from) = self.postponed.remove(due);
            self.start(partitions, from);
        }
        while let Some(due) = self.stopped.iter().position(|stopped| now >= stopped.due) {
            let Stopped { partitions, .. } = self.stopped.remove(due);
            self.queue.push_back(Event::Assigned(partitions, self.topic_id));
        }
    }

    fn assign(&mut self, started: &BTreeMap<u32, Active>) -> KafkaResult<()> {
        let mut list = TopicPartitionList::new();
        for (&partition, active) in started {
            list.add_partition_offset(&self.config.topic, signed(partition), offset(active.next))?;
        }
        // The library keeps a pause over an assignment, and these were paused when they were last revoked.
        let _ = self.client.resume(&list); // of what it does not know yet nothing is paused
        self.is_paused = false;
        self.client.assign(&list)
    }

    fn seek(&mut self, started: &BTreeMap<u32, Active>) -> KafkaResult<()> {
        let mut list = TopicPartitionList::new();
        for (&partition, active) in started {
            list.add_partition_offset(&self.config.topic, signed(partition), offset(active.next))?;
        }
        // Waited for, because one that is refused would go on in silence where it was. It is the
        // library's own thread that answers, as it does for an assignment.
        let sought = self.client.seek_partitions(list, SEEK_WAIT)?;
        for element in sought.elements() {
            element.error()?;
        }
        if self.is_paused {
            return Ok(()); // they go on with all others
        }
        self.client.resume(&sought)
    }

    /// Where a partition with this stored position starts.
    fn find_start(&self, partition: u32, stored: Option<u64>, range: OffsetRange) -> Result<Active, String> {
        let OffsetRange { first, end } = range;
        let topic = &self.config.topic;
        let next = match stored {
            None => first,
            Some(stored) if stored > end => {
                return Err(format!(
                    "partition {partition} of {topic} ends at {end}, and orders up to {stored} are stored: the topic lost \
                     messages, or the store is of another cluster; restore the topic, or use another group to read it from \
                     its start"
                ));
            }
            Some(stored) if stored < first => {
                let lost = first - stored;
                tracing::error!(
                    partition,
                    lost,
                    "messages were deleted from the topic before they were read; going on after them"
                );
                self.metrics.lost.inc_by(lost);
                first
            }
            Some(stored) => stored,
        };
        Ok(Active { next, durable: next, end, is_held: false, reached: next })
    }

    /// Stops handing over a partition until its position is known again.
    fn fenced(&mut self, partition: u32) {
        if self.releasing.is_some() {
            return; // it is not this process's any more
        }
        let Some(active) = self.active.get_mut(&partition) else { return };
        active.is_held = true;
        let mut list = TopicPartitionList::new();
        list.add_partition(&self.config.topic, signed(partition));
        if let Err(error) = self.client.pause(&list) {
            self.warn("cannot pause", &error);
        }
        self.queue.push_back(Event::Assigned(vec![partition], self.topic_id));
    }

    /// Offsets for lag tools; nothing is read from them.
    fn commit(&mut self, mode: CommitMode) {
        if self.active.is_empty() {
            return;
        }
        let list = self.list(|active| offset(active.done()));
        if let Err(error) = self.client.commit(&list, mode) {
            tracing::debug!(%error, "offsets not committed to the broker");
        }
    }

    /// Asks how far the partitions reach.
    fn measure(&mut self) {
        if self.measured_at.elapsed() < LAG_EVERY {
            return;
        }
        self.measured_at = Instant::now();
        self.look_at_topic();
        if self.lag_look.is_none() && !self.active.is_empty() {
            let partitions: Vec<u32> = self.active.keys().copied().collect();
            self.lag_look = Some(self.look_at_offsets(&partitions));
        }
        // An answer that comes late, behind large ones of the same connection, does not leave the
        // lag as it was.
        let fetched = self.client.context().fetched.lock().unwrap_or_else(PoisonError::into_inner);
        for (partition, active) in &mut self.active {
            let end = fetched.get(partition).and_then(|fetched| fetched.end);
            active.end = active.end.max(end.unwrap_or_default());
        }
        drop(fetched);
        self.tell_lag();
    }

    /// How far the partitions reach, and so whether the consumer still delivers. Asked apart from
    /// what is fetched: where fetches get no answer, the statistics say what was true before.
    fn take_lag(&mut self) {
        let Some(OffsetRanges { known, error }) = self.lag_look.as_mut().and_then(OffsetLook::take) else { return };
        self.lag_look = None;
        if let Some(code) = error {
            tracing::debug!(%code, topic = self.config.topic, "cannot ask where partitions end");
        }
        let fetched = &self.client.context().fetched;
        let fetched = std::mem::take(&mut *lock(fetched));
        let mut is_waiting = false;
        for (partition, active) in &mut self.active {
            let Some(OffsetRange { end, .. }) = known.get(partition) else {
                // A partition that nothing can be learned of may have anything in it.
                is_waiting = true;
                continue;
            };
            active.end = *end;
            let reached = fetched.get(partition).and_then(|fetched| fetched.reached);
            active.reached = reached.unwrap_or(active.reached).min(*end);
            is_waiting |= active.end > active.next.max(active.reached);
        }
        self.tell_lag();
        let is_ours_to_wait = self.is_paused || !self.queue.is_empty() || self.releasing.is_some();
        let is_waiting = is_waiting && !is_ours_to_wait;
        // The time counts from the first answer that says so: before it the answers may have come
        // late, or none while the process was stopped.
        if !std::mem::replace(&mut self.is_waiting, is_waiting) {
            self.received_at = Instant::now().max(self.received_at);
        }
        if is_waiting && self.received_at.elapsed() >= self.config.stall_timeout {
            self.restart();
        }
    }

    fn look_at_topic(&mut self) {
        if self.look.is_none() {
            self.look = Some(TopicLook::ask(self.client.client(), &self.config.topic, ASK_WAIT));
        }
    }

    /// What the brokers say of the topic: that it may be read, and which one it is. A topic that was deleted and made
    /// again is another one, and the positions of the former one say nothing about it.
    fn take_look(&mut self) {
        use RDKafkaErrorCode as Code;
        let Some(answer) = self.look.as_ref().and_then(TopicLook::take) else { return };
        self.look = None;
        match answer {
            Ok(look) => {
                self.refused.connection = None;
                self.refused.topic = (!look.is_readable).then(|| unreadable(&self.config.topic));
                self.is_missing = false;
                if look.id != self.topic_id {
                    self.topic_id = look.id;
                    self.starting.clear(); // at positions in the former topic
                    self.postponed.clear();
                    self.begin_again();
                    // What is not started yet was pending_start as partitions of the former topic.
                    self.is_offer_due |= !self.pending_start.is_empty();
                    self.stopped.clear();
                }
                if self.is_offer_due && self.releasing.is_none() {
                    self.is_offer_due = false;
                    self.queue.push_back(Event::Assigned(self.pending_start.clone(), self.topic_id));
                }
            }
            Err(Code::TopicAuthorizationFailed) => {
                self.refused.connection = None;
                self.refused.topic = Some(unreadable(&self.config.topic));
            }
            Err(Code::UnknownTopicOrPartition | Code::UnknownTopic) => {
                self.refused = Refused { connection: None, topic: None, group: self.refused.group.take() };
                self.is_missing = self.active.is_empty();
            }
            // It is asked again in a moment.
            Err(code) => tracing::debug!(%code, topic = self.config.topic, "cannot look at the topic"),
        }
        self.tell_lag();
    }

    fn tell_of_another(&self) {
        let (topic, id) = (&self.config.topic, self.topic_id.map(tracing::field::display));
        tracing::warn!(topic, id, "the topic was deleted and made again, reading it from its start");
        self.metrics.remade.inc();
    }

    /// The consumer is behind and delivers nothing: another one may do better.
    fn restart(&mut self) {
        tracing::error!(after = ?self.config.stall_timeout, "the consumer is stalled, making it again");
        self.metrics.stalls.inc();
        self.is_waiting = false;
        match subscribe(&self.config, &self.rebalances) {
            Ok(consumer) => {
                close(&self.client);
                self.look = None;
                self.lag_look = None;
                self.starting.clear();
                let stalled = std::mem::replace(&mut self.client, consumer);
                // To leave the group waits for brokers that may not answer; the thread that polls must not.
                let leave = std::thread::Builder::new().name("kafka-leave".into()).spawn(move || drop(stalled));
                if let Err(error) = leave {
                    tracing::warn!(%error, "the stalled consumer was dropped on the thread that polls");
                }
                self.is_paused = false;
                self.postponed.clear();
                self.queue.push_back(Event::Revoked(self.active.keys().copied().collect()));
                self.releasing = Some(Instant::now() + RELEASE_WAIT);
            }
            Err(error) => self.warn("cannot make a consumer", &error),
        }
    }

    /// Tells how far behind it is, and whether that or anything else keeps the service from being ready.
    fn tell_lag(&mut self) {
        let mut total = 0;
        for (partition, active) in &self.active {
            let lag = active.end.saturating_sub(active.done());
            total += lag;
            self.metrics.lag.with_label_values(&[&partition.to_string()]).set(i64::try_from(lag).unwrap_or(i64::MAX));
        }
        self.metrics.stopped.set(i64::from(!self.stopped.is_empty()));
        let stopped = self.stopped.first().map(|stopped| &*stopped.reason);
        if let Some(reason) = self.refused.reason().or(stopped).map(str::to_owned) {
            self.gate.close(&reason);
            if self.refused.reason().is_some() && self.may_warn() {
                tracing::warn!(topic = self.config.topic, group = self.config.group, "{reason}");
            }
            self.was_refused = true;
        } else if !self.active.is_empty() {
            self.was_refused = false;
            if total <= self.config.lag_max {
                self.gate.open();
            } else {
                self.gate.close(&format!("{total} messages behind"));
            }
        } else if self.is_spare || self.is_missing {
            self.gate.open();
        } else if std::mem::take(&mut self.was_refused) {
            self.gate.close("no partition is assigned yet");
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

fn unreadable(topic: &str) -> String {
    format!("Kafka does not let this user read the topic {topic}")
}

fn subscribe(config: &Config, rebalances: &Arc<Mutex<VecDeque<Rebalance>>>) -> KafkaResult<BaseConsumer<Context>> {
    let context = Context {
        shared: Arc::clone(rebalances),
        topic: config.topic.clone(),
        fetched: Mutex::default(),
        brokers: BrokerWatch::new("consumer"),
        is_closing: AtomicBool::new(false),
    };
    let consumer: BaseConsumer<Context> = config.consumer().create_with_context(context)?;
    consumer.subscribe(&[&config.topic])?;
    Ok(consumer)
}

/// Gives everything back. Dropping the consumer then leaves the group, unless this member has a name of its own: to
/// unsubscribe before that would make such a one leave too, and its partitions move for a short restart.
fn close(consumer: &BaseConsumer<Context>) {
    consumer.context().is_closing.store(true, Ordering::Release);
    let _ = consumer.unassign();
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

fn signed(partition: u32) -> i32 {
    i32::try_from(partition).unwrap_or(i32::MAX)
}

fn offset(next: u64) -> Offset {
    Offset::Offset(i64::try_from(next).unwrap_or(i64::MAX))
}
