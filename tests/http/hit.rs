//! Plain reads are answered without hyper, everything else by it: no one may be able to tell which.

use super::*;
use crate::server::{Connection, Reply, SIGNAL_TIME, Server, request, until};

/// Any of these sends a read to hyper, and none changes its answer.
const DETOURS: [(&str, &str); 3] = [("TE", "trailers"), ("If-Match", "*"), ("X-Min-Version", "1")];

/// Everything that a client sees of an answer but the time.
fn seen(reply: &Reply) -> (String, Vec<(String, String)>, Vec<u8>) {
    // What is no plain hit has an id too.
    let fields = reply.headers.iter().filter(|(name, _)| name != "date" && name != "x-request-id").cloned();
    (reply.line.clone(), fields.collect(), reply.body.clone())
}

fn served(server: &Server) -> (f64, f64) {
    let text = server.get("/metrics").expect(200).text().to_owned();
    let value = |name: &str| {
        let lines = text.lines().filter(|line| line.starts_with(name));
        lines.map(|line| line.rsplit_once(' ').unwrap().1.parse::<f64>().unwrap()).sum()
    };
    (value("cache_hits_total"), value("http_requests_total{endpoint=\"/order"))
}

#[test]
fn answers_are_the_same_with_and_without_a_detour() {
    let server = Server::start(&[]);
    created(&server, wb_posted("plain"));
    let envelope = created(&server, envelope("{\"id\":\"e\"}"));
    for version in 2..=70 {
        let changed = wb_posted("plain").replace("\"sm_id\": 99", &format!("\"sm_id\": {version}"));
        server.post("/orders", changed).expect(200);
        if version > 3 && version < 62 {
            continue;
        }
        for path in ["/order/plain", "/orders/plain", "/api/orders/plain"] {
            let plain = server.connect().get(path).expect(200);
            assert_eq!(plain.header("ETag"), Some(format!("\"{version}\"").as_str()));
            assert_eq!(plain.header("Date").map(str::len), Some("Sun, 06 Nov 1994 08:49:37 GMT".len()));
            for detour in DETOURS {
                assert_eq!(
                    seen(&plain),
                    seen(&server.connect().request("GET", path, &[detour], "")),
                    "{path} {detour:?}"
                );
            }
        }
    }
    for path in [format!("/order/{envelope}"), format!("/orders/{}", envelope.to_uppercase())] {
        let plain = server.connect().get(&path).expect(200);
        assert_eq!(seen(&plain), seen(&server.connect().request("GET", &path, &[DETOURS[0]], "")));
    }
    // Fields that mean nothing here mean nothing.
    let fields = [("User-Agent", "x/1"), ("Accept", "text/plain"), ("Connection", "Keep-Alive"), ("X", "\u{e9}\t ")];
    let plain = server.connect().request("GET", "/order/plain", &fields, "").expect(200);
    assert_eq!(seen(&plain), seen(&server.connect().get("/order/plain")));
}

#[test]
fn each_answer_is_counted_once_anyone_who_gives_it() {
    let server = Server::start(&[]);
    created(&server, wb_posted("x"));
    let before = served(&server);
    let mut connection = server.connect();
    connection.send(request("GET", "/order/x", &[], b"").repeat(40));
    for _ in 0..40 {
        connection.reply("GET").expect(200);
    }
    for _ in 0..10 {
        connection.request("GET", "/orders/x", &[DETOURS[0]], "").expect(200);
        connection.get("/order/x").expect(200);
    }
    connection.get("/order/unknown").expect(404);
    let after = served(&server);
    assert_eq!((after.0 - before.0, after.1 - before.1), (60.0, 61.0));
}

#[test]
fn what_a_field_asks_for_is_still_done() {
    let server = Server::start(&["--http-headers-max", "40"]);
    created(&server, wb_posted("x"));
    let mut connection = server.connect();
    let mut ask = |fields: &[(&str, &str)]| connection.request("GET", "/order/x", fields, "");
    assert_eq!(ask(&[("if-none-match", "\"1\"")]).status, 304);
    assert_eq!(ask(&[("IF-NONE-MATCH", "*")]).status, 304);
    assert_eq!(ask(&[("x-MIN-version", "2")]).status, 412);
    assert_eq!(ask(&[("ORIGIN", "http://a.test")]).header("access-control-allow-origin"), Some("*"));
    let many: Vec<(String, String)> = (0..38).map(|n| (format!("X-{n}"), "1".into())).collect();
    let many: Vec<(&str, &str)> = many.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    ask(&many).expect(200);
    assert_eq!(ask(&[("Connection", "close")]).header("connection"), Some("close"));
    assert!(connection.is_closed_within(SIGNAL_TIME));
    for (line, status) in [
        ("HEAD /order/x HTTP/1.1", 200),
        ("GET /order/x HTTP/1.0", 200),
        ("GET http://orders.test/order/x HTTP/1.1", 200),
        ("GET /order/%78 HTTP/1.1", 200),
        ("GET /order/x?y HTTP/1.1", 400),
        ("GET /order/x? HTTP/1.1", 200),
        ("DELETE /order/x HTTP/1.1", 405),
        ("GET /order/ HTTP/1.1", 400),
        ("GET /order/x%2f HTTP/1.1", 400),
        ("GET /orders/by-external/x HTTP/1.1", 400),
        ("GET /order/x HTTP/3.7", 400),
    ] {
        let mut connection = server.connect();
        connection.send(format!("{line}\r\nHost: orders.test\r\n\r\n"));
        let reply = connection.reply(line.split(' ').next().unwrap()).expect(status);
        if line.starts_with("HEAD") {
            assert_eq!(reply.header("Content-Length"), Some(wb_answered("x").len().to_string().as_str()));
        } else if status == 200 {
            assert_eq!(reply.text(), wb_answered("x"), "{line}");
        }
    }
    // A body makes a read nothing else, and is not taken for a request.
    let mut connection = server.connect();
    connection.send("GET /order/x HTTP/1.1\r\nHost: x\r\nContent-Length: 20\r\n\r\nGET /ping HTTP/1.1\r\n");
    connection.send("GET /order/x HTTP/1.1\r\nHost: x\r\n\r\n");
    assert_eq!(connection.reply("GET").expect(200).text(), wb_answered("x"));
    assert_eq!(connection.reply("GET").expect(200).text(), wb_answered("x"));
}

