//! The store that several instances share: PostgreSQL. Owns the connections; what is said over them
//! is in the modules below. Nothing here needs the server at the start: anyone who asks while it is
//! unavailable is told so.

mod abandoned;
mod batch_state;
mod commit;
pub mod copy;
mod encryption;
mod errors;
mod login;
mod metrics;
mod offline;
mod options;
mod outbox;
mod outline;
mod peers;
mod pooler;
mod refused;
mod restored;
mod rights;
mod scan;
mod schema;
mod schema_name;
mod session;
mod views;
mod wire;

use std::sync::atomic::AtomicI64;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bb8::Pool;
use tokio::sync::OnceCell;
use tokio_postgres::Row;
use tokio_postgres::config::{Host, TargetSessionAttrs};
use tokio_postgres::types::ToSql;

use super::rules::{column, signed};
use super::{Batch, Changes, CommitPermit, Outcome, Page, Peers, Presence, Store, StoreError, Unpublished};
use crate::id::{OrderId, Version};
use crate::record::{Checkpoint, Parcel};
use crate::snapshot::Snapshot;
use crate::sync::lock;
use encryption::Encryption;
use errors::{is_unfit, unreadable};
use options::Options;
use session::{ConnectError, Failures, Manager, Session};

pub use offline::{Live, Maintenance};
pub(super) use outline::outline;
pub use schema::{MigrateError, Migration};
pub use schema_name::SchemaName;
pub use views::Views;

/// How PostgreSQL is reached, and how long it may take.
#[derive(Debug, Clone)]
pub struct Config {
    /// Hosts, user, password, database.
    pub server: tokio_postgres::Config,
    /// Connections for reads that miss the view. They are rare, so eight at once are plenty.
    pub readers_max: u32,
    /// Connections for batches: two for each source that writes at the same time.
    pub writers_max: u32,
    /// How long a read waits for a connection, and then for the answer.
    pub wait: Duration,
    /// How long the server may take for one statement, and a transaction may stop.
    pub statement_timeout: Duration,
    /// Where all its objects are.
    pub schema: SchemaName,
    /// Bring the schema up to date when the first connection is made.
    pub is_migrating: bool,
    /// Tells this instance's locks from those of others.
    instance: i32,
    encryption: Encryption,
}

