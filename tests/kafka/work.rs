//! What comes of writes: events, workers, acknowledgements, and other instances that see them. Faults included.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::net::UnixStream;
use std::process::{Child, Stdio};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tempfile::TempDir;

use super::topic::Topic;
use crate::broker::{Channel, Letter, Message, RECOVERY, Sender as _, in_turn};
use crate::database::Database;
use crate::server::{Connection, Reply, Server, binary, families, until};
use crate::servers::Private;

const USER: &str = "0190163d-8694-739b-aea5-966c26f8ad91";

/// Topics, a group and a database that instances and workers share.
struct Flow {
    topic: Topic,
    database: Database,
    names: Names,
}

/// Made once, so that flags can borrow them.
struct Names {
    events: String,
    ack: String,
    snapshots: String,
    group: String,
    url: String,
}

impl Flow {
    fn new() -> Option<Self> {
        let (topic, database) = (Topic::create(3)?, Database::create()?);
        let name = |suffix: &str| format!("{}.{suffix}", topic.name);
        let names = Names {
            events: name("events"),
            ack: name("ack"),
            snapshots: name("snapshots"),
            group: name("workers"),
            url: database.url(),
        };
        for topic_name in [&names.events, &names.ack, &names.snapshots] {
            topic.make_topic(topic_name, 3, &[]);
        }
        Some(Self { topic, database, names })
    }

    /// Everything is published, whether another instance is there or not.
    fn environment(&self) -> [(&str, &str); 5] {
        let Names { events, ack, snapshots, group, .. } = &self.names;
        [
            ("ORDERS_EVENTS_TOPIC", events),
            ("ORDERS_ACK_TOPIC", ack),
            ("ORDERS_SNAPSHOTS_TOPIC", snapshots),
            ("WORKER_GROUP", group),
            ("KAFKA_SNAPSHOTS", "on"),
        ]
    }

    fn flags<'a>(&'a self, more: &[&'a str]) -> Vec<&'a str> {
        self.topic.flags_with(&[&["--postgres", &self.names.url], more].concat())
    }

    /// An instance that finds out by itself whether there are workers. Its writes wait for them for as long as a busy
    /// machine may take, unless a test is about what comes after the wait.
    fn start(&self, more: &[&str]) -> Server {
        const PATIENT: &[&str] = &["--http-worker-wait", "50s"];
        let wait = if more.contains(&PATIENT[0]) { &[] } else { PATIENT };
        let flags = self.flags(&[&["--kafka-workers", "auto"], more, wait].concat());
        let server = Server::start_in(&flags, &self.environment());
        server.wait_ready();
        server
    }

    fn work(&self) -> Worker {
        self.work_with(&[])
    }

    fn work_with(&self, more: &[&str]) -> Worker {
        let more = more.iter().map(|&flag| flag.to_owned()).collect();
        let mut worker = Worker { home: tempfile::tempdir().unwrap(), child: None, more, log: Arc::default() };
        worker.start(self);
        worker
    }

    fn read(&self, topic: &str) -> Vec<Letter> {
        self.topic.read(topic)
    }

    /// Waits until writes wait for workers.
    fn wait_joined(servers: &[&Server]) {
        for server in servers {
            until("writes wait for the workers", RECOVERY, || {
                let log = server.log();
                log.iter().any(|line| line.contains("writes wait for the workers")).then_some(())
            });
        }
    }

    /// Waits until nothing is left to publish.
    fn wait_published(&self) {
        until("the outbox is empty", RECOVERY, || {
            (self.database.query("SELECT count(*) FROM outbox") == ["0"]).then_some(())
        });
    }
}

/// A worker process.
struct Worker {
    home: TempDir,
    child: Option<Child>,
    more: Vec<String>,
    log: Arc<Mutex<Vec<String>>>,
}

impl Worker {
    fn start(&mut self, flow: &Flow) {
        let mut child = binary(self.home.path())
            .args(["worker", "--log", "json"])
            .args(flow.flags(&["--kafka-session-timeout", "6s"]))
            .args(&self.more)
            .envs(flow.environment())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let stderr = BufReader::new(child.stderr.take().unwrap());
        let log = Arc::clone(&self.log);
        std::thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                log.lock().unwrap().push(line);
            }
        });
        self.child = Some(child);
    }

    fn signal(&self, signal: Signal) {
        let id = self.child.as_ref().unwrap().id();
        kill_process(Pid::from_raw(i32::try_from(id).unwrap()).unwrap(), signal).unwrap();
    }

    fn kill(&mut self) {
        let mut child = self.child.take().unwrap();
        child.kill().unwrap();
        child.wait().unwrap();
    }

    fn stop(&mut self) {
        self.signal(Signal::TERM);
        let status = self.child.take().unwrap().wait().unwrap();
        assert!(status.success(), "{status}: {:?}", self.log.lock().unwrap());
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("the worker's log lines:\n{}", self.log.lock().unwrap().join("\n"));
        }
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn order(price: u64) -> String {
    json!({"user_id": USER, "payload": {"id": format!("p{price}"), "items": [{"price": price, "qty": 2}]}}).to_string()
}

