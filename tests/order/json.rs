//! A plain JSON parser that keeps duplicate keys and spellings, a minifier, and serde_json to check both against.

use std::collections::HashSet;
use std::fmt;

use serde_json::de::Deserializer;

/// A value and the bytes it was read from, white space inside them included.
#[derive(Debug)]
pub struct Json<'a> {
    pub raw: &'a str,
    pub value: Value<'a>,
}

#[derive(Debug)]
pub enum Value<'a> {
    Null,
    Bool,
    Number,
    Text(String),
    Array(Vec<Json<'a>>),
    Object(Vec<(String, Json<'a>)>),
}

impl<'a> Json<'a> {
    pub fn members(&self) -> Option<&[(String, Json<'a>)]> {
        if let Value::Object(members) = &self.value { Some(members) } else { None }
    }

    /// The first member of that name.
    pub fn member(&self, name: &str) -> Option<&Json<'a>> {
        self.members()?.iter().find(|(key, _)| key == name).map(|(_, value)| value)
    }

    pub fn text(&self) -> Option<&str> {
        if let Value::Text(text) = &self.value { Some(text) } else { None }
    }

    pub fn is_null(&self) -> bool {
        matches!(self.value, Value::Null)
    }
}

/// Parses one document. A number may be beyond double precision. Lone surrogates stand for no text and are refused.
pub fn parse(text: &str, depth_max: usize) -> Option<Json<'_>> {
    let mut parser = Parser { text, at: 0 };
    parser.space();
    let value = parser.value(depth_max)?;
    parser.space();
    (parser.at == text.len()).then_some(value)
}

struct Parser<'a> {
    text: &'a str,
    at: usize,
}

impl<'a> Parser<'a> {
    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    fn eat(&mut self, expected: u8) -> Option<()> {
        (self.peek()? == expected).then(|| self.at += 1)
    }

    fn word(&mut self, word: &str, value: Value<'a>) -> Option<Value<'a>> {
        self.text[self.at..].starts_with(word).then(|| self.at += word.len())?;
        Some(value)
    }

    fn value(&mut self, depth: usize) -> Option<Json<'a>> {
        let start = self.at;
        let value = match self.peek()? {
            b'n' => self.word("null", Value::Null)?,
            b't' => self.word("true", Value::Bool)?,
            b'f' => self.word("false", Value::Bool)?,
            b'"' => Value::Text(self.string()?),
            b'[' if depth > 0 => {
                let mut elements = Vec::new();
                self.list(b']', |parser| {
                    elements.push(parser.value(depth - 1)?);
                    Some(())
                })?;
                Value::Array(elements)
            }
            b'{' if depth > 0 => {
                let mut members = Vec::new();
                self.list(b'}', |parser| {
                    let key = parser.string()?;
                    parser.space();
                    parser.eat(b':')?;
                    parser.space();
                    members.push((key, parser.value(depth - 1)?));
                    Some(())
                })?;
                Value::Object(members)
            }
            _ => {
                self.number()?;
                Value::Number
            }
        };
        Some(Json { raw: &self.text[start..self.at], value })
    }

    fn list(&mut self, close: u8, mut element: impl FnMut(&mut Self) -> Option<()>) -> Option<()> {
        self.at += 1;
        self.space();
        if self.eat(close).is_some() {
            return Some(());
        }
        loop {
            element(self)?;
            self.space();
            if self.eat(close).is_some() {
                return Some(());
            }
            self.eat(b',')?;
            self.space();
        }
    }

    fn string(&mut self) -> Option<String> {
        self.eat(b'"')?;
        let mut text = String::new();
        loop {
            let c = self.text[self.at..].chars().next()?;
            self.at += c.len_utf8();
            match c {
                '"' => return Some(text),
                '\0'..='\x1f' => return None,
                '\\' => text.push(self.escape()?),
                c => text.push(c),
            }
        }
    }

    fn escape(&mut self) -> Option<char> {
        let escape = self.peek()?;
        self.at += 1;
        Some(match escape {
            b'"' | b'\\' | b'/' => char::from(escape),
            b'b' => '\x08',
            b'f' => '\x0c',
            b'n' => '\n',
            b'r' => '\r',
            b't' => '\t',
            b'u' => {
                let unit = self.hex()?;
                if !(0xd800..0xdc00).contains(&unit) {
                    return char::from_u32(unit);
                }
                self.eat(b'\\')?;
                self.eat(b'u')?;
                let low = self.hex()?;
                (0xdc00..0xe000).contains(&low).then_some(())?;
                char::from_u32(0x10000 + ((unit - 0xd800) << 10) + (low - 0xdc00))?
            }
            _ => return None,
        })
    }

    fn hex(&mut self) -> Option<u32> {
        let mut unit = 0;
        for _ in 0..4 {
            unit = unit * 16 + char::from(self.peek()?).to_digit(16)?;
            self.at += 1;
        }
        Some(unit)
    }

