//! Settings of the second-level cache.

use super::Config;
use crate::setting::{Setting, between, escapes, file, on, one};

const OF_REDIS: Setting<Option<Config>> = Setting { needs: &["redis.url"], ..Setting::DETAIL };

/// In the order of `--help`.
pub const SETTINGS: &[Setting<Option<Config>>] = &[
    Setting {
        key: "redis.url",
        flag: "redis",
        env: &["REDIS_ADDR"],
        value: "ADDR",
        help: "Redis as a second-level cache, for reads that miss the view: host:port, redis://user:password@host:port/db, rediss:// with TLS",
        is_secret: true,
        apply: |config, values| {
            *config = Some(Config::parse(escapes(one(values)?)?)?);
            Ok(())
        },
        ..Setting::PLAIN
    },
    Setting {
        key: "redis.ca",
        flag: "redis-ca",
        env: &["ORDER_REDIS_CA"],
        value: "FILE",
        help: "Authorities that Redis's certificate must lead to, PEM; those of the system when not set",
        apply: |config, values| {
            let file = file(values)?;
            on(config, |server| server.encryption.roots = Some(file));
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
            on(config, |server| server.encryption.identity.get_or_insert_default().0 = file);
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
            on(config, |server| server.encryption.identity.get_or_insert_default().1 = file);
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
            on(config, |redis| redis.ttl = time);
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
            on(config, |redis| redis.read_timeout = time);
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
            on(config, |redis| redis.write_timeout = time);
            Ok(())
        },
        ..OF_REDIS
    },
];
