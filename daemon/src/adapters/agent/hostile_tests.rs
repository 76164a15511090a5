//! An agent that lies, floods, sends what is no message, or says nothing: a
//! workspace whose container was taken over. Each costs its own call an error and
//! nobody else anything.

use std::{
    convert::Infallible,
    sync::{Arc, Mutex},
    task::{Context, Poll},
};

use compyd_proto::agent as wire;
use futures_util::{FutureExt as _, StreamExt as _, future::BoxFuture, stream};
use http_body_util::StreamBody;
use prost::Message;
use tokio::net::UnixStream;
use tonic::{body::Body, server::NamedService, transport::Server};

use super::link::{AgentLink, LinkContext, Serves};
use crate::{
    domain::{
        exec::{ExecSpec, OutputOffsets, Reading, SignalTarget, SpoolLimits},
        files::{FileUpdate, FileWrite, GlobQuery, GrepQuery, ReadRange},
        ids::{ExecId, StepId, WorkspaceId},
        workspace::NetworkMode,
    },
    ports::agent::{AgentError, AgentPort as _},
};

const SERVICE: &str = "compy.agent.v1.Agent";
/// Events of a stream that a caller looks at before it has seen enough.
const EVENTS: usize = 1_000;

/// What the double answers.
#[derive(Debug, Clone)]
enum Says {
    /// These messages, and that all is well.
    Messages(Vec<Vec<u8>>),
    /// These messages, and the last of them for ever.
    Flood(Vec<Vec<u8>>),
    /// Bytes in the place of messages.
    Bytes(Vec<u8>),
    /// Nothing.
    Nothing,
}

/// An agent that answers hello as it should, and every other call as it is told.
#[derive(Clone)]
struct Double {
    says: Arc<Mutex<Says>>,
}

impl NamedService for Double {
    const NAME: &'static str = SERVICE;
}

impl tower::Service<http::Request<Body>> for Double {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<Body>) -> Self::Future {
        let says = match request.uri().path().ends_with("/Hello") {
            true => Says::Messages(vec![hello().encode_to_vec()]),
            false => self.says.lock().unwrap().clone(),
        };
        async move { Ok(answer(says).await) }.boxed()
    }
}

async fn answer(says: Says) -> http::Response<Body> {
    use http_body::Frame;
    let framed = |message: Vec<u8>| {
        let length = u32::try_from(message.len()).unwrap().to_be_bytes();
        Frame::data([&[0], &length[..], &message[..]].concat().into())
    };
    let fine = || {
        let mut trailers = http::HeaderMap::new();
        trailers.insert("grpc-status", "0".parse().unwrap());
        Frame::<bytes::Bytes>::trailers(trailers)
    };
    let frames = match says {
        Says::Messages(messages) => stream::iter(messages)
            .map(framed)
            .chain(stream::once(async move { fine() }))
            .boxed(),
        Says::Flood(messages) => {
            let last = messages.last().unwrap().clone();
            stream::iter(messages)
                .chain(stream::repeat(last))
                .map(framed)
                .boxed()
        }
        Says::Bytes(bytes) => {
            stream::iter([Frame::data(bytes::Bytes::from(bytes)), fine()]).boxed()
        }
        Says::Nothing => std::future::pending().await,
    };
    let body = StreamBody::new(frames.map(Ok::<_, Infallible>));
    let response = http::Response::builder().header("content-type", "application/grpc");
    response.body(Body::new(body)).unwrap()
}

fn hello() -> wire::HelloResponse {
    wire::HelloResponse {
        version: Some(wire::ProtocolVersion {
            major: compyd_proto::link::PROTOCOL_MAJOR,
            minor: compyd_proto::link::PROTOCOL_MINOR,
        }),
        boot_id: "0".repeat(32),
        features: vec![
            compyd_proto::link::FEATURE_VOLUMES.to_owned(),
            compyd_proto::link::FEATURE_CHANGES.to_owned(),
        ],
        ..Default::default()
    }
}

/// A link to a double, and what it is told.
struct Hostile {
    link: AgentLink,
    says: Arc<Mutex<Says>>,
}

impl Hostile {
    async fn new(says: Says) -> Self {
        let says = Arc::new(Mutex::new(says));
        let (ours, theirs) = UnixStream::pair().unwrap();
        let connections = stream::iter([Ok::<_, std::io::Error>(theirs)]);
        let double = Double { says: says.clone() };
        let server = Server::builder().add_service(double);
        tokio::spawn(server.serve_with_incoming(connections.chain(stream::pending())));
        let workspace = WorkspaceId::from_uuid(uuid::Uuid::from_u128(1));
        let context = LinkContext {
            environment: Vec::new(),
            spool: SpoolLimits::default(),
            network: NetworkMode::None,
            secrets: None,
            serves: Serves::Workspace,
        };
        let link = AgentLink::establish(ours, &workspace, context).await;
        Self {
            link: link.unwrap(),
            says,
        }
    }

