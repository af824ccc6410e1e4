//! Refused, answer lost, held, slow, damaged: what the senders are told, and what readers see.

use std::sync::Arc;

use bytes::Bytes;
use order_service::cache::{self, View};
use order_service::id::OrderId;
use order_service::ingest::{self, Ingest, IngestError, IngestMetrics, Ledger};
use order_service::metrics::Metrics;
use order_service::order::sample;
use order_service::process::lifecycle::{self, Trigger};
use order_service::record::Idempotency;
use order_service::snapshot::{ChangeKind, State};
use order_service::source::inbox::{self, Inbox, Reply, SubmitError};
use order_service::store::embedded::{Config, Embedded};
use order_service::store::{Refusal, Store};
use tokio::task::JoinHandle;

use super::lying::{Lie, Lying, settled};

/// A running ingest loop over a lying store.
struct Bench {
    store: Lying,
    view: Arc<View>,
    inbox: Inbox,
    trigger: Trigger,
    running: JoinHandle<Result<Ledger, IngestError>>,
    _dir: tempfile::TempDir,
}

impl Bench {
    async fn start(lies: impl IntoIterator<Item = Lie>, queue: inbox::Config) -> Self {
        Self::start_with(lies, queue, ingest::Config::default()).await
    }

    async fn start_with(lies: impl IntoIterator<Item = Lie>, queue: inbox::Config, config: ingest::Config) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Lying::new(Embedded::open(Config::new(dir.path())).unwrap(), lies);
        let view = Arc::new(View::new(cache::Config::default(), 0));
        view.set_complete();
        let (inbox, source) = inbox::inbox(&queue);
        let (trigger, shutdown) = lifecycle::shutdown();
        let metrics = IngestMetrics::register(&Metrics::default());
        let seen = Some(Arc::clone(&view));
        let ingest = Ingest::new(source, store.clone(), seen, &config, metrics).await.unwrap();
        let running = tokio::spawn(ingest.run(shutdown));
        Self { store, view, inbox, trigger, running, _dir: dir }
    }

    async fn send(&self, document: impl Into<Bytes>) -> Reply {
        self.inbox.submit(document.into()).unwrap().await.expect("answered")
    }

    async fn stop(self) -> Ledger {
        self.trigger.fire();
        self.running.await.unwrap().unwrap()
    }

    fn visible(&self, id: &OrderId) -> Option<(u64, State, Vec<u8>)> {
        self.view.get(id).map(|copy| (copy.version(), copy.state(), copy.flat().whole().to_vec()))
    }

    async fn stored(&self, id: &OrderId) -> Option<(u64, State, Vec<u8>)> {
        let copy = self.store.truth.fetch(id.clone()).await.unwrap();
        copy.map(|copy| (copy.version(), copy.state(), copy.flat().whole().to_vec()))
    }
}

fn wb(n: u64) -> Vec<u8> {
    let mut document = Vec::new();
    sample::wb(7, n, &mut document);
    document
}

fn wb_id(n: u64) -> OrderId {
    OrderId::parse(sample::wb_id(7, n).as_bytes()).unwrap()
}

#[tokio::test]
async fn a_refused_commit_is_tried_again_and_no_one_is_told_before_it_succeeds() {
    let bench = Bench::start([Lie::Reject, Lie::Reject], inbox::Config::default()).await;
    let reply = bench.send(wb(9)).await;
    assert!(matches!(reply, Reply::Stored { version: 1, change: ChangeKind::Created, .. }), "{reply:?}");
    assert_eq!(bench.store.left(), 0);
    assert_eq!(bench.visible(&wb_id(9)), bench.stored(&wb_id(9)).await);
    assert_eq!(bench.stop().await, Ledger { read: 1, stored: 1, ..Ledger::default() });
}

#[tokio::test]
async fn a_commit_whose_answer_was_lost_is_visible_once_it_is_confirmed() {
    let bench = Bench::start([Lie::FailAfterWrite], inbox::Config::default()).await;
    let reply = bench.send(wb(9)).await;
    // The second try finds the order stored; the sender is told that it is, at the version it has.
    assert!(matches!(reply, Reply::Stored { version: 1, .. }), "{reply:?}");
    assert!(bench.visible(&wb_id(9)).is_some(), "readers must see what the sender was told");
    assert_eq!(bench.view.feed().head(), 1, "and followers must hear of it");
    assert_eq!(bench.visible(&wb_id(9)), bench.stored(&wb_id(9)).await);
}

