//! The `Host` of a request (RFC 9112, section 3.2): there, once, and a host.

use hyper::header::{HOST, HeaderMap};
use hyper::{Uri, Version};

use super::respond::Problem;

/// Whether a value may be that of `Host` (RFC 3986, section 3.2): a name, an address of IPv4, one of IPv6 in brackets,
/// or nothing, and a port.
#[must_use]
pub fn is_legal(value: &[u8]) -> bool {
    let (is_host, port) = if let Some(literal) = value.strip_prefix(b"[") {
        let Some(end) = memchr::memchr(b']', literal) else { return false };
        let is_address = end > 0 && literal[..end].iter().all(|&byte| NAME[usize::from(byte)] || byte == b':');
        (is_address, &literal[end + 1..])
    } else {
        let end = memchr::memchr(b':', value).unwrap_or(value.len());
        (value[..end].iter().all(|&byte| NAME[usize::from(byte)]), &value[end..])
    };
    is_host && (port.is_empty() || (port[0] == b':' && port[1..].iter().all(u8::is_ascii_digit)))
}

/// The characters of a name.
const NAME: [bool; 256] = {
    let mut legal = [false; 256];
    let mut byte: u8 = 0;
    while byte < 128 {
        legal[byte as usize] = byte.is_ascii_alphanumeric()
            || matches!(
                byte,
                b'-' | b'.'
                    | b'_'
                    | b'~'
                    | b'%'
                    | b'!'
                    | b'$'
                    | b'&'
                    | b'\''
                    | b'('
                    | b')'
                    | b'*'
                    | b'+'
                    | b','
                    | b';'
                    | b'='
            );
        byte += 1;
    }
    legal
};

/// Whether a request names its host as it must.
///
/// # Errors
/// 400.
pub fn check(version: Version, uri: &Uri, headers: &HeaderMap) -> Result<(), Problem> {
    let mut hosts = headers.get_all(HOST).iter();
    // In HTTP/2 it is a part of the target (RFC 9113, section 8.3.1).
    let authority = uri.authority().filter(|_| version == Version::HTTP_2);
    let detail = match (hosts.next(), hosts.next()) {
        (None, _) if version < Version::HTTP_11 => return Ok(()),
        (None, _) if authority.is_some_and(|authority| is_legal(authority.as_str().as_bytes())) => return Ok(()),
        (Some(host), None) if authority.is_some_and(|authority| host != authority.as_str()) => {
            "Host is another one than :authority"
        }
        (None, _) => "the request has no Host",
        (Some(_), Some(_)) => "the request has more than one Host",
        (Some(host), None) if is_legal(host.as_bytes()) => return Ok(()),
        (Some(_), None) => "Host is no host",
    };
    Err(Problem::bad_request("invalid_host", detail))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hosts_are_told_from_nonsense() {
        for host in ["orders.test", "orders.test:8080", "127.0.0.1:80", "[::1]:80", "[::1]", "", "a_b", "x:", "%41"] {
            assert!(is_legal(host.as_bytes()), "{host}");
        }
        for host in
            ["a b", "http://a", "a/b", "u@a", "a:b", "a:1:2", "[::1", "[]", "[::1]x", "a,b c", "\"a\"", "a\\b", "ö"]
        {
            assert!(!is_legal(host.as_bytes()), "{host}");
        }
    }
}
