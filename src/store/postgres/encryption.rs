//! TLS to PostgreSQL: `sslmode`, `sslrootcert`, `sslcert` and `sslkey` as libpq has them, which the
//! client library does not know, and logins bound to their channel (SCRAM-SHA-256-PLUS).
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

use percent_encoding::percent_decode_str;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio_postgres::config::{ChannelBinding as Binding, Host, SslMode};
use tokio_postgres::tls::{ChannelBinding, MakeTlsConnect, TlsConnect, TlsStream};

use crate::tls::Client;
use crate::tls::client::{self, Verify};

/// What a text says of encryption.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(super) struct Wanted {
    mode: Option<String>,
    root_cert: Option<String>,
    cert: Option<String>,
    key: Option<String>,
}

impl Wanted {
    /// Takes it out of a URL or of `key=value` pairs; what is left is for the library.
    pub(super) fn take(text: &str) -> (String, Self) {
        let mut wanted = Self::default();
        let rest = if text.contains("://") { wanted.take_from_url(text) } else { wanted.take_from_pairs(text) };
        (rest, wanted)
    }

    fn place(&mut self, name: &str) -> Option<&mut Option<String>> {
        match name {
            "sslmode" => Some(&mut self.mode),
            "sslrootcert" => Some(&mut self.root_cert),
            "sslcert" => Some(&mut self.cert),
            "sslkey" => Some(&mut self.key),
            _ => None,
        }
    }

    fn take_from_url(&mut self, url: &str) -> String {
        // As the library does: what is before the first @ is the login.
        let after_login = url.find('@').map_or(0, |at| at + 1);
        let Some(query) = url[after_login..].find('?').map(|at| after_login + at) else { return url.to_owned() };
        let mut left = Vec::new();
        for pair in url[query + 1..].split('&') {
            let taken = pair.split_once('=').and_then(|(name, value)| {
                let decoded = percent_decode_str(value).decode_utf8().ok()?;
                *self.place(name)? = Some(decoded.into_owned());
                Some(())
            });
            if taken.is_none() && !pair.is_empty() {
                left.push(pair);
            }
        }
        if left.is_empty() { url[..query].to_owned() } else { format!("{}?{}", &url[..query], left.join("&")) }
    }

    /// Text that is no pairs is left as it is, for the library to say so.
    fn take_from_pairs(&mut self, text: &str) -> String {
        let Some(pairs) = pairs(text) else { return text.to_owned() };
        let mut left = Vec::new();
        for (name, value) in pairs {
            match self.place(&name) {
                Some(place) => *place = Some(value),
                None => left.push(format!("{name}='{}'", value.replace('\\', "\\\\").replace('\'', "\\'"))),
            }
        }
        left.join(" ")
    }
}

/// `key=value` pairs as libpq reads them: values in single quotes or without blanks, backslashes
/// before what is meant as it is.
fn pairs(text: &str) -> Option<Vec<(String, String)>> {
    let mut pairs = Vec::new();
    let mut rest = text.trim_start();
    while !rest.is_empty() {
        let (name, value) = rest.split_once('=')?;
        let name = name.trim_end();
        if name.is_empty() || name.contains(char::is_whitespace) {
            return None;
        }
        let value = value.trim_start();
        let is_quoted = value.starts_with('\'');
        let mut chars = value.char_indices().skip(usize::from(is_quoted));
        let mut read = String::new();
        let end = loop {
            match chars.next() {
                Some((_, '\\')) => read.push(chars.next()?.1),
                Some((at, '\'')) if is_quoted => break at + 1,
                Some((at, c)) if c.is_whitespace() && !is_quoted => break at,
                Some((_, c)) => read.push(c),
                None if is_quoted => return None,
                None => break value.len(),
            }
        };
        pairs.push((name.to_owned(), read));
        rest = value[end..].trim_start();
    }
    Some(pairs)
}

/// How connections are encrypted. Clones share the files.
#[derive(Debug, Clone, Default)]
pub(super) struct Encryption(Option<Client>);

