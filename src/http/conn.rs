//! Connections: how long they may take, and who reads from them when. One sweep over all of them every quarter of a second takes the place of a timer
//! per request: a timer costs 1,448 instructions a request, these marks a few dozen.

use std::future::poll_fn;
use std::io;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU8, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::Notify;
use tokio::task::AbortHandle;

use super::transport::Transport;
use crate::sync::lock;

/// How often connections are looked at. Every limit is kept to within this.
pub const SWEEP_EVERY: Duration = Duration::from_millis(250);

/// How long a connection may take.
#[derive(Debug, Clone)]
pub struct Limits {
    /// From the first byte of a request, or from the connection's start, to the end of the request's headers.
    pub header_time: Duration,
    /// Between an answer and the next request.
    pub idle_time: Duration,
    /// For a client that does not read to take up anything at all of an answer, or to send more of its request.
    pub write_time: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            // Slow networks need seconds; a client that needs more is not one.
            header_time: Duration::from_secs(10),
            // Above the usual 60 s of proxies in front, so that they close first.
            idle_time: Duration::from_secs(75),
            write_time: Duration::from_secs(30),
        }
    }
}

/// Bytes of answers held back for company.
pub const HELD_BYTES_MAX: usize = 64 << 10;
/// The largest answer that is held back: larger ones are worth more than the copy.
pub const HELD_PIECE_MAX: usize = 16 << 10;
/// How often one connection is read from before others have their turn; hyper has the same number.
const READS_MAX: usize = 16;
/// The longest beginning of a request that hyper does not see yet. hyper's buffer has room for twice as much.
const PART_BYTES_MAX: usize = 4 << 10;
/// How many more requests than it lets be answered a client of HTTP/2 may take back.
const RESETS_MAX: i32 = 200;

/// How long after its last answer, and after whatever came since, a connection that is closed still takes what its
/// client sends, to throw it away: bytes that are not read have the system end the connection with a reset, which takes
/// the answer away from a client that has not read it yet. A client that goes on sending has [`Limits::write_time`] for
/// all of it. At a stop this is how long all of it may take, and how long the rest of a request's headers is waited for.
pub const LINGER_TIME: Duration = Duration::from_secs(1);
/// Of a client that sends more than this after its last answer nothing more is waited for.
const LINGER_BYTES_MAX: usize = 16 << 20;

/// A request's headers are being read.
const HEAD: u8 = 0;
/// A request is being answered.
const BUSY: u8 = 1;
/// Between requests.
const IDLE: u8 = 2;
/// Nothing has come yet.
const FRESH: u8 = 3;
/// Nothing is sent any more, and what comes is thrown away.
const CLOSING: u8 = 4;

/// One connection, as the sweep sees it. Times are sweeps since the start; 0 is never.
pub struct Conn {
    phase: AtomicU8,
    since: AtomicU32,
    blocked_since: AtomicU32,
    /// When nothing was sent any more.
    closing_since: AtomicU32,
    /// The answer is a stream that may be quiet for long, so that only a look at the socket shows a client that left.
    is_watched: AtomicBool,
    /// It is to close once nothing of a request is there.
    is_unwanted: AtomicBool,
    /// Its end is all that tells a client of an older HTTP where the answer ends.
    is_end_the_mark: AtomicBool,
    /// HTTP/2 is spoken: many requests at once.
    is_multiplexed: AtomicBool,
    /// Requests being answered.
    in_flight: AtomicU32,
    /// Answers of HTTP/2 of which a piece is ready that the client gives no room for.
    held_up: AtomicU32,
    /// When an answer of HTTP/2 last went on.
    went_on: AtomicU32,
    /// When bytes of HTTP/2 last left.
    wrote_at: AtomicU32,
    /// When a connection of HTTP/2 was told to close.
    dismissed_at: AtomicU32,
    /// How many more requests a client of HTTP/2 may take back.
    resets_left: AtomicI32,
    /// Where the client is, of TCP.
    address: Option<SocketAddr>,
    waker: OnceLock<Waker>,
    abort: OnceLock<AbortHandle>,
    registry: Arc<Registry>,
}

/// All connections.
pub struct Registry {
    limits: Limits,
    now: AtomicU32,
    connections: Mutex<Slots>,
    /// The sweep at which a stop began; 0 is none.
    stopping_since: AtomicU32,
    /// Listeners that may bring further connections.
    accepting: AtomicU32,
    /// Listeners that wait for room.
    waiting: AtomicU32,
    sweep_now: Notify,
}

