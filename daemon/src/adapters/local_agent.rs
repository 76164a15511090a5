//! Workspaces and their agents as directories and processes of this machine,
//! for tests: git and test runners run for real, without containers.
//!
//! `/workspace` in paths, arguments and variables stands for a temporary
//! directory. Commands are durable objects as the real agent's are: they live
//! on when a link is cut and are found again by id.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    process::Stdio,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicU32, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::{StreamExt, stream::BoxStream};
use nix::{
    sys::signal::{Signal, killpg},
    unistd::Pid,
};
use tokio::{
    io::{AsyncRead, AsyncReadExt},
    process::{Child, Command},
    sync::{mpsc, watch},
};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::task::TaskTracker;

use crate::{
    domain::{
        egress::Policy,
        exec::{
            Exec, ExecEvent, ExecSpec, Exit, ExitStatus, OutputOffsets, OutputStream, Reading,
            SignalTarget, TerminalSize,
        },
        files::{
            FileInfo, FileKind, FileText, FileUpdate, FileWrite, GlobQuery, GrepLine, GrepQuery,
            Listing, ReadRange, Receipt,
        },
        idle::IdleStop,
        ids::{ExecId, SessionId, SnapshotId, StepId, WorkspaceId},
        setup::WorkspaceSetup,
        snapshot::{SnapshotReason, journal::Generation},
        upkeep::Upkeep,
        workspace::{
            Desired, Limits, NetworkMode, Provenance, Purpose, Repository, Workspace,
            WorkspaceDefinition,
        },
    },
    ports::{
        agent::{AgentError, AgentPort, Uploaded},
        trees::TreesPort,
        workspaces::{CleanRepository, WorkspaceAccessError, WorkspacesPort},
    },
};

/// Workspaces on this machine. Cheap to clone; the directories go with the last
/// clone.
#[derive(Clone, Default)]
pub struct LocalMachine {
    shared: Arc<Shared>,
}

#[derive(Default)]
struct Shared {
    /// Guards the list only; each workspace has locks of its own.
    workspaces: Mutex<HashMap<WorkspaceId, Arc<LocalAgent>>>,
    /// Clean workspaces by key.
    clean: Mutex<HashMap<String, WorkspaceId>>,
    /// Copies of workspaces.
    snapshots: Mutex<HashMap<SnapshotId, Arc<tempfile::TempDir>>>,
    deleted: AtomicU32,
}

impl LocalMachine {
    /// A machine without workspaces.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Makes an empty workspace; returns its id and the directory that stands
    /// for `/workspace`.
    pub fn add_workspace(&self) -> std::io::Result<(WorkspaceId, PathBuf)> {
        let id = WorkspaceId::from_uuid(uuid::Uuid::now_v7());
        let agent = Arc::new(LocalAgent::new()?);
        let root = agent.root().to_owned();
        lock(&self.shared.workspaces).insert(id.clone(), agent);
        Ok((id, root))
    }

    /// The agent of a workspace.
    #[must_use]
    pub fn local_agent(&self, id: &WorkspaceId) -> Option<Arc<LocalAgent>> {
        lock(&self.shared.workspaces).get(id).cloned()
    }

    /// Clean workspaces that exist now.
    #[must_use]
    pub fn clean_workspaces(&self) -> usize {
        lock(&self.shared.clean).len()
    }

    /// Clean workspaces that were deleted.
    #[must_use]
    pub fn clean_workspaces_deleted(&self) -> u32 {
        self.shared.deleted.load(Ordering::SeqCst)
    }
}

#[async_trait]
impl WorkspacesPort for LocalMachine {
    async fn get(&self, id: &WorkspaceId) -> Result<Workspace, WorkspaceAccessError> {
        let agent = self
            .local_agent(id)
            .ok_or_else(|| WorkspaceAccessError::Unknown(id.clone()))?;
        let broken = |error: std::io::Error| WorkspaceAccessError::Broken(error.to_string());
        let mut repositories = Vec::new();
        for entry in std::fs::read_dir(agent.root()).map_err(broken)? {
            let entry = entry.map_err(broken)?;
            let name = entry.file_name().to_string_lossy().parse();
            if let (true, Ok(name)) = (entry.path().join(".git").exists(), name) {
                repositories.push(Repository {
                    name,
                    source: "local".to_owned(),
                    commit: String::new(),
                    branch: String::new(),
                    provenance: Provenance::Claimed,
                });
            }
        }
        let name = id.as_str().parse().expect("a workspace id is a valid name");
        Ok(Workspace {
            egress: Policy::default(),
            id: id.clone(),
            definition: WorkspaceDefinition {
                name,
                image: "local".to_owned(),
                limits: Limits {
                    cpu_millis: 1_000,
                    memory_bytes: 1 << 30,
                    pids: 1_024,
                    disk_bytes: 0,
                },
                network: NetworkMode::None,
                user: None,
                purpose: Purpose::Project,
            },
            desired: Desired::Running,
            repositories,
            created_at_ms: 0,
            generation: Generation::FIRST,
            base: None,
            snapshot: None,
            idle_stop: IdleStop::default(),
            stop_cause: None,
            setup: WorkspaceSetup::default(),
            upkeep: Upkeep::default(),
        })
    }

