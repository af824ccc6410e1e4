//! The key file: who has which key, and what each may do. Holds digests, never keys.

use std::collections::{BTreeSet, HashMap};
use std::fmt;
use std::time::SystemTime;

use base64::Engine;
use base64::prelude::BASE64_URL_SAFE_NO_PAD;
use ring::rand::{SecureRandom, SystemRandom};
use sha2::{Digest, Sha256};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;
use toml::Value;

use super::caller::{By, Caller, KeyHash, Owner};
use super::rate::Rate;
use super::scope::{Scope, Scopes};

/// What keys begin with, so that scanners for secrets know them.
const PREFIX: &str = "osk_";
/// Random bytes of a key.
const KEY_BYTES: usize = 32;
/// The longest name of a key.
const NAME_BYTES_MAX: usize = 64;
/// The digest by which a key is known.
#[must_use]
pub fn hash(key: &[u8]) -> KeyHash {
    Sha256::digest(key).into()
}

/// Every key of a file.
#[derive(Debug, Default)]
pub struct Keys {
    by_hash: HashMap<KeyHash, Caller>,
    by_certificate: HashMap<Box<str>, Caller>,
    named: usize,
}

/// What is wrong with a key file: a line for each.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.join("; "))]
pub struct KeysError(pub Vec<String>);

impl Keys {
    /// Reads a file's text.
    ///
    /// # Errors
    /// [`KeysError`] names every key that cannot be used, and none of their digests; or there is no
    /// key.
    pub fn parse(text: &str) -> Result<Self, KeysError> {
        let table: toml::Table = toml::from_str(text).map_err(|error| {
            let before = text.get(..error.span().map_or(0, |span| span.start)).unwrap_or_default();
            let line = before.matches('\n').count() + 1;
            let message = error.message().lines().next().unwrap_or("no TOML").to_owned();
            KeysError(vec![format!("line {line}: {message}")])
        })?;
        let mut wrong = Vec::new();
        for name in table.keys().filter(|name| *name != "key") {
            wrong.push(format!("{name}: there is no such entry; there is [[key]]"));
        }
        let mut keys = Self::default();
        let mut names = BTreeSet::new();
        match table.get("key") {
            None => {}
            Some(Value::Array(entries)) => {
                for (index, entry) in entries.iter().enumerate() {
                    keys.add(index, entry, &mut names, &mut wrong);
                }
            }
            Some(_) => wrong.push("key: must be [[key]] entries".into()),
        }
        if wrong.is_empty() && keys.named == 0 {
            wrong.push("there is no [[key]] in it, so no key would be let in".into());
        }
        if wrong.is_empty() { Ok(keys) } else { Err(KeysError(wrong)) }
    }

    fn add(&mut self, index: usize, entry: &Value, names: &mut BTreeSet<String>, wrong: &mut Vec<String>) {
        let mut entry = match Entry::read(entry) {
            Ok(entry) => entry,
            Err(faults) => {
                let name = entry.get("name").and_then(Value::as_str).filter(|name| is_name(name));
                let place = name.map_or_else(|| format!("key {}", index + 1), |name| format!("key {name:?}"));
                wrong.extend(faults.into_iter().map(|fault| format!("{place}: {fault}")));
                return;
            }
        };
        let name = entry.name.clone();
        if !names.insert(name.clone()) {
            wrong.push(format!("key {name:?}: there is another of this name"));
        }
        let hash = entry.hash.take();
        if let Some(certificate) = entry.certificate.take() {
            let caller = entry.caller(By::Certificate, [0; 32]);
            if self.by_certificate.insert(certificate, caller).is_some() {
                wrong.push(format!("key {name:?}: another has the same certificate"));
            }
        }
        if let Some(hash) = hash
            && self.by_hash.insert(hash, entry.caller(By::Key, hash)).is_some()
        {
            wrong.push(format!("key {name:?}: another has the same sha256"));
        }
        self.named += 1;
    }

    /// Who has the key of this digest.
    #[must_use]
    pub fn of_hash(&self, hash: &KeyHash) -> Option<&Caller> {
        self.by_hash.get(hash)
    }

    /// Who has a certificate of this subject.
    #[must_use]
    pub fn of_certificate(&self, subject: &str) -> Option<&Caller> {
        self.by_certificate.get(subject)
    }

    /// Who has a certificate under this name.
    #[must_use]
    pub fn of_name(&self, name: &str) -> Option<&Caller> {
        self.by_certificate.values().find(|caller| *caller.name == *name)
    }

    /// Whether both let the same callers in to the same.
    #[must_use]
    pub fn is_same(&self, other: &Self) -> bool {
        let is_in = |caller: &Caller, in_other: Option<&Caller>| in_other.is_some_and(|other| caller.is_same(other));
        self.by_hash.len() == other.by_hash.len()
            && self.by_certificate.len() == other.by_certificate.len()
            && self.by_hash.iter().all(|(hash, caller)| is_in(caller, other.of_hash(hash)))
            && self.by_certificate.iter().all(|(subject, caller)| is_in(caller, other.of_certificate(subject)))
    }

