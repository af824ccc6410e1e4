//! A channel of NATS Streaming, its dead letters, a client's name and a durable of a test's own.
//! Owns what is sent there and what is found there; knows nothing of what becomes of orders.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use order_service::stan::protocol::{MsgProto, Start};
use order_service::stan::session::{Session, SessionError, Wanted};
use serde_json::Value;
use tokio::runtime::Runtime;

use crate::broker::ledger::metric;
use crate::broker::{self, Channel, Letter, Message, Pairs, Place, RECOVERY};
use crate::server::{Connection, Server, until};
use crate::servers::{self, Private};

/// The names of a test, and where the server is.
pub struct StanChannel {
    pub url: String,
    pub name: String,
    pub dlq: String,
    pub client: String,
    pub durable: String,
    monitor: SocketAddr,
    peer: Arc<Peer>,
}

/// A client of the test's own.
pub struct Peer {
    url: String,
    name: String,
    runtime: Runtime,
    session: Mutex<Option<Arc<Session>>>,
    /// Messages that were sent again, because the answer to the first try was lost.
    repeated: Mutex<BTreeSet<u64>>,
}

impl Peer {
    fn new(url: &str, name: String) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        Self { url: url.into(), name, runtime, session: Mutex::default(), repeated: Mutex::default() }
    }

    /// Tries until something is answered, with a new session where the last one is over.
    pub fn ask<T>(&self, what: &str, ask: impl AsyncFn(&Session) -> Result<T, SessionError>) -> T {
        let end = Instant::now() + RECOVERY;
        loop {
            let known = self.session.lock().unwrap().clone();
            let session = known.or_else(|| self.open());
            if let Some(session) = session {
                match self.runtime.block_on(ask(&session)) {
                    Ok(answer) => {
                        *self.session.lock().unwrap() = Some(session);
                        return answer;
                    }
                    Err(error) => assert!(Instant::now() < end, "{what}: {error}"),
                }
                *self.session.lock().unwrap() = None;
            }
            assert!(Instant::now() < end, "{what}: nothing answers at {}", self.url);
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn open(&self) -> Option<Arc<Session>> {
        self.runtime.block_on(async {
            let client = async_nats::connect(&self.url).await.ok()?;
            Session::open(client, "test-cluster", &self.name).await.ok().map(Arc::new)
        })
    }

    pub fn publish(&self, channel: &str, data: &Bytes) {
        self.ask("an order is sent", async |session: &Session| session.publish(channel, data.clone()).await);
    }

    /// The messages of a channel from a sequence on, as far as there are any now.
    pub fn read(&self, channel: &str, from: u64, last: u64) -> Vec<MsgProto> {
        if last < from {
            return Vec::new();
        }
        self.ask("the channel is read", async |session: &Session| {
            let wanted = Wanted {
                subject: channel.into(),
                durable: String::new(),
                start: Start::Sequence,
                sequence: from,
                in_flight_max: 1_000_000,
                ack_wait: Duration::from_hours(1),
            };
            let mut subscription = session.subscribe(&wanted).await?;
            let mut found: Vec<MsgProto> = Vec::new();
            while found.last().is_none_or(|message| message.sequence < last) {
                let next = tokio::time::timeout(Duration::from_secs(10), subscription.next()).await;
                let missing = || SessionError::NoAnswer("the channel is not read to its end".into());
                found.push(next.ok().flatten().ok_or_else(missing)?);
            }
            session.close_subscription(subscription).await?;
            Ok(found)
        })
    }
}

impl StanChannel {
    /// What the server says of a channel; nothing where there is none.
    pub fn state(&self, channel: &str) -> Value {
        let path = format!("/streaming/channelsz?channel={channel}&subs=1");
        until("the server says how it stands", RECOVERY, || {
            let reply = Connection::try_open(self.monitor).ok()?.try_request("GET", &path, &[], "").ok()?;
            match reply.status {
                200 => Some(reply.json()),
                // One that starts has no such page yet.
                404 if !reply.text().starts_with("404") => Some(Value::Null),
                _ => None,
            }
        })
    }

    /// The sequence of the last message.
    pub fn last(&self, channel: &str) -> u64 {
        self.state(channel)["last_seq"].as_u64().unwrap_or_default()
    }

    /// The durable subscription, also while its client is not there.
    pub fn subscription(&self) -> Option<Value> {
        let state = self.state(&self.name);
        let is_it = |one: &&Value| one["durable_name"] == self.durable.as_str();
        state["subscriptions"].as_array()?.iter().find(is_it).cloned()
    }

    pub fn peer(&self) -> Arc<Peer> {
        Arc::clone(&self.peer)
    }

    /// The same channel under another durable.
    pub fn with_durable(&self, durable: &str) -> Self {
        let Self { url, name, dlq, client, monitor, peer, .. } = self;
        Self {
            url: url.clone(),
            name: name.clone(),
            dlq: dlq.clone(),
            client: client.clone(),
            durable: durable.into(),
            monitor: *monitor,
            peer: Arc::clone(peer),
        }
    }

    /// The same with names that begin so.
    pub fn prefixed(self, prefix: &str) -> Self {
        Self { name: format!("{prefix}.{}", self.name), ..self }
    }
}

impl Channel for StanChannel {
    const SOURCE: &'static str = "stan";
    const NOT_CONNECTED: &'static str = "not connected to NATS Streaming";
    const LETTERS_GATE: &'static str = "stan-dead-letters";
    const ADVICE: &'static str = "name another durable";
    const HAS_KEYS: bool = false;
    const LETTERS_COME_ONCE: bool = false;
    const ADDED_HEADER_BYTES: RangeInclusive<u64> = 0..=0;
    const NOWHERE: &'static [&'static str] = &["--stan", "nats://127.0.0.1:1"];
    const ALONE: &'static [&'static str] = &[];
    const IMPATIENT: &'static [&'static str] = &["--stan-ack-wait", "3s"];

    type Sender = Sender;

    fn named() -> Option<Self> {
        servers::stan().map(|both| Self::named_on(&both))
    }

    fn named_on(both: &str) -> Self {
        static NAMED: AtomicU32 = AtomicU32::new(0);
        let (url, monitor) = both.split_once(' ').unwrap();
        let name = format!("t{}-{}", std::process::id(), NAMED.fetch_add(1, Ordering::Relaxed));
        Self {
            url: url.into(),
            dlq: format!("{name}.dlq"),
            client: format!("{name}-service"),
            durable: format!("{name}-durable"),
            monitor: monitor.parse().unwrap(),
            peer: Arc::new(Peer::new(url, format!("{name}-test"))),
            name,
        }
    }

    fn private() -> Option<Private> {
        Private::stan()
    }

    /// A channel is made by its first message or reader.
    fn make(&self, _: u32) {}

    fn make_dlq(&self, bytes_max: Option<u32>) {
        assert_eq!(bytes_max, None, "channels have no such limit");
    }

    fn delete_dlq(&self) {
        unreachable!("channels cannot be deleted");
    }

    fn with_other_dlq(self) -> Self {
        Self { dlq: format!("{}.other", self.dlq), ..self }
    }

    fn delete_before(&self, _: Place) {
        unreachable!("messages cannot be deleted one by one");
    }

    fn flags(&self) -> Vec<&str> {
        let Self { url, name, dlq, client, durable, .. } = self;
        vec![
            "--stan",
            url,
            "--stan-subject",
            name,
            "--stan-dlq-subject",
            dlq,
            "--stan-client",
            client,
            "--stan-durable",
            durable,
        ]
    }

    fn sender(&self) -> Sender {
        Sender {
            name: self.name.clone(),
            both: format!("{} {}", self.url, self.monitor),
            peer: self.peer(),
            last: AtomicU64::new(0),
        }
    }

    fn name(&self) -> &str {
        &self.name
    }

    fn source(&self) -> String {
        format!("stan:test-cluster:{}:{}", self.name, self.durable)
    }

    fn ends(&self) -> BTreeMap<u32, u64> {
        let last = self.last(&self.name);
        if last > 0 { BTreeMap::from([(0, last + 1)]) } else { BTreeMap::new() }
    }

    fn acknowledged(&self) -> BTreeMap<u32, u64> {
        let number = |one: &Value, name: &str| one[name].as_u64().unwrap_or_default();
        let next = self.subscription().map_or(0, |one| number(&one, "last_sent") - number(&one, "pending_count"));
        if next > 0 { BTreeMap::from([(0, next + 1)]) } else { BTreeMap::new() }
    }

    /// Nothing is left to be delivered or acknowledged.
    fn wait_acknowledged(&self) {
        until("everything is acknowledged", RECOVERY, || {
            let last = self.last(&self.name);
            let one = self.subscription()?;
            (one["pending_count"] == 0 && one["last_sent"].as_u64() >= Some(last)).then_some(())
        });
    }

    /// Without those of messages that came twice.
    fn letters(&self) -> Vec<Letter> {
        let letters =
            self.peer.read(&self.dlq, 1, self.last(&self.dlq)).into_iter().map(|message| letter(&message.data));
        let repeated = self.peer.repeated.lock().unwrap();
        letters.filter(|letter| !repeated.contains(&letter.origin().1)).collect()
    }

    fn various_headers() -> Pairs {
        Vec::new()
    }

    fn assert_kept(&self, message: &Message, letter: &Letter) {
        assert_eq!((&letter.key, &letter.value), (&None, &message.value));
        let names: Vec<_> = letter.headers.iter().map(|(name, _)| name.as_str()).collect();
        let of_error = ["topic", "partition", "offset", "stage", "exception.class.name", "exception.message"];
        let mut expected: Vec<String> = of_error.iter().map(|name| format!("__connect.errors.{name}")).collect();
        expected.push("orders.timestamp.ms".into());
        assert_eq!(names, expected, "of {message:?}");
        assert!(letter.header("orders.timestamp.ms").parse::<u64>().unwrap() > 1_700_000_000_000, "when it was sent");
    }

    fn wait_found_again(&self, server: &Server, times: u64) {
        let reconnects = || metric(server, "stan_reconnects_total")[""];
        until("the service is connected again", RECOVERY, || (reconnects() >= times).then_some(()));
    }

    /// It asks every two seconds whether it is still let in, and complains when there is no answer.
    fn wait_held_for_long(server: &Server) {
        let before = server.log().len();
        until("it complains", RECOVERY, || {
            let is_it = |line: &String| line.contains("trouble with NATS Streaming, trying again");
            server.log()[before..].iter().any(is_it).then_some(())
        });
    }

    fn patience(&self) -> impl FnMut() -> bool {
        || unreachable!("a deadline cannot be extended")
    }

    fn is_undisturbed(server: &Server) -> bool {
        metric(server, "stan_redelivered_total")[""] == 0
    }

    fn lag(server: &Server) -> u64 {
        metric(server, "stan_lag")[""]
    }
}

