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

use async_nats::connection::State;
use async_nats::jetstream::consumer::{PullConsumer, pull};
use async_nats::jetstream::context::ContextBuilder;
use async_nats::jetstream::message::StreamMessage;
use async_nats::jetstream::stream::Stream;
use async_nats::jetstream::{AckKind, Context, Message};
use async_nats::{Client, ConnectErrorKind, ConnectOptions, HeaderMap, Subject};
use bytes::Bytes;
use futures_util::{FutureExt as _, StreamExt as _};
use time::OffsetDateTime as DateTime;
use tokio::sync::mpsc::error::TrySendError;
use tokio::sync::{mpsc, watch};

use super::sequence::{Delivery, Sequence, SequenceOrder};
use super::stream::{self, Look, Trouble};
use crate::metrics::Nats as Metrics;
use crate::nats::{Config, said};
use crate::process::lifecycle::Gate;
use crate::record::{Checkpoint, Headers, Position, Record};
use crate::source::broker::mailbox::Mailbox;

/// What the thread says.
pub(super) enum Event {
    Records(Vec<Record>),
    Assigned(u32),
    Revoked(u32),
}

/// Records handed over at once.
const CHUNK_ROWS: usize = 256;
const CHUNK_BYTES: usize = 1 << 20;
/// Bytes that may wait for the other side.
const QUEUE_BYTES_MAX: usize = 32 << 20;
/// Messages asked for in advance; what is asked for is renewed when half of it has come.
const PULL_MAX: usize = 1000;
/// How long a pull waits at the server, and how often the server says meanwhile that it is there.
const PULL_TIME: Duration = Duration::from_secs(20);
const HEARTBEAT: Duration = Duration::from_secs(2);
/// How often stream and durable are looked at.
const LOOK_EVERY: Duration = Duration::from_secs(1);
/// How long one look may take.
const LOOK_TIME: Duration = Duration::from_secs(5);
/// How long is read from the stream at a stretch when nothing is delivered.
const CATCH_UP: Duration = Duration::from_secs(1);
/// Between two looks at a position that another process moves, while that one waits for messages and while it does not.
const STANDBY_LONG: Duration = Duration::from_secs(5);
const STANDBY_SHORT: Duration = Duration::from_secs(1);
/// Between two looks at a position that the stream does not reach.
const STOPPED_PAUSE: Duration = Duration::from_secs(5);
/// How long what was received of a stream that is gone may take to become durable.
const RELEASE_WAIT: Duration = Duration::from_secs(10);
/// How long acknowledgements may take to be handed to the connection, and to be sent at the end.
const ACK_TIME: Duration = Duration::from_secs(2);
/// Between two tries.
const PAUSE_FIRST: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(2);
/// A stream that was deleted is made again after this time. Made while it is still being deleted, it may never take a
/// message (seen with nats-server 2.9).
const MADE_AGAIN_AFTER: Duration = Duration::from_secs(2);
/// The same trouble is told this often.
const WARN_EVERY: Duration = Duration::from_secs(10);

/// What is done with the partition.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Reading {
    /// There is none yet.
    Nothing,
    /// Its stored position is asked for.
    Offered,
    /// It is handed over.
    Active,
    /// Another process moves its position, which was `seen` and is asked for again when it is `due`.
    Standby { seen: Option<u64>, due: Option<Instant> },
    /// It is given back as soon as what came of it is durable.
    Releasing { until: Instant },
}

/// A message that is handed over and not yet durable.
struct Held {
    sequence: u64,
    /// Where to acknowledge it; nowhere as long as it was only read from the stream.
    reply: Option<Subject>,
    /// When the server last heard or said something of it.
    touched: Instant,
    is_parked: bool,
}

/// Messages that are missing, and are read from the stream.
struct Gap {
    /// Everything below is wanted.
    until: u64,
    /// The message that has shown the gap.
    arrived: Option<Message>,
    /// Deliveries are taken again then, filled or not.
    deadline: Option<Instant>,
}

/// What a pull delivers; `None` once it has ended.
type Pulled = Option<<pull::Stream as futures_util::Stream>::Item>;
type Asked<T> = Pin<Box<dyn Future<Output = Result<T, Trouble>> + Send>>;

