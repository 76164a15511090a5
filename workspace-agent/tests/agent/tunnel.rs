//! Connections through the link: what a program sees of a verdict, and bytes
//! both ways.

use std::time::Duration;

use compyd_proto::agent::tunnel_client::TunnelClient;
use compyd_proto::agent::verdict::Outcome;
use compyd_proto::agent::*;
use compyd_proto::link::MAX_TUNNELS;
use compyd_proto::pipe::Pipe;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tonic::{Status, Streaming};

use crate::harness::*;

type World = Pipe<Streaming<TunnelBytes>, ConnectRequest>;

/// The daemon's side: what programs want, in order, and the answers.
struct Daemon {
    client: TunnelClient<tonic::transport::Channel>,
    wanted: Streaming<Wanted>,
}

impl Daemon {
    async fn listen(rig: &Rig) -> Self {
        let mut client = rig.tunnel();
        let wanted = client.accept(AcceptRequest {}).await.unwrap().into_inner();
        Self { client, wanted }
    }

    async fn next(&mut self) -> Wanted {
        let next = tokio::time::timeout(PATIENCE, self.wanted.message()).await;
        next.expect("a program wants something").unwrap().unwrap()
    }

    async fn answer(&mut self, id: u64, outcome: Outcome) -> Result<World, Status> {
        let (sender, outgoing) = tokio::sync::mpsc::channel(4);
        let verdict = Verdict {
            id,
            outcome: Some(outcome),
        };
        let first = ConnectRequest {
            part: Some(connect_request::Part::Verdict(verdict)),
        };
        sender.send(first).await.unwrap();
        let outgoing = tokio_stream::wrappers::ReceiverStream::new(outgoing);
        let bytes = self.client.connect(outgoing).await?.into_inner();
        Ok(Pipe::with_sender(bytes, sender))
    }

    async fn allow(&mut self) -> (Wanted, World) {
        let wanted = self.next().await;
        let allowed = Outcome::Allowed(TunnelAllowed {});
        let world = self.answer(wanted.id, allowed).await.unwrap();
        (wanted, world)
    }

    async fn deny(&mut self) -> Wanted {
        let wanted = self.next().await;
        let denied = Outcome::Denied(TunnelDenied {
            code: "NOT_LISTED".into(),
            message: "evil.example is not on the list".into(),
            advice: "add it".into(),
        });
        self.answer(wanted.id, denied).await.unwrap();
        wanted
    }

    async fn fail(&mut self, kind: TunnelFailure) {
        let wanted = self.next().await;
        let failed = Outcome::Failed(TunnelFailed {
            kind: kind.into(),
            message: "it did not work".into(),
        });
        self.answer(wanted.id, failed).await.unwrap();
    }
}

async fn program(rig: &mut Rig) -> TcpStream {
    let hello = rig.client.hello(HelloRequest::default()).await.unwrap();
    let port = u16::try_from(hello.into_inner().proxy_port).unwrap();
    TcpStream::connect(("127.0.0.1", port)).await.unwrap()
}

/// A program that has said something.
async fn saying(rig: &mut Rig, words: impl AsRef<[u8]>) -> TcpStream {
    let mut program = program(rig).await;
    program.write_all(words.as_ref()).await.unwrap();
    program
}

async fn all(stream: &mut (impl tokio::io::AsyncRead + Unpin)) -> String {
    let mut text = Vec::new();
    let reading = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut text));
    reading.await.expect("it ends").unwrap();
    String::from_utf8(text).unwrap()
}

/// As many bytes as expected, compared.
async fn expect(stream: &mut (impl tokio::io::AsyncRead + Unpin), expected: impl AsRef<[u8]>) {
    let expected = expected.as_ref();
    let mut read = vec![0; expected.len()];
    let reading = tokio::time::timeout(PATIENCE, stream.read_exact(&mut read));
    reading.await.expect("the bytes come").unwrap();
    assert_eq!(
        String::from_utf8_lossy(&read),
        String::from_utf8_lossy(expected)
    );
}

const CONNECT: &str = "CONNECT a.example:443 HTTP/1.1\r\nHost: a.example:443\r\n\r\n";
const CONNECTED: &str = "HTTP/1.1 200 OK\r\n";
const GREETING: &[u8] = &[5, 1, 0];

