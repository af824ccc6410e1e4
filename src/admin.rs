//! Metrics and health on an address of their own, served by a thread of its own: they answer when all else is busy.

use std::convert::Infallible;

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderValue};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};

use crate::lifecycle::{Readiness, Shutdown};
use crate::listen::{Bound, Opened};
use crate::metrics::Metrics;

/// What the admin address shows.
#[derive(Clone)]
pub struct Admin {
    /// Counts.
    pub metrics: Metrics,
    /// Whether the process is ready.
    pub readiness: Readiness,
}

/// How long a client has for a handshake of TLS, and then for the head of a request.
const HEAD_TIME: std::time::Duration = std::time::Duration::from_secs(10);

/// Starts answering `/metrics`, `/livez`, `/readyz`, `/health` and `/ping` on a listener until
/// `shutdown`.
///
/// # Errors
/// When the thread cannot be started.
pub fn start(admin: Admin, bound: Bound, shutdown: Shutdown) -> std::io::Result<std::thread::JoinHandle<()>> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    std::thread::Builder::new().name("admin".into()).spawn(move || runtime.block_on(serve(admin, bound, shutdown)))
}

async fn serve(admin: Admin, bound: Bound, mut shutdown: Shutdown) {
    let listener = match bound.listen() {
        Ok(listener) => listener,
        Err(error) => return tracing::error!(%error, "admin address cannot be served"),
    };
    loop {
        let connection = tokio::select! {
            () = shutdown.wait() => return,
            accepted = listener.accept() => accepted,
        };
        let Ok(connection) = connection else {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            continue;
        };
        let admin = admin.clone();
        tokio::spawn(async move {
            let Some(Opened { stream, .. }) = connection.open(HEAD_TIME).await else { return };
            let service = service_fn(move |request| {
                let answer = answer(&admin, &request);
                async move { Ok::<_, Infallible>(answer) }
            });
            // Few and trusted clients: hyper's own timer is good enough here.
            let _ = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD_TIME)
                .serve_connection(TokioIo::new(stream), service)
                .await;
        });
    }
}

fn answer(admin: &Admin, request: &Request<Incoming>) -> Response<Full<Bytes>> {
    let text = "text/plain; charset=utf-8";
    let (status, kind, body) = match request.uri().path() {
        _ if request.method() != Method::GET && request.method() != Method::HEAD => {
            (StatusCode::METHOD_NOT_ALLOWED, text, "allowed are GET, HEAD\n".into())
        }
        "/metrics" => (StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", admin.metrics.text()),
        "/livez" | "/health" => (StatusCode::OK, text, "ok".into()),
        "/ping" => (StatusCode::OK, text, "pong".into()),
        "/readyz" => {
            let reasons: Vec<String> =
                admin.readiness.reasons().into_iter().map(|(gate, reason)| format!("{gate}: {reason}")).collect();
            if reasons.is_empty() {
                (StatusCode::OK, text, "ready".into())
            } else {
                (StatusCode::SERVICE_UNAVAILABLE, text, reasons.join("; "))
            }
        }
        _ => (StatusCode::NOT_FOUND, text, "nothing answers to this path\n".into()),
    };
    let mut response = Response::new(Full::from(body));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}
