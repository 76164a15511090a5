//! A daemon that plays what a test wrote: all four services on a unix socket in
//! a temporary directory, with a record of what clients asked.

use std::collections::VecDeque;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use compyd_proto::pipe::Pipe;
use compyd_proto::v1::artifact_service_server::{ArtifactService, ArtifactServiceServer};
use compyd_proto::v1::session_service_server::{SessionService, SessionServiceServer};
use compyd_proto::v1::system_service_server::{SystemService, SystemServiceServer};
use compyd_proto::v1::workspace_service_server::{WorkspaceService, WorkspaceServiceServer};
use compyd_proto::v1::*;
use futures_util::{StreamExt as _, stream::BoxStream};
use tokio::io::AsyncWriteExt as _;
use tokio::net::UnixListener;
use tokio::sync::mpsc;
use tokio_stream::wrappers::{ReceiverStream, UnixListenerStream};
use tonic::{Code, Request, Response, Status, Streaming};
use tonic_types::{ErrorDetails, StatusExt as _};

/// A step of a scripted command.
#[derive(Debug, Clone)]
pub(crate) enum Part {
    Stdout(Bytes),
    Stderr(Bytes),
    /// The part of this standard output that the client still lacks.
    StdoutRest(Bytes),
    /// Accept input until this many bytes are there in all.
    ReadInput(usize),
    ReadInputToEnd,
    AwaitSignal,
    Exit(ExecExit),
    /// Break the stream as a lost connection does.
    Cut,
    /// End the stream without an exit.
    End,
    /// Fail with a reason.
    Refuse(&'static str),
}

/// What one connection of a command plays.
#[derive(Debug, Clone)]
pub(crate) struct ExecScript {
    /// Whether it begins with the command's facts.
    pub attached: bool,
    pub parts: Vec<Part>,
}

impl ExecScript {
    pub(crate) fn of(parts: impl IntoIterator<Item = Part>) -> Self {
        ExecScript {
            attached: true,
            parts: parts.into_iter().collect(),
        }
    }
}

/// How a client opened a command.
#[derive(Debug, Clone, Default)]
pub(crate) struct Opened {
    pub start: Option<ExecStart>,
    pub attach: Option<ExecAttach>,
}

#[derive(Debug, Default)]
struct State {
    execs: Vec<Opened>,
    exec_scripts: VecDeque<ExecScript>,
    input: Vec<u8>,
    output: (u64, u64),
    signals: Vec<i32>,
    awaits_signal: bool,
    holds_answers: bool,
    session: Session,
    session_at_end: Option<Session>,
    watch_scripts: VecDeque<Vec<SessionEvent>>,
    watched_after: Vec<u64>,
    answer: Option<AnswerSessionRequest>,
    session_refusal: Option<&'static str>,
    names: Vec<String>,
    created: Vec<CreateWorkspaceRequest>,
    create_failures: usize,
    deleted: Vec<String>,
    repository: Option<(AddRepositoryStart, Vec<u8>)>,
    upload: Option<(String, Vec<u8>)>,
    checks: Vec<Check>,
    artifact: Bytes,
    mutations: usize,
}

/// The handle of a test; the server ends with it.
#[derive(Debug)]
pub(crate) struct FakeDaemon {
    services: Services,
    directory: tempfile::TempDir,
    server: tokio::task::JoinHandle<()>,
}

impl Drop for FakeDaemon {
    fn drop(&mut self) {
        self.server.abort();
    }
}

impl FakeDaemon {
    pub(crate) async fn start() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let listener = UnixListener::bind(directory.path().join("d.sock")).unwrap();
        let services = Services::default();
        let router = tonic::transport::Server::builder()
            .add_service(WorkspaceServiceServer::new(services.clone()))
            .add_service(SessionServiceServer::new(services.clone()))
            .add_service(ArtifactServiceServer::new(services.clone()))
            .add_service(SystemServiceServer::new(services.clone()));
        let server = tokio::spawn(async move {
            router
                .serve_with_incoming(UnixListenerStream::new(listener))
                .await
                .unwrap();
        });
        FakeDaemon {
            services,
            directory,
            server,
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.services.state()
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.directory.path().join("d.sock")
    }

