//! Orders from the PostgreSQL database of an older service: recognized, counted and read in one
//! snapshot of a transaction that can only read. Nothing there is changed. An interrupted import
//! goes on where it stopped, and then looks at what came before once more, since the older service
//! may have gone on writing: in the new snapshot both parts are all there is.

mod layout;
mod zone;

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use serde_json::Value;
use serde_json::value::RawValue;
use sha2::{Digest, Sha256};
use tokio::sync::mpsc;
use tokio_postgres::{Client, SimpleQueryMessage, SimpleQueryRow};

use super::compared::{Compared, Differences};
use super::rejects::{ROW, Rejects};
use super::{Parked, Received, Source, SourceError};
use crate::id::Version;
use crate::order::{Command, Order, Past, Status, date};
use crate::record::{Checkpoint, Fault, Headers, Position, Record, Rejection};
use crate::store::{Outcome, StoreError, postgres};
use layout::{BEYOND, Column, Layout, Tables, literal, quoted};

pub use layout::{LayoutKind, UnknownLayout};
pub use zone::Zone;

/// Rows fetched at once.
const ROWS: usize = 256;
/// Blocks of rows that may wait for the ingest loop.
const BLOCKS_MAX: usize = 4;

/// Names of what comes with an order beside its JSON.
const CREATED: &str = "created_at";
const UPDATED: &str = "updated_at";
const AMOUNT: &str = "amount";
const DELETED: &str = "deleted";
const DATED: &str = "date_created";

/// Which database is read, and how its values are understood.
#[derive(Debug, Clone)]
pub struct Config {
    /// The server. Its schema is the one that is read; the search path's when it has none.
    pub server: postgres::Config,
    /// The schema of the tables; where the search path finds `orders` when `None`.
    pub schema: Option<String>,
    /// What times without a zone are of.
    pub timezone: Zone,
}

/// Why an older database cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum OlderError {
    /// It cannot be reached or logged in to.
    #[error("{}", no_connection(&**.0))]
    Connect(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// It refuses a statement.
    #[error("the older database refuses{}: {message} ({code})", of_what(.what))]
    Refused {
        /// What it was asked, in words; empty for what needs none.
        what: &'static str,
        /// Its words.
        message: String,
        /// Its code.
        code: String,
    },
    /// The connection ended.
    #[error("the connection to the older database was lost")]
    Lost(#[source] tokio_postgres::Error),
    /// Its tables are of no layout that is known.
    #[error("the older database {0}")]
    Unknown(UnknownLayout),
    /// It knows no zone of this name.
    #[error(
        "--timezone: the older database knows no time zone {0:?}; its names are in pg_timezone_names, as Europe/Moscow"
    )]
    NoZone(String),
    /// The schema that was named has no orders.
    #[error("--from-schema: the older database has no table orders in {named:?}{}", elsewhere(.found))]
    NoSchema {
        /// What was named.
        named: String,
        /// The schemas that have such a table.
        found: Vec<String>,
    },
    /// It has another count than a number.
    #[error("the older database counted no number")]
    Uncounted,
}

impl OlderError {
    /// Whether only another setting helps: what is named is not there, or is no database of an older service.
    #[must_use]
    pub fn is_configuration(&self) -> bool {
        matches!(self, Self::Unknown(_) | Self::NoZone(_) | Self::NoSchema { .. })
    }
}

fn elsewhere(schemas: &[String]) -> String {
    match schemas {
        [] => ", nor in another schema".into(),
        schemas => format!("; there is one in {}", schemas.join(", ")),
    }
}

impl From<UnknownLayout> for OlderError {
    fn from(unknown: UnknownLayout) -> Self {
        Self::Unknown(unknown) // it is in the words of this one, and no cause beside them
    }
}

/// Why a server is not reached, without what that means for a store.
fn unreached(error: StoreError) -> OlderError {
    match error {
        StoreError::Unavailable(cause) | StoreError::Unfit(cause) => OlderError::Connect(cause),
        other => OlderError::Connect(other.into()),
    }
}

