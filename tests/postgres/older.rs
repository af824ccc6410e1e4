//! The databases of the older services, made by DDL like theirs: what moves in is what they
//! answered, as JSON values, and nothing changes where it came from.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::LONG;
use super::pooler::Pooler;
use crate::cli::{Done, Home};
use crate::database::Database;
use crate::server::{Server, until};

const FOUR_TABLES: &str = include_str!("../older/four_tables.sql");
const FOUR_TABLES_NAMED_IDS: &str = include_str!("../older/four_tables_named_ids.sql");
const ONE_TABLE: &str = include_str!("../older/one_table.sql");
const EVENT_DRIVEN: &str = include_str!("../older/event_driven.sql");
const EVENT_DRIVEN_EXTERNAL: &str = include_str!("../older/event_driven_external.sql");

/// The database of an older service.
fn older(sql: &str) -> Option<Database> {
    let database = Database::create()?;
    database.query(sql);
    Some(database)
}

/// Everything in it, in one figure for each table, but for what the service made.
fn contents(database: &Database) -> Vec<String> {
    let tables =
        database.query("SELECT relname FROM pg_class WHERE relnamespace = 'public'::regnamespace AND relkind = 'r'");
    let digest = |table: &String| {
        format!(
            "{table} {}",
            database.query(&format!("SELECT md5(string_agg(t::text, E'\\n' ORDER BY t::text)) FROM {table} t"))[0]
        )
    };
    let mut all: Vec<_> = tables.iter().map(digest).collect();
    all.sort();
    all
}

/// What queries of an older service give, a JSON document a row.
fn rows(database: &Database, sql: &str) -> Vec<Value> {
    let texts = database.query(&format!("SELECT to_json(row_of)::text FROM ({sql}) AS row_of"));
    texts.iter().map(|text| serde_json::from_str(text).unwrap()).collect()
}

/// Where the orders go: an embedded store, or a schema in the same database.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Target {
    Embedded,
    SameDatabase,
}

/// A service that is stopped, and the flags of commands on its store.
fn stopped(target: Target, database: &Database) -> (Server, Vec<String>) {
    let same = ["--postgres", &database.url(), "--postgres-schema", "moved"].map(str::to_owned);
    let flags: Vec<&str> =
        if target == Target::SameDatabase { same.iter().map(String::as_str).collect() } else { vec![] };
    let mut server = Server::start(&flags);
    assert!(server.stop().success());
    let data = ["--data".into(), server.data().display().to_string()];
    let flags = if target == Target::SameDatabase { same.into() } else { data.into() };
    (server, flags)
}

fn import(home: &Home, database: &Database, more: &[&str], environment: &[(&str, &str)]) -> Done {
    let url = database.url();
    let arguments = [&["import", "--from-postgres", url.as_str()], more].concat();
    home.run_with(&arguments, environment)
}

/// Moves all in, and asks a service for every order: the answers by their ids.
fn moved(database: &Database, target: Target, rejected: u64) -> (Server, BTreeMap<String, Value>) {
    let (home, before) = (Home::new(), contents(database));
    let (mut server, flags) = stopped(target, database);
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let done = import(&home, database, &flags, &[]);
    let told = done.err.clone();
    done.expect(i32::from(rejected > 0));
    if rejected > 0 {
        assert!(told.contains(&format!("{rejected} rows are no valid orders")), "{told}");
        let file = std::fs::read_to_string(home.path().join(format!("{}.rejected", database.name()))).unwrap();
        assert_eq!(file.lines().count() as u64, rejected);
        assert!(file.lines().all(|line| serde_json::from_str::<Value>(line).unwrap()["error"].is_string()), "{file}");
    }
    assert!(told.contains("profile lenient"), "{told}");
    assert_eq!(contents(database), before, "the source is as it was");
    server.start_again();
    let listed = server.request("GET", "/api/orders", &[("Accept", "application/x-ndjson")], "").expect(200);
    let order = |line: &str| {
        let order: Value = serde_json::from_str(line).unwrap();
        (order["order_uid"].as_str().unwrap().to_owned(), order)
    };
    let listed = listed.text().lines().map(order).collect();
    (server, listed)
}

/// As Go's encoding/json writes a `time.Time` that was read from the text of a timestamp in UTC.
fn rfc3339(text: &Value) -> Value {
    text.as_str().map_or(Value::Null, |text| format!("{}Z", text.trim_end_matches("+00:00")).into())
}

