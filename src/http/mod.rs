//! HTTP/1.1 and HTTP/2 on bare hyper: listeners, connections, and the way from a request to its
//! answer.

pub mod accept;
pub mod body;
pub mod conditions;
pub mod conn;
pub mod events;
pub mod gate;
pub mod hit;
pub mod host;
mod http2;
pub mod orders;
pub mod page;
pub mod query;
pub mod refusal;
pub mod respond;
pub mod route;
pub mod transport;
pub mod write;

use std::borrow::Cow;
use std::cell::RefCell;
use std::convert::Infallible;
use std::future::{Future, poll_fn};
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use hyper::body::{Body as _, Incoming};
use hyper::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ALLOW, CONNECTION, CONTENT_TYPE, HeaderMap, HeaderValue,
    ORIGIN, VARY,
};
use hyper::http::request::Parts;
use hyper::service::Service;
use hyper::{Method, Request, Response, StatusCode, Version};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::AsyncWriteExt;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::access::address::Peer;
use crate::access::scope::Need;
use crate::access::{Access, Denied, LastPass, Who, head};
use crate::id::OrderId;
use crate::listen::{self, Bound, Connection, Endpoint, Listener};
use crate::metrics::Metrics;
use crate::process::lifecycle::{Readiness, Shutdown};
use crate::read::Reader;
use crate::source::inbox::Inbox;
use crate::tls;
use body::Body;
use conn::{Conn, Consumed, Front, Held, Limits, Registry, Tracked};
use orders::Lookup;
use query::Query;
use respond::{Answer, Face, Problem};
use route::{Allow, Route};
use transport::Transport;

/// The number of header fields hyper keeps room for on the stack.
const HEADERS_MAX: usize = 100;

/// Pages of every origin may read.
const ANY_ORIGIN: HeaderValue = HeaderValue::from_static("*");

/// How the service answers HTTP, with limits a public server can live with.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where to answer.
    pub listen: Vec<Endpoint>,
    /// Connections at once; the next ones wait while the longest idle are closed.
    pub connections_max: usize,
    /// Bytes of a request's head. A thousand UUIDs in `?ids=` are 37,000.
    pub header_bytes_max: usize,
    /// Header fields of a request.
    pub headers_max: usize,
    /// Time limits of connections.
    pub limits: Limits,
    /// Bytes of one order.
    pub order_bytes_max: usize,
    /// Bytes of one answer that has several orders.
    pub answer_bytes_max: usize,
    /// Time for a request's body, or for the next piece of a streamed one.
    pub body_time: Duration,
    /// How long a write waits to become durable before its client is told to try again.
    pub write_wait: Duration,
    /// How long a write waits for a worker to process it. It is durable before that.
    pub worker_wait: Duration,
    /// Event streams at once.
    pub streams_max: usize,
    /// How often an event stream says that it is alive.
    pub heartbeat: Duration,
    /// Origins whose pages may read; `*` is all of them, and none are none.
    pub cors_origins: Vec<HeaderValue>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            listen: vec![Endpoint::Tcp(SocketAddr::from(([127, 0, 0, 1], 8080)))],
            connections_max: 20_000,
            header_bytes_max: 64 << 10,
            headers_max: HEADERS_MAX,
            limits: Limits::default(),
            order_bytes_max: 1 << 20,
            answer_bytes_max: 64 << 20,
            body_time: Duration::from_secs(20),
            write_wait: Duration::from_secs(10),
            worker_wait: Duration::from_secs(5),
            streams_max: 2000,
            heartbeat: Duration::from_secs(15),
            cors_origins: vec![ANY_ORIGIN],
        }
    }
}

/// What answers need.
pub struct Api {
    /// How the service answers.
    pub config: Config,
    /// Looks orders up.
    pub reader: Reader,
    /// Takes orders in.
    pub inbox: Inbox,
    /// Counts.
    pub metrics: Metrics,
    /// Who is let in to what.
    pub access: Arc<Access>,
    /// Whether the process is ready.
    pub readiness: Readiness,
    /// Ends event streams.
    pub shutdown: Shutdown,
    /// Turns for event streams.
    pub streams: Arc<Semaphore>,
    /// Room for results of many writes that their clients do not read yet, in bytes.
    pub results: Arc<Semaphore>,
    /// Tells this process's event positions and list tags from those of others.
    pub epoch: String,
    /// When the process started.
    pub started: Instant,
    /// An answer depends on the page that asks for it.
    varies_by_origin: bool,
}

