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

/// What an acknowledgement is in Redis: the same, and of an envelope order what the older API reads
/// there: `order_status`, `user_id`, `external_id`, `amount`, `payload`, `created_at` and
/// `updated_at`. `body` is the order as it is now.
#[must_use]
pub fn result(id: &OrderId, status: &str, processed_at: &super::envelope::Stamp, body: Option<&[u8]>) -> String {
    let mut result = ack(id, status, processed_at);
    let Some(stored) = body.and_then(Stored::parse) else { return result };
    let text = String::from_utf8_lossy;
    let external_id = external_id(stored.payload).map_or_else(|| "null".into(), |id| json!(id).to_string());
    result.pop(); // the brace at the end
    result.push_str(&format!(
        ",\"order_status\":\"{}\",\"user_id\":\"{}\",\"external_id\":{external_id},\"amount\":{},\"payload\":{},\
         \"created_at\":\"{}\",\"updated_at\":\"{}\"}}",
        stored.status,
        stored.user_id,
        stored.amount,
        text(stored.payload),
        text(stored.created_at),
        text(stored.updated_at),
    ));
    result
}

/// What marks an envelope order as worked on, where it is not yet: the same order with the status
/// `done`. `None` for any other.
#[must_use]
pub fn done(id: &OrderId, body: &[u8]) -> Option<Vec<u8>> {
    let stored = Stored::parse(body).filter(|stored| matches!(stored.status, "new" | "processing"))?;
    let head = format!("{{\"order_id\":\"{id}\",\"user_id\":\"{}\",\"status\":\"done\",\"payload\":", stored.user_id);
    Some([head.as_bytes(), stored.payload, b"}"].concat())
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
        assert_eq!((event(&id, b"{}"), done(&id, b"{}")), (None, None));
        let ack = ack(&id, "created", &now);
        assert_eq!(
            ack,
            format!(r#"{{"order_id":"{id}","status":"created","processed_at":"1970-01-01T00:00:00.000000Z"}}"#)
        );
        assert_eq!(acknowledged(ack.as_bytes()), Some(id));
    }

    #[test]
    fn a_result_says_what_the_older_api_reads() {
        let id = OrderId::parse(b"00000000-0000-0000-0000-000000000001").unwrap();
        let now = stamp(time::OffsetDateTime::UNIX_EPOCH);
        let envelope = Envelope {
            is_new: true,
            user_id: Some(uuid::Uuid::from_u128(7)),
            status: None,
            payload: Some(br#"{"id":"x","a":[1e2]}"#.as_slice().into()),
            amount: "12.50".into(),
            external_id: None,
        };
        let body = envelope.body(&id, None, &now).unwrap().unwrap();
        let result: serde_json::Value = serde_json::from_str(&result(&id, "created", &now, Some(&body))).unwrap();
        let time = "1970-01-01T00:00:00.000000Z";
        let expected = json!({
            "order_id": id.to_string(), "status": "created", "processed_at": time, "order_status": "new",
            "user_id": "00000000-0000-0000-0000-000000000007", "external_id": "x", "amount": 12.50,
            "payload": {"id": "x", "a": [100.0]}, "created_at": time, "updated_at": time,
        });
        assert_eq!(result, expected);
        assert_eq!(super::result(&id, "deleted", &now, None), ack(&id, "deleted", &now));
        let marked: serde_json::Value = serde_json::from_slice(&done(&id, &body).unwrap()).unwrap();
        assert_eq!((&marked["status"], &marked["payload"]), (&json!("done"), &json!({"id": "x", "a": [100.0]})));
        let cancelled = String::from_utf8(body).unwrap().replace("\"new\"", "\"cancelled\"");
        assert_eq!(done(&id, cancelled.as_bytes()), None);
    }
}
