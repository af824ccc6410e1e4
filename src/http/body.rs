//! Response bodies: an order's own bytes, an array of them, ready bytes, or a stream with back-pressure. No large order is
//! ever copied, and none is boxed.

use std::io::IoSlice;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::{Buf, Bytes};
use hyper::body::{Body as HttpBody, Frame, SizeHint};
use tokio::sync::mpsc;

use super::conn::InFlight;
use crate::snapshot::{Snapshot, SnapshotBytes};

/// Orders up to this size are gathered in an array's pieces; larger ones are pieces of their own, shared with the view.
const GATHERED_ORDER_MAX: usize = 4 << 10;
/// About the size of such a piece.
const GATHERED_BYTES: usize = 16 << 10;

/// A response body. Keeps its connection marked as busy until it is sent or dropped.
pub struct Body {
    content: Content,
    in_flight: Option<InFlight>,
}

enum Content {
    Empty,
    Order(SnapshotBytes),
    Array(Array),
    Ready(Bytes),
    Stream(mpsc::Receiver<Bytes>),
}

/// The sender of a stream went away before its end. The connection is closed in the middle of the body, which is
/// how a client learns that something is missing.
#[derive(Debug, thiserror::Error)]
#[error("the stream was cut short")]
pub struct CutShort;

/// `[a,b,…]` of flat orders, made as it is sent: however often an order is in it, its bytes are those of the view.
struct Array {
    orders: std::vec::IntoIter<Snapshot>,
    /// What stands before the next order; nothing once the array has ended.
    separator: Option<u8>,
    /// The next piece, where that is one order.
    large: Option<SnapshotBytes>,
    left: u64,
}

impl Array {
    fn next(&mut self) -> Option<Chunk> {
        if let Some(order) = self.large.take() {
            self.left -= order.remaining() as u64;
            return Some(Chunk::Order(order));
        }
        let mut piece = Vec::new();
        while let Some(separator) = self.separator
            && piece.len() < GATHERED_BYTES
        {
            let Some(order) = self.orders.next() else {
                if separator == b'[' {
                    piece.push(separator);
                }
                piece.push(b']');
                self.separator = None;
                break;
            };
            piece.push(separator);
            self.separator = Some(b',');
            if order.flat().len() > GATHERED_ORDER_MAX {
                self.large = Some(order.into_flat());
                break;
            }
            order.flat().append_to(&mut piece);
        }
        self.left -= piece.len() as u64;
        (!piece.is_empty()).then(|| Chunk::Ready(piece.into()))
    }
}

/// A piece of a body.
pub enum Chunk {
    /// An order, shared with the view.
    Order(SnapshotBytes),
    /// Anything else.
    Ready(Bytes),
}

impl Body {
    /// No body.
    #[must_use]
    pub fn empty() -> Self {
        Content::Empty.into()
    }

    /// `[a,b,…]` of flat orders.
    #[must_use]
    pub fn array(orders: Vec<Snapshot>) -> Self {
        let bytes: usize = orders.iter().map(|order| order.flat().len()).sum();
        let separators = orders.len().saturating_sub(1) + 2;
        let left = (bytes + separators) as u64;
        Content::Array(Array { orders: orders.into_iter(), separator: Some(b'['), large: None, left }).into()
    }

    /// Chunks as they come; a full channel holds the sender back. Its end must be told from a failure: it is an empty
    /// chunk, and a sender that is gone without one cuts the body short.
    #[must_use]
    pub fn stream(chunks: mpsc::Receiver<Bytes>) -> Self {
        Content::Stream(chunks).into()
    }

    /// Leaves out what it has: only its head was asked for.
    pub(super) fn leave_out(&mut self) {
        self.content = Content::Empty;
    }

    /// Marks the connection busy for as long as this body lives.
    pub(super) fn hold(&mut self, in_flight: InFlight) {
        self.in_flight = Some(in_flight);
    }
}

impl From<Content> for Body {
    fn from(content: Content) -> Self {
        Self { content, in_flight: None }
    }
}

impl From<SnapshotBytes> for Body {
    fn from(order: SnapshotBytes) -> Self {
        Content::Order(order).into()
    }
}

impl From<Bytes> for Body {
    fn from(bytes: Bytes) -> Self {
        Content::Ready(bytes).into()
    }
}

impl From<String> for Body {
    fn from(text: String) -> Self {
        Bytes::from(text).into()
    }
}

