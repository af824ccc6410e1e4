//! More orders than memory, with what is around it in production: PostgreSQL, a load from Kafka, a second instance. Orders
//! leave all the time, and what comes back is never older than what was acknowledged or shown before.

use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};

use super::LONG;
use crate::broker::{Channel, Message, Sender as _};
use crate::database::Database;
use crate::kafka::topic::Topic;
use crate::server::{Connection, Reply, Server, until};

/// Some eight times what the budget holds.
const ORDERS: usize = 4000;
const BUDGET: u64 = 1 << 20;
const FLAGS: [&str; 4] = ["--profile", "lenient", "--cache-bytes-max", "1MiB"];
/// Each has orders that it alone changes.
const THREADS: usize = 4;
/// One in so many orders is deleted in the end.
const DELETED: usize = 50;

fn name(n: usize) -> String {
    format!("bounded-{n}")
}

fn body(n: usize, version: u64) -> String {
    format!(r#"{{"order_uid":"{}","v":{version},"fill":"{}"}}"#, name(n), "y".repeat(1700 + n % 300))
}

/// The version that a body tells of.
fn version_of(reply: &Reply) -> u64 {
    reply.json()["v"].as_u64().unwrap()
}

/// A version of each order.
fn versions(version: u64) -> Vec<AtomicU64> {
    (0..ORDERS).map(|_| AtomicU64::new(version)).collect()
}

fn is_deleted(n: usize) -> bool {
    n.is_multiple_of(DELETED)
}

/// Stores the first version of every order.
fn create_all(server: &Server) {
    let lines: Vec<String> = (0..ORDERS).map(|n| body(n, 1) + "\n").collect();
    for chunk in lines.chunks(1000) {
        let kind = [("Content-Type", "application/x-ndjson")];
        let reply = server.request("POST", "/orders", &kind, chunk.concat()).expect(200);
        assert_eq!(reply.text().matches("created").count(), chunk.len());
    }
}

/// Stores a version of an order that is there.
fn update(connection: &mut Connection, n: usize, version: u64) {
    let reply = connection.request("POST", "/orders", &[], body(n, version)).expect(200);
    assert_eq!(reply.header("etag"), Some(&*format!("\"{version}\"")));
}

fn delete(server: &Server, n: usize) {
    server.post("/orders", format!(r#"{{"order_uid":"{}","status":"deleted"}}"#, name(n))).expect(200);
}

/// Reads an order. Where the machine is too busy for the store to answer in time, again.
fn read(connection: &mut Connection, n: usize, least: Option<u64>) -> Reply {
    let least = least.map(|least| least.to_string());
    let headers: Vec<_> = least.as_deref().map(|least| ("X-Min-Version", least)).into_iter().collect();
    until("the store answers in time", LONG, || {
        let reply = connection.request("GET", &format!("/order/{}", name(n)), &headers, "");
        (reply.status != 503).then_some(reply)
    })
}

/// An order of this thread.
fn own(random: &mut fastrand::Rng, thread: usize) -> usize {
    random.usize(..ORDERS / THREADS) * THREADS + thread
}

/// Reads every order: it is as it was written last, or deleted.
fn assert_newest(server: &Server, written: &[AtomicU64]) {
    let mut connection = server.connect();
    for (n, version) in written.iter().enumerate() {
        let reply = read(&mut connection, n, None);
        if is_deleted(n) {
            reply.expect(410);
        } else {
            assert_eq!(reply.expect(200).text(), body(n, version.load(Ordering::SeqCst)));
        }
    }
}

/// Waits until it counts right, which may take some seconds where others can write to the same store, and looks whether
/// orders left all the time.
fn assert_counts(server: &Server) {
    let live = (0..ORDERS).filter(|&n| !is_deleted(n)).count();
    let stats = until("it counts right", LONG, || {
        let stats = server.get("/api/stats").expect(200).json();
        (stats["total_orders"] == live && stats["view_bytes"].as_u64().unwrap() < BUDGET).then_some(stats)
    });
    assert_eq!(stats["view_complete"], false);
    let entries = stats["view_orders"].as_u64().unwrap() as usize;
    assert!((ORDERS / 12..ORDERS / 6).contains(&entries), "{stats}");
}

fn evicted(server: &Server) -> usize {
    let metrics = server.get("/metrics").expect(200).text().to_owned();
    metrics.lines().find_map(|line| line.strip_prefix("view_evicted_orders_total ")?.parse().ok()).unwrap()
}

#[test]
fn every_answer_is_what_was_acknowledged_last_or_newer() {
    let Some(database) = Database::create() else { return };
    let url = database.url();
    let mut server = Server::start(&[&["--postgres", &url], &FLAGS[..]].concat());
    create_all(&server);
    let (begun, acknowledged) = (versions(1), versions(1));
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let (server, begun, acknowledged) = (&server, &begun, &acknowledged);
            scope.spawn(move || {
                let mut random = fastrand::Rng::with_seed(thread as u64);
                let mut connection = server.connect();
                for _ in 0..1000 {
                    let mut n = random.usize(..ORDERS);
                    if random.u8(..4) == 0 {
                        n = own(&mut random, thread);
                        let next = begun[n].fetch_add(1, Ordering::SeqCst) + 1;
                        update(&mut connection, n, next);
                        acknowledged[n].store(next, Ordering::SeqCst);
                    }
                    let least = acknowledged[n].load(Ordering::SeqCst);
                    let reply = read(&mut connection, n, None).expect(200);
                    let (version, most) = (version_of(&reply), begun[n].load(Ordering::SeqCst));
                    assert!((least..=most).contains(&version), "{n} is at {version}, not {least} to {most}");
                    assert_eq!(reply.text(), body(n, version));
                }
            });
        }
    });
    assert!(evicted(&server) > ORDERS);
    for n in (0..ORDERS).filter(|&n| is_deleted(n)) {
        delete(&server, n);
        read(&mut server.connect(), n, None).expect(410);
    }
    assert_newest(&server, &acknowledged);
    assert_counts(&server);
    let live = ORDERS - ORDERS.div_ceil(DELETED);
    assert_eq!(database.query("SELECT count(*) FROM orders WHERE deleted_at IS NULL"), [live.to_string()]);
    server.restart();
    assert_counts(&server);
    assert_newest(&server, &acknowledged);
}