/// What came of connecting: a server that was reached says itself why it lets none in.
fn no_connection(cause: &(dyn std::error::Error + 'static)) -> &'static str {
    match cause.downcast_ref::<tokio_postgres::Error>().and_then(tokio_postgres::Error::as_db_error) {
        Some(_) => "the server of the older database refuses the connection",
        None => "cannot connect to the older database",
    }
}

fn of_what(what: &str) -> String {
    if what.is_empty() { String::new() } else { format!(" {what}") }
}

fn refused(what: &'static str) -> impl Fn(tokio_postgres::Error) -> OlderError {
    move |error| match error.as_db_error() {
        Some(told) => {
            OlderError::Refused { what, message: told.message().to_owned(), code: told.code().code().to_owned() }
        }
        None => OlderError::Lost(error),
    }
}

/// An older database, recognized and counted, in a snapshot that is held until this is dropped.
pub struct Older {
    client: Client,
    layout: Layout,
    name: Arc<str>,
    place: String,
    count: u64,
    notes: Vec<String>,
}

impl Older {
    /// Connects, recognizes the layout and counts.
    ///
    /// # Errors
    /// [`OlderError`].
    pub async fn open(config: &Config) -> Result<Self, OlderError> {
        let client = postgres::log_in(&config.server).await.map_err(unreached)?;
        // Everything is asked in this transaction and ends with it: behind a pooler nothing stays
        // with others.
        let begin = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY;
             SET LOCAL statement_timeout = 0; SET LOCAL idle_in_transaction_session_timeout = 0;
             SET LOCAL lock_timeout = '30s'; SET LOCAL cursor_tuple_fraction = 1; SET LOCAL DateStyle = 'ISO';
             SET LOCAL row_security = off; SET LOCAL IntervalStyle = 'postgres'; SET LOCAL extra_float_digits = 1; SET LOCAL TimeZone = 'UTC'";
        client.batch_execute(begin).await.map_err(refused("to be read"))?;
        let timeouts = "SELECT set_config(name, '0', true) FROM pg_settings WHERE name = 'transaction_timeout'";
        client.batch_execute(timeouts).await.map_err(refused(""))?;
        check_zone(&client, &config.timezone).await?;
        let schema = schema(&client, config.schema.as_deref()).await?;
        let layout = Layout::recognize(&schema, &tables(&client, &schema).await?, &config.timezone.sql())?;
        let place = format!("{}, schema {schema}", config.server.place());
        let mut older = Self {
            name: name(&place, &layout, config.timezone.as_str()),
            place,
            count: 0,
            notes: Vec::new(),
            client,
            layout,
        };
        let all = format!("SELECT count(*) FROM {}.orders", quoted(&schema));
        older.count = number(&older.client, &all).await?;
        for (sql, what) in &older.layout.counts {
            match number(&older.client, sql).await? {
                0 => {}
                count => older.notes.push(format!("{count} {what}")),
            }
        }
        if !older.layout.left_out.is_empty() {
            let columns = older.layout.left_out.join(", ");
            older.notes.push(format!("columns that orders have no place for are left out: {columns}"));
        }
        Ok(older)
    }

    /// The name under which its position is stored: the same for the same tables.
    #[must_use]
    pub fn name(&self) -> Arc<str> {
        Arc::clone(&self.name)
    }

    /// Where it is, for people.
    #[must_use]
    pub fn place(&self) -> &str {
        &self.place
    }

    /// How it is laid out.
    #[must_use]
    pub fn layout(&self) -> LayoutKind {
        self.layout.kind
    }

    /// Rows in its table of orders.
    #[must_use]
    pub fn count(&self) -> u64 {
        self.count
    }

    /// What is not taken over as it is: a line for each.
    #[must_use]
    pub fn notes(&self) -> &[String] {
        &self.notes
    }

    /// Begins to read, oldest order first, after the first `from`; those come at the end.
    /// `on_progress` is told how many were dealt with after each committed batch, and how many differed from what was
    /// here.
    #[must_use]
    pub fn read(
        self,
        from: u64,
        rejects: std::path::PathBuf,
        on_progress: impl FnMut(u64, Differences) + Send + 'static,
    ) -> OlderSource {
        // A position beyond them is of an import that was at its second part, or of more orders
        // than there are now.
        let from = if from < self.count { from } else { 0 };
        let name = Arc::clone(&self.name);
        let (sender, rows) = mpsc::channel(BLOCKS_MAX);
        tokio::spawn(async move {
            if let Err(error) = read_all(&self.client, &self.layout, from, &sender).await {
                let _ = sender.send(Err(error)).await; // or the import has ended
            }
        });
        OlderSource {
            name,
            rows,
            next: from,
            rejects: Rejects::new(rejects),
            compared: Compared::default(),
            on_progress: Box::new(on_progress),
        }
    }
}

/// That the server knows the zone by this very name: of what it does not know it makes a guess.
async fn check_zone(client: &Client, zone: &Zone) -> Result<(), OlderError> {
    let Zone::Name(name) = zone else { return Ok(()) };
    let sql = format!("SELECT FROM pg_timezone_names WHERE name = {} LIMIT 1", literal(name));
    if rows(client, &sql, "--timezone").await?.is_empty() { Err(OlderError::NoZone(name.clone())) } else { Ok(()) }
}

/// The schema with the tables.
async fn schema(client: &Client, named: Option<&str>) -> Result<String, OlderError> {
    if let Some(name) = named {
        let sql = "SELECT nspname FROM pg_namespace n JOIN pg_class c ON c.relnamespace = n.oid
                   WHERE c.relname = 'orders' AND c.relkind IN ('r', 'p') ORDER BY nspname";
        let found = rows(client, sql, "").await?;
        let found: Vec<String> = found.iter().filter_map(|row| row.get(0)).map(str::to_owned).collect();
        if !found.iter().any(|schema| schema == name) {
            return Err(OlderError::NoSchema { named: name.to_owned(), found });
        }
        return Ok(name.to_owned());
    }
    let sql = "SELECT coalesce((SELECT nspname FROM pg_namespace n JOIN pg_class c ON c.relnamespace = n.oid
                                WHERE c.oid = to_regclass('orders')), current_schema(), '')";
    let rows = rows(client, sql, "").await?;
    Ok(rows.first().and_then(|row| row.get(0)).unwrap_or_default().to_owned())
}

