//! The hit path: reads of orders that are in the view, and of the ready list, answered from what the socket brought
//! to what it is given, with the same bytes that hyper would write. Whatever asks for anything else is left to
//! hyper, and the rules of HTTP with it: a header field that could change the answer in another way, an order that
//! is not here, a query, an odd path.

use std::cell::{Cell, RefCell};
use std::mem::MaybeUninit;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use hyper::Method;

use super::accept::Accepted;
use super::door::{Door, Guarded, Open};
use super::route::{self, Route};
use super::socket::{Consumed, HELD_BYTES_MAX, HELD_PIECE_MAX, Held, Remainder, foreign};
use super::{Api, etag, gate, host, paging};
use crate::access::address::Peer;
use crate::access::rate::{Bucket, Limited, Rate};
use crate::access::{Denied, Glance, LastPass, Shown};
use crate::id::OrderId;
use crate::process::log::random_id;
use crate::read::Found;
use crate::snapshot::{OwnerTag, State};

/// Header fields of a plain read; requests with more are left to hyper.
const HEADERS_MAX: usize = 24;

/// The longest host that is not left to hyper.
const HOST_BYTES_MAX: usize = 255;

/// The longest head of an answer: its fixed text, two numbers of 20 digits and a date are 190 bytes.
const HEAD_BYTES_MAX: usize = 256;

/// What an answer is counted as: its route, method and status.
const KINDS: [(usize, usize, u16); 12] = {
    const ROUTES: [Route<'_>; 3] = [Route::Flat(""), Route::Wrapped(""), Route::List];
    let mut kinds = [(0, 0, 0); 12];
    let mut kind = 0;
    while kind < kinds.len() {
        let method = if kind & IS_HEAD == 0 { Method::GET } else { Method::HEAD };
        let status = if kind & IS_KNOWN == 0 { 200 } else { 304 };
        kinds[kind] = (ROUTES[kind / OF_ROUTE].endpoint(), route::method_index(&method), status);
        kind += 1;
    }
    kinds
};
/// Parts of an index into [`KINDS`].
const IS_HEAD: usize = 1;
const IS_KNOWN: usize = 2;
/// So many kinds are of each route.
const OF_ROUTE: usize = 4;
const WRAPPED: usize = OF_ROUTE;
const LIST: usize = 2 * OF_ROUTE;
/// Beyond [`KINDS`]: refused, and counted already.
const REFUSED: usize = usize::MAX;

/// Answers the requests at the front of `requests`, as far as they are hits, by appending to `answers`.
pub fn answer(api: &Api, requests: &[u8], answers: &mut Held) -> Consumed {
    answer_all(api, Open, requests, answers)
}

/// The same where requests have to be let in.
pub fn answer_guarded(
    api: &Api,
    peer: &Peer,
    last: &RefCell<LastPass>,
    requests: &[u8],
    answers: &mut Held,
) -> Consumed {
    if api.access.audits_reads() {
        return Consumed { bytes: 0, rest: Remainder::Other(None) }; // there each read is noted
    }
    answer_all(api, Guarded { access: &api.access, peer, last }, requests, answers)
}

fn answer_all<D: Door>(api: &Api, door: D, requests: &[u8], answers: &mut Held) -> Consumed {
    let started = Instant::now();
    let date = date();
    // Nearly always all are of one kind.
    let (mut counts, mut met) = ([0_u32; KINDS.len()], 0_u32);
    let mut bytes = 0;
    let rest = loop {
        if bytes == requests.len() {
            break Remainder::Nothing;
        }
        if answers.bytes.len() >= HELD_BYTES_MAX || !answers.body.is_empty() {
            break Remainder::Unseen;
        }
        match answer_one(api, door, (&requests[bytes..], started), &date, answers) {
            Ok((head, kind)) => {
                bytes += head;
                if D::IS_GUARDED && kind == REFUSED {
                    continue;
                }
                counts[kind] += 1;
                met |= 1 << kind;
            }
            Err(rest) => break rest,
        }
    };
    if met != 0 {
        // Clocks cost more than look-ups: what came together is timed together.
        let each = started.elapsed() / counts.iter().sum::<u32>();
        while met != 0 {
            let kind = met.trailing_zeros() as usize;
            met &= met - 1;
            let (route, method, status) = KINDS[kind];
            api.metrics.requests.observe(route, method, status, each, counts[kind]);
            if kind < LIST {
                api.metrics.requests.hit(counts[kind]);
            }
        }
    }
    Consumed { bytes, rest }
}

/// The fields of a request that its answer depends on.
#[derive(Default)]
struct Asked<'r> {
    if_none_match: Option<&'r [u8]>,
    accept: Option<&'r [u8]>,
    accept_encoding: Option<&'r [u8]>,
    authorization: Option<&'r [u8]>,
    api_key: Option<&'r [u8]>,
}