#[test]
fn what_comes_from_kafka_under_load_is_shown_newest_in_the_end_and_never_older_than_before() {
    let (Some(database), Some(topic)) = (Database::create(), Topic::create(3)) else { return };
    let url = database.url();
    let server = Server::start(&topic.flags_with(&[&["--postgres", &url], &FLAGS[..]].concat()));
    let (sent, shown) = (versions(0), versions(0));
    let (is_over, found) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        for thread in 0..THREADS - 1 {
            let (server, sent, shown, is_over, found) = (&server, &sent, &shown, &is_over, &found);
            scope.spawn(move || {
                let mut random = fastrand::Rng::with_seed(thread as u64);
                let mut connection = server.connect();
                while !is_over.load(Ordering::SeqCst) {
                    let n = random.usize(..ORDERS);
                    let least = shown[n].load(Ordering::SeqCst);
                    let reply = read(&mut connection, n, None);
                    if reply.status == 404 {
                        assert_eq!(least, 0, "{n} was there before");
                        continue;
                    }
                    let (version, most) = (version_of(&reply.expect(200)), sent[n].load(Ordering::SeqCst));
                    assert!((least..=most).contains(&version), "{n} is at {version}, not {least} to {most}");
                    shown[n].fetch_max(version, Ordering::SeqCst);
                    found.fetch_add(1, Ordering::SeqCst);
                }
            });
        }
        let _over = Over(&is_over);
        let (mut random, sender) = (fastrand::Rng::with_seed(9), topic.sender());
        let next = |n: usize| {
            let version = sent[n].fetch_add(1, Ordering::SeqCst) + 1;
            Message::new(body(n, version)).key(name(n))
        };
        for from in (0..ORDERS).step_by(500) {
            sender.send(&(from..from + 500).map(&next).collect::<Vec<_>>());
        }
        // Changed while they are read: some far more often than others.
        for _ in 0..40 {
            let orders = std::iter::repeat_with(|| (0..2).fold(random.usize(..ORDERS), |n, _| random.usize(..=n)));
            sender.send(&orders.take(200).map(&next).collect::<Vec<_>>());
            let before = found.load(Ordering::SeqCst);
            until("orders are read meanwhile", LONG, || (found.load(Ordering::SeqCst) > before + 20).then_some(()));
        }
    });
    let gone: Vec<_> = (0..ORDERS)
        .filter(|&n| is_deleted(n))
        .map(|n| Message { key: Some(name(n).into()), ..Message::default() })
        .collect();
    topic.send(&gone);
    topic.wait_acknowledged();
    assert!(evicted(&server) > ORDERS);
    assert_newest(&server, &sent);
    assert_counts(&server);
}