    /// How many there are.
    #[must_use]
    pub fn count(&self) -> usize {
        self.named
    }
}

/// One `[[key]]`.
struct Entry {
    name: String,
    hash: Option<KeyHash>,
    certificate: Option<Box<str>>,
    scopes: Scopes,
    owner: Option<Owner>,
    rate: Option<Rate>,
    expires: Option<SystemTime>,
}

fn is_name(name: &str) -> bool {
    let is_legal = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    (1..=NAME_BYTES_MAX).contains(&name.len()) && name.bytes().all(is_legal)
}

impl Entry {
    fn read(value: &Value) -> Result<Self, Vec<String>> {
        let Value::Table(members) = value else { return Err(vec!["must be a table".into()]) };
        let mut faults = Vec::new();
        let (mut name, mut hash, mut certificate, mut owner, mut rate, mut expires) =
            (None, None, None, None, None, None);
        let mut scopes = Scopes::default();
        for (member, value) in members {
            let text = value.as_str();
            let fault = match (&**member, text) {
                ("name", Some(text)) if is_name(text) => {
                    name = Some(text.to_owned());
                    None
                }
                ("name", _) => Some("must be 1 to 64 of letters, digits, dot, underscore and hyphen".to_owned()),
                ("sha256", Some(text)) => read_hash(text).map(|read| hash = Some(read)).err(),
                ("certificate", Some(text)) if !text.is_empty() => {
                    certificate = Some(text.into());
                    None
                }
                ("owner", Some(text)) => Owner::new(text).map(|read| owner = Some(read)).err(),
                ("rate", Some(text)) => Rate::parse(text).map(|read| rate = Some(read)).err(),
                ("expires", _) => read_time(value).map(|read| expires = Some(read)).err(),
                ("scopes", _) => read_scopes(value).map(|read| scopes = read).err(),
                ("sha256" | "certificate" | "owner" | "rate", _) => Some("must be text".into()),
                _ => Some("there is no such member of a key".into()),
            };
            faults.extend(fault.map(|fault| format!("{member}: {fault}")));
        }
        if !members.contains_key("name") {
            faults.push("name: is missing".into());
        }
        if !members.contains_key("sha256") && !members.contains_key("certificate") {
            faults.push("needs sha256 or certificate".into());
        }
        if scopes.is_empty() && !members.contains_key("scopes") {
            faults.push("scopes: is missing".into());
        }
        if owner.is_none() && (scopes.has(Scope::ReadOwn) || scopes.has(Scope::WriteOwn)) {
            faults.push("owner: is missing, and a scope ending in :own needs it".into());
        }
        match name {
            Some(name) if faults.is_empty() => Ok(Self { name, hash, certificate, scopes, owner, rate, expires }),
            _ => Err(faults),
        }
    }

    fn caller(&self, kind: By, hash: KeyHash) -> Caller {
        Caller {
            name: self.name.as_str().into(),
            kind,
            scopes: self.scopes,
            owner: self.owner.clone(),
            rate: self.rate,
            expires: self.expires,
            hash,
            signer: None,
        }
    }
}

fn read_hash(text: &str) -> Result<KeyHash, String> {
    let mut hash = [0; 32];
    let is_hex = text.len() == 64 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    for (index, byte) in hash.iter_mut().enumerate().take_while(|_| is_hex) {
        *byte = u8::from_str_radix(&text[2 * index..2 * index + 2], 16).expect("hexadecimal digits");
    }
    if is_hex { Ok(hash) } else { Err("must be the 64 hexadecimal digits of a SHA-256 digest".into()) }
}

fn read_time(value: &Value) -> Result<SystemTime, String> {
    let text = match value {
        Value::String(text) => text.clone(),
        Value::Datetime(time) => time.to_string(),
        _ => String::new(),
    };
    parse_time(&text)
}

/// A time such as `2027-01-01T00:00:00Z`.
///
/// # Errors
/// What it should look like.
pub fn parse_time(text: &str) -> Result<SystemTime, String> {
    let time = OffsetDateTime::parse(text, &Rfc3339);
    time.map(SystemTime::from).map_err(|_| "must be a time with its zone such as 2027-01-01T00:00:00Z".into())
}

fn read_scopes(value: &Value) -> Result<Scopes, String> {
    let names = value.as_array().ok_or("must be a list of scopes")?;
    let known = || Scope::ALL.map(Scope::name).join(", ");
    let read = |name: &Value| match name.as_str() {
        Some(name) => Scope::of_name(name).ok_or_else(|| format!("there is no scope {name:?}; there is {}", known())),
        None => Err("must be a list of scopes".into()),
    };
    names.iter().map(read).collect()
}

/// A new key and the entry of a key file that lets it in.
pub struct NewKey {
    /// The key: to be shown once and kept by its user alone.
    pub key: String,
    /// TOML for the file.
    pub entry: String,
}

