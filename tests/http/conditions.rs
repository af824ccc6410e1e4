//! Conditions and parameters: what a request makes its answer depend on is done, or refused, and never passed over.

use std::sync::atomic::{AtomicUsize, Ordering};

use serde_json::{Value, json};

use super::*;
use crate::server::{Server, request};

fn versioned(id: &str, n: u64) -> String {
    wb_answered(id).replace("\"sale\":30", &format!("\"sale\":{n}"))
}

#[test]
fn a_write_takes_effect_only_on_what_its_client_knows() {
    let server = Server::start(&[]);
    let write = |id: &str, n: u64, condition: (&str, &str)| {
        server.request("POST", "/orders", &[condition, ("Content-Type", "application/json")], versioned(id, n))
    };
    // Nothing is there yet.
    for condition in [("If-Match", "\"1\""), ("If-Match", "*"), ("If-Match", "\"x\"")] {
        let reply = write("a", 1, condition).expect(412);
        assert_eq!((reply.header("ETag"), &reply.json()["reason"]), (None, &json!("precondition_failed")));
    }
    server.get("/order/a").expect(404);
    write("a", 1, ("If-None-Match", "*")).expect(201);
    let reply = write("a", 2, ("If-None-Match", "*")).expect(412);
    assert_eq!(reply.header("ETag"), Some("\"1\""));
    assert_eq!(server.get("/order/a").expect(200).text(), versioned("a", 1));
    // One version after the other.
    write("a", 2, ("If-Match", "\"1\"")).expect(200);
    for stale in ["\"1\"", "W/\"2\"", "\"b-2\"", "\"20\"", "\"\"", "2"] {
        let reply = write("a", 3, ("If-Match", stale)).expect(412);
        assert_eq!(reply.header("ETag"), Some("\"2\""), "{stale}");
        assert_eq!(server.get("/order/a").text(), versioned("a", 2), "nothing is written");
    }
    write("a", 3, ("If-Match", "\"7\", \"2\"")).expect(200);
    write("a", 4, ("If-Match", "\"a-3\"")).expect(200);
    write("a", 5, ("If-Match", "*")).expect(200);
    // What changes nothing is judged too, and so is a deletion.
    write("a", 5, ("If-Match", "\"4\"")).expect(412);
    assert_eq!(write("a", 5, ("If-Match", "\"5\"")).expect(200).header("ETag"), Some("\"5\""));
    let deletion = "{\"order_uid\":\"a\",\"status\":\"deleted\"}";
    server.request("POST", "/orders", &[("If-Match", "\"1\"")], deletion).expect(412);
    server.get("/order/a").expect(200);
    server.request("POST", "/orders", &[("If-Match", "\"5\"")], deletion).expect(200);
    // Envelopes are orders as well.
    let id = created(&server, envelope("{\"id\":\"e\"}"));
    let change = format!("{{\"order_id\":\"{id}\",\"user_id\":\"{USER}\",\"payload\":{{\"n\":1}}}}");
    server.request("POST", "/orders", &[("If-Match", "\"2\"")], &change).expect(412);
    server.request("POST", "/orders", &[("If-Match", "\"1\"")], &change).expect(200);
    server
        .request("POST", "/orders", &[("If-Match", &format!("\"{id}-2\""))], change.replace("\"n\":1", "\"n\":2"))
        .expect(200);
    server.request("POST", "/orders", &[("If-None-Match", "*")], envelope("{}")).expect(201);
    // A condition that says nothing of an order is none that could be met.
    for (path, kind, body, condition) in [
        ("/orders", "application/json", versioned("b", 1), ("If-None-Match", "\"1\"")),
        ("/orders", "application/x-ndjson", versioned("b", 1), ("If-Match", "\"1\"")),
        ("/orders", "application/x-ndjson", versioned("b", 1), ("If-None-Match", "*")),
        ("/api/orders/lookup", "application/json", "[]".into(), ("If-Match", "\"1\"")),
    ] {
        let reply = server.request("POST", path, &[condition, ("Content-Type", kind)], body).expect(400);
        assert_eq!(reply.json()["reason"], "invalid_condition", "{path} {condition:?}");
    }
    server.get("/order/b").expect(404);
    // It was passed over where there is no one order whose version could be waited for.
    let least = [("X-Min-Version", "99")];
    for path in ["/api/orders", "/api/orders?ids=a", "/api/orders?limit=1", "/api/stats"] {
        let reply = server.request("GET", path, &least, "").expect(400);
        assert_eq!(reply.json()["reason"], "invalid_condition", "{path}");
    }
    let kinds = [least[0], ("Content-Type", "application/json")];
    server.request("POST", "/api/orders/lookup", &kinds, "[]").expect(400);
}

