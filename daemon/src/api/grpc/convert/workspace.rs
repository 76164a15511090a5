//! Workspaces, commands and repositories on the wire.

use bytes::Bytes;
use compyd_proto::v1 as wire;
use prost_types::Timestamp;
use tonic::{Code, Status};

use super::super::status::{Retry, internal, invalid, invalid_id, refusal};
use crate::{
    domain::{
        egress::{Policy, PolicyKind},
        exec::{
            Exec, ExecEvent, ExecSpec, Exit, ExitStatus, Leftovers, OutputGap, OutputOffsets,
            OutputStream, Reading, SignalTarget, TerminalSize,
        },
        idle::{IdleStop, SHORTEST},
        ids::{ExecId, RepositoryName, RequestId, SnapshotId, StepId, WorkspaceId},
        setup::{SetupResult, SetupState, WorkspaceSetup},
        workspace::{Limits, NetworkMode, Observed, Repository},
    },
    ports::{agent::AgentError, links::LinkError, runtime::RuntimeError, store::StoreError},
    service::workspaces::{
        CreateWorkspace, Follow, GitSourceError, UpdateWorkspace, WorkspaceView, WorkspacesError,
    },
};

/// When trying again may help.
const SOON: Retry = Retry::After(std::time::Duration::from_secs(2));
const MOST_ARGUMENTS: usize = 4_096;

/// A workspace to make, once it has an id.
///
/// # Errors
/// `NAME_INVALID`, `EGRESS_INVALID`.
pub fn create(
    request: &wire::CreateWorkspaceRequest,
) -> Result<impl FnOnce(WorkspaceId) -> CreateWorkspace + Send + use<>, Status> {
    let name = request
        .name
        .parse()
        .map_err(|error| invalid_id("NAME_INVALID", &error))?;
    let limits = request.limits.unwrap_or_default();
    let network = match request.network() {
        wire::NetworkMode::Unspecified | wire::NetworkMode::None => NetworkMode::None,
        wire::NetworkMode::Bridge => NetworkMode::Bridge,
    };
    let (image, user) = (some(&request.image), some(&request.user));
    let egress = egress(request.egress.as_ref())?;
    let idle_stop = idle_stop(request.idle_stop.as_ref())?;
    Ok(move |id| CreateWorkspace {
        id,
        name,
        image,
        limits: Limits {
            cpu_millis: limits.cpu_millis,
            memory_bytes: limits.memory_bytes,
            pids: limits.pids,
            disk_bytes: limits.disk_bytes,
        },
        network,
        user,
        egress,
        idle_stop,
    })
}

/// When a workspace is stopped that nobody uses; unset means the default.
///
/// # Errors
/// `IDLE_STOP_INVALID`.
pub fn idle_stop(given: Option<&wire::IdleStop>) -> Result<IdleStop, Status> {
    use wire::idle_stop::When;
    match given.and_then(|given| given.when) {
        None => Ok(IdleStop::Default),
        Some(When::Never(true)) => Ok(IdleStop::Never),
        Some(When::AfterMs(ms)) if u128::from(ms) >= SHORTEST.as_millis() => {
            Ok(IdleStop::AfterMs(ms))
        }
        Some(When::Never(false) | When::AfterMs(_)) => Err(invalid(
            "IDLE_STOP_INVALID",
            "an idle time is at least a second",
            "give a time of at least 1000 ms, or never",
        )),
    }
}

/// What to change of a workspace.
///
/// # Errors
/// `IDLE_STOP_INVALID`.
pub fn update(request: &wire::UpdateWorkspaceRequest) -> Result<UpdateWorkspace, Status> {
    let given = request.idle_stop.as_ref();
    Ok(UpdateWorkspace {
        idle_stop: given.map(|given| idle_stop(Some(given))).transpose()?,
        disk_bytes: request.disk_bytes,
    })
}

