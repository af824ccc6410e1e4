//! The figures of docs/performance.md that need running processes: writes from many connections into
//! either store, with and without workers, what one instance shows of what another writes, and
//! readers beside ten thousand idle and two hundred slow clients. `cargo bench --bench service`
//! measures; as a test it runs a little.

mod child;
mod servers;

use std::process::Command;
use std::time::{Duration, Instant};

use order_service::order::sample;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use child::{BINARY, Service};
use servers::Servers;

fn main() {
    let is_test = !std::env::args().any(|argument| argument == "--bench");
    raise_file_limit();
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let (orders, connections) = if is_test { (2_000, 16) } else { (200_000, 256) };
        let service = Service::start(&[]);
        service.wait_ready();
        posts("posts into the embedded store", &service, Kind::Wb, orders, connections).await;
        drop(service);
        if let Some(servers) = Servers::start("service") {
            flows(&servers, orders, connections).await;
        }
        let (idle, slow, seconds) = if is_test { (200, 20, 1) } else { (10_000, 200, 10) };
        bystanders(idle, slow, seconds).await;
    });
}

/// Which orders are posted.
#[derive(Clone, Copy)]
enum Kind {
    Wb,
    Envelope,
}

/// Each connection posts one order after the other and waits for each to be answered.
async fn posts(what: &str, service: &Service, kind: Kind, orders: u64, connections: u64) {
    let started = Instant::now();
    let mut writers = tokio::task::JoinSet::new();
    for connection in 0..connections {
        let address = service.address.clone();
        writers.spawn(async move {
            let mut socket = TcpStream::connect(address).await.expect("connected");
            socket.set_nodelay(true).expect("a socket");
            let (mut body, mut answer) = (Vec::new(), Vec::new());
            let mut took = Vec::new();
            for n in (connection..orders).step_by(usize::try_from(connections).expect("few")) {
                body.clear();
                match kind {
                    Kind::Wb => sample::wb(3, n, &mut body),
                    Kind::Envelope => sample::envelope(3, n, &mut body),
                }
                let sent = Instant::now();
                ask(&mut socket, "POST /orders", &body, &mut answer).await;
                assert!(answer.starts_with(b"HTTP/1.1 201 "), "{}", String::from_utf8_lossy(&answer));
                took.push(sent.elapsed());
            }
            took
        });
    }
    let mut took = Vec::new();
    while let Some(writer) = writers.join_next().await {
        took.extend(writer.expect("written"));
    }
    #[expect(clippy::cast_precision_loss, reason = "a figure for people")]
    let rate = orders as f64 / started.elapsed().as_secs_f64();
    println!("{what}: {rate:.0} orders/s from {connections} connections, {}", percentiles(took));
}

/// Sends a request and waits for its answer, which ends with a brace.
async fn ask(socket: &mut TcpStream, line: &str, body: &[u8], answer: &mut Vec<u8>) {
    let head = format!(
        "{line} HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
        body.len()
    );
    let request = [head.as_bytes(), body].concat();
    socket.write_all(&request).await.expect("sent");
    answer.clear();
    while !answer.ends_with(b"}") {
        assert!(socket.read_buf(answer).await.expect("an answer") > 0, "closed: {}", String::from_utf8_lossy(answer));
    }
}

fn percentiles(mut took: Vec<Duration>) -> String {
    took.sort_unstable();
    let at = |share: usize| took[(took.len() * share / 1000).min(took.len() - 1)].as_secs_f64() * 1e3;
    format!("p50 {:.1} ms, p99 {:.1} ms, slowest {:.1} ms", at(500), at(990), at(1000))
}

/// Makes a database.
fn create(servers: &Servers, name: &str) {
    servers.psql("postgres", &[&format!("CREATE DATABASE {name}")]);
}

/// Flags for a service on a database and topics of their own.
fn flags(servers: &Servers, name: &str) -> Vec<String> {
    let mut flags = vec!["--postgres".to_owned(), servers.url(name), "--kafka".into(), servers.kafka.clone()];
    for (flag, topic) in [
        ("--kafka-topic", "orders"),
        ("--kafka-group", "group"),
        ("--kafka-events-topic", "events"),
        ("--kafka-ack-topic", "ack"),
        ("--kafka-snapshots-topic", "snapshots"),
        ("--kafka-worker-group", "workers"),
    ] {
        flags.extend([flag.to_owned(), format!("{name}.{topic}")]);
    }
    flags
}

