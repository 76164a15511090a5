//! Commands of sessions: run once by id, streamed to an artifact, shown bounded.
//!
//! The command lives in the workspace, not here: a lost link is followed by
//! attaching again where the stream broke off, and the same id after a restart
//! finds the command and its one outcome. Memory is bounded whatever a command
//! prints: a start and an end are kept, the whole goes to the artifact as it
//! comes.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::{StreamExt, stream::BoxStream};
use tokio::{sync::mpsc, time::Instant};
use tokio_util::sync::CancellationToken;

use super::{
    artifacts::{ArtifactAbout, ArtifactError, ArtifactWriter, Artifacts},
    redaction::Redactions,
};
use crate::{
    domain::{
        artifact::Artifact,
        exec::{
            ExecEvent, ExecSpec, Exit, ExitStatus, OutputOffsets, OutputStream, Reading,
            SignalTarget,
        },
        ids::{ExecId, StepId, WorkspaceId},
        redaction::RedactionStream,
    },
    ports::{
        agent::{AgentError, AgentPort},
        workspaces::{WorkspaceAccessError, WorkspacesPort},
    },
};

/// How much of an output is shown: its start and its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ViewBounds {
    /// Bytes from the start.
    pub head_bytes: usize,
    /// Bytes from the end.
    pub tail_bytes: usize,
}

impl Default for ViewBounds {
    fn default() -> Self {
        Self {
            head_bytes: 6 << 10,
            tail_bytes: 10 << 10,
        }
    }
}

/// A command to run.
pub struct CommandRequest {
    /// Where.
    pub workspace: WorkspaceId,
    /// Its id: the same id again joins the command instead of running it twice.
    pub exec: ExecId,
    /// What.
    pub spec: ExecSpec,
    /// What its output is recorded with; `None` keeps none.
    pub about: Option<ArtifactAbout>,
    /// How much is shown.
    pub bounds: ViewBounds,
    /// Keeps standard output apart, up to this many bytes; only it goes to the
    /// artifact then.
    pub apart: Option<usize>,
    /// Takes output as it comes; what it has no room for is not sent.
    pub progress: Option<mpsc::Sender<Bytes>>,
}

/// What came of a command.
#[derive(Debug, Clone, PartialEq)]
pub struct CommandOutcome {
    /// How it ended.
    pub exit: Exit,
    /// Start and end of the output as text, whole when it is short.
    pub view: String,
    /// Both outputs in the order of arrival: all of it up to 8 MiB, otherwise
    /// the first 1 MiB and the last 7 MiB.
    pub output: Vec<u8>,
    /// Standard output alone, where it was asked for; `None` as well when there
    /// was more than was to be kept, or a part was dropped on the way.
    pub stdout: Option<Vec<u8>>,
    /// Bytes of both outputs.
    pub total_bytes: u64,
    /// The whole output, where it was asked for.
    pub artifact: Option<Artifact>,
    /// Whether the view leaves something out.
    pub truncated: bool,
}

/// Runs commands of sessions. Cheap to clone.
#[derive(Clone)]
pub struct Commands {
    workspaces: Arc<dyn WorkspacesPort>,
    artifacts: Artifacts,
    check_timeout: Duration,
}

/// How long a check may take when nobody says otherwise.
pub const CHECK_TIMEOUT: Duration = Duration::from_secs(30 * 60);

impl Commands {
    /// Commands in these workspaces, their outputs kept here.
    #[must_use]
    pub fn new(workspaces: Arc<dyn WorkspacesPort>, artifacts: Artifacts) -> Self {
        Self {
            workspaces,
            artifacts,
            check_timeout: CHECK_TIMEOUT,
        }
    }

    /// With another time for a check.
    #[must_use]
    pub fn with_check_timeout(mut self, timeout: Duration) -> Self {
        self.check_timeout = timeout;
        self
    }

    /// How long a run of tests, lint or types may take.
    #[must_use]
    pub fn check_timeout(&self) -> Duration {
        self.check_timeout
    }

    /// The artifacts that outputs are kept in.
    #[must_use]
    pub fn artifacts(&self) -> &Artifacts {
        &self.artifacts
    }

    /// What is kept out of outputs.
    #[must_use]
    pub fn redactions(&self) -> &Redactions {
        self.artifacts.redactions()
    }

