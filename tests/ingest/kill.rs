//! `kill -9`, again and again: nothing that was acknowledged is lost, nothing is applied twice, nothing is half there.

use std::io::Write;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::server::{Connection, Server};
use order_service::order::sample;
use order_service::store::Store;
use order_service::store::embedded::{Config, Embedded};

const KILLS: usize = 20;

/// How many orders are imported while it is killed.
fn orders() -> u64 {
    std::env::var("ORDER_KILL_ORDERS").ok().and_then(|count| count.parse().ok()).unwrap_or(1_000_000)
}

fn write_orders(path: &Path, count: u64) {
    let mut file = std::io::BufWriter::with_capacity(1 << 20, std::fs::File::create(path).unwrap());
    let mut line = Vec::new();
    for n in 0..count {
        line.clear();
        sample::wb(1, n, &mut line);
        line.push(b'\n');
        file.write_all(&line).unwrap();
    }
    file.flush().unwrap();
}

fn import(file: &Path, data: &Path) -> Child {
    Command::new(env!("CARGO_BIN_EXE_order-service"))
        .args(["import", "--data"])
        .args([data, file])
        .env_clear()
        .stderr(Stdio::piped())
        .spawn()
        .unwrap()
}

/// The offset an import has made durable, and the orders with it, read from the store's own files.
fn stored(data: &Path) -> u64 {
    let connection = rusqlite::Connection::open(data.join("orders.db")).unwrap();
    connection
        .query_row("SELECT coalesce(max(seq), 0) FROM orders", [], |row| row.get::<_, i64>(0))
        .unwrap()
        .unsigned_abs()
}

#[test]
fn an_import_killed_twenty_times_stores_every_order_once() {
    let count = orders();
    let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    let (file, data) = (dir.path().join("orders.ndjson"), dir.path().join("data"));
    write_orders(&file, count);
    let mut kills = 0;
    let mut before = 0;
    let mut last = loop {
        let mut running = import(&file, &data);
        // The kills are spread over what is left of the import: each comes at a random moment of the next share of it.
        let share = (count - before) / (KILLS - kills + 2) as u64;
        let target = before + fastrand::u64(1..=share);
        if kills == KILLS {
            break running;
        }
        let (mut reached, mut since) = (before, Instant::now());
        let is_ended = loop {
            let is_ended = running.try_wait().unwrap().is_some();
            let now = if data.join("orders.db").exists() { before_or(&data, reached) } else { reached };
            if is_ended || now >= target {
                break is_ended;
            }
            if now > reached {
                (reached, since) = (now, Instant::now());
            }
            assert!(since.elapsed() < Duration::from_mins(3), "the import makes no progress");
            std::thread::sleep(Duration::from_millis(2));
        };
        if is_ended {
            break running;
        }
        running.kill().unwrap();
        running.wait().unwrap();
        kills += 1;
        let after = stored(&data);
        assert!(after >= before, "orders that were durable are gone: {before} before, {after} after");
        before = after;
    };
    assert!(last.wait().unwrap().success());
    assert_eq!(kills, KILLS, "the import ended before it was killed often enough");
    verify(&data, count);
}

/// As [`stored`], or `before` while the file is not readable yet.
fn before_or(data: &Path, before: u64) -> u64 {
    let connection =
        rusqlite::Connection::open_with_flags(data.join("orders.db"), rusqlite::OpenFlags::SQLITE_OPEN_READ_ONLY);
    let query = "SELECT coalesce(max(seq), 0) FROM orders";
    connection
        .and_then(|connection| connection.query_row(query, [], |row| row.get::<_, i64>(0)))
        .map_or(before, i64::unsigned_abs)
}

