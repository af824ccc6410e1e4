//! What a public server must bear: slow clients, silent clients, too many clients, too large heads, and a stop in the
//! middle of everything.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use rustix::process::Signal;

use super::*;
use crate::server::{Connection, SIGNAL_TIME, Server, until};

/// Clients that never end of themselves are held by no other limit than the one that a test is about.
const NO_OTHER_LIMIT: [&str; 6] = ["--http-header-time", "10m", "--http-body-time", "10m", "--http-write-time", "10m"];

fn closed(server: &Server, reason: &str) -> f64 {
    server.metric(&format!("http_connections_closed_total{{reason=\"{reason}\"}}"))
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
        assert!(connection.is_closed_within(SIGNAL_TIME));
    }
    // hyper alone let some pass that were twice as large, where they came at once.
    for bytes in [9000, 12_000, 15_000, 30_000] {
        let large = "y".repeat(bytes);
        for _ in 0..5 {
            let mut connection = server.connect();
            connection.ask("GET", "/ping", &[("X-Large", &large)], "");
            connection.reply("GET").expect(431);
        }
    }
    server.request("GET", "/ping", &[("X-Large", &"y".repeat(7800))], "").expect(200);
    let usual: Vec<(&str, &str)> = (0..50).map(|_| ("X-Many", "1")).collect();
    server.request("GET", "/ping", &usual, "").expect(200);
    let mut connection = server.connect();
    connection.ask("GET", &format!("/order/{long}"), &[], "");
    let reply = connection.try_reply("GET").expect("an answer");
    assert!(matches!(reply.status, 400 | 414 | 431), "{}", reply.line);
}

/// hyper refuses them itself, with a status and no word; clients that read `detail` of every error found none.
#[test]
fn heads_that_cannot_be_read_are_refused_in_words() {
    let server = Server::start(&["--http-header-bytes-max", "128KiB", "--http-headers-max", "20"]);
    let many = "X-Many: 1\r\n".repeat(40);
    let target = "x".repeat(70_000);
    for (status, code, head) in [
        (400, "invalid_head", "GET /ping HTTP/9.9\r\nHost: x\r\n\r\n".to_owned()),
        (400, "invalid_head", "G ET /ping HTTP/1.1\r\nHost: x\r\n\r\n".into()),
        (400, "invalid_head", "GET /a b HTTP/1.1\r\nHost: x\r\n\r\n".into()),
        (400, "invalid_head", "GET /ping HTTP/1.1\r\nHost : x\r\n\r\n".into()),
        (400, "invalid_head", "GET /ping HTTP/1.1\r\nHost: x\r\nno colon\r\n\r\n".into()),
        (400, "invalid_head", "POST /orders HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n".into()),
        (
            400,
            "invalid_head",
            "POST /orders HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n".into(),
        ),
        (400, "invalid_head", "POST /orders HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: gzip\r\n\r\n".into()),
        (431, "head_too_large", format!("GET /ping HTTP/1.1\r\nHost: x\r\n{many}\r\n")),
        (414, "uri_too_long", format!("GET /{target} HTTP/1.1\r\nHost: x\r\n\r\n")),
    ] {
        // In two pieces, and at once with a request before it.
        for before in ["", "GET /ping HTTP/1.1\r\nHost: x\r\n\r\n"] {
            let mut connection = server.connect();
            if before.is_empty() {
                connection.send(&head[..10]);
                connection.send(&head[10..]);
            } else {
                connection.send(format!("{before}{head}"));
            }
            if !before.is_empty() {
                connection.reply("GET").expect(200);
            }
            let reply = connection.reply("GET");
            let told = (reply.status, reply.header("Content-Type"), reply.header("Connection"));
            assert_eq!(
                told,
                (status, Some("application/problem+json"), Some("close")),
                "{}",
                head.lines().next().unwrap_or_default().get(..40).unwrap_or(&head)
            );
            let body = reply.json();
            assert_eq!((body["status"].as_u64(), body["reason"].as_str()), (Some(status.into()), Some(code)));
            assert!(connection.is_closed_within(SIGNAL_TIME));
        }
    }
    let refused = |status: u16| {
        server.metric(&format!("http_requests_total{{endpoint=\"other\",method=\"other\",status=\"{status}\"}}"))
    };
    assert_eq!((refused(400), refused(431), refused(414)), (16.0, 2.0, 2.0));
}

