//! Whether other instances have the same database open, and what they changed.
//!
//! Each instance holds a shared advisory lock on a connection of its own for as long as it lives,
//! and one on each connection that it writes on: those outlive it until the server has ended what
//! it had sent last. Anyone who counts locks that are not its own knows of the others. Two more
//! locks on the first connection say what an instance does: that it does not follow what others
//! publish, and that it publishes what it changes. What they changed is found by transaction: every
//! row says which one wrote it, and the snapshot of a look says which had begun by then and which
//! of those were still under way (PostgreSQL documentation, "Transaction ID and Snapshot
//! Information Functions"). The next look asks for those that began later and for those that have
//! ended since. So nothing committed between two looks is missed, whatever order it was committed
//! in, and nothing is read twice, however long a transaction stays open on the server.

use std::time::{Duration, Instant};

use futures_util::TryStreamExt;
use tokio_postgres::types::ToSql;
use tokio_postgres::{Client, Row};

use super::errors::{Silent, classify, silent, unreadable};
use super::{Config, SchemaName, order_id, scan, snapshot};
use crate::id::{OrderId, Version};
use crate::store::{Changes, Peers, Presence, StoreError};

/// The lock every instance shares ("ords" and "here").
const LOCK: (i32, i32) = (0x6f72_6473, 0x6865_7265);
/// The first half of the lock of those who write ("ordw"). The other half is the instance's own.
const WRITERS: i32 = 0x6f72_6477;
/// The second half of the lock of those who do not follow ("deaf"), and of those who publish
/// ("tell"). Instances of former versions hold neither.
const DEAF: i32 = 0x6465_6166;
const TELLING: i32 = 0x7465_6c6c;
const SHARED_LOOKS: u8 = 3;

/// How many hold each lock, but for that of writers: how many connections of others do.
macro_rules! held {
    () => {
        "SELECT count(*) FILTER (WHERE classid = $1::int::oid AND objid = $2::int::oid) AS here,
                count(*) FILTER (WHERE classid = $1::int::oid AND objid = $3::int::oid) AS deaf,
                count(*) FILTER (WHERE classid = $1::int::oid AND objid = $4::int::oid) AS telling,
                count(*) FILTER (WHERE classid = $5::int::oid AND objid <> $6::int::oid) AS writing
         FROM pg_locks WHERE locktype = 'advisory' AND granted AND objsubid = 2
         AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
    };
}

/// The transactions that had ended, begun and not ended, and the locks. In recovery a server does
/// not say which had not ended, so all since the oldest count as not begun.
const LOOK: &str = concat!(
    "WITH now AS (SELECT pg_current_snapshot() AS snapshot), held AS (",
    held!(),
    ")
    SELECT pg_snapshot_xmin(snapshot)::text::bigint,
           CASE WHEN pg_is_in_recovery() THEN pg_snapshot_xmin(snapshot) ELSE pg_snapshot_xmax(snapshot) END::text::bigint,
           ARRAY(SELECT pg_snapshot_xip(snapshot)::text::bigint),
           pg_postmaster_start_time()::text, here, deaf, telling, writing
    FROM now, held"
);
const HELD: &str = held!();
/// Changes handed over at once.
const ROWS: usize = 256;
/// How often the BRIN indexes are told of new pages; PostgreSQL itself does so only when it
/// vacuums.
const SUMMARIZE_EVERY: Duration = Duration::from_secs(10);

/// How long a look waits for the server to go on, the first time. Twice as long after each time in
/// vain, so that a slow server has the time it takes and one that forgot a connection is asked on
/// another.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long the server may take for the next thing it says.
#[derive(Clone, Copy)]
struct Patience(Duration);

impl Patience {
    async fn wait<R>(self, answer: impl Future<Output = Result<R, tokio_postgres::Error>>) -> Result<R, StoreError> {
        tokio::time::timeout(self.0, answer).await.map_err(|_| silent(self.0))?.map_err(classify)
    }
}

/// Whether a version of an order is newer than what is known.
type IsNews = dyn Fn(&OrderId, Version) -> bool + Send + Sync;

