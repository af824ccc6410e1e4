//! Sends messages, whatever becomes of the brokers meanwhile.

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{DeliveryResult, Message as _, OwnedMessage};
use rdkafka::metadata::Metadata;
use rdkafka::producer::{BaseRecord, Producer as _, ProducerContext, PurgeConfig, ThreadedProducer};
use rdkafka::statistics::Statistics;
use rdkafka::util::Timeout;

use super::Config;
use super::broker_watch::{self, BrokerWatch};
use crate::sync::lock;

/// Between two looks at whether there is room again.
const ROOM_PAUSE: Duration = Duration::from_millis(1);

/// Is told what became of a message, by a thread of the producer. Must not block.
pub type Told = Box<dyn FnOnce(Result<(), KafkaError>) + Send + Sync>;

/// A message, and who is told what became of it.
pub type Outgoing<'a> = BaseRecord<'a, [u8], [u8], Box<Tracked>>;

/// What stays with a message until that is known.
pub struct Tracked {
    told: Told,
    /// The library does not say it of a message that was refused.
    timestamp_ms: Option<i64>,
}

impl Tracked {
    fn tell(self, result: Result<(), KafkaError>) {
        (self.told)(result);
    }
}

/// A message without a key or a value for a topic.
#[must_use]
pub fn outgoing(topic: &str, told: Told) -> Outgoing<'_> {
    Outgoing::with_opaque_to(topic, Box::new(Tracked { told, timestamp_ms: None }))
}

/// A producer of Kafka, idempotent and acknowledged by every replica in sync. Clones share it.
///
/// - A broker refuses a batch as a whole for one message in it. Then each message of it is sent once more by itself, and
///   what is refused after that is refused for what it is. So a message may arrive after later ones of its key.
/// - Once the library has called an error fatal, such as a right that was missing, its client sends nothing any more.
///   [`Producer::recover`] makes another one; what the former had taken is told [`RDKafkaErrorCode::PurgeQueue`] or
///   [`RDKafkaErrorCode::PurgeInflight`], and may have arrived.
/// - A client that has lost every broker is told of the bootstrap servers again, see [`BrokerWatch`].
#[derive(Clone)]
pub struct Producer(Arc<Clients>);

struct Clients {
    bootstrap: String,
    together: Client,
    alone: Arc<Client>,
}

impl Producer {
    /// A producer with these settings, which are [`Config::producer`] or made of it. Nothing is connected to yet.
    ///
    /// # Errors
    /// When the settings are not what the library takes.
    pub fn new(name: &'static str, config: &Config, settings: ClientConfig) -> Result<Self, KafkaError> {
        let settings = config.watched(settings);
        let mut one_by_one = settings.clone();
        one_by_one.set("batch.num.messages", "1");
        let alone = Arc::new(Client { name, settings: one_by_one, alone: None, made: Mutex::default() });
        let together = Client { name, settings, alone: Some(Arc::clone(&alone)), made: Mutex::default() };
        together.made()?;
        Ok(Self(Arc::new(Clients { bootstrap: config.bootstrap().to_owned(), together, alone })))
    }

    /// Hands a message to the library.
    ///
    /// # Errors
    /// The message, where there is no room for it now, [`RDKafkaErrorCode::QueueFull`], or where it can never be sent; see
    /// [`Producer::refuse`].
    pub fn try_send<'a>(&self, mut message: Outgoing<'a>) -> Result<(), (KafkaError, Outgoing<'a>)> {
        message.delivery_opaque.timestamp_ms = message.timestamp;
        self.0.together.send(message)
    }

    /// Tells what became of a message that the library did not take.
    pub fn refuse(message: Outgoing<'_>, error: KafkaError) {
        message.delivery_opaque.tell(Err(error));
    }

    /// The same as [`Producer::try_send`], waiting while there is no room: at most for as long as it takes to give up on what there is. Dropped
    /// meanwhile, it tells nothing and nothing is sent.
    pub async fn send(&self, mut message: Outgoing<'_>) {
        loop {
            match self.try_send(message) {
                Ok(()) => return,
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), again)) => {
                    self.recover();
                    tokio::time::sleep(ROOM_PAUSE).await;
                    message = again;
                }
                Err((error, message)) => return Self::refuse(message, error),
            }
        }
    }

    /// Makes the producer whole again where it has failed for good or has lost every broker. To be called about once a
    /// second, from any thread. Blocks for a moment where another client is made.
    pub fn recover(&self) {
        let Clients { bootstrap, together, alone } = &*self.0;
        for client in [together, &**alone] {
            client.recover(bootstrap);
        }
    }

    fn made(&self) -> impl Iterator<Item = Made> {
        [&self.0.together, &*self.0.alone].into_iter().filter_map(|client| client.lock().clone())
    }

    /// What the brokers know of a topic. Blocks.
    ///
    /// # Errors
    /// When no broker can be asked.
    pub fn look_up(&self, topic: &str, time: Duration) -> Result<Metadata, KafkaError> {
        let made = self.0.together.made()?;
        made.producer.client().fetch_metadata(Some(topic), time)
    }

    /// Waits until everything has arrived, for at most `time`. Blocks.
    pub fn flush(&self, time: Duration) {
        for made in self.made() {
            if let Err(error) = made.producer.flush(Timeout::After(time)) {
                tracing::debug!(%error, "not everything was sent in time");
            }
        }
    }

    /// Gives up on everything that has not arrived.
    pub fn purge(&self) {
        for made in self.made() {
            made.producer.purge(PurgeConfig::default().queue().inflight());
        }
    }
}

