//! The life of the service as typed steps, each of which takes the one before and has what the next needs:
//! [`Bound`] sockets, an [`Opened`] store, the [`Built`] parts, a [`Running`] service, which drains in the end.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use tokio::runtime::Handle;
use tokio::task::JoinHandle;

use super::config::{Config, Runtime};
use super::cores;
use super::listeners::{self, Listeners};
use super::signals::{StopSignal, stop_signal};
use super::watch::watch_files;
use super::write_path::{Ended, WriteMetrics, WritePath};
use crate::access::{Access, audit::Audit};
use crate::admin::{self, Admin};
use crate::cache::View;
use crate::grpc::{self, GrpcMetrics};
use crate::http::{self, Api};
use crate::listen::{Bound as Listening, Endpoint};
use crate::metrics::Metrics;
use crate::process::lifecycle::{self, Readiness, Reload, Shutdown, Trigger};
use crate::read::Reader;
use crate::redis::{Redis, RedisMetrics};
use crate::replication::{Bus, follow};
use crate::source::inbox::{self, Inbox, InboxSource};
use crate::store::Store;
use crate::store::any::AnyStore;

/// Every address is bound, and the admin one is answered. What cannot be listened on is known before anything is opened.
pub(super) struct Bound {
    config: Config,
    stop: StopSignal,
    reload: Reload,
    metrics: Metrics,
    access: Arc<Access>,
    readiness: Readiness,
    /// Of [`Runtime::PerCore`]; empty otherwise.
    cores: Vec<usize>,
    http: Vec<Vec<Listening>>,
    grpc: Option<Listening>,
    /// Ends the admin thread.
    admin: Trigger,
    trigger: Trigger,
    shutdown: Shutdown,
}

/// The store is open, and has to be closed however it goes on.
pub(super) struct Opened {
    bound: Bound,
    store: AnyStore,
}

/// The parts are connected. Nothing is taken in and nothing is answered yet.
pub(super) struct Built {
    opened: Opened,
    write_path: WritePath,
    inbox: Inbox,
    inbox_source: InboxSource,
    reader: Reader,
    redis: Option<Redis>,
    bus: Bus,
}

/// Orders are taken in and requests are answered.
pub(super) struct Running {
    grace: Duration,
    stop: StopSignal,
    access: Arc<Access>,
    readiness: Readiness,
    admin: Trigger,
    trigger: Trigger,
    write_path: Ended,
    http: JoinHandle<anyhow::Result<()>>,
    grpc: Option<JoinHandle<()>>,
    redis: Option<Redis>,
    bus: Bus,
}

impl Bound {
    /// Binds the addresses, and answers the admin one.
    ///
    /// # Errors
    /// Which address, certificate or key file cannot be used.
    pub(super) fn bind(config: Config) -> anyhow::Result<Self> {
        let reload = Reload::default();
        let stop = stop_signal(reload.clone())?;
        let metrics = Metrics::default();
        let access = Access::start(&config.access, &metrics)?;
        let readiness = Readiness::default();
        readiness.register(&metrics);
        let cores = match config.runtime {
            Runtime::Shared => Vec::new(),
            Runtime::PerCore => cores::of_this_process(config.threads),
        };
        let (trigger, shutdown) = lifecycle::shutdown();
        let tls = listeners::certificates(&config, &metrics, &reload, &shutdown)?;
        let Listeners { http, grpc, admin: admin_listener } =
            listeners::bind(&config, cores.len().max(1), tls.as_ref())?;
        let (admin, admin_stop) = lifecycle::shutdown();
        if let Some(bound) = admin_listener {
            let admin = Admin { metrics: metrics.clone(), access: Arc::clone(&access), readiness: readiness.clone() };
            admin::start(admin, bound, admin_stop).context("cannot start the admin thread")?;
        }
        Ok(Self { config, stop, reload, metrics, access, readiness, cores, http, grpc, admin, trigger, shutdown })
    }

    /// Opens the store.
    ///
    /// # Errors
    /// Why it cannot be.
    pub(super) async fn open(self) -> anyhow::Result<Opened> {
        let config = self.config.store.clone();
        let store = tokio::task::spawn_blocking(move || AnyStore::open(&config)).await??;
        Ok(Opened { bound: self, store })
    }
}

impl Opened {
    /// What is to be closed at the end.
    pub(super) fn store(&self) -> AnyStore {
        self.store.clone()
    }

