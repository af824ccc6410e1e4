//! The thread that owns the connection: pulls messages, hands them over in the stream's order, acknowledges what is
//! durable, and keeps the server patient meanwhile.
//!
//! Everything it has to say goes through one queue in order. When the other side is slow the queue fills, nothing more
//! is taken, and the server delivers no more than may be unacknowledged.

use std::collections::VecDeque;
use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use async_nats::jetstream::consumer::{PullConsumer, pull};
use async_nats::jetstream::context::ContextBuilder;
use async_nats::jetstream::message::StreamMessage;
use async_nats::jetstream::stream::Stream;
use async_nats::jetstream::{AckKind, Context};
use async_nats::{Client, ConnectErrorKind, ConnectOptions, Subject};
use futures_util::{FutureExt, StreamExt};
use tokio::sync::{mpsc, watch};

use super::metrics::NatsMetrics;
use super::sequence::Sequence;
use super::states::{Gap, Held, Reading, partition};
use super::stream::{self, Look, Trouble};
use crate::nats::{Config, said};
use crate::process::lifecycle::Gate;
use crate::record::Checkpoint;
use crate::source::broker::handover::{CHUNK_BYTES, CHUNK_ROWS, Event, Handover};
use crate::source::broker::mailbox::Mailbox;
use crate::source::broker::tries::{ACK_TIME, LastWarning, PAUSE_FIRST, Pauses};

/// Messages asked for in advance; what is asked for is renewed when half of it has come.
const PULL_MAX: usize = 1000;
/// How long a pull waits at the server, and how often the server says meanwhile that it is there.
const PULL_TIME: Duration = Duration::from_secs(20);
const HEARTBEAT: Duration = Duration::from_secs(2);
/// How often stream and durable are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How long one look may take.
const LOOK_TIME: Duration = Duration::from_secs(5);

pub(super) const STANDBY_SHORT: Duration = Duration::from_secs(1);

/// How long what was received of a stream that is gone may take to become durable.
const RELEASE_WAIT: Duration = Duration::from_secs(10);
/// A stream that was deleted is made again after this time. Made while it is still being deleted, it may never take a
/// message (seen with nats-server 2.9).
const MADE_AGAIN_AFTER: Duration = Duration::from_secs(2);

/// What a pull delivers; `None` once it has ended.
type Pulled = Option<<pull::Stream as futures_util::Stream>::Item>;
type Asked<T> = Pin<Box<dyn Future<Output = Result<T, Trouble>> + Send>>;

pub(super) struct Consumer {
    pub(super) config: Config,
    pub(super) metrics: NatsMetrics,
    pub(super) gate: Gate,
    pub(super) handover: Handover,
    pub(super) mailbox: Arc<Mailbox>,
    pub(super) connected: watch::Sender<Option<Context>>,
    /// Connections made so far.
    pub(super) connections: Arc<AtomicU64>,
    pub(super) reading: Reading,
    pub(super) partition: Option<u32>,
    /// Since when no stream takes the subject, after one did.
    pub(super) missing_since: Option<Instant>,
    /// Why the stream is not read, though it is there.
    pub(super) stopped: Option<String>,
    /// A stored position that is to be started from at the next look.
    pub(super) starting: Option<Option<u64>>,
    pub(super) sequence: Sequence,
    /// The connection that the numbers of deliveries are of.
    pub(super) numbered: u64,
    /// Everything below is durable.
    pub(super) durable: u64,
    pub(super) held: VecDeque<Held>,
    pub(super) gap: Option<Gap>,
    /// Acknowledgements to be sent.
    pub(super) replies: Vec<(Subject, AckKind)>,
    pub(super) ack_wait: Duration,
    pub(super) is_single: bool,
    /// Looks in a row at which something was there to be delivered and nothing was.
    pub(super) idle_looks: u32,
    pub(super) has_arrived: bool,
    pub(super) received_at: Instant,
    pub(super) is_stopping: bool,
    pub(super) is_leaving: bool,
    last_warning: LastWarning,
}

