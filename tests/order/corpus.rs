//! The table of orders: each row of `corpus/*.ndjson` is a document and its exact answer under the profiles it names.
//!
//! A document is `input` (text), `hex` (where it is not UTF-8) or `swap`: pairs of a passage of the base order and what
//! stands there instead. The answer is one of `body` (`"input"`: the document itself), `deleted` (the id), `envelope`
//! or `refused` (the kind, then every pointer).

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use bytes::Bytes;
use order_service::order::{Command, Decoder, Order, Profile};
use order_service::record::{Rejection, RejectionKind};
use serde_json::Value;

use super::{escaped, oracle};

const BYTES_MAX: usize = 6000;

/// A WB order that is valid under every profile.
const BASE: &str = r#"{"order_uid":"b563feb7b2b84b6test","track_number":"WBILMTESTTRACK","entry":"WBIL","delivery":{"name":"Test Testov","phone":"+9720000000","zip":"2639809","city":"Kiryat Mozkin","address":"Ploshad Mira 15","region":"Kraiot","email":"test@gmail.com"},"payment":{"transaction":"b563feb7b2b84b6test","request_id":"","currency":"USD","provider":"wbpay","amount":1817,"payment_dt":1637907727,"bank":"alpha","delivery_cost":1500,"goods_total":317,"custom_fee":0},"items":[{"chrt_id":9934930,"track_number":"WBILMTESTTRACK","price":453,"rid":"ab4219087a764ae0btest","name":"Mascaras","sale":30,"size":"0","total_price":317,"nm_id":2389212,"brand":"Vivienne Sabo","status":202}],"locale":"en","internal_signature":"","customer_id":"test","delivery_service":"meest","shardkey":"9","sm_id":99,"date_created":"2021-11-26T06:22:19Z","oof_shard":"1"}"#;

struct Row {
    name: String,
    profiles: Vec<Profile>,
    document: Bytes,
    answer: Value,
}

#[test]
fn every_row_is_answered_as_written() {
    let rows = rows();
    assert!(rows.len() > 200, "the table was not found whole: {} rows", rows.len());
    let mut names = BTreeSet::new();
    let mut failures = Vec::new();
    for row in &rows {
        assert!(names.insert(&row.name), "two rows are called {}", row.name);
        for &profile in &row.profiles {
            let answer = Decoder::new(profile, BYTES_MAX).decode(&row.document);
            let judged = is_as_written(row, &answer)
                .and_then(|()| oracle::compare(&oracle::expect(&row.document, profile, BYTES_MAX), &answer));
            if let Err(difference) = judged {
                failures.push(format!("{} under {profile:?}: {}\n{difference}", row.name, escaped(&row.document)));
            }
        }
    }
    assert!(failures.is_empty(), "{}", failures.join("\n\n"));
}

/// Writes each document to where the fuzzer looks for its seeds.
#[test]
#[ignore = "writes files"]
fn seeds() {
    let into = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fuzz/corpus/decode");
    std::fs::create_dir_all(&into).unwrap();
    for (index, row) in rows().iter().enumerate() {
        std::fs::write(into.join(format!("row-{index:03}")), &row.document).unwrap();
    }
}

#[test]
fn a_document_may_be_as_large_as_the_limit() {
    let pad = BYTES_MAX - BASE.len();
    let exact = BASE.to_owned() + &" ".repeat(pad);
    let mut decoder = Decoder::new(Profile::Strict, BYTES_MAX);
    assert!(decoder.decode(&Bytes::from(exact.clone())).is_ok());
    assert!(decoder.decode(&Bytes::from(format!("\u{feff}{exact}"))).is_ok(), "a BOM is not part of the document");
    let rejection = decoder.decode(&Bytes::from(exact + " ")).unwrap_err();
    assert_eq!(rejection.kind, RejectionKind::TooLarge);
    assert_eq!(rejection.line(), "larger than 6000 bytes");
}

#[test]
fn a_compact_body_shares_the_document() {
    let document = Bytes::from(format!("\u{feff} {BASE}\n"));
    let order = Decoder::new(Profile::Strict, BYTES_MAX).decode(&document).unwrap();
    let Command::Wb(body) = order.command else { panic!("a WB order") };
    assert_eq!(body.as_ptr(), document[4..].as_ptr());
}

