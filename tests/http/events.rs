//! The stream of changes: what an event says, how a reader resumes, and that no one waits for a slow one.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::*;
use crate::server::{Connection, SIGNAL_TIME, Server, until};

/// One event, or a comment.
#[derive(Debug, Default, Clone, PartialEq)]
struct Event {
    kind: String,
    id: String,
    data: String,
    comment: String,
}

impl Event {
    fn json(&self) -> Value {
        serde_json::from_str(&self.data).expect("JSON")
    }
}

/// A reader of events.
struct Stream {
    connection: Connection,
    text: String,
    events: VecDeque<Event>,
}

impl Stream {
    /// Opens a stream and reads its greeting, so that everything that happens later is in it.
    fn open(server: &Server, path: &str, headers: &[(&str, &str)]) -> Self {
        let mut stream = Self::open_and_leave(server, path, headers);
        let first = stream.next_of_any_kind().expect("a greeting");
        assert!(!first.comment.is_empty(), "{first:?}");
        stream
    }

    /// Opens a stream and reads nothing of it.
    fn open_and_leave(server: &Server, path: &str, headers: &[(&str, &str)]) -> Self {
        let mut connection = server.connect();
        connection.ask("GET", path, headers, "");
        let head = connection.try_head().expect("a head").expect(200);
        assert_eq!(head.header("Content-Type"), Some("text/event-stream"));
        assert_eq!(head.header("Cache-Control"), Some("no-cache"));
        Self { connection, text: String::new(), events: VecDeque::new() }
    }

    /// The next event or comment; `None` at the end of the stream.
    fn next_of_any_kind(&mut self) -> Option<Event> {
        while self.events.is_empty() {
            let chunk = self.connection.chunk().expect("more of the stream")?;
            self.text.push_str(std::str::from_utf8(&chunk).expect("UTF-8"));
            while let Some((block, rest)) = self.text.split_once("\n\n") {
                let mut event = Event::default();
                for line in block.lines() {
                    match line.split_once(": ").expect("a field") {
                        ("event", value) => event.kind = value.into(),
                        ("id", value) => event.id = value.into(),
                        ("data", value) => event.data = value.into(),
                        ("retry", _) => {}
                        ("", value) => event.comment = value.into(),
                        (field, _) => panic!("unknown field {field}"),
                    }
                }
                let comment = line_comment(block);
                event.comment = comment;
                self.events.push_back(event);
                self.text = rest.to_owned();
            }
        }
        self.events.pop_front()
    }

    /// The next event.
    fn next(&mut self) -> Event {
        loop {
            let event = self.next_of_any_kind().expect("the stream goes on");
            if !event.kind.is_empty() {
                return event;
            }
        }
    }
}

/// The first comment of a block.
fn line_comment(block: &str) -> String {
    block
        .lines()
        .find_map(|line| line.strip_prefix(": ").or_else(|| line.strip_prefix(':')))
        .unwrap_or_default()
        .to_owned()
}

