//! The service as a whole: what it is made of, in which order it is born and in which order it dies.

mod cores;
mod listeners;
#[cfg(feature = "kafka")]
mod work;

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use bytes::Bytes;
use tokio::runtime::Handle;

use crate::access::{self, Access};
use crate::admin::{self, Admin};
use crate::cache::{self, View};
use crate::grpc;
use crate::http::{self, Api, route};
use crate::ingest::{self, Ingest};
use crate::listen::Bound;
use crate::listen::Endpoint;
use crate::metrics::Metrics;
use crate::order::{self, sample};
use crate::process::lifecycle::{self, Gate, Readiness, Reload, Shutdown};
use crate::process::log;
use crate::read::{self, Reader, encodings, lists};
use crate::redis::Redis;
use crate::replication::outbox::Outbox;
use crate::replication::{Bus, follow};
use crate::snapshot::{Kind, OwnerTag};
use crate::source::Source;
use crate::source::inbox::{self, InboxSource};
#[cfg(feature = "kafka")]
use crate::source::kafka::KafkaSource;
use crate::source::lines::Lines;
use crate::source::nats::NatsSource;
use crate::source::stan::StanSource;
use crate::store::any::{self, AnyStore};
use crate::store::{Store, StoreError};
use crate::{tls, warmup};

use listeners::Listeners;
#[cfg(feature = "kafka")]
pub use work::work;

/// Everything that can be set.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where and how HTTP is answered.
    pub http: http::Config,
    /// Whether and how gRPC is answered.
    pub grpc: grpc::Config,
    /// Who is let in to what.
    pub access: access::Config,
    /// Where else metrics and health are answered.
    pub admin: Option<Endpoint>,
    /// The certificate of listeners with TLS.
    pub tls: Option<tls::server::Config>,
    /// The view.
    pub cache: cache::Config,
    /// Reads that miss the view.
    pub read: read::Config,
    /// Validation and batches.
    pub ingest: ingest::Config,
    /// The queue behind HTTP.
    pub inbox: inbox::Config,
    /// Where orders come from other than HTTP.
    #[cfg(feature = "kafka")]
    pub kafka: Option<crate::kafka::Config>,
    /// The second-level cache, for reads that miss the view.
    pub redis: Option<crate::redis::Config>,
    /// The NATS stream that orders also come from.
    pub nats: Option<crate::nats::Config>,
    /// The NATS Streaming channel that orders come from.
    pub stan: Option<crate::stan::Config>,
    /// Where orders are durable.
    pub store: any::Config,
    /// Generated orders to start with when the store is empty.
    pub sample: u64,
    /// Threads that serve requests; as many as there are cores when `None`.
    pub threads: Option<usize>,
    /// How they share the connections.
    pub runtime: Runtime,
    /// Whether memory may be in huge pages.
    pub huge_pages: bool,
    /// Whether an instance is ready only while its store answers.
    pub ready_needs_store: bool,
    /// Graceful shutdown timeout.
    pub grace: Duration,
    /// How log lines look.
    pub log: log::Format,
    /// Which log lines are written.
    pub log_filter: String,
}

/// How threads that serve HTTP share its connections.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Runtime {
    /// Whichever thread is free takes what comes next.
    #[default]
    Shared,
    /// Each has a core, and connections that stay with it.
    PerCore,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            http: http::Config::default(),
            grpc: grpc::Config::default(),
            access: access::Config::default(),
            admin: None,
            tls: None,
            cache: cache::Config { key_of: Some(order::external_key), ..cache::Config::default() },
            read: read::Config::default(),
            ingest: ingest::Config::default(),
            inbox: inbox::Config::default(),
            #[cfg(feature = "kafka")]
            kafka: None,
            redis: None,
            nats: None,
            stan: None,
            store: any::Config::default(),
            sample: 0,
            threads: None,
            runtime: Runtime::default(),
            huge_pages: false,
            ready_needs_store: false,
            grace: Duration::from_secs(30),
            log: log::Format::default(),
            log_filter: "info".into(),
        }
    }
}

