//! The files of `web` that are built in, by the paths they answer to: the page, the description of
//! the interface and its reader. No file is read while serving, and nothing refers to another host.

use std::collections::HashMap;
use std::sync::LazyLock;

use bytes::Bytes;
use hyper::header::HeaderValue;
use include_dir::{Dir, include_dir};
use sha2::{Digest, Sha256};

static WEB: Dir<'static> = include_dir!("$CARGO_MANIFEST_DIR/web");

/// The page runs its own scripts and styles only, and talks to its own server only.
const PAGE_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
    manifest-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";
/// The reader of the interface description sets styles from its script and draws its icons from
/// data URLs.
const DOCS_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self' 'unsafe-inline'; \
    img-src 'self' data:; connect-src 'self'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'";

/// A file that is built in.
pub(super) struct Asset {
    pub(super) body: Bytes,
    /// Its media type.
    pub(super) kind: HeaderValue,
    pub(super) etag: HeaderValue,
    /// What the page may load.
    pub(super) policy: HeaderValue,
}

/// Every path that is built in.
static ASSETS: LazyLock<HashMap<String, Asset>> = LazyLock::new(|| {
    let mut assets = HashMap::new();
    for file in WEB.files() {
        let name = file.path().display().to_string();
        let paths = match name.as_str() {
            "index.html" => vec!["/".to_owned()],
            "openapi.json" => vec!["/openapi.json".into(), "/swagger.json".into(), "/swagger/doc.json".into()],
            _ => vec![format!("/static/{name}")],
        };
        for path in paths {
            assets.insert(path, asset(&name, file.contents(), PAGE_POLICY));
        }
    }
    for file in WEB.get_dir("swagger").into_iter().flat_map(Dir::files) {
        let name = file.path().display().to_string();
        assets.insert(format!("/{name}"), asset(&name, file.contents(), DOCS_POLICY));
    }
    assets
});

fn asset(name: &str, contents: &'static [u8], policy: &'static str) -> Asset {
    let kind = match name.rsplit('.').next() {
        Some("html") => "text/html; charset=utf-8",
        Some("js") => "text/javascript; charset=utf-8",
        Some("css") => "text/css; charset=utf-8",
        Some("svg") => "image/svg+xml",
        Some("png") => "image/png",
        Some("json") => "application/json",
        _ => "text/plain; charset=utf-8",
    };
    let digest: String = Sha256::digest(contents).iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    Asset {
        body: Bytes::from_static(contents),
        kind: HeaderValue::from_static(kind),
        etag: HeaderValue::try_from(format!("\"{digest}\"")).expect("hexadecimal digits in quotes"),
        policy: HeaderValue::from_static(policy),
    }
}

/// Where shorter addresses lead.
#[must_use]
pub(super) fn redirect(path: &str) -> Option<&'static str> {
    matches!(path, "/docs" | "/docs/" | "/swagger" | "/swagger/").then_some("/swagger/index.html")
}

/// Whether the path is built in.
#[must_use]
pub(super) fn is_asset(path: &str) -> bool {
    redirect(path).is_some() || ASSETS.contains_key(path)
}

/// What is built in under a path.
pub(super) fn find(path: &str) -> Option<&'static Asset> {
    ASSETS.get(path)
}
