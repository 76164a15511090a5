//! Both layers around a service that answers everything.

use std::{
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use compyd_proto::v1 as wire;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full};
use prost::Message;
use tonic::{Code, Status, body::Body, transport::server::UdsConnectInfo};
use tower::{Layer as _, Service, ServiceExt as _};

use super::{Caller, CallerLimits, admit::Admit, asker_of, guard::Guard, scope_of, subjects};
use crate::{
    adapters::memory::{ManualClock, MemoryAudit, MemoryStore},
    api::grpc::{
        connections::{ConnectionBounds, Connections, Peer},
        methods::Methods,
        status::reason,
    },
    domain::{
        access::{Presented, Role, Scope},
        audit::{Kind, Outcome},
        ids::WorkspaceId,
        secret::Secret,
    },
    service::{
        access::{
            NewToken, Tokens,
            subjects::{Subject, Subjects},
        },
        audit::Audit,
        redaction::Redactions,
        workspaces::Asker,
    },
};

fn workspace(number: u128) -> WorkspaceId {
    WorkspaceId::from_uuid(uuid::Uuid::from_u128(number))
}

/// Knows the workspaces "mine" and "other", a session of each, and a snapshot.
struct Known;

#[async_trait]
impl Subjects for Known {
    async fn workspace_of(&self, subject: &Subject) -> Option<WorkspaceId> {
        match subject {
            Subject::Workspace(text) | Subject::Session(text) | Subject::Snapshot(text) => {
                match text.as_str() {
                    "mine" => Some(workspace(1)),
                    "other" => Some(workspace(2)),
                    _ => None,
                }
            }
            Subject::Artifact(_) | Subject::Approval(_) => None,
        }
    }
}

struct World {
    tokens: Tokens,
    log: Arc<MemoryAudit>,
    clock: Arc<ManualClock>,
    admit: Admit,
    guard: Guard,
    peer: Peer,
    reached: Arc<AtomicUsize>,
    /// Held by whatever is at work for a call.
    at_work: Arc<()>,
}

impl World {
    async fn new(limits: CallerLimits) -> Self {
        let clock = Arc::new(ManualClock::at(1_000));
        let store = Arc::new(MemoryStore::new());
        let tokens = Tokens::open(store, clock.clone()).await.unwrap();
        let log = Arc::new(MemoryAudit::default());
        let audit = Audit::new(log.clone(), clock.clone(), Redactions::default());
        let connections = Connections::new(ConnectionBounds {
            total: 9,
            per_address: 9,
            per_token: 9,
        });
        let address = ([192, 0, 2, 1], 5).into();
        let methods = Arc::new(Methods::of_this_build());
        Self {
            admit: Admit::new(tokens.clone(), audit, limits),
            guard: Guard::new(
                methods,
                tokens.clone(),
                Arc::new(Known),
                limits.message_bytes,
            ),
            peer: Peer {
                address,
                tls: true,
                connection: connections.admit(address).unwrap(),
            },
            tokens,
            log,
            clock,
            reached: Arc::default(),
            at_work: Arc::default(),
        }
    }

    async fn token(&self, name: &str, role: Role, workspaces: Vec<WorkspaceId>) -> Secret {
        let new = NewToken {
            name: name.parse().unwrap(),
            role,
            workspaces,
            expires_in: Some(Duration::from_secs(60)),
        };
        self.tokens
            .create(uuid::Uuid::now_v7(), new)
            .await
            .unwrap()
            .1
    }

    /// The request of a call over TCP.
    fn request(&self, path: &str, token: &str, message: &impl Message) -> Request<Body> {
        let message = message.encode_to_vec();
        let length = u32::try_from(message.len()).unwrap().to_be_bytes();
        let body = Bytes::from([&[0], length.as_slice(), &message].concat());
        let mut request = Request::builder()
            .uri(path)
            .body(Body::new(Full::new(body).map_err(|never| match never {})))
            .unwrap();
        if !token.is_empty() {
            let value = format!("Bearer {token}").parse().unwrap();
            request.headers_mut().insert("authorization", value);
        }
        request.extensions_mut().insert(self.peer.clone());
        request
    }

