//! What a source that is no broker rejects: a file of the reasons, and one of the documents as they
//! were.

use std::fs::File;
use std::io::{Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use super::{Parked, SourceError};

/// The file of the rejected documents as they were, byte for byte, to be mended and imported again.
/// There is none where the reasons go to a device or a pipe.
#[must_use]
pub fn raw_of(rejects: &Path) -> Option<PathBuf> {
    let is_file = rejects.metadata().map_or(true, |known| known.is_file());
    is_file.then(|| beside(rejects, ".raw"))
}

pub(super) fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = path.as_os_str().to_owned();
    name.push(ending);
    name.into()
}

/// The files, which are made with the first rejection.
pub(super) struct Rejects {
    path: PathBuf,
    raw_path: Option<PathBuf>,
    files: Option<Arc<Files>>,
}

struct Files {
    reasons: File,
    raw: Option<File>,
    is_dirty: AtomicBool,
}

impl Rejects {
    pub(super) fn new(path: PathBuf) -> Self {
        let raw_path = raw_of(&path);
        Self { path, raw_path, files: None }
    }

    pub(super) fn raw_path(&self) -> Option<&Path> {
        self.raw_path.as_deref()
    }

    /// Appends a line with the reasons, and the document.
    pub(super) fn write(&mut self, line: &serde_json::Value, document: &mut impl Read) -> std::io::Result<()> {
        let files = if let Some(files) = &self.files {
            files
        } else {
            let open = |path: &PathBuf| File::options().create(true).append(true).open(path);
            let (reasons, raw) = (open(&self.path)?, self.raw_path.as_ref().map(open).transpose()?);
            self.files.insert(Arc::new(Files { reasons, raw, is_dirty: AtomicBool::new(false) }))
        };
        if let Some(mut raw) = files.raw.as_ref() {
            std::io::copy(document, &mut raw)?;
            raw.write_all(b"\n")?;
        }
        (&files.reasons).write_all(format!("{line}\n").as_bytes())?;
        files.is_dirty.store(true, Ordering::Release);
        Ok(())
    }

    /// Makes what was written durable. Many documents of a batch cost one write to the disk.
    pub(super) fn keep(&self, name: Arc<str>) -> Parked {
        let Some(files) = self.files.clone() else { return Parked::Done(Ok(())) };
        Parked::Pending(Box::pin(async move {
            let synced = tokio::task::spawn_blocking(move || files.sync()).await.map_err(std::io::Error::from);
            synced.flatten().map_err(|cause| SourceError { name, cause: cause.into() })
        }))
    }
}

impl Files {
    fn sync(&self) -> std::io::Result<()> {
        // A device or a pipe, beside which there is no other file, cannot be made so.
        match &self.raw {
            Some(raw) if self.is_dirty.swap(false, Ordering::AcqRel) => {
                self.reasons.sync_data()?;
                raw.sync_data()
            }
            _ => Ok(()),
        }
    }
}
