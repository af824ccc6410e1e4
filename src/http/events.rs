//! `GET /events`: committed changes as Server-Sent Events. A reader that falls behind is told `reset`; no one waits
//! for it.

use std::fmt::Write;
use std::sync::Arc;

use bytes::Bytes;
use hyper::header::{HeaderMap, HeaderName};
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::body::Body;
use super::query::Query;
use super::respond::{self, Answer, Problem};
use super::{Api, gate, request};
use crate::access::scope::Need;
use crate::access::{Denied, Who};
use crate::cache::feed::{Event, Former, Read};
use crate::id::OrderId;
use crate::snapshot::{ChangeKind, State};

const LAST_EVENT_ID: HeaderName = HeaderName::from_static("last-event-id");
/// Events turned into text at once.
const BURST: usize = 64;
/// Text is sent in pieces of about this size.
const PIECE_BYTES: usize = 16 << 10;

/// What a reader asked for.
struct Wanted {
    order: Option<OrderId>,
    is_with_body: bool,
    who: Who,
}

/// What an event is to a reader.
#[derive(Clone, Copy, PartialEq, Eq)]
enum News {
    /// Another's, or of another order.
    Nothing,
    /// A change of an order that the reader may see.
    Change,
    /// The order is another's now: as if it were deleted.
    Gone,
    /// It may have been the reader's order, which cannot be told.
    Lost,
}

impl Wanted {
    fn news(&self, api: &Api, event: &Event) -> News {
        let is_asked_for = self.order.as_ref().is_none_or(|order| *order == event.id);
        let Some(own) = self.who.owner_tag() else {
            return if is_asked_for { News::Change } else { News::Nothing };
        };
        match &event.former {
            _ if api.reader.is_seen(Some(own), &event.snapshot) => {
                if is_asked_for {
                    News::Change
                } else {
                    News::Nothing
                }
            }
            Former::Known(former) if is_asked_for && former.contains(&own) => News::Gone,
            Former::Known(_) => News::Nothing,
            // Whatever was asked for: an order of another is followed as one that there is not.
            Former::Unknown => News::Lost,
        }
    }
}

/// `GET /events`
pub fn events(api: Arc<Api>, query: &Query<'_>, headers: &HeaderMap, who: &Who) -> Result<Answer, Problem> {
    let order = query.get("order").map(|id| OrderId::parse(id.as_bytes())).transpose().map_err(Problem::bad_id)?;
    let is_with_body = match query.get("include") {
        None => false,
        Some(include) if include.split(',').all(|part| part == "body") => true,
        Some(_) => return Err(Problem::bad_request("invalid_include", "include must be body")),
    };
    // What a browser sends when it connects again is newer than what the URL says.
    let last = match (request::once(headers, &LAST_EVENT_ID)?, query.get("lastEventId"), query.get("last_event_id")) {
        (Some(id), ..) => Some(id.to_str().unwrap_or_default()),
        (None, Some(_), Some(_)) => {
            let detail = "lastEventId and last_event_id are the same: leave one of them out";
            return Err(Problem::bad_request("excluded_parameter", detail));
        }
        (None, id, other) => id.or(other),
    };
    if is_with_body && let Err(scope) = who.may(Need::Read) {
        return Err(gate::problem(&Denied::Forbidden(scope)));
    }
    let permit = Arc::clone(&api.streams)
        .try_acquire_owned()
        .map_err(|_| Problem::unavailable("too_many_streams", "too many event streams are open"))?;
    let feed = api.reader.view().feed();
    // A position of another process, or none at all, is as lost as one that is no longer kept.
    let from = match last.map(|id| position(&api.epoch, id)) {
        None => Some(feed.head()),
        Some(known) => known,
    };
    let (sender, chunks) = mpsc::channel(4);
    let wanted = Wanted { order, is_with_body, who: who.clone() };
    let open = api.metrics.event_streams.clone();
    open.inc();
    tokio::spawn(async move {
        let _permit = permit;
        let out = wanted.who.clone();
        tokio::select! {
            () = stream(api, wanted, from, &sender) => {}
            // Its key is gone or its time over: the next try is told.
            () = out.is_out() => {}
        }
        open.dec();
        let _ = sender.send(Bytes::new()).await; // the end, if the client still waits for it
    });
    let mut answer = respond::content("text/event-stream", Body::stream(chunks));
    // Proxies that buffer would hold events back.
    answer.headers_mut().insert("x-accel-buffering", hyper::header::HeaderValue::from_static("no"));
    Ok(answer)
}

