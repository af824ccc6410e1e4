//! Bytes in, a valid [`Order`] or every reason why not out. Parses once with simd-json and keeps the producer's bytes.

use bytes::Bytes;
use simd_json::tape::Node;
use simd_json::{Buffers, ErrorType, INPUT_PADDING, StaticNode, Tape};
use uuid::Uuid;

use super::compact::{Tokens, is_number};
use super::envelope::{Envelope, Status};
use super::validate::{self, Field, LENIENT, ORDER, Profile, Rule};
use super::{Change, Order};
use crate::id::{OrderId, parse_uuid};
use crate::record::{Fault, Rejection, RejectionKind};

/// The deepest nesting accepted; the outermost object is level 1.
pub const DEPTH_MAX: usize = 64;
/// How many faults of one order are named before the rest is only counted.
const FAULTS_MAX: usize = 100;

/// Decodes orders one after the other, reusing its working space.
pub struct Decoder {
    profile: Profile,
    order_bytes_max: usize,
    buffers: Buffers,
    scratch: Vec<u8>,
    tape: Option<Tape<'static>>,
}

impl Decoder {
    /// A decoder for one profile. Documents above `order_bytes_max` bytes are rejected unread.
    #[must_use]
    pub fn new(profile: Profile, order_bytes_max: usize) -> Self {
        let buffers = Buffers::with_max_depth(4096, DEPTH_MAX);
        Self { profile, order_bytes_max, buffers, scratch: Vec::new(), tape: None }
    }

    /// Decodes one JSON document into an order.
    ///
    /// The body of a WB order that has no white space outside its strings shares `document`; it is not copied.
    ///
    /// # Errors
    /// A [`Rejection`] naming every offending field.
    pub fn decode(&mut self, document: &Bytes) -> Result<Order, Rejection> {
        let document = without_bom(document);
        self.with_document(&document, |decoding| decoding.order(&document))
    }

    /// Parses `document` and hands the result to `read`; the working space is kept whatever happens.
    fn with_document<T>(
        &mut self,
        document: &[u8],
        read: impl FnOnce(Decoding<'_, '_>) -> Result<T, Rejection>,
    ) -> Result<T, Rejection> {
        if document.len() > self.order_bytes_max {
            let message = format!("larger than {} bytes", self.order_bytes_max);
            return Err(Rejection::whole(RejectionKind::TooLarge, message));
        }
        self.scratch.clear();
        self.scratch.extend_from_slice(document);
        self.scratch.resize(document.len() + INPUT_PADDING, 0);
        let scratch_at = self.scratch.as_ptr().addr();
        let mut tape = self.tape.take().unwrap_or_else(|| Tape(Vec::new())).reset();
        let parsed = simd_json::fill_tape_padded(&mut self.scratch, document.len(), &mut self.buffers, &mut tape);
        let result = match parsed {
            Err(error) => Err(malformed(&error, document)),
            Ok(()) => read(Decoding {
                nodes: &tape.0,
                tokens: Tokens::new(document, self.buffers.structural_indexes()),
                scratch_at,
                profile: self.profile,
                order_bytes_max: self.order_bytes_max,
                has_nul: memchr::memmem::find(document, b"\\u0000").is_some(),
                faults: Vec::new(),
                path: Vec::new(),
                keys: Vec::new(),
            }),
        };
        self.tape = Some(tape.reset());
        result
    }
}

/// One parsed document being read.
struct Decoding<'t, 'i> {
    nodes: &'t [Node<'i>],
    tokens: Tokens<'t>,
    scratch_at: usize,
    profile: Profile,
    order_bytes_max: usize,
    /// The text `\u0000` occurs, so strings are searched for the character it stands for.
    has_nul: bool,
    faults: Vec<Fault>,
    path: Vec<Step<'i>>,
    /// Unknown keys of the objects being walked, innermost last.
    keys: Vec<&'i str>,
}

#[derive(Clone, Copy)]
enum Step<'i> {
    Key(&'i str),
    Index(usize),
}

impl<'t, 'i> Decoding<'t, 'i> {
    fn order(mut self, document: &Bytes) -> Result<Order, Rejection> {
        if !matches!(self.nodes.first(), Some(Node::Object { .. })) {
            return Err(Rejection::whole(RejectionKind::Invalid, "must be a JSON object"));
        }
        if self.member("order_uid").is_some() {
            return self.wb(document);
        }
        if self.member("order_id").is_some() || self.member("user_id").is_some() {
            return self.envelope();
        }
        self.value(0);
        self.fault("must have order_uid (a WB order) or order_id and user_id (an envelope)");
        Err(self.rejection())
    }

