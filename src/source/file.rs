//! Orders from a file or from standard input, one JSON document a line. An interrupted import goes on where it stopped.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::Bytes;
use sha2::{Digest, Sha256};
use tokio::sync::mpsc;

use super::{Kept, Received, Source, SourceError};
use crate::record::{Checkpoint, Position, Record, Rejection};
use crate::store::Outcome;

/// Bytes read at once.
const BLOCK_BYTES: usize = 1 << 20;
/// Blocks that may wait for the ingest loop.
const BLOCKS_MAX: usize = 4;
/// How much of each end of a file tells it from others.
const FINGERPRINT_BYTES: u64 = 64 << 10;

/// What became of a batch, for a progress bar.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Progress {
    /// Bytes of the file that are dealt with.
    pub bytes: u64,
    /// Orders stored or changed.
    pub stored: u64,
    /// Orders that were stored already.
    pub unchanged: u64,
    /// Valid orders the store would not take.
    pub refused: u64,
    /// Lines that are no valid order.
    pub rejected: u64,
}

/// What is read.
#[derive(Debug, Clone)]
pub struct Config {
    /// The file, or a pipe; `-` is standard input.
    pub path: PathBuf,
    /// Where lines that are no orders go, with the reason, one JSON object each.
    pub rejects: PathBuf,
    /// Longer lines are rejected without being kept in memory.
    pub line_bytes_max: usize,
}

/// Reads lines on a thread of its own.
pub struct FileSource {
    name: Arc<str>,
    is_log: bool,
    blocks: mpsc::Receiver<std::io::Result<Block>>,
    rejects_path: PathBuf,
    rejects: Option<Arc<Rejects>>,
    progress: Progress,
    on_progress: Box<dyn FnMut(Progress) + Send>,
}

/// Whole lines, with the offset after each.
type Block = Vec<(u64, Bytes)>;

/// Whether what a path names is read once, from its start to its end, as standard input or a named pipe: it has no
/// position to go on from.
///
/// # Errors
/// When there is no such file.
pub fn is_stream(path: &Path) -> std::io::Result<bool> {
    Ok(path == Path::new("-") || !std::fs::metadata(path)?.is_file())
}

/// The name under which a file's position is stored: the same for the same content, whatever its path.
///
/// # Errors
/// When the file cannot be read.
pub fn name_of(path: &Path) -> std::io::Result<Arc<str>> {
    if is_stream(path)? {
        return Ok("stdin".into());
    }
    let mut file = File::open(path)?;
    let len = file.metadata()?.len();
    let mut digest = Sha256::new();
    digest.update(len.to_le_bytes());
    let mut ends = Vec::new();
    Read::by_ref(&mut file).take(FINGERPRINT_BYTES).read_to_end(&mut ends)?;
    file.seek(SeekFrom::Start(len.saturating_sub(FINGERPRINT_BYTES)))?;
    file.take(FINGERPRINT_BYTES).read_to_end(&mut ends)?;
    digest.update(&ends);
    let hex: String = digest.finalize().iter().take(16).map(|byte| format!("{byte:02x}")).collect();
    Ok(format!("file:{hex}").into())
}

impl FileSource {
    /// Starts reading at byte `from`. `on_progress` is called after each committed batch.
    ///
    /// # Errors
    /// When the file cannot be opened.
    pub fn open(
        config: Config,
        name: Arc<str>,
        from: u64,
        on_progress: impl FnMut(Progress) + Send + 'static,
    ) -> std::io::Result<Self> {
        let is_log = !is_stream(&config.path)?;
        let input: Box<dyn Read + Send> = if config.path == Path::new("-") {
            Box::new(std::io::stdin())
        } else {
            let mut file = File::open(&config.path)?;
            if is_log {
                file.seek(SeekFrom::Start(from))?;
            }
            Box::new(file)
        };
        let (sender, blocks) = mpsc::channel(BLOCKS_MAX);
        let line_bytes_max = config.line_bytes_max;
        std::thread::Builder::new().name("import-reader".into()).spawn(move || {
            let mut lines = Lines { input, line_bytes_max, offset: from, carry: Vec::new(), is_skipping: false };
            loop {
                let block = lines.block();
                let is_last = !matches!(block, Ok(Some(_)));
                if let Some(block) = block.transpose()
                    && sender.blocking_send(block).is_err()
                {
                    return;
                }
                if is_last {
                    return;
                }
            }
        })?;
        Ok(Self {
            name,
            is_log,
            blocks,
            rejects_path: config.rejects,
            rejects: None,
            progress: Progress { bytes: from, ..Progress::default() },
            on_progress: Box::new(on_progress),
        })
    }

    fn error(&self, cause: std::io::Error) -> SourceError {
        SourceError { name: Arc::clone(&self.name), cause: cause.into() }
    }

    fn write_reject(&mut self, record: &Record, rejection: &Rejection) -> std::io::Result<Arc<Rejects>> {
        let rejects = if let Some(rejects) = &self.rejects {
            rejects
        } else {
            let file = File::options().create(true).append(true).open(&self.rejects_path)?;
            self.rejects.insert(Arc::new(Rejects { file, is_dirty: AtomicBool::new(false) }))
        };
        let value = String::from_utf8_lossy(record.payload.as_deref().unwrap_or_default());
        let line = serde_json::json!({
            "end_offset": record.position.offset + 1,
            "error": rejection.line(),
            "value": value,
        });
        (&rejects.file).write_all(format!("{line}\n").as_bytes())?;
        rejects.is_dirty.store(true, Ordering::Release);
        Ok(Arc::clone(rejects))
    }
}

