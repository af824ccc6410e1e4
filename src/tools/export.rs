//! `export`: every live order as a line, newest first. Runs beside a service that has the same store open.

use std::io::Write;
use std::path::PathBuf;

use anyhow::Context;

use super::progress::Progress;
use crate::store::any::{self, Live};

/// What to export, and where to.
#[derive(Debug, Clone)]
pub struct Config {
    /// The store.
    pub store: any::Config,
    /// The file; standard output when `None`.
    pub output: Option<PathBuf>,
}

/// Writes one consistent picture of the store. Returns the number of orders.
///
/// # Errors
/// When the store cannot be read or the output not written.
pub async fn run(config: &Config) -> anyhow::Result<u64> {
    let live = Live::open(&config.store).await?;
    let mut output: Box<dyn Write> = match &config.output {
        None => Box::new(std::io::stdout().lock()),
        Some(path) => {
            Box::new(std::fs::File::create(path).with_context(|| format!("cannot write {}", path.display()))?)
        }
    };
    let progress = Progress::new("export", Some(live.count().await.map_err(anyhow::Error::from_boxed)?));
    let (mut orders, mut told) = (0_u64, 0_u64);
    let mut lines = Vec::with_capacity(BLOCK_BYTES * 2);
    live.for_each(|body| {
        lines.extend_from_slice(body);
        lines.push(b'\n');
        orders += 1;
        if lines.len() >= BLOCK_BYTES {
            output.write_all(&lines)?;
            lines.clear();
            progress.add(orders - std::mem::replace(&mut told, orders));
        }
        Ok(())
    })
    .await
    .map_err(anyhow::Error::from_boxed)?;
    output.write_all(&lines)?;
    output.flush()?;
    progress.add(orders - told);
    progress.finish(format!("{orders} orders"));
    Ok(orders)
}

const BLOCK_BYTES: usize = 256 << 10;
