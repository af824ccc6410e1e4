//! Fills the view from the store at the start, while orders arrive: newest wins, so neither can undo the other.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::cache::View;
use crate::lifecycle::{Gate, Shutdown};
use crate::store::Store;

/// How often progress is told.
const REPORT_EVERY: Duration = Duration::from_millis(500);
/// Reports for each line in the log.
const LOG_EVERY: u32 = 4;
const RETRY: Duration = Duration::from_secs(1);

/// Scans the store into the view, then declares the view complete and opens the gate. A store that fails is tried
/// again until `shutdown`.
pub async fn run<T: Store>(view: Arc<View>, store: T, gate: Gate, mut shutdown: Shutdown) {
    loop {
        tokio::select! {
            () = shutdown.wait() => return,
            is_done = scan(&view, &store, &gate) => if is_done { return },
        }
        tokio::select! {
            () = shutdown.wait() => return,
            () = tokio::time::sleep(RETRY) => {}
        }
    }
}

async fn scan<T: Store>(view: &Arc<View>, store: &T, gate: &Gate) -> bool {
    let started = Instant::now();
    let expected = store.estimate().await.unwrap_or_default();
    view.reserve(usize::try_from(expected).unwrap_or_default());
    let loaded = Arc::new(AtomicU64::new(0));
    let emit = {
        let (view, loaded) = (Arc::clone(view), Arc::clone(&loaded));
        move |orders: Vec<_>| {
            loaded.fetch_add(orders.len() as u64, Ordering::Relaxed);
            view.fill_all(orders);
        }
    };
    let report = async {
        for reports in 0_u32.. {
            let loaded = loaded.load(Ordering::Relaxed);
            gate.close(&format!("warming up: {loaded} of about {expected} orders"));
            if reports > 0 && reports.is_multiple_of(LOG_EVERY) {
                tracing::info!(loaded, expected, "warming up");
            }
            tokio::time::sleep(REPORT_EVERY).await;
        }
    };
    let result = tokio::select! {
        result = store.scan(emit) => result,
        () = report => unreachable!("reports for ever"),
    };
    match result {
        Ok(orders) => {
            view.set_complete();
            gate.open();
            let seconds = started.elapsed().as_secs_f64();
            #[expect(
                clippy::cast_precision_loss,
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "a figure for people"
            )]
            let per_second = (orders as f64 / seconds.max(1e-9)) as u64;
            tracing::info!(orders, seconds, per_second, "warm");
            true
        }
        Err(error) => {
            tracing::warn!(error = %crate::log::causes(&error), "warm-up failed, trying again");
            gate.close("warming up: the store cannot be read");
            false
        }
    }
}