/// What the service of the four tables answers: its columns, and the parts by their order.
fn four_tables(database: &Database, delivery: &str, payment: &str, key: &str, id: &str) -> BTreeMap<String, Value> {
    let by_order = |sql: &str, key: &str, left_out: &[&str]| {
        let mut parts: BTreeMap<String, Vec<Value>> = BTreeMap::new();
        for mut row in rows(database, sql) {
            let Some(order) = row[key].as_str().map(str::to_owned) else { continue };
            for name in left_out {
                row.as_object_mut().unwrap().shift_remove(*name);
            }
            parts.entry(order).or_default().push(row);
        }
        parts
    };
    let id = |table: &str| if id == "id" { "id".to_owned() } else { format!("{table}_id") };
    let deliveries = by_order(
        &format!("SELECT * FROM {delivery} ORDER BY {}", id("delivery")),
        "order_uid",
        &["order_uid", &id("delivery")],
    );
    let left_out: &[&str] = if key == "order_uid" { &["order_uid", "id"] } else { &["payment_id"] };
    let payments = by_order(&format!("SELECT * FROM {payment} ORDER BY 1"), key, left_out);
    let items =
        by_order(&format!("SELECT * FROM items ORDER BY {}", id("item")), "order_uid", &["order_uid", &id("item")]);
    let orders = rows(database, "SELECT * FROM orders WHERE order_uid ~ '^[A-Za-z0-9-]{1,128}$'");
    let answer = |mut order: Value| {
        let uid = order["order_uid"].as_str().unwrap().to_owned();
        order["date_created"] = rfc3339(&order["date_created"]);
        order["delivery"] = deliveries.get(&uid).map_or(Value::Null, |parts| parts[0].clone());
        order["payment"] = payments.get(&uid).map_or(Value::Null, |parts| parts[0].clone());
        order["items"] = items.get(&uid).cloned().unwrap_or_default().into();
        (uid, order)
    };
    orders.into_iter().map(answer).collect()
}

fn assert_same(moved: &BTreeMap<String, Value>, expected: &BTreeMap<String, Value>) {
    assert_eq!(moved.len(), expected.len());
    for (uid, order) in expected {
        assert_eq!(moved.get(uid), Some(order), "{uid}");
    }
}

#[test]
fn four_tables_move_in() {
    for target in [Target::Embedded, Target::SameDatabase] {
        let Some(database) = older(FOUR_TABLES) else { return };
        let (server, listed) = moved(&database, target, 2);
        let expected = four_tables(&database, "delivery", "payment", "order_uid", "id");
        assert_eq!(expected.len(), 1000);
        assert_same(&listed, &expected);
        // The members are in the order in which the older services write them, and the newest order
        // is the newest.
        let newest = database.query(
            "SELECT order_uid FROM orders WHERE order_uid ~ 'test' ORDER BY date_created DESC NULLS LAST LIMIT 1",
        );
        let first = server.get("/api/orders?limit=1").expect(200);
        assert_eq!(first.json()[0]["order_uid"], newest[0].as_str());
        let text = server.get("/order/b563feb7b2b84b6test3").expect(200).text().to_owned();
        let names = [
            "order_uid",
            "track_number",
            "entry",
            "delivery",
            "name",
            "phone",
            "zip",
            "payment",
            "transaction",
            "items",
        ];
        let at: Vec<_> = names.iter().map(|name| text.find(&format!("\"{name}\":")).unwrap()).collect();
        assert!(at.is_sorted(), "{text}");
        if target == Target::SameDatabase {
            let dates =
                "SELECT count(*) FROM moved.orders WHERE date_created IS NOT NULL AND created_at <> date_created";
            assert_eq!(database.query(dates), ["0"], "the times of their creation are kept");
        }
    }
}

#[test]
fn four_tables_of_the_other_names_move_in() {
    for target in [Target::Embedded, Target::SameDatabase] {
        let Some(database) = older(FOUR_TABLES_NAMED_IDS) else { return };
        let (_server, listed) = moved(&database, target, 0);
        database.query(&format!("ALTER DATABASE {} SET timezone = 'UTC'", database.name()));
        assert_same(&listed, &four_tables(&database, "deliveries", "payments", "transaction", "named"));
    }
}

#[test]
fn one_table_moves_in() {
    for target in [Target::Embedded, Target::SameDatabase] {
        let Some(database) = older(ONE_TABLE) else { return };
        let (_server, listed) = moved(&database, target, 0);
        let orders = rows(&database, "SELECT * FROM orders");
        let answer = |mut order: Value| {
            order["date_created"] = rfc3339(&order["date_created"]);
            (order["order_uid"].as_str().unwrap().to_owned(), order)
        };
        let expected: BTreeMap<_, _> = orders.into_iter().map(answer).collect();
        assert_eq!(expected.len(), 1000);
        assert_same(&listed, &expected);
    }
}

