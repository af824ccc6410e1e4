//! Compressed forms of the ready list: which it has, which are asked for, which one is to be made next. Knows no codec.
//!
//! A form belongs to one list and goes with it, so a client that takes a compressed answer never sees an older list than
//! one that does not. While orders pour in, a list lives for 20 ms: until its form is ready, and on lists whose turn it
//! is not, clients get the plain list. It is the newer answer, and costs the server less than a form few would fetch.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use bytes::Bytes;
use tokio::sync::Notify;
use tokio::sync::futures::Notified;

use super::recent::List;

/// How a body may be compressed, the best first: zstd is faster than gzip and smaller. Brotli is left out: a list takes
/// it twice gzip's time for 4 % less, zstd is smaller still, and its encoder would add 19 s to the build.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Coding {
    /// RFC 8878.
    Zstd,
    /// RFC 1952.
    Gzip,
}

impl Coding {
    /// All, the best first.
    pub const ALL: [Self; 2] = [Self::Zstd, Self::Gzip];

    /// Its name in HTTP.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Zstd => "zstd",
            Self::Gzip => "gzip",
        }
    }
}

/// How much time a form is worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Effort {
    /// For a list that may be gone in a moment.
    Fast,
    /// For a list that has been still for a second.
    Dense,
}

/// Smaller bodies fit one packet as they are.
const BYTES_MIN: usize = 1 << 10;
/// Larger bodies take too long, for the list and for whoever waits for the process to stop.
const BYTES_MAX: usize = 32 << 20;
/// A list younger than this has most of its shortest life before it.
const YOUNG: Duration = Duration::from_millis(5);
/// A list older than this is not among those that follow each other as fast as they are made.
const SETTLED: Duration = Duration::from_millis(50);
/// A list older than this deserves a better form.
const STILL: Duration = Duration::from_secs(1);
/// How long it counts that a coding was asked for.
const ASKED_TIME: Duration = Duration::from_secs(10);

/// The forms of one list.
#[derive(Debug, Default)]
pub(super) struct Forms([OfCoding; Coding::ALL.len()]);

/// `None` inside where compressing did not pay.
#[derive(Debug, Default)]
struct OfCoding {
    fast: OnceLock<Option<Bytes>>,
    dense: OnceLock<Option<Bytes>>,
}

/// A compressed form of a list.
#[derive(Debug)]
pub struct Form<'l> {
    /// The compressed body.
    pub body: &'l Bytes,
    /// How it was compressed.
    pub coding: Coding,
    /// How well. Two forms of one coding are different bytes, so their tags must differ.
    pub effort: Effort,
}

impl List {
    /// Whether lists like this one have forms. Those that do not are too small or too large.
    #[must_use]
    pub fn may_have_forms(&self) -> bool {
        (BYTES_MIN..=BYTES_MAX).contains(&self.body.len())
    }

    /// The best form there is.
    #[must_use]
    pub fn form(&self, coding: Coding) -> Option<Form<'_>> {
        let OfCoding { fast, dense } = &self.forms.0[coding as usize];
        [(dense, Effort::Dense), (fast, Effort::Fast)]
            .into_iter()
            .find_map(|(form, effort)| Some(Form { body: form.get()?.as_ref()?, coding, effort }))
    }

    /// Whether there will be no form because it does not pay.
    #[must_use]
    pub fn is_plain_best(&self, coding: Coding) -> bool {
        let OfCoding { fast, dense } = &self.forms.0[coding as usize];
        self.form(coding).is_none() && (fast.get().is_some() || dense.get().is_some())
    }

    /// Adds a form, unless it saves less than a tenth.
    pub fn keep_form(&self, coding: Coding, effort: Effort, body: Bytes) {
        let OfCoding { fast, dense } = &self.forms.0[coding as usize];
        let body = Some(body).filter(|form| form.len() * 10 <= self.body.len() * 9);
        // There is one maker; what another made would be as good.
        let _ = match effort {
            Effort::Fast => fast.set(body),
            Effort::Dense => dense.set(body),
        };
    }

    /// What is due for this list in one coding at a time `age` after it was made.
    fn due(&self, coding: Coding, age: Duration) -> Due {
        let OfCoding { fast, dense } = &self.forms.0[coding as usize];
        match (fast.get(), dense.get()) {
            (_, Some(_)) | (Some(None), None) => Due::Nothing,
            _ if !self.may_have_forms() => Due::Nothing,
            (_, None) if age >= STILL => Due::Now(Effort::Dense),
            (Some(Some(_)), None) => Due::After(STILL),
            (None, None) if age <= YOUNG || age >= SETTLED => Due::Now(Effort::Fast),
            (None, None) => Due::After(SETTLED), // if it is not replaced before, then by one that is young
        }
    }
}

enum Due {
    Now(Effort),
    /// When the list is this old.
    After(Duration),
    Nothing,
}

/// What is to be done about forms.
#[derive(Debug)]
pub enum Next {
    /// This one is to be made.
    Make(Arc<List>, Coding, Effort),
    /// Something may be due then.
    At(Instant),
    /// Nothing, until news come.
    Wait,
}

/// Who asks for which forms. One who asks pays for one form of a coding: nothing is compressed while nobody asks, nor
/// more often than somebody does.
pub(super) struct Demand {
    start: Instant,
    /// When each coding was asked for last, in milliseconds, after a time that makes 0 long ago.
    asked: [AtomicU64; Coding::ALL.len()],
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

    fn is_asked(&self, coding: Coding, millis: u64) -> bool {
        let asked = self.asked[coding as usize].load(Ordering::Relaxed);
        u128::from(millis.saturating_sub(asked)) < ASKED_TIME.as_millis()
    }