    async fn agent(&self, id: &WorkspaceId) -> Result<Arc<dyn AgentPort>, WorkspaceAccessError> {
        let agent = self
            .local_agent(id)
            .ok_or_else(|| WorkspaceAccessError::Unknown(id.clone()))?;
        if agent.take_refusal() {
            let text = "the link is cut".to_owned();
            return Err(WorkspaceAccessError::Unavailable(text));
        }
        Ok(agent)
    }

    async fn find_repositories(&self, id: &WorkspaceId) -> Result<Workspace, WorkspaceAccessError> {
        self.get(id).await
    }

    async fn create_clean(
        &self,
        _like: &WorkspaceId,
        key: &str,
        repository: &CleanRepository<'_>,
    ) -> Result<WorkspaceId, WorkspaceAccessError> {
        if let Some(id) = lock(&self.shared.clean).get(key) {
            return Ok(id.clone());
        }
        let broken = |error: std::io::Error| WorkspaceAccessError::Broken(error.to_string());
        let (id, root) = self.add_workspace().map_err(broken)?;
        let output = Command::new("git")
            .args(["clone", "--quiet", "--branch", repository.branch])
            .arg(repository.bundle)
            .arg(root.join(repository.name.as_str()))
            .output()
            .await
            .map_err(broken)?;
        if !output.status.success() {
            let text = String::from_utf8_lossy(&output.stderr).into_owned();
            return Err(WorkspaceAccessError::Broken(text));
        }
        lock(&self.shared.clean).insert(key.to_owned(), id.clone());
        Ok(id)
    }

    async fn take_snapshot(
        &self,
        of: &WorkspaceId,
        id: &SnapshotId,
        _reason: SnapshotReason,
    ) -> Result<(), WorkspaceAccessError> {
        if lock(&self.shared.snapshots).contains_key(id) {
            return Ok(());
        }
        let unknown = || WorkspaceAccessError::Unknown(of.clone());
        let agent = self.local_agent(of).ok_or_else(unknown)?;
        let copy =
            tempfile::tempdir().map_err(|error| WorkspaceAccessError::Broken(error.to_string()))?;
        copy_tree(agent.root(), copy.path()).await?;
        lock(&self.shared.snapshots).insert(id.clone(), Arc::new(copy));
        Ok(())
    }

    async fn roll_back(
        &self,
        of: &WorkspaceId,
        to: &SnapshotId,
        keep: &SnapshotId,
        _session: &SessionId,
    ) -> Result<(), WorkspaceAccessError> {
        let found = lock(&self.shared.snapshots).get(to).cloned();
        let gone = || WorkspaceAccessError::Broken(format!("there is no snapshot {to}"));
        let copy = found.ok_or_else(gone)?;
        let reason = SnapshotReason::BeforeRestore {
            restored: to.clone(),
        };
        self.take_snapshot(of, keep, reason).await?;
        let unknown = || WorkspaceAccessError::Unknown(of.clone());
        let agent = self.local_agent(of).ok_or_else(unknown)?;
        let emptied = std::fs::remove_dir_all(agent.root())
            .and_then(|()| std::fs::create_dir_all(agent.root()));
        emptied.map_err(|error| WorkspaceAccessError::Broken(error.to_string()))?;
        copy_tree(copy.path(), agent.root()).await
    }

    async fn fork_clean(
        &self,
        _like: &WorkspaceId,
        snapshot: &SnapshotId,
        key: &str,
    ) -> Result<WorkspaceId, WorkspaceAccessError> {
        if let Some(id) = lock(&self.shared.clean).get(key) {
            return Ok(id.clone());
        }
        let found = lock(&self.shared.snapshots).get(snapshot).cloned();
        let gone = || WorkspaceAccessError::Broken(format!("there is no snapshot {snapshot}"));
        let copy = found.ok_or_else(gone)?;
        let (id, root) = (self.add_workspace())
            .map_err(|error| WorkspaceAccessError::Broken(error.to_string()))?;
        copy_tree(copy.path(), &root).await?;
        lock(&self.shared.clean).insert(key.to_owned(), id.clone());
        Ok(id)
    }

