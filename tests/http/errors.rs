//! Errors in all their forms, methods, other origins, health, metrics, and requests that are no requests.

use std::collections::HashSet;

use serde_json::json;

use super::*;
use crate::server::{Reply, SIGNAL_TIME, Server, until};

/// Every path with a method it has, and what it allows.
const PATHS: [(&str, &str); 19] = [
    ("/order/x", "GET, HEAD, OPTIONS"),
    ("/orders/x", "GET, HEAD, OPTIONS"),
    ("/api/orders/x", "GET, HEAD, OPTIONS"),
    ("/orders/by-external/x", "GET, HEAD, OPTIONS"),
    ("/api/orders", "GET, HEAD, OPTIONS"),
    ("/api/orders/lookup", "GET, HEAD, OPTIONS, POST"),
    ("/api/stats", "GET, HEAD, OPTIONS"),
    ("/orders", "OPTIONS, POST"),
    ("/events", "GET, HEAD, OPTIONS"),
    ("/health", "GET, HEAD, OPTIONS"),
    ("/ping", "GET, HEAD, OPTIONS"),
    ("/livez", "GET, HEAD, OPTIONS"),
    ("/readyz", "GET, HEAD, OPTIONS"),
    ("/metrics", "GET, HEAD, OPTIONS"),
    ("/", "GET, HEAD, OPTIONS"),
    ("/static/app.js", "GET, HEAD, OPTIONS"),
    ("/docs", "GET, HEAD, OPTIONS"),
    ("/static/style.css", "GET, HEAD, OPTIONS"),
    ("/static/favicon.svg", "GET, HEAD, OPTIONS"),
];

/// The methods of an `Allow` header in order of the alphabet.
fn allowed(reply: &Reply) -> String {
    let mut methods: Vec<&str> = reply.header("Allow").expect("Allow").split(", ").collect();
    methods.sort_unstable();
    methods.join(", ")
}

#[test]
fn a_wrong_method_is_405_and_told_the_right_ones() {
    let server = Server::start(&[]);
    let mut connection = server.connect();
    for (path, allow) in PATHS {
        for method in ["PUT", "DELETE", "PATCH", "TRACE", "BREW", "POST", "GET"] {
            if allow.contains(method) {
                continue;
            }
            let reply = connection.request(method, path, &[], "");
            assert_eq!(reply.status, 405, "{method} {path}");
            assert_eq!(allowed(&reply), allow, "{method} {path}");
            assert_eq!(reply.json()["reason"], "method_not_allowed");
        }
        let options = connection.request("OPTIONS", path, &[], "");
        assert_eq!((options.status, options.body.len()), (204, 0), "{path}");
        assert_eq!(allowed(&options), allow, "{path}");
        assert_eq!(options.header("Access-Control-Allow-Methods"), None, "no one asked");
    }
}