/// Runs the service until it is told to stop. Returns once everything that was taken in is durable and everything
/// that was asked is answered.
///
/// # Errors
/// When it cannot start, when the store gives out, or when the grace period was too short.
pub fn serve(mut config: Config) -> anyhow::Result<()> {
    fit_connections(&mut config, raise_file_limit());
    if config.access.is_authenticating() {
        config.cache.owner_of = Some(owner_of);
    }
    if !config.huge_pages {
        small_pages();
    }
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    runtime.enable_all().thread_name("read");
    match (config.runtime, config.threads) {
        // What is left for it are calls of gRPC and what waits for the store.
        (Runtime::PerCore, _) => runtime.worker_threads(1),
        (Runtime::Shared, Some(threads)) => runtime.worker_threads(threads),
        (Runtime::Shared, None) => &mut runtime,
    };
    let runtime = runtime.build().context("cannot start the runtime")?;
    let mut loads = tokio::runtime::Builder::new_multi_thread();
    let loads = loads.worker_threads(1).thread_name("load").enable_all().build().context("cannot start the runtime")?;
    let result = runtime.block_on(async {
        let mut opened = None;
        let result = run(config, loads.handle().clone(), &mut opened).await;
        // However it ended: what is stored is left as one file.
        let closed = match opened {
            Some(store) => close(store).await,
            None => Ok(()),
        };
        result.and(closed)
    });
    // What is left is idle or over its time.
    runtime.shutdown_background();
    loads.shutdown_background();
    result
}

/// The longest the end waits for the store: beyond the grace period, which usually is not used up by then.
const CLOSE_TIME: Duration = Duration::from_secs(10);

/// Closes the store, once nothing is written any more.
async fn close(store: AnyStore) -> anyhow::Result<()> {
    match tokio::time::timeout(CLOSE_TIME, store.close()).await {
        Ok(closed) => Ok(closed?),
        Err(_) => anyhow::bail!("the store did not close within {CLOSE_TIME:?}; nothing acknowledged is lost"),
    }
}

/// Whether the files that the settings name can be used: the certificates of listeners.
///
/// # Errors
/// Which cannot.
pub fn check_files(config: &Config) -> Result<(), tls::Error> {
    config.tls.clone().map_or(Ok(()), |files| tls::Server::open(files).map(|_| ()))
}

/// Whether an error says that the store named in the settings is not one for this program, or that
/// a certificate named there cannot be used.
#[must_use]
pub fn is_unfit(error: &anyhow::Error) -> bool {
    let is_unfit = |cause: &(dyn std::error::Error + 'static)| {
        matches!(cause.downcast_ref::<StoreError>(), Some(StoreError::Unfit(_)))
            || cause.is::<tls::Error>()
            || cause.is::<access::SetUpError>()
    };
    error.chain().any(is_unfit)
}