impl Encryption {
    /// What is wanted of a server, whose settings are made to match. Reads the files.
    ///
    /// # Errors
    /// What contradicts itself, or which file cannot be used.
    pub(super) fn open(wanted: Wanted, server: &mut tokio_postgres::Config) -> Result<Self, String> {
        let Wanted { mode, root_cert, cert, key } = wanted;
        let is_system = root_cert.as_deref() == Some("system");
        let mode = mode.unwrap_or_else(|| if is_system { "verify-full" } else { "prefer" }.into());
        let is_local = server.get_hosts().iter().all(|host| matches!(host, Host::Unix(_)));
        let (ssl_mode, verify) = match mode.as_str() {
            "disable" => (SslMode::Disable, Verify::Nothing),
            "prefer" => (SslMode::Prefer, Verify::Nothing),
            "require" => (SslMode::Require, Verify::Nothing),
            "verify-ca" => (SslMode::Require, Verify::Chain),
            "verify-full" => (SslMode::Require, Verify::Name),
            _ => return Err("sslmode is none of disable, prefer, require, verify-ca and verify-full".into()),
        };
        if ssl_mode == SslMode::Disable {
            for (name, file) in [("sslrootcert", &root_cert), ("sslcert", &cert), ("sslkey", &key)] {
                if file.is_some() {
                    return Err(format!("{name} changes nothing with sslmode=disable"));
                }
            }
            if server.get_channel_binding() == Binding::Require {
                return Err("channel_binding=require needs TLS, and sslmode is disable".into());
            }
        }
        // Over a socket of the file system there is no TLS, whatever is said.
        server.ssl_mode(if is_local { SslMode::Disable } else { ssl_mode });
        if is_local || ssl_mode == SslMode::Disable {
            return Ok(Self(None));
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
        let client = Client::open(&client::Config { verify, roots, identity });
        client.map(Some).map(Self).map_err(|error| error.to_string())
    }

    /// Encrypts a connection by hand, if the server does so and it is wanted. `None`: it goes on in
    /// plain text.
    ///
    /// # Errors
    /// The connection broke, the server has no TLS and must, or its certificate is not believed.
    pub(super) async fn negotiate<S>(&self, mode: SslMode, host: &str, stream: &mut S) -> io::Result<bool>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        if self.0.is_none() || mode == SslMode::Disable {
            return Ok(false);
        }
        stream.write_all(&MAY_I_SPEAK_TLS).await?;
        stream.flush().await?;
        match stream.read_u8().await? {
            b'S' => Ok(true),
            _ if mode == SslMode::Require => {
                Err(io::Error::other(format!("{host} has no TLS, and sslmode asks for it")))
            }
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
        let client = self.0.as_ref().ok_or_else(|| io::Error::other("no TLS is set up"))?;
        client.connect(host, stream).await
    }
}

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
    fn what_is_said_of_encryption_is_taken_out() {
        let taken = |text: &str| {
            let (rest, wanted) = Wanted::take(text);
            let parts = [wanted.mode, wanted.root_cert, wanted.cert, wanted.key];
            (rest, parts.map(Option::unwrap_or_default).join("|"))
        };
        for (text, rest, parts) in [
            ("postgres://u:p@h/db", "postgres://u:p@h/db", "|||"),
            ("postgres://u:p@h/db?sslmode=verify-full", "postgres://u:p@h/db", "verify-full|||"),
            (
                "postgres://u:p?w@h/db?a=b&sslrootcert=%2Fa%20b.pem&sslmode=require&c=d",
                "postgres://u:p?w@h/db?a=b&c=d",
                "require|/a b.pem||",
            ),
            ("host=h sslcert=/c sslkey='/k k' user=u", "host='h' user='u'", "||/c|/k k"),
            (r"password='it\'s \\' sslmode = disable", r"password='it\'s \\'", "disable|||"),
            ("host=h password=a\\ b", "host='h' password='a b'", "|||"),
            ("not pairs at all", "not pairs at all", "|||"),
            ("host='h", "host='h", "|||"),
        ] {
            assert_eq!(taken(text), (rest.to_owned(), parts.to_owned()), "{text}");
        }
    }

    #[test]
    fn modes_that_contradict_their_files_are_told() {
        let open = |text: &str| {
            let (rest, wanted) = Wanted::take(text);
            let mut server = rest.parse().unwrap();
            Encryption::open(wanted, &mut server).map(|encryption| (encryption.0.is_some(), server.get_ssl_mode()))
        };
        assert_eq!(open("host=h"), Ok((true, SslMode::Prefer)));
        assert_eq!(open("host=h sslmode=require"), Ok((true, SslMode::Require)));
        assert_eq!(open("host=h sslmode=disable"), Ok((false, SslMode::Disable)));
        assert_eq!(open("host=/run/postgresql sslmode=require"), Ok((false, SslMode::Disable)));
        for (text, expected) in [
            ("sslmode=allow", "none of disable"),
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
