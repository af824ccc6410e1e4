//! Kafka as the tools use it: brokers that may be written to, and messages that are waited for until they are there.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use rdkafka::client::{Client, ClientContext};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{DeliveryResult, Message as _, OwnedHeaders, OwnedMessage};
use rdkafka::metadata::Metadata;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer, ProducerContext, PurgeConfig};

use super::client::check_local;
use crate::kafka;

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
    /// Made for the first message that was refused in company.
    alone: Option<BaseProducer<Deliveries>>,
    told: Arc<Told>,
    config: kafka::Config,
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
struct Told {
    sent: AtomicU64,
    failed: AtomicU64,
    first_failure: Mutex<Option<String>>,
    /// Refused in company, and not yet sent alone.
    refused: Mutex<Vec<OwnedMessage>>,
    /// Nobody took a message for as long as it was tried, or nothing more can be sent by this client.
    is_over: AtomicBool,
}

impl Told {
    fn fail(&self, error: &KafkaError) {
        self.failed.fetch_add(1, Ordering::Relaxed);
        self.first_failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert_with(|| error.to_string());
        if is_final(error) {
            self.is_over.store(true, Ordering::Relaxed);
        }
    }

    fn is_over(&self) -> bool {
        self.is_over.load(Ordering::Relaxed)
    }

    fn refused(&self) -> MutexGuard<'_, Vec<OwnedMessage>> {
        self.refused.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Takes note of deliveries.
pub(super) struct Deliveries {
    told: Arc<Told>,
    /// Each message is sent by itself.
    is_alone: bool,
}

impl ClientContext for Deliveries {}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = ();

    fn delivery(&self, result: &DeliveryResult<'_>, (): ()) {
        match result {
            Ok(_) => {
                self.told.sent.fetch_add(1, Ordering::Relaxed);
            }
            Err((error, message)) if !self.is_alone && is_for_company(error) => {
                self.told.refused().push(message.detach());
            }
            Err((error, _)) => self.told.fail(error),
        }
    }
}

/// Whether all messages that were sent together may be refused for one of them.
fn is_for_company(error: &KafkaError) -> bool {
    matches!(
        error.rdkafka_error_code(),
        Some(
            RDKafkaErrorCode::MessageSizeTooLarge
                | RDKafkaErrorCode::InvalidTimestamp
                | RDKafkaErrorCode::InvalidRecord
                | RDKafkaErrorCode::InvalidDifferentRecord
        )
    )
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
        let told = Arc::default();
        let context = Deliveries { told: Arc::clone(&told), is_alone: false };
        let producer = config.producer().create_with_context(context).context("no client can be made for Kafka")?;
        Ok(Self { producer, alone: None, told, config: config.clone(), accepted: 0 })
    }

    pub(super) fn look_up(&self, topic: &str) -> anyhow::Result<Metadata> {
        look_up(self.producer.client(), &self.config.brokers, topic)
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
        self.hand_over(&self.producer, record);
        self.check()
    }

    /// Waits for room.
    fn hand_over(&self, producer: &BaseProducer<Deliveries>, mut record: BaseRecord<'_, [u8], [u8]>) {
        while !self.told.is_over() {
            match producer.send(record) {
                Ok(()) => return,
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), again)) => {
                    producer.poll(POLL_TIME);
                    record = again;
                }
                Err((error, _)) => return self.told.fail(&error),
            }
        }
    }

    fn check(&self) -> anyhow::Result<()> {
        if self.told.is_over() {
            bail!("nothing gets through to {} any more", self.config.brokers);
        }
        Ok(())
    }

    /// Takes note of what has arrived since. Without it nothing makes room.
    ///
    /// # Errors
    /// When no message gets through any more.
    pub(super) fn poll(&mut self) -> anyhow::Result<()> {
        self.listen(Duration::ZERO)?;
        self.check()
    }

    /// Sends alone what was refused in company, later than what followed it.
    fn listen(&mut self, wait: Duration) -> anyhow::Result<()> {
        self.producer.poll(wait);
        let refused = std::mem::take(&mut *self.told.refused());
        if self.alone.is_none() && !refused.is_empty() {
            let context = Deliveries { told: Arc::clone(&self.told), is_alone: true };
            let mut config = self.config.producer();
            config.set("batch.num.messages", "1");
            self.alone = Some(config.create_with_context(context).context("no client can be made for Kafka")?);
        }
        let Some(alone) = &self.alone else { return Ok(()) };
        for message in refused {
            let mut record = BaseRecord::<[u8], [u8]>::to(message.topic()).partition(message.partition());
            record.key = message.key();
            record.payload = message.payload();
            record.headers = message.headers().cloned();
            self.hand_over(alone, record);
        }
        alone.poll(Duration::ZERO);
        Ok(())
    }

    fn in_flight(&self) -> i32 {
        let alone = self.alone.as_ref().map_or(0, Producer::in_flight_count);
        self.producer.in_flight_count() + alone
    }

    /// How many are known to have arrived.
    pub(super) fn sent(&self) -> u64 {
        self.told.sent.load(Ordering::Relaxed)
    }

    /// Waits until every message has arrived or failed, calling `told` meanwhile. Returns how many arrived and how
    /// many did not, with the first reason.
    ///
    /// # Errors
    /// When what was refused in company cannot be sent alone.
    pub(super) fn finish(mut self, mut told: impl FnMut(u64)) -> anyhow::Result<(u64, u64, Option<String>)> {
        while self.in_flight() > 0 || !self.told.refused().is_empty() {
            self.listen(POLL_TIME)?;
            told(self.sent());
            if self.told.is_over() {
                for producer in std::iter::once(&self.producer).chain(&self.alone) {
                    producer.purge(PurgeConfig::default().queue().inflight());
                }
            }
        }
        // The last reports may be in the queue when nothing is in flight any more.
        for producer in std::iter::once(&self.producer).chain(&self.alone) {
            producer.flush(POLL_TIME)?;
        }
        let sent = self.sent();
        told(sent);
        let failure = self.told.first_failure.lock().unwrap_or_else(PoisonError::into_inner).take();
        Ok((sent, self.accepted - sent, failure))
    }
}