fn socks(command: u8, kind: u8, host: &[u8], port: u16) -> Vec<u8> {
    let mut request = vec![5, command, 0, kind];
    request.extend_from_slice(host);
    request.extend_from_slice(&port.to_be_bytes());
    request
}

fn socks_reply(code: u8) -> [u8; 10] {
    [5, code, 0, 1, 0, 0, 0, 0, 0, 0]
}

/// The head of an answer, past its blank line.
async fn head(stream: &mut TcpStream) -> String {
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let byte = tokio::time::timeout(PATIENCE, stream.read_u8()).await;
        head.push(byte.expect("a head comes").unwrap());
    }
    String::from_utf8(head).unwrap()
}

#[tokio::test]
async fn connect_carries_bytes_both_ways_and_each_end_by_itself() {
    let mut rig = Rig::start().await;
    let mut daemon = Daemon::listen(&rig).await;
    let mut program = saying(&mut rig, CONNECT).await;
    let (wanted, mut world) = daemon.allow().await;
    assert_eq!(
        wanted,
        Wanted {
            id: wanted.id,
            host: "a.example".into(),
            port: 443,
            protocol: TunnelProtocol::Connect.into(),
        }
    );
    assert!(head(&mut program).await.starts_with(CONNECTED));
    let flood: Vec<u8> = (0..3_000_000_u32).map(|n| (n % 251) as u8).collect();
    let (mut from_program, mut to_world) = program.split();
    let sent = flood.clone();
    let (written, received) = tokio::join!(
        async {
            to_world.write_all(&sent).await.unwrap();
            to_world.shutdown().await.unwrap();
        },
        async {
            let mut received = Vec::new();
            world.read_to_end(&mut received).await.unwrap();
            received
        }
    );
    let () = written;
    assert!(received == flood);
    // The program has ended its direction; the world has not.
    world.write_all(b"late answer").await.unwrap();
    world.shutdown().await.unwrap();
    // Nothing of it is lost with the call.
    drop(world);
    assert_eq!(all(&mut from_program).await, "late answer");
}

#[tokio::test]
async fn a_denial_is_readable_in_every_protocol() {
    let mut rig = Rig::start().await;
    let mut daemon = Daemon::listen(&rig).await;
    for request in [
        CONNECT,
        "GET http://a.example/ HTTP/1.1\r\nHost: a.example\r\n\r\n",
    ] {
        let mut program = saying(&mut rig, request).await;
        daemon.deny().await;
        let answer = all(&mut program).await;
        assert!(
            answer.starts_with("HTTP/1.1 403 evil.example is not on the list\r\n"),
            "{answer}"
        );
        assert!(
            answer.contains("\r\nx-compy-denied: NOT_LISTED\r\n"),
            "{answer}"
        );
        assert!(
            answer.ends_with("\r\n\r\ncompy: evil.example is not on the list\nadd it\n"),
            "{answer}"
        );
    }
    let mut program = saying(&mut rig, GREETING).await;
    expect(&mut program, [5, 0]).await;
    program
        .write_all(&socks(1, 3, b"\x0cevil.example", 443))
        .await
        .unwrap();
    let wanted = daemon.deny().await;
    assert_eq!((wanted.host.as_str(), wanted.port), ("evil.example", 443));
    expect(&mut program, socks_reply(2)).await;
    assert_eq!(all(&mut program).await, "");
}

#[tokio::test]
async fn a_failure_is_not_a_denial() {
    let mut rig = Rig::start().await;
    let mut daemon = Daemon::listen(&rig).await;
    for (kind, status, reply) in [
        (TunnelFailure::Unresolved, 502, 4),
        (TunnelFailure::Refused, 502, 5),
        (TunnelFailure::Unreachable, 502, 3),
        (TunnelFailure::Timeout, 504, 6),
    ] {
        let mut program = saying(&mut rig, CONNECT).await;
        daemon.fail(kind).await;
        let answer = all(&mut program).await;
        let first = format!("HTTP/1.1 {status} it did not work\r\n");
        assert!(answer.starts_with(&first), "{answer}");
        let mut program = saying(&mut rig, GREETING).await;
        expect(&mut program, [5, 0]).await;
        program
            .write_all(&socks(1, 1, &[1, 2, 3, 4], 80))
            .await
            .unwrap();
        daemon.fail(kind).await;
        expect(&mut program, socks_reply(reply)).await;
    }
}

