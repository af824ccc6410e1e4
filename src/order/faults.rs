//! What is wrong with a document and where: faults by JSON pointer, bounded in number and in bytes.

use std::fmt::Write;

use crate::record::{FAULT_BYTES_MAX, FAULTS_MAX, Fault, Rejection};

/// The faults of one document, and the path to the value being looked at.
#[derive(Default)]
pub struct Faults<'i> {
    found: Vec<Fault>,
    bytes: usize,
    has_more: bool,
    path: Vec<Step<'i>>,
}

#[derive(Clone, Copy)]
enum Step<'i> {
    Key(&'i str),
    Index(usize),
}

impl<'i> Faults<'i> {
    /// Goes down to the value of a member.
    pub fn enter(&mut self, key: &'i str) {
        self.path.push(Step::Key(key));
    }

    /// Goes down to an element.
    pub fn enter_index(&mut self, index: usize) {
        self.path.push(Step::Index(index));
    }

    /// Goes back up.
    pub fn leave(&mut self) {
        self.path.pop();
    }

    /// Notes a fault of the value being looked at.
    #[cold]
    pub fn here(&mut self, message: &str) {
        self.add(None, message);
    }

    /// Notes a fault of one of its members.
    #[cold]
    pub fn at(&mut self, key: &str, message: &str) {
        self.add(Some(key), message);
    }

    /// Nothing is wrong so far.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.found.is_empty()
    }

    /// The answer that names them all.
    #[must_use]
    pub fn rejection(mut self) -> Rejection {
        if self.has_more {
            self.found.push(Fault::more());
        }
        Rejection::invalid(self.found)
    }

    fn add(&mut self, key: Option<&str>, message: &str) {
        if self.has_more || self.found.len() == FAULTS_MAX || self.bytes > FAULT_BYTES_MAX {
            self.has_more = true;
            return;
        }
        let mut pointer = self.pointer();
        if let Some(key) = key {
            push_key(&mut pointer, key);
        }
        let fault = Fault { pointer, message: message.into() };
        self.bytes += fault.bytes();
        self.found.push(fault);
    }

    fn pointer(&self) -> String {
        let mut pointer = String::new();
        for step in &self.path {
            match step {
                Step::Key(key) => push_key(&mut pointer, key),
                Step::Index(index) => {
                    pointer.push('/');
                    pointer.push_str(itoa::Buffer::new().format(*index));
                }
            }
        }
        pointer
    }
}

/// Appends one reference token, escaped as RFC 6901 says and cut where a hostile key would flood the answer.
fn push_key(pointer: &mut String, key: &str) {
    pointer.push('/');
    for c in key.chars().take(128) {
        match c {
            '~' => pointer.push_str("~0"),
            '/' => pointer.push_str("~1"),
            // Pointers stand in log lines and in answers of one line of text.
            c if c.is_control() => write!(pointer, "\\u{:04x}", u32::from(c)).expect("a string takes everything"),
            c => pointer.push(c),
        }
    }
}
