//! What was sent against what came of it: table, view, dead letters and the service's own books.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use order_service::order::sample;

use super::{Channel, Message, Place, RECOVERY, Sender};
use crate::database::Database;
use crate::server::{Server, until};

/// Orders in the books differ by their seed from all others.
const SEED: u64 = 11;
/// The first samples have the same ids everywhere.
const FIRST: u64 = 100;

/// An order as it was sent.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Order {
    /// How many bodies it has had.
    versions: u64,
    /// The last of them.
    body: Vec<u8>,
}

/// Everything that was sent.
#[derive(Debug, Default)]
pub struct Sent {
    orders: BTreeMap<u64, Order>,
    invalid: BTreeMap<Place, Message>,
    /// Valid orders and invalid messages.
    pub count: u64,
}

/// What the service says when its intake ends, by column.
pub type Ledger = BTreeMap<String, u64>;

impl Sent {
    /// The next body of the `n`-th order.
    pub fn order(&mut self, n: u64) -> Message {
        let order = self.orders.entry(n).or_insert(Order { versions: 0, body: Vec::new() });
        order.versions += 1;
        order.body.clear();
        sample::wb(SEED, FIRST + n, &mut order.body);
        order.body.pop();
        order.body.extend(format!(r#","counter":{}}}"#, order.versions).bytes());
        self.count += 1;
        Message::new(order.body.clone()).key(id(n))
    }

    /// Sends the next bodies of these orders.
    pub fn send(&mut self, sender: &impl Sender, orders: impl IntoIterator<Item = u64>) -> Vec<Place> {
        let messages: Vec<_> = orders.into_iter().map(|n| self.order(n)).collect();
        sender.send(&messages)
    }

    /// Sends something that is no order.
    pub fn send_rubbish(&mut self, sender: &impl Sender, count: u64) {
        let rubbish = |n: u64| {
            let mut value = Vec::new();
            sample::invalid(SEED, n, &mut value);
            Message::new(value).key(format!("rubbish-{n}"))
        };
        let messages: Vec<_> = (0..count).map(|n| rubbish(self.count + n)).collect();
        self.count += count;
        self.invalid.extend(sender.send(&messages).into_iter().zip(messages));
    }

    /// How many orders must be there.
    pub fn orders(&self) -> u64 {
        self.orders.len() as u64
    }

    /// Waits until a server has dealt with everything, as far as it says itself: for a store without a database.
    pub fn wait_seen<C: Channel>(&self, server: &Server, channel: &C) {
        channel.wait_acknowledged();
        until("every order is in the view", RECOVERY, || self.missing(server).is_none().then_some(()));
    }

    /// The first thing that is not yet as it must be.
    fn missing(&self, server: &Server) -> Option<String> {
        let total = server.get("/api/stats").json()["total_orders"].as_u64();
        (total != Some(self.orders())).then(|| format!("{total:?} orders instead of {}", self.orders()))
    }

    /// Waits until the stored positions are the ends of the channel, and every order is at these servers.
    pub fn wait_stored<C: Channel>(&self, servers: &[&Server], database: &Database, channel: &C) {
        wait_stored(&channel.ends(), database, channel);
        for server in servers {
            until("every order is in the view", RECOVERY, || self.missing(server).is_none().then_some(()));
        }
    }

    /// Waits, then holds everything against everything else.
    pub fn check<C: Channel>(&self, servers: &[&Server], database: &Database, channel: &C) {
        self.wait_stored(servers, database, channel);
        let (stored, ends) = (positions(database, channel), channel.ends());
        for (partition, end) in &ends {
            assert_eq!(stored.get(partition), Some(end), "{stored:?} are stored of {ends:?}");
        }
        let table = self.check_table(database);
        for server in servers {
            self.check_view(server, Some(&table));
        }
        self.check_letters(channel, C::LETTERS_COME_ONCE);
    }

    /// The table has each order once, as it was sent last, at a version it can have. Returns the versions.
    fn check_table(&self, database: &Database) -> BTreeMap<String, u64> {
        let rows = database.query(
            "SELECT order_uid || ' ' || version || ' ' || state || ' ' || convert_from(body, 'UTF8') FROM orders",
        );
        let mut versions = BTreeMap::new();
        let mut bodies = BTreeMap::new();
        for row in rows {
            let mut parts = row.splitn(4, ' ');
            let mut part = || parts.next().unwrap().to_owned();
            let (id, version, state, body) = (part(), part(), part(), part());
            assert_eq!(state, "0", "{id} is not live");
            assert!(versions.insert(id.clone(), version.parse().unwrap()).is_none(), "{id} is stored twice");
            bodies.insert(id, body);
        }
        for (n, order) in &self.orders {
            let id = id(*n);
            let body = bodies.remove(&id).unwrap_or_else(|| panic!("{id} is not stored"));
            assert_eq!(body.as_bytes(), order.body, "the last body of {id} is {}", tail(&order.body));
            let version = versions[&id];
            assert!((1..=order.versions).contains(&version), "{id} is at version {version} of {}", order.versions);
        }
        assert!(bodies.is_empty(), "stored and never sent: {bodies:?}");
        versions
    }

    /// Every order is answered as it was sent last, at the version the table has; and there are no others.
    pub fn check_view(&self, server: &Server, versions: Option<&BTreeMap<String, u64>>) {
        assert_eq!(self.missing_now(server), None);
        let mut connection = server.connect();
        for (n, order) in &self.orders {
            let id = id(*n);
            // What another instance stored is here a moment later.
            let reply = until("the newest copy is in the view", RECOVERY, || {
                let reply = connection.get(&format!("/order/{id}"));
                let etag = versions.map(|versions| format!("\"{}\"", versions[&id]));
                let is_newest = etag.is_none_or(|etag| reply.header("ETag") == Some(&etag));
                (is_newest && reply.status == 200 && reply.body == order.body).then_some(reply)
            });
            let version: u64 = reply.header("ETag").unwrap().trim_matches('"').parse().unwrap();
            assert!((1..=order.versions).contains(&version), "{id} is at version {version} of {}", order.versions);
        }
    }

    fn missing_now(&self, server: &Server) -> Option<String> {
        let live = metric(server, "view_orders").into_values().sum::<u64>();
        let total = server.get("/api/stats").json()["total_orders"].as_u64();
        let expected = self.orders();
        (live != expected || total != Some(expected)).then(|| format!("{live} in the view, {total:?} of {expected}"))
    }

    /// Every invalid message is among the dead letters as it was sent, and nothing else is: once, or at least once.
    pub fn check_letters<C: Channel>(&self, channel: &C, is_exact: bool) {
        let mut found: BTreeMap<Place, u64> = BTreeMap::new();
        for letter in channel.letters() {
            let origin = letter.origin();
            let sent = self.invalid.get(&origin).unwrap_or_else(|| panic!("{origin:?} is valid: {letter:?}"));
            let key = sent.key.as_ref().filter(|_| C::HAS_KEYS);
            assert_eq!((letter.key.as_ref(), &letter.value), (key, &sent.value), "of {origin:?}");
            assert_eq!(letter.header("__connect.errors.topic"), channel.name(), "of {origin:?}");
            assert!(!letter.header("__connect.errors.exception.message").is_empty(), "of {origin:?}");
            *found.entry(origin).or_default() += 1;
        }
        let lost: Vec<_> = self.invalid.keys().filter(|place| !found.contains_key(place)).collect();
        assert!(lost.is_empty(), "lost: {lost:?}");
        let again: Vec<_> = found.iter().filter(|(_, count)| **count > 1).collect();
        assert!(!is_exact || again.is_empty(), "more than once: {again:?}");
    }
}

/// The id of the `n`-th order.
pub fn id(n: u64) -> String {
    sample::wb_id(SEED, FIRST + n)
}

fn tail(body: &[u8]) -> String {
    String::from_utf8_lossy(&body[body.len().saturating_sub(20)..]).into_owned()
}

/// The positions that are stored for a channel.
pub fn positions<C: Channel>(database: &Database, channel: &C) -> BTreeMap<u32, u64> {
    let sql = format!("SELECT partition || ' ' || next_offset FROM positions WHERE source = '{}'", channel.source());
    let pair = |row: String| {
        let (partition, next) = row.split_once(' ').unwrap();
        (partition.parse().unwrap(), next.parse().unwrap())
    };
    database.query(&sql).into_iter().map(pair).collect()
}

/// Waits until the stored positions are these at least.
fn wait_stored<C: Channel>(ends: &BTreeMap<u32, u64>, database: &Database, channel: &C) {
    let end = Instant::now() + RECOVERY;
    loop {
        let stored = positions(database, channel);
        if ends.iter().all(|(partition, end)| stored.get(partition).copied().unwrap_or(0) >= *end) {
            return;
        }
        assert!(Instant::now() < end, "after {RECOVERY:?} {stored:?} are stored of {ends:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Whether there were batches that were written beside the one before them.
pub fn has_overlapped(server: &Server) -> bool {
    metric(server, "order_batches_overlapped_total")[""] > 0
}

/// The values of a metric, by its labels.
pub fn metric(server: &Server, name: &str) -> BTreeMap<String, u64> {
    figures(server, name).into_iter().map(|(labels, value)| (labels, value.parse().unwrap())).collect()
}

/// As [`metric`], for those that are no whole numbers.
pub fn figures(server: &Server, name: &str) -> BTreeMap<String, String> {
    let reply = server.get("/metrics").expect(200);
    let line = |line: &str| {
        let (name_and_labels, value) = line.rsplit_once(' ')?;
        let labels = name_and_labels.strip_prefix(name)?;
        let is_it = labels.is_empty() || labels.starts_with('{');
        is_it.then(|| (labels.to_owned(), value.to_owned()))
    };
    reply.text().lines().filter(|line| !line.starts_with('#')).filter_map(line).collect()
}

/// Waits for a line of the log.
pub fn logged(server: &Server, is_it: impl Fn(&serde_json::Value) -> bool) -> serde_json::Value {
    until("the line is logged", RECOVERY, || {
        let events = server.log().into_iter().filter_map(|line| serde_json::from_str(&line).ok());
        events.into_iter().find(|event| is_it(event))
    })
}

/// The ledger of a source of a service that has ended.
fn ledger(server: &Server, source: &str) -> Ledger {
    let ended = logged(server, |event| event["message"] == "intake ended" && event["source"] == source);
    let ended = ended["ledger"].as_str().unwrap();
    let columns = ended.split_once('{').unwrap().1.trim_end_matches([' ', '}']).split(", ");
    columns
        .map(|column| {
            let (name, count) = column.split_once(": ").unwrap();
            (name.trim().to_owned(), count.trim().parse().unwrap())
        })
        .collect()
}

/// Stops a service in order and checks that the books of a source balance.
pub fn stop(server: &mut Server, source: &str) -> Ledger {
    let status = server.stop();
    assert!(status.success(), "stopped with {status}");
    let ledger = ledger(server, source);
    let sum: u64 = ["stored", "unchanged", "coalesced", "rejected"].iter().map(|column| ledger[*column]).sum();
    assert_eq!(ledger["read"], sum, "the books do not balance: {ledger:?}");
    assert_eq!(ledger["refused"], 0, "no sender waits to be told: {ledger:?}");
    ledger
}

/// Sends all the time, in a thread of its own, until it is stopped.
pub struct Steady {
    is_over: Arc<AtomicBool>,
    sent: Arc<Mutex<Sent>>,
    progress: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

/// What is sent, and how fast.
#[derive(Clone, Copy)]
pub struct Pace {
    /// Ids, which are taken in turn.
    pub ids: u64,
    /// Messages a second.
    pub rate: u64,
    /// Of ten messages, so many are rubbish.
    pub rubbish: u64,
    /// Messages sent together, a multiple of ten. Where they are many, there are batches without rubbish, and those are
    /// written beside each other.
    pub burst: u64,
}

impl Default for Pace {
    fn default() -> Self {
        // A slow machine stores as many in batches of 16.
        Self { ids: 500, rate: 300, rubbish: 1, burst: 100 }
    }
}

impl Steady {
    /// Begins to send.
    pub fn start<C: Channel>(channel: &C, pace: Pace) -> Self {
        let (is_over, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Sent::default())));
        let progress = Arc::new(AtomicU64::new(0));
        let sender = channel.sender();
        let (end, books, count) = (Arc::clone(&is_over), Arc::clone(&sent), Arc::clone(&progress));
        let thread = std::thread::spawn(move || {
            let mut next = 0;
            let rubbish = pace.burst / 10 * pace.rubbish;
            let orders = pace.burst - rubbish;
            while !end.load(Ordering::Acquire) {
                let mut sent = books.lock().unwrap();
                sent.send(&sender, (next..next + orders).map(|n| n % pace.ids));
                if rubbish > 0 {
                    sent.send_rubbish(&sender, rubbish);
                }
                drop(sent);
                next += orders;
                count.fetch_add(pace.burst, Ordering::AcqRel);
                // The pace; nothing waits for this.
                std::thread::sleep(Duration::from_secs(pace.burst) / pace.rate as u32);
            }
        });
        Self { is_over, sent, progress, thread: Some(thread) }
    }

    /// Messages sent so far.
    pub fn count(&self) -> u64 {
        self.progress.load(Ordering::Acquire)
    }

    /// Waits until so many more are sent.
    pub fn wait_more(&self, count: u64) {
        let target = self.count() + count;
        until("more is sent", RECOVERY, || (self.count() >= target).then_some(()));
    }

    /// Waits until so many more are sent, and then for all that was sent until then to be stored.
    pub fn wait_stored<C: Channel>(&self, count: u64, database: &Database, channel: &C) {
        self.wait_more(count);
        wait_stored(&channel.ends(), database, channel);
    }

    /// Stops, and says what was sent.
    pub fn stop(mut self) -> Sent {
        self.end();
        std::mem::take(&mut *self.sent.lock().unwrap())
    }

    fn end(&mut self) {
        self.is_over.store(true, Ordering::Release);
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
    }
}

impl Drop for Steady {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Release);
    }
}
