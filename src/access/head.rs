//! What the header fields of a request say of its caller: over HTTP and gRPC they are the same.

use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use hyper::header::{AUTHORIZATION, HeaderMap, HeaderName, HeaderValue};

use super::address::{self, Peer};
use super::scope::Need;
use super::{Access, Denied, Shown, Who};
use crate::process::log::random_id;

/// A key, for clients that have another use for `Authorization`.
const X_API_KEY: HeaderName = HeaderName::from_static("x-api-key");
/// What a request is called in the audit trail.
pub const X_REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const X_FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED: HeaderName = HeaderName::from_static("forwarded");
/// The longest id of a request that is taken.
const REQUEST_ID_BYTES_MAX: usize = 128;

/// Lets a request in, or not.
///
/// # Errors
/// [`Denied`]; [`Denied::KeysUnknown`] is for [`admit_later`].
pub fn admit(access: &Arc<Access>, peer: &Peer, headers: &HeaderMap, need: Need) -> Result<Who, Denied> {
    let address = client_address(access, peer, headers);
    match shown(headers) {
        Ok(shown) => access.admit(shown, peer, address, need),
        Err(_) if matches!(need, Need::Probe | Need::Nothing) || !access.is_authenticating() => {
            access.admit(Shown::default(), peer, address, need)
        }
        Err(what) => {
            let refusal = Denied::Invalid(what);
            access.count_refusal(&refusal);
            Err(refusal)
        }
    }
}

/// As [`admit`], once the keys of tokens are as new as they can be.
///
/// # Errors
/// [`Denied`], which is not [`Denied::KeysUnknown`].
pub async fn admit_later(access: &Arc<Access>, peer: &Peer, headers: &HeaderMap, need: Need) -> Result<Who, Denied> {
    access.fetch_keys().await;
    match admit(access, peer, headers, need) {
        Err(Denied::KeysUnknown) => {
            let refusal = Denied::Invalid("the token is signed by an unknown key");
            access.count_refusal(&refusal);
            Err(refusal)
        }
        other => other,
    }
}

fn shown(headers: &HeaderMap) -> Result<Shown<'_>, &'static str> {
    let once = |name: &HeaderName, twice: &'static str| {
        let mut values = headers.get_all(name).iter().map(HeaderValue::as_bytes);
        match (values.next(), values.next()) {
            (first, None) => Ok(first),
            (_, Some(_)) => Err(twice),
        }
    };
    Ok(Shown {
        authorization: once(&AUTHORIZATION, "Authorization is there more than once")?,
        api_key: once(&X_API_KEY, "X-API-Key is there more than once")?,
    })
}

/// Where a request comes from: what a trusted proxy says, or the connection's other end.
pub fn client_address(access: &Access, peer: &Peer, headers: &HeaderMap) -> Option<IpAddr> {
    let is_forwarded = headers.contains_key(X_FORWARDED_FOR) || headers.contains_key(FORWARDED);
    if !is_forwarded {
        return peer.address;
    }
    if !peer.is_trusted {
        tell_ignored(access);
        return peer.address;
    }
    let values = |name: HeaderName| headers.get_all(name).into_iter().map(HeaderValue::as_bytes);
    let named = address::forwarded(access.proxies(), values(X_FORWARDED_FOR), values(FORWARDED));
    if named.is_err() {
        tell_differ();
    }
    named.ok().flatten().or(peer.address)
}

/// Says once that a proxy names two clients.
fn tell_differ() {
    static IS_TOLD: AtomicBool = AtomicBool::new(false);
    if !IS_TOLD.swap(true, Ordering::Relaxed) {
        tracing::warn!(
            "X-Forwarded-For and Forwarded of a trusted proxy name different clients: the proxy's own address is taken"
        );
    }
}

/// Notes a request that was not let in: what was asked for (its method, its route and the order
/// that it names), and what came of it (the result and the request's id).
pub fn note_refusal(
    access: &Access,
    (peer, headers): (&Peer, &HeaderMap),
    refusal: &Denied,
    asked: (&str, &str, Option<&str>),
    of: (&str, &str),
) {
    if access.audit().is_none() {
        return;
    }
    let caller = shown(headers).ok().and_then(|shown| access.refused_caller(refusal, shown, peer));
    let address = client_address(access, peer, headers);
    access.note_refusal(refusal, (caller.as_deref(), address), asked, of);
}

/// Says once that what a proxy says is not believed, where the address of a client means something.
fn tell_ignored(access: &Access) {
    static IS_TOLD: AtomicBool = AtomicBool::new(false);
    if (access.is_guarded() || access.audit().is_some()) && !IS_TOLD.swap(true, Ordering::Relaxed) {
        tracing::warn!("X-Forwarded-For and Forwarded are ignored: they come from no address of --trusted-proxies");
    }
}

/// What a request is called: by its client, where that says one thing, or here.
pub fn request_id(headers: &HeaderMap) -> HeaderValue {
    let is_legal = |value: &&HeaderValue| {
        let legal = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
        (1..=REQUEST_ID_BYTES_MAX).contains(&value.len()) && value.as_bytes().iter().all(|&byte| legal(byte))
    };
    let mut named = headers.get_all(X_REQUEST_ID).iter();
    match (named.next().filter(is_legal), named.next()) {
        (Some(id), None) => id.clone(),
        _ => new_request_id(),
    }
}

/// A new id of a request.
#[must_use]
pub fn new_request_id() -> HeaderValue {
    HeaderValue::from_bytes(&random_id()).expect("hexadecimal digits")
}
