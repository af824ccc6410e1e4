//! What the service shows of its view and its store while it runs: gauges, and the gates of readiness
//! for files and rights.

use std::sync::Arc;
use std::time::Duration;

use crate::cache::{self, View};
use crate::metrics::Metrics;
use crate::process::lifecycle::{Gate, Readiness, Shutdown};
use crate::process::log;
use crate::store::any::AnyStore;
use crate::store::embedded::Harm;

pub(super) fn watch_pool(metrics: &Metrics, store: &AnyStore) {
    let read = |busy: bool| {
        let store = store.clone();
        move || {
            let used = store.pool_use().unwrap_or_default();
            f64::from(if busy { used.busy } else { used.idle })
        }
    };
    let (name, help) = ("postgres_pool_connections", "Connections to PostgreSQL.");
    metrics.gauges(name, help, "state", vec![("busy", Box::new(read(true))), ("idle", Box::new(read(false)))]);
}

/// How often is looked whether the files of the store are still there. Writes find it out by themselves.
const FILES_EVERY: Duration = Duration::from_millis(250);

/// Says on `/readyz` and in the metrics when the files of the store were taken away.
pub(super) fn watch_files(metrics: &Metrics, readiness: &Readiness, store: &AnyStore, mut shutdown: Shutdown) {
    let Some(store) = store.embedded().cloned() else { return };
    let read = |harm: Harm| {
        let store = store.clone();
        let read = move || f64::from(u8::from(store.check().is_err_and(|lost| lost.harm == harm)));
        (harm.code(), Box::new(read) as crate::metrics::ReadGauge)
    };
    let (name, help) = ("store_lost", "1 while a file of the embedded store is not there any more, by what happened.");
    metrics.gauges(name, help, "harm", Harm::ALL.map(read).into());
    let gate = readiness.gate("store", "not looked at");
    gate.open();
    tokio::spawn(async move {
        loop {
            match store.check() {
                Ok(()) => gate.open(),
                Err(lost) => gate.close(&format!("{lost}; orders are read from memory, and none is stored")),
            }
            tokio::select! {
                () = shutdown.wait() => return,
                () = tokio::time::sleep(FILES_EVERY) => {}
            }
        }
    });
}

pub(super) fn watch_view(metrics: &Metrics, view: &Arc<View>, is_shareable: bool) {
    if is_shareable {
        let replaced = Arc::clone(view);
        let help = "Orders replaced by older copies, because the store went back.";
        #[expect(clippy::cast_precision_loss, reason = "counts stay below 2^53")]
        metrics.total("store_went_back_orders_total", help, move || replaced.orders_put_back() as f64);
        let view = Arc::clone(view);
        let help = "Seconds since the store last told what others changed.";
        metrics.gauge("store_silent_seconds", help, move || view.silence().as_secs_f64());
    }
    #[expect(clippy::cast_precision_loss, reason = "sizes stay below 2^53")]
    let gauge = |name: &str, help: &str, read: fn(cache::Size) -> u64| {
        let view = Arc::clone(view);
        metrics.gauge(name, help, move || read(view.size()) as f64);
    };
    gauge("view_orders", "Live orders in the view.", |size| size.live);
    gauge("view_entries", "Entries of the view, deleted orders included.", |size| size.entries as u64);
    gauge("view_bytes", "Bytes of orders in the view.", |size| size.bytes);
    let evicted = Arc::clone(view);
    #[expect(clippy::cast_precision_loss, reason = "counts stay below 2^53")]
    metrics.total(
        "view_evicted_orders_total",
        "Orders that left the view for want of room or for their age.",
        move || evicted.size().evicted as f64,
    );
    let made = Arc::clone(view);
    #[expect(clippy::cast_precision_loss, reason = "counts stay below 2^53")]
    metrics.total("list_compressions_total", "Lists compressed.", move || made.forms_made().0 as f64);
    let made = Arc::clone(view);
    let help = "Time it took to compress lists.";
    metrics.total("list_compress_seconds_total", help, move || made.forms_made().1.as_secs_f64());
    let view = Arc::clone(view);
    metrics.gauge("view_complete", "1 when every stored order is in the view.", move || {
        f64::from(u8::from(view.is_complete()))
    });
}

/// How often the rights in the database are looked at, and how many looks a line in the log stands for.
const RIGHTS_EVERY: Duration = Duration::from_secs(2);
const RIGHTS_LOGGED_LOOKS: u32 = 30;

/// Says which rights in the database are missing, for as long as they are: writes wait for them.
pub(super) async fn watch_rights(store: AnyStore, gate: Gate, mut shutdown: Shutdown) {
    let mut looks = 0_u32;
    loop {
        match store.missing_rights().await {
            Ok(None) => {
                gate.open();
                looks = 0;
            }
            Ok(Some(missing)) => {
                gate.close(&format!("the role lacks rights in the database: {missing}"));
                if looks.is_multiple_of(RIGHTS_LOGGED_LOOKS) {
                    tracing::warn!(missing, "the role lacks rights in the database; writes wait for them");
                }
                looks = looks.wrapping_add(1);
            }
            Err(error) => tracing::debug!(error = %log::causes(&error), "cannot look for missing rights"),
        }
        tokio::select! {
            () = shutdown.wait() => return,
            () = tokio::time::sleep(RIGHTS_EVERY) => {}
        }
    }
}
