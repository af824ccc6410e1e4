//! `GET /api/stats`: how many orders there are, and how much of them is in memory.

use hyper::header::HeaderMap;

use super::respond::{self, Answer, Problem};
use super::{Api, conditions};
use crate::access::Who;

/// `GET /api/stats`
pub async fn stats(api: &Api, headers: &HeaderMap, who: &Who) -> Result<Answer, Problem> {
    conditions::no_min_version(headers)?;
    if let Some(owner) = who.owner() {
        let count = api.reader.own_count(owner.tag).await?;
        let stats = serde_json::json!({"total_orders": count, "version": env!("CARGO_PKG_VERSION")});
        return Ok(respond::json(stats.to_string()));
    }
    let view = api.reader.view();
    let size = view.size();
    let mut stats = serde_json::json!({
        "total_orders": size.live,
        "view_orders": size.entries,
        "view_bytes": size.bytes,
        "view_complete": view.is_complete(),
        "uptime_seconds": api.started.elapsed().as_secs(),
        "version": env!("CARGO_PKG_VERSION"),
    });
    if api.reader.is_shareable() {
        stats["store_silent_seconds"] = view.silence().as_secs().into();
    }
    if !view.is_bounded() {
        stats["deleted_orders"] = (size.entries as u64).saturating_sub(size.live).into();
    }
    Ok(respond::json(stats.to_string()))
}
