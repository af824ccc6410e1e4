//! Subcommands that are not the service.

pub mod export;
pub mod import;
pub mod migrate;
pub mod progress;
