//! Dead letters for people and for programs. What is in them was refused for a reason: nothing of it reaches a terminal
//! that could be taken for a command.

use std::fmt::Write as _;
use std::io::{self, Write};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::{Map, Value};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::records::DeadLetterRecord;
use crate::record::dead;

/// `PARTITION:OFFSET  TIME  source  key  reason`.
pub(super) fn line(letter: &DeadLetterRecord) -> String {
    let key = letter.key.as_deref().map_or_else(|| "-".into(), plain);
    format!("{}  {}  {}  {key}  {}", letter.place, time(letter), source(letter), reason(letter))
}

/// All there is, as one object.
pub(super) fn json(letter: &DeadLetterRecord) -> Value {
    let header = |name| letter.header(name).map_or(Value::Null, Into::into);
    let number = |name| letter.header(name).and_then(|text| text.parse::<i64>().ok()).map_or(Value::Null, Into::into);
    let mut all = Map::new();
    all.insert("partition".into(), letter.place.partition.into());
    all.insert("offset".into(), letter.place.offset.into());
    all.insert("time".into(), letter.timestamp_ms.map_or(Value::Null, |_| time(letter).into()));
    all.insert("timestamp_ms".into(), letter.timestamp_ms.into());
    all.insert("source_topic".into(), header(dead::TOPIC));
    all.insert("source_partition".into(), number(dead::PARTITION));
    all.insert("source_offset".into(), number(dead::OFFSET));
    all.insert("stage".into(), header(dead::STAGE));
    all.insert("class".into(), header(dead::CLASS));
    all.insert("reason".into(), header(dead::MESSAGE));
    insert_bytes(&mut all, "key", letter.key.as_deref());
    insert_bytes(&mut all, "value", letter.value.as_deref());
    let headers = letter.headers.iter().map(|(name, value)| {
        let mut one = Map::new();
        one.insert("name".into(), name.as_str().into());
        insert_bytes(&mut one, "value", value.as_deref());
        Value::Object(one)
    });
    all.insert("headers".into(), headers.collect());
    Value::Object(all)
}

/// As `name` where it is text, as `name_base64` where it is not.
fn insert_bytes(into: &mut Map<String, Value>, name: &str, bytes: Option<&[u8]>) {
    match bytes.map(|bytes| std::str::from_utf8(bytes).map_err(|_| STANDARD.encode(bytes))) {
        None => into.insert(name.into(), Value::Null),
        Some(Ok(text)) => into.insert(name.into(), text.into()),
        Some(Err(base64)) => into.insert(format!("{name}_base64"), base64.into()),
    };
}

/// All there is, to be read: JSON is indented, and what is no text is shown in hexadecimal.
pub(super) fn whole(letter: &DeadLetterRecord, topic: &str, output: &mut impl Write) -> io::Result<()> {
    writeln!(output, "dead letter: {} of {topic}, {}", letter.place, time(letter))?;
    writeln!(output, "source: {}", source(letter))?;
    writeln!(output, "reason: {}", reason(letter))?;
    writeln!(output, "headers:")?;
    for (name, value) in &letter.headers {
        let value = value.as_deref().map_or_else(|| "(null)".into(), plain);
        writeln!(output, "  {}: {value}", plain(name.as_bytes()))?;
    }
    writeln!(output, "key: {}", letter.key.as_deref().map_or_else(|| "(none)".into(), plain))?;
    let Some(value) = &letter.value else { return writeln!(output, "value: (null), which asks for a deletion") };
    writeln!(output, "value: {} bytes", value.len())?;
    match std::str::from_utf8(value).ok().filter(|text| is_printable(text)) {
        None => hex(value, output),
        Some(text) if serde_json::from_str::<Value>(text).is_ok() => writeln!(output, "{}", indented(text)),
        Some(text) => writeln!(output, "{text}"),
    }
}

fn time(letter: &DeadLetterRecord) -> String {
    let at = letter.timestamp_ms.and_then(|ms| {
        let at = OffsetDateTime::from_unix_timestamp_nanos(i128::from(ms) * 1_000_000).ok()?;
        at.format(&Rfc3339).ok()
    });
    at.unwrap_or_else(|| "-".into())
}

