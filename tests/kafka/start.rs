//! A start at which something is not there yet, and a store that goes away later.

use std::time::Duration;

use super::ledger::{Sent, id, logged, stop};
use super::topic::{Message, Topic};
use super::{RECOVERY, in_turn};
use crate::database::Database;
use crate::server::{Server, until};
use crate::servers::{self, Private};

#[test]
fn a_topic_that_is_made_later_is_read_from_its_start() {
    let Some(brokers) = servers::kafka() else { return };
    let topic = Topic::named_on(&brokers);
    let mut server = Server::start(&topic.flags()); // ready: there is nothing to be behind of
    topic.make(2);
    let mut sent = Sent::default();
    sent.send(&topic.sender(), 0..50);
    sent.send_rubbish(&topic.sender(), 3);
    sent.wait_seen(&server, &topic);
    sent.check_view(&server, None);
    sent.check_letters(&topic, true);
    assert_eq!(stop(&mut server)["read"], sent.count);
}

#[test]
fn brokers_that_are_away_at_the_start_are_waited_for() {
    let _turn = in_turn();
    let Some(kafka) = Private::kafka(1) else { return };
    let topic = Topic::create_on(kafka.url(), 2);
    let mut sent = Sent::default();
    sent.send(&topic.sender(), 0..100);
    sent.send_rubbish(&topic.sender(), 10);
    kafka.kill();
    let mut server = Server::start_cold(&topic.flags());
    assert_eq!(server.get("/livez").status, 200);
    until("it waits for nothing but Kafka", RECOVERY, || {
        let reply = server.get("/readyz").expect(503);
        reply.text().contains("kafka").then_some(())
    });
    // HTTP does not wait for Kafka.
    let mut body = Vec::new();
    order_service::order::sample::wb(12, 100, &mut body);
    until("HTTP takes orders", RECOVERY, || (server.post("/orders", &body).status / 100 == 2).then_some(()));
    server.get(&format!("/order/{}", order_service::order::sample::wb_id(12, 100))).expect(200);
    kafka.restart();
    topic.wait_committed();
    server.wait_ready();
    assert_eq!(server.get("/api/stats").json()["total_orders"], sent.orders() + 1);
    assert_eq!(server.get(&format!("/order/{}", id(99))).status, 200);
    sent.check_letters(&topic, true);
    assert_eq!(stop(&mut server)["read"], sent.count);
}

#[test]
fn a_store_that_is_away_is_waited_for_and_what_is_known_is_answered() {
    let _turn = in_turn();
    let (Some(postgres), Some(topic)) = (Private::postgres(), Topic::create(2)) else { return };
    let database = Database::create_on(postgres.url());
    let mut sent = Sent::default();
    sent.send(&topic.sender(), 0..100);
    postgres.kill();
    let url = database.url();
    let mut server = Server::start_cold(&topic.flags_with(&["--postgres", &url]));
    assert_eq!(server.get("/livez").status, 200);
    server.get("/readyz").expect(503);
    assert_eq!(server.get(&format!("/order/{}", id(0))).status, 503, "nobody knows whether it is there");
    postgres.restart();
    server.wait_ready();
    sent.check(&[&server], &database, &topic);

    postgres.kill();
    sent.check_view(&server, None);
    sent.send(&topic.sender(), 50..150);
    // A write may wait or be refused; what counts is that it is not acknowledged and then lost.
    let posted = sent.order(200);
    let waiting = std::thread::scope(|scope| {
        let body = posted.value.clone().unwrap();
        let server = &server;
        let waiting = scope.spawn(move || server.post("/orders", body).status);
        logged(server, |event| event["message"] == "commit failed");
        let known = server.get(&format!("/order/{}", id(3))).expect(200);
        assert_eq!(known.header("ETag"), Some("\"1\""));
        postgres.restart();
        waiting.join().unwrap()
    });
    assert!([201, 503].contains(&waiting), "answered {waiting}");
    if waiting == 503 {
        // Then it may be sent again, by whatever way.
        topic.send_one(Message { ..posted });
    } else {
        server.get(&format!("/order/{}", id(200))).expect(200);
    }
    sent.check(&[&server], &database, &topic);
    until("it is ready again", Duration::from_secs(20), || (server.get("/readyz").status == 200).then_some(()));
    stop(&mut server);
}
