//! The client of the library, and what its callbacks say: rebalances of the group and statistics. They are noted here,
//! and the thread that owns the consumer acts on them.

use std::collections::{BTreeMap, VecDeque};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use rdkafka::client::ClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer as _, ConsumerContext};
use rdkafka::error::{KafkaError, KafkaResult};
use rdkafka::statistics::Statistics;
use rdkafka::topic_partition_list::TopicPartitionList;
use rdkafka::types::RDKafkaRespErr;

use crate::kafka::Config;
use crate::kafka::broker_watch::{self, BrokerWatch};
use crate::sync::lock;

/// What rebalances say, on the way to the queue.
pub(super) struct Context {
    pub(super) shared: Arc<Mutex<VecDeque<Rebalance>>>,
    pub(super) topic: String,
    pub(super) fetched: Mutex<BTreeMap<u32, Fetched>>,
    pub(super) brokers: BrokerWatch,
    /// The thread is done with this consumer and answers no rebalance any more.
    pub(super) is_closing: AtomicBool,
}

/// What the statistics say of a partition.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Fetched {
    /// Up to where it was fetched and taken. Beyond the last message by what is none: ends of
    /// transactions, messages of aborted ones.
    pub(super) reached: Option<u64>,
    /// Where it ended when something was fetched of it for the last time. Behind the truth where
    /// nothing is.
    pub(super) end: Option<u64>,
}

pub(super) enum Rebalance {
    Assigned(Vec<u32>),
    Revoked(Vec<u32>),
}

impl ClientContext for Context {
    fn log(&self, level: rdkafka::config::RDKafkaLogLevel, facility: &str, message: &str) {
        broker_watch::log(level, facility, message);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        broker_watch::failed(&error, reason);
    }

    fn stats(&self, statistics: Statistics) {
        self.brokers.note(&statistics);
        let Some(topic) = statistics.topics.get(&self.topic) else { return };
        let mut fetched = lock(&self.fetched);
        for partition in topic.partitions.values() {
            let Ok(id) = u32::try_from(partition.partition) else { continue };
            let fetched = fetched.entry(id).or_default();
            if let (Ok(next), 0) = (u64::try_from(partition.next_offset), partition.fetchq_cnt) {
                fetched.reached = Some(next);
            }
            // The last stable offset is the high watermark where transactions are not waited for.
            fetched.end = u64::try_from(partition.ls_offset).ok();
        }
    }
}

impl ConsumerContext for Context {
    /// Neither assigns nor unassigns: the thread does, once it is known where to start and what is durable.
    fn rebalance(&self, consumer: &BaseConsumer<Self>, error: RDKafkaRespErr, list: &mut TopicPartitionList) {
        if self.is_closing.load(Ordering::Acquire) {
            let _ = consumer.unassign();
            return;
        }
        let partitions = list.elements().iter().map(|element| element.partition().unsigned_abs()).collect();
        let said = match error {
            RDKafkaRespErr::RD_KAFKA_RESP_ERR__ASSIGN_PARTITIONS => Rebalance::Assigned(partitions),
            _ => Rebalance::Revoked(partitions),
        };
        lock(&self.shared).push_back(said);
    }

    fn commit_callback(&self, result: KafkaResult<()>, _: &TopicPartitionList) {
        if let Err(error) = result {
            tracing::debug!(%error, "offsets not committed to the broker");
        }
    }
}

pub(super) fn subscribe(
    config: &Config,
    rebalances: &Arc<Mutex<VecDeque<Rebalance>>>,
) -> KafkaResult<BaseConsumer<Context>> {
    let context = Context {
        shared: Arc::clone(rebalances),
        topic: config.topic.clone(),
        fetched: Mutex::default(),
        brokers: BrokerWatch::new("consumer"),
        is_closing: AtomicBool::new(false),
    };
    let consumer: BaseConsumer<Context> = config.consumer().create_with_context(context)?;
    consumer.subscribe(&[&config.topic])?;
    Ok(consumer)
}

/// Gives everything back. Dropping the consumer then leaves the group, unless this member has a name of its own: to
/// unsubscribe before that would make such a one leave too, and its partitions move for a short restart.
pub(super) fn close(consumer: &BaseConsumer<Context>) {
    consumer.context().is_closing.store(true, Ordering::Release);
    let _ = consumer.unassign();
}
