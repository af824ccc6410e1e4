//! Connections of gRPC: HTTP/2 on hyper, how many at once, when one is closed, and the counting of its calls. Knows
//! nothing of what is called.

use std::convert::Infallible;
use std::pin::{Pin, pin};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use hyper::HeaderMap;
use hyper::body::{Body, Frame, Incoming, SizeHint};
use hyper::header::HeaderValue;
use hyper::server::conn::http2;
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, MissedTickBehavior};
use tonic::codegen::{BoxFuture, Service};
use tonic::server::NamedService;
use tonic::{Code, Status};

use super::Config;
use super::begun::Begun;
use super::deadline::Deadline;
use super::status;
use crate::access::address::Peer;
use crate::access::scope::Need;
use crate::access::{Access, Denied, Who, head};
use crate::listen::{Connection, Listener, Opened, Stream};
use crate::metrics::IntCounterVec;
use crate::process::lifecycle::Shutdown;
use crate::source::inbox::{Coming, Inbox};

/// Bytes of a request's headers.
const HEADER_BYTES_MAX: u32 = 16 << 10;
/// A client that is silent for this long is asked whether it lives.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(30);
/// And has this long to say so.
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(20);
/// What a client has to say something first, and for the handshake of TLS.
const OPEN_TIME: Duration = Duration::from_secs(10);
/// How long a connection is looked at for a request of HTTP/1.1. One that says nothing is served as any other after it.
const FIRST_TIME: Duration = Duration::from_secs(1);
/// How often a connection is looked at.
const SWEEP_TIME: Duration = Duration::from_millis(500);
/// What a connection that is to close has for its last bytes once nothing is being answered.
const FLUSH_TIME: Duration = Duration::from_secs(1);
/// What of a request takes no room on its way: about as much as comes in one piece.
const FREE_BYTES: usize = 16 << 10;
/// What the names of our calls begin with.
const PREFIX: &str = "/orders.service.v1.OrdersService/";
const METHODS: [&str; 4] = ["Health", "UpsertOrder", "GetOrderByID", "GetOrderByExternalID"];

type Answer = Response<tonic::body::Body>;
type Route = Box<dyn Fn(Request<Arriving>) -> BoxFuture<Answer, Infallible> + Send + Sync>;

