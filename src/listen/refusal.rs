//! Heads of requests that hyper cannot read. It refuses them with nothing but a status, and has no hook for more; here
//! such an answer gets the fields and the body that the other errors of its surface have.

use hyper::StatusCode;
use hyper::header::{HeaderName, HeaderValue};

/// Gives the refusal at the end of `answers` fields and a body: what `words` says for its status. Returns the status.
/// `None`, with `answers` as they were, where there is no refusal or no words for it.
///
/// hyper writes a refusal in one piece. No answer of a surface of ours has one of its statuses and an empty body, and no
/// body of ours ends with an empty line.
pub fn complete<const FIELDS: usize>(
    answers: &mut Vec<u8>,
    words: impl FnOnce(StatusCode) -> Option<([(HeaderName, HeaderValue); FIELDS], String)>,
) -> Option<StatusCode> {
    if !answers.ends_with(b"\r\n\r\n") {
        return None;
    }
    let begin = memchr::memmem::rfind(answers, b"HTTP/1.")?;
    let head = &answers[begin..];
    memchr::memmem::find(head, b"content-length: 0\r\n")?;
    let date = memchr::memmem::find(head, b"date: ")?;
    let status = StatusCode::from_bytes(head.get(9..12)?).ok()?;
    let (fields, body) = words(status)?;
    // hyper leaves `close` out, and names the older version, where a request before this one was of that version.
    let mut amended = format!("HTTP/1.1 {status}\r\nconnection: close\r\n").into_bytes();
    for (name, value) in &fields {
        amended.extend_from_slice(&[name.as_str().as_bytes(), b": ", value.as_bytes(), b"\r\n"].concat());
    }
    amended.extend_from_slice(format!("content-length: {}\r\n", body.len()).as_bytes());
    amended.extend_from_slice(&head[date..]);
    amended.extend_from_slice(body.as_bytes());
    answers.truncate(begin);
    answers.append(&mut amended);
    Some(status)
}