    fn say(&self, says: Says) {
        *self.says.lock().unwrap() = says;
    }
}

fn exec_id() -> ExecId {
    "exec-1".parse().unwrap()
}

fn step() -> StepId {
    "step-1".parse().unwrap()
}

/// A call of the port that an agent answers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Call {
    Ping,
    Start,
    Run,
    Attach,
    WriteStdin,
    Signal,
    Get,
    List,
    ReadFile,
    WriteFile,
    ChangeFiles,
    ListDirectory,
    Glob,
    Grep,
    Stat,
    Upload,
    Download,
    CountVolumes,
    Receipts,
}

impl Call {
    const ALL: [Self; 19] = [
        Self::Ping,
        Self::Start,
        Self::Run,
        Self::Attach,
        Self::WriteStdin,
        Self::Signal,
        Self::Get,
        Self::List,
        Self::ReadFile,
        Self::WriteFile,
        Self::ChangeFiles,
        Self::ListDirectory,
        Self::Glob,
        Self::Grep,
        Self::Stat,
        Self::Upload,
        Self::Download,
        Self::CountVolumes,
        Self::Receipts,
    ];

    async fn make(self, link: &AgentLink) -> Result<(), AgentError> {
        let (id, step, spec) = (exec_id(), step(), ExecSpec::new(["true"]));
        match self {
            Self::Ping => link.ping().await,
            Self::Start => link.start(&id, &spec).await.map(drop),
            Self::Run => until_an_error(link.run(&id, &spec)).await,
            Self::Attach => {
                let from = OutputOffsets::default();
                until_an_error(link.attach(&id, from, Reading::Follow)).await
            }
            Self::WriteStdin => {
                let data = bytes::Bytes::from_static(b"data");
                link.write_stdin(&id, 0, data, true).await.map(drop)
            }
            Self::Signal => link.signal(&id, Some(&step), SignalTarget::Group(15)).await,
            Self::Get => link.get(&id).await.map(drop),
            Self::List => link.list(false).await.map(drop),
            Self::ReadFile => link.read_file("/f", &ReadRange::default()).await.map(drop),
            Self::WriteFile => {
                let write = FileWrite {
                    path: "/f".to_owned(),
                    content: Vec::new(),
                    expected_hash: None,
                    create_only: false,
                };
                link.write_file(&step, &write).await.map(drop)
            }
            Self::ChangeFiles => {
                let update = FileUpdate {
                    path: "/f".to_owned(),
                    expected_hash: None,
                    to: None,
                    mode: None,
                };
                link.change_files(&step, &[update]).await.map(drop)
            }
            Self::ListDirectory => link.list_directory("/", None).await.map(drop),
            Self::Glob => link.glob(&GlobQuery::default()).await.map(drop),
            Self::Grep => link.grep(&GrepQuery::default()).await.map(drop),
            Self::Stat => link.stat("/f").await.map(drop),
            Self::Upload => {
                let archive = stream::empty().boxed();
                link.upload("/", Some(&step), archive).await.map(drop)
            }
            Self::Download => until_an_error(link.download("/f")).await,
            Self::CountVolumes => link.volume_bytes().await.map(drop),
            Self::Receipts => link.receipts(&step).await.map(drop),
        }
    }

