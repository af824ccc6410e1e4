//! Requests in, answers out: pure, so that it is tested without a socket.

use std::io::IoSlice;
use std::time::SystemTime;

use crate::orders::Orders;

/// Header fields of a request; more are answered 400.
const FIELDS_MAX: usize = 32;

/// The Date header, made once a second.
pub struct Date {
    second: u64,
    text: String,
}

impl Date {
    /// The date of `now`.
    pub fn new(now: SystemTime) -> Self {
        Self { second: second(now), text: httpdate::fmt_http_date(now) }
    }

    /// Makes it again if the second has passed.
    pub fn update(&mut self, now: SystemTime) {
        if second(now) != self.second {
            *self = Self::new(now);
        }
    }
}

fn second(time: SystemTime) -> u64 {
    time.duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// What goes out for what one read brought, in one write.
#[derive(Default)]
pub struct Answers {
    copied: Vec<u8>,
    /// Ready bytes, which go out from where they are, and how many copied ones go before each.
    ready: Vec<(usize, &'static [u8])>,
}

impl Answers {
    /// Forgets all, and keeps the memory.
    pub fn clear(&mut self) {
        self.copied.clear();
        self.ready.clear();
    }

    /// The pieces, in order; `Ok` is ready for as long as the process lives, `Err` is copied.
    pub fn pieces(&self) -> impl Iterator<Item = Result<&'static [u8], &[u8]>> {
        let ends = self.ready.iter().map(|(end, ready)| (*end, Some(*ready)));
        let mut from = 0;
        ends.chain([(self.copied.len(), None)])
            .flat_map(move |(end, ready)| {
                let copied = &self.copied[from..end];
                from = end;
                [Some(Err(copied)), ready.map(Ok)]
            })
            .flatten()
            .filter(|piece| !piece.unwrap_or_else(|copied| copied).is_empty())
    }

    /// The only piece, when there is but one.
    pub fn single(&self) -> Option<&[u8]> {
        self.ready.is_empty().then_some(&self.copied)
    }

    /// The pieces, in order, for the kernel.
    pub fn slices(&self) -> Vec<IoSlice<'_>> {
        self.pieces().map(|piece| IoSlice::new(piece.unwrap_or_else(|copied| copied))).collect()
    }

    fn head(&mut self, status: &str, length: usize, fields: &[&str], date: &Date) {
        let mut digits = itoa::Buffer::new();
        let out = &mut self.copied;
        for text in [status, "content-type: application/json\r\n"].iter().chain(fields) {
            out.extend_from_slice(text.as_bytes());
        }
        out.extend_from_slice(b"cache-control: no-cache\r\ncontent-length: ");
        out.extend_from_slice(digits.format(length).as_bytes());
        out.extend_from_slice(b"\r\ndate: ");
        out.extend_from_slice(date.text.as_bytes());
        out.extend_from_slice(b"\r\n\r\n");
    }
}

/// What became of the bytes of a read.
#[derive(Debug, PartialEq, Eq)]
pub struct Taken {
    /// Bytes of whole requests, all answered. What follows them is the beginning of the next one.
    pub bytes: usize,
    /// No more requests are taken on this connection.
    pub is_last: bool,
}

const OK: &str = "HTTP/1.1 200 OK\r\n";

/// Answers all whole requests of `input`.
pub fn answer(input: &[u8], orders: &'static Orders, date: &Date, out: &mut Answers) -> Taken {
    let mut taken = Taken { bytes: 0, is_last: false };
    while taken.bytes < input.len() && !taken.is_last {
        let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
        let mut request = httparse::Request::new(&mut fields);
        match request.parse(&input[taken.bytes..]) {
            Ok(httparse::Status::Partial) => break,
            Ok(httparse::Status::Complete(length)) => {
                taken.bytes += length;
                taken.is_last = is_last(&request);
                respond(&request, orders, date, out);
            }
            Err(_) => {
                taken = Taken { bytes: input.len(), is_last: true };
                out.head("HTTP/1.1 400 Bad Request\r\n", 0, &["connection: close\r\n"], date);
            }
        }
    }
    taken
}

fn respond(request: &httparse::Request<'_, '_>, orders: &'static Orders, date: &Date, out: &mut Answers) {
    // A complete request has both.
    let (method, path) = (request.method.unwrap_or_default(), request.path.unwrap_or_default());
    if method != "GET" {
        return out.head("HTTP/1.1 405 Method Not Allowed\r\n", 0, &["allow: GET\r\n"], date);
    }
    if let Some(id) = path.strip_prefix("/order/") {
        let is_there = orders.with(id.as_bytes(), |order| {
            out.head(OK, order.len(), &["etag: \"1\"\r\n"], date);
            out.copied.extend_from_slice(order);
        });
        if is_there {
            return;
        }
    } else if path == "/api/orders" {
        return list(request, orders, date, out);
    } else if let Some(limit) = path.strip_prefix("/api/orders?limit=").and_then(|limit| limit.parse().ok()) {
        let mut list = Vec::new();
        orders.write_newest(limit, &mut list);
        out.head(OK, list.len(), &["etag: \"page\"\r\n"], date);
        return out.copied.extend_from_slice(&list);
    }
    out.head("HTTP/1.1 404 Not Found\r\n", 0, &[], date);
}