    /// The workspaces that commands run in.
    #[must_use]
    pub fn workspaces(&self) -> &Arc<dyn WorkspacesPort> {
        &self.workspaces
    }

    /// Runs a command to its end, through lost links, or joins the one with the
    /// same id. A command whose fate the workspace no longer knows ends with
    /// [`ExitStatus::Unknown`]; it is not run again.
    ///
    /// When cancelled it ends every process of the command and fails with
    /// [`CommandError::Cancelled`]. Dropping the future leaves the command
    /// running: the same id joins it.
    pub async fn run(
        &self,
        request: CommandRequest,
        cancel: &CancellationToken,
    ) -> Result<CommandOutcome, CommandError> {
        let writer = match request.about.clone() {
            Some(about) => Some(self.artifacts.begin(about).await?),
            None => None,
        };
        let mut output = Collector::new(
            writer,
            request.apart,
            request.progress.clone(),
            self.redactions(),
        );
        let exit = match self.follow(&request, &mut output, cancel).await {
            Err(CommandError::Cancelled) => {
                self.end(&request.workspace, &request.exec).await;
                return Err(CommandError::Cancelled);
            }
            outcome => outcome?,
        };
        output.finish(exit, request.bounds).await
    }

    /// Whether a workspace knows a command by this id: it runs, or has ended.
    pub async fn is_known(
        &self,
        workspace: &WorkspaceId,
        exec: &ExecId,
    ) -> Result<bool, CommandError> {
        let agent = self.workspaces.agent(workspace).await?;
        Ok(agent.get(exec).await?.is_some())
    }

    /// Ends every command of a step that still runs: the one that has the
    /// step's id, and those whose ids are made from it.
    pub async fn end_step(
        &self,
        workspace: &WorkspaceId,
        step: &StepId,
    ) -> Result<(), CommandError> {
        let agent = self.workspaces.agent(workspace).await?;
        let part = format!("{step}.");
        for exec in agent.list(true).await? {
            let id = exec.id.as_str();
            if id == step.as_str() || id.starts_with(&part) {
                self.end(workspace, &exec.id).await;
            }
        }
        Ok(())
    }

    /// Follows the command's events to its exit, over as many links as it takes.
    async fn follow(
        &self,
        request: &CommandRequest,
        output: &mut Collector,
        cancel: &CancellationToken,
    ) -> Result<Exit, CommandError> {
        let mut attached = false;
        let mut trouble: Option<Trouble> = None;
        loop {
            let broken = match self.open(request, attached, output.offsets, cancel).await {
                Err(error) => error,
                Ok(mut events) => loop {
                    let event = tokio::select! {
                        () = cancel.cancelled() => return Err(CommandError::Cancelled),
                        event = events.next() => event,
                    };
                    match event {
                        Some(Ok(ExecEvent::Attached(_))) => {
                            attached = true;
                            trouble = None;
                        }
                        Some(Ok(ExecEvent::Output {
                            stream,
                            offset,
                            data,
                        })) => output.take(stream, offset, data).await?,
                        Some(Ok(ExecEvent::Gap(gap))) => {
                            output.gap(gap.stream, gap.from, gap.to).await?;
                        }
                        Some(Ok(ExecEvent::Exited(exit))) => return Ok(exit),
                        Some(Err(error)) => break error.into(),
                        None => {
                            let text = "the stream ended before the command did".to_owned();
                            break AgentError::Unreachable(text).into();
                        }
                    }
                },
            };
            // The command was there and is not known any more: what became of
            // it cannot be found out.
            if attached && code(&broken) == Some("EXEC_UNKNOWN") {
                return Ok(unknown("the workspace has forgotten the command"));
            }
            let trouble = trouble.get_or_insert_with(Trouble::begin);
            trouble.wait(broken, cancel).await?;
        }
    }

