//! `import`: a file of orders into the store, through the same path every other order takes.

use std::path::PathBuf;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};

use super::output;
use super::progress::Progress;
use crate::ingest::{self, Ingest, IngestError, IngestMetrics, Ledger};
use crate::metrics::Metrics;
use crate::process::lifecycle::Shutdown;
use crate::record::Checkpoint;
use crate::source::SourceError;
use crate::source::compared::Differences;
use crate::source::file::{self, FileSource};
use crate::source::rejects;
use crate::store::any::{self, AnyStore};
use crate::store::{Batch, Move, Store, StoreError};
use crate::sync::lock;

/// What to import, and into what.
#[derive(Debug, Clone)]
pub struct Config {
    /// The file of one order a line, also those of `export --full`; `-` is standard input.
    pub path: PathBuf,
    /// Where lines that are no orders go, with the reasons; beside it, with `.raw` at its end, the
    /// lines as they were.
    pub rejects: PathBuf,
    /// The store.
    pub store: any::Config,
    /// Validation and batches.
    pub ingest: ingest::Config,
}

/// Imports until the file ends or `shutdown` comes. An import that was interrupted, even by `kill -9`, goes on where
/// it stopped; one that was finished starts again.
///
/// # Errors
/// When the file or the store cannot be used, or when a line was rejected.
pub async fn run(config: Config, shutdown: Shutdown) -> anyhow::Result<()> {
    if config.path.is_dir() {
        bail!("cannot read {}: it is a directory", config.path.display());
    }
    let name = file::name_of(&config.path).with_context(|| format!("cannot read {}", config.path.display()))?;
    let store = AnyStore::open(&config.store.clone().patient())?;
    let imported = import(&config, name, &store, shutdown).await;
    stay(&store).await;
    // Also after an error: what is stored is left as one file.
    let closed = store.close().await;
    imported?;
    Ok(closed?)
}

async fn import(config: &Config, name: Arc<str>, store: &AnyStore, shutdown: Shutdown) -> anyhow::Result<()> {
    let from = store.positions(Arc::clone(&name)).await?.next(0);
    let is_file = !file::is_stream(&config.path)?;
    let raw = rejects::raw_of(&config.rejects);
    for path in [Some(&config.rejects), raw.as_ref()].into_iter().flatten().filter(|_| is_file) {
        if path.canonicalize().is_ok_and(|path| config.path.canonicalize().is_ok_and(|input| input == path)) {
            bail!("{} is what is imported: rejected lines cannot go there; see --rejects", path.display());
        }
    }
    let len = if is_file { Some(std::fs::metadata(&config.path)?.len()) } else { None };
    if from > 0 {
        let path = config.path.display();
        output::note(format_args!("going on at byte {from} of {path}, where the last import stopped"));
    }
    let progress = Arc::new(Progress::bytes("import", len));
    progress.add(from);
    let told = Arc::clone(&progress);
    let mut last = file::Progress { bytes: from, ..file::Progress::default() };
    let differences = Arc::new(Mutex::new(Differences::default()));
    let latest = Arc::clone(&differences);
    let refused = Arc::new(AtomicU64::new(0));
    let kept = Arc::clone(&refused);
    let source = FileSource::open(
        file::Config {
            path: config.path.clone(),
            rejects: config.rejects.clone(),
            line_bytes_max: config.ingest.order_bytes_max,
        },
        Arc::clone(&name),
        from,
        move |now| {
            told.add(now.bytes.saturating_sub(last.bytes));
            told.note(format!("{} orders", now.stored + now.unchanged + now.refused));
            *lock(&latest) = now.differences;
            kept.store(now.kept, Ordering::Relaxed);
            last = now;
        },
    )?;
    // A service waits until it is given them; a command has someone who can give them.
    if let Some(missing) = store.missing_rights().await? {
        bail!("the role lacks rights in the database: {missing}");
    }
    let metrics = IngestMetrics::register(&Metrics::default());
    let ingest = Ingest::new(source, store.clone(), None, &config.ingest, metrics).await?;
    let ledger = ingest.run(shutdown.clone()).await.map_err(unnamed)?;
    progress.finish(summary(&ledger));
    for line in lock(&differences).lines() {
        output::note(line);
    }
    if shutdown.is_fired() {
        bail!("interrupted; the same command goes on from here");
    }
    if is_file {
        forget_at_end(store, name).await?;
    }
    let refused = refused.load(Ordering::Relaxed);
    let count = ledger.rejected + refused;
    if count > 0 {
        let rejects = config.rejects.display();
        let what = if refused > 0 { "no valid orders, or are refused by the store" } else { "no valid orders" };
        match raw {
            None => bail!("{count} lines are {what}; they are in {rejects} with the reasons"),
            Some(raw) => {
                bail!("{count} lines are {what}; they are in {}, the reasons in {rejects}", raw.display())
            }
        }
    }
    Ok(())
}

/// An error without the name under which positions are stored, which says nothing to people.
pub(super) fn unnamed(error: IngestError) -> anyhow::Error {
    match error {
        IngestError::Source(SourceError { cause, .. }) => anyhow::Error::from_boxed(cause),
        IngestError::Store { .. } => error.into(),
    }
}

pub(super) fn summary(ledger: &Ledger) -> String {
    let Ledger { read, stored, unchanged, refused, rejected, coalesced: _ } = ledger;
    format!("{read} read: {stored} stored, {unchanged} unchanged, {refused} refused, {rejected} rejected")
}

/// How long a command stays after its last write where instances may serve the same store. They look
/// for changes of others several times a second, and only while they find others there.
const STAY: Duration = Duration::from_secs(3);

/// Lets instances that serve the same store find out that something was written.
pub(super) async fn stay(store: &AnyStore) {
    if store.is_shareable() {
        tokio::time::sleep(STAY).await;
    }
}

/// How long the end of an import waits for a store that went away.
const END_WAIT: Duration = Duration::from_secs(30);
const END_PAUSE: Duration = Duration::from_millis(200);

/// As [`forget_position`], for an import whose every order is durable: what is left to do is none of it, so a store that
/// goes away meanwhile is no failure.
pub(super) async fn forget_at_end(store: &AnyStore, source: Arc<str>) -> anyhow::Result<()> {
    let since = Instant::now();
    loop {
        let error = match forget_position(store, Arc::clone(&source)).await {
            Ok(()) => return Ok(()),
            Err(error) if matches!(error.downcast_ref(), Some(StoreError::Unavailable(_))) => error,
            Err(error) => return Err(error),
        };
        if since.elapsed() > END_WAIT {
            output::note(format_args!(
                "all orders are stored; that the import is finished could not be noted ({error:#}): the same command again \
                 finds nothing left to do, and notes it"
            ));
            return Ok(());
        }
        tokio::time::sleep(END_PAUSE).await;
    }
}

/// A finished import leaves no position behind, so that the same file can be imported again.
pub(super) async fn forget_position(store: &AnyStore, source: Arc<str>) -> anyhow::Result<()> {
    let Checkpoint(positions) = store.positions(Arc::clone(&source)).await?;
    let moves = positions.into_iter().map(|(partition, from)| Move { partition, from, to: 0 }).collect();
    store.commit(Arc::new(Batch { moves, ..Batch::of(source, Vec::new()) })).await?;
    Ok(())
}