#[derive(Default)]
struct Slots {
    used: Vec<Option<Arc<Conn>>>,
    free: Vec<usize>,
}

/// Why connections were closed by a sweep.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Closed {
    /// Headers took too long.
    pub header: u64,
    /// No request came.
    pub idle: u64,
    /// The client did not read.
    pub write: u64,
    /// Idle, and another client wanted in.
    pub evicted: u64,
}

impl Registry {
    /// No connections yet.
    #[must_use]
    pub fn new(limits: Limits) -> Arc<Self> {
        Arc::new(Self {
            limits,
            now: AtomicU32::new(1),
            connections: Mutex::default(),
            stopping_since: AtomicU32::new(0),
            accepting: AtomicU32::new(0),
            waiting: AtomicU32::new(0),
            sweep_now: Notify::new(),
        })
    }

    /// Adds a connection; it is removed when the returned value is dropped.
    pub fn register(self: &Arc<Self>, address: Option<SocketAddr>) -> Registered {
        let conn = Arc::new(Conn {
            phase: AtomicU8::new(FRESH),
            since: AtomicU32::new(self.now()),
            blocked_since: AtomicU32::new(0),
            closing_since: AtomicU32::new(0),
            is_watched: AtomicBool::new(false),
            is_unwanted: AtomicBool::new(self.is_stopping()),
            is_end_the_mark: AtomicBool::new(false),
            is_multiplexed: AtomicBool::new(false),
            in_flight: AtomicU32::new(0),
            held_up: AtomicU32::new(0),
            went_on: AtomicU32::new(self.now()),
            wrote_at: AtomicU32::new(0),
            dismissed_at: AtomicU32::new(0),
            resets_left: AtomicI32::new(RESETS_MAX),
            address,
            waker: OnceLock::new(),
            abort: OnceLock::new(),
            registry: Arc::clone(self),
        });
        let mut slots = lock(&self.connections);
        let slot = slots.free.pop().unwrap_or_else(|| {
            slots.used.push(None);
            slots.used.len() - 1
        });
        slots.used[slot] = Some(Arc::clone(&conn));
        Registered { conn, slot }
    }

    /// Whether answers are to be the last of their connections.
    #[must_use]
    pub fn is_stopping(&self) -> bool {
        self.stopping_since.load(Ordering::Relaxed) != 0
    }

    /// Closes connections from now on: at once where nothing of a request is there, every other after its answer.
    pub fn stop(&self) {
        self.stopping_since.store(self.now(), Ordering::Relaxed);
        self.sweep_now.notify_one();
    }

    /// A listener brings connections until the returned value is dropped.
    #[must_use]
    pub fn accept(self: &Arc<Self>) -> Accepting {
        self.accepting.fetch_add(1, Ordering::Relaxed);
        Accepting(Arc::clone(self))
    }

    /// Whether a stop has to wait: for every connection, as each closes by itself, but no longer than [`LINGER_TIME`]
    /// for those whose request is still to come.
    #[must_use]
    pub fn is_busy(&self) -> bool {
        let is_late = self.is_over(self.stopping_since.load(Ordering::Relaxed), LINGER_TIME);
        let holds = |conn: &Arc<Conn>| !is_late || conn.phase.load(Ordering::Relaxed) != HEAD || conn.is_blocked();
        let slots = lock(&self.connections);
        slots.used.iter().flatten().any(holds) || self.accepting.load(Ordering::Relaxed) > 0
    }

    fn is_over(&self, since: u32, limit: Duration) -> bool {
        since != 0 && SWEEP_EVERY * self.now().saturating_sub(since) > limit
    }

    /// There is no room for another connection: sweeps make some by closing those idle for longest, until the returned
    /// value is dropped. One sweep is not enough where no connection is idle yet.
    #[must_use]
    pub fn make_room(self: &Arc<Self>) -> Waiting {
        self.waiting.fetch_add(1, Ordering::Relaxed);
        self.sweep_now.notify_one();
        Waiting(Arc::clone(self))
    }

