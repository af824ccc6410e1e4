//! A value made of files, made again when they change.
//!
//! A new value takes the place of the old one only if it can be made: files that are being
//! replaced, or are replaced by what is no use, are reported and change nothing. Two files that
//! belong together are seldom replaced at the same moment, so what cannot be used is reported once
//! it was found twice; who asks for a look is told at once.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant};

use sha2::{Digest, Sha256};

use super::Error;
use crate::sync::lock;

/// How often files are looked at, at most.
pub const LOOK_EVERY: Duration = Duration::from_secs(1);

type Make<T> = Box<dyn Fn(&[Vec<u8>]) -> Result<T, Error> + Send + Sync>;
type Contents = [u8; 32];

/// A value made of files.
pub struct Reloading<T> {
    files: Vec<PathBuf>,
    make: Make<T>,
    current: RwLock<Arc<T>>,
    seen: Mutex<Seen>,
}

/// What was found in the files.
struct Seen {
    /// What the value is made of.
    used: Contents,
    /// What could not be used, and whether that was reported.
    unusable: Option<(Result<Contents, Error>, bool)>,
    looked_at: Instant,
}

impl<T> Reloading<T> {
    /// Reads the files, whose bytes `make` is given in this order.
    ///
    /// # Errors
    /// The first of them that cannot be read or used.
    pub fn open(
        files: Vec<PathBuf>,
        make: impl Fn(&[Vec<u8>]) -> Result<T, Error> + Send + Sync + 'static,
    ) -> Result<Self, Error> {
        let bytes = read(&files)?;
        let current = RwLock::new(Arc::new(make(&bytes)?));
        let seen = Mutex::new(Seen { used: digest(&bytes), unusable: None, looked_at: Instant::now() });
        Ok(Self { files, make: Box::new(make), current, seen })
    }

    /// The newest value that could be made.
    pub fn current(&self) -> Arc<T> {
        Arc::clone(&self.current.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// The same after a look at the files, if the last one is [`LOOK_EVERY`] ago. Reads them where
    /// it stands: small files, on the way to a handshake.
    pub fn fresh(&self) -> Arc<T> {
        let is_due = {
            let seen = lock(&self.seen);
            seen.looked_at.elapsed() >= LOOK_EVERY
        };
        if is_due {
            self.look(false);
        }
        self.current()
    }

    /// Looks at the files, and makes the value again if they have changed. `is_asked`: a caller
    /// waits for the result, so it is logged either way. Blocks. Returns whether there is a new
    /// value.
    pub fn look(&self, is_asked: bool) -> bool {
        let mut seen = lock(&self.seen);
        seen.looked_at = Instant::now();
        let names = || self.files.iter().map(|file| file.display().to_string()).collect::<Vec<_>>().join(" ");
        let (found, made) = match read(&self.files) {
            Ok(bytes) => {
                let contents = digest(&bytes);
                if contents == seen.used {
                    seen.unusable = None;
                    if is_asked {
                        tracing::info!(files = names(), "certificates are as they were");
                    }
                    return false;
                }
                if !is_asked && seen.unusable.as_ref().is_some_and(|(found, told)| *told && *found == Ok(contents)) {
                    return false;
                }
                (Ok(contents), (self.make)(&bytes))
            }
            Err(error) => (Err(error.clone()), Err(error)),
        };
        match (found, made) {
            (Ok(contents), Ok(value)) => {
                *self.current.write().unwrap_or_else(PoisonError::into_inner) = Arc::new(value);
                (seen.used, seen.unusable) = (contents, None);
                tracing::info!(files = names(), "certificates read again");
                true
            }
            (found, Err(error)) => {
                let before = seen.unusable.take().filter(|(before, _)| *before == found);
                let (is_second, was_told) = (before.is_some(), before.is_some_and(|(_, told)| told));
                let is_told = is_asked || (is_second && !was_told);
                if is_told {
                    tracing::warn!(%error, "new certificates cannot be used, those from before stay");
                }
                seen.unusable = Some((found, is_told || was_told));
                false
            }
            (Err(_), Ok(_)) => false, // what was not read was not made
        }
    }
}

fn read(files: &[PathBuf]) -> Result<Vec<Vec<u8>>, Error> {
    files.iter().map(|file| read_one(file)).collect()
}

/// The largest file that is read: bundles of all public authorities have 250 KB.
const FILE_BYTES_MAX: u64 = 4 << 20;

fn read_one(file: &Path) -> Result<Vec<u8>, Error> {
    let failed = |error: std::io::Error| Error::new(file, format!("cannot be read: {error}"));
    let size = std::fs::metadata(file).map_err(failed)?;
    if !size.is_file() || size.len() > FILE_BYTES_MAX {
        return Err(Error::new(file, format!("is no file of at most {FILE_BYTES_MAX} bytes")));
    }
    std::fs::read(file).map_err(failed)
}

/// Keys are compared by it, and not kept.
fn digest(files: &[Vec<u8>]) -> Contents {
    let mut digest = Sha256::new();
    for bytes in files {
        digest.update((bytes.len() as u64).to_be_bytes());
        digest.update(bytes);
    }
    digest.finalize().into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_made_again_when_its_files_change_and_stays_when_they_are_no_use() {
        let home = tempfile::tempdir().unwrap();
        let files: Vec<PathBuf> = ["a", "b"].iter().map(|name| home.path().join(name)).collect();
        let missing = Reloading::open(files.clone(), |_| Ok(()));
        let error = missing.err().expect("no files").to_string();
        assert!(error.contains("/a: cannot be read"), "{error}");
        for file in &files {
            std::fs::write(file, "1").unwrap();
        }
        let bad = files[0].clone();
        let value = Reloading::open(files.clone(), move |bytes| match bytes {
            [a, b] if a == b => Ok(String::from_utf8_lossy(a).into_owned()),
            _ => Err(Error::new(&bad, "another")),
        });
        let value = value.unwrap();
        assert_eq!((value.look(false), value.current().as_str()), (false, "1"));
        // One of two that belong together comes first.
        std::fs::write(&files[0], "2").unwrap();
        assert_eq!((value.look(false), value.current().as_str()), (false, "1"));
        assert!(matches!(value.seen.lock().unwrap().unusable, Some((_, false))), "it may be on its way");
        value.look(false);
        assert!(matches!(value.seen.lock().unwrap().unusable, Some((_, true))), "found twice");
        std::fs::write(&files[1], "2").unwrap();
        assert_eq!((value.look(false), value.current().as_str()), (true, "2"));
        std::fs::remove_file(&files[0]).unwrap();
        assert_eq!((value.look(true), value.current().as_str()), (false, "2"));
        std::fs::write(&files[0], "2").unwrap();
        assert!(!value.look(false), "as it was");
    }
}