fn idle_stop_to_wire(idle_stop: IdleStop) -> wire::IdleStop {
    use wire::idle_stop::When;
    wire::IdleStop {
        when: match idle_stop {
            IdleStop::Default => None,
            IdleStop::Never => Some(When::Never(true)),
            IdleStop::AfterMs(ms) => Some(When::AfterMs(ms)),
        },
    }
}

/// What a workspace may reach; `None` means the default.
///
/// # Errors
/// `EGRESS_INVALID`.
pub fn egress(given: Option<&wire::Egress>) -> Result<Option<Policy>, Status> {
    let Some(given) = given else {
        return Ok(None);
    };
    let kind = match given.policy() {
        wire::EgressPolicy::Unspecified if given.allow.is_empty() => return Ok(None),
        // Whoever names hosts wants them.
        wire::EgressPolicy::Unspecified | wire::EgressPolicy::AllowList => PolicyKind::AllowList,
        wire::EgressPolicy::None => PolicyKind::None,
        wire::EgressPolicy::Open => PolicyKind::Open,
    };
    let policy = Policy::new(kind, &given.allow).map_err(|error| {
        invalid(
            "EGRESS_INVALID",
            error.to_string(),
            "allow HOST or *.DOMAIN, each with an optional :PORT, under the allow-list policy",
        )
    })?;
    Ok(Some(policy))
}

/// A port.
///
/// # Errors
/// `PORT_INVALID`.
pub fn port(port: u32) -> Result<u16, Status> {
    let sound = u16::try_from(port).ok().filter(|port| *port != 0);
    sound.ok_or_else(|| {
        invalid(
            "PORT_INVALID",
            format!("there is no port {port}"),
            "give a number from 1 to 65535",
        )
    })
}

/// A workspace as it is seen.
#[must_use]
pub fn view(view: &WorkspaceView) -> wire::Workspace {
    let workspace = &view.workspace;
    let definition = &workspace.definition;
    let state = match view.observed {
        Observed::Starting => wire::WorkspaceState::Starting,
        Observed::Running => wire::WorkspaceState::Running,
        Observed::Stopped => wire::WorkspaceState::Stopped,
        Observed::Paused => wire::WorkspaceState::Paused,
        Observed::Deleting => wire::WorkspaceState::Deleting,
        Observed::Missing => wire::WorkspaceState::Missing,
    };
    let network = match definition.network {
        NetworkMode::None => wire::NetworkMode::None,
        NetworkMode::Bridge => wire::NetworkMode::Bridge,
    };
    wire::Workspace {
        id: workspace.id.to_string(),
        name: definition.name.to_string(),
        image: definition.image.clone(),
        state: state.into(),
        state_reason: view.reason.clone().unwrap_or_default(),
        limits: Some(wire::Limits {
            cpu_millis: definition.limits.cpu_millis,
            memory_bytes: definition.limits.memory_bytes,
            pids: definition.limits.pids,
            disk_bytes: definition.limits.disk_bytes,
        }),
        network: network.into(),
        repositories: (workspace.repositories.iter())
            .map(|of| wire::Repository {
                setup: setup(&workspace.setup, &of.name),
                ..repository(of)
            })
            .collect(),
        created_at: Some(timestamp(workspace.created_at_ms)),
        container_id: view.container.clone().map(|id| id.0).unwrap_or_default(),
        user: definition.user.clone().unwrap_or_default(),
        egress: Some(egress_to_wire(&workspace.egress)),
        idle_stop: Some(idle_stop_to_wire(workspace.idle_stop)),
    }
}

fn egress_to_wire(policy: &Policy) -> wire::Egress {
    let kind = match policy.kind() {
        PolicyKind::None => wire::EgressPolicy::None,
        PolicyKind::AllowList => wire::EgressPolicy::AllowList,
        PolicyKind::Open => wire::EgressPolicy::Open,
    };
    wire::Egress {
        policy: kind.into(),
        allow: policy.hosts().iter().map(ToString::to_string).collect(),
    }
}

