//! Requests by route, method and status. A request adds to memory that no other thread writes.

use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::time::Duration;

use prometheus::proto::{Bucket, LabelPair, Metric, MetricFamily, MetricType};

use super::bounds::{BOUNDS_NANOS, BOUNDS_SECONDS};
use super::families::{counter_of, family};

/// Statuses with a slot of their own; the last slot is for any other.
const STATUSES: [u16; 22] =
    [200, 304, 404, 201, 202, 204, 400, 405, 406, 408, 409, 410, 412, 413, 414, 415, 422, 429, 431, 500, 503, 0];
/// More than the threads that serve requests on most machines; beyond it threads share.
const SHARDS: usize = 64;

/// A family's name, and what is said of it.
#[derive(Debug, Clone, Copy)]
pub struct Named(pub &'static str, pub &'static str);

/// What the owner of [`Requests`] calls them.
#[derive(Debug, Clone, Copy)]
pub struct RequestNames {
    /// The values of the label `endpoint`, by the indices that [`Requests::observe`] is called with.
    pub endpoints: &'static [&'static str],
    /// The same for the label `method`.
    pub methods: &'static [&'static str],
    /// A counter by endpoint, method and status.
    pub requests: Named,
    /// A counter of those that were answered with 4xx or 5xx, by endpoint and method.
    pub errors: Named,
    /// A histogram of the time to make an answer, by endpoint and method.
    pub durations: Named,
    /// A counter of [`Requests::hit`].
    pub hits: Named,
    /// A counter of [`Requests::miss`].
    pub misses: Named,
}

/// Request counters, one shard per thread: a request adds to memory no other thread writes.
pub struct Requests {
    names: RequestNames,
    shards: Box<[Shard]>,
}

#[repr(align(128))]
struct Shard {
    hits: AtomicU64,
    misses: AtomicU64,
    /// By endpoint, method and status slot.
    requests: Box<[AtomicU64]>,
    /// By endpoint and bucket, the last one unbounded; then the sum in nanoseconds.
    durations: Box<[AtomicU64]>,
}

/// Buckets, the unbounded one, and the sum.
const DURATION_SLOTS: usize = BOUNDS_NANOS.len() + 2;

impl Requests {
    pub(super) fn new(names: RequestNames) -> Self {
        let routes = names.endpoints.len() * names.methods.len();
        let zeros = |len: usize| (0..len).map(|_| AtomicU64::new(0)).collect();
        let shard = || Shard {
            hits: AtomicU64::new(0),
            misses: AtomicU64::new(0),
            requests: zeros(routes * STATUSES.len()),
            durations: zeros(routes * DURATION_SLOTS),
        };
        Self { names, shards: (0..SHARDS).map(|_| shard()).collect() }
    }

    /// Counts answered requests, each of which took this long. No lock, no look-up, no allocation.
    pub fn observe(&self, endpoint: usize, method: usize, status: u16, each: Duration, count: u32) {
        let shard = self.shard();
        let route = endpoint * self.names.methods.len() + method;
        let slot = STATUSES.iter().position(|&known| known == status).unwrap_or(STATUSES.len() - 1);
        let count = u64::from(count);
        shard.requests[route * STATUSES.len() + slot].fetch_add(count, Ordering::Relaxed);
        let nanos = u64::try_from(each.as_nanos()).unwrap_or(u64::MAX);
        let bucket = BOUNDS_NANOS.iter().position(|&bound| nanos <= bound).unwrap_or(BOUNDS_NANOS.len());
        let durations = &shard.durations[route * DURATION_SLOTS..(route + 1) * DURATION_SLOTS];
        durations[bucket].fetch_add(count, Ordering::Relaxed);
        durations[DURATION_SLOTS - 1].fetch_add(nanos.saturating_mul(count), Ordering::Relaxed);
    }

    /// So many orders were asked for by id and were in the view.
    pub fn hit(&self, count: u32) {
        self.shard().hits.fetch_add(count.into(), Ordering::Relaxed);
    }