    fn digits(&mut self) -> Option<()> {
        let start = self.at;
        while self.peek().is_some_and(|byte| byte.is_ascii_digit()) {
            self.at += 1;
        }
        (self.at > start).then_some(())
    }

    fn number(&mut self) -> Option<()> {
        let _ = self.eat(b'-');
        if self.eat(b'0').is_none() {
            self.digits()?;
        }
        if self.eat(b'.').is_some() {
            self.digits()?;
        }
        if matches!(self.peek(), Some(b'e' | b'E')) {
            self.at += 1;
            if matches!(self.peek(), Some(b'+' | b'-')) {
                self.at += 1;
            }
            self.digits()?;
        }
        Some(())
    }
}

/// Valid JSON without the white space between its tokens.
pub fn minify(text: &str) -> String {
    let mut minified = String::with_capacity(text.len());
    let (mut inside, mut escaped) = (false, false);
    for c in text.chars() {
        if inside {
            inside = escaped || c != '"';
            escaped = !escaped && c == '\\';
        } else if c == '"' {
            inside = true;
        } else if matches!(c, ' ' | '\t' | '\n' | '\r') {
            continue;
        }
        minified.push(c);
    }
    minified
}

/// Panics where serde_json and the parser above disagree on what is JSON, how deep it is, or whether keys repeat.
///
/// serde_json reads numbers near the largest double up to one unit off, so what it calls out of range is let pass.
pub fn cross_check(text: &str, parsed: Option<&Json<'_>>) {
    let mut reader = Deserializer::from_str(text);
    let seen = serde::Deserialize::deserialize(&mut reader).and_then(|shape: Shape| reader.end().map(|()| shape));
    let expected = match &seen {
        Ok(shape) if shape.depth <= 64 => Some((shape.depth, shape.repeats)),
        Ok(_) => None,
        Err(error) if error.to_string().starts_with("number out of range") => return,
        Err(_) => None,
    };
    let found = parsed.map(shape_of);
    assert_eq!(expected, found, "the two oracles differ on {text:?}: {:?}", seen.err());
}

fn shape_of(json: &Json<'_>) -> (usize, bool) {
    let (depth, repeats) = match &json.value {
        Value::Array(elements) => fold(elements.iter()),
        Value::Object(members) => {
            let mut keys: Vec<&str> = members.iter().map(|(key, _)| key.as_str()).collect();
            keys.sort_unstable();
            let (depth, repeats) = fold(members.iter().map(|(_, value)| value));
            (depth, repeats || keys.windows(2).any(|pair| pair[0] == pair[1]))
        }
        _ => return (0, false),
    };
    (depth + 1, repeats)
}

fn fold<'a, 'b: 'a>(values: impl Iterator<Item = &'a Json<'b>>) -> (usize, bool) {
    values.map(shape_of).fold((0, false), |sum, shape| (sum.0.max(shape.0), sum.1 || shape.1))
}

/// What serde_json sees of a document.
struct Shape {
    depth: usize,
    repeats: bool,
}

impl<'de> serde::Deserialize<'de> for Shape {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(ShapeVisitor)
    }
}

struct ShapeVisitor;

macro_rules! leaves {
    ($($method:ident: $kind:ty),*) => {
        $(fn $method<E>(self, _: $kind) -> Result<Shape, E> { Ok(Shape { depth: 0, repeats: false }) })*
    };
}

impl<'de> serde::de::Visitor<'de> for ShapeVisitor {
    type Value = Shape;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any JSON")
    }

    leaves!(visit_bool: bool, visit_i64: i64, visit_u64: u64, visit_f64: f64, visit_str: &str);

    fn visit_unit<E>(self) -> Result<Shape, E> {
        Ok(Shape { depth: 0, repeats: false })
    }

    fn visit_seq<A: serde::de::SeqAccess<'de>>(self, mut seq: A) -> Result<Shape, A::Error> {
        let mut shape = Shape { depth: 0, repeats: false };
        while let Some(element) = seq.next_element::<Shape>()? {
            shape = Shape { depth: shape.depth.max(element.depth), repeats: shape.repeats || element.repeats };
        }
        Ok(Shape { depth: shape.depth + 1, ..shape })
    }

    fn visit_map<A: serde::de::MapAccess<'de>>(self, mut map: A) -> Result<Shape, A::Error> {
        let mut keys = HashSet::new();
        let mut shape = Shape { depth: 0, repeats: false };
        while let Some((key, value)) = map.next_entry::<String, Shape>()? {
            let repeats = shape.repeats || value.repeats || !keys.insert(key);
            shape = Shape { depth: shape.depth.max(value.depth), repeats };
        }
        Ok(Shape { depth: shape.depth + 1, ..shape })
    }
}