    fn wb(mut self, document: &Bytes) -> Result<Order, Rejection> {
        let is_delete = matches!(self.member("status"), Some(Node::String("deleted")));
        let lenient = is_delete || self.profile == Profile::Lenient;
        self.fields(0, if lenient { LENIENT } else { ORDER });
        let id = self.id("order_uid");
        let (Some(id), true) = (id, self.faults.is_empty()) else { return Err(self.rejection()) };
        if is_delete {
            return Ok(Order { id, change: Change::Delete });
        }
        let body = match self.tokens.compact() {
            std::borrow::Cow::Borrowed(compact) => document.slice_ref(compact),
            std::borrow::Cow::Owned(compact) => compact.into(),
        };
        Ok(Order { id, change: Change::Wb(body) })
    }

    fn envelope(mut self) -> Result<Order, Rejection> {
        self.value(0);
        let is_new = matches!(self.member("order_id"), None | Some(Node::String("" | "0") | Node::Static(StaticNode::Null)));
        let id = if is_new { Some(OrderId::from_uuid(Uuid::now_v7())) } else { self.id("order_id") };
        let status = self.status();
        let is_delete = status == Some(Status::Deleted);
        let user_id = self.user_id(is_delete);
        let payload = self.payload(is_delete);
        let (Some(id), true) = (id, self.faults.is_empty()) else { return Err(self.rejection()) };
        let (payload, amount, external_id) = match payload {
            Some(payload) => (Some(payload.json), payload.amount, payload.external_id),
            None => (None, "0".into(), None),
        };
        Ok(Order { id, change: Change::Envelope(Envelope { is_new, user_id, status, payload, amount, external_id }) })
    }

    fn status(&mut self) -> Option<Status> {
        let status = match self.member("status") {
            None | Some(Node::Static(StaticNode::Null) | Node::String("")) => return None,
            Some(Node::String(text)) => Status::parse(text),
            Some(_) => None,
        };
        if status.is_none() {
            self.fault_at("status", "must be new, processing, done, cancelled or deleted");
        }
        status
    }

    fn user_id(&mut self, is_delete: bool) -> Option<Uuid> {
        let user_id = match self.member("user_id") {
            None | Some(Node::Static(StaticNode::Null)) if is_delete => return None,
            Some(Node::String(text)) => parse_uuid(text.as_bytes()),
            _ => None,
        };
        if user_id.is_none() {
            self.fault_at("user_id", "must be a UUID");
        }
        user_id
    }

    fn payload(&mut self, is_delete: bool) -> Option<Payload> {
        match (self.member("payload"), self.member("payload_json")) {
            (None, None) if is_delete => None,
            (None, None) => {
                self.fault_at("payload", "is missing (or payload_json)");
                None
            }
            (Some(_), Some(_)) => {
                self.fault_at("payload_json", "must be left out where payload is given");
                None
            }
            (Some(Node::Object { .. }), None) => Some(self.read_payload()),
            (Some(_), None) => {
                self.fault_at("payload", "must be an object");
                None
            }
            (None, Some(Node::String(text))) => self.nested_payload(text),
            (None, Some(_)) => {
                self.fault_at("payload_json", "must be a JSON object written as a string");
                None
            }
        }
    }

    /// The member `payload` of this document, known to be an object.
    fn read_payload(&self) -> Payload {
        let at = self.member_at(0, "payload").expect("the caller found it");
        let json = self.raw_of_member(0, "payload");
        self.summarize(at, json.into())
    }

    /// `payload_json`: a document of its own inside a string, held to the same rules.
    fn nested_payload(&mut self, text: &str) -> Option<Payload> {
        let mut nested = Decoder::new(Profile::Lenient, self.order_bytes_max);
        let read = nested.with_document(text.as_bytes(), |mut inner| {
            if !matches!(inner.nodes.first(), Some(Node::Object { .. })) {
                return Err(Rejection::whole(RejectionKind::Invalid, "must be a JSON object written as a string"));
            }
            inner.value(0);
            if !inner.faults.is_empty() {
                return Err(inner.rejection());
            }
            let json = inner.tokens.compact().into();
            Ok(inner.summarize(0, json))
        });
        match read {
            Ok(payload) => Some(payload),
            Err(rejection) => {
                self.fault_at("payload_json", &rejection.line());
                None
            }
        }
    }