    /// Sweeps until dropped; `report` is told what each sweep closed.
    pub async fn sweep_for_ever(&self, mut report: impl FnMut(Closed)) {
        let mut every = tokio::time::interval(SWEEP_EVERY);
        // After a stop of the machine, sweeps made up for would age connections that nothing was wrong with.
        every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = every.tick() => { self.now.fetch_add(1, Ordering::Relaxed); }
                () = self.sweep_now.notified() => {}
            }
            report(self.sweep());
        }
    }

    fn sweep(&self) -> Closed {
        let mut closed = Closed::default();
        let (is_stopping, is_full) = (self.is_stopping(), self.waiting.load(Ordering::Relaxed) > 0);
        let is_over = |since: u32, limit: Duration| self.is_over(since, limit);
        let mut idle = Vec::new();
        let slots = lock(&self.connections);
        for conn in slots.used.iter().flatten() {
            let since = conn.since.load(Ordering::Relaxed);
            let phase = conn.phase.load(Ordering::Relaxed);
            let count = match phase {
                HEAD | FRESH if is_over(since, self.limits.header_time) => &mut closed.header,
                _ if is_over(conn.blocked_since.load(Ordering::Relaxed), self.limits.write_time) => &mut closed.write,
                _ if conn.is_held_up() && is_over(conn.went_on_at(), self.limits.write_time) => &mut closed.write,
                _ if conn.is_blocked() => continue,
                BUSY if is_stopping && conn.is_multiplexed() => {
                    // It takes no more requests, and ends with the last answer.
                    conn.dismiss();
                    continue;
                }
                CLOSING => {
                    let most = if is_stopping { LINGER_TIME } else { self.limits.write_time };
                    let is_long = is_over(conn.closing_since.load(Ordering::Relaxed), most);
                    if is_full || is_long || is_over(since, LINGER_TIME) {
                        conn.close();
                    }
                    continue;
                }
                // It was told to close, and something of an answer is left that finds no room.
                IDLE if conn.is_left_over(if is_stopping { LINGER_TIME } else { self.limits.write_time }) => {
                    conn.close();
                    continue;
                }
                IDLE | FRESH
                    if is_stopping || (phase == IDLE && is_over(conn.quiet_since(), self.limits.idle_time)) =>
                {
                    closed.idle += u64::from(conn.dismiss());
                    continue;
                }
                IDLE => {
                    idle.push((since, conn));
                    continue;
                }
                _ => continue,
            };
            *count += 1;
            conn.close();
        }
        if is_full && closed == Closed::default() {
            idle.sort_unstable_by_key(|(since, _)| *since);
            for (_, conn) in idle.iter().take(slots.used.len().div_ceil(100)) {
                closed.evicted += u64::from(conn.dismiss());
            }
        }
        closed
    }

    fn now(&self) -> u32 {
        self.now.load(Ordering::Relaxed)
    }
}

impl Conn {
    /// A request's headers are complete; it is being answered until the returned value is dropped.
    #[must_use]
    pub fn begin(self: &Arc<Self>) -> InFlight {
        self.in_flight.fetch_add(1, Ordering::Relaxed);
        self.is_unwanted.store(false, Ordering::Relaxed);
        self.phase.store(BUSY, Ordering::Relaxed);
        InFlight(Arc::clone(self))
    }

    /// HTTP/2 is spoken from now on.
    pub fn multiplex(&self) {
        self.is_multiplexed.store(true, Ordering::Relaxed);
    }

    fn is_multiplexed(&self) -> bool {
        self.is_multiplexed.load(Ordering::Relaxed)
    }

    /// Whether it is to close once nothing is being answered.
    #[must_use]
    pub fn is_unwanted(&self) -> bool {
        self.is_unwanted.load(Ordering::Relaxed)
    }

    /// Completes when it is to close, and has had a moment more. To be awaited in the connection's
    /// own task.
    pub async fn until_unwanted(&self) {
        poll_fn(|_| if self.is_unwanted() { Poll::Ready(()) } else { Poll::Pending }).await;
        tokio::time::sleep(LINGER_TIME).await;
    }

    /// A piece of an answer of HTTP/2 waits until the client gives room for it, or does so no more.
    pub fn hold_up(&self, is_held_up: bool) {
        if is_held_up {
            self.held_up.fetch_add(1, Ordering::Relaxed);
        } else {
            self.held_up.fetch_sub(1, Ordering::Relaxed);
        }
        self.went_on.store(self.registry.now(), Ordering::Relaxed);
    }

    /// Since when nothing was asked or, of HTTP/2, sent: what is kept of an answer leaves after
    /// that is done.
    fn quiet_since(&self) -> u32 {
        self.since.load(Ordering::Relaxed).max(self.wrote_at.load(Ordering::Relaxed))
    }

