//! A subject, its dead letters and a durable of a test's own. Owns what is sent there and what is found there; knows
//! nothing of what becomes of orders.

use std::collections::BTreeMap;
use std::ops::RangeInclusive;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use async_nats::jetstream::consumer::{AckPolicy, Info, pull};
use async_nats::jetstream::context::PublishAckFuture;
use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::{self, Context, stream};
use async_nats::{Client, HeaderMap};
use tokio::runtime::Runtime;

use crate::broker::ledger::metric;
use crate::broker::{self, Channel, Letter, Message, Pairs, Place, RECOVERY};
use crate::server::{Server, until};
use crate::servers::{self, Private};

const ASK: Duration = Duration::from_mins(1);

/// The names of a test, and a connection.
pub struct Subject {
    pub url: String,
    pub name: String,
    pub dlq: String,
    pub dlq_stream: String,
    pub stream: String,
    pub durable: String,
    runtime: Arc<Runtime>,
    client: Client,
    context: Context,
}

impl Subject {
    pub fn make_stream(&self, name: &str, subjects: &[&str]) {
        self.make_limited(name, subjects, None);
    }

    /// With messages of so many bytes at most. The server may have come back a moment ago.
    fn make_limited(&self, name: &str, subjects: &[&str], bytes_max: Option<u32>) {
        let config = stream::Config {
            name: name.into(),
            subjects: subjects.iter().map(|&subject| subject.into()).collect(),
            max_message_size: bytes_max.map_or(-1, u32::cast_signed),
            ..Default::default()
        };
        until("the stream is made", ASK, || self.runtime.block_on(self.context.create_stream(config.clone())).ok());
    }

    pub fn delete_stream(&self, name: &str) {
        self.runtime.block_on(self.context.delete_stream(name)).unwrap();
    }

    pub fn delete_durable(&self) {
        self.runtime.block_on(async {
            self.context.get_stream(&self.stream).await.unwrap().delete_consumer(&self.durable).await.unwrap()
        });
    }

    pub fn delete_message(&self, sequence: u64) {
        self.runtime.block_on(async {
            self.context.get_stream(&self.stream).await.unwrap().delete_message(sequence).await.unwrap()
        });
    }

    /// Makes the durable by hand.
    pub fn make_durable(&self, config: pull::Config) {
        let config = pull::Config { durable_name: Some(self.durable.clone()), ..config };
        self.runtime.block_on(async {
            self.context.get_stream(&self.stream).await.unwrap().create_consumer(config).await.unwrap()
        });
    }

    /// To a subject beside it.
    pub fn sender_to(&self, subject: &str) -> Sender {
        Sender { subject: subject.into(), ..self.sender() }
    }

    /// How the durable stands; `None` when there is none, or no server.
    pub fn info(&self) -> Option<Info> {
        self.runtime.block_on(async {
            let stream = self.context.get_stream(&self.stream).await.ok()?;
            stream.consumer_info(&self.durable).await.ok()
        })
    }

    /// The number of the stream, by the time it was made, and of its last message.
    pub fn end(&self) -> Place {
        until("the stream answers", ASK, || self.runtime.block_on(end(&self.context, &self.stream)))
    }

    /// Everything in a stream; nothing when there is none. By a consumer: the library's look-up of single messages loses
    /// headers that are there several times.
    pub fn read(&self, name: &str) -> Vec<Letter> {
        use futures_util::StreamExt as _;
        self.runtime.block_on(async {
            let Ok(stream) = self.context.get_stream(name).await else { return Vec::new() };
            let count = stream.cached_info().state.messages as usize;
            let mut letters = Vec::new();
            if count == 0 {
                return letters;
            }
            let config = pull::Config { ack_policy: AckPolicy::None, ..pull::Config::default() };
            let consumer = stream.create_consumer(config).await.unwrap();
            let end = Instant::now() + ASK;
            while letters.len() < count {
                assert!(Instant::now() < end, "{name} is not read to its end: {} of {count}", letters.len());
                let mut found = consumer.fetch().max_messages(count - letters.len()).messages().await.unwrap();
                while let Some(message) = found.next().await {
                    letters.push(letter(&message.unwrap()));
                }
            }
            letters
        })
    }

