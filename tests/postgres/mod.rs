//! The PostgreSQL store, through the seam and with a real server.

#[cfg(feature = "kafka")]
mod bounded;
mod commit;
mod export;
mod instances;
mod limits;
mod lost_answer;
mod moving;
mod older;
mod pooler;
mod proxy;
mod refusals;
mod restored;
mod same_rules;
mod schema;
mod side_by_side;
mod silent;
mod standby;
mod views;
mod went_back;

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use order_service::id::OrderId;
use order_service::order::{Decoder, Order, Profile, sample};
use order_service::store::{Batch, Entry, Move, PermitRelease, Wait};

/// The longest that anything may take here. Long, for a machine that does much else at the same time.
const LONG: Duration = Duration::from_mins(2);

/// Waits until a batch waits for its turn.
async fn until_it_waits(pass: &mut PermitRelease, wait: Wait) {
    tokio::time::timeout(LONG, pass.until(wait)).await.unwrap_or_else(|_| panic!("it does not wait {wait:?}"));
}

fn decode(document: &str) -> Order {
    let document = Bytes::copy_from_slice(document.as_bytes());
    Decoder::new(Profile::Lenient, 1 << 20).decode(&document).unwrap()
}

/// A WB order that differs with `n`.
pub fn wb(id: &str, n: u64) -> Order {
    decode(&format!(r#"{{"order_uid":"{id}","track_number":"T{n}","n":{n}}}"#))
}

/// The `n`-th sample order.
fn sample_order(n: u64) -> Order {
    let mut document = Vec::new();
    sample::wb(0, n, &mut document);
    Decoder::new(Profile::Wb, 1 << 20).decode(&document.into()).unwrap()
}

pub fn batch(orders: impl IntoIterator<Item = Order>) -> Arc<Batch> {
    Arc::new(Batch::of("test", orders.into_iter().map(Entry::from).collect()))
}

fn moved(from: u64, to: u64, orders: impl IntoIterator<Item = Order>) -> Arc<Batch> {
    let mut batch = Arc::unwrap_or_clone(batch(orders));
    batch.moves = vec![Move { partition: 3, from, to }];
    Arc::new(batch)
}

fn id(text: &str) -> OrderId {
    OrderId::parse(text.as_bytes()).unwrap()
}