fn id_of(reply: &Reply) -> String {
    reply.json()["order_id"].as_str().unwrap().to_owned()
}

fn etag(reply: &Reply) -> u64 {
    reply.header("ETag").unwrap().trim_matches('"').parse().unwrap()
}

fn value(letter: &Letter) -> Value {
    serde_json::from_slice(letter.value.as_deref().unwrap()).unwrap()
}

#[test]
fn a_write_is_answered_once_a_worker_has_processed_it() {
    let Some(flow) = Flow::new() else { return };
    let mut worker = flow.work();
    let mut server = flow.start(&[]);
    Flow::wait_joined(&[&server]);
    let created = server.post("/orders", order(7)).expect(201);
    let id = id_of(&created);
    assert_eq!(created.json(), json!({"order_id": id, "status": "created"}));
    // A client that was answered reads what the worker made of it.
    let read = server.get(&format!("/order/{id}")).expect(200);
    assert_eq!((&read.json()["status"], &read.json()["amount"]), (&json!("done"), &json!(14)));
    assert_eq!((etag(&created), etag(&read)), (2, 2));
    let update = json!({"order_id": id, "user_id": USER, "status": "processing", "payload": {"amount": 3}}).to_string();
    let updated = server.post("/orders", &update).expect(200);
    assert_eq!((updated.json()["status"].clone(), etag(&updated)), (json!("updated"), 4));
    let read = server.get(&format!("/order/{id}")).expect(200).json();
    assert_eq!((&read["status"], &read["amount"]), (&json!("done"), &json!(3)));
    let delete = json!({"order_id": id, "user_id": USER, "status": "deleted"}).to_string();
    let deleted = server.post("/orders", &delete).expect(200);
    assert_eq!((deleted.json()["status"].clone(), etag(&deleted)), (json!("deleted"), 5));
    server.post("/orders", &update).expect(409);
    // What is called off stays so.
    let cancelled = json!({"user_id": USER, "status": "cancelled", "payload": {}}).to_string();
    let cancelled = server.post("/orders", cancelled).expect(201);
    assert_eq!(server.get(&format!("/order/{}", id_of(&cancelled))).json()["status"], "cancelled");
    flow.wait_published();

    let events = flow.read(&flow.names.events);
    let first = events.iter().find(|event| event.header("change") == "created" && event.key() == id).unwrap();
    let timestamp = value(first)["timestamp"].clone();
    let expected = json!({
        "order_id": id, "external_id": "p7", "user_id": USER, "status": "new", "timestamp": timestamp,
        "payload": {"id": "p7", "items": [{"price": 7, "qty": 2}]},
    });
    assert_eq!(value(first), expected);
    let of = |letters: &[Letter]| letters.iter().filter(|letter| letter.key() == id).count();
    assert_eq!(of(&events), 3, "one event a write");
    let acks = flow.read(&flow.names.ack);
    let words: Vec<_> = acks.iter().filter(|ack| ack.key() == id).map(|ack| value(ack)["status"].clone()).collect();
    assert_eq!(words, ["created", "updated", "deleted"]);
    assert_eq!(value(&acks[0]).as_object().unwrap().keys().collect::<Vec<_>>(), ["order_id", "status", "processed_at"]);
    let snapshots = flow.read(&flow.names.snapshots);
    let versions: Vec<_> =
        snapshots.iter().filter(|one| one.key() == id).map(|one| one.header("version").to_owned()).collect();
    let mut sorted = versions.clone();
    sorted.sort_unstable();
    sorted.dedup();
    assert_eq!(sorted, ["1", "2", "3", "4", "5"], "{versions:?}");
    assert!(snapshots.iter().all(|snapshot| snapshot.header("kind") == "envelope"));
    let last = snapshots.iter().rfind(|one| one.key() == id && one.header("version") == "5").unwrap();
    assert_eq!(last.value.as_deref().unwrap(), server.get(&format!("/order/{id}")).body);
    worker.stop();
    assert!(server.stop().success());
}

