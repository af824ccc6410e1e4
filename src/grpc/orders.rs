//! The calls of `OrdersService`: ids to bytes through the reader, bytes to orders through the inbox.

use bytes::Bytes;
use tonic::metadata::MetadataMap;
use tonic::{Code, Request, Response, Status, async_trait};

use super::deadline::Deadline;
use super::metrics::GrpcMetrics;
use super::proto::service::v1::orders_service_server::OrdersService;
use super::proto::service::v1::{
    GetOrderByExternalIdRequest, GetOrderByExternalIdResponse, GetOrderByIdRequest, GetOrderByIdResponse,
    HealthRequest, HealthResponse, UpsertOrderRequest, UpsertOrderResponse,
};
use super::{Limits, model, status};
use crate::access::Who;
use crate::id::{OrderId, Version, parse_uuid};
use crate::read::{Found, Reader};
use crate::snapshot::{OwnerTag, Snapshot, State};
use crate::source::inbox::{self, Inbox, Reply};
use crate::source::waiters::Waiter;

/// The least version a reader accepts.
const X_MIN_VERSION: &str = "x-min-version";
/// The version of the order that an answer is about.
const X_VERSION: &str = "x-version";

/// Answers calls about orders.
pub struct Orders {
    reader: Reader,
    inbox: Inbox,
    metrics: GrpcMetrics,
    limits: Limits,
}

impl Orders {
    /// Reads through `reader`, writes through `inbox`.
    #[must_use]
    pub fn new(reader: Reader, inbox: Inbox, metrics: GrpcMetrics, limits: Limits) -> Self {
        Self { reader, inbox, metrics, limits }
    }

    /// Where writes go.
    #[must_use]
    pub fn inbox(&self) -> &Inbox {
        &self.inbox
    }

    /// What one call may take.
    #[must_use]
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// A read of one order by the rules of HTTP's.
    async fn find(&self, id: &OrderId, least: Option<Version>, owner: Option<OwnerTag>) -> Result<Snapshot, Status> {
        let found = match self.reader.get(id) {
            Found::Hit(snapshot)
                if least.is_none_or(|least| snapshot.version() >= least) && self.reader.is_seen(owner, &snapshot) =>
            {
                self.metrics.lookups.hit(1);
                return Ok(snapshot);
            }
            Found::Absent | Found::Hit(_) if least.is_none() && self.reader.is_known_absent(owner) => {
                self.metrics.lookups.miss();
                return Err(status::no_order());
            }
            _ => {
                self.metrics.lookups.miss();
                match (least, owner) {
                    (least, Some(owner)) => self.reader.load_owned(id, least, owner).await,
                    (Some(least), None) => self.reader.get_at_least(id, least).await,
                    (None, None) => self.reader.load(id).await,
                }
            }
        };
        let missing = || least.map_or_else(status::no_order, status::version_not_reached);
        found.map_err(|error| status::not_read(&error))?.ok_or_else(missing)
    }

    /// Waits until a worker has processed what was written, and until this instance shows it. Gives the version that
    /// came of it. The order is stored, so nothing here is an error.
    async fn worked(&self, id: &OrderId, worker: Waiter, deadline: Deadline) -> Option<Version> {
        let worked = worker.wait(deadline.wait(self.limits.worker_wait)).await?;
        let shown = self.reader.get_at_least(id, worked.version?).await.ok()??;
        Some(shown.version())
    }
}

#[async_trait]
impl OrdersService for Orders {
    async fn health(&self, _request: Request<HealthRequest>) -> Result<Response<HealthResponse>, Status> {
        Ok(Response::new(HealthResponse { status: "ok".into() }))
    }

    async fn upsert_order(
        &self,
        request: Request<UpsertOrderRequest>,
    ) -> Result<Response<UpsertOrderResponse>, Status> {
        let who = request.extensions().get::<Who>().cloned();
        let asked = OrderId::parse(request.get_ref().order_id.as_bytes()).map(|id| id.to_string());
        let result = self.upsert(request, who.as_ref()).await;
        if let Some(who) = who {
            let order = match &result {
                Ok(answer) => Some(answer.get_ref().order_id.clone()),
                Err(_) => asked.ok().filter(|id| id != "0"), // which asks for a new one
            };
            let code = result.as_ref().map_or_else(Status::code, |_| Code::Ok);
            who.note("gRPC", "UpsertOrder", order.as_deref(), status::name(code));
        }
        result
    }

    async fn get_order_by_id(
        &self,
        request: Request<GetOrderByIdRequest>,
    ) -> Result<Response<GetOrderByIdResponse>, Status> {
        let who = request.extensions().get::<Who>().cloned();
        let result = self.by_id(&request, who.as_ref().and_then(Who::owner_tag)).await;
        note_read(who.as_ref(), "GetOrderByID", Some(&request.get_ref().order_id), &result);
        result
    }

    async fn get_order_by_external_id(
        &self,
        request: Request<GetOrderByExternalIdRequest>,
    ) -> Result<Response<GetOrderByExternalIdResponse>, Status> {
        let who = request.extensions().get::<Who>().cloned();
        let result = self.by_external_id(request, who.as_ref().and_then(Who::owner_tag)).await;
        note_read(who.as_ref(), "GetOrderByExternalID", None, &result);
        result
    }
}

