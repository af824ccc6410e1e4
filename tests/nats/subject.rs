//! A subject, its dead letters and a durable of a test's own. Owns what is sent there and what is found there; knows
//! nothing of what becomes of orders.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use async_nats::jetstream::consumer::{Info, pull};
use async_nats::jetstream::context::PublishAckFuture;
use async_nats::jetstream::message::PublishMessage;
use async_nats::jetstream::{self, Context, stream};
use async_nats::{Client, HeaderMap};
use tokio::runtime::Runtime;

use super::RECOVERY;
use crate::server::until;
use crate::servers;

const ASK: Duration = Duration::from_secs(20);

/// A message found in a stream.
#[derive(Debug, Clone)]
pub struct Letter {
    pub value: Vec<u8>,
    pub headers: BTreeMap<String, String>,
}

impl Letter {
    pub fn header(&self, name: &str) -> &str {
        self.headers.get(name).unwrap_or_else(|| panic!("no header {name} in {:?}", self.headers))
    }

    /// Where the message was that this is about: the number of its stream, and its own.
    pub fn origin(&self) -> (u32, u64) {
        let number = |name| self.header(name).parse::<u64>().unwrap();
        (number("__connect.errors.partition") as u32, number("__connect.errors.offset"))
    }
}

/// The names of a test, and a connection.
pub struct Subject {
    pub url: String,
    pub name: String,
    pub dlq: String,
    pub stream: String,
    pub durable: String,
    runtime: Arc<Runtime>,
    client: Client,
    context: Context,
}

impl Subject {
    /// Names on the NATS that all tests share; everything is left to the service to make. `None` where there is none.
    pub fn named() -> Option<Self> {
        servers::nats().map(|url| Self::named_on(&url))
    }

    /// With a stream that is there before the service is.
    pub fn create() -> Option<Self> {
        Self::named().inspect(Self::make)
    }

