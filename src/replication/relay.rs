//! Publishes what was committed: from memory as it is committed, and from the store what was left behind, because its
//! instance died, Kafka was unavailable, or there was more than there was room for.
//!
//! A batch stays recorded until all of it has arrived and its orders were looked up after that: where another instance
//! has changed one of them meanwhile, the newest copy may have reached the topic before this one, and is published
//! again. So the last snapshot of an order in the topic is its newest, whichever instance ends when.

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::pin::Pin;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant, SystemTime};

use time::OffsetDateTime;
use tokio::sync::mpsc;

use super::health::{Health, PATIENCE};
use super::metrics::OutboxMetrics;
use super::outbox::{Ack, Batches, Changed, Committed};
use super::topic_watch::watch_topics;
use super::wire::{self, ChangeHeaders, header};
use crate::id::{OrderId, Version};
use crate::kafka::publisher::{Delivery, Message, Publisher, Tracking};
use crate::kafka::{Config, topics};
use crate::order::envelope::{Stamp, stamp};
use crate::order::message;
use crate::process::lifecycle::{Gate, step};
use crate::process::log::causes;
use crate::record::{Contents, Parcel};
use crate::redis::Redis;
use crate::snapshot::{ChangeKind, Kind, Snapshot, State};
use crate::store::{Page, Store, StoreError, Unpublished};

/// A batch that was recorded this long ago, and was not taken over since, is published from the store.
const ABANDONED: Duration = Duration::from_secs(3);
/// How often is looked for such batches.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How many of them are taken at once.
const TAKEN_MAX: usize = 64;
/// Batches on their way at once, but for those of which something newer is published again.
const OUTGOING_MAX: usize = 1024;
/// Batches that have arrived are settled together, this often.
const SETTLE_EVERY: Duration = Duration::from_millis(10);
/// So many batches at most.
const SETTLED_BATCHES_MAX: usize = 256;
/// Orders that are looked up together, but for those of one batch.
const SETTLED_ORDERS_MAX: usize = 2000;

/// What is too large for its topic is tried again after this time: the topic may have been given more room.
const TOO_LARGE_PAUSE: Duration = Duration::from_secs(30);

/// Between two tries at something that is unavailable.
const PAUSE: Duration = Duration::from_secs(1);
/// How long an end waits for what is on its way.
const FLUSH: Duration = Duration::from_secs(5);

/// What was published of the orders of a batch.
type Versions = Vec<(OrderId, Version)>;

/// What became of batches that have arrived.
struct Settled {
    /// How many are forgotten.
    published: usize,
    /// Those that cannot be yet, with their orders that are newer than what arrived.
    newer: Vec<(i64, Page)>,
}

/// The first batches that have arrived, being settled: how many these are, and what became of them.
type Settling = Pin<Box<dyn Future<Output = (usize, Result<Settled, StoreError>)> + Send>>;

/// What publishes.
pub struct Relay<T> {
    config: Config,
    store: T,
    publisher: Publisher,
    metrics: OutboxMetrics,
    health: Health,
    /// What followers tell this store and this instance from others by.
    identity: Arc<OnceLock<String>>,
    origin: Arc<str>,
    /// Batches on their way, since when, and the versions of their orders that are.
    outgoing: HashMap<i64, (Instant, Versions)>,
    /// Batches that were taken over and are still to be sent.
    left_behind: VecDeque<Unpublished>,
    /// Batches that have arrived and are still to be settled, those that are being settled first.
    arrived: VecDeque<(i64, Versions)>,
    /// Where acknowledgements can be read, and those on their way.
    redis: Option<Redis>,
    results: HashMap<i64, Vec<(OrderId, String)>>,
    told: mpsc::Sender<(i64, Delivery)>,
    fates: mpsc::Receiver<(i64, Delivery)>,
}

