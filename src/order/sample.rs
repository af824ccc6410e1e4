//! Seeded samples: orders for tools, tests and benches. The same seed and number give the same bytes on every machine.
//! Owns what a sample looks like; must not know the decoder, so that the two can be held against each other.

use std::ops::Range;

use fastrand::Rng;
use uuid::{Builder, Uuid};

/// The record the older publishers sent, byte for byte except for white space.
const CLASSIC: &str = r#"{"order_uid":"b563feb7b2b84b6test","track_number":"WBILMTESTTRACK","entry":"WBIL","delivery":{"name":"Test Testov","phone":"+9720000000","zip":"2639809","city":"Kiryat Mozkin","address":"Ploshad Mira 15","region":"Kraiot","email":"test@gmail.com"},"payment":{"transaction":"b563feb7b2b84b6test","request_id":"","currency":"USD","provider":"wbpay","amount":1817,"payment_dt":1637907727,"bank":"alpha","delivery_cost":1500,"goods_total":317,"custom_fee":0},"items":[{"chrt_id":9934930,"track_number":"WBILMTESTTRACK","price":453,"rid":"ab4219087a764ae0btest","name":"Mascaras","sale":30,"size":"0","total_price":317,"nm_id":2389212,"brand":"Vivienne Sabo","status":202}],"locale":"en","internal_signature":"","customer_id":"test","delivery_service":"meest","shardkey":"9","sm_id":99,"date_created":"2021-11-26T06:22:19Z","oof_shard":"1"}"#;
/// The id of [`CLASSIC`], and the stem of the five that follow it.
const CLASSIC_ID: &str = "b563feb7b2b84b6test";
/// The hex digits of [`CLASSIC_ID`] as a number: the one value a generated id must not take.
const CLASSIC_DIGITS: u64 = 0xb56_3feb_7b2b_84b6;
/// How many ids the older publishers used; generated ones follow.
const CLASSIC_COUNT: u64 = 6;
/// Generated ids carry 60 bits: 15 hex digits before `test`.
const ID_MASK: u64 = (1 << 60) - 1;
/// Samples of one seed belong to this many users.
const USER_COUNT: u64 = 1000;
/// Room for any sample, in bytes.
const ORDER_BYTES_MAX: usize = 1536;

/// Samples are paid between September 2020 and October 2025: Unix seconds.
const PAID: Range<u64> = 1_600_000_000..1_760_000_000;

