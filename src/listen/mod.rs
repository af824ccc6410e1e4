//! Where the service listens: addresses, with TLS or without, and sockets of the file system. Owns binding, taking
//! connections, the server's part of a handshake and the form of what is refused before there is a request; knows
//! nothing of what else is said over them.

mod endpoint;
pub mod refusal;

use std::io;
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};

use crate::process::log::random_id;
use crate::tls::server::Protocols;
use crate::tls::{self, Acceptor};
pub use endpoint::Endpoint;

/// A listening socket that no runtime has yet.
pub struct Bound {
    endpoint: Endpoint,
    socket: Socket,
    acceptor: Option<Acceptor>,
}

enum Socket {
    Tcp(std::net::TcpListener),
    Unix(std::os::unix::net::UnixListener, Arc<SocketFile>),
}

/// Deep enough for a burst of clients that reconnect at once.
const BACKLOG: i32 = 4096;
/// Who may connect to a socket of the file system: its owner and its group.
const SOCKET_MODE: u32 = 0o660;

/// Binds a listening socket, or several that share an address: each is given its part of the
/// connections by the system. `tls` has the certificate of a `tls:` endpoint, over which
/// `protocols` are spoken.
///
/// # Errors
/// Whatever the system says, most often that the address is in use; and a `tls:` endpoint without a
/// certificate.
pub fn bind(
    endpoint: &Endpoint,
    sockets: usize,
    tls: Option<&tls::Server>,
    protocols: Protocols,
) -> io::Result<Vec<Bound>> {
    let (address, acceptor) = match endpoint {
        Endpoint::Unix(path) => return bind_file(path, sockets),
        Endpoint::Tcp(address) => (*address, None),
        Endpoint::Tls(address) => {
            let missing = || io::Error::new(io::ErrorKind::InvalidInput, "there is no certificate for it");
            (*address, Some(tls.ok_or_else(missing)?.acceptor(protocols)))
        }
    };
    let bound = bind_tcp(address, sockets)?.into_iter().map(|socket| {
        let address = socket.local_addr()?;
        let endpoint = if acceptor.is_some() { Endpoint::Tls(address) } else { Endpoint::Tcp(address) };
        Ok(Bound { endpoint, socket: Socket::Tcp(socket), acceptor: acceptor.clone() })
    });
    bound.collect()
}

fn bind_tcp(address: SocketAddr, sockets: usize) -> io::Result<Vec<std::net::TcpListener>> {
    let socket = |address: SocketAddr, is_shared: bool| {
        let domain = socket2::Domain::for_address(address);
        let socket = socket2::Socket::new(domain, socket2::Type::STREAM.nonblocking(), Some(socket2::Protocol::TCP))?;
        socket.set_reuse_address(true)?;
        socket.set_reuse_port(is_shared)?;
        socket.bind(&address.into())?;
        io::Result::Ok(socket)
    };
    if sockets > 1 {
        // Another process that shares its address would share it with this one too, and nothing
        // would show it.
        socket(address, false)?;
    }
    let mut bound: Vec<std::net::TcpListener> = Vec::with_capacity(sockets);
    for _ in 0..sockets {
        let address = bound.first().map_or(Ok(address), std::net::TcpListener::local_addr)?;
        let socket = socket(address, sockets > 1)?;
        socket.listen(BACKLOG)?;
        bound.push(socket.into());
    }
    Ok(bound)
}

/// Binds a socket of the file system. One that is left over from a process that was killed is
/// replaced; one that another process listens on is not.
fn bind_file(path: &Path, sockets: usize) -> io::Result<Vec<Bound>> {
    if let Ok(found) = std::fs::symlink_metadata(path) {
        if !found.file_type().is_socket() {
            return Err(io::Error::new(io::ErrorKind::AlreadyExists, "there is something else than a socket"));
        }
        match std::os::unix::net::UnixStream::connect(path) {
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {}
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(error),
            Ok(_) => return Err(io::Error::new(io::ErrorKind::AddrInUse, "another process listens on it")),
        }
    }
    // Under its own name it is from the first moment what it is to be: with its mode, and listened
    // on.
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".{}", std::process::id()));
    let before = path.with_file_name(name);
    let _ = std::fs::remove_file(&before); // of an earlier process with this number
    let listener = socket2::Socket::new(socket2::Domain::UNIX, socket2::Type::STREAM.nonblocking(), None)?;
    listener.bind(&socket2::SockAddr::unix(&before)?)?;
    let named = std::fs::set_permissions(&before, std::fs::Permissions::from_mode(SOCKET_MODE))
        .and_then(|()| listener.listen(BACKLOG))
        .and_then(|()| std::fs::rename(&before, path));
    if let Err(error) = named {
        let _ = std::fs::remove_file(&before);
        return Err(error);
    }
    let file = Arc::new(SocketFile { path: path.to_owned(), inode: std::fs::symlink_metadata(path)?.ino() });
    let listener: std::os::unix::net::UnixListener = std::os::fd::OwnedFd::from(listener).into();
    let bound = (0..sockets).map(|_| {
        let socket = Socket::Unix(listener.try_clone()?, Arc::clone(&file));
        Ok(Bound { endpoint: Endpoint::Unix(path.to_owned()), socket, acceptor: None })
    });
    bound.collect()
}

