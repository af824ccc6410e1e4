//! The first bytes of a connection: HTTP/2 begins with a preface that no request of HTTP/1.1 has. A
//! client of that is told so, instead of being answered in frames and cut off.

use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, ReadBuf};

use crate::listen::{self, Stream};

/// What of the preface no method of HTTP/1.1 begins with.
const PREFACE: &[u8] = b"PRI";
/// What is read at once: a client's first frames are in it.
const FIRST_BYTES: usize = 1024;

/// What a client of HTTP/1.1 is told, in the form that every other error has.
const REFUSED: &str = concat!(
    r#"{"type":"about:blank","title":"Bad Request","status":400,"#,
    r#""detail":"this port speaks gRPC over HTTP/2","error":"this port speaks gRPC over HTTP/2","#,
    r#""message":"this port speaks gRPC over HTTP/2","code":400,"reason":"http2_required"}"#
);

/// A connection of which the first bytes were looked at.
pub(super) struct Begun {
    first: Vec<u8>,
    taken: usize,
    stream: Stream,
}

impl Begun {
    /// Reads them, but for no longer than `until`: a client that has said nothing by then is taken to
    /// speak HTTP/2. `None` for one that is gone, or that speaks HTTP/1.1, which it was told.
    pub(super) async fn of(mut stream: Stream, until: impl Future<Output = ()>) -> Option<Self> {
        let mut until = pin!(until);
        let mut first = vec![0; FIRST_BYTES];
        let mut length = 0;
        while length < PREFACE.len() && first[..length] == PREFACE[..length] {
            tokio::select! {
                biased;
                read = stream.read(&mut first[length..]) => match read {
                    Ok(0) | Err(_) => return None,
                    Ok(read) => length += read,
                },
                () = &mut until => break,
            }
        }
        first.truncate(length);
        if length > 0
            && !PREFACE.starts_with(&first[..length.min(PREFACE.len())])
            && first.iter().take(PREFACE.len()).all(u8::is_ascii_uppercase)
        {
            listen::refuse(&mut stream, REFUSED).await;
            tracing::debug!("a request of HTTP/1.1 on a listener of gRPC");
            return None;
        }
        Some(Self { first, taken: 0, stream })
    }
}

impl AsyncRead for Begun {
    fn poll_read(mut self: Pin<&mut Self>, context: &mut Context<'_>, into: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        if self.taken < self.first.len() {
            let left = &self.first[self.taken..];
            let given = left.len().min(into.remaining());
            into.put_slice(&left[..given]);
            self.taken += given;
            if self.taken == self.first.len() {
                (self.first, self.taken) = (Vec::new(), 0);
            }
            return Poll::Ready(Ok(()));
        }
        Pin::new(&mut self.stream).poll_read(context, into)
    }
}

impl AsyncWrite for Begun {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, from: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, from)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        from: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, from)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
