//! One order, by its id or by that of its sender: at once from the view, or after a load.

use hyper::StatusCode;
use hyper::header::HeaderMap;

use super::Api;
use super::query::Query;
use super::request::{self, X_MIN_VERSION};
use super::respond::{self, Answer, Problem};
use super::route::{Face, segment};
use crate::access::Who;
use crate::id::{IdError, OrderId, Version, parse_uuid};
use crate::read::Found;
use crate::snapshot::OwnerTag;

/// What a read came to without waiting.
pub enum Lookup {
    /// The answer.
    Ready(Answer),
    /// The store must be asked for this id.
    NeedsLoad(OrderId, Option<Version>),
}

/// A read of one order, as far as it goes without waiting.
pub fn look_up(api: &Api, id: &str, face: Face, headers: &HeaderMap, who: &Who) -> Lookup {
    let id = match parse_id(id) {
        Ok(id) => id,
        Err(error) => return Lookup::Ready(Problem::bad_id(error).answer(headers)),
    };
    let least = match min_version(headers) {
        Ok(least) => least,
        Err(problem) => return Lookup::Ready(problem.answer(headers)),
    };
    match api.reader.get(&id) {
        Found::Hit(snapshot)
            if least.is_none_or(|least| snapshot.version() >= least)
                && api.reader.is_seen(who.owner_tag(), &snapshot) =>
        {
            api.metrics.requests.hit(1);
            Lookup::Ready(respond::order(snapshot, face, headers))
        }
        // While the store may be asked, it is: for an order of another as for one that there is
        // not.
        Found::Hit(_) | Found::Absent if least.is_none() && api.reader.is_known_absent(who.owner_tag()) => {
            api.metrics.requests.miss();
            Lookup::Ready(Problem::no_order().answer(headers))
        }
        _ => {
            api.metrics.requests.miss();
            Lookup::NeedsLoad(id, least)
        }
    }
}

/// An id as a path spells it. A legal id needs no percent-encoding, so decoding waits until one is
/// not legal.
fn parse_id(raw: &str) -> Result<OrderId, IdError> {
    match OrderId::parse(raw.as_bytes()) {
        Err(_) if raw.contains('%') => OrderId::parse(segment(raw).as_bytes()),
        parsed => parsed,
    }
}

/// A read of one order, to its end.
pub async fn one_fully(api: &Api, id: &str, face: Face, headers: &HeaderMap, who: &Who) -> Answer {
    match look_up(api, id, face, headers, who) {
        Lookup::Ready(answer) => answer,
        Lookup::NeedsLoad(id, least) => load_order(api, id, least, face, headers, who).await,
    }
}

/// The rest of a read of one order.
pub async fn load_order(
    api: &Api,
    id: OrderId,
    least: Option<Version>,
    face: Face,
    headers: &HeaderMap,
    who: &Who,
) -> Answer {
    let found = match (least, who.owner()) {
        (Some(least), None) => api.reader.get_at_least(&id, least).await,
        (None, None) => api.reader.load(&id).await,
        (least, Some(owner)) => api.reader.load_owned(&id, least, owner.tag).await,
    };
    match (found, least) {
        (Ok(Some(snapshot)), _) => respond::order(snapshot, face, headers),
        (Ok(None), None) => Problem::no_order().answer(headers),
        (Ok(None), Some(least)) => version_not_reached(least).answer(headers),
        (Err(error), _) => Problem::from(error).answer(headers),
    }
}

fn version_not_reached(least: Version) -> Problem {
    let detail = format!("no copy of this order is at version {least} or newer");
    Problem::new(StatusCode::PRECONDITION_FAILED, "version_not_reached", detail)
}

fn min_version(headers: &HeaderMap) -> Result<Option<Version>, Problem> {
    let Some(value) = request::once(headers, &X_MIN_VERSION)? else { return Ok(None) };
    let version = value.to_str().ok().and_then(|text| text.trim().trim_matches('"').parse().ok());
    version.map(Some).ok_or_else(|| Problem::bad_request("invalid_version", "X-Min-Version must be a whole number"))
}

/// `GET /orders/by-external/{external}?user_id={uuid}`
pub async fn by_external(
    api: &Api,
    external: String,
    query: &Query<'_>,
    headers: &HeaderMap,
    who: &Who,
) -> Result<Answer, Problem> {
    let user_id = query.get("user_id").and_then(|user_id| parse_uuid(user_id.as_bytes()));
    let user_id = user_id.ok_or_else(|| Problem::bad_request("invalid_user_id", "user_id must be a UUID"))?;
    if external.is_empty() {
        return Err(Problem::bad_request("invalid_id", "the external id is empty"));
    }
    let least = min_tag(headers)?;
    let user_id = user_id.hyphenated().to_string();
    // Another user's orders are not looked for, so how long that takes says nothing.
    let found = if who.sees(Some(OwnerTag::of(&user_id))) {
        let found = api.reader.by_external(user_id, external).await?;
        found.filter(|(_, snapshot)| api.reader.is_seen(who.owner_tag(), snapshot))
    } else {
        None
    };
    match (found, least) {
        // Of another order, which was this user's newest of that name before, it says nothing; and
        // the store was asked, so there is no newer copy to wait for.
        (Some((id, snapshot)), Some((of, least))) if id == of && snapshot.version() < least => {
            Err(version_not_reached(least))
        }
        (Some((id, snapshot)), _) => Ok(respond::named_order(&id, snapshot, headers)),
        (None, _) => Err(Problem::not_found("this user has no order with this external id")),
    }
}

/// `X-Min-Version` where the order is not named by the request: the tag that an answer had, of an
/// order and its version.
fn min_tag(headers: &HeaderMap) -> Result<Option<(OrderId, Version)>, Problem> {
    let Some(value) = request::once(headers, &X_MIN_VERSION)? else { return Ok(None) };
    let tag = value.to_str().ok().map(|text| text.trim().trim_matches('"')).and_then(|text| text.rsplit_once('-'));
    let read = tag.and_then(|(id, version)| Some((OrderId::parse(id.as_bytes()).ok()?, version.parse().ok()?)));
    read.map(Some).ok_or_else(|| {
        let detail = "X-Min-Version must be an order's id and its version here, as in an ETag: <id>-7";
        Problem::bad_request("invalid_min_version", detail)
    })
}
