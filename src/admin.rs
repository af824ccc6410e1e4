//! Metrics and health on an address of their own, served by a thread of its own: they answer when
//! all else is busy. Who may read metrics is asked here too.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body_util::Full;
use hyper::body::Incoming;
use hyper::header::{CONTENT_TYPE, HeaderName, HeaderValue, RETRY_AFTER, WWW_AUTHENTICATE};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use crate::access::address::Peer;
use crate::access::scope::Need;
use crate::access::{Access, Denied, head};
use crate::listen::{Bound, Opened, Stream, refusal};
use crate::metrics::Metrics;
use crate::process::lifecycle::{Readiness, Shutdown};

/// What the admin address shows.
#[derive(Clone)]
pub struct Admin {
    /// Counts.
    pub metrics: Metrics,
    /// Who is let in to what.
    pub access: Arc<Access>,
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
        let Ok(mut connection) = connection else {
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
            continue;
        };
        let admin = admin.clone();
        tokio::spawn(async move {
            let address = connection.address().map(|address| address.ip());
            let peer = Peer::of(admin.access.proxies(), address, connection.socket(), HEAD_TIME).await;
            let Ok(peer) = peer else { return };
            let Some(Opened { stream, certificate }) = connection.open(HEAD_TIME).await else { return };
            let peer = Arc::new(Peer { certificate, ..peer });
            let service = service_fn(move |request| {
                let (admin, peer) = (admin.clone(), Arc::clone(&peer));
                async move { Ok::<_, Infallible>(guarded(&admin, &peer, &request).await) }
            });
            // Few and trusted clients: hyper's own timer is good enough here.
            let _ = hyper::server::conn::http1::Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD_TIME)
                .serve_connection(TokioIo::new(Worded { stream, unsent: Vec::new() }), service)
                .await;
        });
    }
}

/// A connection on which hyper's refusal of a head that it cannot read says so in words, with an id.
struct Worded {
    stream: Stream,
    /// Such a refusal, as far as it is not sent.
    unsent: Vec<u8>,
}

impl Worded {
    fn poll_unsent(&mut self, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        while !self.unsent.is_empty() {
            match ready!(Pin::new(&mut self.stream).poll_write(context, &self.unsent))? {
                0 => return Poll::Ready(Err(std::io::ErrorKind::WriteZero.into())),
                sent => drop(self.unsent.drain(..sent)),
            }
        }
        Poll::Ready(Ok(()))
    }
}

impl AsyncRead for Worded {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, into)
    }
}

/// It is not vectored, so hyper gives the head of an answer and its body in one piece.
impl AsyncWrite for Worded {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<std::io::Result<usize>> {
        ready!(self.poll_unsent(context))?;
        // A copy of each answer: here that is nothing.
        let mut answers = bytes.to_vec();
        if refusal::complete(&mut answers, unreadable).is_some() {
            self.unsent = answers;
            return Poll::Ready(Ok(bytes.len())); // the rest is sent with the flush that follows
        }
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        ready!(self.poll_unsent(context))?;
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        ready!(self.poll_unsent(context))?;
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

/// What is said of a head that cannot be read.
fn unreadable(status: StatusCode) -> Option<([(HeaderName, HeaderValue); 2], String)> {
    let detail = match status {
        StatusCode::BAD_REQUEST => "the head of the request is not HTTP/1.1 (RFC 9112)",
        StatusCode::URI_TOO_LONG => "the target of the request is too long",
        StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE => "the head of the request is too large",
        _ => return None,
    };
    let fields = [
        (CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8")),
        (head::X_REQUEST_ID, head::new_request_id()),
    ];
    Some((fields, format!("{detail}\n")))
}

/// The answer, if its client is let in.
async fn guarded(admin: &Admin, peer: &Peer, request: &Request<Incoming>) -> Response<Full<Bytes>> {
    let path = request.uri().path();
    let need = match path {
        "/metrics" => Need::Metrics,
        "/livez" | "/health" | "/ping" | "/readyz" => Need::Probe,
        _ => Need::Nothing,
    };
    let admitted = match head::admit(&admin.access, peer, request.headers(), need) {
        Err(Denied::KeysUnknown) => head::admit_later(&admin.access, peer, request.headers(), need).await,
        known => known,
    };
    let request_id = head::request_id(request.headers());
    let mut response = match admitted {
        Ok(_) => answer(admin, request),
        Err(refusal) => {
            let response = refused(&refusal);
            let asked = (request.method().as_str(), path, None);
            let status = response.status();
            let of = (status.as_str(), request_id.to_str().unwrap_or_default());
            head::note_refusal(&admin.access, (peer, request.headers()), &refusal, asked, of);
            response
        }
    };
    response.headers_mut().insert(head::X_REQUEST_ID, request_id);
    response
}

fn refused(refusal: &Denied) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::from(refusal.detail() + "\n"));
    *response.status_mut() = StatusCode::from_u16(refusal.status()).expect("a status of HTTP");
    let fields = response.headers_mut();
    fields.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    if let Some(challenge) = refusal.challenge() {
        fields.insert(WWW_AUTHENTICATE, HeaderValue::try_from(challenge).expect("visible ASCII"));
    }
    if let Some(limited) = refusal.limited() {
        fields.insert(RETRY_AFTER, limited.wait_seconds().into());
    }
    response
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
                admin.readiness.details().into_iter().map(|(gate, reason)| format!("{gate}: {reason}")).collect();
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
