//! A setting, declared beside what it sets; and how the values of settings are read: durations,
//! sizes, counts.
//!
//! Each part of the service has its settings in a file `settings.rs` of its own. `crate::settings`
//! puts them together and is the only one that applies them: it finds the values, and sets first
//! what needs no other setting and then details, so that it does not matter in which order they are
//! declared.

use std::path::PathBuf;
use std::time::Duration;

use percent_encoding::percent_decode_str;

/// One setting of a part whose configuration is `C`.
///
/// ```
/// use order_service::setting::{Setting, count, one};
///
/// struct Config {
///     cups_max: usize,
/// }
///
/// const SETTINGS: &[Setting<Config>] = &[Setting {
///     key: "tea.cups_max",
///     flag: "tea-cups-max",
///     env: &["ORDER_TEA_CUPS_MAX"],
///     value: "N",
///     help: "Cups of tea at once",
///     default: "2",
///     apply: |config, values| {
///         config.cups_max = count(one(values)?, 1)?;
///         Ok(())
///     },
///     ..Setting::DETAIL
/// }];
///
/// let mut config = Config { cups_max: 2 };
/// (SETTINGS[0].apply)(&mut config, &["3".to_owned()]).unwrap();
/// assert_eq!(config.cups_max, 3);
/// ```
pub type Setting<C> = Declared<Apply<C>>;

/// Sets it; the error says what is wrong with the value.
pub type Apply<C> = fn(&mut C, &[String]) -> Result<(), String>;

/// What is said of a setting, and how it is applied.
#[derive(Clone, Copy)]
pub struct Declared<A> {
    /// Its key in a settings file.
    pub key: &'static str,
    /// Its flag, without the dashes.
    pub flag: &'static str,
    /// Its environment variables, the first one the preferred, the others for users of the older services.
    pub env: &'static [&'static str],
    /// What its value is, for the help.
    pub value: &'static str,
    /// What it is for.
    pub help: &'static str,
    /// Its default as text; empty when there is none.
    pub default: &'static str,
    /// It is a detail of a part that is on when any of these is set, by key: without one of them it
    /// would change nothing.
    pub needs: &'static [&'static str],
    /// May be given several times.
    pub is_repeated: bool,
    /// Never shown, and readable from the file that `…_FILE` names.
    pub is_secret: bool,
    /// Shown by `--help` only, not by `-h`.
    pub is_detail: bool,
    /// The flag alone says yes.
    pub is_switch: bool,
    /// Sets it.
    pub apply: A,
}

impl<C> Setting<C> {
    /// What a setting is that says nothing else of itself.
    pub const PLAIN: Self = Self {
        key: "",
        flag: "",
        env: &[],
        value: "",
        help: "",
        default: "",
        needs: &[],
        is_repeated: false,
        is_secret: false,
        is_detail: false,
        is_switch: false,
        apply: |_, _| Ok(()),
    };
    /// A limit or a detail.
    pub const DETAIL: Self = Self { is_detail: true, ..Self::PLAIN };
}

impl<A> Declared<A> {
    /// The same, applied in another way.
    pub fn applied_by<B>(self, apply: impl FnOnce(A) -> B) -> Declared<B> {
        let Self { key, flag, env, value, help, default, needs, .. } = self;
        let Self { is_repeated, is_secret, is_detail, is_switch, .. } = self;
        let apply = apply(self.apply);
        Declared { key, flag, env, value, help, default, needs, is_repeated, is_secret, is_detail, is_switch, apply }
    }
}

/// The one value of a setting that is not repeated.
///
/// # Errors
/// There are several.
pub fn one(values: &[String]) -> Result<&str, String> {
    match values {
        [value] => Ok(value),
        _ => Err("takes one value".into()),
    }
}

/// The path of a file.
///
/// # Errors
/// It is empty.
pub fn file(values: &[String]) -> Result<PathBuf, String> {
    match one(values)?.trim() {
        "" => Err("names no file".into()),
        path => Ok(path.into()),
    }
}

/// The value of a setting that is on or off.
///
/// # Errors
/// It is another word.
pub fn yes_or_no(text: &str) -> Result<bool, String> {
    match text {
        "yes" | "true" => Ok(true),
        "no" | "false" => Ok(false),
        other => Err(format!("{other:?} is neither yes nor no")),
    }
}

/// Changes a detail of a part that is on. Where it is off there is nothing to change.
pub fn on<C>(part: &mut Option<C>, change: impl FnOnce(&mut C)) {
    if let Some(part) = part {
        change(part);
    }
}

