//! Reads dead letters: each partition from where it begins to where it ended when the reading began.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::{BorrowedMessage, Message};
use rdkafka::{Offset, TopicPartitionList};

use super::Place;
use crate::kafka::{Config, headers, watermarks};
use crate::record::{Headers, dead};
use crate::tools::cluster::{self, CONNECT_TIME};

/// How long the brokers may send nothing while there is something left to read.
const SILENCE_MAX: Duration = Duration::from_secs(30);

/// The topic of dead letters.
pub(super) struct DeadLetterTopic {
    config: Config,
    topic: String,
    all: Ranges,
}

/// The offsets of interest by partition.
pub(super) type Ranges = BTreeMap<i32, Range<i64>>;

/// A dead letter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct DeadLetterRecord {
    pub place: Place,
    /// When the message it was had been sent, in milliseconds since 1970.
    pub timestamp_ms: Option<i64>,
    pub key: Option<Vec<u8>>,
    pub value: Option<Vec<u8>>,
    pub headers: Headers,
}

impl DeadLetterTopic {
    /// Connects, and takes note of what is there.
    pub(super) fn open(config: &Config) -> anyhow::Result<Self> {
        let consumer = reader(config)?;
        let topic = config.dlq_topic.clone();
        let metadata = cluster::look_up(|time| consumer.fetch_metadata(Some(&topic), time), &config.brokers, &topic)?;
        let mut all = Ranges::new();
        for partition in 0..cluster::partition_count(&metadata) {
            let (low, high) = watermarks(consumer.client(), &topic, partition, CONNECT_TIME)
                .with_context(|| format!("what there is in {topic}, partition {partition}"))?;
            all.insert(partition, low..high);
        }
        Ok(Self { config: config.clone(), topic, all })
    }

    pub(super) fn topic(&self) -> &str {
        &self.topic
    }

    /// Everything that was there at the start.
    pub(super) fn all(&self) -> &Ranges {
        &self.all
    }

    /// What has these places in it, as far as it was there at the start.
    pub(super) fn at(&self, places: &BTreeSet<Place>) -> Ranges {
        let mut ranges = Ranges::new();
        for place in places {
            if self.all.get(&place.partition).is_some_and(|range| range.contains(&place.offset)) {
                let range = ranges.entry(place.partition).or_insert(place.offset..place.offset);
                range.end = place.offset + 1;
            }
        }
        ranges
    }

    /// Why there is nothing at a place.
    pub(super) fn missing(&self, place: Place) -> String {
        let topic = &self.topic;
        match self.all.get(&place.partition) {
            None => format!("{place}: {topic} has no partition {}", place.partition),
            Some(range) if range.is_empty() => format!("{place}: there is nothing in that partition of {topic}"),
            Some(range) if !range.contains(&place.offset) => {
                let (first, last) = (range.start, range.end - 1);
                format!("{place}: there is no such dead letter; that partition of {topic} has {first} to {last}")
            }
            Some(_) => format!("{place}: there is no such dead letter any more"),
        }
    }

    /// Calls `each` with every dead letter in these ranges, in the order of each partition.
    pub(super) fn for_each(
        &self,
        ranges: &Ranges,
        mut each: impl FnMut(DeadLetterRecord) -> anyhow::Result<()>,
    ) -> anyhow::Result<()> {
        let mut left = ranges.clone();
        left.retain(|_, range| !range.is_empty());
        let mut start = TopicPartitionList::new();
        for (&partition, range) in &left {
            start.add_partition_offset(&self.topic, partition, Offset::Offset(range.start))?;
        }
        // Its own client: one that has read before may still have the end of a partition to tell.
        let consumer = reader(&self.config)?;
        consumer.assign(&start)?;
        let (mut heard, mut last_error) = (Instant::now(), None);
        while !left.is_empty() {
            match consumer.poll(Duration::from_millis(100)) {
                Some(Ok(message)) => {
                    heard = Instant::now();
                    let Some(range) = left.get(&message.partition()) else { continue };
                    let (offset, end) = (message.offset(), range.end);
                    if offset < end {
                        each(record_of(&message))?;
                    }
                    // Offsets have gaps: the last one may not be there.
                    if offset + 1 >= end {
                        left.remove(&message.partition());
                    }
                }
                Some(Err(KafkaError::PartitionEOF(partition))) => {
                    heard = Instant::now();
                    left.remove(&partition);
                }
                Some(Err(error)) => last_error = Some(error),
                None if heard.elapsed() > SILENCE_MAX => {
                    let error = last_error.map(|error| format!(": {error}")).unwrap_or_default();
                    bail!("{} sent nothing for {} s{error}", self.config.brokers, SILENCE_MAX.as_secs());
                }
                None => {}
            }
        }
        Ok(())
    }
}

fn reader(config: &Config) -> anyhow::Result<BaseConsumer> {
    config.reader().create().context("no client can be made for Kafka")
}

fn record_of(message: &BorrowedMessage<'_>) -> DeadLetterRecord {
    DeadLetterRecord {
        place: Place { partition: message.partition(), offset: message.offset() },
        timestamp_ms: message.timestamp().to_millis(),
        key: message.key().map(<[u8]>::to_vec),
        value: message.payload().map(<[u8]>::to_vec),
        headers: headers(message).unwrap_or_default(),
    }
}

impl DeadLetterRecord {
    /// A header's text. Of several with one name it is the last: the service adds its own behind what it received.
    pub(super) fn header(&self, name: &str) -> Option<&str> {
        let (_, value) = self.headers.iter().rev().find(|(known, _)| known == name)?;
        std::str::from_utf8(value.as_deref()?).ok()
    }

    /// The headers the message came with.
    pub(super) fn original_headers(&self) -> impl Iterator<Item = (&str, Option<&[u8]>)> {
        let headers = self.headers.iter().map(|(name, value)| (name.as_str(), value.as_deref()));
        headers.filter(|(name, _)| {
            !name.starts_with(dead::PREFIX) && ![dead::TIMESTAMP_MS, dead::KEY_ADDED].contains(name)
        })
    }
}
