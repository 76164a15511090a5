//! Commands in a workspace, in the daemon's words.

use serde::{Deserialize, Serialize};

use super::{credential::CommandTool, ids::ExecId};

/// What to run. Two specifications are the same when all fields are equal.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ExecSpec {
    /// Program and arguments, as bytes; no shell is involved. Not empty.
    pub argv: Vec<Vec<u8>>,
    /// Working directory, absolute; `None` means `/workspace`.
    pub cwd: Option<String>,
    /// Variables on top of the workspace's own, later ones win.
    pub environment: Vec<(String, Vec<u8>)>,
    /// Account; `None` means the workspace's.
    pub user: Option<String>,
    /// Wall time in milliseconds after which the whole tree is ended.
    pub timeout_ms: Option<u64>,
    /// Whether standard input will be written.
    pub stdin: bool,
    /// A terminal of this size; both outputs then arrive as standard output.
    pub terminal: Option<TerminalSize>,
    /// What happens to processes that outlive the leader.
    pub leftovers: Leftovers,
    /// Who starts it, which decides on the credentials it is given; the daemon's
    /// own commands have no tool and are given none. The workspace is not told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub tool: Option<CommandTool>,
}

impl ExecSpec {
    /// A command with nothing but its arguments.
    #[must_use]
    pub fn new<A: AsRef<[u8]>>(argv: impl IntoIterator<Item = A>) -> Self {
        Self {
            argv: argv.into_iter().map(|arg| arg.as_ref().to_vec()).collect(),
            cwd: None,
            environment: Vec::new(),
            user: None,
            timeout_ms: None,
            stdin: false,
            terminal: None,
            leftovers: Leftovers::Keep,
            tool: None,
        }
    }

    /// The same, started by this tool.
    #[must_use]
    pub fn by(self, tool: CommandTool) -> Self {
        Self {
            tool: Some(tool),
            ..self
        }
    }
}

/// In character cells, 1 to 65,535 each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct TerminalSize {
    /// Height.
    pub rows: u16,
    /// Width.
    pub columns: u16,
}

/// What happens to processes that outlive the leader of a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Leftovers {
    /// They live on.
    Keep,
    /// They are ended as soon as the leader has exited.
    Kill,
}

/// A command, running or ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Exec {
    /// Its id.
    pub id: ExecId,
    /// What was asked for.
    pub spec: ExecSpec,
    /// Process id of the leader in the container; 0 before it started.
    pub pid: u32,
    /// Milliseconds since the Unix epoch, by the container's clock.
    pub started_at_ms: i64,
    /// Bytes of standard output so far, those dropped included.
    pub stdout_bytes: u64,
    /// Bytes of standard error so far, those dropped included.
    pub stderr_bytes: u64,
    /// Bytes that are not kept, one gap a stream at most.
    pub gaps: Vec<OutputGap>,
    /// Bytes of standard input accepted so far.
    pub stdin_bytes: u64,
    /// Set once it has ended and its output is complete.
    pub exit: Option<Exit>,
}

/// How a command ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// What ended it.
    pub status: ExitStatus,
    /// From start to exit of the leader, in milliseconds.
    pub duration_ms: u64,
    /// Processes that were still alive when the leader exited.
    pub leftover_processes: u32,
    /// Whether the kernel ended a process of the workspace while it ran,
    /// because its memory limit was reached. Not said of one that succeeded.
    #[serde(default)]
    pub out_of_memory: bool,
}

impl std::fmt::Display for Exit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.status.fmt(f)?;
        match self.out_of_memory {
            true => f.write_str(
                ": the kernel ended a process, as the workspace's memory limit was reached",
            ),
            false => Ok(()),
        }
    }
}

/// What ended a command. Nothing is invented: an unknown fate is `Unknown`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ExitStatus {
    /// Exit status of the leader, 0 to 255.
    Code(u32),
    /// Signal that ended the leader.
    Signal(u32),
    /// The time-out in milliseconds that ended the tree.
    TimedOut(u64),
    /// The program could not be executed; the text says why.
    NotStarted(String),
    /// Nobody knows; the text says why.
    Unknown(String),
}

impl ExitStatus {
    /// Whether the leader exited with status 0.
    #[must_use]
    pub fn is_success(&self) -> bool {
        matches!(self, Self::Code(0))
    }
}

impl std::fmt::Display for ExitStatus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Code(code) => write!(f, "exit {code}"),
            Self::Signal(signal) => write!(f, "signal {signal}"),
            Self::TimedOut(ms) => write!(f, "timed out after {}s", *ms as f64 / 1000.0),
            Self::NotStarted(why) => write!(f, "not started: {why}"),
            Self::Unknown(why) => write!(f, "fate unknown: {why}"),
        }
    }
}

/// What a reader of a command's output receives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ExecEvent {
    /// First: the command as it is.
    Attached(Box<Exec>),
    /// Bytes of one stream, in order.
    Output {
        /// Which stream.
        stream: OutputStream,
        /// Offset of the first byte.
        offset: u64,
        /// The bytes.
        data: bytes::Bytes,
    },
    /// Bytes that are not kept, in their place.
    Gap(OutputGap),
    /// Last: how it ended.
    Exited(Exit),
}

/// Bytes of an output for which a quota or the disk had no room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct OutputGap {
    /// Which stream.
    pub stream: OutputStream,
    /// First byte dropped.
    pub from: u64,
    /// First byte kept after it.
    pub to: u64,
}

/// How far a reader of a command goes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Reading {
    /// To the command's exit.
    #[default]
    Follow,
    /// To the exit, without the output.
    ExitOnly,
    /// To the end of the output there is; without an exit while it runs.
    NoFollow,
}

/// What the output of commands may take in a workspace. A stream that has more
/// keeps its beginning and its end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SpoolLimits {
    /// Bytes kept of one stream of one command.
    pub stream_bytes: u64,
    /// Bytes kept of all streams; the commands that ended first lose theirs.
    pub total_bytes: u64,
    /// How long output is kept after the end of its command; `None` means for
    /// ever.
    pub ended: Option<std::time::Duration>,
}

impl Default for SpoolLimits {
    fn default() -> Self {
        Self {
            stream_bytes: 1 << 30,
            total_bytes: 8 << 30,
            ended: None,
        }
    }
}

/// One of a command's outputs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OutputStream {
    /// Standard output, or the terminal.
    Stdout,
    /// Standard error.
    Stderr,
}

/// Offsets of the first bytes wanted from a command's outputs.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct OutputOffsets {
    /// In standard output.
    pub stdout: u64,
    /// In standard error.
    pub stderr: u64,
}

/// How to signal a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SignalTarget {
    /// This signal to the leader's process group.
    Group(i32),
    /// This signal to every process of the command.
    Tree(i32),
    /// End the tree: SIGTERM, then SIGKILL after this many milliseconds.
    End {
        /// Time between the two.
        grace_ms: u32,
    },
}