impl Api {
    /// Everything together.
    #[must_use]
    pub fn new(
        config: Config,
        reader: Reader,
        inbox: Inbox,
        metrics: Metrics,
        readiness: Readiness,
        shutdown: Shutdown,
    ) -> Self {
        let streams = Arc::new(Semaphore::new(config.streams_max));
        let results = Arc::new(Semaphore::new(write::RESULTS_BYTES_MAX));
        let epoch = format!("{:08x}", fastrand::u32(..));
        let varies_by_origin = !config.cors_origins.is_empty() && !config.cors_origins.contains(&ANY_ORIGIN);
        let started = Instant::now();
        let access = Access::open();
        Self {
            config,
            reader,
            inbox,
            metrics,
            access,
            readiness,
            shutdown,
            streams,
            results,
            epoch,
            started,
            varies_by_origin,
        }
    }

    /// Lets in who this says.
    #[must_use]
    pub fn with_access(self, access: Arc<Access>) -> Self {
        Self { access, ..self }
    }
}

/// What all threads that serve HTTP share.
pub struct Server {
    api: Arc<Api>,
    registry: Arc<Registry>,
    room: Arc<Semaphore>,
    is_swept: AtomicBool,
}

impl Server {
    /// A server that answers nothing yet.
    #[must_use]
    pub fn new(api: Api) -> Arc<Self> {
        let registry = Registry::new(api.config.limits.clone());
        let room = Arc::new(Semaphore::new(api.config.connections_max));
        Arc::new(Self { api: Arc::new(api), registry, room, is_swept: AtomicBool::new(false) })
    }

    /// Answers on `listeners` until `shutdown`, then finishes what is being answered and returns. Anyone who calls this
    /// bounds how long that may take. May be called by several runtimes.
    ///
    /// # Errors
    /// The runtime cannot take a listener.
    pub async fn serve(self: Arc<Self>, listeners: Vec<Bound>, mut shutdown: Shutdown) -> std::io::Result<()> {
        // One sweep is enough for the connections of all threads.
        let sweeper = (!self.is_swept.swap(true, Ordering::Relaxed)).then(|| tokio::spawn(sweep(Arc::clone(&self))));
        let mut accepting = tokio::task::JoinSet::new();
        for listener in listeners {
            let listener = listener.listen()?;
            accepting.spawn(accept(Arc::clone(&self), listener, shutdown.clone(), self.registry.accept()));
        }
        shutdown.wait().await;
        self.registry.stop();
        while self.registry.is_busy() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        if let Some(sweeper) = sweeper {
            sweeper.abort();
        }
        Ok(())
    }
}

async fn sweep(server: Arc<Server>) {
    let closed = &server.api.metrics.connections_closed;
    let report = |sweep: conn::Closed| {
        for (reason, count) in
            [("header", sweep.header), ("idle", sweep.idle), ("write", sweep.write), ("evicted", sweep.evicted)]
        {
            closed.with_label_values(&[reason]).inc_by(count);
        }
    };
    server.registry.sweep_for_ever(report).await;
}

