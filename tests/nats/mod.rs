//! Orders from a real NATS JetStream: the source, the dead letters and the ingest loop as one running service. Each
//! test has a subject, streams and a durable of its own.

mod crash;
mod faults;
mod ledger;
mod messages;
mod standby;
mod start;
mod subject;
mod tool;

use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::Duration;

/// The longest anything may take to come right after a fault.
const RECOVERY: Duration = Duration::from_mins(1);

/// The heavy tests take turns: each keeps the machine busy by itself.
fn in_turn() -> MutexGuard<'static, ()> {
    static TURN: Mutex<()> = Mutex::new(());
    TURN.lock().unwrap_or_else(PoisonError::into_inner)
}
