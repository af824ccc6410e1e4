//! Subcommands that are not the service.

pub mod backup;
pub mod client;
#[cfg(feature = "kafka")]
pub mod cluster;
#[cfg(feature = "kafka")]
pub mod dlq;
pub mod export;
pub mod healthcheck;
pub mod import;
pub mod load;
pub mod migrate;
pub mod older;
pub mod output;
pub mod progress;
pub mod publish;
