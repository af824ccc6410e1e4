//! Writing orders: one by one, or many as lines. Hands bytes to the inbox and waits; never looks inside them.

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::StatusCode;
use hyper::body::Incoming;
use hyper::header::{HeaderMap, HeaderName, HeaderValue, ORIGIN};
use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, Visitor};
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::time::Instant;

use super::respond::{self, Answer, IsNoted, Problem, Written};
use super::{Api, conditions, gate, request};
use crate::access::{Denied, Who};
use crate::id::Version;
use crate::record::{Condition, Expected, Idempotency, Rejection, RejectionKind};
use crate::source::inbox::{self, Coming, Inbox, Reply};
use crate::source::waiters::{Waiter, Worked};

const PREFER: HeaderName = HeaderName::from_static("prefer");
const PREFERENCE_APPLIED: HeaderName = HeaderName::from_static("preference-applied");
const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
/// Lines of one request that may wait for their result. Enough to fill batches, small beside the queue.
const LINES_MAX: usize = 1024;
/// A line that is longer waits for room before the rest of it is read.
const SHORT_LINE_BYTES: usize = 16 << 10;
/// Result lines are sent in pieces of about this size.
const RESULT_BYTES: usize = 16 << 10;
/// Bytes of results that each request may have waiting for its client to read them.
const RESULTS_OWN_BYTES: usize = 64 << 10;
/// Bytes of results that all requests together may have waiting beyond that, for clients that send all of their lines
/// before they read: about a million lines.
pub const RESULTS_BYTES_MAX: usize = 64 << 20;
/// Pieces of results that wait, at most.
const RESULTS_MAX: usize = 16 << 10;

/// `POST /orders`
pub async fn write(
    api: Arc<Api>,
    headers: &HeaderMap,
    body: &mut Option<Incoming>,
    who: &Who,
) -> Result<Answer, Problem> {
    request::plain_body(headers)?;
    let prefer = Prefer::read(headers)?;
    match request::content_type(headers)?.as_deref() {
        Some("application/x-ndjson" | "application/ndjson" | "application/jsonl") => {
            conditions::none(headers)?;
            let key = idempotency_key(headers, who)?;
            let body = body.take().expect("not read yet");
            return Ok(many(&api, body, key, who.clone()));
        }
        Some("application/json" | "text/json") => {}
        // Without a type a page of another origin could write behind its visitor's back: browsers ask no one then.
        None if !headers.contains_key(ORIGIN) => {}
        Some(kind) if kind.starts_with("application/") && kind.ends_with("+json") => {}
        _ => {
            let detail = "send an order as application/json, or many as application/x-ndjson";
            return Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", detail));
        }
    }
    let (key, condition) = (idempotency_key(headers, who)?, conditions::of_write(headers)?);
    let body = request::read_body(&api, headers, body, api.config.order_bytes_max).await?;
    let idempotency = key.map(|key| Idempotency { key, digest: Sha256::digest(&body).into() });
    let mut reply = inbox::replied(
        api.inbox.submit(inbox::Request { payload: body, idempotency, condition, owner: owner(who) })?,
        api.config.write_wait,
    )
    .await?;
    let Reply::Stored { worker, .. } = &mut reply else { return Ok(Written::from(reply).answer(headers)) };
    let Some(worker) = worker.take() else { return Ok(Written::from(reply).answer(headers)) };
    Ok(worked(&api, worker, reply.into(), prefer, headers).await)
}

/// What a client prefers to waiting for a worker (RFC 7240).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Prefer {
    /// Not to wait.
    Async,
    /// To wait this long at most.
    Wait(Duration),
}

impl Prefer {
    /// The first preference of this kind. One of another kind is passed over, which the answer says by not naming it as
    /// applied; who would rather have an error says `handling=strict`.
    ///
    /// # Errors
    /// 400 for a preference of this kind that cannot be read, and for one of another kind where the client is strict.
    fn read(headers: &HeaderMap) -> Result<Option<Self>, Problem> {
        let invalid = |detail: String| Problem::bad_request("invalid_preference", detail);
        let (mut prefer, mut is_strict, mut other) = (None, false, None);
        for value in headers.get_all(PREFER) {
            let text = value.to_str().map_err(|_| invalid("Prefer must be visible ASCII".into()))?;
            for preference in text.split(',') {
                let preference = preference.split(';').next().unwrap_or_default().trim();
                let (name, value) = preference.split_once('=').unwrap_or((preference, ""));
                let (name, value) = (name.trim().to_ascii_lowercase(), value.trim().trim_matches('"'));
                match (&*name, value) {
                    ("", "") | ("handling", "lenient") => {}
                    ("respond-async", "") => prefer = prefer.or(Some(Self::Async)),
                    ("wait", seconds) => {
                        let seconds = seconds.parse().map_err(|_| {
                            invalid(format!("invalid preference wait={seconds:?}: expected whole seconds, e.g. wait=5"))
                        })?;
                        prefer = prefer.or(Some(Self::Wait(Duration::from_secs(seconds))));
                    }
                    ("respond-async", _) => return Err(invalid("respond-async has no value".into())),
                    ("handling", "strict") => is_strict = true,
                    _ => other = Some(name),
                }
            }
        }
        match other {
            Some(name) if is_strict => Err(invalid(format!("there is no preference {name:?} here"))),
            _ => Ok(prefer),
        }
    }

