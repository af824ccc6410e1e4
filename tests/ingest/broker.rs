//! The loop against a broker that does what it is told: partitions that come, go and are fenced, dead letters that are
//! held, stores that refuse. What a real broker does at the same moments only by chance.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use bytes::Bytes;
use order_service::cache::{self, View};
use order_service::id::OrderId;
use order_service::ingest::{self, Ingest, IngestError, IngestMetrics, Ledger};
use order_service::metrics::Metrics;
use order_service::order::{Command, Decoder, Profile, sample};
use order_service::process::lifecycle::{self, Trigger};
use order_service::record::{Checkpoint, Position, Record, Rejection};
use order_service::source::{Parked, Received, Source, SourceError};
use order_service::store::embedded::{Config, Embedded};
use order_service::store::{Batch, Move, Outcome, Store};
use tokio::sync::{Semaphore, mpsc};
use tokio::task::JoinHandle;

use super::lying::{LONG, Lie, Lying, settled};

/// What the loop told its source.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Told {
    Started(Vec<u32>, Checkpoint),
    Committed(Checkpoint),
    Released,
    Fenced(u32),
    Rejected(Position, String),
}

/// What the broker does next.
enum Does {
    Sends(Vec<Record>),
    Assigns(Vec<u32>),
    Revokes(Vec<u32>),
}

struct Broker {
    does: mpsc::Receiver<Does>,
    told: Arc<Mutex<Vec<Told>>>,
    /// One permit for each dead letter that may be kept.
    keeps: Arc<Semaphore>,
    is_stopped: bool,
}

impl Source for Broker {
    fn name(&self) -> Arc<str> {
        "broker".into()
    }

    fn is_log(&self) -> bool {
        true
    }

    fn is_broker(&self) -> bool {
        true
    }

    fn must_exist(&self) -> bool {
        false
    }

    async fn recv(&mut self, into: &mut Vec<Record>) -> Result<Received, SourceError> {
        if self.is_stopped {
            return Ok(Received::End);
        }
        Ok(match self.does.recv().await {
            Some(Does::Sends(records)) => {
                into.extend(records);
                Received::Records
            }
            Some(Does::Assigns(partitions)) => Received::Assigned(partitions),
            Some(Does::Revokes(partitions)) => Received::Revoked(partitions),
            None => Received::End,
        })
    }

    fn commit(&mut self, upto: &Checkpoint, _: Vec<(Position, Outcome)>) {
        self.tell(Told::Committed(upto.clone()));
    }

    fn reject(&mut self, record: &Record, rejection: &Rejection) -> Parked {
        self.tell(Told::Rejected(record.position, rejection.line()));
        let keeps = Arc::clone(&self.keeps);
        Parked::Pending(Box::pin(async move {
            keeps.acquire().await.expect("never closed").forget();
            Ok(())
        }))
    }

    fn start(&mut self, partitions: &[u32], from: &Checkpoint) {
        self.tell(Told::Started(partitions.to_vec(), from.clone()));
    }

    fn release(&mut self) {
        self.tell(Told::Released);
    }

    fn fenced(&mut self, partition: u32) {
        self.tell(Told::Fenced(partition));
    }

    fn stop(&mut self) {
        self.is_stopped = true;
    }
}

impl Broker {
    fn tell(&self, told: Told) {
        self.told.lock().unwrap().push(told);
    }
}

/// A running loop between such a broker and a store that may lie.
pub struct Bench {
    pub store: Lying,
    view: Arc<View>,
    does: mpsc::Sender<Does>,
    told: Arc<Mutex<Vec<Told>>>,
    pub keeps: Arc<Semaphore>,
    trigger: Trigger,
    running: JoinHandle<Result<Ledger, IngestError>>,
    /// Partitions that were assigned to see that the loop goes around.
    rounds: AtomicU32,
    _dir: tempfile::TempDir,
}