    /// What is read off a payload besides its bytes.
    fn summarize(&self, at: usize, json: Box<[u8]>) -> Payload {
        let external_id = match self.member_at(at, "id").map(|id| self.nodes[id]) {
            Some(Node::String(text)) => Some(text.into()),
            Some(Node::Static(StaticNode::I64(_) | StaticNode::U64(_) | StaticNode::F64(_))) => {
                Some(self.raw_text_of_member(at, "id"))
            }
            _ => None,
        };
        let amount = self.number(at, "amount").unwrap_or_else(|| self.sum_of_items(at));
        Payload { json, amount, external_id }
    }

    /// A member that is a number or a numeric string, in its own spelling.
    fn number(&self, object: usize, name: &str) -> Option<Box<str>> {
        match self.nodes[self.member_at(object, name)?] {
            Node::Static(StaticNode::I64(_) | StaticNode::U64(_) | StaticNode::F64(_)) => {
                Some(self.raw_text_of_member(object, name))
            }
            Node::String(text) => {
                let text = text.trim();
                let finite = text.parse::<f64>().is_ok_and(f64::is_finite);
                (is_number(text) && finite).then(|| text.into())
            }
            _ => None,
        }
    }

    /// The sum of `price * qty`: exact while everything is whole, in double precision otherwise.
    fn sum_of_items(&self, payload: usize) -> Box<str> {
        let mut whole = Some(0_i128);
        let mut sum = 0.0;
        if let Some(items) = self.member_at(payload, "items")
            && let Node::Array { len, .. } = self.nodes[items]
        {
            let mut item = items + 1;
            for _ in 0..len {
                if let Node::Object { .. } = self.nodes[item]
                    && let (Some(price), Some(qty)) = (self.number(item, "price"), self.number(item, "qty"))
                {
                    let exact = price.parse::<i128>().ok().zip(qty.parse::<i128>().ok());
                    let product = exact.and_then(|(price, qty)| price.checked_mul(qty));
                    whole = whole.zip(product).and_then(|(sum, product)| sum.checked_add(product));
                    sum += price.parse::<f64>().unwrap_or_default() * qty.parse::<f64>().unwrap_or_default();
                }
                item = self.after(item);
            }
        }
        match whole {
            Some(whole) => whole.to_string().into(),
            None if f64::is_finite(sum) => sum.to_string().into(),
            None => "0".into(),
        }
    }

    /// The id under `name`, which is present.
    fn id(&mut self, name: &'static str) -> Option<OrderId> {
        let Some(Node::String(text)) = self.member(name) else {
            self.fault_at(name, "must be a string");
            return None;
        };
        match OrderId::parse(text.as_bytes()) {
            Ok(id) => Some(id),
            Err(error) => {
                self.fault_at(name, &error.to_string());
                None
            }
        }
    }

    /// Walks an object of known fields: each against its rule, the rest only for what every document must keep.
    fn fields(&mut self, object: usize, fields: &'static [Field]) {
        let Node::Object { len, .. } = self.nodes[object] else { return };
        let first_key = self.keys.len();
        let mut seen = 0_u64;
        let mut expected = 0;
        let mut at = object + 1;
        for _ in 0..len {
            let key = self.key(at);
            self.path.push(Step::Key(key));
            // Producers keep the order of the table, so the field after the last one is nearly always the one.
            let known = (0..fields.len()).map(|i| (expected + i) % fields.len()).find(|&i| fields[i].name == key);
            match known {
                Some(index) if seen & (1 << index) != 0 => self.fault("is given twice"),
                Some(index) => {
                    seen |= 1 << index;
                    expected = index + 1;
                    self.field(at + 1, &fields[index]);
                }
                None => {
                    self.keys.push(key);
                    self.value(at + 1);
                }
            }
            self.path.pop();
            at = self.after(at + 1);
        }
        self.unique_keys(first_key);
        for (index, field) in fields.iter().enumerate() {
            if seen & (1 << index) == 0 && validate::is_needed(field, self.profile) {
                self.fault_at(field.name, "is missing");
            }
        }
    }

