//! What is in files of PEM: certificates, private keys, authorities. Reads bytes, never files.

use std::path::Path;

use rustls::RootCertStore;
use rustls::pki_types::pem::{Error as PemError, PemObject};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;

use super::{Error, provider};

/// The certificates in a file, in its order.
///
/// # Errors
/// None are in it, or one is no PEM.
pub fn certificates(file: &Path, text: &[u8]) -> Result<Vec<CertificateDer<'static>>, Error> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(text).collect();
    match found {
        Ok(found) if found.is_empty() => Err(Error::new(file, "has no certificate in PEM")),
        Ok(found) => Ok(found),
        Err(error) => Err(Error::new(file, invalid(&error))),
    }
}

/// The first private key in a file: PKCS#8, PKCS#1 or SEC1.
///
/// # Errors
/// None is in it, or it is encrypted, or no PEM.
pub fn private_key(file: &Path, text: &[u8]) -> Result<PrivateKeyDer<'static>, Error> {
    let is_encrypted = |text: &[u8]| {
        ["BEGIN ENCRYPTED PRIVATE KEY", "Proc-Type: 4,ENCRYPTED"]
            .iter()
            .any(|mark| memchr::memmem::find(text, mark.as_bytes()).is_some())
    };
    if is_encrypted(text) {
        return Err(Error::new(file, "the private key is encrypted; one without a passphrase is needed"));
    }
    PrivateKeyDer::from_pem_slice(text).map_err(|error| match error {
        PemError::NoItemsFound => Error::new(file, "has no private key in PEM"),
        error => Error::new(file, invalid(&error)),
    })
}

/// A chain with the key of its first certificate.
///
/// # Errors
/// Either file cannot be used, or they do not belong together.
pub fn identity(cert: (&Path, &[u8]), key: (&Path, &[u8])) -> Result<CertifiedKey, Error> {
    let chain = certificates(cert.0, cert.1)?;
    let private = private_key(key.0, key.1)?;
    CertifiedKey::from_der(chain, private, &provider()).map_err(|error| match error {
        rustls::Error::InconsistentKeys(_) => {
            Error::new(key.0, format!("is not the key of the certificate in {}", cert.0.display()))
        }
        rustls::Error::InvalidCertificate(error) => Error::new(cert.0, format!("invalid certificate: {error}")),
        error => Error::new(key.0, format!("the private key cannot be used: {error}")),
    })
}

/// The authorities in a file.
///
/// # Errors
/// None are in it, or one cannot be used.
pub fn authorities(file: &Path, text: &[u8]) -> Result<RootCertStore, Error> {
    let mut roots = RootCertStore::empty();
    for (index, certificate) in certificates(file, text)?.into_iter().enumerate() {
        let added = roots.add(certificate);
        added.map_err(|error| Error::new(file, format!("certificate {} cannot be used: {error}", index + 1)))?;
    }
    Ok(roots)
}

/// What is wrong with a file, without a word of it: it may hold a key.
fn invalid(error: &PemError) -> &'static str {
    match error {
        PemError::MissingSectionEnd { .. } => "invalid PEM: a section has no end",
        PemError::IllegalSectionStart { .. } => "invalid PEM: a section has no legal start",
        PemError::Base64Decode(_) => "invalid PEM: not base64",
        _ => "invalid PEM",
    }
}