impl Bench {
    pub async fn start(lies: impl IntoIterator<Item = Lie>, config: ingest::Config) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let store = Lying::new(Embedded::open(Config::new(dir.path())).unwrap(), lies);
        let view = Arc::new(View::new(cache::Config::default(), 0));
        view.set_complete();
        // Room for one, so that a test knows when the loop has stopped taking.
        let (does, of_broker) = mpsc::channel(1);
        let (told, keeps) = (Arc::default(), Arc::new(Semaphore::new(0)));
        let source = Broker { does: of_broker, told: Arc::clone(&told), keeps: Arc::clone(&keeps), is_stopped: false };
        let (trigger, shutdown) = lifecycle::shutdown();
        let metrics = IngestMetrics::register(&Metrics::default());
        let seen = Some(Arc::clone(&view));
        let ingest = Ingest::new(source, store.clone(), seen, &config, metrics).await.unwrap();
        let running = tokio::spawn(ingest.run(shutdown));
        Self { store, view, does, told, keeps, trigger, running, rounds: AtomicU32::new(0), _dir: dir }
    }

    pub async fn assigned(&self, partitions: &[u32]) {
        self.act(Does::Assigns(partitions.to_vec())).await;
        let partitions = partitions.to_vec();
        self.until(move |told| matches!(told, Told::Started(started, _) if *started == partitions)).await;
    }

    pub async fn send(&self, records: impl IntoIterator<Item = Record>) {
        self.act(Does::Sends(records.into_iter().collect())).await;
    }

    async fn act(&self, what: Does) {
        let taken = tokio::time::timeout(LONG, self.does.send(what)).await;
        assert!(taken.expect("the loop takes more").is_ok(), "the loop has ended");
    }

    /// Waits until the loop has taken what it was sent, and has then gone as far as it can by itself: it runs on the
    /// thread of the test.
    pub async fn taken(&self) {
        let room = tokio::time::timeout(LONG, self.does.reserve()).await;
        drop(room.expect("the loop takes more").expect("the loop runs"));
        settled().await;
    }

    /// Hands this to the loop, unless it takes nothing more until something happens outside of it.
    async fn offer(&self, what: Does) -> bool {
        settled().await;
        self.does.try_send(what).is_ok()
    }

    /// Has the loop take something that has nothing to do with orders, and waits until it is dealt with. The loop does
    /// all it can for the batches under way before it takes anything, so what has not begun now is waiting for something.
    pub async fn go_around(&self) {
        self.assigned(&[1000 + self.rounds.fetch_add(1, Ordering::SeqCst)]).await;
    }

    /// Waits until the source has been told something.
    pub async fn until(&self, is_it: impl Fn(&Told) -> bool) -> Told {
        let end = tokio::time::Instant::now() + LONG;
        loop {
            if let Some(told) = self.told.lock().unwrap().iter().rfind(|told| is_it(told)) {
                return told.clone();
            }
            assert!(tokio::time::Instant::now() < end, "never told, only {:?}", self.told.lock().unwrap());
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }

    pub async fn until_committed(&self, partition: u32, next: u64) {
        self.until(|told| matches!(told, Told::Committed(upto) if upto.next(partition) >= next)).await;
    }

    pub fn count(&self, is_it: impl Fn(&Told) -> bool) -> usize {
        self.told.lock().unwrap().iter().filter(|told| is_it(told)).count()
    }

    pub async fn stored(&self) -> BTreeMap<u32, u64> {
        self.store.truth.positions("broker".into()).await.unwrap().0
    }

    /// The versions of sample orders that readers see; the store must say the same.
    pub async fn versions(&self, orders: impl IntoIterator<Item = u64>) -> Vec<Option<u64>> {
        let mut versions = Vec::new();
        for n in orders {
            let seen = self.view.get(&id(n)).map(|copy| copy.version());
            let stored = self.store.truth.fetch(id(n)).await.unwrap().map(|copy| copy.version());
            assert_eq!(seen, stored, "order {n}");
            versions.push(seen);
        }
        versions
    }

    /// Another process moves a position.
    pub async fn steal(&self, partition: u32, from: u64, to: u64) {
        let moves = vec![Move { partition, from, to }];
        let batch = Batch { moves, is_atomic: true, ..Batch::of("broker", Vec::new()) };
        self.store.truth.commit(Arc::new(batch)).await.unwrap();
    }

    pub async fn stop(self) -> Ledger {
        self.trigger.fire();
        let ended = tokio::time::timeout(LONG, self.running).await;
        let ledger = ended.expect("the loop ends").unwrap().unwrap();
        let Ledger { read, stored, unchanged, coalesced, refused, rejected } = ledger;
        assert_eq!(read, stored + unchanged + coalesced + refused + rejected, "{ledger:?}");
        assert_eq!(refused, 0, "no sender waits to be told");
        ledger
    }
}

