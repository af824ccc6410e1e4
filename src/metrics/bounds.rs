//! Upper bounds of the buckets of latencies.

/// In seconds. Reads take microseconds, commits milliseconds.
pub const BOUNDS_SECONDS: [f64; 18] = [
    0.000_01, 0.000_025, 0.000_05, 0.000_1, 0.000_25, 0.000_5, 0.001, 0.002_5, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25,
    0.5, 1.0, 2.5, 10.0,
];

/// [`BOUNDS_SECONDS`] in nanoseconds.
pub(super) const BOUNDS_NANOS: [u64; BOUNDS_SECONDS.len()] = [
    10_000,
    25_000,
    50_000,
    100_000,
    250_000,
    500_000,
    1_000_000,
    2_500_000,
    5_000_000,
    10_000_000,
    25_000_000,
    50_000_000,
    100_000_000,
    250_000_000,
    500_000_000,
    1_000_000_000,
    2_500_000_000,
    10_000_000_000,
];

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn both_are_the_same_times() {
        assert_eq!(BOUNDS_SECONDS.map(Duration::from_secs_f64), BOUNDS_NANOS.map(Duration::from_nanos));
    }
}
