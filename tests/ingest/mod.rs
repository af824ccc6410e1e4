//! The write path through its seams: a store that lies, a process that is killed.

mod faults;
mod kill;
mod lying;
