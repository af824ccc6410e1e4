//! Listeners and the connections they bring: each is accepted, tracked, served by hyper behind the hit
//! path, and told of a stop.

use std::cell::RefCell;
use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::Poll;
use std::time::Duration;

use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::AsyncWriteExt;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::conn::Registry;
use super::socket::Tracked;
use super::transport::Transport;
use crate::access::address::Peer;
use crate::listen::{self, Bound, Connection, Listener};
use crate::metrics::IntGauge;
use crate::process::lifecycle::Shutdown;
use crate::tls;

use super::service::{ConnService, Hits};
use super::{Api, conn, http2};

/// The number of header fields hyper keeps room for on the stack.
pub(super) const HEADERS_MAX: usize = 100;

/// What all threads that serve HTTP share.
pub struct Server {
    api: Arc<Api>,
    registry: Arc<Registry>,
    room: Arc<Semaphore>,
    is_swept: AtomicBool,
}

impl Server {
    /// A server that answers nothing yet.
    #[must_use]
    pub fn new(api: Api) -> Arc<Self> {
        let registry = Registry::new(api.config.limits.clone());
        let room = Arc::new(Semaphore::new(api.config.connections_max));
        Arc::new(Self { api: Arc::new(api), registry, room, is_swept: AtomicBool::new(false) })
    }

    /// Answers on `listeners` until `shutdown`, then finishes what is being answered and returns. Anyone who calls this
    /// bounds how long that may take. May be called by several runtimes.
    ///
    /// # Errors
    /// The runtime cannot take a listener.
    pub async fn serve(self: Arc<Self>, listeners: Vec<Bound>, mut shutdown: Shutdown) -> std::io::Result<()> {
        // One sweep is enough for the connections of all threads.
        let sweeper = (!self.is_swept.swap(true, Ordering::Relaxed)).then(|| tokio::spawn(sweep(Arc::clone(&self))));
        let mut accepting = tokio::task::JoinSet::new();
        for listener in listeners {
            let listener = listener.listen()?;
            accepting.spawn(accept(Arc::clone(&self), listener, shutdown.clone(), self.registry.accept()));
        }
        shutdown.wait().await;
        self.registry.stop();
        while self.registry.is_busy() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        if let Some(sweeper) = sweeper {
            sweeper.abort();
        }
        Ok(())
    }
}

async fn sweep(server: Arc<Server>) {
    let closed = &server.api.metrics.connections_closed;
    let report = |sweep: conn::Closed| {
        for (reason, count) in
            [("header", sweep.header), ("idle", sweep.idle), ("write", sweep.write), ("evicted", sweep.evicted)]
        {
            closed.with_label_values(&[reason]).inc_by(count);
        }
    };
    server.registry.sweep_for_ever(report).await;
}

/// Takes connections until `shutdown`, and then those that the system has taken by then.
async fn accept(server: Arc<Server>, listener: Listener, mut shutdown: Shutdown, _accepting: conn::Accepting) {
    loop {
        let permit = server.permit().await;
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            () = shutdown.wait() => break,
        };
        match accepted {
            Ok(connection) => server.take(connection, permit),
            Err(error) => {
                // Out of file descriptors, most likely: serving those we have is the way out.
                tracing::warn!(%error, "accept failed");
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
        }
    }
    let Ok(mut rest) = listener.end() else { return };
    loop {
        let permit = server.permit().await;
        let Some(connection) = rest.next() else { return };
        server.take(connection, permit);
    }
}

impl Server {
    /// Room for one connection.
    async fn permit(&self) -> OwnedSemaphorePermit {
        if let Ok(permit) = Arc::clone(&self.room).try_acquire_owned() {
            return permit;
        }
        let _waiting = self.registry.make_room();
        Arc::clone(&self.room).acquire_owned().await.expect("never closed")
    }