impl<T: Store> Relay<T> {
    /// Nothing is connected to yet. `origin` is this instance; `identity` is filled once the store could be asked; `gate`
    /// is closed while batches are overdue.
    ///
    /// # Errors
    /// When the settings of Kafka are not what its library takes.
    pub fn new(
        config: &Config,
        store: T,
        origin: &Arc<str>,
        identity: &Arc<OnceLock<String>>,
        metrics: OutboxMetrics,
        gate: Gate,
    ) -> anyhow::Result<Self> {
        let (told, fates) = mpsc::channel(OUTGOING_MAX + SETTLED_BATCHES_MAX);
        Ok(Self {
            config: config.clone(),
            store,
            publisher: Publisher::new(config)?,
            metrics,
            health: Health::new(gate),
            identity: Arc::clone(identity),
            origin: Arc::clone(origin),
            outgoing: HashMap::new(),
            left_behind: VecDeque::new(),
            arrived: VecDeque::new(),
            redis: None,
            results: HashMap::new(),
            told,
            fates,
        })
    }

    /// Has acknowledgements written there too, once they are published.
    #[must_use]
    pub fn with_redis(mut self, redis: Option<Redis>) -> Self {
        self.redis = redis;
        self
    }

    /// Publishes until nothing can be handed over any more.
    pub async fn run(mut self, mut batches: Batches) {
        // Until the topics are there, what is committed waits in the store.
        if !self.begin(&mut batches).await {
            return;
        }
        let topics = watch_topics(self.config.clone(), batches.contents(), batches.event_bytes_max());
        let mut topics = std::pin::pin!(topics);
        let mut settle = tokio::time::interval(SETTLE_EVERY);
        let mut look = tokio::time::interval(LOOK_EVERY);
        for timer in [&mut settle, &mut look] {
            timer.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        }
        let mut settling: Option<Settling> = None;
        loop {
            let has_room = self.outgoing.len() < OUTGOING_MAX;
            tokio::select! {
                biased;
                Some((ticket, fate)) = self.fates.recv() => self.ended(ticket, fate).await,
                (count, settled) = async { settling.as_mut().expect("there is one").await }, if settling.is_some() => {
                    settling = None;
                    if settled.is_err() {
                        settle.reset_after(PAUSE);
                    }
                    self.settled(count, settled).await;
                }
                _ = settle.tick(), if settling.is_none() && !self.arrived.is_empty() && has_room => {
                    let settled = settled(self.store.clone(), self.next_arrived(), batches.snapshots_are_on());
                    settling = Some(Box::pin(settled));
                }
                committed = batches.recv(), if has_room => match committed {
                    Some(committed) => self.publish(committed).await,
                    None => break,
                },
                never = &mut topics => match never {},
                _ = look.tick() => {
                    self.publisher.recover();
                    self.take_over().await;
                    self.look_for_overdue();
                }
                () = std::future::ready(()), if has_room && !self.left_behind.is_empty() => {
                    self.send_left_behind().await;
                }
            }
        }
        let publisher = self.publisher.clone();
        let _ = tokio::task::spawn_blocking(move || publisher.flush(FLUSH)).await;
        drop(settling);
        while let Ok((ticket, fate)) = self.fates.try_recv() {
            self.ended(ticket, fate).await;
        }
        // What is newer is published by another instance, or by the next start.
        while !self.arrived.is_empty() {
            let are_on = batches.snapshots_are_on();
            let (count, settled) = settled(self.store.clone(), self.next_arrived(), are_on).await;
            let Ok(Settled { published, .. }) = settled else { return };
            self.metrics.published.inc_by(published as u64);
            self.arrived.drain(..count);
        }
    }

