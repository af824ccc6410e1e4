//! What an order looks like in Redis: the keys, and the marker beside the body.

use sha2::{Digest, Sha256};

use crate::id::OrderId;
use crate::snapshot::{Kind, Snapshot, State};

/// The server's time as far as orders are concerned.
pub(super) const CLOCK: &str = "order_clock";

pub(super) fn body_key(id: &OrderId) -> String {
    format!("order:{id}")
}

pub(super) fn marker_key(id: &OrderId) -> String {
    format!("order_version:{id}")
}

pub(super) fn result_key(id: &OrderId) -> String {
    format!("order_result:{id}")
}

/// What a marker says between the version and the stamp.
pub(super) fn shape(snapshot: &Snapshot) -> String {
    let (seq, kind, state) = (snapshot.seq(), snapshot.kind() as u8, snapshot.state() as u8);
    format!("{seq} {kind} {state} {}", digest(&snapshot.flat().whole()))
}

/// Enough to tell a body from one that someone else has put in its place.
fn digest(body: &[u8]) -> String {
    Sha256::digest(body).iter().take(8).map(|byte| format!("{byte:02x}")).collect()
}

/// The copy that a body and a marker make up, and when it was written. `None` when they make up none.
pub(super) fn read(body: Option<&[u8]>, marker: &[u8]) -> Option<(Snapshot, u64)> {
    let mut fields = std::str::from_utf8(marker).ok()?.split(' ');
    let mut number = || fields.next()?.parse::<u64>().ok();
    let (version, seq) = (number()?, number()?);
    let kind = match number()? {
        0 => Kind::Wb,
        1 => Kind::Envelope,
        _ => return None,
    };
    let state = match number()? {
        0 => State::Live,
        1 => State::SoftDeleted,
        2 => State::Tombstone,
        _ => return None,
    };
    let expected = fields.next()?;
    let stamp = fields.next()?.parse().ok()?;
    let body = match (body, state) {
        (None, State::Tombstone) => &[],
        (Some(body), State::Live | State::SoftDeleted) => body,
        _ => return None,
    };
    if fields.next().is_some() || digest(body) != expected {
        return None;
    }
    Some((Snapshot::new(version, seq, kind, state, body, &mut Vec::new()), stamp))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_and_nothing_else_is() {
        for (kind, state) in
            [(Kind::Wb, State::Live), (Kind::Envelope, State::SoftDeleted), (Kind::Wb, State::Tombstone)]
        {
            let snapshot = Snapshot::new(7, 123, kind, state, b"{\"a\":1}", &mut Vec::new());
            let marker = format!("7 {} 1700000000123456", shape(&snapshot));
            let whole = snapshot.flat().whole();
            let body = (state != State::Tombstone).then_some(&*whole);
            let (read_back, stamp) = read(body, marker.as_bytes()).unwrap();
            assert_eq!((read_back.version(), read_back.seq(), stamp), (7, 123, 1_700_000_000_123_456));
            assert_eq!((read_back.kind(), read_back.state()), (kind, state));
            assert_eq!(read_back.flat(), whole);
            assert!(read(Some(b"{\"a\":2}"), marker.as_bytes()).is_none(), "the body of someone else");
            assert!(body.is_none() || read(None, marker.as_bytes()).is_none());
            for cut in 0..marker.len() - 16 {
                assert!(read(body, &marker.as_bytes()[..cut]).is_none(), "{cut}");
            }
            assert!(read(body, format!("{marker} 1").as_bytes()).is_none());
        }
    }
}