    /// How a call ends, and what its handler may reach.
    async fn serve(&self, request: Request<Body>) -> Result<Scope, Status> {
        let reached = self.reached.clone();
        let inner = tower::service_fn(move |request: Request<Body>| {
            let reached = reached.clone();
            async move {
                reached.fetch_add(1, Ordering::Relaxed);
                let (parts, body) = request.into_parts();
                let scope = scope_of(&tonic::Request::from_http(Request::from_parts(parts, ())));
                let answer: Response<Body> = match body.collect().await {
                    Ok(_) => Response::builder()
                        .header("grpc-status", "0")
                        .extension(scope)
                        .body(Body::empty())
                        .unwrap(),
                    Err(status) => status.into_http(),
                };
                Ok::<_, Infallible>(answer)
            }
        });
        let mut service = self.admit.layer(self.guard.layer(inner));
        let answer = service.ready().await.unwrap().call(request).await.unwrap();
        match Status::from_header_map(answer.headers()) {
            Some(status) if status.code() != Code::Ok => Err(status),
            _ => Ok(answer.extensions().get::<Scope>().unwrap().clone()),
        }
    }

    async fn call(
        &self,
        path: &str,
        token: &Secret,
        message: &impl Message,
    ) -> Result<Scope, Status> {
        let request = self.request(path, token.expose(), message);
        self.serve(request).await
    }
}

const WIDE: CallerLimits = CallerLimits {
    calls_per_second: 100_000,
    streams: 10,
    message_bytes: 1 << 20,
};

const LIST: &str = "/compy.v1.WorkspaceService/ListWorkspaces";
const GET: &str = "/compy.v1.WorkspaceService/GetWorkspace";

fn get(workspace: &str) -> wire::GetWorkspaceRequest {
    wire::GetWorkspaceRequest {
        workspace: workspace.to_owned(),
    }
}

#[tokio::test]
async fn nobody_gets_in_without_a_token_that_is_good_and_each_try_is_a_denied_login() {
    let world = World::new(WIDE).await;
    let good = world.token("ci", Role::Admin, Vec::new()).await;
    let text = good.expose();
    let wrong = format!(
        "{}{}",
        &text[..text.len() - 1],
        if text.ends_with('0') { 1 } else { 0 }
    );
    for (token, expected) in [
        ("", "TOKEN_MISSING"),
        ("guess", "TOKEN_UNKNOWN"),
        (&wrong, "TOKEN_UNKNOWN"),
    ] {
        let request = world.request(LIST, token, &wire::ListWorkspacesRequest {});
        let refused = world.serve(request).await.unwrap_err();
        assert_eq!(refused.code(), Code::Unauthenticated);
        assert_eq!(reason(&refused), expected);
    }
    world.clock.advance(Duration::from_secs(60));
    let late = world
        .call(LIST, &good, &wire::ListWorkspacesRequest {})
        .await;
    assert_eq!(reason(&late.unwrap_err()), "TOKEN_EXPIRED");
    assert_eq!(world.reached.load(Ordering::Relaxed), 0);
    let log = world.log.entries();
    assert_eq!(log.len(), 4);
    for entry in &log {
        assert_eq!(
            (entry.kind, entry.outcome),
            (Kind::Login, Some(Outcome::Denied))
        );
        assert_eq!(entry.caller, "tcp:192.0.2.1");
    }
    // Who goes on does not fill the log.
    for _ in 0..1_000 {
        let request = world.request(LIST, "guess", &wire::ListWorkspacesRequest {});
        assert!(world.serve(request).await.is_err());
    }
    assert!(
        world.log.entries().len() < 20,
        "{}",
        world.log.entries().len()
    );
}

#[tokio::test]
async fn a_login_is_recorded_once_for_each_connection() {
    let world = World::new(WIDE).await;
    let token = world.token("ci", Role::Reader, Vec::new()).await;
    for _ in 0..3 {
        let answer = world
            .call(LIST, &token, &wire::ListWorkspacesRequest {})
            .await;
        assert_eq!(answer.unwrap(), Scope::All);
    }
    let log = world.log.entries();
    assert_eq!(log.len(), 1);
    assert_eq!(
        (log[0].kind, log[0].outcome),
        (Kind::Login, Some(Outcome::Ok))
    );
    assert_eq!(log[0].caller, "token:ci");
    assert_eq!(log[0].detail["role"], "reader");
}

