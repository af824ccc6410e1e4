//! Settings files: TOML, YAML and JSON, as keys and texts.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use yaml_rust2::parser::{Event, EventReceiver, Parser};
use yaml_rust2::{Yaml, YamlLoader};

use super::{ConfigError, SETTINGS, older};

/// The values of a settings file by their keys.
type Values = BTreeMap<String, Vec<String>>;

/// A settings file: `[http]` with `idle_time = "75s"` is the key `http.idle_time`.
#[derive(Debug, Default)]
pub(super) struct File {
    pub(super) path: PathBuf,
    pub(super) values: Values,
}

impl File {
    pub(super) fn read(path: &Path) -> Result<Self, ConfigError> {
        let (values, odd) = Self::take(path)?;
        match odd.first() {
            Some(key) => Err(ConfigError::one(
                &path.display().to_string(),
                format!("{key}: must be a value or a list of values"),
            )),
            None => Ok(Self { path: path.to_owned(), values }),
        }
    }

    /// The values, and the keys whose values no setting can have.
    pub(super) fn take(path: &Path) -> Result<(Values, Vec<String>), ConfigError> {
        let place = path.display().to_string();
        let text = std::fs::read_to_string(path).map_err(|error| ConfigError::one(&place, error))?;
        // JSON is YAML too.
        let is_yaml =
            path.extension().is_some_and(|extension| ["yaml", "yml", "json"].iter().any(|yaml| extension == *yaml));
        let tree: serde_json::Value = if is_yaml {
            yaml(&text).map_err(|message| ConfigError::one(&place, message))?
        } else {
            toml::from_str(&text).map_err(|error| ConfigError::one(&place, toml_fault(&text, &error)))?
        };
        let (mut values, mut odd) = (BTreeMap::new(), Vec::new());
        flatten("", &tree, &mut values, &mut odd);
        Ok((values, odd))
    }

    pub(super) fn unknown(&self) -> Vec<String> {
        older::unknown(&self.path.display().to_string(), &self.values)
    }
}

/// What is wrong with a file of TOML, and in which line. The library shows the line, which may hold a secret.
fn toml_fault(text: &str, error: &toml::de::Error) -> String {
    let start = error.span().map_or(0, |span| span.start.min(text.len()));
    let before = text.get(..start).unwrap_or_default();
    let line = before.matches('\n').count();
    let name = text.lines().nth(line).and_then(|line| line.split_once('=')).map_or("", |(name, _)| name.trim());
    // What is not the name of a setting, or a part of one, may be a part of a value of several
    // lines.
    let is_name = |key: &str| key == name || key.split('.').any(|part| part == name);
    let is_known = SETTINGS.iter().any(|setting| is_name(setting.key));
    let name = if is_known { format!("{name}: ") } else { String::new() };
    format!("line {}: {name}{}", line + 1, error.message().lines().next().unwrap_or("no TOML"))
}

/// What is not loaded: a few lines of aliases name more than memory holds, and what is nested without
/// end takes as much of the stack.
#[derive(Default)]
struct Shape {
    depth: usize,
    fault: Option<&'static str>,
}

const DEPTH_MAX: usize = 64;

impl EventReceiver for Shape {
    fn on_event(&mut self, event: Event) {
        match event {
            Event::Alias(_) => self.fault = Some("has an alias (*name); write the value itself in its place"),
            Event::SequenceStart(..) | Event::MappingStart(..) => self.depth += 1,
            Event::SequenceEnd | Event::MappingEnd => self.depth = self.depth.saturating_sub(1),
            _ => {}
        }
        if self.depth > DEPTH_MAX {
            self.fault = Some("is nested too deep");
        }
    }
}

/// One document of YAML.
pub(super) fn yaml(text: &str) -> Result<serde_json::Value, String> {
    fn tree(yaml: Yaml) -> Result<serde_json::Value, String> {
        Ok(match yaml {
            Yaml::Null => serde_json::Value::Null,
            Yaml::Boolean(is_true) => is_true.into(),
            Yaml::Integer(number) => number.into(),
            Yaml::Real(text) | Yaml::String(text) => text.into(),
            Yaml::Array(values) => serde_json::Value::Array(values.into_iter().map(tree).collect::<Result<_, _>>()?),
            Yaml::Hash(entries) => {
                let entry = |(key, value): (Yaml, Yaml)| {
                    let key = key.into_string().ok_or("a name must be text")?;
                    Ok((key, tree(value)?))
                };
                serde_json::Value::Object(entries.into_iter().map(entry).collect::<Result<_, String>>()?)
            }
            Yaml::Alias(_) | Yaml::BadValue => return Err("has a value that cannot be read".into()),
        })
    }
    let mut shape = Shape::default();
    Parser::new_from_str(text).load(&mut shape, true).map_err(|error| error.to_string())?;
    if let Some(fault) = shape.fault {
        return Err(fault.into());
    }
    let mut documents = YamlLoader::load_from_str(text).map_err(|error| error.to_string())?;
    match documents.len() {
        0 => Ok(serde_json::Value::Null),
        1 => tree(documents.remove(0)),
        _ => Err("has several documents".into()),
    }
}

fn flatten(key: &str, tree: &serde_json::Value, into: &mut BTreeMap<String, Vec<String>>, odd: &mut Vec<String>) {
    use serde_json::Value;
    let text = |value: &Value| match value {
        Value::String(text) => Some(text.clone()),
        Value::Number(number) => Some(number.to_string()),
        Value::Bool(flag) => Some(flag.to_string()),
        Value::Null => Some(String::new()),
        Value::Array(_) | Value::Object(_) => None,
    };
    let values: Option<Vec<String>> = match tree {
        Value::Object(members) => {
            for (name, value) in members {
                let key = if key.is_empty() { name.clone() } else { format!("{key}.{name}") };
                flatten(&key, value, into, odd);
            }
            return;
        }
        Value::Null if key.is_empty() => return,
        Value::Array(values) => values.iter().map(text).collect(),
        value => text(value).map(|text| vec![text]),
    };
    match values {
        Some(values) => _ = into.insert(key.to_owned(), values),
        None => odd.push(key.to_owned()),
    }
}
