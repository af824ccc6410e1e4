//! Orders to the channel of NATS Streaming that the service takes them from, as the publisher of an
//! older service sent them.

use std::time::{Duration, Instant};

use anyhow::{Context as _, bail};
use async_nats::ConnectOptions;
use bytes::Bytes;
use futures_util::StreamExt as _;
use futures_util::stream::FuturesUnordered;
use tokio::sync::mpsc;

use super::nats::read;
use super::{Config, Summary};
use crate::stan;
use crate::stan::session::{Session, SessionError};
use crate::tools::client::check_local;
use crate::tools::progress::Progress;

/// Orders sent and not yet acknowledged.
const OUTSTANDING_MAX: usize = 512;
/// Chunks that may wait to be sent.
const CHUNKS_MAX: usize = 16;
/// How long a server is waited for before it counts as not there.
const CONNECT_TIME: Duration = Duration::from_secs(8);
/// Between two tries.
const PAUSE: Duration = Duration::from_millis(200);

/// A cluster that may be sent orders in quantity.
#[derive(Debug, Clone)]
pub struct Cluster(stan::Config);

impl Cluster {
    /// Looks the servers up. Any but those of this machine must be allowed: load is not for
    /// strangers.
    ///
    /// # Errors
    /// When a server's host is unknown, or it is remote and that is not allowed.
    pub fn parse(config: stan::Config, is_remote_allowed: bool) -> anyhow::Result<Self> {
        if !is_remote_allowed {
            for (host, port) in config.servers.addresses() {
                check_local(host, port)?;
            }
        }
        Ok(Self(config))
    }
}

/// Publishes as fast as the cluster takes it, or at the rate asked for. One whose answer was lost
/// is sent again, and may be there twice: NATS Streaming knows no repeated messages. An order that
/// comes twice changes nothing.
pub(super) async fn run(config: Config, cluster: Cluster) -> anyhow::Result<Summary> {
    let Cluster(stan) = cluster;
    let session = connect(&stan).await?;
    let progress = Progress::new("publish", config.file.is_none().then_some(config.count));
    let started = Instant::now();
    let patience = config.patience;
    let (into, mut chunks) = mpsc::channel(CHUNKS_MAX);
    // A thread that is not waited for: when NATS is gone it may be waiting for input that never
    // comes.
    let (reader, reading) = tokio::sync::oneshot::channel();
    std::thread::Builder::new().name("publish-read".into()).spawn(move || reader.send(read(&config, &into)))?;
    let mut sent = 0_u64;
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
                    outstanding.push(deliver(&session, &stan.subject, payload, patience));
                },
            },
        }
    }
    let failed = u64::from(failure.is_some()) + outstanding.len() as u64;
    drop(outstanding);
    #[expect(clippy::cast_precision_loss, reason = "a figure for people")]
    let rate = sent as f64 / started.elapsed().as_secs_f64();
    progress.finish(format!("{sent} sent, {failed} failed, {rate:.0}/s"));
    // A name that stays taken is freed by the server.
    let _ = session.close().await;
    if let Some(error) = failure {
        return Err(error).with_context(|| format!("{failed} orders may not be in {}; the first", stan.subject));
    }
    reading.await.context("the reader of the orders failed")??;
    Ok(Summary { sent, ..Summary::default() })
}

/// Connects under a name of its own.
async fn connect(stan: &stan::Config) -> anyhow::Result<Session> {
    let place = stan.servers.place();
    let connecting = tokio::time::timeout(CONNECT_TIME, stan.servers.connect(ConnectOptions::new())).await;
    let client = connecting
        .with_context(|| format!("no server of {place} answers within {} s", CONNECT_TIME.as_secs()))?
        .map_err(|error| anyhow::anyhow!("{}", crate::nats::said(&error)))
        .with_context(|| format!("{place} cannot be reached"))?;
    let name = format!("{}-publish-{:08x}", stan.client, fastrand::u32(..));
    let session = Session::open(client, &stan.cluster, &name).await;
    session.with_context(|| format!("{place} does not let a client into the cluster {}", stan.cluster))
}

/// Waits until the order is in the channel, and sends it again as long as patience lasts.
async fn deliver(session: &Session, subject: &str, payload: Bytes, patience: Duration) -> anyhow::Result<()> {
    let end = Instant::now() + patience;
    loop {
        match session.publish(subject, payload.clone()).await {
            Ok(()) => return Ok(()),
            Err(error) if error == SessionError::TooLarge || Instant::now() >= end => {
                bail!("not in {subject}: {error}")
            }
            Err(_) => tokio::time::sleep(PAUSE).await,
        }
    }
}
