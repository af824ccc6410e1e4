//! How answers look: an order's headers, ready texts, and errors every client of the older services can read.

use std::sync::LazyLock;

use bytes::Bytes;
use hyper::header::{
    ALLOW, CACHE_CONTROL, CONTENT_TYPE, ETAG, HeaderMap, HeaderName, HeaderValue, LOCATION, RETRY_AFTER,
};
use hyper::{Response, StatusCode};
use tokio::sync::mpsc;

use super::accept;
use super::body::Body;
use super::etag::{FIRST_VERSIONS, knows, version_etag};
use super::route::{Allow, Face};
use crate::id::{IdError, OrderId, Version};
use crate::read::ReadError;
use crate::record::{Fault, Rejection, RejectionKind};
use crate::snapshot::{Snapshot, State};
use crate::source::inbox::{NoReply, Reply, STORE_LOST, SubmitError};
use crate::store::Refusal;

/// An answer.
pub type Answer = Response<Body>;

/// Says of an answer that what it is about is noted already, or is as it comes.
#[derive(Clone, Copy)]
pub struct IsNoted;

const JSON: HeaderValue = HeaderValue::from_static("application/json");
/// The media type of errors.
pub const PROBLEM_JSON: &str = "application/problem+json";
const PROBLEM: HeaderValue = HeaderValue::from_static(PROBLEM_JSON);
const NO_CACHE: HeaderValue = HeaderValue::from_static("no-cache");

/// The answer to a read of one order. It is never compressed: with its head an order is one or two packets, and smaller
/// it would be one all the same.
#[must_use]
pub fn order(snapshot: Snapshot, face: Face, headers: &HeaderMap) -> Answer {
    if snapshot.state() == State::Tombstone {
        return Problem::deleted().answer(headers);
    }
    let version = snapshot.version();
    if knows(headers, &version_etag(version)) {
        return not_modified(version_etag(version));
    }
    let mut answer = Response::new(match face {
        Face::Flat => Body::from(snapshot.into_flat()),
        Face::Wrapped => Body::from(snapshot.into_wrapped()),
    });
    *answer.headers_mut() = order_headers(version);
    answer
}

/// The same where the order behind the URL may be another one the next time: its tag names it.
#[must_use]
pub fn named_order(id: &OrderId, snapshot: Snapshot, headers: &HeaderMap) -> Answer {
    let etag = HeaderValue::try_from(format!("\"{id}-{}\"", snapshot.version())).expect("an id is visible ASCII");
    if knows(headers, &etag) {
        return not_modified(etag);
    }
    let mut answer = json(snapshot.into_wrapped());
    answer.headers_mut().insert(ETAG, etag);
    answer
}

/// 304: the client has it.
#[must_use]
pub fn not_modified(etag: HeaderValue) -> Answer {
    let mut answer = Response::new(Body::empty());
    *answer.status_mut() = StatusCode::NOT_MODIFIED;
    answer.headers_mut().insert(ETAG, etag);
    answer.headers_mut().insert(CACHE_CONTROL, NO_CACHE);
    answer
}

/// The headers of an order. Copying ready ones takes some 300 instructions less than inserting them one by one. Plain
/// reads get the same from `get_order` in `hit.rs`.
fn order_headers(version: Version) -> HeaderMap {
    static FIRST: LazyLock<Vec<HeaderMap>> = LazyLock::new(|| (0..FIRST_VERSIONS).map(inserted).collect());
    fn inserted(version: Version) -> HeaderMap {
        let mut headers = HeaderMap::with_capacity(3);
        headers.insert(CONTENT_TYPE, JSON);
        headers.insert(ETAG, version_etag(version));
        headers.insert(CACHE_CONTROL, NO_CACHE);
        headers
    }
    let first = usize::try_from(version).ok().and_then(|version| FIRST.get(version));
    first.map_or_else(|| inserted(version), HeaderMap::clone)
}

