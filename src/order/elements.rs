//! A message that holds an array of orders, taken apart into the documents of its elements.

use bytes::Bytes;

use super::decode::{DEPTH_MAX, Decoder, without_bom};
use super::validate::Profile;
use crate::record::{Rejection, RejectionKind};

/// Takes arrays apart, one after the other, reusing its working space.
pub struct Elements {
    /// Only asked whether the whole is JSON; an array is one level more than its orders.
    whole: Decoder,
}

impl Default for Elements {
    fn default() -> Self {
        Self { whole: Decoder::with_depth(Profile::Lenient, usize::MAX, DEPTH_MAX + 1, 4096) }
    }
}

impl Elements {
    /// The elements of an array as its producer wrote them, sharing its bytes. `None` for any other document.
    ///
    /// # Errors
    /// A [`Rejection`] of the whole when it is not JSON or has no element. What the elements are is not looked at.
    pub fn split(&mut self, document: &Bytes) -> Result<Option<Vec<Bytes>>, Rejection> {
        let document = without_bom(document);
        let Some(open) = document.iter().position(|byte| !byte.is_ascii_whitespace()) else { return Ok(None) };
        if document[open] != b'[' {
            return Ok(None);
        }
        self.whole.with_document(&document, |_| Ok(()))?;
        let elements = cut(&document, open);
        if elements.is_empty() {
            return Err(Rejection::whole(RejectionKind::Invalid, "is an array without orders"));
        }
        Ok(Some(elements))
    }
}

/// Cuts at the commas of the outermost array, which opens at `open`. The document is JSON.
fn cut(document: &Bytes, open: usize) -> Vec<Bytes> {
    let mut elements = Vec::new();
    let mut push = |from: usize, to: usize| {
        let element = document[from..to].trim_ascii();
        if !element.is_empty() {
            elements.push(document.slice_ref(element));
        }
    };
    let (mut depth, mut from, mut at) = (0_usize, open + 1, open);
    while at < document.len() {
        match document[at] {
            b'"' => at = end_of_string(document, at),
            b'[' | b'{' => depth += 1,
            b',' if depth == 1 => {
                push(from, at);
                from = at + 1;
            }
            b']' | b'}' => {
                depth -= 1;
                if depth == 0 {
                    push(from, at);
                    break;
                }
            }
            _ => {}
        }
        at += 1;
    }
    elements
}

/// Where the string that opens at `at` closes.
fn end_of_string(document: &[u8], mut at: usize) -> usize {
    loop {
        at += 1;
        match document[at] {
            b'\\' => at += 1,
            b'"' => return at,
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn split(document: &'static str) -> Result<Option<Vec<String>>, String> {
        let elements = Elements::default().split(&Bytes::from_static(document.as_bytes()));
        let text = |bytes: Bytes| String::from_utf8(bytes.to_vec()).unwrap();
        elements.map(|some| some.map(|all| all.into_iter().map(text).collect())).map_err(|rejection| rejection.line())
    }

    #[test]
    fn elements_are_cut_at_the_commas_of_the_outermost_array() {
        let document = "\u{feff} [ {\"a\":[1,{\"b\":\"],}\\\"\"}]} ,2 , \"x,y\\\\\", [3,4] ] ";
        let expected = [r#"{"a":[1,{"b":"],}\""}]}"#, "2", r#""x,y\\""#, "[3,4]"];
        assert_eq!(split(document).unwrap().unwrap(), expected);
        assert_eq!(split(r#" {"a":[1]}"#).unwrap(), None);
        assert_eq!(split("").unwrap(), None, "for the decoder to say what it is");
    }

    #[test]
    fn what_is_not_json_or_empty_is_rejected_whole() {
        assert_eq!(split("[ ]").unwrap_err(), "is an array without orders");
        for broken in ["[1,2", "[{]}", "[1,,2]", "[1]x", "[\"a]"] {
            assert!(split(broken).unwrap_err().starts_with("is not valid JSON"), "{broken}");
        }
    }
}