/// Each writes what it has made of the version it read, as often as it takes.
#[test]
fn of_several_writers_with_one_condition_one_has_its_way() {
    const WRITERS: u64 = 6;
    const EACH: u64 = 20;
    let server = Server::start(&["--profile", "lenient"]);
    server.post("/orders", "{\"order_uid\":\"c\",\"count\":0}").expect(201);
    let refused = AtomicUsize::new(0);
    std::thread::scope(|scope| {
        for _ in 0..WRITERS {
            scope.spawn(|| {
                let mut connection = server.connect();
                for _ in 0..EACH {
                    loop {
                        let read = connection.get("/order/c").expect(200);
                        let next = read.json()["count"].as_u64().unwrap() + 1;
                        let etag = read.header("ETag").unwrap().to_owned();
                        let order = format!("{{\"order_uid\":\"c\",\"count\":{next}}}");
                        match connection.request("POST", "/orders", &[("If-Match", &etag)], order).status {
                            200 => break,
                            412 => refused.fetch_add(1, Ordering::Relaxed),
                            other => panic!("{other}"),
                        };
                    }
                }
            });
        }
    });
    let read = server.get("/order/c").expect(200);
    assert_eq!(read.json()["count"], WRITERS * EACH, "{refused:?} were refused");
    assert_eq!(read.header("ETag"), Some(format!("\"{}\"", WRITERS * EACH + 1).as_str()));
}

#[test]
fn reads_are_judged_by_their_conditions() {
    let server = Server::start(&[]);
    created(&server, wb_posted("a"));
    let id = created(&server, envelope("{\"id\":\"e\"}"));
    let by_external = format!("/orders/by-external/e?user_id={USER}");
    let mut connection = server.connect();
    for (path, etag) in
        [("/order/a", "\"1\"".to_owned()), ("/orders/a", "\"1\"".into()), (&by_external, format!("\"{id}-1\""))]
    {
        for method in ["GET", "HEAD"] {
            let mut ask = |name: &str, value: &str| connection.request(method, path, &[(name, value)], "");
            assert_eq!(ask("X", "y").expect(200).header("ETag"), Some(etag.as_str()), "{path}");
            for known in [&etag, &format!("\"a,b\", W/{etag}"), "*"] {
                assert_eq!(ask("If-None-Match", known).expect(304).header("ETag"), Some(etag.as_str()));
            }
            ask("If-None-Match", "\"2\"").expect(200);
            ask("If-Match", &etag).expect(200);
            ask("If-Match", "*").expect(200);
            for other in ["\"2\"", &format!("W/{etag}"), ""] {
                assert_eq!(ask("If-Match", other).expect(412).header("ETag"), Some(etag.as_str()), "{path} {other}");
            }
        }
    }
    // What has no tag of its own exists all the same.
    for path in ["/api/stats", "/health", "/api/orders?ids=a"] {
        connection.request("GET", path, &[("If-Match", "*")], "").expect(200);
        connection.request("GET", path, &[("If-Match", "\"1\"")], "").expect(412);
        connection.request("GET", path, &[("If-None-Match", "\"1\"")], "").expect(200);
        connection.request("GET", path, &[("If-None-Match", "*")], "").expect(304);
    }
    // The older HTTP has no Host, so a condition may be all there is.
    for (field, status) in [("If-None-Match: \"1\"", 304), ("X-Min-Version: 2", 412), ("If-Match: \"2\"", 412)] {
        let mut connection = server.connect();
        connection.send(format!("GET /order/a HTTP/1.0\r\n{field}\r\n\r\n"));
        connection.reply("GET").expect(status);
    }
}