#[test]
fn what_a_worker_said_of_an_order_can_be_read_in_redis() {
    let Some(redis) = crate::servers::redis() else { return };
    let Some(flow) = Flow::new() else { return };
    let mut worker = flow.work_with(&["--redis", &redis]);
    let server = flow.start(&[]);
    Flow::wait_joined(&[&server]);
    let ask = |command: &str, key: &str| -> Option<String> {
        let client = redis_client::Client::open(format!("redis://{redis}")).unwrap();
        redis_client::cmd(command).arg(key).query(&mut client.get_connection().unwrap()).unwrap()
    };
    let id = id_of(&server.post("/orders", order(7)).expect(201));
    let key = format!("order_result:{id}");
    let result = until("the result is written", RECOVERY, || ask("GET", &key));
    let acks = flow.read(&flow.names.ack);
    let mut result: Value = serde_json::from_str(&result).unwrap();
    let ack = value(acks.iter().find(|ack| ack.key() == id).unwrap());
    // What the older API reads there beside the acknowledgement: the order after the work.
    let read = server.get(&format!("/order/{id}")).expect(200).json();
    let members = result.as_object_mut().unwrap();
    for (name, said) in ack.as_object().unwrap() {
        assert_eq!(members.remove(name).as_ref(), Some(said), "{name}");
    }
    let expected = json!({
        "order_status": "done", "user_id": USER, "external_id": "p7", "amount": 14, "payload": read["payload"],
        "created_at": read["created_at"], "updated_at": read["updated_at"],
    });
    assert_eq!(result, expected);
    let left: u64 = ask("TTL", &key).unwrap().parse().unwrap();
    assert!((540..=600).contains(&left), "{left}");
    // The order as it is after the work, by the worker itself. On a busy machine some come too late to be trusted, and
    // are left out.
    let mut ids = vec![id];
    let (id, processed) = until("an order is written", RECOVERY, || {
        ids.push(id_of(&server.post("/orders", order(9)).expect(201)));
        ids.iter().find_map(|id| Some((id.clone(), ask("GET", &format!("order:{id}"))?)))
    });
    assert_eq!(processed, server.get(&format!("/order/{id}")).expect(200).text());
    // What it acknowledges last is written before it ends.
    let last = id_of(&server.post("/orders", order(8)).expect(201));
    worker.stop();
    assert_eq!(ask("EXISTS", &format!("order_result:{last}")).as_deref(), Some("1"));
}

/// A worker of the older services reads events, keeps what it made of them to itself, and says
/// `{order_id, status, processed_at}` without any header.
#[test]
fn an_acknowledgement_of_an_older_worker_marks_the_order_as_done() {
    let Some(flow) = Flow::new() else { return };
    let flags = ["--kafka-workers", "on", "--http-worker-wait", "50s"];
    let start = || {
        let server = Server::start_in(&flow.flags(&flags), &flow.environment());
        server.wait_ready();
        server
    };
    let servers = [start(), start()];
    Flow::wait_joined(&[&servers[0], &servers[1]]);
    let acks = flow.topic.sender_to(&flow.names.ack);
    let said = |id: &str, status: &str| {
        let ack = json!({"order_id": id, "status": status, "processed_at": "2025-11-21T03:55:06.123Z"}).to_string();
        acks.send(&[Message::new(ack).key(id)]);
    };
    let event_of = |is_it: &dyn Fn(&Value) -> bool| {
        until("the event is there", RECOVERY, || {
            flow.read(&flow.names.events).iter().map(value).find(|event| is_it(event))
        })
    };
    // The instance whose client waits marks at once, and the other one after two seconds. Where the machine is slower than
    // that the other one has marked it, and the answer knows of no mark.
    let mut price = 6;
    let created = until("the answer knows of the mark", RECOVERY, || {
        price += 1;
        let external = format!("p{price}");
        let created = std::thread::scope(|scope| {
            let asked = scope.spawn(|| servers[0].post("/orders", order(price)));
            let event = event_of(&|event| event["external_id"] == external.as_str());
            said(event["order_id"].as_str().unwrap(), "created");
            asked.join().unwrap().expect(201)
        });
        (etag(&created) == 2).then_some(created)
    });
    let id = id_of(&created);
    for server in &servers {
        let read = server.connect().get_in_time(&format!("/order/{id}"), &[("X-Min-Version", "2")]).expect(200);
        assert_eq!((&read.json()["status"], &read.json()["amount"]), (&json!("done"), &json!(2 * price)));
        assert_eq!(etag(&read), 2, "one of them has marked it");
    }
    // Said again, and of what is called off or deleted, it changes nothing.
    let cancelled = json!({"user_id": USER, "status": "cancelled", "payload": {"id": "off"}}).to_string();
    let cancelled = std::thread::scope(|scope| {
        let asked = scope.spawn(|| servers[1].post("/orders", cancelled));
        let event = event_of(&|event| event["external_id"] == "off");
        said(event["order_id"].as_str().unwrap(), "created");
        id_of(&asked.join().unwrap().expect(201))
    });
    said(&id, "updated");
    // Acknowledgements of a partition are heard in their order, so this one after it. It is one that no client waits for.
    let at_once = [("Content-Type", "application/json"), ("Prefer", "respond-async")];
    let later = id_of(&servers[0].request("POST", "/orders", &at_once, order(5)).expect(202));
    let ack = json!({"order_id": later, "status": "created", "processed_at": "2025-11-21T03:55:06.123Z"}).to_string();
    acks.send(&[Message::new(ack).key(id.clone())]);
    for server in &servers {
        until("a later one is marked", RECOVERY, || {
            (server.get(&format!("/order/{later}")).json()["status"] == "done").then_some(())
        });
    }
    flow.wait_published();
    let read = servers[0].get(&format!("/order/{cancelled}")).expect(200);
    assert_eq!((&read.json()["status"], etag(&read)), (&json!("cancelled"), 1));
    assert_eq!(etag(&servers[1].get(&format!("/order/{id}"))), 2);
    let events = flow.read(&flow.names.events);
    assert_eq!(events.iter().filter(|event| event.key() == id).count(), 1, "a mark is no work for a worker");
}

