//! Publishes what was committed: from memory as it is committed, and from the store what nobody looked after, because
//! its instance died, Kafka was away, or there was more than there was room for.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime};

use time::OffsetDateTime;
use tokio::sync::mpsc;

use crate::id::OrderId;
use crate::kafka::Config;
use crate::lifecycle::step;
use crate::log::causes;
use crate::metrics;
use crate::order::envelope::{Stamp, stamp};
use crate::order::message;
use crate::outbox::{Ack, Batches, Changed, Committed};
use crate::record::Parcel;
use crate::redis::Redis;
use crate::snapshot::{Change, Kind, Snapshot, State};
use crate::store::{Store, StoreError, Unpublished};
use crate::topics::publisher::{Fate, Message, Publisher, Tracking};
use crate::topics::{self, header};

/// A batch that was recorded this long ago, and that nobody set out to publish since, is published from the store.
const ABANDONED: Duration = Duration::from_secs(3);
/// How often is looked for such batches.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How many of them are taken at once.
const TAKEN_MAX: usize = 16;
/// Batches on their way at once.
const OUTGOING_MAX: usize = 1024;
/// Published batches are forgotten together, this often.
const FORGET_EVERY: Duration = Duration::from_millis(50);
/// Between two tries at something that is away.
const PAUSE: Duration = Duration::from_secs(1);
/// How long an end waits for what is on its way.
const FLUSH: Duration = Duration::from_secs(5);

/// What publishes.
pub struct Relay<T> {
    config: Config,
    store: T,
    publisher: Publisher,
    /// For what may be refused for the company it is in.
    alone: Publisher,
    metrics: metrics::Outbox,
    /// What followers tell this store and this instance from others by.
    identity: Arc<OnceLock<String>>,
    origin: Arc<str>,
    /// Batches of this instance on their way, and whether each came from the store.
    outgoing: HashMap<i64, Vec<(OrderId, Snapshot)>>,
    crowded: HashSet<i64>,
    /// Where acknowledgements can be read, and those on their way.
    redis: Option<Redis>,
    results: HashMap<i64, Vec<(OrderId, String)>>,
    told: mpsc::Sender<(i64, Fate)>,
    fates: mpsc::Receiver<(i64, Fate)>,
}

