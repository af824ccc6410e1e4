//! TLS to PostgreSQL: `sslmode`, `sslrootcert`, `sslcert`, `sslkey`, `sslsni` and the versions of
//! TLS as libpq has them, which the client library does not know, and logins bound to their channel
//! (SCRAM-SHA-256-PLUS).
//!
//! Where this differs from libpq it is stricter: no file is looked for in a home directory,
//! `sslmode=prefer` does not fall back to plain text after a handshake that failed, and a file that
//! would change nothing is an error.

use std::future::{Ready, ready};
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio_postgres::config::{ChannelBinding as Binding, Host, SslMode, SslNegotiation};
use tokio_postgres::tls::{ChannelBinding, MakeTlsConnect, TlsConnect, TlsStream};

use super::options::Options;
use crate::tls::Client;
use crate::tls::client::{self, Verify, Versions};

/// What a text says of encryption.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Wanted {
    mode: Option<String>,
    root_cert: Option<String>,
    cert: Option<String>,
    key: Option<String>,
    sni: Option<String>,
    oldest: Option<String>,
    newest: Option<String>,
}

impl Wanted {
    /// Takes it out of the options; what is left is for the library.
    pub(super) fn take(options: &mut Options) -> Self {
        Self {
            mode: options.take("sslmode"),
            root_cert: options.take("sslrootcert"),
            cert: options.take("sslcert"),
            key: options.take("sslkey"),
            sni: options.take("sslsni"),
            oldest: options.take("ssl_min_protocol_version"),
            newest: options.take("ssl_max_protocol_version"),
        }
    }

    /// Which versions of TLS may be spoken. Those before 1.2 never are.
    fn versions(&self) -> Result<Versions, String> {
        let number = |name: &str, version: &Option<String>, least: u8| match version.as_deref() {
            None | Some("") => Ok(None),
            Some(text) => match VERSIONS.iter().position(|known| known.eq_ignore_ascii_case(text)) {
                Some(at) if at >= usize::from(least) => Ok(Some(at)),
                Some(_) => Err(format!("{name} must be TLSv1.2 or TLSv1.3: older versions are never spoken")),
                None => Err(format!("{name} is none of {}", VERSIONS.join(", "))),
            },
        };
        let oldest = number("ssl_min_protocol_version", &self.oldest, 0)?;
        let newest = number("ssl_max_protocol_version", &self.newest, 2)?;
        match (oldest, newest) {
            (Some(3), Some(2)) => Err("ssl_min_protocol_version is above ssl_max_protocol_version".into()),
            (_, Some(2)) => Ok(Versions::Tls12),
            (Some(3), _) => Ok(Versions::Tls13),
            _ => Ok(Versions::Both),
        }
    }

    fn hides_name(&self) -> Result<bool, String> {
        match self.sni.as_deref() {
            None | Some("" | "1") => Ok(false),
            Some("0") => Ok(true),
            Some(_) => Err("sslsni is neither 0 nor 1".into()),
        }
    }
}

/// As options have them, oldest first.
const VERSIONS: [&str; 4] = ["TLSv1", "TLSv1.1", "TLSv1.2", "TLSv1.3"];

/// Options that change nothing without TLS.
const OPTIONS_OF_TLS: [&str; 6] =
    ["sslsni", "ssl_min_protocol_version", "ssl_max_protocol_version", "sslrootcert", "sslcert", "sslkey"];

/// How connections are encrypted. Clones share the files.
#[derive(Debug, Clone, Default)]
pub(super) struct Encryption {
    client: Option<Client>,
    /// The other way, for a server whose rules refuse the first one.
    second: Option<SslMode>,
}

