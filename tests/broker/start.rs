//! A start at which something is not there yet, a store that becomes unavailable later, and stops that wait for nothing.

use super::ledger::{Sent, id, logged};
use super::{Channel, RECOVERY, in_turn};
use crate::database::Database;
use crate::server::{Server, until};
use crate::servers::Private;

/// A body that comes from elsewhere than the books.
fn foreign() -> (String, Vec<u8>) {
    let mut body = Vec::new();
    order_service::order::sample::wb(12, 100, &mut body);
    (order_service::order::sample::wb_id(12, 100), body)
}

pub fn a_destination_that_is_made_later_is_read_from_its_start<C: Channel>() {
    let Some(channel) = C::named() else { return };
    let mut server = Server::start(&channel.flags()); // ready: there is nothing to be behind of
    channel.make(2);
    let mut sent = Sent::default();
    sent.send(&channel.sender(), 0..50);
    sent.send_rubbish(&channel.sender(), 3);
    sent.wait_seen(&server, &channel);
    sent.check_view(&server, None);
    sent.check_letters(&channel, true);
    assert_eq!(channel.stop(&mut server)["read"], sent.count);
}

/// With messages that wait there, or with nothing made yet.
fn is_waited_for<C: Channel>(is_made: bool) {
    let _turn = in_turn();
    let Some(broker) = C::private() else { return };
    let channel = C::named_on(broker.url());
    let mut sent = Sent::default();
    if is_made {
        channel.make(2);
        sent.send(&channel.sender(), 0..100);
        sent.send_rubbish(&channel.sender(), 10);
    }
    broker.kill();
    let mut server = Server::start_cold(&channel.flags());
    assert_eq!(server.get("/livez").status, 200);
    until("it waits for nothing but the broker", RECOVERY, || {
        let reply = server.get("/readyz").expect(503);
        (reply.text().contains(C::NOT_CONNECTED) && !reply.text().contains("warm-up")).then_some(())
    });
    // HTTP does not wait for the broker.
    let (foreign, body) = foreign();
    server.post("/orders", &body).expect(201);
    server.get(&format!("/order/{foreign}")).expect(200);
    broker.restart();
    if !is_made {
        until("it is ready", RECOVERY, || (server.get("/readyz").status == 200).then_some(()));
        channel.make(2);
    }
    sent.send(&channel.sender(), 50..150);
    sent.send_rubbish(&channel.sender(), 5);
    channel.wait_acknowledged();
    until("it is ready", RECOVERY, || (server.get("/readyz").status == 200).then_some(()));
    assert_eq!(server.get("/api/stats").json()["total_orders"], sent.orders() + 1);
    assert_eq!(server.get(&format!("/order/{}", id(149))).status, 200);
    sent.check_letters(&channel, true);
    assert_eq!(channel.stop(&mut server)["read"], sent.count);
}

pub fn a_broker_that_is_unavailable_at_the_start_is_waited_for<C: Channel>() {
    is_waited_for::<C>(true);
}

pub fn a_broker_that_is_unavailable_at_the_start_and_has_nothing_yet_is_waited_for<C: Channel>() {
    is_waited_for::<C>(false);
}

pub fn a_store_that_is_unavailable_is_waited_for_and_what_is_known_is_answered<C: Channel>() {
    let _turn = in_turn();
    let (Some(postgres), Some(channel)) = (Private::postgres(), C::create(2)) else { return };
    let database = Database::create_on(postgres.url());
    let mut sent = Sent::default();
    sent.send(&channel.sender(), 0..100);
    postgres.kill();
    let url = database.url();
    let mut server = Server::start_cold(&channel.flags_with(&["--postgres", &url]));
    assert_eq!(server.get("/livez").status, 200);
    server.get("/readyz").expect(503);
    assert_eq!(server.get(&format!("/order/{}", id(0))).status, 503, "it may be there or not");
    postgres.restart();
    server.wait_ready();
    sent.check(&[&server], &database, &channel);

    postgres.kill();
    sent.check_view(&server, None);
    sent.send(&channel.sender(), 50..150);
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
        channel.send_one(posted);
    } else {
        server.get(&format!("/order/{}", id(200))).expect(200);
    }
    sent.check(&[&server], &database, &channel);
    until("it is ready again", RECOVERY, || (server.get("/readyz").status == 200).then_some(()));
    channel.stop(&mut server);
}

pub fn a_stop_does_not_wait_for_a_broker_that_was_never_reached<C: Channel>() {
    let mut server = Server::start_cold(C::NOWHERE);
    server.get("/livez").expect(200);
    let status = server.stop();
    assert!(status.success(), "stopped with {status}");
}

/// What is durable and could not be acknowledged is not read again: the store knows.
pub fn a_stop_while_the_broker_is_unavailable_loses_and_repeats_nothing<C: Channel>() {
    let _turn = in_turn();
    let (Some(broker), Some(database)) = (C::private(), Database::create()) else { return };
    let channel = C::create_on(broker.url(), 2);
    let url = database.url();
    let mut server = Server::start(&channel.flags_with(&["--postgres", &url, "--batch-rows-max", "16"]));
    let (mut sent, sender) = (Sent::default(), channel.sender());
    sent.send(&sender, 0..200);
    sent.send_rubbish(&sender, 5);
    sent.wait_stored(&[&server], &database, &channel);
    broker.kill();
    assert_eq!(channel.stop(&mut server)["read"], 205);
    broker.restart();
    sent.send(&sender, 100..300);
    server.start_again_cold();
    sent.check(&[&server], &database, &channel);
    channel.wait_acknowledged();
    assert_eq!(channel.stop(&mut server)["read"], 200, "nothing is read twice");
}
