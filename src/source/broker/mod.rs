//! What sources that read from a broker have in common: how the ingest loop and a consumer talk to
//! each other, how a consumer goes about a server that is unavailable, and what becomes of messages
//! that are no orders.

pub(super) mod consumer_handle;
pub(super) mod dead_letter;
pub(super) mod deliveries;
pub(super) mod handover;
pub(super) mod lag;
pub(super) mod mailbox;
pub(super) mod tries;
