//! Who calls, what they may see, how often, and what is noted of it: decided once, before a route.
//! Knows no route by its path, no order by its content and neither HTTP nor gRPC.

pub mod address;
pub mod audit;
pub mod caller;
mod config;
mod denied;
pub mod head;
pub mod jwks;
pub mod jwt;
pub mod keys;
mod last;
pub mod rate;
mod recent;
pub mod scope;
pub mod settings;
mod watch;
mod who;

use std::cell::RefCell;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Instant, SystemTime};

use address::{Peer, Place, Proxies};
use arc_swap::ArcSwap;
use audit::Audit;
use caller::Caller;
use keys::Keys;
use last::Pass;
use rate::{Limited, Rate, Table};
use scope::{Need, Sight};

use crate::metrics::{IntCounter, Metrics};
use crate::snapshot::OwnerTag;

pub use config::{Config, SetUpError, TokenConfig};
pub use denied::Denied;
pub use last::LastPass;
pub use who::Who;

/// What a request shows.
#[derive(Debug, Clone, Copy, Default)]
pub struct Shown<'r> {
    /// `Authorization`.
    pub authorization: Option<&'r [u8]>,
    /// `X-API-Key`.
    pub api_key: Option<&'r [u8]>,
}

impl<'r> Shown<'r> {
    fn credential(self) -> Result<Option<&'r [u8]>, &'static str> {
        let bearer = match self.authorization {
            None => None,
            Some(value) => {
                let (scheme, rest) = value.split_at(value.len().min(7));
                if !scheme.eq_ignore_ascii_case(b"bearer ") {
                    return Err("Authorization must be Bearer and a key or token");
                }
                Some(rest.trim_ascii())
            }
        };
        match (bearer, self.api_key.map(<[u8]>::trim_ascii)) {
            (Some(bearer), Some(key)) if bearer != key => Err("Authorization and X-API-Key are not the same"),
            (bearer, key) => Ok(bearer.or(key)),
        }
    }
}

/// What a plain read comes to without a look at anything but what is known already.
pub enum Glance {
    /// It is let in to all orders, or those of one owner; and it costs this.
    Pass(Option<OwnerTag>, Option<(rate::Bucket, Rate)>),
    /// Too often.
    Limited(Limited),
    /// [`Access::admit`] has to say.
    Ask,
}

/// Who is let in to what.
pub struct Access {
    keys: Option<(PathBuf, ArcSwap<Keys>)>,
    tokens: Option<(jwks::TokenKeys, jwt::Rules)>,
    rate: Option<Rate>,
    buckets: Option<Table>,
    proxies: Proxies,
    audit: Option<Audit>,
    audits_reads: bool,
    /// Of the keys: what was let in by others is looked at again.
    generation: AtomicU64,
    changes: tokio::sync::watch::Sender<()>,
    refused: Option<[IntCounter; 5]>,
}

/// Generations are of one process, so that no two sets of keys have the same.
static GENERATIONS: AtomicU64 = AtomicU64::new(1);

fn next_generation() -> u64 {
    GENERATIONS.fetch_add(1, Ordering::Relaxed)
}

impl Access {
    /// Reads the keys and opens the trail.
    ///
    /// # Errors
    /// [`SetUpError`] names the setting.
    pub fn start(config: &Config, metrics: &Metrics) -> Result<Arc<Self>, SetUpError> {
        let keys = match &config.keys {
            None => None,
            Some(path) => {
                let keys = watch::read_keys(path).map_err(|cause| SetUpError { setting: "auth.keys".into(), cause })?;
                tracing::info!(keys = keys.count(), "key file read");
                Some((path.clone(), ArcSwap::from_pointee(keys)))
            }
        };
        let tokens = match &config.tokens {
            None => None,
            Some(TokenConfig { source, rules }) => {
                let keys = jwks::TokenKeys::new(source.clone());
                if let jwks::Source::File(path) = source {
                    let read = watch::read(path).and_then(|text| keys.take(&text).map_err(|error| error.to_string()));
                    read.map_err(|cause| SetUpError { setting: "auth.jwks".into(), cause })?;
                }
                Some((keys, rules.clone()))
            }
        };
        let audit = config.audit.clone().map(Audit::start).transpose();
        let audit = audit.map_err(|error| SetUpError { setting: "audit.file".into(), cause: error.to_string() })?;
        let is_on = config.is_authenticating() || config.rate.is_some();
        let help = "Requests that were not let in, by reason.";
        let refused = is_on.then(|| {
            let family = metrics.counters("access_refused_total", help, &["reason"]);
            Denied::WORDS.map(|reason| family.with_label_values(&[reason])) // counts from 0
        });
        let access = Arc::new(Self {
            keys,
            tokens,
            rate: config.rate,
            buckets: is_on.then(Table::default),
            proxies: config.proxies.clone(),
            audit,
            audits_reads: config.audit_reads,
            generation: AtomicU64::new(next_generation()),
            changes: tokio::sync::watch::Sender::new(()),
            refused,
        });
        if access.audit.is_some() {
            access.show_audit(metrics);
        }
        Ok(access)
    }

