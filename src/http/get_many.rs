//! Several orders by their ids: `POST /api/orders/lookup`, and `?ids=` of the list.

use hyper::StatusCode;
use hyper::body::Incoming;
use hyper::header::{HeaderMap, HeaderName};

use super::body::Body;
use super::respond::{self, Answer, Problem};
use super::{Api, conditions, request};
use crate::access::Who;
use crate::id::OrderId;
use crate::read::Found;
use crate::snapshot::State;

/// The most ids one request may ask for.
pub const IDS_MAX: usize = 1000;
/// The longest list of ids in bytes: a thousand of the longest with their quotes and commas, and
/// white space.
const IDS_BYTES_MAX: usize = 256 << 10;
/// How many were asked for and not found.
const X_MISSING: HeaderName = HeaderName::from_static("x-missing");

/// `POST /api/orders/lookup`
pub async fn lookup(api: &Api, headers: &HeaderMap, body: &mut Option<Incoming>, who: &Who) -> Result<Answer, Problem> {
    conditions::none(headers)?;
    request::plain_body(headers)?;
    if !request::content_type(headers)?.is_none_or(|kind| kind.ends_with("json")) {
        let detail = "send a JSON array of ids as application/json";
        return Err(Problem::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "unsupported_media_type", detail));
    }
    let body = request::read_body(api, headers, body, IDS_BYTES_MAX).await?;
    let ids: Vec<String> = serde_json::from_slice(&body)
        .map_err(|error| Problem::bad_request("malformed", format!("the body must be a JSON array of ids: {error}")))?;
    get_many(api, &ids, who).await
}

/// The orders found, in the order asked.
pub async fn get_many(api: &Api, ids: &[impl AsRef<str>], who: &Who) -> Result<Answer, Problem> {
    if ids.len() > IDS_MAX {
        return Err(Problem::bad_request("too_many_ids", format!("at most {IDS_MAX} ids at once")));
    }
    let mut found = Vec::with_capacity(ids.len());
    let mut bytes = 0;
    for (index, id) in ids.iter().enumerate() {
        let id = OrderId::parse(id.as_ref().as_bytes()).map_err(Problem::bad_id)?;
        let order = match api.reader.get(&id) {
            Found::Hit(snapshot) if api.reader.is_seen(who.owner_tag(), &snapshot) => Some(snapshot),
            Found::Hit(_) | Found::Absent if api.reader.is_known_absent(who.owner_tag()) => None,
            _ => match who.owner() {
                None => api.reader.load(&id).await?,
                Some(owner) => api.reader.load_owned(&id, None, owner.tag).await?,
            },
        };
        let Some(order) = order.filter(|order| order.state() == State::Live) else { continue };
        bytes += order.flat().len() + 1;
        if bytes > api.config.answer_bytes_max && !found.is_empty() {
            let bytes_max = api.config.answer_bytes_max;
            let detail = format!(
                "these orders are more than {bytes_max} bytes; ask for the first {index} of them, then for the rest"
            );
            return Err(Problem::new(StatusCode::PAYLOAD_TOO_LARGE, "answer_too_large", detail));
        }
        found.push(order);
    }
    let missing = ids.len() - found.len();
    let mut answer = respond::json(Body::array(found));
    answer.headers_mut().insert(X_MISSING, missing.into());
    Ok(answer)
}
