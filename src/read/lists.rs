//! Keeps the ready list of newest orders in step with the view, off the read path.

use std::sync::Arc;
use std::time::Duration;

use crate::cache::View;
use crate::process::lifecycle::Shutdown;
use crate::store::Store;

/// Refreshes the list when it is out of date, at most once per `list_refresh`, until `shutdown`.
pub async fn run_list_refresher<T: Store>(view: Arc<View>, store: T, mut shutdown: Shutdown) {
    let pause = view.config().list_refresh;
    loop {
        let is_whole = fill_shortfall(&view, &store).await;
        view.refresh_list();
        tokio::select! {
            () = shutdown.wait() => return,
            () = tokio::time::sleep(if is_whole { pause } else { RETRY }) => {}
        }
        if is_whole {
            tokio::select! {
                () = shutdown.wait() => return,
                () = view.list_changed() => {}
            }
        }
    }
}

/// How long to wait before a store that failed is asked again.
const RETRY: Duration = Duration::from_millis(500);

/// Asks the store for what the list lacks. Says whether the list is whole.
async fn fill_shortfall<T: Store>(view: &Arc<View>, store: &T) -> bool {
    while let Some(asked) = view.list_shortfall() {
        // What is changed meanwhile must still be there to be looked at.
        let _held = view.hold();
        match store.page(asked.before, asked.limit).await {
            Ok(page) => view.admit_to_list(asked, page),
            Err(error) => {
                tracing::warn!(%error, "cannot read the newest orders");
                return false;
            }
        }
    }
    true
}
