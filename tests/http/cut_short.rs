//! The stream of all orders over a store that fails: a client can tell a whole answer from a part of one.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::mpsc;

use order_service::cache::{self, View};
use order_service::http::{self, Api, route};
use order_service::id::OrderId;
use order_service::lifecycle::{self, Readiness, Trigger};
use order_service::metrics::Metrics;
use order_service::read::{self, Reader};
use order_service::snapshot::{Kind, Snapshot, State};
use order_service::source::inbox;
use order_service::store::Page;

use crate::scripted::Scripted;
use crate::server::Connection;

const NDJSON: [(&str, &str); 1] = [("Accept", "application/x-ndjson")];

/// Answers HTTP from a store in this process, until it is dropped.
struct Service {
    address: SocketAddr,
    _trigger: Trigger,
}

impl Service {
    fn start(pages: impl IntoIterator<Item = Option<Page>>) -> Self {
        let store = Scripted::default();
        store.0.pages.lock().unwrap().extend(pages);
        let (trigger, shutdown) = lifecycle::shutdown();
        let (told, address) = mpsc::channel();
        std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let view = Arc::new(View::new(cache::Config::default(), 0));
                let reader = Reader::new(view, store, read::Config::default());
                let (inbox, _source) = inbox::inbox(&inbox::Config::default());
                let metrics = Metrics::new(route::ENDPOINTS, route::METHODS);
                let api =
                    Api::new(http::Config::default(), reader, inbox, metrics, Readiness::default(), shutdown.clone());
                let listeners = http::bind(SocketAddr::from(([127, 0, 0, 1], 0)), 1).unwrap();
                told.send(listeners[0].local_addr().unwrap()).unwrap();
                http::Server::new(api).serve(listeners, shutdown).await.unwrap();
            });
        });
        Self { address: address.recv().unwrap(), _trigger: trigger }
    }
}

/// A page of one order.
fn page(name: &str, seq: u64) -> Option<Page> {
    let body = format!(r#"{{"order_uid":"{name}"}}"#);
    let snapshot = Snapshot::new(1, seq, Kind::Wb, State::Live, body.as_bytes(), &mut Vec::new());
    Some(vec![(OrderId::parse(name.as_bytes()).unwrap(), snapshot)])
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
