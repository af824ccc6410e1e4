//! `import --from-postgres`: the orders of an older service's database into the store, as they were
//! there.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use anyhow::bail;

use super::import::{forget_at_end, forget_position, stay, summary, unnamed};
use super::output;
use super::progress::Progress;
use crate::ingest::{self, Ingest, IngestMetrics};
use crate::metrics::Metrics;
use crate::order::{Decoder, Profile};
use crate::process::lifecycle::Shutdown;
use crate::record::Record;
use crate::source::older::{self, Older};
use crate::sync::lock;

use crate::source::compared::Differences;
pub use crate::source::older::{Config as Source, OlderError, Zone};
use crate::source::rejects;
use crate::source::{Received, Source as _};
use crate::store::Store;
use crate::store::any::{self, AnyStore};

/// What to import, and into what.
#[derive(Debug, Clone)]
pub struct Config {
    /// The older database.
    pub older: older::Config,
    /// Where rows that are no orders go, with the reasons; beside it, with `.raw` at its end, the
    /// rows as JSON.
    pub rejects: PathBuf,
    /// Only count and say what would be rejected.
    pub is_dry_run: bool,
    /// The store.
    pub store: any::Config,
    /// Batches and the size of orders. The profile is not taken from here.
    pub ingest: ingest::Config,
}

/// What an order must be to be taken: older layouts never stored all that the usual profile
/// demands.
const PROFILE: Profile = Profile::Lenient;
/// Reasons that a dry run names; of more only the number is said.
const REASONS_MAX: usize = 20;

/// Imports until all is read or `shutdown` comes. An import that was interrupted, even by `kill
/// -9`, goes on where it stopped; one that was finished starts again, and takes what is new.
///
/// # Errors
/// When the database or the store cannot be used, or when a row was rejected.
pub async fn run(config: Config, mut shutdown: Shutdown) -> anyhow::Result<()> {
    // It counts all there is, which takes its time.
    let older = tokio::select! {
        older = Older::open(&config.older) => older?,
        () = shutdown.wait() => bail!("interrupted"),
    };
    output::note(format_args!(
        "{} orders in {}, of the layout {}",
        older.count(),
        older.place(),
        older.layout().as_str()
    ));
    output::note("they are checked by the profile lenient: the layout never stored all that is checked otherwise");
    for note in older.notes() {
        output::note(note);
    }
    if config.is_dry_run {
        return dry_run(&config, older, shutdown).await;
    }
    let store = AnyStore::open(&config.store.clone().patient())?;
    let imported = import(&config, older, &store, shutdown).await;
    stay(&store).await;
    // Also after an error: what is stored is left as one file.
    let closed = store.close().await;
    imported?;
    Ok(closed?)
}

async fn import(config: &Config, older: Older, store: &AnyStore, shutdown: Shutdown) -> anyhow::Result<()> {
    let (name, total) = (older.name(), older.count());
    let stored = store.positions(Arc::clone(&name)).await?.next(0);
    if stored > 0 {
        output::note(format_args!(
            "going on after {stored} orders, where the last import stopped; those before are looked at again at the end"
        ));
    }
    // What was begun elsewhere ends where it began.
    let progress = Arc::new(Progress::new("import", Some(total)));
    let told = Arc::clone(&progress);
    let differences = Arc::new(Mutex::new(Differences::default()));
    let latest = Arc::clone(&differences);
    let mut last = if stored < total { stored } else { 0 };
    if last != stored {
        forget_position(store, Arc::clone(&name)).await?;
    }
    let source = older.read(last, config.rejects.clone(), move |upto, found| {
        *lock(&latest) = found;
        told.add(upto.saturating_sub(last));
        last = upto;
    });
    // A service waits until it is given them; a command has someone who can give them.
    if let Some(missing) = store.missing_rights().await? {
        bail!("the role lacks rights in the database: {missing}");
    }
    let settings = ingest::Config { profile: PROFILE, ..config.ingest.clone() };
    let metrics = IngestMetrics::register(&Metrics::default());
    let ingest = Ingest::new(source, store.clone(), None, &settings, metrics).await?;
    let ledger = ingest.run(shutdown.clone()).await.map_err(unnamed)?;
    progress.finish(summary(&ledger));
    for line in lock(&differences).lines() {
        output::note(line);
    }
    if shutdown.is_fired() {
        bail!("interrupted; the same command goes on from here");
    }
    forget_at_end(store, name).await?;
    if ledger.rejected > 0 {
        let (count, rejects) = (ledger.rejected, config.rejects.display());
        match rejects::raw_of(&config.rejects) {
            None => bail!("{count} rows are no valid orders; they are in {rejects} with the reasons"),
            Some(raw) => {
                bail!("{count} rows are no valid orders; they are in {}, the reasons in {rejects}", raw.display())
            }
        }
    }
    Ok(())
}

/// What a dry run found.
#[derive(Default)]
struct Count {
    valid: u64,
    deleted: u64,
    rejected: u64,
    reasons: BTreeMap<String, u64>,
}

/// Reads and checks all, and stores nothing.
async fn dry_run(config: &Config, older: Older, mut shutdown: Shutdown) -> anyhow::Result<()> {
    let progress = Progress::new("dry run", Some(older.count()));
    let mut source = older.read(0, PathBuf::from("/dev/null"), |_, _| {});
    let mut decoder = Decoder::new(PROFILE, config.ingest.order_bytes_max);
    let (mut count, mut records) = (Count::default(), Vec::new());
    loop {
        let received = tokio::select! {
            received = source.recv(&mut records) => received?,
            () = shutdown.wait() => bail!("interrupted"),
        };
        if received != Received::Records {
            break;
        }
        progress.add(records.len() as u64);
        for record in records.drain(..) {
            count.add(&mut decoder, &record);
        }
    }
    let Count { valid, deleted, rejected, reasons } = &count;
    progress.finish(format!("{valid} valid, {deleted} of them deleted; {rejected} would be rejected; nothing stored"));
    for (reason, count) in reasons.iter().take(REASONS_MAX) {
        output::note(format_args!("{count} x {reason}"));
    }
    if reasons.len() > REASONS_MAX {
        output::note(format_args!("and {} more reasons", reasons.len() - REASONS_MAX));
    }
    Ok(())
}

impl Count {
    fn add(&mut self, decoder: &mut Decoder, record: &Record) {
        let decoded = decoder.decode(record.payload.as_ref().unwrap_or(&bytes::Bytes::new()));
        match decoded.map_or_else(Some, |_| older::fault(record)) {
            None => {
                self.valid += 1;
                self.deleted += u64::from(older::is_deleted(record));
            }
            Some(rejection) => {
                self.rejected += 1;
                *self.reasons.entry(rejection.line()).or_default() += 1;
            }
        }
    }
}
