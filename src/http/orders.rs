//! Reading orders: one, some, a page, all.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::body::{Body as _, Incoming};
use hyper::header::{CONTENT_ENCODING, CONTENT_TYPE, ETAG, EXPECT, HeaderMap, HeaderValue, LINK, VARY};
use hyper::{Response, StatusCode};
use sha2::{Digest, Sha256};
use tokio::sync::mpsc;

use super::Api;
use super::accept::{self, Accepted};
use super::body::Body;
use super::conditions::{self, DENSE, knows};
use super::query::Query;
use super::respond::{self, Answer, Face, Problem, X_MIN_VERSION, X_MISSING};
use super::route::segment;
use super::service::content_type;
use crate::access::Who;
use crate::cache::View;
use crate::cache::encodings::{EncodedBody, Encoding, Level};
use crate::cache::recent::List;
use crate::id::{IdError, OrderId, Version, parse_uuid};
use crate::read::{Found, ReadError, Reader};
use crate::snapshot::{OwnerTag, Snapshot, State};

/// The most ids one request may ask for.
pub const IDS_MAX: usize = 1000;
/// The longest list of ids in bytes: a thousand of the longest with their quotes and commas, and white space.
const IDS_BYTES_MAX: usize = 256 << 10;
/// Orders read from the store at once while everything is streamed, at most.
const STREAM_ROWS_MAX: usize = 256;
/// About the bytes that those may have: the larger the orders are, the fewer are read at once.
const STREAM_BYTES: usize = 1 << 20;
/// Lines are sent in pieces of about this size.
const LINES_BYTES: usize = 64 << 10;
/// Orders of a page that are read from the store at first; then twice as many each time, while they are small.
const PAGE_ROWS: usize = 64;

/// What the hit path came to.
pub enum Lookup {
    /// The answer.
    Ready(Answer),
    /// The store must be asked for this id.
    NeedsLoad(OrderId, Option<Version>),
}

/// A read of one order, as far as it goes without waiting.
pub fn look_up(api: &Api, id: &str, face: Face, headers: &HeaderMap, who: &Who) -> Lookup {
    let id = match parse_id(id) {
        Ok(id) => id,
        Err(error) => return Lookup::Ready(Problem::bad_id(error).answer(headers)),
    };
    let least = match min_version(headers) {
        Ok(least) => least,
        Err(problem) => return Lookup::Ready(problem.answer(headers)),
    };
    match api.reader.get(&id) {
        Found::Hit(snapshot)
            if least.is_none_or(|least| snapshot.version() >= least)
                && api.reader.is_seen(who.owner_tag(), &snapshot) =>
        {
            api.metrics.http.hit(1);
            Lookup::Ready(respond::order(snapshot, face, headers))
        }
        // While the store may be asked, it is: for an order of another as for one that there is
        // not.
        Found::Hit(_) | Found::Absent if least.is_none() && api.reader.is_known_absent(who.owner_tag()) => {
            api.metrics.http.miss();
            Lookup::Ready(Problem::no_order().answer(headers))
        }
        _ => {
            api.metrics.http.miss();
            Lookup::NeedsLoad(id, least)
        }
    }
}

/// An id as a path spells it. A legal id needs no percent-encoding, so decoding waits until one is not legal.
fn parse_id(raw: &str) -> Result<OrderId, IdError> {
    match OrderId::parse(raw.as_bytes()) {
        Err(_) if raw.contains('%') => OrderId::parse(segment(raw).as_bytes()),
        parsed => parsed,
    }
}

/// A read of one order, to its end.
pub async fn one_fully(api: &Api, id: &str, face: Face, headers: &HeaderMap, who: &Who) -> Answer {
    match look_up(api, id, face, headers, who) {
        Lookup::Ready(answer) => answer,
        Lookup::NeedsLoad(id, least) => load_order(api, id, least, face, headers, who).await,
    }
}

/// The rest of a read of one order.
pub async fn load_order(
    api: &Api,
    id: OrderId,
    least: Option<Version>,
    face: Face,
    headers: &HeaderMap,
    who: &Who,
) -> Answer {
    let found = match (least, who.owner()) {
        (Some(least), None) => api.reader.get_at_least(&id, least).await,
        (None, None) => api.reader.load(&id).await,
        (least, Some(owner)) => api.reader.load_owned(&id, least, owner.tag).await,
    };
    match (found, least) {
        (Ok(Some(snapshot)), _) => respond::order(snapshot, face, headers),
        (Ok(None), None) => Problem::no_order().answer(headers),
        (Ok(None), Some(least)) => version_not_reached(least).answer(headers),
        (Err(error), _) => Problem::from(error).answer(headers),
    }
}

