//! Conditions of a request (RFC 9110, section 13.1), and what comes of them.

use hyper::header::{ETAG, HeaderMap, HeaderName, HeaderValue, IF_MATCH, IF_NONE_MATCH, IF_UNMODIFIED_SINCE};
use hyper::{Method, StatusCode};

use super::body::Body;
use super::etag::{Tag, is_of, opaque_of, tags};
use super::request::X_MIN_VERSION;
use super::respond::{Answer, Problem};
use crate::record::{Condition, Expected};

/// Whether `If-Match` is there and names something else. The comparison is strong.
fn is_other_than_expected(headers: &HeaderMap, etag: Option<&HeaderValue>) -> bool {
    let expected = |tag| match (tag, etag) {
        (Tag::Any, _) => true,
        (Tag::Entity { opaque, is_weak: false }, Some(etag)) => is_of(opaque, opaque_of(etag)),
        (Tag::Entity { .. }, _) => false,
    };
    headers.contains_key(IF_MATCH)
        && !headers.get_all(IF_MATCH).iter().any(|value| tags(value.as_bytes()).any(expected))
}

/// The answer to a read, as far as it may be given under the conditions of the request. Its maker has looked
/// whether the client has it already, but for what has no tag.
#[must_use]
pub fn judge(answer: Answer, method: &Method, headers: &HeaderMap) -> Answer {
    if !headers.contains_key(IF_MATCH) && !headers.contains_key(IF_NONE_MATCH) {
        return answer;
    }
    let is_read = *method == Method::GET || *method == Method::HEAD;
    if !is_read || !(answer.status().is_success() || answer.status() == StatusCode::NOT_MODIFIED) {
        return answer;
    }
    let etag = answer.headers().get(ETAG);
    if is_other_than_expected(headers, etag) {
        let problem =
            Problem::new(StatusCode::PRECONDITION_FAILED, "precondition_failed", "this is not what If-Match names");
        let problem = match etag {
            Some(etag) => problem.with(ETAG, etag.clone()),
            None => problem,
        };
        return problem.answer(headers);
    }
    let is_any = |value: &HeaderValue| tags(value.as_bytes()).any(|tag| tag == Tag::Any);
    if etag.is_none() && headers.get_all(IF_NONE_MATCH).iter().any(is_any) {
        let mut known = answer;
        *known.status_mut() = StatusCode::NOT_MODIFIED;
        *known.body_mut() = Body::empty();
        return known;
    }
    answer
}

/// The condition of a write of one order.
///
/// # Errors
/// 400 for a condition that says nothing of an order.
pub fn of_write(headers: &HeaderMap) -> Result<Option<Condition>, Problem> {
    no_date(headers)?;
    let names = |name: &HeaderName| headers.get_all(name).iter().flat_map(|value| tags(value.as_bytes()));
    if headers.contains_key(IF_NONE_MATCH) {
        if headers.contains_key(IF_MATCH) {
            return Err(invalid("If-Match and If-None-Match exclude each other"));
        }
        // Where no order may be there, none of a certain version may.
        let is_any = names(&IF_NONE_MATCH).any(|tag| tag == Tag::Any);
        return if is_any { Ok(Some(Condition::New)) } else { Err(invalid("If-None-Match on a write must be *")) };
    }
    if !headers.contains_key(IF_MATCH) {
        return Ok(None);
    }
    let mut expected = Vec::new();
    for tag in names(&IF_MATCH) {
        match tag {
            Tag::Any => return Ok(Some(Condition::Exists)),
            Tag::Entity { opaque, is_weak: false } => expected.extend(expect(opaque)),
            Tag::Entity { is_weak: true, .. } => {} // equals nothing, in the strong comparison
        }
    }
    Ok(Some(Condition::OneOf(expected)))
}

