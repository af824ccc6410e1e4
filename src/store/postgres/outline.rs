//! What a failure is called where anyone may read it.

use std::borrow::Cow;
use std::sync::Arc;

use tokio_postgres::error::{DbError, SqlState};

use super::errors::{Silent, said};
use super::session::ConnectError;
use crate::tls::client::is_about_certificate;

/// What an error comes to, in words that anyone may read: no host, user or database is named.
/// `None` for what did not come from PostgreSQL.
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

/// Which right is missing, in the server's words, where they name what is ours: a table, the
/// schema.
fn right(error: &DbError) -> Option<&str> {
    let is_named = |message: &&str| message.starts_with("permission denied for ") && !message.contains("database");
    Some(error.message()).filter(is_named).filter(|_| *error.code() == SqlState::INSUFFICIENT_PRIVILEGE)
}