pub(super) struct Consumer {
    config: Config,
    metrics: Metrics,
    gate: Gate,
    events: Option<mpsc::Sender<Event>>,
    mailbox: Arc<Mailbox>,
    connected: watch::Sender<Option<Context>>,
    /// Connections made so far.
    connections: Arc<AtomicU64>,
    /// Said and not yet taken.
    queue: VecDeque<Event>,
    queued_bytes: usize,
    reading: Reading,
    partition: Option<u32>,
    /// Since when no stream takes the subject, after one did.
    missing_since: Option<Instant>,
    /// Why the stream is not read, though it is there.
    stopped: Option<String>,
    /// A stored position that is to be started from at the next look.
    starting: Option<Option<u64>>,
    sequence: Sequence,
    /// The connection that the numbers of deliveries are of.
    numbered: u64,
    /// Everything below is durable.
    durable: u64,
    held: VecDeque<Held>,
    gap: Option<Gap>,
    /// Acknowledgements to be sent.
    replies: Vec<(Subject, AckKind)>,
    ack_wait: Duration,
    is_single: bool,
    /// Looks in a row at which something was there to be delivered and nothing was.
    idle_looks: u32,
    has_arrived: bool,
    received_at: Instant,
    is_stopping: bool,
    is_leaving: bool,
    warned: Option<(Instant, String)>,
}

