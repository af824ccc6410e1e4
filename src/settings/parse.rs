//! Texts of settings: durations, sizes, addresses.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, ToSocketAddrs};
use std::time::Duration;

use hyper::Uri;
use hyper::header::HeaderValue;
use percent_encoding::percent_decode_str;

use crate::listen::Endpoint;
use crate::store::postgres;

/// No setting is larger: what is computed from it and from the time of day never overflows, and no library refuses it.
const DURATION_MAX: Duration = Duration::from_hours(24 * 365 * 10);
const BYTES_MAX: usize = 1 << 50;
const COUNT_MAX: usize = 1 << 40;

/// `250ms`, `10s`, `5m`, `24h`, also several parts as Go writes them (`1h30m0s`); a bare number is
/// seconds.
pub(super) fn duration(text: &str) -> Result<Duration, String> {
    let text = text.trim();
    let wrong = || format!("{text:?} is no duration such as 250ms, 10s, 5m or 24h");
    let is_digit = |c: char| c.is_ascii_digit() || c == '.';
    let (mut rest, mut sum) = (text, 0.0);
    loop {
        let (number, after) = rest.split_at(rest.find(|c| !is_digit(c)).unwrap_or(rest.len()));
        let (unit, after) = after.split_at(after.find(is_digit).unwrap_or(after.len()));
        let seconds = match unit {
            "us" => 1e-6,
            "ms" => 1e-3,
            "" | "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return Err(wrong()),
        };
        sum += number.parse::<f64>().map_err(|_| wrong())? * seconds;
        rest = after;
        if rest.is_empty() {
            break;
        }
    }
    let duration = Duration::try_from_secs_f64(sum).ok().filter(|duration| *duration <= DURATION_MAX);
    duration.ok_or_else(|| format!("{text:?} is too long"))
}

/// `1048576`, `512KiB`, `16MiB`, `2GiB`, in bytes.
pub(super) fn bytes(text: &str) -> Result<usize, String> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let scale = match unit.trim() {
        "" | "B" => 1,
        "KiB" | "K" => 1 << 10,
        "MiB" | "M" => 1 << 20,
        "GiB" | "G" => 1 << 30,
        _ => return Err(format!("{text:?} is no size such as 65536, 512KiB or 16MiB")),
    };
    let number: usize = number.parse().map_err(|_| format!("{text:?} is no size such as 65536, 512KiB or 16MiB"))?;
    number.checked_mul(scale).filter(|bytes| *bytes <= BYTES_MAX).ok_or_else(|| format!("{text:?} is too large"))
}

/// A whole number of at least `least`.
pub(super) fn count(text: &str, least: usize) -> Result<usize, String> {
    match text.trim().parse() {
        Ok(number) if number > COUNT_MAX => Err(format!("{text:?} is too large")),
        Ok(number) if number >= least => Ok(number),
        _ => Err(format!("{text:?} is no whole number of at least {least}")),
    }
}

/// An address as it is, `tls:` before one, or `unix:` before the path of a socket.
pub(super) fn endpoint(text: &str) -> Result<Endpoint, String> {
    let text = text.trim();
    if let Some(path) = text.strip_prefix("unix:") {
        // The system has no room for a longer one, and what is bound first has a longer name.
        let is_legal = !path.is_empty() && path.len() <= SOCKET_PATH_BYTES_MAX && !path.ends_with('/');
        let wrong =
            || format!("{text:?} needs the path of a socket, of at most 90 bytes, such as /run/order-service.sock");
        return if is_legal { Ok(Endpoint::Unix(path.into())) } else { Err(wrong()) };
    }
    match text.strip_prefix("tls:") {
        Some(text) => address(text).map(Endpoint::Tls),
        None => address(text).map(Endpoint::Tcp),
    }
}

/// The longest path of a socket.
const SOCKET_PATH_BYTES_MAX: usize = 90;