/// Notes a read, where reads are noted.
fn note_read<M>(who: Option<&Who>, route: &str, order: Option<&str>, result: &Result<Response<M>, Status>) {
    if let Some(who) = who.filter(|who| who.notes_reads()) {
        let code = result.as_ref().map_or_else(Status::code, |_| Code::Ok);
        who.note("gRPC", route, order, status::name(code));
    }
}

impl Orders {
    async fn upsert(
        &self,
        request: Request<UpsertOrderRequest>,
        who: Option<&Who>,
    ) -> Result<Response<UpsertOrderResponse>, Status> {
        let deadline = request.extensions().get().copied().unwrap_or(Deadline(None));
        let owner = who.and_then(Who::owner).map(|owner| owner.text.clone());
        let request = inbox::Request { owner, ..envelope(request.into_inner()).into() };
        let taken = self.inbox.submit(request).map_err(status::not_taken)?;
        let reply = inbox::replied(taken, self.limits.write_wait).await.map_err(status::no_reply)?;
        let (id, mut version, change, worker) = match reply {
            Reply::Stored { id, version, change, worker } => (id, version, change, worker),
            Reply::WasDeleted { .. } => return Err(status::was_deleted()),
            Reply::Refused { refusal, .. } => return Err(status::refused(&refusal)),
            Reply::Rejected(rejection) => return Err(status::rejected(&rejection)),
            Reply::StoreLost => return Err(status::store_lost()),
        };
        if let Some(worker) = worker {
            version = self.worked(&id, worker, deadline).await.unwrap_or(version);
        }
        let answer = UpsertOrderResponse { order_id: id.to_string(), status: change.as_str().into() };
        Ok(versioned(answer, version))
    }

    async fn by_id(
        &self,
        request: &Request<GetOrderByIdRequest>,
        owner: Option<OwnerTag>,
    ) -> Result<Response<GetOrderByIdResponse>, Status> {
        let least = min_version(request.metadata())?;
        let id = OrderId::parse(request.get_ref().order_id.as_bytes()).map_err(status::bad_id)?;
        let snapshot = self.find(&id, least, owner).await?;
        if snapshot.state() == State::Tombstone {
            return Err(status::deleted());
        }
        let order = model::model(&id, &snapshot).map_err(|error| status::unreadable(&error))?;
        Ok(versioned(GetOrderByIdResponse { order: Some(order) }, snapshot.version()))
    }

    async fn by_external_id(
        &self,
        request: Request<GetOrderByExternalIdRequest>,
        owner: Option<OwnerTag>,
    ) -> Result<Response<GetOrderByExternalIdResponse>, Status> {
        let least = min_version(request.metadata())?;
        let GetOrderByExternalIdRequest { external_id, user_id } = request.into_inner();
        let user_id = parse_uuid(user_id.as_bytes()).ok_or_else(|| status::wrong_field("user_id", "must be a UUID"))?;
        if external_id.is_empty() {
            return Err(status::wrong_field("external_id", "must not be empty"));
        }
        let user_id = user_id.hyphenated().to_string();
        let missing = || Status::not_found("this user has no order with this external id");
        // Another user's orders are not looked for, so how long that takes says nothing.
        if owner.is_some_and(|owner| owner != OwnerTag::of(&user_id)) {
            return Err(missing());
        }
        let found = self.reader.by_external(user_id, external_id).await;
        let (_, snapshot) = found.map_err(|error| status::not_read(&error))?.ok_or_else(missing)?;
        // The store was asked, so there is no newer copy to wait for.
        if let Some(least) = least.filter(|least| snapshot.version() < *least) {
            return Err(status::version_not_reached(least));
        }
        let order = model::of_envelope(&snapshot).map_err(|error| status::unreadable(&error))?;
        Ok(versioned(GetOrderByExternalIdResponse { order: Some(order) }, snapshot.version()))
    }
}

/// The order as `POST /orders` takes it. A field that a message leaves out is empty, so an empty one is left out here;
/// the id is not, or a request without any field would not be known as an envelope.
fn envelope(request: UpsertOrderRequest) -> Bytes {
    let UpsertOrderRequest { order_id, user_id, status, payload_json } = request;
    let mut members = serde_json::Map::new();
    members.insert("order_id".into(), order_id.into());
    for (name, value) in [("user_id", user_id), ("status", status), ("payload_json", payload_json)] {
        if !value.is_empty() {
            members.insert(name.into(), value.into());
        }
    }
    serde_json::Value::Object(members).to_string().into()
}

fn min_version(metadata: &MetadataMap) -> Result<Option<Version>, Status> {
    let mut values = metadata.get_all(X_MIN_VERSION).iter();
    let value = match (values.next(), values.next()) {
        (None, _) => return Ok(None),
        (Some(value), None) => value,
        (Some(_), Some(_)) => return Err(status::wrong_field(X_MIN_VERSION, "must be there once")),
    };
    let version = value.to_str().ok().and_then(|text| text.trim().trim_matches('"').parse().ok());
    version.map(Some).ok_or_else(|| status::wrong_field(X_MIN_VERSION, "must be a whole number"))
}

fn versioned<M>(message: M, version: Version) -> Response<M> {
    let mut response = Response::new(message);
    response.metadata_mut().insert(X_VERSION, version.into());
    response
}