    #[expect(clippy::cast_precision_loss, reason = "counts stay below 2^53")]
    fn show_audit(self: &Arc<Self>, metrics: &Metrics) {
        let count = |read: fn(&Audit) -> u64| {
            let access = Arc::clone(self);
            move || access.audit.as_ref().map_or(0.0, |audit| read(audit) as f64)
        };
        metrics.pulled_counter(
            "audit_lines_total",
            "Lines of the audit trail that were written.",
            count(Audit::written),
        );
        metrics.pulled_counter(
            "audit_dropped_total",
            "Lines of the audit trail that were dropped.",
            count(Audit::dropped),
        );
    }

    /// Callers need no key, nothing is counted or noted.
    #[must_use]
    pub fn open() -> Arc<Self> {
        Arc::new(Self {
            keys: None,
            tokens: None,
            rate: None,
            buckets: None,
            proxies: Proxies::default(),
            audit: None,
            audits_reads: false,
            generation: AtomicU64::new(next_generation()),
            changes: tokio::sync::watch::Sender::new(()),
            refused: None,
        })
    }

    /// Whether a request has to be looked at before it is answered.
    #[must_use]
    pub fn is_guarded(&self) -> bool {
        self.buckets.is_some() || self.audits_reads
    }

    /// Whether callers have to be known.
    #[must_use]
    pub fn is_authenticating(&self) -> bool {
        self.keys.is_some() || self.tokens.is_some()
    }

    /// Whether even a plain read is noted.
    #[must_use]
    pub fn audits_reads(&self) -> bool {
        self.audits_reads && self.audit.is_some()
    }

    /// Who is believed about where a request comes from.
    #[must_use]
    pub fn proxies(&self) -> &Proxies {
        &self.proxies
    }

    /// The trail, where there is one.
    #[must_use]
    pub fn audit(&self) -> Option<&Audit> {
        self.audit.as_ref()
    }

    fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// What a plain read of orders comes to, where that is known without waiting for anything.
    /// Takes nothing from a bucket: [`Access::charge`] does, once the read is answered. No lock and
    /// no allocation.
    #[must_use]
    pub fn quick(&self, shown: Shown<'_>, peer: &Peer, last: &RefCell<LastPass>, now: Instant) -> Glance {
        if !self.is_authenticating() {
            let Some(rate) = self.rate else { return Glance::Pass(None, None) };
            if peer.is_trusted {
                return Glance::Ask; // which client it is, its headers say
            }
            let key = self.bucket_of(Place::of(peer.address));
            return self.within(key, Some(rate), now).map_or_else(Glance::Limited, |cost| Glance::Pass(None, cost));
        }
        let generation = self.generation();
        let mut last = last.borrow_mut();
        let pass = match last.known(shown, generation) {
            Some(pass) => pass,
            None => match self.pass(shown, generation) {
                Some(pass) => last.keep(shown, generation, pass),
                None => return Glance::Ask,
            },
        };
        if pass.expires.is_some_and(|expires| SystemTime::now() >= expires) {
            return Glance::Ask;
        }
        let Some((key, rate)) = pass.cost else { return Glance::Pass(pass.owner, None) };
        self.within(Some(key), Some(rate), now).map_or_else(Glance::Limited, |cost| Glance::Pass(pass.owner, cost))
    }

    /// What a credential that this thread knows lets a read see, and what it costs.
    fn pass(&self, shown: Shown<'_>, generation: u64) -> Option<Pass> {
        let credential = shown.credential().ok()??;
        recent::with(credential, generation, |caller| {
            let owner = match Need::Read.judge(caller.scopes, caller.owner.is_some()).ok()? {
                Sight::All => None,
                Sight::Own => Some(caller.owner.as_ref()?.tag),
            };
            let key = self.bucket_of((caller.kind.as_str(), &caller.name));
            Some(Pass { owner, cost: key.zip(caller.rate.or(self.rate)), expires: caller.expires })
        })?
    }

    fn bucket_of(&self, of: impl std::hash::Hash) -> Option<rate::Bucket> {
        self.buckets.as_ref().map(|buckets| buckets.key(of))
    }

