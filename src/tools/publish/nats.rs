//! Orders to the NATS subject that the service takes them from.

use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use async_nats::ConnectOptions;
use async_nats::jetstream::Context;
use async_nats::jetstream::context::{ContextBuilder, PublishAckFuture, PublishError, PublishErrorKind};
use async_nats::jetstream::message::PublishMessage;
use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use tokio::sync::mpsc;

use super::documents::Documents;
use super::{Config, Summary};
use crate::nats;
use crate::tools::client::check_local;
use crate::tools::progress::Progress;

/// Orders sent and not yet acknowledged.
const OUTSTANDING_MAX: usize = 2000;
/// Orders handed from the thread that makes them to the one that sends them at once.
const CHUNK_MESSAGES_MAX: usize = 256;
/// Chunks that may wait to be sent.
const CHUNKS_MAX: usize = 16;
/// How long a server is waited for before it counts as not there.
const CONNECT_TIME: Duration = Duration::from_secs(8);
/// How long an acknowledgement may take before the order is sent again.
const ACK_TIME: Duration = Duration::from_secs(5);
/// Between two tries.
const PAUSE: Duration = Duration::from_millis(200);

/// Servers that may be sent orders in quantity.
#[derive(Debug, Clone)]
pub struct Servers(nats::Config);

impl Servers {
    /// Looks the servers up. Any but those of this machine must be allowed: load is not for strangers.
    ///
    /// # Errors
    /// When a server's host is unknown, or it is remote and that is not allowed.
    pub fn parse(config: nats::Config, is_remote_allowed: bool) -> anyhow::Result<Self> {
        if !is_remote_allowed {
            for (host, port) in config.addresses() {
                check_local(host, port)?;
            }
        }
        Ok(Self(config))
    }
}

/// Publishes as fast as the server takes it, or at the rate asked for. Each order is there once: one whose answer was
/// lost is sent again under the same id.
pub(super) async fn run(config: Config, servers: Servers) -> anyhow::Result<Summary> {
    let Servers(nats) = servers;
    let context = connect(&nats).await?;
    let progress = Progress::new("publish", config.file.is_none().then_some(config.count));
    let started = Instant::now();
    let patience = config.patience;
    let (into, mut chunks) = mpsc::channel(CHUNKS_MAX);
    // A thread that no one has to wait for: when NATS is gone it may be waiting for input that never comes.
    let (reader, reading) = tokio::sync::oneshot::channel();
    std::thread::Builder::new().name("publish-read".into()).spawn(move || reader.send(read(&config, &into)))?;
    let run = format!("{:016x}", fastrand::u64(..));
    let (mut number, mut sent) = (0_u64, 0_u64);
    let mut failure = None;
    let mut outstanding = FuturesUnordered::new();
    let mut is_over = false;
    while failure.is_none() && !(is_over && outstanding.is_empty()) {
        tokio::select! {
            biased;
            Some(result) = outstanding.next(), if !outstanding.is_empty() => match result {
                Ok(()) => {
                    sent += 1;
                    progress.add(1);
                }
                Err(error) => failure = Some(error),
            },
            chunk = chunks.recv(), if !is_over && outstanding.len() < OUTSTANDING_MAX => match chunk {
                None => is_over = true,
                Some(documents) => for payload in documents {
                    number += 1;
                    let order = Order { id: format!("{run}-{number}"), payload };
                    // In order as long as nothing goes wrong.
                    let first = order.send(&context, &nats.subject).await;
                    outstanding.push(order.deliver(context.clone(), nats.subject.clone(), first, patience));
                },
            },
        }
    }
    let failed = u64::from(failure.is_some()) + outstanding.len() as u64;
    #[expect(clippy::cast_precision_loss, reason = "a figure for people")]
    let rate = sent as f64 / started.elapsed().as_secs_f64();
    progress.finish(format!("{sent} sent, {failed} failed, {rate:.0}/s"));
    if let Some(error) = failure {
        return Err(error).with_context(|| format!("{failed} orders may not be in {}; the first", nats.subject));
    }
    reading.await.context("the reader of the orders failed")??;
    Ok(Summary { sent, ..Summary::default() })
}

/// Connects, and finds out that there is a stream to publish to.
async fn connect(nats: &nats::Config) -> anyhow::Result<Context> {
    let place = nats.place();
    let connecting = tokio::time::timeout(CONNECT_TIME, nats.connect(ConnectOptions::new())).await;
    let client = connecting
        .with_context(|| format!("no server of {place} answers within {} s", CONNECT_TIME.as_secs()))?
        .map_err(|error| anyhow::anyhow!("{}", crate::nats::said(&error)))
        .with_context(|| format!("{place} cannot be reached"))?;
    let context = ContextBuilder::new().timeout(ACK_TIME).max_ack_inflight(OUTSTANDING_MAX * 2).build(client);
    let stream = context.stream_by_subject(nats.subject.clone()).await;
    stream.with_context(|| format!("{place} has no stream that takes subject {}", nats.subject))?;
    Ok(context)
}

/// An order on its way.
struct Order {
    id: String,
    payload: Bytes,
}

impl Order {
    async fn send(&self, context: &Context, subject: &str) -> Result<PublishAckFuture, PublishError> {
        let message = PublishMessage::build().payload(self.payload.clone()).message_id(&self.id);
        context.send_publish(subject.to_owned(), message).await
    }

    /// Waits until the order is in the stream, and sends it again as long as patience lasts.
    async fn deliver(
        self,
        context: Context,
        subject: String,
        first: Result<PublishAckFuture, PublishError>,
        patience: Duration,
    ) -> anyhow::Result<()> {
        let end = Instant::now() + patience;
        let mut sent = first;
        loop {
            let error = match sent {
                Ok(acknowledged) => match acknowledged.await {
                    Ok(_) => return Ok(()),
                    Err(error) => error,
                },
                Err(error) => error,
            };
            if error.kind() == PublishErrorKind::MaxPayloadExceeded || Instant::now() >= end {
                bail!("not in {subject}: {error}");
            }
            tokio::time::sleep(PAUSE).await;
            sent = self.send(&context, &subject).await;
        }
    }
}

/// Makes or reads the orders.
pub(super) fn read(config: &Config, into: &mpsc::Sender<Vec<Bytes>>) -> anyhow::Result<()> {
    let mut documents = Documents::open(config)?;
    let mut chunk = Vec::new();
    loop {
        let mut document = Vec::with_capacity(1536);
        if documents.append_next(&mut document)?.is_none() {
            break;
        }
        let ahead = documents.ahead();
        if !ahead.is_zero() {
            if !hand_over(&mut chunk, into) {
                return Ok(());
            }
            std::thread::sleep(ahead);
        }
        chunk.push(Bytes::from(document));
        // Input that comes slowly is sent as it comes.
        let is_due = chunk.len() >= CHUNK_MESSAGES_MAX || !documents.is_next_there();
        if is_due && !hand_over(&mut chunk, into) {
            return Ok(());
        }
    }
    hand_over(&mut chunk, into);
    Ok(())
}

/// Whether there still is someone to take it.
fn hand_over(chunk: &mut Vec<Bytes>, into: &mpsc::Sender<Vec<Bytes>>) -> bool {
    chunk.is_empty() || into.blocking_send(std::mem::take(chunk)).is_ok()
}
