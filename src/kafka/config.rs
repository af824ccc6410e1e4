//! Where Kafka is and how each kind of client is set up.

use std::collections::BTreeMap;
use std::time::Duration;

use rdkafka::ClientConfig;
use rdkafka::client::{Client, DefaultClientContext};
use rdkafka::error::KafkaError;
use rdkafka::types::RDKafkaType;

use super::broker_watch;

/// Where Kafka is, and what is read from and written to it.
#[derive(Debug, Clone)]
pub struct Config {
    /// Bootstrap servers, `host:port` separated by commas.
    pub brokers: String,
    /// Where orders come from.
    pub topic: String,
    /// The consumer group that shares the partitions of `topic`.
    pub group: String,
    /// Where invalid messages go.
    pub dlq_topic: String,
    /// This member's name in the group. With one, a restart within `session_timeout` moves no partition.
    pub instance_id: Option<String>,
    /// How long the group waits for a member that went silent before its partitions are given to others.
    pub session_timeout: Duration,
    /// A consumer that is behind and receives nothing for this long is made again.
    pub stall_timeout: Duration,
    /// Messages behind at which the service still counts as ready.
    pub lag_max: u64,
    /// Where every committed change goes, for other instances and everyone else who follows; nowhere when `None`.
    pub snapshots_topic: Option<String>,
    /// When it goes there.
    pub snapshots: Snapshots,
    /// Where writes go that a worker is to process.
    pub events_topic: String,
    /// Where workers say what they have processed.
    pub ack_topic: String,
    /// The consumer group of the workers.
    pub worker_group: String,
    /// Whether there are workers for writes to wait for.
    pub workers: Workers,
    /// The largest order, for which topics that are made have room.
    pub order_bytes_max: usize,
    /// Further properties of librdkafka, for security and tuning. They have the last word.
    pub properties: BTreeMap<String, String>,
}

/// What a message may have more than an order: keys, headers, and what Kafka adds.
const MESSAGE_ROOM_BYTES: usize = 64 << 10;

/// Properties that say where the brokers are.
pub const BROKERS: [&str; 2] = ["bootstrap.servers", "metadata.broker.list"];

/// Why the library makes no client, in one line.
fn refused(error: KafkaError) -> String {
    let reason = match error {
        KafkaError::ClientConfig(_, _, name, _) if is_secret(&name) => {
            format!("{name}: librdkafka does not take this value, or not in this build")
        }
        KafkaError::ClientConfig(_, reason, name, value) => {
            format!("{name}: {}", reason.replace(&format!("\"{value}\""), "its value"))
        }
        KafkaError::ClientCreation(reason) => reason,
        other => other.to_string(),
    };
    let line = reason.split_ascii_whitespace().collect::<Vec<_>>().join(" ");
    let is_left_out = ["not available at build time", "recompile librdkafka"].iter().any(|part| line.contains(part));
    match is_left_out {
        true if line.contains("libcurl") => format!("{line}; no build of this service has it"),
        true => format!("{line}; a build with the feature kafka-tls has it"),
        false => line,
    }
}

/// Whether the value of a property may be a secret.
fn is_secret(name: &str) -> bool {
    ["password", "secret", "key", "pem", "config", "token"].iter().any(|part| name.contains(part))
}

/// Whether there are workers that process what is written over HTTP.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Workers {
    /// Events are published, and writes wait once the workers' group is known to the brokers.
    #[default]
    Auto,
    /// Events are published, and writes wait.
    On,
    /// Neither.
    Off,
}

/// When committed changes are published as snapshots.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Snapshots {
    /// While another instance on the same store follows them.
    #[default]
    Auto,
    /// Always.
    On,
    /// Never, and nothing is followed either.
    Off,
}

impl Config {
    /// The default settings for these brokers.
    #[must_use]
    pub fn new(brokers: impl Into<String>) -> Self {
        Self {
            brokers: brokers.into(),
            topic: "orders".into(),
            group: "order-service".into(),
            dlq_topic: "orders.dlq".into(),
            instance_id: None,
            // Long enough for a pause of the whole machine, short enough that no one waits for long.
            session_timeout: Duration::from_secs(10),
            stall_timeout: Duration::from_mins(1),
            lag_max: 10_000,
            snapshots_topic: Some("orders.snapshots".into()),
            snapshots: Snapshots::default(),
            events_topic: "orders.events".into(),
            ack_topic: "orders.ack".into(),
            worker_group: "order-workers".into(),
            workers: Workers::default(),
            order_bytes_max: 1 << 20,
            properties: BTreeMap::new(),
        }
    }

    /// Whether the library takes these settings, for each kind of client. No broker is asked.
    ///
    /// # Errors
    /// What it says of one that it does not take, without values of properties that may be secrets.
    pub fn check(&self) -> Result<(), String> {
        self.check_tokens()?;
        let reading = RDKafkaType::RD_KAFKA_CONSUMER;
        let writing = RDKafkaType::RD_KAFKA_PRODUCER;
        for (mut client, kind) in [
            (self.consumer(), reading),
            (self.watched(self.reader()), reading),
            (self.watched(self.producer()), writing),
            (self.admin(), writing),
        ] {
            for brokers in BROKERS {
                client.remove(brokers);
            }
            let made = client.create_native_config();
            made.and_then(|native| Client::new(&client, native, kind, DefaultClientContext)).map_err(refused)?;
        }
        Ok(())
    }

