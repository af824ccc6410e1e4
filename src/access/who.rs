//! A request that was let in: what it may see, whether it still may, and how it is noted.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::SystemTime;

use super::caller::{Caller, Owner};
use super::scope::{Need, Scope, Sight};
use super::{Access, audit, keys};
use crate::snapshot::OwnerTag;

/// A request that was let in.
#[derive(Clone)]
pub struct Who {
    pub(super) access: Arc<Access>,
    pub(super) caller: Option<Arc<Caller>>,
    pub(super) sight: Sight,
    pub(super) generation: u64,
    pub(super) address: Option<IpAddr>,
    pub(super) request_id: Arc<str>,
}

impl Who {
    /// Gives it the id that it is noted by.
    #[must_use]
    pub fn with_request_id(self, request_id: &str) -> Self {
        Self { request_id: request_id.into(), ..self }
    }

    /// Who calls, where that has to be known.
    #[must_use]
    pub fn caller(&self) -> Option<&Caller> {
        self.caller.as_deref()
    }

    /// Whose orders alone it is about; `None` for all.
    #[must_use]
    pub fn owner(&self) -> Option<&Owner> {
        match self.sight {
            Sight::All => None,
            Sight::Own => self.caller.as_ref().and_then(|caller| caller.owner.as_ref()),
        }
    }

    /// As [`Who::owner`], as snapshots have it.
    #[must_use]
    pub fn owner_tag(&self) -> Option<OwnerTag> {
        self.owner().map(|owner| owner.tag)
    }

    /// Whether it is about this order.
    #[must_use]
    pub fn sees(&self, owner: Option<OwnerTag>) -> bool {
        self.owner().is_none_or(|own| owner == Some(own.tag))
    }

    /// Whether a scope of the caller's, beside the one that was needed, lets it do something. Where
    /// callers need no key, everything is.
    ///
    /// # Errors
    /// The scope that is missing.
    pub fn may(&self, need: Need) -> Result<Sight, Scope> {
        self.caller.as_ref().map_or(Ok(Sight::All), |caller| need.judge(caller.scopes, caller.owner.is_some()))
    }

    /// What keeps the keys of callers apart in tables that all share: 16 characters, and nothing
    /// where callers need no key.
    #[must_use]
    pub fn namespace(&self) -> Option<String> {
        let caller = self.caller.as_ref()?;
        let digest = keys::hash(format!("{}:{}", caller.kind.as_str(), caller.name).as_bytes());
        Some(digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect())
    }

    /// Whether it would be let in now: its key is there, and its time not over.
    #[must_use]
    pub fn is_in(&self) -> bool {
        let Some(caller) = &self.caller else { return true };
        !caller.is_expired(SystemTime::now())
            && (self.generation == self.access.generation() || self.access.is_still_in(caller))
    }

    /// Completes when it would not be let in any more. Cancel-safe.
    pub async fn is_out(&self) {
        let Some(caller) = &self.caller else { return std::future::pending().await };
        let mut changes = self.access.changes.subscribe();
        while self.is_in() {
            let left = caller.expires.map(|end| end.duration_since(SystemTime::now()).unwrap_or_default());
            tokio::select! {
                _ = changes.changed() => {}
                // Clocks are set; so it is looked at again.
                () = tokio::time::sleep(left.unwrap_or(LOOK_TIME).min(LOOK_TIME)) => {}
            }
        }
    }

    /// Whether a read of its is noted.
    #[must_use]
    pub fn notes_reads(&self) -> bool {
        self.access.audits_reads()
    }

    /// Notes what became of it.
    pub fn note(&self, method: &str, route: &str, order: Option<&str>, result: &str) {
        let Some(audit) = &self.access.audit else { return };
        audit.note(&audit::Note {
            caller: self.caller.as_ref().map(|caller| (&*caller.name, caller.kind.as_str())),
            address: self.address,
            method,
            route,
            order,
            result,
            missing_scope: None,
            request_id: &self.request_id,
        });
    }
}

/// How often a long answer looks whether its caller is still let in, at least.
const LOOK_TIME: std::time::Duration = std::time::Duration::from_mins(1);
