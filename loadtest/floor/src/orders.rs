//! The orders: bytes by id, and the newest of them as one ready list. Knows nothing of HTTP.

use std::path::Path;

use anyhow::Context;
use memchr::{memchr, memmem};
use papaya::HashMap;

/// As many orders as the service's list holds unless told otherwise.
const LIST_MAX: usize = 1000;

/// Every order, and the list.
pub struct Orders {
    by_id: HashMap<Box<[u8]>, Box<[u8]>, foldhash::fast::RandomState>,
    /// The newest orders, newest first.
    newest: Vec<Box<[u8]>>,
    /// The same as one JSON array.
    pub list: Box<[u8]>,
    /// The list compressed with gzip, when there is such a file.
    pub list_gzip: Option<Box<[u8]>>,
}

impl Orders {
    /// Reads orders of a file, one a line and newest first.
    ///
    /// # Errors
    /// When a file cannot be read, or a line has no `order_uid`.
    pub fn load(orders: &Path, list_gzip: Option<&Path>) -> anyhow::Result<Self> {
        let read = |path: &Path| std::fs::read(path).with_context(|| format!("cannot read {}", path.display()));
        let mut loaded = Self::from_lines(&read(orders)?)?;
        loaded.list_gzip = list_gzip.map(read).transpose()?.map(Into::into);
        Ok(loaded)
    }

    /// Orders of a text, one a line and newest first.
    ///
    /// # Errors
    /// When a line has no `order_uid`.
    pub fn from_lines(text: &[u8]) -> anyhow::Result<Self> {
        let by_id = HashMap::with_hasher(foldhash::fast::RandomState::default());
        let mut newest = Vec::new();
        for (index, line) in text.split(|byte| *byte == b'\n').enumerate().filter(|(_, line)| !line.is_empty()) {
            let id = id(line).with_context(|| format!("line {} has no order_uid", index + 1))?;
            by_id.pin().insert(id.into(), line.into());
            if newest.len() < LIST_MAX {
                newest.push(line.into());
            }
        }
        let mut orders = Self { by_id, newest, list: Box::default(), list_gzip: None };
        let mut list = Vec::new();
        orders.write_newest(usize::MAX, &mut list);
        orders.list = list.into();
        Ok(orders)
    }

    /// Gives the order of `id`, if there is one, to `use_it`.
    pub fn with(&self, id: &[u8], use_it: impl FnOnce(&[u8])) -> bool {
        let orders = self.by_id.pin();
        orders.get(id).map(|order| use_it(order)).is_some()
    }

    /// Appends the newest orders, `limit` at most, as one JSON array.
    pub fn write_newest(&self, limit: usize, into: &mut Vec<u8>) {
        into.push(b'[');
        for (index, order) in self.newest.iter().take(limit).enumerate() {
            if index > 0 {
                into.push(b',');
            }
            into.extend_from_slice(order);
        }
        into.push(b']');
    }
}

/// Ids of sample orders have no escapes, and stand first.
fn id(line: &[u8]) -> Option<&[u8]> {
    const NAME: &[u8] = b"\"order_uid\":\"";
    let rest = &line[memmem::find(line, NAME)? + NAME.len()..];
    Some(&rest[..memchr(b'"', rest)?])
}
