//! A daemon's end of the link: a socket in a temporary directory, and the
//! agent's binary as an ordinary process that dials it.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::{Duration, Instant};

use bytes::Bytes;
use compyd_proto::agent::agent_client::AgentClient;
use compyd_proto::agent::attach_exec_response::Event;
use compyd_proto::agent::exit::How;
use compyd_proto::agent::trees_client::TreesClient;
use compyd_proto::agent::tunnel_client::TunnelClient;
use compyd_proto::agent::*;
use compyd_proto::link;
use hyper_util::rt::TokioIo;
use tokio::net::{UnixListener, UnixStream};
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status, Streaming};
use tonic_types::StatusExt as _;

pub(crate) type Client = AgentClient<Channel>;
pub(crate) type Trees = TreesClient<Channel>;

/// Longest time that any state is waited for.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

pub(crate) struct Rig {
    dir: tempfile::TempDir,
    listener: UnixListener,
    agent: Child,
    wrapper: Vec<String>,
    arguments: Vec<String>,
    pub(crate) client: Client,
    channel: Channel,
}

impl Rig {
    pub(crate) async fn start() -> Self {
        Self::start_with(&[]).await
    }

    pub(crate) async fn start_with(arguments: &[&str]) -> Self {
        Self::start_below(&[], arguments).await
    }

    async fn start_below(wrapper: &[&str], arguments: &[&str]) -> Self {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join("work")).unwrap();
        let listener = UnixListener::bind(dir.path().join("daemon.sock")).unwrap();
        let arguments: Vec<String> = arguments.iter().map(|s| (*s).to_owned()).collect();
        let wrapper: Vec<String> = wrapper.iter().map(|s| (*s).to_owned()).collect();
        let agent = spawn_agent(dir.path(), &wrapper, &arguments);
        let (client, channel) = accept(&listener).await;
        Self {
            channel,
            wrapper,
            dir,
            listener,
            agent,
            arguments,
            client,
        }
    }

    /// Starts the agent as the init of its own pid namespace, as in a container;
    /// nothing where that is not allowed.
    pub(crate) async fn start_as_init() -> Option<Self> {
        let unshare = ["--pid", "--fork", "--mount-proc", "--kill-child"];
        let allowed = Command::new("unshare").args(unshare).arg("true").status();
        if !allowed.is_ok_and(|status| status.success()) {
            eprintln!("SKIPPED: pid namespaces cannot be made here");
            return None;
        }
        Some(
            Self::start_below(
                &["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"],
                &[],
            )
            .await,
        )
    }

    /// Starts the agent on a state volume of its own of this size; nothing
    /// where that is not allowed.
    pub(crate) async fn start_on_small_state(size: &str) -> Option<Self> {
        const MOUNT: &str = r#"size=$1; shift
            for word; do [ "$last" = --state ] && state=$word; last=$word; done
            mkdir -p "$state" && mount -t tmpfs -o size="$size" tmpfs "$state" && exec "$@""#;
        let allowed = Command::new("unshare").args(["--mount", "true"]).status();
        if !allowed.is_ok_and(|status| status.success()) {
            eprintln!("SKIPPED: nothing can be mounted here");
            return None;
        }
        let wrapper = ["unshare", "--mount", "sh", "-c", MOUNT, "sh", size];
        Some(Self::start_below(&wrapper, &[]).await)
    }

    /// Says hello as a daemon that limits the spools.
    pub(crate) async fn limit(&self, limits: SpoolLimits) {
        let mut client = self.client.clone();
        let hello = HelloRequest {
            spool_limits: Some(limits),
            ..HelloRequest::default()
        };
        client.hello(hello).await.unwrap();
    }

    pub(crate) fn tunnel(&self) -> TunnelClient<Channel> {
        TunnelClient::new(self.channel.clone())
    }

    /// The first root of the file tools.
    pub(crate) fn work(&self) -> PathBuf {
        self.dir.path().join("work").canonicalize().unwrap()
    }

    pub(crate) fn ssh_agent(&self) -> PathBuf {
        self.dir.path().join("ssh-agent.sock")
    }

    pub(crate) fn state(&self) -> PathBuf {
        self.dir.path().join("state")
    }

    pub(crate) fn agent_pid(&self) -> i32 {
        self.agent.id() as i32
    }

    pub(crate) fn trees(&self) -> Trees {
        TreesClient::new(self.channel.clone())
            .max_decoding_message_size(link::MAX_MESSAGE_BYTES)
            .max_encoding_message_size(link::MAX_MESSAGE_BYTES)
    }

    /// Drops the link and takes the agent's next one.
    pub(crate) async fn reconnect(&mut self) {
        // A channel closes its connection with its last handle.
        self.channel = Endpoint::from_static("http://none").connect_lazy();
        self.client = AgentClient::new(self.channel.clone());
        (self.client, self.channel) = accept(&self.listener).await;
    }

    /// Ends the agent as an out-of-memory killer would, and starts it again on
    /// the same state.
    pub(crate) async fn restart_agent(&mut self) {
        self.agent.kill().unwrap();
        self.agent.wait().unwrap();
        self.agent = spawn_agent(self.dir.path(), &self.wrapper, &self.arguments);
        (self.client, self.channel) = accept(&self.listener).await;
    }

    pub(crate) fn wait_for_end(&mut self) {
        let status = self.agent.wait().unwrap();
        assert!(status.success(), "{status}");
    }

    pub(crate) fn terminate_agent(&mut self) {
        signal(self.agent_pid(), 15);
        let status = self.agent.wait().unwrap();
        assert!(status.success(), "{status}");
    }

    pub(crate) async fn run(&self, id: &str, spec: ExecSpec) -> Outcome {
        Outcome::collect(self.open(id, spec).await).await
    }

    pub(crate) async fn sh(&self, id: &str, script: &str) -> Outcome {
        self.run(id, sh(script)).await
    }

    pub(crate) async fn open(&self, id: &str, spec: ExecSpec) -> Streaming<AttachExecResponse> {
        self.try_open(id, spec).await.unwrap()
    }

    pub(crate) async fn try_open(
        &self,
        id: &str,
        spec: ExecSpec,
    ) -> Result<Streaming<AttachExecResponse>, Status> {
        let mut client = self.client.clone();
        Ok(client.run_exec(start_request(id, spec)).await?.into_inner())
    }

    pub(crate) async fn start_exec(&self, id: &str, spec: ExecSpec) -> StartExecResponse {
        let mut client = self.client.clone();
        let answer = client.start_exec(start_request(id, spec)).await;
        answer.unwrap().into_inner()
    }

    pub(crate) async fn attach(&self, request: AttachExecRequest) -> Streaming<AttachExecResponse> {
        let mut client = self.client.clone();
        client.attach_exec(request).await.unwrap().into_inner()
    }

    pub(crate) async fn get(&self, id: &str) -> Exec {
        let mut client = self.client.clone();
        let request = GetExecRequest { exec_id: id.into() };
        client
            .get_exec(request)
            .await
            .unwrap()
            .into_inner()
            .exec
            .unwrap()
    }

    pub(crate) async fn signal(&self, id: &str, what: signal_exec_request::What) {
        self.signal_as(id, what, "").await;
    }

    /// Signals a command as a step.
    pub(crate) async fn signal_as(&self, id: &str, what: signal_exec_request::What, step: &str) {
        let mut client = self.client.clone();
        let request = SignalExecRequest {
            exec_id: id.into(),
            what: Some(what),
            step_id: step.into(),
        };
        client.signal_exec(request).await.unwrap();
    }

    pub(crate) async fn stdin(
        &self,
        id: &str,
        pieces: Vec<(u64, Vec<u8>, bool)>,
    ) -> Result<u64, Status> {
        let id = id.to_owned();
        let messages = pieces
            .into_iter()
            .map(move |(offset, data, eof)| WriteStdinRequest {
                exec_id: id.clone(),
                offset,
                data: data.into(),
                eof,
            });
        let mut client = self.client.clone();
        let messages = tokio_stream::iter(messages.collect::<Vec<_>>());
        Ok(client
            .write_stdin(messages)
            .await?
            .into_inner()
            .accepted_bytes)
    }
}

