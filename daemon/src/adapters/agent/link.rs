//! One admitted connection to an agent.
//!
//! HTTP/2 is set up against four measured traps (see `compyd_proto::link`):
//! windows that ten unread streams cannot fill, no limit on the resets of our
//! own streams, and a deadline on every call, because a paused container
//! answers nothing.

use std::{
    fmt,
    future::Future,
    os::unix::net::UnixStream as StdUnixStream,
    pin::Pin,
    sync::{Arc, Mutex},
    task::{Context, Poll},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use compyd_proto::{
    agent::{self as wire, agent_client::AgentClient},
    link,
};
use futures_util::{
    Stream, StreamExt as _, TryStreamExt as _,
    future::BoxFuture,
    stream::{self, BoxStream},
};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::UnixStream,
};
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::{
    Response, Status,
    transport::{Channel, Endpoint, Uri},
};

use super::{
    convert,
    exec_stream::ExecStream,
    refusal::{self, broken},
    trees::TreeLink,
};
use crate::{
    domain::{
        egress::proxy_environment,
        exec::{
            Exec, ExecEvent, ExecSpec, OutputOffsets, Reading, SignalTarget, SpoolLimits,
            TerminalSize,
        },
        files::{
            FileInfo, FileText, FileUpdate, FileWrite, GlobQuery, GrepLine, GrepQuery, Listing,
            ReadRange, Receipt,
        },
        ids::{ExecId, StepId, WorkspaceId},
        workspace::NetworkMode,
    },
    ports::{
        agent::{AgentError, AgentPort, Uploaded},
        command_secrets::CommandSecretsPort,
        trees::TreesPort,
    },
};

const HELLO_DEADLINE: Duration = Duration::from_secs(5);
/// For calls that look something up.
pub(super) const QUICK_DEADLINE: Duration = Duration::from_secs(10);
/// For calls that touch many files, or bytes of standard input that a command
/// may be slow to take.
const LONG_DEADLINE: Duration = Duration::from_secs(60);
/// For a whole archive.
const ARCHIVE_DEADLINE: Duration = Duration::from_secs(30 * 60);
const MOST_ENTRIES: usize = 10_000;
const NO_SECRETS: &str = "this workspace's agent is too old to be given credentials, and some are \
     set for it; stop and start the workspace to give it this daemon's agent";

/// A live link to the agent of one workspace.
pub struct AgentLink {
    client: AgentClient<Channel>,
    channel: Channel,
    ended: CancellationToken,
    /// The same socket once more, to cut it while streams still use it.
    socket: StdUnixStream,
    version: Version,
    boot_id: String,
    environment: Arc<[(String, Vec<u8>)]>,
    workspace: WorkspaceId,
    secrets: Option<Arc<dyn CommandSecretsPort>>,
    /// `None` for an agent that does not serve trees.
    trees: Option<Arc<TreeLink>>,
    /// Whether the agent can count the bytes of volumes.
    counts_volumes: bool,
    /// Whether the agent changes several files at once.
    changes_files: bool,
    /// Whether the agent gives commands their credentials.
    gives_secrets: bool,
    /// Port of the proxy on the workspace's loopback, where there is one.
    proxy_port: Option<u16>,
}

/// What a link needs to know beyond its connection.
#[derive(Clone)]
pub(super) struct LinkContext {
    /// Variables of every command, before its own.
    pub(super) environment: Vec<(String, Vec<u8>)>,
    /// What its commands may know besides.
    pub(super) secrets: Option<Arc<dyn CommandSecretsPort>>,
    /// What its commands' output may take.
    pub(super) spool: SpoolLimits,
    /// Network of the workspace: one without is given its proxy.
    pub(super) network: NetworkMode,
    /// Whom it serves.
    pub(super) serves: Serves,
}

/// What an agent is there for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Serves {
    /// The commands and files of a workspace, many at a time.
    Workspace,
    /// The volumes that a snapshot reads or fills.
    Volumes,
}

