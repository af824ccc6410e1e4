//! One connection for reads and one for writes, kept by one task; the breaker stands before both.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use redis_client::aio::MultiplexedConnection;
use redis_client::{
    AsyncConnectionConfig, Client, ConnectionAddr, ConnectionInfo, IntoConnectionInfo, RedisError, Script,
};
use tokio::net::TcpStream;
use tokio::sync::Notify;

use super::breaker::Breaker;
use super::entry::{self, CLOCK, body_key, marker_key, result_key};
use super::metrics::RedisMetrics;
use super::min_version::MinVersionSketch;
use super::queue::{Queue, Write};
use super::trust_window::TrustWindow;
use crate::id::OrderId;
use crate::snapshot::Snapshot;
use crate::sync::lock;
use crate::tls;

/// Failures in a row before no one asks any more.
const FAILURES_MAX: u32 = 3;
/// The first pause before a probe, and the longest.
const PAUSE: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(8));
/// How long a probe may take: connections, login and the first answer.
const CONNECT_TIME: Duration = Duration::from_secs(1);
/// How often a quiet connection is used, so that its end is noticed.
const BEAT: Duration = Duration::from_secs(1);
/// How long an end waits for what is still to be written.
const DRAIN_TIME: Duration = Duration::from_millis(500);
/// How often it is logged that keys are of another type.
const TOLD_EVERY: Duration = Duration::from_mins(1);
/// How many reasons for its being away are logged until it answers again.
const TOLD_MAX: usize = 4;
/// How long a worker's acknowledgement is kept.
const RESULT_SECONDS: u64 = 600;

/// Where Redis is and how long it may take.
#[derive(Debug, Clone)]
pub struct Config {
    server: ConnectionInfo,
    /// Connections are encrypted.
    is_encrypted: bool,
    /// Whom to trust then, and who this is.
    pub encryption: tls::client::Config,
    /// What came of that.
    client: Option<tls::Client>,
    /// How long orders are kept there.
    pub ttl: Duration,
    /// How long a read may take; then the store is asked. Such a read comes before one of the store, which takes a few
    /// milliseconds.
    pub read_timeout: Duration,
    /// How long the write of a batch may take. Nothing waits for it, but what comes meanwhile.
    pub write_timeout: Duration,
}

impl Config {
    /// A server by its address or URL, and the defaults.
    ///
    /// # Errors
    /// What is wrong with it, without repeating it: it may hold a password.
    pub fn parse(text: &str) -> Result<Self, String> {
        const WRONG: &str =
            "is no Redis such as redis-1:6379, redis://user:password@redis-1:6379/0 or rediss://redis-1:6379";
        let text = text.trim();
        // The URL library would leave a line break out, and read two lines as one.
        if text.contains(char::is_whitespace) {
            return Err(WRONG.into());
        }
        // The library knows nothing of TLS here: it is given connections that are encrypted
        // already.
        let encrypted = text.strip_prefix("rediss://").or_else(|| text.strip_prefix("valkeys://"));
        let is_encrypted = encrypted.is_some();
        let text = encrypted.map_or_else(|| text.to_owned(), |rest| format!("redis://{rest}"));
        let url = if text.contains("://") {
            text
        } else {
            let port = text.rsplit_once(':').filter(|(host, _)| !host.is_empty()).map(|(_, port)| port.parse::<u16>());
            if !matches!(port, Some(Ok(1..))) || text.contains(['/', '@']) {
                return Err(WRONG.into());
            }
            format!("redis://{text}")
        };
        // The library passes by what it does not know.
        let has_more = |(_, query): (&str, &str)| !query.starts_with("protocol=");
        if url.contains('#') || url.split_once('?').is_some_and(has_more) {
            return Err("has a query or a fragment, which mean nothing to Redis".into());
        }
        let server = url.into_connection_info().map_err(|_| WRONG.to_owned())?;
        if !matches!(server.addr(), ConnectionAddr::Tcp(_, 1..)) {
            return Err(WRONG.into());
        }
        Ok(Self {
            server,
            is_encrypted,
            encryption: tls::client::Config::default(),
            client: None,
            ttl: Duration::from_mins(5),
            read_timeout: Duration::from_millis(20),
            write_timeout: Duration::from_millis(100),
        })
    }
}

impl Config {
    /// Reads the files of certificates, once all is set.
    ///
    /// # Errors
    /// Which of them cannot be used, or changes nothing.
    pub fn open(&mut self) -> Result<(), String> {
        if !self.is_encrypted {
            let is_set = self.encryption.roots.is_some() || self.encryption.identity.is_some();
            return if is_set { Err("files of certificates change nothing without rediss://".into()) } else { Ok(()) };
        }
        self.client = Some(tls::Client::open(&self.encryption).map_err(|error| error.to_string())?);
        Ok(())
    }
}

