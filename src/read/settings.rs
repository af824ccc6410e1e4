//! Settings of reads that miss the view.

use super::Config;
use crate::setting::{Setting, count, duration, one};

/// In the order of `--help`.
pub const SETTINGS: &[Setting<Config>] = &[
    Setting {
        key: "read.loads_max",
        flag: "read-loads-max",
        env: &["ORDER_READ_LOADS_MAX"],
        value: "N",
        help: "Reads of the store at once; more wait for their turn, 2 s at most",
        default: "64",
        apply: |config, values| {
            config.loads_max = count(one(values)?, 1)?;
            Ok(())
        },
        ..Setting::DETAIL
    },
    Setting {
        key: "read.version_wait",
        flag: "read-version-wait",
        env: &["ORDER_READ_VERSION_WAIT"],
        value: "TIME",
        help: "How long a read with X-Min-Version waits before the store is asked",
        default: "200ms",
        apply: |config, values| {
            config.version_wait = duration(one(values)?)?;
            Ok(())
        },
        ..Setting::DETAIL
    },
];
