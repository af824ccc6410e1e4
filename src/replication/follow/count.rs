//! How many live orders there are, where the view does not hold them all: what is committed here is added as it becomes
//! visible, and all are counted again every now and then, since not all that others change is seen here.

use std::time::Duration;

use tokio::sync::oneshot;

use crate::cache::{Paused, View};
use crate::process::lifecycle::Shutdown;
use crate::process::log::causes;
use crate::store::{Store, StoreError};

const RETRY: Duration = Duration::from_secs(1);

/// Learns how many live orders there are, where the view does not hold them all. Before the first order is taken in, and
/// for as long as it takes, until `shutdown`.
///
/// # Errors
/// [`StoreError::Damaged`].
pub async fn count<T: Store>(view: &View, store: &T, mut shutdown: Shutdown) -> Result<(), StoreError> {
    while view.is_bounded() {
        match recount(view, store, view.pause_commits().await, None).await {
            Ok(()) => break,
            Err(error @ StoreError::Damaged(_)) => return Err(error),
            Err(error) => tracing::warn!(error = %causes(&error), "cannot count orders, trying again"),
        }
        tokio::select! {
            () = shutdown.wait() => break,
            () = tokio::time::sleep(RETRY) => {}
        }
    }
    Ok(())
}

/// Counts what is stored. What is committed here waits until that has begun, and no longer than `wait`: after that
/// there is no count this time.
pub(super) async fn recount<T: Store>(
    view: &View,
    store: &T,
    paused: Paused,
    wait: Option<Duration>,
) -> Result<(), StoreError> {
    let before = view.counting();
    let (begun, mut has_begun) = oneshot::channel();
    let mut count = std::pin::pin!(store.count_live(move || {
        let _ = begun.send(()); // it may be late
    }));
    let late = async {
        match wait {
            Some(wait) => tokio::time::sleep(wait).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        biased;
        live = &mut count => return live.map(|live| view.counted(before, live)),
        _ = &mut has_begun => drop(paused), // or it failed, which it says itself
        () = late => return Err(StoreError::Unavailable("a count of the orders did not begin in time".into())),
    }
    count.await.map(|live| view.counted(before, live))
}