impl Consumer {
    pub(super) fn new(
        config: Config,
        metrics: NatsMetrics,
        gate: Gate,
        events: mpsc::Sender<Event>,
        mailbox: Arc<Mailbox>,
        connected: watch::Sender<Option<Context>>,
    ) -> Self {
        gate.close("not connected to NATS");
        Self {
            ack_wait: config.ack_wait,
            config,
            metrics,
            gate,
            handover: Handover::new(events),
            mailbox,
            connected,
            connections: Arc::default(),
            reading: Reading::Nothing,
            partition: None,
            missing_since: None,
            stopped: None,
            starting: None,
            sequence: Sequence::default(),
            numbered: 0,
            durable: 0,
            held: VecDeque::new(),
            gap: None,
            replies: Vec::new(),
            is_single: false,
            idle_looks: 0,
            has_arrived: false,
            received_at: Instant::now(),
            is_stopping: false,
            is_leaving: false,
            last_warning: LastWarning::default(),
        }
    }

    /// Runs until it is told to leave. Then what is durable is acknowledged, and the durable is left as it is.
    pub(super) async fn run(mut self) {
        let mut client: Option<(Client, Context)> = None;
        let mut pauses = Pauses::of_consumer();
        loop {
            let begun = Instant::now();
            let trouble = match &client {
                None => {
                    let (config, options) = (self.config.clone(), self.options());
                    let connecting = Box::pin(async move { config.connect(options).await });
                    match self.meanwhile(None, connecting).await {
                        None => break,
                        Some(Err(error)) => {
                            let is_refused = matches!(
                                error.kind(),
                                ConnectErrorKind::AuthorizationViolation | ConnectErrorKind::Authentication
                            );
                            let (state, what) = if is_refused {
                                ("NATS refuses the credentials", "NATS refuses the credentials")
                            } else {
                                ("not connected to NATS", "NATS cannot be reached")
                            };
                            self.gate.close(state);
                            Trouble(format!("{what}: {}", said(&error)))
                        }
                        Some(Ok(made)) => {
                            let context = ContextBuilder::new().timeout(LOOK_TIME).build(made.clone());
                            self.connected.send_replace(Some(context.clone()));
                            client = Some((made, context));
                            continue;
                        }
                    }
                }
                Some((connection, context)) => match Box::pin(self.session(connection, context)).await {
                    Ok(()) => break,
                    Err(trouble) => {
                        if self.reading == Reading::Nothing {
                            self.gate.close(&trouble.0);
                        }
                        trouble
                    }
                },
            };
            self.warn(&trouble.0);
            pauses.has_lasted(begun);
            let waiting = tokio::time::sleep(pauses.jittered());
            let connection = client.as_ref().map(|(connection, _)| connection.clone());
            if self.meanwhile(connection.as_ref(), waiting).await.is_none() {
                break;
            }
        }
        if let Some((connection, _)) = &client {
            self.send_replies(connection).await;
            // What does not get through is delivered again.
            let _ = tokio::time::timeout(ACK_TIME, connection.flush()).await;
        }
    }

    fn options(&self) -> ConnectOptions {
        let (connections, reconnects) = (Arc::clone(&self.connections), self.metrics.reconnects.clone());
        let place = self.config.place();
        ConnectOptions::new().event_callback(move |event| {
            match event {
                async_nats::Event::Connected => {
                    if connections.fetch_add(1, Ordering::AcqRel) > 0 {
                        reconnects.inc();
                    }
                    tracing::info!(servers = place, "connected to NATS");
                }
                async_nats::Event::Disconnected => tracing::warn!(servers = place, "connection to NATS lost"),
                event => tracing::debug!(%event, "NATS"),
            }
            std::future::ready(())
        })
    }

    /// Waits for something, and hears the other side meanwhile. `None` when it is time to leave.
    async fn meanwhile<T>(&mut self, client: Option<&Client>, waited: impl Future<Output = T>) -> Option<T> {
        let mut waited = pin!(waited);
        let mailbox = Arc::clone(&self.mailbox);
        loop {
            self.read_mail();
            match client {
                Some(client) => self.send_replies(client).await,
                None => self.replies.clear(),
            }
            self.handover.flush(self.is_stopping);
            if self.is_leaving {
                return None;
            }
            let room = self.handover.room();
            tokio::select! {
                biased;
                () = mailbox.wait() => {}
                () = room, if !self.handover.is_empty() => {}
                done = &mut waited => return Some(done),
            }
        }
    }

