//! The scalars of a WB body, for stores that keep them in columns of their own. Reads bodies, never changes them.

use std::cell::RefCell;

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

/// Longer texts are no columns: a b-tree takes no row of more than a third of a page. The body has them.
const TEXT_BYTES_MAX: usize = 512;

/// Columns packed one after the other, each as a COPY in binary form has it: its length in 32 bits, -1 for none, then
/// text, or a number or microseconds since 2000 in 64 bits (PostgreSQL documentation, "COPY", "Binary Format").
///
/// In the order of the fields of [`Columns`], so that a store which wants them copies them as they are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Packed(Box<[u8]>);

impl Packed {
    /// The packed bytes.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

/// Microseconds from 1970 to 2000.
const EPOCH_MICROS: i64 = 946_684_800_000_000;

impl Columns<'_> {
    /// How many columns there are.
    pub const COUNT: usize = 10;

    pub(super) fn pack(&self) -> Packed {
        let mut packed = Vec::with_capacity(160);
        let mut put = |value: Option<&[u8]>| match value {
            None => packed.extend_from_slice(&(-1_i32).to_be_bytes()),
            Some(value) => {
                let len = i32::try_from(value.len()).expect("orders are far smaller than 2 GiB");
                packed.extend_from_slice(&len.to_be_bytes());
                packed.extend_from_slice(value);
            }
        };
        for text in [
            self.track_number,
            self.entry,
            self.locale,
            self.internal_signature,
            self.customer_id,
            self.delivery_service,
            self.shardkey,
        ] {
            put(short(text));
        }
        put(self.sm_id.map(i64::to_be_bytes).as_ref().map(<[u8; 8]>::as_slice));
        let date_created = self.date_created.map(|micros| (micros - EPOCH_MICROS).to_be_bytes());
        put(date_created.as_ref().map(<[u8; 8]>::as_slice));
        put(short(self.oof_shard));
        Packed(packed.into())
    }
}

fn short(text: Option<&str>) -> Option<&[u8]> {
    text.map(str::as_bytes).filter(|text| text.len() <= TEXT_BYTES_MAX)
}

/// Reads the columns of stored bodies, reusing its working space.
pub struct ColumnReader(Decoder);

impl Default for ColumnReader {
    fn default() -> Self {
        Self(Decoder::new(Profile::Lenient, usize::MAX))
    }
}

impl ColumnReader {
    /// The scalars of a stored WB body.
    pub fn wb(&mut self, body: &[u8]) -> Packed {
        let read = self.0.with_document(body, |decoding| Ok(columns(&decoding).pack()));
        // A stored body was decoded before it was stored, so this reads it again; if not, there are no columns.
        read.unwrap_or_else(|_| Columns::default().pack())
    }
}

/// `customer_id` of a stored WB body.
pub(super) fn customer_id(body: &[u8]) -> Option<String> {
    thread_local! {
        static DECODER: RefCell<Decoder> = RefCell::new(Decoder::new(Profile::Lenient, usize::MAX));
    }
    DECODER.with_borrow_mut(|decoder| {
        let read = |decoding: Decoding<'_, '_>| Ok(columns(&decoding).customer_id.map(str::to_owned));
        decoder.with_document(body, read).ok().flatten()
    })
}

pub(super) fn columns<'i>(decoding: &Decoding<'_, 'i>) -> Columns<'i> {
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
        let expected =
            Columns { entry: Some("WB"), sm_id: Some(7), date_created: Some(1_000_000), ..Columns::default() };
        assert_eq!(ColumnReader::default().wb(body), expected.pack());
        assert_eq!(ColumnReader::default().wb(b""), Columns::default().pack());
        let none = [255; 4];
        assert_eq!(Columns::default().pack().as_bytes(), none.repeat(Columns::COUNT));
    }

    #[test]
    fn the_decoder_notes_the_same_columns() {
        let mut decoder = Decoder::new(Profile::Wb, 1 << 20).with_columns(true);
        for n in 0..200 {
            let mut document = Vec::new();
            crate::order::sample::wb(7, n, &mut document);
            let order = decoder.decode(&document.into()).unwrap();
            let crate::order::Command::Wb(body) = &order.command else { panic!("samples are WB orders") };
            assert_eq!(order.columns, Some(ColumnReader::default().wb(body)));
        }
    }
}
