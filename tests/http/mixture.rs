//! Requests drawn from everything that could send them another way: each is answered in a pipeline, cut in pieces
//! anywhere, as hyper answers it alone. `ORDER_MIXTURE_REQUESTS` says how many, `ORDER_MIXTURE_SEED` repeats a run.

use std::collections::HashMap;
use std::io::Write as _;
use std::time::Duration;

use super::*;
use crate::server::{Connection, Reply, SIGNAL_TIME, Server, until};

const REQUESTS_DEFAULT: usize = 60_000;
/// Sends a read to hyper, and changes no answer.
const DETOUR: &str = "TE: trailers\r\n";

/// What a client sees of an answer but the time.
type Seen = (String, Vec<(String, String)>, Vec<u8>);

/// A request of the mixture.
struct Drawn {
    method: &'static str,
    line: String,
    fields: String,
    body: Vec<u8>,
}

impl Drawn {
    fn bytes(&self, more: &str) -> Vec<u8> {
        let head = format!("{}\r\n{}{more}\r\n", self.line, self.fields);
        [head.as_bytes(), &self.body].concat()
    }

    fn shown(&self) -> String {
        String::from_utf8_lossy(&self.bytes("")).into_owned()
    }
}

/// How a request is answered, and whether the connection goes on.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Answered {
    seen: Seen,
    goes_on: bool,
}

const METHODS: &[&str] = &["GET", "GET", "GET", "GET", "GET", "HEAD", "POST", "POST", "PUT", "OPTIONS"];
const PATHS: &[&str] = &[
    "/order/m0",
    "/order/m0",
    "/orders/m1",
    "/api/orders/m2",
    "/order/%6D3",
    "/order/unknown",
    "/order/gone",
    "/order/big",
    "/order/..",
    "/order/m0?",
    "/order/m0?x=1",
    "/orders",
    "/api/orders",
    "/api/orders",
    "/api/orders?limit=7",
    "/api/orders?ids=m0,m1,unknown",
    "/api/orders/lookup",
    "/ping",
    "/health",
    "/nothing",
    "http://orders.test/order/m4",
];
/// Fields that belong to one connection, that make a request conditional, that choose among answers, that describe a body,
/// and those that a service may be asked to act on. Each with values as clients send them, and some as none should.
const FIELDS: &[(&str, &[&str])] = &[
    ("Connection", &["keep-alive", "Keep-Alive", "close", "Upgrade", "keep-alive, Upgrade", "TE", "x-min-version", ""]),
    ("Keep-Alive", &["timeout=5, max=100"]),
    ("Proxy-Connection", &["keep-alive", "close"]),
    ("TE", &["trailers", "gzip;q=0.5, trailers", ""]),
    ("Trailer", &["X-Sum"]),
    ("Upgrade", &["h2c", "websocket", "x"]),
    ("HTTP2-Settings", &["AAMAAABkAAQAoAAAAAIAAAAA"]),
    ("Proxy-Authorization", &["Basic eA=="]),
    ("Via", &["1.0 proxy"]),
    ("If-Match", &["\"1\"", "\"2\"", "*", "W/\"1\"", "\"1-gzip\"", "1", "\"0\", \"1\""]),
    ("If-None-Match", &["\"1\"", "\"2\"", "*", "W/\"1\"", "\"1-gzip\"", "1", "\"0\",\"1\""]),
    ("If-Modified-Since", &["Sat, 29 Oct 1994 19:43:31 GMT", "never"]),
    ("If-Unmodified-Since", &["Sat, 29 Oct 1994 19:43:31 GMT"]),
    ("If-Range", &["\"1\""]),
    ("Range", &["bytes=0-9", "lines=1"]),
    ("X-Min-Version", &["1", "\"1\"", "x", ""]),
    (
        "Accept",
        &["*/*", "application/json", "text/plain", "text/plain, application/json;q=0.1", "application/x-ndjson", "x"],
    ),
    ("Accept-Encoding", &["identity", "gzip", "br;q=1, gzip;q=0.5", "*;q=0", "zstd"]),
    ("Accept-Language", &["ru"]),
    ("Accept-Charset", &["utf-16"]),
    (
        "Content-Type",
        &[
            "application/json",
            "application/json; charset=utf-8",
            "application/json;charset=latin1",
            "application/x-ndjson",
            "text/html",
            "",
        ],
    ),
    ("Content-Encoding", &["identity", "gzip"]),
    ("Content-Language", &["ru"]),
    ("Content-Range", &["bytes 0-9/10"]),
    ("Expect", &["100-continue", "more"]),
    ("Prefer", &["wait=1", "respond-async", "wait=soon", "return=minimal", "handling=strict, return=minimal"]),
    ("Idempotency-Key", &[""]),
    ("Authorization", &["Bearer x", "Basic eA=="]),
    ("X-API-Key", &["x"]),
    ("X-Request-Id", &["a", "b"]),
    ("X-Forwarded-For", &["192.0.2.1", "192.0.2.1, 192.0.2.2"]),
    ("Last-Event-ID", &["x-1"]),
    ("Origin", &["http://a.test", "null"]),
    ("Cookie", &["a=b"]),
    ("User-Agent", &["x/1", "\u{e9}"]),
    ("Host", &["orders.test", "other.test:80", "", "a b", "x/y"]),
];

