//! A schema of its own: two services in one database, and one beside the tables of another program.

use order_service::store::postgres::{Maintenance, Postgres, SchemaName};
use order_service::store::{Presence, Store};

use super::pooler::Pooler;
use super::{LONG, batch, wb};
use crate::cli::Home;
use crate::database::Database;
use crate::server::{Server, until};

fn store(database: &Database, schema: &str) -> Postgres {
    let mut config = database.config();
    config.schema = SchemaName::parse(schema).unwrap();
    Postgres::new(config)
}

const OBJECTS: &str = "SELECT nspname || '.' || relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
                       WHERE nspname IN ('public', 'one', 'other') AND relkind IN ('r', 'p', 'v', 'S') ORDER BY 1";

#[test]
fn two_services_in_one_database_know_nothing_of_each_other() {
    let Some(database) = Database::create() else { return };
    database.query("CREATE TABLE orders (id bigint, total numeric); INSERT INTO orders VALUES (1, 2)");
    let url = database.url();
    let server = |schema| Server::start(&["--postgres", &url, "--postgres-schema", schema, "--profile", "lenient"]);
    let (mut one, other) = (server("one"), server("other"));
    one.post("/orders", r#"{"order_uid":"a","of":"one"}"#).expect(201);
    other.post("/orders", r#"{"order_uid":"a","of":"other"}"#).expect(201);
    other.post("/orders", r#"{"order_uid":"b"}"#).expect(201);
    // A second instance of the first: what it is told is of its own schema.
    let second = server("one");
    second.post("/orders", r#"{"order_uid":"c"}"#).expect(201);
    until("the instances of one schema see each other", LONG, || (one.get("/order/c").status == 200).then_some(()));
    for (server, of, count) in [(&one, "one", 2), (&second, "one", 2), (&other, "other", 2)] {
        assert_eq!(server.get("/order/a").expect(200).json()["of"], of);
        until("the count has caught up", LONG, || {
            (server.get("/api/stats").expect(200).json()["total_orders"] == count).then_some(())
        });
    }
    one.connect().get_in_time("/order/b", &[]).expect(404);
    other.connect().get_in_time("/order/c", &[]).expect(404);
    one.kill9();
    assert_eq!(one.get("/api/stats").expect(200).json()["total_orders"], 2);
    assert_eq!(database.query("SELECT id || ' ' || total FROM public.orders"), ["1 2"], "another program's");
    let objects = database.query(OBJECTS);
    assert_eq!(objects.iter().filter(|name| name.starts_with("public.")).collect::<Vec<_>>(), ["public.orders"]);
    let of = |schema: &str| objects.iter().filter_map(|name| name.strip_prefix(schema)).collect::<Vec<_>>();
    assert_eq!(of("one."), of("other."));
    assert!(of("one.").contains(&"orders_p3"), "{objects:?}");
}

#[tokio::test]
async fn locks_are_of_a_schema_however_it_is_named() {
    let Some(database) = Database::create() else { return };
    let present = Presence { follows: true, publishes: false };
    let (one, other) = (store(&database, "one"), store(&database, "other"));
    for store in [&one, &other] {
        store.appear_as(present);
        store.commit(batch([wb("a", 1)])).await.unwrap();
        store.heartbeat().await.unwrap();
    }
    assert!(!one.heartbeat().await.unwrap().follow && !other.heartbeat().await.unwrap().follow);
    // The same schema, found by the search path.
    let mut config = database.config();
    config.server.options("-c search_path=one");
    let again = Postgres::new(config);
    again.appear_as(present);
    assert!(again.heartbeat().await.unwrap().follow, "it sees the one that is there");
    assert!(one.heartbeat().await.unwrap().follow, "and is seen");
    assert!(!other.heartbeat().await.unwrap().follow);
    // Where nothing is named it is the usual one, whose locks former versions know.
    let (usual, named) = (database.store(), store(&database, "public"));
    for store in [&usual, &named] {
        store.appear_as(present);
        store.commit(batch([wb("a", 1)])).await.unwrap();
        store.heartbeat().await.unwrap();
    }
    assert!(usual.heartbeat().await.unwrap().follow && named.heartbeat().await.unwrap().follow);
    let former =
        "SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND classid = 1869767795 AND objid = 1751478885
                  AND database = (SELECT oid FROM pg_database WHERE datname = current_database())";
    assert_eq!(database.query(former), ["2"]);
}

#[test]
fn every_command_refuses_a_table_orders_of_others() {
    let Some(database) = Database::create() else { return };
    database.query("CREATE TABLE orders (id bigint)");
    let home = Home::new();
    let url = database.url();
    home.write("orders.ndjson", "{\"order_uid\":\"a\"}\n");
    for command in [&["export"][..], &["import", "orders.ndjson"], &["migrate", "status"], &["migrate", "up"]] {
        let done = home.run(&[command, &["--postgres", &url]].concat());
        assert!(done.err.contains("table orders in schema public was not made by"), "{command:?}: {}", done.err);
        done.expect(78);
    }
}

#[test]
fn a_role_that_may_not_make_the_schema_is_told_so() {
    let Some(database) = Database::create() else { return };
    let role = format!("server_{}", database.name());
    database.query(&format!("CREATE ROLE {role} LOGIN"));
    let url = database.url().replacen("postgres@", &format!("{role}@"), 1);
    let home = Home::new();
    let flags = ["--listen", "127.0.0.1:0", "--postgres", &url, "--postgres-schema", "shop"];
    let done = home.run(&[&["serve"][..], &flags].concat());
    assert!(done.err.contains("cannot create the schema shop: the role may not"), "{}", done.err);
    done.expect(78);
    database.query(&format!("DROP ROLE {role}"));
}

#[test]
fn tools_keep_to_the_schema() {
    let Some(database) = Database::create() else { return };
    database.query("CREATE TABLE orders (id bigint)");
    let home = Home::new();
    let url = database.url();
    let flags = ["--postgres", url.as_str(), "--postgres-schema", "one"];
    let run = |arguments: &[&str]| home.run(&[arguments, &flags].concat());
    let up = run(&["migrate", "up", "--optional"]);
    assert_eq!(up.out, "applied [1, 2, 3, 4, 1001]\n", "{}", up.err);
    home.write("orders.ndjson", "{\"order_uid\":\"a\"}\n{\"order_uid\":\"b\"}\n");
    run(&["import", "orders.ndjson", "--profile", "lenient"]).expect(0);
    let export = run(&["export"]);
    assert_eq!(export.out.lines().collect::<Vec<_>>(), [r#"{"order_uid":"b"}"#, r#"{"order_uid":"a"}"#]);
    assert!(run(&["migrate", "status"]).out.contains("0003 outbox_orders    applied"));
    for _ in 0..5 {
        run(&["migrate", "down", "--yes"]).expect(0);
    }
    assert_eq!(database.query(OBJECTS), ["one.order_service_migrations", "public.orders"]);
}

#[test]
fn a_schema_that_no_statement_can_name_safely_is_a_wrong_setting() {
    let home = Home::new();
    for name in ["a\"b", "Orders", "pg_orders", ""] {
        let done = home.run(&["config", "check", "--postgres", "postgres://db/orders", "--postgres-schema", name]);
        assert!(done.err.contains("--postgres-schema") || name.is_empty(), "{name}: {}", done.err);
    }
    home.run(&["config", "check", "--postgres-schema", "orders"]).expect(78); // it would change nothing
}

#[test]
fn a_schema_is_used_by_a_role_that_may_make_none() {
    let Some(database) = Database::create() else { return };
    let role = format!("keeper_{}", database.name());
    database.query(&format!("CREATE ROLE {role} LOGIN; CREATE SCHEMA one AUTHORIZATION {role}"));
    let url = database.url().replacen("postgres@", &format!("{role}@"), 1);
    let server = Server::start(&["--postgres", &url, "--postgres-schema", "one", "--profile", "lenient"]);
    server.post("/orders", r#"{"order_uid":"a"}"#).expect(201);
    drop(server);
    let home = Home::new();
    let migrate = |arguments: &[&str]| {
        home.run(&[&["migrate"], arguments, &["--postgres", &url, "--postgres-schema", "one"]].concat())
    };
    migrate(&["up"]).expect(0);
    // Views too, where there is a schema for them.
    let denied = migrate(&["up", "--views", "one-table"]);
    assert!(denied.err.contains("cannot create the schema one_one_table: the role may not"), "{}", denied.err);
    database.query(&format!("CREATE SCHEMA one_one_table; GRANT ALL ON SCHEMA one_one_table TO {role}"));
    migrate(&["up", "--views", "one-table"]).expect(0);
    assert_eq!(database.query("SELECT order_uid FROM one_one_table.orders"), ["a"]);
    migrate(&["down", "--yes"]).expect(0);
    assert_eq!(database.query("SELECT count(*) FROM pg_class WHERE relname = 'orders' AND relkind = 'v'"), ["0"]);
    migrate(&["up", "--views", "one-table"]).expect(0);
    // A schema with something in it is another's.
    migrate(&["down", "--yes"]).expect(0);
    database.query("CREATE TABLE one_one_table.orders (id int)");
    let taken = migrate(&["up", "--views", "one-table"]);
    let told = taken.expect(78).err;
    assert!(told.contains("one_one_table"), "{told}");
    database.query("DROP TABLE one_one_table.orders");
    let refused = home.run(&["migrate", "up", "--postgres", &url, "--postgres-schema", "another"]);
    assert!(refused.err.contains("permission denied for database"), "{}", refused.err);
    database.query(&format!("DROP OWNED BY {role}; DROP ROLE {role}"));
}

/// Tables would otherwise be made where another client's search path leads, or its orders be
/// written into ours.
#[tokio::test]
async fn a_pooler_of_transactions_leads_migrations_nowhere_else() {
    let Some(database) = Database::create() else { return };
    let Some(pooler) = Pooler::start(&database, "transaction") else { return };
    let mut config = crate::database::config(&pooler.url(&database));
    config.schema = SchemaName::parse("one").unwrap();
    for _ in 0..3 {
        let mut maintenance = Maintenance::open(&config).await.unwrap();
        maintenance.up(true).await.unwrap();
        assert_eq!(maintenance.status().await.unwrap().iter().filter(|(_, is_applied)| *is_applied).count(), 5);
        assert_eq!(maintenance.down().await.unwrap(), Some(1001));
    }
    let (client, connection) = tokio_postgres::connect(&pooler.url(&database), tokio_postgres::NoTls).await.unwrap();
    tokio::spawn(connection);
    let messages =
        client.simple_query("SELECT current_setting('search_path') || current_setting('lock_timeout')").await;
    let row = messages.unwrap().into_iter().find_map(|message| match message {
        tokio_postgres::SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
        _ => None,
    });
    assert_eq!(row.unwrap(), "\"$user\", public0", "nothing is left for others");
    assert!(database.query(OBJECTS).iter().all(|name| name.starts_with("one.")));
    let mut server = Server::start_in(
        &["--postgres", &pooler.url(&database), "--postgres-schema", "one"],
        &[("RUST_BACKTRACE", "0")],
    );
    let status = tokio::task::spawn_blocking(move || until("the start ends", LONG, || server.ended())).await;
    assert_eq!(status.unwrap().code(), Some(78), "the service itself says that it cannot");
}
