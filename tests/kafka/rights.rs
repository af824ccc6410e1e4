//! What the brokers do not allow is told by its name, on `/readyz` and in the log again and again, and what they allow
//! later is done without a restart.

use super::topic::Topic;
use crate::broker::ledger::Sent;
use crate::broker::{Channel, RECOVERY};
use crate::database::Database;
use crate::server::{Server, until};
use crate::servers::Private;

/// A Kafka of its own, a topic there, and a database.
struct Site {
    kafka: Private,
    topic: Topic,
    database: Database,
}

impl Site {
    fn new() -> Option<Self> {
        let (kafka, database) = (Topic::private()?, Database::create()?);
        let topic = Topic::create_on(kafka.url(), 2);
        topic.make_dlq(None);
        Some(Self { kafka, topic, database })
    }

    /// Starts the service as a user who logs in.
    fn start(&self, password: &str, more: &[&str]) -> Server {
        let own = ["--kafka-snapshots", "off", "--kafka-workers", "off"];
        self.start_with(password, &[&own, more].concat())
    }

    fn start_with(&self, password: &str, more: &[&str]) -> Server {
        let (url, brokers) = (self.database.url(), self.kafka.logins());
        let password = format!("sasl.password={password}");
        let mut properties = Vec::new();
        for property in
            ["security.protocol=SASL_PLAINTEXT", "sasl.mechanism=PLAIN", "sasl.username=user", password.as_str()]
        {
            properties.extend(["--kafka-property", property]);
        }
        let mut flags = self.topic.flags_with(&[&["--postgres", &url], more, &properties].concat());
        flags[1] = &brokers;
        Server::start_cold(&flags)
    }

    fn topic_acl(&self, action: &str, operation: &str, topic: &str) {
        self.kafka.acl(action, &["--operation", operation, "--topic", topic]);
    }

    fn group_acl(&self, action: &str) {
        self.kafka.acl(action, &["--operation", "Read", "--group", &self.topic.group]);
    }

    /// Waits until it is not ready because of this, and the log has said so since: twice where that is new.
    fn wait_refused(server: &Server, reason: &str) {
        let told = || server.log().iter().filter(|line| line.contains(reason)).count();
        let before = told();
        until(&format!("it says: {reason}"), RECOVERY, || {
            let answer = server.get("/readyz");
            (answer.status == 503 && answer.text().contains(reason)).then_some(())
        });
        until("the log says so, and says it again", RECOVERY, || (told() > before.max(1)).then_some(()));
        assert_eq!(server.get("/livez").status, 200);
    }

    fn wait_ready(server: &Server) {
        until("it is ready", RECOVERY, || (server.get("/readyz").status == 200).then_some(()));
    }
}

#[test]
fn a_topic_that_may_not_be_read_is_not_taken_for_a_missing_one() {
    let Some(site) = Site::new() else { return };
    let Site { topic, database, .. } = &site;
    let reason = format!("does not let this user read the topic {}", topic.name);
    site.group_acl("--add");
    site.topic_acl("--add", "Write", &topic.dlq);
    let mut sent = Sent::default();
    sent.send(&topic.sender(), 0..20);
    let mut server = site.start("secret", &[]);
    Site::wait_refused(&server, &reason);
    assert_eq!(server.get("/api/stats").json()["total_orders"], 0);
    // It may know of the topic, and still not read it.
    site.topic_acl("--add", "Describe", &topic.name);
    Site::wait_refused(&server, &reason);
    site.topic_acl("--add", "Read", &topic.name);
    sent.check(&[&server], database, topic);
    Site::wait_ready(&server);
    // The right is taken away while it reads.
    site.topic_acl("--remove", "Read", &topic.name);
    Site::wait_refused(&server, &reason);
    sent.send(&topic.sender(), 10..30);
    site.topic_acl("--add", "Read", &topic.name);
    sent.check(&[&server], database, topic);
    Site::wait_ready(&server);
    topic.stop(&mut server);
}

