//! `migrate`: the store's schema, forward, back, and where it stands.

use anyhow::{Context, bail};

use crate::store::embedded::{self, Maintenance};

/// What to do.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Direction {
    /// Apply what is missing.
    Up,
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
pub fn run(store: &embedded::Config, direction: Direction) -> anyhow::Result<()> {
    if let Direction::Down { is_confirmed: false } = direction {
        bail!("a step back deletes the orders in it; say --yes to do so");
    }
    let mut store = Maintenance::open(store)?;
    match direction {
        Direction::Up => match store.up().context("not migrated")?.as_slice() {
            [] => println!("nothing to do"),
            applied => println!("applied {applied:?}"),
        },
        Direction::Down { .. } => match store.down().context("not migrated")? {
            None => println!("nothing to take back"),
            Some(number) => println!("took back [{number}]"),
        },
        Direction::Status => {
            for (migration, is_applied) in store.status()? {
                let word = if is_applied { "applied" } else { "pending" };
                println!("{:04} {:<12} {word}", migration.number, migration.name);
            }
        }
    }
    Ok(())
}