/// Says on a connection that this instance writes there.
pub(super) async fn announce_writer(client: &Client, config: &Config) -> Result<(), tokio_postgres::Error> {
    let key: [&(dyn ToSql + Sync); 2] = [&writers(client, config).await?, &config.instance];
    client.execute("SELECT pg_advisory_lock_shared($1, $2)", &key).await.map(drop)
}

/// The first half of the lock on every connection that an instance on this schema writes on.
pub(super) async fn writers(client: &Client, config: &Config) -> Result<i32, tokio_postgres::Error> {
    Ok(WRITERS ^ config.schema.salt(client).await?)
}

/// The first halves of the locks of the instances on one schema: those of two services in one
/// database differ.
#[derive(Default)]
struct Keys {
    here: i32,
    writers: i32,
}

impl Keys {
    fn new(salt: i32) -> Self {
        Self { here: LOCK.0 ^ salt, writers: WRITERS ^ salt }
    }

    /// The parameters of [`LOOK`] and [`HELD`].
    fn parameters<'k>(&'k self, instance: &'k i32) -> [&'k (dyn ToSql + Sync); 6] {
        [&self.here, &LOCK.1, &DEAF, &TELLING, &self.writers, instance]
    }
}

/// What a snapshot says of the transactions on the server.
struct Seen {
    /// The first that had not begun: all that was written by it or later was not seen.
    begun: i64,
    /// Those that had begun and not ended: what they wrote was not seen either.
    running: Vec<i64>,
    /// All before this one had ended.
    oldest: i64,
    /// Which process of a server said so.
    server: String,
}

/// The locks of other instances.
#[derive(Clone, Copy)]
struct PeerLocks {
    here: i64,
    deaf: i64,
    telling: i64,
    writing: i64,
}

impl PeerLocks {
    /// Reads columns `here, deaf, telling, writing` from `first` on, and leaves out what this
    /// instance holds.
    fn read(row: &Row, first: usize, own: Presence) -> Result<Self, tokio_postgres::Error> {
        let read = |index: usize| row.try_get::<_, i64>(first + index);
        Ok(Self {
            here: read(0)? - 1,
            deaf: read(1)? - i64::from(!own.follows),
            telling: read(2)? - i64::from(own.publishes),
            writing: read(3)?,
        })
    }

    fn is_any(self) -> bool {
        self.here > 0 || self.writing > 0
    }

    /// Of one that writes and holds no other lock now, nothing is known.
    fn follow(self) -> bool {
        self.here > self.deaf || (self.here <= 0 && self.writing > 0)
    }

    fn publish(self) -> bool {
        self.here > 0 && self.telling >= self.here
    }
}

/// This instance's locks, and how far it has seen.
#[derive(Default)]
pub(super) struct PeerWatch {
    here: Option<Client>,
    /// The keys of the locks, known with the first connection.
    keys: Keys,
    /// What the locks on that connection say.
    appears: Presence,
    /// How many looks still count as followed after a follower was last seen.
    followed_looks: u8,
    /// What the last look saw. `None` before the first one.
    seen: Option<Seen>,
    /// How many looks still count as shared after the others were last seen: what they committed
    /// just before they went may be missing from the snapshot that did not see them any more.
    shared_looks: u8,
    /// Looks in a row that ended because the server said nothing.
    silent_looks: u32,
    summarized: Option<Instant>,
}

impl PeerWatch {
    /// Looks once. `emit` gets what was changed since the last look if others may have changed it.
    pub(super) async fn poll(
        &mut self,
        config: &Config,
        presence: Presence,
        is_news: &IsNews,
        emit: &scan::Emit,
    ) -> Result<Changes, StoreError> {
        self.register(config, presence).await?;
        // A connection is given up with the look, and with it the lock; a new one takes it again.
        let client = self.here.take().expect("connected above");
        let patience = Patience(PATIENCE.saturating_mul(1 << self.silent_looks.min(8)).min(config.patience()));
        let look = async {
            self.appear_as(&client, patience, presence).await?;
            self.poll_once(&client, patience, config, is_news, emit).await
        };
        let result = look.await;
        match &result {
            Ok(_) => (self.here, self.silent_looks) = (Some(client), 0),
            Err(StoreError::Unavailable(error)) if error.is::<Silent>() => self.silent_looks += 1,
            Err(_) => {}
        }
        result
    }

