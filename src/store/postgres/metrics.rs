//! What the store in PostgreSQL shows on `/metrics`.

use super::Postgres;
use crate::metrics::{Metrics, ReadGauge};

impl Postgres {
    /// Registers how many connections there are: once in a process that has this store, and in no
    /// other.
    pub fn register(&self, metrics: &Metrics) {
        let read = |count: fn(&Self) -> u32| -> ReadGauge {
            let store = self.clone();
            Box::new(move || f64::from(count(&store)))
        };
        let states = vec![("busy", read(Self::busy)), ("idle", read(Self::idle))];
        metrics.pulled_gauges("postgres_pool_connections", "Connections to PostgreSQL.", "state", states);
    }

    /// Connections in use now.
    fn busy(&self) -> u32 {
        let (readers, writers) = (self.0.readers.pool.state(), self.0.writers.pool.state());
        let idle = readers.idle_connections + writers.idle_connections;
        (readers.connections + writers.connections).saturating_sub(idle)
    }

    /// Connections open and waiting.
    fn idle(&self) -> u32 {
        let (readers, writers) = (self.0.readers.pool.state(), self.0.writers.pool.state());
        readers.idle_connections + writers.idle_connections
    }
}
