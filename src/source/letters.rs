//! What dead letters have in common, whichever broker keeps them: what their headers say, and who is told when they
//! cannot be kept.

use std::future::Future;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::lifecycle::Gate;
use crate::record::{Position, Record, Rejection, RejectionKind, dead};

/// How long a delivery may take before the service counts as not ready.
const PATIENCE: Duration = Duration::from_secs(5);
/// The reasons in a header; an array may have very many.
const REASON_BYTES_MAX: usize = 8 << 10;

/// Why a record is rejected, in the words that help most.
pub(super) fn reason(record: &Record, rejection: &Rejection) -> Rejection {
    record.payload.as_deref().and_then(foreign_format).unwrap_or_else(|| rejection.clone())
}

/// The headers of a dead letter that say where it is from and what is wrong with it.
pub(super) fn headers(topic: &str, position: Position, rejection: &Rejection) -> [(&'static str, String); 6] {
    let mut reason = rejection.line();
    if reason.len() > REASON_BYTES_MAX {
        let end = (0..=REASON_BYTES_MAX).rev().find(|&end| reason.is_char_boundary(end)).unwrap_or_default();
        reason.truncate(end);
        reason.push('…');
    }
    [
        (dead::TOPIC, topic.to_owned()),
        (dead::PARTITION, position.partition.to_string()),
        (dead::OFFSET, position.offset.to_string()),
        (dead::STAGE, "VALUE_CONVERTER".to_owned()),
        (dead::CLASS, format!("order_service.{}", rejection.kind.code())),
        (dead::MESSAGE, reason),
    ]
}

/// Letters that take long. The gate is open when there are none.
pub(super) struct Overdue {
    gate: Gate,
    reason: String,
    count: Mutex<usize>,
}

impl Overdue {
    pub(super) fn new(gate: Gate, reason: String) -> Self {
        gate.open();
        Self { gate, reason, count: Mutex::default() }
    }

    /// Waits for a delivery, however long it takes.
    pub(super) async fn watch(&self, delivery: impl Future<Output = ()>) {
        let mut delivery = std::pin::pin!(delivery);
        if tokio::time::timeout(PATIENCE, &mut delivery).await.is_err() {
            let _overdue = self.begin();
            delivery.await;
        }
    }

    fn begin(&self) -> OneOverdue<'_> {
        let mut count = self.count.lock().unwrap_or_else(PoisonError::into_inner);
        *count += 1;
        self.gate.close(&self.reason);
        OneOverdue(self)
    }
}

/// One of them, until it is dropped.
struct OneOverdue<'a>(&'a Overdue);

impl Drop for OneOverdue<'_> {
    fn drop(&mut self) {
        let mut count = self.0.count.lock().unwrap_or_else(PoisonError::into_inner);
        *count -= 1;
        if *count == 0 {
            self.0.gate.open();
        }
    }
}

/// Why a value is no JSON at all, for formats that are often met by mistake.
fn foreign_format(payload: &[u8]) -> Option<Rejection> {
    let message = match payload {
        [0, a, b, c, d, ..] => {
            let schema = u32::from_be_bytes([*a, *b, *c, *d]);
            format!("is framed for a schema registry (schema {schema}); must be plain JSON")
        }
        [first, ..] if !first.is_ascii_whitespace() && !may_be_json(*first, payload) => {
            format!("is not JSON: starts with byte 0x{first:02x}")
        }
        _ => return None,
    };
    Some(Rejection::whole(RejectionKind::Malformed, message))
}

/// Whether the decoder has more to say of it: what is JSON is at least that, though no order.
fn may_be_json(first: u8, payload: &[u8]) -> bool {
    matches!(first, b'{' | b'[' | 0xef | b'"' | b'-' | b'0'..=b'9')
        || matches!(payload.trim_ascii_end(), b"true" | b"false" | b"null")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formats_that_are_not_json_are_named_and_json_is_left_to_the_decoder() {
        let reason = |payload: &[u8]| foreign_format(payload).map(|rejection| rejection.line());
        let framed = reason(b"\0\0\0\x01\x02{}").unwrap();
        assert_eq!(framed, "is framed for a schema registry (schema 258); must be plain JSON");
        assert_eq!(reason(b"\0ab").unwrap(), "is not JSON: starts with byte 0x00");
        assert_eq!(reason(b"nothing").unwrap(), "is not JSON: starts with byte 0x6e");
        for json in ["{}", " {}", "[]", "\"a\"", "-1", "17", "true\n", "false", "null", "\u{feff}{}", "", " "] {
            assert_eq!(reason(json.as_bytes()), None, "{json}");
        }
    }
}
