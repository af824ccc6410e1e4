//! Orders from a file or from standard input, one JSON document a line. An interrupted import goes on where it stopped.

use std::collections::BTreeMap;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use bytes::Bytes;
use sha2::{Digest, Sha256};
use tokio::sync::mpsc;

use super::compared::{Compared, Differences};
use super::full::{self, FRAME_BYTES_MAX, Meta};
use super::rejects::{Rejects, beside};
use super::{Parked, Received, Source, SourceError};
use crate::id::Version;
use crate::order::envelope::Status;
use crate::order::{Command, Order, Past, Profile};
use crate::record::{Checkpoint, Fault, Position, Record, Rejection};
use crate::store::{Outcome, Refusal};

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
    /// Those of them that are not deleted here: they are put aside as lines that are no valid order.
    pub kept: u64,
    /// Lines that are no valid order.
    pub rejected: u64,
    /// Orders of `export --full` that were here already and differed.
    pub differences: Differences,
}

/// What is read.
#[derive(Debug, Clone)]
pub struct Config {
    /// The file, or a pipe; `-` is standard input.
    pub path: PathBuf,
    /// Where lines that are no orders go, with the reason, one JSON object each, in which a line is
    /// shown as text. The lines themselves are in [`super::rejects::raw_of`] it.
    pub rejects: PathBuf,
    /// Longer lines are rejected without being kept in memory.
    pub line_bytes_max: usize,
}

/// Reads lines on a thread of its own.
pub struct FileSource {
    name: Arc<str>,
    is_log: bool,
    blocks: mpsc::Receiver<std::io::Result<Block>>,
    rejects: Rejects,
    /// Lines that were too long for memory, by their position, until they are rejected.
    spilled: BTreeMap<u64, File>,
    /// Lines that have an order in them, by their position, until they are dealt with.
    framed: BTreeMap<u64, Framed>,
    /// Lines whose orders are on their way to the store, by their position: one that it refuses is kept as it was.
    sent: BTreeMap<u64, Bytes>,
    compared: Compared,
    progress: Progress,
    on_progress: Box<dyn FnMut(Progress) + Send>,
}

type Block = Vec<Line>;

/// A line that is no order by itself.
struct Framed {
    line: Bytes,
    /// What it says beside its order, or what is wrong with it.
    meta: Result<Option<(Bytes, Meta)>, Rejection>,
}

