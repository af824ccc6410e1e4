//! A topic, its dead letter topic and a group of a test's own. Owns what is sent there and what is found there; knows
//! nothing of what becomes of orders.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use order_service::kafka::broker_watch::{BrokerWatch, STATISTICS_EVERY, Watched};
use order_service::kafka::topic_look::TopicLook;
use rdkafka::ClientConfig;
use rdkafka::admin::{AdminClient, AdminOptions, AlterConfig, NewTopic, ResourceSpecifier, TopicReplication};
use rdkafka::bindings::rd_kafka_header_add;
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::{IsError as _, KafkaResult};
use rdkafka::message::{Header, Headers, Message as _, OwnedHeaders};
use rdkafka::producer::{DeliveryFuture, FutureProducer, FutureRecord, Producer as _};
use rdkafka::topic_partition_list::{Offset, TopicPartitionList};
use tokio::runtime::Runtime;

use crate::broker::ledger::metric;
use crate::broker::{self, Channel, Letter, Message, Pairs, Place, RECOVERY};
use crate::server::{Server, until};
use crate::servers::{self, Private};

const ASK: Duration = Duration::from_mins(1);

/// Sends to a topic; each thread that sends has its own. It finds a broker that was held again, as the service does:
/// what it has sent may wait for that, and must not be sent again.
pub struct Sender {
    topic: String,
    bootstrap: String,
    brokers: BrokerWatch,
    producer: FutureProducer<Watched>,
    runtime: Runtime,
}

impl broker::Sender for Sender {
    fn send(&self, messages: &[Message]) -> Vec<Place> {
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
        deliveries.into_iter().map(|delivery| self.runtime.block_on(self.delivered(delivery))).collect()
    }
}

impl Sender {
    fn create(config: &ClientConfig, topic: &str) -> Self {
        let mut config = config.clone();
        config.set("statistics.interval.ms", STATISTICS_EVERY.as_millis().to_string());
        let (brokers, bootstrap) = (BrokerWatch::new("test"), config.get("bootstrap.servers").unwrap().into());
        let producer = config.create_with_context(Watched { brokers: brokers.clone() }).unwrap();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        Self { topic: topic.into(), bootstrap, brokers, producer, runtime }
    }

