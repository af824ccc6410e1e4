//! When a batch that is written beside the one before it may take effect.

use std::time::Instant;

use tokio::sync::oneshot;

/// What a batch waits for before it takes effect.
#[derive(Debug, Default)]
pub struct Turn {
    later: Option<oneshot::Receiver<()>>,
    came: Option<Instant>,
}

/// Gives the turn. Dropped instead, the turn never comes.
#[derive(Debug)]
pub struct Pass(oneshot::Sender<()>);

impl Turn {
    /// A turn that is given later. The default one has come already.
    #[must_use]
    pub fn later() -> (Pass, Self) {
        let (sender, receiver) = oneshot::channel();
        (Pass(sender), Self { later: Some(receiver), came: None })
    }

    /// Whether there is nothing to wait for.
    #[must_use]
    pub fn has_come(&mut self) -> bool {
        if self.later.as_ref().is_some_and(|receiver| !receiver.is_empty()) {
            self.come();
        }
        self.later.is_none()
    }

    /// Waits until it comes; at once from then on. Cancel-safe.
    pub async fn wait(&mut self) {
        if let Some(receiver) = &mut self.later {
            if receiver.await.is_err() {
                std::future::pending::<()>().await;
            }
            self.come();
        }
    }

    fn come(&mut self) {
        self.later = None;
        self.came = Some(Instant::now());
    }

    /// When it came, if it had to be waited for.
    #[must_use]
    pub fn came(&self) -> Option<Instant> {
        self.came
    }
}

impl Pass {
    /// Gives the turn.
    pub fn give(self) {
        // Whoever waited may have failed meanwhile.
        let _ = self.0.send(());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_turn_comes_once_it_is_given_and_never_by_itself() {
        let (pass, mut turn) = Turn::later();
        assert!(!turn.has_come());
        let waiting = tokio::time::timeout(std::time::Duration::from_millis(5), turn.wait());
        assert!(waiting.await.is_err());
        pass.give();
        turn.wait().await;
        turn.wait().await;
        assert!(turn.has_come() && Turn::default().has_come());
        let (pass, mut turn) = Turn::later();
        drop(pass);
        assert!(!turn.has_come());
        let waiting = tokio::time::timeout(std::time::Duration::from_millis(5), turn.wait());
        assert!(waiting.await.is_err(), "the batch before it failed");
    }
}
