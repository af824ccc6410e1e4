//! Compressed forms of the ready list: which it has, which are asked for, which one is to be made
//! next. Knows no codec.
//!
//! A form belongs to one list and goes with it, so a client that takes a compressed answer never
//! sees an older list than one that does not. While orders pour in, a list lives for 20 ms: until
//! its form is ready, and on lists whose turn it is not, clients get the plain list. It is the
//! newer answer, and costs the server less than a form few would fetch.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::Notify;
use tokio::sync::futures::Notified;

use super::encodings::{EncodedBody, Encoding, Level, OfEncoding};
use super::recent::List;

/// Smaller bodies fit one packet as they are.
const BYTES_MIN: usize = 1 << 10;
/// Larger bodies take too long, for the list and for anyone who waits for the process to stop.
const BYTES_MAX: usize = 32 << 20;
/// A list younger than this has most of its shortest life before it.
const YOUNG: Duration = Duration::from_millis(5);
/// A list older than this is not among those that follow each other as fast as they are made.
const SETTLED: Duration = Duration::from_millis(50);
/// A list older than this deserves a better form.
const STILL: Duration = Duration::from_secs(1);
/// How long it counts that an encoding was asked for.
const ASKED_TIME: Duration = Duration::from_secs(10);

impl List {
    /// Whether lists like this one have forms. Those that do not are too small or too large.
    #[must_use]
    pub fn may_be_encoded(&self) -> bool {
        (BYTES_MIN..=BYTES_MAX).contains(&self.body.len())
    }

    /// The best form there is.
    #[must_use]
    pub fn encoded(&self, encoding: Encoding) -> Option<EncodedBody<'_>> {
        let OfEncoding { fast, dense } = &self.encodings.0[encoding as usize];
        [(dense, Level::Dense), (fast, Level::Fast)]
            .into_iter()
            .find_map(|(form, level)| Some(EncodedBody { body: form.get()?.as_ref()?, encoding, level }))
    }

    /// Whether there will be no form because it does not pay.
    #[must_use]
    pub fn saves_nothing(&self, encoding: Encoding) -> bool {
        let OfEncoding { fast, dense } = &self.encodings.0[encoding as usize];
        self.encoded(encoding).is_none() && (fast.get().is_some() || dense.get().is_some())
    }

    /// Adds a form, unless it saves less than a tenth.
    pub fn keep_encoded(&self, encoding: Encoding, level: Level, body: Bytes) {
        let OfEncoding { fast, dense } = &self.encodings.0[encoding as usize];
        let body = Some(body).filter(|form| form.len() * 10 <= self.body.len() * 9);
        // There is one maker; what another made would be as good.
        let _ = match level {
            Level::Fast => fast.set(body),
            Level::Dense => dense.set(body),
        };
    }

    /// What is due for this list in one encoding at a time `age` after it was made.
    fn due(&self, encoding: Encoding, age: Duration) -> Due {
        let OfEncoding { fast, dense } = &self.encodings.0[encoding as usize];
        match (fast.get(), dense.get()) {
            (_, Some(_)) | (Some(None), None) => Due::Nothing,
            _ if !self.may_be_encoded() => Due::Nothing,
            (_, None) if age >= STILL => Due::Now(Level::Dense),
            (Some(Some(_)), None) => Due::After(STILL),
            (None, None) if age <= YOUNG || age >= SETTLED => Due::Now(Level::Fast),
            (None, None) => Due::After(SETTLED), // if it is not replaced before, then by one that is young
        }
    }
}

enum Due {
    Now(Level),
    /// When the list is this old.
    After(Duration),
    Nothing,
}

/// What is to be done about forms.
#[derive(Debug)]
pub enum CompressorStep {
    /// This one is to be made.
    Make(Arc<List>, Encoding, Level),
    /// Something may be due then.
    At(Instant),
    /// Nothing, until news come.
    Wait,
}