pub fn wb(n: u64) -> Vec<u8> {
    let mut document = Vec::new();
    sample::wb(7, n, &mut document);
    document
}

pub fn id(n: u64) -> OrderId {
    OrderId::parse(sample::wb_id(7, n).as_bytes()).unwrap()
}

pub fn at(partition: u32, offset: u64, value: impl Into<Bytes>) -> Record {
    Record::new(Position { partition, offset }, value.into())
}

pub fn orders(partition: u32, from: u64, numbers: std::ops::Range<u64>) -> Vec<Record> {
    numbers.enumerate().map(|(index, n)| at(partition, from + index as u64, wb(n))).collect()
}

fn is_rejected(told: &Told) -> bool {
    matches!(told, Told::Rejected(..))
}

#[tokio::test]
async fn a_position_is_not_passed_before_its_dead_letter_is_safe() {
    let bench = Bench::start([], ingest::Config::default()).await;
    bench.assigned(&[0]).await;
    bench.send([at(0, 0, "rubbish"), at(0, 1, wb(10)), at(0, 2, "more")]).await;
    bench.until(|told| matches!(told, Told::Rejected(position, _) if position.offset == 2)).await;
    bench.go_around().await;
    assert_eq!(bench.store.commits.entered.get(), 0, "not while letters are on their way");
    bench.keeps.add_permits(1);
    bench.go_around().await;
    assert_eq!(bench.keeps.available_permits(), 0, "the first is safe");
    assert_eq!(bench.store.commits.entered.get(), 0, "not while one is on its way");
    assert_eq!(bench.stored().await, BTreeMap::new());
    bench.keeps.add_permits(1);
    bench.until_committed(0, 3).await;
    assert_eq!(bench.stored().await, BTreeMap::from([(0, 3)]));
    assert_eq!(bench.versions([10]).await, [Some(1)]);
    assert_eq!(bench.stop().await, Ledger { read: 3, stored: 1, rejected: 2, ..Ledger::default() });
}

#[tokio::test]
async fn while_dead_letters_are_held_the_intake_is_bounded() {
    let mut config = ingest::Config::default();
    config.batch.batch_rows_max = 50;
    let bench = Bench::start([], config).await;
    bench.assigned(&[0]).await;
    let mut sent = 0;
    while sent < 10_000 {
        let chunk = Does::Sends((sent..sent + 10).map(|offset| at(0, offset, "rubbish")).collect());
        if !bench.offer(chunk).await {
            break;
        }
        sent += 10;
    }
    assert!((51..=130).contains(&sent), "at most two batches and what is on the way: {sent}");
    bench.keeps.add_permits(usize::try_from(sent).unwrap());
    bench.until_committed(0, sent).await;
    let ledger = bench.stop().await;
    assert_eq!((ledger.read, ledger.rejected), (sent, sent));
}

#[tokio::test]
async fn the_intake_of_large_rubbish_is_bounded_in_bytes() {
    let mut config = ingest::Config::default();
    config.batch.batch_bytes_max = 1 << 20;
    let bench = Bench::start([], config).await;
    bench.assigned(&[0]).await;
    let rubbish = Bytes::from(vec![b'x'; 256 << 10]);
    let mut sent = 0;
    while sent < 200 {
        let chunk = Does::Sends(vec![at(0, sent, rubbish.clone())]);
        if !bench.offer(chunk).await {
            break;
        }
        sent += 1;
    }
    // One batch of what came first, one of 1 MiB, and one or two records on the way.
    assert!(sent <= 12, "{sent} times 256 KiB are held for batches of 1 MiB");
    bench.keeps.add_permits(1000);
    bench.until_committed(0, sent).await;
    assert_eq!(bench.stop().await.rejected, sent);
}