    /// Takes this instance's locks if it does not hold them, or finds out that it does not any
    /// more.
    pub(super) async fn heartbeat(&mut self, config: &Config, presence: Presence) -> Result<Peers, StoreError> {
        self.register(config, presence).await?;
        let client = self.here.take().expect("connected above");
        let patience = Patience(PATIENCE);
        self.appear_as(&client, patience, presence).await?;
        let row = patience.wait(client.query_one(HELD, &self.keys.parameters(&config.instance))).await?;
        let held = PeerLocks::read(&row, 0, self.appears).map_err(unreadable)?;
        self.here = Some(client);
        Ok(self.peers(held))
    }

    /// Has the locks of a connection say what this instance does.
    async fn appear_as(&mut self, client: &Client, patience: Patience, presence: Presence) -> Result<(), StoreError> {
        for (lock, is_held, is_wanted) in
            [(DEAF, !self.appears.follows, !presence.follows), (TELLING, self.appears.publishes, presence.publishes)]
        {
            let sql = match (is_held, is_wanted) {
                (false, true) => "SELECT pg_advisory_lock_shared($1, $2)",
                (true, false) => "SELECT pg_advisory_unlock_shared($1, $2)",
                _ => continue,
            };
            patience.wait(client.execute(sql, &[&self.keys.here, &lock])).await?;
        }
        self.appears = presence;
        Ok(())
    }

    fn peers(&mut self, held: PeerLocks) -> Peers {
        // One whose connection was lost takes its locks again in a moment.
        self.followed_looks = if held.follow() { SHARED_LOOKS } else { self.followed_looks.saturating_sub(1) };
        Peers { follow: self.followed_looks > 0, publish: held.publish() }
    }

    async fn register(&mut self, config: &Config, presence: Presence) -> Result<(), StoreError> {
        if self.here.as_ref().is_none_or(Client::is_closed) {
            let client = scan::connect(config).await?;
            // Before the tables are analyzed for the first time all of them would be read for a few
            // changes.
            let set = "SET statement_timeout = '60s'; SET lock_timeout = '1s'; SET client_min_messages = error;
                       SET enable_seqscan = off";
            let patience = Patience(config.login_time());
            patience.wait(client.batch_execute(set)).await?;
            self.keys = Keys::new(patience.wait(config.schema.salt(&client)).await?);
            // That it does not follow is there before it is: for a follower the others begin to
            // publish.
            let first = if presence.follows { None } else { Some(DEAF) };
            for lock in first.into_iter().chain([LOCK.1]) {
                let lock: [&(dyn ToSql + Sync); 2] = [&self.keys.here, &lock];
                patience.wait(client.execute("SELECT pg_advisory_lock_shared($1, $2)", &lock)).await?;
            }
            self.here = Some(client);
            self.appears = Presence { publishes: false, ..presence };
            // Who came, wrote and went while this instance was cut off left no lock behind.
            if let Some(seen) = &mut self.seen {
                self.shared_looks = SHARED_LOOKS;
                // The server may have crashed, and gives the numbers of transactions that were lost
                // out again.
                seen.begun = seen.oldest;
                seen.running.clear();
            }
        }
        Ok(())
    }

