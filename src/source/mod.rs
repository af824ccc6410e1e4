//! Where orders come from. A source hands over records in order, is told when they are durable and visible, and is
//! given back the ones that are no orders.

mod broker;
pub mod compared;
pub mod file;
pub mod full;
pub mod inbox;
#[cfg(feature = "kafka")]
pub mod kafka;
pub mod lines;
pub mod nats;
pub mod older;
pub mod rejects;
pub mod settings;
pub mod stan;
pub mod waiters;

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

use crate::id::Version;
use crate::order::{Order, Profile};
use crate::record::{Checkpoint, Position, Record, Rejection};
use crate::store::Outcome;

/// What [`Source::recv`] found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Received {
    /// Records were appended, or may be soon.
    Records,
    /// These partitions are this process's from now on. Nothing of them comes before [`Source::start`].
    Assigned(Vec<u32>),
    /// These partitions go to another process. What came of them is to be made durable, then [`Source::release`].
    Revoked(Vec<u32>),
    /// There will never be another record.
    End,
}

/// A source's own trouble; the ingest loop stops on it.
#[derive(Debug, thiserror::Error)]
#[error("source {name} failed")]
pub struct SourceError {
    /// The source.
    pub name: Arc<str>,
    /// What went wrong.
    #[source]
    pub cause: Box<dyn std::error::Error + Send + Sync>,
}

/// Whether a rejected record is safe.
pub enum Parked {
    /// It is, or cannot be.
    Done(Result<(), SourceError>),
    /// It is once this is done. Tries for as long as it takes.
    Pending(Pin<Box<dyn Future<Output = Result<(), SourceError>> + Send>>),
}

/// A stream of records with positions.
pub trait Source: Send + 'static {
    /// The name its positions are stored under. Another one where what it reads was replaced by something else, from
    /// [`Received::Assigned`] on.
    fn name(&self) -> Arc<str>;

    /// The name under which its positions may be stored by an earlier version of the service. The present one is that,
    /// a `#`, and what tells apart what may replace each other.
    fn former_name(&self) -> Option<Arc<str>> {
        None
    }

    /// Of assigned partitions nothing was read, but there are positions of what was there before them. They are started
    /// next.
    fn replaced(&mut self) {}

    /// Whether positions outlive the process and are to be stored with the orders.
    fn is_log(&self) -> bool;

    /// Whether the records are messages of a broker, of which no one waits for an answer: partitions come and go
    /// ([`Received::Assigned`]), a message may hold an array of orders, versions of one order that meet in a batch
    /// collapse to the newest, and a valid order that cannot be stored is rejected like an invalid one.
    fn is_broker(&self) -> bool {
        false
    }

    /// Whether an envelope that names an unknown id is refused instead of created.
    fn must_exist(&self) -> bool;

    /// Appends the records that are there, waiting for at least one. Cancel-safe: no record is lost.
    ///
    /// # Errors
    /// When no further record can be had.
    fn recv(&mut self, into: &mut Vec<Record>) -> impl Future<Output = Result<Received, SourceError>> + Send;

    /// Everything up to `upto` is durable and visible; `outcomes` says what became of each order, oldest first.
    fn commit(&mut self, upto: &Checkpoint, outcomes: Vec<(Position, Outcome)>);

    /// A record is no order, and is to be kept elsewhere. Its position is passed once it is safe there.
    fn reject(&mut self, record: &Record, rejection: &Rejection) -> Parked;

    /// Nothing of a record can be stored now. Says whether its sender waits and is told so; else it may not be passed.
    fn refuse(&mut self, _record: &Record) -> bool {
        false
    }

    /// By which profile a record is checked instead of the usual one.
    fn profile(&self, _record: &Record) -> Option<Profile> {
        None
    }

    /// Has the last word on an order before it is stored. Returns the version that it was made from, where the record
    /// says so: nothing newer is then changed by it.
    ///
    /// # Errors
    /// Why the record is rejected all the same.
    fn prepare(&mut self, _record: &Record, _order: &mut Order) -> Result<Option<Version>, Rejection> {
        Ok(None)
    }

    /// Hand over the records of assigned partitions from these positions on; a partition that is not among them was
    /// never read.
    fn start(&mut self, _partitions: &[u32], _from: &Checkpoint) {}

    /// Everything that came of the revoked partitions is durable; they may go.
    fn release(&mut self) {}

    /// Another process moved the position of this partition: what was received of it is void. It is assigned again if it
    /// is still this process's.
    fn fenced(&mut self, _partition: u32) {}

    /// Take nothing new; what was taken is still handed over, then [`Received::End`].
    fn stop(&mut self);
}
