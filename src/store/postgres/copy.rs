//! Rows of `orders` in the binary form of COPY (PostgreSQL documentation, "COPY", "Binary Format").

use crate::id::OrderId;
use crate::order::column_reader::ColumnReader;
use crate::order::columns::{Columns, Packed};
use crate::order::envelope::Stored;
use crate::snapshot::Kind;
use crate::snapshot::State;
use crate::store::Row;
use crate::store::rules::{column, signed};

/// The columns of a row, in the order they are written.
pub const COLUMNS: [&str; 26] = [
    "order_uid",
    "seq",
    "version",
    "changed_in",
    "kind",
    "state",
    "created_at",
    "updated_at",
    "deleted_at",
    "status",
    "user_id",
    "external_id",
    "amount",
    "bucket",
    "track_number",
    "entry",
    "locale",
    "internal_signature",
    "customer_id",
    "delivery_service",
    "shardkey",
    "sm_id",
    "date_created",
    "oof_shard",
    "source",
    "body",
];

const HEADER: &[u8] = b"PGCOPY\n\xff\r\n\0\0\0\0\0\0\0\0\0";
const TRAILER: [u8; 2] = (-1_i16).to_be_bytes();
/// Microseconds from 1970 to 2000, where PostgreSQL's timestamps start.
const EPOCH_MICROS: i64 = 946_684_800_000_000;

/// Rows are sent while the next ones are encoded.
const CHUNK_BYTES: usize = 64 << 10;

/// What all rows of a batch share.
#[derive(Debug, Clone, Copy)]
pub struct Common<'a> {
    /// The transaction that writes them.
    pub transaction: i64,
    /// When a row that is new was created, in microseconds since 1970.
    pub created_micros: i64,
    /// When it changed, in microseconds since 1970: now, unless it comes from another store.
    pub now_micros: i64,
    /// Where they come from.
    pub source: &'a str,
}

/// Encodes rows one after the other into one buffer.
pub struct Encoder {
    buffer: Vec<u8>,
    columns: ColumnReader,
}

impl Encoder {
    /// Before the first row.
    #[must_use]
    pub fn new() -> Self {
        let mut buffer = Vec::with_capacity(CHUNK_BYTES + CHUNK_BYTES / 8);
        buffer.extend_from_slice(HEADER);
        Self { buffer, columns: ColumnReader::default() }
    }

    /// What was encoded since it was last taken.
    #[must_use]
    pub fn take(&mut self) -> bytes::Bytes {
        std::mem::replace(&mut self.buffer, Vec::with_capacity(CHUNK_BYTES + CHUNK_BYTES / 8)).into()
    }

    /// Worth sending.
    #[must_use]
    pub fn is_full(&self) -> bool {
        self.buffer.len() >= CHUNK_BYTES
    }

    /// Ends the rows.
    pub fn finish(&mut self) {
        self.buffer.extend_from_slice(&TRAILER);
    }

    /// Adds a row. `columns` are those the decoder packed; they are read from the body when it did
    /// not.
    pub fn row(
        &mut self,
        id: &OrderId,
        row: &Row,
        external_id: Option<&str>,
        columns: Option<&Packed>,
        common: Common<'_>,
    ) {
        self.buffer.reserve(row.body.len() + 512);
        let mut fields = Fields(&mut self.buffer);
        fields.0.extend_from_slice(&26_i16.to_be_bytes());
        fields.bytes(id.text().as_bytes());
        fields.int8(signed(row.seq));
        fields.int8(signed(row.version));
        fields.int8(common.transaction);
        fields.int2(column::of_kind(row.kind));
        fields.int2(column::of_state(row.state));
        fields.timestamp(Some(common.created_micros));
        fields.timestamp(Some(common.now_micros));
        fields.timestamp((row.state != State::Live).then_some(common.now_micros));
        match (row.state, row.kind) {
            (State::Tombstone, _) => {
                fields.text(Some("deleted"));
                fields.nulls(4 + Columns::COUNT);
            }
            (_, Kind::Envelope) => {
                fields.envelope(id, &row.body, external_id);
                fields.nulls(Columns::COUNT);
            }
            (_, Kind::Wb) => {
                fields.nulls(5);
                match columns {
                    Some(columns) => fields.0.extend_from_slice(columns.as_bytes()),
                    None => fields.0.extend_from_slice(self.columns.wb(&row.body).as_bytes()),
                }
            }
        }
        fields.bytes(common.source.as_bytes());
        fields.bytes(&row.body);
    }
}

impl Default for Encoder {
    fn default() -> Self {
        Self::new()
    }
}

struct Fields<'b>(&'b mut Vec<u8>);

impl Fields<'_> {
    fn bytes(&mut self, value: &[u8]) {
        let len = i32::try_from(value.len()).expect("orders are far smaller than 2 GiB");
        self.0.extend_from_slice(&len.to_be_bytes());
        self.0.extend_from_slice(value);
    }

    fn nulls(&mut self, count: usize) {
        for _ in 0..count {
            self.0.extend_from_slice(&(-1_i32).to_be_bytes());
        }
    }

    fn text(&mut self, value: Option<&str>) {
        match value {
            Some(value) => self.bytes(value.as_bytes()),
            None => self.nulls(1),
        }
    }

    fn int2(&mut self, value: i16) {
        self.bytes(&value.to_be_bytes());
    }

    fn int8(&mut self, value: i64) {
        self.bytes(&value.to_be_bytes());
    }

    fn timestamp(&mut self, micros: Option<i64>) {
        match micros {
            Some(micros) => self.int8(micros - EPOCH_MICROS),
            None => self.nulls(1),
        }
    }

    /// `status` to `bucket`.
    fn envelope(&mut self, id: &OrderId, body: &[u8], external_id: Option<&str>) {
        let stored = Stored::parse(body);
        self.text(stored.map(|stored| stored.status));
        match stored.and_then(|stored| uuid::Uuid::try_parse(stored.user_id).ok()) {
            Some(user_id) => self.bytes(user_id.as_bytes()),
            None => self.nulls(1),
        }
        self.text(external_id);
        match stored.and_then(|stored| stored.amount.parse::<f64>().ok()).filter(|amount| amount.is_finite()) {
            Some(amount) => self.bytes(&amount.to_be_bytes()),
            None => self.nulls(1),
        }
        match id.as_uuid() {
            Some(uuid) => self.int2(i16::from(uuid.as_bytes()[0] % 4)),
            None => self.nulls(1),
        }
    }
}