fn version_not_reached(least: Version) -> Problem {
    let detail = format!("no copy of this order is at version {least} or newer");
    Problem::new(StatusCode::PRECONDITION_FAILED, "version_not_reached", detail)
}

/// `GET /orders/by-external/{external}?user_id={uuid}`
pub async fn by_external(
    api: &Api,
    external: String,
    query: &Query<'_>,
    headers: &HeaderMap,
    who: &Who,
) -> Result<Answer, Problem> {
    let user_id = query.get("user_id").and_then(|user_id| parse_uuid(user_id.as_bytes()));
    let user_id = user_id.ok_or_else(|| Problem::bad_request("invalid_user_id", "user_id must be a UUID"))?;
    if external.is_empty() {
        return Err(Problem::bad_request("invalid_id", "the external id is empty"));
    }
    let least = min_tag(headers)?;
    let user_id = user_id.hyphenated().to_string();
    // Another user's orders are not looked for, so how long that takes says nothing.
    let found = if who.sees(Some(OwnerTag::of(&user_id))) {
        let found = api.reader.by_external(user_id, external).await?;
        found.filter(|(_, snapshot)| api.reader.is_seen(who.owner_tag(), snapshot))
    } else {
        None
    };
    match (found, least) {
        // Of another order, which was this user's newest of that name before, it says nothing; and the store was asked,
        // so there is no newer copy to wait for.
        (Some((id, snapshot)), Some((of, least))) if id == of && snapshot.version() < least => {
            Err(version_not_reached(least))
        }
        (Some((id, snapshot)), _) => Ok(respond::named_order(&id, snapshot, headers)),
        (None, _) => Err(Problem::not_found("this user has no order with this external id")),
    }
}

/// `X-Min-Version` where the order is not named by the request: the tag that an answer had, of an order and its version.
fn min_tag(headers: &HeaderMap) -> Result<Option<(OrderId, Version)>, Problem> {
    let Some(value) = respond::once(headers, &X_MIN_VERSION)? else { return Ok(None) };
    let tag = value.to_str().ok().map(|text| text.trim().trim_matches('"')).and_then(|text| text.rsplit_once('-'));
    let read = tag.and_then(|(id, version)| Some((OrderId::parse(id.as_bytes()).ok()?, version.parse().ok()?)));
    read.map(Some).ok_or_else(|| {
        let detail = "X-Min-Version must be an order's id and its version here, as in an ETag: <id>-7";
        Problem::bad_request("invalid_min_version", detail)
    })
}

/// `GET /api/orders`, in all its forms.
pub async fn list(api: &Api, query: &Query<'_>, headers: &HeaderMap, who: &Who) -> Result<Answer, Problem> {
    conditions::no_min_version(headers)?;
    let (ids, limit, cursor) = (query.get("ids"), query.get("limit"), query.get("cursor"));
    let is_paged = limit.is_some() || cursor.is_some();
    let exclude = |detail: &'static str| Err(Problem::bad_request("excluded_parameter", detail));
    if let Some(ids) = ids {
        if is_paged {
            return exclude("ids picks orders, so there is no page of them: leave limit and cursor out");
        }
        let ids: Vec<&str> = if ids.is_empty() { Vec::new() } else { ids.split(',').map(str::trim).collect() };
        return get_many(api, &ids, who).await;
    }
    if accept::wants_lines(headers) {
        if is_paged {
            return exclude("lines are all orders, so there is no page of them: leave limit and cursor out");
        }
        return stream_all(api.reader.clone(), who.clone()).await;
    }
    let list_max = api.reader.view().config().list_max;
    let limit = match limit {
        None => list_max,
        Some(limit) => match limit.parse::<usize>() {
            Ok(limit) if limit > 0 => limit.min(list_max),
            _ => return Err(Problem::bad_request("invalid_limit", "limit must be a whole number of at least 1")),
        },
    };
    let invalid = || Problem::bad_request("invalid_cursor", "cursor must be one that a Link header gave");
    let before = cursor.map(|cursor| read_cursor(cursor).ok_or_else(invalid)).transpose()?;
    if let Some(owner) = who.owner() {
        return own_page(api, owner.tag, before, limit, headers).await;
    }
    let Some(before) = before else { return Ok(newest(api, limit, headers).await) };
    let (orders, has_more) = page(api, before, limit).await?;
    let last = orders.last().map(Snapshot::seq);
    let mut answer = respond::json(Body::array(orders));
    if has_more {
        link_next(&mut answer, last, limit);
    }
    Ok(answer)
}

