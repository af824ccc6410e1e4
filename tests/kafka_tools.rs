//! `publish --kafka` and `dlq` against a real Kafka: each test has topics of its own. What is read back is held against
//! what the samples, or the test itself, say.

use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::process::Stdio;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use order_service::kafka::Config;
use order_service::order::sample;
use order_service::record::dead;
use rdkafka::admin::{AdminClient, AdminOptions, NewTopic, TopicReplication};
use rdkafka::client::DefaultClientContext;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::error::KafkaError;
use rdkafka::message::{Header, Headers, Message, OwnedHeaders, OwnedMessage};
use rdkafka::metadata::MetadataPartition;
use rdkafka::producer::{BaseProducer, BaseRecord, Producer};
use rdkafka::{Offset, TopicPartitionList};

use crate::cli::{Done, Home};
use crate::server::binary;
use crate::servers;

/// Any answer of Kafka.
const TIME: Duration = Duration::from_secs(90);

/// Kafka, and a directory to run commands in.
struct Kafka {
    bootstrap: String,
    home: Home,
}

impl Kafka {
    fn shared() -> Option<Self> {
        servers::kafka().map(|bootstrap| Self::at(&bootstrap))
    }

    fn at(bootstrap: &str) -> Self {
        Self { bootstrap: bootstrap.to_owned(), home: Home::new() }
    }

    fn config(&self) -> Config {
        Config::new(self.bootstrap.as_str())
    }

    fn topic(&self, partitions: i32) -> String {
        self.topic_with(partitions, &[])
    }

    /// A new topic with a name of its own.
    fn topic_with(&self, partitions: i32, properties: &[(&str, &str)]) -> String {
        static MADE: AtomicU32 = AtomicU32::new(0);
        let name = format!("tools-{}-{}", std::process::id(), MADE.fetch_add(1, Ordering::Relaxed));
        let admin: AdminClient<DefaultClientContext> = self.config().admin().create().unwrap();
        let mut topic = NewTopic::new(&name, partitions, TopicReplication::Fixed(1));
        for (name, value) in properties {
            topic = topic.set(name, value);
        }
        let options = AdminOptions::new().request_timeout(Some(TIME)).operation_timeout(Some(TIME));
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let made = runtime.block_on(admin.create_topics([&topic], &options)).unwrap();
        assert_eq!(made, [Ok(name.clone())]);
        name
    }

    /// Everything in a topic, partition by partition.
    fn read(&self, topic: &str) -> Vec<OwnedMessage> {
        let consumer: BaseConsumer = self.config().reader().create().unwrap();
        let metadata = consumer.fetch_metadata(Some(topic), TIME).unwrap();
        let mut left: Vec<i32> = metadata.topics()[0].partitions().iter().map(MetadataPartition::id).collect();
        let mut start = TopicPartitionList::new();
        for &partition in &left {
            start.add_partition_offset(topic, partition, Offset::Beginning).unwrap();
        }
        consumer.assign(&start).unwrap();
        let (mut messages, end) = (Vec::new(), Instant::now() + TIME);
        while !left.is_empty() {
            match consumer.poll(Duration::from_millis(100)) {
                Some(Ok(message)) => messages.push(message.detach()),
                Some(Err(KafkaError::PartitionEOF(partition))) => left.retain(|&other| other != partition),
                other => assert!(Instant::now() < end, "{:?}", other.map(|other| other.map(|_| ()))),
            }
        }
        messages.sort_by_key(|message| (message.partition(), message.offset()));
        messages
    }

    fn write<'a>(&self, records: impl IntoIterator<Item = BaseRecord<'a, [u8], [u8]>>) {
        let producer: BaseProducer = self.config().producer().create().unwrap();
        for record in records {
            producer.send(record).map_err(|(error, _)| error).unwrap();
        }
        producer.flush(TIME).unwrap();
    }

    fn publish(&self, topic: &str, arguments: &[&str]) -> Done {
        self.home.run(&[&["publish", "--kafka", &self.bootstrap, "--topic", topic], arguments].concat())
    }

    fn dlq(&self, topic: &str, arguments: &[&str]) -> Done {
        let flags = ["--kafka", &self.bootstrap, "--kafka-dlq-topic", topic];
        self.home.run(&[&["dlq"], arguments, &flags].concat())
    }
}

