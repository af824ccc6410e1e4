//! The thread that has the session: receives messages, hands them over in the channel's order, and
//! acknowledges what is durable.
//!
//! The store's position is what counts. Each session begins with it: what an earlier session has
//! handed over is given back first, so that it is durable by then or void. What the durable does
//! not deliver, because it was acknowledged before or got lost on its way, is read from the channel
//! by a subscription of its own.

use std::collections::BTreeSet;
use std::future::Future;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use async_nats::{Client, ConnectOptions};
use futures_util::FutureExt as _;
use tokio::sync::mpsc;

use super::PARTITION;
use super::channel::{between, last_of};
use super::metrics::StanMetrics;
use super::order::{Order, Place};
use crate::nats::said;
use crate::process::lifecycle::Gate;
use crate::record::{Position, Record};
use crate::source::broker::handover::{CHUNK_BYTES, CHUNK_ROWS, Event, Handover};
use crate::source::broker::lag::judge_lag;
use crate::source::broker::mailbox::Mailbox;
use crate::source::broker::tries::{LastWarning, Pauses, about, acknowledge};
use crate::stan::Config;
use crate::stan::protocol::{MsgProto, Start};
use crate::stan::session::{Session, SessionError, Subscription, Wanted};

/// How often is looked how far the channel goes, and how often while all of it is durable and
/// nothing comes: the server notes each look in its files.
const LOOK_EVERY: Duration = Duration::from_secs(2);
const LOOK_IDLE: Duration = Duration::from_secs(10);
/// Messages read at once where deliveries are missing.
const FILL_ROWS: u64 = 1000;
/// Between two tries to come in under a name that another process has.
const STANDBY_PAUSE: Duration = Duration::from_secs(2);
/// Between two looks at a position that the channel does not reach.
const STOPPED_PAUSE: Duration = Duration::from_secs(5);
/// How long a session may take to end.
const LEAVE_TIME: Duration = Duration::from_secs(2);
/// What anyone may read of a server that there is no connection to.
const UNREACHABLE: &str = "not connected to NATS Streaming: NATS cannot be reached";

/// Why a session is over.
enum Over {
    /// It is time to leave.
    Leaving,
    /// Another process has the name.
    Standby,
    /// Something went wrong.
    Trouble(String),
    /// The server itself: what it says may name hosts.
    Unreachable(String),
}

impl From<SessionError> for Over {
    fn from(error: SessionError) -> Self {
        match error {
            SessionError::Taken => Self::Standby,
            error => Self::Trouble(error.to_string()),
        }
    }
}

/// How a channel is read that is handed over.
struct Reading {
    subscription: Subscription,
    order: Order<MsgProto>,
    /// Nothing was ever read before, so that nothing can have been missed.
    is_fresh: bool,
    /// Delivered by the durable, and not acknowledged.
    unacknowledged: BTreeSet<u64>,
    /// The last message of the channel, as of the last look.
    last: u64,
    /// Whether anything came since that look.
    has_arrived: bool,
}

pub(super) struct Consumer {
    config: Config,
    metrics: StanMetrics,
    gate: Gate,
    handover: Handover,
    mailbox: Arc<Mailbox>,
    /// Connections lost so far.
    losses: Arc<AtomicU64>,
    /// Whether the partition is the other side's.
    is_assigned: bool,
    /// What the other side said and is not dealt with: from where to start, that the position was
    /// moved by another process, that the partition is given back.
    start: Option<Option<u64>>,
    is_fenced: bool,
    is_released: bool,
    /// Everything below is durable.
    durable: u64,
    is_stopping: bool,
    is_leaving: bool,
    is_standby: bool,
    last_warning: LastWarning,
}

impl Consumer {
    pub(super) fn new(
        config: Config,
        metrics: StanMetrics,
        gate: Gate,
        events: mpsc::Sender<Event>,
        mailbox: Arc<Mailbox>,
    ) -> Self {
        gate.close("not connected to NATS Streaming");
        Self {
            config,
            metrics,
            gate,
            handover: Handover::new(events),
            mailbox,
            losses: Arc::default(),
            is_assigned: false,
            start: None,
            is_fenced: false,
            is_released: false,
            durable: 0,
            is_stopping: false,
            is_leaving: false,
            is_standby: false,
            last_warning: LastWarning::default(),
        }
    }

