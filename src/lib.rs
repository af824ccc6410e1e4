//! order-service answers `GET /order/{id}` from a lock-free map of orders that were serialized once,
//! and keeps that map true through a durable store. This page is the map of the crate, in reading
//! order; `docs/architecture.md` has it from outside, with a table from questions to files.
//!
//! ```text
//!   Kafka  NATS  NATS Streaming  HTTP, gRPC  files          clients
//!      |     |         |             |         |               ^ bytes
//!      +-----+---------+-------------+---------+               |
//!                      | records                          http, grpc
//!                   source                                     |
//!                      |                                    access
//!                   order      parse = validate = body         |
//!                      |                                     read
//!                   ingest     batch, commit, settle           |
//!                    |   |  \                                  | id -> snapshot
//!    one transaction |   |   +-- durable, then visible ---> cache (the view)
//!                    v   |          ^          ^               |
//!                 store  |          |          |               | a miss of a partial view
//!                    |   |        warmup     follow            v
//!                    +---|----------+----------+---------> redis, store
//!                        v
//!                     outbox -> relay -> topics: snapshots, events, acknowledgements
//! ```
//!
//! **Two flows that never import each other.** [`ingest`] takes records to durable, visible orders;
//! [`read`] takes ids to bytes. They meet in [`cache`], [`store`] and [`redis`] only. Readers know
//! bytes, writers know orders: nothing on the read path can name an [`order`], so nothing there can
//! serialize one again.
//!
//! # Write
//!
//! A [`source`] (a broker, an HTTP inbox, a file, generated samples, the database of an older
//! service) hands over [`record`]s with positions. [`order::Decoder`] parses and validates, once, and
//! makes the body of a WB order; that of an envelope follows from what is stored.
//! [`ingest::batcher`] collects; one batch fills while one is written, and a full one goes
//! on its way while the one before it becomes durable. [`store::Store::commit_after`] makes it durable in
//! one transaction together with its positions and what it has to publish. [`ingest::policy`] alone
//! decides what an error means: try again, reject, give the partition up, refuse, or stop. Then, in
//! this order: Redis is handed the change, the view shows it, the event feed tells of it, the sender
//! is answered, the relay gets it.
//! Readers never see what is not durable, and no sender is told of what readers do not see.
//!
//! # Read
//!
//! [`http::hit`] sees what a client sent before hyper does. A plain read of an order that is in the
//! map is answered there: [`http::route`] finds the route without
//! allocating, [`access`] says what the caller may see, [`read::Reader::get`] looks the id up and
//! clones a pointer: no lock, no box. Everything else (`If-Match`, an origin, another method, a large
//! body, an order that is not in memory) is left to hyper: [`http::get`], [`http::list`] and
//! [`http::respond`]. Nothing is serialized on either way. A miss is the truth once the view is
//! complete; before that, [`read::Reader::load`] asks [`redis`], if there is one, and then the store,
//! and [`read::flight`] makes concurrent loads of one id one. `grpc` is a second surface over the same
//! reader and inbox.
//!
//! Encryption is below all of that: [`listen`] brings connections, [`tls`] decrypts what comes over
//! those of `tls:` listeners, and the hit path reads one as it reads the other. Requests of HTTP/2 go
//! the way of those that the hit path leaves to hyper.
//!
//! One rule for all: a copy enters the view only if it is newer
//! ([`snapshot::Snapshot::supersedes`]), wherever it comes from. It makes ingest, warm-up,
//! read-through and following safe beside each other; `tests/model.rs` and `tests/races.rs` check it.
//!
//! # Publish
//!
//! [`replication::outbox`] says what a committed batch has to publish; it is recorded in the batch's transaction
//! and handed over from memory. `relay` sends it, and looks the orders up again once all has arrived,
//! so that the last snapshot of an order in the topic is its newest. What an instance left behind
//! another one publishes from the store. `worker` is the other side of the events: it processes orders
//! and acknowledges them, and [`source::waiters`] keeps who waits for that.
//!
//! # Follow
//!
//! [`replication::follow`] asks the store a few times a second what other instances changed, so that nothing
//! depends on being told; what they publish, `kafka::tail` reads as it comes. After a store went back, the
//! view is held against all of it. [`warmup`] fills the view at the start, and keeps it within its
//! budget afterwards.
//!
//! # Shut down
//!
//! [`app`] has the order of birth and death. Birth: sockets are bound, the store is opened and
//! migrated, changes are followed, the view is warmed up, `/readyz` says yes ([`process::lifecycle`] has the
//! gates). Death: `/readyz` says no, intake stops, the last batch is committed, connections are
//! finished, what is to be published is drained, all within the grace period; then the admin address
//! ends and the store is closed.
//!
//! # Floors
//!
//! Floors look down only: `tests/layers.rs` holds the table of who may import whom and fails on any
//! other edge.

// Those macros panic where nothing takes what they print; `tools::output` does not.
#![deny(clippy::print_stdout, clippy::print_stderr)]

pub mod id;
pub mod metrics;
pub mod nats;
pub mod process;
pub mod setting;
pub mod sync;
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
#[allow(clippy::too_many_lines, reason = "flags and commands are declared in tables")]
pub mod settings;
pub mod tools;
