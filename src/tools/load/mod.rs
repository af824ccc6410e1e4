//! `load`: reads at a fixed rate, however slowly they are answered. A stall counts for every request that was due
//! meanwhile, not only for the one that met it (Gil Tene, "How NOT to Measure Latency": coordinated omission).

mod clock;
mod machine;
pub mod report;
mod timeline;

use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, bail};
use bytes::Bytes;
use hyper::header::{HeaderName, HeaderValue};
use tokio::time::Instant;

use super::client::{Client, NoAnswer, Server};
use super::progress::Progress;
use crate::order::sample;
use crate::sync::lock;
use clock::{Clock, Turn};
use machine::Watch;
use report::{Report, Tally, Times};

/// What to ask for, how often and for how long.
#[derive(Debug, Clone)]
pub struct Config {
    /// The service.
    pub server: Server,
    /// Paths asked for; one after the other when it is one, at random otherwise.
    pub paths: Arc<[String]>,
    /// Requests per second over all connections. `None`: each connection asks again as soon as it is answered, which
    /// measures throughput and says little about latency.
    pub rate: Option<f64>,
    /// How long is measured.
    pub duration: Duration,
    /// How long is not measured, before that.
    pub warm_up: Duration,
    /// Connections.
    pub connections: usize,
    /// How long an answer is waited for.
    pub timeout: Duration,
    /// Header fields of every request.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// The status that counts as right.
    pub expect: u16,
    /// Which of several paths.
    pub seed: u64,
    /// Stop after this many requests, whatever the duration.
    pub count: Option<u64>,
    /// Whether a single wrong answer is a failure.
    pub is_strict: bool,
}

/// Where a report goes apart from the terminal.
#[derive(Debug, Clone)]
pub enum Json {
    /// Standard output; the text then goes to standard error.
    Stdout,
    /// A file.
    File(PathBuf),
}

/// The paths of the first `count` sample orders.
pub fn sample_paths(count: u64) -> impl Iterator<Item = String> {
    (0..count).map(|n| format!("/order/{}", sample::wb_id(0, n)))
}

/// Loads the service and reports.
///
/// # Errors
/// When the service does not answer before the load begins.
pub async fn run(config: Config) -> anyhow::Result<Report> {
    if config.paths.is_empty() || config.connections == 0 {
        bail!("nothing to ask for, or no connection to ask over");
    }
    for path in config.paths.iter() {
        config.server.request("GET", path, Bytes::new())?;
    }
    // Nothing there is said at once, not after the whole duration.
    let first = config.server.request("GET", &config.paths[0], Bytes::new())?;
    let mut client = Client::new(config.server.clone(), config.timeout);
    client.send(first).await.context("the service does not answer")?;
    let tally = Arc::new(Mutex::new(Tally::new()));
    let progress = Arc::new(Progress::new("load", None));
    let start = Instant::now() + Duration::from_millis(50);
    let mut all = (0..config.connections)
        .map(|index| Worker::new(&config, index, start, Arc::clone(&tally)))
        .collect::<Result<Vec<_>, _>>()?;
    let clock = match all[0].every {
        None => None,
        Some(every) => {
            let first = all.iter().map(|worker| worker.first).collect();
            Some(Clock::start(first, every, all[0].end).context("no thread for the schedule")?)
        }
    };
    let mut workers = tokio::task::JoinSet::new();
    for (index, mut worker) in all.drain(..).enumerate() {
        worker.turn = clock.as_ref().map(|clock| clock.turn(index));
        workers.spawn(worker.run(Arc::clone(&progress)));
    }
    let watch = config.rate.map(|_| Watch::start(start));
    while let Some(worker) = workers.join_next().await {
        worker.context("a connection's task failed")?;
    }
    let tally = std::mem::take(&mut *lock(&tally));
    let measured = config.count.map_or(config.duration, |_| start.elapsed());
    let report = Report::new(&config, tally, measured, watch.and_then(Watch::end).as_ref());
    progress.finish(format!("{} answers", report.answers()));
    Ok(report)
}

