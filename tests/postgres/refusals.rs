//! What the database refuses: single orders, for want of a right, and altogether.

use std::io::{Read, Write};
use std::sync::Arc;

use order_service::store::{Outcome, Refusal, Store, StoreError};

use super::{LONG, batch, id, moved, wb};
use crate::database::Database;
use crate::server::{Server, until};
use crate::servers::Private;

/// Rules of the owner's: a CHECK, a trigger that raises, also what a limit of the server is told by, one that drops, one
/// that waits for the COMMIT.
const RULES: &str = "
    ALTER TABLE orders ADD CONSTRAINT owners_check CHECK (order_uid <> 'checked');
    CREATE FUNCTION owners_rule() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        IF NEW.order_uid = 'raised' THEN RAISE EXCEPTION 'not this one'; END IF;
        IF NEW.order_uid = 'large' THEN RAISE EXCEPTION 'too large' USING ERRCODE = '54000'; END IF;
        IF NEW.order_uid = 'dropped' THEN RETURN NULL; END IF;
        RETURN NEW; END $$;
    CREATE TRIGGER owners_rule BEFORE INSERT ON orders FOR EACH ROW EXECUTE FUNCTION owners_rule();
    CREATE FUNCTION owners_late_rule() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
        IF NEW.order_uid = 'late' THEN RAISE EXCEPTION 'not this one either'; END IF;
        RETURN NULL; END $$;
    CREATE CONSTRAINT TRIGGER owners_late_rule AFTER INSERT ON orders DEFERRABLE INITIALLY DEFERRED
        FOR EACH ROW EXECUTE FUNCTION owners_late_rule()";
const REFUSED: [(&str, &str); 5] =
    [("checked", "23514"), ("raised", "P0001"), ("large", "54000"), ("dropped", "02000"), ("late", "P0001")];

#[tokio::test]
async fn orders_that_the_database_refuses_are_found_and_the_others_stored() {
    let Some(database) = Database::create() else { return };
    let store = database.store();
    store.commit(batch([wb("known", 1)])).await.unwrap();
    database.query(RULES);
    for (n, (uid, expected)) in REFUSED.into_iter().enumerate() {
        let orders: Vec<_> = (0..20).map(|other| wb(&format!("o{n}-{other}"), 1)).collect();
        let all = orders.iter().take(13).cloned().chain([wb(uid, 1), wb("known", 2 + n as u64)]);
        let all: Vec<_> = all.chain(orders.iter().skip(13).cloned()).collect();
        // A broker is told which one, with nothing stored.
        let mut of_broker = Arc::unwrap_or_clone(moved(n as u64, n as u64 + 1, all.clone()));
        of_broker.is_atomic = true;
        let error = store.commit(Arc::new(of_broker)).await.unwrap_err();
        let StoreError::Unstorable(refused) = error else { panic!("{uid}: {error:?}") };
        let [(13, Refusal::Database { sqlstate, .. })] = &refused[..] else { panic!("{uid}: {refused:?}") };
        assert_eq!(&**sqlstate, expected, "{uid}");
        assert!(store.fetch(id(&format!("o{n}-0"))).await.unwrap().is_none());
        // Senders that wait are told one by one, and the position moves.
        let outcomes = store.commit(moved(n as u64, n as u64 + 1, all)).await.unwrap();
        for (index, outcome) in outcomes.iter().enumerate() {
            let is_refused = matches!(outcome, Outcome::Refused { refusal: Refusal::Database { .. }, .. });
            assert_eq!(is_refused, index == 13, "{uid}: {index} {outcome:?}");
        }
        assert!(store.fetch(id(uid)).await.unwrap().is_none());
        assert_eq!(store.fetch(id("known")).await.unwrap().unwrap().version(), 2 + n as u64);
        assert_eq!(store.positions("test".into()).await.unwrap().next(3), n as u64 + 1);
    }
    assert_eq!(database.query("SELECT count(*) FROM orders"), ["101"]);
}