/// `127.0.0.1:8080`, `[::1]:8080`, `localhost:8080`; `:8080` and `8080` are every address of this host, of both families
/// where it has both.
pub(super) fn address(text: &str) -> Result<SocketAddr, String> {
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

/// `https://shop.test` or `http://localhost:3000`, as browsers name a page's origin: no path, no upper case.
pub(super) fn origin(text: &str) -> Result<HeaderValue, String> {
    let wrong = || format!("{text:?} is no origin such as https://shop.test or http://localhost:3000");
    let uri: Uri = text.parse().map_err(|_| wrong())?;
    let (Some(scheme), Some(authority)) = (uri.scheme_str(), uri.authority()) else { return Err(wrong()) };
    let is_odd = |byte: u8| byte.is_ascii_uppercase() || matches!(byte, b'*' | b'@' | b',');
    let has_odd = authority.as_str().bytes().any(is_odd) || authority.as_str().ends_with(':');
    if has_odd || format!("{scheme}://{authority}") != text {
        return Err(wrong());
    }
    HeaderValue::from_str(text).map_err(|_| wrong())
}

/// A URL whose `%` all begin an escape of UTF-8. What libraries make of others is not what was meant:
/// most often another password.
pub(super) fn escapes(text: &str) -> Result<&str, String> {
    let is_hex = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_hexdigit);
    let bytes = text.as_bytes();
    let mut found = memchr::memchr_iter(b'%', bytes);
    let is_broken =
        found.any(|at| !is_hex(bytes.get(at + 1)) || !is_hex(bytes.get(at + 2)) || bytes[at..].starts_with(b"%00"));
    if is_broken || percent_decode_str(text).decode_utf8().is_err() {
        return Err("has a % that begins no escape such as %40; a % itself is written %25".into());
    }
    Ok(text)
}

/// A PostgreSQL server: a URL, or pairs, in which a `%` is one.
pub(super) fn postgres(text: &str) -> Result<postgres::Config, String> {
    let is_url = text.split_once("://").is_some_and(|(scheme, _)| !scheme.contains('='));
    postgres::Config::parse(if is_url { escapes(text)? } else { text })
}

/// Kafka's bootstrap servers: `host:port`, several separated by commas.
#[cfg(feature = "kafka")]
pub(super) fn brokers(text: &str) -> Result<String, String> {
    let brokers: Vec<&str> = text.split([',', ' ', '\n']).filter(|broker| !broker.is_empty()).collect();
    if text.contains('@') {
        return Err("has a user or a password: those are properties, such as sasl.username and sasl.password".into());
    }
    for broker in &brokers {
        let port = broker.rsplit_once(':').and_then(|(host, port)| (!host.is_empty()).then_some(port));
        if !port.is_some_and(|port| matches!(port.parse::<u16>(), Ok(1..))) {
            return Err(format!("{broker:?} is no broker such as kafka-1:9092"));
        }
    }
    if brokers.is_empty() { Err("names no broker".into()) } else { Ok(brokers.join(",")) }
}

/// A legal name of a topic.
#[cfg(feature = "kafka")]
pub(super) fn topic(text: &str) -> Result<String, String> {
    let is_legal = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    if (1..=249).contains(&text.len()) && text.bytes().all(is_legal) {
        Ok(text.to_owned())
    } else {
        Err(format!("{text:?} is no topic name: 1 to 249 of letters, digits, dot, underscore and hyphen"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_with_a_broken_escape_is_told_without_its_password() {
        for good in ["postgres://u:p%25w@h/d", "redis://:%c3%9F@h", "postgres://h/d?options=a%20b", "h:1"] {
            assert_eq!(escapes(good), Ok(good));
        }
        for broken in ["x://u:s3cret%ZZ@h/d", "x://:s3cret%4@h", "x://:s3cret%", "x://:s3cret%ff@h", "x://s3cret%00@h"]
        {
            let error = escapes(broken).unwrap_err();
            assert!(error.contains("written %25") && !error.contains("s3cret"), "{broken}: {error}");
        }
    }
}
