//! Which orders of a batch the database refuses. It only says that it refuses one; so parts of the
//! batch are tried, in transactions that are taken back, half as many orders after a refusal and
//! twice as many after none. A few refused ones cost a few dozen tries, a batch of nothing else one
//! try each.

use std::collections::HashSet;
use std::ops::Range;

use super::Postgres;
use crate::store::{Batch, Entry, Refusal, StoreError};

/// The refused entries by their index, in order. The others can be stored together as far as their
/// order alone decides.
pub(super) async fn find(store: &Postgres, batch: &Batch) -> Result<Vec<(usize, Refusal)>, StoreError> {
    let len = batch.entries.len();
    let (mut refused, mut taken) = (Vec::new(), Vec::new());
    let (mut next, mut span) = (0, len);
    while next < len {
        let upto = next.saturating_add(span).min(len);
        match store.try_out(&part(batch, &taken, next..upto)).await? {
            None => {
                taken.extend(next..upto);
                next = upto;
                span = span.saturating_mul(2);
            }
            Some(refusal) if upto - next == 1 => {
                refused.push((next, refusal));
                next = upto;
            }
            Some(_) => span = (upto - next) / 2,
        }
    }
    Ok(refused)
}

/// Some entries, after those of the `taken` ones that they build on: earlier writes of the same
/// orders and keys.
fn part(batch: &Batch, taken: &[usize], tried: Range<usize>) -> Batch {
    let tried = &batch.entries[tried];
    let ids: HashSet<_> = tried.iter().map(|entry| &entry.order.id).collect();
    let key = |entry: &Entry| entry.idempotency.as_ref().map(|idempotency| idempotency.key.clone());
    let keys: HashSet<_> = tried.iter().filter_map(key).collect();
    let earlier = taken.iter().map(|index| &batch.entries[*index]);
    let earlier =
        earlier.filter(|entry| ids.contains(&entry.order.id) || key(entry).is_some_and(|key| keys.contains(&key)));
    let entries = earlier.chain(tried).cloned().collect();
    Batch { is_again: batch.is_again, asks_former: batch.asks_former, ..Batch::of(batch.source.clone(), entries) }
}