    /// Whether HTTP/2 was told to close so long ago, has no requests, and sends nothing any more.
    fn is_left_over(&self, time: Duration) -> bool {
        let dismissed_at = self.dismissed_at.load(Ordering::Relaxed);
        dismissed_at != 0 && self.registry.is_over(dismissed_at.max(self.quiet_since()), time)
    }

    /// When anything of an answer of HTTP/2 last went on.
    fn went_on_at(&self) -> u32 {
        self.went_on.load(Ordering::Relaxed).max(self.wrote_at.load(Ordering::Relaxed))
    }

    fn is_held_up(&self) -> bool {
        self.held_up.load(Ordering::Relaxed) > 0
    }

    /// A request of HTTP/2 is answered to its end, or was taken back before that. A client that
    /// takes back many more than it lets be answered is cut off: each costs what an answer costs,
    /// and it nothing.
    pub fn settle(&self, is_whole: bool) {
        if is_whole {
            if self.resets_left.load(Ordering::Relaxed) < RESETS_MAX {
                self.resets_left.fetch_add(1, Ordering::Relaxed);
            }
        } else if self.resets_left.fetch_sub(1, Ordering::Relaxed) <= 0 {
            self.close();
        }
    }

    /// From now to the end of the answer, a client that closes its side ends the connection.
    pub fn watch(&self) {
        self.is_watched.store(true, Ordering::Relaxed);
    }

    /// The answer has no end of its own: HTTP/1.0 has no chunks.
    pub fn end_is_the_mark(&self) {
        self.is_end_the_mark.store(true, Ordering::Relaxed);
    }

    /// Sets what has the connection's task look again.
    pub fn set_waker(&self, waker: &Waker) {
        let _ = self.waker.set(waker.clone()); // once, when the task begins: it has the same to its end
    }

    /// Sets what ends the connection's task.
    pub fn set_abort(&self, abort: AbortHandle) {
        // Set once, right after the task is spawned.
        let _ = self.abort.set(abort);
    }

    /// Has the connection close in order unless a request has come. Says whether that is news.
    fn dismiss(&self) -> bool {
        let is_news = !self.is_unwanted.swap(true, Ordering::Relaxed);
        if is_news && self.is_multiplexed() {
            self.dismissed_at.store(self.registry.now(), Ordering::Relaxed);
        }
        if let Some(waker) = self.waker.get() {
            waker.wake_by_ref();
        }
        is_news
    }

    /// Whether a client may still have to read its last answer, and there is room to wait for that.
    fn lingers(&self) -> bool {
        let is_read = self.registry.is_over(self.since.load(Ordering::Relaxed), LINGER_TIME);
        !is_read && self.registry.waiting.load(Ordering::Relaxed) == 0
    }

    fn close(&self) {
        if let Some(abort) = self.abort.get() {
            abort.abort();
        }
    }

    fn has_read(&self) {
        match self.phase.load(Ordering::Relaxed) {
            IDLE => self.since.store(self.registry.now(), Ordering::Relaxed),
            FRESH => {}
            _ => return,
        }
        self.phase.store(HEAD, Ordering::Relaxed);
    }

    /// A request came and was answered at once.
    fn has_answered(&self) {
        self.is_unwanted.store(false, Ordering::Relaxed);
        self.since.store(self.registry.now(), Ordering::Relaxed);
        self.phase.store(IDLE, Ordering::Relaxed);
    }

    /// Whether nothing has come yet.
    fn is_fresh(&self) -> bool {
        self.phase.load(Ordering::Relaxed) == FRESH
    }

    /// Whether the client takes up nothing of what was answered.
    fn is_blocked(&self) -> bool {
        self.blocked_since.load(Ordering::Relaxed) != 0
    }

    /// A client that sends more of its request has not gone quiet, even if it reads nothing of its answer before the end
    /// of that.
    fn has_sent(&self) {
        if self.is_blocked() {
            self.blocked_since.store(self.registry.now(), Ordering::Relaxed);
        }
    }

    fn has_written(&self, is_blocked: bool) {
        let blocked_since = self.blocked_since.load(Ordering::Relaxed);
        if is_blocked && blocked_since == 0 {
            self.blocked_since.store(self.registry.now(), Ordering::Relaxed);
        } else if !is_blocked && blocked_since != 0 {
            self.blocked_since.store(0, Ordering::Relaxed);
        }
    }
}

/// A listener that may bring connections.
pub struct Accepting(Arc<Registry>);

