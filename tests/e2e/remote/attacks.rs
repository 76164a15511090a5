//! Those who want to be in the way: each of them is shut out or held to its share,
//! and somebody else is served all the while.

use std::{
    io,
    time::{Duration, Instant},
};

use compyd_proto::v1::{
    CheckSetupFileRequest, GetInfoRequest, setup_service_client::SetupServiceClient,
    system_service_client::SystemServiceClient,
};
use compyd_tests::{
    daemon::{Daemon, Options},
    remote::{Remote, with_tls},
    skip::skip,
};
use futures_util::future::join_all;
use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::TcpStream,
};
use tonic::Code;

use super::reason;

/// How long anybody else waits at most, also on a machine that builds meanwhile.
const PROMPTLY: Duration = Duration::from_secs(30);
/// After this, nothing unproved is there any more: ten seconds for a handshake,
/// twenty for a token.
const SHUT_OUT: Duration = Duration::from_secs(30);
/// A client's first words in HTTP/2, with empty settings.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
const HEADERS: u8 = 1;
const CONTINUATION: u8 = 9;

/// A frame of HTTP/2 on the first stream.
fn frame(kind: u8, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, 0], &1_u32.to_be_bytes(), payload].concat()
}

/// A header as HPACK writes it, without compressing anything.
fn header(name: &str, value: &str) -> Vec<u8> {
    let length = |text: &str| u8::try_from(text.len()).unwrap();
    assert!(name.len() < 127 && value.len() < 127);
    [
        &[0, length(name)],
        name.as_bytes(),
        &[length(value)],
        value.as_bytes(),
    ]
    .concat()
}

/// Calls on a new connection over TLS, and on the unix socket.
async fn others_are_served(daemon: &Daemon, remote: &Remote, token: &str) {
    let begun = Instant::now();
    let over_tls = async {
        let transport = remote.connect(token).await.unwrap();
        let mut system = SystemServiceClient::new(transport);
        system.get_info(GetInfoRequest {}).await.unwrap();
    };
    let mut system = daemon.system();
    let over_unix = async { system.get_info(GetInfoRequest {}).await.unwrap() };
    tokio::time::timeout(PROMPTLY, async { tokio::join!(over_tls, over_unix) })
        .await
        .unwrap_or_else(|_| panic!("others waited {:?}\n{}", begun.elapsed(), daemon.log()));
}