#[test]
fn errors_carry_what_clients_of_every_older_service_read() {
    let server = Server::start(&[]);
    let post = |body: &str, headers: &[(&str, &str)]| server.request("POST", "/orders", headers, body);
    created(&server, wb_posted("gone"));
    server.post("/orders", r#"{"order_uid":"gone","status":"deleted"}"#).expect(200);
    let replies = [
        (400, "Bad Request", server.get("/order/a%20b")),
        (400, "Bad Request", server.get("/api/orders?limit=x")),
        (400, "Bad Request", server.get("/orders/by-external/x")),
        (400, "Bad Request", post("{", &[])),
        (404, "Not Found", server.get("/order/none")),
        (404, "Not Found", server.get("/nowhere")),
        (404, "Not Found", server.get("/static/none.js")),
        (405, "Method Not Allowed", server.request("DELETE", "/order/x", &[], "")),
        (410, "Gone", server.get("/order/gone")),
        (412, "Precondition Failed", server.request("GET", "/order/x", &[("X-Min-Version", "1")], "")),
        (415, "Unsupported Media Type", post("x", &[("Content-Type", "text/plain")])),
        (422, "Unprocessable Entity", post("{}", &[])),
    ];
    for (status, title, reply) in replies {
        let reply = reply.expect(status);
        assert_eq!(reply.header("Content-Type"), Some("application/problem+json"));
        assert_eq!(reply.header("Content-Length"), Some(reply.body.len().to_string().as_str()));
        assert_eq!(reply.line, format!("HTTP/1.1 {status} {title}"));
        let error = reply.json();
        assert_eq!((&error["status"], &error["title"]), (&json!(status), &json!(title)));
        assert_eq!(error["code"], json!(status), "a number, as the older clients expect it");
        for member in ["type", "title", "detail", "error", "message", "reason"] {
            assert!(error[member].as_str().is_some_and(|text| !text.is_empty()), "{member}: {error}");
        }
        no_leak(&reply);
    }
}

#[test]
fn errors_use_the_words_of_the_older_services_where_they_had_some() {
    let server = Server::start(&[]);
    created(&server, wb_posted("gone"));
    server.post("/orders", r#"{"order_uid":"gone","status":"deleted"}"#).expect(200);
    let unknown = format!(r#"{{"order_id":"none","user_id":"{USER}","payload":{{}}}}"#);
    for (status, reply, words, detail) in [
        (404, server.get("/order/none"), "Order not found", "no order has this id"),
        (404, server.get("/orders/none"), "Order not found", "no order has this id"),
        (404, server.get("/api/orders/none"), "Order not found", "no order has this id"),
        (404, server.post("/orders", unknown), "Order not found", "no order has this id"),
        (410, server.get("/order/gone"), "Order not found", "the order was deleted"),
        (400, server.get("/order/"), "Order UID required", "id is empty"),
        (400, server.get("/api/orders/"), "Order UID required", "id is empty"),
        (400, server.get("/order/a%20b"), "id has a character outside", "id has a character outside"),
    ] {
        let error = reply.expect(status).json();
        for (member, expected) in [("error", words), ("message", words), ("detail", detail)] {
            let text = error[member].as_str().unwrap();
            assert!(text.starts_with(expected), "{member}: {error}");
        }
        assert_eq!(error["code"], json!(status));
    }
    let external = server.get(&format!("/orders/by-external/none?user_id={USER}")).expect(404).json();
    assert_eq!((&external["error"], &external["reason"]), (&json!("Order not found"), &json!("not_found")));
    // One line of text is the precise sentence.
    let text = server.request("GET", "/order/none", &[("Accept", "text/plain")], "").expect(404);
    assert_eq!(text.text(), "no order has this id\n");
}

/// What dashboards of the older services read: see the table in docs/moving.md.
#[test]
fn metrics_have_the_names_and_labels_that_older_dashboards_read() {
    let server = Server::start(&[]);
    created(&server, wb_posted("m1"));
    server.get("/order/m1").expect(200);
    server.get("/order/none").expect(404);
    let metrics = server.get("/metrics").expect(200);
    let requests = |status: &str| {
        format!("http_requests_total{{endpoint=\"/order/{{id}}\",method=\"GET\",status=\"{status}\"}} 1")
    };
    // The status is a number.
    for line in [
        "orders_processed_total{status=\"success\"} 1".to_owned(),
        "orders_created_total 1".into(),
        requests("200"),
        requests("404"),
    ] {
        assert!(metrics.text().lines().any(|found| found == line), "{line} in {}", metrics.text());
    }
}

/// There was a `kafka_lost_messages_total` and a `postgres_pool_connections` of 0 without Kafka and without PostgreSQL.
#[test]
fn a_bare_service_shows_no_metrics_of_parts_that_are_not_configured() {
    let server = Server::start(&[]);
    created(&server, wb_posted("m2"));
    let stats = server.get("/api/stats").expect(200).json();
    let is_embedded = stats.get("store_silent_seconds").is_none();
    let families = server.families();
    // Every other prefix is that of a part that is off.
    let of_any = ["cache_", "http_", "list_", "order_", "orders_", "process_", "service_", "view_"];
    let of_store: &[&str] = if is_embedded { &["store_lost"] } else { &["postgres_", "store_"] };
    let prefixes: Vec<&str> = of_any.iter().chain(of_store).copied().collect();
    let begin_with = |prefix: &str| families.iter().filter(|family| family.starts_with(prefix)).count();
    let unknown: Vec<&String> =
        families.iter().filter(|family| !prefixes.iter().any(|prefix| family.starts_with(prefix))).collect();
    assert!(unknown.is_empty(), "{unknown:?}");
    for prefix in prefixes {
        assert!(begin_with(prefix) > 0, "{prefix} in {families:?}");
    }
}

/// What is counted at a start, such as lost messages, shows as a rise only after a 0.
#[test]
fn metrics_of_a_part_are_there_before_its_server_answers() {
    let nats = "nats://127.0.0.1:1";
    let postgres = "postgres://orders@127.0.0.1:1/orders";
    let mut flags = vec!["--postgres", postgres, "--nats", nats, "--stan", nats, "--redis", "127.0.0.1:1"];
    flags.extend(["--grpc", "127.0.0.1:0"]);
    let mut names = vec![
        "http_connections",
        "nats_lost_messages_total",
        "orders_dead_lettered_total",
        "postgres_pool_connections",
        "redis_breaker_open",
        "stan_lost_messages_total",
        "store_silent_seconds",
    ];
    if cfg!(feature = "kafka") {
        flags.extend(["--kafka", "127.0.0.1:1"]);
        names.extend(["kafka_lost_messages_total", "outbox_published_batches_total", "worker_waiting_writes"]);
    }
    let server = Server::start_cold(&flags);
    let families = server.families();
    let missing: Vec<&str> = names.into_iter().filter(|name| !families.contains(*name)).collect();
    assert!(missing.is_empty(), "{missing:?} are not in {families:?}");
}

fn no_leak(reply: &Reply) {
    let text = reply.text().to_lowercase();
    for leak in ["select ", "insert ", "sqlite", "rusqlite", "/tmp", "/home", ".rs:", "panicked", "backtrace", "0x"] {
        assert!(!text.contains(leak), "{leak:?} in {text}");
    }
}

#[test]
fn plain_text_gets_one_line() {
    let server = Server::start(&[]);
    for (method, path, status) in [
        ("GET", "/order/none", 404),
        ("GET", "/order/%0a", 400),
        ("GET", "/x", 404),
        ("PUT", "/orders", 405),
        ("POST", "/orders", 400),
    ] {
        let reply = server.request(method, path, &[("Accept", "text/plain")], "").expect(status);
        assert!(reply.header("Content-Type").unwrap().starts_with("text/plain"), "{path}");
        assert_eq!(reply.text().trim_end_matches('\n').lines().count(), 1, "{path}: {:?}", reply.text());
        no_leak(&reply);
    }
}

#[test]
fn browsers_of_other_origins_may_read() {
    let server = Server::start(&[]);
    created(&server, wb_posted("c"));
    let origin = ("Origin", "https://shop.example");
    for path in ["/order/c", "/orders/c", "/api/orders", "/api/stats", "/order/none", "/health", "/api/orders?ids=c"] {
        let reply = server.request("GET", path, &[origin], "");
        assert_eq!(reply.header("Access-Control-Allow-Origin"), Some("*"), "{path}");
        let exposed = reply.header("Access-Control-Expose-Headers").expect("what a script may read");
        for header in ["ETag", "Link", "X-Missing"] {
            assert!(exposed.contains(header), "{header}");
        }
        assert_eq!(server.get(path).header("Access-Control-Allow-Origin"), None, "no one asked");
    }
    let preflight =
        [origin, ("Access-Control-Request-Method", "GET"), ("Access-Control-Request-Headers", "x-min-version")];
    let reply = server.request("OPTIONS", "/order/c", &preflight, "").expect(204);
    assert_eq!(reply.header("Access-Control-Allow-Origin"), Some("*"));
    assert!(reply.header("Access-Control-Allow-Methods").unwrap().contains("GET"));
    assert!(!reply.header("Access-Control-Allow-Methods").unwrap().contains("POST"), "writes are not for everybody");
    assert!(reply.header("Access-Control-Allow-Headers").unwrap().to_lowercase().contains("x-min-version"));
    assert!(reply.header("Access-Control-Allow-Headers").unwrap().contains("Cache-Control"));
    assert_eq!(server.get("/order/c").header("Vary"), None);
    // Of several each is told of itself, and caches that there are others.
    let some = Server::start(&["--http-cors-origin", "https://shop.example, http://localhost:3000"]);
    created(&some, wb_posted("c"));
    for path in ["/health", "/order/c"] {
        for page in ["https://shop.example", "http://localhost:3000"] {
            let reply = some.request("GET", path, &[("Origin", page)], "").expect(200);
            assert_eq!(reply.header("Access-Control-Allow-Origin"), Some(page));
            assert_eq!(reply.header("Vary"), Some("Origin"));
        }
        for page in ["https://other.example", "https://shop.example:1", "null"] {
            let reply = some.request("GET", path, &[("Origin", page)], "").expect(200);
            assert_eq!((reply.header("Access-Control-Allow-Origin"), reply.header("Vary")), (None, Some("Origin")));
        }
        let plain = some.get(path);
        let detour = some.request("GET", path, &[("TE", "trailers")], "");
        assert_eq!((plain.header("Vary"), detour.header("Vary")), (Some("Origin"), Some("Origin")), "{path}");
    }
    let none = Server::start(&["--http-cors-origin", "none"]);
    assert_eq!(none.request("GET", "/health", &[origin], "").header("Access-Control-Allow-Origin"), None);
    assert_eq!(none.request("OPTIONS", "/health", &preflight, "").header("Access-Control-Allow-Methods"), None);
}

#[test]
fn health_is_json_or_ok() {
    let server = Server::start(&[]);
    let health = server.get("/health").expect(200);
    assert_eq!(health.text(), r#"{"status":"ok","service":"order-service"}"#);
    assert_eq!(health.header("Content-Type"), Some("application/json"));
    for accept in ["*/*", "application/json", "application/json, text/plain, */*"] {
        assert_eq!(server.request("GET", "/health", &[("Accept", accept)], "").text(), health.text(), "{accept}");
    }
    assert_eq!(server.get("/health/").expect(200).body, health.body, "as an older service answered");
    let plain = server.request("GET", "/health", &[("Accept", "text/plain")], "").expect(200);
    assert_eq!(plain.text(), "ok");
    assert!(plain.header("Content-Type").unwrap().starts_with("text/plain"));
    assert_eq!(server.get("/ping").expect(200).text(), "pong");
    server.get("/livez").expect(200);
    server.get("/readyz").expect(200);
}

#[test]
fn a_service_is_not_ready_before_it_is_warm() {
    // A machine that stops this test for a while finds it warm: then it is given more to do.
    let (server, first, sample) = [15_000, 60_000, 240_000]
        .into_iter()
        .find_map(|sample| {
            let server = Server::start_cold(&["--sample", &sample.to_string()]);
            let first = server.get("/readyz");
            (first.status != 200).then_some((server, first, sample))
        })
        .expect("a service that is not warm yet");
    let first = first.expect(503);
    assert_eq!(first.header("Content-Type"), Some("application/problem+json"));
    assert!(first.json()["detail"].as_str().is_some_and(|reason| !reason.is_empty()), "{}", first.text());
    server.get("/livez").expect(200);
    server.get("/health").expect(200);
    server.wait_ready();
    assert_eq!(server.get("/api/stats").json()["total_orders"], sample);
}

#[test]
fn metrics_have_the_names_of_the_older_services() {
    let server = Server::start(&[]);
    created(&server, wb_posted("secret-id"));
    server.get("/order/secret-id").expect(200);
    server.get("/orders/secret-id").expect(200);
    server.get("/order/none").expect(404);
    server.get("/wp-admin/secret-path").expect(404);
    let metrics = server.get("/metrics").expect(200);
    assert!(metrics.header("Content-Type").unwrap().starts_with("text/plain; version=0.0.4"));
    let text = metrics.text();
    for line in text.lines() {
        let is_sample =
            line.rsplit_once(' ').is_some_and(|(name, value)| !name.is_empty() && value.parse::<f64>().is_ok());
        assert!(line.starts_with("# HELP ") || line.starts_with("# TYPE ") || is_sample, "{line:?}");
    }
    for name in [
        "http_requests_total",
        "http_request_duration_seconds_bucket",
        "orders_created_total",
        "orders_processed_total",
        "cache_hits_total",
        "cache_misses_total",
        "process_resident_memory_bytes",
    ] {
        assert!(text.lines().any(|line| line.starts_with(name)), "{name} in {text}");
    }
    let sample = |parts: &[&str]| {
        text.lines()
            .find(|line| parts.iter().all(|part| line.contains(part)))
            .map(|line| line.rsplit_once(' ').unwrap().1)
    };
    assert_eq!(sample(&["http_requests_total", "\"/order/{id}\"", "200"]), Some("1"));
    assert_eq!(sample(&["http_requests_total", "\"/order/{id}\"", "404"]), Some("1"));
    assert_eq!(sample(&["http_requests_total", "\"/orders/{id}\"", "200"]), Some("1"));
    assert_eq!(sample(&["http_requests_total", "POST", "\"/orders\"", "201"]), Some("1"));
    assert!(sample(&["orders_created_total"]).is_some());
    assert!(!text.contains("secret"), "no path or id of a client becomes a label");
}

#[test]
fn pipelined_requests_are_answered_in_order() {
    let server = Server::start(&[]);
    for n in 0..10 {
        created(&server, wb_posted(&format!("p{n}")));
    }
    let mut connection = server.connect();
    let mut requests = Vec::new();
    for n in 0..200 {
        let id = format!("p{}", n % 10);
        match n % 4 {
            0 => {
                requests.extend(crate::server::request("POST", "/orders", &[], wb_posted(&format!("n{n}")).as_bytes()));
            }
            1 => requests.extend(crate::server::request("GET", &format!("/orders/{id}"), &[], b"")),
            _ => requests.extend(crate::server::request("GET", &format!("/order/{id}"), &[], b"")),
        }
    }
    std::thread::scope(|scope| {
        let mut writer = connection.socket().try_clone().unwrap();
        scope.spawn(move || std::io::Write::write_all(&mut writer, &requests).unwrap());
        for n in 0..200 {
            let id = format!("p{}", n % 10);
            match n % 4 {
                0 => assert_eq!(connection.reply("POST").expect(201).json()["order_id"], format!("n{n}")),
                1 => assert_eq!(
                    connection.reply("GET").expect(200).text(),
                    format!("{{\"order\":{}}}", wb_answered(&id))
                ),
                _ => assert_eq!(connection.reply("GET").expect(200).text(), wb_answered(&id)),
            }
        }
    });
}

/// Answers were once held back for as long as anything at all was waiting to be read.
#[test]
fn an_answer_does_not_wait_for_the_rest_of_the_next_request() {
    let server = Server::start(&[]);
    created(&server, wb_posted("x"));
    let mut connection = server.connect();
    connection.send("GET /order/x HTTP/1.1\r\nHost: x\r\n\r\nGET /order/x HT");
    assert_eq!(connection.reply("GET").expect(200).text(), wb_answered("x"));
    connection.send("TP/1.1\r\nHost: x\r\n\r\n");
    connection.reply("GET").expect(200);
    // A slow request behind quick ones: theirs are answered while it is still being sent.
    let body = wb_posted("slow");
    let head = format!("POST /orders HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n", body.len());
    connection.send(format!("GET /ping HTTP/1.1\r\nHost: x\r\n\r\nGET /order/x HTTP/1.1\r\nHost: x\r\n\r\n{head}"));
    assert_eq!(connection.reply("GET").expect(200).text(), "pong");
    connection.reply("GET").expect(200);
    connection.send(body);
    connection.reply("POST").expect(201);
}

#[test]
fn a_good_request_before_a_bad_one_is_answered_and_so_is_the_bad_one() {
    let server = Server::start(&[]);
    created(&server, wb_posted("x"));
    let mut connection = server.connect();
    connection.send("GET /order/x HTTP/1.1\r\nHost: x\r\n\r\nGET / HTTP/1.1\r\nno colon\r\n\r\n");
    connection.reply("GET").expect(200);
    connection.reply("GET").expect(400);
    let mut connection = server.connect();
    connection.send("no request at all\r\n\r\n");
    connection.reply("GET").expect(400);
}

#[test]
fn a_page_elsewhere_may_read_and_not_write() {
    let server = Server::start(&[]);
    let origin = ("Origin", "http://elsewhere.test");
    // Without a type a browser asks no one before it sends.
    let refused = server.request("POST", "/orders", &[origin], wb_posted("x"));
    assert_eq!((refused.status, refused.header("Access-Control-Allow-Origin")), (415, None));
    let typed = [origin, ("Content-Type", "application/json")];
    let reply = server.request("POST", "/orders", &typed, wb_posted("x")).expect(201);
    assert_eq!(reply.header("Access-Control-Allow-Origin"), None);
    let read = server.request("GET", "/order/x", &[origin], "").expect(200);
    assert_eq!(read.header("Access-Control-Allow-Origin"), Some("*"));
    assert_eq!(server.request("OPTIONS", "*", &[], "").status, 204);
}

#[test]
fn older_clients_are_understood() {
    let server = Server::start(&[]);
    created(&server, wb_posted("old"));
    let mut connection = server.connect();
    connection.send("GET /order/old HTTP/1.0\r\n\r\n");
    let reply = connection.reply("GET").expect(200);
    assert_eq!(reply.text(), wb_answered("old"));
    assert!(connection.is_closed_within(SIGNAL_TIME), "HTTP/1.0 closes");
    let mut connection = server.connect();
    for _ in 0..3 {
        connection.send("GET /order/old HTTP/1.0\r\nConnection: keep-alive\r\n\r\n");
        assert_eq!(connection.reply("GET").expect(200).text(), wb_answered("old"));
    }
    // A stream without chunks ends with the connection, whatever the client would rather have. Told otherwise, `ab -k`
    // waits for ever.
    for wish in ["", "Connection: keep-alive\r\n"] {
        let mut connection = server.connect();
        connection.send(format!("GET /api/orders HTTP/1.0\r\nAccept: application/x-ndjson\r\n{wish}\r\n"));
        let reply = connection.reply("GET").expect(200);
        assert_eq!((reply.header("Transfer-Encoding"), reply.text()), (None, (wb_answered("old") + "\n").as_str()));
        let ends = |(name, _): &&(String, String)| name.eq_ignore_ascii_case("connection");
        let said: Vec<&str> = reply.headers.iter().filter(ends).map(|(_, value)| value.as_str()).collect();
        assert_eq!(said, ["close"], "{wish:?}");
    }
    let mut connection = server.connect();
    connection.send("GET /order/old HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
    connection.reply("GET").expect(200);
    assert!(connection.is_closed_within(SIGNAL_TIME));
    // Asked in the absolute form, as through a proxy.
    let mut connection = server.connect();
    connection.send("GET http://orders.test/order/old HTTP/1.1\r\nHost: orders.test\r\n\r\n");
    connection.reply("GET").expect(200);
    // A client that says all it has to say and listens.
    let mut connection = server.connect();
    connection.ask("GET", "/order/old", &[], "");
    connection.socket().shutdown(std::net::Shutdown::Write).unwrap();
    assert_eq!(connection.reply("GET").expect(200).text(), wb_answered("old"));
}

#[test]
fn what_is_no_request_hurts_no_one_else() {
    let server = Server::start(&[]);
    created(&server, wb_posted("x"));
    let mut bystander = server.connect();
    bystander.get("/order/x").expect(200);
    let garbage: [&[u8]; 10] = [
        b"GET\r\n\r\n",
        b"GET /order/x\r\n\r\n",
        b"GET /order/x HTTP/9.9\r\n\r\n",
        b"GET /order/x y HTTP/1.1\r\nHost: x\r\n\r\n",
        b"G\x00T / HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nno colon\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: x\r\nA: \x00\r\n\r\n",
        b"POST /orders HTTP/1.1\r\nHost: x\r\nContent-Length: x\r\n\r\n{}",
        b"POST /orders HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n{}",
        b"POST /orders HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n{}\r\n0\r\n\r\n",
    ];
    for bytes in garbage {
        let mut connection = server.connect();
        connection.send(bytes);
        let reply = connection.reply("GET");
        assert_eq!(reply.status, 400, "{} for {bytes:?}", reply.line);
        no_leak(&reply);
        bystander.get("/order/x").expect(200);
    }
    // Who begins in TLS would not understand an answer, nor who goes on in HTTP/2.
    for bytes in [
        &b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03hello from TLS\r\n\r\n"[..],
        b"GET /ping HTTP/1.1\r\nHost: x\r\n\r\nPRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    ] {
        let mut connection = server.connect();
        connection.send(bytes);
        if bytes.starts_with(b"GET") {
            connection.reply("GET").expect(200);
        }
        assert!(!connection.is_answered());
    }
    until("the service has let go of them", SIGNAL_TIME, || {
        server.get("/metrics").text().lines().any(|line| line == "http_connections 2").then_some(())
    });
    let statuses: HashSet<u16> = (0..5).map(|_| bystander.get("/order/x").status).collect();
    assert_eq!(statuses, HashSet::from([200]));
}

#[test]
fn a_request_with_both_lengths_smuggles_nothing() {
    let server = Server::start(&[]);
    let mut connection = server.connect();
    connection.send("POST /orders HTTP/1.1\r\nHost: x\r\nContent-Length: 6\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\nGET /ping HTTP/1.1\r\nHost: x\r\n\r\n");
    let first = connection.try_reply("POST").expect("an answer");
    assert_eq!(first.status, 400);
}
