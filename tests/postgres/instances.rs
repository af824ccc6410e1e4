//! Several instances on one database: each sees the others, and what they change.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use order_service::store::postgres::Postgres;
use order_service::store::{Changes, CommitPermit, Presence, SequenceBlock, Store, Wait};
use rustix::process::Signal;

use super::{LONG, batch, until_it_waits, wb};

use crate::database::Database;
use crate::server::{Connection, Server, until};

/// What the next look finds: whether others are there, and the ids and versions they changed.
async fn look(store: &Postgres) -> (bool, Vec<(String, u64)>) {
    let found = Arc::new(Mutex::new(Vec::new()));
    let into = Arc::clone(&found);
    let emit = move |orders: Vec<(order_service::id::OrderId, order_service::snapshot::Snapshot)>| {
        into.lock().unwrap().extend(orders.iter().map(|(id, snapshot)| (id.text().to_string(), snapshot.version())));
    };
    let Changes { is_shared, .. } = store.changes(|_, _| true, emit).await.unwrap();
    let mut found = std::mem::take(&mut *found.lock().unwrap());
    found.sort();
    (is_shared, found)
}

/// What is found until nothing is left of the others.
async fn look_until_alone(store: &Postgres) -> Vec<(String, u64)> {
    let end = Instant::now() + LONG;
    let mut seen = Vec::new();
    loop {
        let (is_shared, new) = look(store).await;
        seen.extend(new);
        if !is_shared {
            return seen;
        }
        assert!(Instant::now() < end, "the other one is gone");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

#[tokio::test]
async fn what_an_instance_changed_before_it_went_is_seen() {
    let Some(database) = Database::create() else { return };
    let (one, other) = (database.store(), database.store());
    assert_eq!(look(&one).await, (false, vec![]));
    one.commit(batch([wb("own", 1)])).await.unwrap();
    assert_eq!(look(&one).await, (false, vec![]), "alone, nothing is read back");
    assert_eq!(look(&other).await, (true, vec![]));
    other.commit(batch([wb("a", 1), wb("own", 2)])).await.unwrap();
    let (is_shared, seen) = look(&one).await;
    assert!(is_shared);
    assert!(seen.contains(&("a".into(), 1)) && seen.contains(&("own".into(), 2)), "{seen:?}");
    // A transaction that began before others and ends after them is not missed.
    let client = database.client().await;
    let body = r#"{"order_uid":"slow"}"#;
    let insert = format!(
        "BEGIN; INSERT INTO orders (order_uid, seq, version, changed_in, kind, state, created_at, updated_at, source, body)
         VALUES ('slow', 1, 1, pg_current_xact_id()::text::bigint, 0, 0, now(), now(), 'x', '{body}')"
    );
    client.batch_execute(&insert).await.unwrap();
    other.commit(batch([wb("b", 1)])).await.unwrap();
    assert!(look(&one).await.1.contains(&("b".into(), 1)));
    client.batch_execute("COMMIT").await.unwrap();
    other.commit(batch([wb("c", 1)])).await.unwrap();
    drop(other);
    let seen = look_until_alone(&one).await;
    assert!(seen.contains(&("slow".into(), 1)) && seen.contains(&("c".into(), 1)), "{seen:?}");
}

/// Every look read all that was committed since then again: with 200,000 orders that took 83 % of a core for as long as
/// the transaction stayed open, in whichever database of the server.
#[tokio::test]
async fn a_transaction_that_stays_open_has_nothing_read_twice_and_is_seen_when_it_ends() {
    let (Some(database), Some(elsewhere)) = (Database::create(), Database::create()) else { return };
    let (one, other) = (database.store(), database.store());
    assert_eq!(look(&one).await, (false, vec![]));
    assert_eq!(look(&other).await, (true, vec![]));
    let (idle, late) = (elsewhere.client().await, database.client().await);
    idle.batch_execute("BEGIN; SELECT pg_current_xact_id()").await.unwrap();
    late.batch_execute("BEGIN; SELECT pg_current_xact_id()").await.unwrap();
    other.commit(batch([wb("a", 1), wb("b", 1)])).await.unwrap();
    assert_eq!(look(&one).await, (true, vec![("a".into(), 1), ("b".into(), 1)]));
    other.commit(batch([wb("b", 2)])).await.unwrap();
    assert_eq!(look(&one).await, (true, vec![("b".into(), 2)]));
    assert_eq!(look(&one).await, (true, vec![]), "it was seen");
    let change = "UPDATE orders SET version = 2, changed_in = pg_current_xact_id()::text::bigint WHERE order_uid = 'a'";
    late.batch_execute(change).await.unwrap();
    assert_eq!(look(&one).await, (true, vec![]), "it has not ended");
    late.batch_execute("COMMIT").await.unwrap();
    assert_eq!(look(&one).await, (true, vec![("a".into(), 2)]));
    assert_eq!(look(&one).await, (true, vec![]));
    idle.batch_execute("ROLLBACK").await.unwrap();
    assert_eq!(look(&one).await, (true, vec![]));
}

/// Which of the others follow and publish.
async fn peers(store: &Postgres) -> (bool, bool) {
    let Changes { peers, .. } = store.changes(|_, _| true, |_| {}).await.unwrap();
    (peers.follow, peers.publish)
}

#[tokio::test]
async fn instances_know_whether_others_follow_and_publish() {
    let Some(database) = Database::create() else { return };
    let (one, other, worker) = (database.store(), database.store(), database.store());
    let follower = Presence { follows: true, publishes: false };
    one.appear_as(follower);
    assert_eq!(peers(&one).await, (false, false), "alone");
    worker.appear_as(Presence { follows: false, publishes: true });
    let known = worker.heartbeat().await.unwrap();
    assert_eq!((known.follow, known.publish), (true, false));
    assert_eq!(peers(&one).await, (false, true), "of one that works");
    other.appear_as(follower);
    assert_eq!(peers(&other).await, (true, false));
    assert_eq!(peers(&one).await, (true, false), "not all publish");
    other.appear_as(Presence { publishes: true, ..follower });
    assert_eq!(peers(&one).await, (true, false), "it has not said so yet");
    assert_eq!(peers(&other).await, (true, false));
    assert_eq!(peers(&one).await, (true, true));
    other.appear_as(follower);
    assert_eq!(peers(&other).await, (true, false));
    assert_eq!(peers(&one).await, (true, false), "and takes it back");
    drop(other);
    let end = Instant::now() + LONG;
    while peers(&one).await != (false, true) {
        assert!(Instant::now() < end, "the follower is gone");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    // One of a former version holds the lock of all and no other.
    let former = database.client().await;
    let lock = format!("SELECT pg_advisory_lock_shared({}, {})", 0x6f72_6473, 0x6865_7265);
    former.batch_execute(&lock).await.unwrap();
    assert_eq!(peers(&one).await, (true, false));
}

#[tokio::test]
async fn what_a_process_commits_after_its_death_is_seen_by_the_next_one() {
    let Some(database) = Database::create() else { return };
    let dead = database.store();
    dead.commit(batch([wb("a", 1)])).await.unwrap();
    // It has sent what it had to send, and the server takes its time.
    let ranks = SequenceBlock::default();
    let _ = ranks.keep(Vec::new());
    let (mut pass, mut turn) = CommitPermit::after(ranks);
    let writer = dead.clone();
    let late = tokio::spawn(async move { writer.commit_after(batch([wb("late", 1)]), &mut turn).await });
    until_it_waits(&mut pass, Wait::ToTakeEffect).await;
    let next = database.store();
    assert!(look(&next).await.0, "someone is still writing");
    assert!(look(&next).await.0, "and still");
    pass.release();
    late.await.unwrap().unwrap();
    drop(dead);
    let seen = look_until_alone(&next).await;
    assert!(seen.contains(&("late".into(), 1)), "{seen:?}");
}

#[test]
fn an_order_written_on_one_instance_is_read_on_the_others() {
    let Some(database) = Database::create() else { return };
    let url = database.url();
    let flags = ["--postgres", url.as_str(), "--profile", "lenient"];
    let (a, b) = (Server::start(&flags), Server::start(&flags));
    let body = |n: u64| format!(r#"{{"order_uid":"shared","n":{n}}}"#);
    a.post("/orders", body(1)).expect(201);
    // An id that an instance has never seen is looked up, so the first read is right.
    assert_eq!(b.connect().get_in_time("/order/shared", &[]).expect(200).text(), body(1));
    for n in 2..12 {
        let (writer, reader) = if n % 2 == 0 { (&a, &b) } else { (&b, &a) };
        writer.post("/orders", body(n)).expect(200);
        until("the other instance shows it", LONG, || {
            (reader.connect().get_in_time("/order/shared", &[]).expect(200).text() == body(n)).then_some(())
        });
        let version = n.to_string();
        reader.connect().get_in_time("/order/shared", &[("X-Min-Version", &version)]).expect(200);
    }
    b.connect().get_in_time("/order/never", &[]).expect(404);
    b.post("/orders", r#"{"order_uid":"shared","status":"deleted"}"#).expect(200);
    until("the deletion is seen", LONG, || (a.get("/order/shared").status == 410).then_some(()));
    drop(b);
    until("it is alone", LONG, || a.get("/api/stats").text().contains("\"view_complete\":true").then_some(()));
    a.get("/order/never").expect(404);
}

/// What a read had brought from the store before the others' changes were asked for was told of to no reader of events,
/// and what two had told of was told twice.
#[test]
fn readers_of_events_are_told_of_what_others_changed_once_and_in_order() {
    const ORDERS: usize = 30;
    let Some(database) = Database::create() else { return };
    let url = database.url();
    let flags = ["--postgres", url.as_str(), "--profile", "lenient"];
    let (writer, reader) = (Server::start(&flags), Server::start(&flags));
    let mut stream = reader.connect();
    stream.ask("GET", "/events", &[], "");
    stream.try_head().unwrap();
    let mut text = String::from_utf8(stream.chunk().unwrap().unwrap()).unwrap();
    for version in 1..=3 {
        for n in 0..ORDERS {
            writer.post("/orders", format!(r#"{{"order_uid":"told-{n}","n":{version}}}"#));
            let version = version.to_string();
            // From memory where the change was seen, and from the store where it was not.
            reader.connect().get_in_time(&format!("/order/told-{n}"), &[("X-Min-Version", &version)]).expect(200);
        }
    }
    let newest = |n: usize| format!(r#""order_uid":"told-{n}","version":3,"#);
    let end = Instant::now() + LONG;
    while !(0..ORDERS).all(|n| text.contains(&newest(n))) {
        assert!(Instant::now() < end, "not told of: {:?}", (0..ORDERS).find(|n| !text.contains(&newest(*n))));
        text += std::str::from_utf8(&stream.chunk().unwrap().unwrap()).unwrap();
    }
    let mut told = std::collections::HashMap::new();
    for event in text.lines().filter_map(|line| line.strip_prefix("data: ")) {
        let event: serde_json::Value = serde_json::from_str(event).unwrap();
        let (id, version) = (event["order_uid"].to_string(), event["version"].as_u64().unwrap());
        let before = told.insert(id, version).unwrap_or_default();
        assert!(before < version, "{event} after version {before}");
    }
}

/// Each writes what it has made of the version that its instance shows; the other one may have written since.
#[test]
fn of_several_writers_with_one_condition_one_has_its_way_on_two_instances() {
    const WRITERS: u64 = 6;
    const EACH: u64 = 10;
    let Some(database) = Database::create() else { return };
    let url = database.url();
    let servers = [(); 2].map(|()| Server::start(&["--postgres", &url, "--profile", "lenient"]));
    servers[0].request("POST", "/orders", &[("If-None-Match", "*")], r#"{"order_uid":"c","count":0}"#).expect(201);
    servers[1].request("POST", "/orders", &[("If-None-Match", "*")], r#"{"order_uid":"c","count":9}"#).expect(412);
    std::thread::scope(|scope| {
        for n in 0..WRITERS {
            let mut connection = servers[usize::from(n % 2 == 0)].connect();
            scope.spawn(move || {
                for _ in 0..EACH {
                    // The one that was refused is told which version there is, and waits for it.
                    let mut least = "1".to_owned();
                    loop {
                        let read = connection.get_in_time("/order/c", &[("X-Min-Version", &least)]).expect(200);
                        let next = read.json()["count"].as_u64().unwrap() + 1;
                        let etag = read.header("ETag").unwrap().to_owned();
                        let order = format!(r#"{{"order_uid":"c","count":{next}}}"#);
                        let reply = connection.request("POST", "/orders", &[("If-Match", &etag)], order);
                        match reply.status {
                            200 => break,
                            412 => least = reply.header("ETag").unwrap().trim_matches('"').to_owned(),
                            other => panic!("{other}: {}", reply.text()),
                        }
                    }
                }
            });
        }
    });
    let stored = database.query("SELECT version || ' ' || convert_from(body, 'UTF8') FROM orders");
    assert_eq!(stored, [format!(r#"{} {{"order_uid":"c","count":{}}}"#, WRITERS * EACH + 1, WRITERS * EACH)]);
}

/// A writer whose answer is lost does not know whether it had its way; one that was told so had it alone.
#[test]
fn of_several_writers_with_one_condition_none_wins_twice_through_kills() {
    let Some(database) = Database::create() else { return };
    let url = database.url();
    let mut servers = [(); 2].map(|()| Server::start(&["--postgres", &url, "--profile", "lenient"]));
    servers[0].post("/orders", r#"{"order_uid":"c","count":0}"#).expect(201);
    let addresses = Mutex::new(servers.each_ref().map(Server::address));
    // The versions that a write was told to have replaced, and how many were not told what became of them.
    let (won, unknown) = (Mutex::new(Vec::new()), AtomicU64::new(0));
    let is_over = AtomicBool::new(false);
    let write = |n: usize, count: u64| -> std::io::Result<()> {
        let mut connection = Connection::try_open(addresses.lock().unwrap()[n % 2])?;
        let read = connection.try_request("GET", "/order/c", &[], "")?;
        let Some(etag) = read.header("ETag").map(str::to_owned) else { return Ok(()) };
        let order = format!(r#"{{"order_uid":"c","writer":{n},"count":{count}}}"#);
        match connection.try_request("POST", "/orders", &[("If-Match", &etag)], order) {
            Ok(reply) if reply.status == 200 => won.lock().unwrap().push(etag),
            Ok(reply) if reply.status == 412 => {}
            _ => drop(unknown.fetch_add(1, Ordering::SeqCst)),
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        for n in 0..6 {
            let (write, is_over) = (&write, &is_over);
            scope.spawn(move || {
                for count in 1.. {
                    if is_over.load(Ordering::SeqCst) {
                        break;
                    }
                    // A server that is down takes no connection.
                    if write(n, count).is_err() {
                        std::thread::sleep(Duration::from_millis(5));
                    }
                }
            });
        }
        for round in 0..6 {
            let before = won.lock().unwrap().len();
            until("more writes had their way", LONG, || (won.lock().unwrap().len() >= before + 20).then_some(()));
            let server = &mut servers[round % 2];
            server.kill9();
            addresses.lock().unwrap()[round % 2] = server.address();
        }
        is_over.store(true, Ordering::SeqCst);
    });
    let won = won.into_inner().unwrap();
    let mut different = won.clone();
    different.sort();
    different.dedup();
    assert_eq!(different.len(), won.len(), "two replaced the same version");
    let stored: u64 = database.query("SELECT version::text FROM orders")[0].parse().unwrap();
    let (told, unknown) = (won.len() as u64, unknown.into_inner());
    assert!((told..=told + unknown).contains(&(stored - 1)), "{stored}, {told} were told, {unknown} were not");
}

/// PostgreSQL looks at no limit of time while a COPY waits for its client, so what this one has locked would stay locked.
#[test]
fn an_order_that_an_instance_held_in_the_middle_of_a_copy_has_locked_is_written_by_another() {
    let Some(database) = Database::create() else { return };
    let url = database.url();
    let flags = ["--postgres", &url, "--profile", "lenient", "--postgres-statement-timeout", "2s"];
    let other = Server::start(&flags);
    other.post("/orders", r#"{"order_uid":"x","n":1}"#).expect(201);
    let held = Server::start_in(&flags, &[("ORDER_HOLD_AT", "store-copying:1")]);
    let mut client = held.connect();
    client.ask("POST", "/orders", &[("Content-Type", "application/json")], r#"{"order_uid":"x","n":2}"#);
    let stat = format!("/proc/{}/stat", held.pid());
    until("it is held", LONG, || std::fs::read_to_string(&stat).unwrap().contains(") T ").then_some(()));
    let reply = until("the lock is gone", LONG, || {
        let reply = other.post("/orders", r#"{"order_uid":"x","n":3}"#);
        (reply.status != 503).then(|| reply.expect(200))
    });
    assert_eq!(reply.header("ETag"), Some("\"2\""));
    let ended = |line: &String| line.contains("ended a transaction whose instance had stopped in the middle of it");
    assert_eq!(other.log().iter().filter(|line| ended(line)).count(), 1);
    held.signal(Signal::CONT);
    client.reply("POST").expect(200); // it was written again
    for server in [&held, &other] {
        until("both have the last one", LONG, || {
            let reply = server.get("/order/x").expect(200);
            (reply.text() == r#"{"order_uid":"x","n":2}"#).then(|| assert_eq!(reply.header("ETag"), Some("\"3\"")))
        });
    }
}