/// A repository.
#[must_use]
pub fn repository(repository: &Repository) -> wire::Repository {
    wire::Repository {
        name: repository.name.to_string(),
        source: repository.source.clone(),
        commit: repository.commit.clone(),
        branch: repository.branch.clone(),
        setup: None,
    }
}

/// How far the setup of a repository is.
fn setup(of: &WorkspaceSetup, name: &RepositoryName) -> Option<wire::RepositorySetup> {
    let maintenance = of.maintenance_problems.get(name);
    let state = of.repositories.get(name).map(|setup| &setup.state);
    if maintenance.is_none() && state.is_none() {
        return None;
    }
    let shown = |snapshot: &SnapshotId| snapshot.to_string();
    let (state, snapshot_id, problem) = match state {
        None => (wire::SetupState::Unspecified, None, None),
        Some(SetupState::Restoring { snapshot, .. }) => {
            (wire::SetupState::Restoring, Some(shown(snapshot)), None)
        }
        Some(SetupState::Initializing) => (wire::SetupState::Initializing, None, None),
        Some(SetupState::Done { result }) => match result {
            SetupResult::Running { kept } => {
                (wire::SetupState::Ran, kept.as_ref().map(shown), None)
            }
            SetupResult::Restoring { snapshot } => {
                (wire::SetupState::Restored, Some(shown(snapshot)), None)
            }
        },
        Some(SetupState::Failed { problem }) => {
            (wire::SetupState::Failed, None, Some(problem.clone()))
        }
    };
    Some(wire::RepositorySetup {
        state: state.into(),
        problem: problem.unwrap_or_default(),
        snapshot_id: snapshot_id.unwrap_or_default(),
        maintenance_problem: maintenance.cloned().unwrap_or_default(),
    })
}

/// Milliseconds since the Unix epoch as a timestamp.
#[must_use]
pub fn timestamp(ms: i64) -> Timestamp {
    let nanos = ms.rem_euclid(1_000) * 1_000_000;
    Timestamp {
        seconds: ms.div_euclid(1_000),
        nanos: i32::try_from(nanos).unwrap_or(0),
    }
}

/// A command to start: its workspace, and what to follow.
///
/// # Errors
/// `REQUEST_ID_INVALID`, `SPEC_INVALID`.
pub fn exec_start(start: wire::ExecStart) -> Result<Follow, Status> {
    let id: RequestId = start
        .request_id
        .parse()
        .map_err(|error| invalid_id("REQUEST_ID_INVALID", &error))?;
    let spec_invalid = |message: String, advice: &str| invalid("SPEC_INVALID", message, advice);
    if start.argv.is_empty() || start.argv.len() > MOST_ARGUMENTS {
        return Err(spec_invalid(
            format!(
                "a command has 1 to {MOST_ARGUMENTS} arguments, not {}",
                start.argv.len()
            ),
            "give the program and its arguments; for more, write them to a file",
        ));
    }
    if start.argv.iter().any(|argument| argument.contains(&0)) {
        return Err(spec_invalid(
            "an argument contains a NUL byte".to_owned(),
            "pass such bytes on standard input",
        ));
    }
    if let Some(bad) = start.environment.iter().find(|variable| {
        variable.name.is_empty()
            || variable.name.contains(['=', '\0'])
            || variable.value.contains(&0)
    }) {
        return Err(spec_invalid(
            format!("`{}` cannot be a variable", bad.name.escape_debug()),
            "names are not empty and have no `=`; neither names nor values have NUL bytes",
        ));
    }
    let terminal = start.terminal.map(terminal_size).transpose()?;
    let spec = ExecSpec {
        argv: start.argv.into_iter().map(Vec::from).collect(),
        cwd: some(&start.cwd),
        environment: start
            .environment
            .into_iter()
            .map(|variable| (variable.name, variable.value.into()))
            .collect(),
        user: some(&start.user),
        timeout_ms: (start.timeout_ms != 0).then_some(start.timeout_ms),
        stdin: start.stdin,
        terminal,
        leftovers: Leftovers::Keep,
    };
    Ok(Follow::Run(id.into(), Box::new(spec)))
}

