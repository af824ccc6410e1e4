//! Runs the real binary for a test and speaks to it in bytes. Owns starting, stopping and a raw HTTP/1.1 client; knows
//! nothing of what the answers mean. Every wait has a limit.

use std::collections::{BTreeSet, HashMap};
use std::io::{self, BufRead, BufReader, Read, Write};
use std::mem::MaybeUninit;
use std::net::{SocketAddr, TcpStream};
use std::os::fd::OwnedFd;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, mpsc};
use std::time::{Duration, Instant};

use rustix::io::ioctl_fionread;
use rustix::process::{Pid, Signal, kill_process};
use socket2::{Domain, Socket, Type};
use tempfile::TempDir;

use crate::database::Database;

/// The longest a start may take. These limits cost nothing where all is well, and a machine that does much else at the
/// same time stops a thread for seconds.
pub const START_TIME: Duration = Duration::from_secs(90);
/// The longest a client waits for the next byte.
pub const READ_TIME: Duration = Duration::from_mins(1);
/// The longest a test waits for what must happen.
pub const SIGNAL_TIME: Duration = Duration::from_mins(1);
/// The longest the end of a process may take. Whether it kept to its grace period, 30 s unless set, is told by its exit
/// status: 1 where it did not drain in time.
const STOP_TIME: Duration = Duration::from_mins(1);
/// Log lines shown when a test fails.
const LOG_LINES: usize = 60;

/// The families in the text of `/metrics`.
pub fn families(text: &str) -> BTreeSet<String> {
    text.lines().filter_map(|line| line.strip_prefix("# TYPE ")?.split(' ').next().map(str::to_owned)).collect()
}

/// What Linux says of a process in a line of `/proc/PID/status`.
pub fn process_status(pid: u32, field: &str) -> String {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let mut lines = status.lines().filter_map(|line| line.split_once(':'));
    lines.find(|(name, _)| *name == field).map(|(_, value)| value.trim().to_owned()).expect(field)
}

/// The binary under test, with nothing of this process's environment.
pub fn binary(directory: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_order-service"));
    command.env_clear().current_dir(directory).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    command
}

/// The same after a command of the shell that limits it.
pub fn limited(directory: &Path, limit: &str) -> Command {
    let binary = binary(directory);
    let mut command = Command::new("/bin/sh");
    command.env_clear().current_dir(directory).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped());
    command.arg("-c").arg(format!("{limit} && exec \"$0\" \"$@\"")).arg(binary.get_program());
    command
}

/// A running service on a data directory of its own.
pub struct Server {
    child: Child,
    address: SocketAddr,
    log: Arc<Log>,
    flags: Vec<String>,
    environment: Vec<(String, String)>,
    files_max: Option<u32>,
    home: TempDir,
    /// Where its orders are, if not in its data directory.
    _database: Option<Database>,
}

/// Has tests that name no store run against this one: `embedded`, which is the default, or `postgres`.
const STORE: &str = "ORDER_TEST_STORE";

/// In a build without PostgreSQL there is nothing to choose.
/// The database of a service that is to run on PostgreSQL.
fn chosen_store(flags: &mut Vec<String>) -> Option<Database> {
    let is_chosen = std::env::var(STORE).is_ok_and(|store| store == "postgres");
    if !is_chosen || flags.iter().any(|flag| flag == "--postgres") {
        return None;
    }
    let database = Database::create().expect("a server for the tests that are to run on it");
    flags.extend(["--postgres".to_owned(), database.url()]);
    Some(database)
}

impl Server {
    /// Starts on an empty store and waits until it is ready.
    pub fn start(flags: &[&str]) -> Self {
        let server = Self::start_cold(flags);
        server.wait_ready();
        server
    }

    /// Starts, and waits only until connections are taken.
    pub fn start_cold(flags: &[&str]) -> Self {
        Self::start_in(flags, &[])
    }

    /// Starts where the system gives so many files, and waits until it is ready.
    pub fn start_with_files(files_max: u32, flags: &[&str]) -> Self {
        let server = Self::start_as(flags, &[], Some(files_max));
        server.wait_ready();
        server
    }

