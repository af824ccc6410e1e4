//! Signed tokens (RFC 7519, RFC 7515): what is believed of one, and by which public key (RFC 7517).
//! The signatures are *ring*'s to verify. A token names an algorithm; whether a key is for it is
//! the key's to say.

use std::collections::HashMap;
use std::fmt;
use std::time::{Duration, SystemTime};

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use ring::signature::{self, RsaPublicKeyComponents, UnparsedPublicKey};
use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, Visitor};
use serde_json::Value;

use super::caller::KeyHash;
use super::caller::{By, Caller, Owner};
use super::keys::hash;
use super::scope::{Scope, Scopes};

/// The longest token.
pub const TOKEN_BYTES_MAX: usize = 8192;
/// The longest `kid`.
const KID_BYTES_MAX: usize = 256;
/// The longest name of a caller.
const NAME_BYTES_MAX: usize = 256;
/// How far clocks may be apart.
const LEEWAY: Duration = Duration::from_secs(30);
/// No clock is beyond this (the year 9999).
const SECONDS_MAX: f64 = 253_402_300_799.0;

/// What a token may be signed by. No other algorithm has a name here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Algorithm {
    Rs256,
    Ps256,
    Es256,
    EdDsa,
}

impl Algorithm {
    fn of_name(name: &str) -> Option<Self> {
        match name {
            "RS256" => Some(Self::Rs256),
            "PS256" => Some(Self::Ps256),
            "ES256" => Some(Self::Es256),
            "EdDSA" | "Ed25519" => Some(Self::EdDsa),
            _ => None,
        }
    }
}

/// A public key.
enum Public {
    Rsa { modulus: Vec<u8>, exponent: Vec<u8> },
    P256(Vec<u8>),
    Ed25519(Vec<u8>),
}

impl Public {
    fn suits(&self, algorithm: Algorithm) -> bool {
        match self {
            Self::Rsa { .. } => matches!(algorithm, Algorithm::Rs256 | Algorithm::Ps256),
            Self::P256(_) => algorithm == Algorithm::Es256,
            Self::Ed25519(_) => algorithm == Algorithm::EdDsa,
        }
    }

    fn verifies(&self, algorithm: Algorithm, message: &[u8], signed: &[u8]) -> bool {
        let verified = match (self, algorithm) {
            (Self::Rsa { modulus, exponent }, Algorithm::Rs256) => RsaPublicKeyComponents { n: modulus, e: exponent }
                .verify(&signature::RSA_PKCS1_2048_8192_SHA256, message, signed),
            (Self::Rsa { modulus, exponent }, Algorithm::Ps256) => RsaPublicKeyComponents { n: modulus, e: exponent }
                .verify(&signature::RSA_PSS_2048_8192_SHA256, message, signed),
            (Self::P256(point), Algorithm::Es256) => {
                UnparsedPublicKey::new(&signature::ECDSA_P256_SHA256_FIXED, point).verify(message, signed)
            }
            (Self::Ed25519(point), Algorithm::EdDsa) => {
                UnparsedPublicKey::new(&signature::ED25519, point).verify(message, signed)
            }
            _ => return false,
        };
        verified.is_ok()
    }
}

/// A key of a set.
struct Key {
    kid: Option<Box<str>>,
    algorithm: Option<Algorithm>,
    public: Public,
}

impl Key {
    /// Tells it from every other: what it is called, what it is for and what it verifies.
    fn print(&self) -> KeyHash {
        let of: [&[u8]; 3] = match &self.public {
            Public::Rsa { modulus, exponent } => [b"RSA", modulus, exponent],
            Public::P256(point) => [b"P-256", point, b""],
            Public::Ed25519(point) => [b"Ed25519", point, b""],
        };
        let kid = self.kid.as_ref().map(|kid| kid.as_bytes());
        let shape = [u8::from(kid.is_some()), self.algorithm.map_or(0, |algorithm| 1 + algorithm as u8)];
        let mut text = Vec::new();
        for part in [&shape[..], kid.unwrap_or_default()].into_iter().chain(of) {
            text.extend_from_slice(&part.len().to_le_bytes());
            text.extend_from_slice(part);
        }
        hash(&text)
    }

    /// Whether a token that names the other one names this one too: a `kid` may be given once for
    /// each kind of key.
    fn has_name_of(&self, other: &Self) -> bool {
        let is_same_kind = std::mem::discriminant(&self.public) == std::mem::discriminant(&other.public);
        self.kid.is_some() && self.kid == other.kid && is_same_kind
    }
}

