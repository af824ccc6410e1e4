//! Dead letter topics that refuse, go away and come back. What is kept there, and that nothing waits for ever.

use std::time::Duration;

use super::ledger::{Sent, id, stop};
use super::topic::{Message, Topic};
use crate::server::{Server, until};

/// A message may be older or newer than the dead letter topic lets a message be. It was tried again for ever.
#[test]
fn a_dead_letter_whose_time_its_topic_refuses_says_the_time_in_a_header() {
    let Some(topic) = Topic::create(1) else { return };
    let day = (24 * 60 * 60 * 1000).to_string();
    topic.make_dlq(&[("message.timestamp.before.max.ms", &day)]);
    let mut server = Server::start(&topic.flags());
    let mut sent = Sent::default();
    let old = Message { timestamp: Some(1_500_000_000_000), ..Message::new("rubbish").key("k") };
    // Sent together, so the topic refuses them together.
    let mut messages = vec![Message::new("new rubbish"); 5];
    messages.insert(2, old);
    let places = topic.send(&messages);
    sent.send(&topic.sender(), 0..10);
    topic.wait_committed();
    let letters = topic.letters();
    assert_eq!(letters.len(), 6, "{letters:?}");
    let letter = letters.iter().find(|letter| letter.origin() == places[2]).unwrap();
    assert_eq!((letter.key.as_deref(), letter.value.as_deref()), (Some(&b"k"[..]), Some(&b"rubbish"[..])));
    assert_eq!(letter.header("orders.timestamp.ms"), "1500000000000");
    for letter in letters.iter().filter(|letter| letter.origin() != places[2]) {
        assert!(letter.headers.iter().all(|(name, _)| name != "orders.timestamp.ms"), "{:?}", letter.headers);
    }
    server.get(&format!("/order/{}", id(9))).expect(200);
    stop(&mut server);
}

#[test]
fn a_dead_letter_topic_that_is_deleted_and_made_again_goes_on() {
    let Some(topic) = Topic::create(1) else { return };
    topic.make_dlq(&[]);
    let mut server = Server::start(&topic.flags());
    for round in 0..4 {
        for n in 0..20 {
            topic.send_one(Message::new(format!("rubbish {round} {n}")));
        }
        topic.wait_committed();
        assert_eq!(topic.letters().len(), 20, "round {round}");
        topic.delete_dlq();
        if round % 2 == 0 {
            topic.make_dlq(&[]); // else the service makes it
        }
    }
    stop(&mut server);
}

#[test]
fn readiness_says_that_dead_letters_cannot_be_kept() {
    let Some(topic) = Topic::create(1) else { return };
    // Nothing fits in there, not even an empty value.
    topic.make_dlq(&[("max.message.bytes", "100")]);
    let mut server = Server::start(&topic.flags());
    topic.send_one(Message::new("rubbish"));
    let reason = until("it is not ready", Duration::from_secs(20), || {
        let reply = server.get("/readyz");
        (reply.status == 503).then(|| reply.text().to_owned())
    });
    assert!(reason.contains("dead-letters"), "{reason}");
    server.get("/livez").expect(200);
    // Whoever looks after the topic lets it be kept.
    topic.delete_dlq();
    topic.make_dlq(&[]);
    until("it is ready again", super::RECOVERY, || (server.get("/readyz").status == 200).then_some(()));
    topic.wait_committed();
    assert_eq!(topic.letters().len(), 1);
    stop(&mut server);
}
