//! The dead letter subject: invalid messages as they came, with why they are there. Each is waited for, however long
//! the stream is away.

use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use async_nats::HeaderMap;
use async_nats::header::{HeaderName, HeaderValue};
use async_nats::jetstream::Context;
use async_nats::jetstream::context::PublishErrorKind;
use async_nats::jetstream::message::PublishMessage;
use bytes::Bytes;
use sha2::{Digest, Sha256};
use tokio::runtime::Handle;
use tokio::sync::{Semaphore, watch};

use super::stream;
use crate::lifecycle::Gate;
use crate::nats::Config;
use crate::record::{Record, Rejection, dead};
use crate::source::SourceError;
use crate::source::letters::{self, Overdue};

/// Between two tries at a stream that is away.
const PAUSE_FIRST: Duration = Duration::from_millis(250);
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// Dead letters on their way at once; further ones wait for their turn.
const IN_FLIGHT_MAX: usize = 1000;
/// What is left of a value that is too large for the server, at most.
const CUT_BYTES: usize = 64 << 10;

type Kept = Pin<Box<dyn Future<Output = Result<(), SourceError>> + Send>>;

pub(super) struct DeadLetters {
    config: Arc<Config>,
    /// The connection, once there is one.
    context: watch::Receiver<Option<Context>>,
    /// Where the connection lives.
    runtime: Handle,
    in_flight: Arc<Semaphore>,
    overdue: Arc<Overdue>,
}

impl DeadLetters {
    /// `gate` is closed while a letter takes long.
    pub(super) fn new(config: &Config, gate: Gate, context: watch::Receiver<Option<Context>>, runtime: Handle) -> Self {
        let reason = format!("subject {} takes no dead letters; intake waits", config.dlq_subject);
        Self {
            config: Arc::new(config.clone()),
            context,
            runtime,
            in_flight: Arc::new(Semaphore::new(IN_FLIGHT_MAX)),
            overdue: Arc::new(Overdue::new(gate, reason)),
        }
    }

    /// Begins to deliver at once. The future is done when the stream has the message.
    pub(super) fn keep(&self, record: &Record, rejection: &Rejection) -> Kept {
        let letter = Letter::new(&self.config, record, &letters::reason(record, rejection));
        let (config, context) = (Arc::clone(&self.config), self.context.clone());
        let (in_flight, overdue) = (Arc::clone(&self.in_flight), Arc::clone(&self.overdue));
        let delivery = self.runtime.spawn(async move {
            let _turn = in_flight.acquire_owned().await;
            overdue.watch(deliver(&config, context, letter)).await;
        });
        let name: Arc<str> = self.config.dlq_subject.as_str().into();
        Box::pin(async move { delivery.await.map_err(|error| SourceError { name, cause: error.into() }) })
    }
}

/// A message for the dead letter subject.
#[derive(Clone)]
struct Letter {
    headers: HeaderMap,
    payload: Bytes,
}

impl Letter {
    fn new(config: &Config, record: &Record, rejection: &Rejection) -> Self {
        let mut headers = HeaderMap::new();
        for (name, value) in record.headers.iter().flat_map(|headers| headers.iter()) {
            append(&mut headers, name, &String::from_utf8_lossy(value.as_deref().unwrap_or_default()));
        }
        for (name, value) in letters::headers(&config.subject, record.position, rejection) {
            append(&mut headers, name, &value);
        }
        if let Some(sent_ms) = record.timestamp_ms {
            append(&mut headers, dead::TIMESTAMP_MS, &sent_ms.to_string());
        }
        // After a crash the same letter is sent again, and the stream drops it.
        let reason: String =
            Sha256::digest(rejection.line()).iter().take(8).map(|byte| format!("{byte:02x}")).collect();
        let (partition, offset) = (record.position.partition, record.position.offset);
        let id = format!("{}.{partition}.{offset}.{reason}", config.durable);
        headers.insert("Nats-Msg-Id", id);
        Self { headers, payload: record.payload.clone().unwrap_or_default() }
    }

