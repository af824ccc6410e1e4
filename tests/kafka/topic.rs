//! A topic, its dead letter topic and a group of a test's own. Owns what is sent there and what is found there; knows
//! nothing of what becomes of orders.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaResult;
use rdkafka::message::{Header, Headers, Message as _, OwnedHeaders};
use rdkafka::producer::{FutureProducer, FutureRecord, Producer as _};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use tokio::runtime::Runtime;

use crate::servers;

const ASK: Duration = Duration::from_secs(20);

/// Where a message is.
pub type Place = (i32, i64);
/// Names and values, in order.
pub type Pairs = Vec<(String, Option<Vec<u8>>)>;

/// A message to be sent.
#[derive(Debug, Clone, Default)]
pub struct Message {
    pub key: Option<Vec<u8>>,
    pub value: Option<Vec<u8>>,
    pub timestamp: Option<i64>,
    pub headers: Pairs,
}

impl Message {
    /// Just a value.
    pub fn new(value: impl Into<Vec<u8>>) -> Self {
        Self { value: Some(value.into()), ..Self::default() }
    }

    /// A key with a null value.
    pub fn tombstone(key: &str) -> Self {
        Self { key: Some(key.into()), ..Self::default() }
    }

    pub fn key(mut self, key: impl Into<Vec<u8>>) -> Self {
        self.key = Some(key.into());
        self
    }
}

/// A message found in a topic.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Letter {
    pub key: Option<Vec<u8>>,
    pub value: Option<Vec<u8>>,
    pub timestamp: Option<i64>,
    pub headers: Pairs,
}

impl Letter {
    /// The last header of this name, as text.
    pub fn header(&self, name: &str) -> &str {
        let (_, value) = self.headers.iter().rev().find(|(known, _)| known == name).unwrap_or_else(|| {
            panic!("no header {name} in {:?}", self.headers);
        });
        std::str::from_utf8(value.as_deref().unwrap_or_default()).unwrap()
    }

    /// Its key, as text.
    pub fn key(&self) -> &str {
        std::str::from_utf8(self.key.as_deref().unwrap_or_default()).unwrap()
    }

    /// Where the message was that this is about.
    pub fn origin(&self) -> Place {
        let number = |name| self.header(name).parse::<i64>().unwrap();
        (number("__connect.errors.partition") as i32, number("__connect.errors.offset"))
    }
}

/// Sends to a topic; made anew for each thread that sends.
pub struct Sender {
    topic: String,
    producer: FutureProducer,
    runtime: Runtime,
}

impl Sender {
    /// Sends these in order and waits until all are there, however often the brokers go away meanwhile.
    pub fn send(&self, messages: &[Message]) -> Vec<Place> {
        let deliveries: Vec<_> = messages
            .iter()
            .map(|message| {
                let mut record = FutureRecord::<[u8], [u8]>::to(&self.topic);
                record.key = message.key.as_deref();
                record.payload = message.value.as_deref();
                record.timestamp = message.timestamp;
                let mut headers = OwnedHeaders::new();
                for (key, value) in &message.headers {
                    headers = headers.insert(Header { key, value: value.as_deref() });
                }
                if !message.headers.is_empty() {
                    record = record.headers(headers);
                }
                self.producer.send_result(record).map_err(|(error, _)| error).unwrap()
            })
            .collect();
        let delivered = |delivery: rdkafka::producer::DeliveryFuture| {
            let delivery = self.runtime.block_on(delivery).unwrap().map_err(|(error, _)| error).unwrap();
            (delivery.partition, delivery.offset)
        };
        deliveries.into_iter().map(delivered).collect()
    }
}

/// The topics and the group of a test.
pub struct Topic {
    pub brokers: String,
    pub name: String,
    pub dlq: String,
    pub group: String,
    sender: Sender,
    admin: AdminClient<DefaultClientContext>,
}

impl Topic {
    /// A topic on the Kafka that all tests share; its dead letter topic is left to the service to make. `None` where
    /// there is no Kafka.
    pub fn create(partitions: i32) -> Option<Self> {
        servers::kafka().map(|brokers| Self::create_on(&brokers, partitions))
    }

    /// On a Kafka of the test's own.
    pub fn create_on(brokers: &str, partitions: i32) -> Self {
        let topic = Self::named_on(brokers);
        topic.make(partitions);
        topic
    }

