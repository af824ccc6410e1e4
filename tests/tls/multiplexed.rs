//! HTTP/2, over TLS and without: the answers of HTTP/1.1, and clients that mean no good.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::process::Command;
use std::time::{Duration, Instant};

use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http2::SendRequest;
use hyper::{Request, Response, StatusCode, Version};
use hyper_util::rt::{TokioExecutor, TokioIo};

use super::Secured;
use crate::http::{created, wb_answered, wb_posted};
use crate::server::{READ_TIME, SIGNAL_TIME, Server, until};

/// A client of HTTP/2 by prior knowledge.
async fn connect(address: SocketAddr) -> SendRequest<Full<Bytes>> {
    let socket = tokio::net::TcpStream::connect(address).await.unwrap();
    let (sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(socket)).await.unwrap();
    tokio::spawn(connection);
    sender
}

fn request(
    address: SocketAddr,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> Request<Full<Bytes>> {
    let mut request = Request::builder().method(method).version(Version::HTTP_2).uri(format!("http://{address}{path}"));
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    request.body(Full::new(Bytes::from(body.to_owned()))).unwrap()
}

async fn whole(response: Response<hyper::body::Incoming>) -> (StatusCode, Response<()>, Bytes) {
    let (head, body) = response.into_parts();
    let status = head.status;
    (status, Response::from_parts(head, ()), body.collect().await.unwrap().to_bytes())
}

fn block<T>(test: impl Future<Output = T>) -> T {
    tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap().block_on(test)
}

/// Every kind of answer over HTTP/2 is that over HTTP/1.1, but for the fields of a connection.
#[test]
fn answers_are_those_of_http_1() {
    let server = Server::start(&[]);
    created(&server, wb_posted("x"));
    until("the list has it", SIGNAL_TIME, || (server.get("/api/orders").text() != "[]").then_some(()));
    let address = server.address();
    block(async {
        let mut client = connect(address).await;
        for (method, path, headers) in [
            ("GET", "/order/x", &[][..]),
            ("GET", "/orders/x", &[]),
            ("HEAD", "/order/x", &[]),
            ("GET", "/order/x", &[("if-none-match", "\"1\"")]),
            ("GET", "/order/x", &[("x-min-version", "9")]),
            ("GET", "/order/none", &[]),
            ("GET", "/order/none", &[("accept", "text/plain")]),
            ("GET", "/order/a%20b", &[]),
            ("GET", "/api/orders", &[]),
            ("GET", "/api/orders?limit=1&limit=2", &[]),
            ("GET", "/api/orders?ids=x,y", &[]),
            ("GET", "/api/orders", &[("accept", "application/x-ndjson")]),
            ("DELETE", "/order/x", &[]),
            ("OPTIONS", "/order/x", &[("origin", "https://shop.test")]),
            ("GET", "/nowhere", &[]),
            ("GET", "/", &[]),
            ("GET", "/health", &[]),
        ] {
            let expected = server.request(method, path, headers, "");
            client.ready().await.unwrap();
            let response = client.send_request(request(address, method, path, headers, "")).await.unwrap();
            let (status, head, body) = whole(response).await;
            assert_eq!((status.as_u16(), &body[..]), (expected.status, &expected.body[..]), "{method} {path}");
            for (name, value) in &expected.headers {
                let is_of_connection =
                    ["connection", "transfer-encoding", "date", "x-request-id"].contains(&name.as_str());
                let given = head.headers().get(name.as_str()).map(|value| value.to_str().unwrap());
                assert!(is_of_connection || given == Some(value.as_str()), "{method} {path}: {name}: {given:?}");
            }
            assert!(head.headers().get("connection").is_none() && head.headers().contains_key("date"));
        }
        // Writes, large and refused ones too, leave the connection as it is.
        let json = [("content-type", "application/json")];
        let response = client.send_request(request(address, "POST", "/orders", &json, &wb_posted("y"))).await.unwrap();
        assert_eq!(response.status(), 201);
        let large = format!("{{\"a\":\"{}\"}}", "x".repeat(3 << 20));
        let response = client.send_request(request(address, "POST", "/orders", &json, &large)).await.unwrap();
        assert_eq!(response.status(), 413);
        let response = client.send_request(request(address, "GET", "/order/y", &[], "")).await.unwrap();
        assert_eq!(&whole(response).await.2[..], wb_answered("y").as_bytes());
        // A hundred at once.
        let many: Vec<_> =
            (0..100).map(|_| client.send_request(request(address, "GET", "/order/x", &[], ""))).collect();
        for response in many {
            assert_eq!(&whole(response.await.unwrap()).await.2[..], wb_answered("x").as_bytes());
        }
    });
}

#[test]
fn curl_speaks_it_with_tls_and_without() {
    let secured = Secured::start(&[]);
    created(&secured.server, wb_posted("x"));
    let curl = |arguments: &[&str]| {
        let output =
            Command::new("curl").args(["-sS", "--max-time", "60", "-w", "\n%{http_version}"]).args(arguments).output();
        let output = output.expect("curl is installed");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        String::from_utf8(output.stdout).unwrap()
    };
    let (plain, port) = (secured.server.address(), secured.address().port());
    let ca = secured.files.text("ca.pem");
    let secure = format!("https://localhost:{port}/order/x");
    let resolve = format!("localhost:{port}:127.0.0.1");
    let over_tls = ["--cacert", &ca, "--resolve", &resolve, &secure];
    for (arguments, version) in [
        (&["--http2-prior-knowledge", &format!("http://{plain}/order/x")][..], "2"),
        (&["--http1.1", &format!("http://{plain}/order/x")], "1.1"),
        (&[&["--http2"][..], &over_tls].concat(), "2"),
        (&[&["--http1.1"][..], &over_tls].concat(), "1.1"),
        (&[&["--tlsv1.2", "--tls-max", "1.2"][..], &over_tls].concat(), "2"),
    ] {
        assert_eq!(curl(arguments), format!("{}\n{version}", wb_answered("x")), "{arguments:?}");
    }
    let data = ["--http2", "-H", "Content-Type: application/json", "-d", &wb_posted("y")];
    let posted = format!("https://localhost:{port}/orders");
    let said = curl(&[&data[..], &["--cacert", &ca, "--resolve", &resolve, &posted]].concat());
    assert!(said.contains("\"created\"") && said.ends_with("\n2"), "{said}");
}

/// Connections for a client of gRPC.
struct Connector {
    tls: order_service::tls::Client,
    address: SocketAddr,
}

impl tonic::codegen::Service<hyper::Uri> for Connector {
    type Response = TokioIo<order_service::tls::client::Stream<tokio::net::TcpStream>>;
    type Error = std::io::Error;
    type Future = std::pin::Pin<Box<dyn Future<Output = std::io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _: &mut std::task::Context<'_>) -> std::task::Poll<std::io::Result<()>> {
        std::task::Poll::Ready(Ok(()))
    }

    fn call(&mut self, _: hyper::Uri) -> Self::Future {
        let (tls, address) = (self.tls.clone(), self.address);
        Box::pin(async move {
            let socket = tokio::net::TcpStream::connect(address).await?;
            tls.connect("localhost", socket).await.map(TokioIo::new)
        })
    }
}