impl fmt::Debug for NewKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("NewKey").field("entry", &self.entry).finish_non_exhaustive()
    }
}

/// What a new key is to be.
#[derive(Debug, Clone, Default)]
pub struct Wanted {
    /// Its name.
    pub name: String,
    /// What it may do.
    pub scopes: Vec<String>,
    /// Whose orders are its own.
    pub owner: Option<String>,
    /// How often it may be used.
    pub rate: Option<String>,
    /// Until when.
    pub expires: Option<String>,
}

/// Makes a key.
///
/// # Errors
/// The entry would be none of a key file, or the system gives no random bytes.
pub fn generate(wanted: &Wanted) -> Result<NewKey, KeysError> {
    let mut bytes = [0; KEY_BYTES];
    let no_bytes = |_| KeysError(vec!["the system gives no random bytes".into()]);
    SystemRandom::new().fill(&mut bytes).map_err(no_bytes)?;
    let key = format!("{PREFIX}{}", BASE64_URL_SAFE_NO_PAD.encode(bytes));
    let digest: String = hash(key.as_bytes()).iter().map(|byte| format!("{byte:02x}")).collect();
    let text = |text: &str| Value::String(text.to_owned()).to_string();
    let scopes: Vec<String> = wanted.scopes.iter().map(|scope| text(scope)).collect();
    let mut entry =
        format!("[[key]]\nname = {}\nsha256 = \"{digest}\"\nscopes = [{}]\n", text(&wanted.name), scopes.join(", "));
    for (member, value) in [("owner", &wanted.owner), ("rate", &wanted.rate), ("expires", &wanted.expires)] {
        if let Some(value) = value {
            entry.push_str(&format!("{member} = {}\n", text(value)));
        }
    }
    Keys::parse(&entry)?;
    Ok(NewKey { key, entry })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn faults(text: &str) -> String {
        Keys::parse(text).expect_err("wrong").to_string()
    }

    #[test]
    fn a_made_key_is_let_in_by_its_entry() {
        let wanted = Wanted {
            name: "shop".into(),
            scopes: vec!["orders:read:own".into(), "events:read".into()],
            owner: Some("test".into()),
            rate: Some("100/s".into()),
            expires: Some("2100-01-01T00:00:00Z".into()),
        };
        let made = generate(&wanted).unwrap();
        assert!(!format!("{made:?}").contains(&made.key), "keys are shown once");
        let keys = Keys::parse(&format!(
            "{}\n{}",
            made.entry,
            generate(&Wanted { name: "b".into(), ..wanted }).unwrap().entry
        ));
        let keys = keys.unwrap();
        assert_eq!(keys.count(), 2);
        let caller = keys.of_hash(&hash(made.key.as_bytes())).expect("known by its digest");
        assert_eq!((&*caller.name, caller.rate.map(Rate::get)), ("shop", Some(100)));
        assert_eq!(caller.owner.as_ref().map(|owner| &*owner.text), Some("test"));
        assert!(keys.of_hash(&hash(b"osk_other")).is_none());
    }

    #[test]
    fn each_fault_is_named_with_its_key_and_without_digests() {
        let digest = "ab".repeat(32);
        for (text, expected) in [
            ("[[key]]", "key 1: name: is missing"),
            ("key = 1", "[[key]]"),
            ("[[keys]]\nname = 'a'", "keys: there is no such entry"),
            ("[[key]]\nname = 'a b'\nscopes = []", "name: must be 1 to 64"),
            ("[[key]]\nname = 'a'\nscopes = []", "key \"a\": needs sha256 or certificate"),
            ("[[key]]\nname = 'a'\nsha256 = 'abc'\nscopes = []", "sha256: must be the 64"),
            ("[[key]]\nname = 'a'\ncertificate = 'CN=a'\nscopes = ['orders']", "there is no scope \"orders\""),
            ("[[key]]\nname = 'a'\ncertificate = 'CN=a'\nscopes = ['orders:read:own']", "owner: is missing"),
            ("[[key]]\nname = 'a'\ncertificate = 'CN=a'\nscopes = []\nexpires = 'soon'", "expires: must be a time"),
            ("[[key]]\nname = 'a'\ncertificate = 'CN=a'\nscopes = []\nrate = '0/s'", "rate: "),
            ("[[key]]\nname = 'a'\ncertificate = 'CN=a'\nscopes = []\ncolour = 1", "colour: there is no such member"),
            ("[[key]]\nname = ", "line 2: "),
            ("", "there is no [[key]] in it"),
            ("key = []", "there is no [[key]] in it"),
        ] {
            let faults = faults(text);
            assert!(faults.contains(expected), "{text}: {faults}");
        }
        let twice = format!("[[key]]\nname = 'a'\nsha256 = '{digest}'\nscopes = []\n").repeat(2);
        let faults = faults(&twice);
        assert!(faults.contains("another of this name") && faults.contains("the same sha256"), "{faults}");
        assert!(!faults.contains(&digest), "{faults}");
    }
}
