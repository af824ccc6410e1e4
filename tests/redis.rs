//! The tier in Redis, with a real server: through its own seam, and as one running service. Faults included.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use order_service::cache::{self, View};
use order_service::id::OrderId;
use order_service::metrics::Metrics;
use order_service::read::{self, Found, Reader};
use order_service::redis::{Config, Redis, RedisMetrics};
use order_service::settings::{Outside, Settings, commands};
use order_service::snapshot::{Kind, Snapshot, State};
use order_service::store::embedded::{self, Embedded};
use order_service::store::{Outcome, Store};
use redis_client::{Client, FromRedisValue};
use tempfile::TempDir;

use crate::database::Database;
use crate::http::{USER, envelope, wb_answered, wb_posted};
use crate::postgres::{batch, wb};
use crate::server::{Server, binary, until};
use crate::servers::{self, Private};

/// The longest that anything may take here. Long, for a machine that does much else at the same time.
const SOON: Duration = Duration::from_mins(2);
/// Why a write is lost.
const LOST: [&str; 5] = ["away", "no_room", "failed", "late", "wrong_type"];

fn name(name: &str) -> String {
    static MADE: AtomicU32 = AtomicU32::new(0);
    format!("{name}-{}-{}", std::process::id(), MADE.fetch_add(1, Ordering::Relaxed))
}

fn id(text: &str) -> OrderId {
    OrderId::parse(text.as_bytes()).unwrap()
}

/// One command on a connection of its own.
fn ask<R: FromRedisValue>(address: &str, command: &[&str]) -> R {
    let client = Client::open(format!("redis://{address}")).unwrap();
    let mut connection = client.get_connection_with_timeout(SOON).unwrap();
    connection.set_read_timeout(Some(SOON)).unwrap();
    let mut all = redis_client::cmd(command[0]);
    for argument in &command[1..] {
        all.arg(*argument);
    }
    all.query(&mut connection).unwrap()
}

fn body_of(address: &str, id: &str) -> Option<String> {
    ask(address, &["GET", &format!("order:{id}")])
}

fn marker_of(address: &str, id: &str) -> Option<String> {
    ask(address, &["GET", &format!("order_version:{id}")])
}

fn version_of(address: &str, id: &str) -> u64 {
    marker_of(address, id).map_or(0, |marker| marker.split(' ').next().unwrap().parse().unwrap())
}

/// A counter or gauge of a service; 0 when it is not there.
fn figure(server: &Server, name: &str) -> u64 {
    let text = server.get("/metrics").expect(200).text().to_owned();
    text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ')?.parse().ok()).unwrap_or_default()
}

/// Says that it is over, also when a test fails.
struct Over<'a>(&'a AtomicBool);

impl Drop for Over<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

fn wait_breaker(server: &Server, is_open: u64) {
    until("the breaker is as expected", SOON, || {
        let text = server.get("/metrics").expect(200).text().to_owned();
        text.lines().any(|line| line == format!("redis_breaker_open {is_open}")).then_some(())
    });
}

/// An instance's tier without the rest of the instance.
struct Tier {
    redis: Redis,
    metrics: RedisMetrics,
}

impl Tier {
    fn start(address: &str) -> Self {
        Self::start_with(address, |_| ())
    }

    fn start_with(address: &str, change: impl FnOnce(&mut Config)) -> Self {
        let metrics = RedisMetrics::register(&Metrics::default());
        let mut config = Config::parse(address).unwrap();
        // Fewer answers come too late on a busy machine.
        (config.read_timeout, config.write_timeout) = (Duration::from_secs(1), Duration::from_secs(2));
        change(&mut config);
        Self { redis: Redis::start(config, metrics.clone()), metrics }
    }

    /// One that trusts what is written from now on.
    async fn settled(address: &str) -> Self {
        let tier = Self::start(address);
        tier.redis.begin();
        tier.settle().await;
        tier
    }

