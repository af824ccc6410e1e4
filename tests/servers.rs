//! Real PostgreSQL, Kafka, NATS, NATS Streaming and Redis for tests: those that `tests/run.sh`
//! started for everybody, and private ones to break.
//! Where they are missing a test is skipped aloud, or fails in CI.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use crate::server::SIGNAL_TIME;

const POSTGRES: &str = "ORDER_TEST_POSTGRES";
const KAFKA: &str = "ORDER_TEST_KAFKA";
const REDIS: &str = "ORDER_TEST_REDIS";
const NATS: &str = "ORDER_TEST_NATS";
const STAN: &str = "ORDER_TEST_STAN";

/// The URL of the PostgreSQL server that all tests share: each makes a database of its own there.
pub fn postgres() -> Option<String> {
    shared(POSTGRES)
}

/// The bootstrap list of the Kafka server that all tests share: each makes topics of its own there.
pub fn kafka() -> Option<String> {
    shared(KAFKA)
}

/// The address of the Redis server that all tests share: each has orders of its own there.
pub fn redis() -> Option<String> {
    shared(REDIS)
}

/// The URL of the NATS server that all tests share: each makes subjects and streams of its own there.
pub fn nats() -> Option<String> {
    shared(NATS)
}

/// The NATS Streaming server that all tests share: each has channels and clients of its own there.
/// The URL of its NATS server and the address where it says how it stands, with a space between.
pub fn stan() -> Option<String> {
    let is_there = |address: &String| {
        let is_there = address != "none";
        if !is_there {
            println!("SKIPPED: there is no Go to build NATS Streaming");
        }
        is_there
    };
    shared(STAN).filter(is_there)
}

fn shared(variable: &str) -> Option<String> {
    let value = std::env::var(variable).ok().filter(|value| !value.is_empty());
    if value.is_none() {
        skip(&format!("{variable} is not set (run make test)"));
    }
    value
}

/// A port of this host that no other test is given. It is below those that the system gives out, and not among those of
/// `tests/servers.sh`, so that it is still free when a server takes it.
pub fn free_port() -> u16 {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    loop {
        let n = std::process::id().wrapping_mul(101).wrapping_add(NEXT.fetch_add(1, Ordering::Relaxed));
        let port = 11_000 + u16::try_from(n % 9000).expect("fewer than 65,536");
        if TcpListener::bind(("127.0.0.1", port)).is_ok() {
            return port;
        }
    }
}

/// Says aloud that this test goes without something; where `CI` is set nothing is skipped.
pub fn skip(why: &str) {
    assert!(std::env::var_os("CI").is_none(), "{why}, and nothing is skipped where CI is set");
    skip_anywhere(why);
}

/// The same for what a machine may rightly not allow, where `CI` is set too.
pub fn skip_anywhere(why: &str) {
    let test = std::thread::current().name().unwrap_or("a test").to_owned();
    // Not `eprintln!`, which the harness keeps to itself as long as the test does not fail.
    let _ = std::io::stderr().write_all(format!("SKIPPED: {test}: {why}\n").as_bytes());
}

/// A server that one test has to itself and may break. It is gone, with its data, when this is dropped.
pub struct Private {
    kind: &'static str,
    name: String,
    url: String,
}

impl Private {
    /// A PostgreSQL server; `None` where there is none to be had.
    pub fn postgres() -> Option<Self> {
        postgres().map(|_| Self::start("postgres", 1))
    }

    /// Two PostgreSQL servers, of which the second is a hot standby of the first. The URL is both, with a space between.
    pub fn postgres_with_standby() -> Option<Self> {
        postgres().map(|_| Self::start("postgres", 2))
    }

    /// A Kafka cluster of so many nodes; `None` where there is none to be had.
    pub fn kafka(nodes: usize) -> Option<Self> {
        kafka().map(|_| Self::start("kafka", nodes))
    }

