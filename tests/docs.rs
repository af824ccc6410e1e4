//! Documents, held against what they describe: links, anchors, paths of files, names in files, alerts, commands, flags,
//! metrics and figures. What `docs/moving.md` says is held in `deploy`, and the commands of `docs/security.md` and
//! `docs/moving-databases.md` are run in `tls` and `postgres`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use order_service::settings::{Outside, SETTINGS, Settings, commands};

use crate::deploy::{read, root, sources, yaml};

/// Every Markdown file of the repository, by its path in it.
fn documents() -> BTreeMap<PathBuf, String> {
    fn collect(directory: &Path, into: &mut BTreeMap<PathBuf, String>) {
        for path in fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()) {
            let inner = path.strip_prefix(root()).unwrap();
            let is_ours = !["target", ".git", "data", "web/swagger"].iter().any(|other| inner == Path::new(other))
                && !path.ends_with("node_modules");
            if path.is_dir() && is_ours {
                collect(&path, into);
            } else if path.extension().is_some_and(|extension| extension == "md") {
                into.insert(inner.to_owned(), fs::read_to_string(&path).unwrap());
            }
        }
    }
    let mut documents = BTreeMap::new();
    collect(&root(), &mut documents);
    assert!(documents.len() > 10, "only {:?} were found", documents.keys());
    documents
}

/// Lines outside of code blocks, and the blocks that `sh` begins.
fn prose_and_commands(text: &str) -> (String, Vec<String>) {
    let (mut prose, mut blocks) = (String::new(), Vec::new());
    let mut fence: Option<&str> = None;
    for line in text.lines() {
        if let Some(language) = line.trim_start().strip_prefix("```") {
            fence = if fence.is_some() { None } else { Some(language) };
            blocks.extend((fence == Some("sh")).then(String::new));
            continue;
        }
        let into = match fence {
            None => &mut prose,
            Some("sh") => blocks.last_mut().unwrap(),
            Some(_) => continue,
        };
        into.push_str(line);
        into.push('\n');
    }
    assert!(fence.is_none(), "a code block has no end");
    (prose, blocks)
}

/// What is between backticks; a span never goes over the end of a paragraph.
fn spans(prose: &str) -> impl Iterator<Item = &str> {
    prose.split("\n\n").flat_map(|paragraph| paragraph.split('`').skip(1).step_by(2))
}

/// Prose without what is between backticks, where brackets and parentheses are no links.
fn without_spans(prose: &str) -> String {
    prose.split("\n\n").flat_map(|paragraph| paragraph.split('`').step_by(2).chain(["\n\n"])).collect()
}

/// The targets of all links and images.
fn links(text: &str) -> Vec<String> {
    let plain = without_spans(&prose_and_commands(text).0);
    plain.split("](").skip(1).map(|rest| rest.split_once(')').expect("a link has an end").0.to_owned()).collect()
}

/// The anchors of a document's headings, as GitHub makes them.
fn anchors(text: &str) -> BTreeSet<String> {
    let mut anchors = BTreeSet::new();
    for heading in prose_and_commands(text).0.lines().filter(|line| line.starts_with('#')) {
        let heading = heading.trim_start_matches('#').trim().to_lowercase();
        let kept = heading.chars().filter(|c| c.is_alphanumeric() || matches!(c, ' ' | '-' | '_'));
        let anchor: String = kept.map(|c| if c == ' ' { '-' } else { c }).collect();
        assert!(anchors.insert(anchor), "{heading}: two headings have one anchor");
    }
    anchors
}

/// A path without `.` and `..`.
fn resolved(path: &Path) -> PathBuf {
    let mut resolved = PathBuf::new();
    for part in path.components() {
        match part {
            std::path::Component::ParentDir => assert!(resolved.pop(), "{}: leads out", path.display()),
            std::path::Component::CurDir => {}
            part => resolved.push(part),
        }
    }
    resolved
}