struct Generator {
    random: fastrand::Rng,
    order: String,
    /// Tags of the list, in each of its forms.
    tags: Vec<String>,
}

impl Generator {
    fn of<'v, T>(&mut self, from: &'v [T]) -> &'v T {
        &from[self.random.usize(..from.len())]
    }

    fn draw(&mut self) -> Drawn {
        // Mostly reads that are answered without hyper, as in life; they are what may be overtaken.
        let is_plain = self.random.u8(..3) > 0;
        let method = if is_plain { "GET" } else { *self.of(METHODS) };
        let path = match self.random.u8(..30) {
            0 => "/api/orders",
            _ if is_plain => PATHS[self.random.usize(..4)],
            _ => *self.of(PATHS),
        };
        // A head that cannot be read is refused with a body whatever its method, and chunks of HTTP/1.0 are such a head.
        let version = match self.random.u8(..120) {
            0..4 if method != "HEAD" => "HTTP/1.0",
            4 if method != "HEAD" => *self.of(&["HTTP/1.2", "HTTP/2.0", "HTTP/0.9", "http/1.1", "HTTP/1"]),
            _ => "HTTP/1.1",
        };
        let mut fields = String::new();
        if self.random.u8(..60) > 0 {
            fields += "Host: orders.test\r\n";
        }
        let count =
            if is_plain { self.random.usize(..2) / (1 + self.random.usize(..3)) } else { self.random.usize(..5) };
        for _ in 0..count {
            let (name, values) = *self.of(FIELDS);
            // Ends of connections and odd hosts are as rare as they have to be for others to be met.
            if matches!(name, "Host") && self.random.u8(..6) > 0 {
                continue;
            }
            let value = *self.of(values);
            if value == "close" && self.random.u8(..4) > 0 {
                continue;
            }
            // A version that is not there is waited for, and what comes of that is a matter of time.
            if name == "X-Min-Version" && value.contains('1') && !path.contains("/m") {
                continue;
            }
            let name = match self.random.u8(..8) {
                0 => name.to_ascii_uppercase(),
                1 => name.to_ascii_lowercase(),
                _ => name.to_owned(),
            };
            fields += &format!("{name}: {value}\r\n");
            // Some may come once, others are lists. Two lengths of a keep-alive are nothing.
            if self.random.u8(..10) == 0 && name != "Host" {
                fields += &format!("{name}: {}\r\n", *self.of(values));
            }
        }
        if path == "/api/orders" && self.random.u8(..4) == 0 {
            let tag = self.of(&self.tags.clone()).clone();
            fields += &format!("If-None-Match: {tag}\r\n");
        }
        let body =
            if method == "POST" || (!is_plain && self.random.u8(..6) == 0) { self.body(&mut fields) } else { vec![] };
        if self.random.u16(..400) == 0 {
            // Longer than what is looked at without hyper.
            fields += &format!("X-Long: {}\r\n", "y".repeat(self.random.usize(..9000)));
        }
        Drawn { method, line: format!("{method} {path} {version}"), fields, body }
    }

    fn body(&mut self, fields: &mut String) -> Vec<u8> {
        let text = match self.random.u8(..6) {
            0 => String::new(),
            1 => "rubbish".into(),
            2 => "[\"m0\",\"unknown\"]".into(),
            3 => "GET /order/m0 HTTP/1.1\r\nHost: x\r\n\r\n".into(),
            _ => self.order.clone(),
        };
        if self.random.u8(..3) > 0 || text.is_empty() {
            *fields += &format!("Content-Length: {}\r\n", text.len());
            return text.into_bytes();
        }
        *fields += "Transfer-Encoding: chunked\r\n";
        let (first, rest) = text.split_at(3);
        let chunk = |part: &str| format!("{:x}\r\n{part}\r\n", part.len());
        let trailer = if self.random.bool() { "X-Sum: 1\r\n" } else { "" };
        (chunk(first) + &chunk(rest) + "0\r\n" + trailer + "\r\n").into_bytes()
    }
}

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok().map(|text| text.parse().expect("a number"))
}

/// The next final answer.
#[track_caller]
fn reply(connection: &mut Connection, method: &str, context: &dyn Fn() -> String) -> Reply {
    loop {
        let reply = connection.try_reply(method).unwrap_or_else(|error| panic!("{error}: {}", context()));
        if reply.status != 100 {
            return reply;
        }
    }
}

fn seen(reply: Reply) -> Seen {
    let fields = reply.headers.into_iter().filter(|(name, _)| name != "date" && name != "x-request-id");
    (reply.line, fields.collect(), reply.body)
}

/// Whether an answer needed the store, and the machine was so busy with other things that it came too late.
fn is_late(seen: &Seen) -> bool {
    let (_, _, body) = seen;
    String::from_utf8_lossy(body).contains("the store did not answer in time")
}

