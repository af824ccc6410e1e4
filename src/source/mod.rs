//! Where orders come from. A source hands over records in order, is told when they are durable and visible, and is
//! given back the ones that are no orders.

pub mod file;
pub mod inbox;
pub mod lines;

use std::future::Future;
use std::sync::Arc;

use crate::record::{Checkpoint, Position, Record, Rejection};
use crate::store::Outcome;

/// What [`Source::recv`] found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Received {
    /// Records were appended, or may be soon.
    Records,
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

/// A stream of records with positions.
pub trait Source: Send + 'static {
    /// The name its positions are stored under.
    fn name(&self) -> Arc<str>;

    /// Whether positions outlive the process and are to be stored with the orders.
    fn is_log(&self) -> bool;

    /// Whether an envelope that names an unknown id is refused instead of created.
    fn must_exist(&self) -> bool;

    /// Appends the records that are there, waiting for at least one. Cancel-safe: no record is lost.
    ///
    /// # Errors
    /// When no further record can be had.
    fn recv(&mut self, into: &mut Vec<Record>) -> impl Future<Output = Result<Received, SourceError>> + Send;

    /// Everything up to `upto` is durable and visible; `outcomes` says what became of each order, oldest first.
    fn commit(&mut self, upto: &Checkpoint, outcomes: Vec<(Position, Outcome)>);

    /// A record is no order. Returns once the record is safe elsewhere, so that its position may be passed.
    ///
    /// # Errors
    /// When it could not be kept; the position is then not passed.
    fn reject(
        &mut self,
        record: &Record,
        rejection: &Rejection,
    ) -> impl Future<Output = Result<(), SourceError>> + Send;

    /// Take nothing new; what was taken is still handed over, then [`Received::End`].
    fn stop(&mut self);
}
