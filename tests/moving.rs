//! The commands of `docs/moving.md`, read from there and run against real servers. The names of its servers mean those of
//! the tests.

use std::process::{Child, Stdio};

use serde_json::json;

use crate::broker::{Channel, Message, RECOVERY};
use crate::database::Database;
use crate::http::{wb_answered, wb_posted};
use crate::kafka::topic::Topic;
use crate::server::{Server, binary, until};
use crate::servers;
use crate::stan::channel::StanChannel;

const DOCUMENT: &str = include_str!("../docs/moving.md");
const USER: &str = "0190163d-8694-739b-aea5-966c26f8ad91";

/// Commands that are run elsewhere, and where.
const ELSEWHERE: [(&str, &str); 3] = [
    ("config convert config.yaml -o order.toml", "cli::a_settings_file_of_an_older_service_is_converted runs it"),
    ("config convert", "the name of a command, not one to type"),
    ("import --from-postgres", "tests/postgres/moving.rs runs those of docs/moving-databases.md"),
];

/// The lines of the blocks of a section.
fn commands(section: &str) -> Vec<String> {
    let (_, text) = DOCUMENT.split_once(&format!("\n## {section}\n")).unwrap_or_else(|| panic!("no section {section}"));
    let text = text.split_once("\n## ").map_or(text, |(text, _)| text);
    let blocks = text.split("```").skip(1).step_by(2);
    let lines = blocks.flat_map(|block| block.lines().skip(1)).filter_map(|line| line.strip_prefix("order-service "));
    lines.map(str::to_owned).collect()
}

/// What the commands of a section connect to.
struct Servers {
    database: Database,
    topic: Topic,
    redis: String,
}

impl Servers {
    fn new() -> Option<Self> {
        Some(Self { database: Database::create()?, topic: Topic::create(3)?, redis: servers::redis()? })
    }

    /// The words of a command, with the servers of the tests.
    fn words(&self, command: &str, stan: &str) -> Vec<String> {
        let word = |word: &str| match word {
            "kafka:9092" => self.topic.brokers.clone(),
            "redis:6379" => self.redis.clone(),
            "nats://nats:4222" => stan.to_owned(),
            "postgres://orders@db/orders" => self.database.url(),
            ":50051" => "127.0.0.1:0".into(),
            word => {
                assert!(!word.contains("://") && !word.contains(':'), "{word}: which server is that?");
                word.to_owned()
            }
        };
        command.split_whitespace().map(word).collect()
    }

    /// The topics are shared by all tests, so each has names of its own.
    fn environment(&self) -> Vec<(String, String)> {
        let name = &self.topic.name;
        let names = [("KAFKA_TOPIC", ""), ("KAFKA_DLQ_TOPIC", ".dlq"), ("ORDERS_EVENTS_TOPIC", ".events")];
        let more =
            [("ORDERS_ACK_TOPIC", ".ack"), ("ORDERS_SNAPSHOTS_TOPIC", ".snapshots"), ("WORKER_GROUP", ".workers")];
        names.iter().chain(&more).map(|(variable, end)| ((*variable).to_owned(), format!("{name}{end}"))).collect()
    }
}

/// Starts a service with a command, and has one order stored over HTTP and one from its channel.
fn serve(words: &[String], environment: &[(String, String)], channel: &impl Channel) -> Server {
    assert_eq!(words[0], "serve");
    let flags: Vec<&str> = words[1..].iter().map(String::as_str).collect();
    let environment: Vec<_> = environment.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
    let server = Server::start_in(&flags, &environment);
    server.wait_ready();
    server.post("/orders", wb_posted("moved-1")).expect(201);
    assert_eq!(server.get("/order/moved-1").expect(200).text(), wb_answered("moved-1"));
    channel.send_one(Message::new(wb_answered("moved-2")));
    until("what was sent is stored", RECOVERY, || (server.get("/order/moved-2").status == 200).then_some(()));
    server
}