impl Config {
    /// The default settings for a server given as a URL or as `key=value` pairs.
    ///
    /// # Errors
    /// When the text is neither, or names files of certificates that cannot be used.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut options = Options::read(text);
        let wanted = encryption::Wanted::take(&mut options);
        let mut server: tokio_postgres::Config = options.finish()?.parse().map_err(|error| unparsed(&error))?;
        if server.get_hosts().is_empty() {
            return Err("names no host".into());
        }
        let has_at = |host: &Host| matches!(host, Host::Tcp(name) if name.contains('@'));
        if server.get_hosts().iter().any(has_at) {
            return Err("has an @ in a host; one in a password is written %40".into());
        }
        // What the client says only when it is to connect, and what no retry changes.
        let hosts = server.get_hosts().len();
        for (count, least, what) in
            [(server.get_ports().len(), 1, "ports"), (server.get_hostaddrs().len(), 0, "hostaddrs")]
        {
            if count > least && count != hosts {
                return Err(format!("names {count} {what} for {hosts} hosts"));
            }
        }
        let encryption = Encryption::open(wanted, &mut server)?;
        if server.get_application_name().is_none() {
            server.application_name("order-service");
        }
        if server.get_connect_timeout().is_none() {
            server.connect_timeout(Duration::from_secs(5));
        }
        // A peer that vanished without a word is noticed while something is being sent, and while
        // nothing is.
        server.tcp_user_timeout(Duration::from_secs(15)).keepalives_idle(Duration::from_secs(30));
        Ok(Self {
            server,
            readers_max: 8,
            writers_max: 8,
            wait: Duration::from_secs(2),
            statement_timeout: Duration::from_mins(1),
            schema: SchemaName::default(),
            is_migrating: true,
            instance: fastrand::i32(0..),
            encryption,
        })
    }

    /// Whether it asks for a server that takes writes, as the service needs one.
    ///
    /// # Errors
    /// That it does not, and what to write instead.
    pub fn check_writable(&self) -> Result<(), String> {
        if self.server.get_target_session_attrs() != TargetSessionAttrs::ReadOnly {
            return Ok(());
        }
        Err("target_session_attrs asks for a server that takes no writes, and the service needs a primary: write \
             target_session_attrs=read-write, which finds it among several hosts, or leave it out"
            .into())
    }

    /// How long a server may take to log in to, however many round trips that is.
    fn login_time(&self) -> Duration {
        let kinds = 1 + u32::from(self.encryption.second().is_some());
        let hosts = u32::try_from(self.server.get_hosts().len()).unwrap_or(u32::MAX).saturating_mul(kinds);
        let time = self.server.get_connect_timeout().copied().unwrap_or(Duration::from_secs(5));
        time.saturating_mul(hosts.saturating_add(1))
    }

    /// How long one answer may take where its reader is patient: the server gives a statement up by
    /// itself before that.
    fn patience(&self) -> Duration {
        self.statement_timeout + self.wait
    }

    /// The name of the database, where it is given.
    #[must_use]
    pub fn database(&self) -> Option<&str> {
        self.server.get_dbname().or(self.server.get_user())
    }

    /// Where it connects to, for people; without user and password.
    #[must_use]
    pub fn place(&self) -> String {
        let hosts = self.server.get_hosts().iter().map(|host| match host {
            Host::Tcp(name) => name.clone(),
            Host::Unix(path) => path.display().to_string(),
        });
        let ports = self.server.get_ports().iter().map(u16::to_string).collect::<Vec<_>>().join(",");
        let port = if ports.is_empty() { "5432".into() } else { ports };
        let database = self.database().unwrap_or_default();
        let schema = self.schema.name().map(|name| format!(", schema {name}")).unwrap_or_default();
        format!("{}:{port}/{database}{schema}", hosts.collect::<Vec<_>>().join(","))
    }
}

/// Why a text does not say where a server is. It may hold a password, of which nothing is repeated.
fn unparsed(error: &tokio_postgres::Error) -> String {
    // What libpq knows; anything else may be a part of a password that stands without quotes.
    const KNOWN: [&str; 5] = ["sslcrl", "sslpassword", "service", "passfile", "gssencmode"];
    // Of a text that cannot be read the cause says it all.
    let causes = std::error::Error::source(error).map_or_else(|| error.to_string(), crate::process::log::causes);
    match causes.split_once("unknown option `") {
        Some((_, name)) if !KNOWN.contains(&name.trim_end_matches('`')) => "has an unknown option".into(),
        _ => causes,
    }
}

/// A connection to a server of which nothing else is known, with nothing set on it.
///
/// # Errors
/// [`StoreError`].
pub async fn log_in(config: &Config) -> Result<tokio_postgres::Client, StoreError> {
    scan::log_in(config).await
}

/// What a read is told that no connection became free for in time.
const BUSY: &str = "no connection to PostgreSQL was free: it is silent or slow, or what was asked waits for a lock";

/// A pool, and why it has no connection when it has none.
struct Connections {
    pool: Pool<Manager>,
    failures: Failures,
}

/// The store in PostgreSQL. Clones share the connections.
#[derive(Clone)]
pub struct Postgres(Arc<Inner>);

struct Inner {
    config: Config,
    readers: Connections,
    writers: Connections,
    /// When expired idempotency keys were last dropped, in Unix seconds.
    purged_at: AtomicI64,
    peers: tokio::sync::Mutex<peers::PeerWatch>,
    /// What the others are to know of this process.
    presence: Mutex<Presence>,
    /// Set once a connection was made, and with it the schema.
    reached: OnceCell<()>,
}

