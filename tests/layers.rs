//! Who may know whom: the table of the house, held against every `crate::` path in `src`. A new edge is a design
//! change and is made here first.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Modules by floor, lowest first. An edge must lead strictly downward.
const FLOORS: &[&[&str]] = &[
    // Each module declares its settings and registers what it counts, so these are below all of them.
    &["sync", "setting", "metrics"],
    &["tls"],
    &["id", "process", "nats"],
    &["snapshot", "record", "stan", "listen"],
    &["order"],
    &["cache", "store", "kafka", "redis"],
    &["source"],
    &["replication"],
    &["ingest", "read", "warmup"],
    &["access"],
    &["http", "grpc", "admin"],
    &["app", "tools"],
    &["settings"],
    &["cli"],
    &["main"],
];

/// Whom each module may import.
const EDGES: &[(&str, &[&str])] = &[
    ("main", &["cli"]),
    // What an error of a store means for the exit code.
    ("cli", &["settings", "app", "access", "tools", "store", "process"]),
    // Each part declares its own; here they are put together.
    (
        "settings",
        &[
            "app", "tools", "http", "grpc", "access", "ingest", "read", "source", "cache", "store", "kafka", "redis",
            "nats", "stan", "listen", "tls", "setting", "process",
        ],
    ),
    (
        "app",
        &[
            "http",
            "grpc",
            "admin",
            "access",
            "ingest",
            "read",
            "warmup",
            "replication",
            "cache",
            "store",
            "source",
            "redis",
            "snapshot",
            "record",
            "metrics",
            "process",
            "kafka",
            "nats",
            "stan",
            "order",
            "listen",
            "tls",
            "setting",
        ],
    ),
    // Whose an order is, as a copy of it says.
    ("access", &["sync", "snapshot", "tls", "metrics", "process", "setting"]),
    (
        "tools",
        &["sync", "ingest", "source", "store", "order", "record", "tls", "metrics", "process", "kafka", "nats", "stan"],
    ),
    // The surfaces know what they say and whom they ask; `store` is here for the words a write is answered with.
    (
        "http",
        &[
            "sync", "access", "read", "source", "store", "cache", "snapshot", "record", "id", "listen", "tls",
            "metrics", "process", "setting",
        ],
    ),
    (
        "grpc",
        &["access", "read", "source", "store", "snapshot", "record", "id", "listen", "metrics", "process", "setting"],
    ),
    ("admin", &["access", "listen", "metrics", "process"]),
    // Sockets, with what encrypts them. What is answered there has an id too.
    ("listen", &["tls", "process"]),
    (
        "ingest",
        &[
            "replication",
            "source",
            "store",
            "cache",
            "redis",
            "order",
            "snapshot",
            "record",
            "id",
            "metrics",
            "process",
            "setting",
        ],
    ),
    ("read", &["sync", "cache", "store", "redis", "snapshot", "id", "process", "setting"]),
    ("warmup", &["cache", "store", "process"]),
    // What instances tell each other and their workers.
    (
        "replication",
        &[
            "sync", "source", "cache", "store", "kafka", "redis", "order", "snapshot", "record", "id", "metrics",
            "process",
        ],
    ),
    (
        "source",
        &[
            "sync", "store", "order", "snapshot", "record", "id", "kafka", "nats", "stan", "metrics", "process",
            "setting",
        ],
    ),
    ("redis", &["sync", "snapshot", "id", "tls", "metrics", "setting"]),
    // What its clients went through.
    ("kafka", &["sync", "metrics", "process", "setting"]),
    ("nats", &["tls", "setting"]),
    // Its servers are servers of NATS.
    ("stan", &["nats", "setting"]),
    // What each store and the view show of themselves.
    ("store", &["sync", "order", "snapshot", "record", "id", "tls", "metrics", "process", "setting"]),
    ("cache", &["sync", "snapshot", "id", "metrics", "setting"]),
    ("order", &["record", "id"]),
    ("snapshot", &["id"]),
    ("record", &["id"]),
    ("sync", &[]),
    ("setting", &[]),
    ("id", &[]),
    ("metrics", &[]),
    // Whether the process is ready, and until when a certificate is valid.
    ("process", &["sync", "metrics"]),
    ("tls", &["sync", "metrics", "setting"]),
];

