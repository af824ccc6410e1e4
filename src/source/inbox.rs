//! The source behind HTTP: a bounded queue whose every record has someone waiting for its reply.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::Bytes;
use foldhash::fast::RandomState;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

use super::{Parked, Received, Source, SourceError};
use crate::id::{OrderId, Version};
use crate::record::{Checkpoint, Condition, Idempotency, Position, Record, Rejection};
use crate::snapshot::{ChangeKind, Kind};
use crate::source::waiters::{Acks, Waiter};
use crate::store::{Answer, Outcome, Refusal};

/// How much may wait.
#[derive(Debug, Clone)]
pub struct Config {
    /// Orders waiting to be taken up. At 20,000 orders/s this is a fifth of a second.
    pub queue_rows_max: usize,
    /// Bytes of orders accepted and not yet answered.
    pub queue_bytes_max: usize,
}

impl Default for Config {
    fn default() -> Self {
        Self { queue_rows_max: 4096, queue_bytes_max: 64 << 20 }
    }
}

/// What the sender of an order is told.
#[derive(Debug)]
pub enum Reply {
    /// Durable and visible.
    Stored {
        /// The order.
        id: OrderId,
        /// Its new version; the old one when nothing changed.
        version: Version,
        /// Created, updated (also when nothing changed) or deleted.
        change: ChangeKind,
        /// A worker is to process this version, and says when it has.
        worker: Option<Waiter>,
    },
    /// The order was deleted before, which is final.
    WasDeleted {
        /// The order.
        id: OrderId,
        /// The version of its deletion.
        version: Version,
    },
    /// A valid order that cannot be stored.
    Refused {
        /// The order it was about.
        id: OrderId,
        /// Why.
        refusal: Refusal,
    },
    /// No valid order.
    Rejected(Rejection),
    /// The store lost its file, so that what is written would not last.
    StoreLost,
}

/// What a sender is told by [`Reply::StoreLost`]; which file it is, and where, is for the operator.
pub const STORE_LOST: &str = "the order is not stored: the file of the store was removed or replaced";

/// There is no room; try again shortly.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum SubmitError {
    /// The queue is at its limit of orders or bytes.
    #[error("the queue of incoming orders is full")]
    Full,
    /// The service takes no more orders.
    #[error("the service is stopping")]
    Stopping,
}

/// An order was taken and no one says what became of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NoReply {
    /// It may become durable yet.
    #[error("the order was taken but is not durable yet")]
    Slow,
    /// It may be durable or not.
    #[error("the service stopped before the order was durable")]
    Stopped,
}

/// Waits for what [`Inbox::submit`] promised, for at most `wait`. Anyone who stops waiting changes nothing: what was taken
/// is stored all the same.
///
/// # Errors
/// [`NoReply`].
pub async fn replied(reply: oneshot::Receiver<Reply>, wait: Duration) -> Result<Reply, NoReply> {
    match tokio::time::timeout(wait, reply).await {
        Ok(Ok(reply)) => Ok(reply),
        Ok(Err(_)) => Err(NoReply::Stopped),
        Err(_) => Err(NoReply::Slow),
    }
}

/// An order to be written, and what its sender says of the writing.
#[derive(Debug, Clone)]
pub struct Request {
    /// The order.
    pub payload: Bytes,
    /// The same request may come again.
    pub idempotency: Option<Idempotency>,
    /// What must be so for it to take effect.
    pub condition: Option<Condition>,
    /// Its sender may write orders of this owner only.
    pub owner: Option<Box<str>>,
}

impl From<Bytes> for Request {
    fn from(payload: Bytes) -> Self {
        Self { payload, idempotency: None, condition: None, owner: None }
    }
}

struct Submission {
    request: Request,
    reply: oneshot::Sender<Reply>,
    room: OwnedSemaphorePermit,
    arrived: Instant,
}

/// The sending side. Clones share the queue.
#[derive(Clone)]
pub struct Inbox {
    submissions: mpsc::Sender<Submission>,
    room: Arc<Semaphore>,
    /// Bodies that are on their way. They have room of their own: a client that does not send the rest of its body keeps
    /// none from being stored that is here.
    coming: Arc<Semaphore>,
    queue_bytes_max: usize,
}