    fn applied(self) -> HeaderValue {
        match self {
            Self::Async => HeaderValue::from_static("respond-async"),
            Self::Wait(time) => HeaderValue::from_str(&format!("wait={}", time.as_secs())).expect("digits"),
        }
    }
}

/// Waits until a worker has processed what was written, and until this instance shows it. The order is stored, so
/// nothing here is an error: what takes too long is answered 202.
async fn worked(
    api: &Api,
    worker: Waiter,
    mut written: Written,
    prefer: Option<Prefer>,
    headers: &HeaderMap,
) -> Answer {
    let time = match prefer {
        None => api.config.worker_wait,
        Some(Prefer::Async) => Duration::ZERO,
        Some(Prefer::Wait(time)) => time.min(api.config.worker_wait),
    };
    let is_done = !time.is_zero()
        && match worker.wait(time).await {
            None => false,
            Some(Worked { version }) => {
                if let (Some(now), Written::Done { id, version, .. }) = (version, &mut written)
                    && let Ok(Some(shown)) = api.reader.get_at_least(id, now).await
                {
                    *version = shown.version();
                }
                true
            }
        };
    if !is_done && let Written::Done { status, .. } = &mut written {
        *status = StatusCode::ACCEPTED;
    }
    let mut answer = written.answer(headers);
    // The limit of the service itself is no preference that was honoured.
    let honoured = prefer.filter(|prefer| *prefer == Prefer::Async || *prefer == Prefer::Wait(time));
    if let Some(prefer) = honoured {
        answer.headers_mut().insert(PREFERENCE_APPLIED, prefer.applied());
    }
    answer
}

/// The only owner whose orders the caller may write, if there is one.
fn owner(who: &Who) -> Option<Box<str>> {
    who.owner().map(|owner| owner.text.clone())
}

/// Each caller has keys of its own: one that another used means nothing.
fn idempotency_key(headers: &HeaderMap, who: &Who) -> Result<Option<Box<str>>, Problem> {
    let Some(key) = request::once(headers, &IDEMPOTENCY_KEY)? else { return Ok(None) };
    let legal = |key: &&str| (1..=255).contains(&key.len());
    if let Some(key) = key.to_str().ok().filter(legal) {
        Ok(Some(match who.namespace() {
            None => key.into(),
            Some(space) => format!("{space}:{key}").into(),
        }))
    } else {
        let detail = "Idempotency-Key must be 1 to 255 visible ASCII characters";
        Err(Problem::bad_request("invalid_idempotency_key", detail))
    }
}

/// `POST /orders` with one order a line: a result line for each, in order, as they become durable.
fn many(api: &Api, body: Incoming, key: Option<Box<str>>, who: Who) -> Answer {
    let (results, chunks) = mpsc::channel(RESULTS_MAX);
    let results =
        Results { chunks: results, own: Arc::new(Semaphore::new(RESULTS_OWN_BYTES)), shared: Arc::clone(&api.results) };
    let (waiting, replies) = mpsc::channel(LINES_MAX);
    let lines = Lines {
        body,
        buffer: BytesMut::new(),
        room: api.inbox.coming(),
        line_end: None,
        line_bytes_max: api.config.order_bytes_max,
        chunk_time: api.config.body_time,
        is_ended: false,
        is_skipping: false,
    };
    let (inbox, wait) = (api.inbox.clone(), api.config.write_wait);
    // One task: should either side panic, the answer is cut short.
    tokio::spawn(async move {
        let noted = who.clone();
        tokio::join!(take_lines(lines, inbox, (key, who), waiting), give_results(replies, results, wait, noted))
    });
    let mut answer = respond::ndjson(chunks);
    answer.extensions_mut().insert(IsNoted); // line by line
    answer
}

/// A line's result, or what will become it.
enum Pending {
    Reply(oneshot::Receiver<Reply>),
    Failed(Problem),
}

