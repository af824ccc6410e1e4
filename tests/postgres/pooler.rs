//! PgBouncer between the service and the server.

use std::os::unix::fs::PermissionsExt;
use std::process::{Child, Command, Stdio};

use super::LONG;
use crate::database::Database;
use crate::server::{Server, binary, until};
use crate::servers;

/// A running PgBouncer.
pub(super) struct Pooler {
    child: Child,
    port: u16,
    _home: tempfile::TempDir,
}

impl Pooler {
    pub(super) fn start(database: &Database, mode: &str) -> Option<Self> {
        if Command::new("pgbouncer").arg("--version").stdout(Stdio::null()).status().is_err() {
            servers::skip("pgbouncer is missing (run make test)");
            return None;
        }
        let url = database.url();
        let (server, name) = url.split_once('@').unwrap().1.split_once('/').unwrap();
        let (host, server_port) = server.split_once(':').unwrap();
        let port = servers::free_port();
        let home = tempfile::tempdir().unwrap();
        std::fs::set_permissions(home.path(), PermissionsExt::from_mode(0o755)).unwrap();
        let settings = home.path().join("pgbouncer.ini");
        let text = format!(
            "[databases]\n{name} = host={host} port={server_port} user=postgres\n[pgbouncer]\nlisten_addr = 127.0.0.1\n\
             listen_port = {port}\nunix_socket_dir =\nauth_type = any\npool_mode = {mode}\ndefault_pool_size = 60\n"
        );
        std::fs::write(&settings, text).unwrap();
        let mut command = Command::new("pgbouncer");
        if rustix::process::getuid().is_root() {
            command.args(["-u", "postgres"]); // it refuses to run as root
        }
        let child = command.arg(settings).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let child = child.spawn().expect("pgbouncer starts");
        let pooler = Self { child, port, _home: home };
        until("the pooler listens", LONG, || std::net::TcpStream::connect(("127.0.0.1", port)).ok());
        Some(pooler)
    }

    pub(super) fn url(&self, database: &Database) -> String {
        format!("postgres://postgres@127.0.0.1:{}/{}", self.port, database.name())
    }
}

impl Drop for Pooler {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// 680 writes were acknowledged before it ended with 1, and its locks and limits stayed on connections of others.
#[test]
fn a_pooler_that_hands_each_transaction_to_another_connection_is_named_at_the_start() {
    let Some(database) = Database::create() else { return };
    let directory = tempfile::tempdir().unwrap();
    for mode in ["transaction", "statement"] {
        let Some(pooler) = Pooler::start(&database, mode) else { return };
        let mut command = binary(directory.path());
        command.args(["serve", "--listen", "127.0.0.1:0", "--postgres", &pooler.url(&database)]);
        let output = command.output().unwrap();
        let log = String::from_utf8_lossy(&output.stderr);
        assert_eq!(output.status.code(), Some(78), "{mode}: {log}");
        assert!(log.contains("set pool_mode = session"), "{mode}: {log}");
        assert_eq!(database.query("SELECT to_regclass('orders')"), ["NULL"], "nothing is made");
        let locks = "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory'
                     AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";
        assert_eq!(database.query(locks), ["0"], "nothing is left behind");
    }
}

#[test]
fn a_pooler_that_gives_each_client_a_connection_is_none_to_speak_of() {
    let Some(database) = Database::create() else { return };
    let Some(pooler) = Pooler::start(&database, "session") else { return };
    let url = pooler.url(&database);
    let flags = ["--postgres", url.as_str(), "--profile", "lenient"];
    let (one, other) = (Server::start(&flags), Server::start(&flags));
    one.post("/orders", r#"{"order_uid":"pooled"}"#).expect(201);
    until("the other one shows it", LONG, || (other.get("/order/pooled").status == 200).then_some(()));
    other.post("/orders", r#"{"order_uid":"pooled","n":1}"#).expect(200);
    until("the change is seen", LONG, || {
        (one.get("/order/pooled").expect(200).header("etag") == Some("\"2\"")).then_some(())
    });
}