/// Keys and values as text, in a comparable order.
fn pairs(messages: &[OwnedMessage]) -> Vec<(Option<String>, Vec<u8>)> {
    let text = |key: &[u8]| String::from_utf8(key.to_vec()).unwrap();
    let mut pairs: Vec<_> =
        messages.iter().map(|message| (message.key().map(text), message.payload().unwrap().to_vec())).collect();
    pairs.sort();
    pairs
}

fn wb(seed: u64, n: u64) -> Vec<u8> {
    let mut bytes = Vec::new();
    sample::wb(seed, n, &mut bytes);
    bytes
}

#[test]
fn samples_are_keyed_by_their_ids_and_arrive_as_they_are() {
    let Some(kafka) = Kafka::shared() else { return };
    let topic = kafka.topic(3);
    let done = kafka.publish(&topic, &["--count", "2000", "--seed", "5"]).expect(0);
    assert!(done.err.contains("2000 sent, 0 failed"), "{}", done.err);
    let mut expected: Vec<_> = (0..2000).map(|n| (Some(sample::wb_id(5, n)), wb(5, n))).collect();
    expected.sort();
    let messages = kafka.read(&topic);
    assert_eq!(pairs(&messages), expected);
    // The ids that the older publishers used.
    for id in ["", "1", "2", "3", "4", "5"].map(|number| format!("b563feb7b2b84b6test{number}")) {
        assert!(expected.iter().any(|(key, _)| *key == Some(id.clone())), "{id}");
    }
    assert!((0..3).all(|partition| messages.iter().any(|message| message.partition() == partition)));
    assert!(messages.iter().all(|message| message.headers().is_none()));
}

#[test]
fn envelopes_have_no_key_and_invalid_orders_have_one_if_they_have_an_id() {
    let Some(kafka) = Kafka::shared() else { return };
    let topic = kafka.topic(2);
    kafka.publish(&topic, &["--count", "10", "--kind", "envelope"]).expect(0);
    let messages = kafka.read(&topic);
    assert_eq!(messages.len(), 10);
    assert!(messages.iter().all(|message| message.key().is_none()), "they have no id yet");
    let topic = kafka.topic(2);
    kafka.publish(&topic, &["--count", "60", "--invalid", "1"]).expect(0);
    let messages = pairs(&kafka.read(&topic));
    let mut bodies: Vec<_> = messages.iter().map(|(_, body)| body.clone()).collect();
    let mut expected = vec![Vec::new(); 60];
    (0..).zip(&mut expected).for_each(|(n, body)| {
        sample::invalid(0, n, body);
    });
    bodies.sort();
    expected.sort();
    assert_eq!(bodies, expected);
    for (key, body) in messages {
        let json = serde_json::from_slice::<serde_json::Value>(&body).unwrap_or_default();
        let id = json["order_uid"].as_str().filter(|id| !id.is_empty());
        assert_eq!(key.as_deref(), id, "{}", String::from_utf8_lossy(&body));
    }
    let some = kafka.topic(1);
    kafka.publish(&some, &["--count", "100", "--invalid", "0.3"]).expect(0);
    let valid = pairs(&kafka.read(&some)).iter().filter(|(_, body)| (0..100).any(|n| *body == wb(0, n))).count();
    assert!((50..90).contains(&valid), "{valid}");
}