impl Drop for Accepting {
    fn drop(&mut self) {
        self.0.accepting.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A listener that waits for room.
pub struct Waiting(Arc<Registry>);

impl Drop for Waiting {
    fn drop(&mut self) {
        self.0.waiting.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A connection's place among all.
pub struct Registered {
    /// The connection.
    pub conn: Arc<Conn>,
    slot: usize,
}

impl Drop for Registered {
    fn drop(&mut self) {
        let mut slots = lock(&self.conn.registry.connections);
        slots.used[self.slot] = None;
        slots.free.push(self.slot);
    }
}

/// A request being answered, until its body is sent or dropped.
pub struct InFlight(Arc<Conn>);

impl Drop for InFlight {
    fn drop(&mut self) {
        if self.0.in_flight.fetch_sub(1, Ordering::Relaxed) > 1 {
            return;
        }
        self.0.since.store(self.0.registry.now(), Ordering::Relaxed);
        self.0.is_watched.store(false, Ordering::Relaxed);
        self.0.phase.store(IDLE, Ordering::Relaxed);
    }
}

/// What was done about the requests at the front of what a client sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Consumed {
    /// Bytes of requests that are answered.
    pub bytes: usize,
    /// What follows them.
    pub rest: Remainder,
}

/// What follows the requests that are answered.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Remainder {
    /// Nothing.
    Nothing,
    /// Perhaps more of the same: there are [`HELD_BYTES_MAX`] of answers now.
    Unseen,
    /// The beginning of a request.
    Part,
    /// A request for someone else, with its body this many bytes long if that is known.
    Other(Option<usize>),
    /// The beginning of HTTP/2.
    Http2,
    /// The beginning of TLS.
    Tls,
}

/// How HTTP/2 begins, by prior knowledge. hyper would take a part of it for a bad request.
pub const PREFACE: &[u8] = b"PRI * HTTP/2.0";

/// Answers that are held back: bytes, and what follows them, which is shared with others and not copied.
#[derive(Debug, Default)]
pub struct Held {
    /// Answers, one behind the other.
    pub bytes: Vec<u8>,
    /// The body of the last of them, where that is large. Nothing may be appended before it is sent.
    pub body: Bytes,
    /// How much of both is sent.
    sent: usize,
}

impl Held {
    fn is_empty(&self) -> bool {
        self.bytes.is_empty() && self.body.is_empty()
    }

    /// What is still to be sent.
    fn left(&self) -> [io::IoSlice<'_>; 2] {
        let of_bytes = self.sent.min(self.bytes.len());
        let of_body = self.sent - of_bytes;
        [io::IoSlice::new(&self.bytes[of_bytes..]), io::IoSlice::new(&self.body[of_body..])]
    }

    fn clear(&mut self) {
        self.bytes.clear();
        self.body = Bytes::new();
        self.sent = 0;
        if self.bytes.capacity() > HELD_PIECE_MAX {
            self.bytes = Vec::new(); // an idle connection keeps no large buffer
        }
    }
}

/// What stands before hyper on a connection.
pub trait Front {
    /// Answers the requests at the front of `requests`, as far as it does, by appending to `answers`, which has no body.
    /// Once it has one, nothing more is appended.
    fn answer(&mut self, requests: &[u8], answers: &mut Held) -> Consumed;

    /// hyper has appended to `answers` while no request is being answered. That is the end of an answer whose request is
    /// done, or the refusal of a head that it could not read.
    fn refused(&mut self, answers: &mut Vec<u8>);
}

/// Whose requests are read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum ReadOwner {
    /// Ours as far as we can answer them; hyper has read none that it has not answered.
    FastPath,
    /// hyper has exactly one request, whole.
    HyperOnce,
    /// hyper may have begun to read one that follows.
    Hyper,
    /// HTTP/2 is spoken, of which everything is hyper's.
    Http2,
}

/// A socket that marks what happens on it, and holds answers back as long as more requests of the same pipeline wait to
/// be answered: they leave together. hyper's own `pipeline_flush` does that too, but without any limit, and it forgets
/// answers while half a request is waiting.
///
/// `front` sees requests before hyper does: it is given what a client sent and appends the answers of those it answers.
/// From the first that it does not, hyper reads on; once that one is answered and nothing of the next was read with it,
/// it is `front`'s turn again.
pub struct Tracked<F, S: Transport> {
    socket: S,
    registered: Registered,
    front: F,
    owner: ReadOwner,
    /// The beginning of a request that no one else has seen.
    part: Vec<u8>,
    held: Held,
    /// hyper has more to write than it could.
    is_behind: bool,
    /// Bytes that came after the last answer.
    thrown_away: usize,
}

impl<F: Front, S: Transport> Tracked<F, S> {
    /// Tracks a socket.
    #[must_use]
    pub fn new(socket: S, registered: Registered, front: F) -> Self {
        let (part, held) = (Vec::new(), Held::default());
        Self { socket, registered, front, owner: ReadOwner::FastPath, part, held, is_behind: false, thrown_away: 0 }
    }

