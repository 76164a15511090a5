//! Bytes from anybody who reaches the daemon, as HTTP/2 and as the messages of every
//! method: on its socket, and over TLS with a token and without one. None of them
//! ends the daemon, or keeps it from answering others. It has no engine, so that
//! nothing that is asked for is made.

use std::{path::Path, time::Duration};

use compyd_proto::v1::{GetInfoRequest, system_service_client::SystemServiceClient};
use compyd_tests::{
    daemon::{Daemon, Options},
    remote::{Remote, with_tls},
};
use http_body_util::{BodyExt as _, Full};
use prost::Message as _;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::UnixStream,
    runtime::Runtime,
    time::timeout,
};
use tonic::codegen::http;
use tower::{Service as _, ServiceExt as _};

/// What every connection begins with, and the settings that follow.
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";
/// How long an answer is listened to.
const LISTENED: Duration = Duration::from_millis(60);
/// After so many inputs it is seen whether others are served.
const ASKED_AFTER: u64 = 50;

/// By which way an input comes to the daemon.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Door {
    /// The unix socket.
    Socket,
    /// TLS, without a token.
    Stranger,
    /// TLS, with the token of an admin.
    Known,
}

impl Door {
    const ALL: [Self; 3] = [Self::Socket, Self::Stranger, Self::Known];

    fn of(number: u8) -> Self {
        Self::ALL[usize::from(number) % Self::ALL.len()]
    }
}

/// A daemon whose engine is nowhere, and what it runs on.
struct Field {
    runtime: Runtime,
    daemon: Daemon,
    remote: Remote,
    /// Of an admin.
    token: String,
    tried: u64,
}

impl Field {
    fn new() -> Self {
        let runtime = Runtime::new().unwrap();
        // Where it listens is in its log. One caller is as fast here as it can be.
        let options = with_tls(Options::default())
            .engine("unix:///nonexistent/docker.sock")
            .set("log.filter", "error,compyd::app::listen=info")
            .set("remote.calls_per_second", "1000000")
            .set("remote.streams", "10000")
            .set("remote.connections", "10000")
            .set("remote.connections_per_address", "10000")
            .set("remote.connections_per_token", "10000");
        let daemon = runtime.block_on(Daemon::start_bare(options));
        let remote = Remote::of(&daemon);
        let token = runtime.block_on(daemon.token("fuzzer", "admin", &[]));
        Self {
            runtime,
            daemon,
            remote,
            token,
            tried: 0,
        }
    }

    /// Others are served as if nothing were.
    fn still_serves(&mut self) {
        self.tried += 1;
        if self.tried % ASKED_AFTER != 1 {
            return;
        }
        let asked = self.runtime.block_on(async {
            let over_tls = async {
                let transport = self.remote.connect(&self.token).await.ok()?;
                let mut system = SystemServiceClient::new(transport);
                system.get_info(GetInfoRequest {}).await.ok()
            };
            let mut system = self.daemon.system();
            let on_socket = async { system.get_info(GetInfoRequest {}).await.ok() };
            let both = async { tokio::join!(over_tls, on_socket) };
            timeout(Duration::from_secs(60), both).await
        });
        let answered = matches!(asked, Ok((Some(_), Some(_))));
        assert!(
            answered && self.daemon.has_ended().is_none(),
            "{}",
            self.daemon.log()
        );
        assert!(
            !self.daemon.log().contains("panicked"),
            "{}",
            self.daemon.log()
        );
    }
}

fn fuzz(name: &str, seeds: Vec<Vec<u8>>, target: impl FnMut(&[u8]) -> String) {
    let kept = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz");
    compyd::fuzz::run(&kept, name, seeds, target);
}

fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags, 0, 0, 0, stream], payload].concat()
}

/// A call with a token, as the first on a connection. What is fuzzed after it can
/// name its headers: path, content type, `te` and token are 65 to 62 of HPACK.
fn opening(token: &str) -> Vec<u8> {
    let text = |text: &str| {
        let length = u8::try_from(text.len()).unwrap();
        assert!(length < 127);
        [&[length][..], text.as_bytes()].concat()
    };
    let kept = |name: &str, value: &str| [&[0x40_u8][..], &text(name), &text(value)].concat();
    let headers = [
        // `:method: POST`, `:scheme: https` and `:path`.
        b"\x83\x87\x44".to_vec(),
        text("/compy.v1.SystemService/GetInfo"),
        kept("content-type", "application/grpc"),
        kept("te", "trailers"),
        kept("authorization", &format!("Bearer {token}")),
    ];
    let message = frame(0, 1, 1, b"\0\0\0\0\0");
    [frame(1, 4, 1, &headers.concat()), message].concat()
}

