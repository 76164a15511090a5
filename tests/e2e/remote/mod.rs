//! The daemon from another machine: certificates, tokens, roles, scopes, limits,
//! and those who only want to be in the way.

mod attacks;
mod roles;

use std::{os::unix::fs::PermissionsExt as _, path::Path, time::Duration};

use compyd_proto::v1::{
    ExecRequest, GetInfoRequest, GetWorkspaceRequest, ListApprovalsRequest, ListExecsRequest,
    ListSessionsRequest, ListWorkspacesRequest, PortForwardRequest, PortForwardStart,
    WatchWorkspacesRequest, activity_service_client::ActivityServiceClient,
    approval_service_client::ApprovalServiceClient, exec_request::Part as ExecPart,
    port_forward_request::Part as ForwardPart, session_service_client::SessionServiceClient,
    system_service_client::SystemServiceClient, watch_workspaces_response::Change,
    workspace_service_client::WorkspaceServiceClient,
};
use compyd_tests::{
    compyctl::Ran,
    daemon::{Daemon, Options},
    remote::{Bearer, Remote, with_tls},
};
use serde_json::Value;
use tonic::{Code, Status, service::interceptor::InterceptedService, transport::Endpoint};
use tonic_types::StatusExt as _;

fn reason(status: &Status) -> String {
    let info = status.get_details_error_info();
    info.map(|info| info.reason).unwrap_or_default()
}

/// `compyctl` of an account on another machine, whose configuration is here.
async fn elsewhere(daemon: &Daemon, config: &Path, stdin: &str, args: &[&str]) -> Ran {
    let client = daemon
        .client()
        .env("XDG_CONFIG_HOME", config.to_str().unwrap());
    client.stdin(stdin.as_bytes()).args(args).run().await
}

fn contains(directory: &Path, needle: &[u8]) -> Option<std::path::PathBuf> {
    for entry in std::fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        let found = match path.is_dir() {
            true => contains(&path, needle),
            false => std::fs::read(&path)
                .is_ok_and(|bytes| bytes.windows(needle.len()).any(|part| part == needle))
                .then_some(path),
        };
        if found.is_some() {
            return found;
        }
    }
    None
}