    /// The library takes OAUTHBEARER and waits for tokens, of which none would ever come.
    fn check_tokens(&self) -> Result<(), String> {
        let asks = |name: &&str| {
            self.properties.get(*name).is_some_and(|mechanism| mechanism.eq_ignore_ascii_case("OAUTHBEARER"))
        };
        let Some(name) = ["sasl.mechanisms", "sasl.mechanism"].into_iter().find(asks) else { return Ok(()) };
        if self.properties.get("enable.sasl.oauthbearer.unsecure.jwt").is_some_and(|value| value == "true") {
            return Ok(());
        }
        Err(format!(
            "{name}: OAUTHBEARER has no source of tokens: sasl.oauthbearer.method=oidc needs a librdkafka with libcurl, \
             which no build of this service has; log in by SCRAM-SHA-512, PLAIN or a certificate"
        ))
    }

    /// For any client of these brokers.
    fn client(&self) -> ClientConfig {
        let mut client = ClientConfig::new();
        client
            .set("bootstrap.servers", &self.brokers)
            .set("client.id", "order-service")
            // A broker that is back is found again within a second.
            .set("reconnect.backoff.ms", "100")
            .set("reconnect.backoff.max.ms", "1000")
            .set("socket.keepalive.enable", "true")
            .set("socket.connection.setup.timeout.ms", "5000");
        client
    }

    /// The brokers that a client asks first.
    #[must_use]
    pub fn bootstrap(&self) -> &str {
        let named = BROKERS.into_iter().find_map(|name| self.properties.get(name));
        named.unwrap_or(&self.brokers)
    }

    /// Has a client say which brokers it knows, for [`broker_watch::BrokerWatch`]. It has to be polled.
    #[must_use]
    pub fn watched(&self, mut client: ClientConfig) -> ClientConfig {
        client.set("statistics.interval.ms", broker_watch::STATISTICS_EVERY.as_millis().to_string());
        self.finished(client)
    }

    /// Whether consumers get the messages of a transaction only once it is committed, as they do by
    /// default.
    #[must_use]
    pub fn reads_committed(&self) -> bool {
        self.properties.get("isolation.level").is_none_or(|level| level != "read_uncommitted")
    }

    fn finished(&self, mut client: ClientConfig) -> ClientConfig {
        for (name, value) in &self.properties {
            client.set(name, value);
        }
        client
    }

    /// For the consumer of `topic`. It keeps no positions of its own: those are stored with the orders.
    #[must_use]
    pub fn consumer(&self) -> ClientConfig {
        let mut client = self.client();
        client
            .set("group.id", &self.group)
            // The fixes for the newer protocol are in later versions of the library.
            .set("group.protocol", "classic")
            .set("partition.assignment.strategy", "range")
            .set("session.timeout.ms", self.session_timeout.as_millis().to_string())
            .set("heartbeat.interval.ms", (self.session_timeout.as_millis() / 4).max(1).to_string())
            .set("max.poll.interval.ms", "300000")
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            // Every start is at a known offset. One that is not there any more must not become another in silence.
            .set("auto.offset.reset", "error")
            .set("allow.auto.create.topics", "false")
            // A topic that is made later is seen this soon.
            .set("topic.metadata.refresh.interval.ms", "2000")
            .set("topic.metadata.propagation.max.ms", "1000")
            .set("fetch.wait.max.ms", "100")
            .set("fetch.error.backoff.ms", "100")
            .set("queued.max.messages.kbytes", "32768")
            // With the default of a second, a queue that was full once runs dry before it is fetched for again.
            .set("fetch.queue.backoff.ms", "10")
            .set("fetch.message.max.bytes", "4194304")
            .set("enable.partition.eof", "false")
            // Says how far the fetching has come where messages do not tell, and which brokers are known.
            .set("statistics.interval.ms", broker_watch::STATISTICS_EVERY.as_millis().to_string());
        if let Some(instance_id) = &self.instance_id {
            client.set("group.instance.id", instance_id);
        }
        self.finished(client)
    }

    /// For a producer that loses nothing and repeats nothing: acknowledged by every replica in sync.
    #[must_use]
    pub fn producer(&self) -> ClientConfig {
        let mut client = self.client();
        client
            .set("enable.idempotence", "true")
            .set("acks", "all")
            .set("linger.ms", "2")
            .set("message.timeout.ms", "30000")
            .set("message.max.bytes", "33554432")
            .set("queue.buffering.max.kbytes", "65536");
        self.finished(client)
    }

    /// The largest message that a topic of the service must take, in bytes: an order with its headers.
    #[must_use]
    pub fn message_bytes_max(&self) -> usize {
        self.order_bytes_max.saturating_add(MESSAGE_ROOM_BYTES)
    }

    /// For looking at topics without being a member of a group.
    #[must_use]
    pub fn reader(&self) -> ClientConfig {
        let mut client = self.client();
        client
            .set("group.id", format!("{}-reader", self.group)) // demanded by the library, never joined
            .set("enable.auto.commit", "false")
            .set("auto.offset.reset", "earliest")
            .set("enable.partition.eof", "true")
            .set("allow.auto.create.topics", "false");
        self.finished(client)
    }

    /// For making topics.
    #[must_use]
    pub fn admin(&self) -> ClientConfig {
        self.finished(self.client())
    }
}