/// The length of the request, and what it is counted as: see [`KINDS`].
fn answer_one<D: Door>(
    api: &Api,
    door: D,
    (requests, started): (&[u8], Instant),
    date: &Date,
    answers: &mut Held,
) -> Result<(usize, usize), Remainder> {
    let mut headers = [const { MaybeUninit::uninit() }; HEADERS_MAX];
    let mut request = httparse::Request::new(&mut []);
    let head = match request.parse_with_uninit_headers(requests, &mut headers) {
        Ok(httparse::Status::Complete(head)) => head,
        Ok(httparse::Status::Partial) => return Err(Remainder::Part),
        Err(_) => return Err(foreign(requests)),
    };
    let other = || Remainder::Other(whole(&request, head));
    let method = match request.method {
        Some("GET") => 0,
        Some("HEAD") => IS_HEAD,
        _ => return Err(other()),
    };
    if request.version != Some(1) || request.headers.len() > api.config.headers_max {
        return Err(other());
    }
    let (mut hosts, mut asked) = (0, Asked::default());
    for header in &*request.headers {
        let once = match field::<D>(header) {
            Field::Idle => continue,
            Field::Host if is_host(header.value) => {
                hosts += 1;
                continue;
            }
            Field::Host | Field::Other => return Err(other()),
            Field::IfNoneMatch => &mut asked.if_none_match,
            Field::Accept => &mut asked.accept,
            Field::AcceptEncoding => &mut asked.accept_encoding,
            Field::Authorization => &mut asked.authorization,
            Field::ApiKey => &mut asked.api_key,
        };
        // Several make a list.
        if once.replace(header.value).is_some() {
            return Err(other());
        }
    }
    if hosts != 1 {
        return Err(other());
    }
    let path = request.path.unwrap_or_default();
    let route = route::route(&Method::GET, path);
    let (mut owner, mut cost) = (None, None);
    if D::IS_GUARDED {
        match let_in(door, &route, &asked, started) {
            Ok(let_in) => (owner, cost) = let_in,
            Err(Some(limited)) => {
                refuse(api, &route, method, &limited, date, answers);
                return Ok((head, REFUSED));
            }
            Err(None) => return Err(other()),
        }
    }
    let kind = match route {
        Route::Flat(id) => get_order(api, (id, owner), 0, method, &asked, date, answers),
        Route::Wrapped(id) => get_order(api, (id, owner), WRAPPED, method, &asked, date, answers),
        Route::List if owner.is_none() => list(api, method, &asked, date, answers),
        _ => None,
    };
    if let (Some(cost), Some(_)) = (cost, kind) {
        door.charge(cost, started);
    }
    kind.map(|kind| (head, kind)).ok_or_else(other)
}

/// Whose orders alone a read may see, and what it costs; or that it comes too often, or that hyper
/// has to answer.
fn let_in<D: Door>(door: D, route: &Route<'_>, asked: &Asked<'_>, started: Instant) -> Result<LetIn, Option<Limited>> {
    if !matches!(route, Route::Flat(_) | Route::Wrapped(_) | Route::List) {
        return Err(None);
    }
    let shown = Shown { authorization: asked.authorization, api_key: asked.api_key };
    match door.quick(shown, started) {
        Glance::Pass(owner, cost) => Ok((owner, cost)),
        Glance::Limited(limited) if asked.accept.is_none_or(|accept| !may_name_text(accept)) => Err(Some(limited)),
        Glance::Limited(_) | Glance::Ask => Err(None),
    }
}

/// See [`let_in`].
type LetIn = (Option<OwnerTag>, Option<(Bucket, Rate)>);

/// Appends the answer with one order. `None` where hyper has to answer.
fn get_order(
    api: &Api,
    (id, owner): (&str, Option<OwnerTag>),
    face: usize,
    method: usize,
    asked: &Asked<'_>,
    date: &Date,
    answers: &mut Held,
) -> Option<usize> {
    // An id has neither a percent sign nor a question mark.
    let id = OrderId::parse(id.as_bytes()).ok()?;
    let Found::Hit(snapshot) = api.reader.get(&id) else { return None };
    if owner.is_some() && snapshot.owner() != owner {
        return None;
    }
    let body = if face == WRAPPED { snapshot.wrapped() } else { snapshot.flat() };
    if snapshot.state() == State::Tombstone || body.len() > HELD_PIECE_MAX {
        return None;
    }
    let mut version = itoa::Buffer::new();
    let version = version.format(snapshot.version()).as_bytes();
    let known = match asked.if_none_match {
        Some(tags) if etag::names(tags, version) => IS_KNOWN,
        _ => 0,
    };
    let answers = &mut answers.bytes;
    answers.reserve(HEAD_BYTES_MAX + if known == 0 { body.len() } else { 0 });
    answers.extend_from_slice(match known {
        0 => b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\netag: \"",
        _ => b"HTTP/1.1 304 Not Modified\r\netag: \"",
    });
    answers.extend_from_slice(version);
    answers.extend_from_slice(b"\"\r\ncache-control: no-cache\r\n");
    if api.varies_by_origin {
        answers.extend_from_slice(b"vary: Origin\r\n");
    }
    end_head(answers, (known == 0).then_some(body.len()), date);
    if known == 0 && method == 0 {
        body.append_to(answers);
    }
    Some(face + method + known)
}

