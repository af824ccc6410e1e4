//! What a public server must bear: slow clients, silent clients, too many clients, too large heads, and a stop in the
//! middle of everything.

use std::time::{Duration, Instant};

use super::*;
use crate::server::{Connection, Server, until};

/// Longer than any limit the tests set, with room for a machine that is busy.
const SOON: Duration = Duration::from_secs(15);

fn metric(server: &Server, sample: &str) -> f64 {
    let metrics = server.get("/metrics").expect(200);
    let line = metrics.text().lines().find(|line| line.starts_with(sample)).unwrap_or_else(|| panic!("no {sample}"));
    line.rsplit_once(' ').unwrap().1.parse().unwrap()
}

#[test]
fn heads_that_are_too_large_are_431() {
    let server = Server::start(&["--http-header-bytes-max", "8KiB"]);
    let long = "x".repeat(10_000);
    let many: Vec<(&str, &str)> = (0..120).map(|_| ("X-Many", "1")).collect();
    for headers in [vec![("X-Long", long.as_str())], many] {
        let mut connection = server.connect();
        connection.ask("GET", "/ping", &headers, "");
        connection.reply("GET").expect(431);
        assert!(connection.is_closed_within(SOON));
    }
    let usual: Vec<(&str, &str)> = (0..50).map(|_| ("X-Many", "1")).collect();
    server.request("GET", "/ping", &usual, "").expect(200);
    let mut connection = server.connect();
    connection.ask("GET", &format!("/order/{long}"), &[], "");
    let reply = connection.try_reply("GET").expect("an answer");
    assert!(matches!(reply.status, 400 | 414 | 431), "{}", reply.line);
}

#[test]
fn slow_heads_and_silent_clients_are_closed() {
    let server = Server::start(&["--http-header-time", "1s", "--http-idle-time", "1s"]);
    let started = Instant::now();
    let mut silent = server.connect();
    let mut slow = server.connect();
    slow.send("GET /ping HTTP/1.1\r\nHost:");
    let mut idle = server.connect();
    idle.get("/ping").expect(200);
    let mut slow_second = server.connect();
    slow_second.get("/ping").expect(200);
    slow_second.send("GET /ping HT");
    // A byte now and then does not help.
    let mut dripping = server.connect();
    dripping.send("GET /ping HTTP/1.1\r\nX-Drip: ");
    until("the one that drips is closed", SOON, || {
        std::thread::sleep(Duration::from_millis(50));
        dripping.try_send("x").err()
    });
    for connection in [&mut silent, &mut slow, &mut idle, &mut slow_second] {
        assert!(connection.is_closed_within(SOON));
    }
    assert!(started.elapsed() >= Duration::from_millis(700), "not before their time");
    assert!(metric(&server, "http_connections_closed_total{reason=\"header\"}") >= 4.0);
    assert!(metric(&server, "http_connections_closed_total{reason=\"idle\"}") >= 1.0);
}

#[test]
fn a_busy_connection_is_never_idle() {
    let server = Server::start(&["--http-header-time", "1s", "--http-idle-time", "1s"]);
    let mut connection = server.connect();
    let started = Instant::now();
    while started.elapsed() < Duration::from_millis(2500) {
        connection.get("/ping").expect(200);
        std::thread::sleep(Duration::from_millis(100));
    }
}

#[test]
fn a_body_that_does_not_come_is_408() {
    let server = Server::start(&["--http-body-time", "500ms"]);
    let head = |kind: &str| {
        format!("POST /orders HTTP/1.1\r\nHost: x\r\nContent-Type: {kind}\r\nContent-Length: 5000\r\n\r\n")
    };
    let mut connection = server.connect();
    connection.send(head("application/json") + "{");
    connection.reply("POST").expect(408);
    let mut lines = server.connect();
    lines.send(head("application/x-ndjson") + &wb_answered("l1") + "\n{");
    let reply = lines.reply("POST").expect(200);
    let results: Vec<&str> = reply.text().lines().collect();
    assert!(results[0].contains("\"created\"") && results[1].contains("408"), "{results:?}");
}