impl Consumer {
    pub(super) fn new(
        config: Config,
        metrics: Metrics,
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
            events: Some(events),
            mailbox,
            connected,
            connections: Arc::default(),
            queue: VecDeque::new(),
            queued_bytes: 0,
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
            warned: None,
        }
    }

    /// Runs until it is told to leave. Then what is durable is acknowledged, and the durable is left as it is.
    pub(super) async fn run(mut self) {
        let mut client: Option<(Client, Context)> = None;
        let mut pause = PAUSE_FIRST;
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
            self.warn(trouble.0);
            if begun.elapsed() > PAUSE_MAX * 2 {
                pause = PAUSE_FIRST;
            }
            let waiting = tokio::time::sleep(pause.mul_f64(0.5 + fastrand::f64() / 2.0));
            let connection = client.as_ref().map(|(connection, _)| connection.clone());
            if self.meanwhile(connection.as_ref(), waiting).await.is_none() {
                break;
            }
            pause = (pause * 2).min(PAUSE_MAX);
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
            self.flush();
            if self.is_leaving {
                return None;
            }
            let events = self.events.clone();
            tokio::select! {
                biased;
                () = mailbox.wait() => {}
                () = has_room(events), if !self.queue.is_empty() => {}
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
                self.queue.push_back(Event::Revoked(former));
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
        self.queue.push_back(Event::Assigned(partition));
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
            self.flush();
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
            let has_room = self.held.len() < self.config.in_flight_max && self.queued_bytes < QUEUE_BYTES_MAX;
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
            let events = self.events.clone();
            let is_receiving = is_reading && has_room && self.gap.is_none();
            tokio::select! {
                biased;
                // 1. What the other side says comes first: acknowledgements make room.
                () = mailbox.wait() => {}
                // 2. It has room again.
                () = self::has_room(events), if !self.queue.is_empty() => {}
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

    /// Everything below `next` is durable and visible: acknowledged in order, or ended if it is a dead letter.
    fn committed(&mut self, next: u64) {
        self.durable = self.durable.max(next);
        while let Some(held) = self.held.pop_front_if(|held| held.sequence < next) {
            if let Some(reply) = held.reply {
                self.replies.push((reply, if held.is_parked { AckKind::Term } else { AckKind::Ack }));
            }
        }
    }

    /// Sends acknowledgements. Those that cannot be sent now are sent when their messages are delivered again.
    async fn send_replies(&mut self, client: &Client) {
        if self.replies.is_empty() {
            return;
        }
        let replies = std::mem::take(&mut self.replies);
        if client.connection_state() != State::Connected {
            return;
        }
        let sending = async {
            for (reply, kind) in replies {
                client.publish(reply, kind.into()).await?;
            }
            Ok::<_, async_nats::PublishError>(())
        };
        match tokio::time::timeout(ACK_TIME, sending).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => tracing::debug!(%error, "not acknowledged"),
            Err(_) => tracing::debug!(after = ?ACK_TIME, "not acknowledged"),
        }
    }

    /// Has the server wait longer for what is not durable yet.
    fn extend_ack_deadline(&mut self) {
        let now = Instant::now();
        for held in &mut self.held {
            if now.duration_since(held.touched) < self.ack_wait / 6 {
                continue;
            }
            if let Some(reply) = &held.reply {
                held.touched = now;
                self.replies.push((reply.clone(), AckKind::Progress));
            }
        }
    }

    /// Hands over what the other side has room for.
    fn flush(&mut self) {
        let Some(events) = &self.events else { return };
        while let Some(event) = self.queue.pop_front() {
            let bytes = bytes(&event);
            match events.try_send(event) {
                Ok(()) | Err(TrySendError::Closed(_)) => self.queued_bytes = self.queued_bytes.saturating_sub(bytes),
                Err(TrySendError::Full(event)) => {
                    self.queue.push_front(event);
                    return;
                }
            }
        }
        if self.is_stopping {
            self.events = None; // the other side sees the end once it has taken everything
        }
    }

    fn hand_over(&mut self, records: Vec<Record>) {
        if !records.is_empty() {
            let event = Event::Records(records);
            self.queued_bytes += bytes(&event);
            self.queue.push_back(event);
            self.flush();
        }
    }

    /// Takes a delivered message, or finds that something is missing before it.
    fn arrive(&mut self, message: Message, records: &mut Vec<Record>) {
        let Ok(info) = message.info() else {
            tracing::debug!("a message without its place in a stream");
            return;
        };
        self.has_arrived = true;
        self.received_at = Instant::now();
        let delivery =
            Delivery { sequence: info.stream_sequence, number: info.consumer_sequence, is_first: info.delivered == 1 };
        if !delivery.is_first {
            self.metrics.redelivered.inc();
        }
        let connections = self.connections.load(Ordering::Acquire);
        if self.numbered != connections || !self.is_single {
            self.numbered = connections;
            self.sequence.forget_numbers();
        }
        match self.sequence.place(delivery) {
            SequenceOrder::InOrder => {
                let published = info.published;
                self.pass(delivery.sequence, message, published, records);
            }
            SequenceOrder::Gap => {
                self.gap = Some(Gap { until: delivery.sequence, arrived: Some(message), deadline: None });
            }
            SequenceOrder::Duplicate => self.repeated(delivery.sequence, message),
        }
    }

    /// A message that was handed over before.
    fn repeated(&mut self, sequence: u64, message: Message) {
        let Some(reply) = message.message.reply else { return };
        match self.held.binary_search_by_key(&sequence, |held| held.sequence) {
            Ok(index) => {
                self.held[index].reply = Some(reply);
                self.held[index].touched = Instant::now();
            }
            Err(_) if sequence < self.durable => self.replies.push((reply, AckKind::Ack)),
            // What is neither held nor durable belongs to a former life of this partition, and comes again.
            Err(_) => {}
        }
    }

    fn pass(&mut self, sequence: u64, message: Message, published: DateTime, records: &mut Vec<Record>) {
        let message = message.message;
        self.sequence.pass(sequence);
        self.hold(sequence, message.reply);
        records.push(self.record(sequence, message.payload, message.headers.as_ref(), published));
    }

    fn hold(&mut self, sequence: u64, reply: Option<Subject>) {
        self.held.push_back(Held { sequence, reply, touched: Instant::now(), is_parked: false });
    }

    fn record(&self, sequence: u64, payload: Bytes, headers: Option<&HeaderMap>, published: DateTime) -> Record {
        Record {
            position: Position { partition: self.partition.unwrap_or_default(), offset: sequence },
            payload: Some(payload),
            key: None,
            idempotency: None,
            condition: None,
            owner: None,
            timestamp_ms: i64::try_from(published.unix_timestamp_nanos() / 1_000_000).ok(),
            arrived: Instant::now(),
            headers: headers.filter(|headers| !headers.is_empty()).map(|headers| Box::new(copied(headers))),
        }
    }

    /// What the stream has where deliveries are missing.
    fn found(&mut self, found: Vec<Option<StreamMessage>>) {
        let Some(gap) = &mut self.gap else { return };
        let numbers: Vec<_> = found.iter().map(|found| found.as_ref().map(|message| message.sequence)).collect();
        let (missing, is_whole) = self.sequence.fill(gap.until, &numbers);
        let is_over = is_whole || gap.deadline.is_some_and(|deadline| Instant::now() >= deadline);
        let arrived = if is_whole { gap.arrived.take() } else { None };
        if is_over {
            self.gap = None;
        }
        self.metrics.filled.inc_by(missing.len() as u64);
        let mut found = found;
        let mut records = Vec::with_capacity(missing.len() + 1);
        for index in missing {
            let Some(message) = found[index].take() else { continue };
            self.hold(message.sequence, None);
            records.push(self.record(message.sequence, message.payload, Some(&message.headers), message.time));
        }
        if let Some(message) = arrived
            && let Ok((sequence, published)) = message.info().map(|info| (info.stream_sequence, info.published))
        {
            self.pass(sequence, message, published, &mut records);
        }
        self.hand_over(records);
    }

    /// Takes in how the stream stands. `next` is where reading had come to when the look began.
    fn looked(&mut self, look: &Look, next: u64) -> Result<(), Trouble> {
        if self.partition != Some(partition(look.created)) {
            return Err(Trouble("the stream was made again".into()));
        }
        self.is_single = look.is_single;
        if !look.ack_wait.is_zero() {
            self.ack_wait = look.ack_wait;
        }
        if let Some(stored) = self.starting.take() {
            self.start(stored, look);
        } else if self.reading == Reading::Active && next > look.last + 1 {
            self.stop_reading(next, look);
        }
        let lag = look.undelivered + self.held.len() as u64;
        self.metrics.lag.set(i64::try_from(lag).unwrap_or(i64::MAX));
        let is_standby = matches!(self.reading, Reading::Standby { .. }) && self.stopped.is_none();
        self.metrics.standby.set(i64::from(is_standby));
        self.metrics.stopped.set(i64::from(self.stopped.is_some()));
        if self.reading == Reading::Offered {
            return Ok(()); // not before its position is known
        }
        if let Some(reason) = &self.stopped {
            self.gate.close(reason);
            return Ok(());
        }
        if lag <= self.config.lag_max {
            self.gate.open();
        } else {
            self.gate.close(&format!("{lag} messages behind"));
        }
        self.watch(look)
    }

    /// Sees to it that what is there is read, delivered or not: after a crash the server first waits for
    /// acknowledgements that will never come.
    fn watch(&mut self, look: &Look) -> Result<(), Trouble> {
        let is_unread = look.delivered >= self.sequence.next() || look.undelivered > 0;
        let is_idle = self.reading == Reading::Active && is_unread && !self.has_arrived && self.queue.is_empty();
        self.has_arrived = false;
        if !is_idle || self.gap.is_some() || self.held.len() >= self.config.in_flight_max || self.is_stopping {
            self.idle_looks = 0;
            if !is_unread {
                self.received_at = Instant::now();
            }
            return Ok(());
        }
        self.idle_looks += 1;
        if self.received_at.elapsed() >= self.config.stall_timeout {
            self.metrics.stalls.inc();
            return Err(Trouble(format!("nothing was delivered for {:?}", self.config.stall_timeout)));
        }
        // One look may fall between a message and its delivery.
        if self.idle_looks >= 2 {
            let deadline = Some(Instant::now() + CATCH_UP);
            self.gap = Some(Gap { until: look.last + 1, arrived: None, deadline });
        }
        Ok(())
    }

    /// The stored position is known: hands over from there on, unless another process does.
    fn start(&mut self, stored: Option<u64>, look: &Look) {
        let next = stored.unwrap_or_default();
        let is_read = look.delivered < next && look.undelivered == 0;
        let is_taken = match self.reading {
            Reading::Offered => look.waiting > 0,
            Reading::Standby { seen, .. } => seen != Some(next) || (look.waiting > 0 && is_read),
            _ => return,
        };
        if next > look.last + 1 {
            self.stop_reading(next, look);
            return;
        }
        self.stopped = None;
        if is_taken {
            if self.reading == Reading::Offered {
                tracing::info!(durable = self.config.durable, "another process reads already, standing by");
            }
            self.stand_by(Some(next), if look.waiting > 0 { STANDBY_LONG } else { STANDBY_SHORT });
            return;
        }
        if stored.is_some() && look.first > next {
            let lost = look.first - next;
            tracing::error!(
                partition = self.partition,
                lost,
                "messages were deleted from the stream before they were read; going on after them"
            );
            self.metrics.lost.inc_by(lost);
        }
        let Config { stream, durable, .. } = &self.config;
        tracing::info!(stream, durable, next, end = look.last, "reading the stream");
        self.reading = Reading::Active;
        self.sequence = Sequence::new(next);
        self.durable = next;
        self.received_at = Instant::now();
        if look.delivered >= next && look.last >= next {
            // What was delivered to a former life is not delivered again for a while.
            self.gap = Some(Gap { until: look.delivered + 1, arrived: None, deadline: None });
        }
    }

    /// The stream ends before the stored position. Looks again later: one of them may have been put right.
    fn stop_reading(&mut self, next: u64, look: &Look) {
        let Config { stream, .. } = &self.config;
        let reason = format!(
            "stream {stream} ends at {}, and orders up to {} are stored: it lost messages, or the store is of another \
             server; restore the stream, or name another durable to read it from its start",
            look.last,
            next - 1
        );
        tracing::error!(stream, "{reason}");
        self.stopped = Some(reason);
        self.stand_by(Some(next), STOPPED_PAUSE);
    }

    /// Leaves the stream to another process, and looks after it.
    fn stand_by(&mut self, seen: Option<u64>, pause: Duration) {
        self.drop_received();
        self.queue.retain(|event| !matches!(event, Event::Assigned(_)));
        let due = Instant::now() + pause.mul_f64(0.8 + fastrand::f64() * 0.4);
        self.reading = Reading::Standby { seen, due: Some(due) };
    }

    /// Asks for the stored position again when it is time.
    fn ask_again(&mut self) {
        if let (Reading::Standby { seen, due: Some(due) }, Some(partition)) = (self.reading, self.partition)
            && Instant::now() >= due
            && !self.is_stopping
        {
            self.reading = Reading::Standby { seen, due: None };
            self.queue.push_back(Event::Assigned(partition));
            self.flush();
        }
    }

    /// Forgets what was received and is not durable. It is delivered again, to anyone who reads then.
    fn drop_received(&mut self) {
        self.held.clear();
        self.gap = None;
        self.starting = None;
        self.queue.retain(|event| !matches!(event, Event::Records(_)));
        self.queued_bytes = 0;
    }

    fn release(&mut self) {
        self.drop_received();
        self.partition = None;
        self.stopped = None;
        self.reading = Reading::Nothing;
    }

    fn warn(&mut self, trouble: String) {
        let is_news = self.warned.as_ref().is_none_or(|(at, told)| *told != trouble || at.elapsed() >= WARN_EVERY);
        if is_news {
            tracing::warn!(servers = self.config.place(), trouble, "trouble with NATS, trying again");
            self.warned = Some((Instant::now(), trouble));
        }
    }
}

/// Waits until something can be said.
async fn has_room(events: Option<mpsc::Sender<Event>>) {
    match events {
        Some(events) => drop(events.reserve().await),
        None => std::future::pending().await,
    }
}

fn bytes(event: &Event) -> usize {
    match event {
        Event::Records(records) => {
            records.iter().map(|record| record.payload.as_ref().map_or(0, Bytes::len) + size_of::<Record>()).sum()
        }
        Event::Assigned(_) | Event::Revoked(_) => 0,
    }
}

/// The number of a stream that was made then: of the microseconds since 1970 what PostgreSQL's `integer` has room for. A
/// stream made again has the number of the former one once in two thousand million times.
fn partition(created: DateTime) -> u32 {
    let micros = created.unix_timestamp_nanos() / 1000;
    u32::try_from(micros & 0x7fff_ffff).unwrap_or_default()
}

fn copied(headers: &HeaderMap) -> Headers {
    let each = headers.iter().flat_map(|(name, values)| values.iter().map(move |value| (name, value)));
    each.map(|(name, value)| (name.to_string(), Some(Bytes::copy_from_slice(value.as_str().as_bytes())))).collect()
}
