//! `publish --nats`.

use std::process::{Output, Stdio};

use super::subject::Subject;
use crate::broker::{Channel, RECOVERY};
use crate::server::{Server, binary, until};

fn publish(arguments: &[&str]) -> Output {
    let home = tempfile::tempdir().unwrap();
    binary(home.path()).arg("publish").args(arguments).stdout(Stdio::piped()).output().unwrap()
}

fn said(output: &Output) -> String {
    String::from_utf8_lossy(&output.stdout).into_owned() + &String::from_utf8_lossy(&output.stderr)
}

#[test]
fn published_orders_are_stored_and_invalid_ones_parked() {
    let Some(subject) = Subject::create(1) else { return };
    let mut server = Server::start(&subject.flags());
    let arguments = ["--nats", &subject.url, "--subject", &subject.name, "--count", "3000", "--invalid", "0.1"];
    let output = publish(&arguments);
    assert!(output.status.success(), "{}", said(&output));
    assert!(said(&output).contains("3000 sent, 0 failed"), "{}", said(&output));
    assert_eq!(subject.end().1, 3000, "each is there once");
    subject.wait_acknowledged();
    let letters = subject.letters().len() as u64;
    assert!((200..400).contains(&letters), "{letters} of 3000 are invalid");
    let total = || server.get("/api/stats").json()["total_orders"].as_u64();
    until("the rest is there", RECOVERY, || (total() == Some(3000 - letters)).then_some(()));
    let ledger = subject.stop(&mut server);
    assert_eq!((ledger["read"], ledger["rejected"]), (3000, letters));
}

#[test]
fn orders_of_a_file_are_published_at_their_rate() {
    let Some(subject) = Subject::create(1) else { return };
    let file = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(file.path(), "{\"a\":1}\n\n[2]\nthree\n").unwrap();
    let path = file.path().to_str().unwrap();
    let started = std::time::Instant::now();
    let output = publish(&["--nats", &subject.url, "--subject", &subject.name, "--file", path, "--rate", "10"]);
    assert!(output.status.success(), "{}", said(&output));
    assert!(started.elapsed() >= std::time::Duration::from_millis(200), "two pauses of a tenth of a second");
    let values: Vec<_> = subject.read(&subject.stream).into_iter().map(|letter| letter.value.unwrap()).collect();
    assert_eq!(values, [&b"{\"a\":1}"[..], b"[2]", b"three"]);
}

#[test]
fn what_is_not_there_to_publish_to_is_named() {
    let Some(subject) = Subject::named() else { return };
    let output = publish(&["--nats", &subject.url, "--subject", &subject.name]);
    assert_eq!(output.status.code(), Some(1));
    assert!(said(&output).contains("has no stream that takes subject"), "{}", said(&output));
    let output = publish(&["--nats", "nats://127.0.0.1:1"]);
    assert!(said(&output).contains("127.0.0.1:1"), "{}", said(&output));
    let output = publish(&["--nats", "nats://192.0.2.1:4222"]);
    assert!(said(&output).contains("--allow-remote"), "{}", said(&output));
    let output = publish(&["--nats", "nats://127.0.0.1", "--http", "http://127.0.0.1:1"]);
    assert_eq!(output.status.code(), Some(2));
}
