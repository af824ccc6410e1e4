//! What single settings cannot see: values that several parts need, settings that exclude each
//! other, and the files that they name.

use super::{Given, flag_and_variable};
use crate::access::TokenConfig;
use crate::app::Config;
#[cfg(feature = "kafka")]
use crate::kafka::{Snapshots, Workers};
use crate::listen::Endpoint;

/// Gives each part what it needs of what was set for another, and draws conclusions.
pub(super) fn agree(config: &mut Config, given: Given<'_>) {
    config.http.order_bytes_max = config.ingest.order_bytes_max;
    config.cache.list_bytes_max = config.http.answer_bytes_max;
    #[cfg(feature = "kafka")]
    if let Some(kafka) = &mut config.kafka {
        kafka.order_bytes_max = config.ingest.order_bytes_max;
        // To name a topic of workers says that there are some, unless another setting says whether.
        let is_named = ["kafka.events_topic", "kafka.ack_topic"].iter().any(|key| given.is_set(key));
        if is_named && !given.is_set("kafka.workers") {
            kafka.workers = Workers::On;
        }
    }
    #[cfg(not(feature = "kafka"))]
    let _ = given;
}

/// Reads the files of certificates and logins that connections to other servers need, once all is
/// set.
pub(super) fn open_files(config: &mut Config, given: Given<'_>) -> Vec<String> {
    let mut wrong = Vec::new();
    // What is wrong with a file begins with its name.
    let of = |url: &str, files: &[&str], what: String| {
        let is_file = |value: &str| what.strip_prefix(value).is_some_and(|rest| rest.starts_with(": "));
        format!("{}: {what}", given.of_value(files, is_file).unwrap_or_else(|| given.place(url)))
    };
    if let Some(redis) = &mut config.redis {
        let files = ["redis.ca", "redis.cert", "redis.key"];
        match paired([files[1], files[2]], &redis.encryption, given) {
            Err(line) => wrong.push(line),
            Ok(()) => wrong.extend(redis.open().err().map(|what| of("redis.url", &files, what))),
        }
    }
    if let Some(nats) = &mut config.nats {
        let files = ["nats.ca", "nats.cert", "nats.key", "nats.credentials", "nats.nkey"];
        match paired([files[1], files[2]], &nats.encryption, given) {
            Err(line) => wrong.push(line),
            Ok(()) => wrong.extend(nats.open().err().map(|what| of("nats.url", &files, what))),
        }
    }
    wrong
}

/// Whether a certificate that is to be shown has its key.
fn paired([cert, key]: [&str; 2], encryption: &crate::tls::client::Config, given: Given<'_>) -> Result<(), String> {
    let needs = |one: &str, other: &str| Err(format!("{}: needs {}", given.place(one), flag_and_variable(other)));
    match &encryption.identity {
        Some((_, path)) if path.as_os_str().is_empty() => needs(cert, key),
        Some((path, _)) if path.as_os_str().is_empty() => needs(key, cert),
        _ => Ok(()),
    }
}

