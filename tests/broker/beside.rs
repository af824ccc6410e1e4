//! Two brokers feed one process: the version decides, wherever an order comes from.

use order_service::order::sample;

use super::ledger::Sent;
use super::{Channel, Message, RECOVERY};
use crate::database::Database;
use crate::kafka::topic::Topic;
use crate::nats::subject::Subject;
use crate::server::{Server, until};

#[test]
fn kafka_and_nats_feed_one_process_and_the_version_decides() {
    let Some(database) = Database::create() else { return };
    let (Some(topic), Some(subject)) = (Topic::create(2), Subject::create(1)) else { return };
    let url = database.url();
    let flags = [&topic.flags()[..], &subject.flags_with(&["--postgres", &url, "--batch-rows-max", "16"])].concat();
    let mut server = Server::start(&flags);
    let (mut sent, sender) = (Sent::default(), subject.sender());
    let of_kafka = |n: u64| {
        let mut body = Vec::new();
        sample::wb(23, n, &mut body);
        Message::new(body)
    };
    for round in 0..10 {
        sent.send(&sender, round * 10..round * 10 + 20);
        topic.send(&(0..20).map(|n| of_kafka(1000 + round * 20 + n)).collect::<Vec<_>>());
    }
    until("both are there", RECOVERY, || {
        (server.get("/api/stats").json()["total_orders"] == sent.orders() + 200).then_some(())
    });
    // One order over both, one after the other: the one that came last is the one that counts.
    let shared = of_kafka(5000).value.unwrap();
    let id = sample::wb_id(23, 5000);
    for n in 1..=6_u64 {
        let mut body = shared.clone();
        body.pop();
        body.extend(format!(r#","counter":{n}}}"#).bytes());
        let message = Message::new(body.clone());
        if n % 2 == 0 {
            topic.send_one(message);
        } else {
            subject.send_one(message);
        }
        until("it is stored", RECOVERY, || {
            let reply = server.get(&format!("/order/{id}"));
            (reply.header("ETag") == Some(&format!("\"{n}\"")) && reply.body == body).then_some(())
        });
    }
    topic.wait_acknowledged();
    subject.wait_acknowledged();
    assert_eq!(topic.stop(&mut server)["read"], 203);
}
