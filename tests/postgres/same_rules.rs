//! Both stores are told the same and must answer the same: random batches of every kind of write.

use std::sync::Arc;
use std::time::Duration;

use order_service::order::{Command, Envelope, Order};
use order_service::record::{Condition, Contents, Expected, Idempotency, Parcel};
use order_service::snapshot::Snapshot;
use order_service::store::embedded::{self, Embedded};
use order_service::store::{Batch, Entry, Outcome, Store};

use super::{batch, decode, id, wb};
use crate::database::Database;

/// Bodies of envelopes end in two time stamps, which are each store's own.
fn body(snapshot: &Snapshot) -> String {
    let text = String::from_utf8(snapshot.flat().whole().to_vec()).unwrap();
    text.split(",\"created_at\":").next().unwrap().to_owned()
}

fn told(outcome: &Outcome) -> String {
    let copy = |snapshot: &Snapshot| format!("v{} {:?} {}", snapshot.version(), snapshot.state(), body(snapshot));
    match outcome {
        Outcome::Stored { id, snapshot, change, former } => {
            format!("{id} stored {change:?} {} of {former:?}", copy(snapshot))
        }
        Outcome::Unchanged { id, snapshot } => format!("{id} unchanged {}", copy(snapshot)),
        Outcome::WasDeleted { id, snapshot } => format!("{id} was deleted {}", copy(snapshot)),
        Outcome::Repeated { id, answer, version, snapshot } => {
            format!("{id} repeated {answer:?} {version} {}", copy(snapshot))
        }
        Outcome::Refused { id, refusal } => format!("{id} refused {refusal:?}"),
    }
}

