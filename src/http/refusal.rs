//! Heads that cannot be read. hyper refuses them before there is a request, with nothing but a status; here that answer
//! gets the body which every other error has.

use hyper::StatusCode;
use hyper::header::{CACHE_CONTROL, CONTENT_TYPE, HeaderValue};

use super::Config;
use super::respond::{PROBLEM_JSON, Problem};
use crate::access::head;
use crate::listen::refusal;

/// Gives the refusal at the end of `answers` its body, if there is one. Returns its status.
pub fn complete(answers: &mut Vec<u8>, config: &Config) -> Option<StatusCode> {
    refusal::complete(answers, |status| {
        let fields = [
            (CONTENT_TYPE, HeaderValue::from_static(PROBLEM_JSON)),
            (CACHE_CONTROL, HeaderValue::from_static("no-cache")),
            (head::X_REQUEST_ID, head::new_request_id()),
        ];
        Some((fields, problem(status, config)?.json()))
    })
}

/// What hyper means by a status. `None` for one that it does not refuse with.
fn problem(status: StatusCode, config: &Config) -> Option<Problem> {
    let (reason, detail) = match status {
        StatusCode::BAD_REQUEST => {
            ("invalid_head", "the request line or a header field is not HTTP/1.1 (RFC 9112)".to_owned())
        }
        StatusCode::URI_TOO_LONG => ("uri_too_long", "the target of the request is longer than 65534 bytes".to_owned()),
        StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE => {
            let (bytes, fields) = (config.header_bytes_max, config.headers_max);
            let detail =
                format!("the head of the request is larger than {bytes} bytes or has more than {fields} fields");
            ("head_too_large", detail)
        }
        _ => return None,
    };
    Some(Problem::new(status, reason, detail))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_refusal_at_the_end_gets_a_body() {
        let config = Config::default();
        let head = "HTTP/1.0 400 Bad Request\r\ncontent-length: 0\r\ndate: x\r\n\r\n";
        let hit = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}";
        let mut answers = [hit, head].concat().into_bytes();
        assert_eq!(complete(&mut answers, &config), Some(StatusCode::BAD_REQUEST));
        let text = String::from_utf8(answers).unwrap();
        let refusal = text.strip_prefix(hit).expect("what stands before is kept");
        let (head, body) = refusal.split_once("\r\n\r\n").unwrap();
        assert!(head.contains("content-type: application/problem+json\r\n"), "{head}");
        assert!(head.contains(&format!("content-length: {}\r\n", body.len())), "{head}");
        assert!(head.starts_with("HTTP/1.1 400 Bad Request\r\nconnection: close\r\n"), "{head}");
        assert!(head.ends_with("\r\ndate: x"), "{head}");
        let body: serde_json::Value = serde_json::from_str(body).unwrap();
        assert_eq!((&body["status"], &body["reason"]), (&400.into(), &"invalid_head".into()));
        let quiet = "HTTP/1.1 304 Not Modified\r\ncontent-length: 0\r\n\r\n";
        for other in [hit, quiet, "", "{}", &[head, hit].concat()] {
            let mut answers = other.to_owned().into_bytes();
            assert_eq!(complete(&mut answers, &config), None, "{other}");
            assert_eq!(answers, other.as_bytes());
        }
    }
}
