//! Batches that are committed and not yet published. Shared by all instances: whoever finds one that nobody has looked
//! after for a while takes it over.

use std::time::Duration;

use tokio_postgres::types::ToSql;

use super::errors::unreadable;
use super::session::Session;
use super::{Postgres, order_id, snapshot};
use crate::record::Parcel;
use crate::store::rules::{column, signed};
use crate::store::{StoreError, Unpublished};

/// Notes in the transaction under way what is to be published of it.
pub(super) async fn record<E: From<tokio_postgres::Error>>(session: &Session, parcel: Option<Parcel>) -> Result<(), E> {
    if let Some(Parcel { ticket, contents }) = parcel {
        let contents = column::of_contents(contents);
        session.execute(&session.statements.record, &[&ticket, &contents]).await?;
    }
    Ok(())
}

impl Postgres {
    pub(super) async fn claim_unpublished(&self, age: Duration, limit: usize) -> Result<Vec<Unpublished>, StoreError> {
        let session = self.reader().await?;
        let limit = signed(limit as u64);
        let time = self.0.config.patience();
        let age = age.as_secs_f64();
        let parameters: [&(dyn ToSql + Sync); 2] = [&age, &limit];
        let claimed = session.ask(time, session.query(&session.statements.claim, &parameters)).await?;
        let mut scratch = Vec::new();
        let mut batches = Vec::with_capacity(claimed.len());
        for row in &claimed {
            let contents = column::to_contents(row.try_get(1).map_err(unreadable)?);
            let parcel = Parcel { ticket: row.try_get(0).map_err(unreadable)?, contents };
            let changed_in: i64 = row.try_get(2).map_err(unreadable)?;
            let parameters: [&(dyn ToSql + Sync); 1] = [&changed_in];
            let rows = session.ask(time, session.query(&session.statements.changed_by, &parameters)).await?;
            let orders = rows.iter().map(|row| Ok((order_id(row)?, snapshot(row, &mut scratch)?)));
            let orders = orders.collect::<Result<_, StoreError>>()?;
            batches.push((changed_in, Unpublished { parcel, orders }));
        }
        batches.sort_unstable_by_key(|(changed_in, _)| *changed_in);
        Ok(batches.into_iter().map(|(_, batch)| batch).collect())
    }

    pub(super) async fn forget_published(&self, tickets: Vec<i64>) -> Result<(), StoreError> {
        let mut session = self.reader().await?;
        session.is_open = true;
        let parameters: [&(dyn ToSql + Sync); 1] = [&tickets];
        // What a crash brings back is published once more, so nobody waits for the disk.
        let done = async {
            tokio::try_join!(
                biased;
                session.batch_execute("BEGIN; SET LOCAL synchronous_commit = off"),
                session.execute(&session.statements.forget, &parameters),
                session.batch_execute("COMMIT"),
            )
        };
        session.ask(self.0.config.patience(), done).await?;
        session.is_open = false;
        Ok(())
    }
}
