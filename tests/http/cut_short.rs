//! Answers over a store that fails, or is busy: a client can tell a whole answer from a part of one, and waits for its
//! turn.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::sync::mpsc;
use std::time::Duration;

use order_service::cache::{self, View};
use order_service::http::{self, Api};
use order_service::id::OrderId;
use order_service::listen::{self, Endpoint};
use order_service::metrics::Metrics;
use order_service::process::lifecycle::{self, Readiness, Trigger};
use order_service::read::{self, Reader};
use order_service::snapshot::{Kind, Snapshot, State};
use order_service::source::inbox;
use order_service::store::Page;
use order_service::tls::server::Protocols;

use crate::scripted::Scripted;
use crate::server::{Connection, Reply};

const NDJSON: [(&str, &str); 1] = [("Accept", "application/x-ndjson")];

/// Answers HTTP from a store in this process, until it is dropped.
struct Service {
    address: SocketAddr,
    store: Scripted,
    _trigger: Trigger,
}

impl Service {
    fn start(pages: impl IntoIterator<Item = Option<Page>>) -> Self {
        Self::start_with(read::Config::default(), pages)
    }

    fn start_with(config: read::Config, pages: impl IntoIterator<Item = Option<Page>>) -> Self {
        let store = Scripted::default();
        let scripted = store.clone();
        store.0.pages.lock().unwrap().extend(pages);
        let (trigger, shutdown) = lifecycle::shutdown();
        let (told, address) = mpsc::channel();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let view = Arc::new(View::new(cache::Config::default(), 0));
                let reader = Reader::new(view, scripted, config);
                let (inbox, _source) = inbox::inbox(&inbox::Config::default());
                let metrics = Metrics::default();
                let api =
                    Api::new(http::Config::default(), reader, inbox, metrics, Readiness::default(), shutdown.clone());
                let listeners =
                    listen::bind(&Endpoint::Tcp(SocketAddr::from(([127, 0, 0, 1], 0))), 1, None, Protocols::Http)
                        .unwrap();
                told.send(listeners[0].endpoint().address().unwrap()).unwrap();
                http::Server::new(api).serve(listeners, shutdown).await.unwrap();
            });
        });
        Self { address: address.recv().unwrap(), store, _trigger: trigger }
    }
}

/// A page of one order.
fn page(name: &str, seq: u64) -> Option<Page> {
    let body = format!(r#"{{"order_uid":"{name}"}}"#);
    let snapshot = Snapshot::new(1, seq, Kind::Wb, State::Live, body.as_bytes(), &mut Vec::new());
    Some(vec![(OrderId::parse(name.as_bytes()).unwrap(), snapshot)])
}

/// Asks as clients of HTTP/1.0 do, which knows no chunks, and reads to the end of the connection.
fn older_reply(service: &Service) -> std::io::Result<Reply> {
    let mut connection = Connection::open(service.address);
    connection.send("GET /api/orders HTTP/1.0\r\nAccept: application/x-ndjson\r\n\r\n");
    connection.try_reply("GET")
}

#[test]
fn a_store_that_fails_in_the_middle_of_all_orders_cuts_the_stream_short() {
    let whole = Service::start([page("b", 2), page("a", 1)]);
    let mut connection = Connection::open(whole.address);
    let reply = connection.request("GET", "/api/orders", &NDJSON, "").expect(200);
    assert_eq!(reply.text(), "{\"order_uid\":\"b\"}\n{\"order_uid\":\"a\"}\n");
    connection.get("/ping").expect(200);

    // It ended like a whole one, so that a client took a part of the orders for all of them.
    let cut = Service::start([page("b", 2), None, page("a", 1)]);
    let mut connection = Connection::open(cut.address);
    connection.ask("GET", "/api/orders", &NDJSON, "");
    let reply = connection.try_reply("GET");
    assert!(reply.is_err(), "it looks whole: {reply:?}");

    // Where the end of the connection is that of the answer too, it was closed as after a whole one.
    let whole = Service::start([page("b", 2), page("a", 1)]);
    assert_eq!(older_reply(&whole).unwrap().text().lines().count(), 2);
    let cut = Service::start([page("b", 2), None]);
    let reply = older_reply(&cut);
    assert!(reply.is_err(), "it looks whole: {reply:?}");
}

#[test]
fn what_finds_the_store_busy_waits_for_its_turn() {
    // All but the first were answered 503, or with a list that was empty, as if there were no orders.
    const EACH: usize = 10;
    let patient = Duration::from_mins(2);
    let config = read::Config { loads_max: 1, load_wait: patient, page_wait: patient, ..read::Config::default() };
    let service = Service::start_with(config, (0..3 * EACH).map(|_| page("b", 2)));
    let script = &service.store.0;
    script.is_held.store(true, Ordering::SeqCst);
    let names: Vec<String> = (0..3 * EACH).map(|n| format!("o-{n}")).collect();
    script.orders.lock().unwrap().extend(names.iter().flat_map(|name| page(name, 1).unwrap()));
    let ask = |method: &str, path: String, body: String| {
        let mut connection = Connection::open(service.address);
        let headers: &[_] = if path == "/api/orders" { &NDJSON } else { &[] };
        connection.ask(method, &path, headers, body);
        connection
    };
    let [mut orders, mut lookups, mut lists, mut streams] = [(); 4].map(|()| Vec::new());
    for n in 0..EACH {
        orders.push(ask("GET", format!("/order/{}", names[n]), String::new()));
        let two = format!("[{:?},{:?}]", names[EACH + n], names[2 * EACH + n]);
        lookups.push(ask("POST", "/api/orders/lookup".into(), two));
        lists.push(ask("GET", format!("/api/orders?limit=5&cursor={}", http::paging::cursor(1295)), String::new()));
        streams.push(ask("GET", "/api/orders".into(), String::new()));
    }
    let asked: Vec<&Connection> = orders.iter().chain(&lookups).chain(&lists).chain(&streams).collect();
    Connection::until_all_read(&asked);
    script.is_held.store(false, Ordering::SeqCst);
    for (n, connection) in orders.iter_mut().enumerate() {
        assert_eq!(connection.reply("GET").expect(200).text(), format!(r#"{{"order_uid":"o-{n}"}}"#));
    }
    for connection in &mut lookups {
        let reply = connection.reply("POST").expect(200);
        assert_eq!((reply.header("X-Missing"), reply.json().as_array().unwrap().len()), (Some("0"), 2));
    }
    // Who comes first gets more of the pages, and none is lost.
    let read = |connection: &mut Connection| connection.reply("GET").expect(200).text().matches("order_uid").count();
    assert_eq!(lists.iter_mut().chain(&mut streams).map(read).sum::<usize>(), 3 * EACH);
}

#[test]
fn a_store_that_fails_before_the_first_of_all_orders_is_an_answer() {
    let service = Service::start([None, page("a", 1)]);
    let mut connection = Connection::open(service.address);
    let failed = connection.request("GET", "/api/orders", &NDJSON, "").expect(503);
    assert_eq!(failed.header("Content-Type"), Some("application/problem+json"));
    assert!(failed.header("Retry-After").is_some());
    let reply = connection.request("GET", "/api/orders", &NDJSON, "").expect(200);
    assert_eq!(reply.text(), "{\"order_uid\":\"a\"}\n");
}
