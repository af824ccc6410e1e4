//! Settings of HTTP and of event streams.

use hyper::Uri;
use hyper::header::HeaderValue;

use super::Config;
use crate::setting::{Setting, bytes, count, duration, one};

const OF_KAFKA: Setting<Config> = Setting { needs: &["kafka.brokers"], ..Setting::DETAIL };

/// In the order of `--help`.
pub const SETTINGS: &[Setting<Config>] = &[
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
            config.listen = values.map(str::parse).collect::<Result<_, _>>()?;
            if config.listen.is_empty() { Err("needs at least one address".into()) } else { Ok(()) }
        },
        ..Setting::PLAIN
    },
    Setting {
        key: "http.connections_max",
        flag: "http-connections-max",
        env: &["ORDER_HTTP_CONNECTIONS_MAX"],
        value: "N",
        help: "Connections at once; beyond it the longest idle make room",
        default: "20000",
        apply: |config, values| {
            config.connections_max = count(one(values)?, 1)?;
            Ok(())
        },
        ..Setting::DETAIL
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
            config.header_bytes_max = bytes;
            if bytes < 8192 { Err("must be at least 8KiB".into()) } else { Ok(()) }
        },
        ..Setting::DETAIL
    },
    Setting {
        key: "http.headers_max",
        flag: "http-headers-max",
        env: &["ORDER_HTTP_HEADERS_MAX"],
        value: "N",
        help: "Header fields of a request",
        default: "100",
        apply: |config, values| {
            config.headers_max = count(one(values)?, 8)?;
            Ok(())
        },
        ..Setting::DETAIL
    },
    Setting {
        key: "http.header_time",
        flag: "http-header-time",
        env: &["ORDER_HTTP_HEADER_TIME"],
        value: "TIME",
        help: "Time for the head of a request",
        default: "10s",
        apply: |config, values| {
            config.limits.header_time = duration(one(values)?)?;
            Ok(())
        },
        ..Setting::DETAIL
    },
    Setting {
        key: "http.idle_time",
        flag: "http-idle-time",
        env: &["ORDER_HTTP_IDLE_TIME"],
        value: "TIME",
        help: "Time between two requests of a connection",
        default: "75s",
        apply: |config, values| {
            config.limits.idle_time = duration(one(values)?)?;
            Ok(())
        },
        ..Setting::DETAIL
    },
    Setting {
        key: "http.answer_bytes_max",
        flag: "http-answer-bytes-max",
        env: &["ORDER_HTTP_ANSWER_BYTES_MAX"],
        value: "BYTES",
        help: "The largest answer with several orders: a page ends sooner, a look-up by ids beyond it is 413",
        default: "64MiB",
        apply: |config, values| {
            config.answer_bytes_max = bytes(one(values)?)?;
            Ok(())
        },
        ..Setting::DETAIL
    },
    Setting {
        key: "http.body_time",
        flag: "http-body-time",
        env: &["ORDER_HTTP_BODY_TIME"],
        value: "TIME",
        help: "Time for the body of a request, or for the next piece of a streamed one",
        default: "20s",
        apply: |config, values| {
            config.body_time = duration(one(values)?)?;
            Ok(())
        },
        ..Setting::DETAIL
    },
    Setting {
        key: "http.write_time",
        flag: "http-write-time",
        env: &["ORDER_HTTP_WRITE_TIME"],
        value: "TIME",
        help: "Time for a client to take up anything at all of an answer",
        default: "30s",
        apply: |config, values| {
            config.limits.write_time = duration(one(values)?)?;
            Ok(())
        },
        ..Setting::DETAIL
    },
    Setting {
        key: "http.commit_wait",
        flag: "http-commit-wait",
        env: &["ORDER_HTTP_COMMIT_WAIT"],
        value: "TIME",
        help: "How long a write may wait to become durable before it is answered 503",
        default: "10s",
        apply: |config, values| {
            config.write_wait = duration(one(values)?)?;
            Ok(())
        },
        ..Setting::DETAIL
    },
    Setting {
        key: "http.worker_wait",
        flag: "http-worker-wait",
        env: &["ORDER_HTTP_WORKER_WAIT"],
        value: "TIME",
        help: "How long a write waits for a worker before it is answered 202",
        default: "5s",
        apply: |config, values| {
            config.worker_wait = duration(one(values)?)?;
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
            config.cors_origins = match one(values)? {
                "none" => Vec::new(),
                "*" => vec![HeaderValue::from_static("*")],
                origins => origins.split(',').map(|text| origin(text.trim())).collect::<Result<_, _>>()?,
            };
            Ok(())
        },
        ..Setting::DETAIL
    },
    Setting {
        key: "events.streams_max",
        flag: "events-streams-max",
        env: &["ORDER_EVENTS_STREAMS_MAX"],
        value: "N",
        help: "Event streams at once",
        default: "2000",
        apply: |config, values| {
            config.streams_max = count(one(values)?, 0)?;
            Ok(())
        },
        ..Setting::DETAIL
    },
    Setting {
        key: "events.heartbeat",
        flag: "events-heartbeat",
        env: &["ORDER_EVENTS_HEARTBEAT"],
        value: "TIME",
        help: "How often a quiet event stream says that it is alive",
        default: "15s",
        apply: |config, values| {
            config.heartbeat = duration(one(values)?)?;
            Ok(())
        },
        ..Setting::DETAIL
    },
];

/// `https://shop.test` or `http://localhost:3000`, as browsers name a page's origin: no path, no upper case.
fn origin(text: &str) -> Result<HeaderValue, String> {
    let wrong = || format!("{text:?} is no origin such as https://shop.test or http://localhost:3000");
    let uri: Uri = text.parse().map_err(|_| wrong())?;
    let (Some(scheme), Some(authority)) = (uri.scheme_str(), uri.authority()) else { return Err(wrong()) };
    let is_odd = |byte: u8| byte.is_ascii_uppercase() || matches!(byte, b'*' | b'@' | b',');
    let has_odd = authority.as_str().bytes().any(is_odd) || authority.as_str().ends_with(':');
    if has_odd || format!("{scheme}://{authority}") != text {
        return Err(wrong());
    }
    HeaderValue::from_str(text).map_err(|_| wrong())
}
