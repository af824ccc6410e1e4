//! The rules of the record, written a second time over a parsed document: what is wrong, as a set of pointers.

use std::collections::{BTreeMap, BTreeSet};

use order_service::order::Profile;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::json::{self, Json, Value};
use super::oracle::{Amount, ExpectedEnvelope};

/// Path, kind, and `tail` for what only `strict` demands.
const RULES: &str = "
    order_uid id; track_number text; entry text; delivery object; payment object; items items; locale text;
    internal_signature text tail; customer_id text; delivery_service text; shardkey text tail; sm_id whole tail;
    date_created date; oof_shard text tail;
    delivery.name text; delivery.phone phone; delivery.zip text; delivery.city text; delivery.address text;
    delivery.region text; delivery.email email;
    payment.transaction text; payment.request_id text tail; payment.currency currency; payment.provider text;
    payment.amount whole; payment.payment_dt positive; payment.bank text; payment.delivery_cost whole;
    payment.goods_total whole; payment.custom_fee whole;
    items.chrt_id whole; items.track_number text; items.price whole; items.rid text; items.name text;
    items.sale sale; items.size text; items.total_price whole; items.nm_id whole; items.brand text;
    items.status whole";

thread_local! {
    static TABLE: BTreeMap<&'static str, BTreeMap<&'static str, (&'static str, bool)>> = table();
}

fn table() -> BTreeMap<&'static str, BTreeMap<&'static str, (&'static str, bool)>> {
    let mut table: BTreeMap<_, BTreeMap<_, _>> = BTreeMap::new();
    for rule in RULES.split(';') {
        let mut words = rule.split_whitespace();
        let (path, kind) = words.next().zip(words.next()).expect("a path and a kind");
        let (object, name) = path.split_once('.').unwrap_or(("", path));
        table.entry(object).or_default().insert(name, (kind, words.next() == Some("tail")));
    }
    table
}

/// The members of one object of known fields; `object` is its name in the table.
pub fn fields(members: &[(String, Json<'_>)], object: &str, at: &str, profile: Profile, faults: &mut BTreeSet<String>) {
    TABLE.with(|table| {
        for (name, (kind, is_tail)) in &table[object] {
            let pointer = format!("{at}/{name}");
            let is_needed = !is_tail || profile == Profile::Strict;
            match members.iter().find(|(key, _)| key == name) {
                Some((_, value)) if value.is_null() && !is_needed => {}
                Some((_, value)) => field(name, kind, value, pointer, profile, faults),
                None if is_needed => drop(faults.insert(pointer)),
                None => {}
            }
        }
    });
}

fn field(name: &str, kind: &str, value: &Json<'_>, at: String, profile: Profile, faults: &mut BTreeSet<String>) {
    let strict = profile == Profile::Strict;
    let good = match (kind, &value.value) {
        ("object", Value::Object(members)) => {
            fields(members, name, &at, profile, faults);
            true
        }
        ("items", Value::Array(items)) => {
            for (index, item) in items.iter().enumerate() {
                let at = format!("{at}/{index}");
                match item.members() {
                    Some(members) => fields(members, "items", &at, profile, faults),
                    None => drop(faults.insert(at)),
                }
            }
            !items.is_empty()
        }
        ("id", _) => id(Some(value)).is_some(),
        ("text", Value::Text(_)) => true,
        ("date", Value::Text(text)) => is_date(text),
        ("email", Value::Text(text)) => is_email(text),
        ("phone", Value::Text(text)) => !strict || is_phone(text),
        ("currency", Value::Text(text)) => {
            !strict || (text.len() == 3 && text.bytes().all(|byte| byte.is_ascii_uppercase()) && is_currency(text))
        }
        ("whole", Value::Number) => whole(value.raw).is_some(),
        ("positive", Value::Number) => whole(value.raw).is_some_and(|number| number > 0),
        ("sale", Value::Number) => whole(value.raw).is_some_and(|number| number <= 100 || !strict),
        _ => false,
    };
    if !good {
        faults.insert(at);
    }
}

/// Keys given twice, and U+0000 in strings (named at the string) and in keys (named at their object).
pub fn unique_and_no_nul(json: &Json<'_>, at: &str, faults: &mut BTreeSet<String>) {
    match &json.value {
        Value::Text(text) if text.contains('\0') => drop(faults.insert(at.into())),
        Value::Array(elements) => {
            for (index, element) in elements.iter().enumerate() {
                unique_and_no_nul(element, &format!("{at}/{index}"), faults);
            }
        }
        Value::Object(members) => {
            let mut seen = BTreeSet::new();
            for (key, value) in members {
                let pointer = pointer(at, key);
                if key.contains('\0') {
                    faults.insert(at.into());
                }
                if !seen.insert(key) {
                    faults.insert(pointer.clone());
                }
                unique_and_no_nul(value, &pointer, faults);
            }
        }
        _ => {}
    }
}

fn pointer(at: &str, key: &str) -> String {
    let mut pointer = format!("{at}/");
    for c in key.chars().take(128) {
        match c {
            '~' => pointer += "~0",
            '/' => pointer += "~1",
            c if c.is_control() => pointer += &format!("\\u{:04x}", c as u32),
            c => pointer.push(c),
        }
    }
    pointer
}

/// The canonical spelling of a legal id.
pub fn id(value: Option<&Json<'_>>) -> Option<String> {
    let text = value?.text()?;
    let legal = text.chars().all(|c| c.is_ascii_alphanumeric() || "._:-".contains(c));
    let is_kept_by_urls = !matches!(text, "." | "..");
    (legal && is_kept_by_urls && (1..=128).contains(&text.len())).then(|| uuid(text).unwrap_or_else(|| text.into()))
}

/// A UUID's 32 digits with hyphens in their places, lower case.
fn uuid(text: &str) -> Option<String> {
    let lower = text.to_ascii_lowercase();
    let plain = lower.strip_prefix("urn:uuid:").filter(|rest| rest.len() == 36).unwrap_or(&lower);
    let hyphens_right = plain.len() == 32 || [8, 13, 18, 23].iter().all(|&at| plain.as_bytes().get(at) == Some(&b'-'));
    let digits: String = plain.chars().filter(|&c| c != '-').collect();
    let is_uuid = matches!(plain.len(), 32 | 36)
        && digits.len() == 32
        && hyphens_right
        && digits.chars().all(|c| c.is_ascii_hexdigit());
    let parts = is_uuid.then(|| [&digits[..8], &digits[8..12], &digits[12..16], &digits[16..20], &digits[20..]])?;
    Some(parts.join("-"))
}

fn whole(raw: &str) -> Option<u64> {
    let number: i128 = raw.parse().ok()?;
    (0..=i128::from(i64::MAX)).contains(&number).then(|| number.unsigned_abs() as u64)
}

fn is_date(text: &str) -> bool {
    let separator = text.as_bytes().get(10);
    matches!(separator, Some(b'T' | b't' | b' ')) && OffsetDateTime::parse(text, &Rfc3339).is_ok()
}

fn is_email(text: &str) -> bool {
    let parts: Vec<&str> = text.split('@').collect();
    let [local, host] = parts[..] else { return false };
    let labels: Vec<&str> = host.split('.').collect();
    let odd = |c: char| c.is_whitespace() || c.is_control() || "<>,;".contains(c);
    !local.is_empty() && labels.len() > 1 && !labels.contains(&"") && text.len() <= 254 && !text.contains(odd)
}

fn is_phone(text: &str) -> bool {
    let Some(digits) = text.strip_prefix('+') else { return false };
    let numeric = digits.chars().all(|c| c.is_ascii_digit());
    numeric && (2..=15).contains(&digits.len()) && !digits.starts_with('0')
}

/// First letters, each with the pairs of letters that may follow it.
const CURRENCIES: &str = "
    A:EDFNLLMDNGOARSUDWGZN B:AMBDDTGNHDIFMDNDOBOVRLSDTNWPYNYRZD C:ADDFHEHFHWLFLPNYOPOURCUCUPVEZK D:JFKKOPZD E:GPRNTBUR
    F:JDKP G:BPELHSIPMDNFTQYD H:KDNLRKTGUF I:DRLSNRQDRRSK J:MDODPY K:ESGSHRMFPWRWWDYDZT L:AKBPKRRDSLTLYD
    M:ADDLGAKDMKNTOPRORUURVRWKXNXVYRZN N:ADGNIOOKPRZD O:MR P:ABENGKHPKRLNYG Q:AR R:ONSDUBWF
    S:ARBDCRDGEKGDHPLELLOSRDSPTDTNVCYPZL T:HBJSMTNDOPRYTDWDZS U:AHGXSDSNYIYUYWZS V:EDEFESNDUV W:ST
    X:ADAFAGAUBABBBCBDCDCGDROFPDPFPTSUTSUAXX Y:ER Z:ARMWWGWL";

fn is_currency(text: &str) -> bool {
    let (first, rest) = text.split_at(1);
    let pairs =
        CURRENCIES.split_whitespace().filter_map(|group| group.split_once(':')).find(|(letter, _)| *letter == first);
    pairs.is_some_and(|(_, pairs)| pairs.as_bytes().chunks(2).any(|pair| pair == rest.as_bytes()))
}

/// Reads an envelope, adding what is wrong with it to `faults`.
pub fn envelope(root: &Json<'_>, bytes_max: usize, faults: &mut BTreeSet<String>) -> ExpectedEnvelope {
    let given = |name: &str| root.member(name).filter(|value| !value.is_null());
    let status = given("status").filter(|status| status.text() != Some("")).map(|status| {
        let word = status.text().unwrap_or_default();
        if !["new", "processing", "done", "cancelled", "deleted"].contains(&word) {
            faults.insert("/status".into());
        }
        word.to_owned()
    });
    let is_delete = status.as_deref() == Some("deleted");
    let order_id = given("order_id").filter(|order_id| !matches!(order_id.text(), Some("" | "0")));
    let id = id(order_id);
    if if order_id.is_some() { id.is_none() } else { is_delete } {
        faults.insert("/order_id".into());
    }
    let user_id = given("user_id").and_then(Json::text).and_then(uuid);
    if user_id.is_none() && !(is_delete && given("user_id").is_none()) {
        faults.insert("/user_id".into());
    }
    let nested = given("payload_json").filter(|nested| nested.text() != Some(""));
    let mut result =
        ExpectedEnvelope { id, user_id, status, payload: None, amount: Amount::Spelled("0".into()), external_id: None };
    match (given("payload"), nested) {
        (None, None) if is_delete => {}
        (Some(_), Some(_)) => drop(faults.insert("/payload_json".into())),
        (Some(payload), None) if payload.members().is_some() => summarize(payload, &mut result),
        (_, None) => drop(faults.insert("/payload".into())),
        (None, Some(nested)) if nested.members().is_some() => summarize(nested, &mut result),
        (None, Some(nested)) => {
            let text = nested.text().filter(|text| text.len() <= bytes_max);
            let parsed = text.and_then(|text| json::parse(text, 63)).filter(|payload| {
                let mut inner = BTreeSet::new();
                unique_and_no_nul(payload, "", &mut inner);
                payload.members().is_some() && inner.is_empty()
            });
            match parsed {
                Some(payload) => summarize(&payload, &mut result),
                None => drop(faults.insert("/payload_json".into())),
            }
        }
    }
    result
}

fn summarize(payload: &Json<'_>, into: &mut ExpectedEnvelope) {
    into.payload = Some(json::minify(payload.raw));
    into.external_id = payload.member("id").and_then(|id| match &id.value {
        Value::Text(text) => Some(text.clone()),
        Value::Number => Some(id.raw.into()),
        _ => None,
    });
    into.external_id.take_if(|id| id.is_empty() || id.len() > 512);
    if let Some(spelling) = number(payload.member("amount")) {
        into.amount = Amount::Spelled(spelling.into());
        return;
    }
    let (mut sum, mut added) = (0.0_f64, 0.0);
    if let Some(Json { value: Value::Array(items), .. }) = payload.member("items") {
        for (price, qty) in items.iter().filter_map(|item| number(item.member("price")).zip(number(item.member("qty"))))
        {
            let product = price.parse::<f64>().unwrap_or_default() * qty.parse::<f64>().unwrap_or_default();
            sum += product;
            added += product.abs();
        }
    }
    into.amount = if sum.is_finite() { Amount::Sum(sum, added) } else { Amount::Sum(0.0, 0.0) };
}

/// A number or a string that spells one, in its own spelling, that is finite in double precision: readers that use
/// doubles, JavaScript above all, would otherwise see an infinity or nothing.
fn number<'a>(value: Option<&'a Json<'_>>) -> Option<&'a str> {
    let value = value?;
    let spelling = match &value.value {
        Value::Number => Some(value.raw),
        Value::Text(text) => {
            let text = text.trim();
            let is_number = json::parse(text, 0).is_some_and(|json| matches!(json.value, Value::Number));
            is_number.then_some(text)
        }
        _ => None,
    };
    spelling.filter(|spelling| spelling.parse::<f64>().is_ok_and(f64::is_finite))
}
