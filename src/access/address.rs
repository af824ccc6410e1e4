//! Where a request comes from: the connection's own address, or what a proxy says that is trusted.
//! Knows no request, only its header values and the first bytes of a connection.

use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use ipnet::IpNet;
use tokio::io::AsyncReadExt;
use tokio::net::TcpStream;

/// Addresses of proxies that are believed.
#[derive(Debug, Clone, Default)]
pub struct Proxies(Vec<IpNet>);

impl Proxies {
    /// `10.0.0.0/8`, `::1`, `192.0.2.7`, several with commas.
    ///
    /// # Errors
    /// The part that is no network.
    pub fn parse(values: &[String]) -> Result<Self, String> {
        let parts = values.iter().flat_map(|value| value.split(',')).map(str::trim).filter(|part| !part.is_empty());
        let network = |part: &str| {
            let network = part.parse().or_else(|_| part.parse::<IpAddr>().map(IpNet::from));
            network.map_err(|_| format!("{part:?} is no network such as 10.0.0.0/8 or ::1"))
        };
        Ok(Self(parts.map(network).collect::<Result<_, _>>()?))
    }

    /// Whether an address is one of theirs.
    #[must_use]
    pub fn trust(&self, address: IpAddr) -> bool {
        let address = address.to_canonical();
        self.0.iter().any(|network| network.contains(&address))
    }
}

/// The other end of a connection.
#[derive(Debug, Clone, Default)]
pub struct Peer {
    /// Its address, or the client's where a trusted proxy said so in front of the connection.
    /// `None` for a local socket.
    pub address: Option<IpAddr>,
    /// It is a proxy that is believed about each request.
    pub is_trusted: bool,
    /// The subject of the client certificate that was verified.
    pub certificate: Option<Arc<str>>,
}

impl Peer {
    /// Who is at the other end of a connection from this address, or, where that is a trusted
    /// proxy, whom its PROXY header names: `socket` is read for that, before anything else is.
    ///
    /// # Errors
    /// A header that cannot be read, whatever the socket says, or that it took longer than `time`.
    pub async fn of(
        proxies: &Proxies,
        address: Option<IpAddr>,
        socket: Option<&mut TcpStream>,
        time: Duration,
    ) -> io::Result<Self> {
        let is_trusted = address.is_some_and(|address| proxies.trust(address));
        if let (true, Some(socket)) = (is_trusted, socket)
            && let Some(client) = take_header(socket, time).await?
        {
            // The proxy has spoken for the whole connection.
            return Ok(Self { address: Some(client), ..Self::default() });
        }
        Ok(Self { address, is_trusted, certificate: None })
    }
}

/// What requests are counted by: an address of IPv4, or the /64 of one of IPv6, which is what one
/// client has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Place {
    /// IPv4.
    V4(Ipv4Addr),
    /// The first half of an address of IPv6.
    V6(u64),
    /// A local socket.
    Local,
}

impl Place {
    /// The place of an address.
    #[must_use]
    pub fn of(address: Option<IpAddr>) -> Self {
        match address.map(|address| address.to_canonical()) {
            None => Self::Local,
            Some(IpAddr::V4(address)) => Self::V4(address),
            Some(IpAddr::V6(address)) => Self::V6((address.to_bits() >> 64) as u64),
        }
    }
}

/// `X-Forwarded-For` and `Forwarded` of one request do not name the same client: one of them may
/// have come from the client itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Differ;

/// The client that a trusted proxy names: the last address in `X-Forwarded-For`, or in `Forwarded`,
/// that is not a trusted proxy's own. Values of several fields come in order. `None` where they
/// name none, or nothing that is an address.
///
/// # Errors
/// [`Differ`] where both are there and do not name the same.
pub fn forwarded<'v>(
    proxies: &Proxies,
    x_forwarded_for: impl Iterator<Item = &'v [u8]>,
    forwarded: impl Iterator<Item = &'v [u8]>,
) -> Result<Option<IpAddr>, Differ> {
    let named = named(proxies, x_forwarded_for, |value| value.split(',').map(str::trim).collect());
    let other = self::named(proxies, forwarded, |value| unquoted_parts(value, b',').map(of_element).collect());
    match (named, other) {
        (Some(one), Some(other)) if one != other => Err(Differ),
        (one, other) => Ok(one.or(other).flatten()),
    }
}

