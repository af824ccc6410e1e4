//! Writing orders: one by one, or many as lines. Hands bytes to the inbox and waits; never looks inside them.

use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::StatusCode;
use hyper::body::Incoming;
use hyper::header::{HeaderMap, HeaderName, HeaderValue, ORIGIN};
use sha2::{Digest, Sha256};
use tokio::sync::{mpsc, oneshot};
use tokio::time::Instant;

use super::orders::{ndjson, read_body};
use super::respond::{self, Answer, Problem, Written};
use super::{Api, conditions, content_type};
use crate::ack::{Waiter, Worked};
use crate::record::{Idempotency, Rejection, RejectionKind};
use crate::source::inbox::{self, Coming, Inbox, Reply};
use crate::store::Store;

const PREFER: HeaderName = HeaderName::from_static("prefer");
const PREFERENCE_APPLIED: HeaderName = HeaderName::from_static("preference-applied");
const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
/// Lines of one request that may wait for their result. Enough to fill batches, small beside the queue.
const LINES_MAX: usize = 1024;
/// A line that is longer waits for room before the rest of it is read.
const SHORT_LINE_BYTES: usize = 16 << 10;
/// Result lines are sent in pieces of about this size.
const RESULT_BYTES: usize = 16 << 10;

/// `POST /orders`
pub async fn write<T: Store>(
    api: Arc<Api<T>>,
    headers: &HeaderMap,
    body: &mut Option<Incoming>,
) -> Result<Answer, Problem> {
    respond::plain_body(headers)?;
    match content_type(headers).as_deref() {
        Some("application/x-ndjson" | "application/ndjson" | "application/jsonl") => {
            conditions::none(headers)?;
            let key = idempotency_key(headers)?;
            let body = body.take().expect("not read yet");
            return Ok(many(&api, body, key));
        }
        Some("application/json" | "text/json") => {}
        // Without a type a page of another origin could write behind its visitor's back: browsers ask nobody then.
        None if !headers.contains_key(ORIGIN) => {}
        Some(kind) if kind.starts_with("application/") && kind.ends_with("+json") => {}
        _ => {
            let detail = "send an order as application/json, or many as application/x-ndjson";
            return Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", detail));
        }
    }
    let (key, condition) = (idempotency_key(headers)?, conditions::of_write(headers)?);
    let body = read_body(&api, headers, body, api.config.order_bytes_max).await?;
    let idempotency = key.map(|key| Idempotency { key, digest: Sha256::digest(&body).into() });
    let mut reply = inbox::replied(
        api.inbox.submit(inbox::Request { payload: body, idempotency, condition })?,
        api.config.write_wait,
    )
    .await?;
    let Reply::Stored { worker, .. } = &mut reply else { return Ok(Written::from(reply).answer(headers)) };
    let Some(worker) = worker.take() else { return Ok(Written::from(reply).answer(headers)) };
    Ok(worked(&api, worker, reply.into(), headers).await)
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
    /// The first preference of this kind; one that is not understood is none.
    fn read(headers: &HeaderMap) -> Option<Self> {
        let values = headers.get_all(PREFER).iter().filter_map(|value| value.to_str().ok());
        values.flat_map(|value| value.split(',')).find_map(|preference| {
            let preference = preference.split(';').next().unwrap_or_default().trim();
            if preference.eq_ignore_ascii_case("respond-async") {
                return Some(Self::Async);
            }
            let (name, seconds) = preference.split_once('=')?;
            let seconds = seconds.trim().trim_matches('"').parse().ok()?;
            name.trim().eq_ignore_ascii_case("wait").then_some(Self::Wait(Duration::from_secs(seconds)))
        })
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
async fn worked<T: Store>(api: &Api<T>, worker: Waiter, mut written: Written, headers: &HeaderMap) -> Answer {
    let prefer = Prefer::read(headers);
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

fn idempotency_key(headers: &HeaderMap) -> Result<Option<Box<str>>, Problem> {
    let Some(key) = headers.get(IDEMPOTENCY_KEY) else { return Ok(None) };
    let legal = |key: &&str| (1..=255).contains(&key.len());
    if let Some(key) = key.to_str().ok().filter(legal) {
        Ok(Some(key.into()))
    } else {
        let detail = "Idempotency-Key must be 1 to 255 visible ASCII characters";
        Err(Problem::bad_request("invalid_idempotency_key", detail))
    }
}

/// `POST /orders` with one order a line: a result line for each, in order, as they become durable.
fn many<T: Store>(api: &Api<T>, body: Incoming, key: Option<Box<str>>) -> Answer {
    let (results, chunks) = mpsc::channel(4);
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
    tokio::spawn(
        async move { tokio::join!(take_lines(lines, inbox, key, waiting), give_results(replies, results, wait)) },
    );
    ndjson(chunks)
}

/// A line's result, or what will become it.
enum Pending {
    Reply(oneshot::Receiver<Reply>),
    Failed(Problem),
}

async fn take_lines(mut lines: Lines, inbox: Inbox, key: Option<Box<str>>, waiting: mpsc::Sender<Pending>) {
    for number in 1_u64.. {
        let pending = match lines.next().await {
            Ok(None) => return,
            Ok(Some(line)) => match inbox.submit_when_free(line_request(line, key.as_deref(), number)).await {
                Ok(reply) => Pending::Reply(reply),
                Err(error) => Pending::Failed(error.into()),
            },
            Err(LineError::Long) => {
                let message = format!("larger than {} bytes", lines.line_bytes_max);
                Pending::Failed(Problem::from(&Rejection::whole(RejectionKind::TooLarge, message)))
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
fn line_request(payload: Bytes, key: Option<&str>, number: u64) -> inbox::Request {
    let idempotency =
        key.map(|key| Idempotency { key: format!("{key}#{number}").into(), digest: Sha256::digest(&payload).into() });
    inbox::Request { payload, idempotency, condition: None }
}

async fn give_results(mut replies: mpsc::Receiver<Pending>, results: mpsc::Sender<Bytes>, wait: Duration) {
    let mut text = String::new();
    while let Some(pending) = replies.recv().await {
        let written = match pending {
            Pending::Failed(problem) => Written::Failed(problem),
            Pending::Reply(reply) => match inbox::replied(reply, wait).await {
                Ok(reply) => reply.into(),
                Err(missing) => Written::Failed(missing.into()),
            },
        };
        text.push_str(&written.line());
        if (text.len() >= RESULT_BYTES || replies.is_empty())
            && results.send(std::mem::take(&mut text).into()).await.is_err()
        {
            return;
        }
    }
    // Nothing is left to be sent: each text was, once no reply was at hand.
    let _ = results.send(Bytes::new()).await; // the end, if the client still waits for it
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
    Long,
    Broken(Problem),
}

impl Lines {
    /// The next line that is not blank.
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
                if !is_rest && let Some(line) = self.whole(line.slice(..line.len() - 1))? {
                    return Ok(Some(line));
                }
                continue;
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
                return if self.is_skipping { Ok(None) } else { self.whole(rest) };
            }
            if self.buffer.len() > SHORT_LINE_BYTES && self.line_end.is_none() {
                self.room.grow_when_free(self.line_bytes_max).await;
                self.line_end = Some(Instant::now() + self.chunk_time);
            }
            self.read().await?;
        }
    }

    fn whole(&self, line: Bytes) -> Result<Option<Bytes>, LineError> {
        // Where lines end with two characters, neither is the order's.
        let line = if line.ends_with(b"\r") { line.slice(..line.len() - 1) } else { line };
        match line.len() {
            _ if line.iter().all(u8::is_ascii_whitespace) => Ok(None),
            len if len > self.line_bytes_max => Err(LineError::Long),
            _ => Ok(Some(line)),
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