    /// Waits until it trusts what is written from now on, as it does some time after it began. Counts from there.
    async fn settle(&self) {
        let end = Instant::now() + SOON;
        loop {
            let probe = id(&name("probe"));
            self.write(&probe, &Snapshot::new(1, 1, Kind::Wb, State::Live, b"{}", &mut Vec::new())).await;
            if self.redis.get(&probe).await.is_some() {
                break;
            }
            assert!(Instant::now() < end, "nothing is trusted after {SOON:?}");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        for counter in [&self.metrics.hits, &self.metrics.misses, &self.metrics.distrusted] {
            counter.reset();
        }
    }

    /// What is there. An answer that comes too late is asked for again.
    async fn found(&self, id: &OrderId) -> Snapshot {
        let end = Instant::now() + SOON;
        loop {
            if let Some(found) = self.redis.get(id).await {
                return found;
            }
            assert!(Instant::now() < end, "nothing is found after {SOON:?}");
        }
    }

    async fn wait_breaker(&self, is_open: i64) {
        self.wait("the breaker is as expected", |metrics| metrics.breaker_open.get() == is_open).await;
    }

    async fn wait(&self, what: &str, is_so: impl Fn(&RedisMetrics) -> bool) {
        let end = Instant::now() + SOON;
        while !is_so(&self.metrics) {
            assert!(Instant::now() < end, "waited {SOON:?} until {what}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Writes a copy, again and again where the machine is too busy to do so in time.
    async fn write(&self, id: &OrderId, snapshot: &Snapshot) {
        let end = Instant::now() + SOON;
        loop {
            let before = self.lost();
            self.redis.hand_over([(id, snapshot)], Instant::now());
            self.wait("it is written", |metrics| metrics.waiting.get() == 0).await;
            if self.lost() == before {
                return;
            }
            assert!(Instant::now() < end, "not written after {SOON:?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    fn lost(&self) -> u64 {
        LOST.iter().map(|reason| self.metrics.lost.with_label_values(&[reason]).get()).sum()
    }
}

/// A store, and the ways a reader has to it.
struct Orders {
    store: Embedded,
    _home: TempDir,
}

impl Orders {
    fn new() -> Self {
        let home = tempfile::tempdir().unwrap();
        Self { store: Embedded::open(embedded::Config::new(home.path())).unwrap(), _home: home }
    }

    /// Stores the `n`-th body of an order.
    async fn commit(&self, order: &str, n: u64) -> Snapshot {
        let mut outcomes = self.store.commit(batch([wb(order, n)])).await.unwrap();
        match outcomes.pop() {
            Some(Outcome::Stored { snapshot, .. }) => snapshot,
            other => panic!("{other:?}"),
        }
    }

    /// A read by an instance whose view does not have the order (any more).
    async fn read(&self, tier: &Tier, id: &OrderId) -> Option<Snapshot> {
        let view = Arc::new(View::new(cache::Config::default(), 0));
        // It may be the time limit of a read from Redis that is waited for.
        let patient = read::Config { load_wait: SOON, ..read::Config::default() };
        let reader = Reader::new(view, self.store.clone(), patient).with_redis(Some(tier.redis.clone()));
        assert!(matches!(reader.get(id), Found::Miss));
        reader.load(id).await.unwrap()
    }
}

/// Puts the copy of a body and a marker back as if it had just been written.
fn plant(address: &str, id: &str, body: &str, marker: &str) {
    let (seconds, micros) = ask::<(u64, u64)>(address, &["TIME"]);
    let (before, _) = marker.rsplit_once(' ').unwrap();
    let marker = format!("{before} {}", seconds * 1_000_000 + micros);
    ask::<()>(address, &["MSET", &format!("order:{id}"), body, &format!("order_version:{id}"), &marker]);
}

/// Flags with which fewer requests come too late on a busy machine.
const PATIENT: [&str; 4] = ["--redis-read-timeout", "1s", "--redis-write-timeout", "10s"];

/// How many writes a service has lost. What was known for a second is not written any more, so that on a busy machine
/// some are.
fn lost(server: &Server) -> u64 {
    LOST.map(|reason| figure(server, &format!("redis_lost_writes_total{{reason=\"{reason}\"}}"))).iter().sum()
}

/// Waits until this version of an order is written. `None`: it was lost.
fn written(server: &Server, address: &str, order: &str, version: u64, lost_before: u64) -> Option<()> {
    let is_written = until("it is written or lost", SOON, || {
        let is_lost = lost(server) > lost_before;
        let is_written = version_of(address, order) == version;
        (is_written || is_lost).then_some(is_written)
    });
    is_written.then_some(())
}

/// Posts orders until one of them is written; its id.
fn write_one(server: &Server, address: &str, what: &str) -> String {
    let mut posted = Vec::new();
    until("an order is written", SOON, || {
        posted.push(name(what));
        server.post("/orders", wb_posted(posted.last()?)).expect(201);
        posted.iter().find(|order| version_of(address, order) == 1).cloned()
    })
}

#[test]
fn orders_are_in_redis_as_they_are_answered_until_they_are_deleted() {
    let Some(address) = servers::redis() else { return };
    let mut server = Server::start(&[&["--redis", address.as_str()], &PATIENT[..]].concat());
    wait_breaker(&server, 0);
    // A round in which a write is lost says nothing.
    until("all of a round is written", SOON, || follow_an_order(&server, &address));
    until("none waits", SOON, || (figure(&server, "redis_waiting_writes") == 0).then_some(()));
    assert!(server.stop().success());
}

fn follow_an_order(server: &Server, address: &str) -> Option<()> {
    let (order, before) = (name("wb"), lost(server));
    let written = |order: &str, version| written(server, address, order, version, before);
    server.post("/orders", wb_posted(&order)).expect(201);
    written(&order, 1)?;
    assert_eq!(body_of(address, &order), Some(wb_answered(&order)), "byte for byte");
    for key in [format!("order:{order}"), format!("order_version:{order}")] {
        let left: i64 = ask(address, &["PTTL", &key]);
        assert!((240_000..=300_000).contains(&left), "{key}: {left}");
    }
    let marker = marker_of(address, &order).unwrap();
    let fields: Vec<&str> = marker.split(' ').collect();
    assert_eq!((fields.len(), fields[0], fields[2], fields[3]), (6, "1", "0", "0"), "{marker}");
    server.post("/orders", wb_posted(&order).replace("Mascaras", "Lipstick")).expect(200);
    written(&order, 2)?;
    assert_eq!(body_of(address, &order), Some(wb_answered(&order).replace("Mascaras", "Lipstick")));
    server.post("/orders", format!(r#"{{"order_uid":"{order}","status":"deleted"}}"#)).expect(200);
    written(&order, 3)?;
    assert_eq!(body_of(address, &order), None);
    // A deleted envelope order can still be read.
    let created = server.post("/orders", envelope(r#"{"amount":3}"#)).expect(201).json();
    let order = created["order_id"].as_str().unwrap();
    let deletion = format!(r#"{{"order_id":"{order}","user_id":"{USER}","status":"deleted"}}"#);
    server.post("/orders", deletion).expect(200);
    written(order, 2)?;
    assert_eq!(body_of(address, order).unwrap(), server.get(&format!("/order/{order}")).expect(200).text());
    Some(())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_older_write_after_a_newer_one_changes_nothing() {
    let Some(address) = servers::redis() else { return };
    let (orders, text) = (Orders::new(), name("older"));
    let order = id(&text);
    let copies = [orders.commit(&text, 1).await, orders.commit(&text, 2).await];
    // Two instances of which neither knows what the other wrote.
    let (one, other) = (Tier::start(&address), Tier::start(&address));
    one.wait_breaker(0).await;
    other.wait_breaker(0).await;
    one.write(&order, &copies[1]).await;
    let newest = (body_of(&address, &text), marker_of(&address, &text));
    assert_eq!(copies[1].flat(), newest.0.as_deref().unwrap().as_bytes());
    other.write(&order, &copies[0]).await;
    assert_eq!((body_of(&address, &text), marker_of(&address, &text)), newest);
    // The same one again lives longer, and the script is brought back where it was forgotten.
    ask::<()>(&address, &["SCRIPT", "FLUSH"]);
    ask::<()>(&address, &["PEXPIRE", &format!("order_version:{text}"), "5000"]);
    other.write(&order, &copies[1]).await;
    assert!(ask::<i64>(&address, &["PTTL", &format!("order_version:{text}")]) > 200_000);
    assert_eq!(body_of(&address, &text), newest.0);
    // What was known too long ago to be sure of it is not written at all.
    let (late, before) = (name("late"), other.metrics.lost.with_label_values(&["late"]).get());
    other.redis.fill(&id(&late), &copies[1], Instant::now().checked_sub(Duration::from_secs(2)).unwrap());
    other.wait("it is given up", |metrics| metrics.lost.with_label_values(&["late"]).get() > before).await;
    assert_eq!(marker_of(&address, &late), None);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_could_not_be_written_is_never_read_older() {
    let Some(server) = Private::redis() else { return };
    let address = server.url().to_owned();
    let (orders, text) = (Orders::new(), name("stale"));
    let order = id(&text);
    let tier = Tier::settled(&address).await;
    let first = orders.commit(&text, 1).await;
    tier.write(&order, &first).await;
    assert_eq!(tier.found(&order).await.flat().whole(), first.flat().whole());
    assert_eq!(orders.read(&tier, &order).await.unwrap().flat().whole(), first.flat().whole());
    let (body, marker) = (body_of(&address, &text).unwrap(), marker_of(&address, &text).unwrap());
    for (n, is_killed) in [(2, false), (3, true)] {
        if is_killed {
            server.kill();
        } else {
            server.pause();
        }
        let newest = orders.commit(&text, n).await;
        tier.redis.hand_over([(&order, &newest)], Instant::now());
        // Whether it is under way, lost or away: the store is asked.
        assert_eq!(orders.read(&tier, &order).await.unwrap().version(), n);
        tier.wait_breaker(1).await;
        assert_eq!(orders.read(&tier, &order).await.unwrap().version(), n);
        if is_killed {
            server.restart();
        } else {
            server.resume();
        }
        plant(&address, &text, &body, &marker);
        tier.wait_breaker(0).await;
        let distrusted = tier.metrics.distrusted.get();
        let end = Instant::now() + SOON;
        while tier.metrics.distrusted.get() == distrusted {
            assert!(Instant::now() < end, "Redis is not asked after {SOON:?}");
            plant(&address, &text, &body, &marker);
            assert_eq!(
                orders.read(&tier, &order).await.unwrap().flat().whole(),
                newest.flat().whole(),
                "Redis has the first one"
            );
        }
        until("what was read from the store is written", SOON, || (version_of(&address, &text) == n).then_some(()));
    }
    // Nothing else keeps what was planted from being read: anyone who knows of nothing newer takes it.
    let other = Tier::settled(&address).await;
    plant(&address, &text, &body, &marker);
    assert_eq!(other.found(&order).await.flat().whole(), first.flat().whole());
    // But not a body that was put there by something else.
    ask::<()>(&address, &["SET", &format!("order:{text}"), "{}"]);
    let end = Instant::now() + SOON;
    while other.metrics.distrusted.get() == 0 {
        assert!(other.redis.get(&order).await.is_none());
        assert!(Instant::now() < end, "Redis is not asked after {SOON:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_an_earlier_process_wrote_is_not_trusted() {
    let Some(address) = servers::redis() else { return };
    let (orders, text) = (Orders::new(), name("earlier"));
    let order = id(&text);
    let earlier = Tier::start(&address);
    earlier.wait_breaker(0).await;
    earlier.write(&order, &orders.commit(&text, 1).await).await;
    // It dies between the commit and the write.
    let newest = orders.commit(&text, 2).await;
    drop(earlier);
    let tier = Tier::start(&address);
    tier.wait_breaker(0).await;
    assert!(tier.redis.get(&order).await.is_none(), "no one follows the store yet");
    tier.redis.begin();
    assert_eq!(orders.read(&tier, &order).await.unwrap().flat().whole(), newest.flat().whole());
    ask::<()>(&address, &["DEL", &format!("order:{text}"), &format!("order_version:{text}")]);
    let other = name("other");
    let written = orders.commit(&other, 1).await;
    tier.settle().await;
    tier.write(&id(&other), &written).await;
    assert_eq!(tier.found(&id(&other)).await.flat().whole(), written.flat().whole(), "what is written since is");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_silent_redis_costs_a_read_its_time_limit_and_then_nothing() {
    let Some(server) = Private::redis() else { return };
    let limit = Duration::from_millis(100);
    // No write fails meanwhile, so it is the reads that open the breaker.
    let limits = |config: &mut Config| (config.read_timeout, config.write_timeout) = (limit, SOON);
    let tier = Tier::start_with(server.url(), limits);
    tier.redis.begin();
    tier.settle().await;
    server.pause();
    let timeouts = || tier.metrics.requests.with_label_values(&["read", "timeout"]).get();
    let before = timeouts();
    let order = id(&name("silent"));
    let mut reads = 0;
    while tier.metrics.breaker_open.get() == 0 {
        let asked = Instant::now();
        assert!(tier.redis.get(&order).await.is_none());
        assert!((limit..SOON).contains(&asked.elapsed()), "{:?}", asked.elapsed());
        reads += 1;
        assert!(reads <= 3, "three failures in a row are enough");
    }
    assert!(reads > 0);
    for _ in 0..1000 {
        assert!(tier.redis.get(&order).await.is_none());
    }
    assert_eq!(timeouts() - before, reads, "later reads do not ask at all");
    server.resume();
    tier.wait_breaker(0).await;
}

#[test]
fn writes_do_not_wait_for_a_paused_redis() {
    let Some(redis) = Private::redis() else { return };
    let server = Server::start(&["--redis", redis.url(), "--redis-write-timeout", "10s"]);
    wait_breaker(&server, 0);
    redis.pause();
    let paused = Instant::now();
    for n in 0..20 {
        server.post("/orders", wb_posted(&format!("paused-{n}"))).expect(201);
        server.get(&format!("/order/paused-{n}")).expect(200);
    }
    let is_waiting = figure(&server, "redis_waiting_writes") > 0;
    // Three in a row have to fail before it is done without.
    let is_quick = paused.elapsed() < Duration::from_secs(10);
    assert!(is_waiting || !is_quick, "no write has failed yet, and only their writer waits");
    redis.resume();
    // What is written much later than it was known might be older than what others wrote meanwhile.
    until("each is written, or counted where the pause was too long", SOON, || {
        let written = (0..20).filter(|n| version_of(redis.url(), &format!("paused-{n}")) == 1).count() as u64;
        (written + lost(&server) >= 20).then_some(())
    });
    write_one(&server, redis.url(), "resumed");
}

#[test]
fn a_redis_that_is_away_is_done_without_and_used_again() {
    let Some(redis) = Private::redis() else { return };
    redis.kill();
    let mut server = Server::start(&["--redis", redis.url()]);
    assert_eq!(figure(&server, "redis_breaker_open"), 1, "its absence holds up no start");
    let (is_over, posted) = (AtomicBool::new(false), AtomicU32::new(0));
    // Says that the breaker is open or not, and that orders are stored meanwhile.
    let goes_on = |is_open| {
        wait_breaker(&server, is_open);
        let before = posted.load(Ordering::Relaxed);
        until("orders are stored", SOON, || (posted.load(Ordering::Relaxed) > before + 1).then_some(()));
    };
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut connection = server.connect();
            while !is_over.load(Ordering::Relaxed) {
                let headers = [("Content-Type", "application/json")];
                let order = format!("away-{}", posted.load(Ordering::Relaxed));
                connection.request("POST", "/orders", &headers, wb_posted(&order)).expect(201);
                posted.fetch_add(1, Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(2)); // a pace
            }
        });
        let _over = Over(&is_over);
        goes_on(1);
        redis.restart();
        goes_on(0);
        for is_killed in [false, true, false, true] {
            if is_killed {
                redis.kill();
            } else {
                redis.pause();
            }
            goes_on(1);
            if is_killed {
                redis.restart();
            } else {
                redis.resume();
            }
            goes_on(0);
        }
    });
    write_one(&server, redis.url(), "last");
    assert!(figure(&server, "redis_lost_writes_total{reason=\"away\"}") > 0);
    // One line for each time it went away and for each time it came back. On a busy machine it may seem away more often.
    let log = server.log();
    let lines = log.iter().filter(|line| line.contains("Redis answers") || line.contains("doing without"));
    let is_there: Vec<bool> = lines.map(|line| line.contains("Redis answers")).collect();
    assert!(is_there.len() >= 10, "{log:?}");
    for (index, is_there) in is_there.iter().enumerate() {
        assert_eq!(*is_there, index % 2 == 1, "line {index} of {log:?}");
    }
    assert!(server.stop().success());
}

#[test]
fn instances_on_one_database_share_a_redis() {
    let Some(address) = servers::redis() else { return };
    let Some(database) = Database::create() else { return };
    let url = database.url();
    let flags = ["--postgres", url.as_str(), "--profile", "lenient", "--redis", address.as_str()];
    let (a, b) = (Server::start(&flags), Server::start(&flags));
    wait_breaker(&a, 0);
    wait_breaker(&b, 0);
    let order = name("shared");
    let body = |n: u64| format!(r#"{{"order_uid":"{order}","n":{n}}}"#);
    let path = format!("/order/{order}");
    a.post("/orders", body(1)).expect(201);
    for n in 2..100 {
        let (writer, reader) = if n % 2 == 0 { (&a, &b) } else { (&b, &a) };
        writer.post("/orders", body(n)).expect(200);
        assert_eq!(writer.get(&path).expect(200).text(), body(n), "anyone who wrote it reads it");
        let version = n.to_string();
        let read = reader.connect().get_in_time(&path, &[("X-Min-Version", &version)]).expect(200);
        assert_eq!(read.text(), body(n));
    }
    // Where the last one comes too late to be written, a later one does not.
    let mut last = 99;
    until("the last one is in Redis", SOON, || {
        let before = lost(&a) + lost(&b);
        let is_there = until("it is written or lost", SOON, || {
            let is_there = version_of(&address, &order) == last;
            (is_there || lost(&a) + lost(&b) > before).then_some(is_there)
        });
        if is_there {
            return Some(());
        }
        last += 1;
        a.post("/orders", body(last)).expect(200);
        None
    });
    assert_eq!(body_of(&address, &order), Some(body(last)));
    // What one has just written the other finds there before it has followed it, once it trusts what is written.
    until("an order is read from Redis", SOON, || {
        let order = name("found");
        let body = format!(r#"{{"order_uid":"{order}"}}"#);
        a.post("/orders", &body).expect(201);
        assert_eq!(b.connect().get_in_time(&format!("/order/{order}"), &[]).expect(200).text(), body);
        (figure(&b, "redis_hits_total") > 0).then_some(())
    });
}

#[test]
fn wrong_settings_are_named_and_without_them_there_is_nothing() {
    let home = tempfile::tempdir().unwrap();
    let check = |flags: &[&str]| {
        let output = binary(home.path()).args(["config", "check"]).args(flags).output().unwrap();
        (output.status.code(), String::from_utf8(output.stderr).unwrap())
    };
    for flags in [
        &["--redis", "redis://:secret@h:no"][..],
        &["--redis", "6379"],
        &["--redis", "redis://:secret@h:1/0?secret=5s"],
        &["--redis", "redis://:secret@h:1/0#secret"],
        &["--redis", "h:1", "--redis-ttl", "0s"],
        &["--redis", "h:1", "--redis-read-timeout", "1h"],
    ] {
        let (code, said) = check(flags);
        assert_eq!(code, Some(78), "{said}");
        assert!(said.contains(flags[flags.len() - 2]) && !said.contains("secret"), "{said}");
    }
    let path = home.path().join("url");
    std::fs::write(&path, "redis://:secret@h:6379/1\n").unwrap();
    let environment = [("REDIS_ADDR_FILE".to_owned(), path.to_str().unwrap().to_owned())].into();
    let matches = commands::command().get_matches_from(["order-service"]);
    let settings = Settings::load(&matches, &Outside { environment, ..Outside::default() }).unwrap();
    assert_eq!(settings.config.redis.as_ref().unwrap().ttl, Duration::from_mins(5));
    assert!(!settings.print().contains("secret"));
    let server = Server::start(&[]);
    assert!(!server.get("/metrics").expect(200).text().contains("redis_"));
}

/// Three answers that a key is of another type had the server be left alone for all orders.
#[test]
fn a_key_of_another_type_is_no_fault_of_the_server() {
    let Some(address) = servers::redis() else { return };
    let server = Server::start(&["--redis", &address]);
    wait_breaker(&server, 0);
    let (strange, others) = (name("strange"), name("other"));
    let marker = format!("order_version:{strange}");
    let _: i64 = ask(&address, &["RPUSH", &marker, "not", "ours"]);
    let lost = || figure(&server, "redis_lost_writes_total{reason=\"wrong_type\"}");
    // Each has its own request, and more of them than it takes failures for the server to be left alone. One that comes
    // too late is not sent, on a busy machine.
    let (mut written, begun) = (0, Instant::now());
    for round in 1..=6 {
        until("it is counted", SOON, || {
            written += 1;
            let order = wb_answered(&strange).replacen('{', &format!("{{\"n\":{written},"), 1);
            let reply = server.post("/orders", order);
            assert!(matches!(reply.status, 200 | 201), "{}", reply.text());
            (lost() >= round).then_some(())
        });
        let mut posted = Vec::new();
        until("others are written", SOON, || {
            posted.push(format!("{others}-{round}-{}", posted.len()));
            server.post("/orders", wb_answered(posted.last()?)).expect(201);
            posted.iter().find_map(|other| body_of(&address, other))
        });
    }
    wait_breaker(&server, 0);
    let said: Vec<String> = server.log().into_iter().filter(|line| line.contains("of another type")).collect();
    assert!(!said.is_empty() && said.iter().all(|line| line.contains("WARN") && line.contains(&marker)), "{said:?}");
    let minutes = usize::try_from(begun.elapsed().as_secs() / 60).unwrap();
    assert!(said.len() <= 1 + minutes, "once a minute at most, naming the key: {said:?}");
    let theirs: Vec<String> = ask(&address, &["LRANGE", &marker, "0", "-1"]);
    assert_eq!(theirs, ["not", "ours"], "what others made stays");
    assert!(server.get(&format!("/order/{strange}")).expect(200).text().contains(&format!("\"n\":{written},")));
    let _: i64 = ask(&address, &["DEL", &marker]);
}

/// The key that all instances share for the time was named in no document.
#[test]
fn the_clock_that_is_lost_is_made_again_and_costs_no_order() {
    let Some(address) = servers::redis() else { return };
    // A database of its own: what is done to its clock is nothing to other tests.
    let address = format!("{address}/9");
    let clock = "order_clock";
    assert!(include_str!("../docs/operations.md").contains(&format!("`{clock}`")), "it is documented");
    let server = Server::start(&["--redis", &format!("redis://{address}")]);
    wait_breaker(&server, 0);
    let _: i64 = ask(&address, &["DEL", clock]);
    write_one(&server, &address, "clock");
    assert!(ask::<Option<u64>>(&address, &["GET", clock]).is_some(), "it is made again");
    wait_breaker(&server, 0);
}
