//! Settings of gRPC.

use super::Config;
use crate::setting::{Setting, count, duration, one};

const OF_GRPC: Setting<Config> = Setting { needs: &["grpc.listen"], ..Setting::DETAIL };

/// In the order of `--help`.
pub const SETTINGS: &[Setting<Config>] = &[
    Setting {
        key: "grpc.listen",
        flag: "grpc",
        env: &["ORDER_GRPC", "GRPC_ADDR", "GRPC_PORT"],
        value: "ADDR",
        help: "Where to answer gRPC: ADDR such as 127.0.0.1:50051, tls:ADDR or unix:PATH; nowhere when not set",
        apply: |config, values| {
            config.listen = Some(one(values)?.parse()?);
            Ok(())
        },
        ..Setting::PLAIN
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
            config.connections_max = u32::try_from(most).map_err(|_| format!("{most} is too many"))?;
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
            config.streams_max = u32::try_from(most).map_err(|_| format!("{most} is too many"))?;
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
            config.idle_time = duration(one(values)?)?;
            Ok(())
        },
        ..OF_GRPC
    },
];