#[tokio::test]
async fn a_fenced_partition_is_given_up_and_the_others_are_stored() {
    let bench = Bench::start([], ingest::Config::default()).await;
    bench.assigned(&[0, 1]).await;
    bench.send(orders(0, 0, 10..12).into_iter().chain(orders(1, 0, 20..22))).await;
    bench.until_committed(1, 2).await;
    bench.steal(1, 2, 5).await;
    bench.send(orders(1, 2, 22..24).into_iter().chain(orders(0, 2, 12..14))).await;
    bench.until(|told| *told == Told::Fenced(1)).await;
    bench.until_committed(0, 4).await;
    assert_eq!(bench.versions([10, 11, 12, 13, 20, 21]).await, [Some(1); 6]);
    assert_eq!(bench.versions([22, 23]).await, [None, None], "nothing of what another process has");
    assert_eq!(bench.stored().await, BTreeMap::from([(0, 4), (1, 5)]));
    // Still this process's: it goes on from where the other one left it.
    bench.assigned(&[1]).await;
    let started = bench.until(|told| matches!(told, Told::Started(of, _) if *of == [1])).await;
    assert_eq!(started, Told::Started(vec![1], Checkpoint(BTreeMap::from([(1, 5)]))));
    bench.send(orders(1, 5, 25..26)).await;
    bench.until_committed(1, 6).await;
    assert_eq!(bench.versions([25]).await, [Some(1)]);
    assert_eq!(bench.stop().await, Ledger { read: 7, stored: 7, ..Ledger::default() });
}

/// The batch that was filling kept the size of the orders that were taken out of it, so it took no more and was never
/// due: the loop stopped for ever.
#[tokio::test]
async fn a_full_batch_that_loses_its_partition_takes_orders_again() {
    let mut config = ingest::Config::default();
    config.batch.batch_bytes_max = 5000;
    let bench = Bench::start([Lie::Hold], config).await;
    bench.assigned(&[0, 1]).await;
    bench.send(orders(1, 0, 10..11)).await;
    bench.store.commits.entered.reaches(1).await;
    // While the first batch is held, the second is filled with orders of the same partition and some wait behind it.
    bench.steal(1, 0, 100).await;
    bench.send(orders(1, 1, 11..31).into_iter().chain(orders(0, 0, 40..42))).await;
    bench.store.early.reaches(1).await;
    bench.taken().await;
    bench.store.release();
    bench.until(|told| *told == Told::Fenced(1)).await;
    bench.until_committed(0, 2).await;
    assert_eq!(bench.versions([40, 41]).await, [Some(1); 2]);
    assert_eq!(bench.stop().await, Ledger { read: 2, stored: 2, ..Ledger::default() });
}

#[tokio::test]
async fn all_partitions_of_a_batch_may_be_fenced() {
    let bench = Bench::start([], ingest::Config::default()).await;
    bench.assigned(&[0, 1, 2]).await;
    for partition in 0..3 {
        bench.steal(partition, 0, 9).await;
    }
    bench
        .send(
            (0..3)
                .flat_map(|partition| orders(partition, 0, u64::from(partition) * 10..u64::from(partition) * 10 + 2))
                .chain([at(2, 2, "rubbish")]),
        )
        .await;
    bench.keeps.add_permits(1);
    for partition in 0..3 {
        bench.until(|told| *told == Told::Fenced(partition)).await;
    }
    assert_eq!(bench.stored().await, BTreeMap::from([(0, 9), (1, 9), (2, 9)]));
    assert_eq!(bench.stop().await, Ledger { read: 1, rejected: 1, ..Ledger::default() });
}

#[tokio::test]
async fn revoked_partitions_are_released_once_what_came_of_them_is_stored() {
    let bench = Bench::start([Lie::Hold], ingest::Config::default()).await;
    bench.assigned(&[0, 1]).await;
    bench.send(orders(0, 0, 10..11)).await;
    bench.store.commits.entered.reaches(1).await;
    bench.send(orders(1, 0, 20..400)).await;
    bench.act(Does::Revokes(vec![0, 1])).await;
    bench.taken().await;
    assert_eq!(bench.count(|told| *told == Told::Released), 0);
    bench.store.release();
    bench.until(|told| *told == Told::Released).await;
    let told = bench.told.lock().unwrap().clone();
    let last = told.iter().rev().nth(1).unwrap();
    assert!(matches!(last, Told::Committed(upto) if upto.next(1) == 380), "{last:?} is the last before the release");
    assert_eq!(bench.stored().await, BTreeMap::from([(0, 1), (1, 380)]), "stored before it was released");
    // They come back after another process went on with one of them.
    bench.steal(1, 380, 500).await;
    bench.assigned(&[1]).await;
    bench.send(orders(1, 500, 500..501)).await;
    bench.until_committed(1, 501).await;
    assert_eq!(bench.count(|told| matches!(told, Told::Fenced(_))), 0);
    let Told::Committed(upto) = bench.until(|told| matches!(told, Told::Committed(_))).await else { unreachable!() };
    assert_eq!(upto.0, BTreeMap::from([(1, 501)]), "nothing is said of partitions that went");
    assert_eq!(bench.stop().await.stored, 382);
}

