//! Many orders: the list and its pages, everything as lines, look-ups of some, totals.

use std::collections::HashSet;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Instant;

use serde_json::{Value, json};

use order_service::http::paging::cursor;

use super::*;
use crate::server::{Connection, Reply, SIGNAL_TIME, Server, until};

/// The ids of a JSON array of orders.
fn ids(list: &Reply) -> Vec<String> {
    let list: Vec<Value> = serde_json::from_slice(&list.body).expect("a JSON array");
    list.iter().map(|order| order["order_uid"].as_str().unwrap().to_owned()).collect()
}

/// Where the next page is.
fn next(list: &Reply) -> Option<String> {
    let (url, relation) = list.header("Link")?.split_once('>').expect("<…>; rel=…");
    assert_eq!(relation, "; rel=\"next\"");
    Some(url.strip_prefix('<').expect("<…>").to_owned())
}

/// Follows the links from a path to the last page; the ids of each page.
fn pages(connection: &mut Connection, path: &str) -> Vec<Vec<String>> {
    let mut pages = Vec::new();
    let mut path = Some(path.to_owned());
    while let Some(from) = path {
        let page = connection.get(&from).expect(200);
        pages.push(ids(&page));
        path = next(&page);
        assert!(pages.len() < 1000, "the pages never end");
    }
    pages
}

/// Waits until the list shows this many orders on its first page.
fn until_listed(server: &Server, count: usize) {
    until("the list is complete", SIGNAL_TIME, || (ids(&server.get("/api/orders")).len() == count).then_some(()));
}

#[test]
fn an_empty_list_is_an_empty_array() {
    let server = Server::start(&[]);
    let list = server.get("/api/orders").expect(200);
    assert_eq!((list.text(), list.header("Content-Type")), ("[]", Some("application/json")));
    assert_eq!((list.header("Content-Length"), list.header("Link")), (Some("2"), None));
    assert_eq!(server.get("/api/orders?limit=5").expect(200).text(), "[]");
    let lines = server.request("GET", "/api/orders", &[("Accept", "application/x-ndjson")], "").expect(200);
    assert_eq!((lines.text(), lines.header("Content-Type")), ("", Some("application/x-ndjson")));
    let stats = server.get("/api/stats").expect(200);
    assert!(stats.text().starts_with("{\"total_orders\":0,"), "{}", stats.text());
    assert_eq!(stats.header("Content-Type"), Some("application/json"));
}

#[test]
fn the_newest_orders_come_first_as_they_were_posted() {
    let mut server = Server::start(&[]);
    for n in 0..5 {
        created(&server, wb_posted(&format!("n{n}")));
    }
    // A change does not make an order newer.
    server.post("/orders", wb_posted("n1").replace("1817", "1818")).expect(200);
    let bodies: Vec<String> = ["n4", "n3", "n2", "n1", "n0"]
        .map(|id| if id == "n1" { wb_answered(id).replace("1817", "1818") } else { wb_answered(id) })
        .into();
    let expected = format!("[{}]", bodies.join(","));
    for turn in 0..2 {
        until("the list is up to date", SIGNAL_TIME, || (server.get("/api/orders").text() == expected).then_some(()));
        let list = server.get("/api/orders").expect(200);
        assert_eq!(list.header("Content-Length"), Some(expected.len().to_string().as_str()));
        assert_eq!((list.header("Link"), list.header("Cache-Control")), (None, Some("no-cache")));
        // Right after a start the same list may be made once more, with another tag.
        until("its tag is known", SIGNAL_TIME, || {
            let list = server.get("/api/orders");
            let etag = list.header("ETag").expect("a tag");
            (server.request("GET", "/api/orders", &[("If-None-Match", etag)], "").status == 304).then_some(())
        });
        let lines = server.request("GET", "/api/orders", &[("Accept", "application/x-ndjson")], "").expect(200);
        let lines: HashSet<&str> = lines.text().lines().collect();
        assert_eq!(lines, bodies.iter().map(String::as_str).collect());
        if turn == 0 {
            server.restart();
        }
    }
}

