//! The service dies at each step of a batch, and at any moment: every order is stored once, and no dead letter is lost.

use std::os::unix::process::ExitStatusExt;
use std::time::Duration;

use super::ledger::{Pace, Sent, Steady, metric};
use super::{Channel, RECOVERY, in_turn};
use crate::database::Database;
use crate::server::{Server, until};

/// Dies at a step when it is reached for the first time and at a later time, and goes on from there.
fn die_at<C: Channel>(steps: &[&str]) {
    let _turn = in_turn();
    let (Some(database), Some(channel)) = (Database::create(), C::create(2)) else { return };
    let url = database.url();
    let own = ["--postgres", &url, "--batch-rows-max", "16"];
    let flags = channel.flags_with(&[&own, C::ALONE].concat());
    let (mut sent, sender) = (Sent::default(), channel.sender());
    sent.send(&sender, 0..30);
    sent.send_rubbish(&sender, 1);
    for (round, (step, nth)) in steps.iter().flat_map(|step| [(step, 1), (step, 4)]).enumerate() {
        let at = format!("{step}:{nth}");
        let mut server = Server::start_in(&flags, &[("ORDER_DIE_AT", &at)]);
        // Old orders and new ones, until it dies.
        let mut next = round as u64 * 10;
        wait_died(&mut server, &at, || {
            sent.send(&sender, next..next + 20);
            sent.send_rubbish(&sender, 1);
            next = (next + 7) % 150;
            std::thread::sleep(Duration::from_millis(10)); // the pace; a batch more or less does not matter
        });
        server.set_environment(&[]);
        server.start_again_cold();
        sent.check(&[&server], &database, &channel);
        channel.stop(&mut server);
    }
}

fn wait_died(server: &mut Server, at: &str, mut meanwhile: impl FnMut()) {
    let status = until(&format!("it dies at {at}"), RECOVERY, || {
        meanwhile();
        server.ended()
    });
    assert_eq!(status.signal(), Some(9), "at {at}: {:?}", server.log());
}

pub fn dying_before_a_batch_is_made_loses_nothing<C: Channel>() {
    die_at::<C>(&["received", "rejected", "before-commit"]);
}

pub fn dying_inside_the_transaction_loses_nothing<C: Channel>() {
    die_at::<C>(&["store-decided", "store-copied", "store-written"]);
}

pub fn dying_after_the_commit_repeats_nothing<C: Channel>() {
    die_at::<C>(&["committed", "visible", "acknowledged"]);
}

/// Takes a hundredth of a second for each new order, where a batch becomes durable: the next one is ready by then.
const SLOW_COMMIT: &str = "
    CREATE FUNCTION slow_commit() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM pg_sleep(0.01); RETURN NULL; END $$;
    CREATE CONSTRAINT TRIGGER slow_commit AFTER INSERT ON orders DEFERRABLE INITIALLY DEFERRED
        FOR EACH ROW EXECUTE FUNCTION slow_commit()";

/// A backlog of distinct orders, so that full batches are written beside each other.
pub fn dying_with_two_batches_under_way_loses_and_repeats_nothing<C: Channel>() {
    let _turn = in_turn();
    let (Some(database), Some(channel)) = (Database::create(), C::create(2)) else { return };
    let url = database.url();
    let own = ["--postgres", &url, "--batch-rows-max", "16"];
    let flags = channel.flags_with(&[&own, C::ALONE].concat());
    let (mut sent, sender) = (Sent::default(), channel.sender());
    channel.stop(&mut Server::start(&flags)); // it has made the schema
    database.query(SLOW_COMMIT);
    // Only a batch beside another one waits.
    for (round, at) in ["store-waiting:1", "store-waiting:5", "store-written:6", "visible:6"].into_iter().enumerate() {
        let from = round as u64 * 400;
        sent.send(&sender, from..from + 400);
        let mut server = Server::start_in(&flags, &[("ORDER_DIE_AT", at)]);
        wait_died(&mut server, at, || ());
        server.set_environment(&[]);
        server.start_again_cold();
        sent.check(&[&server], &database, &channel);
        channel.stop(&mut server);
    }
}

pub fn ten_kills_at_any_moment_lose_and_repeat_nothing<C: Channel>() {
    let _turn = in_turn();
    let (Some(database), Some(channel)) = (Database::create(), C::create(3)) else { return };
    let url = database.url();
    let own = ["--postgres", &url, "--batch-rows-max", "16"];
    let mut server = Server::start(&channel.flags_with(&[&own, C::ALONE].concat()));
    let steady = Steady::start(&channel, Pace { rate: 1000, ..Pace::default() });
    for _ in 0..10 {
        let before = stored(&server);
        until("it stores", RECOVERY, || (stored(&server) > before).then_some(()));
        std::thread::sleep(Duration::from_millis(fastrand::u64(0..300))); // any moment
        server.kill();
        server.start_again_cold();
    }
    let sent = steady.stop();
    sent.check(&[&server], &database, &channel);
    channel.wait_acknowledged();
    channel.stop(&mut server);
}

fn stored(server: &Server) -> u64 {
    metric(server, "orders_processed_total").get("{status=\"success\"}").copied().unwrap_or_default()
}