#[test]
fn every_link_leads_to_a_file_and_a_heading_and_every_document_is_reached_from_the_readme() {
    let documents = documents();
    let mut wrong = Vec::new();
    let mut leads: BTreeMap<&Path, Vec<PathBuf>> = BTreeMap::new();
    let mut count = 0;
    for (from, text) in &documents {
        for link in links(text) {
            if link.starts_with("https://") || link.starts_with("http://") {
                continue;
            }
            count += 1;
            let (path, anchor) = link.split_once('#').map_or((&*link, None), |(path, anchor)| (path, Some(anchor)));
            let to = if path.is_empty() { from.clone() } else { resolved(&from.parent().unwrap().join(path)) };
            if !root().join(&to).exists() {
                wrong.push(format!("{}: {link}: no such file", from.display()));
            } else if let Some(anchor) = anchor
                && !documents.get(&to).is_some_and(|text| anchors(text).contains(anchor))
            {
                wrong.push(format!("{}: {link}: no such heading", from.display()));
            }
            leads.entry(from).or_default().push(to);
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(count > 60, "only {count} links were found");
    let mut reached = BTreeSet::new();
    let mut open = vec![PathBuf::from("README.md")];
    while let Some(document) = open.pop() {
        open.extend(leads.get(&*document).into_iter().flatten().filter(|to| !reached.contains(*to)).cloned());
        reached.insert(document);
    }
    let lost: Vec<_> =
        documents.keys().filter(|path| !path.starts_with(".github") && !reached.contains(*path)).collect();
    assert!(lost.is_empty(), "the README does not lead to {lost:?}");
}

#[test]
fn links_and_anchors_are_found() {
    let text = "# A `b`, c\n[x](y.md#z) ![i\nj](k.png) `[no](link)`\n```sh\n[no](link) # no heading\n```\n## Äb_c-d\n";
    assert_eq!(links(text), ["y.md#z", "k.png"]);
    assert_eq!(anchors(text).into_iter().collect::<Vec<_>>(), ["a-b-c", "äb_c-d"]);
}

/// The paths of this repository that a text names.
fn paths(text: &str) -> BTreeSet<&str> {
    const PLACES: [&str; 10] =
        ["src/", "tests/", "benches/", "deploy/", "docs/", "loadtest/", "migrations/", "web/", ".ci/", ".github/"];
    let is_path = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-' | '.' | '/' | '*');
    let mut paths = BTreeSet::new();
    for word in text.split(|c: char| !is_path(c)) {
        if PLACES.iter().any(|place| word.starts_with(place)) {
            paths.insert(word.trim_end_matches(['.', '-', '/']));
        }
    }
    paths
}

fn is_there(path: &str) -> bool {
    let Some((directory, name)) = path.rsplit_once('/').filter(|(_, name)| name.contains('*')) else {
        return root().join(path).exists();
    };
    let (start, end) = name.split_once('*').unwrap();
    let names = fs::read_dir(root().join(directory)).into_iter().flatten().map(|entry| entry.unwrap().file_name());
    names.map(|name| name.into_string().unwrap()).any(|name| name.starts_with(start) && name.ends_with(end))
}

#[test]
fn every_path_that_is_named_is_there() {
    let mut texts = documents();
    texts.insert("src/lib.rs".into(), read("src/lib.rs"));
    let mut count = 0;
    let mut wrong = Vec::new();
    for (from, text) in &texts {
        for path in paths(text) {
            count += 1;
            if !is_there(path) {
                wrong.push(format!("{}: {path}", from.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "there is no\n{}", wrong.join("\n"));
    assert!(count > 150, "only {count} paths were found");
    assert!(is_there("src/grpc/*.proto") && !is_there("src/grpc/*.none") && !is_there("src/none.rs"));
}

/// Rows of a table, each as its cells, without its head.
fn rows<'t>(text: &'t str, heading: &str) -> Vec<Vec<&'t str>> {
    let (_, section) = text.split_once(&format!("\n{heading}\n")).unwrap_or_else(|| panic!("{heading} is not there"));
    let section = section.split("\n#").next().unwrap();
    let lines = section.lines().filter(|line| line.starts_with('|'));
    lines.skip(2).map(|line| line.trim_matches('|').split('|').map(str::trim).collect()).collect()
}

/// Whether a source defines something of this name.
fn defines(source: &str, name: &str) -> bool {
    ["fn", "struct", "enum", "trait", "const", "static", "type"].iter().any(|kind| {
        source
            .match_indices(&format!("{kind} {name}"))
            .any(|(at, found)| !source[at + found.len()..].starts_with(|c: char| c.is_alphanumeric() || c == '_'))
    })
}

/// A reader who asks where something is opens the document, then that file.
#[test]
fn the_table_of_the_architecture_leads_to_what_it_names() {
    let text = read("docs/architecture.md");
    let rows = rows(&text, "## Where to find it");
    for question in [
        "a header is added to every answer of an order",
        "a setting is declared: key, flag, variables, default",
        "a Kafka message is rejected",
        "a batch is retried",
        "an order leaves the view",
    ] {
        assert!(rows.iter().any(|row| row[0] == question), "{question}: no row");
    }
    for row in rows {
        let [question, files, names] = row[..] else { panic!("{row:?}") };
        let texts: Vec<String> = spans(files).map(read).collect();
        let names: Vec<&str> = spans(names).collect();
        assert!(!texts.is_empty() && !names.is_empty(), "{question}: leads nowhere");
        for name in &names {
            assert!(texts.iter().any(|text| defines(text, name)), "{question}: {name} is not in {files}");
        }
        for (text, file) in texts.iter().zip(spans(files)) {
            assert!(names.iter().any(|name| defines(text, name)), "{question}: nothing of it is in {file}");
        }
    }
    assert!(defines("pub const fn judge(", "judge") && !defines("fn judged(", "judge"));
}

/// Every module of the crate is on the floors of the document.
#[test]
fn every_module_is_on_a_floor_of_the_architecture() {
    let text = read("docs/architecture.md");
    let rows = rows(&text, "## Floors");
    let named: BTreeSet<&str> = rows.iter().flat_map(|row| row.iter().flat_map(|cell| spans(cell))).collect();
    for entry in fs::read_dir(root().join("src")).unwrap() {
        let name = entry.unwrap().file_name().into_string().unwrap();
        let module = name.trim_end_matches(".rs");
        let is_named = [format!("src/{module}"), format!("src/{module}.rs")].iter().any(|path| named.contains(&**path));
        assert!(is_named || module == "lib", "{name} is on no floor");
    }
}

#[test]
fn every_alert_leads_to_its_section_of_the_runbook() {
    let text = read("docs/operations.md");
    let (before, runbook) = text.split_once("\n## Runbook\n").expect("a runbook");
    let alerts = yaml("deploy/prometheus/alerts.yml");
    let mut names = BTreeSet::new();
    for group in alerts["groups"].as_array().unwrap() {
        for rule in group["rules"].as_array().unwrap().iter().filter(|rule| rule["alert"].is_string()) {
            let name = rule["alert"].as_str().unwrap();
            let url =
                rule["annotations"]["runbook_url"].as_str().unwrap_or_else(|| panic!("{name} has no runbook_url"));
            let anchor = name.to_lowercase();
            assert_eq!(url, format!("{}/blob/main/docs/operations.md#{anchor}", env!("CARGO_PKG_REPOSITORY")));
            assert!(anchors(runbook).contains(&anchor) && !anchors(before).contains(&anchor), "{name} has no section");
            let section = runbook.split(&format!("\n### {name}\n")).nth(1).unwrap().split("\n##").next().unwrap();
            assert!(section.contains("\n1. "), "{name}: its section says nothing to do");
            let severity = rule["labels"]["severity"].as_str().unwrap();
            let told = section.split("\n\n").next().unwrap().to_lowercase();
            assert!(told.trim_end().ends_with(&format!("{severity}.")), "{name}: it is {severity}");
            names.insert(name.to_owned());
        }
    }
    let sections: BTreeSet<_> =
        runbook.lines().filter_map(|line| line.strip_prefix("### ").map(str::to_owned)).collect();
    assert_eq!(sections, names, "a section without an alert");
}

/// The words of a command line, as a shell takes them: up to a comment, a pipe or a redirection.
fn words(line: &str) -> Vec<String> {
    let mut words = vec![String::new()];
    let mut quote = None;
    for c in line.chars() {
        match quote {
            Some(open) if c == open => quote = None,
            None if c == '\'' || c == '"' => quote = Some(c),
            None if c == ' ' => words.push(String::new()),
            None if matches!(c, '|' | '>' | '&') || (c == '#' && words.last().unwrap().is_empty()) => break,
            _ => words.last_mut().unwrap().push(c),
        }
    }
    words.retain(|word| !word.is_empty());
    words
}

#[test]
fn every_command_is_understood() {
    let mut count = 0;
    for document in ["README.md", "CONTRIBUTING.md", "SECURITY.md", "docs/interface.md", "docs/operations.md"] {
        for block in prose_and_commands(&read(document)).1 {
            for line in block.replace("\\\n", " ").lines() {
                let line = match line.strip_prefix("cargo run --release --") {
                    Some(arguments) => format!("order-service{arguments}"),
                    None => line.to_owned(),
                };
                if !line.starts_with("order-service ") {
                    continue;
                }
                count += 1;
                let matches = commands::command().try_get_matches_from(words(&line));
                let matches = matches.unwrap_or_else(|usage| panic!("{document}: {line}: {usage}"));
                match Settings::load(&matches, &Outside::default()) {
                    Ok(settings) => assert!(settings.unused.is_empty(), "{document}: {line}: {:?}", settings.unused),
                    // Its files are those of a reader.
                    Err(wrong) => assert!(wrong.0.iter().all(|fault| fault.contains(": /etc/")), "{line}: {wrong}"),
                }
            }
        }
    }
    assert!(count > 20, "only {count} commands were found");
    assert_eq!(words("a 'b c' \"d\" # e"), ["a", "b c", "d"]);
    assert_eq!(words("a >>b"), ["a"]);
}

/// Every flag of every command.
fn flags(command: &clap::Command, into: &mut BTreeSet<String>) {
    into.extend(command.get_arguments().filter_map(|argument| argument.get_long()).map(str::to_owned));
    for inner in command.get_subcommands() {
        flags(inner, into);
    }
}

#[test]
fn every_flag_and_variable_that_is_named_is_there() {
    let mut known = BTreeSet::from(["help".to_owned()]);
    flags(&commands::command(), &mut known);
    let variables: BTreeSet<&str> = SETTINGS.iter().flat_map(|setting| setting.env).copied().collect();
    let sources = sources();
    let mut count = 0;
    for document in ["README.md", "docs/interface.md", "docs/operations.md", "docs/architecture.md", "docs/security.md"]
    {
        let prose = prose_and_commands(&read(document)).0;
        for span in spans(&prose) {
            let is_variable =
                |word: &&str| ["ORDER_", "KAFKA_", "POSTGRES_", "REDIS_"].iter().any(|of| word.starts_with(of));
            if let Some(flag) = span.strip_prefix("--") {
                let flag = flag.split([' ', '=', '\n']).next().unwrap();
                // Docker compose's own.
                assert!(known.contains(flag) || span == "--profile cluster", "{document}: there is no --{flag}");
            } else if let Some(name) = Some(span).filter(is_variable) {
                let name = name.strip_suffix("_FILE").unwrap_or(name);
                let is_known = variables.contains(name) || sources.contains(&format!("\"{name}\""));
                assert!(is_known, "{document}: there is no {name}");
            } else {
                continue;
            }
            count += 1;
        }
    }
    assert!(count > 60, "only {count} were found");
}

/// A row that names no test promises something that may have ended long ago.
#[test]
fn each_row_of_the_security_document_names_tests_that_there_are_and_each_setting_is_described() {
    fn tests(directory: &Path, into: &mut BTreeSet<String>) {
        for path in fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()) {
            if path.is_dir() {
                tests(&path, into);
                continue;
            }
            let Some(text) = fs::read_to_string(&path).ok().filter(|_| path.extension().is_some_and(|of| of == "rs"))
            else {
                continue;
            };
            for rest in ["#[test]", "#[tokio::test"].iter().flat_map(|mark| text.split(mark).skip(1)) {
                let name = rest.split_once("fn ").unwrap().1.split('(').next().unwrap();
                into.insert(name.to_owned());
            }
        }
    }
    let mut known = BTreeSet::new();
    for directory in ["src", "tests"] {
        tests(&root().join(directory), &mut known);
    }
    let text = read("docs/security.md");
    let rows = rows(&text, "## Who could do what");
    assert!(rows.len() > 15, "only {} rows were found", rows.len());
    for row in rows {
        let [who, could, stops, shown] = row[..] else { panic!("{row:?}") };
        assert!(![could, stops].contains(&""), "{who}");
        let names: Vec<&str> = spans(shown).collect();
        assert!(!names.is_empty(), "{who}: no test is named");
        for name in names {
            let is_module = || root().join(format!("src/{}.rs", name.replace("::", "/"))).exists();
            let is_file = || name.starts_with("tests/") && root().join(name).exists();
            let function = name.rsplit("::").next().unwrap();
            assert!(known.contains(function) || is_module() || is_file(), "{who}: there is no test {name}");
        }
    }
    let is_of_security = |key: &str| {
        let part = key.split('.').next().unwrap();
        let last = key.rsplit('.').next().unwrap();
        ["tls", "auth", "audit", "rate_limit", "trusted_proxies", "listen", "admin"].contains(&part)
            || ["grpc.listen", "http.cors_origin"].contains(&key)
            || ["ca", "cert", "key", "nkey", "credentials"].contains(&last)
    };
    let settings = SETTINGS.iter().filter(|setting| is_of_security(setting.key));
    let prose = prose_and_commands(&text).0;
    let spans: BTreeSet<&str> = spans(&prose).collect();
    let mut count = 0;
    for setting in settings {
        let flag = format!("--{}", setting.flag);
        let has_flag = spans.iter().any(|span| span.split([' ', '=']).next() == Some(&flag));
        assert!(has_flag && spans.contains(setting.env[0]), "{flag} or {} is not described", setting.env[0]);
        count += 1;
    }
    assert!(count > 20, "only {count} were found");
}

#[test]
fn every_metric_of_the_operations_is_exported() {
    let text = read("docs/operations.md");
    let sources = sources();
    let mut count = 0;
    for of in ["requests", "the store", "intake", "what is published"] {
        for row in rows(&text, &format!("### Metrics of {of}")) {
            for name in spans(row[0]) {
                let name = name.split('{').next().unwrap();
                assert!(sources.contains(&format!("\"{name}\"")), "there is no metric {name}");
                count += 1;
            }
        }
    }
    assert!(count > 40, "only {count} metrics were found");
}

/// Numbers, with the commas and points inside them.
fn numbers(text: &str) -> BTreeSet<&str> {
    let parts = text.split(|c: char| !c.is_ascii_digit() && !matches!(c, '.' | ','));
    parts.map(|part| part.trim_matches(['.', ','])).filter(|part| !part.is_empty()).collect()
}

/// The README is for a newcomer's first three minutes. What it says of speed is a part of all figures.
#[test]
fn the_readme_is_short_and_its_figures_are_among_all() {
    let readme = read("README.md");
    let length = prose_and_commands(&readme).0.split_whitespace().count();
    assert!(length < 900, "{length} words are no three minutes");
    let performance = read("docs/performance.md");
    let all = numbers(&performance);
    let figures = rows(&readme, "## Figures");
    assert_eq!(figures.len(), 8);
    for row in figures {
        for number in numbers(row[1]) {
            assert!(all.contains(number), "{}: {number} is not in docs/performance.md", row[0]);
        }
    }
    assert_eq!(rows(&readme, "## What it answers").len(), 10);
    assert_eq!(numbers("p50 1.7 ms, 36,300.").into_iter().collect::<Vec<_>>(), ["1.7", "36,300", "50"]);
}

/// A cell that must be scrolled is not read.
#[test]
fn tables_of_figures_have_cells_that_a_person_can_read() {
    let performance = read("docs/performance.md");
    for line in performance.lines().filter(|line| line.starts_with('|')) {
        let cells = line.trim_matches('|').split('|').map(str::trim);
        let longest = cells.clone().map(|cell| cell.chars().count()).max().unwrap();
        assert!(longest <= 90, "{longest} characters: {line}");
    }
}

#[test]
fn the_workflow_runs_what_a_change_must_pass_and_the_toolchain_is_the_installed_one() {
    let workflow = yaml(".github/workflows/ci.yml");
    let job = &workflow["jobs"]["run"];
    let steps = job["steps"].as_array().unwrap();
    assert!(steps.iter().any(|step| step["run"] == ".ci/run"));
    let version = job["env"]["RUSTUP_TOOLCHAIN"].as_str().unwrap();
    assert_eq!(job["container"], format!("rust:{version}-bookworm"));
    assert!(version.starts_with(env!("CARGO_PKG_RUST_VERSION")), "{version} is not what Cargo.toml says");
    // Without a network nothing is to be fetched before a build: no pinned version, no component.
    let toolchain: toml::Table = toml::from_str(&read("rust-toolchain.toml")).unwrap();
    let toolchain = toolchain["toolchain"].as_table().unwrap();
    assert!(toolchain.len() == 1 && toolchain["channel"].as_str() == Some("stable"), "{toolchain:?}");
    for form in ["config", "defect", "wish"] {
        assert!(yaml(&format!(".github/ISSUE_TEMPLATE/{form}.yml")).is_object());
    }
}