async fn stream(api: Arc<Api>, wanted: Wanted, from: Option<u64>, sender: &mpsc::Sender<Bytes>) {
    let feed = api.reader.view().feed();
    let mut head = feed.watch();
    let mut shutdown = api.shutdown.clone();
    let mut text = String::from(": connected\nretry: 1000\n");
    let mut next = if let Some(next) = from {
        // What changes before the first event is asked for from here.
        let _ = write!(text, "id: {}-{next}\n\n", api.epoch); // cannot fail
        next
    } else {
        let head = feed.head();
        text.push('\n');
        push_reset(&mut text, &api.epoch, head);
        head
    };
    let mut sent_at = Instant::now();
    loop {
        match feed.read(next, BURST) {
            Read::Lost(head) => {
                push_reset(&mut text, &api.epoch, head);
                next = head;
            }
            Read::Events(events) => {
                let mut has_lost = false;
                for event in &events {
                    next += 1;
                    match wanted.news(&api, event) {
                        News::Nothing => {}
                        News::Change => push_event(&mut text, &api.epoch, next, event, wanted.is_with_body),
                        News::Gone => push_gone(&mut text, &api.epoch, next, event),
                        News::Lost => has_lost = true,
                    }
                    if text.len() >= PIECE_BYTES {
                        break;
                    }
                }
                if has_lost {
                    push_reset(&mut text, &api.epoch, next);
                }
                if !events.is_empty() && text.is_empty() {
                    continue;
                }
            }
        }
        if !text.is_empty() {
            tokio::select! {
                sent = sender.send(std::mem::take(&mut text).into()) => if sent.is_err() { return },
                () = shutdown.wait() => return,
            }
            sent_at = Instant::now();
            continue;
        }
        tokio::select! {
            () = shutdown.wait() => return,
            changed = head.wait_for(|head| *head > next) => if changed.is_err() { return },
            () = sender.closed() => return,
            // Since something was sent: of what others hear this reader hears nothing.
            () = tokio::time::sleep(api.config.heartbeat.saturating_sub(sent_at.elapsed())) => text.push_str(": heartbeat\n\n"),
        }
    }
}

fn push_event(text: &mut String, epoch: &str, next: u64, event: &Event, is_with_body: bool) {
    let Event { snapshot, change, .. } = event;
    push_change(text, epoch, next, event, *change);
    if is_with_body && snapshot.state() != State::Tombstone {
        // A compact body has no line breaks: those inside strings are escaped.
        let _ = write!(text, ",\"order\":{}", String::from_utf8_lossy(&snapshot.flat().whole()));
    }
    text.push_str("}\n\n");
}

/// The last that a former owner is told of an order: nothing of what it is now.
fn push_gone(text: &mut String, epoch: &str, next: u64, event: &Event) {
    push_change(text, epoch, next, event, ChangeKind::Deleted);
    text.push_str("}\n\n");
}

fn push_change(text: &mut String, epoch: &str, next: u64, event: &Event, change: ChangeKind) {
    let (id, version, change) = (&event.id, event.snapshot.version(), change.as_str());
    // Writing to a string cannot fail.
    let _ = write!(
        text,
        "event: order\nid: {epoch}-{next}\ndata: \
         {{\"order_uid\":\"{id}\",\"version\":{version},\"change\":\"{change}\""
    );
}

fn push_reset(text: &mut String, epoch: &str, head: u64) {
    let _ = write!(text, "event: reset\nid: {epoch}-{head}\ndata: {{}}\n\n");
}

/// The feed position that an event's id names, if it is of this process.
fn position(epoch: &str, id: &str) -> Option<u64> {
    id.trim().strip_prefix(epoch)?.strip_prefix('-')?.parse().ok()
}
