//! Keys: what a request shows, what it is told, which scope each route needs, and that a key ends
//! when it is taken out.

use std::time::{Duration, Instant};

use super::*;
use crate::server::{Connection, SIGNAL_TIME, until};
use crate::tls::{Authority, Client, Files, Secured};

const ALL: &[&str] = &["orders:read", "orders:write", "events:read", "metrics:read"];

#[test]
fn each_route_needs_its_scope_and_says_which() {
    let names: [(&str, &[&str], Option<&str>); 6] = [
        ("all", ALL, None),
        ("reader", &["orders:read"], None),
        ("writer", &["orders:write"], None),
        ("listener", &["events:read"], Some("test")),
        ("scraper", &["metrics:read"], None),
        ("none", &[], None),
    ];
    let keys = Keys::new(&names);
    let server = keys.start(&[]);
    keys.post(&server, "writer", "/orders", wb_posted("x")).expect(201);
    for (method, path, scope, allowed) in [
        ("GET", "/order/x", "orders:read", "reader"),
        ("HEAD", "/order/x", "orders:read", "reader"),
        ("GET", "/orders/x", "orders:read", "reader"),
        ("GET", "/api/orders/x", "orders:read", "reader"),
        ("GET", "/api/orders", "orders:read", "reader"),
        ("GET", "/api/orders?ids=x", "orders:read", "reader"),
        ("GET", "/api/stats", "orders:read", "reader"),
        ("POST", "/api/orders/lookup", "orders:read", "reader"),
        ("POST", "/orders", "orders:write", "writer"),
        ("GET", "/metrics", "metrics:read", "scraper"),
        ("GET", "/events", "events:read", "listener"),
    ] {
        for (name, ..) in names {
            let key = keys.bearer(name);
            let fields = [("Authorization", &*key), ("Content-Type", "application/json")];
            let mut connection = server.connect();
            connection.ask(method, path, &fields, if method == "POST" { "[" } else { "" });
            if path == "/events" && (name == allowed || name == "all") {
                connection.try_head().unwrap().expect(200);
                continue;
            }
            let reply = connection.reply(method);
            if name == allowed || name == "all" {
                assert!(matches!(reply.status, 200 | 400), "{method} {path} by {name}: {}", reply.status);
                continue;
            }
            let reply = reply.expect(403);
            let challenge = reply.header("WWW-Authenticate").expect("a challenge");
            assert!(challenge.contains(&format!("error=\"insufficient_scope\", scope=\"{scope}\"")), "{challenge}");
            if method == "HEAD" {
                continue;
            }
            assert_eq!(reply.header("Content-Type"), Some("application/problem+json"));
            let problem = reply.json();
            assert_eq!((&problem["status"], &problem["reason"]), (&403.into(), &"missing_scope".into()));
            assert_eq!(problem["message"], format!("this needs the scope {scope}"));
            assert_eq!(problem["error"], problem["message"]);
        }
    }
    for path in ["/livez", "/readyz", "/health", "/ping", "/", "/static/app.js", "/docs", "/openapi.json", "/unknown"] {
        assert!(!matches!(server.get(path).status, 401 | 403), "{path} needs no key");
    }
    let preflight = [("Origin", "http://a.test"), ("Access-Control-Request-Method", "GET")];
    let preflight = server.request("OPTIONS", "/api/orders", &preflight, "").expect(204);
    let allowed = preflight.header("Access-Control-Allow-Headers").unwrap();
    assert!(allowed.contains("Authorization") && allowed.contains("X-API-Key"), "{allowed}");
    let refusals = server.request("GET", "/metrics", &[("Authorization", &keys.bearer("all"))], "").expect(200);
    assert!(refusals.text().contains("access_refused_total{reason=\"forbidden\"}"), "{}", refusals.text());
}

