//! What a failure of PostgreSQL means: the one table of what may pass, what is about one order, and
//! what stays.

use std::time::Duration;

use tokio_postgres::error::{DbError, SqlState};

use super::StoreError;
use crate::store::Refusal;

/// What is to be done about an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Meaning {
    /// The same statement may succeed later: the connection broke, the server is starting,
    /// stopping, full, read-only or at fault for a while, a right is missing that may be granted,
    /// or another transaction was in the way.
    MayPass,
    /// A value, or a rule that the owner of the database made. Other orders may be taken.
    OfOneOrder,
    /// The schema is not the one this program knows.
    Unfit,
    /// The server found its own data damaged.
    Damaged,
}

fn meaning(code: &SqlState) -> Meaning {
    if [&SqlState::DATA_CORRUPTED, &SqlState::INDEX_CORRUPTED].contains(&code) {
        return Meaning::Damaged;
    }
    if [
        &SqlState::INSUFFICIENT_PRIVILEGE, // may be granted
        &SqlState::UNDEFINED_TABLE,        // the schema is being made, by hand or by another instance
    ]
    .contains(&code)
    {
        return Meaning::MayPass;
    }
    match &code.code()[..2] {
        "22" // data exception
        | "23" // integrity constraint violation
        | "44" // a view's check
        | "54" // larger than something there can be, such as an entry of the owner's index
        | "P0" // raised by a trigger
        => Meaning::OfOneOrder,
        "42" // no such column, function or type, or another kind of thing
        => Meaning::Unfit,
        _ => Meaning::MayPass,
    }
}

/// A key that a batch took for new is there. Keys of ours end like this; other unique indexes are
/// the owner's.
pub(super) fn is_conflict(error: &tokio_postgres::Error) -> bool {
    let constraint = error.as_db_error().and_then(DbError::constraint);
    error.code() == Some(&SqlState::UNIQUE_VIOLATION) && constraint.is_some_and(|name| name.ends_with("_pkey"))
}

/// Whether a statement was given up because it took too long, as one that waits for a lock does.
pub(super) fn has_waited(error: &StoreError) -> bool {
    let StoreError::Unavailable(error) = error else { return false };
    let code = error.downcast_ref::<tokio_postgres::Error>().and_then(tokio_postgres::Error::code);
    code.is_some_and(|code| [SqlState::QUERY_CANCELED, SqlState::LOCK_NOT_AVAILABLE].contains(code))
}

/// Why the database does not take an order, if that is what an error says.
pub(super) fn refusal(error: &tokio_postgres::Error) -> Option<Refusal> {
    let error = error.as_db_error().filter(|error| meaning(error.code()) == Meaning::OfOneOrder)?;
    Some(Refusal::Database { sqlstate: error.code().code().into(), message: error.message().into() })
}

/// Whether something in the database is not what the schema says.
pub(super) fn is_unfit(error: &tokio_postgres::Error) -> bool {
    error.code().is_some_and(|code| meaning(code) == Meaning::Unfit)
}

fn store_error(code: Option<&SqlState>, error: Box<dyn std::error::Error + Send + Sync>) -> StoreError {
    // Without a code it never reached the server, or never came back.
    match code.map_or(Meaning::MayPass, meaning) {
        Meaning::MayPass | Meaning::OfOneOrder => StoreError::Unavailable(error),
        Meaning::Unfit => StoreError::Unfit(error),
        Meaning::Damaged => StoreError::Damaged(error),
    }
}

/// The server said nothing for as long as it was waited for.
#[derive(Debug, thiserror::Error)]
#[error("PostgreSQL did not answer within {0:?}: it is silent or slow, or what was asked waits for a lock")]
pub(super) struct Silent(Duration);

/// The server said nothing for this long.
pub(super) const fn silent(time: Duration) -> Silent {
    Silent(time)
}

impl From<Silent> for StoreError {
    fn from(silent: Silent) -> Self {
        Self::Unavailable(silent.into())
    }
}

/// What PostgreSQL says by an error, in words that anyone may read. `None` where it says nothing: it was not
/// reached, or is gone.
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

/// The store's word for an error.
pub(super) fn classify(error: tokio_postgres::Error) -> StoreError {
    store_error(error.code().cloned().as_ref(), error.into())
}

/// The same for an error that was read off a connection as its code and what it says.
pub(super) fn classify_code(code: &str, message: &str) -> StoreError {
    // An answer without a code is no answer of PostgreSQL's.
    let state = (code.len() == 5).then(|| SqlState::from_code(code));
    store_error(state.as_ref(), format!("{message} ({code})").into())
}

/// A column is not what the schema says.
pub(super) fn unreadable(error: tokio_postgres::Error) -> StoreError {
    StoreError::Unfit(error.into())
}
