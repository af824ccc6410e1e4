//! A consumer that is behind and gets nothing, as from a connection that is dead and not closed.

use super::proxy::Proxy;
use super::topic::Topic;
use crate::broker::ledger::{Sent, metric, stop};
use crate::broker::{Channel, RECOVERY};
use crate::server::{Server, until};

#[test]
fn a_consumer_that_gets_nothing_is_replaced_and_everything_is_read() {
    let Some(topic) = Topic::create(2) else { return };
    let proxy = Proxy::start(&topic.brokers);
    let address = proxy.url();
    // Left to itself the library would give the connection up after five minutes.
    let more = ["--kafka-stall-timeout", "2s", "--kafka-property", "socket.timeout.ms=300000"];
    let mut flags = topic.flags_with(&more);
    flags[1] = &address;
    let mut server = Server::start(&flags);
    let mut sent = Sent::default();
    sent.send(&topic.sender(), 0..100);
    sent.wait_seen(&server, &topic);
    // On a busy machine a broker may take as long for its first answers.
    let stalls = || metric(&server, "kafka_stalls_total")[""];
    let before = stalls();
    proxy.stall_fetches();
    sent.send(&topic.sender(), 100..200);
    until("a stall is counted", RECOVERY, || (stalls() > before).then_some(()));
    sent.wait_seen(&server, &topic);
    sent.check_view(&server, None);
    until("it is ready", RECOVERY, || (server.get("/readyz").status == 200).then_some(()));
    stop(&mut server, Topic::SOURCE);
}
