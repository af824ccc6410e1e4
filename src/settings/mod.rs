//! Flags, environment, files and defaults become an [`app::Config`]. The only reader of any of them.

pub mod commands;
mod compose;
mod contradictions;
mod dotenv;
mod file;
mod older;

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use clap::parser::ValueSource;
use clap::{Arg, ArgAction, ArgMatches, Command};

use crate::access::SetUpError;
#[cfg(feature = "kafka")]
use crate::kafka::properties;
use crate::{app, tls};
use compose::setting;
pub use compose::{Composed, SETTINGS};
use file::File;

/// Where a setting's value was found, strongest first.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    /// A flag on the command line.
    Flag,
    /// An environment variable, or a line of `.env`.
    Environment(String),
    /// A key of the settings file.
    File(PathBuf),
    /// Nowhere.
    Default,
}

/// The outside world, as far as settings go. Tests make one up.
#[derive(Debug, Clone, Default)]
pub struct Outside {
    /// Environment variables, with those of `.env` that the environment does not have.
    pub environment: BTreeMap<String, String>,
    /// The variables of `.env` that are not empty.
    pub dotenv: BTreeSet<String>,
    /// The numbers of its lines that cannot be read, and that are of other programs as far as can be told.
    pub left_out: Vec<usize>,
    /// The settings file that is read when no other is named.
    pub file: Option<PathBuf>,
}

/// What is read of the working directory when no settings file is named.
const FILE: &str = "config.yaml";

impl Outside {
    /// The process's environment and the `.env` file of the working directory.
    ///
    /// # Errors
    /// When there is a `.env` that cannot be read, or a variable of this program that is no text.
    pub fn of_process() -> Result<Self, ConfigError> {
        let dotenv::Read { variables: mut environment, left_out } = match std::fs::read(".env") {
            Ok(text) => dotenv::read(&String::from_utf8_lossy(&text), is_variable)
                .map_err(|message| ConfigError::one(".env", message))?,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => dotenv::Read::default(),
            Err(error) => return Err(ConfigError::one(".env", format!("cannot be read: {error}"))),
        };
        let dotenv = environment.iter().filter(|(_, value)| !value.is_empty()).map(|(name, _)| name.clone()).collect();
        for (name, value) in std::env::vars_os() {
            let Ok(name) = name.into_string() else { continue };
            match value.into_string() {
                Ok(value) => _ = environment.insert(name, value),
                Err(_) if is_variable(&name) => return Err(ConfigError::one(&name, "is no UTF-8")),
                Err(_) => {}
            }
        }
        let file = Path::new(FILE).is_file().then(|| FILE.into());
        Ok(Self { environment, dotenv, left_out, file })
    }
}

/// A secret from an environment variable, or from the file that the same with `_FILE` at its end
/// names; and which of both it is from.
fn secret(name: &str, outside: &Outside) -> Result<Option<(String, String)>, ConfigError> {
    let given = |name: &str| outside.environment.get(name).filter(|value| !value.is_empty());
    if let Some(value) = given(name) {
        return Ok(Some((name.to_owned(), value.clone())));
    }
    let by_file = format!("{name}_FILE");
    let read = |path: &String| Ok(read_secret(&by_file, path)?.trim_end().to_owned());
    given(&by_file).map(read).transpose().map(|read| Some((by_file, read?)))
}

/// Whether an environment variable says something to this program.
fn is_variable(name: &str) -> bool {
    let plain = name.strip_suffix("_FILE").unwrap_or(name);
    ["CONFIG_PATH", older::REDIS_PASSWORD, older::REDIS_DB].contains(&plain)
        || ["ORDER_", "POSTGRES_"].iter().any(|start| name.starts_with(start))
        || SETTINGS.iter().any(|setting| setting.env.contains(&plain))
}

/// Settings that cannot be used: a line for each.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{}", .0.join("\n"))]
pub struct ConfigError(pub Vec<String>);

impl ConfigError {
    fn one(place: &str, what: impl std::fmt::Display) -> Self {
        Self(vec![format!("{place}: {what}")])
    }
}

/// A setting's value as text, and where it was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Resolved {
    /// The setting.
    pub key: &'static str,
    /// Its values; several only where a setting may be repeated.
    pub values: Vec<String>,
    /// Where they are from.
    pub origin: Origin,
}

/// The settings as they will be used, and where each is from.
#[derive(Debug, Clone)]
pub struct Settings {
    /// What the service is built from.
    pub config: app::Config,
    /// Every setting, in the order of the table.
    pub found: Vec<Resolved>,
    /// Variables that are set and change nothing: a line for each.
    pub unused: Vec<String>,
}

