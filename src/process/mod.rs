//! The process itself: its birth and death, its threads, what it logs.

pub mod background;
pub mod lifecycle;
pub mod log;