    /// Starts with these environment variables, and waits only until connections are taken or the process has ended.
    pub fn start_in(flags: &[&str], environment: &[(&str, &str)]) -> Self {
        Self::start_as(flags, environment, None)
    }

    fn start_as(flags: &[&str], environment: &[(&str, &str)], files_max: Option<u32>) -> Self {
        let home = tempfile::tempdir().expect("a temporary directory");
        let mut flags: Vec<String> = flags.iter().map(|&flag| flag.to_owned()).collect();
        let database = chosen_store(&mut flags);
        let own = |(name, value): &(&str, &str)| ((*name).to_owned(), (*value).to_owned());
        let environment: Vec<_> = environment.iter().map(own).collect();
        let (child, address, log) = spawn(home.path(), &flags, &environment, files_max);
        Self { child, address, log, flags, environment, files_max, home, _database: database }
    }

    /// The next start has these environment variables.
    pub fn set_environment(&mut self, environment: &[(&str, &str)]) {
        self.environment = environment.iter().map(|(name, value)| ((*name).into(), (*value).into())).collect();
    }

    /// Where it answers.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Its process.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Its resident memory.
    pub fn resident_bytes(&self) -> u64 {
        process_status(self.pid(), "VmRSS").trim_end_matches(" kB").parse::<u64>().unwrap() << 10
    }

    /// The most memory that it was resident in at once.
    pub fn peak_bytes(&self) -> u64 {
        process_status(self.pid(), "VmHWM").trim_end_matches(" kB").parse::<u64>().unwrap() << 10
    }

    /// The value of the first sample in `/metrics` that begins with this.
    #[track_caller]
    pub fn metric(&self, sample: &str) -> f64 {
        let metrics = self.get("/metrics").expect(200);
        let line = metrics.text().lines().find(|line| line.starts_with(sample));
        let line = line.unwrap_or_else(|| panic!("no {sample} in {}", metrics.text()));
        line.rsplit_once(' ').expect("a name and a value").1.parse().expect("a number")
    }

    /// The families in `/metrics`.
    #[track_caller]
    pub fn families(&self) -> BTreeSet<String> {
        families(self.get("/metrics").expect(200).text())
    }

    /// Its data directory.
    pub fn data(&self) -> std::path::PathBuf {
        self.home.path().join("data")
    }

    /// What it has logged so far: all that it had written when it was asked, and so all that it wrote before an answer
    /// or before its end.
    pub fn log(&self) -> Vec<String> {
        self.log.take().lines.clone()
    }

    /// Waits for `/readyz` to answer 200.
    pub fn wait_ready(&self) {
        let end = Instant::now() + START_TIME;
        loop {
            let reply = self.get("/readyz");
            if reply.status == 200 {
                return;
            }
            assert!(Instant::now() < end, "not ready: {}", reply.text());
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// SIGTERM, and a start on the same data.
    pub fn restart(&mut self) {
        let status = self.stop();
        assert!(status.success(), "stopped with {status}");
        self.start_again();
    }

    /// SIGKILL, and a start on the same data.
    pub fn kill9(&mut self) {
        self.kill();
        self.start_again();
    }

    /// Starts on the data of a process that ended.
    pub fn start_again(&mut self) {
        self.start_again_cold();
        self.wait_ready();
    }

    /// Starts on the data of a process that ended, and waits only until connections are taken.
    pub fn start_again_cold(&mut self) {
        (self.child, self.address, self.log) = spawn(self.home.path(), &self.flags, &self.environment, self.files_max);
    }

    /// SIGKILL, and no start.
    pub fn kill(&mut self) {
        self.child.kill().expect("still running");
        self.child.wait().expect("a child of ours");
    }

    /// Sends a signal and does not wait.
    pub fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.child.id()).ok().and_then(Pid::from_raw).expect("a process id");
        kill_process(pid, signal).expect("still running");
    }

    /// Sends SIGTERM and does not wait.
    pub fn terminate(&self) {
        self.signal(Signal::TERM);
    }

    /// SIGTERM, and the exit status.
    pub fn stop(&mut self) -> ExitStatus {
        self.terminate();
        self.wait()
    }

    /// The exit status, once the process has ended.
    pub fn ended(&mut self) -> Option<ExitStatus> {
        self.child.try_wait().expect("a child of ours")
    }