    async fn delete_clean(&self, id: &WorkspaceId) -> Result<(), WorkspaceAccessError> {
        let mut clean = lock(&self.shared.clean);
        let known = clean.len();
        clean.retain(|_, each| each != id);
        if clean.len() < known {
            self.shared.deleted.fetch_add(1, Ordering::SeqCst);
            lock(&self.shared.workspaces).remove(id);
        }
        Ok(())
    }

    async fn delete_clean_of(&self, key: &str) -> Result<(), WorkspaceAccessError> {
        let found = lock(&self.shared.clean).get(key).cloned();
        match found {
            Some(id) => self.delete_clean(&id).await,
            None => Ok(()),
        }
    }

    async fn keep_clean(&self, keys: &[String]) -> Result<(), WorkspaceAccessError> {
        let made: Vec<String> = lock(&self.shared.clean).keys().cloned().collect();
        for key in made.iter().filter(|key| !keys.contains(key)) {
            self.delete_clean_of(key).await?;
        }
        Ok(())
    }
}

/// Copies what is in a directory, times and links kept.
async fn copy_tree(from: &Path, to: &Path) -> Result<(), WorkspaceAccessError> {
    let broken = |text: String| WorkspaceAccessError::Broken(text);
    let copied = Command::new("cp")
        .arg("-a")
        .arg(from.join("."))
        .arg(to)
        .output()
        .await
        .map_err(|error| broken(error.to_string()))?;
    match copied.status.success() {
        true => Ok(()),
        false => Err(broken(String::from_utf8_lossy(&copied.stderr).into_owned())),
    }
}

/// The agent of one workspace on this machine.
pub struct LocalAgent {
    directory: tempfile::TempDir,
    execs: Mutex<HashMap<ExecId, Arc<LocalExec>>>,
    /// Receipts of mutating tools by step.
    receipts: Mutex<HashMap<StepId, Vec<Receipt>>>,
    /// Grows with every cut; streams of an older number end.
    links: Arc<watch::Sender<u64>>,
    /// How many times the workspace is unavailable from now on.
    refusals: AtomicU32,
    started: AtomicU64,
    /// The search path of commands, where it is not this machine's own.
    search_path: Mutex<Option<String>>,
    trees: Option<Arc<dyn TreesPort>>,
    volumes: Mutex<VolumeCount>,
    tasks: TaskTracker,
}

/// What an agent says of the bytes of its volumes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum VolumeCount {
    /// It cannot count them.
    #[default]
    Unknown,
    /// So many.
    Bytes(u64),
    /// It counts for ever.
    Never,
}

impl LocalAgent {
    pub(super) fn new() -> std::io::Result<Self> {
        Ok(Self {
            directory: tempfile::tempdir()?,
            execs: Mutex::default(),
            receipts: Mutex::default(),
            links: Arc::new(watch::Sender::new(0)),
            refusals: AtomicU32::new(0),
            started: AtomicU64::new(0),
            search_path: Mutex::default(),
            trees: None,
            volumes: Mutex::default(),
            tasks: TaskTracker::new(),
        })
    }

    /// An agent that serves these trees.
    ///
    /// # Errors
    /// No temporary directory can be made for it.
    pub fn with_trees(trees: Arc<dyn TreesPort>) -> std::io::Result<Self> {
        Ok(Self {
            trees: Some(trees),
            ..Self::new()?
        })
    }

    /// The directory that stands for `/workspace`.
    #[must_use]
    pub fn root(&self) -> &Path {
        self.directory.path()
    }

    /// Cuts every stream under way; the next `refusals` attempts to reach the
    /// workspace fail as well. Commands live on.
    pub fn cut_links(&self, refusals: u32) {
        self.refusals.store(refusals, Ordering::SeqCst);
        self.links.send_modify(|number| *number += 1);
    }

    /// From now on commands find programs in this directory only.
    pub fn only_programs_of(&self, directory: &str) {
        let directory = self.path(directory).to_string_lossy().into_owned();
        *lock(&self.search_path) = Some(directory);
    }

    /// What it says of its volumes from now on.
    pub fn count_volumes_as(&self, count: VolumeCount) {
        *lock(&self.volumes) = count;
    }

    /// Commands that were really started, over all ids.
    #[must_use]
    pub fn commands_started(&self) -> u64 {
        self.started.load(Ordering::SeqCst)
    }

