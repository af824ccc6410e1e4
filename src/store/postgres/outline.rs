//! What a failure is called where anyone may read it.

use std::borrow::Cow;
use std::sync::Arc;

use tokio_postgres::error::{DbError, SqlState};

use super::errors::Silent;
use super::session::ConnectError;
use crate::tls::client::is_about_certificate;

/// What an error comes to, in words that anyone may read: no host, user or database is named. `None`
/// for what did not come from PostgreSQL.
pub(in crate::store) fn outline(error: &(dyn std::error::Error + 'static)) -> Option<Cow<'static, str>> {
    if is_about_certificate(error) {
        return Some("the certificate of PostgreSQL is not believed".into());
    }
    let mut next = Some(error);
    while let Some(error) = next {
        if error.is::<Silent>() {
            return Some("PostgreSQL does not answer".into());
        }
        if let Some(connect) = error.downcast_ref::<Arc<ConnectError>>() {
            match &**connect {
                ConnectError::Pooled => {
                    return Some("the pooler before PostgreSQL is not of pool_mode = session".into());
                }
                ConnectError::Silent(_) => return Some("PostgreSQL does not answer".into()),
                ConnectError::Connect(_) | ConnectError::SetUp(_) | ConnectError::Migrate(_) => {}
            }
        }
        if let Some(error) = error.downcast_ref::<tokio_postgres::Error>() {
            if let Some(denied) = error.as_db_error().and_then(right) {
                return Some(format!("PostgreSQL refuses: {denied}").into());
            }
            return Some(said(error).unwrap_or("PostgreSQL is unavailable").into());
        }
        next = error.source();
    }
    None
}

/// What PostgreSQL says by an error, in such words. `None` where it says nothing: it was not reached, or is gone.
pub(super) fn said(error: &tokio_postgres::Error) -> Option<&'static str> {
    Some(match error.code().map(SqlState::code) {
        Some(code) if code.starts_with("28") => "PostgreSQL refuses the login",
        Some("3D000") => "PostgreSQL does not have the database",
        Some("25006") => "PostgreSQL takes no writes: it is a standby, or its transactions are read-only",
        Some("42501") => "PostgreSQL does not give the role the rights it needs",
        Some("53300") => "PostgreSQL has no connection to spare",
        Some("57P01" | "57P02" | "57P03") => "PostgreSQL is starting or stopping",
        Some(_) => "PostgreSQL answers with an error",
        // What the client library finds out by itself.
        None => {
            let causes = crate::process::log::causes(error);
            let found = [
                ("does not support TLS", "PostgreSQL offers no TLS, and sslmode asks for it"),
                ("performing TLS handshake", "TLS with PostgreSQL cannot be set up"),
                ("password missing", "PostgreSQL asks for a password"),
                ("authentication", "PostgreSQL and this client do not agree on how to log in"),
                ("does not allow writes", "PostgreSQL takes no writes, and target_session_attrs asks for them"),
            ];
            found.into_iter().find(|(sign, _)| causes.contains(sign))?.1
        }
    })
}

/// Which right is missing, in the server's words, where they name what is ours: a table, the schema.
fn right(error: &DbError) -> Option<&str> {
    let is_named = |message: &&str| message.starts_with("permission denied for ") && !message.contains("database");
    Some(error.message()).filter(is_named).filter(|_| *error.code() == SqlState::INSUFFICIENT_PRIVILEGE)
}