    /// What a sound agent answers.
    fn sound(self) -> Vec<Vec<u8>> {
        let exec = || Some(exec());
        let receipt = || Some(receipt());
        let events = || {
            use wire::attach_exec_response::Event;
            let output = |offset| wire::Output {
                offset,
                data: "output".into(),
            };
            [
                Event::Attached(self::exec()),
                Event::Stdout(output(0)),
                Event::Gap(wire::Gap {
                    stream: wire::Stream::Stdout.into(),
                    from: 6,
                    to: 20,
                }),
                Event::Stdout(output(20)),
                Event::Stderr(output(0)),
                Event::Exit(exit(wire::exit::How::Code(0))),
            ]
            .map(event)
            .to_vec()
        };
        let one = match self {
            Self::Run | Self::Attach => return events(),
            Self::Download => {
                let data = "archive".into();
                return vec![wire::DownloadResponse { data }.encode_to_vec(); 3];
            }
            Self::Ping => wire::PingResponse::default().encode_to_vec(),
            Self::Start => wire::StartExecResponse {
                exec: exec(),
                started: true,
            }
            .encode_to_vec(),
            Self::WriteStdin => wire::WriteStdinResponse { accepted_bytes: 4 }.encode_to_vec(),
            Self::Signal => wire::SignalExecResponse {}.encode_to_vec(),
            Self::Get => wire::GetExecResponse { exec: exec() }.encode_to_vec(),
            Self::List => wire::ListExecsResponse {
                execs: vec![self::exec(); 2],
            }
            .encode_to_vec(),
            Self::ReadFile => wire::ReadFileResponse {
                content: "text\n".to_owned(),
                first_line: 1,
                line_count: 1,
                total_lines: 1,
                total_bytes: 5,
                hash: "a".repeat(64),
                truncated: false,
            }
            .encode_to_vec(),
            Self::WriteFile => wire::WriteFileResponse { receipt: receipt() }.encode_to_vec(),
            Self::ChangeFiles => wire::ChangeFilesResponse {
                receipts: vec![self::receipt()],
            }
            .encode_to_vec(),
            Self::ListDirectory => wire::ListDirectoryResponse {
                entries: vec![info(); 2],
                truncated: false,
            }
            .encode_to_vec(),
            Self::Glob => wire::GlobResponse {
                files: vec![info(); 2],
                truncated: false,
            }
            .encode_to_vec(),
            Self::Grep => wire::GrepResponse {
                lines: vec![wire::GrepLine {
                    path: "/f".to_owned(),
                    line: 1,
                    text: "text".to_owned(),
                    matched: true,
                }],
                ..Default::default()
            }
            .encode_to_vec(),
            Self::Stat => wire::StatFileResponse {
                info: Some(info()),
                ..Default::default()
            }
            .encode_to_vec(),
            Self::Upload => wire::UploadResponse::default().encode_to_vec(),
            Self::CountVolumes => wire::CountVolumesResponse {
                bytes: 1,
                entries: 1,
            }
            .encode_to_vec(),
            Self::Receipts => wire::GetReceiptResponse {
                receipt: None,
                receipts: vec![self::receipt()],
            }
            .encode_to_vec(),
        };
        vec![one]
    }
}

/// Follows a stream for a while, or to its end.
async fn until_an_error<T>(
    events: futures_util::stream::BoxStream<'_, Result<T, AgentError>>,
) -> Result<(), AgentError> {
    let mut events = events.take(EVENTS);
    while let Some(event) = events.next().await {
        event?;
    }
    Ok(())
}

fn event(event: wire::attach_exec_response::Event) -> Vec<u8> {
    wire::AttachExecResponse { event: Some(event) }.encode_to_vec()
}

fn exec() -> wire::Exec {
    wire::Exec {
        exec_id: exec_id().to_string(),
        spec: Some(wire::ExecSpec::default()),
        ..Default::default()
    }
}

fn exit(how: wire::exit::How) -> wire::Exit {
    wire::Exit {
        how: Some(how),
        ..Default::default()
    }
}

fn receipt() -> wire::Receipt {
    wire::Receipt {
        step_id: step().to_string(),
        path: "/f".to_owned(),
        hash_after: "a".repeat(64),
        ..Default::default()
    }
}

fn info() -> wire::FileInfo {
    wire::FileInfo {
        path: "f".to_owned(),
        kind: wire::FileKind::File.into(),
        ..Default::default()
    }
}

#[tokio::test]
async fn what_a_sound_agent_says_is_believed() {
    let double = Hostile::new(Says::Nothing).await;
    for call in Call::ALL {
        double.say(Says::Messages(call.sound()));
        let made = call.make(&double.link).await;
        assert!(made.is_ok(), "{call:?}: {made:?}");
    }
}

