//! When the worst happened: what took a millisecond or longer, the longest of each tenth of a second.

use std::collections::BTreeMap;
use std::time::Duration;

use serde_json::json;

/// What is shorter is not worth a word.
pub const LEAST: Duration = Duration::from_millis(1);
/// One bad moment reaches many requests; of each such time one is told.
const SLOT: Duration = Duration::from_millis(100);

/// Moments counted from a beginning of their own, and how long something took that ended then.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Timeline(BTreeMap<u128, (Duration, Duration)>);

impl Timeline {
    /// Something `took` so long until `at`.
    pub fn note(&mut self, at: Duration, took: Duration) {
        if took < LEAST {
            return;
        }
        let longest = self.0.entry(at.as_nanos() / SLOT.as_nanos()).or_default();
        *longest = (*longest).max((took, at));
    }

    /// The longest, and when they ended: the longest first, at most `count`, each in a time of its own.
    #[must_use]
    pub fn worst(&self, count: usize) -> Vec<(Duration, Duration)> {
        let mut all: Vec<_> = self.0.values().copied().collect();
        all.sort_unstable_by(|a, b| b.cmp(a));
        let mut worst: Vec<(Duration, Duration)> = Vec::new();
        for (took, at) in all {
            // What ends just after a longer one is most likely the rest of it.
            if worst.len() < count && worst.iter().all(|&(_, other)| at.abs_diff(other) >= SLOT) {
                worst.push((took, at));
            }
        }
        worst
    }

    /// [`Timeline::worst`] as text, `none` when there is nothing.
    #[must_use]
    pub fn text(&self, count: usize, none: &str) -> String {
        let worst: Vec<String> = self
            .worst(count)
            .iter()
            .map(|(took, at)| format!("{:.1} ms at {:.2} s", took.as_secs_f64() * 1e3, at.as_secs_f64()))
            .collect();
        if worst.is_empty() { none.to_owned() } else { worst.join(", ") }
    }

    /// [`Timeline::worst`] as pairs of seconds and microseconds.
    #[must_use]
    pub fn json(&self, count: usize) -> serde_json::Value {
        self.worst(count)
            .iter()
            .map(|(took, at)| json!([at.as_secs_f64(), u64::try_from(took.as_micros()).unwrap_or(u64::MAX)]))
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longest_of_each_time_is_told_and_neighbours_are_one() {
        let ms = Duration::from_millis;
        let mut timeline = Timeline::default();
        assert_eq!(timeline.text(5, "nothing"), "nothing");
        for (at, took) in [(5, 0), (50, 2), (60, 7), (110, 6), (190, 3), (1000, 1), (2000, 9), (70, 8), (2001, 4)] {
            timeline.note(ms(at), ms(took));
        }
        assert_eq!(timeline.worst(5), [(ms(9), ms(2000)), (ms(8), ms(70)), (ms(1), ms(1000))]);
        assert_eq!(timeline.text(2, "nothing"), "9.0 ms at 2.00 s, 8.0 ms at 0.07 s");
        assert_eq!(timeline.json(1), json!([[2.0, 9000]]));
    }
}
