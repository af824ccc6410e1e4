//! gRPC as a stock client sees it, made of the same `.proto` files: every outcome of a call, and that both surfaces tell
//! the same of an order.

use std::io::Read;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use hyper_util::rt::{TokioExecutor, TokioIo};
use order_service::grpc::proto;
use rustix::process::Signal;
use serde_json::{Value, json};
use tokio::runtime::Runtime;
use tonic::codec::CompressionEncoding;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, IntoRequest, Request, Response, Status};
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;
use tonic_health::pb::{HealthCheckRequest, HealthCheckResponse};
use tonic_types::StatusExt;

use crate::http::{USER, created, envelope, post_lines, wb_answered};
use crate::server::{Connection, READ_TIME, SIGNAL_TIME, Server, until};
use proto::models::v1::OrderModel;
use proto::service::v1::orders_service_client::OrdersServiceClient;
use proto::service::v1::{
    GetOrderByExternalIdRequest, GetOrderByIdRequest, HealthRequest, UpsertOrderRequest, UpsertOrderResponse,
};

/// Generated at each build it would take half a minute longer.
#[test]
fn the_generated_code_is_that_of_the_proto_files() {
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/grpc");
    let fresh = tempfile::tempdir().unwrap();
    let mut compiler = protox::Compiler::new([&source]).unwrap();
    compiler.include_imports(true).include_source_info(true).open_file("orders_service.proto").unwrap();
    // What the server's reflection tells.
    std::fs::write(fresh.path().join("orders.bin"), compiler.encode_file_descriptor_set()).unwrap();
    let builder = tonic_prost_build::configure().build_transport(false).out_dir(&fresh);
    builder.compile_fds(compiler.file_descriptor_set()).unwrap();
    let (mut files, mut stale) = (0, Vec::new());
    for file in std::fs::read_dir(&fresh).unwrap().map(Result::unwrap) {
        let (written, kept) = (std::fs::read(file.path()).unwrap(), source.join("generated").join(file.file_name()));
        if std::fs::read(&kept).ok().as_ref() != Some(&written) {
            std::fs::write(&kept, written).unwrap();
            stale.push(file.file_name());
        }
        files += 1;
    }
    assert_eq!(files, 3, "two packages and the descriptors");
    assert!(
        stale.is_empty(),
        "{stale:?} were not what the .proto files say. They are now: look at them and test again"
    );
}

const SERVICE: &str = "orders.service.v1.OrdersService";
const UNKNOWN: &str = "0190163d-8694-739b-aea5-966c26f8ad91";

/// A service that answers gRPC too, and a client of it.
pub struct Orders {
    pub server: Server,
    runtime: Runtime,
    channel: Channel,
}

impl Orders {
    fn start(flags: &[&str]) -> Self {
        Self::of(Server::start(&[&["--grpc", "127.0.0.1:0"], flags].concat()))
    }

    /// A client of a service that is running.
    pub fn of(server: Server) -> Self {
        // With a thread of its own, so that the connection goes on while no one waits for an answer.
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let channel = {
            let _inside = runtime.enter();
            Endpoint::try_from(format!("http://{}", address(&server))).unwrap().timeout(READ_TIME).connect_lazy()
        };
        Self { server, runtime, channel }
    }

    fn client(&self) -> OrdersServiceClient<Channel> {
        OrdersServiceClient::new(self.channel.clone()).max_decoding_message_size(usize::MAX)
    }

    pub fn upsert(
        &self,
        request: impl IntoRequest<UpsertOrderRequest>,
    ) -> Result<Response<UpsertOrderResponse>, Status> {
        self.runtime.block_on(self.client().upsert_order(request))
    }

    pub fn get(&self, order_id: &str) -> Result<OrderModel, Status> {
        self.get_with(Request::new(GetOrderByIdRequest { order_id: order_id.into() })).map(|(order, _)| order)
    }

    /// The order, and the version in its metadata.
    fn get_with(&self, request: Request<GetOrderByIdRequest>) -> Result<(OrderModel, String), Status> {
        let response = self.runtime.block_on(self.client().get_order_by_id(request))?;
        let version = version(&response);
        Ok((response.into_inner().order.expect("an order"), version))
    }

    fn get_at_least(&self, order_id: &str, version: &str) -> Result<(OrderModel, String), Status> {
        let mut request = Request::new(GetOrderByIdRequest { order_id: order_id.into() });
        request.metadata_mut().insert("x-min-version", version.parse().unwrap());
        self.get_with(request)
    }

    fn by_external(&self, external_id: &str, user_id: &str) -> Result<OrderModel, Status> {
        let request = GetOrderByExternalIdRequest { external_id: external_id.into(), user_id: user_id.into() };
        let response = self.runtime.block_on(self.client().get_order_by_external_id(request))?;
        Ok(response.into_inner().order.expect("an order"))
    }

