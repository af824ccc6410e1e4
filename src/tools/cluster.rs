//! Kafka as the tools use it: brokers that may be written to, and messages that are waited for until they are there.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, anyhow, bail};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::OwnedHeaders;
use rdkafka::metadata::Metadata;

use super::client::check_local;
use crate::kafka;
use crate::kafka::producer::{Producer, Told, outgoing};
use crate::sync::lock;

/// How long a broker is waited for before it counts as not there.
pub(super) const CONNECT_TIME: Duration = Duration::from_secs(8);

/// How long a topic may be missing from what the brokers say: one that they make at first sight takes a moment.
const MISSING_TIME: Duration = Duration::from_secs(2);

/// Brokers that may be sent orders in quantity.
#[derive(Debug, Clone)]
pub struct Cluster {
    config: kafka::Config,
    is_remote_allowed: bool,
}

impl Cluster {
    /// Looks the brokers up. Any but those of this machine must be allowed: load is not for strangers.
    ///
    /// # Errors
    /// When a broker's host is unknown, or it is remote and that is not allowed.
    pub fn parse(config: kafka::Config, is_remote_allowed: bool) -> anyhow::Result<Self> {
        if !is_remote_allowed {
            for broker in config.brokers.split(',') {
                let (host, port) = broker.rsplit_once(':').with_context(|| format!("{broker:?} names no port"))?;
                let port = port.parse().with_context(|| format!("{broker:?} names no port"))?;
                check_local(host, port)?;
            }
        }
        Ok(Self { config, is_remote_allowed })
    }

    /// The topic that orders go to.
    #[must_use]
    pub fn topic(&self) -> &str {
        &self.config.topic
    }

    /// Connects, and finds out that the topic is there.
    ///
    /// # Errors
    /// When no broker answers, when there is no such topic, or when the brokers say of themselves that they are
    /// elsewhere and that is not allowed.
    pub fn sender(&self) -> anyhow::Result<Sender> {
        let sender = Sender::connect(&self.config)?;
        let metadata = sender.look_up(&self.config.topic)?;
        if !self.is_remote_allowed {
            for broker in metadata.brokers() {
                let port = u16::try_from(broker.port()).context("a broker has no legal port")?;
                check_local(broker.host(), port).context("where the brokers say they are")?;
            }
        }
        Ok(sender)
    }
}

/// What the brokers know of a topic, which must be there. They are asked with the time that they may take.
pub(super) fn look_up(
    ask: impl Fn(Duration) -> Result<Metadata, KafkaError>,
    brokers: &str,
    topic: &str,
) -> anyhow::Result<Metadata> {
    let started = Instant::now();
    loop {
        let left = CONNECT_TIME.saturating_sub(started.elapsed()).max(Duration::from_millis(1));
        let metadata = ask(left).map_err(|error| unanswered(brokers, &error))?;
        let known = metadata.topics().iter().find(|known| known.name() == topic);
        match known.map(|known| known.error().map(RDKafkaErrorCode::from)) {
            Some(None) => return Ok(metadata),
            // It is being made.
            Some(Some(RDKafkaErrorCode::LeaderNotAvailable)) if started.elapsed() < CONNECT_TIME => {}
            None | Some(Some(RDKafkaErrorCode::UnknownTopicOrPartition)) => {
                if started.elapsed() >= MISSING_TIME {
                    bail!("{brokers} has no topic {topic}");
                }
            }
            Some(Some(code)) => return Err(anyhow::Error::from(code)).with_context(|| format!("topic {topic}")),
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}

/// That no broker answered, and why where that says more.
fn unanswered(brokers: &str, error: &KafkaError) -> anyhow::Error {
    use RDKafkaErrorCode::{AllBrokersDown, BrokerTransportFailure, OperationTimedOut};
    let seconds = CONNECT_TIME.as_secs();
    match error.rdkafka_error_code() {
        None | Some(AllBrokersDown | BrokerTransportFailure | OperationTimedOut) => {
            anyhow!("no broker of {brokers} answers within {seconds} s")
        }
        Some(code) => anyhow!("no broker of {brokers} answers within {seconds} s: {code}"),
    }
}

/// How many partitions a topic has.
pub(super) fn partition_count(metadata: &Metadata) -> i32 {
    metadata.topics().first().map_or(0, |topic| i32::try_from(topic.partitions().len()).unwrap_or(i32::MAX))
}

/// Messages on their way to Kafka. How many may wait is up to librdkafka's limits on its queue.
pub struct Sender {
    producer: Producer,
    account: Arc<Account>,
    config: kafka::Config,
    accepted: u64,
    looked: Instant,
}

/// A message to send.
#[derive(Default)]
pub(super) struct Message<'a> {
    pub topic: &'a str,
    /// By the key when `None`.
    pub partition: Option<i32>,
    pub key: Option<&'a [u8]>,
    pub value: Option<&'a [u8]>,
    pub headers: Option<OwnedHeaders>,
}

/// What became of the messages so far.
#[derive(Default)]
struct Account {
    sent: AtomicU64,
    failed: AtomicU64,
    first_failure: Mutex<Option<String>>,
    /// No message was taken for as long as it was tried, or nothing more can be sent.
    is_over: AtomicBool,
}

impl Account {
    fn note(&self, result: Result<(), KafkaError>) {
        let Err(error) = result else {
            self.sent.fetch_add(1, Ordering::Release);
            return;
        };
        lock(&self.first_failure).get_or_insert_with(|| error.to_string());
        if is_final(&error) {
            self.is_over.store(true, Ordering::Relaxed);
        }
        self.failed.fetch_add(1, Ordering::Release);
    }

    fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Relaxed)
    }

    /// How many have arrived or failed.
    fn ended(&self) -> u64 {
        self.sent.load(Ordering::Acquire) + self.failed.load(Ordering::Acquire)
    }
}

