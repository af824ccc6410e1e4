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
    pub fn split(&mut self, document: &Bytes) -> Result<Option<Cut>, Rejection> {
        let document = without_bom(document);
        let Some(open) = document.iter().position(|byte| !byte.is_ascii_whitespace()) else { return Ok(None) };
        if document[open] != b'[' {
            return Ok(None);
        }
        self.whole.with_document(&document, |_| Ok(()))?;
        let is_empty = document[open + 1..].trim_ascii_start().starts_with(b"]");
        if is_empty {
            return Err(Rejection::whole(RejectionKind::Invalid, "is an array without orders"));
        }
        Ok(Some(Cut { document, at: open + 1 }))
    }
}

/// Cuts a document at the commas of its outermost array, one element at a time. It is JSON, and has elements.
pub struct Cut {
    document: Bytes,
    /// Where the next element begins, with the white space before it; the end of the document after the last one.
    at: usize,
}

impl Iterator for Cut {
    type Item = Bytes;

    fn next(&mut self) -> Option<Bytes> {
        let (from, mut at, mut depth) = (self.at, self.at, 0_usize);
        while at < self.document.len() {
            match self.document[at] {
                b'"' => at = end_of_string(&self.document, at),
                b'[' | b'{' => depth += 1,
                b',' if depth == 0 => {
                    self.at = at + 1;
                    return Some(self.document.slice_ref(self.document[from..at].trim_ascii()));
                }
                b']' if depth == 0 => {
                    self.at = self.document.len();
                    return Some(self.document.slice_ref(self.document[from..at].trim_ascii()));
                }
                b']' | b'}' => depth -= 1,
                _ => {}
            }
            at += 1;
        }
        None
    }
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
        elements.map(|some| some.map(|all| all.map(text).collect())).map_err(|rejection| rejection.line())
    }

    #[test]
    fn elements_are_cut_at_the_commas_of_the_outermost_array() {
        let document = "\u{feff} [ {\"a\":[1,{\"b\":\"],}\\\"\"}]} ,2 , \"x,y\\\\\", [3,4] ] ";
        let expected = [r#"{"a":[1,{"b":"],}\""}]}"#, "2", r#""x,y\\""#, "[3,4]"];
        assert_eq!(split(document).unwrap().unwrap(), expected);
        assert_eq!(split(" [ 1 ] ").unwrap().unwrap(), ["1"]);
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
