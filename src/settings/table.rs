//! Every setting: its key, flag, environment variables, default and what it sets.

use std::path::PathBuf;

use hyper::header::HeaderValue;

#[cfg(feature = "kafka")]
use super::parse::{brokers, topic};
use super::parse::{bytes, count, duration, endpoint, origin};
#[cfg(feature = "kafka")]
use super::properties;
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

/// Every setting there is.
pub const SETTINGS: &[Setting] = &[
    Setting {
        key: "listen",
        flag: "listen",
        env: &["ORDER_LISTEN", "HTTP_SERVER_ADDR", "API_PORT", "HTTP_PORT"],
        value: "ADDR",
        help: "Where to answer, several with commas: ADDR, tls:ADDR or unix:PATH; :8080 is every address of this host",
        default: "127.0.0.1:8080",
        is_repeated: true,
        apply: |config, values| {
            let values = values.iter().flat_map(|value| value.split(','));
            config.http.listen = values.map(endpoint).collect::<Result<_, _>>()?;
            if config.http.listen.is_empty() { Err("needs at least one address".into()) } else { Ok(()) }
        },
        ..PLAIN
    },
    Setting {
        key: "grpc.listen",
        flag: "grpc",
        env: &["ORDER_GRPC", "GRPC_ADDR", "GRPC_PORT"],
        value: "ADDR",
        help: "Where to answer gRPC: ADDR such as 127.0.0.1:50051, tls:ADDR or unix:PATH; nowhere when not set",
        apply: |config, values| {
            config.grpc.listen = Some(endpoint(one(values)?)?);
            Ok(())
        },
        ..PLAIN
    },
    Setting {
        key: "admin",
        flag: "admin",
        env: &["ORDER_ADMIN"],
        value: "ADDR",
        help: "Another place for metrics and health, on a thread of its own: ADDR, tls:ADDR or unix:PATH",
        apply: |config, values| {
            config.admin = Some(endpoint(one(values)?)?);
            Ok(())
        },
        ..PLAIN
    },
    Setting {
        key: "tls.cert",
        flag: "tls-cert",
        env: &["ORDER_TLS_CERT"],
        value: "FILE",
        help: "Certificate of tls: listeners with its chain, PEM; read again when it changes and on SIGHUP",
        apply: |config, values| {
            config.tls.get_or_insert_default().cert = file(values)?;
            Ok(())
        },
        ..PLAIN
    },
    Setting {
        key: "tls.key",
        flag: "tls-key",
        env: &["ORDER_TLS_KEY"],
        value: "FILE",
        help: "Its private key, PEM",
        needs: &["tls.cert"],
        apply: |config, values| {
            config.tls.get_or_insert_default().key = file(values)?;
            Ok(())
        },
        ..PLAIN
    },
    Setting {
        key: "tls.client_ca",
        flag: "tls-client-ca",
        env: &["ORDER_TLS_CLIENT_CA"],
        value: "FILE",
        help: "Authorities whose certificates clients must show on tls: listeners, PEM; none are asked for when not set",
        needs: &["tls.cert"],
        apply: |config, values| {
            config.tls.get_or_insert_default().client_ca = Some(file(values)?);
            Ok(())
        },
        ..PLAIN
    },
    Setting {
        key: "tls.client_auth",
        flag: "tls-client-auth",
        env: &["ORDER_TLS_CLIENT_AUTH"],
        value: "required|optional",
        help: "Whether a client without a certificate is let in",
        default: "required",
        needs: &["tls.client_ca"],
        apply: |config, values| {
            let is_optional = match one(values)? {
                "required" => false,
                "optional" => true,
                other => return Err(format!("{other:?} is neither required nor optional")),
            };
            // Without a certificate there is nothing to change: it comes first in the table.
            if let Some(tls) = &mut config.tls {
                tls.is_client_optional = is_optional;
            }
            Ok(())
        },
        ..DETAIL
    },
    Setting {
        key: "auth.keys",
        flag: "auth-keys",
        env: &["ORDER_AUTH_KEYS"],
        value: "FILE",
        help: "Keys of callers, as TOML (order-service keys new makes them); read again when it changes",
        apply: |config, values| {
            let path = std::path::PathBuf::from(one(values)?);
            let text = std::fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
            Keys::parse(&text).map_err(|error| format!("{}: {error}", path.display()))?;
            config.access.keys = Some(path);
            Ok(())
        },
        ..PLAIN
    },
    Setting {
        key: "auth.jwks",
        flag: "auth-jwks",
        env: &["ORDER_AUTH_JWKS"],
        value: "URL|FILE",
        help: "Public keys (JWKS) of who signs the tokens of callers; needs --auth-issuer and --auth-audience",
        apply: |config, values| {
            let source = jwks::Source::parse(one(values)?)?;
            if let jwks::Source::File(path) = &source {
                let wrong = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
                let text = std::fs::read(path).map_err(|error| wrong(&error))?;
                let set = jwt::KeySet::parse(&text).and_then(jwt::KeySet::usable);
                set.map_err(|error| wrong(&error))?;
            }
            let rules = jwt::Rules { issuer: String::new(), audience: String::new() };
            config.access.tokens = Some(TokenConfig { source, rules });
            Ok(())
        },
        ..PLAIN
    },
    Setting {
        key: "auth.issuer",
        flag: "auth-issuer",
        env: &["ORDER_AUTH_ISSUER"],
        value: "TEXT",
        help: "What tokens must have as iss",
        apply: |config, values| {
            let issuer = one(values)?.to_owned();
            on_tokens(config, |tokens| tokens.rules.issuer = issuer);
            Ok(())
        },
        ..OF_TOKENS
    },
    Setting {
        key: "auth.audience",
        flag: "auth-audience",
        env: &["ORDER_AUTH_AUDIENCE"],
        value: "TEXT",
        help: "What tokens must have as aud, or among it",
        apply: |config, values| {
            let audience = one(values)?.to_owned();
            on_tokens(config, |tokens| tokens.rules.audience = audience);
            Ok(())
        },
        ..OF_TOKENS
    },
    Setting {
        key: "rate_limit",
        flag: "rate-limit",
        env: &["ORDER_RATE_LIMIT"],
        value: "N/s",
        help: "Requests a second of each caller, or of each address where no key is shown; twice as many at once",
        apply: |config, values| {
            config.access.rate = Some(Rate::parse(one(values)?)?);
            Ok(())
        },
        ..PLAIN
    },
    Setting {
        key: "audit.file",
        flag: "audit",
        env: &["ORDER_AUDIT"],
        value: "FILE|-",
        help: "Note every write and refused access there, as lines of JSON; - is standard output",
        apply: |config, values| {
            config.access.audit = Some(audit::Target::parse(one(values)?));
            Ok(())
        },
        ..PLAIN
    },
    Setting {
        key: "audit.reads",
        flag: "audit-reads",
        env: &["ORDER_AUDIT_READS"],
        value: "yes|no",
        help: "Note reads too",
        default: "no",
        needs: &["audit.file"],
        apply: |config, values| {
            config.access.audit_reads = yes_or_no(one(values)?)?;
            Ok(())
        },
        ..PLAIN
    },
    Setting {
        key: "trusted_proxies",
        flag: "trusted-proxies",
        env: &["ORDER_TRUSTED_PROXIES"],
        value: "CIDR",
        help: "Proxies that say where a request comes from: X-Forwarded-For, Forwarded, PROXY protocol",
        is_repeated: true,
        needs: &["rate_limit", "audit.file", "auth.keys", "auth.jwks"],
        apply: |config, values| {
            config.access.proxies = Proxies::parse(values)?;
            Ok(())
        },
        ..PLAIN
    },
    Setting {
        key: "data",
        flag: "data",
        env: &["ORDER_DATA"],
        value: "DIR",
        help: "Directory of the embedded store",
        default: "data",
        apply: |config, values| {
            config.store.embedded.dir = PathBuf::from(one(values)?);
            Ok(())
        },
        ..PLAIN
    },
    Setting {
        key: "postgres.url",
        flag: "postgres",
        env: &["POSTGRES_DSN", "DB_CONN_STR", "API_POSTGRES_DSN", "WORKER_POSTGRES_DSN"],
        value: "URL",
        help: "PostgreSQL server to keep the orders in, instead of the embedded store",
        is_secret: true,
        apply: |config, values| {
            let postgres = crate::store::postgres::Config::parse(one(values)?)?;
            config.store.postgres = Some(postgres);
            Ok(())
        },
        ..PLAIN
    },
    Setting {
        key: "kafka.brokers",
        flag: "kafka",
        env: &["KAFKA_BROKERS"],
        value: "BROKERS",
        help: "Kafka to take orders from: host:port, several separated by commas",
        apply: |config, values| {
            #[cfg(feature = "kafka")]
            {
                config.kafka = Some(crate::kafka::Config::new(brokers(&values.join(","))?));
                Ok(())
            }
            #[cfg(not(feature = "kafka"))]
            {
                let _ = (config, values);
                Err("this build has no Kafka".into())
            }
        },
        ..PLAIN
    },
    Setting {
        key: "redis.url",
        flag: "redis",
        env: &["REDIS_ADDR"],
        value: "ADDR",
        help: "Redis as a second-level cache, for reads that miss the view: host:port, redis://user:password@host:port/db, rediss:// with TLS",
        is_secret: true,
        apply: |config, values| {
            config.redis = Some(crate::redis::Config::parse(one(values)?)?);
            Ok(())
        },
        ..PLAIN
    },
    Setting {
        key: "nats.url",
        flag: "nats",
        env: &["NATS_URL"],
        value: "URL",
        help: "NATS JetStream to take orders from: nats://user:password@host:4222, tls:// with TLS, several separated by commas",
        is_secret: true,
        apply: |config, values| {
            config.nats = Some(crate::nats::Config::new(one(values)?)?);
            Ok(())
        },
        ..PLAIN
    },
    Setting {
        key: "stan.url",
        flag: "stan",
        env: &["STAN_URL", "NATS_STREAMING_URL"],
        value: "URL",
        help: "NATS Streaming to take orders from: nats://user:password@host:4222, several separated by commas",
        is_secret: true,
        apply: |config, values| {
            config.stan = Some(stan::Config::new(one(values)?)?);
            Ok(())
        },
        ..PLAIN
    },
    Setting {
        key: "sample",
        flag: "sample",
        env: &["ORDER_SAMPLE"],
        value: "N",
        help: "Start with N generated orders when the store is empty",
        default: "0",
        apply: |config, values| {
            config.sample = count(one(values)?, 0)? as u64;
            Ok(())
        },
        ..PLAIN
    },
    Setting {
        key: "profile",
        flag: "profile",
        env: &["ORDER_PROFILE"],
        value: "PROFILE",
        help: "How strictly orders are checked: lenient, wb or strict",
        default: "wb",
        apply: |config, values| {
            config.ingest.profile = one(values)?.parse().map_err(str::to_owned)?;
            Ok(())
        },
        ..PLAIN
    },
    Setting {
        key: "log.format",
        flag: "log",
        env: &["ORDER_LOG"],
        value: "FORMAT",
        help: "Log lines as json or text",
        default: "text",
        apply: |config, values| {
            config.log = one(values)?.parse().map_err(str::to_owned)?;
            Ok(())
        },
        ..PLAIN
    },
    Setting {
        key: "log.level",
        flag: "log-level",
        env: &["ORDER_LOG_LEVEL", "LOG_LEVEL"],
        value: "LEVEL",
        help: "Least level of log lines: error, warn, info, debug, trace, or tracing directives",
        default: "info",
        apply: |config, values| {
            let filter = one(values)?;
            tracing_subscriber::EnvFilter::try_new(filter).map_err(|error| format!("{filter:?}: {error}"))?;
            filter.clone_into(&mut config.log_filter);
            Ok(())
        },
        ..PLAIN
    },
    Setting {
        key: "log.orders",
        flag: "log-orders",
        env: &["ORDER_LOG_ORDERS"],
        value: "yes|no",
        help: "A log line for each stored order; each line costs more than the order",
        default: "no",
        is_switch: true,
        apply: |config, values| {
            config.ingest.log_orders = yes_or_no(one(values)?)?;
            Ok(())
        },
        ..DETAIL
    },
    Setting {
        key: "threads",
        flag: "threads",
        env: &["ORDER_THREADS"],
        value: "N",
        help: "Threads that serve requests; as many as there are cores when not set",
        apply: |config, values| {
            let threads = count(one(values)?, 1)?;
            if threads > 1024 {
                return Err("at most 1024".into());
            }
            config.threads = Some(threads);
            Ok(())
        },
        ..DETAIL
    },
    Setting {
        key: "runtime",
        flag: "runtime",
        env: &["ORDER_RUNTIME"],
        value: "shared|per-core",
        default: "shared",
        help: "Who takes a request: any thread that is free, or the thread and core its connection belongs to",
        apply: |config, values| {
            config.runtime = match one(values)? {
                "shared" => Runtime::Shared,
                "per-core" => Runtime::PerCore,
                other => return Err(format!("{other:?} is neither shared nor per-core")),
            };
            Ok(())
        },
        ..DETAIL
    },
    Setting {
        key: "huge_pages",
        flag: "huge-pages",
        env: &["ORDER_HUGE_PAGES"],
        value: "yes|no",
        help: "Memory in huge pages where Linux has them: a read among millions of orders costs less, the slowest wait longer",
        default: "no",
        apply: |config, values| {
            config.huge_pages = yes_or_no(one(values)?)?;
            Ok(())
        },
        ..DETAIL
    },
    Setting {
        key: "ready_needs_store",
        flag: "ready-needs-store",
        env: &["ORDER_READY_NEEDS_STORE"],
        value: "yes|no",
        help: "Whether /readyz says no while PostgreSQL does not answer; without it reads from memory go on",
        default: "no",
        apply: |config, values| {
            config.ready_needs_store = yes_or_no(one(values)?)?;
            Ok(())
        },
        ..OF_POSTGRES
    },
    Setting {
        key: "grace",
        flag: "grace",
        env: &["ORDER_GRACE"],
        value: "TIME",
        help: "How long a stop may take",
        default: "30s",
        apply: |config, values| {
            config.grace = duration(one(values)?)?;
            Ok(())
        },
        ..DETAIL
    },
    Setting {
        key: "order_bytes_max",
        flag: "order-bytes-max",
        env: &["ORDER_BYTES_MAX"],
        value: "BYTES",
        help: "Largest order",
        default: "1MiB",
        apply: |config, values| {
            let bytes = bytes(one(values)?)?;
            config.ingest.order_bytes_max = bytes;
            config.http.order_bytes_max = bytes;
            #[cfg(feature = "kafka")]
            on_kafka(config, |kafka| kafka.order_bytes_max = bytes);
            Ok(())
        },
        ..DETAIL
    },
    Setting {
        key: "list.max",
        flag: "list-max",
        env: &["ORDER_LIST_MAX"],
        value: "N",
        help: "Orders in a list",
        default: "1000",
        apply: |config, values| {
            config.cache.list_max = count(one(values)?, 1)?;
            Ok(())
        },
        ..DETAIL
    },
    Setting {
        key: "list.refresh",
        flag: "list-refresh",
        env: &["ORDER_LIST_REFRESH"],
        value: "TIME",
        help: "Least time between two makings of the list",
        default: "20ms",
        apply: |config, values| {
            config.cache.list_refresh = duration(one(values)?)?;
            Ok(())
        },
        ..DETAIL
    },
    Setting {
        key: "list.compress",
        flag: "list-compress",
        env: &["ORDER_LIST_COMPRESS"],
        value: "yes|no",
        help: "Answer the whole list as zstd or gzip to clients that take it so",
        default: "yes",
        apply: |config, values| {
            config.cache.list_compress = yes_or_no(one(values)?)?;
            Ok(())
        },
        ..DETAIL
    },
    Setting {
        key: "cache.bytes_max",
        flag: "cache-bytes-max",
        env: &["ORDER_CACHE_BYTES_MAX"],
        value: "BYTES",
        help: "Memory for orders; the least read leave and are read from the store [default: all orders stay]",
        apply: |config, values| {
            let bytes = bytes(one(values)?)?;
            if bytes < 1 << 20 {
                return Err("must be at least 1MiB".into());
            }
            config.cache.bytes_max = Some(bytes as u64);
            Ok(())
        },
        ..DETAIL
    },
    Setting {
        key: "cache.ttl",
        flag: "cache-ttl",
        env: &["ORDER_CACHE_TTL"],
        value: "TIME",
        help: "How long an order stays in memory after it came, in whole seconds [default: for ever]",
        apply: |config, values| {
            let ttl = duration(one(values)?)?;
            if ttl.subsec_nanos() > 0 || ttl.is_zero() {
                return Err("must be whole seconds, at least 1s".into());
            }
            config.cache.ttl = Some(ttl);
            Ok(())
        },
        ..DETAIL
    },
    Setting {
        key: "cache.warm_max",
        flag: "cache-warm-max",
        env: &["ORDER_CACHE_WARM_MAX"],
        value: "N",
        help: "Newest orders to load at the start, beside cache.bytes_max or cache.ttl [default: all that fit]",
        apply: |config, values| {
            config.cache.warm_max = Some(count(one(values)?, 0)? as u64);
            Ok(())
        },
        ..OF_BOUNDED_CACHE
    },
    Setting {
        key: "batch.rows_max",
        flag: "batch-rows-max",
        env: &["ORDER_BATCH_ROWS_MAX"],
        value: "N",
        help: "Orders committed together",
        default: "4000",
        apply: |config, values| {
            config.ingest.batch.batch_rows_max = count(one(values)?, 1)?;
            Ok(())
        },
        ..DETAIL
    },
    Setting {
        key: "batch.bytes_max",
        flag: "batch-bytes-max",
        env: &["ORDER_BATCH_BYTES_MAX"],
        value: "BYTES",
        help: "Bytes of orders committed together",
        default: "16MiB",
        apply: |config, values| {
            config.ingest.batch.batch_bytes_max = bytes(one(values)?)?;
            Ok(())
        },
        ..DETAIL
    },
    Setting {
        key: "queue.rows_max",
        flag: "queue-rows-max",
        env: &["ORDER_QUEUE_ROWS_MAX"],
        value: "N",
        help: "Orders that may wait to be taken up; more are answered 503",
        default: "4096",
        apply: |config, values| {
            config.inbox.queue_rows_max = count(one(values)?, 1)?;
            Ok(())
        },
        ..DETAIL
    },
    Setting {
        key: "queue.bytes_max",
        flag: "queue-bytes-max",
        env: &["ORDER_QUEUE_BYTES_MAX"],
        value: "BYTES",
        help: "Bytes of orders that may wait for their answer, and again of bodies that may be on their way; more are answered 503",
        default: "64MiB",
        apply: |config, values| {
            config.inbox.queue_bytes_max = bytes(one(values)?)?;
            Ok(())
        },
        ..DETAIL
    },
    Setting {
        key: "http.connections_max",
        flag: "http-connections-max",
        env: &["ORDER_HTTP_CONNECTIONS_MAX"],
        value: "N",
        help: "Connections at once; beyond it the longest idle make room",
        default: "20000",
        apply: |config, values| {
            config.http.connections_max = count(one(values)?, 1)?;
            Ok(())
        },
        ..DETAIL
    },
    Setting {
        key: "http.header_bytes_max",
        flag: "http-header-bytes-max",
        env: &["ORDER_HTTP_HEADER_BYTES_MAX"],
        value: "BYTES",
        help: "Largest head of a request, at least 8KiB",
        default: "64KiB",
        apply: |config, values| {
            let bytes = bytes(one(values)?)?;
            config.http.header_bytes_max = bytes;
            if bytes < 8192 { Err("must be at least 8KiB".into()) } else { Ok(()) }
        },
        ..DETAIL
    },
    Setting {
        key: "http.headers_max",
        flag: "http-headers-max",
        env: &["ORDER_HTTP_HEADERS_MAX"],
        value: "N",
        help: "Header fields of a request",
        default: "100",
        apply: |config, values| {
            config.http.headers_max = count(one(values)?, 8)?;
            Ok(())
        },
        ..DETAIL
    },
    Setting {
        key: "http.header_time",
        flag: "http-header-time",
        env: &["ORDER_HTTP_HEADER_TIME"],
        value: "TIME",
        help: "Time for the head of a request",
        default: "10s",
        apply: |config, values| {
            config.http.limits.header_time = duration(one(values)?)?;
            Ok(())
        },
        ..DETAIL
    },
    Setting {
        key: "http.idle_time",
        flag: "http-idle-time",
        env: &["ORDER_HTTP_IDLE_TIME"],
        value: "TIME",
        help: "Time between two requests of a connection",
        default: "75s",
        apply: |config, values| {
            config.http.limits.idle_time = duration(one(values)?)?;
            Ok(())
        },
        ..DETAIL
    },
    Setting {
        key: "http.answer_bytes_max",
        flag: "http-answer-bytes-max",
        env: &["ORDER_HTTP_ANSWER_BYTES_MAX"],
        value: "BYTES",
        help: "The largest answer with several orders: a page ends sooner, a look-up by ids beyond it is 413",
        default: "64MiB",
        apply: |config, values| {
            config.http.answer_bytes_max = bytes(one(values)?)?;
            config.cache.list_bytes_max = config.http.answer_bytes_max;
            Ok(())
        },
        ..DETAIL
    },
    Setting {
        key: "http.body_time",
        flag: "http-body-time",
        env: &["ORDER_HTTP_BODY_TIME"],
        value: "TIME",
        help: "Time for the body of a request, or for the next piece of a streamed one",
        default: "20s",
        apply: |config, values| {
            config.http.body_time = duration(one(values)?)?;
            Ok(())
        },
        ..DETAIL
    },
    Setting {
        key: "http.write_time",
        flag: "http-write-time",
        env: &["ORDER_HTTP_WRITE_TIME"],
        value: "TIME",
        help: "Time for a client to take up anything at all of an answer",
        default: "30s",
        apply: |config, values| {
            config.http.limits.write_time = duration(one(values)?)?;
            Ok(())
        },
        ..DETAIL
    },
    Setting {
        key: "http.commit_wait",
        flag: "http-commit-wait",
        env: &["ORDER_HTTP_COMMIT_WAIT"],
        value: "TIME",
        help: "How long a write may wait to become durable before it is answered 503",
        default: "10s",
        apply: |config, values| {
            config.http.write_wait = duration(one(values)?)?;
            Ok(())
        },
        ..DETAIL
    },
    Setting {
        key: "http.worker_wait",
        flag: "http-worker-wait",
        env: &["ORDER_HTTP_WORKER_WAIT"],
        value: "TIME",
        help: "How long a write waits for a worker before it is answered 202",
        default: "5s",
        apply: |config, values| {
            config.http.worker_wait = duration(one(values)?)?;
            Ok(())
        },
        ..OF_KAFKA
    },
    Setting {
        key: "http.cors_origin",
        flag: "http-cors-origin",
        env: &["ORDER_HTTP_CORS_ORIGIN"],
        value: "ORIGIN",
        help: "Whose pages may read: * for all, origins such as https://shop.test with commas, or none",
        default: "*",
        apply: |config, values| {
            config.http.cors_origins = match one(values)? {
                "none" => Vec::new(),
                "*" => vec![HeaderValue::from_static("*")],
                origins => origins.split(',').map(|text| origin(text.trim())).collect::<Result<_, _>>()?,
            };
            Ok(())
        },
        ..DETAIL
    },
    Setting {
        key: "grpc.connections_max",
        flag: "grpc-connections-max",
        env: &["ORDER_GRPC_CONNECTIONS_MAX"],
        value: "N",
        help: "Connections of gRPC at once; the next ones wait",
        default: "1000",
        apply: |config, values| {
            let most = count(one(values)?, 1)?;
            config.grpc.connections_max = u32::try_from(most).map_err(|_| format!("{most} is too many"))?;
            Ok(())
        },
        ..OF_GRPC
    },
    Setting {
        key: "grpc.streams_max",
        flag: "grpc-streams-max",
        env: &["ORDER_GRPC_STREAMS_MAX"],
        value: "N",
        help: "Calls of one connection at once",
        default: "100",
        apply: |config, values| {
            let most = count(one(values)?, 1)?;
            config.grpc.streams_max = u32::try_from(most).map_err(|_| format!("{most} is too many"))?;
            Ok(())
        },
        ..OF_GRPC
    },
    Setting {
        key: "grpc.idle_time",
        flag: "grpc-idle-time",
        env: &["ORDER_GRPC_IDLE_TIME"],
        value: "TIME",
        help: "Time between two calls of a connection",
        default: "5m",
        apply: |config, values| {
            config.grpc.idle_time = duration(one(values)?)?;
            Ok(())
        },
        ..OF_GRPC
    },
    Setting {
        key: "events.streams_max",
        flag: "events-streams-max",
        env: &["ORDER_EVENTS_STREAMS_MAX"],
        value: "N",
        help: "Event streams at once",
        default: "2000",
        apply: |config, values| {
            config.http.streams_max = count(one(values)?, 0)?;
            Ok(())
        },
        ..DETAIL
    },
    Setting {
        key: "events.kept_max",
        flag: "events-kept-max",
        env: &["ORDER_EVENTS_KEPT_MAX"],
        value: "N",
        help: "Changes kept for event streams that were unavailable",
        default: "16384",
        apply: |config, values| {
            config.cache.feed_events_max = count(one(values)?, 1)?;
            Ok(())
        },
        ..DETAIL
    },
    Setting {
        key: "events.heartbeat",
        flag: "events-heartbeat",
        env: &["ORDER_EVENTS_HEARTBEAT"],
        value: "TIME",
        help: "How often a quiet event stream says that it is alive",
        default: "15s",
        apply: |config, values| {
            config.http.heartbeat = duration(one(values)?)?;
            Ok(())
        },
        ..DETAIL
    },
    #[cfg(feature = "kafka")]
    Setting {
        key: "kafka.topic",
        flag: "kafka-topic",
        env: &["KAFKA_TOPIC"],
        value: "TOPIC",
        help: "Topic to take orders from",
        default: "orders",
        apply: |config, values| {
            let value = topic(one(values)?)?;
            on_kafka(config, |kafka| kafka.topic = value);
            Ok(())
        },
        ..OF_KAFKA
    },
    #[cfg(feature = "kafka")]
    Setting {
        key: "kafka.group",
        flag: "kafka-group",
        env: &["KAFKA_GROUP_ID"],
        value: "GROUP",
        help: "Consumer group that shares the partitions",
        default: "order-service",
        apply: |config, values| {
            let value = one(values)?.to_owned();
            on_kafka(config, |kafka| kafka.group = value);
            Ok(())
        },
        ..OF_KAFKA
    },
    #[cfg(feature = "kafka")]
    Setting {
        key: "kafka.dlq_topic",
        flag: "kafka-dlq-topic",
        env: &["KAFKA_DLQ_TOPIC", "ORDER_KAFKA_DLQ_TOPIC"],
        value: "TOPIC",
        help: "Topic for messages that are no valid order",
        default: "orders.dlq",
        apply: |config, values| {
            let value = topic(one(values)?)?;
            on_kafka(config, |kafka| kafka.dlq_topic = value);
            Ok(())
        },
        ..OF_KAFKA
    },
    #[cfg(feature = "kafka")]
    Setting {
        key: "kafka.events_topic",
        flag: "kafka-events-topic",
        env: &["ORDERS_EVENTS_TOPIC"],
        value: "TOPIC",
        help: "Topic for writes that a worker is to process; to name it says that there is one",
        default: "orders.events",
        apply: |config, values| {
            let value = topic(one(values)?)?;
            on_kafka(config, |kafka| (kafka.events_topic, kafka.workers) = (value, Workers::On));
            Ok(())
        },
        ..OF_KAFKA
    },
    #[cfg(feature = "kafka")]
    Setting {
        key: "kafka.ack_topic",
        flag: "kafka-ack-topic",
        env: &["ORDERS_ACK_TOPIC"],
        value: "TOPIC",
        help: "Topic where workers say what they have processed; to name it says that there is one",
        default: "orders.ack",
        apply: |config, values| {
            let value = topic(one(values)?)?;
            on_kafka(config, |kafka| (kafka.ack_topic, kafka.workers) = (value, Workers::On));
            Ok(())
        },
        ..OF_KAFKA
    },
    #[cfg(feature = "kafka")]
    Setting {
        key: "kafka.worker_group",
        flag: "kafka-worker-group",
        env: &["WORKER_GROUP"],
        value: "GROUP",
        help: "Consumer group of the workers",
        default: "order-workers",
        apply: |config, values| {
            let value = one(values)?.to_owned();
            on_kafka(config, |kafka| kafka.worker_group = value);
            Ok(())
        },
        ..OF_KAFKA
    },
    #[cfg(feature = "kafka")]
    Setting {
        key: "kafka.workers",
        flag: "kafka-workers",
        env: &["ORDER_KAFKA_WORKERS"],
        value: "auto|on|off",
        help: "Whether writes wait for a worker; auto does once its group is known to the brokers",
        default: "auto",
        apply: |config, values| {
            let value = match one(values)? {
                "auto" => Workers::Auto,
                "on" => Workers::On,
                "off" => Workers::Off,
                other => return Err(format!("{other:?} is neither auto, on nor off")),
            };
            on_kafka(config, |kafka| kafka.workers = value);
            Ok(())
        },
        ..OF_KAFKA
    },
    #[cfg(feature = "kafka")]
    Setting {
        key: "kafka.snapshots_topic",
        flag: "kafka-snapshots-topic",
        env: &["ORDERS_SNAPSHOTS_TOPIC"],
        value: "TOPIC",
        help: "Compacted topic for committed changes, which other instances follow; off is --kafka-snapshots off",
        default: "orders.snapshots",
        apply: |config, values| {
            let value = one(values)?;
            let value = if value == "off" { None } else { Some(topic(value)?) };
            on_kafka(config, |kafka| kafka.snapshots_topic = value);
            Ok(())
        },
        ..OF_KAFKA
    },
    #[cfg(feature = "kafka")]
    Setting {
        key: "kafka.snapshots",
        flag: "kafka-snapshots",
        env: &["KAFKA_SNAPSHOTS", "ORDER_KAFKA_SNAPSHOTS"],
        value: "auto|on|off",
        help: "Whether committed changes are published; auto does while another instance follows them",
        default: "auto",
        apply: |config, values| {
            let value = match one(values)? {
                "auto" => Snapshots::Auto,
                "on" => Snapshots::On,
                "off" => Snapshots::Off,
                other => return Err(format!("{other:?} is neither auto, on nor off")),
            };
            on_kafka(config, |kafka| kafka.snapshots = value);
            Ok(())
        },
        ..OF_KAFKA
    },
    #[cfg(feature = "kafka")]
    Setting {
        key: "kafka.instance_id",
        flag: "kafka-instance-id",
        env: &["KAFKA_INSTANCE_ID", "ORDER_KAFKA_INSTANCE_ID"],
        value: "NAME",
        help: "Name in the group; with one, a quick restart moves no partition",
        apply: |config, values| {
            let value = Some(one(values)?.to_owned());
            on_kafka(config, |kafka| kafka.instance_id = value);
            Ok(())
        },
        ..OF_KAFKA
    },
    #[cfg(feature = "kafka")]
    Setting {
        key: "kafka.session_timeout",
        flag: "kafka-session-timeout",
        env: &["ORDER_KAFKA_SESSION_TIMEOUT"],
        value: "TIME",
        help: "How long the group waits for a silent member",
        default: "10s",
        apply: |config, values| {
            let value = duration(one(values)?)?;
            on_kafka(config, |kafka| kafka.session_timeout = value);
            Ok(())
        },
        ..OF_KAFKA
    },
    #[cfg(feature = "kafka")]
    Setting {
        key: "kafka.stall_timeout",
        flag: "kafka-stall-timeout",
        env: &["ORDER_KAFKA_STALL_TIMEOUT"],
        value: "TIME",
        help: "A consumer that is behind and receives nothing for this long is made again",
        default: "60s",
        apply: |config, values| {
            let value = duration(one(values)?)?;
            on_kafka(config, |kafka| kafka.stall_timeout = value);
            Ok(())
        },
        ..OF_KAFKA
    },
    #[cfg(feature = "kafka")]
    Setting {
        key: "kafka.lag_max",
        flag: "kafka-lag-max",
        env: &["ORDER_KAFKA_LAG_MAX"],
        value: "N",
        help: "Messages behind at which the service still counts as ready",
        default: "10000",
        apply: |config, values| {
            let value = count(one(values)?, 0)? as u64;
            on_kafka(config, |kafka| kafka.lag_max = value);
            Ok(())
        },
        ..OF_KAFKA
    },
    #[cfg(feature = "kafka")]
    Setting {
        key: "kafka.property",
        flag: "kafka-property",
        env: &["KAFKA_PROPERTIES", "ORDER_KAFKA_PROPERTIES"],
        value: "NAME=VALUE",
        help: "Property of librdkafka, for security and tuning; may repeat",
        is_repeated: true,
        is_secret: true,
        apply: |config, values| {
            for text in values {
                let (name, value) = properties::pair(text)?;
                let value = if crate::kafka::BROKERS.contains(&name) { brokers(value)? } else { value.to_owned() };
                on_kafka(config, |kafka| _ = kafka.properties.insert(name.to_owned(), value));
            }
            Ok(())
        },
        ..OF_KAFKA
    },
    Setting {
        key: "nats.ca",
        flag: "nats-ca",
        env: &["ORDER_NATS_CA"],
        value: "FILE",
        help: "Authorities that NATS's certificate must lead to, PEM; those of the system when not set",
        apply: |config, values| {
            let file = file(values)?;
            on_nats(config, |server| server.encryption.roots = Some(file));
            Ok(())
        },
        ..OF_NATS
    },
    Setting {
        key: "nats.cert",
        flag: "nats-cert",
        env: &["ORDER_NATS_CERT"],
        value: "FILE",
        help: "Certificate to show to NATS, PEM",
        apply: |config, values| {
            let file = file(values)?;
            on_nats(config, |server| server.encryption.identity.get_or_insert_default().0 = file);
            Ok(())
        },
        ..OF_NATS
    },
    Setting {
        key: "nats.key",
        flag: "nats-key",
        env: &["ORDER_NATS_KEY"],
        value: "FILE",
        help: "Its private key, PEM",
        apply: |config, values| {
            let file = file(values)?;
            on_nats(config, |server| server.encryption.identity.get_or_insert_default().1 = file);
            Ok(())
        },
        ..OF_NATS
    },
    Setting {
        key: "nats.credentials",
        flag: "nats-credentials",
        env: &["ORDER_NATS_CREDENTIALS"],
        value: "FILE",
        help: "Credentials to log in to NATS with, as nsc writes them",
        apply: |config, values| {
            let file = file(values)?;
            on_nats(config, |nats| nats.credentials = Some(file));
            Ok(())
        },
        ..OF_NATS
    },
    Setting {
        key: "nats.nkey",
        flag: "nats-nkey",
        env: &["ORDER_NATS_NKEY"],
        value: "FILE",
        help: "Seed of the nkey to log in to NATS with",
        apply: |config, values| {
            let file = file(values)?;
            on_nats(config, |nats| nats.nkey = Some(file));
            Ok(())
        },
        ..OF_NATS
    },
    Setting {
        key: "nats.subject",
        flag: "nats-subject",
        env: &["NATS_SUBJECT"],
        value: "SUBJECT",
        help: "Subject to take orders from",
        default: "orders",
        apply: |config, values| {
            let value = nats::subject(one(values)?)?;
            on_nats(config, |nats| nats.subject = value);
            Ok(())
        },
        ..OF_NATS
    },
    Setting {
        key: "nats.stream",
        flag: "nats-stream",
        env: &["NATS_STREAM"],
        value: "NAME",
        help: "Stream that is made when none takes the subject yet; its dead letters go to NAME_DLQ",
        default: "ORDERS",
        apply: |config, values| {
            let value = nats::name(one(values)?)?;
            on_nats(config, |nats| nats.stream = value);
            Ok(())
        },
        ..OF_NATS
    },
    Setting {
        key: "nats.durable",
        flag: "nats-durable",
        env: &["NATS_DURABLE"],
        value: "NAME",
        help: "Consumer at the server, which outlives the service",
        default: "order-service-durable",
        apply: |config, values| {
            let value = nats::name(one(values)?)?;
            on_nats(config, |nats| nats.durable = value);
            Ok(())
        },
        ..OF_NATS
    },
    Setting {
        key: "nats.dlq_subject",
        flag: "nats-dlq-subject",
        env: &["NATS_DLQ_SUBJECT"],
        value: "SUBJECT",
        help: "Subject for messages that are no valid order",
        default: "orders.dlq",
        apply: |config, values| {
            let value = nats::subject(one(values)?)?;
            on_nats(config, |nats| nats.dlq_subject = value);
            Ok(())
        },
        ..OF_NATS
    },
    Setting {
        key: "nats.ack_wait",
        flag: "nats-ack-wait",
        env: &["ORDER_NATS_ACK_WAIT"],
        value: "TIME",
        help: "How long the server waits for a message before it delivers it again; for a durable that is made",
        default: "30s",
        apply: |config, values| {
            let value = duration(one(values)?)?;
            on_nats(config, |nats| nats.ack_wait = value);
            Ok(())
        },
        ..OF_NATS
    },
    Setting {
        key: "nats.in_flight_max",
        flag: "nats-in-flight-max",
        env: &["ORDER_NATS_IN_FLIGHT_MAX"],
        value: "N",
        help: "Messages received and not yet durable",
        default: "10000",
        apply: |config, values| {
            let value = count(one(values)?, 1)?;
            on_nats(config, |nats| nats.in_flight_max = value);
            Ok(())
        },
        ..OF_NATS
    },
    Setting {
        key: "nats.stall_timeout",
        flag: "nats-stall-timeout",
        env: &["ORDER_NATS_STALL_TIMEOUT"],
        value: "TIME",
        help: "A consumer that is behind and receives nothing for this long is made again",
        default: "60s",
        apply: |config, values| {
            let value = duration(one(values)?)?;
            on_nats(config, |nats| nats.stall_timeout = value);
            Ok(())
        },
        ..OF_NATS
    },
    Setting {
        key: "nats.lag_max",
        flag: "nats-lag-max",
        env: &["ORDER_NATS_LAG_MAX"],
        value: "N",
        help: "Messages behind at which the service still counts as ready",
        default: "10000",
        apply: |config, values| {
            let value = count(one(values)?, 0)? as u64;
            on_nats(config, |nats| nats.lag_max = value);
            Ok(())
        },
        ..OF_NATS
    },
    Setting {
        key: "stan.cluster",
        flag: "stan-cluster",
        env: &["STAN_CLUSTER_ID", "NATS_CLUSTER_ID"],
        value: "NAME",
        help: "Name of the NATS Streaming cluster",
        default: "test-cluster",
        apply: |config, values| {
            let value = nats::name(one(values)?)?;
            on_stan(config, |stan| stan.cluster = value);
            Ok(())
        },
        ..OF_STAN
    },
    Setting {
        key: "stan.client",
        flag: "stan-client",
        env: &["STAN_CLIENT_ID", "NATS_CLIENT_ID"],
        value: "NAME",
        help: "Name of this client; of several instances with one name one reads, the others stand by",
        default: "order-service",
        apply: |config, values| {
            let value = nats::name(one(values)?)?;
            on_stan(config, |stan| stan.client = value);
            Ok(())
        },
        ..OF_STAN
    },
    Setting {
        key: "stan.subject",
        flag: "stan-subject",
        env: &["STAN_SUBJECT"],
        value: "CHANNEL",
        help: "Channel to take orders from",
        default: "orders",
        apply: |config, values| {
            let value = nats::subject(one(values)?)?;
            on_stan(config, |stan| stan.subject = value);
            Ok(())
        },
        ..OF_STAN
    },
    Setting {
        key: "stan.durable",
        flag: "stan-durable",
        env: &["STAN_DURABLE", "NATS_DURABLE_NAME"],
        value: "NAME",
        help: "Subscription at the server, which outlives the service",
        default: "order-service-durable",
        apply: |config, values| {
            let value = nats::name(one(values)?)?;
            on_stan(config, |stan| stan.durable = value);
            Ok(())
        },
        ..OF_STAN
    },
    Setting {
        key: "stan.dlq_subject",
        flag: "stan-dlq-subject",
        env: &["STAN_DLQ_SUBJECT"],
        value: "CHANNEL",
        help: "Channel for messages that are no valid order",
        default: "orders.dlq",
        apply: |config, values| {
            let value = nats::subject(one(values)?)?;
            on_stan(config, |stan| stan.dlq_subject = value);
            Ok(())
        },
        ..OF_STAN
    },
    Setting {
        key: "stan.ack_wait",
        flag: "stan-ack-wait",
        env: &["ORDER_STAN_ACK_WAIT"],
        value: "TIME",
        help: "How long the server waits for a message before it delivers it again, in whole seconds",
        default: "30s",
        apply: |config, values| {
            let value = duration(one(values)?)?;
            if value.subsec_nanos() > 0 || value.is_zero() || value.as_secs() > 86_400 {
                return Err("must be whole seconds, from 1s to 24h".into());
            }
            on_stan(config, |stan| stan.ack_wait = value);
            Ok(())
        },
        ..OF_STAN
    },
    Setting {
        key: "stan.in_flight_max",
        flag: "stan-in-flight-max",
        env: &["ORDER_STAN_IN_FLIGHT_MAX"],
        value: "N",
        help: "Messages received and not yet durable",
        default: "4096",
        apply: |config, values| {
            let value = count(one(values)?, 1)?;
            on_stan(config, |stan| stan.in_flight_max = value);
            Ok(())
        },
        ..OF_STAN
    },
    Setting {
        key: "stan.lag_max",
        flag: "stan-lag-max",
        env: &["ORDER_STAN_LAG_MAX"],
        value: "N",
        help: "Messages behind at which the service still counts as ready",
        default: "10000",
        apply: |config, values| {
            let value = count(one(values)?, 0)? as u64;
            on_stan(config, |stan| stan.lag_max = value);
            Ok(())
        },
        ..OF_STAN
    },
    Setting {
        key: "postgres.readers_max",
        flag: "postgres-readers-max",
        env: &["ORDER_POSTGRES_READERS_MAX"],
        value: "N",
        help: "Connections to PostgreSQL for reads that miss the view",
        default: "8",
        apply: |config, values| {
            let most = count(one(values)?, 1)?;
            on_postgres(config, |postgres| postgres.readers_max = u32::try_from(most).unwrap_or(u32::MAX));
            Ok(())
        },
        ..OF_POSTGRES
    },
    Setting {
        key: "postgres.statement_timeout",
        flag: "postgres-statement-timeout",
        env: &["ORDER_POSTGRES_STATEMENT_TIMEOUT"],
        value: "TIME",
        help: "How long PostgreSQL may take for one statement of a batch or a read",
        default: "60s",
        apply: |config, values| {
            let time = duration(one(values)?)?;
            on_postgres(config, |postgres| postgres.statement_timeout = time);
            Ok(())
        },
        ..OF_POSTGRES
    },
    Setting {
        key: "postgres.schema",
        flag: "postgres-schema",
        env: &["ORDER_POSTGRES_SCHEMA", "POSTGRES_SCHEMA"],
        value: "NAME",
        help: "Schema of PostgreSQL that holds all that the service makes, created if missing; the search path when not set",
        apply: |config, values| {
            let schema = crate::store::postgres::SchemaName::parse(one(values)?)?;
            on_postgres(config, |postgres| postgres.schema = schema);
            Ok(())
        },
        ..OF_POSTGRES
    },
    Setting {
        key: "postgres.migrate",
        flag: "postgres-migrate",
        env: &["ORDER_POSTGRES_MIGRATE"],
        value: "yes|no",
        help: "Bring PostgreSQL's schema up to date at the start; no where that is done by hand",
        default: "yes",
        apply: |config, values| {
            let is_migrating = yes_or_no(one(values)?)?;
            on_postgres(config, |postgres| postgres.is_migrating = is_migrating);
            Ok(())
        },
        ..OF_POSTGRES
    },
    Setting {
        key: "redis.ca",
        flag: "redis-ca",
        env: &["ORDER_REDIS_CA"],
        value: "FILE",
        help: "Authorities that Redis's certificate must lead to, PEM; those of the system when not set",
        apply: |config, values| {
            let file = file(values)?;
            on_redis(config, |server| server.encryption.roots = Some(file));
            Ok(())
        },
        ..OF_REDIS
    },
    Setting {
        key: "redis.cert",
        flag: "redis-cert",
        env: &["ORDER_REDIS_CERT"],
        value: "FILE",
        help: "Certificate to show to Redis, PEM",
        apply: |config, values| {
            let file = file(values)?;
            on_redis(config, |server| server.encryption.identity.get_or_insert_default().0 = file);
            Ok(())
        },
        ..OF_REDIS
    },
    Setting {
        key: "redis.key",
        flag: "redis-key",
        env: &["ORDER_REDIS_KEY"],
        value: "FILE",
        help: "Its private key, PEM",
        apply: |config, values| {
            let file = file(values)?;
            on_redis(config, |server| server.encryption.identity.get_or_insert_default().1 = file);
            Ok(())
        },
        ..OF_REDIS
    },
    Setting {
        key: "redis.ttl",
        flag: "redis-ttl",
        env: &["ORDER_REDIS_TTL", "REDIS_TTL"],
        value: "TIME",
        help: "How long orders are kept in Redis",
        default: "5m",
        apply: |config, values| {
            let time = between(one(values)?, "1s", "8760h")?;
            on_redis(config, |redis| redis.ttl = time);
            Ok(())
        },
        ..OF_REDIS
    },
    Setting {
        key: "redis.read_timeout",
        flag: "redis-read-timeout",
        env: &["ORDER_REDIS_READ_TIMEOUT"],
        value: "TIME",
        help: "How long Redis may take for a read; then the store is asked",
        default: "20ms",
        apply: |config, values| {
            let time = between(one(values)?, "1ms", "1s")?;
            on_redis(config, |redis| redis.read_timeout = time);
            Ok(())
        },
        ..OF_REDIS
    },
    Setting {
        key: "redis.write_timeout",
        flag: "redis-write-timeout",
        env: &["ORDER_REDIS_WRITE_TIMEOUT"],
        value: "TIME",
        help: "How long Redis may take for a batch of writes, which no one waits for",
        default: "100ms",
        apply: |config, values| {
            let time = between(one(values)?, "1ms", "10s")?;
            on_redis(config, |redis| redis.write_timeout = time);
            Ok(())
        },
        ..OF_REDIS
    },
    Setting {
        key: "read.loads_max",
        flag: "read-loads-max",
        env: &["ORDER_READ_LOADS_MAX"],
        value: "N",
        help: "Reads of the store at once; more wait for their turn, 2 s at most",
        default: "64",
        apply: |config, values| {
            config.read.loads_max = count(one(values)?, 1)?;
            Ok(())
        },
        ..DETAIL
    },
    Setting {
        key: "read.version_wait",
        flag: "read-version-wait",
        env: &["ORDER_READ_VERSION_WAIT"],
        value: "TIME",
        help: "How long a read with X-Min-Version waits before the store is asked",
        default: "200ms",
        apply: |config, values| {
            config.read.version_wait = duration(one(values)?)?;
            Ok(())
        },
        ..DETAIL
    },
];

