//! The service as a whole: what it is made of, in which order it is born and in which order it dies.

mod config;
mod cores;
mod limits;
mod listeners;
pub mod settings;
mod signals;
mod steps;
mod watch;
#[cfg(feature = "kafka")]
mod work;
mod write_path;

use std::time::Duration;

use anyhow::Context;
use tokio::runtime::Handle;

use crate::access;
use crate::order;
use crate::snapshot::{Kind, OwnerTag};
use crate::store::StoreError;
use crate::store::any::AnyStore;
use crate::tls;

pub use config::{Config, Runtime};
use limits::{fit_connections, raise_file_limit};
pub use limits::{no_core_dump, small_pages};
use steps::Bound;
#[cfg(feature = "kafka")]
pub use work::work;

/// Runs the service until it is told to stop. Returns once everything that was taken in is durable and everything
/// that was asked is answered.
///
/// # Errors
/// When it cannot start, when the store gives out, or when the grace period was too short.
pub fn serve(mut config: Config) -> anyhow::Result<()> {
    fit_connections(&mut config, raise_file_limit());
    if config.access.is_authenticating() {
        config.cache.owner_of = Some(owner_of);
    }
    if !config.huge_pages {
        small_pages();
    }
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    runtime.enable_all().thread_name("read");
    match (config.runtime, config.threads) {
        // What is left for it are calls of gRPC and what waits for the store.
        (Runtime::PerCore, _) => runtime.worker_threads(1),
        (Runtime::Shared, Some(threads)) => runtime.worker_threads(threads),
        (Runtime::Shared, None) => &mut runtime,
    };
    let runtime = runtime.build().context("cannot start the runtime")?;
    let mut loads = tokio::runtime::Builder::new_multi_thread();
    let loads = loads.worker_threads(1).thread_name("load").enable_all().build().context("cannot start the runtime")?;
    let result = runtime.block_on(run(config, loads.handle().clone()));
    // What is left is idle or over its time.
    runtime.shutdown_background();
    loads.shutdown_background();
    result
}

/// The steps of its life. `loads` is where reads wait for the store.
async fn run(config: Config, loads: Handle) -> anyhow::Result<()> {
    let opened = Bound::bind(config)?.open().await?;
    let store = opened.store();
    let ended = async { opened.build(loads)?.run()?.drain().await }.await;
    // However it ended: what is stored is left as one file.
    let closed = close(store).await;
    ended.and(closed)
}

/// The longest the end waits for the store: beyond the grace period, which usually is not used up by then.
const CLOSE_TIME: Duration = Duration::from_secs(10);

/// Closes the store, once nothing is written any more.
async fn close(store: AnyStore) -> anyhow::Result<()> {
    match tokio::time::timeout(CLOSE_TIME, store.close()).await {
        Ok(closed) => Ok(closed?),
        Err(_) => anyhow::bail!("the store did not close within {CLOSE_TIME:?}; nothing acknowledged is lost"),
    }
}

/// Whether the files that the settings name can be used: the certificates of listeners.
///
/// # Errors
/// Which cannot.
pub fn check_files(config: &Config) -> Result<(), tls::Error> {
    config.tls.clone().map_or(Ok(()), |files| tls::Server::open(files).map(|_| ()))
}

/// Whether an error says that the store named in the settings is not one for this program, or that
/// a certificate named there cannot be used.
#[must_use]
pub fn is_unfit(error: &anyhow::Error) -> bool {
    let is_unfit = |cause: &(dyn std::error::Error + 'static)| {
        matches!(cause.downcast_ref::<StoreError>(), Some(StoreError::Unfit(_)))
            || cause.is::<tls::Error>()
            || cause.is::<access::SetUpError>()
    };
    error.chain().any(is_unfit)
}

/// Whose an order is, as the view notes it.
fn owner_of(kind: Kind, body: &[u8]) -> Option<OwnerTag> {
    order::owner_of(kind == Kind::Envelope, body).map(|owner| OwnerTag::of(&owner))
}
