//! The optional second tier: orders in a Redis that instances share, for reads that miss the view and for anyone who reads
//! them there. Best effort: nothing waits for it, and nothing fails when it is unavailable. Knows snapshots, never orders.
//!
//! `order:<uid>` is the order as `GET /order/{id}` answers it. `order_version:<uid>` beside it says
//! `version seq kind state digest stamp`; of a deleted order only that is there. Both live for `redis.ttl` and are
//! written and read in one step, by one script for many orders, and only over what is not newer. `order_result:<uid>` is
//! the last acknowledgement of a worker, and the order as it was then, for ten minutes.
//!
//! # Why nothing stale is served from here
//!
//! An entry is served only if both of these hold; else the store is asked, which is right always.
//!
//! 1. **Its version is no older than any that this process knows of** (`min_version`). Every version that is committed here
//!    is noted before readers see it and before its writer is answered; every version that others commit, when this
//!    process learns of it; every version it loads. It takes no server to note, so it does not matter which writes to
//!    Redis were lost, are under way or arrive late, whether it was cut off, restarted with old data, flushed or put
//!    back, or what other instances write there. The table never forgets as long as the process lives.
//! 2. **It was written well after this process was warm and followed the store** (`trust_window`). The table is empty at a
//!    start, and an earlier process may have committed what it did not get to write, or others what warming up has shown
//!    here. Nothing older than what was stored by then is in an entry of later: instances write only what they knew to
//!    be the newest within the last second, which the script itself checks by the server's clock when the write
//!    arrives, and entries of the first two seconds are not trusted. What others commit from then on is followed and
//!    noted. That clock is kept in Redis beside the entries and never goes backwards while they are there; should
//!    it all the same, what is trusted begins again.
//!
//! So an instance serves from here what it would serve from its own view: its own commits at once, those of others once
//! it has followed them, within the second. The digest keeps a body that someone else has put there from being taken
//! for ours. What is read is put into the view, where the newest wins.
//!
//! Instances that hear of a change from the one that made it do not write it again: it does so itself.

mod breaker;
mod entry;
mod metrics;
mod min_version;
mod queue;
pub mod settings;
mod tier;
mod trust_window;

pub use metrics::RedisMetrics;
pub use tier::{Config, Redis};