    /// Waits for the end of the process.
    pub fn wait(&mut self) -> ExitStatus {
        let end = Instant::now() + STOP_TIME;
        loop {
            if let Some(status) = self.child.try_wait().expect("a child of ours") {
                return status;
            }
            assert!(Instant::now() < end, "still running {STOP_TIME:?} after SIGTERM");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    /// A connection of its own.
    pub fn connect(&self) -> Connection {
        Connection::open(self.address)
    }

    /// One request on a connection of its own.
    pub fn request(&self, method: &str, path: &str, headers: &[(&str, &str)], body: impl AsRef<[u8]>) -> Reply {
        self.connect().request(method, path, headers, body)
    }

    /// `GET` on a connection of its own.
    pub fn get(&self, path: &str) -> Reply {
        self.request("GET", path, &[], "")
    }

    /// `POST` of JSON on a connection of its own.
    pub fn post(&self, path: &str, body: impl AsRef<[u8]>) -> Reply {
        self.request("POST", path, &[("Content-Type", "application/json")], body)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.log();
            eprintln!("the service's last log lines:\n{}", log[log.len().saturating_sub(LOG_LINES)..].join("\n"));
            if let Ok(Some(status)) = self.child.try_wait() {
                eprintln!("it has ended: {status}");
            }
        }
        // It may have ended already.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// What a service writes to its standard error, which is a socket: what is in it can be seen without being taken, so that
/// anyone who asks takes all that has been written until then, and nothing is between a reader's hand and the lines.
struct Log {
    socket: Socket,
    taken: Mutex<Taken>,
}

#[derive(Default)]
struct Taken {
    lines: Vec<String>,
    /// The beginning of the next one.
    part: Vec<u8>,
}

impl Log {
    /// The log, and the end for the service.
    fn pair() -> (Arc<Self>, Stdio) {
        let (socket, theirs) = Socket::pair(Domain::UNIX, Type::STREAM, None).expect("a pair of sockets");
        (Arc::new(Self { socket, taken: Mutex::default() }), Stdio::from(OwnedFd::from(theirs)))
    }

    /// Waits until there is more. `false`: the service has ended, and all is taken.
    fn wait(&self) -> bool {
        loop {
            match self.socket.peek(&mut [MaybeUninit::uninit(); 1]) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                seen => return seen.is_ok_and(|count| count > 0),
            }
        }
    }

    /// Takes what there is.
    fn take(&self) -> MutexGuard<'_, Taken> {
        let mut taken = self.taken.lock().unwrap();
        let mut buffer = vec![0; 1 << 16];
        // Only who has the lock takes anything, so what was seen is still there, and reading it waits for nothing.
        while ioctl_fionread(&self.socket).expect("a socket") > 0 {
            let count = (&self.socket).read(&mut buffer).expect("what is there");
            taken.part.extend_from_slice(&buffer[..count]);
        }
        if let Some(end) = taken.part.iter().rposition(|byte| *byte == b'\n') {
            let rest = taken.part.split_off(end + 1);
            let whole = std::mem::replace(&mut taken.part, rest);
            taken.lines.extend(String::from_utf8_lossy(&whole).lines().map(str::to_owned));
        }
        taken
    }
}

type Running = (Child, SocketAddr, Arc<Log>);

fn spawn(home: &Path, flags: &[String], environment: &[(String, String)], files_max: Option<u32>) -> Running {
    let directory = home.join("work");
    std::fs::create_dir_all(&directory).expect("a temporary directory");
    let mut command = match files_max {
        None => binary(&directory),
        Some(files_max) => limited(&directory, &format!("ulimit -n {files_max}")),
    };
    let (log, stderr) = Log::pair();
    let mut child = command
        .args(["serve", "--listen", "127.0.0.1:0", "--log", "json", "--data"])
        .arg(home.join("data"))
        .args(flags)
        .envs(environment.iter().map(|(name, value)| (name, value)))
        .stderr(stderr)
        .spawn()
        .expect("the binary starts");
    drop(command); // with its copy of what the service alone is to have open
    let (sender, serving) = mpsc::channel();
    let reading = Arc::clone(&log);
    std::thread::spawn(move || {
        let mut seen = 0;
        while reading.wait() {
            let taken = reading.take();
            for line in &taken.lines[seen..] {
                let event: serde_json::Value = serde_json::from_str(line).unwrap_or_default();
                if event["message"] == "serving" {
                    let listen = event["listen"].as_str().and_then(|listen| listen.split(' ').next()?.parse().ok());
                    let _ = sender.send(listen.expect("the address it listens on"));
                }
            }
            seen = taken.lines.len();
        }
    });
    match serving.recv_timeout(START_TIME) {
        Ok(address) => (child, address, log),
        // Told to die, it may do so before it serves.
        Err(mpsc::RecvTimeoutError::Disconnected) if !environment.is_empty() => {
            (child, SocketAddr::from(([127, 0, 0, 1], 0)), log)
        }
        Err(_) => {
            let _ = child.kill();
            panic!("the service did not start:\n{}", log.take().lines.join("\n"));
        }
    }
}

/// An answer.
#[derive(Debug, Clone)]
pub struct Reply {
    /// The status.
    pub status: u16,
    /// The status line without its line break.
    pub line: String,
    /// Names as sent, in the order sent.
    pub headers: Vec<(String, String)>,
    /// The body, taken out of its chunks.
    pub body: Vec<u8>,
    /// The head as it came, with the empty line at its end.
    pub head: Vec<u8>,
}

impl Reply {
    /// A header's value.
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, value)| value.as_str())
    }

    /// The body as text.
    pub fn text(&self) -> &str {
        std::str::from_utf8(&self.body).expect("UTF-8")
    }

    /// The body as JSON.
    pub fn json(&self) -> serde_json::Value {
        serde_json::from_slice(&self.body).unwrap_or_else(|error| panic!("{error}: {}", self.text()))
    }

    /// The status, or a failure that shows the answer.
    #[track_caller]
    pub fn expect(self, status: u16) -> Self {
        assert_eq!(
            self.status,
            status,
            "{}{}",
            String::from_utf8_lossy(&self.head),
            String::from_utf8_lossy(&self.body)
        );
        self
    }

    fn is_chunked(&self) -> bool {
        self.header("Transfer-Encoding").is_some_and(|coding| coding.eq_ignore_ascii_case("chunked"))
    }
}