async fn tables(client: &Client, schema: &str) -> Result<Tables, OlderError> {
    let names: Vec<_> = layout::TABLES.iter().map(|name| literal(name)).collect();
    let sql = format!(
        "SELECT c.relname, a.attname, t.typname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
         JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
         JOIN pg_type t ON t.oid = a.atttypid
         WHERE n.nspname = {} AND c.relname IN ({}) AND c.relkind IN ('r', 'p') ORDER BY c.relname, a.attnum",
        literal(schema),
        names.join(", ")
    );
    let mut tables = Tables::new();
    for row in rows(client, &sql, "").await? {
        let text = |index| row.get(index).unwrap_or_default().to_owned();
        tables.entry(text(0)).or_default().push(Column { name: text(1), kind: text(2) });
    }
    Ok(tables)
}

fn name(place: &str, layout: &Layout, zone: &str) -> Arc<str> {
    let digest = Sha256::digest(format!("{place}\n{}\n{zone}", layout.kind.as_str()));
    let hex: String = digest.iter().take(16).map(|byte| format!("{byte:02x}")).collect();
    format!("older:{hex}").into()
}

/// Rows as text, asked without a prepared statement, which a pooler would leave to others.
async fn rows(client: &Client, sql: &str, what: &'static str) -> Result<Vec<SimpleQueryRow>, OlderError> {
    let messages = client.simple_query(sql).await.map_err(refused(what))?;
    let row = |message| match message {
        SimpleQueryMessage::Row(row) => Some(row),
        _ => None,
    };
    Ok(messages.into_iter().filter_map(row).collect())
}

async fn number(client: &Client, sql: &str) -> Result<u64, OlderError> {
    let rows = rows(client, sql, "to be counted").await?;
    rows.first().and_then(|row| row.get(0)?.parse().ok()).ok_or(OlderError::Uncounted)
}

/// A block of rows, or why there are no more.
type Block = Result<Vec<SimpleQueryRow>, OlderError>;

/// Sends all rows, until nothing wants them any more.
async fn read_all(client: &Client, layout: &Layout, from: u64, to: &mpsc::Sender<Block>) -> Result<(), OlderError> {
    for (cursor, is_before) in [("orders_rest", false), ("orders_before", true)] {
        if is_before && from == 0 {
            continue;
        }
        let declare = layout.cursor(cursor, from, is_before);
        client.batch_execute(&declare).await.map_err(refused("to be read"))?;
        loop {
            let block = rows(client, &format!("FETCH {ROWS} FROM {cursor}"), "to be read").await?;
            if block.is_empty() {
                break;
            }
            if to.send(Ok(block)).await.is_err() {
                return Ok(());
            }
        }
    }
    // All is read: what becomes of a transaction that wrote nothing does not matter.
    let _ = client.batch_execute("COMMIT").await;
    Ok(())
}

/// Reads the rows of an older database.
pub struct OlderSource {
    name: Arc<str>,
    rows: mpsc::Receiver<Block>,
    /// The position of the next row: how many were handed over before.
    next: u64,
    rejects: Rejects,
    compared: Compared,
    on_progress: Box<dyn FnMut(u64, Differences) + Send>,
}

