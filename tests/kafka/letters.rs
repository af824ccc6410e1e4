//! What dead letters of Kafka alone may need: a time that the topic takes, and room for a key. NATS has neither.

use super::topic::Topic;
use crate::broker::ledger::{Sent, id};
use crate::broker::letters::incompressible;
use crate::broker::{Channel, Message};
use crate::server::Server;

/// A message may be older or newer than the dead letter topic lets a message be. It was tried again for ever.
#[test]
fn a_dead_letter_whose_time_its_topic_refuses_says_the_time_in_a_header() {
    let Some(topic) = Topic::create(1) else { return };
    let day = (24 * 60 * 60 * 1000).to_string();
    topic.make_topic(&topic.dlq, 1, &[("message.timestamp.before.max.ms", &day)]);
    let mut server = Server::start(&topic.flags());
    let mut sent = Sent::default();
    let old = Message { timestamp: Some(1_500_000_000_000), ..Message::new("rubbish").key("k") };
    // Sent together, so the topic refuses them together.
    let mut messages = vec![Message::new("new rubbish"); 5];
    messages.insert(2, old);
    let places = topic.send(&messages);
    sent.send(&topic.sender(), 0..10);
    topic.wait_acknowledged();
    let letters = topic.letters();
    assert_eq!(letters.len(), 6, "{letters:?}");
    let letter = letters.iter().find(|letter| letter.origin() == places[2]).unwrap();
    assert_eq!((letter.key.as_deref(), letter.value.as_deref()), (Some(&b"k"[..]), Some(&b"rubbish"[..])));
    assert_eq!(letter.header("orders.timestamp.ms"), "1500000000000");
    for letter in letters.iter().filter(|letter| letter.origin() != places[2]) {
        assert!(!letter.has("orders.timestamp.ms"), "{:?}", letter.headers);
    }
    server.get(&format!("/order/{}", id(9))).expect(200);
    topic.stop(&mut server);
}

#[test]
fn a_dead_letter_whose_key_leaves_no_room_has_it_cut_and_says_so() {
    let Some(topic) = Topic::create(1) else { return };
    topic.make_dlq(Some(3000));
    let mut server = Server::start(&topic.flags());
    let key = incompressible(8000);
    let place = topic.send_one(Message::new("no order either").key(key.clone()));
    Sent::default().send(&topic.sender(), 0..10);
    topic.wait_acknowledged();
    let letters = topic.letters();
    assert_eq!(letters.len(), 1, "{letters:?}");
    let cut = &letters[0];
    assert_eq!((cut.origin(), cut.bytes()), (place, b"no order either".as_slice()));
    assert_eq!(cut.header("orders.key.cut.from.bytes"), "8000");
    assert!(cut.key().len() >= 500 && key.starts_with(cut.key()), "{} bytes are left", cut.key().len());
    server.get(&format!("/order/{}", id(9))).expect(200);
    topic.stop(&mut server);
}

/// A compacted topic takes nothing without a key. All intake waited for such a letter, for ever.
#[test]
fn a_dead_letter_without_a_key_that_its_topic_refuses_is_given_one_and_says_so() {
    let Some(topic) = Topic::create(1) else { return };
    topic.make_topic(&topic.dlq, 1, &[("cleanup.policy", "compact")]);
    let mut server = Server::start(&topic.flags());
    let keyed = Message::new("rubbish with a key").key("k");
    let places = topic.send(&[keyed.clone(), Message::new("rubbish"), keyed]);
    let mut sent = Sent::default();
    sent.send(&topic.sender(), 0..10);
    topic.wait_acknowledged();
    let letters = topic.letters();
    assert_eq!(letters.len(), 3, "{letters:?}");
    for letter in &letters {
        let is_without = letter.origin() == places[1];
        let (_, offset) = letter.origin();
        let key = if is_without { format!("{}-0-{offset}", topic.name) } else { "k".into() };
        assert_eq!(letter.key(), key);
        assert_eq!(letter.has("orders.key.added"), is_without, "{:?}", letter.headers);
    }
    server.get(&format!("/order/{}", id(9))).expect(200);
    topic.stop(&mut server);
}

/// Each of them was a panic, and all headers were lost.
#[test]
fn a_header_whose_name_is_not_text_is_kept_with_the_others() {
    let Some(topic) = Topic::create(1) else { return };
    let mut server = Server::start(&topic.flags());
    topic.send_with_header_names("rubbish", &[b"before", b"na\xffme", b"after"]);
    let mut sent = Sent::default();
    sent.send(&topic.sender(), 0..10);
    topic.wait_acknowledged();
    let letters = topic.letters();
    assert_eq!(letters.len(), 1, "{letters:?}");
    for name in ["before", "na\u{fffd}me", "after"] {
        assert_eq!(letters[0].header(name), "a value");
    }
    for line in server.log() {
        assert!(serde_json::from_str::<serde_json::Value>(&line).is_ok(), "{line}");
    }
    topic.stop(&mut server);
}