    /// Takes one message of the durable and keeps it, as a reader that then dies.
    pub fn take_and_die(&self, count: usize) -> Vec<u64> {
        use futures_util::StreamExt as _;
        self.runtime.block_on(async {
            // A connection of its own, which ends with this.
            let client = async_nats::connect(&self.url).await.unwrap();
            let context = jetstream::new(client);
            let stream = context.get_stream(&self.stream).await.unwrap();
            let consumer = stream.get_consumer::<pull::Config>(&self.durable).await.unwrap();
            let mut messages = consumer.fetch().max_messages(count).messages().await.unwrap();
            let mut taken = Vec::new();
            while let Some(message) = messages.next().await {
                taken.push(message.unwrap().info().unwrap().stream_sequence);
            }
            taken
        })
    }

    /// What the service acknowledges from now on, message by message. Who listens here takes nothing away.
    pub fn acknowledgements(&self) -> Acknowledgements {
        let subject = format!("$JS.ACK.{}.{}.>", self.stream, self.durable);
        let subscriber = self.runtime.block_on(async {
            let subscriber = self.client.subscribe(subject).await.unwrap();
            self.client.flush().await.unwrap();
            subscriber
        });
        Acknowledgements { runtime: Arc::clone(&self.runtime), subscriber, extended: BTreeMap::new() }
    }
}

/// See [`Subject::acknowledgements`].
pub struct Acknowledgements {
    runtime: Arc<Runtime>,
    subscriber: async_nats::Subscriber,
    /// How often the deadline of each message was extended so far.
    extended: BTreeMap<String, u64>,
}

impl Acknowledgements {
    /// How often the deadline of one message was extended, at most.
    pub fn extended(&mut self) -> u64 {
        use futures_util::{FutureExt as _, StreamExt as _};
        let _inside = self.runtime.enter();
        while let Some(Some(message)) = self.subscriber.next().now_or_never() {
            if message.payload.starts_with(b"+WPI") {
                *self.extended.entry(message.subject.to_string()).or_default() += 1;
            }
        }
        self.extended.values().copied().max().unwrap_or_default()
    }
}

fn letter(message: &async_nats::Message) -> Letter {
    let each = message.headers.iter().flat_map(HeaderMap::iter);
    let each = each.flat_map(|(name, values)| values.iter().map(move |value| (name, value)));
    let mut headers: Pairs = each.map(|(name, value)| (name.to_string(), Some(value.as_str().into()))).collect();
    headers.sort_by(|one, other| one.0.cmp(&other.0)); // they have an order only among those of one name
    Letter { key: None, value: Some(message.payload.to_vec()), timestamp: None, headers }
}

/// See [`Subject::end`]. `None` where there is no such stream, or no server.
async fn end(context: &Context, stream: &str) -> Option<Place> {
    let stream = context.get_stream(stream).await.ok()?;
    let info = stream.cached_info();
    let number = (info.created.unix_timestamp_nanos() / 1000) & 0x7fff_ffff;
    Some((u32::try_from(number).unwrap(), info.state.last_sequence))
}

