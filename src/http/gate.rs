//! Access as HTTP has it: how a refusal is said, and what the page is told of the caller. Who is
//! let in to what is decided in `access`.

use hyper::StatusCode;
use hyper::header::{HeaderName, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};

use super::respond::{self, Answer, Problem};
use crate::access::rate::Limited;
use crate::access::scope::{Need, Sight};
use crate::access::{Access, Denied, Who};

/// How much is left of what a caller may ask for, and of how much that is
/// (draft-ietf-httpapi-ratelimit-headers).
const RATE_LIMIT: HeaderName = HeaderName::from_static("ratelimit");
const RATE_LIMIT_POLICY: HeaderName = HeaderName::from_static("ratelimit-policy");

/// What is said to a client that is not let in.
pub fn problem(refusal: &Denied) -> Problem {
    let status = StatusCode::from_u16(refusal.status()).expect("a status of HTTP");
    let mut problem = Problem::new(status, refusal.code(), refusal.detail());
    let text = |value: String| HeaderValue::try_from(value).expect("visible ASCII");
    if let Some(challenge) = refusal.challenge() {
        problem = problem.with(WWW_AUTHENTICATE, text(challenge));
    }
    if let Some(limited) = refusal.limited() {
        for (name, value) in limit_fields(limited) {
            problem = problem.with(name, text(value));
        }
    }
    problem
}

fn limit_fields(limited: &Limited) -> [(HeaderName, String); 3] {
    let (rate, wait) = (limited.rate, limited.wait_seconds());
    [
        (RETRY_AFTER, wait.to_string()),
        (RATE_LIMIT, format!("\"default\";r=0;t={wait}")),
        (RATE_LIMIT_POLICY, format!("\"default\";q={};w={}", rate.burst(), rate.window_seconds())),
    ]
}

/// The fields and the body of the answer to a plain read that comes too often; its date is to
/// follow the fields.
pub fn limited_answer(limited: &Limited) -> (String, String) {
    let body = problem(&Denied::TooOften(*limited)).json();
    let mut fields = format!(
        "HTTP/1.1 429 Too Many Requests\r\ncontent-type: {}\r\ncache-control: no-cache\r\ncontent-length: {}\r\n",
        respond::PROBLEM_JSON,
        body.len()
    );
    for (name, value) in limit_fields(limited) {
        fields.push_str(&format!("{name}: {value}\r\n"));
    }
    (fields, body)
}

/// `GET /api/whoami`: who the caller is and what they may do; for the page.
pub fn whoami(access: &Access, who: &Who) -> Answer {
    let Some(caller) = who.caller() else {
        return respond::json(serde_json::json!({"authentication": access.is_authenticating()}).to_string());
    };
    let may = |need: Need| match who.may(need) {
        Ok(Sight::All) => "all".into(),
        Ok(Sight::Own) => "own".into(),
        Err(_) => serde_json::Value::Null,
    };
    let seconds =
        |time: std::time::SystemTime| time.duration_since(std::time::UNIX_EPOCH).unwrap_or_default().as_secs();
    let answer = serde_json::json!({
        "authentication": true,
        "name": &*caller.name,
        "by": caller.kind.as_str(),
        "owner": caller.owner.as_ref().map(|owner| &*owner.text),
        "scopes": caller.scopes.names().collect::<Vec<_>>(),
        "read": may(Need::Read),
        "write": may(Need::Write),
        "events": may(Need::Events),
        "expires": caller.expires.map(seconds),
    });
    respond::json(answer.to_string())
}
