//! A connection whose COPY is read in large pieces and handed on where it lies, which saves a
//! quarter of the processor time of a start: tokio-postgres, to which logging in is left, reads 8
//! KB at a time and takes each row from one task to another.
//!
//! The messages are those of
//! <https://www.postgresql.org/docs/current/protocol-flow.html#PROTOCOL-COPY>.

use std::time::Duration;

use socket2::{SockRef, TcpKeepalive};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpStream, ToSocketAddrs, UnixStream};
use tokio_postgres::config::{Host, SslMode, SslNegotiation};

use super::encryption::Done;
use super::errors::{classify, classify_code, silent};
use super::{Config, StoreError, login};
use crate::tls::client::end_point;

/// What is read at once.
const READ_BYTES: usize = 256 << 10;
/// The server sends nothing longer.
const MESSAGE_BYTES_MAX: usize = 1 << 30;
/// The longest a COPY may say nothing. It is a matter of milliseconds where the server reads on.
const SILENCE_MAX: Duration = Duration::from_mins(1);
const DEFAULT_PORT: u16 = 5432;
/// A tag and a length, which counts itself.
const HEAD_BYTES: usize = 5;

trait Socket: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> Socket for T {}

/// A connection of its own, with nothing of a pool.
pub(super) struct Wire {
    socket: Box<dyn Socket>,
    buffer: Vec<u8>,
    /// What of the buffer has arrived and was not handed on.
    unread: std::ops::Range<usize>,
}

impl Wire {
    /// Logs in to the first of the servers that takes `setup`, the statements to begin with, one
    /// message after the other. A server has the time of connecting for both.
    pub(super) async fn connect(config: &Config, setup: &[&str]) -> Result<Self, StoreError> {
        let server = &config.server;
        let time = server.get_connect_timeout().copied().unwrap_or(Duration::MAX);
        let mut failure = unavailable("names no host");
        for n in 0..server.get_hosts().len() {
            match tokio::time::timeout(time, log_in(config, n, setup)).await {
                Ok(Ok(socket)) => return Ok(Self { socket, buffer: vec![0; READ_BYTES], unread: 0..0 }),
                Ok(Err(error)) => failure = error,
                Err(_) => failure = unavailable("took too long to connect"),
            }
        }
        Err(failure)
    }

    /// Hands what the server copies out to `take`, a message at a time, whose ends need not be
    /// those of rows. After an error the connection is of no more use.
    pub(super) async fn copy_out(
        &mut self,
        sql: &str,
        mut take: impl FnMut(&[u8]) -> Result<(), StoreError>,
    ) -> Result<(), StoreError> {
        self.socket.write_all(&query(sql)).await.map_err(broken)?;
        self.socket.flush().await.map_err(broken)?;
        loop {
            match self.message().await? {
                (b'd', data) => take(data)?,
                (b'E', fields) => return Err(refusal(fields)),
                (b'Z', _) => return Ok(()),
                _ => {} // that the copy begins, is done, and how many rows it had; notices
            }
        }
    }

    /// Leaves, without which the server notes in its log that someone was lost.
    pub(super) async fn close(mut self) {
        let _ = self.socket.write_all(b"X\0\0\0\x04").await;
        let _ = self.socket.shutdown().await;
    }

    /// The next message: its tag, and what is in it.
    async fn message(&mut self) -> Result<(u8, &[u8]), StoreError> {
        let len = loop {
            let unread = &self.buffer[self.unread.clone()];
            let needed = match unread.first_chunk::<HEAD_BYTES>() {
                Some([_, len @ ..]) => 1 + usize::try_from(u32::from_be_bytes(*len)).expect("64 bits"),
                None => HEAD_BYTES,
            };
            if !(HEAD_BYTES..=MESSAGE_BYTES_MAX).contains(&needed) {
                return Err(unavailable("the server sent what is no message"));
            }
            if unread.len() >= needed {
                break needed;
            }
            self.read(needed).await?;
        };
        let start = self.unread.start;
        self.unread.start += len;
        Ok((self.buffer[start], &self.buffer[start + HEAD_BYTES..start + len]))
    }

