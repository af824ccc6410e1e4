//! All tests that need the crate from outside, in one binary.
#![allow(clippy::unwrap_used, clippy::disallowed_methods, reason = "a test that cannot go on has failed")]

mod cli;
mod http;
mod ingest;
mod layers;
mod model;
mod order;
mod server;