#[test]
fn slow_heads_and_silent_clients_are_closed() {
    const LIMIT: Duration = Duration::from_secs(5);
    let server = Server::start(&["--http-header-time", "5s", "--http-idle-time", "5s"]);
    // A machine that stops this test for as long as it takes to be closed may have made another of one than is meant.
    until("each is what it is to be in time", SIGNAL_TIME, || slow_and_silent(&server, LIMIT));
}

fn slow_and_silent(server: &Server, limit: Duration) -> Option<()> {
    let before = [closed(server, "header"), closed(server, "idle")];
    let started = Instant::now();
    let mut silent = server.connect();
    let mut slow = server.connect();
    slow.send("GET /ping HTTP/1.1\r\nHost:");
    let mut idle = server.connect();
    idle.get("/ping").expect(200);
    let mut slow_second = server.connect();
    slow_second.get("/ping").expect(200);
    slow_second.try_send("GET /ping HT").ok()?;
    // A byte now and then does not help.
    let mut dripping = server.connect();
    dripping.try_send("GET /ping HTTP/1.1\r\nHost: x\r\nX-Drip: ").ok()?;
    if started.elapsed() > limit / 2 {
        return None;
    }
    until("the one that drips is closed", SIGNAL_TIME, || {
        std::thread::sleep(Duration::from_millis(50));
        dripping.try_send("x").err()
    });
    for connection in [&mut silent, &mut slow, &mut idle, &mut slow_second] {
        assert!(connection.is_closed_within(SIGNAL_TIME));
    }
    assert!(started.elapsed() >= limit.mul_f64(0.8), "not before their time");
    until("each is counted for what it was", SIGNAL_TIME, || {
        (closed(server, "header") >= before[0] + 4.0 && closed(server, "idle") >= before[1] + 1.0).then_some(())
    });
    Some(())
}

/// Sweeps that a stop of the machine had held up were once made up for at one go, and aged what had just been busy.
#[test]
fn a_busy_connection_is_never_idle() {
    let limit = Duration::from_secs(2);
    let server = Server::start(&["--http-header-time", "2s", "--http-idle-time", "2s"]);
    // A machine that stops this thread for as long as the limit makes the connection idle indeed: that proves nothing.
    until("a connection is kept busy for twice the limit", SIGNAL_TIME, || {
        let mut connection = server.connect();
        let (started, mut asked) = (Instant::now(), Instant::now());
        while started.elapsed() < limit * 2 {
            let before = std::mem::replace(&mut asked, Instant::now());
            let is_sent = connection.try_send(crate::server::request("GET", "/ping", &[], b"")).is_ok();
            if !is_sent || !connection.is_answered() {
                // The service's clock is as coarse as its sweeps.
                assert!(before.elapsed() >= limit.mul_f64(0.7), "closed {:?} after a request", before.elapsed());
                return None;
            }
            connection.reply("GET").expect(200);
            std::thread::sleep(Duration::from_millis(100));
        }
        Some(())
    });
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
    let before = server.peak_bytes();
    let mut clients: Vec<Connection> = (0..4).map(|_| server.connect()).collect();
    for client in &mut clients {
        client.ask("GET", "/api/orders", &[("Accept", "application/x-ndjson")], "");
    }
    until("they are closed", SIGNAL_TIME, || (closed(&server, "write") >= 4.0).then_some(()));
    // 26 MB each, were it not for back-pressure.
    let grown = (server.peak_bytes() - before) >> 20;
    assert!(grown < 60, "grown by {grown} MiB");
}

#[test]
fn endless_pipelined_requests_without_reading_cost_little() {
    let server = Server::start(&["--http-write-time", "1s"]);
    created(&server, wb_posted("x"));
    let before = server.peak_bytes();
    let mut connection = server.connect();
    let requests = crate::server::request("GET", "/order/x", &[], b"").repeat(1000);
    // Sending blocks once the service stops reading, and fails once it has given the client up.
    let sent = (0..1000).take_while(|_| connection.try_send(&requests).is_ok()).count();
    assert!(sent < 1000, "the service stops reading");
    until("it is counted that its client did not read", SIGNAL_TIME, || {
        (closed(&server, "write") >= 1.0).then_some(())
    });
    let grown = (server.peak_bytes() - before) >> 20;
    assert!(grown < 60, "grown by {grown} MiB");
    server.get("/order/x").expect(200);
}

