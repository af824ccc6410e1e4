//! One connection: how it is set up, and the statements prepared on it.

use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::{OnceCell, watch};
use tokio_postgres::{Client, Statement};

use super::encryption::Encryption;
use super::errors::{classify, said, silent};
use super::{Config, SchemaName, StoreError, copy, login, peers, pooler, restored, schema};

/// Makes connections for a pool.
pub(super) struct Manager {
    config: Arc<Config>,
    is_for_reading: bool,
    /// Set once this pool knows that the database can be used and the schema is there.
    checked: OnceCell<()>,
}

/// Why a connection could not be made.
#[derive(Debug, thiserror::Error)]
pub(super) enum ConnectError {
    #[error("{}", said(.0).unwrap_or("cannot connect to PostgreSQL"))]
    Connect(#[source] tokio_postgres::Error),
    #[error("cannot set a connection to PostgreSQL up")]
    SetUp(#[from] tokio_postgres::Error),
    #[error(transparent)]
    Silent(#[from] super::errors::Silent),
    #[error(
        "a pooler hands each transaction to another connection of PostgreSQL: set pool_mode = session there (PgBouncer), or \
         name the server itself"
    )]
    Pooled,
    #[error("cannot bring the schema up to date")]
    Migrate(#[from] schema::MigrateError),
}

/// The latest connection that could not be made. The pool itself only says that it waited long
/// enough.
#[derive(Debug, Clone)]
pub(super) struct Failures(watch::Sender<Option<Arc<ConnectError>>>);

impl Default for Failures {
    fn default() -> Self {
        Self(watch::channel(None).0)
    }
}

impl Failures {
    /// Completes with the first failure after this call.
    pub(super) fn next(&self) -> impl Future<Output = Arc<ConnectError>> + Send + '_ {
        let mut latest = self.0.subscribe();
        latest.mark_unchanged();
        async move {
            loop {
                let _ = latest.changed().await; // cannot fail: `self` holds the sender
                if let Some(error) = latest.borrow_and_update().clone() {
                    return error;
                }
            }
        }
    }
}

impl bb8::ErrorSink<ConnectError> for Failures {
    fn sink(&self, error: ConnectError) {
        self.0.send_replace(Some(Arc::new(error)));
    }

    fn boxed_clone(&self) -> Box<dyn bb8::ErrorSink<ConnectError>> {
        Box::new(self.clone())
    }
}

impl Manager {
    pub(super) fn new(config: &Config, is_for_reading: bool) -> Self {
        Self { config: Arc::new(config.clone()), is_for_reading, checked: OnceCell::new() }
    }
}

impl bb8::ManageConnection for Manager {
    type Connection = Session;
    type Error = ConnectError;

    async fn connect(&self) -> Result<Session, ConnectError> {
        // A server that takes a connection may still say nothing on it.
        let time = self.config.login_time();
        let client = tokio::time::timeout(time, login::connect(&self.config)).await.map_err(|_| silent(time))?;
        let mut client = client.map_err(ConnectError::Connect)?;
        if !self.checked.initialized() && pooler::is_between(&self.config, &client).await {
            return Err(ConnectError::Pooled);
        }
        tokio::time::timeout(time, client.batch_execute(login::SET_UP)).await.map_err(|_| silent(time))??;
        let check = async {
            if self.config.is_migrating {
                schema::up(&mut client, &self.config.schema).await?;
            } else {
                schema::check(&client, &self.config.schema).await?;
            }
            restored::adopt(&mut client, &self.config.schema).await
        };
        self.checked.get_or_try_init(|| check).await?;
        let session = Session::new(client, &self.config, self.is_for_reading);
        Ok(tokio::time::timeout(time, session).await.map_err(|_| silent(time))??)
    }

    async fn is_valid(&self, session: &mut Session) -> Result<(), ConnectError> {
        Ok(session.client.simple_query("").await.map(|_| ())?)
    }