impl Settings {
    /// Puts all sources together: flags over environment over file over defaults.
    ///
    /// # Errors
    /// [`ConfigError`] names every setting that cannot be used.
    pub fn load(flags: &ArgMatches, outside: &Outside) -> Result<Self, ConfigError> {
        #[cfg(debug_assertions)]
        for (variable, is_held) in [("ORDER_DIE_AT", false), ("ORDER_HOLD_AT", true)] {
            if let Some((step, nth)) = outside.environment.get(variable).and_then(|at| at.split_once(':')) {
                crate::process::lifecycle::stop_at(step, nth.parse().unwrap_or(1), is_held);
            }
        }
        let mut wrong = Vec::new();
        let of_environment = || outside.environment.get("CONFIG_PATH").filter(|path| !path.is_empty()).cloned();
        let named = flag(flags, "config").pop().or_else(of_environment);
        // An empty flag says that none is to be read.
        let is_named = named.is_some();
        let path: Option<PathBuf> =
            named.map_or_else(|| outside.file.clone(), |path| (!path.is_empty()).then(|| path.into()));
        let unnamed = path.clone().filter(|_| !is_named);
        let file = match path {
            None => File::default(),
            Some(path) => File::read(&path).unwrap_or_else(|error| {
                wrong.extend(error.0);
                File::default()
            }),
        };
        wrong.extend(file.unknown());
        if let Some(path) = unnamed.filter(|_| !wrong.is_empty()) {
            wrong.push(format!(
                "{}: is read because it is in the working directory; where it is another program's, --config FILE reads \
                 another, and an empty --config none",
                path.display()
            ));
        }
        let mut found = Vec::with_capacity(SETTINGS.len());
        // Also what is set and cannot be used: that is said of itself.
        let mut set = BTreeSet::new();
        for setting in SETTINGS.iter() {
            let value = look_up(setting, flags, outside, &file);
            if !matches!(&value, Ok(Resolved { origin: Origin::Default, .. })) {
                set.insert(setting.key);
            }
            match value {
                Ok(value) => found.push(value),
                Err(error) => wrong.extend(error.0),
            }
        }
        let (mut config, mut unused) = (app::Config::default(), Vec::new());
        // What makes a part comes before its details, which have nothing to change without it.
        for is_detail in [false, true] {
            let is_due = |setting: &Composed| setting.needs.is_empty() != is_detail;
            let given = found.iter().filter(|value| value.origin != Origin::Default);
            for (setting, value) in
                given.map(|value| (setting(value.key), value)).filter(|(setting, _)| is_due(setting))
            {
                let line = |message: String| format!("{}: {message}", place(setting, &value.origin));
                if value.values.iter().any(|text| text.contains('\0')) {
                    wrong.push(line("contains a NUL byte".into()));
                    continue;
                }
                match needed(setting, &value.values, &set) {
                    Err(message) if is_shared(&value.origin) => unused.push(line(message)),
                    Err(message) => wrong.push(line(message)),
                    Ok(()) => wrong.extend((setting.apply)(&mut config, &value.values).err().map(line)),
                }
            }
        }
        let given = Given(&found);
        contradictions::agree(&mut config, given);
        wrong.extend(contradictions::find(&config, given));
        if wrong.is_empty() {
            wrong.extend(contradictions::open_files(&mut config, given));
        }
        unused.extend(older::unused_variables(outside, &found));
        unused.extend(unused_files(outside, &found));
        unused.extend(lines_left_out(&outside.left_out));
        if wrong.is_empty() { Ok(Self { config, found, unused }) } else { Err(ConfigError(wrong)) }
    }

    /// An error of a start that is about a setting, with its name as the operator wrote it.
    #[must_use]
    pub fn named(found: &[Resolved], mut error: anyhow::Error) -> anyhow::Error {
        let given = Given(found);
        if let Some(wrong) = error.downcast_mut::<SetUpError>() {
            wrong.setting = given.place(&wrong.setting).into();
        }
        let file = error.downcast_ref::<tls::Error>().map(|error| error.file.display().to_string());
        match file.and_then(|file| given.of_value(&["tls.cert", "tls.key", "tls.client_ca"], |value| value == file)) {
            Some(place) => error.context(place),
            None => error,
        }
    }

    /// That nothing is set.
    #[must_use]
    pub fn none() -> Self {
        Self { config: app::Config::default(), found: Vec::new(), unused: Vec::new() }
    }