/// A command to attach to.
///
/// # Errors
/// `EXEC_ID_INVALID`.
pub fn exec_attach(attach: &wire::ExecAttach) -> Result<Follow, Status> {
    let id = exec_id(&attach.exec_id)?;
    let offsets = OutputOffsets {
        stdout: attach.stdout_offset,
        stderr: attach.stderr_offset,
    };
    let reading = match (attach.exit_only, attach.no_follow) {
        (true, _) => Reading::ExitOnly,
        (false, true) => Reading::NoFollow,
        (false, false) => Reading::Follow,
    };
    Ok(Follow::Attach(id, offsets, reading))
}

/// A command's id.
///
/// # Errors
/// `EXEC_ID_INVALID`.
pub fn exec_id(text: &str) -> Result<ExecId, Status> {
    text.parse()
        .map_err(|error| invalid_id("EXEC_ID_INVALID", &error))
}

/// A request's id as a step of the agent's.
///
/// # Errors
/// `REQUEST_ID_INVALID`.
pub fn step_id(request_id: &str) -> Result<StepId, Status> {
    request_id
        .parse()
        .map_err(|error| invalid_id("REQUEST_ID_INVALID", &error))
}

/// A terminal's size.
///
/// # Errors
/// `SPEC_INVALID`.
pub fn terminal_size(size: wire::TerminalSize) -> Result<TerminalSize, Status> {
    let cells = |cells: u32| u16::try_from(cells).ok().filter(|cells| *cells > 0);
    match (cells(size.rows), cells(size.columns)) {
        (Some(rows), Some(columns)) => Ok(TerminalSize { rows, columns }),
        _ => Err(invalid(
            "SPEC_INVALID",
            format!(
                "a terminal cannot have {} rows and {} columns",
                size.rows, size.columns
            ),
            "give 1 to 65535 of each",
        )),
    }
}

/// How to signal a command.
///
/// # Errors
/// `SIGNAL_INVALID`.
pub fn signal(what: Option<wire::signal_exec_request::What>) -> Result<SignalTarget, Status> {
    use wire::signal_exec_request::What;
    match what {
        Some(What::Group(signal)) => Ok(SignalTarget::Group(signal_number(signal)?)),
        Some(What::Tree(signal)) => Ok(SignalTarget::Tree(signal_number(signal)?)),
        Some(What::EndAfterGraceMs(grace_ms)) => Ok(SignalTarget::End { grace_ms }),
        None => Err(invalid(
            "SIGNAL_INVALID",
            "the request names no signal",
            "set group, tree or end_after_grace_ms",
        )),
    }
}

/// A signal's number, checked.
///
/// # Errors
/// `SIGNAL_INVALID`.
pub fn signal_number(signal: i32) -> Result<i32, Status> {
    if (1..=64).contains(&signal) {
        return Ok(signal);
    }
    Err(invalid(
        "SIGNAL_INVALID",
        format!("there is no signal {signal}"),
        "give a number from 1 to 64",
    ))
}

/// What a reader of a command's output receives. The bytes are not copied.
#[must_use]
pub fn exec_event(event: ExecEvent) -> wire::ExecResponse {
    use wire::exec_response::Event;
    let event = match event {
        ExecEvent::Attached(exec) => Event::Attached(exec_info(*exec)),
        ExecEvent::Output {
            stream,
            offset,
            data,
        } => {
            let output = wire::ExecOutput { offset, data };
            match stream {
                OutputStream::Stdout => Event::Stdout(output),
                OutputStream::Stderr => Event::Stderr(output),
            }
        }
        ExecEvent::Gap(gap) => Event::Gap(exec_gap(gap)),
        ExecEvent::Exited(exit) => Event::Exit(exec_exit(exit)),
    };
    wire::ExecResponse { event: Some(event) }
}

