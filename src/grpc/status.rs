//! What becomes of a call that has no answer: each outcome as a status code, with details for programs.

use std::time::Duration;

use tonic::{Code, Status};
use tonic_types::{ErrorDetails, FieldViolation, StatusExt};

use crate::access::Denied;
use crate::id::{IdError, Version};
use crate::read::ReadError;
use crate::record::{Rejection, RejectionKind};
use crate::source::inbox::{NoReply, STORE_LOST, SubmitError};
use crate::store::Refusal;

/// When to try again what was not taken.
const RETRY_TIME: Duration = Duration::from_secs(1);
/// A status travels in the headers, and some clients refuse more than 8 KiB of them: the message, and each description,
/// are cut here.
const TEXT_BYTES_MAX: usize = 512;
/// Fields named at most. A request has four.
const FIELDS_MAX: usize = 8;

/// INVALID_ARGUMENT for one field.
pub fn wrong_field(field: &str, description: impl Into<String>) -> Status {
    let description = description.into();
    let message = format!("{field}: {description}");
    Status::with_error_details(
        Code::InvalidArgument,
        message,
        ErrorDetails::with_bad_request_violation(field, description),
    )
}

/// INVALID_ARGUMENT for an id.
pub fn bad_id(error: IdError) -> Status {
    wrong_field("order_id", error.to_string())
}

/// NOT_FOUND for an id.
pub fn no_order() -> Status {
    Status::not_found("no order has this id")
}

/// NOT_FOUND for the id of an order that was deleted, where HTTP says 410.
pub fn deleted() -> Status {
    Status::not_found("deleted")
}

/// FAILED_PRECONDITION for a write to an order that was deleted, where HTTP says 409: to try again is no use.
pub fn was_deleted() -> Status {
    Status::failed_precondition("the order was deleted before")
}

/// FAILED_PRECONDITION for a read that asked for a version no one has, where HTTP says 412.
pub fn version_not_reached(least: Version) -> Status {
    Status::failed_precondition(format!("no copy of this order is at version {least} or newer"))
}

/// INTERNAL for a body that cannot be read.
pub fn unreadable(error: &serde_json::Error) -> Status {
    tracing::error!(%error, "a stored order cannot be read");
    Status::internal("the stored order cannot be read")
}

/// INVALID_ARGUMENT naming every field that is wrong; OUT_OF_RANGE for what is too large, as tonic says it too.
pub fn rejected(rejection: &Rejection) -> Status {
    if rejection.kind == RejectionKind::TooLarge {
        return Status::out_of_range(format!("the order is {}", rejection.line()));
    }
    let violation = |(pointer, message): (&str, &str)| FieldViolation::new(field(pointer), cut(message));
    let faults = rejection.faults.iter().map(|fault| (fault.pointer.as_str(), fault.message.as_str()));
    let violations: Vec<FieldViolation> = faults.take(FIELDS_MAX).map(violation).collect();
    let message = format!("the order is not valid: {}", rejection.line());
    Status::with_error_details(Code::InvalidArgument, cut(&message), ErrorDetails::with_bad_request(violations))
}

/// The field of the request that a pointer into the envelope means. Calls have no `payload`.
fn field(pointer: &str) -> String {
    match pointer.trim_start_matches('/') {
        "payload" => "payload_json".into(),
        field => field.replace('/', "."),
    }
}

fn cut(text: &str) -> &str {
    &text[..text.floor_char_boundary(TEXT_BYTES_MAX)]
}

/// Why a valid order is not stored.
pub fn refused(refusal: &Refusal) -> Status {
    match refusal {
        Refusal::Unknown => Status::not_found(refusal.to_string()),
        Refusal::OtherKind | Refusal::KeyReused | Refusal::Condition { .. } | Refusal::Database { .. } => {
            Status::failed_precondition(refusal.public())
        }
        Refusal::NotOwn => Status::permission_denied(refusal.to_string()),
        Refusal::NoUser => wrong_field("user_id", refusal.to_string()),
        Refusal::NoPayload => wrong_field("payload_json", refusal.to_string()),
    }
}

