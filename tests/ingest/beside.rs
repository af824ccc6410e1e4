//! A full batch is on its way while the one before it becomes durable: it never takes effect first, and what happens to
//! the one before it happens to it too.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

use order_service::ingest::{self, Ledger};
use order_service::order::{Command, Decoder, Profile};
use order_service::record::Record;
use order_service::store::{Batch, Store};

use super::broker::{Bench, Told, at, id, orders, wb};
use super::lying::Lie;

const ROWS: u64 = 10;

async fn bench(lies: impl IntoIterator<Item = Lie>) -> Bench {
    let mut config = ingest::Config::default();
    config.batch.batch_rows_max = usize::try_from(ROWS).unwrap();
    let bench = Bench::start(lies, config).await;
    bench.assigned(&[0, 1]).await;
    bench
}

/// The first batch is held by the store, and what follows it is on its way.
async fn two(second: Vec<Record>) -> Bench {
    let bench = bench([Lie::Hold]).await;
    bench.send(orders(0, 0, 0..ROWS / 2).into_iter().chain(orders(1, 0, 100..100 + ROWS / 2))).await;
    bench.store.commits.entered.reaches(1).await;
    bench.send(second).await;
    bench.store.early.reaches(1).await;
    bench
}

fn second() -> Vec<Record> {
    orders(0, 5, 5..10).into_iter().chain(orders(1, 5, 105..110)).collect()
}

#[tokio::test]
async fn a_full_batch_is_on_its_way_before_the_one_before_it_is_durable_and_takes_effect_after_it() {
    let bench = two(second()).await;
    bench.go_around().await;
    assert_eq!(bench.store.commits.entered.get(), 1, "the second waits for its turn");
    assert_eq!(bench.stored().await, BTreeMap::new());
    assert_eq!(bench.versions([0, 5, 100, 105]).await, [None; 4]);
    bench.store.release();
    bench.until_committed(1, 10).await;
    assert_eq!(bench.count(|told| matches!(told, Told::Committed(_))), 2, "one after the other");
    assert_eq!(bench.versions((0..10).chain(100..110)).await, [Some(1); 20]);
    assert_eq!(bench.stored().await, BTreeMap::from([(0, 10), (1, 10)]));
    assert_eq!(bench.stop().await, Ledger { read: 20, stored: 20, ..Ledger::default() });
}

#[tokio::test]
async fn a_stop_writes_both() {
    let bench = two(second()).await;
    bench.store.release();
    assert_eq!(bench.stop().await, Ledger { read: 20, stored: 20, ..Ledger::default() });
}

