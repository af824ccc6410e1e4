//! Bytes in, a valid [`Order`] or every reason why not out. Parses once with simd-json and keeps the producer's bytes.

use std::ops::Range;

use bytes::Bytes;
use memchr::memmem::Finder;
use simd_json::tape::Node;
use simd_json::{Buffers, ErrorType, INPUT_PADDING, StaticNode, Tape};

use super::columns;
use super::compact::Tokens;
use super::envelope::Envelope;
use super::faults::Faults;
use super::scan::scan;
use super::tape;
use super::validate::{self, Field, LENIENT, ORDER, Profile, Rule};
use super::{Command, Order};
use crate::id::OrderId;
use crate::record::{Rejection, RejectionKind};

/// The deepest nesting accepted; the outermost object is level 1.
pub const DEPTH_MAX: usize = 64;

/// The working space of documents up to this size is kept for the next.
const KEPT_BYTES_MAX: usize = 64 << 10;

/// Decodes orders one after the other, reusing its working space.
pub struct Decoder {
    profile: Profile,
    order_bytes_max: usize,
    depth_max: usize,
    buffers: Buffers,
    scratch: Vec<u8>,
    nul: Finder<'static>,
    wants_columns: bool,
    tape: Option<Tape<'static>>,
}

impl Decoder {
    /// A decoder for one profile. Documents above `order_bytes_max` bytes are rejected unread.
    #[must_use]
    pub fn new(profile: Profile, order_bytes_max: usize) -> Self {
        Self::with_depth(profile, order_bytes_max, DEPTH_MAX, 4096)
    }

    pub(super) fn with_depth(profile: Profile, order_bytes_max: usize, depth_max: usize, usual_bytes: usize) -> Self {
        let buffers = Buffers::with_max_depth(usual_bytes, depth_max);
        Self {
            profile,
            order_bytes_max,
            depth_max,
            buffers,
            scratch: Vec::new(),
            nul: Finder::new(b"\\u0000"),
            wants_columns: false,
            tape: None,
        }
    }

    /// The same, which also notes the scalars of WB orders: [`Order::columns`].
    #[must_use]
    pub fn with_columns(self, wants_columns: bool) -> Self {
        Self { wants_columns, ..self }
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

    /// The same by another profile.
    ///
    /// # Errors
    /// As [`Self::decode`].
    pub fn decode_as(&mut self, profile: Profile, document: &Bytes) -> Result<Order, Rejection> {
        let usual = std::mem::replace(&mut self.profile, profile);
        let decoded = self.decode(document);
        self.profile = usual;
        decoded
    }

    /// Parses `document` and hands the result to `read`; usual working space is kept whatever happens.
    pub(super) fn with_document<T>(
        &mut self,
        document: &[u8],
        read: impl FnOnce(Decoding<'_, '_>) -> Result<T, Rejection>,
    ) -> Result<T, Rejection> {
        if document.len() > self.order_bytes_max {
            let message = format!("larger than {} bytes", self.order_bytes_max);
            return Err(Rejection::whole(RejectionKind::TooLarge, message));
        }
        let space = self.tape.take().unwrap_or_else(|| Tape(Vec::new()));
        let parsed = match fill(&mut self.scratch, document, &[], &mut self.buffers, space) {
            Ok(filled) => Ok(filled),
            Err((error, space)) => match refused(&error, document, self.depth_max) {
                Ok(beyond) => fill(&mut self.scratch, document, &beyond, &mut self.buffers, space)
                    .map_err(|(error, _)| malformed(&error, document, self.depth_max)),
                Err(rejection) => Err(rejection),
            },
        };
        let (result, space) = match parsed {
            Err(rejection) => (Err(rejection), Tape(Vec::new())),
            Ok((tape, scratch_at)) => {
                let decoding = Decoding {
                    nodes: &tape.0,
                    tokens: Tokens::new(document, self.buffers.structural_indexes()),
                    scratch_at,
                    profile: self.profile,
                    wants_columns: self.wants_columns,
                    order_bytes_max: self.order_bytes_max,
                    has_nul: self.nul.find(document).is_some(),
                    faults: Faults::default(),
                    keys: Vec::new(),
                };
                (read(decoding), tape.reset())
            }
        };
        if document.len() <= KEPT_BYTES_MAX {
            self.tape = Some(space);
        } else {
            // One huge document must not hold on to thirty times its size for good.
            self.buffers = Buffers::with_max_depth(KEPT_BYTES_MAX, self.depth_max);
            self.scratch = Vec::new();
        }
        result
    }
}

/// One parsed document being read.
pub(super) struct Decoding<'t, 'i> {
    pub(super) nodes: &'t [Node<'i>],
    pub(super) tokens: Tokens<'t>,
    scratch_at: usize,
    profile: Profile,
    wants_columns: bool,
    pub(super) order_bytes_max: usize,
    /// The text `\u0000` occurs, so strings are searched for the character it stands for.
    has_nul: bool,
    pub(super) faults: Faults<'i>,
    /// Unknown keys of the objects being walked, innermost last.
    keys: Vec<&'i str>,
}

