//! Own orders only: what an owner sees is what a filter over everything leaves, on every route;
//! another's order is as unknown as one that there is not.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use serde_json::Value;

use super::*;
use crate::server::{Reply, SIGNAL_TIME, until};

const OWN: &[&str] = &["orders:read:own", "orders:write:own", "events:read"];
const ALL: &[&str] = &["orders:read", "orders:write", "events:read"];
const OTHER_USER: &str = "99999999-2222-4333-8444-555555555555";

fn keys() -> Keys {
    let user = USER.to_uppercase();
    Keys::new(&[
        ("all", ALL, None),
        ("a", OWN, Some("customer-a")),
        ("b", OWN, Some("customer-b")),
        ("user", OWN, Some(&user)),
    ])
}

/// Everything a client can tell an answer by but its time and its id.
fn seen(reply: &Reply) -> (u16, Vec<(String, String)>, Vec<u8>) {
    let fields = reply.headers.iter().filter(|(name, _)| name != "date" && name != "x-request-id").cloned();
    (reply.status, fields.collect(), reply.body.clone())
}

fn customer(order: &Value) -> &str {
    let owner = if order.get("payload").is_some() { "user_id" } else { "customer_id" };
    order[owner].as_str().unwrap_or_default()
}

/// Random writes by all, then every way to read: each owner's answer is the filtered one of who
/// sees everything.
#[test]
fn an_owner_sees_what_a_filter_over_everything_leaves() {
    for flags in [&[][..], &["--cache-bytes-max", "1MiB", "--cache-warm-max", "0"]] {
        let keys = keys();
        let mut server = keys.start(flags);
        let mut random = fastrand::Rng::with_seed(11);
        let owners = ["customer-a", "customer-b", "customer-c"];
        let mut ids: Vec<String> = (0..60).map(|n| format!("o{n}")).collect();
        for n in 0..150 {
            let id = random.choice(&ids).unwrap().clone();
            let sm_id = format!("\"sm_id\":{n}");
            let body = match random.u8(..8) {
                0 | 1 => envelope_of("0", if random.bool() { USER } else { OTHER_USER }, n),
                2 => format!("{{\"order_id\":\"{id}\",\"status\":\"deleted\"}}"),
                3 => format!("{{\"order_id\":\"{id}\",\"status\":\"done\"}}"),
                _ => wb_of(&id, random.choice(owners).unwrap()).replace("\"sm_id\":99", &sm_id),
            };
            let reply = keys.post(&server, "all", "/orders", body);
            if reply.status == 201 {
                let id = reply.json()["order_id"].as_str().unwrap().to_owned();
                if !ids.contains(&id) {
                    ids.push(id);
                }
            }
        }
        for round in 0..2 {
            compare(&keys, &server, &ids);
            if round == 0 {
                server.restart(); // and once more from what is stored
            }
        }
    }
}

fn envelope_of(id: &str, user: &str, n: usize) -> String {
    format!("{{\"order_id\":\"{id}\",\"user_id\":\"{user}\",\"payload\":{{\"id\":\"x{n}\",\"amount\":{n}}}}}")
}