/// The public keys that tokens may be signed for.
#[derive(Default)]
pub struct KeySet {
    keys: Vec<Key>,
    /// Keys of the set that verify nothing here: of another kind, or for another use.
    pub ignored: usize,
    /// What is wrong with each key that is for signatures and cannot be used.
    pub unusable: Vec<String>,
}

impl fmt::Debug for KeySet {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} keys", self.keys.len())
    }
}

/// The document is no key set.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct KeySetError(String);

impl KeySet {
    /// Reads a JWK set. Keys for other uses and of other kinds are left out; so is one for
    /// signatures that cannot be read, and the second of a kind with the same `kid`.
    ///
    /// # Errors
    /// [`KeySetError`]: it is no set. One without a key that can be used is a set.
    pub fn parse(text: &[u8]) -> Result<Self, KeySetError> {
        let wrong = |what: &str| KeySetError(what.to_owned());
        let set: Value = serde_json::from_slice(text).map_err(|error| KeySetError(format!("is no JSON: {error}")))?;
        let entries = set.get("keys").and_then(Value::as_array).ok_or_else(|| wrong("has no list \"keys\""))?;
        let mut read = Self::default();
        for (index, entry) in entries.iter().enumerate() {
            let key = key_of(entry).and_then(|key| match key {
                Some(key) if read.keys.iter().any(|known| known.has_name_of(&key)) => {
                    Err("another of its kind has the same kid".into())
                }
                key => Ok(key),
            });
            match key {
                Ok(None) => read.ignored += 1,
                Ok(Some(key)) => read.keys.push(key),
                Err(what) => read.unusable.push(format!("key {}: {what}", index + 1)),
            }
        }
        Ok(read)
    }

    /// The set, if there is a key in it that can be used.
    ///
    /// # Errors
    /// [`KeySetError`] says what is wrong with those that there are.
    pub fn usable(self) -> Result<Self, KeySetError> {
        if !self.keys.is_empty() {
            return Ok(self);
        }
        let mut what = vec!["has no key for RS256, PS256, ES256 or EdDSA".to_owned()];
        what.extend(self.unusable);
        Err(KeySetError(what.join("; ")))
    }

    /// How many keys verify something.
    #[must_use]
    pub fn count(&self) -> usize {
        self.keys.len()
    }

    /// Whether a key that [`verify`] named is still one of these.
    #[must_use]
    pub fn has(&self, signer: &KeyHash) -> bool {
        self.keys.iter().any(|key| key.print() == *signer)
    }

    /// The key that a header names. One without a name is the only one of its kind.
    fn find(&self, kid: Option<&str>, algorithm: Algorithm) -> Result<&Key, Rejected> {
        let is_for = |key: &&Key| key.public.suits(algorithm) && key.algorithm.is_none_or(|of| of == algorithm);
        let Some(kid) = kid else {
            let mut suiting = self.keys.iter().filter(is_for);
            return match (suiting.next(), suiting.next()) {
                (Some(key), None) => Ok(key),
                (Some(_), Some(_)) => Err(Rejected::Malformed("the token does not say which key signed it")),
                (None, _) => Err(Rejected::UnknownKey),
            };
        };
        let mut named = self.keys.iter().filter(|key| key.kid.as_deref() == Some(kid)).peekable();
        if named.peek().is_none() {
            return Err(Rejected::UnknownKey);
        }
        named.find(is_for).ok_or(Rejected::Algorithm)
    }
}

