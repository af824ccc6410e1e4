//! How an older service laid its tables out, told by their columns, and the statements that read
//! orders from them. Pure: the statements are text, and what they find is not known here.

use std::collections::BTreeMap;
use std::fmt::Write as _;

/// What begins the text of a date that no order can have; the date follows.
pub(super) const BEYOND: &str = "is no date of the years 1 to 9999: ";

/// The tables an older service may have, by name.
pub(super) const TABLES: [&str; 6] = ["orders", "delivery", "deliveries", "payment", "payments", "items"];

/// A column as the database describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Column {
    pub(super) name: String,
    /// Its type's name in `pg_type`.
    pub(super) kind: String,
}

/// The columns of each table that is there, in their order.
pub(super) type Tables = BTreeMap<String, Vec<Column>>;

/// The layouts there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LayoutKind {
    /// Orders, and their parts in tables of their own.
    FourTables,
    /// Orders with their parts as JSON.
    OneTable,
    /// Orders of users, with a payload.
    EventDriven,
}

impl LayoutKind {
    /// Its name, as views have it.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::FourTables => "four-tables",
            Self::OneTable => "one-table",
            Self::EventDriven => "event-driven",
        }
    }
}

/// Why tables are of no layout that is known.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UnknownLayout {
    /// There is no table of orders.
    #[error("has no table orders in {0}; --from-schema names the schema where it is")]
    NoOrders(String),
    /// It is one of this program's own.
    #[error("has the tables of order-service itself; use order-service export there and import the file")]
    Own,
    /// One of the four is missing.
    #[error("has a table orders of WB orders whose parts are neither columns of type json nor in a table {0}")]
    Missing(&'static str),
    /// A part does not say which order it is of.
    #[error("has a table {0} without a column order_uid")]
    Unlinked(String),
    /// None at all.
    #[error(
        "has a table orders of an unknown layout, with the columns {0}; known are order_uid with tables delivery, payment and \
         items, order_uid with columns delivery, payment and items, and order_id with user_id and payload"
    )]
    Other(String),
}

/// What is read, and how.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Layout {
    pub(super) kind: LayoutKind,
    /// Selects a row for each order: its JSON, when it was created and changed, its amount, whether
    /// it was deleted, and the date in its JSON.
    select: String,
    order_by: String,
    /// Each counts what is to be said of the database, and says what.
    pub(super) counts: Vec<(String, &'static str)>,
    /// Columns that no order has a place for.
    pub(super) left_out: Vec<String>,
}

const HEAD: [&str; 3] = ["order_uid", "track_number", "entry"];
const TAIL: [&str; 8] = [
    "locale",
    "internal_signature",
    "customer_id",
    "delivery_service",
    "shardkey",
    "sm_id",
    "date_created",
    "oof_shard",
];
const DELIVERY: [&str; 7] = ["name", "phone", "zip", "city", "address", "region", "email"];
const PAYMENT: [&str; 10] = [
    "transaction",
    "request_id",
    "currency",
    "provider",
    "amount",
    "payment_dt",
    "bank",
    "delivery_cost",
    "goods_total",
    "custom_fee",
];
const ITEM: [&str; 11] =
    ["chrt_id", "track_number", "price", "rid", "name", "sale", "size", "total_price", "nm_id", "brand", "status"];
const REPEATED: &str = "orders come after another one of the same order_uid, and are not taken";
/// What tells rows apart and means nothing outside of the database.
const NUMBERS: [&str; 5] = ["id", "delivery_id", "payment_id", "item_id", "bucket"];

/// A table of the source in the statements.
struct Table<'t> {
    /// Its name with its schema, quoted.
    name: String,
    plain_name: &'t str,
    columns: &'t [Column],
    /// Of times without one, as an expression.
    zone: &'t str,
}

