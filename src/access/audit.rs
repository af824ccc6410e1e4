//! The audit trail: a line of JSON for each write, each refused access and, where wanted, each
//! read. Written by a thread of its own from a bounded queue: no request waits for the disk, and what
//! had to be dropped is counted and said.

use std::fs::{File, OpenOptions};
use std::io::{self, Write};
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, TrySendError, sync_channel};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime};

use serde_json::Value;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::sync::lock;

/// Lines that wait to be written.
const LINES_MAX: usize = 8192;
/// How often the writer looks whether the file is to be opened again or something was dropped.
const LOOK_EVERY: Duration = Duration::from_millis(250);

/// Where lines go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// Standard output.
    Stdout,
    /// The end of this file, which is made if it is not there.
    File(PathBuf),
}

impl Target {
    /// `-` is standard output.
    #[must_use]
    pub fn parse(text: &str) -> Self {
        if text == "-" { Self::Stdout } else { Self::File(text.into()) }
    }

    fn open(&self) -> io::Result<Output> {
        match self {
            Self::Stdout => Ok(Output::Stdout),
            Self::File(path) => open(path).map(Output::File),
        }
    }
}

/// For its owner alone: lines name callers.
fn open(path: &Path) -> io::Result<File> {
    use std::os::unix::fs::OpenOptionsExt;
    OpenOptions::new().append(true).create(true).mode(0o600).open(path)
}

enum Output {
    Stdout,
    File(File),
}

impl Output {
    fn write(&mut self, lines: &[u8]) -> io::Result<()> {
        match self {
            Self::Stdout => io::stdout().lock().write_all(lines).and_then(|()| io::stdout().flush()),
            Self::File(file) => file.write_all(lines),
        }
    }
}

/// What is noted of one request.
#[derive(Debug, Clone, Copy)]
pub struct Note<'n> {
    /// The caller's name and by what it is known; none where it is not, or callers need no key.
    pub caller: Option<(&'n str, &'n str)>,
    /// Where it came from.
    pub address: Option<IpAddr>,
    /// The method, or the name of the call.
    pub method: &'n str,
    /// The route's pattern.
    pub route: &'n str,
    /// The order, where it is one.
    pub order: Option<&'n str>,
    /// The status of HTTP, or the name of that of gRPC.
    pub result: &'n str,
    /// The scope that was missing.
    pub missing_scope: Option<&'n str>,
    /// The request's id.
    pub request_id: &'n str,
}

impl Note<'_> {
    fn line(&self) -> Vec<u8> {
        let mut members = serde_json::Map::new();
        members.insert("time".into(), now().into());
        members.insert("caller".into(), self.caller.map_or(Value::Null, |(name, _)| name.into()));
        members.insert("by".into(), self.caller.map_or(Value::Null, |(_, kind)| kind.into()));
        members.insert(
            "address".into(),
            self.address.map_or(Value::Null, |address| address.to_canonical().to_string().into()),
        );
        members.insert("method".into(), self.method.into());
        members.insert("route".into(), self.route.into());
        members.insert("order".into(), self.order.map_or(Value::Null, Into::into));
        members.insert("result".into(), self.result.parse::<u16>().map_or_else(|_| self.result.into(), Value::from));
        if let Some(scope) = self.missing_scope {
            members.insert("missing_scope".into(), scope.into());
        }
        members.insert("request_id".into(), self.request_id.into());
        let mut line = Value::Object(members).to_string().into_bytes();
        line.push(b'\n');
        line
    }
}

fn now() -> String {
    written(OffsetDateTime::from(SystemTime::now()))
}

/// With milliseconds, all three digits of them.
fn written(time: OffsetDateTime) -> String {
    let seconds = time.replace_nanosecond(0).unwrap_or(time).format(&Rfc3339).unwrap_or_default();
    format!("{}.{:03}Z", seconds.trim_end_matches('Z'), time.millisecond())
}

#[derive(Default)]
struct Shared {
    written: AtomicU64,
    dropped: AtomicU64,
    reopen: AtomicBool,
    end: AtomicBool,
}