/// A connection that stays open.
pub struct Connection {
    stream: BufReader<TcpStream>,
}

impl Connection {
    /// Connects.
    pub fn open(address: SocketAddr) -> Self {
        Self::try_open(address).expect("connected")
    }

    /// Connects; the other side may be gone.
    pub fn try_open(address: SocketAddr) -> io::Result<Self> {
        let stream = TcpStream::connect_timeout(&address, READ_TIME)?;
        stream.set_read_timeout(Some(READ_TIME))?;
        stream.set_write_timeout(Some(READ_TIME))?;
        stream.set_nodelay(true)?;
        Ok(Self { stream: BufReader::new(stream) })
    }

    /// The socket.
    pub fn socket(&self) -> &TcpStream {
        self.stream.get_ref()
    }

    /// Sends bytes as they are.
    pub fn send(&mut self, bytes: impl AsRef<[u8]>) {
        self.try_send(bytes).expect("sent");
    }

    /// Sends bytes as they are; the other side may be gone.
    pub fn try_send(&mut self, bytes: impl AsRef<[u8]>) -> io::Result<()> {
        self.stream.get_mut().write_all(bytes.as_ref())
    }

    /// Sends a request and does not wait.
    pub fn ask(&mut self, method: &str, path: &str, headers: &[(&str, &str)], body: impl AsRef<[u8]>) {
        self.send(request(method, path, headers, body.as_ref()));
    }

    /// Sends a request and reads its answer.
    pub fn request(&mut self, method: &str, path: &str, headers: &[(&str, &str)], body: impl AsRef<[u8]>) -> Reply {
        self.ask(method, path, headers, body);
        self.reply(method)
    }

    /// Sends a request and reads its answer; the other side may be gone.
    pub fn try_request(
        &mut self,
        method: &str,
        path: &str,
        headers: &[(&str, &str)],
        body: impl AsRef<[u8]>,
    ) -> io::Result<Reply> {
        self.try_send(request(method, path, headers, body.as_ref()))?;
        self.try_reply(method)
    }

