//! Sockets: bound before any work, stale ones removed, ours removed at the end.

use std::{
    fs, io,
    net::SocketAddr,
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::{
    net::{TcpListener, UnixListener, UnixStream},
    time::timeout,
};

use crate::{api::grpc::server::Listener, config::ListenAddress};

/// How long a socket's owner may take to accept before it counts as alive but
/// busy.
const ANSWER: Duration = Duration::from_secs(2);

/// A bound socket and, for a unix one, its file.
#[derive(Debug)]
pub struct BoundSocket {
    listener: Listener,
    guard: Option<SocketFile>,
}

/// Why a socket cannot be bound.
#[derive(Debug, thiserror::Error)]
pub enum ListenError {
    /// Somebody answers there.
    #[error("another daemon answers on {0}; stop it, or listen elsewhere")]
    InUse(String),
    /// There is a file that is no socket.
    #[error("{0} is there and is no socket; remove it, or listen elsewhere")]
    NotASocket(String),
    /// Anything else.
    #[error("cannot listen on {address}: {source}")]
    Io {
        /// The address.
        address: String,
        /// The cause.
        source: io::Error,
    },
}

impl BoundSocket {
    /// Binds. A unix socket's directory is made for this account alone where
    /// it is missing; the socket itself is for this account alone in any case.
    ///
    /// # Errors
    /// See [`ListenError`].
    pub async fn bind(address: &ListenAddress) -> Result<Self, ListenError> {
        let io_failure = |source| ListenError::Io {
            address: address.to_string(),
            source,
        };
        match address {
            ListenAddress::Tcp(tcp) => {
                let listener = TcpListener::bind(tcp).await.map_err(io_failure)?;
                Ok(Self {
                    listener: Listener::Tcp(listener),
                    guard: None,
                })
            }
            ListenAddress::Unix(path) => {
                remove_stale(path, address).await?;
                let (listener, guard) = bind_unix(path).map_err(io_failure)?;
                Ok(Self {
                    listener: Listener::Unix(listener),
                    guard: Some(guard),
                })
            }
        }
    }

    /// Where it is bound, with the port that the kernel chose.
    #[must_use]
    pub fn address(&self) -> String {
        match (&self.listener, &self.guard) {
            (Listener::Tcp(listener), _) => listener.local_addr().map_or_else(
                |_| "tcp://?".to_owned(),
                |address| format!("tcp://{address}"),
            ),
            (Listener::Unix(_), Some(guard)) => format!("unix://{}", guard.path.display()),
            (Listener::Unix(_), None) => "unix://?".to_owned(),
        }
    }

    /// The listener, and what removes its file when dropped.
    #[must_use]
    pub fn into_parts(self) -> (Listener, Option<SocketFile>) {
        (self.listener, self.guard)
    }
}

/// Binds where metrics are served.
pub(super) async fn bind_metrics(address: SocketAddr) -> Result<TcpListener, ListenError> {
    let bound = TcpListener::bind(address).await;
    let listener = bound.map_err(|source| ListenError::Io {
        address: format!("http://{address}/metrics"),
        source,
    })?;
    if let Ok(address) = listener.local_addr() {
        tracing::info!(url = %format!("http://{address}/metrics"), "metrics are served");
        if !address.ip().is_loopback() {
            tracing::warn!(%address, "whoever reaches this address can read the metrics");
        }
    }
    Ok(listener)
}

/// A socket's file; removed when dropped, if it is still the same one.
#[derive(Debug)]
pub struct SocketFile {
    path: PathBuf,
    inode: u64,
}

impl Drop for SocketFile {
    fn drop(&mut self) {
        if fs::symlink_metadata(&self.path).is_ok_and(|found| found.ino() == self.inode) {
            // The next daemon would remove it as well.
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Removes a socket that nobody answers on.
async fn remove_stale(path: &Path, address: &ListenAddress) -> Result<(), ListenError> {
    use std::os::unix::fs::FileTypeExt as _;
    match fs::symlink_metadata(path) {
        Ok(found) if !found.file_type().is_socket() => {
            return Err(ListenError::NotASocket(path.display().to_string()));
        }
        Ok(_) => {}
        Err(_) => return Ok(()),
    }
    match timeout(ANSWER, UnixStream::connect(path)).await {
        Ok(Err(error)) if error.kind() == io::ErrorKind::ConnectionRefused => {
            tracing::info!(socket = %path.display(), "removing a stale socket");
            fs::remove_file(path).map_err(|source| ListenError::Io {
                address: address.to_string(),
                source,
            })
        }
        // Answered, busy, or not ours to judge.
        _ => Err(ListenError::InUse(address.to_string())),
    }
}

fn bind_unix(path: &Path) -> io::Result<(UnixListener, SocketFile)> {
    let dir = path.parent().unwrap_or(Path::new("/"));
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(dir)?;
    // Bound under another name and moved, so that nobody can connect before
    // the mode is right, whoever may enter the directory.
    let unready = dir.join(format!(".compyd-{}.sock", std::process::id()));
    let _ = fs::remove_file(&unready);
    let listener = UnixListener::bind(&unready)?;
    let moved = fs::set_permissions(&unready, fs::Permissions::from_mode(0o600))
        .and_then(|()| fs::rename(&unready, path))
        .and_then(|()| fs::symlink_metadata(path));
    match moved {
        Ok(found) => Ok((
            listener,
            SocketFile {
                path: path.to_owned(),
                inode: found.ino(),
            },
        )),
        Err(error) => {
            let _ = fs::remove_file(&unready);
            Err(error)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn address(dir: &Path) -> ListenAddress {
        ListenAddress::Unix(dir.join("run/compyd.sock"))
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[tokio::test]
    async fn a_socket_is_for_its_account_alone_and_goes_with_its_daemon() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run/compyd.sock");
        let socket = BoundSocket::bind(&address(dir.path())).await.unwrap();
        assert_eq!(mode(&path), 0o600);
        assert_eq!(mode(path.parent().unwrap()), 0o700);
        drop(socket);
        assert_eq!(fs::read_dir(path.parent().unwrap()).unwrap().count(), 0);
    }

    #[tokio::test]
    async fn a_stale_socket_is_replaced_and_a_live_one_is_not() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run/compyd.sock");
        fs::create_dir(path.parent().unwrap()).unwrap();
        drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
        assert!(path.exists(), "a socket outlives its owner");
        let live = BoundSocket::bind(&address(dir.path())).await.unwrap();
        let refused = BoundSocket::bind(&address(dir.path())).await.unwrap_err();
        assert!(matches!(refused, ListenError::InUse(_)), "{refused}");
        drop(live);
    }

    #[tokio::test]
    async fn a_file_in_the_sockets_place_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run/compyd.sock");
        fs::create_dir(path.parent().unwrap()).unwrap();
        fs::write(&path, "precious").unwrap();
        let refused = BoundSocket::bind(&address(dir.path())).await.unwrap_err();
        assert!(matches!(refused, ListenError::NotASocket(_)), "{refused}");
        assert_eq!(fs::read(&path).unwrap(), b"precious");
    }

    #[tokio::test]
    async fn a_socket_that_was_replaced_is_not_removed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("run/compyd.sock");
        let socket = BoundSocket::bind(&address(dir.path())).await.unwrap();
        let other = dir.path().join("run/other.sock");
        let _listener = std::os::unix::net::UnixListener::bind(&other).unwrap();
        fs::rename(&other, &path).unwrap();
        drop(socket);
        assert!(path.exists());
    }

    #[tokio::test]
    async fn the_kernel_chooses_a_port() {
        let any = ListenAddress::Tcp("127.0.0.1:0".parse().unwrap());
        let socket = BoundSocket::bind(&any).await.unwrap();
        assert!(!socket.address().ends_with(":0"), "{}", socket.address());
    }
}