#[test]
fn calls_of_grpc_go_over_tls() {
    use order_service::grpc::proto::service::v1::HealthRequest;
    use order_service::grpc::proto::service::v1::orders_service_client::OrdersServiceClient;
    use order_service::tls::client;
    use tonic::transport::Endpoint;
    let secured = Secured::start(&["--grpc", "tls:127.0.0.1:0"]);
    let log = secured.server.log();
    let mut events = log.iter().filter_map(|line| serde_json::from_str::<serde_json::Value>(line).ok());
    let serving = events.find(|event| event["message"] == "serving").unwrap();
    let address: SocketAddr = serving["grpc"].as_str().unwrap().strip_prefix("tls:").unwrap().parse().unwrap();
    let config = client::Config { roots: Some(secured.files.path("ca.pem")), ..client::Config::default() };
    let tls = order_service::tls::Client::open(&config).unwrap();
    block(async {
        let connector = Connector { tls, address };
        let channel = Endpoint::from_static("http://localhost").connect_with_connector(connector).await.unwrap();
        let answer = OrdersServiceClient::new(channel).health(HealthRequest {}).await.unwrap();
        assert!(!answer.into_inner().status.is_empty());
    });
    // Without TLS it is told so, as elsewhere.
    let mut socket = TcpStream::connect(address).unwrap();
    socket.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").unwrap();
    assert!(super::read_reply(&mut socket).unwrap().0.starts_with("HTTP/1.1 400"));
}

/// Frames as they are written, for clients that no library would be.
struct Raw(TcpStream);

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const ACK: u8 = 1;
const END_HEADERS: u8 = 4;

fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// `GET` of a path, as HPACK writes it without its tables.
fn get(path: &str) -> Vec<u8> {
    let text = |text: &str| [&[u8::try_from(text.len()).unwrap()], text.as_bytes()].concat();
    [&[0x82, 0x86, 0x04][..], &text(path), &[0x01], &text("orders.test")].concat()
}

