//! A door to the daemon that loses answers: the call comes through and is done,
//! and the connection is cut when its answer comes back.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{UnixListener, UnixStream, unix::OwnedReadHalf, unix::OwnedWriteHalf},
    task::JoinSet,
};

/// HTTP/2 frames that carry an answer (RFC 9113, section 6).
const DATA: u8 = 0;
const HEADERS: u8 = 1;
/// Flag of the last frame of an answer.
const END_STREAM: u8 = 1;

/// A door on a socket of its own. Dropped, it is closed.
#[derive(Debug)]
pub struct LossyDoor {
    socket: PathBuf,
    lost: Arc<AtomicUsize>,
    /// Accepts, and carries each connection.
    _serving: JoinSet<()>,
}

impl LossyDoor {
    /// A door to the daemon's socket that loses this share of the answers that
    /// are alone on their connection: open one for each call.
    ///
    /// # Panics
    /// When the socket cannot be bound.
    #[must_use]
    pub fn open(daemon: &Path, socket: PathBuf, share: f64) -> Self {
        let listener = UnixListener::bind(&socket).expect("the door's socket can be bound");
        let lost = Arc::new(AtomicUsize::new(0));
        let (daemon, counted) = (daemon.to_owned(), lost.clone());
        let mut serving = JoinSet::new();
        serving.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                while connections.try_join_next().is_some() {}
                let (daemon, counted) = (daemon.clone(), counted.clone());
                let loses = fastrand::f64() < share;
                connections.spawn(async move {
                    let Ok(server) = UnixStream::connect(daemon).await else {
                        return;
                    };
                    if carry(client, server, loses).await {
                        counted.fetch_add(1, Ordering::Relaxed);
                    }
                });
            }
        });
        Self {
            socket,
            lost,
            _serving: serving,
        }
    }

    /// Where it is.
    #[must_use]
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// Answers lost so far.
    #[must_use]
    pub fn lost(&self) -> usize {
        self.lost.load(Ordering::Relaxed)
    }
}

/// Carries a connection to its end, or to its first answer; says whether that
/// one was lost.
async fn carry(client: UnixStream, server: UnixStream, loses: bool) -> bool {
    let (mut from_client, to_client) = client.into_split();
    let (from_server, mut to_server) = server.into_split();
    tokio::select! {
        // A client that has sent everything still waits for its answer.
        () = async {
            let _ = tokio::io::copy(&mut from_client, &mut to_server).await;
            std::future::pending().await
        } => false,
        lost = answers(from_server, to_client, loses) => lost,
    }
}

/// Hands on what the daemon sends, frame by frame. A doomed answer is held back
/// whole, and when it is complete the connection ends.
async fn answers(mut from: OwnedReadHalf, mut to: OwnedWriteHalf, loses: bool) -> bool {
    let mut head = [0_u8; 9];
    let mut payload = Vec::new();
    loop {
        if from.read_exact(&mut head).await.is_err() {
            return false;
        }
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        payload.resize(length as usize, 0);
        if from.read_exact(&mut payload).await.is_err() {
            return false;
        }
        let (kind, flags) = (head[3], head[4]);
        if loses && (kind == DATA || kind == HEADERS) {
            if flags & END_STREAM != 0 {
                return true;
            }
            continue;
        }
        if to.write_all(&head).await.is_err() || to.write_all(&payload).await.is_err() {
            return false;
        }
    }
}