    /// HTTP/2 is spoken from now on: all is hyper's.
    pub fn begin_http2(&mut self) {
        self.owner = ReadOwner::Http2;
        self.registered.conn.multiplex();
    }

    /// Whether the client has begun HTTP/2.
    #[must_use]
    pub fn is_http2(&self) -> bool {
        self.owner == ReadOwner::Http2
    }

    /// The connection.
    #[must_use]
    pub fn conn(&self) -> &Arc<Conn> {
        &self.registered.conn
    }

    /// Whether nothing is held back, here or in what encrypts.
    fn is_all_sent(&self) -> bool {
        self.held.is_empty() && !(S::KEEPS && self.socket.has_unsent())
    }

    /// What a client begins with is no HTTP/1.1: HTTP/2 goes on as such, TLS is let go. Whether that is
    /// so: behind requests, or what was no beginning of one, hyper refuses it.
    #[cold]
    fn begin_other(&mut self, rest: Remainder, bytes: &[u8], had_part: bool) -> bool {
        let is_first = had_part || self.registered.conn.is_fresh();
        match rest {
            Remainder::Http2 if is_first => {
                self.part.extend_from_slice(bytes);
                self.begin_http2();
            }
            Remainder::Tls if is_first => {
                crate::listen::note_tls(self.registered.conn.address);
                self.owner = ReadOwner::Hyper;
            }
            _ => return false,
        }
        true
    }

    /// The first bytes of HTTP/2, and what follows them.
    fn poll_read_http2(&mut self, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.part.is_empty() {
            return Pin::new(&mut self.socket).poll_read(context, into);
        }
        let count = self.part.len().min(into.remaining());
        into.put_slice(&self.part[..count]);
        self.part.drain(..count);
        Poll::Ready(Ok(()))
    }

    /// Whether hyper waits for a request and has nothing to write.
    fn is_our_turn(&mut self) -> bool {
        if self.owner == ReadOwner::HyperOnce
            && self.registered.conn.phase.load(Ordering::Relaxed) == IDLE
            && !self.is_behind
        {
            self.owner = ReadOwner::FastPath;
        }
        self.owner == ReadOwner::FastPath
    }

    /// Whether the connection is to close and nothing has come that is to be answered before. The system is asked: what
    /// tokio knows of the socket may be older than that.
    fn is_dismissed(&self) -> bool {
        self.registered.conn.is_unwanted() && self.socket.is_quiet()
    }