impl Raw {
    fn connect(address: SocketAddr, settings: &[u8]) -> Self {
        let mut socket = TcpStream::connect(address).unwrap();
        socket.set_read_timeout(Some(READ_TIME)).unwrap();
        socket.set_write_timeout(Some(READ_TIME)).unwrap();
        socket.write_all(&[PREFACE, &frame(SETTINGS, 0, 0, settings)].concat()).unwrap();
        Self(socket)
    }

    /// The next frame: its kind, its flags, its stream, and what is in it. `None`: the connection
    /// is over.
    fn read(&mut self) -> Option<(u8, u8, u32, Vec<u8>)> {
        let mut head = [0; 9];
        match self.0.read_exact(&mut head) {
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => panic!("neither a frame nor an end"),
            read => read.ok()?,
        }
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let mut payload = vec![0; length as usize];
        self.0.read_exact(&mut payload).ok()?;
        let stream = u32::from_be_bytes([head[5], head[6], head[7], head[8]]);
        Some((head[3], head[4], stream, payload))
    }

    /// Reads until the connection is over, and says whether that was announced.
    fn until_end(&mut self) -> bool {
        let mut is_announced = false;
        while let Some((kind, ..)) = self.read() {
            is_announced |= kind == GOAWAY;
        }
        is_announced
    }
}

#[test]
fn a_preface_in_pieces_is_one() {
    let server = Server::start(&["--http-header-time", "10m"]);
    created(&server, wb_posted("x"));
    for size in [1, 3, 14, 20] {
        let mut connection = server.connect();
        let all =
            [PREFACE, &frame(SETTINGS, 0, 0, &[]), &frame(HEADERS, END_STREAM | END_HEADERS, 1, &get("/order/x"))]
                .concat();
        // Each piece is read by itself.
        let (preface, frames) = all.split_at(PREFACE.len());
        for piece in preface.chunks(size) {
            connection.send(piece);
            connection.until_read();
        }
        connection.send(frames);
        let mut raw = Raw(connection.socket().try_clone().unwrap());
        let body = std::iter::from_fn(|| raw.read()).find(|(kind, _, stream, _)| *kind == 0 && *stream == 1);
        assert_eq!(body.expect("an answer").3, wb_answered("x").as_bytes(), "in pieces of {size}");
    }
}

/// Requests that are taken back at once cost the service what an answer costs, and their client
/// nothing.
#[test]
fn a_client_that_takes_its_requests_back_is_cut_off() {
    let server = Server::start(&[]);
    created(&server, wb_posted("x"));
    let mut raw = Raw::connect(server.address(), &[]);
    let end = Instant::now() + SIGNAL_TIME;
    for n in 0.. {
        let stream = 2 * n + 1;
        let taken_back = [
            frame(HEADERS, END_STREAM | END_HEADERS, stream, &get("/api/orders?ids=x,y")),
            frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes()),
        ];
        if raw.0.write_all(&taken_back.concat()).is_err() {
            break;
        }
        assert!(Instant::now() < end, "{n} were taken");
    }
    raw.until_end();
    // And one that has each of them begun first.
    let mut raw = Raw::connect(server.address(), &[]);
    let mut begun = 0;
    for n in 0..10_000 {
        let stream = 2 * n + 1;
        let _ = raw.0.write_all(&frame(HEADERS, END_STREAM | END_HEADERS, stream, &get("/events")));
        if std::iter::from_fn(|| raw.read()).all(|(kind, _, of, _)| kind != HEADERS || of != stream) {
            break;
        }
        begun += 1;
        let _ = raw.0.write_all(&frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes()));
    }
    assert!((100..1000).contains(&begun), "{begun} were begun");
    server.get("/order/x").expect(200);
    until("it is let go", SIGNAL_TIME, || (server.metric("http_connections ") < 2.0).then_some(()));
}

