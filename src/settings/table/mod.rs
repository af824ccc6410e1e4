//! Every setting: its key, flag, environment variables, default and what it sets.

mod access;
mod ingest;
#[cfg(feature = "kafka")]
mod kafka;
mod places;
mod process;
mod sources;
mod stores;
mod streams;
mod surfaces;

use std::path::PathBuf;

use hyper::header::HeaderValue;

#[cfg(feature = "kafka")]
use super::parse::{brokers, topic};
use super::parse::{bytes, count, duration, endpoint, escapes, origin, postgres};
#[cfg(feature = "kafka")]
use super::properties;
use super::{Given, flag_and_variable};
use crate::access::address::Proxies;
use crate::access::keys::Keys;
use crate::access::rate::Rate;
use crate::access::{TokenConfig, audit, jwks, jwt};
use crate::app::{Config, Runtime};
#[cfg(feature = "kafka")]
use crate::kafka::{Snapshots, Workers};
use crate::listen::Endpoint;
use crate::{nats, stan};

/// One setting.
#[derive(Clone, Copy)]
pub struct Setting {
    /// Its key in a settings file.
    pub key: &'static str,
    /// Its flag, without the dashes.
    pub flag: &'static str,
    /// Its environment variables, the first one the preferred, the others for users of the older services.
    pub env: &'static [&'static str],
    /// What its value is, for the help.
    pub value: &'static str,
    /// What it is for.
    pub help: &'static str,
    /// Its default as text; empty when there is none.
    pub default: &'static str,
    /// It is a detail of a part that is on when any of these is set, by key: without one of them it
    /// would change nothing.
    pub needs: &'static [&'static str],
    /// May be given several times.
    pub is_repeated: bool,
    /// Never shown, and readable from the file that `…_FILE` names.
    pub is_secret: bool,
    /// Shown by `--help` only, not by `-h`.
    pub is_detail: bool,
    /// The flag alone says yes.
    pub is_switch: bool,
    /// Sets it; the error says what is wrong with the value.
    pub apply: fn(&mut Config, &[String]) -> Result<(), String>,
}

const PLAIN: Setting = Setting {
    key: "",
    flag: "",
    env: &[],
    value: "",
    help: "",
    default: "",
    needs: &[],
    is_repeated: false,
    is_secret: false,
    is_detail: false,
    is_switch: false,
    apply: |_, _| Ok(()),
};
const DETAIL: Setting = Setting { is_detail: true, ..PLAIN };
const OF_BOUNDED_CACHE: Setting = Setting { needs: &["cache.bytes_max", "cache.ttl"], ..DETAIL };
const OF_GRPC: Setting = Setting { needs: &["grpc.listen"], ..DETAIL };
const OF_TOKENS: Setting = Setting { needs: &["auth.jwks"], ..PLAIN };
const OF_KAFKA: Setting = Setting { needs: &["kafka.brokers"], ..DETAIL };
const OF_NATS: Setting = Setting { needs: &["nats.url"], ..DETAIL };
const OF_STAN: Setting = Setting { needs: &["stan.url"], ..DETAIL };
const OF_POSTGRES: Setting = Setting { needs: &["postgres.url"], ..DETAIL };
const OF_REDIS: Setting = Setting { needs: &["redis.url"], ..DETAIL };

/// The one value of a setting that is not repeated.
fn one(values: &[String]) -> Result<&str, String> {
    match values {
        [value] => Ok(value),
        _ => Err("takes one value".into()),
    }
}

/// The path of a file.
fn file(values: &[String]) -> Result<std::path::PathBuf, String> {
    match one(values)?.trim() {
        "" => Err("names no file".into()),
        path => Ok(path.into()),
    }
}

/// The value of a setting that is on or off.
fn yes_or_no(text: &str) -> Result<bool, String> {
    match text {
        "yes" | "true" => Ok(true),
        "no" | "false" => Ok(false),
        other => Err(format!("{other:?} is neither yes nor no")),
    }
}

/// Changes a detail of tokens. Without their keys there is nothing to change: these come first in
/// the table.
fn on_tokens(config: &mut Config, change: impl FnOnce(&mut TokenConfig)) {
    if let Some(tokens) = &mut config.access.tokens {
        change(tokens);
    }
}

/// Changes a detail of the PostgreSQL store. Without a server there is nothing to change: its URL comes first in the
/// table.
fn on_postgres(config: &mut Config, change: impl FnOnce(&mut crate::store::postgres::Config)) {
    if let Some(postgres) = &mut config.store.postgres {
        change(postgres);
    }
}

/// Changes a detail of Kafka. Without brokers there is nothing to change: they come first in the table.
#[cfg(feature = "kafka")]
fn on_kafka(config: &mut Config, change: impl FnOnce(&mut crate::kafka::Config)) {
    if let Some(kafka) = &mut config.kafka {
        change(kafka);
    }
}

/// Changes a detail of Redis. Without a server there is nothing to change: it comes first in the table.
fn on_redis(config: &mut Config, change: impl FnOnce(&mut crate::redis::Config)) {
    if let Some(redis) = &mut config.redis {
        change(redis);
    }
}

/// A duration that is neither nothing nor endless.
fn between(text: &str, least: &str, most: &str) -> Result<std::time::Duration, String> {
    let value = duration(text)?;
    if (duration(least)?..=duration(most)?).contains(&value) {
        Ok(value)
    } else {
        Err(format!("{text:?} is not between {least} and {most}"))
    }
}

/// Changes a detail of NATS. Without a server there is nothing to change: its URL comes first in the table.
fn on_nats(config: &mut Config, change: impl FnOnce(&mut nats::Config)) {
    if let Some(nats) = &mut config.nats {
        change(nats);
    }
}

/// Changes a detail of NATS Streaming. Without a server there is nothing to change: its URL comes
/// first in the table.
fn on_stan(config: &mut Config, change: impl FnOnce(&mut stan::Config)) {
    if let Some(stan) = &mut config.stan {
        change(stan);
    }
}

/// Settings by what they are about. An owner comes before its details, which have nothing to change
/// without it.
const PARTS: &[&[Setting]] = &[
    places::SETTINGS,
    access::SETTINGS,
    sources::SETTINGS,
    process::SETTINGS,
    ingest::SETTINGS,
    surfaces::SETTINGS,
    #[cfg(feature = "kafka")]
    kafka::SETTINGS,
    streams::SETTINGS,
    stores::SETTINGS,
];

/// Every setting there is.
pub const SETTINGS: &[Setting] = &joined::<{ total(PARTS) }>(PARTS);

const fn total(parts: &[&[Setting]]) -> usize {
    let (mut total, mut part) = (0, 0);
    while part < parts.len() {
        total += parts[part].len();
        part += 1;
    }
    total
}

const fn joined<const N: usize>(parts: &[&[Setting]]) -> [Setting; N] {
    let mut all = [PLAIN; N];
    let (mut at, mut part) = (0, 0);
    while part < parts.len() {
        let mut index = 0;
        while index < parts[part].len() {
            all[at] = parts[part][index];
            at += 1;
            index += 1;
        }
        part += 1;
    }
    all
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
pub(super) fn contradictions(config: &Config, given: Given<'_>) -> Vec<String> {
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