    /// `GET`.
    pub fn get(&mut self, path: &str) -> Reply {
        self.request("GET", path, &[], "")
    }

    /// `GET` of what may have to be asked of the store. Where a busy machine lets that not answer in time, which is 503,
    /// it is asked again.
    pub fn get_in_time(&mut self, path: &str, headers: &[(&str, &str)]) -> Reply {
        until("the store answers in time", SIGNAL_TIME, || {
            let reply = self.request("GET", path, headers, "");
            (reply.status != 503).then_some(reply)
        })
    }

    /// Sends a request so many times at once and reads the answers: a machine that stops this test between two of them
    /// changes nothing about how many come in a second.
    pub fn burst(&mut self, path: &str, headers: &[(&str, &str)], count: usize) -> Vec<Reply> {
        self.send(request("GET", path, headers, b"").repeat(count));
        (0..count).map(|_| self.reply("GET")).collect()
    }

    /// Reads an answer to a request of this method.
    pub fn reply(&mut self, method: &str) -> Reply {
        self.try_reply(method).expect("an answer")
    }

    /// Waits for the first byte of an answer, which stays to be read. `false`: the connection ended without one.
    pub fn is_answered(&mut self) -> bool {
        match self.stream.fill_buf() {
            Ok(bytes) => !bytes.is_empty(),
            Err(error) if matches!(error.kind(), io::ErrorKind::ConnectionReset | io::ErrorKind::BrokenPipe) => false,
            Err(error) => panic!("neither an answer nor an end: {error}"),
        }
    }

    /// Waits until the service has read all that was sent: none of it is on its way, and none waits in the system.
    pub fn until_read(&self) {
        Self::until_all_read(&[self]);
    }

    /// The same for many, for which the system is asked once.
    pub fn until_all_read(connections: &[&Self]) {
        Self::until_passed_on("what was sent is read", connections, |to_send, to_read| to_send + to_read == 0);
    }

    /// Waits until all that was sent has arrived at the service's end, where it may wait in the system.
    pub fn until_all_arrived(connections: &[&Self]) {
        Self::until_passed_on("what was sent has arrived", connections, |to_send, _| to_send == 0);
    }

    /// Waits until this is true of the bytes that each connection has to send and the service has to read.
    fn until_passed_on(what: &str, connections: &[&Self], is_done: impl Fn(u32, u32) -> bool) {
        let ports = |connection: &&Self| {
            [connection.socket().local_addr(), connection.socket().peer_addr()]
                .map(|end| end.expect("a live socket").port())
        };
        let wanted: Vec<[u16; 2]> = connections.iter().map(ports).collect();
        until(what, SIGNAL_TIME, || {
            let sockets = std::fs::read_to_string("/proc/net/tcp").expect("the system's sockets");
            let sockets: HashMap<_, _> = sockets.lines().filter_map(queues).collect();
            let is_done = |[here, there]: &[u16; 2]| {
                let (sent, read) = (sockets.get(&[*here, *there]), sockets.get(&[*there, *here]));
                sent.zip(read).is_some_and(|((to_send, _), (_, to_read))| is_done(*to_send, *to_read))
            };
            wanted.iter().all(is_done).then_some(())
        });
    }

    /// Sends the head of an order and waits until it is asked for the body: the request is known to be under way.
    pub fn begin_post(&mut self, path: &str, length: usize) {
        self.send(format!(
            "POST {path} HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: {length}\r\n\r\n"
        ));
        assert_eq!(self.try_head().expect("a head").status, 100);
    }

    /// Reads an answer; the other side may be gone or silent.
    pub fn try_reply(&mut self, method: &str) -> io::Result<Reply> {
        let mut reply = self.try_head()?;
        if method == "HEAD" || matches!(reply.status, 100..200 | 204 | 304) {
            return Ok(reply);
        }
        if reply.is_chunked() {
            while let Some(chunk) = self.chunk()? {
                reply.body.extend(chunk);
            }
        } else if let Some(length) = reply.header("Content-Length") {
            reply.body = vec![0; length.parse().map_err(io::Error::other)?];
            self.stream.read_exact(&mut reply.body)?;
        } else {
            self.stream.read_to_end(&mut reply.body)?;
        }
        Ok(reply)
    }

