//! A worker: events in, orders and acknowledgements out. Serves nothing but its metrics.

use std::sync::Arc;

use anyhow::Context;

use super::config::Config;
use super::listeners;
use super::signals::stop_signal;
use super::steps::start_redis;
use super::watch::watch_rights;
use crate::access::Access;
use crate::admin::{self, Admin};
use crate::ingest::{Ingest, IngestMetrics};
use crate::kafka::{Snapshots, broker_watch};
use crate::metrics::Metrics;
use crate::process::lifecycle::{self, Readiness, Reload, Shutdown};
use crate::record::Contents;
use crate::replication::bus::{self, Instance};
use crate::replication::follow::Telling;
use crate::replication::outbox;
use crate::replication::worker::Events;
use crate::source::kafka::{KafkaMetrics, KafkaSource};
use crate::store::any::AnyStore;
use crate::store::{Peers, Presence, Store, StoreError};

/// How often the instances that serve are told that someone else writes to their store, and how long they may take to
/// notice.
const ANNOUNCE_EVERY: std::time::Duration = std::time::Duration::from_millis(500);

/// Processes events until it is told to stop. Returns once everything it took is durable and acknowledged.
///
/// # Errors
/// When it cannot start, when the store gives out, or when the grace period was too short.
pub fn work(config: Config) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let result = runtime.block_on(run(config));
    runtime.shutdown_background();
    result
}

async fn run(config: Config) -> anyhow::Result<()> {
    let reload = Reload::default();
    let stop = stop_signal(reload.clone())?;
    let metrics = Metrics::default();
    let access = Access::start(&config.access, &metrics)?;
    let readiness = Readiness::default();
    readiness.register(&metrics);
    let (_admin_trigger, admin_stop) = lifecycle::shutdown();
    let (trigger, shutdown) = lifecycle::shutdown();
    let tls = listeners::certificates(&config, &metrics, &reload, &shutdown)?;
    if let Some(bound) = listeners::bind_admin(&config, tls.as_ref())? {
        let admin = Admin { metrics: metrics.clone(), access: Arc::clone(&access), readiness: readiness.clone() };
        admin::start(admin, bound, admin_stop).context("cannot start the admin thread")?;
    }
    let store = AnyStore::open(&config.store)?;
    store.register(&metrics);
    broker_watch::register(&metrics);
    let (of_ingest, of_kafka) = (IngestMetrics::register(&metrics), KafkaMetrics::register(&metrics));
    let redis = start_redis(&config, &metrics);
    let mut kafka = config.kafka.clone().context("a worker needs Kafka")?;
    if kafka.snapshots == Snapshots::Off {
        kafka.snapshots_topic = None;
    }
    let contents = Contents { snapshots: kafka.snapshots_topic.is_some(), events: false, acks: true };
    let (outbox, batches) = outbox::outbox(contents);
    let gate = readiness.gate("outbox", "not started");
    let relayed = Instance::default().relay(&kafka, store.clone(), redis.clone(), &metrics, gate, batches)?;
    (kafka.topic, kafka.group) = (kafka.events_topic.clone(), kafka.worker_group.clone());
    let telling = contents.snapshots.then(|| bus::telling(&kafka, &outbox, &metrics));
    tokio::spawn(access.watch(reload, shutdown.clone()));
    tracing::info!(topic = kafka.topic, group = kafka.group, store = store.place(), "working");
    let mut working = std::pin::pin!(async {
        if !announce(&store, telling, &shutdown).await? {
            return anyhow::Ok(());
        }
        tokio::spawn(watch_rights(store.clone(), readiness.gate("rights", "not checked"), shutdown.clone()));
        let gates = ["kafka", "dead-letters"].map(|name| readiness.gate(name, "not started"));
        let [gate, letters] = gates;
        let source = KafkaSource::start(&kafka, of_kafka, gate, letters).context("cannot use Kafka")?;
        let source = Events::new(source, outbox.clone());
        let ingest = Ingest::new(source, store.clone(), None, &config.ingest, of_ingest).await?;
        let ingest = ingest.with_outbox(Some(outbox)).with_redis(redis.clone());
        let ledger = ingest.run(shutdown.clone()).await?;
        tracing::info!(source = "events", ?ledger, "intake ended");
        Ok(())
    });
    let mut early = None;
    tokio::select! {
        name = stop.wait() => tracing::info!(signal = name, "stopping"),
        ended = &mut working => early = Some(ended),
    }
    trigger.fire();
    let drained = tokio::time::timeout(config.grace, async {
        let ended = match early {
            Some(ended) => ended,
            None => working.await,
        };
        let _ = relayed.await; // what it did not get to is recorded
        if let Some(redis) = &redis {
            redis.drain().await;
        }
        ended
    });
    match drained.await {
        Ok(result) => result?,
        Err(_) => anyhow::bail!("not drained within {:?}; nothing acknowledged is lost", config.grace),
    }
    tracing::info!("stopped");
    Ok(())
}

/// Makes sure that anyone who serves this store's orders looks for changes by others, now and from now on. Returns
/// whether there is anything to do.
async fn announce(store: &AnyStore, telling: Option<Telling>, shutdown: &Shutdown) -> anyhow::Result<bool> {
    let mut telling = telling;
    let mut waiting = shutdown.clone();
    loop {
        let announced = tokio::select! {
            () = waiting.wait() => return Ok(false),
            announced = store.heartbeat() => announced,
        };
        match announced {
            Ok(peers) => {
                tell(store, telling.as_mut(), Some(peers));
                break;
            }
            Err(error @ StoreError::Unfit(_)) => return Err(error.into()),
            Err(error) => tracing::warn!(error = %crate::process::log::causes(&error), "the store cannot be used"),
        }
        tokio::time::sleep(ANNOUNCE_EVERY).await;
    }
    tokio::time::sleep(ANNOUNCE_EVERY).await;
    let (store, mut shutdown) = (store.clone(), shutdown.clone());
    tokio::spawn(async move {
        loop {
            tokio::select! {
                () = shutdown.wait() => return,
                () = tokio::time::sleep(ANNOUNCE_EVERY) => {}
            }
            let peers = store.heartbeat().await;
            if let Err(error) = &peers {
                tracing::debug!(error = %crate::process::log::causes(error), "the store cannot be used");
            }
            tell(&store, telling.as_mut(), peers.ok());
        }
    });
    Ok(true)
}

/// Publishes what is done here while there are followers. A worker shows nothing, and follows
/// nothing itself.
fn tell(store: &AnyStore, telling: Option<&mut Telling>, peers: Option<Peers>) {
    let publishes = telling.is_some_and(|telling| telling.note(peers));
    store.appear_as(Presence { follows: false, publishes });
}
