//! Orders from a real Kafka: the source, the dead letters and the ingest loop as one running service. Each test has
//! topics and a group of its own.

mod crash;
mod faults;
mod ledger;
mod letters;
mod messages;
mod outbox;
mod rebalance;
mod stall;
mod start;
pub mod topic;
mod work;

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// The longest anything may take to come right after a fault.
const RECOVERY: Duration = Duration::from_mins(1);

/// The heavy tests take turns: each keeps the machine busy by itself.
fn in_turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}
