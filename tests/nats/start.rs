//! A start at which something is not there yet, and settings that cannot be used.

use super::ledger::{Sent, id, stop};
use super::subject::Subject;
use super::{RECOVERY, in_turn};
use crate::server::{Server, binary, until};
use crate::servers::Private;

#[test]
fn a_server_that_is_away_at_the_start_is_waited_for_and_http_serves_meanwhile() {
    let _turn = in_turn();
    let Some(nats) = Private::nats() else { return };
    let subject = Subject::named_on(nats.url());
    nats.kill();
    let mut server = Server::start_cold(&subject.flags());
    server.get("/livez").expect(200);
    until("it waits for nothing but NATS", RECOVERY, || {
        let reply = server.get("/readyz").expect(503);
        (reply.text().contains("not connected to NATS") && !reply.text().contains("warm-up")).then_some(())
    });
    let mut body = Vec::new();
    order_service::order::sample::wb(22, 100, &mut body);
    server.post("/orders", &body).expect(201);
    server.get(&format!("/order/{}", order_service::order::sample::wb_id(22, 100))).expect(200);
    nats.restart();
    server.wait_ready();
    let (mut sent, sender) = (Sent::default(), subject.sender());
    sent.send(&sender, 0..50);
    sent.send_rubbish(&sender, 5);
    until("all is there", RECOVERY, || (server.get(&format!("/order/{}", id(49))).status == 200).then_some(()));
    assert_eq!(server.get("/api/stats").json()["total_orders"], 51);
    sent.check_letters(&subject);
    assert_eq!(stop(&mut server)["read"], 55);
}

#[test]
fn a_stop_does_not_wait_for_a_server_that_is_away() {
    let mut server = Server::start_cold(&["--nats", "nats://127.0.0.1:1"]);
    server.get("/livez").expect(200);
    let status = server.stop();
    assert!(status.success(), "stopped with {status}");
}

#[test]
fn wrong_settings_are_named() {
    let home = tempfile::tempdir().unwrap();
    for (flags, named) in [
        (&["--nats", "http://127.0.0.1"][..], "--nats: URL 1"),
        (&["--nats", "nats://127.0.0.1", "--nats-subject", "orders.>"], "--nats-subject: "),
        (&["--nats", "nats://127.0.0.1", "--nats-stream", "a.b"], "--nats-stream: "),
        (&["--nats", "nats://127.0.0.1", "--nats-durable", ""], "--nats-durable: "),
        (&["--nats", "nats://127.0.0.1", "--nats-ack-wait", "1ms"], "nats.ack_wait: "),
        (&["--nats", "nats://127.0.0.1", "--nats-in-flight-max", "0"], "--nats-in-flight-max: "),
        (&["--nats", "nats://127.0.0.1", "--nats-subject", "orders.dlq"], "nats.dlq_subject: "),
    ] {
        let output = binary(home.path()).arg("serve").args(flags).output().unwrap();
        assert_eq!(output.status.code(), Some(78), "{flags:?}");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(said.contains(named), "{flags:?}: {said}");
    }
}

#[test]
fn a_password_is_not_shown() {
    let home = tempfile::tempdir().unwrap();
    let arguments = ["--nats", "nats://me:secret@127.0.0.1:4222", "config", "print"];
    let output = binary(home.path()).args(arguments).stdout(std::process::Stdio::piped()).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
    assert!(said.contains("nats") && !said.contains("secret"), "{said}");
}
