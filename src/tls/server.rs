//! Listeners: the certificate they show, and whose certificates they ask for.
//!
//! A connection keeps what it was made with; the next one gets the newest. Sessions of before a
//! change are not resumed: they would go on as who was let in by what is no longer there. Where
//! clients show certificates nothing is resumed at all, so that each connection is judged by its
//! own.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::{SystemTime, UNIX_EPOCH};

use rustls::ServerConfig;
use rustls::server::{NoServerSessionStorage, ResolvesServerCert, WebPkiClientVerifier};
use rustls::sign::SingleCertAndKey;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsAcceptor;
use tokio_rustls::server::TlsStream;

use super::reload::Reloading;
use super::{Error, certificate, pem, provider, words};
use crate::metrics::Metrics;

/// The files of a listener.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Config {
    /// The certificate with its chain.
    pub cert: PathBuf,
    /// Its private key.
    pub key: PathBuf,
    /// The authorities of clients' certificates; clients are not asked for any when `None`.
    pub client_ca: Option<PathBuf>,
    /// A client may come without a certificate.
    pub is_client_optional: bool,
}

/// What is spoken over a listener, by the names of ALPN.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Protocols {
    /// HTTP/2 and HTTP/1.1.
    Http,
    /// HTTP/1.1 alone.
    Http1,
    /// HTTP/2 alone.
    Http2,
}

impl Protocols {
    const ALL: [Self; 3] = [Self::Http, Self::Http1, Self::Http2];

    fn names(self) -> Vec<Vec<u8>> {
        let (h1, h2) = (b"http/1.1".to_vec(), b"h2".to_vec());
        match self {
            Self::Http => vec![h2, h1],
            Self::Http1 => vec![h1],
            Self::Http2 => vec![h2],
        }
    }
}

/// What is made of the files.
struct Made {
    /// A configuration for each of [`Protocols::ALL`].
    configs: [Arc<ServerConfig>; Protocols::ALL.len()],
    /// From when and until when the certificate is valid, in seconds since 1970.
    validity: Option<(u64, u64)>,
}

/// What all listeners of the process share. Clones share it.
#[derive(Clone)]
pub struct Server(Arc<Reloading<Made>>);

/// Takes connections of one listener. Clones share it.
#[derive(Clone)]
pub struct Acceptor {
    server: Server,
    protocols: Protocols,
}

impl std::fmt::Debug for Acceptor {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Acceptor").field("protocols", &self.protocols).finish_non_exhaustive()
    }
}

impl Server {
    /// Reads the files.
    ///
    /// # Errors
    /// Which of them cannot be used.
    pub fn open(config: Config) -> Result<Self, Error> {
        let mut files = vec![config.cert.clone(), config.key.clone()];
        files.extend(config.client_ca.clone());
        let is_open = Arc::new(AtomicBool::new(false));
        let make = {
            let is_open = Arc::clone(&is_open);
            move |bytes: &[Vec<u8>]| {
                let made = make(&config, bytes)?;
                let Some(wrong) = made.validity.and_then(out_of_date) else { return Ok(made) };
                if is_open.load(Ordering::Relaxed) {
                    return Err(Error::new(&config.cert, wrong)); // the one from before may be better
                }
                tracing::warn!(file = %config.cert.display(), "the certificate {wrong}; clients will not believe it");
                Ok(made)
            }
        };
        let opened = Reloading::open(files, make)?;
        is_open.store(true, Ordering::Relaxed);
        Ok(Self(Arc::new(opened)))
    }

    /// When the certificate is over that is shown now, in seconds since 1970. `None`: that cannot
    /// be read in it.
    #[must_use]
    pub fn valid_until(&self) -> Option<u64> {
        self.0.current().validity.map(|(_, until)| until)
    }

    /// Registers when the certificate is over: once in a process that listens with one, and in no
    /// other.
    #[expect(clippy::cast_precision_loss, reason = "times stay below 2^53")]
    pub fn register(&self, metrics: &Metrics) {
        let server = self.clone();
        let help = "Seconds since 1970 at which the certificate of tls: listeners is over.";
        let read = move || server.valid_until().unwrap_or_default() as f64;
        metrics.pulled_gauge("tls_certificate_valid_until_seconds", help, read);
    }

    /// For a listener over which this is spoken.
    #[must_use]
    pub fn acceptor(&self, protocols: Protocols) -> Acceptor {
        Acceptor { server: self.clone(), protocols }
    }

    /// Looks at the files. Blocks. `is_asked`: the result is logged either way. Returns whether
    /// there are new ones.
    pub fn look(&self, is_asked: bool) -> bool {
        self.0.look(is_asked)
    }
}