/// The file of rejected lines.
struct Rejects {
    file: File,
    is_dirty: AtomicBool,
}

impl Rejects {
    /// Makes what was written durable. Many lines of a batch cost one write to the disk.
    fn sync(&self) -> std::io::Result<()> {
        if self.is_dirty.swap(false, Ordering::AcqRel) { self.file.sync_data() } else { Ok(()) }
    }
}

impl Source for FileSource {
    fn name(&self) -> Arc<str> {
        Arc::clone(&self.name)
    }

    fn is_log(&self) -> bool {
        self.is_log
    }

    fn must_exist(&self) -> bool {
        false
    }

    async fn recv(&mut self, into: &mut Vec<Record>) -> Result<Received, SourceError> {
        let Some(block) = self.blocks.recv().await else { return Ok(Received::End) };
        for (end, line) in block.map_err(|cause| self.error(cause))? {
            // The offset of a line is that of its last byte, so the next offset to read starts the next line.
            let position = Position { partition: 0, offset: end - 1 };
            into.push(Record::new(position, line));
        }
        Ok(Received::Records)
    }

    fn commit(&mut self, upto: &Checkpoint, outcomes: Vec<(Position, Outcome)>) {
        for (_, outcome) in outcomes {
            match outcome {
                Outcome::Stored { .. } => self.progress.stored += 1,
                Outcome::Unchanged { .. } | Outcome::Repeated { .. } => self.progress.unchanged += 1,
                Outcome::WasDeleted { .. } | Outcome::Refused { .. } => self.progress.refused += 1,
            }
        }
        self.progress.bytes = upto.next(0);
        (self.on_progress)(self.progress);
    }

    fn reject(&mut self, record: &Record, rejection: &Rejection) -> Kept {
        self.progress.rejected += 1;
        let rejects = match self.write_reject(record, rejection) {
            Ok(rejects) => rejects,
            Err(cause) => return Kept::Now(Err(self.error(cause))),
        };
        let name = Arc::clone(&self.name);
        Kept::Soon(Box::pin(async move {
            let synced = tokio::task::spawn_blocking(move || rejects.sync()).await.map_err(std::io::Error::from);
            synced.flatten().map_err(|cause| SourceError { name, cause: cause.into() })
        }))
    }

    fn stop(&mut self) {
        self.blocks.close();
    }
}

/// Cuts an input into lines, a block at a time, without copying a line that a block holds whole.
struct Lines {
    input: Box<dyn Read + Send>,
    line_bytes_max: usize,
    offset: u64,
    carry: Vec<u8>,
    /// The line at hand is too long: what came of it was handed over, the rest is passed by.
    is_skipping: bool,
}

impl Lines {
    /// The next lines, `None` at the end.
    fn block(&mut self) -> std::io::Result<Option<Block>> {
        let mut buffer = std::mem::take(&mut self.carry);
        let carried = buffer.len();
        buffer.resize(carried + BLOCK_BYTES, 0);
        let read = self.input.read(&mut buffer[carried..])?;
        buffer.truncate(carried + read);
        if read == 0 {
            let is_rest = !buffer.is_empty() && !self.is_skipping;
            self.offset += buffer.len() as u64;
            return Ok(is_rest.then(|| vec![(self.offset, Bytes::from(buffer))]));
        }
        let whole = memchr::memrchr(b'\n', &buffer).map_or(0, |at| at + 1);
        self.carry = buffer.split_off(whole);
        let mut block = self.cut(buffer.into());
        if self.carry.len() > self.line_bytes_max {
            let head = std::mem::take(&mut self.carry);
            self.offset += head.len() as u64;
            if !std::mem::replace(&mut self.is_skipping, true) {
                block.push((self.offset, head.into()));
            }
        }
        Ok(Some(block))
    }

    fn cut(&mut self, whole: Bytes) -> Block {
        let mut block = Vec::new();
        let mut start = 0;
        for end in memchr::memchr_iter(b'\n', &whole) {
            let line = whole.slice(start..end);
            self.offset += (end + 1 - start) as u64;
            start = end + 1;
            let is_rest_of_long = std::mem::take(&mut self.is_skipping);
            if !is_rest_of_long && !line.iter().all(u8::is_ascii_whitespace) {
                block.push((self.offset, line));
            }
        }
        block
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(input: &'static [u8], line_bytes_max: usize) -> Vec<(u64, Vec<u8>)> {
        let mut lines =
            Lines { input: Box::new(input), line_bytes_max, offset: 0, carry: Vec::new(), is_skipping: false };
        let mut all = Vec::new();
        while let Some(block) = lines.block().unwrap() {
            all.extend(block.into_iter().map(|(end, line)| (end, line.to_vec())));
        }
        all
    }

    #[test]
    fn lines_end_where_they_say() {
        assert_eq!(
            lines(b"ab\n\n \r\ncd\nlast", 100),
            [(3, b"ab".to_vec()), (10, b"cd".to_vec()), (14, b"last".to_vec())]
        );
        assert_eq!(lines(b"", 100), []);
    }

    #[test]
    fn a_long_line_is_handed_over_once_and_passed_by() {
        let mut input = vec![b'x'; 3 * BLOCK_BYTES];
        input.extend_from_slice(b"\nok\n");
        let end = input.len() as u64;
        let found = lines(input.leak(), 10);
        assert_eq!(found.len(), 2);
        assert_eq!(found[0].1.len(), BLOCK_BYTES);
        assert_eq!(found[1], (end, b"ok".to_vec()));
    }
}
