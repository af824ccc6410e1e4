//! Settings of the view, its list and its changes.

use super::Config;
use crate::setting::{Setting, bytes, count, duration, one, yes_or_no};

const OF_BOUNDED_CACHE: Setting<Config> = Setting { needs: &["cache.bytes_max", "cache.ttl"], ..Setting::DETAIL };

/// In the order of `--help`.
pub const SETTINGS: &[Setting<Config>] = &[
    Setting {
        key: "list.max",
        flag: "list-max",
        env: &["ORDER_LIST_MAX"],
        value: "N",
        help: "Orders in a list",
        default: "1000",
        apply: |config, values| {
            config.list_max = count(one(values)?, 1)?;
            Ok(())
        },
        ..Setting::DETAIL
    },
    Setting {
        key: "list.refresh",
        flag: "list-refresh",
        env: &["ORDER_LIST_REFRESH"],
        value: "TIME",
        help: "Least time between two makings of the list",
        default: "20ms",
        apply: |config, values| {
            config.list_refresh = duration(one(values)?)?;
            Ok(())
        },
        ..Setting::DETAIL
    },
    Setting {
        key: "list.compress",
        flag: "list-compress",
        env: &["ORDER_LIST_COMPRESS"],
        value: "yes|no",
        help: "Answer the whole list as zstd or gzip to clients that take it so",
        default: "yes",
        apply: |config, values| {
            config.list_compress = yes_or_no(one(values)?)?;
            Ok(())
        },
        ..Setting::DETAIL
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
            config.bytes_max = Some(bytes as u64);
            Ok(())
        },
        ..Setting::DETAIL
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
            config.ttl = Some(ttl);
            Ok(())
        },
        ..Setting::DETAIL
    },
    Setting {
        key: "cache.warm_max",
        flag: "cache-warm-max",
        env: &["ORDER_CACHE_WARM_MAX"],
        value: "N",
        help: "Newest orders to load at the start, beside cache.bytes_max or cache.ttl [default: all that fit]",
        apply: |config, values| {
            config.warm_max = Some(count(one(values)?, 0)? as u64);
            Ok(())
        },
        ..OF_BOUNDED_CACHE
    },
    Setting {
        key: "events.kept_max",
        flag: "events-kept-max",
        env: &["ORDER_EVENTS_KEPT_MAX"],
        value: "N",
        help: "Changes kept for event streams that were unavailable",
        default: "16384",
        apply: |config, values| {
            config.feed_events_max = count(one(values)?, 1)?;
            Ok(())
        },
        ..Setting::DETAIL
    },
];