impl Acceptor {
    /// The server's part of a handshake. How long that may take is for the caller to say.
    ///
    /// # Errors
    /// The client is gone, speaks no TLS, or shows a certificate that is not taken.
    pub async fn accept<S: AsyncRead + AsyncWrite + Unpin>(&self, stream: S) -> io::Result<TlsStream<S>> {
        let made = self.server.0.current();
        TlsAcceptor::from(Arc::clone(&made.configs[self.protocols as usize])).accept(stream).await
    }
}

/// The subject of the certificate that a client has shown, which was verified, as RFC 4514 writes
/// it.
#[must_use]
pub fn client_subject<S>(stream: &TlsStream<S>) -> Option<Arc<str>> {
    let certificates = stream.get_ref().1.peer_certificates()?;
    certificate::subject(certificates.first()?).map(Arc::from)
}

/// Whether a handshake failed because the client offers no protocol that is spoken here.
#[must_use]
pub fn is_of_other_protocols(error: &io::Error) -> bool {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref());
    matches!(inner, Some(rustls::Error::NoApplicationProtocol))
}

/// Whether the client has chosen HTTP/2.
#[must_use]
pub fn is_http2<S>(stream: &TlsStream<S>) -> bool {
    stream.get_ref().1.alpn_protocol() == Some(b"h2")
}

fn make(config: &Config, bytes: &[Vec<u8>]) -> Result<Made, Error> {
    let identity = pem::identity((&config.cert, &bytes[0]), (&config.key, &bytes[1]))?;
    let validity = identity.cert.first().and_then(certificate::validity);
    let resolver: Arc<dyn ResolvesServerCert> = Arc::new(SingleCertAndKey::from(identity));
    let authorities = config.client_ca.as_deref().map(|file| (file, bytes[2].as_slice()));
    let of = |protocols: Protocols| one(config, &resolver, authorities, protocols).map(Arc::new);
    let [http, http1, http2] = Protocols::ALL.map(of);
    Ok(Made { configs: [http?, http1?, http2?], validity })
}

/// What is wrong with a certificate that is valid at another time than now.
fn out_of_date((from, until): (u64, u64)) -> Option<String> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    match now {
        _ if now > until => Some(format!("has {}", words::expired(until))),
        _ if now < from => Some(format!("is not valid before {}", words::date(from))),
        _ => None,
    }
}

fn one(
    config: &Config,
    resolver: &Arc<dyn ResolvesServerCert>,
    authorities: Option<(&Path, &[u8])>,
    protocols: Protocols,
) -> Result<ServerConfig, Error> {
    let provider = provider();
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .expect("ring has the suites of both versions");
    let unusable = |file: &Path| {
        let file = file.to_owned();
        move |error: &dyn std::fmt::Display| Error::new(&file, format!("cannot be used: {error}"))
    };
    let mut server = match authorities {
        Some((file, bytes)) => {
            let roots = Arc::new(pem::authorities(file, bytes)?);
            let verifier = WebPkiClientVerifier::builder_with_provider(roots, provider);
            let verifier = if config.is_client_optional { verifier.allow_unauthenticated() } else { verifier };
            let verifier = verifier.build().map_err(|error| unusable(file)(&error))?;
            builder.with_client_cert_verifier(verifier)
        }
        None => builder.with_no_client_auth(),
    }
    .with_cert_resolver(Arc::clone(resolver));
    server.alpn_protocols = protocols.names();
    if authorities.is_some() {
        server.session_storage = Arc::new(NoServerSessionStorage {});
        server.send_tls13_tickets = 0;
    } else {
        // Sessions are with the clients, under a key that lives as long as the process and its
        // certificate.
        server.ticketer = rustls::crypto::ring::Ticketer::new().map_err(|error| unusable(&config.key)(&error))?;
    }
    Ok(server)
}

/// An encrypted connection of a client over TCP.
pub type Stream = TlsStream<TcpStream>;

/// Whether something that was written has not left yet: rustls takes it before the system does.
#[must_use]
pub fn has_unsent(stream: &Stream) -> bool {
    stream.get_ref().1.wants_write()
}

/// Whether the client has left or says nothing more, as far as that shows without taking anything
/// of what it has said. Otherwise the task is woken when there is more to see.
pub fn poll_gone(stream: &mut Stream, context: &mut Context<'_>) -> bool {
    let (socket, session) = stream.get_mut();
    loop {
        // What it has sent and is not read yet waits in the session; behind that nothing shows.
        if !session.wants_read() {
            return false;
        }
        match socket.poll_read_ready(context) {
            Poll::Pending => return false,
            Poll::Ready(Err(_)) => return true,
            Poll::Ready(Ok(())) => {}
        }
        match session.read_tls(&mut Ready(socket)) {
            Ok(0) => return true,
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
            Err(_) => return true,
        }
        if session.process_new_packets().map_or(true, |state| state.peer_has_closed()) {
            return true;
        }
    }
}

/// What the system has of a connection, without waiting for more.
struct Ready<'s>(&'s TcpStream);

impl io::Read for Ready<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        self.0.try_read(into)
    }
}