/// Writes into PostgreSQL alone, with everything published, and with a worker to wait for.
async fn flows(servers: &Servers, orders: u64, connections: u64) {
    let start = |name: &str, more: &[&str]| {
        let flags = flags(servers, name);
        Service::start(&[&flags.iter().map(String::as_str).collect::<Vec<_>>(), more].concat())
    };
    for name in ["plain", "published", "worked", "one"] {
        create(servers, name);
    }
    let plain = flags(servers, "plain");
    let plain = Service::start(&[&plain[0], &plain[1]]);
    plain.wait_ready();
    posts("posts into PostgreSQL", &plain, Kind::Wb, orders, connections).await;
    posts("posts of envelopes into PostgreSQL", &plain, Kind::Envelope, orders, connections).await;
    drop(plain);
    let published = start("published", &["--kafka-workers", "off", "--kafka-snapshots", "on"]);
    published.wait_ready();
    posts("the same, every change published", &published, Kind::Envelope, orders, connections).await;
    drop(published);
    let mut worker = Command::new(BINARY);
    let mut worker = worker.arg("worker").args(flags(servers, "worked")).env_clear().spawn().expect("started");
    let worked = start("worked", &["--kafka-workers", "on"]);
    worked.wait_ready();
    tokio::time::sleep(Duration::from_secs(3)).await; // until the worker has its partitions
    posts("waiting for a worker, one at a time", &worked, Kind::Envelope, orders / 100, 1).await;
    let some = connections.min(64);
    posts("waiting for a worker", &worked, Kind::Envelope, orders / 2, some).await;
    let second = start("worked", &["--kafka-workers", "on"]);
    second.wait_ready();
    tokio::time::sleep(Duration::from_secs(2)).await; // until each hears the other
    posts("the same while a second instance follows, one at a time", &worked, Kind::Envelope, orders / 100, 1).await;
    posts("the same while a second instance follows", &worked, Kind::Envelope, orders / 2, some).await;
    let _ = worker.kill();
    let _ = worker.wait();
    drop((worked, second));
    let (one, other) = (start("one", &["--kafka-workers", "off"]), start("one", &["--kafka-workers", "off"]));
    one.wait_ready();
    other.wait_ready();
    tokio::time::sleep(Duration::from_secs(2)).await; // until each hears the other
    visible_elsewhere(&one, &other, orders / 100).await;
}

/// From the answer to a write on one instance to the first read of it on another.
async fn visible_elsewhere(one: &Service, other: &Service, writes: u64) {
    let mut writer = TcpStream::connect(&one.address).await.expect("connected");
    let mut reader = TcpStream::connect(&other.address).await.expect("connected");
    for socket in [&writer, &reader] {
        socket.set_nodelay(true).expect("a socket");
    }
    let (mut body, mut answer, mut took) = (Vec::new(), Vec::new(), Vec::new());
    for n in 0..writes {
        body.clear();
        sample::wb(4, n, &mut body);
        ask(&mut writer, "POST /orders", &body, &mut answer).await;
        assert!(answer.starts_with(b"HTTP/1.1 201 "), "{}", String::from_utf8_lossy(&answer));
        let written = Instant::now();
        let line = format!("GET /order/{}", sample::wb_id(4, n));
        loop {
            ask(&mut reader, &line, b"", &mut answer).await;
            if answer.starts_with(b"HTTP/1.1 200 ") {
                break;
            }
            assert!(written.elapsed() < Duration::from_secs(10), "{}", String::from_utf8_lossy(&answer));
        }
        took.push(written.elapsed());
    }
    println!("written on one instance, read on another: {}", percentiles(took));
}

/// A reader's latency alone, and beside clients that do nothing or nearly nothing.
async fn bystanders(idle: usize, slow: usize, seconds: u64) {
    let service = Service::start(&["--sample", "1000", "--http-header-time", "10m", "--http-idle-time", "10m"]);
    tokio::time::sleep(Duration::from_millis(500)).await;
    let alone = load(&service, seconds).await;
    println!("reader alone: {alone}");
    let mut sockets = Vec::new();
    for _ in 0..idle {
        let mut socket = TcpStream::connect(&service.address).await.expect("room for all");
        socket.write_all(b"GET /ping HTTP/1.1\r\nHost: bench\r\n\r\n").await.expect("sent");
        let mut answer = [0; 512];
        assert!(socket.read(&mut answer).await.expect("an answer") > 0);
        sockets.push(socket);
    }
    for _ in 0..slow {
        let mut socket = TcpStream::connect(&service.address).await.expect("room for all");
        tokio::spawn(async move {
            for byte in b"GET /order/never-finished HTTP/1.1\r\nHost: bench\r\nX-Slow: ".iter().cycle() {
                if socket.write_all(&[*byte]).await.is_err() {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(200)).await;
            }
        });
    }
    let beside = load(&service, seconds).await;
    println!("reader beside {idle} idle and {slow} slow clients: {beside}");
    drop(sockets);
}

/// Reads at a fixed rate and gives the percentiles.
async fn load(service: &Service, seconds: u64) -> String {
    let url = format!("http://{}", service.address);
    let duration = format!("{seconds}s");
    let arguments = ["load", "--url", &url, "--sample", "1000", "--rate", "5000", "--connections", "32", "--json", "-"];
    let output = tokio::process::Command::new(BINARY)
        .args(arguments)
        .args(["--duration", &duration])
        .output()
        .await
        .expect("run");
    let report: serde_json::Value = serde_json::from_slice(&output.stdout).expect("JSON");
    assert_eq!(report["unexpected_statuses"], 0, "{report}");
    let at = |name: &str| report["latency_us"][name].as_u64().expect("a percentile");
    format!("p50 {} us, p99 {} us, p99.9 {} us at 5,000/s", at("p50"), at("p99"), at("p99.9"))
}

fn raise_file_limit() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
}