    /// Names on a NATS of the test's own.
    pub fn named_on(url: &str) -> Self {
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
            stream: name.to_uppercase(),
            durable: format!("{name}-durable"),
            name,
            runtime: Arc::new(runtime),
            client,
            context,
        }
    }

    /// Makes the stream.
    pub fn make(&self) {
        self.make_stream(&self.stream, &[&self.name]);
    }

    pub fn make_stream(&self, name: &str, subjects: &[&str]) {
        let config = stream::Config {
            name: name.into(),
            subjects: subjects.iter().map(|&subject| subject.into()).collect(),
            ..Default::default()
        };
        self.runtime.block_on(self.context.create_stream(config)).unwrap();
    }

    /// A stream of dead letters of so many bytes at most.
    pub fn make_small_dlq(&self, bytes_max: i32) {
        let config = stream::Config {
            name: format!("{}_DLQ", self.stream),
            subjects: vec![self.dlq.clone()],
            max_message_size: bytes_max,
            ..Default::default()
        };
        self.runtime.block_on(self.context.create_stream(config)).unwrap();
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

    /// Makes the durable as somebody else would.
    pub fn make_durable(&self, config: pull::Config) {
        let config = pull::Config { durable_name: Some(self.durable.clone()), ..config };
        self.runtime.block_on(async {
            self.context.get_stream(&self.stream).await.unwrap().create_consumer(config).await.unwrap()
        });
    }

    /// What a service needs to be told to take orders from here.
    pub fn flags(&self) -> Vec<&str> {
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

    /// As [`Self::flags`], with more.
    pub fn flags_with<'a>(&'a self, more: &[&'a str]) -> Vec<&'a str> {
        [&self.flags()[..], more].concat()
    }

    /// Sends these in order and waits until the stream has them, however often the server goes away meanwhile.
    pub fn send(&self, values: &[Vec<u8>]) -> Vec<u64> {
        self.sender().send(values)
    }

    /// For another thread.
    pub fn sender(&self) -> Sender {
        Sender { runtime: Arc::clone(&self.runtime), context: self.context.clone(), subject: self.name.clone() }
    }

    /// To a subject beside it.
    pub fn sender_to(&self, subject: &str) -> Sender {
        Sender { subject: subject.into(), ..self.sender() }
    }

    /// Sends one with headers.
    pub fn send_with(&self, value: &[u8], headers: &[(&str, &str)]) -> u64 {
        let mut map = HeaderMap::new();
        for (name, value) in headers {
            map.append(*name, *value);
        }
        self.runtime.block_on(async {
            let message = PublishMessage::build().payload(value.to_vec().into()).headers(map);
            self.context.send_publish(self.name.clone(), message).await.unwrap().await.unwrap().sequence
        })
    }

    /// How the durable stands; `None` when there is none, or no server.
    pub fn info(&self) -> Option<Info> {
        self.runtime.block_on(async {
            let stream = self.context.get_stream(&self.stream).await.ok()?;
            stream.consumer_info(&self.durable).await.ok()
        })
    }

    /// Waits until nothing is left to be delivered or acknowledged.
    pub fn wait_acknowledged(&self) {
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

    /// The number of the stream, by the time it was made, and of its last message.
    pub fn end(&self) -> (u32, u64) {
        until("the stream answers", ASK, || {
            self.runtime.block_on(async {
                let stream = self.context.get_stream(&self.stream).await.ok()?;
                let info = stream.cached_info();
                Some((
                    u32::try_from((info.created.unix_timestamp_nanos() / 1000) & 0x7fff_ffff).unwrap(),
                    info.state.last_sequence,
                ))
            })
        })
    }

    /// Everything in the dead letter stream; nothing when there is none.
    pub fn letters(&self) -> Vec<Letter> {
        self.read(&format!("{}_DLQ", self.stream))
    }

    /// Everything in a stream.
    pub fn read(&self, name: &str) -> Vec<Letter> {
        self.runtime.block_on(async {
            let Ok(stream) = self.context.get_stream(name).await else { return Vec::new() };
            let mut letters = Vec::new();
            for sequence in 1..=stream.cached_info().state.last_sequence {
                let Ok(message) = stream.get_raw_message(sequence).await else { continue };
                let headers = message.headers.iter();
                let first = headers.map(|(name, values)| (name.to_string(), values[0].as_str().to_owned())).collect();
                letters.push(Letter { value: message.payload.to_vec(), headers: first });
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

    /// Whether the connection of the test itself is there.
    pub fn is_connected(&self) -> bool {
        self.client.connection_state() == async_nats::connection::State::Connected
    }
}

/// How long an acknowledgement may take before a message is sent again.
const PATIENCE: Duration = Duration::from_secs(2);

/// Sends to a subject.
pub struct Sender {
    runtime: Arc<Runtime>,
    context: Context,
    subject: String,
}

impl Sender {
    /// Sends these in order and waits until the stream has them, however often the server goes away meanwhile.
    pub fn send(&self, values: &[Vec<u8>]) -> Vec<u64> {
        static SENT: AtomicU64 = AtomicU64::new(0);
        self.runtime.block_on(async {
            let publish = |id: &str, value: &[u8]| {
                let message = PublishMessage::build().payload(value.to_vec().into()).message_id(id);
                self.context.send_publish(self.subject.clone(), message)
            };
            let ids: Vec<_> = values
                .iter()
                .map(|_| format!("{}-{}", std::process::id(), SENT.fetch_add(1, Ordering::Relaxed)))
                .collect();
            let mut sent: Vec<Option<PublishAckFuture>> = Vec::new();
            for (id, value) in ids.iter().zip(values) {
                sent.push(publish(id, value).await.ok());
            }
            let mut places = Vec::new();
            let end = Instant::now() + RECOVERY;
            // All were sent by now, so they wait together: answers that are lost are as a rule lost together.
            let first_try = tokio::time::Instant::now() + PATIENCE;
            for (sent, (id, value)) in sent.into_iter().zip(ids.iter().zip(values)) {
                let mut sent = sent;
                let mut patience = first_try.max(tokio::time::Instant::now() + PATIENCE / 100);
                let acknowledged = loop {
                    if let Some(sent) = sent.take()
                        && let Ok(Ok(acknowledged)) = tokio::time::timeout_at(patience, sent.into_future()).await
                    {
                        break acknowledged;
                    }
                    assert!(Instant::now() < end, "nothing can be sent to {}", self.subject);
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    // Under the same id: sent twice, it is there once.
                    sent = publish(id, value).await.ok();
                    patience = tokio::time::Instant::now() + PATIENCE;
                };
                places.push(acknowledged.sequence);
            }
            places
        })
    }
}
