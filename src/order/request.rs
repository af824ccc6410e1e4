//! Reads an envelope request off its parsed document: the decoder's other half, for the other face.

use std::cell::RefCell;

use simd_json::StaticNode;
use simd_json::tape::Node;
use uuid::Uuid;

use super::compact::is_number;
use super::decimal::Decimal;
use super::decode::{DEPTH_MAX, Decoder, Decoding};
use super::envelope::{Envelope, Status};
use super::validate::Profile;
use super::{Command, Order};
use crate::id::{OrderId, parse_uuid};
use crate::record::{Rejection, RejectionKind};

/// The longest `payload.id` that can be looked up. A longer one is kept in the payload but is no key: index rows of a
/// database are limited, those of `PostgreSQL` to about 2,700 bytes, and one order over the limit would fail its whole batch.
pub const EXTERNAL_ID_BYTES_MAX: usize = 512;

struct Payload {
    json: Box<[u8]>,
    amount: Box<str>,
    external_id: Option<Box<str>>,
}

/// What an order with this stored payload is looked up by beyond its own id, as it was when the order was accepted.
#[must_use]
pub fn external_id(payload: &[u8]) -> Option<Box<str>> {
    thread_local! {
        static DECODER: RefCell<Decoder> =
            RefCell::new(Decoder::with_depth(Profile::Lenient, usize::MAX, DEPTH_MAX, 1024));
    }
    let read = |inner: Decoding<'_, '_>| Ok(inner.id_of_payload(0));
    DECODER.with_borrow_mut(|decoder| decoder.with_document(payload, read)).ok().flatten()
}

impl Decoding<'_, '_> {
    pub(super) fn envelope(mut self) -> Result<Order, Rejection> {
        self.value(0);
        let status = self.status();
        let is_delete = status == Some(Status::Deleted);
        let is_new = matches!(self.given("order_id"), None | Some(Node::String("" | "0")));
        let id = match is_new {
            true if is_delete => {
                self.faults.at("order_id", "must name the order to delete");
                None
            }
            true => Some(OrderId::from_uuid(Uuid::now_v7())),
            false => self.id("order_id"),
        };
        let user_id = self.user_id(is_delete);
        let payload = self.payload(is_delete);
        let (Some(id), true) = (id, self.faults.is_empty()) else { return Err(self.faults.rejection()) };
        let (payload, amount, external_id) = match payload {
            Some(payload) => (Some(payload.json), payload.amount, payload.external_id),
            None => (None, "0".into(), None),
        };
        let envelope = Envelope { is_new, user_id, status, payload, amount, external_id };
        Ok(Order::new(id, Command::Envelope(envelope)))
    }

    fn status(&mut self) -> Option<Status> {
        let status = match self.given("status") {
            None | Some(Node::String("")) => return None,
            Some(Node::String(text)) => Status::parse(text),
            Some(_) => None,
        };
        if status.is_none() {
            self.faults.at("status", "must be new, processing, done, cancelled or deleted");
        }
        status
    }

    fn user_id(&mut self, is_delete: bool) -> Option<Uuid> {
        let user_id = match self.given("user_id") {
            None if is_delete => return None,
            Some(Node::String(text)) => parse_uuid(text.as_bytes()),
            _ => None,
        };
        if user_id.is_none() {
            self.faults.at("user_id", "must be a UUID");
        }
        user_id
    }

    fn payload(&mut self, is_delete: bool) -> Option<Payload> {
        // A client that always writes every field of its own type leaves the one it does not use empty.
        let nested = self.given("payload_json").filter(|nested| *nested != Node::String(""));
        match (self.given("payload"), nested) {
            (None, None) if is_delete => None,
            (None, None) => {
                self.faults.at("payload", "is missing (or payload_json)");
                None
            }
            (Some(_), Some(_)) => {
                self.faults.at("payload_json", "must be left out where payload is given");
                None
            }
            (Some(Node::Object { .. }), None) => Some(self.read_payload("payload")),
            (Some(_), None) => {
                self.faults.at("payload", "must be an object");
                None
            }
            (None, Some(Node::String(text))) => self.nested_payload(text),
            // Clients that do not know what the field is named for send the object itself.
            (None, Some(Node::Object { .. })) => Some(self.read_payload("payload_json")),
            (None, Some(_)) => {
                self.faults.at("payload_json", "must be a JSON object, or one written as a string");
                None
            }
        }
    }