    /// Cuts the value to what should fit, and by half each further time. The whole is still where it came from, which
    /// the headers name. Returns whether there was anything left to cut.
    fn cut(&mut self) -> bool {
        if self.payload.is_empty() {
            return false;
        }
        if self.headers.get(dead::CUT_FROM).is_none() {
            append(&mut self.headers, dead::CUT_FROM, &self.payload.len().to_string());
        }
        self.payload.truncate(CUT_BYTES.min(self.payload.len() / 2));
        true
    }
}

/// Adds a header as far as the protocol has room for it: values are one line. Those that the server itself acts upon
/// would change what becomes of the letter, and are left out.
fn append(headers: &mut HeaderMap, name: &str, value: &str) {
    if name.starts_with("Nats-") {
        return;
    }
    let line: String = value.chars().map(|c| if matches!(c, '\r' | '\n') { ' ' } else { c }).collect();
    if let (Ok(name), Ok(value)) = (name.parse::<HeaderName>(), line.parse::<HeaderValue>()) {
        headers.append(name, value);
    }
}

async fn deliver(config: &Config, mut context: watch::Receiver<Option<Context>>, mut letter: Letter) {
    let mut pause = PAUSE_FIRST;
    loop {
        // An error means that nobody will ever connect again, as the process ends.
        let Ok(Some(context)) = context.wait_for(Option::is_some).await.map(|context| context.clone()) else { return };
        let publish = PublishMessage::build().payload(letter.payload.clone()).headers(letter.headers.clone());
        let sent = match context.send_publish(config.dlq_subject.clone(), publish).await {
            Ok(acknowledged) => acknowledged.await.map(drop),
            Err(error) => Err(error),
        };
        let Err(error) = sent else { return };
        match error.kind() {
            PublishErrorKind::MaxPayloadExceeded if letter.cut() => {
                tracing::warn!(left = letter.payload.len(), "value too large for a dead letter, cut");
                continue;
            }
            PublishErrorKind::StreamNotFound => {
                if let Err(error) = stream::take(&context, &config.dlq_subject, &config.dlq_stream()).await {
                    tracing::warn!(%error, subject = config.dlq_subject, "no stream takes dead letters");
                } else {
                    continue;
                }
            }
            _ => {}
        }
        tracing::warn!(%error, subject = config.dlq_subject, "dead letter not delivered, trying again");
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(PAUSE_MAX);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{Position, RejectionKind};

    fn letter(name: &str, value: &str) -> Letter {
        let mut record = Record::new(Position { partition: 7, offset: 9 }, Bytes::from_static(b"no order"));
        record.headers = Some(Box::new(vec![(name.to_owned(), Some(Bytes::copy_from_slice(value.as_bytes())))]));
        let rejection = Rejection::whole(RejectionKind::Malformed, "two\r\nlines");
        Letter::new(&Config::new("nats://127.0.0.1").unwrap(), &record, &rejection)
    }

    #[test]
    fn a_letter_says_where_it_is_from_and_takes_no_orders_from_its_sender() {
        let made = letter("trace", "a\nb");
        let header = |name: &str| made.headers.get(name).map(|value| value.as_str().to_owned());
        assert_eq!(header("trace").as_deref(), Some("a b"));
        assert_eq!(header(dead::TOPIC).as_deref(), Some("orders"));
        assert_eq!(header(dead::OFFSET).as_deref(), Some("9"));
        assert_eq!(header(dead::MESSAGE).as_deref(), Some("two  lines"));
        let of_sender = letter("Nats-Expected-Last-Sequence", "1");
        assert!(of_sender.headers.get("Nats-Expected-Last-Sequence").is_none());
        assert_eq!(of_sender.headers.get("Nats-Msg-Id"), made.headers.get("Nats-Msg-Id"), "the same at each try");
    }

    #[test]
    fn what_is_too_large_is_cut_until_nothing_is_left() {
        let mut letter = letter("a", "b");
        letter.payload = Bytes::from(vec![b'x'; 1 << 20]);
        assert!(letter.cut());
        assert_eq!(letter.payload.len(), CUT_BYTES);
        assert_eq!(letter.headers.get(dead::CUT_FROM).unwrap().as_str(), "1048576");
        while letter.cut() {}
        assert!(letter.payload.is_empty());
    }
}
