//! What requests say, as far as it is the same for several routes: header fields that come once,
//! and bodies, within a size and a time.

use std::borrow::Cow;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::BodyExt;
use hyper::StatusCode;
use hyper::body::{Body as _, Incoming};
use hyper::header::{ACCEPT_ENCODING, CONTENT_ENCODING, CONTENT_TYPE, EXPECT, HeaderMap, HeaderName, HeaderValue};

use super::Api;
use super::respond::Problem;

/// The least version a reader accepts.
pub const X_MIN_VERSION: HeaderName = HeaderName::from_static("x-min-version");

/// How much of a body that is too large is read and thrown away. A client that is still sending
/// when the connection closes loses the answer with it; beyond this it may.
const DISCARDED_BYTES_MAX: usize = 16 << 20;
/// How much is read of a body that is not needed.
const REST_BYTES_MAX: u64 = 64 << 10;
/// And for how long, both.
const DISCARD_TIME: Duration = Duration::from_secs(1);

/// The value of a header field that may come once.
///
/// # Errors
/// 400 where it comes more often: which of its values is meant is for the client to say.
pub fn once<'h>(headers: &'h HeaderMap, name: &HeaderName) -> Result<Option<&'h HeaderValue>, Problem> {
    let mut values = headers.get_all(name).iter();
    match (values.next(), values.next()) {
        (value, None) => Ok(value),
        (_, Some(_)) => {
            Err(Problem::bad_request("repeated_header", format!("the header field {name} is there more than once")))
        }
    }
}

/// A body that is sent as it is: no other is decoded.
///
/// # Errors
/// 415, which says so.
pub fn plain_body(headers: &HeaderMap) -> Result<(), Problem> {
    let is_plain = |encoding: &HeaderValue| encoding.as_bytes().eq_ignore_ascii_case(b"identity");
    if headers.get_all(CONTENT_ENCODING).iter().all(is_plain) {
        return Ok(());
    }
    let detail = "send the body as it is, without a Content-Encoding";
    let problem = Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_content_encoding", detail);
    Err(problem.with(ACCEPT_ENCODING, HeaderValue::from_static("identity")))
}

/// The media type of a request's body in lower case, without its parameters.
///
/// # Errors
/// 400 where it is there twice, 415 for a charset that is not UTF-8: JSON has no other, and what is
/// written in one would be read as something else.
pub fn content_type(headers: &HeaderMap) -> Result<Option<Cow<'_, str>>, Problem> {
    let Some(value) = once(headers, &CONTENT_TYPE)? else { return Ok(None) };
    let mut parts = value.to_str().unwrap_or_default().split(';');
    let kind = parts.next().unwrap_or_default().trim();
    let is_other_charset = |parameter: &str| {
        let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
        let value = value.trim().trim_matches('"');
        name.trim().eq_ignore_ascii_case("charset")
            && !["utf-8", "utf8"].iter().any(|name| value.eq_ignore_ascii_case(name))
    };
    if parts.any(is_other_charset) {
        let detail = "send the body in UTF-8";
        return Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_charset", detail));
    }
    let is_lower = !kind.bytes().any(|byte| byte.is_ascii_uppercase());
    Ok(Some(if is_lower { kind.into() } else { kind.to_ascii_lowercase().into() }))
}

/// A request's whole body, within a size and a time; it is taken once it was read. What does not
/// come in one piece has room among the bodies on their way: for all it says it will have at once,
/// or for what has come of one that does not say.
pub async fn read_body(
    api: &Api,
    headers: &HeaderMap,
    whole_body: &mut Option<Incoming>,
    bytes_max: usize,
) -> Result<Bytes, Problem> {
    let Some(body) = whole_body else { return Ok(Bytes::new()) };
    let too_large = || {
        let detail = format!("the body is larger than {bytes_max} bytes");
        Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", detail)
    };
    let is_asking = headers.contains_key(EXPECT);
    let said = usize::try_from(body.size_hint().lower()).unwrap_or(usize::MAX);
    if is_asking && said > bytes_max {
        return Err(too_large()); // the client has not sent it yet, and need not
    }
    let whole = async {
        let (mut first, mut rest) = (Bytes::new(), BytesMut::new());
        let mut room = api.inbox.coming();
        let mut total = 0;
        let mut refused = (said > bytes_max).then(too_large);
        let mut enough = None;
        loop {
            if refused.is_some() {
                (first, rest) = Default::default();
                room.clear();
                enough.get_or_insert_with(|| tokio::time::Instant::now() + DISCARD_TIME);
            }
            let frame = match enough {
                None => body.frame().await,
                Some(enough) => tokio::time::timeout_at(enough, body.frame()).await.unwrap_or(None),
            };
            let Some(frame) = frame else { break };
            let frame = frame.map_err(|_| Problem::bad_request("malformed", "the body ended early"))?;
            let Ok(data) = frame.into_data() else { continue };
            total += data.len();
            if refused.is_some() {
                if total > bytes_max + DISCARDED_BYTES_MAX {
                    break;
                }
            } else if total > bytes_max {
                refused = Some(too_large());
            } else if total == said && rest.is_empty() {
                first = data; // nearly every order comes in one piece
            } else if let Err(full) = room.grow(said.max(total)) {
                refused = Some(full.into());
            } else {
                if rest.is_empty() {
                    rest.reserve(said);
                }
                rest.extend_from_slice(&data);
            }
        }
        match refused {
            Some(problem) => Err(problem),
            None if rest.is_empty() => Ok(first),
            None => Ok(rest.freeze()),
        }
    };
    let read = tokio::time::timeout(api.config.body_time, whole).await.unwrap_or_else(|_| {
        Err(Problem::new(StatusCode::REQUEST_TIMEOUT, "timeout", "the body did not arrive in time"))
    })?;
    *whole_body = None;
    Ok(read)
}

/// Reads what is left of a body that no route asked for, if that is little and on its way: the next
/// request is behind it. Returns whether one can follow.
pub async fn read_rest(headers: &HeaderMap, body: &mut Incoming) -> bool {
    if body.is_end_stream() {
        return true;
    }
    // A client that waits to be told so sends it or not.
    if headers.contains_key(EXPECT) || body.size_hint().lower() > REST_BYTES_MAX {
        return false;
    }
    let rest = async {
        let mut bytes = 0;
        while let Some(frame) = body.frame().await {
            let Ok(frame) = frame else { return false };
            bytes += frame.data_ref().map_or(0, |data| data.len() as u64);
            if bytes > REST_BYTES_MAX {
                return false;
            }
        }
        true
    };
    tokio::time::timeout(DISCARD_TIME, rest).await.unwrap_or(false)
}
