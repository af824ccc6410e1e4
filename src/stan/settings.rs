//! Settings of NATS Streaming.

use super::Config;
use crate::nats;
use crate::setting::{Setting, count, duration, escapes, on, one};

const OF_STAN: Setting<Option<Config>> = Setting { needs: &["stan.url"], ..Setting::DETAIL };

/// In the order of `--help`.
pub const SETTINGS: &[Setting<Option<Config>>] = &[
    Setting {
        key: "stan.url",
        flag: "stan",
        env: &["STAN_URL", "NATS_STREAMING_URL"],
        value: "URL",
        help: "NATS Streaming to take orders from: nats://user:password@host:4222, several separated by commas",
        is_secret: true,
        apply: |config, values| {
            *config = Some(Config::new(escapes(one(values)?)?)?);
            Ok(())
        },
        ..Setting::PLAIN
    },
    Setting {
        key: "stan.cluster",
        flag: "stan-cluster",
        env: &["STAN_CLUSTER_ID", "NATS_CLUSTER_ID"],
        value: "NAME",
        help: "Name of the NATS Streaming cluster",
        default: "test-cluster",
        apply: |config, values| {
            let value = nats::name(one(values)?)?;
            on(config, |stan| stan.cluster = value);
            Ok(())
        },
        ..OF_STAN
    },
    Setting {
        key: "stan.client",
        flag: "stan-client",
        env: &["STAN_CLIENT_ID", "NATS_CLIENT_ID"],
        value: "NAME",
        help: "Name of this client; of several instances with one name one reads, the others stand by",
        default: "order-service",
        apply: |config, values| {
            let value = nats::name(one(values)?)?;
            on(config, |stan| stan.client = value);
            Ok(())
        },
        ..OF_STAN
    },
    Setting {
        key: "stan.subject",
        flag: "stan-subject",
        env: &["STAN_SUBJECT"],
        value: "CHANNEL",
        help: "Channel to take orders from",
        default: "orders",
        apply: |config, values| {
            let value = nats::subject(one(values)?)?;
            on(config, |stan| stan.subject = value);
            Ok(())
        },
        ..OF_STAN
    },
    Setting {
        key: "stan.durable",
        flag: "stan-durable",
        env: &["STAN_DURABLE", "NATS_DURABLE_NAME"],
        value: "NAME",
        help: "Subscription at the server, which outlives the service",
        default: "order-service-durable",
        apply: |config, values| {
            let value = nats::name(one(values)?)?;
            on(config, |stan| stan.durable = value);
            Ok(())
        },
        ..OF_STAN
    },
    Setting {
        key: "stan.dlq_subject",
        flag: "stan-dlq-subject",
        env: &["STAN_DLQ_SUBJECT"],
        value: "CHANNEL",
        help: "Channel for messages that are no valid order",
        default: "orders.dlq",
        apply: |config, values| {
            let value = nats::subject(one(values)?)?;
            on(config, |stan| stan.dlq_subject = value);
            Ok(())
        },
        ..OF_STAN
    },
    Setting {
        key: "stan.ack_wait",
        flag: "stan-ack-wait",
        env: &["ORDER_STAN_ACK_WAIT"],
        value: "TIME",
        help: "How long the server waits for a message before it delivers it again, in whole seconds",
        default: "30s",
        apply: |config, values| {
            let value = duration(one(values)?)?;
            if value.subsec_nanos() > 0 || value.is_zero() || value.as_secs() > 86_400 {
                return Err("must be whole seconds, from 1s to 24h".into());
            }
            on(config, |stan| stan.ack_wait = value);
            Ok(())
        },
        ..OF_STAN
    },
    Setting {
        key: "stan.in_flight_max",
        flag: "stan-in-flight-max",
        env: &["ORDER_STAN_IN_FLIGHT_MAX"],
        value: "N",
        help: "Messages received and not yet durable",
        default: "4096",
        apply: |config, values| {
            let value = count(one(values)?, 1)?;
            on(config, |stan| stan.in_flight_max = value);
            Ok(())
        },
        ..OF_STAN
    },
    Setting {
        key: "stan.lag_max",
        flag: "stan-lag-max",
        env: &["ORDER_STAN_LAG_MAX"],
        value: "N",
        help: "Messages behind at which the service still counts as ready",
        default: "10000",
        apply: |config, values| {
            let value = count(one(values)?, 0)? as u64;
            on(config, |stan| stan.lag_max = value);
            Ok(())
        },
        ..OF_STAN
    },
];
