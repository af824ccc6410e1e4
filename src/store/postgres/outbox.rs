//! Batches that are committed and not yet published. Shared by all instances: one that finds a
//! batch that was not looked after for a while takes it over.

use std::time::Duration;

use tokio_postgres::types::ToSql;

use super::errors::unreadable;
use super::session::Session;
use super::{Postgres, order_id, snapshot};
use crate::id::{OrderId, Version};
use crate::record::Parcel;
use crate::store::rules::{column, signed};
use crate::store::{Batch, Page, StoreError, Unpublished};

/// Notes in the transaction under way what is to be published of it: of every order that the batch
/// names, since what becomes of them is not known yet.
pub(super) async fn record<E: From<tokio_postgres::Error>>(session: &Session, batch: &Batch) -> Result<(), E> {
    if let Some(Parcel { ticket, contents }) = batch.parcel {
        let contents = column::of_contents(contents);
        let uids: Vec<String> = batch.entries.iter().map(|entry| entry.order.id.to_string()).collect();
        session.execute(&session.statements.record, &[&ticket, &contents, &uids]).await?;
    }
    Ok(())
}

impl Postgres {
    pub(super) async fn claim_unpublished(&self, age: Duration, limit: usize) -> Result<Vec<Unpublished>, StoreError> {
        let session = self.reader().await?;
        let limit = signed(limit as u64);
        let age = age.as_secs_f64();
        let parameters: [&(dyn ToSql + Sync); 2] = [&age, &limit];
        let claim = session.query(&session.statements.claim, &parameters);
        let claimed = session.ask(self.0.config.patience(), claim).await?;
        let mut batches = Vec::with_capacity(claimed.len());
        for row in &claimed {
            let contents = column::to_contents(row.try_get(1).map_err(unreadable)?);
            let parcel = Parcel { ticket: row.try_get(0).map_err(unreadable)?, contents };
            let changed_in: i64 = row.try_get(2).map_err(unreadable)?;
            let uids: Vec<&str> = row.try_get(3).map_err(unreadable)?;
            let ids = uids.into_iter().map(|uid| OrderId::parse_stored(uid.as_bytes()));
            let ids = ids.collect::<Result<_, _>>().map_err(|error| StoreError::Damaged(error.into()))?;
            batches.push((changed_in, Unpublished { parcel, ids }));
        }
        batches.sort_unstable_by_key(|(changed_in, _)| *changed_in);
        Ok(batches.into_iter().map(|(_, batch)| batch).collect())
    }

    pub(super) async fn newer_than(&self, known: &[(OrderId, Version)]) -> Result<Page, StoreError> {
        let session = self.reader().await?;
        let uids: Vec<String> = known.iter().map(|(id, _)| id.to_string()).collect();
        let versions: Vec<i64> = known.iter().map(|(_, version)| signed(*version)).collect();
        let parameters: [&(dyn ToSql + Sync); 2] = [&uids, &versions];
        let newer = session.query(&session.statements.newer, &parameters);
        let rows = session.ask(self.0.config.patience(), newer).await?;
        let mut scratch = Vec::new();
        rows.iter().map(|row| Ok((order_id(row)?, snapshot(row, &mut scratch)?))).collect()
    }

    pub(super) async fn narrow_unpublished(
        &self,
        parcel: Parcel,
        to: &[OrderId],
        pause: Duration,
    ) -> Result<(), StoreError> {
        let session = self.reader().await?;
        let uids: Vec<String> = to.iter().map(OrderId::to_string).collect();
        let narrow = "UPDATE @outbox SET order_uids = $2, contents = $3, \
                      claimed_at = clock_timestamp() + make_interval(secs => $4) WHERE ticket = $1";
        let narrow = self.0.config.schema.sql(narrow);
        let (contents, pause) = (column::of_contents(parcel.contents), pause.as_secs_f64());
        let parameters: [&(dyn ToSql + Sync); 4] = [&parcel.ticket, &uids, &contents, &pause];
        session.ask(self.0.config.patience(), session.execute(&narrow, &parameters)).await?;
        Ok(())
    }

    pub(super) async fn forget_published(&self, tickets: Vec<i64>) -> Result<(), StoreError> {
        let mut session = self.reader().await?;
        session.is_open = true;
        let parameters: [&(dyn ToSql + Sync); 1] = [&tickets];
        // What a crash brings back is published once more, so no one waits for the disk.
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
