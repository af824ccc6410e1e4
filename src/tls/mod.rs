//! Encryption, in and out: certificates, keys and authorities from files of PEM, read again when
//! they change, and what is made of them: the configuration of a listener ([`server`]) and that of
//! a connection to another server ([`client`]). Knows nothing of what is said over either.
//!
//! There is one provider of cryptography in the binary, ring. Errors name the file and what is
//! wrong with it, never a part of what is in it.

pub mod certificate;
pub mod client;
pub mod pem;
pub mod reload;
pub mod server;
pub mod settings;
pub mod words;

use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use rustls::crypto::CryptoProvider;

pub use client::Client;
pub use server::{Acceptor, Server};

/// A file that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}: {what}", .file.display())]
pub struct Error {
    /// The file.
    pub file: PathBuf,
    /// What is wrong with it.
    pub what: String,
}

impl Error {
    fn new(file: &Path, what: impl Into<String>) -> Self {
        Self { file: file.to_owned(), what: what.into() }
    }
}

/// The one provider of cryptography. Libraries that make their own configurations find it too.
#[must_use]
pub fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: OnceLock<Arc<CryptoProvider>> = OnceLock::new();
    let provider = PROVIDER.get_or_init(|| {
        let ring = rustls::crypto::ring::default_provider();
        // What is there already is the same: there is no other in the binary.
        let _ = ring.clone().install_default();
        Arc::new(ring)
    });
    Arc::clone(provider)
}
