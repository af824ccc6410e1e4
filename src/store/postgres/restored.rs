//! Orders that came in a dump of another server. The numbers of the transactions that wrote them
//! mean nothing here: where they lie beyond those of this server, they would count as changes that
//! are still to come.

use tokio_postgres::Client;

use super::SchemaName;
use super::schema::MigrateError;

/// The pages of an index `orders_changed_in` are summarized as they are now. Best effort: without
/// it the index finds more pages than it has to.
const SUMMARIZE: &str = "
    SELECT count(brin_desummarize_range(i.indexrelid, block)), count(brin_summarize_range(i.indexrelid, block))
    FROM pg_inherits h
    JOIN pg_index i ON i.indrelid = h.inhrelid
    JOIN pg_inherits n ON n.inhrelid = i.indexrelid AND n.inhparent = '@orders_changed_in'::regclass
    CROSS JOIN LATERAL generate_series(0, pg_relation_size(h.inhrelid) / 8192, 32) AS block
    WHERE h.inhparent = '@orders'::regclass";

/// Marks such orders as changed by no transaction of this server. Says so, once: later there are
/// none.
///
/// # Errors
/// [`MigrateError`]; then nothing is marked. Another instance may be doing the same.
pub(super) async fn adopt(client: &mut Client, schema: &SchemaName) -> Result<(), MigrateError> {
    // What a snapshot shows was written before it, and by a transaction that had begun.
    let transaction = client.build_transaction().isolation_level(tokio_postgres::IsolationLevel::RepeatableRead);
    let transaction = transaction.start().await?;
    transaction.batch_execute("SET LOCAL enable_seqscan = off").await?;
    let sql = "SELECT pg_snapshot_xmax(pg_current_snapshot())::text::bigint, pg_is_in_recovery()
                   OR to_regclass('@orders') IS NULL";
    let row = transaction.query_one(&schema.sql(sql), &[]).await?;
    let (next, is_read_only): (i64, bool) = (row.try_get(0)?, row.try_get(1)?);
    if is_read_only {
        return Ok(());
    }
    let found = schema.sql("SELECT EXISTS (SELECT FROM @orders WHERE changed_in >= $1)");
    if !transaction.query_one(&found, &[&next]).await?.try_get::<_, bool>(0)? {
        return Ok(());
    }
    let mark = schema.sql("UPDATE @orders SET changed_in = 0 WHERE changed_in >= $1");
    let orders = transaction.execute(&mark, &[&next]).await?;
    transaction.commit().await?;
    tracing::warn!(orders, "orders came in a dump of another server; they are marked as not changed on this one");
    if let Err(error) = client.batch_execute(&schema.sql(SUMMARIZE)).await {
        tracing::debug!(error = %crate::process::log::causes(&error), "the index on changed_in is not summarized");
    }
    Ok(())
}