impl Drop for Rig {
    fn drop(&mut self) {
        // The supervisors see it and end what they have.
        let _ = self.agent.kill();
        let _ = self.agent.wait();
    }
}

fn spawn_agent(dir: &Path, wrapper: &[String], arguments: &[String]) -> Child {
    let binary = env!("CARGO_BIN_EXE_compy-agent");
    let mut command = match wrapper.split_first() {
        None => Command::new(binary),
        Some((program, rest)) => {
            let mut command = Command::new(program);
            command.args(rest).arg(binary);
            command
        }
    };
    command
        .args(["serve", "--workspace-id", "test", "--root"])
        .arg(dir.join("work"))
        .arg("--state")
        .arg(dir.join("state"))
        .arg("--link")
        .arg(dir.join("daemon.sock"))
        // Many agents share this machine's loopback.
        .args(["--proxy", "127.0.0.1:0", "--ssh-agent"])
        .arg(dir.join("ssh-agent.sock"))
        .args(arguments)
        .stdin(Stdio::null())
        .spawn()
        .unwrap()
}

async fn accept(listener: &UnixListener) -> (Client, Channel) {
    let (stream, _) = tokio::time::timeout(PATIENCE, listener.accept())
        .await
        .expect("the agent dials")
        .unwrap();
    client(stream).await
}

async fn client(stream: UnixStream) -> (Client, Channel) {
    let stream = Mutex::new(Some(stream));
    let channel = Endpoint::from_static("http://agent")
        .initial_stream_window_size(link::STREAM_WINDOW_BYTES)
        .initial_connection_window_size(link::CONNECTION_WINDOW_BYTES)
        .max_frame_size(link::FRAME_BYTES)
        .http2_max_local_error_reset_streams(None)
        .connect_with_connector(tower::service_fn(move |_| {
            let stream = stream.lock().unwrap().take();
            async move {
                stream
                    .map(TokioIo::new)
                    .ok_or_else(|| std::io::Error::other("the link has ended"))
            }
        }))
        .await
        .unwrap();
    let client = AgentClient::new(channel.clone())
        .max_decoding_message_size(link::MAX_MESSAGE_BYTES)
        .max_encoding_message_size(link::MAX_MESSAGE_BYTES);
    (client, channel)
}

