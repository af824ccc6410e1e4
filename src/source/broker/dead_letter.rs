//! What dead letters have in common, whichever broker keeps them: what their headers say, and what
//! is cut of one that is too large.

use bytes::Bytes;

use crate::record::{Record, Rejection, RejectionKind, dead};

/// The reasons in a header; an array may have very many.
const REASON_BYTES_MAX: usize = 8 << 10;

/// What is left of a value that is too large, at most.
pub(in crate::source) const CUT_BYTES: usize = 64 << 10;

/// A dead letter, as far as it is the same for every broker.
#[derive(Clone)]
pub(in crate::source) struct DeadLetter {
    /// The message as it came, or what is left of it.
    pub(in crate::source) record: Record,
    /// Headers that say where it is from, what is wrong with it and what was cut.
    pub(in crate::source) notes: Vec<(&'static str, String)>,
}

impl DeadLetter {
    /// The letter about a record, in the words that help most.
    pub(in crate::source) fn new(topic: &str, record: &Record, rejection: &Rejection) -> Self {
        let foreign = record.payload.as_deref().and_then(foreign_format);
        let rejection = foreign.as_ref().unwrap_or(rejection);
        let mut reason = rejection.line();
        if reason.len() > REASON_BYTES_MAX {
            let end = (0..=REASON_BYTES_MAX).rev().find(|&end| reason.is_char_boundary(end)).unwrap_or_default();
            reason.truncate(end);
            reason.push('…');
        }
        let notes = vec![
            (dead::TOPIC, topic.to_owned()),
            (dead::PARTITION, record.position.partition.to_string()),
            (dead::OFFSET, record.position.offset.to_string()),
            (dead::STAGE, "VALUE_CONVERTER".to_owned()),
            (dead::CLASS, format!("order_service.{}", rejection.kind.code())),
            (dead::MESSAGE, reason),
        ];
        Self { record: record.clone(), notes }
    }

    /// Makes the largest part of a letter that does not fit smaller: the value, all headers of the
    /// sender, or the key. The whole is still where it came from, which the notes name. Returns
    /// whether there was anything left to cut.
    pub(in crate::source) fn cut(&mut self) -> bool {
        let record = &mut self.record;
        let (value, key) = (len(record.payload.as_ref()), len(record.key.as_ref()));
        if headers_len(record) > value.max(key) {
            return self.cut_headers();
        }
        let (part, from) = if value >= key { (&mut record.payload, value) } else { (&mut record.key, key) };
        let Some(bytes) = part.as_mut().filter(|bytes| !bytes.is_empty()) else { return false };
        bytes.truncate(CUT_BYTES.min(from / 2));
        self.note(if value >= key { dead::CUT_FROM } else { dead::KEY_CUT_FROM }, from);
        true
    }

    /// As [`Self::cut`], for the sender's headers alone.
    pub(in crate::source) fn cut_headers(&mut self) -> bool {
        let from = headers_len(&self.record);
        if from > 0 {
            self.record.headers = None;
            self.note(dead::HEADERS_CUT_FROM, from);
        }
        from > 0
    }

    fn note(&mut self, part: &'static str, from: usize) {
        tracing::warn!(position = ?self.record.position, part, from, "too large for a dead letter, cut");
        if self.notes.iter().all(|(name, _)| *name != part) {
            self.notes.push((part, from.to_string()));
        }
    }
}

fn len(bytes: Option<&Bytes>) -> usize {
    bytes.map_or(0, Bytes::len)
}

fn headers_len(record: &Record) -> usize {
    let headers = record.headers.iter().flat_map(|headers| headers.iter());
    headers.map(|(name, value)| name.len() + len(value.as_ref())).sum()
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
    use crate::record::Position;

    #[test]
    fn what_is_too_large_is_cut_largest_part_first_until_nothing_is_left() {
        let bytes = |len: usize| Some(Bytes::from(vec![b'x'; len]));
        let mut record = Record::new(Position { partition: 7, offset: 9 }, bytes(1 << 20).unwrap());
        record.headers = Some(Box::new(vec![("trace".into(), bytes(20_000)), ("empty".into(), None)]));
        record.key = bytes(10_000);
        let rejection = Rejection::whole(RejectionKind::Malformed, "no order");
        let mut dead_letter = DeadLetter::new("orders", &record, &rejection);
        assert!(dead_letter.cut());
        assert_eq!(dead_letter.record.payload.as_ref().map(Bytes::len), Some(CUT_BYTES));
        assert!(dead_letter.record.headers.is_some() && dead_letter.record.key == record.key);
        while dead_letter.cut() {}
        let Record { payload, key, headers, .. } = dead_letter.record;
        assert_eq!((payload, key, headers), (Some(Bytes::new()), Some(Bytes::new()), None));
        let cut: Vec<_> = dead_letter.notes[6..].iter().map(|(name, value)| (*name, value.as_str())).collect();
        let expected = [(dead::CUT_FROM, "1048576"), (dead::HEADERS_CUT_FROM, "20010"), (dead::KEY_CUT_FROM, "10000")];
        assert_eq!(cut, expected);
    }

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
