//! Details of PostgreSQL and of Redis, and of reads that ask them.

use super::*;

/// In the order of `--help`.
pub(super) const SETTINGS: &[Setting] = &[
    Setting {
        key: "postgres.readers_max",
        flag: "postgres-readers-max",
        env: &["ORDER_POSTGRES_READERS_MAX"],
        value: "N",
        help: "Connections to PostgreSQL for reads that miss the view",
        default: "8",
        apply: |config, values| {
            let most = count(one(values)?, 1)?;
            on_postgres(config, |postgres| postgres.readers_max = u32::try_from(most).unwrap_or(u32::MAX));
            Ok(())
        },
        ..OF_POSTGRES
    },
    Setting {
        key: "postgres.statement_timeout",
        flag: "postgres-statement-timeout",
        env: &["ORDER_POSTGRES_STATEMENT_TIMEOUT"],
        value: "TIME",
        help: "How long PostgreSQL may take for one statement of a batch or a read",
        default: "60s",
        apply: |config, values| {
            let time = duration(one(values)?)?;
            on_postgres(config, |postgres| postgres.statement_timeout = time);
            Ok(())
        },
        ..OF_POSTGRES
    },
    Setting {
        key: "postgres.schema",
        flag: "postgres-schema",
        env: &["ORDER_POSTGRES_SCHEMA", "POSTGRES_SCHEMA"],
        value: "NAME",
        help: "Schema of PostgreSQL that holds all that the service makes, created if missing; the search path when not set",
        apply: |config, values| {
            let schema = crate::store::postgres::SchemaName::parse(one(values)?)?;
            on_postgres(config, |postgres| postgres.schema = schema);
            Ok(())
        },
        ..OF_POSTGRES
    },
    Setting {
        key: "postgres.migrate",
        flag: "postgres-migrate",
        env: &["ORDER_POSTGRES_MIGRATE"],
        value: "yes|no",
        help: "Bring PostgreSQL's schema up to date at the start; no where that is done by hand",
        default: "yes",
        apply: |config, values| {
            let is_migrating = yes_or_no(one(values)?)?;
            on_postgres(config, |postgres| postgres.is_migrating = is_migrating);
            Ok(())
        },
        ..OF_POSTGRES
    },
    Setting {
        key: "redis.ca",
        flag: "redis-ca",
        env: &["ORDER_REDIS_CA"],
        value: "FILE",
        help: "Authorities that Redis's certificate must lead to, PEM; those of the system when not set",
        apply: |config, values| {
            let file = file(values)?;
            on_redis(config, |server| server.encryption.roots = Some(file));
            Ok(())
        },
        ..OF_REDIS
    },
    Setting {
        key: "redis.cert",
        flag: "redis-cert",
        env: &["ORDER_REDIS_CERT"],
        value: "FILE",
        help: "Certificate to show to Redis, PEM",
        apply: |config, values| {
            let file = file(values)?;
            on_redis(config, |server| server.encryption.identity.get_or_insert_default().0 = file);
            Ok(())
        },
        ..OF_REDIS
    },
    Setting {
        key: "redis.key",
        flag: "redis-key",
        env: &["ORDER_REDIS_KEY"],
        value: "FILE",
        help: "Its private key, PEM",
        apply: |config, values| {
            let file = file(values)?;
            on_redis(config, |server| server.encryption.identity.get_or_insert_default().1 = file);
            Ok(())
        },
        ..OF_REDIS
    },
    Setting {
        key: "redis.ttl",
        flag: "redis-ttl",
        env: &["ORDER_REDIS_TTL", "REDIS_TTL"],
        value: "TIME",
        help: "How long orders are kept in Redis",
        default: "5m",
        apply: |config, values| {
            let time = between(one(values)?, "1s", "8760h")?;
            on_redis(config, |redis| redis.ttl = time);
            Ok(())
        },
        ..OF_REDIS
    },
    Setting {
        key: "redis.read_timeout",
        flag: "redis-read-timeout",
        env: &["ORDER_REDIS_READ_TIMEOUT"],
        value: "TIME",
        help: "How long Redis may take for a read; then the store is asked",
        default: "20ms",
        apply: |config, values| {
            let time = between(one(values)?, "1ms", "1s")?;
            on_redis(config, |redis| redis.read_timeout = time);
            Ok(())
        },
        ..OF_REDIS
    },
    Setting {
        key: "redis.write_timeout",
        flag: "redis-write-timeout",
        env: &["ORDER_REDIS_WRITE_TIMEOUT"],
        value: "TIME",
        help: "How long Redis may take for a batch of writes, which no one waits for",
        default: "100ms",
        apply: |config, values| {
            let time = between(one(values)?, "1ms", "10s")?;
            on_redis(config, |redis| redis.write_timeout = time);
            Ok(())
        },
        ..OF_REDIS
    },
    Setting {
        key: "read.loads_max",
        flag: "read-loads-max",
        env: &["ORDER_READ_LOADS_MAX"],
        value: "N",
        help: "Reads of the store at once; more wait for their turn, 2 s at most",
        default: "64",
        apply: |config, values| {
            config.read.loads_max = count(one(values)?, 1)?;
            Ok(())
        },
        ..DETAIL
    },
    Setting {
        key: "read.version_wait",
        flag: "read-version-wait",
        env: &["ORDER_READ_VERSION_WAIT"],
        value: "TIME",
        help: "How long a read with X-Min-Version waits before the store is asked",
        default: "200ms",
        apply: |config, values| {
            config.read.version_wait = duration(one(values)?)?;
            Ok(())
        },
        ..DETAIL
    },
];