#[tokio::test]
async fn a_token_logs_in_from_elsewhere_until_it_is_revoked_and_all_of_it_is_on_record() {
    let mut daemon = Daemon::start_bare(with_tls(Options::default())).await;
    let remote = Remote::of(&daemon);
    let endpoint = remote.endpoint();
    let config = daemon.directory().join("elsewhere");
    let secret = daemon.token("alice", "reader", &["--expires", "30d"]).await;
    assert!(
        secret.starts_with("compy_") && secret.len() > 6 + 64,
        "{secret}"
    );

    // Not before there is a login, and not with an authority that is not the daemon's.
    let list = ["--endpoint", &endpoint, "-o", "json", "workspace", "list"];
    let none = elsewhere(&daemon, &config, "", &list).await.expect_code(2);
    assert!(none.stderr.contains("compyctl login"), "{}", none.stderr);
    let wrong = format!("sha256:{}", "ab".repeat(32));
    let login = |fingerprint: &str| {
        ["login", &endpoint, "--ca-fingerprint", fingerprint].map(str::to_owned)
    };
    let args = login(&wrong);
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let refused = elsewhere(&daemon, &config, &secret, &args)
        .await
        .expect_code(1);
    assert!(
        refused.stderr.contains("not of the authority"),
        "{}",
        refused.stderr
    );
    assert!(
        refused.stderr.contains("--ca-fingerprint"),
        "{}",
        refused.stderr
    );
    let args = login(&remote.fingerprint);
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let guess = format!("compy_{}_{}", "0".repeat(12), "0".repeat(64));
    let unknown = elsewhere(&daemon, &config, &guess, &args)
        .await
        .expect_code(1);
    assert!(
        unknown.stderr.contains("TOKEN_UNKNOWN"),
        "{}",
        unknown.stderr
    );
    assert!(
        !config.join("compy").exists(),
        "nothing is kept of what failed"
    );

    let done = elsewhere(&daemon, &config, &secret, &args)
        .await
        .expect_code(0);
    assert!(
        done.stderr.contains("as token:alice (reader)"),
        "{}",
        done.stderr
    );
    let logins = config.join("compy/logins");
    let kept = std::fs::read_dir(&logins).unwrap().next().unwrap().unwrap();
    assert_eq!(kept.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    let listed = elsewhere(&daemon, &config, "", &list).await.expect_code(0);
    assert_eq!(listed.json(), serde_json::json!([]));
    let create = ["--endpoint", &endpoint, "workspace", "create", "w"];
    let refused = elsewhere(&daemon, &config, "", &create).await;
    let refused = refused.expect_code(1);
    assert!(
        refused.stderr.contains("ROLE_INSUFFICIENT"),
        "{}",
        refused.stderr
    );

    // The last use is shown, also after a restart, which changes the certificate.
    let tokens = daemon
        .compyctl(&["-o", "json", "token", "list"])
        .await
        .json();
    assert_eq!(tokens[0]["name"], "alice");
    assert_eq!(tokens[0]["role"], "reader");
    assert!(tokens[0]["expires_at"].is_string());
    let used = tokens[0]["last_used_at"].clone();
    assert!(used.is_string(), "{tokens}");
    daemon.terminate().await;
    daemon.restart().await;
    let tokens = daemon
        .compyctl(&["-o", "json", "token", "list"])
        .await
        .json();
    assert_eq!(tokens[0]["last_used_at"], used);
    let again = Remote::of(&daemon);
    assert_eq!(again.fingerprint, remote.fingerprint);
    let _ = daemon
        .compyctl(&["token", "revoke", "alice"])
        .await
        .expect_code(0);
    let refused = again.connect(&secret).await.unwrap();
    let refused = SystemServiceClient::new(refused)
        .get_info(GetInfoRequest {})
        .await;
    assert_eq!(reason(&refused.unwrap_err()), "TOKEN_UNKNOWN");

    let audit = |kind: &'static str, outcome: &'static str| {
        let args = [
            "-o",
            "json",
            "audit",
            "search",
            "--kind",
            kind,
            "--outcome",
            outcome,
        ];
        let daemon = &daemon;
        async move {
            let found = daemon.compyctl(&args).await.expect_code(0);
            found.text()
        }
    };
    let logins = audit("login", "ok").await;
    assert!(logins.contains("token:alice"), "{logins}");
    let denied = audit("login", "denied").await;
    assert!(
        denied.contains("TOKEN_UNKNOWN") && denied.contains("tcp:127.0.0.1"),
        "{denied}"
    );
    let denied = audit("api_call", "denied").await;
    assert!(
        denied.contains("token:alice") && denied.contains("CreateWorkspace"),
        "{denied}"
    );
    let secret_part = secret.rsplit('_').next().unwrap();
    let found = contains(&daemon.data_dir(), secret_part.as_bytes());
    assert_eq!(found, None, "only its hash is kept");
    assert!(!daemon.log().contains(secret_part));
    let key = daemon.data_dir().join("tls/ca.key");
    let mode = std::fs::metadata(key).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode, 0o600);
}

#[tokio::test]
async fn plain_tcp_on_loopback_wants_a_token_too() {
    let options = Options::default().listen("tcp://127.0.0.1:0");
    let daemon = Daemon::start_bare(options).await;
    let log = daemon.log();
    let (_, rest) = log.rsplit_once("tcp://127.0.0.1:").unwrap();
    let port: String = rest.chars().take_while(char::is_ascii_digit).collect();
    let endpoint = format!("http://127.0.0.1:{port}");
    let channel = Endpoint::from_shared(endpoint.clone())
        .unwrap()
        .connect()
        .await
        .unwrap();
    let refused = SystemServiceClient::new(channel.clone())
        .get_info(GetInfoRequest {})
        .await;
    let refused = refused.unwrap_err();
    assert_eq!(
        (refused.code(), reason(&refused)),
        (Code::Unauthenticated, "TOKEN_MISSING".into())
    );
    let health = tonic_health::pb::health_client::HealthClient::new(channel.clone());
    let health = { health }
        .check(tonic_health::pb::HealthCheckRequest::default())
        .await;
    assert_eq!(health.unwrap_err().code(), Code::Unauthenticated);
    let token = daemon.token("local", "reader", &[]).await;
    let with_token = InterceptedService::new(channel, Bearer::of(&token));
    let answer = SystemServiceClient::new(with_token)
        .get_info(GetInfoRequest {})
        .await;
    assert!(answer.is_ok(), "{answer:?}");
    // A file with the token does without a login.
    let file = daemon.directory().join("token");
    std::fs::write(&file, &token).unwrap();
    let args = [
        "--endpoint",
        &endpoint,
        "--token-file",
        file.to_str().unwrap(),
        "workspace",
        "list",
    ];
    let config = daemon.directory().join("elsewhere");
    let exposed = elsewhere(&daemon, &config, "", &args).await.expect_code(1);
    assert!(exposed.stderr.contains("chmod 600"), "{}", exposed.stderr);
    std::fs::set_permissions(&file, std::fs::Permissions::from_mode(0o600)).unwrap();
    let _ = elsewhere(&daemon, &config, "", &args).await.expect_code(0);
}

