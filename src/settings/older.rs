//! What users of the older services have set: variables that change nothing here, keys of their
//! settings files, and what to write instead.

use std::collections::{BTreeMap, BTreeSet};

use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use super::compose::setting;
use super::{Composed, Origin, Outside, Resolved, SETTINGS, needed, toml_string};
use crate::app;

/// The parts of a PostgreSQL server's address, as libpq and as the older services name them. The
/// host is the one that counts.
pub(super) const POSTGRES_PARTS: [(&str, &str); 9] = [
    ("host", "POSTGRES_HOST"),
    ("port", "POSTGRES_PORT"),
    ("user", "POSTGRES_USER"),
    ("password", "POSTGRES_PASSWORD"),
    ("dbname", "POSTGRES_DB"),
    ("sslmode", "POSTGRES_SSLMODE"),
    ("sslrootcert", "POSTGRES_SSLROOTCERT"),
    ("sslcert", "POSTGRES_SSLCERT"),
    ("sslkey", "POSTGRES_SSLKEY"),
];

/// Names of databases and of their parts that say nothing here.
const DATABASES: [&str; 12] = [
    "DATABASE_URL",
    "DATABASE_DSN",
    "DB_URL",
    "DB_DSN",
    "DB_HOST",
    "DB_PORT",
    "DB_USER",
    "DB_PASSWORD",
    "DB_NAME",
    "DB_SSLMODE",
    "PG_URL",
    "PG_DSN",
];

/// What belongs to `REDIS_ADDR` where that is an address alone.
pub(super) const REDIS_PASSWORD: &str = "REDIS_PASSWORD";
pub(super) const REDIS_DB: &str = "REDIS_DB";

/// Variables that have no counterpart, and what there is instead.
const VARIABLES: &[(&str, &str)] = &[
    ("ACK_TIMEOUT", "ORDER_HTTP_WORKER_WAIT is how long a write waits for a worker"),
    ("CACHE_CAPACITY", BY_BYTES),
    ("CACHE_LIMIT", BY_BYTES),
    ("CACHE_MAX_SIZE", BY_BYTES),
    ("CACHE_SIZE", BY_BYTES),
    ("CACHE_TTL", "ORDER_CACHE_TTL is how long an order stays in memory"),
    ("MIGRATIONS_DIR", BUILT_IN),
    ("MIGRATIONS_PATH", BUILT_IN),
];
const BY_BYTES: &str = "memory for orders is bounded by bytes, with ORDER_CACHE_BYTES_MAX; without it all orders stay";
const BUILT_IN: &str = "migrations are built in; ORDER_POSTGRES_MIGRATE=no leaves them to you";
const TIMEOUTS: &str = "there are http.header_time, http.body_time and http.write_time";
const POOL: &str = "postgres.readers_max bounds the connections of reads";
const FETCH: &str = "kafka.property sets properties of librdkafka";
const NO_ENVIRONMENTS: &str = "there are no environments; log.format and log.level are what differs";

/// A Redis server by its address, password and number of the database. `None` where the address is
/// a URL, which says it all.
pub(super) fn redis_url(address: &str, password: Option<&str>, db: Option<&str>) -> Option<String> {
    if address.contains("://") || (password.is_none() && db.is_none()) {
        return None;
    }
    let password = password.map(|password| format!(":{}@", utf8_percent_encode(password, NON_ALPHANUMERIC)));
    let db = db.map(|db| format!("/{}", utf8_percent_encode(db, NON_ALPHANUMERIC)));
    Some(format!("redis://{}{address}{}", password.unwrap_or_default(), db.unwrap_or_default()))
}