    /// Finds out who this is and has the topics made. Returns whether there is anything left to do.
    async fn begin(&mut self, batches: &mut Batches) -> bool {
        let began = Instant::now();
        let mut last = String::new();
        loop {
            let ready = async {
                let identity = self.store.identity().await.map_err(|error| causes(&error))?;
                let _ = self.identity.set(identity); // once is enough
                let Config { snapshots_topic, events_topic, ack_topic, .. } = &self.config;
                let Contents { snapshots, events, acks } = batches.contents();
                let mut wanted = Vec::new();
                wanted.extend(snapshots_topic.as_deref().filter(|_| snapshots).map(|name| (name, true)));
                if events || acks {
                    wanted.extend([(events_topic.as_str(), false), (ack_topic, false)]);
                }
                topics::make(&self.config, &wanted).await
            };
            match ready.await {
                Ok(()) => return true,
                Err(error) => {
                    self.health.look(Some(began.elapsed()), &error);
                    if error != last {
                        tracing::warn!(error, "cannot publish yet; what is committed is recorded");
                        last = error;
                    }
                }
            }
            self.metrics.overdue.set(self.health.overdue_seconds());
            let pause = tokio::time::sleep(PAUSE);
            tokio::pin!(pause);
            loop {
                tokio::select! {
                    () = &mut pause => break,
                    committed = batches.recv() => if committed.is_none() { return false },
                }
            }
        }
    }

    async fn publish(&mut self, committed: Committed) {
        let Committed { parcel, changes, acks } = committed;
        step("publishing");
        self.send(parcel, &changes, &acks).await;
    }

    /// Sends what is in a parcel. What became of it is told once all of it has arrived or failed.
    async fn send(&mut self, parcel: Parcel, changes: &[Changed], acks: &[Ack]) {
        let Parcel { ticket, contents } = parcel;
        // Without snapshots it does not matter which version comes last.
        let versions = changes.iter().filter(|_| contents.snapshots);
        let versions = versions.map(|Changed { id, snapshot, .. }| (id.clone(), snapshot.version())).collect();
        self.outgoing.insert(ticket, (Instant::now(), versions));
        self.metrics.outgoing.set(len(self.outgoing.len()));
        let tracking = Tracking::new(ticket, self.told.clone());
        let publisher = wire::Publisher { store: self.identity.get().map_or("", String::as_str), origin: &self.origin };
        let mut scratch = Vec::new();
        for change in changes {
            let Changed { id, snapshot, change } = change;
            let headers = ChangeHeaders::new(publisher, snapshot, *change);
            let key = id.text();
            // The library takes a copy of its own: of the bytes that the view has, where they are
            // in one piece.
            let body = snapshot.flat().whole_in(&mut scratch);
            if let Some(topic) = self.config.snapshots_topic.as_deref().filter(|_| contents.snapshots) {
                let value = (snapshot.state() != State::Tombstone).then_some(body);
                let message = Message { topic, key: &key, value, headers: &headers.of_snapshot() };
                self.publisher.send(message, &tracking).await;
            }
            if contents.events
                && snapshot.kind() == Kind::Envelope
                && let Some(event) = message::event(id, body)
            {
                let topic = &self.config.events_topic;
                let message = Message { topic, key: &key, value: Some(&event), headers: &headers.of_event() };
                self.publisher.send(message, &tracking).await;
            }
        }
        let now = now();
        let mut results = Vec::new();
        for Ack { id, version, now: stored, change, snapshot } in acks {
            let (version, stored) = (version.map(|version| version.to_string()), stored.map(|now| now.to_string()));
            let mut headers = vec![(header::STORE, publisher.store), (header::ORIGIN, publisher.origin)];
            headers.extend(version.as_deref().map(|version| (header::VERSION, version)));
            headers.extend(stored.as_deref().map(|stored| (header::NOW, stored)));
            let value = message::ack(id, change.as_str(), &now);
            let (topic, key) = (&self.config.ack_topic, id.text());
            let message = Message { topic, key: &key, value: Some(value.as_bytes()), headers: &headers };
            self.publisher.send(message, &tracking).await;
            if self.redis.is_some() {
                let body = snapshot.as_ref().map(|snapshot| snapshot.flat().whole_in(&mut scratch));
                results.push((id.clone(), message::result(id, change.as_str(), &now, body)));
            }
        }
        if !results.is_empty() {
            self.results.insert(ticket, results);
        }
    }