impl Postgres {
    /// A store that connects when it is first asked for something.
    #[must_use]
    pub fn new(config: Config) -> Self {
        let connections = |size: u32, is_for_reading: bool| {
            let failures = Failures::default();
            let pool = Pool::builder()
                .max_size(size)
                .min_idle(0)
                .connection_timeout(config.wait)
                // Why it failed is worth more than another try: anyone who asked knows whether to
                // ask again.
                .retry_connection(false)
                .error_sink(bb8::ErrorSink::boxed_clone(&failures))
                // A closed connection is known to be closed; asking the server each time costs a
                // round trip.
                .test_on_check_out(false)
                .idle_timeout(Some(Duration::from_mins(5)))
                .max_lifetime(Some(Duration::from_hours(1)))
                .build_unchecked(Manager::new(&config, is_for_reading));
            Connections { pool, failures }
        };
        let (readers, writers) = (connections(config.readers_max, true), connections(config.writers_max, false));
        let peers = tokio::sync::Mutex::default();
        Self(Arc::new(Inner {
            config,
            readers,
            writers,
            purged_at: AtomicI64::new(0),
            peers,
            presence: Mutex::default(),
            reached: OnceCell::new(),
        }))
    }

    /// Where it connects to, for people.
    #[must_use]
    pub fn place(&self) -> String {
        self.0.config.place()
    }

    fn presence(&self) -> Presence {
        *lock(&self.0.presence)
    }

    async fn reader(&self) -> Result<bb8::PooledConnection<'_, Manager>, StoreError> {
        self.0.readers.get().await
    }

    /// Connects, and so migrates, if that was not done before.
    async fn reach(&self) -> Result<(), StoreError> {
        self.0.reached.get_or_try_init(|| async { self.reader().await.map(drop) }).await.copied()
    }
}

impl Connections {
    /// A free connection, or why there is none. All of that may pass, but for a database that is
    /// not for this program.
    async fn get(&self) -> Result<bb8::PooledConnection<'_, Manager>, StoreError> {
        let failure = self.failures.next();
        let error = tokio::select! {
            biased;
            pooled = self.pool.get() => match pooled {
                Ok(session) => return Ok(session),
                Err(bb8::RunError::TimedOut) => return Err(StoreError::Unavailable(BUSY.into())),
                Err(bb8::RunError::User(error)) => Arc::new(error),
            },
            error = failure => error,
        };
        let may_pass = match &*error {
            ConnectError::Connect(error) | ConnectError::SetUp(error) => !is_unfit(error),
            ConnectError::Silent(_) => true,
            ConnectError::Pooled => false,
            ConnectError::Migrate(error) => error.may_pass(),
        };
        Err(if may_pass { StoreError::Unavailable(error.into()) } else { StoreError::Unfit(error.into()) })
    }
}

impl Store for Postgres {
    async fn commit(&self, batch: Arc<Batch>) -> Result<Vec<Outcome>, StoreError> {
        self.commit_batch(&batch, &mut CommitPermit::default()).await
    }

    async fn commit_after(&self, batch: Arc<Batch>, permit: &mut CommitPermit) -> Result<Vec<Outcome>, StoreError> {
        self.commit_batch(&batch, permit).await
    }

    async fn fetch(&self, id: OrderId) -> Result<Option<Snapshot>, StoreError> {
        let session = self.reader().await?;
        let text = id.text();
        let row = session.ask(self.0.config.wait, session.query_opt(&session.statements.fetch, &[&&*text])).await?;
        row.map(|row| snapshot(&row, &mut Vec::new())).transpose()
    }

