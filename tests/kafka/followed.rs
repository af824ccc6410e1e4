//! Snapshots are published while another instance is there that follows, and an instance that comes
//! or goes misses nothing.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use super::topic::Topic;
use crate::broker::ledger::metric;
use crate::broker::{Channel, RECOVERY};
use crate::database::Database;
use crate::server::{Server, until};

struct Site {
    topic: Topic,
    database: Database,
    url: String,
    snapshots: String,
}

impl Site {
    fn new() -> Option<Self> {
        let (topic, database) = (Topic::create(3)?, Database::create()?);
        let (url, snapshots) = (database.url(), format!("{}.snapshots", topic.name));
        topic.make_topic(&snapshots, 3, &[]);
        Some(Self { topic, database, url, snapshots })
    }

    fn start(&self, more: &[&str]) -> Server {
        let own = ["--postgres", self.url.as_str(), "--kafka-snapshots-topic", &self.snapshots, "--profile", "lenient"];
        let server = Server::start_cold(&self.topic.flags_with(&[&own, more].concat()));
        server.wait_ready();
        server
    }

    fn published(&self) -> usize {
        self.topic.read(&self.snapshots).len()
    }

    /// Waits until nothing is left to publish.
    fn wait_published(&self) {
        until("the outbox is empty", RECOVERY, || {
            (self.database.query("SELECT count(*) FROM outbox") == ["0"]).then_some(())
        });
    }
}

/// Whether an instance publishes.
fn publishes(server: &Server) -> bool {
    metric(server, "kafka_snapshots_published").values().sum::<u64>() > 0
}

fn wait_publishing(server: &Server, is_wanted: bool) {
    until("publishing begins or ends", RECOVERY, || (publishes(server) == is_wanted).then_some(()));
}

fn post(server: &Server, name: &str, n: u64) {
    let reply = server.post("/orders", format!(r#"{{"order_uid":"{name}","n":{n}}}"#));
    assert!(matches!(reply.status, 200 | 201), "{}", reply.text());
}

#[test]
fn an_instance_publishes_while_another_one_follows_and_alone_nothing() {
    let Some(site) = Site::new() else { return };
    let a = site.start(&[]);
    for n in 0..50 {
        post(&a, &format!("alone-{n}"), n);
    }
    assert!(!publishes(&a));
    assert_eq!(site.published(), 0, "alone it publishes nothing");
    assert_eq!(site.database.query("SELECT pg_relation_size('outbox')"), ["0"], "nor was anything recorded");
    for (round, is_killed) in [(1, false), (2, true)] {
        let mut b = site.start(&[]);
        wait_publishing(&a, true);
        assert!(a.metric("kafka_snapshots_published{why=\"another_instance\"}") > 0.0);
        let before = site.published();
        let name = format!("told-{round}");
        post(&a, &name, 1);
        until("the other one shows it", RECOVERY, || (b.get(&format!("/order/{name}")).status == 200).then_some(()));
        until("it is published", RECOVERY, || (site.published() > before).then_some(()));
        site.wait_published();
        let before = site.published();
        post(&b, &name, 2);
        until("so is what the other one changes", RECOVERY, || (site.published() > before).then_some(()));
        if is_killed {
            b.kill();
        } else {
            assert!(b.stop().success());
        }
        wait_publishing(&a, false);
        site.wait_published();
        let before = site.published();
        for n in 0..20 {
            post(&a, &format!("again-{n}"), round * 100 + n);
        }
        assert_eq!(site.database.query("SELECT count(*) FROM outbox"), ["0"]);
        assert_eq!(site.published(), before, "alone again it publishes nothing");
    }
}

#[test]
fn what_is_set_is_published_always_or_never() {
    let Some(site) = Site::new() else { return };
    let never = site.start(&["--kafka-snapshots", "off"]);
    let always = site.start(&["--kafka-snapshots", "on"]);
    post(&never, "silent", 1);
    post(&always, "told", 1);
    until("it is published", RECOVERY, || (site.published() == 1).then_some(()));
    assert!(always.metric("kafka_snapshots_published{why=\"set\"}") > 0.0);
    // What one does not tell is found in the store, at once where it is unknown.
    always.connect().get_in_time("/order/silent", &[]).expect(200);
    never.connect().get_in_time("/order/told", &[]).expect(200);
    site.wait_published();
    post(&never, "told", 2);
    until("a change is found too", RECOVERY, || always.get("/order/told").text().contains(":2").then_some(()));
    assert_eq!(site.published(), 1);
}

const ORDERS: usize = 40;
const ROUNDS: usize = 8;

/// Ends what waits for it, also where a test fails.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::SeqCst);
    }
}