    /// A store that was not meant: the embedded one, though `.env` names a database.
    ///
    /// # Errors
    /// The variable that names it, and what to do.
    pub fn check_store(&self, outside: &Outside) -> Result<(), ConfigError> {
        let is_meant = self.found.iter().any(|found| found.key == "data" && found.origin != Origin::Default);
        if self.config.store.is_shareable() || is_meant {
            return Ok(());
        }
        let is_url = |name: &str| {
            let value = outside.environment.get(name).filter(|_| name != "ORDER_FROM_POSTGRES");
            value.is_some_and(|url| url.starts_with("postgres://") || url.starts_with("postgresql://"))
        };
        let Some(name) = outside.dotenv.iter().find(|name| older::names_database(name) || is_url(name)) else {
            return Ok(());
        };
        Err(ConfigError::one(
            ".env",
            format!(
                "{name}: names a database, but nothing says where it is, so the orders would be in the embedded store: \
                 set POSTGRES_DSN or POSTGRES_HOST, or --data to have them there all the same"
            ),
        ))
    }

    /// The settings as a TOML file that would bring them about, each with where it is from. Secrets are masked.
    #[must_use]
    pub fn print(&self) -> String {
        let mut text = String::new();
        for (setting, found) in SETTINGS.iter().zip(&self.found) {
            if found.origin == Origin::Default && setting.default.is_empty() {
                text.push_str(&format!("# {} is not set\n", setting.key));
                continue;
            }
            let values: Vec<String> = match (&found.origin, setting.is_secret) {
                (Origin::Default, _) => setting.default.split(' ').map(str::to_owned).collect(),
                (_, true) => vec!["********".into()],
                _ if setting.key == "auth.jwks" => found.values.iter().map(|url| without_query(url)).collect(),
                _ => found.values.clone(),
            };
            let quoted: Vec<String> =
                values.iter().filter(|value| !value.is_empty()).map(|value| toml_string(value)).collect();
            let value = match quoted.as_slice() {
                [one] if !setting.is_repeated => one.clone(),
                [] if !setting.is_repeated => "\"\"".into(),
                _ => format!("[{}]", quoted.join(", ")),
            };
            let origin = match &found.origin {
                Origin::Flag => format!("--{}", setting.flag),
                Origin::Environment(name) => name.clone(),
                Origin::File(path) => path.display().to_string(),
                Origin::Default => "default".into(),
            };
            text.push_str(&format!("{} = {value}  # {origin}\n", setting.key));
        }
        text
    }
}

/// A URL whose query, which may hold a secret, is masked; anything else as it is.
fn without_query(url: &str) -> String {
    match url.split_once('?') {
        Some((before, _)) if before.contains("://") => format!("{before}?********"),
        _ => url.to_owned(),
    }
}

fn toml_string(value: &str) -> String {
    toml::Value::String(value.to_owned()).to_string()
}

/// A settings file of an older service, as one of this one: TOML, with secrets as they are.
///
/// # Errors
/// When it cannot be read.
pub fn convert(path: &Path) -> Result<String, ConfigError> {
    let (values, odd) = File::take(path)?;
    Ok(older::convert(&values, &odd))
}

/// Adds every setting as a flag.
#[must_use]
pub fn with_flags(command: Command) -> Command {
    let config =
        Arg::new("config").long("config").value_name("FILE").help("Settings file, TOML or YAML [env: CONFIG_PATH]");
    SETTINGS.iter().fold(command.arg(config), |command, setting| {
        let mut help = setting.help.to_owned();
        if !setting.default.is_empty() {
            help.push_str(&format!(" [default: {}]", setting.default));
        }
        if let Some(name) = setting.env.first() {
            help.push_str(&format!(" [env: {name}]"));
        }
        let action = if setting.is_repeated { ArgAction::Append } else { ArgAction::Set };
        let arg = if setting.is_switch {
            Arg::new(setting.key).num_args(0..=1).require_equals(true).default_missing_value("yes")
        } else {
            Arg::new(setting.key)
        };
        let arg = arg
            .long(setting.flag)
            .value_name(setting.value)
            .help(help)
            .action(action)
            .hide_short_help(setting.is_detail);
        command.arg(if setting.is_detail { arg.help_heading("Limits and details") } else { arg })
    })
}

