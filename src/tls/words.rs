//! What is wrong with a certificate or a handshake, in sentences: rustls has names of its own for
//! some of it, which are for those who write programs.

use rustls::pki_types::CertificateDer;
use rustls::{AlertDescription, CertificateError, Error};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::certificate;

/// What was said by libraries that show an error of rustls as it is: without the names of its
/// types around the words of ours.
#[must_use]
pub fn plain(text: &str) -> String {
    const BEGIN: [&str; 2] = ["invalid peer certificate: Other(OtherError(", "Other(OtherError("];
    let Some((begin, at)) = BEGIN.iter().find_map(|begin| Some((begin, text.find(begin)?))) else {
        return text.to_owned();
    };
    let rest = &text[at + begin.len()..];
    let Some(end) = rest.rfind("))") else { return text.to_owned() };
    format!("{}{}{}", &text[..at], &rest[..end], plain(&rest[end + 2..]))
}

pub(super) fn date(seconds: u64) -> String {
    let time = i64::try_from(seconds).ok().and_then(|seconds| OffsetDateTime::from_unix_timestamp(seconds).ok());
    time.and_then(|time| time.format(&Rfc3339).ok()).unwrap_or_else(|| format!("{seconds} seconds after 1970"))
}

/// Of a certificate that is over.
pub(super) fn expired(until: u64) -> String {
    format!("expired on {}", date(until))
}

/// Of one whose time is to come.
pub(super) fn early(from: u64) -> String {
    format!("is not valid before {}", date(from))
}

/// Why a chain leads to none of the authorities at `place`: what is said after the certificate's name.
pub(super) fn of_chain(
    error: &Error,
    (end_entity, intermediates): (&CertificateDer<'_>, &[CertificateDer<'_>]),
    place: &str,
) -> String {
    let Error::InvalidCertificate(error) = error else { return format!("cannot be verified: {error}") };
    // The one whose time it is, which is most often the server's own.
    let time_of = |is_it: &dyn Fn((u64, u64)) -> bool| {
        let of = |der: &&CertificateDer<'_>| certificate::validity(der).is_some_and(is_it);
        let found = if of(&end_entity) { None } else { intermediates.iter().find(of) };
        found.and_then(certificate::subject).map_or_else(String::new, |name| format!("is issued by \"{name}\", which "))
    };
    match error {
        CertificateError::UnknownIssuer => {
            format!("was issued by \"{}\", which is not among {place}", last_issuer(end_entity, intermediates))
        }
        CertificateError::ExpiredContext { not_after, .. } => {
            format!("{}{}", time_of(&|(_, until)| until == not_after.as_secs()), expired(not_after.as_secs()))
        }
        CertificateError::NotValidYetContext { not_before, .. } => {
            format!("{}{}", time_of(&|(from, _)| from == not_before.as_secs()), early(not_before.as_secs()))
        }
        CertificateError::Expired => "expired".into(),
        CertificateError::NotValidYet => "is not valid yet".into(),
        CertificateError::BadSignature => format!(
            "has a wrong signature: it was issued by another \"{}\" than that of {place}",
            last_issuer(end_entity, intermediates)
        ),
        CertificateError::InvalidPurpose | CertificateError::InvalidPurposeContext { .. } => {
            "is not for servers (its extended key usage lacks serverAuth)".into()
        }
        CertificateError::UnhandledCriticalExtension => "has a critical extension that is not known here".into(),
        CertificateError::Revoked => "is revoked".into(),
        CertificateError::UnsupportedSignatureAlgorithmContext { .. }
        | CertificateError::UnsupportedSignatureAlgorithmForPublicKeyContext { .. } => {
            "is signed in a way that is not accepted here".into()
        }
        CertificateError::BadEncoding => "cannot be read".into(),
        CertificateError::Other(other) => match other.to_string().as_str() {
            "CaUsedAsEndEntity" => "is one of an authority, not of a server".into(),
            "EndEntityUsedAsCa" => "was issued by one that is no authority's".into(),
            "PathLenConstraintViolated" => "has more authorities between it and the root than the root allows".into(),
            "NameConstraintViolation" => "is for a name that its authority may not vouch for".into(),
            other => format!("cannot be verified: {}", apart(other)),
        },
        other => format!("cannot be verified: {}", apart(&other.to_string())),
    }
}

/// Who has issued the last certificate that was shown, from the server's own on.
fn last_issuer(end_entity: &CertificateDer<'_>, intermediates: &[CertificateDer<'_>]) -> String {
    let mut issuer = certificate::issuer(end_entity).unwrap_or_default();
    for _ in intermediates {
        let next = intermediates.iter().find(|der| certificate::subject(der).as_ref() == Some(&issuer));
        match next.and_then(certificate::issuer) {
            Some(next) if next != issuer => issuer = next,
            _ => break,
        }
    }
    issuer
}

/// `NoSuchThing` as words.
fn apart(name: &str) -> String {
    let mut words = String::new();
    for c in name.chars() {
        if c.is_ascii_uppercase() && words.ends_with(|before: char| before.is_ascii_lowercase()) {
            words.push(' ');
        }
        words.push(if words.is_empty() { c } else { c.to_ascii_lowercase() });
    }
    words
}

/// What the other side says before it ends a handshake.
pub(super) fn of_alert(alert: AlertDescription) -> String {
    match alert {
        AlertDescription::CertificateRequired => "it asks for a certificate, and none is set".into(),
        AlertDescription::UnknownCA => "it does not know the issuer of the certificate that is set".into(),
        AlertDescription::CertificateExpired => "the certificate that is set has expired".into(),
        AlertDescription::CertificateRevoked => "the certificate that is set is revoked".into(),
        AlertDescription::BadCertificate
        | AlertDescription::CertificateUnknown
        | AlertDescription::UnsupportedCertificate => "it does not accept the certificate that is set".into(),
        AlertDescription::ProtocolVersion => "it speaks none of the versions of TLS that may be spoken".into(),
        AlertDescription::HandshakeFailure => "it has no cipher in common, or asks for a certificate".into(),
        AlertDescription::UnrecognisedName => "it does not know the host that was asked for".into(),
        AlertDescription::NoApplicationProtocol => "it does not speak what is to be spoken (ALPN)".into(),
        other => apart(&format!("{other:?}")).to_lowercase(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_libraries_put_around_words_is_taken_off() {
        for (text, expected) in [
            ("as it is (or not))", "as it is (or not))"),
            ("IO: invalid peer certificate: Other(OtherError(the (one) is wrong))", "IO: the (one) is wrong"),
            ("a Other(OtherError(b)) c", "a b c"),
            ("Other(OtherError(b", "Other(OtherError(b"),
        ] {
            assert_eq!(plain(text), expected);
        }
    }

    #[test]
    fn names_and_dates_are_words() {
        assert_eq!(apart("UnknownRevocationStatus"), "Unknown revocation status");
        assert_eq!(apart("CaUsed"), "Ca used");
        assert_eq!(expired(1_609_459_200), "expired on 2021-01-01T00:00:00Z");
        assert_eq!(early(0), "is not valid before 1970-01-01T00:00:00Z");
        assert!(expired(u64::MAX).ends_with("seconds after 1970"));
        assert_eq!(of_alert(AlertDescription::DecodeError), "decode error");
    }
}