async fn take_lines(
    mut lines: Lines,
    inbox: Inbox,
    (key, who): (Option<Box<str>>, Who),
    waiting: mpsc::Sender<Pending>,
) {
    let mut number = 0_u64;
    loop {
        let read = lines.next().await;
        // A blank line is none that a key is counted for.
        number += u64::from(!matches!(read, Err(LineError::Blank)));
        let pending = match read {
            Ok(None) => return,
            Ok(Some(_)) if !who.is_in() => {
                let problem = gate::problem(&Denied::Invalid("the key or token is not valid any more"));
                let _ = waiting.send(Pending::Failed(problem)).await;
                return;
            }
            Ok(Some(line)) => match line_request(line, key.as_deref(), number, &who) {
                Ok(request) => match inbox.submit_when_free(request).await {
                    Ok(reply) => Pending::Reply(reply),
                    Err(error) => Pending::Failed(error.into()),
                },
                Err(problem) => Pending::Failed(problem),
            },
            Err(LineError::Long) => {
                let message = format!("larger than {} bytes", lines.line_bytes_max);
                Pending::Failed(Problem::from(&Rejection::whole(RejectionKind::TooLarge, message)))
            }
            Err(LineError::Blank) => {
                Pending::Failed(Problem::bad_request("blank_line", "the line is blank: it has no order"))
            }
            Err(LineError::Broken(problem)) => {
                // The rest of the request is unreadable: say so on a last line.
                let _ = waiting.send(Pending::Failed(problem)).await;
                return;
            }
        };
        if waiting.send(pending).await.is_err() {
            return; // the client hung up; what was taken is stored all the same
        }
    }
}

/// Each line has a key of its own, of the request's and its number among the lines that are not blank.
fn line_request(line: Bytes, key: Option<&str>, number: u64, who: &Who) -> Result<inbox::Request, Problem> {
    let idempotency =
        key.map(|key| Idempotency { key: format!("{key}#{number}").into(), digest: Sha256::digest(&line).into() });
    let Some(wrapped) = Wrapped::read(&line) else {
        return Ok(inbox::Request { payload: line, idempotency, condition: None, owner: owner(who) });
    };
    let Wrapped { order, if_version } =
        wrapped.map_err(|error| Problem::bad_request("invalid_line", format!("the line is not {WRAPPED}: {error}")))?;
    let payload = line.slice_ref(order.get().as_bytes());
    let condition = if_version.map(|version| Condition::OneOf(vec![Expected { id: None, version }]));
    Ok(inbox::Request { payload, idempotency, condition, owner: owner(who) })
}

const WRAPPED: &str = "{\"order\":{…},\"if_version\":7}";

/// An order on a line with what must be so for it to be written, as [`WRAPPED`].
struct Wrapped<'l> {
    order: &'l RawValue,
    if_version: Option<Version>,
}

impl<'l> Wrapped<'l> {
    /// `None` for a line that begins otherwise.
    fn read(line: &'l [u8]) -> Option<Result<Self, serde_json::Error>> {
        let first = line.trim_ascii_start().strip_prefix(b"{")?.trim_ascii_start();
        let is_wrapped = first.starts_with(b"\"order\"") || first.starts_with(b"\"if_version\"");
        is_wrapped.then(|| serde_json::from_slice(line))
    }
}

impl<'l> Deserialize<'l> for Wrapped<'l> {
    fn deserialize<D: Deserializer<'l>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(WrappedVisitor)
    }
}

struct WrappedVisitor;

impl<'l> Visitor<'l> for WrappedVisitor {
    type Value = Wrapped<'l>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(WRAPPED)
    }

    fn visit_map<A: MapAccess<'l>>(self, mut members: A) -> Result<Self::Value, A::Error> {
        let (mut order, mut if_version) = (None, None);
        while let Some(name) = members.next_key::<Cow<'l, str>>()? {
            match &*name {
                "order" if order.is_none() => order = Some(members.next_value()?),
                "if_version" if if_version.is_none() => if_version = Some(members.next_value()?),
                "order" | "if_version" => return Err(A::Error::custom(format!("{name} is given twice"))),
                other => return Err(A::Error::custom(format!("unknown member {other:?}"))),
            }
        }
        Ok(Wrapped { order: order.ok_or_else(|| A::Error::missing_field("order"))?, if_version })
    }
}

async fn give_results(mut replies: mpsc::Receiver<Pending>, results: Results, wait: Duration, who: Who) {
    let mut text = String::new();
    while let Some(pending) = replies.recv().await {
        let written = match pending {
            Pending::Failed(problem) => Written::Failed(problem),
            Pending::Reply(reply) => match inbox::replied(reply, wait).await {
                Ok(reply) => reply.into(),
                Err(missing) => Written::Failed(missing.into()),
            },
        };
        let (id, status) = written.about();
        who.note("POST", "/orders", id.map(ToString::to_string).as_deref(), status.as_str());
        text.push_str(&written.line());
        if (text.len() >= RESULT_BYTES || replies.is_empty()) && results.send(std::mem::take(&mut text)).await.is_err()
        {
            return;
        }
    }
    // Nothing is left to be sent: each text was, once no reply was at hand.
    let _ = results.chunks.send(Bytes::new()).await; // the end, if the client still waits for it
}