    /// Runs until it is told to leave. Then what is durable is acknowledged, and the durable is
    /// left as it is.
    pub(super) async fn run(mut self) {
        let mut client = None;
        let mut pauses = Pauses::of_consumer();
        loop {
            let begun = Instant::now();
            let over = self.one_session(&mut client).await;
            let is_unreachable = matches!(over, Over::Unreachable(_));
            let wait = match over {
                Over::Leaving => return,
                Over::Standby => {
                    self.stand_by();
                    about(STANDBY_PAUSE)
                }
                Over::Trouble(trouble) | Over::Unreachable(trouble) => {
                    // What went well may do so again at once.
                    if !pauses.has_lasted(begun) {
                        self.gate.close_with(if is_unreachable { UNREACHABLE } else { &trouble }, &trouble);
                    }
                    self.warn(&trouble);
                    pauses.jittered()
                }
            };
            if self.give_back().await.is_err() || self.meanwhile(tokio::time::sleep(wait)).await.is_err() {
                return;
            }
        }
    }

    /// From the connection to the end of a session.
    async fn one_session(&mut self, client: &mut Option<Client>) -> Over {
        let connected = if let Some(client) = client {
            client.clone()
        } else {
            let (servers, options) = (self.config.servers.clone(), self.options());
            match self.meanwhile(Box::pin(async move { servers.connect(options).await })).await {
                Err(over) => return over,
                Ok(Err(error)) => {
                    return Over::Unreachable(format!("{UNREACHABLE}: {}", said(&error)));
                }
                Ok(Ok(connected)) => client.insert(connected).clone(),
            }
        };
        let losses = self.losses.load(Ordering::Acquire);
        let (cluster, name) = (self.config.cluster.clone(), self.config.client.clone());
        let opening = Box::pin(async move { Session::open(connected, &cluster, &name).await });
        let session = match self.meanwhile(opening).await {
            Err(over) => return over,
            Ok(Err(SessionError::Taken)) => return Over::Standby,
            Ok(Err(error)) => return Over::Trouble(format!("not connected to NATS Streaming: {error}")),
            Ok(Ok(session)) => session,
        };
        self.is_standby = false;
        self.metrics.standby.set(0);
        tracing::info!(cluster = self.config.cluster, client = self.config.client, "connected to NATS Streaming");
        let over = match Box::pin(self.read(&session, losses)).await {
            Ok(never) => match never {},
            Err(over) => over,
        };
        // The server closes by name alone: a session that was lost may be closed already, and the
        // name another process's. Such a one is left to the server, which finds out when a client
        // comes.
        if matches!(over, Over::Leaving) {
            let closed = tokio::time::timeout(LEAVE_TIME, session.close()).await;
            if !matches!(closed, Ok(Ok(()))) {
                tracing::debug!("the session was not closed; the server finds out by itself");
            }
        }
        over
    }

    fn options(&self) -> ConnectOptions {
        let (losses, reconnects) = (Arc::clone(&self.losses), self.metrics.reconnects.clone());
        let place = self.config.servers.place();
        ConnectOptions::new().event_callback(move |event| {
            match event {
                async_nats::Event::Connected => {
                    if losses.load(Ordering::Acquire) > 0 {
                        reconnects.inc();
                    }
                }
                async_nats::Event::Disconnected => {
                    losses.fetch_add(1, Ordering::AcqRel);
                    tracing::warn!(servers = place, "connection to NATS lost");
                }
                event => tracing::debug!(%event, "NATS"),
            }
            std::future::ready(())
        })
    }