impl<'i> Decoding<'_, 'i> {
    fn order(mut self, document: &Bytes) -> Result<Order, Rejection> {
        if !matches!(self.nodes.first(), Some(Node::Object { .. })) {
            return Err(Rejection::whole(RejectionKind::Invalid, "must be a JSON object"));
        }
        let (uid, id) = (self.member("order_uid"), self.member("order_id"));
        let decoded = if uid.is_some() && !self.is_answered_envelope(uid, id) {
            self.wb(document)
        } else if id.is_some() || self.member("user_id").is_some() {
            self.envelope()
        } else {
            self.value(0);
            self.faults.here("must have order_uid (a WB order) or order_id and user_id (an envelope)");
            Err(self.faults.rejection())
        };
        let named = || match (uid, id) {
            (None, Some(Node::String("0"))) => None, // which asks for a new one
            (Some(Node::String(id)), _) | (None, Some(Node::String(id))) => OrderId::parse(id.as_bytes()).ok(),
            _ => None,
        };
        decoded.map_err(|rejection| rejection.of(named()))
    }

    /// An envelope order as this service answers and exports it has an `order_uid` too, the same as its `order_id`.
    /// Sent back, it is that envelope and no WB order.
    fn is_answered_envelope(&self, uid: Option<Node<'_>>, id: Option<Node<'_>>) -> bool {
        matches!((uid, id), (Some(Node::String(uid)), Some(Node::String(id))) if uid == id && !uid.is_empty())
            && matches!(self.member("payload"), Some(Node::Object { .. }))
    }

    fn wb(mut self, document: &Bytes) -> Result<Order, Rejection> {
        let is_delete = matches!(self.member("status"), Some(Node::String("deleted")));
        let lenient = is_delete || self.profile == Profile::Lenient;
        self.fields(0, if lenient { LENIENT } else { ORDER });
        let id = self.id("order_uid");
        let (Some(id), true) = (id, self.faults.is_empty()) else { return Err(self.faults.rejection()) };
        if is_delete {
            // Which face the order has is known where it is stored.
            return Ok(Order::new(id, Command::Envelope(Envelope::deletion())));
        }
        let body = match self.tokens.compact() {
            std::borrow::Cow::Borrowed(compact) => document.slice_ref(compact),
            std::borrow::Cow::Owned(compact) => compact.into(),
        };
        let columns = self.wants_columns.then(|| columns::columns(self.nodes).pack());
        Ok(Order { id, command: Command::Wb(body), columns, past: None })
    }

    /// The id under `name`, which is present.
    pub(super) fn id(&mut self, name: &'static str) -> Option<OrderId> {
        let Some(Node::String(text)) = self.member(name) else {
            self.faults.at(name, "must be a string");
            return None;
        };
        match OrderId::parse(text.as_bytes()) {
            Ok(id) => Some(id),
            Err(error) => {
                self.faults.at(name, &error.to_string());
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
            // Producers keep the order of the table, so the field after the last one is nearly always the one.
            let known = match fields.get(expected) {
                Some(field) if field.name == key => Some(expected),
                _ => fields.iter().position(|field| field.name == key),
            };
            match known {
                Some(index) if seen & (1 << index) != 0 => {
                    self.faults.at(key, "is given twice");
                    self.member_value(key, at + 1);
                }
                Some(index) => {
                    seen |= 1 << index;
                    expected = index + 1;
                    self.field(at + 1, &fields[index]);
                }
                None => {
                    self.keys.push(key);
                    self.member_value(key, at + 1);
                }
            }
            at = self.after(at + 1);
        }
        self.unique_keys(first_key);
        if seen.count_ones() as usize == fields.len() {
            return;
        }
        for (index, field) in fields.iter().enumerate() {
            if seen & (1 << index) == 0 && validate::is_needed(field, self.profile) {
                self.faults.at(field.name, "is missing");
            }
        }
    }

    fn field(&mut self, at: usize, field: &'static Field) {
        match (field.rule, self.nodes[at]) {
            (Rule::Object(fields), Node::Object { .. }) => {
                self.faults.enter(field.name);
                self.fields(at, fields);
                self.faults.leave();
            }
            (Rule::Objects(fields), Node::Array { len, .. }) => {
                self.faults.enter(field.name);
                self.objects(at, len, fields);
                self.faults.leave();
            }
            (Rule::Id, _) => self.member_value(field.name, at), // read, and found at fault, by its caller
            (_, Node::Static(StaticNode::Null)) if !validate::is_needed(field, self.profile) => {}
            (rule, node) => {
                if let Err(message) = validate::check(rule, &node, self.profile) {
                    self.faults.at(field.name, message);
                }
                self.member_value(field.name, at);
            }
        }
    }

    /// Walks the value of a member as [`Self::value`] does. Most values are scalars that nothing can be wrong with.
    fn member_value(&mut self, key: &'i str, at: usize) {
        match self.nodes[at] {
            Node::Static(_) => {}
            Node::String(_) if !self.has_nul => {}
            _ => {
                self.faults.enter(key);
                self.value(at);
                self.faults.leave();
            }
        }
    }

    fn objects(&mut self, array: usize, len: usize, fields: &'static [Field]) {
        if len == 0 {
            self.faults.here("must have at least one item");
        }
        let mut at = array + 1;
        for index in 0..len {
            self.faults.enter_index(index);
            if let Node::Object { .. } = self.nodes[at] {
                self.fields(at, fields);
            } else {
                self.faults.here("must be an object");
                self.value(at);
            }
            self.faults.leave();
            at = self.after(at);
        }
    }

    /// Walks any value for what every document must keep: unique keys, no NUL. The parser has bounded the depth.
    pub(super) fn value(&mut self, at: usize) {
        match self.nodes[at] {
            Node::String(text) if self.has_nul => self.no_nul(text),
            Node::String(_) | Node::Static(_) => {}
            Node::Object { len, .. } => {
                let first_key = self.keys.len();
                let mut member = at + 1;
                for _ in 0..len {
                    let key = self.key(member);
                    self.keys.push(key);
                    self.member_value(key, member + 1);
                    member = self.after(member + 1);
                }
                self.unique_keys(first_key);
            }
            Node::Array { len, .. } => {
                let mut element = at + 1;
                for index in 0..len {
                    self.faults.enter_index(index);
                    self.value(element);
                    self.faults.leave();
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
                self.faults.at(key, "is given twice");
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
            self.faults.here("must not contain the character U+0000");
        }
    }

    pub(super) fn member(&self, name: &str) -> Option<Node<'i>> {
        self.member_at(0, name).map(|at| self.nodes[at])
    }

    /// A member that is there and not null.
    pub(super) fn given(&self, name: &str) -> Option<Node<'i>> {
        self.member(name).filter(|node| *node != Node::Static(StaticNode::Null))
    }

    /// The node of a member's value.
    pub(super) fn member_at(&self, object: usize, name: &str) -> Option<usize> {
        let Node::Object { len, .. } = self.nodes[object] else { return None };
        let mut at = object + 1;
        for _ in 0..len {
            if let Node::String(key) = self.nodes[at]
                && key == name
            {
                return Some(at + 1);
            }
            at = self.after(at + 1);
        }
        None
    }

    /// A member's value as its producer spelled it, compacted. The member exists.
    pub(super) fn raw_of_member(&self, object: usize, name: &str) -> Vec<u8> {
        let key = self.member_at(object, name).expect("the caller found it") - 1;
        let Node::String(key) = self.nodes[key] else { unreachable!("keys are strings") };
        // Strings are unescaped in place, so a key starts where it stood in the document, after its quote.
        let quote_at = key.as_ptr().addr() - self.scratch_at - 1;
        self.tokens.value_of_key(quote_at).expect("a key is a token and a value follows it").into_owned()
    }

    pub(super) fn raw_text_of_member(&self, object: usize, name: &str) -> Box<str> {
        String::from_utf8(self.raw_of_member(object, name)).expect("the document is UTF-8").into()
    }

    /// The node after a value and everything in it.
    pub(super) fn after(&self, at: usize) -> usize {
        tape::after(self.nodes, at)
    }
}

