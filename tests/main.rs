//! All tests that need the crate from outside, in one binary.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test that cannot go on has failed")]
#![allow(clippy::match_same_arms, clippy::unnecessary_wraps, reason = "in a test each case is said by itself")]
#![allow(clippy::cast_possible_truncation, clippy::zombie_processes, reason = "checked, and waited for, elsewhere")]

#[cfg(all(feature = "postgres", any(feature = "kafka", feature = "nats")))]
mod broker;
mod cli;
#[cfg(feature = "postgres")]
mod database;
mod deploy;
#[cfg(feature = "embedded")]
mod embedded;
#[cfg(feature = "grpc")]
mod grpc;
mod http;
#[cfg(feature = "embedded")]
mod ingest;
#[cfg(all(feature = "postgres", feature = "kafka"))]
mod kafka;
#[cfg(all(feature = "postgres", feature = "kafka"))]
mod kafka_tools;
mod layers;
mod model;
#[cfg(all(feature = "postgres", feature = "kafka", feature = "nats", feature = "redis"))]
mod moving;
#[cfg(all(feature = "postgres", feature = "nats"))]
mod nats;
mod order;
#[cfg(feature = "postgres")]
mod postgres;
mod races;
#[cfg(all(feature = "embedded", feature = "postgres", feature = "redis"))]
mod redis;
mod scripted;
mod server;
mod servers;
#[cfg(all(feature = "postgres", feature = "nats"))]
mod stan;
mod tls;
mod tools;