/// Takes connections until `shutdown`, and then those that the system has taken by then.
async fn accept(server: Arc<Server>, listener: Listener, mut shutdown: Shutdown, _accepting: conn::Accepting) {
    loop {
        let permit = server.permit().await;
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = shutdown.wait() => break,
        };
        match accepted {
            Ok(connection) => server.take(connection, permit),
            Err(error) => {
                // Out of file descriptors, most likely: serving those we have is the way out.
                tracing::warn!(%error, "accept failed");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
    let Ok(mut rest) = listener.end() else { return };
    loop {
        let permit = server.permit().await;
        let Some(connection) = rest.next() else { return };
        server.take(connection, permit);
    }
}

impl Server {
    /// Room for one connection.
    async fn permit(&self) -> OwnedSemaphorePermit {
        if let Ok(permit) = Arc::clone(&self.room).try_acquire_owned() {
            return permit;
        }
        let _waiting = self.registry.make_room();
        Arc::clone(&self.room).acquire_owned().await.expect("never closed")
    }

    /// Serves a connection in a task of its own.
    fn take(&self, mut connection: Connection, permit: OwnedSemaphorePermit) {
        let registered = self.registry.register(connection.address());
        let conn = Arc::clone(&registered.conn);
        let (api, registry) = (Arc::clone(&self.api), Arc::clone(&self.registry));
        let mut service = ConnService { api, conn: Arc::clone(&conn), registry, peer: Arc::default() };
        let task = tokio::spawn(async move {
            service.api.metrics.connections.inc();
            let _permit = permit;
            let _open = Open(service.api.metrics.connections.clone());
            poll_fn(|context| {
                registered.conn.set_waker(context.waker());
                Poll::Ready(())
            })
            .await;
            let address = connection.address().map(|address| address.ip());
            let time = service.api.config.limits.header_time;
            let peer = tokio::select! {
                biased; // what is there already is answered in the end too
                peer = Peer::of(service.api.access.proxies(), address, connection.socket(), time) => peer,
                () = registered.conn.until_unwanted() => return,
            };
            match peer {
                Ok(peer) => service.peer = Arc::new(peer),
                Err(error) => return tracing::debug!(%error, "a connection of a proxy is closed"),
            }
            match connection {
                Connection::Tcp(socket, _) => serve_connection(service, socket, registered, false).await,
                Connection::Unix(socket) => serve_connection(service, socket, registered, false).await,
                // The sweep gives a handshake, and the head of a request after it, the time that a
                // head has without one.
                Connection::Tls(socket, peer, acceptor) => {
                    let stream = tokio::select! {
                        stream = listen::handshake(socket, peer, &acceptor) => stream,
                        () = registered.conn.until_unwanted() => None,
                    };
                    let Some(stream) = stream else { return };
                    if let Some(certificate) = tls::server::client_subject(&stream) {
                        let peer = Peer { certificate: Some(certificate), ..Peer::clone(&service.peer) };
                        service.peer = Arc::new(peer);
                    }
                    let is_http2 = tls::server::is_http2(&stream);
                    serve_connection(service, stream, registered, is_http2).await;
                }
            }
        });
        conn.set_abort(task.abort_handle());
    }
}

/// Counts a connection down whichever way it ends.
struct Open(prometheus::IntGauge);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.dec();
    }
}

async fn serve_connection<S: Transport>(service: ConnService, socket: S, registered: conn::Registered, is_http2: bool) {
    let hits = Hits {
        api: Arc::clone(&service.api),
        registry: Arc::clone(&service.registry),
        peer: Arc::clone(&service.peer),
        is_guarded: service.api.access.is_guarded(),
        last: RefCell::default(),
    };
    let mut socket = Tracked::new(socket, registered, hits);
    if is_http2 {
        socket.begin_http2();
        return Box::pin(http2::serve(service, socket)).await;
    }
    let config = &service.api.config;
    let mut builder = hyper::server::conn::http1::Builder::new();
    builder
        .auto_date_header(true)
        .half_close(true)
        // The sweep closes what is slow; hyper's own timer would cost 1,448 instructions a request.
        .header_read_timeout(None)
        .timer(TokioTimer::new())
        .ignore_invalid_headers(false)
        .keep_alive(true)
        .max_buf_size(config.header_bytes_max.max(8192))
        // Unbounded, and it forgets answers; `Tracked` gathers the answers of a pipeline instead.
        .pipeline_flush(false)
        .preserve_header_case(false)
        .title_case_headers(false);
    if config.headers_max != HEADERS_MAX {
        // Any number but hyper's own takes its header table from the stack to the heap, for every request.
        builder.max_headers(config.headers_max);
    }
    let mut connection = builder.serve_connection(TokioIo::new(socket), service.clone());
    // The end is ours: hyper drops a socket on which any request has named another protocol to go on with, and what is
    // held back with it.
    let served = poll_fn(|context| connection.poll_without_shutdown(context)).await;
    // Any other error cuts an answer short, or comes of a client that is gone.
    if served.is_ok() || served.is_err_and(|error| error.is_parse()) {
        let mut socket = connection.into_parts().io.into_inner();
        if socket.is_http2() {
            // Boxed: it is larger than all that is kept for a client of HTTP/1.1.
            return Box::pin(http2::serve(service, socket)).await;
        }
        // Broken connections are the client's affair; there is nothing to do about them here.
        let _ = socket.shutdown().await;
    }
}

