//! The service dies at each step of a batch, and at any moment: every order is stored once, every dead letter is there
//! once.

use std::os::unix::process::ExitStatusExt;
use std::time::Duration;

use super::ledger::{Sent, Steady, stop};
use super::subject::Subject;
use super::{RECOVERY, in_turn};
use crate::database::Database;
use crate::server::{Server, until};

/// Dies at a step when it is reached for the first time and at a later time, and goes on from there.
fn die_at(steps: &[&str]) {
    let _turn = in_turn();
    let (Some(database), Some(subject)) = (Database::create(), Subject::create()) else { return };
    let url = database.url();
    let flags = subject.flags_with(&["--postgres", &url, "--batch-rows-max", "16"]);
    let (mut sent, sender) = (Sent::default(), subject.sender());
    sent.send(&sender, 0..30);
    sent.send_rubbish(&sender, 1);
    for (round, (step, nth)) in steps.iter().flat_map(|step| [(step, 1), (step, 4)]).enumerate() {
        let at = format!("{step}:{nth}");
        let mut server = Server::start_in(&flags, &[("ORDER_DIE_AT", &at)]);
        // Old orders and new ones, until it dies.
        let mut next = round as u64 * 10;
        let status = until(&format!("it dies at {at}"), RECOVERY, || {
            sent.send(&sender, next..next + 20);
            sent.send_rubbish(&sender, 1);
            next = (next + 7) % 150;
            std::thread::sleep(Duration::from_millis(10)); // so that there are several batches
            server.ended()
        });
        assert_eq!(status.signal(), Some(9), "at {at}: {:?}", server.log());
        server.set_environment(&[]);
        server.start_again_cold();
        sent.check(&[&server], &database, &subject);
        stop(&mut server);
    }
}

#[test]
fn dying_before_a_batch_is_made_loses_nothing() {
    die_at(&["received", "rejected", "before-commit"]);
}

#[test]
fn dying_inside_the_transaction_loses_nothing() {
    die_at(&["store-decided", "store-copied", "store-written"]);
}

#[test]
fn dying_after_the_commit_repeats_nothing() {
    die_at(&["committed", "visible", "acknowledged"]);
}

/// A backlog of distinct orders. Only a batch beside another one waits.
#[test]
fn dying_with_two_batches_under_way_loses_and_repeats_nothing() {
    let _turn = in_turn();
    let (Some(database), Some(subject)) = (Database::create(), Subject::create()) else { return };
    let url = database.url();
    let flags = subject.flags_with(&["--postgres", &url, "--batch-rows-max", "16"]);
    let (mut sent, sender) = (Sent::default(), subject.sender());
    for (round, at) in ["store-waiting:1", "store-waiting:5", "store-written:6", "visible:6"].into_iter().enumerate() {
        let from = round as u64 * 400;
        sent.send(&sender, from..from + 400);
        let mut server = Server::start_in(&flags, &[("ORDER_DIE_AT", at)]);
        let status = until(&format!("it dies at {at}"), RECOVERY, || server.ended());
        assert_eq!(status.signal(), Some(9), "at {at}: {:?}", server.log());
        server.set_environment(&[]);
        server.start_again_cold();
        sent.check(&[&server], &database, &subject);
        stop(&mut server);
    }
}

#[test]
fn ten_kills_at_any_moment_lose_and_repeat_nothing() {
    let _turn = in_turn();
    let (Some(database), Some(subject)) = (Database::create(), Subject::create()) else { return };
    let url = database.url();
    let mut server = Server::start(&subject.flags_with(&["--postgres", &url, "--batch-rows-max", "16"]));
    let steady = Steady::start(&subject, 1000);
    for _ in 0..10 {
        steady.wait_more(100);
        std::thread::sleep(Duration::from_millis(fastrand::u64(0..300))); // any moment
        server.kill();
        server.start_again_cold();
    }
    let sent = steady.stop();
    sent.check(&[&server], &database, &subject);
    subject.wait_acknowledged();
    stop(&mut server);
}
