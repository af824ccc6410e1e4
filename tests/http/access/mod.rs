//! Who is let in to what: keys, tokens, owners, limits and the audit trail, over the socket.

mod audit;
mod keys;
mod limits;
mod own;
mod tokens;

use std::path::PathBuf;

use order_service::access::keys::{Wanted, generate};
use tempfile::TempDir;

use super::*;
use crate::server::{Reply, Server};

/// Keys of a service, and the file that it reads them from.
pub struct Keys {
    home: TempDir,
    entries: Vec<(String, String, String)>,
}

impl Keys {
    /// Keys by name, each with its scopes, and its owner where it has one.
    pub fn new(keys: &[(&str, &[&str], Option<&str>)]) -> Self {
        let mut made = Self { home: tempfile::tempdir().unwrap(), entries: Vec::new() };
        for (name, scopes, owner) in keys {
            made.add(name, scopes, *owner, None);
        }
        made.write();
        made
    }

    pub fn add(&mut self, name: &str, scopes: &[&str], owner: Option<&str>, rate: Option<&str>) {
        let wanted = Wanted {
            name: name.into(),
            scopes: scopes.iter().map(|&scope| scope.into()).collect(),
            owner: owner.map(Into::into),
            rate: rate.map(Into::into),
            expires: None,
        };
        let key = generate(&wanted).unwrap();
        self.entries.push((name.into(), key.key, key.entry));
    }

    pub fn remove(&mut self, name: &str) {
        self.entries.retain(|(known, ..)| known != name);
    }

    pub fn path(&self) -> PathBuf {
        self.home.path().join("keys.toml")
    }

    /// Puts the file in place at once, as a careful operator does.
    pub fn write(&self) {
        let text: String = self.entries.iter().map(|(_, _, entry)| entry.as_str()).collect();
        let new = self.home.path().join("new");
        std::fs::write(&new, text).unwrap();
        std::fs::rename(new, self.path()).unwrap();
    }

    /// `Authorization` with the key of this name.
    pub fn bearer(&self, name: &str) -> String {
        format!("Bearer {}", self.key(name))
    }

    pub fn key(&self, name: &str) -> &str {
        &self.entries.iter().find(|(known, ..)| known == name).expect("made").1
    }

    /// A service that lets these in.
    pub fn start(&self, flags: &[&str]) -> Server {
        let path = self.path();
        Server::start(&[&["--auth-keys", path.to_str().unwrap()], flags].concat())
    }

    pub fn get(&self, server: &Server, name: &str, path: &str) -> Reply {
        server.request("GET", path, &[("Authorization", &self.bearer(name))], "")
    }

    pub fn post(&self, server: &Server, name: &str, path: &str, body: impl AsRef<[u8]>) -> Reply {
        let fields = [("Authorization", &*self.bearer(name)), ("Content-Type", "application/json")];
        server.request("POST", path, &fields, body)
    }
}

/// A WB order of a customer.
pub fn wb_of(id: &str, customer: &str) -> String {
    wb_answered(id).replace("\"customer_id\":\"test\"", &format!("\"customer_id\":\"{customer}\""))
}
