//! Structured logs, as JSON or text, on standard error. Fields, never payloads.

use tracing_subscriber::EnvFilter;

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Format {
    /// For people.
    #[default]
    Text,
    /// One JSON object a line.
    Json,
}

impl std::str::FromStr for Format {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "text" => Ok(Self::Text),
            "json" => Ok(Self::Json),
            _ => Err("must be json or text"),
        }
    }
}

/// Sends log lines of `filter` (a level, or `tracing` directives) and above to standard error. Does nothing when
/// logs are set up already.
pub fn start(format: Format, filter: &str) {
    let filter = EnvFilter::try_new(filter).unwrap_or_else(|_| EnvFilter::new("info"));
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_target(false);
    // Where a line cannot be written, it would be said there, with a panic.
    let builder = builder.log_internal_errors(false);
    // An error means that a test has set logs up before.
    let _ = match format {
        Format::Text => builder.with_ansi(std::io::IsTerminal::is_terminal(&std::io::stderr())).try_init(),
        Format::Json => builder.json().flatten_event(true).try_init(),
    };
}

/// An error with all its causes, on one line.
#[must_use]
pub fn causes(error: &dyn std::error::Error) -> String {
    let mut line = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        line.push_str(": ");
        line.push_str(&error.to_string());
        cause = error.source();
    }
    line
}

/// By what a line is found again: sixteen random hexadecimal digits.
#[must_use]
pub fn random_id() -> [u8; 16] {
    let random = fastrand::u64(..);
    std::array::from_fn(|at| b"0123456789abcdef"[usize::try_from(random >> (4 * at) & 15).expect("below 16")])
}