/// Says something on a connection; what is answered.
async fn answer_to(mut stream: impl AsyncRead + AsyncWrite + Unpin, said: &[u8]) -> Vec<u8> {
    // It may hang up before all of it.
    let _ = stream.write_all(said).await;
    let _ = stream.flush().await;
    let _ = stream.shutdown().await;
    let mut answer = Vec::new();
    let mut piece = [0; 4096];
    while let Ok(Ok(read @ 1..)) = timeout(LISTENED, stream.read(&mut piece)).await {
        answer.extend_from_slice(&piece[..read]);
        if answer.len() > 1 << 20 {
            break;
        }
    }
    answer
}

#[test]
fn whatever_bytes_a_connection_has_the_daemon_goes_on_serving() {
    let mut field = Field::new();
    let (socket, remote) = (field.daemon.socket(), field.remote.clone());
    let opening = opening(&field.token);
    // Indexed: `:method: POST`, `:scheme: http`, `:path: /`.
    let headers = frame(1, 4, 1, b"\x83\x86\x84");
    // The first byte: whether what a client begins with comes first, and the door.
    let at = |door: Door, seed: &Vec<u8>| {
        let place = Door::ALL.iter().position(|other| *other == door);
        let number = u8::try_from(place.unwrap()).unwrap();
        [&[2 * number + seed[0] % 2][..], &seed[1..]].concat()
    };
    let of_anybody = [
        [&[1][..], &headers].concat(),
        [&[1][..], &headers, &frame(0, 1, 1, b"\0\0\0\0\0")].concat(),
        [
            &[1][..],
            &frame(3, 0, 1, &[0, 0, 0, 8]),
            &frame(8, 0, 0, &[0x7f; 4]),
        ]
        .concat(),
        [&[1][..], &frame(6, 0, 0, &[0; 8]), &frame(7, 0, 0, &[0; 8])].concat(),
        [
            &[1][..],
            &frame(4, 0, 0, &[0, 3, 0, 0, 0, 1]),
            &frame(9, 4, 1, b"\x82"),
        ]
        .concat(),
        [&[0][..], PREFACE].concat(),
        b"\0GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(),
    ];
    // More calls with the same headers, on a connection that is known.
    let again = |flags: u8| frame(1, flags, 3, b"\x83\x87\xc1\xc0\xbf\xbe");
    let of_the_known = [
        [&[1][..], &again(4)].concat(),
        [&[1][..], &again(4), &frame(0, 1, 3, b"\0\0\0\0\0")].concat(),
        [&[1][..], &again(4), &frame(0, 1, 3, b"\0\0\0\0\x09\x0a")].concat(),
        [&[1][..], &again(4), &frame(3, 0, 3, &[0, 0, 0, 8])].concat(),
        [&[1][..], &again(0), &frame(9, 4, 3, b"\x40\x01a\x01b")].concat(),
    ];
    let seeds = (of_anybody.iter())
        .flat_map(|seed| [Door::Socket, Door::Stranger].map(|door| at(door, seed)))
        .chain(of_the_known.iter().map(|seed| at(Door::Known, seed)));
    fuzz("http2", seeds.collect(), |input| {
        let Some((kind, bytes)) = input.split_first() else {
            return String::new();
        };
        let door = Door::of(kind / 2);
        let begun = match (kind % 2, door) {
            (0, _) => Vec::new(),
            (_, Door::Socket | Door::Stranger) => PREFACE.to_vec(),
            (_, Door::Known) => [PREFACE, opening.as_slice()].concat(),
        };
        let said = [begun.as_slice(), bytes].concat();
        let answer = field.runtime.block_on(async {
            if door == Door::Socket {
                let stream = UnixStream::connect(&socket).await;
                answer_to(stream.expect("the daemon listens"), &said).await
            } else {
                let stream = remote.dial().await;
                answer_to(stream.expect("the daemon listens"), &said).await
            }
        });
        field.still_serves();
        // The kinds of the frames that came back, and the codes of errors.
        let mut kinds = String::new();
        let mut rest = answer.as_slice();
        while let Some((head, after)) = rest.split_at_checked(9) {
            let length = usize::from(head[1]) << 8 | usize::from(head[2]);
            let payload = &after[..length.min(after.len())];
            let letter = |number: u8| char::from(b'a' + number % 26);
            kinds.push(letter(head[3]));
            if head[3] == 7 {
                kinds.extend(
                    payload
                        .get(7)
                        .map(|code| letter(*code).to_ascii_uppercase()),
                );
            }
            rest = &after[length.min(after.len())..];
        }
        kinds
    });
}

