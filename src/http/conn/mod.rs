//! Connections: how long they may take, and which of them a stop waits for. One sweep over all of them every quarter
//! of a second takes the place of a timer per request: a timer costs 1,448 instructions a request, these marks a few
//! dozen. What a sweep closes is in `sweep`; who reads from a connection when, in `socket`.

mod sweep;

use std::future::poll_fn;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicI32, AtomicU8, AtomicU32, Ordering};
use std::sync::{Arc, Mutex, OnceLock};
use std::task::{Poll, Waker};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::task::AbortHandle;

use crate::sync::lock;

pub use sweep::Closed;

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

/// How many more requests than it lets be answered a client of HTTP/2 may take back.
const RESETS_MAX: i32 = 200;

/// How long after its last answer, and after whatever came since, a connection that is closed still takes what its
/// client sends, to throw it away: bytes that are not read have the system end the connection with a reset, which takes
/// the answer away from a client that has not read it yet. A client that goes on sending has [`Limits::write_time`] for
/// all of it. At a stop this is how long all of it may take, and how long the rest of a request's headers is waited for.
pub const LINGER_TIME: Duration = Duration::from_secs(1);

/// A request's headers are being read.
pub(super) const HEAD: u8 = 0;
/// A request is being answered.
pub(super) const BUSY: u8 = 1;
/// Between requests.
pub(super) const IDLE: u8 = 2;
/// Nothing has come yet.
pub(super) const FRESH: u8 = 3;
/// Nothing is sent any more, and what comes is thrown away.
pub(super) const CLOSING: u8 = 4;

/// One connection, as the sweep sees it. Times are sweeps since the start; 0 is never.
pub struct Conn {
    pub(super) phase: AtomicU8,
    pub(super) since: AtomicU32,
    pub(super) blocked_since: AtomicU32,
    /// When nothing was sent any more.
    pub(super) closing_since: AtomicU32,
    /// The answer is a stream that may be quiet for long, so that only a look at the socket shows a client that left.
    pub(super) is_watched: AtomicBool,
    /// It is to close once nothing of a request is there.
    pub(super) is_unwanted: AtomicBool,
    /// Its end is all that tells a client of an older HTTP where the answer ends.
    pub(super) is_end_the_mark: AtomicBool,
    /// HTTP/2 is spoken: many requests at once.
    pub(super) is_multiplexed: AtomicBool,
    /// Requests being answered.
    pub(super) in_flight: AtomicU32,
    /// Answers of HTTP/2 of which a piece is ready that the client gives no room for.
    pub(super) held_up: AtomicU32,
    /// When an answer of HTTP/2 last went on.
    pub(super) went_on: AtomicU32,
    /// When bytes of HTTP/2 last left.
    pub(super) wrote_at: AtomicU32,
    /// When a connection of HTTP/2 was told to close.
    pub(super) dismissed_at: AtomicU32,
    /// How many more requests a client of HTTP/2 may take back.
    pub(super) resets_left: AtomicI32,
    /// Where the client is, of TCP.
    pub(super) address: Option<SocketAddr>,
    pub(super) waker: OnceLock<Waker>,
    pub(super) abort: OnceLock<AbortHandle>,
    pub(super) registry: Arc<Registry>,
}

/// All connections.
pub struct Registry {
    pub(super) limits: Limits,
    pub(super) now: AtomicU32,
    connections: Mutex<Slots>,
    /// The sweep at which a stop began; 0 is none.
    pub(super) stopping_since: AtomicU32,
    /// Listeners that may bring further connections.
    pub(super) accepting: AtomicU32,
    /// Listeners that wait for room.
    pub(super) waiting: AtomicU32,
    pub(super) sweep_now: Notify,
}

#[derive(Default)]
struct Slots {
    used: Vec<Option<Arc<Conn>>>,
    free: Vec<usize>,
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

    pub(super) fn is_over(&self, since: u32, limit: Duration) -> bool {
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

    pub(super) fn now(&self) -> u32 {
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

    pub(super) fn is_multiplexed(&self) -> bool {
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
    pub(super) fn quiet_since(&self) -> u32 {
        self.since.load(Ordering::Relaxed).max(self.wrote_at.load(Ordering::Relaxed))
    }

    /// Whether HTTP/2 was told to close so long ago, has no requests, and sends nothing any more.
    pub(super) fn is_left_over(&self, time: Duration) -> bool {
        let dismissed_at = self.dismissed_at.load(Ordering::Relaxed);
        dismissed_at != 0 && self.registry.is_over(dismissed_at.max(self.quiet_since()), time)
    }

    /// When anything of an answer of HTTP/2 last went on.
    pub(super) fn went_on_at(&self) -> u32 {
        self.went_on.load(Ordering::Relaxed).max(self.wrote_at.load(Ordering::Relaxed))
    }

    pub(super) fn is_held_up(&self) -> bool {
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
    pub(super) fn dismiss(&self) -> bool {
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
    pub(super) fn lingers(&self) -> bool {
        let is_read = self.registry.is_over(self.since.load(Ordering::Relaxed), LINGER_TIME);
        !is_read && self.registry.waiting.load(Ordering::Relaxed) == 0
    }

    pub(super) fn close(&self) {
        if let Some(abort) = self.abort.get() {
            abort.abort();
        }
    }

    pub(super) fn has_read(&self) {
        match self.phase.load(Ordering::Relaxed) {
            IDLE => self.since.store(self.registry.now(), Ordering::Relaxed),
            FRESH => {}
            _ => return,
        }
        self.phase.store(HEAD, Ordering::Relaxed);
    }

    /// A request came and was answered at once.
    pub(super) fn has_answered(&self) {
        self.is_unwanted.store(false, Ordering::Relaxed);
        self.since.store(self.registry.now(), Ordering::Relaxed);
        self.phase.store(IDLE, Ordering::Relaxed);
    }

    /// Whether nothing has come yet.
    pub(super) fn is_fresh(&self) -> bool {
        self.phase.load(Ordering::Relaxed) == FRESH
    }

    /// Whether the client takes up nothing of what was answered.
    pub(super) fn is_blocked(&self) -> bool {
        self.blocked_since.load(Ordering::Relaxed) != 0
    }

    /// A client that sends more of its request has not gone quiet, even if it reads nothing of its answer before the end
    /// of that.
    pub(super) fn has_sent(&self) {
        if self.is_blocked() {
            self.blocked_since.store(self.registry.now(), Ordering::Relaxed);
        }
    }

    pub(super) fn has_written(&self, is_blocked: bool) {
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
