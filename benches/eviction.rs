//! What a view with a budget keeps, and what it takes: hits on a Zipf trace against plain LRU and against the optimum
//! that knows the future, resident bytes under churn, and what a read costs. `cargo bench --bench eviction` is the
//! measurement; as a test it runs a short trace to stay true.

use std::collections::{BinaryHeap, HashMap};
use std::hint::black_box;
use std::sync::Arc;
use std::time::Instant;

use order_service::cache::{Config, View};
use order_service::id::OrderId;
use order_service::order::sample;
use order_service::snapshot::{Kind, Snapshot, State};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

fn main() {
    order_service::app::small_pages(); // as in the service
    let is_test = !std::env::args().any(|argument| argument == "--bench");
    churn(is_test); // first, while this process has freed nothing that could be used again
    let (orders, reads) = if is_test { (2_000, 20_000) } else { (200_000, 4_000_000) };
    for exponent in [0.8, 1.0, 1.2] {
        compare(&format!("Zipf {exponent}"), &zipf(orders, reads, exponent));
    }
    let mut with_scans = zipf(orders, reads, 1.0);
    for (n, order) in with_scans.iter_mut().enumerate().filter(|(n, _)| n % 4 == 0) {
        *order = u32::try_from(orders + n).expect("short traces"); // asked for once and never again
    }
    compare("Zipf 1, every fourth read an order that is asked for once", &with_scans);
    read_cost(is_test);
}

fn id(n: u32) -> OrderId {
    OrderId::parse(format!("order-{n:010}").as_bytes()).expect("legal")
}

/// Orders of rank n are asked for with a probability of 1 / n^exponent.
fn zipf(orders: usize, reads: usize, exponent: f64) -> Vec<u32> {
    #[expect(clippy::cast_precision_loss, reason = "ranks are small")]
    let weights = (1..=orders).map(|rank| 1.0 / (rank as f64).powf(exponent));
    let mut sum = 0.0;
    let cumulated: Vec<f64> = weights
        .map(|weight| {
            sum += weight;
            sum
        })
        .collect();
    let mut random = fastrand::Rng::with_seed(42);
    let mut names: Vec<u32> = (0..u32::try_from(orders).expect("few")).collect();
    random.shuffle(&mut names); // rank is not age
    let draw = |_| {
        let at = random.f64() * sum;
        names[cumulated.partition_point(|&upto| upto < at).min(orders - 1)]
    };
    (0..reads).map(draw).collect()
}

fn compare(name: &str, trace: &[u32]) {
    const BODY: &[u8] = &[b'x'; 1000];
    let distinct = trace.iter().collect::<std::collections::HashSet<_>>().len();
    let snapshot = || Snapshot::new(1, 1, Kind::Wb, State::Live, BODY, &mut Vec::new());
    let room = distinct / 10;
    let budget = View::cost(room as u64, (room * snapshot().resident_bytes()) as u64);
    let view = View::new(Config { bytes_max: Some(budget), ..Config::default() }, room);
    let mut hits = 0;
    for &order in trace {
        let id = id(order);
        if view.get(&id).is_some() {
            hits += 1;
        } else {
            view.fill(id, snapshot());
        }
    }
    assert_eq!(view.size().entries, room, "the budget is used up and kept to");
    let (ours, lru, optimum) = (share(hits, trace), share(lru(trace, room), trace), share(optimum(trace, room), trace));
    println!("{name}, room for {room} of {distinct}: hits {ours:.3}, LRU {lru:.3}, optimum {optimum:.3}");
    assert!(ours > lru && ours < optimum);
}

#[expect(clippy::cast_precision_loss, reason = "a figure for people")]
fn share(hits: usize, trace: &[u32]) -> f64 {
    hits as f64 / trace.len() as f64
}

/// Hits of a cache that lets go what was not used for longest.
fn lru(trace: &[u32], room: usize) -> usize {
    let mut last_use: HashMap<u32, usize> = HashMap::new();
    let mut by_use: std::collections::BTreeMap<usize, u32> = std::collections::BTreeMap::new();
    let mut hits = 0;
    for (now, &order) in trace.iter().enumerate() {
        if let Some(before) = last_use.insert(order, now) {
            by_use.remove(&before);
            hits += 1;
        } else if last_use.len() > room {
            let (_, oldest) = by_use.pop_first().expect("full");
            last_use.remove(&oldest);
        }
        by_use.insert(now, order);
    }
    hits
}

