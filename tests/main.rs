//! All tests that need the crate from outside, in one binary.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test that cannot go on has failed")]
#![allow(clippy::too_many_lines, reason = "a test tells its story in one piece")]
#![allow(clippy::match_same_arms, clippy::unnecessary_wraps, reason = "in a test each case is said by itself")]
#![allow(clippy::cast_possible_truncation, clippy::zombie_processes, reason = "checked, and waited for, elsewhere")]
// What tests share is used by those of Kafka, for the most part.
#![cfg_attr(not(feature = "kafka"), allow(dead_code))]

mod broker;
mod cli;
mod database;
mod deploy;
mod docs;
mod embedded;
mod grpc;
mod http;
mod ingest;
#[cfg(feature = "kafka")]
mod kafka;
#[cfg(feature = "kafka")]
mod kafka_tools;
mod layers;
mod model;
#[cfg(feature = "kafka")]
mod moving;
mod nats;
mod order;
mod postgres;
mod races;
mod redis;
mod scripted;
mod server;
mod servers;
mod stan;
mod tls;
mod tools;
