//! Connections to other servers: whom they trust, and how they show who they are.
//!
//! Files are read again before a handshake, at most once a second, inside what rustls asks: one
//! configuration is good for ever, also where a library keeps it. Sessions are not resumed, for a
//! resumed one is not verified again.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{ResolvesClientCert, Resumption, verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::sign::CertifiedKey;
use rustls::version::{TLS12, TLS13};
use rustls::{
    CertificateError, ClientConfig, DigitallySignedStruct, OtherError, RootCertStore, SignatureScheme,
    SupportedProtocolVersion,
};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use super::reload::Reloading;
use super::{Error, certificate, pem, provider, words};

/// How far a server's certificate is believed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Verify {
    /// Not at all: who listens in cannot read, and who stands between can.
    Nothing,
    /// It must lead to a root.
    Chain,
    /// And it must be for the host that was asked for.
    #[default]
    Name,
}

/// Who is trusted, and who this is.
#[derive(Debug, Clone, Default)]
pub struct Config {
    /// How far a server's certificate is believed.
    pub verify: Verify,
    /// The file with the authorities that are trusted; those of the system when `None`.
    pub roots: Option<PathBuf>,
    /// The files of the certificate and the key that are shown to a server that asks.
    pub identity: Option<(PathBuf, PathBuf)>,
    /// Which versions may be spoken.
    pub versions: Versions,
    /// Does not tell the server, and who listens in, which host was asked for (no SNI).
    pub hides_name: bool,
    /// What is to be spoken over it (ALPN); nothing is said of it where there is none.
    pub protocols: Vec<Vec<u8>>,
}

/// Versions of TLS.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Versions {
    /// 1.2 and 1.3.
    #[default]
    Both,
    /// 1.2 only.
    Tls12,
    /// 1.3 only.
    Tls13,
}

static OLDER: [&SupportedProtocolVersion; 1] = [&TLS12];
static NEWER: [&SupportedProtocolVersion; 1] = [&TLS13];

impl Versions {
    fn of_rustls(self) -> &'static [&'static SupportedProtocolVersion] {
        match self {
            Self::Both => rustls::DEFAULT_VERSIONS,
            Self::Tls12 => &OLDER,
            Self::Tls13 => &NEWER,
        }
    }
}

/// Makes connections. Clones share it.
#[derive(Clone)]
pub struct Client(Arc<ClientConfig>);

impl std::fmt::Debug for Client {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Client")
    }
}

impl Client {
    /// Reads the files.
    ///
    /// # Errors
    /// Which of them cannot be used, or that the system trusts no authority.
    pub fn open(config: &Config) -> Result<Self, Error> {
        let provider = provider();
        let verifier = Verifier { verify: config.verify, roots: Roots::open(config)?, provider: Arc::clone(&provider) };
        let builder = ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(config.versions.of_rustls())
            .expect("ring has the suites of both versions")
            .dangerous()
            .with_custom_certificate_verifier(Arc::new(verifier));
        let mut client = match &config.identity {
            Some((cert, key)) => builder.with_client_cert_resolver(Arc::new(Identity::open(cert, key)?)),
            None => builder.with_no_client_auth(),
        };
        client.resumption = Resumption::disabled();
        client.enable_sni = !config.hides_name;
        client.alpn_protocols.clone_from(&config.protocols);
        Ok(Self(Arc::new(client)))
    }

    /// For libraries that make the connection themselves. It follows the files as this does.
    #[must_use]
    pub fn rustls(&self) -> ClientConfig {
        (*self.0).clone()
    }

    /// Encrypts a connection to `host`, a name or an address without a port. Not cancel-safe: the
    /// connection is of no more use then.
    ///
    /// # Errors
    /// The host is none, the connection broke, or the server's certificate is not believed: the
    /// error says which name or chain was wrong.
    pub async fn connect<S: AsyncRead + AsyncWrite + Unpin>(&self, host: &str, stream: S) -> io::Result<TlsStream<S>> {
        let name = ServerName::try_from(host.trim_matches(['[', ']']).to_owned());
        let name = name.map_err(|_| io::Error::new(io::ErrorKind::InvalidInput, "the host is no name or address"))?;
        TlsConnector::from(Arc::clone(&self.0)).connect(name, stream).await.map_err(in_words)
    }
}

/// Authorities, and the certificates that they were made of.
#[derive(Debug)]
struct Trusted {
    store: RootCertStore,
    /// What is in the file: a server's own certificate is trusted where it is named as a root.
    certificates: Vec<CertificateDer<'static>>,
}

enum Roots {
    /// Nothing is verified.
    None,
    System(Arc<Trusted>),
    File(PathBuf, Reloading<Trusted>),
}

impl Roots {
    fn open(config: &Config) -> Result<Self, Error> {
        if config.verify == Verify::Nothing {
            return Ok(Self::None);
        }
        let Some(file) = config.roots.clone() else { return system().map(Self::System) };
        let path = file.clone();
        let make = move |bytes: &[Vec<u8>]| {
            let certificates = pem::certificates(&path, &bytes[0])?;
            Ok(Trusted { store: pem::authorities(&path, &bytes[0])?, certificates })
        };
        Ok(Self::File(file.clone(), Reloading::open(vec![file], make)?))
    }

    fn fresh(&self) -> Option<Arc<Trusted>> {
        match self {
            Self::None => None,
            Self::System(trusted) => Some(Arc::clone(trusted)),
            Self::File(_, trusted) => Some(trusted.fresh()),
        }
    }