#[tokio::test]
async fn lies_are_refused_and_said() {
    use wire::attach_exec_response::Event;
    let other = wire::Exec {
        exec_id: "exec-2".to_owned(),
        ..exec()
    };
    let nobodys = wire::Exec {
        exec_id: "../../etc".to_owned(),
        ..exec()
    };
    let ended = |how| wire::Exec {
        exit: Some(exit(how)),
        ..exec()
    };
    let got = |exec: wire::Exec| vec![wire::GetExecResponse { exec: Some(exec) }.encode_to_vec()];
    let wrote = |receipt: wire::Receipt| {
        let receipt = Some(receipt);
        vec![wire::WriteFileResponse { receipt }.encode_to_vec()]
    };
    let attached = || event(Event::Attached(exec()));
    let output = |offset, bytes: usize| {
        let data = vec![b'x'; bytes].into();
        event(Event::Stdout(wire::Output { offset, data }))
    };
    let gap = |from, to| {
        let stream = wire::Stream::Stdout.into();
        event(Event::Gap(wire::Gap { stream, from, to }))
    };
    let listed = wire::ListDirectoryResponse {
        entries: vec![info(); 10_001],
        truncated: false,
    };
    let lies: Vec<(Call, Vec<Vec<u8>>, &str)> = vec![
        (Call::Get, got(other.clone()), "is about"),
        (Call::Get, got(nobodys), "exec"),
        (Call::Get, got(ended(wire::exit::How::Code(256))), "256"),
        (
            Call::Get,
            got(ended(wire::exit::How::Signal(0))),
            "signal 0",
        ),
        (
            Call::Attach,
            vec![event(Event::Attached(other))],
            "is about",
        ),
        (Call::Attach, vec![output(0, 1)], "out of order"),
        (Call::Attach, vec![attached(), attached()], "out of order"),
        (
            Call::Attach,
            vec![attached(), output(1, 1)],
            "continues at 1",
        ),
        (
            Call::Attach,
            vec![attached(), output(0, 2 << 20)],
            "at once",
        ),
        (Call::Attach, vec![attached(), gap(5, 9)], "a gap"),
        (Call::Attach, vec![attached(), gap(0, 0)], "a gap"),
        (
            Call::Attach,
            vec![attached(), gap(0, u64::MAX), output(u64::MAX, 1)],
            "more bytes than there can be",
        ),
        (Call::Attach, vec![attached()], "ended before the command"),
        (
            Call::WriteFile,
            wrote(wire::Receipt {
                step_id: "step-2".to_owned(),
                ..receipt()
            }),
            "another step",
        ),
        (
            Call::WriteFile,
            wrote(wire::Receipt {
                path: "../f".to_owned(),
                ..receipt()
            }),
            "not absolute",
        ),
        (
            Call::WriteFile,
            wrote(wire::Receipt {
                hash_after: "../../../etc/passwd".to_owned(),
                ..receipt()
            }),
            "64 hex digits",
        ),
        (
            Call::WriteStdin,
            vec![wire::WriteStdinResponse { accepted_bytes: 1 }.encode_to_vec()],
            "1 bytes accepted of 4",
        ),
        (
            Call::ListDirectory,
            vec![listed.encode_to_vec()],
            "10001 entries",
        ),
        (
            Call::ChangeFiles,
            vec![wire::ChangeFilesResponse::default().encode_to_vec()],
            "a receipt for each",
        ),
    ];
    let double = Hostile::new(Says::Nothing).await;
    for (call, lie, said) in lies {
        double.say(Says::Messages(lie));
        let refused = call.make(&double.link).await.expect_err(said);
        assert!(refused.to_string().contains(said), "{call:?}: {refused}");
    }
    double.say(Says::Messages(Call::Ping.sound()));
    assert_eq!(Call::Ping.make(&double.link).await, Ok(()));
}

#[tokio::test]
async fn what_is_no_message_costs_its_call_and_no_memory() {
    let double = Hostile::new(Says::Nothing).await;
    let gigantic = [&[0, 0xff, 0xff, 0xff, 0xff][..], b"and no more"].concat();
    let compressed = vec![1, 0, 0, 0, 1, 0];
    let unknown = vec![7, 0, 0, 0, 1, 0];
    let nonsense = b"HTTP/1.1 400 Bad Request\r\n\r\n".to_vec();
    let truncated = vec![0, 0, 0, 0, 9, 1];
    for call in Call::ALL {
        for bytes in [&gigantic, &compressed, &unknown, &nonsense, &truncated] {
            // An archive says itself where it ends.
            if call == Call::Download && *bytes == truncated {
                continue;
            }
            double.say(Says::Bytes(bytes.clone()));
            let refused = call.make(&double.link).await;
            assert!(refused.is_err(), "{call:?} believes {bytes:?}");
        }
        double.say(Says::Messages(Call::Ping.sound()));
        assert_eq!(
            Call::Ping.make(&double.link).await,
            Ok(()),
            "after {call:?}"
        );
    }
}