    /// Waits for a state, with a deadline.
    pub(crate) async fn until(&self, what: &str, reached: impl Fn(&Self) -> bool) {
        let waiting = async {
            while !reached(self) {
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        };
        tokio::time::timeout(Duration::from_secs(30), waiting)
            .await
            .unwrap_or_else(|_| panic!("not reached: {what}"));
    }

    pub(crate) fn on_exec(&self, scripts: Vec<ExecScript>) {
        self.state().exec_scripts = scripts.into();
    }
    pub(crate) fn execs(&self) -> Vec<Opened> {
        self.state().execs.clone()
    }
    pub(crate) fn input(&self) -> Vec<u8> {
        self.state().input.clone()
    }
    pub(crate) fn signals(&self) -> Vec<i32> {
        self.state().signals.clone()
    }
    pub(crate) fn awaits_signal(&self) -> bool {
        self.state().awaits_signal
    }
    /// Whether started commands and new repositories wait for their first answer.
    pub(crate) fn hold_answers(&self, holds: bool) {
        self.state().holds_answers = holds;
    }
    pub(crate) fn set_session(&self, session: Session) {
        self.state().session = session;
    }
    /// What the session is once the last list of events has been sent.
    pub(crate) fn set_session_at_end(&self, session: Session) {
        self.state().session_at_end = Some(session);
    }
    /// Each list is one stream; all but the last end with a cut.
    pub(crate) fn on_watch(&self, scripts: Vec<Vec<SessionEvent>>) {
        self.state().watch_scripts = scripts.into();
    }
    pub(crate) fn watched_after(&self) -> Vec<u64> {
        self.state().watched_after.clone()
    }
    pub(crate) fn answer(&self) -> Option<AnswerSessionRequest> {
        self.state().answer.clone()
    }
    pub(crate) fn refuse_sessions(&self, reason: &'static str) {
        self.state().session_refusal = Some(reason);
    }
    pub(crate) fn take_name(&self, name: &str) {
        self.state().names.push(name.to_owned());
    }
    pub(crate) fn created(&self) -> CreateWorkspaceRequest {
        self.state().created.last().cloned().unwrap()
    }
    pub(crate) fn create_ids(&self) -> Vec<String> {
        self.state()
            .created
            .iter()
            .map(|request| request.request_id.clone())
            .collect()
    }
    pub(crate) fn fail_creates(&self, times: usize) {
        self.state().create_failures = times;
    }
    pub(crate) fn deleted(&self) -> Vec<String> {
        self.state().deleted.clone()
    }
    pub(crate) fn repository(&self) -> (AddRepositoryStart, Vec<u8>) {
        self.state().repository.clone().unwrap()
    }
    pub(crate) fn has_repository(&self) -> bool {
        self.state().repository.is_some()
    }
    pub(crate) fn upload_directory(&self) -> String {
        self.state().upload.clone().unwrap().0
    }
    pub(crate) fn set_checks(&self, checks: Vec<Check>) {
        self.state().checks = checks;
    }
    pub(crate) fn set_artifact(&self, content: Bytes) {
        self.state().artifact = content;
    }
    pub(crate) fn mutations(&self) -> usize {
        self.state().mutations
    }
}

fn refusal(code: Code, reason: &str) -> Status {
    let mut details = ErrorDetails::new();
    details.set_error_info(
        reason,
        "compy",
        std::collections::HashMap::<String, String>::new(),
    );
    details.set_localized_message("en", "do the right thing");
    Status::with_error_details(code, "it is refused", details)
}

#[derive(Debug, Clone, Default)]
struct Services(Arc<Mutex<State>>);

impl Services {
    async fn until_answers_are_let_go(&self) {
        while self.state().holds_answers {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }
    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap()
    }