/// A line for each variable that users of the older services know, that is there and changes
/// nothing.
pub(super) fn unused_variables(outside: &Outside, found: &[Resolved]) -> Vec<String> {
    let value = |name: &str| outside.environment.get(name).map(String::as_str);
    let given = |name: &str| value(name).filter(|value| !value.is_empty());
    let (mut lines, mut empty) = (Vec::new(), Vec::new());
    for (setting, found) in SETTINGS.iter().zip(found) {
        for &name in setting.env.iter().filter(|name| !name.starts_with("ORDER_")) {
            match (&found.origin, value(name)) {
                (Origin::Default, Some("")) if setting.key == "postgres.url" => {
                    lines.push(format!("{name}: is empty, so --{} is not set by it", setting.flag));
                }
                (Origin::Default, Some("")) => empty.push((name, setting.flag)),
                (Origin::Environment(used), Some(other)) if used != name && !other.is_empty() => {
                    let is_same = found.values.len() == 1 && found.values[0] == other;
                    lines.extend((!is_same).then(|| format!("{name}: changes nothing beside {used}")));
                }
                _ => {}
            }
        }
    }
    if let [(name, flag)] = empty[..] {
        lines.push(format!("{name}: is empty, so --{flag} is not set by it"));
    } else if !empty.is_empty() {
        let names: Vec<&str> = empty.iter().map(|(name, _)| *name).collect();
        let mut flags: Vec<String> = empty.iter().map(|(_, flag)| format!("--{flag}")).collect();
        flags.dedup();
        lines.push(format!("{}: are empty, so {} are not set by them", names.join(", "), flags.join(", ")));
    }
    let origin = |key: &str| found.iter().find(|found| found.key == key).map(|found| &found.origin);
    let parts = POSTGRES_PARTS.iter().flat_map(|(_, name)| [(*name).to_owned(), format!("{name}_FILE")]);
    let parts: Vec<String> = parts.filter(|name| given(name).is_some()).collect();
    match origin("postgres.url") {
        _ if parts.is_empty() => {}
        Some(Origin::Environment(used)) if used.starts_with("POSTGRES_HOST") => {}
        Some(Origin::Default) => lines.push(format!("{}: changes nothing without POSTGRES_HOST", parts.join(", "))),
        Some(Origin::Environment(used)) => lines.push(format!("{}: changes nothing beside {used}", parts.join(", "))),
        // A flag or a file that names the server is stronger on purpose.
        _ => {}
    }
    let used = found.iter().find(|found| found.key == "postgres.url").and_then(|found| found.values.first());
    let databases = DATABASES
        .iter()
        .copied()
        .filter(|name| given(name).is_some_and(|value| Some(value) != used.map(String::as_str)));
    let databases: Vec<&str> = databases.collect();
    match origin("postgres.url") {
        _ if databases.is_empty() => {}
        Some(Origin::Default) => lines.push(format!(
            "{}: changes nothing: POSTGRES_DSN, or POSTGRES_HOST with its parts, says where the database is",
            databases.join(", ")
        )),
        Some(Origin::Environment(used)) => {
            lines.push(format!("{}: changes nothing beside {used}", databases.join(", ")));
        }
        _ => {}
    }
    let is_address = origin("redis.url") == Some(&Origin::Environment("REDIS_ADDR".into()))
        && given("REDIS_ADDR").is_some_and(|address| !address.contains("://"));
    for name in [REDIS_PASSWORD, "REDIS_PASSWORD_FILE", REDIS_DB].into_iter().filter(|_| !is_address) {
        // Database 0 is the one that is used anyway.
        if given(name).is_some_and(|value| value != "0") {
            lines.push(format!("{name}: changes nothing without REDIS_ADDR as host:port; a URL has both in it"));
        }
    }
    let gone = VARIABLES.iter().filter(|(name, _)| given(name).is_some());
    lines.extend(gone.map(|(name, advice)| format!("{name}: changes nothing: {advice}")));
    lines
}

/// Whether a variable names a database, or a part of where it is.
pub(super) fn names_database(name: &str) -> bool {
    // Users and passwords by themselves name none.
    const PARTS: [&str; 4] = ["DB_PORT", "DB_USER", "DB_PASSWORD", "DB_SSLMODE"];
    let is_older = DATABASES.contains(&name) && !PARTS.contains(&name);
    is_older
        || ["DB_CONN_STR", "PGDATABASE", "PGHOST"].contains(&name)
        || name.starts_with("POSTGRES_")
        || name.ends_with("_POSTGRES_DSN")
}

