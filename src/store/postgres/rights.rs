//! Which rights the role of the service lacks. A right that is taken away may be given back, so
//! writes wait for it; this is how the operator is told what they wait for.

use super::errors::unreadable;
use super::{Postgres, StoreError};

/// Each right that reading and writing take, as PostgreSQL names it. A relation that is not there
/// lacks none. A standby lacks nothing: it answers reads, and takes writes once it is promoted.
const MISSING: &str = "
    SELECT string_agg(lacking, ', ') FROM (
        SELECT privilege || ' on ' || relation AS lacking
        FROM (VALUES ('orders', 'SELECT INSERT UPDATE'), ('positions', 'SELECT INSERT UPDATE'),
                     ('idempotency', 'SELECT INSERT UPDATE DELETE'), ('outbox', 'SELECT INSERT UPDATE DELETE'),
                     ('store_identity', 'SELECT'), ('orders_p0', 'SELECT'), ('orders_p1', 'SELECT'),
                     ('orders_p2', 'SELECT'), ('orders_p3', 'SELECT')) AS needed (relation, privileges)
        CROSS JOIN LATERAL unnest(string_to_array(privileges, ' ')) AS privilege
        WHERE NOT has_table_privilege(to_regclass('@' || relation), privilege)
        UNION ALL
        SELECT 'USAGE on orders_rank'
        WHERE NOT has_sequence_privilege(to_regclass('@orders_rank'), 'USAGE, UPDATE')
        UNION ALL
        SELECT 'TEMPORARY on the database' WHERE NOT has_database_privilege(current_database(), 'TEMPORARY')
        UNION ALL
        SELECT 'writing, as its transactions are read-only'
        WHERE current_setting('default_transaction_read_only') = 'on'
    ) AS missing";

impl Postgres {
    /// The rights that the role lacks, in words; `None` when it has all.
    ///
    /// # Errors
    /// When the server cannot be asked.
    pub async fn missing_rights(&self) -> Result<Option<String>, StoreError> {
        let session = self.reader().await?;
        let missing = self.0.config.schema.sql(MISSING);
        let row = session.ask(self.0.config.patience(), session.query_one(&missing, &[])).await?;
        row.try_get(0).map_err(unreadable)
    }
}