/// Readers know bytes: these can never name an order, so none of them can serialize one again.
const NEVER_ORDER: &[&str] = &["cache", "redis", "read", "warmup", "access", "http", "grpc", "admin"];

/// Each third-party client is named by its adapters only.
const CLIENTS: &[(&str, &[&str])] = &[
    ("papaya", &["src/cache/"]),
    ("arc_swap", &["src/access/", "src/cache/"]),
    ("flate2", &["src/read/encodings.rs"]),
    ("zstd", &["src/read/encodings.rs"]),
    ("ring", &["src/access/", "src/tls/"]),
    ("ipnet", &["src/access/"]),
    ("rusqlite", &["src/store/embedded/"]),
    ("tokio_postgres", &["src/store/postgres/", "src/source/older/"]),
    ("bb8", &["src/store/postgres/"]),
    ("rdkafka", &["src/kafka/", "src/source/kafka/", "src/tools/"]),
    ("redis_client", &["src/redis/"]),
    ("async_nats", &["src/nats/", "src/stan/", "src/source/nats/", "src/source/stan/", "src/tools/"]),
    ("rustls", &["src/tls/"]),
    ("rustls_native_certs", &["src/tls/"]),
    ("tokio_rustls", &["src/tls/"]),
    ("x509_cert", &["src/tls/"]),
    ("simd_json", &["src/order/"]),
    ("triomphe", &["src/snapshot.rs"]),
    ("clap", &["src/settings"]),
    ("httparse", &["src/http/"]),
    ("httpdate", &["src/http/"]),
    ("indicatif", &["src/tools/progress.rs"]),
    ("tonic", &["src/grpc/"]),
    ("tonic_health", &["src/grpc/"]),
    ("tonic_reflection", &["src/grpc/"]),
    ("tonic_types", &["src/grpc/"]),
    ("prost", &["src/grpc/", "src/stan/"]),
    ("hdrhistogram", &["src/tools/"]),
    ("prometheus", &["src/metrics/"]),
];

/// The only readers of the environment and of `.env`.
const OUTSIDE: &[(&str, &[&str])] =
    &[("std::env::", &["src/settings/mod.rs"]), ("dotenvy", &["src/settings/dotenv.rs"])];

struct Line {
    file: PathBuf,
    number: usize,
    text: String,
}

/// Every line of `src` that is code, tests left out.
fn lines() -> Vec<Line> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    collect(&root.join("src"), &mut files);
    let mut lines = Vec::new();
    for file in files {
        let text = std::fs::read_to_string(&file).unwrap();
        let file = file.strip_prefix(root).unwrap().to_owned();
        for (index, text) in text.lines().enumerate() {
            if text.trim() == "#[cfg(test)]" {
                break;
            }
            if !text.trim_start().starts_with("//") {
                lines.push(Line { file: file.clone(), number: index + 1, text: text.to_owned() });
            }
        }
    }
    assert!(lines.len() > 1000, "the sources were not found");
    lines
}

fn collect(dir: &Path, into: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).unwrap() {
        let path = entry.unwrap().path();
        if path.ends_with("generated") {
            continue;
        }
        if path.is_dir() {
            collect(&path, into);
        } else if path.extension().is_some_and(|extension| extension == "rs") && !path.ends_with("tests.rs") {
            into.push(path);
        }
    }
}

/// The top-level module a file belongs to.
fn module_of(file: &Path) -> String {
    let inner = file.strip_prefix("src").unwrap();
    let first = inner.components().next().unwrap().as_os_str().to_str().unwrap();
    first.trim_end_matches(".rs").to_owned()
}

