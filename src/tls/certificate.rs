//! What is read in a certificate: names, and the digest that a channel is bound by.

use std::net::{Ipv4Addr, Ipv6Addr};

use rustls::pki_types::CertificateDer;
use sha2::{Digest, Sha256, Sha384, Sha512};
use x509_cert::Certificate;
use x509_cert::der::Decode;
use x509_cert::der::asn1::ObjectIdentifier;
use x509_cert::ext::pkix::SubjectAltName;
use x509_cert::ext::pkix::name::GeneralName;

/// A certificate's subject as RFC 4514 writes it, such as `CN=shop,O=Example`. `None` for what
/// cannot be read.
#[must_use]
pub fn subject(certificate: &CertificateDer<'_>) -> Option<String> {
    let certificate = Certificate::from_der(certificate).ok()?;
    Some(certificate.tbs_certificate().subject().to_string())
}

/// Who has issued a certificate, as [`subject`] writes it.
#[must_use]
pub fn issuer(certificate: &CertificateDer<'_>) -> Option<String> {
    let certificate = Certificate::from_der(certificate).ok()?;
    Some(certificate.tbs_certificate().issuer().to_string())
}

/// The hosts that it is for: names, and addresses. None for what cannot be read.
#[must_use]
pub fn names(certificate: &CertificateDer<'_>) -> Vec<String> {
    let read = Certificate::from_der(certificate).ok();
    let found = read.and_then(|read| read.tbs_certificate().get_extension::<SubjectAltName>().ok().flatten());
    let names = found.map(|(_, names)| names.0).unwrap_or_default();
    let named = names.iter().filter_map(|name| match name {
        GeneralName::DnsName(name) => Some(name.to_string()),
        GeneralName::IpAddress(bytes) => match *bytes.as_bytes() {
            [a, b, c, d] => Some(Ipv4Addr::new(a, b, c, d).to_string()),
            _ => <[u8; 16]>::try_from(bytes.as_bytes()).ok().map(|bytes| Ipv6Addr::from(bytes).to_string()),
        },
        _ => None,
    });
    named.collect()
}

/// From when and until when it is valid, in seconds since 1970. `None` for what cannot be read.
#[must_use]
pub fn validity(certificate: &CertificateDer<'_>) -> Option<(u64, u64)> {
    let certificate = Certificate::from_der(certificate).ok()?;
    let validity = certificate.tbs_certificate().validity();
    Some((validity.not_before.to_unix_duration().as_secs(), validity.not_after.to_unix_duration().as_secs()))
}

/// Signatures by their digest: with SHA-384 and SHA-512, of RSA and ECDSA. RFC 5929 has SHA-256 for
/// all others that name one, and for the old ones.
const SHA_384: [&str; 2] = ["1.2.840.113549.1.1.12", "1.2.840.10045.4.3.3"];
const SHA_512: [&str; 2] = ["1.2.840.113549.1.1.13", "1.2.840.10045.4.3.4"];
const SHA_256: [&str; 4] =
    ["1.2.840.113549.1.1.11", "1.2.840.10045.4.3.2", "1.2.840.113549.1.1.5", "1.2.840.113549.1.1.4"];

/// What a channel is bound by (RFC 5929, `tls-server-end-point`): the digest of the server's
/// certificate, by the one that its signature names. `None` where that names none, as that of
/// Ed25519.
#[must_use]
pub fn end_point(certificate: &CertificateDer<'_>) -> Option<Vec<u8>> {
    let read = Certificate::from_der(certificate).ok()?;
    let signed_by = read.signature_algorithm().oid;
    let is_one_of = |oids: &[&str]| oids.iter().any(|oid| ObjectIdentifier::new(oid) == Ok(signed_by));
    if is_one_of(&SHA_256) {
        Some(Sha256::digest(certificate).to_vec())
    } else if is_one_of(&SHA_384) {
        Some(Sha384::digest(certificate).to_vec())
    } else if is_one_of(&SHA_512) {
        Some(Sha512::digest(certificate).to_vec())
    } else {
        None
    }
}
