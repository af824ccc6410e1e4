//! HTTP/2: the same answers over one connection for many requests, by hyper, with limits that leave
//! a client nothing to gain from taking requests back, from heads without end, or from windows that
//! never open.
//!
//! What of the limits is hyper's is said in [`serve`]. What is ours: a client that takes back many
//! more requests than it lets be answered is cut off ([`Conn::settle`]), and so is one that has all
//! its answers wait for room for as long as a client of HTTP/1.1 may read nothing
//! ([`Conn::hold_up`]). The sweep of [`super::conn`] does both.

use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::task::{Context, Poll};

use hyper::body::{Body as HttpBody, Frame, Incoming, SizeHint};
use hyper::header::CONTENT_LENGTH;
use hyper::server::conn::http2::Builder;
use hyper::service::Service;
use hyper::{Method, Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};

use super::body::{Body, Chunk, CutShort};
use super::conn::Conn;
use super::service::{Answering, ConnService, Hits};
use super::socket::Tracked;
use super::transport::Transport;

/// Requests of one connection at once; a client holds back the next ones.
const STREAMS_MAX: u32 = 128;
/// What a client may send of one request's body before it is read, and of all. A body is 1 MiB at
/// most unless set.
const STREAM_WINDOW_BYTES: u32 = 256 << 10;
const CONNECTION_WINDOW_BYTES: u32 = 1 << 20;
/// What is kept of one answer that the client has no room for yet.
const SEND_BUFFER_BYTES: usize = 64 << 10;
/// Requests taken back before they were seen, and streams that were ended for an error of the
/// client: more of either at once end the connection.
const PENDING_RESETS_MAX: usize = 20;
const ERROR_RESETS_MAX: usize = 100;

/// Serves one connection until its client hangs up or it is dismissed. Then it takes no more
/// requests, and ends when those it has are answered.
pub(super) async fn serve<S: Transport>(service: ConnService, socket: Tracked<Hits, S>) {
    let conn = Arc::clone(socket.conn());
    let header_bytes_max = u32::try_from(service.api.config.header_bytes_max).unwrap_or(u32::MAX);
    let connection = Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .auto_date_header(true)
        .max_concurrent_streams(STREAMS_MAX)
        .max_header_list_size(header_bytes_max)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .max_send_buf_size(SEND_BUFFER_BYTES)
        .max_pending_accept_reset_streams(PENDING_RESETS_MAX)
        .max_local_error_reset_streams(ERROR_RESETS_MAX)
        // The sweep closes what is idle or does not read.
        .keep_alive_interval(None)
        .serve_connection(TokioIo::new(socket), Multiplexed(service));
    let mut connection = pin!(connection);
    let mut is_closing = false;
    // Broken connections are the client's affair; there is nothing to do about them here.
    let _ = poll_fn(|context| {
        if !is_closing && conn.is_unwanted() {
            is_closing = true;
            connection.as_mut().graceful_shutdown();
        }
        connection.as_mut().poll(context)
    })
    .await;
}

/// Answers requests of which many are under way.
struct Multiplexed(ConnService);

impl Service<Request<Incoming>> for Multiplexed {
    type Response = Response<Flowing>;
    type Error = Infallible;
    type Future = Call;

    fn call(&self, request: Request<Incoming>) -> Call {
        let is_head = request.method() == Method::HEAD;
        let answering = self.0.call(request);
        Call { answering, is_head, settling: Some(Settling { conn: Arc::clone(&self.0.conn), is_whole: false }) }
    }
}

/// Says of a request how it ended.
struct Settling {
    conn: Arc<Conn>,
    is_whole: bool,
}

impl Drop for Settling {
    fn drop(&mut self) {
        self.conn.settle(self.is_whole);
    }
}

/// A request being answered.
struct Call {
    answering: Answering,
    /// hyper sends the body of an answer of HTTP/2 whatever was asked.
    is_head: bool,
    settling: Option<Settling>,
}

impl Future for Call {
    type Output = Result<Response<Flowing>, Infallible>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let Ok(mut answer) = std::task::ready!(Pin::new(&mut self.answering).poll(context));
        if self.is_head {
            if let Some(length) = answer.body().size_hint().exact().filter(|length| *length > 0) {
                answer.headers_mut().entry(CONTENT_LENGTH).or_insert_with(|| length.into());
            }
            answer.body_mut().leave_out();
        }
        let settling = self.settling.take().expect("polled once");
        Poll::Ready(Ok(answer.map(|body| Flowing::new(body, settling))))
    }
}

/// A body whose client may give no room for it.
struct Flowing {
    body: Body,
    is_held_up: bool,
    settling: Settling,
}

impl Flowing {
    fn new(body: Body, mut settling: Settling) -> Self {
        settling.is_whole = body.is_end_stream();
        let mut flowing = Self { body, is_held_up: false, settling };
        // Its head is sent; hyper asks for the body once there is room for some of it.
        flowing.hold_up(!flowing.settling.is_whole);
        flowing
    }

    fn hold_up(&mut self, is_held_up: bool) {
        if self.is_held_up != is_held_up {
            self.is_held_up = is_held_up;
            self.settling.conn.hold_up(is_held_up);
        }
    }
}

impl Drop for Flowing {
    fn drop(&mut self) {
        self.hold_up(false);
    }
}

impl HttpBody for Flowing {
    type Data = Chunk;
    type Error = CutShort;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Chunk>, CutShort>>> {
        let frame = Pin::new(&mut self.body).poll_frame(context);
        let is_end = matches!(frame, Poll::Ready(None)) || self.body.is_end_stream();
        self.settling.is_whole |= is_end;
        // hyper asks for more, or lets go of it, once the client has given room for some of this.
        self.hold_up(false);
        self.hold_up(matches!(frame, Poll::Ready(Some(Ok(_)))));
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