/// The modules a line names after `crate::`, groups included.
fn named(text: &str) -> BTreeSet<String> {
    let mut names = BTreeSet::new();
    for prefix in ["crate::", "order_service::"] {
        for (at, _) in text.match_indices(prefix) {
            let rest = &text[at + prefix.len()..];
            match rest.strip_prefix('{') {
                Some(group) => {
                    // `{a, b::{c, d}}`: names at depth 0.
                    let mut depth = 0;
                    let mut name = String::new();
                    for c in group.chars() {
                        match c {
                            '{' => depth += 1,
                            '}' if depth == 0 => break,
                            '}' => depth -= 1,
                            ',' if depth == 0 => {
                                names.insert(head(&std::mem::take(&mut name)));
                            }
                            c if depth == 0 => name.push(c),
                            _ => {}
                        }
                    }
                    names.insert(head(&name));
                }
                None => {
                    names.insert(head(rest));
                }
            }
        }
    }
    names.retain(|name| !name.is_empty());
    names
}

fn head(path: &str) -> String {
    path.trim().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
}

fn floor(module: &str) -> usize {
    FLOORS.iter().position(|floor| floor.contains(&module)).unwrap_or_else(|| panic!("{module} is on no floor"))
}

#[test]
fn imports_lead_down_and_are_listed() {
    let edges: BTreeMap<&str, &[&str]> = EDGES.iter().copied().collect();
    for (module, targets) in EDGES {
        for target in *targets {
            assert!(floor(target) < floor(module), "the table itself: {module} -> {target} does not lead down");
        }
    }
    let mut wrong = Vec::new();
    let mut used = BTreeSet::new();
    for line in lines() {
        let module = module_of(&line.file);
        if module == "lib" {
            continue;
        }
        let allowed = edges.get(module.as_str()).unwrap_or_else(|| panic!("{module} is not in the table"));
        for name in named(&line.text) {
            if name == module || name.starts_with("macro_") {
                continue;
            }
            used.insert((module.clone(), name.clone()));
            if !allowed.contains(&name.as_str()) {
                wrong.push(format!("{}:{}: {module} -> {name}", line.file.display(), line.number));
            }
        }
    }
    assert!(wrong.is_empty(), "edges that are not in the table:\n{}", wrong.join("\n"));
    let mut unused = Vec::new();
    for (module, targets) in EDGES {
        for target in *targets {
            if !used.contains(&((*module).to_owned(), (*target).to_owned())) {
                unused.push(format!("{module} -> {target}"));
            }
        }
    }
    assert!(unused.is_empty(), "the table lists what is not used any more:\n{}", unused.join("\n"));
}

/// `src/cache/view.rs` and `src/cache/view/mod.rs` are `cache::view`.
fn module_path(file: &Path) -> Vec<String> {
    let inner = file.strip_prefix("src").unwrap().with_extension("");
    let mut path: Vec<String> = inner.iter().map(|part| part.to_str().unwrap().to_owned()).collect();
    path.pop_if(|last| last == "mod");
    path
}

/// The paths that begin with `crate` or `super`, groups of imports spelled out.
fn paths(text: &str) -> Vec<Vec<String>> {
    fn spell(text: &str, mut prefix: Vec<String>, into: &mut Vec<Vec<String>>) {
        let mut rest = text.trim_start();
        loop {
            if let Some(group) = rest.strip_prefix('{') {
                let mut depth = 0;
                let mut from = 0;
                for (at, c) in group.char_indices() {
                    match c {
                        '{' => depth += 1,
                        '}' if depth > 0 => depth -= 1,
                        ',' | '}' if depth == 0 => {
                            spell(&group[from..at], prefix.clone(), into);
                            from = at + 1;
                            if c == '}' {
                                return;
                            }
                        }
                        _ => {}
                    }
                }
                return;
            }
            let name = head(rest);
            if name.is_empty() {
                break;
            }
            rest = &rest[name.len()..];
            prefix.push(name);
            let Some(next) = rest.strip_prefix("::") else { break };
            rest = next;
        }
        into.push(prefix);
    }
    let mut paths = Vec::new();
    for start in ["crate::", "super::"] {
        for (at, _) in text.match_indices(start) {
            if !text[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == ':') {
                spell(&text[at..], Vec::new(), &mut paths);
            }
        }
    }
    paths
}