    /// Plays one connection of a command.
    async fn play(
        self,
        script: ExecScript,
        mut requests: Streaming<ExecRequest>,
        tx: mpsc::Sender<Result<ExecResponse, Status>>,
    ) {
        use exec_response::Event;
        let say = async |event| {
            let _ = tx.send(Ok(ExecResponse { event: Some(event) })).await;
        };
        if script.attached {
            let info = {
                let state = self.state();
                ExecInfo {
                    exec_id: "the-id".into(),
                    stdin_bytes: state.input.len() as u64,
                    ..ExecInfo::default()
                }
            };
            say(Event::Attached(info)).await;
        }
        for part in script.parts {
            match part {
                Part::Stdout(_) | Part::StdoutRest(_) => {
                    let data = match part {
                        Part::StdoutRest(whole) => {
                            whole.slice(usize::try_from(self.state().output.0).unwrap()..)
                        }
                        Part::Stdout(data) => data,
                        _ => unreachable!("the outer match lets these two through"),
                    };
                    for piece in data.chunks(65_536) {
                        let offset = std::mem::replace(&mut self.state().output.0, 0);
                        self.state().output.0 = offset + piece.len() as u64;
                        let data = Bytes::copy_from_slice(piece);
                        say(Event::Stdout(ExecOutput { offset, data })).await;
                    }
                }
                Part::Stderr(data) => {
                    for piece in data.chunks(65_536) {
                        let offset = std::mem::replace(&mut self.state().output.1, 0);
                        self.state().output.1 = offset + piece.len() as u64;
                        let data = Bytes::copy_from_slice(piece);
                        say(Event::Stderr(ExecOutput { offset, data })).await;
                    }
                }
                Part::ReadInput(_) | Part::ReadInputToEnd => {
                    let enough = match part {
                        Part::ReadInput(enough) => enough,
                        _ => usize::MAX,
                    };
                    while self.state().input.len() < enough {
                        let request = requests
                            .message()
                            .await
                            .unwrap()
                            .expect("input ends with eof");
                        let Some(exec_request::Part::Input(input)) = request.part else {
                            continue;
                        };
                        let mut state = self.state();
                        assert_eq!(input.offset, state.input.len() as u64, "input has a hole");
                        state.input.extend_from_slice(&input.data);
                        if input.eof {
                            break;
                        }
                    }
                }
                Part::AwaitSignal => {
                    self.state().awaits_signal = true;
                    while let Ok(Some(request)) = requests.message().await {
                        if let Some(exec_request::Part::Signal(signal)) = request.part {
                            self.state().signals.push(signal);
                            break;
                        }
                    }
                }
                Part::Exit(exit) => say(Event::Exit(exit)).await,
                Part::Cut => {
                    let _ = tx.send(Err(Status::unavailable("cut"))).await;
                    return;
                }
                Part::End => return,
                Part::Refuse(reason) => {
                    let _ = tx.send(Err(refusal(Code::NotFound, reason))).await;
                    return;
                }
            }
        }
    }
}

fn workspace(name: &str) -> Workspace {
    Workspace {
        id: format!("ws-{name}"),
        name: name.to_owned(),
        state: WorkspaceState::Running.into(),
        ..Workspace::default()
    }
}

#[tonic::async_trait]
impl WorkspaceService for Services {
    type ExecStream = BoxStream<'static, Result<ExecResponse, Status>>;
    type DownloadStream = BoxStream<'static, Result<DownloadResponse, Status>>;
    type PortForwardStream = BoxStream<'static, Result<PortForwardResponse, Status>>;

    async fn create_workspace(
        &self,
        request: Request<CreateWorkspaceRequest>,
    ) -> Result<Response<CreateWorkspaceResponse>, Status> {
        let request = request.into_inner();
        let mut state = self.state();
        state.mutations += 1;
        state.created.push(request.clone());
        if state.create_failures > 0 {
            state.create_failures -= 1;
            return Err(refusal(Code::Unavailable, "ENGINE_UNAVAILABLE"));
        }
        if state.names.contains(&request.name) {
            return Err(refusal(Code::AlreadyExists, "NAME_TAKEN"));
        }
        Ok(Response::new(CreateWorkspaceResponse {
            workspace: Some(workspace(&request.name)),
        }))
    }

    async fn get_workspace(
        &self,
        request: Request<GetWorkspaceRequest>,
    ) -> Result<Response<GetWorkspaceResponse>, Status> {
        Ok(Response::new(GetWorkspaceResponse {
            workspace: Some(workspace(&request.into_inner().workspace)),
        }))
    }