#[tokio::test]
async fn what_is_not_apart_from_the_batch_before_it_waits_for_it() {
    let again = |n: u64| [&br#"{"extra":1,"#[..], &wb(n)[1..]].concat();
    let same = (0..ROWS).map(|n| at(0, 5 + n, if n == 9 { again(3) } else { wb(20 + n) })).collect::<Vec<_>>();
    let rubbish = (0..ROWS).map(|n| at(0, 5 + n, if n == 9 { b"rubbish".to_vec() } else { wb(20 + n) })).collect();
    for (what, records) in [("an order of both", same), ("a dead letter", rubbish)] {
        let bench = bench([Lie::Hold]).await;
        bench.keeps.add_permits(1);
        bench.send(orders(0, 0, 0..5).into_iter().chain(orders(1, 0, 100..105))).await;
        bench.store.commits.entered.reaches(1).await;
        bench.send(records).await;
        bench.go_around().await;
        assert_eq!(bench.store.early.get(), 0, "{what}");
        bench.store.release();
        bench.until_committed(0, 15).await;
        let version = if what == "a dead letter" { 1 } else { 2 };
        assert_eq!(bench.versions([3, 20, 28]).await, [Some(version), Some(1), Some(1)], "{what}");
        bench.stop().await;
    }
}

#[tokio::test]
async fn both_may_need_several_tries() {
    let bench = bench([Lie::Reject, Lie::Reject, Lie::Hold, Lie::Reject]).await;
    bench.send(orders(0, 0, 0..ROWS)).await;
    bench.send(orders(0, ROWS, ROWS..2 * ROWS)).await;
    bench.store.early.reaches(1).await;
    assert_eq!(bench.stored().await, BTreeMap::new());
    bench.store.release();
    bench.until_committed(0, 2 * ROWS).await;
    assert_eq!(bench.versions(0..2 * ROWS).await, [Some(1); 20]);
    assert_eq!((bench.store.left(), bench.stop().await.stored), (0, 20));
}

#[tokio::test]
async fn the_second_may_fail_before_its_turn() {
    let bench = bench([Lie::Hold]).await;
    bench.store.refuses_early.store(2, Ordering::SeqCst);
    bench.send(orders(0, 0, 0..ROWS)).await;
    bench.send(orders(0, ROWS, ROWS..2 * ROWS)).await;
    bench.store.early.reaches(3).await;
    assert_eq!(bench.stored().await, BTreeMap::new());
    bench.store.release();
    bench.until_committed(0, 2 * ROWS).await;
    assert_eq!(bench.versions(0..2 * ROWS).await, [Some(1); 20]);
    assert_eq!(bench.stop().await, Ledger { read: 20, stored: 20, ..Ledger::default() });
}

#[tokio::test]
async fn a_partition_that_the_first_finds_fenced_is_taken_from_the_second_too() {
    let bench = two(second()).await;
    bench.send(orders(1, 10, 110..112).into_iter().chain(orders(0, 10, 10..12))).await;
    bench.taken().await;
    bench.steal(1, 0, 50).await;
    bench.store.release();
    bench.until(|told| *told == Told::Fenced(1)).await;
    bench.until_committed(0, 12).await;
    assert_eq!(bench.count(|told| matches!(told, Told::Fenced(_))), 1);
    assert_eq!(bench.versions(0..12).await, [Some(1); 12]);
    assert_eq!(bench.versions(100..112).await, [None; 12]);
    assert_eq!(bench.stored().await, BTreeMap::from([(0, 12), (1, 50)]));
    assert_eq!(bench.stop().await, Ledger { read: 12, stored: 12, ..Ledger::default() });
}

#[tokio::test]
async fn a_dead_letter_of_the_first_is_waited_for_before_the_second_takes_effect() {
    let bench = bench([]).await;
    let payload = r#"{"user_id":"0195c7f0-7b2b-7b84-8b6b-b563feb7b2b8","payload":{"id":"x"},"order_id":"#;
    let envelope = format!(r#"{payload}"{}"}}"#, id(3));
    let order = Decoder::new(Profile::default(), 1 << 20).decode(&envelope.into()).unwrap();
    assert!(matches!(order.command, Command::Envelope(_)));
    let batch = Batch::of("other", vec![order.into()]);
    bench.store.truth.commit(batch.into()).await.unwrap();
    // The first is refused for the id of the envelope, and its letter is held.
    bench.send(orders(0, 0, 0..ROWS)).await;
    bench.until(|told| matches!(told, Told::Rejected(position, _) if position.offset == 3)).await;
    bench.send(orders(0, ROWS, ROWS..2 * ROWS)).await;
    bench.store.early.reaches(1).await;
    bench.go_around().await;
    assert_eq!(bench.store.commits.entered.get(), 1, "the first, which was refused");
    assert_eq!(bench.stored().await, BTreeMap::new(), "not before the letter is safe");
    bench.keeps.add_permits(1);
    bench.until_committed(0, 2 * ROWS).await;
    assert_eq!(bench.versions((0..3).chain(4..20)).await, [Some(1); 19]);
    assert_eq!(bench.stop().await, Ledger { read: 20, stored: 19, rejected: 1, ..Ledger::default() });
}