#[test]
fn heads_without_end_are_refused() {
    let server = Server::start(&[]);
    created(&server, wb_posted("x"));
    // A head that goes on for ever.
    let mut raw = Raw::connect(server.address(), &[]);
    raw.0.write_all(&frame(HEADERS, END_STREAM, 1, &get("/order/x"))).unwrap();
    let field = [&[0x40, 1, b'a', 127, 0][..], &[b'x'; 127]].concat();
    let more = frame(CONTINUATION, 0, 1, &field.repeat(100));
    let end = Instant::now() + SIGNAL_TIME;
    while raw.0.write_all(&more).is_ok() {
        assert!(Instant::now() < end, "it is read for ever");
    }
    raw.until_end();
    // One that is larger than it may be, and has an end.
    let mut raw = Raw::connect(server.address(), &[]);
    let large = [
        get("/order/x"),
        field.repeat(120),
        field.repeat(120),
        field.repeat(120),
        field.repeat(120),
        field.repeat(120),
    ]
    .concat();
    let pieces: Vec<&[u8]> = large.chunks(16_000).collect();
    raw.0.write_all(&frame(HEADERS, END_STREAM, 1, pieces[0])).unwrap();
    for (n, piece) in pieces.iter().enumerate().skip(1) {
        let flags = if n + 1 == pieces.len() { END_HEADERS } else { 0 };
        if raw.0.write_all(&frame(CONTINUATION, flags, 1, piece)).is_err() {
            break;
        }
    }
    let answer = std::iter::from_fn(|| raw.read()).find(|(kind, _, stream, _)| *stream == 1 && *kind != 0);
    // 431 is no field of the static table: its three digits are there as they are, or the stream is
    // ended.
    assert!(answer.is_none_or(|(kind, _, _, payload)| kind == RST_STREAM
        || payload.windows(3).any(|part| part == b"431")
        || payload.len() < 64));
    server.get("/order/x").expect(200);
}

/// A client whose windows never open has its answers wait for ever.
#[test]
fn a_client_that_gives_no_room_is_closed_when_one_that_reads_nothing_is() {
    let server = Server::start(&["--http-write-time", "1s", "--http-idle-time", "2s"]);
    created(&server, wb_posted("x"));
    // SETTINGS_INITIAL_WINDOW_SIZE is 0.
    let mut raw = Raw::connect(server.address(), &[0, 4, 0, 0, 0, 0]);
    raw.0.write_all(&frame(HEADERS, END_STREAM | END_HEADERS, 1, &get("/order/x"))).unwrap();
    let mut is_answered = false;
    while let Some((kind, _, stream, _)) = raw.read() {
        is_answered |= kind == HEADERS && stream == 1;
        assert_ne!(kind, 0, "there is no room for a body");
    }
    assert!(is_answered, "its head is sent");
    // Nor is one waited for that stops in the middle of an answer that is ready.
    let mut raw = Raw::connect(server.address(), &[0, 4, 0, 0, 0, 9]);
    raw.0.write_all(&frame(HEADERS, END_STREAM | END_HEADERS, 1, &get("/order/x"))).unwrap();
    assert!(raw.until_end(), "it is idle");
    let closed = "http_connections_closed_total{reason=\"write\"}";
    until("it is counted", SIGNAL_TIME, || (server.metric(closed) >= 1.0).then_some(()));
    // A stream that is quiet is none of these.
    let mut raw = Raw::connect(server.address(), &[]);
    raw.0.write_all(&frame(HEADERS, END_STREAM | END_HEADERS, 1, &get("/events"))).unwrap();
    while let Some((kind, _, stream, _)) = raw.read() {
        if kind == 0 && stream == 1 {
            break;
        }
    }
    // It outlives what would be too long for one that gives no room.
    std::thread::sleep(Duration::from_secs(3));
    raw.0.write_all(&frame(HEADERS, END_STREAM | END_HEADERS, 3, &get("/order/x"))).unwrap();
    let body = std::iter::from_fn(|| raw.read()).find(|(kind, _, stream, _)| *kind == 0 && *stream == 3);
    assert_eq!(body.expect("an answer").3, wb_answered("x").as_bytes());
}

#[test]
fn idle_connections_are_closed_in_order_and_a_stop_finishes_what_is_asked() {
    let server = Server::start(&["--http-idle-time", "1s"]);
    created(&server, wb_posted("x"));
    let mut raw = Raw::connect(server.address(), &[]);
    raw.0.write_all(&frame(HEADERS, END_STREAM | END_HEADERS, 1, &get("/order/x"))).unwrap();
    assert!(raw.until_end(), "the end of an idle connection is announced");
    // Where none is idle for too long before it has asked, on a busy machine.
    let mut server = Server::start(&[]);
    // One that only has begun.
    let mut raw = Raw::connect(server.address(), &[]);
    raw.0.write_all(&frame(SETTINGS, ACK, 0, &[])).unwrap();
    let address = server.address();
    block(async {
        let mut client = connect(address).await;
        let streams = client.send_request(request(address, "GET", "/events", &[], "")).await.unwrap();
        assert_eq!(streams.status(), 200);
        server.terminate();
        // The stream ends, and with it the connection.
        let _ = streams.into_body().collect().await;
        let end = Instant::now() + SIGNAL_TIME;
        while client.ready().await.is_ok() && Instant::now() < end {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        assert!(client.is_closed());
    });
    raw.until_end();
    assert!(server.wait().success());
}