impl Serves {
    fn stream_window_bytes(self) -> u32 {
        match self {
            Self::Workspace => link::STREAM_WINDOW_BYTES,
            Self::Volumes => link::HELPER_STREAM_WINDOW_BYTES,
        }
    }
}

/// A version of the agent's protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Version {
    major: u32,
    minor: u32,
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.major, self.minor)
    }
}

impl Version {
    const OURS: Self = Self {
        major: link::PROTOCOL_MAJOR,
        minor: link::PROTOCOL_MINOR,
    };

    /// Same major, at most one minor apart.
    fn check(self) -> Result<Self, String> {
        let ours = Self::OURS;
        if self.major == ours.major && self.minor.abs_diff(ours.minor) <= 1 {
            return Ok(self);
        }
        Err(format!(
            "the agent speaks version {self}, this daemon {ours}; stop and start the workspace to \
             give it this daemon's agent"
        ))
    }
}

impl AgentLink {
    /// Says hello over a fresh connection. An error says why the peer is not an
    /// agent to work with.
    pub(super) async fn establish(
        stream: UnixStream,
        workspace: &WorkspaceId,
        context: LinkContext,
    ) -> Result<Self, String> {
        let ended = CancellationToken::new();
        let twice = stream.into_std().and_then(|stream| {
            let socket = stream.try_clone()?;
            Ok((socket, UnixStream::from_std(stream)?))
        });
        let (socket, stream) = twice.map_err(|error| error.to_string())?;
        let stream = Watched {
            stream,
            _ended: ended.clone().drop_guard(),
        };
        let channel = channel(stream, context.serves)
            .await
            .map_err(|error| error.to_string())?;
        let mut client = AgentClient::new(channel.clone())
            .max_decoding_message_size(link::MAX_MESSAGE_BYTES)
            .max_encoding_message_size(link::MAX_MESSAGE_BYTES);
        let request = wire::HelloRequest {
            version: Some(wire::ProtocolVersion {
                major: link::PROTOCOL_MAJOR,
                minor: link::PROTOCOL_MINOR,
            }),
            workspace_id: workspace.to_string(),
            spool_limits: Some(convert::spool_limits(context.spool)),
        };
        let hello = tokio::time::timeout(HELLO_DEADLINE, client.hello(request))
            .await
            .map_err(|_| "no answer to hello".to_owned())?
            .map_err(|status| refusal::read("hello", &status).to_string())?
            .into_inner();
        let said = hello.version.unwrap_or_default();
        let version = Version {
            major: said.major,
            minor: said.minor,
        };
        let trees_channel = channel.clone();
        let serves_trees = hello.features.iter().any(|f| f == link::FEATURE_TREES);
        let counts_volumes = hello.features.iter().any(|f| f == link::FEATURE_VOLUMES);
        let changes_files = hello.features.iter().any(|f| f == link::FEATURE_CHANGES);
        let gives_secrets = hello.features.iter().any(|f| f == link::FEATURE_SECRETS);
        let boot_id = hello.boot_id;
        if boot_id.len() != 32 || !boot_id.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err("the boot id is not 32 hex digits".to_owned());
        }
        // An agent of 1.0 says nothing here.
        let proxy_port = u16::try_from(hello.proxy_port)
            .ok()
            .filter(|port| *port != 0);
        let mut environment = context.environment;
        if let (Some(port), NetworkMode::None) = (proxy_port, context.network) {
            environment.extend(proxy_environment(port));
        }
        Ok(Self {
            client,
            channel,
            ended,
            socket,
            version: version.check()?,
            boot_id,
            environment: environment.into(),
            workspace: workspace.clone(),
            secrets: context.secrets,
            proxy_port,
            counts_volumes,
            changes_files,
            gives_secrets,
            trees: serves_trees.then(|| Arc::new(TreeLink::new(trees_channel))),
        })
    }

    /// Whether the agent knows of tunnels.
    pub(super) fn has_tunnels(&self) -> bool {
        self.proxy_port.is_some()
    }

    pub(super) fn channel(&self) -> Channel {
        self.channel.clone()
    }

    /// Cancelled once the connection has ended.
    pub(super) fn ended(&self) -> CancellationToken {
        self.ended.clone()
    }

    /// Ends the connection, also under streams that are being read; their
    /// readers see a broken link.
    pub(super) fn cut(&self) {
        // It may have ended by itself.
        let _ = self.socket.shutdown(std::net::Shutdown::Both);
    }

    /// Version of the protocol that the agent speaks.
    #[must_use]
    pub fn version(&self) -> Version {
        self.version
    }

    /// Tells one start of the container from another; 32 hex digits.
    #[must_use]
    pub fn boot_id(&self) -> &str {
        &self.boot_id
    }

    fn client(&self) -> AgentClient<Channel> {
        self.client.clone()
    }

    /// A start with what the command may know, as it is when this is awaited.
    fn start_request(
        &self,
        id: &ExecId,
        spec: &ExecSpec,
    ) -> impl Future<Output = Result<wire::StartExecRequest, Status>> + Send + 'static {
        let request = wire::StartExecRequest {
            exec_id: id.to_string(),
            spec: Some(convert::spec_to_wire(spec, &self.environment)),
            secrets: None,
        };
        let (secrets, workspace, id) = (self.secrets.clone(), self.workspace.clone(), id.clone());
        let (tool, gives_secrets) = (spec.tool, self.gives_secrets);
        async move {
            let Some(secrets) = secrets else {
                return Ok(request);
            };
            let known = secrets.of(&workspace, &id, tool).await;
            let known = known.map_err(Status::unavailable)?;
            if !gives_secrets {
                return match known.is_empty() {
                    true => Ok(request),
                    false => Err(Status::failed_precondition(NO_SECRETS)),
                };
            }
            Ok(wire::StartExecRequest {
                secrets: Some(convert::secrets_to_wire(known)),
                ..request
            })
        }
    }

    fn exec_stream(
        &self,
        call: &'static str,
        id: &ExecId,
        from: (OutputOffsets, Reading),
        answer: impl Future<
            Output = Result<Response<tonic::Streaming<wire::AttachExecResponse>>, Status>,
        > + Send
        + 'static,
    ) -> BoxStream<'static, Result<ExecEvent, AgentError>> {
        let id = id.clone();
        let environment = self.environment.clone();
        let opened = async move {
            let streaming = within(call, QUICK_DEADLINE, answer).await?;
            Ok(ExecStream::new(call, streaming, id, environment, from))
        };
        stream::once(opened).try_flatten().boxed()
    }
}