    fn field(&mut self, at: usize, field: &'static Field) {
        match (field.rule, self.nodes[at]) {
            (Rule::Object(fields), Node::Object { .. }) => self.fields(at, fields),
            (Rule::Objects(fields), Node::Array { len, .. }) => self.objects(at, len, fields),
            (Rule::Id, _) => self.value(at), // read, and found at fault, by its caller
            (_, Node::Static(StaticNode::Null)) if !validate::is_needed(field, self.profile) => {}
            (rule, node) => {
                if let Err(message) = validate::check(rule, &node, self.profile) {
                    self.fault(message);
                }
                self.value(at);
            }
        }
    }

    fn objects(&mut self, array: usize, len: usize, fields: &'static [Field]) {
        if len == 0 {
            self.fault("must have at least one item");
        }
        let mut at = array + 1;
        for index in 0..len {
            self.path.push(Step::Index(index));
            match self.nodes[at] {
                Node::Object { .. } => self.fields(at, fields),
                _ => {
                    self.fault("must be an object");
                    self.value(at);
                }
            }
            self.path.pop();
            at = self.after(at);
        }
    }

    /// Walks any value for what every document must keep: unique keys, no NUL. The parser has bounded the depth.
    fn value(&mut self, at: usize) {
        match self.nodes[at] {
            Node::String(text) if self.has_nul => self.no_nul(text),
            Node::String(_) | Node::Static(_) => {}
            Node::Object { len, .. } => {
                let first_key = self.keys.len();
                let mut member = at + 1;
                for _ in 0..len {
                    let key = self.key(member);
                    self.keys.push(key);
                    self.path.push(Step::Key(key));
                    self.value(member + 1);
                    self.path.pop();
                    member = self.after(member + 1);
                }
                self.unique_keys(first_key);
            }
            Node::Array { len, .. } => {
                let mut element = at + 1;
                for index in 0..len {
                    self.path.push(Step::Index(index));
                    self.value(element);
                    self.path.pop();
                    element = self.after(element);
                }
            }
        }
    }

    /// Faults every key given more than once among those from `first_key` on, and forgets them.
    fn unique_keys(&mut self, first_key: usize) {
        let keys = &mut self.keys[first_key..];
        if keys.len() > 1 {
            keys.sort_unstable();
            let mut twice: Vec<&str> = keys.windows(2).filter(|pair| pair[0] == pair[1]).map(|pair| pair[0]).collect();
            twice.dedup();
            for key in twice {
                self.fault_at(key, "is given twice");
            }
        }
        self.keys.truncate(first_key);
    }

    fn key(&mut self, at: usize) -> &'i str {
        let Node::String(key) = self.nodes[at] else { unreachable!("keys are strings") };
        if self.has_nul {
            self.no_nul(key);
        }
        key
    }

    fn no_nul(&mut self, text: &str) {
        if memchr::memchr(0, text.as_bytes()).is_some() {
            self.fault("must not contain the character U+0000");
        }
    }

    fn member(&self, name: &str) -> Option<Node<'i>> {
        self.member_at(0, name).map(|at| self.nodes[at])
    }

    /// The node of a member's value.
    fn member_at(&self, object: usize, name: &str) -> Option<usize> {
        let Node::Object { len, .. } = self.nodes[object] else { return None };
        let mut at = object + 1;
        for _ in 0..len {
            if self.nodes[at] == Node::String(name) {
                return Some(at + 1);
            }
            at = self.after(at + 1);
        }
        None
    }

    /// A member's value as its producer spelled it, compacted. The member exists.
    fn raw_of_member(&self, object: usize, name: &str) -> Vec<u8> {
        let key = self.member_at(object, name).expect("the caller found it") - 1;
        let Node::String(key) = self.nodes[key] else { unreachable!("keys are strings") };
        // Strings are unescaped in place, so a key starts where it stood in the document, after its quote.
        let quote_at = key.as_ptr().addr() - self.scratch_at - 1;
        self.tokens.value_of_key(quote_at).expect("a key is a token and a value follows it").into_owned()
    }

    fn raw_text_of_member(&self, object: usize, name: &str) -> Box<str> {
        String::from_utf8(self.raw_of_member(object, name)).expect("the document is UTF-8").into()
    }

    /// The node after a value and everything in it.
    fn after(&self, at: usize) -> usize {
        match self.nodes[at] {
            Node::Object { count, .. } | Node::Array { count, .. } => at + 1 + count,
            Node::String(_) | Node::Static(_) => at + 1,
        }
    }

    fn fault_at(&mut self, key: &str, message: &str) {
        if self.faults.len() <= FAULTS_MAX {
            let mut pointer = self.pointer();
            push_key(&mut pointer, key);
            self.faults.push(Fault { pointer, message: message.into() });
        }
    }

    fn fault(&mut self, message: &str) {
        if self.faults.len() <= FAULTS_MAX {
            self.faults.push(Fault { pointer: self.pointer(), message: message.into() });
        }
    }

    fn pointer(&self) -> String {
        let mut pointer = String::new();
        for step in &self.path {
            match step {
                Step::Key(key) => push_key(&mut pointer, key),
                Step::Index(index) => {
                    pointer.push('/');
                    pointer.push_str(itoa::Buffer::new().format(*index));
                }
            }
        }
        pointer
    }

    fn rejection(mut self) -> Rejection {
        if self.faults.len() > FAULTS_MAX {
            self.faults.truncate(FAULTS_MAX);
            self.faults.push(Fault { pointer: String::new(), message: "there are more faults".into() });
        }
        Rejection { kind: RejectionKind::Invalid, faults: self.faults }
    }
}