    /// Reads once, into a buffer with room for a message of `needed` bytes.
    async fn read(&mut self, needed: usize) -> Result<(), StoreError> {
        if self.unread.is_empty() || self.unread.start + needed > self.buffer.len() {
            self.buffer.copy_within(self.unread.clone(), 0);
            self.unread = 0..self.unread.len();
            self.buffer.resize(self.buffer.len().max(needed), 0);
        }
        let read = tokio::time::timeout(SILENCE_MAX, self.socket.read(&mut self.buffer[self.unread.end..])).await;
        match read.map_err(|_| silent(SILENCE_MAX))?.map_err(broken)? {
            0 => Err(unavailable("the server closed the connection")),
            count => {
                self.unread.end += count;
                Ok(())
            }
        }
    }
}

/// Logs in to the `n`th server, also in the second way where its rules refuse the first. What is
/// left is a socket on which the server waits for the next statement.
async fn log_in(config: &Config, n: usize, setup: &[&str]) -> Result<Box<dyn Socket>, StoreError> {
    let first = log_in_as(config, n, config.server.get_ssl_mode(), setup).await;
    let (Err(error), Some(second)) = (&first, config.encryption.second()) else { return first };
    if !is_refused(error) {
        return first;
    }
    match log_in_as(config, n, second, setup).await {
        Err(error) if is_refused(&error) => first, // of what was wanted first
        other => other,
    }
}

fn is_refused(error: &StoreError) -> bool {
    let cause = std::error::Error::source(error).and_then(|cause| cause.downcast_ref());
    cause.is_some_and(login::is_refused)
}

async fn log_in_as(config: &Config, n: usize, asked: SslMode, setup: &[&str]) -> Result<Box<dyn Socket>, StoreError> {
    let mut server = config.server.clone();
    let ports = server.get_ports();
    let port = ports.get(n).or(ports.first()).copied().unwrap_or(DEFAULT_PORT);
    let mut bound_by = None;
    let mut mode = SslMode::Disable;
    let mut socket: Box<dyn Socket> = match &server.get_hosts()[n] {
        Host::Tcp(name) => {
            let mut stream = match server.get_hostaddrs().get(n) {
                Some(address) => tcp(&server, (*address, port)).await,
                None => tcp(&server, (name.as_str(), port)).await,
            }
            .map_err(broken)?;
            if config.encryption.negotiate(asked, &mut stream).await.map_err(broken)? {
                let stream = config.encryption.encrypt(name, stream).await.map_err(broken)?;
                (bound_by, mode) = (end_point(&stream), SslMode::Require);
                Box::new(stream)
            } else {
                Box::new(stream)
            }
        }
        Host::Unix(dir) => Box::new(UnixStream::connect(dir.join(format!(".s.PGSQL.{port}"))).await.map_err(broken)?),
    };
    // Encrypted or not, it is so already: the library is only told what a login is bound by.
    server.ssl_mode(mode).ssl_negotiation(SslNegotiation::Direct);
    let (client, connection) = server.connect_raw(&mut socket, Done(bound_by)).await.map_err(classify)?;
    // The connection is given up after its statements and the socket kept, on which no one has
    // taken leave.
    let set_up = async {
        for statements in setup {
            client.batch_execute(statements).await?;
        }
        Ok(())
    };
    tokio::select! {
        result = set_up => result.map_err(classify)?,
        result = connection => return Err(result.map_or_else(classify, |()| unavailable("the server hung up"))),
    }
    Ok(socket)
}

async fn tcp(server: &tokio_postgres::Config, address: impl ToSocketAddrs) -> std::io::Result<TcpStream> {
    let stream = TcpStream::connect(address).await?;
    let socket = SockRef::from(&stream);
    socket.set_tcp_keepalive(&TcpKeepalive::new().with_time(server.get_keepalives_idle()))?;
    socket.set_tcp_user_timeout(server.get_tcp_user_timeout().copied())?;
    Ok(stream)
}

