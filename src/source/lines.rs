//! Orders from an iterator: generated samples, and what tests make up.

use std::sync::Arc;

use bytes::Bytes;

use super::{Parked, Received, Source, SourceError};
use crate::record::{Checkpoint, Position, Record, Rejection};
use crate::store::Outcome;

/// Records handed over at once.
const BURST: usize = 256;

/// A source of documents that are made as they are asked for.
pub struct Lines<I> {
    name: Arc<str>,
    documents: I,
    next: u64,
    is_stopped: bool,
}

impl<I: Iterator<Item = Bytes> + Send + 'static> Lines<I> {
    /// Hands over `documents` once, with no position kept.
    #[must_use]
    pub fn new(name: &str, documents: I) -> Self {
        Self { name: name.into(), documents, next: 0, is_stopped: false }
    }
}

impl<I: Iterator<Item = Bytes> + Send + 'static> Source for Lines<I> {
    fn name(&self) -> Arc<str> {
        Arc::clone(&self.name)
    }

    fn is_log(&self) -> bool {
        false
    }

    fn must_exist(&self) -> bool {
        false
    }

    async fn recv(&mut self, into: &mut Vec<Record>) -> Result<Received, SourceError> {
        if self.is_stopped {
            return Ok(Received::End);
        }
        let before = into.len();
        for payload in self.documents.by_ref().take(BURST) {
            let position = Position { partition: 0, offset: self.next };
            self.next += 1;
            into.push(Record::new(position, payload));
        }
        Ok(if into.len() > before { Received::Records } else { Received::End })
    }

    fn commit(&mut self, _upto: &Checkpoint, _outcomes: Vec<(Position, Outcome)>) {}

    fn reject(&mut self, _record: &Record, rejection: &Rejection) -> Parked {
        // Made here, so there is no one to give it back to.
        tracing::warn!(source = %self.name, %rejection, "generated order rejected");
        Parked::Done(Ok(()))
    }

    fn stop(&mut self) {
        self.is_stopped = true;
    }
}