    /// Names only: nothing is made yet.
    pub fn named_on(brokers: &str) -> Self {
        static NAMED: AtomicU32 = AtomicU32::new(0);
        let name = format!("t{}-{}", std::process::id(), NAMED.fetch_add(1, Ordering::Relaxed));
        let admin = client(brokers).create().unwrap();
        let (dlq, group) = (format!("{name}.dlq"), format!("{name}-group"));
        Self { brokers: brokers.into(), sender: sender(brokers, &name), name, dlq, group, admin }
    }

    /// The same with another dead letter topic, which is not made yet.
    pub fn with_other_dlq(self) -> Self {
        Self { dlq: format!("{}.other", self.dlq), ..self }
    }

    /// Makes the topic.
    pub fn make(&self, partitions: i32) {
        self.make_topic(&self.name, partitions, &[]);
    }

    /// Makes the dead letter topic, with settings of its own.
    pub fn make_dlq(&self, config: &[(&str, &str)]) {
        self.make_topic(&self.dlq, 1, config);
    }

    /// Makes a topic beside it.
    pub fn make_topic(&self, name: &str, partitions: i32, config: &[(&str, &str)]) {
        let replication = TopicReplication::Fixed(-1);
        let topic = NewTopic { name, num_partitions: partitions, replication, config: config.to_vec() };
        // A topic of this name may be on its way out.
        crate::server::until("the topic is made", ASK, || {
            let made = self.sender.runtime.block_on(self.admin.create_topics([&topic], &options())).unwrap();
            made.iter().all(Result::is_ok).then_some(())
        });
        let consumer: BaseConsumer = client(&self.brokers).set("group.id", "looks").create().unwrap();
        crate::server::until("the topic has its leaders", ASK, || {
            let metadata = consumer.fetch_metadata(Some(name), ASK).ok()?;
            let found = metadata.topics().first()?;
            let has_leaders = found.partitions().iter().all(|partition| partition.leader() >= 0);
            (found.partitions().len() == partitions.unsigned_abs() as usize && has_leaders).then_some(())
        });
    }

    /// Deletes the topic.
    pub fn delete(&self) {
        self.delete_topic(&self.name);
    }

    /// Deletes the dead letter topic.
    pub fn delete_dlq(&self) {
        self.delete_topic(&self.dlq);
    }

    fn delete_topic(&self, name: &str) {
        let deleted = self.sender.runtime.block_on(self.admin.delete_topics(&[name], &options())).unwrap();
        assert!(deleted.iter().all(Result::is_ok), "{deleted:?}");
    }

    /// Deletes what a partition has below an offset.
    pub fn delete_records(&self, partition: i32, below: i64) {
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(&self.name, partition, Offset::Offset(below)).unwrap();
        let deleted = self.sender.runtime.block_on(self.admin.delete_records(&list, &options())).unwrap();
        deleted.elements().iter().for_each(|element| element.error().unwrap());
    }

    /// What a service needs to be told to take orders from here.
    pub fn flags(&self) -> Vec<&str> {
        let Self { brokers, name, dlq, group, .. } = self;
        vec!["--kafka", brokers, "--kafka-topic", name, "--kafka-dlq-topic", dlq, "--kafka-group", group]
    }

    /// As [`Self::flags`], with more.
    pub fn flags_with<'a>(&'a self, more: &[&'a str]) -> Vec<&'a str> {
        [&self.flags()[..], more].concat()
    }

    /// Sends these in order and waits until all are there.
    pub fn send(&self, messages: &[Message]) -> Vec<Place> {
        self.sender.send(messages)
    }

    /// Sends these in a transaction, which is then committed or aborted.
    pub fn send_transaction(&self, messages: &[Message], is_committed: bool) {
        let mut config = client(&self.brokers);
        config.set("transactional.id", format!("{}-writer", self.name));
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let sender = Sender { topic: self.name.clone(), producer: config.create().unwrap(), runtime };
        sender.producer.init_transactions(ASK).unwrap();
        sender.producer.begin_transaction().unwrap();
        sender.send(messages);
        let ended =
            if is_committed { sender.producer.commit_transaction(ASK) } else { sender.producer.abort_transaction(ASK) };
        ended.unwrap();
    }

    /// Sends one.
    pub fn send_one(&self, message: Message) -> Place {
        self.send(&[message])[0]
    }

    /// To a topic beside it.
    pub fn sender_to(&self, topic: &str) -> Sender {
        sender(&self.brokers, topic)
    }

    /// For another thread.
    pub fn sender(&self) -> Sender {
        sender(&self.brokers, &self.name)
    }

    /// The offsets at which the partitions end.
    pub fn ends(&self) -> BTreeMap<i32, i64> {
        let consumer: BaseConsumer = client(&self.brokers).set("group.id", "looks").create().unwrap();
        ends(&consumer, &self.name).expect("the topic is there")
    }

    /// How far the service has told the brokers that it is, which it does after all else. Empty before it has.
    pub fn committed(&self) -> BTreeMap<i32, i64> {
        let consumer: BaseConsumer = client(&self.brokers).set("group.id", &self.group).create().unwrap();
        let mut list = TopicPartitionList::new();
        for &partition in self.ends().keys() {
            list.add_partition(&self.name, partition);
        }
        let committed = consumer.committed_offsets(list, ASK).unwrap();
        let raw = |element: &rdkafka::topic_partition_list::TopicPartitionListElem<'_>| {
            Some((element.partition(), element.offset().to_raw().filter(|offset| *offset >= 0)?))
        };
        committed.elements().iter().filter_map(raw).collect()
    }

