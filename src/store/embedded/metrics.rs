//! What the embedded store shows on `/metrics`.

use super::{Embedded, Harm};
use crate::metrics::{Metrics, ReadGauge};

impl Embedded {
    /// Registers whether its files are there: once in a process that has this store, and in no other.
    pub fn register(&self, metrics: &Metrics) {
        let read = |harm: Harm| {
            let store = self.clone();
            let read = move || f64::from(u8::from(store.check().is_err_and(|lost| lost.harm == harm)));
            (harm.code(), Box::new(read) as ReadGauge)
        };
        let help = "1 while a file of the embedded store is not there any more, by what happened.";
        metrics.pulled_gauges("store_lost", help, "harm", Harm::ALL.map(read).into());
    }
}
