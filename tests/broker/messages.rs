//! What messages may be, what becomes of each, and what a dead letter looks like. Into the embedded store, where nothing
//! else is said.

use serde_json::json;

use super::ledger::{Sent, figures, id, metric};
use super::{Channel, Letter, Message, RECOVERY};
use crate::database::Database;
use crate::server::{Server, until};

pub const USER: &str = "0195c7f0-7b2b-7b84-8b6b-b563feb7b2b8";

/// A WB order, as `wb` profile wants it.
pub fn wb(n: u64) -> Vec<u8> {
    let mut document = Vec::new();
    order_service::order::sample::wb(5, 100 + n, &mut document);
    document
}

pub fn wb_id(n: u64) -> String {
    order_service::order::sample::wb_id(5, 100 + n)
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

pub fn orders_are_stored_and_rubbish_is_parked_and_all_is_acknowledged<C: Channel>() {
    let Some(channel) = C::create(3) else { return };
    let mut server = Server::start(&channel.flags());
    let (mut sent, sender) = (Sent::default(), channel.sender());
    for round in 0..20 {
        sent.send(&sender, round * 10..round * 10 + 10);
        sent.send_rubbish(&sender, 10);
    }
    sent.wait_seen(&server, &channel);
    sent.check_view(&server, None);
    sent.check_letters(&channel, true);
    assert!(C::is_undisturbed(&server), "{}", server.get("/metrics").text());
    until("no lag is told", RECOVERY, || (C::lag(&server) == 0).then_some(()));
    assert_eq!(metric(&server, "order_end_to_end_seconds_count")[""], 200, "the time since each was sent");
    let sum: f64 = figures(&server, "order_end_to_end_seconds_sum")[""].parse().unwrap();
    assert!(sum > 0.0 && sum < 200.0 * RECOVERY.as_secs_f64(), "{sum} seconds for 200 orders");
    assert_eq!(server.get("/readyz").status, 200);
    let ledger = channel.stop(&mut server);
    assert_eq!((ledger["read"], ledger["rejected"], ledger["stored"]), (400, 200, 200));
}

pub fn orders_come_in_every_form<C: Channel>() {
    let Some(channel) = C::create(1) else { return };
    let mut server = Server::start(&channel.flags());
    let bom = [b"\xef\xbb\xbf".as_slice(), &wb(5)].concat();
    let spaced = serde_json::to_string_pretty(&serde_json::from_slice::<serde_json::Value>(&wb(6)).unwrap()).unwrap();
    let external = "0195c7f0-7b2b-7b84-8b6b-000000000001";
    channel.send(&[
        Message::new(wb(0)).key(wb_id(0)),
        Message::new(wb(1)),
        Message::new(wb(2)).key("not its id"),
        Message::new(array(&[&wb(3), &wb(4)])),
        Message::new(bom),
        Message::new(spaced.clone()),
        Message::new(envelope(external, r#"{"id": "ext-1", "amount": 1e2}"#)).key(external),
        Message::new(wb(2)),
    ]);
    channel.wait_acknowledged();
    let six = serde_json::to_vec(&serde_json::from_str::<serde_json::Value>(&spaced).unwrap()).unwrap();
    let mut expected: Vec<_> = [0, 1, 2, 3, 4, 5].map(|n| (wb_id(n), wb(n), 1)).into();
    expected.push((wb_id(6), six, 1));
    wait_orders(&server, &expected);
    let envelope = server.get(&format!("/order/{external}")).expect(200);
    assert!(envelope.text().contains(r#""payload":{"id":"ext-1","amount":1e2}"#), "{}", envelope.text());
    let envelope = envelope.json();
    assert_eq!((&envelope["order_uid"], &envelope["user_id"]), (&json!(external), &json!(USER)));
    assert_eq!(server.get("/api/stats").json()["total_orders"], 8);
    assert!(channel.letters().is_empty(), "{:?}", channel.letters());
    let ledger = channel.stop(&mut server);
    assert_eq!((ledger["read"], ledger["rejected"]), (9, 0), "{ledger:?}");
}

pub fn what_is_no_order_is_kept_as_it_came_with_the_reason<C: Channel>() {
    let Some(channel) = C::create(1) else { return };
    let mut server = Server::start(&channel.flags());
    let taken = "0195c7f0-7b2b-7b84-8b6b-000000000002";
    let on_taken = String::from_utf8(wb(0)).unwrap().replace(&wb_id(0), taken);
    let nested = array(&[&wb(1), &array(&[&wb(2)])]);
    let partly = array(&[&wb(3), br#"{"order_uid":"x"}"#, b"7", &wb(4)]);
    let framed = [b"\0\0\0\0\x07".as_slice(), &wb(5)].concat();
    let deep = [vec![b'['; 100], vec![b']'; 100]].concat();
    let large = format!(r#"{{"order_uid":"large","text":"{}"}}"#, "x".repeat(900_000)).into_bytes();
    // What is sent, and of its dead letter: the class and a part of the reason.
    let mut cases: Vec<(Message, &str, &str)> = vec![
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
        (Message::new(on_taken).key(taken), "invalid", "the id belongs to an order of the other kind"),
    ];
    if C::HAS_KEYS {
        let why = "null value whose key is no id";
        cases.push((Message { key: Some(b"no id!".to_vec()), ..Message::default() }, "invalid", why));
        cases.push((Message::default(), "invalid", why));
    }
    channel.send_one(Message::new(envelope(taken, "{}")));
    let sent_at = 1_700_000_000_000;
    let messages: Vec<_> = (sent_at..)
        .zip(&cases)
        .map(|(timestamp, (message, ..))| Message {
            key: message.key.clone().or_else(|| (timestamp % 2 == 0 && message.value.is_some()).then(|| vec![0xff, 0])),
            timestamp: Some(timestamp),
            headers: if timestamp % 3 == 0 { Vec::new() } else { C::various_headers() },
            value: message.value.clone(),
        })
        .collect();
    let places = channel.send(&messages);
    channel.wait_acknowledged();
    let letters = channel.letters();
    for ((message, (_, class, reason)), place) in messages.iter().zip(&cases).zip(&places) {
        let mine: Vec<_> = letters.iter().filter(|letter| letter.origin() == *place).collect();
        let shown = String::from_utf8_lossy(message.value.as_deref().unwrap_or(b"null"));
        let shown: String = shown.chars().take(40).collect();
        let [letter] = mine[..] else { panic!("{} dead letters of {shown}", mine.len()) };
        channel.assert_kept(message, letter);
        assert_eq!(letter.header("__connect.errors.topic"), channel.name());
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
    let ledger = channel.stop(&mut server);
    // Of the partly bad array two orders are good and two are not, of the nested one it is one and one.
    let count = cases.len() as u64;
    assert_eq!((ledger["read"], ledger["rejected"]), (1 + count + 4, count + 1), "{ledger:?}");
}

pub fn an_array_whose_orders_are_refused_is_one_dead_letter<C: Channel>() {
    let Some(channel) = C::create(1) else { return };
    let mut server = Server::start(&channel.flags());
    let ids = ["0195c7f0-7b2b-7b84-8b6b-000000000003", "0195c7f0-7b2b-7b84-8b6b-000000000004"];
    channel.send(&ids.map(|id| Message::new(envelope(id, "{}"))));
    let refused = ids.map(|id| String::from_utf8(wb(0)).unwrap().replace(&wb_id(0), id).into_bytes());
    let mixed = array(&[&refused[0], &wb(1), &refused[1]]);
    let place = channel.send_one(Message::new(mixed));
    channel.wait_acknowledged();
    let letters = channel.letters();
    assert_eq!(letters.iter().map(Letter::origin).collect::<Vec<_>>(), [place], "{letters:?}");
    wait_orders(&server, &[(wb_id(1), wb(1), 1)]);
    let ledger = channel.stop(&mut server);
    assert_eq!((ledger["read"], ledger["stored"], ledger["rejected"]), (5, 3, 2), "{ledger:?}");
}

pub fn an_order_that_the_database_refuses_is_a_dead_letter_and_the_others_are_stored<C: Channel>() {
    let (Some(database), Some(channel)) = (Database::create(), C::create(1)) else { return };
    let url = database.url();
    let mut server = Server::start(&channel.flags_with(&["--postgres", &url]));
    database.query(&format!("ALTER TABLE orders ADD CONSTRAINT owners_rule CHECK (order_uid <> '{}')", wb_id(7)));
    let places = channel.send(&(0..20).map(|n| Message::new(wb(n))).collect::<Vec<_>>());
    channel.wait_acknowledged();
    let letters = channel.letters();
    assert_eq!(letters.iter().map(Letter::origin).collect::<Vec<_>>(), [places[7]], "{letters:?}");
    let why = letters[0].header("__connect.errors.exception.message");
    assert!(why.contains("\"owners_rule\"") && why.contains("23514"), "{why}");
    let others: Vec<_> = (0..20).filter(|n| *n != 7).map(|n| (wb_id(n), wb(n), 1)).collect();
    wait_orders(&server, &others);
    let ledger = channel.stop(&mut server);
    assert_eq!((ledger["read"], ledger["stored"], ledger["rejected"]), (20, 19, 1), "{ledger:?}");
}

/// Orders gather in the batch behind one that cannot be stored yet.
pub fn versions_of_one_order_that_meet_in_a_batch_are_one_change<C: Channel>() {
    let (Some(database), Some(channel)) = (Database::create(), C::create(2)) else { return };
    let url = database.url();
    let mut server = Server::start(&channel.flags_with(&["--postgres", &url]));
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let blocker = runtime.block_on(database.client());
    runtime.block_on(blocker.batch_execute("BEGIN; LOCK TABLE positions IN EXCLUSIVE MODE")).unwrap();
    let mut sent = Sent::default();
    sent.send(&channel.sender(), [100]);
    let waiting = "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'";
    until("a batch cannot be stored yet", RECOVERY, || (!database.query(waiting).is_empty()).then_some(()));
    for _ in 0..5 {
        sent.send(&channel.sender(), 0..20);
    }
    let coalesced = || metric(&server, "order_coalesced_total")[""];
    until("all bodies are in the next batch", RECOVERY, || (coalesced() == 80).then_some(()));
    runtime.block_on(blocker.batch_execute("COMMIT")).unwrap();
    sent.wait_seen(&server, &channel);
    sent.check_view(&server, None);
    let of_order = server.get(&format!("/order/{}", id(0)));
    assert_eq!(of_order.header("ETag"), Some("\"1\""), "five bodies in one batch are one version");
    let ledger = channel.stop(&mut server);
    assert_eq!((ledger["read"], ledger["stored"], ledger["coalesced"]), (101, 21, 80), "{ledger:?}");
    // They are not read again, and what comes later is a version of its own.
    server.start_again();
    sent.send(&channel.sender(), 0..20);
    sent.check(&[&server], &database, &channel);
    assert_eq!(server.get(&format!("/order/{}", id(19))).header("ETag"), Some("\"2\""));
    let ledger = channel.stop(&mut server);
    assert_eq!((ledger["read"], ledger["stored"]), (20, 20), "{ledger:?}");
}

pub fn a_stop_acknowledges_everything_and_the_next_start_goes_on_from_there<C: Channel>() {
    let (Some(database), Some(channel)) = (Database::create(), C::create(2)) else { return };
    let url = database.url();
    let mut server = Server::start(&channel.flags_with(&["--postgres", &url]));
    let (mut sent, sender) = (Sent::default(), channel.sender());
    sent.send(&sender, 0..100);
    sent.wait_stored(&[&server], &database, &channel);
    assert_eq!(channel.stop(&mut server)["read"], 100);
    assert_eq!(channel.acknowledged(), channel.ends(), "all is acknowledged before the end");
    sent.send(&sender, 50..150);
    server.start_again();
    sent.check(&[&server], &database, &channel);
    let ledger = channel.stop(&mut server);
    assert_eq!(ledger["read"], 100, "nothing is read twice: {ledger:?}");
}

/// It cost 85 MiB, and a dead letter that named each of them.
pub fn an_array_of_rubbish_costs_little_and_names_some_of_it<C: Channel>() {
    const RUBBISH: usize = 400_000;
    let Some(channel) = C::create(1) else { return };
    let mut server = Server::start(&channel.flags());
    channel.send_one(Message::new(wb(0)));
    channel.wait_acknowledged();
    let before = server.peak_bytes();
    let mut document = b"[".to_vec();
    document.extend(b"1,".repeat(RUBBISH));
    document.extend(wb(1));
    document.push(b']');
    let place = channel.send_one(Message::new(document));
    channel.wait_acknowledged();
    let grown = (server.peak_bytes() - before) >> 20;
    wait_orders(&server, &[(wb_id(1), wb(1), 1)]);
    let letters = channel.letters();
    let [letter] = &letters[..] else { panic!("{} dead letters", letters.len()) };
    assert_eq!(letter.origin(), place);
    let why = letter.header("__connect.errors.exception.message");
    assert!(why.starts_with("/0: must be a JSON object; /1: ") && why.contains("/99: "), "{why}");
    assert!(why.ends_with("; there are more faults") && !why.contains("/100: "), "{why}");
    assert!(grown < 60, "grown by {grown} MiB");
    let ledger = channel.stop(&mut server);
    assert_eq!((ledger["read"], ledger["stored"], ledger["rejected"]), (2 + RUBBISH as u64, 2, RUBBISH as u64));
}

/// They are JSON, and were said not to be.
pub fn numbers_beyond_double_precision_are_kept_as_they_are_spelled<C: Channel>() {
    let Some(channel) = C::create(1) else { return };
    let mut server = Server::start(&channel.flags());
    let long = "1234567890".repeat(40);
    let members = format!(r#"{{"x_huge":1e400,"x_more":[-1E+999,{long},-{long}.5,1e-400,"\n"],"#);
    let order = |n: u64| String::from_utf8(wb(n)).unwrap().replacen('{', &members, 1).into_bytes();
    let payload = format!(r#"{{"id":{long},"amount":1e400,"x":[{long},1e400]}}"#);
    let ids = ["0195c7f0-7b2b-7b84-8b6b-000000000005", "0195c7f0-7b2b-7b84-8b6b-000000000006"];
    let as_text = serde_json::to_string(&payload).unwrap();
    channel.send(&[
        Message::new(order(0)),
        Message::new(array(&[&order(1), &order(2)])),
        Message::new(envelope(ids[0], &payload)),
        Message::new(format!(r#"{{"order_id":"{}","user_id":"{USER}","payload_json":{as_text}}}"#, ids[1])),
    ]);
    channel.wait_acknowledged();
    wait_orders(&server, &[0, 1, 2].map(|n| (wb_id(n), order(n), 1)));
    for id in ids {
        let reply = server.get(&format!("/order/{id}")).expect(200);
        assert!(
            reply.text().contains(&format!(r#""amount":0,"status":"new","payload":{payload},"#)),
            "{}",
            reply.text()
        );
    }
    server.restart();
    wait_orders(&server, &[0, 1, 2].map(|n| (wb_id(n), order(n), 1)));
    assert!(channel.letters().is_empty(), "{:?}", channel.letters());
}

/// One time stamp of 2001 added 25 years to the sum.
pub fn a_time_stamp_that_means_nothing_does_not_drown_the_others<C: Channel>() {
    let Some(channel) = C::create(1) else { return };
    let mut server = Server::start(&channel.flags());
    let at = |n: u64, timestamp: i64| Message { timestamp: Some(timestamp), ..Message::new(wb(n)) };
    channel.send(&[at(0, 1), at(1, 978_307_200_000), at(2, 1_000_000_000_000), Message::new(wb(3))]);
    channel.wait_acknowledged();
    let sum: f64 = figures(&server, "order_end_to_end_seconds_sum")[""].parse().unwrap();
    assert!(sum < 2.0 * 86_400.0 + RECOVERY.as_secs_f64() * 4.0, "{sum} seconds");
    channel.stop(&mut server);
}
