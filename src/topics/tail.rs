//! Reads all of a topic from now on, as a member of no group: what is said to every instance.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::message::{BorrowedMessage, Message as _};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use crate::kafka::broker_watch::{BrokerWatch, Watched};
use crate::kafka::{Config, header, watermarks};
use crate::lifecycle::{Gate, Switch};

const POLL: Duration = Duration::from_millis(50);
const ASK_WAIT: Duration = Duration::from_secs(2);
/// How often is looked how far the topic reaches, and for new partitions.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// Between two tries at a topic that is away.
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
            looked: Instant::now(),
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

struct Reading {
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
    next: BTreeMap<i32, i64>,
    /// Where each ended at the last look.
    ends: BTreeMap<i32, i64>,
    looked: Instant,
    may_warn_at: Instant,
}

impl Reading {
    fn run(mut self, mut take: impl FnMut(&Message<'_>)) {
        self.gate.open();
        while !self.is_over.load(Ordering::Acquire) {
            self.client.context().brokers.recover(self.client.client(), self.config.bootstrap());
            let is_wanted = self.switch.is_wanted();
            if is_wanted == self.next.is_empty() {
                let done = if is_wanted { self.begin() } else { self.end() };
                if let Err(error) = done {
                    self.trouble(&error);
                    self.keep_gate();
                    std::thread::sleep(PAUSE);
                    continue;
                }
                self.keep_gate();
            }
            if !is_wanted {
                let _ = self.client.poll(POLL); // nothing is assigned, and what the library has to say is taken
                continue;
            }
            match self.client.poll(POLL) {
                None => {}
                Some(Ok(message)) => {
                    self.next.insert(message.partition(), message.offset() + 1);
                    take(&Message(message));
                }
                Some(Err(error)) => self.trouble(&error),
            }
            if self.looked.elapsed() >= LOOK_EVERY {
                self.looked = Instant::now();
                match self.look() {
                    Ok(is_live) => self.switch.say(is_live),
                    Err(error) => self.trouble(&error),
                }
                self.keep_gate();
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

    /// Reads every partition from its end.
    fn begin(&mut self) -> KafkaResult<()> {
        let mut ends = BTreeMap::new();
        for partition in self.partitions()? {
            let (_, end) = watermarks(self.client.client(), &self.topic, partition, ASK_WAIT)?;
            ends.insert(partition, end);
        }
        self.next.clone_from(&ends);
        if let Err(error) = self.assign() {
            self.next.clear();
            return Err(error);
        }
        self.ends = ends;
        self.looked = Instant::now();
        self.switch.say(true);
        Ok(())
    }

    fn end(&mut self) -> KafkaResult<()> {
        self.switch.say(false);
        self.next.clear();
        self.client.unassign()
    }

    /// Whether all that was there at the last look has been read by now.
    fn look(&mut self) -> KafkaResult<bool> {
        let mut is_live = true;
        let mut is_moved = false;
        for partition in self.partitions()? {
            let (first, end) = watermarks(self.client.client(), &self.topic, partition, ASK_WAIT)?;
            let before = self.ends.insert(partition, end).unwrap_or(first);
            let next = self.next.entry(partition).or_insert_with(|| {
                is_moved = true;
                first // all of a partition that is new since
            });
            if *next > end || *next < first {
                *next = first; // the topic was made anew, or its beginning is gone
                is_moved = true;
            }
            is_live &= *next >= before.min(end);
        }
        if is_moved {
            self.assign()?;
        }
        Ok(is_live)
    }

    fn partitions(&self) -> KafkaResult<Vec<i32>> {
        let metadata = self.client.fetch_metadata(Some(&self.topic), ASK_WAIT)?;
        let partitions = metadata.topics().iter().flat_map(rdkafka::metadata::MetadataTopic::partitions);
        let partitions: Vec<i32> = partitions.map(rdkafka::metadata::MetadataPartition::id).collect();
        if partitions.is_empty() {
            return Err(KafkaError::MetadataFetch(RDKafkaErrorCode::UnknownTopicOrPartition));
        }
        Ok(partitions)
    }

    fn assign(&self) -> KafkaResult<()> {
        let mut list = TopicPartitionList::new();
        for (&partition, &next) in &self.next {
            list.add_partition_offset(&self.topic, partition, Offset::Offset(next))?;
        }
        self.client.assign(&list)
    }

    fn trouble(&mut self, error: &KafkaError) {
        self.switch.say(false);
        self.reason = error.to_string();
        if self.may_warn_at <= Instant::now() {
            self.may_warn_at = Instant::now() + WARN_EVERY;
            tracing::warn!(%error, topic = self.topic, "cannot read the topic");
        }
    }
}