pub(super) fn without_bom(document: &Bytes) -> Bytes {
    if document.starts_with(b"\xef\xbb\xbf") { document.slice(3..) } else { document.clone() }
}

/// Parses a document in `scratch`, where the numbers `beyond` what the parser takes are put as 0.0 first: they stay what
/// they are in the document. Also says where in memory it is; where it fails, gives the space of the tape back.
fn fill<'i>(
    scratch: &'i mut Vec<u8>,
    document: &[u8],
    beyond: &[Range<usize>],
    buffers: &mut Buffers,
    space: Tape<'static>,
) -> Result<(Tape<'i>, usize), (simd_json::Error, Tape<'static>)> {
    scratch.clear();
    scratch.extend_from_slice(document);
    for number in beyond {
        let number = &mut scratch[number.clone()];
        number.fill(b'0');
        number[1] = b'.'; // the shortest are 1e309 and 1e-324
    }
    scratch.resize(document.len() + INPUT_PADDING, b' '); // ends a number that ends the document
    let scratch_at = scratch.as_ptr().addr();
    let mut tape = space.reset();
    match simd_json::fill_tape_padded(scratch, document.len(), buffers, &mut tape) {
        Ok(()) => Ok((tape, scratch_at)),
        Err(error) => Err((error, tape.reset())),
    }
}

