//! The scalars of a stored body, for stores that keep them in columns of their own. Reads bodies, never changes them.

use simd_json::StaticNode;
use simd_json::tape::Node;

use super::date;
use super::decode::{Decoder, Decoding};
use super::validate::Profile;

/// The top-level scalars of a WB order. What is missing or of another type is `None`.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Columns<'a> {
    /// `track_number`.
    pub track_number: Option<&'a str>,
    /// `entry`.
    pub entry: Option<&'a str>,
    /// `locale`.
    pub locale: Option<&'a str>,
    /// `internal_signature`.
    pub internal_signature: Option<&'a str>,
    /// `customer_id`.
    pub customer_id: Option<&'a str>,
    /// `delivery_service`.
    pub delivery_service: Option<&'a str>,
    /// `shardkey`.
    pub shardkey: Option<&'a str>,
    /// `sm_id`.
    pub sm_id: Option<i64>,
    /// `date_created`, in microseconds since 1970 in UTC.
    pub date_created: Option<i64>,
    /// `oof_shard`.
    pub oof_shard: Option<&'a str>,
}

/// Reads columns from one body after the other, reusing its working space.
pub struct ColumnReader(Decoder);

impl Default for ColumnReader {
    fn default() -> Self {
        Self(Decoder::new(Profile::Lenient, usize::MAX))
    }
}

impl ColumnReader {
    /// Hands the scalars of a stored WB body to `with`.
    pub fn wb<T>(&mut self, body: &[u8], with: impl FnOnce(&Columns<'_>) -> T) -> T {
        let mut with = Some(with);
        let mut call = |columns: &Columns<'_>| with.take().map(|with| with(columns));
        let read = self.0.with_document(body, |decoding| Ok(call(&columns(&decoding))));
        // A stored body was decoded before it was stored, so this reads it again; if not, there are no columns.
        read.ok().flatten().or_else(|| call(&Columns::default())).expect("called once")
    }
}

fn columns<'i>(decoding: &Decoding<'_, 'i>) -> Columns<'i> {
    let mut columns = Columns::default();
    let Some(Node::Object { len, .. }) = decoding.nodes.first() else { return columns };
    let mut at = 1;
    for _ in 0..*len {
        let (key, value) = (decoding.nodes[at], decoding.nodes[at + 1]);
        at = decoding.after(at + 1);
        let Node::String(key) = key else { unreachable!("keys are strings") };
        let column = match key {
            "track_number" => &mut columns.track_number,
            "entry" => &mut columns.entry,
            "locale" => &mut columns.locale,
            "internal_signature" => &mut columns.internal_signature,
            "customer_id" => &mut columns.customer_id,
            "delivery_service" => &mut columns.delivery_service,
            "shardkey" => &mut columns.shardkey,
            "oof_shard" => &mut columns.oof_shard,
            "sm_id" => {
                columns.sm_id = match value {
                    Node::Static(StaticNode::I64(number)) => Some(number),
                    Node::Static(StaticNode::U64(number)) => i64::try_from(number).ok(),
                    _ => None,
                };
                continue;
            }
            "date_created" => {
                if let Node::String(text) = value {
                    columns.date_created = date::unix_micros(text);
                }
                continue;
            }
            _ => continue,
        };
        if let Node::String(text) = value {
            *column = Some(text);
        }
    }
    columns
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn scalars_are_read_and_what_is_of_another_type_is_not() {
        let body = br#"{"order_uid":"a","entry":"W\u0042","sm_id":7,"locale":3,"items":[{"entry":"x"}],"date_created":"1970-01-01T00:00:01Z"}"#;
        ColumnReader::default().wb(body, |columns| {
            assert_eq!((columns.entry, columns.locale, columns.sm_id), (Some("WB"), None, Some(7)));
            assert_eq!(columns.date_created, Some(1_000_000));
        });
        ColumnReader::default().wb(b"", |columns| assert_eq!(*columns, Columns::default()));
    }
}