/// `loads` is where reads wait for the store. `opened` is what is to be closed at the end, however it ends.
async fn run(config: Config, loads: Handle, opened: &mut Option<AnyStore>) -> anyhow::Result<()> {
    let reload = Reload::default();
    let stop = stop_signal(reload.clone())?;
    let metrics = Metrics::new(route::ENDPOINTS, route::METHODS);
    let access = Access::start(&config.access, &metrics)?;
    let readiness = Readiness::default();
    let gates = readiness.clone();
    metrics
        .gauge("service_ready", "1 when /readyz answers 200.", move || f64::from(u8::from(gates.reasons().is_empty())));
    let cores = match config.runtime {
        Runtime::Shared => Vec::new(),
        Runtime::PerCore => cores::of_this_process(config.threads),
    };
    let (trigger, shutdown) = lifecycle::shutdown();
    let tls = listeners::certificates(&config, &reload, &shutdown)?;
    if let Some(tls) = tls.clone() {
        let help = "Seconds since 1970 at which the certificate of tls: listeners is over.";
        #[expect(clippy::cast_precision_loss, reason = "times stay below 2^53")]
        metrics
            .gauge("tls_certificate_valid_until_seconds", help, move || tls.valid_until().unwrap_or_default() as f64);
    }
    let Listeners { http: mut listeners, grpc: grpc_listener, admin } =
        listeners::bind(&config, cores.len().max(1), tls.as_ref())?;
    let addresses: Vec<String> = listeners[0].iter().map(|bound| bound.endpoint().to_string()).collect();
    let (admin_trigger, admin_stop) = lifecycle::shutdown();
    if let Some(bound) = admin {
        let admin = Admin { metrics: metrics.clone(), access: Arc::clone(&access), readiness: readiness.clone() };
        admin::start(admin, bound, admin_stop).context("cannot start the admin thread")?;
    }
    let store = tokio::task::spawn_blocking({
        let config = config.store.clone();
        move || AnyStore::open(&config)
    })
    .await??;
    *opened = Some(store.clone());
    let store_place = store.place();
    watch_pool(&metrics, &store);
    let view = Arc::new(View::new(config.cache.clone(), 0));
    watch_view(&metrics, &view, store.is_shareable());
    let redis = start_redis(&config, &metrics);
    tokio::spawn(Arc::clone(&access).watch(reload, shutdown.clone()));
    warn_if_open(&config);
    watch_files(&metrics, &readiness, &store, shutdown.clone());
    let (inbox, inbox_source) = inbox::inbox(&config.inbox);
    #[cfg(feature = "kafka")]
    let bus = Bus::start(config.kafka.as_ref(), &config.inbox, &store, &view, redis.as_ref(), &metrics, &readiness)?;
    #[cfg(not(feature = "kafka"))]
    let bus = Bus::default();
    let relayed = bus.relayed;
    let inbox_source = inbox_source.with_acks(bus.acks);
    let ingest = WritePath {
        config: config.clone(),
        marks: bus.marks,
        outbox: bus.outbox,
        http_outbox: bus.http_outbox,
        news: bus.news,
        store: store.clone(),
        view: Arc::clone(&view),
        redis: redis.clone(),
        metrics: metrics.clone(),
        readiness: readiness.clone(),
        shutdown: shutdown.clone(),
    };
    let mut ingest = ingest.start(inbox_source)?;
    let reader = Reader::new(view, store, config.read).with_loads_in(loads).with_redis(redis.clone());
    let (grpc_address, grpc_serving) = {
        let limits = grpc::Limits {
            order_bytes_max: config.http.order_bytes_max,
            body_time: config.http.body_time,
            write_wait: config.http.write_wait,
            worker_wait: config.http.worker_wait,
        };
        let orders = grpc::Orders::new(reader.clone(), inbox.clone(), metrics.clone(), limits);
        let access = Arc::clone(&access);
        let address = grpc_listener.as_ref().map(|bound| bound.endpoint().to_string());
        let (metrics, readiness, shutdown) = (metrics.clone(), readiness.clone(), shutdown.clone());
        let listener = grpc_listener.map(Bound::listen).transpose()?;
        let serving = listener.map(|listener| {
            tokio::spawn(grpc::serve(config.grpc, orders, access, metrics, readiness, listener, shutdown))
        });
        (address, serving)
    };
    let api = Api::new(config.http, reader, inbox, metrics, readiness.clone(), shutdown.clone());
    let api = api.with_access(Arc::clone(&access));
    let server = http::Server::new(api);
    let mut serving = if cores.is_empty() {
        tokio::spawn(async move { anyhow::Ok(server.serve(listeners.remove(0), shutdown).await?) })
    } else {
        tokio::spawn(cores::serve(&server, &cores, listeners, &shutdown)?)
    };
    tracing::info!(listen = addresses.join(" "), grpc = grpc_address, store = store_place, "serving");

    let mut early = None;
    tokio::select! {
        name = stop.wait() => tracing::info!(signal = name, "stopping"),
        ended = &mut ingest => early = Some(ended),
    }
    let stopping = readiness.gate("lifecycle", "stopping");
    trigger.fire();
    let drained = tokio::time::timeout(config.grace, async {
        let ended = match early {
            Some(ended) => ended,
            None => ingest.await,
        };
        let served = (&mut serving).await;
        if let Some(serving) = grpc_serving {
            serving.await.context("the gRPC server panicked")?;
        }
        if let Some(relayed) = relayed {
            let _ = relayed.await; // what it did not get to is recorded
        }
        if let Some(redis) = redis {
            redis.drain().await;
        }
        ended.context("the ingest thread ended without a word")??;
        served.context("the HTTP server panicked")?
    })
    .await;
    drop((stopping, admin_trigger));
    // What was done is noted before the process says that it is done.
    tokio::task::spawn_blocking(move || access.audit().map(access::audit::Audit::finish)).await?;
    match drained {
        Ok(result) => result?,
        Err(_) => anyhow::bail!("not drained within {:?}; nothing acknowledged is lost", config.grace),
    }
    tracing::info!("stopped");
    Ok(())
}