#[test]
fn a_call_waits_for_a_worker_as_long_as_its_client_does() {
    use crate::grpc::{Orders, new_order, version};
    let Some(flow) = Flow::new() else { return };
    let worker = flow.work();
    let orders = Orders::of(flow.start(&["--grpc", "127.0.0.1:0"]));
    Flow::wait_joined(&[&orders.server]);
    let created = orders.upsert(new_order(r#"{"amount":3}"#)).unwrap();
    assert_eq!((version(&created).as_str(), created.get_ref().status.as_str()), ("2", "created"));
    assert_eq!(orders.get(&created.get_ref().order_id).unwrap().status, "done", "read right after the answer");
    // The worker is unavailable: the client's deadline is the shorter one, and the order is stored all the same.
    worker.signal(Signal::STOP);
    // The service keeps a tenth of the deadline for the way of its answer, which may take longer on a slow machine.
    let created = until("the answer comes before the client gives up", RECOVERY, || {
        let mut request = tonic::Request::new(new_order("{}"));
        request.set_timeout(Duration::from_secs(10));
        let asked = Instant::now();
        let created = orders.upsert(request).ok()?;
        assert!(asked.elapsed() > Duration::from_secs(1), "it waited for {:?}", asked.elapsed());
        Some(created)
    });
    assert_eq!((version(&created).as_str(), created.get_ref().status.as_str()), ("1", "created"));
    assert_eq!(orders.get(&created.get_ref().order_id).unwrap().status, "new");
}

#[test]
fn without_a_worker_writes_are_answered_at_once_and_processed_by_the_first_that_comes() {
    let Some(flow) = Flow::new() else { return };
    let server = flow.start(&[]);
    let created = server.post("/orders", order(1)).expect(201);
    assert_eq!((created.header("Location").is_some(), etag(&created)), (true, 1));
    let path = format!("/order/{}", id_of(&created));
    assert_eq!(server.get(&path).json()["status"], "new");
    let _worker = flow.work();
    until("it is processed", RECOVERY, || (server.get(&path).json()["status"] == "done").then_some(()));
}

#[test]
fn a_worker_that_is_away_costs_a_wait_and_no_order() {
    let Some(flow) = Flow::new() else { return };
    let mut worker = flow.work();
    let wait = Duration::from_secs(5);
    let server = flow.start(&["--http-worker-wait", "5s"]);
    Flow::wait_joined(&[&server]);
    let mut stored = 0;
    until("a worker processes one within the wait", RECOVERY, || {
        stored += 1;
        let reply = server.post("/orders", order(1));
        assert!(matches!(reply.status, 201 | 202), "{}", reply.text());
        (reply.status == 201).then_some(())
    });
    worker.signal(Signal::STOP);
    let asked = Instant::now();
    let accepted = server.post("/orders", order(2)).expect(202);
    assert!(asked.elapsed() >= wait);
    let id = id_of(&accepted);
    assert_eq!(accepted.json(), json!({"order_id": id, "status": "created"}));
    assert_eq!(accepted.header("Location"), Some(&*format!("/orders/{id}")));
    assert_eq!(accepted.header("Preference-Applied"), None);
    server.get(&format!("/orders/{id}")).expect(200);
    let mut prefer = |prefer: &str| {
        stored += 1;
        let headers = [("Content-Type", "application/json"), ("Prefer", prefer)];
        let asked = Instant::now();
        let reply = server.request("POST", "/orders", &headers, order(3)).expect(202);
        (asked.elapsed(), reply)
    };
    // Without the wait none takes as long, if the machine does not hold each of them up for so long.
    let mut quick = (0..5).map(|_| prefer("respond-async"));
    let (_, reply) = quick.find(|(took, _)| *took < wait).expect("an answer before the wait is over");
    assert_eq!(reply.header("Preference-Applied"), Some("respond-async"));
    let (_, reply) = prefer("wait=0");
    assert_eq!(reply.header("Preference-Applied"), Some("wait=0"));
    // The service's own limit holds: the client waits for no answer that long.
    let (_, reply) = prefer("wait=1000, foo");
    assert_eq!(reply.header("Preference-Applied"), None);
    worker.kill();
    worker.start(&flow);
    until("all are processed", RECOVERY, || {
        (flow.database.query("SELECT count(*) FROM orders WHERE status <> 'done'") == ["0"]).then_some(())
    });
    assert_eq!(flow.database.query("SELECT count(*) FROM orders"), [(stored + 1).to_string()]);
}

#[test]
fn events_of_others_are_processed_and_nothing_older_replaces_anything_newer() {
    let Some(flow) = Flow::new() else { return };
    let _worker = flow.work();
    let server = flow.start(&[]);
    Flow::wait_joined(&[&server]);
    let sender = flow.topic.sender_to(&flow.names.events);
    let event = |id: &str, amount: u64, status: &str| {
        json!({"order_id": id, "external_id": null, "user_id": USER, "payload": {"amount": amount},
               "status": status, "timestamp": "2026-01-01T00:00:00Z"})
        .to_string()
    };
    let id = "0190163d-0000-739b-aea5-966c26f8ad91";
    sender.send(&[Message::new(event(id, 5, "new")).key(id)]);
    let path = format!("/order/{id}");
    until("an unknown order is created", RECOVERY, || (server.get(&path).status == 200).then_some(()));
    assert_eq!(server.get(&path).json()["status"], "done");
    // An event that was made from an older version than is stored.
    let update = json!({"order_id": id, "user_id": USER, "payload": {"amount": 6}}).to_string();
    let updated = server.post("/orders", update).expect(200);
    assert!(etag(&updated) >= 2);
    let version = ("version".to_owned(), Some(b"1".to_vec()));
    sender.send(&[Message { headers: vec![version], ..Message::new(event(id, 5, "new")).key(id) }]);
    sender.send(&[Message::new("rubbish").key(id)]);
    let deleted = json!({"order_id": id, "status": "deleted"}).to_string();
    until("the rubbish is kept", RECOVERY, || (flow.topic.letters().len() == 1).then_some(()));
    assert_eq!(server.get(&path).json()["amount"], 6);
    server.post("/orders", deleted).expect(200);
    sender.send(&[Message::new(event(id, 7, "new")).key(id)]);
    until("it is acknowledged as deleted", RECOVERY, || {
        let acks = flow.read(&flow.names.ack);
        (acks.iter().filter(|ack| value(ack)["status"] == "deleted").count() == 2).then_some(())
    });
    assert_eq!(server.get(&path).json()["status"], "deleted");
}

#[test]
fn what_is_written_on_one_instance_is_read_on_another() {
    let _turn = in_turn();
    let Some(flow) = Flow::new() else { return };
    let (one, other) = (flow.start(&[]), flow.start(&[]));
    until("each hears the other", RECOVERY, || {
        let complete = |server: &Server| server.get("/metrics").text().contains("view_complete 1");
        (complete(&one) && complete(&other)).then_some(())
    });
    let writes = 10_000_u64;
    let slowest = AtomicU64::new(0);
    let next = AtomicU64::new(0);
    std::thread::scope(|scope| {
        for _ in 0..16 {
            scope.spawn(|| {
                let (mut writer, mut reader) = (one.connect(), other.connect());
                let json = [("Content-Type", "application/json")];
                loop {
                    let n = next.fetch_add(1, Ordering::Relaxed);
                    if n >= writes {
                        return;
                    }
                    let mut body = Vec::new();
                    order_service::order::sample::wb(3, n / 4 * 16 + n % 4, &mut body); // some again and again
                    body.pop();
                    body.extend(format!(r#","n":{n}}}"#).bytes());
                    let written = writer.request("POST", "/orders", &json, &body);
                    assert!(matches!(written.status, 200 | 201), "{}", written.text());
                    let (id, version) = (id_of(&written), etag(&written));
                    let least = version.to_string();
                    let asked = Instant::now();
                    let read = reader.get_in_time(&format!("/order/{id}"), &[("X-Min-Version", &least)]).expect(200);
                    slowest.fetch_max(asked.elapsed().as_micros() as u64, Ordering::Relaxed);
                    assert!(etag(&read) >= version);
                    if etag(&read) == version {
                        assert_eq!(read.body, body);
                    }
                }
            });
        }
    });
    println!("slowest read of a write on another instance: {} us", slowest.load(Ordering::Relaxed));
    // No request is kept waiting for what will not come, and a 404 is the truth.
    other.get("/order/unknown-id").expect(404);
}

/// Writes from several connections until it is told to end, whatever dies meanwhile.
struct Load {
    is_over: Arc<AtomicBool>,
    answered: Arc<AtomicU64>,
    threads: Vec<std::thread::JoinHandle<(Vec<String>, u64)>>,
}

impl Load {
    fn start(addresses: &Arc<Mutex<Vec<std::net::SocketAddr>>>) -> Self {
        let (is_over, count) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let threads = (0..8).map(|thread| {
            let (is_over, count, addresses) = (Arc::clone(&is_over), Arc::clone(&count), Arc::clone(addresses));
            std::thread::spawn(move || {
                let (mut answered, mut late) = (Vec::new(), 0);
                let mut n = thread * 1_000_000;
                while !is_over.load(Ordering::Relaxed) {
                    n += 1;
                    let address = addresses.lock().unwrap()[n as usize % 2];
                    let json = [("Content-Type", "application/json")];
                    let asked = Connection::try_open(address)
                        .and_then(|mut connection| connection.try_request("POST", "/orders", &json, order(n)));
                    match asked {
                        Ok(reply) if matches!(reply.status, 201 | 202) => {
                            late += u64::from(reply.status == 202);
                            answered.push(id_of(&reply));
                            count.fetch_add(1, Ordering::AcqRel);
                        }
                        Ok(reply) => assert_eq!(reply.status, 503, "{}", reply.text()),
                        Err(_) => std::thread::sleep(Duration::from_millis(20)), // it was killed; the pace of tries
                    }
                }
                (answered, late)
            })
        });
        let threads = threads.collect();
        Self { is_over, answered: count, threads }
    }

    /// Waits until so many more writes are answered.
    fn wait_more(&self, count: u64) {
        let target = self.answered.load(Ordering::Acquire) + count;
        until("more writes are answered", RECOVERY, || (self.answered.load(Ordering::Acquire) >= target).then_some(()));
    }

    /// Every order that was answered for, and how many of them were answered 202.
    fn end(self) -> (Vec<String>, u64) {
        self.is_over.store(true, Ordering::Relaxed);
        let ended = self.threads.into_iter().map(|thread| thread.join().unwrap());
        ended.fold((Vec::new(), 0), |(mut all, count), (answered, late)| {
            all.extend(answered);
            (all, count + late)
        })
    }
}

#[test]
fn instances_and_workers_that_are_killed_in_turn_lose_no_event_and_leave_no_order_stuck() {
    let _turn = in_turn();
    let Some(flow) = Flow::new() else { return };
    let mut workers = [flow.work(), flow.work()];
    let flags = ["--http-worker-wait", "2s", "--kafka-session-timeout", "6s"];
    let mut servers = [flow.start(&flags), flow.start(&flags)];
    Flow::wait_joined(&[&servers[0], &servers[1]]);
    let addresses = Arc::new(Mutex::new(servers.iter().map(Server::address).collect::<Vec<_>>()));
    let load = Load::start(&addresses);
    for round in 0..2 {
        for n in 0..2 {
            load.wait_more(100);
            servers[n].kill9();
            addresses.lock().unwrap()[n] = servers[n].address();
            load.wait_more(100);
            workers[n].kill();
            if round == 1 {
                load.wait_more(50); // what the dead one had taken waits for another one, or for this one
            }
            workers[n].start(&flow);
        }
    }
    load.wait_more(100);
    let (answered, late) = load.end();
    println!("{} writes answered, {late} of them 202", answered.len());
    assert!(answered.len() > 100, "{}", answered.len());
    until("no order is stuck", RECOVERY, || {
        (flow.database.query("SELECT count(*) FROM orders WHERE status <> 'done'") == ["0"]).then_some(())
    });
    flow.wait_published();
    let stored: BTreeSet<String> = flow.database.query("SELECT order_uid FROM orders").into_iter().collect();
    for id in &answered {
        assert!(stored.contains(id), "{id} was answered for and is not stored");
    }
    let keys = |topic: &str| {
        let letters = flow.read(topic);
        letters.iter().map(|letter| letter.key().to_owned()).collect::<BTreeSet<_>>()
    };
    assert_eq!(keys(&flow.names.events), stored, "an event for each order");
    assert_eq!(keys(&flow.names.ack), stored, "an acknowledgement for each order");
    assert_eq!(keys(&flow.names.snapshots), stored);
    // The last snapshot of each order is the order as it is.
    let mut last = std::collections::BTreeMap::new();
    for snapshot in flow.read(&flow.names.snapshots) {
        last.insert(snapshot.key().to_owned(), snapshot);
    }
    for (id, snapshot) in &last {
        assert_eq!(snapshot.header("version"), "2", "{id}");
    }
    for server in &servers {
        until("both show all of it", RECOVERY, || {
            (server.get("/api/stats").json()["total_orders"] == stored.len()).then_some(())
        });
        for id in answered.iter().take(200) {
            assert_eq!(server.get(&format!("/order/{id}")).expect(200).json()["status"], "done", "{id}");
        }
    }
    for worker in &mut workers {
        worker.stop();
    }
}

#[test]
fn what_a_dead_instance_did_not_publish_is_published_by_another() {
    let Some(flow) = Flow::new() else { return };
    let other = flow.start(&[]);
    for step in ["committed:1", "visible:1", "publishing:1"] {
        let environment = [&flow.environment()[..], &[("ORDER_DIE_AT", step)]].concat();
        let mut dying = Server::start_in(&flow.flags(&["--kafka-workers", "auto"]), &environment);
        dying.wait_ready();
        let answered = std::panic::catch_unwind(|| dying.post("/orders", order(9)));
        dying.wait();
        let before = flow.database.query("SELECT order_uid FROM orders ORDER BY seq DESC LIMIT 1");
        let id = &before[0];
        if let Ok(reply) = answered {
            assert_eq!(id_of(&reply), *id);
        }
        until("the other instance shows it", RECOVERY, || {
            (other.get(&format!("/order/{id}")).status == 200).then_some(())
        });
        until("its event and its snapshot are published", RECOVERY, || {
            let has = |topic: &str| flow.read(topic).iter().any(|letter| letter.key() == id);
            (has(&flow.names.events) && has(&flow.names.snapshots)).then_some(())
        });
    }
    flow.wait_published();
}

#[test]
fn an_event_that_a_dead_instance_did_not_publish_is_published_whatever_became_of_its_order() {
    let Some(flow) = Flow::new() else { return };
    let environment = [&flow.environment()[..], &[("ORDER_DIE_AT", "committed:1")]].concat();
    let mut dying = Server::start_in(&flow.flags(&["--kafka-workers", "auto"]), &environment);
    dying.wait_ready();
    let json = [("Content-Type", "application/json")];
    let asked = Connection::open(dying.address()).try_request("POST", "/orders", &json, order(9));
    assert!(asked.is_err(), "it is not answered for");
    dying.wait();
    // Another writer, such as the topic of orders, comes first.
    let change = "UPDATE orders SET version = 2, changed_in = pg_current_xact_id()::text::bigint RETURNING order_uid";
    let changed = flow.database.query(change);
    let other = flow.start(&[]);
    for topic in [&flow.names.events, &flow.names.snapshots] {
        until("it is published", RECOVERY, || {
            let letters = flow.read(topic);
            let of_order = letters.iter().find(|letter| letter.key() == changed[0])?;
            assert_eq!(of_order.header("version"), "2", "as it is now");
            Some(())
        });
    }
    flow.wait_published();
    drop(other);
}

#[test]
fn what_is_committed_while_kafka_is_away_is_published_when_it_is_back() {
    let _turn = in_turn();
    let Some(kafka) = Private::kafka(1) else { return };
    let topic = Topic::create_on(kafka.url(), 1);
    let snapshots = format!("{}.snapshots", topic.name);
    let mut server =
        Server::start(&topic.flags_with(&["--kafka-snapshots", "on", "--kafka-snapshots-topic", &snapshots]));
    let first = id_of(&server.post("/orders", order(1)).expect(201));
    until("it is published", RECOVERY, || (topic.read(&snapshots).len() == 1).then_some(()));
    kafka.kill();
    let more: Vec<_> = (0..20).map(|n| id_of(&server.post("/orders", order(n)).expect(201))).collect();
    server.get(&format!("/order/{}", more[19])).expect(200);
    // Killed before Kafka is back: what is recorded is all there is.
    server.kill();
    kafka.restart();
    server.start_again();
    until("all are published", RECOVERY, || {
        let published: BTreeSet<_> = topic.read(&snapshots).iter().map(|letter| letter.key().to_owned()).collect();
        more.iter().chain([&first]).all(|id| published.contains(id)).then_some(())
    });
}

#[test]
fn an_instance_and_a_worker_show_metrics_of_the_parts_they_have_and_of_no_others() {
    let Some(flow) = Flow::new() else { return };
    let server = flow.start(&[]);
    let home = tempfile::tempdir().unwrap();
    let admin = home.path().join("admin.sock");
    let _worker = flow.work_with(&["--admin", &format!("unix:{}", admin.display())]);
    Flow::wait_joined(&[&server]);
    until("a write is processed", RECOVERY, || (server.post("/orders", order(1)).status == 201).then_some(()));
    let mut socket = UnixStream::connect(admin).unwrap();
    socket.write_all(b"GET /metrics HTTP/1.1\r\nHost: worker\r\nConnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    socket.read_to_string(&mut answer).unwrap();
    let both = [
        "kafka_clients_recovered_total",
        "kafka_lost_messages_total",
        "kafka_snapshots_published",
        "order_commit_duration_seconds",
        "orders_processed_total",
        "outbox_published_batches_total",
        "postgres_pool_connections",
        "process_cpu_seconds_total",
        "service_ready",
    ];
    let instance = [
        "http_requests_total",
        "kafka_topic_followed",
        "store_silent_seconds",
        "store_went_back_orders_total",
        "view_orders",
        "worker_waiting_writes",
    ];
    let neither = ["access_", "audit_", "grpc_", "nats_", "redis_", "stan_", "store_lost", "tls_"];
    let no_worker = ["cache_", "http_", "list_", "store_", "view_", "worker_"];
    let check = |of: &str, families: &BTreeSet<String>, there: &[&str], absent: &[&str]| {
        let missing: Vec<_> = there.iter().filter(|name| !families.contains(**name)).collect();
        let strange: Vec<_> =
            families.iter().filter(|name| absent.iter().any(|prefix| name.starts_with(prefix))).collect();
        assert!(missing.is_empty() && strange.is_empty(), "{of}: without {missing:?}, with {strange:?}");
    };
    check("the instance", &server.families(), &[&both[..], &instance].concat(), &neither);
    check("the worker", &families(&answer), &both, &[&neither[..], &no_worker].concat());
}

/// Each write was answered 202 after five seconds, for ever and without a word.
#[test]
fn a_worker_on_another_database_is_named() {
    let (Some(flow), Some(other), Some(topic)) = (Flow::new(), Database::create(), Topic::create(1)) else { return };
    let Names { events, ack, snapshots, group, .. } = &flow.names;
    let [events, ack, snapshots, group] = [events, ack, snapshots, group].map(String::clone);
    let elsewhere = Flow { topic, names: Names { events, ack, snapshots, group, url: other.url() }, database: other };
    let server = flow.start(&["--http-worker-wait", "5s"]);
    let _worker = elsewhere.work();
    Flow::wait_joined(&[&server]);
    let is_told = |line: &String| line.contains("works on another database");
    until("it is said", RECOVERY, || {
        let reply = server.post("/orders", format!(r#"{{"user_id":"{USER}","payload":{{}}}}"#));
        assert!(matches!(reply.status, 201 | 202), "{}", reply.text());
        server.log().iter().any(is_told).then_some(())
    });
    let reply = server.post("/orders", format!(r#"{{"user_id":"{USER}","payload":{{}}}}"#)).expect(202);
    assert!(reply.header("Location").is_some());
    until("each is counted", RECOVERY, || (server.metric("worker_other_store_acks_total") >= 2.0).then_some(()));
    let told: Vec<String> = server.log().into_iter().filter(is_told).collect();
    let [told] = &told[..] else { panic!("said once: {told:?}") };
    let told: Value = serde_json::from_str(told).unwrap();
    let (here, there) = (told["store"].as_str().unwrap(), told["worker_store"].as_str().unwrap());
    assert!(!here.is_empty() && !there.is_empty() && here != there, "{told}");
}

/// A role that may read and not write: the worker tried again for ever and did not say why.
#[test]
fn a_worker_says_which_right_it_lacks() {
    let Some(mut flow) = Flow::new() else { return };
    let server = flow.start(&[]); // makes the schema
    let role = format!("{}_app", flow.database.name());
    flow.database.query(&format!("CREATE ROLE {role} LOGIN"));
    flow.database.query(&format!("GRANT SELECT ON ALL TABLES IN SCHEMA public TO {role}"));
    flow.names.url = flow.names.url.replacen("postgres@", &format!("{role}@"), 1);
    let worker = flow.work();
    until("it is said", RECOVERY, || {
        let log = worker.log.lock().unwrap();
        log.iter().any(|line| line.contains("lacks rights") && line.contains("INSERT on orders")).then_some(())
    });
    flow.database.query(&format!("GRANT ALL ON ALL TABLES IN SCHEMA public TO {role}"));
    flow.database.query(&format!("GRANT ALL ON ALL SEQUENCES IN SCHEMA public TO {role}"));
    Flow::wait_joined(&[&server]);
    until("a write is processed", RECOVERY, || (server.post("/orders", order(1)).status == 201).then_some(()));
    drop(worker);
    flow.database.query(&format!("DROP OWNED BY {role}; DROP ROLE {role}"));
}
