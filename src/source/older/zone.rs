//! The zone of times that have none.

use super::layout::literal;

/// An offset from UTC, east of it positive as in ISO 8601, or the name of a zone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Zone {
    /// `+03:00`.
    Offset(String),
    /// `Europe/Moscow`. Whether there is such a zone, the server knows.
    Name(String),
}

impl Default for Zone {
    fn default() -> Self {
        Self::Name("UTC".into())
    }
}

impl Zone {
    /// `Z`, `+03:00`, `-0330`, or what may be a zone's name.
    ///
    /// # Errors
    /// What there can be.
    pub fn parse(text: &str) -> Result<Self, String> {
        let wrong =
            || format!("{text:?} is neither the name of a zone such as Europe/Moscow nor an offset such as +03:00");
        if text == "Z" {
            return Ok(Self::default());
        }
        if let Some(digits) = text.strip_prefix(['+', '-']) {
            let digits = match digits.split_once(':') {
                Some((hours, minutes)) if hours.len() == 2 => format!("{hours}{minutes}"),
                Some(_) => return Err(wrong()),
                None => digits.to_owned(),
            };
            let number: Option<u16> = digits.parse().ok().filter(|_| digits.bytes().all(|byte| byte.is_ascii_digit()));
            // No zone is farther from UTC.
            let is_offset = number.is_some_and(|number| number <= 1559 && number % 100 <= 59) && digits.len() == 4;
            let offset = || format!("{}{}:{}", &text[..1], &digits[..2], &digits[2..]);
            return is_offset.then(|| Self::Offset(offset())).ok_or_else(wrong);
        }
        let is_part = |byte: u8| byte.is_ascii_alphanumeric() || b"/_+-".contains(&byte);
        let is_name = text.starts_with(|first: char| first.is_ascii_alphabetic()) && text.bytes().all(is_part);
        let is_name = is_name && !is_signed_utc(text);
        if is_name { Ok(Self::Name(text.to_owned())) } else { Err(wrong()) }
    }

    /// As it is told.
    #[must_use]
    pub fn as_str(&self) -> &str {
        let (Self::Offset(text) | Self::Name(text)) = self;
        text
    }

    /// As `AT TIME ZONE` takes it. In a text the sign of an offset would be that of POSIX, which is
    /// the other one.
    pub(super) fn sql(&self) -> String {
        match self {
            Self::Offset(offset) => format!("INTERVAL {}", literal(offset)),
            Self::Name(name) => literal(name),
        }
    }
}

/// `UTC+3`, of which it is not known which of the two signs is meant.
fn is_signed_utc(text: &str) -> bool {
    let rest = ["UTC", "GMT"].into_iter().find_map(|name| text.strip_prefix(name));
    rest.is_some_and(|rest| rest.starts_with(['+', '-']))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn offsets_are_east_of_utc_as_in_iso_8601() {
        for text in ["+03:00", "+0300"] {
            assert_eq!(Zone::parse(text).unwrap().sql(), "INTERVAL '+03:00'");
        }
        assert_eq!(Zone::parse("-0330").unwrap().sql(), "INTERVAL '-03:30'");
        assert_eq!(Zone::parse("Z").unwrap().sql(), "'UTC'");
        assert_eq!(Zone::parse("Europe/Moscow").unwrap().sql(), "'Europe/Moscow'");
        assert_eq!(Zone::parse("Etc/GMT-3").unwrap().sql(), "'Etc/GMT-3'");
    }

    #[test]
    fn what_is_no_zone_is_refused() {
        for text in [
            "", "3", "+3", "+03", "+3:00", "+030:0", "+16:00", "+03:60", "+:0300", "+-300", "UTC+3", "GMT-3", "a'b",
            "+0ä0",
        ] {
            assert!(Zone::parse(text).is_err(), "{text}");
        }
    }
}
