//! Single flight: however many ask for one id at once, the store is asked once. The load is a task
//! of its own, because a caller's future is dropped when its client hangs up.

use std::collections::HashMap;
use std::sync::{Arc, Mutex};

use tokio::runtime::Handle;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, timeout_at};

use super::ReadError;
use crate::id::OrderId;
use crate::snapshot::Snapshot;
use crate::sync::lock;

type Loaded = Result<Option<Snapshot>, ReadError>;

/// Pages of streams read at once. Half of the connections that either store reads with are left to
/// loads.
const PAGES_MAX: usize = 2;

/// Loads under way.
#[derive(Clone)]
pub struct Flight {
    loads: Arc<Mutex<HashMap<OrderId, watch::Receiver<Option<Loaded>>>>>,
    permits: Arc<Semaphore>,
    page_permits: Arc<Semaphore>,
    runtime: Option<Handle>,
}

impl Flight {
    /// At most `loads_max` loads at once, in the runtime of anyone who asks.
    #[must_use]
    pub fn new(loads_max: usize) -> Self {
        let [permits, page_permits] = [loads_max, PAGES_MAX].map(|count| Arc::new(Semaphore::new(count)));
        Self { loads: Arc::default(), permits, page_permits, runtime: None }
    }

    /// Loads in this runtime instead.
    #[must_use]
    pub fn with_runtime(self, runtime: Handle) -> Self {
        Self { runtime: Some(runtime), ..self }
    }

    /// Starts a task where loads run. It goes on if no one waits for it any more.
    pub fn spawn<R: Send + 'static>(&self, task: impl Future<Output = R> + Send + 'static) -> JoinHandle<R> {
        match &self.runtime {
            Some(runtime) => runtime.spawn(task),
            None => tokio::spawn(task),
        }
    }

    /// A permit to load from the store, first come, first served. Cancel-safe.
    ///
    /// # Errors
    /// [`ReadError::Busy`] when none is free before `end`.
    pub async fn acquire_permit(&self, end: Instant) -> Result<OwnedSemaphorePermit, ReadError> {
        permit_of(&self.permits, end).await
    }

    /// A permit for a page of a stream. There may be many streams, and they may wait for long.
    ///
    /// # Errors
    /// [`ReadError::Busy`] when none is free before `end`.
    pub async fn acquire_page_permit(&self, end: Instant) -> Result<OwnedSemaphorePermit, ReadError> {
        permit_of(&self.page_permits, end).await
    }

    /// Waits for the load of `id` until `end`, starting it with `load` if there is none.
    /// Cancel-safe.
    ///
    /// `answer` turns what was loaded into the answer for all who wait. It is called once no caller
    /// can join this load any more: a later caller, which may know of something newer, gets the
    /// result of a later load.
    ///
    /// # Errors
    /// Whatever the load said, [`ReadError::Busy`] or [`ReadError::Slow`].
    pub async fn join<R, F>(
        &self,
        id: &OrderId,
        end: Instant,
        load: impl FnOnce() -> F,
        answer: impl FnOnce(R) -> Loaded + Send + 'static,
    ) -> Loaded
    where
        R: Send + 'static,
        F: Future<Output = R> + Send + 'static,
    {
        let running = self.running(id);
        let mut result = match running {
            Some(running) => running,
            None => self.start(id, self.acquire_permit(end).await?, load, answer),
        };
        match timeout_at(end, result.wait_for(Option::is_some)).await {
            Ok(Ok(loaded)) => loaded.clone().expect("waited for"),
            Ok(Err(_)) | Err(_) => Err(ReadError::Slow), // the load panicked, or takes longer
        }
    }

    fn running(&self, id: &OrderId) -> Option<watch::Receiver<Option<Loaded>>> {
        lock(&self.loads).get(id).cloned()
    }

    fn start<R, F>(
        &self,
        id: &OrderId,
        permit: OwnedSemaphorePermit,
        load: impl FnOnce() -> F,
        answer: impl FnOnce(R) -> Loaded + Send + 'static,
    ) -> watch::Receiver<Option<Loaded>>
    where
        R: Send + 'static,
        F: Future<Output = R> + Send + 'static,
    {
        let mut loads = lock(&self.loads);
        if let Some(running) = loads.get(id) {
            return running.clone(); // started while this one waited for its turn
        }
        let (sender, receiver) = watch::channel(None);
        loads.insert(id.clone(), receiver.clone());
        let guard = LoadGuard { flight: self.clone(), id: id.clone(), _permit: permit };
        let load = load();
        self.spawn(async move {
            let loaded = load.await;
            drop(guard);
            sender.send_replace(Some(answer(loaded)));
        });
        receiver
    }
}

