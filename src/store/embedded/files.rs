//! The files of the store on the disk: whether they can be used, before SQLite opens them, and
//! whether the names still lead to what it has open. Knows nothing of what is in them.

use std::fs::{File, Metadata, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use rustix::fs::{Access, access};

use super::{Config, OpenError};

/// A file of the store was taken away from under it: what is written now would not be found by the
/// next start.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{} {} while the store is open", path.display(), harm.words())]
pub struct LostFile {
    /// The name that the file had.
    pub path: PathBuf,
    /// What happened to it.
    pub harm: Harm,
}

/// What happened to an open file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Harm {
    /// Nothing has its name, or the directory has another name.
    Removed,
    /// Another file has its name.
    Replaced,
    /// It is shorter than it was, which SQLite never makes it.
    Truncated,
}

impl Harm {
    /// Every kind there is.
    pub const ALL: [Self; 3] = [Self::Removed, Self::Replaced, Self::Truncated];

    /// The stable word for metrics.
    #[must_use]
    pub fn code(self) -> &'static str {
        match self {
            Self::Removed => "removed",
            Self::Replaced => "replaced",
            Self::Truncated => "truncated",
        }
    }

    fn words(self) -> &'static str {
        match self {
            Self::Removed => "was removed or moved away",
            Self::Replaced => "was replaced by another file",
            Self::Truncated => "was truncated",
        }
    }
}

impl Config {
    /// The database.
    pub(super) fn file(&self) -> PathBuf {
        self.dir.join("orders.db")
    }

    /// Every name that the store gives to files in its directory: the database, its log, the index
    /// of that, the lock.
    pub(super) fn names(&self) -> [PathBuf; 4] {
        let [file, log, index] = database(&self.file());
        [file, log, index, self.lock()]
    }

    /// Held by the process that writes.
    fn lock(&self) -> PathBuf {
        self.dir.join("lock")
    }
}

/// The database, its log and the index of the log.
fn database(file: &Path) -> [PathBuf; 3] {
    ["", "-wal", "-shm"].map(|suffix| {
        let mut name = file.as_os_str().to_owned();
        name.push(suffix);
        name.into()
    })
}

/// The files that SQLite has open, as they were when it opened them.
pub(super) struct OpenFiles {
    files: Vec<(PathBuf, Identity)>,
    /// The most bytes that the database was seen to have, or more than any has once it had fewer.
    bytes: AtomicU64,
}

#[derive(Clone, Copy, PartialEq, Eq)]
struct Identity {
    device: u64,
    inode: u64,
}

impl Identity {
    fn of(metadata: &Metadata) -> Self {
        Self { device: metadata.dev(), inode: metadata.ino() }
    }
}

impl OpenFiles {
    /// To be called once all of them are there: after the first commit.
    pub(super) fn new(file: &Path) -> io::Result<Self> {
        let mut files = Vec::new();
        for path in database(file) {
            let identity = Identity::of(&std::fs::metadata(&path)?);
            files.push((path, identity));
        }
        Ok(Self { files, bytes: AtomicU64::new(0) })
    }

    /// Whether each name still leads to the file that is open. Asks the system three times, which
    /// takes microseconds.
    ///
    /// # Errors
    /// The first file of which that is not so.
    pub(super) fn check(&self) -> Result<(), LostFile> {
        for (index, (path, identity)) in self.files.iter().enumerate() {
            let lost = |harm| Err(LostFile { path: path.clone(), harm });
            match std::fs::metadata(path) {
                Ok(found) if Identity::of(&found) != *identity => return lost(Harm::Replaced),
                // The log becomes shorter whenever it is folded into the database, which itself
                // never does.
                Ok(found) if index == 0 && self.bytes.fetch_max(found.len(), Ordering::Relaxed) > found.len() => {
                    // For good: it may become as long again, with holes.
                    self.bytes.store(u64::MAX, Ordering::Relaxed);
                    return lost(Harm::Truncated);
                }
                Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                    return lost(Harm::Removed);
                }
                // What cannot be looked at most likely is only out of sight.
                Ok(_) | Err(_) => {}
            }
        }
        Ok(())
    }
}

/// Takes the directory for this process, making it where it is missing.
pub(super) fn lock_dir(config: &Config) -> Result<File, OpenError> {
    let dir = &config.dir;
    let io = |path: &Path| {
        let path = path.to_owned();
        move |source| OpenError::Io { path, source }
    };
    if dir.exists() && !dir.is_dir() {
        return Err(io(dir)(io::ErrorKind::NotADirectory.into()));
    }
    std::fs::create_dir_all(dir).map_err(io(dir))?;
    let path = config.lock();
    let file = File::options().create(true).truncate(false).write(true).open(&path).map_err(io(&path))?;
    match file.try_lock() {
        Ok(()) => Ok(file),
        Err(TryLockError::WouldBlock) => Err(OpenError::Locked { dir: dir.to_owned() }),
        Err(TryLockError::Error(source)) => Err(io(&path)(source)),
    }
}

/// Finds what SQLite would name less clearly: whether the database can be written, as far as it is
/// there.
pub(super) fn check_writable(config: &Config) -> Result<(), OpenError> {
    check_access(&config.dir, Access::WRITE_OK | Access::EXEC_OK)?;
    for path in database(&config.file()) {
        if path.is_dir() {
            return Err(OpenError::Io { path, source: io::ErrorKind::IsADirectory.into() });
        }
        if path.exists() {
            check_access(&path, Access::READ_OK | Access::WRITE_OK)?;
        }
    }
    check_content(config)
}

