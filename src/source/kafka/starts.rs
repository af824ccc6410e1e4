//! Where partitions start: at their stored positions, once the brokers have said how far they reach.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use rdkafka::consumer::Consumer as _;
use rdkafka::error::{KafkaError, KafkaResult, RDKafkaErrorCode};
use rdkafka::topic_partition_list::TopicPartitionList;

use super::consumer::{ASK_WAIT, Consumer, Event, offset, signed};
use super::partitions::{Active, Reading, Starting, Stopped};
use crate::kafka::Config;
use crate::kafka::offset_look::{OffsetLook, OffsetRange, OffsetRanges};
use crate::record::Checkpoint;
use crate::sync::lock;

/// How long the library's own thread may take to begin at another position. No broker is asked.
const SEEK_WAIT: Duration = Duration::from_millis(500);
/// Between two tries at a start.
const POSTPONE: Duration = Duration::from_millis(300);
/// Between two looks at a position that the topic does not reach.
const STOPPED_PAUSE: Duration = Duration::from_secs(5);

impl Consumer {
    /// Begins to hand over partitions, once it is known where they start and end. Those that are
    /// active already are ones whose position was moved.
    pub(super) fn start(&mut self, partitions: Vec<u32>, from: Checkpoint) {
        if !self.may_start(&partitions) {
            return;
        }
        // The later positions count.
        let is_other = |partition: &u32| !partitions.contains(partition);
        for before in self.starting.iter_mut().map(|starting| &mut starting.partitions) {
            before.retain(is_other);
        }
        for (_, before, _) in &mut self.postponed {
            before.retain(is_other);
        }
        let look = self.look_at_offsets(&partitions);
        self.starting.push(Starting { partitions, from, look });
    }

    /// Not where they went to another process meanwhile.
    pub(super) fn may_start(&self, partitions: &[u32]) -> bool {
        let is_again = partitions.iter().all(|partition| self.active.contains_key(partition));
        let pending = self.reading.pending();
        let is_pending = partitions.iter().all(|partition| pending.contains(partition));
        self.releasing.is_none() && !partitions.is_empty() && (is_again || is_pending)
    }

    pub(super) fn look_at_offsets(&self, partitions: &[u32]) -> OffsetLook {
        let Config { topic, .. } = &self.config;
        let is_committed = self.config.reads_committed();
        OffsetLook::ask(self.client.client(), topic, partitions.iter().copied(), is_committed, ASK_WAIT)
    }

    pub(super) fn take_starts(&mut self) {
        let mut index = 0;
        while index < self.starting.len() {
            match self.starting[index].look.take() {
                Some(ranges) => {
                    let Starting { partitions, from, .. } = self.starting.remove(index);
                    self.started(partitions, from, &ranges);
                }
                None => index += 1,
            }
        }
    }

    pub(super) fn started(&mut self, partitions: Vec<u32>, from: Checkpoint, ranges: &OffsetRanges) {
        if !self.may_start(&partitions) {
            return;
        }
        let mut started = BTreeMap::new();
        for &partition in &partitions {
            let Some(range) = ranges.known.get(&partition) else {
                let error = KafkaError::MetadataFetch(ranges.error.unwrap_or(RDKafkaErrorCode::OffsetNotAvailable));
                self.warn("cannot ask where a partition starts and ends", &error);
                self.postponed.push((Instant::now() + POSTPONE, partitions, from));
                return;
            };
            match self.find_start(partition, from.0.get(&partition).copied(), *range) {
                Ok(active) => drop(started.insert(partition, active)),
                Err(reason) => {
                    tracing::error!(partition, topic = self.config.topic, "{reason}");
                    let due = Instant::now() + STOPPED_PAUSE;
                    self.stopped.push(Stopped { partitions, reason, due });
                    self.tell_lag();
                    return;
                }
            }
        }
        let is_again = partitions.iter().all(|partition| self.active.contains_key(partition));
        let result = if is_again { self.seek(&started) } else { self.assign(&started) };
        match result {
            Ok(()) => {
                if let Reading::Assigned { pending, .. } = &mut self.reading {
                    pending.clear();
                }
                let fetched = &self.client.context().fetched;
                let mut fetched = lock(fetched);
                fetched.retain(|partition, _| !started.contains_key(partition)); // before the start
                drop(fetched);
                self.active.extend(started);
                self.received_at = Instant::now();
                self.tell_lag();
            }
            Err(error) => {
                self.warn("cannot start at the stored positions, trying again", &error);
                self.postponed.push((Instant::now() + POSTPONE, partitions, from));
            }
        }
    }

    pub(super) fn start_postponed(&mut self) {
        let now = Instant::now();
        while let Some(due) = self.postponed.iter().position(|(at, ..)| now >= *at) {
            let (_, partitions, from) = self.postponed.remove(due);
            self.start(partitions, from);
        }
        while let Some(due) = self.stopped.iter().position(|stopped| now >= stopped.due) {
            let Stopped { partitions, .. } = self.stopped.remove(due);
            self.queue.push_back(Event::Assigned(partitions, self.topic_id));
        }
    }

    pub(super) fn assign(&mut self, started: &BTreeMap<u32, Active>) -> KafkaResult<()> {
        let mut list = TopicPartitionList::new();
        for (&partition, active) in started {
            list.add_partition_offset(&self.config.topic, signed(partition), offset(active.next))?;
        }
        // The library keeps a pause over an assignment, and these were paused when they were last revoked.
        let _ = self.client.resume(&list); // of what it does not know yet nothing is paused
        self.is_paused = false;
        self.client.assign(&list)
    }

    pub(super) fn seek(&mut self, started: &BTreeMap<u32, Active>) -> KafkaResult<()> {
        let mut list = TopicPartitionList::new();
        for (&partition, active) in started {
            list.add_partition_offset(&self.config.topic, signed(partition), offset(active.next))?;
        }
        // Waited for, because one that is refused would go on in silence where it was. It is the
        // library's own thread that answers, as it does for an assignment.
        let sought = self.client.seek_partitions(list, SEEK_WAIT)?;
        for element in sought.elements() {
            element.error()?;
        }
        if self.is_paused {
            return Ok(()); // they go on with all others
        }
        self.client.resume(&sought)
    }

    /// Where a partition with this stored position starts.
    pub(super) fn find_start(&self, partition: u32, stored: Option<u64>, range: OffsetRange) -> Result<Active, String> {
        let OffsetRange { first, end } = range;
        let topic = &self.config.topic;
        let next = match stored {
            None => first,
            Some(stored) if stored > end => {
                return Err(format!(
                    "partition {partition} of {topic} ends at {end}, and orders up to {stored} are stored: the topic lost \
                     messages, or the store is of another cluster; restore the topic, or use another group to read it from \
                     its start"
                ));
            }
            Some(stored) if stored < first => {
                let lost = first - stored;
                tracing::error!(
                    partition,
                    lost,
                    "messages were deleted from the topic before they were read; going on after them"
                );
                self.metrics.lost.inc_by(lost);
                first
            }
            Some(stored) => stored,
        };
        Ok(Active { next, durable: next, end, is_held: false, reached: next })
    }
}
