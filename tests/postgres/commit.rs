//! What a batch leaves in PostgreSQL: rows, positions, views; and what happens when its assumptions are wrong.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use order_service::id::OrderId;
use order_service::record::Idempotency;
use order_service::snapshot::{Snapshot, State};
use order_service::store::postgres::{Maintenance, Postgres};
use order_service::store::{Batch, CommitPermit, Outcome, PermitRelease, SequenceBlock, Store, StoreError, Wait};
use tokio::task::JoinHandle;

use super::{batch, decode, id, moved, sample_order, until_it_waits, wb};
use crate::database::{Database, config};

/// Every stored order, by a scan.
async fn scan(store: &Postgres) -> BTreeMap<String, Snapshot> {
    let found = Arc::new(Mutex::new(BTreeMap::new()));
    let into = Arc::clone(&found);
    let emit = move |orders: Vec<(OrderId, Snapshot)>| {
        into.lock().unwrap().extend(orders.into_iter().map(|(id, snapshot)| (id.text().to_string(), snapshot)));
    };
    let count = store.scan(emit).await.unwrap();
    let found = std::mem::take(&mut *found.lock().unwrap());
    assert_eq!(found.len() as u64, count, "each order once");
    found
}

#[tokio::test]
async fn orders_are_read_from_whichever_of_several_hosts_answers() {
    let Some(database) = Database::create() else { return };
    database.store().commit(batch((0..300).map(sample_order))).await.unwrap();
    let several = database.url().replacen("@127.0.0.1:", "@127.0.0.1:1,127.0.0.1:", 1);
    assert_ne!(several, database.url());
    let store = Postgres::new(config(&several));
    assert_eq!(scan(&store).await.len(), 300);
}

fn version(outcome: &Outcome) -> u64 {
    outcome.visible().unwrap().1.version()
}

#[tokio::test]
async fn orders_come_back_byte_for_byte_by_id_by_page_and_by_scan() {
    let Some(database) = Database::create() else { return };
    let store = database.store();
    let orders: Vec<_> = (0..2500).map(sample_order).collect();
    for chunk in orders.chunks(900) {
        let outcomes = store.commit(batch(chunk.iter().cloned())).await.unwrap();
        assert!(outcomes.iter().all(|outcome| matches!(outcome, Outcome::Stored { .. })));
    }
    let scanned = scan(&store).await;
    assert_eq!(scanned.len(), orders.len());
    for order in &orders {
        let order_service::order::Command::Wb(body) = &order.command else { panic!("samples are WB orders") };
        let snapshot = &scanned[&*order.id.text()];
        assert_eq!((snapshot.flat().whole(), snapshot.version(), snapshot.state()), (body[..].into(), 1, State::Live));
    }
    let fetched = store.fetch(orders[77].id.clone()).await.unwrap().unwrap();
    assert_eq!(fetched.flat().whole(), scanned[&*orders[77].id.text()].flat().whole());
    // Pages of any size are the orders, newest first, each once.
    for limit in [1000, 2500, 7] {
        let mut before = None;
        let mut ids = Vec::new();
        while ids.len() < 2500 {
            let page = store.page(before, limit).await.unwrap();
            assert!(!page.is_empty() && page.len() <= limit);
            before = page.last().map(|(_, snapshot)| snapshot.seq());
            ids.extend(page.into_iter().map(|(id, _)| id));
            if limit == 7 && ids.len() > 70 {
                break;
            }
        }
        let newest_first: Vec<_> = orders.iter().rev().map(|order| order.id.clone()).take(ids.len()).collect();
        assert_eq!(ids, newest_first, "pages of {limit}");
    }
    assert!(store.page(Some(4096), 10).await.unwrap().is_empty(), "nothing before the first");
    assert!(store.estimate().await.unwrap() >= 2500);
}