#[test]
fn each_committed_change_is_an_event() {
    let server = Server::start(&[]);
    let mut stream = Stream::open(&server, "/events", &[]);
    let mut with_body = Stream::open(&server, "/events?include=body", &[]);
    created(&server, wb_posted("e1"));
    server.post("/orders", wb_posted("e1")).expect(200); // no change, so no event
    server.post("/orders", wb_posted("e1").replace("1817", "1818")).expect(200);
    server.post("/orders", r#"{"order_uid":"e1","status":"deleted"}"#).expect(200);
    server.post("/orders", wb_posted("e1")).expect(409);
    let id = created(&server, envelope("{}"));
    let mut seen = Vec::new();
    for (order, version, change) in
        [("e1", 1, "created"), ("e1", 2, "updated"), ("e1", 3, "deleted"), (&id, 1, "created")]
    {
        let event = stream.next();
        assert_eq!(event.kind, "order");
        assert_eq!(event.data, format!(r#"{{"order_uid":"{order}","version":{version},"change":"{change}"}}"#));
        assert!(!event.id.is_empty() && !seen.contains(&event.id), "{seen:?}");
        seen.push(event.id.clone());
        let full = with_body.next();
        assert_eq!((&full.kind, &full.id), (&event.kind, &event.id));
        let body = match (order, version) {
            ("e1", 1) => format!(",\"order\":{}", wb_answered("e1")),
            ("e1", 2) => format!(",\"order\":{}", wb_answered("e1").replace("1817", "1818")),
            ("e1", _) => String::new(),
            _ => format!(",\"order\":{}", server.get(&format!("/order/{id}")).text()),
        };
        assert_eq!(full.data, format!("{}{body}}}", event.data.strip_suffix('}').unwrap()));
    }
}

#[test]
fn one_order_can_be_watched() {
    let server = Server::start(&[]);
    let id = created(&server, envelope("{}"));
    let mut stream = Stream::open(&server, "/events?order=mine", &[]);
    let mut by_uuid = Stream::open(&server, &format!("/events?order={}", id.to_uppercase()), &[]);
    for order in ["other", "mine", "another"] {
        created(&server, wb_posted(order));
    }
    server.post("/orders", wb_posted("mine").replace("1817", "1818")).expect(200);
    server
        .post("/orders", format!(r#"{{"order_id":"{id}","user_id":"{USER}","status":"done","payload":{{}}}}"#))
        .expect(200);
    for (version, change) in [(1, "created"), (2, "updated")] {
        assert_eq!(stream.next().json(), json!({"order_uid": "mine", "version": version, "change": change}));
    }
    assert_eq!(by_uuid.next().json(), json!({"order_uid": id, "version": 2, "change": "updated"}));
    server.get("/events?order=a%20b").expect(400);
    server.get("/events?order=").expect(400);
}

#[test]
fn a_reader_resumes_where_it_left() {
    let mut server = Server::start(&[]);
    let mut stream = Stream::open(&server, "/events", &[]);
    for n in 0..10 {
        created(&server, wb_posted(&format!("r{n}")));
    }
    let events: Vec<Event> = (0..10).map(|_| stream.next()).collect();
    drop(stream);
    created(&server, wb_posted("r10"));
    for from in [0, 4, 9] {
        let mut resumed = Stream::open(&server, "/events", &[("Last-Event-ID", &events[from].id)]);
        for event in &events[from + 1..] {
            assert_eq!(resumed.next(), *event);
        }
        assert_eq!(resumed.next().json()["order_uid"], "r10");
    }
    let last = events[9].id.clone();
    // Positions that are no one's, of the future, or of a process that is gone.
    let ahead = format!("{}9999", events[9].id);
    for unknown in ["x", "0", &ahead] {
        let mut reset = Stream::open_and_leave(&server, "/events", &[("Last-Event-ID", unknown)]);
        assert_eq!(reset.next().kind, "reset", "{unknown}");
    }
    server.restart();
    let mut reset = Stream::open_and_leave(&server, "/events", &[("Last-Event-ID", &last)]);
    let event = reset.next();
    assert_eq!(event.kind, "reset");
    created(&server, wb_posted("after"));
    assert_eq!(reset.next().json()["order_uid"], "after");
    // The position of a reset is one to resume from.
    let mut resumed = Stream::open(&server, "/events", &[("Last-Event-ID", &event.id)]);
    assert_eq!(resumed.next().json()["order_uid"], "after");
}

#[test]
fn what_is_no_longer_kept_is_a_reset() {
    let server = Server::start(&["--events-kept-max", "5"]);
    let mut stream = Stream::open(&server, "/events", &[]);
    // Each is read before the next is there, so none of them can have been lost.
    let ids: Vec<String> = (0..20)
        .map(|n| {
            created(&server, wb_posted(&format!("k{n}")));
            let event = stream.next();
            assert_eq!((event.kind.as_str(), &event.json()["order_uid"]), ("order", &json!(format!("k{n}"))));
            event.id
        })
        .collect();
    // The position of an event is behind it: five follow the 15th.
    for (at, expected) in ids.iter().zip(0..20).map(|(id, n)| (id, if n < 14 { None } else { Some(n + 1) })) {
        let mut resumed = Stream::open_and_leave(&server, "/events", &[("Last-Event-ID", at)]);
        match expected {
            None => assert_eq!(resumed.next().kind, "reset"),
            Some(20) => {
                created(&server, wb_posted("last"));
                assert_eq!(resumed.next().json()["order_uid"], "last");
            }
            Some(next) => assert_eq!(resumed.next().json()["order_uid"], format!("k{next}")),
        }
    }
}

#[test]
fn a_quiet_stream_says_that_it_is_alive() {
    let server = Server::start(&[
        "--events-heartbeat",
        "100ms",
        "--http-idle-time",
        "2s",
        "--http-header-time",
        "2s",
        "--http-write-time",
        "2s",
    ]);
    let mut stream = Stream::open(&server, "/events", &[]);
    let started = Instant::now();
    while started.elapsed() < Duration::from_secs(5) {
        let event = stream.next_of_any_kind().expect("open beyond the limits of idle connections");
        assert!(event.kind.is_empty() && !event.comment.is_empty(), "{event:?}");
    }
}

#[test]
fn a_stop_ends_streams_cleanly() {
    // Nothing but the stop wakes them within its grace period; one that it did not wake would make it no clean drain.
    let mut server = Server::start(&["--events-heartbeat", "10m", "--http-write-time", "10m"]);
    let mut streams: Vec<Stream> = (0..20).map(|_| Stream::open(&server, "/events", &[])).collect();
    assert_eq!(server.stop().code(), Some(0), "{:?}", server.log());
    for stream in &mut streams {
        assert_eq!(stream.next_of_any_kind(), None);
    }
}

#[test]
fn streams_have_a_limit() {
    let server = Server::start(&["--events-streams-max", "2"]);
    let first = Stream::open(&server, "/events", &[]);
    let _second = Stream::open(&server, "/events", &[]);
    let refused = server.get("/events").expect(503);
    assert!(refused.header("Retry-After").is_some());
    drop(first);
    until("there is room again", SIGNAL_TIME, || {
        let mut connection = server.connect();
        connection.ask("GET", "/events", &[], "");
        (connection.try_head().unwrap().status == 200).then_some(())
    });
}

#[test]
fn a_head_of_events_ends() {
    let server = Server::start(&[]);
    let mut connection = server.connect();
    connection.request("HEAD", "/events", &[], "").expect(200);
    connection.get("/ping").expect(200);
}

#[test]
fn a_reader_that_does_not_read_is_told_reset_and_holds_no_one() {
    // To wait for a reader that sleeps would take minutes.
    let server = Server::start(&["--profile", "lenient", "--http-write-time", "10m"]);
    let mut sleeping = Stream::open_and_leave(&server, "/events?include=body", &[]);
    let mut sleeping_deaf: Vec<Stream> =
        (0..9).map(|_| Stream::open_and_leave(&server, "/events?include=body", &[])).collect();
    let filler = "x".repeat(700);
    let lines = |turn: usize| -> String {
        (0..1000).map(|n| format!("{{\"order_uid\":\"c{n}\",\"turn\":{turn},\"filler\":\"{filler}\"}}\n")).collect()
    };
    let ndjson = [("Content-Type", "application/x-ndjson")];
    let (mut writer, mut other) = (server.connect(), server.connect());
    other.get("/ping").expect(200); // or it may have said nothing for too long, by the time it is asked
    writer.request("POST", "/orders", &ndjson, lines(0)).expect(200);
    let before = server.resident_bytes();
    let mut times = Vec::new();
    for turn in 1..50 {
        let reply = writer.request("POST", "/orders", &ndjson, lines(turn)).expect(200);
        assert_eq!(reply.text().matches("\"updated\"").count(), 1000);
        let started = Instant::now();
        other.get("/order/c7").expect(200);
        times.push(started.elapsed());
    }
    let grown = server.resident_bytes().saturating_sub(before);
    assert!(grown < 200 << 20, "grown by {} MiB", grown >> 20);
    times.sort();
    assert!(times[times.len() / 4] < Duration::from_secs(1), "another reader waited {times:?}");
    // Awake again, the reader gets some of the oldest, is told that it lost others, and then follows.
    while sleeping.next().kind != "reset" {}
    other.request("POST", "/orders", &[], r#"{"order_uid":"fresh"}"#).expect(201);
    while sleeping.next().json()["order_uid"] != "fresh" {}
    sleeping_deaf.clear();
}

/// What happened before the first event was lost to a reader that came back without one.
#[test]
fn a_reader_that_has_seen_no_event_yet_resumes_where_it_began() {
    let server = Server::start(&[]);
    let mut stream = Stream::open_and_leave(&server, "/events", &[]);
    let greeting = stream.next_of_any_kind().unwrap();
    assert!(!greeting.id.is_empty() && greeting.data.is_empty(), "{greeting:?}");
    drop(stream);
    created(&server, wb_posted("a"));
    for (path, fields) in [
        ("/events".to_owned(), vec![("Last-Event-ID", greeting.id.as_str())]),
        (format!("/events?lastEventId={}", greeting.id), vec![]),
        // What a browser sends when it connects again is newer than its URL.
        ("/events?lastEventId=x".into(), vec![("Last-Event-ID", greeting.id.as_str())]),
    ] {
        let mut stream = Stream::open(&server, &path, &fields);
        assert_eq!(stream.next_of_any_kind().unwrap().json()["order_uid"], json!("a"), "{path}");
    }
    for lost in ["x", "\u{e9}", ""] {
        let mut stream = Stream::open(&server, "/events", &[("Last-Event-ID", lost)]);
        assert_eq!(stream.next_of_any_kind().unwrap().kind, "reset", "{lost:?}");
    }
}
