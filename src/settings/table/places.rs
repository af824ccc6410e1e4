//! Where to answer.

use super::*;

/// In the order of `--help`.
pub(super) const SETTINGS: &[Setting] = &[
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
            config.http.listen = values.map(endpoint).collect::<Result<_, _>>()?;
            if config.http.listen.is_empty() { Err("needs at least one address".into()) } else { Ok(()) }
        },
        ..PLAIN
    },
    Setting {
        key: "grpc.listen",
        flag: "grpc",
        env: &["ORDER_GRPC", "GRPC_ADDR", "GRPC_PORT"],
        value: "ADDR",
        help: "Where to answer gRPC: ADDR such as 127.0.0.1:50051, tls:ADDR or unix:PATH; nowhere when not set",
        apply: |config, values| {
            config.grpc.listen = Some(endpoint(one(values)?)?);
            Ok(())
        },
        ..PLAIN
    },
    Setting {
        key: "admin",
        flag: "admin",
        env: &["ORDER_ADMIN"],
        value: "ADDR",
        help: "Another place for metrics and health, on a thread of its own: ADDR, tls:ADDR or unix:PATH",
        apply: |config, values| {
            config.admin = Some(endpoint(one(values)?)?);
            Ok(())
        },
        ..PLAIN
    },
];