#[test]
fn a_client_that_does_not_read_is_closed_and_costs_little() {
    let server = Server::start(&["--sample", "20000", "--http-write-time", "1s"]);
    let before = metric(&server, "process_resident_memory_bytes");
    let mut clients: Vec<Connection> = (0..4).map(|_| server.connect()).collect();
    for client in &mut clients {
        client.ask("GET", "/api/orders", &[("Accept", "application/x-ndjson")], "");
    }
    std::thread::sleep(Duration::from_millis(700));
    // 26 MB each, were it not for back-pressure.
    let grown = (metric(&server, "process_resident_memory_bytes") - before) / f64::from(1 << 20);
    assert!(grown < 60.0, "grown by {grown} MiB");
    until("they are closed", SOON, || {
        (metric(&server, "http_connections_closed_total{reason=\"write\"}") >= 4.0).then_some(())
    });
}

#[test]
fn endless_pipelined_requests_without_reading_cost_little() {
    let server = Server::start(&[]);
    created(&server, wb_posted("x"));
    let before = metric(&server, "process_resident_memory_bytes");
    let mut connection = server.connect();
    connection.socket().set_write_timeout(Some(Duration::from_millis(700))).unwrap();
    let requests = crate::server::request("GET", "/order/x", &[], b"").repeat(1000);
    let sent = (0..1000).take_while(|_| connection.try_send(&requests).is_ok()).count();
    assert!(sent < 1000, "the service stops reading");
    let grown = (metric(&server, "process_resident_memory_bytes") - before) / f64::from(1 << 20);
    assert!(grown < 60.0, "grown by {grown} MiB");
    server.get("/order/x").expect(200);
}

#[test]
fn idle_connections_make_room() {
    let server = Server::start(&["--http-connections-max", "50"]);
    created(&server, wb_posted("x"));
    let mut idle: Vec<Connection> = (0..50).map(|_| server.connect()).collect();
    for connection in &mut idle {
        connection.ask("GET", "/order/x", &[], "");
        connection.try_reply("GET").ok();
    }
    let mut late: Vec<Connection> = Vec::new();
    for _ in 0..20 {
        let mut connection = server.connect();
        assert_eq!(connection.get("/order/x").expect(200).text(), wb_answered("x"));
        late.push(connection);
    }
    assert!(metric(&server, "http_connections_closed_total{reason=\"evicted\"}") >= 19.0);
    // The longest idle went: one that came later, by more than the service's clock is coarse, is still there.
    std::thread::sleep(Duration::from_millis(700));
    let mut last = server.connect();
    last.get("/order/x").expect(200);
    server.get("/ping").expect(200);
    last.get("/order/x").expect(200);
}

#[test]
fn slow_clients_leave_other_readers_alone() {
    let server = Server::start(&[]);
    post_lines(&server, &wb_lines("x", 1000));
    let mut slow: Vec<Connection> = (0..200).map(|_| server.connect()).collect();
    let mut idle: Vec<Connection> = (0..50).map(|_| server.connect()).collect();
    for (n, connection) in slow.iter_mut().enumerate() {
        match n % 4 {
            0 => connection.send("GET /order/x-1 HTTP/1.1\r\nX-Slow:"),
            1 => connection.send("POST /orders HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{"),
            2 => connection.ask("GET", "/api/orders", &[], ""), // and never read
            _ => connection.ask("GET", "/events?include=body", &[], ""),
        }
    }
    for connection in &mut idle {
        connection.get("/ping").expect(200);
    }
    let mut reader = server.connect();
    let mut times: Vec<Duration> = (0..1000)
        .map(|n| {
            let started = Instant::now();
            assert_eq!(reader.get(&format!("/order/x-{n}")).expect(200).text(), wb_answered(&format!("x-{n}")));
            started.elapsed()
        })
        .collect();
    times.sort();
    assert!(
        times[500] < Duration::from_millis(50) && times[990] < Duration::from_secs(1),
        "{:?} {:?}",
        times[500],
        times[990]
    );
    reader.request("POST", "/orders", &[], wb_posted("new")).expect(201);
}