#[tokio::test]
async fn what_the_store_refuses_for_ever_is_a_dead_letter_and_the_rest_is_stored() {
    let bench = Bench::start([], ingest::Config::default()).await;
    // An envelope has the id of order 11 already.
    let payload = r#"{"user_id":"0195c7f0-7b2b-7b84-8b6b-b563feb7b2b8","payload":{"id":"x"},"order_id":"#;
    let envelope = format!(r#"{payload}"{}"}}"#, id(11));
    let order = Decoder::new(Profile::default(), 1 << 20).decode(&envelope.into()).unwrap();
    assert!(matches!(order.command, Command::Envelope(_)));
    let batch = Batch::of("other", vec![order.into()]);
    bench.store.truth.commit(Arc::new(batch)).await.unwrap();
    bench.assigned(&[0]).await;
    let mut gone = at(0, 4, "");
    (gone.payload, gone.key) = (None, Some(Bytes::from_static(b"unknown")));
    let array = [&b"["[..], &wb(12), b",", &wb(11), b",", &wb(13), b"]"].concat();
    bench.send([at(0, 0, wb(10)), at(0, 1, wb(11)), at(0, 2, array), at(0, 3, wb(14)), gone]).await;
    bench
        .until(|told| matches!(told, Told::Rejected(position, _) if position.offset == 1 || position.offset == 2))
        .await;
    bench.go_around().await;
    assert_eq!(bench.store.commits.entered.get(), 1, "only the one that was refused");
    assert_eq!(bench.versions([10, 12, 13, 14]).await, [None; 4], "the letters come first");
    bench.keeps.add_permits(10);
    bench.until_committed(0, 5).await;
    assert_eq!(bench.versions([10, 12, 13, 14]).await, [Some(1); 4]);
    let ledger = bench.stop().await;
    assert_eq!((ledger.read, ledger.stored, ledger.unchanged), (7, 4, 1), "{ledger:?}");
}

#[tokio::test]
async fn an_array_passes_with_its_last_order_and_is_one_letter() {
    let bench = Bench::start([], ingest::Config::default()).await;
    bench.assigned(&[0]).await;
    let array = [&b"["[..], &wb(10), b",{\"order_uid\":\"x\"},", &wb(11), b",7,[", &wb(12), b"]]"].concat();
    bench.send([at(0, 0, array), at(0, 1, "[]")]).await;
    bench.keeps.add_permits(10);
    bench.until_committed(0, 2).await;
    let told = bench.told.lock().unwrap().clone();
    let letters: Vec<_> = told.iter().filter(|told| is_rejected(told)).collect();
    assert_eq!(letters.len(), 2, "{letters:?}");
    let Told::Rejected(Position { offset: 0, .. }, reasons) = letters[0] else { panic!("{letters:?}") };
    for pointer in ["/1/delivery", "/3: ", "/4: "] {
        assert!(reasons.contains(pointer), "{pointer} in {reasons}");
    }
    assert_eq!(bench.versions([10, 11, 12]).await, [Some(1), Some(1), None]);
    assert_eq!(bench.stop().await, Ledger { read: 6, stored: 2, rejected: 4, ..Ledger::default() });
}

#[tokio::test]
async fn a_stop_stores_what_came_and_says_so() {
    let bench = Bench::start([Lie::Hold], ingest::Config::default()).await;
    bench.assigned(&[0]).await;
    bench.send(orders(0, 0, 10..200)).await;
    bench.store.commits.entered.reaches(1).await;
    bench.send(orders(0, 190, 200..300)).await;
    bench.taken().await;
    // One batch is being written and the next one is collected.
    bench.trigger.fire();
    settled().await;
    let store = bench.store.clone();
    store.release();
    let ledger = bench.stop().await;
    assert_eq!(ledger.stored, 290);
    assert_eq!(store.truth.positions("broker".into()).await.unwrap().next(0), 290);
}
