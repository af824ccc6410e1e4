//! One keep-alive HTTP/1.1 connection, for the tools that talk to a running service.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use bytes::Bytes;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper::header::{HOST, HeaderValue};
use hyper::{Request, Response, Uri};
use hyper_util::rt::TokioIo;
use tokio::net::TcpStream;

/// A server to talk to: `http://host:port`.
#[derive(Debug, Clone)]
pub struct Server {
    /// All that its name stands for: it may answer on any of them, as on IPv4 only under `localhost`.
    addresses: Arc<[SocketAddr]>,
    host: HeaderValue,
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
    /// When the URL is no `http://host:port`, its host is unknown, or it is remote and that is not allowed.
    pub fn parse(url: &str, allow_remote: bool) -> anyhow::Result<Self> {
        let uri: Uri = url.parse().with_context(|| format!("{url:?} is no URL"))?;
        if uri.scheme_str() != Some("http") {
            bail!("{url:?} must start with http://");
        }
        let authority = uri.authority().with_context(|| format!("{url:?} names no host"))?;
        let port = authority.port_u16().unwrap_or(80);
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
        Ok(Self { addresses, host: HeaderValue::from_str(authority.as_str())? })
    }

    /// A request to this server.
    pub fn request(&self, method: &str, path: &str, body: Bytes) -> anyhow::Result<Request<Full<Bytes>>> {
        let request = Request::builder().method(method).uri(path).header(HOST, &self.host).body(Full::new(body))?;
        Ok(request)
    }
}

/// A connection that opens itself anew after the server has closed it.
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
        let connecting = connect(&self.server.addresses);
        self.sender = Some(tokio::time::timeout(self.timeout, connecting).await.unwrap_or(Err(NoAnswer::TimedOut))?);
        Ok(())
    }

    /// Sends one request and reads the whole answer. After an error the next request connects anew.
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
            closed => closed.insert(connect(&self.server.addresses).await?),
        };
        sender.ready().await.map_err(|_| NoAnswer::Closed)?;
        let (head, body) = sender.send_request(request).await.map_err(|_| NoAnswer::Closed)?.into_parts();
        let body = body.collect().await.map_err(|_| NoAnswer::Closed)?.to_bytes();
        Ok(Response::from_parts(head, body))
    }
}

/// Connects to the first address that takes a connection.
async fn connect(addresses: &[SocketAddr]) -> Result<SendRequest<Full<Bytes>>, NoAnswer> {
    let socket = TcpStream::connect(addresses).await.map_err(|_| NoAnswer::Refused)?;
    // Without it small requests wait for the answer's acknowledgement.
    let _ = socket.set_nodelay(true);
    let (sender, connection) = handshake(TokioIo::new(socket)).await.map_err(|_| NoAnswer::Closed)?;
    tokio::spawn(async move {
        // Its errors reach whoever waits for an answer.
        let _ = connection.await;
    });
    Ok(sender)
}

/// Whether a host is this machine: load is not for strangers.
#[cfg(any(feature = "kafka", feature = "nats"))]
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
            let server = Server { addresses: addresses.into(), host: HeaderValue::from_static("x") };
            Client::new(server, Duration::from_secs(5))
        };
        assert_eq!(at(&[gone, there.local_addr().unwrap()]).connect().await, Ok(()));
        assert_eq!(at(&[gone, gone]).connect().await, Err(NoAnswer::Refused));
    }
}
