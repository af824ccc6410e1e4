//! A socket between a client and hyper: what the client sends is offered to the hit path first, and
//! answers of a pipeline leave together. [`Tracked`] says who reads when.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::{Context, Poll};

use bytes::Bytes;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::conn::{BUSY, CLOSING, Conn, IDLE, Registered};
use super::transport::Transport;

/// Bytes of answers held back for company.
pub const HELD_BYTES_MAX: usize = 64 << 10;
/// The largest answer that is held back: larger ones are worth more than the copy.
pub const HELD_PIECE_MAX: usize = 16 << 10;
/// How often one connection is read from before others have their turn; hyper has the same number.
const READS_MAX: usize = 16;
/// The longest beginning of a request that hyper does not see yet. hyper's buffer has room for twice as much.
const PART_BYTES_MAX: usize = 4 << 10;
/// Of a client that sends more than this after its last answer nothing more is waited for.
const LINGER_BYTES_MAX: usize = 16 << 20;

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
    /// A request that hyper has to read, with its body this many bytes long if that is known.
    Other(Option<usize>),
    /// The beginning of HTTP/2.
    Http2,
    /// The beginning of TLS.
    Tls,
}

/// How HTTP/2 begins, by prior knowledge. hyper would take a part of it for a bad request.
const PREFACE: &[u8] = b"PRI * HTTP/2.0";

/// So much of it is no request any more for the parser, which knows HTTP/1.0 and 1.1.
const PREFACE_BYTES_MIN: usize = b"PRI * HTTP/2".len();

/// What something is that is no request of HTTP/1.1.
#[cold]
pub fn foreign(bytes: &[u8]) -> Remainder {
    if bytes.starts_with(PREFACE) {
        Remainder::Http2 // hyper reads the rest of it
    } else if bytes.len() >= PREFACE_BYTES_MIN && PREFACE.starts_with(bytes) {
        Remainder::Part
    } else if crate::listen::is_tls(bytes) {
        Remainder::Tls
    } else {
        if crate::access::address::is_proxy_header(bytes) {
            crate::listen::note_proxy();
        }
        Remainder::Other(None)
    }
}

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
    #[expect(clippy::too_many_lines, reason = "on the way of every hit, in one piece")]
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
