//! Writes to topics, and knows of each parcel of messages when all of them have arrived.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rdkafka::error::{KafkaError, RDKafkaErrorCode};
use rdkafka::message::{Header, OwnedHeaders};
use tokio::sync::mpsc::Sender;

use super::Config;
use super::producer::{Producer, Told, outgoing};
use crate::sync::lock;

/// What became of a parcel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Delivery {
    /// Every message is on every replica in sync, but for those that are too large for their topic.
    Acked {
        /// Those: topic and key. Nearly always empty.
        too_large: Vec<(String, String)>,
    },
    /// At least one is not, and may get there another time: why.
    Failed(String),
}

/// Messages of which is to be known when all have arrived. Each message holds a clone; the last one to go tells.
#[derive(Clone)]
pub struct Tracking(Arc<Track>);

struct Track {
    ticket: i64,
    fate: Mutex<Delivery>,
    told: Sender<(i64, Delivery)>,
}

impl Tracking {
    /// Tells `told` what became of `ticket` once every clone is gone. It must have room for each ticket that is on its way.
    #[must_use]
    pub fn new(ticket: i64, told: Sender<(i64, Delivery)>) -> Self {
        Self(Arc::new(Track { ticket, fate: Mutex::new(Delivery::Acked { too_large: Vec::new() }), told }))
    }

    fn note(&self, topic: &str, key: &str, error: &KafkaError) {
        let mut fate = lock(&self.0.fate);
        match &mut *fate {
            Delivery::Acked { too_large }
                if error.rdkafka_error_code() == Some(RDKafkaErrorCode::MessageSizeTooLarge) =>
            {
                tracing::error!(order = key, topic, "too large for its topic, not published; it stays recorded");
                too_large.push((topic.to_owned(), key.to_owned()));
            }
            Delivery::Acked { .. } => *fate = Delivery::Failed(format!("topic {topic}: {error}")),
            Delivery::Failed(_) => {}
        }
        tracing::debug!(%error, order = key, topic, "not published");
    }
}

impl Drop for Track {
    fn drop(&mut self) {
        let fate = self.fate.get_mut().unwrap_or_else(PoisonError::into_inner);
        let fate = std::mem::replace(fate, Delivery::Failed(String::new()));
        let _ = self.told.try_send((self.ticket, fate)); // when all is over there is no receiver any more
    }
}

/// A message to send.
pub struct Message<'a> {
    /// Where to.
    pub topic: &'a str,
    /// The order's id: messages of one order stay in order, see [`Producer`].
    pub key: &'a str,
    /// `None` is a null value.
    pub value: Option<&'a [u8]>,
    /// Names and values.
    pub headers: &'a [(&'a str, &'a str)],
}

/// What batches are compressed with. `compression.type` as a property has the last word.
const COMPRESSION: &str = "lz4";

/// A producer. Clones share it.
#[derive(Clone)]
pub struct Publisher(Producer);

impl Publisher {
    /// Nothing is connected to yet.
    ///
    /// # Errors
    /// When the settings are not what the library takes.
    pub fn new(config: &Config) -> Result<Self, KafkaError> {
        let mut settings = config.producer();
        // These are waited for.
        settings.set("linger.ms", "0.5").set("compression.type", COMPRESSION);
        Ok(Self(Producer::new("publisher", config, settings)?))
    }

    /// See [`Producer::recover`].
    pub fn recover(&self) {
        self.0.recover();
    }

    /// Hands a message to the library, waiting while that has no room: at most for as long as it takes to give up on
    /// what it has.
    pub async fn send(&self, message: Message<'_>, tracking: &Tracking) {
        let Message { topic, key, value, headers: named } = message;
        let mut headers = OwnedHeaders::new_with_capacity(named.len());
        for &(key, value) in named {
            headers = headers.insert(Header { key, value: Some(value) });
        }
        let (tracking, of) = (tracking.clone(), (topic.to_owned(), key.to_owned()));
        let told: Told = Box::new(move |result| {
            if let Err(error) = result {
                tracking.note(&of.0, &of.1, &error);
            }
        });
        let mut record = outgoing(topic, told).headers(headers);
        record.key = Some(key.as_bytes());
        record.payload = value;
        self.0.send(record).await;
    }

    /// Waits until everything has arrived, for at most `time`. Blocks.
    pub fn flush(&self, time: Duration) {
        self.0.flush(time);
    }
}
