//! Why a request is not let in, in the words of HTTP that gRPC and the admin address have too.

use super::rate::Limited;
use super::scope::Scope;

/// Why a request is not let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Denied {
    /// It shows nothing.
    Missing,
    /// What it shows is not good; why, where that may be said.
    Invalid(&'static str),
    /// It may not do this.
    Forbidden(Scope),
    /// Too often.
    TooOften(Limited),
    /// Too many failed attempts from its address.
    TooManyFailures(Limited),
    /// It shows a token of an unknown key, and there may be a new one: [`super::Access::fetch_keys`], then
    /// again.
    KeysUnknown,
}

impl Denied {
    /// The status of HTTP.
    #[must_use]
    pub const fn status(&self) -> u16 {
        match self {
            Self::Missing | Self::Invalid(_) | Self::KeysUnknown => 401,
            Self::Forbidden(_) => 403,
            Self::TooOften(_) | Self::TooManyFailures(_) => 429,
        }
    }

    /// The stable word for programs.
    #[must_use]
    pub const fn code(&self) -> &'static str {
        match self {
            Self::Missing => "missing_credentials",
            Self::Invalid(_) | Self::KeysUnknown => "invalid_credentials",
            Self::Forbidden(_) => "missing_scope",
            Self::TooOften(_) => "rate_limited",
            Self::TooManyFailures(_) => "too_many_failures",
        }
    }

    /// The sentence for people.
    #[must_use]
    pub fn detail(&self) -> String {
        match self {
            Self::Missing => "send a key or token as Authorization: Bearer, or a key as X-API-Key".into(),
            Self::Invalid(detail) => (*detail).into(),
            Self::KeysUnknown => "the token is signed by an unknown key".into(),
            Self::Forbidden(scope) => format!("this needs the scope {}", scope.name()),
            Self::TooOften(limited) => format!("more than {} requests a second", limited.rate.get()),
            Self::TooManyFailures(_) => "too many failed attempts from this address".into(),
        }
    }

    /// The value of `WWW-Authenticate` (RFC 6750, section 3).
    #[must_use]
    pub fn challenge(&self) -> Option<String> {
        const REALM: &str = "Bearer realm=\"order-service\"";
        match self {
            Self::Missing => Some(REALM.into()),
            Self::Invalid(_) | Self::KeysUnknown => {
                Some(format!("{REALM}, error=\"invalid_token\", error_description=\"{}\"", self.detail()))
            }
            Self::Forbidden(scope) => {
                Some(format!("{REALM}, error=\"insufficient_scope\", scope=\"{}\"", scope.name()))
            }
            Self::TooOften(_) | Self::TooManyFailures(_) => None,
        }
    }

    /// When to come again.
    #[must_use]
    pub const fn limited(&self) -> Option<&Limited> {
        match self {
            Self::TooOften(limited) | Self::TooManyFailures(limited) => Some(limited),
            Self::Missing | Self::Invalid(_) | Self::Forbidden(_) | Self::KeysUnknown => None,
        }
    }

    /// The words in metrics.
    pub const WORDS: [&'static str; 5] = ["missing", "invalid", "forbidden", "rate", "failures"];

    /// Which of [`Denied::WORDS`] it is.
    #[must_use]
    pub const fn index(&self) -> usize {
        match self {
            Self::Missing => 0,
            Self::Invalid(_) | Self::KeysUnknown => 1,
            Self::Forbidden(_) => 2,
            Self::TooOften(_) => 3,
            Self::TooManyFailures(_) => 4,
        }
    }
}
