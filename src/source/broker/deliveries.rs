//! Dead letters on their way, whichever broker takes them: so many at once, each for as long as it
//! takes, and the service is not ready while one takes long.

use std::pin::Pin;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::runtime::Handle;
use tokio::sync::Semaphore;

use super::tries::Pauses;
use crate::process::lifecycle::Gate;
use crate::source::SourceError;
use crate::sync::lock;

/// Between two tries at a place that is unavailable.
pub(in crate::source) const PAUSE_FIRST: Duration = Duration::from_millis(250);
const PAUSE_MAX: Duration = Duration::from_secs(5);
/// Dead letters on their way at once; further ones wait for their turn.
const IN_FLIGHT_MAX: usize = 1000;
/// How long a delivery may take before the service counts as not ready.
const PATIENCE: Duration = Duration::from_secs(5);

/// Done when a dead letter is safe.
pub(in crate::source) type Delivered = Pin<Box<dyn Future<Output = Result<(), SourceError>> + Send>>;

/// The dead letters that go to one place.
pub(in crate::source) struct Deliveries {
    /// The place.
    to: Arc<str>,
    in_flight: Arc<Semaphore>,
    overdue: Arc<Overdue>,
}

impl Deliveries {
    /// To the place of this kind and name. `gate` is closed while a letter takes long.
    pub(in crate::source) fn new(kind: &str, to: &str, gate: Gate) -> Self {
        let reason = format!("{kind} {to} takes no dead letters; intake waits");
        let in_flight = Arc::new(Semaphore::new(IN_FLIGHT_MAX));
        Self { to: to.into(), in_flight, overdue: Arc::new(Overdue::new(gate, reason)) }
    }

    /// The pauses between the tries of one.
    pub(in crate::source) const fn pauses() -> Pauses {
        Pauses::new(PAUSE_FIRST, PAUSE_MAX)
    }

    /// Begins to deliver at once.
    pub(in crate::source) fn begin(
        &self,
        runtime: &Handle,
        delivery: impl Future<Output = ()> + Send + 'static,
    ) -> Delivered {
        let (in_flight, overdue) = (Arc::clone(&self.in_flight), Arc::clone(&self.overdue));
        let delivery = runtime.spawn(async move {
            let _permit = in_flight.acquire_owned().await;
            overdue.watch(delivery).await;
        });
        let name = Arc::clone(&self.to);
        Box::pin(async move { delivery.await.map_err(|error| SourceError { name, cause: error.into() }) })
    }
}

/// Letters that take long. The gate is open when there are none.
struct Overdue {
    gate: Gate,
    reason: String,
    count: Mutex<usize>,
}

impl Overdue {
    fn new(gate: Gate, reason: String) -> Self {
        gate.open();
        Self { gate, reason, count: Mutex::default() }
    }

    /// Waits for a delivery, however long it takes.
    async fn watch(&self, delivery: impl Future<Output = ()>) {
        let mut delivery = std::pin::pin!(delivery);
        if tokio::time::timeout(PATIENCE, &mut delivery).await.is_err() {
            let _overdue = self.begin();
            delivery.await;
        }
    }

    fn begin(&self) -> OneOverdue<'_> {
        let mut count = lock(&self.count);
        *count += 1;
        self.gate.close(&self.reason);
        OneOverdue(self)
    }
}

/// One of them, until it is dropped.
struct OneOverdue<'a>(&'a Overdue);

impl Drop for OneOverdue<'_> {
    fn drop(&mut self) {
        let mut count = lock(&self.0.count);
        *count -= 1;
        if *count == 0 {
            self.0.gate.open();
        }
    }
}
