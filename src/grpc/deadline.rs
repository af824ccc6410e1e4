//! How long a client waits for its answer: the `grpc-timeout` of its call.

use std::time::Duration;

use hyper::header::HeaderMap;
use tokio::time::Instant;

/// When the client gives up, as far as it said so. Travels with the request.
#[derive(Debug, Clone, Copy)]
pub struct Deadline(pub Option<Instant>);

impl Deadline {
    /// The deadline of a call that arrived at `now`: the nearest, where several are named.
    pub fn read(headers: &HeaderMap, now: Instant) -> Self {
        let timeout = headers.get_all("grpc-timeout").iter().filter_map(|value| parse(value.as_bytes())).min();
        Self(timeout.and_then(|timeout| now.checked_add(timeout)))
    }

    /// The time to wait for something that may take `most`, so that the answer arrives before the client gives up.
    pub fn wait(self, most: Duration) -> Duration {
        /// The least that is kept for the answer's way. A client far away gives itself more time, and gets a tenth of it.
        const ANSWER_TIME_MIN: Duration = Duration::from_millis(50);
        let Some(end) = self.0 else { return most };
        let left = end.saturating_duration_since(Instant::now());
        most.min(left.saturating_sub(ANSWER_TIME_MIN.max(left / 10)))
    }
}

/// At most eight digits and a unit. `None` for anything else, which is then no deadline.
fn parse(text: &[u8]) -> Option<Duration> {
    let (unit, digits) = text.split_last()?;
    if !(1..=8).contains(&digits.len()) || !digits.iter().all(u8::is_ascii_digit) {
        return None;
    }
    let count = digits.iter().fold(0, |count, digit| count * 10 + u64::from(digit - b'0'));
    Some(match unit {
        b'H' => Duration::from_secs(count * 3600),
        b'M' => Duration::from_secs(count * 60),
        b'S' => Duration::from_secs(count),
        b'm' => Duration::from_millis(count),
        b'u' => Duration::from_micros(count),
        b'n' => Duration::from_nanos(count),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn timeouts_are_read_in_every_unit() {
        for (text, timeout) in [
            ("2H", Duration::from_hours(2)),
            ("3M", Duration::from_mins(3)),
            ("99999999S", Duration::from_secs(99_999_999)),
            ("5m", Duration::from_millis(5)),
            ("6u", Duration::from_micros(6)),
            ("7n", Duration::from_nanos(7)),
        ] {
            assert_eq!(parse(text.as_bytes()), Some(timeout), "{text}");
        }
        for text in ["", "S", "5", "123456789S", "-1S", "1s", "1.5S", "5 S"] {
            assert_eq!(parse(text.as_bytes()), None, "{text:?}");
        }
    }

    #[test]
    fn of_several_timeouts_the_shortest_counts() {
        let now = Instant::now();
        let headers = ["9S", "2S", "x"].map(|text| ("grpc-timeout".parse().unwrap(), text.parse().unwrap()));
        let deadline = Deadline::read(&HeaderMap::from_iter(headers), now);
        assert_eq!(deadline.0, Some(now + Duration::from_secs(2)));
    }

    #[test]
    fn a_wait_ends_before_its_deadline() {
        let now = Instant::now();
        let most = Duration::from_hours(1);
        assert_eq!(Deadline(None).wait(most), most);
        assert_eq!(Deadline(Some(now + Duration::from_hours(2))).wait(most), most);
        let until_deadline = |seconds| Deadline(Some(now + Duration::from_secs(seconds))).wait(most);
        assert!(until_deadline(1000) <= Duration::from_mins(15), "a tenth is the answer's");
        assert_eq!(Deadline(Some(now)).wait(most), Duration::ZERO);
    }
}