#[tokio::test]
async fn a_lost_answer_creates_no_second_envelope() {
    let bench = Bench::start([Lie::FailAfterWrite], inbox::Config::default()).await;
    let mut request = Vec::new();
    sample::envelope(7, 1, &mut request);
    let reply = bench.send(request).await;
    let Reply::Stored { id, version: 1, change: ChangeKind::Created, .. } = reply else { panic!("{reply:?}") };
    assert_eq!(bench.visible(&id), bench.stored(&id).await);
    assert_eq!(bench.store.truth.page(None, 10).await.unwrap().len(), 1);
}

#[tokio::test]
async fn a_lost_answer_to_a_deletion_is_still_a_deletion() {
    let bench = Bench::start([], inbox::Config::default()).await;
    let first = bench.send(wb(9)).await;
    assert!(matches!(first, Reply::Stored { .. }), "{first:?}");
    let lying = Lying::new(bench.store.truth.clone(), [Lie::FailAfterWrite]);
    // The same view and store behind a second loop, whose store lies.
    let (inbox, source) = inbox::inbox(&inbox::Config::default());
    let (_trigger, shutdown) = lifecycle::shutdown();
    let metrics = IngestMetrics::register(&Metrics::default());
    let seen = Some(Arc::clone(&bench.view));
    let ingest = Ingest::new(source, lying, seen, &ingest::Config::default(), metrics).await.unwrap();
    tokio::spawn(ingest.run(shutdown));
    let delete = format!(r#"{{"order_uid":"{}","status":"deleted"}}"#, wb_id(9));
    let reply = inbox.submit(Bytes::from(delete)).unwrap().await.unwrap();
    assert!(matches!(reply, Reply::WasDeleted { version: 2, .. }), "{reply:?}");
    assert_eq!(bench.visible(&wb_id(9)), Some((2, State::Tombstone, Vec::new())));
    assert_eq!(bench.view.size().live, 0);
}

#[tokio::test]
async fn a_repeated_request_whose_first_answer_was_lost_gets_that_answer() {
    let bench = Bench::start([Lie::FailAfterWrite], inbox::Config::default()).await;
    let key = Idempotency { key: "k".into(), digest: [1; 32] };
    let reply = bench
        .inbox
        .submit(inbox::Request { idempotency: Some(key.clone()), ..Bytes::from(wb(9)).into() })
        .unwrap()
        .await
        .unwrap();
    assert!(matches!(reply, Reply::Stored { version: 1, change: ChangeKind::Created, .. }), "{reply:?}");
    assert!(bench.visible(&wb_id(9)).is_some());
    let other = Idempotency { digest: [2; 32], ..key };
    let reply = bench
        .inbox
        .submit(inbox::Request { idempotency: Some(other), ..Bytes::from(wb(10)).into() })
        .unwrap()
        .await
        .unwrap();
    assert!(matches!(reply, Reply::Refused { refusal: Refusal::KeyReused, .. }), "{reply:?}");
    assert_eq!(bench.visible(&wb_id(10)), None);
}

#[tokio::test]
async fn while_the_store_holds_the_queue_fills_and_refuses_and_loses_nothing() {
    let queue = inbox::Config { queue_rows_max: 8, queue_bytes_max: 1 << 20 };
    let mut config = ingest::Config::default();
    config.batch.batch_rows_max = 50;
    let bench = Bench::start_with([Lie::Hold], queue, config).await;
    let mut waiting = Vec::new();
    let mut taken = 0;
    let refused = loop {
        // The loop takes orders out of the queue and into its batch until that is full as well.
        settled().await;
        match bench.inbox.submit(Bytes::from(wb(100 + taken))) {
            Ok(reply) => waiting.push(reply),
            Err(error) => break error,
        }
        taken += 1;
        assert!(taken < 5000, "a queue without a limit");
    };
    // The one that is held, a full one behind it, a full one that is not on its way yet, the next order and the queue.
    assert_eq!(taken, 1 + 50 + 50 + 1 + 8);
    assert_eq!(refused, SubmitError::Full);
    assert_eq!(bench.view.size().live, 0, "nothing is visible before it is durable");
    bench.store.release();
    for reply in waiting {
        assert!(matches!(reply.await.unwrap(), Reply::Stored { change: ChangeKind::Created, .. }));
    }
    assert_eq!(bench.view.size().live, taken);
    let ledger = bench.stop().await;
    assert_eq!((ledger.read, ledger.stored), (taken, taken));
}

#[tokio::test]
async fn the_queue_is_bounded_in_bytes_too() {
    let queue = inbox::Config { queue_rows_max: 1000, queue_bytes_max: 4000 };
    let bench = Bench::start([Lie::Hold], queue).await;
    let accepted = (0..100).take_while(|n| bench.inbox.submit(Bytes::from(wb(100 + n))).is_ok()).count();
    assert!((2..=5).contains(&accepted), "{accepted} orders of about 1 KB in 4,000 bytes");
    bench.store.release();
}

#[tokio::test]
async fn a_slow_store_makes_bigger_batches_not_a_longer_queue() {
    let bench = Bench::start([Lie::Hold], inbox::Config::default()).await;
    let first = bench.inbox.submit(Bytes::from(wb(50))).unwrap();
    bench.store.commits.entered.reaches(1).await;
    let rest: Vec<_> = (51..300).map(|n| bench.inbox.submit(Bytes::from(wb(n))).unwrap()).collect();
    settled().await;
    bench.store.release();
    assert!(first.await.is_ok());
    for reply in rest {
        assert!(matches!(reply.await.unwrap(), Reply::Stored { version: 1, .. }));
    }
    assert_eq!(bench.view.size().live, 250);
    assert_eq!(bench.store.commits.entered.get(), 2, "what came meanwhile is one batch");
}

#[tokio::test]
async fn a_damaged_store_stops_the_loop_with_advice() {
    let bench = Bench::start([Lie::Damaged], inbox::Config::default()).await;
    let reply = bench.inbox.submit(Bytes::from(wb(9))).unwrap();
    let error = bench.running.await.unwrap().unwrap_err();
    assert!(error.to_string().contains("restore the store"), "{error}");
    assert!(reply.await.is_err(), "no one is told that the order is stored");
    assert_eq!(bench.view.size().entries, 0);
}

#[tokio::test]
async fn a_stop_commits_what_was_taken_and_takes_nothing_more() {
    let bench = Bench::start([Lie::Hold], inbox::Config::default()).await;
    let first = bench.inbox.submit(Bytes::from(wb(20))).unwrap();
    bench.store.commits.entered.reaches(1).await;
    let rest = (1..100).map(|n| bench.inbox.submit(Bytes::from(wb(20 + n))).unwrap());
    let replies: Vec<_> = std::iter::once(first).chain(rest).collect();
    bench.trigger.fire();
    settled().await;
    bench.store.release();
    let ledger = bench.running.await.unwrap().unwrap();
    assert_eq!((ledger.read, ledger.stored), (100, 100));
    for reply in replies {
        assert!(matches!(reply.await.unwrap(), Reply::Stored { .. }));
    }
    assert!(matches!(bench.inbox.submit(Bytes::from(wb(9))), Err(SubmitError::Stopping)));
}

#[tokio::test]
async fn orders_of_one_batch_are_applied_one_after_the_other() {
    let bench = Bench::start([Lie::Hold], inbox::Config::default()).await;
    // The first commit is held, so the next four meet in one batch.
    let first = bench.inbox.submit(Bytes::from(wb(9))).unwrap();
    bench.store.commits.entered.reaches(1).await;
    let changed = String::from_utf8(wb(9)).unwrap().replace("\"locale\":\"", "\"locale\":\"x");
    let id = wb_id(9);
    let delete = format!(r#"{{"order_uid":"{id}","status":"deleted"}}"#);
    let second = bench.inbox.submit(Bytes::from(changed.clone())).unwrap();
    let third = bench.inbox.submit(Bytes::from(changed)).unwrap();
    let fourth = bench.inbox.submit(Bytes::from(delete)).unwrap();
    let fifth = bench.inbox.submit(Bytes::from(wb(9))).unwrap();
    settled().await;
    bench.store.release();
    assert!(matches!(first.await.unwrap(), Reply::Stored { version: 1, change: ChangeKind::Created, .. }));
    assert!(matches!(second.await.unwrap(), Reply::Stored { version: 2, change: ChangeKind::Updated, .. }));
    assert!(matches!(third.await.unwrap(), Reply::Stored { version: 2, change: ChangeKind::Updated, .. }));
    assert!(matches!(fourth.await.unwrap(), Reply::Stored { version: 3, change: ChangeKind::Deleted, .. }));
    assert!(matches!(fifth.await.unwrap(), Reply::WasDeleted { version: 3, .. }));
    assert_eq!(bench.store.commits.entered.get(), 2);
    assert_eq!(bench.visible(&id), Some((3, State::Tombstone, Vec::new())));
}
