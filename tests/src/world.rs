//! A world for workspaces to reach, or not: servers on this machine that count
//! who came.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use compyd::{adapters::world::SystemWorld, ports::world::WorldPort as _};
use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    net::{TcpListener, TcpStream, UdpSocket},
    task::JoinSet,
};

/// What the server that may be reached says.
pub const GOOD: &str = "good-twin";
/// What the one says that nobody may reach.
pub const LEAKED: &str = "leaked-out";

/// Servers of one test; they end with it.
#[derive(Debug)]
pub struct World {
    /// On 127.0.0.1, for connections that are allowed. Serves files below its
    /// root, `/slow` without end, `/redirect` to the sink, and [`GOOD`].
    pub good: u16,
    /// On every address of this machine, TCP and UDP: whoever comes has leaked,
    /// and is told [`LEAKED`].
    pub sink: u16,
    leaks: Arc<AtomicUsize>,
    _tasks: JoinSet<()>,
}

impl World {
    /// Starts the servers; the good one serves files below `root`.
    ///
    /// # Panics
    /// When this machine has no ports left.
    pub async fn start(root: &Path) -> Self {
        let leaks = Arc::new(AtomicUsize::new(0));
        let mut tasks = JoinSet::new();
        let any = |port| SocketAddr::from((Ipv4Addr::UNSPECIFIED, port));
        let tcp = TcpListener::bind(any(0)).await.expect("a port is free");
        let sink = tcp.local_addr().expect("it is bound").port();
        let udp = UdpSocket::bind(any(sink))
            .await
            .expect("the port is free for UDP");
        let good = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
            .await
            .expect("a port is free");
        let good_port = good.local_addr().expect("it is bound").port();
        let seen = leaks.clone();
        tasks.spawn(async move {
            loop {
                let Ok((mut stream, _)) = tcp.accept().await else {
                    continue;
                };
                seen.fetch_add(1, Ordering::SeqCst);
                // It need not be heard.
                let _ = stream.write_all(answer(LEAKED).as_bytes()).await;
            }
        });
        let seen = leaks.clone();
        tasks.spawn(async move {
            while let Ok((_, from)) = udp.recv_from(&mut [0; 1]).await {
                seen.fetch_add(1, Ordering::SeqCst);
                // It need not be heard.
                let _ = udp.send_to(LEAKED.as_bytes(), from).await;
            }
        });
        let root = root.to_owned();
        tasks.spawn(async move {
            let mut clients = JoinSet::new();
            while let Ok((stream, _)) = good.accept().await {
                clients.spawn(serve(stream, root.clone(), sink));
            }
        });
        Self {
            good: good_port,
            sink,
            leaks,
            _tasks: tasks,
        }
    }

    /// How many came where nobody may come.
    #[must_use]
    pub fn leaks(&self) -> usize {
        self.leaks.load(Ordering::SeqCst)
    }

    /// An address of this machine that others reach; `None` when it has none.
    #[must_use]
    pub fn own_address() -> Option<Ipv4Addr> {
        let own = SystemWorld.own_addresses();
        own.into_iter().find_map(|address| match address {
            IpAddr::V4(address) if !address.is_loopback() && !address.is_link_local() => {
                Some(address)
            }
            IpAddr::V4(_) | IpAddr::V6(_) => None,
        })
    }
}

fn answer(body: &str) -> String {
    let length = body.len();
    format!("HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}")
}

/// One request, answered.
async fn serve(stream: TcpStream, root: PathBuf, sink: u16) {
    let mut stream = BufReader::new(stream);
    if matches!(stream.fill_buf().await, Ok([22, ..])) {
        // A TLS hello: what comes back shows that it has come.
        let _ = stream.write_all(answer(GOOD).as_bytes()).await;
        return;
    }
    let mut request = String::new();
    // Whatever is no request gets an answer, too.
    let _ = stream.read_line(&mut request).await;
    let mut header = String::new();
    while matches!(stream.read_line(&mut header).await, Ok(length) if length > 2) {
        header.clear();
    }
    let path = request.split(' ').nth(1).unwrap_or("/");
    let path = path.split('?').next().unwrap_or_default();
    let file = root.join(path.trim_start_matches('/'));
    let sent = match path {
        "/slow" => {
            let _ = stream.write_all(b"HTTP/1.1 200 OK\r\n\r\n").await;
            while stream.write_all(b"more\n").await.is_ok() {
                tokio::time::sleep(Duration::from_millis(50)).await;
            }
            return;
        }
        "/redirect" => format!(
            "HTTP/1.1 302 Found\r\nLocation: http://127.0.0.2:{sink}/\r\nContent-Length: 0\r\nConnection: close\r\n\r\n"
        )
        .into_bytes(),
        // What `npm ping` asks for.
        "/-/ping" => answer("{}").into_bytes(),
        _ if file.is_file() => {
            let body = std::fs::read(file).unwrap_or_default();
            let mut sent = format!(
                "HTTP/1.1 200 OK\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
                body.len()
            )
            .into_bytes();
            sent.extend(body);
            sent
        }
        _ if path.starts_with("/repository.git/") => {
            b"HTTP/1.1 404 None\r\nContent-Length: 0\r\nConnection: close\r\n\r\n".to_vec()
        }
        _ => answer(GOOD).into_bytes(),
    };
    let _ = stream.write_all(&sent).await;
    let _ = stream.shutdown().await;
}