#[tokio::test]
async fn the_owner_on_the_unix_socket_needs_no_token_and_who_comes_from_nowhere_has_none() {
    let world = World::new(WIDE).await;
    let mut request = Request::new(Body::empty());
    *request.uri_mut() = "/compy.v1.CredentialService/RotateMasterKey"
        .parse()
        .unwrap();
    let unix = UdsConnectInfo {
        peer_addr: None,
        peer_cred: None,
    };
    request.extensions_mut().insert(unix);
    assert_eq!(world.serve(request).await.unwrap(), Scope::All);
    let nowhere = Request::new(Body::empty());
    let refused = world.serve(nowhere).await.unwrap_err();
    assert_eq!(refused.code(), Code::Unauthenticated);
}

#[tokio::test]
async fn only_an_admin_of_everything_can_say_where_a_bundle_comes_from() {
    let world = World::new(WIDE).await;
    let asker = |caller: Option<Caller>| {
        let mut request = tonic::Request::new(());
        if let Some(caller) = caller {
            request.extensions_mut().insert(caller);
        }
        asker_of(&request)
    };
    let owner = Caller::Owner {
        uid: Some(1_000),
        pid: None,
    };
    assert_eq!(asker(Some(owner)), Asker::Admin);
    assert_eq!(asker(None), Asker::OfSome);
    for role in Role::ALL {
        let of_all = match role {
            Role::Admin => Asker::Admin,
            Role::Author | Role::Reviewer | Role::Reader => Asker::Other,
        };
        for (name, workspaces, expected) in [
            (role.name().to_owned(), Vec::new(), of_all),
            (format!("{role}-of-one"), vec![workspace(1)], Asker::OfSome),
        ] {
            let token = world.token(&name, role, workspaces).await;
            let presented = Presented::parse(token.expose()).unwrap();
            let caller = Caller::Token {
                held: world.tokens.know(&presented).unwrap(),
                address: world.peer.address,
            };
            assert_eq!(asker(Some(caller)), expected, "{name}");
        }
    }
}

#[tokio::test]
async fn every_method_asks_for_its_roles_and_for_its_scope() {
    let world = World::new(WIDE).await;
    let methods = Methods::of_this_build();
    for role in Role::ALL {
        let all = world.token(role.name(), role, Vec::new()).await;
        let name = format!("{}-scoped", role.name());
        let scoped = world.token(&name, role, vec![workspace(1)]).await;
        for (path, method) in methods.all() {
            let answer = world.call(path, &all, &wire::GetInfoRequest {}).await;
            let expected = method.access.allows(role);
            assert_eq!(answer.is_ok(), expected, "{role} {path}: {answer:?}");
            if let Err(refused) = answer {
                assert_eq!(reason(&refused), "ROLE_INSUFFICIENT");
            }
            // The message names nothing.
            let answer = world.call(path, &scoped, &wire::GetInfoRequest {}).await;
            let is_open = matches!(
                method.access.reach,
                crate::domain::access::Reach::Nothing | crate::domain::access::Reach::Filtered
            );
            assert_eq!(
                answer.is_ok(),
                expected && is_open,
                "{role} {path}: {answer:?}"
            );
        }
    }
}