#[test]
fn a_group_that_may_not_be_joined_is_named() {
    let Some(site) = Site::new() else { return };
    let Site { topic, database, .. } = &site;
    let reason = format!("does not let this user join the group {}", topic.group);
    site.topic_acl("--add", "Read", &topic.name);
    site.topic_acl("--add", "Write", &topic.dlq);
    let mut sent = Sent::default();
    sent.send(&topic.sender(), 0..20);
    let mut server = site.start("secret", &[]);
    Site::wait_refused(&server, &reason);
    site.group_acl("--add");
    sent.check(&[&server], database, topic);
    Site::wait_ready(&server);
    site.group_acl("--remove");
    Site::wait_refused(&server, &reason);
    sent.send(&topic.sender(), 10..30);
    site.group_acl("--add");
    sent.check(&[&server], database, topic);
    Site::wait_ready(&server);
    topic.stop(&mut server);
}

#[test]
fn credentials_that_are_refused_are_named_and_not_shown() {
    let Some(site) = Site::new() else { return };
    let mut server = site.start("a wrong one", &[]);
    Site::wait_refused(&server, "Kafka refuses the credentials");
    assert!(!server.log().iter().any(|line| line.contains("a wrong one")), "{:?}", server.log());
    assert!(server.stop().success());
}

/// The library calls it fatal that the topic may not be written to: its producer sends nothing any more, whatever is
/// allowed later.
#[test]
fn dead_letters_are_kept_once_that_is_allowed() {
    let Some(site) = Site::new() else { return };
    let Site { topic, database, .. } = &site;
    site.topic_acl("--add", "Read", &topic.name);
    site.group_acl("--add");
    let mut sent = Sent::default();
    sent.send(&topic.sender(), 0..5);
    sent.send_rubbish(&topic.sender(), 3);
    sent.send(&topic.sender(), 5..10);
    let mut server = site.start("secret", &[]);
    Site::wait_refused(&server, &topic.dlq);
    site.topic_acl("--add", "Write", &topic.dlq);
    sent.check(&[&server], database, topic);
    Site::wait_ready(&server);
    topic.stop(&mut server);
}

/// The same of what is published, by a topic that may not be seen, then not written to, and no more written to.
#[test]
fn what_is_committed_is_published_once_that_is_allowed() {
    let Some(site) = Site::new() else { return };
    let Site { topic, .. } = &site;
    let snapshots = format!("{}.snapshots", topic.name);
    topic.make_topic(&snapshots, 1, &[]);
    site.topic_acl("--add", "Read", &topic.name);
    site.group_acl("--add");
    site.topic_acl("--add", "Write", &topic.dlq);
    let own = ["--kafka-snapshots", "on", "--kafka-snapshots-topic", &snapshots, "--kafka-workers", "off"];
    let mut server = site.start_with("secret", &own);
    let published = |count: usize| {
        until("they are published", RECOVERY, || (topic.read(&snapshots).len() >= count).then_some(()));
        Site::wait_ready(&server);
    };
    let post = |n: u64| {
        let mut body = Vec::new();
        order_service::order::sample::wb(3, n, &mut body);
        server.post("/orders", body).expect(201);
    };
    post(1);
    Site::wait_refused(&server, &snapshots);
    site.topic_acl("--add", "Describe", &snapshots);
    until("the topic is seen", RECOVERY, || {
        let answer = server.get("/readyz");
        let text = answer.text();
        (text.contains(&snapshots) && text.contains("wait to be published")).then_some(())
    });
    site.topic_acl("--add", "Write", &snapshots);
    published(1);
    site.topic_acl("--remove", "Write", &snapshots);
    // It may take the broker a moment to know.
    let mut n = 1;
    until("it is refused", RECOVERY, || {
        n += 1;
        post(n);
        let answer = server.get("/readyz");
        let text = answer.text();
        (text.contains(&snapshots) && text.contains("wait to be published")).then_some(())
    });
    site.topic_acl("--add", "Write", &snapshots);
    published(usize::try_from(n).unwrap());
    topic.stop(&mut server);
}