/// Who asks for which forms. One who asks pays for one form of an encoding: nothing is compressed
/// while no one asks, nor more often than someone does.
pub(super) struct Demand {
    start: Instant,
    /// When each encoding was asked for last, in milliseconds, after a time that makes 0 long ago.
    asked: [AtomicU64; Encoding::ALL.len()],
    /// Something new may be due.
    news: Notify,
    /// A form was made.
    made: Notify,
    made_count: AtomicU64,
    made_nanos: AtomicU64,
}

impl Demand {
    pub(super) fn new() -> Self {
        Self {
            start: Instant::now(),
            asked: Default::default(),
            news: Notify::new(),
            made: Notify::new(),
            made_count: AtomicU64::new(0),
            made_nanos: AtomicU64::new(0),
        }
    }

    fn millis(&self, now: Instant) -> u64 {
        u64::try_from((now.duration_since(self.start) + ASKED_TIME).as_millis()).unwrap_or(u64::MAX)
    }

    fn is_asked(&self, encoding: Encoding, millis: u64) -> bool {
        let asked = self.asked[encoding as usize].load(Ordering::Relaxed);
        u128::from(millis.saturating_sub(asked)) < ASKED_TIME.as_millis()
    }

    /// A client would take this encoding.
    pub(super) fn ask(&self, encoding: Encoding, now: Instant) {
        let millis = self.millis(now);
        let was_asked = self.is_asked(encoding, millis);
        let asked = &self.asked[encoding as usize];
        // Written once a millisecond at most, or the threads that serve requests would take the
        // cell from each other.
        if asked.load(Ordering::Relaxed) != millis {
            asked.store(millis, Ordering::Relaxed);
        }
        if !was_asked {
            self.news.notify_one();
        }
    }

    /// A list was made.
    pub(super) fn listed(&self, now: Instant) {
        let millis = self.millis(now);
        if Encoding::ALL.iter().any(|&encoding| self.is_asked(encoding, millis)) {
            self.news.notify_one();
        }
    }

    /// What to do for `list`. What is to be made counts as paid for; encodings take turns after
    /// `last`.
    pub(super) fn next(&self, list: Arc<List>, last: Encoding, now: Instant) -> CompressorStep {
        let (millis, age) = (self.millis(now), now.duration_since(list.since));
        let mut at = None;
        for turn in 1..=Encoding::ALL.len() {
            let encoding = Encoding::ALL[(last as usize + turn) % Encoding::ALL.len()];
            match list.due(encoding, age) {
                _ if !self.is_asked(encoding, millis) => {}
                Due::Now(level) => {
                    self.asked[encoding as usize].store(0, Ordering::Relaxed);
                    return CompressorStep::Make(list, encoding, level);
                }
                Due::After(age) => at = Some(at.unwrap_or(age).min(age)),
                Due::Nothing => {}
            }
        }
        at.map_or(CompressorStep::Wait, |age| CompressorStep::At(list.since + age))
    }

    pub(super) async fn news(&self) {
        self.news.notified().await;
    }