    fn take_refusal(&self) -> bool {
        self.refusals
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |left| {
                left.checked_sub(1)
            })
            .is_ok()
    }

    /// A path of the workspace as one of this machine.
    fn path(&self, path: &str) -> PathBuf {
        match path.strip_prefix("/workspace") {
            Some(rest) => self.root().join(rest.trim_start_matches('/')),
            None if path.starts_with('/') => PathBuf::from(path),
            None => self.root().join(path),
        }
    }

    fn text(&self, bytes: &[u8]) -> std::ffi::OsString {
        use std::os::unix::ffi::OsStringExt;
        let root = self.root().as_os_str().as_encoded_bytes();
        let marker = b"/workspace";
        let mut mapped = Vec::with_capacity(bytes.len());
        let mut rest = bytes;
        while let Some(at) = rest.windows(marker.len()).position(|part| part == marker) {
            mapped.extend_from_slice(&rest[..at]);
            mapped.extend_from_slice(root);
            rest = &rest[at + marker.len()..];
        }
        mapped.extend_from_slice(rest);
        std::ffi::OsString::from_vec(mapped)
    }

    fn find(&self, id: &ExecId) -> Result<Arc<LocalExec>, AgentError> {
        let found = lock(&self.execs).get(id).cloned();
        found.ok_or_else(|| refused("EXEC_UNKNOWN", format!("there is no command {id}")))
    }

    fn start_or_find(
        &self,
        id: &ExecId,
        spec: &ExecSpec,
    ) -> Result<(Arc<LocalExec>, bool), AgentError> {
        let mut execs = lock(&self.execs);
        if let Some(found) = execs.get(id) {
            if found.spec != *spec {
                let text = format!("{id} is another command");
                return Err(refused("EXEC_CONFLICT", text));
            }
            return Ok((found.clone(), false));
        }
        let cwd = self.path(spec.cwd.as_deref().unwrap_or("/workspace"));
        if !cwd.is_dir() {
            let text = format!("there is no directory {}", cwd.display());
            return Err(refused("CWD_MISSING", text));
        }
        // Every image has its shell there, whatever the search path.
        let program = match spec.argv[0].as_slice() {
            b"sh" => b"/bin/sh",
            other => other,
        };
        let mut command = Command::new(self.text(program));
        command
            .args(spec.argv[1..].iter().map(|arg| self.text(arg)))
            .envs(
                spec.environment
                    .iter()
                    .map(|(key, value)| (key, self.text(value))),
            )
            .current_dir(cwd)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .kill_on_drop(true);
        if let Some(path) = lock(&self.search_path).as_ref() {
            command.env("PATH", path);
        }
        self.started.fetch_add(1, Ordering::SeqCst);
        let exec = Arc::new(LocalExec {
            id: id.clone(),
            spec: spec.clone(),
            pid: AtomicU32::new(0),
            state: watch::Sender::new(ExecState::default()),
        });
        match command.spawn() {
            Err(error) => exec.finish(ExitStatus::NotStarted(error.to_string()), Duration::ZERO),
            Ok(child) => {
                exec.pid.store(child.id().unwrap_or(0), Ordering::SeqCst);
                self.tasks.spawn(drive(exec.clone(), child));
            }
        }
        execs.insert(id.clone(), exec.clone());
        Ok((exec, true))
    }

    /// Streams a command until it ends or the link is cut.
    fn stream(
        &self,
        exec: Arc<LocalExec>,
        mut offsets: OutputOffsets,
        reading: Reading,
    ) -> BoxStream<'static, Result<ExecEvent, AgentError>> {
        let (tx, rx) = mpsc::channel(16);
        let mut links = self.links.subscribe();
        self.tasks.spawn(async move {
            let mut state = exec.state.subscribe();
            if tx
                .send(Ok(ExecEvent::Attached(Box::new(exec.describe()))))
                .await
                .is_err()
            {
                return;
            }
            loop {
                let (events, exit) = state.borrow_and_update().since(&mut offsets);
                let events = events
                    .into_iter()
                    .chain(exit.clone().map(ExecEvent::Exited));
                for event in events {
                    let is_output = matches!(event, ExecEvent::Output { .. });
                    if is_output && reading == Reading::ExitOnly {
                        continue;
                    }
                    if links.has_changed().unwrap_or(true) {
                        let text = "the link was cut".to_owned();
                        let _ = tx.send(Err(AgentError::Unreachable(text))).await;
                        return;
                    }
                    if tx.send(Ok(event)).await.is_err() {
                        return;
                    }
                }
                if exit.is_some() || reading == Reading::NoFollow {
                    return;
                }
                tokio::select! {
                    changed = state.changed() => if changed.is_err() { return },
                    _ = links.changed() => {
                        let text = "the link was cut".to_owned();
                        let _ = tx.send(Err(AgentError::Unreachable(text))).await;
                        return;
                    }
                    () = tx.closed() => return,
                }
            }
        });
        ReceiverStream::new(rx).boxed()
    }
}

/// A command and all that it has printed.
struct LocalExec {
    id: ExecId,
    spec: ExecSpec,
    pid: AtomicU32,
    state: watch::Sender<ExecState>,
}

#[derive(Default)]
struct ExecState {
    stdout: Vec<u8>,
    stderr: Vec<u8>,
    exit: Option<Exit>,
}