#[test]
fn idle_connections_make_room() {
    let server = Server::start(&["--http-connections-max", "50", "--http-header-time", "5s"]);
    created(&server, wb_posted("x"));
    let answered = |_| {
        let mut connection = server.connect();
        assert_eq!(connection.get("/order/x").expect(200).text(), wb_answered("x"));
        connection
    };
    // All are held: each of the last ones has another make room.
    let _idle: Vec<Connection> = (0..50).map(answered).collect();
    let _late: Vec<Connection> = (0..20).map(answered).collect();
    let evicted = closed(&server, "evicted");
    assert!(evicted >= 19.0, "{evicted}");
    // The longest idle go: one that came later, by more than the service's clock is coarse, is still there. A client
    // that is closed for its silence shows that this clock has moved on.
    assert!(server.connect().is_closed_within(SIGNAL_TIME));
    let mut last = answered(0);
    let _more: Vec<Connection> = (0..20).map(answered).collect();
    last.get("/order/x").expect(200);
    assert!(closed(&server, "evicted") >= evicted + 15.0);
}

#[test]
fn slow_clients_leave_other_readers_alone() {
    let server = Server::start(&NO_OTHER_LIMIT);
    post_lines(&server, &wb_lines("x", 1000));
    let mut slow: Vec<Connection> = (0..200).map(|_| server.connect()).collect();
    let mut idle: Vec<Connection> = (0..50).map(|_| server.connect()).collect();
    for (n, connection) in slow.iter_mut().enumerate() {
        match n % 4 {
            0 => connection.send("GET /order/x-1 HTTP/1.1\r\nHost: x\r\nX-Slow:"),
            1 => connection.begin_post("/orders", 1000),
            2 => connection.ask("GET", "/api/orders", &[], ""), // and never read
            _ => connection.ask("GET", "/events?include=body", &[], ""),
        }
    }
    for connection in &mut idle {
        connection.get("/ping").expect(200);
    }
    Connection::until_all_read(&slow.iter().collect::<Vec<_>>());
    // Whatever waited for one of them would wait for minutes.
    let mut reader = server.connect();
    let mut times: Vec<Duration> = (0..1000)
        .map(|n| {
            let started = Instant::now();
            assert_eq!(reader.get(&format!("/order/x-{n}")).expect(200).text(), wb_answered(&format!("x-{n}")));
            started.elapsed()
        })
        .collect();
    times.sort();
    assert!(times[500] < Duration::from_secs(1), "{:?}", times[500]);
    reader.request("POST", "/orders", &[], wb_posted("new")).expect(201);
}

/// How the orders of one client fared that posts one after the other.
#[derive(Default)]
struct Fared {
    /// Answered 201.
    stored: Vec<String>,
    /// Answered 503.
    refused: Vec<String>,
    /// Sent, perhaps not to the last byte, and not answered at all: the connection ended instead.
    unanswered: Vec<String>,
}

/// Posts until the service takes no more, and counts what is stored.
fn post_until_the_end(mut connection: Connection, client: usize, stored: &AtomicUsize) -> Fared {
    let mut fared = Fared::default();
    for n in 0.. {
        let id = format!("s-{client}-{n}");
        let request = crate::server::request("POST", "/orders", &[], wb_answered(&id).as_bytes());
        if connection.try_send(request).is_err() || !connection.is_answered() {
            fared.unanswered.push(id);
            break;
        }
        // What has begun must be whole, unless the process was killed.
        let Ok(reply) = connection.try_reply("POST") else {
            fared.unanswered.push(format!("{id} (cut)"));
            break;
        };
        match reply.status {
            201 => {
                fared.stored.push(id);
                stored.fetch_add(1, Ordering::Relaxed);
            }
            503 => fared.refused.push(id),
            other => panic!("{other}: {}", reply.text()),
        }
        if reply.status == 503 || reply.header("Connection").is_some() {
            break;
        }
    }
    fared
}

