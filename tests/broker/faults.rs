//! The store or the broker fails under a steady stream of orders, or one of them does not have what the other knows of.

use super::ledger::{Pace, Sent, Steady, has_overlapped, logged, metric, positions};
use super::{Channel, RECOVERY, in_turn};
use crate::database::Database;
use crate::server::{Server, until};
use crate::servers::Private;

pub fn a_store_that_is_killed_and_comes_back_gets_everything_once<C: Channel>() {
    let _turn = in_turn();
    let (Some(postgres), Some(channel)) = (Private::postgres(), C::create(3)) else { return };
    let database = Database::create_on(postgres.url());
    let url = database.url();
    let mut server = Server::start(&channel.flags_with(&["--postgres", &url, "--batch-rows-max", "16"]));
    let steady = Steady::start(&channel, Pace::default());
    for _ in 0..3 {
        steady.wait_more(300);
        postgres.kill();
        steady.wait_more(300);
        postgres.restart();
    }
    let sent = steady.stop();
    sent.check(&[&server], &database, &channel);
    sent.check_letters(&channel, true);
    assert!(has_overlapped(&server));
    channel.stop(&mut server);
}

pub fn connections_that_are_cut_all_the_time_lose_and_repeat_nothing<C: Channel>() {
    let _turn = in_turn();
    let (Some(database), Some(channel)) = (Database::create(), C::create(3)) else { return };
    let url = database.url();
    let mut server = Server::start(&channel.flags_with(&["--postgres", &url, "--batch-rows-max", "16"]));
    let steady = Steady::start(&channel, Pace { rate: 1000, ..Pace::default() });
    let (mut cut, mut rounds) = (0, 0);
    // A service that is slow to connect again has fewer connections to be cut each time.
    until("connections were cut often enough", RECOVERY, || {
        steady.wait_more(fastrand::u64(20..150));
        cut += database
            .query(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
                 WHERE datname = current_database() AND pid <> pg_backend_pid()",
            )
            .len();
        rounds += 1;
        (rounds >= 40 && cut > 20).then_some(())
    });
    let sent = steady.stop();
    sent.check(&[&server], &database, &channel);
    sent.check_letters(&channel, true);
    assert!(has_overlapped(&server));
    channel.stop(&mut server);
}

pub fn a_broker_that_is_killed_and_comes_back_changes_nothing<C: Channel>() {
    let _turn = in_turn();
    let (Some(broker), Some(database)) = (C::private(), Database::create()) else { return };
    let channel = C::create_on(broker.url(), 3);
    let url = database.url();
    let own = ["--postgres", &url, "--batch-rows-max", "16"];
    let mut server = Server::start(&channel.flags_with(&[&own, C::IMPATIENT].concat()));
    let steady = Steady::start(&channel, Pace { rate: 2000, ..Pace::default() });
    for round in 1..=4 {
        steady.wait_more(300);
        broker.kill();
        server.get("/livez").expect(200);
        broker.restart();
        channel.wait_found_again(&server, round);
        steady.wait_more(100);
    }
    let sent = steady.stop();
    sent.check(&[&server], &database, &channel);
    channel.wait_acknowledged();
    until("it is ready", RECOVERY, || (server.get("/readyz").status == 200).then_some(()));
    assert!(has_overlapped(&server));
    channel.stop(&mut server);
}

pub fn a_broker_that_is_held_is_waited_for<C: Channel>() {
    let _turn = in_turn();
    let (Some(broker), Some(database)) = (C::private(), Database::create()) else { return };
    let channel = C::create_on(broker.url(), 2);
    let url = database.url();
    let mut server = Server::start(&channel.flags_with(&["--postgres", &url, "--batch-rows-max", "16"]));
    let steady = Steady::start(&channel, Pace { rate: 300, rubbish: 4, ..Pace::default() });
    steady.wait_more(200);
    broker.pause();
    C::wait_held_for_long(&server);
    assert_eq!(server.get("/livez").status, 200);
    broker.resume();
    steady.wait_more(200);
    let sent = steady.stop();
    sent.check(&[&server], &database, &channel);
    channel.stop(&mut server);
}

