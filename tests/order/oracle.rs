//! What a document should decode to, found a second way: a recursive parser that keeps spellings, serde_json beside it
//! for the grammar, and the rules of the record written down again. Shares no code with the decoder; the fuzz target
//! includes this file.

use std::collections::BTreeSet;

use order_service::order::{Command, Order, Profile, Status};
use order_service::record::{Rejection, RejectionKind};

use super::json::{self, Json};
use super::rules;

/// What the decoder must answer.
#[derive(Debug, PartialEq)]
pub enum Expected {
    Wb { id: String, body: String },
    Delete { id: String },
    Envelope(Box<ExpectedEnvelope>),
    Refused { kind: RejectionKind, pointers: BTreeSet<String> },
}

/// The parts of an envelope. No id means that one is made.
#[derive(Debug, PartialEq)]
pub struct ExpectedEnvelope {
    pub id: Option<String>,
    pub user_id: Option<String>,
    pub status: Option<String>,
    pub payload: Option<String>,
    pub amount: Amount,
    pub external_id: Option<String>,
}

/// An amount is spelled by the producer or computed here.
#[derive(Debug, PartialEq)]
pub enum Amount {
    Spelled(String),
    /// The sum, and the sum of what was added without its signs: what rounding is measured by.
    Sum(f64, f64),
}

/// More faults than this are not all named.
const FAULTS_MAX: usize = 100;

pub fn expect(document: &[u8], profile: Profile, bytes_max: usize) -> Expected {
    let document = document.strip_prefix(b"\xef\xbb\xbf").unwrap_or(document);
    if document.len() > bytes_max {
        return whole(RejectionKind::TooLarge);
    }
    let Ok(text) = std::str::from_utf8(document) else { return whole(RejectionKind::Malformed) };
    let parsed = json::parse(text, 64);
    json::cross_check(text, parsed.as_ref());
    let Some(root) = parsed else { return whole(RejectionKind::Malformed) };
    let Some(members) = root.members() else { return whole(RejectionKind::Invalid) };
    let mut pointers = BTreeSet::new();
    let text_of = |name: &str| root.member(name).and_then(Json::text);
    let is_answer = text_of("order_uid").is_some_and(|uid| !uid.is_empty() && text_of("order_id") == Some(uid))
        && root.member("payload").is_some_and(|payload| payload.members().is_some());
    if root.member("order_uid").is_some() && !is_answer {
        let is_delete = root.member("status").and_then(Json::text) == Some("deleted");
        rules::unique_and_no_nul(&root, "", &mut pointers);
        if !is_delete && profile != Profile::Lenient {
            rules::fields(members, "", "", profile, &mut pointers);
        }
        let id = rules::id(root.member("order_uid"));
        match id {
            None => drop(pointers.insert("/order_uid".into())),
            Some(id) if pointers.is_empty() && is_delete => return Expected::Delete { id },
            Some(id) if pointers.is_empty() => return Expected::Wb { id, body: json::minify(root.raw) },
            Some(_) => {}
        }
        return Expected::Refused { kind: RejectionKind::Invalid, pointers };
    }
    rules::unique_and_no_nul(&root, "", &mut pointers);
    if root.member("order_id").is_some() || root.member("user_id").is_some() {
        let envelope = rules::envelope(&root, bytes_max, &mut pointers);
        if pointers.is_empty() {
            return Expected::Envelope(Box::new(envelope));
        }
    } else {
        pointers.insert(String::new());
    }
    Expected::Refused { kind: RejectionKind::Invalid, pointers }
}

fn whole(kind: RejectionKind) -> Expected {
    Expected::Refused { kind, pointers: BTreeSet::from([String::new()]) }
}

/// Holds an answer against what was expected.
pub fn compare(expected: &Expected, answer: &Result<Order, Rejection>) -> Result<(), String> {
    let agrees = match (expected, answer) {
        (Expected::Refused { kind, pointers }, Err(rejection)) => {
            let named: BTreeSet<&str> = rejection.faults.iter().map(|fault| fault.pointer.as_str()).collect();
            let is_cut = rejection.faults.last().is_some_and(|fault| fault.message == "there are more faults");
            let cut_rightly = rejection.faults.len() > FAULTS_MAX || json_bytes(rejection) > 32 * 1024;
            *kind == rejection.kind
                && if is_cut {
                    cut_rightly && named.iter().all(|name| name.is_empty() || pointers.contains(*name))
                } else {
                    pointers.iter().map(String::as_str).eq(named.iter().copied())
                }
        }
        (Expected::Wb { id, body }, Ok(Order { id: found, command: Command::Wb(bytes), .. })) => {
            *id == *found.text() && body.as_bytes() == &bytes[..]
        }
        (Expected::Delete { id }, Ok(Order { id: found, command: Command::Envelope(envelope), .. })) => {
            let is_deletion = envelope.status == Some(Status::Deleted) && !envelope.is_new;
            is_deletion && envelope.payload.is_none() && envelope.user_id.is_none() && *id == *found.text()
        }
        (Expected::Envelope(expected), Ok(Order { id, command: Command::Envelope(found), .. })) => {
            expected.id.as_ref().map_or(found.is_new, |expected| !found.is_new && *expected == *id.text())
                && expected.user_id == found.user_id.map(|user_id| user_id.to_string())
                && expected.status.as_deref() == found.status.map(Status::as_str)
                && expected.payload.as_deref().map(str::as_bytes) == found.payload.as_deref()
                && expected.external_id.as_deref() == found.external_id.as_deref()
                && amounts_agree(&expected.amount, &found.amount)
        }
        _ => false,
    };
    if agrees { Ok(()) } else { Err(format!("expected {expected:?}\n   found {answer:?}")) }
}

fn json_bytes(rejection: &Rejection) -> usize {
    rejection.faults.iter().map(|fault| fault.pointer.len() + fault.message.len()).sum()
}

fn amounts_agree(expected: &Amount, found: &str) -> bool {
    match expected {
        Amount::Spelled(spelling) => spelling == found,
        Amount::Sum(sum, added) => {
            let Ok(number) = found.parse::<f64>() else { return false };
            json::parse(found, 1).is_some() && (number - sum).abs() <= 1e-12 * added
        }
    }
}