/// Whose an order is, as the view notes it.
fn owner_of(kind: Kind, body: &[u8]) -> Option<OwnerTag> {
    order::owner_of(kind == Kind::Envelope, body).map(|owner| OwnerTag::of(&owner))
}

/// Says once that anyone who reaches this process may read and write everything.
fn warn_if_open(config: &Config) {
    if config.access.is_authenticating() {
        return;
    }
    let endpoints = config.http.listen.iter();
    let endpoints = endpoints.chain(&config.grpc.listen);
    let is_beyond = |endpoint: &&Endpoint| endpoint.address().is_some_and(|address| !address.ip().is_loopback());
    let beyond: Vec<String> = endpoints.filter(is_beyond).map(ToString::to_string).collect();
    if !beyond.is_empty() {
        let listen = beyond.join(" ");
        tracing::warn!(listen, "anyone who reaches this address reads and writes every order: set --auth-keys");
    }
}

/// The second tier, if there is one to be. It is not waited for.
fn start_redis(config: &Config, metrics: &Metrics) -> Option<Redis> {
    config.redis.clone().map(|config| Redis::start(config, metrics.redis()))
}

fn watch_pool(metrics: &Metrics, store: &AnyStore) {
    let read = |busy: bool| {
        let store = store.clone();
        move || {
            let used = store.pool_use().unwrap_or_default();
            f64::from(if busy { used.busy } else { used.idle })
        }
    };
    let (name, help) = ("postgres_pool_connections", "Connections to PostgreSQL.");
    metrics.gauges(name, help, "state", vec![("busy", Box::new(read(true))), ("idle", Box::new(read(false)))]);
}

/// How often is looked whether the files of the store are still there. Writes find it out by themselves.
const FILES_EVERY: Duration = Duration::from_millis(250);

/// Says on `/readyz` and in the metrics when the files of the store were taken away.
fn watch_files(metrics: &Metrics, readiness: &Readiness, store: &AnyStore, mut shutdown: Shutdown) {
    use crate::store::embedded::Harm;
    let Some(store) = store.embedded().cloned() else { return };
    let read = |harm: Harm| {
        let store = store.clone();
        let read = move || f64::from(u8::from(store.check().is_err_and(|lost| lost.harm == harm)));
        (harm.code(), Box::new(read) as crate::metrics::ReadGauge)
    };
    let (name, help) = ("store_lost", "1 while a file of the embedded store is not there any more, by what happened.");
    metrics.gauges(name, help, "harm", Harm::ALL.map(read).into());
    let gate = readiness.gate("store", "not looked at");
    gate.open();
    tokio::spawn(async move {
        loop {
            match store.check() {
                Ok(()) => gate.open(),
                Err(lost) => gate.close(&format!("{lost}; orders are read from memory, and none is stored")),
            }
            tokio::select! {
                () = shutdown.wait() => return,
                () = tokio::time::sleep(FILES_EVERY) => {}
            }
        }
    });
}

fn watch_view(metrics: &Metrics, view: &Arc<View>, is_shareable: bool) {
    if is_shareable {
        let replaced = Arc::clone(view);
        let help = "Orders replaced by older copies, because the store went back.";
        #[expect(clippy::cast_precision_loss, reason = "counts stay below 2^53")]
        metrics.total("store_went_back_orders_total", help, move || replaced.orders_put_back() as f64);
        let view = Arc::clone(view);
        let help = "Seconds since the store last told what others changed.";
        metrics.gauge("store_silent_seconds", help, move || view.silence().as_secs_f64());
    }
    #[expect(clippy::cast_precision_loss, reason = "sizes stay below 2^53")]
    let gauge = |name: &str, help: &str, read: fn(cache::Size) -> u64| {
        let view = Arc::clone(view);
        metrics.gauge(name, help, move || read(view.size()) as f64);
    };
    gauge("view_orders", "Live orders in the view.", |size| size.live);
    gauge("view_entries", "Entries of the view, deleted orders included.", |size| size.entries as u64);
    gauge("view_bytes", "Bytes of orders in the view.", |size| size.bytes);
    let evicted = Arc::clone(view);
    #[expect(clippy::cast_precision_loss, reason = "counts stay below 2^53")]
    metrics.total(
        "view_evicted_orders_total",
        "Orders that left the view for want of room or for their age.",
        move || evicted.size().evicted as f64,
    );
    let made = Arc::clone(view);
    #[expect(clippy::cast_precision_loss, reason = "counts stay below 2^53")]
    metrics.total("list_compressions_total", "Lists compressed.", move || made.forms_made().0 as f64);
    let made = Arc::clone(view);
    let help = "Time it took to compress lists.";
    metrics.total("list_compress_seconds_total", help, move || made.forms_made().1.as_secs_f64());
    let view = Arc::clone(view);
    metrics.gauge("view_complete", "1 when every stored order is in the view.", move || {
        f64::from(u8::from(view.is_complete()))
    });
}

