//! All tests that need the crate from outside, in one binary.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test that cannot go on has failed")]
#![allow(clippy::match_same_arms, clippy::unnecessary_wraps, reason = "in a test each case is said by itself")]
#![allow(clippy::cast_possible_truncation, clippy::zombie_processes, reason = "checked, and waited for, elsewhere")]

mod broker;
mod cli;
mod database;
mod deploy;
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
