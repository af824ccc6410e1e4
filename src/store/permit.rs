//! When a batch that is written beside the one before it may begin, and when it may take effect.

use std::sync::Arc;
use std::time::Instant;

use tokio::sync::{SetOnce, oneshot, watch};

/// The sequence numbers that order new orders in lists: reserved at the first try of a batch and
/// kept for further tries, so that the orders of a later batch are the newer ones. Clones share
/// them.
#[derive(Debug, Clone, Default)]
pub struct SequenceBlock(Arc<SetOnce<Vec<i64>>>);

/// What a batch waits for before it takes effect.
///
/// Two batches are on their way at once, so that the second one can do all its reading and copying
/// while the first one is made durable. They must still take effect in their order: positions only
/// move forward, and the new orders of a later batch are newer in lists than those of the one
/// before. So a batch is made with a permit that its predecessor gives:
///
/// 1. Ingest calls [`CommitPermit::after`] with the block of the batch before, keeps the
///    [`PermitRelease`] and hands the permit to [`crate::store::Store::commit_after`].
/// 2. The store calls [`CommitPermit::may_begin`] first, which ends once the batch before has its
///    numbers, then does what takes no effect, then [`CommitPermit::wait`]s, then commits.
/// 3. Once the batch before is durable, ingest calls [`PermitRelease::release`]. Where it could not
///    be stored as it was, the release is dropped and the permit never comes: ingest stops the
///    later batch, which has taken no effect, and writes it again after what is left of the one
///    before.
///
/// A permit by [`Default`] has come already, for a batch with none before it.
#[derive(Debug, Default)]
pub struct CommitPermit {
    block: SequenceBlock,
    before: Option<Before>,
    came: Option<Instant>,
}

/// The batch before this one, which has not taken effect.
#[derive(Debug)]
struct Before {
    block: SequenceBlock,
    end: oneshot::Receiver<()>,
    /// It failed, so the permit never comes.
    has_failed: bool,
    waits: watch::Sender<Option<Wait>>,
}

/// What a batch waits for before its permit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    /// To begin.
    ToBegin,
    /// To take effect: it has done all that it can before.
    ToTakeEffect,
}

/// Gives the permit. Dropped instead, the permit never comes.
#[derive(Debug)]
pub struct PermitRelease {
    end: oneshot::Sender<()>,
    waits: watch::Receiver<Option<Wait>>,
}

impl CommitPermit {
    /// The permit after a batch with this block, and what gives it.
    #[must_use]
    pub fn after(block: SequenceBlock) -> (PermitRelease, Self) {
        let (sender, end) = oneshot::channel();
        let (waits, watched) = watch::channel(None);
        let before = Some(Before { block, end, has_failed: false, waits });
        (PermitRelease { end: sender, waits: watched }, Self { before, ..Self::default() })
    }

    /// The block of this batch.
    #[must_use]
    pub fn block(&self) -> SequenceBlock {
        self.block.clone()
    }

    /// Whether there is nothing to wait for.
    #[must_use]
    pub fn has_come(&mut self) -> bool {
        if self.before.as_ref().is_some_and(|before| !before.end.is_empty()) {
            self.come();
        }
        self.before.is_none()
    }

    /// Waits until the batch before has its block. Cancel-safe.
    pub async fn may_begin(&mut self) {
        let Some(before) = &self.before else { return };
        if before.block.0.initialized() {
            return;
        }
        before.waits.send_replace(Some(Wait::ToBegin));
        let block = before.block.clone();
        tokio::select! {
            _ = block.0.wait() => {}
            () = self.end() => {} // it had nothing to rank
        }
    }

    /// Waits until it comes; at once from then on. Cancel-safe.
    pub async fn wait(&mut self) {
        if let Some(before) = &self.before {
            before.waits.send_replace(Some(Wait::ToTakeEffect));
        }
        self.end().await;
    }

    async fn end(&mut self) {
        if let Some(before) = &mut self.before {
            if before.has_failed || (&mut before.end).await.is_err() {
                before.has_failed = true;
                std::future::pending::<()>().await;
            }
            self.come();
        }
    }

    fn come(&mut self) {
        self.before = None;
        self.came = Some(Instant::now());
    }

    /// When it came, if it had to be waited for.
    #[must_use]
    pub fn came(&self) -> Option<Instant> {
        self.came
    }
}

impl SequenceBlock {
    /// Those that were drawn first.
    #[must_use]
    pub fn keep(&self, drawn: Vec<i64>) -> Vec<i64> {
        let _ = self.0.set(drawn); // an earlier try may have drawn some
        self.0.get().expect("set above").clone()
    }
}

impl PermitRelease {
    /// Gives the permit.
    pub fn release(self) {
        // Anyone who waited may have failed meanwhile.
        let _ = self.end.send(());
    }

    /// Waits until the batch waits for that. For tests: nothing else need know.
    pub async fn until(&mut self, wait: Wait) {
        // A batch that is gone waits for nothing any more.
        let _ = self.waits.wait_for(|waits| *waits == Some(wait)).await;
    }
}

#[cfg(test)]
mod tests {
    use std::pin::pin;
    use std::task::{Context, Waker};

    use super::*;

    /// Whether there is nothing to wait for.
    fn comes(waiting: impl Future<Output = ()>) -> bool {
        pin!(waiting).poll(&mut Context::from_waker(Waker::noop())).is_ready()
    }

    #[tokio::test]
    async fn a_turn_comes_once_it_is_given_and_never_by_itself() {
        let (release, mut permit) = CommitPermit::after(SequenceBlock::default());
        assert!(!permit.has_come());
        assert!(!comes(permit.wait()));
        release.release();
        permit.wait().await;
        permit.wait().await;
        assert!(permit.has_come() && CommitPermit::default().has_come());
        let (release, mut permit) = CommitPermit::after(SequenceBlock::default());
        drop(release);
        assert!(!permit.has_come());
        assert!(!comes(permit.wait()), "the batch before it failed");
        assert!(!comes(permit.wait()), "and it stays so");
    }

    #[tokio::test]
    async fn a_batch_begins_once_the_one_before_is_ranked_and_keeps_its_first_ranks() {
        let first = CommitPermit::default();
        let (release, mut second) = CommitPermit::after(first.block());
        assert!(!comes(second.may_begin()));
        assert_eq!(first.block().keep(vec![7]), [7]);
        second.may_begin().await;
        assert!(!second.has_come());
        assert_eq!(first.block().keep(vec![9]), [7], "those of the first try");
        drop(release);
        let (release, mut third) = CommitPermit::after(second.block());
        release.release();
        third.may_begin().await; // the one before had nothing to rank
        assert!(third.has_come());
    }

    #[tokio::test]
    async fn a_pass_shows_what_is_waited_for() {
        let first = CommitPermit::default();
        let (mut release, mut second) = CommitPermit::after(first.block());
        assert!(!comes(release.until(Wait::ToBegin)));
        assert!(!comes(second.may_begin()));
        release.until(Wait::ToBegin).await;
        assert!(first.block().keep(Vec::new()).is_empty());
        second.may_begin().await;
        assert!(!comes(release.until(Wait::ToTakeEffect)));
        assert!(!comes(second.wait()));
        release.until(Wait::ToTakeEffect).await;
        release.release();
        second.wait().await;
    }
}