/// UNAVAILABLE, to be tried again: nothing was done.
fn try_again(message: String) -> Status {
    Status::with_error_details(Code::Unavailable, message, ErrorDetails::with_retry_info(Some(RETRY_TIME)))
}

/// What was not taken.
pub fn not_taken(error: SubmitError) -> Status {
    try_again(error.to_string())
}

/// The store lost its file.
pub fn store_lost() -> Status {
    try_again(STORE_LOST.into())
}

/// What was taken and may be durable: not UNAVAILABLE with a time to try again, or libraries would do so unasked.
pub fn no_reply(missing: NoReply) -> Status {
    match missing {
        NoReply::Slow => Status::deadline_exceeded(missing.to_string()),
        NoReply::Stopped => Status::unknown(format!("{missing}, or just after")),
    }
}

/// UNAUTHENTICATED, PERMISSION_DENIED or RESOURCE_EXHAUSTED for a call that is not let in.
pub fn not_let_in(denied: &Denied) -> Status {
    let detail = denied.detail();
    match denied.limited() {
        Some(limited) => {
            let details = ErrorDetails::with_retry_info(Some(limited.wait));
            Status::with_error_details(Code::ResourceExhausted, detail, details)
        }
        None if matches!(denied, Denied::Forbidden(_)) => Status::permission_denied(detail),
        None => Status::unauthenticated(detail),
    }
}

/// What could not be read.
pub fn not_read(error: &ReadError) -> Status {
    if let ReadError::Store(cause) = error {
        tracing::warn!(error = %crate::process::log::causes(cause), "read failed");
    }
    try_again(error.to_string())
}

/// The name of a code, for counters.
pub fn name(code: Code) -> &'static str {
    match code {
        Code::Ok => "OK",
        Code::Cancelled => "CANCELLED",
        Code::Unknown => "UNKNOWN",
        Code::InvalidArgument => "INVALID_ARGUMENT",
        Code::DeadlineExceeded => "DEADLINE_EXCEEDED",
        Code::NotFound => "NOT_FOUND",
        Code::AlreadyExists => "ALREADY_EXISTS",
        Code::PermissionDenied => "PERMISSION_DENIED",
        Code::ResourceExhausted => "RESOURCE_EXHAUSTED",
        Code::FailedPrecondition => "FAILED_PRECONDITION",
        Code::Aborted => "ABORTED",
        Code::OutOfRange => "OUT_OF_RANGE",
        Code::Unimplemented => "UNIMPLEMENTED",
        Code::Internal => "INTERNAL",
        Code::Unavailable => "UNAVAILABLE",
        Code::DataLoss => "DATA_LOSS",
        Code::Unauthenticated => "UNAUTHENTICATED",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::record::Fault;

    #[test]
    fn a_status_names_fields_and_stays_small() {
        let fault = |pointer: &str, message: &str| Fault { pointer: pointer.into(), message: message.into() };
        let mut faults = vec![fault("/payload", "is missing"), fault("/user_id", "must be a UUID")];
        let status = rejected(&Rejection::invalid(faults.clone()));
        assert_eq!(status.code(), Code::InvalidArgument);
        let details = status.get_details_bad_request().unwrap();
        let fields: Vec<&str> = details.field_violations.iter().map(|violation| violation.field.as_str()).collect();
        assert_eq!(fields, ["payload_json", "user_id"]);
        faults.extend((0..1000).map(|n| fault(&format!("/payload_json/{n}"), &"é".repeat(2000))));
        let status = rejected(&Rejection::invalid(faults));
        assert!(
            status.message().len() <= TEXT_BYTES_MAX
                && status.details().len() < (FIELDS_MAX + 1) * (TEXT_BYTES_MAX + 100)
        );
    }
}