/// A page of the orders of one owner, with a tag of its own: it changes with these orders and with
/// no others.
async fn own_page(
    api: &Api,
    owner: OwnerTag,
    before: Option<u64>,
    limit: usize,
    headers: &HeaderMap,
) -> Result<Answer, Problem> {
    let mut orders = api.reader.own_page(owner, before, limit + 1).await?;
    let fitting = fitting(api, &orders).min(limit);
    let has_more = orders.len() > fitting;
    orders.truncate(fitting);
    let last = orders.last().map(Snapshot::seq);
    if before.is_some() {
        let mut answer = respond::json(Body::array(orders));
        if has_more {
            link_next(&mut answer, last, limit);
        }
        return Ok(answer);
    }
    let mut digest = Sha256::new_with_prefix(format!("{}:{limit}:{has_more}", api.epoch));
    for order in &orders {
        digest.update(order.seq().to_be_bytes());
        digest.update(order.version().to_be_bytes());
    }
    let tag: String = digest.finalize().iter().take(16).map(|byte| format!("{byte:02x}")).collect();
    let etag = HeaderValue::try_from(format!("\"own-{tag}\"")).expect("hexadecimal digits in quotes");
    let mut answer =
        if knows(headers, &etag) { respond::not_modified(etag.clone()) } else { respond::json(Body::array(orders)) };
    answer.headers_mut().insert(ETAG, etag);
    if has_more {
        link_next(&mut answer, last, limit);
    }
    Ok(answer)
}

/// The newest orders before this one, as many as asked for or as an answer may have bytes, and whether there are more.
async fn page(api: &Api, before: u64, limit: usize) -> Result<(Vec<Snapshot>, bool), Problem> {
    let mut orders: Vec<Snapshot> = Vec::new();
    let mut rows = PAGE_ROWS;
    loop {
        let before = orders.last().map_or(before, Snapshot::seq);
        // One more than asked for tells whether there is a next page.
        let asked = rows.min(limit + 1 - orders.len());
        let page = api.reader.page(Some(before), asked).await?;
        let is_last = page.len() < asked;
        orders.extend(page.into_iter().map(|(_, snapshot)| snapshot));
        let fitting = fitting(api, &orders).min(limit);
        if fitting < orders.len() {
            orders.truncate(fitting);
            return Ok((orders, true));
        }
        if is_last {
            return Ok((orders, false));
        }
        rows *= 2;
    }
}

/// How many of these orders one answer may have: one at least, and as many as it may have bytes.
fn fitting(api: &Api, orders: &[Snapshot]) -> usize {
    let mut bytes = 0;
    let fit = |order: &&Snapshot| {
        bytes += order.flat().len() + 1;
        bytes <= api.config.answer_bytes_max
    };
    orders.iter().take_while(fit).count().max(1)
}

/// How long a client that takes nothing but a compressed list waits for one to be made.
const FORM_WAIT: Duration = Duration::from_secs(1);

/// The newest orders, from the ready list; compressed where that is ready too and the client takes it.
async fn newest(api: &Api, limit: usize, headers: &HeaderMap) -> Answer {
    let view = api.reader.view();
    let list = view.list();
    if limit < list.orders.len() || !view.compresses(&list) {
        // There is but one form, so what the client says of others has no bearing.
        return listed(api, &list, limit, None, headers);
    }
    let mut answer = match choose(view, list, &Accepted::of(headers)).await {
        Ok((list, encoding)) => {
            listed(api, &list, limit, encoding.and_then(|encoding| list.encoded(encoding)), headers)
        }
        Err(problem) => problem.answer(headers),
    };
    answer.headers_mut().insert(VARY, HeaderValue::from_static("Accept-Encoding"));
    answer
}