/// What an older key has become.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Now {
    /// This setting.
    Setting(&'static str),
    /// A part of `listen`: `host` or `port`.
    Listen(&'static str),
    /// A part of `postgres.url`, by libpq's name.
    Postgres(&'static str),
    /// A part of `redis.url`: `host`, `port`, `password` or `db`.
    Redis(&'static str),
    /// Nothing, and what there is instead.
    Nothing(&'static str),
}

/// Sections and their keys, without case, underscores and hyphens; an empty section is the file
/// itself.
const KEYS: &[(&[&str], &[&str], Now)] = &[
    (HTTP, &["address", "addr", "listen", "listenaddr"], Now::Setting("listen")),
    (&[""], &["httpserveraddr", "httpaddr", "apiport", "httpport", "port"], Now::Setting("listen")),
    (HTTP, &["host"], Now::Listen("host")),
    (HTTP, &["port"], Now::Listen("port")),
    (HTTP, &["idletimeout"], Now::Setting("http.idle_time")),
    (HTTP, &["readtimeout"], Now::Setting("http.body_time")),
    (HTTP, &["writetimeout"], Now::Setting("http.write_time")),
    (HTTP, &["timeout"], Now::Nothing(TIMEOUTS)),
    (HTTP, &["shutdowntimeout", "gracefulshutdowntimeout"], Now::Setting("grace")),
    (&["", "app"], &["shutdowntimeout"], Now::Setting("grace")),
    (DATABASE, &["dsn", "url", "connstr", "connstring", "connectionstring"], Now::Setting("postgres.url")),
    (&[""], &["postgresdsn", "dbconnstr", "databaseurl", "apipostgresdsn"], Now::Setting("postgres.url")),
    (DATABASE, &["host"], Now::Postgres("host")),
    (DATABASE, &["port"], Now::Postgres("port")),
    (DATABASE, &["user", "username"], Now::Postgres("user")),
    (DATABASE, &["password", "pass"], Now::Postgres("password")),
    (DATABASE, &["dbname", "name", "database", "db"], Now::Postgres("dbname")),
    (DATABASE, &["sslmode"], Now::Postgres("sslmode")),
    (DATABASE, &["maxconns", "maxopenconns", "maxidleconns", "poolsize", "maxpoolsize"], Now::Nothing(POOL)),
    (DATABASE, &["migrations", "migrationspath", "migrationsdir"], Now::Nothing(BUILT_IN)),
    (&["", "migrations"], &["migrationspath", "migrationsdir", "path", "dir"], Now::Nothing(BUILT_IN)),
    (&["kafka"], &["broker", "address", "addr", "bootstrapservers", "servers"], Now::Setting("kafka.brokers")),
    (&["kafka", "kafka.consumer"], &["groupid", "consumergroup"], Now::Setting("kafka.group")),
    (&["kafka"], &["dlqtopic", "dlq", "deadlettertopic"], Now::Setting("kafka.dlq_topic")),
    (&["kafka"], &["eventstopic", "orderseventstopic"], Now::Setting("kafka.events_topic")),
    (&["kafka"], &["acktopic", "ordersacktopic"], Now::Setting("kafka.ack_topic")),
    (&["kafka"], &["workergroup"], Now::Setting("kafka.worker_group")),
    (&["kafka", "kafka.consumer"], &["minbytes", "maxbytes", "maxwait", "maxattempts"], Now::Nothing(FETCH)),
    (STREAMING, &["url", "addr", "address", "host"], Now::Setting("stan.url")),
    (STREAMING, &["clusterid", "cluster"], Now::Setting("stan.cluster")),
    (STREAMING, &["clientid", "client"], Now::Setting("stan.client")),
    (STREAMING, &["subject", "channel", "topic"], Now::Setting("stan.subject")),
    (STREAMING, &["durable", "durablename"], Now::Setting("stan.durable")),
    (STREAMING, &["ackwait"], Now::Setting("stan.ack_wait")),
    (&["redis"], &["addr", "address"], Now::Setting("redis.url")),
    (&["redis"], &["host"], Now::Redis("host")),
    (&["redis"], &["port"], Now::Redis("port")),
    (&["redis"], &["password", "pass"], Now::Redis("password")),
    (&["redis"], &["db", "database"], Now::Redis("db")),
    (&["redis"], &["expiration", "cachettl"], Now::Setting("redis.ttl")),
    (&["cache"], &["size", "capacity", "limit", "maxsize", "maxitems"], Now::Nothing(BY_BYTES)),
    (&["", "app"], &["env", "environment"], Now::Nothing(NO_ENVIRONMENTS)),
    (&["logger", "logging"], &["level"], Now::Setting("log.level")),
    (&["logger", "logging"], &["format", "type"], Now::Setting("log.format")),
    (&[""], &["loglevel"], Now::Setting("log.level")),
    (&["grpc", "grpcserver"], &["port", "address", "addr"], Now::Setting("grpc.listen")),
    (&["metrics", "prometheus"], &["port", "address", "addr"], Now::Setting("admin")),
];
const HTTP: &[&str] = &["httpserver", "http", "server", "api", "app"];
const DATABASE: &[&str] = &["postgres", "postgresql", "db", "database", "storage", "pg"];
const STREAMING: &[&str] = &["natsstreaming", "stan", "nats"];

/// What a key has become. `is_streaming` says that the file is about a NATS Streaming server, whose
/// section may have the name of JetStream's.
fn now(key: &str, is_streaming: bool) -> Option<Now> {
    let plain: String = key.chars().filter(|c| !matches!(c, '_' | '-')).collect::<String>().to_lowercase();
    let (section, name) = plain.rsplit_once('.').unwrap_or(("", &plain));
    let is_it = |(sections, names, _): &&(&[&str], &[&str], Now)| sections.contains(&section) && names.contains(&name);
    let (.., now) = KEYS.iter().find(is_it)?;
    let is_of_streaming = matches!(now, Now::Setting(key) if key.starts_with("stan."));
    (section != "nats" || !is_of_streaming || is_streaming).then_some(*now)
}

/// Whether a file is about a NATS Streaming server: JetStream has no clusters to name.
fn is_streaming<'k>(mut keys: impl Iterator<Item = &'k String>) -> bool {
    keys.any(|key| matches!(now(key, true), Some(Now::Setting("stan.cluster"))))
}

fn is_setting(key: &str) -> bool {
    SETTINGS.iter().any(|setting| setting.key == key)
}

/// A line for each key that is none of a setting: what to write instead, where it is an older
/// service's.
pub(super) fn unknown(place: &str, values: &BTreeMap<String, Vec<String>>) -> Vec<String> {
    let is_streaming = is_streaming(values.keys());
    let mut has_older = false;
    let mut line = |key: &String| {
        let Some(now) = now(key, is_streaming) else { return format!("{place}: {key}: there is no such setting") };
        has_older = true;
        match now {
            Now::Setting(now) => format!("{place}: {key}: is of an older service; write {now} instead"),
            Now::Listen(part) => format!("{place}: {key}: is of an older service; it is the {part} in listen"),
            Now::Postgres(part) => format!("{place}: {key}: is of an older service; it is {part} in postgres.url"),
            Now::Redis(part) => format!("{place}: {key}: is of an older service; it is the {part} in redis.url"),
            Now::Nothing(advice) => format!("{place}: {key}: is of an older service and has no counterpart: {advice}"),
        }
    };
    let mut lines: Vec<String> = values.keys().filter(|key| !is_setting(key)).map(&mut line).collect();
    if has_older {
        lines.push(format!("{place}: `order-service config convert {place}` writes it as it is read here"));
    }
    lines
}

/// The settings that an older file comes to, as a file of TOML, each with the key it was. What has
/// no counterpart is left out, with a line that says so. Secrets are written as they are.
///
/// What would be refused is left out too: keys that are `odd`, whose values no setting can have, and
/// values that theirs cannot have.
pub(super) fn convert(values: &BTreeMap<String, Vec<String>>, odd: &[String]) -> String {
    let is_streaming = is_streaming(values.keys());
    let (mut settings, mut left_out) = (BTreeMap::<&str, (Vec<String>, Vec<&str>)>::new(), Vec::new());
    left_out.extend(odd.iter().map(|key| format!("# {key} is left out: it is no value and no list of values\n")));
    let (mut listen, mut postgres, mut redis) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
    for (key, values) in values.iter().filter(|(_, values)| values.iter().any(|value| !value.is_empty())) {
        let part = |parts: &mut BTreeMap<_, _>, part| _ = parts.insert(part, (key.as_str(), values.join(",")));
        let own = SETTINGS.iter().find(|setting| setting.key == key).map(|setting| Now::Setting(setting.key));
        // A section of JetStream's name that is about a NATS Streaming server is not what its keys
        // say here.
        let own = own.filter(|_| !(is_streaming && key.starts_with("nats.")));
        match own.or_else(|| now(key, is_streaming)) {
            Some(Now::Setting("redis.url")) => part(&mut redis, "url"),
            Some(Now::Setting(setting)) => {
                let (into, from) = settings.entry(setting).or_default();
                into.extend(values.iter().filter(|value| !value.is_empty()).cloned());
                from.push(key);
            }
            Some(Now::Listen(name)) => part(&mut listen, name),
            Some(Now::Postgres(name)) => part(&mut postgres, name),
            Some(Now::Redis(name)) => part(&mut redis, name),
            Some(Now::Nothing(advice)) => left_out.push(format!("# {key} is left out: {advice}\n")),
            None => left_out.push(format!("# {key} is left out: there is no such setting\n")),
        }
    }
    let text = |parts: &BTreeMap<&str, (&str, String)>, name: &str| parts.get(name).map(|(_, value)| value.clone());
    let names = |parts: &BTreeMap<&str, (&'_ str, String)>| {
        parts.values().map(|(key, _)| (*key).to_owned()).collect::<Vec<_>>().join(", ")
    };
    let mut whole: BTreeMap<&str, (Vec<String>, String)> =
        settings.into_iter().map(|(key, (values, from))| (key, (values, from.join(", ")))).collect();
    let mut made = |key: &'static str, value: String, from: String| {
        if whole.contains_key(key) {
            left_out.push(format!("# {from}: left out, {key} is written already\n"));
        } else {
            whole.insert(key, (vec![value], from));
        }
    };
    if !listen.is_empty() {
        let (host, port) = (text(&listen, "host").unwrap_or_default(), text(&listen, "port"));
        made("listen", format!("{host}:{}", port.unwrap_or_else(|| "8080".into())), names(&listen));
    }
    if !postgres.is_empty() {
        postgres.entry("host").or_insert(("its default", "localhost".to_owned()));
        let quoted = |value: &String| value.replace('\\', "\\\\").replace('\'', "\\'");
        let pairs = postgres.iter().map(|(part, (_, value))| format!("{part}='{}'", quoted(value)));
        made("postgres.url", pairs.collect::<Vec<_>>().join(" "), names(&postgres));
    }
    if !redis.is_empty() {
        let by_parts =
            || Some(format!("{}:{}", text(&redis, "host")?, text(&redis, "port").unwrap_or_else(|| "6379".into())));
        let address = text(&redis, "url").or_else(by_parts).unwrap_or_else(|| "127.0.0.1:6379".into());
        let [password, db] = ["password", "db"].map(|part| text(&redis, part).filter(|value| !value.is_empty()));
        let url = redis_url(&address, password.as_deref(), db.as_deref()).unwrap_or(address);
        made("redis.url", url, names(&redis));
    }
    written(&whole) + &left_out.concat()
}

/// A line for each setting, with what it was; those that would be refused as comments at the end.
fn written(settings: &BTreeMap<&str, (Vec<String>, String)>) -> String {
    let (mut lines, mut refused) = (Vec::new(), Vec::new());
    // One that is refused is not there for those that need it.
    let mut set: BTreeSet<&str> = settings.keys().copied().collect();
    for is_last in [false, true] {
        for (key, (values, from)) in settings {
            let setting = setting(key);
            let applied = (setting.apply)(&mut app::Config::default(), values);
            match applied.and_then(|()| needed(setting, values, &set)) {
                Ok(()) if is_last => lines.push(line(setting, values, from)),
                Err(message) if is_last => {
                    let key = if from == key { String::new() } else { format!("{key}: ") };
                    refused.push(format!("# {from} is left out: {key}{}\n", message.replace('\n', " ")));
                }
                Ok(()) => {}
                Err(_) => _ = set.remove(key),
            }
        }
    }
    lines.concat() + &refused.concat()
}

fn line(setting: &Composed, values: &[String], from: &str) -> String {
    let value = match values {
        values if setting.is_repeated => {
            format!("[{}]", values.iter().map(|value| toml_string(value)).collect::<Vec<_>>().join(", "))
        }
        values => toml_string(&values.join(",")),
    };
    format!("{} = {value}  # {from}\n", setting.key)
}