/// Results on their way to a client. Many clients send all they have before they read anything, so results wait while
/// there is room: some that each request has for itself, and then what all have together. Without any the client has to
/// read before more of its lines are taken.
struct Results {
    chunks: mpsc::Sender<Bytes>,
    own: Arc<Semaphore>,
    shared: Arc<Semaphore>,
}

/// A piece of results and its room, which is given back once the piece is sent or thrown away.
struct Piece {
    text: String,
    _room: OwnedSemaphorePermit,
}

impl AsRef<[u8]> for Piece {
    fn as_ref(&self) -> &[u8] {
        self.text.as_bytes()
    }
}

impl Results {
    /// Waits for room. Fails when the client is gone.
    async fn send(&self, text: String) -> Result<(), mpsc::error::SendError<Bytes>> {
        // A piece that is larger than all room of its own takes all of it.
        let bytes = u32::try_from(text.len().min(RESULTS_OWN_BYTES)).expect("small");
        let room = tokio::select! {
            biased;
            room = Arc::clone(&self.own).acquire_many_owned(bytes) => room,
            room = Arc::clone(&self.shared).acquire_many_owned(bytes) => room,
            () = self.chunks.closed() => return Err(mpsc::error::SendError(Bytes::new())),
        };
        let piece = Piece { text, _room: room.expect("never closed") };
        self.chunks.send(Bytes::from_owner(piece)).await
    }
}

/// Cuts a request body into lines as it arrives.
struct Lines {
    body: Incoming,
    buffer: BytesMut,
    /// For the line that is on its way, if that is a long one.
    room: Coming,
    /// When such a line must be here: it keeps room from others.
    line_end: Option<Instant>,
    line_bytes_max: usize,
    chunk_time: Duration,
    is_ended: bool,
    /// The line at hand was too long; what is left of it is passed by.
    is_skipping: bool,
}

enum LineError {
    /// It has no order, and a result all the same: results are told apart by counting them.
    Blank,
    Long,
    Broken(Problem),
}

impl Lines {
    /// The next line. What comes after the last line break is one unless there is nothing.
    async fn next(&mut self) -> Result<Option<Bytes>, LineError> {
        let mut searched = 0;
        self.room.clear(); // the line before is in the queue
        self.line_end = None;
        loop {
            if let Some(at) = memchr::memchr(b'\n', &self.buffer[searched..]) {
                let line = self.buffer.split_to(searched + at + 1).freeze();
                searched = 0;
                self.line_end = None;
                let is_rest = std::mem::take(&mut self.is_skipping);
                if is_rest {
                    continue;
                }
                return self.whole(line.slice(..line.len() - 1)).map(Some);
            }
            searched = self.buffer.len();
            if searched > self.line_bytes_max + 1 {
                self.buffer = BytesMut::new();
                self.room.clear();
                self.line_end = None;
                searched = 0;
                if !std::mem::replace(&mut self.is_skipping, true) {
                    return Err(LineError::Long);
                }
            }
            if self.is_ended {
                let rest = self.buffer.split().freeze();
                return if self.is_skipping || rest.is_empty() { Ok(None) } else { self.whole(rest).map(Some) };
            }
            if self.buffer.len() > SHORT_LINE_BYTES && self.line_end.is_none() {
                self.room.grow_when_free(self.line_bytes_max).await;
                self.line_end = Some(Instant::now() + self.chunk_time);
            }
            self.read().await?;
        }
    }

    fn whole(&self, line: Bytes) -> Result<Bytes, LineError> {
        // Where lines end with two characters, neither is the order's.
        let line = if line.ends_with(b"\r") { line.slice(..line.len() - 1) } else { line };
        match line.len() {
            _ if line.iter().all(u8::is_ascii_whitespace) => Err(LineError::Blank),
            len if len > self.line_bytes_max => Err(LineError::Long),
            _ => Ok(line),
        }
    }

    async fn read(&mut self) -> Result<(), LineError> {
        let end = self.line_end.unwrap_or_else(|| Instant::now() + self.chunk_time);
        let frame = tokio::time::timeout_at(end, self.body.frame()).await.map_err(|_| {
            LineError::Broken(Problem::new(
                StatusCode::REQUEST_TIMEOUT,
                "timeout",
                "the next line did not arrive in time",
            ))
        })?;
        match frame {
            None => self.is_ended = true,
            Some(Ok(frame)) => {
                if let Ok(data) = frame.into_data() {
                    self.buffer.extend_from_slice(&data);
                }
            }
            Some(Err(_)) => {
                return Err(LineError::Broken(Problem::bad_request("malformed", "the body ended early")));
            }
        }
        Ok(())
    }
}