#[test]
fn what_is_shown_is_a_key_once_or_nothing() {
    let keys = Keys::new(&[("all", ALL, None), ("other", ALL, None)]);
    let server = keys.start(&[]);
    keys.post(&server, "all", "/orders", wb_posted("x")).expect(201);
    let key = keys.key("all");
    let (bearer, other) = (keys.bearer("all"), keys.bearer("other"));
    let lower = format!("bearer  {key} ");
    let good: [&[(&str, &str)]; 5] = [
        &[("Authorization", &bearer)],
        &[("authorization", &lower)],
        &[("X-API-Key", key)],
        &[("x-api-key", key), ("Authorization", &bearer)],
        &[("X-API-Key", key), ("TE", "trailers")],
    ];
    for fields in good {
        let reply = server.request("GET", "/order/x", fields, "").expect(200);
        assert_eq!(reply.text(), wb_answered("x"));
    }
    let missing = server.get("/order/x").expect(401);
    assert_eq!(missing.json()["reason"], "missing_credentials");
    assert_eq!(missing.header("WWW-Authenticate"), Some("Bearer realm=\"order-service\""));
    assert!(missing.header("X-Request-Id").is_some());
    let long = format!("Bearer {}", "x".repeat(20_000));
    let bad: [&[(&str, &str)]; 8] = [
        &[("Authorization", "Bearer osk_wrong")],
        &[("Authorization", "Basic dXNlcjpwYXNz")],
        &[("Authorization", key)],
        &[("Authorization", "Bearer ")],
        &[("Authorization", &bearer), ("Authorization", &bearer)],
        &[("Authorization", &other), ("X-API-Key", key)],
        &[("X-API-Key", "")],
        &[("Authorization", &long)],
    ];
    for fields in bad {
        // Five failed attempts a second are all that an address has.
        let reply = until("it is told", SIGNAL_TIME, || {
            let reply = server.request("GET", "/order/x", fields, "");
            (reply.status != 429).then_some(reply)
        });
        let reply = reply.expect(401);
        assert_eq!(reply.json()["reason"], "invalid_credentials", "{fields:?}");
        assert!(reply.header("WWW-Authenticate").unwrap().contains("error=\"invalid_token\""), "{fields:?}");
        let text = String::from_utf8_lossy(&reply.head).into_owned() + reply.text();
        assert!(!text.contains(key) && !text.contains("osk_"), "{text}");
    }
    let text = server.request("GET", "/order/x", &[("Accept", "text/plain")], "").expect(401);
    assert_eq!(text.header("Content-Type"), Some("text/plain; charset=utf-8"));
    assert_eq!(text.text().lines().count(), 1, "{}", text.text());
    // A body that was sent with it is no next request.
    let mut connection = server.connect();
    connection.ask("POST", "/orders", &[("Content-Type", "application/json")], wb_posted("y"));
    connection.reply("POST").expect(401);
    until("a good key is let in", SIGNAL_TIME, || {
        (connection.request("GET", "/order/x", &[("Authorization", &bearer)], "").status == 200).then_some(())
    });
    assert!(!server.log().iter().any(|line| line.contains(key)), "no key is in the log");
}

/// The answers of the fast path are those of the slow one.
#[test]
fn a_key_changes_nothing_about_an_answer() {
    let keys = Keys::new(&[("all", ALL, None)]);
    let (guarded, open) = (keys.start(&[]), Server::start(&[]));
    keys.post(&guarded, "all", "/orders", wb_posted("x")).expect(201);
    created(&open, wb_posted("x"));
    let bearer = keys.bearer("all");
    let mut connection = guarded.connect();
    for path in ["/order/x", "/orders/x", "/api/orders/x"] {
        for _ in 0..3 {
            let reply = connection.request("GET", path, &[("Authorization", &bearer)], "").expect(200);
            let plain = open.get(path).expect(200);
            assert_eq!(reply.body, plain.body);
            // The first on a thread is let in by hyper's way, which gives it an id.
            let names = |reply: &Reply| {
                let names = reply.headers.iter().map(|(name, _)| name.clone());
                names.filter(|name| name != "x-request-id").collect::<Vec<_>>()
            };
            assert_eq!(names(&reply), names(&plain));
        }
    }
    let metrics = guarded.request("GET", "/metrics", &[("Authorization", &bearer)], "").expect(200);
    let hits = metrics.text().lines().find_map(|line| line.strip_prefix("cache_hits_total ")).expect("counted");
    assert!(hits.parse::<f64>().unwrap() >= 9.0, "{hits}");
}

#[test]
fn a_key_that_is_taken_out_ends_within_a_second_and_its_stream_with_it() {
    // A machine that does much else may hold one of them up for longer than it takes, and not each.
    const GOING: [&str; 3] = ["first", "second", "third"];
    let mut keys =
        Keys::new(&[("stays", ALL, None), (GOING[0], ALL, None), (GOING[1], ALL, None), (GOING[2], ALL, None)]);
    let server = keys.start(&[]);
    keys.post(&server, "stays", "/orders", wb_posted("x")).expect(201);
    let stays = keys.bearer("stays");
    let open = |key: &str| {
        let mut stream = server.connect();
        stream.ask("GET", "/events", &[("Authorization", key)], "");
        stream.try_head().unwrap().expect(200);
        stream.chunk().unwrap().expect("a greeting");
        stream
    };
    let mut staying = open(&stays);
    let mut reader = server.connect();
    let read =
        |reader: &mut Connection, key: &str| reader.request("GET", "/order/x", &[("Authorization", key)], "").status;
    let mut times = Vec::new();
    for name in GOING {
        let goes = keys.bearer(name);
        let mut going = open(&goes);
        assert_eq!((read(&mut reader, &goes), read(&mut reader, &stays)), (200, 200));
        keys.remove(name);
        keys.write();
        let gone = Instant::now();
        until("the key is refused", SIGNAL_TIME, || (read(&mut reader, &goes) != 200).then_some(()));
        while going.chunk().unwrap().is_some() {}
        times.push(gone.elapsed());
        assert_eq!(read(&mut reader, &stays), 200);
    }
    // It is a second where nothing holds it up.
    assert!(times.iter().min() < Some(&Duration::from_secs(10)), "{times:?}");
    keys.post(&server, "stays", "/orders", wb_posted("y")).expect(201);
    let event = staying.chunk().unwrap().expect("the other stream goes on");
    assert!(String::from_utf8_lossy(&event).contains("\"order_uid\":\"y\""), "{event:?}");
}