/// What is answered without hyper.
struct Hits {
    api: Arc<Api>,
    registry: Arc<Registry>,
    peer: Arc<Peer>,
    is_guarded: bool,
    last: RefCell<LastPass>,
}

impl Front for Hits {
    fn answer(&mut self, requests: &[u8], answers: &mut Held) -> Consumed {
        if self.registry.is_stopping() {
            // hyper says that the connection ends with its next answer.
            return Consumed { bytes: 0, rest: hit::foreign(requests) };
        }
        if self.is_guarded {
            return hit::answer_guarded(&self.api, &self.peer, &self.last, requests, answers);
        }
        hit::answer(&self.api, requests, answers)
    }

    fn refused(&mut self, answers: &mut Vec<u8>) {
        if let Some(status) = refusal::complete(answers, &self.api.config) {
            // Which route it was for is not known, nor when it began.
            let (endpoint, method) = (Route::Unknown.endpoint(), route::METHODS.len() - 1);
            self.api.metrics.http.observe(endpoint, method, status.as_u16(), Duration::ZERO, 1);
        }
    }
}

/// One connection's way to its answers.
struct ConnService {
    api: Arc<Api>,
    conn: Arc<Conn>,
    registry: Arc<Registry>,
    peer: Arc<Peer>,
}

impl Clone for ConnService {
    fn clone(&self) -> Self {
        let (api, conn, registry) = (Arc::clone(&self.api), Arc::clone(&self.conn), Arc::clone(&self.registry));
        Self { api, conn, registry, peer: Arc::clone(&self.peer) }
    }
}

/// An answer that is ready, or that will be.
enum Answering {
    Ready(Option<Answer>),
    Later(Pin<Box<dyn Future<Output = Answer> + Send>>),
}

impl Future for Answering {
    type Output = Result<Answer, Infallible>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        match &mut *self {
            Self::Ready(answer) => Poll::Ready(Ok(answer.take().expect("polled once"))),
            Self::Later(future) => future.as_mut().poll(context).map(Ok),
        }
    }
}

impl Service<Request<Incoming>> for ConnService {
    type Response = Answer;
    type Error = Infallible;
    type Future = Answering;

    fn call(&self, request: Request<Incoming>) -> Answering {
        let started = Instant::now();
        let in_flight = self.conn.begin();
        let api = &self.api;
        let is_stopping = self.registry.is_stopping();
        let headers = request.headers();
        let route = route::route(request.method(), request.uri().path());
        let mut asked = Asked {
            endpoint: route.endpoint(),
            method: route::method_index(request.method()),
            is_old: request.version() < Version::HTTP_11,
            is_multiplexed: request.version() == Version::HTTP_2,
            started,
            request_id: head::request_id(headers),
            is_noted_if_refused: false,
            who: None,
            order: None,
        };
        let checked = within_limit(&api.config, request.uri(), headers);
        if let Err(problem) = checked.and_then(|()| host::check(request.version(), request.uri(), headers)) {
            let answer = problem.answer(headers);
            // A client that writes no Host may mean another end of the request too.
            return Answering::Ready(Some(finish(api, answer, None, asked, true, in_flight)));
        }
        if route == Route::Events {
            self.conn.watch();
        }
        if asked.is_old && route.one().is_none() {
            self.conn.end_is_the_mark();
        }
        let need = if *request.method() == Method::OPTIONS { Need::Nothing } else { route.need() };
        let admitted = head::admit(&api.access, &self.peer, headers, need);
        let origin = cors(&api.config, headers);
        let (Ok(who), Some((face, id))) = (&admitted, route.one()) else {
            let (api, peer) = (Arc::clone(api), Arc::clone(&self.peer));
            return Answering::Later(Box::pin(async move {
                let (answer, goes_on) = answer(Arc::clone(&api), &peer, request, (need, admitted), &mut asked).await;
                finish(&api, answer, origin, asked, is_stopping || !goes_on, in_flight)
            }));
        };
        let quick = match Query::parse(request.uri().query().unwrap_or_default(), &[]) {
            Ok(_) => orders::look_up(api, id, face, headers, who),
            Err(problem) => Lookup::Ready(problem.answer(headers)),
        };
        asked.admitted(&api.access, who, &route);
        match quick {
            Lookup::Ready(answer) if request.body().is_end_stream() => {
                let answer = conditions::judge(answer, request.method(), headers);
                Answering::Ready(Some(finish(api, answer, origin, asked, is_stopping, in_flight)))
            }
            quick => {
                let (api, who) = (Arc::clone(api), who.clone());
                Answering::Later(Box::pin(async move {
                    let (head, mut body) = request.into_parts();
                    let answer = match quick {
                        Lookup::Ready(answer) => answer,
                        Lookup::NeedsLoad(id, least) => {
                            orders::load_order(&api, id, least, face, &head.headers, &who).await
                        }
                    };
                    let answer = conditions::judge(answer, &head.method, &head.headers);
                    let goes_on = orders::read_rest(&head.headers, &mut body).await;
                    finish(&api, answer, origin, asked, is_stopping || !goes_on, in_flight)
                }))
            }
        }
    }
}

