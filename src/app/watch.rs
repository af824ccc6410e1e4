//! The gates of readiness for the files of the store and the rights in it.

use std::time::Duration;

use crate::process::lifecycle::{Gate, Readiness, Shutdown};
use crate::process::log;
use crate::store::any::AnyStore;

/// How often is looked whether the files of the store are still there. Writes find it out by themselves.
const FILES_EVERY: Duration = Duration::from_millis(250);

/// Says on `/readyz` when the files of the store were taken away.
pub(super) fn watch_files(readiness: &Readiness, store: &AnyStore, mut shutdown: Shutdown) {
    let Some(store) = store.embedded().cloned() else { return };
    let gate = readiness.gate("store", "not looked at");
    gate.open();
    tokio::spawn(async move {
        loop {
            match store.check() {
                Ok(()) => gate.open(),
                Err(lost) => gate.close(&format!("{lost}; orders are read from memory, and none is stored")),
            }
            tokio::select! {
                () = shutdown.wait() => return,
                () = tokio::time::sleep(FILES_EVERY) => {}
            }
        }
    });
}

/// How often the rights in the database are looked at, and how many looks a line in the log stands for.
const RIGHTS_EVERY: Duration = Duration::from_secs(2);
const RIGHTS_LOGGED_LOOKS: u32 = 30;

/// Says which rights in the database are missing, for as long as they are: writes wait for them.
pub(super) async fn watch_rights(store: AnyStore, gate: Gate, mut shutdown: Shutdown) {
    let mut looks = 0_u32;
    loop {
        match store.missing_rights().await {
            Ok(None) => {
                gate.open();
                looks = 0;
            }
            Ok(Some(missing)) => {
                gate.close(&format!("the role lacks rights in the database: {missing}"));
                if looks.is_multiple_of(RIGHTS_LOGGED_LOOKS) {
                    tracing::warn!(missing, "the role lacks rights in the database; writes wait for them");
                }
                looks = looks.wrapping_add(1);
            }
            Err(error) => tracing::debug!(error = %log::causes(&error), "cannot look for missing rights"),
        }
        tokio::select! {
            () = shutdown.wait() => return,
            () = tokio::time::sleep(RIGHTS_EVERY) => {}
        }
    }
}
