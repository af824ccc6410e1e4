//! Limits of HTTP, gRPC and event streams.

use super::*;

/// In the order of `--help`.
pub(super) const SETTINGS: &[Setting] = &[
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
];
