//! Several instances share the partitions of a topic and a database: they come, go, die and wake up from the dead. With
//! NATS there is nothing to share (`nats::standby`).

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer as _};
use rustix::process::Signal;

use super::topic::Topic;
use crate::broker::ledger::{Pace, Sent, Steady, logged, metric};
use crate::broker::{Channel, RECOVERY, in_turn};
use crate::database::Database;
use crate::server::{Server, until};

const PARTITIONS: u32 = 6;

/// How many partitions an instance hands over.
fn share(server: &Server) -> usize {
    metric(server, "kafka_lag").len()
}

/// Waits until these instances have all partitions among them, and each has some.
fn wait_shared(servers: &[&Server]) {
    let mut last = Vec::new();
    let shares = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
        until("the partitions are shared", RECOVERY, || {
            last = servers.iter().map(|server| share(server)).collect();
            let is_shared = last.iter().sum::<usize>() == PARTITIONS as usize && !last.contains(&0);
            is_shared.then_some(())
        });
    }));
    assert!(shares.is_ok(), "shares of {last:?}");
}

fn rebalances(server: &Server) -> u64 {
    metric(server, "kafka_rebalances_total")[""]
}

#[test]
fn instances_that_come_and_go_store_everything_once() {
    let _turn = in_turn();
    let (Some(database), Some(topic)) = (Database::create(), Topic::create(PARTITIONS)) else { return };
    let url = database.url();
    let flags = topic.flags_with(&["--postgres", &url, "--batch-rows-max", "16", "--kafka-session-timeout", "6s"]);
    let mut first = Server::start(&flags);
    let steady = Steady::start(&topic, Pace::default());
    steady.wait_stored(100, &database, &topic);
    let mut second = Server::start(&flags);
    wait_shared(&[&first, &second]);
    let mut third = Server::start(&flags);
    wait_shared(&[&first, &second, &third]);
    steady.wait_stored(200, &database, &topic);
    topic.stop(&mut second);
    wait_shared(&[&first, &third]);
    steady.wait_stored(200, &database, &topic);
    third.kill();
    wait_shared(&[&first]);
    third.start_again_cold();
    second.start_again_cold();
    wait_shared(&[&first, &second, &third]);
    steady.wait_stored(200, &database, &topic);
    topic.stop(&mut first);
    wait_shared(&[&second, &third]);
    let sent = steady.stop();
    sent.check(&[&second, &third], &database, &topic);
    topic.stop(&mut second);
    topic.stop(&mut third);
}

#[test]
fn an_instance_that_was_held_past_its_session_is_fenced_and_comes_back_by_itself() {
    let _turn = in_turn();
    let (Some(database), Some(topic)) = (Database::create(), Topic::create(PARTITIONS)) else { return };
    let url = database.url();
    let flags = topic.flags_with(&["--postgres", &url, "--kafka-session-timeout", "6s"]);
    let (mut zombie, mut other) = (Server::start(&flags), Server::start(&flags));
    wait_shared(&[&zombie, &other]);
    let steady = Steady::start(&topic, Pace::default());
    steady.wait_stored(300, &database, &topic);
    // Both are in the middle of a batch when one is held and all connections are cut, as when a machine goes to sleep.
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let blocker = runtime.block_on(database.client());
    runtime.block_on(blocker.batch_execute("BEGIN; LOCK TABLE positions IN EXCLUSIVE MODE")).unwrap();
    let waiting = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
    until("both are in the middle of a batch", RECOVERY, || (database.query(waiting).len() == 2).then_some(()));
    zombie.signal(Signal::STOP);
    database.query(&waiting.replace("SELECT pid", "SELECT pg_terminate_backend(pid)"));
    runtime.block_on(blocker.batch_execute("COMMIT")).unwrap();
    wait_shared(&[&other]);
    steady.wait_stored(300, &database, &topic);
    zombie.signal(Signal::CONT);
    let fenced = logged(&zombie, |event| event["message"] == "another process has this partition now");
    assert_eq!(fenced["level"], "WARN", "{fenced}");
    wait_shared(&[&zombie, &other]);
    steady.wait_stored(300, &database, &topic);
    let sent = steady.stop();
    sent.check(&[&zombie, &other], &database, &topic);
    topic.stop(&mut zombie);
    topic.stop(&mut other);
}

#[test]
fn a_quick_restart_under_a_name_of_its_own_moves_no_partition() {
    let _turn = in_turn();
    let (Some(database), Some(topic)) = (Database::create(), Topic::create(PARTITIONS)) else { return };
    let url = database.url();
    // A slow machine may take its time for a restart.
    let flags = ["--postgres", &url, "--batch-rows-max", "16", "--kafka-session-timeout", "60s", "--kafka-instance-id"];
    let start = |name: &str| Server::start(&topic.flags_with(&[&flags[..], &[name]].concat()));
    let (mut first, mut second, mut third) = (start("a"), start("b"), start("c"));
    wait_shared(&[&first, &second, &third]);
    let before = [rebalances(&first), rebalances(&third)];
    let steady = Steady::start(&topic, Pace::default());
    steady.wait_stored(200, &database, &topic);
    topic.stop(&mut second);
    steady.wait_more(100); // its partitions wait for it
    second.start_again_cold();
    wait_shared(&[&first, &second, &third]);
    second.kill();
    second.start_again_cold();
    wait_shared(&[&first, &second, &third]);
    steady.wait_stored(200, &database, &topic);
    let sent = steady.stop();
    sent.check(&[&first, &second, &third], &database, &topic);
    assert_eq!([rebalances(&first), rebalances(&third)], before, "the others kept what they had");
    topic.stop(&mut first);
    topic.stop(&mut second);
    topic.stop(&mut third);
}

/// All members of a group have to know one way to assign its partitions.
#[test]
fn a_member_that_assigns_partitions_in_another_way_is_named() {
    let Some(topic) = Topic::create(2) else { return };
    let other: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", &topic.brokers)
        .set("group.id", &topic.group)
        .set("partition.assignment.strategy", "roundrobin")
        .create()
        .unwrap();
    other.subscribe(&[&topic.name]).unwrap();
    let poll = || {
        let _ = other.poll(Duration::from_millis(100)); // it reads for nothing
    };
    until("it has the partitions", RECOVERY, || {
        poll();
        (other.assignment().unwrap().count() == 2).then_some(())
    });
    let is_over = AtomicBool::new(false);
    let mut server = std::thread::scope(|scope| {
        scope.spawn(|| {
            while !is_over.load(Ordering::SeqCst) {
                poll();
            }
        });
        let server = Server::start_cold(&topic.flags_with(&[]));
        let told = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            until("it says why it reads nothing", RECOVERY, || {
                let answer = server.get("/readyz");
                (answer.status == 503 && answer.text().contains("another way to assign partitions")).then_some(())
            });
        }));
        is_over.store(true, Ordering::SeqCst);
        assert!(told.is_ok());
        server
    });
    drop(other);
    let mut sent = Sent::default();
    sent.send(&topic.sender(), 0..20);
    sent.wait_seen(&server, &topic);
    server.wait_ready();
    topic.stop(&mut server);
}
