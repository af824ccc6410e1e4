//! What a connection is read from and written to: TCP, TLS over TCP, a socket of the file system.
//! Each is a type of its own for `super::socket::Tracked`, so that plain TCP pays for none of the
//! others.

use std::io;
use std::mem::MaybeUninit;
use std::task::{Context, Poll};
use std::time::Duration;

use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite, Interest, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

use crate::tls::server as tls;

/// A stream of bytes of one client.
pub trait Transport: AsyncRead + AsyncWrite + Unpin + Send + 'static {
    /// Whether the system has nothing of the client. It is asked: what tokio knows of the socket
    /// may be older.
    fn is_quiet(&self) -> bool;

    /// Whether the client has left or says nothing more, as far as that shows without taking
    /// anything of what it has said. Otherwise the task is woken when there is more to see.
    fn poll_gone(&mut self, context: &mut Context<'_>) -> bool;

    /// Whether it keeps what was written, so that it takes a flush to leave.
    const KEEPS: bool = false;

    /// Whether something that was written has not left yet.
    fn has_unsent(&self) -> bool {
        false
    }

    /// The end of the connection will not pass for the end of an answer.
    fn cut_off(&self);
}

fn is_quiet(socket: &SockRef<'_>) -> bool {
    socket.peek(&mut [MaybeUninit::uninit()]).is_err_and(|error| error.kind() == io::ErrorKind::WouldBlock)
}

fn cut_off(socket: &SockRef<'_>) {
    // A socket that cannot be set is broken already.
    let _ = socket.set_linger(Some(Duration::ZERO));
}

impl Transport for TcpStream {
    fn is_quiet(&self) -> bool {
        is_quiet(&SockRef::from(self))
    }

    fn poll_gone(&mut self, context: &mut Context<'_>) -> bool {
        let mut byte = [0];
        matches!(self.poll_peek(context, &mut ReadBuf::new(&mut byte)), Poll::Ready(Ok(0) | Err(_)))
    }

    fn cut_off(&self) {
        cut_off(&SockRef::from(self));
    }
}

impl Transport for UnixStream {
    fn is_quiet(&self) -> bool {
        is_quiet(&SockRef::from(self))
    }

    fn poll_gone(&mut self, context: &mut Context<'_>) -> bool {
        loop {
            match self.poll_read_ready(context) {
                Poll::Pending => return false,
                Poll::Ready(Err(_)) => return true,
                Poll::Ready(Ok(())) => {}
            }
            let peek = || SockRef::from(&*self).peek(&mut [MaybeUninit::uninit()]);
            match self.try_io(Interest::READABLE, peek) {
                Ok(count) => return count == 0,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                Err(_) => return true,
            }
        }
    }

    /// Such a socket knows no reset: what has no length of its own ends with the connection either
    /// way.
    fn cut_off(&self) {}
}

impl Transport for tls::Stream {
    const KEEPS: bool = true;

    fn is_quiet(&self) -> bool {
        self.get_ref().0.is_quiet()
    }

    fn poll_gone(&mut self, context: &mut Context<'_>) -> bool {
        tls::poll_gone(self, context)
    }

    fn has_unsent(&self) -> bool {
        tls::has_unsent(self)
    }

    fn cut_off(&self) {
        self.get_ref().0.cut_off();
    }
}