    /// Waits until the service has told the brokers that everything is dealt with.
    pub fn wait_committed(&self) {
        let ends: BTreeMap<_, _> = self.ends().into_iter().filter(|(_, end)| *end > 0).collect();
        crate::server::until("the group's offsets are the ends of the topic", super::RECOVERY, || {
            let mut committed = self.committed();
            committed.retain(|partition, _| ends.contains_key(partition));
            (committed == ends).then_some(())
        });
    }

    /// Everything in the dead letter topic; nothing when there is none.
    pub fn letters(&self) -> Vec<Letter> {
        self.read(&self.dlq)
    }

    /// Everything in a topic, partition by partition; nothing when there is none.
    pub fn read(&self, topic: &str) -> Vec<Letter> {
        let consumer: BaseConsumer =
            client(&self.brokers).set("group.id", "looks").set("enable.auto.commit", "false").create().unwrap();
        let Some(mut left) = ends(&consumer, topic) else { return Vec::new() };
        let mut list = TopicPartitionList::new();
        for &partition in left.keys() {
            list.add_partition_offset(topic, partition, Offset::Beginning).unwrap();
        }
        consumer.assign(&list).unwrap();
        left.retain(|_, end| *end > 0);
        let mut letters = Vec::new();
        let until = Instant::now() + ASK;
        while !left.is_empty() {
            assert!(Instant::now() < until, "{topic} is not read to its end: {left:?}");
            let Some(Ok(message)) = consumer.poll(Duration::from_millis(100)) else { continue };
            if left.get(&message.partition()).is_some_and(|end| message.offset() + 1 >= *end) {
                left.remove(&message.partition());
            }
            let pair = |header: Header<'_, &[u8]>| (header.key.to_owned(), header.value.map(<[u8]>::to_vec));
            letters.push(Letter {
                key: message.key().map(<[u8]>::to_vec),
                value: message.payload().map(<[u8]>::to_vec),
                timestamp: message.timestamp().to_millis(),
                headers: message.headers().into_iter().flat_map(|headers| headers.iter().map(pair)).collect(),
            });
        }
        letters
    }
}

fn options() -> AdminOptions {
    AdminOptions::new().request_timeout(Some(ASK)).operation_timeout(Some(ASK))
}

fn client(brokers: &str) -> ClientConfig {
    let mut client = ClientConfig::new();
    client
        .set("bootstrap.servers", brokers)
        .set("reconnect.backoff.max.ms", "500")
        .set("topic.metadata.propagation.max.ms", "1000")
        .set("log_level", "2");
    client
}

fn sender(brokers: &str, topic: &str) -> Sender {
    let mut config = client(brokers);
    config.set("enable.idempotence", "true").set("message.timeout.ms", "60000").set("linger.ms", "1");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    Sender { topic: topic.into(), producer: config.create().unwrap(), runtime }
}

fn ends(consumer: &BaseConsumer, topic: &str) -> Option<BTreeMap<i32, i64>> {
    let metadata = answered(|| consumer.fetch_metadata(Some(topic), ASK));
    let found = metadata.topics().iter().find(|found| found.name() == topic && found.error().is_none())?;
    let end = |id| (id, answered(|| consumer.fetch_watermarks(topic, id, ASK)).1);
    Some(found.partitions().iter().map(|partition| end(partition.id())).collect())
}

/// A broker that was just started may not lead its partitions yet.
fn answered<T>(ask: impl Fn() -> KafkaResult<T>) -> T {
    let end = Instant::now() + super::RECOVERY;
    loop {
        match ask() {
            Ok(answer) => return answer,
            Err(error) => assert!(Instant::now() < end, "{error}"),
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}