/// A line.
struct Line {
    /// The offset after it.
    end: u64,
    /// All of it, or how it begins where it is too long.
    bytes: Bytes,
    /// All of it where it is too long.
    spilled: Option<File>,
}

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
        let input = Box::new(Named { input, path: config.path });
        let (sender, blocks) = mpsc::channel(BLOCKS_MAX);
        let line_bytes_max = config.line_bytes_max + FRAME_BYTES_MAX;
        let rejects = Rejects::new(config.rejects);
        let spill_path = rejects.raw_path().map(Path::to_path_buf);
        std::thread::Builder::new().name("import-reader".into()).spawn(move || {
            let mut lines = Lines { input, line_bytes_max, spill_path, offset: from, carry: Vec::new(), long: None };
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
            rejects,
            spilled: BTreeMap::new(),
            framed: BTreeMap::new(),
            sent: BTreeMap::new(),
            compared: Compared::default(),
            progress: Progress { bytes: from, ..Progress::default() },
            on_progress: Box::new(on_progress),
        })
    }

    fn error(&self, cause: std::io::Error) -> SourceError {
        SourceError { name: Arc::clone(&self.name), cause: cause.into() }
    }

    fn record(&mut self, position: Position, line: Bytes) -> Record {
        let (body, meta) = match full::read(&line) {
            None => return Record::new(position, line),
            Some(Ok(parts)) => (parts.body, Ok(parts.id.zip(parts.meta))),
            Some(Err(rejection)) => (Some(line.clone()), Err(rejection)),
        };
        let key = meta.as_ref().ok().and_then(Option::as_ref).map(|(id, _)| id.clone());
        self.framed.insert(position.offset, Framed { line, meta });
        Record { payload: body, key, ..Record::new(position, Bytes::new()) }
    }

    /// Puts a line aside whose order the store refuses.
    fn keep_refused(&mut self, position: Position, refusal: &Refusal) {
        let Some(line) = self.sent.remove(&position.offset) else { return };
        let reason = serde_json::json!({
            "end_offset": position.offset + 1,
            "error": refusal.to_string(),
            "value": String::from_utf8_lossy(&line),
        });
        if let Err(error) = self.rejects.write(&reason, &mut &*line) {
            tracing::error!(%error, end_offset = position.offset + 1, "a refused line cannot be put aside");
        }
    }

    fn write_reject(&mut self, record: &Record, rejection: &Rejection) -> std::io::Result<()> {
        let framed = self.framed.remove(&record.position.offset);
        let payload = framed.as_ref().map(|framed| &*framed.line).or(record.payload.as_deref()).unwrap_or_default();
        let rejection = framed.as_ref().and_then(|framed| framed.meta.as_ref().err()).unwrap_or(rejection);
        let line = serde_json::json!({
            "end_offset": record.position.offset + 1,
            "error": rejection.line(),
            "value": String::from_utf8_lossy(payload),
        });
        match self.spilled.remove(&record.position.offset) {
            Some(mut spilled) => {
                spilled.rewind()?;
                self.rejects.write(&line, &mut spilled)
            }
            None => self.rejects.write(&line, &mut &*payload),
        }
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
        for Line { end, bytes, spilled } in block.map_err(|cause| self.error(cause))? {
            // The offset of a line is that of its last byte, so the next offset to read starts the next line.
            let position = Position { partition: 0, offset: end - 1 };
            into.push(if let Some(file) = spilled {
                self.spilled.insert(position.offset, file);
                Record::new(position, bytes)
            } else {
                self.record(position, bytes)
            });
        }
        Ok(Received::Records)
    }

    fn commit(&mut self, upto: &Checkpoint, outcomes: Vec<(Position, Outcome)>) {
        for (position, outcome) in outcomes {
            self.compared.judge(position, &outcome);
            match outcome {
                Outcome::Stored { .. } => self.progress.stored += 1,
                Outcome::Unchanged { .. } | Outcome::Repeated { .. } => self.progress.unchanged += 1,
                Outcome::WasDeleted { .. } => self.progress.refused += 1,
                Outcome::Refused { refusal, .. } => {
                    self.progress.refused += 1;
                    self.progress.kept += 1;
                    self.keep_refused(position, &refusal);
                }
            }
        }
        self.progress.bytes = upto.next(0);
        // Of a line that was too long for its white space only.
        self.spilled = self.spilled.split_off(&self.progress.bytes);
        self.framed = self.framed.split_off(&self.progress.bytes);
        self.sent = self.sent.split_off(&self.progress.bytes);
        self.compared.passed(upto);
        self.progress.differences = self.compared.found();
        (self.on_progress)(self.progress);
    }

    fn reject(&mut self, record: &Record, rejection: &Rejection) -> Parked {
        self.progress.rejected += 1;
        match self.write_reject(record, rejection) {
            Ok(()) => self.rejects.keep(Arc::clone(&self.name)),
            Err(cause) => Parked::Done(Err(self.error(cause))),
        }
    }

    /// What a store gave out was good enough for it.
    fn profile(&self, record: &Record) -> Option<Profile> {
        let framed = self.framed.get(&record.position.offset)?;
        matches!(framed.meta, Ok(Some(_))).then_some(Profile::Lenient)
    }

    fn prepare(&mut self, record: &Record, order: &mut Order) -> Result<Option<Version>, Rejection> {
        let position = record.position;
        let framed = self.framed.get(&position.offset).map(|framed| framed.line.clone());
        if let Some(line) = framed.or_else(|| record.payload.clone()) {
            self.sent.insert(position.offset, line);
        }
        let framed = self.framed.get(&position.offset).and_then(|framed| framed.meta.as_ref().ok()?.as_ref());
        let payload = record.payload.as_deref();
        let own = payload.and_then(full::of_envelope).map(|(amount, past)| (amount.to_owned(), past));
        let respelled = || {
            let (_, meta) = framed.filter(|(_, meta)| meta.is_envelope)?;
            full::of_respelled_envelope(payload?, meta)
        };
        let own = own.or_else(respelled);
        if let (Command::Envelope(envelope), Some((amount, past))) = (&mut order.command, own) {
            envelope.amount = amount.into();
            order.past = Some(past);
        }
        let Some((id, meta)) = framed else { return Ok(None) };
        let wrong = |pointer: &str, message: &str| {
            let faults = vec![Fault { pointer: pointer.into(), message: message.into() }];
            Err(Rejection::invalid(faults))
        };
        if *order.id.text().as_bytes() != **id {
            return wrong("/meta/id", "is not the id of the order");
        }
        let is_other = match &order.command {
            Command::Wb(_) => meta.is_envelope,
            Command::Envelope(_) => !meta.is_envelope,
            Command::Delete => false,
        };
        if is_other {
            return wrong("/meta/kind", "is not the kind of the order");
        }
        let is_deleted =
            matches!(&order.command, Command::Envelope(envelope) if envelope.status == Some(Status::Deleted));
        if is_deleted != meta.is_deleted {
            return wrong("/meta/state", "is not the state of the order");
        }
        let is_envelope = meta.is_envelope;
        let past =
            |(created_micros, updated_micros)| Past { created_micros, updated_micros, decides: true, is_envelope };
        order.past = match &order.command {
            Command::Envelope(_) => order.past.map(|own| Past { decides: true, ..own }),
            Command::Wb(_) => meta.times.map(past),
            Command::Delete => Some(past(meta.times.unwrap_or_else(|| (now(), now())))),
        };
        self.compared.expect(position, order);
        let is_decided = matches!(order.command, Command::Envelope(_)) && order.past.is_some();
        Ok(if is_decided { None } else { Some(0) })
    }

    fn stop(&mut self) {
        self.blocks.close();
    }
}

