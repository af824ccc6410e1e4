//! Keeps the view true where other instances write to the same store: what they change is read from it within moments.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::oneshot;

use crate::cache::View;
use crate::cache::feed::Event;
use crate::lifecycle::Shutdown;
use crate::store::Store;

/// How often the store is asked. An order changed elsewhere is shown this much later, far within the second that a
/// copy may be kept.
const EVERY: Duration = Duration::from_millis(200);

/// Follows until `shutdown`. While others write, the view counts as a part of what is stored, so that an unknown id is
/// looked up in the store.
///
/// `begun` is told once everything from here on will be seen, and once the others can be sure to know of this process:
/// only then may it scan the store and write to it.
pub async fn run<T: Store>(view: Arc<View>, store: T, begun: oneshot::Sender<()>, mut shutdown: Shutdown) {
    let mut begun = Some(begun);
    let mut was_shared = false;
    let mut is_failing = false;
    loop {
        let emit = {
            let view = Arc::clone(&view);
            move |orders: Vec<_>| {
                let news = orders.into_iter().filter(|(id, snapshot)| view.is_news(id, snapshot));
                let news = news.map(|(id, snapshot)| Event { id, change: snapshot.apparent_change(), snapshot });
                view.publish(news.collect());
            }
        };
        let looked = tokio::select! {
            () = shutdown.wait() => return,
            looked = store.changes(emit) => looked,
        };
        match looked {
            Ok(changes) => {
                if changes.is_shared != was_shared {
                    tracing::info!(others = changes.is_shared, "instances on the same store");
                }
                was_shared = changes.is_shared;
                is_failing = false;
                view.set_shared(was_shared);
                if let Some(begun) = begun.take() {
                    if was_shared {
                        // They look this often, so by then they have seen that they are not alone.
                        tokio::time::sleep(2 * EVERY).await;
                    }
                    let _ = begun.send(());
                    if !store.is_shareable() {
                        return;
                    }
                }
            }
            Err(error) => {
                if !std::mem::replace(&mut is_failing, true) {
                    tracing::warn!(error = %crate::log::causes(&error), "cannot ask the store what others changed");
                }
                view.set_shared(true); // nobody knows
            }
        }
        tokio::select! {
            () = shutdown.wait() => return,
            () = tokio::time::sleep(EVERY) => {}
        }
    }
}
