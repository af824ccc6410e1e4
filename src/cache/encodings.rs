//! Compressed forms of the ready list, as a list has them. When they are made is decided in
//! `demand`.

use std::sync::OnceLock;

use bytes::Bytes;

/// How a body may be compressed, the best first: zstd is faster than gzip and smaller. Brotli is
/// left out: a list takes it twice gzip's time for 4 % less, zstd is smaller still, and its encoder
/// would add 19 s to the build.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Encoding {
    /// RFC 8878.
    Zstd,
    /// RFC 1952.
    Gzip,
}

impl Encoding {
    /// All, the best first.
    pub const ALL: [Self; 2] = [Self::Zstd, Self::Gzip];

    /// Its name in HTTP.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Zstd => "zstd",
            Self::Gzip => "gzip",
        }
    }
}

/// How much time a form is worth.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Level {
    /// For a list that may be gone in a moment.
    Fast,
    /// For a list that has been still for a second.
    Dense,
}

/// The forms of one list.
#[derive(Debug, Default)]
pub(super) struct Encodings(pub(super) [OfEncoding; Encoding::ALL.len()]);

/// `None` inside where compressing did not pay.
#[derive(Debug, Default)]
pub(super) struct OfEncoding {
    pub(super) fast: OnceLock<Option<Bytes>>,
    pub(super) dense: OnceLock<Option<Bytes>>,
}

/// A compressed form of a list.
#[derive(Debug)]
pub struct EncodedBody<'l> {
    /// The compressed body.
    pub body: &'l Bytes,
    /// How it was compressed.
    pub encoding: Encoding,
    /// How well. Two forms of one encoding are different bytes, so their tags must differ.
    pub level: Level,
}