    async fn open(
        &self,
        request: &CommandRequest,
        attached: bool,
        offsets: OutputOffsets,
        cancel: &CancellationToken,
    ) -> Result<BoxStream<'static, Result<ExecEvent, AgentError>>, CommandError> {
        let agent = tokio::select! {
            () = cancel.cancelled() => return Err(CommandError::Cancelled),
            agent = self.workspaces.agent(&request.workspace) => agent?,
        };
        Ok(if attached {
            agent.attach(&request.exec, offsets, Reading::Follow)
        } else {
            agent.run(&request.exec, &request.spec)
        })
    }

    /// Ends a cancelled command, as well as can be done now.
    async fn end(&self, workspace: &WorkspaceId, exec: &ExecId) {
        let ended = async {
            let agent = self.workspaces.agent(workspace).await?;
            let target = SignalTarget::End { grace_ms: 2_000 };
            agent.signal(exec, None, target).await?;
            wait_for_exit(agent.as_ref(), exec).await
        };
        let error = match tokio::time::timeout(CANCEL_DEADLINE, ended).await {
            Ok(Ok(())) => return,
            Ok(Err(error)) if code(&error) == Some("EXEC_UNKNOWN") => return,
            Ok(Err(error)) => error.to_string(),
            Err(_) => format!("it did not end within {CANCEL_DEADLINE:?}"),
        };
        tracing::warn!(
            workspace_id = %workspace,
            exec_id = %exec,
            %error,
            "a cancelled command may still run"
        );
    }
}

/// How long a lost workspace is asked for before its command is given up.
const LINK_PATIENCE: Duration = Duration::from_secs(120);

/// How long a cancelled command may take to end.
const CANCEL_DEADLINE: Duration = Duration::from_secs(15);

async fn wait_for_exit(agent: &dyn AgentPort, exec: &ExecId) -> Result<(), CommandError> {
    let mut events = agent.attach(exec, OutputOffsets::default(), Reading::ExitOnly);
    while let Some(event) = events.next().await {
        if matches!(event?, ExecEvent::Exited(_)) {
            break;
        }
    }
    Ok(())
}

fn code(error: &CommandError) -> Option<&str> {
    match error {
        CommandError::Agent(error) => error.code(),
        CommandError::Cancelled
        | CommandError::Lost { .. }
        | CommandError::Workspace(_)
        | CommandError::Artifact(_) => None,
    }
}

fn unknown(why: &str) -> Exit {
    Exit {
        status: ExitStatus::Unknown(why.to_owned()),
        duration_ms: 0,
        leftover_processes: 0,
        out_of_memory: false,
    }
}

/// Failures in a row to reach a command.
struct Trouble {
    since: Instant,
    pause: Duration,
}

impl Trouble {
    fn begin() -> Self {
        Self {
            since: Instant::now(),
            pause: Duration::from_millis(20),
        }
    }

    /// Waits before the next try. Fails with the error itself when trying again
    /// does not help, or has not for long enough.
    async fn wait(
        &mut self,
        error: CommandError,
        cancel: &CancellationToken,
    ) -> Result<(), CommandError> {
        let may_help = match &error {
            CommandError::Agent(error) => error.is_transient(),
            CommandError::Workspace(error) => {
                matches!(error, WorkspaceAccessError::Unavailable(_))
            }
            CommandError::Cancelled | CommandError::Lost { .. } | CommandError::Artifact(_) => {
                false
            }
        };
        if !may_help || self.since.elapsed() > LINK_PATIENCE {
            return Err(error);
        }
        let pause = self.pause;
        self.pause = (pause * 2).min(Duration::from_secs(2));
        tokio::select! {
            () = cancel.cancelled() => Err(CommandError::Cancelled),
            () = tokio::time::sleep(pause) => Ok(()),
        }
    }
}

/// Takes a command's output: the whole to the artifact, start and end to memory.
struct Collector {
    offsets: OutputOffsets,
    /// Of standard output and of standard error: what passes has no credential in
    /// it.
    redactions: [RedactionStream; 2],
    writer: Option<ArtifactWriter>,
    progress: Option<mpsc::Sender<Bytes>>,
    stdout: Option<Apart>,
    head: Vec<u8>,
    tail: VecDeque<Vec<u8>>,
    tail_bytes: usize,
    total_bytes: u64,
}

/// Standard output that is kept apart.
struct Apart {
    max_bytes: usize,
    kept: Vec<u8>,
    /// Whether nothing is missing.
    whole: bool,
}

impl Apart {
    fn take(&mut self, data: &[u8]) {
        self.whole &= self.kept.len() + data.len() <= self.max_bytes;
        if self.whole {
            self.kept.extend_from_slice(data);
        }
    }
}

