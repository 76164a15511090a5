//! Connections over TCP: taken in, encrypted, and closed when they stand around.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use rustls::ServerConfig;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::mpsc,
    time::{Sleep, sleep, timeout},
};
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::{
    sync::{CancellationToken, WaitForCancellationFutureOwned},
    task::TaskTracker,
};
use tonic::transport::server::Connected;

use super::connections::{Connections, Peer};

/// How long a client may take to agree on keys.
const HANDSHAKE: Duration = Duration::from_secs(10);
/// How long a connection may be there before somebody has proved who they are.
const PROOF: Duration = Duration::from_secs(20);
/// Connections that are ready and not served yet.
const READY: usize = 64;
/// After a failure that the next connection may meet as well, like too many files.
const REST: Duration = Duration::from_millis(100);

/// Takes connections in until `stop`, each in a task of its own, which is
/// aborted by nothing but its own time-out. With `tls`, they are encrypted.
pub(super) fn accept(
    listener: TcpListener,
    tls: Option<Arc<ServerConfig>>,
    connections: Connections,
    stop: CancellationToken,
) -> (
    ReceiverStream<io::Result<Incoming>>,
    impl Future<Output = ()>,
) {
    let (ready, incoming) = mpsc::channel(READY);
    let accepting = async move {
        let greeted = TaskTracker::new();
        while let Some(accepted) = stop.run_until_cancelled(listener.accept()).await {
            let (stream, address) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    tracing::warn!(%error, "a connection cannot be taken in");
                    sleep(REST).await;
                    continue;
                }
            };
            let Some(connection) = connections.admit(address) else {
                tracing::debug!(%address, "a connection is refused: there are too many");
                continue;
            };
            // Answers are small, and somebody waits for each.
            let _ = stream.set_nodelay(true);
            let (ready, peer) = (
                ready.clone(),
                Peer {
                    address,
                    tls: tls.is_some(),
                    connection,
                },
            );
            let tls = tls.clone();
            greeted.spawn(async move {
                match greet(stream, tls, peer).await {
                    // Nobody takes it when the server ends.
                    Ok(incoming) => drop(ready.send(Ok(incoming)).await),
                    Err(error) => tracing::debug!(%address, %error, "a connection was not made"),
                }
            });
        }
        // Nobody waits for those who have not said who they are.
        connections.close_unproved();
        greeted.close();
        greeted.wait().await;
    };
    (ReceiverStream::new(incoming), accepting)
}

async fn greet(
    stream: TcpStream,
    tls: Option<Arc<ServerConfig>>,
    peer: Peer,
) -> io::Result<Incoming> {
    let closed = peer.connection.closed();
    let unproved = Box::pin(sleep(PROOF));
    let stream = match tls {
        None => Stream::Plain(stream),
        Some(config) => {
            let handshake = TlsAcceptor::from(config).accept(stream);
            let handshake = tokio::select! {
                () = peer.connection.closed() => return Err(gone()),
                handshake = timeout(HANDSHAKE, handshake) => handshake,
            };
            let stream = handshake.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))?;
            Stream::Tls(Box::new(stream?))
        }
    };
    Ok(Incoming {
        stream,
        closed: Box::pin(closed),
        unproved: Some(unproved),
        peer,
    })
}

fn gone() -> io::Error {
    io::Error::new(
        io::ErrorKind::ConnectionAborted,
        "nobody has proved on it who they are",
    )
}

enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// A connection over TCP.
pub(super) struct Incoming {
    stream: Stream,
    closed: Pin<Box<WaitForCancellationFutureOwned>>,
    /// Until somebody has proved who they are.
    unproved: Option<Pin<Box<Sleep>>>,
    peer: Peer,
}

impl Incoming {
    /// Fails when the connection has to go.
    fn check(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        if self.closed.as_mut().poll(cx).is_ready() {
            return Err(gone());
        }
        if let Some(unproved) = &mut self.unproved
            && unproved.as_mut().poll(cx).is_ready()
        {
            if !self.peer.connection.is_proved() {
                return Err(gone());
            }
            self.unproved = None;
        }
        Ok(())
    }
}

impl Connected for Incoming {
    type ConnectInfo = Peer;

    fn connect_info(&self) -> Peer {
        self.peer.clone()
    }
}

impl AsyncRead for Incoming {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.check(cx)?;
        match &mut self.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_read(cx, buffer),
            Stream::Tls(stream) => Pin::new(stream).poll_read(cx, buffer),
        }
    }
}

impl AsyncWrite for Incoming {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match &mut self.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_write(cx, bytes),
            Stream::Tls(stream) => Pin::new(stream).poll_write(cx, bytes),
        }
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Stream::Tls(stream) => Pin::new(stream).poll_flush(cx),
        }
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.stream {
            Stream::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Stream::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