/// Waits for an answer, not for ever.
pub(super) async fn within<Answer>(
    call: &'static str,
    deadline: Duration,
    answer: impl Future<Output = Result<Response<Answer>, Status>>,
) -> Result<Answer, AgentError> {
    match tokio::time::timeout(deadline, answer).await {
        Ok(Ok(answer)) => Ok(answer.into_inner()),
        Ok(Err(status)) => Err(refusal::read(call, &status)),
        Err(_) => Err(refusal::deadline(call, deadline)),
    }
}

/// `None` where the agent says that there is none.
fn optional<T>(answer: Result<T, AgentError>, absent: &str) -> Result<Option<T>, AgentError> {
    match answer {
        Ok(answer) => Ok(Some(answer)),
        Err(error) if error.code() == Some(absent) => Ok(None),
        Err(error) => Err(error),
    }
}

#[async_trait]
impl AgentPort for AgentLink {
    fn trees(&self) -> Option<Arc<dyn TreesPort>> {
        let trees = self.trees.clone()?;
        Some(trees)
    }

    async fn volume_bytes(&self) -> Result<Option<u64>, AgentError> {
        const CALL: &str = "count the volumes";
        if !self.counts_volumes {
            return Ok(None);
        }
        let request = wire::CountVolumesRequest {};
        let answer = within(CALL, LONG_DEADLINE, self.client().count_volumes(request)).await?;
        Ok(Some(answer.bytes))
    }