/// The paths of all methods.
fn methods() -> Vec<String> {
    let files = prost_types::FileDescriptorSet::decode(compyd_proto::FILE_DESCRIPTOR_SET).unwrap();
    let files = files
        .file
        .iter()
        .filter(|file| file.package() == "compy.v1");
    let services = files.flat_map(|file| &file.service);
    let methods = services.flat_map(|service| {
        let of = |method: &prost_types::MethodDescriptorProto| {
            format!("/compy.v1.{}/{}", service.name(), method.name())
        };
        service.method.iter().map(of)
    });
    methods.collect()
}

#[test]
fn whatever_a_request_says_it_is_answered_or_refused() {
    let mut field = Field::new();
    let methods = methods();
    assert!((30..=255).contains(&methods.len()), "{}", methods.len());
    // Fields 1 to 3 as texts, and as messages with a text.
    let texts = b"\x0a\x01w\x12\x04main\x1a\x24se-00000000-0000-0000-0000-000000000000";
    let nested = b"\x0a\x06\x0a\x01w\x10\x01\x12\x04\x0a\x02ok\x1a\x03\x08\x96\x01";
    // The second byte: how a message is framed, and the door.
    let seeds = (0..methods.len()).flat_map(|method| {
        let method = u8::try_from(method).expect("there are fewer");
        let on_socket = [&b""[..], texts, nested].map(|message| [&[method, 0], message].concat());
        let over_tls = [4, 8].map(|framing| [&[method, framing][..], texts].concat());
        on_socket.into_iter().chain(over_tls)
    });
    let channels = {
        let _entered = field.runtime.enter();
        Door::ALL.map(|door| match door {
            Door::Socket => compyd_tests::daemon::channel(&field.daemon.socket()),
            Door::Stranger | Door::Known => field.remote.channel(),
        })
    };
    fuzz("methods", seeds.collect(), |input| {
        let [method, framing, message @ ..] = input else {
            return String::new();
        };
        let path = &methods[usize::from(*method) % methods.len()];
        let door = Door::of(framing / 4);
        let body = match framing % 4 {
            3 => message.to_vec(),
            _ => {
                let length = u32::try_from(message.len()).unwrap().to_be_bytes();
                [&[0][..], &length, message].concat()
            }
        };
        let mut channel = channels[usize::from(framing / 4) % channels.len()].clone();
        let status = field.runtime.block_on(async {
            let mut request = http::Request::post(format!("http://localhost{path}"))
                .header("content-type", "application/grpc")
                .header("te", "trailers")
                .body(tonic::body::Body::new(Full::new(bytes::Bytes::from(body))))
                .unwrap();
            if door == Door::Known {
                let token = http::HeaderValue::try_from(format!("Bearer {}", field.token));
                (request.headers_mut()).insert("authorization", token.unwrap());
            }
            let channel = channel.ready().await.expect("the daemon listens");
            let Ok(answer) = timeout(Duration::from_secs(5), channel.call(request)).await else {
                return "it takes long".to_owned();
            };
            let Ok(answer) = answer else {
                return "it is cut".to_owned();
            };
            if let Some(status) = answer.headers().get("grpc-status") {
                return format!("{status:?} {:?}", answer.headers().get("grpc-message"));
            }
            // Streams may go on for ever.
            let mut body = answer.into_body();
            let mut frames = 0;
            while let Ok(Some(Ok(frame))) = timeout(LISTENED, body.frame()).await {
                frames += 1;
                if let Some(trailers) = frame.trailers_ref() {
                    return format!("{:?}", trailers.get("grpc-status"));
                }
                if frames == 20 {
                    break;
                }
            }
            "it streams".to_owned()
        });
        // Of those without a token nothing is looked at.
        let is_refused = status.starts_with("\"16\"");
        let is_ended = matches!(status.as_str(), "it takes long" | "it is cut");
        assert!(
            door != Door::Stranger || is_refused || is_ended,
            "{path}: {status}"
        );
        field.still_serves();
        format!("{door:?} {path} {status}")
    });
}