#[tokio::test]
async fn a_scoped_token_reaches_its_workspaces_and_cannot_tell_others_from_nothing() {
    let world = World::new(WIDE).await;
    let token = world.token("ci", Role::Author, vec![workspace(1)]).await;
    let scope = world.call(GET, &token, &get("mine")).await.unwrap();
    assert_eq!(scope, Scope::Workspaces(vec![workspace(1)]));
    let other = world.call(GET, &token, &get("other")).await.unwrap_err();
    let none = world.call(GET, &token, &get("nothing")).await.unwrap_err();
    assert_eq!((other.code(), reason(&other)), (none.code(), reason(&none)));
    assert_eq!(other.message(), none.message());
    // Each of several things that are named has to be in it.
    let restore = |workspace: &str, snapshot: &str| wire::RestoreWorkspaceRequest {
        workspace: workspace.to_owned(),
        snapshot: snapshot.to_owned(),
        ..Default::default()
    };
    let path = "/compy.v1.SnapshotService/RestoreWorkspace";
    assert!(
        world
            .call(path, &token, &restore("mine", "mine"))
            .await
            .is_ok()
    );
    for (workspace, snapshot) in [("mine", "other"), ("other", "mine")] {
        let refused = world
            .call(path, &token, &restore(workspace, snapshot))
            .await;
        assert_eq!(reason(&refused.unwrap_err()), "OUT_OF_SCOPE");
    }
    // Also in the first message of a stream.
    let exec = |workspace: &str| wire::ExecRequest {
        part: Some(wire::exec_request::Part::Start(wire::ExecStart {
            workspace: workspace.to_owned(),
            ..Default::default()
        })),
    };
    let path = "/compy.v1.WorkspaceService/Exec";
    assert!(world.call(path, &token, &exec("mine")).await.is_ok());
    assert!(world.call(path, &token, &exec("other")).await.is_err());
}

#[tokio::test]
async fn a_first_message_that_says_two_things_says_what_the_handler_is_given() {
    let world = World::new(WIDE).await;
    let token = world.token("ci", Role::Author, vec![workspace(1)]).await;
    // Decoders differ in what they make of such bytes.
    let start = |workspace: &str| {
        wire::ExecRequest {
            part: Some(wire::exec_request::Part::Start(wire::ExecStart {
                workspace: workspace.to_owned(),
                ..Default::default()
            })),
        }
        .encode_to_vec()
    };
    let attach = wire::ExecRequest {
        part: Some(wire::exec_request::Part::Attach(wire::ExecAttach {
            workspace: "other".to_owned(),
            ..Default::default()
        })),
    };
    for bytes in [
        [start("mine"), attach.encode_to_vec()].concat(),
        [start("mine"), start("other")].concat(),
    ] {
        let length = u32::try_from(bytes.len()).unwrap().to_be_bytes();
        let framed = Bytes::from([&[0], length.as_slice(), &bytes].concat());
        let path = "/compy.v1.WorkspaceService/Exec";
        let mut request = world.request(path, token.expose(), &wire::GetInfoRequest {});
        *request.body_mut() = Body::new(Full::new(framed).map_err(|never| match never {}));
        assert!(world.serve(request).await.is_err());
    }
    assert_eq!(world.reached.load(Ordering::Relaxed), 0);
}

/// A method's number, and what its caller sends. Who may reach some workspaces alone
/// is judged by what the first message names; the handler must find the same in it.
#[test]
fn whatever_a_first_message_is_the_handler_is_given_what_was_looked_at() {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap();
    let methods = Methods::of_this_build();
    let mut inputs: Vec<_> = methods.all().collect();
    inputs.sort_by_key(|(a, _)| *a);
    let seeds = (0..inputs.len()).flat_map(|number| {
        let number = u8::try_from(number).unwrap();
        let one = &b"\x0a\x04mine"[..];
        let two = &b"\x0a\x04mine\x12\x05other\x0a\x05other"[..];
        let inside = &b"\x0a\x06\x0a\x04mine\x12\x07\x0a\x05other"[..];
        [&b""[..], one, two, inside].map(|message| {
            let length = u32::try_from(message.len()).unwrap().to_be_bytes();
            [&[number, 0][..], &length[..], message].concat()
        })
    });
    crate::fuzz::run_here("first-messages", seeds.collect(), |input| {
        let Some((number, framed)) = input.split_first() else {
            return String::new();
        };
        let (path, method) = &inputs[usize::from(*number) % inputs.len()];
        let read = |bytes: Bytes| {
            let body = Body::new(Full::new(bytes).map_err(|never| match never {}));
            runtime.block_on(async {
                let (named, rest) = subjects::of_first_message(&method.input, body).await?;
                let given = rest.collect().await?.to_bytes();
                Ok::<_, Status>((named, given))
            })
        };
        match read(Bytes::copy_from_slice(framed)) {
            Err(refused) => format!("{path}: {}", refused.message()),
            Ok((named, given)) => {
                let (again, _) = read(given).expect("it was written to be read");
                assert_eq!(again, named, "{path}");
                format!("{path}: {} names", named.len())
            }
        }
    });
}

