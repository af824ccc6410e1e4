//! What the machine does to everyone on it while a service is measured: a thread on each core sleeps for a millisecond
//! at a time, and notes by how much it wakes too late (Gil Tene's jHiccup). What stops such a thread stops a service too: a
//! virtual machine whose host takes its cores away, an interrupt that takes long. A core that is only busy does not,
//! as the thread comes first. Where that is not allowed nothing is told: it would wait for the service, too.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use tokio::time::Instant;

use super::clock;
use super::timeline::Timeline;

/// How long each thread sleeps.
const SLEEP: Duration = Duration::from_millis(1);
/// To wake up this much too late is nothing out of the ordinary.
const NOTED: Duration = Duration::from_micros(250);

/// From when until when something stopped.
type Stop = (Duration, Duration);

/// The threads that watch. They end with this.
pub struct Watch {
    is_over: Arc<AtomicBool>,
    threads: Vec<JoinHandle<Option<Vec<Stop>>>>,
}

/// When the machine stopped, one core of it or more: apart from each other, in order.
#[derive(Debug, PartialEq, Eq)]
pub struct Stops(Vec<Stop>);

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

    /// What was seen, if these threads may come before all others. Waits for a millisecond.
    #[must_use]
    pub fn end(mut self) -> Option<Stops> {
        self.is_over.store(true, Ordering::Relaxed);
        let seen: Option<Vec<_>> = self.threads.drain(..).map(|thread| thread.join().unwrap_or_default()).collect();
        seen.filter(|seen| !seen.is_empty()).map(|seen| Stops::of(seen.concat()))
    }
}

impl Stops {
    fn of(mut all: Vec<Stop>) -> Self {
        all.sort_unstable();
        let mut apart: Vec<Stop> = Vec::with_capacity(all.len());
        for (from, until) in all {
            match apart.last_mut() {
                Some(last) if from <= last.1 => last.1 = last.1.max(until),
                _ => apart.push((from, until)),
            }
        }
        Self(apart)
    }

    /// For how long it stopped between two moments.
    #[must_use]
    pub fn within(&self, from: Duration, until: Duration) -> Duration {
        let first = self.0.partition_point(|stop| stop.1 <= from);
        let there = self.0[first..].iter().take_while(|stop| stop.0 < until);
        there.map(|stop| stop.1.min(until).saturating_sub(stop.0.max(from))).sum()
    }

    /// When the longest of them ended.
    #[must_use]
    pub fn timeline(&self) -> Timeline {
        let mut timeline = Timeline::default();
        for &(from, until) in &self.0 {
            timeline.note(until, until.saturating_sub(from));
        }
        timeline
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Relaxed);
    }
}

fn watch(core: Option<usize>, began: Instant, is_over: &AtomicBool) -> Option<Vec<Stop>> {
    clock::sleep_precisely();
    if !comes_first(core) {
        return None;
    }
    let mut stops = Vec::new();
    let mut before = Instant::now();
    while !is_over.load(Ordering::Relaxed) {
        std::thread::sleep(SLEEP);
        let now = Instant::now();
        let late = (now - before).saturating_sub(SLEEP);
        if late >= NOTED {
            let until = now.saturating_duration_since(began);
            stops.push((until.saturating_sub(late), until));
        }
        before = now;
    }
    Some(stops)
}

/// The cores this process may use; somewhere, where that is not told.
fn cores() -> Vec<Option<usize>> {
    #[cfg(target_os = "linux")]
    if let Ok(allowed) = rustix::thread::sched_getaffinity(None) {
        return (0..rustix::thread::CpuSet::MAX_CPU).filter(|&core| allowed.is_set(core)).map(Some).collect();
    }
    vec![None]
}

/// Keeps this thread on its core, before all others. Says whether that is allowed.
fn comes_first(core: Option<usize>) -> bool {
    #[cfg(target_os = "linux")]
    if let Some(core) = core {
        let mut only = rustix::thread::CpuSet::new();
        only.set(core);
        return rustix::thread::sched_setaffinity(None, &only).is_ok() && rustix::process::nice(-20).is_ok();
    }
    let _ = core;
    false
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
        for (from, until) in watch.end().map_or_else(Vec::new, |stops| stops.0) {
            assert!(from <= until, "{from:?} until {until:?}");
        }
        assert!(is_over.upgrade().is_none(), "its threads are still there");
    }
    #[test]
    fn what_cores_saw_is_put_together_and_cut_to_what_is_asked_for() {
        let ms = Duration::from_millis;
        let stops = Stops::of(vec![(ms(20), ms(25)), (ms(1), ms(4)), (ms(3), ms(9)), (ms(2), ms(3))]);
        assert_eq!(stops, Stops(vec![(ms(1), ms(9)), (ms(20), ms(25))]));
        for (from, until, expected) in [(0, 30, 13), (0, 1, 0), (5, 22, 6), (9, 20, 0), (21, 23, 2), (25, 99, 0)] {
            assert_eq!(stops.within(ms(from), ms(until)), ms(expected), "{from} to {until}");
        }
        assert_eq!(stops.timeline().text(5, ""), "8.0 ms at 0.01 s");
    }
}