/// Everything that a command's stream brought.
#[derive(Debug, Default)]
pub(crate) struct Outcome {
    pub(crate) stdout: Vec<u8>,
    pub(crate) stderr: Vec<u8>,
    pub(crate) attached: Option<Exec>,
    pub(crate) exit: Option<Exit>,
}

impl Outcome {
    /// Reads to the end and checks that no byte is missing or twice there.
    pub(crate) async fn collect(stream: Streaming<AttachExecResponse>) -> Self {
        Self::collect_from(stream, 0, 0).await
    }

    pub(crate) async fn collect_from(
        mut stream: Streaming<AttachExecResponse>,
        stdout_offset: u64,
        stderr_offset: u64,
    ) -> Self {
        let mut outcome = Self::default();
        while let Some(message) = stream.message().await.unwrap() {
            assert!(outcome.exit.is_none(), "nothing follows the exit");
            match message.event.unwrap() {
                Event::Attached(exec) => {
                    assert!(outcome.attached.replace(exec).is_none());
                }
                Event::Stdout(piece) => {
                    assert!(outcome.attached.is_some());
                    assert!(piece.data.len() <= link::MAX_CHUNK_BYTES);
                    assert_eq!(piece.offset, stdout_offset + outcome.stdout.len() as u64);
                    outcome.stdout.extend_from_slice(&piece.data);
                }
                Event::Stderr(piece) => {
                    assert_eq!(piece.offset, stderr_offset + outcome.stderr.len() as u64);
                    outcome.stderr.extend_from_slice(&piece.data);
                }
                Event::Exit(exit) => outcome.exit = Some(exit),
                Event::Gap(gap) => panic!("{gap:?}"),
            }
        }
        outcome
    }

    pub(crate) fn how(&self) -> How {
        self.exit.clone().expect("the command ended").how.unwrap()
    }

    pub(crate) fn text(&self) -> String {
        String::from_utf8_lossy(&self.stdout).into_owned()
    }
}

pub(crate) fn start_request(id: &str, spec: ExecSpec) -> StartExecRequest {
    StartExecRequest {
        exec_id: id.into(),
        spec: Some(spec),
        secrets: None,
    }
}

pub(crate) fn argv(arguments: &[&str]) -> ExecSpec {
    ExecSpec {
        argv: arguments
            .iter()
            .map(|argument| Bytes::copy_from_slice(argument.as_bytes()))
            .collect(),
        ..ExecSpec::default()
    }
}

pub(crate) fn sh(script: &str) -> ExecSpec {
    argv(&["/bin/sh", "-c", script])
}

pub(crate) fn from_start(id: &str) -> AttachExecRequest {
    AttachExecRequest {
        exec_id: id.into(),
        ..AttachExecRequest::default()
    }
}

/// The code and the reason of a refusal.
pub(crate) fn refusal(status: &Status) -> (Code, String) {
    let details = status.get_error_details();
    let info = details.error_info().unwrap_or_else(|| panic!("{status:?}"));
    assert_eq!(info.domain, link::ERROR_DOMAIN);
    assert!(!status.message().is_empty());
    (status.code(), info.reason.clone())
}

pub(crate) fn reason<T: std::fmt::Debug>(result: Result<T, Status>) -> String {
    refusal(&result.unwrap_err()).1
}

pub(crate) fn fact(status: &Status, name: &str) -> String {
    let details = status.get_error_details();
    details.error_info().unwrap().metadata[name].clone()
}

/// Waits until something is so.
pub(crate) async fn until(what: &str, mut check: impl AsyncFnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !check().await {
        assert!(Instant::now() < deadline, "never so: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

pub(crate) fn signal(pid: i32, signal: i32) {
    let signal = nix::sys::signal::Signal::try_from(signal).unwrap();
    nix::sys::signal::kill(nix::unistd::Pid::from_raw(pid), signal).unwrap();
}

/// Whether a process can still run.
pub(crate) fn is_alive(pid: i32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .is_ok_and(|stat| !stat.rsplit(')').next().unwrap().starts_with(" Z"))
}

/// The processes whose environment has this entry.
pub(crate) fn with_variable(entry: &str) -> Vec<i32> {
    std::fs::read_dir("/proc")
        .unwrap()
        .flatten()
        .filter_map(|process| process.file_name().to_str()?.parse().ok())
        .filter(|pid: &i32| {
            std::fs::read(format!("/proc/{pid}/environ")).is_ok_and(|all| {
                all.split(|byte| *byte == 0)
                    .any(|one| one == entry.as_bytes())
            })
        })
        .filter(|pid| is_alive(*pid))
        .collect()
}

/// The supervisor that has this process as its child.
pub(crate) fn parent(pid: i32) -> i32 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    stat.rsplit(')')
        .next()
        .unwrap()
        .split(' ')
        .nth(2)
        .unwrap()
        .parse()
        .unwrap()
}
