//! The dead letter channel: invalid messages with why they are there. A message of NATS Streaming has
//! no headers, so a letter is a JSON object with those that the other brokers' letters have, and the
//! value. Each is waited for, however long the cluster is unavailable.
//!
//! Letters have a session of their own, under a name of its own: the one that reads ends with each
//! interruption, and begins again only when what it has brought is durable or in here.

use std::sync::Arc;

use async_nats::ConnectOptions;
use bytes::Bytes;
use serde_json::{Map, Value, json};
use tokio::runtime::Handle;
use tokio::sync::Mutex;

use crate::process::lifecycle::Gate;
use crate::record::{Record, Rejection, dead};
use crate::source::broker::dead_letter::DeadLetter;
use crate::source::broker::deliveries::{Delivered, Deliveries};
use crate::stan::Config;
use crate::stan::session::{Session, SessionError};

pub(super) struct DeadLetters {
    config: Arc<Config>,
    /// The session, once there was a letter to be sent.
    session: Arc<Mutex<Option<Arc<Session>>>>,
    /// Where the session lives.
    runtime: Handle,
    deliveries: Deliveries,
}

impl DeadLetters {
    /// `gate` is closed while a letter takes long.
    pub(super) fn new(config: &Config, gate: Gate, runtime: Handle) -> Self {
        let deliveries = Deliveries::new("channel", &config.dlq_subject, gate);
        Self { config: Arc::new(config.clone()), session: Arc::default(), runtime, deliveries }
    }

    /// Begins to deliver at once. The future is done when the channel has the message.
    pub(super) fn keep(&self, record: &Record, rejection: &Rejection) -> Delivered {
        let dead_letter = DeadLetter::new(&self.config.subject, record, rejection);
        let (config, session) = (Arc::clone(&self.config), Arc::clone(&self.session));
        let delivery = async move { Box::pin(deliver(&config, &session, dead_letter)).await };
        self.deliveries.begin(&self.runtime, delivery)
    }
}

/// `{"headers":{…},"value":"…"}`; a value that is not UTF-8 is `value_hex`.
fn written(DeadLetter { record, notes }: &DeadLetter) -> Bytes {
    let mut headers: Map<String, Value> =
        notes.iter().map(|(name, value)| ((*name).to_owned(), value.as_str().into())).collect();
    if let Some(sent_ms) = record.timestamp_ms {
        headers.insert(dead::TIMESTAMP_MS.into(), sent_ms.to_string().into());
    }
    let payload = record.payload.as_deref().unwrap_or_default();
    let dead_letter = if let Ok(text) = std::str::from_utf8(payload) {
        json!({"headers": headers, "value": text})
    } else {
        let hex: String = payload.iter().map(|byte| format!("{byte:02x}")).collect();
        json!({"headers": headers, "value_hex": hex})
    };
    dead_letter.to_string().into()
}

/// The session that is open, or a new one.
async fn open(config: &Config, session: &Mutex<Option<Arc<Session>>>) -> Result<Arc<Session>, SessionError> {
    let mut session = session.lock().await;
    if let Some(open) = &*session {
        return Ok(Arc::clone(open));
    }
    let client = config.servers.connect(ConnectOptions::new()).await;
    let client = client.map_err(|error| SessionError::NoAnswer(error.to_string()))?;
    let name = format!("{}-dead-letters-{:08x}", config.client, fastrand::u32(..));
    let opened = Arc::new(Session::open(client, &config.cluster, &name).await?);
    *session = Some(Arc::clone(&opened));
    Ok(opened)
}

async fn deliver(config: &Config, session: &Mutex<Option<Arc<Session>>>, mut dead_letter: DeadLetter) {
    let mut pauses = Deliveries::pauses();
    loop {
        let sent = match open(config, session).await {
            Err(error) => Err(error),
            Ok(open) => {
                let sent = open.publish(&config.dlq_subject, written(&dead_letter)).await;
                if matches!(sent, Err(SessionError::NoAnswer(_) | SessionError::NoCluster | SessionError::Refused(_))) {
                    // The cluster may not know it any more. The next one to send opens another.
                    session.lock().await.take_if(|kept| Arc::ptr_eq(kept, &open));
                }
                sent
            }
        };
        match sent {
            Ok(()) => return,
            Err(SessionError::TooLarge) if dead_letter.cut() => continue,
            Err(error) => {
                tracing::warn!(%error, channel = config.dlq_subject, "dead letter not delivered, trying again");
            }
        }
        tokio::time::sleep(pauses.pause()).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::{Position, RejectionKind};

    #[test]
    fn a_letter_has_its_message_and_where_it_is_from() {
        let made = |value: &'static [u8]| {
            let mut record = Record::new(Position { partition: 0, offset: 9 }, Bytes::from_static(value));
            record.timestamp_ms = Some(17);
            let rejection = Rejection::whole(RejectionKind::Malformed, "no order");
            serde_json::from_slice::<Value>(&written(&DeadLetter::new("orders", &record, &rejection))).unwrap()
        };
        let dead_letter = made(b"{\"a\":\n");
        assert_eq!((&dead_letter["value"], dead_letter.get("value_hex")), (&json!("{\"a\":\n"), None));
        for (name, value) in [(dead::TOPIC, "orders"), (dead::OFFSET, "9"), (dead::TIMESTAMP_MS, "17")] {
            assert_eq!(dead_letter["headers"][name], value, "{name}");
        }
        assert_eq!(made(b"\xff\x01")["value_hex"], "ff01");
    }
}