#[test]
fn lines_of_a_file_and_of_standard_input_are_sent_as_they_are() {
    let Some(kafka) = Kafka::shared() else { return };
    let lines = "{\"order_uid\":\"a\" , \"x\":1}\r\n\n \t\nno JSON\n{\"user_id\":1,\"order_id\":\"é\"}\n[{\"order_uid\":\"a\"}]\n{\"order_uid\":\"cut";
    let expected = [
        (Some("a"), "{\"order_uid\":\"a\" , \"x\":1}\r"),
        (None, "no JSON"),
        (Some("é"), "{\"user_id\":1,\"order_id\":\"é\"}"),
        (None, "[{\"order_uid\":\"a\"}]"),
        (None, "{\"order_uid\":\"cut"),
    ];
    let file = kafka.home.write("orders.ndjson", lines);
    for is_file in [true, false] {
        let topic = kafka.topic(1);
        let done = if is_file {
            kafka.publish(&topic, &["--file", file.to_str().unwrap()])
        } else {
            let arguments = ["publish", "--kafka", &kafka.bootstrap, "--topic", &topic, "--file", "-"];
            kafka.home.run_fed(&arguments, lines)
        };
        assert!(done.expect(0).err.contains("5 sent, 0 failed"));
        let messages = kafka.read(&topic);
        let told: Vec<_> = messages
            .iter()
            .map(|message| {
                (
                    message.key().map(|key| str::from_utf8(key).unwrap()),
                    str::from_utf8(message.payload().unwrap()).unwrap(),
                )
            })
            .collect();
        assert_eq!(told, expected);
    }
    let done = kafka.publish("any", &["--file", "missing.ndjson"]);
    assert!(done.expect(1).err.contains("any"), "the topic is looked for first");
    let done = kafka.publish(&kafka.topic(1), &["--file", "missing.ndjson"]).expect(1);
    assert!(done.err.contains("cannot read missing.ndjson"), "{}", done.err);
}

#[test]
fn input_that_comes_slowly_is_sent_as_it_comes() {
    let Some(kafka) = Kafka::shared() else { return };
    let topic = kafka.topic(1);
    let arguments = ["publish", "--kafka", &kafka.bootstrap, "--topic", &topic, "--file", "-"];
    let mut child =
        binary(kafka.home.path()).args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    input.write_all(b"one\ntw").unwrap();
    let end = Instant::now() + TIME;
    while kafka.read(&topic).is_empty() {
        assert!(Instant::now() < end, "a line that is there waits for the next");
    }
    input.write_all(b"o\n").unwrap();
    drop(input);
    Done::wait(child, &arguments).expect(0);
    assert_eq!(pairs(&kafka.read(&topic)), [(None, b"one".to_vec()), (None, b"two".to_vec())]);
}

#[test]
fn a_rate_is_kept() {
    let Some(kafka) = Kafka::shared() else { return };
    // The first may come late, where the machine stops, and is made up for.
    crate::server::until("they are sent one after the other, not all at the end", TIME, || {
        let topic = kafka.topic(1);
        let started = Instant::now();
        kafka.publish(&topic, &["--count", "151", "--rate", "50"]).expect(0);
        assert!(started.elapsed() >= Duration::from_secs(3));
        let messages = kafka.read(&topic);
        let at = |message: &OwnedMessage| message.timestamp().to_millis().unwrap();
        (at(messages.last().unwrap()) - at(&messages[0]) >= 1500).then_some(())
    });
}

#[test]
fn brokers_that_are_not_there_or_not_here_are_refused() {
    let home = Home::new();
    let (_kept, refusing_at) = crate::tools::refusing();
    let refusing_at = refusing_at.to_string();
    let done = home.run(&["publish", "--kafka", &refusing_at]).expect(1);
    let told = format!("order-service: no broker of {refusing_at} answers within 8 s\n");
    assert!(done.err.ends_with(&told), "in its words, not those of a library: {}", done.err);
    let done = home.run(&["dlq", "list", "--kafka", &refusing_at]).expect(1);
    assert!(done.err.contains(&format!("no broker of {refusing_at} answers")), "{}", done.err);
    let done = home.run(&["publish", "--kafka", "127.0.0.1:1,192.0.2.1:9092"]).expect(78);
    assert!(done.err.contains("192.0.2.1:9092 is not this machine; --allow-remote allows it"), "{}", done.err);
    let done = home.run(&["publish", "--kafka", "nonsense"]).expect(78);
    assert!(done.err.contains("nonsense"), "{}", done.err);
    home.run(&["publish", "--kafka", "127.0.0.1:1", "--topic", "no/topic"]).expect(78);
    home.run(&["publish", "--kafka", "127.0.0.1:1", "--http", "http://127.0.0.1:1"]).expect(2);
    home.run(&["publish", "--topic", "orders"]).expect(2);
    for command in [&["list"][..], &["show", "0:0"], &["replay", "--all"]] {
        let done = home.run(&[&["dlq"], command].concat()).expect(78);
        assert!(done.err.contains("--kafka") && done.err.contains("KAFKA_BROKERS"), "{}", done.err);
    }
    for command in
        [&[][..], &["show"], &["show", "17"], &["replay"], &["replay", "--all", "0:1"], &["list", "--limit", "x"]]
    {
        home.run(&[&["dlq"], command].concat()).expect(2);
    }
}

