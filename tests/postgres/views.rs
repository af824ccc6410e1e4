//! Views for the SQL of the older services: their columns, their joins and look-ups, read-only,
//! through later steps.

use serde_json::json;
use tokio_postgres::{Client, NoTls};

use super::{batch, decode, wb};
use crate::cli::Home;
use crate::database::Database;
use order_service::store::Store;
use order_service::store::any::Views;
use order_service::store::postgres::Maintenance;

/// A connection of an older service's: all that is set is where it looks for tables.
async fn client(database: &Database, schema: &str) -> Client {
    let (client, connection) = tokio_postgres::connect(&database.url(), NoTls).await.unwrap();
    tokio::spawn(connection);
    client.batch_execute(&format!("SET search_path = {schema}")).await.unwrap();
    client
}

async fn columns(client: &Client, table: &str) -> String {
    let statement = client.prepare(&format!("SELECT * FROM {table}")).await.unwrap();
    statement.columns().iter().map(tokio_postgres::Column::name).collect::<Vec<_>>().join(" ")
}

async fn texts(client: &Client, sql: &str) -> Vec<String> {
    let messages = client.simple_query(sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    let text = |message| match message {
        tokio_postgres::SimpleQueryMessage::Row(row) => {
            Some((0..row.len()).map(|n| row.get(n).unwrap_or("NULL")).collect::<Vec<_>>().join(" "))
        }
        _ => None,
    };
    messages.into_iter().filter_map(text).collect()
}

async fn is_read_only(client: &Client, table: &str, key: &str) {
    for sql in [
        format!("DELETE FROM {table}"),
        format!("UPDATE {table} SET {key} = {key}"),
        format!("INSERT INTO {table} ({key}) VALUES (NULL)"),
    ] {
        let error = client.batch_execute(&sql).await.expect_err(&sql);
        assert_eq!(error.code().unwrap().code(), "55000", "{sql}: {error:?}");
    }
}

const WB: &str = r#"{"order_uid":"a","track_number":"T","entry":"WBIL","delivery":{"name":"Тест","phone":"+972","zip":"1",
    "city":"c","address":"a","region":"r","email":"a@b.c"},"payment":{"transaction":"a","request_id":"","currency":"USD",
    "provider":"wbpay","amount":1817,"payment_dt":1637907727,"bank":"alpha","delivery_cost":1500,"goods_total":317,
    "custom_fee":0},"items":[{"chrt_id":1,"track_number":"T","price":453,"rid":"r","name":"Mascaras","sale":30,"size":"0",
    "total_price":317,"nm_id":2,"brand":"b","status":202},{"chrt_id":3}],"locale":"en","internal_signature":"",
    "customer_id":"test","delivery_service":"meest","shardkey":"9","sm_id":99,"date_created":"2021-11-26T06:22:19.5Z",
    "oof_shard":"1"}"#;

const DELIVERY: &str = "order_uid name phone zip city address region email";
const PAYMENT: &str = "order_uid transaction request_id currency provider amount payment_dt bank delivery_cost goods_total \
                       custom_fee";
const ITEMS: &str = "order_uid chrt_id track_number price rid name sale size total_price nm_id brand status";
const ORDERS: &str = "order_uid track_number entry locale internal_signature customer_id delivery_service shardkey sm_id \
                      date_created oof_shard";