fn key_of(entry: &Value) -> Result<Option<Key>, String> {
    let text = |name: &str| entry.get(name).and_then(Value::as_str);
    if text("use").is_some_and(|usage| usage != "sig") {
        return Ok(None);
    }
    let operations = entry.get("key_ops").and_then(Value::as_array);
    if operations.is_some_and(|operations| !operations.iter().any(|operation| operation == "verify")) {
        return Ok(None);
    }
    let algorithm = match text("alg").map(Algorithm::of_name) {
        Some(None) => return Ok(None),
        Some(known) => known,
        None => None,
    };
    let number = |name: &str| {
        let encoded = text(name).ok_or_else(|| format!("{name} is missing"))?;
        BASE64_URL_SAFE_NO_PAD.decode(encoded).map_err(|_| format!("{name} is no base64url"))
    };
    let stripped = |bytes: Vec<u8>| bytes.into_iter().skip_while(|byte| *byte == 0).collect::<Vec<u8>>();
    let public = match (text("kty"), text("crv")) {
        (Some("RSA"), _) => {
            let (modulus, exponent) = (stripped(number("n")?), stripped(number("e")?));
            if !(256..=1024).contains(&modulus.len()) {
                return Err("RSA keys must have 2048 to 8192 bits".into());
            }
            Public::Rsa { modulus, exponent }
        }
        (Some("EC"), Some("P-256")) => {
            let (x, y) = (number("x")?, number("y")?);
            if (x.len(), y.len()) != (32, 32) {
                return Err("x and y must have 32 bytes".into());
            }
            Public::P256([&[4], &*x, &*y].concat())
        }
        (Some("OKP"), Some("Ed25519")) => {
            let x = number("x")?;
            if x.len() != 32 {
                return Err("x must have 32 bytes".into());
            }
            Public::Ed25519(x)
        }
        _ => return Ok(None),
    };
    if algorithm.is_some_and(|algorithm| !public.suits(algorithm)) {
        return Err("alg is for another kind of key".into());
    }
    Ok(Some(Key { kid: text("kid").map(Into::into), algorithm, public }))
}

/// What tokens have to say.
#[derive(Debug, Clone)]
pub struct Rules {
    /// `iss`.
    pub issuer: String,
    /// `aud`, or one of them.
    pub audience: String,
}

/// Why a token is not believed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Rejected {
    /// It is no token.
    #[error("{0}")]
    Malformed(&'static str),
    /// No key has the name that the token gives, or none is of its kind: there may be one by now.
    #[error("the token is signed by an unknown key")]
    UnknownKey,
    /// Not one of the four, or not the key's.
    #[error("the token's algorithm is not accepted")]
    Algorithm,
    /// The signature is another's.
    #[error("the token's signature is wrong")]
    Signature,
    /// No `sub`, or an empty one: whose it is cannot be told.
    #[error("the token has no sub")]
    NoSubject,
    /// `exp` is over.
    #[error("the token has expired")]
    Expired,
    /// `nbf` is to come.
    #[error("the token is not valid yet")]
    Early,
    /// `iss` is another.
    #[error("the token is another issuer's")]
    Issuer,
    /// `aud` is another, or missing.
    #[error("the token is for another audience")]
    Audience,
}

/// Whether a credential looks like a token: three parts.
#[must_use]
pub fn is_token(text: &[u8]) -> bool {
    memchr::memchr_iter(b'.', text).count() == 2
}

/// Verifies a token, and says who its caller is.
///
/// # Errors
/// [`Rejected`].
pub fn verify(token: &[u8], keys: &KeySet, rules: &Rules, now: SystemTime) -> Result<Caller, Rejected> {
    let text = std::str::from_utf8(token).map_err(|_| Rejected::Malformed("the token is not ASCII"))?;
    if text.len() > TOKEN_BYTES_MAX {
        return Err(Rejected::Malformed("the token is too long"));
    }
    let (signed, signature) = text.rsplit_once('.').ok_or(Rejected::Malformed("the token has not three parts"))?;
    let (head, claims) = signed.split_once('.').ok_or(Rejected::Malformed("the token has not three parts"))?;
    let head = Members::decode(head)?;
    let algorithm = head.text("alg")?.and_then(Algorithm::of_name).ok_or(Rejected::Algorithm)?;
    if head.0.contains_key("crit") || head.0.contains_key("b64") {
        return Err(Rejected::Malformed("the token asks for an extension"));
    }
    let is_kind = |kind: &str| kind.eq_ignore_ascii_case("JWT") || kind.eq_ignore_ascii_case("at+jwt");
    if head.text("typ")?.is_some_and(|kind| !is_kind(kind.trim_start_matches("application/"))) {
        return Err(Rejected::Malformed("the token is of another type"));
    }
    let kid = head.text("kid")?;
    if kid.is_some_and(|kid| kid.len() > KID_BYTES_MAX) {
        return Err(Rejected::Malformed("the token's kid is too long"));
    }
    let key = keys.find(kid, algorithm)?;
    let signature = BASE64_URL_SAFE_NO_PAD.decode(signature).map_err(|_| Rejected::Signature)?;
    if !key.public.verifies(algorithm, signed.as_bytes(), &signature) {
        return Err(Rejected::Signature);
    }
    let caller = claimed(&Members::decode(claims)?, rules, now, token)?;
    Ok(Caller { signer: Some(key.print()), ..caller })
}

