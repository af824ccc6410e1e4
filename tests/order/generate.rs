//! Documents by the million from one seed: orders of both faces, mostly valid; any JSON; and all of them damaged.

use fastrand::Rng;

pub struct Generator {
    rng: Rng,
    document: Vec<u8>,
    /// What came before, to splice with.
    earlier: Vec<u8>,
    /// One in this many choices of the document being made is an odd one.
    oddity: u32,
    spaced: bool,
}

const NUMBERS: &[&str] = &[
    "0",
    "1",
    "-1",
    "-0",
    "100",
    "101",
    "1.0",
    "-0.0",
    "1e2",
    "1E+2",
    "0.1",
    "19.99",
    "3",
    "1817",
    "1637907727",
    "9223372036854775807",
    "9223372036854775808",
    "-9223372036854775808",
    "-9223372036854775809",
    "18446744073709551615",
    "18446744073709551616",
    "123456789012345678901234567890",
    "1e308",
    "1e309",
    "1e999",
    "-1e999",
    "1e-999",
    "0e999999999999",
    "0.000000000000000000000000000000001",
    "5e-324",
    "2.2250738585072014e-308",
    "1.7976931348623157e308",
    "999999999999999999",
    "-999999999999999999",
    "01",
    "1.",
    ".5",
    "+1",
    "1e",
    "--1",
    "0x1",
    "NaN",
    "1_0",
    "100000000000000000000000000000000000000000000000000000000000000000000000000000000000000000e300",
];
const PIECES: &[&str] = &[
    "a",
    "bc",
    " ",
    "\\\"",
    "\\\\",
    "\\/",
    "\\n",
    "\\u0061",
    "\\u0000",
    "\\u0001",
    "\\ud83d\\ude00",
    "\\ud83d",
    "\\ude00",
    "\\ud83d\\u0061",
    "\\uD83D\\uDE00",
    "\\x",
    "\\u12",
    "\u{44f}",
    "\u{1f600}",
    "\u{7f}",
    "\t",
    "{",
    "}",
    "[",
    ",",
    ":",
    "~",
    "/",
    "@",
    ".",
    "\\\\u0000",
    "\\u005cu0000",
    "\u{feff}",
    "\u{2028}",
    "0",
    "Z",
    "-",
    "+",
    "%",
];
const TEXTS: &[&str] = &[
    "",
    "x",
    "USD",
    "RUB",
    "usd",
    "XXX",
    "HRK",
    "XYZ",
    "+9720000000",
    "9720000000",
    "+0123456",
    "+1",
    "+12",
    "+123456789012345",
    "+1234567890123456",
    "test@gmail.com",
    "a@b",
    "a@b.c",
    "@b.c",
    "a@@b.c",
    "a@b..c",
    "a b@c.d",
    "a@.b",
    "a@b.",
    "2021-11-26T06:22:19Z",
    "2021-11-26t06:22:19z",
    "2021-11-26 06:22:19Z",
    "2021-11-26x06:22:19Z",
    "2021-11-26T06:22:19",
    "2021-11-26",
    "2021-02-29T00:00:00Z",
    "2020-02-29T00:00:00Z",
    "2021-11-31T00:00:00Z",
    "2021-11-26T24:00:00Z",
    "2021-11-26T06:22:60Z",
    "2016-12-31T23:59:60Z",
    "2017-01-01T02:59:60+03:00",
    "2021-11-26T06:22:19.123456789012Z",
    "2021-11-26T06:22:19.Z",
    "2021-11-26T06:22:19,1Z",
    "2021-11-26T06:22:19+03:00",
    "2021-11-26T06:22:19-00:00",
    "2021-11-26T06:22:19+24:00",
    "2021-11-26T06:22:19+3:00",
    "2021-11-26T06:22:19+0300",
    "0000-01-01T00:00:00Z",
    "9999-12-31T23:59:60Z",
    "0000-01-01T00:00:00+23:59",
    "9999-12-31T23:59:59-23:59",
    "+2021-11-26T06:22:19Z",
    "2021-13-01T00:00:00Z",
    "2021-00-01T00:00:00Z",
    "2021-11-26T06:22:19Z ",
    "b563feb7b2b84b6test",
    "0190163d-8694-739b-aea5-966c26f8ad91",
    "0190163D8694739BAEA5966C26F8AD91",
    "urn:uuid:0190163d-8694-739b-aea5-966c26f8ad91",
    "URN:UUID:0190163d-8694-739b-aea5-966c26f8ad91",
    "0190163d-8694-739b-aea5-966c26f8ad9",
    "0190163d-8694-739b-aea5966c26f8ad91-",
    "a/b",
    "a b",
    ".",
    "..",
    "...",
    "0",
    "deleted",
    "new",
    "done",
    "processing",
    "cancelled",
    "Deleted",
    "12",
    " 12.50 ",
    "1e3",
    "+5",
    "007",
    "{}",
    "{\\\"id\\\":1}",
    "{\\\"id\\\": \\\"e\\\" , \\\"amount\\\": 5}",
    "{\\\"a\\\":1,\\\"a\\\":2}",
    "[]",
    "{\\\"a\\\":\\\"\\\\u0000\\\"}",
    "{",
];
const UUIDS: &[&str] = &[
    "0190163d-8694-739b-aea5-966c26f8ad91",
    "0190163D8694739BAEA5966C26F8AD91",
    "urn:uuid:0190163d-8694-739b-aea5-966c26f8ad91",
];
const KEYS: &[&str] = &[
    "order_uid",
    "order_id",
    "user_id",
    "status",
    "payload",
    "payload_json",
    "items",
    "price",
    "qty",
    "amount",
    "id",
    "delivery",
    "payment",
    "name",
    "a",
    "\\u0061",
    "b",
    "a/b",
    "a~b",
    "",
    "\\u0000",
    "\\n",
    "extra",
    "\u{44f}",
    "sm_id",
    "email",
    "i\\u0064",
    "order_ui\\u0064",
    "p\\u0061yload",
];