fn exec_gap(gap: OutputGap) -> wire::ExecGap {
    wire::ExecGap {
        stderr: gap.stream == OutputStream::Stderr,
        from: gap.from,
        to: gap.to,
    }
}

/// A command, running or ended.
#[must_use]
pub fn exec_info(exec: Exec) -> wire::ExecInfo {
    wire::ExecInfo {
        exec_id: exec.id.to_string(),
        argv: exec.spec.argv.into_iter().map(Bytes::from).collect(),
        cwd: exec.spec.cwd.unwrap_or_default(),
        started_at: Some(timestamp(exec.started_at_ms)),
        stdout_bytes: exec.stdout_bytes,
        stderr_bytes: exec.stderr_bytes,
        stdin_bytes: exec.stdin_bytes,
        gaps: exec.gaps.into_iter().map(exec_gap).collect(),
        terminal: exec.spec.terminal.is_some(),
        exit: exec.exit.map(exec_exit),
    }
}

fn exec_exit(exit: Exit) -> wire::ExecExit {
    use wire::exec_exit::How;
    let how = match exit.status {
        ExitStatus::Code(code) => How::Code(code),
        ExitStatus::Signal(signal) => How::Signal(signal),
        ExitStatus::TimedOut(ms) => How::TimedOutMs(ms),
        ExitStatus::NotStarted(why) => How::NotStarted(why),
        ExitStatus::Unknown(why) => How::Unknown(why),
    };
    wire::ExecExit {
        how: Some(how),
        duration_ms: exit.duration_ms,
        leftover_processes: exit.leftover_processes,
        out_of_memory: exit.out_of_memory,
    }
}

