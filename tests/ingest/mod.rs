//! The write path through its seams: a store that lies, a broker that does what it is told, a process that is killed.

mod beside;
mod bounds;
mod broker;
mod faults;
mod kill;
mod lying;
mod shared;