/// A duration that is neither shorter nor longer than these.
///
/// # Errors
/// It is, or it is no duration.
pub fn between(text: &str, least: &str, most: &str) -> Result<Duration, String> {
    let value = duration(text)?;
    if (duration(least)?..=duration(most)?).contains(&value) {
        Ok(value)
    } else {
        Err(format!("{text:?} is not between {least} and {most}"))
    }
}

/// No setting is larger: what is computed from it and from the time of day never overflows, and no library refuses it.
const DURATION_MAX: Duration = Duration::from_hours(24 * 365 * 10);
const BYTES_MAX: usize = 1 << 50;
const COUNT_MAX: usize = 1 << 40;

/// `250ms`, `10s`, `5m`, `24h`, also several parts as Go writes them (`1h30m0s`); a bare number is
/// seconds.
///
/// # Errors
/// It is no duration, or longer than ten years.
pub fn duration(text: &str) -> Result<Duration, String> {
    let text = text.trim();
    let wrong = || format!("{text:?} is no duration such as 250ms, 10s, 5m or 24h");
    let is_digit = |c: char| c.is_ascii_digit() || c == '.';
    let (mut rest, mut sum) = (text, 0.0);
    loop {
        let (number, after) = rest.split_at(rest.find(|c| !is_digit(c)).unwrap_or(rest.len()));
        let (unit, after) = after.split_at(after.find(is_digit).unwrap_or(after.len()));
        let seconds = match unit {
            "us" => 1e-6,
            "ms" => 1e-3,
            "" | "s" => 1.0,
            "m" => 60.0,
            "h" => 3600.0,
            _ => return Err(wrong()),
        };
        sum += number.parse::<f64>().map_err(|_| wrong())? * seconds;
        rest = after;
        if rest.is_empty() {
            break;
        }
    }
    let duration = Duration::try_from_secs_f64(sum).ok().filter(|duration| *duration <= DURATION_MAX);
    duration.ok_or_else(|| format!("{text:?} is too long"))
}

/// `1048576`, `512KiB`, `16MiB`, `2GiB`, in bytes.
///
/// # Errors
/// It is no size, or too large.
pub fn bytes(text: &str) -> Result<usize, String> {
    let text = text.trim();
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let scale = match unit.trim() {
        "" | "B" => 1,
        "KiB" | "K" => 1 << 10,
        "MiB" | "M" => 1 << 20,
        "GiB" | "G" => 1 << 30,
        _ => return Err(format!("{text:?} is no size such as 65536, 512KiB or 16MiB")),
    };
    let number: usize = number.parse().map_err(|_| format!("{text:?} is no size such as 65536, 512KiB or 16MiB"))?;
    number.checked_mul(scale).filter(|bytes| *bytes <= BYTES_MAX).ok_or_else(|| format!("{text:?} is too large"))
}

/// A whole number of at least `least`.
///
/// # Errors
/// It is no whole number, too small or too large.
pub fn count(text: &str, least: usize) -> Result<usize, String> {
    match text.trim().parse() {
        Ok(number) if number > COUNT_MAX => Err(format!("{text:?} is too large")),
        Ok(number) if number >= least => Ok(number),
        _ => Err(format!("{text:?} is no whole number of at least {least}")),
    }
}

/// A URL whose `%` all begin an escape of UTF-8. What libraries make of others is not what was meant:
/// most often another password.
///
/// # Errors
/// It has another `%`.
pub fn escapes(text: &str) -> Result<&str, String> {
    let is_hex = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_hexdigit);
    let bytes = text.as_bytes();
    let mut found = memchr::memchr_iter(b'%', bytes);
    let is_broken =
        found.any(|at| !is_hex(bytes.get(at + 1)) || !is_hex(bytes.get(at + 2)) || bytes[at..].starts_with(b"%00"));
    if is_broken || percent_decode_str(text).decode_utf8().is_err() {
        return Err("has a % that begins no escape such as %40; a % itself is written %25".into());
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_with_a_broken_escape_is_told_without_its_password() {
        for good in ["postgres://u:p%25w@h/d", "redis://:%c3%9F@h", "postgres://h/d?options=a%20b", "h:1"] {
            assert_eq!(escapes(good), Ok(good));
        }
        for broken in ["x://u:s3cret%ZZ@h/d", "x://:s3cret%4@h", "x://:s3cret%", "x://:s3cret%ff@h", "x://s3cret%00@h"]
        {
            let error = escapes(broken).unwrap_err();
            assert!(error.contains("written %25") && !error.contains("s3cret"), "{broken}: {error}");
        }
    }
}
