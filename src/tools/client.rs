//! One keep-alive HTTP/1.1 connection, for the tools that talk to a running service.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use anyhow::{Context, anyhow, bail};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::{HOST, HeaderValue};
use hyper::http::uri::PathAndQuery;
use hyper::{Request, Response, Uri};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};

use super::output;
use crate::tls;
use crate::tls::client::Verify;

/// A server to talk to: `http://host:port` or `https://host:port`, or `http://host:port/prefix`,
/// which every path then begins with.
#[derive(Debug, Clone)]
pub struct Server {
    /// All that its name stands for: it may answer on any of them, as on IPv4 only under `localhost`.
    addresses: Arc<[SocketAddr]>,
    host: HeaderValue,
    /// Empty, or without a slash at its end.
    prefix: Arc<str>,
    over: Over,
}

/// What is between here and a server.
#[derive(Debug, Clone)]
enum Over {
    /// TCP as it is.
    Tcp,
    /// TLS, to a server of this name.
    Tls(tls::Client, Arc<str>),
    /// A socket of the file system.
    Unix(Arc<Path>),
}

/// Why a request has no answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, thiserror::Error)]
pub enum NoAnswer {
    /// No connection.
    #[error("connection refused")]
    Refused,
    /// The server closed the connection before it answered.
    #[error("closed early")]
    Closed,
    /// No answer in time.
    #[error("timed out")]
    TimedOut,
}

impl Server {
    /// Reads a URL and finds its address. Anything but this machine must be allowed: load is not for strangers.
    ///
    /// # Errors
    /// When the URL is no `http://host:port/prefix`, its host is unknown, or it is remote and that
    /// is not allowed. No message repeats a password or a query.
    pub fn parse(url: &str, allow_remote: bool) -> anyhow::Result<Self> {
        let (server, uri) = Self::locate(url, allow_remote)?;
        if uri.query().is_some() {
            bail!("invalid URL {:?}: has a query; {EXPECTED}/prefix", plain(url));
        }
        Ok(Self { prefix: uri.path().trim_end_matches('/').into(), ..server })
    }

    /// Reads the URL of one thing to ask for: its server, and its path with its query.
    ///
    /// # Errors
    /// As [`Self::parse`], but for the query.
    pub fn parse_whole(url: &str, allow_remote: bool) -> anyhow::Result<(Self, String)> {
        if let Some((socket, path)) = url.strip_prefix("unix:").and_then(|rest| rest.split_once(':')) {
            let (over, host) = (Over::Unix(Path::new(socket).into()), HeaderValue::from_static("localhost"));
            return Ok((Self { addresses: Arc::new([]), host, prefix: "".into(), over }, path.to_owned()));
        }
        let (server, uri) = Self::locate(url, allow_remote)?;
        let path = uri.path_and_query().map_or("/", |path| path.as_str());
        Ok((server, path.to_owned()))
    }

    fn locate(url: &str, allow_remote: bool) -> anyhow::Result<(Self, Uri)> {
        let invalid = |what: &str| anyhow!("invalid URL {:?}: {what}; {EXPECTED}", plain(url));
        let uri: Uri = url.parse().map_err(|error: hyper::http::uri::InvalidUri| {
            let error = error.to_string();
            let part = error.strip_prefix("invalid ").map(|part| format!("has an illegal {part}"));
            invalid(&part.unwrap_or(error))
        })?;
        let is_secure = uri.scheme_str() == Some("https");
        let authority = uri.authority().filter(|_| is_secure || uri.scheme_str() == Some("http"));
        let authority = authority.ok_or_else(|| invalid("does not begin with http:// or https:// and a host"))?;
        if authority.as_str().contains('@') {
            return Err(invalid("has a user or a password, which are not sent"));
        }
        if url.contains('#') {
            return Err(invalid("has a fragment, which is not sent"));
        }
        let has_port = authority.as_str().len() > authority.host().len();
        let port = match authority.port_u16() {
            None if has_port => return Err(invalid("has no legal port")),
            port => port.unwrap_or(if is_secure { 443 } else { 80 }),
        };
        let host = authority.host().trim_matches(['[', ']']);
        let addresses: Arc<[SocketAddr]> = std::net::ToSocketAddrs::to_socket_addrs(&(host, port))
            .with_context(|| format!("{host:?} is no known host"))?
            .collect();
        if addresses.is_empty() {
            bail!("{host:?} has no address");
        }
        if let Some(address) = addresses.iter().find(|address| !address.ip().is_loopback() && !allow_remote) {
            bail!("{address} is not this machine; --allow-remote allows it");
        }
        let over = if is_secure {
            // What does not leave this machine is not verified: its certificate is for the names
            // that others know.
            let is_local = addresses.iter().all(|address| address.ip().is_loopback());
            let verify = if is_local { Verify::Nothing } else { Verify::Name };
            Over::Tls(tls::Client::open(&tls::client::Config { verify, ..Default::default() })?, host.into())
        } else {
            Over::Tcp
        };
        let host = HeaderValue::from_str(authority.as_str())?;
        Ok((Self { addresses, host, prefix: "".into(), over }, uri))
    }

