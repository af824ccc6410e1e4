//! What a source that is no broker rejects: a file of the reasons, and one of the documents as they
//! were.

use std::collections::HashMap;
use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use sha2::{Digest, Sha256};

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

/// The files, which are made with the first rejection. What an earlier import of the same has put there is not put there
/// once more.
pub(super) struct Rejects {
    path: PathBuf,
    raw_path: Option<PathBuf>,
    files: Option<Arc<Files>>,
    /// Lines that were there before, how many of each: those that were not met again yet.
    before: HashMap<[u8; 32], u64>,
}

/// Where a row came in its turn, which is another number when it is read again.
pub(super) const ROW: &str = "row";

/// What a line is known by.
fn digest(line: &serde_json::Value) -> [u8; 32] {
    let mut line = line.clone();
    if let Some(members) = line.as_object_mut() {
        members.shift_remove(ROW);
    }
    Sha256::digest(line.to_string()).into()
}

/// The lines of a file of reasons, counted. What is none of a reason is passed by.
fn lines_of(path: &Path) -> std::io::Result<HashMap<[u8; 32], u64>> {
    let mut lines = HashMap::new();
    let (mut file, mut line) = (BufReader::new(File::open(path)?), Vec::new());
    while file.read_until(b'\n', &mut line)? > 0 {
        if let Ok(line) = serde_json::from_slice(&line) {
            *lines.entry(digest(&line)).or_default() += 1;
        }
        line.clear();
    }
    Ok(lines)
}

/// An error of the system, which does not name the file.
fn unwritten(path: &Path, error: &std::io::Error) -> std::io::Error {
    std::io::Error::new(error.kind(), format!("cannot write {}: {error}", path.display()))
}

struct Files {
    reasons: File,
    raw: Option<File>,
    is_dirty: AtomicBool,
}

impl Rejects {
    pub(super) fn new(path: PathBuf) -> Self {
        let raw_path = raw_of(&path);
        Self { path, raw_path, files: None, before: HashMap::new() }
    }

    pub(super) fn raw_path(&self) -> Option<&Path> {
        self.raw_path.as_deref()
    }

    /// Appends a line with the reasons, and the document, unless both are there from before.
    pub(super) fn write(&mut self, line: &serde_json::Value, document: &mut impl Read) -> std::io::Result<()> {
        let files = if let Some(files) = &self.files {
            files
        } else {
            // Where one of the two was taken away, both are written again.
            if self.raw_path.as_ref().is_some_and(|raw_path| raw_path.exists() && self.path.exists()) {
                self.before = lines_of(&self.path)?;
            }
            let open = |path: &PathBuf| {
                File::options().create(true).append(true).open(path).map_err(|error| unwritten(path, &error))
            };
            let (reasons, raw) = (open(&self.path)?, self.raw_path.as_ref().map(open).transpose()?);
            self.files.insert(Arc::new(Files { reasons, raw, is_dirty: AtomicBool::new(false) }))
        };
        if !self.before.is_empty()
            && let Some(count) = self.before.get_mut(&digest(line)).filter(|count| **count > 0)
        {
            *count -= 1;
            return Ok(());
        }
        if let (Some(mut raw), Some(path)) = (files.raw.as_ref(), &self.raw_path) {
            let copied = std::io::copy(document, &mut raw).and_then(|_| raw.write_all(b"\n"));
            copied.map_err(|error| unwritten(path, &error))?;
        }
        let written = (&files.reasons).write_all(format!("{line}\n").as_bytes());
        written.map_err(|error| unwritten(&self.path, &error))?;
        files.is_dirty.store(true, Ordering::Release);
        Ok(())
    }

    /// Makes what was written durable. Many documents of a batch cost one write to the disk.
    pub(super) fn keep(&self, name: Arc<str>) -> Parked {
        let Some(files) = self.files.clone() else { return Parked::Done(Ok(())) };
        let path = self.path.clone();
        Parked::Pending(Box::pin(async move {
            let synced = tokio::task::spawn_blocking(move || files.sync()).await.map_err(std::io::Error::from);
            synced.flatten().map_err(|error| SourceError { name, cause: unwritten(&path, &error).into() })
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