/// Room for the bytes of a body that is on its way, given back when it is dropped.
pub struct Coming {
    inbox: Inbox,
    room: Option<OwnedSemaphorePermit>,
}

/// The receiving side, for the ingest loop.
pub struct InboxSource {
    name: &'static str,
    submissions: mpsc::Receiver<Submission>,
    waiting: HashMap<u64, (oneshot::Sender<Reply>, OwnedSemaphorePermit), RandomState>,
    taken: Vec<Submission>,
    next_ticket: u64,
    acks: Option<Acks>,
}

/// A new queue.
#[must_use]
pub fn inbox(config: &Config) -> (Inbox, InboxSource) {
    let (sender, receiver) = mpsc::channel(config.queue_rows_max);
    let queue_bytes_max = config.queue_bytes_max.min(Semaphore::MAX_PERMITS).min(u32::MAX as usize);
    let [room, coming] = [(); 2].map(|()| Arc::new(Semaphore::new(queue_bytes_max)));
    let source = InboxSource {
        name: "http",
        submissions: receiver,
        waiting: HashMap::default(),
        taken: Vec::new(),
        next_ticket: 0,
        acks: None,
    };
    (Inbox { submissions: sender, room, coming, queue_bytes_max }, source)
}

impl Inbox {
    /// Hands one order over if there is room now. The reply comes once the order is durable and visible, or not
    /// acceptable; a dropped sender means that the service stopped and the order's fate is unknown.
    ///
    /// # Errors
    /// [`SubmitError`]; the order was then not taken.
    pub fn submit(&self, request: impl Into<Request>) -> Result<oneshot::Receiver<Reply>, SubmitError> {
        let request = request.into();
        let cost = self.cost(request.payload.len());
        let room = Arc::clone(&self.room).try_acquire_many_owned(cost).map_err(|_| SubmitError::Full)?;
        let (reply, answer) = oneshot::channel();
        match self.submissions.try_send(Submission { request, reply, room, arrived: Instant::now() }) {
            Ok(()) => Ok(answer),
            Err(mpsc::error::TrySendError::Full(_)) => Err(SubmitError::Full),
            Err(mpsc::error::TrySendError::Closed(_)) => Err(SubmitError::Stopping),
        }
    }

    /// As [`Inbox::submit`], waiting for room. Cancel-safe: a dropped wait has submitted nothing.
    ///
    /// # Errors
    /// [`SubmitError::Stopping`].
    pub async fn submit_when_free(&self, request: impl Into<Request>) -> Result<oneshot::Receiver<Reply>, SubmitError> {
        let request = request.into();
        let cost = self.cost(request.payload.len());
        let room = Arc::clone(&self.room).acquire_many_owned(cost).await.map_err(|_| SubmitError::Stopping)?;
        let (reply, answer) = oneshot::channel();
        let submission = Submission { request, reply, room, arrived: Instant::now() };
        self.submissions.send(submission).await.map_err(|_| SubmitError::Stopping)?;
        Ok(answer)
    }

    /// Room for a body that is on its way; for none of its bytes yet.
    #[must_use]
    pub fn coming(&self) -> Coming {
        Coming { inbox: self.clone(), room: None }
    }

    /// An order larger than the whole queue takes all of it rather than none.
    fn cost(&self, bytes: usize) -> u32 {
        u32::try_from(bytes.min(self.queue_bytes_max)).expect("queue_bytes_max is at most u32::MAX")
    }
}

impl Coming {
    /// Takes room for so many bytes in all, if there is some now.
    ///
    /// # Errors
    /// [`SubmitError::Full`].
    pub fn grow(&mut self, bytes: usize) -> Result<(), SubmitError> {
        let more = self.more(bytes);
        if more > 0 {
            let room = Arc::clone(&self.inbox.coming).try_acquire_many_owned(more).map_err(|_| SubmitError::Full)?;
            self.take(room);
        }
        Ok(())
    }

