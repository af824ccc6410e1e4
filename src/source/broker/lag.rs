//! How far behind a consumer may be for the service to be ready.

use crate::process::lifecycle::Gate;

/// Opens the gate while no more messages than this are not durable yet.
pub(in crate::source) fn judge_lag(gate: &Gate, lag: u64, lag_max: u64) {
    if lag <= lag_max {
        gate.open();
    } else {
        gate.close(&format!("{lag} messages behind"));
    }
}
