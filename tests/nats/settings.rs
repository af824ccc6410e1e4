//! Settings of NATS that cannot be used, and those that are not shown. Those of Kafka are among the tests of the command
//! line.

use crate::server::binary;

#[test]
fn wrong_settings_are_named() {
    let home = tempfile::tempdir().unwrap();
    for (flags, named) in [
        (&["--nats", "http://127.0.0.1"][..], "--nats: invalid URL 1"),
        (&["--nats", "nats://127.0.0.1", "--nats-subject", "orders.>"], "--nats-subject: "),
        (&["--nats", "nats://127.0.0.1", "--nats-stream", "a.b"], "--nats-stream: "),
        (&["--nats", "nats://127.0.0.1", "--nats-durable", ""], "--nats-durable: "),
        (&["--nats", "nats://127.0.0.1", "--nats-ack-wait", "1ms"], "--nats-ack-wait: "),
        (&["--nats", "nats://127.0.0.1", "--nats-in-flight-max", "0"], "--nats-in-flight-max: "),
        (
            &["--nats", "nats://127.0.0.1", "--nats-subject", "orders.dlq"],
            "--nats-dlq-subject: must be another subject than --nats-subject",
        ),
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