    /// Waits until a message is where it belongs.
    async fn delivered(&self, mut delivery: DeliveryFuture) -> Place {
        loop {
            match tokio::time::timeout(STATISTICS_EVERY, &mut delivery).await {
                Ok(done) => {
                    let done = done.unwrap().map_err(|(error, _)| error).unwrap();
                    return place(done.partition, done.offset);
                }
                Err(_) => self.brokers.recover(self.producer.client(), &self.bootstrap),
            };
        }
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
    /// Makes a topic beside it.
    pub fn make_topic(&self, name: &str, partitions: u32, config: &[(&str, &str)]) {
        let replication = TopicReplication::Fixed(-1);
        let topic = NewTopic { name, num_partitions: partitions.cast_signed(), replication, config: config.to_vec() };
        // A topic of this name may be on its way out.
        until("the topic is made", ASK, || {
            let made = self.sender.runtime.block_on(self.admin.create_topics([&topic], &options())).unwrap();
            made.iter().all(Result::is_ok).then_some(())
        });
        let consumer: BaseConsumer = client(&self.brokers).set("group.id", "looks").create().unwrap();
        until("the topic has its leaders", ASK, || {
            let metadata = consumer.fetch_metadata(Some(name), ASK).ok()?;
            let found = metadata.topics().first()?;
            let has_leaders = found.partitions().iter().all(|partition| partition.leader() >= 0);
            (found.partitions().len() == partitions as usize && has_leaders).then_some(())
        });
    }

    /// Gives a topic these properties, and no others.
    pub fn alter(&self, name: &str, properties: &[(&str, &str)]) {
        let mut config = AlterConfig::new(ResourceSpecifier::Topic(name));
        for (property, value) in properties {
            config = config.set(property, value);
        }
        let altered = self.sender.runtime.block_on(self.admin.alter_configs([&config], &options())).unwrap();
        assert!(altered.iter().all(Result::is_ok), "{altered:?}");
    }

    /// Deletes the topic.
    pub fn delete(&self) {
        self.delete_topic(&self.name);
    }

    fn delete_topic(&self, name: &str) {
        let deleted = self.sender.runtime.block_on(self.admin.delete_topics(&[name], &options())).unwrap();
        assert!(deleted.iter().all(Result::is_ok), "{deleted:?}");
    }

    /// Sends a message with headers of these names, which need not be text.
    #[expect(unsafe_code, reason = "the binding takes text for names")]
    pub fn send_with_header_names(&self, value: &str, names: &[&[u8]]) {
        let headers = OwnedHeaders::new();
        let native = std::ptr::from_ref(headers.as_borrowed()).cast_mut().cast();
        for name in names {
            let (value, length) = (b"a value", name.len().cast_signed());
            // SAFETY: the headers live until they are sent, and the library copies name and value.
            let added = unsafe {
                rd_kafka_header_add(
                    native,
                    name.as_ptr().cast(),
                    length,
                    value.as_ptr().cast(),
                    value.len().cast_signed(),
                )
            };
            assert!(!added.is_error(), "{added:?}");
        }
        let mut record = FutureRecord::<[u8], [u8]>::to(&self.name).headers(headers);
        record.payload = Some(value.as_bytes());
        let delivery = self.sender.producer.send_result(record).map_err(|(error, _)| error).unwrap();
        self.sender.runtime.block_on(self.sender.delivered(delivery));
    }

    /// Sends these in a transaction, which is then committed or aborted.
    pub fn send_transaction(&self, messages: &[Message], is_committed: bool) {
        let mut config = client(&self.brokers);
        config.set("transactional.id", format!("{}-writer", self.name));
        let sender = Sender::create(&config, &self.name);
        sender.producer.init_transactions(ASK).unwrap();
        sender.producer.begin_transaction().unwrap();
        broker::Sender::send(&sender, messages);
        let ended =
            if is_committed { sender.producer.commit_transaction(ASK) } else { sender.producer.abort_transaction(ASK) };
        ended.unwrap();
    }

    /// To a topic beside it.
    pub fn sender_to(&self, topic: &str) -> Sender {
        sender(&self.brokers, topic)
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

impl Channel for Topic {
    const SOURCE: &'static str = "kafka";
    const NOT_CONNECTED: &'static str = "not connected to Kafka";
    const LETTERS_GATE: &'static str = "dead-letters";
    const ADVICE: &'static str = "use another group";
    const HAS_KEYS: bool = true;
    const LETTERS_COME_ONCE: bool = false;
    const ADDED_HEADER_BYTES: RangeInclusive<u64> = 0..=0;
    const NOWHERE: &'static [&'static str] = &["--kafka", "127.0.0.1:1"];
    // With a name in the group it need not wait until its own former life has timed out.
    const ALONE: &'static [&'static str] = &["--kafka-instance-id", "one"];
    const IMPATIENT: &'static [&'static str] = &["--kafka-session-timeout", "9s"];

    type Sender = Sender;

    fn named() -> Option<Self> {
        servers::kafka().map(|brokers| Self::named_on(&brokers))
    }

    fn named_on(brokers: &str) -> Self {
        static NAMED: AtomicU32 = AtomicU32::new(0);
        let name = format!("t{}-{}", std::process::id(), NAMED.fetch_add(1, Ordering::Relaxed));
        let admin = client(brokers).create().unwrap();
        let (dlq, group) = (format!("{name}.dlq"), format!("{name}-group"));
        Self { brokers: brokers.into(), sender: sender(brokers, &name), name, dlq, group, admin }
    }

    fn private() -> Option<Private> {
        Private::kafka(1)
    }

    fn make(&self, partitions: u32) {
        self.make_topic(&self.name, partitions, &[]);
    }

    fn make_dlq(&self, bytes_max: Option<u32>) {
        let bytes_max = bytes_max.map(|bytes| bytes.to_string());
        let config: Vec<_> = bytes_max.iter().map(|bytes| ("max.message.bytes", bytes.as_str())).collect();
        self.make_topic(&self.dlq, 1, &config);
    }

    fn delete_dlq(&self) {
        self.delete_topic(&self.dlq);
    }

    /// It is not made yet.
    fn with_other_dlq(self) -> Self {
        Self { dlq: format!("{}.other", self.dlq), ..self }
    }

    fn delete_before(&self, (partition, offset): Place) {
        let mut list = TopicPartitionList::new();
        list.add_partition_offset(&self.name, partition.cast_signed(), Offset::Offset(offset.cast_signed())).unwrap();
        let deleted = self.sender.runtime.block_on(self.admin.delete_records(&list, &options())).unwrap();
        deleted.elements().iter().for_each(|element| element.error().unwrap());
    }

    fn flags(&self) -> Vec<&str> {
        let Self { brokers, name, dlq, group, .. } = self;
        vec!["--kafka", brokers, "--kafka-topic", name, "--kafka-dlq-topic", dlq, "--kafka-group", group]
    }

