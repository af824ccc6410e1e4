//! Where to listen, as it is written.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, ToSocketAddrs};
use std::path::PathBuf;
use std::str::FromStr;

/// The longest path of a socket.
const SOCKET_PATH_BYTES_MAX: usize = 90;

/// Where to listen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Endpoint {
    /// `ADDR`: TCP as it is.
    Tcp(SocketAddr),
    /// `tls:ADDR`: TLS over TCP.
    Tls(SocketAddr),
    /// `unix:PATH`: a socket of the file system, mode 0660.
    Unix(PathBuf),
}

impl Endpoint {
    /// Its address, if it has one.
    #[must_use]
    pub fn address(&self) -> Option<SocketAddr> {
        match self {
            Self::Tcp(address) | Self::Tls(address) => Some(*address),
            Self::Unix(_) => None,
        }
    }

    /// Whether both cannot be listened on at once. Port 0 is another one each time.
    #[must_use]
    pub fn collides(&self, other: &Self) -> bool {
        match (self.address(), other.address()) {
            (Some(one), Some(other)) => one == other && one.port() != 0,
            (None, None) => self == other,
            _ => false,
        }
    }
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => write!(f, "{address}"),
            Self::Tls(address) => write!(f, "tls:{address}"),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

/// An address as it is, `tls:` before one, or `unix:` before the path of a socket.
impl FromStr for Endpoint {
    /// What is wrong with the text.
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let text = text.trim();
        if let Some(path) = text.strip_prefix("unix:") {
            // The system has no room for a longer one, and what is bound first has a longer name.
            let is_legal = !path.is_empty() && path.len() <= SOCKET_PATH_BYTES_MAX && !path.ends_with('/');
            let wrong =
                || format!("{text:?} needs the path of a socket, of at most 90 bytes, such as /run/order-service.sock");
            return if is_legal { Ok(Self::Unix(path.into())) } else { Err(wrong()) };
        }
        match text.strip_prefix("tls:") {
            Some(text) => address(text).map(Self::Tls),
            None => address(text).map(Self::Tcp),
        }
    }
}

/// `127.0.0.1:8080`, `[::1]:8080`, `localhost:8080`; `:8080` and `8080` are every address of this host, of both families
/// where it has both.
fn address(text: &str) -> Result<SocketAddr, String> {
    let text = text.trim();
    let bare = text.strip_prefix(':').unwrap_or(text);
    if let Ok(port) = bare.parse::<u16>() {
        // A socket for all addresses of IPv6 takes those of IPv4 as well.
        let has_both = TcpListener::bind((Ipv6Addr::UNSPECIFIED, 0)).is_ok();
        let every = if has_both { IpAddr::from(Ipv6Addr::UNSPECIFIED) } else { Ipv4Addr::UNSPECIFIED.into() };
        return Ok(SocketAddr::new(every, port));
    }
    let wrong = || format!("{text:?} is no address such as 127.0.0.1:8080, [::1]:8080 or :8080");
    // To the system a number is an address of IPv4 too.
    if text.rsplit_once(':').is_some_and(|(host, _)| host.bytes().all(|byte| byte.is_ascii_digit())) {
        return Err(wrong());
    }
    let mut found = text.to_socket_addrs().map_err(|_| wrong())?;
    found.next().ok_or_else(|| format!("{text:?} has no address"))
}
