//! The store without the service: all its orders as lines, and keeping its schema.

use futures_util::TryStreamExt;
use tokio_postgres::Client;

use super::errors::classify;
use super::schema::{self, MigrateError, Migration};
use super::views::Views;
use super::{Config, SchemaName, StoreError, scan};
use crate::store::Full;
use crate::store::rules::column;

/// All orders, as they stand when this is opened.
pub struct Live {
    client: Client,
    schema: SchemaName,
}

impl Live {
    /// Connects, and sees the same state from here on.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn open(config: &Config) -> Result<Self, StoreError> {
        let client = scan::connect(config).await?;
        schema::check(&client, &config.schema).await.map_err(|error| {
            let may_pass = error.may_pass();
            if may_pass { StoreError::Unavailable(error.into()) } else { StoreError::Unfit(error.into()) }
        })?;
        client.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").await.map_err(classify)?;
        Ok(Self { client, schema: config.schema.clone() })
    }

    /// How many are live, and how many are deleted.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn count(&self) -> Result<(u64, u64), StoreError> {
        let count = "SELECT count(*) FILTER (WHERE state = 0), count(*) FILTER (WHERE state <> 0) FROM @orders";
        let row = self.client.query_one(&self.schema.sql(count), &[]).await.map_err(classify)?;
        let number = |index| row.try_get::<_, i64>(index).map(i64::unsigned_abs).map_err(classify);
        Ok((number(0)?, number(1)?))
    }

    /// Hands over the body of each live order, newest first.
    ///
    /// # Errors
    /// [`StoreError`], or the first error of `emit`.
    pub async fn for_each<E: From<StoreError>>(&self, mut emit: impl FnMut(&[u8]) -> Result<(), E>) -> Result<(), E> {
        let sql = self.schema.sql("SELECT body FROM @orders WHERE state = 0 ORDER BY seq DESC");
        let rows = self.client.query_raw(&sql, std::iter::empty::<i32>()).await.map_err(classify)?;
        let mut rows = std::pin::pin!(rows);
        while let Some(row) = rows.try_next().await.map_err(classify)? {
            emit(row.try_get(0).map_err(classify)?)?;
        }
        Ok(())
    }

    /// Hands over all orders, deleted ones among them, oldest first.
    ///
    /// # Errors
    /// [`StoreError`], or the first error of `emit`.
    pub async fn for_each_full<E: From<StoreError>>(
        &self,
        mut emit: impl FnMut(Full<'_>) -> Result<(), E>,
    ) -> Result<(), E> {
        let sql = self.schema.sql(
            "SELECT order_uid, kind, state, version, (extract(epoch FROM created_at) * 1000000)::bigint,
             (extract(epoch FROM updated_at) * 1000000)::bigint, body FROM @orders ORDER BY seq",
        );
        let rows = self.client.query_raw(&sql, std::iter::empty::<i32>()).await.map_err(classify)?;
        let mut rows = std::pin::pin!(rows);
        while let Some(row) = rows.try_next().await.map_err(classify)? {
            let read = || {
                Ok(Full {
                    id: row.try_get(0)?,
                    kind: column::to_kind(row.try_get(1)?),
                    state: column::to_state(row.try_get(2)?),
                    version: row.try_get::<_, i64>(3)?.unsigned_abs(),
                    times: Some((row.try_get(4)?, row.try_get(5)?)),
                    body: row.try_get(6)?,
                })
            };
            emit(read().map_err(classify)?)?;
        }
        Ok(())
    }
}

/// The schema, whether or not a service uses it.
pub struct Maintenance {
    client: Client,
    schema: SchemaName,
}

impl Maintenance {
    /// Connects without migrating.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn open(config: &Config) -> Result<Self, StoreError> {
        let client = scan::log_in(config).await?;
        Ok(Self { client, schema: config.schema.clone() })
    }

    /// Applies what is missing, all or nothing; the optional steps only when asked for. Returns the
    /// numbers applied.
    ///
    /// # Errors
    /// [`MigrateError`].
    pub async fn up(&mut self, is_with_optional: bool) -> Result<Vec<u32>, MigrateError> {
        self.up_with(is_with_optional, &[]).await
    }

    /// The same, with views for the queries of older services.
    ///
    /// # Errors
    /// [`MigrateError`].
    pub async fn up_with(&mut self, is_with_optional: bool, views: &[Views]) -> Result<Vec<u32>, MigrateError> {
        schema::up_with(&mut self.client, &self.schema, is_with_optional, views).await
    }

    /// Takes the newest applied step back, with the data in it. Returns its number, or `None` when
    /// there is none.
    ///
    /// # Errors
    /// [`MigrateError`].
    pub async fn down(&mut self) -> Result<Option<u32>, MigrateError> {
        schema::down(&mut self.client, &self.schema).await
    }

    /// Every step with whether it is applied.
    ///
    /// # Errors
    /// [`MigrateError`].
    pub async fn status(&mut self) -> Result<Vec<(Migration, bool)>, MigrateError> {
        schema::status(&mut self.client, &self.schema).await
    }
}