/// Polling and acknowledgements do not wait for the store: Kafka's group keeps its member, NATS delivers nothing again.
pub fn while_the_store_is_held_memory_is_bounded_and_the_broker_keeps_its_patience<C: Channel>() {
    let _turn = in_turn();
    let (Some(postgres), Some(channel)) = (Private::postgres(), C::create(2)) else { return };
    let database = Database::create_on(postgres.url());
    let url = database.url();
    // Full batches: what gathers here would be thousands of small commits, minutes of them on a slow machine.
    let own = ["--postgres", &url];
    let mut server = Server::start(&channel.flags_with(&[&own, C::IMPATIENT].concat()));
    let (mut sent, sender) = (Sent::default(), channel.sender());
    sent.send(&sender, 0..500);
    sent.wait_stored(&[&server], &database, &channel);
    channel.wait_acknowledged();
    let before = server.resident_bytes();
    postgres.pause();
    let mut has_lost_patience = channel.patience();
    let mut peak = before;
    // 120 MB in all.
    for _ in 0..200 {
        sent.send(&sender, 0..500);
        peak = peak.max(server.resident_bytes());
    }
    until("the broker would have lost its patience", RECOVERY, || {
        peak = peak.max(server.resident_bytes());
        assert_eq!(server.get("/livez").status, 200);
        has_lost_patience().then_some(())
    });
    postgres.resume();
    let megabytes = (peak - before) >> 20;
    assert!(megabytes < 90, "{megabytes} MB more while nothing could be stored");
    sent.check(&[&server], &database, &channel);
    assert!(C::is_undisturbed(&server), "{}", server.get("/metrics").text());
    let ledger = channel.stop(&mut server);
    assert_eq!(ledger["read"], sent.count, "{ledger:?}");
}

/// As after a loss of power at the broker, or with a copy of it. Reads go on: only what would be read from there stops,
/// and goes on by itself once position and broker are put right.
pub fn a_store_that_knows_of_more_than_the_broker_has_stops_the_source_with_advice<C: Channel>() {
    let (Some(database), Some(channel)) = (Database::create(), C::create(1)) else { return };
    let url = database.url();
    let mut server = Server::start(&channel.flags_with(&["--postgres", &url, "--batch-rows-max", "16"]));
    let (mut sent, sender) = (Sent::default(), channel.sender());
    sent.send(&sender, 0..10);
    sent.check(&[&server], &database, &channel);
    channel.stop(&mut server);
    database.query("UPDATE positions SET next_offset = next_offset + 5");
    let stored = positions(&database, &channel);
    server.start_again_cold();
    until("it says why", RECOVERY, || {
        let answer = server.get("/readyz");
        (answer.status == 503 && answer.text().contains(C::ADVICE)).then_some(())
    });
    assert_eq!(metric(&server, &format!("{}_stopped", C::SOURCE))[""], 1);
    assert!(server.log().iter().any(|line| line.contains(C::ADVICE)), "{:?}", server.log());
    until("reads go on", RECOVERY, || (server.get("/api/stats").json()["total_orders"] == 10).then_some(()));
    assert_eq!(positions(&database, &channel), stored, "and nothing was changed");
    database.query("UPDATE positions SET next_offset = next_offset - 5");
    sent.send(&sender, 5..15);
    sent.check(&[&server], &database, &channel);
    assert_eq!(metric(&server, &format!("{}_stopped", C::SOURCE))[""], 0);
    until("it is ready", RECOVERY, || (server.get("/readyz").status == 200).then_some(()));
    channel.stop(&mut server);
}

pub fn messages_that_were_deleted_unread_are_named_and_the_rest_is_read<C: Channel>() {
    let (Some(database), Some(channel)) = (Database::create(), C::create(1)) else { return };
    let url = database.url();
    let mut server = Server::start(&channel.flags_with(&["--postgres", &url, "--batch-rows-max", "16"]));
    let (mut sent, sender) = (Sent::default(), channel.sender());
    sent.send(&sender, 0..20);
    sent.check(&[&server], &database, &channel);
    channel.stop(&mut server);
    Sent::default().send(&sender, 100..130);
    let left = sent.send(&sender, 0..40);
    channel.delete_before(left[0]);
    server.start_again();
    let told = logged(&server, |event| event["level"] == "ERROR");
    assert_eq!((&told["partition"], &told["lost"]), (&left[0].0.into(), &30.into()), "{told}");
    sent.check(&[&server], &database, &channel);
    assert_eq!(channel.stop(&mut server)["read"], 40);
}
