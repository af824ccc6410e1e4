//! All tests that need the crate from outside, in one binary.

mod ingest;
mod layers;
mod model;
