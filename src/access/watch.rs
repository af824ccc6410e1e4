//! Files that are read again when they change or when the process is told to (SIGHUP). A bad new
//! one is reported once, and what was read before stays.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use super::Access;
use super::jwks::{REFRESH_TIME, Source};
use super::keys::Keys;
use crate::process::lifecycle::{Reload, Reloads, Shutdown};

/// How often files are looked at: a key that is taken out ends within a second.
const LOOK_EVERY: Duration = Duration::from_millis(250);
/// How often a URL is tried that has given no keys yet.
const EMPTY_TIME: Duration = Duration::from_secs(5);
/// The largest file: some hundred thousand keys.
const FILE_BYTES_MAX: u64 = 64 << 20;

/// What of a file changes when it does.
type Stamp = Option<(u64, u64, i64, i64)>;

fn stamp(path: &Path) -> Stamp {
    let data = std::fs::metadata(path).ok()?;
    Some((data.ino(), data.size(), data.mtime(), data.mtime_nsec()))
}

pub(super) fn read(path: &Path) -> Result<Vec<u8>, String> {
    let wrong = |error: std::io::Error| format!("{}: {error}", path.display());
    if std::fs::metadata(path).map_err(wrong)?.len() > FILE_BYTES_MAX {
        return Err(format!("{}: is larger than {FILE_BYTES_MAX} bytes", path.display()));
    }
    std::fs::read(path).map_err(wrong)
}

pub(super) fn read_keys(path: &Path) -> Result<Keys, String> {
    let text = String::from_utf8(read(path)?).map_err(|_| format!("{}: is not UTF-8", path.display()))?;
    Keys::parse(&text).map_err(|error| format!("{}: {error}", path.display()))
}

/// A file that is read again.
struct Watched {
    path: PathBuf,
    seen: Stamp,
}

impl Watched {
    fn new(path: &Path) -> Self {
        // What was read at the start may be older than what is there by now.
        Self { path: path.to_owned(), seen: None }
    }

    fn has_changed(&mut self) -> bool {
        let now = stamp(&self.path);
        std::mem::replace(&mut self.seen, now) != now
    }
}

impl Access {
    /// Reads again what changes, until `shutdown`. `reload` has everything read again. Returns at
    /// once where nothing is read.
    pub async fn watch(self: Arc<Self>, reload: Reload, mut shutdown: Shutdown) {
        if !self.is_authenticating() && self.audit.is_none() {
            return;
        }
        tokio::select! {
            () = shutdown.wait() => {}
            // A server that does not answer keeps no file from being looked at.
            ((), ()) = async { tokio::join!(self.watch_files(reload.follow()), self.watch_url(reload.follow())) } => {}
        }
    }

    async fn watch_files(&self, mut reload: Reloads) {
        let mut keys = self.keys.as_ref().map(|(path, _)| Watched::new(path));
        let mut tokens = self.tokens.as_ref().and_then(|(keys, _)| match keys.source() {
            Source::File(path) => Some(Watched::new(path)),
            Source::Url(_) => None,
        });
        let mut every = tokio::time::interval(LOOK_EVERY);
        every.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let mut is_told = false;
        loop {
            if let Some(file) = &mut keys
                && (file.has_changed() || is_told)
            {
                self.read_keys_again().await;
            }
            if let Some(file) = &mut tokens
                && (file.has_changed() || is_told)
            {
                self.read_tokens_again(&file.path).await;
            }
            is_told = tokio::select! {
                () = reload.asked() => true,
                _ = every.tick() => false,
            };
            if let (true, Some(audit)) = (is_told, &self.audit) {
                audit.reopen();
            }
        }
    }

    async fn watch_url(&self, mut reload: Reloads) {
        let Some((keys, _)) = &self.tokens else { return std::future::pending().await };
        loop {
            match keys.fetch(Duration::ZERO).await {
                Ok(true) => self.changed(),
                Ok(false) => {}
                Err(error) => tracing::warn!(%error, "token keys cannot be fetched; those known are kept"),
            }
            let pause = if keys.current().count() == 0 { EMPTY_TIME } else { REFRESH_TIME };
            tokio::select! {
                () = reload.asked() => {}
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    async fn read_keys_again(&self) {
        let Some((path, current)) = &self.keys else { return };
        let from = path.clone();
        let read = tokio::task::spawn_blocking(move || read_keys(&from)).await;
        match read.unwrap_or_else(|_| Err("the reader panicked".into())) {
            Ok(keys) if keys.is_same(&current.load()) => {}
            Ok(keys) => {
                tracing::info!(keys = keys.count(), "key file read again");
                current.store(keys.into());
                self.changed();
            }
            Err(error) => tracing::error!(error, "the key file cannot be used; the keys read before stay"),
        }
    }

    async fn read_tokens_again(&self, path: &Path) {
        let Some((keys, _)) = &self.tokens else { return };
        let from = path.to_owned();
        let text = tokio::task::spawn_blocking(move || read(&from)).await;
        let text = text.unwrap_or_else(|_| Err("the reader panicked".into()));
        match text.and_then(|text| keys.take(&text).map_err(|error| format!("{}: {error}", path.display()))) {
            Ok(true) => self.changed(),
            Ok(false) => {}
            Err(error) => tracing::error!(error, "the token keys cannot be used; those read before stay"),
        }
    }
}