/// What single settings cannot see.
pub(super) fn find(config: &Config, given: Given<'_>) -> Vec<String> {
    let mut wrong = Vec::new();
    let mut add = |key: &str, what: String| wrong.push(format!("{}: {what}", given.place(key)));
    let other = |key: &str| given.place(key);
    if config.inbox.queue_bytes_max < config.ingest.order_bytes_max {
        let least = other("order_bytes_max");
        add("queue.bytes_max", format!("must be at least {least}, or the largest orders never get in"));
    }
    let listen = &config.http.listen;
    if let Some((_, twice)) = listen.iter().enumerate().find(|(at, one)| listen[..*at].iter().any(|a| a.collides(one)))
    {
        add("listen", format!("names {twice} twice"));
    }
    let collides = |endpoint: &Endpoint| listen.iter().any(|other| other.collides(endpoint));
    if config.admin.as_ref().is_some_and(collides) {
        add("admin", format!("must be another address than {}", other("listen")));
    }
    if let Err((key, what)) = encryption(config) {
        add(key, what);
    }
    if config
        .access
        .tokens
        .as_ref()
        .is_some_and(|TokenConfig { rules, .. }| rules.issuer.is_empty() || rules.audience.is_empty())
    {
        // Without them a token that its issuer made for another service would do here too.
        let needed = ["auth.issuer", "auth.audience"].map(flag_and_variable);
        add("auth.jwks", format!("needs {}", needed.join(" and ")));
    }
    #[cfg(feature = "kafka")]
    if config.kafka.as_ref().is_some_and(|kafka| kafka.snapshots == Snapshots::On && kafka.snapshots_topic.is_none()) {
        add("kafka.snapshots", format!("on needs a topic, and {} is off", other("kafka.snapshots_topic")));
    }
    #[cfg(feature = "kafka")]
    if let Some(Err(refused)) = config.kafka.as_ref().map(crate::kafka::Config::check) {
        // What the library refuses is a property, wherever it is from.
        add(if given.is_set("kafka.property") { "kafka.property" } else { "kafka.brokers" }, refused);
    }
    #[cfg(feature = "kafka")]
    if let Some(kafka) = &config.kafka {
        for (key, before) in topics_that_meet(kafka) {
            let before = other(before);
            add(
                key,
                format!("must be another topic than {before}, or what is written there is read as what it is not"),
            );
        }
    }
    if let Some(nats) = &config.nats {
        if nats.subject == nats.dlq_subject {
            let orders = other("nats.subject");
            add(
                "nats.dlq_subject",
                format!("must be another subject than {orders}, or dead letters are read as orders"),
            );
        }
        if nats.ack_wait < std::time::Duration::from_millis(100) {
            add("nats.ack_wait", "must be at least 100ms, or the server cannot be kept patient".into());
        }
    }
    if config.stan.as_ref().is_some_and(|stan| stan.subject == stan.dlq_subject) {
        let orders = other("stan.subject");
        add("stan.dlq_subject", format!("must be another channel than {orders}, or dead letters are read as orders"));
    }
    if let Some(grpc) = &config.grpc.listen
        && (collides(grpc) || config.admin.as_ref().is_some_and(|admin| admin.collides(grpc)))
    {
        let others = ["listen", "admin"].map(other);
        add("grpc.listen", format!("must be another address than {}", others.join(" and ")));
    }
    wrong
}

/// Whether the listeners with TLS and its files belong together. Else which setting is wrong, and why.
fn encryption(config: &Config) -> Result<(), (&'static str, String)> {
    let listen = config.http.listen.iter().map(|endpoint| ("listen", endpoint));
    let others = [("admin", &config.admin), ("grpc.listen", &config.grpc.listen)];
    let others = others.into_iter().filter_map(|(key, endpoint)| Some((key, endpoint.as_ref()?)));
    let spoken = listen.chain(others).find(|(_, endpoint)| matches!(endpoint, Endpoint::Tls(_))).map(|(key, _)| key);
    match (&config.tls, spoken) {
        (None, Some(key)) => {
            let files = ["tls.cert", "tls.key"].map(flag_and_variable);
            Err((key, format!("a tls: listener needs {}", files.join(" and "))))
        }
        (Some(_), None) => {
            Err(("tls.cert", "changes nothing without a tls: listener, such as --listen tls::8443".into()))
        }
        (Some(files), _) if files.key.as_os_str().is_empty() => {
            Err(("tls.cert", format!("needs {}", flag_and_variable("tls.key"))))
        }
        _ => Ok(()),
    }
}

/// Settings of topics that have to be apart and are not, in pairs: what is written to one must not be read from it as
/// something else.
#[cfg(feature = "kafka")]
fn topics_that_meet(kafka: &crate::kafka::Config) -> Vec<(&'static str, &'static str)> {
    let are_there = kafka.workers != Workers::Off;
    let snapshots = kafka.snapshots_topic.as_deref().filter(|_| kafka.snapshots != Snapshots::Off);
    let topics = [
        ("kafka.topic", Some(kafka.topic.as_str())),
        ("kafka.dlq_topic", Some(kafka.dlq_topic.as_str())),
        ("kafka.events_topic", Some(kafka.events_topic.as_str()).filter(|_| are_there)),
        ("kafka.ack_topic", Some(kafka.ack_topic.as_str()).filter(|_| are_there)),
        ("kafka.snapshots_topic", snapshots),
    ];
    let mut meeting = Vec::new();
    for (at, (key, topic)) in topics.iter().enumerate() {
        let same = topics[..at].iter().filter(|(_, other)| topic.is_some() && topic == other);
        meeting.extend(same.map(|(before, _)| (*key, *before)));
    }
    meeting
}