    /// As [`Coming::grow`], waiting for room. To be called once for all there may ever be: two that have some and wait for more
    /// would wait for each other. Cancel-safe.
    pub async fn grow_when_free(&mut self, bytes: usize) {
        let more = self.more(bytes);
        if more > 0 {
            let room = Arc::clone(&self.inbox.coming).acquire_many_owned(more).await.expect("never closed");
            self.take(room);
        }
    }

    /// Gives it all back.
    pub fn clear(&mut self) {
        self.room = None;
    }

    fn more(&self, bytes: usize) -> u32 {
        let taken = self.room.as_ref().map_or(0, OwnedSemaphorePermit::num_permits);
        self.inbox.cost(bytes).saturating_sub(u32::try_from(taken).expect("was taken by the same limit"))
    }

    fn take(&mut self, room: OwnedSemaphorePermit) {
        match &mut self.room {
            Some(taken) => taken.merge(room),
            None => self.room = Some(room),
        }
    }
}

impl InboxSource {
    /// The same under another name.
    #[must_use]
    pub fn named(self, name: &'static str) -> Self {
        Self { name, ..self }
    }

    /// Has each writer of an envelope order told who else it may wait for.
    #[must_use]
    pub fn with_acks(mut self, acks: Option<Acks>) -> Self {
        self.acks = acks;
        self
    }

    fn reply(&mut self, position: Position, reply: Reply) {
        if let Some((waiting, _room)) = self.waiting.remove(&position.offset) {
            // Anyone who asked may have hung up; the order is stored all the same.
            let _ = waiting.send(reply);
        }
    }
}

impl Source for InboxSource {
    fn name(&self) -> Arc<str> {
        self.name.into()
    }

    fn is_log(&self) -> bool {
        false
    }

    fn must_exist(&self) -> bool {
        true
    }

    async fn recv(&mut self, into: &mut Vec<Record>) -> Result<Received, SourceError> {
        if self.submissions.recv_many(&mut self.taken, 1024).await == 0 {
            return Ok(Received::End);
        }
        for Submission { request, reply, room, arrived } in self.taken.drain(..) {
            let offset = self.next_ticket;
            self.next_ticket += 1;
            self.waiting.insert(offset, (reply, room));
            let position = Position { partition: 0, offset };
            let Request { payload, idempotency, condition, owner } = request;
            into.push(Record { idempotency, condition, owner, arrived, ..Record::new(position, payload) });
        }
        Ok(Received::Records)
    }

    fn commit(&mut self, _upto: &Checkpoint, outcomes: Vec<(Position, Outcome)>) {
        for (position, outcome) in outcomes {
            let mut reply = reply_to(&outcome);
            if let (Outcome::Stored { id, snapshot, .. }, Reply::Stored { worker, .. }) = (&outcome, &mut reply)
                && snapshot.kind() == Kind::Envelope
            {
                *worker = self.acks.as_ref().and_then(|acks| acks.expect(id, snapshot.version()));
            }
            self.reply(position, reply);
        }
    }

    fn reject(&mut self, record: &Record, rejection: &Rejection) -> Parked {
        self.reply(record.position, Reply::Rejected(rejection.clone()));
        Parked::Done(Ok(()))
    }

    fn refuse(&mut self, record: &Record) -> bool {
        self.reply(record.position, Reply::StoreLost);
        true
    }

    fn stop(&mut self) {
        self.submissions.close();
    }
}

fn reply_to(outcome: &Outcome) -> Reply {
    let (id, answer, version) = match outcome {
        Outcome::Stored { id, snapshot, change, .. } => (id, Answer::Changed(*change), snapshot.version()),
        Outcome::Unchanged { id, snapshot } => (id, Answer::Unchanged, snapshot.version()),
        Outcome::WasDeleted { id, snapshot } => (id, Answer::WasDeleted, snapshot.version()),
        Outcome::Repeated { id, answer, version, .. } => (id, *answer, *version),
        Outcome::Refused { id, refusal } => return Reply::Refused { id: id.clone(), refusal: refusal.clone() },
    };
    let id = id.clone();
    match answer {
        Answer::Changed(change) => Reply::Stored { id, version, change, worker: None },
        Answer::Unchanged => Reply::Stored { id, version, change: ChangeKind::Updated, worker: None },
        Answer::WasDeleted => Reply::WasDeleted { id, version },
    }
}
