//! What orders take in memory, and what a read costs among few and among many. `cargo bench --bench memory` fills a view
//! with a million orders, then with ten million (12 GB); as a test it stays small. `-- --huge-pages`
//! does what the setting does.

use std::hint::black_box;
use std::time::{Duration, Instant};

use order_service::cache::{Config, View};
use order_service::id::OrderId;
use order_service::order::sample;
use order_service::snapshot::{Kind, Snapshot, State};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let Some(orders) = arguments.first().and_then(|orders| orders.parse().ok()) {
        return measure(orders);
    }
    if !arguments.iter().any(|argument| argument == "--huge-pages") {
        order_service::app::small_pages(); // as in the service; the processes below have it from this one
    }
    let is_test = !arguments.iter().any(|argument| argument == "--bench");
    let sizes: &[u64] = if is_test { &[1_000, 20_000] } else { &[1_000, 1_000_000, 10_000_000] };
    for orders in sizes {
        // A process for each: what one gave back would stay resident and be used again by the next.
        let this = std::env::current_exe().expect("known");
        let status = std::process::Command::new(this).arg(orders.to_string()).status().expect("started");
        assert!(status.success());
    }
}

fn measure(orders: u64) {
    let before = resident_bytes();
    let view = View::new(Config::default(), usize::try_from(orders).expect("fits"));
    let payload = fill(&view, orders);
    let resident = resident_bytes().saturating_sub(before);
    assert_eq!(view.size().entries as u64, orders);
    println!(
        "{orders} orders: {} bytes each resident, {:.3} of their {} bytes of payload; {:?} a read at random",
        resident / orders,
        ratio(resident, payload),
        payload / orders,
        read_cost(&view, orders, 9),
    );
    if orders > 1_000 {
        churn(&view, orders, 4);
    }
}

/// Returns the bytes of the orders themselves.
fn fill(view: &View, orders: u64) -> u64 {
    let (mut scratch, mut document, mut payload) = (Vec::new(), Vec::new(), 0);
    for n in 0..orders {
        document.clear();
        sample::wb(1, n, &mut document);
        payload += document.len() as u64;
        view.fill(id(n), Snapshot::new(1, n + 1, Kind::Wb, State::Live, &document, &mut scratch));
    }
    payload
}

fn id(n: u64) -> OrderId {
    OrderId::parse(sample::wb_id(1, n).as_bytes()).expect("legal")
}

/// The median of rounds of reads of orders at random, each of whose bytes are looked at.
fn read_cost(view: &View, orders: u64, rounds: usize) -> Duration {
    const READS: u32 = 200_000;
    let mut random = fastrand::Rng::with_seed(7);
    let ids: Vec<OrderId> = (0..READS).map(|_| id(random.u64(..orders))).collect();
    let mut answer = Vec::with_capacity(4096);
    let mut times: Vec<Duration> = (0..rounds)
        .map(|_| {
            let started = Instant::now();
            for id in &ids {
                answer.clear();
                view.get(id).expect("filled above").flat().append_to(&mut answer);
                black_box(&answer);
            }
            started.elapsed() / READS
        })
        .collect();
    times.sort();
    times[times.len() / 2]
}

/// Every order is replaced again and again: memory stays what it is.
fn churn(view: &View, orders: u64, rounds: u64) {
    let (mut scratch, mut document) = (Vec::new(), Vec::new());
    let mut random = fastrand::Rng::with_seed(9);
    let mut after_first = None;
    let each_round = orders.min(2_000_000);
    for round in 0..rounds {
        for change in 0..each_round {
            let n = random.u64(..orders);
            document.clear();
            sample::wb(1, n, &mut document);
            view.fill(
                id(n),
                Snapshot::new(2 + round * each_round + change, n + 1, Kind::Wb, State::Live, &document, &mut scratch),
            );
        }
        let resident = resident_bytes();
        let first = *after_first.get_or_insert(resident);
        if round + 1 == rounds {
            println!(
                "{} changes later: {:.3} of what was resident after the first {each_round}",
                rounds * each_round,
                ratio(resident, first)
            );
        }
    }
}

#[expect(clippy::cast_precision_loss, reason = "a figure for people")]
fn ratio(part: u64, whole: u64) -> f64 {
    part as f64 / whole as f64
}

/// Anonymous memory of this process: what it allocated, without mapped files.
fn resident_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).unwrap_or("0 kB");
    line.trim().trim_end_matches(" kB").parse::<u64>().unwrap_or_default() * 1024
}