/// One connection and its share of the schedule.
struct Worker {
    client: Client,
    server: Server,
    paths: Arc<[String]>,
    headers: Vec<(HeaderName, HeaderValue)>,
    random: fastrand::Rng,
    /// When the first request is due, and how far apart they are.
    first: Instant,
    every: Option<Duration>,
    turn: Option<Turn>,
    tally: Arc<Mutex<Tally>>,
    start: Instant,
    measured_from: Instant,
    end: Instant,
    count: u64,
    expect: u16,
}

impl Worker {
    fn new(config: &Config, index: usize, start: Instant, tally: Arc<Mutex<Tally>>) -> anyhow::Result<Self> {
        #[expect(clippy::cast_precision_loss, reason = "connections are few")]
        let (share, index_share) = (config.connections as f64, index as f64);
        let every = match config.rate {
            Some(rate) if rate > 0.0 => Some(Duration::from_secs_f64(share / rate)),
            Some(_) => bail!("the rate must be more than 0"),
            None => None,
        };
        // Connections take turns instead of all asking at once.
        let first = start + every.map_or(Duration::ZERO, |every| every.mul_f64(index_share / share));
        let connections = config.connections as u64;
        let count = config
            .count
            .map_or(u64::MAX, |count| count / connections + u64::from((index as u64) < count % connections));
        let measured_from = start + config.warm_up;
        Ok(Self {
            client: Client::new(config.server.clone(), config.timeout),
            server: config.server.clone(),
            paths: Arc::clone(&config.paths),
            headers: config.headers.clone(),
            random: fastrand::Rng::with_seed(config.seed ^ index as u64),
            first,
            every,
            turn: None,
            tally,
            start,
            measured_from,
            end: measured_from + config.duration,
            count,
            expect: config.expect,
        })
    }

    async fn run(mut self, progress: Arc<Progress>) {
        // Before the first request is due. If it fails, that request tries again and says why it could not be sent.
        let _ = self.client.connect().await;
        let mut due = self.first;
        let mut told = 0;
        for asked in 0..self.count {
            if due >= self.end || Instant::now() >= self.end {
                break;
            }
            match &self.turn {
                Some(turn) => turn.wait_until(due).await,
                None => tokio::time::sleep_until(due).await,
            }
            let sent = Instant::now();
            let result = self.ask().await;
            let answered = Instant::now();
            if due >= self.measured_from || self.count != u64::MAX {
                // Without a schedule a request is due when it is sent.
                let intended = if self.every.is_some() { due } else { sent };
                let since = |moment: Instant| moment.saturating_duration_since(self.start);
                let times = Times { due: since(intended), sent: since(sent), answered: since(answered) };
                lock(&self.tally).note(result, &times, self.expect);
            }
            if result.is_err() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            due = self.every.map_or_else(Instant::now, |every| due + every);
            if asked - told >= 256 {
                progress.add(asked - told);
                told = asked;
            }
        }
        self.count_missed(due);
    }

    /// What was due before the end and never sent, because answers took too long: it has waited until now.
    fn count_missed(&self, mut due: Instant) {
        let Some(every) = self.every.filter(|_| self.count == u64::MAX) else { return };
        let now = Instant::now();
        let mut tally = lock(&self.tally);
        while due < self.end {
            if due >= self.measured_from {
                tally.miss(due - self.start, now - self.start);
            }
            due += every;
        }
    }

    async fn ask(&mut self) -> Result<(u16, u64), NoAnswer> {
        let path = match &*self.paths {
            [path] => path,
            paths => &paths[self.random.usize(..paths.len())],
        };
        let Ok(mut request) = self.server.request("GET", path, Bytes::new()) else { return Err(NoAnswer::Refused) };
        for (name, value) in &self.headers {
            request.headers_mut().insert(name, value.clone());
        }
        let answer = self.client.send(request).await?;
        Ok((answer.status().as_u16(), answer.body().len() as u64))
    }
}
