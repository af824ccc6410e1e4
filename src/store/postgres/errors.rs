//! What a failure of PostgreSQL means: the one table of errors that may pass by themselves.

use tokio_postgres::error::SqlState;

use super::StoreError;

/// Whether the same statement may succeed later without anybody changing it.
///
/// The connection broke, the server is starting, stopping, full or read-only for a while, or another transaction was in
/// the way. Anything else is a fault of the schema, of the rights or of this program, and stays one.
pub(super) fn may_pass(error: &tokio_postgres::Error) -> bool {
    error.code().is_none_or(state_may_pass) // without one it never reached the server, or never came back
}

fn state_may_pass(code: &SqlState) -> bool {
    matches!(
        &code.code()[..2],
        "08" // connection exception
        | "40" // rollback: serialization, deadlock
        | "53" // insufficient resources: disk, memory, connections
        | "57" // operator intervention: shutdown, crash, start, statement timeout
        | "58" // system error
    ) || [
        &SqlState::LOCK_NOT_AVAILABLE,
        &SqlState::READ_ONLY_SQL_TRANSACTION, // a standby that is about to be promoted
        &SqlState::IDLE_IN_TRANSACTION_SESSION_TIMEOUT,
        &SqlState::INVALID_CATALOG_NAME, // the database is being made or restored
        &SqlState::UNDEFINED_TABLE,      // the schema is being made, by hand or by another instance
    ]
    .contains(&code)
}

/// A key that a batch took for new is there.
pub(super) fn is_conflict(error: &tokio_postgres::Error) -> bool {
    error.code() == Some(&SqlState::UNIQUE_VIOLATION)
}

/// The store's word for an error.
pub(super) fn classify(error: tokio_postgres::Error) -> StoreError {
    if may_pass(&error) { StoreError::Unavailable(error.into()) } else { StoreError::Damaged(error.into()) }
}

/// The same for an error that was read off a connection as its code and what it says.
pub(super) fn classify_code(code: &str, message: &str) -> StoreError {
    let error = format!("{message} ({code})").into();
    if state_may_pass(&SqlState::from_code(code)) { StoreError::Unavailable(error) } else { StoreError::Damaged(error) }
}

/// A column is not what the schema says.
pub(super) fn unreadable(error: tokio_postgres::Error) -> StoreError {
    StoreError::Damaged(error.into())
}