/// Reads all orders again and again: none is ever older than it was.
fn watch(server: &Server, is_over: &AtomicBool) {
    let mut connection = server.connect();
    let mut seen = BTreeMap::new();
    while !is_over.load(Ordering::SeqCst) {
        for n in 0..ORDERS {
            let reply = connection.request("GET", &format!("/order/moving-{n}"), &[], "").expect(200);
            let version = reply.json()["n"].as_u64().unwrap();
            let before = seen.insert(n, version).unwrap_or_default();
            assert!(before <= version, "moving-{n} at {version} after {before}");
        }
    }
}

#[test]
fn instances_that_come_and_go_under_load_miss_nothing_and_show_nothing_older() {
    let Some(site) = Site::new() else { return };
    let a = site.start(&[]);
    (0..ORDERS).for_each(|n| post(&a, &format!("moving-{n}"), 1));
    let acknowledged: Vec<AtomicU64> = (0..ORDERS).map(|_| AtomicU64::new(1)).collect();
    let is_over = AtomicBool::new(false);
    let last = std::thread::scope(|scope| {
        let _over = Over(&is_over);
        scope.spawn(|| watch(&a, &is_over));
        scope.spawn(|| {
            let mut connection = a.connect();
            for version in 2.. {
                for (n, acknowledged) in acknowledged.iter().enumerate() {
                    let order = format!(r#"{{"order_uid":"moving-{n}","n":{version}}}"#);
                    connection.request("POST", "/orders", &[], order).expect(200);
                    acknowledged.store(version, Ordering::SeqCst);
                }
                if is_over.load(Ordering::SeqCst) {
                    return;
                }
            }
        });
        let mut last = None;
        for round in 0..ROUNDS {
            let mut b = site.start(&[]);
            let is_gone = AtomicBool::new(false);
            std::thread::scope(|scope| {
                let _gone = Over(&is_gone);
                scope.spawn(|| watch(&b, &is_gone));
                let end = Instant::now() + Duration::from_secs(1);
                for n in (0..ORDERS).cycle() {
                    let least = acknowledged[n].load(Ordering::SeqCst);
                    let newest = || b.get(&format!("/order/moving-{n}")).expect(200).json()["n"].as_u64().unwrap();
                    until("it shows what was acknowledged", RECOVERY, || (newest() >= least).then_some(()));
                    if Instant::now() >= end {
                        break;
                    }
                }
            });
            if round + 1 == ROUNDS {
                last = Some(b);
            } else if round % 2 == 0 {
                b.kill();
            } else {
                assert!(b.stop().success());
            }
        }
        last.unwrap()
    });
    let stored =
        site.database.query("SELECT order_uid || ' ' || version || ' ' || convert_from(body, 'UTF8') FROM orders");
    assert_eq!(stored.len(), ORDERS);
    for server in [&a, &last] {
        for line in &stored {
            let [uid, version, body] = line.splitn(3, ' ').collect::<Vec<_>>()[..] else { panic!("{line}") };
            until("it shows what is stored", RECOVERY, || {
                let reply = server.get(&format!("/order/{uid}"));
                (reply.text() == body && reply.header("ETag") == Some(&*format!("\"{version}\""))).then_some(())
            });
        }
    }
    assert!(site.published() > 0, "they did tell each other");
}