fn compare(keys: &Keys, server: &Server, all_ids: &[String]) {
    let fields = |name: &str| {
        [("Authorization".to_owned(), keys.bearer(name)), ("Accept".into(), "application/x-ndjson".into())]
    };
    let lines = |name: &str| {
        let fields = fields(name);
        let fields: Vec<(&str, &str)> = fields.iter().map(|(a, b)| (a.as_str(), b.as_str())).collect();
        let reply = server.request("GET", "/api/orders", &fields, "").expect(200);
        reply.text().lines().map(str::to_owned).collect::<Vec<String>>()
    };
    let everything = lines("all");
    for name in ["a", "b", "user"] {
        let owner = match name {
            "a" => "customer-a",
            "b" => "customer-b",
            _ => USER,
        };
        let is_own = |line: &String| customer(&serde_json::from_str(line).unwrap()) == owner;
        let own: Vec<String> = everything.iter().filter(|line| is_own(line)).cloned().collect();
        assert!(!own.is_empty() && own.len() < everything.len(), "{owner}: {} of {}", own.len(), everything.len());
        // Everything, as lines, as a list, page by page, and counted. Lists may trail a write by 50
        // ms.
        until("the lines are its own", SIGNAL_TIME, || (lines(name) == own).then_some(()));
        let list = keys.get(server, name, "/api/orders").expect(200);
        assert_eq!(list.text(), format!("[{}]", own.join(",")));
        let mut paged = Vec::new();
        let mut path = "/api/orders?limit=7".to_owned();
        loop {
            let page = keys.get(server, name, &path).expect(200);
            paged.extend(page.json().as_array().unwrap().iter().map(|order| order["order_uid"].clone()));
            match page.header("Link") {
                Some(link) => link.split(['<', '>']).nth(1).unwrap().clone_into(&mut path),
                None => break,
            }
        }
        let uids: Vec<Value> =
            own.iter().map(|line| serde_json::from_str::<Value>(line).unwrap()["order_uid"].clone()).collect();
        assert_eq!(paged, uids, "{owner}");
        let stats = keys.get(server, name, "/api/stats").expect(200).json();
        assert_eq!(stats["total_orders"], own.len(), "{owner}");
        assert!(stats.get("view_orders").is_none(), "what all have together is not its own: {stats}");
        // By id, one by one and many at once.
        let by_id: BTreeMap<&str, &String> = uids.iter().map(|uid| uid.as_str().unwrap()).zip(&own).collect();
        let mut connection = server.connect();
        let bearer = keys.bearer(name);
        for id in all_ids {
            for path in [format!("/order/{id}"), format!("/orders/{id}")] {
                let own = connection.get_in_time(&path, &[("Authorization", &bearer)]);
                let all = server.connect().get_in_time(&path, &[("Authorization", &keys.bearer("all"))]);
                let is_own = all.status == 200 && {
                    let order = all.json();
                    customer(order.get("order").unwrap_or(&order)) == owner
                };
                if is_own || (all.status == 410 && own.status == 410) {
                    assert_eq!((own.status, &own.body), (all.status, &all.body), "{path} of {owner}");
                } else {
                    assert_eq!(own.status, 404, "{path} is not of {owner}");
                }
            }
        }
        let many = keys.get(server, name, &format!("/api/orders?ids={}", all_ids.join(","))).expect(200);
        assert_eq!(many.header("X-Missing"), Some((all_ids.len() - own.len()).to_string().as_str()));
        let found = many.json();
        assert!(found.as_array().unwrap().iter().all(|order| by_id.contains_key(order["order_uid"].as_str().unwrap())));
        let ids = serde_json::to_string(all_ids).unwrap();
        assert_eq!(keys.post(server, name, "/api/orders/lookup", ids).expect(200).body, many.body);
    }
}

