//! order-service: see the README.
pub mod id;
pub mod order;
pub mod record;
pub mod snapshot;