#[test]
fn a_topic_that_is_not_there_is_said_at_once() {
    let Some(kafka) = Kafka::shared() else { return };
    let done = kafka.publish("tools-none", &["--count", "1"]).expect(1);
    assert!(done.err.contains("has no topic tools-none"), "{}", done.err);
    let done = kafka.dlq("tools-none", &["list"]).expect(1);
    assert!(done.err.contains("has no topic tools-none"), "{}", done.err);
}

#[test]
fn what_the_topic_does_not_take_is_counted_and_the_rest_is_sent() {
    let Some(kafka) = Kafka::shared() else { return };
    let topic = kafka.topic_with(1, &[("max.message.bytes", "5000")]);
    let large = "x".repeat(20_000);
    let file = kafka.home.write("large", format!("one\n{large}\ntwo\n"));
    // Sent together they are refused together.
    let done = kafka.publish(&topic, &["--file", file.to_str().unwrap()]).expect(1);
    assert!(done.err.contains("2 sent, 1 failed"), "{}", done.err);
    assert!(done.err.contains(&format!("1 orders are not in {topic}; the first: ")), "{}", done.err);
    assert_eq!(pairs(&kafka.read(&topic)), [(None, b"one".to_vec()), (None, b"two".to_vec())]);
}

#[test]
fn a_kafka_that_goes_away_ends_it() {
    let Some(server) = servers::Private::kafka(1) else { return };
    let kafka = Kafka::at(server.url());
    let topic = kafka.topic(1);
    let arguments = [
        &["publish", "--kafka", &kafka.bootstrap, "--topic", &topic, "--count", "1000000000"][..],
        &["--rate", "1000", "--kafka-property", "message.timeout.ms=10000"],
    ]
    .concat();
    let child = binary(kafka.home.path()).args(&arguments).stdout(Stdio::piped()).spawn().unwrap();
    let end = Instant::now() + TIME;
    let consumer: BaseConsumer = kafka.config().reader().create().unwrap();
    while consumer.fetch_watermarks(&topic, 0, TIME).unwrap().1 == 0 {
        assert!(Instant::now() < end, "nothing was sent");
    }
    server.kill();
    let done = Done::wait(child, &arguments).expect(1);
    assert!(done.err.contains("nothing gets through to"), "{}", done.err);
    assert!(done.err.contains(" sent, ") && !done.err.contains(" 0 failed"), "{}", done.err);
}

/// The headers of a dead letter, after those the message came with.
fn died(own: &[(&str, &str)], source: (&str, i32, i64), reason: &str) -> OwnedHeaders {
    let (topic, partition, offset) = (source.0, source.1.to_string(), source.2.to_string());
    let added = [
        (dead::TOPIC, topic),
        (dead::PARTITION, &partition),
        (dead::OFFSET, &offset),
        (dead::STAGE, "VALUE_CONVERTER"),
        (dead::CLASS, "order_service.malformed"),
        (dead::MESSAGE, reason),
    ];
    own.iter()
        .chain(&added)
        .fold(OwnedHeaders::new(), |headers, &(key, value)| headers.insert(Header { key, value: Some(value) }))
}

fn record<'a>(
    topic: &'a str,
    key: Option<&'a [u8]>,
    value: Option<&'a [u8]>,
    time: i64,
    headers: OwnedHeaders,
) -> BaseRecord<'a, [u8], [u8]> {
    let mut record = BaseRecord::to(topic).partition(0).timestamp(time).headers(headers);
    (record.key, record.payload) = (key, value);
    record
}