#[tokio::test]
async fn socks_takes_names_and_addresses_and_refuses_the_rest() {
    let mut rig = Rig::start().await;
    let mut daemon = Daemon::listen(&rig).await;
    let version_6 = [0x20, 1, 0xd, 0xb8, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1];
    for (kind, host, expected) in [
        (3, &b"\x09a.example"[..], "a.example"),
        (1, &[192, 0, 2, 7], "192.0.2.7"),
        (4, &version_6, "2001:db8::1"),
    ] {
        let mut program = saying(&mut rig, GREETING).await;
        expect(&mut program, [5, 0]).await;
        program
            .write_all(&socks(1, kind, host, 8080))
            .await
            .unwrap();
        let (wanted, mut world) = daemon.allow().await;
        assert_eq!((wanted.host.as_str(), wanted.port), (expected, 8080));
        assert_eq!(wanted.protocol(), TunnelProtocol::Socks);
        expect(&mut program, socks_reply(0)).await;
        program.write_all(b"ping").await.unwrap();
        expect(&mut world, b"ping").await;
        world.write_all(b"pong").await.unwrap();
        expect(&mut program, b"pong").await;
    }
    // BIND, UDP ASSOCIATE, an unknown command, an unknown kind of address.
    for (command, kind, reply) in [(2, 1, 7), (3, 1, 7), (9, 1, 7), (1, 2, 8)] {
        let mut program = saying(&mut rig, GREETING).await;
        expect(&mut program, [5, 0]).await;
        program
            .write_all(&socks(command, kind, &[1, 2, 3, 4], 53))
            .await
            .unwrap();
        expect(&mut program, socks_reply(reply)).await;
    }
    // Nothing but a password is offered.
    let mut program = saying(&mut rig, [5, 1, 2]).await;
    expect(&mut program, [5, 0xff]).await;
    assert_eq!(all(&mut program).await, "");
}

#[tokio::test]
async fn a_plain_request_is_forwarded_in_origin_form_and_its_body_streams() {
    let mut rig = Rig::start().await;
    let mut daemon = Daemon::listen(&rig).await;
    let mut program = saying(
        &mut rig,
        "POST http://user@a.example:8080/x?y=1 HTTP/1.1\r\nHost: a.example:8080\r\n\
         Proxy-Authorization: Basic eA==\r\nConnection: keep-alive, X-Hop\r\nX-Hop: 1\r\n\
         Accept: */*\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n",
    )
    .await;
    let (wanted, mut world) = daemon.allow().await;
    assert_eq!(
        (wanted.host.as_str(), wanted.port, wanted.protocol()),
        ("a.example", 8080, TunnelProtocol::Http)
    );
    expect(
        &mut world,
        "POST /x?y=1 HTTP/1.1\r\nhost: a.example:8080\r\naccept: */*\r\nconnection: close\r\n\
         transfer-encoding: chunked\r\n\r\n3\r\nabc\r\n",
    )
    .await;
    // The body goes on while the answer begins.
    world
        .write_all(b"HTTP/1.1 201 Made\r\nKeep-Alive: 5\r\nContent-Length: 4\r\n\r\nab")
        .await
        .unwrap();
    let answer = head(&mut program).await.to_lowercase();
    assert!(answer.starts_with("http/1.1 201 made\r\n"), "{answer}");
    assert!(!answer.contains("keep-alive"), "{answer}");
    program.write_all(b"2\r\nde\r\n0\r\n\r\n").await.unwrap();
    expect(&mut world, "2\r\nde\r\n0\r\n\r\n").await;
    world.write_all(b"cd").await.unwrap();
    expect(&mut program, "abcd").await;
}

#[tokio::test]
async fn two_requests_of_one_connection_are_two_decisions() {
    let mut rig = Rig::start().await;
    let mut daemon = Daemon::listen(&rig).await;
    let request = |host: &str| format!("GET http://{host}/ HTTP/1.1\r\nHost: {host}\r\n\r\n");
    let both = request("a.example") + &request("evil.example");
    let mut program = saying(&mut rig, both).await;
    let (wanted, mut world) = daemon.allow().await;
    assert_eq!(wanted.host, "a.example");
    expect(
        &mut world,
        "GET / HTTP/1.1\r\nhost: a.example\r\nconnection: close\r\n\r\n",
    )
    .await;
    world
        .write_all(b"HTTP/1.1 204 Nothing\r\n\r\n")
        .await
        .unwrap();
    assert!(head(&mut program).await.starts_with("HTTP/1.1 204 "));
    assert_eq!(daemon.deny().await.host, "evil.example");
    assert!(all(&mut program).await.starts_with("HTTP/1.1 403 "));
}