/// The name of a socket in the file system, until the last listener is gone.
struct SocketFile {
    path: PathBuf,
    inode: u64,
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        // Another process may have taken the name since.
        if std::fs::symlink_metadata(&self.path).is_ok_and(|found| found.ino() == self.inode) {
            let _ = std::fs::remove_file(&self.path);
        }
    }
}

impl Bound {
    /// Where it listens, with the port that the system has given.
    #[must_use]
    pub fn endpoint(&self) -> &Endpoint {
        &self.endpoint
    }

    /// Hands it to the runtime of the caller.
    ///
    /// # Errors
    /// The runtime cannot take it.
    pub fn listen(self) -> io::Result<Listener> {
        Ok(match self.socket {
            Socket::Tcp(listener) => Listener::Tcp(TcpListener::from_std(listener)?, self.acceptor),
            Socket::Unix(listener, file) => Listener::Unix(UnixListener::from_std(listener)?, file),
        })
    }
}

/// A listening socket.
pub enum Listener {
    /// Over TCP, with TLS where there is an acceptor.
    Tcp(TcpListener, Option<Acceptor>),
    /// In the file system.
    Unix(UnixListener, #[expect(private_interfaces, reason = "held, not used")] Arc<SocketFile>),
}

/// A connection of a client, before a handshake.
pub enum Connection {
    /// TCP as it is.
    Tcp(TcpStream, SocketAddr),
    /// TCP over which TLS is to be spoken.
    Tls(TcpStream, SocketAddr, Acceptor),
    /// Of the file system.
    Unix(UnixStream),
}

impl Listener {
    /// The next connection. Cancel-safe.
    ///
    /// # Errors
    /// Whatever the system says, most often that there are no more file descriptors.
    pub async fn accept(&self) -> io::Result<Connection> {
        match self {
            Self::Tcp(listener, acceptor) => {
                let (socket, peer) = listener.accept().await?;
                Ok(Connection::over_tcp(socket, peer, acceptor.as_ref()))
            }
            Self::Unix(listener, _) => Ok(Connection::Unix(listener.accept().await?.0)),
        }
    }

    /// Ends listening; what the system has taken by now can still be had.
    ///
    /// # Errors
    /// The runtime does not give the socket back.
    pub fn end(self) -> io::Result<Backlog> {
        Ok(match self {
            Self::Tcp(listener, acceptor) => Backlog::Tcp(listener.into_std()?, acceptor),
            Self::Unix(listener, file) => Backlog::Unix(listener.into_std()?, file),
        })
    }
}

/// Connections that the system has taken and nothing here has yet. It is asked: what tokio knows of
/// a listener may be older than the last client.
pub enum Backlog {
    /// Over TCP.
    Tcp(std::net::TcpListener, Option<Acceptor>),
    /// In the file system.
    Unix(std::os::unix::net::UnixListener, #[expect(private_interfaces, reason = "held, not used")] Arc<SocketFile>),
}

impl Iterator for Backlog {
    type Item = Connection;

    fn next(&mut self) -> Option<Connection> {
        loop {
            let accepted = match self {
                Self::Tcp(listener, acceptor) => listener.accept().and_then(|(socket, peer)| {
                    socket.set_nonblocking(true)?;
                    Ok(Connection::over_tcp(TcpStream::from_std(socket)?, peer, acceptor.as_ref()))
                }),
                Self::Unix(listener, _) => listener.accept().and_then(|(socket, _)| {
                    socket.set_nonblocking(true)?;
                    Ok(Connection::Unix(UnixStream::from_std(socket)?))
                }),
            };
            match accepted {
                Ok(connection) => return Some(connection),
                Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
                Err(_) => return None,
            }
        }
    }
}

impl Connection {
    fn over_tcp(socket: TcpStream, peer: SocketAddr, acceptor: Option<&Acceptor>) -> Self {
        // A client that is gone already shows at the first read.
        let _ = socket.set_nodelay(true);
        match acceptor {
            Some(acceptor) => Self::Tls(socket, peer, acceptor.clone()),
            None => Self::Tcp(socket, peer),
        }
    }