/// A read may pass over a date, since what it answers is right all the same. A write would replace what its client wants to
/// keep.
fn no_date(headers: &HeaderMap) -> Result<(), Problem> {
    if headers.contains_key(IF_UNMODIFIED_SINCE) {
        return Err(invalid("orders have versions and no dates of change: send If-Match"));
    }
    Ok(())
}

/// For an answer that is about no order, or about several: there is no version of it to wait for.
///
/// # Errors
/// 400 for an `X-Min-Version`.
pub fn no_min_version(headers: &HeaderMap) -> Result<(), Problem> {
    if headers.contains_key(X_MIN_VERSION) {
        return Err(invalid("X-Min-Version is about one order, at its own URL; there is none here"));
    }
    Ok(())
}

/// For what no condition can be about.
///
/// # Errors
/// 400 when there is one.
pub fn none(headers: &HeaderMap) -> Result<(), Problem> {
    no_date(headers)?;
    no_min_version(headers)?;
    if headers.contains_key(IF_MATCH) || headers.contains_key(IF_NONE_MATCH) {
        return Err(invalid("If-Match and If-None-Match are about one order; there is none here"));
    }
    Ok(())
}

/// `7` of a tag `7` or `7-gzip`, and of a tag `<id>-7` with the id. `None` for one that no order has.
fn expect(opaque: &[u8]) -> Option<Expected> {
    let text = std::str::from_utf8(opaque).ok()?;
    let plain = ["-gzip", "-br", "-zstd"].iter().find_map(|form| text.strip_suffix(form)).unwrap_or(text);
    let (id, version) = plain.rsplit_once('-').map_or((None, plain), |(id, version)| (Some(id.into()), version));
    Some(Expected { id, version: version.parse().ok()? })
}

fn invalid(detail: &'static str) -> Problem {
    Problem::bad_request("invalid_condition", detail)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(name: HeaderName, values: &[&'static str]) -> HeaderMap {
        values.iter().map(|value| (name.clone(), HeaderValue::from_static(value))).collect()
    }

    #[test]
    fn what_is_expected_is_compared_strongly() {
        let etag = HeaderValue::from_static("\"7\"");
        for (sent, is_met) in [
            ("\"7\"", true),
            ("\"7-gzip\"", true),
            ("*", true),
            ("\"6\", \"7\"", true),
            ("W/\"7\"", false),
            ("\"8\"", false),
        ] {
            assert_eq!(!is_other_than_expected(&headers(IF_MATCH, &[sent]), Some(&etag)), is_met, "{sent}");
        }
        assert!(is_other_than_expected(&headers(IF_MATCH, &["\"7\""]), None));
        assert!(!is_other_than_expected(&headers(IF_MATCH, &["*"]), None));
        assert!(!is_other_than_expected(&HeaderMap::new(), None));
    }

    #[test]
    fn conditions_of_writes_are_versions() {
        let of = |id: Option<&str>, version| Expected { id: id.map(Into::into), version };
        for (sent, expected) in [
            ("\"7\"", Condition::OneOf(vec![of(None, 7)])),
            (
                "\"7-gzip\", \"0190163d-8694-739b-aea5-966c26f8ad91-8\"",
                Condition::OneOf(vec![of(None, 7), of(Some("0190163d-8694-739b-aea5-966c26f8ad91"), 8)]),
            ),
            ("W/\"7\"", Condition::OneOf(vec![])),
            ("\"x\"", Condition::OneOf(vec![])),
            ("*", Condition::Exists),
        ] {
            assert_eq!(of_write(&headers(IF_MATCH, &[sent])).unwrap(), Some(expected), "{sent}");
        }
        for sent in [&["*"][..], &["*", "*"], &["\"7\"", "*"], &["\"7\", *"]] {
            assert_eq!(of_write(&headers(IF_NONE_MATCH, sent)).unwrap(), Some(Condition::New), "{sent:?}");
        }
        assert_eq!(of_write(&HeaderMap::new()).unwrap(), None);
        assert!(of_write(&headers(IF_NONE_MATCH, &["\"7\""])).is_err());
    }
}