/// An order as the event-driven service answers it.
fn event_driven(database: &Database) -> BTreeMap<String, Value> {
    let valid = "SELECT order_id, user_id, amount, status, payload, bucket,
                 to_char(created_at AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"') AS created_at,
                 to_char(updated_at AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US\"Z\"') AS updated_at
                 FROM orders WHERE jsonb_typeof(payload) = 'object' AND status <> 'lost'";
    let answer = |mut order: Value| {
        let id = order["order_id"].as_str().unwrap().to_owned();
        order["order_uid"] = json!(id);
        (id, order)
    };
    rows(database, valid).into_iter().map(answer).collect()
}

#[test]
fn event_driven_orders_move_in_with_their_times_and_those_that_were_deleted() {
    for (sql, target) in [(EVENT_DRIVEN, Target::Embedded), (EVENT_DRIVEN_EXTERNAL, Target::SameDatabase)] {
        let Some(database) = older(sql) else { return };
        let (server, listed) = moved(&database, target, 4);
        let expected = event_driven(&database);
        let (deleted, live): (BTreeMap<_, _>, BTreeMap<_, _>) =
            expected.into_iter().partition(|(_, order)| order["status"] == "deleted");
        assert_eq!((live.len(), deleted.len()), (900, 100));
        assert_same(&listed, &live);
        let mut connection = server.connect();
        for (id, order) in &deleted {
            assert_eq!(connection.request("GET", &format!("/order/{id}"), &[], "").expect(200).json(), *order);
        }
        assert_eq!(server.get("/api/stats").expect(200).json()["total_orders"], 900);
        for newest in rows(
            &database,
            "SELECT DISTINCT ON (user_id, payload ->> 'id') order_id, user_id, payload ->> 'id' AS external FROM orders
             WHERE jsonb_typeof(payload) = 'object' AND status NOT IN ('deleted', 'lost')
             ORDER BY user_id, payload ->> 'id', created_at DESC",
        ) {
            let text = |name: &str| newest[name].as_str().unwrap().to_owned();
            let path = format!("/orders/by-external/{}?user_id={}", text("external"), text("user_id"));
            assert_eq!(
                connection.request("GET", &path, &[], "").expect(200).json()["order"]["order_id"],
                newest["order_id"]
            );
        }
        if target == Target::SameDatabase {
            let differ = "SELECT count(*) FROM moved.orders n JOIN public.orders o ON o.order_id::text = n.order_uid
                          WHERE n.created_at <> o.created_at OR n.updated_at <> o.updated_at OR n.bucket <> o.bucket
                          OR (n.deleted_at IS NULL) = (o.status = 'deleted') OR n.external_id IS DISTINCT FROM o.external_id";
            assert_eq!(database.query(differ), ["0"]);
        }
    }
}

#[test]
fn what_is_imported_again_brings_what_is_new_and_nothing_that_is_older() {
    let Some(database) = older(EVENT_DRIVEN) else { return };
    let home = Home::new();
    let flags = ["--postgres", &database.url(), "--postgres-schema", "moved"].map(str::to_owned);
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    import(&home, &database, &flags, &[]).expect(1);
    let uids = database
        .query("SELECT order_id FROM orders WHERE status = 'new' AND payload ->> 'id' <> '' ORDER BY 1 LIMIT 3");
    // Both services are live for a while: the older one changes two orders, this one changes the
    // second of them later.
    database.query(&format!(
        "UPDATE orders SET status = 'done', updated_at = '2025-03-01' WHERE order_id IN ('{}', '{}')",
        uids[0], uids[1]
    ));
    let server = Server::start(&flags);
    let user = server.get(&format!("/order/{}", uids[1])).expect(200).json()["user_id"].as_str().unwrap().to_owned();
    let change = json!({"order_id": uids[1], "user_id": user, "status": "cancelled", "payload": {"id": "changed"}});
    server.post("/orders", change.to_string()).expect(200);
    let again = import(&home, &database, &flags, &[]);
    assert!(again.err.contains("1 stored, 999 unchanged"), "{}", again.err);
    // What differs is said, and what became of it.
    assert!(
        again.err.contains("1 orders were here already and are updated: they changed later there"),
        "{}",
        again.err
    );
    let left = "1 orders differ from what is here and are left as they are here: they changed here no earlier";
    assert!(again.err.contains(left), "{}", again.err);
    // And what was rejected before is not put aside once more.
    let rejected = std::fs::read_to_string(home.path().join(format!("{}.rejected", database.name()))).unwrap();
    let told = again.err.split(" rows are no valid orders").next().unwrap().split_whitespace().last().unwrap();
    assert_eq!(rejected.lines().count().to_string(), told.trim_start_matches("order-service: "), "{}", again.err);
    let status =
        |uid: &str| database.query(&format!("SELECT status FROM moved.orders WHERE order_uid = '{uid}'"))[0].clone();
    assert_eq!(
        (status(&uids[0]), status(&uids[1]), status(&uids[2])),
        ("done".into(), "cancelled".into(), "new".into())
    );
    until("the change is seen", LONG, || {
        (server.get(&format!("/order/{}", uids[0])).expect(200).json()["status"] == "done").then_some(())
    });
}

#[test]
fn an_import_that_is_killed_goes_on_where_it_was_and_takes_what_came_meanwhile() {
    for (target, step) in [(Target::Embedded, "committed:3"), (Target::SameDatabase, "store-written:4")] {
        let Some(database) = older(FOUR_TABLES) else { return };
        let home = Home::new();
        let (mut server, flags) = stopped(target, &database);
        let flags = [flags, ["--batch-rows-max", "100"].map(str::to_owned).into()].concat();
        let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
        let killed = import(&home, &database, &flags, &[("ORDER_DIE_AT", step)]);
        assert!(killed.is_killed(), "{}", killed.err);
        // Older than all that was read before.
        database.query("INSERT INTO orders (order_uid, date_created) VALUES ('came-meanwhile', '2019-01-01')");
        let resumed = import(&home, &database, &flags, &[]);
        assert!(resumed.err.contains("going on after "), "{}", resumed.err);
        let figure = |what: &str| {
            let (before, _) = resumed.err.split_once(what).unwrap_or_else(|| panic!("{}", resumed.err));
            before.rsplit(' ').next().unwrap().parse::<u64>().unwrap()
        };
        assert_eq!(figure(" read: "), 1003, "all of the snapshot was read: {}", resumed.err);
        assert_eq!(figure(" stored, ") + figure(" unchanged, "), 1001, "{}", resumed.err);
        assert!(figure(" stored, ") > 0 && figure(" unchanged, ") > 0, "{}", resumed.err);
        server.start_again();
        assert_eq!(server.get("/api/stats").expect(200).json()["total_orders"], 1001);
        server.get("/order/came-meanwhile").expect(200);
        let again =
            import(&Home::new(), &database, if target == Target::Embedded { &["--dry-run"] } else { &flags }, &[]);
        let all = if target == Target::Embedded { "1001 valid" } else { "0 stored, 1001 unchanged" };
        assert!(again.err.contains(all), "{}", again.err);
    }
}

#[test]
fn a_dry_run_counts_and_stores_nothing() {
    let Some(database) = older(FOUR_TABLES) else { return };
    let home = Home::new();
    let done = import(&home, &database, &["--dry-run"], &[]);
    let told = done.err.clone();
    done.expect(0);
    for line in [
        "1002 orders in ",
        "layout four-tables",
        "1000 valid, 0 of them deleted; 2 would be rejected; nothing stored",
        "1 x /order_uid: ",
        "2 items are of no order, and left out",
        "1 deliveries come after another one of the same order, and are left out",
        "3 orders have no delivery; it is null in them",
        "3 orders have no payment; it is null in them",
    ] {
        assert!(told.contains(line), "{line}: {told}");
    }
    assert_eq!(std::fs::read_dir(home.path()).unwrap().count(), 0, "nothing is written");
    assert_eq!(database.query("SELECT count(*) FROM pg_namespace WHERE nspname = 'moved'"), ["0"]);
}

#[test]
fn times_without_a_zone_are_of_the_one_that_is_named() {
    let Some(database) = older(ONE_TABLE) else { return };
    let (mut server, flags) = stopped(Target::Embedded, &database);
    import(&Home::new(), &database, &["--timezone", "Asia/Tokyo", &flags[0], &flags[1]], &[]).expect(0);
    server.start_again();
    assert_eq!(server.get("/order/one-1").expect(200).json()["date_created"], "2021-11-25T21:23:19Z");
    let (mut server, flags) = stopped(Target::Embedded, &database);
    import(&Home::new(), &database, &["--timezone", "+09:00", &flags[0], &flags[1]], &[]).expect(0);
    server.start_again();
    assert_eq!(server.get("/order/one-1").expect(200).json()["date_created"], "2021-11-25T21:23:19Z");
}

#[test]
fn dates_that_no_order_can_have_are_rejected_with_their_reason() {
    let Some(database) = older(ONE_TABLE) else { return };
    for date in ["infinity", "-infinity", "0044-03-15 BC", "12021-01-01"] {
        database.query(&format!("UPDATE orders SET date_created = '{date}' WHERE order_uid = 'one-1'"));
        let done = import(&Home::new(), &database, &["--dry-run"], &[]);
        let (reason, date) = ("is no date of the years 1 to 9999: ", date.split(' ').next().unwrap());
        assert!(done.err.contains(&format!("{reason}{date}")) && done.err.contains("999 valid"), "{}", done.err);
    }
}

#[test]
fn rows_that_are_here_already_and_differ_are_reported_as_that() {
    let Some(database) = older(ONE_TABLE) else { return };
    let (mut server, flags) = stopped(Target::Embedded, &database);
    let flags: Vec<&str> = flags.iter().map(String::as_str).collect();
    let home = Home::new();
    let first = import(&home, &database, &flags, &[]).expect(0);
    assert!(first.err.contains("1000 stored") && !first.err.contains("differ"), "{}", first.err);
    let same = import(&home, &database, &flags, &[]).expect(0);
    assert!(same.err.contains("1000 unchanged") && !same.err.contains("differ"), "{}", same.err);
    database.query("UPDATE orders SET entry = 'XXXX' WHERE order_uid IN ('one-1', 'one-2')");
    server.start_again();
    server.post("/orders", r#"{"order_uid":"one-3","status":"deleted"}"#).expect(200);
    assert!(server.stop().success());
    let again = import(&home, &database, &flags, &[]).expect(0);
    let left =
        "2 orders differ from what is here and are left as they are here: nothing says which of the two is newer";
    assert!(again.err.contains(left), "{}", again.err);
    assert!(again.err.contains("1 orders were deleted here, which is final"), "{}", again.err);
    server.start_again();
    assert_ne!(server.get("/order/one-1").expect(200).json()["entry"], "XXXX");
}

/// Numbers that JSON has none of, and times without end.
#[test]
fn numbers_and_times_that_are_none_are_rejected_with_their_reason() {
    let Some(database) = Database::create() else { return };
    database.query(
        "CREATE TABLE orders (order_uid text PRIMARY KEY, sm_id float8, date_created timestamp);
         CREATE TABLE delivery (id serial, order_uid text, name text);
         CREATE TABLE payment (id serial, order_uid text, transaction text, amount numeric, payment_dt timestamp,
                               delivery_cost float8);
         CREATE TABLE items (id serial, order_uid text, price float8, name text);
         INSERT INTO orders SELECT 'n-' || n, 1, '2024-01-01' FROM generate_series(1, 8) AS n;
         INSERT INTO delivery (order_uid, name) SELECT order_uid, 'NaN' FROM orders;
         INSERT INTO payment (order_uid, transaction, amount, payment_dt, delivery_cost)
             SELECT order_uid, 'Infinity', 5, '2024-01-01', 1 FROM orders;
         INSERT INTO items (order_uid, price, name) SELECT order_uid, 1, '-Infinity' FROM orders;
         UPDATE payment SET amount = 'NaN' WHERE order_uid = 'n-1';
         UPDATE payment SET payment_dt = 'infinity' WHERE order_uid = 'n-2';
         UPDATE payment SET payment_dt = '-infinity' WHERE order_uid = 'n-3';
         UPDATE payment SET delivery_cost = 'Infinity' WHERE order_uid = 'n-4';
         UPDATE items SET price = '-Infinity' WHERE order_uid = 'n-5';
         UPDATE orders SET sm_id = 'NaN' WHERE order_uid = 'n-6';
         UPDATE orders SET date_created = 'infinity' WHERE order_uid = 'n-7'",
    );
    let (mut server, flags) = stopped(Target::Embedded, &database);
    let home = Home::new();
    let done = import(&home, &database, &[&flags[0], &flags[1]], &[]).expect(1);
    assert!(done.err.contains("8 read: 1 stored, 0 unchanged, 0 refused, 7 rejected"), "{}", done.err);
    let told = std::fs::read_to_string(home.path().join(format!("{}.rejected", database.name()))).unwrap();
    for (uid, reason) in [
        ("n-1", "/payment/amount is NaN"),
        ("n-2", "/payment/payment_dt is infinity"),
        ("n-3", "/payment/payment_dt is -infinity"),
        ("n-4", "/payment/delivery_cost is Infinity"),
        ("n-5", "/items/0/price is -Infinity"),
        ("n-6", "/sm_id is NaN"),
        ("n-7", "/date_created is no date of the years 1 to 9999: infinity"),
    ] {
        let of_it = |line: &&str| serde_json::from_str::<Value>(line).unwrap()["value"].to_string().contains(uid);
        let line = told.lines().find(of_it).unwrap_or_else(|| panic!("{uid}: {told}"));
        let error = serde_json::from_str::<Value>(line).unwrap()["error"].to_string();
        assert!(error.replace(':', "").contains(&reason.replace(':', "")), "{uid}: {error}");
    }
    // Each row is kept as it was, to be mended and imported.
    let raw = home.path().join(format!("{}.rejected.raw", database.name()));
    let raw = std::fs::read_to_string(raw).unwrap();
    let row = |uid: &str| -> Value {
        let row = raw.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
        row.into_iter().find(|row| row["order"]["order_uid"] == uid).unwrap()
    };
    assert_eq!(row("n-7")["order"]["date_created"], "infinity", "and not what is wrong with it");
    assert_eq!(
        row("n-7")["meta"],
        json!({"id": "n-7", "kind": "wb", "state": "live", "created_at": "infinity",
                                           "updated_at": "infinity"})
    );
    assert_eq!(row("n-1")["order"]["payment"]["amount"], "NaN");
    let mended =
        raw.replace("\"NaN\",\"payment_dt\"", "7,\"payment_dt\"").replace("\"infinity\"", "\"2024-01-01T00:00:00Z\"");
    home.write(
        "mended.ndjson",
        mended.lines().filter(|line| line.contains("n-1\"") || line.contains("n-7\"")).collect::<Vec<_>>().join("\n"),
    );
    let done = home.run(&["import", "mended.ndjson", &flags[0], &flags[1]]).expect(0);
    assert!(done.err.contains("2 stored"), "{}", done.err);
    server.start_again();
    server.get("/order/n-8").expect(200);
    assert_eq!(server.get("/order/n-8").expect(200).json()["payment"]["payment_dt"], 1_704_067_200);
}

/// What is beside the JSON of a row was left out of what was kept.
#[test]
fn a_row_that_is_rejected_is_kept_with_its_times_its_amount_and_its_deletion() {
    let Some(database) = Database::create() else { return };
    let user = "0190163d-8694-739b-aea5-966c26f8ad91";
    database.query(&format!(
        "CREATE TABLE orders (order_id text PRIMARY KEY, user_id text, amount numeric, status text, payload jsonb,
                              created_at timestamptz, updated_at timestamptz);
         INSERT INTO orders VALUES
             ('0190163d-8694-739b-aea5-966c26f8ad01', '{user}', 12.50, 'lost', '{{}}', '2024-01-01 00:00:00+00', '2024-01-02 00:00:00+00'),
             ('0190163d-8694-739b-aea5-966c26f8ad02', '{user}', 'NaN', 'deleted', '[]', '2024-01-01 00:00:00+00', 'infinity')"
    ));
    let home = Home::new();
    import(&home, &database, &[], &[]).expect(1);
    let file =
        |end: &str| std::fs::read_to_string(home.path().join(format!("{}.rejected{end}", database.name()))).unwrap();
    let lines = |text: &str| text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()).collect::<Vec<_>>();
    let (told, raw) = (lines(&file("")), lines(&file(".raw")));
    let (first, second) = ("2024-01-01T00:00:00Z", "2024-01-02T00:00:00Z");
    assert_eq!((&told[0]["amount"], &told[0]["updated_at"]), (&json!("12.50"), &json!(second)));
    assert_eq!((&told[1]["amount"], &told[1]["updated_at"]), (&json!("NaN"), &json!("infinity")));
    let row = |n: u8, amount: Value, status: &str, payload: Value, updated: &str, state: &str| {
        let id = format!("0190163d-8694-739b-aea5-966c26f8ad0{n}");
        json!({
            "order": {"order_id": id, "user_id": user, "status": status, "payload": payload, "amount": amount,
                      "created_at": first, "updated_at": updated},
            "meta": {"id": id, "kind": "envelope", "state": state, "created_at": first, "updated_at": updated},
        })
    };
    assert_eq!(raw[0], row(1, json!(12.5), "lost", json!({}), second, "live"));
    assert_eq!(raw[1], row(2, json!("NaN"), "deleted", json!([]), "infinity", "deleted"));
    // Mended, it is what it was.
    let mended =
        file(".raw").replace("lost", "new").replace("infinity", second).replace("[]", "{}").replace("\"NaN\"", "3.50");
    home.write("mended.ndjson", mended);
    home.run(&["import", "mended.ndjson"]).expect(0);
    let full = lines(&home.run(&["export", "--full"]).expect(0).out);
    assert_eq!((&full[0]["order"]["amount"], &full[0]["order"]["status"]), (&json!(12.5), &json!("new")));
    assert_eq!((&full[1]["order"]["amount"], &full[1]["meta"]["state"]), (&json!(3.5), &json!("deleted")));
    let times =
        |order: &Value| ["created_at", "updated_at"].map(|name| order["meta"][name].as_str().unwrap()[..10].to_owned());
    assert!(full.iter().all(|order| times(order) == ["2024-01-01", "2024-01-02"]), "{full:?}");
}

/// It is made of the id here.
#[test]
fn buckets_that_become_others_are_counted() {
    let Some(database) = older(EVENT_DRIVEN) else { return };
    let none = import(&Home::new(), &database, &["--dry-run"], &[]);
    assert!(!none.err.contains("bucket"), "{}", none.err);
    database.query("UPDATE orders SET bucket = (bucket + 1) % 4 WHERE payload ->> 'id' = 'ext-7'");
    let count = &database.query("SELECT count(*) FROM orders WHERE payload ->> 'id' = 'ext-7'")[0];
    let told = import(&Home::new(), &database, &["--dry-run"], &[]).err;
    assert!(told.contains(&format!("{count} orders have a bucket that is not the first byte")), "{told}");
}

/// The server ends the connection twice when nothing is left but to note the end.
#[test]
fn an_import_whose_store_goes_away_at_its_very_end_is_done_all_the_same() {
    let Some(database) = Database::create() else { return };
    let (home, url) = (Home::new(), database.url());
    home.run(&["migrate", "up", "--postgres", &url]).expect(0);
    database.query(
        "CREATE SEQUENCE ends;
         CREATE FUNCTION end_it() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
             IF nextval('ends') <= 2 THEN PERFORM pg_terminate_backend(pg_backend_pid()); PERFORM pg_sleep(1); END IF;
             RETURN NEW;
         END $$;
         CREATE TRIGGER at_end BEFORE UPDATE ON positions FOR EACH ROW WHEN (NEW.next_offset = 0) EXECUTE FUNCTION end_it()",
    );
    home.write("orders.ndjson", "{\"order_uid\":\"a\"}\n{\"order_uid\":\"b\"}\n");
    let arguments = ["import", "orders.ndjson", "--profile", "lenient", "--postgres", &url];
    let done = home.run(&arguments).expect(0);
    assert!(done.err.contains("2 stored"), "{}", done.err);
    assert_eq!(database.query("SELECT last_value FROM ends"), ["3"], "it was ended twice");
    assert_eq!(database.query("SELECT next_offset FROM positions"), ["0"]);
    assert!(home.run(&arguments).expect(0).err.contains("0 stored, 2 unchanged"));
}

/// From one kind of store into another and back.
#[test]
fn a_full_export_keeps_the_times_of_a_database() {
    let (Some(first), Some(second)) = (Database::create(), Database::create()) else { return };
    let home = Home::new();
    let [one, two] = [first.url(), second.url()];
    home.write(
        "orders.ndjson",
        "{\"order_uid\":\"w-1\"}\n{\"order_uid\":\"w-2\"}\n\
         {\"order_id\":\"0190163d-8694-739b-aea5-966c26f8ad01\",\"user_id\":\"0190163d-8694-739b-aea5-966c26f8ad91\",\
         \"payload\":{\"id\":\"x\",\"amount\":2.50}}\n",
    );
    home.run(&["import", "orders.ndjson", "--profile", "lenient", "--postgres", &one]).expect(0);
    first.query(
        "UPDATE orders SET created_at = '2020-02-03 04:05:06.789', updated_at = '2021-02-03' WHERE order_uid = 'w-1'",
    );
    home.write(
        "more.ndjson",
        "{\"order_uid\":\"w-2\",\"status\":\"deleted\"}\n\
         {\"order_id\":\"0190163d-8694-739b-aea5-966c26f8ad01\",\"status\":\"deleted\"}\n",
    );
    home.run(&["import", "more.ndjson", "--postgres", &one]).expect(0);
    let full = home.run(&["export", "--full", "--postgres", &one]).expect(0).out;
    assert!(full.contains("\"created_at\":\"2020-02-03T04:05:06.789000Z\""), "{full}");
    home.run_fed(&["import", "-", "--postgres", &two], &full).expect(0);
    let all = "SELECT concat_ws(' ', order_uid, kind, state, created_at, updated_at, deleted_at, status, user_id, external_id,
                                amount, bucket, encode(body, 'hex')) FROM orders ORDER BY seq";
    assert_eq!(second.query(all), first.query(all));
    assert_eq!(first.query(all).len(), 3);
    // Through an embedded store, which had no place for the times of WB orders and of tombstones.
    let Some(third) = Database::create() else { return };
    home.run_fed(&["import", "-"], &full).expect(0);
    let embedded = home.run(&["export", "--full"]).expect(0).out;
    assert!(embedded.contains("tombstone"), "{embedded}");
    home.run_fed(&["import", "-", "--postgres", &third.url()], &embedded).expect(0);
    assert_eq!(third.query(all), first.query(all));
}