    /// Serves a connection in a task of its own.
    fn take(&self, mut connection: Connection, permit: OwnedSemaphorePermit) {
        let registered = self.registry.register(connection.address());
        let conn = Arc::clone(&registered.conn);
        let (api, registry) = (Arc::clone(&self.api), Arc::clone(&self.registry));
        let mut service = ConnService { api, conn: Arc::clone(&conn), registry, peer: Arc::default() };
        let task = tokio::spawn(async move {
            service.api.metrics.connections.inc();
            let _permit = permit;
            let _open = Open(service.api.metrics.connections.clone());
            poll_fn(|context| {
                registered.conn.set_waker(context.waker());
                Poll::Ready(())
            })
            .await;
            let address = connection.address().map(|address| address.ip());
            let time = service.api.config.limits.header_time;
            let peer = tokio::select! {
                biased; // what is there already is answered in the end too
                peer = Peer::of(service.api.access.proxies(), address, connection.socket(), time) => peer,
                () = registered.conn.until_unwanted() => return,
            };
            match peer {
                Ok(peer) => service.peer = Arc::new(peer),
                Err(error) => return tracing::debug!(%error, "a connection of a proxy is closed"),
            }
            match connection {
                Connection::Tcp(socket, _) => serve_connection(service, socket, registered, false).await,
                Connection::Unix(socket) => serve_connection(service, socket, registered, false).await,
                // The sweep gives a handshake, and the head of a request after it, the time that a
                // head has without one.
                Connection::Tls(socket, peer, acceptor) => {
                    let stream = tokio::select! {
                        stream = listen::handshake(socket, peer, &acceptor) => stream,
                        () = registered.conn.until_unwanted() => None,
                    };
                    let Some(stream) = stream else { return };
                    if let Some(certificate) = tls::server::client_subject(&stream) {
                        let peer = Peer { certificate: Some(certificate), ..Peer::clone(&service.peer) };
                        service.peer = Arc::new(peer);
                    }
                    let is_http2 = tls::server::is_http2(&stream);
                    serve_connection(service, stream, registered, is_http2).await;
                }
            }
        });
        conn.set_abort(task.abort_handle());
    }
}

/// Counts a connection down whichever way it ends.
struct Open(IntGauge);

impl Drop for Open {
    fn drop(&mut self) {
        self.0.dec();
    }
}

async fn serve_connection<S: Transport>(service: ConnService, socket: S, registered: conn::Registered, is_http2: bool) {
    let hits = Hits {
        api: Arc::clone(&service.api),
        registry: Arc::clone(&service.registry),
        peer: Arc::clone(&service.peer),
        is_guarded: service.api.access.is_guarded(),
        last: RefCell::default(),
    };
    let mut socket = Tracked::new(socket, registered, hits);
    if is_http2 {
        socket.begin_http2();
        return Box::pin(http2::serve(service, socket)).await;
    }
    let config = &service.api.config;
    let mut builder = hyper::server::conn::http1::Builder::new();
    builder
        .auto_date_header(true)
        .half_close(true)
        // The sweep closes what is slow; hyper's own timer would cost 1,448 instructions a request.
        .header_read_timeout(None)
        .timer(TokioTimer::new())
        .ignore_invalid_headers(false)
        .keep_alive(true)
        .max_buf_size(config.header_bytes_max.max(8192))
        // Unbounded, and it forgets answers; `Tracked` gathers the answers of a pipeline instead.
        .pipeline_flush(false)
        .preserve_header_case(false)
        .title_case_headers(false);
    if config.headers_max != HEADERS_MAX {
        // Any number but hyper's own takes its header table from the stack to the heap, for every request.
        builder.max_headers(config.headers_max);
    }
    let mut connection = builder.serve_connection(TokioIo::new(socket), service.clone());
    // The end is ours: hyper drops a socket on which any request has named another protocol to go on with, and what is
    // held back with it.
    let served = poll_fn(|context| connection.poll_without_shutdown(context)).await;
    // Any other error cuts an answer short, or comes of a client that is gone.
    if served.is_ok() || served.is_err_and(|error| error.is_parse()) {
        let mut socket = connection.into_parts().io.into_inner();
        if socket.is_http2() {
            // Boxed: it is larger than all that is kept for a client of HTTP/1.1.
            return Box::pin(http2::serve(service, socket)).await;
        }
        // Broken connections are the client's affair; there is nothing to do about them here.
        let _ = socket.shutdown().await;
    }
}
