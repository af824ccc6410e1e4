//! What the service answers, byte for byte, against the contract's rows.

pub mod access;
mod compress;
mod conditions;
mod cores;
mod cut_short;
mod errors;
mod events;
mod heartbeat;
mod hit;
mod ignored;
mod limits;
mod list;
mod mixture;
mod page;
mod read;
mod write;

/// A WB order as a producer may send it: white space, an unknown field, odd spellings of numbers and characters.
pub fn wb_posted(id: &str) -> String {
    format!(
        "\t{{ \"order_uid\" : \"{id}\",\r\n  \"track_number\": \"WBILMTESTTRACK\", \"entry\": \"WBIL\",
  \"delivery\": {{ \"name\": \"T\\u0435st  Testov\", \"phone\": \"+9720000000\", \"zip\": \"2639809\", \"city\": \"Kiryat \\\"Mozkin\\\"\",
    \"address\": \"Ploshad Mira 15\", \"region\": \"Кraiot\", \"email\": \"test@gmail.com\" }},
  \"payment\": {{ \"transaction\": \"{id}\", \"request_id\": \"\", \"currency\": \"USD\", \"provider\": \"wbpay\", \"amount\": 1817,
    \"payment_dt\": 1637907727, \"bank\": \"alpha\", \"delivery_cost\": 1500, \"goods_total\": 317, \"custom_fee\": 0 }},
  \"items\": [ {{ \"chrt_id\": 9934930, \"track_number\": \"WBILMTESTTRACK\", \"price\": 453, \"rid\": \"ab4219087a764ae0btest\",
    \"name\": \"Mascaras\", \"sale\": 30, \"size\": \"0\", \"total_price\": 317, \"nm_id\": 9007199254740993, \"brand\": \"Vivienne Sabo\",
    \"status\": 202 }} ],
  \"x_unknown\": {{ \"b\": [ 1.50, -0, 1E5 , null , true ], \"a\": {{ }} }},
  \"locale\": \"en\", \"internal_signature\": \"\", \"customer_id\": \"test\", \"delivery_service\": \"meest\", \"shardkey\": \"9\",
  \"sm_id\": 99, \"date_created\": \"2021-11-26T06:22:19Z\", \"oof_shard\": \"1\" }}\n"
    )
}

/// What is answered for [`wb_posted`], spelled out rather than computed.
pub fn wb_answered(id: &str) -> String {
    format!(
        "{{\"order_uid\":\"{id}\",\"track_number\":\"WBILMTESTTRACK\",\"entry\":\"WBIL\",\
\"delivery\":{{\"name\":\"T\\u0435st  Testov\",\"phone\":\"+9720000000\",\"zip\":\"2639809\",\"city\":\"Kiryat \\\"Mozkin\\\"\",\
\"address\":\"Ploshad Mira 15\",\"region\":\"Кraiot\",\"email\":\"test@gmail.com\"}},\
\"payment\":{{\"transaction\":\"{id}\",\"request_id\":\"\",\"currency\":\"USD\",\"provider\":\"wbpay\",\"amount\":1817,\
\"payment_dt\":1637907727,\"bank\":\"alpha\",\"delivery_cost\":1500,\"goods_total\":317,\"custom_fee\":0}},\
\"items\":[{{\"chrt_id\":9934930,\"track_number\":\"WBILMTESTTRACK\",\"price\":453,\"rid\":\"ab4219087a764ae0btest\",\
\"name\":\"Mascaras\",\"sale\":30,\"size\":\"0\",\"total_price\":317,\"nm_id\":9007199254740993,\"brand\":\"Vivienne Sabo\",\
\"status\":202}}],\"x_unknown\":{{\"b\":[1.50,-0,1E5,null,true],\"a\":{{}}}},\
\"locale\":\"en\",\"internal_signature\":\"\",\"customer_id\":\"test\",\"delivery_service\":\"meest\",\"shardkey\":\"9\",\
\"sm_id\":99,\"date_created\":\"2021-11-26T06:22:19Z\",\"oof_shard\":\"1\"}}"
    )
}

/// A user of envelope orders.
pub const USER: &str = "11111111-2222-4333-8444-555555555555";

/// A request to create an envelope order under an id chosen by the service.
pub fn envelope(payload: &str) -> String {
    format!("{{\"user_id\":\"{USER}\",\"payload\":{payload}}}")
}

/// Posts an order and gives its id.
#[track_caller]
pub fn created(server: &crate::server::Server, body: impl AsRef<[u8]>) -> String {
    let reply = server.post("/orders", body).expect(201).json();
    reply["order_id"].as_str().expect("an id").to_owned()
}

/// `count` WB orders named `prefix-0`, `prefix-1`, …, a line each.
pub fn wb_lines(prefix: &str, count: usize) -> String {
    (0..count).map(|n| wb_answered(&format!("{prefix}-{n}")) + "\n").collect()
}

/// Posts lines and checks that each was taken.
#[track_caller]
pub fn post_lines(server: &crate::server::Server, lines: &str) {
    let reply = server.request("POST", "/orders", &[("Content-Type", "application/x-ndjson")], lines).expect(200);
    let taken = reply.text().lines().filter(|line| line.contains("\"status\":\"created\"")).count();
    assert_eq!(taken, lines.lines().count(), "{}", reply.text().lines().next().unwrap_or_default());
}
