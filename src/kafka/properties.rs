//! Properties of librdkafka as text: `NAME=VALUE`, and files of them as Kafka's own tools read. Any
//! value may be a secret, so no message repeats one; what is no name may be a part of a value that
//! was torn apart.

use std::collections::BTreeMap;

/// A property's name and value.
///
/// # Errors
/// When it has no name.
pub fn pair(text: &str) -> Result<(&str, &str), String> {
    let is_legal = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"._-".contains(&byte);
    text.split_once('=')
        .map(|(name, value)| (name.trim(), value.trim()))
        .filter(|(name, _)| !name.is_empty() && name.bytes().all(is_legal))
        .ok_or_else(|| "invalid property: expected NAME=VALUE, e.g. linger.ms=5".into())
}

/// The properties of a file, one a line. Blank lines and those that begin with `#` or `!` are left
/// out, and so is white space around names and values.
///
/// # Errors
/// The line, and the property's name where there is one.
pub fn read(text: &str) -> Result<Vec<String>, String> {
    let mut lines = BTreeMap::new();
    let mut all = Vec::new();
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    for (number, line) in (1..).zip(text.lines().map(str::trim)) {
        if line.is_empty() || line.starts_with(['#', '!']) {
            continue;
        }
        let (name, _) = pair(line).map_err(|message| format!("line {number}: {message}"))?;
        if line.ends_with('\\') {
            return Err(format!("line {number}: {name}: ends with a backslash; a value is one line, without escapes"));
        }
        if let Some(before) = lines.insert(name, number) {
            return Err(format!("line {number}: {name}: is in line {before} already"));
        }
        all.push(line.to_owned());
    }
    Ok(all)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_read_line_by_line() {
        let text = "\u{feff}# a comment\r\n! another\r\n\r\nsecurity.protocol = SASL_SSL \r\n\
                    \tsasl.password=a=b, c#d!e \n   \nsasl.username=";
        let read = read(text).unwrap();
        let pairs: Vec<_> = read.iter().map(|line| pair(line).unwrap()).collect();
        let expected = [("security.protocol", "SASL_SSL"), ("sasl.password", "a=b, c#d!e"), ("sasl.username", "")];
        assert_eq!(pairs, expected);
        assert!(super::read("# nothing\n").unwrap().is_empty());
    }

    #[test]
    fn what_is_wrong_is_told_by_line_and_name() {
        for (text, expected) in [
            ("acks=all\nsasl.password:secret\n", "line 2: invalid property: "),
            ("sasl.password:secret=x", "line 1: invalid property: "),
            ("=secret", "line 1: invalid property: "),
            ("\nsasl.password=secret\\\n  more", "line 2: sasl.password: ends with a backslash"),
            ("sasl.password=secret\nacks=all\nsasl.password=x", "line 3: sasl.password: is in line 1 already"),
        ] {
            let error = read(text).unwrap_err();
            assert!(error.starts_with(expected) && !error.contains("secret"), "{error}");
        }
    }
}