    /// A Kafka that is reached over TLS too: see [`Self::secured`]. It shows the certificate of `keystore.pem`, and asks
    /// for one of an authority of `ca.pem`, both in this directory.
    #[cfg(feature = "kafka-tls")]
    pub fn kafka_with_tls(files: &str) -> Option<Self> {
        kafka().map(|_| Self::start_with("kafka", 1, &[("KAFKA_TLS", files)]))
    }

    /// A Redis server; `None` where there is none to be had.
    pub fn redis() -> Option<Self> {
        redis().map(|_| Self::start("redis", 1))
    }

    /// A NATS server; `None` where there is none to be had.
    pub fn nats() -> Option<Self> {
        nats().map(|_| Self::start("nats", 1))
    }

    /// A NATS Streaming server; `None` where there is none to be had.
    pub fn stan() -> Option<Self> {
        stan().map(|_| Self::start("stan", 1))
    }

    fn start(kind: &'static str, nodes: usize) -> Self {
        Self::start_with(kind, nodes, &[])
    }

    fn start_with(kind: &'static str, nodes: usize, variables: &[(&str, &str)]) -> Self {
        static STARTED: AtomicU32 = AtomicU32::new(0);
        let name = format!("private_{}_{}", std::process::id(), STARTED.fetch_add(1, Ordering::Relaxed));
        let url = script_with(variables, &["start", kind, &name, &nodes.to_string()]).unwrap();
        Self { kind, name, url }
    }

    /// What clients are given: a URL for PostgreSQL, a bootstrap list for Kafka, an address for Redis. It stays the same over restarts.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// SIGKILL to every process of every node: what was not on the disk is gone.
    pub fn kill(&self) {
        self.run("kill", &[]);
    }

    /// SIGKILL to one node, counted from 1.
    pub fn kill_node(&self, node: usize) {
        self.run("kill", &[&node.to_string()]);
    }

    /// Starts what is down again, on the same ports and data, and waits until it answers.
    pub fn restart(&self) {
        self.run("restart", &[]);
    }

    /// Holds every process still: connections stay open and nothing answers.
    pub fn pause(&self) {
        self.run("pause", &[]);
    }

    /// Lets them go on.
    pub fn resume(&self) {
        self.run("resume", &[]);
    }

    /// The address of a Kafka's brokers for users who log in: see [`Self::acl`].
    pub fn logins(&self) -> String {
        script(&["logins", &self.name]).unwrap()
    }

    /// The addresses of a Kafka over TLS: of clients with a certificate, and of those who log in as `user` with the
    /// password `secret`. Both may do everything.
    #[cfg(feature = "kafka-tls")]
    pub fn secured(&self) -> [String; 2] {
        let addresses = script(&["secured", &self.name]).unwrap();
        let (by_certificate, by_login) = addresses.split_once(' ').unwrap();
        [by_certificate.into(), by_login.into()]
    }

    /// What the user `user` with the password `secret` may do from now on, as arguments of `kafka-acls.sh` that follow
    /// `--add --allow-principal User:user`, or do no more with `--remove`.
    pub fn acl(&self, action: &str, more: &[&str]) {
        let who = ["acls", &self.name, action, "--allow-principal", "User:user", "--force"];
        script(&[&who, more].concat()).unwrap();
    }

    fn run(&self, command: &str, more: &[&str]) {
        script(&[&[command, self.kind, &self.name], more].concat()).unwrap();
    }
}

impl Drop for Private {
    fn drop(&mut self) {
        // A panic here would hide the one that may be under way; `tests/run.sh` ends what is left over.
        let _ = script(&["remove", self.kind, &self.name]);
    }
}

/// The line that `tests/servers.sh` prints.
fn script(arguments: &[&str]) -> Result<String, String> {
    script_with(&[], arguments)
}

fn script_with(variables: &[(&str, &str)], arguments: &[&str]) -> Result<String, String> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/servers.sh");
    let mut command = Command::new(path);
    command.args(arguments).envs(variables.iter().copied()).stdin(Stdio::null());
    let output = command.output().map_err(|error| error.to_string())?;
    if output.status.success() {
        Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
    } else {
        Err(format!("tests/servers.sh {arguments:?}: {}", String::from_utf8_lossy(&output.stderr)))
    }
}

