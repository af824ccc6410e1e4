//! A real Kafka over TLS, by certificate and by each kind of login: in builds that can, which is that of the image.

use super::{Authority, Files, Signed};
use crate::broker::Channel as _;
use crate::kafka::topic::Topic;
use crate::server::{SIGNAL_TIME, Server, binary, until};
use crate::servers::Private;

/// The certificate that the broker shows from its next start on.
fn show(files: &Files, signed: &Signed) {
    files.write("keystore.pem", &format!("{}{}", signed.key, signed.cert));
}

/// A way to a topic: brokers, and what their clients are told.
#[derive(Clone, Copy)]
struct Way<'w> {
    topic: &'w str,
    brokers: &'w str,
    properties: &'w [&'w str],
}

impl Way<'_> {
    fn service(&self, start: fn(&[&str]) -> Server) -> Server {
        let mut flags = vec!["--kafka", self.brokers, "--kafka-topic", self.topic];
        flags.extend(self.properties.iter().flat_map(|property| ["--kafka-property", *property]));
        start(&flags)
    }

    /// Sends three orders and waits until the service, which began with the first of the topic, has dealt with so many.
    fn passes(&self, service: &Server, all: f64) {
        let home = tempfile::tempdir().unwrap();
        until("they are sent", SIGNAL_TIME, || {
            let publish = ["publish", "--kafka", self.brokers, "--count", "3"];
            let settings = [("KAFKA_TOPIC", self.topic), ("KAFKA_PROPERTIES", &self.properties.join("\n"))];
            let done = binary(home.path()).args(publish).envs(settings).output().unwrap();
            let said = String::from_utf8_lossy(&done.stderr).into_owned();
            assert!(!said.contains("secret"), "{said}");
            done.status.success().then_some(())
        });
        until("they are dealt with", SIGNAL_TIME, || {
            let metrics = service.get("/metrics");
            let is_count =
                |line: &&str| line.starts_with("orders_processed_total{") || line.starts_with("order_coalesced_total ");
            let counts = metrics.text().lines().filter(is_count);
            let processed: f64 = counts.map(|line| line.rsplit_once(' ').unwrap().1.parse::<f64>().unwrap()).sum();
            (processed >= all).then_some(())
        });
    }
}

#[test]
fn kafka_is_reached_over_tls_by_certificate_and_by_every_kind_of_login() {
    let (authority, strangers) = (Authority::new("Test CA"), Authority::new("Strangers' CA"));
    let files = Files::new();
    let ca = files.write("ca.pem", &authority.pem());
    let other = files.write("other.pem", &strangers.pem());
    let [cert, key] = files.write_signed(&authority.sign_client("orders"));
    show(&files, &authority.sign(&["localhost"]));
    let Some(kafka) = Private::kafka_with_tls(&files.text("")) else { return };
    let topic = Topic::create_on(kafka.url(), 1);
    let [by_certificate, by_login] = kafka.secured();
    let (ca, other) = (format!("ssl.ca.location={ca}"), format!("ssl.ca.location={other}"));
    let (cert, key) = (format!("ssl.certificate.location={cert}"), format!("ssl.key.location={key}"));
    let own = ["security.protocol=SSL", &ca, &cert, &key];
    let login = |mechanism, password| ["security.protocol=SASL_SSL", mechanism, "sasl.username=user", password, &ca];
    let token = [
        "security.protocol=SASL_SSL",
        "sasl.mechanism=OAUTHBEARER",
        "enable.sasl.oauthbearer.unsecure.jwt=true",
        "sasl.oauthbearer.config=principal=user",
        &ca,
    ];
    for (all, brokers, properties) in [
        (3.0, &by_certificate, &own[..]),
        (6.0, &by_login, &login("sasl.mechanism=PLAIN", "sasl.password=secret")),
        (9.0, &by_login, &login("sasl.mechanism=SCRAM-SHA-512", "sasl.password=secret")),
        (12.0, &by_login, &token),
    ] {
        let way = Way { topic: &topic.name, brokers, properties };
        way.passes(&way.service(Server::start), all);
    }
    let elsewhere = by_certificate.replace("localhost", "127.0.0.1");
    let (not_reached, no_tls) = ("not connected to Kafka", "Kafka cannot be reached over TLS; the log says why");
    for (what, brokers, properties, logged, told) in [
        ("another host", &*elsewhere, &own[..], "certificate verify failed", no_tls),
        ("another authority", &by_certificate, &[own[0], &other, &cert, &key], "certificate verify failed", no_tls),
        // What a broker does that asks for one, and one that has no TLS, looks like a broker that goes away.
        ("no certificate of its own", &by_certificate, &own[..2], "over TLS failed", not_reached),
        ("a server without TLS", kafka.url(), &own, "PLAINTEXT broker", not_reached),
        (
            "a wrong password",
            &by_login,
            &login("sasl.mechanism=PLAIN", "sasl.password=guessed"),
            "Invalid username or password",
            "Kafka refuses the credentials",
        ),
    ] {
        let service = Way { topic: &topic.name, brokers, properties }.service(Server::start_cold);
        until(&format!("{what}: the log says it"), SIGNAL_TIME, || {
            service.log().iter().any(|line| line.contains(logged)).then_some(())
        });
        until(&format!("{what}: it is told"), SIGNAL_TIME, || {
            let answer = service.get("/readyz");
            (answer.status == 503 && answer.text().contains(told)).then_some(())
        });
        assert!(service.log().iter().all(|line| !line.contains("guessed")), "{what}: {:?}", service.log());
    }
    // Other certificates while the service runs: one that is over, and a good one.
    let way = Way { topic: &topic.name, brokers: &by_certificate, properties: &own };
    let service = way.service(Server::start);
    show(&files, &authority.sign_expired(&["localhost"]));
    kafka.kill();
    kafka.restart();
    until("the log says that it is not believed", SIGNAL_TIME, || {
        service.log().iter().any(|line| line.contains("certificate verify failed")).then_some(())
    });
    show(&files, &authority.sign(&["localhost"]));
    kafka.kill();
    kafka.restart();
    way.passes(&service, 15.0);
}
