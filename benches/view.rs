//! The read path and the write path of the view, and the way from a document to a readable order, without a network:
//! criterion's benches. Each asserts its answer. `cargo bench --bench view`.

use std::hint::black_box;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use bytes::Bytes;
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use order_service::cache::feed::Event;
use order_service::cache::recent::array;
use order_service::cache::{Config, View};
use order_service::id::OrderId;
use order_service::ingest::{self, Ingest, IngestMetrics};
use order_service::metrics::Metrics;
use order_service::order::sample;
use order_service::order::{Decoder, Order, Profile};
use order_service::process::lifecycle;
use order_service::snapshot::{ChangeKind, Kind, Snapshot, State};
use order_service::source::lines::Lines;
use order_service::store::Row;
use order_service::store::embedded::{self, Embedded};
use order_service::store::postgres::copy::{Common, Encoder};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const SEED: u64 = 1;

fn document(n: u64) -> Vec<u8> {
    let mut document = Vec::new();
    sample::wb(SEED, n, &mut document);
    document
}

fn id(n: u64) -> OrderId {
    OrderId::parse(sample::wb_id(SEED, n).as_bytes()).expect("legal")
}

fn event(n: u64, version: u64) -> Event {
    let snapshot = Snapshot::new(version, n + 1, Kind::Wb, State::Live, &document(n), &mut Vec::new());
    Event::new(id(n), snapshot, if version == 1 { ChangeKind::Created } else { ChangeKind::Updated })
}

fn filled(orders: u64) -> Arc<View> {
    let view = Arc::new(View::new(Config::default(), usize::try_from(orders).expect("fits")));
    view.publish((0..orders).map(|n| event(n, 1)).collect());
    view.refresh_list();
    view
}

fn read(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("read");
    for orders in [1_000, 100_000] {
        let view = filled(orders);
        let ids: Vec<OrderId> = (0..orders).map(id).collect();
        let expected = document(0);
        let mut random = fastrand::Rng::with_seed(SEED);
        group.throughput(Throughput::Elements(1));
        group.bench_function(format!("hit_among_{orders}"), |bencher| {
            let mut answer = Vec::with_capacity(4096);
            bencher.iter(|| {
                let n = random.usize(..ids.len());
                answer.clear();
                view.get(&ids[n]).expect("filled above").flat().append_to(&mut answer);
                assert!(answer.len() > 700 && answer.ends_with(b"}"));
                black_box(&answer);
            });
            answer.clear();
            view.get(&ids[0]).expect("filled above").flat().append_to(&mut answer);
            assert_eq!(answer, expected);
        });
    }
    let view = filled(1_000);
    let expected: Vec<u8> = array(&view.list().orders).to_vec();
    group.bench_function("list_of_1000", |bencher| {
        bencher.iter(|| {
            let list = view.list();
            assert_eq!(list.body.len(), expected.len());
            black_box(list.body.clone())
        });
        assert_eq!(view.list().body, expected);
    });
    group.bench_function("list_of_1000_made", |bencher| {
        bencher.iter(|| {
            let body = array(black_box(&view.list().orders));
            assert_eq!(body.len(), expected.len());
            body
        });
    });
    group.finish();
}