    async fn fetch_external(
        &self,
        user_id: String,
        external: String,
    ) -> Result<Option<(OrderId, Snapshot)>, StoreError> {
        let session = self.reader().await?;
        let parameters: [&(dyn ToSql + Sync); 2] = [&user_id, &external];
        let found = session.query_opt(&session.statements.fetch_external, &parameters);
        let row = session.ask(self.0.config.wait, found).await?;
        row.map(|row| Ok((order_id(&row)?, snapshot(&row, &mut Vec::new())?))).transpose()
    }

    async fn page(&self, before: Option<u64>, limit: usize) -> Result<Page, StoreError> {
        let session = self.reader().await?;
        session.page(before.map_or(i64::MAX, signed), limit, self.0.config.patience()).await
    }

    async fn scan<F>(&self, emit: F) -> Result<u64, StoreError>
    where
        F: Fn(Vec<(OrderId, Snapshot)>) + Send + Sync + 'static,
    {
        self.reach().await?;
        scan::scan(&self.0.config, Arc::new(emit)).await
    }

    async fn estimate(&self) -> Result<u64, StoreError> {
        let session = self.reader().await?;
        let row = session.ask(self.0.config.patience(), session.query_one(&session.statements.estimate, &[])).await?;
        row.try_get::<_, i64>(0).map(i64::unsigned_abs).map_err(unreadable)
    }

    async fn count_live<B>(&self, begun: B) -> Result<u64, StoreError>
    where
        B: FnOnce() + Send + 'static,
    {
        let mut session = self.reader().await?;
        let time = self.0.config.patience();
        let count = self.0.config.schema.sql("SELECT count(*) FROM @orders WHERE state = 0");
        session.is_open = true;
        // From the first statement on it reads what there was.
        let begin = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY; SELECT pg_current_snapshot()";
        session.ask(time, session.batch_execute(begin)).await?;
        begun();
        let counted = session.query_one(&count, &[]);
        let row = session.ask(time, counted).await?;
        session.ask(time, session.batch_execute("COMMIT")).await?;
        session.is_open = false;
        row.try_get::<_, i64>(0).map(i64::unsigned_abs).map_err(unreadable)
    }

    async fn positions(&self, source: Arc<str>) -> Result<Checkpoint, StoreError> {
        let session = self.reader().await?;
        let parameters: [&(dyn ToSql + Sync); 1] = [&&*source];
        let rows =
            session.ask(self.0.config.patience(), session.query(&session.statements.positions, &parameters)).await?;
        let position = |row: &Row| {
            let partition: i32 = row.try_get(0)?;
            Ok((partition.unsigned_abs(), row.try_get::<_, i64>(1)?.unsigned_abs()))
        };
        rows.iter().map(position).collect::<Result<_, _>>().map(Checkpoint).map_err(unreadable)
    }

    async fn rename_positions(
        &self,
        former: Arc<str>,
        present: Arc<str>,
        partitions: Vec<u32>,
    ) -> Result<bool, StoreError> {
        let partitions: Vec<i32> =
            partitions.into_iter().map(|partition| i32::try_from(partition).unwrap_or(i32::MAX)).collect();
        let session = self.0.writers.get().await?;
        let schema = &self.0.config.schema;
        let rename = "UPDATE @positions p SET source = $2 WHERE source = $1 AND partition = ANY ($3) \
                      AND NOT EXISTS (SELECT FROM @positions n WHERE n.source = $2 AND n.partition = p.partition)";
        let parameters: [&(dyn ToSql + Sync); 3] = [&&*former, &&*present, &partitions];
        session.ask(self.0.config.patience(), session.execute(&schema.sql(rename), &parameters)).await?;
        let others = "SELECT EXISTS (SELECT FROM @positions WHERE starts_with(source, $1 || '#') AND source <> $2)";
        let row =
            session.ask(self.0.config.patience(), session.query_one(&schema.sql(others), &parameters[..2])).await?;
        row.try_get(0).map_err(unreadable)
    }