    fn within(
        &self,
        key: Option<rate::Bucket>,
        rate: Option<Rate>,
        now: Instant,
    ) -> Result<Option<(rate::Bucket, Rate)>, Limited> {
        let (Some(buckets), Some(cost)) = (&self.buckets, key.zip(rate)) else { return Ok(None) };
        buckets.check(cost.0, cost.1, now).map(|()| Some(cost))
    }

    /// Takes what a request costs that [`Access::quick`] let pass.
    pub fn charge(&self, (key, rate): (rate::Bucket, Rate), now: Instant) {
        if let Some(buckets) = &self.buckets {
            let _ = buckets.take(key, rate, now); // it was there a moment ago
        }
    }

    /// Counts what was not let in.
    pub fn count_refusal(&self, refusal: &Denied) {
        if let Some(refused) = &self.refused {
            refused[refusal.index()].inc();
        }
    }

    /// Lets a request in that needs something, from an address, or not.
    ///
    /// # Errors
    /// [`Denied`], which is counted here unless it is [`Denied::KeysUnknown`].
    pub fn admit(
        self: &Arc<Self>,
        shown: Shown<'_>,
        peer: &Peer,
        address: Option<IpAddr>,
        need: Need,
    ) -> Result<Who, Denied> {
        let result = self.judge(shown, peer, address, need);
        if let Err(refusal) = &result
            && *refusal != Denied::KeysUnknown
        {
            self.count_refusal(refusal);
        }
        result
    }

    fn judge(
        self: &Arc<Self>,
        shown: Shown<'_>,
        peer: &Peer,
        address: Option<IpAddr>,
        need: Need,
    ) -> Result<Who, Denied> {
        let generation = self.generation();
        let who = |caller: Option<Arc<Caller>>, sight| Who {
            access: Arc::clone(self),
            caller,
            sight,
            generation,
            address,
            request_id: "".into(),
        };
        if need == Need::Probe || self.buckets.is_none() {
            return Ok(who(None, Sight::All));
        }
        let now = Instant::now();
        let place = Place::of(address);
        let caller = match need {
            Need::Nothing => None,
            _ if !self.is_authenticating() => None,
            _ => Some(self.identify(shown, peer, place, generation, now)?),
        };
        let rate = caller.as_ref().and_then(|caller| caller.rate).or(self.rate);
        let key = match &caller {
            Some(caller) => self.bucket_of((caller.kind.as_str(), &caller.name)),
            None => self.bucket_of(place),
        };
        if let (Some(buckets), Some(key), Some(rate)) = (&self.buckets, key, rate) {
            buckets.take(key, rate, now).map_err(Denied::TooOften)?;
        }
        let sight = match &caller {
            Some(caller) => need.judge(caller.scopes, caller.owner.is_some()).map_err(Denied::Forbidden)?,
            None => Sight::All,
        };
        Ok(who(caller, sight))
    }

    fn identify(
        &self,
        shown: Shown<'_>,
        peer: &Peer,
        place: Place,
        generation: u64,
        now: Instant,
    ) -> Result<Arc<Caller>, Denied> {
        let failures = |buckets: &Table| buckets.key(("failures", place));
        let fail = |refusal: Denied| {
            if let Some(buckets) = &self.buckets {
                let _ = buckets.take(failures(buckets), Rate::FAILURES, now); // checked before
            }
            refusal
        };
        let credential = match shown.credential() {
            Ok(Some(credential)) => credential,
            Ok(None) => {
                return self.by_certificate(peer).ok_or_else(|| self.missing(place, now));
            }
            Err(what) => return Err(fail(Denied::Invalid(what))),
        };
        let wall = SystemTime::now();
        let known = recent::with(credential, generation, Arc::clone).filter(|caller| !caller.is_expired(wall));
        if let Some(caller) = known {
            return Ok(caller);
        }
        if let Some(buckets) = &self.buckets {
            let checked = buckets.check(failures(buckets), Rate::FAILURES, now);
            checked.map_err(Denied::TooManyFailures)?;
        }
        let caller = match self.verify(credential, wall) {
            Ok(caller) => Arc::new(caller),
            Err(Denied::KeysUnknown) => return Err(Denied::KeysUnknown),
            Err(refusal) => return Err(fail(refusal)),
        };
        recent::remember(credential, generation, &caller);
        Ok(caller)
    }

    /// What is said to who shows nothing: an address may ask for that as often as a caller may.
    fn missing(&self, place: Place, now: Instant) -> Denied {
        let (Some(buckets), Some(rate)) = (&self.buckets, self.rate) else { return Denied::Missing };
        buckets.take(buckets.key(place), rate, now).map_or_else(Denied::TooOften, |()| Denied::Missing)
    }