    async fn poll_once(
        &mut self,
        client: &Client,
        patience: Patience,
        config: &Config,
        is_news: &IsNews,
        emit: &scan::Emit,
    ) -> Result<Changes, StoreError> {
        patience.wait(client.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")).await?;
        let row = patience.wait(client.query_one(LOOK, &self.keys.parameters(&config.instance))).await?;
        let read = || {
            let [oldest, begun] = [row.try_get(0)?, row.try_get(1)?];
            let seen = Seen { oldest, begun, running: row.try_get(2)?, server: row.try_get(3)? };
            Ok((seen, PeerLocks::read(&row, 4, self.appears)?))
        };
        let (now, held) = read().map_err(unreadable)?;
        // Its numbers say nothing of those of the former one, which may have been ahead.
        let is_restarted = self.seen.as_ref().is_some_and(|seen| seen.server != now.server || now.begun < seen.begun);
        self.shared_looks = if held.is_any() { SHARED_LOOKS } else { self.shared_looks.saturating_sub(1) };
        let is_shared = self.shared_looks > 0;
        let mut count = 0;
        if let Some(seen) = self.seen.as_ref().filter(|_| is_shared && !is_restarted) {
            count = changed_between(client, patience, &config.schema, (seen, &now), is_news, emit).await?;
        }
        patience.wait(client.batch_execute("COMMIT")).await?;
        self.seen = Some(now);
        if self.summarized.is_none_or(|last| last.elapsed() >= SUMMARIZE_EVERY) {
            self.summarized = Some(Instant::now());
            patience.wait(summarize(client, &config.schema)).await?;
        }
        Ok(Changes { is_shared, count, is_restarted, peers: self.peers(held) })
    }
}

/// Most of what is found is this instance's own or was heard of otherwise, so the orders themselves
/// are read only where they are news.
async fn changed_between(
    client: &Client,
    patience: Patience,
    schema: &SchemaName,
    (seen, now): (&Seen, &Seen),
    is_news: &IsNews,
    emit: &scan::Emit,
) -> Result<u64, StoreError> {
    let ended: Vec<i64> = seen.running.iter().filter(|id| !now.running.contains(id)).copied().collect();
    // What seems to be written by a transaction that has not begun came from another server, in a
    // dump.
    let mut changed = String::from("SELECT order_uid, version FROM @orders WHERE changed_in >= $1 AND changed_in < $2");
    let mut parameters: Vec<&(dyn ToSql + Sync)> = vec![&seen.begun, &now.begun];
    if !ended.is_empty() {
        changed += " OR changed_in = ANY ($3)";
        parameters.push(&ended);
    }
    let mut rows = std::pin::pin!(patience.wait(client.query_raw(&schema.sql(&changed), parameters)).await?);
    let mut news: Vec<String> = Vec::new();
    while let Some(row) = patience.wait(rows.try_next()).await? {
        let (uid, version): (&str, i64) = (row.try_get(0).map_err(unreadable)?, row.try_get(1).map_err(unreadable)?);
        let id = OrderId::parse_stored(uid.as_bytes()).map_err(|error| StoreError::Damaged(error.into()))?;
        if is_news(&id, version.unsigned_abs()) {
            news.push(uid.to_owned());
        }
    }
    let mut scratch = Vec::new();
    for ids in news.chunks(ROWS) {
        let sql = "SELECT seq, (state + 4 * kind)::smallint, version, body, order_uid FROM @orders
                   WHERE order_uid = ANY ($1)";
        let parameters: [&(dyn ToSql + Sync); 1] = [&ids];
        let rows = patience.wait(client.query(&schema.sql(sql), &parameters)).await?;
        let read = rows.iter().map(|row| Ok((order_id(row)?, snapshot(row, &mut scratch)?)));
        emit(read.collect::<Result<_, StoreError>>()?);
    }
    Ok(news.len() as u64)
}

/// Best effort: an index that is not up to date is slower, never wrong.
async fn summarize(client: &Client, schema: &SchemaName) -> Result<(), tokio_postgres::Error> {
    let sql = "SELECT count(brin_summarize_new_values(i.indexrelid))
               FROM pg_inherits h JOIN pg_index i ON i.indrelid = h.inhrelid
               JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_am a ON a.oid = c.relam
               WHERE h.inhparent = '@orders'::regclass AND a.amname = 'brin'";
    if let Err(error) = client.execute(&schema.sql(sql), &[]).await {
        tracing::debug!(error = %crate::process::log::causes(&error), "indexes not summarized");
    }
    Ok(())
}
