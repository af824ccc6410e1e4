//! Query parameters. One that a route does not know, or that comes twice, is an error: who sends it expects something
//! else than what would be answered.

use std::borrow::Cow;

use super::respond::Problem;

/// The parameters of a request.
#[derive(Debug, Default)]
pub struct Query<'q>(Vec<(Cow<'q, str>, Cow<'q, str>)>);

impl<'q> Query<'q> {
    /// Reads a query of a route that takes these parameters.
    ///
    /// # Errors
    /// 400 naming the parameter that it does not take, or takes once.
    pub fn parse(text: &'q str, allowed: &[&str]) -> Result<Self, Problem> {
        let mut parameters: Vec<(Cow<'q, str>, Cow<'q, str>)> = Vec::new();
        for (name, value) in form_urlencoded::parse(text.as_bytes()) {
            if !allowed.contains(&&*name) {
                let takes = if allowed.is_empty() { "none".to_owned() } else { allowed.join(", ") };
                let detail = format!("there is no query parameter {name:?} here; there is {takes}");
                return Err(Problem::bad_request("unknown_parameter", detail));
            }
            if parameters.iter().any(|(known, _)| *known == name) {
                let detail = format!("the query parameter {name:?} is there more than once");
                return Err(Problem::bad_request("repeated_parameter", detail));
            }
            parameters.push((name, value));
        }
        Ok(Self(parameters))
    }

    /// The value of a parameter, decoded.
    #[must_use]
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(known, _)| known == name).map(|(_, value)| &**value)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_is_ignored() {
        let names = |text, allowed: &[&str]| Query::parse(text, allowed).map(|query| query.0.len());
        assert_eq!(names("", &[]).unwrap(), 0);
        assert_eq!(names("&", &[]).unwrap(), 0);
        assert_eq!(Query::parse("a=1&b=x%20y", &["b", "a"]).unwrap().get("b"), Some("x y"));
        for (text, allowed) in
            [("a", &[][..]), ("=1", &["a"]), ("a=1&a=1", &["a"]), ("A=1", &["a"]), ("a=1&b=2", &["a"])]
        {
            assert!(names(text, allowed).is_err(), "{text}");
        }
    }
}
