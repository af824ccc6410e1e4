//! In which order messages are handed over. Pure: knows sequence numbers only.
//!
//! The server delivers out of order after trouble: what was on its way when a connection broke comes again later than
//! what follows it. The stored position is one number, so nothing may pass what comes before it. Sequences are
//! therefore handed over strictly rising, and none on the subject is left out: what is missing is read from the stream.

/// A delivery, as the server numbers it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Delivery {
    /// The message's place in the stream.
    pub sequence: u64,
    /// The delivery's number among all of this consumer.
    pub number: u64,
    /// Whether the message was never delivered before.
    pub is_first: bool,
}

/// Where a delivery stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum SequenceOrder {
    /// It was handed over before.
    Duplicate,
    /// It is the next one.
    InOrder,
    /// Something may be missing before it.
    Gap,
}

/// How far a stream is handed over.
#[derive(Debug, Clone, Default)]
pub(super) struct Sequence {
    /// Everything on the subject below is handed over.
    next: u64,
    /// The delivery before.
    last: Option<Delivery>,
}

impl Sequence {
    /// Everything below `next` was dealt with before.
    pub(super) fn new(next: u64) -> Self {
        Self { next, last: None }
    }

    /// Where to go on.
    pub(super) fn next(&self) -> u64 {
        self.next
    }

    /// The numbers of deliveries may begin again.
    pub(super) fn forget_numbers(&mut self) {
        self.last = None;
    }

    /// Where a delivery stands. The server delivers a subject's messages for the first time in the stream's order: two
    /// such deliveries in a row have no message of the subject between them, whatever else the stream has there.
    pub(super) fn place(&mut self, delivery: Delivery) -> SequenceOrder {
        let last = self.last.replace(delivery).filter(|last| last.is_first && delivery.is_first);
        let follows = last.is_some_and(|last| last.number + 1 == delivery.number && last.sequence + 1 == self.next);
        if delivery.sequence < self.next {
            SequenceOrder::Duplicate
        } else if delivery.sequence == self.next || follows {
            SequenceOrder::InOrder
        } else {
            SequenceOrder::Gap
        }
    }

    /// A message is handed over.
    pub(super) fn pass(&mut self, sequence: u64) {
        debug_assert!(sequence >= self.next, "{sequence} is behind {}", self.next);
        self.next = sequence + 1;
    }

    /// Takes what the stream has on the subject at or after each of the numbers from [`Self::next`] on, and nothing
    /// where it ends. Passes, and returns by index, what is to be handed over of it, which is below `until`; and says
    /// whether there is nothing else below `until`.
    pub(super) fn fill(&mut self, until: u64, found: &[Option<u64>]) -> (Vec<usize>, bool) {
        let mut missing = Vec::new();
        for (index, found) in found.iter().enumerate() {
            match *found {
                Some(sequence) if sequence < until => {
                    if sequence >= self.next {
                        missing.push(index);
                        self.pass(sequence);
                    }
                }
                Some(_) | None => return (missing, true),
            }
        }
        (missing, self.next >= until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn first(sequence: u64, number: u64) -> Delivery {
        Delivery { sequence, number, is_first: true }
    }

    #[test]
    fn neighbours_follow_each_other_and_what_was_there_is_behind() {
        let mut sequence = Sequence::new(5);
        assert_eq!(sequence.place(first(4, 1)), SequenceOrder::Duplicate);
        assert_eq!(sequence.place(first(5, 2)), SequenceOrder::InOrder);
        sequence.pass(5);
        assert_eq!(sequence.place(first(5, 3)), SequenceOrder::Duplicate);
        assert_eq!(sequence.place(first(6, 9)), SequenceOrder::InOrder);
    }

    #[test]
    fn a_hole_between_two_first_deliveries_in_a_row_is_no_gap() {
        let mut sequence = Sequence::new(0);
        assert_eq!(sequence.place(first(3, 1)), SequenceOrder::Gap, "nothing is known of what came before");
        sequence.pass(3);
        assert_eq!(sequence.place(first(9, 2)), SequenceOrder::InOrder, "other subjects are between them");
        sequence.pass(9);
        assert_eq!(sequence.place(first(12, 4)), SequenceOrder::Gap, "a delivery went elsewhere");
        sequence.pass(12);
        sequence.forget_numbers();
        assert_eq!(sequence.place(first(15, 5)), SequenceOrder::Gap, "the numbers may be others");
        sequence.pass(15);
        assert_eq!(sequence.place(Delivery { is_first: false, ..first(17, 6) }), SequenceOrder::Gap);
        assert_eq!(sequence.place(first(20, 7)), SequenceOrder::Gap, "after a repeated one nothing is known");
    }

    #[test]
    fn a_gap_is_filled_from_the_stream_and_only_up_to_its_end() {
        // The stream has 2, 3 and 7 on the subject; 7 has arrived.
        let mut sequence = Sequence::new(1);
        let found = [Some(2), Some(2), Some(3), Some(7)];
        assert_eq!(sequence.fill(7, &found), (vec![0, 2], true));
        assert_eq!(sequence.next(), 4);
        let mut sequence = Sequence::new(1);
        assert_eq!(sequence.fill(7, &[Some(2), Some(2)]), (vec![0], false), "more may be missing");
        assert_eq!(sequence.fill(7, &[Some(3), None]), (vec![0], true), "the arrived one was deleted meanwhile");
        assert_eq!(sequence.fill(4, &[]), (vec![], true));
    }

    /// Whatever is lost, repeated or reordered on the way: what is handed over is what the stream has, in order.
    #[test]
    fn any_order_of_deliveries_hands_over_the_whole_stream_once() {
        for seed in 0..500 {
            let mut random = fastrand::Rng::with_seed(seed);
            let on_subject: Vec<u64> = (1..200).filter(|_| random.u8(..) > 60).collect();
            let ask = |from: u64| on_subject.iter().copied().find(|&sequence| sequence >= from);
            let mut sequence = Sequence::new(0);
            let mut handed = Vec::new();
            let (mut cursor, mut number) = (0, 0);
            let mut again: Vec<u64> = Vec::new();
            while cursor < on_subject.len() || !again.is_empty() {
                let is_first = again.is_empty() || (cursor < on_subject.len() && random.u8(..) > 80);
                let delivered = if is_first {
                    cursor += 1;
                    on_subject[cursor - 1]
                } else {
                    again.swap_remove(random.usize(..again.len()))
                };
                number += 1;
                if random.u8(..) < 50 {
                    again.push(delivered); // it is lost on the way, or comes twice
                    if random.bool() {
                        continue;
                    }
                }
                let place = sequence.place(Delivery { sequence: delivered, number, is_first });
                if place == SequenceOrder::Gap {
                    loop {
                        let from = sequence.next();
                        let count = (delivered - from).min(random.u64(1..8));
                        let found: Vec<_> = (from..from + count).map(ask).collect();
                        let (missing, is_done) = sequence.fill(delivered, &found);
                        handed.extend(missing.into_iter().map(|index| found[index].unwrap()));
                        if is_done {
                            break;
                        }
                    }
                }
                if place != SequenceOrder::Duplicate {
                    sequence.pass(delivered);
                    handed.push(delivered);
                }
            }
            let expected: Vec<_> = on_subject.iter().copied().filter(|&s| s < sequence.next()).collect();
            assert_eq!(handed, expected, "seed {seed}");
            assert_eq!(on_subject, handed, "seed {seed}: the end is reached");
        }
    }
}
