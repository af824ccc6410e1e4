//! The audit trail, ids of requests, and that nothing secret or personal is said anywhere.

use std::path::Path;

use serde_json::Value;

use super::*;
use crate::server::{SIGNAL_TIME, until};

fn lines(path: &Path) -> Vec<Value> {
    let text = std::fs::read_to_string(path).unwrap_or_default();
    let whole = text.rsplit_once('\n').map_or("", |(whole, _)| whole);
    whole.lines().map(|line| serde_json::from_str(line).expect("a line of JSON")).collect()
}

fn line_of(path: &Path, request_id: &str) -> Value {
    until("it is noted", SIGNAL_TIME, || lines(path).into_iter().find(|line| line["request_id"] == request_id))
}

#[test]
fn writes_and_refusals_are_noted_with_who_where_and_what() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("audit.ndjson");
    let keys = Keys::new(&[("shop", &["orders:read", "orders:write"], None), ("reader", &["orders:read"], None)]);
    let server = keys.start(&["--audit", path.to_str().unwrap()]);
    let bearer = keys.bearer("shop");
    let fields = [("Authorization", &*bearer), ("Content-Type", "application/json"), ("X-Request-Id", "my.id_1-A")];
    let reply = server.request("POST", "/orders", &fields, wb_posted("x")).expect(201);
    assert_eq!(reply.header("X-Request-Id"), Some("my.id_1-A"));
    let line = line_of(&path, "my.id_1-A");
    for (member, value) in [
        ("caller", Value::from("shop")),
        ("by", "key".into()),
        ("address", "127.0.0.1".into()),
        ("method", "POST".into()),
        ("route", "/orders".into()),
        ("order", "x".into()),
        ("result", 201.into()),
    ] {
        assert_eq!(line[member], value, "{line}");
    }
    assert_eq!(line["time"].as_str().unwrap().len(), "2027-01-01T00:00:00.000Z".len(), "{line}");
    // What cannot be an id is none, and another is made.
    for bad in ["a b", "é", &"x".repeat(129), ""] {
        let reply = server.request("GET", "/ping", &[("X-Request-Id", bad)], "").expect(200);
        let id = reply.header("X-Request-Id").unwrap();
        assert!(id != bad && id.len() == 16, "{id}");
    }
    let refused = server.get("/order/x").expect(401);
    let line = line_of(&path, refused.header("X-Request-Id").unwrap());
    assert_eq!((&line["caller"], &line["result"], &line["route"]), (&Value::Null, &401.into(), &"/order/{id}".into()));
    assert_eq!(line["order"], "x");
    let refused = keys.get(&server, "shop", "/metrics").expect(403);
    let line = line_of(&path, refused.header("X-Request-Id").unwrap());
    assert_eq!((&line["missing_scope"], &line["caller"]), (&"metrics:read".into(), &"shop".into()));
    assert_eq!(line["by"], "key");
    // The id is in the body, which is not read of a caller that may not write.
    let refused = keys.post(&server, "reader", "/orders", wb_posted("z")).expect(403);
    let line = line_of(&path, refused.header("X-Request-Id").unwrap());
    assert_eq!((&line["order"], &line["missing_scope"]), (&Value::Null, &"orders:write".into()), "{line}");
    assert!(line.as_object().unwrap().contains_key("order"), "{line}");
    let refused = keys.get(&server, "reader", "/metrics").expect(403);
    let line = line_of(&path, refused.header("X-Request-Id").unwrap());
    assert_eq!((&line["order"], &line["result"]), (&Value::Null, &403.into()), "{line}");
    let fields = [("Authorization", &*bearer), ("Content-Type", "application/json"), ("If-Match", "\"9\"")];
    let refused = server.request("POST", "/orders", &fields, wb_posted("x")).expect(412);
    let line = line_of(&path, refused.header("X-Request-Id").unwrap());
    assert_eq!((&line["order"], &line["result"]), (&"x".into(), &412.into()));
    // What is no valid order names one all the same, or what cannot be an id.
    let invalid = [
        (wb_posted("bad.1").replace("\"amount\": 1817", "\"amount\": \"x\""), "bad.1".into()),
        ("{\"order_id\":\"bad-2\",\"user_id\":\"x\",\"payload\":{}}".to_owned(), "bad-2".into()),
        ("{\"order_id\":\"0\",\"user_id\":\"x\",\"payload\":{}}".to_owned(), Value::Null),
        ("{\"order_uid\":\"a b\"}".to_owned(), Value::Null),
        ("{\"order_uid\":7}".to_owned(), Value::Null),
        ("[]".to_owned(), Value::Null),
    ];
    for (body, order) in invalid {
        let refused = keys.post(&server, "shop", "/orders", &body).expect(422);
        let line = line_of(&path, refused.header("X-Request-Id").unwrap());
        assert_eq!((&line["order"], &line["result"]), (&order, &422.into()), "{body}");
    }
    let lines_of = format!("{}\nno json\n", wb_answered("y"));
    let fields = [("Authorization", &*bearer), ("Content-Type", "application/x-ndjson"), ("X-Request-Id", "many")];
    server.request("POST", "/orders", &fields, lines_of).expect(200);
    let many = until("each line is noted", SIGNAL_TIME, || {
        let noted: Vec<Value> = lines(&path).into_iter().filter(|line| line["request_id"] == "many").collect();
        (noted.len() == 2).then_some(noted)
    });
    assert_eq!((&many[0]["order"], &many[0]["result"], &many[1]["result"]), (&"y".into(), &201.into(), &400.into()));
    // Reads are not noted unless asked for, and a file that was moved away is made again on SIGHUP.
    keys.get(&server, "shop", "/order/x").expect(200);
    let old = home.path().join("old");
    std::fs::rename(&path, &old).unwrap();
    server.signal(rustix::process::Signal::HUP);
    until("it is there again", SIGNAL_TIME, || {
        keys.post(&server, "shop", "/orders", wb_posted("x"));
        path.exists().then_some(())
    });
    // What came later is noted by now.
    for path in [&old, &path] {
        assert!(lines(path).iter().all(|line| line["method"] != "GET" || line["result"] != 200), "{}", path.display());
    }
}

