//! Requests to the world, through the tunnel and over the engine's bridge.

use std::net::{Ipv4Addr, SocketAddr};

use tokio::{
    io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader},
    net::{TcpListener, TcpStream},
    task::JoinSet,
};

use super::{Better, Field, Measured, Report};

/// Bytes of the large answer.
const LARGE_BYTES: usize = 512 << 20;
const PIECE: &[u8] = &[b'.'; 256 << 10];
const REQUESTS: usize = 200;
const DOWNLOADS: usize = 4;
/// One connection a request, and what it took: `small` in milliseconds, `large`
/// in gigabits a second. The proxy is the environment's, if there is one.
const CLIENT: &str = r#"
import http.client, os, sys, time, urllib.parse
host, what, count = sys.argv[1], sys.argv[2], int(sys.argv[3])
proxy = os.environ.get("http_proxy")
def fetch(path):
    begun = time.perf_counter()
    if proxy:
        connection = http.client.HTTPConnection(urllib.parse.urlsplit(proxy).netloc)
        connection.request("GET", "http://" + host + path, headers={"Host": host})
    else:
        connection = http.client.HTTPConnection(host)
        connection.request("GET", path)
    answer = connection.getresponse()
    buffer, seen = bytearray(1 << 20), 0
    while n := answer.readinto(buffer):
        seen += n
    connection.close()
    assert answer.status == 200, answer.status
    return seen, time.perf_counter() - begun
for _ in range(count):
    seen, taken = fetch("/" + what)
    print(taken * 1e3 if what == "small" else seen * 8 / taken / 1e9)
"#;

/// Measures requests of a workspace without a network beside those of one on the
/// bridge, to a server at an address of this machine that both may reach.
pub async fn measure(field: &Field, own: Ipv4Addr, report: &mut Report) {
    let listener = TcpListener::bind((own, 0)).await.expect("a port is free");
    let server = listener.local_addr().expect("it is bound");
    let mut tasks = JoinSet::new();
    tasks.spawn(serve(listener));
    let allowed = server.to_string();
    field
        .daemon
        .workspace("tunnel", &["--allow", &allowed])
        .await;
    field
        .daemon
        .workspace("bridge", &["--network", "bridge"])
        .await;

    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..4 {
        ours.extend(fetch(field, "tunnel", server, "small", REQUESTS / 4).await);
        theirs.extend(fetch(field, "bridge", server, "small", REQUESTS / 4).await);
    }
    report.add(
        Measured {
            name: "a request through the tunnel | over the bridge",
            unit: "ms",
            better: Better::Less,
            ours,
            theirs,
        },
        "at most 3 ms more",
        |ours, ratio| ours.p50 * (1.0 - ratio) <= 3.0,
    );
    let (mut ours, mut theirs) = (Vec::new(), Vec::new());
    for _ in 0..DOWNLOADS {
        ours.extend(fetch(field, "tunnel", server, "large", 1).await);
        theirs.extend(fetch(field, "bridge", server, "large", 1).await);
    }
    report.add(
        Measured {
            name: "download through the tunnel | over the bridge",
            unit: "Gbit/s",
            better: Better::More,
            ours,
            theirs,
        },
        "at least 1 Gbit/s",
        |ours, _| ours.p50 >= 1.0,
    );
}

async fn fetch(
    field: &Field,
    workspace: &str,
    server: SocketAddr,
    what: &str,
    count: usize,
) -> Vec<f64> {
    let script = format!("python3 - {server} {what} {count} <<'EOF'{CLIENT}EOF");
    let done = field.daemon.shell(workspace, &script).await;
    let error = String::from_utf8_lossy(&done.stderr);
    assert_eq!(done.code(), Some(0), "{workspace}: {error}");
    let numbers = done.text();
    let numbers = numbers.lines().map(|line| line.parse().expect("a number"));
    numbers.collect()
}

async fn serve(listener: TcpListener) {
    let mut clients = JoinSet::new();
    while let Ok((stream, _)) = listener.accept().await {
        clients.spawn(answer(stream));
        while clients.try_join_next().is_some() {}
    }
}

async fn answer(stream: TcpStream) -> std::io::Result<()> {
    let mut stream = BufReader::new(stream);
    let mut request = String::new();
    stream.read_line(&mut request).await?;
    let mut header = String::new();
    while stream.read_line(&mut header).await? > 2 {
        header.clear();
    }
    let large = request.contains("/large");
    let bytes = if large { LARGE_BYTES } else { 1 };
    let head = format!("HTTP/1.1 200 OK\r\nContent-Length: {bytes}\r\nConnection: close\r\n\r\n");
    stream.write_all(head.as_bytes()).await?;
    let mut left = bytes;
    while left > 0 {
        let piece = &PIECE[..left.min(PIECE.len())];
        stream.write_all(piece).await?;
        left -= piece.len();
    }
    stream.shutdown().await
}