/// Whether a request's head is no larger than it may be. hyper itself takes some that are: it looks at what it has read at
/// once.
fn within_limit(config: &Config, uri: &hyper::Uri, headers: &HeaderMap) -> Result<(), Problem> {
    // A line of a field has a colon, a blank and two more.
    let fields: usize = headers.iter().map(|(name, value)| name.as_str().len() + value.len() + 4).sum();
    let line = uri.path_and_query().map_or(0, |path| path.as_str().len());
    if fields + line <= config.header_bytes_max {
        return Ok(());
    }
    let detail = format!("the head of the request is larger than {} bytes", config.header_bytes_max);
    Err(Problem::new(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, "head_too_large", detail))
}

/// What is known of a request before it is answered.
struct Asked {
    /// See [`route::ENDPOINTS`].
    endpoint: usize,
    /// See [`route::METHODS`].
    method: usize,
    /// By a client of HTTP/1.0.
    is_old: bool,
    /// By one of HTTP/2, whose connections end by another word than a header field.
    is_multiplexed: bool,
    started: Instant,
    request_id: HeaderValue,
    /// It is noted only where its answer is 403.
    is_noted_if_refused: bool,
    /// Who was let in, where that is noted.
    who: Option<Who>,
    /// The order that was asked for, where that is noted.
    order: Option<Box<str>>,
}

impl Asked {
    /// Keeps what is to be noted once it is answered.
    fn admitted(&mut self, access: &Access, who: &Who, route: &Route<'_>) {
        let is_noted = match route.need() {
            // A stream may be refused for what it is to tell.
            Need::Write | Need::Events => access.audit().is_some(),
            Need::Probe | Need::Nothing => false,
            Need::Caller | Need::Read | Need::Metrics | Need::Admin => access.audits_reads(),
        };
        self.is_noted_if_refused = route.need() == Need::Events && !access.audits_reads();
        if is_noted {
            self.who = Some(who.clone().with_request_id(self.request_id.to_str().unwrap_or_default()));
            self.order = route.order().map(|id| route::segment(id).as_ref().into());
        }
    }
}

/// Says of an answer that what it is about is noted already, or is as it comes.
#[derive(Clone, Copy)]
pub struct IsNoted;

/// What scripts of another origin may read.
const EXPOSED: &str = "ETag, Link, X-Missing, Location, Retry-After, RateLimit, RateLimit-Policy, WWW-Authenticate, \
                       X-Request-Id";

