//! Batches that are committed and not yet published, in SQLite.

use std::time::{Duration, SystemTime};

use rusqlite::{Connection, OptionalExtension, params};

use super::snapshot;
use crate::id::{OrderId, Version};
use crate::record::Parcel;
use crate::store::rules::{column, signed};
use crate::store::{Page, Unpublished};

/// See [`crate::store::Store::unpublished`]. No other process can have set out to publish anything.
pub(super) fn unpublished(connection: &Connection, age: Duration, limit: usize) -> rusqlite::Result<Vec<Unpublished>> {
    let now = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default();
    let before = i64::try_from(now.saturating_sub(age).as_millis()).unwrap_or(i64::MAX);
    let limit = i64::try_from(limit).unwrap_or(i64::MAX);
    let mut recorded = connection.prepare_cached(
        "SELECT ticket, contents, uids FROM outbox WHERE created_at <= ? ORDER BY created_at, rowid LIMIT ?",
    )?;
    let mut batches = Vec::new();
    let mut rows = recorded.query(params![before, limit])?;
    while let Some(row) = rows.next()? {
        let parcel = Parcel { ticket: row.get(0)?, contents: column::to_contents(row.get(1)?) };
        let uids = row.get_ref(2)?.as_str()?;
        let ids = uids.lines().filter_map(|uid| OrderId::parse_stored(uid.as_bytes()).ok()).collect();
        batches.push(Unpublished { parcel, ids });
    }
    Ok(batches)
}

/// See [`crate::store::Store::newer`].
pub(super) fn newer(connection: &Connection, known: &[(OrderId, Version)]) -> rusqlite::Result<Page> {
    let mut fetch = connection
        .prepare_cached("SELECT seq, state + 4 * kind, version, body FROM orders WHERE uid = ? AND version > ?")?;
    let mut scratch = Vec::new();
    let mut found = Page::new();
    for (id, version) in known {
        let stored = fetch.query_row(params![&*id.text(), signed(*version)], |row| snapshot(row, &mut scratch));
        found.extend(stored.optional()?.map(|stored| (id.clone(), stored)));
    }
    Ok(found)
}

/// See [`crate::store::Store::narrow`].
pub(super) fn narrow(connection: &Connection, parcel: Parcel, to: &[OrderId], pause: Duration) -> rusqlite::Result<()> {
    let uids: String = to.iter().map(|id| format!("{id}\n")).collect();
    let from = SystemTime::UNIX_EPOCH.elapsed().unwrap_or_default() + pause;
    let from = i64::try_from(from.as_millis()).unwrap_or(i64::MAX);
    let (contents, ticket) = (column::of_contents(parcel.contents), parcel.ticket);
    let narrow = "UPDATE outbox SET uids = ?, contents = ?, created_at = ? WHERE ticket = ?";
    connection.execute(narrow, params![uids, contents, from, ticket])?;
    Ok(())
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