impl ExecState {
    /// What is new after some offsets, which it moves to the end.
    fn since(&self, offsets: &mut OutputOffsets) -> (Vec<ExecEvent>, Option<Exit>) {
        const PIECE: usize = 256 << 10;
        let mut events = Vec::new();
        let outputs = [
            (OutputStream::Stdout, &self.stdout, &mut offsets.stdout),
            (OutputStream::Stderr, &self.stderr, &mut offsets.stderr),
        ];
        for (stream, output, offset) in outputs {
            for piece in output[(*offset as usize).min(output.len())..].chunks(PIECE) {
                events.push(ExecEvent::Output {
                    stream,
                    offset: *offset,
                    data: Bytes::copy_from_slice(piece),
                });
                *offset += piece.len() as u64;
            }
        }
        (events, self.exit.clone())
    }
}

impl LocalExec {
    fn describe(&self) -> Exec {
        let state = self.state.borrow();
        Exec {
            id: self.id.clone(),
            spec: self.spec.clone(),
            pid: self.pid.load(Ordering::SeqCst),
            started_at_ms: 0,
            gaps: Vec::new(),
            stdout_bytes: state.stdout.len() as u64,
            stderr_bytes: state.stderr.len() as u64,
            stdin_bytes: 0,
            exit: state.exit.clone(),
        }
    }

    fn finish(&self, status: ExitStatus, took: Duration) {
        let exit = Exit {
            status,
            duration_ms: took.as_millis() as u64,
            leftover_processes: 0,
            out_of_memory: false,
        };
        self.state.send_modify(|state| state.exit = Some(exit));
    }

    fn kill(&self, signal: Signal) {
        if let Ok(pid) = i32::try_from(self.pid.load(Ordering::SeqCst))
            && pid > 0
            && self.state.borrow().exit.is_none()
        {
            let _ = killpg(Pid::from_raw(pid), signal);
        }
    }
}

/// Reads a command's output and waits for its end.
async fn drive(exec: Arc<LocalExec>, mut child: Child) {
    let began = Instant::now();
    let stdout = child.stdout.take().expect("the pipe was asked for");
    let stderr = child.stderr.take().expect("the pipe was asked for");
    let copies = async {
        tokio::join!(
            copy(&exec, OutputStream::Stdout, stdout),
            copy(&exec, OutputStream::Stderr, stderr),
        );
    };
    tokio::pin!(copies);
    let limit = exec
        .spec
        .timeout_ms
        .map_or(Duration::MAX, Duration::from_millis);
    let (mut status, mut copied) = (None, false);
    let ended = tokio::time::timeout(limit, async {
        tokio::select! {
            () = &mut copies => {
                copied = true;
                status = Some(child.wait().await);
            }
            ended = child.wait() => status = Some(ended),
        }
    })
    .await;
    if ended.is_err() {
        exec.kill(Signal::SIGKILL);
        let _ = child.wait().await;
    }
    if !copied {
        // A child that lives on may hold the pipes; what is there is taken.
        let _ = tokio::time::timeout(Duration::from_millis(200), copies).await;
    }
    let status = match status {
        None => ExitStatus::TimedOut(limit.as_millis() as u64),
        Some(Err(error)) => ExitStatus::Unknown(error.to_string()),
        Some(Ok(status)) => {
            use std::os::unix::process::ExitStatusExt;
            match (status.code(), status.signal()) {
                (Some(code), _) => ExitStatus::Code(code as u32),
                (None, signal) => ExitStatus::Signal(signal.unwrap_or(0) as u32),
            }
        }
    };
    exec.finish(status, began.elapsed());
}

async fn copy(exec: &LocalExec, stream: OutputStream, mut pipe: impl AsyncRead + Unpin) {
    let mut buffer = vec![0; 64 << 10];
    while let Ok(count @ 1..) = pipe.read(&mut buffer).await {
        exec.state.send_modify(|state| {
            let output = match stream {
                OutputStream::Stdout => &mut state.stdout,
                OutputStream::Stderr => &mut state.stderr,
            };
            output.extend_from_slice(&buffer[..count]);
        });
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().expect("no holder of this lock panics")
}

fn refused(code: &str, message: String) -> AgentError {
    AgentError::Refused {
        code: code.to_owned(),
        message,
    }
}

fn io(path: &Path, error: &std::io::Error) -> AgentError {
    let code = match error.kind() {
        std::io::ErrorKind::NotFound => "NOT_FOUND",
        std::io::ErrorKind::PermissionDenied => "PERMISSION",
        std::io::ErrorKind::IsADirectory => "NOT_A_FILE",
        std::io::ErrorKind::NotADirectory => "NOT_A_DIRECTORY",
        _ => "IO",
    };
    refused(code, format!("{}: {error}", path.display()))
}

fn failed_stream<T: Send + 'static>(
    error: AgentError,
) -> BoxStream<'static, Result<T, AgentError>> {
    futures_util::stream::iter([Err(error)]).boxed()
}

