//! Both stores are told the same and must answer the same: random batches of every kind of write.

use std::sync::Arc;

use order_service::order::{Command, Envelope, Order};
use order_service::record::{Condition, Expected, Idempotency};
use order_service::snapshot::Snapshot;
use order_service::store::embedded::{self, Embedded};
use order_service::store::{Batch, Entry, Outcome, Store};

use super::{decode, id, wb};
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
