//! The agent in a workspace: commands as durable objects, and file tools.
//!
//! What comes back is untrusted: the adapter bounds and checks it.

use std::sync::Arc;

use async_trait::async_trait;
use bytes::Bytes;
use futures_util::stream::BoxStream;

use crate::domain::{
    exec::{Exec, ExecEvent, ExecSpec, OutputOffsets, Reading, SignalTarget, TerminalSize},
    files::{
        FileInfo, FileText, FileUpdate, FileWrite, GlobQuery, GrepLine, GrepQuery, Listing,
        ReadRange, Receipt,
    },
    ids::{ExecId, StepId},
};

use super::trees::TreesPort;

/// A live link to the agent of one workspace.
///
/// Every call has a deadline of the adapter's; streams have none and end with
/// the link. A link that breaks fails the calls under way; what they started in
/// the workspace lives on and is found again by id.
#[async_trait]
pub trait AgentPort: Send + Sync {
    /// Round trip with no work.
    async fn ping(&self) -> Result<(), AgentError>;

    /// Starts a command or finds it; `true` when this call started it.
    async fn start(&self, id: &ExecId, spec: &ExecSpec) -> Result<(Exec, bool), AgentError>;

    /// Starts a command or finds it, and streams it from its first byte.
    fn run(
        &self,
        id: &ExecId,
        spec: &ExecSpec,
    ) -> BoxStream<'static, Result<ExecEvent, AgentError>>;

    /// Streams a command from the given offsets, as far as `reading` says.
    fn attach(
        &self,
        id: &ExecId,
        offsets: OutputOffsets,
        reading: Reading,
    ) -> BoxStream<'static, Result<ExecEvent, AgentError>>;

    /// Feeds standard input; bytes below the offset already accepted are
    /// dropped. Returns the bytes accepted in all.
    async fn write_stdin(
        &self,
        id: &ExecId,
        offset: u64,
        data: Bytes,
        eof: bool,
    ) -> Result<u64, AgentError>;

    /// Signals a command; one that has ended is left as it is, and so is one that
    /// the step has signalled already. An agent of an older daemon signals it again.
    async fn signal(
        &self,
        id: &ExecId,
        step: Option<&StepId>,
        target: SignalTarget,
    ) -> Result<(), AgentError>;

    /// Sets the size of a command's terminal.
    async fn resize(&self, id: &ExecId, size: TerminalSize) -> Result<(), AgentError>;

    /// One command as it is now; `None` when the agent never heard of it.
    async fn get(&self, id: &ExecId) -> Result<Option<Exec>, AgentError>;

    /// Commands the agent knows, newest first.
    async fn list(&self, running_only: bool) -> Result<Vec<Exec>, AgentError>;

    /// Forgets a command that has ended.
    async fn remove(&self, id: &ExecId) -> Result<(), AgentError>;

    /// Reads lines of a text file.
    async fn read_file(&self, path: &str, range: &ReadRange) -> Result<FileText, AgentError>;

    /// Writes a whole file, at most once for a step.
    async fn write_file(&self, step: &StepId, write: &FileWrite) -> Result<Receipt, AgentError>;

    /// Writes and removes several files, all or none and at most once for a step;
    /// the same step finishes what a killed agent had begun. An agent of an older
    /// daemon refuses.
    async fn change_files(
        &self,
        step: &StepId,
        updates: &[FileUpdate],
    ) -> Result<Vec<Receipt>, AgentError>;

    /// Entries of a directory by name.
    async fn list_directory(
        &self,
        path: &str,
        max_entries: Option<u32>,
    ) -> Result<Listing<FileInfo>, AgentError>;

    /// Files by glob, newest first.
    async fn glob(&self, query: &GlobQuery) -> Result<Listing<FileInfo>, AgentError>;

    /// Lines by regular expression.
    async fn grep(&self, query: &GrepQuery) -> Result<Listing<GrepLine>, AgentError>;

    /// One path, not following a link; `None` when there is nothing.
    async fn stat(&self, path: &str) -> Result<Option<FileInfo>, AgentError>;

    /// Unpacks a tar stream below a directory.
    async fn upload(
        &self,
        directory: &str,
        step: Option<&StepId>,
        archive: BoxStream<'static, Bytes>,
    ) -> Result<Uploaded, AgentError>;

    /// Packs a file or directory as a tar stream.
    fn download(&self, path: &str) -> BoxStream<'static, Result<Bytes, AgentError>>;

    /// What a mutating tool did under a step id, a receipt for each file; none
    /// when it never finished.
    async fn receipts(&self, step: &StepId) -> Result<Vec<Receipt>, AgentError>;

    /// Bytes on disk of every volume of the workspace, counted by walking through
    /// them; `None` from an agent of an older daemon.
    async fn volume_bytes(&self) -> Result<Option<u64>, AgentError> {
        Ok(None)
    }

    /// Its way to whole trees; `None` for an agent that has none, as those of
    /// older daemons.
    fn trees(&self) -> Option<Arc<dyn TreesPort>> {
        None
    }
}

/// What an upload unpacked.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Uploaded {
    /// Entries of the archive.
    pub entries: u64,
    /// Bytes of file content.
    pub content_bytes: u64,
}

/// Why an agent did not do what it was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum AgentError {
    /// The agent refused, with one of the codes of its contract.
    #[error("{message}")]
    Refused {
        /// Stable code: "NOT_FOUND".
        code: String,
        /// What failed, on what, and what to do, for a person.
        message: String,
    },
    /// No link to the agent, or it broke; what was started may live on.
    #[error("the link to the workspace's agent is down: {0}")]
    Unreachable(String),
    /// No answer within the deadline; what was started may live on.
    #[error("the workspace's agent did not answer {call} within {seconds} s")]
    Deadline {
        /// The call.
        call: &'static str,
        /// The deadline.
        seconds: u64,
    },
    /// The answer broke the contract.
    #[error("the workspace's agent broke its contract in {call}: {message}")]
    Protocol {
        /// The call.
        call: &'static str,
        /// How.
        message: String,
    },
}

impl AgentError {
    /// The agent's code, where it refused.
    #[must_use]
    pub fn code(&self) -> Option<&str> {
        match self {
            Self::Refused { code, .. } => Some(code),
            Self::Unreachable(_) | Self::Deadline { .. } | Self::Protocol { .. } => None,
        }
    }

    /// Whether the outcome of the call is unknown and the same call, by the
    /// same id, may be made again.
    #[must_use]
    pub fn is_transient(&self) -> bool {
        matches!(self, Self::Unreachable(_) | Self::Deadline { .. })
    }
}
