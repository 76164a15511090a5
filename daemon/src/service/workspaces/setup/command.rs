//! Running one command of a setup file, and reading that file inside.

use bytes::Bytes;
use futures_util::{StreamExt as _, stream::BoxStream};

use super::super::{Follow, Workspaces, WorkspacesError, checkout::directory_of};
use crate::{
    domain::{
        credential::CommandTool,
        exec::{ExecEvent, ExecSpec, ExitStatus, Leftovers, OutputStream},
        files::ReadRange,
        ids::{ExecId, RepositoryName, WorkspaceId},
        setup_file::{SETUP_FILE, SETUP_FILE_MAX_BYTES, SetupCommand},
    },
    ports::agent::{AgentError, AgentPort},
    service::redaction::Redactions,
};

/// Bytes of a command's output that are looked at for its last lines.
const TAIL_BYTES: usize = 4 << 10;
/// Last lines that an error shows, at most.
const TAIL_LINES: usize = 8;

/// How a command ended.
pub(super) struct Ran {
    pub(super) status: ExitStatus,
    /// The end of both outputs, without credentials.
    tail: Vec<u8>,
}

impl Ran {
    /// What is said of a command that failed.
    pub(super) fn problem(&self, command: &SetupCommand) -> String {
        let text = String::from_utf8_lossy(&self.tail);
        let lines: Vec<&str> = (text.lines())
            .map(str::trim_end)
            .filter(|line| !line.is_empty())
            .collect();
        let last = lines[lines.len().saturating_sub(TAIL_LINES)..].join("\n");
        match last.as_str() {
            "" => format!("`{}`: {}", command.run, self.status),
            last => format!("`{}`: {}\n{last}", command.run, self.status),
        }
    }

    fn keep(&mut self, data: &Bytes) {
        self.tail.extend_from_slice(data);
        let beyond = self.tail.len().saturating_sub(TAIL_BYTES);
        self.tail.drain(..beyond);
    }
}

/// What is run for a command of a setup file.
pub(in crate::service) fn spec(
    command: &SetupCommand,
    directory: &str,
    timeout_ms: u64,
    leftovers: Leftovers,
) -> ExecSpec {
    let mut spec = ExecSpec::new(["sh", "-eu", "-c", &command.run]).by(CommandTool::Setup);
    spec.cwd = Some(directory.to_owned());
    spec.user.clone_from(&command.user);
    spec.timeout_ms = Some(timeout_ms);
    spec.leftovers = leftovers;
    spec
}

impl Workspaces {
    /// Runs a command to its end, over links that drop and come back, or joins
    /// the one with the same id.
    pub(super) async fn run_setup_command(
        &self,
        id: &WorkspaceId,
        exec: &str,
        spec: ExecSpec,
    ) -> Result<Ran, WorkspacesError> {
        let what = Follow::Run(exec_id(exec)?, Box::new(spec));
        let redactions = &self.inner.options.redactions;
        to_its_end(self.follow_quietly(id, what).await?, redactions).await
    }
}

/// The same over one link, for a caller who holds the workspace's lock: what
/// would bring the link back waits for it.
pub(super) async fn run_over(
    agent: &dyn AgentPort,
    exec: &str,
    spec: &ExecSpec,
    redactions: &Redactions,
) -> Result<Ran, WorkspacesError> {
    to_its_end(agent.run(&exec_id(exec)?, spec), redactions).await
}

async fn to_its_end<E>(
    mut events: BoxStream<'static, Result<ExecEvent, E>>,
    redactions: &Redactions,
) -> Result<Ran, WorkspacesError>
where
    WorkspacesError: From<E>,
{
    let unknown = ExitStatus::Unknown("its exit never came".to_owned());
    let mut ran = Ran {
        status: unknown,
        tail: Vec::new(),
    };
    let (mut stdout, mut stderr) = (redactions.stream(), redactions.stream());
    while let Some(event) = events.next().await {
        match event? {
            ExecEvent::Output { stream, data, .. } => ran.keep(&match stream {
                OutputStream::Stdout => stdout.push(data),
                OutputStream::Stderr => stderr.push(data),
            }),
            ExecEvent::Exited(exit) => ran.status = exit.status,
            ExecEvent::Attached(_) | ExecEvent::Gap { .. } => {}
        }
    }
    ran.keep(&stdout.flush());
    ran.keep(&stderr.flush());
    Ok(ran)
}

pub(super) fn exec_id(text: &str) -> Result<ExecId, WorkspacesError> {
    text.parse()
        .map_err(|error| WorkspacesError::Dropped(format!("{error}")))
}

/// Content of the setup file that a repository has now; `None` when it has
/// none.
pub(super) async fn setup_file(
    agent: &dyn AgentPort,
    name: &RepositoryName,
) -> Result<Option<Vec<u8>>, AgentError> {
    let path = format!("{}/{SETUP_FILE}", directory_of(name));
    // One byte and one line more than it may have: what is cut is refused.
    let most = u32::try_from(SETUP_FILE_MAX_BYTES + 1).unwrap_or(u32::MAX);
    let range = ReadRange {
        first_line: None,
        line_count: Some(most),
        max_bytes: Some(most),
    };
    match agent.read_file(&path, &range).await {
        Ok(file) if file.truncated => Ok(Some(vec![b' '; SETUP_FILE_MAX_BYTES + 1])),
        Ok(file) => Ok(Some(file.content.into_bytes())),
        Err(AgentError::Refused { code, .. }) if code == "NOT_FOUND" => Ok(None),
        Err(error) => Err(error),
    }
}
