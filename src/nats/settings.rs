//! Settings of NATS JetStream.

use super::{Config, name, subject};
use crate::setting::{Setting, count, duration, escapes, file, on, one};

const OF_NATS: Setting<Option<Config>> = Setting { needs: &["nats.url"], ..Setting::DETAIL };

/// In the order of `--help`.
pub const SETTINGS: &[Setting<Option<Config>>] = &[
    Setting {
        key: "nats.url",
        flag: "nats",
        env: &["NATS_URL"],
        value: "URL",
        help: "NATS JetStream to take orders from: nats://user:password@host:4222, tls:// with TLS, several separated by commas",
        is_secret: true,
        apply: |config, values| {
            *config = Some(Config::new(escapes(one(values)?)?)?);
            Ok(())
        },
        ..Setting::PLAIN
    },
    Setting {
        key: "nats.ca",
        flag: "nats-ca",
        env: &["ORDER_NATS_CA"],
        value: "FILE",
        help: "Authorities that NATS's certificate must lead to, PEM; those of the system when not set",
        apply: |config, values| {
            let file = file(values)?;
            on(config, |server| server.encryption.roots = Some(file));
            Ok(())
        },
        ..OF_NATS
    },
    Setting {
        key: "nats.cert",
        flag: "nats-cert",
        env: &["ORDER_NATS_CERT"],
        value: "FILE",
        help: "Certificate to show to NATS, PEM",
        apply: |config, values| {
            let file = file(values)?;
            on(config, |server| server.encryption.identity.get_or_insert_default().0 = file);
            Ok(())
        },
        ..OF_NATS
    },
    Setting {
        key: "nats.key",
        flag: "nats-key",
        env: &["ORDER_NATS_KEY"],
        value: "FILE",
        help: "Its private key, PEM",
        apply: |config, values| {
            let file = file(values)?;
            on(config, |server| server.encryption.identity.get_or_insert_default().1 = file);
            Ok(())
        },
        ..OF_NATS
    },
    Setting {
        key: "nats.credentials",
        flag: "nats-credentials",
        env: &["ORDER_NATS_CREDENTIALS"],
        value: "FILE",
        help: "Credentials to log in to NATS with, as nsc writes them",
        apply: |config, values| {
            let file = file(values)?;
            on(config, |nats| nats.credentials = Some(file));
            Ok(())
        },
        ..OF_NATS
    },
    Setting {
        key: "nats.nkey",
        flag: "nats-nkey",
        env: &["ORDER_NATS_NKEY"],
        value: "FILE",
        help: "Seed of the nkey to log in to NATS with",
        apply: |config, values| {
            let file = file(values)?;
            on(config, |nats| nats.nkey = Some(file));
            Ok(())
        },
        ..OF_NATS
    },
    Setting {
        key: "nats.subject",
        flag: "nats-subject",
        env: &["NATS_SUBJECT"],
        value: "SUBJECT",
        help: "Subject to take orders from",
        default: "orders",
        apply: |config, values| {
            let value = subject(one(values)?)?;
            on(config, |nats| nats.subject = value);
            Ok(())
        },
        ..OF_NATS
    },
    Setting {
        key: "nats.stream",
        flag: "nats-stream",
        env: &["NATS_STREAM"],
        value: "NAME",
        help: "Stream that is made when none takes the subject yet; its dead letters go to NAME_DLQ",
        default: "ORDERS",
        apply: |config, values| {
            let value = name(one(values)?)?;
            on(config, |nats| nats.stream = value);
            Ok(())
        },
        ..OF_NATS
    },
    Setting {
        key: "nats.durable",
        flag: "nats-durable",
        env: &["NATS_DURABLE"],
        value: "NAME",
        help: "Consumer at the server, which outlives the service",
        default: "order-service-durable",
        apply: |config, values| {
            let value = name(one(values)?)?;
            on(config, |nats| nats.durable = value);
            Ok(())
        },
        ..OF_NATS
    },
    Setting {
        key: "nats.dlq_subject",
        flag: "nats-dlq-subject",
        env: &["NATS_DLQ_SUBJECT"],
        value: "SUBJECT",
        help: "Subject for messages that are no valid order",
        default: "orders.dlq",
        apply: |config, values| {
            let value = subject(one(values)?)?;
            on(config, |nats| nats.dlq_subject = value);
            Ok(())
        },
        ..OF_NATS
    },
    Setting {
        key: "nats.ack_wait",
        flag: "nats-ack-wait",
        env: &["ORDER_NATS_ACK_WAIT"],
        value: "TIME",
        help: "How long the server waits for a message before it delivers it again; for a durable that is made",
        default: "30s",
        apply: |config, values| {
            let value = duration(one(values)?)?;
            on(config, |nats| nats.ack_wait = value);
            Ok(())
        },
        ..OF_NATS
    },
    Setting {
        key: "nats.in_flight_max",
        flag: "nats-in-flight-max",
        env: &["ORDER_NATS_IN_FLIGHT_MAX"],
        value: "N",
        help: "Messages received and not yet durable",
        default: "10000",
        apply: |config, values| {
            let value = count(one(values)?, 1)?;
            on(config, |nats| nats.in_flight_max = value);
            Ok(())
        },
        ..OF_NATS
    },
    Setting {
        key: "nats.stall_timeout",
        flag: "nats-stall-timeout",
        env: &["ORDER_NATS_STALL_TIMEOUT"],
        value: "TIME",
        help: "A consumer that is behind and receives nothing for this long is made again",
        default: "60s",
        apply: |config, values| {
            let value = duration(one(values)?)?;
            on(config, |nats| nats.stall_timeout = value);
            Ok(())
        },
        ..OF_NATS
    },
    Setting {
        key: "nats.lag_max",
        flag: "nats-lag-max",
        env: &["ORDER_NATS_LAG_MAX"],
        value: "N",
        help: "Messages behind at which the service still counts as ready",
        default: "10000",
        apply: |config, values| {
            let value = count(one(values)?, 0)? as u64;
            on(config, |nats| nats.lag_max = value);
            Ok(())
        },
        ..OF_NATS
    },
];
