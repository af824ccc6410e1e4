//! What a NATS server does not allow or does not have is told by its name. Each test has a server of its own, with other
//! settings than the shared ones.

use std::process::{Child, Command, Stdio};

use crate::broker::RECOVERY;
use crate::server::{Server, until};
use crate::servers;

/// A server that ends with the test.
struct Nats {
    child: Child,
    address: String,
}

impl Nats {
    fn start(flags: &[&str]) -> Option<Self> {
        servers::nats()?;
        let port = servers::free_port();
        let mut command = Command::new("nats-server");
        command.args(["-a", "127.0.0.1", "-p", &port.to_string()]).args(flags);
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
        Some(Self { child, address: format!("127.0.0.1:{port}") })
    }
}

impl Drop for Nats {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn wait_refused(url: &str, reason: &str) {
    let mut server = Server::start_cold(&["--nats", url]);
    until(&format!("it says: {reason}"), RECOVERY, || {
        let answer = server.get("/readyz");
        (answer.status == 503 && answer.text().contains(reason)).then_some(())
    });
    until("the log says so, and says it again", RECOVERY, || {
        (server.log().iter().filter(|line| line.contains(reason)).count() > 1).then_some(())
    });
    assert!(!server.log().iter().any(|line| line.contains("s3cret")), "{:?}", server.log());
    assert!(server.stop().success());
}

#[test]
fn a_server_without_jetstream_is_told_from_one_that_is_away() {
    let Some(nats) = Nats::start(&[]) else { return };
    wait_refused(&format!("nats://{}", nats.address), "NATS has no JetStream for this user");
}

#[test]
fn credentials_that_are_refused_are_named_and_not_shown() {
    let Some(nats) = Nats::start(&["--user", "orders", "--pass", "right"]) else { return };
    wait_refused(&format!("nats://orders:s3cret@{}", nats.address), "NATS refuses the credentials");
    wait_refused(&format!("nats://{}", nats.address), "NATS refuses the credentials");
}
