//! All tests that need the crate from outside, in one binary.

mod cli;
mod http;
mod layers;
mod server;