/// Hits of a cache that lets go what is needed again last (Belady 1966).
fn optimum(trace: &[u32], room: usize) -> usize {
    let mut next_use = vec![usize::MAX; trace.len()];
    let mut seen: HashMap<u32, usize> = HashMap::new();
    for (at, &order) in trace.iter().enumerate().rev() {
        if let Some(next) = seen.insert(order, at) {
            next_use[at] = next;
        }
    }
    let mut kept: HashMap<u32, usize> = HashMap::new();
    let mut furthest: BinaryHeap<(usize, u32)> = BinaryHeap::new();
    let mut hits = 0;
    for (at, &order) in trace.iter().enumerate() {
        if kept.insert(order, next_use[at]).is_some() {
            hits += 1;
        } else if kept.len() > room {
            while let Some((next, candidate)) = furthest.pop() {
                if candidate != order && kept.get(&candidate) == Some(&next) {
                    kept.remove(&candidate);
                    break;
                }
            }
        }
        furthest.push((next_use[at], order));
    }
    hits
}

/// Resident bytes while orders of many sizes come, change and leave.
fn churn(is_test: bool) {
    let bytes_max: u64 = if is_test { 4 << 20 } else { 512 << 20 };
    let rounds = 6;
    let before = resident_bytes();
    let view = View::new(Config { bytes_max: Some(bytes_max), ..Config::default() }, 0);
    let mut random = fastrand::Rng::with_seed(3);
    let (mut scratch, mut document) = (Vec::new(), Vec::new());
    let each_round = u32::try_from(bytes_max / 1000).expect("few");
    let mut peak = 0;
    for round in 0..rounds {
        for n in 0..each_round {
            document.clear();
            sample::wb(1, u64::from(n % 5000), &mut document);
            document.resize(random.usize(document.len() / 2..document.len() * 2), b' ');
            let order = random.u32(..each_round * 3);
            let snapshot =
                Snapshot::new(u64::from(round * each_round + n + 1), 1, Kind::Wb, State::Live, &document, &mut scratch);
            view.fill(id(order), snapshot);
            black_box(view.get(&id(random.u32(..each_round * 3))));
        }
        peak = peak.max(resident_bytes().saturating_sub(before));
    }
    #[expect(clippy::cast_precision_loss, reason = "a figure for people")]
    let ratio = peak as f64 / bytes_max as f64;
    println!(
        "churn: {} orders came, {} stay, at most {} MiB resident, {ratio:.3} of the budget",
        rounds * each_round,
        view.size().entries,
        peak >> 20,
    );
}

/// Nanoseconds a hit with and without a budget, in turns.
fn read_cost(is_test: bool) {
    let orders = if is_test { 1_000 } else { 100_000 };
    let make = |bytes_max| {
        let view = Arc::new(View::new(Config { bytes_max, ..Config::default() }, 0));
        let mut scratch = Vec::new();
        view.fill_all(
            (0..orders)
                .map(|n| (id(n), Snapshot::new(1, u64::from(n), Kind::Wb, State::Live, &[b'x'; 1000], &mut scratch))),
        );
        view.settle(); // as the service does twice a second
        view
    };
    let (free, bounded) = (make(None), make(Some(1 << 30)));
    let ids: Vec<OrderId> = (0..orders).map(id).collect();
    let mut times = [Vec::new(), Vec::new()];
    for round in 0..if is_test { 2 } else { 40 } {
        let (view, times) = if round % 2 == 0 { (&free, &mut times[0]) } else { (&bounded, &mut times[1]) };
        let started = Instant::now();
        for id in &ids {
            black_box(view.get(id)).expect("kept");
        }
        times.push(started.elapsed() / orders);
    }
    for times in &mut times {
        times.sort();
    }
    println!("read: {:?} without a budget, {:?} with one", times[0][times[0].len() / 2], times[1][times[1].len() / 2]);
}

/// `VmRSS` of this process.
fn resident_bytes() -> u64 {
    let status = std::fs::read_to_string("/proc/self/status").expect("Linux");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("a line");
    line.split_whitespace().nth(1).and_then(|number| number.parse::<u64>().ok()).expect("a number") * 1024
}
