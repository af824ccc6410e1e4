//! Sends dead letters back: key, value and headers as they came, without what the service added.

use std::collections::btree_map::Entry;
use std::collections::{BTreeMap, BTreeSet};
use std::io::Write;

use anyhow::{Context, bail};
use rdkafka::message::{Header, OwnedHeaders};

use super::records::{DeadLetterRecord, DeadLetterTopic};
use super::{Place, Which};
use crate::kafka::Config;
use crate::record::dead;
use crate::tools::cluster::{self, Message, Sender};
use crate::tools::output;

/// Says what would be sent where to.
pub(super) fn say(
    letters: &DeadLetterTopic,
    which: &Which,
    topic: Option<&str>,
    output: &mut impl Write,
) -> anyhow::Result<()> {
    let mut counts = BTreeMap::<String, u64>::new();
    let refused = for_each(letters, which, topic, |_, topic| {
        match counts.get_mut(topic) {
            Some(count) => *count += 1,
            None => {
                counts.insert(topic.to_owned(), 1);
            }
        }
        Ok(Ok(()))
    })?;
    for (topic, count) in &counts {
        writeln!(output, "would send {count} to {topic}")?;
    }
    if counts.is_empty() {
        writeln!(output, "would send nothing")?;
    } else {
        writeln!(output, "nothing is sent without --yes")?;
    }
    output.flush()?;
    check(refused)
}

/// Sends, and waits until everything has arrived.
pub(super) fn send(
    config: &Config,
    letters: &DeadLetterTopic,
    which: &Which,
    topic: Option<&str>,
    output: &mut impl Write,
) -> anyhow::Result<()> {
    let mut sender = Sender::connect(config)?;
    let mut partition_counts = BTreeMap::<String, Result<i32, String>>::new();
    let done = for_each(letters, which, topic, |letter, target| {
        let partition_count = match partition_counts.entry(target.to_owned()) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(unknown) => unknown.insert(
                sender
                    .look_up(target)
                    .map(|metadata| cluster::partition_count(&metadata))
                    .map_err(|error| format!("{error:#}")),
            ),
        };
        match partition_count {
            Err(error) => return Ok(Err(error.clone())),
            Ok(partition_count) => {
                let partition = partition_of(letter, target, *partition_count);
                let key = letter.key.as_deref().filter(|_| letter.header(dead::KEY_ADDED).is_none());
                let value = letter.value.as_deref();
                sender.send(Message { topic: target, partition, key, value, headers: headers(letter) })?;
            }
        }
        sender.poll()?;
        Ok(Ok(()))
    });
    let (sent, failed, first_failure) = sender.finish(|_| ());
    // What has happened must be known even when no one is reading.
    let _ = writeln!(output, "{sent} sent; they are in {} as before", letters.topic());
    let _ = output.flush();
    let reason = first_failure.unwrap_or_default();
    let refused = done.with_context(|| reason.clone())?;
    if failed > 0 {
        bail!("{failed} could not be sent; the first: {reason}");
    }
    check(refused)
}

/// Calls `each` with every dead letter that is asked for, and the topic it goes to. Returns how many were refused, here
/// or by `each`, each of which has been named then.
fn for_each(
    letters: &DeadLetterTopic,
    which: &Which,
    topic: Option<&str>,
    mut each: impl FnMut(&DeadLetterRecord, &str) -> anyhow::Result<Result<(), String>>,
) -> anyhow::Result<u64> {
    let (ranges, mut places) = match which {
        Which::All => (letters.all().clone(), None),
        Which::At(places) => (letters.at(places), Some(places.clone())),
    };
    let mut refused = 0;
    let mut refuse = |reason: String| {
        refused += 1;
        output::note(format_args!("dlq: {reason}"));
    };
    letters.for_each(&ranges, |letter| {
        if places.as_mut().is_some_and(|places| !places.remove(&letter.place)) {
            return Ok(());
        }
        let done = match target(&letter, topic) {
            Ok(topic) => each(&letter, topic)?,
            Err(reason) => Err(reason),
        };
        if let Err(reason) = done {
            refuse(format!("{}: {reason}", letter.place));
        }
        Ok(())
    })?;
    let missing: BTreeSet<Place> = places.unwrap_or_default();
    for place in missing {
        refuse(letters.missing(place));
    }
    Ok(refused)
}

