//! Stream and durable are deleted and made again. A stream is told apart from the one before it by the time at which it
//! was made, so nothing stops, unlike with a topic of Kafka (`kafka::rebalance`); a group of Kafka has nothing that the
//! service would miss.

use super::subject::Subject;
use crate::broker::ledger::{Sent, positions};
use crate::broker::{Channel, RECOVERY};
use crate::database::Database;
use crate::server::{Server, until};

#[test]
fn a_stream_that_is_deleted_and_made_again_is_read_from_its_start() {
    let (Some(database), Some(subject)) = (Database::create(), Subject::create(1)) else { return };
    let url = database.url();
    let mut server = Server::start(&subject.flags_with(&["--postgres", &url, "--batch-rows-max", "16"]));
    let (mut sent, sender) = (Sent::default(), subject.sender());
    sent.send(&sender, 0..100);
    sent.wait_stored(&[&server], &database, &subject);
    let (former, _) = subject.end();
    subject.delete_stream(&subject.stream);
    // The service makes it again; its numbers begin again.
    until("there is a stream again", RECOVERY, || {
        let (stream, _) = subject.end();
        (stream != former).then_some(())
    });
    sent.send(&sender, 50..120);
    sent.check(&[&server], &database, &subject);
    assert_eq!(positions(&database, &subject).get(&former), Some(&101), "the former position is kept apart");
    subject.wait_acknowledged();
    assert_eq!(subject.stop(&mut server)["read"], 170);
}

#[test]
fn a_stream_that_is_made_again_while_the_service_is_stopped_is_read_from_its_start() {
    let (Some(database), Some(subject)) = (Database::create(), Subject::create(1)) else { return };
    let url = database.url();
    let mut server = Server::start(&subject.flags_with(&["--postgres", &url, "--batch-rows-max", "16"]));
    let (mut sent, sender) = (Sent::default(), subject.sender());
    sent.send(&sender, 0..100);
    sent.wait_stored(&[&server], &database, &subject);
    subject.stop(&mut server);
    subject.delete_stream(&subject.stream);
    subject.make(1);
    sent.send(&sender, 90..130);
    server.start_again();
    sent.check(&[&server], &database, &subject);
    assert_eq!(subject.stop(&mut server)["read"], 40);
}

#[test]
fn a_durable_that_is_deleted_is_made_again() {
    let (Some(database), Some(subject)) = (Database::create(), Subject::create(1)) else { return };
    let url = database.url();
    let mut server = Server::start(&subject.flags_with(&["--postgres", &url, "--batch-rows-max", "16"]));
    let (mut sent, sender) = (Sent::default(), subject.sender());
    for round in 0..4 {
        sent.send(&sender, round * 20..round * 20 + 30);
        sent.wait_stored(&[&server], &database, &subject);
        subject.delete_durable();
    }
    sent.send(&sender, 0..10);
    sent.check(&[&server], &database, &subject);
    subject.wait_acknowledged();
    assert_eq!(subject.stop(&mut server)["read"], 130, "what is stored is not read again");
}