/// The trail.
pub struct Audit {
    lines: SyncSender<Vec<u8>>,
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Audit {
    /// Opens the target and starts writing to it.
    ///
    /// # Errors
    /// It cannot be opened, or the system gives no thread.
    pub fn start(target: Target) -> io::Result<Self> {
        let output = target.open().map_err(|error| match &target {
            Target::Stdout => error,
            Target::File(path) => io::Error::new(error.kind(), format!("{}: {error}", path.display())),
        })?;
        let (lines, receiver) = sync_channel(LINES_MAX);
        let shared = Arc::<Shared>::default();
        let writer = Writer { target, output, shared: Arc::clone(&shared), told: 0 };
        let thread = std::thread::Builder::new().name("audit".into()).spawn(move || writer.run(&receiver))?;
        Ok(Self { lines, shared, thread: Mutex::new(Some(thread)) })
    }

    /// Notes a request. Never waits: where there is no room the line is dropped and counted.
    pub fn note(&self, note: &Note<'_>) {
        match self.lines.try_send(note.line()) {
            Ok(()) => {}
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => {
                self.shared.dropped.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    /// Lines written.
    #[must_use]
    pub fn written(&self) -> u64 {
        self.shared.written.load(Ordering::Relaxed)
    }

    /// Lines that had to be dropped.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.shared.dropped.load(Ordering::Relaxed)
    }

    /// Opens the file again, which may have been moved away.
    pub fn reopen(&self) {
        self.shared.reopen.store(true, Ordering::Relaxed);
    }

    /// Writes what waits, and ends. Blocks until then.
    pub fn finish(&self) {
        self.shared.end.store(true, Ordering::Relaxed);
        let thread = lock(&self.thread).take();
        if let Some(thread) = thread {
            let _ = thread.join(); // a panic there has been reported
        }
    }
}

struct Writer {
    target: Target,
    output: Output,
    shared: Arc<Shared>,
    /// Of what was dropped, what was said.
    told: u64,
}

impl Writer {
    fn run(mut self, lines: &Receiver<Vec<u8>>) {
        loop {
            match lines.recv_timeout(LOOK_EVERY) {
                Ok(first) => {
                    let mut batch = first;
                    let mut count = 1;
                    while let Ok(line) = lines.try_recv() {
                        batch.extend_from_slice(&line);
                        count += 1;
                        if count == LINES_MAX as u64 {
                            break;
                        }
                    }
                    self.look();
                    self.write(&batch, count);
                }
                Err(RecvTimeoutError::Timeout) if self.shared.end.load(Ordering::Relaxed) => {
                    return self.tell_dropped();
                }
                Err(RecvTimeoutError::Timeout) => self.look(),
                Err(RecvTimeoutError::Disconnected) => return self.tell_dropped(),
            }
            if self.shared.end.load(Ordering::Relaxed) {
                while let Ok(line) = lines.try_recv() {
                    self.write(&line, 1);
                }
                return self.tell_dropped();
            }
        }
    }

    fn look(&mut self) {
        if self.shared.reopen.swap(false, Ordering::Relaxed) {
            match self.target.open() {
                Ok(output) => self.output = output,
                Err(error) => tracing::error!(%error, "the audit file cannot be opened again; the old one goes on"),
            }
        }
        self.tell_dropped();
    }

    fn write(&mut self, lines: &[u8], count: u64) {
        match self.output.write(lines) {
            Ok(()) => {
                self.shared.written.fetch_add(count, Ordering::Relaxed);
            }
            Err(error) => {
                self.shared.dropped.fetch_add(count, Ordering::Relaxed);
                tracing::error!(%error, lines = count, "audit lines cannot be written");
                self.told += count;
            }
        }
    }

    /// Says in the trail itself what is missing from it.
    fn tell_dropped(&mut self) {
        let dropped = self.shared.dropped.load(Ordering::Relaxed);
        let news = dropped.saturating_sub(self.told);
        if news == 0 {
            return;
        }
        self.told = dropped;
        tracing::warn!(lines = news, "audit lines were dropped: more came than could be written");
        let line = serde_json::json!({"time": now(), "dropped": news}).to_string() + "\n";
        if let Err(error) = self.output.write(line.as_bytes()) {
            tracing::error!(%error, "audit lines cannot be written");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOTE: Note<'_> = Note {
        caller: Some(("shop", "key")),
        address: Some(IpAddr::V4(std::net::Ipv4Addr::LOCALHOST)),
        method: "POST",
        route: "/orders",
        order: Some("a\"b"),
        result: "201",
        missing_scope: None,
        request_id: "r1",
    };

    #[test]
    fn times_have_three_digits_and_addresses_one_spelling() {
        let time = OffsetDateTime::from_unix_timestamp(1_800_000_000).unwrap();
        assert_eq!(written(time), "2027-01-15T08:00:00.000Z");
        assert_eq!(written(time + Duration::from_millis(120)), "2027-01-15T08:00:00.120Z");
        let line = Note { address: Some("::ffff:192.0.2.7".parse().unwrap()), ..NOTE }.line();
        assert_eq!(serde_json::from_slice::<Value>(&line).unwrap()["address"], "192.0.2.7");
    }

    #[test]
    fn lines_are_json_and_none_is_lost_at_the_end() {
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("audit");
        let audit = Audit::start(Target::File(path.clone())).unwrap();
        for _ in 0..500 {
            audit.note(&NOTE);
        }
        std::fs::rename(&path, home.path().join("moved")).unwrap();
        audit.finish();
        let text = std::fs::read_to_string(home.path().join("moved")).unwrap();
        let lines: Vec<Value> = text.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
        assert_eq!(lines.len(), 500);
        assert_eq!((&lines[0]["order"], &lines[0]["result"]), (&Value::from("a\"b"), &Value::from(201)));
        assert!(lines[0]["time"].as_str().unwrap().ends_with('Z'), "{text}");
        assert_eq!(lines[0]["caller"], "shop");
    }

    #[test]
    fn what_is_dropped_is_said_in_the_trail() {
        use rustix::fs::{CWD, FileType, Mode, mknodat};
        // A pipe that is read only once something was dropped.
        let home = tempfile::tempdir().unwrap();
        let path = home.path().join("audit");
        mknodat(CWD, &path, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
        let held = OpenOptions::new().read(true).write(true).open(&path).unwrap();
        let audit = Audit::start(Target::File(path.clone())).unwrap();
        while audit.dropped() == 0 {
            audit.note(&NOTE);
        }
        let pipe = File::open(&path).unwrap();
        drop(held);
        let reading = std::thread::spawn(move || io::read_to_string(pipe).unwrap());
        audit.finish();
        let text = reading.join().unwrap();
        let dropped = |line: &str| serde_json::from_str::<Value>(line).unwrap()["dropped"].as_u64();
        assert_eq!(text.lines().filter_map(dropped).sum::<u64>(), audit.dropped());
        assert_eq!(text.lines().filter(|line| dropped(line).is_none()).count() as u64, audit.written());
    }
}