/// The list to be sent, and in which of its forms.
async fn choose(view: &View, list: Arc<List>, accepted: &Accepted) -> Result<(Arc<List>, Option<Encoding>), Problem> {
    let ready = |list: &List| ready_encoding(list, accepted);
    match accepted.encodings().next() {
        None if accepted.takes_plain => return Ok((list, None)),
        None => {
            let detail = "the list is to be had plain, as zstd and as gzip";
            return Err(Problem::new(StatusCode::NOT_ACCEPTABLE, "not_acceptable", detail));
        }
        Some(best) => view.ask_encoding(best),
    }
    let encoding = ready(&list);
    if encoding.is_some() || accepted.takes_plain {
        return Ok((list, encoding));
    }
    let wait = async {
        loop {
            let mut made = pin!(view.next_form_made());
            made.as_mut().enable(); // before the look, so that none is missed
            let list = view.list();
            let encoding = ready(&list);
            // Where no form pays there is but one again.
            let has_none = !view.compresses(&list) || accepted.encodings().all(|encoding| list.saves_nothing(encoding));
            if encoding.is_some() || has_none {
                return (list, encoding);
            }
            accepted.encodings().for_each(|encoding| view.ask_encoding(encoding));
            made.await;
        }
    };
    let late = |_| Problem::unavailable("unavailable", "the compressed list is not ready");
    tokio::time::timeout(FORM_WAIT, wait).await.map_err(late)
}

/// The encoding of the form that there is and that the client likes best.
pub fn ready_encoding(list: &List, accepted: &Accepted) -> Option<Encoding> {
    accepted.encodings().find(|&encoding| list.encoded(encoding).is_some())
}

/// The answer with the newest orders of a list, or with one of its forms.
fn listed(api: &Api, list: &List, limit: usize, form: Option<EncodedBody<'_>>, headers: &HeaderMap) -> Answer {
    let mut shown = &list.orders[..limit.min(list.orders.len())];
    if shown.len() < list.orders.len() {
        shown = &shown[..fitting(api, shown).min(shown.len())];
    }
    let is_whole = shown.len() == list.orders.len();
    let tag = list_tag(&api.epoch, list, shown.len());
    let mut etag = HeaderValue::try_from(encoded_tag(&tag, None)).expect("letters, digits and hyphens in quotes");
    let is_known = knows(headers, &etag);
    let mut answer = match &form {
        _ if is_known => respond::not_modified(etag.clone()),
        Some(form) => {
            let mut answer = respond::json(form.body.clone());
            answer.headers_mut().insert(CONTENT_ENCODING, HeaderValue::from_static(form.encoding.name()));
            answer
        }
        None if is_whole => respond::json(list.body.clone()),
        None => respond::json(Body::array(shown.to_vec())),
    };
    if form.is_some() {
        etag = HeaderValue::try_from(encoded_tag(&tag, form.as_ref())).expect("visible ASCII");
    }
    answer.headers_mut().insert(ETAG, etag);
    if list.has_more || !is_whole {
        link_next(&mut answer, shown.last().map(Snapshot::seq), limit);
    }
    answer
}

/// What stands between the quotes of the tag of the newest orders of a list.
pub fn list_tag(epoch: &str, list: &List, shown: usize) -> String {
    format!("{epoch}-{}-{shown}", list.generation)
}

/// The tag of what `tag` names, in quotes, in this form of it.
pub fn encoded_tag(tag: &str, form: Option<&EncodedBody<'_>>) -> String {
    match form {
        None => format!("\"{tag}\""),
        Some(form) => {
            let dense = if form.level == Level::Dense { DENSE } else { "" };
            format!("\"{tag}{dense}-{}\"", form.encoding.name())
        }
    }
}

/// What `Link` says of the page after the order of this rank.
pub fn next_page(last: u64, limit: usize) -> String {
    format!("</api/orders?limit={limit}&cursor={}>; rel=\"next\"", cursor(last))
}

/// Digits of a rank in a cursor: as many as the largest has, so that one that was cut is known by its length.
const RANK_DIGITS: usize = 13;
const CHECK_DIGITS: usize = 2;
/// A prime below 36². Neither it divides a difference of two digits nor 35: one digit that is another, and two that
/// changed places, change the rest.
const CHECK_MODULUS: u64 = 1291;

