//! What messages may be, what becomes of each, and what a dead letter looks like. Into the embedded store.

use std::time::{Duration, SystemTime};

use order_service::order::sample;
use serde_json::json;

use super::RECOVERY;
use super::ledger::{Sent, figures, id, logged, metric, stop};
use super::topic::{Message, Pairs, Topic};
use crate::server::{Server, until};

const USER: &str = "0195c7f0-7b2b-7b84-8b6b-b563feb7b2b8";

/// A WB order, as `wb` profile wants it.
fn wb(n: u64) -> Vec<u8> {
    let mut document = Vec::new();
    sample::wb(5, 100 + n, &mut document);
    document
}

fn wb_id(n: u64) -> String {
    sample::wb_id(5, 100 + n)
}

fn envelope(id: &str, payload: &str) -> Vec<u8> {
    format!(r#"{{"order_id":"{id}","user_id":"{USER}","payload":{payload}}}"#).into_bytes()
}

fn array(elements: &[&[u8]]) -> Vec<u8> {
    [b"[".as_slice(), &elements.join(&b", "[..]), b"]"].concat()
}

/// Waits until these answer 200 with these bodies and this version.
fn wait_orders(server: &Server, orders: &[(String, Vec<u8>, u64)]) {
    for (id, body, version) in orders {
        until(&format!("{id} is there"), RECOVERY, || {
            (server.get(&format!("/order/{id}")).status == 200).then_some(())
        });
        let reply = server.get(&format!("/order/{id}"));
        let etag = format!("\"{version}\"");
        assert_eq!((reply.header("ETag"), reply.text().as_bytes()), (Some(&*etag), &**body), "{id}");
    }
}

#[test]
fn orders_come_in_every_form() {
    let Some(topic) = Topic::create(1) else { return };
    let server = Server::start(&topic.flags());
    let bom = [b"\xef\xbb\xbf".as_slice(), &wb(5)].concat();
    let spaced = serde_json::to_string_pretty(&serde_json::from_slice::<serde_json::Value>(&wb(6)).unwrap()).unwrap();
    let external = "0195c7f0-7b2b-7b84-8b6b-000000000001";
    topic.send(&[
        Message::new(wb(0)).key(wb_id(0)),
        Message::new(wb(1)),
        Message::new(wb(2)).key("not its id"),
        Message::new(array(&[&wb(3), &wb(4)])),
        Message::new(bom),
        Message::new(spaced.clone()),
        Message::new(envelope(external, r#"{"id": "ext-1", "amount": 1e2}"#)).key(external),
        Message::tombstone(&wb_id(1)),
        Message::tombstone("nobody-knows-this-id"),
        Message::new(wb(2)),
    ]);
    topic.wait_committed();
    let six = serde_json::to_vec(&serde_json::from_str::<serde_json::Value>(&spaced).unwrap()).unwrap();
    let mut expected: Vec<_> = [0, 2, 3, 4, 5].map(|n| (wb_id(n), wb(n), 1)).into();
    expected.push((wb_id(6), six, 1));
    wait_orders(&server, &expected);
    let gone = server.get(&format!("/order/{}", wb_id(1))).expect(410);
    assert_eq!(gone.json()["code"], "deleted");
    let envelope = server.get(&format!("/order/{external}")).expect(200);
    assert!(envelope.text().contains(r#""payload":{"id":"ext-1","amount":1e2}"#), "{}", envelope.text());
    let envelope = envelope.json();
    assert_eq!((&envelope["order_uid"], &envelope["user_id"]), (&json!(external), &json!(USER)));
    assert_eq!(server.get("/api/stats").json()["total_orders"], 7);
    assert!(topic.letters().is_empty(), "{:?}", topic.letters());
    let mut server = server;
    let ledger = stop(&mut server);
    assert_eq!((ledger["read"], ledger["rejected"]), (11, 0), "{ledger:?}");
}

#[test]
fn what_is_no_order_is_kept_as_it_came_with_the_reason() {
    let Some(topic) = Topic::create(1) else { return };
    let mut server = Server::start(&topic.flags());
    let own: Pairs = vec![
        ("trace".into(), Some(b"00-ab\xff".to_vec())),
        ("empty".into(), Some(Vec::new())),
        ("none".into(), None),
        ("trace".into(), Some(b"again".to_vec())),
    ];
    let taken = "0195c7f0-7b2b-7b84-8b6b-000000000002";
    let on_taken = String::from_utf8(wb(0)).unwrap().replace(&wb_id(0), taken);
    let nested = array(&[&wb(1), &array(&[&wb(2)])]);
    let partly = array(&[&wb(3), br#"{"order_uid":"x"}"#, b"7", &wb(4)]);
    let framed = [b"\0\0\0\0\x07".as_slice(), &wb(5)].concat();
    let deep = [vec![b'['; 100], vec![b']'; 100]].concat();
    let large = format!(r#"{{"order_uid":"large","text":"{}"}}"#, "x".repeat(900_000)).into_bytes();
    // What is sent, and of its dead letter: the class and a part of the reason.
    let cases: Vec<(Message, &str, &str)> = vec![
        (Message::new("hello"), "malformed", "is not JSON: starts with byte 0x68"),
        (Message::new("{\"order_uid\":"), "malformed", ""),
        (Message::new(b"{\"order_uid\":\"\xff\"}".as_slice()), "malformed", "UTF-8"),
        (Message::new(""), "malformed", "empty"),
        (Message::new("   "), "malformed", ""),
        (Message::new("\u{feff}"), "malformed", ""),
        (Message::new(framed), "malformed", "is framed for a schema registry (schema 7); must be plain JSON"),
        (Message::new(b"Obj\x01".as_slice()), "malformed", "is not JSON: starts with byte 0x4f"),
        (Message::new("\"text\""), "invalid", "object"),
        (Message::new("[]"), "invalid", "is an array without orders"),
        (Message::new("[1, 2"), "malformed", ""),
        (Message::new(deep), "malformed", ""),
        (Message::new(nested), "invalid", "/1: "),
        (Message::new(partly), "invalid", "/1/"),
        (Message::new(large), "invalid", ""),
        (Message::new("{}"), "invalid", ""),
        (Message { key: Some(b"no id!".to_vec()), ..Message::default() }, "invalid", "null value whose key is no id"),
        (Message::default(), "invalid", "null value whose key is no id"),
        (Message::new(on_taken).key(taken), "invalid", "the id belongs to an order of the other kind"),
    ];
    topic.send_one(Message::new(envelope(taken, "{}")));
    let sent_at = 1_700_000_000_000;
    let messages: Vec<_> = (sent_at..)
        .zip(&cases)
        .map(|(timestamp, (message, ..))| Message {
            key: message.key.clone().or_else(|| (timestamp % 2 == 0 && message.value.is_some()).then(|| vec![0xff, 0])),
            timestamp: Some(timestamp),
            headers: if timestamp % 3 == 0 { Vec::new() } else { own.clone() },
            value: message.value.clone(),
        })
        .collect();
    let places = topic.send(&messages);
    topic.wait_committed();
    let letters = topic.letters();
    for ((message, (_, class, reason)), place) in messages.iter().zip(&cases).zip(&places) {
        let mine: Vec<_> = letters.iter().filter(|letter| letter.origin() == *place).collect();
        let shown = String::from_utf8_lossy(message.value.as_deref().unwrap_or(b"null"));
        let shown = &shown[..shown.len().min(40)];
        let [letter] = mine[..] else { panic!("{} dead letters of {shown}", mine.len()) };
        assert_eq!((&letter.key, &letter.value), (&message.key, &message.value), "of {shown}");
        assert_eq!(letter.timestamp, message.timestamp, "of {shown}");
        let (theirs, ours) = letter.headers.split_at(message.headers.len());
        assert_eq!(theirs, message.headers, "of {shown}");
        let names: Vec<_> = ours.iter().map(|(name, _)| name.as_str()).collect();
        let expected = ["topic", "partition", "offset", "stage", "exception.class.name", "exception.message"];
        assert_eq!(names, expected.map(|name| format!("__connect.errors.{name}")), "of {shown}");
        assert_eq!(letter.header("__connect.errors.topic"), topic.name);
        assert_eq!(letter.header("__connect.errors.stage"), "VALUE_CONVERTER");
        let found = letter.header("__connect.errors.exception.class.name");
        let why = letter.header("__connect.errors.exception.message");
        assert_eq!(found, format!("order_service.{class}"), "of {shown}: {why}");
        assert!(!why.is_empty() && why.contains(reason), "of {shown}: {why}");
    }
    assert_eq!(letters.len(), cases.len());
    // The good elements of a partly bad array are stored, each at its first version.
    wait_orders(&server, &[1, 3, 4].map(|n| (wb_id(n), wb(n), 1)));
    assert_eq!(server.get("/api/stats").json()["total_orders"], 4);
    let counts = metric(&server, "orders_dead_lettered_total");
    assert_eq!(counts.values().sum::<u64>(), cases.len() as u64, "{counts:?}");
    assert_eq!(counts["{reason=\"other_kind\"}"], 1, "{counts:?}");
    let ledger = stop(&mut server);
    // Of the partly bad array two orders are good and two are not, of the nested one it is one and one.
    assert_eq!((ledger["read"], ledger["rejected"]), (1 + 19 + 4, 19 + 1), "{ledger:?}");
}

#[test]
fn an_array_whose_orders_are_refused_is_one_dead_letter() {
    let Some(topic) = Topic::create(1) else { return };
    let mut server = Server::start(&topic.flags());
    let ids = ["0195c7f0-7b2b-7b84-8b6b-000000000003", "0195c7f0-7b2b-7b84-8b6b-000000000004"];
    topic.send(&ids.map(|id| Message::new(envelope(id, "{}"))));
    let refused = ids.map(|id| String::from_utf8(wb(0)).unwrap().replace(&wb_id(0), id).into_bytes());
    let mixed = array(&[&refused[0], &wb(1), &refused[1]]);
    let place = topic.send_one(Message::new(mixed));
    topic.wait_committed();
    let letters = topic.letters();
    assert_eq!(letters.iter().map(super::topic::Letter::origin).collect::<Vec<_>>(), [place], "{letters:?}");
    wait_orders(&server, &[(wb_id(1), wb(1), 1)]);
    let ledger = stop(&mut server);
    assert_eq!((ledger["read"], ledger["stored"], ledger["rejected"]), (5, 3, 2), "{ledger:?}");
}

#[test]
fn versions_of_one_order_that_meet_in_a_batch_are_one_change() {
    let Some(topic) = Topic::create(2) else { return };
    let mut sent = Sent::default();
    // All there before anybody reads: one fetch, one batch.
    for _ in 0..5 {
        sent.send(&topic.sender(), 0..20);
    }
    let mut server = Server::start(&topic.flags());
    sent.wait_seen(&server, &topic);
    sent.check_view(&server, None);
    let of_order = server.get(&format!("/order/{}", id(0)));
    assert_eq!(of_order.header("ETag"), Some("\"1\""), "five bodies in one batch are one version");
    let ledger = stop(&mut server);
    assert_eq!((ledger["read"], ledger["stored"], ledger["coalesced"]), (100, 20, 80), "{ledger:?}");
    // They are not read again, and what comes later is a version of its own.
    server.start_again();
    sent.send(&topic.sender(), 0..20);
    until("the later bodies are there", RECOVERY, || {
        (server.get(&format!("/order/{}", id(19))).header("ETag") == Some("\"2\"")).then_some(())
    });
    sent.wait_seen(&server, &topic);
    sent.check_view(&server, None);
    let ledger = stop(&mut server);
    assert_eq!((ledger["read"], ledger["stored"]), (20, 20), "{ledger:?}");
}

fn delay_sum(server: &Server) -> f64 {
    figures(server, "order_end_to_end_seconds_sum")[""].parse().unwrap()
}

#[test]
fn lag_and_delay_are_measured() {
    let Some(topic) = Topic::create(3) else { return };
    let mut sent = Sent::default();
    let server = Server::start(&topic.flags());
    sent.send(&topic.sender(), 0..60);
    sent.send_rubbish(&topic.sender(), 4);
    sent.wait_seen(&server, &topic);
    let lag = metric(&server, "kafka_lag");
    let partitions = [0, 1, 2].map(|partition| (format!("{{partition=\"{partition}\"}}"), 0));
    assert_eq!(lag.into_iter().collect::<Vec<_>>(), partitions);
    assert_eq!(metric(&server, "order_end_to_end_seconds_count")[""], 60);
    let sum = delay_sum(&server);
    assert!(sum > 0.0 && sum < 600.0, "{sum} seconds for 60 orders");
    // An hour late, by its own time.
    let hour_ago = SystemTime::UNIX_EPOCH.elapsed().unwrap().as_millis() as i64 - 3_600_000;
    topic.send_one(Message { timestamp: Some(hour_ago), ..sent.order(60) });
    sent.wait_seen(&server, &topic);
    let sum = delay_sum(&server);
    assert!(sum > 3500.0, "{sum} seconds");
    assert_eq!(metric(&server, "kafka_rebalances_total")[""], 1);
    sent.check_letters(&topic, true);
    assert_eq!(server.get("/readyz").status, 200);
    let assigned = logged(&server, |event| event["message"] == "partitions assigned");
    assert_eq!(assigned["topic"], topic.name.as_str());
}

#[test]
fn only_committed_transactions_count_and_what_is_no_message_is_no_lag() {
    let Some(topic) = Topic::create(1) else { return };
    let mut server = Server::start(&topic.flags_with(&["--kafka-stall-timeout", "1s", "--kafka-lag-max", "5"]));
    let mut sent = Sent::default();
    let committed: Vec<_> = (0..20).map(|n| sent.order(n)).collect();
    topic.send_transaction(&committed, true);
    topic.send_transaction(&[Message::new(wb(0)), Message::new("rubbish")], false);
    topic.send_transaction(&vec![Message::new(wb(1)); 20], false);
    // Last there are only ends of transactions and messages that count for nothing.
    sent.wait_seen(&server, &topic);
    until("there is no lag", RECOVERY, || metric(&server, "kafka_lag").values().all(|lag| *lag == 0).then_some(()));
    std::thread::sleep(Duration::from_secs(3)); // longer than a consumer that is behind may be silent
    assert_eq!(metric(&server, "kafka_stalls_total")[""], 0);
    assert_eq!(server.get("/readyz").status, 200);
    // And what comes later is read.
    sent.send(&topic.sender(), 20..30);
    sent.wait_seen(&server, &topic);
    sent.check_view(&server, None);
    sent.check_letters(&topic, true);
    assert_eq!(stop(&mut server)["read"], 30);
}
