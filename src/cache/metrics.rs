//! What the view shows on `/metrics`.

use std::sync::Arc;

use super::{Size, View};
use crate::metrics::Metrics;

impl View {
    /// Registers how much it holds, what left it, and the lists that were compressed: once in a
    /// process that has a view, and in no other.
    #[expect(clippy::cast_precision_loss, reason = "counts and sizes stay below 2^53")]
    pub fn register(self: &Arc<Self>, metrics: &Metrics) {
        let gauge = |name: &str, help: &str, read: fn(Size) -> u64| {
            let view = Arc::clone(self);
            metrics.pulled_gauge(name, help, move || read(view.size()) as f64);
        };
        gauge("view_orders", "Live orders in the view.", |size| size.live);
        gauge("view_entries", "Entries of the view, deleted orders included.", |size| size.entries as u64);
        gauge("view_bytes", "Bytes of orders in the view.", |size| size.bytes);
        let counter = |name: &str, help: &str, read: fn(&Self) -> f64| {
            let view = Arc::clone(self);
            metrics.pulled_counter(name, help, move || read(&view));
        };
        let help = "Orders that left the view for want of room or for their age.";
        counter("view_evicted_orders_total", help, |view| view.size().evicted as f64);
        counter("list_compressions_total", "Lists compressed.", |view| view.forms_made().0 as f64);
        counter("list_compress_seconds_total", "Time it took to compress lists.", |view| {
            view.forms_made().1.as_secs_f64()
        });
        let view = Arc::clone(self);
        metrics.pulled_gauge("view_complete", "1 when every stored order is in the view.", move || {
            f64::from(u8::from(view.is_complete()))
        });
    }
}
