//! Nothing that changes what a client gets is passed over: parameters, conditions and preferences are drawn for every
//! route, and each answer is compared with what RFC 9110 (13.2.2) and RFC 7240 make of them. `ORDER_IGNORED_SEED` repeats
//! a run.

use fastrand::Rng;

use super::*;
use crate::server::{Reply, SIGNAL_TIME, Server, until};

const READS: usize = 4000;
const WRITES: usize = 1500;

/// A tag of a condition: whether it is weak, and what stands between its quotes. `None` is `*`.
type Tag = Option<(bool, String)>;

/// A route that is read, and the parameters it takes with values that it takes.
struct Route {
    path: String,
    parameters: Vec<(&'static str, String)>,
    /// Whether the parameters exclude each other.
    is_one_of: bool,
}

fn route(path: impl Into<String>) -> Route {
    Route { path: path.into(), parameters: Vec::new(), is_one_of: false }
}

fn routes(server: &Server) -> Vec<Route> {
    let envelope = created(server, envelope("{\"id\":\"e-1\"}"));
    until("the list shows the newest", SIGNAL_TIME, || {
        server.get("/api/orders").text().contains(&envelope).then_some(())
    });
    let first = server.get("/api/orders?limit=3").expect(200);
    let next = first.header("Link").expect("a next page").split(['<', '>']).nth(1).unwrap().to_owned();
    let cursor = next.split("cursor=").nth(1).unwrap().split('&').next().unwrap().to_owned();
    let user = vec![("user_id", USER.to_owned())];
    let list = vec![("ids", format!("p,{envelope}")), ("limit", "5".into()), ("cursor", cursor)];
    vec![
        route("/order/p"),
        route("/orders/p"),
        route(format!("/api/orders/{envelope}")),
        Route { path: "/orders/by-external/e-1".into(), parameters: user, is_one_of: false },
        Route { path: "/api/orders".into(), parameters: list, is_one_of: true },
        route("/api/stats"),
        route("/health"),
        route("/ping"),
        route("/livez"),
        route("/readyz"),
        route("/metrics"),
    ]
}

/// One in so many.
fn rarely(random: &mut Rng, n: u8) -> bool {
    random.u8(..n) == 0
}

/// The parameters of a query, and the one it must be refused for.
fn draw_query(random: &mut Rng, route: &Route) -> (String, Option<String>) {
    let mut pairs: Vec<(String, String)> =
        route.parameters.iter().map(|(name, value)| ((*name).into(), value.clone())).collect();
    if route.is_one_of {
        let kept = random.usize(..=pairs.len());
        pairs = pairs.into_iter().skip(kept).take(1).collect();
    }
    let mut refused = None;
    match random.u8(..8) {
        0 if !pairs.is_empty() => {
            refused = Some(pairs[0].0.clone());
            pairs.push(pairs[0].clone());
        }
        1 => {
            let names =
                ["x", "customer_id", "Limit", "LIMIT", "id", "offset", "user", "ids[]", "\u{436}", "fields", "limit "];
            let name = names[random.usize(..names.len())];
            refused = Some(name.into());
            pairs.insert(
                random.usize(..=pairs.len()),
                (name.into(), if random.bool() { String::new() } else { "1".into() }),
            );
        }
        _ => {}
    }
    let encoded = |text: &str| form_urlencoded::byte_serialize(text.as_bytes()).collect::<String>();
    let pairs: Vec<String> =
        pairs.iter().map(|(name, value)| format!("{}={}", encoded(name), encoded(value))).collect();
    let question = if pairs.is_empty() && random.bool() { "" } else { "?" };
    (format!("{question}{}", pairs.join("&")), refused)
}

fn draw_tags(random: &mut Rng, current: &str) -> Vec<Tag> {
    let mut tag = || {
        let other = ["0", "", "a, b", "*", "W/", "77", "x-1"];
        match random.u8(..8) {
            0 => None,
            1..=3 => Some((random.u8(..4) == 0, current.to_owned())),
            4 => Some((false, format!("{current}-{}", ["gzip", "br", "zstd"][random.usize(..3)]))),
            _ => Some((random.bool(), other[random.usize(..other.len())].to_owned())),
        }
    };
    (0..3).map(|_| tag()).collect::<Vec<_>>()[..random.usize(1..=3)].to_vec()
}

/// The fields that send these tags: in one list or in several.
fn fields(random: &mut Rng, name: &'static str, tags: &[Tag]) -> Vec<(&'static str, String)> {
    let text = |tag: &Tag| match tag {
        None => "*".to_owned(),
        Some((is_weak, opaque)) => format!("{}\"{opaque}\"", if *is_weak { "W/" } else { "" }),
    };
    let texts: Vec<String> = tags.iter().map(text).collect();
    if rarely(random, 4) {
        return texts.into_iter().map(|text| (name, text)).collect();
    }
    let between = [",", ", ", " ,\t", ",,", ", , "][random.usize(..5)];
    vec![(name, texts.join(between))]
}

fn names_it(tag: &Tag, current: Option<&str>, is_strong: bool) -> bool {
    let Some((is_weak, opaque)) = tag else { return true };
    let Some(current) = current else { return false };
    let forms = ["", "-gzip", "-br", "-zstd"].map(|form| format!("{current}{form}"));
    !(is_strong && *is_weak) && forms.contains(opaque)
}

fn etag(reply: &Reply) -> Option<String> {
    reply.header("ETag").map(|etag| etag.trim_matches('"').to_owned())
}

fn borrowed<'f>(fields: &'f [(&'static str, String)]) -> Vec<(&'f str, &'f str)> {
    fields.iter().map(|(name, value)| (*name, value.as_str())).collect()
}

#[test]
fn no_parameter_or_condition_of_a_read_is_passed_over() {
    let seed = std::env::var("ORDER_IGNORED_SEED").map_or_else(|_| fastrand::u64(..), |text| text.parse().unwrap());
    println!("ORDER_IGNORED_SEED={seed}");
    let mut random = Rng::with_seed(seed);
    let server = Server::start(&["--sample", "20"]);
    created(&server, wb_posted("p"));
    let routes = routes(&server);
    let mut met = [0; 4];
    for _ in 0..READS {
        let route = &routes[random.usize(..routes.len())];
        let (query, refused) = draw_query(&mut random, route);
        let path = format!("{}{query}", route.path);
        let plain = server.get(&path);
        let Some(refused) = refused else {
            plain.expect(200);
            // What a parameter asks for is there.
            if let Some((name, _)) = query.strip_prefix('?').and_then(|pair| pair.split_once('=')) {
                let count = |reply: &Reply| reply.json().as_array().map(Vec::len);
                match name {
                    "ids" => assert_eq!(count(&server.get(&path)), Some(2)),
                    "limit" => assert_eq!(count(&server.get(&path)), Some(5)),
                    "cursor" => assert_ne!(server.get(&path).body, server.get(&route.path).body),
                    _ => {}
                }
            }
            let etag = etag(&server.get(&path));
            let current = etag.as_deref();
            let tags = |random: &mut Rng| random.bool().then(|| draw_tags(random, current.unwrap_or("1")));
            let (required, known) = (tags(&mut random), tags(&mut random));
            let mut sent = Vec::new();
            sent.extend(required.iter().flat_map(|tags| fields(&mut random, "If-Match", tags)));
            sent.extend(known.iter().flat_map(|tags| fields(&mut random, "If-None-Match", tags)));
            let is_met = |tags: &Vec<Tag>, is_strong| tags.iter().any(|tag| names_it(tag, current, is_strong));
            let expected = match (&required, &known) {
                (Some(required), _) if !is_met(required, true) => 412,
                (_, Some(known)) if is_met(known, false) => 304,
                _ => 200,
            };
            met[usize::from(expected / 100 - 2)] += 1;
            let method = if rarely(&mut random, 5) { "HEAD" } else { "GET" };
            let reply = server.request(method, &path, &borrowed(&sent), "");
            assert_eq!(reply.status, expected, "seed {seed}: {method} {path} {sent:?}, now {current:?}");
            continue;
        };
        met[3] += 1;
        assert_eq!(plain.status, 400, "seed {seed}: {path}");
        let detail = plain.json()["detail"].as_str().unwrap().to_owned();
        assert!(detail.contains(&format!("{refused:?}")), "seed {seed}: {path}: {detail}");
    }
    assert!(met.iter().all(|&count| count > READS / 50), "{met:?} is too few of one kind");
}

#[test]
fn no_parameter_condition_or_preference_of_a_write_is_passed_over() {
    let seed = std::env::var("ORDER_IGNORED_SEED").map_or_else(|_| fastrand::u64(..), |text| text.parse().unwrap());
    println!("ORDER_IGNORED_SEED={seed}");
    let mut random = Rng::with_seed(seed);
    let server = Server::start(&[]);
    created(&server, wb_posted("w"));
    let mut connection = server.connect();
    let mut version = 1_u64;
    let mut met = [0; 3];
    for n in 0..WRITES {
        let body = wb_posted("w").replace("\"sm_id\": 99", &format!("\"sm_id\": {}", 100 + n));
        let mut sent = vec![("Content-Type", "application/json".to_owned())];
        let mut is_bad = false;
        let required = random.bool().then(|| draw_tags(&mut random, &version.to_string()));
        sent.extend(required.iter().flat_map(|tags| fields(&mut random, "If-Match", tags)));
        let mut is_new_only = false;
        if rarely(&mut random, 8) {
            is_new_only = random.bool();
            is_bad |= !is_new_only || required.is_some();
            sent.push(("If-None-Match", if is_new_only { "*".into() } else { format!("\"{version}\"") }));
        }
        if rarely(&mut random, 12) {
            is_bad = true;
            sent.push(("If-Unmodified-Since", "Sat, 29 Oct 1994 19:43:31 GMT".into()));
        }
        if rarely(&mut random, 4) {
            let preferences = [
                ("wait=5", false),
                ("WAIT = \"5\" , foo=bar", false),
                ("respond-async, wait=10", false),
                ("return=minimal; x=y", false),
                ("handling=lenient, foo", false),
                ("handling=strict, wait=1", false),
                ("wait=soon", true),
                ("wait", true),
                ("foo, wait=-1", true),
                ("wait=1.5", true),
                ("respond-async=yes", true),
                ("return=representation, handling=strict", true),
            ];
            let (preference, is_wrong) = preferences[random.usize(..preferences.len())];
            is_bad |= is_wrong;
            sent.push(("Prefer", preference.into()));
        }
        let query = ["", "?", "?x=1", "?if_version=1"][[0, 0, 0, 0, 0, 1, 2, 3][random.usize(..8)]];
        is_bad |= query.len() > 1;
        let is_unmet = required.is_some_and(|tags| {
            let now = version.to_string();
            !tags.iter().any(|tag| names_it(tag, Some(&now), true))
        });
        let (expected, kind) = match () {
            () if is_bad => (400, 0),
            () if is_unmet || is_new_only => (412, 1),
            () => (200, 2),
        };
        met[kind] += 1;
        let reply = connection.request("POST", &format!("/orders{query}"), &borrowed(&sent), &body);
        assert_eq!(reply.status, expected, "seed {seed}: /orders{query} {sent:?}, now {version}: {}", reply.text());
        version += u64::from(expected == 200);
        let now = connection.get("/order/w").expect(200);
        assert_eq!(etag(&now), Some(version.to_string()), "seed {seed}: /orders{query} {sent:?}");
        assert_eq!(now.text().contains(&format!("\"sm_id\":{}", 100 + n)), expected == 200);
    }
    assert!(met.iter().all(|&count| count > WRITES / 50), "{met:?} is too few of one kind");
}

/// The first of two was taken, and the other one passed over.
#[test]
fn a_field_that_may_come_once_and_comes_twice_is_told_and_lists_are_joined() {
    let server = Server::start(&[]);
    created(&server, wb_posted("p"));
    let envelope = created(&server, envelope("{\"id\":\"e-1\"}"));
    let (json, by_external) = ("application/json", format!("/orders/by-external/e-1?user_id={USER}"));
    let tag = format!("\"{envelope}-1\"");
    let post = wb_posted("q");
    let refused: [(&str, &str, &str, [&str; 2], &str); 8] = [
        ("GET", "/order/p", "X-Min-Version", ["1", "2"], ""),
        ("GET", "/orders/p", "x-min-version", ["1", "1"], ""),
        ("GET", &by_external, "X-Min-Version", [&tag, &tag], ""),
        ("GET", "/events", "Last-Event-ID", ["a-1", "a-2"], ""),
        ("POST", "/orders", "Idempotency-Key", ["one", "two"], &post),
        ("POST", "/orders", "Content-Type", [json, "application/x-ndjson"], &post),
        ("POST", "/orders", "Content-Type", [json, json], &post),
        ("POST", "/api/orders/lookup", "Content-Type", [json, "text/plain"], "[\"p\"]"),
    ];
    let mut connection = server.connect();
    for (method, path, name, [one, other], body) in refused {
        let reply = connection.request(method, path, &[(name, one), (name, other)], body).expect(400).json();
        assert_eq!(reply["reason"], "repeated_header", "{name}");
        assert!(reply["detail"].as_str().unwrap().contains(&name.to_ascii_lowercase()), "{reply}");
    }
    server.get("/order/q").expect(404);
    // Under two names, it was the first of them.
    let twice = server.get("/events?lastEventId=a-1&last_event_id=a-2").expect(400).json();
    assert_eq!(twice["reason"], "excluded_parameter");
    let joined: [(&str, [&str; 2], u16); 4] = [
        ("If-None-Match", ["\"9\"", "\"1\""], 304),
        ("If-None-Match", ["\"8\"", "\"9\""], 200),
        ("If-Match", ["\"9\"", "\"1\""], 200),
        ("If-Match", ["\"8\"", "\"9\""], 412),
    ];
    for (name, [one, other], status) in joined {
        connection.request("GET", "/order/p", &[(name, one), (name, other)], "").expect(status);
    }
    let text = [("Accept", "application/json;q=0.1"), ("Accept", "text/plain")];
    let error = connection.request("GET", "/order/none", &text, "").expect(404);
    assert_eq!(error.header("Content-Type"), Some("text/plain; charset=utf-8"));
    // A write of what is new: none of the tags may be there, whichever comes first.
    let new = [("Content-Type", json), ("If-None-Match", "\"9\""), ("If-None-Match", "*")];
    connection.request("POST", "/orders", &new, &post).expect(201);
    connection.request("POST", "/orders", &new, &post).expect(412);
    // Which of two ids is meant is not known, so there is another; which page asks, neither.
    let ids = [("X-Request-Id", "one"), ("X-Request-Id", "two")];
    let reply = connection.request("GET", "/ping", &ids, "").expect(200);
    assert_eq!(reply.header("X-Request-Id").unwrap().len(), 16);
    let origins = [("Origin", "http://a.test"), ("Origin", "http://b.test")];
    let reply = connection.request("GET", "/order/p", &origins, "").expect(200);
    assert_eq!(reply.header("Access-Control-Allow-Origin"), None);
}