    /// Answers what comes until there is no more of it, or something for hyper, which is left in `into`.
    fn poll_quick(&mut self, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let from = into.filled().len();
        for _ in 0..READS_MAX {
            if !self.held.body.is_empty() || self.registered.conn.is_blocked() {
                // A client that does not read is not read from, and nothing is appended behind a body.
                std::task::ready!(self.poll_send(context))?;
            }
            into.put_slice(&self.part);
            let known = into.filled().len();
            match Pin::new(&mut self.socket).poll_read(context, into) {
                Poll::Pending => {
                    into.set_filled(from);
                    // What is held leaves now. If it cannot yet, this is called again when it can.
                    std::task::ready!(self.poll_send(context))?;
                    if self.part.is_empty() && self.is_dismissed() {
                        self.owner = ReadOwner::Hyper;
                        return Poll::Ready(Ok(())); // to hyper, the end of what the client sends
                    }
                    return Poll::Pending;
                }
                Poll::Ready(Err(error)) => return Poll::Ready(Err(error)),
                Poll::Ready(Ok(())) if into.filled().len() == known => {
                    // The client sends no more; hyper says what that means, also for the beginning of a request.
                    self.owner = ReadOwner::Hyper;
                    if known == from
                        && let Poll::Ready(Err(error)) = self.poll_send(context)
                    {
                        return Poll::Ready(Err(error));
                    }
                    return Poll::Ready(Ok(()));
                }
                Poll::Ready(Ok(())) => {}
            }
            self.part.clear();
            let mut at = from;
            let rest = loop {
                let taken = self.front.answer(&into.filled()[at..], &mut self.held);
                at += taken.bytes;
                if taken.rest != Remainder::Unseen {
                    break taken.rest;
                }
                if self.poll_send(context)?.is_pending() {
                    break Remainder::Other(None);
                }
            };
            if at > from {
                self.registered.conn.has_answered();
            }
            let left = into.filled().len() - at;
            match rest {
                // Who sends a request in more than two pieces is no quicker for our trying.
                // To hyper as it reads now, the end of what the client sends.
                Remainder::Http2 | Remainder::Tls
                    if at == from && self.begin_other(rest, &into.filled()[from..], known > from) =>
                {
                    into.set_filled(from);
                    return Poll::Ready(Ok(()));
                }
                Remainder::Part
                    if (known == from || PREFACE.starts_with(&into.filled()[at..])) && left <= PART_BYTES_MAX =>
                {
                    self.registered.conn.has_read();
                    self.part.extend_from_slice(&into.filled()[at..]);
                }
                Remainder::Part | Remainder::Other(_) | Remainder::Http2 | Remainder::Tls => {
                    self.registered.conn.has_read();
                    self.owner =
                        if rest == Remainder::Other(Some(left)) { ReadOwner::HyperOnce } else { ReadOwner::Hyper };
                    into.filled_mut().copy_within(at.., from);
                    into.set_filled(from + left);
                    return Poll::Ready(Ok(()));
                }
                Remainder::Nothing | Remainder::Unseen => {}
            }
            into.set_filled(from);
        }
        context.waker().wake_by_ref();
        if let Poll::Ready(Err(error)) = self.poll_send(context) {
            return Poll::Ready(Err(error));
        }
        Poll::Pending
    }

    /// Sends what is held back.
    fn poll_send(&mut self, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        // Spelled out: it is on the way of every hit.
        if self.held.is_empty() && !(S::KEEPS && self.socket.has_unsent()) {
            return Poll::Ready(Ok(()));
        }
        while self.held.sent < self.held.bytes.len() + self.held.body.len() {
            let result = Pin::new(&mut self.socket).poll_write_vectored(context, &self.held.left());
            self.registered.conn.has_written(result.is_pending());
            match std::task::ready!(result) {
                Ok(0) => return Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
                Ok(sent) => self.held.sent += sent,
                Err(error) => return Poll::Ready(Err(error)),
            }
        }
        if S::KEEPS && self.socket.has_unsent() {
            let flushed = Pin::new(&mut self.socket).poll_flush(context);
            self.registered.conn.has_written(flushed.is_pending());
            std::task::ready!(flushed)?;
        }
        self.held.clear();
        Poll::Ready(Ok(()))
    }
}

impl<F: Front + Unpin, S: Transport> AsyncRead for Tracked<F, S> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.is_our_turn() {
            return self.poll_quick(context, into);
        }
        if self.owner == ReadOwner::Http2 {
            return self.poll_read_http2(context, into);
        }
        let before = into.filled().len();
        let result = Pin::new(&mut self.socket).poll_read(context, into);
        if into.filled().len() > before {
            self.owner = ReadOwner::Hyper;
            self.registered.conn.has_read();
            self.registered.conn.has_sent();
        } else {
            if !self.is_all_sent()
                // hyper wants a request and there is none: the pipeline is empty.
                && let Poll::Ready(Err(error)) = self.poll_send(context)
            {
                return Poll::Ready(Err(error));
            }
            let is_idle = self.registered.conn.phase.load(Ordering::Relaxed) == IDLE;
            if result.is_pending() && is_idle && self.is_all_sent() && self.is_dismissed() {
                return Poll::Ready(Ok(()));
            }
        }
        result
    }
}