    fn check(&self, service: &str) -> Result<ServingStatus, Status> {
        let request = HealthCheckRequest { service: service.into() };
        let response = self.runtime.block_on(HealthClient::new(self.channel.clone()).check(request))?;
        Ok(response.into_inner().status())
    }
}

/// Where it answers gRPC, as its log says.
fn address(server: &Server) -> String {
    until("the log names the address", READ_TIME, || {
        let lines = server.log();
        let events = lines.iter().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let serving = events.into_iter().find(|event| event["message"] == "serving")?;
        Some(serving["grpc"].as_str().expect("an address of gRPC").to_owned())
    })
}

pub fn version<M>(response: &Response<M>) -> String {
    response.metadata().get("x-version").expect("a version").to_str().unwrap().to_owned()
}

pub fn new_order(payload: &str) -> UpsertOrderRequest {
    UpsertOrderRequest { user_id: USER.into(), payload_json: payload.into(), ..UpsertOrderRequest::default() }
}

fn change(order_id: &str, status: &str, payload: &str) -> UpsertOrderRequest {
    UpsertOrderRequest { order_id: order_id.into(), status: status.into(), ..new_order(payload) }
}

/// What HTTP says of an envelope order, as the message that gRPC is to say of it.
fn over_http(server: &Server, id: &str) -> OrderModel {
    let reply = server.get(&format!("/order/{id}")).expect(200);
    let order = reply.json();
    let text = |name: &str| order[name].as_str().unwrap().to_owned();
    let from = reply.text().find(r#""payload":"#).unwrap() + r#""payload":"#.len();
    let to = reply.text().rfind(r#","created_at":"#).unwrap();
    OrderModel {
        order_id: text("order_id"),
        user_id: text("user_id"),
        amount: order["amount"].as_f64().unwrap(),
        status: text("status"),
        payload_json: reply.text()[from..to].to_owned(),
        created_at: text("created_at"),
        updated_at: text("updated_at"),
        bucket: i32::try_from(order["bucket"].as_i64().unwrap()).unwrap(),
    }
}

/// The fields that the details of an error name.
fn fields(status: &Status) -> Vec<String> {
    let violations = status.get_details_bad_request().map(|details| details.field_violations);
    violations.unwrap_or_default().into_iter().map(|violation| violation.field).collect()
}

#[test]
fn an_order_is_created_and_both_surfaces_tell_the_same_of_it() {
    let orders = Orders::start(&[]);
    let response = orders.upsert(new_order(" { \"b\" : 1.50, \"a\" : [ 1E2 ], \"amount\" : \"12.50\" } ")).unwrap();
    assert_eq!(version(&response), "1");
    let UpsertOrderResponse { order_id, status } = response.into_inner();
    assert_eq!((status.as_str(), order_id.len(), &order_id[14..15]), ("created", 36, "7"), "{order_id}");
    let order = orders.get(&order_id).unwrap();
    assert_eq!(order, over_http(&orders.server, &order_id));
    assert_eq!(order.payload_json, r#"{"b":1.50,"a":[1E2],"amount":"12.50"}"#);
    assert_eq!((order.user_id.as_str(), order.amount, order.status.as_str()), (USER, 12.5, "new"));
    // A UUID in any spelling is the same id.
    assert_eq!(orders.get(&order_id.to_uppercase()).unwrap(), order);
    // And what came over HTTP is answered here.
    let posted = created(&orders.server, envelope(r#"{"items":[{"price":2,"qty":3}]}"#));
    assert_eq!(orders.get(&posted).unwrap(), over_http(&orders.server, &posted));
    assert_eq!(orders.get(&posted).unwrap().amount.to_string(), "6");
}

#[test]
fn an_order_is_updated_and_deleted_and_a_deleted_one_stays_so() {
    let orders = Orders::start(&[]);
    let id = orders.upsert(new_order(r#"{"amount":1}"#)).unwrap().into_inner().order_id;
    for (status, payload, answer, version_now) in [
        ("processing", r#"{"amount":2}"#, "updated", "2"),
        ("processing", r#"{"amount":2}"#, "updated", "2"),
        ("", r#"{"amount":3}"#, "updated", "3"),
    ] {
        let response = orders.upsert(change(&id, status, payload)).unwrap();
        assert_eq!(version(&response), version_now);
        assert_eq!(response.into_inner(), UpsertOrderResponse { order_id: id.clone(), status: answer.into() });
        assert_eq!(orders.get(&id).unwrap(), over_http(&orders.server, &id));
    }
    assert_eq!(orders.get(&id).unwrap().status, "processing");
    // A deletion needs nothing but the id.
    let deletion =
        UpsertOrderRequest { order_id: id.clone(), status: "deleted".into(), ..UpsertOrderRequest::default() };
    let response = orders.upsert(deletion.clone()).unwrap();
    assert_eq!((version(&response).as_str(), response.get_ref().status.as_str()), ("4", "deleted"));
    let order = orders.get(&id).unwrap();
    assert_eq!((order.status.as_str(), order.payload_json.as_str()), ("deleted", r#"{"amount":3}"#));
    for write in [deletion, change(&id, "new", "{}")] {
        let status = orders.upsert(write).unwrap_err();
        assert_eq!((status.code(), status.message()), (Code::FailedPrecondition, "the order was deleted before"));
    }
}

#[test]
fn a_deletion_with_a_payload_keeps_the_one_that_is_stored() {
    let orders = Orders::start(&[]);
    let id = orders.upsert(new_order(r#"{"amount":3}"#)).unwrap().into_inner().order_id;
    orders.upsert(change(&id, "deleted", "{}")).unwrap();
    let order = orders.get(&id).unwrap();
    assert_eq!((order.status.as_str(), order.payload_json.as_str()), ("deleted", r#"{"amount":3}"#));
    assert_eq!((order.amount.to_string().as_str(), order.user_id.as_str()), ("3", USER));
}

#[test]
fn calls_may_be_compressed_with_gzip_within_the_limits() {
    let orders = Orders::start(&["--order-bytes-max", "64KiB"]);
    let gzip =
        || orders.client().send_compressed(CompressionEncoding::Gzip).accept_compressed(CompressionEncoding::Gzip);
    let payload = format!(r#"{{"amount":3,"note":"{}"}}"#, "n".repeat(20_000));
    let id = orders.runtime.block_on(gzip().upsert_order(new_order(&payload))).unwrap().into_inner().order_id;
    let asked = orders.runtime.block_on(gzip().get_order_by_id(GetOrderByIdRequest { order_id: id })).unwrap();
    assert_eq!(asked.into_inner().order.unwrap().payload_json, payload);
    // What is small on its way and too large here is refused as it is without.
    let payload = format!(r#"{{"note":"{}"}}"#, "n".repeat(1 << 20));
    let status = orders.runtime.block_on(gzip().upsert_order(new_order(&payload))).unwrap_err();
    assert!(matches!(status.code(), Code::OutOfRange | Code::ResourceExhausted | Code::Internal), "{status}");
}

#[test]
fn what_is_unknown_or_gone_is_not_found() {
    let orders = Orders::start(&[]);
    let found_none = |status: Status, message: &str| {
        assert_eq!(status.code(), Code::NotFound, "{status}");
        assert_eq!(status.message(), message);
    };
    found_none(orders.get(UNKNOWN).unwrap_err(), "no order has this id");
    let status = orders.upsert(change(UNKNOWN, "new", "{}")).unwrap_err();
    assert_eq!(status.code(), Code::NotFound, "{status}");
    post_lines(&orders.server, &wb_answered("gone-1"));
    orders.server.post("/orders", r#"{"order_uid":"gone-1","status":"deleted"}"#).expect(200);
    orders.server.get("/order/gone-1").expect(410);
    found_none(orders.get("gone-1").unwrap_err(), "deleted");
}

#[test]
fn a_document_that_is_no_envelope_is_its_own_payload() {
    let orders = Orders::start(&[]);
    post_lines(&orders.server, &wb_answered("wb-1"));
    let expected = OrderModel {
        order_id: "wb-1".into(),
        amount: 1817.0,
        payload_json: wb_answered("wb-1"),
        ..OrderModel::default()
    };
    assert_eq!(orders.get("wb-1").unwrap(), expected);
    let status = orders.upsert(change("wb-1", "new", "{}")).unwrap_err();
    assert_eq!(status.code(), Code::FailedPrecondition, "{status}");
}

#[test]
fn without_the_file_of_its_store_a_service_stores_nothing() {
    let orders = Orders::start(&[]);
    let id = orders.upsert(new_order("{}")).unwrap().into_inner().order_id;
    std::fs::remove_file(orders.server.data().join("orders.db")).unwrap();
    let status = orders.upsert(new_order("{}")).unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "{status}");
    assert!(status.message().contains("not stored: the file of the store was removed"), "{status}");
    assert_eq!(orders.get(&id).unwrap().order_id, id);
}

#[test]
fn what_is_invalid_is_named_field_by_field() {
    let orders = Orders::start(&[]);
    let empty = UpsertOrderRequest::default();
    let all_wrong = UpsertOrderRequest {
        order_id: "a b".into(),
        user_id: "me".into(),
        status: "lost".into(),
        payload_json: "[]".into(),
    };
    for (request, expected) in [
        (empty.clone(), vec!["payload_json", "user_id"]),
        (all_wrong, vec!["order_id", "payload_json", "status", "user_id"]),
        (UpsertOrderRequest { status: "deleted".into(), ..empty }, vec!["order_id"]),
        (new_order(r#"{"a":1,"a":2}"#), vec!["payload_json"]),
        (new_order("{"), vec!["payload_json"]),
        (new_order(r#"{"a":"\ud800"}"#), vec!["payload_json"]),
    ] {
        let status = orders.upsert(request.clone()).unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{request:?}: {status}");
        let mut named = fields(&status);
        named.sort();
        assert_eq!(named, expected, "{request:?}: {status}");
    }
    for id in ["", "a b", &"x".repeat(129)] {
        let status = orders.get(id).unwrap_err();
        assert_eq!((status.code(), fields(&status)), (Code::InvalidArgument, vec!["order_id".to_owned()]), "{id:?}");
    }
}

#[test]
fn a_users_newest_order_is_found_by_its_external_id() {
    let orders = Orders::start(&[]);
    let ids = [1, 2].map(|n| {
        let order = new_order(&format!(r#"{{"id":"ext-1","n":{n}}}"#));
        orders.upsert(order).unwrap().into_inner().order_id
    });
    let found = orders.by_external("ext-1", &USER.to_uppercase()).unwrap();
    assert_eq!(found, over_http(&orders.server, &ids[1]));
    assert_eq!(orders.by_external("ext-1", UNKNOWN).unwrap_err().code(), Code::NotFound);
    assert_eq!(orders.by_external("ext-2", USER).unwrap_err().code(), Code::NotFound);
    for (external_id, user_id, field) in
        [("ext-1", "me", "user_id"), ("ext-1", "", "user_id"), ("", USER, "external_id")]
    {
        let status = orders.by_external(external_id, user_id).unwrap_err();
        assert_eq!((status.code(), fields(&status)), (Code::InvalidArgument, vec![field.to_owned()]));
    }
}

#[test]
fn a_read_may_ask_for_a_version() {
    let orders = Orders::start(&[]);
    let id = orders.upsert(new_order("{}")).unwrap().into_inner().order_id;
    orders.upsert(change(&id, "done", "{}")).unwrap();
    for least in ["1", "2", "\"2\""] {
        assert_eq!(orders.get_at_least(&id, least).unwrap().1, "2", "{least}");
    }
    assert_eq!(orders.get_at_least(&id, "3").unwrap_err().code(), Code::FailedPrecondition);
    let status = orders.get_at_least(&id, "new").unwrap_err();
    assert_eq!((status.code(), fields(&status)), (Code::InvalidArgument, vec!["x-min-version".to_owned()]));
    let mut twice = Request::new(GetOrderByIdRequest { order_id: id });
    for least in ["1", "3"] {
        twice.metadata_mut().append("x-min-version", least.parse().unwrap());
    }
    let status = orders.get_with(twice).unwrap_err();
    assert_eq!((status.code(), fields(&status)), (Code::InvalidArgument, vec!["x-min-version".to_owned()]));
}

#[test]
fn health_is_answered_both_ways() {
    let orders = Orders::start(&[]);
    let answer = orders.runtime.block_on(orders.client().health(HealthRequest {})).unwrap().into_inner();
    assert_eq!(answer.status, "ok");
    for service in ["", SERVICE] {
        until("it serves", READ_TIME, || (orders.check(service).unwrap() == ServingStatus::Serving).then_some(()));
    }
    assert_eq!(orders.check("orders.service.v1.Other").unwrap_err().code(), Code::NotFound);
}

#[test]
fn what_is_not_ready_does_not_serve() {
    // PostgreSQL is not there, so the view cannot be filled.
    let flags = ["--grpc", "127.0.0.1:0", "--postgres", "postgres://unknown@127.0.0.1:9/none"];
    let orders = Orders::of(Server::start_cold(&flags));
    orders.server.get("/readyz").expect(503);
    for service in ["", SERVICE] {
        assert_eq!(orders.check(service).unwrap(), ServingStatus::NotServing);
    }
    // The process lives all the same.
    orders.runtime.block_on(orders.client().health(HealthRequest {})).unwrap();
    let status = orders.get(UNKNOWN).unwrap_err();
    assert_eq!(status.code(), Code::Unavailable, "{status}");
    assert!(status.get_details_retry_info().is_some_and(|retry| retry.retry_delay.is_some()));
}

#[test]
fn reflection_lists_the_services_and_their_files() {
    use tonic_reflection::pb::{v1, v1alpha};
    let orders = Orders::start(&[]);
    macro_rules! ask {
        ($pb:ident, $question:ident, $text:expr) => {
            orders.runtime.block_on(async {
                use $pb::server_reflection_request::MessageRequest;
                let mut client = $pb::server_reflection_client::ServerReflectionClient::new(orders.channel.clone());
                let question = Some(MessageRequest::$question($text.to_owned()));
                let request = $pb::ServerReflectionRequest { host: String::new(), message_request: question };
                let mut answers = client.server_reflection_info(Once(Some(request))).await.unwrap().into_inner();
                answers.message().await.unwrap().unwrap().message_response.unwrap()
            })
        };
    }
    macro_rules! services {
        ($pb:ident) => {
            match ask!($pb, ListServices, "") {
                $pb::server_reflection_response::MessageResponse::ListServicesResponse(list) => {
                    list.service.into_iter().map(|service| service.name).collect::<Vec<_>>()
                }
                other => panic!("{other:?}"),
            }
        };
    }
    for names in [services!(v1), services!(v1alpha)] {
        for name in [SERVICE, "grpc.health.v1.Health"] {
            assert!(names.iter().any(|known| known == name), "{name}: {names:?}");
        }
    }
    let answer = ask!(v1, FileContainingSymbol, "orders.models.v1.OrderModel");
    let v1::server_reflection_response::MessageResponse::FileDescriptorResponse(files) = answer else {
        panic!("{answer:?}")
    };
    let text = String::from_utf8_lossy(&files.file_descriptor_proto[0]).into_owned();
    for field in ["order_id", "user_id", "amount", "status", "payload_json", "created_at", "updated_at", "bucket"] {
        assert!(text.contains(field), "{field}");
    }
}

/// A stream of one message.
struct Once<M>(Option<M>);

impl<M: Unpin> tonic::codegen::tokio_stream::Stream for Once<M> {
    type Item = M;

    fn poll_next(mut self: std::pin::Pin<&mut Self>, _: &mut std::task::Context<'_>) -> std::task::Poll<Option<M>> {
        std::task::Poll::Ready(self.0.take())
    }
}

#[test]
fn the_fields_have_the_numbers_that_clients_of_the_older_services_use() {
    // One byte of tag and type, one of length.
    let order = proto::models::v1::OrderModel {
        order_id: "1".into(),
        user_id: "2".into(),
        amount: 3.0,
        status: "4".into(),
        payload_json: "5".into(),
        created_at: "6".into(),
        updated_at: "7".into(),
        bucket: 8,
    };
    let amount = 3.0f64.to_le_bytes();
    let expected = [&b"\x0a\x011\x12\x012\x19"[..], &amount, b"\x22\x014\x2a\x015\x32\x016\x3a\x017\x40\x08"].concat();
    assert_eq!(prost::Message::encode_to_vec(&order), expected);
    let request =
        UpsertOrderRequest { order_id: "1".into(), user_id: "2".into(), status: "3".into(), payload_json: "4".into() };
    assert_eq!(prost::Message::encode_to_vec(&request), b"\x0a\x011\x12\x012\x1a\x013\x22\x014");
    let request = GetOrderByExternalIdRequest { external_id: "1".into(), user_id: "2".into() };
    assert_eq!(prost::Message::encode_to_vec(&request), b"\x0a\x011\x12\x012");
}

#[test]
fn what_is_too_large_is_refused_and_what_is_large_is_not() {
    let orders = Orders::start(&["--order-bytes-max", "100KiB"]);
    let filler = |bytes: usize| format!(r#"{{"x":"{}"}}"#, "y".repeat(bytes));
    let large = filler(99 << 10);
    let id = orders.upsert(new_order(&large)).unwrap().into_inner().order_id;
    assert_eq!(orders.get(&id).unwrap().payload_json, large);
    // The first is a message that fits with an order that does not; the second is not read.
    for bytes in [101 << 10, 10 << 20] {
        let status = orders.upsert(new_order(&filler(bytes))).unwrap_err();
        assert_eq!(status.code(), Code::OutOfRange, "{status}");
    }
    orders.get(&id).unwrap();
}

#[test]
fn a_full_queue_says_when_to_try_again() {
    const WRITES: usize = 400;
    let orders = Orders::start(&["--queue-rows-max", "1"]);
    let answers = orders.runtime.block_on(async {
        let writes: Vec<_> = (0..WRITES)
            .map(|_| {
                let mut client = orders.client();
                tokio::spawn(async move { client.upsert_order(new_order("{}")).await })
            })
            .collect();
        let mut answers = Vec::new();
        for write in writes {
            answers.push(write.await.unwrap());
        }
        answers
    });
    let (taken, refused): (Vec<_>, Vec<_>) = answers.into_iter().partition(Result::is_ok);
    assert!(!taken.is_empty() && !refused.is_empty(), "{} taken", taken.len());
    for status in refused.into_iter().map(Result::unwrap_err) {
        assert_eq!(status.code(), Code::Unavailable, "{status}");
        assert_eq!(status.get_details_retry_info().unwrap().retry_delay, Some(Duration::from_secs(1)));
    }
    let total = orders.server.get("/api/stats").expect(200).json()["total_orders"].clone();
    assert_eq!(total, json!(taken.len()));
}

#[test]
fn a_stop_answers_what_is_in_flight_and_ends_what_has_no_end() {
    let mut orders = Orders::start(&[]);
    let request = HealthCheckRequest { service: SERVICE.into() };
    let mut watch =
        orders.runtime.block_on(HealthClient::new(orders.channel.clone()).watch(request)).unwrap().into_inner();
    let first: HealthCheckResponse = orders.runtime.block_on(watch.message()).unwrap().unwrap();
    let (channel, written) = (orders.channel.clone(), Arc::new(AtomicUsize::new(0)));
    let counter = Arc::clone(&written);
    // Writers that go on until they are told no.
    let writing = std::thread::spawn(move || {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(async {
            let writers: Vec<_> = (0..16)
                .map(|_| {
                    let (mut client, counter) = (OrdersServiceClient::new(channel.clone()), Arc::clone(&counter));
                    tokio::spawn(async move {
                        let mut answered = Vec::new();
                        loop {
                            match client.upsert_order(new_order("{}")).await {
                                Ok(response) => {
                                    answered.push(response.into_inner().order_id);
                                    counter.fetch_add(1, Ordering::Relaxed);
                                }
                                Err(status) => return (answered, status),
                            }
                        }
                    })
                })
                .collect();
            let mut ended = Vec::new();
            for writer in writers {
                ended.push(writer.await.unwrap());
            }
            ended
        })
    });
    until("orders are being written", SIGNAL_TIME, || (written.load(Ordering::Relaxed) > 100).then_some(()));
    // A watch that held it up would make it no clean drain.
    let status = orders.server.stop();
    assert!(status.success(), "{status}: {:?}", orders.server.log());
    assert_ne!(first.status(), ServingStatus::ServiceUnknown);
    let end = orders.runtime.block_on(async {
        loop {
            match watch.message().await {
                Ok(Some(_)) => {}
                end => break end,
            }
        }
    });
    // Its connection broke off, which tells a client nothing.
    let end = end.expect_err("a status");
    assert_eq!((end.code(), end.message()), (Code::Unavailable, "the service is stopping"));
    orders.server.start_again();
    let orders = Orders::of(orders.server);
    let mut count = 0;
    for (answered, status) in writing.join().unwrap() {
        // Not taken, or never sent because the connection was closing.
        assert!(matches!(status.code(), Code::Unavailable | Code::Cancelled | Code::Unknown), "{status}");
        for id in answered {
            assert_eq!(orders.get(&id).unwrap().order_id, id, "an answered write is durable");
            count += 1;
        }
    }
    assert!(count > 100, "{count} written before the stop");
    let total = orders.server.get("/api/stats").expect(200).json()["total_orders"].clone();
    assert_eq!(total, json!(count), "every write that was taken was answered");
}

#[test]
fn idle_connections_make_room() {
    let flags = ["--grpc-connections-max", "1", "--grpc-idle-time", "1s"];
    let orders = Orders::start(&flags);
    // It never says a word, and has the only place: a connection that is taken is told of the service's settings.
    let connect = || {
        let mut silent = Connection::open(address(&orders.server).parse().unwrap());
        assert!(silent.is_answered(), "taken");
        silent
    };
    let silent = connect();
    orders.runtime.block_on(orders.client().health(HealthRequest {})).unwrap();
    // The end of the first came before the other had its place, so there is nothing to wait for.
    silent.socket().set_nonblocking(true).unwrap();
    let end = silent.socket().read_to_end(&mut Vec::new());
    assert!(!end.as_ref().is_err_and(|error| error.kind() == std::io::ErrorKind::WouldBlock), "there were two places");
    // A client that was idle for too long, so that another has its place, connects again by itself.
    drop(connect());
    // A call that it sends before it has seen the end of its connection fails.
    until("it connects again", READ_TIME, || orders.runtime.block_on(orders.client().health(HealthRequest {})).ok());
}

#[test]
fn a_service_that_is_none_of_ours_is_unimplemented() {
    let orders = Orders::start(&[]);
    for path in ["/orders.service.v1.OrdersServic/Health", "/grpc.health.v1/Check", "/Health", "/"] {
        let call = async {
            let mut client = tonic::client::Grpc::new(orders.channel.clone());
            client.ready().await.unwrap();
            let codec = tonic_prost::ProstCodec::<HealthCheckRequest, HealthCheckResponse>::default();
            client.unary(HealthCheckRequest::default().into_request(), path.try_into().unwrap(), codec).await
        };
        let status = orders.runtime.block_on(call).unwrap_err();
        assert_eq!(status.code(), Code::Unimplemented, "{path}: {status:?}");
    }
    let counted = "grpc_requests_total{code=\"UNIMPLEMENTED\",method=\"other\"} 4";
    let text = orders.server.get("/metrics").expect(200).text().to_owned();
    assert!(text.lines().any(|found| found == counted), "{text}");
}

#[test]
fn calls_are_counted_by_method_and_code() {
    let orders = Orders::start(&[]);
    let id = orders.upsert(new_order("{}")).unwrap().into_inner().order_id;
    orders.get(&id).unwrap();
    orders.get(UNKNOWN).unwrap_err();
    orders.check("").unwrap();
    let text = orders.server.get("/metrics").expect(200).text().to_owned();
    for (method, code, count) in
        [("UpsertOrder", "OK", 1), ("GetOrderByID", "OK", 1), ("GetOrderByID", "NOT_FOUND", 1), ("other", "OK", 1)]
    {
        let line = format!("grpc_requests_total{{code=\"{code}\",method=\"{method}\"}} {count}");
        assert!(text.lines().any(|found| found == line), "{line}\n{text}");
    }
    assert!(text.contains("cache_hits_total 1"), "{text}");
}

#[test]
fn nothing_answers_grpc_unless_it_is_told_to() {
    let server = Server::start(&[]);
    let lines = server.log();
    let serving = lines.iter().find(|line| line.contains("\"serving\"")).expect("it serves");
    assert!(!serving.contains("grpc"), "{serving}");
}

/// A message without its last byte, which never comes.
struct Half(Option<Bytes>);

impl hyper::body::Body for Half {
    type Data = Bytes;
    type Error = std::convert::Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<hyper::body::Frame<Bytes>, Self::Error>>> {
        self.0.take().map_or(Poll::Pending, |half| Poll::Ready(Some(Ok(hyper::body::Frame::data(half)))))
    }
}

/// Each could be as large as an order before it was counted.
#[test]
fn messages_on_their_way_have_their_limit() {
    const CONNECTIONS: usize = 6;
    const CALLS: usize = 10;
    const FIT: usize = 8;
    let orders = Orders::start(&["--queue-bytes-max", "8MiB", "--http-body-time", "10m"]);
    let large = || new_order(&format!(r#"{{"x":"{}"}}"#, "y".repeat(1_000_000)));
    let message = prost::Message::encode_to_vec(&large());
    let length = u32::try_from(message.len()).unwrap().to_be_bytes();
    let half = Bytes::from([&[0], &length[..], &message[..message.len() - 1]].concat());
    let address = address(&orders.server);
    let before = orders.server.peak_bytes();
    let (told, mut refusals) = tokio::sync::mpsc::channel(CONNECTIONS * CALLS);
    let calls = orders.runtime.spawn(async move {
        let mut calls = tokio::task::JoinSet::new();
        for _ in 0..CONNECTIONS {
            let socket = TokioIo::new(tokio::net::TcpStream::connect(&address).await.unwrap());
            let (sender, connection) =
                hyper::client::conn::http2::handshake::<_, _, Half>(TokioExecutor::new(), socket).await.unwrap();
            tokio::spawn(connection);
            for _ in 0..CALLS {
                let (mut sender, told, half) = (sender.clone(), told.clone(), half.clone());
                let address = address.clone();
                calls.spawn(async move {
                    let request = hyper::Request::post(format!("http://{address}/{SERVICE}/UpsertOrder"))
                        .header("content-type", "application/grpc")
                        .header("te", "trailers")
                        .body(Half(Some(half)))
                        .unwrap();
                    if let Ok(answer) = sender.send_request(request).await {
                        told.send(Status::from_header_map(answer.headers()).unwrap()).await.unwrap();
                    }
                });
            }
        }
        std::future::pending::<()>().await; // the others stay as they are
    });
    orders.runtime.block_on(async {
        for n in 0..CONNECTIONS * CALLS - FIT {
            let refused = tokio::time::timeout(READ_TIME, refusals.recv()).await;
            let Ok(Some(status)) = refused else { panic!("{n} were refused") };
            assert_eq!(status.code(), Code::Unavailable, "{status}");
            assert!(status.get_details_retry_info().is_some());
        }
    });
    let grown = (orders.server.peak_bytes() - before) >> 20;
    assert!(grown < 50, "grown by {grown} MiB");
    // What comes in one piece needs no room among them.
    orders.upsert(new_order("{}")).unwrap();
    calls.abort();
    until("there is room again", READ_TIME, || orders.upsert(large()).ok());
}

/// A frame of HTTP/2.
fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags, 0, 0, 0, stream], payload].concat()
}

/// A stop reset connections that were not yet accepted, and the calls on them with it.
#[test]
fn what_has_arrived_before_a_stop_is_answered() {
    let mut server = Server::start(&["--grpc", "127.0.0.1:0"]);
    let address: std::net::SocketAddr = address(&server).trim_start_matches("http://").parse().unwrap();
    let mut head = Vec::new();
    for (name, value) in [
        (":method", "POST"),
        (":scheme", "http"),
        (":path", "/orders.service.v1.OrdersService/Health"),
        (":authority", "orders.test"),
        ("content-type", "application/grpc"),
        ("te", "trailers"),
    ] {
        // A literal that is not indexed, with a name of its own.
        head.push(0);
        for text in [name, value] {
            head.push(u8::try_from(text.len()).unwrap());
            head.extend(text.bytes());
        }
    }
    let call = [
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(),
        frame(4, 0, 0, &[]),
        frame(1, 4, 1, &head),
        frame(0, 1, 1, &[0; 5]),
    ]
    .concat();
    // All of it arrives while the service does nothing; then it is told to stop.
    server.signal(Signal::STOP);
    let mut all: Vec<Connection> = (0..200).map(|_| Connection::open(address)).collect();
    for connection in &mut all {
        connection.send(&call);
    }
    Connection::until_all_arrived(&all.iter().collect::<Vec<_>>());
    server.terminate();
    server.signal(Signal::CONT);
    for connection in &mut all {
        let answer = connection.until_end().expect("closed in order");
        let message = b"\0\0\0\0\x04\x0a\x02ok";
        assert!(answer.windows(message.len()).any(|part| part == message), "{answer:?}");
    }
    assert_eq!(server.wait().code(), Some(0), "{:?}", server.log());
}

/// Keys, scopes and owners hold over gRPC as over HTTP.
#[test]
fn calls_need_a_key_and_its_scope() {
    use crate::http::access::{Keys, wb_of};
    let keys = Keys::new(&[
        ("all", &["orders:read", "orders:write"], None),
        ("own", &["orders:read:own", "orders:write:own"], Some(USER)),
        ("none", &[], None),
    ]);
    let orders = Orders::of(keys.start(&["--grpc", "127.0.0.1:0"]));
    let with = |name: &str, request: GetOrderByIdRequest| {
        let mut request = Request::new(request);
        request.metadata_mut().insert("authorization", keys.bearer(name).parse().unwrap());
        orders.get_with(request).map(|(order, _)| order)
    };
    let get = |name: &str, id: &str| with(name, GetOrderByIdRequest { order_id: id.into() });
    keys.post(&orders.server, "all", "/orders", wb_of("hers", "another")).expect(201);
    let mine = keys.post(&orders.server, "own", "/orders", envelope("{\"id\":\"e\"}")).expect(201).json();
    let mine = mine["order_id"].as_str().unwrap();
    assert_eq!(get("all", "hers").unwrap().order_id, "hers");
    assert_eq!(get("own", mine).unwrap().user_id, USER);
    let (hers, unknown) = (get("own", "hers").unwrap_err(), get("own", "none").unwrap_err());
    assert_eq!((hers.code(), hers.message()), (unknown.code(), unknown.message()));
    assert_eq!(hers.code(), Code::NotFound);
    let missing = get("none", mine).unwrap_err();
    assert_eq!((missing.code(), missing.message()), (Code::PermissionDenied, "this needs the scope orders:read"));
    assert_eq!(orders.get(mine).unwrap_err().code(), Code::Unauthenticated);
    let write = |name: &str, id: &str, user: &str| {
        let mut request = Request::new(UpsertOrderRequest {
            order_id: id.into(),
            user_id: user.into(),
            payload_json: "{}".into(),
            ..UpsertOrderRequest::default()
        });
        request.metadata_mut().insert("x-api-key", keys.key(name).parse().unwrap());
        orders.upsert(request).map(|_| ()).map_err(|status| status.code())
    };
    assert_eq!(write("own", "0", USER), Ok(()));
    assert_eq!(write("own", "0", UNKNOWN), Err(Code::PermissionDenied));
    assert_eq!(write("own", "hers", USER), Err(Code::NotFound));
    assert_eq!(write("none", "0", USER), Err(Code::PermissionDenied));
    until("health, which needs no key, says that it is ready", SIGNAL_TIME, || {
        (orders.check(SERVICE).unwrap() == ServingStatus::Serving).then_some(())
    });
}
