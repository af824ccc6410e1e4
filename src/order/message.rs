//! What is said about orders in messages: events for workers, and the acknowledgements of workers.

use serde_json::json;

use super::envelope::Stored;
use super::external_id;
use crate::id::OrderId;

/// The event of a stored envelope order: `{order_id, external_id, user_id, payload, status, timestamp}`. `None` for a
/// body that is none of an envelope.
#[must_use]
pub fn event(id: &OrderId, body: &[u8]) -> Option<Vec<u8>> {
    let stored = Stored::parse(body)?;
    let external_id = external_id(stored.payload).map_or_else(|| "null".into(), |id| json!(id).to_string());
    let id = id.text();
    let mut event = Vec::with_capacity(stored.payload.len() + 256);
    for part in [
        b"{\"order_id\":\"",
        id.as_bytes(),
        b"\",\"external_id\":",
        external_id.as_bytes(),
        b",\"user_id\":\"",
        stored.user_id.as_bytes(),
        b"\",\"payload\":",
        stored.payload,
        b",\"status\":\"",
        stored.status.as_bytes(),
        b"\",\"timestamp\":\"",
        stored.updated_at,
        b"\"}",
    ] {
        event.extend_from_slice(part);
    }
    Some(event)
}

/// An acknowledgement: `{order_id, status, processed_at}`.
#[must_use]
pub fn ack(id: &OrderId, status: &str, processed_at: &super::envelope::Stamp) -> String {
    let processed_at = String::from_utf8_lossy(processed_at);
    format!("{{\"order_id\":\"{id}\",\"status\":\"{status}\",\"processed_at\":\"{processed_at}\"}}")
}

/// The order that an acknowledgement is about.
#[must_use]
pub fn acknowledged(ack: &[u8]) -> Option<OrderId> {
    let ack: serde_json::Value = serde_json::from_slice(ack).ok()?;
    OrderId::parse(ack.get("order_id")?.as_str()?.as_bytes()).ok()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::order::envelope::{Envelope, stamp};

    #[test]
    fn an_event_says_what_its_order_says() {
        let id = OrderId::parse(b"00000000-0000-0000-0000-000000000001").unwrap();
        let now = stamp(time::OffsetDateTime::UNIX_EPOCH);
        for (payload, external) in [
            (r#"{"id":"x\"y","price":1.50}"#, r#""x\"y""#),
            (r#"{"id":17}"#, r#""17""#),
            (r#"{"id":null}"#, "null"),
            ("{}", "null"),
        ] {
            let envelope = Envelope {
                is_new: true,
                user_id: Some(uuid::Uuid::from_u128(7)),
                status: None,
                payload: Some(payload.as_bytes().into()),
                amount: "0".into(),
                external_id: None,
            };
            let body = envelope.body(&id, None, &now).unwrap().unwrap();
            assert_eq!(
                String::from_utf8(event(&id, &body).unwrap()).unwrap(),
                format!(
                    r#"{{"order_id":"{id}","external_id":{external},"user_id":"00000000-0000-0000-0000-000000000007","payload":{payload},"status":"new","timestamp":"1970-01-01T00:00:00.000000Z"}}"#
                )
            );
        }
        assert_eq!(event(&id, b"{}"), None);
        let ack = ack(&id, "created", &now);
        assert_eq!(
            ack,
            format!(r#"{{"order_id":"{id}","status":"created","processed_at":"1970-01-01T00:00:00.000000Z"}}"#)
        );
        assert_eq!(acknowledged(ack.as_bytes()), Some(id));
    }
}
