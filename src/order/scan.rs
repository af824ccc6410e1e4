//! A second look at a document that the parser refused: where it is no JSON, or which of its numbers a parser of 64-bit
//! numbers cannot take although they are JSON. Slow beside the parser, and needed by the few that are refused only.

use std::ops::Range;

use super::compact::is_number;

/// The numbers of a JSON document that are beyond double precision.
///
/// # Errors
/// The first byte that is not JSON.
pub fn scan(document: &[u8]) -> Result<Vec<Range<usize>>, usize> {
    let mut scan = Scan { document, at: 0, beyond: Vec::new() };
    // What is open, innermost last.
    let mut open = Vec::new();
    scan.space();
    loop {
        // A value.
        match scan.peek() {
            Some(bracket @ (b'{' | b'[')) => {
                scan.at += 1;
                scan.space();
                let close = if bracket == b'{' { b'}' } else { b']' };
                if scan.take(close) {
                    scan.space();
                } else {
                    open.push(close);
                    scan.key(close)?;
                    continue;
                }
            }
            Some(b'"') => scan.string()?,
            Some(b'-' | b'0'..=b'9') => scan.number()?,
            _ => scan.literal()?,
        }
        // What follows it.
        loop {
            scan.space();
            let Some(&close) = open.last() else {
                return if scan.at == document.len() { Ok(scan.beyond) } else { Err(scan.at) };
            };
            if scan.take(b',') {
                scan.space();
                scan.key(close)?;
                break;
            }
            scan.expect(close)?;
            open.pop();
        }
    }
}

struct Scan<'a> {
    document: &'a [u8],
    at: usize,
    beyond: Vec<Range<usize>>,
}

impl Scan<'_> {
    fn peek(&self) -> Option<u8> {
        self.document.get(self.at).copied()
    }

    fn take(&mut self, byte: u8) -> bool {
        let is_there = self.peek() == Some(byte);
        self.at += usize::from(is_there);
        is_there
    }

    fn expect(&mut self, byte: u8) -> Result<(), usize> {
        if self.take(byte) { Ok(()) } else { Err(self.at) }
    }

    fn space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\n' | b'\r' | b'\t')) {
            self.at += 1;
        }
    }

    /// The key of a member and its colon, in what `close` closes if that is an object.
    fn key(&mut self, close: u8) -> Result<(), usize> {
        if close == b'}' {
            self.string()?;
            self.space();
            self.expect(b':')?;
            self.space();
        }
        Ok(())
    }

    fn literal(&mut self) -> Result<(), usize> {
        for literal in ["true", "false", "null"] {
            if self.document[self.at..].starts_with(literal.as_bytes()) {
                self.at += literal.len();
                return Ok(());
            }
        }
        Err(self.at)
    }

    fn number(&mut self) -> Result<(), usize> {
        let from = self.at;
        while matches!(self.peek(), Some(b'0'..=b'9' | b'-' | b'+' | b'.' | b'e' | b'E')) {
            self.at += 1;
        }
        let text = std::str::from_utf8(&self.document[from..self.at]).expect("ASCII");
        if !is_number(text) {
            return Err(from);
        }
        let value: f64 = text.parse().unwrap_or(f64::INFINITY);
        let mantissa = text.split(['e', 'E']).next().unwrap_or_default();
        let is_lost = value == 0.0 && mantissa.contains(|digit: char| matches!(digit, '1'..='9'));
        if value.is_infinite() || is_lost {
            self.beyond.push(from..self.at);
        }
        Ok(())
    }

    /// A string, in which the first half of a surrogate pair is followed by the second.
    fn string(&mut self) -> Result<(), usize> {
        self.expect(b'"')?;
        loop {
            let at = self.at;
            self.at += 1;
            match self.document.get(at) {
                None | Some(0..0x20) => return Err(at),
                Some(b'"') => return Ok(()),
                Some(b'\\') => match self.unit(at) {
                    Some(0xd800..0xdc00) if matches!(self.unit(at + 6), Some(0xdc00..0xe000)) => self.at = at + 12,
                    Some(0xd800..0xe000) => return Err(at),
                    Some(_) => self.at = at + 6,
                    None if matches!(self.peek(), Some(b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't')) => {
                        self.at += 1;
                    }
                    None => return Err(at),
                },
                Some(_) => {}
            }
        }
    }

    /// The number of the escape `\uXXXX` that begins at `at`.
    fn unit(&self, at: usize) -> Option<u32> {
        let digits = self.document.get(at..at + 6)?.strip_prefix(b"\\u")?;
        digits.iter().try_fold(0, |unit, &digit| Some(unit << 4 | char::from(digit).to_digit(16)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_json_is_told_where() {
        for (document, at) in [
            ("", 0),
            (" ", 1),
            ("[1,,2]", 3),
            ("[1 2]", 3),
            ("[1,2", 4),
            ("[1]x", 3),
            ("{]", 1),
            ("{\"a\":}", 5),
            ("{\"a\" 1}", 5),
            ("{\"a\":1,}", 7),
            ("[nul]", 1),
            ("[01]", 1),
            ("[1.]", 1),
            ("[\"abc\\x\"]", 5),
            ("[\"abc\\u12g4\"]", 5),
            ("[\"abc\tdef\"]", 5),
            ("[\"abc", 5),
            ("[\"\\ud800\\u0041\"]", 2),
            ("[\"\\udc00\"]", 2),
        ] {
            assert_eq!(scan(document.as_bytes()), Err(at), "{document}");
        }
    }

    #[test]
    fn numbers_beyond_double_precision_are_found() {
        let long = "9".repeat(400);
        for (document, numbers) in [
            ("1e400", vec!["1e400"]),
            ("[1, -1E+400 ,1e-400,0e-400,1e308]", vec!["-1E+400", "1e-400"]),
            (
                &*format!("{{\"a\":{long},\"b\":[{{}},[],\"1e400\\ud83d\\ude00\\n\",true,false,null,{long}.5]}}"),
                vec![&long, &format!("{long}.5")],
            ),
        ] {
            let found = scan(document.as_bytes()).unwrap();
            assert_eq!(found.into_iter().map(|range| &document[range]).collect::<Vec<_>>(), numbers, "{document}");
        }
    }
}
