//! Removes insignificant white space and finds the raw bytes of a value, both from the offsets the parser already made.

use std::borrow::Cow;
use std::ops::Range;

/// The offsets of every token of a *valid* document: punctuation, the opening quote of each string, the first byte of
/// each number and literal. The parser's first stage leaves them behind.
#[derive(Clone, Copy)]
pub struct Tokens<'a> {
    raw: &'a [u8],
    starts: &'a [u32],
}

impl<'a> Tokens<'a> {
    /// Trusts that `starts` are the token offsets of `raw`, rising.
    #[must_use]
    pub fn new(raw: &'a [u8], starts: &'a [u32]) -> Self {
        // The parser may leave a sentinel at the end of the document.
        let ends = starts.iter().rev().take_while(|&&start| start as usize >= raw.len()).count();
        Self { raw, starts: &starts[..starts.len() - ends] }
    }

    /// The document without white space between tokens; borrowed when there was none.
    #[must_use]
    pub fn compact(&self) -> Cow<'a, [u8]> {
        self.compact_tokens(0..self.starts.len())
    }

    /// The value that follows the key whose opening quote is at byte `key_at`: compacted, borrowed when it was compact.
    #[must_use]
    pub fn value_of_key(&self, key_at: usize) -> Option<Cow<'a, [u8]>> {
        let key = self.starts.binary_search(&u32::try_from(key_at).ok()?).ok()?;
        self.value_at_token(key + 2)
    }

    /// The value that starts at token `first`.
    fn value_at_token(&self, first: usize) -> Option<Cow<'a, [u8]>> {
        let mut depth = 0_usize;
        for token in first..self.starts.len() {
            match self.raw[self.starts[token] as usize] {
                b'{' | b'[' => depth += 1,
                b'}' | b']' => depth -= 1,
                _ => {}
            }
            if depth == 0 {
                return Some(self.compact_tokens(first..token + 1));
            }
        }
        None
    }

    fn compact_tokens(&self, tokens: Range<usize>) -> Cow<'a, [u8]> {
        let Some(&from) = self.starts.get(tokens.start) else { return Cow::Borrowed(&[]) };
        let end = self.end_of(tokens.end - 1);
        // A byte before a token is either the end of the token before it, which is never white space, or white space.
        let inner = &self.starts[tokens.start + 1..tokens.end];
        if !inner.iter().any(|&start| is_space(self.raw[start as usize - 1])) {
            return Cow::Borrowed(&self.raw[from as usize..end]);
        }
        let mut compact = Vec::with_capacity(end - from as usize);
        for token in tokens {
            compact.extend_from_slice(&self.raw[self.starts[token] as usize..self.end_of(token)]);
        }
        Cow::Owned(compact)
    }

    /// One past the last byte of a token.
    fn end_of(&self, token: usize) -> usize {
        let mut end = self.starts.get(token + 1).map_or(self.raw.len(), |&next| next as usize);
        while end > 0 && is_space(self.raw[end - 1]) {
            end -= 1;
        }
        end
    }
}

fn is_space(byte: u8) -> bool {
    matches!(byte, b' ' | b'\n' | b'\r' | b'\t')
}

/// Whether `text` is a number by the JSON grammar (RFC 8259, section 6).
#[must_use]
pub fn is_number(text: &str) -> bool {
    let mut rest = text.strip_prefix('-').unwrap_or(text).as_bytes();
    rest = match rest {
        [b'0', tail @ ..] => tail,
        [b'1'..=b'9', tail @ ..] => skip_digits(tail),
        _ => return false,
    };
    if let [b'.', tail @ ..] = rest {
        rest = skip_digits(tail);
        if rest.len() == tail.len() {
            return false;
        }
    }
    if let [b'e' | b'E', tail @ ..] = rest {
        let digits = if let [b'+' | b'-', digits @ ..] = tail { digits } else { tail };
        rest = skip_digits(digits);
        if rest.len() == digits.len() {
            return false;
        }
    }
    rest.is_empty()
}

fn skip_digits(text: &[u8]) -> &[u8] {
    let digits = text.iter().take_while(|byte| byte.is_ascii_digit()).count();
    &text[digits..]
}

#[cfg(test)]
mod tests {
    use super::is_number;

    #[test]
    fn numbers_by_the_grammar() {
        for good in ["0", "-0", "12", "1.5", "-1.50e+7", "1E2", "0.1"] {
            assert!(is_number(good), "{good}");
        }
        for bad in ["", "-", "01", "1.", ".5", "1e", "+1", "0x1", "1 ", "NaN", "1e+"] {
            assert!(!is_number(bad), "{bad}");
        }
    }
}