    /// Makes the parts and connects them. `loads` is where reads wait for the store.
    ///
    /// # Errors
    /// The settings of Kafka are not what its library takes, or the system gives no thread.
    #[cfg_attr(
        not(feature = "kafka"),
        expect(clippy::unnecessary_wraps, reason = "what may fail are the parts for Kafka")
    )]
    pub(super) fn build(self, loads: Handle) -> anyhow::Result<Built> {
        let Self { bound, store } = &self;
        let Bound { config, reload, metrics, access, readiness, shutdown, .. } = bound;
        store.register(metrics);
        let view = Arc::new(View::new(config.cache.clone(), 0));
        view.register(metrics);
        if store.is_shareable() {
            follow::register(&view, metrics);
        }
        let redis = start_redis(config, metrics);
        tokio::spawn(Arc::clone(access).watch(reload.clone(), shutdown.clone()));
        warn_if_open(config);
        watch_files(readiness, store, shutdown.clone());
        let (inbox, inbox_source) = inbox::inbox(&config.inbox);
        #[cfg(feature = "kafka")]
        let mut bus =
            Bus::start(config.kafka.as_ref(), &config.inbox, store, &view, redis.as_ref(), metrics, readiness)?;
        #[cfg(not(feature = "kafka"))]
        let mut bus = Bus::default();
        let inbox_source = inbox_source.with_acks(bus.acks.take());
        let write_path = WritePath {
            config: config.clone(),
            marks: bus.marks.take(),
            outbox: bus.outbox.take(),
            http_outbox: bus.http_outbox.take(),
            news: std::mem::take(&mut bus.news),
            store: store.clone(),
            view: Arc::clone(&view),
            redis: redis.clone(),
            metrics: WriteMetrics::register(config, metrics),
            readiness: readiness.clone(),
            shutdown: shutdown.clone(),
        };
        let reader =
            Reader::new(view, store.clone(), config.read.clone()).with_loads_in(loads).with_redis(redis.clone());
        Ok(Built { opened: self, write_path, inbox, inbox_source, reader, redis, bus })
    }
}

impl Built {
    /// Starts the write path, then the servers.
    ///
    /// # Errors
    /// The system gives no thread, or does not take a listener.
    pub(super) fn run(self) -> anyhow::Result<Running> {
        let Self { opened, write_path, inbox, inbox_source, reader, redis, bus } = self;
        let Opened { bound, store } = opened;
        let Bound { config, stop, metrics, access, readiness, cores, mut http, grpc, admin, trigger, shutdown, .. } =
            bound;
        let grace = config.grace;
        let listen: Vec<String> = http[0].iter().map(|bound| bound.endpoint().to_string()).collect();
        let grpc_listen = grpc.as_ref().map(|bound| bound.endpoint().to_string());
        let write_path = write_path.start(inbox_source)?;
        let limits = grpc_limits(&config.http);
        let api =
            Api::new(config.http, reader.clone(), inbox.clone(), metrics.clone(), readiness.clone(), shutdown.clone());
        let grpc = grpc.map(Listening::listen).transpose()?.map(|listener| {
            let counted = GrpcMetrics::register(&metrics, Arc::clone(&api.metrics.requests));
            let orders = grpc::Orders::new(reader, inbox, counted.clone(), limits);
            let (access, readiness) = (Arc::clone(&access), readiness.clone());
            tokio::spawn(grpc::serve(config.grpc, orders, access, counted, readiness, listener, shutdown.clone()))
        });
        let server = http::Server::new(api.with_access(Arc::clone(&access)));
        let http = if cores.is_empty() {
            tokio::spawn(async move { anyhow::Ok(server.serve(http.remove(0), shutdown).await?) })
        } else {
            tokio::spawn(cores::serve(&server, &cores, http, &shutdown)?)
        };
        tracing::info!(listen = listen.join(" "), grpc = grpc_listen, store = store.place(), "serving");
        Ok(Running { grace, stop, access, readiness, admin, trigger, write_path, http, grpc, redis, bus })
    }
}

impl Running {
    /// Waits for the signal to stop, or for an end of the write path that comes before it. Then takes in nothing more,
    /// and returns once what was taken in is durable and what was asked is answered.
    ///
    /// # Errors
    /// What the write path or a server ended with, or that the grace period was too short.
    pub(super) async fn drain(mut self) -> anyhow::Result<()> {
        let mut early = None;
        tokio::select! {
            name = self.stop.wait() => tracing::info!(signal = name, "stopping"),
            ended = &mut self.write_path => early = Some(ended),
        }
        let stopping = self.readiness.gate("lifecycle", "stopping");
        self.trigger.fire();
        let drained = tokio::time::timeout(self.grace, async {
            let ended = match early {
                Some(ended) => ended,
                None => self.write_path.await,
            };
            let served = (&mut self.http).await;
            if let Some(serving) = self.grpc {
                serving.await.context("the gRPC server panicked")?;
            }
            if let Some(relayed) = self.bus.relayed {
                let _ = relayed.await; // what it did not get to is recorded
            }
            if let Some(redis) = self.redis {
                redis.drain().await;
            }
            ended.context("the ingest thread ended without a word")??;
            served.context("the HTTP server panicked")?
        })
        .await;
        drop((stopping, self.admin));
        // What was done is noted before the process says that it is done.
        let access = self.access;
        tokio::task::spawn_blocking(move || access.audit().map(Audit::finish)).await?;
        match drained {
            Ok(result) => result?,
            Err(_) => anyhow::bail!("not drained within {:?}; nothing acknowledged is lost", self.grace),
        }
        tracing::info!("stopped");
        Ok(())
    }
}

/// What gRPC takes over from HTTP, so that both have the same limits.
fn grpc_limits(http: &http::Config) -> grpc::Limits {
    grpc::Limits {
        order_bytes_max: http.order_bytes_max,
        body_time: http.body_time,
        write_wait: http.write_wait,
        worker_wait: http.worker_wait,
    }
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
pub(super) fn start_redis(config: &Config, metrics: &Metrics) -> Option<Redis> {
    config.redis.clone().map(|config| Redis::start(config, RedisMetrics::register(metrics)))
}