/// Publishing while another thread publishes the same orders and a third reads them.
fn publish(criterion: &mut Criterion) {
    const ORDERS: u64 = 1_000;
    let mut group = criterion.benchmark_group("publish");
    for (name, others) in [("alone", 0), ("beside_a_writer_and_a_reader", 2)] {
        let view = filled(ORDERS);
        let version = AtomicU64::new(2);
        let stop = AtomicBool::new(false);
        std::thread::scope(|scope| {
            if others > 0 {
                scope.spawn(|| {
                    while !stop.load(Ordering::Relaxed) {
                        let version = version.fetch_add(1, Ordering::Relaxed);
                        view.publish(vec![event(version % ORDERS, version)]);
                    }
                });
                scope.spawn(|| {
                    let mut seen = vec![0; usize::try_from(ORDERS).expect("fits")];
                    while !stop.load(Ordering::Relaxed) {
                        for (n, seen) in (0..).zip(&mut seen) {
                            let version = view.get(&id(n)).expect("never removed").version();
                            assert!(version >= *seen, "a reader saw {version} after {seen}");
                            *seen = version;
                        }
                    }
                });
            }
            group.throughput(Throughput::Elements(100));
            group.bench_function(format!("100_orders_{name}"), |bencher| {
                bencher.iter_batched(
                    || {
                        let first = version.fetch_add(100, Ordering::Relaxed);
                        (first..first + 100).map(|version| event(version % ORDERS, version)).collect::<Vec<_>>()
                    },
                    |events| {
                        let (last, version) =
                            events.last().map(|event| (event.id.clone(), event.snapshot.version())).expect("a hundred");
                        view.publish(events);
                        assert!(view.get(&last).expect("published").version() >= version);
                    },
                    BatchSize::SmallInput,
                );
            });
            stop.store(true, Ordering::Relaxed);
        });
    }
    group.finish();
}

/// A thousand new orders as rows of a binary COPY.
fn encode(criterion: &mut Criterion) {
    const ORDERS: u64 = 1_000;
    let mut decoder = Decoder::new(Profile::Wb, 1 << 20).with_columns(true);
    let orders: Vec<(OrderId, Row, Order)> = (0..ORDERS)
        .map(|n| {
            let order = decoder.decode(&document(n).into()).expect("a valid order");
            let order_service::order::Command::Wb(body) = &order.command else { panic!("a WB order") };
            let row = Row { seq: n + 1, kind: Kind::Wb, state: State::Live, version: 1, body: body.clone() };
            (id(n), row, order)
        })
        .collect();
    let bodies: usize = orders.iter().map(|(_, row, _)| row.body.len()).sum();
    let common = Common {
        transaction: 1,
        created_micros: 1_700_000_000_000_000,
        now_micros: 1_700_000_000_000_000,
        source: "bench",
    };
    let mut group = criterion.benchmark_group("encode");
    group.throughput(Throughput::Elements(ORDERS));
    group.bench_function("1000_orders_for_copy", |bencher| {
        bencher.iter(|| {
            let mut encoder = Encoder::new();
            let mut bytes = 0;
            for (id, row, order) in &orders {
                encoder.row(id, row, None, order.columns.as_ref(), common);
                if encoder.is_full() {
                    bytes += black_box(encoder.take()).len();
                }
            }
            encoder.finish();
            bytes += encoder.take().len();
            assert!(bytes > bodies && bytes < bodies + 1_000 * 600, "{bytes} for {bodies}");
        });
    });
    group.finish();
}

/// A thousand documents from bytes to durable in the embedded store to readable.
fn pipeline(criterion: &mut Criterion) {
    const ORDERS: u64 = 1_000;
    let documents: Vec<Bytes> = (0..ORDERS).map(|n| document(n).into()).collect();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let config = ingest::Config::default();
    let mut group = criterion.benchmark_group("pipeline");
    group.sample_size(10).throughput(Throughput::Elements(ORDERS));
    group.bench_function("1000_documents_durable_and_readable", |bencher| {
        bencher.iter_batched(
            || {
                let dir = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).expect("a place for a store");
                let store = Embedded::open(embedded::Config::new(dir.path())).expect("a new store");
                (dir, store, Arc::new(View::new(Config::default(), 0)))
            },
            |(dir, store, view)| {
                let (_trigger, shutdown) = lifecycle::shutdown();
                let ledger = runtime.block_on(async {
                    let source = Lines::new("bench", documents.clone().into_iter());
                    let metrics = IngestMetrics::register(&Metrics::default());
                    let ingest = Ingest::new(source, store, Some(Arc::clone(&view)), &config, metrics);
                    ingest.await.expect("a new store").run(shutdown).await.expect("stored")
                });
                assert_eq!((ledger.read, ledger.stored, view.size().live), (ORDERS, ORDERS, ORDERS));
                (dir, view)
            },
            BatchSize::PerIteration,
        );
    });
    group.finish();
}

criterion_group!(benches, read, publish, encode, pipeline);
criterion_main!(benches);