/// `sql` as a message.
fn query(sql: &str) -> Vec<u8> {
    let len = u32::try_from(4 + sql.len() + 1).expect("a statement of ours");
    [b"Q", &len.to_be_bytes()[..], sql.as_bytes(), b"\0"].concat()
}

/// What an error says: fields that end in a zero, of which the message is one and the code another.
fn refusal(fields: &[u8]) -> StoreError {
    let field = |tag: u8| {
        let value = fields.split(|byte| *byte == 0).find_map(|field| field.strip_prefix(&[tag]));
        String::from_utf8_lossy(value.unwrap_or_default()).into_owned()
    };
    classify_code(&field(b'C'), &field(b'M'))
}

fn broken(error: std::io::Error) -> StoreError {
    StoreError::Unavailable(error.into())
}

fn unavailable(why: &str) -> StoreError {
    StoreError::Unavailable(why.into())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A server that says `chunks` after the statement has come, each as one write.
    async fn told(chunks: Vec<Vec<u8>>) -> (Vec<Vec<u8>>, Result<(), StoreError>) {
        let (ours, mut theirs) = tokio::io::duplex(64 << 10);
        let mut wire = Wire { socket: Box::new(ours), buffer: vec![0; 64], unread: 0..0 };
        let server = tokio::spawn(async move {
            let mut asked = vec![0; query("COPY").len()];
            theirs.read_exact(&mut asked).await.expect("a statement");
            assert_eq!(asked, b"Q\0\0\0\x09COPY\0");
            for chunk in chunks {
                theirs.write_all(&chunk).await.expect("read");
                tokio::task::yield_now().await;
            }
        });
        let mut taken = Vec::new();
        let result = wire
            .copy_out("COPY", |data| {
                taken.push(data.to_vec());
                Ok(())
            })
            .await;
        server.await.expect("no panic");
        (taken, result)
    }

    fn message(tag: u8, body: &[u8]) -> Vec<u8> {
        [&[tag][..], &u32::try_from(body.len() + 4).expect("short").to_be_bytes(), body].concat()
    }

    #[tokio::test]
    async fn messages_are_whole_however_they_arrive() {
        let rows: Vec<Vec<u8>> = (0..200_u8).map(|n| vec![n; usize::from(n)]).collect();
        let mut stream = message(b'H', b"\x01\0\0");
        for row in &rows {
            stream.extend(message(b'd', row));
        }
        for (tag, body) in [(b'N', &b"a notice"[..]), (b'c', b""), (b'C', b"COPY 200\0"), (b'Z', b"T")] {
            stream.extend(message(tag, body));
        }
        for size in [1, 3, 64, 1000, stream.len()] {
            let (taken, result) = told(stream.chunks(size).map(<[u8]>::to_vec).collect()).await;
            result.expect("copied");
            assert_eq!(taken, rows, "in pieces of {size} bytes");
        }
    }

    #[tokio::test]
    async fn what_may_not_be_read_says_so() {
        let denied = message(b'E', b"SERROR\0C42501\0Mpermission denied for table orders_p0\0\0");
        let (_, result) = told(vec![denied]).await;
        let Err(StoreError::Unavailable(error)) = result else { panic!("{result:?}") };
        assert_eq!(error.to_string(), "permission denied for table orders_p0 (42501)");
    }

    #[tokio::test]
    async fn whatever_ends_a_copy_early_is_an_error_that_says_why() {
        let row = message(b'd', b"row");
        let error = message(b'E', b"SERROR\0C57014\0Mcanceling statement\0\0");
        for (last, why) in [
            (error, "canceling statement (57014)"),
            (Vec::new(), "the server closed the connection"),
            (message(b'd', b"half a row")[..9].to_vec(), "the server closed the connection"),
            (b"d\0\0\0\x03".to_vec(), "the server sent what is no message"),
            (b"d\xff\xff\xff\xff".to_vec(), "the server sent what is no message"),
        ] {
            let (taken, result) = told(vec![row.clone(), last]).await;
            assert_eq!(taken, [b"row"]);
            let Err(StoreError::Unavailable(error)) = result else { panic!("{why}: {result:?}") };
            assert_eq!(error.to_string(), why);
        }
    }
}
