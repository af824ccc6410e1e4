//! Settings of who may do what: keys, tokens, limits, the audit trail.

use super::address::Proxies;
use super::keys::Keys;
use super::rate::Rate;
use super::{Config, TokenConfig, audit, jwks, jwt};
use crate::setting::{Setting, escapes, on, one, yes_or_no};

const OF_TOKENS: Setting<Config> = Setting { needs: &["auth.jwks"], ..Setting::PLAIN };

/// In the order of `--help`.
pub const SETTINGS: &[Setting<Config>] = &[
    Setting {
        key: "auth.keys",
        flag: "auth-keys",
        env: &["ORDER_AUTH_KEYS"],
        value: "FILE",
        help: "Keys of callers, as TOML (order-service keys new makes them); read again when it changes",
        apply: |config, values| {
            let path = std::path::PathBuf::from(one(values)?);
            let text = std::fs::read_to_string(&path).map_err(|error| format!("{}: {error}", path.display()))?;
            Keys::parse(&text).map_err(|error| format!("{}: {error}", path.display()))?;
            config.keys = Some(path);
            Ok(())
        },
        ..Setting::PLAIN
    },
    Setting {
        key: "auth.jwks",
        flag: "auth-jwks",
        env: &["ORDER_AUTH_JWKS"],
        value: "URL|FILE",
        help: "Public keys (JWKS) of who signs the tokens of callers; needs --auth-issuer and --auth-audience",
        apply: |config, values| {
            let source = jwks::Source::parse(one(values)?)?;
            if matches!(source, jwks::Source::Url(_)) {
                escapes(one(values)?)?;
            }
            if let jwks::Source::File(path) = &source {
                let wrong = |error: &dyn std::fmt::Display| format!("{}: {error}", path.display());
                let text = std::fs::read(path).map_err(|error| wrong(&error))?;
                let set = jwt::KeySet::parse(&text).and_then(jwt::KeySet::usable);
                set.map_err(|error| wrong(&error))?;
            }
            let rules = jwt::Rules { issuer: String::new(), audience: String::new() };
            config.tokens = Some(TokenConfig { source, rules });
            Ok(())
        },
        ..Setting::PLAIN
    },
    Setting {
        key: "auth.issuer",
        flag: "auth-issuer",
        env: &["ORDER_AUTH_ISSUER"],
        value: "TEXT",
        help: "What tokens must have as iss",
        apply: |config, values| {
            let issuer = one(values)?.to_owned();
            on(&mut config.tokens, |tokens| tokens.rules.issuer = issuer);
            Ok(())
        },
        ..OF_TOKENS
    },
    Setting {
        key: "auth.audience",
        flag: "auth-audience",
        env: &["ORDER_AUTH_AUDIENCE"],
        value: "TEXT",
        help: "What tokens must have as aud, or among it",
        apply: |config, values| {
            let audience = one(values)?.to_owned();
            on(&mut config.tokens, |tokens| tokens.rules.audience = audience);
            Ok(())
        },
        ..OF_TOKENS
    },
    Setting {
        key: "rate_limit",
        flag: "rate-limit",
        env: &["ORDER_RATE_LIMIT"],
        value: "N/s",
        help: "Requests a second of each caller, or of each address where no key is shown; twice as many at once",
        apply: |config, values| {
            config.rate = Some(Rate::parse(one(values)?)?);
            Ok(())
        },
        ..Setting::PLAIN
    },
    Setting {
        key: "audit.file",
        flag: "audit",
        env: &["ORDER_AUDIT"],
        value: "FILE|-",
        help: "Note every write and refused access there, as lines of JSON; - is standard output",
        apply: |config, values| {
            config.audit = Some(audit::Target::parse(one(values)?));
            Ok(())
        },
        ..Setting::PLAIN
    },
    Setting {
        key: "audit.reads",
        flag: "audit-reads",
        env: &["ORDER_AUDIT_READS"],
        value: "yes|no",
        help: "Note reads too",
        default: "no",
        needs: &["audit.file"],
        apply: |config, values| {
            config.audit_reads = yes_or_no(one(values)?)?;
            Ok(())
        },
        ..Setting::PLAIN
    },
    Setting {
        key: "trusted_proxies",
        flag: "trusted-proxies",
        env: &["ORDER_TRUSTED_PROXIES"],
        value: "CIDR",
        help: "Proxies that say where a request comes from: X-Forwarded-For, Forwarded, PROXY protocol",
        is_repeated: true,
        needs: &["rate_limit", "audit.file", "auth.keys", "auth.jwks"],
        apply: |config, values| {
            config.proxies = Proxies::parse(values)?;
            Ok(())
        },
        ..Setting::PLAIN
    },
];