    async fn ping(&self) -> Result<(), AgentError> {
        let request = wire::PingRequest {
            payload: Bytes::new(),
        };
        within("ping", QUICK_DEADLINE, self.client().ping(request))
            .await
            .map(|_| ())
    }

    async fn start(&self, id: &ExecId, spec: &ExecSpec) -> Result<(Exec, bool), AgentError> {
        const CALL: &str = "start";
        let request = self.start_request(id, spec).await;
        let request = request.map_err(|status| refusal::read(CALL, &status))?;
        let answer = within(CALL, QUICK_DEADLINE, self.client().start_exec(request)).await?;
        let exec = convert::exec(CALL, answer.exec, Some(id), &self.environment)?;
        Ok((exec, answer.started))
    }

    fn run(
        &self,
        id: &ExecId,
        spec: &ExecSpec,
    ) -> BoxStream<'static, Result<ExecEvent, AgentError>> {
        let request = self.start_request(id, spec);
        let mut client = self.client();
        let answer = async move { client.run_exec(request.await?).await };
        self.exec_stream("run", id, Default::default(), answer)
    }

    fn attach(
        &self,
        id: &ExecId,
        offsets: OutputOffsets,
        reading: Reading,
    ) -> BoxStream<'static, Result<ExecEvent, AgentError>> {
        let request = wire::AttachExecRequest {
            exec_id: id.to_string(),
            stdout_offset: offsets.stdout,
            stderr_offset: offsets.stderr,
            exit_only: reading == Reading::ExitOnly,
            no_follow: reading == Reading::NoFollow,
        };
        let mut client = self.client();
        let answer = async move { client.attach_exec(request).await };
        self.exec_stream("attach", id, (offsets, reading), answer)
    }

    async fn write_stdin(
        &self,
        id: &ExecId,
        offset: u64,
        data: Bytes,
        eof: bool,
    ) -> Result<u64, AgentError> {
        const CALL: &str = "write_stdin";
        let end = offset + data.len() as u64;
        let request = wire::WriteStdinRequest {
            exec_id: id.to_string(),
            offset,
            data,
            eof,
        };
        let requests = stream::iter([request]);
        let answer = within(CALL, LONG_DEADLINE, self.client().write_stdin(requests)).await?;
        if answer.accepted_bytes < end {
            let message = format!("{} bytes accepted of {end}", answer.accepted_bytes);
            return Err(broken(CALL, message));
        }
        Ok(answer.accepted_bytes)
    }

    async fn signal(
        &self,
        id: &ExecId,
        step: Option<&StepId>,
        target: SignalTarget,
    ) -> Result<(), AgentError> {
        let request = wire::SignalExecRequest {
            exec_id: id.to_string(),
            what: Some(convert::signal_to_wire(target)),
            step_id: step.map(ToString::to_string).unwrap_or_default(),
        };
        within("signal", LONG_DEADLINE, self.client().signal_exec(request))
            .await
            .map(|_| ())
    }

    async fn resize(&self, id: &ExecId, size: TerminalSize) -> Result<(), AgentError> {
        let request = wire::ResizeExecRequest {
            exec_id: id.to_string(),
            size: Some(convert::size_to_wire(size)),
        };
        within("resize", QUICK_DEADLINE, self.client().resize_exec(request))
            .await
            .map(|_| ())
    }

    async fn get(&self, id: &ExecId) -> Result<Option<Exec>, AgentError> {
        const CALL: &str = "get";
        let request = wire::GetExecRequest {
            exec_id: id.to_string(),
        };
        let answer = within(CALL, QUICK_DEADLINE, self.client().get_exec(request)).await;
        optional(answer, "EXEC_UNKNOWN")?
            .map(|answer| convert::exec(CALL, answer.exec, Some(id), &self.environment))
            .transpose()
    }

    async fn list(&self, running_only: bool) -> Result<Vec<Exec>, AgentError> {
        const CALL: &str = "list";
        let request = wire::ListExecsRequest { running_only };
        within(CALL, QUICK_DEADLINE, self.client().list_execs(request))
            .await?
            .execs
            .into_iter()
            .map(|exec| convert::exec(CALL, Some(exec), None, &self.environment))
            .collect()
    }

    async fn remove(&self, id: &ExecId) -> Result<(), AgentError> {
        let request = wire::RemoveExecRequest {
            exec_id: id.to_string(),
        };
        within("remove", QUICK_DEADLINE, self.client().remove_exec(request))
            .await
            .map(|_| ())
    }

    async fn read_file(&self, path: &str, range: &ReadRange) -> Result<FileText, AgentError> {
        const CALL: &str = "read_file";
        let request = wire::ReadFileRequest {
            path: path.to_owned(),
            first_line: range.first_line.unwrap_or(0),
            line_count: range.line_count.unwrap_or(0),
            max_bytes: range.max_bytes.unwrap_or(0),
        };
        let answer = within(CALL, LONG_DEADLINE, self.client().read_file(request)).await?;
        convert::text(CALL, answer)
    }

    async fn write_file(&self, step: &StepId, write: &FileWrite) -> Result<Receipt, AgentError> {
        const CALL: &str = "write_file";
        let request = convert::write_to_wire(step.to_string(), write);
        let answer = within(CALL, LONG_DEADLINE, self.client().write_file(request)).await?;
        convert::receipt(CALL, answer.receipt, step.as_str())
    }

    async fn change_files(
        &self,
        step: &StepId,
        updates: &[FileUpdate],
    ) -> Result<Vec<Receipt>, AgentError> {
        const CALL: &str = "change_files";
        if !self.changes_files {
            return Err(AgentError::Refused {
                code: "UNSUPPORTED".into(),
                message: "the workspace's agent is of an older daemon and changes one file at a time: edit file by file, or have the workspace restarted".into(),
            });
        }
        let request = convert::changes_to_wire(step.to_string(), updates);
        let answer = within(CALL, LONG_DEADLINE, self.client().change_files(request)).await?;
        let receipts = convert::receipts(CALL, answer.receipts, step.as_str())?;
        if receipts.len() != updates.len() {
            return Err(super::refusal::broken(CALL, "not a receipt for each file"));
        }
        Ok(receipts)
    }

    async fn list_directory(
        &self,
        path: &str,
        max_entries: Option<u32>,
    ) -> Result<Listing<FileInfo>, AgentError> {
        const CALL: &str = "list_directory";
        let request = wire::ListDirectoryRequest {
            path: path.to_owned(),
            max_entries: max_entries.unwrap_or(0),
        };
        let answer = within(CALL, LONG_DEADLINE, self.client().list_directory(request)).await?;
        convert::infos(CALL, answer.entries, answer.truncated, MOST_ENTRIES)
    }

    async fn glob(&self, query: &GlobQuery) -> Result<Listing<FileInfo>, AgentError> {
        const CALL: &str = "glob";
        let request = convert::glob_to_wire(query);
        let answer = within(CALL, LONG_DEADLINE, self.client().glob(request)).await?;
        convert::infos(CALL, answer.files, answer.truncated, MOST_ENTRIES)
    }

    async fn grep(&self, query: &GrepQuery) -> Result<Listing<GrepLine>, AgentError> {
        let request = convert::grep_to_wire(query);
        within("grep", LONG_DEADLINE, self.client().grep(request))
            .await
            .map(convert::grep_lines)
    }

    async fn stat(&self, path: &str) -> Result<Option<FileInfo>, AgentError> {
        const CALL: &str = "stat";
        let request = wire::StatFileRequest {
            path: path.to_owned(),
            with_hash: false,
        };
        let answer = within(CALL, QUICK_DEADLINE, self.client().stat_file(request)).await;
        optional(answer, "NOT_FOUND")?
            .map(|answer| convert::info(CALL, answer.info))
            .transpose()
    }

    async fn upload(
        &self,
        directory: &str,
        step: Option<&StepId>,
        archive: BoxStream<'static, Bytes>,
    ) -> Result<Uploaded, AgentError> {
        let first = wire::UploadRequest {
            directory: directory.to_owned(),
            step_id: step.map(ToString::to_string).unwrap_or_default(),
            user: String::new(),
            data: Bytes::new(),
        };
        let call = send_archive(self.client(), first, archive);
        let answer = within("upload", ARCHIVE_DEADLINE, call).await?;
        Ok(Uploaded {
            entries: answer.entries,
            content_bytes: answer.content_bytes,
        })
    }

    fn download(&self, path: &str) -> BoxStream<'static, Result<Bytes, AgentError>> {
        const CALL: &str = "download";
        let request = wire::DownloadRequest {
            path: path.to_owned(),
        };
        let mut client = self.client();
        let opened = async move {
            let streaming = within(CALL, QUICK_DEADLINE, client.download(request)).await?;
            Ok(streaming.map(|piece| match piece {
                Ok(piece) => Ok(piece.data),
                Err(status) => Err(refusal::read(CALL, &status)),
            }))
        };
        stream::once(opened).try_flatten().boxed()
    }

    async fn receipts(&self, step: &StepId) -> Result<Vec<Receipt>, AgentError> {
        const CALL: &str = "receipts";
        let request = wire::GetReceiptRequest {
            step_id: step.to_string(),
        };
        let answer = within(CALL, QUICK_DEADLINE, self.client().get_receipt(request)).await?;
        // Of a single file there is only the one.
        let receipts = match answer.receipts.is_empty() {
            true => answer.receipt.into_iter().collect(),
            false => answer.receipts,
        };
        convert::receipts(CALL, receipts, step.as_str())
    }
}