impl Table<'_> {
    fn has(&self, name: &str) -> bool {
        self.columns.iter().any(|column| column.name == name)
    }

    fn is_json(&self, name: &str) -> bool {
        let mut found = self.columns.iter().filter(|column| column.name == name);
        found.any(|column| matches!(&*column.kind, "json" | "jsonb"))
    }

    /// The members that there are columns for, each as an expression with its name.
    fn members(&self, alias: &str, names: &[&str]) -> Vec<String> {
        let present = names.iter().filter_map(|name| self.columns.iter().find(|column| column.name == *name));
        present.map(|column| format!("{} AS {}", self.value(alias, column), quoted(&column.name))).collect()
    }

    /// A column as its JSON has it.
    fn value(&self, alias: &str, column: &Column) -> String {
        let name = format!("{alias}.{}", quoted(&column.name));
        match (&*column.kind, &*column.name) {
            ("timestamp" | "timestamptz", "payment_dt") => {
                let instant = self.instant(&name, column);
                let seconds = format!("to_json(extract(epoch FROM {instant})::bigint)");
                format!("CASE WHEN isfinite({name}) THEN {seconds} ELSE to_json({name}::text) END")
            }
            ("timestamp" | "timestamptz" | "date", _) => self.rfc3339(&name, column),
            _ => name,
        }
    }

    /// With a zone.
    fn instant(&self, name: &str, column: &Column) -> String {
        match &*column.kind {
            "timestamptz" => name.to_owned(),
            _ => format!("({name}::timestamp AT TIME ZONE {})", self.zone),
        }
    }

    /// As the older services answer times: UTC, and no more digits of a second than it has. Text
    /// that begins with [`BEYOND`] where it is no date of those years.
    fn rfc3339(&self, name: &str, column: &Column) -> String {
        let instant = self.instant(name, column);
        format!(
            "CASE WHEN {name} >= '0001-01-01' AND {name} < '10000-01-01' \
             AND {instant} >= '0001-01-01 00:00:00+00' AND {instant} < '10000-01-01 00:00:00+00' \
             THEN rtrim(rtrim(to_char({instant} AT TIME ZONE 'UTC', 'YYYY-MM-DD\"T\"HH24:MI:SS.US'), '0'), '.') || 'Z' \
             ELSE {beyond} || {name}::text END",
            beyond = literal(BEYOND)
        )
    }

    /// When a row was what its column says, as text; null where there is no such column.
    fn time(&self, alias: &str, names: &[&str]) -> String {
        let found = names.iter().find_map(|name| self.columns.iter().find(|column| column.name == *name));
        found.map_or_else(|| "NULL".into(), |column| format!("({})::text", self.value(alias, column)))
    }

    /// What rows are sorted by: the first of these that there are, oldest first.
    fn sorted(&self, alias: &str, names: &[&str]) -> String {
        let mut keys = String::new();
        for name in names.iter().filter(|name| self.has(name)) {
            let _ = write!(keys, "{alias}.{} NULLS FIRST, ", quoted(name));
        }
        // No two rows are alike, so that two cursors agree on what is before what.
        let _ = write!(keys, "{alias}.tableoid, {alias}.ctid");
        keys
    }

    /// The column that says which order a part is of. A payment's transaction is its order's id
    /// where there is no other.
    fn link(&self) -> Result<&'static str, UnknownLayout> {
        let names: &[&'static str] = if self.plain_name.starts_with("payment") {
            &["order_uid", "order_id", "transaction"]
        } else {
            &["order_uid", "order_id"]
        };
        let found = names.iter().find(|name| self.has(name));
        found.copied().ok_or_else(|| UnknownLayout::Unlinked(self.plain_name.to_owned()))
    }

    fn left_out(&self, known: &[&[&str]]) -> Vec<String> {
        let is_known = |name: &str| known.iter().any(|names| names.contains(&name)) || NUMBERS.contains(&name);
        let left_out = self.columns.iter().filter(move |column| !is_known(&column.name));
        left_out.map(|column| format!("{}.{}", self.plain_name, column.name)).collect()
    }
}

