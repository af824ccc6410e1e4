//! The floor: one epoll loop a thread, a parser, a map, one write. No runtime, no routing, no metrics, no limits, no
//! writes: whatever answers orders over HTTP and costs less leaves something out that HTTP asks for.

mod answer;
mod connection;
mod orders;
mod serve;

use std::net::SocketAddr;
use std::path::PathBuf;

use anyhow::{Context, bail};

use orders::Orders;

const USAGE: &str = "usage: floor --listen ADDR --orders FILE [--list-gzip FILE] [--threads N]
  --orders FILE      orders, one a line, newest first: what `order-service export` writes
  --list-gzip FILE   the list of /api/orders, compressed, for anyone who accepts gzip
  --threads N        threads, each with a socket of its own on the same port; 1 when not given";

struct Arguments {
    listen: SocketAddr,
    orders: PathBuf,
    list_gzip: Option<PathBuf>,
    threads: usize,
}

fn main() -> anyhow::Result<()> {
    let arguments = arguments(std::env::args().skip(1)).context(USAGE)?;
    let orders = Orders::load(&arguments.orders, arguments.list_gzip.as_deref())?;
    // Both live as long as the process: answers point into them.
    let orders: &'static Orders = Box::leak(Box::new(orders));
    // All sockets listen before any thread starts, so that a taken port is an error of the start.
    let sockets = (0..arguments.threads)
        .map(|_| serve::listen(arguments.listen))
        .collect::<Result<Vec<_>, _>>()
        .with_context(|| format!("cannot listen on {}", arguments.listen))?;
    // A thread that ends has failed, and all end with it.
    let (failed, failure) = std::sync::mpsc::sync_channel(1);
    for socket in sockets {
        let failed = failed.clone();
        std::thread::spawn(move || failed.send(serve::run(&socket, orders)));
    }
    drop(failed);
    failure.recv().context("no thread was asked for")?
}

fn arguments(mut given: impl Iterator<Item = String>) -> anyhow::Result<Arguments> {
    let (mut listen, mut orders, mut list_gzip, mut threads) = (None, None, None, 1);
    while let Some(name) = given.next() {
        let value = given.next().with_context(|| format!("{name} needs a value"))?;
        match name.as_str() {
            "--listen" => listen = Some(value.parse().context("--listen takes an address such as 127.0.0.1:8080")?),
            "--orders" => orders = Some(value.into()),
            "--list-gzip" => list_gzip = Some(value.into()),
            "--threads" => threads = value.parse().context("--threads takes a number")?,
            _ => bail!("{name} is unknown"),
        }
    }
    let (listen, orders) = (listen.context("--listen is missing")?, orders.context("--orders is missing")?);
    Ok(Arguments { listen, orders, list_gzip, threads })
}