/// Each error of the service as one status; the only place that decides.
#[must_use]
pub fn error(error: &WorkspacesError) -> Status {
    let message = error.to_string();
    match error {
        WorkspacesError::Unknown(_) => refusal(
            Code::NotFound,
            "WORKSPACE_UNKNOWN",
            message,
            "`compyctl workspace list` shows names and ids",
            Retry::No,
        ),
        WorkspacesError::NameTaken(_) => refusal(
            Code::AlreadyExists,
            "NAME_TAKEN",
            message,
            "choose another name, or use or delete the workspace that has it",
            Retry::No,
        ),
        WorkspacesError::Limit(error) => invalid(
            "LIMIT_INVALID",
            message,
            format!(
                "give {} within {}, or 0 for the default",
                error.limit, error.range
            ),
        ),
        WorkspacesError::Busy { .. } => refusal(
            Code::FailedPrecondition,
            "WORKSPACE_BUSY",
            message,
            "wait for its sessions, cancel them, or force it",
            Retry::No,
        ),
        WorkspacesError::Deleting(_) => refusal(
            Code::FailedPrecondition,
            "WORKSPACE_DELETING",
            message,
            "wait until it is gone; then the name is free",
            Retry::No,
        ),
        WorkspacesError::Stopped(_) => refusal(
            Code::FailedPrecondition,
            "WORKSPACE_STOPPED",
            message,
            "start it and attach again; the command's output is kept",
            Retry::No,
        ),
        WorkspacesError::Paused(name) => refusal(
            Code::FailedPrecondition,
            "WORKSPACE_PAUSED",
            message,
            format!("`compyctl workspace resume {name}` lets it go on"),
            Retry::No,
        ),
        WorkspacesError::DiskLimit { name, .. } => refusal(
            Code::ResourceExhausted,
            "DISK_LIMIT",
            message,
            format!(
                "clean up with `compyctl workspace exec --over-limit {name} -- ...`, or raise the limit with `compyctl workspace set {name} --disk SIZE`"
            ),
            Retry::No,
        ),
        WorkspacesError::Runtime(error) => runtime(error, message),
        WorkspacesError::ContainerEnded { container, .. }
        | WorkspacesError::AgentSilent { container, .. } => refusal(
            Code::Unavailable,
            "WORKSPACE_NOT_UP",
            message,
            format!("`docker logs {container}` shows the agent's own words; then try again"),
            SOON,
        ),
        WorkspacesError::Link(LinkError::Timeout { .. }) => refusal(
            Code::Unavailable,
            "AGENT_UNREACHABLE",
            message,
            "try again; commands that were started run on and can be attached to",
            SOON,
        ),
        WorkspacesError::Salvage(_) => refusal(
            Code::Unavailable,
            "WORKSPACE_DAMAGED",
            message,
            "it is tried again by itself; `compyctl doctor` and the daemon's log say what is in the \
             way",
            Retry::After(std::time::Duration::from_secs(5)),
        ),
        WorkspacesError::Link(LinkError::Listen { .. }) | WorkspacesError::Dropped(_) => {
            internal(error)
        }
        WorkspacesError::Agent(error) => agent(error, message),
        WorkspacesError::Store(error) => store(error, message),
        WorkspacesError::RepositoryExists(_) => refusal(
            Code::AlreadyExists,
            "REPOSITORY_EXISTS",
            message,
            "give the repository another name, or remove the directory",
            Retry::No,
        ),
        WorkspacesError::RepositoryUnknown(_) => refusal(
            Code::NotFound,
            "REPOSITORY_UNKNOWN",
            message,
            "name one of the workspace's repositories; `compyctl workspace show` lists them",
            Retry::No,
        ),
        WorkspacesError::SetupFailed { .. } => refusal(
            Code::FailedPrecondition,
            "SETUP_FAILED",
            message,
            "mend it in the workspace and run `compyctl workspace setup NAME`, or add the \
             repository elsewhere with --no-setup",
            Retry::No,
        ),
        WorkspacesError::EgressOnBridge => invalid(
            "EGRESS_INVALID",
            message,
            "leave the egress out, or create the workspace with network none",
        ),
        WorkspacesError::NoTunnel(_) => refusal(
            Code::FailedPrecondition,
            "AGENT_TOO_OLD",
            message,
            "`compyctl workspace stop` and `start` give it this daemon's agent",
            Retry::No,
        ),
        WorkspacesError::Source(error) => source(error, message),
        WorkspacesError::Checkout(_) => refusal(
            Code::FailedPrecondition,
            "CHECKOUT_FAILED",
            message,
            "the workspace's image needs git and space on its disk",
            Retry::No,
        ),
    }
}

fn runtime(error: &RuntimeError, message: String) -> Status {
    match error {
        RuntimeError::Unavailable(_) => refusal(
            Code::Unavailable,
            "ENGINE_UNAVAILABLE",
            message,
            "start the container engine; `compyctl doctor` says what it sees",
            SOON,
        ),
        RuntimeError::ImageMissing(_) => refusal(
            Code::FailedPrecondition,
            "IMAGE_MISSING",
            message,
            "`make images` builds the default one; pull or load any other first",
            Retry::No,
        ),
        RuntimeError::NetworkUnavailable(_) => refusal(
            Code::FailedPrecondition,
            "NETWORK_UNAVAILABLE",
            message,
            "use `--network none`, or give the engine a bridge network",
            Retry::No,
        ),
        RuntimeError::ContainerMissing(_) => refusal(
            Code::Aborted,
            "CONTAINER_MISSING",
            message,
            "somebody removed the container; starting the workspace makes it again",
            SOON,
        ),
        RuntimeError::DiskFull { .. } => refusal(
            Code::ResourceExhausted,
            "ENGINE_DISK_FULL",
            message,
            "free some space where the engine keeps its data, which `docker info` names as its \
             root; nothing was lost",
            SOON,
        ),
        RuntimeError::Refused { .. } => refusal(
            Code::FailedPrecondition,
            "ENGINE_REFUSED",
            message,
            "the engine's own words say why; `compyctl doctor` looks at the common causes",
            Retry::No,
        ),
    }
}

