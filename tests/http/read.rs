//! Reading one order: exact answers in both faces, every spelling of an id, conditional reads, what is not there.

use super::*;
use crate::server::{Connection, SIGNAL_TIME, Server, until};

#[test]
fn an_order_is_answered_byte_for_byte_as_posted_without_white_space() {
    let server = Server::start(&[]);
    let posted = server.post("/orders", wb_posted("b563feb7b2b84b6test")).expect(201);
    assert_eq!(posted.text(), r#"{"order_id":"b563feb7b2b84b6test","status":"created"}"#);
    assert_eq!(posted.header("ETag"), Some("\"1\""));
    let flat = wb_answered("b563feb7b2b84b6test");
    let wrapped = format!("{{\"order\":{flat}}}");
    for (path, body) in [
        ("/order/b563feb7b2b84b6test", &flat),
        ("/api/orders/b563feb7b2b84b6test", &flat),
        ("/orders/b563feb7b2b84b6test", &wrapped),
    ] {
        let reply = server.get(path).expect(200);
        assert_eq!(reply.text(), body, "{path}");
        assert_eq!(reply.line, "HTTP/1.1 200 OK");
        assert_eq!(reply.header("Content-Type"), Some("application/json"));
        assert_eq!(reply.header("Content-Length"), Some(body.len().to_string().as_str()));
        assert_eq!(reply.header("ETag"), Some("\"1\""));
        assert_eq!(reply.header("Cache-Control"), Some("no-cache"));
        let date = reply.header("Date").expect("a date");
        assert!(date.ends_with(" GMT") && date.len() == 29, "{date}");
        assert_eq!(reply.header("Transfer-Encoding"), None);
        let mut names: Vec<_> = reply.headers.iter().map(|(name, _)| name.to_lowercase()).collect();
        names.sort();
        names.dedup();
        assert_eq!(names.len(), reply.headers.len(), "no header twice: {:?}", reply.headers);
    }
}

#[test]
fn a_uuid_in_any_spelling_is_the_same_id() {
    let server = Server::start(&[]);
    let id = "0190a6f0-1234-7abc-8def-0123456789ab";
    let order = format!(r#"{{"order_id":"{id}","user_id":"{USER}","payload":{{}}}}"#);
    // An id that the client chose is an update of an order that is not there; the service makes ids.
    server.post("/orders", &order).expect(404);
    let id = created(&server, envelope("{}"));
    let bare = id.replace('-', "");
    for spelling in [id.clone(), id.to_uppercase(), bare.clone(), bare.to_uppercase()] {
        let reply = server.get(&format!("/order/{spelling}")).expect(200);
        assert_eq!(reply.json()["order_uid"], id.as_str(), "{spelling}");
        server.get(&format!("/orders/{spelling}")).expect(200);
        let lookup = server.get(&format!("/api/orders?ids={spelling}")).expect(200);
        assert_eq!(lookup.header("X-Missing"), Some("0"), "{spelling}");
    }
    let update =
        format!(r#"{{"order_id":"{}","user_id":"{USER}","status":"done","payload":{{}}}}"#, bare.to_uppercase());
    let updated = server.post("/orders", update).expect(200);
    assert_eq!(updated.json(), serde_json::json!({"order_id": id, "status": "updated"}));
    assert_eq!(server.get(&format!("/order/{id}")).expect(200).json()["status"], "done");
}

#[test]
fn a_wb_order_named_by_a_uuid_answers_to_every_spelling() {
    let server = Server::start(&[]);
    let id = "0190A6F0-1234-7ABC-8DEF-0123456789AB";
    server.post("/orders", wb_posted(id)).expect(201);
    for spelling in [id.to_owned(), id.to_lowercase(), id.replace('-', "")] {
        // The body is the producer's own, so it keeps the producer's spelling.
        assert_eq!(server.get(&format!("/order/{spelling}")).expect(200).text(), wb_answered(id), "{spelling}");
    }
    let again = server.post("/orders", wb_posted(&id.to_lowercase())).expect(200).json();
    assert_eq!(again["status"], "updated");
    assert_eq!(server.get("/api/stats").json()["total_orders"], 1);
}

#[test]
fn an_unknown_id_is_404_and_an_illegal_one_400() {
    let server = Server::start(&[]);
    let longest = "a".repeat(128);
    let too_long = "a".repeat(129);
    for face in ["/order/", "/orders/", "/api/orders/"] {
        for id in ["unknown", longest.as_str(), "a.b_c:d-E", "0190a6f0-1234-7abc-8def-0123456789ab"] {
            let reply = server.get(&format!("{face}{id}")).expect(404);
            assert_eq!(reply.header("Content-Type"), Some("application/problem+json"));
            assert_eq!(reply.json()["reason"], "not_found", "{face}{id}");
        }
        for id in [
            too_long.as_str(),
            "a%20b",
            "a%2Fb",
            "a%00b",
            "%d0%b0",
            "%ff",
            "a%0Ab",
            "a+b",
            "a@b",
            "a%",
            "a%2",
            ".",
            "..",
            "%2e%2E",
        ] {
            let reply = server.get(&format!("{face}{id}")).expect(400);
            assert_eq!(reply.json()["reason"], "invalid_id", "{face}{id}");
        }
        assert_eq!(server.get(face).expect(400).json()["reason"], "invalid_id", "{face}");
    }
    created(&server, wb_posted("a.b_c:d-E"));
    for spelling in ["a.b_c:d-E", "a%2Eb_c%3ad-E", "%61.b%5fc:d-E"] {
        server.get(&format!("/order/{spelling}")).expect(200);
    }
    server.get("/order/a.b_c:d-e").expect(404);
}

#[test]
fn head_is_get_without_a_body() {
    let server = Server::start(&[]);
    created(&server, wb_posted("h1"));
    let mut connection = server.connect();
    for path in [
        "/order/h1",
        "/orders/h1",
        "/api/orders/h1",
        "/order/none",
        "/order/%20",
        "/health",
        "/api/orders",
        "/api/stats",
        "/",
    ] {
        let get = connection.get(path);
        let head = connection.request("HEAD", path, &[], "");
        assert_eq!(head.status, get.status, "{path}");
        let but_volatile = |reply: &crate::server::Reply| {
            let mut headers = reply.headers.clone();
            headers.retain(|(name, _)| name != "date" && name != "x-request-id");
            headers
        };
        assert_eq!(but_volatile(&head), but_volatile(&get), "{path}");
        assert!(head.header("Content-Length").is_some(), "{path}");
    }
}

#[test]
fn a_known_version_is_304() {
    let server = Server::start(&[]);
    created(&server, wb_posted("e1"));
    let ask = |path: &str, known: &str| server.request("GET", path, &[("If-None-Match", known)], "");
    for path in ["/order/e1", "/orders/e1", "/api/orders/e1"] {
        for known in ["\"1\"", "W/\"1\"", "\"1-gzip\"", "W/\"1-gzip\"", "*", "\"0\", \"1\"", "\"7\",\"1-gzip\" , \"9\""]
        {
            let reply = ask(path, known).expect(304);
            assert_eq!(reply.header("ETag"), Some("\"1\""), "{known}");
            assert_eq!(reply.header("Cache-Control"), Some("no-cache"));
            assert!(reply.header("Date").is_some());
            assert_eq!(reply.header("Content-Type"), None);
        }
        for other in ["\"2\"", "\"11\"", "\"1-x\"", "\"\"", "\"7\", \"9-gzip\""] {
            assert_eq!(ask(path, other).expect(200).header("ETag"), Some("\"1\""), "{other}");
        }
    }
    assert_eq!(server.request("HEAD", "/order/e1", &[("If-None-Match", "\"1\"")], "").status, 304);
    // Several fields of one name are one list.
    let both = [("If-None-Match", "\"5\""), ("If-None-Match", "\"1\"")];
    assert_eq!(server.request("GET", "/order/e1", &both, "").status, 304);
    server.post("/orders", wb_posted("e1").replace("\"sale\": 30", "\"sale\": 31")).expect(200);
    assert_eq!(ask("/order/e1", "\"1\"").expect(200).header("ETag"), Some("\"2\""));
    assert_eq!(ask("/order/none", "*").status, 404);
}

#[test]
fn a_deleted_envelope_stays_readable_by_its_id_alone() {
    stays_readable("");
}

/// Clients of the older services send a payload with a deletion, often an empty one: it marks and
/// changes nothing else.
#[test]
fn a_deletion_keeps_payload_and_amount_whatever_comes_with_it() {
    for with in [
        r#","payload":{}"#,
        r#","payload":{"id":"ext-2","amount":7,"items":[{"price":1,"qty":1}]}"#,
        r#","payload_json":"{\"id\":\"ext-2\"}""#,
        r#","payload_json":{}"#,
    ] {
        stays_readable(with);
    }
}

fn stays_readable(with: &str) {
    let mut server = Server::start(&[]);
    let gone = created(&server, envelope(r#"{"id":"ext-1","amount":5}"#));
    let kept = created(&server, envelope(r#"{"id":"ext-2","amount":5}"#));
    let created_at = server.get(&format!("/order/{gone}")).json()["created_at"].clone();
    let delete = format!(r#"{{"order_id":"{gone}","user_id":"{USER}","status":"deleted"{with}}}"#);
    let deleted = server.post("/orders", &delete).expect(200);
    assert_eq!(deleted.json(), serde_json::json!({"order_id": gone, "status": "deleted"}));
    assert_eq!(deleted.header("ETag"), Some("\"2\""));
    let shown = server.get(&format!("/order/{gone}")).json();
    assert_eq!((&shown["amount"], &shown["user_id"]), (&serde_json::json!(5), &serde_json::json!(USER)), "{with}");
    assert_eq!(shown["created_at"], created_at);
    for path in ["/order/", "/orders/", "/api/orders/"] {
        let reply = server.get(&format!("{path}{gone}")).expect(200);
        assert!(reply.text().contains("\"status\":\"deleted\""), "{}", reply.text());
        assert!(reply.text().contains("\"payload\":{\"id\":\"ext-1\",\"amount\":5}"), "{}", reply.text());
        assert_eq!(reply.header("ETag"), Some("\"2\""));
    }
    let lookup = server.get(&format!("/api/orders?ids={gone},{kept}")).expect(200);
    assert_eq!(lookup.header("X-Missing"), Some("1"));
    assert_eq!(lookup.json().as_array().unwrap().len(), 1);
    server.get(&format!("/orders/by-external/ext-1?user_id={USER}")).expect(404);
    server.get(&format!("/orders/by-external/ext-2?user_id={USER}")).expect(200);
    until("the list is without it", SIGNAL_TIME, || {
        let list = server.get("/api/orders").expect(200).json();
        (list.as_array().unwrap().len() == 1 && list[0]["order_id"] == kept.as_str()).then_some(())
    });
    assert_eq!(server.get("/api/stats").json()["total_orders"], 1);
    let all = server.request("GET", "/api/orders", &[("Accept", "application/x-ndjson")], "");
    assert_eq!(all.text().lines().count(), 1);
    let change = format!(r#"{{"order_id":"{gone}","user_id":"{USER}","status":"new","payload":{{}}}}"#);
    // Terminal: nothing brings it back, and its version stays.
    for write in [&delete, &change] {
        let conflict = server.post("/orders", write).expect(409);
        assert_eq!(conflict.json(), serde_json::json!({"order_id": gone, "status": "deleted"}));
    }
    assert_eq!(server.get(&format!("/order/{gone}")).expect(200).header("ETag"), Some("\"2\""));
    let before = server.get(&format!("/order/{gone}")).body;
    server.restart();
    assert_eq!(server.get(&format!("/order/{gone}")).expect(200).body, before, "from the store");
}

#[test]
fn a_deleted_wb_order_is_410() {
    let mut server = Server::start(&[]);
    created(&server, wb_posted("w1"));
    let deleted = server.post("/orders", r#"{"order_id":"w1","status":"deleted"}"#).expect(200);
    assert_eq!(deleted.json(), serde_json::json!({"order_id": "w1", "status": "deleted"}));
    for _ in 0..2 {
        for path in ["/order/w1", "/orders/w1", "/api/orders/w1"] {
            let reply = server.get(path).expect(410);
            assert_eq!(reply.header("Content-Type"), Some("application/problem+json"));
            assert_eq!(reply.json()["reason"], "deleted");
            assert_eq!(reply.json()["status"], 410);
        }
        let lookup = server.get("/api/orders?ids=w1").expect(200);
        assert_eq!((lookup.text(), lookup.header("X-Missing")), ("[]", Some("1")));
        assert_eq!(server.get("/api/stats").json()["total_orders"], 0);
        let conflict = server.post("/orders", wb_posted("w1")).expect(409);
        assert_eq!(conflict.json(), serde_json::json!({"order_id": "w1", "status": "deleted"}));
        server.restart();
    }
}

#[test]
fn an_order_is_found_by_its_users_external_id() {
    let mut server = Server::start(&[]);
    let other = "22222222-2222-4333-8444-555555555555";
    let old = created(&server, envelope(r#"{"id":"A-1"}"#));
    let newest = created(&server, envelope(r#"{"id":"A-1","n":2}"#));
    let others = created(&server, envelope(r#"{"id":"A-1"}"#).replace(USER, other));
    let odd = created(&server, envelope(r#"{"id":"a b/ж?"}"#));
    created(&server, wb_posted("A-1"));
    let found = find_on(&server, "A-1", USER).expect(200);
    assert_eq!(found.json()["order"]["order_id"], newest.as_str());
    assert!(found.text().starts_with("{\"order\":{\"order_uid\":\""), "{}", found.text());
    assert_eq!(found.header("ETag"), Some(format!("\"{newest}-1\"").as_str()));
    assert_eq!(found.header("Content-Type"), Some("application/json"));
    assert_eq!(find_on(&server, "A-1", &USER.replace('-', "").to_uppercase()).expect(200).body, found.body);
    assert_eq!(find_on(&server, "A-1", other).expect(200).json()["order"]["order_id"], others.as_str());
    assert_eq!(find_on(&server, "a%20b%2F%D0%B6%3F", USER).expect(200).json()["order"]["order_id"], odd.as_str());
    find_on(&server, "A-2", USER).expect(404);
    for wrong in ["?user_id=", "?user_id=7", "?user=x", ""] {
        server.get(&format!("/orders/by-external/A-1{wrong}")).expect(400);
    }
    server.post("/orders", format!(r#"{{"order_id":"{newest}","user_id":"{USER}","status":"deleted"}}"#)).expect(200);
    assert_eq!(find_on(&server, "A-1", USER).expect(200).json()["order"]["order_id"], old.as_str());
    // The payload's id decides, whatever it was before.
    server
        .post("/orders", format!(r#"{{"order_id":"{old}","user_id":"{USER}","payload":{{"id":"A-9"}}}}"#))
        .expect(200);
    find_on(&server, "A-1", USER).expect(404);
    let etag = format!("\"{old}-2\"");
    assert_eq!(find_on(&server, "A-9", USER).expect(200).header("ETag"), Some(etag.as_str()));
    server
        .post("/orders", format!(r#"{{"order_id":"{old}","user_id":"{USER}","payload":{{"id":"A-1"}}}}"#))
        .expect(200);
    find_on(&server, "A-9", USER).expect(404);
    assert_eq!(find_on(&server, "A-1", USER).expect(200).header("ETag"), Some(format!("\"{old}-3\"").as_str()));
    // A number is known by its own spelling.
    let number = created(&server, envelope(r#"{"id":1.50}"#));
    assert_eq!(find_on(&server, "1.50", USER).expect(200).json()["order"]["order_id"], number.as_str());
    find_on(&server, "1.5", USER).expect(404);
    // From memory again after a start, and not from there before all orders are.
    server.restart();
    for (external, id) in [("A-1", &old), ("1.50", &number), ("a%20b%2F%D0%B6%3F", &odd)] {
        assert_eq!(find_on(&server, external, USER).expect(200).json()["order"]["order_id"], id.as_str());
    }
    find_on(&server, "A-9", USER).expect(404);
}

fn find_on(server: &Server, external: &str, user: &str) -> crate::server::Reply {
    server.get(&format!("/orders/by-external/{external}?user_id={user}"))
}

#[test]
fn a_reader_can_ask_for_a_least_version() {
    let server = Server::start(&["--read-version-wait", "60s"]);
    created(&server, wb_posted("v1"));
    let ask = |version: &str, path: &str| server.request("GET", path, &[("X-Min-Version", version)], "");
    for path in ["/order/v1", "/orders/v1"] {
        ask("1", path).expect(200);
        ask("0", path).expect(200);
    }
    for wrong in ["x", "-1", "1.5", ""] {
        ask(wrong, "/order/v1").expect(400);
    }
    // A write that comes while the reader waits is what it gets.
    let mut waiting = server.connect();
    waiting.ask("GET", "/order/v1", &[("X-Min-Version", "2")], "");
    waiting.until_read();
    server.post("/orders", wb_posted("v1").replace("\"sale\": 30", "\"sale\": 31")).expect(200);
    let reply = waiting.reply("GET").expect(200);
    assert_eq!(reply.header("ETag"), Some("\"2\""));
    assert!(reply.text().contains("\"sale\":31"));
    let server = Server::start(&["--read-version-wait", "100ms"]);
    created(&server, wb_posted("v1"));
    let reply = server.request("GET", "/order/v1", &[("X-Min-Version", "9")], "").expect(412);
    assert_eq!(reply.header("Content-Type"), Some("application/problem+json"));
    server.request("GET", "/order/none", &[("X-Min-Version", "1")], "").expect(412);
}

#[test]
fn orders_survive_a_stop_and_a_kill() {
    let mut server = Server::start(&[]);
    let id = created(&server, envelope(r#"{ "amount" : 1.50 }"#));
    created(&server, wb_posted("s1"));
    server.post("/orders", wb_posted("s1").replace("\"sale\": 30", "\"sale\": 31")).expect(200);
    let before = server.get(&format!("/order/{id}")).expect(200);
    for turn in 0..2 {
        if turn == 0 {
            server.restart();
        } else {
            server.kill9();
        }
        let after = server.get(&format!("/order/{id}")).expect(200);
        assert_eq!((&after.body, after.header("ETag")), (&before.body, before.header("ETag")));
        let wb = server.get("/order/s1").expect(200);
        assert_eq!(wb.text(), wb_answered("s1").replace("\"sale\":30", "\"sale\":31"));
        assert_eq!(wb.header("ETag"), Some("\"2\""));
    }
}

#[test]
fn an_address_without_a_host_is_every_one_of_this_host() {
    let server = Server::start(&["--listen", ":0"]);
    let port = until("the log names the second address", SIGNAL_TIME, || {
        let lines = server.log();
        let serving = lines.iter().find(|line| line.contains("\"serving\""))?;
        let serving: serde_json::Value = serde_json::from_str(serving).unwrap();
        serving["listen"].as_str()?.split(' ').nth(1)?.rsplit(':').next()?.parse::<u16>().ok()
    });
    let mut hosts = vec![std::net::IpAddr::from(std::net::Ipv4Addr::LOCALHOST)];
    if std::net::TcpListener::bind((std::net::Ipv6Addr::LOCALHOST, 0)).is_ok() {
        hosts.push(std::net::Ipv6Addr::LOCALHOST.into());
    }
    for host in hosts {
        Connection::open((host, port).into()).get("/ping").expect(200);
    }
}
