//! A thread, a runtime and a listening socket for each core: no connection ever changes its thread.

use std::sync::Arc;

use anyhow::Context;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};

use crate::http::Server;
use crate::listen::Bound;
use crate::process::lifecycle::Shutdown;

/// The cores this process may run on, as many as wanted; one after the other again where more are wanted than there are.
pub fn of_this_process(wanted: Option<usize>) -> Vec<usize> {
    let allowed = sched_getaffinity(None).unwrap_or_else(|_| CpuSet::new());
    let mut cores: Vec<usize> = (0..CpuSet::MAX_CPU).filter(|&core| allowed.is_set(core)).collect();
    if cores.is_empty() {
        cores.push(0);
    }
    let wanted = wanted.unwrap_or(cores.len());
    cores.into_iter().cycle().take(wanted).collect()
}

/// Starts a thread for each core with its listeners. The returned future ends when all threads have.
///
/// # Errors
/// The system gives no thread or no runtime.
pub fn serve(
    server: &Arc<Server>,
    cores: &[usize],
    listeners: Vec<Vec<Bound>>,
    shutdown: &Shutdown,
) -> anyhow::Result<impl Future<Output = anyhow::Result<()>> + use<>> {
    let mut ends = Vec::new();
    for (&core, listeners) in cores.iter().zip(listeners) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (server, shutdown) = (Arc::clone(server), shutdown.clone());
        let (ended, end) = tokio::sync::oneshot::channel();
        std::thread::Builder::new().name(format!("read-{core}")).spawn(move || {
            let mut only = CpuSet::new();
            only.set(core);
            if let Err(error) = sched_setaffinity(None, &only) {
                tracing::warn!(core, %error, "a thread cannot be kept on its core");
            }
            let result = runtime.block_on(server.serve(listeners, shutdown));
            // What is left is idle or over its time.
            runtime.shutdown_background();
            let _ = ended.send(result);
        })?;
        ends.push(end);
    }
    Ok(async move {
        for end in ends {
            end.await.context("a thread that serves HTTP panicked")??;
        }
        Ok(())
    })
}