/// The tier. Clones share it.
#[derive(Clone)]
pub struct Redis(Arc<Tier>);

struct Tier {
    config: Config,
    metrics: RedisMetrics,
    script: Script,
    min_versions: MinVersionSketch,
    breaker: Breaker,
    trust: Mutex<TrustWindow>,
    queue: Mutex<Queue>,
    /// There is something to do for the task that keeps the connections.
    wake: Notify,
    reads: RwLock<Option<MultiplexedConnection>>,
    /// When it was last logged that keys are of another type.
    told: Mutex<Option<Instant>>,
}

/// What the script says: the server's time, how many orders were written and how many came too late, and which have a
/// marker of another type.
type Written = (u64, usize, usize, Vec<usize>);

impl Redis {
    /// Connects in the background, for as long as the runtime lives.
    #[must_use]
    pub fn start(config: Config, metrics: RedisMetrics) -> Self {
        metrics.breaker_open.set(1);
        let tier = Arc::new(Tier {
            config,
            metrics,
            script: Script::new(include_str!("write.lua")),
            min_versions: MinVersionSketch::default(),
            breaker: Breaker::new(FAILURES_MAX, PAUSE.0, PAUSE.1),
            trust: Mutex::default(),
            queue: Mutex::default(),
            wake: Notify::new(),
            reads: RwLock::default(),
            told: Mutex::default(),
        });
        tokio::spawn({
            let tier = Arc::clone(&tier);
            async move { tier.keep().await }
        });
        Self(tier)
    }

    /// From now on every change by others is noted here, so that entries may be trusted. What readers see of the store
    /// without a note is from before.
    pub fn begin(&self) {
        lock(&self.0.trust).open();
        self.0.wake.notify_one();
    }

    /// The store may have gone back: what is there may be newer than what it has now, and is not served any more.
    pub fn renew_trust(&self) {
        lock(&self.0.trust).renew();
        self.0.wake.notify_one();
    }

    /// The copy that is there, unless it may be older than what is stored. Takes `read_timeout` at most.
    pub async fn get(&self, id: &OrderId) -> Option<Snapshot> {
        let tier = &*self.0;
        if !tier.breaker.is_closed() || !lock(&tier.trust).allows(u64::MAX) {
            return None;
        }
        let mut link = tier.reads.read().unwrap_or_else(PoisonError::into_inner).clone()?;
        let mut ask = redis_client::cmd("MGET");
        ask.arg(body_key(id)).arg(marker_key(id));
        let asked = ask.query_async::<(Option<Vec<u8>>, Option<Vec<u8>>)>(&mut link);
        let (body, marker) = tier.request("read", tier.config.read_timeout, asked).await?;
        let Some(marker) = marker else {
            tier.metrics.misses.inc();
            return None;
        };
        // Looked at after the answer: what was committed meanwhile counts too.
        let found = entry::read(body.as_deref(), &marker).filter(|(snapshot, stamp)| {
            lock(&tier.trust).allows(*stamp) && tier.min_versions.allows(id, snapshot.version())
        });
        let Some((snapshot, _)) = found else {
            tier.metrics.distrusted.inc();
            return None;
        };
        tier.metrics.hits.inc();
        tier.min_versions.note(id, snapshot.version());
        Some(snapshot)
    }

    /// A copy was loaded from the store, which was asked at `known`.
    pub fn fill(&self, id: &OrderId, snapshot: &Snapshot, known: Instant) {
        self.hand_over([(id, snapshot)], known);
    }

