//! Every order out of PostgreSQL at once: two connections, halves of one exported snapshot, COPY in
//! its binary form.

use std::sync::Arc;

use bytes::Buf;
use tokio_postgres::Client;

use super::errors::{classify, silent};
use super::login::SET_UP;
use super::wire::Wire;
use super::{Config, StoreError, login};
use crate::id::OrderId;
use crate::process::background;
use crate::snapshot::Snapshot;
use crate::store::rules::column;

/// Orders handed over at once.
const SCAN_ROWS: usize = 256;
/// A table that is locked is tried again, and what was given up does not go on waiting for it.
const LOCK_TIMEOUT: &str = "30s";
const HALVES: [&[&str]; 2] = [&["orders_p0", "orders_p1"], &["orders_p2", "orders_p3"]];
/// Signature, flags and the length of the extension.
const HEADER_BYTES: usize = 19;

/// Orders with their ids, handed over some hundred at a time.
pub(super) type Emit = dyn Fn(Vec<(OrderId, Snapshot)>) + Send + Sync;

/// Emits every stored order. Each half is read on a thread of its own, so that neither waits for
/// the other nor holds up anyone who asked.
pub(super) async fn scan(config: &Config, emit: Arc<Emit>) -> Result<u64, StoreError> {
    let keeper = connect(config).await?;
    keeper.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").await.map_err(classify)?;
    let exported = keeper.query_one("SELECT pg_export_snapshot()", &[]).await.map_err(classify)?;
    let snapshot: String = exported.try_get(0).map_err(classify)?;
    let mut halves = Vec::new();
    for tables in HALVES {
        let (config, snapshot, emit) = (config.clone(), snapshot.clone(), Arc::clone(&emit));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| StoreError::Unavailable(error.into()))?;
        let scan = move || runtime.block_on(scan_tables(&config, &snapshot, tables, &*emit));
        halves.push(background::spawn("scan", scan));
    }
    let mut count = 0;
    for half in halves {
        count += half.await.map_err(|error| StoreError::Unavailable(error.into()))??;
    }
    Ok(count)
}

/// A connection of its own, for statements that take as long as they take.
pub(super) async fn connect(config: &Config) -> Result<Client, StoreError> {
    let client = log_in(config).await?;
    let time = config.login_time();
    let set_up = tokio::time::timeout(time, client.batch_execute(SET_UP)).await;
    set_up.map_err(|_| silent(time))?.map_err(classify)?;
    Ok(client)
}

/// A connection on which nothing is set: behind a pooler the settings would stay with others.
pub(super) async fn log_in(config: &Config) -> Result<Client, StoreError> {
    let time = config.login_time();
    tokio::time::timeout(time, login::connect(config)).await.map_err(|_| silent(time))?.map_err(classify)
}

async fn scan_tables(config: &Config, snapshot: &str, tables: &[&str], emit: &Emit) -> Result<u64, StoreError> {
    let setup = format!(
        "SET lock_timeout = '{LOCK_TIMEOUT}';
         BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SET TRANSACTION SNAPSHOT '{snapshot}'"
    );
    let mut wire = Wire::connect(config, &[SET_UP, &setup]).await?;
    let mut count = 0;
    for table in tables {
        let sql = format!(
            "COPY (SELECT seq, (state + 4 * kind)::smallint, version, order_uid, body FROM @{table}) TO STDOUT (FORMAT binary)"
        );
        let mut reader = Reader::default();
        let take = |chunk: &[u8]| {
            count += reader.take(chunk, emit)?;
            Ok(())
        };
        wire.copy_out(&config.schema.sql(&sql), take).await?;
        reader.finish(emit)?;
    }
    wire.close().await;
    Ok(count)
}

/// Reads rows from a stream of chunks, whose ends need not be those of rows.
#[derive(Default)]
struct Reader {
    has_header: bool,
    is_ended: bool,
    carry: Vec<u8>,
    batch: Vec<(OrderId, Snapshot)>,
    scratch: Vec<u8>,
}

impl Reader {
    /// Returns how many rows the chunk completed.
    fn take(&mut self, chunk: &[u8], emit: &Emit) -> Result<u64, StoreError> {
        let mut joined = std::mem::take(&mut self.carry);
        let mut rest = chunk;
        if !joined.is_empty() {
            joined.extend_from_slice(chunk);
            rest = &joined;
        }
        if !self.has_header {
            if rest.len() < HEADER_BYTES {
                self.carry = rest.to_vec();
                return Ok(0);
            }
            rest = &rest[HEADER_BYTES..];
            self.has_header = true;
        }
        let mut count = 0;
        while !rest.is_empty() {
            let Some(left) = self.row(rest)? else {
                self.carry = rest.to_vec();
                break;
            };
            rest = left;
            if self.is_ended {
                break;
            }
            count += 1;
            if self.batch.len() == SCAN_ROWS {
                emit(std::mem::replace(&mut self.batch, Vec::with_capacity(SCAN_ROWS)));
            }
        }
        Ok(count)
    }

    /// What follows the row at the start of `rest`; `None` while the row is not whole.
    fn row<'r>(&mut self, mut rest: &'r [u8]) -> Result<Option<&'r [u8]>, StoreError> {
        if rest.len() < 2 {
            return Ok(None);
        }
        if rest.get_i16() == -1 {
            self.is_ended = true;
            return Ok(Some(rest));
        }
        let mut fields = [&b""[..]; 5];
        for field in &mut fields {
            if rest.len() < 4 {
                return Ok(None);
            }
            let len = usize::try_from(rest.get_i32()).map_err(|_| foreign("a null"))?;
            let Some((value, left)) = rest.split_at_checked(len) else { return Ok(None) };
            *field = value;
            rest = left;
        }
        let [seq, shape, version, uid, body] = fields;
        let int8 = |field: &[u8]| field.try_into().map(i64::from_be_bytes).map_err(|_| foreign("a number"));
        let shape = shape.try_into().map(i16::from_be_bytes).map_err(|_| foreign("a state"))?;
        let (kind, state) = column::to_shape(shape);
        let id = OrderId::parse_stored(uid).map_err(|error| StoreError::Damaged(error.into()))?;
        let (version, seq) = (int8(version)?.unsigned_abs(), int8(seq)?.unsigned_abs());
        let snapshot = Snapshot::new(version, seq, kind, state, body, &mut self.scratch);
        self.batch.push((id, snapshot));
        Ok(Some(rest))
    }

    fn finish(&mut self, emit: &Emit) -> Result<(), StoreError> {
        emit(std::mem::take(&mut self.batch));
        if self.is_ended { Ok(()) } else { Err(StoreError::Unavailable("the rows ended too early".into())) }
    }
}

fn foreign(what: &str) -> StoreError {
    StoreError::Damaged(format!("a column of orders holds {what} it cannot hold").into())
}
