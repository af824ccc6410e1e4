//! Whether the hit path lets a read in.

use std::cell::RefCell;
use std::time::Instant;

use crate::access::address::Peer;
use crate::access::rate::{Bucket, Rate};
use crate::access::{Access, Glance, LastPass, Shown};

/// Whether a read is let in. Two kinds of code: where callers need no key, nothing of this is
/// there.
pub(super) trait Door: Copy {
    /// Requests have to be let in.
    const IS_GUARDED: bool;

    fn quick(&self, shown: Shown<'_>, now: Instant) -> Glance;

    fn charge(&self, cost: (Bucket, Rate), now: Instant);
}

/// Callers need no key.
#[derive(Clone, Copy)]
pub(super) struct Open;

impl Door for Open {
    const IS_GUARDED: bool = false;

    #[inline]
    fn quick(&self, _: Shown<'_>, _: Instant) -> Glance {
        Glance::Pass(None, None)
    }

    #[inline]
    fn charge(&self, _: (Bucket, Rate), _: Instant) {}
}

/// Who asks has to be let in.
#[derive(Clone, Copy)]
pub(super) struct Guarded<'d> {
    pub(super) access: &'d Access,
    pub(super) peer: &'d Peer,
    /// What the connection's request before was let in by: nearly always it is the same.
    pub(super) last: &'d RefCell<LastPass>,
}

impl Door for Guarded<'_> {
    const IS_GUARDED: bool = true;

    #[inline]
    fn quick(&self, shown: Shown<'_>, now: Instant) -> Glance {
        match self.access.quick(shown, self.peer, self.last, now) {
            // There it is noted, which is hyper's way.
            Glance::Limited(_) if self.access.audit().is_some() => Glance::Ask,
            glance => glance,
        }
    }

    #[inline]
    fn charge(&self, cost: (Bucket, Rate), now: Instant) {
        self.access.charge(cost, now);
    }
}
