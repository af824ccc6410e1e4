//! A runtime for each core: the same service.

use super::*;
use crate::server::{Connection, SIGNAL_TIME, Server};

const PER_CORE: [&str; 4] = ["--runtime", "per-core", "--threads", "3"];

#[test]
fn whichever_thread_has_a_connection_it_is_answered_alike() {
    let mut server = Server::start(&PER_CORE);
    created(&server, wb_posted("x"));
    let mut connections: Vec<Connection> = (0..60).map(|_| server.connect()).collect();
    for (n, connection) in connections.iter_mut().enumerate() {
        let id = format!("x{n}");
        connection.request("POST", "/orders", &[], wb_posted(&id)).expect(201);
        assert_eq!(connection.get(&format!("/order/{id}")).expect(200).text(), wb_answered(&id));
    }
    for connection in &mut connections {
        for n in [0, 30, 59] {
            assert_eq!(connection.get(&format!("/order/x{n}")).expect(200).text(), wb_answered(&format!("x{n}")));
        }
        assert_eq!(connection.request("GET", "/order/x", &[("If-None-Match", "\"1\"")], "").status, 304);
        connection.get("/order/unknown").expect(404);
        assert_eq!(connection.get("/api/stats").expect(200).json()["total_orders"], 61);
    }
    // What was sampled on each thread is counted together.
    let metrics = server.get("/metrics").expect(200);
    let created = "http_requests_total{endpoint=\"/orders\",method=\"POST\",status=\"201\"} 61";
    assert!(metrics.text().lines().any(|line| line == created), "{}", metrics.text());
    assert_eq!(server.stop().code(), Some(0));
}

#[test]
fn the_limit_of_connections_is_one_for_all_threads() {
    let server = Server::start(&[&PER_CORE[..], &["--http-connections-max", "30"]].concat());
    created(&server, wb_posted("x"));
    let mut idle: Vec<Connection> = (0..30).map(|_| server.connect()).collect();
    for connection in &mut idle {
        connection.get("/order/x").expect(200);
    }
    for _ in 0..10 {
        assert_eq!(server.connect().get("/order/x").expect(200).text(), wb_answered("x"));
    }
}

#[test]
fn an_address_in_use_is_in_use_also_for_threads_that_share_one() {
    for flags in [&PER_CORE[..], &[]] {
        let server = Server::start(flags);
        let address = server.address().to_string();
        let home = tempfile::tempdir().unwrap();
        let mut other = crate::server::binary(home.path());
        let output = other.args(["serve", "--listen", &address]).args(PER_CORE).output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(!output.status.success() && said.contains(&format!("cannot listen on {address}")), "{said}");
    }
}

#[test]
fn a_stop_finishes_what_each_thread_answers() {
    let mut server = Server::start(&PER_CORE);
    let mut connections: Vec<Connection> = (0..12).map(|_| server.connect()).collect();
    for (n, connection) in connections.iter_mut().enumerate() {
        connection.begin_post("/orders", wb_posted(&format!("s{n}")).len());
    }
    let mut idle = server.connect();
    idle.get("/ping").expect(200);
    server.terminate();
    assert!(idle.is_closed_within(SIGNAL_TIME), "the stop has begun");
    let answer = |(n, connection): (usize, &mut Connection)| {
        connection.send(wb_posted(&format!("s{n}")));
        connection.reply("POST").status
    };
    let statuses: Vec<u16> = connections.iter_mut().enumerate().map(answer).collect();
    assert_eq!(server.wait().code(), Some(0));
    server.start_again();
    for (n, status) in statuses.into_iter().enumerate() {
        let kept = server.get(&format!("/order/s{n}")).status;
        assert!(matches!((status, kept), (201, 200) | (503, 404)), "answered {status}, and now {kept}");
    }
}