/// Where the page after the order of this rank starts, as its clients name it: the rank and two digits that check it.
#[must_use]
pub fn cursor(rank: u64) -> String {
    let mut digits = [b'0'; RANK_DIGITS + CHECK_DIGITS];
    let (to_rank, to_check) = digits.split_at_mut(RANK_DIGITS);
    for (mut number, to) in [(rank, to_rank), (rank.wrapping_add(1) % CHECK_MODULUS, to_check)] {
        for digit in to.iter_mut().rev() {
            *digit = b"0123456789abcdefghijklmnopqrstuvwxyz"[(number % 36) as usize];
            number /= 36;
        }
    }
    String::from_utf8_lossy(&digits).into_owned()
}

/// The rank in a cursor, if it is one that [`cursor`] makes.
fn read_cursor(text: &str) -> Option<u64> {
    let rank = text.get(..RANK_DIGITS).and_then(|digits| u64::from_str_radix(digits, 36).ok())?;
    (i64::try_from(rank).is_ok() && cursor(rank) == text).then_some(rank)
}

fn link_next(answer: &mut Answer, last: Option<u64>, limit: usize) {
    let Some(last) = last else { return };
    let link = HeaderValue::try_from(next_page(last, limit)).expect("visible ASCII");
    answer.headers_mut().insert(LINK, link);
}

/// All live orders, newest first, one a line, no faster than the client reads. A store that fails while they are sent
/// cuts the stream short.
async fn stream_all(reader: Reader, who: Who) -> Result<Answer, Problem> {
    // One that fails before that is an answer.
    let mut page = next_rows(&reader, &who, None, PAGE_ROWS).await?;
    let (sender, chunks) = mpsc::channel(2);
    tokio::spawn(async move {
        while let Some(last) = page.last() {
            if !who.is_in() {
                return; // its key is gone: the stream is cut short
            }
            let before = Some(last.seq());
            let bytes: usize = page.iter().map(|order| order.flat().len() + 1).sum();
            let rows = (STREAM_BYTES * page.len() / bytes).clamp(1, STREAM_ROWS_MAX);
            let mut lines = Vec::with_capacity(bytes.min(LINES_BYTES));
            let mut orders = page.into_iter().peekable();
            while let Some(order) = orders.next() {
                order.flat().append_to(&mut lines);
                lines.push(b'\n');
                if (lines.len() >= LINES_BYTES || orders.peek().is_none())
                    && sender.send(std::mem::take(&mut lines).into()).await.is_err()
                {
                    return; // the client hung up
                }
            }
            page = match next_rows(&reader, &who, before, rows).await {
                Ok(page) => page,
                Err(error) => {
                    tracing::warn!(error = %crate::process::log::causes(&error), "stream of all orders failed");
                    return;
                }
            };
        }
        let _ = sender.send(Bytes::new()).await; // the end, if the client still waits for it
    });
    Ok(ndjson(chunks))
}

/// The next orders of a stream, those of one owner where the caller sees no others.
async fn next_rows(reader: &Reader, who: &Who, before: Option<u64>, rows: usize) -> Result<Vec<Snapshot>, ReadError> {
    match who.owner() {
        Some(owner) => reader.own_page(owner.tag, before, rows).await,
        None => Ok(reader.next_page(before, rows).await?.into_iter().map(|(_, order)| order).collect()),
    }
}

/// `POST /api/orders/lookup`
pub async fn lookup(api: &Api, headers: &HeaderMap, body: &mut Option<Incoming>, who: &Who) -> Result<Answer, Problem> {
    conditions::none(headers)?;
    respond::plain_body(headers)?;
    if !content_type(headers)?.is_none_or(|kind| kind.ends_with("json")) {
        let detail = "send a JSON array of ids as application/json";
        return Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", detail));
    }
    let body = read_body(api, headers, body, IDS_BYTES_MAX).await?;
    let ids: Vec<String> = serde_json::from_slice(&body)
        .map_err(|error| Problem::bad_request("malformed", format!("the body must be a JSON array of ids: {error}")))?;
    get_many(api, &ids, who).await
}