/// A client of the library, made when it is needed, and made again where it has failed for good.
struct Client {
    /// What it is for, in the log.
    name: &'static str,
    settings: ClientConfig,
    /// Sends what this one was refused for its batch.
    alone: Option<Arc<Self>>,
    made: Mutex<Option<Made>>,
}

#[derive(Clone)]
struct Made {
    producer: Arc<ThreadedProducer<Deliveries>>,
    brokers: BrokerWatch,
}

impl Client {
    fn lock(&self) -> MutexGuard<'_, Option<Made>> {
        lock(&self.made)
    }

    fn made(&self) -> Result<Made, KafkaError> {
        let mut made = self.lock();
        if let Some(made) = &*made {
            return Ok(made.clone());
        }
        Ok(made.insert(self.make()?).clone())
    }

    fn make(&self) -> Result<Made, KafkaError> {
        let brokers = BrokerWatch::new(self.name);
        let context = Deliveries { alone: self.alone.clone(), brokers: brokers.clone() };
        Ok(Made { producer: Arc::new(self.settings.create_with_context(context)?), brokers })
    }

    fn send<'a>(&self, message: Outgoing<'a>) -> Result<(), (KafkaError, Outgoing<'a>)> {
        match self.made() {
            Ok(made) => made.producer.send(message),
            Err(error) => Err((error, message)),
        }
    }

    fn recover(&self, bootstrap: &str) {
        let mut made = self.lock();
        let Some(Made { producer, brokers }) = &*made else { return };
        let Some((error, reason)) = producer.client().fatal_error() else {
            brokers.recover(producer.client(), bootstrap);
            return;
        };
        tracing::warn!(producer = self.name, %error, reason, "a producer of Kafka has failed for good, making another one");
        match self.make() {
            Ok(another) => {
                let former = made.replace(another);
                drop(made);
                drop(former); // it tells of what it had, to those who may send that again
            }
            Err(error) => tracing::warn!(%error, "cannot make a producer"),
        }
    }
}

/// Tells of each message what became of it.
struct Deliveries {
    alone: Option<Arc<Client>>,
    brokers: BrokerWatch,
}

impl ClientContext for Deliveries {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        broker_watch::log(level, facility, message);
    }

    fn stats(&self, statistics: Statistics) {
        self.brokers.note(&statistics);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        broker_watch::failed(&error, reason);
    }
}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = Box<Tracked>;

    fn delivery(&self, result: &DeliveryResult<'_>, tracked: Box<Tracked>) {
        match (result, &self.alone) {
            (Ok(_), _) => tracked.tell(Ok(())),
            (Err((error, message)), Some(alone)) if is_for_its_batch(error) => again(alone, &message.detach(), tracked),
            (Err((error, _)), _) => tracked.tell(Err(error.clone())),
        }
    }
}

fn again(alone: &Client, message: &OwnedMessage, tracked: Box<Tracked>) {
    let timestamp_ms = tracked.timestamp_ms;
    let mut record = Outgoing::with_opaque_to(message.topic(), tracked).partition(message.partition());
    record.key = message.key();
    record.payload = message.payload();
    record.headers = message.headers().cloned();
    record.timestamp = timestamp_ms;
    if let Err((error, record)) = alone.send(record) {
        Producer::refuse(record, error);
    }
}

/// Whether a message may have been refused for one that it was sent with.
fn is_for_its_batch(error: &KafkaError) -> bool {
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