impl<T: Store> Relay<T> {
    /// Nothing is connected to yet. `origin` is this instance; `identity` is filled once the store could be asked.
    ///
    /// # Errors
    /// When the settings of Kafka are not what its library takes.
    pub fn new(
        config: &Config,
        store: T,
        origin: &Arc<str>,
        identity: &Arc<OnceLock<String>>,
        metrics: metrics::Outbox,
    ) -> anyhow::Result<Self> {
        let (told, fates) = mpsc::channel(OUTGOING_MAX + TAKEN_MAX);
        Ok(Self {
            config: config.clone(),
            store,
            publisher: Publisher::new(config, false)?,
            alone: Publisher::new(config, true)?,
            metrics,
            identity: Arc::clone(identity),
            origin: Arc::clone(origin),
            outgoing: HashMap::new(),
            crowded: HashSet::new(),
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

    /// Publishes until nobody can hand over anything any more.
    pub async fn run(mut self, mut batches: Batches) {
        // Until the topics are there, what is committed waits in the store.
        if !self.begin(&mut batches).await {
            return;
        }
        let mut forget = tokio::time::interval(FORGET_EVERY);
        let mut look = tokio::time::interval(LOOK_EVERY);
        for timer in [&mut forget, &mut look] {
            timer.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        }
        let mut arrived = Vec::new();
        loop {
            tokio::select! {
                biased;
                Some((ticket, fate)) = self.fates.recv() => self.ended(ticket, fate, &mut arrived).await,
                _ = forget.tick(), if !arrived.is_empty() => self.forget(&mut arrived).await,
                committed = batches.recv(), if self.outgoing.len() < OUTGOING_MAX => match committed {
                    Some(committed) => self.publish(committed).await,
                    None => break,
                },
                _ = look.tick() => {
                    self.publisher.recover();
                    self.alone.recover();
                    self.take_over().await;
                }
            }
        }
        let publisher = self.publisher.clone();
        let _ = tokio::task::spawn_blocking(move || publisher.flush(FLUSH)).await;
        while let Ok((ticket, fate)) = self.fates.try_recv() {
            self.ended(ticket, fate, &mut arrived).await;
        }
        self.forget(&mut arrived).await;
    }

    /// Finds out who this is and has the topics made. Returns whether there is anything left to do.
    async fn begin(&mut self, batches: &mut Batches) -> bool {
        let mut last = String::new();
        loop {
            let ready = async {
                let identity = self.store.identity().await.map_err(|error| causes(&error))?;
                let _ = self.identity.set(identity); // once is enough
                let Config { snapshots_topic, events_topic, ack_topic, .. } = &self.config;
                let wanted =
                    [(snapshots_topic.as_deref(), true), (Some(events_topic), false), (Some(ack_topic), false)];
                let wanted: Vec<_> = wanted.into_iter().filter_map(|(name, is)| Some((name?, is))).collect();
                topics::make(&self.config, &wanted).await
            };
            match ready.await {
                Ok(()) => return true,
                Err(error) if error == last => {}
                Err(error) => {
                    tracing::warn!(error, "cannot publish yet; what is committed is recorded");
                    last = error;
                }
            }
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
        self.outgoing.insert(parcel.ticket, Vec::new());
        self.metrics.outgoing.set(len(self.outgoing.len()));
        self.send(parcel, &changes, &acks).await;
    }

    /// Sends what is in a parcel. What became of it is told once all of it has arrived or failed.
    async fn send(&mut self, parcel: Parcel, changes: &[Changed], acks: &[Ack]) {
        let Parcel { ticket, contents } = parcel;
        let tracking = Tracking::new(ticket, self.told.clone());
        let identity = self.identity.get().map_or("", String::as_str);
        let publisher = if self.crowded.contains(&ticket) { &self.alone } else { &self.publisher };
        for change in changes {
            let Changed { id, snapshot, change } = change;
            let version = snapshot.version().to_string();
            let key = id.text();
            let common = [
                (header::VERSION, version.as_str()),
                (header::KIND, snapshot.kind().as_str()),
                (header::CHANGE, change.as_str()),
                (header::STORE, identity),
                (header::ORIGIN, &self.origin),
            ];
            let body = snapshot.flat().whole();
            if let Some(topic) = self.config.snapshots_topic.as_deref().filter(|_| contents.snapshots) {
                let seq = snapshot.seq().to_string();
                let state = state_word(snapshot.state());
                let headers = [&common[..], &[(header::SEQ, &seq), (header::STATE, state)]].concat();
                let value = (snapshot.state() != State::Gone).then_some(&*body);
                publisher.send(Message { topic, key: &key, value, headers: &headers }, &tracking).await;
            }
            if contents.events
                && snapshot.kind() == Kind::Envelope
                && let Some(event) = message::event(id, &body)
            {
                let topic = &self.config.events_topic;
                let message = Message { topic, key: &key, value: Some(&event), headers: &common };
                publisher.send(message, &tracking).await;
            }
        }
        let now = now();
        let mut results = Vec::new();
        for Ack { id, version, now: stored, change } in acks {
            let (version, stored) = (version.map(|version| version.to_string()), stored.map(|now| now.to_string()));
            let mut headers = vec![(header::STORE, identity), (header::ORIGIN, &self.origin)];
            headers.extend(version.as_deref().map(|version| (header::VERSION, version)));
            headers.extend(stored.as_deref().map(|stored| (header::NOW, stored)));
            let value = message::ack(id, change.as_str(), &now);
            let (topic, key) = (&self.config.ack_topic, id.text());
            let message = Message { topic, key: &key, value: Some(value.as_bytes()), headers: &headers };
            publisher.send(message, &tracking).await;
            results.push((id.clone(), value));
        }
        if self.redis.is_some() && !results.is_empty() {
            self.results.insert(ticket, results);
        }
    }

    /// A parcel has arrived, or not.
    async fn ended(&mut self, ticket: i64, fate: Fate, arrived: &mut Vec<i64>) {
        let Some(orders) = self.outgoing.remove(&ticket) else { return };
        self.metrics.outgoing.set(len(self.outgoing.len()));
        let results = self.results.remove(&ticket).unwrap_or_default();
        match fate {
            Fate::Arrived => {
                if let Some(redis) = &self.redis {
                    for (id, json) in results {
                        redis.result(id, json);
                    }
                }
                // Somebody else may have changed and published some of what came from the store between our reading it
                // and our publishing it. The newest must be the last of its order in the topic.
                match self.changed_since(&orders).await {
                    Ok(newer) if newer.is_empty() => {
                        self.crowded.remove(&ticket);
                        self.metrics.published.inc();
                        arrived.push(ticket);
                    }
                    Ok(newer) => {
                        let mut parcel = Parcel { ticket, contents: crate::record::Contents::default() };
                        parcel.contents.snapshots = true;
                        self.send_stored(parcel, newer).await;
                    }
                    // It stays recorded too: nobody knows whether it was the newest.
                    Err(error) => {
                        tracing::debug!(error = %causes(&error), "cannot look for newer copies");
                        self.metrics.failures.inc();
                    }
                }
            }
            // It stays recorded, and is taken up again.
            Fate::Crowded => drop(self.crowded.insert(ticket)),
            Fate::Failed => self.metrics.failures.inc(),
        }
    }

    async fn changed_since(&self, orders: &[(OrderId, Snapshot)]) -> Result<Vec<(OrderId, Snapshot)>, StoreError> {
        let mut newer = Vec::new();
        for (id, published) in orders {
            let stored = self.store.fetch(id.clone()).await?;
            newer.extend(stored.filter(|stored| stored.supersedes(published)).map(|stored| (id.clone(), stored)));
        }
        Ok(newer)
    }

    /// What an earlier process or a try of before left unpublished.
    async fn take_over(&mut self) {
        if self.outgoing.len() >= OUTGOING_MAX {
            return;
        }
        let taken = match self.store.unpublished(ABANDONED, TAKEN_MAX).await {
            Ok(taken) => taken,
            Err(error) => {
                tracing::debug!(error = %causes(&error), "cannot look for unpublished batches");
                return;
            }
        };
        for Unpublished { parcel, orders } in taken {
            if !self.outgoing.contains_key(&parcel.ticket) {
                tracing::info!(orders = orders.len(), "publishing a batch that was left behind");
                self.metrics.taken_over.inc();
                self.send_stored(parcel, orders).await;
            }
        }
    }

    async fn send_stored(&mut self, parcel: Parcel, orders: Vec<(OrderId, Snapshot)>) {
        let changed = |(id, snapshot): &(OrderId, Snapshot)| {
            let (id, snapshot) = (id.clone(), snapshot.clone());
            Changed { change: snapshot.apparent_change(), id, snapshot }
        };
        let changes: Vec<Changed> = orders.iter().map(changed).collect();
        let acks = if parcel.contents.acks { changes.iter().map(ack_of_stored).collect() } else { Vec::new() };
        self.outgoing.insert(parcel.ticket, orders);
        self.send(parcel, &changes, &acks).await;
    }

    async fn forget(&self, arrived: &mut Vec<i64>) {
        match self.store.published(arrived.clone()).await {
            Ok(()) => arrived.clear(),
            Err(StoreError::Unavailable(_)) => {} // another time
            Err(error) => {
                tracing::warn!(error = %causes(&error), "cannot forget what is published; it is published again");
                arrived.clear();
            }
        }
    }
}

/// The acknowledgement of an order whose worker died before it could send it. Whoever works adds one version.
fn ack_of_stored(changed: &Changed) -> Ack {
    let now = changed.snapshot.version();
    let change = match changed.snapshot.state() {
        State::Live if now <= 2 => Change::Created,
        State::Live => Change::Updated,
        State::Hidden | State::Gone => Change::Deleted,
    };
    Ack { id: changed.id.clone(), version: Some(now.saturating_sub(1)), now: Some(now), change }
}

/// How a state is spelled in a header.
pub fn state_word(state: State) -> &'static str {
    match state {
        State::Live => "live",
        State::Hidden => "hidden",
        State::Gone => "gone",
    }
}

fn now() -> Stamp {
    stamp(OffsetDateTime::from(SystemTime::now()))
}

fn len(len: usize) -> i64 {
    i64::try_from(len).unwrap_or(i64::MAX)
}