/// What can be called, by the name of the service that answers. tonic's own would bring axum for these few.
#[derive(Default)]
pub struct Routes(Vec<(&'static str, Route)>);

impl Routes {
    /// And `service`, whose calls are named after it.
    #[must_use]
    pub fn and<S>(mut self, service: S) -> Self
    where
        S: Service<Request<Arriving>, Response = Answer, Error = Infallible, Future = BoxFuture<Answer, Infallible>>
            + NamedService
            + Clone
            + Send
            + Sync
            + 'static,
    {
        self.0.push((S::NAME, Box::new(move |request| service.clone().call(request))));
        self
    }

    async fn call(&self, request: Request<Arriving>) -> Answer {
        let name = request.uri().path().strip_prefix('/').and_then(|path| Some(path.split_once('/')?.0));
        match self.0.iter().find(|(known, _)| Some(*known) == name) {
            Some((_, route)) => match route(request).await {
                Ok(answer) => answer,
            },
            None => Status::unimplemented("no such service").into_http(),
        }
    }
}

/// The way from a request to its answer. Clones share it.
#[derive(Clone)]
pub struct Door {
    routes: Arc<Routes>,
    access: Arc<Access>,
    inbox: Inbox,
    calls: IntCounterVec,
    call_time: Duration,
}

impl Door {
    /// Answers from `routes`; no call of ours takes longer than `call_time`, and what clients send takes room in `inbox`
    /// while it is on its way.
    #[must_use]
    pub fn new(routes: Routes, access: Arc<Access>, inbox: Inbox, calls: IntCounterVec, call_time: Duration) -> Self {
        Self { routes: Arc::new(routes), access, inbox, calls, call_time }
    }

    async fn answer(
        self,
        mut request: Request<Incoming>,
        peer: Arc<Peer>,
        activity: Arc<Activity>,
        shutdown: Shutdown,
    ) -> Result<Response<Held>, Infallible> {
        let now = Instant::now();
        let path = request.uri().path();
        // Streams of the standard services last as long as their clients want: they keep no connection open.
        let call = (!path.starts_with("/grpc.")).then(|| activity.begin());
        let method = path.strip_prefix(PREFIX).and_then(|name| METHODS.into_iter().find(|known| *known == name));
        let deadline = Deadline::read(request.headers(), now);
        request.extensions_mut().insert(deadline);
        let end = deadline.0.unwrap_or(now + self.call_time).min(now + self.call_time);
        let request_id = head::request_id(request.headers());
        let mut response = match self.admit(&peer, request.headers(), method, &request_id).await {
            Err(status) => status.into_http(),
            Ok(who) => {
                request.extensions_mut().insert(who.with_request_id(request_id.to_str().unwrap_or_default()));
                let request = request.map(|body| Arriving { body, coming: self.inbox.coming(), bytes: 0 });
                let answer = tokio::time::timeout_at(end, self.routes.call(request)).await;
                answer.unwrap_or_else(|_| Status::deadline_exceeded("the call took too long").into_http())
            }
        };
        response.headers_mut().insert(head::X_REQUEST_ID, request_id);
        let code = status::name(code_of(&response));
        self.calls.with_label_values(&[method.unwrap_or("other"), code]).inc();
        let end = call.is_none().then(|| stopped(shutdown));
        Ok(response.map(|body| Held { body, _call: call, end }))
    }
}

impl Door {
    /// Lets a call in, or not.
    async fn admit(
        &self,
        peer: &Peer,
        headers: &HeaderMap,
        method: Option<&str>,
        request_id: &HeaderValue,
    ) -> Result<Who, Status> {
        let need = match method {
            Some("UpsertOrder") => Need::Write,
            Some("GetOrderByID" | "GetOrderByExternalID") => Need::Read,
            // Health, and what the standard services tell anyone.
            _ => Need::Probe,
        };
        let admitted = match head::admit(&self.access, peer, headers, need) {
            Err(Denied::KeysUnknown) => head::admit_later(&self.access, peer, headers, need).await,
            known => known,
        };
        admitted.map_err(|refusal| {
            let status = status::not_let_in(&refusal);
            let asked = ("gRPC", method.unwrap_or("other"), None);
            let of = (status::name(status.code()), request_id.to_str().unwrap_or_default());
            head::note_refusal(&self.access, (peer, headers), &refusal, asked, of);
            status
        })
    }
}

/// A call that fails says so in its headers; one that is answered, after its answer.
fn code_of<B>(response: &Response<B>) -> Code {
    match response.headers().get(Status::GRPC_STATUS) {
        Some(code) => Code::from_bytes(code.as_bytes()),
        None if response.status().is_success() => Code::Ok,
        None => Code::Unknown,
    }
}

/// Takes connections until `shutdown` and then those that the system has taken by then. Returns when the last one is
/// closed.
pub async fn accept(config: Arc<Config>, door: Door, listener: Listener, shutdown: Shutdown) {
    let room = Arc::new(Semaphore::new(config.connections_max as usize));
    let serve = |connection: Connection, permit: OwnedSemaphorePermit| {
        let (config, door, shutdown) = (Arc::clone(&config), door.clone(), shutdown.clone());
        let mut stop = shutdown.clone();
        tokio::spawn(async move {
            let _permit = permit;
            let opened = tokio::select! {
                opened = open(connection, &door.access) => opened,
                () = async { stop.wait().await; tokio::time::sleep(FLUSH_TIME).await } => None,
            };
            if let Some((stream, peer)) = opened {
                serve_connection(&config, door, stream, peer, shutdown).await;
            }
        });
    };
    let accepting = async {
        loop {
            let permit = Arc::clone(&room).acquire_owned().await.expect("never closed");
            match listener.accept().await {
                Ok(connection) => serve(connection, permit),
                Err(error) => {
                    // Out of file descriptors, most likely: serving those we have is the way out.
                    tracing::warn!(%error, "accept failed");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                }
            }
        }
    };
    let mut stop = shutdown.clone();
    tokio::select! {
        () = accepting => {}
        () = stop.wait() => {}
    }
    if let Ok(mut rest) = listener.end() {
        loop {
            let permit = Arc::clone(&room).acquire_owned().await.expect("never closed");
            let Some(connection) = rest.next() else { break };
            serve(connection, permit);
        }
    }
    // Each connection holds one.
    let _closed = room.acquire_many(config.connections_max).await;
}

/// Has the handshake of a connection done, and what a trusted proxy says in front of it read.
async fn open(mut connection: Connection, access: &Access) -> Option<(Stream, Peer)> {
    let address = connection.address().map(|address| address.ip());
    let peer = Peer::of(access.proxies(), address, connection.socket(), OPEN_TIME).await;
    let peer = peer.inspect_err(|error| tracing::debug!(%error, "a connection of a proxy is closed")).ok()?;
    let Opened { stream, certificate } = connection.open(OPEN_TIME).await?;
    Some((stream, Peer { certificate, ..peer }))
}

/// Serves one connection until its client hangs up, until it was idle for too long or until a stop. After either of
/// these it takes no more calls, finishes those it has, and is closed.
async fn serve_connection(config: &Config, door: Door, socket: Stream, peer: Peer, mut shutdown: Shutdown) {
    // What has arrived before a stop is answered, so a stop ends the look at it and nothing else.
    let until = async {
        let _ = tokio::time::timeout(FIRST_TIME, shutdown.clone().wait()).await;
    };
    let Some(socket) = Begun::of(socket, until).await else { return };
    let peer = Arc::new(peer);
    let activity = Arc::new(Activity::new());
    // Every call is answered by then, so anyone who is still at one does not read its answer.
    let stuck_time = door.call_time + config.idle_time;
    let service = service_fn({
        let (activity, shutdown) = (Arc::clone(&activity), shutdown.clone());
        move |request| door.clone().answer(request, Arc::clone(&peer), Arc::clone(&activity), shutdown.clone())
    });
    let connection = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .max_concurrent_streams(config.streams_max)
        .max_header_list_size(HEADER_BYTES_MAX)
        .keep_alive_interval(KEEP_ALIVE_INTERVAL)
        .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
        .serve_connection(TokioIo::new(socket), service);
    let mut connection = pin!(connection);
    let mut sweep = tokio::time::interval(SWEEP_TIME);
    sweep.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut is_closing = false;
    loop {
        tokio::select! {
            biased;
            // 1. Bytes both ways. Broken connections are the client's affair.
            _ = connection.as_mut() => return,
            // 2. A stop.
            () = shutdown.wait(), if !is_closing => {
                is_closing = true;
                activity.touch();
                connection.as_mut().graceful_shutdown();
            }
            // 3. Time that passes.
            _ = sweep.tick() => match activity.idle() {
                None if activity.quiet() >= stuck_time => return,
                Some(idle) if is_closing && idle >= FLUSH_TIME => return,
                Some(idle) if !is_closing && idle >= config.idle_time => {
                    is_closing = true;
                    activity.touch();
                    connection.as_mut().graceful_shutdown();
                }
                _ => {}
            }
        }
    }
}

/// What a connection is doing.
struct Activity {
    opened: Instant,
    calls: AtomicUsize,
    /// When a call began or ended last, in milliseconds since the connection was opened.
    last_ms: AtomicU64,
}

impl Activity {
    fn new() -> Self {
        Self { opened: Instant::now(), calls: AtomicUsize::new(0), last_ms: AtomicU64::new(0) }
    }

    fn begin(self: &Arc<Self>) -> Call {
        self.calls.fetch_add(1, Ordering::Relaxed);
        self.touch();
        Call(Arc::clone(self))
    }

    fn touch(&self) {
        self.last_ms.store(self.elapsed_ms(), Ordering::Relaxed);
    }

    /// For how long there was no call. `None` while there is one.
    fn idle(&self) -> Option<Duration> {
        (self.calls.load(Ordering::Relaxed) == 0).then(|| self.quiet())
    }

    /// For how long no call has begun or ended.
    fn quiet(&self) -> Duration {
        Duration::from_millis(self.elapsed_ms().saturating_sub(self.last_ms.load(Ordering::Relaxed)))
    }

    fn elapsed_ms(&self) -> u64 {
        u64::try_from(self.opened.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

/// A call that is being answered, until it is dropped.
struct Call(Arc<Activity>);

impl Drop for Call {
    fn drop(&mut self) {
        self.0.touch();
        self.0.calls.fetch_sub(1, Ordering::Relaxed);
    }
}

/// What a client sends, which takes room among all that is on its way as it comes.
pub struct Arriving {
    body: Incoming,
    coming: Coming,
    bytes: usize,
}

impl Body for Arriving {
    type Data = Bytes;
    type Error = Box<dyn std::error::Error + Send + Sync>;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let frame = std::task::ready!(Pin::new(&mut self.body).poll_frame(context));
        if let Some(Ok(frame)) = &frame {
            self.bytes += frame.data_ref().map_or(0, Bytes::len);
            let bytes = self.bytes;
            if bytes > FREE_BYTES
                && let Err(full) = self.coming.grow(bytes)
            {
                return Poll::Ready(Some(Err(status::not_taken(full).into())));
            }
        }
        Poll::Ready(frame.map(|frame| frame.map_err(Into::into)))
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// The body of an answer, which is being given until its end.
struct Held {
    body: tonic::body::Body,
    _call: Option<Call>,
    /// A stop, which ends the streams of the standard services: they have no end of their own.
    end: Option<Pin<Box<dyn Future<Output = ()> + Send>>>,
}

fn stopped(mut shutdown: Shutdown) -> Pin<Box<dyn Future<Output = ()> + Send>> {
    Box::pin(async move { shutdown.wait().await })
}

impl Body for Held {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let frame = Pin::new(&mut self.body).poll_frame(context);
        if frame.is_pending()
            && let Some(end) = &mut self.end
            && end.as_mut().poll(context).is_ready()
        {
            (self.body, self.end) = (tonic::body::Body::empty(), None);
            let mut trailers = HeaderMap::new();
            Status::unavailable("the service is stopping").add_header(&mut trailers)?;
            return Poll::Ready(Some(Ok(Frame::trailers(trailers))));
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