#[tokio::test]
async fn a_caller_has_its_limits_and_its_deadlines_and_others_notice_nothing() {
    let options = with_tls(Options::default())
        .set("remote.calls_per_second", "5")
        .set("remote.streams", "3")
        .set("remote.connections_per_token", "2");
    let daemon = Daemon::start_bare(options).await;
    let remote = Remote::of(&daemon);
    let (greedy, other) = (
        daemon.token("greedy", "reader", &[]).await,
        daemon.token("other", "reader", &[]).await,
    );
    let transport = remote.connect(&greedy).await.unwrap();
    let mut system = SystemServiceClient::new(transport.clone());
    let mut refused = None;
    for _ in 0..200 {
        if let Err(status) = system.get_info(GetInfoRequest {}).await {
            refused = Some(status);
            break;
        }
    }
    let refused = refused.expect("200 calls at once are too many");
    assert_eq!(
        (refused.code(), reason(&refused)),
        (Code::ResourceExhausted, "RATE_LIMITED".into())
    );
    assert_eq!(refused.metadata().get("retry-after").unwrap(), "1");
    let wait = refused
        .get_details_retry_info()
        .unwrap()
        .retry_delay
        .unwrap();
    assert!(wait <= Duration::from_secs(1));
    let others = remote.connect(&other).await.unwrap();
    let mut others = SystemServiceClient::new(others);
    assert!(others.get_info(GetInfoRequest {}).await.is_ok());

    // Streams: the fourth is one too many, until one of them ends.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let mut activity = ActivityServiceClient::new(transport.clone());
    let mut open = Vec::new();
    for _ in 0..3 {
        let stream = activity.watch_workspaces(WatchWorkspacesRequest {}).await;
        open.push(stream.unwrap());
    }
    let refused = activity.watch_workspaces(WatchWorkspacesRequest {}).await;
    let refused = refused.unwrap_err();
    assert_eq!(
        (refused.code(), reason(&refused)),
        (Code::ResourceExhausted, "STREAMS_EXHAUSTED".into())
    );
    open.clear();
    compyd_tests::wait::until(
        "a stream may be opened",
        compyd_tests::wait::PATIENCE,
        async || {
            activity
                .clone()
                .watch_workspaces(WatchWorkspacesRequest {})
                .await
                .ok()
        },
    )
    .await;

    // A deadline ends a stream that would go on for ever.
    tokio::time::sleep(Duration::from_secs(2)).await;
    let mut request = tonic::Request::new(WatchWorkspacesRequest {});
    request
        .metadata_mut()
        .insert("grpc-timeout", "10S".parse().unwrap());
    let mut stream = activity
        .watch_workspaces(request)
        .await
        .unwrap()
        .into_inner();
    let ended = loop {
        match stream.message().await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("the stream ended well"),
            Err(status) => break status,
        }
    };
    assert_eq!(ended.code(), Code::DeadlineExceeded, "{ended:?}");

    // Connections: the third of the same token is refused.
    let second = remote.connect(&greedy).await.unwrap();
    assert!(
        SystemServiceClient::new(second.clone())
            .get_info(GetInfoRequest {})
            .await
            .is_ok()
    );
    let third = remote.connect(&greedy).await.unwrap();
    let refused = SystemServiceClient::new(third)
        .get_info(GetInfoRequest {})
        .await;
    assert_eq!(reason(&refused.unwrap_err()), "CONNECTIONS_EXHAUSTED");
}

