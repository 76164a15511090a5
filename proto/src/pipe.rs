//! Byte streams in gRPC messages: a call that carries bytes both ways, as
//! something to read from and write to.
//!
//! Every side that carries tunnelled connections needs the same: the agent, the
//! daemon towards it, the daemon towards clients, and clients. Each direction
//! ends with an explicit `eof`, so that half-close works and a call that ends
//! without one is known to be cut. Nothing is buffered beyond a few pieces: the
//! windows of HTTP/2 hold back whoever is faster.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::{Buf as _, Bytes};
use futures_util::{Stream, StreamExt as _};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::sync::mpsc;
use tokio_util::sync::PollSender;
use tonic::Status;

use crate::{agent, link::MAX_CHUNK_BYTES, v1};

/// Bytes in one message that a pipe sends.
const PIECE_BYTES: usize = 64 * 1024;
/// Messages between a pipe and its call.
const PIECES_UNDER_WAY: usize = 4;

/// A message that carries bytes of one direction.
pub trait Piece: Send + 'static {
    /// Some bytes; `eof` when the direction ends after them.
    fn new(data: Bytes, eof: bool) -> Self;

    /// The bytes and whether the direction ends; `None` when the message is
    /// something else.
    fn into_parts(self) -> Option<(Bytes, bool)>;
}

/// One end of a byte stream whose pieces travel as messages: `In` come from a
/// call, `Out` go into it.
///
/// Dropped before it was shut down, it cuts the stream: the other end reads an
/// error. A call that is dropped takes along what it has not delivered, so the
/// later one of the last shutdown and the last read waits until the other end
/// has taken everything.
#[derive(Debug)]
pub struct Pipe<In, Out: Piece> {
    inbound: In,
    /// Whether the other end has sent all it had.
    eof_seen: bool,
    /// What is left of the last piece.
    rest: Bytes,
    /// `None` once both directions have ended: that ends the call.
    outbound: Option<PollSender<Out>>,
    /// Whether this end has sent all it had.
    eof_sent: bool,
}

impl<In, Out: Piece> Pipe<In, Out> {
    /// A pipe, and the messages to feed into the call.
    pub fn new(inbound: In) -> (Self, mpsc::Receiver<Out>) {
        let (sender, outgoing) = mpsc::channel(PIECES_UNDER_WAY);
        (Self::with_sender(inbound, sender), outgoing)
    }

    /// A pipe into a call that has sent messages of its own before.
    pub fn with_sender(inbound: In, sender: mpsc::Sender<Out>) -> Self {
        Self {
            inbound,
            eof_seen: false,
            rest: Bytes::new(),
            outbound: Some(PollSender::new(sender)),
            eof_sent: false,
        }
    }
}

impl<In, Out, Message> Pipe<In, Out>
where
    In: Stream<Item = Result<Message, Status>> + Unpin,
    Out: Piece,
{
    /// Where both directions have ended: ends the call and waits for the other
    /// end to do the same.
    fn poll_ended(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if self.eof_seen && self.eof_sent {
            self.outbound = None;
            while let Some(Ok(_)) = ready!(self.inbound.poll_next_unpin(cx)) {}
        }
        Poll::Ready(())
    }
}

impl<In, Out, Message> AsyncRead for Pipe<In, Out>
where
    In: Stream<Item = Result<Message, Status>> + Unpin,
    Message: Piece,
    Out: Piece,
{
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        while self.rest.is_empty() {
            if self.eof_seen {
                return self.poll_ended(cx).map(Ok);
            }
            let piece = match ready!(self.inbound.poll_next_unpin(cx)) {
                Some(Ok(message)) => message.into_parts(),
                Some(Err(status)) => {
                    let message = status.message().to_owned();
                    return Poll::Ready(Err(io::Error::new(
                        io::ErrorKind::ConnectionReset,
                        message,
                    )));
                }
                None => return Poll::Ready(Err(io::ErrorKind::ConnectionReset.into())),
            };
            let Some((data, eof)) = piece.filter(|(data, _)| data.len() <= MAX_CHUNK_BYTES) else {
                return Poll::Ready(Err(io::ErrorKind::InvalidData.into()));
            };
            self.rest = data;
            self.eof_seen = eof;
        }
        let length = self.rest.len().min(buf.remaining());
        buf.put_slice(&self.rest[..length]);
        self.rest.advance(length);
        Poll::Ready(Ok(()))
    }
}

impl<In, Out, Message> AsyncWrite for Pipe<In, Out>
where
    In: Stream<Item = Result<Message, Status>> + Unpin,
    Message: Piece,
    Out: Piece,
{
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let eof_sent = self.eof_sent;
        let Some(outbound) = self.outbound.as_mut().filter(|_| !eof_sent) else {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        };
        if ready!(outbound.poll_reserve(cx)).is_err() {
            return Poll::Ready(Err(io::ErrorKind::BrokenPipe.into()));
        }
        let length = buf.len().min(PIECE_BYTES);
        let piece = Out::new(Bytes::copy_from_slice(&buf[..length]), false);
        match outbound.send_item(piece) {
            Ok(()) => Poll::Ready(Ok(length)),
            Err(_) => Poll::Ready(Err(io::ErrorKind::BrokenPipe.into())),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let eof_sent = self.eof_sent;
        if let Some(outbound) = self.outbound.as_mut().filter(|_| !eof_sent) {
            // Whoever has gone needs no end any more.
            if ready!(outbound.poll_reserve(cx)).is_ok() {
                let _ = outbound.send_item(Out::new(Bytes::new(), true));
            }
            self.eof_sent = true;
        }
        self.poll_ended(cx).map(Ok)
    }
}

