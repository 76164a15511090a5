//! The daemon under test: a process of its own on temporary data.

use std::{
    fs::File,
    os::unix::process::ExitStatusExt,
    path::{Path, PathBuf},
    process::{ExitStatus, Stdio},
    time::Duration,
};

use compyd_proto::{
    link::{CONNECTION_WINDOW_BYTES, MAX_MESSAGE_BYTES},
    v1::{
        GetInfoRequest, Workspace, artifact_service_client::ArtifactServiceClient,
        session_service_client::SessionServiceClient, system_service_client::SystemServiceClient,
        workspace_service_client::WorkspaceServiceClient,
    },
};
use hyper_util::rt::TokioIo;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use tempfile::TempDir;
use tokio::{
    net::UnixStream,
    process::{Child, Command},
};
use tonic::transport::{Channel, Endpoint, Uri};

use crate::{
    compyctl::{Compyctl, Ran},
    engine::{self, Engine, IMAGE},
    programs::{self, Programs},
    skip::skip,
    wait,
};

/// Where the programs under test find theirs.
pub(crate) const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Bytes of the daemon's log that a failing test shows.
const LOG_SHOWN_BYTES: usize = 24 * 1024;

/// How a daemon is started.
#[derive(Debug, Clone, Default)]
pub struct Options {
    settings: Vec<(String, String)>,
    environment: Vec<(String, String)>,
    data_dir: Option<PathBuf>,
    listen: Vec<String>,
    engine: Option<String>,
    programs: Option<Programs>,
}

impl Options {
    /// With a setting: `workspace.memory`, `1GiB`.
    #[must_use]
    pub fn set(mut self, key: &str, value: impl Into<String>) -> Self {
        self.settings.push((key.to_owned(), value.into()));
        self
    }

    /// With a variable in its environment.
    #[must_use]
    pub fn env(mut self, name: &str, value: impl Into<String>) -> Self {
        self.environment.push((name.to_owned(), value.into()));
        self
    }

    /// Listening here as well: `https://127.0.0.1:0`.
    #[must_use]
    pub fn listen(mut self, address: impl Into<String>) -> Self {
        self.listen.push(address.into());
        self
    }

    /// With its data here instead of in a fresh directory.
    #[must_use]
    pub fn data_dir(mut self, directory: &Path) -> Self {
        self.data_dir = Some(directory.to_owned());
        self
    }

    /// With an engine of the test's own: `unix:///PATH`.
    #[must_use]
    pub fn engine(mut self, host: impl Into<String>) -> Self {
        self.engine = Some(host.into());
        self
    }

    /// With other programs than those beside the test.
    #[must_use]
    pub fn programs(mut self, programs: Programs) -> Self {
        self.programs = Some(programs);
        self
    }
}

/// A running daemon. Dropped, it is killed, and whatever it made is removed.
#[derive(Debug)]
pub struct Daemon {
    options: Options,
    programs: Programs,
    run: String,
    directory: TempDir,
    child: Option<Child>,
    channel: Channel,
}

impl Daemon {
    /// Starts a daemon that can run workspaces; where this machine cannot, says
    /// so and gives `None`.
    ///
    /// # Panics
    /// When the daemon does not serve within 30 s.
    pub async fn start(options: Options) -> Option<Self> {
        let programs = options
            .programs
            .clone()
            .unwrap_or_else(Programs::beside_the_test);
        if let Err(why) = usable(&options, &programs).await {
            skip(why);
            return None;
        }
        Some(Self::start_bare(options).await)
    }

    /// Starts a daemon whether or not this machine can run workspaces.
    ///
    /// # Panics
    /// When it does not serve within 30 s.
    pub async fn start_bare(options: Options) -> Self {
        let programs = options
            .programs
            .clone()
            .unwrap_or_else(Programs::beside_the_test);
        let directory = tempfile::Builder::new()
            .prefix("compy-e2e-")
            .tempdir()
            .expect("there is room for a temporary directory");
        let channel = channel(&directory.path().join("compyd.sock"));
        let mut daemon = Self {
            options,
            programs,
            run: engine::new_run(),
            directory,
            child: None,
            channel,
        };
        daemon.boot().await;
        daemon
    }