/// 200 with a JSON body that may change at any time.
#[must_use]
pub fn json(body: impl Into<Body>) -> Answer {
    let mut answer = Response::new(body.into());
    answer.headers_mut().insert(CONTENT_TYPE, JSON);
    answer.headers_mut().insert(CACHE_CONTROL, NO_CACHE);
    answer
}

/// 200 with any body.
#[must_use]
pub fn content(kind: &'static str, body: impl Into<Body>) -> Answer {
    let mut answer = Response::new(body.into());
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    answer.headers_mut().insert(CACHE_CONTROL, NO_CACHE);
    answer
}

/// 200 with `Content-Type` for a stream of lines.
#[must_use]
pub fn ndjson(chunks: mpsc::Receiver<Bytes>) -> Answer {
    let mut answer = Response::new(Body::stream(chunks));
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/x-ndjson"));
    answer
}

/// An error, as RFC 9457 has it, with the members clients of the older services read.
#[derive(Debug, Clone)]
pub struct Problem {
    status: StatusCode,
    reason: &'static str,
    detail: String,
    older_words: Option<&'static str>,
    faults: Vec<Fault>,
    headers: Vec<(HeaderName, HeaderValue)>,
}

/// What the older services said of an order that is not there, and of a request without an id.
/// Their clients compare it.
const ORDER_NOT_FOUND: &str = "Order not found";
const ORDER_UID_REQUIRED: &str = "Order UID required";

impl Problem {
    /// `reason` is the stable word for programs, `detail` the sentence for people.
    #[must_use]
    pub fn new(status: StatusCode, reason: &'static str, detail: impl Into<String>) -> Self {
        Self { status, reason, detail: detail.into(), older_words: None, faults: Vec::new(), headers: Vec::new() }
    }

    /// Has `error` and `message` say what the older services said; `detail` stays as it is.
    #[must_use]
    fn in_older_words(self, words: &'static str) -> Self {
        Self { older_words: Some(words), ..self }
    }

    /// 400.
    #[must_use]
    pub fn bad_request(reason: &'static str, detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, reason, detail)
    }

    /// 404 for an id.
    #[must_use]
    pub fn no_order() -> Self {
        Self::not_found("no order has this id")
    }

    /// 404 for an order that is looked for in another way.
    #[must_use]
    pub fn not_found(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not_found", detail).in_older_words(ORDER_NOT_FOUND)
    }

    /// 410.
    #[must_use]
    pub fn deleted() -> Self {
        Self::new(StatusCode::GONE, "deleted", "the order was deleted").in_older_words(ORDER_NOT_FOUND)
    }

    /// 400 for an id that cannot be one.
    #[must_use]
    pub fn bad_id(error: IdError) -> Self {
        let problem = Self::bad_request("invalid_id", error.to_string());
        if error == IdError::Empty { problem.in_older_words(ORDER_UID_REQUIRED) } else { problem }
    }

    /// 404 for a path.
    #[must_use]
    pub fn no_route() -> Self {
        Self::new(StatusCode::NOT_FOUND, "no_such_route", "nothing answers to this path")
    }

    /// 405.
    #[must_use]
    pub fn wrong_method(allow: Allow) -> Self {
        Self::new(StatusCode::METHOD_NOT_ALLOWED, "method_not_allowed", format!("allowed are {}", allow.0))
            .with(ALLOW, HeaderValue::from_static(allow.0))
    }

    /// 503, to be tried again in a second.
    #[must_use]
    pub fn unavailable(reason: &'static str, detail: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, reason, detail).with(RETRY_AFTER, HeaderValue::from_static("1"))
    }

    /// Adds one header.
    #[must_use]
    pub fn with(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.push((name, value));
        self
    }

    /// Its status.
    #[must_use]
    pub fn status(&self) -> StatusCode {
        self.status
    }