#[test]
fn a_url_can_come_from_a_file_and_a_schema_be_named() {
    let Some(database) = Database::create() else { return };
    database.query(&format!("CREATE SCHEMA shop; SET search_path = shop; {ONE_TABLE}"));
    let home = Home::new();
    let file = home.write("url", format!("{}\n", database.url())).display().to_string();
    let from = [("ORDER_FROM_POSTGRES_FILE", file.as_str())];
    let arguments = ["import", "--dry-run", "--from-schema", "shop", "--from-postgres"];
    let done = home.run_with(&arguments, &from);
    assert!(done.err.contains("1000 valid"), "{}", done.err);
    let without = home.run(&arguments);
    assert!(without.err.contains("ORDER_FROM_POSTGRES_FILE"), "{}", without.err);
    without.expect(78);
}

#[test]
fn a_database_that_cannot_be_moved_in_is_told_why() {
    let Some(database) = older(FOUR_TABLES) else { return };
    let home = Home::new();
    let told = |database: &Database, more: &[&str], code: i32, why: &str| {
        let done = import(&home, database, more, &[]);
        assert_eq!(done.err.matches(why).count(), 1, "{why}: {}", done.err);
        done.expect(code);
    };
    let (_socket, refusing) = crate::tools::refusing();
    let unreachable = home.run(&["import", "--from-postgres", &format!("postgres://u:secret@{refusing}/orders")]);
    assert!(unreachable.err.contains("cannot connect to the older database") && !unreachable.err.contains("secret"));
    unreachable.expect(1);
    let broken =
        home.run_with(&["import", "--from-postgres"], &[("ORDER_FROM_POSTGRES", "postgres://u:secret%ZZ@db/orders")]);
    assert!(broken.err.contains("ORDER_FROM_POSTGRES: has a %") && !broken.err.contains("secret"), "{}", broken.err);
    broken.expect(78);
    let wrong = home.run(&["import", "--from-postgres", "mysql://u:secret@db/orders"]);
    assert!(wrong.err.contains("--from-postgres: ") && !wrong.err.contains("secret"), "{}", wrong.err);
    wrong.expect(78);
    let missing = home.run(&["import", "--from-postgres", &format!("{}_not", database.url())]);
    assert!(missing.err.contains("does not exist"), "{}", missing.err);
    assert!(
        missing.err.contains("refuses the connection") && !missing.err.contains("cannot connect"),
        "{}",
        missing.err
    );
    missing.expect(1);
    told(&database, &["--profile", "strict"], 78, "--profile: changes nothing with --from-postgres");
    told(
        &database,
        &["--timezone", "Mars/Olympus"],
        78,
        "--timezone: the older database knows no time zone \"Mars/Olympus\"",
    );
    told(&database, &["--timezone", "UTC+3"], 78, "--timezone: \"UTC+3\" is neither the name of a zone such as");
    told(
        &database,
        &["--from-schema", "nowhere"],
        78,
        "--from-schema: the older database has no table orders in \"nowhere\"; there is one in public",
    );
    told(&database, &["--from-schema", ""], 78, "--from-schema: must be the name of the schema");
    database.query("ALTER TABLE payment RENAME TO paid");
    told(&database, &[], 78, "nor in a table payment or payments");
    database.query("ALTER TABLE orders RENAME COLUMN order_uid TO number");
    told(&database, &[], 78, "unknown layout, with the columns number, track_number,");
    let own = Database::create().unwrap();
    home.run(&["migrate", "up", "--postgres", &own.url()]).expect(0);
    told(&own, &[], 78, "the tables of order-service itself");
    let role = format!("reader_{}", database.name());
    database.query(&format!("CREATE ROLE {role} LOGIN"));
    let denied = older(ONE_TABLE).unwrap();
    let url = denied.url().replacen("postgres@", &format!("{role}@"), 1);
    let done = home.run(&["import", "--from-postgres", &url]);
    assert!(done.err.contains("permission denied for table orders"), "{}", done.err);
    done.expect(1);
    // A role that can only read is enough.
    denied.query(&format!("GRANT SELECT ON orders TO {role}"));
    home.run(&["import", "--dry-run", "--from-postgres", &url]).expect(0);
    // What a policy hides from it would be missing without a word.
    denied.query("ALTER TABLE orders ENABLE ROW LEVEL SECURITY");
    let done = home.run(&["import", "--dry-run", "--from-postgres", &url]);
    assert!(done.err.contains("row-level security policy for table \"orders\""), "{}", done.err);
    done.expect(1);
    denied.query(&format!("DROP OWNED BY {role}; DROP ROLE {role}"));
}

/// Nothing is set on the connections of others, and no statement is left there.
#[test]
fn an_older_database_is_read_through_a_pooler_of_transactions() {
    let Some(database) = older(ONE_TABLE) else { return };
    let Some(pooler) = Pooler::start(&database, "transaction") else { return };
    let home = Home::new();
    for _ in 0..2 {
        let done = home.run(&["import", "--dry-run", "--from-postgres", &pooler.url(&database)]);
        assert!(done.err.contains("1000 valid"), "{}", done.err);
    }
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let left = runtime.block_on(async {
        let (client, connection) =
            tokio_postgres::connect(&pooler.url(&database), tokio_postgres::NoTls).await.unwrap();
        tokio::spawn(connection);
        let sql =
            "SELECT current_setting('statement_timeout') || ' ' || current_setting('transaction_read_only') || ' '
                   || (SELECT count(*) FROM pg_prepared_statements)";
        let messages = client.simple_query(sql).await.unwrap();
        let row = messages.into_iter().find_map(|message| match message {
            tokio_postgres::SimpleQueryMessage::Row(row) => row.get(0).map(str::to_owned),
            _ => None,
        });
        row.unwrap()
    });
    assert_eq!(left, "0 off 0");
}