/// The first message, then the archive in pieces.
fn send_archive(
    mut client: AgentClient<Channel>,
    first: wire::UploadRequest,
    archive: BoxStream<'static, Bytes>,
) -> BoxFuture<'static, Result<Response<wire::UploadResponse>, Status>> {
    let requests = UploadRequests {
        first: Some(first),
        archive,
        rest: Bytes::new(),
    };
    Box::pin(async move { client.upload(requests).await })
}

/// The messages of an upload, cut to size without copying.
struct UploadRequests {
    first: Option<wire::UploadRequest>,
    archive: BoxStream<'static, Bytes>,
    /// What is left of a piece that does not fit into one message.
    rest: Bytes,
}

impl Stream for UploadRequests {
    type Item = wire::UploadRequest;

    fn poll_next(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Self::Item>> {
        if let Some(first) = self.first.take() {
            return Poll::Ready(Some(first));
        }
        while self.rest.is_empty() {
            match std::task::ready!(self.archive.poll_next_unpin(cx)) {
                Some(piece) => self.rest = piece,
                None => return Poll::Ready(None),
            }
        }
        let length = self.rest.len().min(link::MAX_CHUNK_BYTES);
        let data = self.rest.split_to(length);
        Poll::Ready(Some(wire::UploadRequest {
            data,
            ..Default::default()
        }))
    }
}

/// gRPC over one connection that is never made again: a new one is a new link.
async fn channel(stream: Watched, serves: Serves) -> Result<Channel, tonic::transport::Error> {
    let stream = Arc::new(Mutex::new(Some(TokioIo::new(stream))));
    let connector = tower::service_fn(move |_: Uri| {
        let taken = stream
            .lock()
            .unwrap_or_else(std::sync::PoisonError::into_inner)
            .take();
        async move {
            taken.ok_or_else(|| std::io::Error::other("the connection to the agent has ended"))
        }
    });
    Endpoint::from_static("http://agent.compy")
        .initial_stream_window_size(serves.stream_window_bytes())
        .initial_connection_window_size(link::CONNECTION_WINDOW_BYTES)
        .max_frame_size(link::FRAME_BYTES)
        .http2_max_local_error_reset_streams(None)
        .connect_with_connector(connector)
        .await
}

/// A connection that tells when it is dropped.
struct Watched {
    stream: UnixStream,
    _ended: DropGuard,
}

impl AsyncRead for Watched {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Watched {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[std::io::IoSlice<'_>],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}
