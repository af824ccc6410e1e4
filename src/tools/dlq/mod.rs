//! `dlq`: looks at dead letters, and sends them back to where they came from. They stay in their topic whatever is
//! done here, and no group is joined, so no consumer's positions move.

mod print;
mod records;
mod replay;

use std::collections::BTreeSet;
use std::fmt;
use std::io::{BufWriter, Write};
use std::str::FromStr;

use anyhow::bail;

use crate::kafka;
use crate::tools::output;
use records::{DeadLetterRecord, DeadLetterTopic};

/// What to do with which dead letters.
#[derive(Debug, Clone)]
pub struct Config {
    /// Where they are.
    pub kafka: kafka::Config,
    /// What to do.
    pub command: Command,
}

/// What to do.
#[derive(Debug, Clone)]
pub enum Command {
    /// Show a line for each.
    List {
        /// At most so many, the newest.
        count_max: usize,
        /// As JSON objects with everything in them.
        is_json: bool,
    },
    /// Show all of one.
    Show(Place),
    /// Send back.
    Replay {
        /// Which.
        which: Which,
        /// Where to, instead of the topic each came from.
        topic: Option<String>,
        /// Without it nothing is sent, only said.
        is_confirmed: bool,
    },
}

/// Which dead letters.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Which {
    /// All that are there at the start.
    All,
    /// Those at these places.
    At(BTreeSet<Place>),
}

/// Where a dead letter is in its topic: `PARTITION:OFFSET`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    /// The partition.
    pub partition: i32,
    /// The offset in it.
    pub offset: i64,
}

impl FromStr for Place {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let place = text.split_once(':').and_then(|(partition, offset)| {
            let place = Self { partition: partition.parse().ok()?, offset: offset.parse().ok()? };
            (place.partition >= 0 && (0..i64::MAX).contains(&place.offset)).then_some(place)
        });
        place.ok_or_else(|| format!("{text:?} is no PARTITION:OFFSET such as 0:17"))
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.partition, self.offset)
    }
}

/// Does it, and writes what there is to see to standard output.
///
/// # Errors
/// When Kafka cannot be read or written, when there is no such dead letter, or when one cannot be sent back.
pub fn run(config: &Config) -> anyhow::Result<()> {
    let letters = DeadLetterTopic::open(&config.kafka)?;
    let output = &mut BufWriter::new(output::stdout());
    let done = match &config.command {
        Command::List { count_max, is_json } => list(&letters, *count_max, *is_json, output),
        Command::Show(place) => show(&letters, *place, output),
        Command::Replay { which, topic, is_confirmed: false } => replay::say(&letters, which, topic.as_deref(), output),
        Command::Replay { which, topic, is_confirmed: true } => {
            replay::send(&config.kafka, &letters, which, topic.as_deref(), output)
        }
    };
    done.and_then(|()| Ok(output.flush()?))
}

fn list(letters: &DeadLetterTopic, count_max: usize, is_json: bool, output: &mut impl Write) -> anyhow::Result<()> {
    for letter in newest(letters, count_max)? {
        if is_json {
            writeln!(output, "{}", print::json(&letter))?;
        } else {
            writeln!(output, "{}", print::line(&letter))?;
        }
    }
    Ok(())
}

/// The newest by their time, which is that of the message they were; at most `count_max` are held at any moment.
fn newest(letters: &DeadLetterTopic, count_max: usize) -> anyhow::Result<impl Iterator<Item = DeadLetterRecord>> {
    let mut newest = std::collections::BTreeMap::new();
    letters.for_each(letters.all(), |letter| {
        newest.insert((letter.timestamp_ms, letter.place), letter);
        if newest.len() > count_max {
            newest.pop_first();
        }
        Ok(())
    })?;
    Ok(newest.into_values())
}

fn show(letters: &DeadLetterTopic, place: Place, output: &mut impl Write) -> anyhow::Result<()> {
    let mut found = None;
    letters.for_each(&letters.at(&BTreeSet::from([place])), |letter| {
        if letter.place == place {
            found = Some(letter);
        }
        Ok(())
    })?;
    let Some(letter) = found else { bail!("{}", letters.missing(place)) };
    print::whole(&letter, letters.topic(), output)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_are_read_and_written() {
        assert_eq!("3:17".parse::<Place>().unwrap().to_string(), "3:17");
        for text in ["", "3", "3:", ":3", "-1:2", "1:-2", "1:2:3", "a:b", "1:9223372036854775807", "4294967296:0"] {
            assert!(text.parse::<Place>().is_err(), "{text}");
        }
    }
}
