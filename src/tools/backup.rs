//! `backup`: the embedded store as one file that is whole. Runs beside a service that has the same store open.

use std::path::PathBuf;

use anyhow::Error;

use super::progress::Progress;
use crate::store::any::{self, Live};

/// What to copy, and where to.
#[derive(Debug, Clone)]
pub struct Config {
    /// The store.
    pub store: any::Config,
    /// The file, which is replaced once the new one is whole.
    pub path: PathBuf,
}

/// Writes one consistent picture of the store: all that was answered before it began is in it.
///
/// # Errors
/// When the store cannot be read or is damaged, or when the file cannot be written.
pub async fn run(config: &Config) -> anyhow::Result<()> {
    let live = Live::open(&config.store).await?;
    let mut progress = None;
    let mut told = 0;
    let bytes = live.back_up(&config.path, |copied, all| {
        let progress = progress.get_or_insert_with(|| Progress::bytes("backup", Some(all)));
        progress.add(copied - std::mem::replace(&mut told, copied));
    });
    let bytes = bytes.map_err(Error::from_boxed)?;
    if let Some(progress) = progress {
        progress.finish(format!("{bytes} bytes in {}", config.path.display()));
    }
    Ok(())
}