#[test]
fn the_answer_to_a_hostile_document_is_bounded() {
    let key = "k".repeat(500);
    let repeated: Vec<String> = (0..300).map(|n| format!(r#""{n}{key}":1,"{n}{key}":2"#)).collect();
    let mut nested = format!("{{{}}}", repeated.join(","));
    for _ in 0..60 {
        nested = format!(r#"{{"{key}":{nested}}}"#);
    }
    let document = format!(r#"{{"order_uid":"x","a":{nested}}}"#);
    let rejection = Decoder::new(Profile::Lenient, 1 << 20).decode(&Bytes::from(document)).unwrap_err();
    let line = rejection.line();
    assert!(line.len() < 70_000, "{} bytes of answer", line.len());
    assert!(line.ends_with("there are more faults"));
}

fn is_as_written(row: &Row, answer: &Result<Order, Rejection>) -> Result<(), String> {
    let found = match answer {
        Err(rejection) => {
            let pointers: BTreeSet<&str> = rejection.faults.iter().map(|fault| fault.pointer.as_str()).collect();
            let all: Vec<&str> = [rejection.kind.code()].into_iter().chain(pointers).collect();
            serde_json::json!({ "refused": all })
        }
        Ok(Order { command: Command::Wb(body), .. }) if *body == row.document => serde_json::json!({ "body": "input" }),
        Ok(Order { command: Command::Wb(body), .. }) => serde_json::json!({ "body": str::from_utf8(body).unwrap() }),
        Ok(Order { command: Command::Delete, .. }) => unreachable!("a document is no null value"),
        Ok(Order { id, command: Command::Envelope(_), .. }) if row.answer.get("deleted").is_some() => {
            serde_json::json!({ "deleted": *id.text() })
        }
        Ok(Order { id, command: Command::Envelope(envelope), .. }) => {
            let mut found = serde_json::Map::new();
            let mut put =
                |name: &str, value: Option<String>| value.map(|value| found.insert(name.into(), value.into()));
            put("id", (!envelope.is_new).then(|| id.to_string()));
            put("user_id", envelope.user_id.map(|user_id| user_id.to_string()));
            put("status", envelope.status.map(|status| status.as_str().into()));
            put("payload", envelope.payload.as_ref().map(|json| String::from_utf8(json.to_vec()).unwrap()));
            put("amount", Some(envelope.amount.to_string()));
            put("external_id", envelope.external_id.as_deref().map(Into::into));
            serde_json::json!({ "envelope": found })
        }
    };
    if found == row.answer { Ok(()) } else { Err(format!("expected {}\n   found {found}", row.answer)) }
}

fn rows() -> Vec<Row> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/order/corpus");
    let mut files: Vec<PathBuf> = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let mut rows = Vec::new();
    for file in files {
        let lines = std::fs::read_to_string(&file).unwrap();
        for (index, line) in lines.lines().enumerate() {
            rows.push(row(line).unwrap_or_else(|| panic!("{}:{}: no row", file.display(), index + 1)));
        }
    }
    rows
}

fn row(line: &str) -> Option<Row> {
    let mut row: serde_json::Map<String, Value> = serde_json::from_str(line).ok()?;
    let name = row.shift_remove("name")?.as_str()?.to_owned();
    let profiles = match row.shift_remove("profile")?.as_str()? {
        "all" => vec![Profile::Lenient, Profile::Wb, Profile::Strict],
        "checked" => vec![Profile::Wb, Profile::Strict],
        one => vec![one.parse().ok()?],
    };
    let (how, input) = row.iter().next().map(|(key, value)| (key.clone(), value.clone()))?;
    row.shift_remove(&how);
    let document = match how.as_str() {
        "input" => input.as_str()?.to_owned().into(),
        "hex" => hex(input.as_str()?)?.into(),
        "swap" => {
            let mut text = BASE.to_owned();
            for pair in input.as_array()?.chunks(2) {
                let (from, to) = (pair[0].as_str()?, pair[1].as_str()?);
                assert_eq!(text.matches(from).count(), 1, "{name}: {from} must stand once in the order");
                text = text.replace(from, to);
            }
            text.into()
        }
        _ => return None,
    };
    let answer = Value::Object(row);
    Some(Row { name, profiles, document, answer })
}

fn hex(text: &str) -> Option<Vec<u8>> {
    let digits: Vec<u32> =
        text.chars().filter(|c| !c.is_whitespace()).map(|c| c.to_digit(16)).collect::<Option<_>>()?;
    digits.chunks(2).map(|pair| u8::try_from(pair[0] * 16 + pair.get(1)?).ok()).collect()
}