/// More than is read at one go, from a client that is quicker than the service: no one is forgotten on the way.
#[test]
fn a_long_pipeline_is_answered_to_its_end_and_so_is_its_neighbour() {
    const REQUESTS: usize = 30_000;
    let server = Server::start(&["--threads", "1"]);
    created(&server, wb_posted("x"));
    let (mut connection, mut neighbour) = (server.connect(), server.connect());
    std::thread::scope(|scope| {
        let mut writer = connection.socket().try_clone().unwrap();
        scope.spawn(move || {
            let requests = request("GET", "/order/x", &[], b"").repeat(REQUESTS / 10);
            (0..10).for_each(|_| std::io::Write::write_all(&mut writer, &requests).unwrap());
        });
        for n in 0..REQUESTS {
            assert_eq!(connection.reply("GET").expect(200).text(), wb_answered("x"), "{n}");
            if n % 1000 == 0 {
                neighbour.get("/order/x").expect(200);
            }
        }
    });
    connection.get("/order/x").expect(200);
}

/// A large answer that is only half sent, and plain reads behind it: none overtakes it.
#[test]
fn no_answer_overtakes_one_that_is_half_sent() {
    let server = Server::start(&["--sample", "3000"]);
    created(&server, wb_posted("x"));
    let list = until("the list shows the newest", SIGNAL_TIME, || {
        let list = server.get("/api/orders").expect(200);
        list.text().contains("\"order_uid\":\"x\"").then_some(list)
    });
    let check = |connection: &mut Connection| {
        assert!(connection.reply("GET").expect(200).body == list.body);
        for _ in 0..3 {
            assert_eq!(connection.reply("GET").expect(200).text(), wb_answered("x"));
        }
    };
    for _ in 0..5 {
        let (mut gathering, mut prompt) = (server.connect(), server.connect());
        for _ in 0..8 {
            for connection in [&mut gathering, &mut prompt] {
                connection.ask("GET", "/api/orders", &[], "");
                // Once its answer has begun, it was alone in its read; and the answer is too large for the socket.
                assert!(connection.is_answered());
                connection.send(request("GET", "/order/x", &[], b"").repeat(3));
            }
            check(&mut prompt);
        }
        (0..8).for_each(|_| check(&mut gathering));
    }
}

#[test]
fn the_last_requests_of_a_client_that_stops_sending_are_answered() {
    let server = Server::start(&[]);
    created(&server, wb_posted("x"));
    for rest in ["", "GET /order/x HT"] {
        let mut connection = server.connect();
        connection.send(request("GET", "/order/x", &[], b"").repeat(3));
        connection.send(rest);
        connection.socket().shutdown(std::net::Shutdown::Write).unwrap();
        for _ in 0..3 {
            assert_eq!(connection.reply("GET").expect(200).text(), wb_answered("x"));
        }
        if !rest.is_empty() {
            connection.try_reply("GET").ok();
        }
        assert!(connection.is_closed_within(SIGNAL_TIME), "{rest:?}");
    }
}

#[test]
fn a_stop_tells_readers_that_their_connection_ends() {
    let mut server = Server::start(&[]);
    created(&server, wb_posted("x"));
    let mut held = server.connect();
    held.begin_post("/orders", 100_000); // keeps the service from ending
    let mut reader = server.connect();
    reader.get("/order/x").expect(200);
    server.terminate();
    // Closed between two requests, or told so with the last answer. No answer is cut.
    until("the connection ends", SIGNAL_TIME, || {
        let is_open = reader.try_send(request("GET", "/order/x", &[], b"")).is_ok() && reader.is_answered();
        (!is_open || reader.reply("GET").expect(200).header("Connection") == Some("close")).then_some(())
    });
    assert!(server.ended().is_none(), "it still waits for what it was sent half of");
    drop(held);
    assert_eq!(server.wait().code(), Some(0), "{:?}", server.log());
}
