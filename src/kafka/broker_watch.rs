//! What clients say of their connections: one that has lost every broker is told where to look for one, and why one over
//! TLS fails is logged.

use std::ffi::CString;
use std::sync::atomic::{AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rdkafka::bindings::rd_kafka_brokers_add;
use rdkafka::client::{Client, ClientContext};
use rdkafka::config::RDKafkaLogLevel;
use rdkafka::error::KafkaError;
use rdkafka::statistics::Statistics;

use crate::metrics::Metrics;
use crate::sync::lock;

/// How often a client says which brokers it knows.
pub const STATISTICS_EVERY: Duration = Duration::from_secs(1);
/// A client that knows no broker so many times in a row has forgotten them. It is without any for a moment while it
/// looks the first ones up again by itself.
const LOST_MAX: u32 = 3;

/// How often what is wrong with TLS is logged at most.
const TOLD_EVERY: Duration = Duration::from_secs(10);

/// Clients that were given their brokers again, in this process.
static RECOVERIES: AtomicU64 = AtomicU64::new(0);

/// Registers how many times a client had lost every broker and was told where to look for one: once
/// in a process that has clients of Kafka, and in no other.
#[expect(clippy::cast_precision_loss, reason = "a figure for a counter")]
pub fn register(metrics: &Metrics) {
    metrics.pulled_counter(
        "kafka_clients_recovered_total",
        "Clients that had lost every broker and were given the bootstrap servers again.",
        || RECOVERIES.load(Ordering::Relaxed) as f64,
    );
}

/// Whether a client still knows a broker.
///
/// A broker that wakes up after its session has expired fences itself and answers requests for metadata with no broker
/// at all. librdkafka (2.12; confluentinc/librdkafka issue 5301) then gives up the last one it knows, and the timer that
/// would look for the bootstrap servers again is cancelled by the reply that made it necessary: the client never
/// connects to anything again, however long the brokers are back. Producers keep their messages until these time out,
/// consumers stay silent.
///
/// The client's context passes its statistics to [`BrokerWatch::note`]. The owner of the client calls
/// [`BrokerWatch::recover`] about once a second, from any thread; it costs one atomic load as long as all is well.
/// Messages, positions and the membership of a group are kept. Clones share it.
#[derive(Debug, Clone)]
pub struct BrokerWatch {
    /// What the client is for, in the log.
    client: &'static str,
    /// Statistics in a row without a broker.
    lost: Arc<AtomicU32>,
}

impl BrokerWatch {
    /// Of a client that was just made.
    #[must_use]
    pub fn new(client: &'static str) -> Self {
        Self { client, lost: Arc::default() }
    }

    /// Takes note of which brokers the client knows. Those it made up itself, such as the coordinator, do not count.
    pub fn note(&self, statistics: &Statistics) {
        let is_known = statistics.brokers.values().any(|broker| matches!(&*broker.source, "learned" | "configured"));
        if is_known {
            self.lost.store(0, Ordering::Relaxed);
        } else {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
    }

    /// Gives a client that has lost every broker the bootstrap servers again. Returns whether it had to. Does not block.
    pub fn recover<C: ClientContext>(&self, client: &Client<C>, bootstrap: &str) -> bool {
        if self.lost.load(Ordering::Relaxed) < LOST_MAX {
            return false;
        }
        self.lost.store(0, Ordering::Relaxed);
        RECOVERIES.fetch_add(1, Ordering::Relaxed);
        tracing::warn!(client = self.client, bootstrap, "a client of Kafka has lost every broker, connecting again");
        add_brokers(client, bootstrap);
        true
    }
}

#[expect(unsafe_code, reason = "the library has the call, its binding for Rust does not")]
fn add_brokers<C: ClientContext>(client: &Client<C>, brokers: &str) {
    let brokers = CString::new(brokers).expect("a client was made of it, which takes no text with a zero byte");
    // SAFETY: the client outlives the call, and the library copies the text.
    let added = unsafe { rd_kafka_brokers_add(client.native_ptr(), brokers.as_ptr()) };
    if added == 0 {
        tracing::warn!("none of the bootstrap servers can be used");
    }
}

/// The context of a client of which nothing is to be known but whether it knows a broker. The library's own one logs
/// whatever goes wrong as an error, again and again.
#[derive(Debug)]
pub struct Watched {
    /// Whether it still knows a broker.
    pub brokers: BrokerWatch,
}

impl Watched {
    /// Of a client that is about to be made.
    #[must_use]
    pub fn new(client: &'static str) -> Self {
        Self { brokers: BrokerWatch::new(client) }
    }
}

impl ClientContext for Watched {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        log(level, facility, message);
    }

    fn stats(&self, statistics: Statistics) {
        self.brokers.note(&statistics);
    }

    fn error(&self, error: KafkaError, reason: &str) {
        failed(&error, reason);
    }
}

impl rdkafka::consumer::ConsumerContext for Watched {}

/// What the library says of a connection that failed. Only here does it say what is wrong with one over TLS, such as a
/// certificate for another host or a wrong password, so that is logged as a warning: at most every ten seconds for all
/// clients of the process, which meet the same brokers.
pub fn failed(error: &KafkaError, reason: &str) {
    static TOLD: Mutex<Option<Instant>> = Mutex::new(None);
    // It begins with the broker: `ssl://localhost:9093/1: SSL handshake failed: …`.
    let is_tls = reason.contains("ssl://");
    let mut told = lock(&TOLD);
    if is_tls && told.is_none_or(|last| last.elapsed() >= TOLD_EVERY) {
        *told = Some(Instant::now());
        tracing::warn!(reason, "a connection to Kafka over TLS failed");
    } else {
        tracing::debug!(%error, reason, "librdkafka");
    }
}

/// What the library says of itself, for those who look into it.
pub fn log(level: RDKafkaLogLevel, facility: &str, message: &str) {
    tracing::debug!(?level, facility, message, "librdkafka");
}
