//! Several instances on one durable and one store: one reads, the others stand by and take over.

use super::ledger::{Steady, figure, stop};
use super::subject::Subject;
use super::{RECOVERY, in_turn};
use crate::database::Database;
use crate::server::{Server, until};

#[test]
fn an_instance_that_is_killed_is_replaced_and_everything_is_stored_once() {
    let _turn = in_turn();
    let (Some(database), Some(subject)) = (Database::create(), Subject::create()) else { return };
    let url = database.url();
    let flags = subject.flags_with(&["--postgres", &url]);
    let mut first = Server::start(&flags);
    let mut second = Server::start(&flags);
    until("the second stands by", RECOVERY, || (figure(&second, "nats_standby") == 1).then_some(()));
    assert_eq!(figure(&first, "nats_standby"), 0);
    first.kill();
    let steady = Steady::start(&subject, 1000);
    steady.wait_more(500);
    until("the second takes over", RECOVERY, || (figure(&second, "nats_standby") == 0).then_some(()));
    // And back, under load.
    first.start_again();
    steady.wait_more(500);
    second.kill();
    steady.wait_more(500);
    until("the first takes over", RECOVERY, || (figure(&first, "nats_standby") == 0).then_some(()));
    steady.wait_more(500);
    let sent = steady.stop();
    second.start_again();
    sent.check(&[&first, &second], &database, &subject);
    subject.wait_acknowledged();
    stop(&mut first);
    stop(&mut second);
}
