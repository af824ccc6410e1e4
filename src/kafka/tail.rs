//! Reads all of a topic from now on, as a member of no group: what is said to every instance. The
//! thread that polls waits for no broker, but for messages: what it asks of them is under way
//! meanwhile.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Message as _};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use super::broker_watch::{BrokerWatch, Watched};
use super::offset_look::{OffsetLook, OffsetRange, OffsetRanges};
use super::topic_look::TopicLook;
use super::{Config, header};
use crate::process::lifecycle::{Gate, Switch};

const POLL: Duration = Duration::from_millis(50);
/// The same while an answer is waited for.
const ASKED_POLL: Duration = Duration::from_millis(10);
const ASK_WAIT: Duration = Duration::from_secs(2);
/// How often is looked how far the topic reaches, and for new partitions.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Between two tries at a topic that is unavailable.
const PAUSE: Duration = Duration::from_millis(300);
/// A topic that was not read for so long has the service not ready.
const LIVE_PATIENCE: Duration = Duration::from_secs(10);
const WARN_EVERY: Duration = Duration::from_secs(30);
/// A topic that is about to be made is missing for a moment.
const PATIENCE: Duration = Duration::from_secs(10);

/// A topic being read. Dropping it ends the reading.
pub struct Tail(Arc<AtomicBool>);

/// A message that was read.
pub struct Message<'m>(BorrowedMessage<'m>);

impl Message<'_> {
    /// The message's key.
    #[must_use]
    pub fn key(&self) -> Option<&[u8]> {
        self.0.key()
    }

    /// The message's value.
    #[must_use]
    pub fn value(&self) -> Option<&[u8]> {
        self.0.payload()
    }

    /// A header, where it is there and text.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        std::str::from_utf8(header(&self.0, name)?).ok()
    }

    /// A header that is a number.
    #[must_use]
    pub fn number(&self, name: &str) -> Option<u64> {
        self.header(name)?.parse().ok()
    }
}

impl Tail {
    /// Starts a thread that hands each message to `take`, while `switch` is wanted; live is when everything written to
    /// the topic from a moment after it was wanted has been handed over or is about to be. `gate` is closed where it is
    /// wanted and has not been live for long. Neither the brokers nor the topic need be there yet.
    ///
    /// # Errors
    /// When the settings are not what the library takes.
    pub fn start(
        config: &Config,
        topic: &str,
        switch: Switch,
        gate: Gate,
        take: impl FnMut(&Message<'_>) + Send + 'static,
    ) -> anyhow::Result<Self> {
        let is_over = Arc::new(AtomicBool::new(false));
        let mut settings = config.watched(config.reader());
        settings.set("enable.partition.eof", "false").set("fetch.wait.max.ms", "100");
        let reading = Reading {
            asked: None,
            due: Instant::now(),
            client: settings.create_with_context(Watched { brokers: BrokerWatch::new("tail") })?,
            config: config.clone(),
            topic: topic.to_owned(),
            switch,
            gate,
            live_at: Instant::now(),
            reason: "not read yet".into(),
            is_over: Arc::clone(&is_over),
            next: BTreeMap::new(),
            ends: BTreeMap::new(),
            may_warn_at: Instant::now() + PATIENCE,
        };
        std::thread::Builder::new().name("tail".into()).spawn(move || reading.run(take))?;
        Ok(Self(is_over))
    }
}

impl Drop for Tail {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Release);
    }
}

/// What the brokers are asked, under way.
enum Asked {
    /// Which partitions there are.
    Topic(TopicLook),
    /// Where they start and end, and up to where each was read when that was asked.
    Offsets(OffsetLook, BTreeMap<u32, u64>),
}

struct Reading {
    /// Before the client, which has to outlive it.
    asked: Option<Asked>,
    /// When the next is asked.
    due: Instant,
    client: BaseConsumer<Watched>,
    config: Config,
    topic: String,
    switch: Switch,
    gate: Gate,
    /// When it was live or not wanted for the last time.
    live_at: Instant,
    /// Why it is not live, as far as that is known.
    reason: String,
    is_over: Arc<AtomicBool>,
    /// The next offset of each partition that is read.
    next: BTreeMap<u32, u64>,
    /// Where each ended at the last look.
    ends: BTreeMap<u32, u64>,
    may_warn_at: Instant,
}