/// The caller that the claims of a verified token are about.
fn claimed(claims: &Members, rules: &Rules, now: SystemTime, token: &[u8]) -> Result<Caller, Rejected> {
    let expires = claims.time("exp")?.ok_or(Rejected::Malformed("the token has no exp"))? + LEEWAY;
    if now >= expires {
        return Err(Rejected::Expired);
    }
    if claims.time("nbf")?.is_some_and(|begins| now + LEEWAY < begins) {
        return Err(Rejected::Early);
    }
    claims.time("iat")?;
    if claims.text("iss")? != Some(&*rules.issuer) {
        return Err(Rejected::Issuer);
    }
    let is_meant = match claims.0.get("aud") {
        Some(Value::String(audience)) => *audience == rules.audience,
        Some(Value::Array(audiences)) => audiences.iter().any(|audience| *audience == *rules.audience),
        _ => false,
    };
    if !is_meant {
        return Err(Rejected::Audience);
    }
    let subject = claims.text("sub")?.filter(|subject| !subject.is_empty()).ok_or(Rejected::NoSubject)?;
    if subject.len() > NAME_BYTES_MAX {
        return Err(Rejected::Malformed("the token's sub is too long"));
    }
    Ok(Caller {
        name: subject.into(),
        kind: By::Token,
        scopes: claims.scopes()?,
        owner: Owner::new(subject).ok(),
        rate: None,
        expires: Some(expires),
        hash: hash(token),
        signer: None,
    })
}

/// The members of a JSON object, none of which is there twice: of two, another reader may see the
/// other one.
struct Members(HashMap<String, Value>);

impl Members {
    fn decode(part: &str) -> Result<Self, Rejected> {
        let json = BASE64_URL_SAFE_NO_PAD.decode(part).map_err(|_| Rejected::Malformed("the token is no base64url"))?;
        serde_json::from_slice(&json).map_err(|_| Rejected::Malformed("a part of the token is no JSON object"))
    }

    fn text(&self, name: &str) -> Result<Option<&str>, Rejected> {
        match self.0.get(name) {
            None => Ok(None),
            Some(Value::String(text)) => Ok(Some(text)),
            Some(_) => Err(Rejected::Malformed("a claim of the token is of another type")),
        }
    }

    /// A time in seconds since 1970 (RFC 7519, "NumericDate").
    fn time(&self, name: &str) -> Result<Option<SystemTime>, Rejected> {
        let Some(value) = self.0.get(name) else { return Ok(None) };
        let seconds = value.as_f64().filter(|seconds| (0.0..=SECONDS_MAX).contains(seconds));
        let seconds = seconds.ok_or(Rejected::Malformed("a time of the token is no number of seconds"))?;
        Ok(Some(SystemTime::UNIX_EPOCH + Duration::from_secs_f64(seconds)))
    }

    /// `scope` is a text, `scopes` and `scp` are lists; issuers have their own. What is no scope of
    /// ours is for others.
    fn scopes(&self) -> Result<Scopes, Rejected> {
        let mut names: Vec<&str> = Vec::new();
        for claim in ["scope", "scopes", "scp"] {
            match self.0.get(claim) {
                None => {}
                Some(Value::String(text)) => names.extend(text.split(' ')),
                Some(Value::Array(list)) => {
                    let wrong = Rejected::Malformed("a scope of the token is no text");
                    for name in list {
                        names.push(name.as_str().ok_or(wrong)?);
                    }
                }
                Some(_) => return Err(Rejected::Malformed("a claim of the token is of another type")),
            }
        }
        Ok(names.into_iter().filter_map(Scope::of_name).collect())
    }
}

impl<'d> Deserialize<'d> for Members {
    fn deserialize<D: Deserializer<'d>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(MembersVisitor)
    }
}

struct MembersVisitor;

impl<'d> Visitor<'d> for MembersVisitor {
    type Value = Members;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON object")
    }

    fn visit_map<A: MapAccess<'d>>(self, mut entries: A) -> Result<Members, A::Error> {
        let mut members = HashMap::new();
        while let Some((name, value)) = entries.next_entry::<String, Value>()? {
            if members.insert(name, value).is_some() {
                return Err(A::Error::custom("a member is given twice"));
            }
        }
        Ok(Members(members))
    }
}

#[cfg(test)]
mod tests;