    /// Notes copies that are stored, and has them written. Does not wait. They were known to be the newest at `known`.
    /// To be called before readers see them.
    pub fn hand_over<'o>(&self, orders: impl IntoIterator<Item = (&'o OrderId, &'o Snapshot)>, known: Instant) {
        let orders = orders.into_iter().inspect(|(id, snapshot)| self.note(id, snapshot));
        let write =
            |(id, snapshot): (&OrderId, &Snapshot)| Write::Order { id: id.clone(), snapshot: snapshot.clone(), known };
        self.0.enqueue(orders.filter(|(id, snapshot)| self.0.min_versions.allows(id, snapshot.version())).map(write));
    }

    /// Notes a copy that is stored and written by someone else.
    pub fn note(&self, id: &OrderId, snapshot: &Snapshot) {
        self.0.min_versions.note(id, snapshot.version());
    }

    /// Has a worker's acknowledgement written. Does not wait.
    pub fn result(&self, id: OrderId, json: String) {
        self.0.enqueue(std::iter::once(Write::Result { id, json }));
    }

    /// Waits a moment for what is still to be written.
    pub async fn drain(&self) {
        let is_written = async {
            while self.0.breaker.is_closed() && self.0.metrics.waiting.get() > 0 {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        let _ = tokio::time::timeout(DRAIN_TIME, is_written).await;
    }
}

impl Tier {
    fn enqueue(&self, writes: impl Iterator<Item = Write>) {
        if !self.breaker.is_closed() {
            self.lost("away", writes.count());
            return;
        }
        let (mut waiting, mut no_room) = (0_usize, 0_usize);
        {
            let mut queue = lock(&self.queue);
            for write in writes {
                *(if queue.push(write) { &mut waiting } else { &mut no_room }) += 1;
            }
            self.metrics.waiting.add(signed(waiting));
        }
        self.lost("no_room", no_room);
        if waiting > 0 {
            self.wake.notify_one();
        }
    }

    fn lost(&self, reason: &str, count: usize) {
        if count > 0 {
            self.metrics.lost.with_label_values(&[reason]).inc_by(count as u64);
        }
    }

    /// Connects, writes until the breaker opens, waits, and so on.
    async fn keep(&self) {
        // What was logged since it last answered. Once it has, only what is no trouble of the
        // network is worth another line, such as a certificate that is not believed.
        let (mut told, mut is_lost) = (Vec::<String>::new(), false);
        loop {
            let connected = tokio::time::timeout(CONNECT_TIME, self.connect()).await;
            match connected
                .map_err(|_| "no answer".to_owned())
                .and_then(|connected| connected.map_err(|error| tls::words::plain(&error.to_string())))
            {
                Ok(link) => {
                    self.breaker.close(Instant::now());
                    self.metrics.breaker_open.set(0);
                    tracing::info!(server = %self.server(), "Redis answers");
                    self.write(link).await;
                    // That it is unavailable was logged by what opened the breaker.
                    (told, is_lost) = (Vec::new(), true);
                }
                Err(error) => {
                    let is_first = told.is_empty() && !is_lost;
                    let is_new = told.len() < TOLD_MAX && !told.contains(&error);
                    if is_new && (is_first || error.contains("certificate")) {
                        tracing::warn!(error, server = %self.server(), "Redis is unavailable, doing without");
                        told.push(error);
                    } else {
                        tracing::debug!(error, "Redis is still away");
                    }
                }
            }
            *self.reads.write().unwrap_or_else(PoisonError::into_inner) = None;
            let left = {
                let mut queue = lock(&self.queue);
                let left = queue.clear();
                self.metrics.waiting.set(0);
                left
            };
            self.lost("away", left);
            tokio::time::sleep(self.breaker.pause()).await;
        }
    }

    fn server(&self) -> impl fmt::Display {
        self.config.server.addr().to_string() // without the password
    }

    async fn connect(&self) -> Result<MultiplexedConnection, RedisError> {
        // Each request has a limit of its own, shorter than these.
        let limits = AsyncConnectionConfig::new().set_connection_timeout(None).set_response_timeout(None);
        let reads = self.link(&limits).await?;
        let mut writes = self.link(&limits).await?;
        let (stamp, ..) = self.script.key(CLOCK).arg(0).invoke_async::<Written>(&mut writes).await?;
        lock(&self.trust).seen(stamp, Instant::now(), false);
        *self.reads.write().unwrap_or_else(PoisonError::into_inner) = Some(reads);
        Ok(writes)
    }

    /// A connection of its own, logged in.
    async fn link(&self, limits: &AsyncConnectionConfig) -> Result<MultiplexedConnection, RedisError> {
        let server = &self.config.server;
        let (Some(tls), ConnectionAddr::Tcp(host, port)) = (&self.config.client, server.addr()) else {
            return Client::open(server.clone())?.get_multiplexed_async_connection_with_config(limits).await;
        };
        let socket = TcpStream::connect((host.as_str(), *port)).await?;
        socket.set_nodelay(true)?;
        let stream = tls.connect(host, socket).await?;
        let (link, driver) =
            MultiplexedConnection::new_with_config(server.redis_settings(), stream, limits.clone()).await?;
        tokio::spawn(driver); // it ends with the last clone of the link
        Ok(link)
    }

    /// Writes what is handed over, until the breaker opens.
    async fn write(&self, mut link: MultiplexedConnection) {
        let mut is_idle = false;
        while self.breaker.is_closed() {
            let asks_time = lock(&self.trust).wants_time();
            let batch = lock(&self.queue).take();
            if batch.is_empty() && !asks_time && !is_idle {
                is_idle = tokio::time::timeout(BEAT, self.wake.notified()).await.is_err();
                continue;
            }
            is_idle = false;
            self.write_batch(&mut link, &batch, asks_time).await;
            self.metrics.waiting.sub(signed(batch.len()));
        }
    }

    async fn write_batch(&self, link: &mut MultiplexedConnection, batch: &[Write], asks_time: bool) {
        let mut call = self.script.key(CLOCK);
        call.arg(u64::try_from(self.config.ttl.as_millis()).unwrap_or(u64::MAX));
        let mut results = redis_client::pipe();
        let mut orders = 0;
        for write in batch {
            match write {
                Write::Order { id, snapshot, known } => {
                    orders += 1;
                    call.key(body_key(id)).key(marker_key(id));
                    call.arg(snapshot.version()).arg(entry::shape(snapshot));
                    call.arg(lock(&self.trust).deadline(*known)).arg(&*snapshot.flat().whole());
                }
                Write::Result { id, json } => {
                    results.set_ex(result_key(id), json, RESULT_SECONDS).ignore();
                }
            }
        }
        let limit = self.config.write_timeout;
        if orders > 0 || batch.is_empty() {
            match self.request("write", limit, call.invoke_async::<Written>(link)).await {
                Some((stamp, _, late, wrong)) => {
                    lock(&self.trust).seen(stamp, Instant::now(), asks_time);
                    self.lost("late", late);
                    self.wrong_type(batch, &wrong);
                }
                None => self.lost("failed", orders),
            }
        }
        let count = batch.len() - orders;
        if count > 0 && self.request("result", limit, results.query_async::<()>(link)).await.is_none() {
            self.lost("failed", count);
        }
    }

    /// Keys of these orders of a batch are of another type: a fault of those keys and not of the server.
    fn wrong_type(&self, batch: &[Write], wrong: &[usize]) {
        self.lost("wrong_type", wrong.len());
        let orders = batch.iter().filter_map(|write| match write {
            Write::Order { id, .. } => Some(id),
            Write::Result { .. } => None,
        });
        let Some(id) = wrong.first().and_then(|&first| orders.clone().nth(first)) else { return };
        let mut told = lock(&self.told);
        if told.is_none_or(|told| told.elapsed() >= TOLD_EVERY) {
            *told = Some(Instant::now());
            let key = marker_key(id);
            tracing::warn!(
                key,
                orders = wrong.len(),
                "keys in Redis are of another type, these orders are not kept there"
            );
        }
    }

    /// Counts a request, and tells the breaker of it.
    async fn request<R>(
        &self,
        operation: &str,
        limit: Duration,
        request: impl Future<Output = Result<R, RedisError>>,
    ) -> Option<R> {
        let (result, error, is_over) = match tokio::time::timeout(limit, request).await {
            Ok(Ok(answer)) => {
                self.breaker.succeeded();
                self.metrics.requests.with_label_values(&[operation, "ok"]).inc();
                return Some(answer);
            }
            Ok(Err(error)) => ("error", error.to_string(), error.is_connection_dropped() || error.is_io_error()),
            Err(_) => ("timeout", format!("no answer to a {operation} within {limit:?}"), false),
        };
        self.metrics.requests.with_label_values(&[operation, result]).inc();
        tracing::debug!(operation, error, "a request to Redis failed");
        let now = Instant::now();
        if self.breaker.failed(now) || (is_over && self.breaker.open(now)) {
            self.metrics.breaker_open.set(1);
            tracing::warn!(error, server = %self.server(), "Redis does not answer, doing without");
            self.wake.notify_one();
        }
        None
    }
}

fn signed(count: usize) -> i64 {
    i64::try_from(count).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_are_addresses_or_urls_and_wrong_ones_do_not_show_their_password() {
        for good in [
            "localhost:6379",
            "redis-1:1",
            "redis://h",
            "redis://:pw@h:6379/3",
            "redis://u:pw@h",
            "[::1]:6379",
            "rediss://u:pw@h:6380/1",
        ] {
            let config = Config::parse(good).unwrap_or_else(|error| panic!("{good}: {error}"));
            assert_eq!(config.is_encrypted, good.starts_with("rediss"), "{good}");
        }
        let wrong = [
            "",
            "6379",
            ":6379",
            "h",
            "h:0",
            "h:x",
            "h:70000",
            "http://h:1",
            "rediss://:secret@h:x",
            "unix:///s",
            "pw@h:1",
            "redis://:secret@h:x",
        ];
        for wrong in wrong {
            let error = Config::parse(wrong).unwrap_err();
            assert!(!error.contains("secret"), "{wrong}: {error}");
        }
        let config = Config::parse("redis://:secret@h:6379/3").unwrap();
        assert!(!format!("{config:?}").contains("secret"));
    }
}