/// Every order is there once, at version 1, byte for byte.
fn verify(data: &Path, count: u64) {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    let store = Embedded::open(Config::new(data)).unwrap();
    let seen = std::sync::Arc::new(std::sync::Mutex::new(std::collections::HashSet::new()));
    let scanned = runtime.block_on(store.scan({
        let seen = std::sync::Arc::clone(&seen);
        move |orders| {
            for (id, snapshot) in orders {
                assert_eq!(snapshot.version(), 1, "{id} was applied twice");
                assert!(seen.lock().unwrap().insert(id), "stored twice");
            }
        }
    }));
    assert_eq!(scanned.unwrap(), count);
    let mut expected = Vec::new();
    for n in (0..count).step_by(997).chain([count - 1]) {
        expected.clear();
        sample::wb(1, n, &mut expected);
        let id = order_service::id::OrderId::parse(sample::wb_id(1, n).as_bytes()).unwrap();
        let stored = runtime.block_on(store.fetch(id)).unwrap().expect("imported");
        assert_eq!(stored.flat().whole(), expected);
    }
    // A finished import leaves no position: the same file may come again.
    let connection = rusqlite::Connection::open(data.join("orders.db")).unwrap();
    let positions: i64 =
        connection.query_row("SELECT count(*) FROM positions WHERE next_offset > 0", [], |row| row.get(0)).unwrap();
    assert_eq!(positions, 0);
}

/// Posts orders until the service is gone; returns the numbers of those that were answered, and counts them.
fn post_until_killed(address: std::net::SocketAddr, next: &AtomicU64, count: &AtomicU64) -> Vec<u64> {
    let mut acknowledged = Vec::new();
    let Ok(mut connection) = std::panic::catch_unwind(|| Connection::open(address)) else { return acknowledged };
    let mut body = Vec::new();
    loop {
        let n = next.fetch_add(1, Ordering::Relaxed);
        body.clear();
        sample::wb(2, n, &mut body);
        if connection.try_send(crate::server::request("POST", "/orders", &[], &body)).is_err() {
            return acknowledged;
        }
        match connection.try_reply("POST") {
            Ok(reply) if reply.status == 201 => {
                acknowledged.push(n);
                count.fetch_add(1, Ordering::Relaxed);
            }
            Ok(reply) => assert_eq!(reply.status, 503, "{}", reply.text()),
            Err(_) => return acknowledged,
        }
    }
}

#[test]
fn writers_whose_service_is_killed_twenty_times_lose_no_acknowledged_order() {
    let mut server = Server::start(&[]);
    let next = AtomicU64::new(0);
    let mut acknowledged = Vec::new();
    for _ in 0..KILLS {
        let (address, count) = (server.address(), AtomicU64::new(0));
        std::thread::scope(|scope| {
            let writers: Vec<_> = (0..8).map(|_| scope.spawn(|| post_until_killed(address, &next, &count))).collect();
            // Each life writes something, and ends while more is being written.
            let enough = fastrand::u64(1..=100);
            let began = Instant::now();
            while count.load(Ordering::Relaxed) < enough && began.elapsed() < Duration::from_mins(2) {
                std::thread::sleep(Duration::from_millis(1));
            }
            std::thread::sleep(Duration::from_millis(fastrand::u64(0..50))); // any moment
            server.kill9(); // and started again
            acknowledged.extend(writers.into_iter().flat_map(|writer| writer.join().unwrap()));
        });
        assert!(count.into_inner() > 0, "nothing was written before it was killed");
        server.wait_ready();
    }
    // And the last one takes orders.
    let (mut last, n) = (Vec::new(), next.into_inner());
    sample::wb(2, n, &mut last);
    server.post("/orders", last).expect(201);
    acknowledged.push(n);
    let mut reader = server.connect();
    let mut expected = Vec::new();
    for n in acknowledged {
        expected.clear();
        sample::wb(2, n, &mut expected);
        let reply = reader.get(&format!("/order/{}", sample::wb_id(2, n))).expect(200);
        assert_eq!((reply.header("ETag"), &reply.body), (Some("\"1\""), &expected));
    }
}