impl OlderSource {
    fn record(&mut self, row: &SimpleQueryRow) -> Record {
        let position = Position { partition: 0, offset: self.next };
        self.next += 1;
        let text = |index| row.get(index).map(|text: &str| Bytes::copy_from_slice(text.as_bytes()));
        let mut headers = Headers::new();
        for (index, name) in [(1, CREATED), (2, UPDATED), (3, AMOUNT)] {
            headers.extend(text(index).map(|value| (name.to_owned(), Some(value))));
        }
        headers.extend(text(5).filter(|date| is_beyond(date)).map(|date| (DATED.to_owned(), Some(date))));
        if row.get(4) == Some("t") {
            headers.push((DELETED.to_owned(), None));
        }
        let mut record = Record::new(position, text(0).unwrap_or_default());
        record.headers = Some(Box::new(headers));
        record
    }

    fn error(&self, cause: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> SourceError {
        SourceError { name: Arc::clone(&self.name), cause: cause.into() }
    }
}

/// What came with an order under a name.
fn beside<'r>(record: &'r Record, name: &str) -> Option<Option<&'r str>> {
    let (_, value) = record.headers.as_ref()?.iter().find(|(known, _)| known == name)?;
    Some(value.as_deref().and_then(|value| std::str::from_utf8(value).ok()))
}

/// Whether an order was deleted in the older database.
#[must_use]
pub fn is_deleted(record: &Record) -> bool {
    beside(record, DELETED).is_some()
}

fn is_beyond(date: &[u8]) -> bool {
    date.starts_with(BEYOND.as_bytes())
}

/// What the JSON of an order does not have, and that no order can have.
#[must_use]
pub fn fault(record: &Record) -> Option<Rejection> {
    let text = |name| beside(record, name).flatten();
    let dates = [CREATED, UPDATED, DATED].into_iter().filter_map(|name| Some((name, text(name)?)));
    let amount = text(AMOUNT).filter(|amount| matches!(*amount, "NaN" | "Infinity" | "-Infinity"));
    let fault = |(name, text): (&str, &str)| Fault { pointer: format!("/{name}"), message: text.to_owned() };
    let mut faults: Vec<_> = dates.filter(|(_, date)| is_beyond(date.as_bytes())).map(fault).collect();
    faults.extend(amount.map(|amount| fault((AMOUNT, &not_finite(amount)))));
    faults.extend(record.payload.as_deref().map(faults_of_numbers).unwrap_or_default());
    (!faults.is_empty()).then(|| Rejection::invalid(faults))
}

fn not_finite(value: &str) -> String {
    format!("is {value}, which no number of JSON is")
}

/// A text of the database with the dates that no order can have as they were there.
fn as_it_was(text: &str) -> String {
    text.replace(BEYOND, "")
}

/// What came with an order, as JSON: a number with all its digits.
fn json_of(name: &str, text: &str) -> String {
    let is_number = name == AMOUNT && serde_json::from_str::<serde_json::Number>(text).is_ok();
    if is_number { text.to_owned() } else { Value::from(as_it_was(text)).to_string() }
}

/// A row as a line that `import` takes once it is mended: as `export --full` writes one, so that its times, its amount and
/// its deletion are in it. It has no version, which is what the store assigns.
fn whole(record: &Record, payload: &str) -> String {
    let order = serde_json::from_str::<BTreeMap<String, &RawValue>>(payload).unwrap_or_default();
    let is_envelope = order.contains_key("order_id") && !order.contains_key("order_uid");
    let id = order.get(if is_envelope { "order_id" } else { "order_uid" }).map_or("null", |id| id.get());
    let times = [CREATED, UPDATED].map(|name| Some((name, json_of(name, beside(record, name).flatten()?))));
    let times: String = times.iter().flatten().map(|(name, value)| format!(",\"{name}\":{value}")).collect();
    let (kind, state) =
        (if is_envelope { "envelope" } else { "wb" }, if is_deleted(record) { "deleted" } else { "live" });
    // What an envelope order says of itself is in it, and not beside it.
    let mut more = String::new();
    if let Some(amount) = beside(record, AMOUNT).flatten() {
        more.push_str(&format!(",\"{AMOUNT}\":{}", json_of(AMOUNT, amount)));
    }
    let mut body = payload.to_owned();
    if is_envelope && let Some(end) = body.rfind('}') {
        body.insert_str(end, &format!("{more}{times}"));
        if is_deleted(record) {
            body = body.replacen("\"status\":null", "\"status\":\"deleted\"", 1);
        }
    }
    format!("{{\"order\":{body},\"meta\":{{\"id\":{id},\"kind\":\"{kind}\",\"state\":\"{state}\"{times}}}}}")
}

