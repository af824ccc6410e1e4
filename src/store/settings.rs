//! Settings of where orders are durable.

use std::path::PathBuf;

use super::any::Config;
use super::postgres::{self, SchemaName};
use crate::setting::{Setting, count, duration, escapes, on, one, yes_or_no};

const OF_POSTGRES: Setting<Config> = Setting { needs: &["postgres.url"], ..Setting::DETAIL };

/// In the order of `--help`.
pub const SETTINGS: &[Setting<Config>] = &[
    Setting {
        key: "data",
        flag: "data",
        env: &["ORDER_DATA"],
        value: "DIR",
        help: "Directory of the embedded store",
        default: "data",
        apply: |config, values| {
            config.embedded.dir = PathBuf::from(one(values)?);
            Ok(())
        },
        ..Setting::PLAIN
    },
    Setting {
        key: "postgres.url",
        flag: "postgres",
        env: &["POSTGRES_DSN", "DB_CONN_STR", "API_POSTGRES_DSN", "WORKER_POSTGRES_DSN"],
        value: "URL",
        help: "PostgreSQL server to keep the orders in, instead of the embedded store",
        is_secret: true,
        apply: |config, values| {
            let postgres = parse_postgres(one(values)?)?;
            postgres.check_writable()?;
            config.postgres = Some(postgres);
            Ok(())
        },
        ..Setting::PLAIN
    },
    Setting {
        key: "postgres.readers_max",
        flag: "postgres-readers-max",
        env: &["ORDER_POSTGRES_READERS_MAX"],
        value: "N",
        help: "Connections to PostgreSQL for reads that miss the view",
        default: "8",
        apply: |config, values| {
            let most = count(one(values)?, 1)?;
            on(&mut config.postgres, |postgres| postgres.readers_max = u32::try_from(most).unwrap_or(u32::MAX));
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
            on(&mut config.postgres, |postgres| postgres.statement_timeout = time);
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
            let schema = SchemaName::parse(one(values)?)?;
            on(&mut config.postgres, |postgres| postgres.schema = schema);
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
            on(&mut config.postgres, |postgres| postgres.is_migrating = is_migrating);
            Ok(())
        },
        ..OF_POSTGRES
    },
];

/// A PostgreSQL server: a URL, or pairs, in which a `%` is one.
pub fn parse_postgres(text: &str) -> Result<postgres::Config, String> {
    let is_url = text.split_once("://").is_some_and(|(scheme, _)| !scheme.contains('='));
    postgres::Config::parse(if is_url { escapes(text)? } else { text })
}