fn list(request: &httparse::Request<'_, '_>, orders: &'static Orders, date: &Date, out: &mut Answers) {
    let gzip = orders.list_gzip.as_deref().filter(|_| {
        field(request, "accept-encoding")
            .is_some_and(|codings| codings.split(',').any(|coding| coding.trim() == "gzip"))
    });
    let body = if let Some(gzip) = gzip {
        out.head(OK, gzip.len(), &["etag: \"list-gzip\"\r\ncontent-encoding: gzip\r\nvary: accept-encoding\r\n"], date);
        gzip
    } else {
        out.head(OK, orders.list.len(), &["etag: \"list\"\r\n"], date);
        &orders.list
    };
    out.ready.push((out.copied.len(), body));
}

/// A body is not read, so nothing can be read after it.
fn is_last(request: &httparse::Request<'_, '_>) -> bool {
    let is_close = field(request, "connection").map(|options| options.eq_ignore_ascii_case("close"));
    is_close.unwrap_or(request.version == Some(0))
        || field(request, "content-length").is_some_and(|length| length != "0")
        || field(request, "transfer-encoding").is_some()
}

fn field<'a>(request: &'a httparse::Request<'_, '_>, name: &str) -> Option<&'a str> {
    let field = request.headers.iter().find(|field| field.name.eq_ignore_ascii_case(name))?;
    std::str::from_utf8(field.value).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINES: &[u8] = b"{\"order_uid\":\"b\",\"n\":2}\n{\"order_uid\":\"a\",\"n\":1}\n";

    fn orders() -> &'static Orders {
        let mut orders = Orders::from_lines(LINES).unwrap();
        orders.list_gzip = Some(b"compressed".as_slice().into());
        Box::leak(Box::new(orders))
    }

    fn ask(input: &str) -> (Taken, String) {
        let mut out = Answers::default();
        let taken = answer(input.as_bytes(), orders(), &Date::new(SystemTime::UNIX_EPOCH), &mut out);
        let bytes: Vec<u8> = out.pieces().flat_map(|piece| piece.unwrap_or_else(|copied| copied)).copied().collect();
        assert_eq!(out.slices().iter().map(|slice| slice.len()).sum::<usize>(), bytes.len());
        (taken, String::from_utf8(bytes).unwrap())
    }

    #[test]
    fn an_order_has_the_head_that_the_service_gives_it() {
        let (taken, text) = ask("GET /order/a HTTP/1.1\r\nHost: x\r\n\r\n");
        assert_eq!(taken, Taken { bytes: 34, is_last: false });
        let head = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\netag: \"1\"\r\ncache-control: no-cache\r\n\
            content-length: 23\r\ndate: Thu, 01 Jan 1970 00:00:00 GMT\r\n\r\n";
        assert_eq!(text, format!("{head}{{\"order_uid\":\"a\",\"n\":1}}"));
    }

    #[test]
    fn pipelined_requests_are_answered_in_order_and_the_rest_is_kept() {
        let whole = "GET /order/a HTTP/1.1\r\n\r\nGET /api/orders HTTP/1.1\r\n\r\nGET /order/none HTTP/1.1\r\n\r\n";
        let (taken, text) = ask(&format!("{whole}GET /order/b HT"));
        assert_eq!(taken, Taken { bytes: whole.len(), is_last: false });
        let list = "[{\"order_uid\":\"b\",\"n\":2},{\"order_uid\":\"a\",\"n\":1}]";
        let starts: Vec<_> = text.match_indices("HTTP/1.1 ").map(|(at, _)| &text[at + 9..at + 12]).collect();
        assert_eq!(starts, ["200", "200", "404"]);
        assert!(text.contains(list), "{text}");
    }

    #[test]
    fn a_page_holds_as_many_as_asked_for() {
        assert!(ask("GET /api/orders?limit=1 HTTP/1.1\r\n\r\n").1.ends_with("\r\n\r\n[{\"order_uid\":\"b\",\"n\":2}]"));
    }

    #[test]
    fn who_accepts_gzip_gets_it() {
        let (_, text) = ask("GET /api/orders HTTP/1.1\r\nAccept-Encoding: br, gzip\r\n\r\n");
        assert!(text.contains("content-encoding: gzip\r\n") && text.ends_with("\r\n\r\ncompressed"), "{text}");
    }

    #[test]
    fn what_cannot_be_read_ends_the_connection() {
        assert!(ask("GET /order/a HTTP/1.1\r\nConnection: close\r\n\r\n").0.is_last);
        assert!(ask("GET /order/a HTTP/1.0\r\n\r\n").0.is_last);
        assert!(ask("POST /orders HTTP/1.1\r\nContent-Length: 3\r\n\r\nabc").0.is_last);
        let (taken, text) = ask("no request\r\n\r\n");
        assert!(taken.is_last && text.starts_with("HTTP/1.1 400 "), "{text}");
    }
}