impl Layout {
    /// Finds out which one the tables of a schema are of. Times without a zone are of `zone`, an
    /// expression.
    pub(super) fn recognize(schema: &str, tables: &Tables, zone: &str) -> Result<Self, UnknownLayout> {
        let table = |names: &[&'static str]| {
            names.iter().find_map(|name| {
                let columns = tables.get(*name)?;
                let full = format!("{}.{}", quoted(schema), quoted(name));
                Some(Table { name: full, plain_name: name, columns, zone })
            })
        };
        let orders = table(&["orders"]).ok_or_else(|| UnknownLayout::NoOrders(schema.to_owned()))?;
        if ["changed_in", "seq", "body"].iter().all(|name| orders.has(name)) {
            return Err(UnknownLayout::Own);
        }
        if ["order_id", "user_id"].iter().all(|name| orders.has(name)) && orders.is_json("payload") {
            return Ok(event_driven(&orders));
        }
        if !orders.has("order_uid") {
            let names: Vec<_> = orders.columns.iter().map(|column| &*column.name).collect();
            return Err(UnknownLayout::Other(names.join(", ")));
        }
        if ["delivery", "payment", "items"].iter().all(|name| orders.is_json(name)) {
            return Ok(one_table(&orders));
        }
        let part = |names: &[&'static str], missing| table(names).ok_or(UnknownLayout::Missing(missing));
        let delivery = part(&["delivery", "deliveries"], "delivery or deliveries")?;
        let payment = part(&["payment", "payments"], "payment or payments")?;
        let items = part(&["items"], "items")?;
        four_tables(&orders, &delivery, &payment, &items)
    }

    /// Declares a cursor over all orders but `from` of the oldest, and over those alone where
    /// `is_before`.
    pub(super) fn cursor(&self, name: &str, from: u64, is_before: bool) -> String {
        let part = if is_before { format!("LIMIT {from}") } else { format!("OFFSET {from}") };
        format!("DECLARE {name} NO SCROLL CURSOR FOR {} ORDER BY {} {part}", self.select, self.order_by)
    }
}

/// Parts are joined as a whole: older tables have no index that a look-up for each order could
/// take.
fn four_tables(
    orders: &Table<'_>,
    delivery: &Table<'_>,
    payment: &Table<'_>,
    items: &Table<'_>,
) -> Result<Layout, UnknownLayout> {
    let keys = (delivery.link()?, payment.link()?, items.link()?);
    let single = |table: &Table<'_>, key: &str, names: &[&str]| {
        format!(
            "LEFT JOIN (SELECT DISTINCT ON (t.{key}) t.{key}::text AS part_of, \
             (SELECT row_to_json(m) FROM (SELECT {members}) m) AS part FROM {table} t ORDER BY t.{key}, {order}) {alias} \
             ON {alias}.part_of = o.order_uid::text",
            key = quoted(key),
            members = table.members("t", names).join(", "),
            table = table.name,
            order = table.sorted("t", &NUMBERS[..4]),
            alias = if names.len() == DELIVERY.len() { "d" } else { "p" },
        )
    };
    let members = [
        orders.members("o", &HEAD),
        vec!["d.part AS delivery".into(), "p.part AS payment".into(), "coalesce(i.parts, '[]') AS items".into()],
        orders.members("o", &TAIL),
    ];
    let select = format!(
        "SELECT (SELECT row_to_json(m) FROM (SELECT {members}) m)::text, {created}, {created}, NULL, NULL, {dated} \
         FROM {orders} o {delivery} {payment} \
         LEFT JOIN (SELECT t.{key}::text AS part_of, json_agg((SELECT row_to_json(m) FROM (SELECT {item}) m) ORDER BY {order}) \
         AS parts FROM {items} t GROUP BY t.{key}) i ON i.part_of = o.order_uid::text",
        members = members.concat().join(", "),
        created = orders.time("o", &["created_at", "date_created"]),
        dated = orders.time("o", &["date_created"]),
        orders = orders.name,
        delivery = single(delivery, keys.0, &DELIVERY),
        payment = single(payment, keys.1, &PAYMENT),
        key = quoted(keys.2),
        item = items.members("t", &ITEM).join(", "),
        order = items.sorted("t", &NUMBERS[..4]),
        items = items.name,
    );
    let left_out = [
        orders.left_out(&[&HEAD, &TAIL]),
        delivery.left_out(&[&DELIVERY, &[keys.0]]),
        payment.left_out(&[&PAYMENT, &[keys.1]]),
        items.left_out(&[&ITEM, &[keys.2]]),
    ];
    Ok(Layout {
        kind: LayoutKind::FourTables,
        select,
        order_by: orders.sorted("o", &["created_at", "date_created", "id"]),
        counts: counts_of_parts(orders, [(delivery, keys.0), (payment, keys.1), (items, keys.2)]),
        left_out: left_out.concat(),
    })
}

