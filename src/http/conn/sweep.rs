//! The sweep over all connections: which of them have taken too long, which have nothing left to do
//! at a stop, and which make room for others.

use std::sync::atomic::Ordering;
use std::time::Duration;

use super::{BUSY, CLOSING, FRESH, HEAD, IDLE, LINGER_TIME, Registry, SWEEP_EVERY};
use crate::sync::lock;

/// Why connections were closed by a sweep.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Closed {
    /// Headers took too long.
    pub header: u64,
    /// No request came.
    pub idle: u64,
    /// The client did not read.
    pub write: u64,
    /// Idle, and another client wanted in.
    pub evicted: u64,
}

impl Registry {
    /// Sweeps until dropped; `report` is told what each sweep closed.
    pub async fn sweep_for_ever(&self, mut report: impl FnMut(Closed)) {
        let mut every = tokio::time::interval(SWEEP_EVERY);
        // After a stop of the machine, sweeps made up for would age connections that nothing was
        // wrong with.
        every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = every.tick() => { self.now.fetch_add(1, Ordering::Relaxed); }
                () = self.sweep_now.notified() => {}
            }
            report(self.sweep());
        }
    }

    fn sweep(&self) -> Closed {
        let mut closed = Closed::default();
        let (is_stopping, is_full) = (self.is_stopping(), self.waiting.load(Ordering::Relaxed) > 0);
        let is_over = |since: u32, limit: Duration| self.is_over(since, limit);
        let mut idle = Vec::new();
        let slots = lock(&self.connections);
        for conn in slots.used.iter().flatten() {
            let since = conn.since.load(Ordering::Relaxed);
            let phase = conn.phase.load(Ordering::Relaxed);
            let count = match phase {
                HEAD | FRESH if is_over(since, self.limits.header_time) => &mut closed.header,
                _ if is_over(conn.blocked_since.load(Ordering::Relaxed), self.limits.write_time) => &mut closed.write,
                _ if conn.is_held_up() && is_over(conn.went_on_at(), self.limits.write_time) => &mut closed.write,
                _ if conn.is_blocked() => continue,
                BUSY if is_stopping && conn.is_multiplexed() => {
                    // It takes no more requests, and ends with the last answer.
                    conn.dismiss();
                    continue;
                }
                CLOSING => {
                    let most = if is_stopping { LINGER_TIME } else { self.limits.write_time };
                    let is_long = is_over(conn.closing_since.load(Ordering::Relaxed), most);
                    if is_full || is_long || is_over(since, LINGER_TIME) {
                        conn.close();
                    }
                    continue;
                }
                // It was told to close, and something of an answer is left that finds no room.
                IDLE if conn.is_left_over(if is_stopping { LINGER_TIME } else { self.limits.write_time }) => {
                    conn.close();
                    continue;
                }
                IDLE | FRESH
                    if is_stopping || (phase == IDLE && is_over(conn.quiet_since(), self.limits.idle_time)) =>
                {
                    closed.idle += u64::from(conn.dismiss());
                    continue;
                }
                IDLE => {
                    idle.push((since, conn));
                    continue;
                }
                _ => continue,
            };
            *count += 1;
            conn.close();
        }
        if is_full && closed == Closed::default() {
            idle.sort_unstable_by_key(|(since, _)| *since);
            for (_, conn) in idle.iter().take(slots.used.len().div_ceil(100)) {
                closed.evicted += u64::from(conn.dismiss());
            }
        }
        closed
    }
}