fn info(path: String, metadata: &std::fs::Metadata) -> FileInfo {
    use std::os::unix::fs::MetadataExt;
    let kind = match metadata.file_type() {
        kind if kind.is_file() => FileKind::File,
        kind if kind.is_dir() => FileKind::Directory,
        kind if kind.is_symlink() => FileKind::Symlink,
        _ => FileKind::Other,
    };
    FileInfo {
        path,
        kind,
        size_bytes: metadata.len(),
        mode: metadata.mode() & 0o7777,
        mtime_ns: metadata.mtime() * 1_000_000_000 + metadata.mtime_nsec(),
        link_target: None,
    }
}

#[async_trait]
impl AgentPort for LocalAgent {
    fn trees(&self) -> Option<Arc<dyn TreesPort>> {
        self.trees.clone()
    }

    async fn volume_bytes(&self) -> Result<Option<u64>, AgentError> {
        let count = *lock(&self.volumes);
        match count {
            VolumeCount::Unknown => Ok(None),
            VolumeCount::Bytes(bytes) => Ok(Some(bytes)),
            VolumeCount::Never => std::future::pending().await,
        }
    }

    async fn ping(&self) -> Result<(), AgentError> {
        Ok(())
    }

    async fn start(&self, id: &ExecId, spec: &ExecSpec) -> Result<(Exec, bool), AgentError> {
        let (exec, started) = self.start_or_find(id, spec)?;
        Ok((exec.describe(), started))
    }