#[tokio::test]
async fn a_stream_that_is_open_ends_when_its_token_is_revoked() {
    let daemon = Daemon::start_bare(with_tls(Options::default())).await;
    let token = daemon.token("ci", "reader", &[]).await;
    let transport = Remote::of(&daemon).connect(&token).await.unwrap();
    let mut activity = ActivityServiceClient::new(transport);
    let stream = activity.watch_workspaces(WatchWorkspacesRequest {}).await;
    let mut stream = stream.unwrap().into_inner();
    assert!(stream.message().await.unwrap().is_some());
    let _ = daemon
        .compyctl(&["token", "revoke", "ci"])
        .await
        .expect_code(0);
    let ended = tokio::time::timeout(compyd_tests::wait::PATIENCE, stream.message()).await;
    assert_eq!(reason(&ended.unwrap().unwrap_err()), "TOKEN_UNKNOWN");
}

/// Takes one connection, and leaves a file when it comes and when it is cut.
const LISTEN: &str = r#"
import socket
server = socket.socket()
server.bind(("127.0.0.1", 8765))
server.listen()
open("/workspace/listens", "w").close()
connection = server.accept()[0]
open("/workspace/came", "w").close()
try:
    while connection.recv(100):
        pass
except OSError:
    pass
open("/workspace/left", "w").close()
"#;

/// A message of a stream that stays open, and how long the call may take.
fn open_for<T: Send + 'static>(
    first: T,
    timeout: &str,
) -> (
    tokio::sync::mpsc::Sender<T>,
    tonic::Request<tokio_stream::wrappers::ReceiverStream<T>>,
) {
    let (feed, parts) = tokio::sync::mpsc::channel(1);
    assert!(feed.try_send(first).is_ok());
    let mut request = tonic::Request::new(tokio_stream::wrappers::ReceiverStream::new(parts));
    let timeout = timeout.parse().unwrap();
    request.metadata_mut().insert("grpc-timeout", timeout);
    (feed, request)
}

/// How a stream ends that would go on for ever.
async fn end_of<T>(mut stream: tonic::Streaming<T>) -> Status {
    loop {
        match stream.message().await {
            Ok(Some(_)) => {}
            Ok(None) => panic!("the stream ended well"),
            Err(status) => return status,
        }
    }
}

#[tokio::test]
async fn what_carried_a_call_is_gone_after_its_deadline_and_its_command_goes_on() {
    let Some(daemon) = Daemon::start(with_tls(Options::default())).await else {
        return;
    };
    daemon.workspace("w", &[]).await;
    let token = daemon.token("ci", "author", &[]).await;
    let transport = Remote::of(&daemon).connect(&token).await.unwrap();
    let mut workspaces = WorkspaceServiceClient::new(transport);
    let listen = ["workspace", "exec", "w", "--detach", "--", "python3", "-c"];
    let listen: Vec<&str> = listen.into_iter().chain([LISTEN]).collect();
    let _ = daemon.compyctl(&listen).await.expect_code(0);
    let is_there = async |file: &str| {
        let look = format!("test -e /workspace/{file}");
        (daemon.shell("w", &look).await.code() == Some(0)).then_some(())
    };
    let patience = compyd_tests::wait::PATIENCE;
    compyd_tests::wait::until("a server", patience, async || is_there("listens").await).await;

    // The client goes on sending nothing: its half of the call stays open.
    let start = PortForwardStart {
        workspace: "w".to_owned(),
        port: 8765,
    };
    let first = PortForwardRequest {
        part: Some(ForwardPart::Start(start)),
    };
    let (feed, request) = open_for(first, "5S");
    let carried = workspaces.port_forward(request).await.unwrap();
    let ended = end_of(carried.into_inner()).await;
    assert_eq!(ended.code(), Code::DeadlineExceeded, "{ended:?}");
    assert_eq!(reason(&ended), "DEADLINE_EXCEEDED");
    assert!(is_there("came").await.is_some());
    compyd_tests::wait::until("the end", patience, async || is_there("left").await).await;
    drop(feed);

    // Who watches a command is no longer there; the command is.
    let start = compyd_tests::exec::command("w", &["sleep", "1000"]);
    let first = ExecRequest {
        part: Some(ExecPart::Start(start)),
    };
    let (feed, request) = open_for(first, "5S");
    let watched = workspaces.exec(request).await.unwrap();
    let ended = end_of(watched.into_inner()).await;
    assert_eq!(ended.code(), Code::DeadlineExceeded, "{ended:?}");
    drop(feed);
    let running = ListExecsRequest {
        workspace: "w".to_owned(),
        running_only: true,
    };
    let running = workspaces.list_execs(running).await.unwrap().into_inner();
    let goes_on = |argv: &[bytes::Bytes]| argv.first().is_some_and(|name| name == "sleep");
    assert!(
        running.execs.iter().any(|exec| goes_on(&exec.argv)),
        "{running:?}"
    );
}