/// Two orders that were called the same, one after the other, had one tag.
#[test]
fn the_tag_of_an_order_found_by_another_id_names_it() {
    let server = Server::start(&[]);
    let path = format!("/orders/by-external/shared?user_id={USER}");
    let first = created(&server, envelope("{\"id\":\"shared\",\"n\":1}"));
    let before = server.get(&path).expect(200);
    let etag = before.header("ETag").unwrap().to_owned();
    let second = created(&server, envelope("{\"id\":\"shared\",\"n\":2}"));
    let reply = server.request("GET", &path, &[("If-None-Match", &etag)], "").expect(200);
    assert_eq!(reply.json()["order"]["order_id"], json!(second));
    assert_ne!(reply.header("ETag"), Some(etag.as_str()));
    let least = |value: &str| server.request("GET", &path, &[("X-Min-Version", value)], "").status;
    // Of the order that is found, or of the one before it, which says nothing of this one.
    for (value, status) in [
        (format!("{second}-1"), 200),
        (format!("\"{second}-1\""), 200),
        (format!("{second}-2"), 412),
        (format!("{first}-9"), 200),
        ("1".into(), 400),
        ("x-".into(), 400),
    ] {
        assert_eq!(least(&value), status, "{value}");
    }
}

#[test]
fn no_parameter_is_passed_over() {
    let server = Server::start(&[]);
    created(&server, wb_posted("a"));
    let external = format!("/orders/by-external/x?user_id={USER}");
    let known = [("/api/orders", "limit"), ("/api/orders", "cursor"), ("/api/orders", "ids"), (&external, "user_id")];
    for path in [
        "/order/a",
        "/orders/a",
        "/api/orders/a",
        &external,
        "/api/orders",
        "/api/stats",
        "/health",
        "/ping",
        "/livez",
        "/readyz",
        "/metrics",
        "/events",
    ] {
        let mark = if path.contains('?') { '&' } else { '?' };
        for unknown in ["customer_id=nosuch", "Limit=1", "x", "=1", "user_id%20=1"] {
            let reply = server.get(&format!("{path}{mark}{unknown}")).expect(400);
            assert_eq!(reply.json()["reason"], "unknown_parameter", "{path} {unknown}");
            let name = unknown.split('=').next().unwrap().replace("%20", " ");
            assert!(reply.json()["detail"].as_str().unwrap().contains(&format!("{name:?}")), "{}", reply.text());
        }
    }
    for (path, name) in known {
        let mark = if path.contains('?') { '&' } else { '?' };
        let reply = server.get(&format!("{path}{mark}{name}=a&{name}=a")).expect(400);
        assert_eq!(reply.json()["reason"], "repeated_parameter", "{path} {name}");
    }
    for path in ["/orders?x=1", "/api/orders/lookup?x=1"] {
        let reply = server.request("POST", path, &[("Content-Type", "application/json")], "[]").expect(400);
        assert_eq!(reply.json()["reason"], "unknown_parameter", "{path}");
    }
    for path in ["/api/orders?ids=a&limit=1", "/api/orders?ids=a&cursor=1"] {
        assert_eq!(server.get(path).expect(400).json()["reason"], "excluded_parameter", "{path}");
    }
    let lines = server.request("GET", "/api/orders?limit=1", &[("Accept", "application/x-ndjson")], "").expect(400);
    assert_eq!(lines.json()["reason"], "excluded_parameter");
    assert_eq!(server.get("/events?include=everything").expect(400).json()["reason"], "invalid_include");
    server.get("/order/a?").expect(200);
    // What the page makes of its own address is its affair.
    server.get("/?order=a").expect(200);
}

#[test]
fn a_request_names_one_host() {
    let server = Server::start(&[]);
    created(&server, wb_posted("a"));
    for path in ["/order/a", "/ping", "/api/orders"] {
        for hosts in
            ["", "Host: a\r\nHost: a\r\n", "Host: a b\r\n", "Host: http://a\r\n", "Host: u@a\r\n", "Host: a:b\r\n"]
        {
            let mut connection = server.connect();
            connection.send(format!("GET {path} HTTP/1.1\r\n{hosts}\r\n"));
            let reply = connection.reply("GET").expect(400);
            assert_eq!(reply.json()["reason"], "invalid_host", "{path} {hosts}");
            assert_eq!(reply.header("Connection"), Some("close"));
        }
        for host in ["", "orders.test", "orders.test:8080", "[::1]:8080", "127.0.0.1"] {
            let mut connection = server.connect();
            connection.send(format!("GET {path} HTTP/1.1\r\nHost: {host}\r\n\r\n"));
            connection.reply("GET").expect(200);
        }
        let mut connection = server.connect();
        connection.send(format!("GET {path} HTTP/1.0\r\n\r\n"));
        connection.reply("GET").expect(200);
    }
}

