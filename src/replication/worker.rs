//! The worker: takes events, does the work, stores what came of it and says so.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::outbox::{Ack, Outbox};
use super::wire;
use crate::id::{OrderId, Version};
use crate::order::{Command, Envelope, Order, Status};
use crate::record::{Checkpoint, Position, Record, Rejection};
use crate::snapshot::{ChangeKind, Snapshot};
use crate::source::{Parked, Received, Source, SourceError};
use crate::store::Outcome;

/// The work itself: what becomes of an order that is to be processed. Its amount was worked out when it was read, by
/// the rules of every write; what is called off or deleted stays so.
pub fn work(order: &mut Envelope) {
    if matches!(order.status, None | Some(Status::New | Status::Processing)) {
        order.status = Some(Status::Done);
    }
}

/// A source of events whose orders are worked on, and acknowledged once they are durable.
pub struct Events<S> {
    source: S,
    outbox: Outbox,
    /// Received and not yet acknowledged.
    open: BTreeMap<Position, Event>,
}

/// What an event says beyond its order.
struct Event {
    id: Option<OrderId>,
    version: Option<Version>,
    change: Option<ChangeKind>,
    is_told: bool,
}

impl Event {
    fn new(record: &Record) -> Self {
        let (version, change) = wire::read_event(record);
        let id = record.key.as_deref().and_then(|key| OrderId::parse(key).ok());
        Self { id, version, change, is_told: false }
    }

    fn ack(&self, outcome: &Outcome) -> Ack {
        let said = self.change;
        let (id, change, snapshot) = match outcome {
            Outcome::Stored { id, change: ChangeKind::Deleted, snapshot, .. }
            | Outcome::WasDeleted { id, snapshot } => (id, ChangeKind::Deleted, Some(snapshot)),
            Outcome::Stored { id, change, snapshot, .. } => (id, said.unwrap_or(*change), Some(snapshot)),
            Outcome::Unchanged { id, snapshot } | Outcome::Repeated { id, snapshot, .. } => {
                (id, said.unwrap_or(ChangeKind::Updated), Some(snapshot))
            }
            Outcome::Refused { id, .. } => (id, ChangeKind::Deleted, None),
        };
        let (now, snapshot) = (snapshot.map(Snapshot::version), snapshot.cloned());
        Ack { id: id.clone(), version: self.version, now, change, snapshot }
    }
}

impl<S: Source> Events<S> {
    /// Works on what `source` brings. `outbox` publishes what comes of it.
    #[must_use]
    pub fn new(source: S, outbox: Outbox) -> Self {
        Self { source, outbox, open: BTreeMap::new() }
    }
}

impl<S: Source> Source for Events<S> {
    fn name(&self) -> Arc<str> {
        self.source.name()
    }

    fn is_log(&self) -> bool {
        self.source.is_log()
    }

    fn is_broker(&self) -> bool {
        self.source.is_broker()
    }

    fn must_exist(&self) -> bool {
        self.source.must_exist()
    }

    async fn recv(&mut self, into: &mut Vec<Record>) -> Result<Received, SourceError> {
        let received = self.source.recv(into).await?;
        if received == Received::Records {
            self.open.extend(into.iter().map(|record| (record.position, Event::new(record))));
        }
        Ok(received)
    }

    fn prepare(&mut self, record: &Record, order: &mut Order) -> Result<Option<Version>, Rejection> {
        if let Command::Envelope(envelope) = &mut order.command {
            work(envelope);
        }
        Ok(wire::read_event(record).0)
    }

    fn commit(&mut self, upto: &Checkpoint, outcomes: Vec<(Position, Outcome)>) {
        for (position, outcome) in &outcomes {
            if let Some(event) = self.open.get_mut(position) {
                event.is_told = true;
                self.outbox.acknowledge(event.ack(outcome));
            }
        }
        let passed = self.open.extract_if(.., |position, _| position.offset < upto.next(position.partition));
        for (_, event) in passed {
            // A newer event of the same batch took its place.
            if let (false, Some(id)) = (event.is_told, event.id) {
                let change = event.change.unwrap_or(ChangeKind::Updated);
                self.outbox.acknowledge(Ack { id, version: event.version, now: None, change, snapshot: None });
            }
        }
        self.source.commit(upto, outcomes);
    }

    fn reject(&mut self, record: &Record, rejection: &Rejection) -> Parked {
        self.open.remove(&record.position);
        self.source.reject(record, rejection)
    }

    fn start(&mut self, partitions: &[u32], from: &Checkpoint) {
        self.source.start(partitions, from);
    }

    fn release(&mut self) {
        self.open.clear();
        self.source.release();
    }

    fn fenced(&mut self, partition: u32) {
        self.open.retain(|position, _| position.partition != partition);
        self.source.fenced(partition);
    }

    fn stop(&mut self) {
        self.source.stop();
    }
}
