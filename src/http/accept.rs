//! What a client takes: compressed forms and media types (RFC 9110, section 12.5). Knows nothing of what there is to be
//! had.

use hyper::header::{ACCEPT, ACCEPT_ENCODING, HeaderMap};

use crate::cache::encodings::Encoding;

/// What a client takes.
#[derive(Debug, PartialEq, Eq)]
pub struct Accepted {
    /// The encodings it takes rather than none, those it likes best first.
    encodings: [Option<Encoding>; Encoding::ALL.len()],
    /// It also takes a body as it is.
    pub takes_plain: bool,
}

/// The weight of an encoding: from 1 to 1000, or 0 for one that is not taken.
type Weight = u16;

impl Accepted {
    /// What the header says. A client that sends none gets bodies as they are.
    #[must_use]
    pub fn of(headers: &HeaderMap) -> Self {
        if !headers.contains_key(ACCEPT_ENCODING) {
            return Self::PLAIN;
        }
        Self::read(headers.get_all(ACCEPT_ENCODING).iter().map(|value| value.to_str().unwrap_or_default()))
    }

    /// Of a client that says nothing.
    pub const PLAIN: Self = Self { encodings: [None; Encoding::ALL.len()], takes_plain: true };

    /// What the values of the header say.
    pub fn read<'v>(values: impl Iterator<Item = &'v str>) -> Self {
        let mut weights: [Option<Weight>; Encoding::ALL.len()] = [None; Encoding::ALL.len()];
        let (mut plain, mut any) = (None, None);
        for value in values {
            for element in value.split(',') {
                let (name, parameters) = element.split_once(';').unwrap_or((element, ""));
                let Some(weight) = weight(parameters) else { continue };
                let place = match name.trim() {
                    "*" => &mut any,
                    name if name.eq_ignore_ascii_case("identity") => &mut plain,
                    name => match Encoding::ALL.iter().position(|&encoding| is_name(encoding, name)) {
                        Some(index) => &mut weights[index],
                        None => continue,
                    },
                };
                // Of two opinions the better: `gzip;q=0, x-gzip` may be sent by who means the old name only.
                *place = (*place).max(Some(weight));
            }
        }
        let takes_plain = plain.or(any) != Some(0);
        // What is not mentioned is taken, but no better than anything that is.
        let plain = plain.or(any).unwrap_or(1);
        let mut encodings = Encoding::ALL.map(|encoding| (weights[encoding as usize].or(any).unwrap_or(0), encoding));
        encodings.sort_by_key(|&(weight, _)| std::cmp::Reverse(weight)); // stable: the better encoding first among equals
        let encodings = encodings.map(|(weight, encoding)| (weight > 0 && weight >= plain).then_some(encoding));
        Self { encodings, takes_plain }
    }

    /// The encodings it takes rather than none, those it likes best first.
    pub fn encodings(&self) -> impl Iterator<Item = Encoding> {
        self.encodings.iter().flatten().copied()
    }
}

/// Whether the client likes plain text better than JSON, also where it does not take either by name.
#[must_use]
pub fn wants_text(headers: &HeaderMap) -> bool {
    let [text, json, problem] =
        ["text/plain", "application/json", "application/problem+json"].map(|kind| liked(headers, &[kind]));
    text.weight > json.weight.max(problem.weight)
}

/// Whether the client names lines of JSON and likes them as well as an array of it.
#[must_use]
pub fn wants_lines(headers: &HeaderMap) -> bool {
    let lines = liked(headers, &["application/x-ndjson", "application/ndjson", "application/jsonl"]);
    let json = liked(headers, &["application/json"]);
    let is_better = if json.is_named { lines.weight > json.weight } else { lines.weight >= json.weight };
    lines.is_named && lines.weight > 0 && is_better
}

/// How a client likes a media type (RFC 9110, section 12.5.1).
#[derive(Clone, Copy)]
struct Liked {
    weight: Weight,
    /// Not by an asterisk.
    is_named: bool,
}

/// How the client likes what has these names, of which it may know any: by the most exact of what it says.
fn liked(headers: &HeaderMap, names: &[&str]) -> Liked {
    let mut best = (0, 0);
    for value in headers.get_all(ACCEPT) {
        for element in value.to_str().unwrap_or_default().split(',') {
            let mut parts = element.split(';');
            let range = parts.next().unwrap_or_default().trim();
            let weight = parts.find_map(|part| part.trim().starts_with(['q', 'Q']).then(|| weight(part)));
            let weight = weight.flatten().unwrap_or(1000);
            let family = |name: &str| {
                let (family, _) = name.split_once('/').unwrap_or((name, ""));
                range.strip_suffix("/*").is_some_and(|range| range.eq_ignore_ascii_case(family))
            };
            let exactness = match range {
                range if names.iter().any(|name| range.eq_ignore_ascii_case(name)) => 3,
                _ if names.iter().any(|name| family(name)) => 2,
                "*/*" => 1,
                _ => continue,
            };
            best = best.max((exactness, weight));
        }
    }
    Liked { weight: best.1, is_named: best.0 == 3 }
}