    pub(super) fn next_made(&self) -> Notified<'_> {
        self.made.notified()
    }

    pub(super) fn made(&self, took: Duration) {
        self.made_count.fetch_add(1, Ordering::Relaxed);
        self.made_nanos.fetch_add(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX), Ordering::Relaxed);
        self.made.notify_waiters();
    }

    pub(super) fn total(&self) -> (u64, Duration) {
        let nanos = self.made_nanos.load(Ordering::Relaxed);
        (self.made_count.load(Ordering::Relaxed), Duration::from_nanos(nanos))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    fn list(since: Instant, bytes: usize) -> Arc<List> {
        let body = vec![b' '; bytes].into();
        Arc::new(List { since, ..List::new(body, Vec::new(), false, 1) })
    }

    fn made(next: CompressorStep) -> Option<(Encoding, Level)> {
        match next {
            CompressorStep::Make(_, encoding, level) => Some((encoding, level)),
            CompressorStep::At(_) | CompressorStep::Wait => None,
        }
    }

    #[test]
    fn one_who_asks_pays_for_one_form() {
        let demand = Demand::new();
        let now = demand.start;
        let next = |list: &Arc<List>, now| made(demand.next(Arc::clone(list), Encoding::Gzip, now));
        let first = list(now, 5000);
        assert_eq!(next(&first, now), None, "no one asked");
        demand.ask(Encoding::Gzip, now);
        demand.ask(Encoding::Gzip, now + MS);
        assert_eq!(next(&first, now + MS), Some((Encoding::Gzip, Level::Fast)));
        let second = list(now + 20 * MS, 5000);
        assert_eq!(next(&second, now + 20 * MS), None, "no one asked since");
        demand.ask(Encoding::Gzip, now + 20 * MS);
        assert_eq!(next(&second, now + 21 * MS + ASKED_TIME), None, "not lately");
        demand.ask(Encoding::Gzip, now + 21 * MS + ASKED_TIME);
        assert_eq!(next(&second, now + 21 * MS + ASKED_TIME), Some((Encoding::Gzip, Level::Dense)));
    }

    #[test]
    fn a_list_that_may_go_at_once_is_let_go() {
        let demand = Demand::new();
        let now = demand.start;
        let list = list(now, 5000);
        demand.ask(Encoding::Zstd, now);
        let next = demand.next(Arc::clone(&list), Encoding::Zstd, now + 10 * MS);
        assert!(matches!(next, CompressorStep::At(at) if at == now + SETTLED), "{next:?}");
        let next = demand.next(Arc::clone(&list), Encoding::Zstd, now + SETTLED);
        assert_eq!(made(next), Some((Encoding::Zstd, Level::Fast)));
    }

    #[test]
    fn a_list_that_stays_gets_a_better_form() {
        let demand = Demand::new();
        let now = demand.start;
        let list = list(now, 5000);
        list.keep_encoded(Encoding::Zstd, Level::Fast, vec![1; 400].into());
        assert_eq!(list.encoded(Encoding::Zstd).unwrap().level, Level::Fast);
        assert!(list.encoded(Encoding::Gzip).is_none());
        demand.ask(Encoding::Zstd, now);
        let next = demand.next(Arc::clone(&list), Encoding::Zstd, now + 10 * MS);
        assert!(matches!(next, CompressorStep::At(at) if at == now + STILL), "{next:?}");
        let next = demand.next(Arc::clone(&list), Encoding::Zstd, now + STILL);
        assert_eq!(made(next), Some((Encoding::Zstd, Level::Dense)));
        list.keep_encoded(Encoding::Zstd, Level::Dense, vec![1; 300].into());
        assert_eq!(list.encoded(Encoding::Zstd).unwrap().level, Level::Dense);
        demand.ask(Encoding::Zstd, now + STILL);
        assert!(matches!(demand.next(list, Encoding::Zstd, now + 2 * STILL), CompressorStep::Wait));
    }

    #[test]
    fn codings_take_turns() {
        let demand = Demand::new();
        let now = demand.start;
        let mut last = Encoding::Gzip;
        let mut turns = Vec::new();
        for _ in 0..4 {
            demand.ask(Encoding::Zstd, now);
            demand.ask(Encoding::Gzip, now);
            let CompressorStep::Make(_, encoding, _) = demand.next(list(now, 5000), last, now) else {
                panic!("both are due")
            };
            turns.push(encoding);
            last = encoding;
        }
        assert_eq!(turns, [Encoding::Zstd, Encoding::Gzip, Encoding::Zstd, Encoding::Gzip]);
    }

    #[test]
    fn what_does_not_pay_is_not_kept_and_not_tried_again() {
        let demand = Demand::new();
        let now = demand.start;
        let odd = list(now, 5000);
        odd.keep_encoded(Encoding::Gzip, Level::Fast, vec![1; 4600].into());
        assert!(
            odd.encoded(Encoding::Gzip).is_none()
                && odd.saves_nothing(Encoding::Gzip)
                && !odd.saves_nothing(Encoding::Zstd)
        );
        for list in [odd, list(now, BYTES_MIN - 1), list(now, BYTES_MAX + 1)] {
            demand.ask(Encoding::Gzip, now);
            assert!(matches!(demand.next(list, Encoding::Zstd, now + STILL), CompressorStep::Wait));
        }
    }
}