/// The write side: its own thread and runtime, so that no burst of writes holds up a read.
struct WritePath {
    config: Config,
    /// Publishes what comes from elsewhere than HTTP.
    outbox: Option<Outbox>,
    /// Publishes what comes over HTTP.
    http_outbox: Option<Outbox>,
    /// Orders that workers of the older services are done with.
    marks: Option<InboxSource>,
    /// What instances tell each other of their changes.
    news: follow::News,
    store: AnyStore,
    view: Arc<View>,
    redis: Option<Redis>,
    metrics: Metrics,
    readiness: Readiness,
    shutdown: Shutdown,
}

type Ended = tokio::sync::oneshot::Receiver<anyhow::Result<()>>;

impl WritePath {
    fn start(self, inbox: InboxSource) -> anyhow::Result<Ended> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (ended, wait) = tokio::sync::oneshot::channel();
        // Closed before anybody can ask: the thread may take its time to start.
        let warm = self.readiness.gate("warm-up", "not started");
        let sampled = (self.config.sample > 0).then(|| self.readiness.gate("sample", "not started"));
        std::thread::Builder::new().name("ingest".into()).spawn(move || {
            let result = runtime.block_on(self.run(inbox, warm, sampled));
            drop(runtime);
            let _ = ended.send(result);
        })?;
        Ok(wait)
    }

    async fn run(mut self, inbox: InboxSource, warm: Gate, sampled: Option<Gate>) -> anyhow::Result<()> {
        let (news, marks) = (std::mem::take(&mut self.news), self.marks.take());
        let (view, store, shutdown) = (&self.view, &self.store, &self.shutdown);
        let (begun, has_begun) = tokio::sync::oneshot::channel();
        let redis = self.redis.clone();
        warm.close("the store has not answered yet");
        let begun = (begun, warm.clone());
        let is_needed = self.config.ready_needs_store && store.is_shareable();
        let needed = is_needed.then(|| self.readiness.gate("postgres", "not reached"));
        tokio::spawn(follow::run(Arc::clone(view), store.clone(), redis, news, begun, needed, shutdown.clone()));
        match has_begun.await {
            Ok(begun) => begun?,
            Err(_) => return Ok(()), // stopped before the store could be reached
        }
        tokio::spawn(watch_rights(store.clone(), self.readiness.gate("rights", "not checked"), shutdown.clone()));
        follow::count(view, store, shutdown.clone()).await?;
        tokio::spawn(warmup::run_evictor(Arc::clone(view), shutdown.clone()));
        tokio::spawn(lists::run_list_refresher(Arc::clone(view), store.clone(), shutdown.clone()));
        if view.config().list_compress {
            tokio::spawn(encodings::run_compressor(Arc::clone(view), shutdown.clone()));
        }
        let (redis, warming) =
            (self.redis.clone(), warmup::run(Arc::clone(view), store.clone(), warm, shutdown.clone()));
        let warming = tokio::spawn(async move {
            warming.await?;
            if let Some(redis) = redis {
                redis.begin();
            }
            anyhow::Ok(())
        });
        let ingest = self.ingest(inbox, self.http_outbox.as_ref()).await?;
        #[cfg(feature = "kafka")]
        let kafka = async {
            let Some(config) = &self.config.kafka else { return anyhow::Ok(()) };
            let gate = self.readiness.gate("kafka", "not started");
            let letters = self.readiness.gate("dead-letters", "not started");
            let source =
                KafkaSource::start(config, self.metrics.kafka.clone(), gate, letters).context("cannot use Kafka")?;
            let ledger = self.ingest(source, self.outbox.as_ref()).await?.run(shutdown.clone()).await?;
            tracing::info!(source = "kafka", ?ledger, "intake ended");
            Ok(())
        };
        #[cfg(not(feature = "kafka"))]
        let kafka = async { anyhow::Ok(()) };
        let nats = async {
            let Some(config) = &self.config.nats else { return anyhow::Ok(()) };
            let gate = self.readiness.gate("nats", "not started");
            let letters = self.readiness.gate("nats-dead-letters", "not started");
            let source =
                NatsSource::start(config, self.metrics.nats.clone(), gate, letters).context("cannot use NATS")?;
            let ledger = self.ingest(source, self.outbox.as_ref()).await?.run(shutdown.clone()).await?;
            tracing::info!(source = "nats", ?ledger, "intake ended");
            Ok(())
        };
        let stan = async {
            let Some(config) = &self.config.stan else { return anyhow::Ok(()) };
            let gate = self.readiness.gate("stan", "not started");
            let letters = self.readiness.gate("stan-dead-letters", "not started");
            let source = StanSource::start(config, self.metrics.stan(), gate, letters);
            let source = source.context("cannot use NATS Streaming")?;
            let ledger = self.ingest(source, self.outbox.as_ref()).await?.run(shutdown.clone()).await?;
            tracing::info!(source = "stan", ?ledger, "intake ended");
            Ok(())
        };
        let marks = async {
            let Some(source) = marks else { return anyhow::Ok(()) };
            let ledger = self.ingest(source, self.outbox.as_ref()).await?.run(shutdown.clone()).await?;
            tracing::info!(source = "acknowledgements", ?ledger, "intake ended");
            Ok(())
        };
        let samples = async {
            if let Some(gate) = sampled {
                self.sample().await?;
                gate.open();
            }
            anyhow::Ok(())
        };
        let http = async {
            let ledger = ingest.run(shutdown.clone()).await?;
            tracing::info!(source = "http", ?ledger, "intake ended");
            Ok(())
        };
        let warming = async { warming.await.context("the warm-up panicked")? };
        tokio::try_join!(http, kafka, nats, stan, marks, samples, warming)?;
        Ok(())
    }

    async fn ingest<S: Source>(&self, source: S, outbox: Option<&Outbox>) -> anyhow::Result<Ingest<S, AnyStore>> {
        let view = Some(Arc::clone(&self.view));
        let (store, metrics) = (self.store.clone(), self.metrics.ingest.clone());
        let ingest = Ingest::new(source, store, view, &self.config.ingest, metrics).await?;
        Ok(ingest.with_outbox(outbox.cloned()).with_redis(self.redis.clone()))
    }

    /// Fills an empty store with generated orders.
    async fn sample(&self) -> anyhow::Result<()> {
        if self.store.estimate().await? > 0 {
            return Ok(());
        }
        let documents = (0..self.config.sample).map(|n| {
            let mut document = Vec::with_capacity(1536);
            sample::wb(0, n, &mut document);
            Bytes::from(document)
        });
        let ledger = self
            .ingest(Lines::new("sample", documents), self.outbox.as_ref())
            .await?
            .run(self.shutdown.clone())
            .await?;
        tracing::info!(orders = ledger.stored, "sample orders stored");
        Ok(())
    }
}