impl Generator {
    pub fn new(seed: u64) -> Self {
        let rng = Rng::with_seed(seed);
        Self { rng, document: Vec::new(), earlier: b"{}".to_vec(), oddity: 0, spaced: false }
    }

    pub fn below(&mut self, limit: usize) -> usize {
        self.rng.usize(..limit)
    }

    pub fn next(&mut self) -> &[u8] {
        std::mem::swap(&mut self.document, &mut self.earlier);
        self.document.clear();
        self.oddity = [u32::MAX, 400, 60, 15][self.below(4)];
        self.spaced = self.one_in(3);
        match self.below(8) {
            0..4 => self.wb(),
            4..6 => self.envelope(),
            6 => self.object(6),
            _ => self.value(8),
        }
        if self.one_in(20) {
            self.document.splice(0..0, *b"\xef\xbb\xbf");
        }
        if self.one_in(2) {
            for _ in 0..=self.below(3) {
                self.damage();
            }
        }
        &self.document
    }

    fn one_in(&mut self, chance: u32) -> bool {
        self.rng.u32(..chance) == 0
    }

    fn odd(&mut self) -> bool {
        self.oddity != u32::MAX && self.one_in(self.oddity)
    }

    fn any<'a>(&mut self, of: &[&'a str]) -> &'a str {
        of[self.below(of.len())]
    }

    fn put(&mut self, text: &str) {
        self.document.extend_from_slice(text.as_bytes());
    }

    fn space(&mut self) {
        while self.spaced && self.one_in(3) {
            let space = self.any(&[" ", "\n", "\r", "\t", "    "]);
            self.put(space);
        }
    }

    fn punctuation(&mut self, mark: &str) {
        self.space();
        self.put(mark);
        self.space();
    }

    fn string(&mut self, text: &str) {
        self.put("\"");
        self.put(text);
        self.put("\"");
    }

    fn text(&mut self) {
        if self.one_in(2) {
            let text = self.any(TEXTS);
            return self.string(text);
        }
        self.put("\"");
        for _ in 0..self.below(6) {
            let piece = if self.odd() {
                self.any(PIECES)
            } else {
                self.any(&["abc", "\u{44f}", " ", "\\\"", "\\\\", "{", ":"])
            };
            self.put(piece);
        }
        self.put("\"");
    }

    fn value(&mut self, depth: usize) {
        match self.below(if depth == 0 { 5 } else { 7 }) {
            0 => self.put("null"),
            1 => {
                let word = if self.odd() {
                    self.any(&["nul", "True", "truefalse", "nullx"])
                } else {
                    self.any(&["true", "false"])
                };
                self.put(word);
            }
            2 => {
                let number = if self.odd() { self.any(NUMBERS) } else { self.any(&NUMBERS[..23]) };
                self.put(number);
            }
            3 | 4 => self.text(),
            5 => {
                self.punctuation("[");
                let len = if depth > 0 { self.below(4) } else { 0 };
                for element in 0..len {
                    if element > 0 {
                        self.punctuation(",");
                    }
                    self.value(depth - 1);
                }
                self.punctuation("]");
            }
            _ if self.odd() => {
                // Near the limit of the depth.
                let levels = 60 + self.below(6);
                self.put(&"[".repeat(levels));
                self.put(&"]".repeat(levels));
            }
            _ => self.object(depth - 1),
        }
    }

    fn object(&mut self, depth: usize) {
        self.punctuation("{");
        for member in 0..self.below(5) {
            if member > 0 {
                self.punctuation(",");
            }
            if self.one_in(3) {
                self.text();
            } else {
                let key = self.any(KEYS);
                self.string(key);
            }
            self.punctuation(":");
            self.value(depth);
        }
        self.punctuation("}");
    }

    /// An object of fields written `name:kind`, a few of them left out, spoilt, swapped, repeated or unknown.
    fn record(&mut self, fields: &[&str]) {
        let mut fields = fields.to_vec();
        if self.one_in(4) {
            self.rng.shuffle(&mut fields);
        }
        self.punctuation("{");
        let mut is_first = true;
        for field in fields {
            let (name, kind) = field.split_once(':').expect("name:kind");
            if self.odd() || (kind.starts_with('?') && self.one_in(8)) {
                continue;
            }
            for _ in 0..=usize::from(self.odd()) {
                if !std::mem::take(&mut is_first) {
                    self.punctuation(",");
                }
                self.string(name);
                self.punctuation(":");
                if self.odd() { self.value(2) } else { self.good(kind) }
            }
            if self.one_in(40) {
                self.punctuation(",");
                let key = if self.odd() { self.any(KEYS) } else { self.any(&["extra", "note", "\u{44f}", "a/b"]) };
                self.string(key);
                self.punctuation(":");
                if self.odd() { self.value(3) } else { self.good("n") }
            }
        }
        self.punctuation("}");
    }

    fn good(&mut self, kind: &str) {
        match kind.trim_start_matches('?') {
            "n" => {
                let number = self.rng.u64(1..=100).to_string();
                self.put(&number);
            }
            "t" if self.one_in(16) => self.string("\\u0442\\ud83d\\ude00 \u{44f}\\\\"),
            "t" => self.string("some text"),
            "uid" => self.string("b563feb7b2b84b6test"),
            "phone" => self.string("+9720000000"),
            "email" => self.string("test@gmail.com"),
            "currency" => self.string("USD"),
            "date" => self.date(),
            "delivery" => {
                self.record(&["name:t", "phone:phone", "zip:t", "city:t", "address:t", "region:t", "email:email"]);
            }
            "payment" => self.record(&[
                "transaction:t",
                "request_id:?t",
                "currency:currency",
                "provider:t",
                "amount:n",
                "payment_dt:n",
                "bank:t",
                "delivery_cost:n",
                "goods_total:n",
                "custom_fee:n",
            ]),
            "items" => {
                self.punctuation("[");
                for item in 0..if self.odd() { 0 } else { 1 + self.below(2) } {
                    if item > 0 {
                        self.punctuation(",");
                    }
                    if self.odd() { self.value(1) } else { self.item() }
                }
                self.punctuation("]");
            }
            "uuid" => {
                let id = self.any(UUIDS);
                self.string(id);
            }
            "payload" => self.payload(),
            "status" => {
                let status = self.any(&["new", "processing", "done", "cancelled", "deleted", ""]);
                self.string(status);
            }
            other => unreachable!("{other}"),
        }
    }

    fn item(&mut self) {
        self.record(&[
            "chrt_id:n",
            "track_number:t",
            "price:n",
            "rid:t",
            "name:t",
            "sale:n",
            "size:t",
            "total_price:n",
            "nm_id:n",
            "brand:t",
            "status:n",
        ]);
    }

    fn wb(&mut self) {
        if self.one_in(12) {
            return self.record(&["order_uid:uid", "status:status", "extra:?t"]);
        }
        self.record(&[
            "order_uid:uid",
            "track_number:t",
            "entry:t",
            "delivery:delivery",
            "payment:payment",
            "items:items",
            "locale:t",
            "internal_signature:?t",
            "customer_id:t",
            "delivery_service:t",
            "shardkey:?t",
            "sm_id:?n",
            "date_created:date",
            "oof_shard:?t",
        ]);
    }

    fn date(&mut self) {
        let odd = self.odd();
        let mut part = |low: u32, high: u32| self.rng.u32(low..=if odd { high + 2 } else { high });
        let (month, day, hour, minute, second) = (part(1, 12), part(1, 28), part(0, 23), part(0, 59), part(0, 59));
        let zone = self.any(&["Z", "z", "+03:00", "-11:30", ".5Z", ".123456789+23:59"]);
        let t = self.any(&["T", "T", "t", " "]);
        let date = format!("2021-{month:02}-{day:02}{t}{hour:02}:{minute:02}:{second:02}{zone}");
        self.string(&date);
    }

    fn payload(&mut self) {
        if self.one_in(3) {
            return self.object(3);
        }
        self.punctuation("{");
        let id = self.any(&["\"id\":\"ext-1\"", "\"id\" : 1e2", "\"id\":7", "\"id\":null"]);
        self.put(id);
        if self.one_in(2) {
            let amount =
                self.any(&[",\"amount\":12.50", ",\"amount\" : \" 7 \"", ",\"amount\":\"x\"", ",\"amount\":-1e2"]);
            self.put(amount);
        }
        self.punctuation(",");
        self.put("\"items\":[");
        for item in 0..self.below(4) {
            if item > 0 {
                self.punctuation(",");
            }
            let (price, qty) = (self.any(&NUMBERS[..24]), self.any(&["1", "2", "\"3\"", "0.5", "null"]));
            self.put(&format!("{{\"price\":{price},\"qty\": {qty}}}"));
        }
        self.put("]");
        self.punctuation("}");
    }

    fn envelope(&mut self) {
        if !self.one_in(4) {
            return self.record(&["order_id:?uuid", "user_id:uuid", "status:?status", "payload:payload"]);
        }
        let payload_at = self.document.len();
        self.payload();
        let mut nested = String::from("\"");
        for byte in self.document.drain(payload_at..).collect::<Vec<u8>>() {
            match byte {
                b'"' => nested.push_str("\\\""),
                b'\\' => nested.push_str("\\\\"),
                0..0x20 => nested.push_str(&format!("\\u{byte:04x}")),
                0x20..0x7f => nested.push(char::from(byte)),
                _ => {}
            }
        }
        nested.push('"');
        self.punctuation("{");
        self.put("\"order_id\":\"e-1\",\"user_id\":\"0190163d-8694-739b-aea5-966c26f8ad91\",\"payload_json\":");
        self.put(&nested);
        self.punctuation("}");
    }

    fn damage(&mut self) {
        let len = self.document.len();
        let at = self.below(len + 1);
        let end = (at + self.below(12)).min(len);
        match self.below(9) {
            0 if at < len => self.document[at] ^= 1 << self.below(8),
            1 if at < len => self.document[at] = self.rng.u8(..),
            2 => drop(self.document.drain(at..end)),
            3 => {
                let slice = self.document[at..end].to_vec();
                let to = self.below(len + 1);
                self.document.splice(to..to, slice);
            }
            4 => {
                let space = self.any(&[" ", "\n", "\t\r", "                 "]).as_bytes().to_vec();
                self.document.splice(at..at, space);
            }
            5 if self.one_in(4) => self.document.truncate(at),
            6 if self.one_in(2) => {
                let from = self.below(self.earlier.len() + 1);
                self.document.truncate(at);
                self.document.extend_from_slice(&self.earlier[from..]);
            }
            7 => {
                let lists = [PIECES, NUMBERS, &["\"", "{", "}", "[", "]", ",", ":", "\\", "null"]];
                let list = lists[self.below(3)];
                let piece = self.any(list).as_bytes().to_vec();
                self.document.splice(at..at, piece);
            }
            8 if at < len && self.document[at].is_ascii_alphanumeric() => {
                let escape = format!("\\u{:04x}", self.document[at]);
                self.document.splice(at..=at, escape.into_bytes());
            }
            _ => {}
        }
    }
}
