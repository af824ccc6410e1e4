//! Everything that writes: what follows and fills the view, and the intake of every source, on a thread of its own.

use std::sync::Arc;

use anyhow::Context;
use bytes::Bytes;
use tokio::task::JoinHandle;

use super::config::Config;
use super::watch::watch_rights;
use crate::cache::View;
use crate::ingest::{Ingest, IngestMetrics};
use crate::metrics::Metrics;
use crate::order::sample;
use crate::process::lifecycle::{Gate, Readiness, Shutdown};
use crate::read::{encodings, lists};
use crate::redis::Redis;
use crate::replication::follow;
use crate::replication::outbox::Outbox;
use crate::source::Source;
use crate::source::inbox::InboxSource;
#[cfg(feature = "kafka")]
use crate::source::kafka::{KafkaMetrics, KafkaSource};
use crate::source::lines::Lines;
use crate::source::nats::{NatsMetrics, NatsSource};
use crate::source::stan::{StanMetrics, StanSource};
use crate::store::Store;
use crate::store::any::AnyStore;
use crate::warmup;

/// The write side: its own thread and runtime, so that no burst of writes holds up a read.
pub(super) struct WritePath {
    pub(super) config: Config,
    /// Publishes what comes from elsewhere than HTTP.
    pub(super) outbox: Option<Outbox>,
    /// Publishes what comes over HTTP.
    pub(super) http_outbox: Option<Outbox>,
    /// Orders that workers of the older services are done with.
    pub(super) marks: Option<InboxSource>,
    /// What instances tell each other of their changes.
    pub(super) news: follow::News,
    pub(super) store: AnyStore,
    pub(super) view: Arc<View>,
    pub(super) redis: Option<Redis>,
    pub(super) metrics: WriteMetrics,
    pub(super) readiness: Readiness,
    pub(super) shutdown: Shutdown,
}

/// What is counted of intake, and of each source that there is.
pub(super) struct WriteMetrics {
    ingest: IngestMetrics,
    #[cfg(feature = "kafka")]
    kafka: Option<KafkaMetrics>,
    nats: Option<NatsMetrics>,
    stan: Option<StanMetrics>,
}

impl WriteMetrics {
    /// Registers it: once a process. It is shown from here on, long before a source can be reached.
    pub(super) fn register(config: &Config, metrics: &Metrics) -> Self {
        Self {
            ingest: IngestMetrics::register(metrics),
            #[cfg(feature = "kafka")]
            kafka: config.kafka.as_ref().map(|_| KafkaMetrics::register(metrics)),
            nats: config.nats.as_ref().map(|_| NatsMetrics::register(metrics)),
            stan: config.stan.as_ref().map(|_| StanMetrics::register(metrics)),
        }
    }
}

/// Told what the write path ended with.
pub(super) type Ended = tokio::sync::oneshot::Receiver<anyhow::Result<()>>;

impl WritePath {
    /// Starts its thread.
    ///
    /// # Errors
    /// The system gives no thread or no runtime.
    pub(super) fn start(self, inbox: InboxSource) -> anyhow::Result<Ended> {
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
        let marks = self.marks.take();
        if !self.follow(&warm).await? {
            return Ok(());
        }
        let warming = self.upkeep(warm).await?;
        let ingest = self.ingest(inbox, self.http_outbox.as_ref()).await?;
        let http = async {
            let ledger = ingest.run(self.shutdown.clone()).await?;
            tracing::info!(source = "http", ?ledger, "intake ended");
            Ok(())
        };
        let marks = async {
            let Some(source) = marks else { return Ok(()) };
            self.take_in("acknowledgements", source).await
        };
        let samples = async {
            if let Some(gate) = sampled {
                self.sample().await?;
                gate.open();
            }
            anyhow::Ok(())
        };
        let warming = async { warming.await.context("the warm-up panicked")? };
        #[cfg(feature = "kafka")]
        let kafka = self.kafka();
        #[cfg(not(feature = "kafka"))]
        let kafka = std::future::ready(anyhow::Ok(()));
        tokio::try_join!(http, kafka, self.nats(), self.stan(), marks, samples, warming)?;
        Ok(())
    }

    /// Follows what others change in the store. Returns once all changes from here on will be seen, with `false` when
    /// the service was stopped before the store could be reached.
    async fn follow(&mut self, warm: &Gate) -> anyhow::Result<bool> {
        let news = std::mem::take(&mut self.news);
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
            Err(_) => return Ok(false),
        }
        tokio::spawn(watch_rights(store.clone(), self.readiness.gate("rights", "not checked"), shutdown.clone()));
        Ok(true)
    }

    /// Counts the stored orders and starts the tasks that keep the view. Returns the one that warms it up.
    async fn upkeep(&self, warm: Gate) -> anyhow::Result<JoinHandle<anyhow::Result<()>>> {
        let (view, store, shutdown) = (&self.view, &self.store, &self.shutdown);
        follow::count(view, store, shutdown.clone()).await?;
        tokio::spawn(warmup::run_evictor(Arc::clone(view), shutdown.clone()));
        tokio::spawn(lists::run_list_refresher(Arc::clone(view), store.clone(), shutdown.clone()));
        if view.config().list_compress {
            tokio::spawn(encodings::run_compressor(Arc::clone(view), shutdown.clone()));
        }
        let (redis, warming) =
            (self.redis.clone(), warmup::run(Arc::clone(view), store.clone(), warm, shutdown.clone()));
        Ok(tokio::spawn(async move {
            warming.await?;
            if let Some(redis) = redis {
                redis.begin();
            }
            anyhow::Ok(())
        }))
    }

    #[cfg(feature = "kafka")]
    async fn kafka(&self) -> anyhow::Result<()> {
        let (Some(config), Some(metrics)) = (&self.config.kafka, &self.metrics.kafka) else { return Ok(()) };
        let gate = self.readiness.gate("kafka", "not started");
        let letters = self.readiness.gate("dead-letters", "not started");
        let source = KafkaSource::start(config, metrics.clone(), gate, letters);
        self.take_in("kafka", source.context("cannot use Kafka")?).await
    }

    async fn nats(&self) -> anyhow::Result<()> {
        let (Some(config), Some(metrics)) = (&self.config.nats, &self.metrics.nats) else { return Ok(()) };
        let gate = self.readiness.gate("nats", "not started");
        let letters = self.readiness.gate("nats-dead-letters", "not started");
        let source = NatsSource::start(config, metrics.clone(), gate, letters);
        self.take_in("nats", source.context("cannot use NATS")?).await
    }

    async fn stan(&self) -> anyhow::Result<()> {
        let (Some(config), Some(metrics)) = (&self.config.stan, &self.metrics.stan) else { return Ok(()) };
        let gate = self.readiness.gate("stan", "not started");
        let letters = self.readiness.gate("stan-dead-letters", "not started");
        let source = StanSource::start(config, metrics.clone(), gate, letters);
        self.take_in("stan", source.context("cannot use NATS Streaming")?).await
    }

    /// Takes in what a source delivers, until it ends or the service stops.
    async fn take_in<S: Source>(&self, name: &'static str, source: S) -> anyhow::Result<()> {
        let ledger = self.ingest(source, self.outbox.as_ref()).await?.run(self.shutdown.clone()).await?;
        tracing::info!(source = name, ?ledger, "intake ended");
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