    /// A parcel has arrived, or not.
    async fn ended(&mut self, ticket: i64, fate: Delivery) {
        let Some((_, versions)) = self.outgoing.remove(&ticket) else { return };
        self.metrics.outgoing.set(len(self.outgoing.len()));
        let results = self.results.remove(&ticket).unwrap_or_default();
        match fate {
            Delivery::Acked { too_large } => {
                if let Some(redis) = &self.redis {
                    for (id, json) in results {
                        redis.result(id, json);
                    }
                }
                self.health.arrive(ticket);
                if too_large.is_empty() {
                    self.arrived.push_back((ticket, versions));
                } else {
                    self.keep_too_large(ticket, &too_large).await;
                }
            }
            // It stays recorded, and is taken up again.
            Delivery::Failed(reason) => {
                self.metrics.failures.inc();
                self.health.fail(ticket, reason);
            }
        }
    }

    /// What else was in the batch has arrived, and is not sent again with these messages.
    async fn keep_too_large(&mut self, ticket: i64, too_large: &[(String, String)]) {
        let ids = too_large.iter().filter_map(|(_, key)| OrderId::parse_stored(key.as_bytes()).ok());
        let ids: BTreeSet<OrderId> = ids.collect();
        self.metrics.too_large.inc_by(ids.len() as u64);
        let Config { snapshots_topic, events_topic, ack_topic, .. } = &self.config;
        let is_one_of = |topic: &str| too_large.iter().any(|(of, _)| of == topic);
        let contents = Contents {
            snapshots: snapshots_topic.as_deref().is_some_and(is_one_of),
            events: is_one_of(events_topic),
            acks: is_one_of(ack_topic),
        };
        let parcel = Parcel { ticket, contents };
        let kept = self.store.narrow(parcel, ids.into_iter().collect(), TOO_LARGE_PAUSE).await;
        if let Err(error) = kept {
            tracing::debug!(error = %causes(&error), "all of a batch is published again, some of it is too large");
        }
    }

    fn look_for_overdue(&mut self) {
        let Self { outgoing, health, .. } = self;
        // What was not taken up again for so long was published by another instance.
        health.failed.retain(|ticket, failed| outgoing.contains_key(ticket) || failed.last.elapsed() < PATIENCE);
        let first = health.failed.values().map(|failed| failed.first);
        let oldest = outgoing.values().map(|(since, _)| *since).chain(first).min();
        let failed = health.failed.keys().filter(|ticket| !outgoing.contains_key(ticket)).count();
        let count = outgoing.len() + failed;
        let reason = format!("{count} committed batches wait to be published: {}", health.reason);
        health.look(oldest.map(|since| since.elapsed()), &reason);
        self.metrics.overdue.set(health.overdue_seconds());
    }

    /// The next batches to settle together.
    fn next_arrived(&self) -> Vec<(i64, Versions)> {
        let mut orders = 0;
        let first = self.arrived.iter().take(SETTLED_BATCHES_MAX).take_while(|(_, versions)| {
            orders += versions.len();
            orders <= SETTLED_ORDERS_MAX
        });
        let count = first.count().max(1);
        self.arrived.iter().take(count).cloned().collect()
    }

    /// The first `count` batches that have arrived are settled.
    async fn settled(&mut self, count: usize, settled: Result<Settled, StoreError>) {
        match settled {
            Ok(Settled { newer, published }) => {
                self.arrived.drain(..count);
                self.metrics.published.inc_by(published as u64);
                for (ticket, orders) in newer {
                    let contents = Contents { snapshots: true, ..Contents::default() };
                    self.send_stored(Parcel { ticket, contents }, orders).await;
                }
            }
            Err(StoreError::Unavailable(_)) => {} // another time
            Err(error) => {
                self.arrived.drain(..count);
                tracing::warn!(error = %causes(&error), "cannot forget what is published; it is published again");
            }
        }
    }

    /// What an earlier process or a try of before left unpublished.
    async fn take_over(&mut self) {
        if self.outgoing.len() >= OUTGOING_MAX || !self.left_behind.is_empty() {
            return;
        }
        match self.store.unpublished(ABANDONED, TAKEN_MAX).await {
            Ok(taken) => {
                let is_waiting = |batch: &Unpublished| self.is_under_way(batch.parcel.ticket);
                self.left_behind = taken.into_iter().filter(|batch| !is_waiting(batch)).collect();
            }
            Err(error) => tracing::debug!(error = %causes(&error), "cannot look for unpublished batches"),
        }
    }

