//! Fills the view from the store at the start, while orders arrive: newest wins, so neither can undo the other. Where
//! the view has a budget, as far as that goes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use crate::cache::View;
use crate::process::background;
use crate::process::lifecycle::{Gate, Shutdown};
use crate::store::{Store, StoreError};

/// How often progress is told.
const REPORT_EVERY: Duration = Duration::from_millis(500);
/// Reports for each line in the log.
const LOG_EVERY: u32 = 4;
const RETRY: Duration = Duration::from_secs(1);
/// How often is looked for orders whose time is up, which is counted in seconds.
const TICK: Duration = Duration::from_millis(500);
/// Between steps of letting them go: more than 100,000 orders a second.
const PAUSE: Duration = Duration::from_millis(1);
/// Orders read at once where not all are loaded: at first, and at most.
const PAGE_ROWS_FIRST: usize = 64;
const PAGE_ROWS_MAX: usize = 1000;
/// About how many bytes these may have.
const PAGE_BYTES: u64 = 4 << 20;

/// Keeps a bounded view in bounds and its table whole as time passes.
pub async fn run_evictor(view: Arc<View>, mut shutdown: Shutdown) {
    while view.is_bounded() {
        tokio::select! {
            () = shutdown.wait() => return,
            () = tokio::time::sleep(TICK) => {}
        }
        while view.shrink() {
            tokio::time::sleep(PAUSE).await; // for anyone who waits
        }
        let settling = Arc::clone(&view);
        // Not waited for: what must leave leaves in time, and a second one would help the first.
        drop(background::spawn("settle", move || settling.settle()));
    }
}

/// Fills the view from the store, then opens the gate. If all orders are loaded the view is complete from then on. A
/// store that fails is tried again until `shutdown`.
///
/// # Errors
/// [`StoreError::Damaged`], which no further try would change.
pub async fn run<T: Store>(view: Arc<View>, store: T, gate: Gate, mut shutdown: Shutdown) -> Result<(), StoreError> {
    loop {
        tokio::select! {
            () = shutdown.wait() => return Ok(()),
            is_done = warm(&view, &store, &gate) => if is_done? { return Ok(()) },
        }
        tokio::select! {
            () = shutdown.wait() => return Ok(()),
            () = tokio::time::sleep(RETRY) => {}
        }
    }
}

/// Says whether it is done.
async fn warm<T: Store>(view: &Arc<View>, store: &T, gate: &Gate) -> Result<bool, StoreError> {
    let started = Instant::now();
    let expected = store.estimate().await.unwrap_or_default();
    let loaded = Arc::new(AtomicU64::new(0));
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
    let fill = async {
        if view.is_bounded() && !newest(view, store, expected, &loaded).await? {
            return Ok(false);
        }
        all(view, store, expected, &loaded).await
    };
    let result = tokio::select! {
        result = fill => result,
        () = report => unreachable!("reports for ever"),
    };
    match result {
        Ok(is_complete) => {
            if is_complete {
                view.set_complete();
            }
            gate.open();
            let orders = loaded.load(Ordering::Relaxed);
            let seconds = started.elapsed().as_secs_f64();
            #[expect(
                clippy::cast_precision_loss,
                clippy::cast_possible_truncation,
                clippy::cast_sign_loss,
                reason = "a figure for people"
            )]
            let per_second = (orders as f64 / seconds.max(1e-9)) as u64;
            tracing::info!(orders, is_complete, seconds, per_second, "warm");
            Ok(true)
        }
        Err(error @ StoreError::Damaged(_)) => {
            gate.close("warming up: the store is damaged");
            Err(error)
        }
        Err(error) => {
            tracing::warn!(error = %crate::process::log::causes(&error), "warm-up failed, trying again");
            gate.close("warming up: the store cannot be read");
            Ok(false)
        }
    }
}

/// Loads every order. Says whether there was room for all.
async fn all<T: Store>(
    view: &Arc<View>,
    store: &T,
    expected: u64,
    loaded: &Arc<AtomicU64>,
) -> Result<bool, StoreError> {
    make_room(view, expected).await;
    loaded.store(0, Ordering::Relaxed);
    let has_room = Arc::new(AtomicBool::new(true));
    // What is changed while the scan runs must be there when the scan comes to it.
    let _held = view.hold();
    let emit = {
        let (view, loaded, has_room) = (Arc::clone(view), Arc::clone(loaded), Arc::clone(&has_room));
        move |orders: Vec<_>| {
            if view.has_room() {
                loaded.fetch_add(orders.len() as u64, Ordering::Relaxed);
                view.fill_all(orders);
                // Reads that came meanwhile first, also where the system would not take the core from this thread at once.
                std::thread::yield_now();
            } else {
                has_room.store(false, Ordering::Relaxed);
            }
        }
    };
    store.scan(emit).await?;
    Ok(has_room.load(Ordering::Relaxed))
}

/// New memory is cleared, which takes as long as it takes. Without it the map grows as it is filled.
async fn make_room(view: &Arc<View>, orders: u64) {
    let (view, orders) = (Arc::clone(view), usize::try_from(orders).unwrap_or_default());
    let _ = background::spawn("scan", move || view.reserve(orders)).await;
}

/// Loads the newest live orders that there is room for. Breaks off and says `true` when all orders would have room.
async fn newest<T: Store>(
    view: &Arc<View>,
    store: &T,
    expected: u64,
    loaded: &Arc<AtomicU64>,
) -> Result<bool, StoreError> {
    let config = view.config();
    let wanted = config.warm_max.unwrap_or(u64::MAX);
    let mut before = None;
    let mut rows = PAGE_ROWS_FIRST;
    loaded.store(0, Ordering::Relaxed);
    loop {
        let limit = rows.min(usize::try_from(wanted - loaded.load(Ordering::Relaxed)).unwrap_or(rows));
        if limit == 0 {
            return Ok(false);
        }
        let held = view.hold();
        let page = store.page(before, limit).await?;
        let bytes: u64 = page.iter().map(|(_, order)| order.resident_bytes() as u64).sum();
        let fitting = PAGE_BYTES.saturating_mul(page.len() as u64) / bytes.max(1);
        rows = usize::try_from(fitting).unwrap_or(PAGE_ROWS_MAX).clamp(1, PAGE_ROWS_MAX);
        if before.is_none() {
            let each = View::cost(1, bytes.checked_div(page.len() as u64).unwrap_or_default());
            // The rest may be larger.
            let have_room = config.bytes_max.is_none_or(|max| expected.saturating_mul(each) < max / 10 * 9);
            if have_room && config.warm_max.is_none() {
                return Ok(true);
            }
            let fit = config.bytes_max.map_or(u64::MAX, |max| max / each);
            make_room(view, expected.min(wanted).min(fit)).await;
        }
        let is_last = page.len() < limit;
        before = page.last().map(|(_, order)| order.seq());
        loaded.fetch_add(page.len() as u64, Ordering::Relaxed);
        view.fill_behind(page);
        let has_room = view.has_room();
        drop(held);
        if is_last || !has_room {
            return Ok(false);
        }
    }
}