async fn permit_of(permits: &Arc<Semaphore>, end: Instant) -> Result<OwnedSemaphorePermit, ReadError> {
    let permit = timeout_at(end, Arc::clone(permits).acquire_owned()).await.map_err(|_| ReadError::Busy)?;
    Ok(permit.expect("never closed"))
}

/// Ends a load whatever happens to its task.
struct LoadGuard {
    flight: Flight,
    id: OrderId,
    _permit: OwnedSemaphorePermit,
}

impl Drop for LoadGuard {
    fn drop(&mut self) {
        lock(&self.flight.loads).remove(&self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::convert::identity;
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Duration;

    fn id() -> OrderId {
        OrderId::parse(b"a").unwrap()
    }

    /// Longer than any of these takes.
    fn end() -> Instant {
        Instant::now() + Duration::from_mins(1)
    }

    #[tokio::test]
    async fn many_callers_are_one_load_even_when_the_first_hangs_up() {
        let flight = Flight::new(1);
        let loads = Arc::new(AtomicUsize::new(0));
        let (release, hold) = watch::channel(false);
        let join = || {
            let (flight, loads, mut hold) = (flight.clone(), Arc::clone(&loads), hold.clone());
            tokio::spawn(async move {
                let load = || async move {
                    loads.fetch_add(1, Ordering::Relaxed);
                    let _ = hold.wait_for(|released| *released).await;
                    Ok(None)
                };
                flight.join(&id(), end(), load, identity).await
            })
        };
        let first = join();
        tokio::task::yield_now().await;
        let others: Vec<_> = (0..50).map(|_| join()).collect();
        tokio::task::yield_now().await;
        first.abort();
        release.send_replace(true);
        for other in others {
            assert!(matches!(other.await.unwrap(), Ok(None)));
        }
        assert_eq!(loads.load(Ordering::Relaxed), 1);
        assert!(flight.acquire_permit(end()).await.is_ok(), "the turn is given back");
    }

    #[tokio::test(start_paused = true)]
    async fn who_has_no_turn_waits_for_it_and_streams_keep_no_load_waiting() {
        // A read beyond the limit was refused at once, whatever it was a part of.
        let flight = Flight::new(1);
        let pages: Vec<_> = [flight.acquire_page_permit(end()).await, flight.acquire_page_permit(end()).await].into();
        assert!(matches!(flight.acquire_page_permit(end()).await, Err(ReadError::Busy)));
        let held = flight.acquire_permit(end()).await.unwrap();
        let refused = flight.join(&id(), end(), || async { Ok(None) }, identity).await;
        assert!(matches!(refused, Err(ReadError::Busy)), "in time it is told");
        let waiting = tokio::spawn({
            let flight = flight.clone();
            async move { flight.join(&id(), end(), || async { Ok(None) }, identity).await }
        });
        tokio::time::sleep(Duration::from_secs(1)).await;
        assert!(!waiting.is_finished());
        drop(held);
        assert!(matches!(waiting.await.unwrap(), Ok(None)));
        drop(pages);
    }

    #[tokio::test]
    async fn what_is_answered_is_looked_up_once_the_load_can_be_joined_no_more() {
        // An order was published, acknowledged and evicted after the answer was known and before
        // the load had ended. Its writer, who asked then, joined the load and was told of what
        // there was before.
        let flight = Flight::new(2);
        let joined = flight.clone();
        let answer = move |()| {
            assert!(joined.loads.lock().unwrap().is_empty(), "a caller could join and be told of the past");
            Ok(None)
        };
        assert!(matches!(flight.join(&id(), end(), || async {}, answer).await, Ok(None)));
    }

    #[test]
    fn loads_run_where_they_are_told_to() {
        let mut elsewhere = tokio::runtime::Builder::new_multi_thread();
        let elsewhere = elsewhere.worker_threads(1).thread_name("elsewhere").build().unwrap();
        let here = tokio::runtime::Builder::new_current_thread().enable_time().build().unwrap();
        let flight = Flight::new(1).with_runtime(elsewhere.handle().clone());
        let load = || async {
            assert_eq!(std::thread::current().name(), Some("elsewhere"));
            Ok(None)
        };
        assert!(matches!(here.block_on(flight.join(&id(), end(), load, identity)), Ok(None)));
    }

    #[tokio::test]
    async fn a_load_that_panics_leaves_nothing_behind() {
        let flight = Flight::new(1);
        let failed = flight.join(&id(), end(), || async { panic!("on purpose") }, identity).await;
        assert!(matches!(failed, Err(ReadError::Slow)));
        assert!(matches!(flight.join(&id(), end(), || async { Ok(None) }, identity).await, Ok(None)));
    }
}
