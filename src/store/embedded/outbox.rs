//! Batches that are committed and not yet published, in SQLite.

use std::time::{Duration, SystemTime};

use rusqlite::{Connection, OptionalExtension, params};

use super::snapshot;
use crate::id::OrderId;
use crate::record::Parcel;
use crate::store::Unpublished;
use crate::store::rules::column;

/// See [`crate::store::Store::unpublished`]. No other process can have set out to publish anything.
pub(super) fn unpublished(connection: &Connection, age: Duration, limit: usize) -> rusqlite::Result<Vec<Unpublished>> {
    let now = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
    let before = i64::try_from(now.saturating_sub(age).as_millis()).unwrap_or(i64::MAX);
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let mut recorded = connection.prepare_cached(
        "SELECT ticket, contents, uids FROM outbox WHERE created_at <= ? ORDER BY created_at, rowid LIMIT ?",
    )?;
    let mut fetch =
        connection.prepare_cached("SELECT seq, state + 4 * kind, version, body FROM orders WHERE uid = ?")?;
    let mut scratch = Vec::new();
    let mut batches = Vec::new();
    let mut rows = recorded.query(params![before, limit])?;
    while let Some(row) = rows.next()? {
        let parcel = Parcel { ticket: row.get(0)?, contents: column::to_contents(row.get(1)?) };
        let mut orders = Vec::new();
        for uid in row.get_ref(2)?.as_str()?.lines() {
            let stored = fetch.query_row([uid], |row| snapshot(row, &mut scratch)).optional()?;
            if let (Some(stored), Ok(id)) = (stored, OrderId::parse(uid.as_bytes())) {
                orders.push((id, stored));
            }
        }
        batches.push(Unpublished { parcel, orders });
    }
    Ok(batches)
}

/// See [`crate::store::Store::published`].
pub(super) fn forget(connection: &mut Connection, tickets: &[i64]) -> rusqlite::Result<()> {
    let transaction = connection.transaction()?;
    {
        let mut delete = transaction.prepare_cached("DELETE FROM outbox WHERE ticket = ?")?;
        for ticket in tickets {
            delete.execute([ticket])?;
        }
    }
    transaction.commit()
}
