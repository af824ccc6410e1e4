//! The figures of the README that need the running service: writes from many connections, and readers beside ten
//! thousand idle and two hundred slow clients. `cargo bench --bench service` measures; as a test it runs a little.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use order_service::order::sample;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

const BINARY: &str = env!("CARGO_BIN_EXE_order-service");

fn main() {
    let is_test = !std::env::args().any(|argument| argument == "--bench");
    raise_file_limit();
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().expect("a runtime");
    runtime.block_on(async {
        let (orders, connections) = if is_test { (2_000, 16) } else { (200_000, 256) };
        posts(orders, connections).await;
        let (idle, slow, seconds) = if is_test { (200, 20, 1) } else { (10_000, 200, 10) };
        bystanders(idle, slow, seconds).await;
    });
}

/// The service as a child on a new store, ended with this value.
struct Service {
    child: Child,
    address: String,
    _data: tempfile::TempDir,
}

impl Service {
    fn start(flags: &[&str]) -> Self {
        let data = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a directory");
        let mut child = Command::new(BINARY)
            .args(["serve", "--listen", "127.0.0.1:0", "--log", "json", "--data"])
            .arg(data.path())
            .args(flags)
            .env_clear()
            .stderr(Stdio::piped())
            .spawn()
            .expect("started");
        let log = child.stderr.take().expect("piped");
        let mut lines = BufReader::new(log).lines();
        let address = loop {
            let line = lines.next().expect("the service says where it serves").expect("readable");
            let line: serde_json::Value = serde_json::from_str(&line).expect("JSON");
            if line["message"] == "serving" {
                break line["listen"].as_str().expect("an address").to_owned();
            }
        };
        std::thread::spawn(move || lines.for_each(drop));
        Self { child, address, _data: data }
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Each connection posts one order after the other and waits for each to be durable.
async fn posts(orders: u64, connections: u64) {
    let service = Service::start(&[]);
    let started = Instant::now();
    let mut writers = tokio::task::JoinSet::new();
    for connection in 0..connections {
        let address = service.address.clone();
        writers.spawn(async move {
            let mut socket = TcpStream::connect(address).await.expect("connected");
            socket.set_nodelay(true).expect("a socket");
            let (mut body, mut request, mut answer) = (Vec::new(), Vec::new(), vec![0; 4096]);
            let mut slowest = Duration::ZERO;
            for n in (connection..orders).step_by(usize::try_from(connections).expect("few")) {
                body.clear();
                sample::wb(3, n, &mut body);
                request.clear();
                request
                    .extend_from_slice(b"POST /orders HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\n");
                request.extend_from_slice(format!("Content-Length: {}\r\n\r\n", body.len()).as_bytes());
                request.extend_from_slice(&body);
                let sent = Instant::now();
                socket.write_all(&request).await.expect("sent");
                let mut filled = 0;
                while !answer[..filled].ends_with(b"}") {
                    let read = socket.read(&mut answer[filled..]).await.expect("an answer");
                    assert!(read > 0, "closed: {}", String::from_utf8_lossy(&answer[..filled]));
                    filled += read;
                }
                assert!(answer.starts_with(b"HTTP/1.1 201 "), "{}", String::from_utf8_lossy(&answer[..filled]));
                slowest = slowest.max(sent.elapsed());
            }
            slowest
        });
    }
    let mut slowest = Duration::ZERO;
    while let Some(writer) = writers.join_next().await {
        slowest = slowest.max(writer.expect("written"));
    }
    #[expect(clippy::cast_precision_loss, reason = "a figure for people")]
    let rate = orders as f64 / started.elapsed().as_secs_f64();
    println!("posts: {rate:.0} orders/s from {connections} connections, the slowest answered in {slowest:.1?}");
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