/// Whether the next message would fare no better.
fn is_final(error: &KafkaError) -> bool {
    matches!(
        error.rdkafka_error_code(),
        Some(RDKafkaErrorCode::MessageTimedOut | RDKafkaErrorCode::Fatal | RDKafkaErrorCode::UnknownTopic)
    )
}

/// How often is looked whether there is room again, or whether the last message is there.
const POLL_TIME: Duration = Duration::from_millis(1);
/// How often is looked whether the producer has lost every broker.
const LOOK_EVERY: Duration = Duration::from_secs(1);

impl Sender {
    /// A producer that has not connected yet.
    pub(super) fn connect(config: &kafka::Config) -> anyhow::Result<Self> {
        let producer = Producer::new("tool", config, config.producer()).context("no client can be made for Kafka")?;
        Ok(Self { producer, account: Arc::default(), config: config.clone(), accepted: 0, looked: Instant::now() })
    }

    pub(super) fn look_up(&self, topic: &str) -> anyhow::Result<Metadata> {
        look_up(|time| self.producer.look_up(topic, time), &self.config.brokers, topic)
    }

    /// Hands a message over, and waits while there is no room for it. A message that can never be sent counts as
    /// failed.
    ///
    /// # Errors
    /// When no message gets through any more.
    pub(super) fn send(&mut self, message: Message<'_>) -> anyhow::Result<()> {
        self.accepted += 1;
        let account = Arc::clone(&self.account);
        let told: Told = Box::new(move |result| account.note(result));
        let mut record = outgoing(message.topic, told);
        record.partition = message.partition;
        record.key = message.key;
        record.payload = message.value;
        record.headers = message.headers;
        while !self.account.is_over() {
            match self.producer.try_send(record) {
                Ok(()) => return self.poll(),
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), again)) => {
                    self.look_after();
                    std::thread::sleep(POLL_TIME);
                    record = again;
                }
                Err((error, record)) => {
                    Producer::refuse(record, error);
                    return self.poll();
                }
            }
        }
        Producer::refuse(record, KafkaError::Canceled);
        self.poll()
    }

    /// Whether messages still get through.
    ///
    /// # Errors
    /// When none does any more.
    pub(super) fn poll(&mut self) -> anyhow::Result<()> {
        self.look_after();
        if self.account.is_over() {
            bail!("nothing gets through to {} any more", self.config.brokers);
        }
        Ok(())
    }

    fn look_after(&mut self) {
        if self.looked.elapsed() >= LOOK_EVERY {
            self.looked = Instant::now();
            self.producer.recover();
        }
    }

    /// How many are known to have arrived.
    pub(super) fn sent(&self) -> u64 {
        self.account.sent.load(Ordering::Acquire)
    }

    /// Waits until every message has arrived or failed, calling `told` meanwhile. Returns how many arrived and how
    /// many did not, with the first reason.
    pub(super) fn finish(mut self, mut told: impl FnMut(u64)) -> (u64, u64, Option<String>) {
        while self.account.ended() < self.accepted {
            self.look_after();
            if self.account.is_over() {
                self.producer.purge();
            }
            std::thread::sleep(POLL_TIME);
            told(self.sent());
        }
        let sent = self.sent();
        told(sent);
        let failure = lock(&self.account.first_failure).take();
        (sent, self.accepted - sent, failure)
    }
}
