//! Settings of how orders are checked and collected.

use super::Config;
use crate::setting::{Setting, bytes, count, one, yes_or_no};

/// In the order of `--help`.
pub const SETTINGS: &[Setting<Config>] = &[
    Setting {
        key: "profile",
        flag: "profile",
        env: &["ORDER_PROFILE"],
        value: "PROFILE",
        help: "How strictly orders are checked: lenient, wb or strict",
        default: "wb",
        apply: |config, values| {
            config.profile = one(values)?.parse().map_err(str::to_owned)?;
            Ok(())
        },
        ..Setting::PLAIN
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
            config.log_orders = yes_or_no(one(values)?)?;
            Ok(())
        },
        ..Setting::DETAIL
    },
    Setting {
        key: "order_bytes_max",
        flag: "order-bytes-max",
        env: &["ORDER_BYTES_MAX"],
        value: "BYTES",
        help: "Largest order",
        default: "1MiB",
        apply: |config, values| {
            config.order_bytes_max = bytes(one(values)?)?;
            Ok(())
        },
        ..Setting::DETAIL
    },
    Setting {
        key: "batch.rows_max",
        flag: "batch-rows-max",
        env: &["ORDER_BATCH_ROWS_MAX"],
        value: "N",
        help: "Orders committed together",
        default: "4000",
        apply: |config, values| {
            config.batch.batch_rows_max = count(one(values)?, 1)?;
            Ok(())
        },
        ..Setting::DETAIL
    },
    Setting {
        key: "batch.bytes_max",
        flag: "batch-bytes-max",
        env: &["ORDER_BATCH_BYTES_MAX"],
        value: "BYTES",
        help: "Bytes of orders committed together",
        default: "16MiB",
        apply: |config, values| {
            config.batch.batch_bytes_max = bytes(one(values)?)?;
            Ok(())
        },
        ..Setting::DETAIL
    },
];
