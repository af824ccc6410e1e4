//! From a request to its answer: the route is found, the caller is let in or not, the handler answers,
//! and what stands on every answer is added.

use std::cell::RefCell;
use std::convert::Infallible;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::{Duration, Instant};

use hyper::body::{Body as _, Incoming};
use hyper::header::{
    ACCESS_CONTROL_ALLOW_HEADERS, ACCESS_CONTROL_ALLOW_METHODS, ACCESS_CONTROL_ALLOW_ORIGIN,
    ACCESS_CONTROL_EXPOSE_HEADERS, ACCESS_CONTROL_MAX_AGE, ALLOW, CONNECTION, HeaderMap, HeaderValue, ORIGIN, VARY,
};
use hyper::http::request::Parts;
use hyper::service::Service;
use hyper::{Method, Request, Response, StatusCode, Version};

use super::body::Body;
use super::conn::{Conn, Registry};
use super::get::Lookup;
use super::query::Query;
use super::respond::{Answer, IsNoted, Problem};
use super::route::{Allow, Face, Route};
use super::socket::{Consumed, Front, Held};
use crate::access::address::Peer;
use crate::access::scope::Need;
use crate::access::{Access, Denied, LastPass, Who, head};
use crate::id::OrderId;
use crate::process::lifecycle::Readiness;

use super::{
    ANY_ORIGIN, Api, Config, accept, conditions, conn, events, gate, get, get_many, hit, host, list, page, refusal,
    request, respond, route, socket, stats, write,
};

/// What is answered without hyper.
pub(super) struct Hits {
    pub(super) api: Arc<Api>,
    pub(super) registry: Arc<Registry>,
    pub(super) peer: Arc<Peer>,
    pub(super) is_guarded: bool,
    pub(super) last: RefCell<LastPass>,
}

impl Front for Hits {
    fn answer(&mut self, requests: &[u8], answers: &mut Held) -> Consumed {
        if self.registry.is_stopping() {
            // hyper says that the connection ends with its next answer.
            return Consumed { bytes: 0, rest: socket::foreign(requests) };
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
            self.api.metrics.requests.observe(endpoint, method, status.as_u16(), Duration::ZERO, 1);
        }
    }
}

/// One connection's way to its answers.
pub(super) struct ConnService {
    pub(super) api: Arc<Api>,
    pub(super) conn: Arc<Conn>,
    pub(super) registry: Arc<Registry>,
    pub(super) peer: Arc<Peer>,
}

impl Clone for ConnService {
    fn clone(&self) -> Self {
        let (api, conn, registry) = (Arc::clone(&self.api), Arc::clone(&self.conn), Arc::clone(&self.registry));
        Self { api, conn, registry, peer: Arc::clone(&self.peer) }
    }
}

/// An answer that is ready, or that will be.
pub(super) enum Answering {
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
            Ok(_) => get::look_up(api, id, face, headers, who),
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
                            get::load_order(&api, id, least, face, &head.headers, &who).await
                        }
                    };
                    let answer = conditions::judge(answer, &head.method, &head.headers);
                    let goes_on = request::read_rest(&head.headers, &mut body).await;
                    finish(&api, answer, origin, asked, is_stopping || !goes_on, in_flight)
                }))
            }
        }
    }
}

/// Whether a request's head is no larger than it may be. hyper itself takes some that are: it looks at what it has read at
/// once.
pub(super) fn within_limit(config: &Config, uri: &hyper::Uri, headers: &HeaderMap) -> Result<(), Problem> {
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
pub(super) struct Asked {
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

/// What scripts of another origin may read.
const EXPOSED: &str = "ETag, Link, X-Missing, Location, Retry-After, RateLimit, RateLimit-Policy, WWW-Authenticate, \
                       X-Request-Id";

/// What every answer gets, and is counted by.
pub(super) fn finish(
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
    api.metrics.requests.observe(endpoint, method, answer.status().as_u16(), started.elapsed(), 1);
    answer.body_mut().hold(in_flight);
    answer
}

/// What a browser of another origin is told, when one asks. No browser names two.
pub(super) fn cors(config: &Config, headers: &HeaderMap) -> Option<HeaderValue> {
    let origin = request::once(headers, &ORIGIN).ok()??;
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
        Some(unread) => request::read_rest(&parts.headers, unread).await,
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
        Route::Flat(id) => Ok(get::one_fully(&api, id, Face::Flat, headers, who).await),
        Route::Wrapped(id) => Ok(get::one_fully(&api, id, Face::Wrapped, headers, who).await),
        Route::External(external) => get::by_external(&api, external.into_owned(), query, headers, who).await,
        Route::List => list::list(&api, query, headers, who).await,
        Route::Lookup => get_many::lookup(&api, headers, body, who).await,
        Route::Stats => stats::stats(&api, headers, who).await,
        Route::Write => write::write(api, headers, body, who).await,
        Route::Events => events::events(api, query, headers, who),
        Route::Whoami => Ok(gate::whoami(&api.access, who)),
        Route::Health if accept::wants_text(headers) => Ok(respond::content("text/plain; charset=utf-8", "ok")),
        Route::Health => Ok(respond::json(r#"{"status":"ok","service":"order-service"}"#)),
        Route::Ping => Ok(respond::content("text/plain; charset=utf-8", "pong")),
        Route::Livez => Ok(respond::content("text/plain; charset=utf-8", "ok")),
        Route::Readyz => ready(&api.readiness),
        Route::Metrics => Ok(respond::content("text/plain; version=0.0.4; charset=utf-8", api.families.text())),
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
