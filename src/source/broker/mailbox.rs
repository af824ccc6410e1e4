//! What the ingest loop tells a consumer. A word replaces an older one of its kind, so there
//! is no queue to grow.

use std::sync::Mutex;

use tokio::sync::Notify;

use crate::record::Checkpoint;
use crate::sync::lock;

/// Said and not yet heard.
#[derive(Debug, Default)]
pub(in crate::source) struct Mail {
    /// Everything below is durable and visible.
    pub committed: Option<Checkpoint>,
    /// These messages are in the dead letter stream, or will be before their position is passed.
    pub parked: Vec<(u32, u64)>,
    /// Hand over this partition from its stored position on, if it has one.
    pub start: Option<(u32, Option<u64>)>,
    /// The position of this partition was moved by another process.
    pub fenced: Option<u32>,
    /// What came of the revoked partition is durable.
    pub is_released: bool,
    /// Hand over nothing more.
    pub is_stopping: bool,
    /// End.
    pub is_leaving: bool,
}

/// Both sides hold one.
#[derive(Debug, Default)]
pub(in crate::source) struct Mailbox {
    mail: Mutex<Mail>,
    news: Notify,
}

impl Mailbox {
    /// Says something.
    pub(in crate::source) fn post(&self, write: impl FnOnce(&mut Mail)) {
        write(&mut lock(&self.mail));
        self.news.notify_one();
    }

    /// Takes what was said since the last time.
    pub(in crate::source) fn drain(&self) -> Mail {
        std::mem::take(&mut *lock(&self.mail))
    }

    /// Waits until something is said. Cancel-safe.
    pub(in crate::source) async fn wait(&self) {
        self.news.notified().await;
    }
}
