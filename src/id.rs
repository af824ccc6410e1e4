//! Order identity: the inline key of the view, and the version that decides which copy of an order is newer.
//! Knows nothing of what an order contains.

use std::fmt;
use std::hash::{Hash, Hasher};

use uuid::Uuid;

/// The longest id accepted, in bytes.
pub const ID_BYTES_MAX: usize = 128;
/// Ids up to this many bytes live inside the key itself.
const INLINE_BYTES: usize = 22;

/// How often an order has changed, counted by the store from 1. Larger is newer.
pub type Version = u64;

/// An order's id: 1 to 128 characters of `[A-Za-z0-9._:-]`, but not `.` or `..`, which clients take out of every URL
/// before they send it (RFC 3986, 5.2.4). Every spelling of a UUID is the same id.
///
/// Takes 24 bytes and no heap for UUIDs and for ids of at most 22 characters.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct OrderId(Repr);

#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
enum Repr {
    Inline { len: u8, bytes: [u8; INLINE_BYTES] },
    Uuid([u8; 16]),
    Long(Box<str>),
}

/// Why a text is no order id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// Nothing was given.
    #[error("id is empty")]
    Empty,
    /// More than [`ID_BYTES_MAX`] bytes.
    #[error("id is longer than 128 characters")]
    TooLong,
    /// A character outside `[A-Za-z0-9._:-]`.
    #[error("id has a character outside A-Z a-z 0-9 . _ : -")]
    Illegal,
    /// A segment that no URL keeps.
    #[error("id is . or .., which no URL can name")]
    Dots,
}

impl OrderId {
    /// Reads an id as a client or a producer spells it.
    ///
    /// # Errors
    /// [`IdError`] says which rule the text breaks.
    pub fn parse(text: &[u8]) -> Result<Self, IdError> {
        if matches!(text, b"." | b"..") {
            return Err(IdError::Dots);
        }
        Self::parse_stored(text)
    }

    /// As [`OrderId::parse`], for an id that a store or another instance has: `.` and `..` were ids once.
    ///
    /// # Errors
    /// [`IdError`] says which rule the text breaks.
    pub fn parse_stored(text: &[u8]) -> Result<Self, IdError> {
        if text.is_empty() {
            return Err(IdError::Empty);
        }
        if text.len() > ID_BYTES_MAX {
            return Err(IdError::TooLong);
        }
        if !text.iter().all(|&byte| LEGAL[usize::from(byte)]) {
            return Err(IdError::Illegal);
        }
        if let Some(uuid) = parse_uuid(text) {
            return Ok(Self::from_uuid(uuid));
        }
        if text.len() <= INLINE_BYTES {
            let mut bytes = [0; INLINE_BYTES];
            bytes[..text.len()].copy_from_slice(text);
            #[expect(clippy::cast_possible_truncation, reason = "at most 22")]
            return Ok(Self(Repr::Inline { len: text.len() as u8, bytes }));
        }
        let text = std::str::from_utf8(text).expect("legal characters are ASCII");
        Ok(Self(Repr::Long(text.into())))
    }

    /// The id of a UUID.
    #[must_use]
    pub fn from_uuid(uuid: Uuid) -> Self {
        Self(Repr::Uuid(*uuid.as_bytes()))
    }

    /// The UUID this id spells, if it spells one.
    #[must_use]
    pub fn as_uuid(&self) -> Option<Uuid> {
        match &self.0 {
            Repr::Uuid(bytes) => Some(Uuid::from_bytes(*bytes)),
            Repr::Inline { .. } | Repr::Long(_) => None,
        }
    }

    /// The canonical spelling: UUIDs in lower case with hyphens, everything else as it came.
    #[must_use]
    pub fn text(&self) -> IdText<'_> {
        match &self.0 {
            Repr::Inline { len, bytes } => IdText::Borrowed(ascii(&bytes[..usize::from(*len)])),
            Repr::Long(text) => IdText::Borrowed(text),
            Repr::Uuid(bytes) => {
                let mut buffer = [0; 36];
                Uuid::from_bytes(*bytes).hyphenated().encode_lower(&mut buffer);
                IdText::Uuid(buffer)
            }
        }
    }
}

