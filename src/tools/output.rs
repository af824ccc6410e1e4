//! What commands write to the terminal. Nothing here panics when it cannot be written: for standard
//! output that is an error of the command; what is meant for standard error is lost.

use std::fmt::Display;
use std::io::{self, Write};

/// Standard output, whose errors are known for what they are: see [`is_unread`].
pub struct Output(io::StdoutLock<'static>);

/// Standard output for more than one text. It has to be flushed at the end: what is left then is
/// lost without an error.
#[must_use]
pub fn stdout() -> Output {
    Output(io::stdout().lock())
}

/// Writes a text to standard output.
///
/// # Errors
/// When it cannot be written.
pub fn print(text: &str) -> io::Result<()> {
    let mut output = stdout();
    output.write_all(text.as_bytes())?;
    output.flush()
}

/// Writes a line to standard error.
pub fn note(line: impl Display) {
    let _ = writeln!(io::stderr().lock(), "{line}");
}

/// Whether a command ended because standard output is a pipe that its reader has closed, who has
/// seen enough.
#[must_use]
pub fn is_unread(error: &anyhow::Error) -> bool {
    let is_ours = |error: &io::Error| matches!(error.get_ref(), Some(inner) if inner.is::<Unwritten>());
    let mut causes = error.chain().filter_map(|cause| cause.downcast_ref::<io::Error>());
    causes.any(|error| error.kind() == io::ErrorKind::BrokenPipe && is_ours(error))
}

#[derive(Debug, thiserror::Error)]
#[error("cannot write to standard output: {0}")]
struct Unwritten(io::Error);

/// Says of an error of standard output what it is one of.
pub fn mark(error: io::Error) -> io::Error {
    match error.kind() {
        io::ErrorKind::Interrupted => error, // to be tried again
        kind => io::Error::new(kind, Unwritten(error)),
    }
}

impl Write for Output {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.write(bytes).map_err(mark)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.0.flush().map_err(mark)
    }
}