    fn sender(&self) -> Sender {
        sender(&self.brokers, &self.name)
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn source(&self) -> String {
        let id = until("the topic is there", ASK, || {
            let look = TopicLook::ask(self.sender.producer.client(), &self.name, ASK);
            until("Kafka says which topic it is", ASK, || look.take()).ok()?.id
        });
        format!("kafka:{}:{}#{id}", self.group, self.name)
    }

    fn ends(&self) -> BTreeMap<u32, u64> {
        let consumer: BaseConsumer = client(&self.brokers).set("group.id", "looks").create().unwrap();
        let ends = ends(&consumer, &self.name).expect("the topic is there").into_iter();
        ends.filter(|(_, end)| *end > 0).map(|(partition, end)| place(partition, end)).collect()
    }

    fn acknowledged(&self) -> BTreeMap<u32, u64> {
        let consumer: BaseConsumer = client(&self.brokers).set("group.id", &self.group).create().unwrap();
        let mut list = TopicPartitionList::new();
        for &partition in self.ends().keys() {
            list.add_partition(&self.name, partition.cast_signed());
        }
        let committed = answered(|| consumer.committed_offsets(list.clone(), ASK));
        let raw = |element: &rdkafka::topic_partition_list::TopicPartitionListElem<'_>| {
            Some(place(element.partition(), element.offset().to_raw().filter(|offset| *offset >= 0)?))
        };
        committed.elements().iter().filter_map(raw).collect()
    }

    fn wait_acknowledged(&self) {
        let ends = self.ends();
        until("the group's offsets are the ends of the topic", RECOVERY, || {
            (self.acknowledged() == ends).then_some(())
        });
    }

    fn letters(&self) -> Vec<Letter> {
        self.read(&self.dlq)
    }

    fn various_headers() -> Pairs {
        vec![
            ("trace".into(), Some(b"00-ab\xff".to_vec())),
            ("empty".into(), Some(Vec::new())),
            ("none".into(), None),
            ("trace".into(), Some(b"again".to_vec())),
        ]
    }

    fn assert_kept(&self, message: &Message, letter: &Letter) {
        assert_eq!((&letter.key, &letter.value), (&message.key, &message.value));
        assert_eq!(letter.timestamp, message.timestamp, "of {message:?}");
        let (theirs, ours) = letter.headers.split_at(message.headers.len());
        assert_eq!(theirs, message.headers);
        let names: Vec<_> = ours.iter().map(|(name, _)| name.as_str()).collect();
        let expected = ["topic", "partition", "offset", "stage", "exception.class.name", "exception.message"];
        assert_eq!(names, expected.map(|name| format!("__connect.errors.{name}")), "of {message:?}");
    }

    /// What is sent and stored next tells.
    fn wait_found_again(&self, _: &Server, _: u64) {}

    /// Longer than a produce or a fetch takes. The library says nothing of it, so there is only the time; a slow machine
    /// holds them longer, which is harder.
    fn wait_held_for_long(_: &Server) {
        std::thread::sleep(Duration::from_secs(4));
    }

    /// Two sessions of [`Self::IMPATIENT`] and more. That time passes is what is tested: on a slow machine it is more.
    fn patience(&self) -> impl FnMut() -> bool {
        let since = Instant::now();
        move || since.elapsed() > Duration::from_secs(20)
    }

    fn is_undisturbed(server: &Server) -> bool {
        metric(server, "kafka_rebalances_total")[""] == 1
    }

    fn lag(server: &Server) -> u64 {
        metric(server, "kafka_lag").values().sum()
    }
}

fn place(partition: i32, offset: i64) -> Place {
    (partition.unsigned_abs(), offset.unsigned_abs())
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
    config
        .set("enable.idempotence", "true")
        .set("message.timeout.ms", RECOVERY.as_millis().to_string())
        .set("linger.ms", "1");
    Sender::create(&config, topic)
}

fn ends(consumer: &BaseConsumer, topic: &str) -> Option<BTreeMap<i32, i64>> {
    let metadata = answered(|| consumer.fetch_metadata(Some(topic), ASK));
    let found = metadata.topics().iter().find(|found| found.name() == topic && found.error().is_none())?;
    let end = |id| (id, answered(|| consumer.fetch_watermarks(topic, id, ASK)).1);
    Some(found.partitions().iter().map(|partition| end(partition.id())).collect())
}

/// A broker that was just started may not lead its partitions yet.
fn answered<T>(ask: impl Fn() -> KafkaResult<T>) -> T {
    let end = Instant::now() + RECOVERY;
    loop {
        match ask() {
            Ok(answer) => return answer,
            Err(error) => assert!(Instant::now() < end, "{error}"),
        }
        std::thread::sleep(Duration::from_millis(100));
    }
}
