//! The service as a child process on a new store, as it is deployed.

use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// The binary that is measured.
pub const BINARY: &str = env!("CARGO_BIN_EXE_order-service");

/// How long a start may take.
const READY_TIME: Duration = Duration::from_mins(1);

/// Killed with this value.
pub struct Service {
    child: Child,
    /// Where it answers.
    pub address: String,
    _data: tempfile::TempDir,
}

impl Service {
    /// Starts with these flags and waits until connections are taken.
    pub fn start(flags: &[&str]) -> Self {
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

    /// Waits until `/readyz` answers 200.
    pub fn wait_ready(&self) {
        let started = Instant::now();
        let mut client = Client::connect(&self.address);
        loop {
            if client.ask("GET /readyz", b"") == 200 {
                return;
            }
            assert!(started.elapsed() < READY_TIME, "{}", String::from_utf8_lossy(&client.answer));
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Its process.
    #[allow(dead_code, reason = "each bench has what it needs")]
    pub fn pid(&self) -> u32 {
        self.child.id()
    }
}

impl Drop for Service {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// One connection that asks and waits for the answer.
pub struct Client {
    socket: std::net::TcpStream,
    /// The last answer, head and body.
    pub answer: Vec<u8>,
}

impl Client {
    /// Connects.
    pub fn connect(address: &str) -> Self {
        let socket = std::net::TcpStream::connect(address).expect("connected");
        socket.set_nodelay(true).expect("a socket");
        Self { socket, answer: Vec::new() }
    }

    /// Sends a request whose answer ends with a brace. Returns the status.
    pub fn ask(&mut self, line: &str, body: &[u8]) -> u16 {
        use std::io::{Read, Write};
        let head = format!(
            "{line} HTTP/1.1\r\nHost: bench\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n",
            body.len()
        );
        self.socket.write_all(&[head.as_bytes(), body].concat()).expect("sent");
        self.answer.clear();
        let mut piece = [0; 16 << 10];
        while !self.answer.ends_with(b"}") {
            let read = self.socket.read(&mut piece).expect("an answer");
            assert!(read > 0, "closed: {}", String::from_utf8_lossy(&self.answer));
            self.answer.extend_from_slice(&piece[..read]);
        }
        std::str::from_utf8(&self.answer[9..12]).expect("a status").parse().expect("a status")
    }
}
