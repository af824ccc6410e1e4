//! The orders to publish, made or read one after the other at the rate asked for. Knows nothing of where they go to.

use std::fs::File;
use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use super::{Config, Kind};
use crate::order::sample;

/// Where the orders come from, and how far that has come.
pub(super) struct Documents {
    origin: Origin,
    random: fastrand::Rng,
    invalid: f64,
    seed: u64,
    rate: Option<f64>,
    /// The first is number 0.
    next: u64,
    started: Instant,
}

enum Origin {
    Samples { kind: Kind, count: u64 },
    Lines(BufReader<Box<dyn Read + Send>>),
}

/// What is known of an order before it is sent.
pub(super) struct Next {
    /// Made so on purpose.
    pub is_invalid: bool,
    /// For a valid sample of a WB order: which one it is.
    pub wb_sample: Option<u64>,
}

impl Documents {
    pub(super) fn open(config: &Config) -> anyhow::Result<Self> {
        let origin = match &config.file {
            None => Origin::Samples { kind: config.kind, count: config.count },
            Some(path) => Origin::Lines(open(path)?),
        };
        let (random, started) = (fastrand::Rng::with_seed(config.seed), Instant::now());
        Ok(Self { origin, random, invalid: config.invalid, seed: config.seed, rate: config.rate, next: 0, started })
    }

    /// Appends the next order, of a file without its line break. `None` after the last one.
    pub(super) fn append_next(&mut self, into: &mut Vec<u8>) -> anyhow::Result<Option<Next>> {
        let (n, seed) = (self.next, self.seed);
        let mut next = Next { is_invalid: false, wb_sample: None };
        match &mut self.origin {
            Origin::Lines(lines) => {
                if !append_line(lines, into)? {
                    return Ok(None);
                }
            }
            Origin::Samples { count, .. } if n >= *count => return Ok(None),
            Origin::Samples { kind, .. } => {
                next.is_invalid = self.random.f64() < self.invalid;
                match kind {
                    _ if next.is_invalid => {
                        sample::invalid(seed, n, into);
                    }
                    Kind::Wb => {
                        sample::wb(seed, n, into);
                        next.wb_sample = Some(n);
                    }
                    Kind::Envelope => sample::envelope(seed, n, into),
                }
            }
        }
        self.next += 1;
        Ok(Some(next))
    }

    /// How long before its time the order appended last is, by the rate.
    pub(super) fn ahead(&self) -> Duration {
        let (Some(rate), Some(n)) = (self.rate, self.next.checked_sub(1)) else { return Duration::ZERO };
        #[expect(clippy::cast_precision_loss, reason = "counts of one run")]
        let due = self.started + Duration::from_secs_f64(n as f64 / rate);
        due.saturating_duration_since(Instant::now())
    }

    /// Whether the next order is there without waiting for anyone who writes the input.
    pub(super) fn is_next_there(&self) -> bool {
        match &self.origin {
            Origin::Samples { .. } => true,
            Origin::Lines(lines) => memchr::memchr(b'\n', lines.buffer()).is_some(),
        }
    }
}

fn open(path: &Path) -> anyhow::Result<BufReader<Box<dyn Read + Send>>> {
    let input: Box<dyn Read + Send> = if path == Path::new("-") {
        Box::new(std::io::stdin())
    } else if path.is_dir() {
        bail!("cannot read {}: it is a directory", path.display());
    } else {
        Box::new(File::open(path).with_context(|| format!("cannot read {}", path.display()))?)
    };
    Ok(BufReader::with_capacity(1 << 20, input))
}

/// The next line that is not blank; `false` at the end.
fn append_line(lines: &mut impl BufRead, into: &mut Vec<u8>) -> std::io::Result<bool> {
    let start = into.len();
    while lines.read_until(b'\n', into)? > 0 {
        if into.last() == Some(&b'\n') {
            into.pop();
        }
        if !into[start..].iter().all(u8::is_ascii_whitespace) {
            return Ok(true);
        }
        into.truncate(start);
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_taken_as_they_are_and_blank_ones_left_out() {
        let mut input = &b"\n one \r\n\t\n\ntwo"[..];
        let mut all = b"before".to_vec();
        assert!(append_line(&mut input, &mut all).unwrap());
        assert_eq!(all, b"before one \r");
        assert!(append_line(&mut input, &mut all).unwrap());
        assert_eq!(all, b"before one \rtwo");
        assert!(!append_line(&mut input, &mut all).unwrap());
        assert_eq!(all, b"before one \rtwo");
    }
}
