//! What is no order goes where dead letters go: none is lost, none holds up what is an order, and nothing waits for ever.

use super::ledger::{Pace, Sent, Steady, id, logged};
use super::{Channel, Message, RECOVERY, in_turn};
use crate::database::Database;
use crate::server::{Server, until};

/// Not to be made smaller by compression.
pub fn incompressible(bytes: usize) -> String {
    std::iter::repeat_with(|| fastrand::char('!'..='~')).take(bytes).collect()
}

pub fn rubbish_in_every_second_message_is_kept_once_and_holds_up_nothing<C: Channel>() {
    let _turn = in_turn();
    let (Some(database), Some(channel)) = (Database::create(), C::create(3)) else { return };
    let url = database.url();
    let mut server = Server::start(&channel.flags_with(&["--postgres", &url, "--batch-rows-max", "16"]));
    let steady = Steady::start(&channel, Pace { ids: 300, rate: 2000, rubbish: 5, burst: 10 });
    steady.wait_more(5000);
    let sent = steady.stop();
    sent.check(&[&server], &database, &channel);
    sent.check_letters(&channel, true);
    let ledger = channel.stop(&mut server);
    assert_eq!(ledger["read"], sent.count, "{ledger:?}");
    assert!(ledger["rejected"] >= 2500, "{ledger:?}");
}

pub fn a_dead_letter_too_large_for_its_destination_is_cut_and_says_so<C: Channel>() {
    let Some(channel) = C::create(1) else { return };
    channel.make_dlq(Some(1500));
    let mut server = Server::start(&channel.flags());
    let mut sent = Sent::default();
    let value = incompressible(200_000).into_bytes();
    let place = channel.send_one(Message::new(value.clone()).key("k").header("trace", "7"));
    // Small ones, which may be sent together with it and with each other.
    let small = channel.send(&vec![Message::new("small".repeat(80)); 20]);
    sent.send(&channel.sender(), 0..10);
    channel.wait_acknowledged();
    let letters = channel.letters();
    assert_eq!(letters.len(), 21, "{letters:?}");
    let cut = letters.iter().find(|letter| letter.origin() == place).unwrap();
    let left = cut.bytes();
    assert!((100..1500).contains(&left.len()) && value.starts_with(left), "{} bytes are left", left.len());
    assert_eq!((cut.key.as_deref(), cut.header("trace")), (C::HAS_KEYS.then_some(b"k".as_slice()), "7"));
    assert_eq!(cut.header("orders.value.cut.from.bytes"), "200000");
    for place in small {
        let whole = letters.iter().find(|letter| letter.origin() == place).unwrap();
        assert_eq!(whole.bytes(), "small".repeat(80).as_bytes(), "{:?}", whole.headers);
    }
    server.get(&format!("/order/{}", id(9))).expect(200);
    channel.stop(&mut server);
}

pub fn a_dead_letter_whose_headers_leave_no_room_loses_them_and_says_so<C: Channel>() {
    let Some(channel) = C::create(1) else { return };
    channel.make_dlq(Some(3000));
    let mut server = Server::start(&channel.flags());
    let place = channel.send_one(Message::new("no order").key("k").header("trace", incompressible(8000)));
    Sent::default().send(&channel.sender(), 0..10);
    channel.wait_acknowledged();
    let letters = channel.letters();
    assert_eq!(letters.len(), 1, "{letters:?}");
    let cut = &letters[0];
    assert_eq!((cut.origin(), cut.bytes()), (place, b"no order".as_slice()));
    assert_eq!(cut.key.as_deref(), C::HAS_KEYS.then_some(b"k".as_slice()));
    let bytes: u64 = cut.header("orders.headers.cut.from.bytes").parse().unwrap();
    assert!(bytes >= 8005 && C::ADDED_HEADER_BYTES.contains(&(bytes - 8005)), "{bytes}");
    assert!(!cut.has("trace"));
    server.get(&format!("/order/{}", id(9))).expect(200);
    channel.stop(&mut server);
}

pub fn while_a_dead_letter_cannot_be_kept_its_position_is_not_passed<C: Channel>() {
    let Some(channel) = C::create(1) else { return };
    // Nothing fits in there, not even an empty value.
    channel.make_dlq(Some(100));
    let server = Server::start(&channel.flags());
    let mut sent = Sent::default();
    sent.send(&channel.sender(), 0..10);
    channel.wait_acknowledged();
    let before = channel.acknowledged();
    sent.send_rubbish(&channel.sender(), 1);
    logged(&server, |event| event["message"] == "dead letter not delivered, trying again");
    sent.send(&channel.sender(), 10..20);
    // It has waited for several seconds by then, in which a position would have been passed.
    wait_unready::<C>(&server);
    assert_eq!(channel.acknowledged(), before);
    server.get(&format!("/order/{}", id(9))).expect(200);
    server.get(&format!("/order/{}", id(10))).expect(404);
    // Another process with a destination that takes it goes on from there.
    drop(server);
    let channel = channel.with_other_dlq();
    let mut server = Server::start_cold(&channel.flags());
    sent.wait_seen(&server, &channel);
    sent.check_view(&server, None);
    sent.check_letters(&channel, true);
    until("it is ready", RECOVERY, || (server.get("/readyz").status == 200).then_some(()));
    channel.stop(&mut server);
}

/// Waits until readiness says that dead letters cannot be kept.
fn wait_unready<C: Channel>(server: &Server) {
    until("it is not ready", RECOVERY, || {
        let reply = server.get("/readyz");
        (reply.status == 503 && reply.text().contains(C::LETTERS_GATE)).then_some(())
    });
}

pub fn a_destination_of_dead_letters_that_is_deleted_and_made_again_goes_on<C: Channel>() {
    let Some(channel) = C::create(1) else { return };
    channel.make_dlq(None);
    let mut server = Server::start(&channel.flags());
    for round in 0..4 {
        for n in 0..20 {
            channel.send_one(Message::new(format!("rubbish {round} {n}")));
        }
        channel.wait_acknowledged();
        let mut letters: Vec<_> = channel.letters().iter().map(|letter| letter.bytes().to_vec()).collect();
        letters.sort();
        let mut expected: Vec<_> = (0..20).map(|n| format!("rubbish {round} {n}").into_bytes()).collect();
        expected.sort();
        assert_eq!(letters, expected, "round {round}");
        channel.delete_dlq();
        if round % 2 == 0 {
            channel.make_dlq(None); // else the service makes it
        }
    }
    channel.stop(&mut server);
}

pub fn readiness_says_that_dead_letters_cannot_be_kept<C: Channel>() {
    let Some(channel) = C::create(1) else { return };
    // Nothing fits in there, not even an empty value.
    channel.make_dlq(Some(100));
    let mut server = Server::start(&channel.flags());
    let place = channel.send_one(Message::new("rubbish"));
    wait_unready::<C>(&server);
    server.get("/livez").expect(200);
    // The operator sees to it that it can be kept.
    channel.delete_dlq();
    channel.make_dlq(None);
    until("it is ready again", RECOVERY, || (server.get("/readyz").status == 200).then_some(()));
    channel.wait_acknowledged();
    let letters = channel.letters();
    assert_eq!(letters.iter().map(super::Letter::origin).collect::<Vec<_>>(), [place], "{letters:?}");
    channel.stop(&mut server);
}