    /// A request to this server.
    ///
    /// # Errors
    /// When the path is none.
    pub fn request(&self, method: &str, path: &str, body: Bytes) -> anyhow::Result<Request<Full<Bytes>>> {
        let whole: PathAndQuery = match path.starts_with('/') {
            true if self.prefix.is_empty() => path.parse().ok(),
            true => format!("{}{path}", self.prefix).parse().ok(),
            false => None,
        }
        .with_context(|| format!("invalid path {path:?}: expected e.g. /order/b563feb7b2b84b6test"))?;
        let request = Request::builder().method(method).uri(whole).header(HOST, &self.host);
        Ok(request.body(Full::new(body))?)
    }
}

/// How a message about a URL ends.
const EXPECTED: &str = "expected e.g. http://127.0.0.1:8080";

/// A URL as a message may show it: without what may be a secret, which stands before an `@` or in a
/// query.
pub(super) fn plain(url: &str) -> String {
    let url = url.split(['?', '#']).next().unwrap_or_default();
    match (url.rsplit_once('@'), url.split_once("://")) {
        (None, _) => url.to_owned(),
        (Some((_, host)), Some((scheme, _))) => format!("{scheme}://…@{host}"),
        (Some((_, host)), None) => format!("…@{host}"),
    }
}

/// A connection that opens itself again after the server has closed it.
pub struct Client {
    server: Server,
    timeout: Duration,
    sender: Option<SendRequest<Full<Bytes>>>,
}

impl Client {
    /// Connects with the first request.
    #[must_use]
    pub fn new(server: Server, timeout: Duration) -> Self {
        Self { server, timeout, sender: None }
    }

    /// Connects without asking anything.
    ///
    /// # Errors
    /// [`NoAnswer`].
    pub async fn connect(&mut self) -> Result<(), NoAnswer> {
        let connecting = connect(&self.server);
        self.sender = Some(tokio::time::timeout(self.timeout, connecting).await.unwrap_or(Err(NoAnswer::TimedOut))?);
        Ok(())
    }

    /// Sends one request and reads the whole answer. After an error the next request connects again.
    ///
    /// # Errors
    /// [`NoAnswer`].
    pub async fn send(&mut self, request: Request<Full<Bytes>>) -> Result<Response<Bytes>, NoAnswer> {
        let result = tokio::time::timeout(self.timeout, self.exchange(request)).await;
        let result = result.unwrap_or(Err(NoAnswer::TimedOut));
        if result.is_err() {
            self.sender = None;
        }
        result
    }

    async fn exchange(&mut self, request: Request<Full<Bytes>>) -> Result<Response<Bytes>, NoAnswer> {
        let sender = match &mut self.sender {
            Some(sender) if !sender.is_closed() => sender,
            closed => closed.insert(connect(&self.server).await?),
        };
        sender.ready().await.map_err(|_| NoAnswer::Closed)?;
        let (head, body) = sender.send_request(request).await.map_err(|_| NoAnswer::Closed)?.into_parts();
        let body = body.collect().await.map_err(|_| NoAnswer::Closed)?.to_bytes();
        Ok(Response::from_parts(head, body))
    }
}

