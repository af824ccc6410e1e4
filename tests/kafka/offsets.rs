//! What brokers are asked about where partitions start and end, and that messages do not wait for
//! the answer: an answer comes behind the long poll of the same connection, so that a question for
//! each partition in turn held up all of them.

use std::collections::BTreeSet;
use std::sync::atomic::Ordering;
use std::sync::{Arc, Mutex};

use order_service::kafka::Config;
use order_service::kafka::tail::Tail;
use order_service::process::lifecycle::{Readiness, Switch};

use super::proxy::Proxy;
use super::topic::Topic;
use crate::broker::ledger::{Sent, id, metric, stop};
use crate::broker::{Channel, Message, RECOVERY};
use crate::server::{Server, until};

/// A service that comes to the brokers through a proxy.
fn start(topic: &Topic) -> (Proxy, Server) {
    let proxy = Proxy::start(&topic.brokers);
    let address = proxy.url();
    let mut flags = topic.flags();
    flags[1] = &address;
    let server = Server::start(&flags);
    (proxy, server)
}

/// How many partitions each question about this topic was about.
fn partitions_asked(proxy: &Proxy, topic: &str) -> BTreeSet<usize> {
    proxy.offset_questions(topic).iter().map(|question| question.partitions).collect()
}

/// With 48 partitions a message was visible after 4 seconds, and of a burst of 30,000 one in ten
/// after a minute.
#[test]
fn however_many_partitions_there_are_each_question_is_about_all_of_them() {
    let Some(topic) = Topic::create(48) else { return };
    let (proxy, mut server) = start(&topic);
    let mut sent = Sent::default();
    let places = sent.send(&topic.sender(), 0..600);
    let partitions: BTreeSet<u32> = places.iter().map(|(partition, _)| *partition).collect();
    assert_eq!(partitions.len(), 48, "each has a message");
    sent.wait_seen(&server, &topic);
    until("there is no lag", RECOVERY, || (Topic::lag(&server) == 0).then_some(()));
    assert_eq!(metric(&server, "kafka_lag").len(), 48);
    assert_eq!(partitions_asked(&proxy, &topic.name), BTreeSet::from([48]));
    assert_eq!(metric(&server, "kafka_stalls_total")[""], 0);
    stop(&mut server, Topic::SOURCE);
}

/// The thread that polls waited for the answer: every message came after another question.
#[test]
fn messages_are_handed_over_while_a_question_has_no_answer() {
    const ENOUGH: u64 = 5;
    let Some(topic) = Topic::create(4) else { return };
    let (proxy, mut server) = start(&topic);
    let (mut sent, sender) = (Sent::default(), topic.sender());
    sent.send(&sender, 0..4);
    sent.wait_seen(&server, &topic);
    proxy.faults().holds_offsets.store(true, Ordering::SeqCst);
    let asked = || proxy.offset_questions(&topic.name).len();
    let first = asked();
    until("a question is held", RECOVERY, || (asked() > first).then_some(()));
    // There is a question every other second, in which a busy machine may not get one through.
    let (mut before, mut unasked, mut n) = (asked(), 0, 4);
    until("several come between two questions", RECOVERY, || {
        sent.send(&sender, [n]);
        let path = format!("/order/{}", id(n));
        until("it is visible", RECOVERY, || (server.get(&path).status == 200).then_some(()));
        let after = asked();
        unasked += u64::from(after == before);
        (before, n) = (after, n + 1);
        (unasked > ENOUGH).then_some(())
    });
    // What cannot be asked is asked again.
    proxy.faults().holds_offsets.store(false, Ordering::SeqCst);
    sent.wait_seen(&server, &topic);
    until("there is no lag", RECOVERY, || (Topic::lag(&server) == 0).then_some(()));
    sent.check_view(&server, None);
    assert_eq!(server.get("/readyz").status, 200);
    stop(&mut server, Topic::SOURCE);
}

/// The same of a topic that is followed, which is no group's.
#[test]
fn a_topic_that_is_followed_is_asked_about_as_a_whole_and_read_meanwhile() {
    let Some(topic) = Topic::create(12) else { return };
    let proxy = Proxy::start(&topic.brokers);
    let config = Config { group: topic.group.clone(), ..Config::new(proxy.url()) };
    let (switch, readiness) = (Switch::default(), Readiness::default());
    let read: Arc<Mutex<BTreeSet<Vec<u8>>>> = Arc::default();
    let into = Arc::clone(&read);
    let take = move |message: &order_service::kafka::tail::Message<'_>| {
        into.lock().unwrap().extend(message.key().map(<[u8]>::to_vec));
    };
    let tail = Tail::start(&config, &topic.name, switch.clone(), readiness.gate("tail", ""), take).unwrap();
    let wait_live = || until("the topic is read", RECOVERY, || switch.is_live().then_some(()));
    topic.send_one(Message::new("earlier").key("earlier"));
    switch.want(true);
    wait_live();
    let keys = |from: u32| (from..from + 50).map(|n| n.to_string().into_bytes()).collect::<BTreeSet<_>>();
    let send = |keys: &BTreeSet<Vec<u8>>| {
        topic.send(&keys.iter().map(|key| Message::new("value").key(key.clone())).collect::<Vec<_>>());
    };
    let wait_read = |keys: &BTreeSet<Vec<u8>>| {
        until("all is read", RECOVERY, || keys.is_subset(&read.lock().unwrap()).then_some(()));
    };
    send(&keys(0));
    wait_read(&keys(0));
    proxy.faults().holds_offsets.store(true, Ordering::SeqCst);
    until("it is not known to be read to its end", RECOVERY, || (!switch.is_live()).then_some(()));
    send(&keys(50));
    wait_read(&keys(50));
    proxy.faults().holds_offsets.store(false, Ordering::SeqCst);
    wait_live();
    // It is read from its end on when it is wanted again.
    switch.want(false);
    until("it is not read", RECOVERY, || (!switch.is_live()).then_some(()));
    send(&keys(100));
    switch.want(true);
    wait_live();
    send(&keys(150));
    wait_read(&keys(150));
    let read = read.lock().unwrap();
    assert!(!read.contains(&b"earlier"[..]) && keys(100).is_disjoint(&read), "{read:?}");
    assert_eq!(partitions_asked(&proxy, &topic.name), BTreeSet::from([12]));
    drop(tail);
}