/// It took any error for an end: an order that was stored and whose answer was lost did not show.
#[test]
fn a_stop_answers_what_is_in_flight_and_loses_nothing() {
    const CLIENTS: usize = 16;
    for signal in ["TERM", "KILL"] {
        let mut server = Server::start(&[]);
        let stored = AtomicUsize::new(0);
        let all = std::thread::scope(|scope| {
            let clients: Vec<_> = (0..CLIENTS)
                .map(|client| {
                    let (connection, stored) = (server.connect(), &stored);
                    scope.spawn(move || post_until_the_end(connection, client, stored))
                })
                .collect();
            until("orders are being written", SIGNAL_TIME, || {
                (stored.load(Ordering::Relaxed) >= 10 * CLIENTS).then_some(())
            });
            if signal == "TERM" {
                // Which also says that it was not its grace period that ended it.
                assert_eq!(server.stop().code(), Some(0), "{:?}", server.log());
            } else {
                server.kill();
            }
            let mut all = Fared::default();
            for client in clients {
                let Fared { stored, refused, unanswered } = client.join().unwrap();
                all.stored.extend(stored);
                all.refused.extend(refused);
                all.unanswered.extend(unanswered);
            }
            all
        });
        server.start_again();
        let mut connection = server.connect();
        for id in &all.stored {
            let reply = connection.get(&format!("/order/{id}")).expect(200);
            assert_eq!(reply.text(), wb_answered(id), "after SIG{signal}");
        }
        if signal == "TERM" {
            // A connection may end instead of an answer only where nothing came of the order.
            for id in all.refused.iter().chain(&all.unanswered) {
                assert!(!id.ends_with("(cut)"), "the answer to {id}");
                assert_eq!(
                    connection.get(&format!("/order/{id}")).status,
                    404,
                    "{id} was stored, and was not said to be"
                );
            }
            assert_eq!(connection.get("/api/stats").json()["total_orders"], all.stored.len());
        }
        println!(
            "SIG{signal}: {} stored, {} refused, {} unanswered",
            all.stored.len(),
            all.refused.len(),
            all.unanswered.len()
        );
    }
}

/// A stop reset connections whose request had arrived, and that were not yet accepted: most of those that are new here.
#[test]
fn what_has_arrived_before_a_stop_is_answered() {
    const EACH: usize = 50;
    // More than the service accepts before others have their turn.
    const NEW: usize = 500;
    let mut server = Server::start(&[]);
    let mut known: Vec<Connection> = (0..EACH).map(|_| server.connect()).collect();
    for connection in &mut known {
        connection.get("/ping").expect(200);
    }
    let silent: Vec<Connection> = (0..EACH).map(|_| server.connect()).collect();
    // All of it arrives while the service does nothing; then it is told to stop.
    server.signal(Signal::STOP);
    let new = (0..NEW).map(|_| server.connect());
    let mut all: Vec<Connection> = known.into_iter().chain(silent).chain(new).collect();
    for (n, connection) in all.iter_mut().enumerate() {
        match n % 5 {
            0 => connection.ask("GET", "/ping", &[], ""),
            _ => connection.ask("POST", "/orders", &[], wb_answered(&format!("arrived-{n}"))),
        }
    }
    Connection::until_all_arrived(&all.iter().collect::<Vec<_>>());
    server.terminate();
    server.signal(Signal::CONT);
    let mut stored = Vec::new();
    for (n, connection) in all.iter_mut().enumerate() {
        let reply = connection.reply("POST");
        match reply.status {
            200 if n % 5 == 0 => {}
            201 => stored.push(n),
            503 => assert!(reply.header("Retry-After").is_some()),
            _ => panic!("{}", reply.line),
        }
        assert!(connection.is_ended(), "closed in order");
    }
    assert_eq!(server.wait().code(), Some(0), "{:?}", server.log());
    server.start_again();
    assert_eq!(server.get("/api/stats").json()["total_orders"], stored.len());
    for n in stored {
        server.get(&format!("/order/arrived-{n}")).expect(200);
    }
}

/// What the service does not read had the system reset the connection, and the answer was gone with it. It reads on for
/// a second after its answer, so that a round in which the client took longer than half of that says nothing.
#[test]
fn a_client_that_sends_on_keeps_its_last_answer() {
    const IN_TIME: Duration = Duration::from_millis(500);
    let server = Server::start(&[]);
    created(&server, wb_posted("x"));
    until("a client has sent all it has in time", SIGNAL_TIME, || {
        let mut connection = server.connect();
        let begun = Instant::now();
        connection.ask("GET", "/order/x", &[("Connection", "close")], "");
        connection.until_read();
        let sent = (0..16).try_for_each(|_| connection.try_send(vec![b'x'; 1 << 16]));
        if begun.elapsed() > IN_TIME {
            return None;
        }
        sent.expect("all was taken");
        let reply = connection.try_reply("GET");
        let is_ended = connection.is_ended();
        if begun.elapsed() > IN_TIME {
            return None;
        }
        assert_eq!(reply.expect("the answer").expect(200).text(), wb_answered("x"));
        assert!(is_ended, "closed in order");
        Some(())
    });
}

