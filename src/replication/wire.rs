//! What a message between instances, or between an instance and a worker, looks like: the names of
//! its headers, and an order as a snapshot in it. The only place that writes and that reads them.
//!
//! During an upgrade older and newer instances read each other's messages. A word that this one does
//! not know is not guessed: the message is passed over, and the poll of the store shows the order.

use crate::id::{OrderId, Version};
use crate::record::Record;
use crate::snapshot::{ChangeKind, Kind, Snapshot, State};

/// Names of headers.
pub mod header {
    /// The order's version that a message is about.
    pub const VERSION: &str = "version";
    /// Which face the order has: `wb` or `envelope`.
    pub const KIND: &str = "kind";
    /// What happened to it: `created`, `updated` or `deleted`.
    pub const CHANGE: &str = "change";
    /// Whether it is shown: `live`, `hidden` (readable by its id alone) or `gone`.
    pub const STATE: &str = "state";
    /// Its place in lists.
    pub const SEQ: &str = "seq";
    /// The store it is in.
    pub const STORE: &str = "store";
    /// The instance that published it.
    pub const ORIGIN: &str = "origin";
    /// The version that came of the work, in acknowledgements.
    pub const NOW: &str = "now";
}

/// Who publishes: the store that the orders are in, and the instance.
#[derive(Debug, Clone, Copy)]
pub struct Publisher<'a> {
    /// The store's identity.
    pub store: &'a str,
    /// The instance's own name.
    pub origin: &'a str,
}

/// The numbers of a committed change as text, for headers that borrow them.
pub struct ChangeHeaders<'a> {
    publisher: Publisher<'a>,
    version: String,
    seq: String,
    kind: Kind,
    state: State,
    change: ChangeKind,
}

impl<'a> ChangeHeaders<'a> {
    /// Those of one change.
    #[must_use]
    pub fn new(publisher: Publisher<'a>, snapshot: &Snapshot, change: ChangeKind) -> Self {
        Self {
            publisher,
            version: snapshot.version().to_string(),
            seq: snapshot.seq().to_string(),
            kind: snapshot.kind(),
            state: snapshot.state(),
            change,
        }
    }

    /// Headers of an event, which a worker is to process.
    #[must_use]
    pub fn of_event(&self) -> [(&'static str, &str); 5] {
        [
            (header::VERSION, &self.version),
            (header::KIND, self.kind.as_str()),
            (header::CHANGE, self.change.as_str()),
            (header::STORE, self.publisher.store),
            (header::ORIGIN, self.publisher.origin),
        ]
    }

    /// Headers of a snapshot, which followers show. Its value is the body, none for a tombstone.
    #[must_use]
    pub fn of_snapshot(&self) -> [(&'static str, &str); 7] {
        let [version, kind, change, store, origin] = self.of_event();
        [version, kind, change, store, origin, (header::SEQ, &self.seq), (header::STATE, self.state.as_str())]
    }
}

/// The order of a published snapshot: `key` and `value` of the message, and its headers by name.
/// `None` where anything is missing or not known here.
pub fn read_snapshot<'m>(
    key: Option<&[u8]>,
    value: Option<&[u8]>,
    header: impl Fn(&str) -> Option<&'m str>,
    scratch: &mut Vec<u8>,
) -> Option<(OrderId, Snapshot)> {
    let id = OrderId::parse_stored(key?).ok()?;
    let (kind, state) = (Kind::parse(header(header::KIND)?)?, State::parse(header(header::STATE)?)?);
    let number = |name: &str| header(name)?.parse().ok();
    let (version, seq) = (number(header::VERSION)?, number(header::SEQ)?);
    Some((id, Snapshot::new(version, seq, kind, state, value.unwrap_or_default(), scratch)))
}

/// What a worker reads of an event beside its order: the version it was made from, and what happened.
#[must_use]
pub fn read_event(record: &Record) -> (Option<Version>, Option<ChangeKind>) {
    let header = |name: &str| {
        let (_, value) = record.headers.as_ref()?.iter().find(|(known, _)| known == name)?;
        value.as_deref()
    };
    let version = header(header::VERSION).and_then(|version| std::str::from_utf8(version).ok()?.parse().ok());
    (version, header(header::CHANGE).and_then(ChangeKind::parse))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PUBLISHER: Publisher<'_> = Publisher { store: "s", origin: "o" };

    #[test]
    fn a_snapshot_that_is_written_is_read_as_it_was() {
        let mut scratch = Vec::new();
        let id = OrderId::parse(b"order-1").unwrap();
        for kind in [Kind::Wb, Kind::Envelope] {
            for state in [State::Live, State::SoftDeleted, State::Tombstone] {
                let body: &[u8] = if state == State::Tombstone { b"" } else { br#"{"order_uid":"order-1"}"# };
                let snapshot = Snapshot::new(7, 1 << 40, kind, state, body, &mut scratch);
                let headers = ChangeHeaders::new(PUBLISHER, &snapshot, ChangeKind::Updated);
                let headers = headers.of_snapshot();
                let header = |name: &str| headers.iter().find(|(known, _)| *known == name).map(|(_, value)| *value);
                let value = (state != State::Tombstone).then_some(body);
                let (read_id, read) = read_snapshot(Some(id.text().as_bytes()), value, header, &mut scratch).unwrap();
                assert_eq!(read_id, id);
                assert_eq!((read.version(), read.seq(), read.kind(), read.state()), (7, 1 << 40, kind, state));
                assert_eq!(*read.flat().whole(), *body);
                // Of a newer instance, or cut.
                for (name, word) in [(header::STATE, "archived"), (header::KIND, "bundle"), (header::VERSION, "v7")] {
                    let other = |asked: &str| if asked == name { Some(word) } else { header(asked) };
                    assert!(
                        read_snapshot(Some(id.text().as_bytes()), value, other, &mut scratch).is_none(),
                        "{name} {word}"
                    );
                    let cut = |asked: &str| header(asked).filter(|_| asked != name);
                    assert!(read_snapshot(Some(id.text().as_bytes()), value, cut, &mut scratch).is_none(), "no {name}");
                }
                assert!(read_snapshot(None, value, header, &mut scratch).is_none());
            }
        }
    }
}
