//! A line of `export --full`: an order with what its body does not say, `{"order":{…},"meta":{…}}`. Written and read here.

use std::collections::BTreeMap;

use bytes::Bytes;
use serde_json::Value;
use serde_json::value::RawValue;

use crate::id::OrderId;
use crate::order::envelope::{Stored, stamp_of};
use crate::order::{Past, date};
use crate::record::{Fault, Rejection};
use crate::snapshot::State;
use crate::store::Full;

/// What a line may have more than the body of its order has.
pub const FRAME_BYTES_MAX: usize = 1024;

/// The versions of a database are signed.
const VERSION_MAX: u64 = i64::MAX.unsigned_abs();

const LIVE: &str = "live";
const DELETED: &str = "deleted";
const TOMBSTONE: &str = "tombstone";

/// Appends a line. What is left of a tombstone is its id: its order is `null`.
pub fn write(order: &Full<'_>, to: &mut Vec<u8>) {
    let state = match order.state {
        State::Live => LIVE,
        State::SoftDeleted => DELETED,
        State::Tombstone => TOMBSTONE,
    };
    to.extend_from_slice(b"{\"order\":");
    to.extend_from_slice(if order.body.is_empty() { &b"null"[..] } else { order.body });
    // Ids have no characters that JSON escapes.
    let (id, kind, version) = (order.id, order.kind.as_str(), order.version);
    let meta = format!(",\"meta\":{{\"id\":\"{id}\",\"kind\":\"{kind}\",\"state\":\"{state}\",\"version\":{version}");
    to.extend_from_slice(meta.as_bytes());
    if let Some((created, updated)) = order.times {
        // A clock that was put back, or another one, may have changed an order before it was made.
        let updated = updated.max(created);
        for (name, micros) in [(&b",\"created_at\":\""[..], created), (&b",\"updated_at\":\""[..], updated)] {
            to.extend_from_slice(name);
            to.extend_from_slice(&stamp_of(micros));
            to.push(b'"');
        }
    }
    to.extend_from_slice(b"}}\n");
}

/// What a line says of its order beside the body.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Meta {
    /// When it was stored and last changed, where that is said.
    pub(super) times: Option<(i64, i64)>,
    pub(super) is_envelope: bool,
    /// By its status; a tombstone has no order that could say so.
    pub(super) is_deleted: bool,
}

/// The parts of a line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Parts {
    /// The order; `None` for a tombstone.
    pub(super) body: Option<Bytes>,
    /// The order's id, where `meta` is there.
    pub(super) id: Option<Bytes>,
    pub(super) meta: Option<Meta>,
}

/// Takes a line apart. `None` for one that is an order by itself.
pub(super) fn read(line: &Bytes) -> Option<Result<Parts, Rejection>> {
    let first = line.trim_ascii_start().strip_prefix(b"{")?.trim_ascii_start();
    if !(first.starts_with(b"\"order\"") || first.starts_with(b"\"meta\"")) {
        return None;
    }
    let members: BTreeMap<String, &RawValue> = serde_json::from_slice(line).ok()?;
    // An order may have members of these names among its own.
    if !members.contains_key("order") || members.keys().any(|name| name != "order" && name != "meta") {
        return None;
    }
    Some(parts(line, &members))
}

fn parts(line: &Bytes, members: &BTreeMap<String, &RawValue>) -> Result<Parts, Rejection> {
    let order = members["order"].get();
    let body = (order != "null").then(|| line.slice_ref(order.as_bytes()));
    let Some(meta) = members.get("meta") else {
        return match body {
            Some(_) => Ok(Parts { body, id: None, meta: None }),
            None => Err(fault("/order", "is null, and no meta says which order was deleted")),
        };
    };
    let meta: BTreeMap<String, Value> =
        serde_json::from_str(meta.get()).map_err(|_| fault("/meta", "must be an object"))?;
    let text = |name: &str| meta.get(name).and_then(Value::as_str);
    let id = text("id").ok_or_else(|| fault("/meta/id", "must be the id of the order"))?;
    OrderId::parse(id.as_bytes()).map_err(|error| fault("/meta/id", error.to_string()))?;
    let is_envelope = match text("kind") {
        Some("wb") => false,
        Some("envelope") => true,
        _ => return Err(fault("/meta/kind", "must be wb or envelope")),
    };
    match (text("state"), &body) {
        (Some(LIVE | DELETED), Some(_)) | (Some(TOMBSTONE), None) => {}
        (Some(LIVE | DELETED), None) => return Err(fault("/order", "is null, which only that of a tombstone is")),
        (Some(TOMBSTONE), Some(_)) => return Err(fault("/order", "is there, which that of a tombstone is not")),
        _ => return Err(fault("/meta/state", "must be live, deleted or tombstone")),
    }
    let time = |name: &str| match meta.get(name) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => match value.as_str().and_then(date::unix_micros) {
            Some(micros) => Ok(Some(micros)),
            None => Err(fault(&format!("/meta/{name}"), "must be a time by RFC 3339")),
        },
    };
    let (created, updated) = (time("created_at")?, time("updated_at")?);
    if created.zip(updated).is_some_and(|(created, updated)| updated < created) {
        return Err(fault("/meta/updated_at", "is before created_at"));
    }
    let is_version = |value: &Value| value.as_u64().is_some_and(|version| (1..=VERSION_MAX).contains(&version));
    if meta.get("version").is_some_and(|version| !is_version(version)) {
        return Err(fault("/meta/version", "must be a whole number of at least 1"));
    }
    let times = created.or(updated).map(|created| (created, updated.unwrap_or(created)));
    let id = Some(Bytes::copy_from_slice(id.as_bytes()));
    let is_deleted = text("state") == Some(DELETED);
    Ok(Parts { body, id, meta: Some(Meta { times, is_envelope, is_deleted }) })
}

