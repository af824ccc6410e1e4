//! `healthcheck`: one question to a running service, for container health checks.

use std::time::Duration;

use anyhow::{Context, bail};
use bytes::Bytes;
use hyper::StatusCode;

use super::client::{Client, Server, plain};

/// Asks `url` and succeeds on 200.
///
/// # Errors
/// With the status and the first line of any other answer, or why there is none.
pub async fn run(url: &str, timeout: Duration) -> anyhow::Result<()> {
    let (server, path) = Server::parse_whole(url, true)?;
    let request = server.request("GET", &path, Bytes::new())?;
    let url = plain(url);
    let answer = Client::new(server, timeout).send(request).await.with_context(|| url.clone())?;
    if answer.status() != StatusCode::OK {
        let body = String::from_utf8_lossy(answer.body()).into_owned();
        bail!("{url}: {}: {}", answer.status(), body.lines().next().unwrap_or_default());
    }
    Ok(())
}
