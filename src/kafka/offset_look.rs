//! What the brokers say of where partitions start and end, asked of all of them at once.

use std::collections::BTreeMap;
use std::time::Duration;

use rdkafka::bindings as c;
use rdkafka::client::{Client, ClientContext};
use rdkafka::error::RDKafkaErrorCode;
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};

use super::admin_question::AdminQuestion;

/// Where a partition starts and ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OffsetRange {
    /// The offset of its first message.
    pub first: u64,
    /// The offset after its last message that may be read.
    pub end: u64,
}

/// What the brokers said.
#[derive(Debug, Default)]
pub struct OffsetRanges {
    /// The partitions of which both offsets are known.
    pub known: BTreeMap<u32, OffsetRange>,
    /// Why not all are. There is always a reason.
    pub error: Option<RDKafkaErrorCode>,
}

/// A question about partitions of a topic, under way.
///
/// An answer waits behind the long poll of the same connection (`fetch.wait.max.ms`): asked for one
/// partition after another by the thread that polls, it holds up the messages of them all. This
/// takes two requests to each broker, however many partitions there are, and neither asking nor
/// [`OffsetLook::take`] blocks: see [`AdminQuestion`].
#[derive(Debug)]
pub struct OffsetLook {
    starts: Listing,
    ends: Listing,
    partitions: Vec<u32>,
}

impl OffsetLook {
    /// Asks the brokers of this client about partitions of a topic. To find their leaders takes as
    /// long as `within` at most, and so does the answer of each. With `is_committed`, messages of
    /// transactions that have not ended are beyond the end.
    #[must_use]
    pub fn ask<C: ClientContext>(
        client: &Client<C>,
        topic: &str,
        partitions: impl IntoIterator<Item = u32>,
        is_committed: bool,
        within: Duration,
    ) -> Self {
        let partitions: Vec<u32> = partitions.into_iter().collect();
        let ask = |at| Listing::ask(client, &list(topic, &partitions, at), is_committed, within);
        Self { starts: ask(Offset::Beginning), ends: ask(Offset::End), partitions }
    }

    /// The answer, once it is there.
    pub fn take(&mut self) -> Option<OffsetRanges> {
        if !self.starts.is_answered() || !self.ends.is_answered() {
            return None;
        }
        let mut ranges = OffsetRanges::default();
        for &partition in &self.partitions {
            match (self.starts.offset(partition), self.ends.offset(partition)) {
                (Ok(first), Ok(end)) if first <= end => {
                    ranges.known.insert(partition, OffsetRange { first, end });
                }
                // The topic was made again between the two.
                (Ok(_), Ok(_)) => ranges.error = Some(RDKafkaErrorCode::OffsetNotAvailable),
                (Err(code), _) | (_, Err(code)) => ranges.error = Some(code),
            }
        }
        Some(ranges)
    }
}

fn list(topic: &str, partitions: &[u32], at: Offset) -> TopicPartitionList {
    let mut list = TopicPartitionList::with_capacity(partitions.len());
    for &partition in partitions {
        // Fails only for offsets that are none.
        let _ = list.add_partition_offset(topic, i32::try_from(partition).unwrap_or(i32::MAX), at);
    }
    list
}

type Answer = Result<BTreeMap<u32, Result<u64, RDKafkaErrorCode>>, RDKafkaErrorCode>;

/// One of the two.
#[derive(Debug)]
struct Listing {
    question: AdminQuestion,
    answer: Option<Answer>,
}

impl Listing {
    #[expect(unsafe_code, reason = "the library has the call, its binding for Rust does not")]
    fn ask<C: ClientContext>(
        client: &Client<C>,
        list: &TopicPartitionList,
        is_committed: bool,
        within: Duration,
    ) -> Self {
        use c::rd_kafka_IsolationLevel_t::{
            RD_KAFKA_ISOLATION_LEVEL_READ_COMMITTED as COMMITTED,
            RD_KAFKA_ISOLATION_LEVEL_READ_UNCOMMITTED as UNCOMMITTED,
        };
        let operation = c::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_LISTOFFSETS;
        // SAFETY: the library copies list and options.
        let question = unsafe {
            AdminQuestion::ask(client, operation, within, |rk, options, queue| {
                let isolation = if is_committed { COMMITTED } else { UNCOMMITTED };
                // Does not fail for this operation.
                let error = c::rd_kafka_AdminOptions_set_isolation_level(options, isolation);
                if !error.is_null() {
                    c::rd_kafka_error_destroy(error);
                }
                c::rd_kafka_ListOffsets(rk, list.ptr(), options, queue);
            })
        };
        Self { question, answer: None }
    }

    #[expect(unsafe_code, reason = "the library has the call, its binding for Rust does not")]
    fn is_answered(&mut self) -> bool {
        if self.answer.is_none() {
            // SAFETY: the event lives until it is read.
            self.answer = self.question.take(|event| unsafe { answer(event) });
        }
        self.answer.is_some()
    }

    fn offset(&self, partition: u32) -> Result<u64, RDKafkaErrorCode> {
        match &self.answer {
            // A partition whose broker did not answer has neither an offset nor an error.
            Some(Ok(known)) => known.get(&partition).copied().unwrap_or(Err(RDKafkaErrorCode::OperationTimedOut)),
            Some(Err(code)) => Err(*code),
            None => Err(RDKafkaErrorCode::OperationTimedOut),
        }
    }
}

#[expect(unsafe_code, reason = "the library has the call, its binding for Rust does not")]
unsafe fn answer(event: *mut c::rd_kafka_event_t) -> Answer {
    // SAFETY: the caller has an event that lives until this returns; all pointers below are into
    // it.
    unsafe {
        super::checked(c::rd_kafka_event_error(event))?;
        let result = c::rd_kafka_event_ListOffsets_result(event);
        if result.is_null() {
            return Err(RDKafkaErrorCode::BadMessage); // the answer to something else
        }
        let mut count = 0;
        let infos = c::rd_kafka_ListOffsets_result_infos(result, &raw mut count);
        let mut known = BTreeMap::new();
        for n in 0..count {
            let place = &*c::rd_kafka_ListOffsetsResultInfo_topic_partition(*infos.add(n));
            let offset = match super::checked(place.err) {
                Ok(()) => u64::try_from(place.offset).map_err(|_| RDKafkaErrorCode::OperationTimedOut),
                Err(code) => Err(code),
            };
            known.insert(place.partition.unsigned_abs(), offset);
        }
        Ok(known)
    }
}