/// Whom the hops of a field name, of which `hops` are those of one value; `None` without the field.
fn named<'v>(
    proxies: &Proxies,
    values: impl Iterator<Item = &'v [u8]>,
    hops: impl Fn(&'v str) -> Vec<&'v str>,
) -> Option<Option<IpAddr>> {
    let mut values = values.peekable();
    values.peek()?;
    let mut chain: Vec<&str> = Vec::new();
    for value in values {
        match std::str::from_utf8(value) {
            Ok(value) => chain.extend(hops(value)),
            Err(_) => return Some(None),
        }
    }
    let mut nearest = None;
    for hop in chain.into_iter().rev() {
        // What stands before something that is no address may have been written by anyone.
        let Some(address) = hop_address(hop) else { break };
        nearest = Some(address.to_canonical());
        if !proxies.trust(address) {
            break;
        }
    }
    Some(nearest)
}

/// The parts between separators that are in no quoted string (RFC 9110, section 5.6.4).
fn unquoted_parts(text: &str, separator: u8) -> impl Iterator<Item = &str> {
    let (mut is_quoted, mut is_escaped) = (false, false);
    text.split(move |character: char| {
        if std::mem::take(&mut is_escaped) {
            return false;
        }
        match character {
            '\\' if is_quoted => is_escaped = true,
            '"' => is_quoted = !is_quoted,
            other => return !is_quoted && other == char::from(separator),
        }
        false
    })
}

/// `for=` of an element of `Forwarded` (RFC 7239).
fn of_element(element: &str) -> &str {
    let pairs = unquoted_parts(element, b';').filter_map(|pair| pair.trim().split_once('='));
    let mut named =
        pairs.filter(|(name, _)| name.eq_ignore_ascii_case("for")).map(|(_, value)| value.trim_matches('"'));
    named.next().unwrap_or_default()
}

/// `192.0.2.1`, `192.0.2.1:80`, `2001:db8::1`, `[2001:db8::1]:80`.
fn hop_address(hop: &str) -> Option<IpAddr> {
    if let Some(inner) = hop.strip_prefix('[') {
        return inner.split_once(']').and_then(|(address, _)| address.parse::<Ipv6Addr>().ok()).map(IpAddr::V6);
    }
    hop.parse()
        .ok()
        .or_else(|| hop.rsplit_once(':').and_then(|(address, _)| address.parse::<Ipv4Addr>().ok()).map(IpAddr::V4))
}

/// What the second version begins with.
const V2: [u8; 12] = *b"\r\n\r\n\0\r\nQUIT\n";
/// What the first version begins with.
const V1: [u8; 6] = *b"PROXY ";
/// The longest line of the first version, with its end.
const V1_BYTES_MAX: usize = 107;
/// The longest rest of the second version: addresses, and what else a proxy may add.
const V2_BYTES_MAX: usize = 4096;

/// The first bytes of a connection are those of a PROXY header, and no good one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct BadHeader;

impl fmt::Display for BadHeader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the PROXY header cannot be read")
    }
}

impl std::error::Error for BadHeader {}

impl From<BadHeader> for io::Error {
    fn from(error: BadHeader) -> Self {
        Self::new(io::ErrorKind::InvalidData, error)
    }
}

/// What a PROXY header says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ProxyHeader {
    /// The client; `None` where the proxy speaks for itself or does not know.
    pub client: Option<IpAddr>,
    /// Bytes of the header.
    pub bytes: usize,
}

/// What the first bytes of a connection are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Begin {
    /// No PROXY header.
    Other,
    /// Perhaps the beginning of one.
    Part,
    /// One.
    Header(ProxyHeader),
}

/// Whether a connection begins with a PROXY header.
#[must_use]
pub fn is_proxy_header(bytes: &[u8]) -> bool {
    bytes.starts_with(&V1) || bytes.starts_with(&V2)
}

/// Reads a PROXY header of version 1 or 2 off the first bytes of a connection.
///
/// # Errors
/// [`BadHeader`].
pub fn begin(bytes: &[u8]) -> Result<Begin, BadHeader> {
    let common = |magic: &[u8]| bytes.iter().zip(magic).take_while(|(a, b)| a == b).count();
    if common(&V2) == V2.len() {
        return version_2(bytes);
    }
    if common(&V1) == V1.len() {
        return version_1(bytes);
    }
    let is_part = [&V1[..], &V2[..]].iter().any(|magic| common(magic) == bytes.len());
    Ok(if is_part { Begin::Part } else { Begin::Other })
}