/// The service read on for a second and no longer, whatever came: a slow upload that is refused lost its answer.
#[test]
fn a_client_that_sends_on_slowly_keeps_its_last_answer_too_and_not_for_ever() {
    // Less than what the service waits for more.
    const PAUSE_MAX: Duration = Duration::from_millis(600);
    let server = Server::start(&[]);
    created(&server, wb_posted("x"));
    until("a client has sent on without a pause", SIGNAL_TIME, || {
        let mut connection = server.connect();
        let begun = Instant::now();
        connection.ask("GET", "/order/x", &[("Connection", "close")], "");
        let mut before = begun;
        while begun.elapsed() < Duration::from_secs(3) {
            std::thread::sleep(Duration::from_millis(100));
            let sent = connection.try_send("x");
            if std::mem::replace(&mut before, Instant::now()).elapsed() > PAUSE_MAX {
                return None;
            }
            sent.expect("it is taken");
        }
        assert_eq!(connection.reply("GET").expect(200).text(), wb_answered("x"));
        connection.socket().shutdown(std::net::Shutdown::Write).ok()?;
        connection.is_ended().then_some(())
    });
    let server = Server::start(&["--http-write-time", "1s"]);
    let mut connection = server.connect();
    connection.ask("GET", "/ping", &[("Connection", "close")], "");
    until("it has sent on for too long", SIGNAL_TIME, || connection.try_send("x").err());
}

#[test]
fn clients_leave_files_for_the_store_and_for_each_other() {
    // It took all files there were for connections, so that neither new clients nor the store had any.
    const FILES: u32 = 200;
    let mut server = Server::start_with_files(FILES, &[]);
    let is_said = |line: &String| line.contains("allows fewer connections than are set");
    let said: Vec<String> = server.log().into_iter().filter(is_said).collect();
    assert!(said.len() == 1 && said[0].contains("\"http_connections_max\":100"), "{said:?}");
    let mut connections = Vec::new();
    for n in 0..FILES {
        let mut connection = server.connect();
        connection.get("/ping").expect(200);
        if n % 20 == 0 {
            created(&server, wb_posted(&format!("files-{n}")));
        }
        connections.push(connection);
    }
    assert!(closed(&server, "evicted") >= 50.0);
    assert!(!server.log().iter().any(|line| line.contains("accept failed")), "{:?}", server.log());
    drop(connections);
    assert_eq!(server.stop().code(), Some(0));
}

#[test]
fn a_post_whose_body_is_on_its_way_is_answered_before_the_end() {
    let mut server = Server::start(&[]);
    let body = wb_posted("way");
    let mut connection = server.connect();
    connection.begin_post("/orders", body.len());
    connection.send(&body[..100]);
    let mut idle = server.connect();
    idle.get("/ping").expect(200);
    server.terminate();
    assert!(idle.is_closed_within(SIGNAL_TIME), "idle connections are closed at once, so the stop has begun");
    connection.send(&body[100..]);
    let reply = connection.reply("POST");
    assert_eq!(server.wait().code(), Some(0), "{:?}", server.log());
    server.start_again();
    let kept = server.get("/order/way").status;
    match reply.status {
        201 => assert_eq!(kept, 200, "it was said to be stored"),
        503 => assert!(reply.header("Retry-After").is_some() && kept == 404, "{kept}"),
        _ => panic!("{}", reply.line),
    }
}

/// The service once was told to stop before it had read the head, and rightly ended with a clean drain.
#[test]
fn a_client_that_holds_on_cannot_hold_a_stop_longer_than_the_grace_period() {
    let server = &mut Server::start(&[&NO_OTHER_LIMIT[..], &["--grace", "1s"]].concat());
    let mut connection = server.connect();
    connection.begin_post("/orders", 100);
    connection.send("{");
    let started = Instant::now();
    // Nothing but the grace period ends it.
    assert_eq!(server.stop().code(), Some(1), "not a clean drain");
    assert!(started.elapsed() >= Duration::from_secs(1), "{:?}", started.elapsed());
}