    async fn list_workspaces(
        &self,
        _: Request<ListWorkspacesRequest>,
    ) -> Result<Response<ListWorkspacesResponse>, Status> {
        let workspaces = self
            .state()
            .names
            .iter()
            .map(|name| workspace(name))
            .collect();
        Ok(Response::new(ListWorkspacesResponse { workspaces }))
    }

    async fn start_workspace(
        &self,
        request: Request<StartWorkspaceRequest>,
    ) -> Result<Response<StartWorkspaceResponse>, Status> {
        Ok(Response::new(StartWorkspaceResponse {
            workspace: Some(workspace(&request.into_inner().workspace)),
        }))
    }

    async fn stop_workspace(
        &self,
        request: Request<StopWorkspaceRequest>,
    ) -> Result<Response<StopWorkspaceResponse>, Status> {
        Ok(Response::new(StopWorkspaceResponse {
            workspace: Some(workspace(&request.into_inner().workspace)),
        }))
    }

    async fn pause_workspace(
        &self,
        request: Request<PauseWorkspaceRequest>,
    ) -> Result<Response<PauseWorkspaceResponse>, Status> {
        Ok(Response::new(PauseWorkspaceResponse {
            workspace: Some(workspace(&request.into_inner().workspace)),
        }))
    }

    async fn resume_workspace(
        &self,
        request: Request<ResumeWorkspaceRequest>,
    ) -> Result<Response<ResumeWorkspaceResponse>, Status> {
        Ok(Response::new(ResumeWorkspaceResponse {
            workspace: Some(workspace(&request.into_inner().workspace)),
        }))
    }

    async fn update_workspace(
        &self,
        request: Request<UpdateWorkspaceRequest>,
    ) -> Result<Response<UpdateWorkspaceResponse>, Status> {
        let request = request.into_inner();
        let mut workspace = workspace(&request.workspace);
        workspace.idle_stop = request.idle_stop;
        workspace.limits = Some(Limits {
            disk_bytes: request.disk_bytes.unwrap_or(7),
            ..Limits::default()
        });
        Ok(Response::new(UpdateWorkspaceResponse {
            workspace: Some(workspace),
        }))
    }

    async fn set_workspace_egress(
        &self,
        request: Request<SetWorkspaceEgressRequest>,
    ) -> Result<Response<SetWorkspaceEgressResponse>, Status> {
        let request = request.into_inner();
        let mut state = self.state();
        state.mutations += 1;
        let workspace = Workspace {
            egress: request.egress.clone(),
            ..workspace(&request.workspace)
        };
        Ok(Response::new(SetWorkspaceEgressResponse {
            workspace: Some(workspace),
            connections_cut: 2,
        }))
    }

    /// Port 7 echoes; nothing listens on the others.
    async fn port_forward(
        &self,
        request: Request<Streaming<PortForwardRequest>>,
    ) -> Result<Response<Self::PortForwardStream>, Status> {
        let mut parts = request.into_inner();
        let first = parts.message().await?.and_then(|message| message.part);
        let Some(port_forward_request::Part::Start(start)) = first else {
            panic!("a start comes first");
        };
        if start.port != 7 {
            return Err(refusal(Code::FailedPrecondition, "PORT_CLOSED"));
        }
        let (echo, outgoing) = Pipe::new(parts);
        tokio::spawn(async move {
            let (mut from, mut to) = tokio::io::split(echo);
            tokio::io::copy(&mut from, &mut to).await.unwrap();
            to.shutdown().await.unwrap();
        });
        let pieces = ReceiverStream::new(outgoing);
        Ok(Response::new(Box::pin(pieces.map(Ok))))
    }

    async fn delete_workspace(
        &self,
        request: Request<DeleteWorkspaceRequest>,
    ) -> Result<Response<DeleteWorkspaceResponse>, Status> {
        let mut state = self.state();
        state.mutations += 1;
        state.deleted.push(request.into_inner().workspace);
        Ok(Response::new(DeleteWorkspaceResponse {}))
    }