/// Some time in November 2026.
const THEN: i64 = 1_795_000_000_000;

#[test]
fn dead_letters_are_listed_newest_last() {
    let Some(kafka) = Kafka::shared() else { return };
    let (dlq, source) = (kafka.topic(2), kafka.topic(1));
    let done = kafka.dlq(&dlq, &["list"]).expect(0);
    assert_eq!(done.out, "", "there are none");
    let headers = |offset, reason: &str| died(&[("trace", "7")], (&source, 3, offset), reason);
    let mut other = record(&dlq, Some(b"k"), Some(b""), THEN + 1, headers(11, "second"));
    other.partition = Some(1);
    kafka.write([
        record(&dlq, Some(b"key"), Some(b"{\"a\":1}"), THEN, headers(10, "/a: first\nof two")),
        record(&dlq, None, Some(b"\xff\x00"), THEN + 2, headers(12, "third")),
        record(&dlq, Some(b"\x1b[2J"), None, THEN + 3, headers(13, "fourth")),
        other,
    ]);
    let list = |arguments: &[&str]| kafka.dlq(&dlq, &[&["list"], arguments].concat()).expect(0).out;
    let expected = [
        format!("0:0  2026-11-18T11:06:40Z  {source}/3/10  key  /a: first\\nof two"),
        format!("1:0  2026-11-18T11:06:40.001Z  {source}/3/11  k  second"),
        format!("0:1  2026-11-18T11:06:40.002Z  {source}/3/12  -  third"),
        format!("0:2  2026-11-18T11:06:40.003Z  {source}/3/13  \\u{{1b}}[2J  fourth"),
    ];
    assert_eq!(list(&[]).lines().collect::<Vec<_>>(), expected);
    assert_eq!(list(&["--limit", "2"]).lines().collect::<Vec<_>>(), expected[2..]);
    assert_eq!(list(&["--limit", "0"]), "");
    let json: Vec<serde_json::Value> =
        list(&["--json"]).lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let first = serde_json::json!({
        "partition": 0, "offset": 0, "time": "2026-11-18T11:06:40Z", "timestamp_ms": THEN,
        "source_topic": source, "source_partition": 3, "source_offset": 10,
        "stage": "VALUE_CONVERTER", "class": "order_service.malformed", "reason": "/a: first\nof two",
        "key": "key", "value": "{\"a\":1}",
        "headers": [
            { "name": "trace", "value": "7" },
            { "name": dead::TOPIC, "value": source },
            { "name": dead::PARTITION, "value": "3" },
            { "name": dead::OFFSET, "value": "10" },
            { "name": dead::STAGE, "value": "VALUE_CONVERTER" },
            { "name": dead::CLASS, "value": "order_service.malformed" },
            { "name": dead::MESSAGE, "value": "/a: first\nof two" },
        ],
    });
    assert_eq!(json[0], first);
    assert_eq!(
        (&json[1]["value"], &json[2]["value_base64"], &json[2]["key"]),
        (&"".into(), &"/wA=".into(), &serde_json::Value::Null)
    );
    assert!(json[2].get("value").is_none() && json[3]["value"].is_null() && json[3]["key"] == "\x1b[2J");
}

