//! What a connection's last request was let in by: the next one nearly always shows the same, and
//! is let in for the cost of a comparison. That takes the same time wherever two credentials
//! differ.

use std::time::SystemTime;

use super::Shown;
use super::rate::{Bucket, Rate};
use crate::snapshot::OwnerTag;

/// What a credential lets a read see.
#[derive(Clone, Copy)]
pub(super) struct Pass {
    /// Whose orders alone; all when `None`.
    pub(super) owner: Option<OwnerTag>,
    /// What it costs.
    pub(super) cost: Option<(Bucket, Rate)>,
    /// Until when.
    pub(super) expires: Option<SystemTime>,
}

/// The last credential of a connection.
#[derive(Default)]
pub struct LastPass(Option<Kept>);

struct Kept {
    generation: u64,
    authorization: Box<[u8]>,
    api_key: Box<[u8]>,
    pass: Pass,
}

impl LastPass {
    /// What lets this in, if it is the same as before, and so are the keys.
    pub(super) fn known(&self, shown: Shown<'_>, generation: u64) -> Option<Pass> {
        let kept = self.0.as_ref().filter(|kept| kept.generation == generation)?;
        let is_same = is_equal(shown.authorization.unwrap_or_default(), &kept.authorization)
            && is_equal(shown.api_key.unwrap_or_default(), &kept.api_key);
        is_same.then_some(kept.pass)
    }

    pub(super) fn keep(&mut self, shown: Shown<'_>, generation: u64, pass: Pass) -> Pass {
        let [authorization, api_key] =
            [shown.authorization, shown.api_key].map(|value| value.unwrap_or_default().into());
        self.0 = Some(Kept { generation, authorization, api_key, pass });
        pass
    }
}

/// Whether two texts are the same, in a time that depends on their length alone.
fn is_equal(one: &[u8], other: &[u8]) -> bool {
    if one.len() != other.len() {
        return false;
    }
    let (words, rest) = one.as_chunks::<8>();
    let (other_words, other_rest) = other.as_chunks::<8>();
    let mut differs = 0;
    for (word, other) in words.iter().zip(other_words) {
        differs |= u64::from_ne_bytes(*word) ^ u64::from_ne_bytes(*other);
    }
    for (byte, other) in rest.iter().zip(other_rest) {
        differs |= u64::from(byte ^ other);
    }
    std::hint::black_box(differs) == 0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_same_credential_of_the_same_keys_is_known() {
        let pass = Pass { owner: Some(OwnerTag::of("a")), cost: None, expires: None };
        let shown = |text: &'static [u8]| Shown { authorization: Some(text), api_key: None };
        let mut last = LastPass::default();
        assert!(last.known(Shown::default(), 1).is_none());
        last.keep(shown(b"Bearer 0123456789"), 1, pass);
        assert!(last.known(shown(b"Bearer 0123456789"), 1).is_some_and(|known| known.owner == pass.owner));
        assert!(last.known(shown(b"Bearer 0123456789"), 2).is_none());
        for other in [&b"Bearer 0123456780"[..], b"bearer 0123456789", b"Bearer 012345678", b"", b"Bearer 01234567890"]
        {
            assert!(last.known(shown(other), 1).is_none());
        }
        let api_key = Some(&b"Bearer 0123456789"[..]);
        assert!(last.known(Shown { authorization: None, api_key }, 1).is_none());
        assert!(last.known(Shown { authorization: api_key, api_key }, 1).is_none());
    }
}
