//! The view held against the store after that went back or was started again: a failover that lost commits, a backup that
//! was put back. Other than a warm-up this also finds what is shown and not stored.
//!
//! A copy is replaced by an older one on one proof only: it was visible before the store was asked for that order, and so
//! durable, and the store answers with less.

use std::collections::HashSet;
use std::hash::BuildHasher;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use foldhash::quality::RandomState;

use crate::cache::View;
use crate::cache::feed::Event;
use crate::id::OrderId;
use crate::process::lifecycle::Shutdown;
use crate::process::log::causes;
use crate::redis::Redis;
use crate::store::{Store, StoreError};
use crate::sync::lock;

const RETRY: Duration = Duration::from_secs(1);

/// Reloads the view whenever it is doubted, until `shutdown`.
pub(super) async fn run<T: Store>(view: Arc<View>, store: T, redis: Option<Redis>, mut shutdown: Shutdown) {
    loop {
        let reloaded = async {
            let doubt = view.doubted().await;
            if let Some(redis) = &redis {
                redis.renew_trust();
            }
            (doubt, reload(&view, &store).await)
        };
        let pause = tokio::select! {
            () = shutdown.wait() => return,
            (doubt, reloaded) = reloaded => match reloaded {
                Ok(()) => {
                    view.settle_doubt(doubt);
                    continue;
                }
                Err(error) => {
                    tracing::warn!(error = %causes(&error), "cannot hold what is shown against the store, trying again");
                    RETRY
                }
            },
        };
        tokio::select! {
            () = shutdown.wait() => return,
            () = tokio::time::sleep(pause) => {}
        }
    }
}

async fn reload<T: Store>(view: &Arc<View>, store: &T) -> Result<(), StoreError> {
    let before = view.orders_put_back();
    // Where orders leave, all are asked for one by one that have not left; else all that are not as a scan finds them.
    let suspects = if view.is_bounded() { view.ids() } else { scan(view, store).await? };
    for id in suspects {
        verify(view, store, &id).await?;
    }
    let orders = view.orders_put_back() - before;
    if orders > 0 {
        tracing::warn!(orders, "the store went back: orders that were shown are not there any more as they were");
        view.feed().reset();
    } else {
        tracing::info!("what is shown is what the store has");
    }
    Ok(())
}

/// Takes over what is newer in the store, and returns what is not.
async fn scan<T: Store>(view: &Arc<View>, store: &T) -> Result<Vec<OrderId>, StoreError> {
    let (hasher, found) = (RandomState::default(), Arc::new(Mutex::new((HashSet::new(), Vec::new()))));
    let emit = {
        let (view, hasher, found) = (Arc::clone(view), hasher.clone(), Arc::clone(&found));
        move |orders: Vec<_>| {
            let mut news = Vec::new();
            let mut found = lock(&found);
            let (hashes, suspects) = &mut *found;
            for (id, snapshot) in orders {
                let id: OrderId = id;
                hashes.insert(hasher.hash_one(&id));
                match view.peek(&id) {
                    Some(shown) if shown.says_same(&snapshot) => {}
                    Some(shown) if !snapshot.supersedes(&shown) => suspects.push(id),
                    _ => {
                        let change = snapshot.apparent_change();
                        news.push(Event::new(id, snapshot, change));
                    }
                }
            }
            drop(found);
            view.publish(news);
        }
    };
    store.scan(emit).await?;
    let (hashes, mut suspects) = std::mem::take(&mut *lock(&found));
    suspects.extend(view.ids().into_iter().filter(|id| !hashes.contains(&hasher.hash_one(id))));
    Ok(suspects)
}

/// Shows what the store has of an order.
async fn verify<T: Store>(view: &Arc<View>, store: &T, id: &OrderId) -> Result<(), StoreError> {
    let _pinned = view.pin(vec![id.clone()]);
    while let Some(seen) = view.peek(id) {
        let stored = store.fetch(id.clone()).await?;
        match &stored {
            Some(stored) if stored.says_same(&seen) => return Ok(()),
            Some(stored) if stored.supersedes(&seen) => {
                view.fill(id.clone(), stored.clone());
                return Ok(());
            }
            // What was written after the store was asked, and was no news then, is found the next time round.
            stored => drop(view.put_back(id, &seen, stored.as_ref())),
        }
    }
    // It is gone; it may have been written meanwhile.
    if let Some(stored) = store.fetch(id.clone()).await? {
        view.fill(id.clone(), stored);
    }
    Ok(())
}