    /// One time of stream and durable being there. `Ok` when it is time to leave.
    async fn session(&mut self, client: &Client, context: &Context) -> Result<(), Trouble> {
        let config = self.config.clone();
        // A stream that was there is made by the operator who has deleted it, most often.
        let may_make =
            self.partition.is_none() || self.missing_since.is_some_and(|since| since.elapsed() >= MADE_AGAIN_AFTER);
        let attaching = Box::pin(async {
            let Some(stream) = stream::take(context, &config.subject, &config.stream, may_make).await? else {
                return Ok(None);
            };
            let consumer = stream::durable(&stream, &config).await?;
            let look = stream::look(stream.clone(), consumer.clone()).await?;
            Ok::<_, Trouble>(Some((stream, consumer, look)))
        });
        let Some(attached) = self.meanwhile(Some(client), attaching).await else { return Ok(()) };
        let Some((stream, consumer, look)) = attached? else {
            self.missing_since.get_or_insert_with(Instant::now);
            return Err(Trouble(format!("no stream takes {}; one is made if none comes back", config.subject)));
        };
        self.missing_since = None;
        if !self.adopt(client, &look).await {
            return Ok(());
        }
        self.sequence.forget_numbers();
        self.gap = None;
        self.received_at = Instant::now();
        let next = self.sequence.next();
        let starting = self.starting.take(); // waits for a look that is newer than its position
        self.looked(&look, next)?;
        self.starting = starting;
        if self.reading == Reading::Active && look.delivered >= next {
            // What was on its way when the connection broke comes again, but not soon.
            self.gap = Some(Gap { until: look.delivered + 1, arrived: None, deadline: None });
        }
        self.read(client, &stream, &consumer).await
    }

    /// Takes up the stream as a partition, once the one that was there before is given back. Returns whether to go on.
    async fn adopt(&mut self, client: &Client, look: &Look) -> bool {
        let partition = partition(look.created);
        if self.partition == Some(partition) && !matches!(self.reading, Reading::Releasing { .. }) {
            return true;
        }
        if let Some(former) = self.partition {
            if !matches!(self.reading, Reading::Releasing { .. }) {
                tracing::warn!(stream = self.config.stream, "the stream was made again, reading it from its start");
                self.metrics.remade.inc();
                self.handover.push(Event::Revoked(former));
                self.reading = Reading::Releasing { until: Instant::now() + RELEASE_WAIT };
            }
            while let Reading::Releasing { until } = self.reading {
                if Instant::now() >= until {
                    tracing::warn!("the former stream goes before what was received of it is durable");
                    self.release();
                } else if self.meanwhile(Some(client), tokio::time::sleep(PAUSE_FIRST)).await.is_none() {
                    return false;
                }
            }
        }
        self.partition = Some(partition);
        self.sequence = Sequence::default();
        self.reading = Reading::Offered;
        self.handover.push(Event::Assigned(partition));
        true
    }

    /// Reads until something is wrong with the stream, or it is time to leave.
    async fn read(&mut self, client: &Client, stream: &Stream, consumer: &PullConsumer) -> Result<(), Trouble> {
        let mailbox = Arc::clone(&self.mailbox);
        let mut messages: Option<pull::Stream> = None;
        let mut fetching: Option<Asked<Vec<Option<StreamMessage>>>> = None;
        let mut looking: Option<(u64, Asked<Look>)> = None;
        let mut looked_at = Instant::now();
        let mut tick = Instant::now();
        loop {
            let was_starting = self.starting.is_some();
            self.read_mail();
            self.send_replies(client).await;
            self.handover.flush(self.is_stopping);
            if self.is_leaving {
                return Ok(());
            }
            self.ask_again();
            let is_reading = self.reading == Reading::Active && !self.is_stopping;
            if !is_reading {
                (messages, fetching, self.gap) = (None, None, None);
            } else if messages.is_none() {
                messages = Some(self.pull(consumer).await?);
            }
            if self.starting.is_some() && !was_starting {
                looking = None; // it may have begun before the position was read
            }
            let has_room = self.held.len() < self.config.in_flight_max && self.handover.has_room();
            if let Some(gap) = &self.gap
                && fetching.is_none()
                && has_room
            {
                let (from, subject) = (self.sequence.next(), self.config.subject.clone());
                fetching = Some(Box::pin(stream::fetch(stream.clone(), subject, from, gap.until)));
            }
            if looking.is_none() && (looked_at.elapsed() >= LOOK_EVERY || self.starting.is_some()) {
                looked_at = Instant::now();
                let look = stream::look(stream.clone(), consumer.clone());
                looking = Some((self.sequence.next(), Box::pin(look)));
            }
            let room = self.handover.room();
            let is_receiving = is_reading && has_room && self.gap.is_none();
            tokio::select! {
                biased;
                // 1. What the other side says comes first: acknowledgements make room.
                () = mailbox.wait() => {}
                // 2. It has room again.
                () = room, if !self.handover.is_empty() => {}
                // 3. The server is asked for patience, and looked at.
                () = tokio::time::sleep_until(tick.into()) => {
                    tick = Instant::now() + (self.ack_wait / 6).clamp(Duration::from_millis(20), LOOK_EVERY);
                    self.extend_ack_deadline();
                }
                look = async { looking.as_mut().expect("guarded").1.as_mut().await }, if looking.is_some() => {
                    let next = looking.take().map_or(0, |(next, _)| next);
                    self.looked(&look?, next)?;
                }
                // 4. What is missing goes before what has arrived.
                found = async { fetching.as_mut().expect("guarded").await }, if fetching.is_some() => {
                    fetching = None;
                    self.found(found?);
                }
                // 5. More only when everything before is handed over.
                message = async { messages.as_mut().expect("guarded").next().await }, if is_receiving => {
                    self.receive(message, messages.as_mut().expect("it has just delivered"))?;
                }
            }
        }
    }

