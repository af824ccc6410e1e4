//! The ready list of the view and its compressed encodings, as their tasks and readers use them.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::futures::Notified;

use super::demand::CompressorStep;
use super::encodings::Encoding;
use super::recent::{List, Shortfall};
use super::view::View;
use crate::id::OrderId;
use crate::snapshot::Snapshot;

impl View {
    /// The newest orders, ready to be sent.
    #[must_use]
    pub fn list(&self) -> Arc<List> {
        self.recent.list()
    }

    /// Completes when [`View::list`] is out of date. For one waiter. Cancel-safe.
    pub async fn list_changed(&self) {
        self.recent.changed().await;
    }

    /// Makes the list again; takes a millisecond at most, so it belongs on no read thread.
    pub fn refresh_list(&self) {
        self.recent.refresh();
        self.demand.listed(Instant::now());
    }

    /// Whether this list is, or will be, compressed for those who ask.
    #[must_use]
    pub fn compresses(&self, list: &List) -> bool {
        self.config.list_compress && list.may_be_encoded()
    }

    /// Notes that a client accepts the list in this encoding, whether or not the list has it.
    pub fn ask_encoding(&self, encoding: Encoding) {
        self.demand.ask(encoding, Instant::now());
    }

    /// Completes when [`View::next_encoding`] may say something else. For one waiter. Cancel-safe.
    pub async fn encoding_asked(&self) {
        self.demand.news().await;
    }

    /// What to compress next, after a body in the encoding `last`. What this returns no longer
    /// counts as asked for.
    #[must_use]
    pub fn next_encoding(&self, last: Encoding) -> CompressorStep {
        self.demand.next(self.list(), last, Instant::now())
    }

    /// A form was made, in this time.
    pub fn encoding_made(&self, took: Duration) {
        self.demand.made(took);
    }

    /// Completes when the next form is made.
    pub fn next_form_made(&self) -> Notified<'_> {
        self.demand.next_made()
    }

    /// How many forms were made, and how long that took.
    #[must_use]
    pub fn forms_made(&self) -> (u64, Duration) {
        self.demand.total()
    }

    /// What the store must be asked for to keep the list whole.
    #[must_use]
    pub fn list_shortfall(&self) -> Option<Shortfall> {
        self.recent.shortfall()
    }

    /// Takes the store's answer to a [`Shortfall`].
    pub fn admit_to_list(&self, asked: Shortfall, page: Vec<(OrderId, Snapshot)>) {
        let (ids, page): (Vec<_>, Vec<_>) =
            page.into_iter().map(|(id, snapshot)| ((snapshot.seq(), id), (snapshot.seq(), snapshot))).unzip();
        let ids: HashMap<u64, OrderId> = ids.into_iter().collect();
        self.recent.admit(asked, page, |seq| ids.get(&seq).and_then(|id| self.peek(id)));
    }
}
