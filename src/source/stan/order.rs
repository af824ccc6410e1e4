//! Puts deliveries in the channel's order. Sequences of a channel have no holes but before the
//! first message that is still there, so what comes after a hole waits until the hole is filled.
//! Pure: knows no server.

use std::collections::BTreeMap;
use std::ops::Range;

/// Where a delivery stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// It was handed over before.
    Behind,
    /// It was taken, to be handed over in its turn.
    Taken,
}

/// Deliveries on their way to being handed over.
#[derive(Debug)]
pub(super) struct Order<M> {
    next: u64,
    waiting: BTreeMap<u64, M>,
}

impl<M> Order<M> {
    /// Begins with this sequence.
    pub(super) fn new(next: u64) -> Self {
        Self { next, waiting: BTreeMap::new() }
    }

    /// The next sequence to hand over.
    pub(super) fn next(&self) -> u64 {
        self.next
    }

    /// Takes a delivery in.
    pub(super) fn take(&mut self, sequence: u64, message: M) -> Place {
        if sequence < self.next {
            return Place::Behind;
        }
        self.waiting.entry(sequence).or_insert(message);
        Place::Taken
    }

    /// The next message in order, if it is there.
    pub(super) fn pop(&mut self) -> Option<(u64, M)> {
        let first = self.waiting.first_entry().filter(|first| *first.key() == self.next)?;
        self.next += 1;
        Some(first.remove_entry())
    }

    /// What is missing before the first message that waits.
    pub(super) fn hole(&self) -> Option<Range<u64>> {
        let (&first, _) = self.waiting.first_key_value()?;
        (first > self.next).then_some(self.next..first)
    }

    /// Nothing before this sequence is there any more. Returns how many messages that are.
    pub(super) fn skip_to(&mut self, sequence: u64) -> u64 {
        let skipped = sequence.saturating_sub(self.next);
        self.next += skipped;
        skipped
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drain(order: &mut Order<u64>) -> Vec<u64> {
        std::iter::from_fn(|| order.pop()).map(|(sequence, _)| sequence).collect()
    }

    #[test]
    fn what_comes_out_rises_without_holes_and_repeats_nothing() {
        let mut order = Order::new(5);
        assert_eq!(order.take(4, 4), Place::Behind);
        for sequence in [7, 5, 7, 8] {
            assert_eq!(order.take(sequence, sequence), Place::Taken);
        }
        assert_eq!((order.hole(), drain(&mut order)), (None, vec![5]));
        assert_eq!(order.hole(), Some(6..7));
        order.take(6, 6);
        assert_eq!((drain(&mut order), order.next(), order.hole()), (vec![6, 7, 8], 9, None));
    }

    #[test]
    fn what_is_gone_is_counted_and_passed() {
        let mut order = Order::new(1);
        order.take(40, 40);
        assert_eq!((order.skip_to(31), order.hole()), (30, Some(31..40)));
        assert_eq!((order.skip_to(40), order.skip_to(3), drain(&mut order)), (9, 0, vec![40]));
    }
}
