//! What the brokers say of a topic: which one of its name it is, and what this client may do with it.

use std::ffi::CString;
use std::fmt;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use rdkafka::bindings as c;
use rdkafka::client::{Client, ClientContext};
use rdkafka::error::RDKafkaErrorCode;

use super::admin_question::AdminQuestion;

/// Which topic of a name it is: one that was deleted and made again has another id. Shown as Kafka's tools show it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TopicId([u8; 16]);

impl fmt::Display for TopicId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&URL_SAFE_NO_PAD.encode(self.0))
    }
}

/// A topic that is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Look {
    /// `None` from brokers that know no ids (Kafka before 2.8).
    pub id: Option<TopicId>,
    /// Whether this client may read it; brokers that do not say so do not forbid it.
    pub is_readable: bool,
    /// How many partitions it has. They are numbered from 0.
    pub partitions: u32,
}

/// A question about a topic, under way: see [`AdminQuestion`].
#[derive(Debug)]
pub struct TopicLook(AdminQuestion);

impl TopicLook {
    /// Asks the brokers of this client about a topic. There is an answer after `within` at the latest.
    ///
    /// # Panics
    /// Where the name has a zero byte; no client is made for such a topic.
    #[expect(unsafe_code, reason = "the library has the call, its binding for Rust does not")]
    pub fn ask<C: ClientContext>(client: &Client<C>, topic: &str, within: Duration) -> Self {
        let name = CString::new(topic).expect("a name without a zero byte");
        let mut names = [name.as_ptr()];
        let operation = c::rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBETOPICS;
        // SAFETY: the library copies names and options, and the collection is given back once.
        Self(unsafe {
            AdminQuestion::ask(client, operation, within, |rk, options, queue| {
                // Does not fail for this operation.
                c::rd_kafka_AdminOptions_set_include_authorized_operations(options, 1);
                let topics = c::rd_kafka_TopicCollection_of_topic_names(names.as_mut_ptr(), names.len());
                c::rd_kafka_DescribeTopics(rk, topics, options, queue);
                c::rd_kafka_TopicCollection_destroy(topics);
            })
        })
    }

    /// The answer, once it is there.
    ///
    /// # Errors
    /// Why the topic cannot be looked at: it is not there, it may not be looked at, or no broker answers.
    #[expect(unsafe_code, reason = "the library has the call, its binding for Rust does not")]
    pub fn take(&self) -> Option<Result<Look, RDKafkaErrorCode>> {
        // SAFETY: the event lives until it is read.
        self.0.take(|event| unsafe { answer(event) })
    }
}

#[expect(unsafe_code, reason = "the library has the call, its binding for Rust does not")]
unsafe fn answer(event: *mut c::rd_kafka_event_t) -> Result<Look, RDKafkaErrorCode> {
    // SAFETY: the caller has an event that lives until this returns; all pointers below are into it.
    unsafe {
        super::checked(c::rd_kafka_event_error(event))?;
        let result = c::rd_kafka_event_DescribeTopics_result(event);
        if result.is_null() {
            return Err(RDKafkaErrorCode::BadMessage); // the answer to something else
        }
        let mut count = 0;
        let topics = c::rd_kafka_DescribeTopics_result_topics(result, &raw mut count);
        if count != 1 {
            return Err(RDKafkaErrorCode::UnknownTopicOrPartition);
        }
        let topic = *topics;
        let error = c::rd_kafka_TopicDescription_error(topic);
        if !error.is_null() {
            super::checked(c::rd_kafka_error_code(error))?;
        }
        let uuid = c::rd_kafka_TopicDescription_topic_id(topic);
        let bits = (c::rd_kafka_Uuid_most_significant_bits(uuid), c::rd_kafka_Uuid_least_significant_bits(uuid));
        let id = (bits != (0, 0)).then(|| {
            let mut bytes = [0; 16];
            bytes[..8].copy_from_slice(&bits.0.to_be_bytes());
            bytes[8..].copy_from_slice(&bits.1.to_be_bytes());
            TopicId(bytes)
        });
        let mut count = 0;
        let operations = c::rd_kafka_TopicDescription_authorized_operations(topic, &raw mut count);
        let mut is_readable = operations.is_null() || count == 0;
        for n in 0..count {
            is_readable |= matches!(
                *operations.add(n),
                c::rd_kafka_AclOperation_t::RD_KAFKA_ACL_OPERATION_READ
                    | c::rd_kafka_AclOperation_t::RD_KAFKA_ACL_OPERATION_ALL
            );
        }
        let mut partitions = 0;
        c::rd_kafka_TopicDescription_partitions(topic, &raw mut partitions);
        Ok(Look { id, is_readable, partitions: u32::try_from(partitions).unwrap_or(u32::MAX) })
    }
}