    fn by_certificate(&self, peer: &Peer) -> Option<Arc<Caller>> {
        let (subject, (_, keys)) = (peer.certificate.as_deref()?, self.keys.as_ref()?);
        let caller = keys.load().of_certificate(subject)?.clone();
        (!caller.is_expired(SystemTime::now())).then(|| Arc::new(caller))
    }

    /// Who has this credential.
    fn verify(&self, credential: &[u8], now: SystemTime) -> Result<Caller, Denied> {
        const UNKNOWN: Denied = Denied::Invalid("the key or token is not valid");
        if credential.len() > jwt::TOKEN_BYTES_MAX {
            return Err(UNKNOWN);
        }
        if let (Some((keys, rules)), true) = (&self.tokens, jwt::is_token(credential)) {
            let verified = jwt::verify(credential, &keys.current(), rules, now);
            return verified.map_err(|rejected| match rejected {
                jwt::Rejected::UnknownKey if keys.may_fetch() => Denied::KeysUnknown,
                jwt::Rejected::Expired => Denied::Invalid("the token has expired"),
                jwt::Rejected::NoSubject => Denied::Invalid("the token has no sub"),
                jwt::Rejected::Early => Denied::Invalid("the token is not valid yet"),
                jwt::Rejected::Issuer => Denied::Invalid("the token is another issuer's"),
                jwt::Rejected::Audience => Denied::Invalid("the token is for another audience"),
                jwt::Rejected::Algorithm => Denied::Invalid("the token's algorithm is not accepted"),
                jwt::Rejected::Malformed(what) => Denied::Invalid(what),
                jwt::Rejected::UnknownKey | jwt::Rejected::Signature => UNKNOWN,
            });
        }
        let Some((_, keys)) = &self.keys else { return Err(UNKNOWN) };
        // Looked up by a digest: how far that is like another says nothing of the key.
        let caller = keys.load().of_hash(&keys::hash(credential)).cloned().ok_or(UNKNOWN)?;
        if caller.is_expired(now) { Err(Denied::Invalid("the key has expired")) } else { Ok(caller) }
    }

    /// Whether a caller that was let in before would be now.
    fn is_still_in(&self, caller: &Caller) -> bool {
        let is_same = |now: &Caller| now.is_same(caller);
        let keys = self.keys.as_ref().map(|(_, keys)| keys.load());
        match caller.kind {
            caller::By::Key => keys.is_some_and(|keys| keys.of_hash(&caller.hash).is_some_and(is_same)),
            caller::By::Certificate => keys.is_some_and(|keys| keys.of_name(&caller.name).is_some_and(is_same)),
            caller::By::Token => {
                let keys = self.tokens.as_ref().map(|(keys, _)| keys.current());
                keys.zip(caller.signer).is_some_and(|(keys, signer)| keys.has(&signer))
            }
        }
    }

    /// Has all who were let in looked at again.
    fn changed(&self) {
        self.generation.store(next_generation(), Ordering::Release);
        self.changes.send_replace(());
    }

    /// Fetches the keys of tokens, unless that was tried a moment ago.
    pub async fn fetch_keys(&self) {
        let Some((keys, _)) = &self.tokens else { return };
        match keys.fetch_for_unknown().await {
            Ok(true) => self.changed(),
            Ok(false) => {}
            Err(error) => tracing::warn!(%error, "token keys cannot be fetched; those known are kept"),
        }
    }
}

impl Access {
    /// Who is refused, where that is known: only a caller that is known lacks a scope.
    fn refused_caller(&self, refusal: &Denied, shown: Shown<'_>, peer: &Peer) -> Option<Arc<Caller>> {
        let is_known = match refusal {
            Denied::Forbidden(_) => true,
            Denied::TooOften(_) => false,
            _ => return None,
        };
        let Some(credential) = shown.credential().ok()? else { return self.by_certificate(peer) };
        recent::with(credential, self.generation(), Arc::clone)
            // Another thread may have let it in.
            .or_else(|| is_known.then(|| self.verify(credential, SystemTime::now()).ok().map(Arc::new))?)
    }

    /// Notes a request that was not let in; by its method, its route and the order that it names.
    fn note_refusal(
        &self,
        refusal: &Denied,
        (caller, address): (Option<&Caller>, Option<IpAddr>),
        (method, route, order): (&str, &str, Option<&str>),
        (result, request_id): (&str, &str),
    ) {
        let Some(audit) = &self.audit else { return };
        let missing_scope = match refusal {
            Denied::Forbidden(scope) => Some(scope.name()),
            _ => None,
        };
        audit.note(&audit::Note {
            caller: caller.map(|caller| (&*caller.name, caller.kind.as_str())),
            address,
            method,
            route,
            order,
            result,
            missing_scope,
            request_id,
        });
    }
}