/// The orders found, in the order asked.
async fn get_many(api: &Api, ids: &[impl AsRef<str>], who: &Who) -> Result<Answer, Problem> {
    if ids.len() > IDS_MAX {
        return Err(Problem::bad_request("too_many_ids", format!("at most {IDS_MAX} ids at once")));
    }
    let mut found = Vec::with_capacity(ids.len());
    let mut bytes = 0;
    for (index, id) in ids.iter().enumerate() {
        let id = OrderId::parse(id.as_ref().as_bytes()).map_err(Problem::bad_id)?;
        let order = match api.reader.get(&id) {
            Found::Hit(snapshot) if api.reader.is_seen(who.owner_tag(), &snapshot) => Some(snapshot),
            Found::Hit(_) | Found::Absent if api.reader.is_known_absent(who.owner_tag()) => None,
            _ => match who.owner() {
                None => api.reader.load(&id).await?,
                Some(owner) => api.reader.load_owned(&id, None, owner.tag).await?,
            },
        };
        let Some(order) = order.filter(|order| order.state() == State::Live) else { continue };
        bytes += order.flat().len() + 1;
        if bytes > api.config.answer_bytes_max && !found.is_empty() {
            let bytes_max = api.config.answer_bytes_max;
            let detail = format!(
                "these orders are more than {bytes_max} bytes; ask for the first {index} of them, then for the rest"
            );
            return Err(Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "answer_too_large", detail));
        }
        found.push(order);
    }
    let missing = ids.len() - found.len();
    let mut answer = respond::json(Body::array(found));
    answer.headers_mut().insert(X_MISSING, missing.into());
    Ok(answer)
}

/// `GET /api/stats`
pub async fn stats(api: &Api, headers: &HeaderMap, who: &Who) -> Result<Answer, Problem> {
    conditions::no_min_version(headers)?;
    if let Some(owner) = who.owner() {
        let count = api.reader.own_count(owner.tag).await?;
        let stats = serde_json::json!({"total_orders": count, "version": env!("CARGO_PKG_VERSION")});
        return Ok(respond::json(stats.to_string()));
    }
    let view = api.reader.view();
    let size = view.size();
    let mut stats = serde_json::json!({
        "total_orders": size.live,
        "view_orders": size.entries,
        "view_bytes": size.bytes,
        "view_complete": view.is_complete(),
        "uptime_seconds": api.started.elapsed().as_secs(),
        "version": env!("CARGO_PKG_VERSION"),
    });
    if api.reader.is_shareable() {
        stats["store_silent_seconds"] = view.silence().as_secs().into();
    }
    if !view.is_bounded() {
        stats["deleted_orders"] = (size.entries as u64).saturating_sub(size.live).into();
    }
    Ok(respond::json(stats.to_string()))
}

/// How much of a body that is too large is read and thrown away. A client that is still sending when the connection
/// closes loses the answer with it; beyond this it may.
const DISCARDED_BYTES_MAX: usize = 16 << 20;

/// How much is read of a body that is not needed.
const REST_BYTES_MAX: u64 = 64 << 10;

/// And for how long, both.
const DISCARD_TIME: Duration = Duration::from_secs(1);

/// A request's whole body, within a size and a time; it is taken once it was read. What does not come in one piece has room among the bodies on their
/// way: for all it says it will have at once, or for what has come of one that does not say.
pub async fn read_body(
    api: &Api,
    headers: &HeaderMap,
    whole_body: &mut Option<Incoming>,
    bytes_max: usize,
) -> Result<Bytes, Problem> {
    let Some(body) = whole_body else { return Ok(Bytes::new()) };
    let too_large = || {
        let detail = format!("the body is larger than {bytes_max} bytes");
        Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", detail)
    };
    let is_asking = headers.contains_key(EXPECT);
    let said = usize::try_from(body.size_hint().lower()).unwrap_or(usize::MAX);
    if is_asking && said > bytes_max {
        return Err(too_large()); // the client has not sent it yet, and need not
    }
    let whole = async {
        let (mut first, mut rest) = (Bytes::new(), BytesMut::new());
        let mut room = api.inbox.coming();
        let mut total = 0;
        let mut refused = (said > bytes_max).then(too_large);
        let mut enough = None;
        loop {
            if refused.is_some() {
                (first, rest) = Default::default();
                room.clear();
                enough.get_or_insert_with(|| tokio::time::Instant::now() + DISCARD_TIME);
            }
            let frame = match enough {
                None => body.frame().await,
                Some(enough) => tokio::time::timeout_at(enough, body.frame()).await.unwrap_or(None),
            };
            let Some(frame) = frame else { break };
            let frame = frame.map_err(|_| Problem::bad_request("malformed", "the body ended early"))?;
            let Ok(data) = frame.into_data() else { continue };
            total += data.len();
            if refused.is_some() {
                if total > bytes_max + DISCARDED_BYTES_MAX {
                    break;
                }
            } else if total > bytes_max {
                refused = Some(too_large());
            } else if total == said && rest.is_empty() {
                first = data; // nearly every order comes in one piece
            } else if let Err(full) = room.grow(said.max(total)) {
                refused = Some(full.into());
            } else {
                if rest.is_empty() {
                    rest.reserve(said);
                }
                rest.extend_from_slice(&data);
            }
        }
        match refused {
            Some(problem) => Err(problem),
            None if rest.is_empty() => Ok(first),
            None => Ok(rest.freeze()),
        }
    };
    let read = tokio::time::timeout(api.config.body_time, whole).await.unwrap_or_else(|_| {
        Err(Problem::new(StatusCode::REQUEST_TIMEOUT, "timeout", "the body did not arrive in time"))
    })?;
    *whole_body = None;
    Ok(read)
}