/// In microseconds since 1970.
fn now() -> i64 {
    SystemTime::UNIX_EPOCH.elapsed().ok().and_then(|since| i64::try_from(since.as_micros()).ok()).unwrap_or_default()
}

/// Cuts an input into lines, a block at a time, without copying a line that a block holds whole.
struct Lines {
    input: Box<dyn Read + Send>,
    line_bytes_max: usize,
    /// Beside this lines are kept that are too long; the rest of them is passed by when `None`.
    spill_path: Option<PathBuf>,
    offset: u64,
    carry: Vec<u8>,
    /// The line at hand, where it is too long.
    long: Option<Long>,
}

/// An input whose errors name it.
struct Named {
    input: Box<dyn Read + Send>,
    path: PathBuf,
}

impl Read for Named {
    fn read(&mut self, into: &mut [u8]) -> std::io::Result<usize> {
        self.input
            .read(into)
            .map_err(|error| std::io::Error::new(error.kind(), format!("cannot read {}: {error}", self.path.display())))
    }
}

/// A line that is too long for memory, as far as it has come.
struct Long {
    head: Bytes,
    spilled: Option<File>,
}

impl Long {
    fn begin(head: Bytes, spill_path: Option<&Path>) -> std::io::Result<Self> {
        let spilled = spill_path.map(|path| {
            let path = beside(path, &format!(".{}", std::process::id()));
            let mut file = File::options().create_new(true).read(true).write(true).open(&path)?;
            // It has no name any more, so that nothing is left of it whatever happens.
            std::fs::remove_file(&path)?;
            file.write_all(&head)?;
            Ok::<_, std::io::Error>(file)
        });
        Ok(Self { head, spilled: spilled.transpose()? })
    }

