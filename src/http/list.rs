//! `GET /api/orders`: the newest orders, pages of older ones, and all of them as lines.

use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use hyper::StatusCode;
use hyper::header::{CONTENT_ENCODING, ETAG, HeaderMap, HeaderValue, LINK, VARY};
use sha2::{Digest, Sha256};
use tokio::sync::mpsc;

use super::accept::{self, Accepted};
use super::body::Body;
use super::etag::{encoded_tag, knows, list_tag};
use super::get_many::get_many;
use super::paging::{next_page, read_cursor};
use super::query::Query;
use super::respond::{self, Answer, Problem};
use super::{Api, conditions};
use crate::access::Who;
use crate::cache::View;
use crate::cache::encodings::{EncodedBody, Encoding};
use crate::cache::recent::List;
use crate::read::{ReadError, Reader};
use crate::snapshot::{OwnerTag, Snapshot};

/// Orders read from the store at once while everything is streamed, at most.
const STREAM_ROWS_MAX: usize = 256;
/// About the bytes that those may have: the larger the orders are, the fewer are read at once.
const STREAM_BYTES: usize = 1 << 20;
/// Lines are sent in pieces of about this size.
const LINES_BYTES: usize = 64 << 10;
/// Orders of a page that are read from the store at first; then twice as many each time, while they
/// are small.
const PAGE_ROWS: usize = 64;
/// How long a client that takes nothing but a compressed list waits for one to be made.
const FORM_WAIT: Duration = Duration::from_secs(1);

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

/// The newest orders before this one, as many as asked for or as an answer may have bytes, and
/// whether there are more.
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

/// The newest orders, from the ready list; compressed where that is ready too and the client takes
/// it.
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
    // The form that there is and that the client likes best.
    let ready = |list: &List| accepted.encodings().find(|&encoding| list.encoded(encoding).is_some());
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

fn link_next(answer: &mut Answer, last: Option<u64>, limit: usize) {
    let Some(last) = last else { return };
    let link = HeaderValue::try_from(next_page(last, limit)).expect("visible ASCII");
    answer.headers_mut().insert(LINK, link);
}

/// All live orders, newest first, one a line, no faster than the client reads. A store that fails
/// while they are sent cuts the stream short.
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
    Ok(respond::ndjson(chunks))
}

/// The next orders of a stream, those of one owner where the caller sees no others.
async fn next_rows(reader: &Reader, who: &Who, before: Option<u64>, rows: usize) -> Result<Vec<Snapshot>, ReadError> {
    match who.owner() {
        Some(owner) => reader.own_page(owner.tag, before, rows).await,
        None => Ok(reader.next_page(before, rows).await?.into_iter().map(|(_, order)| order).collect()),
    }
}