struct Payload {
    json: Box<[u8]>,
    amount: Box<str>,
    external_id: Option<Box<str>>,
}

/// Appends one reference token, escaped as RFC 6901 says and cut where a hostile key would flood the answer.
fn push_key(pointer: &mut String, key: &str) {
    pointer.push('/');
    for c in key.chars().take(128) {
        match c {
            '~' => pointer.push_str("~0"),
            '/' => pointer.push_str("~1"),
            c => pointer.push(c),
        }
    }
}

fn without_bom(document: &Bytes) -> Bytes {
    if document.starts_with(b"\xef\xbb\xbf") { document.slice(3..) } else { document.clone() }
}

fn malformed(error: &simd_json::Error, document: &[u8]) -> Rejection {
    let message = match error.error() {
        _ if document.iter().all(u8::is_ascii_whitespace) => "is empty".into(),
        ErrorType::InvalidUtf8 => "is not valid UTF-8".into(),
        ErrorType::DepthLimitExceeded => format!("is nested deeper than {DEPTH_MAX} levels"),
        _ => format!("is not valid JSON near byte {}", error.index().min(document.len())),
    };
    Rejection::whole(RejectionKind::Malformed, message)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn decode(document: &str) -> Result<Order, Rejection> {
        Decoder::new(Profile::Wb, 1 << 20).decode(&Bytes::copy_from_slice(document.as_bytes()))
    }

    #[test]
    fn an_envelope_keeps_its_payload_as_written() {
        let order = decode(
            "{ \"user_id\" : \"0190163D8694739BAEA5966C26F8AD91\", \"p\\u0061yload\": { \"id\" : 1e2 , \"b\" : [ 1.0 , \" x \" ] , \"items\":[{\"price\":\"3\",\"qty\":4},{\"price\":1}] } }",
        )
        .unwrap();
        let Change::Envelope(envelope) = order.change else { panic!("an envelope") };
        assert!(envelope.is_new);
        assert_eq!(
            std::str::from_utf8(envelope.payload.as_deref().unwrap()).unwrap(),
            r#"{"id":1e2,"b":[1.0," x "],"items":[{"price":"3","qty":4},{"price":1}]}"#
        );
        assert_eq!(envelope.external_id.as_deref(), Some("1e2"));
        assert_eq!(&*envelope.amount, "12");
    }

    #[test]
    fn depth_is_counted_from_the_outermost_object() {
        let nested = |levels: usize| {
            let arrays = levels - 1;
            format!(r#"{{"order_uid":"x","status":"deleted","a":{}{}}}"#, "[".repeat(arrays), "]".repeat(arrays))
        };
        assert!(decode(&nested(DEPTH_MAX)).is_ok());
        let error = decode(&nested(DEPTH_MAX + 1)).unwrap_err();
        assert_eq!(error.line(), "is nested deeper than 64 levels");
    }

    #[test]
    fn every_fault_is_named() {
        let error = decode(r#"{"order_uid":"x y","items":[{"price":-1}],"a/b":1,"a/b":2}"#).unwrap_err();
        let pointers: Vec<&str> = error.faults.iter().map(|fault| fault.pointer.as_str()).collect();
        for expected in ["/order_uid", "/items/0/price", "/items/0/chrt_id", "/a~1b", "/delivery", "/date_created"] {
            assert!(pointers.contains(&expected), "{expected} in {pointers:?}");
        }
    }
}