/// A borrowed or stack-held canonical spelling of an [`OrderId`]; dereferences to `str`.
pub enum IdText<'a> {
    /// The id keeps its own text.
    Borrowed(&'a str),
    /// A UUID, written out.
    Uuid([u8; 36]),
}

impl std::ops::Deref for IdText<'_> {
    type Target = str;

    fn deref(&self) -> &str {
        match self {
            Self::Borrowed(text) => text,
            Self::Uuid(bytes) => ascii(bytes),
        }
    }
}

impl Hash for OrderId {
    fn hash<H: Hasher>(&self, state: &mut H) {
        match &self.0 {
            Repr::Inline { bytes, .. } => state.write(bytes),
            Repr::Uuid(bytes) => state.write(bytes),
            Repr::Long(text) => state.write(text.as_bytes()),
        }
    }
}

impl fmt::Display for OrderId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text())
    }
}

impl fmt::Debug for OrderId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text())
    }
}

/// Reads 36-character, 32-character and `urn:uuid:` spellings in either case.
///
/// Most ids are not UUIDs, so the length decides first.
#[must_use]
pub fn parse_uuid(text: &[u8]) -> Option<Uuid> {
    let text = match text.len() {
        32 | 36 => text,
        45 if text[..9].eq_ignore_ascii_case(b"urn:uuid:") => &text[9..],
        _ => return None,
    };
    Uuid::try_parse_ascii(text).ok()
}

fn ascii(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).expect("ids are ASCII")
}

const LEGAL: [bool; 256] = {
    let mut table = [false; 256];
    let mut byte = 0;
    while byte < 256 {
        #[expect(clippy::cast_possible_truncation, reason = "below 256")]
        let c = byte as u8;
        table[byte] = c.is_ascii_alphanumeric() || matches!(c, b'.' | b'_' | b':' | b'-');
        byte += 1;
    }
    table
};

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_spelling_of_a_uuid_is_one_id() {
        let plain = OrderId::parse(b"0190163d-8694-739b-aea5-966c26f8ad91").unwrap();
        for spelling in [
            "0190163D-8694-739B-AEA5-966C26F8AD91",
            "0190163d8694739baea5966c26f8ad91",
            "urn:uuid:0190163d-8694-739b-aea5-966c26f8ad91",
        ] {
            assert_eq!(OrderId::parse(spelling.as_bytes()).unwrap(), plain, "{spelling}");
        }
        assert_eq!(plain.to_string(), "0190163d-8694-739b-aea5-966c26f8ad91");
    }

    #[test]
    fn texts_round_trip_at_every_length() {
        for len in 1..=ID_BYTES_MAX {
            let text = "z".repeat(len);
            assert_eq!(&*OrderId::parse(text.as_bytes()).unwrap().text(), text);
        }
    }

    #[test]
    fn bad_ids_say_why() {
        assert_eq!(OrderId::parse(b""), Err(IdError::Empty));
        assert_eq!(OrderId::parse(&[b'a'; 129]), Err(IdError::TooLong));
        for bad in ["a b", "a/b", "\u{e9}", "a\0", "{x}", "a%20"] {
            assert_eq!(OrderId::parse(bad.as_bytes()), Err(IdError::Illegal), "{bad:?}");
        }
    }

    #[test]
    fn what_no_url_keeps_is_no_id_unless_it_is_stored() {
        for dots in [".", ".."] {
            assert_eq!(OrderId::parse(dots.as_bytes()), Err(IdError::Dots));
            assert_eq!(&*OrderId::parse_stored(dots.as_bytes()).unwrap().text(), dots);
        }
        for fine in ["...", ".a", "a.", "..a", "-"] {
            assert_eq!(&*OrderId::parse(fine.as_bytes()).unwrap().text(), fine);
        }
    }

    #[test]
    fn the_key_is_24_bytes() {
        assert_eq!(size_of::<OrderId>(), 24);
    }
}
