//! Bytes from anybody who can open the daemon's socket: as HTTP/2, and as the
//! messages of every method. None of them ends the daemon, or keeps it from
//! answering others. It has no engine, so that nothing that is asked for is made.

use std::{path::Path, time::Duration};

use compyd_proto::v1::GetInfoRequest;
use compyd_tests::daemon::{Daemon, Options};
use http_body_util::{BodyExt as _, Full};
use prost::Message as _;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
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

/// A daemon whose engine is nowhere, and what it runs on.
struct Field {
    runtime: Runtime,
    daemon: Daemon,
    tried: u64,
}

impl Field {
    fn new() -> Self {
        let runtime = Runtime::new().unwrap();
        let options = Options::default()
            .engine("unix:///nonexistent/docker.sock")
            .set("log.filter", "error");
        let daemon = runtime.block_on(Daemon::start_bare(options));
        Self {
            runtime,
            daemon,
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
            let mut system = self.daemon.system();
            timeout(Duration::from_secs(60), system.get_info(GetInfoRequest {})).await
        });
        let answered = asked.is_ok_and(|answer| answer.is_ok());
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

#[test]
fn whatever_bytes_a_connection_has_the_daemon_goes_on_serving() {
    let mut field = Field::new();
    let socket = field.daemon.socket();
    // Indexed: `:method: POST`, `:scheme: http`, `:path: /`.
    let headers = frame(1, 4, 1, b"\x83\x86\x84");
    let seeds = vec![
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
    fuzz("http2", seeds, |input| {
        let Some((kind, bytes)) = input.split_first() else {
            return String::new();
        };
        let answer = field.runtime.block_on(async {
            let mut stream = UnixStream::connect(&socket)
                .await
                .expect("the daemon listens");
            let begun = if kind % 2 == 1 { PREFACE } else { &[] };
            // It may hang up before all of it.
            let _ = stream.write_all(&[begun, bytes].concat()).await;
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
    let seeds = (0..methods.len()).flat_map(|method| {
        let method = u8::try_from(method).expect("there are fewer");
        [&b""[..], texts, nested].map(|message| [&[method, 0], message].concat())
    });
    let channel = {
        let _entered = field.runtime.enter();
        compyd_tests::daemon::channel(&field.daemon.socket())
    };
    fuzz("methods", seeds.collect(), |input| {
        let [method, framing, message @ ..] = input else {
            return String::new();
        };
        let path = &methods[usize::from(*method) % methods.len()];
        let body = match framing % 4 {
            3 => message.to_vec(),
            _ => {
                let length = u32::try_from(message.len()).unwrap().to_be_bytes();
                [&[0][..], &length, message].concat()
            }
        };
        let mut channel = channel.clone();
        let status = field.runtime.block_on(async {
            let request = http::Request::post(format!("http://localhost{path}"))
                .header("content-type", "application/grpc")
                .header("te", "trailers")
                .body(tonic::body::Body::new(Full::new(bytes::Bytes::from(body))))
                .unwrap();
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
        field.still_serves();
        format!("{path} {status}")
    });
}