fn look_up(setting: &Composed, flags: &ArgMatches, outside: &Outside, file: &File) -> Result<Resolved, ConfigError> {
    let values = flag(flags, setting.key);
    if !values.is_empty() {
        return Ok(Resolved { key: setting.key, values, origin: Origin::Flag });
    }
    let given = |name: &str| outside.environment.get(name).filter(|value| !value.is_empty());
    if setting.key == "redis.url"
        && let Some(address) = given("REDIS_ADDR")
    {
        let db = given(older::REDIS_DB).map(String::as_str);
        if let Some(db) = db.filter(|db| !address.contains("://") && db.parse::<u16>().is_err()) {
            return Err(ConfigError::one(older::REDIS_DB, format!("{db:?} is no number of a database")));
        }
        let password = if address.contains("://") { None } else { secret(older::REDIS_PASSWORD, outside)? };
        let url = older::redis_url(address, password.as_ref().map(|(_, password)| &**password), db);
        let values = vec![url.unwrap_or_else(|| address.clone())];
        return Ok(Resolved { key: setting.key, values, origin: Origin::Environment("REDIS_ADDR".into()) });
    }
    for &name in setting.env {
        if let Some(value) = given(name) {
            let values =
                values_of(setting, value, value.contains('\n')).map_err(|message| ConfigError::one(name, message))?;
            return Ok(Resolved { key: setting.key, values, origin: Origin::Environment(name.to_owned()) });
        }
        let by_file = format!("{name}_FILE");
        if let Some(path) = given(&by_file).filter(|_| setting.is_secret) {
            let values = values_of(setting, read_secret(&by_file, path)?.trim_end(), true)
                .map_err(|message| ConfigError::one(&by_file, format!("{path}: {message}")))?;
            return Ok(Resolved { key: setting.key, values, origin: Origin::Environment(by_file) });
        }
    }
    if setting.key == "postgres.url"
        && let Some((name, value)) = postgres_by_parts(outside)?
    {
        return Ok(Resolved { key: setting.key, values: vec![value], origin: Origin::Environment(name) });
    }
    if let Some(values) = file.values.get(setting.key) {
        return Ok(Resolved { key: setting.key, values: values.clone(), origin: Origin::File(file.path.clone()) });
    }
    Ok(Resolved { key: setting.key, values: Vec::new(), origin: Origin::Default })
}

/// The values that a variable, or the file that one names, holds of a setting.
#[cfg_attr(not(feature = "kafka"), expect(clippy::unnecessary_wraps, reason = "only properties can be wrong"))]
fn values_of(setting: &Composed, text: &str, has_lines: bool) -> Result<Vec<String>, String> {
    #[cfg(feature = "kafka")]
    if setting.key == "kafka.property" && has_lines {
        return properties::read(text);
    }
    let _ = has_lines;
    if !setting.is_repeated {
        return Ok(vec![text.to_owned()]);
    }
    let is_between = |c: char| c == ',' || c.is_whitespace();
    Ok(text.split(is_between).filter(|part| !part.is_empty()).map(str::to_owned).collect())
}

/// The text of the file that a variable names. A path that leads nowhere may be the secret itself,
/// and is not repeated.
fn read_secret(variable: &str, path: &str) -> Result<String, ConfigError> {
    std::fs::read_to_string(path)
        .map_err(|error| ConfigError::one(variable, format!("the file that it names cannot be read: {error}")))
}

/// Whether a setting is from a variable that other programs know too, so that it may be meant for them.
fn is_shared(origin: &Origin) -> bool {
    matches!(origin, Origin::Environment(name) if !name.starts_with("ORDER_"))
}

/// Whether a detail belongs to something that is on. Set to its default it changes nothing either
/// way.
fn needed(setting: &Composed, values: &[String], set: &BTreeSet<&str>) -> Result<(), String> {
    let is_default = values.iter().map(|value| value.trim()).eq(setting.default.split(' '));
    if setting.needs.is_empty() || is_default || setting.needs.iter().any(|key| set.contains(key)) {
        return Ok(());
    }
    let owners = SETTINGS.iter().filter(|owner| setting.needs.contains(&owner.key));
    let owners: Vec<String> = owners.map(|owner| flag_and_variable(owner.key)).collect();
    Err(format!("changes nothing without {}", owners.join(" or ")))
}

/// The server as the older services were told of it: one variable for each part, of which the host is the one that
/// counts, with the name of the host's.
fn postgres_by_parts(outside: &Outside) -> Result<Option<(String, String)>, ConfigError> {
    let given = |name: &str| outside.environment.get(name).filter(|value| !value.is_empty());
    let (mut names, mut pairs) = (Vec::new(), Vec::new());
    for (key, name) in older::POSTGRES_PARTS {
        let by_file = format!("{name}_FILE");
        let (name, value) = match (given(name), given(&by_file)) {
            (Some(value), _) => (name.to_owned(), value.clone()),
            (None, Some(path)) => (by_file.clone(), read_secret(&by_file, path)?.trim_end().to_owned()),
            (None, None) if key == "host" => return Ok(None),
            (None, None) => continue,
        };
        names.push(name);
        pairs.push(format!("{key}='{}'", value.replace('\\', "\\\\").replace('\'', "\\'")));
    }
    let refusal = |count: usize| crate::store::postgres::Config::parse(&pairs[..count].join(" ")).err();
    if let Some(refused) = refusal(pairs.len()) {
        // The part with which it began to be so.
        let first = (1..=pairs.len()).find(|count| refusal(*count).as_ref() == Some(&refused));
        return Err(ConfigError::one(&names[first.unwrap_or(1) - 1], refused));
    }
    Ok(Some((names.swap_remove(0), pairs.join(" "))))
}