#[tokio::test]
async fn a_token_for_one_workspace_sees_and_touches_no_other() {
    let Some(daemon) = Daemon::start(with_tls(Options::default())).await else {
        return;
    };
    let mine = daemon.workspace("mine", &[]).await;
    let other = daemon.workspace("other", &[]).await;
    let token = daemon.token("ci", "author", &["--workspace", "mine"]).await;
    let remote = Remote::of(&daemon);
    let transport = remote.connect(&token).await.unwrap();
    let mut workspaces = WorkspaceServiceClient::new(transport.clone());
    let listed = workspaces
        .list_workspaces(ListWorkspacesRequest {})
        .await
        .unwrap();
    let ids: Vec<String> = listed
        .into_inner()
        .workspaces
        .into_iter()
        .map(|it| it.id)
        .collect();
    assert_eq!(ids, std::slice::from_ref(&mine.id));
    let get = |workspace: &str| GetWorkspaceRequest {
        workspace: workspace.to_owned(),
    };
    for named in ["mine", &mine.id] {
        assert!(
            workspaces.get_workspace(get(named)).await.is_ok(),
            "{named}"
        );
    }
    let mut said = Vec::new();
    for named in ["other", &other.id, "no-such-thing"] {
        let refused = workspaces.get_workspace(get(named)).await.unwrap_err();
        assert_eq!(reason(&refused), "OUT_OF_SCOPE", "{named}");
        said.push(refused.message().to_owned());
    }
    assert!(said.iter().all(|message| *message == said[0]), "{said:?}");
    let sessions = SessionServiceClient::new(transport.clone())
        .list_sessions(ListSessionsRequest::default())
        .await;
    assert_eq!(sessions.unwrap().into_inner().sessions, []);
    let approvals = ApprovalServiceClient::new(transport.clone())
        .list_approvals(ListApprovalsRequest {})
        .await;
    assert_eq!(approvals.unwrap().into_inner().approvals, []);
    let mut watched = ActivityServiceClient::new(transport)
        .watch_workspaces(WatchWorkspacesRequest {})
        .await
        .unwrap()
        .into_inner();
    let mut seen = Vec::new();
    while let Some(Change::Changed(view)) = watched.message().await.unwrap().unwrap().change {
        seen.push(view.id);
    }
    assert_eq!(seen, std::slice::from_ref(&mine.id));

    // The client does in it what it does anywhere, over TLS.
    let config = daemon.directory().join("elsewhere");
    let endpoint = remote.endpoint();
    let login = [
        "login",
        &endpoint,
        "--ca-file",
        &format!("{}/tls/ca.crt", daemon.data_dir().display()),
    ];
    let _ = elsewhere(&daemon, &config, &token, &login)
        .await
        .expect_code(0);
    let exec = |workspace: &'static str| {
        [
            "--endpoint",
            &endpoint,
            "workspace",
            "exec",
            workspace,
            "--",
            "echo",
            "hello",
        ]
    };
    let ran = elsewhere(&daemon, &config, "", &exec("mine"))
        .await
        .expect_code(0);
    assert_eq!(ran.text(), "hello\n");
    let refused = elsewhere(&daemon, &config, "", &exec("other"))
        .await
        .expect_code(125);
    assert!(
        refused.stderr.contains("OUT_OF_SCOPE"),
        "{}",
        refused.stderr
    );
    for args in [
        vec!["workspace", "create", "third"],
        vec!["workspace", "delete", "other", "--yes"],
        vec!["token", "list"],
        vec!["audit", "search"],
        vec!["credential", "list"],
    ] {
        let args: Vec<&str> = ["--endpoint", &endpoint].into_iter().chain(args).collect();
        let refused = elsewhere(&daemon, &config, "", &args).await;
        assert_ne!(refused.code, 0, "{args:?}");
    }
    let tokens: Value = daemon
        .compyctl(&["-o", "json", "token", "list"])
        .await
        .json();
    assert_eq!(tokens[0]["workspaces"], serde_json::json!([mine.id]));
}