/// Whether a server sends anything at all in answer to `question`. One that is paused is waited for in vain.
fn answers(address: &str, question: &[u8]) -> bool {
    let Ok(mut socket) = TcpStream::connect(address) else { return false };
    socket.set_read_timeout(Some(SIGNAL_TIME)).unwrap();
    socket.write_all(question).is_ok() && socket.read(&mut [0; 1]).is_ok_and(|read| read == 1)
}

/// Asks a server while it is paused, which gives no answer, and again once it goes on: the first question is answered
/// then, so it had arrived.
fn is_held_by_a_pause(server: &Private, address: &str, question: &[u8]) {
    server.pause();
    let mut socket = TcpStream::connect(address).unwrap();
    socket.write_all(question).unwrap();
    // A paused process cannot answer; how long that is looked at matters little.
    socket.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
    let error = socket.read(&mut [0; 1]).expect_err("nothing answers while it is paused");
    assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock);
    server.resume();
    socket.set_read_timeout(Some(SIGNAL_TIME)).unwrap();
    assert_eq!(socket.read(&mut [0; 1]).unwrap(), 1);
}

/// PostgreSQL says yes or no to this before a client has logged in.
const MAY_I_SPEAK_TLS: [u8; 8] = [0, 0, 0, 8, 4, 210, 22, 47];

fn postgres_address(url: &str) -> &str {
    url.strip_prefix("postgres://postgres@").unwrap().strip_suffix("/postgres").unwrap()
}

fn postgres_answers(url: &str) -> bool {
    answers(postgres_address(url), &MAY_I_SPEAK_TLS)
}

/// ApiVersions, version 0, without a client's name.
fn kafka_answers(bootstrap: &str) -> bool {
    bootstrap.split(',').all(|address| answers(address, &[0, 0, 0, 10, 0, 18, 0, 0, 0, 0, 0, 1, 255, 255]))
}

fn redis_answers(address: &str) -> bool {
    answers(address, b"PING\r\n")
}

/// The server speaks first.
fn nats_answers(url: &str) -> bool {
    answers(url.strip_prefix("nats://").unwrap(), b"")
}

#[test]
fn the_shared_servers_answer() {
    assert!(postgres().is_none_or(|url| postgres_answers(&url)));
    assert!(kafka().is_none_or(|bootstrap| kafka_answers(&bootstrap)));
    assert!(nats().is_none_or(|url| nats_answers(&url)));
    assert!(redis().is_none_or(|address| redis_answers(&address)));
    assert!(stan().is_none_or(|both| nats_answers(both.split(' ').next().unwrap())));
}

#[test]
fn a_private_redis_can_be_paused_killed_and_started_again() {
    let Some(server) = Private::redis() else { return };
    assert!(redis_answers(server.url()));
    is_held_by_a_pause(&server, server.url(), b"PING\r\n");
    assert!(redis_answers(server.url()));
    server.kill();
    assert!(!redis_answers(server.url()));
    server.restart();
    assert!(redis_answers(server.url()), "the same address as before");
}

#[test]
fn a_private_postgres_can_be_paused_killed_and_started_again() {
    let Some(server) = Private::postgres() else { return };
    let url = server.url().to_owned();
    assert!(postgres_answers(&url));
    is_held_by_a_pause(&server, postgres_address(&url), &MAY_I_SPEAK_TLS);
    assert!(postgres_answers(&url));
    server.kill();
    assert!(!postgres_answers(&url));
    server.restart();
    assert!(postgres_answers(&url), "the same address as before");
    drop(server);
    assert!(!postgres_answers(&url), "gone with its handle");
}

#[test]
fn a_node_of_a_private_kafka_can_be_killed_and_started_again() {
    let Some(server) = Private::kafka(1) else { return };
    assert!(kafka_answers(server.url()));
    server.kill_node(1);
    assert!(!kafka_answers(server.url()));
    server.restart();
    assert!(kafka_answers(server.url()));
}
