//! The link itself: handshake, drops, the HTTP/2 traps.

use bytes::Bytes;
use compyd_proto::agent::attach_exec_response::Event;
use compyd_proto::agent::exit::How;
use compyd_proto::agent::*;
use compyd_proto::link;

use crate::harness::*;

#[tokio::test]
async fn hello_tells_version_boot_user_and_memory() {
    let mut rig = Rig::start_with(&["--user", "daemon"]).await;
    let request = HelloRequest {
        version: Some(ProtocolVersion { major: 1, minor: 1 }),
        workspace_id: "w".into(),
        ..HelloRequest::default()
    };
    let hello = rig.client.hello(request).await.unwrap().into_inner();
    let version = hello.version.unwrap();
    assert_eq!(
        (version.major, version.minor),
        (link::PROTOCOL_MAJOR, link::PROTOCOL_MINOR)
    );
    assert_eq!(hello.boot_id.len(), 32);
    assert!(hello.boot_id.bytes().all(|byte| byte.is_ascii_hexdigit()));
    let user = hello.default_user.unwrap();
    assert_eq!(
        (user.name.as_str(), user.uid, user.home.as_str()),
        ("daemon", 1, "/usr/sbin")
    );
    assert!(hello.resident_bytes > 500_000);
    let too_long = HelloRequest {
        version: None,
        workspace_id: "x".repeat(65),
        ..HelloRequest::default()
    };
    assert_eq!(reason(rig.client.hello(too_long).await), "SPEC_INVALID");
}

#[tokio::test]
async fn ping_returns_its_payload_up_to_a_mebibyte() {
    let mut rig = Rig::start().await;
    let payload = Bytes::from(vec![7; 1024 * 1024]);
    let answer = rig
        .client
        .ping(PingRequest {
            payload: payload.clone(),
        })
        .await
        .unwrap();
    assert_eq!(answer.into_inner().payload, payload);
    let payload = Bytes::from(vec![7; 1024 * 1024 + 1]);
    assert_eq!(
        reason(rig.client.ping(PingRequest { payload }).await),
        "SPEC_INVALID"
    );
}

#[tokio::test]
async fn a_dropped_link_is_dialled_again_and_attach_goes_on_where_it_was() {
    let mut rig = Rig::start().await;
    let script = "i=0; while [ $i -lt 300 ]; do echo line $i; echo err $i >&2; i=$((i+1)); sleep 0.002; done; exit 4";
    let mut stdout = Vec::new();
    let mut stderr = Vec::new();
    let mut stream = rig.open("long", sh(script)).await;
    let mut drops = 0;
    let exit = loop {
        let Some(message) = stream.message().await.unwrap() else {
            panic!("the stream ended without an exit")
        };
        match message.event.unwrap() {
            Event::Stdout(piece) => {
                assert_eq!(piece.offset, stdout.len() as u64);
                stdout.extend_from_slice(&piece.data);
            }
            Event::Stderr(piece) => {
                assert_eq!(piece.offset, stderr.len() as u64);
                stderr.extend_from_slice(&piece.data);
            }
            Event::Exit(exit) => break exit,
            Event::Attached(_) => {}
            Event::Gap(gap) => panic!("{gap:?}"),
        }
        if stdout.len() > (drops + 1) * 500 && drops < 5 {
            drops += 1;
            drop(stream);
            rig.reconnect().await;
            stream = rig
                .attach(AttachExecRequest {
                    stdout_offset: stdout.len() as u64,
                    stderr_offset: stderr.len() as u64,
                    ..from_start("long")
                })
                .await;
        }
    };
    assert_eq!(drops, 5);
    assert_eq!(exit.how, Some(How::Code(4)));
    let expected = |word: &str| -> String { (0..300).map(|n| format!("{word} {n}\n")).collect() };
    assert_eq!(String::from_utf8(stdout).unwrap(), expected("line"));
    assert_eq!(String::from_utf8(stderr).unwrap(), expected("err"));
}

#[tokio::test]
async fn two_thousand_cancelled_calls_do_not_end_the_connection() {
    let mut rig = Rig::start().await;
    rig.start_exec("flood", sh("head -c 20000000 /dev/zero; exec sleep 300"))
        .await;
    for _ in 0..2000 {
        let mut stream = rig.attach(from_start("flood")).await;
        stream.message().await.unwrap().unwrap();
        drop(stream);
    }
    rig.client.ping(PingRequest::default()).await.unwrap();
}

#[tokio::test]
async fn ten_unread_streams_do_not_hold_up_a_ping() {
    let mut rig = Rig::start().await;
    let mut unread = Vec::new();
    for n in 0..10 {
        let id = format!("u{n}");
        unread.push(rig.open(&id, sh("head -c 20000000 /dev/zero")).await);
    }
    for _ in 0..50 {
        let ping = rig.client.ping(PingRequest {
            payload: Bytes::from(vec![1; 100_000]),
        });
        tokio::time::timeout(PATIENCE, ping)
            .await
            .expect("a ping gets through")
            .unwrap();
    }
    // The commands were not held up either: the spool has what nobody reads.
    for n in 0..10 {
        let id = format!("u{n}");
        until("it ended", async || rig.get(&id).await.exit.is_some()).await;
        assert_eq!(rig.get(&id).await.stdout_bytes, 20_000_000);
    }
    for stream in unread {
        assert_eq!(Outcome::collect(stream).await.stdout.len(), 20_000_000);
    }
}

#[tokio::test]
async fn a_reader_that_stands_still_slows_nobody_and_misses_nothing() {
    let rig = Rig::start().await;
    let still = rig
        .open("a", sh("head -c 50000000 /dev/zero | tr '\\0' a"))
        .await;
    let other = Outcome::collect(rig.attach(from_start("a")).await).await;
    assert_eq!(other.stdout.len(), 50_000_000);
    let late = Outcome::collect(still).await;
    assert!(late.stdout == other.stdout);
}

#[tokio::test]
async fn the_daemon_may_come_late() {
    let mut rig = Rig::start().await;
    rig.start_exec("on", sh("echo on; exec sleep 300")).await;
    // Nobody accepts for a while; the agent keeps trying.
    rig.reconnect().await;
    rig.reconnect().await;
    until("it wrote", async || rig.get("on").await.stdout_bytes == 3).await;
    assert!(rig.get("on").await.exit.is_none());
}
