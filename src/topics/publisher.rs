//! Writes to topics, and knows of each parcel of messages when all of them have arrived.

use std::sync::Arc;
use std::sync::atomic::{AtomicU8, Ordering};
use std::time::Duration;

use rdkafka::client::ClientContext;
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{DeliveryResult, Header, OwnedHeaders};
use rdkafka::producer::{BaseRecord, Producer as _, ProducerContext, ThreadedProducer};
use rdkafka::statistics::Statistics;
use rdkafka::util::Timeout;
use tokio::sync::mpsc::Sender;

use crate::kafka::Config;
use crate::kafka::broker_watch::{self, BrokerWatch};

/// Between two looks at whether there is room again.
const ROOM_PAUSE: Duration = Duration::from_millis(1);

/// What became of a parcel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fate {
    /// Every message is on every replica in sync.
    Arrived,
    /// At least one is not, and may get there another time.
    Failed,
    /// At least one may have been refused for those it was sent with: to be sent alone.
    Crowded,
}

/// Messages of which is to be known when all have arrived. Each message holds a clone; the last one to go tells.
#[derive(Clone)]
pub struct Tracking(Arc<Track>);

struct Track {
    ticket: i64,
    fate: AtomicU8,
    told: Sender<(i64, Fate)>,
}

impl Tracking {
    /// Tells `told`, which must have room, what became of `ticket` once every clone is gone.
    #[must_use]
    pub fn new(ticket: i64, told: Sender<(i64, Fate)>) -> Self {
        Self(Arc::new(Track { ticket, fate: AtomicU8::new(0), told }))
    }

    fn worsen(&self, fate: u8) {
        self.0.fate.fetch_max(fate, Ordering::Relaxed);
    }
}

impl Drop for Track {
    fn drop(&mut self) {
        let fate = match self.fate.load(Ordering::Relaxed) {
            0 => Fate::Arrived,
            1 => Fate::Crowded,
            _ => Fate::Failed,
        };
        let _ = self.told.try_send((self.ticket, fate)); // nobody listens any more when all is over
    }
}

/// A message to send.
pub struct Message<'a> {
    /// Where to.
    pub topic: &'a str,
    /// The order's id: messages of one order stay in order.
    pub key: &'a str,
    /// `None` is a null value.
    pub value: Option<&'a [u8]>,
    /// Names and values.
    pub headers: &'a [(&'a str, &'a str)],
}

struct Deliveries {
    /// Each message goes by itself, so that what is refused now is refused for what it is.
    is_alone: bool,
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
        tracing::debug!(%error, reason, "librdkafka");
    }
}

impl ProducerContext for Deliveries {
    type DeliveryOpaque = Arc<Tracked>;

    fn delivery(&self, result: &DeliveryResult<'_>, tracked: Arc<Tracked>) {
        let Err((error, _)) = result else { return };
        match error.rdkafka_error_code() {
            Some(RDKafkaErrorCode::MessageSizeTooLarge) if self.is_alone => {
                tracing::error!(order = tracked.key, topic = tracked.topic, "too large for its topic, not published");
            }
            Some(
                RDKafkaErrorCode::MessageSizeTooLarge
                | RDKafkaErrorCode::InvalidRecord
                | RDKafkaErrorCode::InvalidDifferentRecord,
            ) if !self.is_alone => tracked.tracking.worsen(1),
            _ => {
                tracing::debug!(%error, order = tracked.key, topic = tracked.topic, "not published");
                tracked.tracking.worsen(2);
            }
        }
    }
}

struct Tracked {
    tracking: Tracking,
    key: String,
    topic: String,
}

/// A producer. Clones share it.
#[derive(Clone)]
pub struct Publisher {
    producer: ThreadedProducer<Deliveries>,
    config: Arc<Config>,
}

impl Publisher {
    /// A producer that sends several messages at once, or each by itself.
    ///
    /// # Errors
    /// When the settings are not what the library takes.
    pub fn new(config: &Config, is_alone: bool) -> Result<Self, KafkaError> {
        let mut client = config.watched(config.producer());
        // Somebody waits for these.
        client.set("linger.ms", "0.5");
        if is_alone {
            client.set("batch.num.messages", "1");
        }
        let context = Deliveries { is_alone, brokers: BrokerWatch::new("publisher") };
        Ok(Self { producer: client.create_with_context(context)?, config: Arc::new(config.clone()) })
    }

    /// Has the producer connect again where it has lost every broker. To be called about once a second.
    pub fn recover(&self) {
        self.producer.context().brokers.recover(self.producer.client(), self.config.bootstrap());
    }

    /// Hands a message to the library, waiting while that has no room: at most for as long as it takes to give up on
    /// what it has.
    pub async fn send(&self, message: Message<'_>, tracking: &Tracking) {
        let mut headers = OwnedHeaders::new_with_capacity(message.headers.len());
        for &(key, value) in message.headers {
            headers = headers.insert(Header { key, value: Some(value) });
        }
        let tracked =
            Tracked { tracking: tracking.clone(), key: message.key.to_owned(), topic: message.topic.to_owned() };
        let mut record = BaseRecord::<[u8], [u8], _>::with_opaque_to(message.topic, Arc::new(tracked)).headers(headers);
        record.key = Some(message.key.as_bytes());
        record.payload = message.value;
        loop {
            match self.producer.send(record) {
                Ok(()) => return,
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::QueueFull), again)) => {
                    self.recover();
                    tokio::time::sleep(ROOM_PAUSE).await;
                    record = again;
                }
                Err((KafkaError::MessageProduction(RDKafkaErrorCode::MessageSizeTooLarge), record)) => {
                    tracing::error!(
                        order = record.delivery_opaque.key,
                        topic = message.topic,
                        "too large, not published"
                    );
                    return;
                }
                Err((error, record)) => {
                    tracing::debug!(%error, topic = message.topic, "not published");
                    record.delivery_opaque.tracking.worsen(2);
                    return;
                }
            }
        }
    }

    /// Waits until everything has arrived, for at most `time`. Blocks.
    pub fn flush(&self, time: Duration) {
        if let Err(error) = self.producer.flush(Timeout::After(time)) {
            tracing::debug!(%error, "not everything was published in time");
        }
    }
}