    async fn add_repository(
        &self,
        request: Request<Streaming<AddRepositoryRequest>>,
    ) -> Result<Response<AddRepositoryResponse>, Status> {
        let mut stream = request.into_inner();
        let (mut start, mut bundle) = (None, Vec::new());
        while let Some(message) = stream.message().await? {
            match message.part.unwrap() {
                add_repository_request::Part::Start(first) => start = Some(first),
                add_repository_request::Part::Bundle(data) => bundle.extend_from_slice(&data),
            }
        }
        {
            let mut state = self.state();
            state.mutations += 1;
            state.repository = Some((start.unwrap(), bundle));
        }
        self.until_answers_are_let_go().await;
        Ok(Response::new(AddRepositoryResponse {
            repository: Some(Repository {
                name: "r".into(),
                ..Repository::default()
            }),
            notes: Vec::new(),
        }))
    }

    async fn exec(
        &self,
        request: Request<Streaming<ExecRequest>>,
    ) -> Result<Response<Self::ExecStream>, Status> {
        let mut requests = request.into_inner();
        let first = requests.message().await?.unwrap().part.unwrap();
        let script = {
            let mut state = self.state();
            state.mutations += 1;
            let mut opened = Opened::default();
            match first {
                exec_request::Part::Start(start) => opened.start = Some(start),
                exec_request::Part::Attach(attach) => {
                    state.output = (attach.stdout_offset, attach.stderr_offset);
                    opened.attach = Some(attach);
                }
                other => panic!("a command began with {other:?}"),
            }
            state.execs.push(opened);
            state
                .exec_scripts
                .pop_front()
                .expect("one more connection than the script has")
        };
        self.until_answers_are_let_go().await;
        let (tx, rx) = mpsc::channel(4);
        tokio::spawn(self.clone().play(script, requests, tx));
        Ok(Response::new(Box::pin(ReceiverStream::new(rx))))
    }

    async fn list_execs(
        &self,
        _: Request<ListExecsRequest>,
    ) -> Result<Response<ListExecsResponse>, Status> {
        Ok(Response::new(ListExecsResponse { execs: Vec::new() }))
    }

    async fn get_exec(
        &self,
        _: Request<GetExecRequest>,
    ) -> Result<Response<GetExecResponse>, Status> {
        Err(Status::not_found("the fake daemon has no commands"))
    }

    async fn signal_exec(
        &self,
        _: Request<SignalExecRequest>,
    ) -> Result<Response<SignalExecResponse>, Status> {
        Ok(Response::new(SignalExecResponse {}))
    }

    async fn upload(
        &self,
        request: Request<Streaming<UploadRequest>>,
    ) -> Result<Response<UploadResponse>, Status> {
        let mut stream = request.into_inner();
        let (mut directory, mut data) = (String::new(), Vec::new());
        while let Some(message) = stream.message().await? {
            match message.part.unwrap() {
                upload_request::Part::Start(start) => directory = start.directory,
                upload_request::Part::Data(piece) => data.extend_from_slice(&piece),
            }
        }
        let mut state = self.state();
        state.mutations += 1;
        state.upload = Some((directory, data));
        Ok(Response::new(UploadResponse::default()))
    }

    /// Gives back what was uploaded; before that there is nothing.
    async fn download(
        &self,
        _: Request<DownloadRequest>,
    ) -> Result<Response<Self::DownloadStream>, Status> {
        let Some((_, data)) = self.state().upload.clone() else {
            return Err(refusal(Code::NotFound, "PATH_UNKNOWN"));
        };
        let pieces: Vec<_> = data
            .chunks(100_000)
            .map(|piece| {
                Ok(DownloadResponse {
                    data: Bytes::copy_from_slice(piece),
                })
            })
            .collect();
        Ok(Response::new(Box::pin(tokio_stream::iter(pieces))))
    }
}

#[tonic::async_trait]
impl SessionService for Services {
    type WatchSessionStream = BoxStream<'static, Result<WatchSessionResponse, Status>>;

