//! Real servers of a bench's own, brought up before it and taken down after it.

use std::process::{Command, Stdio};

const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/servers.sh");

/// PostgreSQL, and Kafka or NATS.
#[allow(dead_code, reason = "each bench has those that it needs")]
pub struct Servers {
    name: &'static str,
    /// The URL of a database that is there.
    pub postgres: String,
    /// Bootstrap servers.
    pub kafka: String,
    /// The URL of a server with JetStream.
    pub nats: String,
}

impl Servers {
    /// PostgreSQL and Kafka under this name. `None`, aloud, where they cannot be had.
    #[allow(dead_code, reason = "each bench has those that it needs")]
    pub fn start(name: &'static str) -> Option<Self> {
        Self::start_with(name, "kafka")
    }

    /// PostgreSQL and one other under this name.
    pub fn start_with(name: &'static str, broker: &str) -> Option<Self> {
        let script = |arguments: &[&str]| {
            let output = Command::new(SCRIPT).args(arguments).stderr(Stdio::inherit()).output().ok()?;
            output.status.success().then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
        };
        let start = || {
            script(&["install", "postgres"])?;
            script(&["install", broker])?;
            let postgres = script(&["start", "postgres", name])?;
            let mut servers = Self { name, postgres, kafka: String::new(), nats: String::new() };
            let url = script(&["start", broker, name])?;
            *(if broker == "kafka" { &mut servers.kafka } else { &mut servers.nats }) = url;
            Some(servers)
        };
        let servers = start();
        if servers.is_none() {
            #[expect(clippy::disallowed_methods, reason = "a bench, not the service")]
            let is_ci = std::env::var_os("CI").is_some();
            assert!(!is_ci, "the servers cannot be had, and nothing is skipped where CI is");
            println!("SKIPPED: PostgreSQL or {broker} cannot be had");
        }
        servers
    }

    /// Has PostgreSQL make the files of its log, which a server that has been at work uses again: a new one writes each
    /// of them full of zeros first, in the middle of someone's commit.
    #[allow(dead_code, reason = "each bench has those that it needs")]
    pub fn season(&self) {
        let next = "SELECT pg_logical_emit_message(false, 'season', ''), pg_switch_wal()";
        self.psql("postgres", &[&[next; 100][..], &["CHECKPOINT"]].concat());
    }

    /// Runs SQL in a database of this server.
    pub fn psql(&self, database: &str, commands: &[&str]) {
        let mut psql = Command::new("psql");
        psql.args(["-q", "-v", "ON_ERROR_STOP=1", "-d", &self.url(database)]);
        for command in commands {
            psql.args(["-c", command]);
        }
        assert!(psql.stdout(Stdio::null()).status().expect("psql").success(), "{commands:?}");
    }

    /// The URL of a database of this server.
    pub fn url(&self, database: &str) -> String {
        let (server, _) = self.postgres.rsplit_once('/').expect("a URL");
        format!("{server}/{database}")
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        let brokers = [("kafka", &self.kafka), ("nats", &self.nats)];
        let started = brokers.into_iter().filter(|(_, url)| !url.is_empty()).map(|(kind, _)| kind);
        for kind in started.chain(["postgres"]) {
            let _ = Command::new(SCRIPT).args(["remove", kind, self.name]).status();
        }
    }
}