/// Says that it is over, also when a test fails.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// What is written on one instance is read on the other, by its version at once and without it in the end; neither goes
/// back to what is older than it has shown.
fn two_instances(flags: &[&str]) {
    let flags = [flags, &FLAGS].concat();
    let servers = [Server::start(&flags), Server::start(&flags)];
    create_all(&servers[0]);
    for server in &servers {
        // Before that, what the other has created and was not told of is unknown here for a moment.
        until("it does not hold all orders", LONG, || {
            (server.get("/api/stats").expect(200).json()["view_complete"] == false).then_some(())
        });
    }
    let (written, shown) = (versions(1), [versions(0), versions(0)]);
    std::thread::scope(|scope| {
        for thread in 0..THREADS {
            let (servers, written, shown) = (&servers, &written, &shown);
            scope.spawn(move || {
                let mut random = fastrand::Rng::with_seed(thread as u64);
                let mut connections = [servers[0].connect(), servers[1].connect()];
                for _ in 0..150 {
                    let (n, at) = (own(&mut random, thread), random.usize(..2));
                    let next = written[n].load(Ordering::SeqCst) + 1;
                    update(&mut connections[at], n, next);
                    written[n].store(next, Ordering::SeqCst);
                    shown[at][n].fetch_max(next, Ordering::SeqCst);
                    let other = 1 - at;
                    let reply = read(&mut connections[other], n, Some(next)).expect(200);
                    assert_eq!(reply.text(), body(n, next), "written on {at}, read on {other}");
                    shown[other][n].fetch_max(next, Ordering::SeqCst);
                    // Any order on any instance: what that has shown, or newer.
                    for _ in 0..3 {
                        let (n, at) = (random.usize(..ORDERS), random.usize(..2));
                        let least = shown[at][n].load(Ordering::SeqCst);
                        let reply = read(&mut connections[at], n, None).expect(200);
                        let version = version_of(&reply);
                        assert!(version >= least, "{n} is at {version} on {at}, which has shown {least}");
                        assert_eq!(reply.text(), body(n, version));
                        shown[at][n].fetch_max(version, Ordering::SeqCst);
                    }
                }
            });
        }
    });
    for n in (0..ORDERS).filter(|&n| is_deleted(n)) {
        let at = n / DELETED % 2;
        delete(&servers[at], n);
        read(&mut servers[at].connect(), n, None).expect(410);
        let version = written[n].load(Ordering::SeqCst) + 1;
        read(&mut servers[1 - at].connect(), n, Some(version)).expect(410);
    }
    for server in &servers {
        let mut connection = server.connect();
        for (n, version) in written.iter().enumerate().filter(|(n, _)| !is_deleted(*n)) {
            let newest = body(n, version.load(Ordering::SeqCst));
            until("it shows the newest", LONG, || {
                (read(&mut connection, n, None).expect(200).text() == newest).then_some(())
            });
        }
        assert!(evicted(server) > ORDERS);
    }
    // From now on at once, however often they leave and come back.
    for server in &servers {
        assert_newest(server, &written);
        assert_counts(server);
    }
}

#[test]
fn two_instances_show_each_others_newest() {
    let Some(database) = Database::create() else { return };
    two_instances(&["--postgres", &database.url()]);
}

#[test]
fn two_instances_that_tell_each_other_by_kafka_show_each_others_newest() {
    let (Some(database), Some(topic)) = (Database::create(), Topic::create(3)) else { return };
    let (url, snapshots) = (database.url(), format!("{}.snapshots", topic.name));
    topic.make_topic(&snapshots, 3, &[("cleanup.policy", "compact")]);
    two_instances(&topic.flags_with(&["--postgres", &url, "--kafka-snapshots-topic", &snapshots]));
    assert!(!topic.read(&snapshots).is_empty(), "they did tell each other");
}
