//! `migrate`: the store's schema, forward, back, and where it stands.

use std::io::Write;

use anyhow::{Error, bail};

use super::output;
use crate::store::StoreError;
use crate::store::any::{self, Maintenance, Views};

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Direction {
    /// Apply what is missing.
    Up {
        /// The steps that have a price too.
        is_with_optional: bool,
        /// Views for the queries of older services.
        views: Vec<Views>,
    },
    /// Take the newest step back, with the data in it.
    Down {
        /// The operator knows that orders are deleted.
        is_confirmed: bool,
    },
    /// Say which steps are applied.
    Status,
}

/// Migrates, and says on standard output what was done.
///
/// # Errors
/// When the store is in use or a step fails; the schema is then as it was.
pub async fn run(store: &any::Config, direction: Direction) -> anyhow::Result<()> {
    if let Direction::Down { is_confirmed: false } = direction {
        bail!("a step back deletes the orders in it; say --yes to do so");
    }
    // What it is stays known: a store that is not for this program is a fault of the settings.
    let failed = |error: any::AnyError| match error.downcast::<StoreError>() {
        Ok(error) => Error::new(*error).context("not migrated"),
        Err(error) => Error::from_boxed(error).context("not migrated"),
    };
    let mut store = Maintenance::open(store).await?;
    let mut out = output::stdout();
    match direction {
        Direction::Up { is_with_optional, views } => {
            match store.up(is_with_optional, &views).await.map_err(failed)?.as_slice() {
                [] => writeln!(out, "nothing to do")?,
                applied => writeln!(out, "applied {applied:?}")?,
            }
        }
        Direction::Down { .. } => match store.down().await.map_err(failed)? {
            None => writeln!(out, "nothing to take back")?,
            Some(number) => writeln!(out, "took back [{number}]")?,
        },
        Direction::Status => {
            for step in store.status().await.map_err(failed)? {
                let word = match step {
                    any::Step { is_applied: true, .. } => "applied",
                    any::Step { is_optional: true, .. } => "optional",
                    any::Step { .. } => "pending",
                };
                writeln!(out, "{:04} {:<16} {word}", step.number, step.name)?;
            }
        }
    }
    Ok(out.flush()?)
}
