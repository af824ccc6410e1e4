//! The validation profiles: which fields a WB order has, and what each may hold. Tables first, rules below.

use simd_json::StaticNode;
use simd_json::tape::Node;

use super::date::is_rfc3339;

/// How strictly WB orders are checked. Every profile demands one JSON object, valid UTF-8, no duplicate keys, a depth
/// of at most 64, a bounded size and a legal id.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Profile {
    /// Only what every profile demands.
    Lenient,
    /// Required fields with the right types, at least one item, no negative numbers, a plausible date and e-mail.
    #[default]
    Wb,
    /// Every field, a known currency, an E.164 phone number, `sale` from 0 to 100.
    Strict,
}

impl std::str::FromStr for Profile {
    type Err = &'static str;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        match text {
            "lenient" => Ok(Self::Lenient),
            "wb" => Ok(Self::Wb),
            "strict" => Ok(Self::Strict),
            _ => Err("must be lenient, wb or strict"),
        }
    }
}

/// One known field of an object.
pub struct Field {
    /// Its key.
    pub name: &'static str,
    /// What it may hold.
    pub rule: Rule,
    /// The mildest profile that demands it: [`Profile::Wb`] or [`Profile::Strict`].
    pub needed: Profile,
}

/// What a field may hold.
#[derive(Clone, Copy)]
pub enum Rule {
    /// Any string.
    Text,
    /// A legal order id; read by the decoder itself.
    Id,
    /// Something that could be delivered to.
    Email,
    /// E.164 under `strict`, any string otherwise.
    Phone,
    /// ISO 4217 under `strict`, any string otherwise.
    Currency,
    /// RFC 3339.
    Date,
    /// A whole 64-bit number of at least this.
    Whole(u64),
    /// 0 to 100 under `strict`, a whole number otherwise.
    Sale,
    /// An object of known fields.
    Object(&'static [Field]),
    /// At least one object of known fields.
    Objects(&'static [Field]),
}

const fn field(name: &'static str, rule: Rule) -> Field {
    Field { name, rule, needed: Profile::Wb }
}

const fn tail(name: &'static str, rule: Rule) -> Field {
    Field { name, rule, needed: Profile::Strict }
}

/// The fields of a WB order, in the order producers usually write them. At most 64.
pub const ORDER: &[Field] = &[
    field("order_uid", Rule::Id),
    field("track_number", Rule::Text),
    field("entry", Rule::Text),
    field("delivery", Rule::Object(DELIVERY)),
    field("payment", Rule::Object(PAYMENT)),
    field("items", Rule::Objects(ITEM)),
    field("locale", Rule::Text),
    tail("internal_signature", Rule::Text),
    field("customer_id", Rule::Text),
    field("delivery_service", Rule::Text),
    tail("shardkey", Rule::Text),
    tail("sm_id", Rule::Whole(0)),
    field("date_created", Rule::Date),
    tail("oof_shard", Rule::Text),
];

const DELIVERY: &[Field] = &[
    field("name", Rule::Text),
    field("phone", Rule::Phone),
    field("zip", Rule::Text),
    field("city", Rule::Text),
    field("address", Rule::Text),
    field("region", Rule::Text),
    field("email", Rule::Email),
];

const PAYMENT: &[Field] = &[
    field("transaction", Rule::Text),
    tail("request_id", Rule::Text),
    field("currency", Rule::Currency),
    field("provider", Rule::Text),
    field("amount", Rule::Whole(0)),
    field("payment_dt", Rule::Whole(1)),
    field("bank", Rule::Text),
    field("delivery_cost", Rule::Whole(0)),
    field("goods_total", Rule::Whole(0)),
    field("custom_fee", Rule::Whole(0)),
];

const ITEM: &[Field] = &[
    field("chrt_id", Rule::Whole(0)),
    field("track_number", Rule::Text),
    field("price", Rule::Whole(0)),
    field("rid", Rule::Text),
    field("name", Rule::Text),
    field("sale", Rule::Sale),
    field("size", Rule::Text),
    field("total_price", Rule::Whole(0)),
    field("nm_id", Rule::Whole(0)),
    field("brand", Rule::Text),
    field("status", Rule::Whole(0)),
];

/// The only field `lenient` knows.
pub const LENIENT: &[Field] = &[field("order_uid", Rule::Id)];

/// Whether a profile demands the field.
#[must_use]
pub fn is_needed(field: &Field, profile: Profile) -> bool {
    match field.needed {
        Profile::Strict => profile == Profile::Strict,
        Profile::Lenient | Profile::Wb => true,
    }
}

/// Checks a scalar against its rule; the objects are walked by the decoder.
///
/// # Errors
/// What is wrong, for the fault's message.
pub fn check(rule: Rule, node: &Node<'_>, profile: Profile) -> Result<(), &'static str> {
    let strict = profile == Profile::Strict;
    match (rule, node) {
        (Rule::Text | Rule::Id, Node::String(_)) => Ok(()),
        (Rule::Email, Node::String(text)) => is_email(text).or_fault("must be an e-mail address"),
        (Rule::Phone, Node::String(text)) => {
            (!strict || is_e164(text)).or_fault("must be an E.164 phone number such as +9720000000")
        }
        (Rule::Currency, Node::String(text)) => {
            (!strict || CURRENCIES.binary_search(text).is_ok()).or_fault("must be an ISO 4217 currency code")
        }
        (Rule::Date, Node::String(text)) => is_rfc3339(text).or_fault("must be an RFC 3339 date and time"),
        (Rule::Text | Rule::Id | Rule::Email | Rule::Phone | Rule::Currency | Rule::Date, _) => Err("must be a string"),
        (Rule::Whole(0), node) => whole(node).map(|_| ()),
        (Rule::Whole(least), node) => (whole(node)? >= least).or_fault("must be greater than 0"),
        (Rule::Sale, node) => (whole(node)? <= 100 || !strict).or_fault("must be from 0 to 100"),
        (Rule::Object(_), _) => Err("must be an object"),
        (Rule::Objects(_), _) => Err("must be an array"),
    }
}

/// A whole number of at least 0 that fits a signed 64-bit column.
fn whole(node: &Node<'_>) -> Result<u64, &'static str> {
    match node {
        Node::Static(StaticNode::I64(number)) => u64::try_from(*number).map_err(|_| "must not be negative"),
        Node::Static(StaticNode::U64(number)) if i64::try_from(*number).is_ok() => Ok(*number),
        Node::Static(StaticNode::U64(_)) => Err("must fit a signed 64-bit integer"),
        Node::Static(StaticNode::F64(_)) => Err("must be a whole 64-bit number"),
        _ => Err("must be a number"),
    }
}

/// Plausible, not proven: something, an @, and a host with a dot inside.
fn is_email(text: &str) -> bool {
    let Some((local, host)) = text.split_once('@') else { return false };
    let is_odd = |c: char| c.is_whitespace() || c.is_control() || matches!(c, '<' | '>' | ',' | ';');
    let has_odd = if text.is_ascii() {
        text.bytes().any(|byte| byte <= b' ' || matches!(byte, b'<' | b'>' | b',' | b';' | 0x7f))
    } else {
        text.contains(is_odd)
    };
    let (mut dots, mut before) = (0, b'.');
    for &byte in host.as_bytes() {
        match byte {
            b'@' => return false,
            b'.' if before == b'.' => return false,
            b'.' => dots += 1,
            _ => {}
        }
        before = byte;
    }
    !local.is_empty() && dots > 0 && before != b'.' && text.len() <= 254 && !has_odd
}

/// A plus, then 2 to 15 digits of which the first is not 0 (ITU-T E.164).
fn is_e164(text: &str) -> bool {
    text.strip_prefix('+').is_some_and(|digits| {
        (2..=15).contains(&digits.len()) && digits.bytes().all(|byte| byte.is_ascii_digit()) && !digits.starts_with('0')
    })
}

trait OrFault {
    fn or_fault(self, message: &'static str) -> Result<(), &'static str>;
}

impl OrFault for bool {
    fn or_fault(self, message: &'static str) -> Result<(), &'static str> {
        if self { Ok(()) } else { Err(message) }
    }
}

/// ISO 4217 codes, sorted: those in use, and those withdrawn since 2015, in which older orders were paid.
#[rustfmt::skip]
const CURRENCIES: &[&str] = &[
    "AED", "AFN", "ALL", "AMD", "ANG", "AOA", "ARS", "AUD", "AWG", "AZN", "BAM", "BBD", "BDT", "BGN", "BHD", "BIF",
    "BMD", "BND", "BOB", "BOV", "BRL", "BSD", "BTN", "BWP", "BYN", "BYR", "BZD", "CAD", "CDF", "CHE", "CHF", "CHW",
    "CLF", "CLP", "CNY", "COP", "COU", "CRC", "CUC", "CUP", "CVE", "CZK", "DJF", "DKK", "DOP", "DZD", "EGP", "ERN",
    "ETB", "EUR", "FJD", "FKP", "GBP", "GEL", "GHS", "GIP", "GMD", "GNF", "GTQ", "GYD", "HKD", "HNL", "HRK", "HTG",
    "HUF", "IDR", "ILS", "INR", "IQD", "IRR", "ISK", "JMD", "JOD", "JPY", "KES", "KGS", "KHR", "KMF", "KPW", "KRW",
    "KWD", "KYD", "KZT", "LAK", "LBP", "LKR", "LRD", "LSL", "LTL", "LYD", "MAD", "MDL", "MGA", "MKD", "MMK", "MNT",
    "MOP", "MRO", "MRU", "MUR", "MVR", "MWK", "MXN", "MXV", "MYR", "MZN", "NAD", "NGN", "NIO", "NOK", "NPR", "NZD",
    "OMR", "PAB", "PEN", "PGK", "PHP", "PKR", "PLN", "PYG", "QAR", "RON", "RSD", "RUB", "RWF", "SAR", "SBD", "SCR",
    "SDG", "SEK", "SGD", "SHP", "SLE", "SLL", "SOS", "SRD", "SSP", "STD", "STN", "SVC", "SYP", "SZL", "THB", "TJS",
    "TMT", "TND", "TOP", "TRY", "TTD", "TWD", "TZS", "UAH", "UGX", "USD", "USN", "UYI", "UYU", "UYW", "UZS", "VED",
    "VEF", "VES", "VND", "VUV", "WST", "XAD", "XAF", "XAG", "XAU", "XBA", "XBB", "XBC", "XBD", "XCD", "XCG", "XDR",
    "XOF", "XPD", "XPF", "XPT", "XSU", "XTS", "XUA", "XXX", "YER", "ZAR", "ZMW", "ZWG", "ZWL",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn currencies_are_sorted() {
        assert!(CURRENCIES.is_sorted());
    }

    #[test]
    fn emails() {
        for good in [
            "test@gmail.com",
            "a.b+c@x.co",
            "\u{438}\u{432}\u{430}\u{43d}@\u{43f}\u{43e}\u{447}\u{442}\u{430}.\u{440}\u{444}",
        ] {
            assert!(is_email(good), "{good}");
        }
        for bad in ["", "@", "a@", "@b.c", "a@b", "a b@c.d", "a@b..c", "a@.c", "a@c.", "a@@b.c", "a,b@c.d"] {
            assert!(!is_email(bad), "{bad}");
        }
    }

    #[test]
    fn phones() {
        assert!(is_e164("+9720000000"));
        for bad in ["9720000000", "+0123", "+1", "+1234567890123456", "+12a"] {
            assert!(!is_e164(bad), "{bad}");
        }
    }
}
