//! How the instances of a service speak to each other and to workers: what they publish, and what they hear.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use anyhow::Context;
use tokio::sync::oneshot;

use super::Bus;
use super::follow::{News, Reason, Telling};
use super::metrics::OutboxMetrics;
use super::older_workers::OlderWorkers;
use super::outbox::{self, Batches, Outbox};
use super::relay::Relay;
use super::wire::{self, header};
use crate::cache::View;
use crate::cache::feed::Event;
use crate::kafka::tail::{self, Tail};
use crate::kafka::topics::Groups;
use crate::kafka::{self, Snapshots, Workers, broker_watch};
use crate::metrics::{Metrics, ReadGauge};
use crate::order::message;
use crate::process::background;
use crate::process::lifecycle::{Gate, Readiness, Switch};
use crate::record::Contents;
use crate::redis::Redis;
use crate::source::inbox;
use crate::source::waiters::Acks;
use crate::store::Store;
use crate::store::any::AnyStore;

/// Writes that may wait for a worker at once; one more is answered 202 at once.
const WAITERS_MAX: usize = 16_384;
/// How often is looked whether there are workers.
const LOOK_EVERY: Duration = Duration::from_millis(500);

impl Bus {
    /// Starts to publish and to follow, as far as it is set; nothing without Kafka.
    ///
    /// # Errors
    /// When the settings are not what the library takes, or the system gives no thread.
    pub fn start(
        kafka: Option<&kafka::Config>,
        inbox: &inbox::Config,
        store: &AnyStore,
        view: &Arc<View>,
        redis: Option<&Redis>,
        metrics: &Metrics,
        readiness: &Readiness,
    ) -> anyhow::Result<Self> {
        let Some(mut kafka) = kafka.cloned() else { return Ok(Self::default()) };
        broker_watch::register(metrics);
        // A store that no other process can have open has no followers of its own, and only those
        // are known of.
        if kafka.snapshots == Snapshots::Off || (kafka.snapshots == Snapshots::Auto && !store.is_shareable()) {
            kafka.snapshots_topic = None;
        }
        let kafka = &kafka;
        let has_events = kafka.workers != Workers::Off;
        let snapshots = kafka.snapshots_topic.is_some();
        let contents = Contents { snapshots, events: has_events, acks: false };
        let (http_outbox, batches) = outbox::outbox(contents);
        let outbox = http_outbox.with(Contents { events: false, ..contents });
        let instance = Instance::default();
        let mut relayed = None;
        if !contents.is_empty() {
            let gate = readiness.gate("outbox", "not started");
            relayed = Some(instance.relay(kafka, store.clone(), redis.cloned(), metrics, gate, batches)?);
        }
        let mut tails = Vec::new();
        let mut news = News::default();
        if let Some(topic) = &kafka.snapshots_topic
            && store.is_shareable()
        {
            let (view, redis, instance) = (Arc::clone(view), redis.cloned(), instance.clone());
            let mut following = Following { view, redis, instance, scratch: Vec::new() };
            let gate = readiness.gate("snapshots", "not started");
            let tail = Tail::start(kafka, topic, news.heard.clone(), gate, move |message| following.apply(message));
            tell_live(metrics, topic, &news.heard);
            tails.push(tail.context("cannot use Kafka")?);
            news.telling = Some(telling(kafka, &outbox, metrics));
        }
        let acks = has_events.then(|| Acks::new(WAITERS_MAX));
        let mut marks = None;
        if let Some(acks) = &acks {
            let (inbox, source) = inbox::inbox(inbox);
            marks = Some(source.named("acknowledgements"));
            let older = OlderWorkers::new(store.clone(), Arc::clone(view), inbox, acks.clone());
            let switch = Switch::default();
            tell_live(metrics, &kafka.ack_topic, &switch);
            let gate = readiness.gate("acks", "not started");
            tails.push(listen(kafka, acks, older, instance, switch, gate, metrics)?);
            let waiting = acks.clone();
            #[expect(clippy::cast_precision_loss, reason = "a figure for a gauge")]
            metrics
                .pulled_gauge("worker_waiting_writes", "Writes that wait for a worker.", move || waiting.len() as f64);
        }
        let outbox = Some(outbox).filter(|_| snapshots);
        let http_outbox = Some(http_outbox).filter(|_| relayed.is_some());
        Ok(Self { outbox, http_outbox, acks, marks, news, relayed, tails })
    }
}

/// Has snapshots published as it is set, and says whether they are, and why.
pub fn telling(config: &kafka::Config, outbox: &Outbox, metrics: &Metrics) -> Telling {
    let telling = Telling::new(outbox.clone(), config.snapshots == Snapshots::On);
    let read = Reason::ALL.map(|(reason, word)| {
        let is_for = telling.is_for(reason);
        let read: ReadGauge = Box::new(move || f64::from(u8::from(is_for())));
        (word, read)
    });
    let help = "1 while committed changes are published as snapshots, by why they are.";
    metrics.pulled_gauges("kafka_snapshots_published", help, "why", read.into());
    telling
}

/// Says whether a topic that should be followed is.
fn tell_live(metrics: &Metrics, topic: &str, switch: &Switch) {
    let switch = switch.clone();
    let read = move || f64::from(u8::from(!switch.is_wanted() || switch.is_live()));
    let help = "1 while the topic is read to its end, or need not be.";
    metrics.pulled_gauges("kafka_topic_followed", help, "topic", vec![(topic, Box::new(read))]);
}

