//! Limits that the owner of a database sets for its clients.

use super::LONG;
use crate::database::Database;
use crate::server::{Server, until};

/// A service on such a database was never warm: its transactions were ended between two statements.
#[test]
fn limits_for_idle_clients_of_the_database_end_nothing_of_ours() {
    let Some(database) = Database::create() else { return };
    let url = database.url();
    let name = database.name();
    for limit in ["idle_in_transaction_session_timeout", "lock_timeout"] {
        database.query(&format!("ALTER DATABASE {name} SET {limit} = '1ms'"));
    }
    // Long enough to log in and to say that it does not hold, on a busy machine too.
    database.query(&format!("ALTER DATABASE {name} SET idle_session_timeout = '3s'"));
    let flags = ["--postgres", url.as_str(), "--profile", "lenient"];
    let mut server = Server::start(&flags);
    let lines: String = (0..2000).map(|n| format!("{{\"order_uid\":\"limit-{n}\"}}\n")).collect();
    server.request("POST", "/orders", &[("Content-Type", "application/x-ndjson")], lines).expect(200);
    server.restart();
    let other = Server::start(&flags);
    other.post("/orders", r#"{"order_uid":"limit-0","n":1}"#).expect(200);
    until("it follows", LONG, || {
        (server.get("/order/limit-0").expect(200).header("etag") == Some("\"2\"")).then_some(())
    });
    server.get("/order/limit-1999").expect(200);
    let idle = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() \
                AND application_name = 'order-service' AND now() - state_change > '4s'";
    until("a connection was idle for longer", LONG, || (database.query(idle) != ["0"]).then_some(()));
    for server in [&server, &other] {
        let log = server.log().join("\n");
        assert!(!log.contains("WARN\",\"message\":\"warm-up failed") && !log.contains("cannot ask"), "{log}");
    }
}
