//! A caller: who was let in, by what, and whose orders are its own.

use std::fmt;
use std::time::SystemTime;

use super::rate::Rate;
use super::scope::Scopes;
use crate::snapshot::OwnerTag;

/// The longest owner.
pub const OWNER_BYTES_MAX: usize = 256;

/// A SHA-256 digest.
pub type KeyHash = [u8; 32];

/// Whose orders are a caller's own: `user_id` of envelope orders, `customer_id` of WB orders.
#[derive(Clone, PartialEq, Eq)]
pub struct Owner {
    /// As orders have it.
    pub text: Box<str>,
    /// As snapshots have it.
    pub tag: OwnerTag,
}

impl Owner {
    /// The owner of this name.
    ///
    /// # Errors
    /// Nothing, or too much to be one.
    pub fn new(text: &str) -> Result<Self, String> {
        if text.is_empty() || text.len() > OWNER_BYTES_MAX {
            return Err(format!("must be 1 to {OWNER_BYTES_MAX} bytes"));
        }
        Ok(Self { text: text.into(), tag: OwnerTag::of(text) })
    }
}

impl fmt::Debug for Owner {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.text)
    }
}

/// By what a caller was let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum By {
    /// A key of the key file.
    Key,
    /// A client certificate that the key file names.
    Certificate,
    /// A signed token.
    Token,
}

impl By {
    /// The word in audit lines and answers.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Key => "key",
            Self::Certificate => "certificate",
            Self::Token => "token",
        }
    }
}

/// Who was let in.
#[derive(Debug, Clone)]
pub struct Caller {
    /// The name of the key, or the subject of the token.
    pub name: Box<str>,
    /// By what.
    pub kind: By,
    /// What it may do.
    pub scopes: Scopes,
    /// Whose orders are its own.
    pub owner: Option<Owner>,
    /// How often it may come, if not as often as all.
    pub rate: Option<Rate>,
    /// Until when.
    pub expires: Option<SystemTime>,
    /// The digest of what it showed.
    pub hash: KeyHash,
    /// Of the key that signed its token: it is let in for as long as that is known.
    pub signer: Option<KeyHash>,
}

impl Caller {
    /// Whether its time is over.
    #[must_use]
    pub fn is_expired(&self, now: SystemTime) -> bool {
        self.expires.is_some_and(|expires| now >= expires)
    }

    /// Whether this caller would be let in to the same.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        self.name == other.name
            && self.scopes == other.scopes
            && self.owner == other.owner
            && self.rate == other.rate
            && self.expires == other.expires
    }
}
