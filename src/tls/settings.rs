//! Settings of listeners with TLS.

use super::server::Config;
use crate::setting::{Setting, file, on, one};

/// In the order of `--help`.
pub const SETTINGS: &[Setting<Option<Config>>] = &[
    Setting {
        key: "tls.cert",
        flag: "tls-cert",
        env: &["ORDER_TLS_CERT"],
        value: "FILE",
        help: "Certificate of tls: listeners with its chain, PEM; read again when it changes and on SIGHUP",
        apply: |config, values| {
            config.get_or_insert_default().cert = file(values)?;
            Ok(())
        },
        ..Setting::PLAIN
    },
    Setting {
        key: "tls.key",
        flag: "tls-key",
        env: &["ORDER_TLS_KEY"],
        value: "FILE",
        help: "Its private key, PEM",
        needs: &["tls.cert"],
        apply: |config, values| {
            config.get_or_insert_default().key = file(values)?;
            Ok(())
        },
        ..Setting::PLAIN
    },
    Setting {
        key: "tls.client_ca",
        flag: "tls-client-ca",
        env: &["ORDER_TLS_CLIENT_CA"],
        value: "FILE",
        help: "Authorities whose certificates clients must show on tls: listeners, PEM; none are asked for when not set",
        needs: &["tls.cert"],
        apply: |config, values| {
            config.get_or_insert_default().client_ca = Some(file(values)?);
            Ok(())
        },
        ..Setting::PLAIN
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
            on(config, |tls| tls.is_client_optional = is_optional);
            Ok(())
        },
        ..Setting::DETAIL
    },
];
