//! What has a meaning with Kafka only: groups that share partitions, null values, keys, times and transactions, the
//! topics that writes are published to. Each test has topics and a group of its own. What holds for every broker is in
//! `broker`.

mod followed;
mod letters;
mod lost_brokers;
mod messages;
mod offsets;
mod outbox;
pub mod proxy;
mod rebalance;
mod remade;
mod rights;
mod stall;
pub mod topic;
mod work;