/// An answer that ended its connection was lost with it, and with a write whether it had been done.
#[test]
fn who_names_another_protocol_is_answered_in_this_one() {
    let server = Server::start(&[]);
    created(&server, wb_posted("a"));
    let upgrade = [("Connection", "Upgrade, HTTP2-Settings"), ("Upgrade", "h2c"), ("HTTP2-Settings", "AAMAAABkAAQ")];
    let last = [("Upgrade", "x"), ("Connection", "close")];
    for path in ["/livez", "/order/a", "/api/orders"] {
        let mut connection = server.connect();
        assert_eq!(connection.request("GET", path, &last, "").expect(200).header("Connection"), Some("close"));
        assert!(connection.is_ended());
        // Of several on one connection the first has named it, or one in the middle.
        for at in 0..3 {
            let mut connection = server.connect();
            let plain = request("GET", "/order/a", &[], b"");
            let mut sent: Vec<Vec<u8>> =
                (0..3).map(|n| if n == at { request("GET", path, &upgrade, b"") } else { plain.clone() }).collect();
            sent.push(request("GET", path, &[("Connection", "close")], b""));
            connection.send(sent.concat());
            for _ in 0..4 {
                connection.reply("GET").expect(200);
            }
            assert!(connection.is_ended());
        }
    }
    for n in 0..20 {
        let order = wb_posted(&format!("u{n}"));
        let mut connection = server.connect();
        let (fields, length) = (if n % 2 == 0 { &upgrade[..] } else { &last[..] }, order.len());
        let mut head = String::from("POST /orders HTTP/1.1\r\nHost: x\r\n");
        for (name, value) in fields {
            head += &format!("{name}: {value}\r\n");
        }
        connection.send(format!("{head}Content-Length: {length}\r\n\r\n"));
        connection.send(&order[..100]);
        connection.until_read();
        connection.send(&order[100..]);
        connection.reply("POST").expect(201);
        if n % 2 == 0 {
            connection.get("/ping").expect(200);
        } else {
            assert!(connection.is_ended());
        }
    }
}

/// The connection ended without a word, and the client's next request failed.
#[test]
fn what_is_refused_before_its_body_was_read_ends_no_connection_unsaid() {
    let server = Server::start(&[]);
    created(&server, wb_posted("a"));
    let types = |kind: &'static str| [("Content-Type", kind)];
    for length in [10, 60_000, 2_000_000] {
        let body = "x".repeat(length);
        for (method, path, fields, status) in [
            ("POST", "/orders", &types("text/html")[..], 415),
            ("POST", "/orders", &[("Content-Encoding", "gzip")], 415),
            ("POST", "/api/orders/lookup", &types("text/html"), 415),
            ("POST", "/orders", &[("Idempotency-Key", "")], 400),
            ("POST", "/orders?x", &[], 400),
            ("POST", "/nothing", &[], 404),
            ("PUT", "/orders", &[], 405),
            ("DELETE", "/order/a", &[], 405),
            ("GET", "/order/a", &[], 200),
            ("GET", "/order/none", &[], 404),
            ("GET", "/ping", &[], 200),
            ("OPTIONS", "/orders", &[], 204),
        ] {
            for is_chunked in [false, true] {
                let mut connection = server.connect();
                let mut head = format!("{method} {path} HTTP/1.1\r\nHost: x\r\n");
                for (name, value) in fields {
                    head += &format!("{name}: {value}\r\n");
                }
                if is_chunked {
                    connection.send(format!("{head}Transfer-Encoding: chunked\r\n\r\n"));
                    // It may be answered, and the connection closed, before all of it is sent.
                    let _ = connection.try_send(format!("{length:x}\r\n{body}\r\n0\r\n\r\n"));
                } else {
                    connection.send(format!("{head}Content-Length: {length}\r\n\r\n"));
                    let _ = connection.try_send(&body);
                }
                let reply = connection.reply(method).expect(status);
                if reply.header("Connection") == Some("close") {
                    assert!(length > 60_000, "{method} {path}: little is read to its end");
                } else {
                    connection.get("/ping").expect(200);
                }
            }
        }
    }
    // Who waits to be told to send a body is told that none is wanted.
    let mut connection = server.connect();
    connection.send("POST /orders HTTP/1.1\r\nHost: x\r\nContent-Type: text/html\r\nExpect: 100-continue\r\nContent-Length: 9\r\n\r\n");
    assert_eq!(connection.reply("POST").expect(415).header("Connection"), Some("close"));
}

