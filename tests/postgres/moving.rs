//! The commands of `docs/moving-databases.md`, read from there and run, a section after the other
//! on a database of its layout.

use std::process::{Child, Command, Stdio};

use super::LONG;
use crate::cli::Home;
use crate::database::Database;
use crate::server::until;

const DOCUMENT: &str = include_str!("../../docs/moving-databases.md");

/// A block of commands, and whether it is a service that goes on running.
struct Block {
    commands: String,
    is_service: bool,
}

/// The blocks of a section, in their order.
fn blocks(section: &str) -> Vec<Block> {
    let (_, text) = DOCUMENT.split_once(&format!("\n## {section}\n")).unwrap_or_else(|| panic!("no section {section}"));
    let text = text.split_once("\n## ").map_or(text, |(text, _)| text);
    let block = |text: &str| {
        let (kind, commands) = text.split_once('\n').unwrap();
        let is_service = kind == "sh serve";
        assert!(is_service || kind == "sh", "a block of {kind:?}");
        Block { commands: commands.to_owned(), is_service }
    };
    let blocks: Vec<_> = text.split("```").skip(1).step_by(2).map(block).collect();
    assert!(!blocks.is_empty(), "{section} has no commands");
    blocks
}

/// A shell in which the names of the document mean this database, and an address of it a free port.
fn shell(home: &Home, database: &Database, commands: &str) -> Command {
    let binary = std::path::Path::new(env!("CARGO_BIN_EXE_order-service")).parent().unwrap();
    let path = format!("{}:{}", binary.display(), std::env::var("PATH").unwrap());
    let mut command = Command::new("bash");
    let commands = commands.replace("127.0.0.1:8090", "127.0.0.1:0");
    command.args(["-euo", "pipefail", "-c", &commands]).current_dir(home.path()).env_clear().env("PATH", path);
    command.env("OLD", database.url()).env("NEW", database.url()).stdin(Stdio::null()).stdout(Stdio::piped());
    command.stderr(Stdio::piped());
    command
}

fn run(home: &Home, database: &Database, commands: &str) -> String {
    let output = shell(home, database, commands).output().unwrap();
    let told = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{commands}\n{told}");
    told
}

/// A service that a section starts, which ends with it.
struct Service(Child);

impl Drop for Service {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runs a section. `meanwhile` happens between its second import and what comes after.
fn follow(section: &str, database: &Database, meanwhile: &str) {
    let home = Home::new();
    let mut service = None;
    let mut imports = 0;
    for Block { commands, is_service } in blocks(section) {
        if is_service {
            let mut command = shell(&home, database, &format!("exec {}", commands.trim()));
            let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
            service = Some(Service(child));
            until("the service has its schema", LONG, || {
                (database.query("SELECT to_regclass('moved.orders')") == ["moved.orders"]).then_some(())
            });
            continue;
        }
        let told = run(&home, database, &commands);
        imports += commands.matches("import --from-postgres \"$OLD\" --postgres").count();
        if commands.contains("--dry-run") {
            assert!(told.contains("1000 valid"), "{told}");
        } else if imports == 2 && !meanwhile.is_empty() && commands.contains("import --from") {
            database.query(meanwhile);
        }
    }
    assert_eq!(imports, 2, "{section}");
    let mut service = service.expect("a service beside the older one");
    assert!(service.0.try_wait().unwrap().is_none(), "the service runs beside all of it");
}

#[test]
fn the_commands_for_four_tables_move_them_and_back() {
    let Some(database) = Database::create() else { return };
    database.query(include_str!("../older/four_tables.sql"));
    database.query("DELETE FROM orders WHERE order_uid !~ 'test'");
    // An order of the new service alone.
    let body = r#"{"order_uid":"came","delivery":{"name":"n"},"payment":{"transaction":"came"},"items":[{"chrt_id":1},{"chrt_id":2}]}"#;
    let came = insert(body);
    follow("Four tables", &database, &came);
    assert_eq!(database.query("SELECT count(*) FROM orders"), ["1001"], "and back");
    let items = "SELECT string_agg(chrt_id::text, ' ' ORDER BY id) FROM items WHERE order_uid = 'came'";
    assert_eq!(database.query(items), ["1 2"]);
    assert_eq!(database.query("SELECT count(*) FROM delivery WHERE order_uid = 'came'"), ["1"]);
    assert_eq!(database.query("SELECT count(*) FROM delivery"), ["1001"], "no part came twice");
    let home = Home::new();
    for Block { commands, .. } in blocks("When it is done") {
        let told = run(&home, &database, &commands);
        assert!(told.contains("took back [2001]"), "{told}");
    }
}

#[test]
fn the_commands_for_one_table_move_it_and_back() {
    let Some(database) = Database::create() else { return };
    database.query(include_str!("../older/one_table.sql"));
    follow("One table", &database, &insert(r#"{"order_uid":"came","delivery":{"city":"c"}}"#));
    assert_eq!(database.query("SELECT delivery ->> 'city' FROM orders WHERE order_uid = 'came'"), ["c"]);
    assert_eq!(database.query("SELECT count(*) FROM orders"), ["1001"]);
}

#[test]
fn the_commands_for_event_driven_orders_move_them_and_back() {
    let Some(database) = Database::create() else { return };
    database.query(include_str!("../older/event_driven.sql"));
    database.query("DELETE FROM orders WHERE jsonb_typeof(payload) IS DISTINCT FROM 'object' OR status = 'lost'");
    let changed = "UPDATE moved.orders SET status = 'cancelled', updated_at = now() WHERE order_uid =
                   (SELECT min(order_uid) FROM moved.orders WHERE status = 'new')";
    follow("Event-driven", &database, changed);
    assert_eq!(database.query("SELECT count(*) FROM orders WHERE updated_at > '2025-06-01'"), ["1"]);
    assert_eq!(database.query("SELECT count(*) FROM orders"), ["1000"]);
}

#[test]
fn each_layout_of_the_table_names_tests_that_there_are() {
    let sources = [include_str!("older.rs"), include_str!("views.rs")].concat();
    let rows: Vec<_> = DOCUMENT.lines().filter(|line| line.starts_with("| [")).collect();
    assert_eq!(rows.len(), 3);
    for row in rows {
        let tests: Vec<_> = row.split('|').skip(3).flat_map(|cell| cell.split('`').skip(1).step_by(2)).collect();
        assert!(tests.len() >= 2, "{row}");
        for test in tests {
            assert!(sources.contains(&format!("fn {test}()")), "{test}");
        }
    }
}

/// A WB order as if the new service had taken it.
fn insert(body: &str) -> String {
    format!(
        "INSERT INTO moved.orders (order_uid, seq, version, changed_in, kind, state, created_at, updated_at, source, body)
         VALUES ('came', 1, 1, 0, 0, 0, now(), now(), 'test', convert_to('{body}', 'UTF8'))"
    )
}
