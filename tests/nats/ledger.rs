//! What was sent against what came of it: table, view, dead letters, the durable and the service's own books.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use order_service::order::sample;

use super::RECOVERY;
use super::subject::{Sender, Subject};
use crate::database::Database;
use crate::server::{Server, until};

/// Orders in the books differ by their seed from those of other sources.
const SEED: u64 = 21;
const FIRST: u64 = 100;

/// Everything that was sent.
#[derive(Debug, Default)]
pub struct Sent {
    /// How many bodies each order has had, and the last of them.
    orders: BTreeMap<u64, (u64, Vec<u8>)>,
    invalid: BTreeMap<u64, Vec<u8>>,
    /// Valid orders and invalid messages.
    pub count: u64,
}

/// The id of the `n`-th order.
pub fn id(n: u64) -> String {
    sample::wb_id(SEED, FIRST + n)
}

impl Sent {
    /// The next body of the `n`-th order.
    pub fn order(&mut self, n: u64) -> Vec<u8> {
        let (versions, body) = self.orders.entry(n).or_default();
        *versions += 1;
        body.clear();
        sample::wb(SEED, FIRST + n, body);
        body.pop();
        body.extend(format!(r#","counter":{versions}}}"#).bytes());
        self.count += 1;
        body.clone()
    }

    /// Sends the next bodies of these orders.
    pub fn send(&mut self, sender: &Sender, orders: impl IntoIterator<Item = u64>) -> Vec<u64> {
        let values: Vec<_> = orders.into_iter().map(|n| self.order(n)).collect();
        sender.send(&values)
    }

    /// Sends something that is no order.
    pub fn send_rubbish(&mut self, sender: &Sender, count: u64) -> Vec<u64> {
        let rubbish = |n: u64| {
            let mut value = Vec::new();
            sample::invalid(SEED, n, &mut value);
            value
        };
        let values: Vec<_> = (0..count).map(|n| rubbish(self.count + n)).collect();
        self.count += count;
        let places = sender.send(&values);
        self.invalid.extend(places.iter().copied().zip(values));
        places
    }

    /// How many orders must be there.
    pub fn orders(&self) -> u64 {
        self.orders.len() as u64
    }

    /// Waits until a server shows as many orders as there are.
    pub fn wait_seen(&self, server: &Server) {
        let end = Instant::now() + RECOVERY;
        loop {
            let total = server.get("/api/stats").json()["total_orders"].as_u64();
            if total == Some(self.orders()) {
                return;
            }
            assert!(Instant::now() < end, "{total:?} orders instead of {}", self.orders());
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Every order is answered as it was sent last, and there are no others. Waits for that.
    pub fn check_view(&self, server: &Server) {
        self.wait_seen(server);
        let mut connection = server.connect();
        for (n, (versions, body)) in &self.orders {
            let reply = until("the newest copy is in the view", RECOVERY, || {
                let reply = connection.get(&format!("/order/{}", id(*n)));
                (reply.status == 200 && reply.body == *body).then_some(reply)
            });
            let version: u64 = reply.header("ETag").unwrap().trim_matches('"').parse().unwrap();
            assert!((1..=*versions).contains(&version), "{} is at version {version} of {versions}", id(*n));
        }
    }

    /// Every invalid message is in the dead letter stream as it was sent and once, and nothing else is.
    pub fn check_letters(&self, subject: &Subject) {
        let mut found: BTreeMap<u64, u64> = BTreeMap::new();
        let end = Instant::now() + RECOVERY;
        let letters = loop {
            let letters = subject.letters();
            if letters.len() >= self.invalid.len() || Instant::now() > end {
                break letters;
            }
            std::thread::sleep(Duration::from_millis(20));
        };
        for letter in letters {
            let (_, sequence) = letter.origin();
            let sent = self.invalid.get(&sequence).unwrap_or_else(|| panic!("{sequence} is valid: {letter:?}"));
            assert_eq!(&letter.value, sent, "of {sequence}");
            assert_eq!(letter.header("__connect.errors.topic"), subject.name);
            assert!(!letter.header("__connect.errors.exception.message").is_empty());
            *found.entry(sequence).or_default() += 1;
        }
        let lost: Vec<_> = self.invalid.keys().filter(|sequence| !found.contains_key(sequence)).collect();
        assert!(lost.is_empty(), "lost: {lost:?}");
        let again: Vec<_> = found.iter().filter(|(_, count)| **count > 1).collect();
        assert!(again.is_empty(), "more than once: {again:?}");
    }

    /// Waits until the stored position is the end of the stream, then holds everything against everything else.
    pub fn check(&self, servers: &[&Server], database: &Database, subject: &Subject) {
        let (stream, end) = subject.end();
        let limit = Instant::now() + RECOVERY;
        loop {
            let stored = position(database, subject, stream);
            if stored == Some(end + 1) {
                break;
            }
            assert!(Instant::now() < limit, "{stored:?} is stored of {end} messages");
            std::thread::sleep(Duration::from_millis(20));
        }
        let rows = database.query("SELECT order_uid || ' ' || state || ' ' || convert_from(body, 'UTF8') FROM orders");
        let mut bodies = BTreeMap::new();
        for row in rows {
            let mut parts = row.splitn(3, ' ').map(str::to_owned);
            let (id, state, body) = (parts.next().unwrap(), parts.next().unwrap(), parts.next().unwrap());
            assert_eq!(state, "0", "{id} is not live");
            assert!(bodies.insert(id.clone(), body).is_none(), "{id} is stored twice");
        }
        for (n, (_, body)) in &self.orders {
            let stored = bodies.remove(&id(*n)).unwrap_or_else(|| panic!("{} is not stored", id(*n)));
            assert_eq!(stored.as_bytes(), body, "the last body of {}", id(*n));
        }
        assert!(bodies.is_empty(), "stored and never sent: {:?}", bodies.keys());
        for server in servers {
            self.check_view(server);
        }
        self.check_letters(subject);
    }
}

/// The position that is stored for a stream.
pub fn position(database: &Database, subject: &Subject, stream: u32) -> Option<u64> {
    let Subject { stream: name, durable, .. } = subject;
    let sql =
        format!("SELECT next_offset FROM positions WHERE source = 'nats:{name}:{durable}' AND partition = {stream}");
    database.query(&sql).first().map(|next| next.parse().unwrap())
}

/// A counter or gauge without labels.
pub fn figure(server: &Server, name: &str) -> u64 {
    let reply = server.get("/metrics").expect(200);
    let line = reply.text().lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' ').map(str::to_owned));
    line.unwrap_or_else(|| panic!("no {name}")).parse().unwrap()
}

/// Stops a service in order and checks that its books balance. Returns them.
pub fn stop(server: &mut Server) -> BTreeMap<String, u64> {
    let status = server.stop();
    assert!(status.success(), "stopped with {status}");
    let ended = until("its books are logged", RECOVERY, || {
        let mut lines = server.log().into_iter().filter_map(|line| serde_json::from_str(&line).ok());
        let is_it = |event: &serde_json::Value| event["message"] == "intake ended" && event["source"] == "nats";
        lines.rfind(is_it)
    });
    let columns = ended["ledger"].as_str().unwrap().split_once('{').unwrap().1.trim_end_matches([' ', '}']).split(", ");
    let ledger: BTreeMap<String, u64> = columns
        .map(|column| {
            let (name, count) = column.split_once(": ").unwrap();
            (name.trim().to_owned(), count.trim().parse().unwrap())
        })
        .collect();
    let sum: u64 = ["stored", "unchanged", "coalesced", "rejected"].iter().map(|column| ledger[*column]).sum();
    assert_eq!(ledger["read"], sum, "the books do not balance: {ledger:?}");
    ledger
}

/// Sends all the time, in a thread of its own, until it is stopped. One message of ten is rubbish, and they come
/// together: between them are batches that are written beside each other.
pub struct Steady {
    is_over: Arc<AtomicBool>,
    sent: Arc<Mutex<Sent>>,
    progress: Arc<AtomicU64>,
    thread: Option<JoinHandle<()>>,
}

impl Steady {
    /// Begins to send, at most so many messages a second.
    pub fn start(subject: &Subject, rate: u64) -> Self {
        let (is_over, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Sent::default())));
        let progress = Arc::new(AtomicU64::new(0));
        let sender = subject.sender();
        let (end, books, count) = (Arc::clone(&is_over), Arc::clone(&sent), Arc::clone(&progress));
        let thread = std::thread::spawn(move || {
            let mut next = 0;
            while !end.load(Ordering::Acquire) {
                let mut sent = books.lock().unwrap();
                sent.send(&sender, (next..next + 90).map(|n| n % 500));
                sent.send_rubbish(&sender, 10);
                drop(sent);
                next += 90;
                count.fetch_add(100, Ordering::AcqRel);
                // The pace; nothing waits for this.
                std::thread::sleep(Duration::from_secs(100) / rate as u32);
            }
        });
        Self { is_over, sent, progress, thread: Some(thread) }
    }

    /// Waits until so many more are sent.
    pub fn wait_more(&self, count: u64) {
        let target = self.progress.load(Ordering::Acquire) + count;
        until("more is sent", RECOVERY, || (self.progress.load(Ordering::Acquire) >= target).then_some(()));
    }

    /// Stops, and says what was sent.
    pub fn stop(mut self) -> Sent {
        self.is_over.store(true, Ordering::Release);
        self.thread.take().unwrap().join().unwrap();
        std::mem::take(&mut *self.sent.lock().unwrap())
    }
}

impl Drop for Steady {
    fn drop(&mut self) {
        self.is_over.store(true, Ordering::Release);
    }
}