#[test]
fn another_s_order_is_as_unknown_as_one_that_there_is_not() {
    let keys = keys();
    let server = keys.start(&[]);
    keys.post(&server, "all", "/orders", wb_of("hers", "customer-b")).expect(201);
    keys.post(&server, "all", "/orders", wb_of("gone", "customer-b")).expect(201);
    keys.post(&server, "all", "/orders", r#"{"order_id":"gone","status":"deleted"}"#).expect(200);
    let new = |name: &str, user: &str, n: usize| {
        let reply = keys.post(&server, name, "/orders", envelope_of("0", user, n)).expect(201).json();
        reply["order_id"].as_str().unwrap().to_owned()
    };
    let theirs = new("all", OTHER_USER, 1);
    for id in ["hers", "gone", &theirs] {
        for path in ["/order/", "/orders/", "/api/orders/"] {
            for fields in [
                &[][..],
                &[("If-None-Match", "\"1\"")],
                &[("If-None-Match", "*")],
                &[("If-Match", "\"1\"")],
                &[("X-Min-Version", "1")],
                &[("Accept", "text/plain")],
                &[("Origin", "http://a.test")],
            ] {
                for method in ["GET", "HEAD"] {
                    let bearer = keys.bearer("a");
                    let fields = [&[("Authorization", &*bearer)], fields].concat();
                    let other = server.request(method, &format!("{path}{id}"), &fields, "");
                    let none = server.request(method, &format!("{path}none"), &fields, "");
                    assert_eq!(seen(&other), seen(&none), "{method} {path}{id} {fields:?}");
                    assert!(matches!(other.status, 404 | 412));
                }
            }
        }
    }
    let external = |user: &str, id: &str| {
        let path = format!("/orders/by-external/{id}?user_id={user}");
        seen(&keys.get(&server, "user", &path))
    };
    assert_eq!(external(OTHER_USER, "x1"), external(OTHER_USER, "none"));
    assert_eq!(external(OTHER_USER, "x1").0, 404);
    let mine = new("user", USER, 2);
    let of_another = envelope_of("0", OTHER_USER, 3);
    assert_eq!(external(USER, "x2").0, 200);
    // Writes: one's own only, and into no other's.
    let refused = keys.post(&server, "user", "/orders", of_another).expect(403).json();
    assert_eq!(refused["reason"], "not_own");
    keys.post(&server, "a", "/orders", wb_of("mine", "customer-a")).expect(201);
    assert_eq!(keys.post(&server, "a", "/orders", wb_of("mine", "customer-b")).expect(403).json()["reason"], "not_own");
    keys.post(&server, "a", "/orders", wb_of("hers", "customer-a")).expect(404);
    let change = |body: String| {
        let reply = keys.post(&server, "user", "/orders", body);
        (reply.status, reply.json()["reason"].clone())
    };
    let deletion = |id: &str| format!(r#"{{"order_id":"{id}","status":"deleted"}}"#);
    for body in [&deletion as &dyn Fn(&str) -> String, &|id: &str| envelope_of(id, USER, 7)] {
        assert_eq!(change(body(&theirs)), change(body("none")));
        assert_eq!(change(body(&theirs)).0, 404);
    }
    let bearer = keys.bearer("user");
    let expecting = |id: &str| {
        let fields = [("Authorization", &*bearer), ("Content-Type", "application/json"), ("If-Match", "\"1\"")];
        let reply = server.request("POST", "/orders", &fields, envelope_of(id, USER, 7));
        (reply.status, reply.json()["reason"].clone())
    };
    assert_eq!(expecting(&theirs), expecting("11111111-2222-4333-8444-555555555555"));
    assert_eq!(expecting(&theirs).0, 404);
    assert_eq!(change(envelope_of(&mine, USER, 8)).0, 200);
    let hers = keys.get(&server, "b", "/order/hers").expect(200);
    assert_eq!(hers.text(), wb_of("hers", "customer-b"));
    let lines = format!("{}\n{}\n", wb_of("l1", "customer-a"), wb_of("l2", "customer-b"));
    let bearer = keys.bearer("a");
    let fields = [("Authorization", &*bearer), ("Content-Type", "application/x-ndjson")];
    let lines = server.request("POST", "/orders", &fields, lines).expect(200);
    let codes: Vec<Value> = lines.text().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!((&codes[0]["status"], &codes[1]["reason"]), (&"created".into(), &"not_own".into()));
}

/// Of an incomplete view the store is asked for both.
#[test]
fn how_long_a_404_takes_says_nothing() {
    let keys = keys();
    let server = keys.start(&["--cache-ttl", "8760h"]);
    keys.post(&server, "all", "/orders", wb_of("hers", "customer-b")).expect(201);
    let bearer = keys.bearer("a");
    let mut connection = server.connect();
    let mut time = |path: &str| {
        let asked = Instant::now();
        connection.get_in_time(path, &[("Authorization", &bearer)]).expect(404);
        asked.elapsed()
    };
    // The quicker quarter of each, taken in turns: what else the machine does meets both alike, if it goes on for longer
    // than one of them takes. What tells them apart would do so each time.
    let mut seen = Vec::new();
    for _ in 0..5 {
        let mut times = [Vec::new(), Vec::new()];
        for _ in 0..900 {
            for (path, times) in ["/order/hers", "/order/none"].into_iter().zip(&mut times) {
                times.push(time(path));
            }
        }
        let [theirs, none] = times.map(|mut times: Vec<Duration>| {
            times.sort_unstable();
            times[times.len() / 4]
        });
        if (0.4..2.5).contains(&(theirs.as_secs_f64() / none.as_secs_f64())) {
            return;
        }
        seen.push((theirs, none));
    }
    panic!("one takes longer than the other, each time: {seen:?}");
}

#[test]
fn streams_and_tags_tell_an_owner_of_no_other() {
    let keys = keys();
    let server = keys.start(&[]);
    let bearer = keys.bearer("a");
    let mut stream = server.connect();
    stream.ask("GET", "/events?include=body", &[("Authorization", &bearer)], "");
    stream.try_head().unwrap().expect(200);
    stream.chunk().unwrap().expect("a greeting");
    keys.post(&server, "all", "/orders", wb_of("first", "customer-a")).expect(201);
    let list = until("the list has it", SIGNAL_TIME, || {
        let list = keys.get(&server, "a", "/api/orders").expect(200);
        (list.text() != "[]").then_some(list)
    });
    let tag = list.header("ETag").unwrap().to_owned();
    for n in 0..20 {
        keys.post(&server, "all", "/orders", wb_of(&format!("hers-{n}"), "customer-b")).expect(201);
    }
    let fields = [("Authorization", &*bearer), ("If-None-Match", &*tag)];
    // Lists may trail a write; once that of all shows the last of hers, what has not changed does not depend on them.
    until("the list of all has hers", SIGNAL_TIME, || {
        keys.get(&server, "all", "/api/orders").expect(200).text().contains("\"hers-19\"").then_some(())
    });
    server.request("GET", "/api/orders", &fields, "").expect(304);
    keys.post(&server, "all", "/orders", r#"{"order_id":"hers-3","status":"deleted"}"#).expect(200);
    keys.post(&server, "all", "/orders", wb_of("last", "customer-a")).expect(201);
    keys.post(&server, "all", "/orders", r#"{"order_id":"first","status":"deleted"}"#).expect(200);
    let mut told = String::new();
    while !told.contains("\"deleted\"") {
        told.push_str(&String::from_utf8(stream.chunk().unwrap().expect("more")).unwrap());
    }
    assert!(told.contains("\"first\"") && told.contains("\"last\"") && !told.contains("hers"), "{told}");
    until("the list has changed", SIGNAL_TIME, || {
        (server.request("GET", "/api/orders", &fields, "").status == 200).then_some(())
    });
    // An id that is another's is followed as one that there is not.
    let mut other = server.connect();
    other.ask("GET", "/events?order=hers-1", &[("Authorization", &bearer)], "");
    other.try_head().unwrap().expect(200);
    // Keys of idempotency are each caller's own.
    let post = |name: &str, customer: &str| {
        let bearer = keys.bearer(name);
        let fields = [("Authorization", &*bearer), ("Idempotency-Key", "k"), ("Content-Type", "application/json")];
        server.request("POST", "/orders", &fields, wb_of(&format!("idem-{customer}"), customer)).status
    };
    assert_eq!((post("a", "customer-a"), post("b", "customer-b"), post("a", "customer-a")), (201, 201, 201));
}

/// All that a stream tells until it has told this.
fn told_until(stream: &mut crate::server::Connection, last: &str) -> String {
    let mut told = String::new();
    while !told.contains(last) {
        told.push_str(&String::from_utf8(stream.chunk().unwrap().expect("more")).unwrap());
    }
    told
}

fn follow(keys: &Keys, server: &Server, name: &str, path: &str) -> crate::server::Connection {
    let mut stream = server.connect();
    stream.ask("GET", path, &[("Authorization", &keys.bearer(name))], "");
    stream.try_head().unwrap().expect(200);
    stream.chunk().unwrap().expect("a greeting");
    stream
}

/// What an update gives to another owner leaves the one before: with a last event, from every list.
/// Where orders leave the memory, the copy of before is the store's.
#[test]
fn an_order_that_changes_its_owner_leaves_the_one_before_with_a_last_event() {
    for flags in [&[][..], &["--cache-bytes-max", "1MiB", "--cache-warm-max", "0"]] {
        let keys = keys();
        let mut server = keys.start(flags);
        for id in ["x", "y"] {
            keys.post(&server, "all", "/orders", wb_of(id, "customer-a")).expect(201);
        }
        server.restart();
        let mut a = follow(&keys, &server, "a", "/events?include=body");
        let mut only_y = follow(&keys, &server, "a", "/events?order=y");
        let mut b = follow(&keys, &server, "b", "/events?include=body");
        keys.post(&server, "all", "/orders", wb_of("x", "customer-b")).expect(200);
        let told = told_until(&mut a, "\n\n");
        assert!(
            told.contains(r#"data: {"order_uid":"x","version":2,"change":"deleted"}"#) && !told.contains("customer-b"),
            "{flags:?}: {told}"
        );
        let told = told_until(&mut b, "\n\n");
        assert!(told.contains(r#""change":"updated","order":{"#), "{flags:?}: {told}");
        let count = |name: &str| keys.get(&server, name, "/api/stats").expect(200).json()["total_orders"].clone();
        until("the lists have it and have it not", SIGNAL_TIME, || {
            let list = |name: &str| keys.get(&server, name, "/api/orders").expect(200).text().to_owned();
            (!list("a").contains("\"x\"") && list("b").contains("\"x\"")).then_some(())
        });
        assert_eq!((count("a"), count("b")), (1.into(), 1.into()), "{flags:?}");
        keys.get(&server, "a", "/order/x").expect(404);
        // Once: what becomes of it now is the other's.
        keys.post(&server, "all", "/orders", wb_of("x", "customer-b").replace("\"sm_id\":99", "\"sm_id\":1"))
            .expect(200);
        keys.post(&server, "all", "/orders", r#"{"order_id":"y","status":"deleted"}"#).expect(200);
        let told = told_until(&mut a, "\"y\"");
        assert!(!told.contains("\"x\"") && !told.contains("reset"), "{flags:?}: {told}");
        assert!(told.contains(r#"{"order_uid":"y","version":2,"change":"deleted"}"#), "{flags:?}: {told}");
        let told = told_until(&mut only_y, "\"y\"");
        assert!(!told.contains("\"x\"") && !told.contains("reset"), "{flags:?}: {told}");
    }
}

/// What another instance has changed, and is not in memory here, may have been the caller's.
#[test]
fn an_owner_is_told_that_something_may_be_lost_where_the_copy_of_before_is_not_here() {
    let Some(database) = crate::database::Database::create() else { return };
    let keys = keys();
    let url = database.url();
    let flags = ["--postgres", &url, "--cache-bytes-max", "1MiB", "--cache-warm-max", "0"];
    let (one, mut other) = (keys.start(&flags), keys.start(&flags));
    keys.post(&one, "all", "/orders", wb_of("x", "customer-a")).expect(201);
    until("it is there for both", SIGNAL_TIME, || (keys.get(&other, "a", "/order/x").status == 200).then_some(()));
    other.restart();
    let mut a = follow(&keys, &other, "a", "/events?include=body");
    let mut all = follow(&keys, &other, "all", "/events");
    keys.post(&one, "all", "/orders", wb_of("x", "customer-b")).expect(200);
    let told = told_until(&mut a, "\n\n");
    assert!(told.starts_with("event: reset\n") && !told.contains("\"x\""), "{told}");
    assert!(told_until(&mut all, "\n\n").contains(r#""change":"updated""#));
    assert_eq!(keys.get(&other, "a", "/api/orders").expect(200).text(), "[]");
}
