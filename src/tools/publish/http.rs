//! Orders to a running service: `POST /orders`, one request an order.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, bail};
use bytes::Bytes;
use hyper::header::{CONTENT_TYPE, HeaderValue, RETRY_AFTER};
use hyper::{Response, StatusCode};
use tokio::sync::{Mutex, mpsc, oneshot};
use tokio::time::Instant;

use super::documents::Documents;
use super::{Config, Kind, Summary};
use crate::tools::client::{Client, NoAnswer, Server};
use crate::tools::progress::Progress;

/// Publishes over so many connections.
pub(super) async fn run(config: Config, server: Server, connections: usize) -> anyhow::Result<Summary> {
    // No one there is said at once; only a service that was there is waited for.
    Client::new(server.clone(), SEND_TIME).connect().await.context("the service does not answer")?;
    let patience = config.patience;
    let progress = Arc::new(Progress::new("publish", config.file.is_none().then_some(config.count)));
    let (sender, documents) = mpsc::channel::<Document>(1024);
    let documents = Arc::new(Mutex::new(documents));
    // A thread that no one has to wait for: when the service is gone it may be waiting for input that never comes.
    let (reader, reading) = oneshot::channel();
    std::thread::Builder::new().name("publish-read".into()).spawn(move || reader.send(read(&config, &sender)))?;
    let mut senders = tokio::task::JoinSet::new();
    for _ in 0..connections {
        let sender = Sender { client: Client::new(server.clone(), SEND_TIME), server: server.clone(), patience };
        senders.spawn(sender.send_all(Arc::clone(&documents), Arc::clone(&progress)));
    }
    drop(documents);
    let mut summary = Summary::default();
    let (mut first_failure, mut gone) = (None, 0);
    while let Some(sent) = senders.join_next().await {
        let sent = sent?;
        summary.created += sent.summary.created;
        summary.updated += sent.summary.updated;
        summary.rejected += sent.summary.rejected;
        summary.failed += sent.summary.failed;
        first_failure = first_failure.or(sent.first_failure);
        gone += usize::from(sent.is_gone);
    }
    if gone == connections {
        progress.finish(summary.text());
        bail!("the service is gone: no connection for {} s; until then {}", patience.as_secs_f32(), summary.text());
    }
    reading.await.context("the reader of the orders failed")??;
    progress.finish(summary.text());
    if let Some(failure) = first_failure {
        bail!("{} orders did not fare as they should; the first: {failure}", summary.failed);
    }
    Ok(summary)
}

/// An order on its way, and what is expected of it.
struct Document {
    bytes: Bytes,
    is_invalid: bool,
    /// Its id is made by the service, so sending it twice must be made one request.
    is_creation: bool,
}

/// Makes or reads the orders at the rate asked for.
fn read(config: &Config, into: &mpsc::Sender<Document>) -> anyhow::Result<()> {
    let mut documents = Documents::open(config)?;
    let is_creation = config.kind == Kind::Envelope || config.file.is_some();
    loop {
        let mut bytes = Vec::with_capacity(DOCUMENT_BYTES);
        let Some(next) = documents.append_next(&mut bytes)? else { break };
        std::thread::sleep(documents.ahead());
        let document = Document { bytes: bytes.into(), is_invalid: next.is_invalid, is_creation };
        if into.blocking_send(document).is_err() {
            break;
        }
    }
    Ok(())
}

/// Room for a usual order.
const DOCUMENT_BYTES: usize = 1536;

/// How long one answer is waited for.
const SEND_TIME: Duration = Duration::from_secs(30);

/// The longest a server's `Retry-After` is obeyed.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(5);

/// How long to wait before an order is sent again, given the seconds the server asks for and the patience left.
fn pause_for(seconds: Option<u64>, left: Duration) -> Duration {
    Duration::from_secs(seconds.unwrap_or(1)).min(RETRY_AFTER_MAX).min(left)
}

/// One connection.
struct Sender {
    client: Client,
    server: Server,
    patience: Duration,
}

/// What became of one connection's share.
#[derive(Default)]
struct Sent {
    summary: Summary,
    first_failure: Option<String>,
    /// It could not connect for as long as it had patience, and gave up.
    is_gone: bool,
}

impl Sender {
    /// Sends until there is nothing left, or no one to send it to.
    async fn send_all(mut self, documents: Arc<Mutex<mpsc::Receiver<Document>>>, progress: Arc<Progress>) -> Sent {
        let mut sent = Sent::default();
        loop {
            let document = documents.lock().await.recv().await;
            let Some(document) = document else { return sent };
            let summary = &mut sent.summary;
            match self.send(&document).await {
                Ok(answer) => match answer.status() {
                    StatusCode::CREATED if !document.is_invalid => summary.created += 1,
                    StatusCode::OK if !document.is_invalid => summary.updated += 1,
                    StatusCode::BAD_REQUEST | StatusCode::PAYLOAD_TOO_LARGE | StatusCode::UNPROCESSABLE_ENTITY
                        if document.is_invalid =>
                    {
                        summary.rejected += 1;
                    }
                    status => {
                        summary.failed += 1;
                        let body = String::from_utf8_lossy(answer.body()).into_owned();
                        sent.first_failure.get_or_insert(format!("{status}: {body}"));
                    }
                },
                Err(error) => {
                    summary.failed += 1;
                    sent.first_failure.get_or_insert(error.to_string());
                    // The next order would fare no better; other connections, if they still have one, take it up.
                    sent.is_gone = matches!(error.downcast_ref(), Some(NoAnswer::Refused));
                }
            }
            progress.add(1);
            if sent.is_gone {
                return sent;
            }
        }
    }

    /// Sends one order; a full queue and a lost connection are tried again. An order sent twice is stored once,
    /// because its id, or its idempotency key, is the same.
    async fn send(&mut self, document: &Document) -> anyhow::Result<Response<Bytes>> {
        let key = HeaderValue::try_from(uuid::Uuid::new_v4().to_string())?;
        let deadline = Instant::now() + self.patience;
        loop {
            let mut request = self.server.request("POST", "/orders", document.bytes.clone())?;
            request.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
            if document.is_creation {
                request.headers_mut().insert("idempotency-key", key.clone());
            }
            let pause = match self.client.send(request).await {
                Ok(answer) if answer.status() == StatusCode::SERVICE_UNAVAILABLE && Instant::now() < deadline => {
                    let after = answer.headers().get(RETRY_AFTER).and_then(|after| after.to_str().ok()?.parse().ok());
                    pause_for(after, deadline.saturating_duration_since(Instant::now()))
                }
                Ok(answer) => return Ok(answer),
                Err(NoAnswer::Refused | NoAnswer::Closed) if Instant::now() < deadline => Duration::from_millis(200),
                Err(error) => return Err(error.into()),
            };
            tokio::time::sleep(pause).await;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retry_after_is_bounded_by_its_limit_and_by_the_patience() {
        let patience = Duration::from_secs(30);
        assert_eq!(pause_for(Some(u64::MAX), patience), RETRY_AFTER_MAX);
        assert_eq!(pause_for(Some(4), Duration::from_secs(2)), Duration::from_secs(2));
        assert_eq!(pause_for(None, patience), Duration::from_secs(1));
    }
}