    /// Reads the head of an answer; its body is still to come.
    pub fn try_head(&mut self) -> io::Result<Reply> {
        let mut head = Vec::new();
        while !head.ends_with(b"\r\n\r\n") {
            if self.stream.read_until(b'\n', &mut head)? == 0 {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
        }
        let text = String::from_utf8(head.clone()).map_err(io::Error::other)?;
        let mut lines = text.trim_end().split("\r\n");
        let line = lines.next().unwrap_or_default().to_owned();
        let status = line.split(' ').nth(1).and_then(|status| status.parse().ok());
        let headers =
            lines.map(|line| line.split_once(": ").expect("a header")).map(|(name, value)| (name.into(), value.into()));
        let headers = headers.collect();
        Ok(Reply { status: status.expect("a status line"), line, headers, body: Vec::new(), head })
    }

    /// The next chunk of a chunked body; `None` at its end.
    pub fn chunk(&mut self) -> io::Result<Option<Vec<u8>>> {
        let size = self.line()?;
        let size = usize::from_str_radix(size.trim_end(), 16).map_err(io::Error::other)?;
        let mut chunk = vec![0; size + 2];
        self.stream.read_exact(&mut chunk)?;
        assert!(chunk.ends_with(b"\r\n"), "a chunk ends with a line break");
        chunk.truncate(size);
        Ok((size > 0).then_some(chunk))
    }

    fn line(&mut self) -> io::Result<String> {
        let mut line = String::new();
        match self.stream.read_line(&mut line)? {
            0 => Err(io::ErrorKind::UnexpectedEof.into()),
            _ => Ok(line),
        }
    }

    /// All that the other side sends until it closes the connection.
    pub fn until_end(&mut self) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.stream.read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    /// Whether the other side closes the connection in order, with nothing more to say.
    pub fn is_ended(&mut self) -> bool {
        self.stream.read(&mut [0; 1]).is_ok_and(|count| count == 0)
    }

    /// Whether the other side closes the connection, with nothing more to say, within this time.
    pub fn is_closed_within(&mut self, time: Duration) -> bool {
        self.socket().set_read_timeout(Some(time)).expect("a legal time");
        match self.stream.read(&mut [0; 1]) {
            Ok(count) => count == 0,
            Err(error) => error.kind() == io::ErrorKind::ConnectionReset,
        }
    }
}

/// A line of the system's sockets: the ports of both ends, and the bytes to send and to read.
fn queues(line: &str) -> Option<([u16; 2], (u32, u32))> {
    // After its number: the address of this end and that of the other, the state, the queues.
    let mut words = line.split_ascii_whitespace().skip(1);
    let mut port = || u16::from_str_radix(words.next()?.rsplit_once(':')?.1, 16).ok();
    let ports = [port()?, port()?];
    let (to_send, to_read) = words.nth(1)?.split_once(':')?;
    Some((ports, (u32::from_str_radix(to_send, 16).ok()?, u32::from_str_radix(to_read, 16).ok()?)))
}

/// The bytes of a request.
pub fn request(method: &str, path: &str, headers: &[(&str, &str)], body: &[u8]) -> Vec<u8> {
    let mut bytes = format!("{method} {path} HTTP/1.1\r\nHost: orders.test\r\n").into_bytes();
    for (name, value) in headers {
        bytes.extend(format!("{name}: {value}\r\n").bytes());
    }
    if !body.is_empty() || method == "POST" {
        bytes.extend(format!("Content-Length: {}\r\n", body.len()).bytes());
    }
    bytes.extend(b"\r\n");
    bytes.extend(body);
    bytes
}

/// Waits until `check` gives something.
#[track_caller]
pub fn until<T>(what: &str, time: Duration, mut check: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + time;
    loop {
        if let Some(found) = check() {
            return found;
        }
        assert!(Instant::now() < end, "waited {time:?} until {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}

#[test]
fn a_service_starts_stops_and_starts_again() {
    let mut server = Server::start(&[]);
    let before = server.pid();
    server.restart();
    server.kill9();
    assert_ne!(server.pid(), before);
    assert!(server.data().is_dir());
    let status = server.stop();
    assert_eq!((status.code(), status.signal()), (Some(0), None), "{:?}", server.log());
}
