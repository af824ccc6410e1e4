//! One connection: reads, has answered, writes, and holds back what the client does not take up yet.

use std::collections::VecDeque;
use std::io::{self, IoSlice};

use rustix::fd::OwnedFd;
use rustix::io::Errno;
use rustix::net::{RecvFlags, SendFlags, recv, send};

use crate::answer::{Answers, Date, answer};
use crate::orders::Orders;

/// Bytes of one read, and of the largest request.
pub const READ_BYTES: usize = 64 << 10;
/// Pieces of one write; the kernel takes no more.
const PIECES_MAX: usize = 1024;

/// What all connections of a thread share.
pub struct Shared {
    pub orders: &'static Orders,
    pub date: Date,
    pub buffer: Box<[u8]>,
    pub answers: Answers,
}

pub struct Connection {
    pub socket: OwnedFd,
    /// The beginning of a request.
    kept: Vec<u8>,
    /// Answers that the client has not taken up. Nothing is read meanwhile, so they stay few.
    waiting: VecDeque<Waiting>,
    is_last: bool,
}

/// What a connection waits for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wait {
    Request,
    Room,
    Nothing,
}

enum Piece {
    Ready(&'static [u8]),
    Copied(Vec<u8>),
}

struct Waiting {
    piece: Piece,
    written: usize,
}

impl Waiting {
    fn rest(&self) -> &[u8] {
        let bytes = match &self.piece {
            Piece::Ready(bytes) => bytes,
            Piece::Copied(bytes) => bytes.as_slice(),
        };
        &bytes[self.written..]
    }
}

impl Connection {
    pub fn new(socket: OwnedFd) -> Self {
        Self { socket, kept: Vec::new(), waiting: VecDeque::new(), is_last: false }
    }

    /// Goes on as far as it can. An error ends the connection.
    pub fn go_on(&mut self, shared: &mut Shared) -> io::Result<Wait> {
        if self.waiting.is_empty() {
            self.read(shared)?;
        }
        self.write_waiting()?;
        Ok(match (self.waiting.is_empty(), self.is_last) {
            (false, _) => Wait::Room,
            (true, true) => Wait::Nothing,
            (true, false) => Wait::Request,
        })
    }

    /// One read: what it leaves in the socket is announced again.
    fn read(&mut self, shared: &mut Shared) -> io::Result<()> {
        let kept = self.kept.len();
        shared.buffer[..kept].copy_from_slice(&self.kept);
        let (_, received) = match recv(&self.socket, &mut shared.buffer[kept..], RecvFlags::empty()) {
            Ok(received) => received,
            Err(Errno::AGAIN | Errno::INTR) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
        if received == 0 {
            self.is_last = true;
            return Ok(());
        }
        let input = &shared.buffer[..kept + received];
        shared.answers.clear();
        let taken = answer(input, shared.orders, &shared.date, &mut shared.answers);
        self.kept.clear();
        self.kept.extend_from_slice(&input[taken.bytes..]);
        self.is_last = taken.is_last || self.kept.len() == READ_BYTES;
        self.write(&shared.answers)
    }

    fn write(&mut self, answers: &Answers) -> io::Result<()> {
        let written = match answers.single() {
            Some([]) => return Ok(()),
            Some(bytes) => send(&self.socket, bytes, SendFlags::NOSIGNAL),
            None => {
                let slices = answers.slices();
                rustix::io::writev(&self.socket, &slices[..slices.len().min(PIECES_MAX)])
            }
        };
        let mut written = or_nothing(written)?;
        for piece in answers.pieces() {
            let length = piece.unwrap_or_else(|copied| copied).len();
            if written >= length {
                written -= length;
                continue;
            }
            let piece = piece.map_or_else(|copied| Piece::Copied(copied.to_vec()), Piece::Ready);
            self.waiting.push_back(Waiting { piece, written });
            written = 0;
        }
        Ok(())
    }

    fn write_waiting(&mut self) -> io::Result<()> {
        while !self.waiting.is_empty() {
            let slices: Vec<_> = self.waiting.iter().take(PIECES_MAX).map(|part| IoSlice::new(part.rest())).collect();
            let mut written = or_nothing(rustix::io::writev(&self.socket, &slices))?;
            if written == 0 {
                return Ok(());
            }
            while let Some(part) = self.waiting.front_mut() {
                let length = part.rest().len();
                if written < length {
                    part.written += written;
                    break;
                }
                written -= length;
                self.waiting.pop_front();
            }
        }
        Ok(())
    }
}

fn or_nothing(written: rustix::io::Result<usize>) -> io::Result<usize> {
    match written {
        Err(Errno::AGAIN | Errno::INTR) => Ok(0),
        written => Ok(written?),
    }
}