#[test]
fn a_write_over_http_that_the_database_refuses_gets_422() {
    let Some(database) = Database::create() else { return };
    let server = Server::start(&["--postgres", &database.url(), "--profile", "lenient"]);
    database.query(RULES);
    for (uid, sqlstate) in REFUSED {
        let reply = server.post("/orders", format!(r#"{{"order_uid":"{uid}"}}"#)).expect(422);
        assert_eq!(reply.json()["reason"], "refused_by_database");
        assert!(reply.text().contains(sqlstate) && !reply.text().contains("orders_p"), "{}", reply.text());
        server.post("/orders", format!(r#"{{"order_uid":"after-{uid}"}}"#)).expect(201);
    }
    server.get("/readyz").expect(200);
}

/// The service of a role that owns nothing but what it makes.
fn url_of_role(database: &Database) -> String {
    database.query("CREATE ROLE app LOGIN");
    database.query(&format!("REVOKE TEMPORARY ON DATABASE {} FROM PUBLIC", database.name()));
    database.query("REVOKE CREATE ON SCHEMA public FROM PUBLIC");
    database.url().replacen("postgres@", "app@", 1)
}

fn wait_reason(server: &Server, reason: &str) {
    until(reason, LONG, || {
        let reply = server.get("/readyz");
        (reply.status == 503 && reply.text().contains(reason)).then_some(())
    });
}

#[test]
fn rights_that_are_missing_are_named_and_waited_for() {
    let Some(postgres) = Private::postgres() else { return };
    let database = Database::create_on(postgres.url());
    let server = Server::start_cold(&["--postgres", &url_of_role(&database), "--profile", "lenient"]);
    wait_reason(&server, "permission denied for schema public");
    assert!(!server.log().iter().any(|line| line.contains("cannot connect")), "{:?}", server.log());
    database.query("GRANT CREATE ON SCHEMA public TO app");
    wait_reason(&server, "TEMPORARY on the database");
    database.query(&format!("GRANT TEMPORARY ON DATABASE {} TO app", database.name()));
    server.wait_ready();
    server.post("/orders", r#"{"order_uid":"a"}"#).expect(201);
    database.query("REVOKE INSERT ON orders FROM app");
    wait_reason(&server, "INSERT on orders");
    let is_logged = |what: &str| server.log().iter().any(|line| line.contains(what));
    std::thread::scope(|scope| {
        let waiting = scope.spawn(|| server.post("/orders", r#"{"order_uid":"b"}"#).status);
        until("the write waits", LONG, || is_logged("commit failed").then_some(()));
        server.get("/order/a").expect(200);
        database.query("GRANT INSERT ON orders TO app");
        assert!([201, 503].contains(&waiting.join().unwrap()));
    });
    until("the write is stored", LONG, || (server.get("/order/b").status == 200).then_some(()));
    server.wait_ready();
    assert!(is_logged("INSERT on orders") && !is_logged("restore"), "{:#?}", server.log());
    // A database that takes no writes any more: the service was ready all the same.
    let name = database.name();
    let cut_off = format!(
        "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}' AND pid <> pg_backend_pid()"
    );
    database.query(&format!("ALTER DATABASE {name} SET default_transaction_read_only = on"));
    database.query(&cut_off);
    wait_reason(&server, "read-only");
    let picky = format!("{}?target_session_attrs=read-write", database.url());
    wait_reason(&Server::start_cold(&["--postgres", &picky]), "PostgreSQL takes no writes");
    server.get("/order/a").expect(200);
    database
        .query(&format!("SET transaction_read_only = off; ALTER DATABASE {name} RESET default_transaction_read_only"));
    database.query(&cut_off);
    server.wait_ready();
}

/// It tried again for ever.
#[test]
fn an_import_by_a_role_that_may_not_write_ends_and_says_which_rights_it_lacks() {
    let Some(postgres) = Private::postgres() else { return };
    let database = Database::create_on(postgres.url());
    let url = url_of_role(&database);
    let home = crate::cli::Home::new();
    home.run(&["migrate", "up", "--postgres", &database.url()]).expect(0);
    database.query("GRANT SELECT ON ALL TABLES IN SCHEMA public TO app");
    home.write("orders.ndjson", r#"{"order_uid":"x"}"#);
    let done = home.run(&["import", "orders.ndjson", "--profile", "lenient", "--postgres", &url]).expect(1);
    assert!(done.err.contains("lacks rights in the database") && done.err.contains("INSERT on orders"), "{}", done.err);
}

/// The start ends with 78 and says why.
fn assert_refused(database: &Database, why: &str) {
    assert_refused_with(database, &[], why);
}

fn assert_refused_with(database: &Database, more: &[&str], why: &str) {
    // Told to die: it may do so before it serves.
    let url = database.url();
    let flags = [&["--postgres", url.as_str()], more].concat();
    let mut server = Server::start_in(&flags, &[("RUST_BACKTRACE", "0")]);
    let status = until("the start ends", LONG, || server.ended());
    until(why, LONG, || server.log().iter().any(|line| line.contains(why)).then_some(()));
    assert_eq!(status.code(), Some(78), "{:#?}", server.log());
    assert!(!server.log().iter().any(|line| line.contains("restore")), "{:#?}", server.log());
}

#[test]
fn a_start_in_a_database_of_others_ends_with_78_and_names_what_is_in_the_way() {
    for name in ["orders", "delivery", "order_service_migrations"] {
        let Some(database) = Database::create() else { return };
        database.query(&format!("CREATE TABLE {name} (id bigint)"));
        let kind = if name == "order_service_migrations" { "table order_service_migrations" } else { name };
        let why = &format!("{kind} in schema public was not made by order-service");
        let why = if name == "order_service_migrations" { "table order_service_migrations was not made" } else { why };
        for way_out in [why, "--postgres-schema NAME", "order-service import --from-postgres URL"] {
            assert_refused(&database, way_out);
        }
        let migrate = std::process::Command::new(env!("CARGO_BIN_EXE_order-service"))
            .args(["migrate", "up", "--postgres", &database.url()])
            .output()
            .unwrap();
        let told = String::from_utf8_lossy(&migrate.stderr);
        assert!(migrate.status.code() == Some(78) && told.contains(why), "{told}");
        assert_eq!(database.query("SELECT count(*) FROM pg_class WHERE relnamespace = 'public'::regnamespace"), ["1"]);
    }
}

/// The statements of batches might fit what is there.
#[test]
fn a_start_that_migrates_nothing_writes_into_no_table_of_others_either() {
    let Some(database) = Database::create() else { return };
    database.query("CREATE TABLE orders (order_uid text PRIMARY KEY, version bigint, seq bigint)");
    for way_out in ["table orders in schema public was not made", "--postgres-schema NAME", "--from-postgres URL"] {
        assert_refused_with(&database, &["--postgres-migrate", "no"], way_out);
    }
}

#[test]
fn a_start_in_a_database_that_is_not_utf8_ends_with_78() {
    let Some(postgres) = Private::postgres() else { return };
    let database = Database::create_on(postgres.url());
    // In the place of the one of the test, so that it is named alike.
    let (server, name) = (Database::create_on(postgres.url()), database.name().to_owned());
    server.query(&format!("DROP DATABASE {name}"));
    server.query(&format!("CREATE DATABASE {name} ENCODING LATIN1 TEMPLATE template0 LC_COLLATE 'C' LC_CTYPE 'C'"));
    assert_refused(&database, "the encoding of the database is LATIN1");
}

/// Not the order's fault, and nothing is damaged: no connection left for the role, a statement that is cancelled.
#[test]
fn what_the_server_has_no_room_for_or_cancels_is_tried_again() {
    let Some(postgres) = Private::postgres() else { return };
    let database = Database::create_on(postgres.url());
    database.query("CREATE ROLE app LOGIN");
    database.query("GRANT CREATE ON SCHEMA public TO app");
    let url = database.url().replacen("postgres@", "app@", 1);
    let server = Server::start(&["--postgres", &url, "--profile", "lenient"]);
    server.post("/orders", r#"{"order_uid":"a"}"#).expect(201);
    let server = &server;
    let waits_for = |uid: &str, told: &str, make: &dyn Fn(), mend: &dyn Fn()| {
        make();
        std::thread::scope(|scope| {
            let waiting = scope.spawn(move || server.post("/orders", format!(r#"{{"order_uid":"{uid}"}}"#)).status);
            until(told, LONG, || {
                make();
                server.log().iter().any(|line| line.contains("commit failed") && line.contains(told)).then_some(())
            });
            server.get("/order/a").expect(200);
            mend();
            assert!([201, 503].contains(&waiting.join().unwrap()));
        });
        until("the write is stored", LONG, || (server.get(&format!("/order/{uid}")).status == 200).then_some(()));
        server.wait_ready();
    };
    // SQLSTATE 53300, and 57P01 before it.
    database.query("ALTER ROLE app CONNECTION LIMIT 0");
    let end_all = || {
        database.query("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'app'");
    };
    let allow = || {
        database.query("ALTER ROLE app CONNECTION LIMIT -1");
    };
    waits_for("b", "too many connections for role", &end_all, &allow);
    // 57014
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let blocker = runtime.block_on(database.client());
    runtime.block_on(blocker.batch_execute("BEGIN; LOCK TABLE orders IN EXCLUSIVE MODE")).unwrap();
    let cancel = || {
        database.query(
            "SELECT pg_cancel_backend(pid) FROM pg_stat_activity WHERE usename = 'app' AND wait_event_type = 'Lock'",
        );
    };
    let release = || runtime.block_on(blocker.batch_execute("COMMIT")).unwrap();
    waits_for("c", "canceling statement due to user request", &cancel, &release);
    assert!(!server.log().iter().any(|line| line.contains("restore")), "{:#?}", server.log());
}

/// The reason is for anyone; where the server is and who logs in is for the log and the admin address.
#[test]
fn readiness_says_what_postgres_refuses_and_names_neither_host_nor_user() {
    let Some(url) = crate::servers::postgres() else { return };
    let (_, rest) = url.split_once('@').unwrap();
    let address = rest.split('/').next().unwrap();
    let home = tempfile::tempdir().unwrap();
    let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().to_string();
    for (n, (url, reason, detail)) in [
        (format!("postgres://stranger:s3cret@{address}/hidden"), "PostgreSQL refuses the login", "stranger"),
        (format!("postgres://postgres@{address}/hidden"), "PostgreSQL does not have the database", "hidden"),
        (format!("postgres://postgres:s3cret@{closed}/hidden"), "PostgreSQL is unavailable", "refused"),
    ]
    .into_iter()
    .enumerate()
    {
        let socket = home.path().join(n.to_string());
        let admin = format!("unix:{}", socket.display());
        let server = Server::start_cold(&["--postgres", &url, "--admin", &admin]);
        let told = until("it says why", LONG, || {
            let reply = server.get("/readyz").expect(503);
            reply.text().contains(reason).then(|| reply.text().to_owned())
        });
        for secret in ["stranger", "s3cret", "hidden", "127.0.0.1", "localhost", address, &closed] {
            assert!(!told.contains(secret), "{secret}: {told}");
        }
        let mut socket = std::os::unix::net::UnixStream::connect(&socket).unwrap();
        socket.write_all(b"GET /readyz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").unwrap();
        let mut details = String::new();
        socket.read_to_string(&mut details).unwrap();
        assert!(details.contains(detail) && !details.contains("s3cret"), "{details}");
        until("the log says it too", LONG, || server.log().iter().any(|line| line.contains(detail)).then_some(()));
        // It was made, but for the one that is refused.
        let has_no_connection = server.log().iter().any(|line| line.contains("cannot connect to PostgreSQL"));
        assert_eq!(has_no_connection, detail == "refused", "{:?}", server.log());
        assert!(!server.log().iter().any(|line| line.contains("s3cret")), "{:?}", server.log());
    }
}