    /// Hands over a message and those that have arrived with it, up to a chunk or a gap.
    fn receive(&mut self, first: Pulled, messages: &mut pull::Stream) -> Result<(), Trouble> {
        let mut message = Some(first);
        let (mut records, mut bytes) = (Vec::new(), 0);
        let result = loop {
            match message {
                None => break Ok(()),
                Some(None) => break Err(Trouble("the server ended the pull".into())),
                Some(Some(Err(error))) => break Err(Trouble(format!("nothing can be pulled: {error}"))),
                Some(Some(Ok(message))) => {
                    bytes += message.payload.len();
                    self.arrive(message, &mut records);
                }
            }
            let is_full = records.len() >= CHUNK_ROWS || bytes >= CHUNK_BYTES;
            if is_full || self.gap.is_some() {
                break Ok(());
            }
            message = messages.next().now_or_never();
        };
        self.hand_over(records);
        result
    }

    async fn pull(&self, consumer: &PullConsumer) -> Result<pull::Stream, Trouble> {
        let batch = (self.config.in_flight_max / 4).clamp(1, PULL_MAX);
        let pulling = consumer.stream().max_messages_per_batch(batch).expires(PULL_TIME).heartbeat(HEARTBEAT);
        match tokio::time::timeout(LOOK_TIME, pulling.messages()).await {
            Ok(Ok(messages)) => Ok(messages),
            Ok(Err(error)) => Err(Trouble(format!("nothing can be pulled: {error}"))),
            Err(_) => Err(Trouble("nothing can be pulled: the connection takes no more".into())),
        }
    }

    /// Takes in what the other side said.
    fn read_mail(&mut self) {
        let said = self.mailbox.drain();
        for (partition, sequence) in said.parked {
            if self.partition == Some(partition)
                && let Ok(index) = self.held.binary_search_by_key(&sequence, |held| held.sequence)
            {
                self.held[index].is_parked = true;
            }
        }
        if let Some((Checkpoint(upto), partition)) = said.committed.zip(self.partition)
            && let Some(&next) = upto.get(&partition)
        {
            self.committed(next);
        }
        if said.fenced.is_some() && said.fenced == self.partition {
            tracing::warn!(durable = self.config.durable, "another process reads into the same store, standing by");
            self.stand_by(None, STANDBY_SHORT);
        }
        if let Some((partition, stored)) = said.start
            && self.partition == Some(partition)
        {
            self.starting = Some(stored);
        }
        if said.is_released && matches!(self.reading, Reading::Releasing { .. }) {
            self.release();
        }
        self.is_stopping |= said.is_stopping;
        self.is_leaving |= said.is_leaving;
    }

    fn warn(&mut self, trouble: &str) {
        if self.last_warning.is_news(trouble) {
            tracing::warn!(servers = self.config.place(), trouble, "trouble with NATS, trying again");
        }
    }
}