#[test]
fn links_lead_through_all_orders_without_a_gap_or_a_double() {
    let server = Server::start(&[]);
    post_lines(&server, &wb_lines("p", 2500));
    until("the newest order is listed", SIGNAL_TIME, || {
        ids(&server.get("/api/orders")).first().is_some_and(|first| first == "p-2499").then_some(())
    });
    let expected: Vec<String> = (0..2500).rev().map(|n| format!("p-{n}")).collect();
    let mut connection = server.connect();
    for (path, sizes) in [
        ("/api/orders", vec![1000, 1000, 500]),
        ("/api/orders?limit=700", vec![700, 700, 700, 400]),
        ("/api/orders?limit=1250", vec![1000, 1000, 500]),
        ("/api/orders?limit=500", vec![500; 5]),
        ("/api/orders?limit=1000000", vec![1000, 1000, 500]),
    ] {
        let pages = pages(&mut connection, path);
        assert_eq!(pages.iter().map(Vec::len).collect::<Vec<_>>(), sizes, "{path}");
        assert!(pages.concat() == expected, "{path}");
    }
    assert_eq!(ids(&connection.get("/api/orders?limit=1")), ["p-2499"]);
    let lines = server.request("GET", "/api/orders", &[("Accept", "application/x-ndjson")], "").expect(200);
    assert_eq!(lines.text().lines().count(), 2500);
    assert_eq!(connection.get("/api/stats").json()["total_orders"], 2500);
}

#[test]
fn paging_while_orders_arrive_misses_none_that_were_there() {
    let server = Server::start(&["--list-max", "100"]);
    post_lines(&server, &wb_lines("old", 1000));
    // The list may trail what was answered by a moment; what it shows first is where the paging starts.
    until("the newest order is listed", SIGNAL_TIME, || {
        ids(&server.get("/api/orders")).first().is_some_and(|first| first == "old-999").then_some(())
    });
    let (done, written) = (AtomicBool::new(false), AtomicUsize::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            let mut n = 0;
            while !done.load(Ordering::Relaxed) {
                post_lines(&server, &wb_lines(&format!("new-{n}"), 20));
                // A change of what is paged through moves nothing.
                let changed = wb_posted(&format!("old-{}", n * 7 % 1000)).replace("1817", &n.to_string());
                server.post("/orders", changed).expect(200);
                n += 1;
                written.store(n, Ordering::Relaxed);
            }
        });
        let _done = SetOnDrop(&done); // also when an assertion fails, or the writer would go on for ever
        let end = Instant::now() + SIGNAL_TIME;
        let mut times = 0;
        while times < 3 || written.load(Ordering::Relaxed) < 10 {
            assert!(Instant::now() < end, "orders arrive");
            times += 1;
            let all = pages(&mut server.connect(), "/api/orders?limit=90").concat();
            let distinct: HashSet<&str> = all.iter().map(String::as_str).collect();
            assert_eq!(distinct.len(), all.len(), "no order twice");
            let old = all.iter().filter(|id| id.starts_with("old-"));
            assert!(old.eq(&(0..1000).rev().map(|n| format!("old-{n}")).collect::<Vec<_>>()), "none is missing");
        }
    });
}

/// Ends a writer however its test ends.
struct SetOnDrop<'a>(&'a AtomicBool);

impl Drop for SetOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
    }
}

#[test]
fn the_last_page_has_no_link() {
    let server = Server::start(&["--list-max", "10"]);
    post_lines(&server, &wb_lines("x", 10));
    until_listed(&server, 10);
    assert_eq!(next(&server.get("/api/orders")), None);
    assert_eq!(pages(&mut server.connect(), "/api/orders?limit=5").iter().map(Vec::len).collect::<Vec<_>>(), [5, 5]);
    post_lines(&server, &wb_lines("y", 1));
    until("a second page", SIGNAL_TIME, || next(&server.get("/api/orders")));
    assert_eq!(pages(&mut server.connect(), "/api/orders").iter().map(Vec::len).collect::<Vec<_>>(), [10, 1]);
}

#[test]
fn wrong_limits_and_cursors_are_400() {
    let server = Server::start(&[]);
    created(&server, wb_posted("x"));
    for query in [
        "limit=0",
        "limit=-1",
        "limit=x",
        "limit=",
        "limit=1.5",
        "cursor=",
        "cursor=!",
        "cursor=%00",
        "cursor=zzzzzzzzzzzzzzzzzzzzzz",
        "cursor=1y2p0ij32e8e8",
        "cursor=ABC",
        "cursor=01",
    ] {
        let reply = server.get(&format!("/api/orders?{query}")).expect(400);
        assert_eq!(reply.header("Content-Type"), Some("application/problem+json"), "{query}");
    }
    // A cursor that was right once stays right; one that was cut or altered is none.
    let right = cursor(0);
    server.get(&format!("/api/orders?cursor={right}")).expect(200);
    for wrong in [&right[..14], &right[1..], "0", &right.replace('1', "2"), &format!("{right}0")] {
        let told = server.get(&format!("/api/orders?cursor={wrong}")).expect(400).json();
        assert_eq!(told["reason"], "invalid_cursor", "{wrong}");
        assert!(told["message"].as_str().unwrap().starts_with("cursor "), "{told}");
    }
}