#[test]
fn the_commands_for_kafka_are_run() {
    for section in ["From the service on Kafka with orders in memory", "From the service on Kafka with Redis"] {
        let Some(servers) = Servers::new() else { return };
        let found = commands(section);
        let [command] = &found[..] else { panic!("{section}: {found:?}") };
        let mut server = serve(&servers.words(command, ""), &servers.environment(), &servers.topic);
        assert!(server.stop().success(), "{command}");
        assert_eq!(servers.database.query("SELECT order_uid FROM orders ORDER BY 1"), ["moved-1", "moved-2"]);
    }
}

#[test]
fn the_command_for_nats_streaming_is_run() {
    let (Some(servers), Some(channel)) = (Servers::new(), StanChannel::create(1)) else { return };
    let found = commands("From the service on NATS Streaming");
    let [command] = &found[..] else { panic!("{found:?}") };
    let names =
        [("STAN_SUBJECT", &channel.name), ("STAN_CLIENT_ID", &channel.client), ("STAN_DURABLE", &channel.durable)];
    let names: Vec<_> = names.iter().map(|(name, value)| ((*name).to_owned(), (*value).clone())).collect();
    let mut server = serve(&servers.words(command, &channel.url), &names, &channel);
    assert!(server.stop().success());
    assert_eq!(servers.database.query("SELECT order_uid FROM orders ORDER BY 1"), ["moved-1", "moved-2"]);
}

/// A worker, ended with the test.
struct Worker(Child);

impl Drop for Worker {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn the_commands_for_the_event_driven_service_are_run() {
    let Some(servers) = Servers::new() else { return };
    let found = commands("From the event-driven service");
    let [service, worker] = &found[..] else { panic!("{found:?}") };
    let environment = servers.environment();
    for (variable, name) in &environment {
        if ["ORDERS_EVENTS_TOPIC", "ORDERS_ACK_TOPIC", "ORDERS_SNAPSHOTS_TOPIC"].contains(&variable.as_str()) {
            servers.topic.make_topic(name, 3, &[]);
        }
    }
    let server = serve(&servers.words(service, ""), &environment, &servers.topic);
    let home = tempfile::tempdir().unwrap();
    let words = servers.words(worker, "");
    let mut command = binary(home.path());
    command.args(&words).envs(environment.iter().map(|(name, value)| (name, value))).stderr(Stdio::null());
    let _worker = Worker(command.spawn().unwrap());
    until("writes wait for the worker", RECOVERY, || {
        server.log().iter().any(|line| line.contains("writes wait for the workers")).then_some(())
    });
    let posted = json!({"user_id": USER, "payload": {"id": "moved", "amount": 5}});
    let created = server.post("/orders", posted.to_string()).expect(201).json();
    let path = format!("/orders/{}", created["order_id"].as_str().unwrap());
    until("the worker has processed it", RECOVERY, || {
        (server.get(&path).expect(200).json()["order"]["status"] == "done").then_some(())
    });
}

/// A section or a command that no test here knows is noticed.
#[test]
fn no_command_is_left_out() {
    let run = [
        "From the service on NATS Streaming",
        "From the service on Kafka with orders in memory",
        "From the service on Kafka with Redis",
        "From the event-driven service",
    ];
    let run: Vec<String> = run.iter().flat_map(|section| commands(section)).collect();
    let lines = DOCUMENT.lines().filter_map(|line| line.strip_prefix("order-service "));
    let quoted = DOCUMENT.split('`').skip(1).step_by(2).filter_map(|code| code.strip_prefix("order-service "));
    let mut count = 0;
    for command in lines.chain(quoted) {
        let is_elsewhere = ELSEWHERE.iter().any(|(start, why)| command.starts_with(start) && !why.is_empty());
        assert!(is_elsewhere || run.iter().any(|known| known == command), "{command}: is run by no test");
        count += 1;
    }
    assert!(count > run.len(), "{count}");
}