impl Reading {
    fn run(mut self, mut take: impl FnMut(&Message<'_>)) {
        self.gate.open();
        while !self.is_over.load(Ordering::Acquire) {
            self.client.context().brokers.recover(self.client.client(), self.config.bootstrap());
            if !self.switch.is_wanted() {
                self.end();
                let _ = self.client.poll(POLL); // nothing is assigned, and what the library has to say is taken
                continue;
            }
            self.look();
            match self.client.poll(if self.asked.is_some() { ASKED_POLL } else { POLL }) {
                None => {}
                Some(Ok(message)) => {
                    self.next.insert(message.partition().unsigned_abs(), message.offset().unsigned_abs() + 1);
                    take(&Message(message));
                }
                Some(Err(error)) => self.on_error(&error),
            }
        }
    }

    fn keep_gate(&mut self) {
        if !self.switch.is_wanted() || self.switch.is_live() {
            self.live_at = Instant::now();
            self.gate.open();
        } else if self.live_at.elapsed() >= LIVE_PATIENCE {
            self.gate.close(&format!("topic {} cannot be read: {}", self.topic, self.reason));
        }
    }

    fn end(&mut self) {
        self.asked = None;
        self.due = Instant::now();
        if !self.next.is_empty() {
            self.switch.say(false);
            self.next.clear();
            if let Err(error) = self.client.unassign() {
                self.on_error(&error);
            }
        }
        self.keep_gate();
    }

    /// Asks when it is time, and takes what is answered.
    fn look(&mut self) {
        let done = match &mut self.asked {
            None => {
                if Instant::now() >= self.due {
                    self.due = Instant::now() + LOOK_EVERY;
                    self.asked = Some(Asked::Topic(TopicLook::ask(self.client.client(), &self.topic, ASK_WAIT)));
                }
                return;
            }
            Some(Asked::Topic(look)) => match look.take() {
                None => return,
                Some(Ok(look)) if look.partitions > 0 => {
                    let (client, is_committed) = (self.client.client(), self.config.reads_committed());
                    let look = OffsetLook::ask(client, &self.topic, 0..look.partitions, is_committed, ASK_WAIT);
                    self.asked = Some(Asked::Offsets(look, self.next.clone()));
                    return;
                }
                Some(Ok(_)) => Err(KafkaError::MetadataFetch(RDKafkaErrorCode::UnknownTopicOrPartition)),
                Some(Err(code)) => Err(KafkaError::MetadataFetch(code)),
            },
            Some(Asked::Offsets(look, read)) => match look.take() {
                None => return,
                Some(OffsetRanges { error: Some(code), .. }) => Err(KafkaError::MetadataFetch(code)),
                Some(OffsetRanges { known, error: None }) => {
                    let read = std::mem::take(read);
                    if self.next.is_empty() { self.begin(&known) } else { self.go_on(&known, &read) }
                }
            },
        };
        self.asked = None;
        match done {
            Ok(is_live) => self.switch.say(is_live),
            Err(error) => {
                self.due = Instant::now() + PAUSE;
                self.on_error(&error);
            }
        }
        self.keep_gate();
    }

    /// Reads every partition from its end.
    fn begin(&mut self, known: &BTreeMap<u32, OffsetRange>) -> KafkaResult<bool> {
        self.next = known.iter().map(|(&partition, range)| (partition, range.end)).collect();
        if let Err(error) = self.assign() {
            self.next.clear();
            return Err(error);
        }
        self.ends.clone_from(&self.next);
        Ok(true)
    }

    /// Whether all that was there at the last look has been read by now.
    fn go_on(&mut self, known: &BTreeMap<u32, OffsetRange>, read: &BTreeMap<u32, u64>) -> KafkaResult<bool> {
        let mut is_live = true;
        let mut is_moved = false;
        for (&partition, &OffsetRange { first, end }) in known {
            let before = self.ends.insert(partition, end).unwrap_or(first);
            let next = self.next.entry(partition).or_insert_with(|| {
                is_moved = true;
                first // all of a partition that is new since
            });
            // What was read since it was asked is beyond the end that was answered.
            let was = read.get(&partition).copied().unwrap_or(first);
            if was > end || *next < first {
                *next = first; // the topic was deleted and made again, or its beginning is gone
                is_moved = true;
            }
            is_live &= *next >= before.min(end);
        }
        if is_moved {
            self.assign()?;
        }
        Ok(is_live)
    }

    fn assign(&self) -> KafkaResult<()> {
        let mut list = TopicPartitionList::new();
        for (&partition, &next) in &self.next {
            let partition = i32::try_from(partition).unwrap_or(i32::MAX);
            let next = Offset::Offset(i64::try_from(next).unwrap_or(i64::MAX));
            list.add_partition_offset(&self.topic, partition, next)?;
        }
        self.client.assign(&list)
    }

    fn on_error(&mut self, error: &KafkaError) {
        self.switch.say(false);
        self.reason = error.to_string();
        if self.may_warn_at <= Instant::now() {
            self.may_warn_at = Instant::now() + WARN_EVERY;
            tracing::warn!(%error, topic = self.topic, "cannot read the topic");
        }
    }
}
