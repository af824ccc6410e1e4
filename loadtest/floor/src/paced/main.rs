//! `paced`: asks for one path at a fixed rate, however slowly it is answered, as `order-service load` does and for a
//! fraction of its CPU. A whole HTTP client on one core gets through less than the servers that are measured, so half
//! of what those reach is out of its reach. Latency counts from when a request was due (coordinated omission).

mod answer;
mod findings;

use std::collections::VecDeque;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use anyhow::{Context, bail};
use rustix::event::Timespec;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};

use answer::Answer;
use findings::Findings;

const USAGE: &str = "usage: paced --address ADDR --path PATH --rate RATE --connections N --seconds S [--warm-up-ms MS]
Writes what it found as JSON, with the names that `order-service load --json` has.";
/// How long answers are waited for after the last request was due.
const PATIENCE: Duration = Duration::from_secs(5);
const READ_BYTES: usize = 64 << 10;

struct Arguments {
    address: SocketAddr,
    path: String,
    rate: f64,
    connections: u32,
    seconds: u64,
    warm_up_ms: u64,
}

/// One connection. It has one request under way at most; what is due meanwhile waits, and the clock runs.
struct Connection {
    socket: TcpStream,
    answer: Answer,
    under_way: Option<Sent>,
    waiting: VecDeque<Instant>,
}

struct Sent {
    due: Instant,
    at: Instant,
}

fn main() -> anyhow::Result<()> {
    let arguments = arguments(std::env::args().skip(1)).context(USAGE)?;
    // Linux may let a sleeping thread lie 50 us longer, to wake several at once; not this one.
    let _ = rustix::thread::set_current_timer_slack(std::num::NonZeroU64::new(1));
    println!("{}", run(&arguments)?.json(arguments.rate, arguments.seconds, arguments.connections));
    Ok(())
}

fn run(arguments: &Arguments) -> anyhow::Result<Findings> {
    let request = format!("GET {} HTTP/1.1\r\nhost: {}\r\n\r\n", arguments.path, arguments.address);
    let epoll = epoll::create(CreateFlags::CLOEXEC)?;
    let mut all = (0..arguments.connections)
        .map(|index| {
            let socket = TcpStream::connect(arguments.address).context("no one answers")?;
            socket.set_nodelay(true)?;
            socket.set_nonblocking(true)?;
            epoll::add(&epoll, &socket, EventData::new_u64(index.into()), EventFlags::IN)?;
            Ok(Connection { socket, answer: Answer::default(), under_way: None, waiting: VecDeque::new() })
        })
        .collect::<anyhow::Result<Vec<_>>>()?;
    let every = Duration::from_secs_f64(1.0 / arguments.rate);
    let mut due = Instant::now() + Duration::from_millis(20);
    let measured_from = due + Duration::from_millis(arguments.warm_up_ms);
    let end = measured_from + Duration::from_secs(arguments.seconds);
    let mut findings = Findings::new(measured_from);
    let mut events: Vec<Event> = Vec::with_capacity(all.len());
    let mut buffer = vec![0; READ_BYTES];
    let mut turn = 0;
    loop {
        let now = Instant::now();
        while due <= now && due < end {
            all[turn].waiting.push_back(due);
            all[turn].send(&request, &mut findings)?;
            turn = (turn + 1) % all.len();
            due += every;
        }
        let is_over = due >= end;
        if is_over && all.iter().all(Connection::is_idle) {
            return Ok(findings);
        }
        if now >= end + PATIENCE {
            for connection in &all {
                connection.give_up(now, &mut findings);
            }
            return Ok(findings);
        }
        let until = if is_over { end + PATIENCE } else { due };
        let timeout = Timespec::try_from(until.saturating_duration_since(Instant::now()))?;
        events.clear();
        match epoll::wait(&epoll, rustix::buffer::spare_capacity(&mut events), Some(&timeout)) {
            Ok(_) | Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error).context("epoll"),
        }
        for event in &events {
            let connection = &mut all[usize::try_from(event.data.u64())?];
            connection.receive(&mut buffer, &mut findings)?;
            connection.send(&request, &mut findings)?;
        }
    }
}

impl Connection {
    /// Sends what is due next, unless an answer is awaited.
    fn send(&mut self, request: &str, findings: &mut Findings) -> anyhow::Result<()> {
        if self.under_way.is_some() {
            return Ok(());
        }
        let Some(due) = self.waiting.pop_front() else { return Ok(()) };
        let at = Instant::now();
        findings.sent(due, at);
        // The socket holds nothing else, so there is room for all of it.
        self.socket.write_all(request.as_bytes()).context("the server hung up")?;
        self.under_way = Some(Sent { due, at });
        Ok(())
    }

    fn receive(&mut self, buffer: &mut [u8], findings: &mut Findings) -> anyhow::Result<()> {
        let received = match self.socket.read(buffer) {
            Ok(0) => bail!("the server hung up"),
            Ok(received) => received,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::Interrupted) => return Ok(()),
            Err(error) => return Err(error).context("the server hung up"),
        };
        let Some(status) = self.answer.take(&buffer[..received])? else { return Ok(()) };
        let sent = self.under_way.take().context("an answer that no one asked for")?;
        findings.answered(sent.due, sent.at, Instant::now(), status);
        Ok(())
    }

    fn is_idle(&self) -> bool {
        self.under_way.is_none() && self.waiting.is_empty()
    }

    fn give_up(&self, now: Instant, findings: &mut Findings) {
        let under_way = self.under_way.iter().map(|sent| sent.due);
        under_way.chain(self.waiting.iter().copied()).for_each(|due| findings.missed(due, now));
    }
}

fn arguments(mut given: impl Iterator<Item = String>) -> anyhow::Result<Arguments> {
    let (mut address, mut path, mut rate) = (None, None, None);
    let (mut connections, mut seconds, mut warm_up_ms) = (64, 5, 500);
    while let Some(name) = given.next() {
        let value = given.next().with_context(|| format!("{name} needs a value"))?;
        match name.as_str() {
            "--address" => address = Some(value.parse()?),
            "--path" => path = Some(value),
            "--rate" => rate = Some(value.parse()?),
            "--connections" => connections = value.parse()?,
            "--seconds" => seconds = value.parse()?,
            "--warm-up-ms" => warm_up_ms = value.parse()?,
            _ => bail!("{name} is unknown"),
        }
    }
    let address: SocketAddr = address.context("--address is missing")?;
    let rate = rate.context("--rate is missing")?;
    if !address.ip().is_loopback() || !(1.0..=1e7).contains(&rate) || connections == 0 {
        bail!("the address must be this machine's, the rate from 1 to ten million, the connections at least 1");
    }
    Ok(Arguments { address, path: path.context("--path is missing")?, rate, connections, seconds, warm_up_ms })
}