#[tokio::test]
async fn a_wrong_hint_costs_time_and_nothing_else() {
    let Some(database) = Database::create() else { return };
    let store = database.store();
    store.commit(batch([wb("known", 1)])).await.unwrap();
    let mut lied = Arc::unwrap_or_clone(batch([wb("new", 1), wb("known", 2), wb("new", 3)]));
    for entry in &mut lied.entries {
        entry.is_new = true;
    }
    let outcomes = store.commit(Arc::new(lied)).await.unwrap();
    assert_eq!(outcomes.iter().map(version).collect::<Vec<_>>(), [1, 2, 2]);
    let known = store.fetch(id("known")).await.unwrap().unwrap();
    assert_eq!(
        (known.version(), known.flat().whole()),
        (2, br#"{"order_uid":"known","track_number":"T2","n":2}"#[..].into())
    );
}

#[tokio::test]
async fn a_position_that_another_process_moved_fences_the_batch() {
    let Some(database) = Database::create() else { return };
    let (store, zombie) = (database.store(), database.store());
    store.commit(moved(0, 10, [wb("a", 1)])).await.unwrap();
    store.commit(moved(10, 20, [wb("a", 2)])).await.unwrap();
    for from in [0, 10, 19, 21] {
        let error = zombie.commit(moved(from, 30, [wb("a", 9), wb("b", 9)])).await.unwrap_err();
        assert!(matches!(error, StoreError::Fenced { partition: 3 }), "{error:?}");
    }
    assert_eq!(store.positions("test".into()).await.unwrap().next(3), 20);
    assert_eq!(store.fetch(id("a")).await.unwrap().unwrap().version(), 2);
    assert!(store.fetch(id("b")).await.unwrap().is_none(), "nothing of a fenced batch is stored");
    zombie.commit(moved(20, 30, [wb("b", 1)])).await.unwrap();
}

#[tokio::test]
async fn batches_that_meet_on_the_same_orders_lose_nothing() {
    let Some(database) = Database::create() else { return };
    let mut writers = Vec::new();
    for writer in 0..4_u64 {
        let store = database.store();
        writers.push(tokio::spawn(async move {
            let mut seen = Vec::new();
            for round in 0..25 {
                // Overlapping ids in different orders, some of them new to everybody, with hints that are often wrong.
                let ids = (0..12).map(|n| format!("o{}", (round * 3 + n * (writer + 1)) % 40));
                let ids: BTreeSet<String> = ids.collect();
                let orders = ids.into_iter().map(|id| wb(&id, round * 10 + writer));
                let mut batch = Arc::unwrap_or_clone(batch(orders));
                batch.entries.iter_mut().for_each(|entry| entry.is_new = round % 2 == 0);
                let batch = Arc::new(batch);
                let outcomes = loop {
                    match store.commit(Arc::clone(&batch)).await {
                        Ok(outcomes) => break outcomes,
                        Err(StoreError::Unavailable(_)) => {} // lost a race too often
                        Err(error) => panic!("{error:?}"),
                    }
                };
                for outcome in outcomes {
                    if let Outcome::Stored { id, snapshot, .. } = outcome {
                        seen.push((id.text().to_string(), snapshot.version()));
                    }
                }
            }
            seen
        }));
    }
    let mut versions: BTreeMap<String, BTreeSet<u64>> = BTreeMap::new();
    for writer in writers {
        for (id, version) in writer.await.unwrap() {
            assert!(versions.entry(id.clone()).or_default().insert(version), "{id}: version {version} twice");
        }
    }
    for (id, snapshot) in scan(&database.store()).await {
        let told: Vec<u64> = versions[&id].iter().copied().collect();
        assert_eq!(told, (1..=snapshot.version()).collect::<Vec<_>>(), "{id}: every version was someone's");
    }
}

#[tokio::test]
async fn a_repeated_request_is_answered_alike_by_another_instance() {
    let Some(database) = Database::create() else { return };
    let (one, other) = (database.store(), database.store());
    let request = |n: u64, digest: u8| {
        let idempotency = Some(Idempotency { key: "key".into(), digest: [digest; 32] });
        let mut batch = Arc::unwrap_or_clone(batch([]));
        batch.entries.push(order_service::store::Entry { idempotency, ..wb("a", n).into() });
        Arc::new(batch)
    };
    assert!(matches!(&one.commit(request(1, 1)).await.unwrap()[0], Outcome::Stored { .. }));
    one.commit(batch([wb("a", 2)])).await.unwrap();
    let repeated = other.commit(request(1, 1)).await.unwrap();
    let Outcome::Repeated { version: 1, snapshot, .. } = &repeated[0] else { panic!("{repeated:?}") };
    assert_eq!(snapshot.version(), 2, "the order as it is now");
    let reused = other.commit(request(3, 2)).await.unwrap();
    assert!(matches!(&reused[0], Outcome::Refused { refusal: order_service::store::Refusal::KeyReused, .. }));
    // At the same time on both: one of them does it, the other repeats.
    let same = |store: Postgres| async move {
        let idempotency = Some(Idempotency { key: "both".into(), digest: [7; 32] });
        let entries = vec![order_service::store::Entry { idempotency, ..wb("both", 1).into() }];
        store.commit(Arc::new(Batch::of("test", entries))).await.unwrap()
    };
    let (left, right) = tokio::join!(same(one.clone()), same(other));
    let kinds = [&left[0], &right[0]].map(|outcome| matches!(outcome, Outcome::Stored { .. }));
    assert!(kinds == [true, false] || kinds == [false, true], "{left:?} {right:?}");
}

#[tokio::test]
async fn the_queries_of_the_older_services_still_read() {
    let Some(database) = Database::create() else { return };
    let store = database.store();
    let order = sample_order(0); // b563feb7b2b84b6test
    let odd = r#"{"order_uid":"odd","delivery":7,"payment":{"amount":"x","bank":1e300},"items":[1,{"price":-3,"size":2}],"big":123456789012345678901234567890}"#;
    store.commit(batch([order.clone(), decode(odd), wb("gone", 1)])).await.unwrap();
    store.commit(batch([decode(r#"{"order_uid":"gone","status":"deleted"}"#)])).await.unwrap();
    let client = database.client().await;
    let uid = &*order.id.text();
    let row = client.query_one("SELECT name, email FROM delivery WHERE order_uid = $1", &[&uid]).await.unwrap();
    assert_eq!((row.get::<_, &str>(0), row.get::<_, &str>(1)), ("Test Testov", "test@gmail.com"));
    for payment in ["payment", "payments"] {
        let sql = format!("SELECT amount, payment_dt, bank FROM {payment} WHERE order_uid = $1");
        let row = client.query_one(&sql, &[&uid]).await.unwrap();
        assert_eq!((row.get::<_, i64>(0), row.get::<_, i64>(1)), (1817, 1_637_907_727));
        assert_eq!(row.get::<_, &str>(2), "alpha");
    }
    let items = client.query("SELECT chrt_id, brand FROM items WHERE order_uid = $1", &[&uid]).await.unwrap();
    assert_eq!((items.len(), items[0].get::<_, i64>(0)), (1, 9_934_930));
    let odd =
        client.query("SELECT price, size FROM items WHERE order_uid = 'odd' ORDER BY position", &[]).await.unwrap();
    assert_eq!(odd[1].get::<_, Option<i64>>(0), Some(-3));
    assert_eq!(client.query("SELECT * FROM delivery", &[]).await.unwrap().len(), 2, "a deleted order is in no view");
    let row = client
        .query_one(
            "SELECT track_number, date_created::text, sm_id, kind, source, created_at = updated_at FROM orders
             WHERE order_uid = $1",
            &[&uid],
        )
        .await
        .unwrap();
    assert_eq!((row.get::<_, &str>(0), row.get::<_, i64>(2), row.get::<_, i16>(3)), ("WBILMTESTTRACK", 99, 0));
    assert!(row.get::<_, &str>(1).starts_with("2021-11-26 06:22:19"));
    assert_eq!((row.get::<_, &str>(4), row.get::<_, bool>(5)), ("test", true));
    let gone = client
        .query_one("SELECT status, deleted_at IS NOT NULL, body = '', track_number IS NULL FROM orders WHERE order_uid = 'gone'", &[])
        .await
        .unwrap();
    assert_eq!(gone.get::<_, &str>(0), "deleted");
    assert!((1..4).all(|column| gone.get(column)), "a deleted order keeps nothing of its content");
}

#[tokio::test]
async fn an_envelope_is_found_by_its_external_id_and_its_columns_follow_it() {
    let Some(database) = Database::create() else { return };
    let store = database.store();
    let user = "0190163d-8694-739b-aea5-966c26f8ad91";
    let envelope = |payload: &str| {
        decode(&format!(
            r#"{{"order_id":"0190163d-8694-739b-aea5-966c26f8ad92","user_id":"{user}","payload":{payload}}}"#
        ))
    };
    store.commit(batch([envelope(r#"{"id":"x-1","amount":12.5}"#)])).await.unwrap();
    let find = |external: &str| store.fetch_external(user.into(), external.into());
    assert_eq!(find("x-1").await.unwrap().unwrap().1.version(), 1);
    store.commit(batch([envelope(r#"{"id":"x-1","amount":2}"#)])).await.unwrap();
    assert_eq!(find("x-1").await.unwrap().unwrap().1.version(), 2);
    // Another payload brings an external id of its own.
    store.commit(batch([envelope(r#"{"id":"x-2","amount":3}"#)])).await.unwrap();
    assert!(find("x-1").await.unwrap().is_none());
    assert_eq!(find("x-2").await.unwrap().unwrap().1.version(), 3);
    let client = database.client().await;
    let row = client.query_one("SELECT status, amount, bucket, user_id::text, kind FROM orders", &[]).await.unwrap();
    assert_eq!((row.get::<_, &str>(0), row.get::<_, f64>(1), row.get::<_, i16>(2)), ("new", 3.0, 1));
    assert_eq!((row.get::<_, &str>(3), row.get::<_, i16>(4)), (user, 1));
}

/// Spawns a commit before its turn and waits until it has done what it can.
async fn early(store: &Postgres, batch: Arc<Batch>) -> (PermitRelease, JoinHandle<Result<Vec<Outcome>, StoreError>>) {
    let ranks = SequenceBlock::default();
    let _ = ranks.keep(Vec::new()); // the one before has begun
    let (mut pass, mut turn) = CommitPermit::after(ranks);
    let store = store.clone();
    let waiting = tokio::spawn(async move { store.commit_after(batch, &mut turn).await });
    until_it_waits(&mut pass, Wait::ToTakeEffect).await;
    assert!(!waiting.is_finished());
    (pass, waiting)
}

#[tokio::test]
async fn a_batch_before_its_turn_is_nowhere_and_after_it_everywhere() {
    let Some(database) = Database::create() else { return };
    let store = database.store();
    store.commit(moved(0, 10, [wb("a", 1)])).await.unwrap();
    let (pass, second) = early(&store, moved(20, 30, [wb("c", 1), wb("a", 2)])).await;
    let seen = (store.fetch(id("c")).await.unwrap(), store.fetch(id("a")).await.unwrap().unwrap().version());
    assert_eq!((seen.0.is_none(), seen.1), (true, 1));
    store.commit(moved(10, 20, [wb("b", 1)])).await.unwrap();
    pass.release();
    assert_eq!(second.await.unwrap().unwrap().len(), 2);
    assert_eq!(store.fetch(id("a")).await.unwrap().unwrap().version(), 2);
    assert_eq!(store.positions("test".into()).await.unwrap().next(3), 30);

    // Dropped before its turn, or never given it: nothing of it, and nothing it was in the way of.
    let (pass, third) = early(&store, moved(30, 40, [wb("d", 1), wb("a", 3)])).await;
    third.abort();
    drop(pass);
    let outcomes = store.commit(moved(30, 40, [wb("d", 2), wb("a", 4)])).await.unwrap();
    let versions = outcomes.iter().filter_map(Outcome::visible).map(|(_, snapshot, _)| snapshot.version());
    assert_eq!(versions.collect::<Vec<_>>(), [1, 3]);

    // Anyone who was fenced finds out when its turn has come.
    let (pass, zombie) = early(&store, moved(30, 50, [wb("e", 1)])).await;
    pass.release();
    assert!(matches!(zombie.await.unwrap(), Err(StoreError::Fenced { partition: 3 })));
    assert!(store.fetch(id("e")).await.unwrap().is_none());
}

#[tokio::test]
async fn a_batch_is_ranked_after_the_one_before_it_however_often_that_is_tried() {
    let Some(database) = Database::create() else { return };
    let store = database.store();
    store.commit(moved(0, 10, [wb("a", 1)])).await.unwrap();
    let mut first = CommitPermit::default();
    let (mut pass, mut turn) = CommitPermit::after(first.block());
    let second = store.clone();
    let second = tokio::spawn(async move { second.commit_after(moved(20, 30, [wb("c", 1)]), &mut turn).await });
    until_it_waits(&mut pass, Wait::ToBegin).await;
    // The hint is wrong, so the first try ends in a conflict.
    let mut batch = Arc::unwrap_or_clone(moved(10, 20, [wb("a", 2), wb("b", 1)]));
    batch.entries.iter_mut().for_each(|entry| entry.is_new = true);
    store.commit_after(Arc::new(batch), &mut first).await.unwrap();
    until_it_waits(&mut pass, Wait::ToTakeEffect).await;
    pass.release();
    second.await.unwrap().unwrap();
    assert_eq!(database.query("SELECT order_uid FROM orders ORDER BY seq"), ["a", "b", "c"]);
}

#[tokio::test]
async fn texts_too_long_for_an_index_are_in_the_body_alone() {
    let Some(database) = Database::create() else { return };
    let store = database.store();
    Maintenance::open(&database.config()).await.unwrap().up(true).await.unwrap();
    // Not to be made smaller by compression.
    let long: String =
        std::iter::repeat_with(|| fastrand::char('!'..='~')).filter(|c| !r#""\"#.contains(*c)).take(9000).collect();
    let order =
        decode(&format!(r#"{{"order_uid":"long","track_number":"{long}","customer_id":"{long}","entry":"e"}}"#));
    store.commit(batch([order])).await.unwrap();
    let columns = "SELECT track_number IS NULL AND customer_id IS NULL AND entry = 'e' FROM orders";
    assert_eq!(database.query(columns), ["t"]);
    assert!(store.fetch(id("long")).await.unwrap().unwrap().flat().len() > 18_000);
}

/// Batches that name the same order are not written beside each other by one loop; several instances may come to wait
/// for each other all the same.
#[tokio::test]
async fn a_batch_before_its_turn_gets_out_of_the_way_of_the_one_before_it() {
    let Some(database) = Database::create() else { return };
    let store = database.store();
    store.commit(moved(0, 10, [wb("a", 1)])).await.unwrap();
    let (pass, second) = early(&store, moved(20, 30, [wb("a", 3), wb("b", 2)])).await;
    store.commit(moved(10, 20, [wb("a", 2), wb("b", 1)])).await.unwrap();
    pass.release();
    second.await.unwrap().unwrap();
    for (order, version) in [("a", 3), ("b", 2)] {
        assert_eq!(store.fetch(id(order)).await.unwrap().unwrap().version(), version, "{order}");
    }
}