/// How hyper answers a request that comes alone.
fn alone(server: &Server, drawn: &Drawn) -> Answered {
    until("the store answers in time", SIGNAL_TIME, || {
        Some(answered_alone(server, drawn)).filter(|answered| !is_late(&answered.seen))
    })
}

fn answered_alone(server: &Server, drawn: &Drawn) -> Answered {
    let mut connection = server.connect();
    connection.send(drawn.bytes(DETOUR));
    let seen = seen(reply(&mut connection, drawn.method, &|| drawn.shown()));
    // A service that closes may do so before this is sent.
    let is_open = connection.try_send("GET /ping HTTP/1.1\r\nHost: x\r\n\r\n").is_ok() && connection.is_answered();
    let goes_on = is_open
        && connection.try_reply("GET").unwrap_or_else(|error| panic!("{error} after {}", drawn.shown())).text()
            == "pong";
    Answered { seen, goes_on }
}

#[test]
fn any_mixture_in_any_pieces_is_answered_in_order() {
    let requests = number("ORDER_MIXTURE_REQUESTS").map_or(REQUESTS_DEFAULT, |count| usize::try_from(count).unwrap());
    let seed = number("ORDER_MIXTURE_SEED").unwrap_or_else(|| fastrand::u64(..));
    println!("{requests} requests, ORDER_MIXTURE_SEED={seed}");
    let server = Server::start(&["--sample", "50"]);
    for n in 0..5 {
        created(&server, wb_posted(&format!("m{n}")));
    }
    created(&server, wb_posted("gone"));
    server.post("/orders", "{\"order_uid\":\"gone\",\"status\":\"deleted\"}").expect(200);
    created(&server, wb_posted("big").replace("\"B\"", &"b".repeat(40_000)).replace("Mascaras", &"b".repeat(40_000)));
    until("the list shows the newest", SIGNAL_TIME, || {
        server.get("/api/orders").text().contains("\"order_uid\":\"big\"").then_some(())
    });
    // The list's forms are made as they are asked for, and better ones a second later.
    let form = |coding: &str| {
        until("the dense form is there", SIGNAL_TIME, || {
            let reply = server.request("GET", "/api/orders", &[("Accept-Encoding", coding)], "").expect(200);
            reply.header("ETag").filter(|tag| tag.contains("-dense-")).map(str::to_owned)
        })
    };
    let plain = server.get("/api/orders").header("ETag").unwrap().to_owned();
    let tags = vec![plain, form("gzip"), form("zstd")];
    let mut generator = Generator { random: fastrand::Rng::with_seed(seed), order: wb_posted("m1"), tags };
    let mut known: HashMap<Vec<u8>, Answered> = HashMap::new();
    let (mut done, mut ends) = (0, 0);
    while done < requests {
        let mut pipeline = Vec::new();
        for _ in 0..generator.random.usize(1..80) {
            let drawn = generator.draw();
            let bytes = drawn.bytes("");
            let answered = known.entry(bytes).or_insert_with(|| alone(&server, &drawn)).clone();
            let goes_on = answered.goes_on;
            pipeline.push((drawn, answered));
            if !goes_on {
                ends += 1;
                break;
            }
        }
        done += pipeline.len();
        until("the store answers in time", SIGNAL_TIME, || {
            check(&server, &pipeline, &mut generator.random, seed).then_some(())
        });
    }
    println!("{} different ones, {ends} connections ended by one", known.len());
    assert!(known.len() > requests / 20, "too few were different for this to prove anything");
}

/// Sends the requests of a pipeline in pieces, and compares each answer with that of hyper. Returns whether all came: not
/// where the store was late.
fn check(server: &Server, pipeline: &[(Drawn, Answered)], random: &mut fastrand::Rng, seed: u64) -> bool {
    let bytes: Vec<u8> = pipeline.iter().flat_map(|(drawn, _)| drawn.bytes("")).collect();
    let piece_max = [1, 7, 60, 500, 5000, 100_000, 100_000][random.usize(..7)];
    let mut cuts = random.fork();
    std::thread::scope(|scope| {
        let mut connection = server.connect();
        let mut writer = connection.socket().try_clone().unwrap();
        scope.spawn(move || {
            let mut left = &bytes[..];
            while !left.is_empty() {
                let (piece, rest) = left.split_at(cuts.usize(1..=piece_max).min(left.len()));
                if writer.write_all(piece).is_err() {
                    return; // the last answer came before all of its request was read
                }
                left = rest;
                // Only so that pieces come alone now and then, at any moment.
                if piece_max >= 60 && cuts.u8(..4) == 0 {
                    std::thread::sleep(Duration::from_micros(cuts.u64(..300)));
                }
            }
        });
        for (index, (drawn, answered)) in pipeline.iter().enumerate() {
            let context = || format!("seed {seed}, request {index}: {}", drawn.shown());
            let seen = seen(reply(&mut connection, drawn.method, &context));
            if is_late(&seen) {
                connection.socket().shutdown(std::net::Shutdown::Both).unwrap();
                return false;
            }
            assert_eq!(seen, answered.seen, "{}", context());
            if !answered.goes_on {
                assert!(connection.is_closed_within(SIGNAL_TIME), "{}", context());
            }
        }
        true
    })
}