/// What is to be said of parts that do not belong to one order each.
fn counts_of_parts(orders: &Table<'_>, parts: [(&Table<'_>, &str); 3]) -> Vec<(String, &'static str)> {
    let orphans = |(table, key): (&Table<'_>, &str)| {
        format!(
            "SELECT count(*) FROM {} t WHERE NOT EXISTS (SELECT FROM {} o WHERE o.order_uid::text = t.{}::text)",
            table.name,
            orders.name,
            quoted(key)
        )
    };
    let repeated = |(table, key): (&Table<'_>, &str)| {
        let key = quoted(key);
        format!("SELECT count(t.{key}) - count(DISTINCT t.{key}) FROM {} t", table.name)
    };
    let without = |(table, key): (&Table<'_>, &str)| {
        format!(
            "SELECT count(*) FROM {} o WHERE NOT EXISTS (SELECT FROM {} t WHERE t.{}::text = o.order_uid::text)",
            orders.name,
            table.name,
            quoted(key)
        )
    };
    let [delivery, payment, items] = parts;
    vec![
        (repeated((orders, "order_uid")), REPEATED),
        (orphans(delivery), "deliveries are of no order, and left out"),
        (orphans(payment), "payments are of no order, and left out"),
        (orphans(items), "items are of no order, and left out"),
        (repeated(delivery), "deliveries come after another one of the same order, and are left out"),
        (repeated(payment), "payments come after another one of the same order, and are left out"),
        (without(delivery), "orders have no delivery; it is null in them"),
        (without(payment), "orders have no payment; it is null in them"),
        (without(items), "orders have no items; theirs are an empty list"),
    ]
}

fn one_table(orders: &Table<'_>) -> Layout {
    let members = [
        orders.members("o", &HEAD),
        vec![
            format!("{} AS delivery", in_order(orders, "delivery", &DELIVERY)),
            format!("{} AS payment", in_order(orders, "payment", &PAYMENT)),
            format!("{} AS items", items_in_order(orders)),
        ],
        orders.members("o", &TAIL),
    ];
    let select = format!(
        "SELECT (SELECT row_to_json(m) FROM (SELECT {members}) m)::text, {created}, {created}, NULL, NULL, {dated} \
         FROM {orders} o",
        members = members.concat().join(", "),
        created = orders.time("o", &["created_at", "date_created"]),
        dated = orders.time("o", &["date_created"]),
        orders = orders.name,
    );
    Layout {
        kind: LayoutKind::OneTable,
        select,
        order_by: orders.sorted("o", &["created_at", "date_created", "id"]),
        counts: vec![(
            format!("SELECT count(o.order_uid) - count(DISTINCT o.order_uid) FROM {} o", orders.name),
            REPEATED,
        )],
        left_out: orders.left_out(&[&HEAD, &TAIL, &["delivery", "payment", "items"]]),
    }
}

/// A part with its members in the order in which the older services write them: jsonb has forgotten
/// the producer's.
fn in_order(orders: &Table<'_>, name: &str, members: &[&str]) -> String {
    match orders.columns.iter().find(|column| column.name == name) {
        Some(column) if column.kind == "jsonb" => sorted_members(&format!("o.{name}"), members),
        _ => format!("o.{name}"),
    }
}

fn items_in_order(orders: &Table<'_>) -> String {
    match orders.columns.iter().find(|column| column.name == "items") {
        Some(column) if column.kind == "jsonb" => format!(
            "CASE jsonb_typeof(o.items) WHEN 'array' THEN coalesce((SELECT json_agg({} ORDER BY e.n) FROM \
             jsonb_array_elements(CASE jsonb_typeof(o.items) WHEN 'array' THEN o.items ELSE '[]' END) \
             WITH ORDINALITY AS e (item, n)), '[]') ELSE o.items::json END",
            sorted_members("e.item", &ITEM)
        ),
        _ => "o.items".into(),
    }
}

fn sorted_members(value: &str, members: &[&str]) -> String {
    let names: Vec<_> = members.iter().map(|name| literal(name)).collect();
    format!(
        "CASE jsonb_typeof({value}) WHEN 'object' THEN coalesce((SELECT json_object_agg(k.key, k.value ORDER BY \
         coalesce(array_position(ARRAY[{names}], k.key), 1000), k.key) \
         FROM jsonb_each(CASE jsonb_typeof({value}) WHEN 'object' THEN {value} ELSE '{{}}' END) k), '{{}}') \
         ELSE {value}::json END",
        names = names.join(", ")
    )
}