fn fault(pointer: &str, message: impl Into<String>) -> Rejection {
    Rejection::invalid(vec![Fault { pointer: pointer.to_owned(), message: message.into() }])
}

/// What an envelope order says of itself as this service answers and exports it: its amount and its times.
pub(super) fn of_envelope(body: &[u8]) -> Option<(&str, Past)> {
    let stored = Stored::parse(body.trim_ascii())?;
    let micros = |stamp: &[u8]| std::str::from_utf8(stamp).ok().and_then(date::unix_micros);
    let (created_micros, updated_micros) = (micros(stored.created_at)?, micros(stored.updated_at)?);
    serde_json::from_str::<serde_json::Number>(stored.amount).ok()?;
    Some((stored.amount, Past { created_micros, updated_micros, decides: false, is_envelope: true }))
}

/// The same where another program has spelled the order in its own way, such as with other white space. Times that are
/// not in it are those of `meta`.
pub(super) fn of_respelled_envelope(body: &[u8], meta: &Meta) -> Option<(String, Past)> {
    let members: BTreeMap<String, &RawValue> = serde_json::from_slice(body).ok()?;
    let time = |name: &str| date::unix_micros(&serde_json::from_str::<String>(members.get(name)?.get()).ok()?);
    let times = time("created_at").zip(time("updated_at")).or(meta.times);
    let (created_micros, updated_micros) = times?;
    let amount = members.get("amount")?.get();
    serde_json::from_str::<serde_json::Number>(amount).ok()?;
    Some((amount.to_owned(), Past { created_micros, updated_micros, decides: true, is_envelope: true }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::Kind;

    fn line(order: &Full<'_>) -> Bytes {
        let mut line = Vec::new();
        write(order, &mut line);
        assert_eq!(line.pop(), Some(b'\n'));
        assert!(serde_json::from_slice::<Value>(&line).is_ok());
        line.into()
    }

    #[test]
    fn what_is_written_is_read_back() {
        let body = br#"{"order_uid":"a","meta":{},"order":1.50}"#;
        let order = Full { id: "a", kind: Kind::Wb, state: State::Live, version: 7, times: Some((-5, 6)), body };
        let parts = read(&line(&order)).unwrap().unwrap();
        assert_eq!(parts.body.as_deref(), Some(&body[..]));
        assert_eq!(parts.id.as_deref(), Some(&b"a"[..]));
        assert_eq!(parts.meta, Some(Meta { times: Some((-5, 6)), is_envelope: false, is_deleted: false }));
        let earlier = Full { times: Some((6, -5)), ..order };
        assert_eq!(
            read(&line(&earlier)).unwrap().unwrap().meta.unwrap().times,
            Some((6, 6)),
            "a clock that was put back"
        );
        let gone = Full { kind: Kind::Envelope, state: State::Tombstone, times: None, body: b"", ..order };
        let parts = read(&line(&gone)).unwrap().unwrap();
        assert_eq!((parts.body, parts.meta), (None, Some(Meta { times: None, is_envelope: true, is_deleted: false })));
    }

    #[test]
    fn what_is_an_order_by_itself_is_left_alone_and_what_is_wrong_is_named() {
        let read = |text: &'static str| read(&Bytes::from_static(text.as_bytes()));
        for own in
            [r#"{"order_uid":"a"}"#, r#"{"order":1,"order_uid":"a"}"#, r#"{"meta":{}}"#, r#"{"order":"#, "", "[]"]
        {
            assert_eq!(read(own), None, "{own}");
        }
        let bare = read(r#" { "order" : {"order_uid":"a"} }"#).unwrap().unwrap();
        assert_eq!((bare.body.as_deref(), bare.meta), (Some(&br#"{"order_uid":"a"}"#[..]), None));
        for (text, pointer) in [
            (r#"{"order":null}"#, "/order"),
            (r#"{"order":{},"meta":1}"#, "/meta"),
            (r#"{"order":{},"meta":{}}"#, "/meta/id"),
            (r#"{"order":{},"meta":{"id":"ä"}}"#, "/meta/id"),
            (r#"{"order":{},"meta":{"id":"a","kind":"x"}}"#, "/meta/kind"),
            (r#"{"order":{},"meta":{"id":"a","kind":"wb","state":"gone"}}"#, "/meta/state"),
            (r#"{"order":{},"meta":{"id":"a","kind":"wb","state":"tombstone"}}"#, "/order"),
            (r#"{"order":null,"meta":{"id":"a","kind":"wb","state":"live"}}"#, "/order"),
            (r#"{"order":{},"meta":{"id":"a","kind":"wb","state":"live","created_at":"soon"}}"#, "/meta/created_at"),
            (
                r#"{"order":{},"meta":{"id":"a","kind":"wb","state":"live","created_at":"2024-01-02T00:00:00Z","updated_at":"2024-01-01T00:00:00Z"}}"#,
                "/meta/updated_at",
            ),
            (r#"{"order":{},"meta":{"id":"a","kind":"wb","state":"live","version":-1}}"#, "/meta/version"),
            (r#"{"order":{},"meta":{"id":"a","kind":"wb","state":"live","version":0}}"#, "/meta/version"),
            (r#"{"order":{},"meta":{"id":"a","kind":"wb","state":"live","version":1.5}}"#, "/meta/version"),
            (r#"{"order":{},"meta":{"id":"a","kind":"wb","state":"live","version":"1"}}"#, "/meta/version"),
            (
                r#"{"order":{},"meta":{"id":"a","kind":"wb","state":"live","version":9223372036854775808}}"#,
                "/meta/version",
            ),
        ] {
            assert_eq!(read(text).unwrap().unwrap_err().faults[0].pointer, pointer, "{text}");
        }
    }
}
