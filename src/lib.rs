//! order-service: see the README.
pub mod cache;
pub mod id;
pub mod ingest;
pub mod lifecycle;
pub mod metrics;
pub mod order;
pub mod read;
pub mod record;
pub mod snapshot;
pub mod source;
pub mod store;
pub mod warmup;