/// How often the rights in the database are looked at, and how many looks a line in the log stands for.
const RIGHTS_EVERY: Duration = Duration::from_secs(2);
const RIGHTS_LOGGED_LOOKS: u32 = 30;

/// Says which rights in the database are missing, for as long as they are: writes wait for them.
async fn watch_rights(store: AnyStore, gate: Gate, mut shutdown: Shutdown) {
    let mut looks = 0_u32;
    loop {
        match store.missing_rights().await {
            Ok(None) => {
                gate.open();
                looks = 0;
            }
            Ok(Some(missing)) => {
                gate.close(&format!("the role lacks rights in the database: {missing}"));
                if looks.is_multiple_of(RIGHTS_LOGGED_LOOKS) {
                    tracing::warn!(missing, "the role lacks rights in the database; writes wait for them");
                }
                looks = looks.wrapping_add(1);
            }
            Err(error) => tracing::debug!(error = %log::causes(&error), "cannot look for missing rights"),
        }
        tokio::select! {
            () = shutdown.wait() => return,
            () = tokio::time::sleep(RIGHTS_EVERY) => {}
        }
    }
}

/// SIGTERM and SIGINT. A second one ends the process at once. SIGHUP asks to read again what may
/// have changed, and ends nothing.
struct StopSignal(tokio::sync::mpsc::Receiver<&'static str>);

fn stop_signal(reload: Reload) -> anyhow::Result<StopSignal> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let mut hangup = signal(SignalKind::hangup())?;
    let (sender, receiver) = tokio::sync::mpsc::channel(1);
    tokio::spawn(async move {
        loop {
            let name = tokio::select! {
                _ = terminate.recv() => "SIGTERM",
                _ = interrupt.recv() => "SIGINT",
                _ = hangup.recv() => {
                    let message = if reload.ask() { "reading files again" } else { "nothing to reload" };
                    tracing::info!(signal = "SIGHUP", "{message}");
                    continue;
                }
            };
            if sender.send(name).await.is_err() {
                tracing::warn!(signal = name, "stopped at once; nothing acknowledged is lost");
                #[expect(clippy::exit, clippy::disallowed_methods, reason = "asked for twice")]
                std::process::exit(1);
            }
        }
    });
    Ok(StopSignal(receiver))
}

