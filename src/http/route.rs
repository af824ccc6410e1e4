//! Which route a request is for. Pure: a method and a path in, a route out. The paths are the contract's.

use std::borrow::Cow;

use hyper::Method;
use percent_encoding::percent_decode_str;

use super::assets;
use crate::access::scope::Need;

/// Which of an order's two answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Face {
    /// `{…}`
    Flat,
    /// `{"order":{…}}`
    Wrapped,
}

/// A route with what its path carries. Ids are still percent-encoded: nearly none needs decoding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Route<'a> {
    /// `GET /order/{id}`, `GET /api/orders/{id}`: the flat order.
    Flat(&'a str),
    /// `GET /orders/{id}`: the wrapped order.
    Wrapped(&'a str),
    /// `GET /orders/by-external/{external}`.
    External(Cow<'a, str>),
    /// `GET /api/orders`.
    List,
    /// `POST /api/orders/lookup`.
    Lookup,
    /// `GET /api/stats`.
    Stats,
    /// `POST /orders`.
    Write,
    /// `GET /events`.
    Events,
    /// `GET /health`.
    Health,
    /// `GET /ping`.
    Ping,
    /// `GET /livez`.
    Livez,
    /// `GET /readyz`.
    Readyz,
    /// `GET /metrics`.
    Metrics,
    /// `GET /api/whoami`: who asks, and what they may do.
    Whoami,
    /// `GET /openapi.json`, `/swagger.json`, `/swagger/…`, `/docs`, `/`, `/static/…`: what is built in.
    Asset(&'a str),
    /// There is no such route.
    Unknown,
    /// There is one under another method; these are allowed.
    WrongMethod(Allow),
}

/// The methods of a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Allow(pub &'static str);

const READ: Allow = Allow("GET, HEAD, OPTIONS");
const POST: Allow = Allow("POST, OPTIONS");
const READ_POST: Allow = Allow("GET, HEAD, POST, OPTIONS");

/// Route patterns, as metrics name them.
pub const ENDPOINTS: &[&str] = &[
    "/order/{id}",
    "/orders/{id}",
    "/orders/by-external/{external}",
    "/api/orders",
    "/api/orders/lookup",
    "/api/stats",
    "/orders",
    "/events",
    "/health",
    "/ping",
    "/livez",
    "/readyz",
    "/metrics",
    "/api/whoami",
    "/static",
    "other",
];

/// Methods, as metrics name them.
pub const METHODS: &[&str] = &["GET", "HEAD", "POST", "OPTIONS", "other"];

/// The index of a method in [`METHODS`].
#[must_use]
pub const fn method_index(method: &Method) -> usize {
    match *method {
        Method::GET => 0,
        Method::HEAD => 1,
        Method::POST => 2,
        Method::OPTIONS => 3,
        _ => 4,
    }
}

impl Route<'_> {
    /// The query parameters that the route takes. `None` where they are the page's own, or there is no
    /// such route.
    #[must_use]
    pub fn parameters(&self) -> Option<&'static [&'static str]> {
        match self {
            Self::External(_) => Some(&["user_id"]),
            Self::List => Some(&["ids", "limit", "cursor"]),
            Self::Events => Some(&["order", "include", "lastEventId", "last_event_id"]),
            Self::Asset(_) | Self::Unknown | Self::WrongMethod(_) => None,
            Self::Flat(_)
            | Self::Wrapped(_)
            | Self::Lookup
            | Self::Stats
            | Self::Write
            | Self::Health
            | Self::Ping
            | Self::Livez
            | Self::Readyz
            | Self::Metrics
            | Self::Whoami => Some(&[]),
        }
    }

    /// What a caller needs for it.
    #[must_use]
    pub fn need(&self) -> Need {
        match self {
            Self::Flat(_) | Self::Wrapped(_) | Self::External(_) | Self::List | Self::Lookup | Self::Stats => {
                Need::Read
            }
            Self::Write => Need::Write,
            Self::Events => Need::Events,
            Self::Metrics => Need::Metrics,
            Self::Whoami => Need::Caller,
            Self::Health | Self::Ping | Self::Livez | Self::Readyz => Need::Probe,
            Self::Asset(_) | Self::Unknown | Self::WrongMethod(_) => Need::Nothing,
        }
    }

    /// The order that a read is for, and how it is to look.
    #[must_use]
    pub fn one(&self) -> Option<(Face, &'_ str)> {
        match self {
            Self::Flat(id) => Some((Face::Flat, id)),
            Self::Wrapped(id) => Some((Face::Wrapped, id)),
            _ => None,
        }
    }

    /// The order that the path names, as it spells it.
    #[must_use]
    pub fn order(&self) -> Option<&str> {
        match self {
            Self::Flat(id) | Self::Wrapped(id) => Some(id),
            _ => None,
        }
    }

    /// The index of the route's pattern in [`ENDPOINTS`].
    #[must_use]
    pub const fn endpoint(&self) -> usize {
        match self {
            Self::Flat(_) => 0,
            Self::Wrapped(_) => 1,
            Self::External(_) => 2,
            Self::List => 3,
            Self::Lookup => 4,
            Self::Stats => 5,
            Self::Write => 6,
            Self::Events => 7,
            Self::Health => 8,
            Self::Ping => 9,
            Self::Livez => 10,
            Self::Readyz => 11,
            Self::Metrics => 12,
            Self::Whoami => 13,
            Self::Asset(_) => 14,
            Self::Unknown | Self::WrongMethod(_) => 15,
        }
    }
}

/// Finds the route. `path` is the request's path without its query, not decoded.
#[must_use]
pub fn route<'a>(method: &Method, path: &'a str) -> Route<'a> {
    // The hit path comes first.
    if let Some(id) = path.strip_prefix("/order/") {
        return read(method, Route::Flat(id));
    }
    if let Some(rest) = path.strip_prefix("/orders/") {
        return match rest.strip_prefix("by-external/") {
            Some(external) => read(method, Route::External(segment(external))),
            None => read(method, Route::Wrapped(rest)),
        };
    }
    match path {
        "/api/orders/lookup" if *method == Method::POST => return Route::Lookup,
        // An order may be called lookup.
        "/api/orders/lookup" if !is_read(method) => return Route::WrongMethod(READ_POST),
        _ => {}
    }
    if let Some(id) = path.strip_prefix("/api/orders/") {
        return read(method, Route::Flat(id));
    }
    match path {
        "/api/orders" => read(method, Route::List),
        "/orders" if *method == Method::POST => Route::Write,
        "/orders" => Route::WrongMethod(POST),
        "/api/stats" => read(method, Route::Stats),
        "/events" => read(method, Route::Events),
        "/health" | "/health/" => read(method, Route::Health),
        "/ping" => read(method, Route::Ping),
        "/livez" => read(method, Route::Livez),
        "/readyz" => read(method, Route::Readyz),
        "/metrics" => read(method, Route::Metrics),
        "/api/whoami" => read(method, Route::Whoami),
        _ if assets::is_asset(path) => read(method, Route::Asset(path)),
        _ => Route::Unknown,
    }
}

