//! Sockets: bound before any work, stale ones removed, ours removed at the end.

use std::{
    fs, io,
    net::SocketAddr,
    os::unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use tokio::{
    net::{TcpListener, UnixListener, UnixStream},
    time::timeout,
};

use crate::{
    adapters::certificates::{Authority, Certificates, names_of},
    api::grpc::server::Listener,
    config::{ListenAddress, Settings},
};

use super::AppError;

/// How long a socket's owner may take to accept before it counts as alive but
/// busy.
const ANSWER: Duration = Duration::from_secs(2);

/// Files that may be open.
const FILES: u64 = 65_536;

/// A bound socket.
#[derive(Debug)]
pub enum BoundSocket {
    /// A unix one with its file.
    Unix(UnixListener, SocketFile),
    /// A TCP port without TLS.
    Tcp(TcpListener),
    /// A TCP port with TLS.
    Tls(TcpListener),
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
                Ok(Self::Tcp(listener))
            }
            ListenAddress::Tls(tcp) => {
                let listener = TcpListener::bind(tcp).await.map_err(io_failure)?;
                Ok(Self::Tls(listener))
            }
            ListenAddress::Unix(path) => {
                remove_stale(path, address).await?;
                let (listener, guard) = bind_unix(path).map_err(io_failure)?;
                Ok(Self::Unix(listener, guard))
            }
        }
    }

    /// Where it is bound, with the port that the kernel chose.
    #[must_use]
    pub fn address(&self) -> String {
        let (scheme, listener) = match self {
            Self::Unix(_, guard) => return format!("unix://{}", guard.path.display()),
            Self::Tcp(listener) => ("tcp", listener),
            Self::Tls(listener) => ("https", listener),
        };
        listener.local_addr().map_or_else(
            |_| format!("{scheme}://?"),
            |address| format!("{scheme}://{address}"),
        )
    }

    /// The port with TLS that it is.
    fn tls(&self) -> Option<SocketAddr> {
        match self {
            Self::Tls(listener) => listener.local_addr().ok(),
            Self::Unix(..) | Self::Tcp(_) => None,
        }
    }
}

/// The daemon's certificates for the sockets that need one; says how clients
/// trust them.
pub(super) fn certificates(
    settings: &Settings,
    sockets: &[BoundSocket],
) -> Result<Option<Certificates>, AppError> {
    let ports: Vec<SocketAddr> = sockets.iter().filter_map(BoundSocket::tls).collect();
    let Some(first) = ports.first() else {
        return Ok(None);
    };
    let names = names_of(&ports, &settings.tls_names);
    let host = match settings.tls_names.first() {
        Some(name) => name.clone(),
        None if first.ip().is_unspecified() => "HOST".to_owned(),
        None => first.ip().to_string(),
    };
    let host = match host.contains(':') {
        true => format!("[{host}]"),
        false => host,
    };
    let certificates = Certificates::open(&settings.data_dir.join("tls"), names)?;
    let fingerprint = certificates.fingerprint();
    let how = format!(
        "compyctl login https://{host}:{} --ca-fingerprint {fingerprint}",
        first.port()
    );
    match certificates.origin {
        Authority::New => tracing::info!(
            %fingerprint,
            "a certificate authority was made; trust it on another machine with a token of `compyctl token create` by: {how}"
        ),
        Authority::Kept => tracing::info!(%fingerprint, "log in from another machine by: {how}"),
    }
    Ok(Some(certificates))
}

/// The listeners, and what removes the files of unix sockets when dropped.
pub(super) fn into_listeners(
    sockets: Vec<BoundSocket>,
    certificates: Option<&Certificates>,
) -> (Vec<Listener>, Vec<SocketFile>) {
    let (mut listeners, mut guards) = (Vec::new(), Vec::new());
    let tls = certificates.map(Certificates::server_config);
    for socket in sockets {
        match (socket, &tls) {
            (BoundSocket::Unix(listener, guard), _) => {
                listeners.push(Listener::Unix(listener));
                guards.push(guard);
            }
            (BoundSocket::Tcp(listener), _) => listeners.push(Listener::Tcp(listener)),
            (BoundSocket::Tls(listener), Some(tls)) => {
                listeners.push(Listener::Tls(listener, Arc::clone(tls)));
            }
            // There are certificates wherever a port needs them.
            (BoundSocket::Tls(_), None) => {}
        }
    }
    (listeners, guards)
}

/// Allows many open files, as far as this account may have them: connections, links
/// and the store each need some, and shells give few.
pub(super) fn allow_files() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let raised = getrlimit(Resource::RLIMIT_NOFILE).and_then(|(soft, hard)| {
        let raised = soft.max(FILES.min(hard));
        setrlimit(Resource::RLIMIT_NOFILE, raised, hard)
    });
    if let Err(error) = raised {
        tracing::warn!(%error, "the limit of open files stays as it is");
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
