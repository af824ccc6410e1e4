//! Workers of the older services behind this API: they keep what they made of an order in a
//! database of their own and say no more than that they are done. What they acknowledge is marked
//! as done in the store here.
//!
//! Every instance hears every acknowledgement. The one whose client waits marks at once, the others
//! after it, and only where it has not: each mark is conditional on the version that was looked at,
//! so an order is marked once, and a write that came meanwhile is left alone.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::cache::View;
use crate::id::{OrderId, Version};
use crate::order::message;
use crate::record::{Condition, Expected};
use crate::snapshot::{Kind, State};
use crate::source::inbox::{Inbox, Reply, Request};
use crate::source::waiters::Acks;
use crate::store::Store;
use crate::store::any::AnyStore;

/// Acknowledgements under way. Beyond it the topic is not read on.
const UNDER_WAY_MAX: usize = 1024;
/// What an instance whose client waits has for its mark before the others look.
const OTHERS_FIRST: Duration = Duration::from_secs(2);
/// Tries at a store that does not answer, and the time between two.
const TRIES: u32 = 30;
const PAUSE: Duration = Duration::from_secs(1);

/// Marks what workers of the older services acknowledge. Clones share the limit.
#[derive(Clone)]
pub(super) struct OlderWorkers {
    store: AnyStore,
    view: Arc<View>,
    inbox: Inbox,
    acks: Acks,
    runtime: Handle,
    under_way: Arc<Semaphore>,
}

impl OlderWorkers {
    /// Marks through `inbox`, on the runtime of the caller, and then tells those who wait in
    /// `acks`.
    pub(super) fn new(store: AnyStore, view: Arc<View>, inbox: Inbox, acks: Acks) -> Self {
        let under_way = Arc::new(Semaphore::new(UNDER_WAY_MAX));
        Self { store, view, inbox, acks, runtime: Handle::current(), under_way }
    }

    /// An order was worked on. Blocks while too many are under way; not to be called on a runtime's
    /// thread.
    pub(super) fn acknowledged(&self, id: OrderId) {
        let permit = self.runtime.block_on(Arc::clone(&self.under_way).acquire_owned());
        let permit = permit.expect("never closed");
        self.runtime.spawn(self.clone().mark(id, permit));
    }

    async fn mark(self, id: OrderId, _permit: OwnedSemaphorePermit) {
        if !self.acks.awaits(&id) {
            tokio::time::sleep(OTHERS_FIRST).await;
        }
        let version = self.try_mark(&id).await;
        self.acks.arrived(&id, None, version);
    }

    /// The version that came of the mark. `None` where nothing was to be marked, or something newer
    /// was written.
    async fn try_mark(&self, id: &OrderId) -> Option<Version> {
        let snapshot = match self.view.peek(id) {
            Some(snapshot) => snapshot,
            None => self.fetch(id).await?,
        };
        if (snapshot.kind(), snapshot.state()) != (Kind::Envelope, State::Live) {
            return None;
        }
        let payload = Bytes::from(message::done(id, &snapshot.flat().whole())?);
        let condition = Some(Condition::OneOf(vec![Expected { id: None, version: snapshot.version() }]));
        let request = Request { payload, idempotency: None, condition, owner: None };
        match self.inbox.submit_when_free(request).await.ok()?.await.ok()? {
            Reply::Stored { version, .. } => Some(version),
            Reply::WasDeleted { .. } | Reply::Refused { .. } | Reply::Rejected(_) | Reply::StoreLost => None,
        }
    }

    async fn fetch(&self, id: &OrderId) -> Option<crate::snapshot::Snapshot> {
        for _ in 0..TRIES {
            match self.store.fetch(id.clone()).await {
                Ok(found) => return found,
                Err(error) => {
                    tracing::debug!(error = %crate::process::log::causes(&error), "cannot look at what a worker acknowledged");
                }
            }
            tokio::time::sleep(PAUSE).await;
        }
        tracing::warn!(order = %id, "the store did not answer: an acknowledged order is not marked as done");
        None
    }
}