/// What every answer gets, and is counted by.
fn finish(
    api: &Api,
    mut answer: Answer,
    cors_origin: Option<HeaderValue>,
    asked: Asked,
    is_last: bool,
    in_flight: conn::InFlight,
) -> Answer {
    if let Some(origin) = cors_origin
        && route::METHODS[asked.method] != "POST"
    {
        let head = answer.headers_mut();
        head.insert(ACCESS_CONTROL_ALLOW_ORIGIN, origin);
        head.insert(ACCESS_CONTROL_EXPOSE_HEADERS, HeaderValue::from_static(EXPOSED));
    }
    if api.varies_by_origin {
        answer.headers_mut().append(VARY, HeaderValue::from_static("Origin"));
    }
    // HTTP/1.0 has no chunks: what has no length ends with the connection.
    let is_last = is_last || (asked.is_old && answer.body().size_hint().exact().is_none());
    if is_last && !asked.is_multiplexed {
        answer.headers_mut().insert(CONNECTION, HeaderValue::from_static("close"));
        if asked.is_old {
            // Or hyper adds that the connection is kept, as it would be by an answer of HTTP/1.1.
            *answer.version_mut() = Version::HTTP_10;
        }
    }
    let Asked { endpoint, method, started, request_id, is_noted_if_refused, who, order, .. } = asked;
    answer.headers_mut().insert(head::X_REQUEST_ID, request_id);
    if let Some(who) = who
        && answer.extensions_mut().remove::<IsNoted>().is_none()
        && (!is_noted_if_refused || answer.status() == StatusCode::FORBIDDEN)
    {
        let written = answer.extensions_mut().remove::<OrderId>().map(|id| id.to_string());
        let order = written.as_deref().or(order.as_deref());
        who.note(route::METHODS[method], route::ENDPOINTS[endpoint], order, answer.status().as_str());
    }
    api.metrics.http.observe(endpoint, method, answer.status().as_u16(), started.elapsed(), 1);
    answer.body_mut().hold(in_flight);
    answer
}

/// What a browser of another origin is told, when one asks.
fn cors(config: &Config, headers: &HeaderMap) -> Option<HeaderValue> {
    let origin = headers.get(ORIGIN)?;
    let is_allowed = |allowed: &&HeaderValue| **allowed == ANY_ORIGIN || *allowed == origin;
    config.cors_origins.iter().find(is_allowed).cloned()
}

/// Every route but the hit path. Says too whether another request can follow on the connection.
async fn answer(
    api: Arc<Api>,
    peer: &Peer,
    request: Request<Incoming>,
    (need, admitted): (Need, Result<Who, Denied>),
    asked: &mut Asked,
) -> (Answer, bool) {
    let (parts, body) = request.into_parts();
    let mut body = Some(body);
    let admitted = match admitted {
        Err(Denied::KeysUnknown) => head::admit_later(&api.access, peer, &parts.headers, need).await,
        known => known,
    };
    let answer = match admitted {
        Ok(who) => {
            asked.admitted(&api.access, &who, &route::route(&parts.method, parts.uri.path()));
            let who = who.with_request_id(asked.request_id.to_str().unwrap_or_default());
            answer_head(api, &parts, &mut body, &who).await
        }
        Err(refusal) => refused(&api, peer, &parts, &refusal, asked),
    };
    let answer = conditions::judge(answer, &parts.method, &parts.headers);
    let goes_on = match &mut body {
        Some(unread) => orders::read_rest(&parts.headers, unread).await,
        None => true, // hyper reads on as its lines are
    };
    (answer, goes_on)
}

/// The answer to a request that is not let in.
fn refused(api: &Api, peer: &Peer, parts: &Parts, refusal: &Denied, asked: &Asked) -> Answer {
    let answer = gate::problem(refusal).answer(&parts.headers);
    let route = route::route(&parts.method, parts.uri.path());
    let order = route.order().map(route::segment);
    let what = (route::METHODS[asked.method], route::ENDPOINTS[asked.endpoint], order.as_deref());
    let request_id = asked.request_id.to_str().unwrap_or_default();
    let status = answer.status();
    let of = (status.as_str(), request_id);
    head::note_refusal(&api.access, (peer, &parts.headers), refusal, what, of);
    answer
}