/// Connects to the first address that takes a connection.
async fn connect(server: &Server) -> Result<SendRequest<Full<Bytes>>, NoAnswer> {
    if let Over::Unix(path) = &server.over {
        return speak(UnixStream::connect(path).await.map_err(|_| NoAnswer::Refused)?).await;
    }
    let socket = TcpStream::connect(&*server.addresses).await.map_err(|_| NoAnswer::Refused)?;
    // Without it small requests wait for the answer's acknowledgement.
    let _ = socket.set_nodelay(true);
    let Over::Tls(client, host) = &server.over else { return speak(socket).await };
    match client.connect(host, socket).await {
        Ok(stream) => speak(stream).await,
        Err(error) => {
            static IS_TOLD: AtomicBool = AtomicBool::new(false);
            if !IS_TOLD.swap(true, Ordering::Relaxed) {
                output::note(format_args!("order-service: no TLS with {host}: {error}"));
            }
            Err(NoAnswer::Closed)
        }
    }
}

async fn speak<S>(stream: S) -> Result<SendRequest<Full<Bytes>>, NoAnswer>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (sender, connection) = handshake(TokioIo::new(stream)).await.map_err(|_| NoAnswer::Closed)?;
    tokio::spawn(async move {
        // Its errors reach anyone who waits for an answer.
        let _ = connection.await;
    });
    Ok(sender)
}

/// Whether a host is this machine: load is not for strangers.
pub(super) fn check_local(host: &str, port: u16) -> anyhow::Result<()> {
    let host = host.trim_matches(['[', ']']);
    let mut addresses = std::net::ToSocketAddrs::to_socket_addrs(&(host, port))
        .with_context(|| format!("{host:?} is no known host"))?;
    if let Some(address) = addresses.find(|address| !address.ip().is_loopback()) {
        bail!("{address} is not this machine; --allow-remote allows it");
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn every_address_of_a_name_is_tried() {
        let there = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let gone = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let at = |addresses: &[SocketAddr]| {
            let host = HeaderValue::from_static("x");
            let server = Server { addresses: addresses.into(), host, prefix: "".into(), over: Over::Tcp };
            Client::new(server, Duration::from_secs(5))
        };
        assert_eq!(at(&[gone, there.local_addr().unwrap()]).connect().await, Ok(()));
        assert_eq!(at(&[gone, gone]).connect().await, Err(NoAnswer::Refused));
    }

    #[test]
    fn a_url_is_asked_for_with_all_that_it_says_or_refused() {
        let path = |url: &str, path: &str| {
            let request = Server::parse(url, false).unwrap().request("GET", path, Bytes::new()).unwrap();
            request.uri().to_string()
        };
        assert_eq!(path("http://127.0.0.1:1", "/order/x?y=1"), "/order/x?y=1");
        assert_eq!(path("http://127.0.0.1:1/", "/order/x"), "/order/x");
        assert_eq!(path("http://127.0.0.1:1/prefix", "/order/x"), "/prefix/order/x");
        assert_eq!(path("http://127.0.0.1/a/b/", "/order/x"), "/a/b/order/x");
        let (_, whole) = Server::parse_whole("http://127.0.0.1:1/readyz?lag=1", false).unwrap();
        assert_eq!(whole, "/readyz?lag=1");
        for (url, reason) in [
            ("http://127.0.0.1:1/?secret=x", "has a query"),
            ("http://127.0.0.1:1/a#secret", "has a fragment"),
            ("http://me:secret@127.0.0.1:1", "has a user or a password"),
            ("http://secret@127.0.0.1:1/", "has a user or a password"),
            ("https://me:secret@127.0.0.1:1/", "has a user or a password"),
            ("ftp://127.0.0.1:1/", "does not begin with http://"),
            ("127.0.0.1:1", "does not begin with http://"),
            ("/order", "does not begin with http://"),
            ("http://", "; expected e.g. http://"),
            ("http://me:secret@:1", "; expected e.g. http://"),
            ("http://127.0.0.1:99999", "has no legal port"),
            ("http://127.0.0.1:", "has no legal port"),
            ("http://me:secret@127.0.0.1:1/a b", "; expected e.g. http://"),
            ("http://me:sec/ret@127.0.0.1:1", "; expected e.g. http://"),
        ] {
            let error = Server::parse(url, false).unwrap_err().to_string();
            assert!(error.starts_with("invalid URL \"") && error.contains(reason), "{url}: {error}");
            assert!(!error.contains("secret") && !error.contains("sec/"), "{error}");
        }
        let server = Server::parse("http://127.0.0.1:1", false).unwrap();
        for wrong in ["", "order", "/a b", "http://127.0.0.1:1/"] {
            assert!(server.request("GET", wrong, Bytes::new()).is_err(), "{wrong}");
        }
    }
}