fn is_name(encoding: Encoding, name: &str) -> bool {
    name.eq_ignore_ascii_case(encoding.name()) || (encoding == Encoding::Gzip && name.eq_ignore_ascii_case("x-gzip"))
}

/// `q=0.5` as 500; 1000 when it is not said. `None` for what is no weight.
fn weight(parameters: &str) -> Option<Weight> {
    let parameters = parameters.trim();
    if parameters.is_empty() {
        return Some(1000);
    }
    let q = parameters.strip_prefix(['q', 'Q'])?.trim_start().strip_prefix('=')?.trim_start();
    let (whole, part) = q.split_once('.').unwrap_or((q, ""));
    if part.len() > 3 || !part.bytes().all(|digit| digit.is_ascii_digit()) {
        return None;
    }
    match whole {
        "0" => Some(part.bytes().chain([b'0'; 3]).take(3).fold(0, |q, digit| q * 10 + Weight::from(digit - b'0'))),
        "1" if part.bytes().all(|digit| digit == b'0') => Some(1000),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn accepted(values: &[&'static str]) -> String {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(ACCEPT_ENCODING, value.parse().unwrap());
        }
        let accepted = Accepted::of(&headers);
        let mut names: Vec<&str> = accepted.encodings().map(Encoding::name).collect();
        names.extend(accepted.takes_plain.then_some("plain"));
        names.join(" ")
    }

    #[test]
    fn clients_get_what_they_like_best() {
        for (sent, expected) in [
            ("", "plain"),
            ("gzip", "gzip plain"),
            ("GZip", "gzip plain"),
            ("x-gzip", "gzip plain"),
            ("deflate, gzip, br, zstd", "zstd gzip plain"),
            ("gzip, deflate", "gzip plain"),
            ("br", "plain"),
            ("deflate;q=1.0, compress", "plain"),
            ("identity", "plain"),
            ("*", "zstd gzip plain"),
            ("*;q=0.1", "zstd gzip plain"),
            ("gzip;q=1.0, zstd;q=0.5", "gzip zstd plain"),
            ("gzip; q=0.8 , zstd ; Q=0.801", "zstd gzip plain"),
            ("gzip;q=0", "plain"),
            ("gzip;q=0.000, *", "zstd plain"),
            ("zstd;q=0, *;q=0.5", "gzip plain"),
            ("gzip;q=0.001", "gzip plain"),
            ("gzip;q=0.5, identity", "plain"),
            ("gzip;q=0.5, identity;q=0.5", "gzip plain"),
            ("gzip;q=0.5, identity;q=0.4, zstd;q=0.3", "gzip plain"),
            ("gzip;q=0.5, *;q=0.6", "zstd plain"),
            ("gzip, identity;q=0", "gzip"),
            ("gzip, *;q=0", "gzip"),
            ("gzip, identity;q=0.1, *;q=0", "gzip plain"),
            ("identity;q=0", ""),
            ("*;q=0", ""),
            ("br, identity;q=0", ""),
            ("*, identity;q=0", "zstd gzip"),
            ("gzip;q=0, x-gzip", "gzip plain"),
            // What is no weight is not counted.
            ("gzip;q=2", "plain"),
            ("gzip;q=0.1234, zstd", "zstd plain"),
            ("gzip;q=, zstd;q=-1", "plain"),
            ("gzip;level=9", "plain"),
            (",, gzip,;,", "gzip plain"),
        ] {
            assert_eq!(accepted(&[sent]), expected, "{sent:?}");
        }
        assert_eq!(accepted(&[]), "plain");
        assert_eq!(accepted(&["gzip;q=0.5", "zstd;q=0.4"]), "gzip zstd plain");
    }

    #[test]
    fn media_types_are_weighed() {
        let headers = |accept: &'static str| HeaderMap::from_iter([(ACCEPT, accept.parse().unwrap())]);
        for (sent, expected) in [
            ("text/plain", true),
            ("TEXT/plain; charset=utf-8", true),
            ("text/*", true),
            ("text/plain, application/json;q=0.9", true),
            ("text/plain;q=0.5, application/json", false),
            ("text/plain, application/problem+json", false),
            ("text/plain;q=0", false),
            ("text/html, */*;q=0.8", false),
            ("application/textile; note=\"text/plain\"", false),
            ("*/*", false),
            ("", false),
        ] {
            assert_eq!(wants_text(&headers(sent)), expected, "{sent}");
        }
        for (sent, expected) in [
            ("application/x-ndjson", true),
            ("application/jsonl, */*", true),
            ("application/x-ndjson, application/json", false),
            ("application/x-ndjson, application/json;q=0.5", true),
            ("application/x-ndjson;q=0.5, application/json", false),
            ("application/x-ndjson;q=0", false),
            ("application/x-ndjson-other", false),
            ("application/*", false),
            ("*/*", false),
        ] {
            assert_eq!(wants_lines(&headers(sent)), expected, "{sent}");
        }
        assert!(!wants_text(&HeaderMap::new()) && !wants_lines(&HeaderMap::new()));
    }
}