fn check(refused: u64) -> anyhow::Result<()> {
    if refused > 0 {
        bail!("{refused} cannot be sent back");
    }
    Ok(())
}

/// The topic a dead letter goes to, or why it goes nowhere.
fn target<'a>(letter: &'a DeadLetterRecord, topic: Option<&'a str>) -> Result<&'a str, String> {
    let cut =
        [(dead::CUT_FROM, "value was"), (dead::HEADERS_CUT_FROM, "headers were"), (dead::KEY_CUT_FROM, "key was")];
    let is_cut = |name: &str| letter.headers.iter().any(|(known, _)| known == name);
    if let Some((name, part)) = cut.into_iter().find(|(name, _)| is_cut(name)) {
        let source = [dead::TOPIC, dead::PARTITION, dead::OFFSET].map(|name| letter.header(name).unwrap_or("?"));
        return Err(format!(
            "its {part} cut from {} bytes; the whole is in {}, if it is still there",
            letter.header(name).unwrap_or("?"),
            source.join("/")
        ));
    }
    let target = topic.or_else(|| letter.header(dead::TOPIC)).filter(|topic| !topic.is_empty());
    target.ok_or_else(|| format!("no header {} says where it came from; --topic can", dead::TOPIC))
}

/// The partition it came from, where the messages of the same key are, as long as that is a partition of the same topic.
fn partition_of(letter: &DeadLetterRecord, target: &str, partition_count: i32) -> Option<i32> {
    let partition = letter.header(dead::PARTITION)?.parse().ok()?;
    (letter.header(dead::TOPIC) == Some(target) && (0..partition_count).contains(&partition)).then_some(partition)
}

fn headers(letter: &DeadLetterRecord) -> Option<OwnedHeaders> {
    let mut headers = None;
    for (key, value) in letter.original_headers() {
        headers = Some(headers.unwrap_or_else(OwnedHeaders::new).insert(Header { key, value }));
    }
    headers
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record_of(headers: &[(&str, &str)]) -> DeadLetterRecord {
        let headers = headers.iter().map(|(name, value)| ((*name).to_owned(), Some(value.as_bytes().to_vec().into())));
        let place = Place { partition: 0, offset: 0 };
        DeadLetterRecord { place, timestamp_ms: None, key: None, value: None, headers: headers.collect() }
    }

    #[test]
    fn a_letter_goes_to_where_it_came_from_or_is_told_to() {
        let from = record_of(&[(dead::TOPIC, "forged"), (dead::TOPIC, "orders"), (dead::PARTITION, "3")]);
        assert_eq!(target(&from, None), Ok("orders"), "the service's own header is the last");
        assert_eq!(target(&from, Some("other")), Ok("other"));
        assert_eq!([5, 3].map(|count| partition_of(&from, "orders", count)), [Some(3), None]);
        assert_eq!(partition_of(&from, "other", 5), None);
        assert!(target(&record_of(&[]), None).unwrap_err().contains("--topic"));
        let cut = record_of(&[(dead::TOPIC, "orders"), (dead::CUT_FROM, "5000000")]);
        assert!(target(&cut, None).unwrap_err().contains("cut from 5000000 bytes"));
        assert!(target(&cut, Some("other")).is_err());
        let cut = record_of(&[(dead::TOPIC, "orders"), (dead::KEY_CUT_FROM, "7000")]);
        assert!(target(&cut, None).unwrap_err().contains("key was cut from 7000 bytes"));
    }
}
