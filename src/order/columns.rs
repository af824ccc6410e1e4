//! The scalars of a WB body, for stores that keep them in columns of their own. Reads bodies, never changes them.

use simd_json::StaticNode;
use simd_json::tape::Node;

use super::date;
use super::tape::after;

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

/// The columns of a parsed document.
pub(super) fn columns<'i>(nodes: &[Node<'i>]) -> Columns<'i> {
    let mut columns = Columns::default();
    let Some(Node::Object { len, .. }) = nodes.first() else { return columns };
    let mut at = 1;
    for _ in 0..*len {
        let (key, value) = (nodes[at], nodes[at + 1]);
        at = after(nodes, at + 1);
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