    /// An order was asked for by id and was not in the view.
    pub fn miss(&self) {
        self.shard().misses.fetch_add(1, Ordering::Relaxed);
    }

    fn shard(&self) -> &Shard {
        static THREADS: AtomicUsize = AtomicUsize::new(0);
        thread_local! {
            static THREAD: usize = THREADS.fetch_add(1, Ordering::Relaxed) % SHARDS;
        }
        &self.shards[THREAD.with(|thread| *thread)]
    }

    fn total(&self, read: impl Fn(&Shard) -> &AtomicU64) -> u64 {
        self.shards.iter().map(|shard| read(shard).load(Ordering::Relaxed)).sum()
    }

    fn labels(&self, endpoint: usize, method: usize, status: Option<u16>) -> Vec<LabelPair> {
        let pair = |name: &str, value: &str| {
            let mut pair = LabelPair::default();
            pair.set_name(name.into());
            pair.set_value(value.into());
            pair
        };
        // The text format wants labels sorted by name.
        let mut labels =
            vec![pair("endpoint", self.names.endpoints[endpoint]), pair("method", self.names.methods[method])];
        if let Some(status) = status {
            labels.push(pair("status", &if status == 0 { "other".into() } else { status.to_string() }));
        }
        labels
    }

    pub(super) fn families(&self) -> Vec<MetricFamily> {
        let mut requests = Vec::new();
        let mut errors = Vec::new();
        let mut durations = Vec::new();
        for endpoint in 0..self.names.endpoints.len() {
            for method in 0..self.names.methods.len() {
                let route = endpoint * self.names.methods.len() + method;
                let mut failed = 0;
                for (slot, &status) in STATUSES.iter().enumerate() {
                    let count = self.total(|shard| &shard.requests[route * STATUSES.len() + slot]);
                    if count > 0 {
                        requests.push(counter_of(count, self.labels(endpoint, method, Some(status))));
                    }
                    failed += if status == 0 || status >= 400 { count } else { 0 };
                }
                let duration = self.duration_of(route);
                if duration.get_sample_count() > 0 {
                    errors.push(counter_of(failed, self.labels(endpoint, method, None)));
                    let mut metric = Metric::from_label(self.labels(endpoint, method, None));
                    metric.set_histogram(duration);
                    durations.push(metric);
                }
            }
        }
        let hits = vec![counter_of(self.total(|shard| &shard.hits), Vec::new())];
        let misses = vec![counter_of(self.total(|shard| &shard.misses), Vec::new())];
        let names = &self.names;
        let of = |Named(name, help): Named, kind, metrics| family(name, help, kind, metrics);
        vec![
            of(names.requests, MetricType::COUNTER, requests),
            of(names.errors, MetricType::COUNTER, errors),
            of(names.durations, MetricType::HISTOGRAM, durations),
            of(names.hits, MetricType::COUNTER, hits),
            of(names.misses, MetricType::COUNTER, misses),
        ]
    }

    fn duration_of(&self, route: usize) -> prometheus::proto::Histogram {
        let slot = |index: usize| self.total(|shard| &shard.durations[route * DURATION_SLOTS + index]);
        let mut histogram = prometheus::proto::Histogram::default();
        let mut count = 0;
        let mut buckets = Vec::with_capacity(BOUNDS_SECONDS.len());
        for (index, &bound) in BOUNDS_SECONDS.iter().enumerate() {
            count += slot(index);
            let mut bucket = Bucket::default();
            bucket.set_upper_bound(bound);
            bucket.set_cumulative_count(count);
            buckets.push(bucket);
        }
        histogram.set_bucket(buckets);
        histogram.set_sample_count(count + slot(BOUNDS_SECONDS.len()));
        histogram.set_sample_sum(Duration::from_nanos(slot(DURATION_SLOTS - 1)).as_secs_f64());
        histogram
    }
}