impl Collector {
    const HEAD_BYTES: usize = 1 << 20;
    const TAIL_BYTES: usize = 7 << 20;

    fn new(
        writer: Option<ArtifactWriter>,
        apart: Option<usize>,
        progress: Option<mpsc::Sender<Bytes>>,
        redactions: &Redactions,
    ) -> Self {
        Self {
            offsets: OutputOffsets::default(),
            redactions: [redactions.stream(), redactions.stream()],
            writer,
            progress,
            stdout: apart.map(|max_bytes| Apart {
                max_bytes,
                kept: Vec::new(),
                whole: true,
            }),
            head: Vec::new(),
            tail: VecDeque::new(),
            tail_bytes: 0,
            total_bytes: 0,
        }
    }

    fn offset(&mut self, stream: OutputStream) -> &mut u64 {
        match stream {
            OutputStream::Stdout => &mut self.offsets.stdout,
            OutputStream::Stderr => &mut self.offsets.stderr,
        }
    }

    fn redaction(&mut self, stream: OutputStream) -> &mut RedactionStream {
        let [stdout, stderr] = &mut self.redactions;
        match stream {
            OutputStream::Stdout => stdout,
            OutputStream::Stderr => stderr,
        }
    }

    /// Takes bytes at an offset; those that were taken before are dropped.
    async fn take(
        &mut self,
        stream: OutputStream,
        offset: u64,
        mut data: Bytes,
    ) -> Result<(), ArtifactError> {
        let at = self.offset(stream);
        if offset > *at {
            let from = *at;
            self.gap(stream, from, offset).await?;
        }
        let at = self.offset(stream);
        let known = (*at - offset.min(*at)).min(data.len() as u64);
        let data = data.split_off(known as usize);
        *at += data.len() as u64;
        let data = self.redaction(stream).push(data);
        self.pass(stream, data).await
    }

    /// Takes bytes that may be seen.
    async fn pass(&mut self, stream: OutputStream, data: Bytes) -> Result<(), ArtifactError> {
        if let (OutputStream::Stdout, Some(stdout)) = (stream, &mut self.stdout) {
            stdout.take(&data);
        }
        self.add(stream, data).await
    }

    /// Passes on what was held back: nothing more belongs to it.
    async fn flush(&mut self, stream: OutputStream) -> Result<(), ArtifactError> {
        let held = self.redaction(stream).flush();
        self.pass(stream, held).await
    }

    /// Takes note of bytes that were dropped on the way.
    async fn gap(&mut self, stream: OutputStream, from: u64, to: u64) -> Result<(), ArtifactError> {
        self.flush(stream).await?;
        let at = self.offset(stream);
        let lost = to.saturating_sub(from.max(*at));
        *at = to.max(*at);
        if let (OutputStream::Stdout, Some(stdout)) = (stream, &mut self.stdout) {
            stdout.whole = false;
        }
        let line = format!("\n… {lost} bytes were dropped by the workspace's quota …\n");
        self.add(stream, Bytes::from(line)).await
    }

    async fn add(&mut self, stream: OutputStream, data: Bytes) -> Result<(), ArtifactError> {
        if data.is_empty() {
            return Ok(());
        }
        self.total_bytes += data.len() as u64;
        if let Some(progress) = &self.progress {
            // A watcher that is too slow misses some; the artifact does not.
            let _ = progress.try_send(data.clone());
        }
        let is_kept = self.stdout.is_none() || stream == OutputStream::Stdout;
        if let (true, Some(writer)) = (is_kept, &mut self.writer) {
            writer.write(data.clone()).await?;
        }
        let room = (Self::HEAD_BYTES - self.head.len()).min(data.len());
        self.head.extend_from_slice(&data[..room]);
        let rest = data.slice(room..);
        if !rest.is_empty() {
            self.tail_bytes += rest.len();
            self.push_tail(&rest);
        }
        while let Some(first) = self.tail.front() {
            if self.tail_bytes - first.len() < Self::TAIL_BYTES {
                break;
            }
            self.tail_bytes -= first.len();
            self.tail.pop_front();
        }
        Ok(())
    }

