//! The view, its list, and how orders are collected on their way to it.

use super::*;

/// In the order of `--help`.
pub(super) const SETTINGS: &[Setting] = &[
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
];