impl Channel for Subject {
    const SOURCE: &'static str = "nats";
    const NOT_CONNECTED: &'static str = "not connected to NATS";
    const LETTERS_GATE: &'static str = "nats-dead-letters";
    const ADVICE: &'static str = "name another durable";
    const HAS_KEYS: bool = false;
    const LETTERS_COME_ONCE: bool = true;
    const ADDED_HEADER_BYTES: RangeInclusive<u64> = 12..=40; // the id under which a message is sent again
    const NOWHERE: &'static [&'static str] = &["--nats", "nats://127.0.0.1:1"];
    const ALONE: &'static [&'static str] = &[];
    const IMPATIENT: &'static [&'static str] = &["--nats-ack-wait", "9s"];

    type Sender = Sender;

    fn named() -> Option<Self> {
        servers::nats().map(|url| Self::named_on(&url))
    }

    fn named_on(url: &str) -> Self {
        static NAMED: AtomicU32 = AtomicU32::new(0);
        let name = format!("t{}-{}", std::process::id(), NAMED.fetch_add(1, Ordering::Relaxed));
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let (client, context) = runtime.block_on(async {
            let options = async_nats::ConnectOptions::new().max_reconnects(None);
            let options = options.reconnect_delay_callback(|_| Duration::from_millis(50));
            let client = options.connect(url).await.unwrap();
            let mut context = jetstream::new(client.clone());
            context.set_timeout(Duration::from_secs(5));
            (client, context)
        });
        Self {
            url: url.into(),
            dlq: format!("{name}.dlq"),
            dlq_stream: format!("{}_DLQ", name.to_uppercase()),
            stream: name.to_uppercase(),
            durable: format!("{name}-durable"),
            name,
            runtime: Arc::new(runtime),
            client,
            context,
        }
    }

    fn private() -> Option<Private> {
        Private::nats()
    }

    fn make(&self, _: u32) {
        self.make_stream(&self.stream, &[&self.name]);
    }

    fn make_dlq(&self, bytes_max: Option<u32>) {
        self.make_limited(&self.dlq_stream, &[&self.dlq], bytes_max);
    }

    fn delete_dlq(&self) {
        self.delete_stream(&self.dlq_stream);
    }

    /// In a stream beside the one that the service would make.
    fn with_other_dlq(self) -> Self {
        let other = Self { dlq: format!("{}.other", self.dlq), dlq_stream: format!("{}_OTHER", self.stream), ..self };
        other.make_dlq(None);
        other
    }

    fn delete_before(&self, (_, sequence): Place) {
        self.runtime.block_on(async {
            let stream = self.context.get_stream(&self.stream).await.unwrap();
            stream.purge().sequence(sequence).await.unwrap()
        });
    }

    fn flags(&self) -> Vec<&str> {
        let Self { url, name, dlq, stream, durable, .. } = self;
        vec![
            "--nats",
            url,
            "--nats-subject",
            name,
            "--nats-dlq-subject",
            dlq,
            "--nats-stream",
            stream,
            "--nats-durable",
            durable,
        ]
    }

    fn sender(&self) -> Sender {
        Sender {
            runtime: Arc::clone(&self.runtime),
            context: self.context.clone(),
            subject: self.name.clone(),
            stream: self.stream.clone(),
        }
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn source(&self) -> String {
        format!("nats:{}:{}", self.stream, self.durable)
    }

    fn ends(&self) -> BTreeMap<u32, u64> {
        let (number, last) = self.end();
        if last > 0 { BTreeMap::from([(number, last + 1)]) } else { BTreeMap::new() }
    }

    fn acknowledged(&self) -> BTreeMap<u32, u64> {
        let (number, _) = self.end();
        let floor = self.info().map_or(0, |info| info.ack_floor.stream_sequence);
        if floor > 0 { BTreeMap::from([(number, floor + 1)]) } else { BTreeMap::new() }
    }

    /// Nothing is left to be delivered or acknowledged.
    fn wait_acknowledged(&self) {
        let end = Instant::now() + RECOVERY;
        loop {
            let info = self.info();
            if info.as_ref().is_some_and(|info| info.num_pending == 0 && info.num_ack_pending == 0) {
                return;
            }
            assert!(Instant::now() < end, "not all is acknowledged: {info:?}");
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    fn letters(&self) -> Vec<Letter> {
        self.read(&self.dlq_stream)
    }

    /// They are text, and there is no null.
    fn various_headers() -> Pairs {
        let pair = |(name, value): (&str, &str)| (name.to_owned(), Some(value.into()));
        [("empty", ""), ("trace", "00-ab"), ("trace", "again")].map(pair).into()
    }

    fn assert_kept(&self, message: &Message, letter: &Letter) {
        assert_eq!((&letter.key, &letter.value), (&None, &message.value));
        let is_ours =
            |name: &str| name.starts_with("__connect.") || name.starts_with("orders.") || name == "Nats-Msg-Id";
        let (ours, theirs): (Pairs, Pairs) = letter.headers.iter().cloned().partition(|(name, _)| is_ours(name));
        assert_eq!(theirs, message.headers);
        let names: Vec<_> = ours.iter().map(|(name, _)| name.as_str()).collect();
        let of_error = ["exception.class.name", "exception.message", "offset", "partition", "stage", "topic"];
        let mut expected = vec!["Nats-Msg-Id".to_owned()];
        expected.extend(of_error.map(|name| format!("__connect.errors.{name}")));
        expected.push("orders.timestamp.ms".into());
        assert_eq!(names, expected, "of {message:?}");
        assert!(letter.header("orders.timestamp.ms").parse::<u64>().unwrap() > 1_700_000_000_000, "when it was sent");
    }

    fn wait_found_again(&self, server: &Server, times: u64) {
        let is_connected = || self.client.connection_state() == async_nats::connection::State::Connected;
        until("the test is connected again", RECOVERY, || is_connected().then_some(()));
        let reconnects = || metric(server, "nats_reconnects_total")[""];
        until("the service is connected again", RECOVERY, || (reconnects() >= times).then_some(()));
    }

    /// It asks once a second how the stream stands, and complains when there is no answer.
    fn wait_held_for_long(server: &Server) {
        let before = server.log().len();
        until("it complains", RECOVERY, || {
            server.log()[before..].iter().any(|line| line.contains("trouble with NATS, trying again")).then_some(())
        });
    }

    /// A deadline is extended six times in the time that the server waits for an acknowledgement, so after more than two
    /// such times.
    fn patience(&self) -> impl FnMut() -> bool {
        let mut acknowledgements = self.acknowledgements();
        move || acknowledgements.extended() >= 14
    }

    fn is_undisturbed(server: &Server) -> bool {
        metric(server, "nats_redelivered_total")[""] == 0
    }

    fn lag(server: &Server) -> u64 {
        metric(server, "nats_lag")[""]
    }
}

/// How long an acknowledgement may take before a message is sent again.
const PATIENCE: Duration = Duration::from_secs(2);

/// Sends to a subject.
pub struct Sender {
    runtime: Arc<Runtime>,
    context: Context,
    subject: String,
    stream: String,
}

impl broker::Sender for Sender {
    fn send(&self, messages: &[Message]) -> Vec<Place> {
        static SENT: AtomicU64 = AtomicU64::new(0);
        self.runtime.block_on(async {
            let publish = |id: &str, message: &Message| {
                let mut headers = HeaderMap::new();
                for (name, value) in &message.headers {
                    headers.append(&**name, std::str::from_utf8(value.as_deref().unwrap()).unwrap());
                }
                let payload = message.value.clone().unwrap().into();
                let publish = PublishMessage::build().payload(payload).headers(headers).message_id(id);
                self.context.send_publish(self.subject.clone(), publish)
            };
            let ids: Vec<_> = messages
                .iter()
                .map(|_| format!("{}-{}", std::process::id(), SENT.fetch_add(1, Ordering::Relaxed)))
                .collect();
            let mut sent: Vec<Option<PublishAckFuture>> = Vec::new();
            for (id, message) in ids.iter().zip(messages) {
                sent.push(publish(id, message).await.ok());
            }
            let mut places = Vec::new();
            let limit = Instant::now() + RECOVERY;
            // All were sent by now, so they wait together: answers that are lost are mostly lost together.
            let first_try = tokio::time::Instant::now() + PATIENCE;
            for (sent, (id, message)) in sent.into_iter().zip(ids.iter().zip(messages)) {
                let mut sent = sent;
                let mut patience = first_try.max(tokio::time::Instant::now() + PATIENCE / 100);
                let acknowledged = loop {
                    if let Some(sent) = sent.take()
                        && let Ok(Ok(acknowledged)) = tokio::time::timeout_at(patience, sent.into_future()).await
                    {
                        break acknowledged;
                    }
                    assert!(Instant::now() < limit, "nothing can be sent to {}", self.subject);
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    // Under the same id: sent twice, it is there once.
                    sent = publish(id, message).await.ok();
                    patience = tokio::time::Instant::now() + PATIENCE;
                };
                places.push(acknowledged.sequence);
            }
            let (number, _) = loop {
                if let Some(end) = end(&self.context, &self.stream).await {
                    break end;
                }
                assert!(Instant::now() < limit, "{} does not answer", self.stream);
                tokio::time::sleep(Duration::from_millis(100)).await;
            };
            places.into_iter().map(|sequence| (number, sequence)).collect()
        })
    }
}