fn store(error: &StoreError, message: String) -> Status {
    match error {
        StoreError::DiskFull(_) => refusal(
            Code::ResourceExhausted,
            "DISK_FULL",
            message,
            "free some space where the daemon keeps its data; nothing was lost",
            SOON,
        ),
        StoreError::NameTaken(_) => refusal(
            Code::AlreadyExists,
            "NAME_TAKEN",
            message,
            "choose another name",
            Retry::No,
        ),
        StoreError::Missing(_)
        | StoreError::WrongSequence { .. }
        | StoreError::NewerFormat { .. }
        | StoreError::Damaged(_)
        | StoreError::Failed { .. } => internal(error),
    }
}

fn agent(error: &AgentError, message: String) -> Status {
    let advice = match error {
        AgentError::Refused { code, .. } => {
            let (code, reason) = (agent_code(code), code);
            let advice = "the message says what to change";
            return refusal(code, reason, message, advice, Retry::No);
        }
        AgentError::Unreachable(_) => "try again; what was started runs on",
        AgentError::Deadline { .. } => "the workspace may be paused or overloaded; try again",
        AgentError::Protocol { .. } => {
            let advice = "stop and start the workspace; that gives it this daemon's own agent";
            return refusal(Code::Internal, "AGENT_PROTOCOL", message, advice, Retry::No);
        }
    };
    refusal(
        Code::Unavailable,
        "AGENT_UNREACHABLE",
        message,
        advice,
        SOON,
    )
}

/// The class of an agent's code.
fn agent_code(code: &str) -> Code {
    match code {
        "EXEC_UNKNOWN" | "NOT_FOUND" => Code::NotFound,
        "EXEC_CONFLICT" | "ALREADY_EXISTS" => Code::AlreadyExists,
        "SPOOL_FULL" | "DISK_FULL" => Code::ResourceExhausted,
        "OFFSET_OUT_OF_RANGE" | "STDIN_GAP" => Code::OutOfRange,
        "PERMISSION" => Code::PermissionDenied,
        "SPEC_INVALID" | "SIGNAL_INVALID" | "PATH_INVALID" | "PATTERN_INVALID" => {
            Code::InvalidArgument
        }
        _ => Code::FailedPrecondition,
    }
}

fn source(error: &GitSourceError, message: String) -> Status {
    let (code, reason, advice, retry) = match error {
        GitSourceError::UrlInvalid { .. } => (
            Code::InvalidArgument,
            "URL_INVALID",
            "give an https, http, git or ssh URL, or a path for compyctl to bundle",
            Retry::No,
        ),
        GitSourceError::Unreachable { .. } => (
            Code::FailedPrecondition,
            "REPOSITORY_UNREACHABLE",
            "check the URL with `git ls-remote` on the daemon's host",
            Retry::No,
        ),
        GitSourceError::NeedsLogin(_) => (
            Code::Unauthenticated,
            "REPOSITORY_NEEDS_LOGIN",
            "check the URL; for a private repository clone it yourself and give the path",
            Retry::No,
        ),
        GitSourceError::Empty(_) => (
            Code::FailedPrecondition,
            "REPOSITORY_EMPTY",
            "push a first commit",
            Retry::No,
        ),
        GitSourceError::ReferenceUnknown { .. } => (
            Code::NotFound,
            "REFERENCE_UNKNOWN",
            "`git ls-remote` shows branches and tags; a commit is named in full",
            Retry::No,
        ),
        GitSourceError::BundleInvalid(_) => (
            Code::InvalidArgument,
            "BUNDLE_INVALID",
            "make it with `git bundle create FILE --branches --tags HEAD`",
            Retry::No,
        ),
        GitSourceError::GivenUp { .. } => (
            Code::ResourceExhausted,
            "REPOSITORY_TOO_LARGE",
            "the bounds are in the daemon's configuration; a shallow clone is smaller",
            Retry::No,
        ),
        GitSourceError::Host(_) => return internal(error),
    };
    refusal(code, reason, message, advice, retry)
}