    /// Where it is from, if that is an address.
    #[must_use]
    pub fn address(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(_, address) | Self::Tls(_, address, _) => Some(*address),
            Self::Unix(_) => None,
        }
    }

    /// The socket of TCP, on which nothing was read yet.
    pub fn socket(&mut self) -> Option<&mut TcpStream> {
        match self {
            Self::Tcp(socket, _) | Self::Tls(socket, ..) => Some(socket),
            Self::Unix(_) => None,
        }
    }

    /// Ready for a surface that is no hurry's: with its handshake done, within `time`. `None` for a
    /// client that spoke another protocol than the listener, which was told so.
    pub async fn open(self, time: Duration) -> Option<Opened> {
        let opened = async {
            match self {
                Self::Unix(socket) => Some(Opened { stream: Stream::Unix(socket), certificate: None }),
                Self::Tcp(socket, peer) => {
                    Some(Opened { stream: Stream::Tcp(Plain { socket, peer, is_fresh: true }), certificate: None })
                }
                Self::Tls(socket, address, acceptor) => {
                    let stream = handshake(socket, address, &acceptor).await?;
                    let certificate = tls::server::client_subject(&stream);
                    Some(Opened { stream: Stream::Tls(Box::new(stream)), certificate })
                }
            }
        };
        tokio::time::timeout(time, opened).await.ok().flatten()
    }
}

/// A connection over which a surface can speak.
pub struct Opened {
    /// Its bytes, decrypted.
    pub stream: Stream,
    /// The subject of the certificate that the client has shown, which was verified:
    /// `CN=shop,O=Example`.
    pub certificate: Option<Arc<str>>,
}

/// The bytes of a connection, decrypted, for surfaces where one more choice at each read is
/// nothing.
pub enum Stream {
    /// TCP as it is.
    Tcp(Plain),
    /// TLS over TCP.
    Tls(Box<tls::server::Stream>),
    /// Of the file system.
    Unix(UnixStream),
}

/// The first byte of TLS: a record of a handshake.
const TLS_BYTE: u8 = 22;

/// The server's part of a handshake. A client that speaks HTTP without TLS is told so. How long
/// both may take is for the caller to say.
pub async fn handshake(mut socket: TcpStream, peer: SocketAddr, acceptor: &Acceptor) -> Option<tls::server::Stream> {
    let mut first = [0];
    match socket.peek(&mut first).await {
        Ok(1) if first[0].is_ascii_uppercase() => {
            refuse(&mut socket, PLAIN_REFUSED).await;
            tracing::debug!(%peer, "a request without TLS on a listener with it");
            return None;
        }
        Ok(1) => {}
        _ => return None, // gone before it said anything
    }
    match acceptor.accept(socket).await {
        Ok(stream) => Some(stream),
        Err(error) => {
            static NOTED: Noted = Noted::new();
            let is_of_others = tls::server::is_of_other_protocols(&error);
            if let Some(left_out) = is_of_others.then(|| NOTED.due()).flatten() {
                tracing::warn!(%peer, left_out, "a client offers no protocol of this listener (ALPN): closed");
            } else {
                tracing::debug!(%peer, %error, "a TLS handshake failed");
            }
            None
        }
    }
}

/// What a client that speaks without TLS is told, in the form that every other error has.
pub const PLAIN_REFUSED: &str = concat!(
    r#"{"type":"about:blank","title":"Bad Request","status":400,"#,
    r#""detail":"this port speaks TLS: use https","error":"this port speaks TLS: use https","#,
    r#""message":"this port speaks TLS: use https","code":400,"reason":"tls_required"}"#
);
/// How long such a client has to take its answer up.
const REFUSED_TIME: Duration = Duration::from_secs(1);

/// Tells a client of HTTP/1.1 that it speaks to the wrong port, and closes. `problem` is the answer. What the client calls
/// its request is not read: it may be the middle of something else.
pub async fn refuse<S: AsyncRead + AsyncWrite + Unpin>(socket: &mut S, problem: &str) {
    let id = random_id();
    let answer = format!(
        "HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-type: application/problem+json\r\n\
         cache-control: no-cache\r\nx-request-id: {}\r\ncontent-length: {}\r\n\r\n{problem}",
        String::from_utf8_lossy(&id),
        problem.len()
    );
    // What is not read has the system end the connection with a reset, which takes the answer away.
    let answered = async {
        socket.write_all(answer.as_bytes()).await?;
        socket.flush().await?;
        socket.shutdown().await?;
        let mut scratch = [0; 4096];
        while socket.read(&mut scratch).await? > 0 {}
        io::Result::Ok(())
    };
    let _ = tokio::time::timeout(REFUSED_TIME, answered).await; // a client that is gone needs none
}

/// TCP whose first bytes are not to be TLS: that is the end of it then.
pub struct Plain {
    socket: TcpStream,
    peer: SocketAddr,
    is_fresh: bool,
}

impl Plain {
    fn poll_read(&mut self, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = into.filled().len();
        let read = Pin::new(&mut self.socket).poll_read(context, into);
        if self.is_fresh && into.filled().len() > before {
            self.is_fresh = false;
            if is_tls(&into.filled()[before..]) {
                note_tls(Some(self.peer));
                into.set_filled(before);
            }
        }
        read
    }
}

/// Whether what a client sent first is TLS.
#[must_use]
pub fn is_tls(bytes: &[u8]) -> bool {
    // A handshake's record, of any version: 3.0 to 3.4.
    matches!(bytes, [TLS_BYTE, 3, 0..=4, ..])
}

/// How often it is logged at most that a client speaks TLS where there is none.
const NOTED_EVERY: i64 = 1;

/// When something was logged last that a client may have logged as often as it likes.
struct Noted {
    at: AtomicI64,
    left_out: AtomicU64,
}

impl Noted {
    const fn new() -> Self {
        Self { at: AtomicI64::new(0), left_out: AtomicU64::new(0) }
    }

