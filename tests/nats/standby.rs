//! Several instances on one durable and one store: one reads, the others stand by and take over. Those of Kafka share
//! partitions instead (`kafka::rebalance`).

use super::subject::Subject;
use crate::broker::ledger::{Pace, Steady, metric};
use crate::broker::{Channel, RECOVERY, in_turn};
use crate::database::Database;
use crate::server::{Server, until};

#[test]
fn an_instance_that_is_killed_is_replaced_and_everything_is_stored_once() {
    let _turn = in_turn();
    let (Some(database), Some(subject)) = (Database::create(), Subject::create(1)) else { return };
    let url = database.url();
    let flags = subject.flags_with(&["--postgres", &url]);
    let mut first = Server::start(&flags);
    let mut second = Server::start(&flags);
    until("the second stands by", RECOVERY, || (metric(&second, "nats_standby")[""] == 1).then_some(()));
    assert_eq!(metric(&first, "nats_standby")[""], 0);
    first.kill();
    let steady = Steady::start(&subject, Pace { rate: 1000, ..Pace::default() });
    steady.wait_more(500);
    until("the second takes over", RECOVERY, || (metric(&second, "nats_standby")[""] == 0).then_some(()));
    // And back, under load.
    first.start_again();
    steady.wait_more(500);
    second.kill();
    steady.wait_more(500);
    until("the first takes over", RECOVERY, || (metric(&first, "nats_standby")[""] == 0).then_some(()));
    steady.wait_more(500);
    let sent = steady.stop();
    second.start_again();
    sent.check(&[&first, &second], &database, &subject);
    subject.wait_acknowledged();
    subject.stop(&mut first);
    subject.stop(&mut second);
}