    /// The members of the error as JSON.
    #[must_use]
    pub fn members(&self) -> serde_json::Map<String, serde_json::Value> {
        let title = self.status.canonical_reason().unwrap_or("Error");
        let mut members = serde_json::Map::new();
        let mut add = |name: &str, value: serde_json::Value| members.insert(name.into(), value);
        add("type", "about:blank".into());
        add("title", title.into());
        add("status", self.status.as_u16().into());
        add("detail", self.detail.clone().into());
        let older_words = self.older_words.unwrap_or(&self.detail);
        add("error", older_words.into());
        add("message", older_words.into());
        add("code", self.status.as_u16().into());
        add("reason", self.reason.into());
        if !self.faults.is_empty() {
            let fault = |fault: &Fault| serde_json::json!({"pointer": fault.pointer, "message": fault.message});
            add("errors", self.faults.iter().map(fault).collect());
        }
        members
    }

    /// The same as text.
    #[must_use]
    pub fn json(&self) -> String {
        serde_json::Value::Object(self.members()).to_string()
    }

    /// The answer, in the form the client asks for.
    #[must_use]
    pub fn answer(&self, headers: &HeaderMap) -> Answer {
        let mut answer = if accept::wants_text(headers) {
            content("text/plain; charset=utf-8", format!("{}\n", self.detail.replace(['\r', '\n'], " ")))
        } else {
            let mut answer = Response::new(Body::from(self.json()));
            answer.headers_mut().insert(CONTENT_TYPE, PROBLEM);
            answer.headers_mut().insert(CACHE_CONTROL, NO_CACHE);
            answer
        };
        *answer.status_mut() = self.status;
        for (name, value) in &self.headers {
            answer.headers_mut().insert(name, value.clone());
        }
        answer
    }
}

impl From<&Rejection> for Problem {
    fn from(rejection: &Rejection) -> Self {
        let (status, what) = match rejection.kind {
            RejectionKind::Malformed => (StatusCode::BAD_REQUEST, "the body"),
            RejectionKind::TooLarge => (StatusCode::PAYLOAD_TOO_LARGE, "the body is"),
            RejectionKind::Invalid => (StatusCode::UNPROCESSABLE_ENTITY, "the order is not valid:"),
        };
        let detail = format!("{what} {}", rejection.line());
        Self { faults: rejection.faults.clone(), ..Self::new(status, rejection.kind.code(), detail) }
    }
}

impl From<ReadError> for Problem {
    fn from(error: ReadError) -> Self {
        match &error {
            ReadError::Store(cause) => tracing::warn!(error = %crate::process::log::causes(cause), "read failed"),
            ReadError::Busy | ReadError::Slow => {}
        }
        Self::unavailable("unavailable", error.to_string())
    }
}

impl From<SubmitError> for Problem {
    fn from(error: SubmitError) -> Self {
        let reason = match error {
            SubmitError::Full => "queue_full",
            SubmitError::Stopping => "stopping",
        };
        Self::unavailable(reason, error.to_string())
    }
}

impl From<NoReply> for Problem {
    fn from(missing: NoReply) -> Self {
        let (reason, advice) = match missing {
            NoReply::Slow => ("timeout", "send it again with the same Idempotency-Key to be sure"),
            NoReply::Stopped => ("stopping", "send it again"),
        };
        Self::unavailable(reason, format!("{missing}; {advice}"))
    }
}

/// What a write came to: a status and a small JSON body, or an error.
pub enum Written {
    /// 201, 200, 202 or 409.
    Done {
        /// The status.
        status: StatusCode,
        /// The order.
        id: OrderId,
        /// created, updated or deleted.
        word: &'static str,
        /// The version the order has now.
        version: Version,
    },
    /// An order that is not stored.
    Refused {
        /// The id that it has, or that it names.
        id: OrderId,
        /// What its sender is told.
        problem: Problem,
    },
    /// Anything else.
    Failed(Problem),
}

