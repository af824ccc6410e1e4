//! Tries at a server that may be unavailable: the pauses between them, and what is told of them.

use std::fmt::Display;
use std::time::{Duration, Instant};

/// Between two tries of a consumer.
pub(in crate::source) const PAUSE_FIRST: Duration = Duration::from_millis(100);
const PAUSE_MAX: Duration = Duration::from_secs(2);
/// The same trouble is told this often.
const WARN_EVERY: Duration = Duration::from_secs(10);
/// How long acknowledgements may take to be handed to the connection.
pub(in crate::source) const ACK_TIME: Duration = Duration::from_secs(2);

/// The pauses between tries: each twice as long as the one before, up to the longest.
#[derive(Debug)]
pub(in crate::source) struct Pauses {
    first: Duration,
    max: Duration,
    next: Duration,
}

impl Pauses {
    pub(in crate::source) const fn new(first: Duration, max: Duration) -> Self {
        Self { first, max, next: first }
    }

    /// Those of a consumer.
    pub(in crate::source) const fn of_consumer() -> Self {
        Self::new(PAUSE_FIRST, PAUSE_MAX)
    }

    /// The next pause.
    pub(in crate::source) fn pause(&mut self) -> Duration {
        let pause = self.next;
        self.next = (pause * 2).min(self.max);
        pause
    }

    /// The next pause, or up to half of it less: not all come back at once.
    pub(in crate::source) fn jittered(&mut self) -> Duration {
        self.pause().mul_f64(0.5 + fastrand::f64() / 2.0)
    }

    /// Begins with the first pause again if the try that has just failed had gone well for long.
    /// Says whether it had.
    pub(in crate::source) fn has_lasted(&mut self, begun: Instant) -> bool {
        let has_lasted = begun.elapsed() > self.max * 2;
        if has_lasted {
            self.next = self.first;
        }
        has_lasted
    }
}

/// About this long: what waits for the same thing is not to come at once.
pub(in crate::source) fn about(pause: Duration) -> Duration {
    pause.mul_f64(0.8 + fastrand::f64() * 0.4)
}

/// What was told last, and when.
#[derive(Debug, Default)]
pub(in crate::source) struct LastWarning(Option<(Instant, String)>);

impl LastWarning {
    /// Whether this is to be told: it is another trouble than the last, or that was told long ago.
    pub(in crate::source) fn is_news(&mut self, trouble: &str) -> bool {
        let is_news = self.0.as_ref().is_none_or(|(at, told)| told != trouble || at.elapsed() >= WARN_EVERY);
        if is_news {
            self.0 = Some((Instant::now(), trouble.to_owned()));
        }
        is_news
    }
}

/// Sends acknowledgements, for a moment at most. What does not get through is delivered again.
pub(in crate::source) async fn acknowledge<E: Display>(sending: impl Future<Output = Result<(), E>>) {
    match tokio::time::timeout(ACK_TIME, sending).await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::debug!(%error, "not acknowledged"),
        Err(_) => tracing::debug!(after = ?ACK_TIME, "not acknowledged"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_longest_and_begin_again_after_a_try_that_lasted() {
        let seconds = Duration::from_secs;
        let mut pauses = Pauses::new(seconds(1), seconds(5));
        assert_eq!([(); 5].map(|()| pauses.pause()), [1, 2, 4, 5, 5].map(seconds));
        assert!(!pauses.has_lasted(Instant::now()));
        assert_eq!(pauses.pause(), seconds(5));
        let Some(long_ago) = Instant::now().checked_sub(seconds(11)) else { return };
        assert!(pauses.has_lasted(long_ago));
        let pause = pauses.jittered();
        assert!(pause >= seconds(1) / 2 && pause <= seconds(1), "{pause:?}");
    }

    #[test]
    fn the_same_trouble_is_told_once_in_a_while() {
        let mut last = LastWarning::default();
        assert!(last.is_news("a"));
        assert!(!last.is_news("a"));
        assert!(last.is_news("b"));
        let LastWarning(Some((at, _))) = &mut last else { panic!("told") };
        let Some(long_ago) = at.checked_sub(WARN_EVERY) else { return };
        *at = long_ago;
        assert!(last.is_news("b"));
    }
}
