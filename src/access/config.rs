//! Who is let in, as it is set; and what of it cannot be used.

use std::borrow::Cow;
use std::path::PathBuf;

use super::address::Proxies;
use super::rate::Rate;
use super::{audit, jwks, jwt};

/// What is asked of callers.
#[derive(Debug, Clone, Default)]
pub struct Config {
    /// The key file.
    pub keys: Option<PathBuf>,
    /// Tokens.
    pub tokens: Option<TokenConfig>,
    /// How often a caller may come, or an address where no key is shown.
    pub rate: Option<Rate>,
    /// Who is believed about where a request comes from.
    pub proxies: Proxies,
    /// Where what was done is noted.
    pub audit: Option<audit::Target>,
    /// Reads are noted too.
    pub audit_reads: bool,
}

/// Which tokens are believed.
#[derive(Debug, Clone)]
pub struct TokenConfig {
    /// Where the public keys are.
    pub source: jwks::Source,
    /// What tokens have to say.
    pub rules: jwt::Rules,
}

impl Config {
    /// Whether callers have to be known.
    #[must_use]
    pub fn is_authenticating(&self) -> bool {
        self.keys.is_some() || self.tokens.is_some()
    }
}

/// Why access cannot be set up: a setting, and what is wrong with it.
#[derive(Debug, thiserror::Error)]
#[error("{setting}: {cause}")]
pub struct SetUpError {
    /// By its key.
    pub setting: Cow<'static, str>,
    pub(super) cause: String,
}