    fn has_broken(&self, session: &mut Session) -> bool {
        session.is_open || session.is_abandoned.load(Ordering::Relaxed) || session.client.is_closed()
    }
}

/// A connection with its statements.
pub(super) struct Session {
    client: Client,
    encryption: Encryption,
    pub(super) statements: Statements,
    /// A transaction was begun and not ended. Such a connection goes back to no pool.
    pub(super) is_open: bool,
    /// A question was given up before its answer, which would be in the way of others. Such a
    /// connection goes back to no pool either.
    is_abandoned: AtomicBool,
}

pub(super) struct Statements {
    pub(super) fetch: Statement,
    pub(super) fetch_external: Statement,
    pub(super) page: Statement,
    pub(super) last_seq: Statement,
    pub(super) estimate: Statement,
    pub(super) positions: Statement,
    pub(super) begin_batch: Statement,
    pub(super) move_known: Statement,
    pub(super) move_first: Statement,
    pub(super) lock: Statement,
    pub(super) copy_new: Statement,
    pub(super) copy_changed: Statement,
    /// Not prepared: how it is best done depends on how much there is.
    pub(super) apply_changed: String,
    pub(super) keys: Statement,
    pub(super) remember: Statement,
    pub(super) purge: Statement,
    pub(super) record: Statement,
    pub(super) claim: Statement,
    pub(super) newer: Statement,
    pub(super) forget: Statement,
    pub(super) landed: Statement,
}

impl Statements {
    #[expect(clippy::too_many_lines, reason = "a table of statements")]
    async fn prepare(client: &Client, schema: &SchemaName) -> Result<Self, tokio_postgres::Error> {
        let columns = copy::COLUMNS.join(", ");
        let copy_new = format!("COPY @orders ({columns}) FROM STDIN (FORMAT binary)");
        let copy_changed = format!("COPY orders_changed ({columns}) FROM STDIN (FORMAT binary)");
        let kept = ["order_uid", "seq", "kind", "created_at"];
        let set = copy::COLUMNS.iter().filter(|column| !kept.contains(column));
        let set = set.map(|column| format!("{column} = n.{column}")).collect::<Vec<_>>().join(", ");
        let apply_changed = schema.sql(&format!(
            "UPDATE @orders o SET {set} FROM orders_changed n WHERE o.order_uid = n.order_uid AND o.version < n.version"
        ));
        let p = |sql: &str| {
            let sql = schema.sql(sql);
            async move { client.prepare(&sql).await }
        };
        let (fetch, fetch_external, page, last_seq, estimate, positions) = tokio::try_join!(
            p("SELECT seq, (state + 4 * kind)::smallint, version, body FROM @orders WHERE order_uid = $1"),
            p("SELECT seq, (state + 4 * kind)::smallint, version, body, order_uid FROM @orders
               WHERE user_id = $1::text::uuid AND external_id = $2 AND external_id IS NOT NULL AND state = 0
               ORDER BY seq DESC LIMIT 1"),
            p("SELECT seq, (state + 4 * kind)::smallint, version, body, order_uid FROM @orders
               WHERE seq >= $1 AND seq < $2 AND state = 0 ORDER BY seq DESC LIMIT $3"),
            p("SELECT CASE WHEN is_called THEN (last_value + 1) * 4096 ELSE 0 END FROM @orders_rank"),
            // Statistics lag behind, and a page of 8 KB holds no more than some ten orders.
            p("SELECT greatest(coalesce(sum(greatest(c.reltuples, 0)), 0)::bigint,
                               coalesce(sum(pg_relation_size(c.oid)) / 8192 * 10, 0)::bigint)
               FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
               WHERE i.inhparent = '@orders'::regclass AND EXISTS (SELECT 1 FROM @orders)"),
            p("SELECT partition, next_offset FROM @positions WHERE source = $1"),
        )?;
        let (begin_batch, move_known, move_first, lock, copy_new, copy_changed) = tokio::try_join!(
            p("SELECT pg_current_xact_id()::text::bigint, nextval('@orders_rank') FROM generate_series(1, $1::int)"),
            p("UPDATE @positions p SET next_offset = m.upto
               FROM unnest($2::int[], $3::bigint[], $4::bigint[]) AS m (partition, since, upto)
               WHERE p.source = $1 AND p.partition = m.partition AND p.next_offset = m.since
               RETURNING p.partition"),
            p("INSERT INTO @positions (source, partition, next_offset)
               SELECT $1, m.partition, m.upto
               FROM unnest($2::int[], $3::bigint[], $4::bigint[]) AS m (partition, since, upto) WHERE m.since = 0
               ON CONFLICT (source, partition) DO NOTHING RETURNING partition"),
            // One after the other in the order given, so that two batches cannot wait for each
            // other, and each in the one partition where it can be.
            p("SELECT o.* FROM unnest($1::text[]) AS wanted (uid) CROSS JOIN LATERAL
               (SELECT seq, state, version, body, order_uid, kind, external_id FROM @orders
                WHERE order_uid = wanted.uid FOR UPDATE) o"),
            p(&copy_new),
            p(&copy_changed),
        )?;
        let (keys, remember, purge) = tokio::try_join!(
            p("SELECT key, digest, order_uid, answer, version FROM @idempotency
               WHERE key = ANY ($1) AND created_at > $2"),
            p("INSERT INTO @idempotency (key, digest, order_uid, answer, version, created_at)
               SELECT m.key, m.digest, m.uid, m.answer, m.version, $6
               FROM unnest($1::text[], $2::bytea[], $3::text[], $4::smallint[], $5::bigint[])
                    AS m (key, digest, uid, answer, version)
               ON CONFLICT (key) DO UPDATE SET digest = excluded.digest, order_uid = excluded.order_uid,
                   answer = excluded.answer, version = excluded.version, created_at = excluded.created_at
               WHERE idempotency.created_at <= $6 - $7"),
            p("DELETE FROM @idempotency WHERE key IN
               (SELECT key FROM @idempotency WHERE created_at <= $1 ORDER BY created_at LIMIT 10000
                FOR UPDATE SKIP LOCKED)"),
        )?;
        let (record, claim, newer, forget, landed) = tokio::try_join!(
            p("INSERT INTO @outbox (ticket, changed_in, contents, order_uids)
               VALUES ($1, pg_current_xact_id()::text::bigint, $2, $3)"),
            p("UPDATE @outbox SET claimed_at = clock_timestamp() WHERE ticket IN
               (SELECT ticket FROM @outbox WHERE claimed_at <= clock_timestamp() - make_interval(secs => $1)
                ORDER BY changed_in LIMIT $2 FOR UPDATE SKIP LOCKED)
               RETURNING ticket, contents, changed_in,
               coalesce(order_uids, ARRAY(SELECT order_uid FROM @orders orders WHERE orders.changed_in = outbox.changed_in))"),
            p("SELECT seq, (state + 4 * kind)::smallint, version, body, order_uid FROM @orders
               JOIN unnest($1::text[], $2::bigint[]) AS known (uid, known_version) ON order_uid = uid
               WHERE version > known_version"),
            p("DELETE FROM @outbox WHERE ticket = ANY ($1)"),
            p("SELECT version, changed_in FROM @orders WHERE order_uid = $1"),
        )?;
        Ok(Self {
            fetch,
            fetch_external,
            page,
            last_seq,
            estimate,
            positions,
            begin_batch,
            move_known,
            move_first,
            lock,
            copy_new,
            copy_changed,
            apply_changed,
            keys,
            remember,
            purge,
            record,
            claim,
            newer,
            forget,
            landed,
        })
    }
}

impl Session {
    async fn new(client: Client, config: &Config, is_for_reading: bool) -> Result<Self, tokio_postgres::Error> {
        let schema = &config.schema;
        let timeout = config.statement_timeout.as_millis();
        // Who waits for this connection is to be told that a table is locked.
        let lock_timeout = (config.wait / 2).as_millis();
        // A plan that is kept was made for the tables as they were, which may be empty, and stays
        // until someone analyzes them. Writes are only ever by key, one row after the other, and so
        // well planned whatever there is.
        let plans = if is_for_reading { "force_custom_plan" } else { "auto" };
        client
            .batch_execute(&format!(
                "SET statement_timeout = {timeout};
                 SET idle_in_transaction_session_timeout = {timeout};
                 SET lock_timeout = {lock_timeout};
                 SET synchronous_commit = on;
                 SET plan_cache_mode = {plans};
                 SET TimeZone = 'UTC';
                 SET client_min_messages = warning"
            ))
            .await?;
        if !is_for_reading {
            // Not where orders are only read, which a standby does too.
            let staging = "CREATE TEMPORARY TABLE orders_changed (LIKE @orders) ON COMMIT DELETE ROWS";
            client.batch_execute(&schema.sql(staging)).await?;
            peers::announce_writer(&client, config).await?;
        }
        let statements = Statements::prepare(&client, schema).await?;
        client.batch_execute(&format!("SET lock_timeout = {timeout}")).await?;
        let encryption = config.encryption.clone();
        Ok(Self { client, encryption, statements, is_open: false, is_abandoned: AtomicBool::new(false) })
    }

    /// Waits for the answer to a question on this connection, for so long at most. Where it is
    /// given up, or its caller is, the server is told to stop working on it.
    ///
    /// # Errors
    /// What the server says, or that it said nothing.
    pub(super) async fn ask<R>(
        &self,
        time: Duration,
        question: impl Future<Output = Result<R, tokio_postgres::Error>>,
    ) -> Result<R, StoreError> {
        let mut asked = Asked { session: self, time, is_answered: false };
        let answer = tokio::time::timeout(time, question).await.map_err(|_| silent(time))?;
        asked.is_answered = true;
        answer.map_err(classify)
    }
}

/// A question that is under way.
struct Asked<'s> {
    session: &'s Session,
    time: Duration,
    is_answered: bool,
}

impl Drop for Asked<'_> {
    fn drop(&mut self) {
        if self.is_answered {
            return;
        }
        self.session.is_abandoned.store(true, Ordering::Relaxed);
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            let (cancel, time) = (self.session.client.cancel_token(), self.time);
            let encryption = self.session.encryption.clone();
            // Without this a statement that waits for a lock would outlive its connection, one for
            // each try. Best effort.
            runtime.spawn(async move { tokio::time::timeout(time, cancel.cancel_query(encryption)).await });
        }
    }
}

impl Deref for Session {
    type Target = Client;

    fn deref(&self) -> &Client {
        &self.client
    }
}