impl Piece for agent::TunnelBytes {
    fn new(data: Bytes, eof: bool) -> Self {
        Self { data, eof }
    }

    fn into_parts(self) -> Option<(Bytes, bool)> {
        Some((self.data, self.eof))
    }
}

impl Piece for agent::ConnectRequest {
    fn new(data: Bytes, eof: bool) -> Self {
        let bytes = agent::TunnelBytes { data, eof };
        Self {
            part: Some(agent::connect_request::Part::Bytes(bytes)),
        }
    }

    fn into_parts(self) -> Option<(Bytes, bool)> {
        match self.part? {
            agent::connect_request::Part::Bytes(bytes) => bytes.into_parts(),
            agent::connect_request::Part::Verdict(_) => None,
        }
    }
}

impl Piece for agent::DialRequest {
    fn new(data: Bytes, eof: bool) -> Self {
        let bytes = agent::TunnelBytes { data, eof };
        Self {
            part: Some(agent::dial_request::Part::Bytes(bytes)),
        }
    }

    fn into_parts(self) -> Option<(Bytes, bool)> {
        match self.part? {
            agent::dial_request::Part::Bytes(bytes) => bytes.into_parts(),
            agent::dial_request::Part::Port(_) => None,
        }
    }
}

impl Piece for v1::PortForwardRequest {
    fn new(data: Bytes, eof: bool) -> Self {
        let bytes = v1::ForwardedBytes { data, eof };
        Self {
            part: Some(v1::port_forward_request::Part::Bytes(bytes)),
        }
    }

    fn into_parts(self) -> Option<(Bytes, bool)> {
        match self.part? {
            v1::port_forward_request::Part::Bytes(bytes) => Some((bytes.data, bytes.eof)),
            v1::port_forward_request::Part::Start(_) => None,
        }
    }
}

impl Piece for v1::PortForwardResponse {
    fn new(data: Bytes, eof: bool) -> Self {
        Self {
            bytes: Some(v1::ForwardedBytes { data, eof }),
        }
    }

    fn into_parts(self) -> Option<(Bytes, bool)> {
        self.bytes.map(|bytes| (bytes.data, bytes.eof))
    }
}

#[cfg(test)]
mod tests {
    use agent::TunnelBytes;
    use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
    use tokio_stream::wrappers::ReceiverStream;

    use super::*;

    type End =
        Pipe<futures_util::stream::BoxStream<'static, Result<TunnelBytes, Status>>, TunnelBytes>;

    /// Two ends of one stream.
    fn pair() -> (End, End) {
        let (to_left, for_left) = mpsc::channel(1);
        let (to_right, for_right) = mpsc::channel(1);
        let inbound = |pieces| ReceiverStream::new(pieces).map(Ok).boxed();
        (
            Pipe::with_sender(inbound(for_left), to_right),
            Pipe::with_sender(inbound(for_right), to_left),
        )
    }

    #[tokio::test]
    async fn a_direction_that_ends_leaves_the_other_open() {
        let (mut left, mut right) = pair();
        let sent: Vec<u8> = (0..1_000_000_u32).map(|n| n as u8).collect();
        let expected = sent.clone();
        let writer = tokio::spawn(async move {
            left.write_all(&sent).await?;
            left.shutdown().await?;
            let mut answer = Vec::new();
            left.read_to_end(&mut answer).await.map(|_| answer)
        });
        let mut received = Vec::new();
        right.read_to_end(&mut received).await.unwrap();
        assert!(received == expected);
        right.write_all(b"late").await.unwrap();
        // The last one to end waits until everything has been taken.
        right.shutdown().await.unwrap();
        assert_eq!(writer.await.unwrap().unwrap(), b"late");
    }

    #[tokio::test]
    async fn an_end_that_is_dropped_is_a_cut_and_no_end() {
        let (mut left, mut right) = pair();
        left.write_all(b"half").await.unwrap();
        drop(left);
        let mut received = Vec::new();
        let error = right.read_to_end(&mut received).await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::ConnectionReset);
        assert_eq!(received, b"half");
        let error = right.write_all(b"x").await.unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
    }

    #[tokio::test]
    async fn a_reader_that_stands_still_holds_the_writer_back() {
        let (mut left, _right) = pair();
        let flood = vec![0; 10 * PIECE_BYTES];
        let writing =
            tokio::time::timeout(std::time::Duration::from_millis(50), left.write_all(&flood));
        assert!(writing.await.is_err(), "ten pieces went into room for one");
    }
}
