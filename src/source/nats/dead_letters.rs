//! The dead letter subject: invalid messages as they came, with why they are there. Each is waited for, however long
//! the stream is unavailable.

use std::error::Error;
use std::sync::Arc;

use async_nats::HeaderMap;
use async_nats::header::{HeaderName, HeaderValue};
use async_nats::jetstream::context::{PublishError, PublishErrorKind};
use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::{self, Context, ErrorCode};
use sha2::{Digest, Sha256};
use tokio::runtime::Handle;
use tokio::sync::watch;

use super::stream;
use crate::nats::Config;
use crate::process::lifecycle::Gate;
use crate::record::{Record, Rejection, dead};
use crate::source::broker::dead_letter::DeadLetter;
use crate::source::broker::deliveries::{Delivered, Deliveries};

pub(super) struct DeadLetters {
    config: Arc<Config>,
    /// The connection, once there is one.
    context: watch::Receiver<Option<Context>>,
    /// Where the connection lives.
    runtime: Handle,
    deliveries: Deliveries,
}

impl DeadLetters {
    /// `gate` is closed while a letter takes long.
    pub(super) fn new(config: &Config, gate: Gate, context: watch::Receiver<Option<Context>>, runtime: Handle) -> Self {
        let deliveries = Deliveries::new("subject", &config.dlq_subject, gate);
        Self { config: Arc::new(config.clone()), context, runtime, deliveries }
    }

    /// Begins to deliver at once. The future is done when the stream has the message.
    pub(super) fn keep(&self, record: &Record, rejection: &Rejection) -> Delivered {
        let dead_letter = DeadLetter::new(&self.config.subject, record, rejection);
        let (config, context) = (Arc::clone(&self.config), self.context.clone());
        let delivery = async move { deliver(&config, context, dead_letter).await };
        self.deliveries.begin(&self.runtime, delivery)
    }
}

/// The headers of a letter about a message that `durable` was to read.
fn headers(durable: &str, DeadLetter { record, notes }: &DeadLetter) -> HeaderMap {
    let mut headers = HeaderMap::new();
    for (name, value) in record.headers.iter().flat_map(|headers| headers.iter()) {
        append(&mut headers, name, &String::from_utf8_lossy(value.as_deref().unwrap_or_default()));
    }
    for (name, value) in notes {
        append(&mut headers, name, value);
    }
    if let Some(sent_ms) = record.timestamp_ms {
        append(&mut headers, dead::TIMESTAMP_MS, &sent_ms.to_string());
    }
    // After a crash the same letter is sent again, and the stream drops it.
    let mut digest = Sha256::new();
    for (_, value) in notes.iter().filter(|(name, _)| *name == dead::MESSAGE) {
        digest.update(value);
    }
    let reason: String = digest.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    let (partition, offset) = (record.position.partition, record.position.offset);
    headers.insert("Nats-Msg-Id", format!("{durable}.{partition}.{offset}.{reason}"));
    headers
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

async fn deliver(config: &Config, mut context: watch::Receiver<Option<Context>>, mut dead_letter: DeadLetter) {
    let mut pauses = Deliveries::pauses();
    loop {
        // An error means that no one will ever connect again, as the process ends.
        let Ok(Some(context)) = context.wait_for(Option::is_some).await.map(|context| context.clone()) else { return };
        let payload = dead_letter.record.payload.clone().unwrap_or_default();
        let publish = PublishMessage::build().payload(payload).headers(headers(&config.durable, &dead_letter));
        let sent = match context.send_publish(config.dlq_subject.clone(), publish).await {
            Ok(acknowledged) => acknowledged.await.map(drop),
            Err(error) => Err(error),
        };
        let Err(error) = sent else { return };
        match (error.kind(), code(&error)) {
            (PublishErrorKind::MaxPayloadExceeded, _) | (_, Some(ErrorCode::STREAM_MESSAGE_EXCEEDS_MAXIMUM))
                if dead_letter.cut() =>
            {
                continue;
            }
            (_, Some(ErrorCode::STREAM_HEADER_EXCEEDS_MAXIMUM)) if dead_letter.cut_headers() => continue,
            (PublishErrorKind::StreamNotFound, _) => {
                if let Err(error) = stream::take(&context, &config.dlq_subject, &config.dlq_stream(), true).await {
                    tracing::warn!(%error, subject = config.dlq_subject, "no stream takes dead letters");
                } else {
                    continue;
                }
            }
            _ => {}
        }
        tracing::warn!(%error, subject = config.dlq_subject, "dead letter not delivered, trying again");
        tokio::time::sleep(pauses.pause()).await;
    }
}

/// What the server says is wrong, where it does.
fn code(error: &PublishError) -> Option<ErrorCode> {
    error.source()?.downcast_ref::<jetstream::Error>().map(jetstream::Error::error_code)
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;
    use crate::record::{Position, RejectionKind};

    #[test]
    fn a_letter_says_where_it_is_from_and_takes_no_orders_from_its_sender() {
        let made = |name: &str, value: &'static str| {
            let mut record = Record::new(Position { partition: 7, offset: 9 }, Bytes::from_static(b"{}"));
            record.headers = Some(Box::new(vec![(name.to_owned(), Some(Bytes::from_static(value.as_bytes())))]));
            let rejection = Rejection::whole(RejectionKind::Malformed, "two\r\nlines");
            headers("durable", &DeadLetter::new("orders", &record, &rejection))
        };
        let plain = made("trace", "a\nb");
        let header = |name: &str| plain.get(name).map(|value| value.as_str().to_owned());
        assert_eq!(header("trace").as_deref(), Some("a b"));
        assert_eq!(header(dead::TOPIC).as_deref(), Some("orders"));
        assert_eq!(header(dead::OFFSET).as_deref(), Some("9"));
        assert_eq!(header(dead::MESSAGE).as_deref(), Some("two  lines"));
        let of_sender = made("Nats-Expected-Last-Sequence", "1");
        assert!(of_sender.get("Nats-Expected-Last-Sequence").is_none());
        assert_eq!(of_sender.get("Nats-Msg-Id"), plain.get("Nats-Msg-Id"), "the same at each try");
    }
}
