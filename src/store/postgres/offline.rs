//! The store without the service: all its orders as lines, and keeping its schema.

use futures_util::TryStreamExt;
use tokio_postgres::Client;

use super::errors::classify;
use super::schema::{self, MigrateError, Migration};
use super::{Config, StoreError, scan};

/// All live orders, as they stand when this is opened.
pub struct Live(Client);

impl Live {
    /// Connects, and sees the same state from here on.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn open(config: &Config) -> Result<Self, StoreError> {
        let client = scan::connect(config).await?;
        client.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY").await.map_err(classify)?;
        Ok(Self(client))
    }

    /// How many there are.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn count(&self) -> Result<u64, StoreError> {
        let row = self.0.query_one("SELECT count(*) FROM orders WHERE state = 0", &[]).await.map_err(classify)?;
        row.try_get::<_, i64>(0).map(i64::unsigned_abs).map_err(classify)
    }

    /// Hands over each body, newest order first.
    ///
    /// # Errors
    /// [`StoreError`], or the first error of `emit`.
    pub async fn for_each<E: From<StoreError>>(&self, mut emit: impl FnMut(&[u8]) -> Result<(), E>) -> Result<(), E> {
        let sql = "SELECT body FROM orders WHERE state = 0 ORDER BY seq DESC";
        let rows = self.0.query_raw(sql, std::iter::empty::<i32>()).await.map_err(classify)?;
        let mut rows = std::pin::pin!(rows);
        while let Some(row) = rows.try_next().await.map_err(classify)? {
            emit(row.try_get(0).map_err(classify)?)?;
        }
        Ok(())
    }
}

/// The schema, whether or not a service uses it.
pub struct Maintenance(Client);

impl Maintenance {
    /// Connects without migrating.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn open(config: &Config) -> Result<Self, StoreError> {
        scan::connect(config).await.map(Self)
    }

    /// Applies what is missing, all or nothing; the optional steps only when asked for. Returns the numbers applied.
    ///
    /// # Errors
    /// [`MigrateError`].
    pub async fn up(&mut self, is_with_optional: bool) -> Result<Vec<u32>, MigrateError> {
        if is_with_optional { schema::up_all(&mut self.0).await } else { schema::up(&mut self.0).await }
    }

    /// Takes the newest applied step back, with the data in it. Returns its number, or `None` when there is none.
    ///
    /// # Errors
    /// [`MigrateError`].
    pub async fn down(&mut self) -> Result<Option<u32>, MigrateError> {
        schema::down(&mut self.0).await
    }

    /// Every step with whether it is applied.
    ///
    /// # Errors
    /// [`MigrateError`].
    pub async fn status(&self) -> Result<Vec<(Migration, bool)>, MigrateError> {
        schema::status(&self.0).await
    }
}