/// Many a program ends when a write of it fails, before it has read anything.
#[tokio::test]
async fn who_is_refused_may_say_the_rest_before_it_reads_why() {
    let mut rig = Rig::start().await;
    let mut daemon = Daemon::listen(&rig).await;
    let says_the_rest = async |mut program: TcpStream, answer: &[u8]| {
        let mut first = [0];
        let answered = tokio::time::timeout(PATIENCE, program.peek(&mut first)).await;
        answered.expect("it is refused").unwrap();
        for line in ["GET / HTTP/1.1\r\n", "Host: a.example\r\n", "\r\n"] {
            program.write_all(line.as_bytes()).await.unwrap();
            // Enough for the kernel to tell that nobody listens.
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        expect(&mut program, answer).await;
        all(&mut program).await
    };
    let denied = saying(&mut rig, CONNECT).await;
    daemon.deny().await;
    let _ = says_the_rest(denied, b"HTTP/1.1 403 ").await;
    for words in ["CONNECT a@b.example:1 HTTP/1.1\r\n\r\n", "\x04\x01\r\n"] {
        let malformed = saying(&mut rig, words).await;
        let _ = says_the_rest(malformed, b"HTTP/1.1 400 ").await;
    }
    let mut socks_bind = saying(&mut rig, GREETING).await;
    expect(&mut socks_bind, [5, 0]).await;
    let bind = socks(2, 1, &[127, 0, 0, 1], 80);
    socks_bind.write_all(&bind).await.unwrap();
    assert_eq!(says_the_rest(socks_bind, &socks_reply(7)).await, "");
}

#[tokio::test]
async fn requests_that_could_mean_two_hosts_are_refused() {
    let mut rig = Rig::start().await;
    let mut daemon = Daemon::listen(&rig).await;
    for request in [
        "GET http://a.example/ HTTP/1.1\r\nHost: evil.example\r\n\r\n",
        "GET http://a.example/ HTTP/1.1\r\nHost: a.example\r\nHost: evil.example\r\n\r\n",
        "GET / HTTP/1.1\r\nHost: a.example\r\n\r\n",
        "GET https://a.example/ HTTP/1.1\r\nHost: a.example\r\n\r\n",
        "CONNECT a.example HTTP/1.1\r\n\r\n",
        "CONNECT evil@a.example:443 HTTP/1.1\r\n\r\n",
    ] {
        let mut program = saying(&mut rig, request).await;
        let answer = all(&mut program).await;
        assert!(answer.starts_with("HTTP/1.1 400 "), "{request}: {answer}");
    }
    // Nothing of it was announced: the next one is the first.
    let _program = saying(&mut rig, CONNECT).await;
    assert_eq!(daemon.next().await.host, "a.example");
}

#[tokio::test]
async fn without_a_daemon_programs_are_told_so() {
    let mut rig = Rig::start().await;
    let mut program = saying(&mut rig, CONNECT).await;
    let answer = all(&mut program).await;
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    assert!(answer.contains("no daemon is linked"), "{answer}");
    // One that asked before the link was lost is told, too.
    let mut daemon = Daemon::listen(&rig).await;
    let mut program = saying(&mut rig, CONNECT).await;
    let wanted = daemon.next().await;
    drop(daemon);
    assert!(all(&mut program).await.starts_with("HTTP/1.1 503 "));
    let mut daemon = Daemon::listen(&rig).await;
    let late = daemon.answer(wanted.id, Outcome::Allowed(TunnelAllowed {}));
    assert_eq!(reason(late.await), "CONNECTION_UNKNOWN");
}

#[tokio::test]
async fn a_second_listener_takes_the_place_of_the_first() {
    let mut rig = Rig::start().await;
    let mut first = Daemon::listen(&rig).await;
    let mut second = Daemon::listen(&rig).await;
    assert_eq!(first.wanted.message().await.unwrap(), None);
    let _program = saying(&mut rig, CONNECT).await;
    assert_eq!(second.next().await.host, "a.example");
}

#[tokio::test]
async fn a_world_that_is_cut_closes_the_program_and_the_other_way_round() {
    let mut rig = Rig::start().await;
    let mut daemon = Daemon::listen(&rig).await;
    let mut program = saying(&mut rig, CONNECT).await;
    let (_, world) = daemon.allow().await;
    head(&mut program).await;
    drop(world);
    assert_eq!(all(&mut program).await, "");

    let mut program = saying(&mut rig, CONNECT).await;
    let (_, mut world) = daemon.allow().await;
    head(&mut program).await;
    program.set_zero_linger().unwrap();
    drop(program);
    let mut nothing = Vec::new();
    let reading = tokio::time::timeout(PATIENCE, world.read_to_end(&mut nothing));
    assert!(reading.await.expect("it is cut").is_err());
}

#[tokio::test]
async fn connections_are_bounded_and_calls_go_on_beside_them() {
    let mut rig = Rig::start().await;
    let mut daemon = Daemon::listen(&rig).await;
    let mut open = Vec::new();
    for _ in 0..MAX_TUNNELS {
        let mut program = saying(&mut rig, CONNECT).await;
        let (_, world) = daemon.allow().await;
        head(&mut program).await;
        open.push((program, world));
    }
    let mut program = saying(&mut rig, CONNECT).await;
    let answer = all(&mut program).await;
    assert!(answer.starts_with("HTTP/1.1 503 "), "{answer}");
    assert!(answer.contains("too many connections"), "{answer}");
    // All of them full and nobody reads: a command still runs.
    for (_, world) in &mut open {
        let flood = vec![0; 1 << 20];
        let writing = tokio::time::timeout(Duration::from_millis(1), world.write_all(&flood));
        let _ = writing.await;
    }
    assert_eq!(rig.sh("beside", "echo on").await.text(), "on\n");
    open.pop();
    until("a place is free", async || {
        let mut program = saying(&mut rig, CONNECT).await;
        let answered = tokio::time::timeout(Duration::from_millis(200), program.read_u8());
        answered.await.is_err()
    })
    .await;
}

#[tokio::test]
async fn the_daemon_reaches_ports_of_the_loopback() {
    let rig = Rig::start().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = u32::from(listener.local_addr().unwrap().port());
    let dial = async |port: u32| {
        let (sender, outgoing) = tokio::sync::mpsc::channel(4);
        let first = DialRequest {
            part: Some(dial_request::Part::Port(port)),
        };
        sender.send(first).await.unwrap();
        let outgoing = tokio_stream::wrappers::ReceiverStream::new(outgoing);
        let bytes = rig.tunnel().dial(outgoing).await?.into_inner();
        Ok::<_, Status>(Pipe::<_, DialRequest>::with_sender(bytes, sender))
    };
    let mut ours = dial(port).await.unwrap();
    let (mut theirs, _) = listener.accept().await.unwrap();
    ours.write_all(b"ping").await.unwrap();
    ours.shutdown().await.unwrap();
    assert_eq!(all(&mut theirs).await, "ping");
    theirs.write_all(b"pong").await.unwrap();
    drop(theirs);
    assert_eq!(all(&mut ours).await, "pong");

    drop(listener);
    assert_eq!(reason(dial(port).await.map(|_| ())), "PORT_CLOSED");
    assert_eq!(reason(dial(70_000).await.map(|_| ())), "SPEC_INVALID");
}

#[tokio::test]
async fn an_ssh_client_is_brought_to_the_daemon() {
    let rig = Rig::start().await;
    let mut daemon = Daemon::listen(&rig).await;
    let socket = rig.ssh_agent();
    let mut client = tokio::net::UnixStream::connect(&socket).await.unwrap();
    let (wanted, mut agent) = daemon.allow().await;
    assert_eq!(wanted.host, compyd_proto::link::SSH_AGENT_HOST);
    client.write_all(b"list").await.unwrap();
    let mut heard = [0; 4];
    agent.read_exact(&mut heard).await.unwrap();
    assert_eq!(&heard, b"list");
    agent.write_all(b"none").await.unwrap();
    agent.shutdown().await.unwrap();
    let mut answer = Vec::new();
    client.read_to_end(&mut answer).await.unwrap();
    assert_eq!(answer, b"none");

    // One that is refused sees an agent that has gone.
    let mut client = tokio::net::UnixStream::connect(&socket).await.unwrap();
    daemon.deny().await;
    let mut answer = Vec::new();
    client.read_to_end(&mut answer).await.unwrap();
    assert_eq!(answer, b"");
}
