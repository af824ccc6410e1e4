//! What following a shared store shows on `/metrics`.

use std::sync::Arc;

use crate::cache::View;
use crate::metrics::Metrics;

/// Registers since when the store told nothing, and what it went back by: once in a process whose
/// store others may write to, and in no other.
#[expect(clippy::cast_precision_loss, reason = "counts stay below 2^53")]
pub fn register(view: &Arc<View>, metrics: &Metrics) {
    let replaced = Arc::clone(view);
    let help = "Orders replaced by older copies, because the store went back.";
    metrics.pulled_counter("store_went_back_orders_total", help, move || replaced.orders_put_back() as f64);
    let view = Arc::clone(view);
    let help = "Seconds since the store last told what others changed.";
    metrics.pulled_gauge("store_silent_seconds", help, move || view.silence().as_secs_f64());
}