fn some(text: &str) -> Option<String> {
    (!text.is_empty()).then(|| text.to_owned())
}

#[cfg(test)]
mod tests {
    use tonic_types::StatusExt as _;

    use super::*;

    fn reason(status: &Status) -> String {
        status
            .get_error_details()
            .error_info()
            .unwrap()
            .reason
            .clone()
    }

    #[test]
    fn every_error_carries_a_code_and_advice() {
        let status = error(&WorkspacesError::Unknown("x".to_owned()));
        assert_eq!(
            (status.code(), reason(&status).as_str()),
            (Code::NotFound, "WORKSPACE_UNKNOWN")
        );
        let details = status.get_error_details();
        assert!(
            details
                .localized_message()
                .unwrap()
                .message
                .contains("workspace list")
        );
        assert!(details.retry_info().is_none());
    }

    #[test]
    fn only_what_may_pass_says_when_to_try_again() {
        let unavailable = RuntimeError::Unavailable("no socket".to_owned());
        let status = error(&unavailable.into());
        assert_eq!(reason(&status), "ENGINE_UNAVAILABLE");
        assert!(status.get_error_details().retry_info().is_some());
        let missing = RuntimeError::ImageMissing("x".to_owned());
        assert!(
            error(&missing.into())
                .get_error_details()
                .retry_info()
                .is_none()
        );
    }

    #[test]
    fn the_agents_own_codes_are_passed_on() {
        let refused = AgentError::Refused {
            code: "EXEC_CONFLICT".to_owned(),
            message: "x".to_owned(),
        };
        let status = error(&refused.into());
        assert_eq!(
            (status.code(), reason(&status).as_str()),
            (Code::AlreadyExists, "EXEC_CONFLICT")
        );
    }

    #[test]
    fn commands_that_cannot_be_are_refused_with_the_reason() {
        let good = wire::ExecStart {
            request_id: "r1".to_owned(),
            argv: vec!["true".into()],
            ..Default::default()
        };
        assert!(exec_start(good.clone()).is_ok());
        let variable = |name: &str, value: &'static [u8]| wire::EnvironmentVariable {
            name: name.to_owned(),
            value: value.into(),
        };
        let bad = [
            wire::ExecStart {
                argv: vec![],
                ..good.clone()
            },
            wire::ExecStart {
                argv: vec!["a\0b".into()],
                ..good.clone()
            },
            wire::ExecStart {
                argv: vec!["x".into(); MOST_ARGUMENTS + 1],
                ..good.clone()
            },
            wire::ExecStart {
                environment: vec![variable("", b"x")],
                ..good.clone()
            },
            wire::ExecStart {
                environment: vec![variable("A=B", b"x")],
                ..good.clone()
            },
            wire::ExecStart {
                environment: vec![variable("A", b"x\0")],
                ..good.clone()
            },
            wire::ExecStart {
                terminal: Some(wire::TerminalSize {
                    rows: 0,
                    columns: 80,
                }),
                ..good.clone()
            },
        ];
        for start in bad {
            assert_eq!(reason(&exec_start(start).unwrap_err()), "SPEC_INVALID");
        }
        let start = wire::ExecStart {
            request_id: "a b".to_owned(),
            ..good
        };
        assert_eq!(
            reason(&exec_start(start).unwrap_err()),
            "REQUEST_ID_INVALID"
        );
    }

    #[test]
    fn times_before_the_epoch_keep_their_order() {
        assert_eq!(
            timestamp(-1),
            Timestamp {
                seconds: -1,
                nanos: 999_000_000
            }
        );
        assert_eq!(
            timestamp(1_500),
            Timestamp {
                seconds: 1,
                nanos: 500_000_000
            }
        );
    }
}