    fn place(&self) -> String {
        match self {
            Self::File(path, _) => format!("the authorities of {}", path.display()),
            Self::None | Self::System(_) => "the authorities that this system trusts".into(),
        }
    }
}

fn system() -> Result<Arc<Trusted>, Error> {
    let found = rustls_native_certs::load_native_certs();
    let mut store = RootCertStore::empty();
    store.add_parsable_certificates(found.certs);
    if store.is_empty() {
        let why = found.errors.first().map_or_else(String::new, |error| format!(": {error}"));
        let what = format!("hold no certificate of an authority{why}; install them, or name a file of PEM");
        return Err(Error::new(Path::new("the system's certificates"), what));
    }
    Ok(Arc::new(Trusted { store, certificates: Vec::new() }))
}

struct Verifier {
    verify: Verify,
    roots: Roots,
    provider: Arc<CryptoProvider>,
}

impl std::fmt::Debug for Verifier {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Verifier").field("verify", &self.verify).finish_non_exhaustive()
    }
}

/// A certificate that is not believed, in words. Libraries show errors of rustls that it has no
/// words for itself as they are for debugging.
#[derive(thiserror::Error)]
#[error("{0}")]
struct Unverified(String);

impl std::fmt::Debug for Unverified {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

/// Whether this is an error about a certificate that is not believed, or was brought about by one.
#[must_use]
pub fn is_about_certificate(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut next = Some(error);
    while let Some(error) = next {
        let inner = error.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        if error.is::<Unverified>() || inner.is_some_and(<dyn std::error::Error + Send + Sync>::is::<Unverified>) {
            return true;
        }
        next = error.source();
    }
    false
}

/// The same without what rustls puts around it.
fn in_words(error: io::Error) -> io::Error {
    match error.get_ref().and_then(|error| error.downcast_ref()) {
        Some(rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(words)))) => {
            io::Error::new(error.kind(), Unverified(words.to_string()))
        }
        Some(rustls::Error::AlertReceived(alert)) => {
            io::Error::new(error.kind(), format!("the server ends the handshake: {}", words::of_alert(*alert)))
        }
        _ => error,
    }
}

impl Verifier {
    fn check(
        &self,
        trusted: &Trusted,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        host: &ServerName<'_>,
        now: UnixTime,
    ) -> Result<(), String> {
        let name = certificate::subject(end_entity).unwrap_or_default();
        let parsed = ParsedCertificate::try_from(end_entity)
            .map_err(|_| format!("{} showed what is no certificate of version 3", host.to_str()))?;
        let algorithms = self.provider.signature_verification_algorithms.all;
        if trusted.certificates.contains(end_entity) {
            // It is trusted by itself. As a root it has no chain, and rustls takes no authority for
            // a server.
            let (from, until) = certificate::validity(end_entity).unwrap_or_default();
            if now.as_secs() < from {
                return Err(format!("the certificate \"{name}\" of {} {}", host.to_str(), words::early(from)));
            }
            if now.as_secs() > until {
                return Err(format!("the certificate \"{name}\" of {} {}", host.to_str(), words::expired(until)));
            }
        } else if let Err(error) =
            verify_server_cert_signed_by_trust_anchor(&parsed, &trusted.store, intermediates, now, algorithms)
        {
            let wrong = words::of_chain(&error, (end_entity, intermediates), &self.roots.place());
            return Err(format!("the certificate \"{name}\" of {} {wrong}", host.to_str()));
        }
        if self.verify == Verify::Name {
            verify_server_name(&parsed, host).map_err(|_| {
                let names = certificate::names(end_entity);
                let named =
                    if names.is_empty() { "names no host".into() } else { format!("is for {}", names.join(", ")) };
                format!(
                    "the certificate \"{name}\" is for another host: {} was asked for, and it {named}",
                    host.to_str()
                )
            })?;
        }
        Ok(())
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        host: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        if let Some(trusted) = self.roots.fresh() {
            self.check(&trusted, end_entity, intermediates, host, now).map_err(|what| {
                rustls::Error::InvalidCertificate(CertificateError::Other(OtherError(Arc::new(Unverified(what)))))
            })?;
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signed, &self.provider.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

/// The certificate that is shown to servers that ask.
struct Identity(Reloading<Arc<CertifiedKey>>);

impl Identity {
    fn open(cert: &Path, key: &Path) -> Result<Self, Error> {
        let files = vec![cert.to_owned(), key.to_owned()];
        let (cert, key) = (cert.to_owned(), key.to_owned());
        let make = move |bytes: &[Vec<u8>]| pem::identity((&cert, &bytes[0]), (&key, &bytes[1])).map(Arc::new);
        Reloading::open(files, make).map(Self)
    }
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Identity")
    }
}

impl ResolvesClientCert for Identity {
    fn resolve(&self, _root_hints: &[&[u8]], _schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0.fresh()))
    }

    fn has_certs(&self) -> bool {
        true
    }
}

/// An encrypted connection to another server.
pub type Stream<S> = TlsStream<S>;

/// What the connection is bound by, for logins that prove that nothing stands between
/// (`tls-server-end-point`).
#[must_use]
pub fn end_point<S>(stream: &Stream<S>) -> Option<Vec<u8>> {
    certificate::end_point(stream.get_ref().1.peer_certificates()?.first()?)
}