impl Encryption {
    /// What is wanted of a server, whose settings are made to match. Reads the files.
    ///
    /// # Errors
    /// What contradicts itself, or which file cannot be used.
    pub(super) fn open(wanted: Wanted, server: &mut tokio_postgres::Config) -> Result<Self, String> {
        let (versions, hides_name) = (wanted.versions()?, wanted.hides_name()?);
        let Wanted { mode, root_cert, cert, key, sni, oldest, newest } = wanted;
        let has_more = [&sni, &oldest, &newest, &root_cert, &cert, &key].map(Option::is_some);
        let is_system = root_cert.as_deref() == Some("system");
        let mode = mode.unwrap_or_else(|| if is_system { "verify-full" } else { "prefer" }.into());
        let is_local = server.get_hosts().iter().all(|host| matches!(host, Host::Unix(_)));
        let (ssl_mode, verify) = match mode.as_str() {
            "disable" => (SslMode::Disable, Verify::Nothing),
            "allow" => (ALLOW, Verify::Nothing),
            "prefer" => (SslMode::Prefer, Verify::Nothing),
            "require" => (SslMode::Require, Verify::Nothing),
            "verify-ca" => (SslMode::Require, Verify::Chain),
            "verify-full" => (SslMode::Require, Verify::Name),
            _ => return Err("sslmode is none of disable, allow, prefer, require, verify-ca and verify-full".into()),
        };
        let is_never = mode == "disable";
        if mode == "allow" && server.get_channel_binding() == Binding::Require {
            return Err("channel_binding=require needs TLS, and sslmode=allow begins without".into());
        }
        if server.get_ssl_negotiation() == SslNegotiation::Direct && ssl_mode != SslMode::Require {
            return Err(format!("sslnegotiation=direct needs sslmode=require or more, not {mode}"));
        }
        if is_never {
            let mut options = OPTIONS_OF_TLS.into_iter().zip(has_more);
            if let Some((name, _)) = options.find(|(_, is_there)| *is_there) {
                return Err(format!("{name} changes nothing with sslmode=disable"));
            }
            if server.get_channel_binding() == Binding::Require {
                return Err("channel_binding=require needs TLS, and sslmode is disable".into());
            }
        }
        // Over a socket of the file system there is no TLS, whatever is said.
        server.ssl_mode(if is_local { SslMode::Disable } else { ssl_mode });
        if is_local || is_never {
            return Ok(Self::default());
        }
        let verify = match (verify, &root_cert) {
            (Verify::Nothing, Some(_)) if !is_system => Verify::Chain,
            (Verify::Chain | Verify::Name, None) => {
                return Err(format!("sslmode={mode} needs sslrootcert: a file of PEM, or system"));
            }
            (verify, _) => verify,
        };
        if is_system && verify != Verify::Name {
            return Err(format!("sslrootcert=system takes sslmode=verify-full, not {mode}"));
        }
        let identity = match (cert, key) {
            (Some(cert), Some(key)) => {
                check_mode(Path::new(&key))?;
                Some((cert.into(), key.into()))
            }
            (None, None) => None,
            (Some(_), None) => return Err("sslcert needs sslkey".into()),
            (None, Some(_)) => return Err("sslkey needs sslcert".into()),
        };
        let roots = root_cert.filter(|_| !is_system).map(PathBuf::from);
        // What says at once that it speaks TLS has to say what for.
        let is_direct = server.get_ssl_negotiation() == SslNegotiation::Direct;
        let protocols = if is_direct { vec![b"postgresql".to_vec()] } else { Vec::new() };
        let config = client::Config { verify, roots, identity, versions, hides_name, protocols };
        let client = Client::open(&config).map_err(|error| error.to_string())?;
        let second = match &*mode {
            "prefer" => Some(SslMode::Disable),
            // A server without TLS says once more why it refuses.
            "allow" => Some(SslMode::Prefer),
            _ => None,
        };
        Ok(Self { client: Some(client), second })
    }

    /// How a server is tried again whose rules refuse the kind of connection that is tried first.
    pub(super) fn second(&self) -> Option<SslMode> {
        self.second
    }

    /// Encrypts a connection by hand, if the server does so and it is wanted. `None`: it goes on in
    /// plain text.
    ///
    /// # Errors
    /// The connection broke, the server has no TLS and must, or its certificate is not believed.
    pub(super) async fn negotiate<S>(&self, mode: SslMode, stream: &mut S) -> io::Result<bool>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        if self.client.is_none() || mode == SslMode::Disable {
            return Ok(false);
        }
        stream.write_all(&MAY_I_SPEAK_TLS).await?;
        stream.flush().await?;
        match stream.read_u8().await? {
            b'S' => Ok(true),
            _ if mode == SslMode::Require => Err(io::Error::other("the server has no TLS, and sslmode asks for it")),
            _ => Ok(false),
        }
    }

    /// The handshake after [`Self::negotiate`].
    ///
    /// # Errors
    /// The connection broke, or the server's certificate is not believed.
    pub(super) async fn encrypt<S>(&self, host: &str, stream: S) -> io::Result<client::Stream<S>>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let client = self.client.as_ref().ok_or_else(|| io::Error::other("no TLS is set up"))?;
        client.connect(host, stream).await
    }
}

/// What `sslmode=allow` tries first.
const ALLOW: SslMode = SslMode::Disable;

/// The request for TLS that a connection begins with.
const MAY_I_SPEAK_TLS: [u8; 8] = [0, 0, 0, 8, 4, 210, 22, 47];

/// As libpq does: a key that others can read is no secret.
fn check_mode(key: &Path) -> Result<(), String> {
    let found = std::fs::metadata(key).map_err(|error| format!("{}: cannot be read: {error}", key.display()))?;
    let open_to = if found.uid() == 0 { found.mode() & 0o027 } else { found.mode() & 0o077 };
    if open_to == 0 {
        return Ok(());
    }
    Err(format!(
        "{}: the private key can be read by others: mode 0600 is needed, or 0640 where it belongs to root",
        key.display()
    ))
}

/// A stream that is encrypted already, with what it is bound by.
pub(super) struct Bound<S> {
    stream: S,
    end_point: Option<Vec<u8>>,
}

