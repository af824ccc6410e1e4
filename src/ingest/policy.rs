//! What an error means: try again, reject, give the partition up, refuse, or stop. The only place
//! that decides it, with advice for the operator.

use std::time::Duration;

use crate::store::{Refusal, StoreError};

/// The longest pause between two tries.
const PAUSE_MAX: Duration = Duration::from_secs(5);
const PAUSE_FIRST: Duration = Duration::from_millis(50);

/// What to do about a failed commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// The same batch again, after a pause. Nothing is dropped meanwhile; senders see a full queue.
    Retry(Duration),
    /// Give the partition up: another process has it.
    GiveUp {
        /// The partition.
        partition: u32,
    },
    /// Tell the senders that nothing is stored, and go on; stop where none of them waits.
    Refuse {
        /// What the operator can do.
        advice: &'static str,
    },
    /// Keep these entries elsewhere, then try without them.
    Reject(Vec<(usize, Refusal)>),
    /// End the process and let the operator look.
    Stop {
        /// What the operator can do.
        advice: &'static str,
    },
}

/// Judges the `attempt`-th failure in a row, counted from 0. `is_broker`: partitions may move to
/// another process. `jitter` is from 0 to 1 and keeps instances apart.
#[must_use]
pub fn judge(error: &StoreError, is_broker: bool, attempt: u32, jitter: f64) -> Verdict {
    match error {
        StoreError::Fenced { partition } if is_broker => Verdict::GiveUp { partition: *partition },
        StoreError::Unstorable(refused) => Verdict::Reject(refused.clone()),
        StoreError::Lost(_) if !is_broker => {
            Verdict::Refuse { advice: "put the file of the store back where it was, and start again" }
        }
        StoreError::Unavailable(_) | StoreError::Lost(_) => {
            let pause = PAUSE_FIRST.saturating_mul(1 << attempt.min(10)).min(PAUSE_MAX);
            Verdict::Retry(pause.mul_f64(0.5 + jitter.clamp(0.0, 1.0) / 2.0))
        }
        StoreError::Fenced { .. } => {
            Verdict::Stop { advice: "another process reads the same source; stop one of them" }
        }
        StoreError::Unfit(_) => {
            Verdict::Stop { advice: "the store is not damaged, but not one that this order-service can use" }
        }
        StoreError::Damaged(_) => {
            Verdict::Stop { advice: "restore the store from a copy, or repair it, before a restart" }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn passing_trouble_is_tried_again_ever_more_slowly_and_for_ever() {
        let away = StoreError::Unavailable("away".into());
        let pause = |attempt| match judge(&away, false, attempt, 1.0) {
            Verdict::Retry(pause) => pause,
            other => panic!("must be tried again: {other:?}"),
        };
        assert_eq!(pause(0), PAUSE_FIRST);
        assert!(pause(1) > pause(0));
        assert_eq!(pause(u32::MAX), PAUSE_MAX);
    }

    #[test]
    fn what_cannot_get_better_stops() {
        let unfit = StoreError::Unfit("a table of another program".into());
        for error in [StoreError::Fenced { partition: 1 }, StoreError::Damaged("torn page".into()), unfit] {
            let Verdict::Stop { advice } = judge(&error, false, 0, 0.5) else { panic!("{error:?} must stop") };
            assert_eq!(advice.contains("restore"), matches!(error, StoreError::Damaged(_)), "{advice}");
        }
    }

    #[test]
    fn without_its_file_senders_are_told_and_messages_wait() {
        let lost = StoreError::Lost("removed".into());
        assert!(matches!(judge(&lost, false, 0, 0.5), Verdict::Refuse { .. }));
        assert!(matches!(judge(&lost, true, 0, 0.5), Verdict::Retry(_)));
    }

    #[test]
    fn a_partition_that_moved_is_given_up_and_what_is_unstorable_rejected() {
        let fenced = StoreError::Fenced { partition: 7 };
        assert_eq!(judge(&fenced, true, 0, 0.5), Verdict::GiveUp { partition: 7 });
        let refused = vec![(3, Refusal::OtherKind)];
        assert_eq!(judge(&StoreError::Unstorable(refused.clone()), true, 0, 0.5), Verdict::Reject(refused));
    }
}
