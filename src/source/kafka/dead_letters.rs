//! The dead letter topic: invalid messages as they came, with why they are there. Each is waited for, however long the
//! topic is unavailable.

use std::sync::Arc;
use std::time::Duration;

use rdkafka::admin::{NewTopic, TopicReplication};
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Header, OwnedHeaders};
use tokio::runtime::Handle;
use tokio::sync::{OnceCell, oneshot};

use crate::kafka::producer::{self, Producer, Told};
use crate::kafka::{self, Config};
use crate::process::lifecycle::Gate;
use crate::record::{Record, Rejection, dead};
use crate::source::broker::dead_letter::DeadLetter;
use crate::source::broker::deliveries::{Delivered, Deliveries, PAUSE_FIRST};

/// While a letter is on its way its producer is looked after this often.
const WATCH_EVERY: Duration = Duration::from_secs(1);

pub(super) struct DeadLetters {
    config: Arc<Config>,
    producer: Producer,
    /// Set once the topic was seen.
    has_topic: Arc<OnceCell<()>>,
    deliveries: Deliveries,
}

impl DeadLetters {
    /// `gate` is closed while a letter takes long.
    pub(super) fn new(config: &Config, gate: Gate) -> Result<Self, KafkaError> {
        let producer = Producer::new("dead letters", config, config.producer())?;
        let deliveries = Deliveries::new("topic", &config.dlq_topic, gate);
        Ok(Self { config: Arc::new(config.clone()), producer, has_topic: Arc::default(), deliveries })
    }

    /// Begins to deliver at once. The future is done when every replica in sync has the message.
    pub(super) fn keep(&self, record: &Record, rejection: &Rejection) -> Delivered {
        let dead_letter = Adjusted {
            dead_letter: DeadLetter::new(&self.config.topic, record, rejection),
            refused_ms: None,
            key: None,
        };
        let (config, producer) = (Arc::clone(&self.config), self.producer.clone());
        let has_topic = Arc::clone(&self.has_topic);
        let delivery = async move {
            has_topic.get_or_init(|| see_topic(&config, &producer)).await;
            deliver(&config, &producer, dead_letter).await;
        };
        self.deliveries.begin(&Handle::current(), delivery)
    }
}

/// A letter, adjusted to what its topic takes.
struct Adjusted {
    dead_letter: DeadLetter,
    /// When it was sent, once the topic has refused that time.
    refused_ms: Option<i64>,
    /// Where it came from, once the topic has refused it without a key.
    key: Option<String>,
}

impl Adjusted {
    fn message<'a>(&'a self, topic: &'a str, told: Told) -> producer::Outgoing<'a> {
        let DeadLetter { record, notes } = &self.dead_letter;
        let mut headers = OwnedHeaders::new();
        for (key, value) in record.headers.iter().flat_map(|headers| headers.iter()) {
            headers = headers.insert(Header { key, value: value.as_deref() });
        }
        for (key, value) in notes {
            headers = headers.insert(Header { key, value: Some(value) });
        }
        if let Some(sent_ms) = self.refused_ms {
            let sent_ms = sent_ms.to_string();
            headers = headers.insert(Header { key: dead::TIMESTAMP_MS, value: Some(&sent_ms) });
        }
        if self.key.is_some() {
            headers = headers.insert(Header { key: dead::KEY_ADDED, value: Some("yes") });
        }
        let mut message = producer::outgoing(topic, told);
        message.key = record.key.as_deref().or(self.key.as_deref().map(str::as_bytes));
        message.payload = record.payload.as_deref();
        message.timestamp = record.timestamp_ms;
        message.headers(headers)
    }

    /// Gives it a key if it has none: a compacted topic takes nothing without. Returns whether that is new.
    fn add_key(&mut self, topic: &str) -> bool {
        let (record, position) = (&self.dead_letter.record, self.dead_letter.record.position);
        if record.key.is_some() || self.key.is_some() {
            return false;
        }
        self.key = Some(format!("{topic}-{}-{}", position.partition, position.offset));
        true
    }

    /// Takes the time of delivery instead of the original one, which goes into a header. Returns whether that is new.
    fn retime(&mut self) -> bool {
        self.refused_ms = self.refused_ms.or(self.dead_letter.record.timestamp_ms);
        self.dead_letter.record.timestamp_ms.take().is_some()
    }
}

async fn deliver(config: &Config, producer: &Producer, mut adjusted: Adjusted) {
    let mut pauses = Deliveries::pauses();
    loop {
        let Err(error) = send(config, producer, &adjusted).await else { return };
        let position = adjusted.dead_letter.record.position;
        match error.rdkafka_error_code() {
            Some(RDKafkaErrorCode::MessageSizeTooLarge) if adjusted.dead_letter.cut() => continue,
            // Further from now than the topic allows.
            Some(RDKafkaErrorCode::InvalidTimestamp) if adjusted.retime() => {
                tracing::warn!(
                    ?position,
                    sent_ms = adjusted.refused_ms,
                    "time refused by the dead letter topic, in a header"
                );
                continue;
            }
            Some(RDKafkaErrorCode::InvalidRecord) if adjusted.add_key(&config.topic) => continue,
            Some(RDKafkaErrorCode::UnknownTopic | RDKafkaErrorCode::UnknownTopicOrPartition) => {
                make_topic(config).await;
            }
            _ => {}
        }
        tracing::warn!(%error, ?position, topic = config.dlq_topic, "dead letter not delivered, trying again");
        tokio::time::sleep(pauses.pause()).await;
    }
}

/// Sends once, and looks after the producer as long as that takes.
async fn send(config: &Config, producer: &Producer, adjusted: &Adjusted) -> Result<(), KafkaError> {
    let (told, mut sent) = oneshot::channel();
    let told: Told = Box::new(move |result| drop(told.send(result)));
    producer.send(adjusted.message(&config.dlq_topic, told)).await;
    loop {
        match tokio::time::timeout(WATCH_EVERY, &mut sent).await {
            Ok(Ok(Err(error))) => {
                producer.recover();
                return Err(error);
            }
            Ok(told) => return told.unwrap_or(Err(KafkaError::Canceled)),
            Err(_) => producer.recover(),
        }
    }
}

/// Looks for the topic and makes it where it is missing, until it is there. Sending to a topic that does not exist
/// would take half a minute to fail.
async fn see_topic(config: &Arc<Config>, producer: &Producer) {
    loop {
        let (client, topic) = (producer.clone(), config.dlq_topic.clone());
        let look = move || client.look_up(&topic, Duration::from_secs(5));
        match tokio::task::spawn_blocking(look).await {
            Ok(Ok(metadata)) if metadata.topics().iter().any(|topic| !topic.partitions().is_empty()) => return,
            Ok(Ok(_)) => make_topic(config).await,
            Ok(Err(error)) => {
                producer.recover();
                tracing::warn!(%error, topic = config.dlq_topic, "dead letter topic is unavailable");
            }
            Err(error) => tracing::warn!(%error, "cannot look for the dead letter topic"),
        }
        tokio::time::sleep(PAUSE_FIRST).await;
    }
}

/// Best effort: anyone who runs the brokers may not allow it, and then has to make the topic.
async fn make_topic(config: &Config) {
    let name = config.dlq_topic.as_str();
    // One partition, with the brokers' default of replicas.
    match kafka::topics::make_topic(config, NewTopic::new(name, 1, TopicReplication::Fixed(-1))).await {
        Ok(true) => tracing::info!(topic = name, "dead letter topic made"),
        Ok(false) => {}
        Err(error) => tracing::warn!(topic = name, %error, "dead letter topic is missing and cannot be made"),
    }
}