    async fn start_session(
        &self,
        _: Request<StartSessionRequest>,
    ) -> Result<Response<StartSessionResponse>, Status> {
        let mut state = self.state();
        state.mutations += 1;
        if let Some(reason) = state.session_refusal {
            return Err(refusal(Code::FailedPrecondition, reason));
        }
        let session = Some(state.session.clone());
        Ok(Response::new(StartSessionResponse { session }))
    }

    async fn get_session(
        &self,
        request: Request<GetSessionRequest>,
    ) -> Result<Response<GetSessionResponse>, Status> {
        let session = self.state().session.clone();
        if request.into_inner().session_id != session.id {
            return Err(Status::unknown("something odd"));
        }
        Ok(Response::new(GetSessionResponse {
            session: Some(session),
        }))
    }

    async fn list_model_calls(
        &self,
        _: Request<ListModelCallsRequest>,
    ) -> Result<Response<ListModelCallsResponse>, Status> {
        Ok(Response::new(ListModelCallsResponse::default()))
    }

    async fn get_session_cognition(
        &self,
        _: Request<GetSessionCognitionRequest>,
    ) -> Result<Response<GetSessionCognitionResponse>, Status> {
        Ok(Response::new(GetSessionCognitionResponse {
            thoughts: 3,
            thoughts_counted: 2,
            points: vec![CognitionPoint {
                name: "before completing".to_owned(),
                met: 2,
                reasoned: 1,
            }],
            temptations: vec![CognitionTemptation {
                id: "T1".to_owned(),
                name: "claiming victory without verification".to_owned(),
                detected: true,
                met: 1,
                recognised: 1,
                ..Default::default()
            }],
            timeline: vec![CognitionEntry {
                sequence: 9,
                stage: Stage::Modify.into(),
                noted: Some(CognitionNoted {
                    kind: "decision_point".to_owned(),
                    point: "before completing".to_owned(),
                    text: "todo_claim".to_owned(),
                    ..Default::default()
                }),
                ..Default::default()
            }],
            ..Default::default()
        }))
    }

    async fn list_sessions(
        &self,
        _: Request<ListSessionsRequest>,
    ) -> Result<Response<ListSessionsResponse>, Status> {
        let sessions = vec![self.state().session.clone()];
        Ok(Response::new(ListSessionsResponse { sessions }))
    }

    async fn watch_session(
        &self,
        request: Request<WatchSessionRequest>,
    ) -> Result<Response<Self::WatchSessionStream>, Status> {
        use futures_util::StreamExt as _;
        let mut state = self.state();
        state
            .watched_after
            .push(request.into_inner().after_sequence);
        let events = state.watch_scripts.pop_front().unwrap_or_default();
        let mut items: Vec<_> = events
            .into_iter()
            .map(|event| {
                Ok(WatchSessionResponse {
                    item: Some(watch_session_response::Item::Event(event)),
                })
            })
            .collect();
        if !state.watch_scripts.is_empty() {
            items.push(Err(Status::unavailable("cut")));
        } else if let Some(session) = state.session_at_end.take() {
            state.session = session;
        }
        let ended = matches!(
            state.session.state(),
            SessionState::Verified | SessionState::Failed | SessionState::Cancelled
        );
        let stream = tokio_stream::iter(items);
        // A session that has not ended is followed on.
        Ok(Response::new(if ended {
            Box::pin(stream)
        } else {
            Box::pin(stream.chain(tokio_stream::pending()))
        }))
    }

    async fn pause_session(
        &self,
        _: Request<PauseSessionRequest>,
    ) -> Result<Response<PauseSessionResponse>, Status> {
        let session = Some(self.state().session.clone());
        Ok(Response::new(PauseSessionResponse { session }))
    }

    async fn resume_session(
        &self,
        _: Request<ResumeSessionRequest>,
    ) -> Result<Response<ResumeSessionResponse>, Status> {
        let session = Some(self.state().session.clone());
        Ok(Response::new(ResumeSessionResponse { session }))
    }

    async fn rollback_session(
        &self,
        _: Request<RollbackSessionRequest>,
    ) -> Result<Response<RollbackSessionResponse>, Status> {
        let session = Some(self.state().session.clone());
        Ok(Response::new(RollbackSessionResponse { session }))
    }