impl<F: Front + Unpin, S: Transport> AsyncWrite for Tracked<F, S> {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, from: &[u8]) -> Poll<io::Result<usize>> {
        self.poll_write_vectored(context, &[io::IoSlice::new(from)])
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        from: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        if self.owner == ReadOwner::Http2 {
            let result = Pin::new(&mut self.socket).poll_write_vectored(context, from);
            let conn = &self.registered.conn;
            conn.has_written(result.is_pending());
            if result.is_ready() {
                conn.wrote_at.store(conn.registry.now(), Ordering::Relaxed);
            }
            return result;
        }
        let bytes = from.iter().map(|piece| piece.len()).sum::<usize>();
        self.is_behind = true; // until hyper flushes, which it does once nothing is left
        if bytes <= HELD_PIECE_MAX {
            if self.held.bytes.len() + bytes > HELD_BYTES_MAX || !self.held.body.is_empty() {
                std::task::ready!(self.poll_send(context))?;
            }
            for piece in from {
                self.held.bytes.extend_from_slice(piece);
            }
            if self.registered.conn.phase.load(Ordering::Relaxed) != BUSY {
                let Self { front, held, .. } = &mut *self;
                front.refused(&mut held.bytes);
            }
            return Poll::Ready(Ok(bytes));
        }
        std::task::ready!(self.poll_send(context))?;
        let result = Pin::new(&mut self.socket).poll_write_vectored(context, from);
        self.registered.conn.has_written(result.is_pending());
        result
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.owner == ReadOwner::Http2 {
            let flushed = Pin::new(&mut self.socket).poll_flush(context);
            if self.socket.has_unsent() {
                self.registered.conn.has_written(flushed.is_pending());
            }
            return flushed;
        }
        self.is_behind = false;
        // hyper comes here after every answer, and whenever it has nothing to send. Between two requests it will ask
        // for the next one, and what is held leaves then; while a request is being answered it may not ask for long.
        if self.registered.conn.phase.load(Ordering::Relaxed) == IDLE {
            return Poll::Ready(Ok(()));
        }
        // hyper does not read while it answers, so a stream's client that left would be noticed by the second heartbeat
        // only.
        if self.registered.conn.is_watched.load(Ordering::Relaxed) && self.socket.poll_gone(context) {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        self.poll_send(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        if self.registered.conn.phase.load(Ordering::Relaxed) != CLOSING {
            std::task::ready!(self.poll_send(context))?;
            std::task::ready!(Pin::new(&mut self.socket).poll_shutdown(context))?;
            let conn = &self.registered.conn;
            conn.is_end_the_mark.store(false, Ordering::Relaxed);
            if !conn.lingers() {
                return Poll::Ready(Ok(()));
            }
            conn.closing_since.store(conn.registry.now(), Ordering::Relaxed);
            conn.phase.store(CLOSING, Ordering::Relaxed);
        }
        // Until the client closes too, or a sweep finds that it had long enough.
        for _ in 0..READS_MAX {
            let mut scratch = [0; 4096];
            let mut into = ReadBuf::new(&mut scratch);
            let read = std::task::ready!(Pin::new(&mut self.socket).poll_read(context, &mut into));
            if read.is_err() || into.filled().is_empty() {
                return Poll::Ready(Ok(()));
            }
            let count = into.filled().len();
            self.thrown_away = self.thrown_away.saturating_add(count);
            if self.thrown_away <= LINGER_BYTES_MAX {
                let conn = &self.registered.conn;
                conn.since.store(conn.registry.now(), Ordering::Relaxed);
            }
        }
        context.waker().wake_by_ref();
        Poll::Pending
    }
}

impl<F, S: Transport> Drop for Tracked<F, S> {
    fn drop(&mut self) {
        if self.registered.conn.is_end_the_mark.load(Ordering::Relaxed) {
            // Closed in order, it would pass for a whole answer.
            self.socket.cut_off();
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_client_that_takes_up_nothing_of_its_answers_keeps_a_stop_waiting() {
        let registry = Registry::new(Limits::default());
        assert!(!registry.is_busy());
        let accepting = registry.accept();
        assert!(registry.is_busy(), "there may be more to come");
        drop(accepting);
        let registered = registry.register(None);
        let conn = &registered.conn;
        conn.has_read();
        assert!(registry.is_busy(), "the rest of a request is waited for");
        registry.stop();
        registry.now.fetch_add(100, Ordering::Relaxed);
        assert!(!registry.is_busy(), "but not for long");
        // Answered at once, which leaves no request under way, and held back because the client does not read.
        conn.has_answered();
        conn.has_read();
        conn.has_written(true);
        assert!(registry.is_busy(), "it would lose answers");
        conn.has_written(false);
        assert!(!registry.is_busy());
        let in_flight = conn.begin();
        assert!(registry.is_busy());
        drop(in_flight);
        assert!(registry.is_busy(), "it closes by itself");
        drop(registered);
        assert!(!registry.is_busy());
    }
}