#[test]
fn a_dead_letter_is_shown_whole() {
    let Some(kafka) = Kafka::shared() else { return };
    let (dlq, source) = (kafka.topic(1), kafka.topic(1));
    let headers = || died(&[("trace", "7")], (&source, 0, 5), "a reason");
    kafka.write([
        record(&dlq, Some(b"key"), Some(b"{\"a\":1,\"a\":[1e999,{}]}"), THEN, headers()),
        record(&dlq, Some(b"key"), Some(b"{\"a\": 1.50,\"a\":[\" b\",{}]}"), THEN, headers()),
        record(&dlq, None, Some("плохо".as_bytes()), THEN, headers()),
        record(&dlq, None, Some(b"\x00magic"), THEN, headers()),
        record(&dlq, None, None, THEN, OwnedHeaders::new()),
    ]);
    let show = |place: &str| kafka.dlq(&dlq, &["show", place]).expect(0).out;
    let head = format!(
        "dead letter: 0:1 of {dlq}, 2026-11-18T11:06:40Z\nsource: {source}/0/5\nreason: a reason\nheaders:\n  trace: 7\n  {}: {source}\n",
        dead::TOPIC
    );
    let shown = show("0:1");
    assert!(shown.starts_with(&head), "{shown}");
    let json = "key: key\nvalue: 25 bytes\n{\n  \"a\": 1.50,\n  \"a\": [\n    \" b\",\n    {}\n  ]\n}\n";
    assert!(shown.ends_with(json), "{shown}");
    assert!(show("0:0").ends_with("value: 22 bytes\n{\"a\":1,\"a\":[1e999,{}]}\n"), "{}", show("0:0"));
    assert!(show("0:2").ends_with("key: (none)\nvalue: 10 bytes\nплохо\n"), "{}", show("0:2"));
    let hex = "value: 6 bytes\n00000000  00 6d 61 67 69 63                                |.magic|\n";
    assert!(show("0:3").ends_with(hex), "{}", show("0:3"));
    assert!(show("0:4").contains("source: ?/?/?\nreason: -\n") && show("0:4").contains("value: (null)"));
    for (place, reason) in [("0:5", "has 0 to 4"), ("7:0", "has no partition 7")] {
        let done = kafka.dlq(&dlq, &["show", place]).expect(1);
        assert!(done.err.contains(reason) && done.err.contains(place) && done.out.is_empty(), "{}", done.err);
    }
}

#[test]
fn dead_letters_are_sent_back_as_they_came() {
    let Some(kafka) = Kafka::shared() else { return };
    let (dlq, source, other) = (kafka.topic(1), kafka.topic(4), kafka.topic(1));
    let own = [("trace", "7"), ("trace", "8"), ("empty", "")];
    kafka.write([
        record(&dlq, Some(b"a"), Some(b"one"), THEN, died(&own, (&source, 2, 0), "r")),
        record(&dlq, Some(b"made up"), Some(b""), THEN, died(&[(dead::KEY_ADDED, "yes")], (&source, 9, 0), "r")),
        record(&dlq, Some(b"\xff"), None, THEN, died(&[], (&source, 3, 0), "r")),
        record(&dlq, Some(b"d"), Some(b"four"), THEN, died(&[], (&other, 0, 0), "r")),
    ]);
    let before = kafka.read(&dlq);
    let done = kafka.dlq(&dlq, &["replay", "--all"]).expect(0);
    let plan = BTreeMap::from([(&source, 3), (&other, 1)]);
    let plan: String = plan.iter().map(|(topic, count)| format!("would send {count} to {topic}\n")).collect();
    assert_eq!(done.out, format!("{plan}nothing is sent without --yes\n"));
    let done = kafka.dlq(&dlq, &["replay", "0:0", "--topic", &other]).expect(0);
    assert_eq!(done.out, format!("would send 1 to {other}\nnothing is sent without --yes\n"));
    assert!(kafka.read(&source).is_empty() && kafka.read(&other).is_empty());

    let done = kafka.dlq(&dlq, &["replay", "0:0", "0:2", "--yes"]).expect(0);
    assert!(done.out.starts_with("2 sent"), "{}", done.out);
    let messages = kafka.read(&source);
    let [first, third] = &messages[..] else { panic!("{messages:?}") };
    assert_eq!((first.partition(), first.key(), first.payload()), (2, Some(&b"a"[..]), Some(&b"one"[..])));
    assert_eq!((third.partition(), third.key(), third.payload()), (3, Some(&b"\xff"[..]), None));
    let headers: Vec<_> =
        first.headers().unwrap().iter().map(|one| (one.key.to_owned(), one.value.map(<[u8]>::to_vec))).collect();
    assert_eq!(headers, own.map(|(name, value)| (name.to_owned(), Some(value.as_bytes().to_vec()))));
    assert!(third.headers().is_none(), "none of them is the service's");

    let done = kafka.dlq(&dlq, &["replay", "--all", "--yes"]).expect(0);
    assert!(done.out.starts_with("4 sent"), "{}", done.out);
    assert_eq!((kafka.read(&source).len(), kafka.read(&other).len()), (5, 1));
    let done = kafka.dlq(&dlq, &["replay", "--all", "--yes", "--topic", &other]).expect(0);
    assert!(done.out.starts_with("4 sent"), "{}", done.out);
    let messages = kafka.read(&other);
    assert_eq!(messages.len(), 5);
    assert!(
        messages.iter().any(|message| message.key().is_none() && message.payload() == Some(b"")),
        "an empty value is no deletion"
    );
    let after = kafka.read(&dlq);
    assert_eq!(
        before.iter().map(Message::offset).collect::<Vec<_>>(),
        after.iter().map(Message::offset).collect::<Vec<_>>()
    );
}

