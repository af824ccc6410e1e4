//! How the view is kept: its limits, and what is read off the orders it holds.

use std::time::Duration;

use super::external::KeyOf;
use crate::snapshot::{Kind, OwnerTag};

/// How the view is kept.
#[derive(Debug, Clone)]
pub struct Config {
    /// Orders in the ready list. 1,000 orders of 1 KB are a megabyte, the most a browser likes.
    pub list_max: usize,
    /// Bytes of the ready list, which ends sooner where its orders are large. One order is always
    /// in it.
    pub list_bytes_max: usize,
    /// The list is made at most this often. 20 ms bounds its cost to one or two percent of a core
    /// however fast orders arrive, and keeps it well under the 50 ms it may trail.
    pub list_refresh: Duration,
    /// Whether the list is also kept compressed for clients that take it so.
    pub list_compress: bool,
    /// Changes kept for readers of `/events` that were unavailable.
    pub feed_events_max: usize,
    /// Bytes of orders those changes may hold on to.
    pub feed_bytes_max: usize,
    /// How orders are found by the ids of their users; not from memory when `None`, or when orders
    /// may leave.
    pub key_of: Option<KeyOf>,
    /// How whose an order is can be read off it. `None` where owners do not ask for their own
    /// orders: nothing is kept for it then.
    pub owner_of: Option<OwnerOf>,
    /// Bytes that orders and what it takes to find them may take. All orders are kept when `None`.
    pub bytes_max: Option<u64>,
    /// How long an order stays after it came, in whole seconds. For ever when `None`.
    pub ttl: Option<Duration>,
    /// Orders loaded at the start, the newest; as many as there is room for when `None`.
    pub warm_max: Option<u64>,
    /// Unknown ids that are remembered while not all orders are here.
    pub absent_max: usize,
    /// How long. An order that another process stores meanwhile is seen this much later at most.
    pub absent_time: Duration,
}

impl Config {
    /// Whether orders may leave the view.
    #[must_use]
    pub const fn is_bounded(&self) -> bool {
        self.bytes_max.is_some() || self.ttl.is_some()
    }
}

impl Default for Config {
    fn default() -> Self {
        Self {
            list_max: 1000,
            list_bytes_max: 64 << 20,
            list_refresh: Duration::from_millis(20),
            list_compress: true,
            feed_events_max: 16_384,
            feed_bytes_max: 32 << 20,
            key_of: None,
            owner_of: None,
            bytes_max: None,
            ttl: None,
            warm_max: None,
            absent_max: 10_000,
            absent_time: Duration::from_millis(500),
        }
    }
}

/// Reads off a body whose the order is.
pub type OwnerOf = fn(Kind, &[u8]) -> Option<OwnerTag>;