/// A WB order of about so many bytes.
fn large(id: &str, bytes: usize) -> String {
    wb_answered(id).replacen('{', &format!("{{\"x_large\":\"{}\",", "x".repeat(bytes)), 1)
}

/// Each answer was a copy of all orders in it: 985 MiB for a request of 7 KB, and 4 GiB for six.
#[test]
fn an_answer_with_one_large_order_many_times_costs_no_copies() {
    const TIMES: usize = 60;
    let server = Server::start(&[]);
    let order = large("large", 1_000_000);
    created(&server, &order);
    let ids = |times: usize| format!("[{}]", vec!["\"large\""; times].join(","));
    let before = server.peak_bytes();
    let mut clients: Vec<Connection> = (0..6).map(|_| server.connect()).collect();
    for (n, client) in clients.iter_mut().enumerate() {
        match n % 2 {
            0 => client.ask("POST", "/api/orders/lookup", &[], ids(TIMES)),
            _ => client.ask("GET", &format!("/api/orders?ids={}", vec!["large"; TIMES].join(",")), &[], ""),
        }
    }
    for client in &mut clients {
        assert!(client.is_answered());
    }
    let grown = (server.peak_bytes() - before) >> 20;
    assert!(grown < 40, "grown by {grown} MiB for {} MB of answers", TIMES * 6);
    let expected = format!("[{}]", vec![order.as_str(); TIMES].join(","));
    for client in &mut clients {
        let reply = client.reply("POST").expect(200);
        assert!(reply.text() == expected, "the orders asked for, whole");
        assert_eq!(reply.header("X-Missing"), Some("0"));
    }
    // Beyond the limit of an answer it is said which that is, and how many would fit.
    let reply = server.post("/api/orders/lookup", ids(1000)).expect(413).json();
    assert_eq!(reply["reason"], "answer_too_large");
    let detail = reply["detail"].as_str().unwrap();
    assert!(detail.contains("67108864 bytes") && detail.contains("the first 67 of them"), "{detail}");
}

/// A page had as many orders as asked for, whatever their size.
#[test]
fn a_page_of_large_orders_ends_where_an_answer_may_and_links_to_the_rest() {
    const BYTES_MAX: usize = 1 << 20;
    let server = Server::start(&["--http-answer-bytes-max", "1MiB", "--list-max", "50"]);
    for n in 0..20 {
        created(&server, large(&format!("page-{n}"), if n % 3 == 0 { 10 } else { 250_000 }));
    }
    // The list of the newest trails the writes.
    until("the last is in the list", SIGNAL_TIME, || {
        (server.get("/api/orders").json()[0]["order_uid"] == "page-19").then_some(())
    });
    for first in ["/api/orders?limit=19", "/api/orders", "/api/orders?limit=50"] {
        let mut listed = Vec::new();
        let mut next = Some(first.to_owned());
        while let Some(path) = next {
            let reply = server.get(&path).expect(200);
            assert!(reply.body.len() <= BYTES_MAX, "{} bytes", reply.body.len());
            let page: Vec<_> =
                reply.json().as_array().unwrap().iter().map(|order| order["order_uid"].clone()).collect();
            assert!(!page.is_empty() && page.len() < 10);
            listed.extend(page);
            let path = |link: &str| link.strip_prefix('<').unwrap().split_once('>').unwrap().0.to_owned();
            next = reply.header("Link").map(path);
        }
        assert_eq!(listed, (0..20).rev().map(|n| format!("page-{n}")).collect::<Vec<_>>(), "each once, newest first");
    }
}

