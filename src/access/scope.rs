//! What a caller may do: the names of scopes, sets of them, and which of them a request needs.

use std::fmt;

/// One permission.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum Scope {
    /// To read every order.
    Read = 0,
    /// To read the orders of the caller's owner.
    ReadOwn = 1,
    /// To write every order.
    Write = 2,
    /// To write the orders of the caller's owner.
    WriteOwn = 3,
    /// To erase orders.
    Erase = 4,
    /// To follow changes.
    Events = 5,
    /// To read `/metrics`.
    Metrics = 6,
    /// To use the admin address.
    Admin = 7,
}

impl Scope {
    /// All.
    pub const ALL: [Self; 8] =
        [Self::Read, Self::ReadOwn, Self::Write, Self::WriteOwn, Self::Erase, Self::Events, Self::Metrics, Self::Admin];

    /// Its name in key files, tokens and errors.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Read => "orders:read",
            Self::ReadOwn => "orders:read:own",
            Self::Write => "orders:write",
            Self::WriteOwn => "orders:write:own",
            Self::Erase => "orders:erase",
            Self::Events => "events:read",
            Self::Metrics => "metrics:read",
            Self::Admin => "admin",
        }
    }

    /// The scope of this name.
    #[must_use]
    pub fn of_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|scope| scope.name() == name)
    }
}

/// A set of scopes.
#[derive(Clone, Copy, Default, PartialEq, Eq)]
pub struct Scopes(u8);

impl Scopes {
    /// Whether a scope is in it.
    #[must_use]
    pub const fn has(self, scope: Scope) -> bool {
        self.0 & 1 << scope as u8 != 0
    }

    /// Whether there is none.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// The names of all in it.
    pub fn names(self) -> impl Iterator<Item = &'static str> {
        Scope::ALL.into_iter().filter(move |scope| self.has(*scope)).map(Scope::name)
    }
}

impl FromIterator<Scope> for Scopes {
    fn from_iter<I: IntoIterator<Item = Scope>>(scopes: I) -> Self {
        Self(scopes.into_iter().fold(0, |set, scope| set | 1 << scope as u8))
    }
}

impl fmt::Debug for Scopes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.names()).finish()
    }
}

/// What a request needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// No caller, and it is not counted: health.
    Probe,
    /// No caller: the page, paths that do not exist.
    Nothing,
    /// Any caller: it asks about itself.
    Caller,
    /// To read orders, or one's own.
    Read,
    /// To write orders, or one's own.
    Write,
    /// To follow changes.
    Events,
    /// To read metrics.
    Metrics,
    /// The admin address.
    Admin,
}

/// Which orders a request is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sight {
    /// Every order.
    All,
    /// Those of the caller's owner.
    Own,
}

impl Need {
    /// Which orders a caller with these scopes gets to, if any.
    ///
    /// # Errors
    /// The scope that is missing.
    pub fn judge(self, scopes: Scopes, has_owner: bool) -> Result<Sight, Scope> {
        let either = |all: Scope, own: Scope| match (scopes.has(all), scopes.has(own) && has_owner) {
            (true, _) => Ok(Sight::All),
            (false, true) => Ok(Sight::Own),
            (false, false) => Err(all),
        };
        let needs = |scope: Scope| if scopes.has(scope) { Ok(Sight::All) } else { Err(scope) };
        match self {
            Self::Probe | Self::Nothing | Self::Caller => Ok(Sight::All),
            Self::Read => either(Scope::Read, Scope::ReadOwn),
            Self::Write => either(Scope::Write, Scope::WriteOwn),
            Self::Events if !scopes.has(Scope::Events) => Err(Scope::Events),
            // Who may not read every order hears of its owner's only, and of none without an owner.
            Self::Events if scopes.has(Scope::Read) => Ok(Sight::All),
            Self::Events if has_owner => Ok(Sight::Own),
            Self::Events => Err(Scope::Read),
            Self::Metrics if scopes.has(Scope::Admin) => Ok(Sight::All),
            Self::Metrics => needs(Scope::Metrics),
            Self::Admin => needs(Scope::Admin),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(names: &[&str]) -> Scopes {
        names.iter().map(|name| Scope::of_name(name).unwrap()).collect()
    }

    #[test]
    fn names_are_read_back() {
        for scope in Scope::ALL {
            assert_eq!(Scope::of_name(scope.name()), Some(scope));
            assert_eq!(set(&[scope.name()]).names().collect::<Vec<_>>(), [scope.name()]);
        }
        assert_eq!(Scope::of_name("orders"), None);
        assert!(Scopes::default().is_empty());
    }

    #[test]
    fn own_scopes_need_an_owner_and_events_keep_to_it() {
        let judge = |need: Need, names: &[&str], has_owner| need.judge(set(names), has_owner);
        assert_eq!(judge(Need::Read, &["orders:read", "orders:read:own"], true), Ok(Sight::All));
        assert_eq!(judge(Need::Read, &["orders:read:own"], true), Ok(Sight::Own));
        assert_eq!(judge(Need::Read, &["orders:read:own"], false), Err(Scope::Read));
        assert_eq!(judge(Need::Write, &["orders:read", "admin"], true), Err(Scope::Write));
        assert_eq!(judge(Need::Write, &["orders:write:own"], true), Ok(Sight::Own));
        assert_eq!(judge(Need::Events, &["orders:read"], true), Err(Scope::Events));
        assert_eq!(judge(Need::Events, &["events:read"], true), Ok(Sight::Own));
        assert_eq!(judge(Need::Events, &["events:read"], false), Err(Scope::Read));
        assert_eq!(judge(Need::Events, &["events:read", "orders:read:own"], false), Err(Scope::Read));
        assert_eq!(judge(Need::Write, &["orders:write:own"], false), Err(Scope::Write));
        assert_eq!(judge(Need::Events, &["events:read", "orders:read"], false), Ok(Sight::All));
        assert_eq!(judge(Need::Events, &["events:read", "orders:read"], true), Ok(Sight::All));
        assert_eq!(judge(Need::Metrics, &["admin"], false), Ok(Sight::All));
        assert_eq!(judge(Need::Admin, &["metrics:read"], false), Err(Scope::Admin));
        assert_eq!(judge(Need::Nothing, &[], false), Ok(Sight::All));
    }
}