/// A line for each `…_FILE` that is set and not read: beside the variable itself, beside another one for the same, or
/// where the value is no secret.
fn unused_files(outside: &Outside, found: &[Resolved]) -> Vec<String> {
    let given = |name: &str| outside.environment.get(name).is_some_and(|value| !value.is_empty());
    let mut lines = Vec::new();
    for (setting, found) in SETTINGS.iter().zip(found) {
        for name in setting.env {
            let by_file = format!("{name}_FILE");
            match &found.origin {
                _ if !given(&by_file) => {}
                _ if !setting.is_secret => {
                    lines.push(format!("{by_file}: changes nothing: only secrets are read from files; set {name}"));
                }
                Origin::Environment(used) if *used != by_file => {
                    lines.push(format!("{by_file}: changes nothing beside {used}"));
                }
                // A flag is stronger on purpose.
                _ => {}
            }
        }
    }
    let parts =
        older::POSTGRES_PARTS.iter().map(|(_, name)| *name).chain([older::REDIS_PASSWORD, commands::FROM_POSTGRES]);
    for name in parts.filter(|name| given(name)) {
        let by_file = format!("{name}_FILE");
        lines.extend(given(&by_file).then(|| format!("{by_file}: changes nothing beside {name}")));
    }
    lines
}

/// Numbers of lines that are told; of more only how many there are.
const LINES_TOLD: usize = 10;

/// What is said of lines of `.env` that cannot be read.
fn lines_left_out(lines: &[usize]) -> Option<String> {
    let mut told = lines.iter().take(LINES_TOLD).map(usize::to_string).collect::<Vec<_>>().join(", ");
    if lines.len() > LINES_TOLD {
        told.push_str(&format!(" and {} more", lines.len() - LINES_TOLD));
    }
    match lines.len() {
        0 => None,
        1 => Some(format!(".env: line {told} cannot be read as NAME=value, and changes nothing")),
        _ => Some(format!(".env: lines {told} cannot be read as NAME=value, and change nothing")),
    }
}

/// The values a flag was given, before or after the subcommand; the later place is the stronger one.
fn flag(flags: &ArgMatches, key: &str) -> Vec<String> {
    let inner = flags.subcommand().map(|(_, inner)| flag(inner, key)).unwrap_or_default();
    if !inner.is_empty() {
        return inner;
    }
    // A tool's own flag may have the name of a setting and another type; it is not meant here.
    match flags.try_get_many::<String>(key) {
        Ok(Some(values)) if flags.value_source(key) == Some(ValueSource::CommandLine) => values.cloned().collect(),
        _ => Vec::new(),
    }
}

fn place(setting: &Composed, origin: &Origin) -> String {
    match origin {
        Origin::Flag | Origin::Default => format!("--{}", setting.flag),
        Origin::Environment(name) => name.clone(),
        Origin::File(path) => format!("{}: {}", path.display(), setting.key),
    }
}

/// What was found, to name settings as the operator wrote them.
#[derive(Clone, Copy)]
struct Given<'f>(&'f [Resolved]);

impl Given<'_> {
    /// A setting by its key: where it is from, or its flag where it has its default.
    fn place(self, key: &str) -> String {
        let found = self.0.iter().find(|found| found.key == key);
        place(setting(key), found.map_or(&Origin::Default, |found| &found.origin))
    }

    #[cfg(feature = "kafka")]
    fn is_set(self, key: &str) -> bool {
        self.0.iter().any(|found| found.key == key && found.origin != Origin::Default)
    }

    /// The first of these settings with such a value.
    fn of_value(self, keys: &[&str], is_it: impl Fn(&str) -> bool) -> Option<String> {
        let has = |found: &&Resolved| keys.contains(&found.key) && found.values.iter().any(|value| is_it(value));
        self.0.iter().find(has).map(|found| self.place(found.key))
    }
}

/// A setting as one may write it that is not there: its flag and its variable.
fn flag_and_variable(key: &str) -> String {
    let setting = setting(key);
    format!("--{} ({})", setting.flag, setting.env[0])
}

#[cfg(test)]
mod tests;
