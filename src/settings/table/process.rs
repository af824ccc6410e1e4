//! The process as a whole.

use super::*;

/// In the order of `--help`.
pub(super) const SETTINGS: &[Setting] = &[
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
        help: "Minimum log level: error, warn, info, debug, trace, or tracing directives",
        default: "info",
        apply: |config, values| {
            let filter = one(values)?;
            // A level that is written wrong is the name of a target to the library, of which nothing is logged.
            let is_level = |part: &str| {
                let levels = ["off", "error", "warn", "info", "debug", "trace"];
                part.contains(['=', '[']) || levels.contains(&part.trim().to_ascii_lowercase().as_str())
            };
            if let Some(part) = filter.split(',').find(|part| !is_level(part)) {
                return Err(format!(
                    "{part:?} is no level: error, warn, info, debug, trace, off, or directives TARGET=LEVEL"
                ));
            }
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
        help: "Graceful shutdown timeout",
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
];