/// Writes a byte from time to time until the other end has had enough.
async fn dribble(
    stream: &mut (impl AsyncRead + AsyncWrite + Unpin),
    bytes: &[u8],
) -> io::Result<()> {
    let mut answer = [0; 1024];
    for byte in bytes.iter().cycle() {
        stream.write_all(&[*byte]).await?;
        let pause = tokio::time::sleep(Duration::from_millis(500));
        tokio::select! {
            read = stream.read(&mut answer) => if read? == 0 { return Ok(()); },
            () = pause => {}
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn who_is_slow_is_shut_out_while_others_are_served() {
    let daemon = Daemon::start_bare(with_tls(Options::default())).await;
    let remote = Remote::of(&daemon);
    let token = daemon.token("other", "reader", &[]).await;
    // A handshake, a preface and headers that never come to their ends, a byte at a
    // time. The record of TLS says that it is long.
    let handshakes = (0..40).map(|_| {
        let remote = remote.clone();
        tokio::spawn(async move {
            let mut stream = TcpStream::connect(remote.address).await?;
            stream
                .write_all(&[22, 3, 1, 2, 0, 1, 0, 1, 252, 3, 3])
                .await?;
            dribble(&mut stream, &[7]).await
        })
    });
    let prefaces = (0..40).map(|_| {
        let remote = remote.clone();
        tokio::spawn(async move {
            let mut stream = remote.dial().await?;
            dribble(&mut stream, &PREFACE[..20]).await
        })
    });
    let headers = (0..40).map(|_| {
        let remote = remote.clone();
        tokio::spawn(async move {
            let mut stream = remote.dial().await?;
            stream.write_all(PREFACE).await?;
            let bytes = frame(HEADERS, &vec![0; 16_000]);
            stream.write_all(&bytes[..9]).await?;
            dribble(&mut stream, &[0]).await
        })
    });
    let slow: Vec<_> = handshakes.chain(prefaces).chain(headers).collect();
    let begun = Instant::now();
    let mut served = 0;
    while !slow.iter().all(tokio::task::JoinHandle::is_finished) {
        others_are_served(&daemon, &remote, &token).await;
        served += 1;
        assert!(
            begun.elapsed() < SHUT_OUT + PROMPTLY,
            "somebody slow is still there"
        );
        tokio::time::sleep(Duration::from_millis(200)).await;
    }
    assert!(served > 3, "others were served {served} times");
    others_are_served(&daemon, &remote, &token).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_flood_of_headers_ends_its_connection_and_takes_no_memory() {
    let daemon = Daemon::start_bare(with_tls(Options::default())).await;
    let remote = Remote::of(&daemon);
    let token = daemon.token("other", "reader", &[]).await;
    others_are_served(&daemon, &remote, &token).await;
    let before = resident_kib(&daemon);
    let many = header(&"n".repeat(60), &"v".repeat(60)).repeat(120);
    let floods = (0..8).map(|_| {
        let (remote, many) = (remote.clone(), many.clone());
        tokio::spawn(async move {
            let mut stream = remote.dial().await.unwrap();
            stream.write_all(PREFACE).await.unwrap();
            stream.write_all(&frame(HEADERS, &many)).await.unwrap();
            // 150 MiB of headers that go on and on.
            for sent in 0..10_000 {
                let more = frame(CONTINUATION, &many);
                if stream.write_all(&more).await.is_err() || stream.flush().await.is_err() {
                    return sent;
                }
            }
            10_000
        })
    });
    let floods: Vec<_> = floods.collect();
    others_are_served(&daemon, &remote, &token).await;
    for sent in join_all(floods).await {
        let sent = sent.unwrap();
        assert!(sent < 2_000, "{sent} frames of headers were taken");
    }
    let grown = resident_kib(&daemon).saturating_sub(before);
    assert!(grown < 64 << 10, "the daemon has grown by {grown} KiB");
    others_are_served(&daemon, &remote, &token).await;
    // A client with a token that sends more headers than are taken hears of it.
    let transport = remote.connect(&token).await.unwrap();
    let mut request = tonic::Request::new(GetInfoRequest {});
    let long = "x".repeat(100_000);
    request.metadata_mut().insert("long", long.parse().unwrap());
    let refused = SystemServiceClient::new(transport).get_info(request).await;
    assert!(refused.is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_message_that_is_too_large_is_refused_and_the_connection_goes_on() {
    let options = with_tls(Options::default()).set("remote.message_max", "64KiB");
    let daemon = Daemon::start_bare(options).await;
    let remote = Remote::of(&daemon);
    let token = daemon.token("large", "author", &[]).await;
    let transport = remote.connect(&token).await.unwrap();
    let mut setups = SetupServiceClient::new(transport);
    let check = |bytes: usize| CheckSetupFileRequest {
        content: vec![b'#'; bytes].into(),
    };
    let before = resident_kib(&daemon);
    for bytes in [64 << 10, 1 << 20, 64 << 20] {
        let refused = setups.check_setup_file(check(bytes)).await.unwrap_err();
        assert_eq!(
            refused.code(),
            Code::ResourceExhausted,
            "{bytes}: {refused:?}"
        );
        assert_eq!(reason(&refused), "MESSAGE_TOO_LARGE", "{bytes}");
        let good = setups.check_setup_file(check(60 << 10)).await;
        assert!(good.is_ok(), "{good:?}");
    }
    let grown = resident_kib(&daemon).saturating_sub(before);
    assert!(grown < 32 << 10, "the daemon has grown by {grown} KiB");
}

#[tokio::test(flavor = "multi_thread")]
async fn two_thousand_idle_connections_are_in_nobodys_way() {
    const IDLE: usize = 2_000;
    const FILES: u64 = IDLE as u64 + 200;
    let (soft, hard) = getrlimit(Resource::RLIMIT_NOFILE).unwrap();
    if soft < FILES {
        if hard < FILES {
            skip(format!(
                "a process may have {hard} files, and {FILES} are needed"
            ));
            return;
        }
        setrlimit(Resource::RLIMIT_NOFILE, FILES, hard).unwrap();
    }
    let daemon = Daemon::start_bare(with_tls(Options::default())).await;
    let remote = Remote::of(&daemon);
    let token = daemon.token("other", "reader", &[]).await;
    let kept = remote.connect(&token).await.unwrap();
    let mut kept = SystemServiceClient::new(kept);
    kept.get_info(GetInfoRequest {}).await.unwrap();
    // Half of them say nothing at all, half agree on keys first.
    let mut idle = Vec::new();
    for batch in 0..20 {
        let silent = join_all((0..IDLE / 40).map(|_| TcpStream::connect(remote.address))).await;
        let silent: Vec<_> = silent.into_iter().map(Result::unwrap).collect();
        let greeted = join_all((0..IDLE / 40).map(|_| remote.dial())).await;
        idle.push((silent, greeted));
        if batch % 5 == 4 {
            others_are_served(&daemon, &remote, &token).await;
        }
    }
    let begun = Instant::now();
    for _ in 0..10 {
        others_are_served(&daemon, &remote, &token).await;
        // Who has proved who they are is not put out for those who have not.
        kept.get_info(GetInfoRequest {}).await.unwrap();
    }
    assert!(begun.elapsed() < 10 * PROMPTLY);
    let files = std::fs::read_dir(format!("/proc/{}/fd", daemon.pid())).unwrap();
    let files = files.count();
    assert!(files < 700, "the daemon has {files} files open");
    drop(idle);
}

fn resident_kib(daemon: &Daemon) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{}/status", daemon.pid())).unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmRSS:"))
        .unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}