    /// A member of this document that is the payload, known to be an object.
    fn read_payload(&self, name: &str) -> Payload {
        let at = self.member_at(0, name).expect("the caller found it");
        let json = self.raw_of_member(0, name);
        self.summarize(at, json.into())
    }

    /// `payload_json`: a document of its own inside a string, held to the same rules.
    fn nested_payload(&mut self, text: &str) -> Option<Payload> {
        // The payload will stand one level deeper in the body.
        let mut nested = Decoder::with_depth(Profile::Lenient, self.order_bytes_max, DEPTH_MAX - 1, text.len());
        let read = nested.with_document(text.as_bytes(), |mut inner| {
            if !matches!(inner.nodes.first(), Some(Node::Object { .. })) {
                return Err(Rejection::whole(
                    RejectionKind::Invalid,
                    "must be a JSON object, or one written as a string",
                ));
            }
            inner.value(0);
            if !inner.faults.is_empty() {
                return Err(inner.faults.rejection());
            }
            let json = inner.tokens.compact().into();
            Ok(inner.summarize(0, json))
        });
        match read {
            Ok(payload) => Some(payload),
            Err(rejection) => {
                self.faults.at("payload_json", &rejection.line());
                None
            }
        }
    }

    /// What is read off a payload beyond its bytes.
    fn summarize(&self, at: usize, json: Box<[u8]>) -> Payload {
        let external_id = self.id_of_payload(at);
        let amount = self.number(at, "amount").unwrap_or_else(|| self.sum_of_items(at));
        Payload { json, amount, external_id }
    }

    /// `payload.id`: a string, or a number in its own spelling.
    fn id_of_payload(&self, payload: usize) -> Option<Box<str>> {
        let id: Box<str> = match self.nodes[self.member_at(payload, "id")?] {
            Node::String(text) => text.into(),
            Node::Static(StaticNode::I64(_) | StaticNode::U64(_) | StaticNode::F64(_)) => {
                self.raw_text_of_member(payload, "id")
            }
            _ => return None,
        };
        (1..=EXTERNAL_ID_BYTES_MAX).contains(&id.len()).then_some(id)
    }

    /// A member that is a number or a numeric string, in its own spelling. None beyond double precision, in which
    /// others calculate.
    fn number(&self, object: usize, name: &str) -> Option<Box<str>> {
        let text: Box<str> = match self.nodes[self.member_at(object, name)?] {
            Node::Static(StaticNode::I64(_) | StaticNode::U64(_)) => {
                return Some(self.raw_text_of_member(object, name));
            }
            Node::Static(StaticNode::F64(_)) => self.raw_text_of_member(object, name),
            Node::String(text) => text.trim().into(),
            _ => return None,
        };
        let is_finite = text.parse::<f64>().is_ok_and(f64::is_finite);
        (is_number(&text) && is_finite).then_some(text)
    }

    /// The sum of `price * qty`: exact while its digits can be kept, in double precision otherwise.
    fn sum_of_items(&self, payload: usize) -> Box<str> {
        let mut exact = Some(Decimal::ZERO);
        let mut sum = 0.0;
        if let Some(items) = self.member_at(payload, "items")
            && let Node::Array { len, .. } = self.nodes[items]
        {
            let mut item = items + 1;
            for _ in 0..len {
                if let Some((price, qty)) = self.number(item, "price").zip(self.number(item, "qty")) {
                    let product =
                        Decimal::parse(&price).zip(Decimal::parse(&qty)).and_then(|(price, qty)| price.times(qty));
                    exact = exact.zip(product).and_then(|(sum, product)| sum.plus(product));
                    sum += price.parse::<f64>().unwrap_or_default() * qty.parse::<f64>().unwrap_or_default();
                }
                item = self.after(item);
            }
        }
        match exact {
            Some(exact) => exact.to_string().into(),
            None if f64::is_finite(sum) => sum.to_string().into(),
            None => "0".into(),
        }
    }
}