    /// A client would take this coding.
    pub(super) fn ask(&self, coding: Coding, now: Instant) {
        let millis = self.millis(now);
        let was_asked = self.is_asked(coding, millis);
        let asked = &self.asked[coding as usize];
        // Written once a millisecond at most, or the threads that serve requests would take the cell from each other.
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
        if Coding::ALL.iter().any(|&coding| self.is_asked(coding, millis)) {
            self.news.notify_one();
        }
    }

    /// What to do for `list`. What is to be made counts as paid for; codings take turns after `last`.
    pub(super) fn next(&self, list: Arc<List>, last: Coding, now: Instant) -> Next {
        let (millis, age) = (self.millis(now), now.duration_since(list.since));
        let mut at = None;
        for turn in 1..=Coding::ALL.len() {
            let coding = Coding::ALL[(last as usize + turn) % Coding::ALL.len()];
            match list.due(coding, age) {
                _ if !self.is_asked(coding, millis) => {}
                Due::Now(effort) => {
                    self.asked[coding as usize].store(0, Ordering::Relaxed);
                    return Next::Make(list, coding, effort);
                }
                Due::After(age) => at = Some(at.unwrap_or(age).min(age)),
                Due::Nothing => {}
            }
        }
        at.map_or(Next::Wait, |age| Next::At(list.since + age))
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

    fn made(next: Next) -> Option<(Coding, Effort)> {
        match next {
            Next::Make(_, coding, effort) => Some((coding, effort)),
            Next::At(_) | Next::Wait => None,
        }
    }

    #[test]
    fn one_who_asks_pays_for_one_form() {
        let demand = Demand::new();
        let now = demand.start;
        let next = |list: &Arc<List>, now| made(demand.next(Arc::clone(list), Coding::Gzip, now));
        let first = list(now, 5000);
        assert_eq!(next(&first, now), None, "nobody asked");
        demand.ask(Coding::Gzip, now);
        demand.ask(Coding::Gzip, now + MS);
        assert_eq!(next(&first, now + MS), Some((Coding::Gzip, Effort::Fast)));
        let second = list(now + 20 * MS, 5000);
        assert_eq!(next(&second, now + 20 * MS), None, "nobody asked since");
        demand.ask(Coding::Gzip, now + 20 * MS);
        assert_eq!(next(&second, now + 21 * MS + ASKED_TIME), None, "not lately");
        demand.ask(Coding::Gzip, now + 21 * MS + ASKED_TIME);
        assert_eq!(next(&second, now + 21 * MS + ASKED_TIME), Some((Coding::Gzip, Effort::Dense)));
    }

    #[test]
    fn a_list_that_may_go_at_once_is_let_go() {
        let demand = Demand::new();
        let now = demand.start;
        let list = list(now, 5000);
        demand.ask(Coding::Zstd, now);
        let next = demand.next(Arc::clone(&list), Coding::Zstd, now + 10 * MS);
        assert!(matches!(next, Next::At(at) if at == now + SETTLED), "{next:?}");
        let next = demand.next(Arc::clone(&list), Coding::Zstd, now + SETTLED);
        assert_eq!(made(next), Some((Coding::Zstd, Effort::Fast)));
    }

    #[test]
    fn a_list_that_stays_gets_a_better_form() {
        let demand = Demand::new();
        let now = demand.start;
        let list = list(now, 5000);
        list.keep_form(Coding::Zstd, Effort::Fast, vec![1; 400].into());
        assert_eq!(list.form(Coding::Zstd).unwrap().effort, Effort::Fast);
        assert!(list.form(Coding::Gzip).is_none());
        demand.ask(Coding::Zstd, now);
        let next = demand.next(Arc::clone(&list), Coding::Zstd, now + 10 * MS);
        assert!(matches!(next, Next::At(at) if at == now + STILL), "{next:?}");
        let next = demand.next(Arc::clone(&list), Coding::Zstd, now + STILL);
        assert_eq!(made(next), Some((Coding::Zstd, Effort::Dense)));
        list.keep_form(Coding::Zstd, Effort::Dense, vec![1; 300].into());
        assert_eq!(list.form(Coding::Zstd).unwrap().effort, Effort::Dense);
        demand.ask(Coding::Zstd, now + STILL);
        assert!(matches!(demand.next(list, Coding::Zstd, now + 2 * STILL), Next::Wait));
    }

    #[test]
    fn codings_take_turns() {
        let demand = Demand::new();
        let now = demand.start;
        let mut last = Coding::Gzip;
        let mut turns = Vec::new();
        for _ in 0..4 {
            demand.ask(Coding::Zstd, now);
            demand.ask(Coding::Gzip, now);
            let Next::Make(_, coding, _) = demand.next(list(now, 5000), last, now) else { panic!("both are due") };
            turns.push(coding);
            last = coding;
        }
        assert_eq!(turns, [Coding::Zstd, Coding::Gzip, Coding::Zstd, Coding::Gzip]);
    }

    #[test]
    fn what_does_not_pay_is_not_kept_and_not_tried_again() {
        let demand = Demand::new();
        let now = demand.start;
        let odd = list(now, 5000);
        odd.keep_form(Coding::Gzip, Effort::Fast, vec![1; 4600].into());
        assert!(
            odd.form(Coding::Gzip).is_none() && odd.is_plain_best(Coding::Gzip) && !odd.is_plain_best(Coding::Zstd)
        );
        for list in [odd, list(now, BYTES_MIN - 1), list(now, BYTES_MAX + 1)] {
            demand.ask(Coding::Gzip, now);
            assert!(matches!(demand.next(list, Coding::Zstd, now + STILL), Next::Wait));
        }
    }
}
