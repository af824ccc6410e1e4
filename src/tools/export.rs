//! `export`: every live order as a line, newest first; or all there is of every order, oldest first. Runs beside a service
//! that has the same store open. A file gets its name once it is whole.

use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};

use anyhow::Context;

use super::output;
use super::progress::Progress;
use crate::source::full;
use crate::store::any::{self, Live};

/// What to export, and where to.
#[derive(Debug, Clone)]
pub struct Config {
    /// The store.
    pub store: any::Config,
    /// The file; standard output when `None`.
    pub output: Option<PathBuf>,
    /// Deleted orders too, and what no body says, oldest first: what `import` makes the same orders of elsewhere.
    pub is_full: bool,
}

/// Writes one consistent picture of the store. Returns the number of orders.
///
/// # Errors
/// When the store cannot be read or the output not written. Says how many orders were written by then, and where.
pub async fn run(config: &Config) -> anyhow::Result<u64> {
    let live = Live::open(&config.store).await?;
    let (in_lists, deleted) = live.count().await.map_err(anyhow::Error::from_boxed)?;
    let count = if config.is_full { in_lists + deleted } else { in_lists };
    let progress = Progress::new("export", Some(count));
    let mut output = Output::open(config.output.as_deref())?;
    let written = write(&live, config.is_full, &mut output, &progress).await;
    let written = written.and_then(|()| match output.orders {
        orders if orders == count => output.finish(),
        _ => Err(anyhow::anyhow!("the store gave out fewer orders than it counted")),
    });
    written.with_context(|| format!("ended after {} of {count} orders{}", output.orders, output.remains()))?;
    progress.finish(format!("{count} orders"));
    if !config.is_full {
        output::note(format_args!(
            "left out: {deleted} deleted orders, and what no body says (the order of creation, the times of WB orders); \
             export --full has all of it for an import elsewhere"
        ));
    }
    Ok(count)
}

async fn write(live: &Live, is_full: bool, output: &mut Output, progress: &Progress) -> anyhow::Result<()> {
    let mut lines = Vec::with_capacity(BLOCK_BYTES * 2);
    let mut orders = 0;
    let mut written = |lines: &mut Vec<u8>, orders: &mut u64| -> Result<(), any::AnyError> {
        *orders += 1;
        if lines.len() >= BLOCK_BYTES {
            output.write(lines, std::mem::take(orders), progress)?;
            lines.clear();
        }
        Ok(())
    };
    let read = if is_full {
        live.for_each_full(|order| {
            full::write(&order, &mut lines);
            written(&mut lines, &mut orders)
        })
        .await
    } else {
        live.for_each(|body| {
            lines.extend_from_slice(body);
            lines.push(b'\n');
            written(&mut lines, &mut orders)
        })
        .await
    };
    // An error of the output stays known for one.
    read.map_err(|error| {
        error.downcast::<std::io::Error>().map_or_else(anyhow::Error::from_boxed, |error| (*error).into())
    })?;
    Ok(output.write(&lines, orders, progress)?)
}

const BLOCK_BYTES: usize = 256 << 10;

/// Where the lines go.
struct Output {
    to: Box<dyn Write>,
    /// The file under the name it has until it is whole, and its own.
    names: Option<(PathBuf, PathBuf)>,
    /// Orders written.
    orders: u64,
}

impl Output {
    fn open(path: Option<&Path>) -> anyhow::Result<Self> {
        let create = |path: &Path| File::create(path).with_context(|| format!("cannot write {}", path.display()));
        let (to, names): (Box<dyn Write>, _) = match path {
            None => (Box::new(output::stdout()), None),
            // A pipe or a device has no other name.
            Some(path) if path.metadata().is_ok_and(|known| !known.is_file()) => (Box::new(create(path)?), None),
            Some(path) => {
                // Through a link, to the file that it leads to.
                let whole = path.canonicalize().unwrap_or_else(|_| path.to_owned());
                let mut name =
                    whole.file_name().with_context(|| format!("{} names no file", path.display()))?.to_owned();
                name.push(".part");
                let part = whole.with_file_name(name);
                (Box::new(create(&part)?), Some((part, whole)))
            }
        };
        Ok(Self { to, names, orders: 0 })
    }

    fn write(&mut self, lines: &[u8], orders: u64, progress: &Progress) -> std::io::Result<()> {
        self.to.write_all(lines)?;
        self.orders += orders;
        progress.add(orders);
        Ok(())
    }

    fn finish(&mut self) -> anyhow::Result<()> {
        self.to.flush()?;
        if let Some((part, whole)) = &self.names {
            // Under its own name it is whole, also after the machine was switched off.
            File::open(part)?.sync_all()?;
            std::fs::rename(part, whole)
                .with_context(|| format!("cannot rename {} to {}", part.display(), whole.display()))?;
        }
        Ok(())
    }

    /// Where to find what was written, for one that did not come to its end.
    fn remains(&self) -> String {
        self.names.as_ref().map(|(part, _)| format!(", which are in {}", part.display())).unwrap_or_default()
    }
}
