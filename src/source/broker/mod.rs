//! What sources that read from a broker have in common: how the ingest loop talks to a consumer, and
//! what becomes of messages that are no orders.

pub(super) mod dead_letter;
pub(super) mod mailbox;