    fn append(&mut self, bytes: &[u8]) -> std::io::Result<()> {
        self.spilled.as_mut().map_or(Ok(()), |file| file.write_all(bytes))
    }

    fn end(self, end: u64) -> Line {
        Line { end, bytes: self.head, spilled: self.spilled }
    }
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
            self.offset += buffer.len() as u64;
            let end = self.offset;
            let rest = (!buffer.is_empty()).then(|| Line { end, bytes: buffer.into(), spilled: None });
            return Ok(self.long.take().map(|long| long.end(end)).or(rest).map(|line| vec![line]));
        }
        let whole = memchr::memrchr(b'\n', &buffer).map_or(0, |at| at + 1);
        self.carry = buffer.split_off(whole);
        let block = self.cut(buffer.into())?;
        if self.long.is_some() || self.carry.len() > self.line_bytes_max {
            let part = Bytes::from(std::mem::take(&mut self.carry));
            self.offset += part.len() as u64;
            match &mut self.long {
                Some(long) => long.append(&part)?,
                None => self.long = Some(Long::begin(part, self.spill_path.as_deref())?),
            }
        }
        Ok(Some(block))
    }

    fn cut(&mut self, whole: Bytes) -> std::io::Result<Block> {
        let mut block = Vec::new();
        let mut start = 0;
        for end in memchr::memchr_iter(b'\n', &whole) {
            let line = whole.slice(start..end);
            self.offset += (end + 1 - start) as u64;
            start = end + 1;
            if let Some(mut long) = self.long.take() {
                long.append(&line)?;
                block.push(long.end(self.offset));
            } else if !line.iter().all(u8::is_ascii_whitespace) {
                block.push(Line { end: self.offset, bytes: line, spilled: None });
            }
        }
        Ok(block)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines_of(input: &'static [u8], line_bytes_max: usize, spill_path: Option<PathBuf>) -> Vec<Line> {
        let input = Box::new(input);
        let mut lines = Lines { input, line_bytes_max, spill_path, offset: 0, carry: Vec::new(), long: None };
        std::iter::from_fn(|| lines.block().unwrap()).flatten().collect()
    }

    fn lines(input: &'static [u8], line_bytes_max: usize) -> Vec<(u64, Vec<u8>)> {
        let all = lines_of(input, line_bytes_max, None);
        all.into_iter().map(|line| (line.end, line.bytes.to_vec())).collect()
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
    fn a_long_line_is_handed_over_once_and_kept_whole() {
        let dir = tempfile::tempdir().unwrap();
        let long: Vec<u8> = (0..3 * BLOCK_BYTES).map(|n| if n % 7 == 0 { 0xff } else { b'x' }).collect();
        for rest in ["\nok\n", "\nok", "\n", ""] {
            let input = [&long, rest.as_bytes()].concat();
            let end = input.len() as u64;
            let found = lines_of(input.leak(), 10, Some(dir.path().join("raw")));
            assert_eq!(found.len(), if rest.contains("ok") { 2 } else { 1 });
            assert_eq!((found[0].bytes.len(), found[0].end), (BLOCK_BYTES, (long.len() + rest.len().min(1)) as u64));
            let (mut file, mut whole) = (found[0].spilled.as_ref().unwrap(), Vec::new());
            file.rewind().unwrap();
            file.read_to_end(&mut whole).unwrap();
            assert!(whole == long, "not the line as it was");
            assert!(found[1..].iter().all(|line| (line.end, &line.bytes[..]) == (end, b"ok")), "{rest:?}");
        }
        assert_eq!(std::fs::read_dir(&dir).unwrap().count(), 0, "nothing is left beside the rejected lines");
    }
}
