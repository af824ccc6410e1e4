//! Transactions in the middle of a COPY whose instance does not go on: it is held, cut off, or on a
//! machine that is gone.
//!
//! PostgreSQL ends a transaction that is idle (`idle_in_transaction_session_timeout`) and a
//! statement that takes too long (`statement_timeout`), but while a COPY waits for its client it
//! looks at neither: what such a transaction has locked, the positions of a partition among it,
//! would be locked until the connection is known to be dead, which takes hours. So an instance that
//! has waited in vain for a lock ends those that have been waiting for longer than a statement may
//! take. Had one of them gone on, PostgreSQL would have ended it by now; its instance finds a lost
//! connection and writes the batch again.

use std::time::Duration;

use super::Postgres;
use super::errors::{classify, unreadable};
use super::peers;
use crate::process::log::causes;
use crate::store::StoreError;

/// Only connections that an instance on this schema writes on: those that hold the lock `$1` says.
const END: &str = "
    SELECT pid, host(client_addr), pg_terminate_backend(pid) FROM pg_stat_activity
    WHERE datname = current_database() AND usename = current_user
    AND state = 'active' AND wait_event_type = 'Client' AND query_start < clock_timestamp() - make_interval(secs => $2)
    AND pid IN (SELECT pid FROM pg_locks WHERE locktype = 'advisory' AND classid = $1::int::oid AND objsubid = 2
                AND database = (SELECT oid FROM pg_database WHERE datname = current_database()))";

/// Ends them. That it cannot is said and is no reason to fail: the one who waits tries again.
pub(super) async fn end(store: &Postgres) {
    if let Err(error) = try_end(store).await {
        tracing::warn!(error = %causes(&error), "cannot look for transactions whose instance has stopped in the middle of them");
    }
}

async fn try_end(store: &Postgres) -> Result<(), StoreError> {
    let config = &store.0.config;
    let session = store.0.writers.get().await?;
    let writers = peers::writers(&session, config).await.map_err(classify)?;
    // A little longer than the limit, so that none is met that is about to end by itself.
    let age = (config.statement_timeout + Duration::from_secs(1)).as_secs_f64();
    let rows = session.ask(config.patience(), session.query(END, &[&writers, &age])).await?;
    for row in &rows {
        let (process, client): (i32, Option<&str>) =
            (row.try_get(0).map_err(unreadable)?, row.try_get(1).map_err(unreadable)?);
        if row.try_get(2).map_err(unreadable)? {
            tracing::warn!(process, client, "ended a transaction whose instance had stopped in the middle of it");
        }
    }
    Ok(())
}