#[test]
fn lines_with_a_key_are_stored_once_each_and_end_as_they_like() {
    let server = Server::start(&["--order-bytes-max", "4KiB"]);
    let fill = |id: &str, bytes: usize| {
        let order = versioned(id, 1);
        let more = "y".repeat(bytes - order.len());
        order.replace("Kiryat", &format!("{more}Kiryat"))
    };
    // As long as an order may be, whatever ends the line.
    let lines = [fill("k1", 4096), fill("k2", 4096), fill("k3", 4097), versioned("k4", 1)].join("\r\n") + "\r\n";
    let post = |key: &str, lines: &str| {
        let fields = [("Content-Type", "application/x-ndjson"), ("Idempotency-Key", key)];
        let reply = server.request("POST", "/orders", &fields, lines).expect(200);
        reply
            .text()
            .lines()
            .map(|line| serde_json::from_str::<Value>(line).unwrap()["status"].clone())
            .collect::<Vec<_>>()
    };
    let first = post("one", &lines);
    assert_eq!(first, [json!("created"), json!("created"), json!(413), json!("created")]);
    assert_eq!(post("one", &lines), first, "the same answers");
    assert_eq!(post("two", &lines)[0], json!("updated"));
    // The key of a line stands for what was in it.
    assert_eq!(post("one", &lines.replace("test@gmail.com", "tost@gmail.com"))[0], json!(422));
}

#[test]
fn a_line_may_say_which_version_it_replaces() {
    let server = Server::start(&[]);
    server.post("/orders", versioned("c1", 1)).expect(201);
    let order = |n: u64| versioned("c1", n);
    let results = |lines: &[String]| -> Vec<(Value, Value)> {
        let fields = [("Content-Type", "application/x-ndjson")];
        let reply = server.request("POST", "/orders", &fields, lines.join("\n")).expect(200);
        let of = |line: &str| serde_json::from_str::<Value>(line).unwrap();
        reply.text().lines().map(of).map(|line| (line["status"].clone(), line["reason"].clone())).collect()
    };
    let lines = [
        format!("{{\"order\":{},\"if_version\":1}}", order(2)),
        format!("{{\"if_version\": 1 , \"order\" : {} }}", order(3)),
        format!("{{\"order\":{},\"if_version\":2}}", order(4)),
        format!("{{\"order\":{}}}", order(5)),
        format!("{{\"order\":{},\"if_version\":1}}", versioned("c2", 1)),
        format!("{{\"order\":{},\"if_version\":\"4\"}}", order(6)),
        format!("{{\"order\":{},\"if_version\":-4}}", order(6)),
        format!("{{\"order\":{},\"if_version\":4,\"if_version\":4}}", order(6)),
        format!("{{\"order\":{},\"version\":4}}", order(6)),
        "{\"if_version\":4}".into(),
        format!("{{\"order\":{},\"if_version\":4", order(6)),
    ];
    let updated = (json!("updated"), Value::Null);
    let failed = (json!(412), json!("precondition_failed"));
    let invalid = (json!(400), json!("invalid_line"));
    let told = results(&lines);
    assert_eq!(told[..5], [updated.clone(), failed.clone(), updated.clone(), updated, failed]);
    assert_eq!(told[5..], vec![invalid; 6]);
    let reply = server.get("/order/c1").expect(200);
    assert_eq!((reply.header("ETag"), reply.text()), (Some("\"4\""), order(5).as_str()));
    server.get("/order/c2").expect(404);
}