/// Members of a WB order that are numbers: of itself, of its payment and of its items.
const NUMBERS: [&str; 1] = ["sm_id"];
const PAYMENT_NUMBERS: [&str; 5] = ["amount", "payment_dt", "delivery_cost", "goods_total", "custom_fee"];
const ITEM_NUMBERS: [&str; 6] = ["chrt_id", "price", "sale", "total_price", "nm_id", "status"];

/// Numbers of a database that JSON has none of, which the database writes as text.
fn faults_of_numbers(payload: &[u8]) -> Vec<Fault> {
    let is_one = |text: &str| matches!(text.trim_start_matches(['-', '+']), "NaN" | "Infinity" | "infinity");
    // Read once more only where there may be one.
    let may_be = [&b"NaN\""[..], b"nfinity\""].iter().any(|end| memchr::memmem::find(payload, end).is_some());
    let Some(order) = may_be.then(|| serde_json::from_slice::<Value>(payload).ok()).flatten() else {
        return Vec::new();
    };
    let mut faults = Vec::new();
    let mut look = |part: &Value, place: &str, names: &[&str]| {
        for name in names {
            if let Some(text) = part.get(name).and_then(Value::as_str).filter(|text| is_one(text)) {
                faults.push(Fault { pointer: format!("{place}/{name}"), message: not_finite(text) });
            }
        }
    };
    look(&order, "", &NUMBERS);
    look(&order["payment"], "/payment", &PAYMENT_NUMBERS);
    for (index, item) in order["items"].as_array().into_iter().flatten().enumerate() {
        look(item, &format!("/items/{index}"), &ITEM_NUMBERS);
    }
    faults
}

/// Gives an order what it had in the older database. Returns the version that it was made from: an
/// order that is here already stays as it is, unless its times say which of the two is newer.
fn give_past(record: &Record, order: &mut Order) -> Option<Version> {
    let instant = |name| beside(record, name).flatten().and_then(date::unix_micros);
    let created = instant(CREATED);
    order.past = created.or_else(|| instant(UPDATED)).map(|created_micros| {
        let updated_micros = instant(UPDATED).unwrap_or(created_micros);
        Past { created_micros, updated_micros, decides: true, is_envelope: false }
    });
    let Command::Envelope(envelope) = &mut order.command else { return Some(0) };
    if is_deleted(record) {
        envelope.status = Some(Status::Deleted);
    }
    if let Some(amount) = beside(record, AMOUNT).flatten()
        && serde_json::from_str::<serde_json::Number>(amount).is_ok()
    {
        envelope.amount = amount.into();
    }
    if order.past.is_some() { None } else { Some(0) }
}

impl Source for OlderSource {
    fn name(&self) -> Arc<str> {
        Arc::clone(&self.name)
    }

    fn is_log(&self) -> bool {
        true
    }

    fn must_exist(&self) -> bool {
        false
    }

    async fn recv(&mut self, into: &mut Vec<Record>) -> Result<Received, SourceError> {
        let Some(block) = self.rows.recv().await else { return Ok(Received::End) };
        for row in block.map_err(|cause| self.error(cause))? {
            into.push(self.record(&row));
        }
        Ok(Received::Records)
    }

    fn commit(&mut self, upto: &Checkpoint, outcomes: Vec<(Position, Outcome)>) {
        for (position, outcome) in outcomes {
            self.compared.judge(position, &outcome);
        }
        self.compared.passed(upto);
        (self.on_progress)(upto.next(0), self.compared.found());
    }

    fn reject(&mut self, record: &Record, rejection: &Rejection) -> Parked {
        let payload = as_it_was(&String::from_utf8_lossy(record.payload.as_deref().unwrap_or_default()));
        let mut line = serde_json::json!({
            ROW: record.position.offset + 1,
            "error": rejection.line(),
            "value": payload,
        });
        for name in [CREATED, UPDATED, AMOUNT] {
            if let Some(value) = beside(record, name).flatten() {
                line[name] = as_it_was(value).into();
            }
        }
        if is_deleted(record) {
            line[DELETED] = true.into();
        }
        match self.rejects.write(&line, &mut whole(record, &payload).as_bytes()) {
            Ok(()) => self.rejects.keep(Arc::clone(&self.name)),
            Err(cause) => Parked::Done(Err(self.error(cause))),
        }
    }

    fn prepare(&mut self, record: &Record, order: &mut Order) -> Result<Option<Version>, Rejection> {
        if let Some(rejection) = fault(record) {
            return Err(rejection);
        }
        let expected_version = give_past(record, order);
        self.compared.expect(record.position, order);
        Ok(expected_version)
    }

    fn stop(&mut self) {
        self.rows.close();
    }
}