/// What of a document the parser could not take although it is JSON.
///
/// # Errors
/// It is none.
fn refused(error: &simd_json::Error, document: &[u8], depth_max: usize) -> Result<Vec<Range<usize>>, Rejection> {
    match error.error() {
        ErrorType::InvalidUtf8 | ErrorType::DepthLimitExceeded => Err(malformed(error, document, depth_max)),
        _ => match scan(document) {
            Ok(beyond) if !beyond.is_empty() => Ok(beyond),
            _ => Err(malformed(error, document, depth_max)),
        },
    }
}

fn malformed(error: &simd_json::Error, document: &[u8], depth_max: usize) -> Rejection {
    let message = match error.error() {
        _ if document.iter().all(u8::is_ascii_whitespace) => "is empty".into(),
        _ if document[0] == 0 => {
            "starts with a zero byte, as framed Avro, Protobuf and JSON Schema do; must be plain JSON".into()
        }
        ErrorType::InvalidUtf8 => {
            let valid = std::str::from_utf8(document).map_or_else(|error| error.valid_up_to(), str::len);
            format!("is not valid UTF-8 at byte {valid}")
        }
        ErrorType::DepthLimitExceeded => format!("is nested deeper than {depth_max} levels"),
        // Of a string the parser does not say where in it.
        _ => format!("is not valid JSON near byte {}", scan(document).err().unwrap_or_else(|| error.index())),
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
        let Command::Envelope(envelope) = order.command else { panic!("an envelope") };
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
}