/// Takes the body if it is to be read while the answer is sent.
async fn answer_head(api: Arc<Api>, head: &Parts, body: &mut Option<Incoming>, who: &Who) -> Answer {
    let Parts { method, uri, headers, .. } = head;
    if *method == Method::OPTIONS {
        return options(&api.config, uri.path(), headers);
    }
    let route = route::route(method, uri.path());
    let query = match route.parameters().map(|names| Query::parse(uri.query().unwrap_or_default(), names)) {
        Some(Ok(query)) => query,
        Some(Err(problem)) => return problem.answer(headers),
        None => Query::default(),
    };
    let query = &query;
    let result = match route {
        Route::Flat(id) => Ok(orders::one_fully(&api, id, Face::Flat, headers, who).await),
        Route::Wrapped(id) => Ok(orders::one_fully(&api, id, Face::Wrapped, headers, who).await),
        Route::External(external) => orders::by_external(&api, external.into_owned(), query, headers, who).await,
        Route::List => orders::list(&api, query, headers, who).await,
        Route::Lookup => orders::lookup(&api, headers, body, who).await,
        Route::Stats => orders::stats(&api, who).await,
        Route::Write => write::write(api, headers, body, who).await,
        Route::Events => events::events(api, query, headers, who),
        Route::Whoami => Ok(gate::whoami(&api.access, who)),
        Route::Health if accept::wants_text(headers) => Ok(respond::content("text/plain; charset=utf-8", "ok")),
        Route::Health => Ok(respond::json(r#"{"status":"ok","service":"order-service"}"#)),
        Route::Ping => Ok(respond::content("text/plain; charset=utf-8", "pong")),
        Route::Livez => Ok(respond::content("text/plain; charset=utf-8", "ok")),
        Route::Readyz => ready(&api.readiness),
        Route::Metrics => Ok(respond::content("text/plain; version=0.0.4; charset=utf-8", api.metrics.text())),
        Route::Asset(path) => Ok(page::answer(path, headers)),
        Route::Unknown => Err(Problem::no_route()),
        Route::WrongMethod(allow) => Err(Problem::wrong_method(allow)),
    };
    result.unwrap_or_else(|problem| problem.answer(headers))
}

fn ready(readiness: &Readiness) -> Result<Answer, Problem> {
    let reasons = readiness.reasons();
    if reasons.is_empty() {
        return Ok(respond::json(r#"{"status":"ready"}"#));
    }
    let reasons: Vec<String> = reasons.into_iter().map(|(gate, reason)| format!("{gate}: {reason}")).collect();
    Err(Problem::unavailable("not_ready", reasons.join("; ")))
}

/// `OPTIONS`: what a path allows, and what a browser of another origin may do with it.
fn options(config: &Config, path: &str, headers: &HeaderMap) -> Answer {
    if path == "*" {
        let mut answer = Response::new(Body::empty());
        *answer.status_mut() = StatusCode::NO_CONTENT;
        answer.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD, POST, OPTIONS"));
        return answer;
    }
    // A method that no path has brings out what the path allows.
    let Route::WrongMethod(Allow(allow)) = route::route(&Method::TRACE, path) else {
        return Problem::no_route().answer(headers);
    };
    let mut answer = Response::new(Body::empty());
    *answer.status_mut() = StatusCode::NO_CONTENT;
    let head = answer.headers_mut();
    head.insert(ALLOW, HeaderValue::from_static(allow));
    if cors(config, headers).is_some() {
        head.insert(ACCESS_CONTROL_ALLOW_METHODS, HeaderValue::from_static("GET, HEAD, OPTIONS"));
        let allowed = "If-Match, If-None-Match, X-Min-Version, Last-Event-ID, Cache-Control, Accept, Content-Type, \
            Authorization, X-API-Key, X-Request-Id";
        head.insert(ACCESS_CONTROL_ALLOW_HEADERS, HeaderValue::from_static(allowed));
        head.insert(ACCESS_CONTROL_MAX_AGE, HeaderValue::from_static("86400"));
    }
    answer
}

/// The media type of a request's body in lower case, without its parameters.
fn content_type(headers: &HeaderMap) -> Option<Cow<'_, str>> {
    let kind = headers.get(CONTENT_TYPE)?.to_str().unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim();
    let is_lower = !kind.bytes().any(|byte| byte.is_ascii_uppercase());
    Some(if is_lower { kind.into() } else { kind.to_ascii_lowercase().into() })
}