/// Appends the answer with the newest orders: the ready list, plain or in a form that is there. `None` where hyper has to
/// answer.
fn list(api: &Api, method: usize, asked: &Asked<'_>, date: &Date, answers: &mut Held) -> Option<usize> {
    if asked.accept.is_some_and(may_name_lines) {
        return None;
    }
    let view = api.reader.view();
    let list = view.list();
    let is_compressed = view.compresses(&list);
    let mut form = None;
    if is_compressed && let Some(text) = asked.accept_encoding {
        let accepted = Accepted::read(std::iter::once(std::str::from_utf8(text).ok()?));
        match accepted.encodings().next() {
            Some(best) => view.ask_encoding(best),
            None if accepted.takes_plain => {}
            None => return None,
        }
        form = accepted.encodings().find_map(|encoding| list.encoded(encoding));
        if form.is_none() && !accepted.takes_plain {
            return None;
        }
    }
    let tag = etag::list_tag(&api.epoch, &list, list.orders.len());
    let known = match asked.if_none_match {
        Some(tags) if etag::names(tags, tag.as_bytes()) => IS_KNOWN,
        _ => 0,
    };
    let body = form.as_ref().map_or(&list.body, |form| form.body);
    let head = &mut answers.bytes;
    match known {
        0 => {
            head.extend_from_slice(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncache-control: no-cache\r\n");
            if let Some(form) = &form {
                head.extend_from_slice(b"content-encoding: ");
                head.extend_from_slice(form.encoding.name().as_bytes());
                head.extend_from_slice(b"\r\n");
            }
            head.extend_from_slice(b"etag: ");
        }
        _ => head.extend_from_slice(b"HTTP/1.1 304 Not Modified\r\netag: "),
    }
    head.extend_from_slice(etag::encoded_tag(&tag, form.as_ref()).as_bytes());
    head.extend_from_slice(if known == 0 { b"\r\n" } else { b"\r\ncache-control: no-cache\r\n" });
    if list.has_more
        && let Some(last) = list.orders.last()
    {
        head.extend_from_slice(b"link: ");
        head.extend_from_slice(paging::next_page(last.seq(), view.config().list_max).as_bytes());
        head.extend_from_slice(b"\r\n");
    }
    if is_compressed {
        head.extend_from_slice(b"vary: Accept-Encoding\r\n");
    }
    if api.varies_by_origin {
        head.extend_from_slice(b"vary: Origin\r\n");
    }
    end_head(head, (known == 0).then_some(body.len()), date);
    if known == 0 && method == 0 {
        if body.len() <= HELD_PIECE_MAX {
            head.extend_from_slice(body);
        } else {
            answers.body = body.clone();
        }
    }
    Some(LIST + method + known)
}

/// Ends the head of an answer.
fn end_head(answers: &mut Vec<u8>, length: Option<usize>, date: &Date) {
    if let Some(length) = length {
        answers.extend_from_slice(b"content-length: ");
        answers.extend_from_slice(itoa::Buffer::new().format(length).as_bytes());
        answers.extend_from_slice(b"\r\n");
    }
    answers.extend_from_slice(b"date: ");
    answers.extend_from_slice(date);
    answers.extend_from_slice(b"\r\n\r\n");
}

/// Appends the answer to a read that comes too often, and counts it. It costs less than a hit: what
/// it says is made once for as long as it is the same.
fn refuse(api: &Api, route: &Route<'_>, method: usize, limited: &Limited, date: &Date, answers: &mut Held) {
    /// Of which rate and wait, the fields, and the body.
    type Made = (Option<(Rate, u64)>, String, String);
    thread_local! {
        static MADE: RefCell<Made> = const { RefCell::new((None, String::new(), String::new())) };
    }
    MADE.with_borrow_mut(|(of, fields, body)| {
        let now = Some((limited.rate, limited.wait_seconds()));
        if *of != now {
            (*fields, *body) = gate::limited_answer(limited);
            *of = now;
        }
        let answers = &mut answers.bytes;
        answers.extend_from_slice(fields.as_bytes());
        answers.extend_from_slice(b"x-request-id: ");
        answers.extend_from_slice(&random_id());
        answers.extend_from_slice(b"\r\n");
        if api.varies_by_origin {
            answers.extend_from_slice(b"vary: Origin\r\n");
        }
        end_head(answers, None, date);
        if method == 0 {
            answers.extend_from_slice(body.as_bytes());
        }
    });
    api.access.count_refusal(&Denied::TooOften(*limited));
    let name = route::method_index(if method == 0 { &Method::GET } else { &Method::HEAD });
    api.metrics.requests.observe(route.endpoint(), name, 429, Duration::ZERO, 1);
}

/// Whether a client may like plain text better.
fn may_name_text(accept: &[u8]) -> bool {
    accept.windows(5).any(|part| part.eq_ignore_ascii_case(b"text/"))
}

/// Whether a client may ask for lines instead of a list.
fn may_name_lines(accept: &[u8]) -> bool {
    let holds = |word: &[u8]| accept.windows(word.len()).any(|part| part.eq_ignore_ascii_case(word));
    holds(b"ndjson") || holds(b"jsonl")
}

/// Whether a value may be that of `Host`. Nearly all that a thread is asked name the same one: to compare it is less than to
/// look at each character.
fn is_host(value: &[u8]) -> bool {
    thread_local! {
        static LAST: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
    }
    LAST.with_borrow_mut(|last| {
        if *last == value {
            return true;
        }
        let is_legal = value.len() <= HOST_BYTES_MAX && host::is_legal(value);
        if is_legal {
            last.clear();
            last.extend_from_slice(value);
        }
        is_legal
    })
}

/// What a header field means for the answer.
enum Field {
    /// Nothing.
    Idle,
    Host,
    IfNoneMatch,
    Accept,
    AcceptEncoding,
    Authorization,
    ApiKey,
    /// It could make the answer another, or the connection, in ways that are hyper's and its handlers' to know.
    Other,
}

fn field<D: Door>(header: &httparse::Header<'_>) -> Field {
    let is = |name: &str| header.name.eq_ignore_ascii_case(name);
    let is_other = |is_it: bool| if is_it { Field::Other } else { Field::Idle };
    // Few names have a length that one of these has.
    match header.name.len() {
        2 => is_other(is("te")),
        4 if is("host") => Field::Host,
        6 if is("accept") => Field::Accept,
        6 => is_other(is("expect") || is("origin")),
        7 => is_other(is("upgrade")),
        8 => is_other(is("if-match")),
        9 if D::IS_GUARDED && (header.name == "X-API-Key" || is("x-api-key")) => Field::ApiKey,
        10 => is_other(is("connection") && !header.value.eq_ignore_ascii_case(b"keep-alive")),
        // The usual spellings are compared as they are: letter by letter costs ten times as much.
        13 if D::IS_GUARDED && (matches!(header.name, "Authorization" | "authorization") || is("authorization")) => {
            Field::Authorization
        }
        13 if is("if-none-match") => Field::IfNoneMatch,
        13 => is_other(is("x-min-version")),
        14 => is_other(is("content-length")),
        15 if is("accept-encoding") => Field::AcceptEncoding,
        17 => is_other(is("transfer-encoding")),
        _ => Field::Idle,
    }
}

/// The bytes of a request with its body, where its header fields say that plainly.
fn whole(request: &httparse::Request<'_, '_>, head: usize) -> Option<usize> {
    let mut body = None;
    for header in &*request.headers {
        if header.name.eq_ignore_ascii_case("transfer-encoding") || header.name.eq_ignore_ascii_case("upgrade") {
            return None;
        }
        if header.name.eq_ignore_ascii_case("content-length") {
            let length = std::str::from_utf8(header.value).ok()?.parse::<usize>().ok()?;
            if body.replace(length).is_some() {
                return None;
            }
        }
    }
    head.checked_add(body.unwrap_or_default())
}

/// What `Date` says.
type Date = [u8; 29];

/// The time, written once a second by each thread.
fn date() -> Date {
    thread_local! {
        static WRITTEN: Cell<(SystemTime, Date)> = const { Cell::new((UNIX_EPOCH, [0; 29])) };
    }
    let now = SystemTime::now();
    let (until, date) = WRITTEN.get();
    // A clock that was set back is noticed too.
    if now < until && until <= now + Duration::from_secs(1) {
        return date;
    }
    let mut date = [0; 29];
    date.copy_from_slice(httpdate::fmt_http_date(now).as_bytes());
    let nanos = now.duration_since(UNIX_EPOCH).unwrap_or_default().subsec_nanos();
    WRITTEN.set((now + Duration::from_secs(1) - Duration::from_nanos(nanos.into()), date));
    date
}