#[test]
fn a_stop_answers_what_is_in_flight_and_loses_nothing() {
    for signal in ["TERM", "KILL"] {
        let mut server = Server::start(&[]);
        let address = server.address();
        let stored: Vec<String> = std::thread::scope(|scope| {
            let client = move |client: usize| {
                let mut connection = Connection::open(address);
                let mut stored = Vec::new();
                for n in 0..100_000 {
                    let id = format!("s-{client}-{n}");
                    let request = crate::server::request("POST", "/orders", &[], wb_answered(&id).as_bytes());
                    let reply = connection.try_send(request).and_then(|()| connection.try_reply("POST"));
                    match reply.map(|reply| (reply.status, reply.header("Connection").map(str::to_owned))) {
                        Ok((201, None)) => stored.push(id),
                        Ok((201, Some(_))) => {
                            stored.push(id);
                            break;
                        }
                        Ok((503, _)) => break,
                        Ok((other, _)) => panic!("{other}"),
                        Err(_) => break,
                    }
                }
                stored
            };
            let clients: Vec<_> = (0..4).map(|n| scope.spawn(move || client(n))).collect();
            std::thread::sleep(Duration::from_millis(300));
            if signal == "TERM" {
                let started = Instant::now();
                assert_eq!(server.stop().code(), Some(0), "{:?}", server.log());
                assert!(started.elapsed() < Duration::from_secs(10), "{:?}", started.elapsed());
                server.start_again();
            } else {
                server.kill9();
            }
            clients.into_iter().flat_map(|client| client.join().unwrap()).collect()
        });
        assert!(stored.len() > 10, "only {} before the signal", stored.len());
        let mut connection = server.connect();
        for id in &stored {
            assert_eq!(
                connection.get(&format!("/order/{id}")).expect(200).text(),
                wb_answered(id),
                "after SIG{signal}"
            );
        }
    }
}

#[test]
fn a_post_whose_body_is_on_its_way_is_answered_before_the_end() {
    let mut server = Server::start(&[]);
    let body = wb_posted("way");
    let mut connection = server.connect();
    connection.send(format!(
        "POST /orders HTTP/1.1\r\nHost: x\r\nExpect: 100-continue\r\nContent-Length: {}\r\n\r\n",
        body.len()
    ));
    // Whoever is asked to go on is known to have a request under way.
    assert_eq!(connection.try_head().unwrap().status, 100);
    connection.send(&body[..100]);
    let mut idle = server.connect();
    idle.get("/ping").expect(200);
    server.terminate();
    assert!(idle.is_closed_within(SOON), "idle connections are closed at once");
    std::thread::sleep(Duration::from_millis(300));
    connection.send(&body[100..]);
    let reply = connection.reply("POST");
    assert!(matches!(reply.status, 201 | 503), "{}", reply.line);
    if reply.status == 503 {
        assert!(reply.header("Retry-After").is_some());
    }
    assert_eq!(server.wait().code(), Some(0), "{:?}", server.log());
}

#[test]
fn a_client_that_holds_on_cannot_hold_a_stop_longer_than_the_grace_period() {
    let mut server = Server::start(&["--grace", "1s"]);
    let mut connection = server.connect();
    connection.send("POST /orders HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\n{");
    server.get("/ping").expect(200);
    let started = Instant::now();
    let status = server.stop();
    assert!(started.elapsed() < SOON, "{:?}", started.elapsed());
    assert_eq!(status.code(), Some(1), "not a clean drain");
}
