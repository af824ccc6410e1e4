//! Tells each connection of `load` when its next request is due, to within some ten microseconds. The runtime's timer
//! counts in milliseconds, which is more than most answers take, and waiting awake would take a core from the service
//! under load; a thread that sleeps on the kernel's own timer does neither.

use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::time::Duration;

use tokio::sync::Notify;
use tokio::time::Instant;

/// The thread that wakes connections. It ends with its schedule, or when this is dropped.
pub struct Clock {
    turns: Arc<[Notify]>,
    _running: mpsc::SyncSender<()>,
}

/// One connection's place in the schedule.
pub struct Turn {
    turns: Arc<[Notify]>,
    index: usize,
}

impl Clock {
    /// Starts the schedule: connection `i` is woken at `first[i]` and then `every` so long, up to `end`. `first` rises,
    /// and no two of it are further apart than `every`.
    ///
    /// # Errors
    /// When there is no thread to be had.
    pub fn start(first: Vec<Instant>, every: Duration, end: Instant) -> std::io::Result<Self> {
        let turns: Arc<[Notify]> = first.iter().map(|_| Notify::new()).collect();
        let (running, stopped) = mpsc::sync_channel(1);
        let woken = Arc::clone(&turns);
        std::thread::Builder::new().name("load-clock".into()).spawn(move || {
            sleep_precisely();
            run(first, every, end, &woken, &stopped);
        })?;
        Ok(Self { turns, _running: running })
    }

    /// The place of connection `index`.
    #[must_use]
    pub fn turn(&self, index: usize) -> Turn {
        Turn { turns: Arc::clone(&self.turns), index }
    }
}

impl Turn {
    /// Waits until `due`, which must be a moment of this connection's schedule: computed in the same steps, so that
    /// the clock never wakes it a rounding error too early and then not again.
    pub async fn wait_until(&self, due: Instant) {
        while Instant::now() < due {
            // A wake-up of the past that no one waited for ends this wait too: hence the loop.
            self.turns[self.index].notified().await;
        }
    }
}

fn run(mut due: Vec<Instant>, every: Duration, end: Instant, turns: &[Notify], stopped: &mpsc::Receiver<()>) {
    loop {
        for (due, turn) in due.iter_mut().zip(turns) {
            if *due >= end {
                return;
            }
            while let Some(ahead) = due.checked_duration_since(Instant::now()).filter(|ahead| !ahead.is_zero()) {
                if stopped.recv_timeout(ahead) == Err(RecvTimeoutError::Disconnected) {
                    return;
                }
            }
            turn.notify_one();
            *due += every;
        }
    }
}

/// Linux may let a sleeping thread lie 50 us longer, to wake several at once; not this one.
pub(super) fn sleep_precisely() {
    #[cfg(target_os = "linux")]
    {
        // Without it the schedule is a little less even, and says so: latency counts from when a request was due.
        let _ = rustix::thread::set_current_timer_slack(std::num::NonZeroU64::new(1));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn connections_are_woken_in_turn_and_never_early() {
        let start = Instant::now() + Duration::from_millis(5);
        let every = Duration::from_millis(3);
        let first = [0, 1, 2].map(|n| start + Duration::from_millis(n)).to_vec();
        let clock = Clock::start(first.clone(), every, start + Duration::from_mins(1)).unwrap();
        for (index, mut due) in first.into_iter().enumerate() {
            let turn = clock.turn(index);
            for _ in 0..20 {
                turn.wait_until(due).await;
                assert!(Instant::now() >= due);
                due += every;
            }
        }
    }

    #[tokio::test]
    async fn a_schedule_that_is_dropped_ends() {
        let start = Instant::now();
        let clock =
            Clock::start(vec![start + Duration::from_hours(1)], Duration::from_secs(1), start + Duration::MAX / 4);
        let turns = Arc::downgrade(&clock.unwrap().turns);
        while turns.upgrade().is_some() {
            assert!(start.elapsed() < Duration::from_secs(20), "the thread is still there");
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}