#[test]
fn what_cannot_be_sent_back_is_named_and_the_rest_is_sent() {
    let Some(kafka) = Kafka::shared() else { return };
    let (dlq, source) = (kafka.topic(1), kafka.topic(1));
    let cut = died(&[], (&source, 0, 77), "r").insert(Header { key: dead::CUT_FROM, value: Some("5000000") });
    kafka.write([
        record(&dlq, None, Some(b"cut"), THEN, cut),
        record(&dlq, None, Some(b"from nowhere"), THEN, OwnedHeaders::new()),
        record(&dlq, None, Some(b"from afar"), THEN, died(&[], ("tools-gone", 0, 0), "r")),
        record(&dlq, None, Some(b"good"), THEN, died(&[], (&source, 0, 0), "r")),
    ]);
    for is_confirmed in [false, true] {
        let arguments = ["replay", "0:0", "0:1", "0:2", "0:3", "0:4", "1:0", "--yes"];
        let done = kafka.dlq(&dlq, &arguments[..if is_confirmed { 8 } else { 7 }]).expect(1);
        let mut reasons = vec![
            format!("0:0: its value was cut from 5000000 bytes; the whole is in {source}/0/77"),
            format!("0:1: no header {} says where it came from; --topic can", dead::TOPIC),
            "0:4: there is no such dead letter".to_owned(),
            format!("1:0: {dlq} has no partition 1"),
        ];
        if is_confirmed {
            reasons.push(format!("{} has no topic tools-gone", kafka.bootstrap));
            reasons.push("5 cannot be sent back".to_owned());
        }
        for reason in reasons {
            assert!(done.err.contains(&reason), "{reason} in {}", done.err);
        }
        assert_eq!(kafka.read(&source).len(), usize::from(is_confirmed));
    }
    let done = kafka.dlq(&dlq, &["replay", "--all", "--yes"]).expect(1);
    assert!(done.out.starts_with("1 sent") && done.err.contains("3 cannot be sent back"), "{} {}", done.out, done.err);
}

#[test]
fn no_one_needs_to_read_to_the_end() {
    let Some(kafka) = Kafka::shared() else { return };
    let (dlq, body) = (kafka.topic(1), wb(0, 7));
    kafka.write((0..500).map(|n| record(&dlq, None, Some(&body), THEN + n, died(&[], ("orders", 0, n), "r"))));
    for arguments in [&["list", "--json", "--limit", "500"][..], &["list", "--limit", "500"]] {
        let arguments = [&["dlq"], arguments, &["--kafka", &kafka.bootstrap, "--kafka-dlq-topic", &dlq]].concat();
        let mut child = binary(kafka.home.path()).args(&arguments).stdout(Stdio::piped()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert!(!line.is_empty());
        Done::wait(child, &arguments).expect(0);
    }
}

/// `cargo test --release -- --ignored --nocapture kafka_tools::speed`
#[test]
#[ignore = "a measurement, not a check"]
fn speed() {
    let Some(kafka) = Kafka::shared() else { return };
    for partitions in [1, 4, 12] {
        let topic = kafka.topic(partitions);
        let done = kafka.publish(&topic, &["--count", "1000000"]).expect(0);
        println!("{partitions} partitions: {}", done.err.lines().last().unwrap());
    }
}