/// How this instance is told from others.
#[derive(Clone)]
pub struct Instance {
    origin: Arc<str>,
    /// Which store this is, once it could be asked.
    store: Arc<OnceLock<String>>,
}

impl Default for Instance {
    fn default() -> Self {
        Self { origin: format!("{:016x}", fastrand::u64(..)).into(), store: Arc::default() }
    }
}

impl Instance {
    /// Starts a thread that publishes what is handed over, behind those that take orders in.
    pub fn relay(
        &self,
        config: &kafka::Config,
        store: AnyStore,
        redis: Option<Redis>,
        metrics: &Metrics,
        gate: Gate,
        batches: Batches,
    ) -> anyhow::Result<oneshot::Receiver<()>> {
        let (done, relayed) = oneshot::channel();
        let (started, is_started) = std::sync::mpsc::sync_channel(1);
        let (config, metrics, instance) = (config.clone(), OutboxMetrics::register(metrics), self.clone());
        std::thread::Builder::new().name("relay".into()).spawn(move || {
            // The threads of the library are started from here and have the same rank.
            background::publish_behind();
            let make = || {
                let relay = Relay::new(&config, store, &instance.origin, &instance.store, metrics, gate);
                let relay = relay.context("cannot use Kafka")?.with_redis(redis);
                anyhow::Ok((relay, tokio::runtime::Builder::new_current_thread().enable_all().build()?))
            };
            match make() {
                Ok((relay, runtime)) => {
                    let _ = started.send(Ok(()));
                    runtime.block_on(relay.run(batches));
                    let _ = done.send(());
                }
                Err(error) => drop(started.send(Err(error))),
            }
        })?;
        is_started.recv().context("the relay's thread ended without a word")??;
        Ok(relayed)
    }

    /// Whether a message is about an order of this store.
    fn is_ours(&self, message: &tail::Message<'_>) -> bool {
        let store = self.store.get().map(String::as_str);
        store.is_some() && message.header(header::STORE) == store
    }
}

/// Shows what others tell of their changes.
struct Following {
    view: Arc<View>,
    redis: Option<Redis>,
    instance: Instance,
    scratch: Vec<u8>,
}

impl Following {
    fn apply(&mut self, message: &tail::Message<'_>) {
        if !self.instance.is_ours(message) || message.header(header::ORIGIN) == Some(&self.instance.origin) {
            return;
        }
        let header = |name: &str| message.header(name);
        let read = wire::read_snapshot(message.key(), message.value(), header, &mut self.scratch);
        // What is not understood here is shown by the poll of the store.
        let Some((id, snapshot)) = read else { return };
        if self.view.peek(&id).is_some_and(|shown| shown.supersedes(&snapshot)) {
            return;
        }
        if let Some(redis) = &self.redis {
            redis.note(&id, &snapshot); // the instance that tells of it has written it
        }
        let change = snapshot.apparent_change();
        self.view.apply_remote(Event::new(id, snapshot, change));
    }
}

/// Hears acknowledgements, once there are workers to send any.
fn listen(
    config: &kafka::Config,
    acks: &Acks,
    older: OlderWorkers,
    instance: Instance,
    switch: Switch,
    gate: Gate,
    metrics: &Metrics,
) -> anyhow::Result<Tail> {
    let strange = Arc::new(AtomicU64::new(0));
    #[expect(clippy::cast_precision_loss, reason = "a figure for a counter")]
    metrics.pulled_counter(
        "worker_other_store_acks_total",
        "Acknowledgements of orders that writes wait for here, by workers on another database.",
        {
            let strange = Arc::clone(&strange);
            move || strange.load(Ordering::Relaxed) as f64
        },
    );
    let told = acks.clone();
    let tail = Tail::start(config, &config.ack_topic, switch.clone(), gate, move |message| {
        let store = message.header(header::STORE);
        let is_ours = store.is_none() || store == instance.store.get().map(String::as_str);
        let Some(id) = message.value().and_then(message::acknowledged) else { return };
        let version = message.number(header::VERSION);
        if store.is_none() && version.is_none() {
            older.acknowledged(id);
        } else if is_ours {
            told.arrived(&id, version, message.number(header::NOW));
        } else if told.awaits(&id) && strange.fetch_add(1, Ordering::Relaxed) == 0 {
            tracing::error!(
                worker_store = store,
                store = instance.store.get(),
                "a worker works on another database than this instance: what it makes of orders is not seen here, and \
                 writes are answered 202 after their wait"
            );
        }
    });
    let tail = tail.context("cannot use Kafka")?;
    let (acks, config) = (acks.clone(), config.clone());
    let mut groups = Groups::new(&config).context("cannot use Kafka")?;
    std::thread::Builder::new().name("workers".into()).spawn(move || {
        let mut is_there = || config.workers == Workers::On || groups.has(&config.worker_group).unwrap_or_default();
        while !is_there() {
            std::thread::sleep(LOOK_EVERY);
        }
        // No one waits before acknowledgements are heard.
        switch.want(true);
        while !switch.is_live() {
            std::thread::sleep(LOOK_EVERY / 10);
        }
        tracing::info!(group = config.worker_group, "writes wait for the workers");
        acks.turn_on();
    })?;
    Ok(tail)
}