#[tokio::test]
async fn a_flood_holds_up_nobody_else() {
    let double = Hostile::new(Says::Flood(Call::Download.sound())).await;
    let flood = double.link.download("/f");
    let mut flood = Box::pin(flood);
    assert!(flood.next().await.is_some());
    // Nobody reads on; it lies in its stream's window.
    double.say(Says::Messages(Call::Ping.sound()));
    for _ in 0..10 {
        assert_eq!(Call::Ping.make(&double.link).await, Ok(()));
    }
    let mut events = Call::Attach.sound();
    events.truncate(2);
    double.say(Says::Flood(events));
    let refused = Call::Attach.make(&double.link).await.unwrap_err();
    assert!(refused.to_string().contains("continues at 0"), "{refused}");
}

#[tokio::test]
async fn silence_costs_a_call_its_deadline() {
    let double = Hostile::new(Says::Nothing).await;
    tokio::time::pause();
    let refused = Call::Ping.make(&double.link).await;
    assert!(
        matches!(refused, Err(AgentError::Deadline { .. })),
        "{refused:?}"
    );
}

/// A sound answer with something changed in it that its maker did not mean.
fn garbled(random: &mut fastrand::Rng, message: &mut Vec<u8>) {
    for _ in 0..random.usize(1..4) {
        let at = random.usize(..message.len() + 1);
        match random.u8(..6) {
            0 if at < message.len() => message[at] = random.u8(..),
            1 if at < message.len() => message[at] ^= 1 << random.u8(..8),
            2 => message.truncate(at),
            // The largest number there is, in the place of a smaller one.
            3 => drop(message.splice(at..at, [0xff; 9].into_iter().chain([1]))),
            4 => message.insert(at, random.u8(..)),
            _ => {
                let piece: Vec<u8> = message[at..].to_vec();
                message.extend(piece);
            }
        }
    }
}

#[tokio::test]
async fn garbled_answers_are_errors_or_believed_and_never_the_end() {
    let torture = std::env::var_os("COMPY_TORTURE").is_some();
    let rounds: u64 = if torture { 200_000 } else { 3_000 };
    let double = Hostile::new(Says::Nothing).await;
    let (mut refused, mut believed) = (0, 0);
    for seed in 0..rounds {
        let mut random = fastrand::Rng::with_seed(seed);
        let call = Call::ALL[random.usize(..Call::ALL.len())];
        let mut messages = call.sound();
        let at = random.usize(..messages.len());
        garbled(&mut random, &mut messages[at]);
        double.say(Says::Messages(messages));
        match call.make(&double.link).await {
            Ok(()) => believed += 1,
            Err(AgentError::Deadline { .. }) => panic!("{call:?} hangs with seed {seed}"),
            Err(_) => refused += 1,
        }
    }
    assert!(refused > 0 && believed > 0, "{refused} and {believed}");
    double.say(Says::Messages(Call::Ping.sound()));
    assert_eq!(Call::Ping.make(&double.link).await, Ok(()));
}

/// What an agent answers: a call's number, then messages, each behind its length
/// in two bytes; with the highest bit, bytes in the place of messages.
#[test]
fn whatever_an_agent_answers_costs_its_own_call_at_most() {
    let seeds = (0..).zip(Call::ALL).map(|(number, call)| {
        let messages = call.sound();
        let framed = messages.iter().flat_map(|message| {
            let length = u16::try_from(message.len()).unwrap().to_be_bytes();
            [&length[..], &message[..]].concat()
        });
        std::iter::once(number).chain(framed).collect()
    });
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let double = runtime.block_on(Hostile::new(Says::Nothing));
    crate::fuzz::run_here("agent", seeds.collect(), |input| {
        let Some((number, mut rest)) = input.split_first() else {
            return String::new();
        };
        let call = Call::ALL[usize::from(number & 0x7f) % Call::ALL.len()];
        let says = match number & 0x80 {
            0 => {
                let mut messages = Vec::new();
                while let Some((length, after)) = rest.split_first_chunk() {
                    let length = usize::from(u16::from_be_bytes(*length)).min(after.len());
                    let (message, after) = after.split_at(length);
                    messages.push(message.to_vec());
                    rest = after;
                }
                Says::Messages(messages)
            }
            _ => Says::Bytes(rest.to_vec()),
        };
        double.say(says);
        let made = runtime.block_on(async {
            let limit = std::time::Duration::from_secs(8);
            tokio::time::timeout(limit, call.make(&double.link)).await
        });
        let made = made.unwrap_or_else(|_| panic!("{call:?} does not end"));
        double.say(Says::Messages(Call::Ping.sound()));
        let ping = runtime.block_on(Call::Ping.make(&double.link));
        assert!(ping.is_ok(), "the link lives on: {ping:?}");
        match made {
            Ok(()) => format!("{call:?} is believed"),
            Err(error) => format!("{call:?}: {error}"),
        }
    });
}
