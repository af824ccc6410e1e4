//! Entity tags (RFC 9110, section 8.8.3): how those of orders and of the ready list are made, and how
//! a list of them is read and compared. Answers that only their caller gets, such as an owner's list,
//! make theirs where they are made.

use std::sync::LazyLock;

use bytes::Bytes;
use hyper::header::{HeaderMap, HeaderValue, IF_NONE_MATCH};

use crate::cache::encodings::{EncodedBody, Level};
use crate::cache::recent::List;
use crate::id::Version;

/// Nearly every order is at one of its first versions: what answers say of those is made once.
pub(super) const FIRST_VERSIONS: u64 = 64;

/// The version in quotes.
#[must_use]
pub fn version_etag(version: Version) -> HeaderValue {
    // A value that lives as long as the process is cloned without counting.
    static FIRST: LazyLock<Vec<HeaderValue>> = LazyLock::new(|| {
        let leaked = |version| HeaderValue::from_static(Box::leak(format!("\"{version}\"").into_boxed_str()));
        (0..FIRST_VERSIONS).map(leaked).collect()
    });
    let first = usize::try_from(version).ok().and_then(|version| FIRST.get(version));
    first.cloned().unwrap_or_else(|| {
        HeaderValue::from_maybe_shared(Bytes::from(format!("\"{version}\"")))
            .expect("digits in quotes are a legal header")
    })
}

/// What stands between the quotes of the tag of the newest orders of a list.
#[must_use]
pub fn list_tag(epoch: &str, list: &List, shown: usize) -> String {
    format!("{epoch}-{}-{shown}", list.generation)
}

/// What tells the tag of a better form from that of the one before it: they are of one list, and
/// different bytes.
const DENSE: &str = "-dense";

/// The tag of what `tag` names, in quotes, in this form of it.
#[must_use]
pub fn encoded_tag(tag: &str, form: Option<&EncodedBody<'_>>) -> String {
    match form {
        None => format!("\"{tag}\""),
        Some(form) => {
            let dense = if form.level == Level::Dense { DENSE } else { "" };
            format!("\"{tag}{dense}-{}\"", form.encoding.name())
        }
    }
}

/// One tag of a list.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tag<'a> {
    /// `*`
    Any,
    /// What stands between the quotes, and whether `W/` stands before them.
    Entity { opaque: &'a [u8], is_weak: bool },
}

/// The tags of a header field's value. What is no tag ends the list: nothing can be known of what
/// follows.
pub(super) fn tags(mut text: &[u8]) -> impl Iterator<Item = Tag<'_>> {
    std::iter::from_fn(move || {
        text = text.trim_ascii_start();
        while let Some(rest) = text.strip_prefix(b",") {
            text = rest.trim_ascii_start();
        }
        if let Some(rest) = text.strip_prefix(b"*") {
            text = rest;
            return Some(Tag::Any);
        }
        let (is_weak, quoted) = match text.strip_prefix(b"W/") {
            Some(quoted) => (true, quoted),
            None => (false, text),
        };
        // A comma between quotes is part of the tag.
        let opaque = quoted.strip_prefix(b"\"")?;
        let end = memchr::memchr(b'"', opaque)?;
        text = opaque[end + 1..].trim_ascii_start();
        if !(text.is_empty() || text.starts_with(b",")) {
            text = b"";
        }
        Some(Tag::Entity { opaque: &opaque[..end], is_weak })
    })
}

/// Whether a tag is that of `plain`, or of a compressed form of it.
pub(super) fn is_of(opaque: &[u8], plain: &[u8]) -> bool {
    opaque.strip_prefix(plain).is_some_and(|form| {
        let form = form.strip_prefix(DENSE.as_bytes()).unwrap_or(form);
        matches!(form, b"" | b"-gzip" | b"-br" | b"-zstd")
    })
}

/// What stands between the quotes of a tag.
pub(super) fn opaque_of(etag: &HeaderValue) -> &[u8] {
    let text = etag.as_bytes();
    text.strip_prefix(b"\"").and_then(|text| text.strip_suffix(b"\"")).unwrap_or(text)
}

/// Whether `If-None-Match` says that the client has this already, in its plain or a compressed
/// form. The comparison is weak; a list may come in several fields.
#[must_use]
pub fn knows(headers: &HeaderMap, etag: &HeaderValue) -> bool {
    headers.get_all(IF_NONE_MATCH).iter().any(|value| names(value.as_bytes(), opaque_of(etag)))
}

/// Whether a list of tags names `plain`, which stands between quotes, or a compressed form of it.
/// The comparison is weak.
#[must_use]
pub fn names(list: &[u8], plain: &[u8]) -> bool {
    tags(list).any(|tag| match tag {
        Tag::Any => true,
        Tag::Entity { opaque, .. } => is_of(opaque, plain),
    })
}

#[cfg(test)]
mod tests {
    use hyper::header::HeaderName;

    use super::*;

    fn headers(name: HeaderName, values: &[&'static str]) -> HeaderMap {
        values.iter().map(|value| (name.clone(), HeaderValue::from_static(value))).collect()
    }

    #[test]
    fn tags_of_orders_are_their_versions() {
        assert_eq!(version_etag(7), "\"7\"");
        assert_eq!(version_etag(70_000), "\"70000\"");
    }

    #[test]
    fn what_is_known_is_found_in_any_form_and_place() {
        let etag = HeaderValue::from_static("\"7\"");
        for known in [
            &["\"7\""][..],
            &["W/\"7\""],
            &["\"7-gzip\""],
            &["\"7-dense-zstd\""],
            &["\"1\", \"7\""],
            &["*"],
            &["\"a,b\",\"7\""],
            &["\"1\"", "\"7\""],
            &[",, \"7\""],
        ] {
            assert!(knows(&headers(IF_NONE_MATCH, known), &etag), "{known:?}");
        }
        for other in [
            &["\"77\""][..],
            &["\"\""],
            &["\"7-x\""],
            &["\"7-dense-x\""],
            &["\"1\",\"2\""],
            &["\"1,\"7\""],
            &["7"],
            &["\"7"],
            &["\"a\"*"],
            &["w/\"7\""],
            &[""],
        ] {
            assert!(!knows(&headers(IF_NONE_MATCH, other), &etag), "{other:?}");
        }
    }
}