fn is_read(method: &Method) -> bool {
    *method == Method::GET || *method == Method::HEAD
}

fn read<'a>(method: &Method, route: Route<'a>) -> Route<'a> {
    if is_read(method) { route } else { Route::WrongMethod(READ) }
}

/// One path segment, percent-decoded.
#[must_use]
pub fn segment(raw: &str) -> Cow<'_, str> {
    percent_decode_str(raw).decode_utf8_lossy()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn routes() {
        let get = |path| route(&Method::GET, path);
        assert_eq!(get("/order/a"), Route::Flat("a"));
        assert_eq!(get("/api/orders/a%3Ab"), Route::Flat("a%3Ab"));
        assert_eq!(get("/orders/a"), Route::Wrapped("a"));
        assert_eq!(get("/orders/"), Route::Wrapped(""));
        assert_eq!(get("/orders/by-external/x%20y"), Route::External("x y".into()));
        assert_eq!(get("/orders"), Route::WrongMethod(POST));
        assert_eq!(get("/order"), Route::Unknown);
        assert_eq!(get("/api/orders/lookup"), Route::Flat("lookup"));
        assert_eq!(route(&Method::POST, "/api/orders/lookup"), Route::Lookup);
        assert_eq!(route(&Method::DELETE, "/api/orders/lookup"), Route::WrongMethod(READ_POST));
        assert_eq!(route(&Method::DELETE, "/order/a"), Route::WrongMethod(READ));
        assert_eq!(get("/unknown"), Route::Unknown);
    }

    #[test]
    fn every_endpoint_has_a_name() {
        assert_eq!(Route::Unknown.endpoint(), ENDPOINTS.len() - 1);
        assert_eq!(method_index(&Method::PUT), METHODS.len() - 1);
    }
}