fn event_driven(orders: &Table<'_>) -> Layout {
    let status = if orders.has("status") { "o.status::text" } else { "NULL::text" };
    // A deleted order is told apart beside its JSON, in which it is the request that made it.
    let select = format!(
        "SELECT (SELECT row_to_json(m) FROM (SELECT o.order_id, o.user_id, \
         CASE WHEN {status} <> 'deleted' THEN {status} END AS status, o.payload) m)::text, \
         {created}, {updated}, {amount}, {status} = 'deleted', NULL FROM {orders} o",
        created = orders.time("o", &["created_at"]),
        updated = orders.time("o", &["updated_at", "created_at"]),
        amount = if orders.has("amount") { "o.amount::text" } else { "NULL" },
        orders = orders.name,
    );
    let mut counts = Vec::new();
    if orders.has("external_id") {
        counts.push((
            format!(
                "SELECT count(*) FROM {} o WHERE o.external_id::text <> '' \
                 AND o.external_id::text IS DISTINCT FROM o.payload ->> 'id'",
                orders.name
            ),
            "orders have an external_id that is not the id in their payload, by which alone they are found from now on",
        ));
    }
    let bucket = orders.columns.iter().find(|column| column.name == "bucket");
    if bucket.is_some_and(|column| column.kind.starts_with("int")) {
        counts.push((
            format!(
                "SELECT count(*) FROM {} o WHERE o.bucket IS DISTINCT FROM (CASE WHEN o.order_id::text ~* \
                 '^[0-9a-f]{{8}}(-?[0-9a-f]{{4}}){{3}}-?[0-9a-f]{{12}}$' THEN \
                 get_byte(decode(substr(o.order_id::text, 1, 2), 'hex'), 0) % 4 ELSE o.bucket END)",
                orders.name
            ),
            "orders have a bucket that is not the first byte of their id modulo 4, which it is from now on",
        ));
    }
    let known: [&[&str]; 1] =
        [&["order_id", "user_id", "amount", "status", "payload", "created_at", "updated_at", "external_id"]];
    Layout {
        kind: LayoutKind::EventDriven,
        select,
        order_by: orders.sorted("o", &["created_at", "order_id"]),
        counts,
        left_out: orders.left_out(&known),
    }
}

/// A name in a statement.
pub(super) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

/// A text in a statement.
pub(super) fn literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tables(described: &[(&str, &str)]) -> Tables {
        let columns = |text: &str| {
            let column = |text: &str| {
                let (name, kind) = text.split_once(' ').unwrap_or((text, "text"));
                Column { name: name.into(), kind: kind.into() }
            };
            text.split(", ").map(column).collect()
        };
        described.iter().map(|(name, text)| ((*name).to_owned(), columns(text))).collect()
    }

    fn kind(described: &[(&str, &str)]) -> Result<LayoutKind, String> {
        let recognized = Layout::recognize("public", &tables(described), "'UTC'");
        recognized.map(|layout| layout.kind).map_err(|error| error.to_string())
    }

    #[test]
    fn layouts_are_told_by_their_columns() {
        let wb = ("orders", "order_uid, track_number, date_created timestamp");
        let parts = [("delivery", "id int4, order_uid, name"), ("payments", "transaction, amount int4")];
        let items = ("items", "item_id int4, order_uid, chrt_id int8");
        assert_eq!(kind(&[wb, parts[0], parts[1], items]), Ok(LayoutKind::FourTables));
        let json = ("orders", "order_uid, delivery jsonb, payment json, items jsonb");
        assert_eq!(kind(&[json]), Ok(LayoutKind::OneTable));
        assert_eq!(kind(&[json, parts[0], parts[1], items]), Ok(LayoutKind::OneTable));
        for columns in ["order_id uuid, user_id uuid, payload jsonb", "user_id, external_id, payload json, order_id"] {
            assert_eq!(kind(&[("orders", columns)]), Ok(LayoutKind::EventDriven));
        }
    }

    #[test]
    fn what_is_of_no_layout_is_told_why() {
        let wb = ("orders", "order_uid, track_number");
        let delivery = ("deliveries", "delivery_id int4, order_uid");
        for (described, why) in [
            (&[][..], "has no table orders in public"),
            (&[("orders", "id, total")], "unknown layout, with the columns id, total;"),
            (&[("orders", "order_uid, seq, changed_in, body")], "order-service itself"),
            (&[wb], "delivery or deliveries"),
            (&[wb, delivery], "payment or payments"),
            (&[wb, delivery, ("payment", "order_uid")], "in a table items"),
            (&[wb, delivery, ("payment", "amount"), ("items", "order_uid")], "a table payment without"),
        ] {
            let told = kind(described).unwrap_err();
            assert!(told.contains(why), "{told}");
        }
    }

    #[test]
    fn columns_that_no_order_has_a_place_for_are_named() {
        let described = [("orders", "order_id, user_id, payload jsonb, bucket int2, colour, created_at timestamptz")];
        let layout = Layout::recognize("public", &tables(&described), "'UTC'").unwrap();
        assert_eq!(layout.left_out, ["orders.colour"]);
    }

    #[test]
    fn names_and_texts_are_quoted() {
        assert_eq!((quoted("a\"b"), literal("a'b")), ("\"a\"\"b\"".into(), "'a''b'".into()));
    }
}
