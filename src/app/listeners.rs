//! Every listening socket of the process, bound before anything else is begun, and the certificates
//! that some show.

use anyhow::Context;

use super::config::Config;
use crate::listen::{self, Bound, Endpoint};
use crate::metrics::Metrics;
use crate::process::lifecycle::{Reload, Shutdown};
use crate::tls::reload::LOOK_EVERY;
use crate::tls::server::Protocols;
use crate::tls::{self, Server};

/// What the process listens on.
pub struct Listeners {
    /// For each thread that serves HTTP, a socket of each address.
    pub http: Vec<Vec<Bound>>,
    /// For gRPC.
    pub grpc: Option<Bound>,
    /// For metrics and health.
    pub admin: Option<Bound>,
}

/// Binds all of them.
///
/// # Errors
/// Which of them cannot be, and why.
pub fn bind(config: &Config, threads: usize, tls: Option<&Server>) -> anyhow::Result<Listeners> {
    let mut http: Vec<Vec<Bound>> = Vec::new();
    http.resize_with(threads, Vec::new);
    for endpoint in &config.http.listen {
        let bound = bind_one(endpoint, threads, tls, Protocols::Http)?;
        http.iter_mut().zip(bound).for_each(|(thread, listener)| thread.push(listener));
    }
    Ok(Listeners {
        http,
        grpc: match &config.grpc.listen {
            Some(endpoint) => Some(bind_one(endpoint, 1, tls, Protocols::Http2)?.remove(0)),
            None => None,
        },
        admin: bind_admin(config, tls)?,
    })
}

/// Binds the one for metrics and health alone.
///
/// # Errors
/// Why it cannot be.
pub fn bind_admin(config: &Config, tls: Option<&Server>) -> anyhow::Result<Option<Bound>> {
    let Some(endpoint) = &config.admin else { return Ok(None) };
    Ok(Some(bind_one(endpoint, 1, tls, Protocols::Http1)?.remove(0)))
}

fn bind_one(
    endpoint: &Endpoint,
    sockets: usize,
    tls: Option<&Server>,
    protocols: Protocols,
) -> anyhow::Result<Vec<Bound>> {
    listen::bind(endpoint, sockets, tls, protocols).with_context(|| format!("cannot listen on {endpoint}"))
}

/// The certificates of the listeners, if any has TLS, whose end is in the metrics. They are read
/// again when their files change, and when asked to, until the end.
///
/// # Errors
/// Which file cannot be used.
pub fn certificates(
    config: &Config,
    metrics: &Metrics,
    reload: &Reload,
    shutdown: &Shutdown,
) -> Result<Option<Server>, tls::Error> {
    let Some(files) = config.tls.clone() else { return Ok(None) };
    let server = Server::open(files)?;
    server.register(metrics);
    let (looked_at, mut reloads, mut shutdown) = (server.clone(), reload.follow(), shutdown.clone());
    tokio::spawn(async move {
        loop {
            let is_asked = tokio::select! {
                () = shutdown.wait() => return,
                () = reloads.asked() => true,
                () = tokio::time::sleep(LOOK_EVERY) => false,
            };
            let server = looked_at.clone();
            // A disk may take its time.
            let _ = tokio::task::spawn_blocking(move || server.look(is_asked)).await;
        }
    });
    Ok(Some(server))
}