    /// Waits for something, and hears the other side meanwhile.
    async fn meanwhile<T>(&mut self, waited: impl Future<Output = T>) -> Result<T, Over> {
        let mut waited = pin!(waited);
        let mailbox = Arc::clone(&self.mailbox);
        loop {
            self.read_mail();
            self.handover.flush(self.is_stopping);
            if self.is_leaving {
                return Err(Over::Leaving);
            }
            let room = self.handover.room();
            tokio::select! {
                biased;
                () = mailbox.wait() => {}
                () = room, if !self.handover.is_empty() => {}
                done = &mut waited => return Ok(done),
            }
        }
    }

    /// As [`Self::meanwhile`], as long as the session lasts.
    async fn within<T>(&mut self, session: &Session, waited: impl Future<Output = T>) -> Result<T, Over> {
        let both = async {
            tokio::select! {
                biased;
                reason = session.lost() => Err(lost_session(&reason)),
                done = waited => Ok(done),
            }
        };
        self.meanwhile(both).await?
    }

    /// Waits until what the last session has handed over is durable, or void.
    async fn give_back(&mut self) -> Result<(), Over> {
        if !self.is_assigned {
            return Ok(());
        }
        self.handover.drop_records();
        self.is_released = false;
        self.handover.push(Event::Revoked(PARTITION));
        self.until(None, |this| this.is_released).await?;
        self.is_assigned = false;
        Ok(())
    }