fn random_entry(random: &mut fastrand::Rng) -> Entry {
    let name = format!("0190163d-8694-739b-aea5-966c26f8ad{:02x}", random.u8(..12));
    let n = random.u64(..4);
    let user = "0190163d-8694-739b-aea5-966c26f8ad91";
    let order = match random.u8(..10) {
        0..4 => wb(&name, n),
        4 => Order::new(id(&name), Command::Delete),
        5 if n > 1 => decode(&format!(
            r#"{{"order_id":"{name}","user_id":"{user}","status":"deleted","payload":{{"id":"x{n}","amount":{n}}}}}"#
        )),
        5 => Order::new(id(&name), Command::Envelope(Envelope::deletion())),
        6 => decode(&format!(r#"{{"order_id":"{name}","user_id":"{user}","status":"done","payload":{{"id":"x9"}}}}"#)),
        _ => decode(&format!(r#"{{"order_id":"{name}","user_id":"{user}","payload":{{"id":"x{n}","amount":{n}}}}}"#)),
    };
    let idempotency = (random.u8(..5) == 0)
        .then(|| Idempotency { key: format!("k{}", random.u8(..30)).into(), digest: [random.u8(..2); 32] });
    let expected_version = (random.u8(..4) == 0).then(|| random.u64(..4));
    let expected = |random: &mut fastrand::Rng| Expected {
        id: random.bool().then(|| name.as_str().into()),
        version: random.u64(1..4),
    };
    let condition = match random.u8(..8) {
        0 => Some(Condition::New),
        1 => Some(Condition::Exists),
        2 => Some(Condition::OneOf(vec![expected(random)])),
        3 => Some(Condition::OneOf(vec![expected(random), expected(random)])),
        _ => None,
    };
    let owner = match random.u8(..8) {
        0 => Some("test".into()),
        1 => Some(user.to_uppercase().into()),
        2 => Some("another".into()),
        _ => None,
    };
    // Hints are right usually, and sometimes wrong.
    Entry {
        order,
        must_exist: random.bool(),
        idempotency,
        condition,
        owner,
        expected_version,
        is_new: random.u8(..20) == 0,
    }
}

#[tokio::test]
async fn both_stores_follow_the_same_rules() {
    let Some(database) = Database::create() else { return };
    let directory = tempfile::tempdir().unwrap();
    let embedded = Embedded::open(embedded::Config::new(directory.path())).unwrap();
    let postgres = database.store();
    let mut random = fastrand::Rng::with_seed(4);
    for round in 0..150 {
        let len = random.usize(1..25);
        let entries: Vec<Entry> = (0..len).map(|_| random_entry(&mut random)).collect();
        let batch = Arc::new(Batch { asks_former: true, ..Batch::of("test", entries) });
        let expected = embedded.commit(Arc::clone(&batch)).await.unwrap();
        let outcomes = postgres.commit(Arc::clone(&batch)).await.unwrap();
        let (expected, outcomes): (Vec<_>, Vec<_>) =
            (expected.iter().map(told).collect(), outcomes.iter().map(told).collect());
        assert_eq!(outcomes, expected, "round {round}: {batch:?}");
    }
    let list = |page: Vec<(order_service::id::OrderId, Snapshot)>| {
        page.iter().map(|(id, copy)| format!("{id} {} {}", copy.version(), body(copy))).collect::<Vec<_>>()
    };
    assert_eq!(list(postgres.page(None, 100).await.unwrap()), list(embedded.page(None, 100).await.unwrap()));
}

/// The tickets of what is unpublished and waits no more, oldest first, and the orders of each.
async fn unpublished<T: Store>(store: &T, limit: usize) -> Vec<(i64, Contents, Vec<String>)> {
    let taken = store.unpublished(Duration::ZERO, limit).await.unwrap();
    let named = |ids: Vec<order_service::id::OrderId>| ids.iter().map(ToString::to_string).collect();
    taken.into_iter().map(|batch| (batch.parcel.ticket, batch.parcel.contents, named(batch.ids))).collect()
}

async fn newer<T: Store>(store: &T, known: &[(&str, u64)]) -> Vec<String> {
    let known = known.iter().map(|(name, version)| (id(name), *version)).collect();
    let found = store.newer(known).await.unwrap();
    let mut found: Vec<_> = found.iter().map(|(id, copy)| format!("{id} {} {}", copy.version(), body(copy))).collect();
    found.sort();
    found
}

/// No test asked the stores themselves: one that gave a batch at a time, or that never knew a newer copy of what had
/// been published, did not show.
async fn keeps_what_is_to_be_published<T: Store>(store: &T) {
    let contents = Contents { snapshots: true, events: true, acks: false };
    for ticket in 1..=5_i64 {
        let mut batch = Arc::unwrap_or_clone(batch([wb(&format!("o{ticket}"), 1), wb("all", ticket.unsigned_abs())]));
        batch.parcel = Some(Parcel { ticket, contents });
        store.commit(Arc::new(batch)).await.unwrap();
    }
    store.commit(batch([wb("o2", 2)])).await.unwrap();
    let left = |ticket: i64| (ticket, contents, vec![format!("o{ticket}"), "all".to_owned()]);
    assert_eq!(unpublished(store, 3).await, [1, 2, 3].map(left), "the oldest, as many as are asked for");
    assert_eq!(unpublished(store, 100).await, [1, 2, 3, 4, 5].map(left));
    let late = store.unpublished(Duration::from_hours(1), 100).await.unwrap();
    assert!(late.is_empty(), "not for that long: {late:?}");

    let copy = |name: &str, n: u64| format!(r#"{name} {n} {{"order_uid":"{name}","track_number":"T{n}","n":{n}}}"#);
    let known = [("o1", 1), ("o2", 1), ("o3", 0), ("all", 4), ("none", 0)];
    assert_eq!(newer(store, &known).await, [copy("all", 5), copy("o2", 2), copy("o3", 1)]);
    assert!(newer(store, &[("o2", 2), ("all", 6)]).await.is_empty());

    let fewer = Contents { events: false, ..contents };
    store.narrow(Parcel { ticket: 4, contents: fewer }, vec![id("o4")], Duration::from_hours(1)).await.unwrap();
    assert_eq!(unpublished(store, 100).await, [1, 2, 3, 5].map(left), "it is to wait");
    store.narrow(Parcel { ticket: 4, contents: fewer }, vec![id("o4")], Duration::ZERO).await.unwrap();
    store.published(vec![1, 2, 5]).await.unwrap();
    let mut rest = unpublished(store, 100).await;
    rest.sort_by_key(|(ticket, ..)| *ticket);
    assert_eq!(rest, [left(3), (4, fewer, vec!["o4".to_owned()])]);
}

#[tokio::test]
async fn both_stores_keep_what_is_to_be_published_until_it_is() {
    let directory = tempfile::tempdir().unwrap();
    keeps_what_is_to_be_published(&Embedded::open(embedded::Config::new(directory.path())).unwrap()).await;
    let Some(database) = Database::create() else { return };
    keeps_what_is_to_be_published(&database.store()).await;
}
