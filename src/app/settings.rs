//! Settings of the process as a whole.

use super::{Config, Runtime};
use crate::setting::{Setting, count, duration, one, yes_or_no};

const OF_POSTGRES: Setting<Config> = Setting { needs: &["postgres.url"], ..Setting::DETAIL };

/// In the order of `--help`.
pub const SETTINGS: &[Setting<Config>] = &[
    Setting {
        key: "admin",
        flag: "admin",
        env: &["ORDER_ADMIN"],
        value: "ADDR",
        help: "Another place for metrics and health, on a thread of its own: ADDR, tls:ADDR or unix:PATH",
        apply: |config, values| {
            config.admin = Some(one(values)?.parse()?);
            Ok(())
        },
        ..Setting::PLAIN
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
        ..Setting::PLAIN
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
        ..Setting::PLAIN
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
        ..Setting::PLAIN
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
        ..Setting::DETAIL
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
        ..Setting::DETAIL
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
        ..Setting::DETAIL
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
        ..Setting::DETAIL
    },
];