    fn run(
        &self,
        id: &ExecId,
        spec: &ExecSpec,
    ) -> BoxStream<'static, Result<ExecEvent, AgentError>> {
        match self.start_or_find(id, spec) {
            Ok((exec, _)) => self.stream(exec, OutputOffsets::default(), Reading::Follow),
            Err(error) => failed_stream(error),
        }
    }

    fn attach(
        &self,
        id: &ExecId,
        offsets: OutputOffsets,
        reading: Reading,
    ) -> BoxStream<'static, Result<ExecEvent, AgentError>> {
        match self.find(id) {
            Ok(exec) => self.stream(exec, offsets, reading),
            Err(error) => failed_stream(error),
        }
    }

    async fn write_stdin(
        &self,
        id: &ExecId,
        _offset: u64,
        _data: Bytes,
        _eof: bool,
    ) -> Result<u64, AgentError> {
        self.find(id)?;
        let text = format!("{id} has no standard input");
        Err(refused("STDIN_CLOSED", text))
    }

    async fn signal(
        &self,
        id: &ExecId,
        _step: Option<&StepId>,
        target: SignalTarget,
    ) -> Result<(), AgentError> {
        let exec = self.find(id)?;
        match target {
            SignalTarget::Group(number) | SignalTarget::Tree(number) => {
                let signal = Signal::try_from(number)
                    .map_err(|_| refused("SIGNAL_INVALID", format!("{number} is no signal")))?;
                exec.kill(signal);
            }
            SignalTarget::End { grace_ms } => {
                exec.kill(Signal::SIGTERM);
                self.tasks.spawn(async move {
                    tokio::time::sleep(Duration::from_millis(u64::from(grace_ms))).await;
                    exec.kill(Signal::SIGKILL);
                });
            }
        }
        Ok(())
    }

    async fn resize(&self, id: &ExecId, _size: TerminalSize) -> Result<(), AgentError> {
        self.find(id)?;
        Err(refused("NO_PTY", format!("{id} has no terminal")))
    }

    async fn get(&self, id: &ExecId) -> Result<Option<Exec>, AgentError> {
        Ok(lock(&self.execs).get(id).map(|exec| exec.describe()))
    }

    async fn list(&self, running_only: bool) -> Result<Vec<Exec>, AgentError> {
        let mut execs: Vec<Exec> = lock(&self.execs)
            .values()
            .map(|exec| exec.describe())
            .collect();
        execs.retain(|exec| !running_only || exec.exit.is_none());
        Ok(execs)
    }

    async fn remove(&self, id: &ExecId) -> Result<(), AgentError> {
        lock(&self.execs).remove(id);
        Ok(())
    }

    async fn read_file(&self, path: &str, range: &ReadRange) -> Result<FileText, AgentError> {
        let path = self.path(path);
        let content = tokio::fs::read(&path)
            .await
            .map_err(|error| io(&path, &error))?;
        let hash = blake3::hash(&content).to_hex().to_string();
        let total_bytes = content.len() as u64;
        let text = String::from_utf8(content)
            .map_err(|_| refused("BINARY_FILE", format!("{} is binary", path.display())))?;
        let lines: Vec<&str> = text.split_inclusive('\n').collect();
        let first = range.first_line.unwrap_or(1).max(1) as usize;
        let wanted = range.line_count.unwrap_or(2_000) as usize;
        let limit = range.max_bytes.unwrap_or(256 << 10) as usize;
        let mut taken = 0;
        let mut content = String::new();
        for line in lines.iter().skip(first - 1).take(wanted) {
            if content.len() + line.len() > limit {
                break;
            }
            content.push_str(line);
            taken += 1;
        }
        Ok(FileText {
            content,
            first_line: if lines.is_empty() { 0 } else { first as u32 },
            line_count: taken as u32,
            total_lines: lines.len() as u32,
            total_bytes,
            hash,
            truncated: first - 1 + taken < lines.len(),
        })
    }

    async fn write_file(&self, step: &StepId, write: &FileWrite) -> Result<Receipt, AgentError> {
        if let Some(receipt) = lock(&self.receipts)
            .get(step)
            .and_then(|known| known.first())
        {
            return Ok(Receipt {
                replayed: true,
                ..receipt.clone()
            });
        }
        let path = self.path(&write.path);
        let before = tokio::fs::read(&path).await.ok();
        if write.create_only && before.is_some() {
            let text = format!("{} exists", path.display());
            return Err(refused("ALREADY_EXISTS", text));
        }
        let hash = |content: &[u8]| blake3::hash(content).to_hex().to_string();
        let hash_before = before.as_deref().map(hash);
        if write.expected_hash.is_some() && write.expected_hash != hash_before {
            let text = format!("{} is not as expected", path.display());
            return Err(refused("HASH_MISMATCH", text));
        }
        if let Some(parent) = path.parent() {
            tokio::fs::create_dir_all(parent)
                .await
                .map_err(|error| io(parent, &error))?;
        }
        tokio::fs::write(&path, &write.content)
            .await
            .map_err(|error| io(&path, &error))?;
        let receipt = Receipt {
            path: write.path.clone(),
            hash_before,
            hash_after: Some(hash(&write.content)),
            size_bytes: write.content.len() as u64,
            replayed: false,
        };
        lock(&self.receipts).insert(step.clone(), vec![receipt.clone()]);
        Ok(receipt)
    }

    async fn change_files(
        &self,
        step: &StepId,
        updates: &[FileUpdate],
    ) -> Result<Vec<Receipt>, AgentError> {
        if let Some(known) = lock(&self.receipts).get(step) {
            return Ok(known.clone());
        }
        let hash = |content: &[u8]| blake3::hash(content).to_hex().to_string();
        let mut receipts = Vec::new();
        for update in updates {
            let before = std::fs::read(self.path(&update.path)).ok();
            let hash_before = before.as_deref().map(hash);
            if update.expected_hash != hash_before {
                let text = format!("{} is not as expected", update.path);
                return Err(refused("HASH_MISMATCH", text));
            }
            receipts.push(Receipt {
                path: update.path.clone(),
                hash_before,
                hash_after: update.to.as_deref().map(hash),
                size_bytes: update.to.as_ref().map_or(0, |content| content.len() as u64),
                replayed: false,
            });
        }
        for update in updates {
            let path = self.path(&update.path);
            let done = match (&update.to, path.parent()) {
                (Some(content), Some(parent)) => {
                    std::fs::create_dir_all(parent).and_then(|()| std::fs::write(&path, content))
                }
                (Some(_), None) | (None, _) => std::fs::remove_file(&path),
            };
            done.map_err(|error| io(&path, &error))?;
        }
        lock(&self.receipts).insert(step.clone(), receipts.clone());
        Ok(receipts)
    }

    async fn list_directory(
        &self,
        path: &str,
        max_entries: Option<u32>,
    ) -> Result<Listing<FileInfo>, AgentError> {
        let path = self.path(path);
        let fail = |error: std::io::Error| io(&path, &error);
        let mut entries = Vec::new();
        for entry in std::fs::read_dir(&path).map_err(fail)? {
            let entry = entry.map_err(fail)?;
            let metadata = entry.path().symlink_metadata().map_err(fail)?;
            entries.push(info(
                entry.file_name().to_string_lossy().into_owned(),
                &metadata,
            ));
        }
        entries.sort_by(|a, b| a.path.cmp(&b.path));
        let limit = max_entries.unwrap_or(1_000) as usize;
        let truncated = entries.len() > limit;
        entries.truncate(limit);
        Ok(Listing { entries, truncated })
    }

    async fn glob(&self, query: &GlobQuery) -> Result<Listing<FileInfo>, AgentError> {
        let glob = globset::GlobBuilder::new(&query.pattern)
            .literal_separator(true)
            .build()
            .map_err(|error| refused("PATTERN_INVALID", error.to_string()))?
            .compile_matcher();
        let root = self.path(query.path.as_deref().unwrap_or("/workspace"));
        let mut entries = Vec::new();
        for path in files_below(&root) {
            if path
                .strip_prefix(&root)
                .is_ok_and(|below| glob.is_match(below))
                && let Ok(metadata) = path.symlink_metadata()
            {
                entries.push(info(path.to_string_lossy().into_owned(), &metadata));
            }
        }
        let limit = query.max_matches.unwrap_or(1_000) as usize;
        let truncated = entries.len() > limit;
        entries.truncate(limit);
        Ok(Listing { entries, truncated })
    }

    async fn grep(&self, query: &GrepQuery) -> Result<Listing<GrepLine>, AgentError> {
        let pattern = regex::RegexBuilder::new(&query.pattern)
            .case_insensitive(query.ignore_case)
            .build()
            .map_err(|error| refused("PATTERN_INVALID", error.to_string()))?;
        let root = self.path(query.path.as_deref().unwrap_or("/workspace"));
        if !root.exists() {
            let text = format!("there is no {}", root.display());
            return Err(refused("NOT_FOUND", text));
        }
        let mut entries = Vec::new();
        for path in files_below(&root) {
            let Ok(text) = std::fs::read_to_string(&path) else {
                continue;
            };
            for (number, line) in text.lines().enumerate() {
                if pattern.is_match(line) {
                    entries.push(GrepLine {
                        path: path.to_string_lossy().into_owned(),
                        line: number as u32 + 1,
                        text: line.to_owned(),
                        matched: true,
                    });
                }
            }
        }
        let limit = query.max_matches.unwrap_or(1_000) as usize;
        let truncated = entries.len() > limit;
        entries.truncate(limit);
        Ok(Listing { entries, truncated })
    }

    async fn stat(&self, path: &str) -> Result<Option<FileInfo>, AgentError> {
        let real = self.path(path);
        match real.symlink_metadata() {
            Ok(metadata) => Ok(Some(info(path.to_owned(), &metadata))),
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(io(&real, &error)),
        }
    }

    async fn upload(
        &self,
        directory: &str,
        _step: Option<&StepId>,
        mut archive: BoxStream<'static, Bytes>,
    ) -> Result<Uploaded, AgentError> {
        let mut bytes = Vec::new();
        while let Some(piece) = archive.next().await {
            bytes.extend_from_slice(&piece);
        }
        let target = self.path(directory);
        let mut archive = tar::Archive::new(bytes.as_slice());
        let mut uploaded = Uploaded {
            entries: 0,
            content_bytes: 0,
        };
        let fail = |error: std::io::Error| io(&target, &error);
        std::fs::create_dir_all(&target).map_err(fail)?;
        for entry in archive.entries().map_err(fail)? {
            let mut entry = entry.map_err(fail)?;
            entry.unpack_in(&target).map_err(fail)?;
            uploaded.entries += 1;
            uploaded.content_bytes += entry.size();
        }
        Ok(uploaded)
    }

    fn download(&self, path: &str) -> BoxStream<'static, Result<Bytes, AgentError>> {
        let path = self.path(path);
        let name = path.file_name().unwrap_or_default().to_owned();
        let mut archive = tar::Builder::new(Vec::new());
        let packed = if path.is_dir() {
            archive.append_dir_all(&name, &path)
        } else {
            archive.append_path_with_name(&path, &name)
        };
        match packed.and_then(|()| archive.into_inner()) {
            Err(error) => failed_stream(io(&path, &error)),
            Ok(bytes) => {
                let bytes = Bytes::from(bytes);
                let pieces: Vec<_> = (0..bytes.len())
                    .step_by(256 << 10)
                    .map(|at| Ok(bytes.slice(at..bytes.len().min(at + (256 << 10)))))
                    .collect();
                futures_util::stream::iter(pieces).boxed()
            }
        }
    }

    async fn receipts(&self, step: &StepId) -> Result<Vec<Receipt>, AgentError> {
        Ok(lock(&self.receipts).get(step).cloned().unwrap_or_default())
    }
}

/// Every file below a directory, `.git` left out, in the order of names.
fn files_below(root: &Path) -> Vec<PathBuf> {
    if root.is_file() {
        return vec![root.to_owned()];
    }
    let mut files = Vec::new();
    let mut entries: Vec<PathBuf> = std::fs::read_dir(root)
        .map(|entries| entries.flatten().map(|entry| entry.path()).collect())
        .unwrap_or_default();
    entries.sort();
    for path in entries {
        if path.is_dir() && !path.is_symlink() {
            if path.file_name().is_some_and(|name| name != ".git") {
                files.extend(files_below(&path));
            }
        } else {
            files.push(path);
        }
    }
    files
}
