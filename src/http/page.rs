//! Answers with what is built in (`assets`): the page, the description of the interface and its
//! reader.

use hyper::header::{
    CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG, HeaderMap, HeaderName, HeaderValue, LOCATION,
    REFERRER_POLICY, X_CONTENT_TYPE_OPTIONS,
};
use hyper::{Response, StatusCode};

use super::assets;
use super::body::Body;
use super::etag::knows;
use super::respond::{Answer, Problem};

/// The answer for a path that is built in.
#[must_use]
pub fn answer(path: &str, headers: &HeaderMap) -> Answer {
    if let Some(to) = assets::redirect(path) {
        let mut answer = Response::new(Body::empty());
        *answer.status_mut() = StatusCode::FOUND;
        answer.headers_mut().insert(LOCATION, HeaderValue::from_static(to));
        return answer;
    }
    let Some(asset) = assets::find(path) else { return Problem::no_route().answer(headers) };
    let is_known = knows(headers, &asset.etag);
    let mut answer = Response::new(if is_known { Body::empty() } else { Body::from(asset.body.clone()) });
    if is_known {
        *answer.status_mut() = StatusCode::NOT_MODIFIED;
    }
    let head = answer.headers_mut();
    head.insert(CONTENT_TYPE, asset.kind.clone());
    head.insert(ETAG, asset.etag.clone());
    head.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    head.insert(CONTENT_SECURITY_POLICY, asset.policy.clone());
    head.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    head.insert(REFERRER_POLICY, HeaderValue::from_static("no-referrer"));
    head.insert(HeaderName::from_static("cross-origin-opener-policy"), HeaderValue::from_static("same-origin"));
    answer
}