/// A file can be read and tested after those that it imports. A module and the files inside it may name each other.
#[test]
fn files_do_not_import_each_other_in_a_circle() {
    let mut texts: BTreeMap<PathBuf, String> = BTreeMap::new();
    for line in lines() {
        let code = line.text.split("//").next().unwrap_or_default();
        let text = texts.entry(line.file).or_default();
        text.push_str(code);
        text.push('\n');
    }
    let by_module: BTreeMap<Vec<String>, &PathBuf> = texts.keys().map(|file| (module_path(file), file)).collect();
    let imports = |file: &PathBuf, text: &str| -> BTreeSet<&PathBuf> {
        let own = module_path(file);
        let target = |path: Vec<String>| {
            let ups = path.iter().take_while(|name| *name == "super").count();
            let from = if ups == 0 { &[][..] } else { &own[..own.len().checked_sub(ups)?] };
            let skipped = ups.max(1); // `crate` is one
            let whole = [from, &path[skipped..]].concat();
            let (module, target) = (1..=whole.len()).rev().find_map(|len| by_module.get_key_value(&whole[..len]))?;
            (!own.starts_with(module) && !module.starts_with(&own)).then_some(*target)
        };
        paths(text).into_iter().filter_map(target).collect()
    };
    let imports: BTreeMap<&PathBuf, BTreeSet<&PathBuf>> =
        texts.iter().map(|(file, text)| (file, imports(file, text))).collect();
    assert!(imports.values().map(BTreeSet::len).sum::<usize>() > 500, "the imports were not found");
    let mut wrong = Vec::new();
    for file in texts.keys() {
        let mut reached = BTreeSet::new();
        let mut next = vec![file];
        while let Some(at) = next.pop() {
            next.extend(imports[at].iter().filter(|to| reached.insert(**to)));
        }
        if reached.contains(file) {
            wrong.push(file.display().to_string());
        }
    }
    assert!(wrong.is_empty(), "these import each other in a circle:\n{}", wrong.join("\n"));
}

#[test]
fn readers_never_name_orders() {
    for line in lines() {
        let module = module_of(&line.file);
        if NEVER_ORDER.contains(&module.as_str()) || line.file.starts_with("src/replication/follow") {
            let names = named(&line.text);
            assert!(!names.contains("order"), "{}:{}: {module} names order", line.file.display(), line.number);
        }
    }
}