/// Bodies on their way were not counted: 300 of 1 MiB took 252 MiB where the queue may have 64.
#[test]
fn bodies_on_their_way_have_their_limit_and_hold_up_no_others() {
    const BYTES: usize = 1_000_000;
    let server = Server::start(&[&NO_OTHER_LIMIT[..], &["--queue-bytes-max", "8MiB"]].concat());
    let orders: Vec<String> = (0..150).map(|n| large(&format!("half-{n}"), BYTES)).collect();
    let before = server.peak_bytes();
    let begun = |n: usize| {
        let mut connection = server.connect();
        let (order, kind) = (&orders[n], "application/json");
        let half = &order[..order.len() - 1];
        let length = format!("Content-Length: {}", order.len());
        match n % 2 {
            0 => connection.send(format!("POST /orders HTTP/1.1\r\nHost: x\r\nContent-Type: {kind}\r\n{length}\r\n\r\n{half}")),
            _ => connection.send(format!(
                "POST /orders HTTP/1.1\r\nHost: x\r\nContent-Type: {kind}\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n{half}\r\n",
                half.len()
            )),
        }
        connection.until_read();
        connection
    };
    let mut admitted: Vec<Connection> = (0..8).map(begun).collect();
    // There is no room for these: they are told so, whether or not the rest of the body comes.
    let mut refused: Vec<Connection> = (8..orders.len()).map(begun).collect();
    for connection in &mut refused {
        let reply = connection.reply("POST").expect(503);
        assert!(reply.header("Retry-After").is_some() && reply.json()["reason"] == "queue_full");
    }
    let grown = (server.peak_bytes() - before) >> 20;
    assert!(grown < 60, "grown by {grown} MiB");
    // What comes in one piece needs no room among them.
    created(&server, wb_posted("small"));
    server.post("/api/orders/lookup", "[\"small\"]").expect(200);
    for (n, connection) in admitted.iter_mut().enumerate() {
        connection.send(if n % 2 == 0 { "}" } else { "1\r\n}\r\n0\r\n\r\n" });
        connection.reply("POST").expect(201);
        assert!(server.get(&format!("/order/half-{n}")).text() == orders[n]);
    }
    // And all of it is given back.
    for order in &orders[8..20] {
        created(&server, order);
    }
}

/// So were lines: each could be as long as an order before it was counted.
#[test]
fn long_lines_on_their_way_wait_for_room() {
    let server = Server::start(&["--queue-bytes-max", "4MiB", "--http-body-time", "3s"]);
    let order = |n: usize| large(&format!("line-{n}"), 1_000_000);
    let head =
        "POST /orders HTTP/1.1\r\nHost: x\r\nContent-Type: application/x-ndjson\r\nTransfer-Encoding: chunked\r\n\r\n";
    let before = server.peak_bytes();
    // More than fits into the system's buffers on the way, so sending waits for the service.
    let halves: Vec<_> = (0..60)
        .map(|n| {
            let mut connection = server.connect();
            let half = &order(n)[..1_000_000];
            let chunk = format!("{head}{:x}\r\n{half}\r\n", half.len());
            std::thread::spawn(move || {
                connection.try_send(chunk)?;
                connection.try_reply("POST")
            })
        })
        .collect();
    // A client whose lines are whole gets through all the same, in its turn.
    let lines: String = (100..105).map(|n| order(n) + "\n").collect();
    let reply = server.request("POST", "/orders", &[("Content-Type", "application/x-ndjson")], &lines).expect(200);
    assert_eq!(reply.text().matches("\"created\"").count(), 5, "{}", reply.text());
    for half in halves {
        let reply = half.join().unwrap().expect("an answer").expect(200);
        assert!(reply.text().contains("\"status\":408"), "{}", reply.text());
    }
    let grown = (server.peak_bytes() - before) >> 20;
    assert!(grown < 80, "grown by {grown} MiB"); // by 118 where they are not counted
}

/// Each cost 258 bytes for ever: the name before stayed in the index.
#[test]
fn an_order_that_gets_other_external_ids_costs_no_more() {
    const EACH: usize = 25_000;
    let server = Server::start(&[]);
    let id = created(&server, envelope("{\"id\":\"first\"}"));
    let change = |from: usize| {
        let line =
            |n| format!("{{\"order_id\":\"{id}\",\"user_id\":\"{USER}\",\"payload\":{{\"id\":\"name-{n}\"}}}}\n");
        let lines: String = (from..from + EACH).map(line).collect();
        let reply = server.request("POST", "/orders", &[("Content-Type", "application/x-ndjson")], lines).expect(200);
        assert_eq!(reply.text().matches("\"status\":\"updated\"").count(), EACH);
        server.resident_bytes()
    };
    // What is kept of changes in any case is full after these.
    let before = change(0);
    let grown = change(EACH).saturating_sub(before) + change(EACH * 2).saturating_sub(before);
    assert!(grown < 6 << 20, "grown by {} KiB", grown >> 10);
    let named = |name: &str| server.get(&format!("/orders/by-external/{name}?user_id={USER}"));
    named(&format!("name-{}", EACH * 3 - 1)).expect(200);
    named("first").expect(404);
    named("name-7").expect(404);
}