#[test]
fn a_bad_new_file_is_reported_and_the_old_keys_stay() {
    let keys = Keys::new(&[("all", ALL, None)]);
    let server = keys.start(&[]);
    keys.get(&server, "all", "/api/stats").expect(200);
    std::fs::write(keys.path(), "[[key]]\nname = 'broken'").unwrap();
    until("it is reported", SIGNAL_TIME, || {
        server
            .log()
            .iter()
            .any(|line| line.contains("the keys read before stay") && line.contains("broken"))
            .then_some(())
    });
    keys.get(&server, "all", "/api/stats").expect(200);
    std::fs::write(keys.path(), "").unwrap();
    until("it is reported", SIGNAL_TIME, || {
        server.log().iter().any(|line| line.contains("there is no [[key]] in it")).then_some(())
    });
    keys.get(&server, "all", "/api/stats").expect(200);
    let mut new = Keys::new(&[("new", ALL, None)]);
    std::fs::copy(new.path(), keys.path()).unwrap();
    server.signal(rustix::process::Signal::HUP);
    until("the new key is known", SIGNAL_TIME, || (new.get(&server, "new", "/api/stats").status == 200).then_some(()));
    assert_ne!(keys.get(&server, "all", "/api/stats").status, 200);
    new.remove("new");
}

/// It would hear of everyone's.
#[test]
fn changes_of_all_orders_are_for_who_may_read_all() {
    let keys = Keys::new(&[("ownerless", &["events:read"], None)]);
    let server = keys.start(&[]);
    let refused = keys.get(&server, "ownerless", "/events").expect(403);
    assert_eq!(refused.json()["message"], "this needs the scope orders:read");
    assert_eq!(keys.get(&server, "ownerless", "/api/whoami").expect(200).json()["events"], serde_json::Value::Null);
}

#[test]
fn who_asks_is_told_who_they_are() {
    let keys = Keys::new(&[("shop", &["orders:read:own", "events:read"], Some("test"))]);
    let server = keys.start(&[]);
    let told = keys.get(&server, "shop", "/api/whoami").expect(200).json();
    assert_eq!((&told["name"], &told["owner"], &told["by"]), (&"shop".into(), &"test".into(), &"key".into()));
    assert_eq!(
        (&told["read"], &told["write"], &told["events"]),
        (&"own".into(), &serde_json::Value::Null, &"own".into())
    );
    server.get("/api/whoami").expect(401);
    let open = Server::start(&[]).get("/api/whoami").expect(200).json();
    assert_eq!(open, serde_json::json!({"authentication": false}));
}

/// A certificate says who a client is, and the file of keys what they may do.
#[test]
fn a_client_certificate_is_a_key_where_its_subject_is_one() {
    let keys = Files::new();
    let entry = "[[key]]\nname = \"shop\"\ncertificate = \"O=Tests,CN=shop\"\nscopes = [\"orders:read\"]\n";
    let path = keys.write("keys.toml", entry);
    let flags = ["--auth-keys", &path, "--tls-client-ca", "{ca}", "--tls-client-auth", "optional"];
    let secured = Secured::start_with(Authority::new("Test CA"), &flags);
    let status = |client: Client| {
        let mut connection = client.connect(secured.address()).unwrap();
        let (head, _) = connection.get("/api/stats");
        head.split(' ').nth(1).unwrap().to_owned()
    };
    let shown = |name| secured.client().showing(secured.authority.sign_client(name));
    assert_eq!(status(shown("shop")), "200");
    assert_eq!(status(shown("other")), "401");
    assert_eq!(status(secured.client()), "401");
    // It is taken out as any other key is.
    keys.write("keys.toml", &entry.replace("CN=shop", "CN=else"));
    until("the key has ended", SIGNAL_TIME, || (status(shown("shop")) == "401").then_some(()));
    assert_eq!(status(shown("else")), "200");
}
