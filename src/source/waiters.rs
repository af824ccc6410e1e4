//! Who waits for a worker: each by the order and the version it was written as. Knows nothing of how
//! acknowledgements travel.

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use foldhash::fast::RandomState;
use tokio::sync::oneshot;

use crate::id::{OrderId, Version};
use crate::sync::lock;

/// Those who wait. Clones share them.
#[derive(Clone)]
pub struct Acks(Arc<Inner>);

struct Inner {
    is_on: AtomicBool,
    waiters_max: usize,
    count: AtomicUsize,
    /// By order, in no particular order.
    waiting: Mutex<HashMap<OrderId, Vec<Waiting>, RandomState>>,
}

struct Waiting {
    version: Version,
    told: oneshot::Sender<Option<Version>>,
}

impl Acks {
    /// No one waits yet, and no one will before [`Acks::turn_on`]. More than `waiters_max` are not kept.
    #[must_use]
    pub fn new(waiters_max: usize) -> Self {
        Self(Arc::new(Inner {
            is_on: AtomicBool::new(false),
            waiters_max,
            count: AtomicUsize::new(0),
            waiting: Mutex::default(),
        }))
    }

    /// From here on there is a worker to wait for.
    pub fn turn_on(&self) {
        self.0.is_on.store(true, Ordering::Release);
    }

    /// Whether there is a worker.
    #[must_use]
    pub fn is_on(&self) -> bool {
        self.0.is_on.load(Ordering::Acquire)
    }

    /// How many wait.
    #[must_use]
    pub fn len(&self) -> usize {
        self.0.count.load(Ordering::Relaxed)
    }

    /// Whether no one waits.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Begins to wait. To be called before the worker can hear of this version. `None` when there is no worker or no
    /// room.
    #[must_use]
    pub fn expect(&self, id: &OrderId, version: Version) -> Option<Waiter> {
        if !self.is_on() || self.len() >= self.0.waiters_max {
            return None;
        }
        let (told, news) = oneshot::channel();
        self.0.count.fetch_add(1, Ordering::Relaxed);
        let mut waiting = lock(&self.0.waiting);
        waiting.entry(id.clone()).or_default().push(Waiting { version, told });
        Some(Waiter { acks: self.clone(), id: id.clone(), news })
    }

    /// The worker is done with `version` of an order, and so with those before it; with all that wait when it does not
    /// say. `now` is the version that came of it, where it says so.
    pub fn arrived(&self, id: &OrderId, version: Option<Version>, now: Option<Version>) {
        let mut waiting = lock(&self.0.waiting);
        let Some(all) = waiting.get_mut(id) else { return };
        let is_met = |one: &mut Waiting| version.is_none_or(|version| one.version <= version);
        for met in all.extract_if(.., is_met) {
            // Anyone who waited may have given up a moment ago.
            let _ = met.told.send(now);
        }
        if all.is_empty() {
            waiting.remove(id);
        }
    }

    /// Whether a write of this order waits.
    #[must_use]
    pub fn awaits(&self, id: &OrderId) -> bool {
        lock(&self.0.waiting).contains_key(id)
    }

    fn forget_given_up(&self, id: &OrderId) {
        let mut waiting = lock(&self.0.waiting);
        if let Some(all) = waiting.get_mut(id) {
            all.retain(|one| !one.told.is_closed());
            if all.is_empty() {
                waiting.remove(id);
            }
        }
    }
}

/// One who waits, until it is dropped.
#[derive(Debug)]
pub struct Waiter {
    acks: Acks,
    id: OrderId,
    news: oneshot::Receiver<Option<Version>>,
}

impl std::fmt::Debug for Acks {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Acks").field("is_on", &self.is_on()).field("waiting", &self.len()).finish()
    }
}

/// What a worker made of an order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Worked {
    /// The version that came of it, where the worker said so.
    pub version: Option<Version>,
}

impl Waiter {
    /// Waits for at most `time`. `None` when the worker has not said anything by then.
    pub async fn wait(mut self, time: Duration) -> Option<Worked> {
        let version = tokio::time::timeout(time, &mut self.news).await.ok()?.ok()?;
        Some(Worked { version })
    }
}

impl Drop for Waiter {
    fn drop(&mut self) {
        self.news.close();
        self.acks.0.count.fetch_sub(1, Ordering::Relaxed);
        self.acks.forget_given_up(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id() -> OrderId {
        OrderId::parse(b"a").unwrap()
    }

    const LONG: Duration = Duration::from_secs(30);

    #[tokio::test]
    async fn everybody_up_to_the_version_is_told_and_no_one_else() {
        let acks = Acks::new(10);
        assert!(acks.expect(&id(), 1).is_none(), "no worker");
        acks.turn_on();
        let [first, again, later] = [1, 1, 3].map(|version| acks.expect(&id(), version).unwrap());
        acks.arrived(&id(), Some(2), Some(5));
        let worked = Some(Worked { version: Some(5) });
        assert_eq!((first.wait(LONG).await, again.wait(LONG).await), (worked, worked));
        assert_eq!(acks.len(), 1);
        assert_eq!(later.wait(Duration::from_millis(1)).await, None);
        assert!(acks.is_empty() && acks.0.waiting.lock().unwrap().is_empty());
        let any = acks.expect(&id(), 9).unwrap();
        acks.arrived(&id(), None, None);
        assert_eq!(any.wait(LONG).await, Some(Worked { version: None }));
    }

    #[tokio::test]
    async fn there_is_no_room_for_more_than_the_limit() {
        let acks = Acks::new(2);
        acks.turn_on();
        let both = [acks.expect(&id(), 1).unwrap(), acks.expect(&id(), 1).unwrap()];
        assert!(acks.expect(&id(), 1).is_none());
        drop(both);
        assert!(acks.expect(&id(), 1).is_some());
    }
}
