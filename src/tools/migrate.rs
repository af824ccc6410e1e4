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
    // What it is stays known: a store that is not for this program is a fault of the settings.
    let known = |error: any::AnyError| match error.downcast::<StoreError>() {
        Ok(error) => Error::new(*error),
        Err(error) => Error::from_boxed(error),
    };
    let failed = |error| known(error).context("not migrated");
    let is_up = matches!(direction, Direction::Up { .. });
    let steps =
        if is_up { Vec::new() } else { Maintenance::open_to_read(store).await?.status().await.map_err(known)? };
    let newest = steps.iter().rfind(|step| step.is_applied);
    if newest.is_none() && !is_up {
        let place = store.place();
        output::note(format_args!("there is no store in {place} yet; serve, import or migrate up makes it"));
    }
    let mut out = output::stdout();
    match direction {
        Direction::Up { is_with_optional, views } => {
            let mut store = Maintenance::open(store).await?;
            match store.up(is_with_optional, &views).await.map_err(failed)?.as_slice() {
                [] => writeln!(out, "nothing to do")?,
                applied => writeln!(out, "applied {applied:?}")?,
            }
        }
        Direction::Down { is_confirmed } => match newest {
            Some(step) if !is_confirmed => bail!("{}", unconfirmed(step, &store.place())),
            None => writeln!(out, "nothing to take back")?,
            Some(_) => match Maintenance::open(store).await?.down().await.map_err(failed)? {
                None => writeln!(out, "nothing to take back")?,
                Some(number) => writeln!(out, "took back [{number}]")?,
            },
        },
        Direction::Status => {
            for step in steps {
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

/// What a step back would come to.
fn unconfirmed(step: &any::Step, place: &str) -> String {
    let any::Step { number, name, loses, .. } = step;
    let lost =
        if loses.is_empty() { "no order is lost with it".into() } else { format!("this is lost for good: {loses}") };
    format!(
        "nothing was changed: step {number:04} ({name}) of {place} would be taken back, and {lost}. The same command with \
         --yes does it"
    )
}
