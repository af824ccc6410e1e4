//! Settings of the queue behind HTTP.

use super::inbox;
use crate::setting::{Setting, bytes, count, one};

/// In the order of `--help`.
pub const SETTINGS: &[Setting<inbox::Config>] = &[
    Setting {
        key: "queue.rows_max",
        flag: "queue-rows-max",
        env: &["ORDER_QUEUE_ROWS_MAX"],
        value: "N",
        help: "Orders that may wait to be taken up; more are answered 503",
        default: "4096",
        apply: |config, values| {
            config.queue_rows_max = count(one(values)?, 1)?;
            Ok(())
        },
        ..Setting::DETAIL
    },
    Setting {
        key: "queue.bytes_max",
        flag: "queue-bytes-max",
        env: &["ORDER_QUEUE_BYTES_MAX"],
        value: "BYTES",
        help: "Bytes of orders that may wait for their answer, and again of bodies that may be on their way; more are answered 503",
        default: "64MiB",
        apply: |config, values| {
            config.queue_bytes_max = bytes(one(values)?)?;
            Ok(())
        },
        ..Setting::DETAIL
    },
];
