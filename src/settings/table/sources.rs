//! Where orders are kept and where they come from. Details of each come later in the table.

use super::*;

/// In the order of `--help`.
pub(super) const SETTINGS: &[Setting] = &[
    Setting {
        key: "data",
        flag: "data",
        env: &["ORDER_DATA"],
        value: "DIR",
        help: "Directory of the embedded store",
        default: "data",
        apply: |config, values| {
            config.store.embedded.dir = PathBuf::from(one(values)?);
            Ok(())
        },
        ..PLAIN
    },
    Setting {
        key: "postgres.url",
        flag: "postgres",
        env: &["POSTGRES_DSN", "DB_CONN_STR", "API_POSTGRES_DSN", "WORKER_POSTGRES_DSN"],
        value: "URL",
        help: "PostgreSQL server to keep the orders in, instead of the embedded store",
        is_secret: true,
        apply: |config, values| {
            let postgres = postgres(one(values)?)?;
            postgres.check_writable()?;
            config.store.postgres = Some(postgres);
            Ok(())
        },
        ..PLAIN
    },
    Setting {
        key: "kafka.brokers",
        flag: "kafka",
        env: &["KAFKA_BROKERS"],
        value: "BROKERS",
        help: "Kafka to take orders from: host:port, several separated by commas",
        apply: |config, values| {
            #[cfg(feature = "kafka")]
            {
                config.kafka = Some(crate::kafka::Config::new(brokers(&values.join(","))?));
                Ok(())
            }
            #[cfg(not(feature = "kafka"))]
            {
                let _ = (config, values);
                Err("this build has no Kafka".into())
            }
        },
        ..PLAIN
    },
    Setting {
        key: "redis.url",
        flag: "redis",
        env: &["REDIS_ADDR"],
        value: "ADDR",
        help: "Redis as a second-level cache, for reads that miss the view: host:port, redis://user:password@host:port/db, rediss:// with TLS",
        is_secret: true,
        apply: |config, values| {
            config.redis = Some(crate::redis::Config::parse(escapes(one(values)?)?)?);
            Ok(())
        },
        ..PLAIN
    },
    Setting {
        key: "nats.url",
        flag: "nats",
        env: &["NATS_URL"],
        value: "URL",
        help: "NATS JetStream to take orders from: nats://user:password@host:4222, tls:// with TLS, several separated by commas",
        is_secret: true,
        apply: |config, values| {
            config.nats = Some(crate::nats::Config::new(escapes(one(values)?)?)?);
            Ok(())
        },
        ..PLAIN
    },
    Setting {
        key: "stan.url",
        flag: "stan",
        env: &["STAN_URL", "NATS_STREAMING_URL"],
        value: "URL",
        help: "NATS Streaming to take orders from: nats://user:password@host:4222, several separated by commas",
        is_secret: true,
        apply: |config, values| {
            config.stan = Some(stan::Config::new(escapes(one(values)?)?)?);
            Ok(())
        },
        ..PLAIN
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
        ..PLAIN
    },
    Setting {
        key: "profile",
        flag: "profile",
        env: &["ORDER_PROFILE"],
        value: "PROFILE",
        help: "How strictly orders are checked: lenient, wb or strict",
        default: "wb",
        apply: |config, values| {
            config.ingest.profile = one(values)?.parse().map_err(str::to_owned)?;
            Ok(())
        },
        ..PLAIN
    },
];
