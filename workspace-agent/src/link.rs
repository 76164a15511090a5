//! How the agent comes to a byte stream with the daemon.
//!
//! Nothing above knows which way was taken. Today the agent dials the daemon's
//! socket; a second way, the stdio of one exec, takes its place beside it in
//! [`Dialler`].

use std::io;
use std::path::PathBuf;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::Stream;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::UnixStream;
use tokio::sync::oneshot;
use tonic::transport::server::Connected;

const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_millis(500);

/// A way to reach the daemon.
#[derive(Debug, Clone)]
pub(crate) enum Dialler {
    /// The agent dials the daemon's unix socket.
    Socket(PathBuf),
}

impl Dialler {
    async fn dial(&self) -> io::Result<UnixStream> {
        match self {
            Self::Socket(path) => UnixStream::connect(path).await,
        }
    }
}

/// The links, one after the other, for ever: the next one is dialled when the
/// last one has ended. It never ends, because the server would end live calls
/// with it.
pub(crate) fn links(dialler: Dialler) -> impl Stream<Item = io::Result<Link>> {
    struct Dialling {
        dialler: Dialler,
        last: Option<oneshot::Receiver<()>>,
    }
    let start = Dialling {
        dialler,
        last: None,
    };
    futures_util::stream::unfold(start, |mut dialling| async move {
        if let Some(last) = dialling.last.take() {
            // Resolves when the link is dropped.
            let _ = last.await;
        }
        let mut pause = FIRST_PAUSE;
        let stream = loop {
            match dialling.dialler.dial().await {
                Ok(stream) => break stream,
                // Absent, refusing, restarting: all the same from in here.
                Err(_) => tokio::time::sleep(pause).await,
            }
            pause = (pause * 2).min(LONGEST_PAUSE);
        };
        let (ended, last) = oneshot::channel();
        dialling.last = Some(last);
        let link = Link {
            stream,
            _ended: ended,
        };
        Some((Ok(link), dialling))
    })
}

/// One connection to the daemon.
pub(crate) struct Link {
    stream: UnixStream,
    /// Dropped with the connection, which has the next one dialled.
    _ended: oneshot::Sender<()>,
}

impl Connected for Link {
    type ConnectInfo = ();

    fn connect_info(&self) -> Self::ConnectInfo {}
}

impl AsyncRead for Link {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Link {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
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