#[tokio::test]
async fn sql_of_the_four_tables_reads() {
    let Some(database) = Database::create() else { return };
    let store = database.store();
    store.commit(batch([decode(WB), wb("b", 1), wb("gone", 1)])).await.unwrap();
    store.commit(batch([decode(r#"{"order_uid":"gone","status":"deleted"}"#)])).await.unwrap();
    let mut maintenance = Maintenance::open(&database.config()).await.unwrap();
    assert_eq!(maintenance.up_with(false, &[Views::FourTables]).await.unwrap(), [2001]);
    for (schema, ids) in
        [("orders_four_tables", ["id"; 3]), ("orders_four_tables_named_ids", ["delivery_id", "payment_id", "item_id"])]
    {
        let client = client(&database, schema).await;
        assert_eq!(columns(&client, "orders").await, ORDERS);
        for (table, id, rest) in [
            ("delivery", ids[0], DELIVERY),
            ("deliveries", ids[0], DELIVERY),
            ("payment", ids[1], PAYMENT),
            ("payments", ids[1], PAYMENT),
            ("items", ids[2], ITEMS),
        ] {
            assert_eq!(columns(&client, table).await, format!("{id} {rest}"), "{schema}.{table}");
            is_read_only(&client, table, "order_uid").await;
        }
        is_read_only(&client, "orders", "order_uid").await;
        let whole = "SELECT o.order_uid, o.sm_id, o.date_created, d.name, p.amount, p.payment_dt, i.chrt_id, i.status
                     FROM orders o JOIN delivery d ON d.order_uid = o.order_uid JOIN payment p ON p.order_uid = o.order_uid
                     LEFT JOIN items i ON i.order_uid = o.order_uid WHERE o.order_uid = 'a' ORDER BY i.chrt_id";
        assert_eq!(
            texts(&client, whole).await,
            [
                "a 99 2021-11-26 06:22:19.5 Тест 1817 1637907727 1 202",
                "a 99 2021-11-26 06:22:19.5 Тест 1817 1637907727 3 0"
            ]
        );
        let newest = "SELECT order_uid FROM orders ORDER BY date_created DESC NULLS LAST";
        assert_eq!(texts(&client, newest).await, ["a", "b"], "a deleted order had no row there");
        assert_eq!(texts(&client, "SELECT count(*) FROM delivery").await, ["1"]);
        let plan = texts(&client, "EXPLAIN SELECT * FROM items WHERE order_uid = 'a'").await.join("\n");
        assert_eq!(plan.matches(" on orders_p").count(), 1, "one partition is read: {plan}");
    }
    // The numbers of parts stay, whatever becomes of their order and of others.
    let numbers = "SELECT array_agg(id ORDER BY id)::text FROM orders_four_tables.items WHERE order_uid = 'a'";
    let before = database.query(numbers);
    store.commit(batch([decode(&WB.replace("Тест", "Other")), wb("b", 2), wb("c", 1)])).await.unwrap();
    assert_eq!(database.query(numbers), before);
    assert_eq!(database.query("SELECT name FROM orders_four_tables.delivery"), ["Other"]);
    let twice = "SELECT count(*) - count(DISTINCT id) FROM orders_four_tables.items";
    assert_eq!(database.query(twice), ["0"]);
}

#[tokio::test]
async fn whole_numbers_of_64_bits_are_read_and_others_are_null() {
    let Some(database) = Database::create() else { return };
    let mut maintenance = Maintenance::open(&database.config()).await.unwrap();
    maintenance.up_with(false, &[Views::FourTables]).await.unwrap();
    for number in
        ["0", "-1", "999999999999999999", "1000000000000000000", "9223372036854775807", "-9223372036854775808"]
    {
        assert_eq!(database.query(&format!("SELECT order_whole('{number}')")), [number]);
    }
    for other in ["9223372036854775808", "-9223372036854775809", "10000000000000000000", "1e3", "12.5", "", "x"] {
        assert_eq!(database.query(&format!("SELECT order_whole('{other}')")), ["NULL"], "{other}");
    }
    let order = r#"{"order_uid":"n","payment":{"amount":1e3,"goods_total":9223372036854775807,"custom_fee":null}}"#;
    database.store().commit(batch([decode(order)])).await.unwrap();
    let numbers = "SELECT concat_ws(' ', coalesce(amount::text, 'NULL'), goods_total, custom_fee, payment_dt)
                   FROM orders_four_tables.payment";
    assert_eq!(database.query(numbers), ["NULL 9223372036854775807 0 0"]);
}

#[tokio::test]
async fn sql_of_the_one_table_reads() {
    let Some(database) = Database::create() else { return };
    let store = database.store();
    let huge = r#"{"order_uid":"huge","payment":{"amount":1e400000}}"#;
    store.commit(batch([decode(WB), decode(huge)])).await.unwrap();
    let mut maintenance = Maintenance::open(&database.config()).await.unwrap();
    assert_eq!(maintenance.up_with(false, &[Views::OneTable]).await.unwrap(), [2002]);
    let client = client(&database, "orders_one_table").await;
    assert_eq!(
        columns(&client, "orders").await,
        "order_uid track_number entry locale internal_signature customer_id delivery_service shardkey sm_id date_created \
         oof_shard delivery payment items"
    );
    is_read_only(&client, "orders", "order_uid").await;
    let parts = "SELECT delivery ->> 'name', payment -> 'amount', jsonb_array_length(items), date_created FROM orders
                 WHERE order_uid = 'a' AND payment @> '{\"currency\": \"USD\"}'";
    assert_eq!(texts(&client, parts).await, ["Тест 1817 2 2021-11-26 06:22:19.5"]);
    let all =
        texts(&client, "SELECT order_uid, jsonb_typeof(payment), items FROM orders ORDER BY order_uid DESC LIMIT 1")
            .await;
    assert_eq!(all, ["huge string []"], "one order that jsonb cannot hold hides no other");
}

#[tokio::test]
async fn sql_of_the_event_driven_service_reads() {
    let Some(database) = Database::create() else { return };
    let store = database.store();
    let id = |n: u32| format!("0000000{n}-0000-4000-8000-000000000000");
    let user = "00000000-0000-4000-8000-000000000001";
    let envelope = |n: u32, external: &str| {
        let payload = json!({"id": external, "amount": 12.5, "n": n});
        decode(&json!({"order_id": id(n), "user_id": user, "payload": payload}).to_string())
    };
    for n in 1..4 {
        store.commit(batch([envelope(n, "ext")])).await.unwrap();
    }
    let deleted = json!({"order_id": id(3), "user_id": user, "status": "deleted", "payload": {"id": "ext", "n": 3}});
    store.commit(batch([decode(&deleted.to_string()), decode(WB)])).await.unwrap();
    let mut maintenance = Maintenance::open(&database.config()).await.unwrap();
    assert_eq!(maintenance.up_with(false, &[Views::EventDriven]).await.unwrap(), [2003]);
    for (schema, external) in [("orders_event_driven", ""), ("orders_event_driven_external", "external_id ")] {
        let client = client(&database, schema).await;
        let all = columns(&client, "orders").await;
        assert_eq!(all, format!("order_id {external}user_id amount status payload created_at updated_at bucket"));
        is_read_only(&client, "orders", "order_id").await;
        // Typed, as their clients ask.
        let sql =
            "SELECT order_id::text, amount, payload ->> 'n', bucket FROM orders WHERE order_id = $1 AND bucket = $2";
        let statement = client.prepare(sql).await.unwrap();
        assert_eq!(
            statement.params().iter().map(tokio_postgres::types::Type::name).collect::<Vec<_>>(),
            ["uuid", "int4"]
        );
        let newest = format!(
            "SELECT order_id, status, amount FROM orders WHERE payload ->> 'id' = 'ext' AND user_id = '{user}'
             ORDER BY created_at DESC"
        );
        let rows = texts(&client, &newest).await;
        assert_eq!(rows.len(), 3, "{rows:?}");
        assert!(rows[0].starts_with(&format!("{} deleted", id(3))), "a deleted order keeps its row: {rows:?}");
        assert_eq!(rows[1..], [format!("{} new 12.5", id(2)), format!("{} new 12.5", id(1))]);
        client.batch_execute("SET enable_seqscan = off").await.unwrap();
        for (by, index) in
            [(format!("order_id = '{}'", id(1)), "case_idx"), (format!("user_id = '{user}'"), "user_id_idx")]
        {
            let plan = texts(&client, &format!("EXPLAIN SELECT * FROM orders WHERE {by}")).await.join("\n");
            assert!(plan.contains("Index") && plan.contains(index), "{by}: {plan}");
        }
    }
    let by_column =
        "SELECT order_id FROM orders_event_driven_external.orders WHERE external_id = 'ext' AND status = 'new'";
    assert_eq!(database.query(by_column).len(), 2);
}

#[test]
fn views_are_made_on_wish_and_outlive_later_steps() {
    let Some(database) = Database::create() else { return };
    let home = Home::new();
    let url = database.url();
    let run = |arguments: &[&str]| home.run(&[arguments, &["--postgres", &url, "--postgres-schema", "shop"]].concat());
    assert_eq!(run(&["migrate", "up"]).out, "applied [1, 2, 3, 4]\n");
    let all = ["migrate", "up", "--views", "event-driven", "--views", "four-tables", "--views", "one-table"];
    assert_eq!(run(&all).out, "applied [2001, 2002, 2003]\n");
    assert_eq!(run(&all).out, "nothing to do\n");
    // A step that came after they were made, and the start of a service.
    assert_eq!(run(&["migrate", "up", "--optional"]).out, "applied [1001]\n");
    let status = run(&["migrate", "status"]).out;
    assert!(status.contains("2001 four_tables      applied") && status.contains("1001 search_indexes"), "{status}");
    let schemas = "SELECT nspname FROM pg_namespace WHERE nspname LIKE '%shop%' ORDER BY 1";
    assert_eq!(
        database.query(schemas),
        [
            "shop",
            "shop_event_driven",
            "shop_event_driven_external",
            "shop_four_tables",
            "shop_four_tables_named_ids",
            "shop_one_table"
        ]
    );
    home.write("orders.ndjson", WB.replace('\n', " "));
    run(&["import", "orders.ndjson", "--profile", "lenient"]).expect(0);
    assert_eq!(database.query("SELECT count(*) FROM shop_four_tables.items"), ["2"]);
    for step in [2003, 2002, 2001, 1001] {
        assert_eq!(run(&["migrate", "down", "--yes"]).out, format!("took back [{step}]\n"));
    }
    assert_eq!(database.query(schemas), ["shop"]);
    assert_eq!(database.query("SELECT count(*) FROM shop.orders"), ["1"], "no order is touched");
    // A schema of that name is another's.
    database.query("CREATE SCHEMA shop_one_table");
    let taken = run(&["migrate", "up", "--views", "one-table"]);
    assert!(taken.err.contains("schema \"shop_one_table\""), "{}", taken.err);
    taken.expect(78);
    let wrong = run(&["migrate", "up", "--views", "two-tables"]);
    assert!(wrong.err.contains("four-tables, one-table and event-driven"), "{}", wrong.err);
    wrong.expect(2);
    {
        let embedded = home.run(&["migrate", "up", "--views", "one-table"]);
        assert!(embedded.err.contains("PostgreSQL"), "{}", embedded.err);
    }
}