    async fn unpublished(&self, age: Duration, limit: usize) -> Result<Vec<Unpublished>, StoreError> {
        self.claim_unpublished(age, limit).await
    }

    async fn newer(&self, known: Vec<(OrderId, Version)>) -> Result<Page, StoreError> {
        self.newer_than(&known).await
    }

    async fn narrow(&self, parcel: Parcel, to: Vec<OrderId>, pause: Duration) -> Result<(), StoreError> {
        self.narrow_unpublished(parcel, &to, pause).await
    }

    async fn published(&self, tickets: Vec<i64>) -> Result<(), StoreError> {
        self.forget_published(tickets).await
    }

    async fn identity(&self) -> Result<String, StoreError> {
        let session = self.reader().await?;
        let identity = self.0.config.schema.sql("SELECT id::text FROM @store_identity");
        let found = session.query_one(&identity, &[]);
        let row = session.ask(self.0.config.patience(), found).await?;
        row.try_get(0).map_err(unreadable)
    }

    fn wants_columns(&self) -> bool {
        true
    }

    fn is_shareable(&self) -> bool {
        true
    }

    fn appear_as(&self, presence: Presence) {
        *lock(&self.0.presence) = presence;
    }

    async fn heartbeat(&self) -> Result<Peers, StoreError> {
        self.reach().await?;
        let presence = self.presence();
        self.0.peers.lock().await.heartbeat(&self.0.config, presence).await
    }

    async fn changes<N, F>(&self, is_news: N, emit: F) -> Result<Changes, StoreError>
    where
        N: Fn(&OrderId, Version) -> bool + Send + Sync + 'static,
        F: Fn(Page) + Send + Sync + 'static,
    {
        self.reach().await?;
        let presence = self.presence();
        self.0.peers.lock().await.poll(&self.0.config, presence, &is_news, &emit).await
    }
}

/// Reads columns `seq, shape, version, body`.
fn snapshot(row: &Row, scratch: &mut Vec<u8>) -> Result<Snapshot, StoreError> {
    let mut read = || {
        let (seq, version): (i64, i64) = (row.try_get(0)?, row.try_get(2)?);
        let (kind, state) = column::to_shape(row.try_get(1)?);
        Ok(Snapshot::new(version.unsigned_abs(), seq.unsigned_abs(), kind, state, row.try_get(3)?, scratch))
    };
    read().map_err(unreadable)
}

/// Reads column 4, `order_uid`.
fn order_id(row: &Row) -> Result<OrderId, StoreError> {
    let text: &str = row.try_get(4).map_err(unreadable)?;
    OrderId::parse_stored(text.as_bytes()).map_err(|error| StoreError::Damaged(error.into()))
}

impl Session {
    /// At most `limit` live orders with `seq < before`, newest first.
    ///
    /// There is no b-tree on `seq`, which would cost every write. The BRIN index finds the pages of
    /// a range of ranks; ranges grow until they hold enough.
    async fn page(&self, before: i64, limit: usize, time: Duration) -> Result<Page, StoreError> {
        let newest = self.ask(time, self.query_one(&self.statements.last_seq, &[])).await?;
        let mut to = before.min(newest.try_get::<_, i64>(0).map_err(unreadable)?.saturating_add(1));
        let mut span = signed(limit as u64).max(batch_state::RANKS_PER_BLOCK);
        let mut page = Page::new();
        let mut scratch = Vec::new();
        while to > 0 && page.len() < limit {
            let from = to.saturating_sub(span).max(0);
            let room = signed((limit - page.len()) as u64);
            let parameters: [&(dyn ToSql + Sync); 3] = [&from, &to, &room];
            let rows = self.ask(time, self.query(&self.statements.page, &parameters)).await?;
            for row in &rows {
                page.push((order_id(row)?, snapshot(row, &mut scratch)?));
            }
            to = from;
            span = span.saturating_mul(4);
        }
        Ok(page)
    }
}
