//! Proof for the decoder: a table of orders with their answers, and millions of made and mutated documents held
//! against a second reading of the rules.

mod corpus;
mod generate;
mod json;
mod oracle;
mod property;
mod rules;

/// Bytes as a Rust byte string would spell them, so that a failing input can be put into the corpus.
fn escaped(document: &[u8]) -> String {
    format!("b\"{}\"", document.escape_ascii())
}
