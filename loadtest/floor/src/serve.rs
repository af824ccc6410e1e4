//! The loop of a thread: waits for sockets and lets their connections go on. Level-triggered, which spares the second
//! read that edge-triggering needs to learn that nothing is left.

use std::net::SocketAddr;
use std::time::SystemTime;

use anyhow::Context;
use rustix::event::epoll::{self, CreateFlags, Event, EventData, EventFlags};
use rustix::fd::OwnedFd;
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketFlags, SocketType, sockopt};

use crate::answer::{Answers, Date};
use crate::connection::{Connection, READ_BYTES, Shared, Wait};
use crate::orders::Orders;

const BACKLOG: i32 = 4096;
const EVENTS_MAX: usize = 1024;
const LISTENER: u64 = u64::MAX;

/// A socket that listens on `address`, which others may share.
pub fn listen(address: SocketAddr) -> anyhow::Result<OwnedFd> {
    let family = if address.is_ipv4() { AddressFamily::INET } else { AddressFamily::INET6 };
    let flags = SocketFlags::NONBLOCK | SocketFlags::CLOEXEC;
    let socket = rustix::net::socket_with(family, SocketType::STREAM, flags, None)?;
    sockopt::set_socket_reuseaddr(&socket, true)?;
    sockopt::set_socket_reuseport(&socket, true)?;
    rustix::net::bind(&socket, &address)?;
    rustix::net::listen(&socket, BACKLOG)?;
    Ok(socket)
}

/// Serves for ever.
pub fn run(listener: &OwnedFd, orders: &'static Orders) -> anyhow::Result<()> {
    let epoll = epoll::create(CreateFlags::CLOEXEC)?;
    epoll::add(&epoll, listener, EventData::new_u64(LISTENER), EventFlags::IN)?;
    let mut shared = Shared {
        orders,
        date: Date::new(SystemTime::now()),
        buffer: vec![0; READ_BYTES].into(),
        answers: Answers::default(),
    };
    let mut connections = Connections::default();
    let mut events: Vec<Event> = Vec::with_capacity(EVENTS_MAX);
    loop {
        events.clear();
        match epoll::wait(&epoll, rustix::buffer::spare_capacity(&mut events), None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error).context("epoll"),
        }
        shared.date.update(SystemTime::now());
        for event in &events {
            match event.data.u64() {
                LISTENER => accept(listener, &epoll, &mut connections)?,
                index => go_on(usize::try_from(index)?, &epoll, &mut connections, &mut shared)?,
            }
        }
    }
}

/// Connections by the number that epoll gives back.
#[derive(Default)]
struct Connections {
    all: Vec<Option<(Connection, Wait)>>,
    free: Vec<usize>,
}

fn accept(listener: &OwnedFd, epoll: &OwnedFd, connections: &mut Connections) -> anyhow::Result<()> {
    loop {
        let socket = match rustix::net::accept_with(listener, SocketFlags::NONBLOCK | SocketFlags::CLOEXEC) {
            Ok(socket) => socket,
            Err(Errno::AGAIN) => return Ok(()),
            Err(Errno::INTR | Errno::CONNABORTED) => continue,
            Err(error) => return Err(error).context("cannot accept"),
        };
        sockopt::set_tcp_nodelay(&socket, true)?;
        let index = connections.free.pop().unwrap_or(connections.all.len());
        epoll::add(epoll, &socket, EventData::new_u64(index as u64), EventFlags::IN)?;
        let new = Some((Connection::new(socket), Wait::Request));
        match connections.all.get_mut(index) {
            Some(place) => *place = new,
            None => connections.all.push(new),
        }
    }
}

fn go_on(index: usize, epoll: &OwnedFd, connections: &mut Connections, shared: &mut Shared) -> anyhow::Result<()> {
    let Some((connection, waits_for)) = &mut connections.all[index] else { return Ok(()) };
    // A client that went away is no error of ours.
    let wait = connection.go_on(shared).unwrap_or(Wait::Nothing);
    if wait == *waits_for {
        return Ok(());
    }
    *waits_for = wait;
    let flags = match wait {
        Wait::Request => EventFlags::IN,
        Wait::Room => EventFlags::OUT,
        Wait::Nothing => {
            // Closing the socket takes it out of epoll.
            connections.all[index] = None;
            connections.free.push(index);
            return Ok(());
        }
    };
    epoll::modify(epoll, &connection.socket, EventData::new_u64(index as u64), flags).context("epoll")
}