impl From<Reply> for Written {
    fn from(reply: Reply) -> Self {
        use crate::snapshot::ChangeKind;
        match reply {
            Reply::Stored { id, version, change, .. } => {
                let status = if change == ChangeKind::Created { StatusCode::CREATED } else { StatusCode::OK };
                Self::Done { status, id, word: change.as_str(), version }
            }
            Reply::WasDeleted { id, version } => {
                Self::Done { status: StatusCode::CONFLICT, id, word: "deleted", version }
            }
            Reply::Rejected(mut rejection) => match (rejection.order.take(), Problem::from(&rejection)) {
                (Some(id), problem) => Self::Refused { id, problem },
                (None, problem) => Self::Failed(problem),
            },
            Reply::StoreLost => Self::Failed(Problem::unavailable("store_lost", STORE_LOST)),
            Reply::Refused { id, refusal } => Self::Refused { id, problem: refused(&refusal) },
        }
    }
}

fn refused(refusal: &Refusal) -> Problem {
    let (status, reason) = match refusal {
        Refusal::Unknown => return Problem::not_found(refusal.public()),
        Refusal::OtherKind => (StatusCode::UNPROCESSABLE_ENTITY, "other_kind"),
        Refusal::NoUser | Refusal::NoPayload => (StatusCode::UNPROCESSABLE_ENTITY, "invalid"),
        Refusal::Condition { now } => {
            let detail = match now {
                Some(now) => format!("the order is at version {now}, which is not what the request expects"),
                None => "no order has this id, so it is not what the request expects".into(),
            };
            let problem = Problem::new(StatusCode::PRECONDITION_FAILED, "precondition_failed", detail);
            return match now {
                Some(now) => problem.with(ETAG, version_etag(*now)),
                None => problem,
            };
        }
        Refusal::NotOwn => (StatusCode::FORBIDDEN, "not_own"),
        Refusal::KeyReused => (StatusCode::UNPROCESSABLE_ENTITY, "idempotency_key_reused"),
        Refusal::Database { .. } => (StatusCode::UNPROCESSABLE_ENTITY, "refused_by_database"),
    };
    Problem::new(status, reason, refusal.public())
}

impl Written {
    /// The answer to a single write.
    #[must_use]
    pub fn answer(self, headers: &HeaderMap) -> Answer {
        match self {
            Self::Failed(problem) => problem.answer(headers),
            Self::Refused { id, problem } => {
                let mut answer = problem.answer(headers);
                answer.extensions_mut().insert(id); // it is noted
                answer
            }
            Self::Done { status, id, word, version } => {
                let mut answer = json(format!("{{\"order_id\":\"{id}\",\"status\":\"{word}\"}}"));
                answer.extensions_mut().insert(id.clone());
                let head = answer.headers_mut();
                head.insert(ETAG, version_etag(version));
                if matches!(status, StatusCode::CREATED | StatusCode::ACCEPTED)
                    && let Ok(location) = HeaderValue::try_from(format!("/orders/{id}"))
                {
                    head.insert(LOCATION, location);
                }
                *answer.status_mut() = status;
                answer
            }
        }
    }

    /// The order it is about, if that is known, and its status.
    #[must_use]
    pub fn about(&self) -> (Option<&OrderId>, StatusCode) {
        match self {
            Self::Done { status, id, .. } => (Some(id), *status),
            Self::Refused { id, problem } => (Some(id), problem.status),
            Self::Failed(problem) => (None, problem.status),
        }
    }

    /// One line of the answer to many writes.
    #[must_use]
    pub fn line(self) -> String {
        match self {
            Self::Done { status: StatusCode::CONFLICT, id, word, version } => {
                let error = "the order was deleted before";
                format!(
                    "{{\"order_id\":\"{id}\",\"status\":\"{word}\",\"version\":{version},\"code\":409,\"reason\":\"deleted\",\"error\":\"{error}\"}}\n"
                )
            }
            Self::Done { id, word, version, .. } => {
                format!("{{\"order_id\":\"{id}\",\"status\":\"{word}\",\"version\":{version}}}\n")
            }
            Self::Refused { problem, .. } | Self::Failed(problem) => {
                format!("{}\n", serde_json::Value::Object(problem.members()))
            }
        }
    }
}
