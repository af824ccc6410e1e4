//! The view: every order as the bytes it is answered with, in a lock-free map that only ever moves
//! forward. Knows snapshots, never orders.
//!
//! [`View`] (`view`) keeps the map (`map`) and tells what changes in it to the others: the newest
//! orders (`recent`, `encodings`, `demand`), readers of changes (`feed`), look-ups by other keys
//! (`external`, `owned`), what leaves (`evict`). Its other functions are beside what they are
//! about: `lists`, `owners`, `room`, `completeness`.

mod completeness;
mod config;
pub mod demand;
pub mod encodings;
mod evict;
pub mod external;
pub mod feed;
mod formers;
mod lists;
mod map;
mod metrics;
mod negative;
mod owned;
mod owners;
pub mod recent;
mod room;
pub mod settings;
mod tally;
#[cfg(test)]
mod tests;
mod view;

pub use config::{Config, OwnerOf};
pub use room::{Committing, Paused, Pinned};
pub use tally::Size;
pub use view::View;
