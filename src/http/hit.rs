//! The hit path: plain reads of orders that are in the view, answered from what the socket brought to what it is given,
//! with the same bytes that hyper would write. Whatever asks for anything else is left to hyper, and the rules of HTTP
//! with it: a header field that could change the answer, an order that is not here, a query, an odd path.

use std::cell::{Cell, RefCell};
use std::mem::MaybeUninit;
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use hyper::Method;

use super::conn::{HELD_BYTES_MAX, HELD_PIECE_MAX, Rest, Taken};
use super::respond::Face;
use super::route::{self, Route};
use super::{Api, host};
use crate::id::OrderId;
use crate::read::Found;
use crate::snapshot::State;
use crate::store::Store;

/// Header fields of a plain read; requests with more are left to hyper.
const HEADERS_MAX: usize = 24;

/// The longest host that is not left to hyper.
const HOST_BYTES_MAX: usize = 255;

/// The longest head of an answer: its fixed text, two numbers of 20 digits and a date are 190 bytes.
const HEAD_BYTES_MAX: usize = 256;

/// Answers the requests at the front of `requests`, as far as they are hits, by appending to `answers`.
pub fn answer<T: Store>(api: &Api<T>, requests: &[u8], answers: &mut Vec<u8>) -> Taken {
    let started = Instant::now();
    let date = date();
    let (mut flat, mut wrapped) = (0, 0);
    let mut bytes = 0;
    let rest = loop {
        if bytes == requests.len() {
            break Rest::Nothing;
        }
        if answers.len() >= HELD_BYTES_MAX {
            break Rest::Unseen;
        }
        match answer_one(api, &requests[bytes..], &date, answers) {
            Ok((head, face)) => {
                bytes += head;
                match face {
                    Face::Flat => flat += 1,
                    Face::Wrapped => wrapped += 1,
                }
            }
            Err(rest) => break rest,
        }
    };
    let total = flat + wrapped;
    if total > 0 {
        // Clocks cost more than look-ups: what came together is timed together.
        let each = started.elapsed() / total;
        api.metrics.http.hit(total);
        for (route, count) in [(Route::Flat(""), flat), (Route::Wrapped(""), wrapped)] {
            if count > 0 {
                api.metrics.http.observe(route.endpoint(), route::method_index(&Method::GET), 200, each, count);
            }
        }
    }
    Taken { bytes, rest }
}

/// The length of the request, and what it asked for.
fn answer_one<T: Store>(
    api: &Api<T>,
    requests: &[u8],
    date: &Date,
    answers: &mut Vec<u8>,
) -> Result<(usize, Face), Rest> {
    let mut headers = [const { MaybeUninit::uninit() }; HEADERS_MAX];
    let mut request = httparse::Request::new(&mut []);
    let head = match request.parse_with_uninit_headers(requests, &mut headers) {
        Ok(httparse::Status::Complete(head)) => head,
        Ok(httparse::Status::Partial) => return Err(Rest::Part),
        Err(_) => return Err(Rest::Other(None)),
    };
    let other = || Rest::Other(whole(&request, head));
    if request.method != Some("GET") || request.version != Some(1) || request.headers.len() > api.config.headers_max {
        return Err(other());
    }
    let mut hosts = 0;
    for header in &*request.headers {
        if header.name.len() == "host".len() && header.name.eq_ignore_ascii_case("host") {
            if !is_host(header.value) {
                return Err(other());
            }
            hosts += 1;
        } else if matters(header) {
            return Err(other());
        }
    }
    if hosts != 1 {
        return Err(other());
    }
    let route = route::route(&Method::GET, request.path.unwrap_or_default());
    let (face, id) = match &route {
        Route::Flat(id) => (Face::Flat, id),
        Route::Wrapped(id) => (Face::Wrapped, id),
        _ => return Err(other()),
    };
    // An id has neither a percent sign nor a question mark.
    let id = OrderId::parse(id.as_bytes()).map_err(|_| other())?;
    let Found::Hit(snapshot) = api.reader.get(&id) else { return Err(other()) };
    let body = match face {
        Face::Flat => snapshot.flat(),
        Face::Wrapped => snapshot.wrapped(),
    };
    if snapshot.state() == State::Gone || body.len() > HELD_PIECE_MAX {
        return Err(other());
    }
    answers.reserve(HEAD_BYTES_MAX + body.len());
    answers.extend_from_slice(b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\netag: \"");
    answers.extend_from_slice(itoa::Buffer::new().format(snapshot.version()).as_bytes());
    answers.extend_from_slice(b"\"\r\ncache-control: no-cache\r\n");
    if api.varies_by_origin {
        answers.extend_from_slice(b"vary: Origin\r\n");
    }
    answers.extend_from_slice(b"content-length: ");
    answers.extend_from_slice(itoa::Buffer::new().format(body.len()).as_bytes());
    answers.extend_from_slice(b"\r\ndate: ");
    answers.extend_from_slice(date);
    answers.extend_from_slice(b"\r\n\r\n");
    body.append_to(answers);
    Ok((head, face))
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

/// Whether a header field could make the answer another, or the connection.
fn matters(header: &httparse::Header<'_>) -> bool {
    const FIELDS: [&str; 10] = [
        "te",
        "expect",
        "origin",
        "upgrade",
        "if-match",
        "connection",
        "if-none-match",
        "x-min-version",
        "content-length",
        "transfer-encoding",
    ];
    // Few names have a length that one of these has.
    let name = header.name;
    matches!(name.len(), 2 | 6 | 7 | 8 | 10 | 13 | 14 | 17)
        && FIELDS.iter().any(|field| name.eq_ignore_ascii_case(field))
        && !(name.len() == "connection".len() && header.value.eq_ignore_ascii_case(b"keep-alive"))
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