    async fn cancel_session(
        &self,
        _: Request<CancelSessionRequest>,
    ) -> Result<Response<CancelSessionResponse>, Status> {
        let session = Some(self.state().session.clone());
        Ok(Response::new(CancelSessionResponse { session }))
    }

    async fn answer_session(
        &self,
        request: Request<AnswerSessionRequest>,
    ) -> Result<Response<AnswerSessionResponse>, Status> {
        let mut state = self.state();
        state.answer = Some(request.into_inner());
        let session = Some(state.session.clone());
        Ok(Response::new(AnswerSessionResponse { session }))
    }
}

#[tonic::async_trait]
impl ArtifactService for Services {
    type GetArtifactStream = BoxStream<'static, Result<GetArtifactResponse, Status>>;

    async fn list_artifacts(
        &self,
        _: Request<ListArtifactsRequest>,
    ) -> Result<Response<ListArtifactsResponse>, Status> {
        Ok(Response::new(ListArtifactsResponse::default()))
    }

    async fn get_artifact(
        &self,
        request: Request<GetArtifactRequest>,
    ) -> Result<Response<Self::GetArtifactStream>, Status> {
        use get_artifact_response::Part;
        let content = self.state().artifact.clone();
        let artifact = Artifact {
            id: request.into_inner().artifact_id,
            size_bytes: content.len() as u64,
            ..Artifact::default()
        };
        let mut parts = vec![Part::Artifact(artifact)];
        parts.extend(
            content
                .chunks(1 << 20)
                .map(|piece| Part::Data(Bytes::copy_from_slice(piece))),
        );
        let messages: Vec<_> = parts
            .into_iter()
            .map(|part| Ok(GetArtifactResponse { part: Some(part) }))
            .collect();
        Ok(Response::new(Box::pin(tokio_stream::iter(messages))))
    }
}

#[tonic::async_trait]
impl SystemService for Services {
    async fn get_info(
        &self,
        _: Request<GetInfoRequest>,
    ) -> Result<Response<GetInfoResponse>, Status> {
        Ok(Response::new(GetInfoResponse::default()))
    }

    async fn diagnose(
        &self,
        _: Request<DiagnoseRequest>,
    ) -> Result<Response<DiagnoseResponse>, Status> {
        let checks = self.state().checks.clone();
        Ok(Response::new(DiagnoseResponse { checks }))
    }

    async fn collect_garbage(
        &self,
        _: Request<CollectGarbageRequest>,
    ) -> Result<Response<CollectGarbageResponse>, Status> {
        Ok(Response::new(CollectGarbageResponse::default()))
    }
}

/// A socket between client and daemon that can go away and come back, as a
/// daemon's own does when it restarts.
#[derive(Debug)]
pub(crate) struct Relay {
    directory: tempfile::TempDir,
    daemon: PathBuf,
    connections: tokio::task::JoinHandle<()>,
}

impl Relay {
    pub(crate) fn to(daemon: &FakeDaemon) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let connections = Self::serve(&directory.path().join("r.sock"), daemon.socket());
        Relay {
            directory,
            daemon: daemon.socket(),
            connections,
        }
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.directory.path().join("r.sock")
    }

    /// Ends every connection and the socket with them.
    pub(crate) fn go_away(&mut self) {
        self.connections.abort();
        std::fs::remove_file(self.socket()).unwrap();
    }

    pub(crate) fn come_back(&mut self) {
        self.connections = Self::serve(&self.socket(), self.daemon.clone());
    }

    fn serve(socket: &std::path::Path, daemon: PathBuf) -> tokio::task::JoinHandle<()> {
        let listener = UnixListener::bind(socket).unwrap();
        tokio::spawn(async move {
            // Dropped, and its tasks with it, when this one is aborted.
            let mut connections = tokio::task::JoinSet::new();
            loop {
                let (mut client, _) = listener.accept().await.unwrap();
                let mut server = tokio::net::UnixStream::connect(&daemon).await.unwrap();
                connections.spawn(async move {
                    let _ = tokio::io::copy_bidirectional(&mut client, &mut server).await;
                });
            }
        })
    }
}

impl Drop for Relay {
    fn drop(&mut self) {
        self.connections.abort();
    }
}