impl From<&'static str> for Body {
    fn from(text: &'static str) -> Self {
        Bytes::from_static(text.as_bytes()).into()
    }
}

impl HttpBody for Body {
    type Data = Chunk;
    type Error = CutShort;

    fn poll_frame(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Chunk>, CutShort>>> {
        let data = |bytes| Some(Ok(Frame::data(Chunk::Ready(bytes))));
        match &mut self.content {
            Content::Stream(chunks) => {
                return match std::task::ready!(chunks.poll_recv(context)) {
                    Some(bytes) if bytes.is_empty() => Poll::Ready(None),
                    Some(bytes) => Poll::Ready(data(bytes)),
                    None => Poll::Ready(Some(Err(CutShort))),
                };
            }
            Content::Array(array) => return Poll::Ready(array.next().map(|chunk| Ok(Frame::data(chunk)))),
            Content::Empty | Content::Order(_) | Content::Ready(_) => {}
        }
        let chunk = match std::mem::replace(&mut self.content, Content::Empty) {
            Content::Order(order) => Chunk::Order(order),
            Content::Ready(bytes) => Chunk::Ready(bytes),
            Content::Empty | Content::Array(_) | Content::Stream(_) => return Poll::Ready(None),
        };
        Poll::Ready(Some(Ok(Frame::data(chunk))))
    }

    fn is_end_stream(&self) -> bool {
        match &self.content {
            Content::Empty => true,
            Content::Order(order) => !order.has_remaining(),
            Content::Array(array) => array.left == 0,
            Content::Ready(bytes) => bytes.is_empty(),
            Content::Stream(_) => false,
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.content {
            Content::Empty => SizeHint::with_exact(0),
            Content::Order(order) => SizeHint::with_exact(order.remaining() as u64),
            Content::Array(array) => SizeHint::with_exact(array.left),
            Content::Ready(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Content::Stream(_) => SizeHint::default(),
        }
    }
}

impl Buf for Chunk {
    fn remaining(&self) -> usize {
        match self {
            Self::Order(order) => order.remaining(),
            Self::Ready(bytes) => bytes.remaining(),
        }
    }

    fn chunk(&self) -> &[u8] {
        match self {
            Self::Order(order) => order.chunk(),
            Self::Ready(bytes) => bytes.chunk(),
        }
    }

    fn chunks_vectored<'a>(&'a self, into: &mut [IoSlice<'a>]) -> usize {
        match self {
            Self::Order(order) => order.chunks_vectored(into),
            Self::Ready(bytes) => bytes.chunks_vectored(into),
        }
    }

    fn advance(&mut self, count: usize) {
        match self {
            Self::Order(order) => order.advance(count),
            Self::Ready(bytes) => bytes.advance(count),
        }
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt;

    use super::*;
    use crate::snapshot::{Kind, State};

    #[tokio::test]
    async fn an_array_is_as_long_as_it_says() {
        let order = |bytes: usize| {
            let body = format!("{{\"a\":\"{}\"}}", "x".repeat(bytes));
            Snapshot::new(1, 1, Kind::Wb, State::Live, body.as_bytes(), &mut Vec::new())
        };
        for sizes in [vec![], vec![1], vec![100_000], vec![1, 5000, 5000, 2], vec![1000; 100], vec![4096; 9]] {
            let orders: Vec<Snapshot> = sizes.iter().map(|&bytes| order(bytes)).collect();
            let expected: Vec<Vec<u8>> = orders.iter().map(|order| order.flat().whole().into_owned()).collect();
            let expected = [&b"["[..], &expected.join(&b','), b"]"].concat();
            let body = Body::array(orders);
            assert_eq!(body.size_hint().exact(), Some(expected.len() as u64), "{sizes:?}");
            assert!(body.collect().await.unwrap().to_bytes() == expected, "{sizes:?}");
        }
    }

    #[tokio::test]
    async fn a_stream_is_whole_if_its_sender_says_so() {
        for is_whole in [true, false] {
            let (sender, chunks) = mpsc::channel(2);
            sender.send("a".into()).await.unwrap();
            if is_whole {
                sender.send(Bytes::new()).await.unwrap();
            }
            drop(sender);
            let read = Body::stream(chunks).collect().await;
            assert_eq!(read.is_ok(), is_whole, "a sender that is gone ends no stream");
        }
    }
}