#[test]
fn reads_are_noted_where_that_is_asked_for_and_none_is_lost_at_the_end() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("audit.ndjson");
    let mut server = Server::start(&["--audit", path.to_str().unwrap(), "--audit-reads", "yes"]);
    created(&server, wb_posted("x"));
    let mut connection = server.connect();
    for _ in 0..200 {
        connection.get("/order/x").expect(200);
    }
    connection.get("/order/none").expect(404);
    assert!(server.stop().success());
    let noted = lines(&path);
    let of = |order: &str, result: u16| {
        noted.iter().filter(|line| line["order"] == order && line["result"] == result).count()
    };
    assert_eq!((of("x", 200), of("none", 404), of("x", 201)), (200, 1, 1));
    assert_eq!(noted[0]["caller"], Value::Null);
}

/// Keys, tokens, passwords and what orders say of people: in no log line, error, metric, audit line
/// or printed setting.
#[test]
fn nothing_secret_or_personal_is_said() {
    let home = tempfile::tempdir().unwrap();
    let path = home.path().join("audit.ndjson");
    let keys = Keys::new(&[("shop", &["orders:read", "orders:write", "metrics:read"], None)]);
    let server = keys.start(&["--audit", path.to_str().unwrap(), "--audit-reads", "yes", "--log-level", "trace"]);
    let personal = ["Testov", "+9720000000", "Ploshad Mira 15", "test@gmail.com", "2639809"];
    let bearer = keys.bearer("shop");
    let json = [("Authorization", &*bearer), ("Content-Type", "application/json")];
    server.request("POST", "/orders", &json, wb_posted("x")).expect(201);
    let mut said = String::new();
    let broken = wb_posted("y").replace("\"amount\": 1817", "\"amount\": \"Testov\"");
    for reply in [
        server.request("POST", "/orders", &json, broken),
        server.request("POST", "/orders", &json, &wb_posted("y")[..300]),
        server.request("GET", "/order/none", &[("Authorization", "Bearer osk_secret-guess")], ""),
        server.request("GET", "/order/none", &[("Authorization", "Basic c2VjcmV0LWd1ZXNz")], ""),
        server.request("GET", "/order/none", &[("Authorization", "Bearer secret.guess.token")], ""),
        server.request("GET", "/order/none?secret-guess=1", &[("X-API-Key", keys.key("shop"))], ""),
    ] {
        assert!(reply.status >= 400);
        if !reply.text().contains("query parameter") {
            said.push_str(reply.text());
        }
    }
    said.push_str(server.request("GET", "/metrics", &json, "").expect(200).text());
    until("the trail is written", SIGNAL_TIME, || (lines(&path).len() >= 7).then_some(()));
    said.push_str(&std::fs::read_to_string(&path).unwrap());
    said.push_str(&server.log().join("\n"));
    said.push_str(&std::fs::read_to_string(keys.path()).unwrap());
    for secret in personal.iter().copied().chain([keys.key("shop"), "osk_secret", "c2VjcmV0", "secret.guess"]) {
        let line = said.lines().find(|line| line.contains(secret));
        assert!(line.is_none(), "{secret}: {}", line.unwrap_or_default());
    }
}

/// Keys and orders would be in it. `ulimit -c unlimited`, as many services are started, is what it inherits.
#[test]
fn a_crash_leaves_no_memory_behind() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let most = getrlimit(Resource::Core).maximum;
    setrlimit(Resource::Core, Rlimit { current: most, maximum: most }).unwrap();
    if most == Some(0) {
        eprintln!("skipped: this machine allows no core dump at all");
    }
    let server = Server::start(&[]);
    let limits = std::fs::read_to_string(format!("/proc/{}/limits", server.pid())).unwrap();
    let core = limits.lines().find_map(|line| line.strip_prefix("Max core file size")).unwrap();
    assert_eq!(core.split_whitespace().next(), Some("0"), "{core}");
}