fn version_1(bytes: &[u8]) -> Result<Begin, BadHeader> {
    let Some(end) = memchr::memmem::find(bytes, b"\r\n") else {
        return if bytes.len() < V1_BYTES_MAX { Ok(Begin::Part) } else { Err(BadHeader) };
    };
    let line = std::str::from_utf8(&bytes[..end]).map_err(|_| BadHeader)?;
    let words: Vec<&str> = line.split(' ').collect();
    let is_port =
        |port: &str| !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()) && port.parse::<u16>().is_ok();
    let client = match words[..] {
        [_, "UNKNOWN", ..] => None,
        [_, "TCP4", from, to, from_port, to_port] if is_port(from_port) && is_port(to_port) => {
            let address: Ipv4Addr = from.parse().map_err(|_| BadHeader)?;
            to.parse::<Ipv4Addr>().map_err(|_| BadHeader)?;
            Some(IpAddr::V4(address))
        }
        [_, "TCP6", from, to, from_port, to_port] if is_port(from_port) && is_port(to_port) => {
            let address: Ipv6Addr = from.parse().map_err(|_| BadHeader)?;
            to.parse::<Ipv6Addr>().map_err(|_| BadHeader)?;
            Some(IpAddr::V6(address))
        }
        _ => return Err(BadHeader),
    };
    Ok(Begin::Header(ProxyHeader { client, bytes: end + 2 }))
}

fn version_2(bytes: &[u8]) -> Result<Begin, BadHeader> {
    let [version_command, family, high, low, rest @ ..] = &bytes[V2.len()..] else { return Ok(Begin::Part) };
    let length = usize::from(u16::from_be_bytes([*high, *low]));
    if version_command >> 4 != 2 || length > V2_BYTES_MAX {
        return Err(BadHeader);
    }
    if rest.len() < length {
        return Ok(Begin::Part);
    }
    let part = |bytes: usize| rest[..length].get(..bytes).ok_or(BadHeader);
    let client = match (version_command & 15, family >> 4) {
        (1, 1) => Some(IpAddr::from(<[u8; 4]>::try_from(&part(12)?[..4]).expect("four bytes"))),
        (1, 2) => Some(IpAddr::from(<[u8; 16]>::try_from(&part(36)?[..16]).expect("sixteen bytes"))),
        // The proxy's own, which is a health check, or of another family.
        (0 | 1, _) => None,
        _ => return Err(BadHeader),
    };
    Ok(Begin::Header(ProxyHeader { client, bytes: V2.len() + 4 + length }))
}