#[test]
fn clients_and_the_outside_are_named_by_their_adapters_only() {
    for line in lines() {
        let file = line.file.to_str().unwrap();
        for (name, homes) in CLIENTS.iter().chain(OUTSIDE) {
            let is_path = format!("{name}::");
            let needle = if name.ends_with("::") { *name } else { is_path.as_str() };
            let is_named = line
                .text
                .match_indices(needle)
                .any(|(at, _)| !line.text[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_'));
            let is_home = homes.iter().any(|home| file.starts_with(home));
            assert!(!is_named || is_home, "{file}:{}: {name} belongs to {homes:?}", line.number);
        }
    }
}

/// Who counts has the family, so that a part that is not there shows none.
#[test]
fn the_registry_names_no_family_but_those_of_the_process() {
    let is_family = |word: &&str| word.contains('_') && word.chars().all(|c| c.is_ascii_lowercase() || c == '_');
    let (mut own, mut others) = (0, Vec::new());
    for line in lines().iter().filter(|line| line.file.starts_with("src/metrics")) {
        for family in line.text.split('"').skip(1).step_by(2).filter(is_family) {
            if family.starts_with("process_") {
                own += 1;
            } else {
                others.push(format!("{}:{}: {family}", line.file.display(), line.number));
            }
        }
    }
    assert!(others.is_empty() && own >= 5, "{own} of the process, and of others\n{}", others.join("\n"));
}

#[test]
fn every_file_says_what_it_owns() {
    let mut files = Vec::new();
    collect(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut files);
    for file in files {
        let text = std::fs::read_to_string(&file).unwrap();
        assert!(text.starts_with("//! "), "{} does not open with //!", file.display());
    }
}

/// The tables of `docs/glossary.md`: term, what it stands in place of, where.
fn glossary() -> (String, Vec<[String; 3]>) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/glossary.md");
    let text = std::fs::read_to_string(path).unwrap();
    let row = |line: &str| {
        let cells: Vec<&str> = line.trim_matches('|').split('|').map(str::trim).collect();
        let [_, term, instead_of, place] = cells[..] else { return None };
        term.starts_with('`').then(|| [term, instead_of, place].map(str::to_owned))
    };
    let rows: Vec<_> = text.lines().filter_map(row).collect();
    assert!(rows.len() > 20, "the glossary's table was not found");
    (text, rows)
}

/// The names that a line declares: types, functions, modules, constants, variants and fields.
fn declared(text: &str) -> Option<String> {
    let words: Vec<&str> = text.split(|c: char| !(c.is_alphanumeric() || c == '_')).filter(|w| !w.is_empty()).collect();
    let at = words.iter().position(|word| ["struct", "enum", "trait", "type", "fn", "mod"].contains(word))?;
    words.get(at + 1).map(|name| (*name).to_owned())
}

fn snake(name: &str) -> String {
    let mut snake = String::new();
    for c in name.chars() {
        if c.is_uppercase() && !snake.is_empty() {
            snake.push('_');
        }
        snake.extend(c.to_lowercase());
    }
    snake
}

#[test]
fn nothing_is_named_by_a_word_that_the_glossary_replaces() {
    let (_, rows) = glossary();
    let declared: Vec<(PathBuf, usize, String)> = lines()
        .into_iter()
        .filter_map(|line| declared(&line.text).map(|name| (line.file, line.number, snake(&name))))
        .collect();
    let mut wrong = Vec::new();
    for [terms, instead_of, places] in rows {
        for term in terms.split('`').filter(|term| term.chars().any(char::is_alphanumeric)) {
            let is_there = lines().iter().any(|line| line.text.contains(term));
            assert!(is_there, "the glossary has {term}, which does not occur");
        }
        for name in instead_of.split(',').map(str::trim) {
            for (file, line, _) in declared.iter().filter(|(_, _, known)| known == name) {
                if places.split(' ').any(|place| file.starts_with(place.trim_end_matches('/'))) {
                    wrong.push(format!("{}:{line}: {name}; the term is {terms}", file.display()));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// In code, comments, tests, scripts, documents and the page.
#[test]
fn words_that_the_glossary_bans_do_not_occur() {
    let (text, _) = glossary();
    let (_, banned) = text.split_once("<!-- banned: ").expect("the list of words");
    let (banned, _) = banned.split_once(" -->").expect("its end");
    let banned: Vec<&str> = banned.split(", ").collect();
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut files = Vec::new();
    for place in ["src", "tests", "benches", "loadtest", "docs", "deploy", "web", ".ci", ".github"] {
        texts(&root.join(place), &mut files);
    }
    files.extend(
        ["README.md", "CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md", "Makefile", "Cargo.toml"]
            .map(|name| root.join(name)),
    );
    let mut wrong = Vec::new();
    for file in files {
        let Ok(text) = std::fs::read_to_string(&file) else { continue };
        for (index, line) in text.lines().enumerate() {
            let line = line.to_lowercase();
            for word in &banned {
                let is_whole = |at: usize| {
                    let is_part = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
                    !is_part(line[..at].chars().next_back()) && !is_part(line[at + word.len()..].chars().next())
                };
                if line.match_indices(word).any(|(at, _)| is_whole(at)) {
                    wrong.push(format!("{}:{}: {word}", file.display(), index + 1));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Text files that are written here, the glossary and this list left out.
fn texts(dir: &Path, into: &mut Vec<PathBuf>) {
    for entry in std::fs::read_dir(dir).into_iter().flatten() {
        let path = entry.unwrap().path();
        let name = path.file_name().unwrap_or_default();
        if ["node_modules", "swagger", "generated", "target", "results"].iter().any(|skipped| name == *skipped) {
            continue;
        }
        if path.is_dir() {
            texts(&path, into);
        } else if !path.ends_with("docs/glossary.md") && !path.ends_with("package-lock.json") {
            into.push(path);
        }
    }
}