#[test]
fn everything_is_streamed_as_fast_as_the_client_reads() {
    let server = Server::start(&["--sample", "12000", "--http-write-time", "10m"]);
    let mut slow = server.connect();
    slow.ask("GET", "/api/orders", &[("Accept", "application/x-ndjson")], "");
    assert_eq!(slow.try_head().unwrap().header("Transfer-Encoding"), Some("chunked"));
    // Meanwhile the store is written to and others are served.
    let mut other = server.connect();
    for n in 0..50 {
        other.request("POST", "/orders", &[], wb_answered(&format!("late-{n}"))).expect(201);
        other.get(&format!("/order/late-{n}")).expect(200);
    }
    let mut lines = Vec::new();
    while let Some(chunk) = slow.chunk().unwrap() {
        lines.extend(chunk);
    }
    let mut found = HashSet::new();
    for line in lines.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()) {
        let order: Value = serde_json::from_slice(line).expect("whole lines of JSON");
        assert!(found.insert(order["order_uid"].as_str().unwrap().to_owned()), "twice: {order}");
    }
    assert_eq!(found.iter().filter(|id| !id.starts_with("late-")).count(), 12_000);
}

#[test]
fn some_orders_are_found_in_the_order_asked() {
    let server = Server::start(&[]);
    for id in ["a", "b", "c"] {
        created(&server, wb_posted(id));
    }
    let envelope = created(&server, envelope("{}"));
    let asked = ["c", "none", "a", &envelope, "also-none"];
    let by_query = server.get(&format!("/api/orders?ids={}", asked.join(","))).expect(200);
    let encoded = server.get(&format!("/api/orders?ids={}", asked.join("%2C"))).expect(200);
    let by_body = server.post("/api/orders/lookup", json!(asked).to_string()).expect(200);
    for reply in [&by_query, &encoded, &by_body] {
        assert_eq!(ids(reply), ["c", "a", &envelope]);
        assert_eq!(reply.header("X-Missing"), Some("2"));
        assert_eq!(reply.header("Content-Type"), Some("application/json"));
        assert_eq!(reply.header("Content-Length"), Some(reply.body.len().to_string().as_str()));
        assert!(reply.text().starts_with(&format!("[{},{},{{", wb_answered("c"), wb_answered("a"))));
    }
    assert_eq!(server.get("/api/orders?ids=none").expect(200).text(), "[]");
    let none = server.post("/api/orders/lookup", "[]").expect(200);
    assert_eq!((none.text(), none.header("X-Missing")), ("[]", Some("0")));
    for body in ["", "{}", "[1]", "[\"a\"", "\"a\"", "[null]", "[\"a b\"]"] {
        server.post("/api/orders/lookup", body).expect(400);
    }
    server.get("/api/orders?ids=a,b%20c").expect(400);
    server.request("POST", "/api/orders/lookup", &[("Content-Type", "text/plain")], "[]").expect(415);
}

#[test]
fn at_most_a_thousand_ids_are_looked_up() {
    let server = Server::start(&[]);
    post_lines(&server, &wb_lines("k", 1000));
    let short: Vec<String> = (0..1000).map(|n| format!("k-{n}")).collect();
    let uuids: Vec<String> = (0..1000).map(|n| format!("0190a6f0-1234-7abc-8def-{n:012}")).collect();
    let long: Vec<String> = (0..1000).map(|n| format!("{n:0>128}")).collect();
    for asked in [&short, &uuids] {
        let reply = server.get(&format!("/api/orders?ids={}", asked.join(","))).expect(200);
        assert_eq!(reply.header("X-Missing"), Some(if asked == &short { "0" } else { "1000" }));
    }
    assert_eq!(ids(&server.post("/api/orders/lookup", json!(short).to_string()).expect(200)), short);
    assert_eq!(
        server.post("/api/orders/lookup", json!(long).to_string()).expect(200).header("X-Missing"),
        Some("1000")
    );
    let more: Vec<String> = (0..1001).map(|n| format!("k-{n}")).collect();
    server.get(&format!("/api/orders?ids={}", more.join(","))).expect(400);
    server.post("/api/orders/lookup", json!(more).to_string()).expect(400);
    // So many bytes are not even read.
    server.post("/api/orders/lookup", "[".repeat(1 << 20)).expect(413);
}

#[test]
fn totals_follow_writes() {
    let server = Server::start(&[]);
    for n in 0..20 {
        let id = format!("t{n}");
        created(&server, wb_posted(&id));
        if n % 4 == 0 {
            server.post("/orders", format!(r#"{{"order_uid":"{id}","status":"deleted"}}"#)).expect(200);
        }
        let expected = n + 1 - (n / 4 + 1);
        until("the total is right", SIGNAL_TIME, || {
            (server.get("/api/stats").json()["total_orders"] == expected).then_some(())
        });
    }
}
