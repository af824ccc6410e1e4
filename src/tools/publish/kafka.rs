//! Orders into the topic that the service takes them from, keyed by their ids.

use std::ops::Range;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use super::documents::Documents;
use super::{Config, Summary};
use crate::order::sample;
use crate::tools::cluster::{Cluster, Message, Sender};
use crate::tools::progress::Progress;

/// Messages handed from the thread that makes them to the one that sends them at once.
const CHUNK_MESSAGES_MAX: usize = 256;

/// The bytes at which a chunk is handed over, however few messages it has.
const CHUNK_BYTES: usize = 256 << 10;

/// Chunks that may wait to be sent.
const CHUNKS_MAX: usize = 16;

/// Publishes as fast as the brokers take it, or at the rate asked for.
pub(super) fn run(config: Config, cluster: &Cluster) -> anyhow::Result<Summary> {
    let mut sender = cluster.sender()?;
    let progress = Progress::new("publish", config.file.is_none().then_some(config.count));
    let started = Instant::now();
    let (into, chunks) = sync_channel(CHUNKS_MAX);
    // A thread that no one has to wait for: when Kafka is gone it may be waiting for input that never comes.
    let (reader, reading) = sync_channel(1);
    std::thread::Builder::new().name("publish-read".into()).spawn(move || reader.send(read(&config, &into)))?;
    let mut told = 0;
    let mut tell = |sent| progress.add(sent - std::mem::replace(&mut told, sent));
    let end = send_all(&mut sender, cluster.topic(), &chunks, &mut tell);
    drop(chunks);
    let (sent, failed, first_failure) = sender.finish(&mut tell);
    let summary = Summary { sent, failed, ..Summary::default() };
    #[expect(clippy::cast_precision_loss, reason = "a figure for people")]
    let rate = sent as f64 / started.elapsed().as_secs_f64();
    progress.finish(format!("{sent} sent, {failed} failed, {rate:.0}/s"));
    let reason = first_failure.unwrap_or_default();
    end.with_context(|| reason.clone())?;
    reading.recv().context("the reader of the orders failed")??;
    if failed > 0 {
        bail!("{failed} orders are not in {}; the first: {reason}", cluster.topic());
    }
    Ok(summary)
}

/// Sends until there is nothing left, or no one to send it to.
fn send_all(
    sender: &mut Sender,
    topic: &str,
    chunks: &Receiver<Chunk>,
    tell: &mut impl FnMut(u64),
) -> anyhow::Result<()> {
    loop {
        match chunks.recv_timeout(Duration::from_millis(100)) {
            Ok(chunk) => {
                for (key, value) in chunk.messages() {
                    sender.send(Message { topic, key, value: Some(value), ..Message::default() })?;
                }
            }
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return Ok(()),
        }
        sender.poll()?;
        tell(sender.sent());
    }
}

/// Messages one behind the other in one buffer.
#[derive(Default)]
struct Chunk {
    bytes: Vec<u8>,
    /// Where each message's key, which may be missing, and value are.
    messages: Vec<(Option<Range<usize>>, Range<usize>)>,
}

impl Chunk {
    fn new() -> Self {
        Self { bytes: Vec::with_capacity(CHUNK_BYTES * 3 / 2), messages: Vec::with_capacity(CHUNK_MESSAGES_MAX) }
    }

    fn push(&mut self, key: Option<&str>, value: &[u8]) {
        let key = key.map(|key| self.append(key.as_bytes()));
        let value = self.append(value);
        self.messages.push((key, value));
    }

    fn append(&mut self, bytes: &[u8]) -> Range<usize> {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(bytes);
        start..self.bytes.len()
    }

    fn is_full(&self) -> bool {
        self.messages.len() >= CHUNK_MESSAGES_MAX || self.bytes.len() >= CHUNK_BYTES
    }

    fn messages(&self) -> impl Iterator<Item = (Option<&[u8]>, &[u8])> {
        self.messages.iter().map(|(key, value)| (key.clone().map(|key| &self.bytes[key]), &self.bytes[value.clone()]))
    }
}

/// Makes or reads the orders, and their keys.
fn read(config: &Config, into: &SyncSender<Chunk>) -> anyhow::Result<()> {
    let mut documents = Documents::open(config)?;
    let (mut chunk, mut document) = (Chunk::new(), Vec::new());
    let mut is_wanted = true;
    while is_wanted {
        document.clear();
        let Some(next) = documents.append_next(&mut document)? else { break };
        let ahead = documents.ahead();
        if !ahead.is_zero() {
            is_wanted = hand_over(&mut chunk, into);
            std::thread::sleep(ahead);
        }
        let key = match next.wb_sample {
            Some(n) => Some(sample::wb_id(config.seed, n)),
            None => key_of(&document),
        };
        chunk.push(key.as_deref(), &document);
        // Input that comes slowly is sent as it comes.
        if chunk.is_full() || !documents.is_next_there() {
            is_wanted &= hand_over(&mut chunk, into);
        }
    }
    hand_over(&mut chunk, into);
    Ok(())
}

/// Whether there still is someone to take it.
fn hand_over(chunk: &mut Chunk, into: &SyncSender<Chunk>) -> bool {
    chunk.messages.is_empty() || into.send(std::mem::replace(chunk, Chunk::new())).is_ok()
}

/// The id that a document has for an order. What is no JSON object with one has no key, and is sent all the same.
fn key_of(document: &[u8]) -> Option<String> {
    let document: serde_json::Value = serde_json::from_slice(document).ok()?;
    let id = ["order_uid", "order_id"].into_iter().find_map(|name| document.get(name)?.as_str())?;
    (!id.is_empty()).then(|| id.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_the_ids_of_either_kind_of_order() {
        for (document, key) in [
            (r#"{"order_uid":"a"}"#, Some("a")),
            (r#" {"user_id":"u","order_id":"b"} "#, Some("b")),
            (r#"{"order_uid":7,"order_id":"b"}"#, Some("b")),
            (r#"{"order_uid":""}"#, None),
            (r#"{"order_uid":"a""#, None),
            (r#"[{"order_uid":"a"}]"#, None),
            ("no JSON", None),
            ("", None),
        ] {
            assert_eq!(key_of(document.as_bytes()).as_deref(), key, "{document}");
        }
    }

    #[test]
    fn a_chunk_gives_back_what_was_put_in() {
        let mut chunk = Chunk::default();
        chunk.push(Some("key"), b"value");
        chunk.push(None, b"");
        let messages: Vec<_> = chunk.messages().collect();
        assert_eq!(messages, [(Some(&b"key"[..]), &b"value"[..]), (None, b"")]);
    }
}
