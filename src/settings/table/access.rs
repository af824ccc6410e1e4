//! Who may do what: certificates, keys, tokens, limits, the audit trail.

use super::*;

/// In the order of `--help`.
pub(super) const SETTINGS: &[Setting] = &[
    Setting {
        key: "tls.cert",
        flag: "tls-cert",
        env: &["ORDER_TLS_CERT"],
        value: "FILE",
        help: "Certificate of tls: listeners with its chain, PEM; read again when it changes and on SIGHUP",
        apply: |config, values| {
            config.tls.get_or_insert_default().cert = file(values)?;
            Ok(())
        },
        ..PLAIN
    },
    Setting {
        key: "tls.key",
        flag: "tls-key",
        env: &["ORDER_TLS_KEY"],
        value: "FILE",
        help: "Its private key, PEM",
        needs: &["tls.cert"],
        apply: |config, values| {
            config.tls.get_or_insert_default().key = file(values)?;
            Ok(())
        },
        ..PLAIN
    },
    Setting {
        key: "tls.client_ca",
        flag: "tls-client-ca",
        env: &["ORDER_TLS_CLIENT_CA"],
        value: "FILE",
        help: "Authorities whose certificates clients must show on tls: listeners, PEM; none are asked for when not set",
        needs: &["tls.cert"],
        apply: |config, values| {
            config.tls.get_or_insert_default().client_ca = Some(file(values)?);
            Ok(())
        },
        ..PLAIN
    },
    Setting {
        key: "tls.client_auth",
        flag: "tls-client-auth",
        env: &["ORDER_TLS_CLIENT_AUTH"],
        value: "required|optional",
        help: "Whether a client without a certificate is let in",
        default: "required",
        needs: &["tls.client_ca"],
        apply: |config, values| {
            let is_optional = match one(values)? {
                "required" => false,
                "optional" => true,
                other => return Err(format!("{other:?} is neither required nor optional")),
            };
            // Without a certificate there is nothing to change: it comes first in the table.
            if let Some(tls) = &mut config.tls {
                tls.is_client_optional = is_optional;
            }
            Ok(())
        },
        ..DETAIL
    },
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
            config.access.keys = Some(path);
            Ok(())
        },
        ..PLAIN
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
            config.access.tokens = Some(TokenConfig { source, rules });
            Ok(())
        },
        ..PLAIN
    },
    Setting {
        key: "auth.issuer",
        flag: "auth-issuer",
        env: &["ORDER_AUTH_ISSUER"],
        value: "TEXT",
        help: "What tokens must have as iss",
        apply: |config, values| {
            let issuer = one(values)?.to_owned();
            on_tokens(config, |tokens| tokens.rules.issuer = issuer);
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
            on_tokens(config, |tokens| tokens.rules.audience = audience);
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
            config.access.rate = Some(Rate::parse(one(values)?)?);
            Ok(())
        },
        ..PLAIN
    },
    Setting {
        key: "audit.file",
        flag: "audit",
        env: &["ORDER_AUDIT"],
        value: "FILE|-",
        help: "Note every write and refused access there, as lines of JSON; - is standard output",
        apply: |config, values| {
            config.access.audit = Some(audit::Target::parse(one(values)?));
            Ok(())
        },
        ..PLAIN
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
            config.access.audit_reads = yes_or_no(one(values)?)?;
            Ok(())
        },
        ..PLAIN
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
            config.access.proxies = Proxies::parse(values)?;
            Ok(())
        },
        ..PLAIN
    },
];