impl<S> MakeTlsConnect<S> for Encryption
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    type Stream = Bound<client::Stream<S>>;
    type TlsConnect = Handshake;
    type Error = io::Error;

    fn make_tls_connect(&mut self, host: &str) -> io::Result<Handshake> {
        Ok(Handshake { encryption: self.clone(), host: host.to_owned() })
    }
}

/// A handshake that is to be.
pub(super) struct Handshake {
    encryption: Encryption,
    host: String,
}

impl<S> TlsConnect<S> for Handshake
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    type Stream = Bound<client::Stream<S>>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Stream>> + Send>>;

    fn connect(self, stream: S) -> Self::Future {
        Box::pin(async move {
            let stream = self.encryption.encrypt(&self.host, stream).await?;
            Ok(Bound { end_point: client::end_point(&stream), stream })
        })
    }
}

/// What a stream is bound by that is encrypted already, for the library.
pub(super) struct Done(pub(super) Option<Vec<u8>>);

impl<S: AsyncRead + AsyncWrite + Unpin> TlsConnect<S> for Done {
    type Stream = Bound<S>;
    type Error = io::Error;
    type Future = Ready<io::Result<Bound<S>>>;

    fn connect(self, stream: S) -> Self::Future {
        ready(Ok(Bound { stream, end_point: self.0 }))
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> TlsStream for Bound<S> {
    fn channel_binding(&self) -> ChannelBinding {
        self.end_point.clone().map_or_else(ChannelBinding::none, ChannelBinding::tls_server_end_point)
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Bound<S> {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, into)
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Bound<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, from: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, from)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modes_that_contradict_their_files_are_told() {
        let open = |text: &str| {
            let mut options = Options::read(text);
            let wanted = Wanted::take(&mut options);
            let mut server = options.finish().unwrap().parse().unwrap();
            let opened = Encryption::open(wanted, &mut server);
            opened.map(|encryption| (encryption.client.is_some(), server.get_ssl_mode(), encryption.second()))
        };
        for (text, expected) in [
            ("", (true, SslMode::Prefer, Some(SslMode::Disable))),
            ("sslmode=allow", (true, SslMode::Disable, Some(SslMode::Prefer))),
            ("sslmode=require", (true, SslMode::Require, None)),
            ("sslmode=disable", (false, SslMode::Disable, None)),
            ("sslsni=0 ssl_min_protocol_version=tlsv1", (true, SslMode::Prefer, Some(SslMode::Disable))),
            ("ssl_min_protocol_version=TLSv1.3 sslmode=require", (true, SslMode::Require, None)),
            ("ssl_max_protocol_version=TLSv1.2 sslmode=require", (true, SslMode::Require, None)),
            ("sslnegotiation=direct sslmode=require", (true, SslMode::Require, None)),
        ] {
            assert_eq!(open(&format!("host=h {text}")), Ok(expected), "{text}");
        }
        assert_eq!(open("host=/run/postgresql sslmode=require"), Ok((false, SslMode::Disable, None)));
        assert_eq!(open("host=/run/postgresql sslmode=allow"), Ok((false, SslMode::Disable, None)));
        for (text, expected) in [
            ("sslmode=always", "none of disable"),
            ("sslmode=allow channel_binding=require", "sslmode=allow begins without"),
            ("sslmode=disable sslsni=1", "sslsni changes nothing"),
            ("sslmode=disable ssl_min_protocol_version=TLSv1.2", "ssl_min_protocol_version changes nothing"),
            ("sslsni=2", "sslsni is neither 0 nor 1"),
            ("ssl_min_protocol_version=SSLv3", "ssl_min_protocol_version is none of TLSv1,"),
            ("ssl_max_protocol_version=TLSv1.1", "ssl_max_protocol_version must be TLSv1.2 or TLSv1.3"),
            ("ssl_min_protocol_version=TLSv1.3 ssl_max_protocol_version=TLSv1.2", "is above"),
            ("sslnegotiation=direct", "sslnegotiation=direct needs sslmode=require or more, not prefer"),
            ("sslmode=disable sslrootcert=/x", "sslrootcert changes nothing"),
            ("sslmode=disable channel_binding=require", "channel_binding=require needs TLS"),
            ("sslmode=verify-full", "sslmode=verify-full needs sslrootcert"),
            ("sslmode=verify-ca", "sslmode=verify-ca needs sslrootcert"),
            ("sslmode=require sslrootcert=system", "takes sslmode=verify-full, not require"),
            ("sslmode=require sslrootcert=/no/such.pem", "/no/such.pem: cannot be read"),
            ("sslcert=/no/such.pem", "sslcert needs sslkey"),
            ("sslkey=/no/such.pem", "sslkey needs sslcert"),
        ] {
            let error = open(&format!("host=h {text}")).unwrap_err();
            assert!(error.contains(expected), "{text}: {error}");
        }
    }
}
