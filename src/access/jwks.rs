//! Where the public keys of tokens come from: a file or a URL. Of a URL the last set that could be
//! had is kept.

use std::path::PathBuf;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use arc_swap::ArcSwap;
use bytes::Bytes;
use http_body_util::{BodyExt, Empty, Limited};
use hyper::header::{ACCEPT, HOST};
use hyper::{Request, StatusCode, Uri};
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;

use super::jwt::KeySet;
use super::keys::hash;
use crate::sync::lock;
use crate::tls;

/// Between two tries at a URL because of an unknown key.
const RETRY_TIME: Duration = Duration::from_secs(30);
/// A key that its issuer takes out of the set is good no longer than this.
pub const REFRESH_TIME: Duration = Duration::from_mins(5);
/// For one answer.
const FETCH_TIME: Duration = Duration::from_secs(5);
/// The longest set.
const SET_BYTES_MAX: usize = 256 << 10;

/// Where a key set is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// In a file, which is read again when it changes.
    File(PathBuf),
    /// Behind a URL.
    Url(Uri),
}

impl Source {
    /// A URL, or the path of a file.
    ///
    /// # Errors
    /// A URL that cannot be asked.
    pub fn parse(text: &str) -> Result<Self, String> {
        if !text.contains("://") {
            return Ok(Self::File(text.into()));
        }
        // It may hold a password, so it is not repeated.
        let uri: Uri = text.parse().map_err(|_| "is no URL".to_owned())?;
        match (uri.scheme_str(), uri.authority()) {
            (_, Some(authority)) if authority.as_str().contains('@') => Err("must have no user or password".into()),
            (Some("http" | "https"), Some(_)) => Ok(Self::Url(uri)),
            _ => Err("must be an https:// or http:// URL or the path of a file".into()),
        }
    }
}

/// Why a set could not be had.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct FetchError(String);

/// A key set and where it comes from.
pub struct TokenKeys {
    source: Source,
    current: ArcSwap<KeySet>,
    /// The digest of the text that it was read from.
    text_hash: Mutex<Option<[u8; 32]>>,
    tried_at: Mutex<Option<Instant>>,
    /// Held by who fetches, so that all who need the same wait for one fetch.
    fetching: tokio::sync::Mutex<()>,
}

impl TokenKeys {
    /// An empty set.
    #[must_use]
    pub fn new(source: Source) -> Self {
        Self {
            source,
            current: ArcSwap::default(),
            text_hash: Mutex::default(),
            tried_at: Mutex::default(),
            fetching: tokio::sync::Mutex::default(),
        }
    }

    /// Where it comes from.
    #[must_use]
    pub fn source(&self) -> &Source {
        &self.source
    }

    /// The keys as they are now.
    #[must_use]
    pub fn current(&self) -> arc_swap::Guard<std::sync::Arc<KeySet>> {
        self.current.load()
    }

    /// Takes a new text, even of a set without a key that can be used. Says whether it is another
    /// than before.
    ///
    /// # Errors
    /// It is no key set; the one before stays.
    pub fn take(&self, text: &[u8]) -> Result<bool, FetchError> {
        let new = hash(text);
        let mut known = lock(&self.text_hash);
        if *known == Some(new) {
            return Ok(false);
        }
        let set = KeySet::parse(text).map_err(|error| FetchError(error.to_string()))?;
        tracing::info!(keys = set.count(), ignored = set.ignored, unusable = set.unusable.len(), "token keys read");
        if let Some(first) = set.unusable.first() {
            let unusable = set.unusable.len();
            tracing::warn!(unusable, error = %first, "some token keys cannot be used and are ignored; the first is named");
        }
        if set.count() == 0 {
            tracing::warn!("there is no token key that can be used: no token is let in");
        }
        self.current.store(set.into());
        *known = Some(new);
        Ok(true)
    }

    /// Whether a fetch because of an unknown key is worth waiting for.
    #[must_use]
    pub fn may_fetch(&self) -> bool {
        let tried_at = *lock(&self.tried_at);
        matches!(self.source, Source::Url(_)) && tried_at.is_none_or(|at| at.elapsed() >= RETRY_TIME)
    }

    /// Fetches the set from its URL unless that was tried within the last `least_pause`; who comes
    /// meanwhile waits for the same fetch. Says whether it has changed. Cancel-safe.
    ///
    /// # Errors
    /// [`FetchError`]; the set before stays.
    pub async fn fetch(&self, least_pause: Duration) -> Result<bool, FetchError> {
        let Source::Url(uri) = &self.source else { return Ok(false) };
        let _turn = self.fetching.lock().await;
        {
            let mut tried_at = lock(&self.tried_at);
            if tried_at.is_some_and(|at| at.elapsed() < least_pause) {
                return Ok(false);
            }
            *tried_at = Some(Instant::now());
        }
        let text = tokio::time::timeout(FETCH_TIME, get(uri)).await;
        let text = text.unwrap_or_else(|_| Err(FetchError(format!("no answer within {FETCH_TIME:?}"))))?;
        self.take(&text)
    }

    /// As [`TokenKeys::fetch`] for an unknown key.
    ///
    /// # Errors
    /// [`FetchError`].
    pub async fn fetch_for_unknown(&self) -> Result<bool, FetchError> {
        self.fetch(RETRY_TIME).await
    }
}

async fn get(uri: &Uri) -> Result<Bytes, FetchError> {
    let host = uri.host().unwrap_or_default();
    let is_secure = uri.scheme_str() == Some("https");
    let port = uri.port_u16().unwrap_or(if is_secure { 443 } else { 80 });
    // An address of IPv6 has brackets in a URL.
    let name = host.trim_start_matches('[').trim_end_matches(']');
    let socket = TcpStream::connect((name, port)).await.map_err(|error| failed("cannot connect", &error))?;
    if !is_secure {
        return ask(uri, socket).await;
    }
    // The authorities of the system, which are read again when they change.
    let client =
        tls::Client::open(&tls::client::Config::default()).map_err(|error| failed("no authorities", &error))?;
    let socket = client.connect(name, socket).await.map_err(|error| failed("cannot encrypt", &error))?;
    ask(uri, socket).await
}

fn failed(what: &str, error: &dyn std::error::Error) -> FetchError {
    FetchError(format!("{what}: {}", crate::process::log::causes(error)))
}

async fn ask(uri: &Uri, socket: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) -> Result<Bytes, FetchError> {
    let host = uri.host().unwrap_or_default();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(socket))
        .await
        .map_err(|error| failed("cannot ask", &error))?;
    let driving = tokio::spawn(connection);
    let path = uri.path_and_query().map_or("/", hyper::http::uri::PathAndQuery::as_str);
    let request = Request::get(path)
        .header(HOST, uri.authority().map_or(host, hyper::http::uri::Authority::as_str))
        .header(ACCEPT, "application/json")
        .body(Empty::<Bytes>::new())
        .map_err(|error| failed("cannot ask", &error))?;
    let answer = sender.send_request(request).await.map_err(|error| failed("no answer", &error))?;
    if answer.status() != StatusCode::OK {
        return Err(FetchError(format!("answered {}", answer.status())));
    }
    let body = Limited::new(answer.into_body(), SET_BYTES_MAX).collect().await;
    driving.abort();
    Ok(body.map_err(|error| failed("the answer cannot be read", &*error))?.to_bytes())
}