    /// Small pieces are joined, so that a command that prints byte by byte does
    /// not cost a buffer for each.
    fn push_tail(&mut self, data: &[u8]) {
        const JOINED: usize = 64 << 10;
        match self.tail.back_mut() {
            Some(last) if last.len() + data.len() <= JOINED => last.extend_from_slice(data),
            _ => self.tail.push_back(data.to_vec()),
        }
    }

    async fn finish(
        mut self,
        exit: Exit,
        bounds: ViewBounds,
    ) -> Result<CommandOutcome, CommandError> {
        self.flush(OutputStream::Stdout).await?;
        self.flush(OutputStream::Stderr).await?;
        let artifact = match self.writer {
            Some(writer) => Some(writer.finish().await?),
            None => None,
        };
        let mut output = self.head;
        let mut tail: Vec<u8> = self.tail.iter().flatten().copied().collect();
        if tail.len() > Self::TAIL_BYTES {
            tail.drain(..tail.len() - Self::TAIL_BYTES);
        }
        output.append(&mut tail);
        let (view, truncated) = view(&output, self.total_bytes, artifact.as_ref(), bounds);
        Ok(CommandOutcome {
            exit,
            view,
            output,
            stdout: self.stdout.filter(|each| each.whole).map(|each| each.kept),
            total_bytes: self.total_bytes,
            artifact,
            truncated,
        })
    }
}

/// Start and end of an output as text, with a line that says what is left out
/// and where it is. Cut at line ends where one is near; bytes that are no
/// UTF-8 are replaced.
fn view(
    output: &[u8],
    total_bytes: u64,
    artifact: Option<&Artifact>,
    bounds: ViewBounds,
) -> (String, bool) {
    if total_bytes <= (bounds.head_bytes + bounds.tail_bytes) as u64 {
        return (String::from_utf8_lossy(output).into_owned(), false);
    }
    let (head, rest) = output.split_at(bounds.head_bytes.min(output.len()));
    let tail = &rest[rest.len().saturating_sub(bounds.tail_bytes)..];
    let head_end = match head.iter().rposition(|byte| *byte == b'\n') {
        Some(at) if head.len() - at <= 512 => at + 1,
        _ => last_character_boundary(head),
    };
    let tail_start = match tail.iter().position(|byte| *byte == b'\n') {
        Some(at) if at <= 512 => at + 1,
        _ => first_character_boundary(tail),
    };
    let (head, tail) = (&head[..head_end], &tail[tail_start..]);
    let left_out = total_bytes - (head.len() + tail.len()) as u64;
    let pointer = artifact.map_or(String::new(), |artifact| {
        format!("; artifact {}", artifact.id)
    });
    let mut text = String::from_utf8_lossy(head).into_owned();
    if !text.is_empty() && !text.ends_with('\n') {
        text.push('\n');
    }
    text.push_str(&format!("… {left_out} bytes left out{pointer} …\n"));
    text.push_str(&String::from_utf8_lossy(tail));
    (text, true)
}

/// Where to cut an end so that it splits no character.
fn last_character_boundary(bytes: &[u8]) -> usize {
    let start = bytes.len().saturating_sub(3);
    for at in (start..bytes.len()).rev() {
        if bytes[at] >= 0xC0 {
            let complete = std::str::from_utf8(&bytes[at..]).is_ok();
            return if complete { bytes.len() } else { at };
        }
    }
    bytes.len()
}

/// Where to cut a start so that it splits no character.
fn first_character_boundary(bytes: &[u8]) -> usize {
    let inside = |byte: &u8| (0x80..0xC0).contains(byte);
    bytes.iter().take(3).take_while(|byte| inside(byte)).count()
}

/// Why a command has no outcome.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CommandError {
    /// It was cancelled and its processes were ended.
    #[error("the command was cancelled")]
    Cancelled,
    /// The workspace cannot be had.
    #[error(transparent)]
    Workspace(#[from] WorkspaceAccessError),
    /// The agent refused or failed.
    #[error(transparent)]
    Agent(#[from] AgentError),
    /// The workspace does not know how it ended, as it was stopped meanwhile:
    /// its result says nothing. Running it anew may help.
    #[error("nobody knows how {command} ended: {why}")]
    Lost {
        /// The command.
        command: String,
        /// What is known.
        why: String,
    },
    /// The output cannot be kept.
    #[error(transparent)]
    Artifact(#[from] ArtifactError),
}

#[cfg(test)]
mod tests;