/// Reads the files of certificates and logins that connections to other servers need, once all is
/// set.
pub(super) fn open_files(config: &mut Config) -> Vec<String> {
    let mut wrong = Vec::new();
    if let Some(redis) = &mut config.redis {
        let opened = paired("redis", &redis.encryption).and_then(|()| redis.open());
        wrong.extend(opened.err().map(|what| format!("redis: {what}")));
    }
    if let Some(nats) = &mut config.nats {
        let opened = paired("nats", &nats.encryption).and_then(|()| nats.open());
        wrong.extend(opened.err().map(|what| format!("nats: {what}")));
    }
    let _ = config;
    wrong
}

/// Whether a certificate that is to be shown has its key.
fn paired(part: &str, encryption: &crate::tls::client::Config) -> Result<(), String> {
    match &encryption.identity {
        Some((_, key)) if key.as_os_str().is_empty() => Err(format!("--{part}-cert needs --{part}-key")),
        Some((cert, _)) if cert.as_os_str().is_empty() => Err(format!("--{part}-key needs --{part}-cert")),
        _ => Ok(()),
    }
}

/// What single settings cannot see.
pub(super) fn contradictions(config: &Config) -> Vec<String> {
    let mut wrong = Vec::new();
    if config.inbox.queue_bytes_max < config.ingest.order_bytes_max {
        wrong.push("queue.bytes_max: must be at least order_bytes_max, or the largest orders never get in".into());
    }
    let collides = |endpoint: &Endpoint| config.http.listen.iter().any(|other| other.collides(endpoint));
    if config.admin.as_ref().is_some_and(collides) {
        wrong.push("admin: must be another address than listen".into());
    }
    wrong.extend(encryption(config).err().map(str::to_owned));
    if config
        .access
        .tokens
        .as_ref()
        .is_some_and(|TokenConfig { rules, .. }| rules.issuer.is_empty() || rules.audience.is_empty())
    {
        // Without them a token that its issuer made for another service would do here too.
        wrong.push("auth.jwks: needs auth.issuer and auth.audience".into());
    }
    #[cfg(feature = "kafka")]
    if config.kafka.as_ref().is_some_and(|kafka| kafka.snapshots == Snapshots::On && kafka.snapshots_topic.is_none()) {
        wrong.push("kafka.snapshots: on needs a topic, and snapshots_topic is off".into());
    }
    #[cfg(feature = "kafka")]
    if let Some(Err(refused)) = config.kafka.as_ref().map(crate::kafka::Config::check) {
        wrong.push(format!("kafka: {refused}"));
    }
    if let Some(nats) = &config.nats {
        if nats.subject == nats.dlq_subject {
            wrong.push(
                "nats.dlq_subject: must be another subject than subject, or dead letters are read as orders".into(),
            );
        }
        if nats.ack_wait < std::time::Duration::from_millis(100) {
            wrong.push("nats.ack_wait: must be at least 100ms, or the server cannot be kept patient".into());
        }
    }
    if config.stan.as_ref().is_some_and(|stan| stan.subject == stan.dlq_subject) {
        wrong.push("stan.dlq_subject: must be another channel than subject, or dead letters are read as orders".into());
    }
    if let Some(grpc) = &config.grpc.listen
        && (collides(grpc) || config.admin.as_ref().is_some_and(|admin| admin.collides(grpc)))
    {
        wrong.push("grpc.listen: must be another address than listen and admin".into());
    }
    wrong
}

/// Whether the listeners with TLS and its files belong together.
fn encryption(config: &Config) -> Result<(), &'static str> {
    let mut endpoints: Vec<&Endpoint> = config.http.listen.iter().chain(&config.admin).collect();
    endpoints.extend(&config.grpc.listen);
    let is_spoken = endpoints.iter().any(|endpoint| matches!(endpoint, Endpoint::Tls(_)));
    match &config.tls {
        None if is_spoken => Err("a tls: listener needs --tls-cert (ORDER_TLS_CERT) and --tls-key (ORDER_TLS_KEY)"),
        Some(_) if !is_spoken => Err("tls.cert: changes nothing without a tls: listener, such as --listen tls::8443"),
        Some(files) if files.key.as_os_str().is_empty() => Err("tls.cert: needs --tls-key (ORDER_TLS_KEY)"),
        _ => Ok(()),
    }
}