impl StopSignal {
    async fn wait(mut self) -> &'static str {
        self.0.recv().await.unwrap_or("none")
    }
}

/// Each connection is a file: take as many as the system gives. Returns how many that is, if there is a limit.
fn raise_file_limit() -> Option<u64> {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit { current: limit.maximum, maximum: limit.maximum };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        tracing::warn!(%error, "cannot raise the limit of open files");
    }
    getrlimit(Resource::Nofile).current
}

/// Files that are left for all but clients: the store's, what is connected to brokers and caches, listeners.
const FILES_KEPT: u64 = 256;

/// Takes no more connections than there can be beside [`FILES_KEPT`] other files. Without that, clients would take the
/// last file from the store, and each other.
fn fit_connections(config: &mut Config, files_max: Option<u64>) {
    let Some(files_max) = files_max else { return };
    let http = config.http.connections_max as u64;
    let grpc = config.grpc.listen.as_ref().map_or(0, |_| u64::from(config.grpc.connections_max));
    let [http_fit, grpc_fit] = fitting([http, grpc], files_max);
    if (http_fit, grpc_fit) == (http, grpc) {
        return;
    }
    config.http.connections_max = usize::try_from(http_fit).unwrap_or(usize::MAX);
    if config.grpc.listen.is_some() {
        config.grpc.connections_max = u32::try_from(grpc_fit).unwrap_or(u32::MAX);
    }
    tracing::warn!(
        files_max,
        http_connections_max = http_fit,
        grpc_connections_max = (grpc > 0).then_some(grpc_fit),
        "the limit of open files allows fewer connections than are set"
    );
}

/// What of the wanted connections there can be, each in proportion. Where files are few, half of them are kept.
fn fitting(wanted: [u64; 2], files_max: u64) -> [u64; 2] {
    let sum = wanted.map(u128::from).iter().sum::<u128>();
    let room = u128::from(files_max - FILES_KEPT.min(files_max / 2));
    if sum <= room {
        return wanted;
    }
    let share = |wanted: u64| u128::from(wanted) * room / sum;
    wanted.map(|wanted| u64::try_from(share(wanted)).unwrap_or(u64::MAX).max(wanted.min(1)))
}

/// Memory of this process comes in small pages from here on (Linux; elsewhere nothing changes). Anyone who touches a huge
/// page first waits until all of it is cleared, and everyone beside them for the memory that takes.
pub fn small_pages() {
    #[cfg(target_os = "linux")]
    if let Err(error) = rustix::thread::disable_transparent_huge_pages(true) {
        tracing::warn!(%error, "cannot do without huge pages");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn connections_leave_files_for_all_else() {
        assert_eq!(fitting([20_000, 0], 1_048_576), [20_000, 0]);
        assert_eq!(fitting([20_000, 0], 20_256), [20_000, 0]);
        assert_eq!(fitting([20_000, 0], 1024), [768, 0]);
        assert_eq!(fitting([20_000, 1000], 1306), [1000, 50]);
        assert_eq!(fitting([20_000, 0], 100), [50, 0]);
        assert_eq!(fitting([20_000, 1], 3), [1, 1]);
        assert_eq!(fitting([u64::MAX, u64::MAX], 1306), [525, 525]);
    }
}
