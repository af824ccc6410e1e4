//! The `.env` file of the working directory. Other programs have lines in it that only they can read, and secrets:
//! what is wrong is told by line and name, never by value.

use std::collections::BTreeMap;

/// The longest value of several lines.
const LINES_MAX: usize = 200;

/// What a file says.
#[derive(Debug, Default)]
pub(super) struct Read {
    pub(super) variables: BTreeMap<String, String>,
    /// The numbers of the lines that cannot be read, and that are left out.
    pub(super) left_out: Vec<usize>,
}

/// The variables of a file's text. Lines that cannot be read are left out where their names are none that `is_ours`.
///
/// # Errors
/// The line and the name of the first variable of ours that cannot be read.
pub(super) fn read(text: &str, is_ours: impl Fn(&str) -> bool) -> Result<Read, String> {
    let lines: Vec<&str> = text.lines().collect();
    let (mut good, mut variables, mut left_out) = (String::new(), BTreeMap::new(), Vec::new());
    let mut at = 0;
    while at < lines.len() {
        let (name, value) = lines[at].split_once('=').unwrap_or((lines[at], ""));
        let name = name.trim().trim_start_matches("export ").trim();
        // Only a value that begins with a quote goes on in the next line.
        let goes_on = value.trim_start().starts_with(['"', '\'']);
        let most = if goes_on { LINES_MAX.min(lines.len() - at) } else { 1 };
        let read = (1..=most).find_map(|count| {
            // What was read before it may be named in a value.
            let text = format!("{good}{}\n", lines[at..at + count].join("\n"));
            let variables = dotenvy::from_read_iter(text.as_bytes()).collect::<Result<BTreeMap<_, _>, _>>().ok()?;
            Some((count, text, variables))
        });
        if let Some((count, text, read)) = read {
            (good, variables) = (text, read);
            at += count;
        } else if is_ours(name) {
            let line = at + 1;
            return Err(format!("line {line}: {name}: the value cannot be read; put it between single quotes"));
        } else {
            at += 1;
            left_out.push(at);
        }
    }
    Ok(Read { variables, left_out })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn is_ours(name: &str) -> bool {
        name.starts_with("ORDER_")
    }

    #[test]
    fn lines_of_other_programs_are_passed_by() {
        let text = "# a comment\n\nSHOP_NAME=Joe's\nexport ORDER_A='one two'\nJAVA_OPTS=-Xmx1g -Xms1g\nORDER_B=\"x\ny\"\n\
                    just words\nOTHER=Bob's\nBASE=b\nORDER_C=${BASE}c\nORDER_D=x # more\nUNCLOSED=\"a\nORDER_E=e\n";
        let Read { variables, left_out } = read(text, is_ours).unwrap();
        for (name, value) in
            [("ORDER_A", "one two"), ("ORDER_B", "x\ny"), ("ORDER_C", "bc"), ("ORDER_D", "x"), ("ORDER_E", "e")]
        {
            assert_eq!(variables.get(name).map(String::as_str), Some(value), "{name}");
        }
        assert!(!variables.contains_key("SHOP_NAME") && !variables.contains_key("JAVA_OPTS"));
        assert_eq!(left_out, [3, 5, 8, 9, 13], "and no name of them, which may be a part of a value");
    }

    #[test]
    fn what_is_wrong_with_ours_is_told_without_its_value() {
        for (text, expected) in [
            ("A=1\nORDER_POSTGRES=postgres://u:secret's@h/d\nORDER_B=secret", "line 2: ORDER_POSTGRES: "),
            ("ORDER_PASSWORD=top secret\n", "line 1: ORDER_PASSWORD: "),
            ("export ORDER_PASSWORD=\"secret\n", "line 1: ORDER_PASSWORD: "),
        ] {
            let error = read(text, is_ours).unwrap_err();
            assert!(error.starts_with(expected) && !error.contains("secret"), "{error}");
        }
    }
}
