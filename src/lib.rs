//! order-service answers `GET /order/{id}` from a lock-free map of orders that were serialized once, and keeps that
//! map true through a durable store. This page is the map of the crate, in reading order.
//!
//! **Two flows that never import each other.** [`ingest`] takes records to durable, visible orders; [`read`] takes ids
//! to bytes. They meet in [`cache`] and [`store`] only. Readers know bytes, writers know orders: nothing on the read
//! path can name an [`order`], so nothing there can serialize one again.
//!
//! **A write**: a [`source`] (an HTTP inbox, a file, generated samples, the
//! database of an older service) hands over [`record`]s with positions.
//! [`order::Decoder`] parses, validates and makes the body, once. [`ingest::batcher`] collects; one batch fills while
//! one is written, and a full one goes on its way while the one before it becomes durable. [`store::Store::commit`]
//! makes it durable in one transaction together with its positions. Then, in this order: the view shows it, the event
//! feed tells of it, the sender is answered. Readers never see what is not durable, and no one is told of what readers
//! do not see.
//!
//! **A read**: [`http::hit`] sees what a client sent before hyper does. A plain read of an order that is in the map is
//! answered there, with the bytes hyper would write: [`http::route`] finds the route without allocating,
//! [`read::Reader::get`] looks the id up and clones a pointer. Whatever asks for more (a condition, an origin, another
//! method, an order that is not there) is left to hyper: [`http::orders`] and [`http::respond`]. No lock, no box, no
//! serialization on either way. A miss is the truth once the view is complete; before that, [`read::flight`] asks [`redis`] if there is one and then the store, once per id. `grpc` is a
//! second surface over the same reader and inbox.
//!
//! **Encryption** is below all of that: [`listen`] brings connections, [`tls`] decrypts what comes
//! over those of `tls:` listeners, and the hit path reads one as it reads the other. Requests of
//! HTTP/2 go the way of those that the hit path leaves to hyper.
//!
//! **One rule for everybody**: a copy enters the view only if it is newer ([`snapshot::Snapshot::supersedes`]),
//! wherever it comes from. It makes ingest, warm-up and read-through safe beside each other; `tests/model.rs` and
//! `tests/races.rs` check it.
//!
//! Floors look down only: `tests/layers.rs` holds the table of who may import whom and fails on any other edge.

// Those macros panic where nothing takes what they print; `tools::output` does not.
#![deny(clippy::print_stdout, clippy::print_stderr)]

pub mod id;
pub mod metrics;
pub mod nats;
pub mod process;
pub mod tls;

pub mod listen;
pub mod stan;

pub mod order;
pub mod record;
pub mod snapshot;

pub mod cache;
#[cfg(feature = "kafka")]
pub mod kafka;
pub mod redis;
pub mod source;
pub mod store;

pub mod ingest;
pub mod read;
pub mod replication;
pub mod warmup;

pub mod access;

pub mod admin;
pub mod grpc;
pub mod http;

pub mod app;
pub mod cli;
pub mod settings;
pub mod tools;
