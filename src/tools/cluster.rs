//! Kafka as the tools use it: brokers that may be written to, and messages that are waited for until they are there.

use std::net::ToSocketAddrs;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use rdkafka::client::{Client, ClientContext};
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::message::{DeliveryResult, OwnedHeaders};
use rdkafka::metadata::Metadata;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer, ProducerContext, PurgeConfig};

use crate::kafka;

/// What the library gives back when it has no room.
type Unsent<'a> = (KafkaError, BaseRecord<'a, [u8], [u8]>);

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

fn check_local(host: &str, port: u16) -> anyhow::Result<()> {
    let host = host.trim_matches(['[', ']']);
    let mut addresses = (host, port).to_socket_addrs().with_context(|| format!("{host:?} is no known host"))?;
    if let Some(address) = addresses.find(|address| !address.ip().is_loopback()) {
        bail!("{address} is not this machine; --allow-remote allows it");
    }
    Ok(())
}

/// What the brokers know of a topic, which must be there.
pub(super) fn look_up<C: ClientContext>(client: &Client<C>, brokers: &str, topic: &str) -> anyhow::Result<Metadata> {
    let started = Instant::now();
    loop {
        let left = CONNECT_TIME.saturating_sub(started.elapsed()).max(Duration::from_millis(1));
        let metadata = client
            .fetch_metadata(Some(topic), left)
            .with_context(|| format!("no broker of {brokers} answers within {} s", CONNECT_TIME.as_secs()))?;
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

/// How many partitions a topic has.
pub(super) fn partition_count(metadata: &Metadata) -> i32 {
    metadata.topics().first().map_or(0, |topic| i32::try_from(topic.partitions().len()).unwrap_or(i32::MAX))
}

/// Messages on their way to Kafka. How many may wait is up to librdkafka's limits on its queue.
pub struct Sender {
    producer: BaseProducer<Deliveries>,
    brokers: String,
    accepted: u64,
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
pub(super) struct Deliveries {
    sent: AtomicU64,
    failed: AtomicU64,
    first_failure: Mutex<Option<String>>,
    /// Nobody took a message for as long as it was tried, or nothing more can be sent by this client.
    is_over: AtomicBool,
}

impl Deliveries {
    fn fail(&self, failure: impl FnOnce() -> String) {
        self.failed.fetch_add(1, Ordering::Relaxed);
        self.first_failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_with(failure);
    }
}

impl ClientContext for Deliveries {}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        match result {
            Ok(_) => {
                self.sent.fetch_add(1, Ordering::Relaxed);
            }
            Err((error, _)) => {
                self.fail(|| error.to_string());
                if is_final(error) {
                    self.is_over.store(true, Ordering::Relaxed);
                }
            }
        }
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

impl Sender {
    /// A client that has not connected yet.
    pub(super) fn connect(config: &kafka::Config) -> anyhow::Result<Self> {
        let producer =
            config.producer().create_with_context(Deliveries::default()).context("no client can be made for Kafka")?;
        Ok(Self { producer, brokers: config.brokers.clone(), accepted: 0 })
    }

    pub(super) fn look_up(&self, topic: &str) -> anyhow::Result<Metadata> {
        look_up(self.producer.client(), &self.brokers, topic)
    }

    /// Hands a message over, and waits while there is no room for it. A message that can never be sent counts as
    /// failed.
    ///
    /// # Errors
    /// When no message gets through any more.
    pub(super) fn send(&mut self, message: Message<'_>) -> anyhow::Result<()> {
        self.accepted += 1;
        let mut record = BaseRecord::<[u8], [u8]>::to(message.topic);
        record.partition = message.partition;
        record.key = message.key;
        record.payload = message.value;
        record.headers = message.headers;
        let outcome = loop {
            match self.try_send(record) {
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), again)) => {
                    self.producer.poll(POLL_TIME);
                    record = again;
                }
                outcome => break outcome.map_err(|(error, _)| error),
            }
        };
        if let Err(error) = outcome {
            self.deliveries().fail(|| error.to_string());
            if is_final(&error) {
                self.deliveries().is_over.store(true, Ordering::Relaxed);
            }
        }
        self.check()
    }

    fn try_send<'a>(&self, record: BaseRecord<'a, [u8], [u8]>) -> Result<(), Unsent<'a>> {
        if self.deliveries().is_over.load(Ordering::Relaxed) {
            return Ok(()); // told by `check`
        }
        self.producer.send(record)
    }

    fn check(&self) -> anyhow::Result<()> {
        if self.deliveries().is_over.load(Ordering::Relaxed) {
            bail!("nothing gets through to {} any more", self.brokers);
        }
        Ok(())
    }

    fn deliveries(&self) -> &Deliveries {
        self.producer.context()
    }

    /// Takes note of what has arrived since. Without it nothing makes room.
    ///
    /// # Errors
    /// When no message gets through any more.
    pub(super) fn poll(&self) -> anyhow::Result<()> {
        self.producer.poll(Duration::ZERO);
        self.check()
    }

    /// How many are known to have arrived.
    pub(super) fn sent(&self) -> u64 {
        self.deliveries().sent.load(Ordering::Relaxed)
    }

    /// Waits until every message has arrived or failed, calling `told` meanwhile. Returns how many arrived and how
    /// many did not, with the first reason.
    pub(super) fn finish(self, mut told: impl FnMut(u64)) -> KafkaResult<(u64, u64, Option<String>)> {
        while self.producer.in_flight_count() > 0 {
            self.producer.poll(POLL_TIME);
            told(self.sent());
            if self.deliveries().is_over.load(Ordering::Relaxed) {
                self.producer.purge(PurgeConfig::default().queue().inflight());
            }
        }
        // The last reports may be in the queue when nothing is in flight any more.
        self.producer.flush(POLL_TIME)?;
        let sent = self.sent();
        told(sent);
        let failure = self.deliveries().first_failure.lock().unwrap_or_else(PoisonError::into_inner).take();
        Ok((sent, self.accepted - sent, failure))
    }
}