/// Takes a PROXY header off the front of a connection from a trusted proxy, where there is one.
/// Gives the client that it names.
///
/// # Errors
/// [`BadHeader`], whatever the socket says, or that it took too long.
async fn take_header(socket: &mut TcpStream, time: Duration) -> io::Result<Option<IpAddr>> {
    let taking = async {
        let mut bytes = [0; V2.len() + 4 + V2_BYTES_MAX];
        let mut seen = 0;
        loop {
            let peeked = socket.peek(&mut bytes).await?;
            match begin(&bytes[..peeked])? {
                Begin::Other => return Ok(None),
                Begin::Header(header) => {
                    socket.read_exact(&mut bytes[..header.bytes]).await?;
                    return Ok(header.client);
                }
                Begin::Part if peeked == 0 => return Ok(None), // the end, which is for others to see
                // What is there already is given at once, so there is nothing to wait for but time.
                Begin::Part if peeked == seen => tokio::time::sleep(Duration::from_millis(5)).await,
                Begin::Part => seen = peeked,
            }
        }
    };
    tokio::time::timeout(time, taking).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn client(bytes: &[u8]) -> Option<IpAddr> {
        match begin(bytes) {
            Ok(Begin::Header(header)) => {
                for cut in 0..header.bytes {
                    assert_eq!(begin(&bytes[..cut]), Ok(Begin::Part), "{cut} of {bytes:?}");
                }
                header.client
            }
            other => panic!("{other:?}: {bytes:?}"),
        }
    }

    #[test]
    fn proxy_headers_are_read_and_nothing_else() {
        let v2 = |rest: &[u8]| [&V2[..], rest].concat();
        assert_eq!(client(b"PROXY TCP4 192.0.2.7 10.0.0.1 51000 8080\r\nGET /"), Some("192.0.2.7".parse().unwrap()));
        assert_eq!(client(b"PROXY TCP6 2001:db8::7 ::1 51000 8080\r\n"), Some("2001:db8::7".parse().unwrap()));
        assert_eq!(client(b"PROXY UNKNOWN\r\n"), None);
        assert_eq!(
            client(&v2(b"\x21\x11\0\x0c\xc0\0\x02\x07\x0a\0\0\x01\0\x50\0\x50rest")),
            Some("192.0.2.7".parse().unwrap())
        );
        let mut six = vec![0x21, 0x21, 0, 39];
        six.extend(Ipv6Addr::LOCALHOST.octets());
        six.extend([0; 23]); // the rest of the addresses, and a field of three bytes
        assert_eq!(client(&v2(&six)), Some("::1".parse().unwrap()));
        assert_eq!(client(&v2(b"\x20\0\0\0")), None);
        for bad in [
            &b"PROXY TCP4 192.0.2.7 10.0.0.1 51000\r\n"[..],
            b"PROXY TCP4 ::1 ::1 1 1\r\n",
            b"PROXY TCP6 192.0.2.7 ::1 1 1\r\n",
            b"PROXY TCP4 192.0.2.7 10.0.0.1 51000 65536\r\n",
            b"PROXY UDP4 192.0.2.7 10.0.0.1 1 1\r\n",
            &[b'P', b'R', b'O', b'X', b'Y', b' '].repeat(20),
            &v2(b"\x11\x11\0\0"),
            &v2(b"\x21\x11\0\x04abcd"),
            &v2(b"\x21\x11\xff\xff"),
            &v2(b"\x22\x11\0\0"),
        ] {
            assert_eq!(begin(bad), Err(BadHeader), "{bad:?}");
        }
        for other in [&b"GET / HTTP/1.1\r\n"[..], b"POST", b"\x16\x03\x01", b"PRI * HTTP/2.0"] {
            assert_eq!(begin(other), Ok(Begin::Other), "{other:?}");
        }
    }

    #[test]
    fn the_last_address_that_is_no_proxy_of_ours_is_the_client() {
        let proxies = Proxies::parse(&["10.0.0.0/8, ::1".into()]).unwrap();
        let of = |xff: &[&str], field: &[&str]| {
            let bytes = |values: &[&str]| values.iter().map(|value| value.as_bytes().to_vec()).collect::<Vec<_>>();
            let (xff, field) = (bytes(xff), bytes(field));
            let found = forwarded(&proxies, xff.iter().map(Vec::as_slice), field.iter().map(Vec::as_slice));
            found.map(|client| client.map(|address| address.to_string()))
        };
        for (xff, field, expected) in [
            (&["192.0.2.1"][..], &[][..], Some("192.0.2.1")),
            (&["6.6.6.6, 192.0.2.1"], &[], Some("192.0.2.1")),
            (&["6.6.6.6, 192.0.2.1, 10.1.1.1"], &[], Some("192.0.2.1")),
            (&["6.6.6.6", "192.0.2.1:443, 10.1.1.1"], &[], Some("192.0.2.1")),
            (&["10.2.2.2, 10.1.1.1"], &[], Some("10.2.2.2")),
            (&["6.6.6.6, unknown, 10.1.1.1"], &[], Some("10.1.1.1")),
            (&["unknown"], &[], None),
            (&[], &["for=192.0.2.1;proto=https, for=\"[::1]:80\""], Some("192.0.2.1")),
            (&[], &["proto=https;For=\"[2001:db8::9]:80\""], Some("2001:db8::9")),
            (&[], &["for=_hidden"], None),
            (&["192.0.2.1:80, 10.1.1.1"], &["for=192.0.2.1"], Some("192.0.2.1")),
            (&["192.0.2.1"], &["for=\"[::ffff:192.0.2.1]\""], Some("192.0.2.1")),
            (&["unknown"], &["for=_hidden"], None),
            (&[], &["for=192.0.2.1;by=\"x, for=6.6.6.6\""], Some("192.0.2.1")),
            (&[], &["by=\"a\\\"; for=6.6.6.6;\";for=192.0.2.1"], Some("192.0.2.1")),
            (&[], &["for=\", for=192.0.2.1"], None),
            (&[], &[], None),
        ] {
            assert_eq!(of(xff, field), Ok(expected.map(str::to_owned)), "{xff:?} {field:?}");
        }
        // Whichever the proxy passes on unseen, its client wrote.
        for (xff, field) in [("192.0.2.1", "for=192.0.2.9"), ("192.0.2.1", "for=_hidden"), ("x", "for=192.0.2.1")] {
            assert_eq!(of(&[xff], &[field]), Err(Differ), "{xff} {field}");
        }
        assert!(proxies.trust("::ffff:10.9.9.9".parse().unwrap()), "IPv4 on a socket of IPv6");
        assert!(Proxies::parse(&["10.0.0.0/33".into()]).is_err() && Proxies::parse(&["proxy".into()]).is_err());
    }

    #[test]
    fn a_client_of_ipv6_is_its_first_half() {
        let place = |text: &str| Place::of(Some(text.parse().unwrap()));
        assert_eq!(place("2001:db8::1"), place("2001:db8::ffff:1"));
        assert_ne!(place("2001:db8::1"), place("2001:db8:0:1::1"));
        assert_eq!(place("::ffff:192.0.2.1"), place("192.0.2.1"));
        assert_ne!(place("192.0.2.1"), place("192.0.2.2"));
    }
}