/// Where a customer lives: city, region, phone prefix, phone digits after it, zip digits, currency, locale, Cyrillic names.
#[derive(Clone, Copy)]
struct Place(&'static str, &'static str, &'static str, u32, u32, &'static str, &'static str, bool);

#[rustfmt::skip]
const PLACES: [Place; 12] = [
    Place("Москва", "Московская область", "+79", 9, 6, "RUB", "ru", true),
    Place("Санкт-Петербург", "Ленинградская область", "+79", 9, 6, "RUB", "ru", true),
    Place("Казань", "Татарстан", "+79", 9, 6, "RUB", "ru", true),
    Place("Минск", "Минская область", "+37529", 7, 6, "BYN", "ru", true),
    Place("Алматы", "Алматы", "+770", 8, 6, "KZT", "kk", true),
    Place("Kiryat Mozkin", "Kraiot", "+97250", 7, 7, "ILS", "en", false),
    Place("Haifa", "Haifa District", "+97254", 7, 7, "ILS", "en", false),
    Place("Warszawa", "Mazowieckie", "+4850", 7, 5, "PLN", "pl", false),
    Place("Łódź", "Łódzkie", "+4860", 7, 5, "PLN", "pl", false),
    Place("İzmir", "İzmir", "+9053", 8, 5, "TRY", "tr", false),
    Place("Yerevan", "Kentron", "+3749", 7, 4, "AMD", "hy", false),
    Place("Berlin", "Brandenburg", "+4915", 9, 5, "EUR", "de", false),
];
#[rustfmt::skip]
const PEOPLE: [[&str; 8]; 2] = [
    ["Anna Kowalska", "Daniel Levi", "Ayşe Yılmaz", "Jürgen Müller", "Mariam Petrosyan", "Test Testov", "Noa Cohen", "Zoë Brandt"],
    ["Анна Смирнова", "Иван Петров", "Ольга Ким", "Алия Серикова", "Пётр Ёлкин", "Мария Козлова", "Тимур Галиев", "Яна Новик"],
];
#[rustfmt::skip]
const STREETS: [[&str; 6]; 2] = [
    ["Ploshad Mira", "Herzl Street", "ulica Długa", "Lindenstraße", "Atatürk Caddesi", "Abovyan Street"],
    ["ул. Ленина", "пр. Мира", "ул. Гагарина", "ул. Абая", "Садовая ул.", "пер. Тихий"],
];
#[rustfmt::skip]
const GOODS: [(&str, &str); 12] = [
    ("Mascaras", "Vivienne Sabo"), ("Wool scarf", "Nordwind"), ("Running shoes", "Demix"), ("USB-C cable 2 m", "Baseus"),
    ("Кружка", "Дулёво"), ("Футболка", "Твоё"), ("Плед 150x200", "ООО \\\"Уют\\\""), ("Hand cream", "Weleda"),
    ("Notebook A5", "Moleskine"), ("Чай чёрный", "Майский"), ("Desk lamp", "Arte Lamp"), ("Backpack 20 l", "Grizzly"),
];
const MAILS: [&str; 8] = ["anna", "ivan.petrov", "o.kim", "test", "m.kozlova", "shop", "daniel", "zoe"];
const HOSTS: [&str; 5] = ["gmail.com", "yandex.ru", "mail.ru", "outlook.com", "example.org"];
const CARRIERS: [&str; 5] = ["meest", "cdek", "boxberry", "dpd", "pochta"];
const BANKS: [&str; 5] = ["alpha", "sber", "vtb", "tbank", "raiffeisen"];
const SIZES: [&str; 6] = ["0", "S", "M", "L", "42", "XL"];
const PERCENTS_OFF: [u64; 6] = [0, 5, 10, 30, 50, 70];

/// Appends the n-th sample WB order: compact JSON of 0.8-1.5 KB, valid under the `strict` profile. The first six carry
/// the ids of the older publishers whatever the seed; all others are unique for `n` below 2^60.
pub fn wb(seed: u64, n: u64, into: &mut Vec<u8>) {
    if n == 0 {
        into.extend_from_slice(CLASSIC.as_bytes());
    } else {
        generate(seed, n, into);
    }
}

/// The id of the n-th sample WB order, as [`wb`] writes it: 19 or 20 characters.
#[must_use]
pub fn wb_id(seed: u64, n: u64) -> String {
    let mut id = Vec::with_capacity(20);
    push_id(&mut id, seed, n);
    String::from_utf8(id).expect("an id is ASCII")
}

/// Appends the n-th sample envelope order as a create request: no `order_id`, so the service makes one. The user is one
/// of a thousand per seed; `payload.id` is unique per seed.
pub fn envelope(seed: u64, n: u64, into: &mut Vec<u8>) {
    let rng = &mut rng(seed, n);
    let user = Builder::from_random_bytes(rng_bytes(seed, n % USER_COUNT)).into_uuid();
    let out = into;
    text(out, r#"{"user_id":""#);
    text(out, user.as_hyphenated().encode_lower(&mut Uuid::encode_buffer()));
    text(out, r#"","payload":{"id":"ext-"#);
    hex(out, scatter(seed, n), 15);
    text(out, r#"","items":["#);
    for item in 0..=rng.u32(0..3) {
        text(out, if item == 0 { r#"{"sku":"SKU-"# } else { r#",{"sku":"SKU-"# });
        digits(out, rng.u64(0..1_000_000), 6);
        text(out, r#"","price":"#);
        number(out, rng.u64(50..5000));
        // Halves are exact in binary, so that sums can be compared for equality.
        text(out, pick(rng, &["", ".5", ".50"]));
        text(out, r#","qty":"#);
        number(out, rng.u64(1..5));
        text(out, "}");
    }
    text(out, r#"],"currency":""#);
    text(out, pick(rng, &["RUB", "EUR", "USD"]));
    text(out, r#"","comment":""#);
    text(out, pick(rng, &["", "call before delivery", "позвоните заранее", "оставить у двери"]));
    text(out, r#""}}"#);
}

fn generate(seed: u64, n: u64, out: &mut Vec<u8>) {
    let rng = &mut rng(seed, n);
    out.reserve(ORDER_BYTES_MAX);
    let place = pick(rng, &PLACES);
    let (track, paid) = (rng.u64(0..1_000_000_000), rng.u64(PAID));
    text(out, r#"{"order_uid":""#);
    push_id(out, seed, n);
    text(out, r#"","track_number":"WBILM"#);
    digits(out, track, 9);
    text(out, r#"","entry":"WBIL","#);
    delivery(out, rng, &place);
    // The items come after the payment that sums them up, so their prices are drawn first.
    let mut prices = [(0, 0); 3];
    let prices = &mut prices[..pick(rng, &[1, 2, 2, 3])];
    prices.fill_with(|| (rng.u64(90..15_000), pick(rng, &PERCENTS_OFF)));
    payment(out, rng, (seed, n), paid, place.5, prices.iter().map(|&(price, off)| discounted(price, off)).sum());
    text(out, r#","items":["#);
    for (index, &(price, off)) in prices.iter().enumerate() {
        text(out, if index == 0 { "" } else { "," });
        item(out, rng, track, price, off);
    }
    text(out, r#"],"locale":""#);
    text(out, place.6);
    text(out, r#"","internal_signature":"","customer_id":"user"#);
    number(out, rng.u64(0..100_000));
    text(out, r#"","delivery_service":""#);
    text(out, pick(rng, &CARRIERS));
    text(out, r#"","shardkey":""#);
    number(out, rng.u64(0..10));
    text(out, r#"","sm_id":"#);
    number(out, rng.u64(0..100));
    text(out, r#","date_created":""#);
    // The order was made a little before it was paid.
    date(out, paid - rng.u64(0..600));
    text(out, r#"","oof_shard":""#);
    number(out, rng.u64(1..3));
    text(out, r#""}"#);
}

fn delivery(out: &mut Vec<u8>, rng: &mut Rng, place: &Place) {
    let script = usize::from(place.7);
    text(out, r#""delivery":{"name":""#);
    text(out, pick(rng, &PEOPLE[script]));
    text(out, r#"","phone":""#);
    text(out, place.2);
    digits(out, rng.u64(..), place.3);
    text(out, r#"","zip":""#);
    digits(out, rng.u64(..), place.4);
    text(out, r#"","city":""#);
    text(out, place.0);
    text(out, r#"","address":""#);
    text(out, pick(rng, &STREETS[script]));
    text(out, " ");
    number(out, rng.u64(1..200));
    text(out, r#"","region":""#);
    text(out, place.1);
    text(out, r#"","email":""#);
    text(out, pick(rng, &MAILS));
    number(out, rng.u64(1..1000));
    text(out, "@");
    text(out, pick(rng, &HOSTS));
    text(out, r#""},"#);
}

fn payment(out: &mut Vec<u8>, rng: &mut Rng, (seed, n): (u64, u64), paid: u64, currency: &str, goods_total: u64) {
    let (delivery_cost, custom_fee) = (100 * rng.u64(0..20), 10 * rng.u64(0..3));
    text(out, r#""payment":{"transaction":""#);
    push_id(out, seed, n);
    text(out, r#"","request_id":"","currency":""#);
    text(out, currency);
    text(out, r#"","provider":"wbpay","amount":"#);
    number(out, goods_total + delivery_cost + custom_fee);
    text(out, r#","payment_dt":"#);
    number(out, paid);
    text(out, r#","bank":""#);
    text(out, pick(rng, &BANKS));
    text(out, r#"","delivery_cost":"#);
    number(out, delivery_cost);
    text(out, r#","goods_total":"#);
    number(out, goods_total);
    text(out, r#","custom_fee":"#);
    number(out, custom_fee);
    text(out, "}");
}

fn item(out: &mut Vec<u8>, rng: &mut Rng, track: u64, price: u64, off: u64) {
    let (name, brand) = pick(rng, &GOODS);
    text(out, r#"{"chrt_id":"#);
    number(out, rng.u64(1_000_000..500_000_000));
    text(out, r#","track_number":"WBILM"#);
    digits(out, track, 9);
    text(out, r#"","price":"#);
    number(out, price);
    text(out, r#","rid":""#);
    hex(out, rng.u64(..), 16);
    text(out, r#"btest","name":""#);
    text(out, name);
    text(out, r#"","sale":"#);
    number(out, off);
    text(out, r#","size":""#);
    text(out, pick(rng, &SIZES));
    text(out, r#"","total_price":"#);
    number(out, discounted(price, off));
    text(out, r#","nm_id":"#);
    number(out, rng.u64(1_000_000..300_000_000));
    text(out, r#","brand":""#);
    text(out, brand);
    text(out, r#"","status":202}"#);
}

/// A price with a sale of `off` per cent, rounded down; never 0 for the prices drawn here.
const fn discounted(price: u64, off: u64) -> u64 {
    price * (100 - off) / 100
}

/// What can be wrong with an order, and how to make it so out of a valid one.
type Flaw = (&'static str, fn(&mut Vec<u8>));

#[rustfmt::skip]
const FLAWS: [Flaw; 20] = [
    ("broken JSON", |order| order.truncate(order.len() / 2)),
    ("text after the order", |order| order.push(b'}')),
    ("not an object", |order| *order = b"\"an order, honestly\"".to_vec()),
    ("neither shape", |order| swap(order, "\"order_uid\":", b"\"uid\":")),
    ("empty id", |order| swap(order, "\"order_uid\":\"", b"\"order_uid\":\"\",\"was\":\"")),
    ("illegal id", |order| swap(order, "\"order_uid\":\"", b"\"order_uid\":\"no/such id?")),
    ("over-long id", |order| swap(order, "\"order_uid\":\"", &[&b"\"order_uid\":\""[..], &[b'x'; 128]].concat())),
    ("missing field", |order| swap(order, "\"entry\":", b"\"entree\":")),
    ("wrong type", |order| swap(order, "\"amount\":", b"\"amount\":\"a lot\",\"was\":")),
    ("number beyond 64 bits", |order| swap(order, "\"chrt_id\":", b"\"chrt_id\":99999999999999")),
    ("negative number", |order| swap(order, "\"goods_total\":", b"\"goods_total\":-")),
    ("no payment date", |order| swap(order, "\"payment_dt\":", b"\"payment_dt\":0,\"was\":")),
    ("bad date", |order| swap(order, "\"date_created\":\"", b"\"date_created\":\"yesterday, ")),
    ("bad e-mail", |order| swap(order, "@", b" at ")),
    ("no items", |order| swap(order, "\"items\":[", b"\"items\":[],\"were\":[")),
    ("duplicate key", |order| swap(order, "\"locale\":", b"\"locale\":\"en\",\"locale\":")),
    ("not UTF-8", |order| swap(order, "\"name\":\"", b"\"name\":\"\xff\xfe")),
    ("NUL escape", |order| swap(order, "\"name\":\"", b"\"name\":\"\\u0000")),
    ("nested too deep", |order| swap(order, "\"locale\":", &[&b"\"deep\":"[..], &[b'['; 65], &[b']'; 65], b",\"locale\":"].concat())),
    ("payload is no object", |order| *order = br#"{"user_id":"0195c7f0-7b2b-7b84-8b6b-b563feb7b2b8","payload":[1,2]}"#.to_vec()),
];

/// How many kinds of invalid orders there are: [`invalid`] cycles through them.
pub const INVALID_KIND_COUNT: u64 = FLAWS.len() as u64;

/// Appends the n-th invalid order and returns what is wrong with it. Refused by the `wb` profile and by `strict`; never
/// contains a line feed, so it may stand in NDJSON. Its id is none of [`wb`]'s for any seed in use.
pub fn invalid(seed: u64, n: u64, into: &mut Vec<u8>) -> &'static str {
    let index = usize::try_from(n % INVALID_KIND_COUNT).expect("below the number of flaws");
    let (what, spoil) = FLAWS[index];
    let mut order = Vec::new();
    generate(!seed, n.wrapping_add(CLASSIC_COUNT).max(CLASSIC_COUNT), &mut order);
    spoil(&mut order);
    into.extend_from_slice(&order);
    what
}

/// Replaces the first `from`, which every generated order contains.
fn swap(order: &mut Vec<u8>, from: &str, to: &[u8]) {
    let at = order.windows(from.len()).position(|part| part == from.as_bytes());
    let at = at.expect("every generated order has all fields");
    order.splice(at..at + from.len(), to.iter().copied());
}

fn push_id(out: &mut Vec<u8>, seed: u64, n: u64) {
    if n < CLASSIC_COUNT {
        text(out, CLASSIC_ID);
        if n > 0 {
            number(out, n);
        }
        return;
    }
    // The classic value is taken, and the one of n = 0 is free.
    let value = match scatter(seed, n) {
        CLASSIC_DIGITS => scatter(seed, 0),
        value => value,
    };
    hex(out, value, 15);
    text(out, "test");
}

/// A permutation of the 60-bit numbers, another one for each seed: every step can be undone.
const fn scatter(seed: u64, n: u64) -> u64 {
    let key = mix(seed);
    let mut value = (n ^ key) & ID_MASK;
    value = value.wrapping_mul(0x9e37_79b9_7f4a_7c15) & ID_MASK;
    value ^= value >> 31;
    value = value.wrapping_add(key >> 4).wrapping_mul(0xbf58_476d_1ce4_e5b9) & ID_MASK;
    value ^= value >> 29;
    value
}

/// The finalizer of splitmix64.
const fn mix(mut value: u64) -> u64 {
    value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

fn rng(seed: u64, n: u64) -> Rng {
    Rng::with_seed(mix(seed ^ mix(n.wrapping_add(0x9e37_79b9_7f4a_7c15))))
}

fn rng_bytes(seed: u64, n: u64) -> [u8; 16] {
    rng(!seed, n).u128(..).to_le_bytes()
}

fn pick<T: Copy>(rng: &mut Rng, list: &[T]) -> T {
    list[rng.usize(..list.len())]
}

fn text(out: &mut Vec<u8>, text: &str) {
    out.extend_from_slice(text.as_bytes());
}

fn number(out: &mut Vec<u8>, value: u64) {
    digits(out, value, value.checked_ilog10().unwrap_or(0) + 1);
}

/// The last `width` decimal digits of a number, at most 20.
fn digits(out: &mut Vec<u8>, mut value: u64, width: u32) {
    let mut buffer = [b'0'; 20];
    let buffer = &mut buffer[..width as usize];
    for digit in buffer.iter_mut().rev() {
        *digit = b'0' + (value % 10) as u8;
        value /= 10;
    }
    out.extend_from_slice(buffer);
}

/// The last `width` hex digits of a number, at most 16.
fn hex(out: &mut Vec<u8>, value: u64, width: u32) {
    let mut buffer = [0; 16];
    let buffer = &mut buffer[..width as usize];
    for (digit, shift) in buffer.iter_mut().rev().zip((0..).step_by(4)) {
        *digit = b"0123456789abcdef"[(value >> shift & 15) as usize];
    }
    out.extend_from_slice(buffer);
}

/// Unix seconds as RFC 3339, by the civil-from-days algorithm; years run from March so that leap days come last.
fn date(out: &mut Vec<u8>, unix: u64) {
    let (days, second) = (unix / 86_400 + 719_468, unix % 86_400);
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month + 2) / 5 + 1;
    let (year, month) = if month < 10 { (0, month + 3) } else { (1, month - 9) };
    digits(out, year + year_of_era + era * 400, 4);
    for (mark, part) in [("-", month), ("-", day), ("T", second / 3600), (":", second / 60 % 60), (":", second % 60)] {
        text(out, mark);
        digits(out, part, 2);
    }
    text(out, "Z");
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use serde_json::Value;

    use super::*;

    type Append = fn(u64, u64, &mut Vec<u8>);

    fn made(append: Append, seed: u64, n: u64) -> Vec<u8> {
        let mut bytes = Vec::new();
        append(seed, n, &mut bytes);
        bytes
    }

    fn parsed(append: Append, seed: u64, n: u64) -> Value {
        serde_json::from_slice(&made(append, seed, n)).expect("a sample is JSON")
    }

    #[test]
    fn first_is_the_classic_record_and_the_next_five_have_the_known_ids() {
        let first = parsed(wb, 7, 0);
        assert_eq!(first["order_uid"], CLASSIC_ID);
        assert_eq!(first["payment"]["payment_dt"], 1_637_907_727);
        assert_eq!(wb_id(7, 0), CLASSIC_ID);
        for n in 1..6 {
            assert_eq!(parsed(wb, 7, n)["order_uid"], format!("{CLASSIC_ID}{n}"));
        }
    }

    #[test]
    fn every_order_is_valid_under_the_strict_profile() {
        for n in 0..5_000 {
            let order = parsed(wb, 42, n);
            assert_strict(&order);
            assert_eq!(order["order_uid"], wb_id(42, n));
            let compact = serde_json::to_vec(&order).expect("a value is JSON");
            assert_eq!(compact, made(wb, 42, n), "no white space, no escape that need not be");
        }
    }

    fn assert_strict(order: &Value) {
        let phone = order["delivery"]["phone"].as_str().expect("a phone");
        let digits = phone.strip_prefix('+').expect("E.164 starts with a plus");
        assert!(digits.len() <= 15 && digits.len() >= 8 && !digits.starts_with('0'), "{phone}");
        assert!(digits.bytes().all(|byte| byte.is_ascii_digit()), "{phone}");
        let date = order["date_created"].as_str().expect("a date");
        let date = time::OffsetDateTime::parse(date, &time::format_description::well_known::Rfc3339).expect("RFC 3339");
        let payment = &order["payment"];
        assert!(
            (0..600).contains(&(payment["payment_dt"].as_i64().expect("a number") - date.unix_timestamp()))
                || date.year() == 2021
        );
        let sum = ["delivery_cost", "goods_total", "custom_fee"].map(|name| payment[name].as_u64().expect("a number"));
        assert_eq!(payment["amount"].as_u64(), Some(sum.iter().sum()));
        let items = order["items"].as_array().expect("items");
        assert!((1..=3).contains(&items.len()));
        assert!(items.iter().all(|item| item["sale"].as_u64().is_some_and(|sale| sale <= 100)));
        assert_eq!(items.iter().map(|item| item["total_price"].as_u64().expect("a number")).sum::<u64>(), sum[1]);
        let fields = |value: &Value| value.as_object().expect("an object").len();
        assert_eq!([order, &order["delivery"], payment, &items[0]].map(fields), [14, 7, 10, 11]);
    }

    #[test]
    fn sizes_are_those_of_real_orders() {
        let sizes: Vec<usize> = (0..20_000).map(|n| made(wb, 3, n).len()).collect();
        assert!(
            sizes.iter().all(|size| (800..=1500).contains(size)),
            "{:?}..{:?}",
            sizes.iter().min(),
            sizes.iter().max()
        );
        let average = sizes.iter().sum::<usize>() / sizes.len();
        assert!((1000..=1100).contains(&average), "{average}");
    }

    #[test]
    fn a_million_ids_are_unique_within_a_seed_and_differ_between_seeds() {
        let mut seen = HashSet::with_capacity(1_000_000);
        assert!((0..1_000_000).all(|n| seen.insert(wb_id(1, n))));
        assert!(seen.iter().all(|id| (19..=20).contains(&id.len())));
        assert!((6..1000).all(|n| !seen.contains(&wb_id(2, n))));
    }

    #[test]
    fn the_same_seed_and_number_give_the_same_bytes() {
        for n in 1..200 {
            for append in [wb as Append, envelope] {
                assert_eq!(made(append, 9, n), made(append, 9, n));
                assert_ne!(made(append, 9, n), made(append, 10, n));
            }
        }
    }

    #[test]
    fn envelopes_have_a_user_and_priced_items() {
        let mut users = HashSet::new();
        for n in 0..3000 {
            let order = parsed(envelope, 5, n);
            users.insert(Uuid::parse_str(order["user_id"].as_str().expect("a user")).expect("a UUID"));
            assert!(
                order["payload"]["items"]
                    .as_array()
                    .is_some_and(|items| items.iter().all(|item| item["price"].as_f64() > Some(0.0)))
            );
        }
        assert_eq!(users.len() as u64, USER_COUNT);
    }

    #[test]
    fn invalid_orders_cycle_through_every_kind_and_none_is_one_of_the_valid() {
        let valid: HashSet<Vec<u8>> = (0..100).map(|n| made(wb, 1, n)).collect();
        let mut kinds = HashSet::new();
        for n in 0..INVALID_KIND_COUNT * 3 {
            let mut bytes = Vec::new();
            kinds.insert(invalid(1, n, &mut bytes));
            assert!(!valid.contains(&bytes) && !bytes.contains(&b'\n'));
        }
        assert_eq!(kinds.len() as u64, INVALID_KIND_COUNT);
    }

    /// `cargo test --release -- --ignored --nocapture speed`
    #[test]
    #[ignore = "a measurement, not a check"]
    fn speed() {
        for (what, append) in [("wb", wb as Append), ("envelope", envelope)] {
            let (mut bytes, start) = (Vec::new(), std::time::Instant::now());
            for n in 6..1_000_006 {
                bytes.clear();
                append(1, n, std::hint::black_box(&mut bytes));
            }
            println!("{what}: {:.0} orders/s", 1e6 / start.elapsed().as_secs_f64());
        }
    }
}