/// Reads what is left of a body that no route asked for, if that is little and on its way: the next request is behind it.
/// Returns whether one can follow.
pub async fn read_rest(headers: &HeaderMap, body: &mut Incoming) -> bool {
    if body.is_end_stream() {
        return true;
    }
    // A client that waits to be told so sends it or not.
    if headers.contains_key(EXPECT) || body.size_hint().lower() > REST_BYTES_MAX {
        return false;
    }
    let rest = async {
        let mut bytes = 0;
        while let Some(frame) = body.frame().await {
            let Ok(frame) = frame else { return false };
            bytes += frame.data_ref().map_or(0, |data| data.len() as u64);
            if bytes > REST_BYTES_MAX {
                return false;
            }
        }
        true
    };
    tokio::time::timeout(DISCARD_TIME, rest).await.unwrap_or(false)
}

fn min_version(headers: &HeaderMap) -> Result<Option<Version>, Problem> {
    let Some(value) = respond::once(headers, &X_MIN_VERSION)? else { return Ok(None) };
    let version = value.to_str().ok().and_then(|text| text.trim().trim_matches('"').parse().ok());
    version.map(Some).ok_or_else(|| Problem::bad_request("invalid_version", "X-Min-Version must be a whole number"))
}

/// 200 with `Content-Type` for a stream of lines.
pub fn ndjson(chunks: mpsc::Receiver<Bytes>) -> Answer {
    let mut answer = Response::new(Body::stream(chunks));
    answer.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/x-ndjson"));
    answer
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cursors_are_read_back() {
        for seq in [0, 1, 35, 36, 1_234_567, i64::MAX.unsigned_abs()] {
            assert_eq!(read_cursor(&cursor(seq)), Some(seq));
        }
        for text in ["", "00", "ABC", "zz", "+1", "1y2p0ij32e8e8", "3w5e11264sgsfx0", "a b", "äääääääää"] {
            assert_eq!(read_cursor(text), None, "{text}");
        }
    }

    #[test]
    fn cursors_that_were_cut_or_altered_are_none() {
        for seq in [0, 1, 35, 36, 1_234_567, 987_654_321_012, i64::MAX.unsigned_abs()] {
            let whole = cursor(seq);
            for at in 0..whole.len() {
                assert_eq!(read_cursor(&whole[..at]), None);
                assert_eq!(read_cursor(&whole[at + 1..]), None);
                for digit in
                    "0123456789abcdefghijklmnopqrstuvwxyzZ".chars().filter(|digit| !whole[at..].starts_with(*digit))
                {
                    let altered = format!("{}{digit}{}", &whole[..at], &whole[at + 1..]);
                    assert_eq!(read_cursor(&altered), None, "{altered}");
                }
                let mut swapped: Vec<char> = whole.chars().collect();
                if at > 0 && swapped[at] != swapped[at - 1] {
                    swapped.swap(at, at - 1);
                    let swapped: String = swapped.into_iter().collect();
                    assert_eq!(read_cursor(&swapped), None, "{swapped}");
                }
            }
            assert_eq!(read_cursor(&format!("{whole}0")), None);
        }
    }

    #[test]
    fn parameters_are_decoded() {}
}