#[tokio::test]
async fn too_many_calls_and_too_large_messages_are_refused_with_when_and_what() {
    let world = World::new(CallerLimits {
        calls_per_second: 1,
        streams: 10,
        message_bytes: 100,
    })
    .await;
    let token = world.token("ci", Role::Admin, Vec::new()).await;
    let large = world
        .call(GET, &token, &get(&"x".repeat(101)))
        .await
        .unwrap_err();
    assert_eq!(
        (large.code(), reason(&large)),
        (Code::ResourceExhausted, "MESSAGE_TOO_LARGE".into())
    );
    assert!(world.call(GET, &token, &get("mine")).await.is_ok());
    let often = world.call(GET, &token, &get("mine")).await.unwrap_err();
    assert_eq!(
        (often.code(), reason(&often)),
        (Code::ResourceExhausted, "RATE_LIMITED".into())
    );
    assert!(often.metadata().get("retry-after").is_some());
}

/// A service that answers with a stream which never ends, and one that never
/// answers at all.
async fn endless(world: &World, request: Request<Body>) -> Response<Body> {
    let at_work = world.at_work.clone();
    let inner = tower::service_fn(move |request: Request<Body>| {
        let at_work = at_work.clone();
        async move {
            if request.uri().path() == GET {
                std::future::pending::<()>().await;
            }
            let never = futures_util::stream::poll_fn(move |_| {
                let _at_work = &at_work;
                std::task::Poll::<Option<Result<http_body::Frame<Bytes>, Status>>>::Pending
            });
            let body = Body::new(http_body_util::StreamBody::new(never));
            Ok::<_, Infallible>(Response::new(body))
        }
    });
    let mut service = world.admit.layer(world.guard.layer(inner));
    service.ready().await.unwrap().call(request).await.unwrap()
}

async fn end_of(answer: Response<Body>) -> Status {
    if let Some(status) = Status::from_header_map(answer.headers()) {
        return status;
    }
    let collected = answer.into_body().collect().await.unwrap();
    Status::from_header_map(collected.trailers().unwrap()).unwrap()
}

#[tokio::test(start_paused = true)]
async fn a_call_ends_at_its_deadline_before_and_after_its_answer_has_begun() {
    let world = World::new(WIDE).await;
    let token = world.token("ci", Role::Admin, Vec::new()).await;
    for path in [GET, LIST] {
        let mut request = world.request(path, token.expose(), &get("mine"));
        request
            .headers_mut()
            .insert("grpc-timeout", "250m".parse().unwrap());
        let begun = tokio::time::Instant::now();
        let ended = end_of(endless(&world, request).await).await;
        assert_eq!(ended.code(), Code::DeadlineExceeded, "{path}");
        assert!(begun.elapsed() < Duration::from_millis(300));
        let at_work = Arc::strong_count(&world.at_work) - 1;
        assert_eq!(at_work, 0, "{path}: nobody works for it any more");
    }
}

#[tokio::test(start_paused = true)]
async fn a_stream_ends_when_its_token_is_revoked_and_when_it_expires() {
    let world = World::new(WIDE).await;
    let token = world.token("ci", Role::Admin, Vec::new()).await;
    let request = world.request(LIST, token.expose(), &wire::ListWorkspacesRequest {});
    let answer = endless(&world, request).await;
    world.tokens.revoke(&"ci".parse().unwrap()).await.unwrap();
    assert_eq!(reason(&end_of(answer).await), "TOKEN_UNKNOWN");
    let token = world.token("short", Role::Admin, Vec::new()).await;
    let request = world.request(LIST, token.expose(), &wire::ListWorkspacesRequest {});
    let begun = tokio::time::Instant::now();
    let ended = end_of(endless(&world, request).await).await;
    assert_eq!(reason(&ended), "TOKEN_EXPIRED");
    assert_eq!(begun.elapsed().as_secs(), 60);
}
