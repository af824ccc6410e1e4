//! `export` from PostgreSQL, with the connection lost in the middle.

use std::io::Read;
use std::process::Stdio;

use crate::cli::{Done, Home};
use crate::database::Database;
use crate::server::{SIGNAL_TIME, binary, until};

/// More than what waits in sockets and pipes between the database and a reader who does not read.
const ORDERS: usize = 300;
const FILL_BYTES: usize = 200_000;

#[test]
fn an_export_whose_database_goes_away_fails_and_says_how_far_it_came() {
    let Some(database) = Database::create() else { return };
    let (home, url) = (Home::new(), database.url());
    let line = |n| format!("{{\"order_uid\":\"x-{n}\",\"fill\":\"{}\"}}\n", "y".repeat(FILL_BYTES));
    home.write("orders.ndjson", (0..ORDERS).map(line).collect::<String>());
    home.run(&["import", "orders.ndjson", "--profile", "lenient", "--postgres", &url]).expect(0);
    let arguments = ["export", "--postgres", &url];
    let mut child = binary(home.path()).args(arguments).stdout(Stdio::piped()).spawn().unwrap();
    // It has begun, and waits for its reader.
    let mut out = child.stdout.take().unwrap();
    out.read_exact(&mut [0; 1]).unwrap();
    let ended = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
                 WHERE datname = current_database() AND query LIKE 'SELECT body FROM orders%'";
    until("the export's connection is ended", SIGNAL_TIME, || (!database.query(ended).is_empty()).then_some(()));
    let mut lines = String::new();
    out.read_to_string(&mut lines).unwrap();
    let done = Done::wait(child, &arguments).expect(1);
    let whole = lines.lines().count();
    assert!(whole < ORDERS && lines.ends_with('\n'), "{whole}");
    assert!(done.err.contains(&format!("ended after {whole} of {ORDERS} orders")), "{}", done.err);
}