    fn is_under_way(&self, ticket: i64) -> bool {
        self.outgoing.contains_key(&ticket) || self.arrived.iter().any(|(arrived, _)| *arrived == ticket)
    }

    /// One after the other, so that no more of them than one and the producer's queue is in memory.
    async fn send_left_behind(&mut self) {
        let Some(Unpublished { parcel, ids }) = self.left_behind.pop_front() else { return };
        let is_last = self.left_behind.is_empty();
        match self.store.newer(ids.into_iter().map(|id| (id, 0)).collect()).await {
            Ok(orders) => {
                tracing::info!(orders = orders.len(), "publishing a batch that was left behind");
                self.metrics.taken_over.inc();
                self.send_stored(parcel, orders).await;
            }
            Err(error) => {
                tracing::debug!(error = %causes(&error), "cannot read what was left behind");
                self.left_behind.clear(); // it is taken over again
                return;
            }
        }
        if is_last {
            self.take_over().await; // there may be more
        }
    }

    async fn send_stored(&mut self, parcel: Parcel, orders: Page) {
        let changed =
            |(id, snapshot): (OrderId, Snapshot)| Changed { change: snapshot.apparent_change(), id, snapshot };
        let changes: Vec<Changed> = orders.into_iter().map(changed).collect();
        let acks = if parcel.contents.acks { changes.iter().map(ack_of_stored).collect() } else { Vec::new() };
        self.send(parcel, &changes, &acks).await;
    }
}

/// Looks up the orders of batches that have arrived, and forgets those of which nothing is newer by now. What another
/// instance published before one of them had arrived was committed by then, and is found. Returns how many batches these
/// were, and what became of them.
///
/// While no snapshots are published there is nothing that could be newer in the topic, and an order
/// that changes all the time would be published again for ever: then all are forgotten.
///
/// Dropped, it may have forgotten them all the same.
async fn settled<T: Store>(
    store: T,
    arrived: Vec<(i64, Versions)>,
    may_be_newer: bool,
) -> (usize, Result<Settled, StoreError>) {
    let settle = async {
        let versions = arrived.iter().filter(|_| may_be_newer).flat_map(|(_, versions)| versions);
        let known: Vec<_> = versions.cloned().collect();
        let found = if known.is_empty() { Page::new() } else { store.newer(known).await? };
        let newest: HashMap<OrderId, Snapshot> = found.into_iter().collect();
        let mut newer = Vec::new();
        let mut published = Vec::new();
        for (ticket, versions) in &arrived {
            let orders = versions.iter().filter_map(|(id, version)| {
                let snapshot = newest.get(id).filter(|snapshot| snapshot.version() > *version)?;
                Some((id.clone(), snapshot.clone()))
            });
            match orders.collect::<Page>() {
                orders if orders.is_empty() => published.push(*ticket),
                orders => newer.push((*ticket, orders)),
            }
        }
        let count = published.len();
        store.published(published).await?;
        Ok(Settled { published: count, newer })
    };
    (arrived.len(), settle.await)
}

/// The acknowledgement of an order whose worker died before it could send it. Anyone who works adds one version.
fn ack_of_stored(changed: &Changed) -> Ack {
    let now = changed.snapshot.version();
    let change = match changed.snapshot.state() {
        State::Live if now <= 2 => ChangeKind::Created,
        State::Live => ChangeKind::Updated,
        State::SoftDeleted | State::Tombstone => ChangeKind::Deleted,
    };
    let (id, snapshot) = (changed.id.clone(), Some(changed.snapshot.clone()));
    Ack { id, version: Some(now.saturating_sub(1)), now: Some(now), change, snapshot }
}

fn now() -> Stamp {
    stamp(OffsetDateTime::from(SystemTime::now()))
}

fn len(len: usize) -> i64 {
    i64::try_from(len).unwrap_or(i64::MAX)
}
