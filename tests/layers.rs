//! Who may know whom: the table of the house, held against every `crate::` path in `src`. A new edge is a design
//! change and is made here first.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

/// Modules by floor, lowest first. An edge must lead strictly downward.
const FLOORS: &[&[&str]] = &[
    &["tls"],
    &["id", "metrics", "lifecycle", "log", "background", "kafka", "nats"],
    &["snapshot", "record", "ack", "stan", "listen"],
    &["order"],
    &["cache", "store", "outbox", "topics", "redis"],
    &["source"],
    &["ingest", "read", "warmup", "follow", "relay", "worker"],
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
    ("cli", &["settings", "app", "access", "tools", "store", "lifecycle", "log"]),
    // A server's URL is parsed by the store that connects to it.
    ("settings", &["app", "tools", "access", "store", "kafka", "nats", "stan", "redis", "listen", "tls", "lifecycle"]),
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
            "follow",
            "relay",
            "worker",
            "cache",
            "store",
            "source",
            "outbox",
            "topics",
            "redis",
            "ack",
            "snapshot",
            "record",
            "id",
            "metrics",
            "lifecycle",
            "log",
            "background",
            "kafka",
            "nats",
            "stan",
            "order",
            "listen",
            "tls",
        ],
    ),
    // Whose an order is, as a copy of it says.
    ("access", &["snapshot", "tls", "metrics", "lifecycle", "log"]),
    (
        "tools",
        &["ingest", "source", "store", "order", "record", "tls", "metrics", "lifecycle", "kafka", "nats", "stan"],
    ),
    // The surfaces know what they say and whom they ask; `store` is here for the words a write is answered with.
    (
        "http",
        &[
            "access",
            "read",
            "source",
            "store",
            "cache",
            "snapshot",
            "record",
            "ack",
            "id",
            "listen",
            "tls",
            "metrics",
            "lifecycle",
            "log",
        ],
    ),
    (
        "grpc",
        &[
            "access",
            "read",
            "source",
            "store",
            "snapshot",
            "record",
            "ack",
            "id",
            "listen",
            "metrics",
            "lifecycle",
            "log",
        ],
    ),
    ("admin", &["access", "listen", "metrics", "lifecycle"]),
    // Sockets, with what encrypts them.
    ("listen", &["tls"]),
    (
        "ingest",
        &[
            "source",
            "store",
            "cache",
            "outbox",
            "redis",
            "order",
            "snapshot",
            "record",
            "id",
            "metrics",
            "lifecycle",
            "log",
        ],
    ),
    ("read", &["cache", "store", "redis", "snapshot", "id", "lifecycle", "background"]),
    ("warmup", &["cache", "store", "lifecycle", "log", "background"]),
    // What is published of changes, and whether it is.
    ("follow", &["cache", "store", "outbox", "redis", "snapshot", "id", "lifecycle", "log"]),
    (
        "relay",
        &[
            "store",
            "topics",
            "outbox",
            "redis",
            "order",
            "snapshot",
            "record",
            "id",
            "kafka",
            "metrics",
            "lifecycle",
            "log",
        ],
    ),
    ("worker", &["source", "store", "outbox", "order", "snapshot", "record", "id"]),
    ("source", &["store", "order", "snapshot", "record", "ack", "id", "kafka", "nats", "stan", "metrics", "lifecycle"]),
    // What is published, without how; and topics that instances speak to each other by, without what.
    ("outbox", &["snapshot", "record", "id"]),
    ("topics", &["kafka", "lifecycle"]),
    ("redis", &["snapshot", "id", "tls", "metrics"]),
    ("ack", &["id"]),
    ("kafka", &[]),
    ("nats", &["tls"]),
    // Its servers are servers of NATS.
    ("stan", &["nats"]),
    ("store", &["order", "snapshot", "record", "id", "tls", "lifecycle", "log", "background"]),
    ("cache", &["snapshot", "id"]),
    ("order", &["record", "id"]),
    ("snapshot", &["id"]),
    ("record", &[]),
    ("id", &[]),
    ("metrics", &[]),
    ("lifecycle", &[]),
    ("log", &[]),
    ("background", &[]),
    ("tls", &[]),
];

/// Readers know bytes: these can never name an order, so none of them can serialize one again.
const NEVER_ORDER: &[&str] = &["cache", "redis", "read", "warmup", "follow", "access", "http", "grpc", "admin"];

/// Each third-party client is named by its adapters only.
const CLIENTS: &[(&str, &[&str])] = &[
    ("papaya", &["src/cache/"]),
    ("arc_swap", &["src/access/", "src/cache/"]),
    ("flate2", &["src/read/forms.rs"]),
    ("zstd", &["src/read/forms.rs"]),
    ("ring", &["src/access/", "src/tls/"]),
    ("ipnet", &["src/access/"]),
    ("rusqlite", &["src/store/embedded/"]),
    ("tokio_postgres", &["src/store/postgres/", "src/source/older/"]),
    ("bb8", &["src/store/postgres/"]),
    ("rdkafka", &["src/kafka.rs", "src/kafka/", "src/source/kafka/", "src/topics/", "src/tools/"]),
    ("redis_client", &["src/redis/"]),
    ("async_nats", &["src/nats.rs", "src/stan/", "src/source/nats/", "src/source/stan/", "src/tools/"]),
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
];

/// The only readers of the environment and of `.env`.
const OUTSIDE: &[(&str, &[&str])] = &[("std::env::", &["src/settings.rs"]), ("dotenvy", &["src/settings/dotenv.rs"])];

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
    assert!(unused.is_empty(), "the table lists what nobody uses any more:\n{}", unused.join("\n"));
}

#[test]
fn readers_never_name_orders() {
    for line in lines() {
        let module = module_of(&line.file);
        if NEVER_ORDER.contains(&module.as_str()) {
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

#[test]
fn every_file_says_what_it_owns() {
    let mut files = Vec::new();
    collect(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut files);
    for file in files {
        let text = std::fs::read_to_string(&file).unwrap();
        assert!(text.starts_with("//! "), "{} does not open with //!", file.display());
    }
}