/// Notes in the lock that there is a store, so that an empty file is known to be none of a first
/// start that was cut short.
pub(super) fn note_made(config: &Config, mut lock: &File) -> Result<(), OpenError> {
    let written = match lock.metadata() {
        Ok(found) if found.len() == 0 => lock.write_all(b"orders.db was made\n"),
        Ok(_) => Ok(()),
        Err(error) => Err(error),
    };
    written.map_err(|source| OpenError::Io { path: config.lock(), source })
}

/// What SQLite would take for something else: an empty file for a new database, which drops the log
/// beside it, and the log of another file for that of this one.
fn check_content(config: &Config) -> Result<(), OpenError> {
    let file = &config.file();
    let is_empty = |path: &Path| std::fs::metadata(path).is_ok_and(|found| found.len() == 0);
    if is_empty(file) && !is_empty(&config.lock()) {
        let source = io::Error::new(
            io::ErrorKind::InvalidData,
            "the file is empty; put back a backup, or remove the file to start without orders",
        );
        return Err(OpenError::Io { path: file.to_owned(), source });
    }
    check_log(file)
}

/// Where a file says how it is written and read: 2 for a database with a log beside it, 1 for one
/// without.
const FORMAT_OFFSET: u64 = 18;

/// Whether the log that a crash left belongs to the database. SQLite takes it for granted and would
/// put pages of one into the other. A backup is a database without a log, and the file of a store
/// becomes one with a log before it has any.
fn check_log(file: &Path) -> Result<(), OpenError> {
    let [_, log, _] = database(file);
    if !std::fs::metadata(&log).is_ok_and(|found| found.len() > 0) {
        return Ok(());
    }
    let mut format = [0; 2];
    let read = File::open(file).and_then(|file| file.read_exact_at(&mut format, FORMAT_OFFSET));
    if read.is_err() || format != [1, 1] {
        return Ok(()); // SQLite says what else is wrong with it
    }
    let source = io::Error::new(
        io::ErrorKind::InvalidData,
        "it is the log of another file than the orders.db beside it; remove it to start with that one",
    );
    Err(OpenError::Io { path: log, source })
}

/// The same for a database that is only read, and must be there.
pub(super) fn check_readable(config: &Config) -> Result<(), OpenError> {
    let path = config.file();
    let found = std::fs::metadata(&path).map_err(|source| OpenError::Io { path: path.clone(), source })?;
    if found.is_dir() {
        return Err(OpenError::Io { path, source: io::ErrorKind::IsADirectory.into() });
    }
    check_access(&path, Access::READ_OK)?;
    check_content(config)
}

fn check_access(path: &Path, wanted: Access) -> Result<(), OpenError> {
    access(path, wanted).map_err(|errno| OpenError::Io { path: path.to_owned(), source: errno.into() })
}

/// Free bytes below which a disk counts as full: less than SQLite needs to open a database.
const FREE_BYTES_MIN: u64 = 256 << 10;

/// Whether an error without a cause is most likely that the disk is full.
pub(super) fn is_disk_full(path: &Path) -> bool {
    let dir = path.parent().unwrap_or(path);
    rustix::fs::statvfs(dir).is_ok_and(|disk| disk.f_bavail.saturating_mul(disk.f_frsize) < FREE_BYTES_MIN)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The three files, and what has them open.
    fn opened(dir: &Path) -> (PathBuf, OpenFiles) {
        let file = dir.join("orders.db");
        for path in database(&file) {
            std::fs::write(path, "content").unwrap();
        }
        let files = OpenFiles::new(&file).unwrap();
        files.check().unwrap();
        (file, files)
    }

    #[test]
    fn each_harm_to_each_file_is_told() {
        for index in 0..3 {
            let dir = tempfile::tempdir().unwrap();
            let (file, files) = opened(dir.path());
            let path = &database(&file)[index];
            let lost = |harm| Err(LostFile { path: path.clone(), harm });
            let aside = dir.path().join("aside");
            std::fs::rename(path, &aside).unwrap();
            assert_eq!(files.check(), lost(Harm::Removed));
            std::fs::copy(&aside, path).unwrap();
            assert_eq!(files.check(), lost(Harm::Replaced));
            std::fs::rename(&aside, path).unwrap();
            assert_eq!(files.check(), Ok(()), "put back, it is as before");
            std::fs::write(path, "less").unwrap();
            let expected = if index == 0 { lost(Harm::Truncated) } else { Ok(()) };
            assert_eq!(files.check(), expected);
            std::fs::write(path, "as much as before").unwrap();
            assert_eq!(files.check(), expected);
        }
    }

    #[test]
    fn a_directory_that_is_gone_or_a_file_is_told_too() {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path().join("data");
        std::fs::create_dir(&data).unwrap();
        let (path, files) = opened(&data);
        std::fs::rename(&data, dir.path().join("moved")).unwrap();
        assert_eq!(files.check(), Err(LostFile { path: path.clone(), harm: Harm::Removed }));
        std::fs::write(&data, "").unwrap();
        assert_eq!(files.check(), Err(LostFile { path, harm: Harm::Removed }));
    }
}