/// `topic/partition/offset`.
fn source(letter: &DeadLetterRecord) -> String {
    let part = |name| letter.header(name).map_or_else(|| "?".into(), |text| plain(text.as_bytes()));
    format!("{}/{}/{}", part(dead::TOPIC), part(dead::PARTITION), part(dead::OFFSET))
}

fn reason(letter: &DeadLetterRecord) -> String {
    let reason = letter.header(dead::MESSAGE).or_else(|| letter.header(dead::CLASS));
    reason.map_or_else(|| "-".into(), |text| plain(text.as_bytes()))
}

/// Bytes on one line, without anything that could move a cursor.
fn plain(bytes: &[u8]) -> String {
    let mut line = String::new();
    for c in String::from_utf8_lossy(bytes).chars() {
        if c.is_control() {
            line.extend(c.escape_default());
        } else {
            line.push(c);
        }
    }
    line
}

fn is_printable(text: &str) -> bool {
    text.chars().all(|c| !c.is_control() || matches!(c, '\n' | '\r' | '\t'))
}

/// JSON with a line for each member. The text is kept as it is but for white space: numbers beyond any type and keys
/// that occur twice are what one wants to see here.
fn indented(json: &str) -> String {
    let mut out = String::with_capacity(json.len() * 2);
    let mut depth = 0;
    let (mut is_string, mut is_escape) = (false, false);
    let mut rest = json.chars().peekable();
    while let Some(c) = rest.next() {
        if is_string {
            out.push(c);
            is_string = is_escape || c != '"';
            is_escape = !is_escape && c == '\\';
            continue;
        }
        match c {
            '{' | '[' => {
                out.push(c);
                while rest.next_if(char::is_ascii_whitespace).is_some() {}
                if let Some(end) = rest.next_if(|next| matches!(next, '}' | ']')) {
                    out.push(end);
                } else {
                    depth += 1;
                    break_line(&mut out, depth);
                }
            }
            '}' | ']' => {
                depth -= 1;
                break_line(&mut out, depth);
                out.push(c);
            }
            ',' => {
                out.push(c);
                break_line(&mut out, depth);
            }
            ':' => out.push_str(": "),
            c if c.is_ascii_whitespace() => {}
            c => {
                out.push(c);
                is_string = c == '"';
            }
        }
    }
    out
}

fn break_line(out: &mut String, depth: usize) {
    out.push('\n');
    out.extend(std::iter::repeat_n("  ", depth));
}

/// Sixteen bytes a line: where, in hexadecimal, as text.
fn hex(bytes: &[u8], output: &mut impl Write) -> io::Result<()> {
    for (index, part) in bytes.chunks(16).enumerate() {
        let mut figures = String::with_capacity(48);
        for byte in part {
            let _ = write!(figures, "{byte:02x} ");
        }
        let text: String =
            part.iter().map(|&byte| if (b' '..=b'~').contains(&byte) { char::from(byte) } else { '.' }).collect();
        writeln!(output, "{:08x}  {figures:<48} |{text}|", index * 16)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn json_is_indented_and_nothing_else_about_it_changes() {
        let json = " { \"a\" : [1e2,\t{ } , [\n]],\"a\" :\" b\\\" , {\", \"n\":12345678901234567890123 } \n";
        let expected = "{\n  \"a\": [\n    1e2,\n    {},\n    []\n  ],\n  \"a\": \" b\\\" , {\",\n  \"n\": 12345678901234567890123\n}";
        assert_eq!(indented(json), expected);
        for scalar in ["1", "\"a b\"", " null ", "[]"] {
            assert_eq!(indented(scalar), scalar.trim());
        }
    }

    #[test]
    fn nothing_moves_the_cursor() {
        assert_eq!(plain(b"a\x1b[2J\nb\xff"), "a\\u{1b}[2J\\nb\u{fffd}");
        assert!(!is_printable("\u{9b}2J") && is_printable("a\r\n\tb"));
    }

    #[test]
    fn bytes_are_dumped_sixteen_a_line() {
        let mut out = Vec::new();
        hex(b"0123456789abcdef\x00\xff", &mut out).unwrap();
        let expected = "00000000  30 31 32 33 34 35 36 37 38 39 61 62 63 64 65 66  |0123456789abcdef|\n\
                        00000010  00 ff                                            |..|\n";
        assert_eq!(String::from_utf8(out).unwrap(), expected);
    }
}
