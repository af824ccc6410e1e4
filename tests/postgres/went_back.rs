//! A store that has lost what it had acknowledged: a failover to a server that lagged behind, a backup that was put back.

use super::LONG;
use crate::database::Database;
use crate::server::{Server, until};
use crate::servers::Private;

fn body(id: &str, n: u64) -> String {
    format!(r#"{{"order_uid":"{id}","n":{n}}}"#)
}

/// Writes some orders, after which the store goes back: "old" is at version 2, "kept" is as it was, "lost" is not there,
/// and "other" is at the version that is shown, with what another instance wrote after that.
fn go_back(server: &Server, database: &Database) {
    for id in ["old", "kept", "other"] {
        for n in 1..=5 {
            server.post("/orders", body(id, n));
        }
    }
    server.post("/orders", body("lost", 1)).expect(201);
    for (id, version, n) in [("old", 2, 2), ("other", 5, 77)] {
        let body = body(id, n);
        database.query(&format!(
            "UPDATE orders SET version = {version}, body = convert_to('{body}', 'UTF8') WHERE order_uid = '{id}'"
        ));
    }
    database.query("DELETE FROM orders WHERE order_uid = 'lost'");
}

fn is_as_stored(server: &Server, old: &str, etag: &str) -> Option<()> {
    let read = |id: &str| server.get(&format!("/order/{id}"));
    let shown = read("old").expect(200);
    let is_old = shown.text() == old && shown.header("etag") == Some(etag);
    // The version is the same, and the order another.
    let is_other = read("other").expect(200).text() == body("other", 77);
    (is_old && is_other && read("lost").status == 404).then_some(())
}

fn assert_the_rest(server: &Server) {
    assert_eq!(server.get("/order/kept").expect(200).text(), body("kept", 5));
    until("all is known again", LONG, || {
        let stats = server.get("/api/stats").expect(200).json();
        (stats["view_complete"] == true && stats["total_orders"] == 3).then_some(())
    });
    until("the list is without it", LONG, || {
        (!server.get("/api/orders").expect(200).text().contains("lost")).then_some(())
    });
    assert!(server.metric("store_went_back_orders_total") >= 3.0);
    assert!(server.log().iter().any(|line| line.contains("the store went back")), "{:?}", server.log());
}

/// The write was acknowledged and never shown, and its version stood for two bodies.
#[test]
fn a_write_that_the_store_numbers_lower_than_what_is_shown_is_shown_and_all_is_reloaded() {
    let Some(database) = Database::create() else { return };
    let url = database.url();
    let server = Server::start(&["--postgres", &url, "--profile", "lenient"]);
    go_back(&server, &database);
    let reply = server.post("/orders", body("old", 99)).expect(200);
    assert_eq!(reply.header("etag"), Some("\"3\""));
    // At once: what was written is read.
    let shown = server.get("/order/old").expect(200);
    assert_eq!((shown.text(), shown.header("etag")), (&*body("old", 99), Some("\"3\"")));
    until("all is as it is stored", LONG, || is_as_stored(&server, &body("old", 99), "\"3\""));
    assert_the_rest(&server);
    server.post("/orders", body("old", 100)).expect(200);
    assert_eq!(server.get("/order/old").expect(200).text(), body("old", 100));
}

#[test]
fn with_a_budget_what_the_store_lost_is_not_shown_either() {
    let Some(database) = Database::create() else { return };
    let url = database.url();
    let server = Server::start(&["--postgres", &url, "--profile", "lenient", "--cache-bytes-max", "1MiB"]);
    go_back(&server, &database);
    server.post("/orders", body("old", 99)).expect(200);
    assert_eq!(server.get("/order/old").expect(200).text(), body("old", 99));
    until("all is as it is stored", LONG, || is_as_stored(&server, &body("old", 99), "\"3\""));
    until("it counts right", LONG, || (server.get("/api/stats").expect(200).json()["total_orders"] == 3).then_some(()));
}

/// Another process of a server answers: without a write nothing shows what it lacks.
#[test]
fn a_server_that_was_started_again_is_held_against_what_is_shown() {
    let Some(postgres) = Private::postgres() else { return };
    let database = Database::create_on(postgres.url());
    let url = database.url();
    let server = Server::start(&["--postgres", &url, "--profile", "lenient"]);
    go_back(&server, &database);
    assert_eq!(server.get("/order/old").expect(200).text(), body("old", 5));
    postgres.kill();
    postgres.restart();
    until("all is as it is stored", LONG, || is_as_stored(&server, &body("old", 2), "\"2\""));
    assert_the_rest(&server);
}
