//! What the machine does to everyone on it while a service is measured: a thread on each core sleeps for a millisecond
//! at a time, and notes by how much it wakes too late (Gil Tene's jHiccup). What stops such a thread stops a service too: a
//! virtual machine whose host takes its cores away, an interrupt that takes long. A core that is only busy does not,
//! where the thread may come first.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::time::Instant;

use super::clock;
use super::timeline::Timeline;

/// How long each thread sleeps.
const SLEEP: Duration = Duration::from_millis(1);

/// The threads that watch. They end with this.
pub struct Watch {
    is_over: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Timeline>>,
}

impl Watch {
    /// Watches each core that this process may use. Moments count from `began`. Where there is no thread to be had,
    /// fewer are watched.
    #[must_use]
    pub fn start(began: Instant) -> Self {
        let is_over = Arc::new(AtomicBool::new(false));
        let watch = |core: Option<usize>| {
            let is_over = Arc::clone(&is_over);
            let thread = std::thread::Builder::new().name("load-watch".into());
            thread.spawn(move || watch(core, began, &is_over)).ok()
        };
        let threads = cores().into_iter().filter_map(watch).collect();
        Self { is_over, threads }
    }

    /// When it was stopped and for how long. Waits for a millisecond.
    #[must_use]
    pub fn end(mut self) -> Timeline {
        self.is_over.store(true, Ordering::Relaxed);
        let mut all = Timeline::default();
        for thread in self.threads.drain(..) {
            all.merge(&thread.join().unwrap_or_default());
        }
        all
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
    }
}

fn watch(core: Option<usize>, began: Instant, is_over: &AtomicBool) -> Timeline {
    clock::sleep_precisely();
    come_first(core);
    let mut stops = Timeline::default();
    let mut before = Instant::now();
    while !is_over.load(Ordering::Relaxed) {
        std::thread::sleep(SLEEP);
        let now = Instant::now();
        stops.note(now.saturating_duration_since(began), (now - before).saturating_sub(SLEEP));
        before = now;
    }
    stops
}

/// The cores this process may use; somewhere, where that is not told.
fn cores() -> Vec<Option<usize>> {
    #[cfg(target_os = "linux")]
    if let Ok(allowed) = rustix::thread::sched_getaffinity(None) {
        return (0..rustix::thread::CpuSet::MAX_CPU).filter(|&core| allowed.is_set(core)).map(Some).collect();
    }
    vec![None]
}

/// Keeps this thread on its core, before all others if that is allowed: otherwise what it waits for may be them.
fn come_first(core: Option<usize>) {
    #[cfg(target_os = "linux")]
    if let Some(core) = core {
        let mut only = rustix::thread::CpuSet::new();
        only.set(core);
        let _ = rustix::thread::sched_setaffinity(None, &only);
        let _ = rustix::process::nice(-20);
    }
    #[cfg(not(target_os = "linux"))]
    let _ = core;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_it_saw_is_given_back_and_its_threads_end() {
        let watch = Watch::start(Instant::now());
        assert!(!watch.threads.is_empty());
        let is_over = Arc::downgrade(&watch.is_over);
        std::thread::sleep(Duration::from_millis(20));
        for (stopped, at) in watch.end().worst(10) {
            assert!(stopped <= at, "{stopped:?} until {at:?}");
        }
        assert!(is_over.upgrade().is_none(), "its threads are still there");
    }
}