    /// Waits for a word of the other side, as long as the session lasts, if there is one.
    async fn until(&mut self, session: Option<&Session>, is_said: impl Fn(&Self) -> bool) -> Result<(), Over> {
        let mailbox = Arc::clone(&self.mailbox);
        loop {
            self.read_mail();
            self.handover.flush(self.is_stopping);
            if self.is_leaving {
                return Err(Over::Leaving);
            }
            if is_said(self) {
                return Ok(());
            }
            let room = self.handover.room();
            let lost = async {
                match session {
                    Some(session) => session.lost().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                () = mailbox.wait() => {}
                () = room, if !self.handover.is_empty() => {}
                reason = lost => return Err(lost_session(&reason)),
            }
        }
    }

    /// Reads the channel for as long as the session lasts.
    async fn read(&mut self, session: &Session, losses: u64) -> Result<std::convert::Infallible, Over> {
        loop {
            self.is_fenced = false;
            let stored = self.stored_position(session).await?;
            let next = stored.unwrap_or(1).max(1);
            let last = self.last(session).await?;
            if next > last + 1 {
                self.stop_reading(next, last);
                self.within(session, tokio::time::sleep(STOPPED_PAUSE)).await?;
                continue;
            }
            self.metrics.stopped.set(0);
            self.durable = next;
            let wanted = Wanted {
                subject: self.config.subject.clone(),
                durable: self.config.durable.clone(),
                start: Start::Sequence,
                sequence: next,
                in_flight_max: self.config.in_flight_max,
                ack_wait: self.config.ack_wait,
            };
            let subscription = self.within(session, session.subscribe(&wanted)).await??;
            let Config { subject, durable, .. } = &self.config;
            tracing::info!(channel = subject, durable, next, end = last, "reading the channel");
            let mut reading = Reading {
                subscription,
                order: Order::new(next),
                is_fresh: stored.is_none(),
                unacknowledged: BTreeSet::new(),
                last,
                has_arrived: true,
            };
            self.note_lag(&reading);
            let read = Box::pin(self.receive(session, &mut reading, losses)).await;
            self.acknowledge(session, &mut reading).await;
            read?;
            // Another process has moved the position: it begins again from where that is.
            self.handover.drop_records();
            self.within(session, session.close_subscription(reading.subscription)).await??;
        }
    }

    /// Has the partition assigned, and waits for the position that is stored.
    async fn stored_position(&mut self, session: &Session) -> Result<Option<u64>, Over> {
        self.start = None;
        self.handover.push(Event::Assigned(PARTITION));
        self.is_assigned = true;
        self.until(Some(session), |this| this.start.is_some()).await?;
        Ok(self.start.take().flatten())
    }

    /// The sequence of the channel's last message, 0 where it has none.
    async fn last(&mut self, session: &Session) -> Result<u64, Over> {
        let asked = last_of(session, self.config.subject.clone());
        Ok(self.within(session, asked).await??)
    }

    /// Receives until the position is another process's. Errors end the session.
    async fn receive(&mut self, session: &Session, reading: &mut Reading, losses: u64) -> Result<(), Over> {
        let mailbox = Arc::clone(&self.mailbox);
        let mut look_at = tokio::time::Instant::now() + LOOK_EVERY;
        loop {
            self.read_mail();
            self.acknowledge(session, reading).await;
            self.handover.flush(self.is_stopping);
            if self.is_leaving {
                return Err(Over::Leaving);
            }
            if self.is_fenced {
                return Ok(());
            }
            if self.losses.load(Ordering::Acquire) != losses {
                // What was delivered meanwhile is lost, and would come again only after its time.
                return Err(Over::Trouble("the connection to NATS was lost".into()));
            }
            if let Some(hole) = reading.order.hole().filter(|_| self.has_room(reading)) {
                self.fill(session, reading, hole.end).await?;
                continue;
            }
            let room = self.handover.room();
            let is_receiving = self.has_room(reading) && !self.is_stopping;
            tokio::select! {
                biased;
                // 1. What the other side says comes first: acknowledgements make room.
                () = mailbox.wait() => {}
                // 2. It has room again.
                () = room, if !self.handover.is_empty() => {}
                // 3. A session that is lost delivers nothing.
                reason = session.lost() => return Err(lost_session(&reason)),
                // 4. How far the channel goes.
                () = tokio::time::sleep_until(look_at) => {
                    self.look(session, reading).await?;
                    let is_idle = reading.last < self.durable;
                    look_at = tokio::time::Instant::now() + if is_idle { LOOK_IDLE } else { LOOK_EVERY };
                }
                // 5. More only when everything before is handed over.
                message = reading.subscription.next(), if is_receiving => {
                    let Some(message) = message else {
                        return Err(Over::Trouble("the connection to NATS has ended".into()));
                    };
                    self.arrive(reading, message);
                    self.take_what_is_there(reading);
                    self.hand_over(reading);
                    look_at = look_at.min(tokio::time::Instant::now() + LOOK_EVERY);
                }
            }
        }
    }

    /// What has arrived with the first message is handed over with it.
    fn take_what_is_there(&mut self, reading: &mut Reading) {
        for _ in 1..CHUNK_ROWS {
            let next = pin!(reading.subscription.next()).now_or_never();
            let Some(Some(message)) = next else { return };
            self.arrive(reading, message);
        }
    }

    /// Takes a message of the durable.
    fn arrive(&mut self, reading: &mut Reading, message: MsgProto) {
        reading.has_arrived = true;
        if message.redelivered {
            self.metrics.redelivered.inc();
        }
        let sequence = message.sequence;
        reading.unacknowledged.insert(sequence);
        // What is behind is durable, or is on its way to be: acknowledged now, or then.
        let _: Place = reading.order.take(sequence, message);
    }

    /// Hands over what is in order.
    fn hand_over(&mut self, reading: &mut Reading) {
        let (mut records, mut bytes) = (Vec::new(), 0);
        while let Some((sequence, message)) = reading.order.pop() {
            reading.is_fresh = false;
            bytes += message.data.len();
            records.push(record(sequence, message));
            if records.len() >= CHUNK_ROWS || bytes >= CHUNK_BYTES {
                self.handover.push(Event::Records(std::mem::take(&mut records)));
                bytes = 0;
            }
        }
        if !records.is_empty() {
            self.handover.push(Event::Records(records));
        }
        self.handover.flush(self.is_stopping);
    }

    /// Whether more may be received: neither too many messages nor too many bytes are on their way.
    fn has_room(&self, reading: &Reading) -> bool {
        let in_flight = reading.order.next().saturating_sub(self.durable);
        in_flight < self.config.in_flight_max as u64 && self.handover.has_room()
    }

    /// Reads from the channel what is missing before `end`, as much as is read at once.
    async fn fill(&mut self, session: &Session, reading: &mut Reading, end: u64) -> Result<(), Over> {
        let from = reading.order.next();
        let until = end.min(from + FILL_ROWS);
        let filling = between(session, self.config.subject.clone(), from, until);
        let (found, first) = self.within(session, filling).await??;
        let skipped = reading.order.skip_to(first.min(end));
        if skipped > 0 && !reading.is_fresh {
            tracing::error!(
                partition = PARTITION,
                lost = skipped,
                "messages were deleted from the channel before they were read; going on after them"
            );
            self.metrics.lost.inc_by(skipped);
        }
        self.metrics.filled.inc_by(found.len() as u64);
        for message in found {
            reading.order.take(message.sequence, message);
        }
        self.hand_over(reading);
        Ok(())
    }

    /// Looks how far the channel goes, and sees to it that what is there is read, delivered or not.
    async fn look(&mut self, session: &Session, reading: &mut Reading) -> Result<(), Over> {
        let was_idle = !std::mem::take(&mut reading.has_arrived);
        let missing = reading.last;
        reading.last = self.last(session).await?;
        if reading.last + 1 < reading.order.next() {
            return Err(Over::Trouble("the channel was made again, or has lost messages".into()));
        }
        self.note_lag(reading);
        // What was there at the last look already, and has not come since.
        if was_idle && missing >= reading.order.next() && self.has_room(reading) && !self.is_stopping {
            self.fill(session, reading, missing + 1).await?;
        }
        Ok(())
    }

    fn note_lag(&self, reading: &Reading) {
        let lag = (reading.last + 1).saturating_sub(self.durable);
        self.metrics.lag.set(i64::try_from(lag).unwrap_or(i64::MAX));
        judge_lag(&self.gate, lag, self.config.lag_max);
    }

    /// Acknowledges what is durable. What does not get through is delivered again.
    async fn acknowledge(&self, session: &Session, reading: &mut Reading) {
        let rest = reading.unacknowledged.split_off(&self.durable);
        let durable = std::mem::replace(&mut reading.unacknowledged, rest);
        let sending = async {
            for sequence in durable {
                session.acknowledge(&reading.subscription, sequence).await?;
            }
            Ok::<_, SessionError>(())
        };
        acknowledge(sending).await;
    }

    /// The channel ends before the stored position. Looks again later: one of them may have been
    /// put right.
    fn stop_reading(&mut self, next: u64, last: u64) {
        let channel = &self.config.subject;
        let reason = format!(
            "channel {channel} ends at {last}, and orders up to {} are stored: it lost messages, or the store is of \
             another cluster; restore the channel, or name another durable to read it from its start",
            next - 1
        );
        tracing::error!(channel, "{reason}");
        self.metrics.stopped.set(1);
        self.gate.close(&reason);
    }

    /// Another process has the client's name, and reads.
    fn stand_by(&mut self) {
        if !self.is_standby {
            tracing::info!(client = self.config.client, "another process reads already, standing by");
        }
        self.is_standby = true;
        self.metrics.standby.set(1);
        self.gate.open();
    }

    /// Takes in what the other side said.
    fn read_mail(&mut self) {
        let said = self.mailbox.drain();
        if let Some(committed) = said.committed {
            self.durable = self.durable.max(committed.next(PARTITION));
        }
        if let Some((_, stored)) = said.start {
            self.start = Some(stored);
        }
        self.is_fenced |= said.fenced.is_some();
        self.is_released |= said.is_released;
        self.is_stopping |= said.is_stopping;
        self.is_leaving |= said.is_leaving;
    }

    fn warn(&mut self, trouble: &str) {
        if self.last_warning.is_news(trouble) {
            tracing::warn!(cluster = self.config.cluster, trouble, "trouble with NATS Streaming, trying again");
        }
    }
}

fn lost_session(reason: &str) -> Over {
    Over::Trouble(format!("the session with NATS Streaming is lost: {reason}"))
}

fn record(sequence: u64, message: MsgProto) -> Record {
    let mut record = Record::new(Position { partition: PARTITION, offset: sequence }, message.data);
    record.timestamp_ms = Some(message.timestamp / 1_000_000);
    record
}