    /// How many lines were left out since the last one, where it is time for the next.
    fn due(&self) -> Option<u64> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let now = i64::try_from(now).unwrap_or(i64::MAX);
        let before = self.at.load(Ordering::Relaxed);
        let is_due = now.saturating_sub(before).abs() >= NOTED_EVERY;
        if !is_due || self.at.compare_exchange(before, now, Ordering::Relaxed, Ordering::Relaxed).is_err() {
            self.left_out.fetch_add(1, Ordering::Relaxed);
            return None;
        }
        Some(self.left_out.swap(0, Ordering::Relaxed))
    }
}

/// Logs that a client speaks TLS where there is none. One that does so in a loop has a line a
/// second.
pub fn note_tls(peer: Option<SocketAddr>) {
    static NOTED: Noted = Noted::new();
    let Some(left_out) = NOTED.due() else { return };
    let peer = peer.map(|peer| peer.to_string());
    tracing::warn!(peer, left_out, "a client speaks TLS on a listener without it: connection closed");
}

/// Logs that a connection begins with a PROXY header and is not from a trusted proxy, at most once a
/// second.
pub fn note_proxy() {
    static NOTED: Noted = Noted::new();
    let Some(left_out) = NOTED.due() else { return };
    tracing::warn!(
        left_out,
        "a connection begins with a PROXY header and is from no trusted proxy: refused; --trusted-proxies names those \
         that are"
    );
}

macro_rules! of_each {
    ($self:ident, $stream:ident => $call:expr) => {
        match $self.get_mut() {
            Stream::Tcp(Plain { socket: $stream, .. }) => $call,
            Stream::Tls($stream) => $call,
            Stream::Unix($stream) => $call,
        }
    };
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Tcp(stream) => stream.poll_read(context, into),
            Self::Tls(stream) => Pin::new(stream).poll_read(context, into),
            Self::Unix(stream) => Pin::new(stream).poll_read(context, into),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, context: &mut Context<'_>, from: &[u8]) -> Poll<io::Result<usize>> {
        of_each!(self, stream => Pin::new(stream).poll_write(context, from))
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        from: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        of_each!(self, stream => Pin::new(stream).poll_write_vectored(context, from))
    }

    fn is_write_vectored(&self) -> bool {
        true
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        of_each!(self, stream => Pin::new(stream).poll_flush(context))
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        of_each!(self, stream => Pin::new(stream).poll_shutdown(context))
    }
}