/// A dead letter is a JSON object.
fn letter(data: &[u8]) -> Letter {
    let letter: Value = serde_json::from_slice(data).unwrap();
    let hex = |text: &str| -> Vec<u8> {
        text.as_bytes()
            .chunks(2)
            .map(|pair| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap())
            .collect()
    };
    let value = match (letter["value"].as_str(), letter["value_hex"].as_str()) {
        (Some(text), None) => text.as_bytes().to_vec(),
        (None, Some(text)) => hex(text),
        _ => panic!("one of the two: {letter}"),
    };
    let header = |(name, value): (&String, &Value)| (name.clone(), Some(value.as_str().unwrap().as_bytes().to_vec()));
    let headers = letter["headers"].as_object().unwrap().iter().map(header).collect();
    Letter { key: None, value: Some(value), timestamp: None, headers }
}

/// Sends to a channel, one message after the other: two on their way could change places.
pub struct Sender {
    name: String,
    both: String,
    peer: Arc<Peer>,
    /// The last sequence that was seen.
    last: AtomicU64,
}

impl broker::Sender for Sender {
    /// The server does not say where it has put a message, so it is looked for.
    fn send(&self, messages: &[Message]) -> Vec<Place> {
        let place = StanChannel::named_on(&self.both);
        // One that has just been started may not have found all channels again.
        let last_from = |least: u64| {
            let last = || Some(place.last(&self.name)).filter(|last| *last >= least);
            until("the server knows what it has acknowledged", RECOVERY, last)
        };
        let before = last_from(self.last.load(Ordering::Acquire));
        let data: Vec<Bytes> = messages.iter().map(|message| message.value.clone().unwrap().into()).collect();
        for data in &data {
            self.peer.publish(&self.name, data);
        }
        let mut places = Vec::new();
        let last = last_from(before + data.len() as u64);
        self.last.store(last, Ordering::Release);
        for message in self.peer.read(&self.name, before + 1, last) {
            if data.get(places.len()) == Some(&message.data) {
                places.push((0, message.sequence));
            } else if places.len().checked_sub(1).and_then(|index| data.get(index)) == Some(&message.data) {
                self.peer.repeated.lock().unwrap().insert(message.sequence);
            }
        }
        assert_eq!(places.len(), data.len(), "all of them are there");
        places
    }
}