    /// The name of everything this daemon makes, in the label `compy.test`.
    #[must_use]
    pub fn run_name(&self) -> &str {
        &self.run
    }

    /// A directory for the test's own files; the daemon's are below it too.
    #[must_use]
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    /// Its data directory.
    #[must_use]
    pub fn data_dir(&self) -> PathBuf {
        match &self.options.data_dir {
            Some(directory) => directory.clone(),
            None => self.directory.path().join("data"),
        }
    }

    /// Its socket.
    #[must_use]
    pub fn socket(&self) -> PathBuf {
        self.directory.path().join("compyd.sock")
    }

    /// Its address.
    #[must_use]
    pub fn endpoint(&self) -> String {
        format!("unix://{}", self.socket().display())
    }

    /// Its process id.
    ///
    /// # Panics
    /// When it does not run.
    #[must_use]
    pub fn pid(&self) -> u32 {
        self.child
            .as_ref()
            .and_then(Child::id)
            .expect("the daemon runs")
    }

    /// Everything it has logged, over all its lives.
    #[must_use]
    pub fn log(&self) -> String {
        let bytes = std::fs::read(self.directory.path().join("compyd.log")).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    /// The engine it uses.
    ///
    /// # Panics
    /// When there is none.
    pub async fn engine(&self) -> Engine {
        Engine::connect(self.options.engine.as_deref())
            .await
            .expect("the engine that the daemon uses")
    }

    /// A client of `WorkspaceService`.
    #[must_use]
    pub fn workspaces(&self) -> WorkspaceServiceClient<Channel> {
        WorkspaceServiceClient::new(self.channel.clone())
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
    }

    /// A client of `SessionService`.
    #[must_use]
    pub fn sessions(&self) -> SessionServiceClient<Channel> {
        SessionServiceClient::new(self.channel.clone()).max_decoding_message_size(MAX_MESSAGE_BYTES)
    }

    /// A client of `ArtifactService`.
    #[must_use]
    pub fn artifacts(&self) -> ArtifactServiceClient<Channel> {
        ArtifactServiceClient::new(self.channel.clone())
            .max_decoding_message_size(MAX_MESSAGE_BYTES)
    }

    /// A client of `SystemService`.
    #[must_use]
    pub fn system(&self) -> SystemServiceClient<Channel> {
        SystemServiceClient::new(self.channel.clone())
    }

    /// The connection itself, for services this has no client of.
    #[must_use]
    pub fn channel(&self) -> Channel {
        self.channel.clone()
    }

    /// The command-line client, not yet started.
    #[must_use]
    pub fn client(&self) -> Compyctl {
        Compyctl::new(&self.programs.compyctl, &self.endpoint())
    }

    /// Runs the command-line client.
    pub async fn compyctl(&self, args: &[&str]) -> Ran {
        self.client().args(args).run().await
    }

    /// Makes a workspace with `compyctl` and gives what the daemon says of it.
    ///
    /// # Panics
    /// When that fails.
    pub async fn workspace(&self, name: &str, more: &[&str]) -> Workspace {
        let mut args = vec!["workspace", "create", name];
        args.extend(more);
        let _ = self.compyctl(&args).await.expect_code(0);
        self.workspace_now(name).await
    }

    /// What the daemon says of a workspace.
    ///
    /// # Panics
    /// When it knows none of that name.
    pub async fn workspace_now(&self, name: &str) -> Workspace {
        let request = compyd_proto::v1::GetWorkspaceRequest {
            workspace: name.to_owned(),
        };
        self.workspaces()
            .get_workspace(request)
            .await
            .unwrap_or_else(|status| panic!("workspace {name}: {status}"))
            .into_inner()
            .workspace
            .expect("the answer holds a workspace")
    }

    /// Kills it as a power failure would.
    ///
    /// # Panics
    /// When it does not run.
    pub async fn kill(&mut self) {
        let mut child = self.child.take().expect("the daemon runs");
        child.start_kill().expect("the daemon can be killed");
        let _ = child.wait().await;
    }

    /// Sends it a signal.
    ///
    /// # Panics
    /// When it does not run.
    pub fn signal(&self, signal: Signal) {
        let pid = i32::try_from(self.pid()).expect("process ids are small");
        kill(Pid::from_raw(pid), signal).expect("the daemon is ours");
    }

    /// Waits until it has ended by itself.
    ///
    /// # Panics
    /// When it has not in 60 s.
    pub async fn wait(&mut self) -> ExitStatus {
        let mut child = self.child.take().expect("the daemon runs");
        match tokio::time::timeout(Duration::from_secs(60), child.wait()).await {
            Ok(status) => status.expect("the daemon can be waited for"),
            Err(_) => panic!("the daemon did not end in 60 s\n{}", self.log()),
        }
    }

    /// Ends it politely.
    ///
    /// # Panics
    /// When it does not end, or not with 0.
    pub async fn terminate(&mut self) {
        self.signal(Signal::SIGTERM);
        let status = self.wait().await;
        assert!(status.success(), "the daemon ended with {status}");
    }

    /// Starts it again on the same data.
    ///
    /// # Panics
    /// When it does not serve within 30 s.
    pub async fn restart(&mut self) {
        if self.child.is_some() {
            self.kill().await;
        }
        self.boot().await;
    }

    /// Starts it again with other options on the same data.
    ///
    /// # Panics
    /// When it does not serve within 30 s.
    pub async fn restart_with(&mut self, change: impl FnOnce(Options) -> Options) {
        self.options = change(std::mem::take(&mut self.options));
        self.restart().await;
    }

    /// A command that starts a daemon as this one is started, not yet started.
    #[must_use]
    pub fn command(&self, socket: &Path) -> Command {
        self.command_with_config(socket, &self.config())
    }

    /// The same with another configuration file.
    #[must_use]
    pub fn command_with_config(&self, socket: &Path, config: &Path) -> Command {
        let mut command = Command::new(&self.programs.compyd);
        command
            .env_clear()
            .env("PATH", PATH)
            .env("HOME", self.directory.path())
            .envs(self.options.environment.iter().map(|(k, v)| (k, v)))
            .arg("--data-dir")
            .arg(self.data_dir())
            .arg("--listen")
            .arg(format!("unix://{}", socket.display()))
            .args(self.options.listen.iter().flat_map(|it| ["--listen", it]))
            .arg("--config")
            .arg(config)
            .stdin(Stdio::null())
            .kill_on_drop(true);
        command
    }

    /// The configuration as a file; a test's own settings come last.
    fn config(&self) -> PathBuf {
        let mut settings = vec![(
            "engine.labels".to_owned(),
            format!("{}={}", engine::LABEL, self.run),
        )];
        if let Some(agent) = &self.programs.agent {
            let agent = agent.display().to_string();
            settings.push(("workspace.agent_file".to_owned(), agent));
        }
        if let Some(engine) = self.options.engine.clone().or_else(programs::engine_host) {
            settings.push(("engine.host".to_owned(), engine));
        }
        settings.push(("log.filter".to_owned(), "info,compyd=debug".to_owned()));
        for (key, value) in &self.options.settings {
            settings.retain(|(known, _)| known != key);
            settings.push((key.clone(), value.clone()));
        }
        // Dotted keys may be written without tables.
        let lines: Vec<String> = settings
            .iter()
            .map(|(key, value)| format!("{key} = {value:?}\n"))
            .collect();
        let file = self.directory.path().join("compyd.toml");
        std::fs::write(&file, lines.concat()).expect("the configuration can be written");
        file
    }

    /// Starts it again on the same data, without waiting for it: it may die
    /// before it serves, because a test wants that.
    ///
    /// # Panics
    /// When it still runs, or cannot be started.
    pub fn start_again(&mut self) {
        assert!(self.child.is_none(), "the daemon still runs");
        self.spawn();
    }

    /// How it ended by itself; `None` while it runs.
    pub fn has_ended(&mut self) -> Option<ExitStatus> {
        let status = self.child.as_mut()?.try_wait().ok().flatten()?;
        self.child = None;
        Some(status)
    }

    fn spawn(&mut self) {
        let log = File::options()
            .create(true)
            .append(true)
            .open(self.directory.path().join("compyd.log"))
            .expect("the log can be opened");
        let errors = log.try_clone().expect("descriptors are to be had");
        let child = self
            .command(&self.socket())
            .stdout(log)
            .stderr(errors)
            .spawn()
            .unwrap_or_else(|error| panic!("{}: {error}", self.programs.compyd.display()));
        self.child = Some(child);
    }

    async fn boot(&mut self) {
        self.spawn();
        self.serves().await;
    }

    /// Waits until it serves.
    ///
    /// # Panics
    /// When it ends, or does not in 30 s.
    pub async fn serves(&mut self) {
        let deadline = tokio::time::Instant::now() + Duration::from_secs(30);
        while self.system().get_info(GetInfoRequest {}).await.is_err() {
            let ended = self.child.as_mut().and_then(|child| child.try_wait().ok());
            if let Some(status) = ended.flatten() {
                panic!(
                    "the daemon ended with {status} (signal {:?}) before it served\n{}",
                    status.signal(),
                    self.log()
                );
            }
            assert!(
                tokio::time::Instant::now() < deadline,
                "the daemon does not serve after 30 s\n{}",
                self.log()
            );
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Waits until the daemon's log holds a text.
    ///
    /// # Panics
    /// When it does not in time.
    pub async fn wait_for_log(&self, text: &str) {
        let what = format!("{text:?} in the daemon's log");
        wait::until(&what, Duration::from_secs(30), async || {
            self.log().contains(text).then_some(())
        })
        .await;
    }
}

/// Whether workspaces can run here.
async fn usable(options: &Options, programs: &Programs) -> Result<(), String> {
    let engine = Engine::connect(options.engine.as_deref()).await?;
    engine.sweep_dead_runs().await;
    if programs.agent.is_none() {
        return Err("there is no static agent: make agent".to_owned());
    }
    if !engine.has_image(IMAGE).await {
        return Err(format!("the engine has no image {IMAGE}: make images"));
    }
    Ok(())
}

/// A connection that is made at the first call, and again after a restart.
#[must_use]
pub fn channel(socket: &Path) -> Channel {
    let socket = socket.to_owned();
    let connector = tower::service_fn(move |_: Uri| {
        let socket = socket.clone();
        async move { UnixStream::connect(socket).await.map(TokioIo::new) }
    });
    Endpoint::from_static("http://compyd")
        .initial_stream_window_size(4 * 1024 * 1024)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .connect_with_connector_lazy(connector)
}

impl Drop for Daemon {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.log();
            let from = log.len().saturating_sub(LOG_SHOWN_BYTES);
            let from = (from..=log.len())
                .find(|at| log.is_char_boundary(*at))
                .unwrap_or(log.len());
            eprintln!("---- compyd's log, the end ----\n{}----", &log[from..]);
        }
        if let Some(pid) = self.child.as_ref().and_then(Child::id)
            && let Ok(pid) = i32::try_from(pid)
        {
            // Reaped by the runtime, or with this process.
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
        let (run, host) = (self.run.clone(), self.options.engine.clone());
        // A runtime of its own: this one may be shutting down.
        let sweep = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build();
            if let Ok(runtime) = runtime {
                runtime.block_on(async {
                    if let Ok(engine) = Engine::connect(host.as_deref()).await {
                        engine.sweep(&run).await;
                    }
                });
            }
        });
        let _ = sweep.join();
    }
}
